//! AppRole: machines that log in.

use crate::rig::{ROOT, Rig, With, everything_stored};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};

const ROLE: &str = "auth/approle/role/web";
const REFUSED: &str = "invalid role or secret ID";

async fn rig() -> Rig {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/approle", json!({"type": "approle"})).await;
    rig
}

/// A role as `body` says: its RoleID.
async fn role(rig: &Rig, name: &str, body: Value) -> String {
    rig.done(Write, &format!("auth/approle/role/{name}"), body).await;
    text(&rig.done(Read, &format!("auth/approle/role/{name}/role-id"), Value::Null).await["role_id"])
}

/// A SecretID and its accessor.
async fn secret_id(rig: &Rig, name: &str, body: Value) -> (String, String) {
    let made = rig.done(Write, &format!("auth/approle/role/{name}/secret-id"), body).await;
    (text(&made["secret_id"]), text(&made["secret_id_accessor"]))
}

async fn login(rig: &Rig, role_id: &str, secret_id: &str, with: With<'_>) -> (u16, Value) {
    rig.ask(Write, "auth/approle/login", json!({"role_id": role_id, "secret_id": secret_id}), with).await
}

async fn looked_up(rig: &Rig, name: &str, accessor: &str) -> (u16, Value) {
    let path = format!("auth/approle/role/{name}/secret-id-accessor/lookup");
    let (status, body) = rig.root(Write, &path, json!({"secret_id_accessor": accessor, "include_spent": true})).await;
    (status, body["data"].clone())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn refusal() -> (u16, Value) {
    (400, json!({"errors": [REFUSED]}))
}

fn causes(records: &[Value]) -> BTreeMap<String, usize> {
    let mut causes = BTreeMap::new();
    for record in records {
        if let Some(cause) = record["outcome"]["failed"].as_str() {
            *causes.entry(cause.to_owned()).or_default() += 1;
        }
    }
    causes
}

/// Whether a token is good from where and beside which it is used.
async fn is_alive(rig: &Rig, token: &str, with: With<'_>) -> bool {
    let with = With { token: Some(token), ..with };
    rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0 == 200
}

#[tokio::test]
async fn a_role_is_administered_as_a_whole_and_field_by_field() {
    let rig = rig().await;
    assert_eq!(rig.root(List, "auth/approle/role", Value::Null).await.0, 404);
    assert_eq!(rig.root(Read, ROLE, Value::Null).await.0, 404);
    let body = json!({"token_policies": "b,A", "token_ttl": "20m", "token_max_ttl": 1800, "secret_id_num_uses": 40});
    let role_id = role(&rig, "Web", body).await;
    let shown = rig.done(Read, ROLE, Value::Null).await;
    for (field, value) in [
        ("bind_secret_id", json!(true)),
        ("local_secret_ids", json!(false)),
        ("secret_id_bound_cidrs", json!([])),
        ("secret_id_num_uses", json!(40)),
        ("secret_id_ttl", json!(0)),
        ("token_bound_cidrs", json!([])),
        ("token_explicit_max_ttl", json!(0)),
        ("token_max_ttl", json!(1800)),
        ("token_no_default_policy", json!(false)),
        ("token_num_uses", json!(0)),
        ("token_period", json!(0)),
        ("token_policies", json!(["a", "b"])),
        ("token_ttl", json!(1200)),
        ("token_type", json!("default")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    // what is not named stays
    rig.done(Write, ROLE, json!({"token_num_uses": 3})).await;
    let again = rig.done(Read, ROLE, Value::Null).await;
    assert_eq!((&again["token_ttl"], &again["token_num_uses"]), (&json!(1200), &json!(3)));
    assert_eq!(text(&rig.done(Read, &format!("{ROLE}/role-id"), Value::Null).await["role_id"]), role_id);
    for (segment, field, sent, shown, unset) in [
        ("policies", "token_policies", json!(["x", "y"]), json!(["x", "y"]), json!([])),
        ("secret-id-num-uses", "secret_id_num_uses", json!(7), json!(7), json!(0)),
        ("secret-id-ttl", "secret_id_ttl", json!("1h"), json!(3600), json!(0)),
        ("secret-id-bound-cidrs", "secret_id_bound_cidrs", json!("10.0.0.0/8"), json!(["10.0.0.0/8"]), json!([])),
        ("token-bound-cidrs", "token_bound_cidrs", json!(["10.0.0.0/8"]), json!(["10.0.0.0/8"]), json!([])),
        ("token-ttl", "token_ttl", json!(60), json!(60), json!(0)),
        ("token-max-ttl", "token_max_ttl", json!("2m"), json!(120), json!(0)),
        ("token-num-uses", "token_num_uses", json!(0), json!(0), json!(0)),
        ("period", "token_period", json!(30), json!(30), json!(0)),
        ("local-secret-ids", "local_secret_ids", json!(true), json!(true), json!(false)),
        ("bind-secret-id", "bind_secret_id", json!(true), json!(true), json!(true)),
    ] {
        let path = format!("{ROLE}/{segment}");
        assert_eq!(rig.root(Write, &path, json!({field: sent})).await.0, 204, "{segment}");
        assert_eq!(rig.done(Read, &path, Value::Null).await, json!({field: shown}), "{segment}");
        assert_eq!(rig.root(Delete, &path, Value::Null).await.0, 204, "{segment}");
        assert_eq!(rig.done(Read, &path, Value::Null).await, json!({field: unset}), "{segment}");
        assert_eq!(rig.root(Write, &path, json!({})).await.0, 400, "{segment}");
        assert_eq!(rig.root(Write, &path.replace("web", "none"), json!({field: sent})).await.0, 404, "{segment}");
    }
    role(&rig, "api", json!({})).await;
    assert_eq!(rig.done(List, "auth/approle/role", Value::Null).await, json!({"keys": ["api", "web"]}));
    assert_eq!(rig.done(List, "auth/approle/role?after=api&limit=1", Value::Null).await, json!({"keys": ["web"]}));
    rig.done(Write, &format!("{ROLE}/role-id"), json!({"role_id": "chosen"})).await;
    assert_eq!(login(&rig, &role_id, "x", With::default()).await, refusal());
    let taken = rig.root(Write, "auth/approle/role/api/role-id", json!({"role_id": "chosen"})).await;
    assert_eq!(taken, (400, json!({"errors": ["role_id: in use by another role"]})));
    assert_eq!(rig.root(Delete, ROLE, Value::Null).await.0, 204);
    assert_eq!(rig.root(Delete, ROLE, Value::Null).await.0, 204);
    assert_eq!(rig.root(Read, ROLE, Value::Null).await.0, 404);
}

#[tokio::test]
async fn what_is_malformed_is_refused_by_its_name_and_what_is_not_there_is_not_found() {
    let rig = rig().await;
    let body = json!({
        "secret_id_num_uses": 5, "secret_id_ttl": 60,
        "secret_id_bound_cidrs": "10.0.0.0/8", "token_bound_cidrs": "10.1.0.0/16",
    });
    role(&rig, "web", body).await;
    let many: BTreeMap<String, &str> = (0..63).map(|i| (i.to_string(), "v")).collect();
    for (path, body, field) in [
        (ROLE, json!({"bind_secret_id": "perhaps"}), "bind_secret_id"),
        (ROLE, json!({"secret_id_num_uses": -1}), "secret_id_num_uses"),
        (ROLE, json!({"secret_id_ttl": "1w"}), "secret_id_ttl"),
        (ROLE, json!({"secret_id_bound_cidrs": "10.0.0.1/8"}), "secret_id_bound_cidrs"),
        (ROLE, json!({"token_policies": [" Root "]}), "token_policies"),
        (ROLE, json!({"role_id": "x".repeat(513)}), "role_id"),
        (ROLE, json!({"role_id": " x"}), "role_id"),
        (&format!("{ROLE}/policies"), json!({"token_policies": "root"}), "token_policies"),
        (&format!("{ROLE}/secret-id"), json!({"num_uses": 6}), "num_uses"),
        (&format!("{ROLE}/secret-id"), json!({"num_uses": 0}), "num_uses"),
        (&format!("{ROLE}/secret-id"), json!({"ttl": 61}), "ttl"),
        (&format!("{ROLE}/secret-id"), json!({"ttl": 0}), "ttl"),
        (&format!("{ROLE}/secret-id"), json!({"cidr_list": ["10.0.0.0/7"]}), "cidr_list"),
        (&format!("{ROLE}/secret-id"), json!({"cidr_list": ["10.0.0.0/8", "192.0.2.0/24"]}), "cidr_list"),
        (&format!("{ROLE}/secret-id"), json!({"token_bound_cidrs": "10.0.0.0/8"}), "token_bound_cidrs"),
        (&format!("{ROLE}/secret-id"), json!({"metadata": "no JSON"}), "metadata"),
        (&format!("{ROLE}/secret-id"), json!({"metadata": {"k": "v".repeat(513)}}), "metadata"),
        (&format!("{ROLE}/secret-id"), json!({"metadata": many}), "metadata"),
        (&format!("{ROLE}/secret-id"), json!({"bind_certificate": "07"}), "bind_certificate"),
        (&format!("{ROLE}/custom-secret-id"), json!({}), "secret_id"),
        (&format!("{ROLE}/custom-secret-id"), json!({"secret_id": "hunter2"}), "secret_id"),
        (&format!("{ROLE}/custom-secret-id"), json!({"secret_id": "0123456789abcde".repeat(9)}), "secret_id"),
        (&format!("{ROLE}/secret-id/lookup"), json!({}), "secret_id"),
        (&format!("{ROLE}/secret-id-accessor/destroy"), json!({}), "secret_id_accessor"),
        ("auth/approle/login", json!({"secret_id": "x"}), "role_id"),
        ("auth/approle/login", json!({"role_id": ["x"]}), "role_id"),
        ("auth/approle/role/a b", json!({}), "role_name"),
    ] {
        let (status, told) = rig.root(Write, &path.replace(' ', "%20"), body.clone()).await;
        let told = told["errors"][0].as_str().unwrap_or_default();
        assert!(status == 400 && told.starts_with(&format!("{field}: ")), "{path} {body}: {status} {told}");
    }
    for (verb, path, status) in [
        (Write, "auth/approle/role/none/secret-id", 404),
        (List, "auth/approle/role/none/secret-id", 404),
        (List, "auth/approle/role/web/secret-id", 404),
        (Read, "auth/approle/role/none/role-id", 404),
        (Read, "auth/approle/role/none/token-ttl", 404),
        (Read, "auth/approle/role/web/nothing", 404),
        (Read, "auth/approle/role/web/secret-id/nothing", 404),
        (Read, "auth/approle/login", 405),
        (Read, "auth/approle/tidy/secret-id", 405),
        (Delete, "auth/approle/role/web/secret-id", 405),
        (List, "auth/approle/role/web/policies", 405),
        (Read, "auth/approle/elsewhere", 404),
    ] {
        assert_eq!(rig.root(verb, path, Value::Null).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_login_buys_the_token_that_its_role_and_secret_id_say() {
    let rig = rig().await;
    let body = json!({"token_policies": ["a", "b"], "token_ttl": 60, "token_max_ttl": 90, "secret_id_num_uses": 2});
    let role_id = role(&rig, "web", body).await;
    let (secret, accessor) =
        secret_id(&rig, "web", json!({"metadata": "{\"app\": \"shop\", \"role_name\": \"x\"}"})).await;
    let (status, body) = login(&rig, &role_id, &secret, With::default()).await;
    assert_eq!(status, 200, "{body}");
    let auth = &body["auth"];
    let meta = json!({"app": "shop", "role_name": "web", "secret_id_accessor": accessor});
    for (field, value) in [
        ("policies", json!(["a", "b", "default"])),
        ("token_policies", json!(["a", "b", "default"])),
        ("metadata", meta.clone()),
        ("lease_duration", json!(60)),
        ("renewable", json!(true)),
        ("token_type", json!("service")),
        ("orphan", json!(true)),
        ("num_uses", json!(0)),
    ] {
        assert_eq!(auth[field], value, "{field}");
    }
    let token = text(&auth["client_token"]);
    let with = With { token: Some(&token), ..With::default() };
    let looked = rig.ask(Read, "auth/token/lookup-self", Value::Null, with.clone()).await.1["data"].clone();
    for (field, value) in [
        ("display_name", json!("approle")),
        ("path", json!("auth/approle/login")),
        ("meta", meta),
        ("accessor", auth["accessor"].clone()),
    ] {
        assert_eq!(looked[field], value, "{field}");
    }
    // the role's entity stands behind it
    let entity = text(&auth["entity_id"]);
    assert_eq!(looked["entity_id"], json!(entity));
    let whole = rig.done(Read, &format!("identity/entity/id/{entity}"), Value::Null).await;
    assert_eq!((&whole["aliases"][0]["name"], &whole["aliases"].as_array().unwrap().len()), (&json!(role_id), &1));
    assert_eq!(
        login(&rig, &role_id, &secret_id(&rig, "web", json!({})).await.0, With::default()).await.1["auth"]["entity_id"],
        json!(entity)
    );
    // renewed it goes no further than the role's maximum
    rig.clock.advance(Duration::from_secs(50));
    let renewed = rig.ask(Write, "auth/token/renew-self", json!({"increment": 600}), with).await;
    assert_eq!(renewed.1["auth"]["lease_duration"], 40, "{renewed:?}");
    let (_, left) = looked_up(&rig, "web", &accessor).await;
    assert_eq!((&left["secret_id_num_uses"], &left["violations"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_parallel_logins_as_many_win_as_there_are_uses() {
    let rig = Arc::new(rig().await);
    for (uses, kind) in [(1, "service"), (1, "batch"), (5, "service"), (63, "batch")] {
        let role_id = role(&rig, "web", json!({"secret_id_num_uses": uses, "token_type": kind})).await;
        let (secret, accessor) = secret_id(&rig, "web", json!({})).await;
        let before = rig.records().len();
        let attempts: Vec<_> = (0..64)
            .map(|_| {
                let (rig, role_id, secret) = (Arc::clone(&rig), role_id.clone(), secret.clone());
                tokio::spawn(async move { login(&rig, &role_id, &secret, With::default()).await })
            })
            .collect();
        let mut tokens = Vec::new();
        for attempt in attempts {
            let (status, body) = attempt.await.unwrap();
            match status {
                200 => tokens.push(text(&body["auth"]["client_token"])),
                _ => assert_eq!((status, body), refusal()),
            }
        }
        assert_eq!(tokens.len(), uses, "{uses} {kind}");
        let told = rig.records().split_off(before);
        // each attempt left one leaf
        assert_eq!((told.len(), causes(&told)["APPROLE_SECRET_ID_REPLAYED"]), (64, 64 - uses));
        for token in &tokens {
            assert!(is_alive(&rig, token, With::default()).await);
        }
        let (_, left) = looked_up(&rig, "web", &accessor).await;
        assert_eq!((&left["secret_id_num_uses"], &left["violations"]), (&json!(0), &json!(64 - uses)));
        assert!(left["spent_time"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_share_a_store_spend_a_use_once() {
    let rig = Arc::new(rig().await);
    let nodes = Arc::new([rig.another_node(), rig.another_node(), rig.another_node()]);
    for uses in [1, 4, 1, 4] {
        let role_id = role(&rig, "web", json!({"secret_id_num_uses": uses})).await;
        let (secret, _) = secret_id(&rig, "web", json!({})).await;
        let attempts: Vec<_> = (0..48)
            .map(|i| {
                let (rig, nodes, role_id, secret) =
                    (Arc::clone(&rig), Arc::clone(&nodes), role_id.clone(), secret.clone());
                tokio::spawn(async move {
                    let with = With { node: nodes.get(i % 3), ..With::default() };
                    login(&rig, &role_id, &secret, with).await.0
                })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            won += usize::from(attempt.await.unwrap() == 200);
        }
        assert_eq!(won, uses);
    }
}

#[tokio::test]
async fn all_refusals_wear_one_face_and_the_records_tell_them_apart() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"secret_id_num_uses": 1, "secret_id_ttl": 60})).await;
    let (spent, accessor) = secret_id(&rig, "web", json!({})).await;
    let (fresh, _) = secret_id(&rig, "web", json!({})).await;
    let (elsewhere, _) = secret_id(&rig, "web", json!({"cidr_list": "198.51.100.0/24"})).await;
    let (bound, _) = secret_id(&rig, "web", json!({"bind_certificate": "07".repeat(32)})).await;
    assert_eq!(login(&rig, &role_id, &spent, With::default()).await.0, 200);
    for (role_id, secret, after, cause) in [
        ("nobody", fresh.as_str(), 0, "APPROLE_ROLE_ID_UNKNOWN"),
        (&role_id, "never-was", 0, "APPROLE_SECRET_ID_UNKNOWN"),
        (&role_id, "", 0, "APPROLE_SECRET_ID_UNKNOWN"),
        (&role_id, &accessor, 0, "APPROLE_SECRET_ID_UNKNOWN"),
        (&role_id, &spent, 0, "APPROLE_SECRET_ID_REPLAYED"),
        (&role_id, &elsewhere, 0, "APPROLE_ADDRESS_OTHER"),
        (&role_id, &bound, 0, "APPROLE_CERTIFICATE_OTHER"),
        (&role_id, &spent, 59, "APPROLE_SECRET_ID_REPLAYED"),
        // at its end it is over, though nobody swept it up
        (&role_id, &fresh, 60, "APPROLE_SECRET_ID_EXPIRED"),
        (&role_id, &elsewhere, 60, "APPROLE_SECRET_ID_EXPIRED"),
        (&role_id, &spent, 60, "APPROLE_SECRET_ID_EXPIRED"),
    ] {
        rig.clock.set(crate::rig::START.plus(Duration::from_secs(after)));
        let (outcome, told) = rig.recorded(login(&rig, role_id, secret, With::default())).await;
        assert_eq!(outcome, refusal(), "{cause}");
        assert_eq!((told.len(), &told[0]["outcome"]["failed"]), (1, &json!(cause)), "{after} {cause}");
    }
    assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap(), 4);
    let (_, told) = rig.recorded(login(&rig, &role_id, &spent, With::default())).await;
    assert_eq!(told[0]["outcome"]["failed"], "APPROLE_SECRET_ID_UNKNOWN");
    assert_eq!(rig.root(List, &format!("{ROLE}/secret-id"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn an_expired_secret_id_never_logs_in() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"secret_id_ttl": "10m"})).await;
    for (ttl, after, status) in
        [(json!(null), 599, 200), (json!(null), 600, 400), (json!(5), 4, 200), (json!("5s"), 5, 400)]
    {
        let (secret, accessor) = secret_id(&rig, "web", json!({"ttl": ttl})).await;
        // known from memory before, too
        assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, 200);
        rig.clock.advance(Duration::from_secs(after));
        assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, status, "{ttl} {after}");
        let path = format!("{ROLE}/secret-id-accessor/lookup");
        let looked = rig.root(Write, &path, json!({"secret_id_accessor": accessor})).await.0;
        assert_eq!(looked, if status == 200 { 200 } else { 404 });
    }
}

#[tokio::test]
async fn addresses_and_certificates_are_looked_at_before_a_use_is_spent() {
    let rig = rig().await;
    let inside = || With { from: Some("10.1.2.3:1"), certificate: Some(7), ..With::default() };
    for (of_role, of_secret, from) in [
        (json!({"secret_id_bound_cidrs": "10.0.0.0/8"}), json!({}), Some("192.0.2.7:1")),
        (json!({"secret_id_bound_cidrs": "10.0.0.0/8"}), json!({"cidr_list": "10.1.0.0/16"}), Some("10.2.0.1:1")),
        (json!({}), json!({"cidr_list": ["10.1.0.0/16"]}), Some("[fd00::1]:1")),
        (json!({"token_bound_cidrs": "10.0.0.0/8"}), json!({}), Some("11.0.0.0:1")),
        (json!({"token_bound_cidrs": "10.0.0.0/8"}), json!({"token_bound_cidrs": "10.1.0.0/16"}), Some("10.2.0.1:1")),
        (json!({"secret_id_bound_cidrs": "10.0.0.0/8"}), json!({}), Some("nowhere")),
        (json!({}), json!({"bind_certificate": "07".repeat(32)}), None),
    ] {
        rig.done(Delete, ROLE, Value::Null).await;
        let role_id = role(&rig, "web", of_role.clone()).await;
        let mut body = json!({"num_uses": 1});
        body.as_object_mut().unwrap().extend(of_secret.as_object().unwrap().clone());
        let (secret, accessor) = secret_id(&rig, "web", body).await;
        let outside = match from {
            Some(from) => With { from: Some(from), ..inside() },
            None => With { certificate: Some(8), ..inside() },
        };
        for _ in 0..3 {
            assert_eq!(login(&rig, &role_id, &secret, outside.clone()).await, refusal(), "{of_role} {of_secret}");
        }
        let (_, left) = looked_up(&rig, "web", &accessor).await;
        assert_eq!((&left["secret_id_num_uses"], &left["violations"]), (&json!(1), &json!(3)), "{of_role} {of_secret}");
        let (status, body) = login(&rig, &role_id, &secret, inside()).await;
        assert_eq!(status, 200, "{of_role} {of_secret} {body}");
        // what bound the login binds the token, where it is the token's
        let token = text(&body["auth"]["client_token"]);
        assert!(is_alive(&rig, &token, inside()).await);
        let bound = of_role.get("token_bound_cidrs").is_some() || from.is_none();
        assert_eq!(is_alive(&rig, &token, outside).await, !bound, "{of_role} {of_secret}");
    }
    // a role that was narrowed since narrows what was made before
    let role_id = role(&rig, "web", json!({"secret_id_bound_cidrs": ""})).await;
    let (secret, _) = secret_id(&rig, "web", json!({"cidr_list": "10.0.0.0/8"})).await;
    rig.done(Write, ROLE, json!({"secret_id_bound_cidrs": "10.1.0.0/16"})).await;
    assert_eq!(login(&rig, &role_id, &secret, inside()).await, refusal());
}

#[tokio::test]
async fn an_accessor_counts_within_its_role_and_its_mount_only() {
    let rig = rig().await;
    rig.done(Write, "sys/auth/team/approle", json!({"type": "approle"})).await;
    let role_id = role(&rig, "web", json!({})).await;
    role(&rig, "other", json!({})).await;
    rig.done(Write, "auth/team/approle/role/web", json!({"role_id": role_id})).await;
    let (secret, accessor) = secret_id(&rig, "web", json!({})).await;
    for place in ["auth/approle/role/other", "auth/team/approle/role/web"] {
        for (act, body, status) in [
            ("secret-id-accessor/lookup", json!({"secret_id_accessor": accessor}), 404),
            ("secret-id-accessor/destroy", json!({"secret_id_accessor": accessor}), 404),
            ("secret-id/lookup", json!({"secret_id": secret}), 204),
            ("secret-id/destroy", json!({"secret_id": secret}), 204),
        ] {
            assert_eq!(rig.root(Write, &format!("{place}/{act}"), body).await.0, status, "{place} {act}");
        }
    }
    let elsewhere = json!({"role_id": role_id, "secret_id": secret});
    assert_eq!(rig.ask(Write, "auth/team/approle/login", elsewhere, With::default()).await, refusal());
    assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, 200);
    let looked = rig.done(Write, &format!("{ROLE}/secret-id/lookup"), json!({"secret_id": secret})).await;
    assert_eq!(looked["secret_id_accessor"], json!(accessor));
    assert_eq!(looked["expiration_time"], "0001-01-01T00:00:00Z");
    assert_eq!(rig.done(List, &format!("{ROLE}/secret-id"), Value::Null).await, json!({"keys": [accessor]}));
    for verb in [Write, Delete] {
        let (secret, accessor) = secret_id(&rig, "web", json!({})).await;
        assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, 200);
        let path = format!("{ROLE}/secret-id-accessor/destroy");
        assert_eq!(rig.root(verb, &path, json!({"secret_id_accessor": accessor})).await.0, 204);
        assert_eq!(login(&rig, &role_id, &secret, With::default()).await, refusal());
        assert_eq!(rig.root(verb, &path, json!({"secret_id_accessor": accessor})).await.0, 404);
    }
    rig.done(Write, &format!("{ROLE}/secret-id/destroy"), json!({"secret_id": secret})).await;
    assert_eq!(login(&rig, &role_id, &secret, With::default()).await, refusal());
}

#[tokio::test]
async fn a_wrapped_secret_id_is_fetched_and_logs_in_and_reads() {
    let rig = rig().await;
    let policy = "path \"secret/data/app\" { capabilities = [\"read\"] }";
    rig.done(Write, "sys/policies/acl/reader", json!({"policy": policy})).await;
    rig.done(Write, "secret/data/app", json!({"data": {"pw": "inside"}})).await;
    for bind in [None, Some(7)] {
        let role_id = role(&rig, "web", json!({"token_policies": "reader", "secret_id_num_uses": 1})).await;
        let root = With { token: Some(ROOT), wrap_secs: Some(60), bind, ..With::default() };
        let (status, body) = rig.ask(Write, &format!("{ROLE}/secret-id"), Value::Null, root).await;
        assert_eq!((status, &body["data"]), (200, &Value::Null));
        let info = &body["wrap_info"];
        let accessor = text(&info["wrapped_accessor"]);
        let (_, looked) = looked_up(&rig, "web", &accessor).await;
        let bound = bind.map_or(Value::Null, |byte| json!(hex(byte)));
        assert_eq!((&looked["secret_id_accessor"], &looked["bound_certificate"]), (&json!(accessor), &bound));
        let wrapping = text(&info["token"]);
        let as_bearer = || With { token: Some(&wrapping), certificate: bind, ..With::default() };
        let (_, told) = rig.ask(Write, "sys/wrapping/lookup", Value::Null, as_bearer()).await;
        assert_eq!(told["data"]["creation_path"], json!(format!("{ROLE}/secret-id")));
        if bind.is_some() {
            let thief = With { certificate: Some(8), ..as_bearer() };
            assert_eq!(rig.ask(Write, "sys/wrapping/unwrap", Value::Null, thief).await.0, 400);
        }
        let (status, body) = rig.ask(Write, "sys/wrapping/unwrap", Value::Null, as_bearer()).await;
        assert_eq!((status, &body["data"]["secret_id_accessor"]), (200, &json!(accessor)));
        let secret = text(&body["data"]["secret_id"]);
        if bind.is_some() {
            for certificate in [None, Some(8)] {
                let thief = With { certificate, ..With::default() };
                let (outcome, told) = rig.recorded(login(&rig, &role_id, &secret, thief)).await;
                assert_eq!(outcome, refusal());
                assert_eq!((told.len(), &told[0]["outcome"]["failed"]), (1, &json!("APPROLE_CERTIFICATE_OTHER")));
            }
        }
        let own = With { certificate: bind, ..With::default() };
        let (status, body) = login(&rig, &role_id, &secret, own.clone()).await;
        assert_eq!(status, 200, "{body}");
        let token = text(&body["auth"]["client_token"]);
        for (certificate, status) in [(bind, 200), (None, if bind.is_some() { 403 } else { 200 })] {
            let with = With { token: Some(&token), certificate, ..With::default() };
            let (found, body) = rig.ask(Read, "secret/data/app", Value::Null, with).await;
            assert_eq!(found, status, "{bind:?} {certificate:?} {body}");
        }
        assert_eq!(login(&rig, &role_id, &secret, own).await, refusal());
    }
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

#[tokio::test]
async fn a_login_may_bind_its_token_and_not_to_another_than_its_secret_ids() {
    let rig = rig().await;
    for (of_secret, wish, kind, bound) in [
        (None, Some(7), "service", true),
        (None, Some(7), "batch", true),
        (Some(7), Some(7), "service", true),
        (Some(7), None, "batch", true),
        (None, None, "service", false),
    ] {
        let role_id = role(&rig, "web", json!({"token_type": kind})).await;
        let (secret, _) = secret_id(&rig, "web", json!({"bind_certificate": of_secret.map(hex)})).await;
        let with = With { certificate: Some(7), bind: wish, ..With::default() };
        let (status, body) = login(&rig, &role_id, &secret, with).await;
        assert_eq!(status, 200, "{body}");
        let token = text(&body["auth"]["client_token"]);
        for (certificate, alive) in [(Some(7), true), (Some(8), !bound), (None, !bound)] {
            assert_eq!(is_alive(&rig, &token, With { certificate, ..With::default() }).await, alive);
        }
    }
    let role_id = role(&rig, "web", json!({})).await;
    let (secret, accessor) = secret_id(&rig, "web", json!({"bind_certificate": hex(7), "num_uses": 1})).await;
    let with = With { certificate: Some(7), bind: Some(9), ..With::default() };
    let (status, body) = login(&rig, &role_id, &secret, with).await;
    assert!(status == 400 && text(&body["errors"][0]).starts_with("X-Strongroom-Bind-Certificate: "), "{body}");
    assert_eq!(looked_up(&rig, "web", &accessor).await.1["secret_id_num_uses"], 1);
}

#[tokio::test]
async fn a_chosen_secret_id_is_strong_and_never_taken_twice() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({})).await;
    let path = format!("{ROLE}/custom-secret-id");
    let chosen = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let body = json!({"secret_id": chosen, "num_uses": 1});
    let made = rig.done(Write, &path, body.clone()).await;
    assert_eq!((&made["secret_id"], &made["secret_id_num_uses"]), (&json!(chosen), &json!(1)));
    assert_eq!(rig.root(Write, &path, body.clone()).await.0, 400);
    assert_eq!(login(&rig, &role_id, chosen, With::default()).await.0, 200);
    // nor while it is remembered
    assert_eq!(rig.root(Write, &path, body.clone()).await.0, 400);
    rig.clock.advance(Duration::from_secs(32 * 86_400));
    assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap(), 1);
    assert_eq!(rig.root(Write, &path, body).await.0, 200);
}

#[tokio::test]
async fn a_role_that_is_deleted_takes_its_secret_ids_with_it() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"secret_id_ttl": 60})).await;
    let (first, _) = secret_id(&rig, "web", json!({"ttl": 1})).await;
    assert_eq!(login(&rig, &role_id, &first, With::default()).await.0, 200);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap(), 1);
    // with the role's entity
    let empty = everything_stored(&rig).await.len();
    let mut secrets = Vec::new();
    for _ in 0..60 {
        secrets.push(secret_id(&rig, "web", json!({})).await);
    }
    let (secret, accessor) = &secrets[0];
    assert_eq!(login(&rig, &role_id, secret, With::default()).await.0, 200);
    rig.done(Delete, ROLE, Value::Null).await;
    assert_eq!(login(&rig, &role_id, secret, With::default()).await, refusal());
    // a role of the same names is another one
    role(&rig, "web", json!({"role_id": role_id})).await;
    let (_, told) = rig.recorded(login(&rig, &role_id, secret, With::default())).await;
    assert_eq!(told[0]["outcome"]["failed"], "APPROLE_SECRET_ID_UNKNOWN");
    assert_eq!(looked_up(&rig, "web", accessor).await.0, 404);
    rig.clock.advance(Duration::from_secs(60));
    let (status, told) = rig.root(Write, "auth/approle/tidy/secret-id", Value::Null).await;
    assert_eq!(status, 202);
    assert!(text(&told["warnings"][0]).starts_with("Tidy operation successfully started."));
    // the token that was bought is left: its record, its accessor, its end; the role's own two entries were made anew, and
    // its entity is known by no alias any more, which were two
    assert_eq!(everything_stored(&rig).await.len(), empty + 3 - 2);
}

