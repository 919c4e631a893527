//! Mounts that go.

use crate::rig::{Rig, TENANT, With};
use serde_json::{Value, json};
use storage::{AtLeast, EntryPath};
use vault::Verb::{Delete, Read, Write};

/// Rows of the vault's mounts.
async fn rows(rig: &Rig) -> usize {
    let all = EntryPath::parse(&format!("{}/vault/m", hex::encode(TENANT))).unwrap();
    rig.store.scan(&all, None, 1000, AtLeast::Latest).await.unwrap().entries.len()
}

#[tokio::test]
async fn what_a_mount_that_is_gone_has_stored_goes_after_it_and_nothing_else() {
    let rig = Rig::new().await;
    rig.done(Write, "secret/data/stays", json!({"data": {}})).await;
    let before = rows(&rig).await;
    rig.done(Write, "sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
    for n in 0..70 {
        rig.done(Write, &format!("kv/data/{n}"), json!({"data": {"n": n}})).await;
    }
    assert!(rows(&rig).await > before + 200);
    rig.done(Delete, "sys/mounts/kv", Value::Null).await;
    // mounted again it sees nothing of its predecessor
    rig.done(Write, "sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
    assert_eq!(rig.root(Read, "kv/data/1", Value::Null).await.0, 404);
    while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    assert_eq!(rows(&rig).await, before);
    assert_eq!(rig.root(Read, "secret/data/stays", Value::Null).await.0, 200);
}

#[tokio::test]
async fn tokens_of_an_auth_method_end_with_it() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/people", json!({"type": "userpass"})).await;
    rig.done(Write, "auth/people/users/alice", json!({"password": "correct horse"})).await;
    let login =
        rig.ask(Write, "auth/people/login/alice", json!({"password": "correct horse"}), With::default()).await.1;
    let token = login["auth"]["client_token"].as_str().unwrap().to_owned();
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["default"]})).await.1;
    let other = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let alive = async |token: &str| {
        let with = With { token: Some(token), ..With::default() };
        rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0 == 200
    };
    assert!(alive(&token).await && alive(&other).await);
    rig.done(Delete, "sys/auth/people", Value::Null).await;
    assert!(!alive(&token).await && alive(&other).await);
    // again: nothing is left, and nothing is wrong
    rig.done(Delete, "sys/auth/people", Value::Null).await;
}

#[tokio::test]
async fn who_gets_a_name_next_is_another_entity() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    rig.done(Write, "sys/auth/approle", json!({"type": "approle"})).await;
    let user = async || {
        rig.done(Write, "auth/userpass/users/alice", json!({"password": "correct horse"})).await;
        let body = json!({"password": "correct horse"});
        let login = rig.ask(Write, "auth/userpass/login/alice", body, With::default()).await.1;
        login["auth"]["entity_id"].as_str().unwrap().to_owned()
    };
    let role = async |name: &str| {
        rig.done(Write, &format!("auth/approle/role/{name}"), json!({"role_id": "the-same-role-id"})).await;
        let secret = rig.done(Write, &format!("auth/approle/role/{name}/secret-id"), Value::Null).await;
        let body = json!({"role_id": "the-same-role-id", "secret_id": secret["secret_id"]});
        let login = rig.ask(Write, "auth/approle/login", body, With::default()).await.1;
        login["auth"]["entity_id"].as_str().unwrap().to_owned()
    };
    let (first, again) = (user().await, user().await);
    assert_eq!(first, again);
    rig.done(Delete, "auth/userpass/users/alice", Value::Null).await;
    assert_ne!(user().await, first);
    let first = role("admin").await;
    // given up by another name, and by going
    rig.done(Write, "auth/approle/role/admin/role-id", json!({"role_id": "another-role-id"})).await;
    let mine = role("mine").await;
    assert_ne!(mine, first);
    rig.done(Delete, "auth/approle/role/mine", Value::Null).await;
    assert_ne!(role("other").await, mine);
}
