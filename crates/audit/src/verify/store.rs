//! Whether a store's rows are those that the log told last.
//!
//! A change's leaf tells each write by the keyed hash of the row's path and SHA-256 of the sealed value (`deleted` where there
//! is none). The path's key is the store's own, and is not needed: a value is sealed under a fresh nonce, so that its hash
//! occurs once, and tells the path.
//!
//! A leaf that tells of sealing anew ([`RESEALED`]) tells of each row what stood there, then what stands there now: who opened an
//! old value that was put back, and sealed it anew, did not make it right.
//!
//! Always: 128 bits of each hash are kept, and no value: finding another value of the same hash is a second preimage.
//! Always: a leaf that a crash made the log tell twice counts once, where it stood first.
//! Always: of a log from which entries were removed unheard, a row that no leaf tells is not judged, and the store is not whole:
//! of a row that only they told nobody can say whether it is gone.
//! Always: of what several logs tell of a row, or one tells late, that counts which was committed last, where the leaves say so
//! (those of earlier versions do not: then it is right where one log says so).
//! Never: storage known. Rows come as hashes, with the revision of the batch that wrote them.

use crate::record::{Record, StoreState};
use envelope::mac;
use envelope::merkle::Hash;
use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The record after which a store that went back counts: what it lost stays lost.
pub const ROLLBACK_ACKNOWLEDGED: &str = "RollbackAcknowledged";
/// The operation of a leaf that tells rows in pairs: what stood there, and what stands there now.
pub const RESEALED: &str = "Reseal";
/// Findings that are told one by one; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// A keyed path hash, a value's hash, or what stands for a deletion; the first half of it.
type Id = [u8; 16];

/// What one log tells of the rows.
#[derive(Debug, Default)]
pub struct Told {
    /// By path: every row that there ever was.
    rows: HashMap<Id, Last>,
    /// By value: every one that was ever stored, and every deletion.
    values: HashMap<Id, Teller>,
    /// By value: those that were sealed anew, but for rows of before an acknowledged rollback.
    resealed: HashMap<Id, Resealed>,
    newest: Option<StoreState>,
    /// Of the last acknowledged rollback.
    rollback: Option<u64>,
    /// Entries were removed that nobody hears any more.
    removed: bool,
    as_of: Option<AsOf>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    /// `None`: deleted.
    value: Option<Id>,
    index: u64,
    at: Option<At>,
}

impl Last {
    /// The other one was committed later.
    fn is_before(&self, other: &Self) -> bool {
        self.at.zip(other.at).is_some_and(|(own, other)| own < other)
    }
}

/// What the store was at with a change: generation, then revision.
type At = (u64, u64);

/// What a log told last of a row before what is known to follow, and when.
type Was = (usize, Option<Id>, Option<At>);

fn at(record: &Record<'_>) -> Option<At> {
    record.committed.map(|state| (state.generation, state.revision))
}

#[derive(Debug, Clone, Copy)]
struct Teller {
    path: Id,
    index: u64,
}

#[derive(Debug, Clone, Copy)]
struct Resealed {
    of: Id,
    /// What this log told last of the row, then; and when that was.
    before: Option<Id>,
    since: Option<At>,
    at: Option<At>,
}

impl Resealed {
    /// Told in between by another log: what was sealed anew was not the row's last value.
    fn is_overtaken_by(&self, (value, at): (Option<Id>, Option<At>)) -> bool {
        let is_between = |told| self.since.is_none_or(|since| since < told) && self.at.is_some_and(|at| told < at);
        value != Some(self.of) && at.is_some_and(is_between)
    }
}

/// A store that is older than the log. Leaves of earlier versions do not tell their revision: of those, whatever was told around
/// the store's state, which the log tells now and then, may be in the store or not.
#[derive(Debug)]
struct AsOf {
    revision: u64,
    /// What rows had before the changes since the last state, and since the one before it, that the store has reached.
    around: [HashMap<Id, Vec<Option<Id>>>; 2],
    /// States told that are newer.
    beyond: u32,
}

