//! The writer: drains its queue, commits what it found as one transaction with one sync, then answers everybody.
//!
//! Always: a batch fails alone: where one of a group may be at fault, each is done again in a transaction of its own.
//! Always: whoever watches hears of a commit after it is durable and before its caller does.
//! Never: a second sync after one that failed (fsync may report a loss once only; the next would succeed and lie).

use super::checkpoint::Checkpoints;
use super::ids::Ids;
use super::schema;
use crate::feed::Feed;
use crate::{Batch, Claim, CommitError, Entry, EntryPath, Precondition, Revision, StorageError, Write, due_segment};
use bytes::Bytes;
use envelope::{Clock, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) enum Ask {
    Commit { batch: Batch, reply: oneshot::Sender<Result<Revision, CommitError>> },
    Claim { queue: EntryPath, limit: usize, for_: Duration, reply: oneshot::Sender<Result<Vec<Claim>, StorageError>> },
}

pub(super) struct Writer {
    connection: Connection,
    /// The newest durable revision.
    head: Revision,
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
    checkpoints: Checkpoints,
    failure: watch::Sender<bool>,
    ids: Ids,
    /// There may be claims: writes end them.
    claims: bool,
}

/// What becomes of an ask, which counts once the group is durable.
enum Outcome {
    Commit(Result<Revision, CommitError>),
    Claim(Result<Vec<Claim>, StorageError>),
}

/// What a group changes, told to watchers once it is durable.
struct Group {
    head: Revision,
    now: Timestamp,
    changes: Vec<(Revision, Vec<EntryPath>)>,
}

/// Why a group was not committed.
enum Lost {
    /// Nothing of it is durable, by nobody's fault.
    Undone(StorageError),
    /// Nothing of it is durable; without one of the asks it might be.
    ByOne(StorageError),
    /// It may or may not be.
    Unknown,
}

impl Writer {
    pub(super) fn new(
        mut connection: Connection,
        head: Revision,
        feed: Arc<Feed>,
        (clock, steady): (Arc<dyn Clock>, Arc<dyn Clock>),
        checkpoints: Checkpoints,
        failure: watch::Sender<bool>,
    ) -> Result<Self, StorageError> {
        let prepare = || {
            checkpoints.count(&mut connection)?;
            Ids::load(&connection, steady, clock.now())
        };
        let ids = prepare().map_err(|error| schema::storage_error(&error))?;
        Ok(Self { connection, head, feed, clock, checkpoints, failure, ids, claims: true })
    }

