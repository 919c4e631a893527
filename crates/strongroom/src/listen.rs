//! The front door: accepts on one thread, hands connections to the cores in turn, bounds everything on the way in.
//!
//! Always: a handshake, the first bytes after it, a header block, a stream count, the number of connections and the life of
//! each have limits.
//! Always: a client certificate counts until its time is over, not as long as its connection.
//! Never: a decision about a request.

mod life;

use crate::clock::SystemClock;
use crate::config::Limits;
use crate::tls::{Accepts, Certificate};
use anyhow::{Context as _, Result};
use envelope::Clock;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use life::{Caller, Requests, Tracked};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tower::Service;

/// A core, and what answers there.
pub type Room<F> = (Handle, F);

/// What answers requests: a tower service that is always ready.
pub trait Front:
    Service<Request<Body>, Response = Response<Self::Reply>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    type Reply: HttpBody<Data = bytes::Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send> + Send + Unpin + 'static;
}

impl<F, B> Front for F
where
    F: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: HttpBody<Data = bytes::Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send> + Send + Unpin + 'static,
{
    type Reply = B;
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    tls: Option<Arc<Certificate>>,
    limits: Limits,
    /// What has begun when a connection's life is over may take so long.
    grace: Duration,
    clock: Arc<dyn Clock>,
    open: Arc<AtomicUsize>,
    drain: watch::Receiver<bool>,
}

/// A listener that accepts until it is told to drain.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    stopping: Arc<AtomicBool>,
    drain: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
}

impl Listener {
    /// Binds and starts to accept.
    pub fn start(
        bind: SocketAddr,
        tls: Option<Arc<Certificate>>,
        limits: &Limits,
        rooms: Vec<Room<impl Front>>,
    ) -> Result<Self> {
        Self::start_with(bind, tls, (limits, GRACE, Arc::new(SystemClock)), rooms)
    }

    fn start_with(
        bind: SocketAddr,
        tls: Option<Arc<Certificate>>,
        (limits, grace, clock): (&Limits, Duration, Arc<dyn Clock>),
        rooms: Vec<Room<impl Front>>,
    ) -> Result<Self> {
        let socket = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
        let local = socket.local_addr()?;
        let (drain, draining) = watch::channel(false);
        let (stopping, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let limits = limits.clone();
        let door = Door { tls, limits, grace, clock, open: Arc::clone(&open), drain: draining };
        let stop = Arc::clone(&stopping);
        std::thread::Builder::new().name("accept".into()).spawn(move || accept(&socket, &door, &rooms, &stop))?;
        Ok(Self { local, stopping, drain, open })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts no more, lets open connections end what they have begun, waits for them up to `within`.
    pub async fn drain(&self, within: Duration) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.drain.send(true);
        // a connection of our own wakes the accepting thread
        drop(TcpStream::connect_timeout(&self.local, Duration::from_millis(200)));
        let ended = async {
            while self.open.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("connections were still open at the end of the drain and are cut");
        }
    }
}

fn accept(socket: &TcpListener, door: &Door, rooms: &[Room<impl Front>], stopping: &AtomicBool) {
    for (core, front) in rooms.iter().cycle() {
        let stream = match socket.accept() {
            _ if stopping.load(Ordering::Acquire) => return,
            Ok((stream, peer)) => (stream, peer),
            Err(error) => {
                // out of descriptors: nobody gets in until one is free, and the loop does not spin
                tracing::warn!(%error, "a connection was not accepted");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let limit = usize::try_from(door.limits.connections).unwrap_or(usize::MAX);
        let place = Place::take(&door.open);
        if place.others >= limit {
            continue;
        }
        let (door, front) = (door.clone(), front.clone());
        core.spawn(async move {
            let _place = place;
            if let Err(error) = connection(door, front, stream.0, stream.1).await {
                tracing::debug!(%error, peer = %stream.1, "a connection ended");
            }
        });
    }
}

/// A connection's place among those that are open; given back however it ends, by a panic too.
struct Place {
    open: Arc<AtomicUsize>,
    others: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { open: Arc::clone(open), others: open.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn connection(door: Door, front: impl Front, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    match door.tls.clone() {
        None => serve(door, front, stream, (peer, Caller::nobody(peer.to_string()))).await,
        Some(certificate) => {
            let Accepts { config, vouches } = Accepts::clone(&certificate.accepts());
            let (acceptor, within) = (TlsAcceptor::from(config), Duration::from_secs(door.limits.handshake_secs));
            let stream =
                tokio::time::timeout(within, acceptor.accept(stream)).await.context("handshake took too long")??;
            let caller = match stream.get_ref().1.peer_certificates() {
                Some(chain) => {
                    let now = door.clock.now();
                    Caller::certified(peer.to_string(), chain, vouches.standing(chain, now), now)
                }
                None => Caller::nobody(peer.to_string()),
            };
            serve(door, front, stream, (peer, caller)).await
        }
    }
}

async fn serve(
    door: Door,
    front: impl Front,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    (addr, caller): (SocketAddr, Caller),
) -> Result<()> {
    let requests = Arc::new(Requests::default());
    let begun = Arc::clone(&requests);
    let over = life_over(door.clone(), addr, caller.clone(), Arc::clone(&requests));
    let clock = Arc::clone(&door.clock);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(caller.now(&*clock)));
        let open = requests.begin();
        let reply = front.clone().call(request.map(Body::new));
        async move { reply.await.map(|reply| reply.map(|body| Tracked::new(body, open))) }
    });
    let (stream, spoken) = Speaking::watch(stream);
    let spoken = tokio::time::timeout(Duration::from_secs(door.limits.handshake_secs), spoken);
    let builder = protocols(&door.limits);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection, spoken, over);
    let mut awaited = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(anyhow::Error::from_boxed),
            () = over.as_mut() => break,
            spoken = spoken.as_mut(), if awaited => {
                if spoken.is_err() && !begun.any() {
                    anyhow::bail!("the peer does not say which protocol it speaks");
                }
                awaited = false;
            }
        }
    }
    // RFC 9113 §6.8: GOAWAY, and what has begun goes on
    connection.as_mut().graceful_shutdown();
    let ended = tokio::time::timeout(door.grace, connection).await;
    ended.context("what had begun took too long, and is cut")?.map_err(anyhow::Error::from_boxed)
}

