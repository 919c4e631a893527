//! The event loop: one thread, all sockets.

use crate::bind::{self, Bound};
use crate::channel::{Channel, Closed, Desk, Next};
use crate::pool::{Done, Pool};
use crate::{Module, Pins, ServeError};
use hsm_channel::{FEED_BYTES_MAX, Identity, Stream, server_config};
use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ServerConfig;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Users of this machine that may connect; nobody else is spoken to.
    pub uids: Vec<u32>,
    pub channels: usize,
    /// Channels of one pin.
    pub channels_pin: usize,
    /// Channels whose handshake is not complete; the oldest gives way.
    pub handshakes: usize,
    pub handshake_time: Duration,
    pub pool_threads: usize,
    /// Requests that wait for the pool, of all channels and of one.
    pub pool_queue: usize,
    pub pool_queue_channel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uids: vec![bind::own_uid()],
            channels: 256,
            channels_pin: 128,
            handshakes: 32,
            handshake_time: Duration::from_secs(5),
            pool_threads: 2,
            pool_queue: 1024,
            pool_queue_channel: 256,
        }
    }
}

/// A bound socket, before it serves. It opens nothing more that confinement could forbid.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    poll: Poll,
    stopper: Stopper,
    config: Arc<ServerConfig>,
    pins: Arc<Pins>,
    limits: Limits,
}

/// Ends a listener from another thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Stopper {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the listener could not be woken");
        }
    }
}

impl Listener {
    pub fn bind(socket: &Path, identity: &Identity, pins: Pins, limits: Limits) -> Result<Self, ServeError> {
        if pins.is_empty() {
            return Err(ServeError::NobodyKnown);
        }
        let pins = Arc::new(pins);
        let config = server_config(identity, Arc::clone(&pins) as _)?;
        let bound = Bound::new(socket, &limits.uids)?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let stopper = Stopper { stop: Arc::default(), waker };
        Ok(Self { bound, poll, stopper, config, pins, limits })
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until it is stopped. `ready` is called when the first peer could connect.
    pub fn serve(self, module: Arc<dyn Module>, ready: impl FnOnce()) -> Result<(), ServeError> {
        let Self { bound, poll, stopper, config, pins, limits } = self;
        let waker = Arc::clone(&stopper.waker);
        let pool =
            Pool::start(limits.pool_threads, limits.pool_queue, (Arc::clone(&module), Arc::clone(&pins), waker))?;
        poll.registry().register(&mut SourceFd(&bound.listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        let listener = UnixListener::from_std(bound.listener.try_clone()?);
        let desk = Desk { module, pins, pool, limits };
        let mut room = Room { poll, listener, config, desk, channels: HashMap::new(), line: VecDeque::new(), last: 1 };
        ready();
        let outcome = room.run(&stopper.stop);
        drop(bound);
        outcome
    }
}

/// The channels and whose turn it is.
struct Room {
    poll: Poll,
    listener: UnixListener,
    config: Arc<ServerConfig>,
    desk: Desk,
    channels: HashMap<Token, Channel>,
    /// Channels that have something to do, in turn.
    line: VecDeque<Token>,
    /// The newest token. None is used twice, so that no reply goes to another channel.
    last: usize,
}

impl Room {
    fn run(&mut self, stop: &AtomicBool) -> Result<(), ServeError> {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; FEED_BYTES_MAX];
        let mut done = Vec::new();
        let mut accepting = true;
        while !stop.load(Ordering::Acquire) {
            let wait = if self.line.is_empty() { self.wait(accepting) } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => accepting = true,
                    WAKER => self.deliver(&mut done),
                    token => {
                        if let Some(channel) = self.channels.get_mut(&token) {
                            channel.event(event);
                        }
                        self.stand_in_line(token);
                    }
                }
            }
            if accepting {
                accepting = self.accept();
            }
            for _ in 0..self.line.len() {
                self.turn(&mut buffer);
            }
            self.close_late();
        }
        Ok(())
    }

    /// Until the next deadline; shortly, where a connection could not be accepted for want of descriptors.
    fn wait(&self, accepting: bool) -> Option<Duration> {
        let next = self.channels.values().filter_map(|channel| channel.deadline).min();
        let next = next.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        if accepting { Some(next.unwrap_or(ACCEPT_AGAIN).min(ACCEPT_AGAIN)) } else { next }
    }

