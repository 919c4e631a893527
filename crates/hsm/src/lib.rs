//! The client side of the boundary: one pinned channel a runtime, requests of one moment in one frame, reconnection for
//! ever.
//!
//! Always: a request that was handed over is answered: by its reply, or by what became of it (`Restarted`, `TimedOut`,
//! `Unavailable`, `Busy`).
//! Never: a reply believed that nobody waits for; a wake-up of another thread for a request of the pipe's own runtime.
#![forbid(unsafe_code)]

mod outstanding;
mod pipe;
mod queue;

use hsm_api::{Boundary, HsmError, Pending, Reply, Request, Service};
use hsm_channel::{ChannelError, Identity, Pin, client_config};
use queue::Queue;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Which boundary, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    pub socket: PathBuf,
    pub identity: Arc<Identity>,
    pub boundary: Pin,
    /// How long a service of the data path may take; key generation, RSA and administration may take [`SLOW`].
    pub timeout: Duration,
}

impl Options {
    pub fn new(socket: PathBuf, identity: Arc<Identity>, boundary: Pin) -> Self {
        Self { socket, identity, boundary, timeout: Duration::from_secs(2) }
    }
}

/// How long a service that is allowed to be slow may take.
pub const SLOW: Duration = Duration::from_secs(60);

/// A boundary behind its socket. Clones share the channel.
#[derive(Debug, Clone)]
pub struct SocketBoundary(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
}

impl SocketBoundary {
    /// Inside a runtime: connects there, and again whenever the channel breaks, until the last clone is dropped.
    pub fn start(options: Options) -> Result<Self, ChannelError> {
        let config = client_config(&options.identity, options.boundary)?;
        let queue = Arc::new(Queue::new(options.timeout));
        tokio::spawn(pipe::keep(options.socket, config, Arc::clone(&queue)));
        Ok(Self(Arc::new(Handle { queue })))
    }
}

impl Boundary for SocketBoundary {
    fn submit(&self, request: Request) -> Pending<Reply> {
        self.0.queue.submit(request)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// A channel that is not made anew when it breaks: for administration.
#[derive(Debug)]
pub struct Channel(Handle);

/// Connects once, so that what is wrong shows now.
pub async fn connect_once(socket: &Path, identity: &Identity, boundary: Pin) -> Result<Channel, HsmError> {
    let config = client_config(identity, boundary).map_err(|error| {
        tracing::error!(%error, "no channel can be made with this key");
        HsmError::Protocol
    })?;
    let queue = Arc::new(Queue::new(SLOW));
    let pipe = pipe::connect(socket, &config, &queue).await.map_err(|why| {
        tracing::error!(%why, socket = %socket.display(), "the boundary was not reached");
        HsmError::Unavailable
    })?;
    tokio::spawn(pipe::run(pipe));
    Ok(Channel(Handle { queue }))
}

impl Channel {
    pub async fn ask(&self, request: Request) -> Result<Reply, HsmError> {
        self.0.queue.submit(request).await
    }
}

/// Services whose arithmetic or disk may take long.
const fn is_slow(service: Service) -> bool {
    match service {
        Service::GenerateKey
        | Service::Sign
        | Service::SignCheckpoint
        | Service::PublicKey
        | Service::Initialise
        | Service::Enrol
        | Service::Backup
        | Service::Restore
        | Service::RotateDomain
        | Service::Zeroise => true,
        Service::Status
        | Service::GenerateDataKeys
        | Service::Encrypt
        | Service::Decrypt
        | Service::ReEncrypt
        | Service::Mac
        | Service::Random
        | Service::SystemSeal
        | Service::SystemOpen
        | Service::Counters
        | Service::Rewrap => false,
    }
}
