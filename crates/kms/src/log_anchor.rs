//! What the store remembers of a node's audit log: so that a log that went back, or was changed for another, is found.
//!
//! ```text
//! sealed    <cluster>/anchors/<node>     {"size": entries, "root": hex}
//! ```

use crate::boot::{self, BootError, path};
use envelope::merkle::Hash;
use serde::{Deserialize, Serialize};
use storage::{AtLeast, Barrier, Batch, CommitId, EntryPath, Revision, StorageError};

/// A tree that the node's log has had: every later one extends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogAnchor {
    /// Entries.
    pub size: u64,
    pub root: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    size: u64,
    root: String,
}

/// The store's newest revision, and the anchor of `node` in it.
pub async fn read(barrier: &Barrier, node: &str) -> Result<(Revision, Option<LogAnchor>), BootError> {
    let (revision, entries) = barrier.get(&[place(barrier, node)?], AtLeast::Latest).await?;
    let Some(entry) = entries.into_iter().next().flatten() else { return Ok((revision, None)) };
    let anchor = parse(entry.value.expose()).ok_or(BootError::SystemEntry("anchors"))?;
    Ok((revision, Some(anchor)))
}

/// Remembers `anchor`. The store's revision with it.
pub async fn write(barrier: &Barrier, node: &str, anchor: &LogAnchor) -> Result<Revision, BootError> {
    let at = place(barrier, node)?;
    let row = Row { size: anchor.size, root: hex::encode(anchor.root) };
    // writing to memory fails for no value of this type
    let row = serde_json::to_vec(&row).unwrap_or_default();
    let batch = Batch::new(CommitId(barrier.random()?)).put(at.clone(), barrier.seal(&at, &row)?);
    Ok(barrier.commit(batch).await?)
}

/// Forgets the anchor of `node`: its log begins anew.
pub async fn remove(barrier: &Barrier, node: &str) -> Result<(), BootError> {
    let batch = Batch::new(CommitId(barrier.random()?)).delete(place(barrier, node)?);
    barrier.commit(batch).await?;
    Ok(())
}

fn place(barrier: &Barrier, node: &str) -> Result<EntryPath, StorageError> {
    path(&format!("{}/anchors", boot::hex(barrier.cluster_id())))?.join(node).map_err(|_| StorageError::TooLarge)
}

fn parse(row: &[u8]) -> Option<LogAnchor> {
    let row: Row = serde_json::from_slice(row).ok()?;
    let mut root = [0; 32];
    hex::decode_to_slice(&row.root, &mut root).ok()?;
    Some(LogAnchor { size: row.size, root })
}
