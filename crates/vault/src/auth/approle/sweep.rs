//! What is over is swept up: SecretIDs at their end, and those of roles that are gone.
//!
//! Never: needed for anything to end. What is over is refused whether it was swept up or not.

use super::role::Roles;
use super::secret_id::{DUE, GONE, SecretId};
use crate::Done;
use crate::auth::token::started;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use storage::{Batch, EntryPath};

/// At every mount, a page of each. For a worker: how much was swept up.
pub(crate) async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let table = vault.table().await?;
    let mut done = Done::default();
    for (at, mount) in table.mounts.iter().filter(|(_, mount)| mount.kind == Kind::AppRole) {
        let view = vault.view(&mount.id)?;
        done.add(at, sweep_mount(vault, &view, now).await);
    }
    done.told()
}

/// At this mount, now. Vault answers the same before it begins.
pub(super) async fn tidy(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    for _ in 0..PAGES_MAX {
        if sweep_mount(scope.vault, &view, scope.now()).await? == 0 {
            break;
        }
    }
    started(
        scope,
        "Tidy operation successfully started. Any information from the operation will be printed to the server's logs.",
    )
}

async fn sweep_mount(vault: &Vault, view: &View, now: Timestamp) -> Result<usize, VaultError> {
    let roles = Roles::new(view);
    let mut done = Done::default();
    for (what, found) in [
        ("SecretIDs that are over", what_is_due(vault, &roles, now).await),
        ("SecretIDs of a role that is gone", whose_role_is_gone(vault, &roles).await),
    ] {
        done.add(what, commit(vault, found, now).await);
    }
    done.told()
}

async fn commit(vault: &Vault, found: Result<(Batch, usize), VaultError>, now: Timestamp) -> Result<usize, VaultError> {
    let (batch, swept) = found?;
    if swept == 0 {
        return Ok(0);
    }
    let record =
        Record { decision: Decision::Allowed, ..Record::new(now, "worker", "VaultSweepSecretIds", &Subject::System) };
    match vault.commit(batch, &record).await {
        // another node sweeps too
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(swept),
        Err(error) => Err(error.into()),
    }
}

async fn what_is_due(vault: &Vault, roles: &Roles<'_>, now: Timestamp) -> Result<(Batch, usize), VaultError> {
    let page = roles.view.scan(&roles.view.path(DUE)?, None, SWEPT_AT_ONCE).await?;
    let mut batch = vault.changes().batch()?;
    let mut swept = 0;
    for (path, _) in &page.entries {
        let mut segments = path.segments().skip_while(|segment| *segment != DUE).skip(1);
        let (Some(at), Some(incarnation), Some(hash)) = (segments.next(), segments.next(), segments.next()) else {
            continue;
        };
        if u64::from_str_radix(at, 16).is_ok_and(|at| at > now.unix_millis()) {
            break;
        }
        batch = drop_secret_id(roles, batch.delete(path.clone()), incarnation, hash).await?;
        swept += 1;
    }
    Ok((batch, swept))
}

async fn drop_secret_id(roles: &Roles<'_>, batch: Batch, incarnation: &str, hash: &str) -> Result<Batch, VaultError> {
    let path = roles.secret_path(incarnation, hash)?;
    let Some(found) = roles.view.load(&path).await? else { return Ok(batch) };
    let secret_id = SecretId::decode(found.value.expose())?;
    // a chosen one may have been taken anew in between
    let batch = batch.revision_is(path.clone(), found.revision);
    Ok(batch.delete(roles.accessor_path(incarnation, &secret_id.accessor)?).delete(path))
}

async fn whose_role_is_gone(vault: &Vault, roles: &Roles<'_>) -> Result<(Batch, usize), VaultError> {
    let batch = vault.changes().batch()?;
    let page = roles.view.scan(&roles.view.path(GONE)?, None, 1).await?;
    let Some((mark, _)) = page.entries.into_iter().next() else { return Ok((batch, 0)) };
    let incarnation = mark.segments().last().unwrap_or_default().to_owned();
    let mut left: Vec<EntryPath> = Vec::new();
    for below in ["s", "a"] {
        let room = GONE_AT_ONCE.saturating_sub(u32::try_from(left.len()).unwrap_or(u32::MAX));
        if room > 0 {
            let page = roles.view.scan(&roles.view.path(&format!("{below}/{incarnation}"))?, None, room).await?;
            left.extend(page.entries.into_iter().map(|(path, _)| path));
        }
    }
    if left.is_empty() {
        return Ok((batch.delete(mark), 1));
    }
    let swept = left.len();
    Ok((left.into_iter().fold(batch, Batch::delete), swept))
}

const SWEPT_AT_ONCE: u32 = 25;
const GONE_AT_ONCE: u32 = 100;
/// Of one request.
const PAGES_MAX: usize = 100;
