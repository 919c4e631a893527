//! What is decided on is what is served, however it is spelled; and what may be created may not be taken over.

use crate::rig::{Rig, With, minted};
use serde_json::{Value, json};
use std::sync::Arc;
use vault::Verb::{Delete, List, Read, Write};

fn with(token: &str) -> With<'_> {
    With { token: Some(token), ..With::default() }
}

#[tokio::test]
async fn a_denial_holds_for_every_spelling() {
    let rig = Rig::new().await;
    for (path, body) in [
        ("sys/auth/userpass", json!({"type": "userpass"})),
        ("sys/auth/approle", json!({"type": "approle"})),
        ("sys/mounts/transit", json!({"type": "transit"})),
        ("transit/keys/prod", json!({})),
        ("auth/userpass/users/admin", json!({"password": "correct horse", "policies": "default"})),
        ("auth/approle/role/admin", json!({})),
    ] {
        rig.done(Write, path, body).await;
    }
    let policy = r#"
        path "*" { capabilities = ["create", "read", "update", "delete", "list"] }
        path "auth/userpass/users/admin" { capabilities = ["deny"] }
        path "auth/userpass/users/admin/*" { capabilities = ["deny"] }
        path "auth/approle/role/admin" { capabilities = ["deny"] }
        path "auth/approle/role/admin/*" { capabilities = ["deny"] }
        path "transit/decrypt/prod" { capabilities = ["deny"] }
        path "secret/config" { capabilities = ["deny"] }
        path "sys/policies/acl/root-like" { capabilities = ["deny"] }
        path "sys/mounts/secret" { capabilities = ["deny"] }
    "#;
    let token = minted(&rig, "most", policy).await;
    for (verb, path, status) in [
        (Write, "auth/userpass/users/admin/password", 403),
        (Write, "auth/userpass/users/ADMIN/password", 403),
        (Write, "auth/userpass/users/Admin/", 403),
        (Write, "auth/approle/role/Admin/secret-id", 403),
        (Read, "auth/approle/role/ADMIN/role-id", 403),
        (Write, "transit/decrypt/prod/", 403),
        (Write, "secret/config", 403),
        (Write, "secret/config/x", 404),
        (Write, "sys/policies/acl/Root-Like", 403),
        (Read, "sys/mounts/secret/", 403),
        // not what sudo guards, in any spelling
        (Write, "sys/leases/tidy", 403),
        (Write, "sys/leases/tidy/", 403),
        // auth methods are not administered as secrets engines
        (Delete, "sys/mounts/auth/approle", 400),
        (Write, "sys/mounts/auth/evil", 400),
        (Read, "sys/mounts/auth/token/tune", 200),
        (Write, "sys/mounts/auth/token/tune", 403),
        (Write, "sys/mounts/auth/token/tune/", 403),
    ] {
        let body = json!({"password": "another horse", "type": "kv", "policy": "", "ciphertext": "x"});
        let body = if verb == Write { body } else { Value::Null };
        let (found, said) = rig.ask(verb, path, body, with(&token)).await;
        assert_eq!(found, status, "{path}: {said}");
    }
    assert_eq!(rig.ask(List, "auth/userpass/users/", Value::Null, with(&token)).await.0, 200);
    assert_eq!(rig.root(Write, "sys/mounts/kms", json!({"type": "kv"})).await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_create_takes_nothing_over_however_often_it_is_tried() {
    let rig = Arc::new(Rig::new().await);
    rig.done(Write, "sys/mounts/old", json!({"type": "kv"})).await;
    rig.done(Write, "sys/auth/approle", json!({"type": "approle"})).await;
    let policy = r#"path "secret/data/*" { capabilities = ["create"] }
                    path "old/*" { capabilities = ["create"] }
                    path "auth/approle/role/*" { capabilities = ["create"] }"#;
    let token = minted(&rig, "creator", policy).await;
    for n in 0..20 {
        for (path, body) in [
            (format!("secret/data/{n}"), json!({"data": {}})),
            (format!("old/{n}"), json!({"a": 1})),
            (format!("auth/approle/role/r{n}"), json!({"token_policies": "x"})),
        ] {
            let tries = (0..4).map(|_| {
                let (rig, token, path, body) = (Arc::clone(&rig), token.clone(), path.clone(), body.clone());
                tokio::spawn(async move { rig.ask(Write, &path, body, with(&token)).await.0 })
            });
            let mut made = 0;
            for one in tries.collect::<Vec<_>>() {
                let status = one.await.unwrap();
                assert!(matches!(status, 200 | 204 | 403), "{path}: {status}");
                made += usize::from(status != 403);
            }
            assert_eq!(made, 1, "{path}");
        }
    }
}

#[tokio::test]
async fn who_may_create_destroys_nothing_and_who_may_update_need_not_create() {
    let rig = Rig::new().await;
    let policy = |capability: &str| format!(r#"path "secret/*" {{ capabilities = ["{capability}"] }}"#);
    let creates = minted(&rig, "creates", &policy("create")).await;
    let updates = minted(&rig, "updates", &policy("update")).await;
    rig.done(Write, "secret/data/there", json!({"data": {}})).await;
    for (path, updated) in [
        ("secret/promote/there", 200),
        ("secret/promote/nowhere", 404),
        ("secret/delete/there", 204),
        ("secret/delete/nowhere", 204),
        ("secret/undelete/there", 204),
        ("secret/undelete/nowhere", 204),
        ("secret/destroy/there", 204),
        ("secret/destroy/nowhere", 204),
        ("secret/config", 204),
    ] {
        for (token, status) in [(&creates, 403), (&updates, updated)] {
            let body = json!({"versions": [1], "version": 1});
            assert_eq!(rig.ask(Write, path, body, with(token)).await.0, status, "{path}");
        }
    }
    for (token, path, status) in [
        (&creates, "secret/data/new", 200),
        (&creates, "secret/data/new", 403),
        (&creates, "secret/metadata/made", 204),
        (&creates, "secret/metadata/made", 403),
        (&updates, "secret/data/new", 200),
        (&updates, "secret/data/newer", 403),
    ] {
        assert_eq!(rig.ask(Write, path, json!({"data": {}}), with(token)).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn who_may_do_nothing_hears_nothing_of_what_is_malformed() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/mounts/old", json!({"type": "kv"})).await;
    let token = minted(&rig, "nothing", r#"path "elsewhere" { capabilities = ["read"] }"#).await;
    let long = format!("old/{}", "x".repeat(200));
    for path in ["old/a", long.as_str(), "secret/data/a"] {
        assert_eq!(rig.ask(Write, path, json!({"a": 1}), with(&token)).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn a_token_in_a_path_is_told_as_a_mark() {
    let rig = Rig::new().await;
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["default"]})).await.1;
    let secret = made["auth"]["client_token"].as_str().unwrap();
    for path in [format!("auth/token/lookup/{secret}"), format!("auth/token/revoke/{secret}"), format!("no/{secret}/x")]
    {
        rig.root(Write, &path, Value::Null).await;
    }
    // also where something else is recorded on the way: an answer put away, a failure counted
    rig.done(Write, &format!("secret/data/{secret}"), json!({"data": {"a": 1}})).await;
    let wraps = With { wrap_secs: Some(60), ..with(crate::rig::ROOT) };
    let (_, body) = rig.ask(Read, &format!("secret/data/{secret}"), Value::Null, wraps).await;
    assert_eq!(body["wrap_info"]["creation_path"], "secret/data/(token)");
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    rig.done(Write, "auth/userpass/users/sr.alice", json!({"password": "correct horse"})).await;
    let wrong = json!({"password": "another horse"});
    assert_eq!(rig.ask(Write, "auth/userpass/login/sr.alice", wrong, With::default()).await.0, 400);
    assert!(rig.records().iter().all(|record| !record["path"].as_str().unwrap_or("").contains("sr.alice")));
    let told: Vec<_> = rig.records().iter().map(Value::to_string).collect();
    assert!(told.iter().all(|record| !record.contains(secret)));
    assert!(told.iter().any(|record| record.contains("auth/token/lookup/(token)")));
}

#[tokio::test]
async fn an_answer_that_cannot_be_wrapped_does_not_leave_in_the_clear() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/mounts/transit", json!({"type": "transit"})).await;
    rig.done(Write, "transit/keys/k", json!({})).await;
    let sealed = rig.done(Write, "transit/encrypt/k", json!({"plaintext": "aGVsbG8="})).await;
    let body = json!({
        "partial_failure_response_code": 200,
        "batch_input": [{"ciphertext": sealed["ciphertext"]}, {"ciphertext": "x"}],
    });
    let with = With { wrap_secs: Some(60), ..with(crate::rig::ROOT) };
    let (_, answer) = rig.ask(Write, "transit/decrypt/k", body, with).await;
    assert!(!answer.to_string().contains("aGVsbG8="), "{answer}");
}
