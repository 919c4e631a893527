//! Where collectors are.

use super::Forward;
use crate::dial::{self, is_loopback};
use anyhow::{Context as _, Result, bail, ensure};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;

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
        ensure!(tls || is_loopback(&host), "without TLS only loopback addresses are allowed");
        Ok(Self::Tcp { tls, host, port, path: http.then(|| path.to_owned()) })
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }
}

/// As the files are now: each connection reads them.
pub(super) fn tls(forward: &Forward) -> Result<Option<Arc<ClientConfig>>> {
    let Some(ca) = &forward.ca else { return Ok(None) };
    let own = forward.certificate.as_deref().zip(forward.key.as_deref());
    Ok(Some(Arc::new(dial::tls(Some(ca), own)?)))
}

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
