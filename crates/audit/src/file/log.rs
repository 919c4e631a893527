//! The file itself: where its data ends, what is written, what hinders.
//!
//! Always: every byte before `end` that was acknowledged is on the disk, none of it zero.
//! Never: a batch over the remains of one that was not written whole.

use super::{OpenError, QUEUE_BYTES_MAX, RECORD_BYTES_MAX};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub(super) struct Log {
    file: File,
    path: PathBuf,
    /// Behind the last whole line.
    end: u64,
    /// The file's length: zeros from `end` on, unless `remains`.
    length: u64,
    /// A batch that was not written whole may have left something behind `end`.
    remains: bool,
    /// What was told of last, so that the log of the process is told once.
    hindered: bool,
    buffer: Vec<u8>,
    syncs: Arc<AtomicU64>,
    last_sync: Option<Instant>,
}

/// Why a batch was not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// It may pass: no space, read-only, moved away.
    Passing,
    /// Nobody knows what is on the disk.
    Final,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()?;
        let end = settle(&file)?;
        let mut log = Self::over(file, path, end);
        log.grow_ahead();
        Ok(log)
    }

    pub(super) fn over(file: File, path: &Path, end: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            end,
            length: end,
            remains: false,
            hindered: false,
            buffer: Vec::new(),
            syncs: Arc::default(),
            last_sync: None,
        }
    }

    pub(super) fn syncs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.syncs)
    }

    /// When the last sync began.
    pub(super) fn last_sync(&self) -> Option<Instant> {
        self.last_sync
    }

    /// Makes records durable, all or none of them acknowledged.
    pub(super) fn write<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>) -> Result<(), Hindrance> {
        self.buffer.clear();
        records.for_each(|record| self.buffer.extend_from_slice(record));
        let outcome = self.write_buffer();
        match outcome {
            Ok(()) if self.hindered => {
                tracing::warn!(path = %self.path.display(), "the audit log can be written again")
            }
            Ok(()) => {}
            Err(Hindrance::Passing) if self.hindered => {}
            Err(hindrance) => {
                tracing::error!(path = %self.path.display(), ?hindrance, "the audit log cannot be written")
            }
        }
        self.hindered = outcome.is_err();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        outcome
    }

    fn write_buffer(&mut self) -> Result<(), Hindrance> {
        self.stands_at_its_path()?;
        self.clear_remains()?;
        self.remains = true;
        self.file.write_all_at(&self.buffer, self.end).map_err(|error| hindrance(&error))?;
        self.sync()?;
        self.remains = false;
        self.end += self.buffer.len() as u64;
        self.length = self.length.max(self.end);
        // Once more: what was moved away meanwhile is not where an auditor looks.
        self.stands_at_its_path()
    }

    fn sync(&mut self) -> Result<(), Hindrance> {
        self.last_sync = Some(Instant::now());
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data().map_err(|error| {
            tracing::error!(%error, "syncing the audit log");
            Hindrance::Final
        })
    }

    /// Whether the path leads to the file that is written: not where it was removed, moved or replaced.
    fn stands_at_its_path(&self) -> Result<(), Hindrance> {
        let Ok(found) = std::fs::metadata(&self.path) else { return Err(Hindrance::Passing) };
        let ours = self.file.metadata().map_err(|error| hindrance(&error))?;
        if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) { Ok(()) } else { Err(Hindrance::Passing) }
    }

    /// Cuts what an unfinished batch left, durably, before anything is written over it.
    fn clear_remains(&mut self) -> Result<(), Hindrance> {
        if !self.remains {
            return Ok(());
        }
        self.file.set_len(self.end).map_err(|error| hindrance(&error))?;
        self.length = self.end;
        self.sync()?;
        self.remains = false;
        Ok(())
    }

    /// Zeros behind the data before they are needed, so that writing there changes no metadata. Where there is no room for
    /// them a batch may still find some.
    pub(super) fn grow_ahead(&mut self) {
        if self.remains || self.length - self.end >= AHEAD_BYTES_MIN {
            return;
        }
        match self.file.write_all_at(&ZEROS, self.length) {
            Ok(()) => self.length += ZEROS.len() as u64,
            // gives back what was gotten of it: the next batch needs it
            Err(_) => drop(self.file.set_len(self.length)),
        }
    }

    /// In peace: the file ends with its last line.
    pub(super) fn close(&mut self) {
        let closed = self.file.set_len(self.end).and_then(|()| self.file.sync_all());
        if let Err(error) = closed {
            tracing::warn!(%error, "trimming the audit log");
        }
    }
}

