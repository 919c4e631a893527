//! The embedded store: one SQLite file, one writer that commits in groups, a few readers.
//!
//! A folder holds `store.db` (with SQLite's `-wal` and `-shm` beside it while it is open) and `store.lock`.
//!
//! Always: write-ahead log, synchronous=FULL: one sync makes a whole group durable, and only then does anybody hear of it.
//! Always: after a sync that failed the store has failed for good, since nobody knows what of it is on the disk: it answers
//! [`StorageError::Unavailable`], [`Sqlite::failed`] resolves, and the process should end.
//! Never: two processes on one store.

mod backup;
mod checkpoint;
mod examine;
mod ids;
mod lock;
mod reader;
mod schema;
mod writer;

pub(crate) use backup::export;
#[cfg(feature = "postgres")]
pub(crate) use backup::export_rows;
pub use backup::{load, remove_partial, restore};
pub use examine::{Examined, StoredRow};

use crate::clock::{MachineClock, SteadyClock};
use crate::feed::Feed;
use crate::{
    AtLeast, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, Page, Revision, Storage, StorageError,
};
use checkpoint::Checkpoints;
use envelope::Clock;
use futures_util::stream::BoxStream;
use lock::Lock;
use rusqlite::Connection;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What may differ from one store to another.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads, each with its connection, that read.
    pub readers: usize,
    /// The file grows to this many pages of 4 KiB, then the store is [`StorageError::Full`].
    pub pages_max: Option<u32>,
    /// By this clock work becomes due and claims end.
    pub clock: Arc<dyn Clock>,
    /// By this clock, which nobody sets, commits' ids grow old.
    pub steady: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 2, pages_max: None, clock: Arc::new(MachineClock), steady: Arc::new(SteadyClock::new()) }
    }
}

/// An open store. Dropping it commits what was accepted and ends its threads.
pub struct Sqlite {
    file: PathBuf,
    /// `None` once it is being dropped.
    asks: Option<Asks>,
    threads: Vec<JoinHandle<()>>,
    feed: Arc<Feed>,
    failed: watch::Receiver<bool>,
    /// Released last.
    _lock: Lock,
}

struct Asks {
    write: mpsc::Sender<writer::Ask>,
    read: mpsc::Sender<reader::Ask>,
}

impl Sqlite {
    /// Opens the store in `dir`, which it makes where it is missing.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        Self::open_with(dir, Options::default())
    }

    pub fn open_with(dir: &Path, options: Options) -> Result<Self, StorageError> {
        Self::start(dir, options, |_| Ok(()))
    }

    /// Resolves once the store has failed for good: end the process, the next start recovers.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut failed = self.failed.clone();
        async move {
            // An error means that the store was closed in peace: it will never fail.
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The store's file, for whoever looks at its size.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn start(
        dir: &Path,
        options: Options,
        prepare: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, StorageError> {
        make_folder(dir)?;
        let lock = Lock::make(dir)?;
        let file = dir.join(FILE_NAME);
        let mut connection = schema::open_or_make(&file)?;
        schema::limit_pages(&connection, options.pages_max)?;
        schema::leave_log(&connection)?;
        prepare(&mut connection).map_err(|error| schema::storage_error(&error))?;
        let head = schema::revision(&connection)?;
        let feed = Arc::new(Feed::new(head));
        let (failure, failed) = watch::channel(false);
        let mut threads = Vec::new();
        let checkpoints = Checkpoints::start(&file, &mut threads)?;
        let clocks = (options.clock, options.steady);
        let writer = writer::Writer::new(connection, head, Arc::clone(&feed), clocks, checkpoints, failure)?;
        let (write, asks) = mpsc::channel(QUEUE_MAX);
        threads.push(spawn("store-writer", move || writer.run(asks))?);
        let read = reader::start(&file, options.readers.max(1), &mut threads)?;
        Ok(Self { file, asks: Some(Asks { write, read }), threads, feed, failed, _lock: lock })
    }

    fn asks(&self) -> Result<&Asks, StorageError> {
        let sound = !*self.failed.borrow();
        self.asks.as_ref().filter(|_| sound).ok_or(StorageError::Unavailable)
    }

    async fn read<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> reader::Ask,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.asks()?.read.send(ask(reply)).await.map_err(|_| StorageError::Unavailable)?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }
}

#[async_trait::async_trait]
impl Storage for Sqlite {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError> {
        crate::check_paths(paths)?;
        let paths = paths.to_vec();
        self.read(|reply| reader::Ask::Get { paths, at, reply }).await
    }

    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError> {
        let limit = crate::check_limit(limit)?;
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.read(|reply| reader::Ask::Scan { prefix, after, limit, at, reply }).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        batch.check()?;
        let (reply, answer) = oneshot::channel();
        let sent = self.asks()?.write.send(writer::Ask::Commit { batch, reply }).await;
        sent.map_err(|_| StorageError::Unavailable)?;
        answer.await.map_err(|_| CommitError::Unknown)?
    }

    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        self.read(|reply| reader::Ask::Committed { id, reply }).await
    }

    fn watch(&self, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        self.feed.watch(prefix, from)
    }

    fn hearing(&self) -> Option<tokio::sync::watch::Receiver<crate::Moment>> {
        None
    }

    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError> {
        let limit = crate::check_limit(limit)?;
        let (reply, answer) = oneshot::channel();
        let ask = writer::Ask::Claim { queue: queue.clone(), limit, for_, reply };
        self.asks()?.write.send(ask).await.map_err(|_| StorageError::Unavailable)?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }

    async fn backup(&self, to: &Path) -> Result<Revision, StorageError> {
        self.asks()?;
        let (from, to) = (self.file.clone(), to.to_owned());
        let (reply, answer) = oneshot::channel();
        // On a thread of its own: it reads the whole file. Nobody waits for it when the caller has gone.
        spawn("store-backup", move || drop(reply.send(backup::backup(&from, &to))))?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The channels close and the threads finish what they have; then the log is folded into the file.
        self.asks = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        // After a failure the next start does it. One that fails here has told why.
        if !*self.failed.borrow() {
            drop(schema::close(&self.file));
        }
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("file", &self.file).finish_non_exhaustive()
    }
}

fn make_folder(dir: &Path) -> Result<(), StorageError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| io_error(&error))
}

/// Its cause goes to the log: a caller can only tell full from unavailable.
fn io_error(error: &std::io::Error) -> StorageError {
    use std::io::ErrorKind::{AlreadyExists, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    tracing::error!(%error, "the store's folder or file");
    let kind = error.kind();
    if matches!(kind, StorageFull | ReadOnlyFilesystem | QuotaExceeded) {
        StorageError::Full
    } else if kind == AlreadyExists {
        StorageError::TargetExists
    } else {
        StorageError::Unavailable
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|error| io_error(&error))
}

const FILE_NAME: &str = "store.db";
const LOCK_NAME: &str = "store.lock";
/// Asks that wait for a thread; whoever comes after them waits to ask.
const QUEUE_MAX: usize = 1024;

#[cfg(test)]
mod tests;
