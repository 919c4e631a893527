//! Leases of what was made outside: users of databases.

use super::{ATTEMPTS_MAX, NAMES_MAX, PAGE, PAGES_MAX, folder, invalid};
use crate::clock::rfc3339;
use crate::engine::database;
use crate::error::VaultError;
use crate::lease::end::{Became, Claimed, look_at};
use crate::lease::mark::{self, By};
use crate::lease::store::{Found, Leases};
use crate::lease::work::{late_at, targets, work_at};
use crate::lease::{Counts, State, Why};
use crate::reply::{LeaseInfo, Reply};
use crate::scope::Scope;
use envelope::Timestamp;
use identity::ChangeError;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use storage::EntryPath;
use tokio::time::Instant;

/// The lease of this id, if it is one of ours.
pub(super) async fn find(scope: &Scope<'_>, id: &str) -> Result<Option<Found>, VaultError> {
    let leases = Leases::of(scope.vault)?;
    leases.load(&leases.key(id)?).await
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    issue_time: String,
    expire_time: String,
    last_renewal: Option<String>,
    renewable: bool,
    ttl: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_ended_time: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn shown(found: &Found, now: Timestamp) -> Shown<'_> {
    let lease = &found.lease;
    let time = |at: u64| rfc3339(Timestamp::from_unix_millis(at));
    Shown {
        id: &lease.id,
        issue_time: time(lease.issued),
        expire_time: time(lease.expires),
        last_renewal: lease.renewed.map(time),
        renewable: lease.state == State::Active,
        ttl: lease.ttl(now).as_secs(),
        state: lease.state.as_str(),
        access_ended_time: lease.access_ended.map(time),
        attempts: lease.attempts,
        next_attempt_time: (lease.attempts > 0).then(|| time(lease.due)),
        last_error: lease.last_error.as_deref(),
    }
}

pub(super) fn lookup(scope: &Scope<'_>, found: &Found) -> Result<Reply, VaultError> {
    Reply::data(&shown(found, scope.now()))
}

/// In the database first, then here: what is said to go on does.
pub(super) async fn renew(scope: &Scope<'_>, mut found: Found) -> Result<Reply, VaultError> {
    let (leases, now) = (Leases::of(scope.vault)?, scope.now());
    let increment = scope.call.body.duration("increment")?;
    for _ in 0..ATTEMPTS_MAX {
        let is_over = found.lease.ttl(now).is_zero() || scope.vault.is_void(found.lease.generation);
        if found.lease.state != State::Active || is_over {
            return Err(VaultError::Invalid("lease expired, or it is being revoked".into()));
        }
        let until = found.lease.renewed_until(increment, now);
        database::renew(scope.vault, &found, until, now).await?;
        let mut lease = found.lease.clone();
        lease.expires = until.unix_millis();
        lease.due = lease.expires;
        lease.renewed = Some(now.unix_millis());
        match scope.commit(leases.change(scope.batch()?, &found, &lease)?).await {
            // renewed in between, or it ends
            Err(ChangeError::Conflict(_)) => found = leases.load(&found.key).await?.ok_or_else(invalid)?,
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let wanted = increment.unwrap_or(Duration::from_millis(lease.ttl_millis));
                let secs = until.since(now).as_secs();
                let info = LeaseInfo { id: lease.id, secs, renewable: true };
                let reply = Reply { lease: Some(info), ..Reply::empty() };
                let capped = now.plus(wanted) > until;
                return Ok(if capped { reply.warning("cut to what the role's max_ttl leaves") } else { reply });
            }
        }
    }
    Err(VaultError::Conflict)
}

