//! `reconcile/:name`: what the database holds against what is lent.
//!
//! Always: only what bears this cluster's mark is looked at.
//! Always: a page at a time, however many there are; what one page says is asked again before it is believed, for leases come
//! and go meanwhile.

use super::plugin::{DatabaseError, DatabasePlugin, OwnUser, USERS_PAGE, User};
use super::{config, connection, refused};
use crate::error::VaultError;
use crate::lease::breaker::Look;
use crate::lease::mark::{self, By, told};
use crate::lease::store::{Found, Leases, is_key};
use crate::lease::work::targets;
use crate::lease::{Since, State, Target, Why};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use audit::Outcome;
use envelope::Timestamp;
use futures_util::StreamExt as _;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Users that bear our mark and are nobody's.
    orphans: Vec<String>,
    /// Leases whose user is gone.
    lost: Vec<String>,
    /// How many of both were put right.
    repaired: usize,
    /// How many more of both there are than are listed.
    unlisted: usize,
    /// Whether all was looked at in the time that a request has.
    complete: bool,
}

impl Report {
    fn is_clean(&self) -> bool {
        self.orphans.is_empty() && self.lost.is_empty()
    }

    fn orphan(&mut self, name: &str) {
        if self.orphans.len() < LISTED_MAX { self.orphans.push(name.to_owned()) } else { self.unlisted += 1 }
    }

    fn lost(&mut self, lease: &str) {
        if self.lost.len() < LISTED_MAX { self.lost.push(lease.to_owned()) } else { self.unlisted += 1 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    No,
    Yes,
}

pub(super) async fn report(scope: &Scope<'_>, name: &str, repair: Repair) -> Result<Reply, VaultError> {
    let loaded = config::find(scope, name).await?.ok_or(VaultError::NotFound)?;
    let (id, target) = (&loaded.config.target, &loaded.target);
    let since = Since::new(scope.now());
    let report = reconcile(scope.vault, (id, target), repair, (&since, REPORTED_WITHIN)).await?;
    if repair == Repair::Yes && !report.complete {
        scope.vault.breakers().order(id);
    }
    Reply::data(&report)
}

async fn reconcile(
    vault: &Vault,
    (id, target): (&str, &Target),
    repair: Repair,
    (since, within): (&Since, Duration),
) -> Result<Report, VaultError> {
    let (plugin, to) = connection(vault, id, target).map_err(away)?;
    let at = At { vault, leases: Leases::of(vault)?, plugin, to, repair, since, until: Instant::now() + within };
    let mut report = Report { orphans: Vec::new(), lost: Vec::new(), repaired: 0, unlisted: 0, complete: true };
    let (folder, mut after) = (at.leases.of_target(&target.mount, id)?, None);
    loop {
        let (found, next) = at.leases.below(&folder, after.as_ref(), LEASES_PAGE).await?;
        at.lent(&found, &mut report).await?;
        // half of the time is the users'
        if next.is_none() || at.is_late(within / 2, &mut report) {
            break;
        }
        after = next;
    }
    let (pages, users) = mpsc::channel::<Vec<OwnUser>>(1);
    let looked = async {
        // gone with what went wrong: whoever sends more hears that nobody listens
        let mut users = users;
        while let Some(page) = users.recv().await {
            at.users(&page, &mut report).await?;
            if at.is_late(Duration::ZERO, &mut report) {
                break;
            }
        }
        Ok::<(), VaultError>(())
    };
    let (looked, listed) = tokio::join!(looked, at.plugin.own_users(&at.to, pages));
    looked.and(listed.map_err(away)).map(|()| report)
}

/// One database, while it is looked at.
struct At<'a> {
    vault: &'a Vault,
    leases: Leases,
    plugin: Arc<dyn DatabasePlugin>,
    to: super::plugin::Connection,
    repair: Repair,
    since: &'a Since,
    until: Instant,
}

impl At<'_> {
    /// Whether no more than this is left of the time.
    fn is_late(&self, left: Duration, report: &mut Report) -> bool {
        let is_late = Instant::now() + left >= self.until;
        report.complete &= !is_late;
        is_late
    }

