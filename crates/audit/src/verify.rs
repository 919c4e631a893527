//! Whether a log holds what its signer signed: found out from its files and the public key alone.
//!
//! The roots are recomputed from the entries. Tiles are derived, and nobody signed them one by one: they are compared, and where
//! the root does not come out, those that still lead to the signed root tell which entry it was.
//!
//! Always: what is wrong is told with the lowest index that is known of it.
//! Always: where entries are gone, their hashes are read in their stead, and a signed record in the log tells of it.
//! Never: a checkpoint believed for its own sake. A log that was set back to an earlier state is valid up to there: only a
//! checkpoint from elsewhere finds it ([`Options::elsewhere`]).

mod compare;
mod gap;
mod place;
mod promise;
pub mod store;

pub use gap::Removed;
pub use place::Change;
pub use promise::Promise;

use crate::checkpoint::Checkpoint;
use crate::note::{Note, NoteError, VerifierKey};
use crate::read::{Entries, LogReader, LogSource, ReadError};
use crate::record::{Entry, Malformed};
use crate::tile::{TileError, TileId, Tiles};
use compare::Compared;
use envelope::merkle::{Hash, leaf_hash};
use gap::Gaps;
use promise::Kept;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Duration;

/// What is verified beside the log's own checkpoint, and how.
#[derive(Debug, Default)]
pub struct Options {
    /// Checkpoints of this log that were kept elsewhere, as [`open_checkpoint`] gives them: the log must be an extension of each.
    pub elsewhere: Vec<Checkpoint>,
    /// Receipts that callers got: the log must have what they say. For [`Reach::All`].
    pub promises: Vec<Promise>,
    /// How long to wait for the writer of a live log who is in the middle of an entry.
    pub patience: Duration,
    pub reach: Reach,
    /// How long to rest after each tile of hashes that is read in the stead of entries that are gone.
    pub rest: Duration,
}

/// How far a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// To its end: also what is not signed yet.
    #[default]
    All,
    /// To the log's own checkpoint: a writer who adds faster than is read makes it no longer.
    Signed,
}

/// A log that is what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The log's own.
    pub checkpoint: Checkpoint,
    /// That checkpoint as it was signed: what to keep elsewhere.
    pub note: Vec<u8>,
    /// Entries that there are.
    pub entries: u64,
    /// The last one, not signed yet, is not whole: its writer is, or was, in the middle of it.
    pub torn: bool,
    /// Unix milliseconds of the last signed entry.
    pub signed_until: Option<u64>,
    /// Tiles that were compared and equal.
    pub tiles: u64,
    /// Tiles of the signed tree that are not there. The log's writer makes them anew at its next start.
    pub tiles_missing: u64,
    /// Entries that the log no longer has, as a signed record in it says.
    pub removed: Option<Removed>,
    /// The largest size of the checkpoints from elsewhere; without any, nobody knows how fresh the log is.
    pub seen_elsewhere: Option<u64>,
}