#[tokio::test]
async fn a_stateless_login_stores_nothing_and_a_role_without_secret_ids_is_bound_otherwise() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"token_type": "batch", "token_ttl": 60})).await;
    let (secret, accessor) = secret_id(&rig, "web", json!({})).await;
    // the first makes the role's entity
    assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, 200);
    let before = everything_stored(&rig).await;
    let (outcome, told) = rig.recorded(login(&rig, &role_id, &secret, With::default())).await;
    let (status, body) = outcome;
    let auth = &body["auth"];
    assert_eq!((status, &auth["token_type"], &auth["renewable"]), (200, &json!("batch"), &json!(false)), "{body}");
    assert_eq!(everything_stored(&rig).await, before);
    // its one leaf is the new token's, not a stranger's
    assert_eq!((told.len(), &told[0]["outcome"], told[0].get("changes")), (1, &json!("done"), None), "{told:?}");
    assert_eq!(told[0]["subject"]["accessor"], auth["accessor"]);
    assert!(is_alive(&rig, &text(&auth["client_token"]), With::default()).await);
    // what is destroyed counts at once on this node, from memory or not
    let path = format!("{ROLE}/secret-id-accessor/destroy");
    rig.done(Write, &path, json!({"secret_id_accessor": accessor})).await;
    assert_eq!(login(&rig, &role_id, &secret, With::default()).await, refusal());

    let unbound = rig.root(Write, "auth/approle/role/open", json!({"bind_secret_id": false})).await;
    assert_eq!(unbound.0, 400);
    let body = json!({"bind_secret_id": false, "secret_id_bound_cidrs": "10.0.0.0/8", "token_ttl": 60});
    let role_id = role(&rig, "open", body).await;
    for (from, status) in [("10.0.0.1:1", 200), ("192.0.2.7:1", 400)] {
        let with = With { from: Some(from), ..With::default() };
        let (found, body) = rig.ask(Write, "auth/approle/login", json!({"role_id": role_id}), with).await;
        assert_eq!(found, status, "{from} {body}");
    }
    assert_eq!(rig.root(Delete, "auth/approle/role/open/secret-id-bound-cidrs", Value::Null).await.0, 400);
    assert_eq!(rig.root(Write, "auth/approle/role/open/secret-id", Value::Null).await.0, 400);
}

