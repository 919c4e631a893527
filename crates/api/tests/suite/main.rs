//! The faces over HTTP/2, with a real module, store and log behind them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod answered;
mod leaves;
mod public;
mod receipts;
mod refused;
mod rig;
mod sealed;
mod strict;
mod unwraps;
