//! A log's folder, as its writer lays it out.

use super::{CHECKPOINT_BYTES_MAX, LogSource, ReadAt};
use crate::note::{KeyKind, VerifierKey};
use crate::tile::{TileError, TileFolder, TileId, TileReader};
use envelope::merkle::Hash;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// The newest checkpoint in the folder.
pub const CHECKPOINT: &str = "checkpoint";
/// The log's verifier key in the folder.
pub const VERIFIER_KEY: &str = "log.vkey";
/// Where the periods' keys stand in the folder, sealed to the auditor: one a file, named by period and key. Removing a file
/// shreds what its key sealed.
pub const PERSONAL: &str = "personal";

/// The verifier key in a log's folder, which says what the log is, and proves nothing of who wrote it.
pub fn verifier_key(dir: &Path) -> io::Result<VerifierKey> {
    let text = std::fs::read_to_string(dir.join(VERIFIER_KEY))?;
    let key = VerifierKey::parse(text.trim()).ok().filter(|key| key.kind() == KeyKind::Ed25519);
    key.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "this is no log's verifier key (NAME+HASH+KEY)"))
}

/// A log's files under one folder.
#[derive(Debug)]
pub struct LogFolder {
    dir: PathBuf,
    tiles: TileFolder,
}

impl LogFolder {
    /// Fails where `dir` holds no log.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !dir.join(SEGMENTS).is_dir() {
            return Err(io::Error::new(ErrorKind::NotFound, format!("{} holds no audit log", dir.display())));
        }
        Ok(Self { dir: dir.to_owned(), tiles: TileFolder::new(dir) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As [`TileFolder::write_again`].
    pub(crate) fn write_again(&self, id: TileId, hashes: &[Hash]) -> Result<(), TileError> {
        self.tiles.write_again(id, hashes)
    }
}

impl LogSource for LogFolder {
    fn segment(&self, number: u64) -> io::Result<Option<Box<dyn ReadAt>>> {
        match File::open(self.dir.join(SEGMENTS).join(format!("{number:010}"))) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn segments(&self) -> io::Result<Vec<u64>> {
        numbers(&self.dir.join(SEGMENTS), |name| name.len() == 10)
    }

    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.dir.join(CHECKPOINT)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut note = Vec::new();
        file.take(CHECKPOINT_BYTES_MAX + 1).read_to_end(&mut note)?;
        if note.len() as u64 > CHECKPOINT_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "the checkpoint is too long"));
        }
        Ok(Some(note))
    }

    fn partials(&self, level: u8, index: u64) -> io::Result<Vec<u16>> {
        let path = self.dir.join(TileId { level, index, width: 1 }.path());
        let folder = path.parent().unwrap_or(&self.dir);
        Ok(numbers(folder, |name| !name.starts_with('0'))?.into_iter().filter_map(|n| u16::try_from(n).ok()).collect())
    }
}

impl TileReader for LogFolder {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        self.tiles.tile(level, index, width)
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match std::os::unix::fs::FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

/// The names in a folder that are decimal numbers and of the right form, in order.
fn numbers(folder: &Path, form: impl Fn(&str) -> bool) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut out = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().filter(|name| form(name) && name.bytes().all(|byte| byte.is_ascii_digit()));
        out.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    out.sort_unstable();
    Ok(out)
}

/// The folder of the entries themselves.
pub(crate) const SEGMENTS: &str = "segment";