/// A leaf that waits in the store to be logged.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Of its batch.
    pub revision: u64,
    /// It tells no more changes than this ([`changes_max`]).
    pub changes_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An older value of a row that has a newer one.
    Replayed,
    /// A value of a row that was deleted.
    Revived,
    /// The log tells a value that no row has.
    Missing,
    /// No leaf tells this value.
    Unknown,
    /// Sealed anew from what was not the row's last value: an older one, or one of a row that was deleted.
    Resealed,
    /// The value is that of a row told before: it stands in two places.
    Copied,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The row's path; `None` where there is no row.
    pub path: Option<String>,
    /// The entry that told the value.
    pub told: Option<u64>,
    /// The entry that told the row last, where that is another one.
    pub last: Option<u64>,
}

/// What the comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub rows: u64,
    /// Rows, there or gone, of changes whose leaf waits in the store.
    pub not_yet_told: u64,
    /// Rows that are not as the last leaf tells, and were not changed since a rollback that an operator acknowledged.
    pub before_rollback: u64,
    /// Rows that no leaf tells which is still there, where leaves were removed: nobody knows whether one of those told them.
    pub removed: u64,
    /// Entries were removed that nobody heard: a row that only they told may be gone, and nobody knows.
    pub unheard: bool,
    /// At most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    pub found: u64,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Revived => "revived",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Resealed => "resealed",
            Self::Copied => "copied",
        }
    }
}

/// How many changes a leaf of so many bytes can tell: one is at least a path's hash and `deleted`, each with its field's head.
pub fn changes_max(leaf_bytes: usize) -> u64 {
    (leaf_bytes / CHANGE_BYTES_MIN) as u64
}

impl Told {
    /// For a store of this moment.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a store of an earlier one: the log is read until it tells newer states of the store.
    pub fn as_of(revision: u64) -> Self {
        Self { as_of: Some(AsOf { revision, around: Default::default(), beyond: 0 }), ..Self::default() }
    }

    /// Entries were removed from the log, and not all of them were heard.
    pub fn removed(&mut self) {
        self.removed = true;
    }

    /// The store as the log told it last.
    pub fn newest(&self) -> Option<StoreState> {
        self.newest
    }

    /// The next entry's record.
    pub fn entry(&mut self, index: u64, record: &Record<'_>) {
        if let Some(state) = record.store {
            self.newest = Some(state);
            if let Some(as_of) = &mut self.as_of {
                as_of.state(state.revision);
            }
        }
        let is_in_store = match (&self.as_of, at(record)) {
            (Some(as_of), Some((_, revision))) => revision <= as_of.revision,
            (Some(as_of), None) => as_of.beyond < BEYOND_MAX,
            (None, _) => true,
        };
        if !is_in_store {
            return;
        }
        if record.operation == ROLLBACK_ACKNOWLEDGED {
            self.rollback = Some(index);
        }
        let mut changes = record.changes.iter().peekable();
        while let Some((path, value)) = changes.next() {
            // what no writer of ours tells, tells nothing: its row will be unknown
            let Some(path_id) = id(path) else { continue };
            let now = changes.next_if(|(next, _)| record.operation == RESEALED && next == path);
            match (now, id(value)) {
                (Some((_, now)), Some(of)) => self.sealed_anew(path_id, of, id(now), (index, record)),
                (Some(_), None) => {}
                (None, value) => drop(self.changed(path_id, value, index, record)),
            }
        }
    }

