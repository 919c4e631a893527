//! Identity over a real store and a real log: two nodes, their caches, and a clock that the test moves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod changes;
mod entities;
mod house;
mod lifetimes;
mod namespaces;
mod policies;
mod roles;
mod stateless;
mod token_roles;
mod tokens;
