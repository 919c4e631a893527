//! The log on the real file system, with a boundary that keeps the boundary's rule.

mod boundary;
mod crash;
mod damage;
mod power;
mod serve;

use super::*;
use crate::receipt::Batch;
use crate::tile::{TileFolder, TileReader};
use crate::{AuditError, AuditSink};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use envelope::merkle::{self, leaf_hash, verify_consistency};
use futures_util::future::FutureExt;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;
use tempfile::TempDir;

/// Entries of the tests: text, and its CRC-32.
pub(super) struct TestForm;

impl Form for TestForm {
    fn finish(&self, draft: &[u8]) -> Option<Vec<u8>> {
        let entry = [draft, &crc32fast::hash(draft).to_be_bytes()].concat();
        (!draft.is_empty()).then_some(entry)
    }

    fn is_entry(&self, bytes: &[u8]) -> bool {
        bytes.split_last_chunk::<4>().is_some_and(|(draft, crc)| crc32fast::hash(draft).to_be_bytes() == *crc)
    }

    fn removed(&self, entry: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(entry.get(..entry.len().checked_sub(4)?)?).ok()?;
        text.strip_prefix("removed ")?.parse().ok()
    }

    fn hindered(&self, reason: &'static str) -> Vec<u8> {
        reason.into()
    }

    fn renew(&self) -> Result<(), segment::Hindrance> {
        Ok(())
    }
}

pub(super) fn draft(number: usize) -> Bytes {
    format!("entry {number:08}").into()
}

pub(super) fn entry(number: usize) -> Vec<u8> {
    TestForm.finish(&draft(number)).unwrap()
}

/// Remembers the last it signed, and signs what extends it.
#[derive(Debug, Default)]
struct Boundary {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    last: Option<(u64, Hash)>,
    mode: Mode,
    /// Signatures made of checkpoints, of batches, and questions refused as forks.
    signed: usize,
    batches: usize,
    forked: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Answers,
    Away,
    /// Signs, and the answer is lost.
    LosesAnswers,
    Slow(Duration),
    Silent,
    Refuses,
    /// Signs with another key.
    Lies,
    Panics,
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

impl Boundary {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    fn last(&self) -> u64 {
        self.state().last.map_or(0, |(size, _)| size)
    }

    fn asked(
        &self,
        sign: impl FnOnce(&mut State) -> Result<[u8; 64], SignError> + Send + 'static,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let state = Arc::clone(&self.state);
        async move {
            let mode = state.lock().unwrap().mode;
            match mode {
                Mode::Slow(time) => tokio::time::sleep(time).await,
                Mode::Silent => std::future::pending().await,
                Mode::Away => return Err(SignError::Unavailable),
                Mode::Refuses => return Err(SignError::Refused),
                Mode::Panics => panic!("a defect of the boundary's client"),
                Mode::Answers | Mode::LosesAnswers | Mode::Lies => {}
            }
            let signed = sign(&mut state.lock().unwrap())?;
            if mode == Mode::LosesAnswers { Err(SignError::Unavailable) } else { Ok(signed) }
        }
        .boxed()
    }

    /// Another one that remembers the same.
    fn copy(&self) -> Arc<Self> {
        Arc::new(Self { state: Arc::new(Mutex::new(self.state().clone())) })
    }
}

impl State {
    fn sign(&mut self, origin: &str, size: u64, root: Hash, proof: &[Hash]) -> Result<[u8; 64], SignError> {
        if let Some((last_size, last_root)) = self.last
            && self.last != Some((size, root))
            && verify_consistency(last_size, &last_root, size, &root, proof).is_err()
        {
            self.forked += 1;
            return Err(SignError::Forked);
        }
        self.last = Some((size, root));
        self.signed += 1;
        let body = Checkpoint { origin: origin.to_owned(), size, root }.body();
        Ok(self.signature(&body))
    }

    fn signature(&self, body: &str) -> [u8; 64] {
        let seed = if self.mode == Mode::Lies { 9 } else { 7 };
        pair(seed).sign(body.as_bytes()).as_ref().try_into().unwrap()
    }
}

impl CheckpointSigner for Boundary {
    fn verifier(&self) -> [u8; 32] {
        pair(7).public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        proof: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.asked(move |state| state.sign(&origin, size, root, &proof))
    }

    fn sign_batch(&self, batch: Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.asked(move |state| {
            state.batches += 1;
            Ok(state.signature(&batch.body()))
        })
    }
}

/// A log's folder and its boundary.
pub(super) struct Rig {
    _folder: TempDir,
    dir: PathBuf,
    boundary: Arc<Boundary>,
    entries_max: u64,
    receipt_wait: Duration,
    pace: Duration,
    sync_every: Duration,
}

const ORIGIN: &str = "strongroom.audit/c0ffee/1";

impl Rig {
    fn new() -> Self {
        Self::of(1 << 16)
    }

