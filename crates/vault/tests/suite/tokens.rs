//! Tokens, as clients of Vault make and use them.

use crate::rig::{ROOT, Rig, With};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{self, Delete, List, Read, Write};

/// As a token's holder.
async fn by(rig: &Rig, token: &str, verb: Verb, path: &str, body: Value) -> (u16, Value) {
    rig.ask(verb, path, body, With { token: Some(token), ..With::default() }).await
}

/// The new token's `auth`.
async fn made(rig: &Rig, path: &str, body: Value) -> Value {
    let (status, answer) = rig.root(Write, path, body.clone()).await;
    assert_eq!(status, 200, "{body} {answer}");
    answer["auth"].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn a_token_is_made_as_vault_makes_it_and_tells_the_same_of_itself() {
    let rig = Rig::new().await;
    let asked = json!({
        "policies": ["Ci", "deploy"], "meta": {"user": "armon"}, "ttl": "1h", "explicit_max_ttl": "2h",
        "display_name": "build #7", "num_uses": 9, "renewable": true,
    });
    let auth = made(&rig, "auth/token/create", asked).await;
    let token = text(&auth["client_token"]).to_owned();
    let mut expected = json!({
        "client_token": token, "accessor": auth["accessor"], "policies": ["ci", "default", "deploy"],
        "token_policies": ["ci", "default", "deploy"], "identity_policies": null, "metadata": {"user": "armon"},
        "lease_duration": 3600, "renewable": true, "entity_id": "", "token_type": "service", "orphan": false,
        "mfa_requirement": null, "num_uses": 9,
    });
    assert_eq!(auth, expected);
    rig.clock.advance(Duration::from_secs(10));
    let (status, looked) = by(&rig, &token, Read, "auth/token/lookup-self", Value::Null).await;
    let shown = json!({
        "accessor": auth["accessor"], "creation_time": 1_700_000_000, "creation_ttl": 3600,
        "display_name": "token-build--7", "entity_id": "", "expire_time": "2023-11-14T23:13:20Z",
        "explicit_max_ttl": 7200, "id": token, "issue_time": "2023-11-14T22:13:20Z", "meta": {"user": "armon"},
        "num_uses": 8, "orphan": false, "path": "auth/token/create", "policies": ["ci", "default", "deploy"],
        "renewable": true, "ttl": 3590, "type": "service",
    });
    assert_eq!((status, &looked["data"]), (200, &shown));
    // by others: by the token, and by the accessor, which does not tell the token
    let accessor = json!({"accessor": auth["accessor"]});
    for (path, body, id) in [
        ("auth/token/lookup", json!({"token": token}), token.as_str()),
        ("auth/token/lookup-accessor", accessor.clone(), ""),
    ] {
        let found = rig.done(Write, path, body).await;
        assert_eq!(
            found,
            {
                let mut shown = shown.clone();
                shown["id"] = json!(id);
                shown
            },
            "{path}"
        );
    }
    for (path, body, client_token) in [
        ("auth/token/renew", json!({"token": token, "increment": "30m"}), token.as_str()),
        ("auth/token/renew-accessor", accessor, ""),
    ] {
        let (status, answer) = rig.root(Write, path, body).await;
        let secs = if path.ends_with("renew") { 1800 } else { 3600 };
        expected["client_token"] = json!(client_token);
        expected["lease_duration"] = json!(secs);
        expected["num_uses"] = json!(8);
        assert_eq!((status, &answer["auth"]), (200, &expected), "{path}");
    }
    let (status, answer) = by(&rig, &token, Write, "auth/token/renew-self", json!({"increment": 3600 * 5})).await;
    assert_eq!((status, &answer["auth"]["lease_duration"]), (200, &json!(7190)), "{answer}");
    assert!(text(&answer["warnings"][0]).contains("capped"));
    let looked = by(&rig, &token, Read, "auth/token/lookup-self", Value::Null).await.1;
    assert_eq!(looked["data"]["last_renewal"], "2023-11-14T22:13:30Z");
    assert_eq!(looked["data"]["last_renewal_time"], 1_700_000_010);
}

#[tokio::test]
async fn what_root_makes_without_policies_works_as_root_and_has_an_end() {
    let rig = Rig::new().await;
    // as Terraform and hvac ask
    for (path, body, ttl, orphan) in [
        ("auth/token/create", json!({}), 768 * 3600, false),
        ("auth/token/create", Value::Null, 768 * 3600, false),
        (
            "auth/token/create",
            json!({"ttl": "20m", "display_name": "terraform", "renewable": false, "num_uses": 0}),
            1200,
            false,
        ),
        (
            "auth/token/create",
            json!({"policies": null, "meta": null, "period": null, "no_parent": false}),
            768 * 3600,
            false,
        ),
        ("auth/token/create", json!({"policies": ["root"]}), 768 * 3600, false),
        ("auth/token/create-orphan", json!({}), 768 * 3600, true),
        ("auth/token/create", json!({"no_parent": true}), 768 * 3600, true),
        ("auth/token/create", json!({"ttl": "8760h"}), 768 * 3600, false),
    ] {
        let auth = made(&rig, path, body.clone()).await;
        assert_eq!(auth["policies"], json!(["root"]), "{body}");
        assert_eq!((&auth["lease_duration"], &auth["orphan"]), (&json!(ttl), &json!(orphan)), "{body}");
        let token = text(&auth["client_token"]);
        let (status, looked) = by(&rig, token, Read, "auth/token/lookup-self", Value::Null).await;
        assert_eq!((status, &looked["data"]["path"]), (200, &json!(path)));
        assert_eq!(by(&rig, token, Write, "secret/data/a", json!({"data": {"b": "c"}})).await.0, 200);
    }
    let own = rig.done(Read, "auth/token/lookup-self", Value::Null).await;
    assert_eq!((&own["expire_time"], &own["ttl"], &own["path"]), (&Value::Null, &json!(0), &json!("auth/token/root")));
    assert_eq!((&own["id"], &own["policies"]), (&json!(ROOT), &json!(["root"])));
}

#[tokio::test]
async fn a_malformed_request_names_its_field_and_nothing_is_made() {
    let rig = Rig::new().await;
    for (path, body, field) in [
        ("create", json!({"policies": ["a b"]}), "policies"),
        ("create", json!({"policies": {"a": 1}}), "policies"),
        ("create", json!({"policies": vec!["p"; 65]}), "policies"),
        ("create", json!({"ttl": "forever"}), "ttl"),
        ("create", json!({"ttl": -1}), "ttl"),
        ("create", json!({"num_uses": -1}), "num_uses"),
        ("create", json!({"num_uses": "many"}), "num_uses"),
        ("create", json!({"type": "other"}), "type"),
        ("create", json!({"policies": ["a"], "type": "batch", "num_uses": 2}), "num_uses"),
        ("create", json!({"policies": ["root"], "type": "batch"}), "policies"),
        ("create", json!({"renewable": "perhaps"}), "renewable"),
        ("create", json!({"meta": ["a"]}), "meta"),
        ("create", json!({"meta": {"a": "x".repeat(600)}}), "meta"),
        ("create", json!({"id": "chosen"}), "id"),
        ("create", json!({"entity_alias": "e"}), "entity_alias"),
        ("create/nowhere", json!({}), "unknown role"),
        ("lookup-accessor", json!({}), "accessor"),
        ("lookup-accessor", json!({"accessor": "x"}), "invalid accessor"),
        ("renew", json!({}), "token"),
        ("renew", json!({"token": "sr.nobodys-token-at-all"}), "token not found"),
        ("renew-accessor", json!({"accessor": "0".repeat(32)}), "invalid accessor"),
        ("revoke", json!({}), "token"),
        ("revoke-accessor", json!({"accessor": "0".repeat(32)}), "invalid accessor"),
        ("revoke-orphan", json!({"token": "sr.nobodys-token-at-all"}), "not found"),
        ("roles/r", json!({"token_type": "odd"}), "token_type"),
        ("roles/r", json!({"allowed_policies": ["root"]}), "allowed_policies"),
        ("roles/r", json!({"allowed_policies_glob": ["a b"]}), "allowed_policies_glob"),
        ("roles/r", json!({"token_bound_cidrs": ["300.0.0.0/8"]}), "token_bound_cidrs"),
        ("roles/r", json!({"path_suffix": "a/b"}), "path_suffix"),
        ("roles/r", json!({"token_period": "x"}), "token_period"),
        ("roles/r!", json!({}), "role_name"),
    ] {
        let (answer, records) = rig.recorded(rig.root(Write, &format!("auth/token/{path}"), body.clone())).await;
        let told = answer.1["errors"][0].as_str().unwrap_or_default();
        assert!(answer.0 == 400 && told.contains(field), "{path} {body}: {answer:?}");
        assert_eq!(records.len(), 1, "{path} {body}");
    }
    assert_eq!(rig.root(List, "auth/token/roles", Value::Null).await.0, 404);
    let others = rig.done(List, "auth/token/accessors", Value::Null).await;
    assert_eq!(others["keys"].as_array().unwrap().len(), 1);
    // what is no token may not be asked about, and there is nothing to take back
    let unknown = json!({"token": "sr.nobodys-token-at-all"});
    assert_eq!(rig.root(Write, "auth/token/lookup", unknown.clone()).await.0, 403);
    assert_eq!(rig.root(Write, "auth/token/revoke", unknown).await.0, 204);
    for (verb, path, status) in [
        (Read, "auth/token/create", 405),
        (Delete, "auth/token/revoke", 405),
        (Read, "auth/token/other", 404),
        (Read, "auth/token/roles/a/b", 404),
        (Read, "auth/token/roles/absent", 404),
        (Delete, "auth/token/roles/absent", 204),
    ] {
        assert_eq!(rig.root(verb, path, Value::Null).await.0, status, "{verb:?} {path}");
    }
}

#[tokio::test]
async fn revoking_takes_children_with_it_and_orphaning_lets_them_go() {
    let rig = Rig::new().await;
    let alive = async |token: &str| by(&rig, token, Read, "auth/token/lookup-self", Value::Null).await.0 == 200;
    for (path, named, child_lives) in [
        ("auth/token/revoke", "token", false),
        ("auth/token/revoke-accessor", "accessor", false),
        ("auth/token/revoke-self", "self", false),
        ("auth/token/revoke-orphan", "token", true),
    ] {
        let parent = made(&rig, "auth/token/create", json!({})).await;
        let token = text(&parent["client_token"]);
        let (_, child) = by(&rig, token, Write, "auth/token/create", json!({"policies": ["p"]})).await;
        let child = text(&child["auth"]["client_token"]).to_owned();
        let (batch_status, batch) =
            by(&rig, token, Write, "auth/token/create", json!({"policies": ["p"], "type": "batch"})).await;
        assert_eq!(batch_status, 200, "{batch}");
        let batch = text(&batch["auth"]["client_token"]).to_owned();
        assert!(alive(token).await && alive(&child).await && alive(&batch).await);
        let (status, body) = match named {
            "token" => rig.root(Write, path, json!({"token": token})).await,
            "accessor" => rig.root(Write, path, json!({"accessor": parent["accessor"]})).await,
            _ => by(&rig, token, Write, path, Value::Null).await,
        };
        assert_eq!((status, body), (204, Value::Null), "{path}");
        assert!(!alive(token).await && !alive(&batch).await, "{path}");
        assert_eq!(alive(&child).await, child_lives, "{path}");
    }
    let batch = made(&rig, "auth/token/create", json!({"policies": ["p"], "type": "batch"})).await;
    assert_eq!((&batch["token_type"], &batch["renewable"]), (&json!("batch"), &json!(false)));
    for path in ["auth/token/revoke", "auth/token/renew"] {
        let (status, body) = rig.root(Write, path, json!({"token": batch["client_token"]})).await;
        assert!(status == 400 && text(&body["errors"][0]).contains("batch tokens cannot be"), "{body}");
    }
    let (status, body) = rig.root(Write, "auth/token/tidy", Value::Null).await;
    assert!(status == 202 && body["warnings"][0].is_string(), "{status} {body}");
}

#[tokio::test]
async fn a_role_gives_what_it_says_and_a_write_changes_what_it_names() {
    let rig = Rig::new().await;
    let role = "auth/token/roles/nomad";
    rig.done(
        Write,
        role,
        json!({
            "allowed_policies": "app,web", "orphan": true, "token_period": "1h", "renewable": "true",
            "path_suffix": "jobs", "token_bound_cidrs": ["192.0.2.0/24"], "token_type": "service",
        }),
    )
    .await;
    rig.done(Write, role, json!({"token_explicit_max_ttl": 7200, "disallowed_policies_glob": ["adm*"]})).await;
    let shown = rig.done(Read, role, Value::Null).await;
    assert_eq!(
        shown,
        json!({
            "allowed_entity_aliases": [], "allowed_policies": ["app", "web"], "allowed_policies_glob": [],
            "disallowed_policies": [], "disallowed_policies_glob": ["adm*"], "explicit_max_ttl": 7200, "name": "nomad",
            "orphan": true, "path_suffix": "jobs", "period": 3600, "renewable": true,
            "token_bound_cidrs": ["192.0.2.0/24"], "token_explicit_max_ttl": 7200, "token_no_default_policy": false,
            "token_num_uses": 0, "token_period": 3600, "token_type": "service",
        })
    );
    assert_eq!(rig.done(List, "auth/token/roles", Value::Null).await, json!({"keys": ["nomad"]}));
    let auth = made(&rig, "auth/token/create/nomad", json!({"policies": ["app"]})).await;
    assert_eq!(
        (&auth["orphan"], &auth["policies"], &auth["lease_duration"]),
        (&json!(true), &json!(["app", "default"]), &json!(3600))
    );
    let looked = rig.done(Write, "auth/token/lookup", json!({"token": auth["client_token"]})).await;
    assert_eq!(
        (&looked["path"], &looked["role"], &looked["period"]),
        (&json!("auth/token/create/nomad/jobs"), &json!("nomad"), &json!(3600))
    );
    assert_eq!(looked["bound_cidrs"], json!(["192.0.2.0/24"]));
    for (body, status) in [(json!({"policies": ["admin"]}), 403), (json!({"policies": ["app"], "type": "batch"}), 400)]
    {
        assert_eq!(rig.root(Write, "auth/token/create/nomad", body).await.0, status);
    }
    rig.done(Delete, role, Value::Null).await;
    assert_eq!(rig.root(Read, role, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_bound_token_counts_beside_its_certificate_only() {
    let rig = Rig::new().await;
    let with = With { token: Some(ROOT), bind: Some(7), ..With::default() };
    let (_, answer) = rig.ask(Write, "auth/token/create", json!({"policies": ["p"]}), with).await;
    let token = text(&answer["auth"]["client_token"]);
    for (certificate, status) in [(None, 403), (Some(8), 403), (Some(7), 200)] {
        let with = With { token: Some(token), certificate, ..With::default() };
        assert_eq!(rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0, status, "{certificate:?}");
    }
}

#[tokio::test]
async fn a_tokens_own_rules_decide_and_every_request_leaves_one_record() {
    let rig = Rig::new().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    rig.done(Write, "sys/policies/acl/maker", json!({"policy": policy})).await;
    rig.done(
        Write,
        "sys/policies/acl/mute",
        json!({"policy": r#"path "auth/token/lookup-self" { capabilities = ["deny"] }"#}),
    )
    .await;
    let maker = made(&rig, "auth/token/create", json!({"policies": ["maker"], "no_default_policy": true})).await;
    let mute = made(&rig, "auth/token/create", json!({"policies": ["mute"], "no_default_policy": true})).await;
    let (maker, mute) = (text(&maker["client_token"]), text(&mute["client_token"]));
    let other = json!({"token": mute});
    for (token, verb, path, body, status) in [
        (maker, Read, "auth/token/lookup-self", Value::Null, 200),
        (mute, Read, "auth/token/lookup-self", Value::Null, 403),
        // the default policy would give it
        (maker, Write, "auth/token/renew-self", Value::Null, 403),
        (maker, Write, "auth/token/create", json!({}), 200),
        (maker, Write, "auth/token/create", json!({"policies": ["mute"]}), 403),
        (maker, Write, "auth/token/create", json!({"no_parent": true}), 403),
        (maker, Write, "auth/token/create-orphan", json!({}), 403),
        (maker, Write, "auth/token/lookup", other.clone(), 403),
        (maker, Write, "auth/token/revoke", other.clone(), 403),
        (maker, Write, "auth/token/revoke-orphan", other, 403),
        (maker, List, "auth/token/accessors", Value::Null, 403),
        (maker, Write, "auth/token/roles/r", json!({}), 403),
        (maker, Write, "auth/token/tidy", Value::Null, 403),
        (mute, Write, "auth/token/revoke-self", Value::Null, 204),
        (mute, Write, "auth/token/revoke-self", Value::Null, 403),
    ] {
        let (answer, records) = rig.recorded(by(&rig, token, verb, path, body.clone())).await;
        assert_eq!((answer.0, records.len()), (status, 1), "{path} {body} {answer:?}");
    }
}

#[tokio::test]
async fn a_wrapped_token_is_named_by_its_accessor_until_it_is_fetched() {
    let rig = Rig::new().await;
    let with = With { token: Some(ROOT), wrap_secs: Some(60), ..With::default() };
    let (status, wrapped) = rig.ask(Write, "auth/token/create", json!({"policies": ["p"]}), with).await;
    let info = &wrapped["wrap_info"];
    assert_eq!((status, &wrapped["auth"], &info["creation_path"]), (200, &Value::Null, &json!("auth/token/create")));
    let accessor = json!({"accessor": info["wrapped_accessor"]});
    assert_eq!(rig.done(Write, "auth/token/lookup-accessor", accessor).await["policies"], json!(["default", "p"]));
    let (status, answer) = by(&rig, text(&info["token"]), Write, "sys/wrapping/unwrap", Value::Null).await;
    assert_eq!((status, &answer["auth"]["accessor"]), (200, &info["wrapped_accessor"]));
    let token = text(&answer["auth"]["client_token"]);
    assert_eq!(by(&rig, token, Read, "auth/token/lookup-self", Value::Null).await.0, 200);
}
