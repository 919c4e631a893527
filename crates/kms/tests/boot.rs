//! Bootstrap: what opens, what does not, and that a refusal writes nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use hsm_api::{Boundary, KeySpec, KeyUsage, NewKey, ProtectionLevel, Request, TenantId};
use kms::boot::{self, BootError};
use rig::{Rig, START};
use std::sync::Arc;
use storage::{AtLeast, Batch, CommitId, EntryPath, Memory, Revision, Storage};

fn store() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

async fn open(store: &Arc<dyn Storage>, rig: &Rig) -> Result<boot::Cluster, BootError> {
    boot::open(Arc::clone(store), &*rig.boundary, START).await
}

async fn entry(store: &Arc<dyn Storage>, at: &str) -> Option<Bytes> {
    let (_, entries) = store.get(&[path(at)], AtLeast::Latest).await.unwrap();
    entries.into_iter().next().flatten().map(|entry| entry.value)
}

async fn revision(store: &Arc<dyn Storage>) -> Revision {
    store.get(&[], AtLeast::Latest).await.unwrap().0
}

async fn put(store: &Arc<dyn Storage>, at: &str, value: impl Into<Bytes>) {
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    store.commit(Batch::new(CommitId(id)).put(path(at), value.into())).await.unwrap();
}

fn system_key(cluster: TenantId) -> Request {
    Request::GenerateKey(NewKey {
        key_id: None,
        version: 1,
        tenant: cluster,
        spec: KeySpec::Aes256,
        usage: KeyUsage::SystemSeal,
        level: ProtectionLevel::Boundary,
        not_after: None,
    })
}

#[tokio::test]
async fn an_empty_store_is_initialised_once_and_opens_again_as_the_same_cluster() {
    let (rig, store) = (Rig::new().await, store());
    let first = open(&store, &rig).await.unwrap();
    assert_eq!((first.core().generation, first.core().root_token_made), (1, false));
    let written = revision(&store).await;
    let again = open(&store, &rig).await.unwrap();
    assert_eq!(again.barrier.cluster_id(), first.barrier.cluster_id());
    assert_eq!((again.tenant, again.core()), (first.tenant, first.core()));
    assert_eq!(revision(&store).await, written, "opening writes nothing");
    assert_eq!(entry(&store, "boot-intent").await, None);
}

#[tokio::test]
async fn a_first_start_that_crashed_is_finished_as_the_cluster_that_it_began() {
    let cluster = [9; 16];
    for bound_before_the_crash in [false, true] {
        let (rig, store) = (Rig::new().await, store());
        put(&store, "boot-intent", [b"SRINIT\x01", &cluster[..]].concat()).await;
        if bound_before_the_crash {
            rig.boundary.submit(system_key(cluster)).await.unwrap();
        }
        assert_eq!(open(&store, &rig).await.unwrap().barrier.cluster_id(), &cluster);
        assert_eq!(entry(&store, "boot-intent").await, None);
    }
}

#[tokio::test]
async fn a_lost_store_is_not_taken_for_a_new_one() {
    let (rig, first) = (Rig::new().await, store());
    open(&first, &rig).await.unwrap();
    let empty = store();
    assert!(matches!(open(&empty, &rig).await, Err(BootError::BoundElsewhere(_))));
    assert_eq!(revision(&empty).await, Revision(0), "nothing was written");
    let headless = store();
    put(&headless, "some/data", &b"x"[..]).await;
    assert!(matches!(open(&headless, &rig).await, Err(BootError::BootMissing)));
    let begun_by_another = store();
    put(&begun_by_another, "boot-intent", [b"SRINIT\x01", &[7; 16][..]].concat()).await;
    assert!(matches!(open(&begun_by_another, &rig).await, Err(BootError::BoundElsewhere(_))));
}

#[tokio::test]
async fn another_boundary_is_refused_by_name_and_nothing_is_written() {
    let (own, other, store) = (Rig::new().await, Rig::new().await, store());
    open(&store, &own).await.unwrap();
    let written = revision(&store).await;
    match open(&store, &other).await {
        Err(BootError::WrongBoundary { store, boundary }) => assert_ne!(store, boundary),
        other => panic!("{other:?}"),
    }
    assert_eq!(revision(&store).await, written);
}

