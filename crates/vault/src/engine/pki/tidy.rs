//! What is over goes, and lists are made anew before they are too old: when somebody asks, and by a worker.

use super::authority::Authority;
use super::crl;
use super::record::drop_ended;
use super::x509::Asks;
use crate::error::VaultError;
use crate::mount::{Kind, Mount};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Item, Outcome, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use std::time::Duration;
use storage::Batch;

/// `tidy`: with a buffer of one's own, as far as is done in one go.
pub(super) async fn tidy(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    for field in ["tidy_acme", "tidy_cross_cluster_revoked_certs", "tidy_expired_issuers", "tidy_move_legacy_ca_bundle"]
    {
        if body.bool(field)?.unwrap_or(false) {
            return Err(VaultError::field(field, "not supported"));
        }
    }
    let buffer = body.duration("safety_buffer")?.unwrap_or(BUFFER);
    let before = scope.now().unix_millis().saturating_sub(u64::try_from(buffer.as_millis()).unwrap_or(u64::MAX));
    let view = scope.view()?;
    let mut dropped = 0;
    for _ in 0..PAGES_MAX {
        let (batch, page) = drop_ended(&view, scope.batch()?, before).await?;
        if page == 0 {
            break;
        }
        scope.commit(batch).await?;
        dropped += page;
    }
    let reply = Reply::empty().warning(format!("{dropped} certificates that are over were dropped."));
    Ok(reply)
}

/// One turn of a worker, over all mounts. How much there was to do.
pub(crate) async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let table = vault.table().await?;
    let mut done = 0;
    for (_, mount) in table.secrets().filter(|(_, mount)| mount.kind == Kind::Pki) {
        let view = vault.view(&mount.id)?;
        done += drop_old(vault, &view, now).await?;
        // one authority whose key is away keeps no other mount waiting
        match renew_lists(vault, (mount, &view), now).await {
            Ok(renewed) => done += renewed,
            Err(error) => tracing::warn!(%error, "a list of what is revoked was not renewed, and stays due"),
        }
    }
    Ok(done)
}

async fn drop_old(vault: &Vault, view: &View, now: Timestamp) -> Result<usize, VaultError> {
    let buffer = u64::try_from(BUFFER.as_millis()).unwrap_or(u64::MAX);
    let before = now.unix_millis().saturating_sub(buffer);
    let mut all = 0;
    // more in a turn than are issued meanwhile
    for _ in 0..PAGES_A_TURN {
        let (batch, dropped) = drop_ended(view, vault.changes().batch()?, before).await?;
        if dropped == 0 {
            break;
        }
        commit(vault, batch, ("VaultTidyCertificates", now), None).await?;
        all += dropped;
    }
    Ok(all)
}

async fn renew_lists(vault: &Vault, (mount, view): (&Mount, &View), now: Timestamp) -> Result<usize, VaultError> {
    let authority = Authority::read(view).await?;
    let mut renewed = 0;
    for issuer in authority.issuers.iter().filter(|issuer| issuer.not_after > now.unix_millis()) {
        let Some((list, _)) = crl::load(view, &issuer.id).await? else { continue };
        if !list.is_old(now) {
            continue;
        }
        let batch = crate::gone::still_there(vault, vault.changes().batch()?, mount)?;
        let asks = Asks::Worker(vault, now);
        let batch = crl::renew((view, batch), &asks, (&authority, issuer), None, now).await?;
        commit(vault, batch, ("VaultRenewRevocationList", now), Some(&issuer.key_id)).await?;
        renewed += 1;
    }
    Ok(renewed)
}

async fn commit(
    vault: &Vault,
    batch: Batch,
    (operation, now): (&str, Timestamp),
    key_id: Option<&str>,
) -> Result<(), VaultError> {
    let item = |id: &str| Item { index: 0, key_id: Some(id.to_owned()), outcome: Outcome::Done, context_hmac: None };
    let items: Vec<Item> = key_id.map(item).into_iter().collect();
    let record = Record {
        decision: Decision::Allowed,
        items: &items,
        ..Record::new(now, "worker", operation, &Subject::System)
    };
    match vault.commit(batch, &record).await {
        // another node was faster
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// So long what is over is kept: clocks of others may be late.
const BUFFER: Duration = Duration::from_secs(72 * 3600);
const PAGES_MAX: usize = 250;
/// Of what has ended, of a mount.
const PAGES_A_TURN: usize = 25;
