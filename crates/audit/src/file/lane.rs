//! Lanes: whoever waits on one runtime is woken there, by one task that the writer wakes once a batch.
//!
//! Always: a waiter is answered, even where the lane's runtime ends before the writer is done.

use super::RECORD_BYTES_MAX;
use super::queue::{Item, Queue};
use crate::{AuditError, AuditSink};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

type Answer = Result<(), AuditError>;

pub(super) struct Lane {
    waiters: Mutex<Waiters>,
    /// What the writer has answered and the lane's task has not passed on.
    answered: Mutex<Vec<(u32, Answer)>>,
    wake: Notify,
}

/// Places of those who wait, used again and again.
#[derive(Default)]
struct Waiters {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// How many the writer has not answered.
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
}

impl Lane {
    /// In a runtime: spawns the lane's task there.
    pub(super) fn start(queue: Arc<Queue>) -> Arc<dyn AuditSink> {
        let lane = Arc::new(Self { waiters: Mutex::default(), answered: Mutex::default(), wake: Notify::new() });
        let end = End(Arc::clone(&lane));
        tokio::spawn(async move {
            let mut scratch = Scratch::default();
            while !end.0.is_done() {
                end.0.wake.notified().await;
                end.0.pass_on(&mut scratch);
            }
        });
        Arc::new(Handle { lane, queue })
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

    /// The record was not accepted: nobody will answer it.
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

    fn release(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Slot::Free;
            self.free.push(number);
        }
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

/// The writer's side: answers a batch, then wakes each lane once.
pub(super) fn deliver(batch: &mut Vec<Item>, answer: Answer) {
    let mut touched: Vec<Arc<Lane>> = Vec::new();
    for Item { record: _, lane, slot } in batch.drain(..) {
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
    fn append(&self, record: Bytes) -> BoxFuture<'static, Answer> {
        match self.hand_over(record) {
            Ok(ack) => ack.boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    /// A file of lines has no tree, and gives none.
    fn append_for_receipt(&self, _: Bytes) -> BoxFuture<'static, Result<crate::proof::Receipt, AuditError>> {
        std::future::ready(Err(AuditError::Unavailable)).boxed()
    }
}

impl Handle {
    fn hand_over(&self, record: Bytes) -> Result<Ack, AuditError> {
        if !is_one_line(&record) {
            tracing::error!(bytes = record.len(), "a record that is not one line was refused");
            return Err(AuditError::Unavailable);
        }
        let slot = self.lane.waiters().wait().ok_or(AuditError::Unavailable)?;
        let lane = &self.lane;
        let pushed = self.queue.push(record.len(), || Item { record, lane: Arc::clone(lane), slot });
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

/// One line of JSON: a control character within would make two of it, or end the log where it is opened again.
fn is_one_line(record: &[u8]) -> bool {
    let Some((b'\n', line)) = record.split_last() else { return false };
    line.starts_with(b"{") && record.len() <= RECORD_BYTES_MAX && !line.iter().any(|byte| *byte < b' ')
}

/// A record's answer.
struct Ack {
    lane: Arc<Lane>,
    slot: Option<u32>,
}

impl Future for Ack {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(number) = self.slot else { return Poll::Pending };
        let mut waiters = self.lane.waiters();
        let answer = match waiters.slots.get_mut(number as usize) {
            Some(Slot::Waiting(waker)) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            Some(Slot::Answered(answer)) => *answer,
            // Not reached: a slot is its waiter's until it has the answer.
            Some(Slot::Free | Slot::Abandoned) | None => Err(AuditError::Unavailable),
        };
        waiters.release(number);
        drop(waiters);
        self.slot = None;
        Poll::Ready(answer)
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
        let folder = tempfile::tempdir().unwrap();
        let sink = super::super::FileSink::open(&folder.path().join("audit.log")).unwrap();
        let lane = Arc::new(Lane { waiters: Mutex::default(), answered: Mutex::default(), wake: Notify::new() });
        let handle = Handle { lane: Arc::clone(&lane), queue: Arc::clone(&sink.queue) };
        for round in 0..50 {
            let acks: Vec<_> = (0..10).map(|_| handle.hand_over(Bytes::from_static(b"{}\n")).unwrap()).collect();
            // gone before the answer, after it, or with it
            let mut rest = acks.into_iter().skip(3);
            while lane.answered().len() < 10 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            let gone: Vec<_> = rest.by_ref().take(3).collect();
            lane.pass_on(&mut Scratch::default());
            drop(gone);
            for ack in rest {
                assert_eq!(ack.await, Ok(()));
            }
            let waiters = lane.waiters();
            assert_eq!((waiters.slots.len(), waiters.free.len(), waiters.out), (10, 10, 0), "round {round}");
        }
    }
}
