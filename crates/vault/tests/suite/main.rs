//! The vault over a real module in this process, a store in memory and an audit log in a folder.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod approle;
mod cert;
mod classes;
mod entities;
mod far;
mod jwt;
mod kv;
mod mounts;
mod namespaces;
mod ocsp;
mod pki;
mod policies;
mod rig;
mod rotation;
mod seal;
mod spellings;
mod spiffe;
mod sys;
mod tokens;
mod transit;
mod userpass;
mod wrapping;