impl Report {
    /// Entries behind the checkpoint: nobody but their checksum vouches for them.
    pub fn unsigned(&self) -> u64 {
        self.entries - self.checkpoint.size
    }
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("there is no checkpoint: nothing vouches for the {entries} entries")]
    NoCheckpoint { entries: u64 },
    #[error("the checkpoint is not one that the log's key signed")]
    Checkpoint(#[source] NoteError),
    /// The tiles lead to the signed root, the entry does not.
    #[error("entry {index} {change}")]
    Entry { index: u64, change: Change },
    /// The tiles of a higher level lead to the signed root, and below they are altered.
    #[error("at least one of the entries {first} to {last} is not what was signed")]
    Among { first: u64, last: u64 },
    #[error("entry {index}, which {} signed, is malformed", if *.signed { "was" } else { "is not yet" })]
    Malformed {
        index: u64,
        signed: bool,
        #[source]
        cause: Malformed,
    },
    #[error("the log ends before entry {entries}, and {signed} were signed")]
    Truncated { entries: u64, signed: u64 },
    /// Entries, or entries and tiles alike, are not what was signed.
    #[error(
        "the entries do not lead to the root that was signed for {signed}: {}, {}",
        known_good(*.good),
        first_tile(.tile)
    )]
    Root { signed: u64, good: u64, tile: Option<TileId> },
    /// The entries are what was signed.
    #[error("{}, hash {position}, is not what the entries say; the entries are those that were signed", .tile.path())]
    Tile { tile: TileId, position: u64 },
    #[error("the log is not the one of the checkpoint of {size} entries from elsewhere: it was forked, and {}", known_good(*.good))]
    Forked { size: u64, good: u64 },
    #[error("the log has {entries} entries, and a checkpoint from elsewhere was signed for {seen}: it was set back")]
    SetBack { entries: u64, seen: u64 },
    /// A receipt that was signed is not kept.
    #[error("entry {index} is not the one that the receipt was given for: the log was altered, or forked")]
    Broken { index: u64 },
    #[error("at least one of the entries {first} to {last} is not what was signed when they became durable together")]
    BrokenAmong { first: u64, last: u64 },
    #[error(
        "the log has {entries} entries, and a receipt was given for entry {index} when there were {seen}: it was set back"
    )]
    Lost { entries: u64, index: u64, seen: u64 },
    #[error("the oldest entries were removed while the log was read: verify it again")]
    Changing,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("a tile cannot be read")]
    TileIo(#[source] TileError),
    #[error("the checkpoint cannot be read")]
    CheckpointIo(#[source] std::io::Error),
}

impl Fault {
    /// The first entry that is known to be affected.
    pub fn index(&self) -> Option<u64> {
        match self {
            Self::Entry { index, .. } | Self::Malformed { index, .. } | Self::Broken { index } => Some(*index),
            Self::Among { first, .. } | Self::BrokenAmong { first, .. } => Some(*first),
            Self::Truncated { entries, .. } | Self::SetBack { entries, .. } | Self::Lost { entries, .. } => {
                Some(*entries)
            }
            Self::Read(ReadError::Cut { index } | ReadError::Missing { index }) => Some(*index),
            Self::Read(ReadError::Surplus { index }) => Some(index + 1),
            Self::NoCheckpoint { .. }
            | Self::Checkpoint(_)
            | Self::Root { .. }
            | Self::Tile { .. }
            | Self::Forked { .. }
            | Self::Changing
            | Self::Read(ReadError::Io { .. })
            | Self::TileIo(_)
            | Self::CheckpointIo(_) => None,
        }
    }

    /// The log could not be looked at, so that nothing is said of it.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Read(ReadError::Io { .. }) | Self::TileIo(_) | Self::CheckpointIo(_) | Self::Changing)
    }
}

/// Believes a checkpoint that the log's key signed.
pub fn open_checkpoint(note: &[u8], key: &VerifierKey) -> Result<Checkpoint, Fault> {
    Note::parse(note).and_then(|note| Checkpoint::open(&note, key)).map_err(Fault::Checkpoint)
}