    /// Until nobody can ask any more, or the store has failed.
    pub(super) fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(first) = asks.blocking_recv() {
            let mut bytes = first.size();
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && bytes < GROUP_BYTES_MAX
                && let Ok(ask) = asks.try_recv()
            {
                bytes += ask.size();
                group.push(ask);
            }
            if !self.commit_group(group) {
                break;
            }
            self.checkpoints.after_group(&self.connection);
        }
        asks.close();
        while let Some(ask) = asks.blocking_recv() {
            ask.refuse(StorageError::Unavailable);
        }
    }

    /// All together; where one of them may be at fault, each by itself. `false` once the store has failed for good.
    fn commit_group(&mut self, asks: Vec<Ask>) -> bool {
        let lost = match self.commit(&asks) {
            Ok((group, outcomes)) => {
                if group.head != self.head {
                    self.ids.kept();
                }
                self.head = group.head;
                self.feed.publish(group.changes);
                asks.into_iter().zip(outcomes).for_each(|(ask, outcome)| ask.answer(outcome));
                return true;
            }
            Err(lost) => lost,
        };
        self.claims = true;
        match lost {
            Lost::ByOne(error) if asks.len() > 1 => {
                tracing::debug!(%error, asks = asks.len(), "a group is done again, each of it by itself");
                let mut asks = asks.into_iter();
                let all = asks.by_ref().all(|ask| self.commit_group(vec![ask]));
                asks.for_each(|ask| ask.refuse(StorageError::Unavailable));
                all
            }
            Lost::ByOne(error) | Lost::Undone(error) => {
                asks.into_iter().for_each(|ask| ask.refuse(error.clone()));
                true
            }
            Lost::Unknown => {
                tracing::error!("the store could not make a commit durable, and has failed for good");
                self.failure.send_replace(true);
                asks.into_iter().for_each(Ask::doubt);
                false
            }
        }
    }

    fn commit(&mut self, asks: &[Ask]) -> Result<(Group, Vec<Outcome>), Lost> {
        let mut group = Group { head: self.head, now: self.clock.now(), changes: Vec::new() };
        self.begin(group.now).map_err(|error| Lost::Undone(self.undo(&error)))?;
        let mut outcomes = Vec::with_capacity(asks.len());
        for ask in asks {
            let outcome = self.decide(ask, &mut group);
            outcomes.push(outcome.map_err(|error| Lost::ByOne(self.undo(&error)))?);
        }
        self.make_durable(&group)?;
        Ok((group, outcomes))
    }

    fn begin(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.execute("BEGIN IMMEDIATE")?;
        self.keep_ids(now)
    }

    fn decide(&mut self, ask: &Ask, group: &mut Group) -> rusqlite::Result<Outcome> {
        match ask {
            Ask::Commit { batch, reply: _ } => self.apply(batch, group).map(Outcome::Commit),
            Ask::Claim { queue, limit, for_, reply: _ } => {
                self.claim(queue, *limit, *for_, group).map(|claims| Outcome::Claim(Ok(claims)))
            }
        }
    }

    fn undo(&mut self, error: &rusqlite::Error) -> StorageError {
        // Where SQLite has rolled back itself there is nothing to roll back.
        if !self.connection.is_autocommit() && self.execute("ROLLBACK").is_err() {
            tracing::error!("rolling back failed");
        }
        schema::storage_error(error)
    }

    fn make_durable(&mut self, group: &Group) -> Result<(), Lost> {
        if group.head == self.head {
            return self.execute("ROLLBACK").map_err(|error| Lost::Undone(self.undo(&error)));
        }
        let told = self
            .connection
            .prepare_cached("UPDATE head SET rev = ?1")
            .and_then(|mut update| update.execute([group.head]));
        if let Err(error) = told {
            return Err(Lost::ByOne(self.undo(&error)));
        }
        self.execute("COMMIT").map_err(|error| {
            // A log that could not grow was not synced: the group is not in it. Any other error may have come after.
            let full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
            let named = self.undo(&error);
            if full { Lost::ByOne(named) } else { Lost::Unknown }
        })
    }

    fn apply(&mut self, batch: &Batch, group: &mut Group) -> rusqlite::Result<Result<Revision, CommitError>> {
        if let Some(revision) = self.ids.known_before(&self.connection, batch.id)? {
            return Ok(Ok(revision));
        }
        let (looked_up, guarded) = guarded(batch);
        for condition in looked_up {
            if !self.holds(condition)? {
                // its own effect, where it was committed before
                let known = self.ids.known_now(&self.connection, batch.id)?;
                return Ok(known.ok_or_else(|| CommitError::Conflict(condition.path().clone())));
            }
        }
        let revision = Revision(group.head.0 + 1);
        if !self.ids.remember(&self.connection, batch.id, revision)?
            && let Some(known) = self.ids.known_now(&self.connection, batch.id)?
        {
            return Ok(Ok(known));
        }
        if let Some(guarded) = &guarded
            && !self.put_where(guarded, revision)?
        {
            self.ids.forget(&self.connection, batch.id)?;
            return Ok(Err(CommitError::Conflict(guarded.condition.path().clone())));
        }
        self.write(batch, guarded.map(|guarded| guarded.write), revision)?;
        group.head = revision;
        group.changes.push((revision, batch.writes.iter().map(Write::path).cloned().collect()));
        Ok(Ok(revision))
    }

    /// Whether the condition held.
    fn put_where(&self, guarded: &Guarded<'_>, revision: Revision) -> rusqlite::Result<bool> {
        let key = guarded.condition.path().as_str().as_bytes();
        let changed = match guarded.condition {
            Precondition::Absent(_) => self
                .connection
                .prepare_cached("INSERT INTO kv VALUES(?1, ?2, ?3) ON CONFLICT(k) DO NOTHING")?
                .execute(params![key, revision, guarded.value])?,
            Precondition::RevisionIs(_, expected) => self
                .connection
                .prepare_cached("UPDATE kv SET rev = ?2, v = ?3 WHERE k = ?1 AND rev = ?4")?
                // SQLite's integers are signed: one beyond them is one that no entry has
                .execute(params![key, revision, guarded.value, i64::try_from(expected.0).unwrap_or(-1)])?,
        };
        Ok(changed > 0)
    }

    /// All but what is written already.
    fn write(&self, batch: &Batch, done: Option<usize>, revision: Revision) -> rusqlite::Result<()> {
        let mut put = self.connection.prepare_cached(
            "INSERT INTO kv VALUES(?1, ?2, ?3) ON CONFLICT(k) DO UPDATE SET rev = excluded.rev, v = excluded.v",
        )?;
        let mut delete = self.connection.prepare_cached("DELETE FROM kv WHERE k = ?1")?;
        let mut unclaim = self.connection.prepare_cached("DELETE FROM claims WHERE k = ?1")?;
        for (number, write) in batch.writes.iter().enumerate() {
            let key = write.path().as_str().as_bytes();
            if self.claims {
                unclaim.execute([key])?;
            }
            if done == Some(number) {
                continue;
            }
            match write {
                Write::Put(_, value) => put.execute(params![key, revision, &value[..]])?,
                Write::Delete(_) => delete.execute([key])?,
            };
        }
        Ok(())
    }

    fn holds(&self, condition: &Precondition) -> rusqlite::Result<bool> {
        let mut found = self.connection.prepare_cached("SELECT rev FROM kv WHERE k = ?1")?;
        let key = condition.path().as_str().as_bytes();
        let found = found.query_row([key], |row| row.get(0)).optional()?;
        Ok(condition.holds(found))
    }

    fn claim(
        &mut self,
        queue: &EntryPath,
        limit: usize,
        for_: Duration,
        group: &mut Group,
    ) -> rusqlite::Result<Vec<Claim>> {
        let fence = Revision(group.head.0 + 1);
        let claims = self.due(queue, limit, fence, group.now)?;
        if claims.is_empty() {
            return Ok(claims);
        }
        self.claims = true;
        let until = i64::try_from(group.now.plus(for_).unix_millis()).unwrap_or(i64::MAX);
        let mut hide = self.connection.prepare_cached(
            "INSERT INTO claims VALUES(?1, ?2, ?3) ON CONFLICT(k) DO UPDATE SET until = excluded.until, token = excluded.token",
        )?;
        let mut renew = self.connection.prepare_cached("UPDATE kv SET rev = ?2 WHERE k = ?1")?;
        for claim in &claims {
            let key = claim.path.as_str().as_bytes();
            hide.execute(params![key, until, fence])?;
            renew.execute(params![key, fence])?;
        }
        group.head = fence;
        group.changes.push((fence, claims.iter().map(|claim| claim.path.clone()).collect()));
        Ok(claims)
    }

    fn due(&self, queue: &EntryPath, limit: usize, fence: Revision, now: Timestamp) -> rusqlite::Result<Vec<Claim>> {
        let mut due = self.connection.prepare_cached(
            "SELECT kv.k, kv.v FROM kv LEFT JOIN claims ON claims.k = kv.k
             WHERE kv.k > ?1 AND kv.k < ?2 AND (claims.until IS NULL OR claims.until <= ?3) ORDER BY kv.k",
        )?;
        // '0' follows '/': all that is due by now stands before it, whatever follows the time.
        let (first, end) = (format!("{queue}/"), format!("{queue}/{:016x}0", now.unix_millis()));
        let at = i64::try_from(now.unix_millis()).unwrap_or(i64::MAX);
        let mut rows = due.query(params![first.as_bytes(), end.as_bytes(), at])?;
        let mut claims = Vec::new();
        while claims.len() < limit
            && let Some(row) = rows.next()?
        {
            let path = schema::path(row.get_ref(0)?.as_blob()?)?;
            if due_segment(queue, &path).is_some_and(|due| due <= now) {
                let value = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
                claims.push(Claim { path, entry: Entry { value, revision: fence }, fence });
            }
        }
        Ok(claims)
    }

    fn keep_ids(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        if self.ids.keep(&self.connection, now)? {
            let claimed: i64 =
                self.connection
                    .query_row("SELECT count(*) FROM (SELECT 1 FROM claims LIMIT 1)", [], |row| row.get(0))?;
            self.claims = claimed > 0;
        }
        Ok(())
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(|_| ())
    }
}

