//! Connections to collectors.

use super::Forward;
use anyhow::{Context as _, Result, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp {
        tls: bool,
        host: String,
        port: u16,
        /// Of HTTP.
        path: Option<String>,
    },
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").context("it begins with a scheme, as tls://")?;
        let (tls, http) = match scheme {
            "unix" => {
                ensure!(rest.starts_with('/'), "a socket's path is absolute: unix:///dev/log");
                return Ok(Self::Unix(rest.into()));
            }
            "tls" => (true, false),
            "tcp" => (false, false),
            "https" => (true, true),
            "http" => (false, true),
            _ => bail!("{scheme} is none of unix, tls, tcp, https and http"),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        ensure!(http != path.is_empty(), "http and https have a path, as /v1/logs, and others none");
        ensure!(path.bytes().all(|byte| byte.is_ascii_graphic()), "the path has visible ASCII alone");
        let (host, port) = authority.rsplit_once(':').context("a port is missing")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().context("the port is none")?;
        ensure!(!host.is_empty() && !host.contains('@'), "the host is none");
        let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        ensure!(tls || loopback, "without TLS only loopback addresses are allowed");
        Ok(Self::Tcp { tls, host, port, path: http.then(|| path.to_owned()) })
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }
}

/// A connection, with TLS where there is a configuration for it.
pub(super) async fn connect(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>> {
    let connected = async {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        anyhow::Ok(match tls {
            None => Box::new(stream) as Box<dyn Stream>,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
            }
        })
    };
    let connected = tokio::time::timeout(CONNECT_WAIT, connected).await.context("no answer in time")?;
    connected.with_context(|| format!("cannot connect to {host}:{port}"))
}

pub(super) fn tls(forward: &Forward) -> Result<Option<Arc<ClientConfig>>> {
    let Some(ca) = &forward.ca else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&forward.certificate, &forward.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("{} holds no PEM private key", key.display()))?;
            builder.with_client_auth_cert(certificates(certificate)?, key)?
        }
        (_, _) => builder.with_no_client_auth(),
    };
    Ok(Some(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    read().with_context(|| format!("{} holds no PEM certificates", path.display()))
}

const CONNECT_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_whole_and_without_tls_on_this_machine() {
        let tcp = |tls, host: &str, port, path: Option<&str>| {
            Some(Address::Tcp { tls, host: host.into(), port, path: path.map(Into::into) })
        };
        for (text, expected) in [
            ("unix:///dev/log", Some(Address::Unix("/dev/log".into()))),
            ("tls://siem.example:6514", tcp(true, "siem.example", 6514, None)),
            ("tls://[2001:db8::1]:6514", tcp(true, "2001:db8::1", 6514, None)),
            ("tcp://127.0.0.1:514", tcp(false, "127.0.0.1", 514, None)),
            ("https://otel.example:4318/v1/logs", tcp(true, "otel.example", 4318, Some("/v1/logs"))),
            ("http://localhost:4318/v1/logs", tcp(false, "localhost", 4318, Some("/v1/logs"))),
            ("tcp://192.0.2.1:514", None),
            ("http://otel.example:4318/v1/logs", None),
            ("https://otel.example:4318", None),
            ("https://user@otel.example:4318/v1/logs", None),
            ("tls://siem.example:6514/x", None),
            ("tls://siem.example", None),
            ("tls://:6514", None),
            ("tls://siem.example:99999", None),
            ("https://h:1/a b", None),
            ("udp://127.0.0.1:514", None),
            ("unix://dev/log", None),
            ("127.0.0.1:514", None),
        ] {
            assert_eq!(Address::parse(text).ok(), expected, "{text}");
        }
    }
}
