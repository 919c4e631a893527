//! What a log finds when it is opened: where its entries end, its tree, and what the boundary signed of it.
//!
//! Always: what is cut off the end is kept beside the log and told.
//! Never: an entry cut that a checkpoint covers, that is followed by another segment, or by what no batch that a crash tore
//! explains: that is damage, and named. Entries missing at the beginning without a signed record that says so. What was acknowledged behind the newest checkpoint is cut only where it was lost as a
//! torn batch is: to the log's end, or with its first sectors zero, and within a batch's length of the end.

use super::form::Form;
use super::rebuild::{self, Mark, There};
use super::removed;
use super::segment::{self, SEGMENTS, Segments, create};
use super::signing::Signing;
use super::tree::Found;
use super::walk::{LENGTH_BYTES, Step, Walk};
use super::{ENTRY_BYTES_MAX, OpenError, Place, QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX};
use crate::checkpoint::Checkpoint;
use crate::lock::Lock;
use crate::note::{Note, VerifierKey};
use crate::tile::{TileFolder, Tiles};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

/// A log as it was found, ready to go on.
pub(super) struct Recovered {
    /// Held while the log is open.
    pub(super) lock: Lock,
    pub(super) segments: Segments,
    pub(super) tree: Found,
}

/// Under the lock that [`lock`] gives.
pub(super) fn recover(place: &Place, lock: Lock) -> Result<Recovered, OpenError> {
    let (dir, folder) = (&place.dir, place.dir.join(SEGMENTS));
    make_folder(&folder)?;
    let disk = File::open(dir)?;
    keep_key(dir, &place.key)?;
    let checkpoint = read_checkpoint(dir, &place.key)?;
    let (mut signing, mut asked) = Signing::open(dir)?;
    sync_folder(dir)?;
    let closed = read_closed(dir)?;
    let covered = [checkpoint.as_ref().map(|(it, _)| it.size), asked.map(|it| it.signed.max(it.next)), closed];
    let covered = covered.into_iter().flatten().max().unwrap_or(0);

    let numbers = numbers(&folder, place.entries_max)?;
    let Some(last) = numbers.last().copied() else {
        if covered > 0 {
            return Err(OpenError::Shorter { size: 0, covered });
        }
        segment::create(&segment::path(&folder, 0))?;
        sync_folder(&folder)?;
        let segments = Segments::resume(folder, place.entries_max, 0, 0, 0)?;
        let tree = Found { tiles: Tiles::default(), disk, signing, asked, checkpoint, walk: None };
        return Ok(Recovered { lock, segments, tree });
    };
    let first = numbers.first().map_or(0, |first| first * place.entries_max);
    let newest = checkpoint.as_ref().map(|(it, _)| it);
    // before anything is changed
    let removal = match first {
        0 => None,
        first => Some(removed::told(place, &numbers, first, newest)?),
    };
    let covered = covered.max(removal.as_ref().map_or(0, |signed| signed.size));
    let (size, end) = settle(place, last, covered, closed.is_some())?;
    // the checkpoint's file may be older, or none
    let signed = removal.iter().chain(newest).max_by_key(|signed| signed.size);
    let there = There { first, size, signed, disk: &disk };
    let tiles = rebuild::grow(place, &there, Mark { signing: &mut signing, asked: &mut asked })?;
    TileFolder::new(dir).remove_partials_but(newest.map_or(0, |signed| signed.size))?;
    match fs::remove_file(dir.join(CLOSED)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => {
            removed?;
            sync_folder(dir)?;
        }
    }
    let walk = Some((last, Walk::from(File::open(segment::path(&folder, last))?, end)));
    let segments = Segments::resume(folder, place.entries_max, size, last, end)?;
    let both = removal.iter().chain(newest).map(|signed| (signed.size, signed.root)).collect::<Vec<_>>();
    let tree = Found { tiles, disk, signing, asked, checkpoint, walk };
    for signed in both {
        tree.extends(dir, signed)?;
    }
    Ok(Recovered { lock, segments, tree })
}

/// Says that the log ended in peace, with so many entries.
pub(super) fn write_closed(dir: &Path, size: u64) -> io::Result<()> {
    replace_durably(dir, CLOSED, format!("{size}\n").as_bytes())
}

/// Puts a file in place of the one that has its name. Not durable.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    beside(dir, name, bytes)?;
    take_place(dir, name)
}

/// As [`replace`], durable, and never a name without its bytes.
pub(super) fn replace_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    beside(dir, name, bytes)?.sync_all()?;
    take_place(dir, name)?;
    sync_folder(dir)
}

