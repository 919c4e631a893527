//! `strongroom.operator.v1.Operator`. Authentication and failures as in [`crate::kms_grpc`].
//!
//! Behind the other faces stands a domain that authorises and records. Behind this one stands the server itself, so both
//! happen here: the caller's policies must give `sudo` on the call's path, and the record that says so is durable before
//! the server is asked.
//!
//! # Divergences
//!
//! From Vault's `sys/health` and `sys/storage/raft/snapshot`:
//! * Status needs a token; what anybody may know stands at `GET /health` and in `grpc.health.v1`.
//! * A backup is a stream that ends with its own SHA-256, not a tar archive. Its values stay sealed.

mod codec;

use crate::gate::{Ticket, enter};
use crate::kms_grpc::error::Refusal;
use audit::{Decision, Outcome};
use bytes::Bytes;
use envelope::Timestamp;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hsm_api::ModuleStatus;
use identity::{Capability, Decided, Verdict};
use proto::operator as pb;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// What the server tells and does for who runs it. It need not authorise, nor record.
#[async_trait::async_trait]
pub trait Operator: Send + Sync + std::fmt::Debug {
    /// Asks the boundary at this moment.
    async fn status(&self) -> Result<ServerStatus, OperatorError>;

    /// A copy of storage as of one revision, in pieces of at most [`BACKUP_PIECE_BYTES_MAX`]; the last one is
    /// [`BackupPiece::End`], and where an error stands instead, there is no backup.
    async fn backup(&self) -> Result<BoxStream<'static, Result<BackupPiece, OperatorError>>, OperatorError>;
}

/// Longest piece of a backup.
pub const BACKUP_PIECE_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct ServerStatus {
    pub version: String,
    pub cluster_id: [u8; 16],
    pub tenant_id: [u8; 16],
    pub generation: u64,
    pub started: Timestamp,
    /// `None`: it does not answer.
    pub boundary: Option<ModuleStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPiece {
    Data(Bytes),
    /// SHA-256 over all data, and the revision that was copied.
    End {
        sha256: [u8; 32],
        revision: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    #[error("the store cannot be used")]
    StorageUnavailable,
    /// A backup runs already.
    #[error("at capacity, retry later")]
    Busy,
    #[error("an internal error; the log tells more")]
    Internal,
}

impl From<OperatorError> for Refusal {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::StorageUnavailable => {
                Self::new(Code::Unavailable, "STORAGE_UNAVAILABLE", "the store cannot be used")
            }
            OperatorError::Busy => Self::BUSY,
            OperatorError::Internal => Self::INTERNAL,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) operator: Arc<dyn Operator>,
}

#[tonic::async_trait]
impl pb::operator_server::Operator for Face {
    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let (ticket, pb::StatusRequest {}) = enter(request)?;
        authorise(&ticket, STATUS_PATH).await?;
        let outcome = recorded(&ticket, STATUS_PATH, self.operator.status().await).await;
        ticket.answer(outcome, codec::status)
    }

    type BackupStream = BoxStream<'static, Result<pb::BackupChunk, Status>>;

    async fn backup(&self, request: Request<pb::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let (ticket, pb::BackupRequest {}) = enter(request)?;
        authorise(&ticket, BACKUP_PATH).await?;
        let outcome = recorded(&ticket, BACKUP_PATH, self.operator.backup().await).await;
        let chunk = |piece: Result<BackupPiece, OperatorError>| match piece {
            Ok(piece) => Ok(codec::chunk(piece)),
            Err(error) => Err(Refusal::from(error).status()),
        };
        ticket.answer(outcome, |pieces| pieces.map(chunk).boxed())
    }
}

/// `sudo` on `path`, told to the log either way.
async fn authorise(ticket: &Ticket, path: &'static str) -> Result<(), Status> {
    let Decided { verdict, ack } = identity::decide(ticket.by().acl(), path, Capability::Sudo);
    let demanded = ticket.call().demand(ack).map_err(Refusal::from);
    let (decision, rule) = match verdict {
        Verdict::Allow { rule } => (Decision::Allowed, rule),
        Verdict::Deny { rule } => (Decision::Denied, rule),
        Verdict::Nothing => (Decision::Denied, ""),
    };
    let answer = match decision {
        Decision::Allowed => demanded,
        Decision::Denied | Decision::NotReached => Err(Refusal::DENIED),
    };
    let outcome = answer.as_ref().map_or_else(|refusal| Outcome::Failed(refusal.reason.into()), |()| Outcome::Asked);
    let recorded = ticket.record(path, decision, rule, outcome).await;
    ticket.pass(recorded.and(answer))
}

/// A failure after it was allowed has a record of its own.
async fn recorded<T>(ticket: &Ticket, path: &'static str, outcome: Result<T, OperatorError>) -> Result<T, Refusal> {
    match outcome {
        Ok(value) => Ok(value),
        Err(error) => {
            let refusal = Refusal::from(error);
            let outcome = Outcome::Failed(refusal.reason.into());
            ticket.record(path, Decision::Allowed, "", outcome).await.and(Err(refusal))
        }
    }
}

const STATUS_PATH: &str = "sys/status";
const BACKUP_PATH: &str = "sys/backup";
