//! Versioned secrets.

use crate::rig::{Rig, With, everything_stored, minted};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{Delete, List, Patch, Read, Write};

/// How many data (`d`) or notes of reads (`r`) of versions stand in the store.
async fn rows(rig: &Rig, kind: &str) -> usize {
    let stored = everything_stored(rig).await;
    let is_one =
        |path: &&str| matches!(path.split('/').collect::<Vec<_>>()[..], [.., "s", _, found, _] if found == kind);
    stored.iter().map(|(path, _)| path.as_str()).filter(is_one).count()
}

#[tokio::test]
async fn a_version_is_written_read_deleted_undeleted_and_destroyed() {
    let rig = Rig::new().await;
    for (n, secret) in [(1, "one"), (2, "two"), (3, "three")] {
        let made = rig.done(Write, "secret/data/app/db", json!({"data": {"pw": secret}})).await;
        assert_eq!((&made["version"], &made["destroyed"]), (&json!(n), &json!(false)));
    }
    let read = async |path: &str| rig.root(Read, path, Value::Null).await;
    let (status, body) = read("secret/data/app/db").await;
    assert_eq!((status, &body["data"]["data"]), (200, &json!({"pw": "three"})));
    assert_eq!(read("secret/data/app/db?version=1").await.1["data"]["data"]["pw"], "one");
    assert_eq!(read("secret/data/app/db?version=9").await.0, 404);
    for (verb, path, body, version, status) in [
        (Delete, "secret/data/app/db", Value::Null, 3, 404),
        (Write, "secret/undelete/app/db", json!({"versions": [3]}), 3, 200),
        (Write, "secret/delete/app/db", json!({"versions": ["1", "2"]}), 1, 404),
        (Write, "secret/undelete/app/db", json!({"versions": "1"}), 1, 200),
        (Write, "secret/destroy/app/db", json!({"versions": [1, 99]}), 1, 404),
        (Write, "secret/undelete/app/db", json!({"versions": [1]}), 1, 404),
    ] {
        let before = rows(&rig, "d").await;
        rig.done(verb, path, body).await;
        let left = if path.contains("destroy") { before - 1 } else { before };
        assert_eq!(rows(&rig, "d").await, left, "{path}");
        let (found, body) = read(&format!("secret/data/app/db?version={version}")).await;
        assert_eq!(found, status, "{path} {body}");
        // what is deleted tells of itself, and not what it was
        assert!(status == 200 || (body["data"]["data"].is_null() && body["data"]["metadata"]["version"] == version));
    }
    let meta = rig.done(Read, "secret/metadata/app/db", Value::Null).await;
    assert_eq!((&meta["current_version"], &meta["versions"]["1"]["destroyed"]), (&json!(3), &json!(true)));
    rig.done(Delete, "secret/metadata/app/db", Value::Null).await;
    assert_eq!(rows(&rig, "d").await, 0);
    for path in ["secret/data/app/db", "secret/data/app/db?version=3", "secret/metadata/app/db"] {
        assert_eq!(read(path).await, (404, json!({"errors": []})), "{path}");
    }
}