/// Verifies the whole log. `progress` hears how many entries are done.
pub fn verify<S: LogSource>(
    log: &LogReader<S>,
    key: &VerifierKey,
    options: &Options,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, Fault> {
    let mut each = |index: u64, _: &Entry| {
        if (index + 1).is_multiple_of(PROGRESS_EVERY) {
            progress(index + 1);
        }
        ControlFlow::<Infallible>::Continue(())
    };
    let ControlFlow::Continue(report) = verify_each(log, key, options, &mut each)?;
    Ok(report)
}

/// As [`verify`]; `each` hears every entry, in order, and may end it: then nothing is said of the log.
pub fn verify_each<S: LogSource, B>(
    log: &LogReader<S>,
    key: &VerifierKey,
    options: &Options,
    each: &mut dyn FnMut(u64, &Entry) -> ControlFlow<B>,
) -> Result<ControlFlow<B, Report>, Fault> {
    // before the entries: what a writer adds meanwhile lies behind it
    let note = log.source().checkpoint().map_err(Fault::CheckpointIo)?;
    let Some(note) = note else { return Err(Fault::NoCheckpoint { entries: log.size()? }) };
    let signed = open_checkpoint(&note, key)?;
    let mut walk = Walk::new(log, &signed, options)?;
    match walk.run(each)? {
        ControlFlow::Continue(stop) => walk.conclude(stop, note).map(ControlFlow::Continue),
        ControlFlow::Break(ended) => Ok(ControlFlow::Break(ended)),
    }
}

/// One pass over the entries.
struct Walk<'a, S> {
    log: &'a LogReader<S>,
    signed: &'a Checkpoint,
    options: &'a Options,
    /// The signed one and those from elsewhere, the smallest first.
    marks: Vec<&'a Checkpoint>,
    /// How many of them were passed.
    passed: usize,
    /// The largest size at which one from elsewhere came out, and all before it.
    good: u64,
    /// The smallest size at which one from elsewhere did not.
    forked: Option<u64>,
    tiles: Tiles,
    compared: Compared,
    gaps: Gaps,
    kept: Kept<'a>,
    signed_until: Option<u64>,
}

/// Why the pass ended.
enum Stop {
    /// There are no more entries.
    End,
    /// The signed root did not come out.
    Root,
    /// An entry that is none. `last`: nothing follows it.
    Malformed {
        index: u64,
        cause: Malformed,
        leaf: Hash,
        last: bool,
    },
    Broken(ReadError),
}

impl<'a, S: LogSource> Walk<'a, S> {
    fn new(log: &'a LogReader<S>, signed: &'a Checkpoint, options: &'a Options) -> Result<Self, Fault> {
        let mut marks: Vec<_> = options.elsewhere.iter().chain([signed]).collect();
        marks.sort_by_key(|mark| mark.size);
        Ok(Self {
            log,
            signed,
            options,
            marks,
            passed: 0,
            good: 0,
            forked: None,
            tiles: Tiles::default(),
            compared: Compared::default(),
            gaps: Gaps::begin(log.source())?,
            kept: Kept::new(&options.promises),
            signed_until: None,
        })
    }

