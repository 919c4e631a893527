//! Namespaces: nothing of one is another's; who is above may below, by the path from above; what is dropped is gone.

use crate::rig::{ROOT, Rig, With};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{self, Delete, List, Patch, Read, Write};

/// In a namespace, by a token.
fn within<'a>(namespace: &'a str, token: &'a str) -> With<'a> {
    With { token: Some(token), namespace, ..With::default() }
}

async fn asked(rig: &Rig, with: With<'_>, verb: Verb, path: &str, body: Value) -> (u16, Value) {
    rig.ask(verb, path, body, with).await
}

/// It must succeed: its body.
async fn done(rig: &Rig, with: With<'_>, verb: Verb, path: &str, body: Value) -> Value {
    let (status, told) = rig.ask(verb, path, body, with.clone()).await;
    assert!((200..300).contains(&status), "{:?} {path}: {status} {told}", with.namespace);
    told
}

/// Namespaces, made one below the other.
async fn made(rig: &Rig, paths: &[&str]) {
    for path in paths {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        done(rig, within(above, ROOT), Write, &format!("sys/namespaces/{name}"), Value::Null).await;
    }
}

/// A token of a namespace that may do this there; an orphan, so that it is nobody's child.
async fn minted(rig: &Rig, namespace: &str, policy: &str) -> String {
    let name = format!("p{}", rig.records().len());
    let policy = json!({ "policy": policy });
    done(rig, within(namespace, ROOT), Write, &format!("sys/policies/acl/{name}"), policy).await;
    let asked = json!({"policies": [name], "no_default_policy": true, "no_parent": true});
    let told = done(rig, within(namespace, ROOT), Write, "auth/token/create", asked).await;
    told["auth"]["client_token"].as_str().unwrap().to_owned()
}

const ALL: &str = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch", "sudo"] }"#;

#[tokio::test]
async fn namespaces_are_made_told_changed_listed_and_dropped() {
    let rig = Rig::new().await;
    let (status, _) = rig.root(List, "sys/namespaces", Value::Null).await;
    assert_eq!(status, 404);
    let made = rig.done(Write, "sys/namespaces/a", json!({"custom_metadata": {"team": "x", "n": "1"}})).await;
    let (id, uuid) = (made["id"].as_str().unwrap(), made["uuid"].as_str().unwrap());
    assert_eq!((id.len(), uuid.len()), (6, 36));
    let shown = json!({
        "id": id, "uuid": uuid, "path": "a/", "custom_metadata": {"team": "x", "n": "1"}, "tainted": false, "locked": false
    });
    assert_eq!(made, shown);
    assert_eq!(rig.done(Read, "sys/namespaces/a", Value::Null).await, shown);
    // again: the same one, and what is not given stays
    assert_eq!(rig.done(Write, "sys/namespaces/a", Value::Null).await, shown);
    let patched = rig.done(Patch, "sys/namespaces/a", json!({"custom_metadata": {"n": null, "m": "2"}})).await;
    assert_eq!(patched["custom_metadata"], json!({"team": "x", "m": "2"}));
    for (above, name) in [("a", "b"), ("a/b", "c"), ("", "z")] {
        let told = done(&rig, within(above, ROOT), Write, &format!("sys/namespaces/{name}"), Value::Null).await;
        let path = format!("{above}/{name}/");
        assert_eq!(told["data"]["path"], path.trim_start_matches('/'));
    }
    for (above, query, keys) in [
        ("", "", json!(["a/", "z/"])),
        ("", "?scan=true", json!(["a/", "a/b/", "a/b/c/", "z/"])),
        ("a", "", json!(["b/"])),
        ("a", "?scan=true", json!(["b/", "b/c/"])),
    ] {
        let told = done(&rig, within(above, ROOT), List, &format!("sys/namespaces{query}"), Value::Null).await;
        assert_eq!(told["data"]["keys"], keys, "{above} {query}");
        let first = keys[0].as_str().unwrap();
        let path = if above.is_empty() { first.to_owned() } else { format!("{above}/{first}") };
        assert_eq!(told["data"]["key_info"][first]["path"], path);
    }
    for (above, verb, path, status) in [
        ("", Write, "sys/namespaces/sys", 400),
        ("", Write, "sys/namespaces/root", 400),
        ("", Write, "sys/namespaces/a+b", 400),
        ("", Write, "sys/namespaces/a/b", 400),
        ("", Read, "sys/namespaces/a/b", 400),
        ("", Write, "sys/namespaces/secret", 400),
        ("", Write, "sys/mounts/z", 400),
        ("", Write, "sys/mounts/z/below", 400),
        ("", Write, "sys/namespaces/api-lock/lock", 400),
        ("", Read, "sys/namespaces/none", 404),
        ("", Patch, "sys/namespaces/none", 404),
        ("", Delete, "sys/namespaces/none", 200),
        ("", Delete, "sys/namespaces/a", 400),
        ("", Read, "sys/namespaces", 405),
        ("a/b", Delete, "sys/namespaces/c", 200),
        ("a", Delete, "sys/namespaces/b", 200),
        ("", Delete, "sys/namespaces/a", 200),
    ] {
        let body = if path.contains("mounts") { json!({"type": "kv"}) } else { Value::Null };
        let (found, told) = asked(&rig, within(above, ROOT), verb, path, body).await;
        assert_eq!(found, status, "{above} {verb:?} {path}: {told}");
    }
    for metadata in [json!({"k": "v".repeat(513)}), json!({"k".repeat(129): ""}), json!({"k": {"a": 1}}), json!("x=1")]
    {
        let (status, told) = rig.root(Write, "sys/namespaces/y", json!({ "custom_metadata": metadata })).await;
        assert_eq!(status, 400, "{told}");
    }
}

