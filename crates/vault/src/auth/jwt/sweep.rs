//! Marks of tokens and logins that counted once are swept up when no such token counts any more.

use super::login::{DUE, used_path};
use super::role::Roles;
use crate::Done;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;

/// At every mount, a page. For a worker: how much was swept up.
pub(crate) async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let table = vault.table().await?;
    let mut done = Done::default();
    for (at, mount) in table.mounts.iter().filter(|(_, mount)| matches!(mount.kind, Kind::Jwt | Kind::Oidc)) {
        let view = vault.view(&mount.id)?;
        done.add(at, sweep_mount(vault, &view, now).await);
    }
    done.told()
}

async fn sweep_mount(vault: &Vault, view: &View, now: Timestamp) -> Result<usize, VaultError> {
    let roles = Roles::new(view);
    let page = view.scan(&view.path(DUE)?, None, SWEPT_AT_ONCE).await?;
    let mut batch = vault.changes().batch()?;
    let mut swept = 0;
    for (path, _) in &page.entries {
        let mut segments = path.segments().skip_while(|segment| *segment != DUE).skip(1);
        let (Some(at), Some(hash)) = (segments.next(), segments.next()) else { continue };
        if u64::from_str_radix(at, 16).is_ok_and(|at| at > now.unix_millis()) {
            break;
        }
        batch = batch.delete(path.clone()).delete(used_path(&roles, hash)?);
        swept += 1;
    }
    if swept == 0 {
        return Ok(0);
    }
    let record =
        Record { decision: Decision::Allowed, ..Record::new(now, "worker", "VaultSweepJwtIds", &Subject::System) };
    match vault.commit(batch, &record).await {
        // another node sweeps too
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(swept),
        Err(error) => Err(error.into()),
    }
}

const SWEPT_AT_ONCE: u32 = 50;