/// Marked durably, then tried at once; what fails is tried again for ever.
pub(super) async fn revoke(scope: &Scope<'_>, mut found: Found) -> Result<Reply, VaultError> {
    let leases = Leases::of(scope.vault)?;
    for _ in 0..ATTEMPTS_MAX {
        let (by, one) = ((Why::Revoked, By::Request(scope)), std::slice::from_ref(&found));
        match mark::end(scope.vault, one, by, "", HELD_FOR).await {
            Err(ChangeError::Conflict(_)) => found = leases.load(&found.key).await?.ok_or_else(invalid)?,
            Err(error) => return Err(error.into()),
            // it ends already
            Ok((0, _)) => return Ok(Reply::empty()),
            Ok((_, revision)) => {
                // whoever makes it may be making it still
                if found.lease.state == State::Creating {
                    return Ok(Reply::empty().warning(NOT_YET));
                }
                found.lease.due = scope.now().plus(HELD_FOR).unix_millis();
                let path = leases.due(&found.lease, &found.key)?;
                return tried(scope, &found.lease.target, &path, revision).await;
            }
        }
    }
    Err(VaultError::Conflict)
}

async fn tried(
    scope: &Scope<'_>,
    target: &str,
    path: &EntryPath,
    fence: storage::Revision,
) -> Result<Reply, VaultError> {
    let outcome = look_at(scope.vault, Claimed { path, fence }, scope.now());
    let outcome = tokio::time::timeout(TRIED_FOR, outcome).await;
    Ok(match outcome {
        Ok(Ok(Became::Done)) => Reply::empty(),
        Ok(Ok(Became::Unreachable)) => {
            scope.vault.breakers().unreachable(target, scope.now());
            Reply::empty().warning(NOT_YET)
        }
        Ok(Ok(Became::Later) | Err(_)) | Err(_) => Reply::empty().warning(NOT_YET),
    })
}

/// All below a prefix that ends in a slash: how many, and whether nothing is left of them.
pub(super) async fn revoke_below(scope: &Scope<'_>, prefix: &str) -> Result<(usize, bool), VaultError> {
    let leases = Leases::of(scope.vault)?;
    let (by, databases) = (By::Request(scope), Mutex::new(BTreeSet::new()));
    let is_meant = |found: &Found| {
        let is_meant = found.lease.id.starts_with(prefix);
        if is_meant {
            databases.lock().unwrap_or_else(PoisonError::into_inner).insert(found.lease.target.clone());
        }
        is_meant
    };
    let exact = leases.at_path(prefix.trim_end_matches('/'))?;
    let (mut marked, mut whole) = mark::end_below(scope.vault, &exact, is_meant, (Why::Revoked, by), "").await?;
    // a prefix that is not what anybody asked for stands above several, or a mount
    if marked == 0 {
        let above = mark::end_below(scope.vault, &leases.all()?, is_meant, (Why::Revoked, by), "").await?;
        (marked, whole) = (marked + above.0, above.1);
    }
    if marked > 0 {
        let databases = databases.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = tokio::time::timeout(TRIED_FOR, worked(scope, &leases, &databases)).await;
    }
    Ok((marked, whole && !is_left(scope, &leases, prefix).await?))
}

/// Until nothing is due at these databases, side by side.
async fn worked(scope: &Scope<'_>, leases: &Leases, databases: &BTreeSet<String>) -> Result<(), VaultError> {
    let each: Vec<_> = databases.iter().take(DATABASES_AT_ONCE).map(|id| worked_at(scope, leases, id)).collect();
    futures_util::future::try_join_all(each).await.map(drop)
}

async fn worked_at(scope: &Scope<'_>, leases: &Leases, id: &str) -> Result<(), VaultError> {
    let Some((target, _)) = leases.load_target(id).await? else { return Ok(()) };
    // what was claimed late would be left to nobody when the request ends
    let began = Instant::now();
    while began.elapsed() < BEGUN_WITHIN && work_at(scope.vault, id, &target, scope.now()).await? > 0 {}
    Ok(())
}

