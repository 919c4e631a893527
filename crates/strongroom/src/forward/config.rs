//! `[[audit.forward]]`: where lines go. In the configuration file and nowhere else.

use super::address::Address;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// 1 to 32 of `a-z 0-9 -`: names the cursor's file and the metrics.
    pub name: String,
    pub kind: Kind,
    /// syslog: `tls://HOST:PORT`, `tcp://LOOPBACK:PORT`, `unix:///dev/log`; otlp: `https://HOST:PORT/v1/logs`, `http://` to
    /// loopback alone.
    pub to: String,
    /// PEM certificates of the authorities that the collector's certificate is believed from. Needed with TLS.
    pub ca: Option<PathBuf>,
    /// PEM certificate and 0600 key that are shown to the collector; read, as `ca` is, for each connection.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// otlp: 0600 file with a bearer token.
    pub bearer_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// RFC 5424, over TLS (RFC 5425), TCP with octet counting (RFC 6587 §3.4.1), or a datagram socket.
    Syslog,
    /// OpenTelemetry's OTLP/HTTP, JSON.
    Otlp,
}

impl Forward {
    pub(crate) fn check(&self) -> Result<()> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        ensure!(
            (1..=32).contains(&self.name.len()) && self.name.bytes().all(legal),
            "`audit.forward.name` is 1 to 32 of a-z, 0-9 and -"
        );
        let address = Address::parse(&self.to).with_context(|| format!("`audit.forward.to` of {}", self.name))?;
        let of_syslog = match &address {
            Address::Unix(_) => true,
            Address::Tcp { path, .. } => path.is_none(),
        };
        if of_syslog != (self.kind == Kind::Syslog) {
            bail!("`audit.forward.to` of {} is of another kind", self.name);
        }
        let tls = address.is_tls();
        if tls != self.ca.is_some() || self.certificate.is_some() != self.key.is_some() || !tls && self.key.is_some() {
            bail!(
                "`audit.forward` {}: TLS wants `ca`, and may have `certificate` with `key`; nothing else has any",
                self.name
            );
        }
        if self.bearer_file.is_some() && self.kind != Kind::Otlp {
            bail!("`audit.forward` {}: `bearer_file` is for otlp", self.name);
        }
        Ok(())
    }
}
