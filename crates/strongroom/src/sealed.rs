//! Sealed: store and audit log disagree about which of them is older. Nothing is served until an operator has
//! acknowledged it, for what came back with an old copy may be what was revoked.
//!
//! Always: whoever asks is told that the server is sealed, load balancers by 503; why, who is on its machine.
//! Never: a request carried out, or a record written, before the acknowledgement.

use crate::config::Config;
use crate::cores::Cores;
use crate::files;
use crate::listen::Listener;
use crate::tls::Certificate;
use anyhow::{Context as _, Result};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Serves the refusal until `strongroom operator acknowledge` was run beside it.
pub async fn until_acknowledged(config: &Config, cores: &Cores, why: &str) -> Result<()> {
    files::write_public(&reason(&config.data_dir), why.as_bytes())?;
    tracing::error!(why, "sealed: nothing is served; on this machine, run `strongroom operator acknowledge`");
    let front = axum::Router::new().fallback(async |headers: HeaderMap| refuse(&headers));
    let rooms = cores.handles().iter().map(|core| (core.clone(), front.clone())).collect();
    let tls = config.tls.as_ref().map(Certificate::load).transpose()?;
    let _following = tls.clone().map(Certificate::followed);
    let listener = Listener::start(config.listen, tls, &config.limits, rooms)?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status("sealed: store and audit log disagree")]);
    // of this very state: one that was meant for another is none
    while !std::fs::read(acknowledgement(&config.data_dir)).is_ok_and(|acknowledged| acknowledged == why.as_bytes()) {
        tokio::time::sleep(LOOKS_EVERY).await;
    }
    listener.drain(DRAIN).await;
    tracing::warn!("the operator has acknowledged it");
    Ok(())
}

/// What the operator acknowledges; `None` where nothing waits for it.
pub fn waiting_for(data_dir: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(reason(data_dir)) {
        Ok(why) => Ok(Some(why)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", reason(data_dir).display())),
    }
}

pub fn acknowledge(data_dir: &Path, why: &str) -> Result<()> {
    files::write_public(&acknowledgement(data_dir), why.as_bytes())
}

/// After what was acknowledged has been recorded.
pub fn forget(data_dir: &Path) -> Result<()> {
    remove(&reason(data_dir))?;
    remove(&acknowledgement(data_dir))
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() { files::remove(path) } else { Ok(()) }
}

/// In the caller's own protocol: gRPC's status (PROTOCOL-HTTP2, "Responses"), or a page.
fn refuse(headers: &HeaderMap) -> Response {
    let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::unavailable("sealed: an operator must acknowledge it on the server's machine")
            .into_http();
    }
    let mut reply = (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"sealed"}"#).into_response();
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn reason(data_dir: &Path) -> PathBuf {
    data_dir.join("sealed")
}

fn acknowledgement(data_dir: &Path) -> PathBuf {
    data_dir.join("acknowledged")
}

const LOOKS_EVERY: Duration = Duration::from_millis(100);
const DRAIN: Duration = Duration::from_secs(1);
