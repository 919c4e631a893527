//! The writer's thread: takes what waits, writes it, syncs, answers, and tells the tree.

use super::form::Form;
use super::inbox::Inbox;
use super::lane::deliver;
use super::queue::{Item, Queue, SIGNED_SYNC_GAP, SYNC_GAP};
use super::receipts::{Pending, Receipts, Wanted};
use super::reserve::Reserve;
use super::segment::{Hindrance, Segments, hindrance};
use crate::AuditError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct Writer {
    segments: Segments,
    reserve: Reserve,
    form: Arc<dyn Form>,
    queue: Arc<Queue>,
    inbox: Arc<Inbox>,
    receipts: Receipts,
    size: Arc<AtomicU64>,
    failure: watch::Sender<bool>,
    batch: Vec<Item>,
    /// From the last sync to the next one.
    gap: Duration,
    /// What was told of last, so that the log of the process is told once.
    hindered: bool,
    /// No space was left, until there is room for the reserve and for more than a batch.
    full: bool,
}

impl Writer {
    pub(super) fn new(
        (segments, reserve): (Segments, Reserve),
        form: Arc<dyn Form>,
        (queue, inbox): (Arc<Queue>, Arc<Inbox>),
        receipts: Receipts,
        size: Arc<AtomicU64>,
        failure: watch::Sender<bool>,
    ) -> Self {
        let (batch, gap) = (Vec::new(), SYNC_GAP);
        Self {
            segments,
            reserve,
            form,
            queue,
            inbox,
            receipts,
            size,
            failure,
            batch,
            gap,
            hindered: false,
            full: false,
        }
    }

    /// Until the queue is closed. Gives the log's size where it ended in peace.
    pub(super) fn run(&mut self) -> Option<u64> {
        if let Err(error) = self.reserve.take() {
            tracing::error!(%error, "there is no space for the audit log's reserve: nothing is accepted until there is");
            self.full = true;
        }
        while self.queue.take(&mut self.batch, self.segments.last_sync(), self.gap) {
            // answered first, and then a month's new key: who came before it was made has the old one
            if *self.failure.borrow() || self.commit().and_then(|()| self.form.renew()) == Err(Hindrance::Final) {
                self.fail();
                return None;
            }
            if !self.full {
                self.segments.grow_ahead();
            }
        }
        let sound = !*self.failure.borrow() && self.segments.close();
        sound.then(|| self.segments.size())
    }

    fn commit(&mut self) -> Result<(), Hindrance> {
        let outcome = self.write_batch();
        match outcome {
            Ok(()) if self.hindered => tracing::warn!("the audit log can be written again"),
            Ok(()) => {}
            Err(hindrance) if self.hindered && hindrance != Hindrance::Final => {}
            Err(hindrance) => tracing::error!(?hindrance, "the audit log cannot be written"),
        }
        self.hindered = outcome.is_err();
        match outcome {
            Ok(()) | Err(Hindrance::Final) => outcome,
            Err(Hindrance::Passing) => {
                self.refuse_batch();
                Ok(())
            }
            Err(Hindrance::Full) => {
                self.refuse_batch();
                self.record_full()
            }
        }
    }

    /// One write and one sync, and one more for each segment's end within the batch. Whose entries are durable is answered
    /// `Ok`, though the rest is not.
    fn write_batch(&mut self) -> Result<(), Hindrance> {
        if self.full {
            self.reserve.take().map_err(|error| hindrance(&error))?;
            self.segments.make_room()?;
            self.full = false;
        }
        while !self.batch.is_empty() {
            let count = self.segments.room()?.min(self.batch.len());
            let (items, _) = self.batch.split_at(count);
            let pending = self.receipts.ask(self.segments.size(), items);
            self.gap = if pending.is_some() { SIGNED_SYNC_GAP } else { SYNC_GAP };
            let written = self.segments.write(items.iter().map(|item| item.entry.as_slice()));
            written.inspect_err(|_| pending.iter().for_each(|pending| pending.is_lost()))?;
            self.answer(count, pending.as_deref());
        }
        Ok(())
    }

    /// The first of the batch are durable. Those of them who want a receipt have it with the same wake where it is signed by now.
    fn answer(&mut self, count: usize, pending: Option<&Pending>) {
        self.size.store(self.segments.size(), Ordering::Release);
        let receipts = pending.map_or_else(Vec::new, |pending| {
            let wanted = self.batch.iter().take(count).enumerate().filter_map(|(at, item)| {
                item.receipt.as_ref().map(|wanted| Wanted { at, lane: Arc::clone(&item.lane), slot: wanted.slot })
            });
            pending.is_durable(wanted.collect())
        });
        let durable = self.batch.drain(..count).map(|item| (item.lane, item.slot, Ok(None)));
        deliver(durable.chain(receipts));
        self.tell_tree();
    }

    fn tell_tree(&self) {
        self.size.store(self.segments.size(), Ordering::Release);
        self.inbox.durable(self.segments.size());
    }

    fn refuse_batch(&mut self) {
        let places = |item: Item| {
            let receipt = item.receipt.map(|wanted| (Arc::clone(&item.lane), wanted.slot));
            receipt.into_iter().chain([(item.lane, item.slot)])
        };
        deliver(self.batch.drain(..).flat_map(places).map(|(lane, slot)| (lane, slot, Err(AuditError::Unavailable))));
    }

    /// Gives the reserve back, and records in its space that the disk is full. What else hinders is met again by the next
    /// batch.
    fn record_full(&mut self) -> Result<(), Hindrance> {
        if std::mem::replace(&mut self.full, true) || !self.reserve.give_back() {
            return Ok(());
        }
        let Some(entry) = self.form.finish(&self.form.hindered(FULL)) else { return Ok(()) };
        let recorded = self.segments.room().and_then(|_| self.segments.write(std::iter::once(entry.as_slice())));
        match recorded {
            Ok(()) => self.tell_tree(),
            Err(Hindrance::Final) => return Err(Hindrance::Final),
            Err(Hindrance::Full | Hindrance::Passing) => tracing::error!("the full disk could not be recorded"),
        }
        Ok(())
    }

    /// Says so, and leaves nobody waiting.
    fn fail(&mut self) {
        self.failure.send_replace(true);
        self.queue.close();
        self.inbox.end();
        loop {
            self.refuse_batch();
            if !self.queue.take(&mut self.batch, None, Duration::ZERO) {
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

/// The reason in the record of a full disk.
const FULL: &str = "AUDIT_STORAGE_FULL";
