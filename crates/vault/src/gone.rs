//! What mounts and namespaces that are gone have stored: dropped a page at a time, by a worker.
//!
//! Always: a mark stands, from the commit that takes the mount away until nothing of it is left; a crash in between loses
//! nothing of the work.
//! Always: it stands for a minute at least: what other nodes still write to the mount, from memory, is dropped as well, and
//! who logs in there commits nothing.

use crate::Done;
use crate::error::VaultError;
use crate::mount::Mount;
use crate::service::Vault;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use std::time::Duration;
use storage::{AtLeast, Batch, Entry, EntryPath};

/// With the mark of a mount whose data is to go.
pub(crate) fn leave(vault: &Vault, batch: Batch, mount: &Mount, now: Timestamp) -> Result<Batch, VaultError> {
    vault.view(MARKS)?.put(batch, mark(vault, mount)?, &now.unix_millis().to_be_bytes())
}

/// Only where the mount is not gone.
pub(crate) fn still_there(vault: &Vault, batch: Batch, mount: &Mount) -> Result<Batch, VaultError> {
    Ok(batch.absent(mark(vault, mount)?))
}

pub(crate) async fn is_gone(vault: &Vault, mount: &Mount) -> Result<bool, VaultError> {
    Ok(vault.view(MARKS)?.load(&mark(vault, mount)?).await?.is_some())
}

fn mark(vault: &Vault, mount: &Mount) -> Result<EntryPath, VaultError> {
    vault.view(MARKS)?.path(&mount.id)
}

/// With the mark of a namespace whose data is to go; the mark itself stands in the root.
pub(crate) fn leave_namespace(vault: &Vault, batch: Batch, tenant: &str, now: Timestamp) -> Result<Batch, VaultError> {
    let marks = vault.top().view(NAMESPACES)?;
    marks.put(batch, marks.path(tenant)?, &now.unix_millis().to_be_bytes())
}

/// Drops a page of what is to go. How many entries.
pub(crate) async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let of_mount = |id: &str| Ok(vault.view(id)?.root());
    sweep_marks(vault, MARKS, of_mount, ("VaultSweepMount", now)).await
}

/// The same, of namespaces.
pub(crate) async fn sweep_namespaces(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    sweep_marks(vault.top(), NAMESPACES, |tenant| vault.part_of(tenant), ("VaultSweepNamespace", now)).await
}

async fn sweep_marks(
    vault: &Vault,
    marks: &str,
    held_by: impl Fn(&str) -> Result<EntryPath, VaultError>,
    at: (&str, Timestamp),
) -> Result<usize, VaultError> {
    let marks = vault.barrier().storage().scan(&vault.view(marks)?.root(), None, PAGE, AtLeast::Latest).await?;
    let mut done = Done::default();
    for (mark, entry) in &marks.entries {
        let swept = match held_by(mark.segments().last().unwrap_or_default()) {
            Ok(held) => sweep_one(vault, mark, (entry, &held), at).await,
            Err(error) => Err(error),
        };
        match swept {
            Ok(swept @ 1..) => return Ok(swept),
            // one that cannot be read keeps no other waiting
            outcome => done.add("what is gone", outcome),
        }
    }
    done.told()
}

async fn sweep_one(
    vault: &Vault,
    mark: &EntryPath,
    (entry, held): (&Entry, &EntryPath),
    (operation, now): (&str, Timestamp),
) -> Result<usize, VaultError> {
    let left = vault.barrier().open(mark, &entry.value)?;
    // one without a time is an old one
    let left = Timestamp::from_unix_millis(left.expose().try_into().map_or(0, u64::from_be_bytes));
    let page = vault.barrier().storage().scan(held, None, PAGE, AtLeast::Latest).await?;
    let mut due: Vec<EntryPath> = page.entries.into_iter().map(|(path, _)| path).collect();
    if due.is_empty() && now >= left.plus(STANDS_FOR) {
        due.push(mark.clone());
    }
    let swept = due.len();
    if swept > 0 {
        let batch = due.into_iter().fold(vault.changes().batch()?, Batch::delete);
        let record = Record { decision: Decision::Allowed, ..Record::new(now, "worker", operation, &Subject::System) };
        vault.commit(batch, &record).await?;
    }
    Ok(swept)
}

const MARKS: &str = "gone";
const NAMESPACES: &str = "gone-namespaces";
/// Entries dropped in one commit, and marks looked at.
const PAGE: u32 = 100;
/// Longer than any request takes, and than other nodes take to hear of it.
const STANDS_FOR: Duration = Duration::from_secs(60);
