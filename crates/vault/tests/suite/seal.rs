//! Sealed by hand, and what shares of the recovery key are good for.

use crate::rig::{ROOT, Rig, SPENT, With, minted};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};

async fn anybody(rig: &Rig, verb: vault::Verb, path: &str, body: Value) -> (u16, Value) {
    rig.ask(verb, path, body, With::default()).await
}

fn shares_of(body: &Value) -> Vec<String> {
    assert_eq!(body["complete"], true, "{body}");
    let keys: Vec<String> = body["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().into()).collect();
    for (key, base64) in keys.iter().zip(body["keys_base64"].as_array().unwrap()) {
        assert_eq!(STANDARD.decode(base64.as_str().unwrap()).unwrap(), hex(key));
    }
    keys
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The first shares, which root makes.
async fn first(rig: &Rig, shares: u8, threshold: u8) -> Vec<String> {
    let ask = json!({"secret_shares": shares, "secret_threshold": threshold});
    let ((status, body), records) = rig.recorded(rig.root(Write, "sys/rekey-recovery-key/init", ask)).await;
    assert_eq!((status, records.len()), (200, 1), "{body}");
    assert_eq!(records[0]["changes"].as_array().unwrap().len(), 1, "{records:?}");
    let keys = shares_of(&body);
    assert_eq!(keys.len(), usize::from(shares));
    assert!(keys.iter().all(|key| !records[0].to_string().contains(key.as_str())));
    keys
}

#[tokio::test]
async fn a_sealed_node_serves_its_seal_alone_until_enough_shares_came_together() {
    let rig = Rig::new().await;
    let shares = first(&rig, 5, 3).await;
    rig.done(Write, "secret/data/a", json!({"data": {"a": "b"}})).await;
    let minor = minted(&rig, "minor", r#"path "sys/seal" { capabilities = ["update"] }"#).await;
    let with = With { token: Some(&minor), ..With::default() };
    assert_eq!(rig.ask(Write, "sys/seal", Value::Null, with).await.0, 403, "without sudo");
    let (status, seal) = anybody(&rig, Read, "sys/seal-status", Value::Null).await;
    assert_eq!((status, &seal["sealed"], &seal["t"], &seal["n"]), (200, &json!(false), &json!(3), &json!(5)));

    let ((status, _), records) = rig.recorded(rig.root(Write, "sys/seal", Value::Null)).await;
    assert_eq!((status, records.len()), (204, 1));
    assert_eq!((&records[0]["path"], &records[0]["outcome"]), (&json!("sys/seal"), &json!("done")));
    assert!(rig.vault.is_sealed());
    let sealed = json!({"errors": ["Vault is sealed"]});
    for (verb, path) in [
        (Read, "secret/data/a"),
        (Write, "secret/data/a"),
        (List, "secret/metadata"),
        (Write, "auth/token/create"),
        (Read, "sys/mounts"),
        (Read, "sys/leader"),
        (Read, "sys/generate-root/attempt"),
        (Write, "sys/rekey-recovery-key/init"),
        (Write, "sys/seal"),
        (Write, "sys/wrapping/unwrap"),
        (Delete, "secret/metadata/a"),
        (Read, "nowhere/at/all"),
    ] {
        let (answer, records) = rig.recorded(rig.root(verb, path, Value::Null)).await;
        assert_eq!((answer, records.len()), ((503, sealed.clone()), 1), "{path}");
        let told = (&records[0]["outcome"], &records[0]["decision"], &records[0]["subject"]["type"]);
        let expected = (&json!({"failed": "SEALED"}), &json!("not_reached"), &json!("unauthenticated"));
        assert_eq!(told, expected, "{path}");
    }
    for (path, status) in [
        ("sys/health", 503),
        ("sys/health?sealedcode=299", 299),
        ("sys/health?activecode=299", 503),
        ("sys/seal-status", 200),
        ("sys/init", 200),
    ] {
        let (found, body) = anybody(&rig, Read, path, Value::Null).await;
        assert_eq!(found, status, "{path}");
        assert_eq!(body["initialized"], true);
        assert!(path == "sys/init" || body["sealed"] == true, "{path} {body}");
    }
    assert_eq!(anybody(&rig, Write, "sys/init", Value::Null).await.0, 400);

    // a share twice is one; what is none changes nothing, whoever brings it
    let progress = async |share: &str| {
        let ((status, body), records) = rig.recorded(anybody(&rig, Write, "sys/unseal", json!({ "key": share }))).await;
        assert_eq!(records.len(), 1, "{body}");
        assert!(share.len() < 60 || !records[0].to_string().contains(share));
        (status, body["progress"].as_u64())
    };
    let other = shares[2].replace(['0', '1'], "2");
    assert_eq!(progress(&other).await, (400, None));
    let (_, status) = anybody(&rig, Read, "sys/seal-status", Value::Null).await;
    assert_eq!((&status["progress"], &status["nonce"]), (&json!(0), &json!("")), "no attempt begins with it");
    assert_eq!(progress(&shares[0]).await, (200, Some(1)));
    assert_eq!(progress(&shares[0]).await, (200, Some(1)));
    assert_eq!(progress(&shares[1]).await, (200, Some(2)));
    for malformed in ["", "zz", &shares[2][2..], &"00".repeat(34), &other, &other] {
        assert_eq!(progress(malformed).await, (400, None));
    }
    for reset in [json!({"reset": true}), json!({"reset": true, "key": other})] {
        assert_eq!(anybody(&rig, Write, "sys/unseal", reset).await.0, 400, "strangers drop nothing");
    }
    assert_eq!(progress(&shares[1]).await, (200, Some(2)));
    let (_, status) = anybody(&rig, Write, "sys/unseal", json!({"reset": true, "key": shares[2]})).await;
    assert_eq!((&status["sealed"], &status["progress"], &status["nonce"]), (&json!(true), &json!(0), &json!("")));
    assert_eq!(progress(&shares[4]).await, (200, Some(1)));
    rig.clock.advance(Duration::from_secs(3600));
    assert_eq!(progress(&shares[4]).await, (200, Some(1)), "an attempt has its hour");
    assert_eq!(progress(&shares[1]).await, (200, Some(2)));
    assert!(rig.vault.is_sealed());
    let base64 = STANDARD.encode(hex(&shares[3]));
    let ((status, body), records) = rig.recorded(anybody(&rig, Write, "sys/unseal", json!({"key": base64}))).await;
    assert_eq!((status, &body["sealed"], &body["progress"]), (200, &json!(false), &json!(0)));
    let operations: Vec<&str> = records.iter().map(|record| record["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["VaultWrite", "Unseal"]);
    assert!(records.iter().all(|record| record["rule"] == "recovery-shares"), "{records:?}");
    assert_eq!(rig.done(Read, "secret/data/a", Value::Null).await["data"], json!({"a": "b"}));
    assert_eq!(rig.done(Write, "secret/data/a", json!({"data": {}})).await["version"], 2);
    assert_eq!(anybody(&rig, Read, "sys/health", Value::Null).await.0, 200);
    assert_eq!(anybody(&rig, Write, "sys/unseal", json!({"key": shares[0]})).await.1["sealed"], false);
}

#[tokio::test]
async fn a_node_without_shares_is_sealed_all_the_same_and_others_serve_on() {
    let rig = Rig::new().await;
    let other = rig.another_node();
    assert_eq!(rig.root(Write, "sys/seal", Value::Null).await.0, 204);
    let (status, body) = anybody(&rig, Write, "sys/unseal", json!({"key": "00".repeat(33)})).await;
    assert!(status == 400 && body.to_string().contains("start the server again"), "{body}");
    let with = With { token: Some(ROOT), node: Some(&other), ..With::default() };
    assert_eq!(rig.ask(Read, "sys/mounts", Value::Null, with).await.0, 200);
    assert_eq!(rig.root(Read, "sys/mounts", Value::Null).await.0, 503);
}

#[tokio::test]
async fn only_root_makes_the_first_shares_and_only_shares_make_others() {
    let rig = Rig::new().await;
    let init = "sys/rekey-recovery-key/init";
    let policy = r#"path "sys/rekey-recovery-key/*" { capabilities = ["create", "update", "read", "delete", "sudo"] }"#;
    let officer = minted(&rig, "officer", policy).await;
    let by = |token| With { token: Some(token), ..With::default() };
    let split = |shares: u8, threshold: u8| json!({"secret_shares": shares, "secret_threshold": threshold});
    assert_eq!(anybody(&rig, Write, init, split(2, 2)).await.0, 403);
    assert_eq!(rig.ask(Write, init, split(2, 2), by(&officer)).await.0, 403, "sudo alone makes no first shares");
    for malformed in [split(0, 0), split(2, 1), split(2, 3), json!({"pgp_keys": ["x"]}), json!({})] {
        assert_eq!(rig.root(Write, init, malformed.clone()).await.0, 400, "{malformed}");
    }
    assert_eq!(rig.root(Read, init, Value::Null).await.1["required"], 0);
    // first shares that are to be shown again do not count until then
    let ask = json!({"secret_shares": 2, "secret_threshold": 2, "require_verification": true});
    for cancelled in [true, false] {
        let (_, shown) = rig.root(Write, init, ask.clone()).await;
        let (lost, nonce) = (shares_of(&shown), shown["verification_nonce"].as_str().unwrap());
        let verify = async |share: &str| {
            rig.root(Write, "sys/rekey-recovery-key/verify", json!({"key": share, "nonce": nonce})).await.0
        };
        assert_eq!(verify(&lost[0]).await, 200);
        if cancelled {
            assert_eq!(rig.root(Delete, init, Value::Null).await.0, 204);
        }
        let wrong = lost[1].replace(['0', '1'], "2");
        assert_eq!(verify(if cancelled { &lost[1] } else { &wrong }).await, 400);
        assert_eq!(rig.root(Read, init, Value::Null).await.1["required"], 0, "there are none");
        rig.root(Delete, init, Value::Null).await;
    }
    let old = first(&rig, 3, 2).await;

    // from here on the shares decide
    let ask = async |verb, path: &str, body| rig.ask(verb, path, body, by(&officer)).await;
    let (status, begun) = ask(Write, init, split(2, 2)).await;
    assert_eq!((status, &begun["started"], &begun["required"]), (200, &json!(true), &json!(2)), "{begun}");
    assert_eq!(ask(Write, init, split(2, 2)).await.0, 400, "one at a time");
    let update = "sys/rekey-recovery-key/update";
    let nonce = begun["nonce"].as_str().unwrap();
    assert_eq!(ask(Write, update, json!({"key": old[0], "nonce": "other"})).await.0, 400);
    let (status, one) = ask(Write, update, json!({"key": old[0], "nonce": nonce})).await;
    assert_eq!((status, &one["progress"]), (200, &json!(1)));
    assert_eq!(ask(Read, init, Value::Null).await.1["progress"], 1);
    let (_, done) = ask(Write, update, json!({"key": old[2], "nonce": nonce})).await;
    let new = shares_of(&done);
    assert_eq!(ask(Read, init, Value::Null).await.1["started"], false);

    // the old ones are worth nothing any more; cancelled, and verified
    let begin = async |body: Value| {
        let (status, begun) = ask(Write, init, body).await;
        assert_eq!(status, 200, "{begun}");
        begun["nonce"].as_str().unwrap().to_owned()
    };
    let nonce = begin(split(1, 1)).await;
    for share in [&old[0], &old[1]] {
        assert_eq!(ask(Write, update, json!({"key": share, "nonce": nonce})).await.0, 400);
    }
    assert_eq!(ask(Write, update, json!({"key": new[0], "nonce": nonce})).await.1["progress"], 1);
    assert_eq!(ask(Delete, init, Value::Null).await.0, 204);
    assert_eq!(ask(Write, update, json!({"key": new[0], "nonce": nonce})).await.0, 400);
    let nonce = begin(json!({"secret_shares": 2, "secret_threshold": 2, "require_verification": true})).await;
    ask(Write, update, json!({"key": new[0], "nonce": nonce})).await;
    let (_, shown) = ask(Write, update, json!({"key": new[1], "nonce": nonce})).await;
    let (newest, nonce) = (shares_of(&shown), shown["verification_nonce"].as_str().unwrap());
    let verify = "sys/rekey-recovery-key/verify";
    assert_eq!(ask(Write, verify, json!({"key": newest[0], "nonce": nonce})).await.1["progress"], 1);
    assert_eq!(ask(Delete, verify, Value::Null).await.1["progress"], 0);
    let nonce = ask(Read, verify, Value::Null).await.1["nonce"].as_str().unwrap().to_owned();
    for (share, complete) in [(&newest[0], false), (&newest[1], true)] {
        assert_eq!(ask(Write, verify, json!({"key": share, "nonce": nonce})).await.1["complete"], complete);
    }
    rig.root(Write, "sys/seal", Value::Null).await;
    for share in &newest {
        assert_eq!(anybody(&rig, Write, "sys/unseal", json!({ "key": share })).await.0, 200);
    }
    assert!(!rig.vault.is_sealed());
}

#[tokio::test]
async fn enough_shares_make_a_root_token_that_only_the_password_decodes() {
    let rig = Rig::new().await;
    let (attempt, update) = ("sys/generate-root/attempt", "sys/generate-root/update");
    assert_eq!(anybody(&rig, Write, attempt, json!({})).await.0, 400, "there are no shares");
    let shares = first(&rig, 3, 2).await;
    let otp = "x".repeat(46);
    for malformed in [json!({"otp": "short"}), json!({"pgp_key": "x"}), json!({"otp": "é".repeat(23)})] {
        assert_eq!(anybody(&rig, Write, attempt, malformed.clone()).await.0, 400, "{malformed}");
    }
    assert_eq!(anybody(&rig, Read, attempt, Value::Null).await.1["otp_length"], 46);
    for otp in [None, Some(otp)] {
        let ask = otp.as_ref().map_or(json!({}), |otp| json!({ "otp": otp }));
        let (status, begun) = anybody(&rig, Write, attempt, ask.clone()).await;
        assert_eq!((status, &begun["started"], &begun["required"]), (200, &json!(true), &json!(2)), "{begun}");
        let nonce = begun["nonce"].as_str().unwrap();
        let told = begun["otp"].as_str().unwrap();
        assert_eq!(told.is_empty(), otp.is_some(), "{begun}");
        let (_, shown) = anybody(&rig, Read, attempt, Value::Null).await;
        let told_once = (&shown["started"], &shown["nonce"], &shown["otp"]);
        assert_eq!(told_once, (&json!(true), &json!(""), &json!("")));
        let (_, shown) = anybody(&rig, Read, &format!("{attempt}?nonce={nonce}"), Value::Null).await;
        assert_eq!((&shown["nonce"], &shown["otp"]), (&begun["nonce"], &json!("")));
        let give =
            async |share: &str| rig.recorded(anybody(&rig, Write, update, json!({"key": share, "nonce": nonce}))).await;
        assert_eq!(anybody(&rig, Write, update, json!({"key": shares[0], "nonce": "other"})).await.0, 400);
        let ((_, one), _) = give(&shares[2]).await;
        assert_eq!((&one["progress"], &one["complete"]), (&json!(1), &json!(false)));
        let ((status, done), records) = give(&shares[0]).await;
        assert_eq!((status, &done["complete"], &done["progress"]), (200, &json!(true), &json!(2)), "{done}");
        assert_eq!((records.len(), &records[0]["rule"]), (1, &json!("recovery-shares")));
        assert!(!records[0]["changes"].as_array().unwrap().is_empty(), "the token's own leaf: {records:?}");
        let encoded = STANDARD_NO_PAD.decode(done["encoded_token"].as_str().unwrap()).unwrap();
        let otp = otp.as_deref().unwrap_or(told);
        let token: String = encoded.iter().zip(otp.bytes()).map(|(a, b)| char::from(a ^ b)).collect();
        let with = With { token: Some(&token), ..With::default() };
        let (status, own) = rig.ask(Read, "auth/token/lookup-self", Value::Null, with.clone()).await;
        assert_eq!((status, &own["data"]["policies"]), (200, &json!(["root"])), "{own}");
        assert_eq!(rig.ask(Read, "sys/mounts", Value::Null, with).await.0, 200);
        assert_eq!(anybody(&rig, Read, attempt, Value::Null).await.1["started"], false);
    }
    let begin = async || {
        let (status, begun) = anybody(&rig, Write, attempt, json!({})).await;
        (status, begun["nonce"].as_str().unwrap_or_default().to_owned())
    };
    // sealing ends it too
    let (_, nonce) = begin().await;
    anybody(&rig, Write, update, json!({"key": shares[0], "nonce": nonce})).await;
    rig.root(Write, "sys/seal", Value::Null).await;
    for share in &shares[..2] {
        anybody(&rig, Write, "sys/unseal", json!({ "key": share })).await;
    }
    assert_eq!(anybody(&rig, Read, attempt, Value::Null).await.1["started"], false);
}

#[tokio::test]
async fn strangers_neither_spoil_nor_end_nor_displace_an_attempt_for_a_root_token() {
    let rig = Rig::new().await;
    let (attempt, update) = ("sys/generate-root/attempt", "sys/generate-root/update");
    let shares = first(&rig, 5, 3).await;
    let from = async |from: &str, verb, path: &str, body: Value| {
        rig.ask(verb, path, body, With { from: Some(from), ..With::default() }).await
    };
    let begin = async |host: &str| {
        let (status, begun) = from(host, Write, attempt, json!({})).await;
        (status, begun["nonce"].as_str().unwrap_or_default().to_owned())
    };
    let (_, idle) = begin("192.0.2.1:1").await;
    let (_, nonce) = begin("192.0.2.1:1").await;
    let give = async |nonce: &str, share: &str| {
        let (status, told) = from("192.0.2.1:1", Write, update, json!({"key": share, "nonce": nonce})).await;
        assert!(!told.to_string().contains(nonce) || status == 200, "{told}");
        (status, told["progress"].as_u64())
    };
    assert_eq!(give(&nonce, &shares[0]).await, (200, Some(1)));
    let wrong = shares[1].replace(['0', '1'], "2");
    let told = from("198.51.100.9:1", Write, update, json!({"key": wrong, "nonce": "other"})).await;
    assert!(told.0 == 400 && !told.1.to_string().contains(&nonce), "{told:?}");
    for (stranger, verb, path, body, status) in [
        ("198.51.100.9:1", Read, attempt.to_owned(), Value::Null, 200),
        ("198.51.100.9:1", Delete, attempt.to_owned(), Value::Null, 400),
        ("198.51.100.9:1", Delete, attempt.to_owned(), json!({"nonce": "other"}), 400),
        ("198.51.100.9:1", Delete, format!("{attempt}?nonce=other"), Value::Null, 400),
        ("198.51.100.9:1", Write, update.to_owned(), json!({"key": shares[1], "nonce": ""}), 400),
        // officers may stand behind the same address
        ("192.0.2.1:2", Write, update.to_owned(), json!({"key": wrong, "nonce": nonce}), 400),
        ("192.0.2.1:2", Write, update.to_owned(), json!({"key": wrong, "nonce": nonce}), 400),
    ] {
        let ((found, told), records) = rig.recorded(from(stranger, verb, &path, body)).await;
        assert_eq!((found, records.len()), (status, 1), "{path} {told}");
        assert!(!told.to_string().contains(&nonce), "{told}");
    }
    assert_eq!(give(&nonce, &shares[1]).await, (200, Some(2)));
    // one address displaces itself, and many displace what holds no share
    for port in 0..200 {
        assert_eq!(begin(&format!("198.51.100.9:{port}")).await.0, 200);
    }
    let (_, told) = from("192.0.2.1:1", Read, &format!("{attempt}?nonce={idle}"), Value::Null).await;
    assert_eq!(told["started"], true, "{told}");
    for host in 0..200 {
        assert_eq!(begin(&format!("203.0.113.{host}:1")).await.0, 200);
    }
    let (status, told) = from("192.0.2.1:1", Write, update, json!({"key": shares[2], "nonce": nonce})).await;
    assert_eq!((status, &told["complete"]), (200, &json!(true)), "{told}");

    // one officer alone holds one attempt, and who cancels names it
    let mut nonces = Vec::new();
    for _ in 0..100 {
        let (status, nonce) = begin("192.0.2.1:1").await;
        assert_eq!(status, 200);
        assert_eq!(give(&nonce, &shares[3]).await, (200, Some(1)));
        nonces.push(nonce);
    }
    let last = nonces.pop().unwrap();
    for nonce in &nonces {
        assert_eq!(give(nonce, &shares[3]).await.0, 400, "left");
    }
    assert_eq!(give(&last, &shares[4]).await, (200, Some(2)));
    assert_eq!(anybody(&rig, Delete, &format!("{attempt}?nonce={last}"), Value::Null).await.0, 204);
    assert_eq!(give(&last, &shares[0]).await.0, 400);
}

#[tokio::test]
async fn shares_of_a_key_that_was_replaced_elsewhere_unseal_nothing() {
    let rig = Rig::new().await;
    let old = first(&rig, 1, 1).await;
    let other = rig.another_node();
    assert_eq!(rig.root(Write, "sys/seal", Value::Null).await.0, 204);
    let with = || With { token: Some(ROOT), node: Some(&other), ..With::default() };
    let init = json!({"secret_shares": 2, "secret_threshold": 2});
    let (_, begun) = rig.ask(Write, "sys/rekey-recovery-key/init", init, with()).await;
    let body = json!({"key": old[0], "nonce": begun["nonce"]});
    let new = shares_of(&rig.ask(Write, "sys/rekey-recovery-key/update", body, with()).await.1);
    assert_eq!(anybody(&rig, Write, "sys/unseal", json!({"key": old[0]})).await.0, 400);
    assert!(rig.vault.is_sealed());
    for share in &new {
        assert_eq!(anybody(&rig, Write, "sys/unseal", json!({ "key": share })).await.0, 200);
    }
    assert!(!rig.vault.is_sealed());
}

#[tokio::test]
async fn a_node_is_unsealed_in_the_root_alone() {
    let rig = Rig::new().await;
    let shares = first(&rig, 1, 1).await;
    rig.done(Write, "sys/namespaces/a", Value::Null).await;
    rig.root(Write, "sys/seal", Value::Null).await;
    for (namespace, verb, path) in [
        ("a", Write, "sys/unseal"),
        ("none", Write, "sys/unseal"),
        ("a", Read, "sys/health"),
        ("none", Read, "sys/seal-status"),
        ("", Write, "a/sys/unseal"),
    ] {
        let ask = rig.ask(verb, path, json!({"key": shares[0]}), With { namespace, ..With::default() });
        let ((status, told), records) = rig.recorded(ask).await;
        assert_eq!((status, told), (503, json!({"errors": ["Vault is sealed"]})), "{namespace} {path}");
        let named = if namespace.is_empty() { Value::Null } else { json!(format!("{namespace}/")) };
        assert_eq!((records.len(), &records[0]["namespace"]), (1, &named), "{records:?}");
    }
    assert!(rig.vault.is_sealed());
    assert_eq!(anybody(&rig, Write, "sys/unseal", json!({"key": shares[0]})).await.1["sealed"], false);
    let with = With { token: Some(ROOT), namespace: "a", ..With::default() };
    assert_eq!(rig.ask(Read, "sys/mounts", Value::Null, with).await.0, 200);
}

#[tokio::test]
async fn what_officers_do_is_recorded_though_strangers_at_their_address_have_used_up_the_log() {
    let rig = Rig::new().await;
    let shares = first(&rig, 3, 2).await;
    let (attempt, update) = ("sys/generate-root/attempt", "sys/generate-root/update");
    let spent = async |verb, path: &str, body: Value| {
        let ask = rig.ask(verb, path, body, With { from: Some(SPENT), ..With::default() });
        let ((status, told), records) = rig.recorded(ask).await;
        (status, told, records.len())
    };
    let progress = async |nonce: &str| {
        let (_, told) = anybody(&rig, Read, &format!("{attempt}?nonce={nonce}"), Value::Null).await;
        (told["started"] == true, told["progress"].as_u64().unwrap())
    };
    let begin = async || {
        let (_, begun) = anybody(&rig, Write, attempt, json!({})).await;
        begun["nonce"].as_str().unwrap().to_owned()
    };
    // what is not recorded has no effect
    let (status, _, records) = spent(Write, attempt, json!({})).await;
    assert_eq!((status, records), (429, 0));
    assert_eq!(anybody(&rig, Read, attempt, Value::Null).await.1["started"], false);
    // a share, and a nonce, have their place in the log
    let nonce = begin().await;
    let (status, _, records) = spent(Write, update, json!({"key": shares[0], "nonce": nonce})).await;
    assert_eq!((status, records, progress(&nonce).await), (200, 1, (true, 1)));
    let (status, _, records) = spent(Delete, attempt, json!({"nonce": nonce})).await;
    assert_eq!((status, records, progress(&nonce).await), (204, 1, (false, 0)));
    let nonce = begin().await;
    for share in &shares[..2] {
        let (status, told, records) = spent(Write, update, json!({"key": share, "nonce": nonce})).await;
        assert_eq!((status, records), (200, 1), "{told}");
    }
    rig.root(Write, "sys/seal", Value::Null).await;
    let wrong = shares[0].replace(['0', '1'], "2");
    assert_eq!(spent(Write, "sys/unseal", json!({ "key": wrong })).await.0, 429);
    for (share, sealed, expected) in [(&shares[0], true, 1), (&shares[1], false, 2)] {
        let (status, told, records) = spent(Write, "sys/unseal", json!({ "key": share })).await;
        assert_eq!((status, &told["sealed"], records), (200, &json!(sealed), expected), "{told}");
    }
}

#[tokio::test]
async fn shares_of_an_attempt_whose_time_is_over_go_though_nobody_asks_for_it() {
    let rig = Rig::new().await;
    let shares = first(&rig, 3, 2).await;
    let (attempt, init) = ("sys/generate-root/attempt", "sys/rekey-recovery-key/init");
    let (_, begun) = anybody(&rig, Write, attempt, json!({})).await;
    let body = json!({"key": shares[0], "nonce": begun["nonce"]});
    assert_eq!(anybody(&rig, Write, "sys/generate-root/update", body).await.0, 200);
    rig.root(Write, init, json!({"secret_shares": 2, "secret_threshold": 2})).await;
    for (wait, there) in [(3599, true), (1, false)] {
        rig.clock.advance(Duration::from_secs(wait));
        rig.vault.drop_stale_attempts(rig.clock_now());
        let told = [anybody(&rig, Read, attempt, Value::Null).await.1, rig.root(Read, init, Value::Null).await.1];
        assert!(told.iter().all(|told| told["started"] == there), "{told:?}");
    }
    rig.root(Write, "sys/seal", Value::Null).await;
    anybody(&rig, Write, "sys/unseal", json!({"key": shares[0]})).await;
    for (wait, progress) in [(3599, 1), (1, 0)] {
        rig.clock.advance(Duration::from_secs(wait));
        rig.vault.drop_stale_attempts(rig.clock_now());
        assert_eq!(anybody(&rig, Read, "sys/seal-status", Value::Null).await.1["progress"], progress);
    }
}