    pub(super) fn of(entries_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dir, boundary) = (folder.path().join("audit"), Arc::default());
        let (receipt_wait, pace) = (Duration::from_secs(5), Duration::from_millis(75));
        let sync_every = Duration::from_secs(10);
        Self { _folder: folder, dir, boundary, entries_max, receipt_wait, pace, sync_every }
    }

    /// The folder as it stands now, and the boundary; no signature is given meanwhile.
    fn image(&self) -> Self {
        let state = self.boundary.state();
        let other = Self { boundary: Arc::new(Boundary::default()), pace: self.pace, ..Self::of(self.entries_max) };
        *other.boundary.state() = state.clone();
        std::fs::create_dir(&other.dir).unwrap();
        // segments last: all that the rest tells of is in them
        for name in ["log.vkey", "checkpoint", "signing", "closed"] {
            let _ = std::fs::copy(self.dir.join(name), other.dir.join(name));
        }
        copy_tree(&self.dir.join("tile"), &other.dir.join("tile"));
        copy_tree(&self.dir.join("segment"), &other.dir.join("segment"));
        other
    }

    pub(super) fn place(&self) -> Place {
        Place {
            dir: self.dir.clone(),
            key: self.key(),
            form: Arc::new(TestForm),
            entries_max: self.entries_max,
            pace: self.pace,
            sign_wait: Duration::from_secs(5),
            receipt_wait: self.receipt_wait,
            sync_every: self.sync_every,
        }
    }

    pub(super) fn signer(&self) -> Arc<dyn CheckpointSigner> {
        Arc::clone(&self.boundary) as _
    }

    pub(super) fn set(&self, mode: Mode) {
        self.boundary.set(mode);
    }

    fn key(&self) -> VerifierKey {
        VerifierKey::ed25519(ORIGIN, self.boundary.verifier()).unwrap()
    }

    fn open(&self) -> Result<Arc<Log>, OpenError> {
        let place = self.place();
        // a program that another test starts has the lock, too, until it is another program
        let mut found = self::found(&place);
        for _ in 0..50 {
            if matches!(found, Err(OpenError::Held)) {
                std::thread::sleep(std::time::Duration::from_millis(20));
                found = self::found(&place);
            }
        }
        let signer = Arc::clone(&self.boundary);
        Log::go_on(place, signer, 64 << 10, found?)
    }

    fn segment(&self, number: u64) -> PathBuf {
        segment::path(&self.dir.join("segment"), number)
    }

    /// What stands in the segments.
    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for number in 0.. {
            let Ok(bytes) = std::fs::read(self.segment(number)) else { break };
            let mut rest = &bytes[..];
            while let Some((length, behind)) = rest.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length == 0 {
                    break;
                }
                entries.push(behind[..length].to_vec());
                rest = &behind[length..];
            }
        }
        entries
    }

    /// The size of the checkpoint in the folder, which is there a moment after its signature.
    fn published(&self) -> Option<u64> {
        let note = Note::parse(&std::fs::read(self.dir.join("checkpoint")).ok()?).ok()?;
        Some(Checkpoint::open(&note, &self.key()).ok()?.size)
    }

    /// The checkpoint in the folder, which must be signed and lead from the entries, as must every tile.
    fn verified(&self) -> Checkpoint {
        let note = Note::parse(&std::fs::read(self.dir.join("checkpoint")).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(&note, &self.key()).unwrap();
        let leaves: Vec<Hash> = self.entries().iter().map(|entry| leaf_hash(entry)).collect();
        let size = usize::try_from(checkpoint.size).unwrap();
        assert_eq!(merkle::root(&leaves[..size]), checkpoint.root, "the checkpoint of {size}");
        let folder = TileFolder::new(&self.dir);
        assert_eq!(crate::tile::root(&folder, checkpoint.size).unwrap(), checkpoint.root);
        for (at, leaves) in leaves[..size].chunks(256).enumerate() {
            assert_eq!(folder.tile(0, at as u64, u16::try_from(leaves.len()).unwrap()).unwrap(), leaves, "tile {at}");
        }
        checkpoint
    }
}

fn found(place: &Place) -> Result<Recovered, OpenError> {
    recover(place, recover::lock(&place.dir)?)
}

fn copy_tree(from: &Path, to: &Path) {
    let Ok(found) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).unwrap();
    for found in found {
        // what is renamed or removed meanwhile is not there
        let Ok(found) = found else { continue };
        let name = found.file_name();
        if found.path().is_dir() {
            copy_tree(&found.path(), &to.join(name));
        } else if !name.to_string_lossy().contains("new") {
            let _ = std::fs::copy(found.path(), to.join(name));
        }
    }
}

fn entries(numbers: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    numbers.into_iter().map(entry).collect()
}

/// Appends so many, all at once.
async fn append(log: &Log, numbers: std::ops::Range<usize>) {
    let lane = log.lane();
    let waiting: Vec<_> = numbers.map(|number| lane.append(draft(number))).collect();
    for answer in waiting {
        assert_eq!(answer.await, Ok(()));
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
