//! Folders that a command makes: under another name until they are whole, then named at once.
//!
//! Always: 0700; synced before it gets its name; gone when the command ends before that.
//! Never: a folder that was there, touched.

use super::Usage;
use anyhow::{Context as _, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A folder on its way. Dropped before [`Self::finish`] it leaves nothing.
#[derive(Debug)]
pub struct NewFolder {
    temporary: PathBuf,
    target: PathBuf,
    /// False once nothing more may be written: whoever writes is on another thread, and hears of a signal here.
    open: Arc<Mutex<bool>>,
}

/// Writes into it.
#[derive(Debug)]
pub struct FolderWriter {
    folder: PathBuf,
    open: Arc<Mutex<bool>>,
}

impl NewFolder {
    pub fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Usage(format!("{} names no folder", target.display())))?;
        if std::fs::symlink_metadata(target).is_ok() {
            return Err(exists(target));
        }
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{}", hex::encode(suffix)));
        let temporary = target.with_file_name(hidden);
        let made = DirBuilder::new().mode(0o700).create(&temporary);
        made.with_context(|| format!("cannot write beside {}", target.display()))?;
        Ok(Self { temporary, target: target.to_owned(), open: Arc::new(Mutex::new(true)) })
    }

    pub fn writer(&self) -> FolderWriter {
        FolderWriter { folder: self.temporary.clone(), open: Arc::clone(&self.open) }
    }

    /// The folder is whole: makes it durable and gives it its name.
    pub fn finish(self) -> Result<()> {
        let context = || format!("cannot write {}", self.target.display());
        let folder = File::open(&self.temporary).with_context(context)?;
        // one call for thousands of small files
        rustix::fs::syncfs(&folder).map_err(io::Error::from).with_context(context)?;
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(exists(&self.target)),
            // a file system without the flag: a folder that is not empty is not replaced either
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                std::fs::rename(&self.temporary, &self.target).with_context(context)?;
            }
            outcome => outcome.map_err(io::Error::from).with_context(context)?,
        }
        rustix::fs::syncfs(&folder).map_err(io::Error::from).with_context(context)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = false;
        // after it got its name there is none
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

impl FolderWriter {
    /// A new file at a path below the folder.
    pub fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let path = self.folder.join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
    }
}

fn exists(target: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} exists already: choose another name, nothing is replaced", target.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let work = tempfile::tempdir().unwrap();
        let target = work.path().join("made");
        let names = || {
            let entries = std::fs::read_dir(work.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        // dropped, as a signal does it, while somebody writes
        let folder = NewFolder::create(&target).unwrap();
        let writer = folder.writer();
        writer.write("a/b", b"1").unwrap();
        drop(folder);
        assert_eq!(writer.write("a/c", b"2").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(names().is_empty());

        let folder = NewFolder::create(&target).unwrap();
        folder.writer().write("a/b", b"1").unwrap();
        folder.finish().unwrap();
        assert_eq!(names(), ["made"]);
        assert_eq!(std::fs::read(target.join("a/b")).unwrap(), b"1");
        // what is there stays
        assert!(NewFolder::create(&target).unwrap_err().to_string().contains("exists already"));
        let second = NewFolder::create(&work.path().join("second")).unwrap();
        std::fs::create_dir(work.path().join("second")).unwrap();
        assert!(second.finish().unwrap_err().to_string().contains("exists already"));
        assert_eq!(std::fs::read_dir(work.path().join("second")).unwrap().count(), 0);
        assert_eq!(names().len(), 2);
    }
}
