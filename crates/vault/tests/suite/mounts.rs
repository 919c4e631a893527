//! Mounts that go.

use crate::rig::{ROOT, Rig, TENANT, With};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use storage::{AtLeast, EntryPath};
use vault::Verb::{Delete, List, Read, Write};

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
    // half of them is read and noted, the other half is to be noted when the mount is gone
    for n in 0..70 {
        rig.done(Read, &format!("kv/data/{n}"), Value::Null).await;
        if n == 35 {
            while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
        }
    }
    assert!(rows(&rig).await > before + 236);
    rig.done(Delete, "sys/mounts/kv", Value::Null).await;
    // mounted again it sees nothing of its predecessor
    rig.done(Write, "sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
    assert_eq!(rig.root(Read, "kv/data/1", Value::Null).await.0, 404);
    let tend = async || while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {};
    tend().await;
    assert_eq!(rows(&rig).await, before + 1, "the mark");
    // what another node still wrote, from memory, goes as well; another mark waits for none
    put_late(&rig).await;
    rig.done(Delete, "sys/mounts/kv", Value::Null).await;
    tend().await;
    assert_eq!(rows(&rig).await, before + 2, "two marks");
    rig.clock.advance(Duration::from_secs(60));
    tend().await;
    assert_eq!(rows(&rig).await, before);
    assert_eq!(rig.root(Read, "secret/data/stays", Value::Null).await.0, 200);
}

/// A row below the mount whose mark stands.
async fn put_late(rig: &Rig) {
    let marks = EntryPath::parse(&format!("{}/vault/m/gone", hex::encode(TENANT))).unwrap();
    let marks = rig.store.scan(&marks, None, 9, AtLeast::Latest).await.unwrap().entries;
    let mount = marks[0].0.as_str().replace("/gone/", "/");
    let late = EntryPath::parse(&format!("{mount}/late")).unwrap();
    let batch = rig.vault.changes().batch().unwrap().put(late, vec![1]);
    rig.store.commit(batch).await.unwrap();
}

#[tokio::test]
async fn a_login_that_races_with_the_end_of_its_method_leaves_no_token() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/people", json!({"type": "userpass"})).await;
    rig.done(Write, "auth/people/users/alice", json!({"password": "correct horse"})).await;
    let node = rig.another_node();
    let login = async || {
        let with = With { node: Some(&node), ..With::default() };
        rig.ask(Write, "auth/people/login/alice", json!({"password": "correct horse"}), with).await
    };
    // its table is known from then on
    assert_eq!(login().await.0, 200);
    // while the password is hashed the method goes
    let (login, deleted) = tokio::join!(login(), rig.root(Delete, "sys/auth/people", Value::Null));
    assert_eq!((login.0, deleted.0), (403, 204), "{login:?}");
    assert_eq!(rig.root(List, "sys/leases/lookup/auth/people/login", Value::Null).await.0, 404);
}

#[tokio::test]
async fn what_covers_mounts_or_lies_below_one_is_none_and_ends_no_tokens() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/team/approle", json!({"type": "approle"})).await;
    rig.done(Write, "auth/team/approle/role/r", json!({})).await;
    let id = rig.done(Read, "auth/team/approle/role/r/role-id", Value::Null).await;
    let secret = rig.done(Write, "auth/team/approle/role/r/secret-id", Value::Null).await;
    let body = json!({"role_id": id["role_id"], "secret_id": secret["secret_id"]});
    let login = rig.ask(Write, "auth/team/approle/login", body, With::default()).await.1;
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["default"]})).await.1;
    for path in ["sys/auth/token/create", "sys/auth/team/approle/login", "sys/auth/team"] {
        let (status, body) = rig.root(Delete, path, Value::Null).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().starts_with("no mount at"), "{path} {body}");
    }
    for token in [&login, &made] {
        let with = With { token: token["auth"]["client_token"].as_str(), ..With::default() };
        assert_eq!(rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0, 200);
    }
}

#[tokio::test]
async fn tokens_of_an_auth_method_end_where_it_is_moved() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/people", json!({"type": "userpass"})).await;
    rig.done(Write, "auth/people/users/alice", json!({"password": "correct horse"})).await;
    let login = async |at: &str| {
        let path = format!("auth/{at}/login/alice");
        let login = rig.ask(Write, &path, json!({"password": "correct horse"}), With::default()).await.1;
        login["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let alive = async |token: &str| {
        let with = With { token: Some(token), ..With::default() };
        rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0 == 200
    };
    let old = login("people").await;
    let (_, moved) = rig.root(Write, "sys/remount", json!({"from": "auth/people", "to": "auth/staff"})).await;
    assert!(moved["warnings"][0].as_str().unwrap().contains("have ended"), "{moved}");
    assert!(!alive(&old).await && alive(&login("staff").await).await);
    let (_, moved) = rig.root(Write, "sys/remount", json!({"from": "secret", "to": "other"})).await;
    assert!(moved["warnings"].is_null() && moved["data"]["migration_id"].is_string(), "{moved}");
}

