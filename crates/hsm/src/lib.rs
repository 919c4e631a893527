//! The client side of the boundary: requests in, frames out, replies to whom they belong.
//!
//! Always: a request that was handed over ends, with a reply or an error, within its time; while the boundary is away
//! a request is refused at once.
//! Never: a reply that goes to another request; a request that is sent twice.
#![forbid(unsafe_code)]

mod channel;
mod connection;
mod line;
mod pipe;

pub use channel::{Channel, connect_once};

use hsm_api::{Boundary, Pending, Reply, Request};
use hsm_channel::{ChannelError, Identity, Pin, client_config};
use line::{Answer, Line};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where the boundary is, and who we are to it.
#[derive(Debug, Clone)]
pub struct Options {
    pub socket: PathBuf,
    pub identity: Arc<Identity>,
    pub boundary: Pin,
    /// How long a request may take; RSA key generation and administration get twelve times as much.
    pub timeout: Duration,
}

impl Options {
    pub fn new(socket: PathBuf, identity: Arc<Identity>, boundary: Pin) -> Self {
        Self { socket, identity, boundary, timeout: Duration::from_secs(5) }
    }
}

/// A boundary at the other end of a socket: one connection, one task.
///
/// It is quickest for requests made on the runtime that it was started on: no thread is woken for them.
#[derive(Debug)]
pub struct SocketBoundary {
    line: Arc<Line>,
    timeout: Duration,
    up: watch::Receiver<bool>,
}

impl SocketBoundary {
    /// Starts the task on the current runtime. It connects, and connects again whenever it has to, until this drops.
    pub fn start(options: Options) -> Result<Self, ChannelError> {
        let config = client_config(&options.identity, options.boundary)?;
        let (line, timeout) = (Arc::new(Line::default()), options.timeout);
        let (up_sender, up) = watch::channel(false);
        tokio::spawn(pipe::run(Arc::clone(&line), options, config, up_sender));
        Ok(Self { line, timeout, up })
    }

    /// Waits until the boundary answers.
    pub async fn connected(&self) {
        let mut up = self.up.clone();
        let _it_fails_when_the_runtime_ends = up.wait_for(|up| *up).await;
    }

    pub fn is_connected(&self) -> bool {
        *self.up.borrow()
    }
}

impl Boundary for SocketBoundary {
    fn submit(&self, request: Request) -> Pending<Reply> {
        let deadline = Instant::now() + patience(&request, self.timeout);
        match self.line.push(&request, deadline) {
            Ok(id) => Box::pin(Answer::new(Arc::clone(&self.line), id)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl Drop for SocketBoundary {
    fn drop(&mut self) {
        self.line.close();
    }
}

/// How long this request may take.
fn patience(request: &Request, timeout: Duration) -> Duration {
    if is_slow(request) { timeout * 12 } else { timeout }
}

/// Seconds by nature: primes are looked for, or a passphrase is stretched and disks are waited for.
fn is_slow(request: &Request) -> bool {
    match request {
        Request::GenerateKey(new) => new.spec.rsa_bits().is_some(),
        Request::Initialise { .. }
        | Request::Enrol { .. }
        | Request::Backup { .. }
        | Request::Restore { .. }
        | Request::RotateDomain
        | Request::Zeroise => true,
        Request::Status
        | Request::GenerateDataKeys { .. }
        | Request::Encrypt { .. }
        | Request::Decrypt { .. }
        | Request::ReEncrypt { .. }
        | Request::Sign { .. }
        | Request::PublicKey { .. }
        | Request::Mac { .. }
        | Request::Random { .. }
        | Request::SystemSeal { .. }
        | Request::SystemOpen { .. }
        | Request::SignCheckpoint { .. }
        | Request::SignBatch { .. }
        | Request::Counters { .. }
        | Request::Rewrap { .. } => false,
    }
}
