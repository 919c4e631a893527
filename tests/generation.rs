//! The cluster's generation. After a rollback that an operator has acknowledged, and after a restore, keys whose invocations a
//! token counts have a new version before they seal again: on SoftHSM2, which counts. Who cannot read it serves no more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::kms::*;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{Clients, Dev, bearer, context, until};

const KEYS: usize = 40;

async fn create_key(dev: &Dev, spec: KeySpec) -> String {
    let request = CreateKeyRequest { key_spec: spec.into(), ..Default::default() };
    let reply = dev.clients().keys.create_key(bearer(&dev.root_token(), request)).await.unwrap();
    reply.into_inner().key_metadata.unwrap().key_id
}

async fn data_key(clients: &mut Clients, token: &str, key_id: &str) -> GenerateDataKeyResponse {
    let request = GenerateDataKeyRequest {
        key_id: key_id.to_owned(),
        key_spec: DataKeySpec::Aes256.into(),
        encryption_context: context("file", "a"),
        ..Default::default()
    };
    clients.crypto.generate_data_key(bearer(token, request)).await.unwrap().into_inner()
}

async fn opened(dev: &Dev, made: &GenerateDataKeyResponse) -> Vec<u8> {
    let request = DecryptRequest {
        ciphertext_blob: made.ciphertext_blob.clone(),
        encryption_context: context("file", "a"),
        ..Default::default()
    };
    dev.clients().crypto.decrypt(bearer(&dev.root_token(), request)).await.unwrap().into_inner().plaintext.to_vec()
}

async fn version(dev: &Dev, key_id: &str) -> u32 {
    let request = DescribeKeyRequest { key_id: key_id.to_owned() };
    let reply = dev.clients().keys.describe_key(bearer(&dev.root_token(), request)).await.unwrap();
    reply.into_inner().key_metadata.unwrap().current_key_version
}

/// Of each key: how often a rotation of it was asked for, and how often it was done.
fn rotations(dev: &Dev) -> BTreeMap<String, [usize; 2]> {
    let mut found = BTreeMap::new();
    dev.audit_records(|record| {
        if record.operation == "RotateOutlivedKey" {
            let counts: &mut [usize; 2] = found.entry(record.path.to_owned()).or_default();
            counts[usize::from(record.outcome == audit::Outcome::Done)] += 1;
        }
    });
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    RolledBack,
    Restored,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_token_counts_has_a_new_version_before_it_seals_again() {
    for how in [How::RolledBack, How::Restored] {
        let mut dev = Dev::softhsm();
        let mut keys = Vec::new();
        for _ in 0..KEYS {
            keys.push(create_key(&dev, KeySpec::SymmetricDefault).await);
        }
        keys.sort();
        let (signing, disabled) = (create_key(&dev, KeySpec::EccNistP256).await, keys[0].clone());
        let root = dev.root_token();
        let before = data_key(&mut dev.clients(), &root, &keys[1]).await;
        assert_eq!(before.key_version, 1);
        let request = DisableKeyRequest { key_id: disabled.clone() };
        dev.clients().keys.disable_key(bearer(&root, request)).await.unwrap();
        assert!(rotations(&dev).is_empty());
        match how {
            How::RolledBack => drop(dev.roll_back()),
            How::Restored => drop(dev.restore(false)),
        }

        // many at once, faster than the background, which begins with the first: none seals under the old version, and
        // all under one new one
        let last = keys.iter().rfind(|key| **key != disabled).unwrap().clone();
        let root = dev.root_token();
        let callers = (0..32).map(|_| {
            let (mut clients, root, key) = (dev.clients(), root.clone(), last.clone());
            tokio::spawn(async move { data_key(&mut clients, &root, &key).await.key_version })
        });
        for caller in callers.collect::<Vec<_>>() {
            assert_eq!(caller.await.unwrap(), 2, "{how:?}");
        }
        assert_eq!(rotations(&dev)[&format!("kms/keys/{last}")], [1, 1], "{how:?}: many callers, one version");
        // it is stopped amid the others, and goes on
        if let Some(server) = dev.server() {
            server.kill();
            until("the server is gone", Duration::from_secs(10), || !server.is_alive());
        }
        dev.start_again().unwrap();
        let enabled = || keys.iter().filter(|key| **key != disabled);
        let done = || rotations(&dev).values().filter(|[_, done]| *done > 0).count();
        until("all are rotated", Duration::from_secs(20), || done() == KEYS - 1);
        for key in enabled() {
            assert_eq!(version(&dev, key).await, 2, "{how:?}");
        }
        assert_eq!((version(&dev, &signing).await, version(&dev, &disabled).await), (1, 1));

        // the old version opens what it sealed; what was disabled is rotated when it is to seal
        assert_eq!(opened(&dev, &before).await, before.plaintext, "{how:?}");
        let request = EnableKeyRequest { key_id: disabled.clone() };
        dev.clients().keys.enable_key(bearer(&dev.root_token(), request)).await.unwrap();
        assert_eq!(data_key(&mut dev.clients(), &dev.root_token(), &disabled).await.key_version, 2, "{how:?}");
        // once is enough
        dev.start_again().unwrap();
        let after = data_key(&mut dev.clients(), &dev.root_token(), &keys[1]).await;
        assert_eq!((after.key_version, opened(&dev, &after).await), (2, after.plaintext.to_vec()), "{how:?}");
        assert_eq!(rotations(&dev).len(), KEYS, "{how:?}");
    }
}

/// As a node is of an older version, beside one that wrote the record in a form of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_read_the_clusters_record_ends() {
    let mut dev = Dev::sim();
    let core = "CAST(k AS TEXT) GLOB '????????????????????????????????/core'";
    let store = Connection::open(dev.data().join("server/store.db")).unwrap();
    let kept: Vec<u8> = store.query_row(&format!("SELECT v FROM kv WHERE {core}"), (), |row| row.get(0)).unwrap();
    let put = |value: &[u8]| store.execute(&format!("UPDATE kv SET v = ?1 WHERE {core}"), [value]).unwrap();
    let server = dev.server().unwrap();
    assert_eq!(put(&kept[1..]), 1);
    // for a moment it does not matter, however often
    let looks = || dev.log().matches("it is looked at again").count();
    until("it is noticed", Duration::from_secs(9), || looks() >= 2);
    put(&kept);
    std::thread::sleep(Duration::from_secs(3));
    let before = looks();
    put(&kept[1..]);
    until("it is noticed", Duration::from_secs(9), || looks() >= before + 2);
    put(&kept);
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.is_alive(), "{}", dev.log());
    create_key(&dev, KeySpec::SymmetricDefault).await;
    put(&kept[1..]);
    until("it has ended", Duration::from_secs(20), || !server.is_alive());
    assert!(dev.log().contains("this version cannot read the cluster's record"), "{}", dev.log());
    put(&kept);
    drop(store);
    dev.start_again().unwrap();
    create_key(&dev, KeySpec::SymmetricDefault).await;
    // one that is sealed by hand stays so
    let server = dev.server().unwrap();
    let sealed = dev.strongroom().args(["operator", "seal"]).status().unwrap();
    std::thread::sleep(Duration::from_secs(7));
    assert!(sealed.success() && server.is_alive(), "{}", dev.log());
}
