use super::*;
use crate::Decision;
use crate::log::{CheckpointSigner, Log, LogOptions, SignError};
use crate::read::rig::{self, ORIGIN, Signer};
use crate::read::{LogFolder, WithArchive};
use crate::tile::TileFolder;
use crate::verify::{Change, Fault, Options, Report, verify};
use envelope::{ManualClock, Timestamp};
use futures_util::future::{BoxFuture, FutureExt as _};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Signs whatever it is asked.
#[derive(Debug)]
struct Boundary;

impl CheckpointSigner for Boundary {
    fn verifier(&self) -> [u8; 32] {
        use aws_lc_rs::signature::KeyPair as _;
        Signer::new().pair.public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        _: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let body = Checkpoint { origin, size, root }.body();
        let signature = Signer::new().pair.sign(body.as_bytes()).as_ref().try_into().unwrap();
        async move { Ok(signature) }.boxed()
    }

    fn sign_batch(&self, batch: crate::receipt::Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let signature = Signer::new().pair.sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
        async move { Ok(signature) }.boxed()
    }
}

struct Rig {
    dir: PathBuf,
    archive: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { dir: folder.path().join("audit"), archive: folder.path().join("archive"), _folder: folder }
    }

    fn open(&self) -> Result<Arc<Log>, crate::OpenError> {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_700_000_000_000)));
        Log::open(LogOptions::new(self.dir.clone(), ORIGIN.into(), "1", Arc::new(Boundary), clock))
    }

    fn folder(&self) -> LogFolder {
        LogFolder::open(&self.dir).unwrap()
    }

    fn verify(&self, archive: bool) -> Result<Report, Fault> {
        let archive = archive.then(|| LogFolder::open(&self.archive).unwrap());
        let log = LogReader::over(WithArchive::new(self.folder(), archive));
        verify(&log, &Signer::new().key, &Options::default(), &mut |_| {})
    }

    fn signed(&self) -> Checkpoint {
        let note = self.folder().checkpoint().unwrap().unwrap();
        crate::verify::open_checkpoint(&note, &Signer::new().key).unwrap()
    }

    fn prepare(&self, segments: Range<u64>, fate: Fate) -> Result<Removal, RetentionError> {
        let mut each = || ControlFlow::Continue(());
        let from = match fate {
            Fate::Archived => LogFolder::open(&self.archive).unwrap(),
            Fate::Pruned => self.folder(),
        };
        prepare(&self.folder(), &self.signed(), segments, (&from, fate), &mut each)
    }
}

async fn append(log: &Log, numbers: Range<u64>) {
    let lane = log.lane();
    for number in numbers.step_by(4096).map(|from| from..(from + 4096)) {
        let drafts = number.map(|number| lane.append(draft(number)));
        let drafts: Vec<_> = drafts.collect();
        for answer in drafts {
            answer.await.unwrap();
        }
    }
    signed(log).await;
}

fn draft(number: u64) -> bytes::Bytes {
    let subject = Subject::Token { accessor: format!("{:032x}", number % 7), name: "root".into() };
    let id = format!("{number:032x}");
    Record::new(Timestamp::from_unix_millis(1_000_000 + number * 10), &id, "Decrypt", &subject).encode()
}

