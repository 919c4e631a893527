//! What policies demand of a request, over the whole pipeline.

use crate::rig::{ROOT, Rig, With};
use serde_json::{Value, json};
use vault::Verb::{Delete, List, Patch, Read, Write};

/// A token with one policy of this text.
async fn token(rig: &Rig, name: &str, text: &str) -> String {
    rig.done(Write, &format!("sys/policies/acl/{name}"), json!({"policy": text})).await;
    let info = identity::RequestInfo::new("t".into(), "192.0.2.7:4711".into(), rig.clock_now());
    let root = rig.vault.identities().authenticate(Some(ROOT.as_bytes()), None, &info).await.unwrap();
    let command = identity::CreateToken::parse(&[name.to_owned()], "", 3600, 0, &[]).unwrap();
    let made = rig.vault.identities().create_token(&root, &info, command).await.unwrap();
    String::from_utf8(made.token.expose().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_that_asks_with_more_than_its_policy_allows_is_refused_and_told() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/mounts/kv", json!({"type": "kv", "options": {"version": "1"}})).await;
    let token = token(
        &rig,
        "form",
        r#"path "kv/*" {
             capabilities = ["create", "update", "read", "list", "delete"]
             required_parameters = ["name"]
             allowed_parameters = { "name" = ["app-*", 7], "env" = ["dev", "test"], "note" = [] }
             denied_parameters = { "note" = ["secret"] }
           }
           path "kv/free" { capabilities = ["create", "update", "read"] }
           path "kv/wrapped" { capabilities = ["read"] min_wrapping_ttl = "1m" max_wrapping_ttl = "1h" }
           path "sys/capabilities-self" { capabilities = ["update"] }"#,
    )
    .await;
    rig.done(Write, "kv/wrapped", json!({"a": "b"})).await;
    let refused = (403, json!({"errors": ["permission denied"]}));
    for (verb, path, body, wrap_secs, status) in [
        (Write, "kv/a", json!({"name": "app-1", "env": "dev"}), None, 204),
        (Write, "kv/a", json!({"name": 7, "env": ["dev", "test"], "note": {"any": "thing"}}), None, 403),
        (Write, "kv/a", json!({"name": 7, "env": ["dev", "test"], "note": "x"}), None, 204),
        (Write, "kv/a", json!({"name": "app-1", "env": "prod"}), None, 403),
        (Write, "kv/a", json!({"name": "app-1", "env": ["dev", "prod"]}), None, 403),
        (Write, "kv/a", json!({"name": "web-1"}), None, 403),
        (Write, "kv/a", json!({"name": null}), None, 403),
        (Write, "kv/a", json!({"env": "dev"}), None, 403),
        (Write, "kv/a", json!({"name": "app-1", "other": 1}), None, 403),
        (Write, "kv/a", json!({"name": "app-1", "note": "x,secret"}), None, 403),
        (Write, "kv/a?note=secret", json!({"name": "app-1"}), None, 403),
        // reading asks with nothing; the query's parameters are some
        (Read, "kv/a", Value::Null, None, 403),
        (Read, "kv/a?name=app-1", Value::Null, None, 200),
        (List, "kv/", Value::Null, None, 200),
        (Delete, "kv/a", Value::Null, None, 204),
        (Write, "kv/free", json!({"whatever": 1}), None, 204),
        (Patch, "kv/free", json!({"whatever": 1}), None, 403),
        (Read, "kv/wrapped", Value::Null, None, 403),
        (Read, "kv/wrapped", Value::Null, Some(59), 403),
        (Read, "kv/wrapped", Value::Null, Some(3601), 403),
        (Read, "kv/wrapped", Value::Null, Some(60), 200),
    ] {
        let with = With { token: Some(&token), wrap_secs, ..With::default() };
        let (answer, records) = rig.recorded(rig.ask(verb, path, body.clone(), with)).await;
        assert_eq!(answer.0, status, "{verb:?} {path} {body}: {}", answer.1);
        // a wrapped answer is told of twice: that it was read, and that it was put away
        let leaves = if status == 200 && wrap_secs.is_some() { 2 } else { 1 };
        assert_eq!(records.len(), leaves, "{verb:?} {path} {body}");
        let decided = (records[0]["decision"].as_str().unwrap(), records[0]["rule"].as_str());
        if status == 403 {
            assert_eq!(answer, refused);
            let rule = if verb == Patch { None } else { Some("form") };
            assert_eq!((decided.0, decided.1.filter(|rule| !rule.is_empty())), ("denied", rule), "{path} {body}");
        } else {
            assert_eq!(decided, ("allowed", Some("form")), "{path} {body}");
        }
        // what was asked with stands in no record
        assert!(!records[0].to_string().contains("secret") || path.contains("secret"), "{records:?}");
    }
    // who asks what it may do is told what some request may
    let body = json!({"paths": ["kv/a", "kv/wrapped"]});
    let (_, told) =
        rig.ask(Write, "sys/capabilities-self", body, With { token: Some(&token), ..With::default() }).await;
    assert_eq!(told["data"]["kv/wrapped"], json!(["read"]));
    assert_eq!(told["data"]["kv/a"], json!(["create", "delete", "list", "read", "update"]));
}

/// What identity decides once more is told what the request asks with; what nobody shows is refused.
#[tokio::test]
async fn limits_hold_where_another_domain_decides_too() {
    let rig = Rig::new().await;
    let token = token(
        &rig,
        "author",
        r#"path "sys/policies/acl/*" {
             capabilities = ["create", "update"]
             allowed_parameters = { "policy" = ["path \"a\"*"] }
           }
           path "kms/keys" { capabilities = ["create", "update"] required_parameters = ["spec"] }"#,
    )
    .await;
    let write = async |text: &str| {
        let with = With { token: Some(&token), ..With::default() };
        rig.ask(Write, "sys/policies/acl/x", json!({"policy": text}), with).await.0
    };
    assert_eq!(write(r#"path "a" { policy = "read" }"#).await, 204);
    assert_eq!(write(r#"path "b" { policy = "read" }"#).await, 403);
    let info = identity::RequestInfo::new("t".into(), "192.0.2.7:4711".into(), rig.clock_now());
    let by = rig.vault.identities().authenticate(Some(token.as_bytes()), None, &info).await.unwrap();
    let decided = identity::decide(by.acl(), "kms/keys", identity::Capability::Update);
    assert_eq!(decided.verdict, identity::Verdict::Deny { rule: "author" });
}
