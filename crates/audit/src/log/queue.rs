//! Entries on their way to the writer, in the order in which they were handed over.

use super::lane::Lane;
use super::{QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX};
use crate::AuditError;
use envelope::merkle::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An entry, and whom to tell that it is durable.
pub(super) struct Item {
    pub(super) entry: Vec<u8>,
    pub(super) lane: Arc<Lane>,
    pub(super) slot: u32,
    pub(super) receipt: Option<ForReceipt>,
}

/// A receipt is wanted too.
pub(super) struct ForReceipt {
    /// Where it is waited for.
    pub(super) slot: u32,
    /// The entry's hash, made where many make theirs beside each other.
    pub(super) leaf: Hash,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    writer: Condvar,
}

#[derive(Default)]
struct Waiting {
    items: Vec<Item>,
    bytes: usize,
    closed: bool,
    /// The writer sleeps until so many records wait; `None` while it is at work, and looks by itself when done.
    wake_at: Option<usize>,
}

impl Queue {
    /// Hands an entry over. `item` is asked for one only where there is room.
    pub(super) fn push(&self, bytes: usize, item: impl FnOnce() -> Item) -> Result<(), AuditError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(AuditError::Unavailable);
        }
        if waiting.items.len() >= QUEUE_RECORDS_MAX || waiting.bytes + bytes > QUEUE_BYTES_MAX {
            return Err(AuditError::Busy);
        }
        waiting.bytes += bytes;
        waiting.items.push(item());
        let wake = waiting.wake_at.is_some_and(|at| waiting.items.len() >= at);
        if wake {
            waiting.wake_at = None;
        }
        drop(waiting);
        if wake {
            self.writer.notify_one();
        }
        Ok(())
    }

    /// Waits for entries and takes all. `false` once nothing waits and nothing more can come.
    pub(super) fn take(&self, batch: &mut Vec<Item>, last_sync: Option<Instant>, gap: Duration) -> bool {
        debug_assert!(batch.is_empty());
        let mut waiting = self.waiting();
        while waiting.items.is_empty() && !waiting.closed {
            waiting.wake_at = Some(1);
            waiting = self.writer.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        // Not before the gap has passed, so that more callers share the sync; none after idle, and none for many.
        while waiting.items.len() < ENOUGH_RECORDS && !waiting.closed {
            let left = last_sync.and_then(|last| gap.checked_sub(last.elapsed()));
            let Some(left) = left.filter(|left| !left.is_zero()) else { break };
            waiting.wake_at = Some(ENOUGH_RECORDS);
            let woken = self.writer.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.wake_at = None;
        waiting.bytes = 0;
        std::mem::swap(&mut waiting.items, batch);
        !batch.is_empty()
    }

    /// Nothing more is accepted.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.writer.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Least time from one sync's start to the next one's.
pub(super) const SYNC_GAP: Duration = Duration::from_micros(300);
/// The same where the last batch was to be signed: more callers share the next signature.
pub(super) const SIGNED_SYNC_GAP: Duration = Duration::from_micros(600);
/// So many records do not wait for the gap to pass.
pub(super) const ENOUGH_RECORDS: usize = 40;