async fn signed(log: &Log) {
    let mut checkpoints = log.checkpoints();
    let covers = |it: &Option<crate::log::Signed>| it.as_ref().is_some_and(|it| it.0.size == log.size());
    checkpoints.wait_for(covers).await.unwrap();
    // it stands in the folder a moment later
    let path = log.dir().join("checkpoint");
    let size = log.size().to_string();
    while fs::read_to_string(&path).is_ok_and(|text| text.lines().nth(1) != Some(&size)) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn record(log: &Log, removal: &Removal) -> u64 {
    let path = removal.path();
    let told = Record {
        path: &path,
        decision: Decision::Allowed,
        ..Record::new(Timestamp::from_unix_millis(2_000_000), "", removal.fate.operation(), &Subject::System)
    };
    log.lane().append(told.encode()).await.unwrap();
    log.size() - 1
}

const SEGMENT: u64 = SEGMENT_ENTRIES;

fn removal() -> Removal {
    Removal { fate: Fate::Pruned, first: 65_536, end: 131_072, size: 140_000, root: [1; 32], digest: [2; 32] }
}

#[test]
fn a_record_of_a_removal_is_read_as_it_was_told_and_nobody_elses_is() {
    let removal = removal();
    let path = removal.path();
    let by = |subject: &Subject, operation: &str, path: &str, decision| {
        let record = Record { path, decision, ..Record::new(Timestamp::from_unix_millis(1), "", operation, subject) };
        let entry = crate::record::finish(&record.encode(), None).unwrap();
        assert_eq!(Removal::of_entry(&entry), Removal::of(&record));
        Removal::of(&record)
    };
    let (pruned, system, allowed) = ("AuditEntriesPruned", &Subject::System, Decision::Allowed);
    assert_eq!(by(system, pruned, &path, allowed), Some(removal.clone()));
    let archived = by(system, "AuditEntriesArchived", &path, allowed).unwrap();
    assert_eq!(archived, Removal { fate: Fate::Archived, ..removal.clone() });
    assert_eq!(by(&Subject::Unauthenticated, pruned, &path, allowed), None);
    assert_eq!(by(system, "Decrypt", &path, allowed), None);
    assert_eq!(by(system, pruned, &path, Decision::Denied), None);
    for (from, to) in [
        ("65536-", "065536-"),
        ("65536-", "131072-"),
        ("-131071", "-18446744073709551615"),
        ("/tree/140000", "/tree/131071"),
        ("/sha256/02", "/sha256/0"),
        ("/sha256/", "/sha512/"),
        ("audit/", "audit"),
    ] {
        let other = path.replacen(from, to, 1);
        assert_ne!(other, path);
        assert_eq!(by(system, pruned, &other, allowed), None, "{other}");
    }
    assert_eq!(by(system, pruned, &format!("{path}/"), allowed), None);
}

#[tokio::test]
async fn only_closed_segments_that_are_signed_and_old_enough_are_planned() {
    let signer = Signer::new();
    let all = rig::entries(2 * SEGMENT + 10);
    let log = signer.log(&all, all.len());
    let at = |index: u64| 1_000_000 + index;
    let signed = |size| Checkpoint { origin: ORIGIN.into(), size, root: [0; 32] };
    let end = all.len() as u64;
    for (size, before, most, expected) in [
        (end, Before::Entry(u64::MAX), 9, 0..2),
        (end, Before::Entry(2 * SEGMENT - 1), 9, 0..1),
        (end, Before::Entry(SEGMENT - 1), 9, 0..0),
        (end, Before::Entry(u64::MAX), 1, 0..1),
        // not signed
        (2 * SEGMENT - 1, Before::Entry(u64::MAX), 9, 0..1),
        (SEGMENT - 1, Before::Entry(u64::MAX), 9, 0..0),
        (end, Before::Time(u64::MAX), 9, 0..2),
        (end, Before::Time(at(SEGMENT)), 9, 0..0),
        (end, Before::Time(at(SEGMENT) + DISORDER_MILLIS), 9, 0..0),
        (end, Before::Time(at(SEGMENT) + DISORDER_MILLIS + 1), 9, 0..1),
        (end, Before::Time(at(2 * SEGMENT) + DISORDER_MILLIS + 1), 9, 0..2),
    ] {
        assert_eq!(plan(&log, &signed(size), before, most).unwrap(), expected, "{size} {before:?} {most}");
    }
    // full, and the next one not begun: it is the one that is written
    let log = signer.log(&all[..2 * rig::SEGMENT], 2 * rig::SEGMENT);
    assert_eq!(plan(&log, &signed(2 * SEGMENT), Before::Entry(u64::MAX), 9).unwrap(), 0..1);
}

#[tokio::test]
async fn what_is_archived_and_pruned_is_proven_and_a_gap_without_its_record_is_damage() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    append(&log, 0..2 * SEGMENT + 4096).await;

    let mut each = || ControlFlow::Continue(());
    copy(&rig.folder(), 0..1, &rig.archive, &mut each).unwrap();
    let archived = rig.prepare(0..1, Fate::Archived).unwrap();
    // a record that is not there, or not signed, removes nothing
    assert!(matches!(remove(&log, &archived, 5), Err(RetentionError::Unrecorded)));
    assert!(matches!(remove(&log, &archived, log.size() + 9), Err(RetentionError::Unrecorded)));
    let index = record(&log, &archived).await;
    signed(&log).await;
    let other = Removal { end: 2 * SEGMENT, ..archived.clone() };
    assert!(matches!(remove(&log, &other, index), Err(RetentionError::Unrecorded)));
    assert!(rig.dir.join("segment/0000000000").exists());
    remove(&log, &archived, index).unwrap();
    assert!(!rig.dir.join("segment/0000000000").exists());

    for (with_archive, unread) in [(false, SEGMENT), (true, 0)] {
        let report = rig.verify(with_archive).unwrap();
        let removed = report.removed.unwrap();
        assert_eq!((removed.entries, removed.unread, removed.index), (SEGMENT, unread, index));
        assert_eq!((removed.removal.fate, removed.time), (Fate::Archived, 2_000_000));
        assert_eq!(report.entries, log.size());
    }
    // the archive is held to the tree as well
    let path = rig.archive.join("segment/0000000000");
    let sound = fs::read(&path).unwrap();
    let mut touched = sound.clone();
    touched[5000] ^= 1;
    fs::write(&path, &touched).unwrap();
    assert!(rig.verify(true).unwrap_err().index().is_some_and(|index| index < 100));
    assert!(rig.verify(false).is_ok());
    fs::write(&path, &sound).unwrap();

    // it goes on after a restart, and prunes the next
    drop(log);
    let log = rig.open().unwrap();
    append(&log, 0..4096).await;
    let pruned = rig.prepare(1..2, Fate::Pruned).unwrap();
    let before = fs::read(rig.dir.join("checkpoint")).unwrap();
    let index = record(&log, &pruned).await;
    signed(&log).await;
    remove(&log, &pruned, index).unwrap();
    let removed = rig.verify(true).unwrap().removed.unwrap();
    assert_eq!((removed.entries, removed.unread, removed.removal.fate), (2 * SEGMENT, SEGMENT, Fate::Pruned));
    drop(log);
    // a record that no checkpoint covers excuses nothing
    let checkpoint = rig.dir.join("checkpoint");
    let newest = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, before).unwrap();
    let fault = rig.verify(false).unwrap_err();
    let missing = Change::Missing { entries: SEGMENT };
    assert!(matches!(fault, Fault::Entry { index: SEGMENT, change } if change == missing), "{fault}");
    fs::write(&checkpoint, newest).unwrap();

    gaps(&rig, 2 * SEGMENT, index).await;
}

