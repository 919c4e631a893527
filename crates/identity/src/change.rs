//! Changes: a batch and the leaf that tells it, committed together.
//!
//! Always: a change and its leaf are durable at once, and the leaf is in the log before the change is answered. A leaf that
//! could not be logged stays in the outbox: it is logged before the next change, or by [`Changes::replay`] at the next start.
//! Always: a leaf tells every write by the keyed hash of its path and SHA-256 of the sealed value that was stored
//! (`deleted` where there is none), so that rows can be checked against the log without the barrier's keys.
//! Always: changes of one path are logged in the order of their commits (on this node): the last that the log tells of a row
//! is what stands there.
//! Never: a change abandoned half way because its caller has gone.
//!
//! Where the outcome of a commit is unknown, asking the store whether the row is there, or whether it knows the id, tells only
//! what is so by now: the batch may still be on its way to a store beyond a network. So its fate is decided before it is told:
//! a batch without writes is committed under the same id. The store writes no batch whose id it knows, and orders all
//! commits; either the change was first, then the answer is its revision, or it never will be. What stands at that revision
//! is what came to be. (Ids are known for an hour; nothing is on its way for so long.)
//!
//! A crash between logging a leaf and taking it out of the outbox logs it twice, byte for byte the same. So does another node
//! that starts meanwhile, or finds it left behind: a change stands in the log of the node that made it, or of one that took it
//! over, or of both. Each leaf says what the store was at with it, so that their order is known over all logs.

use audit::record::{StoreState, committed};
use audit::{AuditError, AuditSink, Record};
use bytes::Bytes;
use envelope::mac;
use futures_util::future::join_all;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use storage::batch::BATCH_OPERATIONS_MAX;
use storage::{
    AtLeast, Barrier, BarrierError, Batch, CommitError, CommitId, EntryPath, Revision, StorageError, Write,
    outbox::{self, Pending},
};
use tokio::sync::OwnedMutexGuard;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A precondition on this path did not hold; nothing was changed.
    #[error("a precondition did not hold")]
    Conflict(EntryPath),
    /// The change may stand or not. If it stands, so does its leaf.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// Nothing was changed.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The leaf could not be logged. The change may stand, then its leaf waits in the outbox.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Commits changes. Clones share the outbox; each core has its own, on its own lane of the audit log.
#[derive(Debug, Clone)]
pub struct Changes {
    outbox: Arc<Outbox>,
    sink: Arc<dyn AuditSink>,
}

#[derive(Debug)]
struct Outbox {
    barrier: Arc<Barrier>,
    rows: Mutex<Rows>,
    /// Held by whoever logs what is owed: others wait.
    settling: tokio::sync::Mutex<()>,
    /// Of paths that changes under way write, until their leaves are logged: another change of one waits its turn.
    turns: Mutex<HashMap<EntryPath, Turn>>,
    /// For what is logged for others than who calls.
    sink: Arc<dyn AuditSink>,
    /// The cluster's, for leaves.
    generation: u64,
    /// Leaves of others that were waiting when it was last looked.
    others: Mutex<HashSet<EntryPath>>,
    /// Commit ids are eight random bytes, this process's, and a count: rows of the outbox are neighbours in the store.
    ids_begin: OnceLock<[u8; 8]>,
    ids: AtomicU64,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// The paths that one change writes. Waiting for one, its place is empty.
struct Claim {
    outbox: Arc<Outbox>,
    held: Vec<(EntryPath, Option<OwnedMutexGuard<()>>)>,
}

#[derive(Debug, Default)]
struct Rows {
    /// Leaves that are in the log: taken out with the next change, or by [`Changes::tidy`].
    logged: VecDeque<EntryPath>,
    /// Leaves that are not, or of which it is not known; those that are being logged too.
    owed: VecDeque<Owed>,
}

#[derive(Debug, Clone)]
struct Owed {
    row: EntryPath,
    fate: Fate,
}

/// Whether a change came to be.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Made(Revision),
    Unknown(CommitId),
}