#[tokio::test]
async fn a_boot_entry_that_was_cut_altered_or_extended_is_refused_and_nothing_is_written() {
    let (rig, store) = (Rig::new().await, store());
    open(&store, &rig).await.unwrap();
    let whole = entry(&store, "boot").await.unwrap();
    let mut variants: Vec<Vec<u8>> = (0..whole.len()).step_by(7).map(|cut| whole[..cut].to_vec()).collect();
    variants.extend((0..whole.len()).map(|at| {
        let mut altered = whole.to_vec();
        altered[at] ^= 0x10;
        altered
    }));
    variants.push([&whole[..], b"x"].concat());
    for (n, variant) in variants.into_iter().enumerate() {
        put(&store, "boot", variant).await;
        let written = revision(&store).await;
        let error = open(&store, &rig).await.unwrap_err();
        assert!(
            matches!(error, BootError::BootAltered | BootError::WrongBoundary { .. } | BootError::Boundary(_)),
            "variant {n}: {error:?}"
        );
        assert!(!error.is_transient(), "variant {n}: {error:?}");
        assert_eq!(revision(&store).await, written, "variant {n}");
    }
    put(&store, "boot", whole).await;
    open(&store, &rig).await.unwrap();
}

#[tokio::test]
async fn sentinel_and_core_that_were_swapped_or_taken_away_are_refused() {
    let (rig, store) = (Rig::new().await, store());
    let cluster = open(&store, &rig).await.unwrap();
    let root = format!("{:032x}", u128::from_be_bytes(*cluster.barrier.cluster_id()));
    let (sentinel_at, core_at) = (format!("{root}/sentinel"), format!("{root}/core"));
    let sentinel = entry(&store, &sentinel_at).await.unwrap();
    let core = entry(&store, &core_at).await.unwrap();
    for (at, value) in [(&sentinel_at, &core), (&core_at, &sentinel)] {
        put(&store, at, value.clone()).await;
        assert!(matches!(open(&store, &rig).await, Err(BootError::Barrier(_))), "{at}");
        put(&store, &sentinel_at, sentinel.clone()).await;
        put(&store, &core_at, core.clone()).await;
    }
    store.commit(Batch::new(CommitId([1; 16])).delete(path(&core_at))).await.unwrap();
    assert!(matches!(open(&store, &rig).await, Err(BootError::SystemEntry(_))));
}

#[tokio::test]
async fn a_new_generation_is_durable_and_wants_a_root_token_of_its_own() {
    let (rig, store) = (Rig::new().await, store());
    let mut cluster = open(&store, &rig).await.unwrap();
    cluster.root_token_made().await.unwrap();
    assert!(open(&store, &rig).await.unwrap().core().root_token_made);
    for (acknowledged, generation, void_below) in [(false, 2, 0), (true, 3, 3), (false, 4, 3)] {
        cluster.raise_generation(acknowledged).await.unwrap();
        let reopened = open(&store, &rig).await.unwrap();
        assert_eq!((reopened.core().generation, reopened.core().root_token_made), (generation, false));
        assert_eq!(reopened.core().leases_void_below(), void_below);
    }
}

#[tokio::test]
async fn a_node_has_one_log_key_that_signs_its_checkpoints() {
    let (rig, store) = (Rig::new().await, store());
    let cluster = open(&store, &rig).await.unwrap();
    let first = cluster.log_key("1", &*rig.boundary).await.unwrap();
    let written = revision(&store).await;
    let cluster = open(&store, &rig).await.unwrap();
    let again = cluster.log_key("1", &*rig.boundary).await.unwrap();
    assert_eq!((again.token.bytes(), again.public_key), (first.token.bytes(), first.public_key));
    assert_eq!(revision(&store).await, written, "it is made once");
    let other = cluster.log_key("2", &*rig.boundary).await.unwrap();
    assert_ne!(other.public_key, first.public_key);
    assert_ne!(cluster.log_origin("1"), cluster.log_origin("2"));

    let (origin, root) = (cluster.log_origin("1"), envelope::merkle::empty_root());
    let ask = Request::SignCheckpoint { key: first.token, origin: origin.clone(), size: 0, root, proof: vec![] };
    let hsm_api::Reply::Signature(signature) = rig.boundary.submit(ask).await.unwrap() else { panic!() };
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, first.public_key);
    key.verify(&hsm_api::checkpoint::note_body(&origin, 0, &root), &signature).unwrap();
}

