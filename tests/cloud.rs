//! Logins by what clouds say of who runs in them: their makers' own clients sign and fetch, stand-ins answer in the clouds' place.
//!
//! Never: a real cloud. What stands in for one is written in `tests/cloud`, and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "cloud/aws.rs"]
mod aws;
#[path = "cloud/stand.rs"]
mod stand;
#[path = "cloud/tokens.rs"]
mod tokens;
