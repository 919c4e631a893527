//! Sealing anew: after the barrier got a new key, what stands under older ones is sealed under it, in the background.
//!
//! The store is walked in pages; a value of an older epoch is opened and sealed again, where it has not changed meanwhile. Nothing
//! of a walk is kept: after a restart it begins anew, and passes over what was done. Once a walk found nothing, that is noted.
//!
//! Always: what a leaf tells of a row stays true: each page's new values are told by a leaf of their own, in the same batch, and
//! with each what stood there: an old row that somebody put back is not made right by being sealed anew (`audit verify --store`).
//! What the cluster keeps of itself, which no leaf tells, is sealed anew without one.
//! Always: a walk that counts began when no request of before the new key could be under way any more.
//! Never: a key of the barrier dropped. A backup brings its own keyring, and a stateless token of an older one is void anyhow;
//! but what an old key sealed and a fault brought back shall be told from what was altered, and 256 keys are enough.
//!
//! An old key that was stolen opens old copies of the store for ever: secrets that stood in them are to be replaced.

use crate::error::VaultError;
use crate::service::Vault;
use crate::view::View;
use audit::verify::store::RESEALED;
use audit::{Decision, Record, Subject};
use bytes::Bytes;
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use storage::{AtLeast, Barrier, BarrierError, Batch, Change, CommitError, CommitId, Entry, EntryPath};

/// How far it is, since the start. Shared by all cores.
#[derive(Debug, Default)]
pub struct Progress {
    term: AtomicU32,
    is_done: AtomicBool,
    looked_at: AtomicU64,
    resealed: AtomicU64,
    unreadable: AtomicU64,
}

/// As `sys/key-status` tells it.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    /// Under which key everything is to stand.
    term: u32,
    done: bool,
    looked_at: u64,
    resealed: u64,
    /// Values that do not open, which the last whole walk passed over: altered, or moved.
    unreadable: u64,
}

impl Progress {
    pub fn resealed(&self) -> u64 {
        self.resealed.load(Ordering::Relaxed)
    }

    /// Something may stand under an older key.
    pub fn is_under_way(&self) -> bool {
        self.term.load(Ordering::Relaxed) != 0 && !self.is_done.load(Ordering::Relaxed)
    }

    /// `None`: nothing was ever to do since the start.
    pub(crate) fn told(&self) -> Option<Told> {
        let term = self.term.load(Ordering::Relaxed);
        (term != 0).then(|| Told {
            term,
            done: self.is_done.load(Ordering::Relaxed),
            looked_at: self.looked_at.load(Ordering::Relaxed),
            resealed: self.resealed(),
            unreadable: self.unreadable.load(Ordering::Relaxed),
        })
    }
}

/// The worker's own: where the walk is.
#[derive(Debug)]
pub struct Resealer {
    vault: Vault,
    /// How old a key must be before a walk counts.
    late: Duration,
    goal: Option<Goal>,
}

/// One key, under which everything is to stand.
#[derive(Debug)]
struct Goal {
    epoch: u32,
    since: Instant,
    walk: Option<Walk>,
    done: bool,
}

#[derive(Debug)]
struct Walk {
    began: Instant,
    /// Of [`folders`].
    folder: usize,
    after: Option<EntryPath>,
    /// Values of older keys that it met, and that open.
    found: u64,
    unreadable: u64,
}

/// What became of some rows.
#[derive(Debug, Clone, Copy, Default)]
struct Came {
    resealed: usize,
    /// One that does not open keeps no other waiting.
    unreadable: usize,
}

impl Came {
    fn add(&mut self, other: Self) {
        self.resealed += other.resealed;
        self.unreadable += other.unreadable;
    }
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is to do.
    Idle,
    /// A walk ended, and another one follows in a while.
    Again,
    /// So many values were sealed anew; there is more.
    Page(usize),
}

/// The last key under which everything stands.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    term: u32,
}

impl Resealer {
    pub fn new(vault: Vault) -> Self {
        Self::with(vault, LATE)
    }

    /// Where requests take no longer than `late`.
    pub fn with(vault: Vault, late: Duration) -> Self {
        Self { vault, late, goal: None }
    }

