//! The queue's worker: what is due, of each database a bounded number at once.
//!
//! Always: databases are looked at side by side: one that is away, or slow, keeps no other waiting.
//! Always: what is late is told: in the log, and as numbers.

use super::breaker::Gate;
use super::end::{Became, Claimed, look_at};
use super::mark::{By, told};
use super::store::{Leases, last};
use super::{Target, Why};
use crate::Done;
use crate::error::VaultError;
use crate::service::Vault;
use crate::stored::decode;
use audit::Outcome;
use envelope::Timestamp;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use storage::{AtLeast, Claim, PAGE_ENTRIES_MAX, Revision};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What is late, as of the last look.
#[derive(Debug, Default)]
pub struct Late {
    leases: AtomicI64,
    oldest_secs: AtomicI64,
}

impl Late {
    /// Leases that should have ended [`TOLD_AFTER_MILLIS`] ago, of each database a thousand at most.
    pub fn leases(&self) -> i64 {
        self.leases.load(Ordering::Relaxed)
    }

    /// For how long the oldest of them is late.
    pub fn oldest_secs(&self) -> i64 {
        self.oldest_secs.load(Ordering::Relaxed)
    }
}

/// What waits for something of its own.
enum Part {
    Tokens,
    Entities,
    StaticRoles,
    Target(String, Box<Target>),
}

/// One time round all parts.
struct Round {
    now: Timestamp,
    began: Instant,
    /// Parts that have not had their first turn.
    left: AtomicUsize,
    permits: Semaphore,
}

/// Takes back what is due: for a worker, again and again. How much there was to do.
///
/// A round lasts as long as its slowest part: the others have more turns meanwhile.
pub async fn work(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let targets = targets(vault).await?.into_iter().map(|(id, target)| Part::Target(id, Box::new(target)));
    let parts: Vec<Part> = [Part::Tokens, Part::Entities, Part::StaticRoles].into_iter().chain(targets).collect();
    let (left, permits) = (AtomicUsize::new(parts.len()), Semaphore::new(PARTS_AT_ONCE));
    let round = Round { now, began: Instant::now(), left, permits };
    let all: Vec<_> = parts.iter().map(|part| turns(vault, part, &round)).collect();
    let mut done = Done::default();
    for (part, outcome) in parts.iter().zip(futures_util::future::join_all(all).await) {
        done.add(part.name(), outcome);
    }
    done.told()
}

