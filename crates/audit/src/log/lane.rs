//! Lanes: whoever waits on one runtime is woken there, by one task that is woken once a batch.
//!
//! Always: a waiter is answered, even where the lane's runtime ends before the log is done.

use super::form::Form;
use super::queue::{self, Item, Queue};
use super::{CheckpointSigner, ENTRY_BYTES_MAX};
use crate::receipt::Receipt;
use crate::{AuditError, AuditSink, ForReceipt};
use bytes::Bytes;
use envelope::merkle::leaf_hash;
use futures_util::future::{BoxFuture, FutureExt};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::runtime::Handle as Runtime;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What became of an entry: durable, with a receipt where one was asked for.
pub(super) type Answer = Result<Option<Box<Receipt>>, AuditError>;

pub(super) struct Lane {
    waiters: Mutex<Waiters>,
    /// What was answered and the lane's task has not passed on.
    answered: Mutex<Vec<(u32, Answer)>>,
    wake: Notify,
    runtime: Runtime,
    signer: Arc<dyn CheckpointSigner>,
    signatures: Mutex<Signatures>,
}

/// What is known of a signer's signatures.
#[derive(Default)]
pub(super) struct Signatures {
    /// When one was verified last, and was right.
    pub(super) verified: Option<Instant>,
    /// What is wrong was told, since one was right.
    pub(super) told: bool,
}

impl Signatures {
    pub(super) fn are_wrong(&mut self, why: &str) {
        if !self.told {
            tracing::error!(why, "there are no receipts until a signature is right");
        }
        *self = Self { verified: None, told: true };
    }
}

/// Places of those who wait, used again and again.
#[derive(Default)]
struct Waiters {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// How many were not answered.
    out: usize,
    /// Nobody can ask any more: the task ends when all are answered.
    closing: bool,
    /// The lane's task has ended: nobody would pass answers on.
    ended: bool,
}

enum Slot {
    Free,
    Waiting(Option<Waker>),
    Answered(Answer),
    /// Whoever waited has gone.
    Abandoned,
}

/// What a runtime's callers hold.
struct Handle {
    lane: Arc<Lane>,
    queue: Arc<Queue>,
    form: Arc<dyn Form>,
}

impl Lane {
    /// In a runtime.
    fn new(signer: Arc<dyn CheckpointSigner>) -> Self {
        let (waiters, answered, wake) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { waiters, answered, wake, runtime: Runtime::current(), signer, signatures: Mutex::default() }
    }

    /// Where its callers run.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Who signs there.
    pub(super) fn signer(&self) -> &Arc<dyn CheckpointSigner> {
        &self.signer
    }

    pub(super) fn signatures(&self) -> MutexGuard<'_, Signatures> {
        self.signatures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a runtime: spawns the lane's task there.
    pub(super) fn start(
        queue: Arc<Queue>,
        form: Arc<dyn Form>,
        signer: Arc<dyn CheckpointSigner>,
    ) -> Arc<dyn AuditSink> {
        let lane = Arc::new(Self::new(signer));
        let end = End(Arc::clone(&lane));
        tokio::spawn(async move {
            let mut scratch = Scratch::default();
            while !end.0.is_done() {
                end.0.wake.notified().await;
                end.0.pass_on(&mut scratch);
            }
        });
        Arc::new(Handle { lane, queue, form })
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) -> MutexGuard<'_, Vec<(u32, Answer)>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        let waiters = self.waiters();
        waiters.closing && waiters.out == 0
    }

    /// Answers everybody, and only then wakes them: they run on this thread.
    fn pass_on(&self, scratch: &mut Scratch) {
        std::mem::swap(&mut *self.answered(), &mut scratch.answered);
        let mut waiters = self.waiters();
        for (slot, answer) in scratch.answered.drain(..) {
            scratch.wakers.extend(waiters.answer(slot, answer));
        }
        drop(waiters);
        scratch.wakers.drain(..).for_each(Waker::wake);
    }
}

#[derive(Default)]
struct Scratch {
    answered: Vec<(u32, Answer)>,
    wakers: Vec<Waker>,
}

impl Waiters {
    fn wait(&mut self) -> Option<u32> {
        if self.ended {
            return None;
        }
        if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(slot as usize)? = Slot::Waiting(None);
            self.out += 1;
            return Some(slot);
        }
        let slot = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot::Waiting(None));
        self.out += 1;
        Some(slot)
    }

    /// The entry was not accepted: nobody will answer it.
    fn take_back(&mut self, number: u32) {
        self.out -= 1;
        self.release(number);
    }

    fn answer(&mut self, number: u32, answer: Answer) -> Option<Waker> {
        let slot = self.slots.get_mut(number as usize)?;
        match std::mem::replace(slot, Slot::Answered(answer)) {
            Slot::Waiting(waker) => {
                self.out -= 1;
                waker
            }
            Slot::Abandoned => {
                self.out -= 1;
                self.release(number);
                None
            }
            // Answered while the lane ended: its first answer stands.
            was @ (Slot::Free | Slot::Answered(_)) => {
                *slot = was;
                None
            }
        }
    }

    /// The place is free again; what stood in it.
    fn release(&mut self, number: u32) -> Option<Slot> {
        let slot = self.slots.get_mut(number as usize)?;
        self.free.push(number);
        Some(std::mem::replace(slot, Slot::Free))
    }
}