    /// What the log told of the row before; `None` where this is told again.
    fn changed(&mut self, path: Id, value: Option<Id>, index: u64, record: &Record<'_>) -> Option<Option<Last>> {
        let unique = value.unwrap_or_else(|| deletion(&path, record));
        let Place::Vacant(place) = self.values.entry(unique) else { return None };
        place.insert(Teller { path, index });
        let last = Last { value, index, at: at(record) };
        let known = self.rows.get(&path).copied();
        // told late, by another node than the one that committed it
        if known.as_ref().is_some_and(|known| last.is_before(known)) {
            return Some(known);
        }
        let before = self.rows.insert(path, last);
        if let (Some(as_of), None) = (&mut self.as_of, last.at) {
            as_of.changed(path, before.and_then(|before| before.value));
        }
        Some(before)
    }

    fn sealed_anew(&mut self, path: Id, of: Id, now: Option<Id>, (index, record): (u64, &Record<'_>)) {
        let Some(now) = now else { return };
        let Some(before) = self.changed(path, Some(now), index, record) else { return };
        if before.as_ref().is_some_and(|last| self.is_of_before_rollback(last)) {
            return;
        }
        let since = before.and_then(|before| before.at);
        let before = before.and_then(|before| before.value);
        self.resealed.insert(now, Resealed { of, before, since, at: at(record) });
    }

    /// `value` is what the row has, or may have.
    fn accepts(&self, path: &Id, value: Option<Id>) -> bool {
        let Some(last) = self.rows.get(path) else { return value.is_none() };
        last.value == value || self.as_of.as_ref().is_some_and(|as_of| as_of.may_have(path, value))
    }

    fn is_of_before_rollback(&self, last: &Last) -> bool {
        self.rollback.is_some_and(|rollback| last.index < rollback)
    }
}

impl AsOf {
    fn state(&mut self, revision: u64) {
        if revision > self.revision {
            self.beyond += 1;
        } else if self.beyond == 0 {
            // a change may be logged a little after the state that has it
            self.around.swap(0, 1);
            self.around[1].clear();
        }
    }

    fn changed(&mut self, path: Id, before: Option<Id>) {
        self.around[1].entry(path).or_default().push(before);
    }

    fn may_have(&self, path: &Id, value: Option<Id>) -> bool {
        self.around.iter().filter_map(|around| around.get(path)).flatten().any(|before| *before == value)
    }
}

/// Rows beside what logs tell of them.
#[derive(Debug)]
pub struct Comparison {
    logs: Vec<Told>,
    /// Rows that have what they should.
    sound: HashSet<Id>,
    /// Rows that have an older value.
    displaced: HashSet<Id>,
    waiting: BTreeMap<u64, Outstanding>,
    /// Unknown rows of a batch whose leaf waits.
    deferred: Vec<(u64, Finding)>,
    compared: Compared,
}

/// Leaves of one batch that wait.
#[derive(Debug, Default)]
struct Outstanding {
    changes_max: u64,
    deferred: u64,
    /// A row of its batch is as the log tells: the leaf is in the log, and was not taken out.
    told: bool,
}

impl Comparison {
    /// Of a store whose rows several logs may tell: each row is right where one of them says so.
    pub fn new(logs: Vec<Told>, waiting: impl IntoIterator<Item = Waiting>) -> Self {
        let mut by_revision = BTreeMap::<u64, Outstanding>::new();
        for Waiting { revision, changes_max } in waiting {
            by_revision.entry(revision).or_default().changes_max += changes_max;
        }
        Self {
            logs,
            sound: HashSet::new(),
            displaced: HashSet::new(),
            waiting: by_revision,
            deferred: Vec::new(),
            compared: Compared::default(),
        }
    }

    /// Whether a log tells this value, SHA-256, of some row.
    pub fn tells(&self, value: &Hash) -> bool {
        let value = half(value);
        self.logs.iter().any(|told| told.values.contains_key(&value))
    }

