//! Keys that are rotated by their age.
//!
//! Below the vault's own part of the store: `due/<16 hex digits of the due time>/<key id>`, over all mounts. The key itself
//! says how old its newest version is, so that any number of nodes rotate it once, and a rotation by hand counts.

use super::super::tree::Tree;
use super::key::{DATA, KeyEntry, LIST, load, put};
use crate::error::VaultError;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Item, Outcome, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use kms::KmsError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};

/// Whose turn it is.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    /// The mount's id.
    mount: String,
    /// The name's keyed hash.
    slot: String,
}

pub(super) fn queue(scope: &Scope<'_>, batch: Batch, name: &str, entry: &KeyEntry) -> Result<Batch, VaultError> {
    if entry.due == 0 {
        return Ok(batch);
    }
    let slot = Tree::new(&scope.view()?, LIST).slot(name)?;
    put_turn(scope.vault, batch, entry, &Turn { mount: scope.mount.id.clone(), slot })
}

pub(super) fn unqueue(scope: &Scope<'_>, batch: Batch, entry: &KeyEntry) -> Result<Batch, VaultError> {
    if entry.due == 0 {
        return Ok(batch);
    }
    Ok(batch.delete(due_path(&view(scope.vault)?, entry)?))
}

/// Rotates what is due, a bounded number; how many turns were taken.
pub(crate) async fn rotate_due(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let view = view(vault)?;
    let page = view.scan(&view.path(DUE)?, None, TURNS_AT_ONCE).await?;
    let mut taken = 0;
    for (path, opened) in page.entries {
        let at = path.segments().skip_while(|segment| *segment != DUE).nth(1);
        let at = at.and_then(|at| u64::from_str_radix(at, 16).ok()).ok_or_else(unreadable)?;
        if at > now.unix_millis() {
            break;
        }
        match take_turn(vault, (&path, opened.revision, at), opened.value.expose(), now).await {
            Ok(()) => taken += 1,
            // one that fails keeps no other waiting
            Err(error) => tracing::warn!(%error, "a transit key that is due was not rotated, and stays due"),
        }
    }
    Ok(taken)
}

async fn take_turn(
    vault: &Vault,
    (path, revision, at): (&EntryPath, Revision, u64),
    turn: &[u8],
    now: Timestamp,
) -> Result<(), VaultError> {
    let turn: Turn = serde_json::from_slice(turn).map_err(|_| unreadable())?;
    let taken = vault.changes().batch()?.revision_is(path.clone(), revision).delete(path.clone());
    let of_mount = vault.view(&turn.mount)?;
    let key_path = of_mount.path(&format!("{DATA}/{}", turn.slot))?;
    let is_mounted = vault.table().await?.mounts.values().any(|mount| mount.id == turn.mount);
    let found = if is_mounted { load(&of_mount, &key_path).await? } else { None };
    let Some((entry, key_revision)) = found.filter(|(entry, _)| entry.due == at) else {
        // deleted, unmounted, or set to another time
        return commit(vault, taken, now, None).await;
    };
    let period = Duration::from_secs(entry.auto_rotate_secs);
    let made_before = Timestamp::from_unix_millis(now.unix_millis().saturating_sub(millis(period)).saturating_add(1));
    let next = match vault.kms().rotate_when_due(&entry.id()?, made_before, now).await {
        Ok(made) => made.plus(period),
        Err(error @ (KmsError::BoundaryUnavailable(_) | KmsError::StorageUnavailable(_) | KmsError::Busy)) => {
            return Err(error.into());
        }
        Err(error) => {
            tracing::warn!(key = entry.key_id, %error, "a transit key that is due was not rotated: tried again later");
            now.plus(LATER)
        }
    };
    let entry = KeyEntry { due: next.unix_millis(), ..entry };
    let batch = put(&of_mount, taken.revision_is(key_path.clone(), key_revision), key_path, &entry)?;
    commit(vault, put_turn(vault, batch, &entry, &turn)?, now, Some(&entry.key_id)).await
}

async fn commit(vault: &Vault, batch: Batch, now: Timestamp, key_id: Option<&str>) -> Result<(), VaultError> {
    let item = |id: &str| Item { index: 0, key_id: Some(id.to_owned()), outcome: Outcome::Done, context_hmac: None };
    let items: Vec<Item> = key_id.map(item).into_iter().collect();
    let record = Record {
        decision: Decision::Allowed,
        items: &items,
        ..Record::new(now, "worker", "VaultRotateTransitKey", &Subject::System)
    };
    match vault.commit(batch, &record).await {
        // another node was faster, or the key was changed: the queue tells again
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn put_turn(vault: &Vault, batch: Batch, entry: &KeyEntry, turn: &Turn) -> Result<Batch, VaultError> {
    let view = view(vault)?;
    let text = serde_json::to_vec(turn).map_err(|_| unreadable())?;
    view.put(batch, due_path(&view, entry)?, &text)
}

fn due_path(view: &View, entry: &KeyEntry) -> Result<EntryPath, VaultError> {
    view.path(&format!("{DUE}/{:016x}/{}", entry.due, entry.key_id))
}

fn view(vault: &Vault) -> Result<View, VaultError> {
    vault.view("transit-rotation")
}

fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

fn unreadable() -> VaultError {
    VaultError::Internal("the queue of transit keys that are due cannot be read".into())
}

const DUE: &str = "due";
const TURNS_AT_ONCE: u32 = 16;
const LATER: Duration = Duration::from_secs(3600);