#[tokio::test]
async fn depth_is_bounded() {
    let rig = Rig::new().await;
    let mut above = String::new();
    for depth in 1..=8 {
        let (status, _) = asked(&rig, within(&above, ROOT), Write, "sys/namespaces/n", Value::Null).await;
        assert_eq!(status, if depth <= 7 { 200 } else { 429 }, "{depth}");
        above.push_str("n/");
    }
}

#[tokio::test]
async fn a_token_counts_in_its_own_namespace_and_below_and_nowhere_else() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b", "z"]).await;
    let mut tokens = vec![("", ROOT.to_owned())];
    for namespace in ["a", "a/b", "z"] {
        tokens.push((namespace, minted(&rig, namespace, ALL).await));
        done(&rig, within(namespace, ROOT), Write, "sys/mounts/secret", json!({"type": "kv-v2"})).await;
    }
    // the same mount, the same name, another secret
    for namespace in ["", "a", "a/b", "z"] {
        let secret = json!({"data": {"from": namespace}});
        done(&rig, within(namespace, ROOT), Write, "secret/data/x", secret).await;
    }
    for (home, token) in &tokens {
        for namespace in ["", "a", "a/b", "z"] {
            let above = home.is_empty() || namespace == *home || namespace.starts_with(&format!("{home}/"));
            // a policy of `*` is for what is below, too
            let (status, told) = asked(&rig, within(namespace, token), Read, "secret/data/x", Value::Null).await;
            assert_eq!(status, if above { 200 } else { 403 }, "of {home:?} in {namespace:?}: {told}");
            if above {
                assert_eq!(told["data"]["data"]["from"], namespace);
            }
            // by the path, by both, and by the header with slashes
            let by_path = format!("{namespace}/secret/data/x");
            let by_path = by_path.trim_start_matches('/');
            let (found, same) = asked(&rig, within("", token), Read, by_path, Value::Null).await;
            assert_eq!((found, &same["data"]), (status, &told["data"]), "of {home:?} at {by_path}");
            if let Some((first, rest)) = namespace.split_once('/') {
                let header = format!("/{first}/");
                let both =
                    asked(&rig, within(&header, token), Read, &format!("{rest}/secret/data/x"), Value::Null).await;
                assert_eq!(both.0, status);
            }
        }
    }
}

