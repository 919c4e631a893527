//! How to reach a server, and as whom.

use crate::Error;
use envelope::SecretBytes;
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};

/// How to reach a server, and as whom: by token, by client certificate, or by a token that is bound to one.
#[derive(Debug)]
pub struct Options {
    /// `https://HOST:PORT`, `HOST:PORT` (the same), or `http://…` on this machine.
    pub address: String,
    /// PEM file of the authorities that may have signed the server's certificate; without it the system's bundle.
    pub ca: Option<PathBuf>,
    pub certificate: Option<ClientCertificate>,
    pub token: Option<SecretBytes>,
    /// In which namespace the vault's API is asked, as `team/app`; empty: in the root. The native API is the root's.
    pub namespace: String,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// Deadline of each call, told to the server; for streams, the longest wait for the next piece.
    pub timeout: Duration,
}

/// PEM files: the chain with the client's own certificate first, and its PKCS#8, SEC1 or PKCS#1 key. They may be one file, which
/// is exchanged at one moment. What replaces them is shown within seconds; until they are sound, what they were is.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Options {
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            ca: None,
            certificate: None,
            token: None,
            namespace: String::new(),
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
        }
    }
}

/// The header that carries the token; its bytes are wiped with their last holder, and HPACK never indexes them.
pub(crate) fn authorization(token: Option<&SecretBytes>) -> Result<Option<MetadataValue<Ascii>>, Error> {
    let Some(token) = token else { return Ok(None) };
    let token = token.expose();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(Error::Token);
    }
    let header = SecretBytes::init_with(SCHEME.len() + token.len(), |bytes| {
        bytes[..SCHEME.len()].copy_from_slice(SCHEME);
        bytes[SCHEME.len()..].copy_from_slice(token);
    });
    let mut value = MetadataValue::try_from(crate::give_secret(header)).map_err(|_| Error::Token)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

const SCHEME: &[u8] = b"Bearer ";