    fn run<B>(&mut self, each: &mut dyn FnMut(u64, &Entry) -> ControlFlow<B>) -> Result<ControlFlow<B, Stop>, Fault> {
        let mut entries = self.log.iter_from(0)?;
        if !self.pass_marks()? {
            return Ok(ControlFlow::Continue(Stop::Root));
        }
        loop {
            if self.options.reach == Reach::Signed && self.tiles.size() >= self.signed.size {
                return Ok(ControlFlow::Continue(Stop::End));
            }
            let (index, entry, leaf) = match self.next(&mut entries) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(ControlFlow::Continue(Stop::End)),
                Err(stop) => {
                    let Some(end) = self.gap(&stop)? else { return Ok(ControlFlow::Continue(stop)) };
                    if let Some(stop) = self.over_gap(end)? {
                        return Ok(ControlFlow::Continue(stop));
                    }
                    entries = self.log.iter_from(end)?;
                    continue;
                }
            };
            if let ControlFlow::Break(ended) = each(index, &entry) {
                return Ok(ControlFlow::Break(ended));
            }
            self.hear(index, &entry.record())?;
            self.kept.leaf(index, &leaf);
            self.tiles.push(leaf);
            if !self.after_leaf()? {
                return Ok(ControlFlow::Continue(Stop::Root));
            }
        }
    }

    /// False where the log's own root does not come out.
    fn after_leaf(&mut self) -> Result<bool, Fault> {
        for (id, hashes) in self.tiles.take_full() {
            self.compared.tile(self.log.source(), self.signed.size, id, &hashes)?;
        }
        self.pass_marks()
    }

    /// The next entry and its leaf hash. A writer is waited for behind the checkpoint, where one may be at work.
    fn next(&mut self, entries: &mut Entries<'_, S>) -> Result<Option<(u64, Entry, Hash)>, Stop> {
        let mut patience = self.options.patience;
        loop {
            let wait = entries.index() >= self.signed.size && !patience.is_zero();
            let place = entries.place();
            let stop = match entries.read() {
                Ok(None) => return Ok(None),
                Ok(Some((index, bytes))) => match Entry::decode(bytes) {
                    Ok(entry) => {
                        if index + 1 == self.signed.size {
                            self.signed_until = Some(entry.record().time);
                        }
                        return Ok(Some((index, entry, leaf_hash(bytes))));
                    }
                    Err(cause) => Stop::Malformed { index, cause, leaf: leaf_hash(bytes), last: false },
                },
                Err(error @ ReadError::Cut { .. }) => Stop::Broken(error),
                Err(error) => return Err(Stop::Broken(error)),
            };
            if !wait {
                return Err(match stop {
                    Stop::Malformed { index, cause, leaf, last: _ } => {
                        let last = matches!(entries.read(), Ok(None) | Err(ReadError::Cut { .. }));
                        Stop::Malformed { index, cause, leaf, last }
                    }
                    Stop::End | Stop::Root | Stop::Broken(_) => stop,
                });
            }
            entries.go_to(place).map_err(Stop::Broken)?;
            let pause = patience.min(PAUSE);
            patience -= pause;
            std::thread::sleep(pause);
        }
    }

    /// Compares the root with the checkpoints of this size. False where the log's own does not come out.
    fn pass_marks(&mut self) -> Result<bool, Fault> {
        while let Some(mark) = self.marks.get(self.passed).filter(|mark| mark.size == self.tiles.size()) {
            let fits = mark.root == self.tiles.root();
            if std::ptr::eq(*mark, self.signed) {
                self.compared.edge(self.log.source(), self.signed.size, &self.tiles)?;
                if !fits {
                    return Ok(false);
                }
            } else if !fits {
                self.forked = self.forked.or(Some(mark.size));
            } else if self.forked.is_none() {
                self.good = mark.size;
            }
            self.passed += 1;
        }
        Ok(true)
    }

    fn conclude(mut self, stop: Stop, note: Vec<u8>) -> Result<Report, Fault> {
        let entries = self.tiles.size();
        if entries < self.signed.size || matches!(stop, Stop::Root) {
            self.compared.edge(self.log.source(), self.signed.size, &self.tiles)?;
            return Err(self.place(stop));
        }
        let removed = self.removed()?;
        if let Some(size) = self.forked {
            return Err(Fault::Forked { size, good: self.good });
        }
        if let Some((tile, position)) = self.compared.first() {
            return Err(Fault::Tile { tile, position });
        }
        let torn = match stop {
            Stop::End | Stop::Root => false,
            Stop::Malformed { last: true, .. } | Stop::Broken(ReadError::Cut { .. }) => true,
            Stop::Malformed { index, cause, .. } => return Err(Fault::Malformed { index, signed: false, cause }),
            Stop::Broken(error) => return Err(error.into()),
        };
        let seen_elsewhere = self.options.elsewhere.iter().map(|mark| mark.size).max();
        if let Some(seen) = seen_elsewhere.filter(|seen| *seen > entries) {
            return Err(Fault::SetBack { entries, seen });
        }
        self.kept.conclude(entries)?;
        Ok(Report {
            checkpoint: self.signed.clone(),
            note,
            entries,
            torn,
            signed_until: self.signed_until,
            tiles: self.compared.equal,
            tiles_missing: self.compared.missing,
            removed,
            seen_elsewhere,
        })
    }
}

fn known_good(good: u64) -> String {
    match good {
        0 => "how much of it is good is not known".to_owned(),
        good => format!("the first {good} are good, as another checkpoint says"),
    }
}

fn first_tile(tile: &Option<TileId>) -> String {
    match tile {
        Some(tile) => format!("and the tiles, which do not lead there either, differ from {} on", tile.path()),
        None => "and the tiles say what the entries say".to_owned(),
    }
}

const PROGRESS_EVERY: u64 = 1 << 12;
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
