//! What waits to be sent and who waits for a reply.
//!
//! Always: an id names one request; its slot is free again only when its reply has come or its channel is gone, so that
//! no late reply finds another request in its place.
//! Never: more than [`SLOTS`] requests or [`FRAMES_MAX`] frames.

use hsm_api::frame::{FrameWriter, decode_replies};
use hsm_api::{HsmError, Reply, Request};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: Vec<Slot>,
    free: Vec<u16>,
    out: usize,
    frames: VecDeque<Frame>,
    /// Empty frames with buffers to use again.
    spare: Vec<FrameWriter>,
    /// The number of the newest frame.
    newest: u64,
    pipe: Option<Waker>,
    /// The pipe sleeps and could send: the next request wakes it.
    hungry: bool,
    up: bool,
    closed: bool,
}

/// A frame on its way out.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) writer: FrameWriter,
    /// Something in it is answered at once, so that the frame's end is noticed.
    pub(crate) prompt: bool,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    frame: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Out {
        deadline: Instant,
        waker: Option<Waker>,
    },
    /// Its time is over; its reply may still come. The asker has not looked yet.
    Late,
    /// Nobody waits any more; its reply may still come.
    Abandoned,
    Done(Result<Reply, HsmError>),
}

/// What a look at the deadlines found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Replies that are still expected, by somebody or not.
    pub(crate) out: usize,
    /// Something ran out of time just now.
    pub(crate) expired: bool,
    pub(crate) next_deadline: Option<Instant>,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request into the next frame. The id is the asker's claim to the reply.
    pub(crate) fn push(&self, request: &Request, deadline: Instant) -> Result<u32, HsmError> {
        let mut inner = self.lock();
        let id = inner.push(request, State::Out { deadline, waker: None })?;
        let hungry = std::mem::take(&mut inner.hungry);
        let pipe = if hungry { inner.pipe.clone() } else { None };
        drop(inner);
        if let Some(pipe) = pipe {
            pipe.wake();
        }
        Ok(id)
    }

    /// Asks for a sign of life. Nobody waits for the reply.
    pub(crate) fn probe(&self) {
        let _no_room_is_no_matter = self.lock().push(&Request::Status, State::Abandoned);
    }

    /// The oldest frame that is not empty.
    pub(crate) fn take_frame(&self) -> Option<Frame> {
        self.lock().frames.pop_front()
    }

    pub(crate) fn give_back(&self, mut writer: FrameWriter) {
        writer.clear();
        let mut inner = self.lock();
        if inner.spare.len() < SPARE_MAX {
            inner.spare.push(writer);
        }
    }

    /// Gives each reply of a frame to its slot, and tells the newest frame that it answers. Replies that nobody waits
    /// for are dropped.
    pub(crate) fn complete(&self, body: &[u8], wakers: &mut Vec<Waker>) -> Result<Option<u64>, HsmError> {
        let mut inner = self.lock();
        let mut newest = None;
        decode_replies(body, |id, reply| newest = newest.max(inner.complete(id, reply, wakers)))?;
        Ok(newest)
    }

    /// Ends what is out of time.
    pub(crate) fn expire(&self, now: Instant, wakers: &mut Vec<Waker>) -> Look {
        let mut inner = self.lock();
        let (mut next_deadline, mut expired) = (None, false);
        for slot in &mut inner.slots {
            if let State::Out { deadline, waker } = &mut slot.state {
                if *deadline > now {
                    next_deadline = Some(next_deadline.map_or(*deadline, |next: Instant| next.min(*deadline)));
                } else {
                    wakers.extend(waker.take());
                    slot.state = State::Late;
                    expired = true;
                }
            }
        }
        Look { out: inner.out, expired, next_deadline }
    }

    /// Where the pipe goes to sleep: `Some` unless a frame waits, with the number of replies expected.
    pub(crate) fn park(&self, waker: &Waker, may_send: bool) -> Option<usize> {
        let mut inner = self.lock();
        if (may_send && !inner.frames.is_empty()) || inner.closed {
            return None;
        }
        if !inner.pipe.as_ref().is_some_and(|pipe| pipe.will_wake(waker)) {
            inner.pipe = Some(waker.clone());
        }
        inner.hungry = may_send;
        Some(inner.out)
    }

    pub(crate) fn up(&self) {
        self.lock().up = true;
    }

    /// The channel is gone: whatever was sent ends with `sent`, what was not, with Unavailable; new requests too.
    pub(crate) fn away(&self, sent: HsmError) {
        let mut inner = self.lock();
        inner.up = false;
        let unsent = inner.frames.front().map_or(u64::MAX, |frame| frame.number);
        inner.frames.clear();
        let mut wakers = Vec::new();
        for index in 0..inner.slots.len() {
            let slot = &mut inner.slots[index];
            let error = if slot.frame < unsent { sent } else { HsmError::Unavailable };
            match &mut slot.state {
                State::Free | State::Done(_) => continue,
                State::Abandoned => {
                    inner.out -= 1;
                    inner.release(index);
                    continue;
                }
                State::Late => slot.state = State::Done(Err(HsmError::TimedOut)),
                State::Out { deadline: _, waker } => {
                    wakers.extend(waker.take());
                    slot.state = State::Done(Err(error));
                }
            }
            inner.out -= 1;
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nobody will ask any more.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let pipe = inner.pipe.take();
        drop(inner);
        if let Some(pipe) = pipe {
            pipe.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl Inner {
    fn push(&mut self, request: &Request, state: State) -> Result<u32, HsmError> {
        if !self.up {
            return Err(HsmError::Unavailable);
        }
        let index = self.vacant()?;
        let id = self.slots[index].generation << SLOT_BITS | u32::try_from(index).map_err(|_| HsmError::Busy)?;
        match self.encode(id, request) {
            Ok(frame) => {
                self.slots[index].frame = frame;
                self.slots[index].state = state;
                self.out += 1;
                Ok(id)
            }
            Err(error) => {
                self.release(index);
                Err(error)
            }
        }
    }

    /// Writes the request into the last frame, or into a new one. Gives the frame's number.
    fn encode(&mut self, id: u32, request: &Request) -> Result<u64, HsmError> {
        let prompt = !crate::is_slow(request);
        if let Some(last) = self.frames.back_mut()
            && last.writer.push_request(id, request)?
        {
            last.prompt |= prompt;
            return Ok(last.number);
        }
        if self.frames.len() >= FRAMES_MAX {
            return Err(HsmError::Busy);
        }
        let mut writer = self.spare.pop().unwrap_or_default();
        if !writer.push_request(id, request)? {
            return Err(HsmError::OutOfRange);
        }
        self.newest += 1;
        self.frames.push_back(Frame { number: self.newest, writer, prompt });
        Ok(self.newest)
    }

    fn vacant(&mut self) -> Result<usize, HsmError> {
        if let Some(index) = self.free.pop() {
            return Ok(index.into());
        }
        if self.slots.len() == SLOTS {
            return Err(HsmError::Busy);
        }
        self.slots.push(Slot { generation: 0, frame: 0, state: State::Free });
        Ok(self.slots.len() - 1)
    }

    fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.state = State::Free;
        slot.generation = (slot.generation + 1) & (u32::MAX >> SLOT_BITS);
        if let Ok(index) = u16::try_from(index) {
            self.free.push(index);
        }
    }

    fn slot(&mut self, id: u32) -> Option<(usize, &mut Slot)> {
        let index = id as usize & (SLOTS - 1);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == id >> SLOT_BITS)?;
        Some((index, slot))
    }

    /// The frame that asked, unless nobody did.
    fn complete(&mut self, id: u32, reply: Result<Reply, HsmError>, wakers: &mut Vec<Waker>) -> Option<u64> {
        let (index, slot) = self.slot(id)?;
        let frame = slot.frame;
        match &mut slot.state {
            State::Free | State::Done(_) => return None,
            State::Out { deadline: _, waker } => {
                wakers.extend(waker.take());
                slot.state = State::Done(reply);
            }
            State::Late => slot.state = State::Done(Err(HsmError::TimedOut)),
            State::Abandoned => self.release(index),
        }
        self.out -= 1;
        Some(frame)
    }
}

/// A request that is out. Dropping it takes the claim back, not the request.
#[derive(Debug)]
pub(crate) struct Answer {
    line: Arc<Line>,
    id: u32,
    taken: bool,
}

impl Answer {
    pub(crate) fn new(line: Arc<Line>, id: u32) -> Self {
        Self { line, id, taken: false }
    }
}

impl Future for Answer {
    type Output = Result<Reply, HsmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut inner = this.line.lock();
        let Some((index, slot)) = inner.slot(this.id).filter(|_| !this.taken) else {
            return Poll::Ready(Err(HsmError::Unavailable));
        };
        match &mut slot.state {
            State::Out { deadline: _, waker } => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            State::Late => {
                slot.state = State::Abandoned;
                this.taken = true;
                return Poll::Ready(Err(HsmError::TimedOut));
            }
            State::Free | State::Abandoned | State::Done(_) => {}
        }
        let state = std::mem::replace(&mut slot.state, State::Free);
        inner.release(index);
        this.taken = true;
        match state {
            State::Done(reply) => Poll::Ready(reply),
            State::Free | State::Abandoned | State::Late | State::Out { .. } => Poll::Ready(Err(HsmError::Unavailable)),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut inner = self.line.lock();
        let Some((index, slot)) = inner.slot(self.id) else { return };
        match &slot.state {
            State::Free | State::Abandoned => {}
            State::Out { .. } | State::Late => slot.state = State::Abandoned,
            State::Done(_) => inner.release(index),
        }
    }
}

const SLOT_BITS: u32 = 12;
/// Most requests that may be out at once, with those whose reply nobody waits for.
const SLOTS: usize = 1 << SLOT_BITS;
/// Most frames that may wait to be sent: 16 MiB.
const FRAMES_MAX: usize = 256;
const SPARE_MAX: usize = 4;

#[cfg(test)]
mod tests;
