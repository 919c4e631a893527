//! One owner for each store's folder.

use super::{LOCK_NAME, io_error};
use crate::StorageError;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held as long as this lives. It is given back by name, since closing the file is not enough: a process that is being
/// made of this one has a copy of it until it has become another program.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// In a folder that is there.
    pub(super) fn make(dir: &Path) -> Result<Self, StorageError> {
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK_NAME));
        Self::of(open.map_err(|error| io_error(&error))?)
    }

    pub(super) fn of(file: File) -> Result<Self, StorageError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StorageError::Held),
            Err(TryLockError::Error(error)) => Err(io_error(&error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "a lock is given back when this process ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_though_a_process_that_is_being_made_has_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::make(folder.path()).unwrap();
        let copy = lock.0.try_clone().unwrap();
        assert_eq!(Lock::make(folder.path()).unwrap_err(), StorageError::Held);
        drop(lock);
        drop(Lock::make(folder.path()).unwrap());
        drop(copy);
    }
}