/// Of a log whose first segments are gone, rightly.
async fn gaps(rig: &Rig, gone: u64, index: u64) {
    // proofs of what is gone hold
    let (folder, signed) = (rig.folder(), rig.signed());
    let note = crate::note::Note::parse(&folder.checkpoint().unwrap().unwrap()).unwrap();
    let proof = crate::proof::Proof::prove(&folder, 77, signed.size, note).unwrap();
    let entry = crate::record::finish(&draft(77), None).unwrap();
    proof.verify(&Signer::new().key, &envelope::merkle::leaf_hash(&entry)).unwrap();
    // and receipts of it
    let leaves = (60..90).map(|at| envelope::merkle::leaf_hash(&crate::record::finish(&draft(at), None).unwrap()));
    let tree = envelope::merkle::Layers::over(leaves.collect());
    for (first, is_kept) in [(60, true), (61, false)] {
        let batch = crate::receipt::Batch { origin: ORIGIN.into(), first, count: 30, root: tree.root() };
        let signature = Signer::new().pair.sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
        let key = &Signer::new().key;
        let receipt = crate::receipt::SignedBatch::of(&batch, &tree, key, signature).receipt(17).unwrap();
        let promises = vec![crate::verify::Promise::of(&receipt, key).unwrap()];
        let options = crate::verify::Options { promises, ..Default::default() };
        let log = crate::read::LogReader::over(rig.folder());
        let verified = crate::verify::verify(&log, key, &options, &mut |_| {});
        assert_eq!(verified.is_ok(), is_kept, "{first}");
    }
    // a hash that stands for one is held to the tree
    let tile = rig.dir.join("tile/0/300");
    let sound = fs::read(&tile).unwrap();
    let mut touched = sound.clone();
    touched[40] ^= 1;
    fs::write(&tile, &touched).unwrap();
    let fault = rig.verify(false).unwrap_err();
    assert_eq!(fault.index(), Some(300 * 256), "{fault}");
    fs::remove_file(&tile).unwrap();
    assert_eq!(rig.verify(false).unwrap_err().index(), Some(300 * 256));
    fs::write(&tile, &sound).unwrap();
    rig.verify(false).unwrap();
    // a tile above those that stand for what is gone may be missing, or cut; one that misleads a start is made anew, also
    // where the record of the removal alone tells what was signed
    let tile = rig.dir.join("tile/1/000");
    let sound = fs::read(&tile).unwrap();
    for (spoiled, checkpoint) in
        [(None, true), (Some(&sound[..64]), true), (Some(&[7; 8192]), true), (Some(&[8; 8192]), false)]
    {
        match spoiled {
            None => fs::remove_file(&tile).unwrap(),
            Some(bytes) => fs::write(&tile, bytes).unwrap(),
        }
        if !checkpoint {
            fs::remove_file(rig.dir.join("checkpoint")).unwrap();
        }
        let log = rig.open().unwrap();
        append(&log, 0..1).await;
        drop(log);
        let (signed, note) = (rig.signed(), rig.folder().checkpoint().unwrap().unwrap());
        let note = crate::note::Note::parse(&note).unwrap();
        let proof = crate::proof::Proof::prove(&rig.folder(), 77, signed.size, note).unwrap();
        proof.verify(&Signer::new().key, &envelope::merkle::leaf_hash(&entry)).unwrap();
        if spoiled.is_some_and(|bytes| bytes.len() == sound.len()) {
            assert!(fs::read(&tile).unwrap() == sound);
            rig.verify(false).unwrap();
        }
    }
    // but not of tiles that lead elsewhere
    let leaves = rig.dir.join("tile/0/077");
    let those = fs::read(&leaves).unwrap();
    let mut touched = those.clone();
    touched[40] ^= 1;
    fs::write(&leaves, &touched).unwrap();
    fs::remove_file(&tile).unwrap();
    assert!(matches!(rig.open(), Err(crate::OpenError::Rewritten { .. })));
    assert!(!tile.exists());
    fs::write(&leaves, &those).unwrap();
    drop(rig.open().unwrap());
    // the record must be there: without what it tells, and what tells where it stands, nothing opens
    let path = rig.dir.join("segment/0000000002");
    let kept = fs::read(&path).unwrap();
    let mut bytes = kept.clone();
    let at = bytes.windows(18).rposition(|window| window == b"AuditEntriesPruned").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(rig.verify(false).unwrap_err().index(), Some(index));
    fs::write(&path, &kept).unwrap();
    // a segment more is gone than the record tells
    let log = rig.open().unwrap();
    append(&log, 0..SEGMENT).await;
    drop(log);
    rig.verify(false).unwrap();
    let moved = rig.dir.join("moved");
    fs::rename(&path, &moved).unwrap();
    let fault = rig.verify(false).unwrap_err();
    assert!(matches!(fault, Fault::Entry { index: 0, change: Change::Missing { .. } }), "{fault}");
    assert!(matches!(rig.open(), Err(crate::OpenError::Damaged { index: 0 })));
    fs::rename(&moved, &path).unwrap();
    assert_eq!(rig.verify(false).unwrap().removed.unwrap().entries, gone);
}

