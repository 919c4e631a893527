//! The software boundary: master keys, and everything that is done with a key in the clear.
//!
//! It is *modelled on* FIPS 140-3 Level 3; it is not validated, and root on its machine is not defended against
//! (README.md is its security policy).
//!
//! Always: self-tests pass before the first service; what a service changes is durable before its reply leaves.
//! Never: a domain key or a backing key in any reply, log line or error; a panic that is survived.

pub mod fault;
pub mod jail;
pub mod keystore;
pub mod module;
pub mod unlock;

mod backup;
mod keys;
mod listen;
mod random;
mod record;
mod root;
mod selftest;
mod service;

pub use keystore::{KeyStore, KeyStoreError};
pub use module::{Module, Now, Options};
pub use unlock::{Unlock, UnlockError, UnlockSource};
