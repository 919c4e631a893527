//! Ids of commits, kept in slots of half an hour: the newest slot and three before it.
//!
//! A slot's first row has an empty id and tells when the slot began (Unix seconds, in place of a revision), for the next start.
//!
//! Always: while the store is open, slots follow each other by a clock that nobody sets; a machine's clock that jumps neither
//! forgets an id nor keeps it.
//! Always: a start begins at most one new slot, since the machine's clock alone tells how long the store was closed: after a
//! jump forward an id is known for an hour still.

use crate::{CommitId, Revision};
use envelope::{Clock, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Ids {
    steady: Arc<dyn Clock>,
    /// Numbers the slots; only ever grows.
    slot: i64,
    /// No slot before it has been begun.
    oldest: i64,
    /// By the machine's clock, Unix seconds.
    began: i64,
    /// By the steady clock.
    ends: Timestamp,
    /// The slot's beginning is in the store.
    told: bool,
    /// Ids that are old enough to be forgotten are left.
    forgetting: bool,
}

impl Ids {
    /// Goes on where the store was closed. `wall` is the machine's time.
    pub(super) fn load(connection: &Connection, steady: Arc<dyn Clock>, wall: Timestamp) -> rusqlite::Result<Self> {
        let now = secs(wall);
        let (oldest, newest): (Option<i64>, Option<i64>) =
            connection.query_row(ENDS, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (slot, began, told) = match newest {
            None => (now / SLOT_SECS, now, false),
            Some(slot) => {
                let mut told = connection.prepare("SELECT rev FROM commits WHERE slot = ?1 AND id = x''")?;
                let told: Option<i64> = told.query_row([slot], |row| row.get(0)).optional()?;
                // before slots told their beginning, their number did
                let began = told.unwrap_or(slot.saturating_mul(SLOT_SECS));
                if now >= began.saturating_add(SLOT_SECS) {
                    (slot.saturating_add(1), now, false)
                } else if now < began {
                    (slot, now, false)
                } else {
                    (slot, began, told.is_some())
                }
            }
        };
        let age = Duration::from_secs(u64::try_from(now - began).unwrap_or(0));
        let ends = steady.now().plus(SLOT.saturating_sub(age));
        Ok(Self { steady, slot, oldest: oldest.unwrap_or(slot), began, ends, told, forgetting: true })
    }

    /// At the beginning of a group. Whether a slot has begun.
    pub(super) fn keep(&mut self, connection: &Connection, wall: Timestamp) -> rusqlite::Result<bool> {
        let now = self.steady.now();
        let begins = now >= self.ends;
        if begins {
            let slots = 1 + now.since(self.ends).as_secs() / SLOT.as_secs();
            self.slot = self.slot.saturating_add(i64::try_from(slots).unwrap_or(i64::MAX));
            self.ends = now.plus(SLOT);
            (self.began, self.told, self.forgetting) = (secs(wall), false, true);
        }
        if !self.told {
            let mut tell = connection.prepare_cached(
                "INSERT INTO commits VALUES(?1, x'', ?2) ON CONFLICT(slot, id) DO UPDATE SET rev = excluded.rev",
            )?;
            tell.execute([self.slot, self.began])?;
        }
        if self.forgetting {
            let mut forget = connection.prepare_cached(
                "DELETE FROM commits WHERE (slot, id) IN (SELECT slot, id FROM commits WHERE slot < ?1 LIMIT ?2)",
            )?;
            self.forgetting = forget.execute([self.slot.saturating_sub(3), FORGET_MAX])? > 0;
        }
        Ok(begins)
    }

    /// The group is durable, and what [`Ids::keep`] wrote with it.
    pub(super) fn kept(&mut self) {
        self.told = true;
    }

    /// Of those that an earlier slot knows. The newest one tells when it is asked to remember.
    pub(super) fn known_before(&self, connection: &Connection, id: CommitId) -> rusqlite::Result<Option<Revision>> {
        let first = self.slot.saturating_sub(3).max(self.oldest);
        if first >= self.slot {
            return Ok(None);
        }
        let mut known = connection.prepare_cached("SELECT rev FROM commits WHERE slot IN (?1, ?2, ?3) AND id = ?4")?;
        let [one, two, three] = [1, 2, 3].map(|before| self.slot.saturating_sub(before));
        known.query_row(params![one, two, three, id.0], |row| row.get(0)).optional()
    }

    pub(super) fn known_now(&self, connection: &Connection, id: CommitId) -> rusqlite::Result<Option<Revision>> {
        let mut known = connection.prepare_cached("SELECT rev FROM commits WHERE slot = ?1 AND id = ?2")?;
        known.query_row(params![self.slot, id.0], |row| row.get(0)).optional()
    }

    /// `false`: the newest slot knows it already.
    pub(super) fn remember(&self, connection: &Connection, id: CommitId, revision: Revision) -> rusqlite::Result<bool> {
        let mut remember =
            connection.prepare_cached("INSERT INTO commits VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        remember.execute(params![self.slot, id.0, revision]).map(|rows| rows > 0)
    }

    /// What was remembered in this group, of a batch that was not written after all.
    pub(super) fn forget(&self, connection: &Connection, id: CommitId) -> rusqlite::Result<()> {
        let mut forget = connection.prepare_cached("DELETE FROM commits WHERE slot = ?1 AND id = ?2")?;
        forget.execute(params![self.slot, id.0]).map(drop)
    }
}

fn secs(time: Timestamp) -> i64 {
    i64::try_from(time.unix_secs()).unwrap_or(i64::MAX)
}

/// The oldest slot and the newest. Asked for both at once, the whole table is read: all that was committed within an hour.
pub(super) const ENDS: &str = "SELECT (SELECT min(slot) FROM commits), (SELECT max(slot) FROM commits)";
/// Few slots exist at a time: the id is looked for in each.
pub(super) const FIND: &str = "WITH RECURSIVE slots(s) AS (SELECT min(slot) FROM commits UNION ALL \
     SELECT (SELECT min(slot) FROM commits WHERE slot > s) FROM slots WHERE s IS NOT NULL) \
     SELECT rev FROM slots JOIN commits ON slot = s AND id = ?1 LIMIT 1";
const SLOT: Duration = Duration::from_secs(30 * 60);
const SLOT_SECS: i64 = 30 * 60;
/// Ids forgotten with one group, so that forgetting never holds it up.
const FORGET_MAX: i64 = 512;