/// A turn, and more while others are at their first.
async fn turns(vault: &Vault, part: &Part, round: &Round) -> Result<usize, VaultError> {
    let turn = async || {
        let _permit = round.permits.acquire().await;
        part.turn(vault, round.now.plus(round.began.elapsed())).await
    };
    let outcome = turn().await;
    round.left.fetch_sub(1, Ordering::Relaxed);
    let mut done = outcome?;
    while round.left.load(Ordering::Relaxed) > 0 {
        let count = turn().await?;
        done += count;
        if count == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(done)
}

impl Part {
    async fn turn(&self, vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
        match self {
            Self::Tokens => tokens_gone(vault, now).await,
            Self::Entities => entities_gone(vault, now).await,
            Self::StaticRoles => crate::engine::database::statics::work(vault, now).await,
            Self::Target(id, target) => work_at(vault, id, target, now).await,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Tokens => "leases of tokens that are gone",
            Self::Entities => "leases of entities that are gone",
            Self::StaticRoles => "static roles",
            Self::Target(..) => "leases of a database",
        }
    }
}

pub(crate) async fn targets(vault: &Vault) -> Result<Vec<(String, Target)>, VaultError> {
    let leases = Leases::of(vault)?;
    let (mut after, mut targets) = (None, Vec::new());
    loop {
        let page = leases.view.scan(&leases.targets()?, after.as_ref(), PAGE_ENTRIES_MAX).await?;
        for (path, found) in &page.entries {
            targets.push((last(path), decode(found.value.expose())?));
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more {
            return Ok(targets);
        }
    }
}

/// What is due at one database, a bounded number.
pub(crate) async fn work_at(vault: &Vault, id: &str, target: &Target, now: Timestamp) -> Result<usize, VaultError> {
    if !target.ended && is_mount_gone(vault, &target.mount).await? {
        retire(vault, id, now).await?;
    }
    let limit = match vault.breakers().gate(id, now) {
        Gate::Open => CLAIMED_AT_ONCE,
        Gate::Probe => 1,
        Gate::Shut => return Ok(0),
    };
    if limit == 1 && target.next_password.is_some() {
        crate::engine::database::root::settle(vault, id, now).await?;
    }
    let (queue, began, failing) = (Leases::of(vault)?.queue(id)?, Instant::now(), AtomicBool::new(false));
    let goes_on = || began.elapsed() < CLAIMS_FOR && !failing.load(Ordering::Relaxed) && !vault.breakers().fails(id);
    let claim = || {
        async {
            let claims = vault.barrier().storage().claim(&queue, limit, CLAIMED_FOR).await?;
            if claims.is_empty() && limit == 1 {
                vault.breakers().reached(id);
            }
            Ok(claims)
        }
        .boxed()
    };
    let attended = pages(limit, &goes_on, &claim)
        .map(|claim| async move { attend(vault, id, &claim?, now.plus(began.elapsed())).await })
        .buffer_unordered(at_once(vault, target));
    let mut attended = std::pin::pin!(attended);
    let (mut count, mut failed) = (0, None);
    while let Some(outcome) = attended.next().await {
        count += 1;
        if let Err(error) = outcome {
            tracing::warn!(%error, "a lease that is due was not looked at; it stays due");
            failing.store(true, Ordering::Relaxed);
            failed = Some(error);
        }
    }
    failed.map_or(Ok(count), Err)
}

/// Claims, page by page: the next one once there is room for it, while there are full ones and it goes on.
fn pages<'a, T: Send + 'a>(
    limit: u32,
    goes_on: &'a (impl Fn() -> bool + Sync),
    claim: &'a (impl Fn() -> BoxFuture<'a, Result<Vec<T>, VaultError>> + Sync),
) -> impl Stream<Item = Result<T, VaultError>> + 'a {
    let most = if limit == 1 { 1 } else { PAGES_MAX };
    futures_util::stream::try_unfold(0, move |number| async move {
        if number == most || (number > 0 && !goes_on()) {
            return Ok::<_, VaultError>(None);
        }
        let claims = claim().await?;
        if claims.is_empty() {
            return Ok(None);
        }
        let next = if claims.len() < limit as usize { most } else { number + 1 };
        Ok(Some((futures_util::stream::iter(claims.into_iter().map(Ok)), next)))
    })
    .try_flatten()
}

/// Who ends users together has several groups of them under way; each other one waits for a connection by itself.
fn at_once(vault: &Vault, target: &Target) -> usize {
    let together = vault.databases().plugin(&target.plugin).is_some_and(|plugin| plugin.ends_together());
    let most = if together { 3 * AT_ONCE } else { AT_ONCE };
    (48 * target.connections_max as usize).clamp(AT_ONCE, most)
}

async fn attend(vault: &Vault, id: &str, claim: &Claim, now: Timestamp) -> Result<(), VaultError> {
    // one that was found away meanwhile is not asked by all others as well
    if vault.breakers().is_shut(id, now) {
        return Ok(());
    }
    match look_at(vault, Claimed { path: &claim.path, fence: claim.fence }, now).await? {
        Became::Unreachable => vault.breakers().unreachable(id, now),
        Became::Done => vault.breakers().reached(id),
        Became::Later => {}
    }
    Ok(())
}

