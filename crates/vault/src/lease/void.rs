//! Leases whose holders ended without anybody's being told: looked through now and then.
//!
//! Always: the store alone is asked; a database that is away keeps nothing from being marked.

use super::mark::{self, By};
use super::store::{Found, Leases};
use super::{Since, Target, Why};
use crate::error::VaultError;
use crate::service::Vault;
use identity::Older;
use std::collections::BTreeSet;
use std::time::Duration;
use storage::EntryPath;

/// Marks what was lent at one database to tokens and certificates that are void. How many leases.
pub(crate) async fn end_void(
    vault: &Vault,
    (id, target): (&str, &Target),
    older: Older,
    since: &Since,
) -> Result<usize, VaultError> {
    let leases = Leases::of(vault)?;
    let (folder, mut after, mut ended) = (leases.of_target(&target.mount, id)?, None, 0);
    let mut failed = None;
    loop {
        let (next, outcome) = end_page(vault, &leases, (&folder, after.as_ref()), older, since).await?;
        match outcome {
            Ok(count) => ended += count,
            // what cannot be read keeps no other from being looked at
            Err(error) => drop(failed.get_or_insert(error)),
        }
        if next.is_none() {
            return failed.map_or(Ok(ended), Err);
        }
        after = next;
    }
}

type Page = (Option<EntryPath>, Result<usize, VaultError>);

async fn end_page(
    vault: &Vault,
    leases: &Leases,
    (folder, after): (&EntryPath, Option<&EntryPath>),
    older: Older,
    since: &Since,
) -> Result<Page, VaultError> {
    let (found, next) = leases.below(folder, after, PAGE).await?;
    let outcome = async {
        let void = void(vault, &found, older).await?;
        let mut ended = 0;
        for some in void.chunks(mark::A_BATCH as usize) {
            ended += end(vault, leases, some, since).await?;
        }
        Ok(ended)
    };
    Ok((next, outcome.await))
}

/// The keys of those whose holders are.
async fn void(vault: &Vault, found: &[Found], older: Older) -> Result<Vec<String>, VaultError> {
    let tokens: BTreeSet<&str> = found.iter().filter_map(|found| found.lease.token.as_deref()).collect();
    let roles: BTreeSet<&str> = found.iter().filter_map(|found| found.lease.role.as_deref()).collect();
    let (tokens, roles): (Vec<&str>, Vec<&str>) = (tokens.into_iter().collect(), roles.into_iter().collect());
    let tokens = vault.identities().void_tokens(&tokens, older).await?;
    let roles = vault.identities().void_roles(&roles).await?;
    let is = |holder: &Option<String>, void: &[&str]| holder.as_deref().is_some_and(|holder| void.contains(&holder));
    let void = found.iter().filter(|found| is(&found.lease.token, &tokens) || is(&found.lease.role, &roles));
    Ok(void.map(|found| found.key.clone()).collect())
}

async fn end(vault: &Vault, leases: &Leases, keys: &[String], since: &Since) -> Result<usize, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = leases.load_all(keys).await?;
        let by = By::System("LeaseEnd", since.now());
        match mark::end(vault, &found, (Why::Token, by), "auth/token/void", Duration::ZERO).await {
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
