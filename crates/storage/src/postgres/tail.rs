//! The tail: what every node of the cluster commits, in order, told to whoever watches here.
//!
//! It is asked for every 50 ms, and at once where another node came between two commits of this one. No NOTIFY: within a
//! commit it would make all commits of the database wait for each other, and as a hint beside it there is little to win.
//!
//! Always: what this node commits is told before its caller hears of it (within [`HEARD_WITHIN`] where the tail lags).
//! Always: [`STALE_AFTER`] after the last time that the tail was heard, whoever watches is told that everything may have
//! changed (a gap at the end of all revisions: nothing may be cached), until it is heard again. Whoever caches also sees for
//! itself when that was: a process that was stopped would be told too late.
//! Always: another connection is another history until it is proven: the database may be a standby that took over, and has
//! lost the last commits. It begins with a gap; where what this node has committed or told is not there any more, the store is
//! given up: the next start compares it with the audit log.

use super::Durability;
use super::connect::{Connector, Session};
use crate::feed::Feed;
use crate::{CommitId, EntryPath, Moment, Revision, StorageError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_postgres::types::ToSql;

#[derive(Debug)]
pub(super) struct Tail {
    feed: Arc<Feed>,
    /// Everything up to here was told; `None` while the tail is lost.
    told: Mutex<Option<Revision>>,
    reached: watch::Sender<Revision>,
    /// When the last question was asked whose answer was told.
    heard: watch::Sender<Moment>,
    /// What this node committed last: it is known by its id.
    committed: Mutex<Option<(Revision, CommitId)>>,
    wake: Notify,
}

/// Advisory locks. A connection of their own holds the last two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locks {
    /// Of whoever makes the schema, for a moment.
    pub(super) making: i64,
    /// Of the schema, shared by its servers.
    pub(super) schema: i64,
    /// Of this node, alone.
    pub(super) node: i64,
}

/// One answer of the database.
struct Heard {
    head: Revision,
    floor: Revision,
    commits: Vec<(Revision, Vec<EntryPath>)>,
    /// There may be more.
    full: bool,
    /// The database keeps what it acknowledges: that can be changed while it runs.
    durable: bool,
}

impl Tail {
    /// Of a store that was at `head` when it was asked.
    pub(super) fn new(head: Revision, asked: Moment) -> Self {
        let (told, reached, heard) = (Mutex::new(Some(head)), watch::Sender::new(head), watch::Sender::new(asked));
        let committed = Mutex::default();
        Self { feed: Arc::new(Feed::new(head)), told, reached, heard, committed, wake: Notify::new() }
    }

    pub(super) fn committed(&self, revision: Revision, id: CommitId) {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some((revision, id));
    }

    pub(super) fn hearing(&self) -> watch::Receiver<Moment> {
        self.heard.subscribe()
    }

    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    fn told(&self) -> MutexGuard<'_, Option<Revision>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits of this node that follow `base`. `false` where others came before, which must be heard first.
    pub(super) fn own(&self, base: Revision, commits: Vec<(Revision, Vec<EntryPath>)>) -> bool {
        let mut told = self.told();
        if *told != Some(base) {
            self.wake.notify_one();
            return false;
        }
        if let Some((last, _)) = commits.last() {
            let last = *last;
            *told = Some(last);
            self.feed.publish(commits);
            self.reached.send_replace(last);
        }
        true
    }

    /// Until everything up to `revision` was told, or for as long as a caller may wait for it.
    pub(super) async fn reached(&self, revision: Revision) {
        let mut reached = self.reached.subscribe();
        let _late = tokio::time::timeout(HEARD_WITHIN, reached.wait_for(|reached| *reached >= revision)).await;
    }

    /// What was told is there, and what this node committed last, as far as the log of changes reaches back.
    async fn goes_on(&self, session: &Session) -> Result<bool, StorageError> {
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        // told before it is asked
        let told = *self.reached.borrow();
        let place = super::signed(committed.map_or(Revision(0), |(revision, _)| revision));
        let row = session.client.query_one(GOES_ON, &[&place]).await;
        let row = row.map_err(|error| super::connect::storage_error(&error))?;
        let (head, floor) = (super::unsigned(row.get(0)), super::unsigned(row.get(1)));
        let found: Option<&[u8]> = row.get(2);
        let is_there = committed.is_none_or(|(revision, id)| revision <= floor || found == Some(id.0.as_slice()));
        Ok(told <= head && is_there)
    }

    fn lost(&self) {
        let mut told = self.told();
        if told.take().is_some() {
            tracing::warn!("the database was not heard for a while: nothing is served from memory");
            self.feed.lose(Revision(u64::MAX));
        }
    }