fn protocols(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ).max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(Some(64))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// Until the connection takes no more requests.
async fn life_over(mut door: Door, addr: SocketAddr, caller: Caller, requests: Arc<Requests>) {
    let age = Duration::from_secs(door.limits.max_age_secs);
    // up to a tenth less, so that those who came together do not all come again together
    let age = age - age / 160 * u32::from(addr.port() % 16);
    tokio::select! {
        () = requests.idle(Duration::from_secs(door.limits.idle_secs)) => {}
        () = tokio::time::sleep(age) => {}
        () = caller.ended(&*door.clock) => {}
        // an error means that the listener is gone
        _ = door.drain.wait_for(|drain| *drain) => {}
    }
}

/// A stream that tells when its peer has sent as much as HTTP/2's preface: until then nothing else has an eye on the time.
struct Speaking<S> {
    stream: S,
    missing: usize,
    tell: Option<oneshot::Sender<()>>,
}

impl<S> Speaking<S> {
    fn watch(stream: S) -> (Self, oneshot::Receiver<()>) {
        let (tell, spoken) = oneshot::channel();
        (Self { stream, missing: PREFACE_BYTES, tell: Some(tell) }, spoken)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Speaking<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.tell.is_some() {
            self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
            if self.missing == 0
                && let Some(tell) = self.tell.take()
            {
                let _ended = tell.send(());
            }
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Speaking<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// RFC 9113 §3.4. A peer may ask in HTTP/1.1 with fewer bytes.
const PREFACE_BYTES: usize = 24;
/// A peer that sends no whole header block within this is cut (HTTP/1.1).
const HEADER_READ: Duration = Duration::from_secs(5);
/// A peer that answers no ping within this is gone (HTTP/2).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A unary request ends within 30 s; a stream that takes longer is cut.
const GRACE: Duration = Duration::from_secs(35);
/// Longest header block.
const HEADER_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests;
