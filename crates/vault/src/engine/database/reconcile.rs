//! `reconcile/:name`: what the database holds against what is lent.
//!
//! Always: only what bears this cluster's mark is looked at.

use super::plugin::{DatabaseError, User};
use super::{config, connection, refused};
use crate::error::VaultError;
use crate::lease::mark::{self, By, told};
use crate::lease::store::{Found, Leases};
use crate::lease::{State, Target, Why};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use audit::Outcome;
use envelope::Timestamp;
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Users that bear our mark and are nobody's.
    orphans: Vec<String>,
    /// Leases whose user is gone.
    lost: Vec<String>,
    /// How many of both were put right.
    repaired: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    No,
    Yes,
}

pub(super) async fn report(scope: &Scope<'_>, name: &str, repair: Repair) -> Result<Reply, VaultError> {
    let loaded = config::find(scope, name).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&reconcile(scope.vault, (&loaded.config.target, &loaded.target), repair, scope.now()).await?)
}

pub(crate) async fn reconcile(
    vault: &Vault,
    (id, target): (&str, &Target),
    repair: Repair,
    now: Timestamp,
) -> Result<Report, VaultError> {
    let away = |error: DatabaseError| refused(&error, true);
    let (plugin, to) = connection(vault, id, target).map_err(away)?;
    let leases = Leases::of(vault)?;
    // a lease is there before its user, and active after: what is active now has a user in the list that follows
    let active = active(&leases, target, id).await?;
    let users = plugin.own_users(&to).await.map_err(away)?;
    let mut report = Report::default();
    for user in &users {
        if leases.load(&user.lease).await?.is_some_and(|found| found.lease.username == user.name) {
            continue;
        }
        report.orphans.push(user.name.clone());
        if repair == Repair::Yes {
            let gone = User { name: &user.name, lease: &user.lease, statements: &[], heir: None };
            plugin.end_access(&to, &gone).await.map_err(away)?;
            plugin.clean_up(&to, &gone).await.map_err(away)?;
            vault.log(&told(now, "DatabaseOrphanDropped", &user.name, Outcome::Done)).await?;
            report.repaired += 1;
        }
    }
    let there: HashSet<&str> = users.iter().map(|user| user.name.as_str()).collect();
    for found in active.iter().filter(|found| !there.contains(found.lease.username.as_str())) {
        report.lost.push(found.lease.id.clone());
        if repair == Repair::Yes {
            let (by, one) = ((Why::Revoked, By::System("LeaseLost", now)), std::slice::from_ref(found));
            match mark::end(vault, one, by, &found.lease.id, Duration::ZERO).await {
                Ok((count, _)) => report.repaired += count,
                // it ends, or goes on, by itself
                Err(identity::ChangeError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(report)
}

async fn active(leases: &Leases, target: &Target, id: &str) -> Result<Vec<Found>, VaultError> {
    let (folder, mut after, mut active) = (leases.of_target(&target.mount, id)?, None, Vec::new());
    loop {
        let (found, next) = leases.below(&folder, after.as_ref(), 1000).await?;
        active.extend(found.into_iter().filter(|found| found.lease.state == State::Active));
        if next.is_none() || active.len() > LEASES_MAX {
            return Ok(active);
        }
        after = next;
    }
}

/// By itself, now and then: told, and put right by whoever is meant to. A copy of this store that was brought up elsewhere knows
/// nothing of what was lent since, and would take it back.
pub(crate) async fn by_itself(vault: &Vault, id: &str, target: &Target, now: Timestamp) {
    if target.retired || !vault.breakers().is_time_to_reconcile(id, now) {
        return;
    }
    match reconcile(vault, (id, target), Repair::No, now).await {
        Ok(report) if report.orphans.is_empty() && report.lost.is_empty() => {}
        Ok(report) => {
            let (orphans, lost) = (report.orphans.len(), report.lost.len());
            tracing::error!(
                name = target.name,
                orphans,
                lost,
                "a database does not hold what was lent: look at database/reconcile, and write repair=true to it"
            );
        }
        Err(error) => tracing::warn!(name = target.name, %error, "a database was not compared with what is lent"),
    }
}

/// Looked at in one round.
const LEASES_MAX: usize = 100_000;
