//! A witness's state: the newest cosigned checkpoint of each log, in `log/<origin hash>/checkpoint`, which is the layout
//! of the monitoring prefix.
//!
//! Always: a file is synced before it gets its name, and its folder after.

use crate::lock::Lock;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another witness has the folder")]
    Locked,
    /// Not absent, and not what this witness's keys signed: a start from nothing would cosign a fork.
    #[error("the recorded checkpoint of {origin} is damaged, or another witness's")]
    Damaged { origin: String },
    #[error("the witness's folder cannot be used")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(super) struct WitnessFolder {
    logs: PathBuf,
    /// Held as long as this lives.
    _lock: Lock,
}

impl WitnessFolder {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let logs = dir.join("log");
        DirBuilder::new().recursive(true).mode(0o700).create(&logs)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
        let lock = Lock::of(lock).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked,
            TryLockError::Error(error) => OpenError::Io(error),
        })?;
        sync(dir)?;
        Ok(Self { logs, _lock: lock })
    }

    /// `None` where nothing was ever recorded. Makes the log's folder, so that a write has one name to sync.
    pub(super) fn read(&self, origin: &str) -> io::Result<Option<Vec<u8>>> {
        let folder = self.logs.join(origin_hash(origin));
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        sync(&self.logs)?;
        match File::open(folder.join("checkpoint")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => {
                let mut bytes = Vec::new();
                file?.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
        }
    }

    /// Writes a record beside the one that stands, which a failure leaves alone.
    pub(super) fn stage(&self, origin: &str, record: &[u8]) -> io::Result<Staged> {
        let folder = self.logs.join(origin_hash(origin));
        let temporary = folder.join("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(record)?;
        file.sync_all()?;
        Ok(Staged { folder, temporary })
    }
}

/// A record that has not replaced the former yet.
#[must_use]
pub(super) struct Staged {
    folder: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    /// Durable when it answers.
    pub(super) fn commit(self) -> io::Result<()> {
        fs::rename(self.temporary, self.folder.join("checkpoint"))?;
        sync(&self.folder)
    }
}

/// "Monitor Retrieval Mechanism": SHA-256 of the origin in lowercase hex.
pub(super) fn origin_hash(origin: &str) -> String {
    hex::encode(envelope::mac::sha256(origin.as_bytes()))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A note's bound.
const RECORD_BYTES_MAX: u64 = 1_000_001;
