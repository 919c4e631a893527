//! The system's own paths.

use crate::rig::{Rig, With};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{self, Delete, List, Patch, Read, Write};

async fn token(rig: &Rig, path: &str, body: Value) -> (String, String) {
    let (status, answer) = rig.root(Write, path, body).await;
    assert_eq!(status, 200, "{answer}");
    let text = |name: &str| answer["auth"][name].as_str().unwrap().to_owned();
    (text("client_token"), text("accessor"))
}

async fn by(rig: &Rig, token: &str, verb: Verb, path: &str, body: Value) -> (u16, Value) {
    rig.ask(verb, path, body, With { token: Some(token), ..With::default() }).await
}

#[tokio::test]
async fn capabilities_are_told_of_oneself_and_of_others() {
    let rig = Rig::new().await;
    let policy = r#"path "a/*" { capabilities = ["read", "list"] } path "a/b" { capabilities = ["deny"] }"#;
    rig.done(Write, "sys/policies/acl/p", json!({"policy": policy})).await;
    let (of, accessor) = token(&rig, "auth/token/create", json!({"policies": ["p"], "num_uses": 9})).await;
    let expected = json!({"a/x": ["list", "read"], "a/b": ["deny"], "other": ["deny"]});
    let paths = json!(["a/x", "a/b", "other"]);
    for (path, body) in [
        ("sys/capabilities", json!({"token": of, "paths": paths})),
        ("sys/capabilities-accessor", json!({"accessor": accessor, "paths": paths})),
    ] {
        let (status, body) = rig.root(Write, path, body).await;
        assert_eq!((status, &body["data"], &body["a/x"]), (200, &expected, &json!(["list", "read"])), "{path}");
    }
    let own = by(&rig, &of, Write, "sys/capabilities-self", json!({"path": "a/x"})).await.1;
    assert_eq!(own["data"]["capabilities"], json!(["list", "read"]));
    // who was asked about spent no use but its own
    let left = rig.done(Write, "auth/token/lookup", json!({"token": of})).await;
    assert_eq!(left["num_uses"], 8);
    for (path, body, told) in [
        ("sys/capabilities", json!({"paths": ["a"]}), "token"),
        ("sys/capabilities", json!({"token": "sr.nobodys-token-at-all", "paths": ["a"]}), "invalid token"),
        ("sys/capabilities-accessor", json!({"accessor": "0".repeat(32), "paths": ["a"]}), "invalid accessor"),
        ("sys/capabilities", json!({"token": of}), "paths"),
        ("sys/capabilities", json!({"token": of, "paths": vec!["a"; 257]}), "paths"),
    ] {
        let (status, body) = rig.root(Write, path, body).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().contains(told), "{path} {body}");
    }
    assert_eq!(by(&rig, &of, Write, "sys/capabilities", json!({"token": of, "paths": ["a"]})).await.0, 403);
}

