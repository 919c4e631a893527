//! Copies of the whole store: taken while it is in use, brought back into an empty folder.
//!
//! Always: a copy has another name until it is whole and synced. Never: anything that exists is replaced.

use super::lock::Lock;
use super::{FILE_NAME, io_error, schema};
use crate::{Entry, EntryPath, Revision, StorageError};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Copies the store that stands at `from` to a new file.
pub(super) fn backup(from: &Path, to: &Path) -> Result<Revision, StorageError> {
    let source = schema::open_reader(from)?;
    schema::leave_log(&source)?;
    whole_or_absent(to, |partial| {
        let copy = || {
            // One transaction: the copy is of one revision, and commits do not make it begin anew.
            source.execute_batch("BEGIN")?;
            let revision = schema::head(&source)?;
            let mut target = Connection::open(partial)?;
            let step = Backup::new(&source, &mut target)?.step(-1)?;
            Ok((revision, step == StepResult::Done))
        };
        match copy().map_err(|error| schema::storage_error(&error))? {
            (revision, true) => Ok(revision),
            (_, false) => Err(StorageError::Unavailable),
        }
    })
}

/// Makes the store in `dir` from a backup, which it checks first. `dir` must not hold a store.
pub fn restore(from: &Path, dir: &Path) -> Result<Revision, StorageError> {
    let _lock = empty_place(dir)?;
    whole_or_absent(&dir.join(FILE_NAME), |partial| {
        let mut source = File::open(from).map_err(|error| io_error(&error))?;
        let mut target = OpenOptions::new().write(true).open(partial).map_err(|error| io_error(&error))?;
        std::io::copy(&mut source, &mut target).map_err(|error| io_error(&error))?;
        let copy = schema::connect(partial)?;
        if schema::check_format(&copy)? {
            return Err(StorageError::Damaged("the backup is empty"));
        }
        let size =
            copy.query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |row| {
                row.get::<_, i64>(0)
            });
        let length = target.metadata().map_err(|error| io_error(&error))?.len();
        if i64::try_from(length) != Ok(size.map_err(|error| schema::storage_error(&error))?) {
            return Err(StorageError::Damaged("the backup is not whole"));
        }
        let sound = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        if sound.map_err(|error| schema::storage_error(&error))? != "ok" {
            return Err(StorageError::Damaged("the backup does not hold together"));
        }
        let revision = schema::revision(&copy)?;
        copy.close().map_err(|(_, error)| schema::storage_error(&error))?;
        Ok(revision)
    })
}

/// A folder in which no store stands, for whoever makes one there: nobody else is at it while this value lives.
fn empty_place(dir: &Path) -> Result<Lock, StorageError> {
    super::make_folder(dir)?;
    let lock = Lock::make(dir)?;
    // A log beside the new file would be taken for its own.
    for stale in ["store.db-wal", "store.db-shm"] {
        if dir.join(stale).exists() {
            return Err(StorageError::TargetExists);
        }
    }
    // of a process that was killed while it made one: the lock is ours, so nobody is at it
    remove_partial(&dir.join(FILE_NAME));
    Ok(lock)
}

/// Makes the store in `dir` of the rows of another one, all or nothing; how many. `dir` must not hold a store.
pub fn load(
    dir: &Path,
    revision: Revision,
    rows: impl Iterator<Item = Result<(EntryPath, Entry), StorageError>>,
) -> Result<u64, StorageError> {
    let _lock = empty_place(dir)?;
    export_rows(&dir.join(FILE_NAME), revision, rows)
}

/// Writes entries as a store's file: the backup of whatever engine held them.
pub(crate) fn export(to: &Path, revision: Revision, entries: &BTreeMap<EntryPath, Entry>) -> Result<(), StorageError> {
    let rows = entries.iter().map(|(path, entry)| Ok((path.clone(), entry.clone())));
    export_rows(to, revision, rows).map(|_| ())
}

/// Writes entries as a store's file, as they come; how many. An error among them leaves no file.
pub(crate) fn export_rows(
    to: &Path,
    revision: Revision,
    rows: impl Iterator<Item = Result<(EntryPath, Entry), StorageError>>,
) -> Result<u64, StorageError> {
    whole_or_absent(to, |partial| {
        let named = |error: rusqlite::Error| schema::storage_error(&error);
        let mut target = schema::open_or_make(partial)?;
        let all = target.transaction().map_err(named)?;
        all.execute("UPDATE head SET rev = ?1", [revision]).map_err(named)?;
        let mut count = 0;
        for row in rows {
            let (path, entry) = row?;
            let mut put = all.prepare_cached("INSERT INTO kv VALUES(?1, ?2, ?3)").map_err(named)?;
            put.execute(params![path.as_str().as_bytes(), entry.revision, &entry.value[..]]).map_err(named)?;
            count += 1;
        }
        all.commit().map_err(named)?;
        target.close().map_err(|(_, error)| named(error))?;
        Ok(count)
    })
}

/// Has `write` fill a file beside `to`, syncs it and gives it its name.
fn whole_or_absent<T>(to: &Path, write: impl FnOnce(&Path) -> Result<T, StorageError>) -> Result<T, StorageError> {
    if to.exists() {
        return Err(StorageError::TargetExists);
    }
    let partial = beside(to, ".partial");
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial).map_err(|error| io_error(&error))?;
    let finish = |made: T| {
        File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, to)?;
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()?;
        Ok(made)
    };
    let outcome = write(&partial).and_then(|made| finish(made).map_err(|error: std::io::Error| io_error(&error)));
    if outcome.is_err() {
        remove_partial(to);
    }
    outcome
}

/// Removes what a copy to `to` left unfinished. Only for whoever knows that nobody is at it.
pub fn remove_partial(to: &Path) {
    for left in [".partial", ".partial-wal", ".partial-shm", ".partial-journal"] {
        // What is not there needs no removing.
        drop(std::fs::remove_file(beside(to, left)));
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
