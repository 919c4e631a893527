//! Leases that are to be taken back before their time: marked so, in batches; the queue does the rest.

use super::store::{Found, Leases};
use super::{State, Why};
use crate::error::VaultError;
use crate::scope::Scope;
use crate::service::Vault;
use audit::{Decision, Outcome, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};

/// In whose name something is changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    Request(&'a Scope<'a>),
    System(&'static str, Timestamp),
}

impl By<'_> {
    pub(crate) async fn commit(self, vault: &Vault, batch: Batch, about: &str) -> Result<Revision, ChangeError> {
        match self {
            Self::Request(scope) => scope.commit(batch).await,
            Self::System(operation, now) => vault.commit(batch, &told(now, operation, about, Outcome::Done)).await,
        }
    }

    fn now(self) -> Timestamp {
        match self {
            Self::Request(scope) => scope.now(),
            Self::System(_, now) => now,
        }
    }
}

/// What the system did about a lease.
pub(crate) fn told<'a>(now: Timestamp, operation: &'a str, about: &'a str, outcome: Outcome) -> Record<'a> {
    let record = Record::new(now, "lease", operation, &Subject::System);
    Record { path: about, decision: Decision::Allowed, outcome, ..record }
}

/// Marks those that go on; how many, with the revision at which they stand. Others change them too: then nothing is marked.
/// Whoever takes them back itself holds them for so long: the queue looks at them later.
pub(crate) async fn end<'f>(
    vault: &Vault,
    found: impl IntoIterator<Item = &'f Found>,
    (why, by): (Why, By<'_>),
    about: &str,
    held_for: Duration,
) -> Result<(usize, Revision), ChangeError> {
    let leases = Leases::of(vault).map_err(internal)?;
    let (mut batch, mut count) = (vault.changes().batch()?, 0);
    for found in found.into_iter().filter(|found| matches!(found.lease.state, State::Active | State::Creating)) {
        let mut lease = found.lease.clone();
        lease.end(why, by.now());
        lease.due = lease.due.max(by.now().plus(held_for).unix_millis());
        batch = leases.change(batch, found, &lease).map_err(internal)?;
        count += 1;
    }
    if count == 0 {
        return Ok((0, Revision(0)));
    }
    Ok((count, by.commit(vault, batch, about).await?))
}

/// Marks all to which the entries of `folder` lead and `is_meant`. How many; whether that is all.
pub(crate) async fn end_below(
    vault: &Vault,
    folder: &EntryPath,
    is_meant: impl Fn(&Found) -> bool + Send + Sync,
    (why, by): (Why, By<'_>),
    about: &str,
) -> Result<(usize, bool), VaultError> {
    let leases = Leases::of(vault)?;
    let (mut after, mut marked) = (None, 0);
    for _ in 0..PAGES_MAX {
        let (mut found, next) = leases.below(folder, after.as_ref(), A_BATCH).await?;
        found.retain(&is_meant);
        match end(vault, &found, (why, by), about, Duration::ZERO).await {
            Ok((count, _)) => marked += count,
            // some were renewed, or ended: the same page again
            Err(ChangeError::Conflict(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        if next.is_none() {
            return Ok((marked, true));
        }
        after = next;
    }
    Ok((marked, false))
}

fn internal(error: VaultError) -> ChangeError {
    tracing::error!(%error, "a lease that was to be marked");
    ChangeError::Unknown
}

/// Four operations each, of 128.
pub(crate) const A_BATCH: u32 = 24;
/// Looked through at once.
const PAGES_MAX: usize = 4000;