/// The task's end, by whatever cause: nobody waits for it in vain.
struct End(Arc<Lane>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.pass_on(&mut Scratch::default());
        let mut waiters = self.0.waiters();
        waiters.ended = true;
        let all = 0..u32::try_from(waiters.slots.len()).unwrap_or(u32::MAX);
        let wakers: Vec<Waker> = all.filter_map(|slot| waiters.answer(slot, Err(AuditError::Unavailable))).collect();
        drop(waiters);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The log's side: answers many, then wakes each lane once.
pub(super) fn deliver(answers: impl Iterator<Item = (Arc<Lane>, u32, Answer)>) {
    let mut touched: Vec<Arc<Lane>> = Vec::new();
    for (lane, slot, answer) in answers {
        let mut answered = lane.answered();
        let first = answered.is_empty();
        answered.push((slot, answer));
        drop(answered);
        if first {
            touched.push(lane);
        }
    }
    for lane in touched {
        lane.wake.notify_one();
    }
}

impl AuditSink for Handle {
    fn append(&self, draft: Bytes) -> BoxFuture<'static, Result<(), AuditError>> {
        match self.hand_over(&draft, None) {
            Ok(ack) => Durable(ack).boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    fn append_for_receipt(&self, draft: Bytes) -> ForReceipt {
        match self.hand_over_for_receipt(&draft) {
            Ok((durable, receipt)) => ForReceipt {
                durable: Durable(durable).boxed(),
                receipt: receipt.map(|answer| answer?.map(|receipt| *receipt).ok_or(AuditError::Unsigned)).boxed(),
            },
            Err(error) => ForReceipt {
                durable: std::future::ready(Err(error)).boxed(),
                receipt: std::future::ready(Err(error)).boxed(),
            },
        }
    }
}

impl Handle {
    /// Two places: one is answered when the entry is durable, the other with the receipt.
    fn hand_over_for_receipt(&self, draft: &[u8]) -> Result<(Ack, Ack), AuditError> {
        let slot = self.lane.waiters().wait().ok_or(AuditError::Unavailable)?;
        let durable = self.hand_over(draft, Some(slot)).inspect_err(|_| self.lane.waiters().take_back(slot))?;
        Ok((durable, Ack { lane: Arc::clone(&self.lane), slot: Some(slot) }))
    }

    fn hand_over(&self, draft: &[u8], receipt: Option<u32>) -> Result<Ack, AuditError> {
        let entry = self.form.finish(draft).filter(|entry| (1..=ENTRY_BYTES_MAX).contains(&entry.len()));
        let Some(entry) = entry else {
            tracing::error!(bytes = draft.len(), "a draft that makes no entry was refused");
            return Err(AuditError::Unavailable);
        };
        let slot = self.lane.waiters().wait().ok_or(AuditError::Unavailable)?;
        let lane = &self.lane;
        let receipt = receipt.map(|slot| queue::ForReceipt { slot, leaf: leaf_hash(&entry) });
        let pushed = self.queue.push(entry.len(), || Item { entry, lane: Arc::clone(lane), slot, receipt });
        if let Err(error) = pushed {
            self.lane.waiters().take_back(slot);
            return Err(error);
        }
        Ok(Ack { lane: Arc::clone(&self.lane), slot: Some(slot) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.lane.waiters().closing = true;
        self.lane.wake.notify_one();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// An entry's answer.
struct Ack {
    lane: Arc<Lane>,
    slot: Option<u32>,
}

impl Future for Ack {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(number) = self.slot else { return Poll::Pending };
        let mut waiters = self.lane.waiters();
        if let Some(Slot::Waiting(waker)) = waiters.slots.get_mut(number as usize) {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let answer = match waiters.release(number) {
            Some(Slot::Answered(answer)) => answer,
            // Not reached: a slot is its waiter's until it has the answer.
            Some(Slot::Free | Slot::Abandoned | Slot::Waiting(_)) | None => Err(AuditError::Unavailable),
        };
        drop(waiters);
        self.slot = None;
        Poll::Ready(answer)
    }
}

/// The answer to whoever asked for no receipt.
struct Durable(Ack);

impl Future for Durable {
    type Output = Result<(), AuditError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.map(drop))
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        let Some(number) = self.slot else { return };
        let mut waiters = self.lane.waiters();
        let answered = matches!(waiters.slots.get(number as usize), Some(Slot::Answered(_)));
        if answered {
            waiters.release(number);
        } else if let Some(slot) = waiters.slots.get_mut(number as usize) {
            *slot = Slot::Abandoned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_of_those_who_have_gone_are_used_again() {
        let queue = Arc::new(Queue::default());
        let lane = Arc::new(Lane::new(crate::log::tests::Rig::of(1).signer()));
        let form: Arc<dyn Form> = Arc::new(crate::log::tests::TestForm);
        let handle = Handle { lane: Arc::clone(&lane), queue: Arc::clone(&queue), form };
        for round in 0..50 {
            let mut acks = Vec::new();
            for _ in 0..5 {
                let (durable, receipt) = handle.hand_over_for_receipt(b"a draft").unwrap();
                acks.extend([durable, receipt]);
            }
            // gone before the answer, after it, or with it
            let mut rest = acks.into_iter().skip(3);
            let mut batch = Vec::new();
            assert!(queue.take(&mut batch, None, std::time::Duration::ZERO));
            let gone: Vec<_> = rest.by_ref().take(3).collect();
            deliver(batch.into_iter().flat_map(|item| {
                let both = [Some(item.slot), item.receipt.map(|wanted| wanted.slot)].into_iter().flatten();
                both.map(move |slot| (Arc::clone(&item.lane), slot, Ok(None)))
            }));
            lane.pass_on(&mut Scratch::default());
            drop(gone);
            for ack in rest {
                assert!(matches!(ack.await, Ok(None)));
            }
            assert!(handle.hand_over_for_receipt(b"").is_err());
            let waiters = lane.waiters();
            assert_eq!((waiters.slots.len(), waiters.free.len(), waiters.out), (10, 10, 0), "round {round}");
        }
    }
}