#[tokio::test]
async fn a_new_version_is_rolled_out_before_the_old_one_is_withdrawn() {
    let rig = Rig::new().await;
    let write = async |secret: &str, label: &str| {
        let body = json!({"data": {"pw": secret}, "options": {"label": label}});
        rig.done(Write, "secret/data/db", body).await["version"].clone()
    };
    let read = async |query: &str| {
        let (status, body) = rig.root(Read, &format!("secret/data/db{query}"), Value::Null).await;
        if status == 200 { body["data"]["data"]["pw"].as_str().unwrap().to_owned() } else { status.to_string() }
    };
    assert_eq!((write("old", "current").await, write("new", "pending").await), (json!(1), json!(2)));
    let labels = async || {
        (read("").await, read("?label=current").await, read("?label=pending").await, read("?label=previous").await)
    };
    assert_eq!(labels().await, ("old".into(), "old".into(), "new".into(), "404".into()));
    rig.clock.advance(Duration::from_secs(5));
    let promoted = rig.done(Write, "secret/promote/db", json!({})).await;
    assert_eq!(promoted, json!({"current_version": 2, "previous_version": 1, "pending_version": null}));
    assert_eq!(labels().await, ("new".into(), "new".into(), "404".into(), "old".into()));
    // who reads the old one still is seen, here and after it was noted
    for noted in [false, true] {
        let meta = rig.done(Read, "secret/metadata/db", Value::Null).await;
        assert_eq!(meta["versions"]["1"]["labels"], json!(["previous"]));
        assert_eq!(meta["versions"]["1"]["last_read_time"], "2023-11-14T22:13:25Z", "{noted}");
        assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0, !noted);
    }
    // back again
    rig.done(Write, "secret/promote/db", json!({"version": 1})).await;
    assert_eq!(labels().await, ("old".into(), "old".into(), "new".into(), "new".into()));
    let (status, _) = rig.root(Read, "secret/data/db?label=other", Value::Null).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_was_noted_of_reads_does_not_stay_for_long_without_its_version_and_is_never_an_older_one() {
    let rig = Rig::new().await;
    let node = rig.another_node();
    let last_read = async |version: &str| {
        let meta = rig.done(Read, "secret/metadata/n", Value::Null).await;
        meta["versions"][version]["last_read_time"].as_str().unwrap().to_owned()
    };
    let read = async |path: &str, node: Option<&vault::Vault>| {
        let with = With { token: Some(crate::rig::ROOT), node, ..With::default() };
        assert_eq!(rig.ask(Read, path, Value::Null, with).await.0, 200, "{path}");
    };
    rig.done(Write, "secret/metadata/n", json!({"max_versions": 2})).await;
    assert_eq!(rig.done(Read, "secret/metadata/n", Value::Null).await["versions"], json!({}));
    for n in 1..=5 {
        rig.done(Write, "secret/data/n", json!({"data": {"n": n}})).await;
        read("secret/data/n", None).await;
        vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
        assert_eq!((rows(&rig, "d").await, rows(&rig, "r").await), (n.min(2), n.min(2)), "{n}");
    }
    // another node, which notes late what it saw early
    rig.clock.advance(Duration::from_secs(1));
    read("secret/data/n", Some(&node)).await;
    rig.clock.advance(Duration::from_secs(1));
    read("secret/data/n", None).await;
    for (vault, at) in [(&rig.vault, 2), (&node, 2)] {
        assert!(vault::tend(vault, rig.clock_now()).await.unwrap() > 0);
        assert_eq!(vault::tend(vault, rig.clock_now()).await.unwrap(), 0);
        let (status, meta) = {
            let with = With { token: Some(crate::rig::ROOT), node: Some(&node), ..With::default() };
            rig.ask(Read, "secret/metadata/n", Value::Null, with).await
        };
        let time = format!("2023-11-14T22:13:2{at}Z");
        assert_eq!((status, meta["data"]["versions"]["5"]["last_read_time"].as_str()), (200, Some(time.as_str())));
    }
    // notes outlive their versions until the secret goes, or one of its versions is noted
    for n in 6..=7 {
        rig.done(Write, "secret/data/n", json!({"data": {"n": n}})).await;
    }
    assert_eq!((rows(&rig, "d").await, rows(&rig, "r").await), (2, 2));
    rig.done(Delete, "secret/metadata/n", Value::Null).await;
    assert_eq!((rows(&rig, "d").await, rows(&rig, "r").await), (0, 0));
    rig.done(Write, "secret/data/n", json!({"data": {"n": 8}})).await;
    // what was read and is gone leaves no note, and the next of that name knows nothing of it
    rig.clock.advance(Duration::from_secs(1));
    read("secret/data/n", None).await;
    rig.done(Delete, "secret/metadata/n", Value::Null).await;
    assert!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0);
    assert_eq!((rows(&rig, "d").await, rows(&rig, "r").await), (0, 0));
    rig.done(Write, "secret/data/n", json!({"data": {"n": 1}})).await;
    read("secret/data/n", None).await;
    rig.done(Delete, "secret/metadata/n", Value::Null).await;
    rig.clock.advance(Duration::from_secs(1));
    rig.done(Write, "secret/data/n", json!({"data": {"n": 2}})).await;
    assert_eq!(last_read("1").await, "");
    vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
    assert_eq!(last_read("1").await, "");
    read("secret/data/n", None).await;
    assert_eq!(last_read("1").await, "2023-11-14T22:13:24Z");
}

