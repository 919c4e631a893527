//! The front door: accepts on one thread, hands connections to the cores in turn, bounds everything on the way in.
//!
//! Always: a handshake, a header block, a stream count and the number of connections have limits.
//! Never: a decision about a request.

use crate::config::Limits;
use anyhow::{Context as _, Result};
use api::{Peer, PeerCertificate};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A core, and what answers there.
pub type Room = (Handle, axum::Router);

/// What every connection needs.
#[derive(Clone)]
struct Door {
    tls: Option<TlsAcceptor>,
    limits: Limits,
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
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: &Limits,
        rooms: Vec<Room>,
    ) -> Result<Self> {
        let socket = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
        let local = socket.local_addr()?;
        let (drain, draining) = watch::channel(false);
        let (stopping, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let door =
            Door { tls: tls.map(TlsAcceptor::from), limits: limits.clone(), open: Arc::clone(&open), drain: draining };
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

fn accept(socket: &TcpListener, door: &Door, rooms: &[Room], stopping: &AtomicBool) {
    for (core, routes) in rooms.iter().cycle() {
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
        if door.open.fetch_add(1, Ordering::AcqRel) >= limit {
            door.open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (door, routes) = (door.clone(), routes.clone());
        core.spawn(async move {
            let open = Arc::clone(&door.open);
            if let Err(error) = connection(door, routes, stream.0, stream.1).await {
                tracing::debug!(%error, peer = %stream.1, "a connection ended");
            }
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn connection(door: Door, routes: axum::Router, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    match door.tls.clone() {
        None => serve(door, routes, stream, Peer { addr: peer.to_string(), certificate: None }).await,
        Some(acceptor) => {
            let within = Duration::from_secs(door.limits.handshake_secs);
            let stream =
                tokio::time::timeout(within, acceptor.accept(stream)).await.context("handshake took too long")??;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = certificate.and_then(|der| PeerCertificate::from_der(der));
            serve(door, routes, stream, Peer { addr: peer.to_string(), certificate }).await
        }
    }
}

async fn serve(
    door: Door,
    routes: axum::Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
) -> Result<()> {
    let peer = Arc::new(peer);
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        tower::Service::call(&mut routes.clone(), request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ).max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(door.limits.streams)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(Some(64))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    let mut drain = door.drain;
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(anyhow::Error::from_boxed),
        _ = drain.wait_for(|drain| *drain) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(anyhow::Error::from_boxed)
}

/// A peer that sends no whole header block within this is cut (HTTP/1.1).
const HEADER_READ: Duration = Duration::from_secs(5);
/// A peer that answers no ping within this is gone (HTTP/2).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest header block.
const HEADER_BYTES_MAX: usize = 16 * 1024;