/// Marks what was lent to tokens that have ended.
async fn tokens_gone(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let ended = vault.identities().ended_tokens(TOKENS_AT_ONCE, CLAIMED_FOR).await?;
    let (leases, mut batch) = (Leases::of(vault)?, vault.changes().batch()?);
    let count = ended.len();
    for token in ended {
        let folder = leases.of_token(&token.accessor)?;
        let by = By::System("LeaseEnd", now);
        let (_, whole) =
            super::mark::end_below(vault, &folder, |_| true, (Why::Token, by), "auth/token/revoke").await?;
        if whole {
            batch = batch.revision_is(token.claim.path.clone(), token.claim.fence).delete(token.claim.path);
        }
    }
    if count > 0 {
        match vault.commit(batch, &told(now, "LeaseTokensEnded", "", Outcome::Done)).await {
            Ok(_) | Err(identity::ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}

/// Marks what was lent to entities that are disabled or gone.
async fn entities_gone(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let leases = Leases::of(vault)?;
    let claims = vault.barrier().storage().claim(&leases.ended_entities()?, ENTITIES_AT_ONCE, CLAIMED_FOR).await?;
    let mut done = Done::default();
    for claim in &claims {
        // one that cannot be read keeps no other waiting
        done.add("leases of an entity", entity_gone(vault, &leases, claim, now).await.map(|()| 1));
    }
    done.told()
}

async fn entity_gone(vault: &Vault, leases: &Leases, claim: &Claim, now: Timestamp) -> Result<(), VaultError> {
    let Claim { path, entry, fence } = claim;
    let ids: Vec<String> = decode(vault.barrier().open(path, &entry.value)?.expose())?;
    for id in &ids {
        let (folder, by) = (leases.of_entity(id)?, By::System("LeaseEnd", now));
        let (_, whole) = super::mark::end_below(vault, &folder, |_| true, (Why::Entity, by), "identity/entity").await?;
        if !whole {
            return Ok(());
        }
    }
    let batch = vault.changes().batch()?.revision_is(path.clone(), *fence).delete(path.clone());
    match vault.commit(batch, &told(now, "LeaseEntityEnded", "", Outcome::Done)).await {
        Ok(_) | Err(identity::ChangeError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn is_mount_gone(vault: &Vault, mount: &str) -> Result<bool, VaultError> {
    let is_there = |table: &crate::mount::Table| table.mounts.values().any(|other| other.id == mount);
    // what is known from memory may be older than the mount
    Ok(!is_there(&*vault.table().await?) && !is_there(&vault.load_table().await?.0))
}

/// Nothing new is made at a database whose mount is gone, and all that was is taken back. Once nothing is left of it, how it is
/// reached is forgotten.
async fn retire(vault: &Vault, id: &str, now: Timestamp) -> Result<(), VaultError> {
    let leases = Leases::of(vault)?;
    let Some((mut target, mut revision)) = leases.load_target(id).await? else { return Ok(()) };
    let path = leases.target(id)?;
    let store = async |target: &Target, revision: Revision| -> Result<Revision, VaultError> {
        let batch = vault.changes().batch()?.revision_is(path.clone(), revision);
        let batch = leases.put(batch, path.clone(), target)?;
        Ok(vault.commit(batch, &told(now, "DatabaseRetire", &target.name, Outcome::Done)).await?)
    };
    if !target.retired {
        target.retired = true;
        revision = store(&target, revision).await?;
    }
    let (folder, by) = (leases.of_target(&target.mount, id)?, By::System("LeaseEnd", now));
    let (_, whole) = super::mark::end_below(vault, &folder, |_| true, (Why::Mount, by), &target.name).await?;
    if whole && !target.ended {
        target.ended = true;
        store(&target, revision).await?;
    }
    Ok(())
}

/// Drops how databases are reached whose configurations are gone and where nothing was left to take back; tells what is late.
pub(crate) async fn look_after(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let leases = Leases::of(vault)?;
    let (mut dropped, mut late, mut oldest) = (0, 0, None);
    for (id, target) in targets(vault).await? {
        let told = Timestamp::from_unix_millis(now.unix_millis().saturating_sub(TOLD_AFTER_MILLIS));
        let found = late_at(vault, &id, told, PAGE_ENTRIES_MAX).await?;
        late += found.len();
        oldest = oldest.into_iter().chain(found.into_values()).min();
        if target.retired && forget(vault, &leases, (&id, &target), now).await? {
            dropped += 1;
        }
    }
    let oldest = oldest.map_or(0, |oldest| now.unix_millis().saturating_sub(oldest) / 1000);
    let told = vault.late();
    told.leases.store(i64::try_from(late).unwrap_or(i64::MAX), Ordering::Relaxed);
    told.oldest_secs.store(i64::try_from(oldest).unwrap_or(i64::MAX), Ordering::Relaxed);
    if late > 0 {
        tracing::error!(leases = late, oldest_secs = oldest, "leases are late: what they guard has not ended in time");
    }
    Ok(dropped)
}

/// What should have ended by then at one database, and since when; of each folder a number.
pub(crate) async fn late_at(
    vault: &Vault,
    id: &str,
    by: Timestamp,
    limit: u32,
) -> Result<HashMap<String, u64>, VaultError> {
    let leases = Leases::of(vault)?;
    let mut late: HashMap<String, u64> = HashMap::new();
    // what failed stands in both: by when it is tried again, and since when it is late
    for folder in [leases.queue(id)?, leases.view.path(&format!("late/{id}"))?] {
        let page = vault.barrier().storage().scan(&folder, None, limit, AtLeast::Latest).await?;
        for (path, _) in &page.entries {
            if let Some(since) = since(path).filter(|since| *since <= by.unix_millis()) {
                let known = late.entry(last(path)).or_insert(since);
                *known = since.min(*known);
            }
        }
    }
    Ok(late)
}

async fn forget(
    vault: &Vault,
    leases: &Leases,
    (id, target): (&str, &Target),
    now: Timestamp,
) -> Result<bool, VaultError> {
    if leases.are_at(vault, id, target).await? {
        return Ok(false);
    }
    let Some((_, revision)) = leases.load_target(id).await? else { return Ok(false) };
    let path = leases.target(id)?;
    let batch = vault.changes().batch()?.revision_is(path.clone(), revision).delete(path);
    vault.commit(batch, &told(now, "DatabaseForget", &target.name, Outcome::Done)).await?;
    vault.breakers().forget(id);
    if let Some(plugin) = vault.databases().plugin(&target.plugin) {
        plugin.forget(id);
    }
    Ok(true)
}

fn since(path: &storage::EntryPath) -> Option<u64> {
    u64::from_str_radix(path.as_str().rsplit('/').nth(1)?, 16).ok()
}

/// How late a lease may be before it is told.
const TOLD_AFTER_MILLIS: u64 = 10_000;
/// Longer than what is claimed takes where its database answers. Where it does not, somebody else may come to a lease that is
/// still attended to: its fence lets one of them go on.
const CLAIMED_FOR: Duration = Duration::from_secs(45);
const CLAIMED_AT_ONCE: u32 = 64;
/// In one turn, and for how long: other parts may be new meanwhile.
const PAGES_MAX: usize = 16;
const CLAIMS_FOR: Duration = Duration::from_secs(5);
/// Of one database: more than it has connections, as each waits a while for sessions that are just beginning, and what ends at
/// one moment is ended at once.
const AT_ONCE: usize = 64;
const PARTS_AT_ONCE: usize = 16;
/// Of a part that has nothing to do while others have.
const PAUSE: Duration = Duration::from_millis(250);
/// Two operations each, of 128.
const TOKENS_AT_ONCE: u32 = 48;
const ENTITIES_AT_ONCE: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    async fn claimed(limit: u32, due: usize, goes_on: impl Fn(usize) -> bool + Sync) -> (usize, usize) {
        let (left, claims) = (AtomicUsize::new(due), AtomicUsize::new(0));
        let goes_on = || goes_on(claims.load(Ordering::Relaxed));
        let claim = || {
            claims.fetch_add(1, Ordering::Relaxed);
            let some = left.load(Ordering::Relaxed).min(limit as usize);
            left.fetch_sub(some, Ordering::Relaxed);
            futures_util::future::ready(Ok(vec![(); some])).boxed()
        };
        let all = pages(limit, &goes_on, &claim).count().await;
        (all, claims.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn no_more_is_claimed_than_there_is_and_nothing_once_it_does_not_go_on() {
        for (limit, due, until, expected) in [
            (64, 0, 9, (0, 1)),
            (64, 63, 9, (63, 1)),
            (64, 64, 9, (64, 2)),
            (64, 200, 9, (200, 4)),
            (64, 10_000, 99, (64 * PAGES_MAX, PAGES_MAX)),
            // it is away, or the turn has lasted long
            (64, 10_000, 0, (64, 1)),
            (64, 10_000, 2, (128, 2)),
            // one that probes
            (1, 10_000, 99, (1, 1)),
        ] {
            assert_eq!(claimed(limit, due, |claims| claims < until).await, expected, "{limit} {due} {until}");
        }
    }
}
