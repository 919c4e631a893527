//! A bounded cache over the store, kept honest by `watch`.
//!
//! Always: an entry goes when anything at or below one of its paths changes; what cannot be proven fresh is not cached.
//! Never: an entry that was read before a change which the cache has heard of already.

use crate::{AtLeast, Change, EntryPath, Revision, Storage};
use futures_util::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

/// What [`follow`] tells changes to.
pub trait Invalidate: Send + Sync {
    fn apply(&self, change: &Change);
}

/// Values by key, each depending on entries of the store. Empty, and refusing all, until the first [`Change::Gap`] told it
/// from which revision on it hears of changes; [`follow`] begins with one.
pub struct Cache<K, V> {
    inner: RwLock<Inner<K, V>>,
    capacity: usize,
}

struct Inner<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys in the order in which they are looked at for eviction (CLOCK: a used one gets a second chance).
    clock: VecDeque<K>,
    dependants: HashMap<EntryPath, Vec<K>>,
    recent: Recent,
}

struct Slot<V> {
    value: Arc<V>,
    depends_on: Box<[EntryPath]>,
    used: AtomicBool,
}

/// The last changes that the cache heard of.
struct Recent {
    /// What was read before this may have changed unheard. `None`: nobody tells changes.
    floor: Option<Revision>,
    /// For changed paths and all above them: when.
    changed: HashMap<EntryPath, Revision>,
    order: VecDeque<(EntryPath, Revision)>,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub fn new(capacity: usize) -> Self {
        let recent = Recent { floor: None, changed: HashMap::new(), order: VecDeque::new() };
        let (slots, clock, dependants) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { inner: RwLock::new(Inner { slots, clock, dependants, recent }), capacity }
    }

    pub fn peek(&self, key: &K) -> Option<Arc<V>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let slot = inner.slots.get(key)?;
        // Readers of a hot entry share its cache line as long as nobody writes it.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.value))
    }

    /// Keeps what was read at `read_at`, unless something that it depends on may have changed since: then nothing happens.
    /// A dependency covers what lies below it.
    pub fn insert(&self, key: K, value: Arc<V>, depends_on: &[EntryPath], read_at: Revision) {
        let mut inner = self.write();
        if self.capacity == 0 || !inner.recent.proves_fresh(depends_on, read_at) {
            return;
        }
        inner.remove(&key);
        while inner.slots.len() >= self.capacity {
            inner.evict_one();
        }
        for path in depends_on {
            inner.dependants.entry(path.clone()).or_default().push(key.clone());
        }
        // The clock keeps keys of slots that are gone; they are dropped when the hand meets them, or here when too many.
        if inner.clock.len() >= self.capacity.saturating_mul(2) {
            inner.clock = inner.slots.keys().cloned().collect();
        }
        inner.clock.push_back(key.clone());
        inner.slots.insert(key, Slot { value, depends_on: depends_on.into(), used: AtomicBool::new(false) });
    }

    pub fn apply(&self, change: &Change) {
        let mut inner = self.write();
        match change {
            Change::Paths { revision, paths } => {
                for path in paths.iter().flat_map(path_and_above) {
                    for key in inner.dependants.remove(&path).unwrap_or_default() {
                        inner.remove(&key);
                    }
                    inner.recent.note(path, *revision);
                }
            }
            Change::Gap { revision } => {
                inner.clear();
                inner.recent.floor = Some(*revision);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K, V>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone + Send + Sync, V: Send + Sync> Invalidate for Cache<K, V> {
    fn apply(&self, change: &Change) {
        Self::apply(self, change);
    }
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        let Some(slot) = self.slots.remove(key) else { return };
        for path in &slot.depends_on {
            if let Some(keys) = self.dependants.get_mut(path) {
                keys.retain(|other| other != key);
                if keys.is_empty() {
                    self.dependants.remove(path);
                }
            }
        }
    }

    fn evict_one(&mut self) {
        while let Some(key) = self.clock.pop_front() {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            if std::mem::take(slot.used.get_mut()) {
                self.clock.push_back(key);
            } else {
                self.remove(&key);
                return;
            }
        }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.clock.clear();
        self.dependants.clear();
        self.recent.changed.clear();
        self.recent.order.clear();
    }
}

impl Recent {
    fn proves_fresh(&self, depends_on: &[EntryPath], read_at: Revision) -> bool {
        let unchanged = |path: &EntryPath| {
            // A change above a dependency is one of another entry; one below it was noted for the dependency too.
            self.changed.get(path).is_none_or(|changed| *changed <= read_at)
        };
        self.floor.is_some_and(|floor| read_at >= floor) && depends_on.iter().all(unchanged)
    }

    fn note(&mut self, path: EntryPath, revision: Revision) {
        // a commit is told by the store's feed and by whoever made it, in any order: the newest counts
        let newest = self.changed.entry(path.clone()).or_insert(revision);
        *newest = (*newest).max(revision);
        self.order.push_back((path, revision));
        while self.order.len() > RECENT_MAX {
            let Some((path, revision)) = self.order.pop_front() else { break };
            self.floor = self.floor.max(Some(revision));
            if self.changed.get(&path) == Some(&revision) {
                self.changed.remove(&path);
            }
        }
    }
}

/// Tells `caches` what changes below `prefix`, for ever. Where the store cannot be watched, nothing stays cached.
pub async fn follow(storage: Arc<dyn Storage>, prefix: EntryPath, caches: Vec<Arc<dyn Invalidate>>) {
    let tell = |change: &Change| caches.iter().for_each(|cache| cache.apply(change));
    loop {
        if let Ok((revision, _)) = storage.get(&[], AtLeast::Latest).await {
            let mut changes = storage.watch(&prefix, revision);
            tell(&Change::Gap { revision });
            while let Some(change) = changes.next().await {
                tell(&change);
            }
        }
        tell(&Change::Gap { revision: Revision(u64::MAX) });
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// `a`, `a/b`, `a/b/c`.
fn path_and_above(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    let ends = path.as_str().match_indices('/').map(|(at, _)| at).chain([path.as_str().len()]);
    ends.filter_map(|end| EntryPath::parse(path.as_str().get(..end)?).ok())
}

const RECENT_MAX: usize = 8192;
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
