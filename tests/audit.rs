//! The audit log of a running server: verified by the command line from files and key alone; sealed where it or the store is
//! an old copy; no success without it; no secret in it.
//!
//! On more than one thread: a client whose runtime is blocked keeps the server from ending.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::identity::CreateTokenRequest;
use proto::kms::*;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tests::{Dev, DevOptions, Token, bearer, binary, context, reason, until};
use tonic::Code;

fn strongroom(arguments: &[&str]) -> Output {
    Command::new(binary("strongroom")).args(arguments).output().unwrap()
}

/// The log is sound, by `strongroom audit verify`; what it printed.
fn verified(dir: &Path, more: &[&str]) -> serde_json::Value {
    let dir = dir.to_str().unwrap();
    let output = strongroom(&[&["audit", "verify", "--dir", dir, "--output", "json"], more].concat());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    serde_json::from_str(&out).unwrap()
}

async fn create_key(dev: &Dev) -> Result<String, tonic::Status> {
    let request = CreateKeyRequest { key_spec: KeySpec::SymmetricDefault.into(), ..Default::default() };
    let reply = dev.clients().keys.create_key(bearer(&dev.root_token(), request)).await?;
    Ok(reply.into_inner().key_metadata.unwrap().key_id)
}

async fn data_key(dev: &Dev, key_id: &str) -> Result<GenerateDataKeyResponse, tonic::Status> {
    let request = GenerateDataKeyRequest {
        key_id: key_id.to_owned(),
        key_spec: DataKeySpec::Aes256.into(),
        encryption_context: context("file", "a"),
        ..Default::default()
    };
    Ok(dev.clients().crypto.generate_data_key(bearer(&dev.root_token(), request)).await?.into_inner())
}