#[tokio::test]
async fn a_login_may_ask_for_less_than_its_role_and_its_secret_id_give_and_never_for_more() {
    let rig = rig().await;
    let role_id = role(
        &rig,
        "web",
        json!({"token_policies": ["a", "b"], "token_ttl": 60, "token_num_uses": 3, "token_bound_cidrs": "192.0.2.0/24"}),
    )
    .await;
    let (secret, _) = secret_id(&rig, "web", json!({"token_bound_cidrs": "192.0.2.0/25"})).await;
    let from = With { from: Some("192.0.2.7:1"), ..With::default() };
    let ask = async |wish: &Value| {
        let mut body = json!({"role_id": role_id, "secret_id": secret});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        rig.ask(Write, "auth/approle/login", body, from.clone()).await
    };
    for wish in [
        json!({"token_ttl": 61}),
        // less than a second would be none, and none the mount's: more than the role's
        json!({"token_ttl": "1ms"}),
        json!({"token_ttl": "999ms"}),
        json!({"token_num_uses": 4}),
        json!({"token_bound_cidrs": "192.0.2.128/25"}),
        json!({"token_bound_cidrs": "0.0.0.0/0"}),
        json!({"token_policies": "c"}),
        json!({"token_policies": "a,root"}),
    ] {
        let field = wish.as_object().unwrap().keys().next().unwrap().clone();
        let (status, body) = ask(&wish).await;
        assert_eq!(status, 400, "{wish}");
        assert!(body.to_string().contains(&field), "{wish} {body}");
    }
    for (wish, ttl, uses, policies) in [
        (json!({}), 60, 3, json!(["a", "b", "default"])),
        (json!({"token_ttl": 0, "token_num_uses": 0, "token_bound_cidrs": ""}), 60, 3, json!(["a", "b", "default"])),
        (json!({"token_ttl": "1s", "token_num_uses": 1, "token_policies": "a"}), 1, 1, json!(["a"])),
    ] {
        let (outcome, told) = rig.recorded(ask(&wish)).await;
        let auth = &outcome.1["auth"];
        let found = (&auth["lease_duration"], &auth["num_uses"], &auth["policies"]);
        assert_eq!(found, (&json!(ttl), &json!(uses), &policies), "{wish} {}", outcome.1);
        assert_eq!(told.last().unwrap()["proof"], "approle role:web by:secret_id");
    }
    // of a token that is bound narrower than its SecretID says
    let narrow = text(&ask(&json!({"token_bound_cidrs": "192.0.2.7/32"})).await.1["auth"]["client_token"]);
    for (from, alive) in [("192.0.2.8:1", false), ("192.0.2.7:1", true)] {
        assert_eq!(is_alive(&rig, &narrow, With { from: Some(from), ..With::default() }).await, alive, "{from}");
    }
}

