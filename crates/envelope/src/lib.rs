//! Bytes in, bytes out: the sealed format, the file format, key derivation, shares, Merkle proofs, secrets in memory,
//! time as an argument.
//!
//! Always: parsers are total, and reject trailing bytes.
//! Never: IO, logging, a clock or a source of randomness of its own.
#![forbid(unsafe_code)]

pub mod context;
pub mod kdf;
pub mod mac;
pub mod merkle;
pub mod sealed;
pub mod secret;
pub mod shamir;
pub mod stream;
pub mod suite1;
pub mod time;

pub use context::EncryptionContext;
pub use sealed::{Header, Kind, Sealed, Suite};
pub use secret::{SecretBytes, SecretKey};
pub use time::{Clock, ManualClock, Timestamp};