/// A condition that its own path's write checks: one look at the row instead of two.
struct Guarded<'a> {
    condition: &'a Precondition,
    /// Its place among the writes.
    write: usize,
    value: &'a [u8],
}

/// The conditions that are looked up first, and the last one, where the only write of its path is one that puts a value.
fn guarded(batch: &Batch) -> (&[Precondition], Option<Guarded<'_>>) {
    let Some((condition, others)) = batch.preconditions.split_last() else { return (&[], None) };
    let mut writes = batch.writes.iter().enumerate().filter(|(_, write)| write.path() == condition.path());
    match (writes.next(), writes.next()) {
        (Some((write, Write::Put(_, value))), None) => (others, Some(Guarded { condition, write, value })),
        _ => (&batch.preconditions, None),
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // nobody would commit any more: the process should end
        if std::thread::panicking() {
            self.failure.send_replace(true);
        }
    }
}

impl Ask {
    fn size(&self) -> usize {
        match self {
            Self::Commit { batch, .. } => batch.values_len(),
            Self::Claim { .. } => 0,
        }
    }

    /// Whoever has gone needs no answer, here and below.
    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Commit { reply, .. }, Outcome::Commit(outcome)) => drop(reply.send(outcome)),
            (Self::Claim { reply, .. }, Outcome::Claim(outcome)) => drop(reply.send(outcome)),
            // not reached: an outcome is of its ask's kind
            (Self::Commit { .. }, Outcome::Claim(_)) | (Self::Claim { .. }, Outcome::Commit(_)) => {}
        }
    }

    /// It may or may not have been carried out.
    fn doubt(self) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(CommitError::Unknown))),
            Self::Claim { reply, .. } => drop(reply.send(Err(StorageError::Unavailable))),
        }
    }

    fn refuse(self, error: StorageError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(error.into()))),
            Self::Claim { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

const GROUP_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 4 << 20;
