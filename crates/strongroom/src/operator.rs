//! What the server tells and does for who runs it: status, backup.

use api::{BackupPiece, Operator, OperatorError, ServerStatus};
use bytes::Bytes;
use envelope::Timestamp;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hsm::SocketBoundary;
use hsm_api::{Boundary as _, Reply, Request};
use kms::boot::Cluster;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Sqlite, Storage as _, StorageError};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// This server's own.
pub struct LocalOperator {
    cluster_id: [u8; 16],
    tenant_id: [u8; 16],
    generation: u64,
    started: Timestamp,
    boundary: Arc<SocketBoundary>,
    storage: Arc<Sqlite>,
    /// Where a backup stands while it is sent.
    copy: PathBuf,
    one_backup: Arc<Semaphore>,
}

impl LocalOperator {
    pub fn new(
        cluster: &Cluster,
        storage: &Arc<Sqlite>,
        boundary: Arc<SocketBoundary>,
        data_dir: &Path,
        started: Timestamp,
    ) -> Self {
        let copy = data_dir.join("backup-in-progress.db");
        // of a process that was killed while it sent one
        let _none = std::fs::remove_file(&copy);
        storage::sqlite::remove_partial(&copy);
        Self {
            cluster_id: *cluster.barrier.cluster_id(),
            tenant_id: cluster.tenant,
            generation: cluster.core().generation,
            started,
            boundary,
            storage: Arc::clone(storage),
            copy,
            one_backup: Arc::new(Semaphore::new(1)),
        }
    }
}

impl std::fmt::Debug for LocalOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalOperator").field("copy", &self.copy).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Operator for LocalOperator {
    async fn status(&self) -> Result<ServerStatus, OperatorError> {
        let boundary = match self.boundary.submit(Request::Status).await {
            Ok(Reply::Status(status)) => Some(*status),
            Ok(_) | Err(_) => None,
        };
        Ok(ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.cluster_id,
            tenant_id: self.tenant_id,
            generation: self.generation,
            started: self.started,
            boundary,
        })
    }

    async fn backup(&self) -> Result<BoxStream<'static, Result<BackupPiece, OperatorError>>, OperatorError> {
        let permit = Arc::clone(&self.one_backup).try_acquire_owned().map_err(|_| OperatorError::Busy)?;
        let copy = Copy { path: self.copy.clone(), _permit: permit };
        let revision = self.storage.backup(&copy.path).await.map_err(|error| {
            tracing::error!(%error, "a backup was not made");
            refused(&error)
        })?;
        let file = File::open(&copy.path).await.map_err(|error| unreadable(&error))?;
        let sending = Sending { file, digest: Sha256::new(), revision: revision.0, copy };
        Ok(stream::try_unfold(Some(sending), piece).boxed())
    }
}

/// A copy that is being sent; its file goes with it.
struct Copy {
    path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

struct Sending {
    file: File,
    digest: Sha256,
    revision: u64,
    copy: Copy,
}

async fn piece(sending: Option<Sending>) -> Result<Option<(BackupPiece, Option<Sending>)>, OperatorError> {
    let Some(mut sending) = sending else { return Ok(None) };
    let mut data = Vec::with_capacity(PIECE_BYTES);
    let mut part = (&mut sending.file).take(PIECE_BYTES as u64);
    part.read_to_end(&mut data).await.map_err(|error| unreadable(&error))?;
    if data.is_empty() {
        let Sending { digest, revision, copy, .. } = sending;
        drop(copy);
        return Ok(Some((BackupPiece::End { sha256: digest.finalize().into(), revision }, None)));
    }
    sending.digest.update(&data);
    Ok(Some((BackupPiece::Data(Bytes::from(data)), Some(sending))))
}

fn refused(error: &StorageError) -> OperatorError {
    match error {
        StorageError::Unavailable | StorageError::Full => OperatorError::StorageUnavailable,
        StorageError::TargetExists => OperatorError::Busy,
        StorageError::Damaged(_) | StorageError::Format { .. } | StorageError::Held | StorageError::TooLarge => {
            OperatorError::Internal
        }
    }
}

fn unreadable(error: &std::io::Error) -> OperatorError {
    tracing::error!(%error, "a backup could not be read");
    OperatorError::Internal
}

const PIECE_BYTES: usize = api::operator_grpc::BACKUP_PIECE_BYTES_MAX;
