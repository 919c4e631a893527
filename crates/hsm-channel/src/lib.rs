//! The trusted channel between server and boundary: TLS 1.3, mutual, raw public keys (RFC 7250), both of them pinned.
//!
//! Always: both sides show a P-256 key, its pin is compared in constant time, its signature over the handshake is
//! checked, and [`ALPN`] is demanded.
//! Never: a certificate, another TLS version, resumption, a ticket, early data.
#![forbid(unsafe_code)]

mod identity;
mod pin;
mod stream;
mod tls;

pub use identity::Identity;
pub use pin::{MalformedPin, Pin};
pub use stream::{FEED_BYTES_MAX, Stream};
pub use tls::{Roles, client_config, server_config};

/// The one protocol spoken inside (RFC 7301).
pub const ALPN: &[u8] = b"strongroom-hsm/1";

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the channel's key must be a plain file of this user with no access for others (mode 0600)")]
    Exposed,
    #[error("the channel's key is not a P-256 key in PKCS#8")]
    NotAKey,
    #[error("a key could not be generated")]
    NotGenerated,
    #[error("the channel's key cannot be read or written")]
    Io(#[from] std::io::Error),
    #[error("the handshake failed")]
    Tls(#[from] rustls::Error),
    #[error("the peer does not speak strongroom-hsm/1")]
    Protocol,
    #[error("the peer showed no key")]
    NoKey,
}
