//! One peer's channel: its socket, its stream, and what waits in between.
//!
//! Always: a channel whose replies pile up is neither read nor served until they have left.
//! Never: more than one frame of requests decoded at a time.

use crate::pool::{Job, Pool};
use crate::{Lane, Limits, Module, Pins, guard};
use hsm_api::frame::{FrameWriter, ITEM_BODY_BYTES_MAX, IncomingRequest, decode_requests};
use hsm_api::{HsmError, Reply, Request, Role};
use hsm_channel::{ChannelError, Roles, Stream};
use mio::Token;
use mio::net::UnixStream;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a channel needs from the listener.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) module: Arc<dyn Module>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) socket: UnixStream,
    stream: Stream,
    token: Token,
    pid: i32,
    /// Requests of one frame that were not looked at yet.
    pending: VecDeque<IncomingRequest>,
    replies: FrameWriter,
    pooled: usize,
    /// When the channel is closed, unless its handshake, or what it has to read, is done before.
    pub(crate) deadline: Option<Instant>,
    readable: bool,
    read_closed: bool,
    writable: bool,
    /// It stands in the listener's line.
    pub(crate) in_line: bool,
}

/// Why a channel is at its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("the peer closed it")]
    ByPeer,
    #[error("the peer's bytes are not of the protocol")]
    Protocol(#[from] HsmError),
    #[error("{0}: {source}", source = source(.0))]
    Channel(#[from] ChannelError),
    #[error("the peer's key is not known any more")]
    Unknown,
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Whether a channel has more to do than its turn allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    Wait,
}

impl Channel {
    pub(crate) fn new(socket: UnixStream, stream: Stream, token: Token, pid: i32, deadline: Instant) -> Self {
        Self {
            socket,
            stream,
            token,
            pid,
            pending: VecDeque::new(),
            replies: FrameWriter::default(),
            pooled: 0,
            deadline: Some(deadline),
            readable: true,
            read_closed: false,
            writable: true,
            in_line: false,
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        self.stream.peer().is_some()
    }

    pub(crate) fn peer(&self) -> Option<&hsm_channel::Pin> {
        self.stream.peer()
    }

    pub(crate) fn event(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.read_closed |= event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable();
    }

    /// A pool's reply.
    pub(crate) fn done(&mut self, id: u32, reply: &Result<Reply, HsmError>) -> Result<(), Closed> {
        self.pooled -= 1;
        self.reply(id, reply)
    }

    /// Writes what waits, then takes at most one frame of requests.
    pub(crate) fn turn(&mut self, desk: &Desk, buffer: &mut [u8]) -> Result<Next, Closed> {
        self.flush()?;
        if !self.is_blocked() {
            if self.pending.is_empty() && !self.next_frame()? && self.readable {
                let established = self.is_established();
                self.read(desk, buffer)?;
                if !established {
                    // the listener looks first whether there is room for one more
                    self.flush()?;
                    return Ok(Next::Again);
                }
                self.next_frame()?;
            }
            if !self.pending.is_empty() {
                self.serve(desk)?;
            }
            self.flush()?;
        }
        self.watch_blocked();
        let more = self.readable || !self.pending.is_empty();
        Ok(if more && !self.is_blocked() { Next::Again } else { Next::Wait })
    }

    fn next_frame(&mut self) -> Result<bool, Closed> {
        let Some(requests) = self.stream.take_frame(decode_requests)? else { return Ok(false) };
        self.pending.extend(requests?);
        Ok(true)
    }

    fn read(&mut self, desk: &Desk, buffer: &mut [u8]) -> Result<(), Closed> {
        let read = match self.socket.read(buffer) {
            Ok(0) => return Err(Closed::ByPeer),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // epoll(7): a stream that gave less than was asked for is empty; its end comes as an event of its own
        if read < buffer.len() && !self.read_closed {
            self.readable = false;
        }
        let established = self.is_established();
        let fed = self.stream.feed(&buffer[..read]);
        if let Err(error) = fed {
            let _alert = self.flush();
            return Err(error.into());
        }
        if !established && let Some(pin) = self.stream.peer() {
            let role = desk.pins.role(pin);
            tracing::info!(%pin, ?role, pid = self.pid, "channel opened");
            self.deadline = None;
        }
        Ok(())
    }

    fn serve(&mut self, desk: &Desk) -> Result<(), Closed> {
        // looked up anew for each frame: an enrolment may have changed it
        let role = self.stream.peer().and_then(|pin| desk.pins.role(pin)).ok_or(Closed::Unknown)?;
        while let Some(IncomingRequest { id, request }) = self.pending.pop_front() {
            match request.and_then(|request| self.carry_out(desk, id, role, request)) {
                Ok(None) => {}
                Ok(Some(reply)) => self.reply(id, &Ok(reply))?,
                Err(error) => self.reply(id, &Err(error))?,
            }
            if self.is_blocked() {
                break;
            }
        }
        Ok(())
    }

    /// `None`: the pool will answer.
    fn carry_out(&mut self, desk: &Desk, id: u32, role: Role, request: Request) -> Result<Option<Reply>, HsmError> {
        guard(request.service(), role, desk.module.state())?;
        if request.reply_bytes_max() > ITEM_BODY_BYTES_MAX {
            return Err(HsmError::OutOfRange);
        }
        // the listener's own service writes a file
        let own = matches!(request, Request::Enrol { .. });
        let lane = if own { Lane::Pool } else { desk.module.lane(&request) };
        match lane {
            Lane::Inline => desk.module.serve(role, request).map(Some),
            Lane::Pool if self.pooled >= desk.limits.pool_queue_channel => Err(HsmError::Busy),
            Lane::Pool => {
                desk.pool.submit(self.token, Job { id, role, request })?;
                self.pooled += 1;
                Ok(None)
            }
        }
    }

    fn reply(&mut self, id: u32, reply: &Result<Reply, HsmError>) -> Result<(), Closed> {
        if !self.replies.push_reply(id, reply) {
            self.seal_frame()?;
            self.replies.push_reply(id, reply);
        }
        Ok(())
    }

    fn seal_frame(&mut self) -> Result<(), Closed> {
        self.stream.send(self.replies.finish())?;
        self.replies.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Closed> {
        if !self.replies.is_empty() {
            self.seal_frame()?;
        }
        while self.writable && self.stream.wants_write() {
            match self.stream.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn is_blocked(&self) -> bool {
        self.stream.unsent() > UNSENT_BYTES_MAX
    }

    /// A peer that does not read for too long is let go.
    fn watch_blocked(&mut self) {
        if self.is_established() {
            self.deadline = match (self.is_blocked(), self.deadline) {
                (true, None) => Some(Instant::now() + READS_NOTHING),
                (true, some) => some,
                (false, _) => None,
            };
        }
    }
}

fn source(error: &ChannelError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// Replies that a peer may leave unread. What its pool jobs add is bounded by their number.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
const READS_NOTHING: Duration = Duration::from_secs(30);
