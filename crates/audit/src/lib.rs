//! The record of every act. When `append` answers, the record is durable.
//!
//! Always: a record names the accessor, never the token; secrets stand in it as keyed hashes.
//! Never: a sink that drops. No sink, no service.
#![forbid(unsafe_code)]

pub mod ack;
pub mod checkpoint;
pub mod export;
mod lock;
pub mod log;
pub mod note;
pub mod proof;
pub mod read;
pub mod receipt;
pub mod record;
pub mod retention;
pub mod tile;
pub mod verify;
pub mod witness;

pub use ack::{Ack, AckRefusal, Acks, Offer, Witnessed, Witnesses};
pub use log::{CheckpointSigner, Log, LogOptions, OpenError, SignError, Standing};
pub use record::{Decision, Item, Outcome, Record, Subject};

use bytes::Bytes;
use futures_util::future::BoxFuture;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// Disk full, read-only, file replaced: refused now, recovers in place.
    #[error("the audit log cannot be written")]
    Unavailable,
    /// More records wait than the queue may hold.
    #[error("the audit log is at capacity")]
    Busy,
    /// The record is durable, and the boundary gave no signature in time for its receipt. To who needs no receipt it is success.
    #[error("the record is in the audit log, and no signature came in time for its receipt")]
    Unsigned,
}

/// Where records become durable.
pub trait AuditSink: Send + Sync + std::fmt::Debug {
    /// Hands the encoded record ([`Record::encode`]) over at once, when called; answers when it is durable.
    fn append(&self, record: Bytes) -> BoxFuture<'static, Result<(), AuditError>>;

    /// As [`AuditSink::append`], and answers a second time, with the record's receipt.
    fn append_for_receipt(&self, record: Bytes) -> ForReceipt;
}

/// The two answers to a record of which a receipt is wanted. Whoever holds something up waits for the first alone.
#[expect(missing_debug_implementations, reason = "two futures")]
pub struct ForReceipt {
    /// That it is durable.
    pub durable: BoxFuture<'static, Result<(), AuditError>>,
    /// Once it is durable and the boundary has signed its batch; or [`AuditError::Unsigned`].
    pub receipt: BoxFuture<'static, Result<receipt::Receipt, AuditError>>,
}
