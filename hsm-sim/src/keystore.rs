//! The state folder: one sealed file, replaced whole or not at all, and one process that may touch it.
//!
//! Always: a new state is written under another name, synced, renamed, and the folder synced; then it counts.
//! Never: a file of ours that another user can read; a damaged file that is taken for a missing one.

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    #[error("the state folder must be a folder of this user with no access for others (mode 0700)")]
    FolderExposed,
    #[error("the state file must be a plain file of this user with no access for others (mode 0600)")]
    FileExposed,
    #[error("another process uses the state folder")]
    InUse,
    #[error("the state file is longer than {STATE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the state folder cannot be read or written")]
    Io(#[from] std::io::Error),
}

impl From<Errno> for KeyStoreError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A state folder that is ours alone for as long as this lives.
#[derive(Debug)]
pub struct KeyStore {
    dir: OwnedFd,
    _lock: File,
}

impl KeyStore {
    /// Makes the folder where it is missing (0700), checks it, locks it, and removes what a crash left half-written.
    pub fn open(dir: &Path) -> Result<Self, KeyStoreError> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let metadata = std::fs::symlink_metadata(dir)?;
        if !metadata.is_dir() || !is_ours(&metadata) {
            return Err(KeyStoreError::FolderExposed);
        }
        let dir = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = File::from(rustix::fs::openat(&dir, LOCK_NAME, flags, FILE_MODE)?);
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(KeyStoreError::InUse),
            Err(errno) => return Err(errno.into()),
        }
        let store = Self { dir, _lock: lock };
        store.unlink(NEW_NAME)?;
        Ok(store)
    }

    /// The state file, or `None` where there is none.
    pub fn read(&self) -> Result<Option<Vec<u8>>, KeyStoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.dir, STATE_NAME, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return Err(KeyStoreError::FileExposed);
        }
        if metadata.len() > STATE_BYTES_MAX {
            return Err(KeyStoreError::TooLong);
        }
        let mut bytes = Vec::new();
        file.take(STATE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes `bytes` the state, durably. After an error the old state or the new one stands, each whole.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), KeyStoreError> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(&self.dir, NEW_NAME, flags, FILE_MODE)?);
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.dir, NEW_NAME, &self.dir, STATE_NAME)?;
        rustix::fs::fsync(&self.dir)?;
        Ok(())
    }

    /// Removes the state, durably.
    pub fn remove(&self) -> Result<(), KeyStoreError> {
        self.unlink(NEW_NAME)?;
        self.unlink(STATE_NAME)?;
        rustix::fs::fsync(&self.dir)?;
        Ok(())
    }

    fn unlink(&self, name: &str) -> Result<(), KeyStoreError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn is_ours(metadata: &std::fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.permissions().mode() & 0o077 == 0
}

/// The sealed state.
pub(crate) const STATE_NAME: &str = "state.sealed";
const NEW_NAME: &str = "state.sealed.new";
const LOCK_NAME: &str = "lock";
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Above what the bounded record can take.
const STATE_BYTES_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    #[test]
    fn a_crash_at_any_byte_leaves_the_old_state_or_the_new_one() {
        let dir = folder();
        let (old, new) = (vec![1; 300], vec![2; 400]);
        KeyStore::open(dir.path()).unwrap().replace(&old).unwrap();
        // killed while the new file was being written: any prefix of it may be there
        for len in 0..=new.len() {
            std::fs::write(dir.path().join(NEW_NAME), &new[..len]).unwrap();
            let store = KeyStore::open(dir.path()).unwrap();
            assert_eq!(store.read().unwrap().as_ref(), Some(&old), "{len}");
            assert!(!dir.path().join(NEW_NAME).exists(), "{len}");
        }
        // killed after the rename
        std::fs::write(dir.path().join(NEW_NAME), &new).unwrap();
        std::fs::rename(dir.path().join(NEW_NAME), dir.path().join(STATE_NAME)).unwrap();
        std::fs::set_permissions(dir.path().join(STATE_NAME), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(KeyStore::open(dir.path()).unwrap().read().unwrap(), Some(new));
    }

    #[test]
    fn a_folder_or_file_that_others_can_read_is_refused() {
        let dir = folder();
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o750, 0o701, 0o777] {
            set(dir.path(), mode);
            assert!(matches!(KeyStore::open(dir.path()), Err(KeyStoreError::FolderExposed)), "{mode:o}");
        }
        set(dir.path(), 0o700);
        let store = KeyStore::open(dir.path()).unwrap();
        assert_eq!(store.read().unwrap(), None);
        store.replace(b"state").unwrap();
        let file = dir.path().join(STATE_NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604] {
            set(&file, mode);
            assert!(matches!(store.read(), Err(KeyStoreError::FileExposed)), "{mode:o}");
        }
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(store.read().is_err());
    }

    #[test]
    fn one_process_at_a_time_and_no_endless_file() {
        let dir = folder();
        let store = KeyStore::open(dir.path()).unwrap();
        assert!(matches!(KeyStore::open(dir.path()), Err(KeyStoreError::InUse)));
        store.replace(&vec![0; 256 * 1024 + 1]).unwrap();
        assert!(matches!(store.read(), Err(KeyStoreError::TooLong)));
        drop(store);
        let store = KeyStore::open(dir.path()).unwrap();
        store.remove().unwrap();
        store.remove().unwrap();
        assert_eq!(store.read().unwrap(), None);
    }
}
