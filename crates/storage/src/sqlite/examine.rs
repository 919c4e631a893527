//! A store's file read row by row, without its server: a stopped one's, or a backup.
//!
//! Always: file and folder stay as they are. Where a log stands beside the file, both are copied, and the copy is read.
//! Never: a store that a server has open.

use super::lock::Lock;
use super::{FILE_NAME, LOCK_NAME, io_error, schema};
use crate::{Revision, StorageError};
use rusqlite::{Connection, OpenFlags};
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A row as it stands there. Whoever wrote it, the path may be none of ours.
#[derive(Debug, Clone, Copy)]
pub struct StoredRow<'a> {
    pub path: &'a [u8],
    pub revision: Revision,
    pub value: &'a [u8],
}

/// A store that is only read.
#[derive(Debug)]
pub struct Examined {
    connection: Connection,
    /// Removed when this is dropped.
    _copy: Option<Copied>,
    _lock: Option<Lock>,
}

impl Examined {
    pub fn open(file: &Path) -> Result<Self, StorageError> {
        // lock and log stand beside the file itself, not beside a link to it
        let file = std::fs::canonicalize(file).map_err(|error| io_error(&error))?;
        let lock = held(&file)?;
        let copy = if has_log(&file)? { Some(Copied::of(&file)?) } else { None };
        let connection = match &copy {
            Some(copy) => schema::open_reader(&copy.0.join(FILE_NAME))?,
            None => open_immutable(&file)?,
        };
        if schema::check_format(&connection)? {
            return Err(StorageError::Damaged("the file is empty"));
        }
        Ok(Self { connection, _copy: copy, _lock: lock })
    }

    /// The newest.
    pub fn revision(&self) -> Result<Revision, StorageError> {
        schema::revision(&self.connection)
    }

    /// How many rows there are.
    pub fn count(&self) -> Result<u64, StorageError> {
        let count = self.connection.query_row("SELECT count(*) FROM kv", [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|error| schema::storage_error(&error))
    }

    /// Every row, in the order of the paths.
    pub fn rows(&self, each: &mut dyn FnMut(StoredRow<'_>)) -> Result<(), StorageError> {
        let mut read = || {
            let mut select = self.connection.prepare("SELECT k, rev, v FROM kv ORDER BY k")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let (path, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(2)?.as_blob()?);
                each(StoredRow { path, revision: row.get(1)?, value });
            }
            Ok(())
        };
        read().map_err(|error: rusqlite::Error| schema::storage_error(&error))
    }
}

/// The lock of the folder's store, so that no server begins meanwhile; `None` where the file is no folder's store.
fn held(file: &Path) -> Result<Option<Lock>, StorageError> {
    match File::open(file.with_file_name(LOCK_NAME)) {
        Ok(lock) if file.file_name().is_some_and(|name| name == FILE_NAME) => Lock::of(lock).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(&error)),
    }
}

fn has_log(file: &Path) -> Result<bool, StorageError> {
    match std::fs::metadata(beside(file, "-wal")) {
        Ok(log) => Ok(log.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(&error)),
    }
}

/// <https://www.sqlite.org/uri.html>, `immutable`: no lock, no log, nothing written.
fn open_immutable(file: &Path) -> Result<Connection, StorageError> {
    let mut uri = String::from("file:");
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => uri += &format!("%{other:02x}"),
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let open = || {
        let connection = Connection::open_with_flags(uri + "?immutable=1", flags)?;
        schema::guard(&connection)?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| schema::storage_error(&error))
}

/// File and log in a folder of their own, for its owner alone.
#[derive(Debug)]
struct Copied(PathBuf);

impl Copied {
    fn of(file: &Path) -> Result<Self, StorageError> {
        let copy = Self(new_folder()?);
        for suffix in ["", "-wal"] {
            let to = copy.0.join(FILE_NAME.to_owned() + suffix);
            std::fs::copy(beside(file, suffix), to).map_err(|error| io_error(&error))?;
        }
        Ok(copy)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // Sealed values, in a folder of their owner's: what is left is no leak.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn new_folder() -> Result<PathBuf, StorageError> {
    let mut attempt = 0;
    loop {
        let dir = std::env::temp_dir().join(format!("strongroom-store-{}-{attempt}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(io_error(&error)),
        }
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned().into_vec();
    name.extend_from_slice(suffix.as_bytes());
    PathBuf::from(OsString::from_vec(name))
}

const ATTEMPTS_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, CommitId, EntryPath, Sqlite, Storage as _};

    fn path(raw: &str) -> EntryPath {
        EntryPath::parse(raw).unwrap()
    }

    fn rows(examined: &Examined) -> Vec<(String, u64, Vec<u8>)> {
        let mut rows = Vec::new();
        examined
            .rows(&mut |row| {
                let path = String::from_utf8(row.path.to_vec()).unwrap();
                rows.push((path, row.revision.0, row.value.to_vec()));
            })
            .unwrap();
        rows
    }

    /// Names, contents and times of what stands in a folder.
    fn state(dir: &Path) -> Vec<(OsString, Vec<u8>, std::time::SystemTime)> {
        let mut state: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), std::fs::read(entry.path()).unwrap(), entry.metadata().unwrap().modified().unwrap())
            })
            .collect();
        state.sort();
        state
    }

    #[tokio::test]
    async fn every_row_is_told_and_nothing_touched_with_and_without_a_log_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("a ?#% b");
        let store = Sqlite::open(&live).unwrap();
        store.commit(Batch::new(CommitId([1; 16])).put(path("t/b"), "2").put(path("t/a"), "1")).await.unwrap();
        store.commit(Batch::new(CommitId([2; 16])).put(path("t/a"), "3").put(path("t/c"), "")).await.unwrap();
        let expected = [("t/a", 2, "3"), ("t/b", 1, "2"), ("t/c", 2, "")]
            .map(|(p, r, v)| (p.to_owned(), r, v.as_bytes().to_vec()));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(live.join(FILE_NAME), &link).unwrap();
        for held in [&live.join(FILE_NAME), &link] {
            assert!(matches!(Examined::open(held), Err(StorageError::Held)));
        }
        // as after a crash
        let crashed = dir.path().join("crashed");
        std::fs::create_dir(&crashed).unwrap();
        for entry in std::fs::read_dir(&live).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), crashed.join(entry.file_name())).unwrap();
        }
        assert!(has_log(&crashed.join(FILE_NAME)).unwrap());
        let backup = dir.path().join("backup");
        store.backup(&backup).await.unwrap();
        drop(store);
        for file in [live.join(FILE_NAME), crashed.join(FILE_NAME), backup.clone()] {
            let dir = file.parent().unwrap();
            let before =
                if dir.join(&backup).exists() && dir == backup.parent().unwrap() { vec![] } else { state(dir) };
            let examined = Examined::open(&file).unwrap();
            assert_eq!((rows(&examined), examined.count().unwrap()), (expected.to_vec(), 3), "{file:?}");
            assert_eq!(examined.revision().unwrap(), Revision(2));
            let copy = examined._copy.as_ref().map(|copy| copy.0.clone());
            assert_eq!(copy.is_some(), dir == crashed);
            drop(examined);
            assert!(copy.is_none_or(|copy| !copy.exists()));
            if !before.is_empty() {
                assert_eq!(state(dir), before, "{file:?}");
            }
        }
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        assert!(Examined::open(&file).is_err());
        for bytes in [vec![], vec![7; 8192]] {
            std::fs::write(&file, &bytes).unwrap();
            assert!(matches!(Examined::open(&file), Err(StorageError::Damaged(_))), "{}", bytes.len());
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
    }
}
