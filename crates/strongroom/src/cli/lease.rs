//! `strongroom lease`: what is lent, and how it is taken back.

use super::connection::Connection;
use super::output::Answer;
use super::secrets::{Wrapping, ask};
use anyhow::Result;
use clap::{Args, Subcommand};
use client::{Method, SecretBytes};
use serde_json::json;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell about a lease: its state, when it ends, why it did not
    Lookup(One),
    Renew(Renew),
    Revoke(Revoke),
    /// Count leases by mount
    Count,
    /// Show what should have ended and has not, the oldest first
    Queue,
}

#[derive(Debug, Args)]
pub struct One {
    /// As it was told with what is lent
    lease_id: String,
}

/// Let a lease go on, within its role's max_ttl
#[derive(Debug, Args)]
pub struct Renew {
    #[command(flatten)]
    one: One,
    /// How long from now; what it was given at first unless said
    #[arg(long, value_name = "DURATION", value_parser = super::values::duration)]
    increment: Option<Duration>,
}

/// Take a lease back, or all below a prefix
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom lease revoke database/creds/app/h7Kd…
  strongroom lease revoke --prefix database/creds/app")]
pub struct Revoke {
    /// The lease's id
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    lease_id: Option<String>,
    /// All whose ids begin so: a mount's path, or a role's below it
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let (method, path, body) = match self {
            Self::Lookup(one) => {
                (Method::PUT, "sys/leases/lookup".to_owned(), Some(json!({ "lease_id": one.lease_id })))
            }
            Self::Renew(Renew { one, increment }) => {
                let secs = increment.map_or(0, |increment| increment.as_secs());
                let body = json!({ "lease_id": one.lease_id, "increment": secs });
                (Method::PUT, "sys/leases/renew".to_owned(), Some(body))
            }
            Self::Revoke(Revoke { prefix: Some(prefix), .. }) => {
                (Method::PUT, format!("sys/leases/revoke-prefix/{}", prefix.trim_matches('/')), None)
            }
            Self::Revoke(Revoke { lease_id, .. }) => {
                (Method::PUT, "sys/leases/revoke".to_owned(), Some(json!({ "lease_id": lease_id })))
            }
            Self::Count => (Method::GET, "sys/leases/count".to_owned(), None),
            Self::Queue => (Method::GET, "sys/leases/queue".to_owned(), None),
        };
        let body = body.map(|body| SecretBytes::from_vec(body.to_string().into_bytes()));
        ask(connection, method, path, body, Wrapping::default()).await
    }
}