    fn turn(&mut self, buffer: &mut [u8]) {
        let Some(token) = self.line.pop_front() else { return };
        let Some(channel) = self.channels.get_mut(&token) else { return };
        channel.in_line = false;
        let established = channel.is_established();
        let outcome = channel.turn(&self.desk, buffer);
        let opened = !established && channel.is_established();
        match outcome {
            Ok(_) if opened && !self.has_room_for(token) => self.close(token, "too many channels"),
            Ok(Next::Again) => self.stand_in_line(token),
            Ok(Next::Wait) => {}
            Err(closed) => self.closed(token, &closed),
        }
    }

    fn stand_in_line(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(&token)
            && !std::mem::replace(&mut channel.in_line, true)
        {
            self.line.push_back(token);
        }
    }

    /// Hands the pool's outcomes to the channels that asked; those that are gone get nothing.
    fn deliver(&mut self, done: &mut Vec<Done>) {
        self.desk.pool.collect(done);
        for Done { channel: token, id, reply } in done.drain(..) {
            let Some(channel) = self.channels.get_mut(&token) else { continue };
            match channel.done(id, &reply) {
                Ok(()) => self.stand_in_line(token),
                Err(closed) => self.closed(token, &closed),
            }
        }
    }

    /// Takes all who wait; `true` where some are left for want of descriptors.
    fn accept(&mut self) -> bool {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    return true;
                }
            };
            if let Err(error) = self.admit(socket) {
                tracing::warn!(%error, "a connection was dropped");
            }
        }
    }

    fn admit(&mut self, mut socket: UnixStream) -> Result<(), ServeError> {
        let (uid, pid) = bind::peer(&socket)?;
        if !self.desk.limits.uids.contains(&uid) {
            tracing::warn!(uid, pid, "a user that may not connect");
            return Ok(());
        }
        let waiting = || self.channels.iter().filter(|(_, channel)| !channel.is_established());
        if waiting().count() >= self.desk.limits.handshakes {
            let oldest = waiting().min_by_key(|(_, channel)| channel.deadline).map(|(token, _)| *token);
            if let Some(oldest) = oldest {
                self.close(oldest, "too many handshakes at once");
            }
        }
        let stream = Stream::server(Arc::clone(&self.config))?;
        self.last += 1;
        let token = Token(self.last);
        self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let deadline = Instant::now() + self.desk.limits.handshake_time;
        self.channels.insert(token, Channel::new(socket, stream, token, pid, deadline));
        self.stand_in_line(token);
        Ok(())
    }

    /// Counting the one that has just been established.
    fn has_room_for(&self, token: Token) -> bool {
        let Some(pin) = self.channels.get(&token).and_then(Channel::peer) else { return true };
        let established = self.channels.values().filter_map(Channel::peer);
        let (all, same) =
            established.fold((0, 0), |(all, same), peer| (all + 1, same + usize::from(peer.matches(pin))));
        all <= self.desk.limits.channels && same <= self.desk.limits.channels_pin
    }

    fn close_late(&mut self) {
        if self.channels.values().all(|channel| channel.deadline.is_none()) {
            return;
        }
        let now = Instant::now();
        let late = |channel: &Channel| channel.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<_> = self.channels.iter().filter(|(_, channel)| late(channel)).map(|(token, _)| *token).collect();
        for token in late {
            self.close(token, "its time ran out");
        }
    }

    fn closed(&mut self, token: Token, closed: &Closed) {
        match closed {
            Closed::ByPeer => tracing::debug!("channel closed"),
            Closed::Protocol(_) | Closed::Channel(_) | Closed::Unknown | Closed::Io(_) => {
                tracing::warn!(why = %closed, "channel closed");
            }
        }
        self.remove(token);
    }

    fn close(&mut self, token: Token, why: &'static str) {
        tracing::warn!(why, "channel closed");
        self.remove(token);
    }

    fn remove(&mut self, token: Token) {
        if let Some(mut channel) = self.channels.remove(&token) {
            let _closing_the_descriptor_does_the_same = self.poll.registry().deregister(&mut channel.socket);
            self.desk.pool.forget(token);
        }
    }
}

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
