//! The model: a slow, obvious store, and the operations by which an adapter is compared with it.
//!
//! Always: every answer of the adapter equals the model's. It judges by panicking.

use crate::{
    AtLeast, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, Precondition, Revision, Storage, Write,
};
use bytes::Bytes;
use envelope::{Clock, ManualClock, Timestamp};
use futures_util::{FutureExt, StreamExt};
use std::time::Duration;

/// One step. Revisions are told by their age: so many before the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Commit { id: u8, preconditions: Vec<(u8, Option<u8>)>, writes: Vec<(u8, Option<u8>)> },
    Committed { id: u8 },
    Get { paths: Vec<u8> },
    Scan { prefix: u8, after: Option<u8>, limit: u32 },
    Claim { queue: u8, limit: u32, secs: u8 },
    Wait { secs: u8 },
}

/// Operations from any bytes.
pub fn operations(mut data: &[u8]) -> Vec<Operation> {
    let mut operations = Vec::new();
    while operations.len() < OPERATIONS_MAX
        && let Some(kind) = byte(&mut data)
    {
        let operation = match kind % 8 {
            0..=2 => commit(&mut data),
            3 => byte(&mut data).map(|id| Operation::Committed { id: id % IDS }),
            4 => some(&mut data, 4, byte).map(|paths| Operation::Get { paths }),
            5 => scan(&mut data),
            6 => claim(&mut data),
            _ => byte(&mut data).map(|secs| Operation::Wait { secs: secs % 60 }),
        };
        operations.extend(operation);
    }
    operations
}

fn byte(data: &mut &[u8]) -> Option<u8> {
    let (first, rest) = data.split_first()?;
    *data = rest;
    Some(*first)
}

fn some<T>(data: &mut &[u8], most: u8, one: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = byte(data)? % (most + 1);
    (0..count).map(|_| one(data)).collect()
}

/// `None` inside for one of eight values.
fn maybe(data: &mut &[u8]) -> Option<Option<u8>> {
    byte(data).map(|raw| (raw % 8 > 0).then_some(raw / 8))
}

fn commit(data: &mut &[u8]) -> Option<Operation> {
    let id = byte(data)? % IDS;
    let preconditions =
        some(data, 2, |data| Some((byte(data)?, byte(data).map(|raw| (raw % 2 > 0).then_some(raw / 2 % 4))?)))?;
    let writes = some(data, 4, |data| Some((byte(data)?, maybe(data)?)))?;
    Some(Operation::Commit { id, preconditions, writes })
}

fn scan(data: &mut &[u8]) -> Option<Operation> {
    let raw = byte(data)?;
    let prefix = if raw % 2 > 0 { MANY_BELOW[usize::from(raw / 2) % MANY_BELOW.len()] } else { raw / 2 };
    let (after, limit) = (maybe(data)?, u32::from(byte(data)? % 5) + 1);
    Some(Operation::Scan { prefix, after, limit })
}

fn claim(data: &mut &[u8]) -> Option<Operation> {
    let raw = byte(data)?;
    let queue = if raw % 4 > 0 { QUEUE } else { raw / 4 };
    let (limit, secs) = (u32::from(byte(data)? % 3) + 1, byte(data)? % 60);
    Some(Operation::Claim { queue, limit, secs })
}

/// Runs the operations on an empty store, which goes by `clock`, and on the model.
pub async fn compare(store: &dyn Storage, clock: &ManualClock, operations: &[Operation]) {
    clock.set(START);
    let mut model = Model::default();
    let mut changes = store.watch(&path(0), Revision(0));
    for operation in operations {
        match operation {
            Operation::Commit { id, preconditions, writes } => {
                let batch = model.batch(*id, preconditions, writes);
                assert_eq!(store.commit(batch.clone()).await, model.commit(batch), "{operation:?}");
            }
            Operation::Committed { id } => {
                assert_eq!(store.committed(commit_id(*id)).await, Ok(model.committed(commit_id(*id))), "{operation:?}");
            }
            Operation::Get { paths } => {
                let paths: Vec<_> = paths.iter().map(|number| path(*number)).collect();
                let expected = paths.iter().map(|path| model.find(path.as_str())).collect();
                assert_eq!(store.get(&paths, AtLeast::Latest).await, Ok((model.revision(), expected)), "{operation:?}");
            }
            Operation::Scan { prefix, after, limit } => {
                let (prefix, after) = (path(*prefix), after.map(path));
                let page = store.scan(&prefix, after.as_ref(), *limit, AtLeast::Latest).await.unwrap();
                let (entries, more) = model.scan(prefix.as_str(), after.as_ref().map_or("", EntryPath::as_str), *limit);
                assert_eq!(
                    (page.revision, page.entries, page.more),
                    (model.revision(), entries, more),
                    "{operation:?}"
                );
            }
            Operation::Claim { queue, limit, secs } => {
                let (queue, for_) = (path(*queue), Duration::from_secs((*secs).into()));
                let claims = store.claim(&queue, *limit, for_).await.unwrap();
                assert_eq!(claims, model.claim(queue.as_str(), *limit, clock.now(), for_), "{operation:?}");
            }
            Operation::Wait { secs } => clock.advance(Duration::from_secs((*secs).into())),
        }
    }
    let mut told = Vec::new();
    while let Some(Some(change)) = changes.next().now_or_never() {
        told.push(change);
    }
    assert_eq!(told, model.told(&path(0)));
}

