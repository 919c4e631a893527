//! A bounded cache over the store, kept honest by `watch`.
//!
//! Always: an entry goes when anything at or below one of its paths changes; what cannot be proven fresh is not cached.
//! Always: where others write the store too, an entry is used only if all that they did until two seconds ago was applied.
//! Never: an entry that was read before a change which the cache has heard of already.

use crate::hearing::Current;
use crate::path::SEGMENTS_MAX;
use crate::{AtLeast, Change, EntryPath, Moment, Revision, Storage, Until};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::watch;

/// What [`follow`] tells changes to.
pub trait Invalidate: Send + Sync {
    fn apply(&self, change: &Change);

    /// Drops what is kept; what is known of changes stays known.
    fn forget(&self);

    /// All changes that were heard of were applied: what is kept is current until then.
    fn current(&self, until: Until);
}

/// Values by key, each depending on entries of the store. Empty, and refusing all, until the first [`Change::Gap`] told it
/// from which revision on it hears of changes; [`follow`] begins with one.
pub struct Cache<K, V> {
    inner: RwLock<Inner<K, V>>,
    current: Current,
    capacity: usize,
}

struct Inner<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys in the order in which they are looked at for eviction (CLOCK: a used one gets a second chance).
    clock: VecDeque<K>,
    dependants: Dependants<K>,
    recent: Recent,
}

struct Slot<V> {
    value: Arc<V>,
    depends_on: Box<[EntryPath]>,
    used: AtomicBool,
}

/// Which keys depend on what.
struct Dependants<K> {
    keys: HashMap<EntryPath, HashSet<K>>,
    /// How many of the paths have so many segments: a change is looked for at no other depth.
    depths: [usize; SEGMENTS_MAX + 1],
}

/// The last changes that the cache heard of.
struct Recent {
    /// What was read before this may have changed unheard. `None`: nobody tells changes.
    floor: Option<Revision>,
    /// A commit is told by the store's feed and by whoever made it, in any order.
    changed: BTreeMap<Revision, Arc<[EntryPath]>>,
    paths: usize,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub fn new(capacity: usize) -> Self {
        let recent = Recent { floor: None, changed: BTreeMap::new(), paths: 0 };
        let dependants = Dependants { keys: HashMap::new(), depths: [0; SEGMENTS_MAX + 1] };
        let (slots, clock) = (HashMap::new(), VecDeque::new());
        let inner = RwLock::new(Inner { slots, clock, dependants, recent });
        Self { inner, current: Current::until_changed(), capacity }
    }

    /// Nothing where the store's changes were not heard for too long, however that came: it is read there then.
    pub fn peek(&self, key: &K) -> Option<Arc<V>> {
        if self.current.is_past() {
            return None;
        }
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
            inner.dependants.add(path, key.clone());
        }
        // The clock keeps keys of slots that are gone; they are dropped when the hand meets them, or here when too many.
        if inner.clock.len() >= self.capacity.saturating_mul(2) {
            inner.clock = inner.slots.keys().cloned().collect();
        }
        inner.clock.push_back(key.clone());
        inner.slots.insert(key, Slot { value, depends_on: depends_on.into(), used: AtomicBool::new(false) });
    }

    pub fn apply(&self, change: &Change) {
        // told by whoever made it, and then by the store: nothing is left to do, and nobody is kept from looking
        if self.inner.read().unwrap_or_else(PoisonError::into_inner).recent.knows(change) {
            return;
        }
        let mut inner = self.write();
        match change {
            Change::Paths { revision, paths } => {
                for path in paths.iter() {
                    for key in inner.dependants.of(path) {
                        inner.remove(&key);
                    }
                }
                inner.recent.note(*revision, paths);
            }
            Change::Gap { revision } => {
                inner.clear();
                inner.recent.floor = Some(*revision);
            }
        }
    }

    /// Drops what is kept; what is known of changes stays known.
    pub fn forget(&self) {
        self.write().drop_kept();
    }

    pub fn current(&self, until: Until) {
        self.current.set(until);
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

    fn forget(&self) {
        Self::forget(self);
    }

    fn current(&self, until: Until) {
        Self::current(self, until);
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
            self.dependants.drop_key(path, key);
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

    fn drop_kept(&mut self) {
        self.slots.clear();
        self.clock.clear();
        self.dependants.keys.clear();
        self.dependants.depths = [0; SEGMENTS_MAX + 1];
    }

    fn clear(&mut self) {
        self.drop_kept();
        self.recent.changed.clear();
        self.recent.paths = 0;
    }
}

impl<K: Eq + Hash + Clone> Dependants<K> {
    fn add(&mut self, path: &EntryPath, key: K) {
        let keys = self.keys.entry(path.clone()).or_default();
        if keys.is_empty()
            && let Some(paths) = self.depths.get_mut(path.segments().count())
        {
            *paths += 1;
        }
        keys.insert(key);
    }

    fn drop_key(&mut self, path: &EntryPath, key: &K) {
        let Some(keys) = self.keys.get_mut(path) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.keys.remove(path);
            if let Some(paths) = self.depths.get_mut(path.segments().count()) {
                *paths = paths.saturating_sub(1);
            }
        }
    }

    /// Who depends on `path`, or on anything above it.
    fn of(&self, path: &EntryPath) -> Vec<K> {
        if self.keys.is_empty() {
            return Vec::new();
        }
        let path = path.as_str();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let above = ends.zip(self.depths.iter().skip(1)).filter(|(_, paths)| **paths > 0);
        let keys = above.filter_map(|(end, _)| self.keys.get(path.get(..end)?));
        keys.flatten().cloned().collect()
    }
}

