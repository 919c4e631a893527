//! The one task that owns the channel: drains the queue into frames, writes, reads, answers.
//!
//! Always: whatever is queued when the task runs shares its frames; the task never waits for a socket to take a frame
//! before it reads the next reply.

use crate::outstanding::Outstanding;
use crate::queue::{Item, Queue, Road};
use aws_lc_rs::rand;
use hsm_api::frame::{FRAME_BYTES_MAX, FrameWriter, decode_replies};
use hsm_api::{HsmError, Request};
use hsm_channel::{ChannelError, FEED_BYTES_MAX, Stream};
use rustls::ClientConfig;
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use zeroize::Zeroizing;

/// Why a channel was not made, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the socket: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the boundary sent what the protocol does not allow")]
    Garbage,
    #[error("the boundary closed the channel")]
    Closed,
    #[error("the handshake took too long")]
    TooLong,
    #[error("nobody asks any more")]
    NotNeeded,
}

/// Connects, serves, and begins again, until nobody can ask any more.
pub(crate) async fn keep(socket: PathBuf, config: Arc<ClientConfig>, queue: Arc<Queue>) {
    let mut pause = PAUSE_MIN;
    loop {
        let connected = tokio::select! {
            connected = connect(&socket, &config, &queue) => connected,
            () = queue.closed() => return,
        };
        match connected {
            Ok(pipe) => {
                pause = PAUSE_MIN;
                if matches!(run(pipe).await, Ended::NotNeeded) {
                    return;
                }
            }
            Err(why) => tracing::debug!(%why, "the boundary was not reached"),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = queue.closed() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Connects and shakes hands; from then on requests are accepted.
pub(crate) async fn connect(socket: &Path, config: &Arc<ClientConfig>, queue: &Arc<Queue>) -> Result<Pipe, Ended> {
    let shaken = async {
        let socket = UnixStream::connect(socket).await?;
        let stream = Stream::client(Arc::clone(config))?;
        let mut pipe = Pipe::new(socket, stream, Arc::clone(queue));
        poll_fn(|context| pipe.poll_handshake(context)).await?;
        Ok(pipe)
    };
    let pipe = tokio::time::timeout(HANDSHAKE, shaken).await.unwrap_or(Err(Ended::TooLong))?;
    queue.set_road(Road::Open);
    Ok(pipe)
}

/// Serves until the channel ends; then everybody has an answer.
pub(crate) async fn run(mut pipe: Pipe) -> Ended {
    let why = poll_fn(|context| pipe.poll(context)).await;
    pipe.queue.refuse_all();
    pipe.out.fail_all();
    if !matches!(why, Ended::NotNeeded) {
        tracing::warn!(%why, "the boundary's channel ended");
    }
    why
}

pub(crate) struct Pipe {
    socket: UnixStream,
    stream: Stream,
    queue: Arc<Queue>,
    out: Outstanding,
    /// Taken from the queue and not in a frame yet, the next one last.
    taken: Vec<Item>,
    frame: FrameWriter,
    buffer: Zeroizing<Vec<u8>>,
    sweep: Option<Pin<Box<Sleep>>>,
    /// Since when nothing was answered while somebody waited too long; asked again at each sweep.
    stalled: bool,
}

impl Pipe {
    fn new(socket: UnixStream, stream: Stream, queue: Arc<Queue>) -> Self {
        Self {
            socket,
            stream,
            queue,
            out: Outstanding::default(),
            taken: Vec::new(),
            frame: FrameWriter::default(),
            buffer: Zeroizing::new(vec![0; FEED_BYTES_MAX]),
            sweep: None,
            stalled: false,
        }
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            if let Poll::Ready(Err(why)) = self.poll_write(context) {
                return Poll::Ready(Err(why));
            }
            if self.stream.peer().is_some() && !self.stream.wants_write() {
                return Poll::Ready(Ok(()));
            }
            if self.stream.peer().is_none() {
                ready!(self.poll_read(context))?;
            } else {
                ready!(self.poll_write(context))?;
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        self.queue.register(context);
        loop {
            self.fill();
            if let Poll::Ready(Err(why)) = self.poll_write(context) {
                return Poll::Ready(why);
            }
            match self.poll_read(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Pending => break,
            }
        }
        if self.queue.is_closed() && self.out.is_empty() {
            return Poll::Ready(Ended::NotNeeded);
        }
        self.poll_sweep(context);
        Poll::Pending
    }

    /// Everything that waits goes into frames, as long as the socket keeps up.
    fn fill(&mut self) {
        while self.stream.unsent() < FRAME_BYTES_MAX && self.out.has_room() {
            if self.taken.is_empty() {
                self.queue.take(&mut self.taken);
                self.taken.reverse();
            }
            if self.taken.is_empty() {
                return;
            }
            self.fill_frame();
        }
    }

    fn fill_frame(&mut self) {
        while let Some(item) = self.taken.pop() {
            // whoever waited has gone
            if item.answer.is_closed() {
                continue;
            }
            match self.frame.push_request(self.out.next_id(), &item.request) {
                Ok(true) => self.out.push(item.answer, item.deadline),
                Ok(false) => {
                    self.taken.push(item);
                    break;
                }
                Err(error) => drop(item.answer.send(Err(error))),
            }
            if !self.out.has_room() {
                break;
            }
        }
        if !self.frame.is_empty() {
            // into memory: the socket's errors show when it is written
            if let Err(error) = self.stream.send(self.frame.finish()) {
                tracing::error!(%error, "a frame was not sent");
            }
            self.frame.clear();
        }
    }

    /// Ready when nothing is left to write.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        while self.stream.wants_write() {
            ready!(self.socket.poll_write_ready(context))?;
            match self.stream.write_tls(&mut TryWrite(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when something came.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            match self.socket.try_read(&mut self.buffer) {
                Ok(0) => return Poll::Ready(Err(Ended::Closed)),
                Ok(count) => {
                    self.stream.feed(&self.buffer[..count])?;
                    return Poll::Ready(self.answer());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn answer(&mut self) -> Result<(), Ended> {
        let out = &mut self.out;
        let mut came = false;
        let garbage = |_: HsmError| Ended::Garbage;
        while let Some(frame) =
            self.stream.take_frame(|body| decode_replies(body, |id, reply| out.complete(id, reply))).map_err(garbage)?
        {
            frame.map_err(garbage)?;
            came = true;
        }
        if came && self.stalled {
            self.stalled = false;
            self.queue.set_road(Road::Open);
        }
        Ok(())
    }

    /// Looks for those who waited too long, as long as somebody waits. Not on each request: a timer a request costs
    /// more than the request.
    fn poll_sweep(&mut self, context: &mut Context<'_>) {
        loop {
            if self.out.is_empty() && !self.stalled {
                self.sweep = None;
                return;
            }
            let sweep = self.sweep.get_or_insert_with(|| Box::pin(tokio::time::sleep(SWEEP)));
            if sweep.as_mut().poll(context).is_pending() {
                return;
            }
            let now = Instant::now();
            sweep.as_mut().reset(now + SWEEP);
            if self.out.sweep(now) > 0 {
                self.stalled = true;
                self.queue.set_road(Road::Stalled);
            }
            if self.stalled && self.out.is_empty() {
                self.ask_for_life(now);
            }
        }
    }

    /// One status request at a time: its answer opens the road again.
    fn ask_for_life(&mut self, now: Instant) {
        let (answer, _nobody) = oneshot::channel();
        let pushed = self.frame.push_request(self.out.next_id(), &Request::Status);
        if matches!(pushed, Ok(true)) {
            self.out.push(answer, now + LIFE);
            if let Err(error) = self.stream.send(self.frame.finish()) {
                tracing::error!(%error, "a frame was not sent");
            }
        }
        self.frame.clear();
        let mut socket = TryWrite(&self.socket);
        // what the socket does not take now is written when it is ready
        let _later = self.stream.write_tls(&mut socket);
    }
}

/// The socket as `write(2)`.
struct TryWrite<'a>(&'a UnixStream);

impl Write for TryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    match rand::fill(&mut byte) {
        Ok(()) => pause / 2 + pause / 512 * u32::from(byte[0]),
        Err(_) => pause,
    }
}

const HANDSHAKE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const SWEEP: Duration = Duration::from_millis(100);
const LIFE: Duration = Duration::from_secs(1);