#[tokio::test]
async fn a_disabled_entity_neither_logs_in_nor_spends_a_use() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"secret_id_num_uses": 2})).await;
    let (secret, accessor) = secret_id(&rig, "web", json!({})).await;
    let entity = text(&login(&rig, &role_id, &secret, With::default()).await.1["auth"]["entity_id"]);
    // in the words of any other refusal: that the SecretID is right is nobody's to hear
    for (disabled, status, left) in [(true, 400, 1), (false, 200, 0)] {
        rig.done(Write, &format!("identity/entity/id/{entity}"), json!({"disabled": disabled})).await;
        assert_eq!(login(&rig, &role_id, &secret, With::default()).await.0, status);
        assert_eq!(looked_up(&rig, "web", &accessor).await.1["secret_id_num_uses"], left);
    }
}

#[tokio::test]
async fn no_secret_stands_in_the_store_or_the_log() {
    let rig = rig().await;
    let role_id = role(&rig, "web", json!({"secret_id_num_uses": 2})).await;
    let (secret, accessor) = secret_id(&rig, "web", json!({"metadata": {"k": "canary-metadata"}})).await;
    let chosen = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    rig.done(Write, &format!("{ROLE}/custom-secret-id"), json!({"secret_id": chosen})).await;
    let token = text(&login(&rig, &role_id, &secret, With::default()).await.1["auth"]["client_token"]);
    for refused in [With { from: Some("x"), ..With::default() }, With::default(), With::default()] {
        login(&rig, &role_id, &secret, refused).await;
    }
    for path in ["secret-id/lookup", "secret-id/destroy"] {
        rig.root(Write, &format!("{ROLE}/{path}"), json!({"secret_id": chosen})).await;
    }
    let records = rig.records();
    assert!(records.len() > 10);
    let log = records.iter().map(Value::to_string).collect::<String>();
    let stored = everything_stored(&rig).await;
    assert!(stored.len() > 10);
    for canary in [&secret, &role_id, &accessor, chosen, &token, "canary-metadata"] {
        assert!(!log.contains(canary), "{canary} stands in the log");
        for (path, value) in &stored {
            let bytes = canary.as_bytes();
            let found = path.contains(canary) || value.windows(bytes.len()).any(|some| some == bytes);
            assert!(!found, "{canary} stands at {path}");
        }
    }
}

