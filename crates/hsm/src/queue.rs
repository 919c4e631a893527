//! What waits to be sent, and whether sending is of use at this moment.

use crate::{SLOW, is_slow};
use futures_util::FutureExt;
use futures_util::future::ready;
use futures_util::task::AtomicWaker;
use hsm_api::{HsmError, Pending, Reply, Request};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Requests that may wait; beyond it the module is `Busy`.
pub(crate) const QUEUE_MAX: usize = 8192;

pub(crate) type Answer = oneshot::Sender<Result<Reply, HsmError>>;

/// A request that was handed over.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) request: Request,
    pub(crate) answer: Answer,
    pub(crate) deadline: Instant,
}

/// What a caller is told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    Open,
    /// No channel: refused at once.
    Away,
    /// The module answers nothing: refused at once, until it does.
    Stalled,
}

#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// The pipe's task.
    task: AtomicWaker,
    timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    road: Road,
    items: Vec<Item>,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(timeout: Duration) -> Self {
        let inner = Inner { road: Road::Away, items: Vec::new(), closed: false };
        Self { inner: Mutex::new(inner), task: AtomicWaker::new(), timeout }
    }

    pub(crate) fn submit(&self, request: Request) -> Pending<Reply> {
        let timeout = if is_slow(request.service()) { SLOW } else { self.timeout };
        let (answer, reply) = oneshot::channel();
        let item = Item { request, answer, deadline: Instant::now() + timeout };
        match self.push(item) {
            // whoever drops the sender has closed the queue
            Ok(()) => reply.map(|reply| reply.unwrap_or(Err(HsmError::Unavailable))).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn push(&self, item: Item) -> Result<(), HsmError> {
        let mut inner = self.inner();
        match inner.road {
            Road::Away => return Err(HsmError::Unavailable),
            Road::Stalled => return Err(HsmError::TimedOut),
            Road::Open if inner.items.len() >= QUEUE_MAX => return Err(HsmError::Busy),
            Road::Open => {}
        }
        inner.items.push(item);
        let first = inner.items.len() == 1;
        drop(inner);
        if first {
            self.task.wake();
        }
        Ok(())
    }

    /// Swaps what waits with `taken`, which is empty.
    pub(crate) fn take(&self, taken: &mut Vec<Item>) {
        std::mem::swap(&mut self.inner().items, taken);
    }

    pub(crate) fn set_road(&self, road: Road) {
        self.inner().road = road;
    }

    pub(crate) fn close(&self) {
        self.inner().closed = true;
        self.task.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner().closed
    }

    pub(crate) fn register(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    /// Resolves when nobody can ask any more.
    pub(crate) async fn closed(&self) {
        std::future::poll_fn(|context| {
            self.register(context);
            if self.is_closed() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// The channel is gone: what waits was never sent.
    pub(crate) fn refuse_all(&self) {
        let mut inner = self.inner();
        inner.road = Road::Away;
        let items = std::mem::take(&mut inner.items);
        drop(inner);
        for item in items {
            let _gone = item.answer.send(Err(HsmError::Unavailable));
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
