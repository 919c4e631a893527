//! When each version was read last: in memory, and every few seconds in the store.
//!
//! To the second, and at most as old as the last note; the audit log has every read.
//!
//! Always: a note stands beside its version's data; a later one is never replaced by an earlier.
//! Always: whoever writes a version need not look for the note of the one that goes for it. Notes that outlive their versions
//! are taken out when others of the secret are noted for the first time, two for one, and with the secret (by a server that
//! knows of them: before, one had as many notes as versions).

use super::ATTEMPTS_MAX;
use super::meta::{Meta, Version};
use crate::error::VaultError;
use crate::service::Vault;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use storage::batch::BATCH_OPERATIONS_MAX;
use storage::{AtLeast, Batch, EntryPath, PAGE_ENTRIES_MAX, Revision};

/// By the entry of the version's data. One for the whole process.
#[derive(Debug, Default)]
pub struct LastReads(Mutex<HashMap<EntryPath, Read>>);

#[derive(Debug, Clone, Copy)]
struct Read {
    at: u64,
    noted: u64,
}

impl LastReads {
    pub(crate) fn tell(&self, path: &EntryPath, now: Timestamp) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.unix_millis();
        match reads.get_mut(path) {
            Some(read) => read.at = read.at.max(now),
            None => {
                if reads.len() >= READS_MAX {
                    // what was noted is in the store; what was not is lost, in favour of what is read now
                    reads.retain(|_, read| read.at > read.noted);
                    if reads.len() >= READS_MAX {
                        reads.clear();
                    }
                }
                reads.insert(path.clone(), Read { at: now, noted: 0 });
            }
        }
    }

    pub(crate) fn of(&self, path: &EntryPath) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).map_or(0, |read| read.at)
    }

    /// What was read since it was noted last, at most `most`.
    fn unnoted(&self, most: usize) -> Vec<(EntryPath, u64)> {
        let reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = reads.iter().filter(|(_, read)| read.at > read.noted);
        fresh.take(most).map(|(path, read)| (path.clone(), read.at)).collect()
    }

    fn noted(&self, noted: &[(EntryPath, u64)]) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, at) in noted {
            if let Some(read) = reads.get_mut(path) {
                read.noted = read.noted.max(*at);
            }
        }
    }

    /// What was not read since.
    fn forget(&self, gone: &[(EntryPath, u64)]) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, at) in gone {
            if reads.get(path).is_some_and(|read| read.at == *at) {
                reads.remove(path);
            }
        }
    }
}

/// Notes in the store what was read since the last time. For a worker, every few seconds.
pub(crate) async fn note(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let reads = vault.last_reads().unnoted(NOTED_AT_ONCE);
        if reads.is_empty() {
            return Ok(0);
        }
        let data: Vec<EntryPath> = reads.iter().map(|(path, _)| path.clone()).collect();
        let places = data.iter().map(noted_at).collect::<Result<Vec<_>, _>>()?;
        // whether it stands there, not what
        let (_, data) = vault.barrier().storage().get(&data, AtLeast::Latest).await?;
        let (_, notes) = vault.barrier().get(&places, AtLeast::Latest).await?;
        let (mut batch, mut looked, mut later, mut gone) = (vault.changes().batch()?, 0, 0, Vec::new());
        for ((read, place), (data, note)) in reads.iter().zip(places).zip(data.into_iter().zip(notes)) {
            if batch.preconditions.len() + batch.writes.len() > OPERATIONS_MAX {
                break;
            }
            looked += 1;
            let (path, at) = read;
            let Some(data) = data else {
                gone.push(read.clone());
                continue;
            };
            if note.as_ref().is_some_and(|note| millis(note.value.expose()) >= *at) {
                continue;
            }
            batch = batch.revision_is(path.clone(), data.revision);
            batch = match note {
                Some(note) => batch.revision_is(place.clone(), note.revision),
                None => without_outlived(vault, batch.absent(place.clone()), &place).await?,
            };
            let sealed = vault.barrier().seal(&place, &at.to_be_bytes())?;
            batch = batch.put(place, sealed);
            later += 1;
        }
        if later > 0 {
            let record = Record {
                decision: Decision::Allowed,
                ..Record::new(now, "worker", "VaultNoteLastReads", &Subject::System)
            };
            match vault.commit(batch, &record).await {
                // another node noted it, or a version has gone
                Err(ChangeError::Conflict(_)) => continue,
                outcome => outcome?,
            };
        }
        vault.last_reads().noted(reads.get(..looked).unwrap_or(&reads));
        vault.last_reads().forget(&gone);
        return Ok(looked);
    }
    Err(VaultError::Conflict)
}

