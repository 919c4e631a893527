//! What mounts that are gone have stored: dropped a page at a time, by a worker.
//!
//! Always: a mark stands, from the commit that takes the mount away until nothing of it is left; a crash in between loses
//! nothing of the work.

use crate::error::VaultError;
use crate::mount::Mount;
use crate::service::Vault;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use storage::Batch;

/// With the mark of a mount whose data is to go.
pub(crate) fn leave(vault: &Vault, batch: Batch, mount: &Mount) -> Result<Batch, VaultError> {
    let view = vault.view(MARKS)?;
    view.put(batch, view.path(&mount.id)?, b"1")
}

/// Drops a page of what is to go. How many entries.
pub(crate) async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let marks = vault.view(MARKS)?;
    let Some((mark, _)) = marks.scan(&marks.root(), None, 1).await?.entries.pop() else { return Ok(0) };
    let id = mark.segments().last().unwrap_or_default();
    let held = vault.view(id)?;
    let page = vault.barrier().storage().scan(&held.root(), None, PAGE, storage::AtLeast::Latest).await?;
    let mut batch = vault.changes().batch()?;
    for (path, _) in &page.entries {
        batch = batch.delete(path.clone());
    }
    if !page.more {
        batch = batch.delete(mark.clone());
    }
    let record =
        Record { decision: Decision::Allowed, ..Record::new(now, "worker", "VaultSweepMount", &Subject::System) };
    vault.commit(batch, &record).await?;
    Ok(page.entries.len() + 1)
}

const MARKS: &str = "gone";
/// Entries dropped in one commit.
const PAGE: u32 = 100;