#[tokio::test]
async fn what_was_lent_is_found_by_its_lease_and_taken_back_by_it_or_by_prefix() {
    let rig = Rig::new().await;
    rig.done(Write, "auth/token/roles/ci", json!({"orphan": true})).await;
    let (lone, _) = token(&rig, "auth/token/create", json!({"policies": ["p"], "ttl": "1h"})).await;
    let mut ci = Vec::new();
    for _ in 0..37 {
        ci.push(token(&rig, "auth/token/create/ci", json!({"policies": ["p"], "ttl": "1h"})).await.0);
    }
    let alive = async |token: &str| by(&rig, token, Read, "auth/token/lookup-self", Value::Null).await.0 == 200;
    assert_eq!(rig.done(List, "sys/leases/lookup/auth", Value::Null).await["keys"], json!(["token/"]));
    let below = rig.done(List, "sys/leases/lookup/auth/token/create/", Value::Null).await;
    let names = below["keys"].as_array().unwrap();
    assert_eq!((names.len(), &names[0]), (2, &json!("ci/")));
    let lease = format!("auth/token/create/{}", names[1].as_str().unwrap());
    rig.clock.advance(Duration::from_secs(60));
    let shown = rig.done(Write, "sys/leases/lookup", json!({"lease_id": lease})).await;
    assert_eq!(
        shown,
        json!({
            "id": lease, "issue_time": "2023-11-14T22:13:20Z", "expire_time": "2023-11-14T23:13:20Z",
            "last_renewal": null, "renewable": true, "ttl": 3540,
        })
    );
    let counted = rig.done(Read, "sys/leases/count", Value::Null).await;
    assert_eq!(counted, json!({"lease_count": 38, "counts": {"auth/token/": 38}}));
    let (answer, records) = rig.recorded(rig.root(Write, "sys/leases/revoke", json!({"lease_id": lease}))).await;
    assert_eq!((answer.0, records.len(), alive(&lone).await, alive(&ci[0]).await), (204, 1, false, true));
    for (path, body) in [
        ("sys/leases/lookup", json!({"lease_id": lease})),
        ("sys/leases/revoke", json!({"lease_id": "auth/token/create/hxyz"})),
        ("sys/leases/revoke", json!({"lease_id": "none"})),
        ("sys/leases/revoke", json!({})),
        ("sys/leases/renew", json!({"lease_id": lease})),
    ] {
        assert_eq!(rig.root(Write, path, body).await.0, 400, "{path}");
    }
    let (status, _) = rig.root(Write, "sys/leases/revoke-prefix/auth/token/create/c", Value::Null).await;
    assert!(status == 204 && alive(&ci[36]).await, "a prefix ends with its segment");
    assert_eq!(rig.root(Write, "sys/leases/revoke-prefix/auth/token/create/ci", json!({"sync": true})).await.0, 204);
    for token in &ci {
        assert!(!alive(token).await);
    }
    assert_eq!(rig.root(List, "sys/leases/lookup/auth/", Value::Null).await.0, 404);
    assert_eq!(rig.root(Write, "sys/leases/tidy", Value::Null).await.0, 202);
}

