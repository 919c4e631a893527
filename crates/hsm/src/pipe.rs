//! The task between the line and the socket.
//!
//! Always: the queue is drained at once into a frame; at most [`IN_FLIGHT_MAX`] frames wait for their first reply.
//! Never: a timer for each request: deadlines are looked at on one tick.

use crate::Options;
use crate::connection::{Connection, Lost};
use crate::line::{Line, Look};
use hsm_api::HsmError;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::Sleep;

/// Connects for ever, with growing pauses. Ends when nobody can ask any more.
pub(crate) async fn run(line: Arc<Line>, options: Options, config: Arc<ClientConfig>, up: watch::Sender<bool>) {
    let line = EndsWithUs(line);
    let mut pause = Pause::default();
    let mut told = false;
    while !line.0.is_closed() {
        let handshake_time = options.timeout.min(HANDSHAKE_TIME_MAX);
        let opened = tokio::time::timeout(handshake_time, open(&options, &config)).await;
        match opened.unwrap_or(Err(Lost::Silent)) {
            Ok(connection) => {
                let began = Instant::now();
                line.0.up();
                up.send_replace(true);
                told = false;
                let lost = Pipe::new(&line.0, connection, options.timeout).serve().await;
                up.send_replace(false);
                let Some(lost) = lost else { return };
                tracing::warn!(why = %lost, "the boundary is away");
                line.0.away(match lost {
                    Lost::Silent => HsmError::TimedOut,
                    // it may have been carried out: nobody knows
                    Lost::Closed | Lost::Channel(_) | Lost::Io(_) | Lost::Garbage => HsmError::Restarted,
                });
                // one that fails right after each start is not hurried
                if began.elapsed() > LIVED {
                    pause = Pause::default();
                }
            }
            Err(lost) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(why = %lost, "the boundary cannot be reached");
            }
            Err(lost) => tracing::debug!(why = %lost, "the boundary cannot be reached"),
        }
        tokio::time::sleep(pause.next()).await;
    }
}

async fn open(options: &Options, config: &Arc<ClientConfig>) -> Result<Connection, Lost> {
    let mut connection = Connection::open(&options.socket, config).await?;
    let status = connection.status().await?;
    tracing::info!(module = status.module, state = ?status.state, boot_epoch = status.boot_epoch, "the boundary answers");
    Ok(connection)
}

/// Whoever waits when the runtime ends shall not wait for ever.
struct EndsWithUs(Arc<Line>);

impl Drop for EndsWithUs {
    fn drop(&mut self) {
        self.0.away(HsmError::Unavailable);
    }
}

/// One connection's service.
struct Pipe<'a> {
    line: &'a Line,
    connection: Connection,
    /// Frames that were sent and had no reply yet.
    in_flight: VecDeque<u64>,
    wakers: Vec<Waker>,
    timeout: Duration,
    tick: Pin<Box<Sleep>>,
    ticking: bool,
    /// The last sign of life, or when one was first expected.
    heard: Instant,
    probed: bool,
}

impl<'a> Pipe<'a> {
    fn new(line: &'a Line, connection: Connection, timeout: Duration) -> Self {
        Self {
            line,
            connection,
            in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
            wakers: Vec::new(),
            timeout,
            tick: Box::pin(tokio::time::sleep(Duration::ZERO)),
            ticking: false,
            heard: Instant::now(),
            probed: false,
        }
    }

    /// `None`: nobody can ask any more.
    async fn serve(mut self) -> Option<Lost> {
        poll_fn(|cx| match self.poll(cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(None),
            Err(lost) => Poll::Ready(Some(lost)),
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Lost> {
        loop {
            self.read(cx)?;
            self.write(cx)?;
            self.watch(cx)?;
            let may_send = self.may_send();
            match self.line.park(cx.waker(), may_send) {
                Some(out) if out > 0 && !self.ticking => {
                    self.heard = Instant::now();
                    self.probed = false;
                    self.arm(self.heard + self.timeout / 4);
                }
                Some(_) => return Ok(Poll::Pending),
                None if self.line.is_closed() => return Ok(Poll::Ready(())),
                None => {}
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        while let Poll::Ready(outcome) = self.connection.poll_read(cx) {
            outcome?;
            self.heard = Instant::now();
            self.probed = false;
            while let Some(newest) = {
                let (line, wakers) = (self.line, &mut self.wakers);
                self.connection.take_frame(|body| line.complete(body, wakers))?
            } {
                // replies before the broken one stand
                self.wakers.drain(..).for_each(Waker::wake);
                if let Some(newest) = newest? {
                    self.in_flight.retain(|number| *number > newest);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        let _flushed = self.connection.poll_flush(cx)?;
        while self.may_send()
            && let Some(mut frame) = self.line.take_frame()
        {
            self.connection.send(frame.writer.finish())?;
            self.line.give_back(frame.writer);
            if frame.prompt {
                self.in_flight.push_back(frame.number);
            }
            let _flushed = self.connection.poll_flush(cx)?;
        }
        Ok(())
    }

    fn may_send(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX && !self.connection.wants_write()
    }

    /// Looks at deadlines and at the boundary's silence, when it is time to.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        while self.ticking && self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let Look { out, expired, next_deadline } = self.line.expire(now, &mut self.wakers);
            self.wakers.drain(..).for_each(Waker::wake);
            let silence = now.saturating_duration_since(self.heard);
            if out == 0 {
                self.ticking = false;
                break;
            }
            // a request's time ends a moment before the silence since it was sent has lasted as long
            let unanswered = expired && self.probed && silence >= self.timeout * 3 / 4;
            if unanswered || silence >= self.timeout {
                return Err(Lost::Silent);
            }
            if silence >= self.timeout / 2 && !std::mem::replace(&mut self.probed, true) {
                self.line.probe();
                self.write(cx)?;
            }
            let next = (now + self.timeout / 4).min(self.heard + self.timeout);
            self.arm(next_deadline.map_or(next, |deadline| next.min(deadline)));
        }
        Ok(())
    }

    fn arm(&mut self, at: Instant) {
        self.tick.as_mut().reset(at.into());
        self.ticking = true;
    }
}

/// Growing pauses, each between half and all of its length, so that many clients do not come at once.
#[derive(Debug, Default)]
struct Pause(Duration);

impl Pause {
    fn next(&mut self) -> Duration {
        self.0 = if self.0.is_zero() { PAUSE_MIN } else { (self.0 * 2).min(PAUSE_MAX) };
        let mut byte = [0xff];
        let _full_length_then = aws_lc_rs::rand::fill(&mut byte);
        self.0 / 2 + self.0 / 2 * u32::from(byte[0]) / 255
    }
}

const IN_FLIGHT_MAX: usize = 2;
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const LIVED: Duration = Duration::from_secs(1);