fn count(dev: &Dev, operation: &str) -> usize {
    let mut found = 0;
    dev.audit_records(|record| found += usize::from(record.operation == operation));
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_log_is_verified_and_one_that_was_touched_is_not() {
    for dev in [Dev::sim(), Dev::softhsm()] {
        let key = create_key(&dev).await.unwrap();
        for _ in 0..300 {
            data_key(&dev, &key).await.unwrap();
        }
        let covered = || verified(&dev.audit_dir(), &[])["signed"].as_u64().unwrap();
        until("a checkpoint covers them", Duration::from_secs(5), || covered() > 300);

        let copy = tempfile::tempdir().unwrap();
        let dir = copy.path().join("audit");
        copy_folder(&dev.audit_dir(), &dir);
        let segment = dir.join("segment/0000000000");
        let sound = std::fs::read(&segment).unwrap();
        // within the entries that are signed, wherever they end
        for at in [3, 100, 1000, 10_000] {
            let mut touched = sound.clone();
            touched[at] ^= 0x10;
            std::fs::write(&segment, &touched).unwrap();
            let output = strongroom(&["audit", "verify", "--dir", dir.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1), "a bit of byte {at}");
        }
        std::fs::write(&segment, &sound).unwrap();
        verified(&dir, &[]);

        let server = dev.server().unwrap();
        server.terminate();
        until("it has ended in peace", Duration::from_secs(20), || !server.is_alive());
        let closed = verified(&dev.audit_dir(), &[]);
        assert_eq!(closed["not_yet_signed"], 0, "closed in peace, it is signed to its end: {closed}");
    }
}

/// The receipt of a data key, as it stands in the trailing metadata.
async fn receipt(dev: &Dev, key_id: &str) -> Vec<u8> {
    let request = GenerateDataKeyRequest {
        key_id: key_id.to_owned(),
        key_spec: DataKeySpec::Aes256.into(),
        ..Default::default()
    };
    let mut request = bearer(&dev.root_token(), request);
    request.metadata_mut().insert("strongroom-receipt", "1".parse().unwrap());
    let reply = dev.clients().crypto.generate_data_key(request).await.unwrap();
    reply.metadata().get_bin("strongroom-receipt-bin").unwrap().to_bytes().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_either_boundary_are_kept_by_the_log_and_accuse_an_old_copy() {
    for dev in [Dev::sim(), Dev::softhsm()] {
        let key = create_key(&dev).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (old, file) = (folder.path().join("audit"), folder.path().join("receipt"));
        let covered = || verified(&dev.audit_dir(), &[])["not_yet_signed"] == 0;
        until("all is signed", Duration::from_secs(5), covered);
        copy_folder(&dev.audit_dir(), &old);
        let mut files = Vec::new();
        for number in 0..20 {
            files.push(file.with_extension(number.to_string()));
            std::fs::write(&files[number], receipt(&dev, &key).await).unwrap();
        }
        for file in &files {
            let more = ["--receipt", file.to_str().unwrap()];
            assert_eq!(verified(&dev.audit_dir(), &more)["receipt_kept"], true);
            let key = dev.audit_dir().join("log.vkey");
            let of = ["audit", "verify", "--key", key.to_str().unwrap(), "--receipt", file.to_str().unwrap()];
            assert!(strongroom(&of).status.success(), "without the log");
            let set_back = strongroom(&[&of[..], &["--dir", old.to_str().unwrap()]].concat());
            let said = String::from_utf8_lossy(&set_back.stdout).into_owned();
            assert!(set_back.status.code() == Some(1) && said.contains("it was set back"), "{said}");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// A token beside the root's, which a rollback makes void.
async fn token(dev: &Dev) -> String {
    let request = CreateTokenRequest { policies: vec!["default".into()], ..Default::default() };
    let made = dev.clients().identity.create_token(bearer(&dev.root_token(), request)).await;
    made.unwrap().into_inner().token
}

async fn lookup(dev: &Dev, token: &str) -> Code {
    let request = bearer(token, proto::identity::LookupTokenRequest::default());
    dev.clients().identity.lookup_token(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_store_comes_up_sealed_until_an_operator_acknowledges_it() {
    let mut dev = Dev::sim();
    let old = token(&dev).await;
    let told = dev.roll_back();
    assert!(told.contains("the store is at revision"), "{told}");
    assert_eq!(lookup(&dev, &old).await, Code::Unauthenticated, "tokens of before are void");
    create_key(&dev).await.unwrap();
    assert_eq!(count(&dev, "RollbackAcknowledged"), 1);
    verified(&dev.audit_dir(), &[]);
    // once is enough
    dev.start_again().unwrap();
    create_key(&dev).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_log_comes_up_sealed_and_begins_anew_beside_it() {
    for token in [None, Some(Token::new())] {
        let mut dev = Dev::start(DevOptions { token, ..DevOptions::default() });
        dev.anchored();
        dev.end();
        let kept = tempfile::tempdir().unwrap();
        copy_folder(&dev.audit_dir(), &kept.path().join("audit"));
        dev.start_again().unwrap();
        dev.anchored();
        dev.end();
        std::fs::remove_dir_all(dev.audit_dir()).unwrap();
        copy_folder(&kept.path().join("audit"), &dev.audit_dir());

        let told = dev.start_sealed();
        assert!(told.contains("audit log"), "{told}");
        create_key(&dev).await.unwrap();
        assert_eq!((count(&dev, "RollbackAcknowledged"), count(&dev, "CreateKey")), (1, 2), "asked and done");
        assert!(verified(&dev.audit_dir(), &[])["origin"].as_str().unwrap().ends_with("/1/g2"));
        let aside = std::fs::read_dir(dev.audit_dir()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = aside.filter(|path| path.to_string_lossy().contains("/aside-")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        verified(&aside[0], &[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_serves_again_with_its_log_and_is_sealed_without() {
    for log_is_lost in [false, true] {
        let mut dev = Dev::sim();
        let (old, key) = (token(&dev).await, create_key(&dev).await.unwrap());
        let made = data_key(&dev, &key).await.unwrap();
        dev.anchored();
        let root = dev.root_token();
        let told = dev.restore(log_is_lost);
        assert_eq!(told.is_some_and(|told| told.contains("the audit log has 0 entries")), log_is_lost);
        assert_eq!(lookup(&dev, &old).await, Code::Unauthenticated);
        assert_eq!(lookup(&dev, &root).await, Code::Unauthenticated, "the root token is a new one");
        let request = DecryptRequest {
            ciphertext_blob: made.ciphertext_blob,
            encryption_context: context("file", "a"),
            ..Default::default()
        };
        let opened = dev.clients().crypto.decrypt(bearer(&dev.root_token(), request)).await.unwrap().into_inner();
        assert_eq!(opened.plaintext, made.plaintext);
        assert_eq!(count(&dev, "RollbackAcknowledged"), 1);
        dev.start_again().unwrap();
        create_key(&dev).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_lost_comes_up_sealed() {
    let mut dev = Dev::sim();
    dev.anchored();
    dev.end();
    std::fs::remove_dir_all(dev.audit_dir()).unwrap();
    let told = dev.start_sealed();
    assert!(told.contains("the audit log has 0 entries, and had"), "{told}");
    create_key(&dev).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_success_leaves_without_its_record_and_service_recovers_in_place() {
    let dev = Dev::sim();
    let key = create_key(&dev).await.unwrap();
    let (segment, away) = (dev.audit_dir().join("segment/0000000000"), dev.folder().join("away"));
    for replaced in [false, true] {
        std::fs::rename(&segment, &away).unwrap();
        if replaced {
            std::fs::copy(&away, &segment).unwrap();
        }
        for _ in 0..5 {
            let refused = data_key(&dev, &key).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "AUDIT_UNAVAILABLE".into()));
            let refused = create_key(&dev).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        }
        std::fs::rename(&away, &segment).unwrap();
        data_key(&dev, &key).await.unwrap();
        create_key(&dev).await.unwrap();
    }
    let covered = || verified(&dev.audit_dir(), &[])["signed"].as_u64().unwrap();
    until("checkpoints go on", Duration::from_secs(5), || covered() >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_stands_in_the_log() {
    let dev = Dev::sim();
    let key = create_key(&dev).await.unwrap();
    let mut crypto = dev.clients().crypto;
    let mut secrets = vec![("root token".to_owned(), dev.root_token().into_bytes())];
    for number in 0..250 {
        let canary = |what: &str| format!("canary-{what}-{number}-of-this-test");
        let (plaintext, value) = (canary("plaintext"), canary("context"));
        let encrypt = EncryptRequest {
            key_id: key.clone(),
            plaintext: plaintext.clone().into(),
            encryption_context: context("secret", &value),
        };
        let sealed = crypto.encrypt(bearer(&dev.root_token(), encrypt)).await.unwrap().into_inner();
        let made = data_key(&dev, &key).await.unwrap();
        let child = token(&dev).await;
        // in a field that refuses it, and as a token that nobody has
        let wrong = bearer(&dev.root_token(), DescribeKeyRequest { key_id: canary("key") });
        assert!(dev.clients().keys.describe_key(wrong).await.is_err());
        let nobody = canary("token");
        let refused = crypto.decrypt(bearer(&nobody, DecryptRequest::default())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        for (what, bytes) in [
            ("plaintext", plaintext.into_bytes()),
            ("context", value.into_bytes()),
            ("data key", made.plaintext.to_vec()),
            ("blob", sealed.ciphertext_blob[48..].to_vec()),
            ("token", child.into_bytes()),
            ("unknown token", nobody.into_bytes()),
            ("malformed key id", canary("key").into_bytes()),
        ] {
            secrets.push((what.to_owned(), bytes));
        }
    }
    let mut told = std::fs::read(dev.audit_dir().join("segment/0000000000")).unwrap();
    dev.audit_records(|record| told.extend(record.json()));
    told.extend(dev.log().replace(&dev.root_token(), "").into_bytes());
    let told = Haystack::of(&told);
    for (what, secret) in &secrets {
        for form in [secret.clone(), hex(secret).into_bytes()] {
            assert!(!told.holds(&form), "a {what} stands there");
        }
    }
    assert!(secrets.len() == 1751 && told.holds(b"GenerateDataKey"), "it would have been found");
}

/// Bytes to search for many others.
struct Haystack {
    bytes: Vec<u8>,
    /// Where each four bytes stand.
    places: std::collections::HashMap<[u8; 4], Vec<usize>>,
}

impl Haystack {
    fn of(bytes: &[u8]) -> Self {
        let mut places = std::collections::HashMap::<_, Vec<usize>>::new();
        for (at, window) in bytes.windows(4).enumerate() {
            places.entry(window.try_into().unwrap()).or_default().push(at);
        }
        Self { bytes: bytes.to_vec(), places }
    }

    fn holds(&self, what: &[u8]) -> bool {
        let first: [u8; 4] = what[..4].try_into().unwrap();
        self.places.get(&first).is_some_and(|places| places.iter().any(|at| self.bytes[*at..].starts_with(what)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
