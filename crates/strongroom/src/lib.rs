//! The composition root and the command line: the only room that knows everyone.
//!
//! Always: adapters meet domains in `wire`; the wall clock is read in `clock`.
//! Never: a decision about a request.
#![forbid(unsafe_code)]

pub mod agent;
pub mod audit_log;
pub mod boundary_backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cores;
pub mod demo;
pub mod dev;
pub mod dev_ca;
mod dial;
pub mod files;
pub mod forward;
pub mod kms_plugin;
pub mod listen;
pub mod operator;
pub mod retention;
pub mod scrub;
pub mod sealed;
pub mod server;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod tls;
pub mod wire;
pub mod witnesses;
pub mod worker;