    /// A page at most. Ask again.
    pub async fn turn(&mut self, now: Timestamp) -> Result<Turn, VaultError> {
        let Some((epoch, older)) = self.vault.barrier().sealing() else { return Ok(Turn::Idle) };
        if older == 0 {
            return Ok(Turn::Idle);
        }
        if self.goal.as_ref().is_none_or(|goal| goal.epoch != epoch) {
            let done = noted(&self.vault).await? == Some(epoch);
            let progress = &self.vault.seams.caches.resealing;
            progress.term.store(epoch, Ordering::Relaxed);
            progress.is_done.store(done, Ordering::Relaxed);
            self.goal = Some(Goal { epoch, since: Instant::now(), walk: None, done });
        }
        let Some(goal) = self.goal.as_mut().filter(|goal| !goal.done) else { return Ok(Turn::Idle) };
        let folders = folders(&self.vault)?;
        let walk = goal.walk.get_or_insert_with(|| Walk {
            began: Instant::now(),
            folder: 0,
            after: None,
            found: 0,
            unreadable: 0,
        });
        let Some(folder) = folders.get(walk.folder) else {
            let counts = walk.found == 0 && walk.began.duration_since(goal.since) >= self.late;
            self.vault.seams.caches.resealing.unreadable.store(walk.unreadable, Ordering::Relaxed);
            goal.walk = None;
            if counts {
                note(&self.vault, epoch, now).await?;
                goal.done = true;
                self.vault.seams.caches.resealing.is_done.store(true, Ordering::Relaxed);
                tracing::info!(epoch, "everything stands under the barrier's new key");
            }
            return Ok(Turn::Again);
        };
        page(&self.vault, epoch, folder, walk, now).await.map(Turn::Page)
    }
}

/// The tenant's, and the cluster's own.
fn folders(vault: &Vault) -> Result<[EntryPath; 2], VaultError> {
    let folder = |id: &[u8; 16]| {
        EntryPath::parse(&hex::encode(id)).map_err(|_| VaultError::Internal("an id is a segment".into()))
    };
    Ok([folder(&vault.seams.tenant)?, folder(vault.barrier().cluster_id())?])
}

async fn page(
    vault: &Vault,
    epoch: u32,
    folder: &EntryPath,
    walk: &mut Walk,
    now: Timestamp,
) -> Result<usize, VaultError> {
    let barrier = vault.barrier();
    let page = barrier.storage().scan(folder, walk.after.as_ref(), PAGE, AtLeast::Latest).await?;
    let is_old = |entry: &Entry| barrier.epoch_of(&entry.value).is_some_and(|found| found < epoch);
    let old: Vec<&(EntryPath, Entry)> = page.entries.iter().filter(|(_, entry)| is_old(entry)).collect();
    let mut came = Came::default();
    for some in grouped(&old) {
        came.add(if walk.folder == 0 { told(vault, some, now).await? } else { untold(barrier, some).await? });
    }
    let done = came.resealed;
    let progress = &vault.seams.caches.resealing;
    progress.looked_at.fetch_add(page.entries.len() as u64, Ordering::Relaxed);
    progress.resealed.fetch_add(done as u64, Ordering::Relaxed);
    walk.found += old.len().saturating_sub(came.unreadable) as u64;
    walk.unreadable += came.unreadable as u64;
    match page.entries.into_iter().next_back() {
        Some((last, _)) if page.more => walk.after = Some(last),
        Some(_) | None => (walk.folder, walk.after) = (walk.folder + 1, None),
    }
    Ok(done)
}

/// As many as a batch takes, and not much more than a MiB.
fn grouped<'p>(mut rows: &'p [&'p (EntryPath, Entry)]) -> impl Iterator<Item = &'p [&'p (EntryPath, Entry)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |row: &&&(EntryPath, Entry)| {
            bytes += row.1.value.len();
            bytes <= BATCH_BYTES
        };
        let count = rows.iter().take(BATCH_ROWS).take_while(fits).count().max(1).min(rows.len());
        let (some, rest) = rows.split_at(count);
        rows = rest;
        (!some.is_empty()).then_some(some)
    })
}

