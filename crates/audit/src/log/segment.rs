//! Segments: the files that hold the entries, the last of which is written.
//!
//! A segment holds C2SP entry bundles one after the other: a length (16 bits, big endian) and so many bytes an entry. It is
//! zeroed ahead of what is written, so that a sync moves data alone; a length of zero is where it ends for now.
//!
//! Always: what stands before `end` is on the disk, in the file that stands at the segment's path.
//! Never: a batch over the remains of one that was not written whole; a segment begun before the one ahead of it is full.

use super::OpenError;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Where the entries stand, in the log's folder.
pub(super) use crate::read::SEGMENTS;

/// Why something was not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// No space is left. It may pass.
    Full,
    /// It may pass: read-only, too large, moved away, too many files open.
    Passing,
    /// Nobody knows what is on the disk.
    Final,
}

/// The log's entries, as its one writer has them.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    entries_max: u64,
    current: Segment,
    /// Entries in all segments.
    size: u64,
    /// A batch that was not written whole may have left something behind the current segment's end.
    remains: bool,
    buffer: Vec<u8>,
    syncs: Arc<AtomicU64>,
    last_sync: Option<Instant>,
}

/// One file.
#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    /// Device and inode: which file it is, whatever its path.
    identity: (u64, u64),
    /// Behind the last entry.
    end: u64,
    /// The file's length: zeros from `end` on, unless there are remains.
    length: u64,
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}"))
}

impl Segments {
    /// Goes on behind `size` entries, the last of which ends at `end` of the segment that is `number`; it is there.
    pub(super) fn resume(
        folder: PathBuf,
        entries_max: u64,
        size: u64,
        number: u64,
        end: u64,
    ) -> Result<Self, OpenError> {
        let path = path(&folder, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut segments = Self::over(file, path, folder, entries_max, (size, end))?;
        segments.grow_ahead();
        Ok(segments)
    }

    pub(super) fn over(
        file: File,
        path: PathBuf,
        folder: PathBuf,
        entries_max: u64,
        (size, end): (u64, u64),
    ) -> Result<Self, OpenError> {
        let current = Segment::over(file, path, end)?;
        let buffer = Vec::new();
        Ok(Self { folder, entries_max, current, size, remains: false, buffer, syncs: Arc::default(), last_sync: None })
    }

    /// Entries that are durable.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn syncs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.syncs)
    }

    /// When the last sync began.
    pub(super) fn last_sync(&self) -> Option<Instant> {
        self.last_sync
    }

    /// How many entries the next [`Segments::write`] may be given; at least one. Begins the next segment where it is due.
    pub(super) fn room(&mut self) -> Result<usize, Hindrance> {
        let (number, within) = (self.size / self.entries_max, self.size % self.entries_max);
        if within == 0 && self.current.path != path(&self.folder, number) {
            self.current.stands()?;
            self.begin(number)?;
        }
        Ok(usize::try_from(self.entries_max - within).unwrap_or(usize::MAX))
    }