impl Recent {
    fn proves_fresh(&self, depends_on: &[EntryPath], read_at: Revision) -> bool {
        let mut since =
            self.changed.range((Bound::Excluded(read_at), Bound::Unbounded)).flat_map(|(_, paths)| &**paths);
        self.floor.is_some_and(|floor| read_at >= floor)
            && !since.any(|path| depends_on.iter().any(|dependency| path.starts_with(dependency)))
    }

    /// All of it was told before.
    fn knows(&self, change: &Change) -> bool {
        match change {
            Change::Paths { revision, paths } => {
                self.changed.get(revision).is_some_and(|known| paths.iter().all(|path| known.contains(path)))
            }
            Change::Gap { .. } => false,
        }
    }

    fn note(&mut self, revision: Revision, paths: &Arc<[EntryPath]>) {
        let told = match self.changed.get(&revision) {
            None => Arc::clone(paths),
            // by whoever made it, who knows of his own paths, and by the store
            Some(known) => {
                self.paths -= known.len();
                known.iter().chain(paths.iter().filter(|path| !known.contains(path))).cloned().collect()
            }
        };
        self.paths += told.len();
        self.changed.insert(revision, told);
        while self.paths > RECENT_MAX
            && let Some((revision, paths)) = self.changed.pop_first()
        {
            self.paths -= paths.len();
            self.floor = self.floor.max(Some(revision));
        }
    }
}

/// Tells `caches` what changes below `prefix`, for ever. Where the store cannot be watched, nothing stays cached.
pub async fn follow(storage: Arc<dyn Storage>, prefix: EntryPath, caches: Vec<Arc<dyn Invalidate>>) {
    let tell = |change: &Change| caches.iter().for_each(|cache| cache.apply(change));
    let current = |until| caches.iter().for_each(|cache| cache.current(until));
    loop {
        if let Ok((revision, _)) = storage.get(&[], AtLeast::Latest).await {
            let mut changes = storage.watch(&prefix, revision);
            tell(&Change::Gap { revision });
            match storage.hearing() {
                Some(hearing) => follow_others(changes, hearing, tell, current).await,
                None => {
                    while let Some(change) = changes.next().await {
                        tell(&change);
                    }
                }
            }
        }
        tell(&Change::Gap { revision: Revision(u64::MAX) });
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn follow_others(
    mut changes: BoxStream<'static, Change>,
    mut hearing: watch::Receiver<Moment>,
    tell: impl Fn(&Change),
    current: impl Fn(Until),
) {
    loop {
        // before what was told by then is looked for: all of that is applied
        let heard_at = *hearing.borrow_and_update();
        // outside of the runtime's budget, which would say that nothing is there
        while let Some(change) = tokio::task::unconstrained(changes.next()).now_or_never() {
            match change {
                Some(change) => tell(&change),
                None => return,
            }
        }
        current(Until::heard_at(heard_at));
        tokio::select! {
            change = changes.next() => match change {
                Some(change) => tell(&change),
                None => return,
            },
            heard = hearing.changed() => if heard.is_err() { return },
        }
    }
}

const RECENT_MAX: usize = 8192;
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
