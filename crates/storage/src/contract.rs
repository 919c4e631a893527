//! The suite that judges adapters: whoever keeps it may stand below the barrier.

use crate::Storage;
use std::path::Path;
use std::sync::Arc;

/// What becomes of a store that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is gone.
    Volatile,
    /// Opened again in the same folder it holds what it held.
    Durable,
}

/// Judges the stores that `make` opens, each in a folder of its own; the same folder again is the same store.
pub async fn judge(make: impl Fn(&Path) -> Arc<dyn Storage>, durability: Durability) {
    let folder = tempfile::tempdir().unwrap();
    let store = make(folder.path());
    assert!(matches!(durability, Durability::Volatile | Durability::Durable));
    assert!(store.committed(crate::CommitId([0; 16])).await.unwrap().is_none());
}
