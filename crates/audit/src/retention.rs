//! What leaves a log: its oldest closed segments, archived or pruned. Their hashes stay in the tree, so that every proof goes on
//! holding, and a record in the log says what was removed.
//!
//! ```text
//! plan ─► copy (archived alone) ─► prepare: entries against tiles, tiles against the signed root
//!      ─► the record, durable and under a signed checkpoint ─► remove
//! ```
//!
//! Always: removed from the beginning on, whole segments, so that one record, the newest, tells of all that is gone.
//! Never: the segment that is written, the one before it is begun, or an entry that no signed checkpoint covers, removed; a
//! tile removed.

mod copy;
mod prepare;
mod remove;
#[cfg(test)]
mod tests;

pub use copy::copy;
pub use prepare::prepare;
pub use remove::remove;

use crate::checkpoint::{Checkpoint, decimal};
use crate::read::{LogReader, LogSource, ReadError, SEGMENT_ENTRIES};
use crate::record::{Decision, Entry, Outcome, Record, Subject};
use crate::tile::{TileError, TileId};
use envelope::merkle::Hash;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// What became of entries that are no longer in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They stand in another folder.
    Archived,
    Pruned,
}

/// What a record in the log says of entries that are removed once it is signed. All before `first` were removed earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub fate: Fate,
    /// From `first` on, before `end`.
    pub first: u64,
    pub end: u64,
    /// The signed tree against which they were verified.
    pub size: u64,
    pub root: Hash,
    /// SHA-256 of the entries, each behind its length (16 bits, big endian).
    pub digest: Hash,
}

/// Which entries are old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Entry(u64),
    /// Unix milliseconds.
    Time(u64),
}

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log cannot be read or written")]
    Io(#[from] io::Error),
    #[error("{} cannot be written", .path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is missing or not what the entries say: nothing was removed", .0.path())]
    Tile(TileId),
    #[error("a tile cannot be read")]
    TileIo(#[from] TileError),
    /// What would be removed, or its copy, is damaged.
    #[error("the entries {first} to {last} are not those that were signed: nothing was removed")]
    NotSigned { first: u64, last: u64 },
    #[error("entry {index} is malformed: nothing was removed")]
    Malformed { index: u64 },
    #[error("no signed checkpoint covers the record that tells of the removal: nothing was removed")]
    Unrecorded,
    #[error("called off")]
    CalledOff,
}

impl Fate {
    pub fn operation(self) -> &'static str {
        match self {
            Self::Archived => "AuditEntriesArchived",
            Self::Pruned => "AuditEntriesPruned",
        }
    }

    /// As it stands in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Archived => "archived",
            Self::Pruned => "pruned",
        }
    }
}

impl Removal {
    /// How a record tells it.
    pub fn path(&self) -> String {
        let Self { first, end, size, root, digest, fate: _ } = self;
        let (root, digest) = (hex::encode(root), hex::encode(digest));
        format!("{PREFIX}{first}-{}/tree/{size}/{root}/sha256/{digest}", end - 1)
    }

    /// What a record tells; `None` where it is another, or none that the server makes.
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let fate = [Fate::Archived, Fate::Pruned].into_iter().find(|fate| fate.operation() == record.operation)?;
        let own = *record.subject == Subject::System && record.decision == Decision::Allowed;
        if !own || record.outcome != Outcome::Done {
            return None;
        }
        let mut parts = record.path.strip_prefix(PREFIX)?.split('/');
        let (first, last) = parts.next()?.split_once('-')?;
        let ("tree", size, root) = (parts.next()?, decimal(parts.next()?)?, hash(parts.next()?)?) else { return None };
        let ("sha256", digest) = (parts.next()?, hash(parts.next()?)?) else { return None };
        let removal = Self { fate, first: decimal(first)?, end: decimal(last)?.checked_add(1)?, size, root, digest };
        let sound = removal.first < removal.end && removal.end <= removal.size && parts.next().is_none();
        sound.then_some(removal)
    }

    /// As [`Self::of`], of an entry's bytes. Most are seen at a glance to be another.
    pub fn of_entry(entry: &[u8]) -> Option<Self> {
        if !entry.windows(OPERATIONS.len()).any(|window| window == OPERATIONS) {
            return None;
        }
        Self::of(&Entry::decode(entry).ok()?.record())
    }
}

/// The segments that can be removed, by their numbers, at most so many; none where the range is empty.
pub fn plan(
    log: &impl LogSource,
    signed: &Checkpoint,
    before: Before,
    segments_max: u64,
) -> Result<Range<u64>, RetentionError> {
    let there = log.segments()?;
    let Some(first) = there.first().copied() else { return Ok(0..0) };
    let open = LogReader::over(log).size()? / SEGMENT_ENTRIES;
    // one that is full is written no more once the next has begun
    let open = open.min(there.last().copied().unwrap_or(first));
    let mut limit = open.min(signed.size / SEGMENT_ENTRIES).min(first.saturating_add(segments_max));
    match before {
        Before::Entry(index) => limit = limit.min(index / SEGMENT_ENTRIES),
        Before::Time(time) => {
            let mut old = first;
            while old < limit && begins_by(log, old + 1, time)? {
                old += 1;
            }
            limit = old;
        }
    }
    Ok(first..limit.max(first))
}

/// Whether the segment's first entry is so old that all before it began before `time`, though they were not written in the
/// order of their times.
fn begins_by(log: &impl LogSource, number: u64, time: u64) -> Result<bool, RetentionError> {
    let index = number * SEGMENT_ENTRIES;
    let Some(entry) = LogReader::over(log).entry(index)? else { return Ok(false) };
    let entry = Entry::decode(&entry).map_err(|_| RetentionError::Malformed { index })?;
    Ok(entry.record().time.saturating_add(DISORDER_MILLIS) < time)
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).ok()?;
    (hex::encode(hash) == text).then_some(hash)
}

const PREFIX: &str = "audit/entries/";
/// What every operation of a removal begins with.
const OPERATIONS: &[u8] = b"AuditEntries";
/// A record has the time at which its request began, and is written when it ends: 35 seconds later at most, and a clock may
/// have been set.
const DISORDER_MILLIS: u64 = 120_000;