/// Writes what is about to take the place of the file that has the name.
fn beside(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = create(&dir.join(format!("{name}{NEW}")))?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn take_place(dir: &Path, name: &str) -> io::Result<()> {
    fs::rename(dir.join(format!("{name}{NEW}")), dir.join(name))
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the folder where it is missing, and keeps everybody else out.
pub(super) fn lock(dir: &Path) -> Result<Lock, OpenError> {
    make_folder(dir)?;
    Lock::of(create(&dir.join(LOCK))?).map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Held,
        TryLockError::Error(error) => error.into(),
    })
}

/// A small file; `None` where it is missing.
pub(super) fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The folder says whose log it holds, for whoever verifies it.
fn keep_key(dir: &Path, key: &VerifierKey) -> Result<(), OpenError> {
    let ours = format!("{key}\n").into_bytes();
    match read_small(&dir.join(KEY))? {
        Some(found) if found == ours => Ok(()),
        // a file whose name outlived its bytes
        Some(found) if !found.is_empty() => Err(OpenError::Foreign),
        Some(_) | None => {
            // before it has its name: one that is there without its bytes would be another log's
            Ok(replace_durably(dir, KEY, &ours)?)
        }
    }
}

/// The newest checkpoint. It is not synced: one that a power cut spoiled is as good as none.
fn read_checkpoint(dir: &Path, key: &VerifierKey) -> Result<Option<(Checkpoint, Note)>, OpenError> {
    let Some(bytes) = read_small(&dir.join(CHECKPOINT))? else { return Ok(None) };
    let Ok(note) = Note::parse(&bytes) else {
        tracing::warn!("the audit log's checkpoint is no signed note, and is passed over");
        return Ok(None);
    };
    let checkpoint = Checkpoint::open(&note, key).map_err(|_| OpenError::Foreign)?;
    Ok(Some((checkpoint, note)))
}

fn read_closed(dir: &Path) -> io::Result<Option<u64>> {
    let Some(bytes) = read_small(&dir.join(CLOSED))? else { return Ok(None) };
    let size = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    Ok(size)
}

/// The segments that there are, in order, none missing between two.
fn numbers(folder: &Path, entries_max: u64) -> Result<Vec<u64>, OpenError> {
    let mut numbers = Vec::new();
    for found in fs::read_dir(folder)? {
        let name = found?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(NEW) {
            fs::remove_file(folder.join(name))?;
        } else if name.len() == NUMBER_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit()) {
            numbers.extend(name.parse::<u64>());
        }
    }
    numbers.sort_unstable();
    let gap = numbers.iter().zip(numbers.iter().skip(1)).find(|(one, next)| **one + 1 != **next);
    match gap {
        Some((one, _)) => Err(OpenError::Damaged { index: (one + 1) * entries_max }),
        None => Ok(numbers),
    }
}

/// Finds the end of the last segment, and writes the segment anew: an earlier process whose sync failed may have left it in
/// memory alone, marked as written. Gives the log's size, and where the segment ends.
fn settle(place: &Place, number: u64, covered: u64, closed: bool) -> Result<(u64, u64), OpenError> {
    let folder = place.dir.join(SEGMENTS);
    let path = segment::path(&folder, number);
    let mut walk = Walk::from(create(&path)?, 0);
    let mut size = number * place.entries_max;
    let full = size + place.entries_max;
    while size < full && matches!(walk.step(&*place.form)?, Step::Entry(_)) {
        size += 1;
    }
    let (end, file) = (walk.offset(), walk.file());
    let length = file.metadata()?.len();
    let rest = last_nonzero(file, end, length)?;
    match rest {
        Some(_) if size < covered => return Err(OpenError::Damaged { index: size }),
        None if size < covered => return Err(OpenError::Shorter { size, covered }),
        Some(last) if !torn(file, &*place.form, end, last)? => return Err(OpenError::Damaged { index: size }),
        Some(last) => keep_cut(&place.dir, file, end, last + 1, size)?,
        None => {}
    }
    if closed && rest.is_none() {
        file.set_len(end)?;
        return Ok((size, end));
    }
    let temporary = folder.join(format!("{number:010}{NEW}"));
    let anew = create(&temporary)?;
    copy(file, 0, end, &anew)?;
    anew.sync_all()?;
    fs::rename(&temporary, &path)?;
    sync_folder(&folder)?;
    Ok((size, end))
}

