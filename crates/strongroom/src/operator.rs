//! What the server tells and does for who runs it: status, backup.

mod backup;

use api::{BackupPiece, Operator, OperatorError, ServerStatus};
use backup::Backups;
use envelope::Timestamp;
use futures_util::stream::BoxStream;
use hsm::SocketBoundary;
use hsm_api::{Boundary as _, Reply, Request};
use kms::boot::Cluster;
use std::path::Path;
use std::sync::Arc;
use storage::Storage;

/// This server's own.
pub struct LocalOperator {
    cluster_id: [u8; 16],
    tenant_id: [u8; 16],
    generation: u64,
    started: Timestamp,
    boundary: Arc<SocketBoundary>,
    backups: Backups,
}

impl LocalOperator {
    pub fn new(
        cluster: &Cluster,
        storage: &Arc<dyn Storage>,
        boundary: Arc<SocketBoundary>,
        data_dir: &Path,
        started: Timestamp,
    ) -> Self {
        Self {
            cluster_id: *cluster.barrier.cluster_id(),
            tenant_id: cluster.tenant,
            generation: cluster.core().generation,
            started,
            boundary,
            backups: Backups::new(Arc::clone(storage), data_dir.join("backup-in-progress.db")),
        }
    }
}

impl std::fmt::Debug for LocalOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalOperator").field("backups", &self.backups).finish_non_exhaustive()
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
        self.backups.start().await
    }
}
