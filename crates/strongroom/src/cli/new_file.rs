//! Files that a command makes: under another name until they are whole, then named at once.
//!
//! Always: 0600 until it is named; synced before and after it gets its name; gone when the command ends before that.
//! Never: anything but a regular file replaced, and that only where it was asked for.

use super::Usage;
use super::output::{Answer, Record};
use super::source::is_dash;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use client::SecretBytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// May a file of the name be there already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    Never,
    /// --force was not given.
    Unforced,
    RegularFile,
}

/// A file on its way. Dropped before [`Self::finish`] it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    replace: Replace,
    named: bool,
}

impl Replace {
    pub fn when(force: bool) -> Self {
        if force { Self::RegularFile } else { Self::Unforced }
    }
}

impl NewFile {
    /// Opens a temporary file beside `target`, after a look at what stands there.
    pub fn create(target: &Path, replace: Replace) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Usage(format!("{} names no file", target.display())))?;
        match (std::fs::symlink_metadata(target), replace) {
            (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => {}
            (Err(error), _) => return Err(error).with_context(|| format!("cannot look at {}", target.display())),
            (Ok(_), Replace::Never | Replace::Unforced) => return Err(exists(target, replace)),
            (Ok(there), Replace::RegularFile) if !there.is_file() => {
                bail!("{} is no regular file and is not replaced: choose another name", target.display());
            }
            (Ok(_), Replace::RegularFile) => {}
        }
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{}", hex::encode(suffix)));
        let temporary = target.with_file_name(hidden);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = made.with_context(|| format!("cannot write beside {}", target.display()))?;
        Ok(Self { file, temporary, target: target.to_owned(), replace, named: false })
    }

    /// For writers of their own; whoever takes it flushes it before [`Self::finish`].
    pub fn writer(&self) -> Result<tokio::fs::File> {
        Ok(tokio::fs::File::from_std(self.file.try_clone()?))
    }

    /// As [`Self::writer`], for who waits where it stands.
    pub fn std_writer(&self) -> Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// The file is whole: makes it durable and gives it its name. `mode` counts from here on.
    pub fn finish(mut self, mode: u32) -> Result<()> {
        let context = || format!("cannot write {}", self.target.display());
        self.file.set_permissions(Permissions::from_mode(mode)).with_context(context)?;
        self.file.sync_all().with_context(context)?;
        match self.replace {
            Replace::Never | Replace::Unforced => self.name_if_free()?,
            Replace::RegularFile => std::fs::rename(&self.temporary, &self.target).with_context(context)?,
        }
        self.named = true;
        let folder = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {}", folder.display()))
    }

    /// Whoever made a file of this name meanwhile keeps it.
    fn name_if_free(&self) -> Result<()> {
        let named = match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            // a file system without the flag has links, which replace nothing either
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                std::fs::hard_link(&self.temporary, &self.target).and_then(|()| std::fs::remove_file(&self.temporary))
            }
            outcome => outcome.map_err(std::io::Error::from),
        };
        match named {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(&self.target, self.replace)),
            outcome => outcome.with_context(|| format!("cannot name {}", self.target.display())),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.named {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn exists(target: &Path, replace: Replace) -> anyhow::Error {
    let or = if replace == Replace::Unforced { ", or --force to replace it" } else { "" };
    anyhow::anyhow!("{} exists already: choose another name{or}", target.display())
}

/// Where a result's bytes go.
#[derive(Debug, Args)]
pub struct Out {
    /// Write the bytes to this new file, as they are; `-` writes them, and nothing else, to standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "out")]
    pub force: bool,
}

/// How a written file may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    Secret,
    Public,
}

impl Out {
    /// Opens the file before the server is asked, so that an answer that comes only once is not lost.
    pub fn prepare(&self) -> Result<Prepared<'_>> {
        match self.out.as_deref() {
            None => Ok(Prepared::Shown),
            Some(path) if is_dash(path) => Ok(Prepared::Dash),
            Some(path) => Ok(Prepared::File(NewFile::create(path, Replace::when(self.force))?, path)),
        }
    }
}

/// Where one result goes, made ready.
#[derive(Debug)]
pub enum Prepared<'a> {
    /// Nowhere in particular: it stands in the record.
    Shown,
    Dash,
    File(NewFile, &'a Path),
}

impl Prepared<'_> {
    /// Puts the bytes where they go; in the record stands `name` as base64, or the file's name.
    pub fn answer(self, record: Record, name: &'static str, bytes: SecretBytes, privacy: Privacy) -> Result<Answer> {
        match (self, privacy) {
            (Self::Dash, _) => Ok(Answer::Raw(bytes)),
            (Self::Shown, Privacy::Secret) => Ok(Answer::Record(record.with(name, bytes))),
            (Self::Shown, Privacy::Public) => {
                Ok(Answer::Record(record.with(name, bytes::Bytes::copy_from_slice(bytes.expose()))))
            }
            (file @ Self::File(..), _) => Ok(Answer::Record(file.record(record, "out", &bytes, privacy)?)),
        }
    }

    /// As [`Self::answer`], for one of several results: the record goes on.
    pub fn record(self, record: Record, name: &'static str, bytes: &SecretBytes, privacy: Privacy) -> Result<Record> {
        match self {
            Self::Shown | Self::Dash => Ok(record),
            Self::File(mut file, path) => {
                file.file.write_all(bytes.expose()).with_context(|| format!("cannot write {}", path.display()))?;
                file.finish(if privacy == Privacy::Secret { 0o600 } else { 0o644 })?;
                Ok(record.with(name, path.display().to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        let mut file = NewFile::create(&target, Replace::Never).unwrap();
        file.file.write_all(b"whole").unwrap();
        let [hidden] = &names(folder.path())[..] else { panic!("one name") };
        assert!(hidden.starts_with(".f.partial-"), "{hidden}");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join(hidden)), 0o600);
        file.finish(0o640).unwrap();
        assert_eq!(names(folder.path()), ["f"]);
        assert_eq!((std::fs::read(&target).unwrap(), mode(&target)), (b"whole".to_vec(), 0o640));
    }

    #[test]
    fn a_file_that_was_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&folder.path().join("f"), Replace::Never).unwrap();
        file.file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn what_is_there_stays_unless_it_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        std::fs::write(&target, "old").unwrap();
        for (replace, hint) in [(Replace::when(false), true), (Replace::Never, false)] {
            let said = NewFile::create(&target, replace).unwrap_err().to_string();
            assert_eq!((said.contains("exists already"), said.contains("--force")), (true, hint));
        }
        NewFile::create(&target, Replace::RegularFile).unwrap().finish(0o600).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"");
        // one that came while we worked
        let late = folder.path().join("late");
        let file = NewFile::create(&late, Replace::Never).unwrap();
        std::fs::write(&late, "theirs").unwrap();
        assert!(file.finish(0o600).unwrap_err().to_string().contains("exists already"));
        assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
        // what is no regular file
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [folder.path(), &link, Path::new("/dev/null")] {
            assert!(NewFile::create(path, Replace::RegularFile).is_err(), "{}", path.display());
        }
        assert_eq!(names(folder.path()), ["f", "late", "link"]);
    }
}