impl Changes {
    /// Of a cluster in this generation.
    pub fn new(barrier: Arc<Barrier>, sink: Arc<dyn AuditSink>, generation: u64) -> Self {
        let (rows, settling) = (Mutex::default(), tokio::sync::Mutex::default());
        let turns = Mutex::default();
        Self {
            outbox: Arc::new(Outbox {
                barrier,
                rows,
                settling,
                turns,
                generation,
                others: Mutex::default(),
                sink: Arc::clone(&sink),
                ids_begin: OnceLock::new(),
                ids: AtomicU64::new(0),
            }),
            sink,
        }
    }

    /// The same outbox, on another lane of the same log.
    #[must_use]
    pub fn on_lane(&self, sink: Arc<dyn AuditSink>) -> Self {
        Self { outbox: Arc::clone(&self.outbox), sink }
    }

    /// An empty batch with a fresh id.
    pub fn batch(&self) -> Result<Batch, ChangeError> {
        let begins = match self.outbox.ids_begin.get() {
            Some(begins) => *begins,
            None => {
                let random = self.outbox.barrier.random()?;
                *self.outbox.ids_begin.get_or_init(|| random)
            }
        };
        let number = self.outbox.ids.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        let (random, counted) = id.split_at_mut(8);
        random.copy_from_slice(&begins);
        counted.copy_from_slice(&number.to_be_bytes());
        Ok(Batch::new(CommitId(id)))
    }