/// Everything that ever happened, the last at the end.
#[derive(Debug, Default)]
struct Model {
    /// `None` is a deletion. A claim writes what stands there already.
    happened: Vec<(Revision, EntryPath, Option<Bytes>)>,
    commits: Vec<(CommitId, Revision)>,
    last: u64,
    /// Until when a claim hides what stands at a path since a revision.
    claims: Vec<(EntryPath, Revision, Timestamp)>,
}

impl Model {
    fn revision(&self) -> Revision {
        Revision(self.last)
    }

    fn batch(&self, id: u8, preconditions: &[(u8, Option<u8>)], writes: &[(u8, Option<u8>)]) -> Batch {
        let age = |age: u8| Revision(self.last.saturating_sub(age.into()));
        let condition = |(at, is): &(u8, Option<u8>)| match is {
            None => Precondition::Absent(path(*at)),
            Some(0) => {
                // as it is now, so that many hold
                let now = self.find(path(*at).as_str()).map_or(Revision(0), |entry| entry.revision);
                Precondition::RevisionIs(path(*at), now)
            }
            Some(old) => Precondition::RevisionIs(path(*at), age(*old)),
        };
        let write = |(at, value): &(u8, Option<u8>)| match value {
            None => Write::Delete(path(*at)),
            Some(value) => Write::Put(path(*at), vec![*value; (*value).into()].into()),
        };
        Batch {
            id: commit_id(id),
            preconditions: preconditions.iter().map(condition).collect(),
            writes: writes.iter().map(write).collect(),
        }
    }

    fn find(&self, at: &str) -> Option<Entry> {
        let (revision, _, value) = self.happened.iter().rev().find(|(_, path, _)| path.as_str() == at)?;
        value.clone().map(|value| Entry { value, revision: *revision })
    }

    fn committed(&self, id: CommitId) -> Option<Revision> {
        self.commits.iter().find(|(known, _)| *known == id).map(|(_, revision)| *revision)
    }

    fn commit(&mut self, batch: Batch) -> Result<Revision, CommitError> {
        if let Some(revision) = self.committed(batch.id) {
            return Ok(revision);
        }
        for condition in &batch.preconditions {
            let (at, holds) = match condition {
                Precondition::Absent(at) => (at, self.find(at.as_str()).is_none()),
                Precondition::RevisionIs(at, revision) => {
                    (at, self.find(at.as_str()).is_some_and(|entry| entry.revision == *revision))
                }
            };
            if !holds {
                return Err(CommitError::Conflict(at.clone()));
            }
        }
        self.last += 1;
        self.commits.push((batch.id, self.revision()));
        for write in batch.writes {
            let (at, value) = match write {
                Write::Put(at, value) => (at, Some(value)),
                Write::Delete(at) => (at, None),
            };
            self.happened.push((self.revision(), at, value));
        }
        Ok(self.revision())
    }

    /// All that exists, in order.
    fn entries(&self) -> Vec<(EntryPath, Entry)> {
        let mut paths: Vec<EntryPath> = PATHS.iter().map(|raw| EntryPath::parse(raw).unwrap()).collect();
        paths.sort_by(|a, b| a.as_str().as_bytes().cmp(b.as_str().as_bytes()));
        paths.into_iter().filter_map(|path| self.find(path.as_str()).map(|entry| (path, entry))).collect()
    }

    fn scan(&self, prefix: &str, after: &str, limit: u32) -> (Vec<(EntryPath, Entry)>, bool) {
        let mut found = self.entries();
        found.retain(|(path, _)| is_below_or_at(path.as_str(), prefix) && path.as_str() > after);
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        (found, more)
    }

    fn claim(&mut self, queue: &str, limit: u32, now: Timestamp, for_: Duration) -> Vec<Claim> {
        let hidden = |path: &EntryPath, entry: &Entry| {
            self.claims.iter().any(|(at, since, until)| at == path && *since == entry.revision && *until > now)
        };
        let mut due = self.entries();
        due.retain(|(path, entry)| is_due(queue, path.as_str(), now) && !hidden(path, entry));
        due.truncate(limit as usize);
        if due.is_empty() {
            return Vec::new();
        }
        self.last += 1;
        let fence = self.revision();
        let claim = |(path, entry): (EntryPath, Entry)| {
            self.happened.push((fence, path.clone(), Some(entry.value.clone())));
            self.claims.push((path.clone(), fence, now.plus(for_)));
            Claim { path, entry: Entry { revision: fence, ..entry }, fence }
        };
        due.into_iter().map(claim).collect()
    }

