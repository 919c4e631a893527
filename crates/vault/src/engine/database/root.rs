//! `rotate-root/:name`: the account by which we come in gets a password that nobody else knows.
//!
//! Always: the new password is durable before the database hears of it, and counts once it was logged in with. Until then both
//! are kept: whichever the database knows, we come in.
//! Always: whoever tries again takes the same new password, so that any number at once agree.

use super::config::{self, Loaded};
use super::plugin::{Connection, DatabaseError};
use super::{ATTEMPTS_MAX, connection, password, refused};
use crate::error::VaultError;
use crate::lease::Target;
use crate::lease::mark::told;
use crate::lease::store::Leases;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use audit::Outcome;
use envelope::Timestamp;
use identity::ChangeError;

pub(super) async fn rotate(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let leases = Leases::of(scope.vault)?;
    for _ in 0..ATTEMPTS_MAX {
        let loaded = config::find(scope, name).await?.ok_or(VaultError::NotFound)?;
        let Loaded { config, mut target, target_revision, .. } = loaded;
        let path = leases.target(&config.target)?;
        let mut revision = target_revision;
        if target.next_password.is_none() {
            target.next_password = Some(password::make(scope.vault, &config.password_policy).await?);
            let batch = scope.batch()?.revision_is(path.clone(), revision);
            let record = told(scope.now(), "DatabaseRotateRoot", name, Outcome::Asked);
            revision = match scope.vault.commit(leases.put(batch, path.clone(), &target)?, &record).await {
                Err(ChangeError::Conflict(_)) => continue,
                outcome => outcome?,
            };
        }
        let set = set(scope.vault, &config.target, &target, &config.root_rotation_statements).await;
        set.map_err(|error| refused(&error, true))?;
        let batch = scope.batch()?.revision_is(path.clone(), revision);
        match scope.commit(leases.put(batch, path, &promoted(target))?).await {
            // somebody else promoted the same one
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

async fn set(vault: &Vault, id: &str, target: &Target, statements: &[String]) -> Result<(), DatabaseError> {
    let (plugin, to) = connection(vault, id, target)?;
    let next = target.next_password.as_ref().map(|next| next.as_str()).unwrap_or_default();
    // it may be so already, and in memory alone
    if plugin.verify_login(&to, &target.username, next).await.is_ok() {
        plugin.make_durable(&Connection { password: next.to_owned().into(), ..to.clone() }).await?;
    } else {
        plugin.set_password(&to, &target.username, next, statements).await?;
    }
    // the server may have started anew meanwhile
    plugin.verify_login(&to, &target.username, next).await
}

fn promoted(mut target: Target) -> Target {
    if let Some(next) = target.next_password.take() {
        target.password = next;
        target.version += 1;
    }
    target
}

/// Where a rotation was cut off after the database had heard of the new password, that is ours from now on.
pub(crate) async fn settle(vault: &Vault, id: &str, now: Timestamp) -> Result<(), VaultError> {
    let leases = Leases::of(vault)?;
    let Some((target, revision)) = leases.load_target(id).await? else { return Ok(()) };
    let Some(next) = target.next_password.clone() else { return Ok(()) };
    let Ok((plugin, to)) = connection(vault, id, &target) else { return Ok(()) };
    let is_so = async {
        plugin.verify_login(&to, &target.username, &next).await?;
        plugin.make_durable(&Connection { password: next.clone(), ..to.clone() }).await?;
        plugin.verify_login(&to, &target.username, &next).await
    };
    if is_so.await.is_err() {
        return Ok(());
    }
    let (path, name) = (leases.target(id)?, target.name.clone());
    let batch = vault.changes().batch()?.revision_is(path.clone(), revision);
    let batch = leases.put(batch, path, &promoted(target))?;
    match vault.commit(batch, &told(now, "DatabaseRotateRoot", &name, Outcome::Done)).await {
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
