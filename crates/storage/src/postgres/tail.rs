//! The tail: what every node of the cluster commits, in order, told to whoever watches here.
//!
//! It is asked for every 50 ms, and at once where another node came between two commits of this one. No NOTIFY: within a
//! commit it would make all commits of the database wait for each other, and as a hint beside it there is little to win.
//!
//! Always: what this node commits is told before its caller hears of it (within [`HEARD_WITHIN`] where the tail lags).
//! Always: [`STALE_AFTER`] after the last time that the tail was heard, whoever watches is told that everything may have
//! changed (a gap at the end of all revisions: nothing may be cached), until it is heard again.

use super::connect::{Connector, Session};
use crate::feed::Feed;
use crate::{EntryPath, Revision, StorageError};
use std::collections::VecDeque;
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
}

impl Tail {
    pub(super) fn new(head: Revision) -> Self {
        let told = Mutex::new(Some(head));
        Self { feed: Arc::new(Feed::new(head)), told, reached: watch::Sender::new(head), wake: Notify::new() }
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

/// Follows the database for ever, and forgets what is old enough.
pub(super) async fn follow(tail: Arc<Tail>, connector: Connector, first: Session, remembered: Duration) {
    let (mut session, mut heard_at) = (Some(first), Instant::now());
    let mut old = Old { remembered, marks: VecDeque::new(), trim: None };
    loop {
        let (began, from) = (Instant::now(), *tail.told());
        let heard = tokio::time::timeout(POLL, async {
            if session.as_ref().is_none_or(|session| session.client.is_closed()) {
                session = Some(connector.connect().await?);
            }
            hear(session.as_ref().ok_or(StorageError::Unavailable)?, from).await
        });
        match heard.await.unwrap_or(Err(StorageError::Unavailable)) {
            Ok(heard) => {
                heard_at = began;
                let (head, full) = (heard.head, heard.full);
                tail.heard(from, heard);
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

/// Holds the node's locks for as long as nobody else has them; ends where another server has taken this one's name.
pub(super) async fn hold(connector: Connector, locks: Locks, first: Session) {
    let mut session = first;
    loop {
        session.ended().await;
        let mut held = 0;
        session = loop {
            match locked(&connector, locks).await {
                Ok(session) => break session,
                // a session of ours that the database has not given up yet
                Err(StorageError::Held) if held < HELD_MAX => held += 1,
                Err(StorageError::Held) => {
                    tracing::error!("another server has this node's name");
                    return;
                }
                Err(_) => {}
            }
            tokio::time::sleep(super::AWAY).await;
        };
    }
}

/// A connection that holds the node's locks.
pub(super) async fn locked(connector: &Connector, locks: Locks) -> Result<Session, StorageError> {
    let session = connector.connect().await?;
    let take = "SELECT pg_try_advisory_lock_shared($1) AND pg_try_advisory_lock($2)";
    let row = session.client.query_one(take, &[&locks.schema, &locks.node]).await;
    match row.map(|row| row.get::<_, bool>(0)) {
        Ok(true) => Ok(session),
        Ok(false) => Err(StorageError::Held),
        Err(error) => Err(super::connect::storage_error(&error)),
    }
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
    Ok(Heard { head, floor, commits, full })
}

/// What may be forgotten: where the store stood so long ago, by this process's own steady clock.
struct Old {
    remembered: Duration,
    marks: VecDeque<(Instant, Revision)>,
    trim: Option<Revision>,
}

impl Old {
    async fn forget(&mut self, session: &Session, head: Revision) {
        let now = Instant::now();
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) > self.remembered / MARKS) {
            self.marks.push_back((now, head));
        }
        while let Some((at, revision)) = self.marks.front().copied()
            && now.duration_since(at) > self.remembered
        {
            self.trim = Some(revision);
            self.marks.pop_front();
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
const HEAR: &str = "SELECT h.rev, h.floor, l.rev, l.paths FROM head h LEFT JOIN LATERAL
     (SELECT g.rev, g.paths FROM log g WHERE g.rev > $1 ORDER BY g.rev LIMIT $2) l ON true ORDER BY l.rev";
const POLL_EVERY: Duration = Duration::from_millis(50);
/// For one question, with a new connection where one is needed.
const POLL: Duration = Duration::from_millis(800);
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// With one more question under way the tail is given up 1.8 s after it was heard: revocations are in force within 2 s.
const STALE_AFTER: Duration = Duration::from_millis(900);
const HEARD_WITHIN: Duration = Duration::from_millis(500);
const LISTED_MAX: i64 = 1000;
const FORGOTTEN_MAX: i32 = 2000;
const MARKS: u32 = 64;
/// Twenty seconds: as long as keepalives take, and a little.
const HELD_MAX: u32 = 100;
