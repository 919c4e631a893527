//! One lease that is due: what is to be done, and the doing of it, step by step.
//!
//! Always: each step is durable before the next begins, so that a crash anywhere repeats a step that is idempotent.
//! Always: the claim's fence and the lease's revision are conditions of every commit: whoever was overtaken changes nothing.

use super::mark::told;
use super::store::{Found, Leases, last};
use super::{Lease, State, Why};
use crate::engine::database;
use crate::engine::database::plugin::DatabaseError;
use crate::error::VaultError;
use crate::service::Vault;
use audit::Outcome;
use envelope::Timestamp;
use identity::ChangeError;
use storage::{Batch, EntryPath, Revision};
use tokio::time::Instant;

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Became {
    /// Nothing is left of it, or there was nothing to do.
    Done,
    /// It goes on: somebody renewed it, or it is tried again later.
    Later,
    /// The database is away.
    Unreachable,
}

/// A place in the queue that is ours for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed<'a> {
    pub(crate) path: &'a EntryPath,
    pub(crate) fence: Revision,
}

/// What is to be done about a lease that is looked at. Pure.
fn decide(lease: &Lease, now: Timestamp) -> Option<Why> {
    // it was claimed, and so it is due by the store's clock, whatever ours says
    let now = now.max(Timestamp::from_unix_millis(lease.due));
    match lease.state {
        State::Active if now < lease.expires() => None,
        State::Active => Some(Why::Expired),
        State::Creating => Some(Why::Unfinished),
        State::Ending | State::AccessEnded => Some(lease.why.unwrap_or(Why::Revoked)),
    }
}

pub(crate) async fn look_at(vault: &Vault, claim: Claimed<'_>, now: Timestamp) -> Result<Became, VaultError> {
    let leases = Leases::of(vault)?;
    let found = match leases.load(&last(claim.path)).await? {
        Some(found) if leases.due(&found.lease, &found.key)? == *claim.path => found,
        // a hint at what is gone, or stands elsewhere in the queue
        Some(_) | None => {
            let batch = vault.changes().batch()?.revision_is(claim.path.clone(), claim.fence);
            let batch = batch.delete(claim.path.clone());
            return overtaken(vault.commit(batch, &told(now, "LeaseHint", "", Outcome::Done)).await.map(drop));
        }
    };
    let (mut lease, Some(why)) = (found.lease.clone(), decide(&found.lease, now)) else {
        let mut lease = found.lease.clone();
        lease.due = lease.expires;
        return overtaken(commit(vault, &claim, &found, &lease, ("LeaseKept", Outcome::Done), now).await.map(drop));
    };
    let mut found = found;
    if matches!(lease.state, State::Active | State::Creating) {
        lease.end(why, now);
        lease.due = found.lease.due;
        match commit(vault, &claim, &found, &lease, ("LeaseEnd", Outcome::Asked), now).await {
            Ok(revision) => found = Found { lease, revision, ..found },
            Err(error) => return overtaken(Err(error)),
        }
    }
    take_back(vault, &claim, found, now).await
}

async fn take_back(vault: &Vault, claim: &Claimed<'_>, mut found: Found, now: Timestamp) -> Result<Became, VaultError> {
    // a database takes its time: what is told and stored is when it was done
    let (asked, began) = (now, Instant::now());
    let now = || asked.plus(began.elapsed());
    if found.lease.state != State::AccessEnded {
        if let Err(error) = database::end_access(vault, &found).await {
            return failed(vault, claim, &found, &error, now()).await;
        }
        let now = now();
        let mut lease = found.lease.clone();
        lease.state = State::AccessEnded;
        lease.access_ended = Some(now.unix_millis());
        match commit(vault, claim, &found, &lease, ("LeaseAccessEnded", Outcome::Done), now).await {
            Ok(revision) => found = Found { lease, revision, ..found },
            Err(error) => return overtaken(Err(error)),
        }
    }
    if let Err(error) = database::clean_up(vault, &found).await {
        return failed(vault, claim, &found, &error, now()).await;
    }
    let batch = fenced(vault, claim)?;
    let batch = Leases::of(vault)?.remove(batch, &found)?;
    let record = told(now(), "LeaseCleanedUp", &found.lease.id, Outcome::Done);
    overtaken(vault.commit(batch, &record).await.map(drop))
}

async fn failed(
    vault: &Vault,
    claim: &Claimed<'_>,
    found: &Found,
    error: &DatabaseError,
    now: Timestamp,
) -> Result<Became, VaultError> {
    let [jitter] = vault.barrier().random::<1>()?;
    let mut lease = found.lease.clone();
    lease.failed(&error.to_string(), now, jitter);
    let (id, attempts, state) = (&lease.id, lease.attempts, lease.state.as_str());
    tracing::warn!(lease = id, attempts, state, %error, "a lease was not taken back; it is tried again");
    let unreachable = matches!(error, DatabaseError::Unreachable(_));
    let outcome = Outcome::Failed(if unreachable { "DATABASE_UNAVAILABLE" } else { "DATABASE_REFUSED" }.into());
    let became = match commit(vault, claim, found, &lease, ("LeaseEnd", outcome), now).await {
        Ok(_) => Became::Later,
        Err(error) => overtaken(Err(error))?,
    };
    Ok(if unreachable { Became::Unreachable } else { became })
}

async fn commit(
    vault: &Vault,
    claim: &Claimed<'_>,
    found: &Found,
    lease: &Lease,
    (operation, outcome): (&str, Outcome),
    now: Timestamp,
) -> Result<Revision, ChangeError> {
    let batch = fenced(vault, claim)?;
    let batch = Leases::of(vault).and_then(|leases| leases.change(batch, found, lease)).map_err(|error| {
        tracing::error!(%error, "a lease cannot be written");
        ChangeError::Unknown
    })?;
    vault.commit(batch, &told(now, operation, &lease.id, outcome)).await
}

fn fenced(vault: &Vault, claim: &Claimed<'_>) -> Result<Batch, ChangeError> {
    Ok(vault.changes().batch()?.revision_is(claim.path.clone(), claim.fence))
}

/// Whoever came in between has it.
fn overtaken(outcome: Result<(), ChangeError>) -> Result<Became, VaultError> {
    match outcome {
        Ok(()) => Ok(Became::Done),
        Err(ChangeError::Conflict(_)) => Ok(Became::Later),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_by_the_stores_clock_ends_though_ours_is_behind() {
        for (state, due, now, decided) in [
            ("active", 1000, 999, Some(Why::Expired)),
            ("active", 1000, 1000, Some(Why::Expired)),
            // renewed: it stands elsewhere in the queue from now on
            ("active", 900, 999, None),
            ("creating", 1000, 999, Some(Why::Unfinished)),
            ("ending", 1000, 999, Some(Why::Revoked)),
        ] {
            let lease: Lease = serde_json::from_value(serde_json::json!({
                "id": "a/b", "mount": "", "target": "", "state": state, "username": "", "issued": 0,
                "expires": 1000, "expires_max": 1000, "ttl_millis": 1000, "due": due,
            }))
            .unwrap();
            assert_eq!(decide(&lease, Timestamp::from_unix_millis(now)), decided, "{state} {due} {now}");
        }
    }
}