#[tokio::test]
async fn an_altered_log_key_is_named() {
    let (rig, store) = (Rig::new().await, store());
    let cluster = open(&store, &rig).await.unwrap();
    cluster.log_key("1", &*rig.boundary).await.unwrap();
    let at = path(&format!("{:032x}/logs/1", u128::from_be_bytes(*cluster.barrier.cluster_id())));
    let sealed = cluster.barrier.seal(&at, b"{}").unwrap();
    put(&store, at.as_str(), sealed).await;
    let refused = cluster.log_key("1", &*rig.boundary).await;
    assert!(matches!(refused, Err(BootError::SystemEntry("logs"))), "{refused:?}");
}

#[tokio::test]
async fn an_anchor_of_a_log_is_remembered_until_its_log_begins_anew() {
    use kms::log_anchor::{self, LogAnchor};
    let (rig, store) = (Rig::new().await, store());
    let cluster = open(&store, &rig).await.unwrap();
    let barrier = &cluster.barrier;
    assert_eq!(log_anchor::read(barrier, "1").await.unwrap().1, None);
    for byte in [7, 9] {
        let anchor = LogAnchor { size: u64::from(byte), root: [byte; 32] };
        let written = log_anchor::write(barrier, "1", &anchor).await.unwrap();
        assert_eq!(log_anchor::read(barrier, "1").await.unwrap(), (written, Some(anchor)));
        assert_eq!(log_anchor::read(barrier, "2").await.unwrap(), (written, None));
    }
    log_anchor::remove(barrier, "1").await.unwrap();
    assert_eq!(log_anchor::read(barrier, "1").await.unwrap().1, None);
}

#[tokio::test]
async fn a_new_epoch_is_heard_of_by_every_node_and_opens_again() {
    let (rig, store) = (Rig::new().await, store());
    let here = open(&store, &rig).await.unwrap();
    let there = open(&store, &rig).await.unwrap();
    let (barrier, boundary) = (Arc::clone(&there.barrier), Arc::clone(&rig.boundary));
    let following = tokio::spawn(async move { boot::follow_keyring(&barrier, &*boundary).await });
    let kms = rig.kms_over(&here.barrier);
    let rotated = async || {
        let (batch, keyring) =
            kms.prepare_rotation(Batch::new(CommitId(here.barrier.random().unwrap()))).await.unwrap();
        let outcome = here.barrier.commit(batch.clone()).await;
        outcome.map(|_| here.barrier.install(keyring).unwrap())
    };
    let at = path("t/a");
    let old = here.barrier.seal(&at, b"old").unwrap();
    for epoch in 2..5 {
        rotated().await.unwrap();
        assert_eq!(here.barrier.epoch(), epoch);
    }
    // two at once: one of them is told to look again
    let (one, _) = kms.prepare_rotation(Batch::new(CommitId([1; 16]))).await.unwrap();
    let (two, keyring) = kms.prepare_rotation(Batch::new(CommitId([2; 16]))).await.unwrap();
    here.barrier.commit(two).await.unwrap();
    here.barrier.install(keyring).unwrap();
    assert!(here.barrier.commit(one).await.is_err());
    for _ in 0..200 {
        if there.barrier.epoch() == 5 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(there.barrier.epoch(), 5);
    following.abort();
    let again = open(&store, &rig).await.unwrap();
    for barrier in [&here.barrier, &there.barrier, &again.barrier] {
        assert_eq!(barrier.open(&at, &old).unwrap().expose(), b"old");
        assert_eq!(barrier.keyed_hash(b"a", b"b"), here.barrier.keyed_hash(b"a", b"b"));
    }
    // sealed under the last one from the start, and opened where it was heard of
    let new = again.barrier.seal(&at, b"new").unwrap();
    assert_eq!(there.barrier.open(&at, &new).unwrap().expose(), b"new");
}