    /// Commits `batch` together with `record`, whose `changes` are filled in from the batch, each behind what the caller tells
    /// of its path already ([`Self::stood`]); then logs the record. Once it is this change's turn, it goes on where the caller
    /// does not wait for it.
    pub async fn commit(&self, batch: Batch, record: &Record<'_>) -> Result<Revision, ChangeError> {
        let mut changes = self.told(&batch)?;
        if !record.changes.is_empty() {
            let stood = |path: &str| record.changes.iter().find(|(stood, _)| stood == path).cloned();
            changes = changes.into_iter().flat_map(|now| stood(&now.0).into_iter().chain([now])).collect();
        }
        // the leaf stands before it is known how long the commit takes
        let leaf = Record { changes: &changes, latency_micros: None, ..record.clone() }.encode();
        if leaf.is_empty() {
            // what cannot be told is not done
            return Err(ChangeError::Barrier(StorageError::TooLarge.into()));
        }
        // before what is owed is logged: what a change of the same path has left behind comes first
        let paths = batch.writes.iter().map(Write::path).cloned().collect();
        let claim = Arc::clone(&self.outbox).claim(paths).await;
        let (batch, row) = outbox::attach(&self.outbox.barrier, batch, &leaf)?;
        let this = self.clone();
        let carried_out = tokio::spawn(async move {
            let _claim = claim;
            this.carry_out(batch, row, leaf).await
        });
        carried_out.await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// Logs a record of something that changed nothing.
    pub async fn log(&self, record: &Record<'_>) -> Result<(), AuditError> {
        self.sink.append(record.encode()).await
    }

    /// At the start, before anything is served: logs every leaf that a former process left in the outbox. How many.
    pub async fn replay(&self) -> Result<usize, ChangeError> {
        let pending = outbox::pending(&self.outbox.barrier).await?;
        self.log_for_others(&pending).await?;
        Ok(pending.len())
    }

    /// Where other nodes commit too, once a minute or so: logs what one of them has left behind, which may never start again.
    /// What waits since the last time is taken for that: nothing else waits for so long. It may be logged twice, by several
    /// nodes: leaves say when they were committed. How many.
    pub async fn adopt(&self) -> Result<usize, ChangeError> {
        let own = self.batch()?.id.0;
        let own = hex::encode(own.first_chunk::<8>().unwrap_or(&[0; 8]));
        let mut pending = outbox::pending(&self.outbox.barrier).await?;
        pending.retain(|leaf| leaf.path.segments().last().is_none_or(|name| !name.starts_with(&own)));
        let waiting = pending.iter().map(|leaf| leaf.path.clone()).collect();
        let before = std::mem::replace(&mut *self.outbox.others(), waiting);
        pending.retain(|leaf| before.contains(&leaf.path));
        self.log_for_others(&pending).await?;
        Ok(pending.len())
    }

    async fn log_for_others(&self, pending: &[Pending]) -> Result<(), ChangeError> {
        for some in pending.chunks(TAKEN_OUT_MAX) {
            let leaves = some.iter().map(|leaf| self.outbox.sink.append(self.outbox.told(&leaf.leaf, leaf.revision)));
            join_all(leaves).await.into_iter().map(durable).collect::<Result<Vec<()>, _>>()?;
            self.take_out(some.iter().map(|leaf| leaf.path.clone())).await?;
        }
        Ok(())
    }

    /// Logs what is owed and takes out what is logged. For a worker, once a second or so, and at the end.
    pub async fn tidy(&self) -> Result<(), ChangeError> {
        let this = self.clone();
        let tidied = tokio::spawn(async move {
            this.settle().await?;
            loop {
                let rows = this.outbox.take_logged(TAKEN_OUT_MAX);
                if rows.is_empty() {
                    return Ok(());
                }
                if let Err(error) = this.take_out(rows.iter().cloned()).await {
                    this.outbox.rows().logged.extend(rows);
                    return Err(error);
                }
            }
        });
        tidied.await.unwrap_or(Err(ChangeError::Unknown))
    }

    async fn carry_out(&self, batch: Batch, row: EntryPath, leaf: Bytes) -> Result<Revision, ChangeError> {
        self.settle().await?;
        let free = BATCH_OPERATIONS_MAX.saturating_sub(batch.preconditions.len() + batch.writes.len());
        let logged = self.outbox.take_logged(free.min(PIGGYBACK_MAX));
        let batch = logged.iter().fold(batch, |batch, row| batch.delete(row.clone()));
        let id = batch.id;
        let revision = match self.outbox.barrier.commit(batch).await {
            Ok(revision) => revision,
            Err(error) => {
                let mut rows = self.outbox.rows();
                rows.logged.extend(logged);
                let error = refused(error);
                if error == ChangeError::Unknown {
                    rows.owed.push_back(Owed { row, fate: Fate::Unknown(id) });
                }
                return Err(error);
            }
        };
        let outcome = durable(self.sink.append(self.outbox.told(&leaf, revision)).await);
        let mut rows = self.outbox.rows();
        match outcome {
            Ok(()) => rows.logged.push_back(row),
            Err(error) => {
                rows.owed.push_back(Owed { row, fate: Fate::Made(revision) });
                return Err(error.into());
            }
        }
        Ok(revision)
    }

    /// Logs what is owed, so that no change is made while one before it cannot be told.
    async fn settle(&self) -> Result<(), ChangeError> {
        while !self.outbox.rows().owed.is_empty() {
            let _turn = self.outbox.settling.lock().await;
            let owed = self.outbox.first_owed();
            let logged = join_all(owed.iter().map(|owed| self.log_owed(owed))).await;
            let logged = logged.into_iter().collect::<Result<Vec<_>, _>>()?;
            let mut rows = self.outbox.rows();
            rows.owed.drain(..owed.len());
            rows.logged.extend(logged.into_iter().flatten());
        }
        Ok(())
    }

    /// The row that can be taken out, if there is one: a change that was not made has none.
    async fn log_owed(&self, owed: &Owed) -> Result<Option<EntryPath>, ChangeError> {
        let decided = match owed.fate {
            Fate::Made(revision) => revision,
            Fate::Unknown(id) => self.outbox.barrier.commit(Batch::new(id)).await.map_err(refused)?,
        };
        let (_, found) = self.outbox.barrier.get(std::slice::from_ref(&owed.row), AtLeast::Revision(decided)).await?;
        let Some(leaf) = found.into_iter().flatten().next() else { return Ok(None) };
        durable(self.outbox.sink.append(self.outbox.told(leaf.value.expose(), leaf.revision)).await)?;
        Ok(Some(owed.row.clone()))
    }

    async fn take_out(&self, rows: impl Iterator<Item = EntryPath>) -> Result<(), ChangeError> {
        let batch = rows.fold(self.batch()?, Batch::delete);
        self.outbox.barrier.commit(batch).await.map(drop).map_err(refused)
    }

    /// What stands at `path`, as leaves tell it.
    pub fn stood(&self, path: &EntryPath, value: &[u8]) -> Result<(String, String), ChangeError> {
        let path = self.outbox.barrier.keyed_hash(PATH_LABEL, path.as_str().as_bytes())?;
        Ok((hex::encode(path), hex::encode(mac::sha256(value))))
    }

    fn told(&self, batch: &Batch) -> Result<Vec<(String, String)>, BarrierError> {
        let told = |write: &Write| {
            let path = self.outbox.barrier.keyed_hash(PATH_LABEL, write.path().as_str().as_bytes())?;
            let value = match write {
                Write::Put(_, value) => hex::encode(mac::sha256(value)),
                Write::Delete(_) => DELETED.to_owned(),
            };
            Ok((hex::encode(path), value))
        };
        batch.writes.iter().map(told).collect()
    }
}

impl Outbox {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_logged(&self, most: usize) -> Vec<EntryPath> {
        let mut rows = self.rows();
        let count = most.min(rows.logged.len());
        rows.logged.drain(..count).collect()
    }