/// What of each face of a namespace a token of another one sees.
#[tokio::test]
async fn no_face_of_a_namespace_answers_a_token_of_another_one() {
    let rig = Rig::new().await;
    made(&rig, &["one", "two", "one/below"]).await;
    let one = minted(&rig, "one", ALL).await;
    let (two, below) = (minted(&rig, "two", ALL).await, minted(&rig, "one/below", ALL).await);
    for (path, kind) in [("sys/mounts/kv", "kv"), ("sys/mounts/transit", "transit"), ("sys/auth/userpass", "userpass")]
    {
        done(&rig, within("one", &one), Write, path, json!({ "type": kind })).await;
    }
    done(&rig, within("one", &one), Write, "auth/userpass/users/u", json!({"password": "correct horse"})).await;
    done(&rig, within("one", &one), Write, "transit/keys/k", Value::Null).await;
    let (status, told) = asked(&rig, within("one", &one), Read, "auth/token/lookup-self", Value::Null).await;
    assert_eq!((status, &told["data"]["namespace_path"]), (200, &json!("one/")));
    let accessor = told["data"]["accessor"].clone();
    for (verb, path, body) in [
        (Read, "kv/a", Value::Null),
        (Write, "kv/a", json!({"a": 1})),
        (List, "kv/", Value::Null),
        (Write, "transit/encrypt/k", json!({"plaintext": "AAAA"})),
        (Read, "sys/mounts", Value::Null),
        (Write, "sys/mounts/mine", json!({"type": "kv"})),
        (Write, "sys/policies/acl/only", json!({"policy": ALL})),
        (List, "sys/namespaces", Value::Null),
        (Write, "sys/namespaces/mine", Value::Null),
        (List, "auth/token/accessors", Value::Null),
        (Write, "auth/token/create", json!({"no_parent": true})),
        (Write, "auth/token/lookup-accessor", json!({"accessor": accessor})),
        (Write, "auth/token/revoke-accessor", json!({"accessor": accessor})),
        (Read, "auth/token/lookup-self", Value::Null),
        (Write, "sys/capabilities-self", json!({"paths": ["kv/a"]})),
        (Write, "identity/entity", json!({"name": "e"})),
        (Write, "cubbyhole/x", json!({"a": 1})),
        (List, "sys/leases/lookup/auth/token/create", Value::Null),
        (Write, "sys/quotas/rate-limit/q", json!({"rate": 1})),
        (Write, "sys/wrapping/wrap", json!({"a": 1})),
        (Read, "sys/internal/ui/mounts", Value::Null),
        (Read, "sys/internal/specs/openapi", Value::Null),
        (Read, "sys/health", Value::Null),
        (Read, "none/at/all", Value::Null),
    ] {
        for (whose, token) in [("a sibling's", &two), ("a child's", &below)] {
            let (status, told) = asked(&rig, within("one", token), verb, path, body.clone()).await;
            assert_eq!((status, &told), (403, &json!({"errors": ["permission denied"]})), "{whose} {verb:?} {path}");
        }
    }
    // and what it names of another one in its own is not found there
    for (path, body, status) in [
        ("auth/token/lookup", json!({ "token": one }), 403),
        ("auth/token/lookup-accessor", json!({ "accessor": accessor }), 403),
        ("auth/token/revoke-accessor", json!({ "accessor": accessor }), 400),
        ("auth/token/revoke", json!({ "token": one }), 204),
        ("sys/capabilities", json!({"token": one, "paths": ["a"]}), 400),
    ] {
        let (found, told) = asked(&rig, within("two", &two), Write, path, body).await;
        assert_eq!(found, status, "{path} {told}");
    }
    // which has harmed nobody
    done(&rig, within("one", &one), Read, "auth/token/lookup-self", Value::Null).await;
    // a login is its namespace's
    let password = json!({"password": "correct horse"});
    for (namespace, status) in [("one", 200), ("two", 403), ("", 403), ("one/below", 403)] {
        let with = With { namespace, ..With::default() };
        let (found, told) = rig.ask(Write, "auth/userpass/login/u", password.clone(), with).await;
        assert_eq!(found, status, "{namespace} {told}");
    }
}

