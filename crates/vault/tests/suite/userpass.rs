//! Userpass: people who log in.

use crate::rig::{Rig, START, With, everything_stored};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};

const ALICE: &str = "auth/userpass/users/alice";
const RIGHT: &str = "correct horse battery staple";

async fn rig() -> Rig {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    rig.done(Write, ALICE, json!({"password": RIGHT, "token_policies": "dev", "token_ttl": 60})).await;
    rig
}

async fn login(rig: &Rig, name: &str, password: &str, with: With<'_>) -> (u16, Value) {
    rig.ask(Write, &format!("auth/userpass/login/{name}"), json!({"password": password}), with).await
}

/// The status, and the cause that the records tell.
async fn told(rig: &Rig, name: &str, password: &str) -> (u16, Vec<String>) {
    let (outcome, told) = rig.recorded(login(rig, name, password, With::default())).await;
    if outcome.0 != 200 {
        assert_eq!(outcome, refusal(), "{name}");
    }
    let causes = told.iter().filter_map(|record| record["outcome"]["failed"].as_str().map(str::to_owned));
    (outcome.0, causes.collect())
}

fn refusal() -> (u16, Value) {
    (400, json!({"errors": ["invalid username or password"]}))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn users_are_administered_and_log_in() {
    let rig = rig().await;
    let shown = rig.done(Read, "auth/userpass/users/Alice", Value::Null).await;
    for (field, value) in [
        ("token_policies", json!(["dev"])),
        ("token_ttl", json!(60)),
        ("token_max_ttl", json!(0)),
        ("token_bound_cidrs", json!([])),
        ("token_type", json!("default")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert!(shown.get("password").is_none());
    let (status, body) = login(&rig, "Alice", RIGHT, With::default()).await;
    assert_eq!(status, 200, "{body}");
    let auth = &body["auth"];
    for (field, value) in [
        ("policies", json!(["default", "dev"])),
        ("metadata", json!({"username": "alice"})),
        ("lease_duration", json!(60)),
        ("renewable", json!(true)),
        ("orphan", json!(true)),
    ] {
        assert_eq!(auth[field], value, "{field}");
    }
    let token = text(&auth["client_token"]);
    let with = With { token: Some(&token), ..With::default() };
    let looked = rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.1["data"].clone();
    assert_eq!(
        (&looked["display_name"], &looked["path"]),
        (&json!("userpass-alice"), &json!("auth/userpass/login/alice"))
    );
    // policies and password, each by itself
    rig.done(Write, &format!("{ALICE}/policies"), json!({"policies": ["x", "Y"]})).await;
    rig.done(Write, &format!("{ALICE}/password"), json!({"password": "another one"})).await;
    let shown = rig.done(Read, ALICE, Value::Null).await;
    assert_eq!((&shown["token_policies"], &shown["token_ttl"]), (&json!(["x", "y"]), &json!(60)));
    assert_eq!(login(&rig, "alice", RIGHT, With::default()).await, refusal());
    assert_eq!(login(&rig, "alice", "another one", With::default()).await.0, 200);
    // without a password the one that is there stays
    rig.done(Write, ALICE, json!({"token_bound_cidrs": "10.0.0.0/8", "token_type": "batch"})).await;
    assert_eq!(login(&rig, "alice", "another one", With::default()).await, refusal());
    let inside = With { from: Some("10.0.0.1:1"), bind: Some(7), ..With::default() };
    let (status, body) = login(&rig, "alice", "another one", inside).await;
    assert_eq!((status, &body["auth"]["token_type"]), (200, &json!("batch")));
    let token = text(&body["auth"]["client_token"]);
    for (certificate, from, status) in
        [(Some(7), "10.9.9.9:1", 200), (None, "10.9.9.9:1", 403), (Some(7), "192.0.2.7:1", 403)]
    {
        let with = With { token: Some(&token), certificate, from: Some(from), ..With::default() };
        assert_eq!(rig.ask(Read, "auth/token/lookup-self", Value::Null, with).await.0, status);
    }
    rig.done(Write, "auth/userpass/users/bob", json!({"password": "x"})).await;
    assert_eq!(rig.done(List, "auth/userpass/users", Value::Null).await, json!({"keys": ["alice", "bob"]}));
    rig.done(Delete, ALICE, Value::Null).await;
    assert_eq!(rig.root(Delete, ALICE, Value::Null).await.0, 204);
    assert_eq!(rig.root(Read, ALICE, Value::Null).await.0, 404);
    assert_eq!(login(&rig, "alice", "another one", With::default()).await, refusal());
}

#[tokio::test]
async fn who_logs_in_may_ask_for_less_and_a_wish_tells_nothing_of_a_password() {
    let rig = rig().await;
    let ask = async |password: &str, ttl: &str| {
        let body = json!({"password": password, "token_ttl": ttl});
        rig.ask(Write, "auth/userpass/login/alice", body, With::default()).await
    };
    let (outcome, told) = rig.recorded(ask(RIGHT, "10s")).await;
    assert_eq!((outcome.0, &outcome.1["auth"]["lease_duration"]), (200, &json!(10)), "{}", outcome.1);
    assert_eq!(told.last().unwrap()["proof"], "userpass user:alice");
    let (status, body) = ask(RIGHT, "61s").await;
    assert!(status == 400 && body.to_string().contains("token_ttl"), "{body}");
    assert_eq!(ask("wrong", "61s").await, refusal());
    let entity = text(&outcome.1["auth"]["entity_id"]);
    rig.done(Write, &format!("identity/entity/id/{entity}"), json!({"disabled": true})).await;
    assert_eq!(ask(RIGHT, "61s").await, refusal());
}

#[tokio::test]
async fn what_is_malformed_is_refused_by_its_name() {
    let rig = rig().await;
    for (path, body, field) in [
        ("auth/userpass/users/bob", json!({}), "password"),
        ("auth/userpass/users/bob", json!({"password": ""}), "password"),
        ("auth/userpass/users/bob", json!({"password": "x".repeat(1025)}), "password"),
        ("auth/userpass/users/bob", json!({"password": {"a": 1}}), "password"),
        ("auth/userpass/users/bob", json!({"password": "x", "token_policies": "ROOT"}), "token_policies"),
        ("auth/userpass/users/bob", json!({"password_hash": "$2y$10$x"}), "password_hash"),
        ("auth/userpass/users/b%20b", json!({"password": "x"}), "username"),
        (&format!("auth/userpass/users/{}", "b".repeat(65)), json!({"password": "x"}), "username"),
        (&format!("{ALICE}/password"), json!({}), "password"),
        (&format!("{ALICE}/policies"), json!({"token_policies": [1]}), "token_policies"),
        ("auth/userpass/login/alice", json!({}), "password"),
    ] {
        let hashes = rig.vault.password_hashes();
        let (status, body) = rig.root(Write, path, body).await;
        let told = body["errors"][0].as_str().unwrap_or_default();
        assert!(status == 400 && told.starts_with(&format!("{field}: ")), "{path}: {status} {told}");
        assert_eq!(rig.vault.password_hashes(), hashes);
    }
    for (verb, path, status) in [
        (Write, "auth/userpass/users/none/password", 404),
        (Write, "auth/userpass/users/none/policies", 404),
        (Read, "auth/userpass/users/alice/password", 405),
        (Read, "auth/userpass/login/alice", 405),
        (Read, "auth/userpass/elsewhere", 404),
    ] {
        assert_eq!(rig.root(verb, path, json!({"password": "x", "policies": "x"})).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_login_costs_one_hash_and_a_refusal_the_same_time_whoever_is_named() {
    let rig = rig().await;
    rig.done(Write, "auth/userpass/users/far", json!({"password": RIGHT, "token_bound_cidrs": "10.0.0.0/8"})).await;
    rig.done(Write, "auth/userpass/users/locked", json!({"password": RIGHT})).await;
    join_all((0..5).map(|_| login(&rig, "locked", "wrong", With::default()))).await;
    for (name, password, status, cause) in [
        ("alice", "wrong", 400, "USERPASS_PASSWORD_WRONG"),
        ("nobody", "wrong", 400, "USERPASS_USER_UNKNOWN"),
        ("nobody", RIGHT, 400, "USERPASS_USER_UNKNOWN"),
        ("far", RIGHT, 400, "USERPASS_ADDRESS_OTHER"),
        ("locked", "wrong", 400, "USERPASS_LOCKED"),
        ("locked", RIGHT, 400, "USERPASS_LOCKED"),
        ("alice", RIGHT, 200, ""),
    ] {
        let (hashes, began) = (rig.vault.password_hashes(), std::time::Instant::now());
        let (found, causes) = told(&rig, name, password).await;
        assert_eq!((found, causes.last().map_or("", String::as_str)), (status, cause), "{name}");
        assert_eq!(rig.vault.password_hashes(), hashes + 1, "{name} {password}");
        assert!(found == 200 || began.elapsed() >= Duration::from_millis(300), "{name} {password}");
    }
}

#[tokio::test]
async fn a_lock_is_not_evaded_by_spelling_and_ends_with_its_time_or_a_new_password() {
    let rig = rig().await;
    let spelled = ["alice", "Alice", "ALICE", "aLiCe", "alicE"];
    for name in spelled {
        assert_eq!(told(&rig, name, "wrong").await.1.last().unwrap(), "USERPASS_PASSWORD_WRONG", "{name}");
    }
    for name in spelled.into_iter().chain(["alice/"]) {
        assert_eq!(told(&rig, name, RIGHT).await, (400, vec!["USERPASS_LOCKED".to_owned()]), "{name}");
    }
    // what would be another spelling to somebody is nobody's name here
    for name in ["alice%20", "%20alice", "alic%C3%A9", "%EF%BD%81lice", "alice%40", "al%C4%B1ce", "alice%21"] {
        assert_eq!(told(&rig, name, RIGHT).await, (400, vec!["USERPASS_NAME_MALFORMED".to_owned()]), "{name}");
    }
    // others are not locked, at this mount or another
    rig.done(Write, "auth/userpass/users/bob", json!({"password": RIGHT})).await;
    assert_eq!(told(&rig, "bob", RIGHT).await.0, 200);
    rig.done(Write, "sys/auth/people", json!({"type": "userpass"})).await;
    rig.done(Write, "auth/people/users/alice", json!({"password": RIGHT})).await;
    let elsewhere = rig.ask(Write, "auth/people/login/alice", json!({"password": RIGHT}), With::default()).await;
    assert_eq!(elsewhere.0, 200);
    for (after, status) in [(899, 400), (900, 200)] {
        rig.clock.set(START.plus(Duration::from_secs(after)));
        assert_eq!(told(&rig, "alice", RIGHT).await.0, status, "{after}");
    }
    // four do not lock; who gets in begins anew
    for failures in [4, 4, 5] {
        join_all((0..failures).map(|_| login(&rig, "alice", "wrong", With::default()))).await;
        let status = if failures < 5 { 200 } else { 400 };
        assert_eq!(told(&rig, "alice", RIGHT).await.0, status, "{failures}");
    }
    rig.done(Write, &format!("{ALICE}/password"), json!({"password": RIGHT})).await;
    assert_eq!(told(&rig, "alice", RIGHT).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_wrong_logins_at_once_on_three_nodes_five_are_counted_and_none_that_is_right_comes_after() {
    let rig = Arc::new(rig().await);
    let nodes = Arc::new([rig.another_node(), rig.another_node(), rig.another_node()]);
    let before = rig.records().len();
    let attempts = (0..64).map(|i| {
        let (rig, nodes) = (Arc::clone(&rig), Arc::clone(&nodes));
        let name = ["alice", "Alice", "ALICE", "aLICE"][i / 16];
        tokio::spawn(async move {
            // an address has a share of what is checked at once
            let from = format!("192.0.2.{}:1", i % 8);
            let with = With { node: nodes.get(i % 3), from: Some(&from), ..With::default() };
            login(&rig, name, "wrong", with).await
        })
    });
    for attempt in join_all(attempts).await {
        assert_eq!(attempt.unwrap(), refusal());
    }
    let counted = rig.records().split_off(before);
    let counted = counted.iter().filter(|record| record["operation"] == "VaultCountFailedLogin");
    assert_eq!(counted.count(), 5);
    for node in nodes.iter() {
        let with = With { node: Some(node), ..With::default() };
        assert_eq!(login(&rig, "alice", RIGHT, with).await, refusal());
    }
    assert_eq!(told(&rig, "alice", RIGHT).await, (400, vec!["USERPASS_LOCKED".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_logins_at_once_than_can_be_checked_are_told_to_come_back() {
    let rig = Arc::new(rig().await);
    let attempts = (0..160).map(|i| {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move {
            let from = format!("192.0.2.{}:1", i % 16);
            login(&rig, "alice", RIGHT, With { from: Some(&from), ..With::default() }).await.0
        })
    });
    let statuses: Vec<_> = join_all(attempts).await.into_iter().map(|attempt| attempt.unwrap()).collect();
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert!(count(200) >= 128 && count(429) > 0, "{} and {}", count(200), count(429));
    assert_eq!(count(200) + count(429), 160);
    assert_eq!(login(&rig, "alice", RIGHT, With::default()).await.0, 200);
    // one address alone has its share, and others are let in beside it
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { login(&rig, "nobody", "x", With::default()).await.0 })
        })
        .collect();
    let beside = With { from: Some("198.51.100.1:1"), ..With::default() };
    assert_eq!(login(&rig, "alice", RIGHT, beside).await.0, 200);
    let flood: Vec<_> = join_all(flood).await.into_iter().map(|attempt| attempt.unwrap()).collect();
    assert!(flood.contains(&429), "{flood:?}");
}

#[tokio::test]
async fn no_password_and_no_name_stands_in_the_store_and_no_password_in_the_log() {
    let rig = rig().await;
    for password in [RIGHT, "canary-wrong-password"] {
        login(&rig, "alice", password, With::default()).await;
    }
    rig.done(Write, &format!("{ALICE}/password"), json!({"password": "canary-new-password"})).await;
    let log = rig.records().iter().map(Value::to_string).collect::<String>();
    for canary in [RIGHT, "canary-wrong-password", "canary-new-password"] {
        assert!(!log.contains(canary), "{canary} stands in the log");
    }
    let stored = everything_stored(&rig).await;
    for canary in [RIGHT, "canary-wrong-password", "canary-new-password", "alice"] {
        for (path, value) in &stored {
            let bytes = canary.as_bytes();
            let found = path.contains(canary) || value.windows(bytes.len()).any(|some| some == bytes);
            assert!(!found, "{canary} stands at {path}");
        }
    }
}

#[tokio::test]
async fn who_is_locked_out_is_told_and_let_in_again() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    let mounts = rig.done(Read, "sys/auth", Value::Null).await;
    let accessor = mounts["userpass/"]["accessor"].as_str().unwrap().to_owned();
    for name in ["alice", "bob"] {
        rig.done(Write, &format!("auth/userpass/users/{name}"), json!({"password": "right horse"})).await;
    }
    let login = async |name: &str, password: &str| {
        let path = format!("auth/userpass/login/{name}");
        rig.ask(Write, &path, json!({ "password": password }), With::default()).await.0
    };
    let locked = async |query: &str| rig.done(Read, &format!("sys/locked-users{query}"), Value::Null).await;
    assert_eq!(locked("").await["total"], 0);
    for _ in 0..5 {
        login("alice", "wrong horse").await;
    }
    login("bob", "wrong horse").await;
    let of_mount = json!({"alias_identifiers": ["alice"], "counts": 1, "mount_accessor": accessor});
    let root = json!({"counts": 1, "mount_accessors": [of_mount], "namespace_id": "root", "namespace_path": ""});
    assert_eq!(locked("").await, json!({"by_namespace": [root], "total": 1}));
    assert_eq!(locked(&format!("?mount_accessor={accessor}")).await["total"], 1);
    assert_eq!(locked("?mount_accessor=other").await["total"], 0);
    assert_eq!(login("alice", "right horse").await, 400);
    let unlock = |accessor: &str, name: &str| format!("sys/locked-users/{accessor}/unlock/{name}");
    for (path, status) in [
        (unlock("other", "alice"), 400),
        (unlock(&accessor, "a b"), 400),
        (unlock(&accessor, "nobody"), 204),
        (unlock(&accessor, "ALICE"), 204),
    ] {
        let (answer, records) = rig.recorded(rig.root(Write, &path, Value::Null)).await;
        assert_eq!((answer.0, records.len()), (status, 1), "{path} {}", answer.1);
    }
    assert_eq!((locked("").await["total"].clone(), login("alice", "right horse").await), (json!(0), 200));
}
