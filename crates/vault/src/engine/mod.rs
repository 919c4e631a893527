//! Secrets engines.

pub mod cubbyhole;
pub mod database;
pub mod identity;
pub mod kv1;
pub mod kv2;
pub mod pki;
pub mod transit;
mod tree;