#[tokio::test]
async fn who_is_above_may_what_its_policies_say_of_the_path_from_there() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b"]).await;
    done(&rig, within("a/b", ROOT), Write, "sys/mounts/kv", json!({"type": "kv"})).await;
    done(&rig, within("a/b", ROOT), Write, "kv/x", json!({"v": 1})).await;
    let policies = r#"
        path "b/kv/x" { capabilities = ["read"] }
        path "kv/y" { capabilities = ["read", "create", "update"] }
        path "b/sys/policies/acl/*" { capabilities = ["update", "read"] }
        path "b/sys/auth/*" { capabilities = ["update"] }
        path "b/auth/token/create" { capabilities = ["update"] }
        path "b/auth/token/create-orphan" { capabilities = ["update", "sudo"] }
        path "b/sys/capabilities-self" { capabilities = ["update"] }
    "#;
    let above = minted(&rig, "a", policies).await;
    for (verb, path, body, status) in [
        (Read, "kv/x", Value::Null, 200),
        // its rule for `kv/y` is of its own namespace
        (Read, "kv/y", Value::Null, 403),
        (Write, "kv/x", json!({"v": 2}), 403),
        (Write, "sys/policies/acl/p", json!({"policy": ALL}), 204),
        (Read, "sys/policies/acl/p", Value::Null, 200),
        // which takes sudo, too
        (Write, "sys/auth/userpass", json!({"type": "userpass"}), 403),
        // by sudo alone it may give policies of here
        (Write, "auth/token/create", json!({"policies": ["p"]}), 403),
        (Write, "auth/token/create", json!({"policies": ["default"]}), 200),
        (Write, "auth/token/create", Value::Null, 200),
        (Write, "auth/token/create-orphan", json!({"policies": ["p"]}), 200),
        (Write, "auth/token/create-orphan", json!({"policies": ["root"]}), 400),
        (Write, "auth/token/lookup-self", Value::Null, 200),
    ] {
        let (found, told) = asked(&rig, within("a/b", &above), verb, path, body).await;
        assert_eq!(found, status, "{verb:?} {path} {told}");
    }
    let told =
        done(&rig, within("a/b", &above), Write, "sys/capabilities-self", json!({"paths": ["kv/x", "kv/y"]})).await;
    assert_eq!((&told["data"]["kv/x"], &told["data"]["kv/y"]), (&json!(["read"]), &json!(["deny"])));
    // asked below, answered by its own
    let told = done(&rig, within("a/b", &above), Read, "auth/token/lookup-self", Value::Null).await;
    assert_eq!(told["data"]["namespace_path"], "a/");
    let told = done(&rig, within("a/b", ROOT), Read, "auth/token/lookup-self", Value::Null).await;
    assert_eq!((&told["data"]["namespace_path"], &told["data"]["policies"]), (&Value::Null, &json!(["root"])));
    // root makes no root here
    for body in [json!({"policies": ["root"]}), json!({"policies": ["root"], "no_parent": true})] {
        let (status, told) = asked(&rig, within("a", ROOT), Write, "auth/token/create", body).await;
        assert_eq!(status, 400, "{told}");
    }
}

#[tokio::test]
async fn what_a_token_of_above_makes_ends_with_it_and_an_orphan_does_not() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b"]).await;
    for (kind, revoke) in
        [("service", "auth/token/revoke"), ("batch", "auth/token/revoke"), ("service", "auth/token/revoke-orphan")]
    {
        let parent = minted(&rig, "a", ALL).await;
        let ask = async |body: Value, token: &str| {
            let told = done(&rig, within("a/b", token), Write, "auth/token/create", body).await;
            (told["auth"]["client_token"].as_str().unwrap().to_owned(), told["auth"]["orphan"].clone())
        };
        done(&rig, within("a/b", ROOT), Write, "sys/policies/acl/all", json!({ "policy": ALL })).await;
        let (child, orphan) = ask(json!({"policies": ["all"], "type": kind}), &parent).await;
        assert_eq!(orphan, false);
        let (orphan, is_one) = ask(json!({"policies": ["all"], "no_parent": true}), &parent).await;
        assert_eq!(is_one, true);
        let mut heirs = vec![child.clone()];
        if kind == "service" {
            heirs.push(ask(json!({"policies": ["all"]}), &child).await.0);
            heirs.push(ask(json!({"policies": ["all"], "type": "batch"}), &child).await.0);
        }
        for heir in &heirs {
            done(&rig, within("a/b", heir), Read, "sys/mounts", Value::Null).await;
        }
        let (status, _) = asked(&rig, within("a", ROOT), Write, revoke, json!({ "token": parent })).await;
        assert_eq!(status, 204);
        for heir in &heirs {
            let (status, _) = asked(&rig, within("a/b", heir), Read, "sys/mounts", Value::Null).await;
            assert_eq!(status, 403, "{kind} {revoke}");
        }
        done(&rig, within("a/b", &orphan), Read, "sys/mounts", Value::Null).await;
    }
    // no child outlives its parent
    done(&rig, within("a", ROOT), Write, "sys/policies/acl/strong", json!({ "policy": ALL })).await;
    let short = json!({"ttl": "1m", "policies": ["strong"]});
    let told = done(&rig, within("a", ROOT), Write, "auth/token/create", short).await;
    let parent = told["auth"]["client_token"].as_str().unwrap();
    let told = done(&rig, within("a/b", parent), Write, "auth/token/create", json!({"ttl": "1h"})).await;
    assert_eq!(told["auth"]["lease_duration"], 60);
}