    /// The next row: its path, SHA-256 of the value stored, and the revision of the batch that wrote it.
    pub fn row(&mut self, path: &str, value: &Hash, revision: u64) {
        self.compared.rows += 1;
        let value = half(value);
        let tellers: Vec<(usize, Teller)> =
            self.logs.iter().enumerate().filter_map(|(log, told)| Some((log, *told.values.get(&value)?))).collect();
        let Some((log, teller)) = tellers.first().copied() else { return self.unknown(path, revision) };
        let accepts = |(log, teller): &&(usize, Teller)| {
            !self.is_superseded(*log, &teller.path)
                && self.logs.get(*log).is_some_and(|told| told.accepts(&teller.path, Some(value)))
        };
        if tellers.iter().any(|found| accepts(&found)) {
            let stems = |(log, teller): &(usize, Teller)| self.stems(*log, &teller.path, &value, &mut Vec::new());
            if !tellers.iter().filter(accepts).any(stems) {
                return self.put_back(path, log, teller, &value);
            }
            if let Some(waiting) = self.waiting.get_mut(&revision) {
                waiting.told = true;
            }
            if !self.sound.insert(teller.path) {
                self.find(Finding {
                    kind: Kind::Copied,
                    path: Some(path.to_owned()),
                    told: Some(teller.index),
                    last: None,
                });
            }
            return;
        }
        let last = self.logs.get(log).and_then(|told| told.rows.get(&teller.path)).copied();
        self.displaced.insert(teller.path);
        if last.is_some_and(|last| self.logs.get(log).is_some_and(|told| told.is_of_before_rollback(&last))) {
            self.compared.before_rollback += 1;
            return;
        }
        let mut newest = self.logs.iter().enumerate().filter(|(log, _)| !self.is_superseded(*log, &teller.path));
        let live = newest.any(|(_, told)| told.rows.get(&teller.path).is_some_and(|last| last.value.is_some()));
        let kind = if live { Kind::Replayed } else { Kind::Revived };
        let last = last.map(|last| last.index);
        self.find(Finding { kind, path: Some(path.to_owned()), told: Some(teller.index), last });
    }

    /// What was sealed anew was the row's last value, as one of the logs tells. `then` are rows as logs had told them before what
    /// is known to follow.
    fn stems(&self, log: usize, path: &Id, value: &Id, then: &mut Vec<Was>) -> bool {
        let resealed = self.logs.get(log).and_then(|told| told.resealed.get(value));
        let Some(resealed) = resealed else { return true };
        let Resealed { of, before, since, .. } = resealed;
        let was = |other: usize| then.iter().rev().find(|(log, ..)| *log == other).map(|(_, value, at)| (*value, *at));
        let is = |told: &Told| told.rows.get(path).map(|last| (last.value, last.at));
        let others = self.logs.iter().enumerate().filter(|(other, _)| *other != log);
        let mut lasts = others.filter_map(|(other, told)| was(other).or_else(|| is(told)));
        if then.len() >= RESEALED_MAX || lasts.any(|last| resealed.is_overtaken_by(last)) {
            return false;
        }
        then.push((log, *before, *since));
        let found = self.logs.iter().enumerate().any(|(other, told)| {
            let known = then.iter().rev().find(|(log, ..)| *log == other).map(|(_, before, _)| *before);
            let is_last = known.map_or_else(|| told.accepts(path, Some(*of)), |before| before == Some(*of));
            let went_back = || told.rows.get(path).is_some_and(|last| told.is_of_before_rollback(last));
            (is_last || went_back()) && self.stems(other, path, of, then)
        });
        then.pop();
        found
    }

    /// A row that was sealed anew from what no log told last.
    fn put_back(&mut self, path: &str, log: usize, teller: Teller, value: &Id) {
        self.sound.insert(teller.path);
        let of = self.logs.get(log).and_then(|told| told.resealed.get(value)).map(|resealed| resealed.of);
        let is_known = of.is_some_and(|of| self.logs.iter().any(|told| told.values.contains_key(&of)));
        if !is_known && self.logs.iter().any(|told| told.removed) {
            self.compared.removed += 1;
        } else if !is_known && !self.waiting.is_empty() {
            // a leaf that waits may tell it
            self.compared.not_yet_told += 1;
        } else {
            let path = Some(path.to_owned());
            self.find(Finding { kind: Kind::Resealed, path, told: Some(teller.index), last: None });
        }
    }