#[tokio::test]
async fn notes_that_outlived_their_versions_are_few_however_fast_versions_come() {
    let rig = Rig::new().await;
    rig.done(Write, "secret/metadata/n", json!({"max_versions": 3})).await;
    for tick in 0..12 {
        for n in 0..3 {
            rig.done(Write, "secret/data/n", json!({"data": {"n": n}})).await;
            rig.done(Read, "secret/data/n", Value::Null).await;
            // its entry stands at the notes' prefix
            if (tick, n) == (0, 2) {
                let hook = json!({"hook_url": "https://hook.example/", "rotation_period": "1h"});
                rig.done(Write, "secret/rotation/n", hook).await;
            }
        }
        vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
        let (data, notes) = (rows(&rig, "d").await, rows(&rig, "r").await);
        assert!(data == 3 && (3..=6).contains(&notes), "{data} {notes} after {tick}");
    }
    assert_eq!(rig.done(Read, "secret/rotation/n", Value::Null).await["hook_url"], "https://hook.example/");
    // more of them than a commit takes
    let many = json!({"max_versions": 100});
    rig.done(Write, "secret/metadata/n", many).await;
    for n in 0..70 {
        rig.done(Write, "secret/data/n", json!({"data": {"n": n}})).await;
        rig.done(Read, "secret/data/n", Value::Null).await;
    }
    while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    rig.done(Write, "secret/metadata/n", json!({"max_versions": 1})).await;
    for n in 0..4 {
        rig.done(Write, "secret/data/n", json!({"data": {"n": n}})).await;
    }
    assert_eq!(rows(&rig, "d").await, 1);
    assert!(rows(&rig, "r").await > 70);
    rig.done(Delete, "secret/metadata/n", Value::Null).await;
    assert_eq!((rows(&rig, "d").await, rows(&rig, "r").await), (0, 0));
}

#[tokio::test]
async fn two_who_configure_a_mount_at_once_both_have_their_way() {
    let rig = Rig::new().await;
    let node = rig.another_node();
    let on = |node| With { token: Some(crate::rig::ROOT), node, ..With::default() };
    assert_eq!(rig.ask(Read, "secret/config", Value::Null, on(Some(&node))).await.0, 200);
    rig.done(Write, "secret/config", json!({"max_versions": 5})).await;
    let (status, _) = rig.ask(Write, "secret/config", json!({"cas_required": true}), on(Some(&node))).await;
    assert_eq!(status, 204);
    for n in 1..10 {
        let (max, after) = (json!({"max_versions": n}), json!({"delete_version_after": format!("{n}h")}));
        let at_once = (rig.root(Write, "secret/config", max), rig.ask(Write, "secret/config", after, on(Some(&node))));
        let (one, other) = tokio::join!(at_once.0, at_once.1);
        assert_eq!((one.0, other.0), (204, 204));
        let shown = rig.root(Read, "secret/config", Value::Null).await.1["data"].clone();
        assert_eq!((&shown["max_versions"], &shown["cas_required"]), (&json!(n), &json!(true)), "{shown}");
    }
}

