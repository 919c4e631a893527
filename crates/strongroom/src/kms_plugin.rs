//! `strongroom kms-plugin`: a Kubernetes API server's seeds, encrypted under a key of ours (KMS v2).
//!
//! Always: `key_id` is the key's id and the number of its version, so that all plugins of a cluster tell the same, and it
//! changes exactly when the key is rotated; it never goes back.
//! Always: what is encrypted is bound to the cluster's name; what an older version encrypted is decrypted, or a key
//! that the configuration names as an older one. Nothing else is: which key it is of, etcd says.
//! Always: `ok` means that something was encrypted and decrypted, at most ten seconds ago.
//! Always: it serves from its start on, and says that it is not well until it is logged in: an API server that starts at
//! the same time waits for it.
//! Never: a key or a seed on disk, in a log line or in an error.

mod config;
mod service;
mod socket;

pub use config::Config;

use anyhow::Result;
use client::timing::{Spread, back_off};
use client::{Login, Options, Vault};
use proto::kubernetes_kms::key_management_service_server::KeyManagementServiceServer;
use service::Plugin;
use socket::Socket;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

/// Serves until a signal ends it.
pub async fn run(config: Config) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (options, login) = (config.server.options()?, config.login.login()?);
    let vault = Arc::new(OnceLock::new());
    let plugin = Plugin::new(&config, Arc::clone(&vault));
    let socket = Socket::bind(&config.socket, &config.peers)?;
    let logging_in = tokio::spawn(log_in(options, login, Arc::clone(&vault)));
    let ended = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let service = KeyManagementServiceServer::new(plugin).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let served = Server::builder()
        .concurrency_limit_per_connection(CALLS_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(service)
        .serve_with_incoming_shutdown(socket.incoming(), ended);
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %config.socket.display(), "serves");
    let outcome = served.await;
    logging_in.abort();
    if let Some(vault) = vault.get() {
        let _its_token_ends_by_itself = tokio::time::timeout(LOG_OUT_MAX, vault.log_out()).await;
    }
    Ok(outcome?)
}

/// Tries for ever, ever more rarely.
async fn log_in(options: Options, login: Login, vault: Arc<OnceLock<Vault>>) {
    let mut failures = 0;
    let mut outcome = Vault::login(options, login).await;
    loop {
        let refused = match outcome {
            Ok(found) => {
                tracing::info!("logged in");
                let _first = vault.set(found);
                return;
            }
            Err(refused) => refused,
        };
        failures += 1;
        let wait = back_off(failures, None, Spread::random()).min(RETRIED_WITHIN);
        tracing::warn!(error = %refused.error, retry_in_secs = wait.as_secs_f32(), "no login yet");
        tokio::time::sleep(wait).await;
        outcome = refused.again().await;
    }
}

/// A request has a seed, or what was made of one.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const CALLS_MAX: usize = 64;
const STREAMS_MAX: u32 = 64;
const LOG_OUT_MAX: Duration = Duration::from_secs(2);
/// An API server that waits for it asks every ten seconds.
const RETRIED_WITHIN: Duration = Duration::from_secs(10);
