//! A server's address: parsed once, plaintext only to this machine.

use crate::Error;
use std::net::IpAddr;

/// Where a port is not named.
const PORT: u16 = 8200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn parse(raw: &str) -> Result<Self, Error> {
        let malformed = || Error::Address { address: raw.to_owned() };
        let (tls, rest) = match raw.split_once("://") {
            None => (true, raw),
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(malformed()),
        };
        let authority: http::uri::Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| malformed())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = match authority.port_u16() {
            Some(port) => port,
            // `host:` and `host:99999` have a colon and no port
            None if authority.as_str().ends_with(authority.host()) => PORT,
            None => return Err(malformed()),
        };
        if host.is_empty() || port == 0 || authority.as_str().contains('@') {
            return Err(malformed());
        }
        let address = Self { tls, host: host.to_owned(), port };
        if tls || address.is_loopback() {
            Ok(address)
        } else {
            Err(Error::PlaintextElsewhere { address: raw.to_owned() })
        }
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// As it stands in URIs.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        for (raw, origin) in [
            ("https://kms.example:8200", "https://kms.example:8200"),
            ("https://kms.example", "https://kms.example:8200"),
            ("https://kms.example/", "https://kms.example:8200"),
            ("kms.example:443", "https://kms.example:443"),
            ("127.0.0.1:8200", "https://127.0.0.1:8200"),
            ("[::1]:8200", "https://[::1]:8200"),
            ("http://[::1]", "http://[::1]:8200"),
            ("http://localhost:1", "http://localhost:1"),
            ("http://127.8.9.1:1", "http://127.8.9.1:1"),
        ] {
            assert_eq!(Address::parse(raw).unwrap().origin(), origin, "{raw}");
        }
    }

    #[test]
    fn plaintext_goes_to_this_machine_only() {
        for raw in ["http://kms.example", "http://10.0.0.1:8200", "http://0.0.0.0:1", "http://localhost.example:1"] {
            assert!(matches!(Address::parse(raw), Err(Error::PlaintextElsewhere { .. })), "{raw}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for raw in
            ["", "https://", "ftp://h:1", "h:0", "h:99999", "h:", "https://h/path", "https://h?q", "a b", "u@h:1", ":1"]
        {
            assert!(matches!(Address::parse(raw), Err(Error::Address { .. })), "{raw}");
        }
    }
}
