//! One owner for each folder, a log's or a witness's.

use std::fs::{File, TryLockError};

/// Held as long as this lives. It is given back by name, since closing the file is not enough: a process that is being
/// made of this one has a copy of it until it has become another program.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn of(file: File) -> Result<Self, TryLockError> {
        file.try_lock().map(|()| Self(file))
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
        let open = || File::create(folder.path().join("lock")).unwrap();
        let lock = Lock::of(open()).unwrap();
        let copy = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::of(open()), Err(TryLockError::WouldBlock)));
        drop(lock);
        drop(Lock::of(open()).unwrap());
        drop(copy);
    }
}
