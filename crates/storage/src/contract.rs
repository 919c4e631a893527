//! The suite that judges adapters: whoever keeps it may stand below the barrier.
//!
//! Each case has a store of its own, empty at first. It judges by panicking.

mod backup;
mod claim;
mod commit;
mod read;
mod watch;

use crate::{AtLeast, Batch, CommitId, Entry, EntryPath, Revision, Storage};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

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
    let court = Court { make: &make, durability };
    commit::judge(&court).await;
    read::judge(&court).await;
    watch::judge(&court).await;
    claim::judge(&court).await;
    backup::judge(&court).await;
}

struct Court<'a> {
    make: &'a dyn Fn(&Path) -> Arc<dyn Storage>,
    durability: Durability,
}

/// A store in its folder, which goes with it.
struct Case {
    store: Arc<dyn Storage>,
    folder: TempDir,
    next: AtomicU64,
}

impl Court<'_> {
    fn case(&self) -> Case {
        let folder = tempfile::tempdir().unwrap();
        Case { store: (self.make)(&folder.path().join("store")), folder, next: AtomicU64::new(1) }
    }

    /// Closes the store and opens it again; `None` where nothing is left of it.
    fn reopened(&self, case: Case) -> Option<Case> {
        let Case { store, folder, next } = case;
        assert_eq!(Arc::strong_count(&store), 1, "somebody else still holds the store");
        drop(store);
        match self.durability {
            Durability::Volatile => None,
            Durability::Durable => Some(Case { store: (self.make)(&folder.path().join("store")), folder, next }),
        }
    }
}

impl Case {
    /// A batch with a new id.
    fn batch(&self) -> Batch {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Batch::new(CommitId(u128::from(number).to_be_bytes()))
    }

    async fn put(&self, at: &str, value: &str) -> Revision {
        self.store.commit(self.batch().put(path(at), value.to_owned())).await.unwrap()
    }

    async fn delete(&self, at: &str) -> Revision {
        self.store.commit(self.batch().delete(path(at))).await.unwrap()
    }

    async fn entry(&self, at: &str) -> Option<Entry> {
        let (_, mut entries) = self.store.get(&[path(at)], AtLeast::Latest).await.unwrap();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    async fn value(&self, at: &str) -> Option<String> {
        self.entry(at).await.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    /// Where the store stands.
    async fn head(&self) -> Revision {
        self.store.get(&[], AtLeast::Latest).await.unwrap().0
    }
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}