#[tokio::test]
async fn what_is_dropped_is_gone_at_once_and_its_name_given_anew_sees_nothing() {
    let rig = Rig::new().await;
    made(&rig, &["a"]).await;
    let token = minted(&rig, "a", ALL).await;
    done(&rig, within("a", ROOT), Write, "sys/mounts/secret", json!({"type": "kv-v2"})).await;
    done(&rig, within("a", ROOT), Write, "sys/mounts/transit", json!({"type": "transit"})).await;
    done(&rig, within("a", ROOT), Write, "transit/keys/k", Value::Null).await;
    for n in 0..60 {
        done(&rig, within("a", &token), Write, &format!("secret/data/x{n}"), json!({"data": {"n": n}})).await;
    }
    let wrapped =
        rig.ask(Read, "secret/data/x1", Value::Null, With { wrap_secs: Some(600), ..within("a", &token) }).await;
    let wrapped = wrapped.1["wrap_info"]["token"].as_str().unwrap().to_owned();
    let stored = async || {
        let all = crate::rig::everything_stored(&rig).await;
        all.into_iter().filter(|(path, _)| path.split('/').nth(1) == Some("ns")).count()
    };
    assert!(stored().await > 120);
    rig.done(Delete, "sys/namespaces/a", Value::Null).await;
    let gone = [(within("a", &token), 403), (within("a", ROOT), 404), (within("", &token), 403)];
    for (with, status) in gone {
        let (found, told) = asked(&rig, with, Read, "secret/data/x1", Value::Null).await;
        assert_eq!(found, status, "{told}");
    }
    let (status, _) = rig.ask(Write, "sys/wrapping/unwrap", json!({ "token": wrapped }), With::default()).await;
    assert_eq!(status, 400);
    // anew
    made(&rig, &["a"]).await;
    let (status, _) = asked(&rig, within("a", &token), Read, "sys/mounts", Value::Null).await;
    assert_eq!(status, 403);
    let told = done(&rig, within("a", ROOT), Read, "sys/mounts", Value::Null).await;
    assert!(told["data"].get("secret/").is_none(), "{told}");
    done(&rig, within("a", ROOT), Write, "sys/mounts/secret", json!({"type": "kv-v2"})).await;
    let (status, _) = asked(&rig, within("a", ROOT), Read, "secret/data/x1", Value::Null).await;
    assert_eq!(status, 404);
    done(&rig, within("a", ROOT), Write, "secret/data/x1", json!({"data": {"new": 1}})).await;
    // a page at a time, and the mark last of all
    let before = stored().await;
    while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    assert!(stored().await < before - 120);
    let marks = async || {
        let all = crate::rig::everything_stored(&rig).await;
        all.iter().filter(|(path, _)| path.contains("/gone-namespaces/")).count()
    };
    assert_eq!(marks().await, 1);
    rig.clock.advance(Duration::from_secs(61));
    while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    assert_eq!(marks().await, 0);
    let told = done(&rig, within("a", ROOT), Read, "secret/data/x1", Value::Null).await;
    assert_eq!(told["data"]["data"]["new"], 1);
}