#[tokio::test]
async fn who_is_disabled_or_moved_elsewhere_is_let_in_by_nobodys_memory() {
    let rig = rig().await;
    let node = crate::jwt::deaf_node(&rig);
    for token_type in ["batch", "service"] {
        let body = json!({"token_type": token_type, "secret_id_num_uses": 0, "token_policies": "p"});
        let role_id = role(&rig, token_type, body).await;
        let (secret, _) = secret_id(&rig, token_type, json!({})).await;
        let enter = async || login(&rig, &role_id, &secret, With { node: Some(&node), ..With::default() }).await;
        let (status, answer) = enter().await;
        assert_eq!(status, 200, "{answer}");
        let first = text(&answer["auth"]["entity_id"]);
        for (disabled, expected) in [(false, 200), (true, 400), (true, 400), (false, 200)] {
            rig.done(Write, &format!("identity/entity/id/{first}"), json!({"disabled": disabled})).await;
            assert_eq!(enter().await.0, expected, "{token_type} {disabled}");
        }
        // its alias is another's now: so is whoever logs in by it, and so is the record
        let found = rig.done(Read, &format!("identity/entity/id/{first}"), Value::Null).await;
        let other = text(&rig.done(Write, "identity/entity", json!({"name": token_type})).await["id"]);
        let moved = json!({"canonical_id": other});
        rig.done(Write, &format!("identity/entity-alias/id/{}", text(&found["aliases"][0]["id"])), moved).await;
        let ((status, answer), records) = rig.recorded(enter()).await;
        assert_eq!((status, text(&answer["auth"]["entity_id"])), (200, other.clone()), "{token_type}");
        assert_eq!(records.last().unwrap()["entity"], json!(other), "{token_type}: {records:?}");
    }
}