    /// Those of the leases whose users are gone.
    async fn lent(&self, found: &[Found], report: &mut Report) -> Result<(), VaultError> {
        let active = || found.iter().filter(|found| found.lease.state == State::Active);
        let gone = self.gone(active().map(|found| found.lease.username.as_str())).await?;
        let without: Vec<String> =
            active().filter(|found| gone.contains(&found.lease.username)).map(|found| found.key.clone()).collect();
        // one that ended meanwhile has lost nobody
        for found in self.leases.load_all(&without).await?.iter().filter(|found| found.lease.state == State::Active) {
            report.lost(&found.lease.id);
            if self.repair == Repair::Yes && !self.is_late(Duration::ZERO, report) {
                let by = By::System("LeaseLost", self.since.now());
                let one = std::slice::from_ref(found);
                match mark::end(self.vault, one, (Why::Revoked, by), &found.lease.id, Duration::ZERO).await {
                    Ok((count, _)) => report.repaired += count,
                    // it ends, or goes on, by itself
                    Err(identity::ChangeError::Conflict(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Those of the users that are nobody's.
    async fn users(&self, users: &[OwnUser], report: &mut Report) -> Result<(), VaultError> {
        // a lease is there before its user
        let keys: Vec<String> = users.iter().map(|user| user.lease.clone()).filter(|key| is_key(key)).collect();
        let lent: HashMap<String, String> =
            self.leases.load_all(&keys).await?.into_iter().map(|found| (found.key, found.lease.username)).collect();
        let strays: Vec<&OwnUser> = users.iter().filter(|user| lent.get(&user.lease) != Some(&user.name)).collect();
        let gone = self.gone(strays.iter().map(|user| user.name.as_str())).await?;
        let orphans: Vec<OwnUser> = strays.into_iter().filter(|user| !gone.contains(&user.name)).cloned().collect();
        orphans.iter().for_each(|user| report.orphan(&user.name));
        if self.repair == Repair::No {
            return Ok(());
        }
        let in_time = futures_util::stream::iter(orphans).take_while(|_| ready(!self.is_late(Duration::ZERO, report)));
        let outcomes: Vec<_> = in_time.map(|user| self.drop(user)).buffer_unordered(AT_ONCE).collect().await;
        for outcome in outcomes {
            report.repaired += outcome?;
        }
        Ok(())
    }

    /// One that does not go keeps no other from going: how many did.
    async fn drop(&self, user: OwnUser) -> Result<usize, VaultError> {
        let gone = User { name: &user.name, lease: &user.lease, statements: &[], heir: None };
        let told = |outcome| told(self.since.now(), "DatabaseOrphanDropped", &user.name, outcome);
        self.vault.log(&told(Outcome::Asked)).await?;
        let dropped = async {
            self.plugin.end_access(&self.to, &gone).await?;
            self.plugin.clean_up(&self.to, &gone).await
        };
        if let Err(error) = dropped.await {
            tracing::warn!(user = user.name, %error, "a user that is nobody's was not dropped");
            return Ok(0);
        }
        self.vault.log(&told(Outcome::Done)).await?;
        Ok(1)
    }

    async fn gone(&self, names: impl Iterator<Item = &str>) -> Result<HashSet<String>, VaultError> {
        let names: Vec<&str> = names.collect();
        let mut gone = HashSet::new();
        for page in names.chunks(USERS_PAGE) {
            gone.extend(self.plugin.strangers(&self.to, page).await.map_err(away)?);
        }
        Ok(gone)
    }
}

fn away(error: DatabaseError) -> VaultError {
    refused(&error, true)
}

/// By itself, each database now and then: what it holds is told, and put right where that was ordered. A copy of this store that
/// was brought up elsewhere knows nothing of what was lent since, and would take it back. For a worker of its own: many users
/// take minutes.
pub async fn compare(vault: &Vault, now: Timestamp) -> Result<(), VaultError> {
    let (since, targets) = (&Since::new(now), targets(vault).await?);
    let compared = futures_util::stream::iter(&targets).for_each_concurrent(AT_ONCE, |(id, target)| async move {
        let (name, breakers) = (&target.name, vault.breakers());
        if target.retired || breakers.fails(id) || !breakers.is_time_to(Look::Users, id, since.now()) {
            return;
        }
        let repair = if breakers.take_order(id) { Repair::Yes } else { Repair::No };
        let compared = reconcile(vault, (id, target), repair, (since, COMPARED_WITHIN));
        match tokio::time::timeout(2 * COMPARED_WITHIN, compared).await {
            Ok(Ok(report)) if report.is_clean() && report.complete => {}
            Ok(Ok(Report { orphans, lost, unlisted, complete, repaired })) => {
                let (orphans, lost) = (orphans.len(), lost.len());
                let why = "a database does not hold what was lent, or more than can be looked at in time: look at \
                           database/reconcile, and write repair=true to it";
                tracing::error!(name, orphans, lost, unlisted, complete, repaired, "{why}");
            }
            Ok(Err(error)) => tracing::warn!(name, %error, "a database was not compared with what is lent"),
            Err(_) => tracing::warn!(name, "a database was not compared with what is lent: it answers slowly"),
        }
    });
    compared.await;
    Ok(())
}

/// Of orphans, and of leases.
const LISTED_MAX: usize = 10_000;
const LEASES_PAGE: u32 = 500;
/// Databases, and orphans of one.
const AT_ONCE: usize = 4;
/// A request has thirty seconds; what is under way then ends first.
const REPORTED_WITHIN: Duration = Duration::from_secs(12);
const COMPARED_WITHIN: Duration = Duration::from_secs(600);
