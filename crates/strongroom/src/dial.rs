//! Connections of the server's own to collectors and witnesses, and HTTP/1.1 over them.
//!
//! Always: TLS, but on this machine. An end within time limits is the caller's.
//! Never: a private key that others may read.

use crate::files;
use crate::tls::certificates;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whether a host may be named without TLS.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A connection, with TLS where there is a configuration for it. Without, it is of this machine, whatever a resolver says of
/// `localhost`.
pub(crate) async fn connect(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>> {
    let connected = async {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        anyhow::Ok(match tls {
            None => {
                ensure!(stream.peer_addr()?.ip().is_loopback(), "without TLS only loopback addresses are allowed");
                Box::new(stream) as Box<dyn Stream>
            }
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                Box::new(stream.context("its TLS is refused")?)
            }
        })
    };
    let connected = tokio::time::timeout(CONNECT_WAIT, connected).await.context("no answer in time")?;
    connected.with_context(|| format!("cannot connect to {host}:{port}"))
}

/// Believes the authorities of the file, or else those that the system trusts, and shows the certificate and key where they
/// are named.
pub(crate) fn tls(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(client::authorities(ca).context("`ca`")?);
    let Some((certificate, key)) = own else { return Ok(builder.with_no_client_auth()) };
    let secret = files::read_secret_up_to(key, KEY_BYTES_MAX)?;
    let private = PrivateKeyDer::from_pem_slice(secret.expose())
        .with_context(|| format!("{} holds no PEM private key", key.display()))?;
    Ok(builder.with_client_auth_cert(certificates(certificate)?, private)?)
}

/// An HTTP/1.1 connection. It ends with this.
pub(crate) struct Http {
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Http {
    pub(crate) async fn over(stream: Box<dyn Stream>) -> Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driven = JoinSet::new();
        driven.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection of the server's own");
            }
        });
        Ok(Self { sender, _connection: driven })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The answer, with a body of at most so many bytes.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>, max: usize) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), max).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Of the longest RSA key, and what stands beside it.
const KEY_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_that_others_may_read_is_shown_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let path = |name| folder.path().join(name);
        let (certificate, key, other) = (path("a.pem"), path("a-key.pem"), path("other.pem"));
        write(&certificate, made.cert.pem()).unwrap();
        // what stands before it does not hide it
        write(&key, format!("{}\n{}", "#".repeat(8000), made.signing_key.serialize_pem())).unwrap();
        write(&other, "no key").unwrap();
        for (file, mode, expected) in [
            (&key, 0o600, None),
            (&key, 0o400, None),
            (&key, 0o640, Some("readable by others")),
            (&key, 0o604, Some("readable by others")),
            (&other, 0o600, Some("no PEM private key")),
        ] {
            set_permissions(file, Permissions::from_mode(mode)).unwrap();
            let outcome = tls(Some(&certificate), Some((&certificate, file)));
            let told = outcome.err().map(|error| format!("{error:#}"));
            let right = match expected {
                None => told.is_none(),
                Some(expected) => told.as_ref().is_some_and(|told| told.contains(expected)),
            };
            assert!(right, "{mode:o} {told:?}");
        }
        assert!(tls(Some(&other), None).is_err());
    }
}