async fn is_left(scope: &Scope<'_>, leases: &Leases, prefix: &str) -> Result<bool, VaultError> {
    let (found, _) = leases.below(&leases.at_path(prefix.trim_end_matches('/'))?, None, 1).await?;
    if !found.is_empty() {
        return Ok(true);
    }
    let mut left = false;
    let whole = each(scope, &leases.all()?, |id| left |= id.starts_with(prefix)).await?;
    Ok(left || !whole)
}

/// Calls `each` with the id of every lease below a folder; whether that was all.
async fn each(scope: &Scope<'_>, folder: &EntryPath, mut each: impl FnMut(&str)) -> Result<bool, VaultError> {
    let leases = Leases::of(scope.vault)?;
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let page = leases.view.scan(folder, after.as_ref(), PAGE).await?;
        for (_, found) in &page.entries {
            each(&String::from_utf8_lossy(found.value.expose()));
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds the names right below a prefix, folders with a slash.
pub(super) async fn names(scope: &Scope<'_>, prefix: &str, names: &mut BTreeSet<String>) -> Result<bool, VaultError> {
    let leases = Leases::of(scope.vault)?;
    let mut add = |id: &str| {
        if let Some(rest) = id.strip_prefix(prefix)
            && names.len() <= NAMES_MAX
        {
            names.insert(rest.split_once('/').map_or_else(|| rest.to_owned(), |(first, _)| format!("{first}/")));
        }
    };
    let exact = leases.at_path(prefix.trim_end_matches('/'))?;
    if !leases.view.scan(&exact, None, 1).await?.entries.is_empty() {
        return each(scope, &exact, add).await;
    }
    each(scope, &leases.all()?, &mut add).await
}

pub(super) async fn count(scope: &Scope<'_>, counts: &mut Counts) -> Result<(u64, bool), VaultError> {
    let (leases, table) = (Leases::of(scope.vault)?, scope.vault.table().await?);
    let mut count = 0;
    let add = |id: &str| {
        let mount = table.route(id).map_or("", |(path, ..)| path);
        *counts.entry(mount.to_owned()).or_default() += 1;
        count += 1;
    };
    let whole = each(scope, &leases.all()?, add).await?;
    Ok((count, whole))
}

/// What should have ended and has not: the oldest first of each database.
pub(super) async fn queue(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Queue<'a> {
        late: i64,
        oldest_late_seconds: i64,
        leases: Vec<Shown<'a>>,
    }
    let (leases, now) = (Leases::of(scope.vault)?, scope.now());
    let prefix = folder(scope.call.parameter("prefix").unwrap_or_default());
    let mut all = Vec::new();
    for (id, _) in targets(scope.vault).await? {
        let late = late_at(scope.vault, &id, now, QUEUE_MAX).await?;
        let found = leases.load_all(&late.into_keys().collect::<Vec<_>>()).await?;
        all.extend(found.into_iter().filter(|found| found.lease.id.starts_with(&prefix)));
    }
    let since = |found: &Found| found.lease.late_since.unwrap_or(found.lease.due);
    all.sort_by_key(since);
    let oldest = all.first().map_or(0, |found| now.unix_millis().saturating_sub(since(found)) / 1000);
    Reply::data(&Queue {
        late: i64::try_from(all.len()).unwrap_or(i64::MAX),
        oldest_late_seconds: i64::try_from(oldest).unwrap_or(i64::MAX),
        leases: all.iter().map(|found| shown(found, now)).collect(),
    })
}

const NOT_YET: &str = "not all access has ended yet: it is tried until it has, see sys/leases/queue";
/// How long a request waits for what goes on without it.
const TRIED_FOR: Duration = Duration::from_secs(15);
/// Before [`TRIED_FOR`] ends, by what is under way at the end.
const BEGUN_WITHIN: Duration = Duration::from_secs(7);
/// How long the queue leaves to a request what it takes back itself.
const HELD_FOR: Duration = Duration::from_secs(16);
/// Worked at by one request; the queue does the others.
const DATABASES_AT_ONCE: usize = 16;
const QUEUE_MAX: u32 = 200;