    fn heard(&self, from: Option<Revision>, heard: Heard) {
        let mut told = self.told();
        // Lost: what was committed meanwhile is not told one by one. A head before ours is another history's.
        let continues = from.filter(|from| *from <= heard.head && *from >= heard.floor && told.is_some());
        let now = match continues {
            Some(_) => {
                let known = told.unwrap_or_default();
                let commits: Vec<_> = heard.commits.into_iter().filter(|(revision, _)| *revision > known).collect();
                let last = commits.last().map_or(known, |(last, _)| *last);
                self.feed.publish(commits);
                last
            }
            None => {
                self.feed.lose(heard.head);
                heard.head
            }
        };
        *told = Some(now);
        self.reached.send_replace(now);
    }
}

/// Follows the database, and forgets what is old enough; ends where the database has begun to lose what it acknowledges.
pub(super) async fn follow(tail: Arc<Tail>, connector: Connector, first: Session, mut old: Old) {
    let (mut session, mut heard_at) = (Some(first), Instant::now());
    loop {
        let (began, asked, from) = (Instant::now(), Moment::now(), *tail.told());
        // once the tail is given up, a connection may take its time
        let limit = if from.is_some() { POLL } else { POLL + super::connect::CONNECT };
        let heard = tokio::time::timeout(limit, async {
            let mut from = from;
            if session.as_ref().is_none_or(|session| session.client.is_closed()) {
                let anew = connector.connect().await?;
                if !tail.goes_on(&anew).await? {
                    return Ok(None);
                }
                session = Some(anew);
                from = None;
            }
            let heard = hear(session.as_ref().ok_or(StorageError::Unavailable)?, from).await?;
            Ok(Some((from, heard)))
        });
        match heard.await.unwrap_or(Err(StorageError::Unavailable)) {
            Ok(None) => {
                tracing::error!("the database has gone back: commits that were acknowledged are lost");
                tail.lost();
                return;
            }
            Ok(Some((_, heard))) if !heard.durable && connector.durability() == Durability::Required => {
                tracing::error!("the database was told to run without fsync or full_page_writes: it would lose data");
                tail.lost();
                return;
            }
            Ok(Some((from, heard))) => {
                heard_at = began;
                let (head, full) = (heard.head, heard.full);
                tail.heard(from, heard);
                if !full {
                    tail.heard.send_replace(asked);
                }
                if let Some(session) = &session {
                    old.forget(session, head).await;
                }
                if !full {
                    let _woken = tokio::time::timeout(POLL_EVERY, tail.wake.notified()).await;
                }
            }
            Err(_) => {
                session = None;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        if heard_at.elapsed() > STALE_AFTER {
            tail.lost();
        }
    }
}

/// Holds the node's locks for as long as nobody else has them; ends where another server has taken this one's name: two of one
/// name would spoil each other's anchors.
pub(super) async fn hold(connector: Connector, locks: Locks, first: Session) {
    let mut session = first;
    loop {
        session.ended().await;
        let mut held = 0;
        session = loop {
            match locked(&connector, locks).await {
                Ok(Locked::Ours(session)) => break session,
                // a session of ours that the database has not given up yet
                Ok(Locked::Lingering) if held < HELD_MAX => held += 1,
                Ok(Locked::Lingering | Locked::Taken) => {
                    tracing::error!("another server has taken this node's name");
                    return;
                }
                Err(_) => {}
            }
            tokio::time::sleep(super::AWAY).await;
        };
    }
}

/// Whose a node's locks are.
pub(super) enum Locked {
    /// A connection that holds them.
    Ours(Session),
    /// The schema is used by nobody else than servers, and nobody else has the name now: an earlier connection of this server's.
    Lingering,
    /// Another process's.
    Taken,
}

pub(super) async fn locked(connector: &Connector, locks: Locks) -> Result<Locked, StorageError> {
    let named = |error: tokio_postgres::Error| super::connect::storage_error(&error);
    let session = connector.connect().await?;
    let take = "SELECT pg_try_advisory_lock_shared($1) AND pg_try_advisory_lock($2)";
    let row = session.client.query_one(take, &[&locks.schema, &locks.node]).await.map_err(named)?;
    if row.get::<_, bool>(0) {
        return Ok(Locked::Ours(session));
    }
    let others = session.client.query_one(OTHERS, &[&locks.schema, &locks.node]).await.map_err(named)?;
    Ok(if others.get(0) { Locked::Taken } else { Locked::Lingering })
}

async fn hear(session: &Session, from: Option<Revision>) -> Result<Heard, StorageError> {
    let after = from.map_or(i64::MAX, super::signed);
    let rows = session.client.query(HEAR, &[&after, &LISTED_MAX]).await;
    let rows = rows.map_err(|error| super::connect::storage_error(&error))?;
    let first = rows.first().ok_or(StorageError::Damaged("head"))?;
    let (head, floor) = (super::unsigned(first.get(0)), super::unsigned(first.get(1)));
    let mut commits = Vec::new();
    for row in &rows {
        let Some(revision) = row.get::<_, Option<i64>>(2) else { continue };
        let paths = row.get::<_, Vec<&[u8]>>(3).into_iter().map(super::path).collect::<Result<Vec<_>, _>>()?;
        commits.push((super::unsigned(revision), paths));
    }
    let full = i64::try_from(commits.len()).is_ok_and(|count| count >= LISTED_MAX);
    let durable = first.get::<_, &str>(4) == "on" && first.get::<_, &str>(5) == "on";
    Ok(Heard { head, floor, commits, full, durable })
}

/// What may be forgotten. While a node runs it notes now and then where the store stands; what it noted [`MARKS`] times ago is
/// old enough, by its own steady clock, however often it was started again.
pub(super) struct Old {
    node: String,
    every: Duration,
    marked: Instant,
    trim: Option<Revision>,
}

impl Old {
    pub(super) fn new(node: &str, remembered: Duration) -> Self {
        Self { node: node.to_owned(), every: remembered / MARKS.unsigned_abs(), marked: Instant::now(), trim: None }
    }

    async fn forget(&mut self, session: &Session, head: Revision) {
        if self.marked.elapsed() > self.every {
            // also where it fails: it may have come to be
            self.marked = Instant::now();
            let parameters: [&(dyn ToSql + Sync); 3] = [&self.node, &super::signed(head), &i64::from(MARKS)];
            let marked = session.client.query_one(MARK, &parameters);
            match tokio::time::timeout(POLL, marked).await {
                Ok(Ok(row)) => {
                    let old = row.get::<_, Option<i64>>(0).map(super::unsigned);
                    self.trim = self.trim.max(old);
                }
                Ok(Err(_)) | Err(_) => tracing::debug!("where the store stands was not noted; it will be"),
            }
        }
        let Some(upto) = self.trim else { return };
        // within the time of one poll: what remains goes with the next
        let parameters: [&(dyn ToSql + Sync); 2] = [&super::signed(upto), &FORGOTTEN_MAX];
        let trimmed = session.client.query_one("SELECT trim_1($1, $2)", &parameters);
        match tokio::time::timeout(POLL, trimmed).await {
            Ok(Ok(row)) if super::unsigned(row.get(0)) >= upto => self.trim = None,
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => tracing::debug!("the log of changes was not cut; it will be"),
        }
    }
}

/// One statement sees one snapshot: all that it lists up to `head` is all that there is.
const HEAR: &str = "SELECT h.rev, h.floor, l.rev, l.paths, current_setting('fsync'), current_setting('full_page_writes') FROM head h LEFT JOIN LATERAL
     (SELECT g.rev, g.paths FROM log g WHERE g.rev > $1 ORDER BY g.rev LIMIT $2) l ON true ORDER BY l.rev";
const GOES_ON: &str = "SELECT h.rev, h.floor, l.id FROM head h LEFT JOIN log l ON l.rev = $1";
const POLL_EVERY: Duration = Duration::from_millis(50);
/// For one question, with a new connection where one is needed.
const POLL: Duration = Duration::from_millis(800);
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// With one more question under way the tail is given up 1.8 s after it was heard: revocations are in force within 2 s.
const STALE_AFTER: Duration = Duration::from_millis(900);
const HEARD_WITHIN: Duration = Duration::from_millis(500);
const LISTED_MAX: i64 = 1000;
const FORGOTTEN_MAX: i32 = 2000;
const MARKS: i32 = 64;
/// A further mark; those that are old enough go, and tell up to where the log may.
const MARK: &str = "WITH made AS (INSERT INTO marks SELECT $1, coalesce(max(tick), 0) + 1, $2 FROM marks WHERE node = $1 RETURNING tick),
     old AS (DELETE FROM marks m USING made WHERE m.node = $1 AND m.tick <= made.tick - $3 RETURNING m.rev)
     SELECT max(rev) FROM old";
/// Whether another process than this one has the name, or all of the schema ($1 is shared by its servers).
const OTHERS: &str = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.mode = 'ExclusiveLock'
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid::bigint << 32 | l.objid::bigint) IN ($1, $2)
       AND a.application_name <> current_setting('application_name'))";
/// Twenty seconds: as long as keepalives take, and a little.
const HELD_MAX: u32 = 100;