#[tokio::test]
async fn taking_back_below_a_prefix_takes_sudo() {
    let rig = Rig::new().await;
    for (name, more) in [("weak", ""), ("strong", r#", "sudo""#)] {
        let policy = format!(r#"path "sys/leases/*" {{ capabilities = ["update", "list"{more}] }}"#);
        rig.done(Write, &format!("sys/policies/acl/{name}"), json!({"policy": policy})).await;
    }
    for (policy, status) in [("weak", 403), ("strong", 204)] {
        let (token, _) = token(&rig, "auth/token/create", json!({"policies": [policy]})).await;
        for path in ["sys/leases/revoke-prefix/auth/approle", "sys/leases/revoke-force/auth/approle"] {
            assert_eq!(by(&rig, &token, Write, path, Value::Null).await.0, status, "{policy} {path}");
        }
    }
}

#[tokio::test]
async fn random_bytes_are_as_many_as_asked_for_from_where_it_is_asked() {
    let rig = Rig::new().await;
    let mut seen = std::collections::BTreeSet::new();
    for (path, body, bytes) in [
        ("", json!({}), Some(32)),
        ("/164", json!({"format": "hex"}), Some(164)),
        ("/platform", json!({"bytes": 1024}), Some(1024)),
        ("/seal/33", json!({"format": "hex"}), Some(33)),
        ("/all/64", json!({}), Some(64)),
        ("", json!({"source": "seal", "bytes": "16"}), Some(16)),
        ("/0", json!({}), None),
        ("/1025", json!({}), None),
        ("/99999999999", json!({}), None),
        ("/other/3", json!({}), None),
        ("/seal/x", json!({}), None),
        ("", json!({"format": "octal"}), None),
        ("", json!({"bytes": -1}), None),
    ] {
        let (answer, records) = rig.recorded(rig.root(Write, &format!("sys/tools/random{path}"), body.clone())).await;
        let text = answer.1["data"]["random_bytes"].as_str().unwrap_or_default().to_owned();
        let expected = bytes.map(|bytes: usize| match body["format"].as_str() {
            Some("hex") => bytes * 2,
            _ => bytes.div_ceil(3) * 4,
        });
        assert_eq!(
            (answer.0, text.len()),
            (if bytes.is_some() { 200 } else { 400 }, expected.unwrap_or(0)),
            "{path} {body}"
        );
        assert!(records.len() == 1 && (bytes.is_none() || seen.insert(text)));
    }
}

#[tokio::test]
async fn hashes_are_those_of_fips_180() {
    let rig = Rig::new().await;
    // FIPS 180-4's "abc"
    for (path, body, sum) in [
        ("/sha2-224", json!({}), "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("", json!({}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("/sha2-256", json!({"format": "base64"}), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
        (
            "",
            json!({"algorithm": "sha2-384"}),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            "/sha2-512",
            json!({}),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ] {
        let mut body = body;
        body["input"] = json!("YWJj");
        assert_eq!(rig.done(Write, &format!("sys/tools/hash{path}"), body).await, json!({"sum": sum}), "{path}");
    }
    for (path, body, field) in [
        ("/sha3-256", json!({"input": "YWJj"}), "SHA-3"),
        ("/md5", json!({"input": "YWJj"}), "algorithm"),
        ("", json!({"input": "no base64!"}), "input"),
        ("", json!({}), "input"),
    ] {
        let (status, body) = rig.root(Write, &format!("sys/tools/hash{path}"), body).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().contains(field), "{path} {body}");
    }
}

#[tokio::test]
async fn the_log_is_shown_cannot_be_turned_off_and_its_hashes_are_told() {
    let rig = Rig::new().await;
    let log = rig.done(Read, "sys/audit", Value::Null).await;
    assert_eq!((&log["strongroom/"]["type"], &log["strongroom/"]["path"]), (&json!("log"), &json!("strongroom/")));
    for (verb, path) in [(Write, "sys/audit/file"), (Delete, "sys/audit/strongroom"), (Delete, "sys/audit/file")] {
        let (status, body) = rig.root(verb, path, json!({"type": "file", "options": {"file_path": "/x"}})).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().contains("always on"), "{body}");
    }
    // what a record tells of a changed entry is what the hash of its path is
    let (_, records) = rig.recorded(rig.done(Write, "sys/policies/password/p", json!({"policy": DICE}))).await;
    let tenant = storage::EntryPath::parse(&hex(&crate::rig::TENANT)).unwrap();
    let page = rig.store.scan(&tenant, None, 1000, storage::AtLeast::Latest).await.unwrap();
    let entry = page.entries.iter().find(|(path, _)| path.as_str().contains("password-policies")).unwrap();
    let hash = rig.done(Write, "sys/audit-hash/strongroom", json!({"input": entry.0.as_str()})).await;
    let hash = hash["hash"].as_str().unwrap().strip_prefix("hmac-sha256:").unwrap().to_owned();
    assert!(hash.len() == 64 && records[0].to_string().contains(&hash), "{hash} {}", records[0]);
    assert_eq!(rig.root(Write, "sys/audit-hash/other", json!({"input": "a"})).await.0, 400);
    assert_eq!(rig.root(Write, "sys/audit-hash/strongroom", json!({})).await.0, 400);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const DICE: &str = "length = 9\nrule \"charset\" {\n  charset = \"123456\"\n  min-chars = 3\n}\n";

#[tokio::test]
async fn password_policies_are_kept_and_make_passwords() {
    let rig = Rig::new().await;
    assert_eq!(rig.root(List, "sys/policies/password", Value::Null).await.0, 404);
    let base64 = "bGVuZ3RoID0gNwpydWxlICJjaGFyc2V0IiB7IGNoYXJzZXQgPSAieHl6IiB9Cg==";
    for (name, policy) in [("Dice", DICE), ("base64", base64)] {
        rig.done(Write, &format!("sys/policies/password/{name}"), json!({"policy": policy})).await;
    }
    assert_eq!(rig.done(List, "sys/policies/password", Value::Null).await, json!({"keys": ["base64", "dice"]}));
    assert_eq!(rig.done(Read, "sys/policies/password/dice", Value::Null).await, json!({"policy": DICE}));
    let mut seen = std::collections::BTreeSet::new();
    for (name, length, charset) in [("dice", 9, "123456"), ("base64", 7, "xyz")] {
        for _ in 0..20 {
            let made = rig.done(Read, &format!("sys/policies/password/{name}/generate"), Value::Null).await;
            let password = made["password"].as_str().unwrap().to_owned();
            assert!(password.len() == length && password.chars().all(|c| charset.contains(c)), "{password}");
            seen.insert(password);
        }
    }
    assert!(seen.len() > 30);
    for (path, body, status) in [
        ("sys/policies/password/p", json!({"policy": "length = 3"}), 400),
        ("sys/policies/password/p", json!({}), 400),
        ("sys/policies/password/a%20b", json!({"policy": DICE}), 400),
        ("sys/policies/password", json!({"policy": DICE}), 405),
        ("sys/policies/password/p/generate", json!({}), 405),
        ("sys/policies/password/p/other", json!({}), 404),
    ] {
        assert_eq!(rig.root(Write, path, body).await.0, status, "{path}");
    }
    rig.done(Delete, "sys/policies/password/dice", Value::Null).await;
    for path in ["sys/policies/password/dice", "sys/policies/password/dice/generate"] {
        assert_eq!(rig.root(Read, path, Value::Null).await.0, 404);
    }
}

#[tokio::test]
async fn a_rate_limit_stops_one_address_and_no_other() {
    let rig = Rig::new().await;
    let limit = "sys/quotas/rate-limit/logins";
    rig.done(Write, limit, json!({"path": "secret/", "rate": 2.5, "interval": "10s"})).await;
    rig.done(Write, limit, json!({"rate": "3"})).await;
    let shown = rig.done(Read, limit, Value::Null).await;
    assert_eq!(
        shown,
        json!({
            "block_interval": 0, "inheritable": false, "interval": 10, "name": "logins", "path": "secret/", "rate": 3.0,
            "role": "", "type": "rate-limit",
        })
    );
    assert_eq!(rig.done(List, "sys/quotas/rate-limit", Value::Null).await, json!({"keys": ["logins"]}));
    let read = async |from: &str, path: &str| {
        let with = With { token: Some(crate::rig::ROOT), from: Some(from), ..With::default() };
        rig.ask(Read, path, Value::Null, with).await.0
    };
    for (from, path, status) in [
        ("192.0.2.1:1", "secret/data/a", 404),
        ("192.0.2.1:2", "secret/data/b", 404),
        ("192.0.2.1:3", "secret/data/a", 404),
        ("192.0.2.1:4", "secret/data/a", 429),
        ("192.0.2.1:4", "sys/mounts", 200),
        ("192.0.2.2:1", "secret/data/a", 404),
    ] {
        assert_eq!(read(from, path).await, status, "{from} {path}");
    }
    let (status, records) = rig.recorded(read("192.0.2.1:5", "secret/data/a")).await;
    assert_eq!((status, records.len()), (429, 0), "the log is spared");
    rig.clock.advance(Duration::from_secs(4));
    assert_eq!((read("192.0.2.1:1", "secret/data/a").await, read("192.0.2.1:1", "secret/data/a").await), (404, 429));
    for (name, body, field) in [
        ("a", json!({"path": "x"}), "rate"),
        ("a", json!({"rate": 0}), "rate"),
        ("a", json!({"rate": -1}), "rate"),
        ("a", json!({"rate": "1e3"}), "rate"),
        ("a", json!({"rate": 0.0001}), "rate"),
        ("a", json!({"rate": 99_999_999}), "rate"),
        ("a", json!({"rate": 0.001, "interval": "4s"}), "rate"),
        ("a", json!({"rate": 0.999, "interval": "1h"}), "rate"),
        ("a", json!({"rate": 1, "interval": "2h"}), "interval"),
        ("a", json!({"rate": 1, "block_interval": "2h"}), "block_interval"),
        ("a", json!({"rate": 1, "path": "secret/"}), "path"),
        ("a", json!({"rate": 1, "path": "x".repeat(513)}), "path"),
        ("a", json!({"rate": 1, "role": "r"}), "role"),
        ("A", json!({"rate": 1}), "name"),
    ] {
        let (status, body) = rig.root(Write, &format!("sys/quotas/rate-limit/{name}"), body).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().starts_with(field), "{field} {body}");
    }
    rig.done(Delete, limit, Value::Null).await;
    assert_eq!(read("192.0.2.1:1", "secret/data/a").await, 404);
    // a rule on everything leaves the watchers alone
    rig.done(Write, limit, json!({"path": "", "rate": 0.001})).await;
    assert_eq!((read("192.0.2.9:1", "sys/mounts").await, read("192.0.2.9:1", "sys/mounts").await), (200, 429));
    assert_eq!((read("192.0.2.9:1", "sys/health").await, read("192.0.2.9:1", "sys/seal-status").await), (200, 200));
}

#[tokio::test]
async fn what_operators_of_vault_do_by_hand_answers_in_words() {
    let rig = Rig::new().await;
    let public = async |verb, path| rig.ask(verb, path, Value::Null, With::default()).await;
    let (status, body) = public(Write, "sys/init").await;
    assert_eq!((status, body), (400, json!({"errors": ["Vault is already initialized"]})));
    assert_eq!(public(Read, "sys/init").await, (200, json!({"initialized": true})));
    let (status, body) = public(Write, "sys/unseal").await;
    assert_eq!((status, &body), (200, &public(Read, "sys/seal-status").await.1));
    assert_eq!(body["sealed"], false);
    for (verb, path) in [
        (Write, "sys/step-down"),
        (Read, "sys/rotate/config"),
        (Write, "sys/rekey/init"),
        (Write, "sys/generate-recovery-token/attempt"),
    ] {
        assert_eq!(public(verb, path).await.0, 403, "{path}");
        let (status, body) = rig.root(verb, path, Value::Null).await;
        assert!(status == 400 && body["errors"][0].as_str().unwrap().len() > 20, "{path} {body}");
    }
    let keys = rig.done(Read, "sys/key-status", Value::Null).await;
    assert_eq!(keys, json!({"term": 1, "install_time": "2023-11-14T22:13:20Z", "encryptions": null}));
}

#[tokio::test]
async fn what_the_openapi_document_tells_is_served_and_nothing_beside_it() {
    let rig = Rig::new().await;
    for (at, kind) in [("kv1", "kv"), ("transit", "transit"), ("pki", "pki")] {
        rig.done(Write, &format!("sys/mounts/{at}"), json!({"type": kind})).await;
    }
    for kind in ["approle", "userpass", "jwt", "cert", "spiffe", "aws", "gcp", "azure"] {
        rig.done(Write, &format!("sys/auth/{kind}"), json!({"type": kind})).await;
    }
    let (status, document) = rig.root(Read, "sys/internal/specs/openapi", Value::Null).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.0.2")));
    let table = rig.vault.table().await.unwrap();
    let (before, mut asked) = (rig.records().len(), 0);
    let keys = || rig.vault.barrier().keyring().unwrap();
    let mut keyring = keys();
    let (mut told, mut ids) = (0, std::collections::BTreeSet::new());
    for (at, mount) in &table.mounts {
        for route in vault::routes::of(mount.kind) {
            let item = &document["paths"][format!("/{at}{}", route.path)];
            let path = format!("{at}{}", route.path).replace(['{', '}'], "");
            let mut methods = 0;
            for verb in [Read, List, Write, Patch, Delete] {
                let served = route.verbs.contains(&verb);
                let method = match verb {
                    Read | List => "get",
                    Write => "post",
                    Patch => "patch",
                    Delete => "delete",
                };
                assert!(!served || item[method].is_object(), "{path} {method} {item}");
                let (own, _) = token(&rig, "auth/token/create", json!({})).await;
                let answer = by(&rig, &own, verb, &path, json!({"lease_id": 7, "data": 7})).await;
                let unserved = answer.0 == 405 || answer.1.to_string().contains("no handler for route");
                assert!(answer.0 < 500 && unserved != served, "{verb:?} {path}: {answer:?}");
                asked += 1;
                if rig.vault.is_sealed() {
                    assert_eq!((verb, path.as_str()), (Write, "sys/seal"));
                    rig.vault.barrier().reopen(keyring);
                }
                keyring = keys();
                methods += usize::from(served && !(verb == List && route.verbs.contains(&Read)));
            }
            for method in ["get", "post", "patch", "delete"] {
                if let Some(id) = item[method]["operationId"].as_str() {
                    assert!(ids.insert(id.to_owned()), "{id}");
                    methods -= 1;
                }
            }
            assert_eq!(methods, 0, "{path} {item}");
            told += 1;
        }
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), told);
    // of each request one, of each token that asks another
    assert!(rig.records().len() - before >= 2 * asked, "{asked}");
    // who sees no mount is told of none
    let policy = r#"path "sys/internal/specs/openapi" { capabilities = ["read"] }"#;
    rig.done(Write, "sys/policies/acl/reader", json!({"policy": policy})).await;
    let (reader, _) =
        token(&rig, "auth/token/create", json!({"policies": ["reader"], "no_default_policy": true})).await;
    let (_, document) = by(&rig, &reader, Read, "sys/internal/specs/openapi", Value::Null).await;
    let paths = document["paths"].as_object().unwrap();
    assert!(!paths.is_empty() && paths.keys().all(|path| path.starts_with("/sys/")), "{paths:?}");
}

#[tokio::test]
async fn what_is_counted_is_told_as_text_or_json_to_who_may_read_it() {
    let rig = Rig::new().await;
    let (minor, _) = token(&rig, "auth/token/create", json!({"policies": ["default"]})).await;
    assert_eq!(by(&rig, &minor, Read, "sys/metrics", Value::Null).await.0, 403);
    let text = rig.text(Read, "sys/metrics?format=prometheus", "").await;
    assert_eq!(text, "strongroom_serving 1\n# EOF\n");
    let (status, told) = rig.root(Read, "sys/metrics", Value::Null).await;
    let gauges = json!([{"Name": "strongroom_serving", "Value": 1.0, "Labels": {}}]);
    assert_eq!((status, &told["Gauges"], &told["Counters"]), (200, &gauges, &json!([])));
    assert_eq!(rig.root(Read, "sys/metrics?format=xml", Value::Null).await.0, 400);
}

#[tokio::test]
async fn what_the_callers_rules_say_is_told_pattern_by_pattern() {
    let rig = Rig::new().await;
    let asked = async |token: &str| {
        let (status, body) = by(&rig, token, Read, "sys/internal/ui/resultant-acl", Value::Null).await;
        assert_eq!(status, 200, "{body}");
        body["data"].clone()
    };
    let root = asked(crate::rig::ROOT).await;
    assert_eq!(root, json!({"chroot_namespace": "", "root": true, "exact_paths": {}, "glob_paths": {}}));
    let policy = r#"path "secret/data/a" { capabilities = ["read", "create"] }
                    path "secret/data/*" { capabilities = ["list"] }
                    path "secret/+/x" { capabilities = ["read"] }
                    path "secret/data/no" { capabilities = ["deny"] }"#;
    let said = asked(&crate::rig::minted(&rig, "some", policy).await).await;
    assert_eq!(said["root"], false);
    let given = |capabilities: &[&str]| json!({ "capabilities": capabilities });
    let exact = json!({"secret/data/a": given(&["create", "read"]), "secret/data/no": given(&["deny"])});
    assert_eq!(said["exact_paths"], exact);
    assert_eq!(said["glob_paths"], json!({"secret/data/": given(&["list"]), "secret/+/x": given(&["read"])}));
}
