//! Sealed by hand, unsealed by shares, a root token made anew, and a store sealed anew under a new key of the barrier: a real
//! server and hsm-sim, through the command line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::identity::CreateTokenRequest;
use proto::kms::{CreateKeyRequest, KeySpec, ListKeysRequest};
use rusqlite::Connection;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tests::{Dev, bearer, binary, reason, until};
use tonic::Code;

/// The command line, as whoever holds the token; or as nobody.
fn said(dev: &Dev, token: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("strongroom"));
    command.args(arguments).args(["--output", "json"]).current_dir(dev.folder()).env("HOME", dev.folder());
    command.env("STRONGROOM_ADDR", format!("https://{}", dev.addr())).env("STRONGROOM_CACERT", dev.ca());
    match token {
        Some(token) => command.env("STRONGROOM_TOKEN", token),
        None => command.env_remove("STRONGROOM_TOKEN"),
    };
    command.output().unwrap()
}

fn done(dev: &Dev, token: Option<&str>, arguments: &[&str]) -> Value {
    let output = said(dev, token, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Exit 1; why.
fn refused(dev: &Dev, token: Option<&str>, arguments: &[&str]) -> String {
    let output = said(dev, token, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SECRET: &[&str] = &["read", "secret/data/app"];

/// A service that tells how it is, to everybody, as a page.
fn page(dev: &Dev) -> String {
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "-", "-w", " %{http_code}", "--cacert"]).arg(dev.ca());
    let output = command.arg(format!("https://{}/health", dev.addr())).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_server_serves_again_after_shares_or_a_restart_and_shares_make_root() {
    let mut dev = Dev::sim();
    let root = dev.root_token();
    let token = Some(root.as_str());
    let share = dev.data().join("recovery-key").display().to_string();
    assert_eq!(std::fs::metadata(&share).unwrap().permissions().mode() & 0o777, 0o600);
    done(&dev, token, &["write", "secret/data/app", r#"data={"a":"b"}"#]);
    let wrong = dev.folder().join("wrong").display().to_string();
    std::fs::write(&wrong, "ab".repeat(33)).unwrap();

    done(&dev, token, &["operator", "seal"]);
    assert!(refused(&dev, token, SECRET).contains("Vault is sealed"));
    refused(&dev, token, &["operator", "status"]);
    let list = dev.clients().keys.list_keys(bearer(&root, ListKeysRequest::default())).await.unwrap_err();
    assert_eq!((list.code(), reason(&list).as_str()), (Code::Unavailable, "SEALED"));
    let status = done(&dev, token, &["read", "sys/seal-status"]);
    assert_eq!((&status["sealed"], &status["t"], &status["n"]), (&true.into(), &1.into(), &1.into()));
    until("/health says so", Duration::from_secs(5), || {
        page(&dev).contains("\"sealed\"") && page(&dev).ends_with(" 503")
    });
    assert!(refused(&dev, None, &["operator", "unseal", "--share", &wrong]).contains("no share of the recovery key"));
    let status = done(&dev, None, &["operator", "unseal", "--share", &share]);
    assert_eq!(status["sealed"], false);
    assert_eq!(done(&dev, token, SECRET)["data"]["a"], "b");
    until("/health serves", Duration::from_secs(5), || page(&dev).ends_with(" 200"));

    // the boundary away, enough shares unseal nothing; then one more is enough
    done(&dev, token, &["operator", "seal"]);
    let boundary = dev.boundary().unwrap();
    boundary.stop();
    let why = refused(&dev, None, &["operator", "unseal", "--share", &share, "--timeout", "3s"]);
    assert!(!why.contains("no share"), "{why}");
    boundary.go_on();
    until("it is unsealed", Duration::from_secs(30), || {
        said(&dev, None, &["operator", "unseal", "--share", &share]).status.success()
    });
    assert_eq!(done(&dev, token, SECRET)["data"]["a"], "b");

    // a restart unseals by itself
    done(&dev, token, &["operator", "seal"]);
    let server = dev.server().unwrap();
    server.kill();
    until("it serves again", Duration::from_secs(30), || said(&dev, token, SECRET).status.success());
    assert_ne!(dev.server(), Some(server));

    // a root token is made without one; an attempt is ended by its nonce alone
    let begun = done(&dev, None, &["operator", "generate-root", "begin", "--otp-out", "otp-0"]);
    let nonce = begun["nonce"].as_str().unwrap();
    let status = done(&dev, None, &["operator", "generate-root", "status"]);
    assert_eq!((&status["started"], &status["nonce"]), (&true.into(), &"".into()), "{status}");
    assert_eq!(done(&dev, None, &["operator", "generate-root", "status", "--nonce", nonce])["nonce"], nonce);
    refused(&dev, None, &["operator", "generate-root", "cancel", "--nonce", "00000000-0000-0000-0000-000000000000"]);
    assert!(said(&dev, None, &["operator", "generate-root", "cancel", "--nonce", nonce]).status.success());
    let begun = done(&dev, None, &["operator", "generate-root", "begin", "--otp-out", "otp"]);
    let nonce = begun["nonce"].as_str().unwrap();
    let made = done(&dev, None, &["operator", "generate-root", "share", "--nonce", nonce, "--share", &share]);
    let encoded = made["encoded_token"].as_str().unwrap();
    let decode = ["--encoded-token", encoded, "--otp", "otp", "--token-out", "new-root"];
    done(&dev, None, &[&["operator", "generate-root", "decode"][..], &decode].concat());
    let new_root = std::fs::read_to_string(dev.folder().join("new-root")).unwrap();
    assert_ne!(new_root, root);
    assert_eq!(done(&dev, Some(&new_root), SECRET)["data"]["a"], "b");

    // other shares
    let split = ["--recovery-shares", "3", "--recovery-threshold", "2"];
    let init = [&["operator", "init", "--out", "shares"][..], &split].concat();
    assert!(refused(&dev, token, &init).contains("there are recovery shares"));
    let begun = done(&dev, token, &[&["operator", "rekey", "begin"][..], &split].concat());
    let nonce = begun["nonce"].as_str().unwrap();
    done(&dev, token, &["operator", "rekey", "share", "--nonce", nonce, "--share", &share, "--out", "shares"]);
    let new = |number: u8| dev.folder().join(format!("shares/share-{number}"));
    assert_eq!(std::fs::metadata(new(3)).unwrap().permissions().mode() & 0o777, 0o600);
    done(&dev, token, &["operator", "seal"]);
    refused(&dev, None, &["operator", "unseal", "--share", &share]);
    let (second, third) = (new(2).display().to_string(), new(3).display().to_string());
    assert_eq!(done(&dev, None, &["operator", "unseal", "--share", &third])["progress"], 1);
    assert_eq!(done(&dev, None, &["operator", "unseal", "--reset", "--share", &second])["progress"], 0);
    let status = done(&dev, None, &["operator", "unseal", "--share", &third, "--share", &second]);
    assert_eq!(status["sealed"], false);
    assert_eq!(done(&dev, token, SECRET)["data"]["a"], "b");
    dev.end();
    verified(&dev);
}

/// The log is valid, and the store is what it tells.
fn verified(dev: &Dev) {
    let (code, told) = verify(dev);
    assert_eq!((code, &told["valid"]), (Some(0), &true.into()), "{told:#}");
    assert_eq!(told["store"]["found"], 0, "{told:#}");
}

fn verify(dev: &Dev) -> (Option<i32>, Value) {
    let dir = dev.audit_dir();
    let mut command = Command::new(binary("strongroom"));
    command.args(["audit", "verify", "--output", "json", "--dir"]).arg(&dir);
    command.arg("--key").arg(dir.join("log.vkey")).arg("--store").arg(dev.data().join("server/store.db"));
    let output = command.output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// How many rows stand under which key of the barrier: of all that the server sealed.
fn terms(store: &Path) -> std::collections::BTreeMap<u32, usize> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("store.db");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", store.display());
        if Path::new(&from).exists() {
            std::fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
        }
    }
    let store = Connection::open(&copy).unwrap();
    let mut select = store.prepare("SELECT k, v FROM kv").unwrap();
    let rows = select.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let mut terms = std::collections::BTreeMap::new();
    for (path, value) in rows.map(Result::unwrap) {
        let path = String::from_utf8(path).unwrap();
        // leaves on their way to the log are gone in a moment
        if path != "boot" && !path.contains("/outbox/") {
            *terms.entry(u32::from_be_bytes(value[44..48].try_into().unwrap())).or_default() += 1;
        }
    }
    terms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_nothing_stands_under_the_old_key_whoever_dies_in_the_middle() {
    let mut dev = Dev::sim();
    let (root, store) = (dev.root_token(), dev.data().join("server/store.db"));
    let made = (0..16).map(|_| {
        let (mut clients, root) = (dev.clients(), root.clone());
        tokio::spawn(async move {
            for _ in 0..40 {
                let request = CreateTokenRequest { policies: vec!["default".into()], ..Default::default() };
                clients.identity.create_token(bearer(&root, request)).await.unwrap();
            }
        })
    });
    for one in made.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let request = CreateKeyRequest { key_spec: KeySpec::SymmetricDefault.into(), ..Default::default() };
    dev.clients().keys.create_key(bearer(&root, request)).await.unwrap();
    done(&dev, Some(&root), &["write", "secret/data/app", r#"data={"a":"b"}"#]);
    let before = terms(&store);
    assert!(before.len() == 1 && before[&1] > 1000, "{before:?}");

    done(&dev, Some(&root), &["operator", "rotate"]);
    assert_eq!(done(&dev, Some(&root), &["operator", "key-status"])["term"], 2);
    let mut seen = Vec::new();
    until("some rows are sealed anew", Duration::from_secs(60), || {
        let terms = terms(&store);
        seen.push(terms.get(&1).copied().unwrap_or_default());
        terms.get(&2).is_some_and(|new| *new > 40)
    });
    assert!(*seen.last().unwrap() > 0, "it was killed in the middle: {seen:?}");
    dev.server().unwrap().kill();
    until("nothing stands under the old key", Duration::from_secs(90), || !terms(&store).contains_key(&1));
    let status = done(&dev, Some(&root), &["operator", "key-status"]);
    assert!(status["resealing"]["resealed"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(done(&dev, Some(&root), SECRET)["data"]["a"], "b");
    until("it is noted", Duration::from_secs(90), || {
        done(&dev, Some(&root), &["operator", "key-status"])["resealing"]["done"] == true
    });
    dev.end();
    verified(&dev);
    // what is done is not done again
    dev.start_again().unwrap();
    let status = done(&dev, Some(&root), &["operator", "key-status"]);
    assert!(status["resealing"].is_null() || status["resealing"]["done"] == true, "{status}");
    assert_eq!(done(&dev, Some(&root), SECRET)["data"]["a"], "b");
}

/// What a namespace has stored, by its paths.
fn rows_of_namespaces(store: &Path) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    let store = Connection::open(store).unwrap();
    let mut select = store.prepare("SELECT k, v FROM kv").unwrap();
    let rows = select.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    rows.map(Result::unwrap).filter(|(path, _)| String::from_utf8_lossy(path).contains("/ns/")).collect()
}

#[test]
fn namespaces_are_sealed_with_all_else_and_an_old_row_of_one_is_found_though_it_was_sealed_anew() {
    let mut dev = Dev::sim();
    let (root, store) = (dev.root_token(), dev.data().join("server/store.db"));
    let share = dev.data().join("recovery-key").display().to_string();
    let within =
        |dev: &Dev, arguments: &[&str]| done(dev, Some(&root), &[arguments, &["--namespace", "team"]].concat());
    done(&dev, Some(&root), &["namespace", "create", "team"]);
    for (at, kind) in
        [("sys/mounts/kv", "type=kv"), ("sys/mounts/keys", "type=transit"), ("sys/auth/up", "type=userpass")]
    {
        within(&dev, &["write", at, kind]);
    }
    within(&dev, &["write", "keys/keys/k"]);
    within(&dev, &["write", "kv/a", "pw=old"]);
    done(&dev, Some(&root), &["operator", "seal"]);
    let read = ["read", "kv/a", "--namespace", "team"];
    assert!(refused(&dev, Some(&root), &read).contains("Vault is sealed"));
    done(&dev, None, &["operator", "unseal", "--share", &share]);
    assert_eq!(within(&dev, &["read", "kv/a"])["pw"], "old");

    dev.end();
    let old = rows_of_namespaces(&store);
    dev.start_again().unwrap();
    within(&dev, &["write", "kv/a", "pw=new"]);
    dev.end();
    verified(&dev);
    let new = rows_of_namespaces(&store);
    let (path, _) = new.iter().find(|(path, value)| old.get(*path).is_some_and(|old| old != *value)).unwrap();
    Connection::open(&store).unwrap().execute("UPDATE kv SET v = ?1 WHERE k = ?2", (&old[path], path)).unwrap();
    dev.start_again().unwrap();
    assert_eq!(within(&dev, &["read", "kv/a"])["pw"], "old", "until it is compared, nobody knows");
    done(&dev, Some(&root), &["operator", "rotate"]);
    until("all is sealed anew", Duration::from_secs(120), || {
        done(&dev, Some(&root), &["operator", "key-status"])["resealing"]["done"] == true
    });
    assert!(!terms(&store).contains_key(&1));
    dev.end();
    let (code, told) = verify(&dev);
    assert_eq!((code, &told["store"]["found"]), (Some(1), &1.into()), "{told:#}");
    assert!(told.to_string().contains("resealed"), "{told:#}");

    // written again it is right; dropped and made anew, nothing of it is there
    dev.start_again().unwrap();
    within(&dev, &["write", "kv/a", "pw=newest"]);
    done(&dev, Some(&root), &["namespace", "delete", "team"]);
    done(&dev, Some(&root), &["namespace", "create", "team"]);
    assert!(!said(&dev, Some(&root), &read).status.success());
    dev.end();
    verified(&dev);
}
