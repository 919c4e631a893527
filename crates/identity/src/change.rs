//! Changes: a batch and the leaf that tells it, committed together.
//!
//! Always: a change and its leaf are durable at once, and the leaf is in the log before the change is answered. A leaf that
//! could not be logged stays in the outbox: it is logged before the next change, or by [`Changes::replay`] at the next start.
//! Always: a leaf tells every write by the keyed hash of its path and SHA-256 of the sealed value that was stored
//! (`deleted` where there is none), so that rows can be checked against the log without the barrier's keys.
//! Never: a change abandoned half way because its caller has gone.
//!
//! A crash between logging a leaf and taking it out of the outbox logs it twice, byte for byte the same.

use audit::{AuditError, AuditSink, Record};
use bytes::Bytes;
use envelope::mac;
use futures_util::future::join_all;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::batch::BATCH_OPERATIONS_MAX;
use storage::{
    AtLeast, Barrier, BarrierError, Batch, CommitError, CommitId, EntryPath, Revision, StorageError, Write, outbox,
};

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
}

#[derive(Debug, Default)]
struct Rows {
    /// Leaves that are in the log: taken out with the next change, or by [`Changes::tidy`].
    logged: VecDeque<EntryPath>,
    /// Leaves that are not, or of which it is not known.
    owed: VecDeque<EntryPath>,
}

impl Changes {
    pub fn new(barrier: Arc<Barrier>, sink: Arc<dyn AuditSink>) -> Self {
        Self { outbox: Arc::new(Outbox { barrier, rows: Mutex::default() }), sink }
    }

    /// The same outbox, on another lane of the same log.
    #[must_use]
    pub fn on_lane(&self, sink: Arc<dyn AuditSink>) -> Self {
        Self { outbox: Arc::clone(&self.outbox), sink }
    }

    /// An empty batch with a fresh id.
    pub fn batch(&self) -> Result<Batch, ChangeError> {
        Ok(Batch::new(CommitId(self.outbox.barrier.random()?)))
    }

    /// Commits `batch` together with `record`, whose `changes` are filled in from the batch; then logs the record. It goes on
    /// where the caller does not wait for it.
    pub async fn commit(&self, batch: Batch, record: &Record<'_>) -> Result<Revision, ChangeError> {
        let changes = self.told(&batch);
        let leaf = Record { changes: &changes, ..record.clone() }.encode();
        let (batch, row) = outbox::attach(&self.outbox.barrier, batch, &leaf)?;
        let this = self.clone();
        let carried_out = tokio::spawn(async move { this.carry_out(batch, row, leaf).await });
        carried_out.await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// Logs a record of something that changed nothing.
    pub async fn log(&self, record: &Record<'_>) -> Result<(), AuditError> {
        self.sink.append(record.encode()).await
    }

    /// At the start, before anything is served: logs every leaf that a former process left in the outbox. How many.
    pub async fn replay(&self) -> Result<usize, ChangeError> {
        let mut replayed = 0;
        loop {
            let pending = outbox::pending(&self.outbox.barrier, TAKEN_OUT_MAX).await?;
            if pending.is_empty() {
                return Ok(replayed);
            }
            let logged = join_all(pending.iter().map(|(_, leaf)| self.sink.append(leaf.clone()))).await;
            logged.into_iter().collect::<Result<Vec<()>, _>>()?;
            replayed += pending.len();
            self.take_out(pending.into_iter().map(|(row, _)| row)).await?;
        }
    }

    /// Logs what is owed and takes out what is logged. For a worker, once a second or so, and at the end.
    pub async fn tidy(&self) -> Result<(), ChangeError> {
        let this = self.clone();
        let tidied = tokio::spawn(async move {
            this.settle().await?;
            loop {
                let rows = this.outbox.take_logged(TAKEN_OUT_MAX as usize);
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
        let revision = match self.outbox.barrier.commit(batch).await {
            Ok(revision) => revision,
            Err(error) => {
                let mut rows = self.outbox.rows();
                rows.logged.extend(logged);
                return Err(match error {
                    CommitError::Conflict(path) => ChangeError::Conflict(path),
                    CommitError::Storage(error) => ChangeError::Barrier(error.into()),
                    CommitError::Unknown => {
                        rows.owed.push_back(row);
                        ChangeError::Unknown
                    }
                });
            }
        };
        let outcome = self.sink.append(leaf).await;
        let mut rows = self.outbox.rows();
        match outcome {
            Ok(()) => rows.logged.push_back(row),
            Err(error) => {
                rows.owed.push_back(row);
                return Err(error.into());
            }
        }
        Ok(revision)
    }

    /// Logs what is owed, so that no change is made while one before it cannot be told.
    async fn settle(&self) -> Result<(), ChangeError> {
        loop {
            let owed = self.outbox.take_owed();
            if owed.is_empty() {
                return Ok(());
            }
            let outcome = self.log_rows(&owed).await;
            let mut rows = self.outbox.rows();
            match &outcome {
                Ok(()) => rows.logged.extend(owed),
                Err(_) => rows.owed.extend(owed),
            }
            drop(rows);
            outcome?;
        }
    }

    async fn log_rows(&self, rows: &[EntryPath]) -> Result<(), ChangeError> {
        let (_, leaves) = self.outbox.barrier.get(rows, AtLeast::Latest).await?;
        // A row that is not there is one of a change that was not made.
        let leaves = leaves.iter().flatten().map(|leaf| self.sink.append(Bytes::copy_from_slice(leaf.value.expose())));
        join_all(leaves).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }

    async fn take_out(&self, rows: impl Iterator<Item = EntryPath>) -> Result<(), ChangeError> {
        let batch = rows.fold(self.batch()?, Batch::delete);
        match self.outbox.barrier.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict(path)) => Err(ChangeError::Conflict(path)),
            Err(CommitError::Unknown) => Err(ChangeError::Unknown),
            Err(CommitError::Storage(error)) => Err(BarrierError::from(error).into()),
        }
    }

    fn told(&self, batch: &Batch) -> Vec<(String, String)> {
        let told = |write: &Write| {
            let path = self.outbox.barrier.keyed_hash(PATH_LABEL, write.path().as_str().as_bytes());
            let value = match write {
                Write::Put(_, value) => hex::encode(mac::sha256(value)),
                Write::Delete(_) => DELETED.to_owned(),
            };
            (hex::encode(path), value)
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

    fn take_owed(&self) -> Vec<EntryPath> {
        let mut rows = self.rows();
        let count = (TAKEN_OUT_MAX as usize).min(rows.owed.len());
        rows.owed.drain(..count).collect()
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
            Self::Audit(AuditError::Unavailable) => "AUDIT_UNAVAILABLE",
            Self::Audit(AuditError::Busy) => "BUSY",
        }
    }
}

/// In a record, in place of a value's hash.
const DELETED: &str = "deleted";
const PATH_LABEL: &[u8] = b"audit/path";
/// Rows taken out of the outbox beside a change.
const PIGGYBACK_MAX: usize = 16;
const TAKEN_OUT_MAX: u32 = 100;