#[tokio::test]
async fn strangers_do_not_learn_which_namespaces_there_are() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b"]).await;
    let (nobody, weak) = (None, minted(&rig, "a", r#"path "kv/*" { capabilities = ["read"] }"#).await);
    let (strong, denied) = (minted(&rig, "a", ALL).await, json!({"errors": ["permission denied"]}));
    for (token, namespace, path, status) in [
        (nobody, "none", "secret/data/x", 403),
        (nobody, "a", "secret/data/x", 403),
        (nobody, "none", "auth/userpass/login/u", 403),
        (nobody, "a", "auth/userpass/login/u", 403),
        (nobody, "none", "sys/health", 403),
        (nobody, "a", "sys/health", 403),
        (Some("sr.nobodys-token-at-all"), "none", "secret/data/x", 403),
        (Some(weak.as_str()), "a/none", "secret/data/x", 403),
        (Some(weak.as_str()), "a/b", "secret/data/x", 403),
        (Some(weak.as_str()), "none", "secret/data/x", 403),
        (Some(weak.as_str()), "a/b", "auth/token/lookup-self", 403),
        (Some(weak.as_str()), "a/none", "auth/token/lookup-self", 403),
        (Some(weak.as_str()), "a/b", "sys/internal/ui/mounts", 403),
        (Some(weak.as_str()), "a/none", "sys/internal/ui/mounts", 403),
        (Some(weak.as_str()), "a/b", "sys/health", 403),
        (Some(strong.as_str()), "a/none", "secret/data/x", 404),
        (Some(ROOT), "a/none", "secret/data/x", 404),
        (Some(ROOT), "none", "secret/data/x", 404),
    ] {
        let with = With { token, namespace, ..With::default() };
        let verb = if path.contains("login") { Write } else { Read };
        let ((found, told), records) = rig.recorded(rig.ask(verb, path, Value::Null, with)).await;
        assert_eq!(found, status, "{namespace} {path} {told}");
        assert_eq!(told == denied, status == 403, "{told}");
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!((&records[0]["namespace"], &records[0]["path"]), (&json!(format!("{namespace}/")), &json!(path)));
        let stranger = records[0]["subject"]["type"] == "unauthenticated";
        let known = token == Some(ROOT)
            || namespace.starts_with('a') && token.is_some_and(|token| token.matches('.').count() == 2);
        assert_eq!(stranger, !known, "{records:?}");
    }
}

#[tokio::test]
async fn what_is_the_roots_is_told_to_nobody_in_a_namespace() {
    let rig = Rig::new().await;
    made(&rig, &["a"]).await;
    let own = minted(&rig, "a", ALL).await;
    for (verb, path) in [
        (Read, "sys/health"),
        (Read, "sys/seal-status"),
        (Read, "sys/leader"),
        (Read, "sys/ha-status"),
        (Read, "sys/init"),
        (Write, "sys/init"),
        (Write, "sys/unseal"),
        (Write, "sys/seal"),
        (Write, "sys/rotate"),
        (Write, "sys/rotate/keyring"),
        (Read, "sys/key-status"),
        (Read, "sys/audit"),
        (Write, "sys/audit-hash/file"),
        (Read, "sys/quotas/config"),
        (Write, "sys/step-down"),
        (Write, "sys/generate-root/attempt"),
        (Write, "sys/rekey/init"),
    ] {
        for token in [ROOT, &own] {
            let (status, told) = asked(&rig, within("a", token), verb, path, Value::Null).await;
            assert_eq!((status, told), (400, json!({"errors": ["unsupported path"]})), "{path}");
        }
    }
    // nobody would take back what it lends
    let (status, told) = asked(&rig, within("a", &own), Write, "sys/mounts/db", json!({"type": "database"})).await;
    assert_eq!(status, 400, "{told}");
    for path in ["sys/mounts", "sys/leases/count", "sys/internal/specs/openapi", "sys/policy"] {
        done(&rig, within("a", &own), Read, path, Value::Null).await;
    }
    let told = done(&rig, within("a", &own), Read, "sys/internal/specs/openapi", Value::Null).await;
    assert!(told["paths"].get("/sys/namespaces").is_some() && told["paths"].get("/sys/seal-status").is_none());
}

#[tokio::test]
async fn a_wrapped_answer_is_found_by_its_token_whatever_is_asked_in() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b", "z"]).await;
    for asked_in in ["", "a", "a/b", "z"] {
        let with = With { wrap_secs: Some(60), ..within("a", ROOT) };
        let told = done(&rig, with, Write, "sys/wrapping/wrap", json!({"v": 1})).await;
        let first = told["wrap_info"]["token"].as_str().unwrap();
        let nobody = With { namespace: asked_in, ..With::default() };
        let told = done(&rig, nobody.clone(), Write, "sys/wrapping/rewrap", json!({ "token": first })).await;
        let second = told["wrap_info"]["token"].as_str().unwrap();
        assert_eq!(first.rsplit('.').next(), second.rsplit('.').next());
        done(&rig, nobody.clone(), Write, "sys/wrapping/lookup", json!({ "token": second })).await;
        let told = done(&rig, nobody.clone(), Write, "sys/wrapping/unwrap", json!({ "token": second })).await;
        assert_eq!(told["data"]["v"], 1);
        for token in [first, second] {
            let (status, _) = rig.ask(Write, "sys/wrapping/unwrap", json!({ "token": token }), nobody.clone()).await;
            assert_eq!(status, 400);
        }
    }
}