    /// What a watcher of `prefix` that was there from the beginning has heard.
    fn told(&self, prefix: &EntryPath) -> Vec<Change> {
        let mut told: Vec<Change> = Vec::new();
        for (at, path, _) in &self.happened {
            if !is_below_or_at(path.as_str(), prefix.as_str()) {
                continue;
            }
            match told.last_mut() {
                Some(Change::Paths { revision, paths }) if revision == at => {
                    *paths = paths.iter().chain([path]).cloned().collect();
                }
                _ => told.push(Change::Paths { revision: *at, paths: [path.clone()].into() }),
            }
        }
        told
    }
}

fn is_below_or_at(path: &str, prefix: &str) -> bool {
    let mut path = path.split('/');
    prefix.split('/').all(|segment| path.next() == Some(segment))
}

fn is_due(queue: &str, path: &str, now: Timestamp) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let depth = queue.split('/').count();
    if !is_below_or_at(path, queue) || segments.len() <= depth {
        return false;
    }
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let time = segments[depth];
    let due = time.bytes().fold(0_u64, |due, byte| due << 4 | u64::from((byte as char).to_digit(16).unwrap_or(0)));
    time.len() == 16 && time.bytes().all(lower) && due <= now.unix_millis()
}

fn commit_id(number: u8) -> CommitId {
    CommitId([number; 16])
}

fn path(number: u8) -> EntryPath {
    EntryPath::parse(PATHS[usize::from(number) % PATHS.len()]).unwrap()
}

/// Siblings that sort around a prefix, and work of several queues: due at once, soon, later, never.
const PATHS: &[&str] = &[
    "t",
    "t/a",
    "t/a!",
    "t/a!/b",
    "t/a/b",
    "t/a/b/c",
    "t/a0",
    "t/ab",
    "t/b",
    "t!",
    "t0/a",
    "t/q",
    "t/q/0000000000000000/a",
    "t/q/0000000000000001",
    "t/q/0000000000000001/a",
    "t/q/0000000000000001/a/b",
    "t/q/00000000000f4240/a",
    "t/q/00000000000f6950/a",
    "t/q/00000000000fffff/b",
    "t/q/ffffffffffffffff/a",
    "t/q/00000000000000AB/a",
    "t/q/x",
    "t/q!/0000000000000001/a",
    "t/q0/0000000000000001/a",
];

/// `t`, `t/a` and `t/q`.
const MANY_BELOW: [u8; 3] = [0, 1, QUEUE];
const QUEUE: u8 = 11;

/// 1 000 000 ms: `f4240`.
const START: Timestamp = Timestamp::from_unix_millis(1_000_000);
/// With `Wait` at most a minute each: less than the hour for which ids are known.
const OPERATIONS_MAX: usize = 60;
const IDS: u8 = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, Sqlite, sqlite};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn run(store: &dyn Storage, clock: &ManualClock, data: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(store, clock, &operations(data)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn memory_does_what_the_model_does(data in vec(any::<u8>(), 0..800)) {
            let clock = ManualClock::default();
            run(&Memory::with_clock(Arc::new(clock.clone())), &clock, &data);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn sqlite_does_what_the_model_does(data in vec(any::<u8>(), 0..800)) {
            let clock = ManualClock::default();
            let folder = tempfile::tempdir().unwrap();
            let options = sqlite::Options { clock: Arc::new(clock.clone()), ..sqlite::Options::default() };
            run(&Sqlite::open_with(folder.path(), options).unwrap(), &clock, &data);
        }
    }

    #[test]
    fn the_operations_reach_every_answer() {
        let mut seen = [0_usize; 6];
        for seed in 0..200_u32 {
            let data: Vec<u8> = (0..600_u32)
                .map(|i| envelope::mac::sha256(&[seed.to_be_bytes(), i.to_be_bytes()].concat())[0])
                .collect();
            let mut model = Model::default();
            for operation in operations(&data) {
                match operation {
                    Operation::Commit { id, preconditions, writes } => {
                        let batch = model.batch(id, &preconditions, &writes);
                        let known = model.committed(batch.id).is_some();
                        let conflict = model.commit(batch).is_err();
                        seen[if known {
                            0
                        } else if conflict {
                            1
                        } else {
                            2
                        }] += 1;
                    }
                    Operation::Claim { queue, limit, secs } => {
                        let claims = model.claim(path(queue).as_str(), limit, START, Duration::from_secs(secs.into()));
                        seen[3] += usize::from(!claims.is_empty());
                    }
                    Operation::Scan { prefix, after, limit } => {
                        let after = after.map(path);
                        let after = after.as_ref().map_or("", EntryPath::as_str);
                        let (found, more) = model.scan(path(prefix).as_str(), after, limit);
                        seen[4] += usize::from(!found.is_empty());
                        seen[5] += usize::from(more);
                    }
                    Operation::Committed { .. } | Operation::Get { .. } | Operation::Wait { .. } => {}
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
