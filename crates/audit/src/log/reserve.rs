//! Space that is held so that a full disk can still be recorded.
//!
//! Always: while it is not held, the log accepts nothing.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Its name in the log's folder.
const NAME: &str = "reserve";

/// A file of nothing.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Opens it. Where there is no space for it now, it is not held yet.
    pub(super) fn open(dir: &Path, bytes: u64) -> io::Result<Self> {
        let path = dir.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        let held = found.len() == bytes && found.blocks().saturating_mul(BLOCK_BYTES) >= bytes;
        Ok(Self { file, bytes, held })
    }

    /// Takes the space, unless it is held.
    pub(super) fn take(&mut self) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        if let Err(error) = self.allocate() {
            // what was gotten of it is somebody's who needs it
            let _ = self.file.set_len(0);
            return Err(error);
        }
        self.held = true;
        Ok(())
    }

    fn allocate(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        if self.bytes == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, self.bytes) {
            Err(Errno::OPNOTSUPP) => self.fill(),
            allocated => Ok(allocated?),
        }
    }

    /// Where the file system cannot allocate ahead.
    fn fill(&self) -> io::Result<()> {
        let zeros = [0; 64 << 10];
        let mut at = 0;
        while at < self.bytes {
            let piece = usize::try_from(self.bytes - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.file.write_all_at(zeros.get(..piece).unwrap_or(&zeros), at)?;
            at += piece as u64;
        }
        Ok(())
    }

    /// Gives the space back. Tells whether there was any.
    pub(super) fn give_back(&mut self) -> bool {
        std::mem::take(&mut self.held) && self.file.set_len(0).is_ok()
    }
}

/// What `st_blocks` counts (stat(2)).
const BLOCK_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_once_given_back_once_and_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join(NAME)).unwrap().len();
        let mut reserve = Reserve::open(dir.path(), 100_000).unwrap();
        assert!(!reserve.held);
        reserve.take().unwrap();
        assert_eq!(length(), 100_000);
        assert!(Reserve::open(dir.path(), 100_000).unwrap().held);
        assert!(!Reserve::open(dir.path(), 200_000).unwrap().held, "another size is wanted");
        assert!(reserve.give_back());
        assert!(!reserve.give_back());
        assert_eq!(length(), 0);
        // a length without blocks holds nothing
        reserve.file.set_len(100_000).unwrap();
        let mut reserve = Reserve::open(dir.path(), 100_000).unwrap();
        assert!(!reserve.held);
        reserve.take().unwrap();
        assert!(Reserve::open(dir.path(), 100_000).unwrap().held);
        reserve.fill().unwrap();
        assert_eq!(length(), 100_000);
    }
}