#[tokio::test]
async fn nothing_is_prepared_that_is_not_what_was_signed() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    append(&log, 0..SEGMENT + 4096).await;
    let mut each = || ControlFlow::Continue(());
    copy(&rig.folder(), 0..1, &rig.archive, &mut each).unwrap();
    let tiles = ["tile/0/000", "tile/0/255", "tile/1/000"].map(|name| rig.dir.join(name));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    tiles.iter().for_each(|tile| fs::File::open(tile).unwrap().set_modified(long_ago).unwrap());
    let digest = rig.prepare(0..1, Fate::Archived).unwrap().digest;
    let is_written = |tile: &PathBuf| fs::metadata(tile).unwrap().modified().unwrap() > long_ago;
    assert!(tiles.iter().all(is_written), "again, before the sync");
    assert_eq!(digest, rig.prepare(0..1, Fate::Pruned).unwrap().digest);
    let altered = |path: &Path, at: usize, fate| {
        let sound = fs::read(path).unwrap();
        let mut touched = sound.clone();
        touched[at] ^= 1;
        fs::write(path, &touched).unwrap();
        let outcome = rig.prepare(0..1, fate);
        fs::write(path, &sound).unwrap();
        outcome.unwrap_err()
    };
    let segment = "segment/0000000000";
    let fault = altered(&rig.archive.join(segment), 9000, Fate::Archived);
    assert!(matches!(fault, RetentionError::Malformed { .. }), "{fault}");
    let fault = altered(&rig.dir.join(segment), 9000, Fate::Pruned);
    assert!(matches!(fault, RetentionError::Malformed { .. }), "{fault}");
    let fault = altered(&rig.dir.join("tile/0/100"), 9, Fate::Pruned);
    assert!(matches!(fault, RetentionError::Tile(TileId { level: 0, index: 100, .. })), "{fault}");
    // an archive that ends early, and one that is whole and of another log
    let path = rig.archive.join(segment);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(rig.prepare(0..1, Fate::Archived).is_err());
    let other = rig::segments(&rig::entries(SEGMENT)).remove(&0).unwrap();
    fs::write(&path, &other).unwrap();
    assert!(matches!(rig.prepare(0..1, Fate::Archived), Err(RetentionError::Tile(_))));
    // what is there already is not replaced
    copy(&rig.folder(), 0..1, &rig.archive, &mut each).unwrap();
    assert!(fs::read(&path).unwrap() == other);
    // nor does one archive hold two logs
    fs::write(rig.archive.join("log.vkey"), "another").unwrap();
    assert!(matches!(copy(&rig.folder(), 0..1, &rig.archive, &mut each), Err(RetentionError::Archive { .. })));
    // entries and tiles that fit together, and lead to another root
    fs::write(rig.dir.join(segment), &other).unwrap();
    let tiles = TileFolder::new(&rig.dir);
    for (id, hashes) in rig::tiles(&rig::entries(SEGMENT)).into_iter().filter(|(id, _)| id.width == 256) {
        tiles.write(id, &hashes).unwrap();
    }
    assert!(matches!(rig.prepare(0..1, Fate::Pruned), Err(RetentionError::NotSigned { first: 0, last: 65_535 })));
    let mut called_off = || ControlFlow::Break(());
    let outcome = prepare(&rig.folder(), &rig.signed(), 0..1, (&rig.folder(), Fate::Pruned), &mut called_off);
    assert!(matches!(outcome, Err(RetentionError::CalledOff)));
}