fn hindrance(error: &Error) -> Hindrance {
    tracing::debug!(%error, "writing the audit log");
    let passes = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::FileTooLarge,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::PermissionDenied,
        ErrorKind::OutOfMemory,
    ];
    if passes.contains(&error.kind()) { Hindrance::Passing } else { Hindrance::Final }
}

/// Finds the end of the last whole line, cuts what follows it, and writes the tail anew: an earlier process whose sync failed
/// may have left it in memory alone, marked as written.
fn settle(file: &File) -> Result<u64, Error> {
    let length = file.metadata()?.len();
    let Some(last) = last_nonzero(file, length)? else {
        file.set_len(0)?;
        file.sync_all()?;
        return Ok(0);
    };
    let mut first = [0];
    file.read_exact_at(&mut first, 0)?;
    if !matches!(first, [b'{' | 0]) {
        return Err(Error::new(ErrorKind::InvalidData, "the file is no audit log"));
    }
    let start = (last + 1).saturating_sub(TAIL_BYTES as u64);
    let mut tail = vec![0; usize::try_from(last + 1 - start).map_err(Error::other)?];
    file.read_exact_at(&mut tail, start)?;
    // A zero before the last byte is a page of an unfinished batch that never came: what follows was acknowledged to nobody.
    let data = tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len());
    let whole = tail.get(..data).and_then(|data| data.iter().rposition(|byte| *byte == b'\n'));
    let kept = match whole {
        Some(newline) => newline + 1,
        None if start == 0 => 0,
        None => return Err(Error::new(ErrorKind::InvalidData, "the end of the file is no audit log")),
    };
    let end = start + kept as u64;
    if end < length {
        let torn = last + 1 - end;
        if torn > 0 {
            tracing::warn!(torn, "cut an unfinished end off the audit log");
        }
        file.set_len(end)?;
    }
    file.write_all_at(tail.get(..kept).unwrap_or_default(), start)?;
    file.sync_all()?;
    Ok(end)
}

fn last_nonzero(file: &File, length: u64) -> Result<Option<u64>, Error> {
    let mut piece = vec![0; 64 << 10];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(piece.len() as u64);
        let piece = piece.get_mut(..usize::try_from(end - start).map_err(Error::other)?).unwrap_or_default();
        file.read_exact_at(piece, start)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

/// Written at once when little is left of what was written before.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
const AHEAD_BYTES_MIN: u64 = 1 << 20;
/// More than a batch and its remains: what may not be on the disk is within.
const TAIL_BYTES: usize = QUEUE_BYTES_MAX + 2 * RECORD_BYTES_MAX;
const BUFFER_BYTES_KEPT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_refuses_and_all_else_ends() {
        for (number, expected) in [
            (28, Hindrance::Passing),  // ENOSPC
            (122, Hindrance::Passing), // EDQUOT
            (27, Hindrance::Passing),  // EFBIG
            (30, Hindrance::Passing),  // EROFS
            (5, Hindrance::Final),     // EIO
            (6, Hindrance::Final),     // ENXIO
            (9, Hindrance::Final),     // EBADF
        ] {
            assert_eq!(hindrance(&Error::from_raw_os_error(number)), expected, "{number}");
        }
    }
}