    /// After the last row.
    pub fn finish(mut self) -> Compared {
        self.compared.unheard = self.logs.iter().any(|told| told.removed);
        for (revision, finding) in std::mem::take(&mut self.deferred) {
            if self.waiting.get(&revision).is_some_and(|waiting| !waiting.told) {
                self.compared.not_yet_told += 1;
            } else {
                self.find(finding);
            }
        }
        let (mut missing, mut count) = (Vec::new(), 0);
        for (log, told) in self.logs.iter().enumerate() {
            for (path, last) in &told.rows {
                if last.value.is_none() || self.is_accounted_for(log, path) {
                    continue;
                }
                if told.is_of_before_rollback(last) {
                    self.compared.before_rollback += 1;
                    continue;
                }
                count += 1;
                missing.push(last.index);
            }
        }
        // a write explains at most one row that is gone
        let waiting = self.waiting.values().filter(|waiting| !waiting.told).map(|waiting| waiting.changes_max);
        if count <= waiting.sum() {
            self.compared.not_yet_told += count;
        } else {
            missing.sort_unstable();
            for index in missing {
                self.find(Finding { kind: Kind::Missing, path: None, told: Some(index), last: None });
            }
        }
        self.compared
    }

    /// A row of `log` that is there, replaced by an older one, or rightly gone. One that two logs tell is told once.
    fn is_accounted_for(&self, log: usize, path: &Id) -> bool {
        self.sound.contains(path)
            || self.displaced.contains(path)
            || self.is_superseded(log, path)
            || self.logs.iter().enumerate().any(|(other, told)| {
                told.rows.contains_key(path)
                    && !self.is_superseded(other, path)
                    && (told.accepts(path, None) || (other < log && told.rows[path].value.is_some()))
            })
    }

    /// Another log tells the row later.
    fn is_superseded(&self, log: usize, path: &Id) -> bool {
        let last = self.logs.get(log).and_then(|told| told.rows.get(path));
        last.is_some_and(|last| {
            self.logs.iter().filter_map(|told| told.rows.get(path)).any(|other| last.is_before(other))
        })
    }

    fn unknown(&mut self, path: &str, revision: u64) {
        if self.logs.iter().any(|told| told.removed) {
            self.compared.removed += 1;
            return;
        }
        let finding = Finding { kind: Kind::Unknown, path: Some(path.to_owned()), told: None, last: None };
        match self.waiting.get_mut(&revision) {
            Some(waiting) if waiting.deferred < waiting.changes_max => {
                waiting.deferred += 1;
                self.deferred.push((revision, finding));
            }
            Some(_) | None => self.find(finding),
        }
    }

    fn find(&mut self, finding: Finding) {
        self.compared.found += 1;
        if self.compared.findings.len() < FINDINGS_MAX {
            self.compared.findings.push(finding);
        }
    }
}

/// Of hexadecimal; `None` where it is none, as `deleted` is not.
fn id(text: &str) -> Option<Id> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(half(&hash))
}

/// What stands for the deletion that a record tells: the same where it is told again.
fn deletion(path: &Id, record: &Record<'_>) -> Id {
    half(&mac::sha256(&[path.as_slice(), &record.time.to_be_bytes(), record.request_id.as_bytes()].concat()))
}

fn half(hash: &Hash) -> Id {
    let mut id = Id::default();
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    id
}

/// As often as a barrier gets a new key.
const RESEALED_MAX: usize = 256;
/// Field heads, a hash and `deleted` (proto/strongroom/audit/v1/record.proto, `Change`).
const CHANGE_BYTES_MIN: usize = 2 + 2 + 32 + 2 + 7;
/// Behind the second newer state, nothing told is in the store.
const BEYOND_MAX: u32 = 2;

#[cfg(test)]
mod tests;
