//! Work that takes long, beside the listener's thread.
//!
//! Always: bounded in all and for each channel; channels take turns.
//! Never: a thread that outlives a panic of the module: the process ends (fail closed).

use crate::{Module, Pins};
use hsm_api::{HsmError, Reply, Request, Role};
use hsm_channel::Pin;
use mio::{Token, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One request of a channel.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u32,
    pub(crate) role: Role,
    pub(crate) request: Request,
}

/// Its outcome.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) channel: Token,
    pub(crate) id: u32,
    pub(crate) reply: Result<Reply, HsmError>,
}

#[derive(Debug)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    module: Arc<dyn Module>,
    pins: Arc<Pins>,
    waker: Arc<Waker>,
    queue_max: usize,
    queue: Mutex<Queue>,
    work: Condvar,
    done: Mutex<Vec<Done>>,
}

/// Channels in the order in which they are served next, each with its own line.
#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<(Token, VecDeque<Job>)>,
    waiting: usize,
    ended: bool,
}

impl Pool {
    pub(crate) fn start(
        threads: usize,
        queue_max: usize,
        (module, pins, waker): (Arc<dyn Module>, Arc<Pins>, Arc<Waker>),
    ) -> std::io::Result<Self> {
        let (queue, done) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { module, pins, waker, queue_max, queue, work: Condvar::new(), done });
        for n in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("pool-{n}")).spawn(move || shared.work())?;
        }
        Ok(Self(shared))
    }

    /// `Err` when there is no room.
    pub(crate) fn submit(&self, channel: Token, job: Job) -> Result<(), HsmError> {
        let mut queue = lock(&self.0.queue);
        if queue.waiting >= self.0.queue_max {
            return Err(HsmError::Busy);
        }
        queue.waiting += 1;
        match queue.lines.iter_mut().find(|(token, _)| *token == channel) {
            Some((_, line)) => line.push_back(job),
            None => queue.lines.push_back((channel, VecDeque::from([job]))),
        }
        drop(queue);
        self.0.work.notify_one();
        Ok(())
    }

    /// Drops what waits for a channel that is gone.
    pub(crate) fn forget(&self, channel: Token) {
        let mut queue = lock(&self.0.queue);
        if let Some(at) = queue.lines.iter().position(|(token, _)| *token == channel)
            && let Some((_, line)) = queue.lines.remove(at)
        {
            queue.waiting -= line.len();
        }
    }

    /// Takes all outcomes, into `into`, which is empty.
    pub(crate) fn collect(&self, into: &mut Vec<Done>) {
        std::mem::swap(&mut *lock(&self.0.done), into);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.0.queue).ended = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let _abort_on_panic = AbortOnPanic;
        while let Some((channel, job)) = self.next() {
            let Job { id, role, request } = job;
            let reply = if let Request::Enrol { role, pin } = request {
                self.pins.enrol(role, Pin::from_bytes(pin)).map(|()| Reply::Done)
            } else {
                self.module.serve(role, request)
            };
            let mut done = lock(&self.done);
            let first = done.is_empty();
            done.push(Done { channel, id, reply });
            drop(done);
            if first && let Err(error) = self.waker.wake() {
                tracing::error!(%error, "the listener could not be woken");
            }
        }
    }

    /// Waits for the next job: one of the channel whose turn it is.
    fn next(&self) -> Option<(Token, Job)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.ended {
                return None;
            }
            if let Some((channel, mut line)) = queue.lines.pop_front() {
                let job = line.pop_front();
                if !line.is_empty() {
                    queue.lines.push_back((channel, line));
                }
                if let Some(job) = job {
                    queue.waiting -= 1;
                    return Some((channel, job));
                }
                continue;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request whose thread panicked would never be answered, and nobody knows what the module left half done.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
