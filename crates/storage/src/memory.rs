//! The store in memory: for tests, and the obvious twin that other adapters are compared with. Forgets everything.

use crate::clock::{MachineClock, SteadyClock};
use crate::feed::Feed;
use crate::{
    AtLeast, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, PAGE_BYTES_MAX, Page, Revision, Storage,
    StorageError, Write, due_segment, sqlite,
};
use envelope::{Clock, Timestamp};
use futures_util::stream::BoxStream;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Each `new` is an empty store.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
    /// By it ids grow old.
    steady: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<EntryPath, Entry>,
    revision: Revision,
    ids: HashMap<CommitId, Revision>,
    /// Ids in the order of their commits, with their time: the oldest are forgotten.
    aging: VecDeque<(Timestamp, CommitId)>,
    hidden: HashMap<EntryPath, Timestamp>,
}

impl Memory {
    pub fn new() -> Self {
        Self::with_clock(Arc::new(MachineClock))
    }

    /// By `clock` work becomes due and claims end.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let feed = Arc::new(Feed::new(Revision(0)));
        Self { state: Mutex::default(), feed, clock, steady: Arc::new(SteadyClock::new()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait::async_trait]
impl Storage for Memory {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError> {
        crate::check_paths(paths)?;
        let state = self.state();
        state.reached(at)?;
        Ok((state.revision, paths.iter().map(|path| state.entries.get(path).cloned()).collect()))
    }

    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError> {
        let limit = crate::check_limit(limit)?;
        let state = self.state();
        state.reached(at)?;
        let mut page = Page { revision: state.revision, entries: Vec::new(), more: false };
        let mut bytes = 0;
        for (path, entry) in state.below(prefix).filter(|(path, _)| after.is_none_or(|after| *path > after)) {
            if page.entries.len() == limit || bytes >= PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            bytes += entry.value.len();
            page.entries.push((path.clone(), entry.clone()));
        }
        Ok(page)
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        batch.check()?;
        let now = self.steady.now();
        let mut state = self.state();
        if let Some(revision) = state.ids.get(&batch.id) {
            return Ok(*revision);
        }
        let differs = |path: &EntryPath| state.entries.get(path).map(|entry| entry.revision);
        if let Some(failed) = batch.preconditions.iter().find(|condition| !condition.holds(differs(condition.path()))) {
            return Err(CommitError::Conflict(failed.path().clone()));
        }
        let revision = state.advance();
        state.remember(batch.id, revision, now);
        let paths: Vec<_> = batch.writes.iter().map(|write| write.path().clone()).collect();
        for write in batch.writes {
            state.hidden.remove(write.path());
            match write {
                Write::Put(path, value) => drop(state.entries.insert(path, Entry { value, revision })),
                Write::Delete(path) => drop(state.entries.remove(&path)),
            }
        }
        // Under the lock: the feed is in commit order.
        self.feed.publish([(revision, paths)]);
        Ok(revision)
    }

    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        Ok(self.state().ids.get(&id).copied())
    }

    fn watch(&self, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        self.feed.watch(prefix, from)
    }

    fn hearing(&self) -> Option<tokio::sync::watch::Receiver<crate::Moment>> {
        None
    }

    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError> {
        let limit = crate::check_limit(limit)?;
        let now = self.clock.now();
        let mut state = self.state();
        let due = |path: &EntryPath| due_segment(queue, path).is_some_and(|due| due <= now);
        let free = |path: &EntryPath| state.hidden.get(path).is_none_or(|until| *until <= now);
        let paths: Vec<EntryPath> = state
            .below(queue)
            .map(|(path, _)| path)
            .filter(|path| due(path) && free(path))
            .take(limit)
            .cloned()
            .collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let fence = state.advance();
        let mut claims = Vec::with_capacity(paths.len());
        for path in &paths {
            state.hidden.insert(path.clone(), now.plus(for_));
            if let Some(entry) = state.entries.get_mut(path) {
                entry.revision = fence;
                claims.push(Claim { path: path.clone(), entry: entry.clone(), fence });
            }
        }
        self.feed.publish([(fence, paths)]);
        Ok(claims)
    }

    async fn backup(&self, to: &Path) -> Result<Revision, StorageError> {
        let (revision, entries) = {
            let state = self.state();
            (state.revision, state.entries.clone())
        };
        sqlite::export(to, revision, &entries)?;
        Ok(revision)
    }
}

impl State {
    fn reached(&self, at: AtLeast) -> Result<(), StorageError> {
        match at {
            AtLeast::Revision(revision) if revision > self.revision => Err(StorageError::Unavailable),
            AtLeast::Latest | AtLeast::Revision(_) => Ok(()),
        }
    }

    fn advance(&mut self) -> Revision {
        self.revision = Revision(self.revision.0 + 1);
        self.revision
    }

    fn remember(&mut self, id: CommitId, revision: Revision, now: Timestamp) {
        self.ids.insert(id, revision);
        self.aging.push_back((now, id));
        while let Some((at, id)) = self.aging.front().copied()
            && now.since(at) > REMEMBERED
        {
            self.ids.remove(&id);
            self.aging.pop_front();
        }
    }

    /// The entry at `prefix`, then those below it. Siblings such as `prefix!` sort between the two, and are not walked.
    fn below<'a>(&'a self, prefix: &'a EntryPath) -> impl Iterator<Item = (&'a EntryPath, &'a Entry)> {
        let first = prefix.join("!").ok();
        let below = first.into_iter().flat_map(move |first| {
            self.entries
                .range((Bound::Included(first), Bound::Unbounded))
                .take_while(move |(path, _)| path.starts_with(prefix))
        });
        self.entries.get_key_value(prefix).into_iter().chain(below)
    }
}

/// How long a commit's id is known.
const REMEMBERED: Duration = Duration::from_secs(90 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{self, Durability};

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        contract::judge(|_| Arc::new(Memory::new()), Durability::Volatile).await;
    }

    #[tokio::test]
    async fn an_id_is_known_for_an_hour_and_forgotten_in_the_end() {
        let (clock, machine) = (envelope::ManualClock::default(), envelope::ManualClock::default());
        let store = Memory { steady: Arc::new(clock.clone()), ..Memory::with_clock(Arc::new(machine.clone())) };
        let id = CommitId([1; 16]);
        let revision = store.commit(Batch::new(id)).await.unwrap();
        for (minutes, known) in [(60, Some(revision)), (31, None)] {
            clock.advance(Duration::from_secs(minutes * 60));
            // the machine's clock jumps as it likes
            machine.set(Timestamp::from_unix_millis(minutes * 1_000_000_000));
            store.commit(Batch::new(CommitId([u8::try_from(minutes).unwrap(); 16]))).await.unwrap();
            assert_eq!(store.committed(id).await.unwrap(), known, "{minutes}");
        }
    }
}
