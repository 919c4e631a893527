//! The writer: takes what is queued as one group, decides and commits it in one round trip, then answers everybody.
//!
//! Always: batches of one group fail one by one; a group with nothing to write costs no sync.
//! Always: whoever watches here hears of a commit before its caller does.
//! Never: an answer guessed. What was under way when the connection ended, or took too long, is unknown.

use super::connect::{Connector, Session, ends_session, is_stuck, is_undone, storage_error};
use super::tail::Tail;
use crate::{Batch, Claim, CommitError, CommitId, Entry, EntryPath, Precondition, Revision, StorageError, Write};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Statement;
use tokio_postgres::types::{ToSql, Type};

pub(super) enum Ask {
    Commit { batch: Batch, reply: oneshot::Sender<Result<Revision, CommitError>> },
    Claim(ClaimAsk),
}

pub(super) struct ClaimAsk {
    pub(super) queue: EntryPath,
    pub(super) limit: usize,
    pub(super) for_: Duration,
    /// By a clock of the caller's; `None`: by the database's.
    pub(super) now: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<Vec<Claim>, StorageError>>,
}

impl super::Refuse for Ask {
    fn refuse(self, error: StorageError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(error.into()))),
            Self::Claim(ask) => drop(ask.reply.send(Err(error))),
        }
    }
}

pub(super) struct Writer {
    pub(super) connector: Connector,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) tail: Arc<Tail>,
}

struct Statements {
    commit: Statement,
    claim: Statement,
}

/// A batch that waits for its answer.
struct Waiting {
    batch: Batch,
    reply: oneshot::Sender<Result<Revision, CommitError>>,
}

/// Whether the connection can be used further.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Reconnect,
}