#[tokio::test]
async fn check_and_set_lets_one_of_many_writers_through() {
    let rig = std::sync::Arc::new(Rig::new().await);
    rig.done(Write, "secret/data/c", json!({"data": {"n": 0}})).await;
    let writers = (0..32).map(|n| {
        let rig = std::sync::Arc::clone(&rig);
        tokio::spawn(async move {
            rig.root(Write, "secret/data/c", json!({"data": {"n": n}, "options": {"cas": 1}})).await.0
        })
    });
    let mut won = 0;
    for writer in writers.collect::<Vec<_>>() {
        let status = writer.await.unwrap();
        assert!(matches!(status, 200 | 400), "{status}");
        won += usize::from(status == 200);
    }
    assert_eq!(won, 1);
    for (body, status) in [
        (json!({"data": {}, "options": {"cas": 0}}), 400),
        (json!({"data": {}, "options": {"cas": 2}}), 200),
        (json!({"data": {}, "options": {"cas": -1}}), 400),
        (json!({"data": {}, "options": {"cas": "x"}}), 400),
        (json!({"data": {}, "options": 7}), 400),
        (json!({"options": {}}), 400),
        (json!({"data": []}), 400),
    ] {
        assert_eq!(rig.root(Write, "secret/data/c", body.clone()).await.0, status, "{body}");
    }
    rig.done(Write, "secret/config", json!({"cas_required": true})).await;
    let (status, body) = rig.root(Write, "secret/data/c", json!({"data": {}})).await;
    assert!(status == 400 && body["errors"][0].as_str().unwrap().contains("required"), "{body}");
    assert_eq!(rig.root(Write, "secret/data/new", json!({"data": {}, "options": {"cas": 0}})).await.0, 200);
}