#[tokio::test]
async fn what_is_tuned_is_within_bounds() {
    let rig = Rig::new().await;
    for (body, status) in [
        (json!({"max_lease_ttl": "24h"}), 204),
        (json!({"default_lease_ttl": "25h"}), 400),
        (json!({"default_lease_ttl": "23h"}), 204),
        (json!({"max_lease_ttl": "22h"}), 400),
        (json!({"default_lease_ttl": 0, "max_lease_ttl": "22h"}), 204),
        (json!({"description": "d".repeat(1024)}), 204),
        (json!({"description": "d".repeat(1025)}), 400),
    ] {
        assert_eq!(rig.root(Write, "sys/mounts/secret/tune", body.clone()).await.0, status, "{body}");
    }
    let tuned = rig.done(Read, "sys/mounts/secret/tune", Value::Null).await;
    assert_eq!((&tuned["default_lease_ttl"], &tuned["max_lease_ttl"]), (&json!(79200), &json!(79200)));
    let long = json!({"type": "kv", "description": "d".repeat(1025)});
    assert_eq!(rig.root(Write, "sys/mounts/long", long).await.0, 400);
    // as stock clients tune auth methods
    rig.done(Write, "sys/mounts/auth/token/tune", json!({"max_lease_ttl": "1h"})).await;
    for path in ["sys/mounts/auth/token/tune", "sys/auth/token/tune"] {
        assert_eq!(rig.done(Read, path, Value::Null).await["max_lease_ttl"], 3600, "{path}");
    }
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

#[tokio::test]
async fn a_user_that_is_deleted_while_it_logs_in_first_is_deleted_with_its_entity() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    let far = rig.another_node();
    let body = json!({"password": "correct horse"});
    let user = async |name: &str| rig.done(Write, &format!("auth/userpass/users/{name}"), body.clone()).await;
    let login = async |name: &str| {
        let path = format!("auth/userpass/login/{name}");
        rig.ask(Write, &path, body.clone(), With::default()).await
    };
    user("first").await;
    let began = Instant::now();
    login("first").await;
    let takes = began.elapsed();
    for early in 0..12 {
        let name = format!("user-{early}");
        user(&name).await;
        let delete = async {
            tokio::time::sleep(takes.saturating_sub(Duration::from_millis(early))).await;
            let with = With { token: Some(ROOT), node: Some(&far), ..With::default() };
            rig.ask(Delete, &format!("auth/userpass/users/{name}"), Value::Null, with).await
        };
        let (first, deleted) = tokio::join!(login(&name), delete);
        assert_eq!(deleted.0, 204, "{early}: {deleted:?}");
        user(&name).await;
        let again = login(&name).await.1;
        assert_ne!(again["auth"]["entity_id"], first.1["auth"]["entity_id"], "{early}");
    }
}

#[tokio::test]
async fn a_row_that_was_altered_keeps_nothing_else_from_being_swept() {
    let rig = Rig::new().await;
    for (path, kind) in [("sys/auth/a", "approle"), ("sys/auth/b", "approle"), ("sys/mounts/kv", "kv")] {
        rig.done(Write, path, json!({"type": kind})).await;
    }
    let before = rows(&rig).await;
    let id = rig.done(Read, "sys/auth/a", Value::Null).await["uuid"].as_str().unwrap().to_owned();
    let altered = EntryPath::parse(&format!("{}/vault/m/{id}/due/{:016x}/x/y", hex::encode(TENANT), 1)).unwrap();
    rig.store.commit(rig.vault.changes().batch().unwrap().put(altered, vec![1])).await.unwrap();
    rig.done(Write, "auth/b/role/r", json!({"secret_id_ttl": "1m"})).await;
    rig.done(Write, "auth/b/role/r/secret-id", Value::Null).await;
    for n in 0..150 {
        rig.done(Write, &format!("kv/{n}"), json!({"a": "b"})).await;
    }
    rig.done(Delete, "sys/mounts/kv", Value::Null).await;
    rig.clock.advance(Duration::from_secs(60));
    let mut swept = 0;
    let failed = loop {
        match vault::tend(&rig.vault, rig.clock_now()).await {
            Ok(0) => panic!("the row passed"),
            Ok(count) => swept += count,
            Err(error) => break error,
        }
    };
    assert!(failed.to_string().contains("internal"), "{failed}");
    // what a role is, and its index: two; and the row itself
    assert_eq!((rows(&rig).await, swept), (before + 3, 2 * 150 + 1 + 1));
}