impl Writer {
    /// Until nobody can ask any more.
    pub(super) async fn run(mut self, first: Session) {
        let mut session = Some(first);
        loop {
            let prepared = match session.take() {
                Some(session) => Statements::prepare(session).await,
                None => match self.connector.connect().await {
                    Ok(session) => Statements::prepare(session).await,
                    Err(error) => Err(error),
                },
            };
            match prepared {
                Ok((open, statements)) => {
                    if self.serve(&open, &statements).await.is_none() {
                        return;
                    }
                }
                Err(_) => {
                    if super::refuse_for(&mut self.asks, super::AWAY).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Until the connection is of no use; `None` once nobody can ask any more.
    async fn serve(&mut self, session: &Session, statements: &Statements) -> Option<()> {
        let mut left: VecDeque<Ask> = VecDeque::new();
        loop {
            let first = match left.pop_front() {
                Some(ask) => ask,
                None => tokio::select! {
                    biased;
                    () = session.ended() => return Some(()),
                    ask = self.asks.recv() => ask?,
                },
            };
            let then = match first {
                Ask::Claim(ask) => self.claim(session, statements, ask).await,
                Ask::Commit { batch, reply } => {
                    let (group, waves) = self.group(Waiting { batch, reply }, &mut left);
                    self.commit(session, statements, group, waves).await
                }
            };
            if then == Then::Reconnect {
                // they were not asked of the database yet: nobody waits for a further one that answers nothing
                let queued = std::iter::from_fn(|| self.asks.try_recv().ok());
                left.drain(..).chain(queued).for_each(|ask| super::Refuse::refuse(ask, StorageError::Unavailable));
                return Some(());
            }
        }
    }

    /// What is queued with `first`, and each one's wave. What does not fit is left for the next group.
    fn group(&mut self, first: Waiting, left: &mut VecDeque<Ask>) -> (Vec<Waiting>, Vec<i32>) {
        let mut bytes = first.batch.values_len();
        let mut waves = Waves::default();
        let mut numbers = vec![waves.place(&first.batch).unwrap_or(1)];
        let mut group = vec![first];
        let mut queued = std::mem::take(left);
        while group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
            let Some(ask) = queued.pop_front().or_else(|| self.asks.try_recv().ok()) else { break };
            match ask {
                Ask::Commit { batch, reply } if left.len() < LEFT_MAX => match waves.place(&batch) {
                    Some(number) => {
                        bytes += batch.values_len();
                        numbers.push(number);
                        group.push(Waiting { batch, reply });
                    }
                    None => left.push_back(Ask::Commit { batch, reply }),
                },
                other @ (Ask::Commit { .. } | Ask::Claim(_)) => {
                    left.push_back(other);
                    if left.len() >= LEFT_MAX {
                        break;
                    }
                }
            }
        }
        left.extend(queued);
        in_order(group, numbers)
    }

    async fn commit(&self, session: &Session, statements: &Statements, group: Vec<Waiting>, waves: Vec<i32>) -> Then {
        let columns = Columns::of(&group);
        let parameters = columns.parameters(&waves);
        let ask = session.client.query(&statements.commit, &parameters);
        let rows = match tokio::time::timeout(super::ANSWER, ask).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                let named = storage_error(&error);
                let undone = is_undone(&error);
                for waiting in group {
                    let error = if undone { named.clone().into() } else { CommitError::Unknown };
                    drop(waiting.reply.send(Err(error)));
                }
                return if ends_session(&error) || is_stuck(&error) { Then::Reconnect } else { Then::GoOn };
            }
            Err(_) => {
                tracing::error!("the database does not answer a commit");
                group.into_iter().for_each(|waiting| drop(waiting.reply.send(Err(CommitError::Unknown))));
                return Then::Reconnect;
            }
        };
        let decided = rows.first().map(|row| {
            (super::unsigned(row.get(0)), row.get::<_, Vec<Option<i64>>>(1), row.get::<_, Vec<Option<i32>>>(2))
        });
        let Some((base, revisions, bad)) = decided.filter(|(_, revisions, _)| revisions.len() == group.len()) else {
            group.into_iter().for_each(|waiting| drop(waiting.reply.send(Err(CommitError::Unknown))));
            return Then::Reconnect;
        };
        let differ = columns.conditions_at(&bad);
        self.answer(group, base, &revisions, &differ);
        Then::GoOn
    }

    /// In the order of their revisions; what was known before is older than `base`.
    fn answer(&self, group: Vec<Waiting>, base: Revision, revisions: &[Option<i64>], differ: &[Option<EntryPath>]) {
        let mut answers = Vec::with_capacity(group.len());
        let (mut commits, mut newest) = (Vec::new(), None);
        for ((waiting, revision), differs) in group.into_iter().zip(revisions).zip(differ) {
            let outcome = match (revision, differs) {
                (Some(revision), _) => Ok(super::unsigned(*revision)),
                (None, Some(path)) => Err(CommitError::Conflict(path.clone())),
                (None, None) => Err(CommitError::Unknown),
            };
            if let Ok(revision) = outcome
                && revision > base
            {
                newest = newest.max(Some((revision, waiting.batch.id.0)));
                commits.push((revision, waiting.batch.writes.iter().map(|write| write.path().clone()).collect()));
            }
            answers.push((waiting.reply, outcome));
        }
        if let Some((revision, id)) = newest {
            self.tail.committed(revision, CommitId(id));
        }
        commits.sort_by_key(|(revision, _): &(Revision, Vec<EntryPath>)| *revision);
        let last = commits.last().map_or(base, |(last, _)| *last);
        let send = move || answers.into_iter().for_each(|(reply, outcome)| drop(reply.send(outcome)));
        if self.tail.own(base, commits) {
            send();
        } else {
            let tail = Arc::clone(&self.tail);
            tokio::spawn(async move {
                tail.reached(last).await;
                send();
            });
        }
    }

    async fn claim(&self, session: &Session, statements: &Statements, ask: ClaimAsk) -> Then {
        let prefix = format!("{}/", ask.queue);
        let now = ask.now.map(|now| i64::try_from(now).unwrap_or(i64::MAX));
        let limit = i32::try_from(ask.limit).unwrap_or(i32::MAX);
        let hide = i64::try_from(ask.for_.as_millis()).unwrap_or(i64::MAX >> 1).min(i64::MAX >> 1);
        let prefix = prefix.as_bytes();
        let parameters: [&(dyn ToSql + Sync); 4] = [&prefix, &now, &limit, &hide];
        let answered = tokio::time::timeout(super::ANSWER, session.client.query(&statements.claim, &parameters)).await;
        let (outcome, then) = match answered {
            Ok(Ok(rows)) => (claimed(&rows), Then::GoOn),
            Ok(Err(error)) => {
                let then = if ends_session(&error) { Then::Reconnect } else { Then::GoOn };
                (Err(storage_error(&error)), then)
            }
            Err(_) => (Err(StorageError::Unavailable), Then::Reconnect),
        };
        let outcome = outcome.map(|(base, claims)| {
            let own = claims.first().map(|claim| claim.fence);
            if let (Some(base), Some(fence)) = (base, own) {
                let paths = claims.iter().map(|claim| claim.path.clone()).collect();
                self.tail.own(base, vec![(fence, paths)]);
            }
            claims
        });
        drop(ask.reply.send(outcome));
        then
    }
}

fn claimed(rows: &[tokio_postgres::Row]) -> Result<(Option<Revision>, Vec<Claim>), StorageError> {
    let row = rows.first().ok_or(StorageError::Damaged("claim"))?;
    let (Some(base), Some(paths), Some(values)) =
        (row.get::<_, Option<i64>>(0), row.get::<_, Option<Vec<&[u8]>>>(1), row.get::<_, Option<Vec<&[u8]>>>(2))
    else {
        return Ok((None, Vec::new()));
    };
    let base = super::unsigned(base);
    let fence = Revision(base.0 + 1);
    let claims = paths.into_iter().zip(values).map(|(path, value)| {
        let entry = Entry { value: Bytes::copy_from_slice(value), revision: fence };
        Ok(Claim { path: super::path(path)?, entry, fence })
    });
    Ok((Some(base), claims.collect::<Result<_, StorageError>>()?))
}

/// By waves.
fn in_order(group: Vec<Waiting>, numbers: Vec<i32>) -> (Vec<Waiting>, Vec<i32>) {
    let mut numbered: Vec<(i32, Waiting)> = numbers.into_iter().zip(group).collect();
    numbered.sort_by_key(|(number, _)| *number);
    let (numbers, group) = numbered.into_iter().unzip();
    (group, numbers)
}

/// Which wave a batch may stand in: after every one that wrote what it touches, or touched what it writes.
#[derive(Default)]
struct Waves {
    ids: HashSet<[u8; 16]>,
    /// The last wave that wrote a path, and the last that looked at it.
    paths: HashMap<EntryPath, (i32, i32)>,
}

impl Waves {
    fn place(&mut self, batch: &Batch) -> Option<i32> {
        if self.ids.contains(&batch.id.0) {
            return None;
        }
        let written = |path| self.paths.get(path).map_or(0, |(written, _)| *written);
        let looked_at = |path| self.paths.get(path).map_or(0, |(_, looked_at)| *looked_at);
        let conditions = batch.preconditions.iter().map(|condition| written(condition.path()) + 1);
        // conditions of a wave are asked before its writes: who only looks may stand in the wave that writes
        let writes = batch.writes.iter().map(|write| (written(write.path()) + 1).max(looked_at(write.path())));
        let number = conditions.chain(writes).max().unwrap_or(1).max(1);
        if number > WAVES_MAX {
            return None;
        }
        self.ids.insert(batch.id.0);
        for condition in &batch.preconditions {
            let (_, looked_at) = self.paths.entry(condition.path().clone()).or_default();
            *looked_at = (*looked_at).max(number);
        }
        for write in &batch.writes {
            self.paths.entry(write.path().clone()).or_default().0 = number;
        }
        Some(number)
    }
}

/// A group as the columns of `commit_1`.
struct Columns<'a> {
    ids: Vec<&'a [u8]>,
    cb: Vec<i32>,
    ck: Vec<&'a [u8]>,
    cr: Vec<Option<i64>>,
    conditions: Vec<&'a EntryPath>,
    wb: Vec<i32>,
    wk: Vec<&'a [u8]>,
    wv: Vec<Option<&'a [u8]>>,
    wl: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(group: &'a [Waiting]) -> Self {
        let mut columns = Self {
            ids: Vec::with_capacity(group.len()),
            cb: Vec::new(),
            ck: Vec::new(),
            cr: Vec::new(),
            conditions: Vec::new(),
            wb: Vec::new(),
            wk: Vec::new(),
            wv: Vec::new(),
            wl: Vec::new(),
        };
        // a group's length is bounded
        for (number, waiting) in (1..).zip(group) {
            columns.add(number, &waiting.batch);
        }
        columns
    }

