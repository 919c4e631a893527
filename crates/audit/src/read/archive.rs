//! A log beside the archive of what was removed from it.

use super::{LogFolder, LogSource, ReadAt};
use crate::tile::{TileError, TileReader};
use envelope::merkle::Hash;
use std::io;

/// Entries of the archive where the log has none. All else is the log's own.
#[derive(Debug)]
pub struct WithArchive {
    log: LogFolder,
    archive: Option<LogFolder>,
}

impl WithArchive {
    /// Without an archive, the log alone.
    pub fn new(log: LogFolder, archive: Option<LogFolder>) -> Self {
        Self { log, archive }
    }
}

impl LogSource for WithArchive {
    fn segment(&self, number: u64) -> io::Result<Option<Box<dyn ReadAt>>> {
        match (self.log.segment(number)?, &self.archive) {
            (None, Some(archive)) => archive.segment(number),
            (found, _) => Ok(found),
        }
    }

    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut there = self.log.segments()?;
        if let Some(archive) = &self.archive {
            there.extend(archive.segments()?);
            there.sort_unstable();
            there.dedup();
        }
        Ok(there)
    }

    fn first(&self) -> io::Result<u64> {
        self.log.first()
    }

    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        self.log.checkpoint()
    }

    fn partials(&self, level: u8, index: u64) -> io::Result<Vec<u16>> {
        self.log.partials(level, index)
    }
}

impl TileReader for WithArchive {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        self.log.tile(level, index, width)
    }
}