#[tokio::test]
async fn a_wrapping_token_does_not_tell_which_namespaces_there_are() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b"]).await;
    let weak = minted(&rig, "", r#"path "x" { capabilities = ["read"] }"#).await;
    let with = With { wrap_secs: Some(60), ..within("", ROOT) };
    let told = done(&rig, with, Write, "sys/wrapping/wrap", json!({"v": 1})).await;
    let own = told["wrap_info"]["token"].as_str().unwrap().to_owned();
    let accessor = told["wrap_info"]["accessor"].clone();
    for (verb, last) in [(Write, "lookup"), (Read, "lookup"), (Write, "unwrap"), (Write, "rewrap")] {
        for body in [json!({"token": "srw.unknown"}), json!({ "token": own }), json!({ "accessor": accessor })] {
            if last != "lookup" && body["token"] == own.as_str() {
                continue;
            }
            for token in [None, Some(weak.as_str()), Some(own.as_str())] {
                if last != "lookup" && token == Some(own.as_str()) {
                    continue;
                }
                let mut answers = Vec::new();
                for (namespace, path) in
                    [("a", ""), ("none", ""), ("a/b", ""), ("a/none", ""), ("", "a/"), ("", "none/")]
                {
                    let with = With { token, namespace, ..With::default() };
                    let path = format!("{path}sys/wrapping/{last}");
                    let (answer, records) = rig.recorded(rig.ask(verb, &path, body.clone(), with)).await;
                    assert_eq!(records.len(), 1, "{path} {records:?}");
                    assert!(records[0]["namespace"].is_string() || answer.0 == 403, "{path} {records:?}");
                    answers.push((answer.0, answer.1["errors"].clone(), answer.1["data"].clone()));
                }
                assert!(answers.iter().all(|answer| *answer == answers[0]), "{last} {body} {token:?} {answers:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_told_of_rules_and_of_who_is_locked_out_is_of_the_namespace_that_is_asked_in() {
    let rig = Rig::new().await;
    made(&rig, &["a"]).await;
    let policy = r#"path "a/secret/data/x" { capabilities = ["read"] }
                    path "+/secret/data/y" { capabilities = ["list"] }
                    path "a/secret/*" { capabilities = ["update"] }
                    path "b/secret/*" { capabilities = ["update"] }
                    path "a*" { capabilities = ["create"] }
                    path "secret/data/z" { capabilities = ["read"] }"#;
    let from_above = minted(&rig, "", policy).await;
    let told = done(&rig, within("a", &from_above), Read, "sys/internal/ui/resultant-acl", Value::Null).await;
    let given = |capability: &str| json!({ "capabilities": [capability] });
    assert_eq!(
        told["data"]["exact_paths"],
        json!({"secret/data/x": given("read"), "secret/data/y": given("list")}),
        "{told}"
    );
    assert_eq!(told["data"]["glob_paths"], json!({"secret/": given("update"), "": given("create")}));
    done(&rig, within("a", ROOT), Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    done(&rig, within("a", ROOT), Write, "auth/userpass/users/u", json!({"password": "the right password"})).await;
    for _ in 0..5 {
        let with = With { namespace: "a", ..With::default() };
        rig.ask(Write, "auth/userpass/login/u", json!({"password": "a wrong one"}), with).await;
    }
    let told = done(&rig, within("a", ROOT), Read, "sys/locked-users", Value::Null).await;
    let own = &told["data"]["by_namespace"][0];
    let id = done(&rig, within("", ROOT), Read, "sys/namespaces/a", Value::Null).await["data"]["id"].clone();
    assert_eq!(
        (&own["namespace_path"], &own["namespace_id"], &own["counts"]),
        (&json!("a/"), &id, &json!(1)),
        "{told}"
    );
    let told = done(&rig, within("", ROOT), Read, "sys/locked-users", Value::Null).await;
    assert_eq!(told["data"]["total"], 0);
}

#[tokio::test]
async fn records_tell_the_namespace_and_changes_of_it_too() {
    let rig = Rig::new().await;
    made(&rig, &["a"]).await;
    let own = minted(&rig, "a", ALL).await;
    for (verb, path, body) in [
        (Write, "sys/mounts/kv", json!({"type": "kv"})),
        (Write, "kv/x", json!({"v": 1})),
        (Read, "kv/x", Value::Null),
        (Write, "sys/policies/acl/p", json!({"policy": ALL})),
        (Write, "auth/token/create", Value::Null),
        (Read, "auth/token/lookup-self", Value::Null),
        (Write, "sys/mounts/transit", json!({"type": "transit"})),
        (Write, "transit/keys/k", Value::Null),
        (Write, "transit/encrypt/k", json!({"plaintext": "AAAA"})),
        (Read, "sys/health", Value::Null),
    ] {
        let (_, records) = rig.recorded(asked(&rig, within("a", &own), verb, path, body)).await;
        assert!(!records.is_empty() && records.iter().all(|record| record["namespace"] == "a/"), "{path} {records:?}");
    }
    let (_, records) = rig.recorded(rig.root(Read, "sys/mounts", Value::Null)).await;
    assert_eq!(records[0].get("namespace"), None);
}

#[tokio::test]
async fn rules_of_the_root_count_on_the_whole_path_and_those_of_a_namespace_in_it_alone() {
    let rig = Rig::new().await;
    made(&rig, &["a", "z"]).await;
    done(&rig, within("a", ROOT), Write, "sys/quotas/rate-limit/own", json!({"rate": 2, "path": "kv"})).await;
    rig.done(Write, "sys/quotas/rate-limit/all", json!({"rate": 3, "path": "z/"})).await;
    let passed = async |namespace: &str, path: &str| {
        let mut passed = 0;
        for _ in 0..10 {
            let (status, _) = asked(&rig, within(namespace, ROOT), Read, path, Value::Null).await;
            passed += u32::from(status != 429);
        }
        passed
    };
    for (namespace, path, expected) in
        [("a", "kv/x", 2), ("", "kv/x", 10), ("z", "kv/x", 3), ("a", "sys/mounts", 10), ("", "z/kv/x", 0)]
    {
        assert_eq!(passed(namespace, path).await, expected, "{namespace} {path}");
    }
}

#[tokio::test]
async fn another_node_hears_of_namespaces_and_of_their_end() {
    let rig = Rig::new().await;
    let node = rig.another_node();
    let other = |token| With { node: Some(&node), ..within("a", token) };
    let (status, _) = asked(&rig, other(ROOT), Read, "sys/mounts", Value::Null).await;
    assert_eq!(status, 404);
    made(&rig, &["a"]).await;
    let token = minted(&rig, "a", ALL).await;
    for expected in [200, 403] {
        let mut found = 0;
        for _ in 0..100 {
            found = asked(&rig, other(&token), Read, "sys/mounts", Value::Null).await.0;
            if found == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(found, expected);
        rig.done(Delete, "sys/namespaces/a", Value::Null).await;
    }
}

#[tokio::test]
async fn what_is_over_is_swept_up_and_what_is_due_is_rotated_in_namespaces_too() {
    let rig = Rig::new().await;
    made(&rig, &["a", "a/b"]).await;
    let over = async || {
        let all = crate::rig::everything_stored(&rig).await;
        all.iter().filter(|(path, _)| path.contains("/ns/") && path.contains("/identity/tokens/")).count()
    };
    for namespace in ["a", "a/b"] {
        let short = json!({"ttl": "1m", "policies": ["default"], "no_parent": true});
        done(&rig, within(namespace, ROOT), Write, "auth/token/create", short).await;
        done(&rig, within(namespace, ROOT), Write, "sys/mounts/transit", json!({"type": "transit"})).await;
        let key = json!({"auto_rotate_period": "1h"});
        done(&rig, within(namespace, ROOT), Write, "transit/keys/k", key).await;
    }
    assert_eq!(over().await, 2);
    rig.clock.advance(Duration::from_secs(2 * 3600));
    while vault::sweep_namespaces(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    while vault::tend(&rig.vault, rig.clock_now()).await.unwrap() > 0 {}
    assert_eq!(over().await, 0);
    for namespace in ["a", "a/b"] {
        let told = done(&rig, within(namespace, ROOT), Read, "transit/keys/k", Value::Null).await;
        assert_eq!(told["data"]["latest_version"], 2, "{namespace}");
    }
    // one after the other, each once
    let mut seen = Vec::new();
    while let Some(next) = vault::next_namespace(&rig.vault, seen.last().map_or("", String::as_str)).await.unwrap() {
        seen.push(next.namespace().to_owned());
    }
    assert_eq!(seen, ["a/", "a/b/"]);
}