#[tokio::test]
async fn a_log_is_not_archived_into_itself_by_whatever_way_it_is_named() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    append(&log, 0..SEGMENT + 4096).await;
    let link = |to: &Path, name: &str| {
        let at = rig.dir.with_file_name(name);
        std::os::unix::fs::symlink(to, &at).unwrap();
        at
    };
    let whole = link(&rig.dir, "whole");
    for name in ["folder", "file"] {
        fs::create_dir(rig.dir.with_file_name(name)).unwrap();
    }
    link(&rig.dir.join("segment"), "folder/segment");
    fs::create_dir(rig.dir.with_file_name("file/segment")).unwrap();
    link(&rig.dir.join("segment/0000000000"), "file/segment/0000000000");
    for archive in [
        rig.dir.clone(),
        rig.dir.join("../audit"),
        whole,
        rig.dir.with_file_name("folder"),
        rig.dir.with_file_name("file"),
    ] {
        let mut each = || ControlFlow::Continue(());
        let outcome = copy(&rig.folder(), 0..1, &archive, &mut each);
        assert!(matches!(outcome, Err(RetentionError::Archive { .. })), "{}: {outcome:?}", archive.display());
    }
    // one that is beside it is another
    copy(&rig.folder(), 0..1, &rig.archive, &mut || ControlFlow::Continue(())).unwrap();
}
