//! The store beside the audit log: what was done to rows behind the server's back is found by `strongroom audit verify --store`,
//! and what was done to the log by the running server itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::identity::{CreateTokenRequest, RevokeTokenRequest};
use proto::kms::*;
use rusqlite::{Connection, params};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::{Dev, bearer, binary, until};

/// Exit status and answer of `audit verify --store`.
fn verify(dev: &Dev, store: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let dir = dev.audit_dir();
    let mut command = Command::new(binary("strongroom"));
    command.args(["audit", "verify", "--output", "json", "--dir"]).arg(&dir);
    command.arg("--key").arg(dir.join("log.vkey")).arg("--store").arg(store).args(more);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{err}"));
    (output.status.code().unwrap(), told)
}

fn passes(dev: &Dev, store: &Path, more: &[&str]) -> serde_json::Value {
    let (code, told) = verify(dev, store, more);
    assert_eq!((code, &told["valid"]), (0, &true.into()), "{told:#}");
    told["store"].clone()
}

/// Kind and path of each finding; each has the index of an entry, but for what no entry tells.
fn found(dev: &Dev, store: &Path) -> Vec<(String, Option<String>)> {
    let (code, told) = verify(dev, store, &[]);
    assert_eq!((code, &told["valid"]), (1, &false.into()), "{told:#}");
    let findings = told["store"]["findings"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let each = |finding: &serde_json::Value| {
        let kind = text(&finding["kind"]).unwrap();
        assert_eq!(finding["index"].is_u64(), kind != "unknown", "{finding}");
        (kind, text(&finding["path"]))
    };
    findings.iter().map(each).collect()
}

async fn create_key(dev: &Dev) -> String {
    let request = CreateKeyRequest { key_spec: KeySpec::SymmetricDefault.into(), ..Default::default() };
    let reply = dev.clients().keys.create_key(bearer(&dev.root_token(), request)).await.unwrap();
    reply.into_inner().key_metadata.unwrap().key_id
}

async fn disable(dev: &Dev, key_id: &str) {
    let request = DisableKeyRequest { key_id: key_id.to_owned() };
    dev.clients().keys.disable_key(bearer(&dev.root_token(), request)).await.unwrap();
}

async fn create_token(dev: &Dev) -> String {
    let request = CreateTokenRequest { policies: vec!["default".into()], ..Default::default() };
    dev.clients()
        .identity
        .create_token(bearer(&dev.root_token(), request))
        .await
        .unwrap()
        .into_inner()
        .metadata
        .unwrap()
        .accessor
}

async fn revoke(dev: &Dev, accessor: &str) {
    let request = RevokeTokenRequest { accessor: accessor.to_owned() };
    dev.clients().identity.revoke_token(bearer(&dev.root_token(), request)).await.unwrap();
}

fn store(dev: &Dev) -> PathBuf {
    dev.data().join("server/store.db")
}

/// The store's file with its log, folded into one.
fn copy_of(dev: &Dev, to: &Path) {
    let _former = std::fs::remove_file(to);
    let from = store(dev);
    for suffix in ["", "-wal"] {
        let beside = |file: &Path| PathBuf::from(format!("{}{suffix}", file.display()));
        if beside(&from).exists() {
            std::fs::copy(beside(&from), beside(to)).unwrap();
        }
    }
    let copy = Connection::open(to).unwrap();
    copy.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(copy);
}

fn rows(store: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let store = Connection::open(store).unwrap();
    let mut select = store.prepare("SELECT k, v FROM kv ORDER BY k").unwrap();
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// A copy of `sound` that was altered.
fn altered(sound: &Path, alter: impl FnOnce(&Connection)) -> PathBuf {
    let to = sound.with_file_name("altered.db");
    std::fs::copy(sound, &to).unwrap();
    let store = Connection::open(&to).unwrap();
    alter(&store);
    drop(store);
    to
}

fn text(path: &[u8]) -> Option<String> {
    Some(String::from_utf8(path.to_vec()).unwrap())
}

fn put(store: &Connection, path: &[u8], value: &[u8]) {
    let put = "INSERT INTO kv VALUES(?1, 1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v";
    store.execute(put, params![path, value]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untouched_store_passes_and_each_row_that_was_touched_is_found() {
    let mut dev = Dev::sim();
    let keys = [create_key(&dev).await, create_key(&dev).await];
    let accessor = create_token(&dev).await;
    dev.end();
    let folder = tempfile::tempdir().unwrap();
    let (old, sound) = (folder.path().join("old.db"), folder.path().join("sound.db"));
    copy_of(&dev, &old);
    dev.start_again().unwrap();
    disable(&dev, &keys[0]).await;
    revoke(&dev, &accessor).await;
    create_key(&dev).await;
    dev.end();

    let told = passes(&dev, &store(&dev), &[]);
    assert!(told["rows"].as_u64().unwrap() >= 5, "{told:#}");
    for name in ["boot", "core", "sentinel", "logs"] {
        assert_eq!(told["exempt"][name], "1", "{told:#}");
    }
    copy_of(&dev, &sound);
    passes(&dev, &sound, &[]);

    let (before, now) = (rows(&old), rows(&sound));
    let value_now = |path: &[u8]| now.iter().find(|(other, _)| other == path).map(|(_, value)| value);
    let key_row = before.iter().find(|(path, _)| text(path).unwrap().ends_with(&keys[0])).unwrap();
    assert_ne!(value_now(&key_row.0).unwrap(), &key_row.1, "it was changed");
    let replayed = altered(&sound, |store| put(store, &key_row.0, &key_row.1));
    assert_eq!(found(&dev, &replayed), [("replayed".into(), text(&key_row.0))]);

    let own =
        |path: &[u8]| ["core", "sentinel", "outbox", "logs", "anchors"].iter().any(|n| text(path).unwrap().contains(n));
    let gone: Vec<_> = before.iter().filter(|(path, _)| value_now(path).is_none() && !own(path)).collect();
    assert!(gone.len() >= 2, "the token's rows");
    for (path, value) in &gone {
        let revived = altered(&sound, |store| put(store, path, value));
        assert_eq!(found(&dev, &revived), [("revived".into(), text(path))]);
    }

    let untold = |path: &[u8]| path == b"boot" || own(path);
    for (path, _) in now.iter().filter(|(path, _)| !untold(path)) {
        let missing = altered(&sound, |store| {
            assert_eq!(store.execute("DELETE FROM kv WHERE k = ?1", [path]).unwrap(), 1);
        });
        assert_eq!(found(&dev, &missing), [("missing".into(), None)], "{:?}", text(path));
    }

    let foreign = altered(&sound, |store| put(store, b"t/foreign", b"value"));
    assert_eq!(found(&dev, &foreign), [("unknown".into(), text(b"t/foreign"))]);
    let copied = altered(&sound, |store| put(store, b"zzz/copy", value_now(&key_row.0).unwrap()));
    assert_eq!(found(&dev, &copied), [("copied".into(), text(b"zzz/copy"))]);
    // the whole store
    let (code, told) = verify(&dev, &old, &[]);
    assert_eq!(code, 1);
    assert!(told["result"].as_str().unwrap().contains("the store is"), "{told:#}");
}

/// `strongroom write PATH`, as root.
fn write(dev: &Dev, path: &str) {
    let mut command = Command::new(binary("strongroom"));
    command.args(["write", path]).env("STRONGROOM_ADDR", format!("https://{}", dev.addr()));
    command.env("STRONGROOM_CACERT", dev.ca()).env("STRONGROOM_TOKEN", dev.root_token());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_barrier_opens_again_and_its_older_keys_cannot_be_set_back() {
    let mut dev = Dev::sim();
    let keys = [create_key(&dev).await, create_key(&dev).await];
    dev.end();
    let folder = tempfile::tempdir().unwrap();
    let (old, once, sound) = (folder.path().join("old.db"), folder.path().join("1.db"), folder.path().join("2.db"));
    copy_of(&dev, &old);
    for (to, key) in [(&once, &keys[0]), (&sound, &keys[1])] {
        dev.start_again().unwrap();
        write(&dev, "sys/rotate");
        dev.end();
        dev.start_again().unwrap();
        // written before it, written anew under the new key
        disable(&dev, key).await;
        create_key(&dev).await;
        dev.end();
        copy_of(&dev, to);
        passes(&dev, to, &[]);
    }
    let boot = |store: &Path| rows(store).into_iter().find(|(path, _)| path == b"boot").unwrap().1;
    let values = [boot(&old), boot(&once)];
    for (value, finding) in values.iter().zip([("missing", None), ("replayed", Some("boot"))]) {
        let set_back = altered(&sound, |store| put(store, b"boot", value));
        assert_eq!(found(&dev, &set_back), [(finding.0.to_owned(), finding.1.map(str::to_owned))]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_leaf_in_the_outbox_excuses_nothing() {
    let mut dev = Dev::sim();
    create_key(&dev).await;
    create_token(&dev).await;
    dev.end();
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    copy_of(&dev, &sound);
    let paths: Vec<String> = rows(&sound).iter().map(|(path, _)| text(path).unwrap()).collect();
    let cluster = paths.iter().find_map(|path| path.strip_suffix("/core")).unwrap();
    let forged = |bytes: usize| {
        altered(&sound, |store| {
            let own = [cluster.to_owned() + "/%", "boot".into()];
            assert!(store.execute("DELETE FROM kv WHERE k NOT LIKE ?1 AND k <> ?2", own).unwrap() >= 2);
            put(store, format!("{cluster}/outbox/{:032x}", 1).as_bytes(), &vec![7; bytes]);
        })
    };
    assert!(found(&dev, &forged(1 << 20)).iter().all(|(kind, _)| kind == "missing"));
    let (code, told) = verify(&dev, &forged(64 << 10), &[]);
    assert_eq!((code, &told["valid"], &told["judged"]), (1, &false.into(), &false.into()), "{told:#}");
    assert!(told["result"].as_str().unwrap().contains("rows are not judged"), "{told:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_at_any_moment_nothing_is_found_that_nobody_did() {
    let mut dev = Dev::sim();
    let key = create_key(&dev).await;
    for round in 0..5_u32 {
        let (mut identity, mut keys, root) = (dev.clients().identity, dev.clients().keys, dev.root_token());
        let key = key.clone();
        let work = tokio::spawn(async move {
            loop {
                let request = CreateTokenRequest { policies: vec!["default".into()], ..Default::default() };
                let Ok(made) = identity.create_token(bearer(&root, request)).await else { return };
                let revoke = RevokeTokenRequest { accessor: made.into_inner().metadata.unwrap().accessor };
                let toggled = [
                    identity.revoke_token(bearer(&root, revoke)).await.is_ok(),
                    keys.disable_key(bearer(&root, DisableKeyRequest { key_id: key.clone() })).await.is_ok(),
                    keys.enable_key(bearer(&root, EnableKeyRequest { key_id: key.clone() })).await.is_ok(),
                ];
                if toggled.contains(&false) {
                    return;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(300 + u64::from(round) * 57)).await;
        // at once: the server ends without a word, and is not started again
        let server = dev.server().unwrap();
        dev.parent().stop();
        server.kill();
        work.await.unwrap();
        dev.end();
        // a leaf that waits is not judged, and so neither is what it may tell
        let (code, told) = verify(&dev, &store(&dev), &[]);
        let judged = told["judged"] != false;
        assert_eq!((code == 0, &told["store"]["found"]), (judged, &0.into()), "{told:#}");
        dev.start_again().unwrap();
        dev.end();
        passes(&dev, &store(&dev), &[]);
        dev.start_again().unwrap();
    }
    dev.end();
    passes(&dev, &store(&dev), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_is_refused_and_its_backup_passes_though_the_log_goes_on() {
    let dev = Dev::sim();
    let key = create_key(&dev).await;
    let output = Command::new(binary("strongroom"))
        .args(["audit", "verify", "--dir"])
        .arg(dev.audit_dir())
        .arg("--store")
        .arg(store(&dev))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("a server has"), "{told}");
    let backup = dev.folder().join("backup.db");
    let mut command = Command::new(binary("strongroom"));
    command.args(["operator", "backup", "--out"]).arg(&backup);
    command.env("STRONGROOM_ADDR", format!("https://{}", dev.addr())).env("STRONGROOM_CACERT", dev.ca());
    assert!(command.env("STRONGROOM_TOKEN", dev.root_token()).status().unwrap().success());
    passes(&dev, &backup, &["--backup"]);
    disable(&dev, &key).await;
    passes(&dev, &backup, &["--backup"]);
    let newer = || {
        let (code, told) = verify(&dev, &backup, &[]);
        code == 1 && told["result"].as_str().unwrap().contains("old copy")
    };
    until("the log tells that the store went on", Duration::from_secs(20), newer);
    passes(&dev, &backup, &["--backup"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_server_finds_a_byte_of_its_log_that_was_altered() {
    for what in ["segment/0000000000", "tile/0/000"] {
        let mut dev = Dev::sim();
        let key = create_key(&dev).await;
        let mut crypto = dev.clients().crypto;
        for _ in 0..300 {
            let request = EncryptRequest { key_id: key.clone(), plaintext: "x".into(), ..Default::default() };
            crypto.encrypt(bearer(&dev.root_token(), request)).await.unwrap();
        }
        dev.start_again().unwrap();
        // before the first round, which is not at once
        let file = dev.audit_dir().join(what);
        let file = File::options().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
        until("it is found", Duration::from_secs(60), || dev.log().contains("the audit log is damaged"));
        create_key(&dev).await;
    }
}

/// Until the log's first segment is closed, and more is signed.
async fn fill_a_segment(dev: &Dev, key: &str) {
    let token = dev.root_token();
    let crypto: Vec<_> = (0..4).map(|_| dev.clients().crypto).collect();
    while log_field(dev, "signed") < (1 << 16) + 100 {
        for _ in 0..8 {
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..800 {
                let request = EncryptRequest { key_id: key.to_owned(), plaintext: "x".into(), ..Default::default() };
                let (mut crypto, request) = (crypto[number % 4].clone(), bearer(&token, request));
                calls.spawn(async move { crypto.encrypt(request).await.map(drop) });
            }
            calls.join_all().await.into_iter().for_each(|outcome| outcome.unwrap());
        }
    }
}

fn log_field(dev: &Dev, field: &str) -> u64 {
    let mut command = Command::new(binary("strongroom"));
    command.args(["audit", "verify", "--output", "json", "--dir"]).arg(dev.audit_dir());
    let told: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    told[field].as_u64().unwrap_or_else(|| panic!("{told:#}"))
}

/// `strongroom audit archive` or `prune`.
fn remove(dev: &Dev, command: &str, more: &[&Path]) -> serde_json::Value {
    let mut ask = Command::new(binary("strongroom"));
    ask.args(["audit", command, "--output", "json", "--before", "18446744073709551615", "--data-dir"]).arg(dev.data());
    let output = ask.args(more).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out} {err}");
    serde_json::from_str(&out).unwrap()
}

/// A copy of `sound` without the rows that no entry misses which is still there.
fn without_what_only_removed_entries_told(dev: &Dev, sound: &Path) -> PathBuf {
    let all = rows(sound);
    let own =
        |path: &[u8]| ["core", "sentinel", "outbox", "logs", "anchors"].iter().any(|n| text(path).unwrap().contains(n));
    let mut unmissed = Vec::new();
    for (path, _) in all.iter().filter(|(path, _)| path != b"boot" && !own(path)) {
        let without = altered(sound, |store| {
            assert_eq!(store.execute("DELETE FROM kv WHERE k = ?1", [path]).unwrap(), 1);
        });
        let (_, told) = verify(dev, &without, &[]);
        if told["store"]["found"] == 0 {
            unmissed.push(path);
        }
    }
    assert!(!unmissed.is_empty());
    altered(sound, |store| {
        for path in unmissed {
            assert_eq!(store.execute("DELETE FROM kv WHERE k = ?1", [path]).unwrap(), 1);
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_entries_leave_a_running_servers_log_on_the_record_and_what_only_they_told_is_not_judged() {
    let mut dev = Dev::sim();
    let key = create_key(&dev).await;
    let nothing = remove(&dev, "prune", &[]);
    assert_eq!((&nothing["entries"], &nothing["first"]), (&0.into(), &0.into()), "the open segment stays");
    fill_a_segment(&dev, &key).await;
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    let done = remove(&dev, "archive", &[Path::new("--to"), &archive]);
    assert_eq!((&done["entries"], &done["first"]), (&(1 << 16).into(), &(1 << 16).into()), "{done}");
    assert_eq!(remove(&dev, "prune", &[])["entries"], 0, "once");
    assert_eq!(log_field(&dev, "removed"), 1 << 16);
    create_key(&dev).await;

    let mut told = Vec::new();
    dev.audit_records(|record| {
        if record.operation == "AuditEntriesArchived" {
            told.push((record.rule.to_owned(), record.path.to_owned()));
        }
    });
    let uid = rustix::process::geteuid().as_raw();
    assert!(told.len() == 1 && told[0].0 == format!("operator, uid {uid}"), "{told:?}");
    assert!(told[0].1.starts_with("audit/entries/0-65535/tree/"), "{told:?}");

    dev.end();
    let sound = folder.path().join("sound.db");
    copy_of(&dev, &sound);
    let archive = archive.to_str().unwrap();
    passes(&dev, &sound, &["--archive", archive]);
    let (code, without) = verify(&dev, &sound, &[]);
    assert_eq!((code, &without["valid"], &without["judged"]), (1, &false.into(), &false.into()), "{without:#}");
    assert!(
        without["store"]["of_removed_entries"].as_str().is_some() || without["store"]["of_removed_entries"].is_u64()
    );
    let disk = rows(&sound);
    let (path, value) = disk.iter().find(|(path, _)| path.windows(6).any(|part| part == b"/keys/")).unwrap();
    let replaced = altered(&sound, |store| put(store, path, &[value.as_slice(), &[0]].concat()));
    let (_, judged) = verify(&dev, &replaced, &["--archive", archive]);
    assert!(judged["store"]["found"] != 0 && judged["valid"] == false, "{judged:#}");
    let gone = without_what_only_removed_entries_told(&dev, &sound);
    let (code, told) = verify(&dev, &gone, &[]);
    assert_eq!((code, &told["valid"], &told["judged"]), (1, &false.into(), &false.into()), "{told:#}");
    assert!(told["result"].as_str().unwrap().contains("name the archive with --archive"), "{told:#}");
    let (_, judged) = verify(&dev, &gone, &["--archive", archive]);
    assert!(judged["store"]["found"].as_u64().unwrap() >= 1 && judged["valid"] == false, "{judged:#}");

    // it starts, serves, and its scrubber finds no damage
    dev.start_again().unwrap();
    until("a round is done", Duration::from_secs(60), || dev.log().contains("was verified, and is sound"));
    create_key(&dev).await;
    assert!(!dev.log().contains("the audit log is damaged"), "{}", dev.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_forwards_its_log_where_its_configuration_says() {
    let dev = Dev::sim();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let file = dev.data().join("server.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let forward =
        format!("\n[[audit.forward]]\nname = \"here\"\nkind = \"syslog\"\nto = \"unix://{}\"\n", path.display());
    std::fs::write(&file, config + &forward).unwrap();
    // the one that takes its place reads it
    dev.server().unwrap().kill();
    let mut next = 0;
    let mut receive = || {
        let mut message = vec![0; 1 << 17];
        let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("{error}: {}", dev.log()));
        let message = std::str::from_utf8(&message[..length]).unwrap();
        let line: serde_json::Value = serde_json::from_str(&message[message.find('{').unwrap()..]).unwrap();
        assert_eq!(line["index"], next);
        next += 1;
        line
    };
    let origin = receive()["origin"].as_str().unwrap().to_owned();
    assert!(std::fs::read_to_string(dev.audit_dir().join("log.vkey")).unwrap().starts_with(&origin));
    until("it serves", Duration::from_secs(20), || dev.server().is_some());
    while dev.clients().keys.list_keys(bearer(&dev.root_token(), ListKeysRequest::default())).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    create_key(&dev).await;
    while receive()["operation"] != "CreateKey" {}
}