    fn add(&mut self, number: i32, batch: &'a Batch) {
        self.ids.push(&batch.id.0);
        for condition in &batch.preconditions {
            self.cb.push(number);
            self.ck.push(condition.path().as_str().as_bytes());
            self.cr.push(match condition {
                Precondition::Absent(_) => None,
                // one that no entry has
                Precondition::RevisionIs(_, revision) => Some(i64::try_from(revision.0).unwrap_or(-1)),
            });
            self.conditions.push(condition.path());
        }
        let start = self.wl.len();
        let mut later = HashSet::new();
        for write in batch.writes.iter().rev() {
            self.wb.push(number);
            self.wk.push(write.path().as_str().as_bytes());
            self.wv.push(match write {
                Write::Put(_, value) => Some(value),
                Write::Delete(_) => None,
            });
            self.wl.push(later.insert(write.path()));
        }
        self.wk[start..].reverse();
        self.wv[start..].reverse();
        self.wl[start..].reverse();
    }

    fn parameters<'b>(&'b self, waves: &'b Vec<i32>) -> [&'b (dyn ToSql + Sync); 9] {
        [&self.ids, waves, &self.cb, &self.ck, &self.cr, &self.wb, &self.wk, &self.wv, &self.wl]
    }

    /// The paths of the conditions, which are counted from 1.
    fn conditions_at(&self, numbers: &[Option<i32>]) -> Vec<Option<EntryPath>> {
        let at = |number: &Option<i32>| {
            let place = usize::try_from((*number)?).ok()?.checked_sub(1)?;
            self.conditions.get(place).map(|path| (*path).clone())
        };
        numbers.iter().map(at).collect()
    }
}

