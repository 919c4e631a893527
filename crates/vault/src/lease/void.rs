//! Leases that are void, or whose holders are, without anybody's being told: looked through now and then.
//!
//! Always: the store alone is asked; a database that is away keeps nothing from being marked.

use super::breaker::Look;
use super::mark::{self, By};
use super::store::{Found, Leases, last};
use super::work::targets;
use super::{Since, Target, Why};
use crate::error::VaultError;
use crate::service::Vault;
use envelope::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// What was lent to certificates whose roles are gone, and to tokens that came from these, is taken back; and all that was lent
/// before an operator acknowledged that store and audit log disagree. How many leases. For a worker of its own, every few
/// seconds: each database's are looked through right after the start, and every ten minutes.
pub async fn end_void(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let (since, mut ended) = (Since::new(now), 0);
    for (id, target) in targets(vault).await? {
        if !vault.breakers().is_time_to(Look::Holders, &id, since.now()) {
            continue;
        }
        match end_at(vault, (&id, &target), &since).await {
            Ok(count) => ended += count,
            Err(error) => {
                tracing::warn!(name = target.name, %error, "it was not seen whether all who were lent users are there");
                vault.breakers().again(Look::Holders, &id);
            }
        }
    }
    Ok(ended)
}

async fn end_at(vault: &Vault, (id, target): (&str, &Target), since: &Since) -> Result<usize, VaultError> {
    let leases = Leases::of(vault)?;
    let (folder, mut after, mut ended, mut failed) = (leases.of_target(&target.mount, id)?, None, 0, None);
    loop {
        let page = leases.view.scan(&folder, after.as_ref(), PAGE).await?;
        let keys: Vec<String> = page.entries.iter().map(|(path, _)| last(path)).collect();
        match end_among(vault, &leases, &keys, since).await {
            Ok(count) => ended += count,
            // what cannot be read keeps those on other pages from nothing
            Err(error) => drop(failed.get_or_insert(error)),
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more {
            return failed.map_or(Ok(ended), Err);
        }
    }
}

async fn end_among(vault: &Vault, leases: &Leases, keys: &[String], since: &Since) -> Result<usize, VaultError> {
    let found = leases.load_all(keys).await?;
    let (void, others): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(|found| vault.is_void(found.lease.generation));
    let void: Vec<String> = void.into_iter().map(|found| found.key).collect();
    let mut ended = 0;
    for some in void.chunks(mark::A_BATCH as usize) {
        ended += end(vault, leases, some, ((Why::Void, "operator/acknowledge"), since)).await?;
    }
    for some in without_holders(vault, &others).await?.chunks(mark::A_BATCH as usize) {
        ended += end(vault, leases, some, ((Why::Token, "auth/token/void"), since)).await?;
    }
    Ok(ended)
}

/// The keys of those whose holders are void.
async fn without_holders(vault: &Vault, found: &[Found]) -> Result<Vec<String>, VaultError> {
    let tokens: BTreeSet<&str> = found.iter().filter_map(|found| found.lease.token.as_deref()).collect();
    let certificates: BTreeSet<&str> = found.iter().filter_map(|found| found.lease.certificate.as_deref()).collect();
    let (tokens, certificates): (Vec<&str>, Vec<&str>) =
        (tokens.into_iter().collect(), certificates.into_iter().collect());
    let tokens = vault.identities().void_tokens(&tokens).await?;
    let certificates = vault.identities().void_certificates(&certificates).await?;
    let is = |holder: &Option<String>, void: &[&str]| holder.as_deref().is_some_and(|holder| void.contains(&holder));
    let is_void = |found: &&Found| is(&found.lease.token, &tokens) || is(&found.lease.certificate, &certificates);
    Ok(found.iter().filter(is_void).map(|found| found.key.clone()).collect())
}

async fn end(
    vault: &Vault,
    leases: &Leases,
    keys: &[String],
    ((why, about), since): ((Why, &str), &Since),
) -> Result<usize, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = leases.load_all(keys).await?;
        let by = By::System("LeaseEnd", since.now());
        match mark::end(vault, &found, (why, by), about, Duration::ZERO).await {
            Ok((count, _)) => return Ok(count),
            // some were renewed, or ended
            Err(identity::ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

const PAGE: u32 = 500;
const ATTEMPTS_MAX: usize = 8;
