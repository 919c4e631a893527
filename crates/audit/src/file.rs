//! The log as a file of JSON lines: one writer, which makes everything that waits durable with one sync.
//!
//! The file is zeroed ahead of what is written, so that a sync moves data alone; closed in peace it ends with its last line.
//! A line that was refused may stand in it: nobody was told that it does not.
//!
//! Always: whoever hears `Ok` has a whole line on the disk, in the file that stands at the path.
//! Always: what hinders for a while (no space, read-only, the file moved away) refuses, and passes without a restart.
//! Never: another sync after one that failed, since it may succeed and lie: [`FileSink::failed`] resolves, the process ends,
//! and the next start writes the tail anew.

mod lane;
mod log;
mod queue;

use crate::{AuditError, AuditSink};
use queue::Queue;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Longest record, newline included.
pub const RECORD_BYTES_MAX: usize = 256 << 10;
/// Most records that wait; beyond it the log is [`crate::AuditError::Busy`].
pub const QUEUE_RECORDS_MAX: usize = 16 << 10;
/// Most bytes that wait.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process holds the audit log")]
    Held,
    #[error("the audit log cannot be opened")]
    Io(#[from] std::io::Error),
}

/// An open log. Dropping it makes durable what was accepted and ends its thread.
pub struct FileSink {
    queue: Arc<Queue>,
    syncs: Arc<AtomicU64>,
    failed: watch::Receiver<bool>,
    writer: Option<JoinHandle<()>>,
}

impl FileSink {
    /// Opens the log at `path`, which is made where it is missing. A torn last line is cut.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        Self::start(log::Log::open(path)?)
    }

    /// The sink of the runtime in which this is called: its callers are woken by a task there, once a batch.
    pub fn lane(&self) -> Arc<dyn AuditSink> {
        lane::Lane::start(Arc::clone(&self.queue))
    }

    /// How many syncs the log has cost.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Resolves once the log has failed for good: end the process, the next start recovers.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut failed = self.failed.clone();
        async move {
            // An error means that the log was closed in peace: it will never fail.
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn start(log: log::Log) -> Result<Arc<Self>, OpenError> {
        let queue = Arc::new(Queue::default());
        let syncs = log.syncs();
        let (failure, failed) = watch::channel(false);
        let mut writer = Writer { log, queue: Arc::clone(&queue), failure, batch: Vec::new() };
        let thread = std::thread::Builder::new().name("audit-writer".into()).spawn(move || writer.run())?;
        Ok(Arc::new(Self { queue, syncs, failed, writer: Some(thread) }))
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.queue.close();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

impl std::fmt::Debug for FileSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSink").field("syncs", &self.syncs()).finish_non_exhaustive()
    }
}

struct Writer {
    log: log::Log,
    queue: Arc<Queue>,
    failure: watch::Sender<bool>,
    batch: Vec<queue::Item>,
}

impl Writer {
    fn run(&mut self) {
        while self.queue.take(&mut self.batch, self.log.last_sync()) {
            match self.log.write(self.batch.iter().map(|item| &item.record[..])) {
                Ok(()) => lane::deliver(&mut self.batch, Ok(())),
                Err(log::Hindrance::Passing) => lane::deliver(&mut self.batch, Err(AuditError::Unavailable)),
                Err(log::Hindrance::Final) => {
                    tracing::error!("the audit log could not be made durable, and has failed for good");
                    return self.fail();
                }
            }
            self.log.grow_ahead();
        }
        self.log.close();
    }

    /// Says so, and leaves nobody waiting.
    fn fail(&mut self) {
        self.failure.send_replace(true);
        self.queue.close();
        loop {
            lane::deliver(&mut self.batch, Err(AuditError::Unavailable));
            if !self.queue.take(&mut self.batch, None) {
                return;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail();
        }
    }
}

#[cfg(test)]
mod tests;
