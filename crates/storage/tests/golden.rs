//! Golden data: a store that an earlier version wrote opens, and says what it said. For ever.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use envelope::{ManualClock, SecretBytes, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::{
    AtLeast, Barrier, Batch, CommitError, CommitId, EntryPath, Keyring, Revision, Sqlite, Storage, outbox, sqlite,
};
use tempfile::TempDir;

const CLUSTER: [u8; 16] = [0xc1; 16];
const TENANT: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
/// When the golden store was written, by its engine's clock.
const WRITTEN: Timestamp = Timestamp::from_unix_millis(1_790_000_000_000);

/// Named by the format's version; set to a folder, the store that this version writes is left there.
const KEEP: &str = "STRONGROOM_KEEP_GOLDEN";

fn keyring(epochs: u8) -> Keyring {
    let key = |epoch: u8| [&[0, 0, 0, epoch][..], &[0x40 + epoch; 32]].concat();
    let keys: Vec<u8> = (1..=epochs).flat_map(key).collect();
    let encoded = [&[1][..], &[0x20; 32], &[0, 0, 0, epochs], &keys].concat();
    Keyring::decode(&SecretBytes::copy_from(&encoded)).unwrap()
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn below(rest: &str) -> EntryPath {
    path(TENANT).join(rest).unwrap()
}

fn id(number: u8) -> CommitId {
    CommitId([number; 16])
}

fn open(folder: &Path, clock: &ManualClock) -> Arc<Sqlite> {
    let options = sqlite::Options { clock: Arc::new(clock.clone()), ..sqlite::Options::default() };
    Arc::new(Sqlite::open_with(folder, options).unwrap())
}

/// A copy of a golden folder: what is kept is never opened itself.
fn copy(version: &str) -> TempDir {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(kept).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// What every golden store holds.
async fn write(store: &Arc<Sqlite>) {
    let plain = Batch::new(id(1)).put(path("boot"), "unsealed");
    assert_eq!(store.commit(plain).await, Ok(Revision(1)));
    let first = Barrier::new(Arc::clone(store) as Arc<dyn Storage>, CLUSTER, keyring(1));
    let sealed = |barrier: &Barrier, at: &EntryPath, value: &[u8]| barrier.seal(at, value).unwrap();
    let (a, b, long, gone) = (below("kms/keys/a"), below("kms/keys/b"), below("long"), below("gone"));
    let batch = Batch::new(id(2))
        .put(a.clone(), sealed(&first, &a, b"of epoch 1"))
        .put(gone.clone(), sealed(&first, &gone, b""));
    let (batch, _) = outbox::attach(&first, batch, b"{\"leaf\":2}\n").unwrap();
    assert_eq!(first.commit(batch).await, Ok(Revision(2)));
    let second = Barrier::new(Arc::clone(store) as Arc<dyn Storage>, CLUSTER, keyring(2));
    let batch = Batch::new(id(3)).put(b.clone(), sealed(&second, &b, b"of epoch 2")).delete(gone);
    assert_eq!(second.commit(batch.put(long.clone(), sealed(&second, &long, &[7; 9000]))).await, Ok(Revision(3)));
    let mut work = Batch::new(id(4));
    for after in [0, 1, 60_000, 3_600_000] {
        let at = below(&format!("due/{:016x}/x", WRITTEN.unix_millis() + after));
        work = work.put(at.clone(), sealed(&second, &at, b"work"));
    }
    assert_eq!(second.commit(work).await, Ok(Revision(4)));
    let claims = second.storage().claim(&below("due"), 1, Duration::from_secs(300)).await.unwrap();
    assert_eq!((claims.len(), claims[0].fence), (1, Revision(5)));
}

async fn reads(store: Arc<Sqlite>, clock: &ManualClock) {
    let barrier = Barrier::new(Arc::clone(&store) as Arc<dyn Storage>, CLUSTER, keyring(2));
    let (revision, boot) = store.get(&[path("boot")], AtLeast::Latest).await.unwrap();
    let boot = boot[0].clone().unwrap();
    assert_eq!((revision, boot.revision, &boot.value[..]), (Revision(5), Revision(1), &b"unsealed"[..]));
    for (at, value, revision) in [
        ("kms/keys/a", Some(&b"of epoch 1"[..]), 2),
        ("kms/keys/b", Some(b"of epoch 2"), 3),
        ("long", Some(&[7; 9000]), 3),
        ("gone", None, 0),
    ] {
        let (_, entries) = barrier.get(&[below(at)], AtLeast::Latest).await.unwrap();
        let found = entries.into_iter().next().flatten();
        assert_eq!(found.as_ref().map(|opened| opened.value.expose()), value, "{at}");
        assert!(found.is_none_or(|opened| opened.revision == Revision(revision)), "{at}");
    }
    let page = barrier.scan(&below("kms"), None, 10, AtLeast::Latest).await.unwrap();
    let names: Vec<_> = page.entries.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(names, [below("kms/keys/a"), below("kms/keys/b")]);
    let leaves = outbox::pending(&barrier).await.unwrap();
    let leaf = path(&format!("{}/outbox/{}", "c1".repeat(16), "02".repeat(16)));
    assert_eq!(leaves.len(), 1);
    assert_eq!((&leaves[0].path, &leaves[0].leaf[..]), (&leaf, &b"{\"leaf\":2}\n"[..]));
    for number in 1..=4 {
        assert_eq!(store.committed(id(number)).await, Ok(Some(Revision(number.into()))), "{number}");
    }
    assert_eq!(
        hex(&barrier.keyed_hash(b"token", b"sr.golden").unwrap()),
        "21948819a3ca66f963a0332cdee7001b2d1166a8abe3f3e778c7245c7d6984f1",
        "what was looked up by a keyed hash is found by it still"
    );
    goes_on(&barrier, clock).await;
}

/// History goes on where it ended: claims, fences, revisions.
async fn goes_on(barrier: &Barrier, clock: &ManualClock) {
    let store = barrier.storage();
    let due = |after: u64| below(&format!("due/{:016x}/x", WRITTEN.unix_millis() + after));
    clock.set(WRITTEN.plus(Duration::from_secs(120)));
    let claims = store.claim(&below("due"), 10, Duration::from_secs(600)).await.unwrap();
    let names: Vec<_> = claims.iter().map(|claim| claim.path.clone()).collect();
    assert_eq!(names, [due(1), due(60_000)], "the first is claimed for five minutes");
    clock.set(WRITTEN.plus(Duration::from_secs(301)));
    let claims = store.claim(&below("due"), 10, Duration::from_secs(600)).await.unwrap();
    assert_eq!((claims.len(), &claims[0].path), (1, &due(0)));
    let late = Batch::new(id(5)).revision_is(due(0), Revision(5)).delete(due(0));
    assert_eq!(store.commit(late).await, Err(CommitError::Conflict(due(0))));
    let next = store.commit(Batch::new(id(6)).delete(due(0))).await.unwrap();
    assert_eq!(next, Revision(8));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_store_of_format_1_says_what_it_said() {
    let folder = copy("v1");
    let clock = ManualClock::at(WRITTEN);
    reads(open(folder.path(), &clock), &clock).await;
}

#[tokio::test]
async fn a_store_of_this_version_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(WRITTEN);
    write(&open(folder.path(), &clock)).await;
    if let Some(kept) = std::env::var_os(KEEP) {
        std::fs::copy(folder.path().join("store.db"), Path::new(&kept).join("store.db")).unwrap();
    }
    reads(open(folder.path(), &clock), &clock).await;
}