/// The notes below `secret`, at `s/SLOT`, as they stand in the store, unopened; and whether there are more.
pub(super) async fn notes(vault: &Vault, secret: &EntryPath) -> Result<(Vec<Note>, bool), VaultError> {
    let prefix = super::below(secret, "r")?;
    let page = vault.barrier().storage().scan(&prefix, None, PAGE_ENTRIES_MAX, AtLeast::Latest).await?;
    // the rotation's entry stands at their prefix
    let below = page.entries.into_iter().filter(|(path, _)| *path != prefix);
    let notes = below.map(|(path, entry)| {
        let of = path.segments().last().and_then(|number| u32::from_str_radix(number, 16).ok());
        Note { of, revision: entry.revision, path }
    });
    Ok((notes.collect(), page.more))
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) path: EntryPath,
    revision: Revision,
    /// The version.
    of: Option<u32>,
}

impl Note {
    /// Of a version that is not among these.
    pub(super) fn outlives(&self, versions: &BTreeMap<u32, Version>) -> bool {
        self.of.is_none_or(|number| !versions.contains_key(&number))
    }
}

/// With some of those that outlived their versions taken out, beside a first note at `place`.
async fn without_outlived(vault: &Vault, batch: Batch, place: &EntryPath) -> Result<Batch, VaultError> {
    let secret = place.as_str().rsplitn(3, '/').last().and_then(|secret| EntryPath::parse(secret).ok());
    let secret = secret.ok_or_else(|| VaultError::Internal("a path of ours".into()))?;
    // first the notes, then what they may be of: a version that came in between is among these
    let (notes, _) = notes(vault, &secret).await?;
    let meta = vault.barrier().get(&[super::below(&secret, "m")?], AtLeast::Latest).await;
    let meta = meta.ok().and_then(|(_, found)| found.into_iter().flatten().next());
    // what cannot be read keeps nobody from being noted
    let Some(meta) = meta.and_then(|meta| Meta::decode(meta.value.expose()).ok()) else { return Ok(batch) };
    let taken = |batch: &Batch, note: &Note| batch.writes.iter().any(|write| *write.path() == note.path);
    let outlived = notes.into_iter().filter(|note| note.outlives(&meta.versions));
    let outlived: Vec<Note> = outlived.filter(|note| !taken(&batch, note)).take(TAKEN_OUT_BESIDE).collect();
    let take_out = |batch: Batch, note: Note| batch.revision_is(note.path.clone(), note.revision).delete(note.path);
    Ok(outlived.into_iter().fold(batch, take_out))
}

/// `s/SLOT/r/VERSION` for `s/SLOT/d/VERSION`.
pub(super) fn noted_at(data: &EntryPath) -> Result<EntryPath, VaultError> {
    let mut segments: Vec<&str> = data.segments().collect();
    if let Some(kind) = segments.len().checked_sub(2).and_then(|at| segments.get_mut(at)) {
        *kind = "r";
    }
    EntryPath::parse(&segments.join("/")).map_err(|_| VaultError::Internal("a path of ours".into()))
}

/// What a note says.
pub(super) fn millis(note: &[u8]) -> u64 {
    note.try_into().map_or(0, u64::from_be_bytes)
}

const READS_MAX: usize = 16_384;
const NOTED_AT_ONCE: usize = 40;
/// For each that is noted for the first time.
const TAKEN_OUT_BESIDE: usize = 2;
/// Beside these another one has room: three operations, two for each that is taken out, and the outbox's.
const OPERATIONS_MAX: usize = BATCH_OPERATIONS_MAX - (3 + 2 * TAKEN_OUT_BESIDE) - 1;