/// The value opened, and sealed under the key of now. Nothing where it does not open.
fn resealed(barrier: &Barrier, (path, entry): &(EntryPath, Entry)) -> Result<Option<Bytes>, VaultError> {
    let value = match barrier.open(path, &entry.value) {
        Ok(value) => value,
        Err(BarrierError::Altered(path)) => {
            tracing::error!(%path, "a stored value was altered or moved: it is not sealed anew");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Some(barrier.seal(path, value.expose())?))
}

/// Where it stands as it was read.
fn in_place(batch: Batch, (path, entry): &(EntryPath, Entry), sealed: Bytes) -> Batch {
    batch.revision_is(path.clone(), entry.revision).put(path.clone(), sealed)
}

/// With a leaf. Where one row changed meanwhile, each goes by itself: who changed it sealed it under the key of now, or the next
/// walk finds it.
async fn told(vault: &Vault, rows: &[&(EntryPath, Entry)], now: Timestamp) -> Result<Came, VaultError> {
    if let Some(came) = committed(vault, rows, now).await? {
        return Ok(came);
    }
    let mut came = Came::default();
    for row in rows {
        came.add(committed(vault, std::slice::from_ref(row), now).await?.unwrap_or_default());
    }
    Ok(came)
}

/// `None`: one of them changed meanwhile.
async fn committed(vault: &Vault, rows: &[&(EntryPath, Entry)], now: Timestamp) -> Result<Option<Came>, VaultError> {
    let mut batch = vault.changes().batch()?;
    let (mut stood, mut paths) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row @ (path, entry) in rows {
        if let Some(sealed) = resealed(vault.barrier(), row)? {
            batch = in_place(batch, row, sealed);
            stood.push(vault.changes().stood(path, &entry.value)?);
            paths.push(path.clone());
        }
    }
    let came = Came { resealed: paths.len(), unreadable: rows.len() - paths.len() };
    if paths.is_empty() {
        return Ok(Some(came));
    }
    let leaf = Record {
        path: "sys/rotate",
        decision: Decision::Allowed,
        changes: &stood,
        ..Record::new(now, "reseal", RESEALED, &Subject::System)
    };
    match vault.commit(batch, &leaf).await {
        Ok(revision) => {
            vault.kms().heard(&Change::Paths { revision, paths: paths.into() });
            Ok(Some(came))
        }
        Err(ChangeError::Conflict(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What no leaf tells. What waits to be logged is gone in a moment by itself.
async fn untold(barrier: &Barrier, rows: &[&(EntryPath, Entry)]) -> Result<Came, VaultError> {
    let mut came = Came::default();
    for row in rows.iter().filter(|(path, _)| path.segments().nth(1) != Some("outbox")) {
        let Some(sealed) = resealed(barrier, row)? else {
            came.unreadable += 1;
            continue;
        };
        let batch = in_place(Batch::new(CommitId(barrier.random()?)), row, sealed);
        match barrier.commit(batch).await {
            Ok(_) => came.resealed += 1,
            Err(CommitError::Conflict(_)) => {}
            Err(CommitError::Unknown) => return Err(VaultError::Unavailable("STORAGE_UNAVAILABLE")),
            Err(CommitError::Storage(error)) => return Err(error.into()),
        }
    }
    Ok(came)
}

fn place(vault: &Vault) -> Result<(View, EntryPath), VaultError> {
    let view = vault.view("keyring")?;
    let place = view.path("resealed")?;
    Ok((view, place))
}

async fn noted(vault: &Vault) -> Result<Option<u32>, VaultError> {
    let (view, place) = place(vault)?;
    let found = view.load(&place).await?;
    let noted = found.and_then(|found| serde_json::from_slice(found.value.expose()).ok());
    Ok(noted.map(|Noted { term }| term))
}

async fn note(vault: &Vault, term: u32, now: Timestamp) -> Result<(), VaultError> {
    let (view, place) = place(vault)?;
    let text = serde_json::to_vec(&Noted { term }).map_err(|_| VaultError::Internal("a term".into()))?;
    let leaf = Record {
        path: "sys/rotate",
        decision: Decision::Allowed,
        ..Record::new(now, "reseal", "ResealDone", &Subject::System)
    };
    vault.commit(view.put(vault.changes().batch()?, place, &text)?, &leaf).await?;
    Ok(())
}

/// A request ends within 30 s.
const LATE: Duration = Duration::from_secs(35);
const PAGE: u32 = 200;
/// A batch has room for their conditions too, for the leaf, and for leaves that are taken out.
const BATCH_ROWS: usize = 40;
const BATCH_BYTES: usize = 1 << 20;
