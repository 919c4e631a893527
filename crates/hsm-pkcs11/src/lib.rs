//! A boundary around a vendor's PKCS#11 module: the same protocol as `hsm-sim`, keys that live in a token.
//!
//! * Level HSM_RESIDENT only. A backing key is a token object, generated inside, private, sensitive, never extractable;
//!   a key token is a reference to it (suite 3), bound by an HMAC key of the token.
//! * AES keys seal by suite 2: the token's own GCM. What is in the clear on the way (data keys, callers' plaintexts, and
//!   between two keys in re-encrypt) passes through this process, and is wiped.
//! * The token's backup, cloning and high availability are its vendor's. Backup, restore, rotate domain and rewrap are
//!   refused as `Unsupported`, and stand in no capability.
//! * One process a token. The token remembers the domain, the clusters, the checkpoints signed and the invocations
//!   reserved, in private data objects.
//!
//! Always: capabilities are proven by running them; one owner of the module a process; a login once.
//! Never: fork after C_Initialize; a PIN as an argument; a caller's garbage that looks like a dead device.
#![forbid(unsafe_code)]

mod admin;
pub mod confine;
mod counter;
mod der;
mod device;
mod domain;
mod error;
mod health;
mod keys;
mod library;
mod module;
mod pin;
mod probe;
mod resident;
mod seal;
mod service;
mod sign;
mod store;
mod template;
mod uri;

pub use counter::{ADVISED_AT, BLOCK, REFUSED_AT};
pub use library::LoadError;
pub use module::{Module, Now, OpenError, Options};
pub use pin::{Pin, PinError, PinSource};
pub use uri::{Uri, UriError};
