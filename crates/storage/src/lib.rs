//! An ordered map with conditional multi-key commits, and the barrier that seals its values.
//!
//! The contract, judged for every adapter by [`contract`]:
//! * `commit` is all or nothing; when it returns a revision, the batch is durable. Batches grouped for one sync fail one by one.
//! * Revisions are assigned in commit order: "not older than" and `watch` never skip.
//! * An unknown outcome ([`CommitError::Unknown`]) is resolved by [`Storage::committed`] with the batch's id.
//! * A batch whose id is known already is not written again: it answers with the revision that it got.
//! * `watch` tells at least once what changed after a revision, or [`Change::Gap`]: then drop what you cached.
//! * `claim` hands due work to one claimant for a while, with a fencing token, by the engine's clock.
//!
//! Always: a path, a value, a batch and a page are bounded.
//! Never: anything above this trait knows which engine is below.
#![forbid(unsafe_code)]

pub mod barrier;
pub mod batch;
pub mod cache;
mod clock;
#[cfg(any(test, feature = "contract"))]
#[expect(clippy::unwrap_used, reason = "a suite of tests: it judges by panicking")]
pub mod contract;
mod feed;
pub mod hearing;
pub mod memory;
#[cfg(any(test, feature = "contract"))]
#[expect(clippy::unwrap_used, reason = "a suite of tests: it judges by panicking")]
pub mod model;
pub mod outbox;
pub mod path;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;

pub use barrier::{Barrier, BarrierError, Keyring, Opened, OpenedPage};
pub use batch::{Batch, CommitId, Precondition, Write};
pub use cache::{Cache, Invalidate, follow};
pub use hearing::{Moment, Until};
pub use memory::Memory;
pub use path::{EntryPath, MalformedPath};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use sqlite::Sqlite;

use bytes::Bytes;
use envelope::Timestamp;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most entries in a page, and most paths in one `get`.
pub const PAGE_ENTRIES_MAX: u32 = 1000;
/// A page ends, and says that more follows, once its values reach this.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// A point in the store's history; the next commit's is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLeast {
    /// Everything acknowledged before the read began.
    Latest,
    /// Not older than this revision; one that the store has not reached is [`StorageError::Unavailable`].
    Revision(Revision),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Bytes,
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub revision: Revision,
    pub entries: Vec<(EntryPath, Entry)>,
    /// More entries follow the last one.
    pub more: bool,
}

/// What `watch` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These paths changed; nothing at or below `revision` is still to come.
    Paths { revision: Revision, paths: Arc<[EntryPath]> },
    /// Changes at or below `revision` were lost: whoever caches starts anew, with nothing that was read before it.
    Gap { revision: Revision },
}

impl Change {
    /// Whether it may be of the part that `domain` keeps its entries in, `<tenant>/<domain>` or that of a namespace,
    /// `<tenant>/ns/<its own tenant>/<domain>`.
    pub fn concerns(&self, domain: &str) -> bool {
        match self {
            Self::Paths { paths, .. } => {
                paths.iter().any(|path| path.segments().skip(1).take(3).any(|segment| segment == domain))
            }
            Self::Gap { .. } => true,
        }
    }
}

/// Due work, claimed for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub path: EntryPath,
    pub entry: Entry,
    /// The entry's revision, new with every claim. Put it into the completing batch's precondition: where a later claimant
    /// took over, the batch conflicts.
    pub fence: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error("the store cannot be reached or is shutting down")]
    Unavailable,
    #[error("the store is full or read-only")]
    Full,
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    #[error("the store is of format {found}; this version knows {known}")]
    Format { found: u32, known: u32 },
    #[error("another process holds the store")]
    Held,
    #[error("a path, value, batch or page is beyond its limit")]
    TooLarge,
    /// A backup or a restored store never replaces anything.
    #[error("the target exists already")]
    TargetExists,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold; nothing was written. The first path that differed.
    #[error("a precondition did not hold")]
    Conflict(EntryPath),
    /// It may or may not be durable: ask [`Storage::committed`].
    #[error("the outcome of the commit is unknown")]
    Unknown,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

#[async_trait::async_trait]
pub trait Storage: Send + Sync + std::fmt::Debug {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError>;

    /// Entries whose path starts with `prefix` (whole segments; `prefix` itself too), in path order, after `after`.
    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError>;

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError>;

    /// The revision that a batch got, if it is durable. Ids are remembered for at least an hour. `None` is what is so now: a
    /// batch whose outcome is unknown may still come. Whoever must know commits a batch without writes under its id, which
    /// answers with the revision that the batch got, or takes its place.
    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError>;

    /// What changes at or below `prefix` after `from`, for as long as the store is open.
    fn watch(&self, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change>;

    /// When all that was committed by then had been told to whoever watches. `None`: changes are made here alone, and told at
    /// once.
    fn hearing(&self) -> Option<watch::Receiver<Moment>>;

    /// Entries below `queue` whose first segment after it (16 hex digits of due time, Unix milliseconds) has passed, each
    /// hidden from other claimants for `for_`, or until somebody writes it.
    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError>;

    /// A consistent copy of the whole store while it is in use, into a new file or folder.
    async fn backup(&self, to: &std::path::Path) -> Result<Revision, StorageError>;
}

/// When the entry at `path` is due, if it is one of `queue`'s.
fn due_segment(queue: &EntryPath, path: &EntryPath) -> Option<Timestamp> {
    let rest = path.as_str().strip_prefix(queue.as_str())?.strip_prefix('/')?;
    let segment = rest.split('/').next()?;
    let plain = segment.len() == 16 && segment.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !plain {
        return None;
    }
    u64::from_str_radix(segment, 16).ok().map(Timestamp::from_unix_millis)
}

fn check_paths(paths: &[EntryPath]) -> Result<(), StorageError> {
    if paths.len() <= PAGE_ENTRIES_MAX as usize { Ok(()) } else { Err(StorageError::TooLarge) }
}

fn check_limit(limit: u32) -> Result<usize, StorageError> {
    if (1..=PAGE_ENTRIES_MAX).contains(&limit) { Ok(limit as usize) } else { Err(StorageError::TooLarge) }
}
