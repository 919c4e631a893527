//! Strangers: who was not recognised shares the log with principals, and shall not fill it.
//!
//! Always: their records take a bounded part of the log's queue; beyond it the answer is BUSY, without waiting. What watches
//! the server (health, metrics) has a part of its own, so that it hears of a server that others flood.
//! Always: a record keeps its place until the log has answered, though its asker has gone.

use crate::gate::unrecorded;
use crate::kms_grpc::error::Refusal;
use crate::operation::Operation;
use audit::{AuditSink, Record};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The places of their records on the way to the log. Clones share them; one for all cores, as the log is.
#[derive(Debug, Clone)]
pub struct Strangers {
    watching: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Strangers {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(STRANGERS_MAX));
        Self { watching: places(), others: places() }
    }
}

impl Strangers {
    /// Answers when the record is durable.
    pub(crate) async fn append(
        &self,
        audit: &dyn AuditSink,
        operation: Operation,
        record: &Record<'_>,
    ) -> Result<(), Refusal> {
        let watches = matches!(operation, Operation::Health | Operation::Metrics);
        let places = if watches { &self.watching } else { &self.others };
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| Refusal::BUSY)?;
        let appended = audit.append(record.encode());
        // a task of its own: who asks and leaves at once would give up the place, and leave the record
        let recorded = tokio::spawn(async move {
            let _place = place;
            appended.await
        });
        recorded.await.map_err(|_| Refusal::AUDIT_UNAVAILABLE)?.map_err(unrecorded)
    }
}

/// Most records of strangers on their way, of those who watch and of all others each: a sixteenth of what waits in the log.
pub const STRANGERS_MAX: usize = 1 << 10;