impl Statements {
    async fn prepare(session: Session) -> Result<(Session, Self), StorageError> {
        let prepare = async {
            let bytes = Type::BYTEA_ARRAY;
            let types = [
                bytes.clone(),
                Type::INT4_ARRAY,
                Type::INT4_ARRAY,
                bytes.clone(),
                Type::INT8_ARRAY,
                Type::INT4_ARRAY,
                bytes.clone(),
                bytes,
                Type::BOOL_ARRAY,
            ];
            let commit = "SELECT base, revs, bad FROM commit_1($1, $2, $3, $4, $5, $6, $7, $8, $9)";
            let commit = session.client.prepare_typed(commit, &types).await?;
            let claim = session.client.prepare("SELECT base, ks, vs FROM claim_1($1, $2, $3, $4)").await?;
            Ok(Self { commit, claim })
        };
        match tokio::time::timeout(super::ANSWER, prepare).await {
            Ok(Ok(statements)) => Ok((session, statements)),
            Ok(Err(error)) => Err(storage_error(&error)),
            Err(_) => Err(StorageError::Unavailable),
        }
    }
}

const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Batches that touch the same entries, one after another within one commit.
const WAVES_MAX: i32 = 16;
/// Asks put off to the next group.
const LEFT_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommitId;

    #[test]
    fn a_batch_stands_after_what_wrote_its_paths_and_not_before_what_looked_at_them() {
        let path = |raw: &str| EntryPath::parse(raw).unwrap();
        let new = |id: u8| Batch::new(CommitId([id; 16]));
        let mut waves = Waves::default();
        for (batch, number) in [
            (new(1).put(path("a"), "1"), Some(1)),
            (new(2).put(path("b"), "1"), Some(1)),
            (new(1).put(path("c"), "1"), None),
            (new(3).absent(path("a")).put(path("d"), "1"), Some(2)),
            (new(4).put(path("d"), "1"), Some(3)),
            // it looked at `a` in the second wave: who writes it may stand there, not in the first
            (new(5).absent(path("a")), Some(2)),
            (new(6).delete(path("a")), Some(2)),
            (new(7).absent(path("a")), Some(3)),
            (new(8), Some(1)),
        ] {
            assert_eq!(waves.place(&batch), number, "{batch:?}");
        }
        let last = (10..100).map(|id| waves.place(&new(id).put(path("a"), "1"))).find(|wave| *wave == Some(WAVES_MAX));
        assert!(last.is_some());
        assert_eq!(waves.place(&new(101).put(path("a"), "1")), None);
    }
}
