//! One connection: a Unix socket and the stream on it.

use hsm_api::frame::{FrameWriter, decode_replies};
use hsm_api::{HsmError, ModuleStatus, Reply, Request};
use hsm_channel::{ChannelError, FEED_BYTES_MAX, Stream};
use rustls::ClientConfig;
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    stream: Stream,
    /// Encrypted bytes only.
    buffer: Box<[u8]>,
    /// The last id of [`Self::ask`]. They fall from the top, so that a reply that comes twice is nobody else's.
    last: u32,
}

/// Why a connection is no more, or never was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the boundary closed it")]
    Closed,
    #[error("{0}: {source}", source = source(.0))]
    Channel(#[from] ChannelError),
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    #[error("what came is not of the protocol")]
    Garbage,
    #[error("the boundary does not answer")]
    Silent,
}

impl Lost {
    /// What a caller is told who never had a connection.
    pub(crate) fn refusal(&self) -> HsmError {
        match self {
            Self::Closed | Self::Io(_) => HsmError::Unavailable,
            Self::Channel(_) | Self::Garbage => HsmError::Protocol,
            Self::Silent => HsmError::TimedOut,
        }
    }
}

impl From<HsmError> for Lost {
    fn from(_: HsmError) -> Self {
        Self::Garbage
    }
}

impl Connection {
    /// Connects and shakes hands. The boundary's refusal of our key comes later, with the first read.
    pub(crate) async fn open(socket: &Path, config: &Arc<ClientConfig>) -> Result<Self, Lost> {
        let socket = UnixStream::connect(socket).await?;
        let stream = Stream::client(Arc::clone(config))?;
        let buffer = vec![0; FEED_BYTES_MAX].into_boxed_slice();
        let mut connection = Self { socket, stream, buffer, last: 0 };
        poll_fn(|cx| {
            loop {
                let _flushed = connection.poll_flush(cx)?;
                if connection.stream.peer().is_some() {
                    return Poll::Ready(Ok(connection.poll_flush(cx)?));
                }
                ready!(connection.poll_read(cx))?;
            }
        })
        .await
        .map(|_: Poll<()>| connection)
    }

    /// Asks for the status: the first thing on each connection, for it works for whomever the boundary knows.
    pub(crate) async fn status(&mut self) -> Result<ModuleStatus, Lost> {
        match self.ask(&Request::Status).await? {
            Ok(Reply::Status(status)) => Ok(*status),
            Ok(_) | Err(_) => Err(Lost::Garbage),
        }
    }

    /// One request and its reply; other replies are dropped.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Result<Reply, HsmError>, Lost> {
        self.last = self.last.wrapping_sub(1);
        let id = self.last;
        let mut frame = FrameWriter::default();
        if let Err(error) = frame.push_request(id, request) {
            return Ok(Err(error));
        }
        self.send(frame.finish())?;
        let mut reply = None;
        poll_fn(|cx| {
            loop {
                let _flushed = self.poll_flush(cx)?;
                while let Some(decoded) = self.stream.take_frame(|body| {
                    decode_replies(body, |to, came| {
                        if to == id && reply.is_none() {
                            reply = Some(came);
                        }
                    })
                })? {
                    decoded?;
                }
                if let Some(reply) = reply.take() {
                    return Poll::Ready(Ok(reply));
                }
                ready!(self.poll_read(cx))?;
            }
        })
        .await
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), Lost> {
        Ok(self.stream.send(frame)?)
    }

    /// Hands the next frame's body to `each`, as [`Stream::take_frame`].
    pub(crate) fn take_frame<T>(&mut self, each: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Lost> {
        Ok(self.stream.take_frame(each)?)
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.stream.wants_write()
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Lost> {
        while self.stream.wants_write() {
            match self.stream.write_tls(&mut Writes { socket: &mut self.socket, cx }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Poll::Pending),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Poll::Ready(()))
    }

    /// One read, decrypted.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Err(Lost::Closed));
        }
        Poll::Ready(self.stream.feed(read).map_err(Lost::from))
    }
}

/// The socket as `std::io::Write`, for one poll.
struct Writes<'a, 'b> {
    socket: &'a mut UnixStream,
    cx: &'a mut Context<'b>,
}

impl Write for Writes<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
    match poll {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn source(error: &ChannelError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