#[tokio::test]
async fn a_patch_merges_and_subkeys_tell_no_value() {
    let rig = Rig::new().await;
    assert_eq!(rig.root(Patch, "secret/data/p", json!({"data": {"a": 1}})).await.0, 404);
    rig.done(Write, "secret/data/p", json!({"data": {"a": 1, "b": {"c": "x", "d": "y"}, "e": [1]}})).await;
    rig.done(Patch, "secret/data/p", json!({"data": {"a": null, "b": {"c": "z"}, "f": true}})).await;
    let read = rig.done(Read, "secret/data/p", Value::Null).await;
    assert_eq!(read["data"], json!({"b": {"c": "z", "d": "y"}, "e": [1], "f": true}));
    // numbers in all their digits, which the client's text has and no type of ours
    let long = r#"{"data":{"f":null,"n":123456789012345678901234567890}}"#;
    let text = rig.text(Patch, "secret/data/p", long).await;
    assert!(text.contains(r#""version":3"#), "{text}");
    rig.done(Patch, "secret/data/p", json!({"data": {"f": true}})).await;
    let text = rig.text(Read, "secret/data/p", "").await;
    assert!(text.contains(r#""n":123456789012345678901234567890}"#), "{text}");
    rig.done(Patch, "secret/data/p", json!({"data": {"n": null}})).await;
    let keys = rig.done(Read, "secret/subkeys/p", Value::Null).await;
    assert_eq!(keys["subkeys"], json!({"b": {"c": null, "d": null}, "e": null, "f": null}));
    let keys = rig.done(Read, "secret/subkeys/p?depth=1", Value::Null).await;
    assert_eq!(keys["subkeys"], json!({"b": null, "e": null, "f": null}));
}

#[tokio::test]
async fn a_folder_is_listed_as_long_as_something_is_in_it() {
    let rig = Rig::new().await;
    let list = async |path: &str| {
        let (status, body) = rig.root(List, path, Value::Null).await;
        if status == 404 { json!([]) } else { body["data"]["keys"].clone() }
    };
    let deep = vec!["d"; 40].join("/");
    for name in ["a", "a/b", "a/c/d", "z", "ä ö", &deep] {
        rig.done(Write, &format!("secret/data/{name}"), json!({"data": {"n": name}})).await;
    }
    assert_eq!(list("secret/metadata/").await, json!(["a", "a/", "d/", "z", "ä ö"]));
    assert_eq!(list("secret/metadata/a").await, json!(["b", "c/"]));
    assert_eq!(list("secret/metadata?limit=2").await, json!(["a", "a/"]));
    assert_eq!(list("secret/metadata?after=d/").await, json!(["z", "ä ö"]));
    for name in ["a/c/d", &deep] {
        rig.done(Delete, &format!("secret/metadata/{name}"), Value::Null).await;
    }
    assert_eq!(list("secret/metadata/").await, json!(["a", "a/", "z", "ä ö"]));
    rig.done(Delete, "secret/metadata/a/b", Value::Null).await;
    assert_eq!(list("secret/metadata/").await, json!(["a", "z", "ä ö"]));
    // adding and removing at once
    for _ in 0..20 {
        let write = rig.root(Write, "secret/data/r/x/1", json!({"data": {}}));
        let (wrote, _) = tokio::join!(write, rig.root(Delete, "secret/metadata/r/x/2", Value::Null));
        assert_eq!(wrote.0, 200);
        assert_eq!(list("secret/metadata/r/x").await, json!(["1"]));
        let (_, wrote) = tokio::join!(
            rig.root(Delete, "secret/metadata/r/x/1", Value::Null),
            rig.root(Write, "secret/data/r/x/2", json!({"data": {}})),
        );
        assert_eq!(wrote.0, 200);
        assert_eq!(list("secret/metadata/r/x").await, json!(["2"]));
        assert_eq!(list("secret/metadata/r").await, json!(["x/"]));
    }
}

#[tokio::test]
async fn old_versions_go_with_their_data() {
    let rig = Rig::new().await;
    rig.done(Write, "secret/metadata/v", json!({"max_versions": 2, "custom_metadata": {"owner": "me"}})).await;
    for n in 0..5 {
        rig.done(Write, "secret/data/v", json!({"data": {"n": n}})).await;
    }
    let meta = rig.done(Read, "secret/metadata/v", Value::Null).await;
    let versions: Vec<_> = meta["versions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!((versions.join(","), &meta["oldest_version"]), ("4,5".into(), &json!(4)));
    assert_eq!(meta["custom_metadata"], json!({"owner": "me"}));
    assert_eq!(rows(&rig, "d").await, 2);
    rig.done(Write, "secret/metadata/v", json!({"delete_version_after": "1h"})).await;
    rig.done(Write, "secret/data/v", json!({"data": {"n": 6}})).await;
    rig.clock.advance(Duration::from_secs(3599));
    assert_eq!(rig.root(Read, "secret/data/v", Value::Null).await.0, 200);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.root(Read, "secret/data/v", Value::Null).await.0, 404);
    for (body, status) in [
        (json!({"max_versions": 101}), 400),
        (json!({"max_versions": -1}), 400),
        (json!({"custom_metadata": {"a": 1}}), 400),
        (json!({"custom_metadata": {"a": "x".repeat(513)}}), 400),
        (json!({"delete_version_after": "soon"}), 400),
    ] {
        assert_eq!(rig.root(Write, "secret/metadata/v", body.clone()).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn a_write_leaves_one_leaf_with_its_change_and_a_read_one_without_the_secret() {
    let rig = Rig::new().await;
    let (_, told) = rig.recorded(rig.done(Write, "secret/data/s", json!({"data": {"pw": "canary-value"}}))).await;
    assert_eq!(
        (told.len(), &told[0]["operation"], &told[0]["path"]),
        (1, &json!("VaultWrite"), &json!("secret/data/s"))
    );
    assert!(told[0]["changes"].as_array().unwrap().len() >= 3);
    let (_, told) = rig.recorded(rig.done(Read, "secret/data/s", Value::Null)).await;
    assert_eq!((told.len(), &told[0]["operation"], &told[0]["outcome"]), (1, &json!("VaultRead"), &json!("done")));
    assert!(rig.records().iter().all(|record| !record.to_string().contains("canary-value")));
    let tenant = storage::EntryPath::parse(&hex::encode(crate::rig::TENANT)).unwrap();
    let page = rig.store.scan(&tenant, None, 1000, storage::AtLeast::Latest);
    for (path, entry) in page.await.unwrap().entries {
        assert!(!entry.value.windows(12).any(|window| window == b"canary-value"), "{path}");
    }
}

#[tokio::test]
async fn the_other_engines_keep_one_value_and_a_cubbyhole_is_its_tokens_own() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/mounts/old", json!({"type": "kv", "options": {"version": "1"}})).await;
    let all = r#""create", "read", "update", "delete", "list""#;
    let policy = ["old", "cubbyhole"].map(|at| format!(r#"path "{at}/*" {{ capabilities = [{all}] }}"#)).concat();
    let (mine, other) = (minted(&rig, "both", &policy).await, minted(&rig, "both", &policy).await);
    let stranger = minted(&rig, "none", r#"path "nothing" { capabilities = ["read"] }"#).await;
    let ask = async |token: &str, verb, path: &str, body| {
        rig.ask(verb, path, body, With { token: Some(token), ..With::default() }).await
    };
    for (at, seen) in [("old", 200), ("cubbyhole", 404)] {
        let path = format!("{at}/a/b");
        assert_eq!(ask(&mine, Write, &path, json!({"pw": "x", "n": 1})).await.0, 204);
        assert_eq!(ask(&mine, Read, &path, Value::Null).await.1["data"], json!({"pw": "x", "n": 1}));
        assert_eq!(ask(&mine, List, &format!("{at}/a"), Value::Null).await.1["data"]["keys"], json!(["b"]));
        assert_eq!(ask(&mine, Write, &path, Value::Null).await.0, 400);
        // who may at that path, even root, sees its own
        for who in [other.as_str(), crate::rig::ROOT] {
            assert_eq!(ask(who, Read, &path, Value::Null).await.0, seen, "{at}");
            assert_eq!(ask(who, List, &format!("{at}/a"), Value::Null).await.0, seen, "{at}");
        }
        for verb in [Read, List, Write, Delete] {
            assert_eq!(ask(&stranger, verb, &path, Value::Null).await.0, 403, "{at}");
        }
        assert_eq!(ask(&other, Write, &path, json!({"pw": "y"})).await.0, 204);
        let now = if at == "old" { "y" } else { "x" };
        assert_eq!(ask(&mine, Read, &path, Value::Null).await.1["data"]["pw"], now, "{at}");
        assert_eq!(ask(crate::rig::ROOT, Delete, &path, Value::Null).await.0, 204);
        assert_eq!(ask(&mine, Read, &path, Value::Null).await.0, if at == "old" { 404 } else { 200 });
        ask(&mine, Delete, &path, Value::Null).await;
        assert_eq!(ask(&mine, List, &format!("{at}/a"), Value::Null).await.0, 404);
    }
    assert_eq!(ask(&other, Read, "cubbyhole/a/b", Value::Null).await.1["data"]["pw"], "y");
}

#[tokio::test]
async fn a_pending_version_that_is_deleted_is_promoted_by_nobody_and_another_takes_its_place() {
    let rig = Rig::new().await;
    let (url, served) = crate::jwt::issuer().await;
    rig.done(Write, "secret/data/a", json!({"data": {"pw": "first"}})).await;
    let how = json!({"hook_url": format!("{url}/hook"), "fields": "pw", "rotation_period": "1h"});
    rig.done(Write, "secret/rotation/a", how).await;
    let turn = async || {
        rig.clock.advance(Duration::from_secs(3600));
        vault::wait_on_others(&rig.vault, &rig.clock).await.unwrap();
        let state = rig.done(Read, "secret/rotation/a", Value::Null).await;
        (state["step"].as_str().unwrap().to_owned(), state["version"].clone())
    };
    // the hook is away: a version is pending, and somebody deletes it
    assert_eq!(turn().await, ("set".to_owned(), json!(2)));
    rig.done(Write, "secret/delete/a", json!({"versions": [2]})).await;
    served.lock().unwrap().0.insert("/hook", "done".to_owned());
    assert_eq!(turn().await.0, "create");
    let read = async || rig.done(Read, "secret/data/a", Value::Null).await;
    assert_eq!((&read().await["data"]["pw"], &read().await["metadata"]["version"]), (&json!("first"), &json!(1)));
    assert_eq!(turn().await, ("finish".to_owned(), json!(3)));
    assert_eq!(read().await["metadata"]["version"], 3);
    assert_ne!(read().await["data"]["pw"], "first");
}