    /// Waits, in turn, until no other change writes any of `paths`.
    async fn claim(self: Arc<Self>, mut paths: Vec<EntryPath>) -> Claim {
        // always in this order, so that no two changes wait for each other
        paths.sort_unstable();
        paths.dedup();
        let mut claim = Claim { outbox: self, held: Vec::with_capacity(paths.len()) };
        for path in paths {
            let turn = Arc::clone(claim.outbox.turns().entry(path.clone()).or_default());
            claim.held.push((path, None));
            let held = turn.lock_owned().await;
            if let Some((_, place)) = claim.held.last_mut() {
                *place = Some(held);
            }
        }
        claim
    }

    /// The leaf with what it was committed at: the same, whoever logs it.
    fn told(&self, leaf: &[u8], revision: Revision) -> Bytes {
        committed(leaf, StoreState { revision: revision.0, generation: self.generation })
    }

    fn others(&self) -> MutexGuard<'_, HashSet<EntryPath>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<EntryPath, Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_owed(&self) -> Vec<Owed> {
        self.rows().owed.iter().take(TAKEN_OUT_MAX).cloned().collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for (path, held) in self.held.drain(..) {
            drop(held);
            let mut turns = self.outbox.turns();
            // whoever waits holds it too
            if turns.get(&path).is_some_and(|turn| Arc::strong_count(turn) == 1) {
                turns.remove(&path);
            }
        }
    }
}

/// A leaf that is durable is logged: a receipt that did not come concerns who asked for it alone.
fn durable(answer: Result<(), AuditError>) -> Result<(), AuditError> {
    match answer {
        Ok(()) | Err(AuditError::Unsigned) => Ok(()),
        Err(error @ (AuditError::Unavailable | AuditError::Busy)) => Err(error),
    }
}

fn refused(error: CommitError) -> ChangeError {
    match error {
        CommitError::Conflict(path) => ChangeError::Conflict(path),
        CommitError::Unknown => ChangeError::Unknown,
        CommitError::Storage(error) => ChangeError::Barrier(error.into()),
    }
}

impl ChangeError {
    /// ErrorInfo's reason, of the closed list.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "CONFLICT",
            Self::Unknown => "STORAGE_UNAVAILABLE",
            Self::Barrier(BarrierError::Storage(StorageError::TooLarge)) => "INTERNAL",
            Self::Barrier(BarrierError::Storage(_)) => "STORAGE_UNAVAILABLE",
            Self::Barrier(BarrierError::Altered(_) | BarrierError::UnknownEpoch { .. }) => "DATA_ALTERED",
            Self::Barrier(BarrierError::MalformedKeyring | BarrierError::Randomness) => "INTERNAL",
            Self::Barrier(BarrierError::Closed) => "SEALED",
            Self::Audit(AuditError::Unavailable) => "AUDIT_UNAVAILABLE",
            Self::Audit(AuditError::Busy) => "BUSY",
            Self::Audit(AuditError::Unsigned) => "RECEIPT_UNAVAILABLE",
        }
    }
}

/// In a record, in place of a value's hash.
const DELETED: &str = "deleted";
/// The label of the keyed hash that stands in a record for an entry's path.
pub const PATH_LABEL: &[u8] = b"audit/path";
/// Rows taken out of the outbox beside a change.
const PIGGYBACK_MAX: usize = 16;
const TAKEN_OUT_MAX: usize = 100;
