//! Ticks: what is due is asked of the domains, which hold all the logic.

use crate::clock::SystemClock;
use envelope::Clock as _;
use identity::{Changes, Identities};
use kms::Kms;
use std::time::Duration;

/// Once a second: tokens and keys whose time has come, and leaves that can leave the outbox.
pub async fn sweep(identities: Identities, kms: Kms, changes: Changes) {
    loop {
        tokio::time::sleep(TICK).await;
        // a page at a time, at most this many in a row, so that nothing else waits
        for _ in 0..PAGES_MAX {
            let now = SystemClock.now();
            let tokens = told("expired tokens", identities.sweep(now).await);
            let keys = told("keys to be destroyed", kms.sweep(now).await);
            if tokens + keys == 0 {
                break;
            }
        }
        if let Err(error) = changes.tidy().await {
            tracing::warn!(%error, "the outbox was not tidied; it will be");
        }
    }
}

fn told<E: std::fmt::Display>(what: &str, outcome: Result<usize, E>) -> usize {
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%error, what, "was not swept; it stays due");
        0
    })
}

const TICK: Duration = Duration::from_secs(1);
const PAGES_MAX: usize = 10;