    /// Makes entries durable: one write, one sync.
    pub(super) fn write<'a>(&mut self, entries: impl Iterator<Item = &'a [u8]>) -> Result<(), Hindrance> {
        self.buffer.clear();
        let mut count = 0;
        for entry in entries {
            let length = u16::try_from(entry.len()).map_err(|_| Hindrance::Passing)?;
            self.buffer.extend_from_slice(&length.to_be_bytes());
            self.buffer.extend_from_slice(entry);
            count += 1;
        }
        let outcome = self.write_buffer();
        if outcome.is_ok() {
            self.size += count;
        }
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        // Once more: what was moved away meanwhile is not where an auditor looks.
        outcome.and_then(|()| self.current.stands())
    }

    fn write_buffer(&mut self) -> Result<(), Hindrance> {
        self.current.stands()?;
        self.clear_remains()?;
        self.remains = true;
        let current = &mut self.current;
        current.file.write_all_at(&self.buffer, current.end).map_err(|error| hindrance(&error))?;
        self.sync()?;
        self.remains = false;
        let current = &mut self.current;
        current.end += self.buffer.len() as u64;
        current.length = current.length.max(current.end);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Hindrance> {
        self.last_sync = Some(Instant::now());
        self.syncs.fetch_add(1, Ordering::Relaxed);
        synced(self.current.file.sync_data())
    }

    /// Cuts what an unfinished batch left, durably, before anything is written over it.
    fn clear_remains(&mut self) -> Result<(), Hindrance> {
        if !self.remains {
            return Ok(());
        }
        self.current.file.set_len(self.current.end).map_err(|error| hindrance(&error))?;
        self.current.length = self.current.end;
        self.sync()?;
        self.remains = false;
        Ok(())
    }

    /// The segment before it is full and durable. One that stands there already must be empty: an attempt of ours.
    fn begin(&mut self, number: u64) -> Result<(), Hindrance> {
        let path = path(&self.folder, number);
        let file = create(&path).map_err(|error| hindrance(&error))?;
        let next = Segment::over(file, path, 0).map_err(|error| hindrance(&error))?;
        if next.length > 0 {
            tracing::error!(path = %next.path.display(), "a file stands where the audit log's next segment belongs");
            return Err(Hindrance::Passing);
        }
        let folder = File::open(&self.folder).map_err(|error| hindrance(&error))?;
        synced(folder.sync_all())?;
        let before = std::mem::replace(&mut self.current, next);
        // its zeros are needed no more; where they stay, they harm nobody
        let _ = before.file.set_len(before.end);
        Ok(())
    }

    /// Zeros behind the data before they are needed, so that writing there changes no metadata. Where there is no room for
    /// them a batch may still find some.
    pub(super) fn grow_ahead(&mut self) {
        let full = self.size.is_multiple_of(self.entries_max) && self.current.end > 0;
        let current = &mut self.current;
        if self.remains || full || current.length - current.end >= AHEAD_BYTES_MIN {
            return;
        }
        match current.file.write_all_at(&ZEROS, current.length) {
            Ok(()) => current.length += ZEROS.len() as u64,
            // gives back what was gotten of it: the next batch needs it
            Err(_) => drop(current.file.set_len(current.length)),
        }
    }

    /// After a full disk: whether there is room for more than a batch.
    pub(super) fn make_room(&mut self) -> Result<(), Hindrance> {
        self.room()?;
        self.current.stands()?;
        self.clear_remains()?;
        self.grow_ahead();
        if self.current.length - self.current.end >= AHEAD_BYTES_MIN { Ok(()) } else { Err(Hindrance::Full) }
    }

    /// In peace: the segment ends with its last entry. Tells whether that is durable.
    pub(super) fn close(&mut self) -> bool {
        let closed = self.current.file.set_len(self.current.end).and_then(|()| self.current.file.sync_all());
        if let Err(error) = &closed {
            tracing::warn!(%error, "trimming the audit log");
        }
        closed.is_ok()
    }
}

impl Segment {
    fn over(file: File, path: PathBuf, end: u64) -> Result<Self, Error> {
        let found = file.metadata()?;
        Ok(Self { file, path, identity: (found.dev(), found.ino()), end, length: found.len().max(end) })
    }

    /// Whether the path leads to the file that is written: not where it was removed, moved or replaced, or its folder was.
    fn stands(&self) -> Result<(), Hindrance> {
        let found = std::fs::metadata(&self.path).map_err(|error| hindrance(&error))?;
        let same = (found.dev(), found.ino()) == self.identity && found.nlink() > 0;
        if same { Ok(()) } else { Err(Hindrance::Passing) }
    }
}

/// Opens a file, which is made where it is missing.
pub(super) fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// A sync that failed is final, whatever its cause: the next may succeed and lie.
pub(super) fn synced(outcome: Result<(), Error>) -> Result<(), Hindrance> {
    outcome.map_err(|error| {
        tracing::error!(%error, "syncing the audit log");
        Hindrance::Final
    })
}

pub(super) fn hindrance(error: &Error) -> Hindrance {
    tracing::debug!(%error, "writing the audit log");
    let passes = [
        ErrorKind::FileTooLarge,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::PermissionDenied,
        ErrorKind::OutOfMemory,
        // moved away, and something else where it stood
        ErrorKind::NotFound,
        ErrorKind::NotADirectory,
    ];
    let kind = error.kind();
    if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        Hindrance::Full
    } else if passes.contains(&kind) || FILES_OPEN.map(Some).contains(&error.raw_os_error()) {
        Hindrance::Passing
    } else {
        Hindrance::Final
    }
}

/// Written at once when little is left of what was written before.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
const AHEAD_BYTES_MIN: u64 = 1 << 20;
/// EMFILE and ENFILE, which have no kind of their own.
const FILES_OPEN: [i32; 2] = [24, 23];
const BUFFER_BYTES_KEPT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_refuses_and_all_else_ends() {
        for (number, expected) in [
            (28, Hindrance::Full),    // ENOSPC
            (122, Hindrance::Full),   // EDQUOT
            (27, Hindrance::Passing), // EFBIG
            (30, Hindrance::Passing), // EROFS
            (13, Hindrance::Passing), // EACCES
            (1, Hindrance::Passing),  // EPERM
            (2, Hindrance::Passing),  // ENOENT
            (20, Hindrance::Passing), // ENOTDIR
            (23, Hindrance::Passing), // ENFILE
            (24, Hindrance::Passing), // EMFILE
            (5, Hindrance::Final),    // EIO
            (6, Hindrance::Final),    // ENXIO
            (9, Hindrance::Final),    // EBADF
            (117, Hindrance::Final),  // EUCLEAN
        ] {
            assert_eq!(hindrance(&Error::from_raw_os_error(number)), expected, "{number}");
        }
    }
}