/// Whether a batch that was not written whole explains what stands from `start`, where there is no whole entry, to `last`.
///
/// A batch is written over zeros and nothing is written behind it before it is durable, so no more than one is torn, and of
/// it whole sectors are missing. An entry with none missing was written, and was altered since where another begins behind
/// it. Where its length was altered, that other one is looked for: all from there to the end must be whole entries, so that
/// no caller's bytes within a torn entry pass for one.
fn torn(file: &File, form: &dyn Form, start: u64, last: u64) -> io::Result<bool> {
    let rest = last + 1 - start;
    if rest > BATCH_BYTES_MAX {
        return Ok(false);
    }
    // an entry may end in zeros
    let readable = file.metadata()?.len().min(last + 1 + ENTRY_BYTES_MAX as u64) - start;
    let mut bytes = vec![0; usize::try_from(readable).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, start)?;
    let rest = usize::try_from(rest).map_err(io::Error::other)?;
    let declared = declared_end(&bytes, 0).unwrap_or(0);
    if whole_end(form, &bytes, declared).is_some() && !lacks_sector(&bytes, start, declared) {
        return Ok(false);
    }
    let altered = |next: usize| {
        let mut at = next;
        while let Some(end) = whole_end(form, &bytes, at) {
            at = end;
        }
        at > next && at >= rest && !lacks_sector(&bytes, start, next)
    };
    Ok(!(LENGTH_BYTES + 1..=LENGTH_BYTES + ENTRY_BYTES_MAX).take_while(|next| *next < rest).any(altered))
}

/// Where the entry at `at` ends, by its length.
fn declared_end(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..)?.first_chunk()?;
    Some(at + LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)))
}

/// Where the entry at `at` ends, if it is whole.
fn whole_end(form: &dyn Form, bytes: &[u8], at: usize) -> Option<usize> {
    let end = declared_end(bytes, at)?;
    bytes.get(at + LENGTH_BYTES..end).filter(|entry| form.is_entry(entry)).map(|_| end)
}

/// Whether all is zero that a sector has of the first `end` bytes, which stand at `start` of the file.
fn lacks_sector(bytes: &[u8], start: u64, end: usize) -> bool {
    let bytes = bytes.get(..end).unwrap_or(bytes);
    let first = SECTOR_BYTES - usize::try_from(start % SECTOR_BYTES as u64).unwrap_or(0);
    let (first, others) = bytes.split_at(first.min(bytes.len()));
    std::iter::once(first).chain(others.chunks(SECTOR_BYTES)).any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// What a crash left unfinished was acknowledged to nobody, but is nobody's to throw away.
fn keep_cut(dir: &Path, from: &File, start: u64, end: u64, size: u64) -> Result<(), OpenError> {
    let names = (0..CUTS_MAX).map(|again| match again {
        0 => format!("cut-{size}"),
        again => format!("cut-{size}.{again}"),
    });
    let Some(path) = names.map(|name| dir.join(name)).find(|path| !path.exists()) else {
        return Err(OpenError::Io(io::Error::other("too many ends were cut off the audit log at this size")));
    };
    let kept = create(&path)?;
    copy(from, start, end, &kept)?;
    kept.sync_all()?;
    sync_folder(dir)?;
    tracing::warn!(size, bytes = end - start, kept = %path.display(), "cut an unfinished end off the audit log");
    Ok(())
}

fn copy(from: &File, start: u64, end: u64, to: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = piece.get_mut(..wanted).unwrap_or_default();
        from.read_exact_at(piece, at)?;
        to.write_all_at(piece, at - start)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn last_nonzero(file: &File, start: u64, end: u64) -> io::Result<Option<u64>> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut end = end;
    while end > start {
        let from = end.saturating_sub(PIECE_BYTES as u64).max(start);
        let piece = piece.get_mut(..usize::try_from(end - from).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(piece, from)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(Some(from + at as u64));
        }
        end = from;
    }
    Ok(None)
}

pub(super) const CHECKPOINT: &str = "checkpoint";
const CLOSED: &str = "closed";
const KEY: &str = "log.vkey";
const LOCK: &str = "lock";
/// Behind the name of a file that is about to take the place of another.
const NEW: &str = ".new";
const NUMBER_DIGITS: usize = 10;
/// Longer than any checkpoint of ours.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// The longest that is written at once: all that may wait, each with its length. [`super::writer`] writes no more of it.
const BATCH_BYTES_MAX: u64 = (QUEUE_BYTES_MAX + LENGTH_BYTES * QUEUE_RECORDS_MAX) as u64;
/// The least that a disk writes whole.
const SECTOR_BYTES: usize = 512;
const PIECE_BYTES: usize = 256 << 10;
const CUTS_MAX: usize = 100;
