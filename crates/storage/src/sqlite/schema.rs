//! The file: its tables, its settings, and what its errors mean.

use crate::{EntryPath, Revision, StorageError};
use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The format that this version writes: `PRAGMA user_version`.
pub(super) const FORMAT: u32 = 1;
/// "SRst": `PRAGMA application_id`.
const APPLICATION_ID: u32 = 0x5352_7374;

/// Opens the file for writing; a missing or empty one becomes an empty store.
pub(super) fn open_or_make(file: &Path) -> Result<Connection, StorageError> {
    // Made here rather than by SQLite, for its mode, which -wal and -shm inherit.
    let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file);
    made.map_err(|error| super::io_error(&error))?;
    if let Some(dir) = file.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| super::io_error(&error))?;
    }
    let connection = connect(file)?;
    let empty = check_format(&connection)?;
    let tuned = || {
        connection.pragma_update(None, "page_size", 4096)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // KiB: what is written over and over is not read again each time. Not more: a commit that has moved pages of a tree
        // looks at all that are kept here
        connection.pragma_update(None, "cache_size", -8192)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(mode == "wal")
    };
    if !tuned().map_err(|error| storage_error(&error))? {
        return Err(StorageError::Unavailable);
    }
    if empty {
        make_tables(&connection).map_err(|error| storage_error(&error))?;
    }
    fold(&connection)?;
    Ok(connection)
}

/// What the log holds goes into the file, and the log begins empty: a process whose sync failed may have left parts of it in
/// memory alone, marked as written.
fn fold(connection: &Connection) -> Result<(), StorageError> {
    let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match folded.map_err(|error| storage_error(&error))? {
        0 => Ok(()),
        _ => Err(StorageError::Unavailable),
    }
}

/// In peace: the file alone is the store. Only once nobody else has it open.
pub(super) fn close(file: &Path) -> Result<(), StorageError> {
    let connection = connect(file)?;
    revision(&connection)?;
    connection.close().map_err(|(_, error)| storage_error(&error))
}

/// Closing the connection does not fold the log: two that close at once would each leave it to the other, and after a sync that
/// failed nobody may sync.
pub(super) fn leave_log(connection: &Connection) -> Result<(), StorageError> {
    let set = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    set.map(|_| ()).map_err(|error| storage_error(&error))
}

/// Opens the file for reading alone.
pub(super) fn open_reader(file: &Path) -> Result<Connection, StorageError> {
    let connection = connect(file)?;
    connection.pragma_update(None, "query_only", true).map_err(|error| storage_error(&error))?;
    Ok(connection)
}

pub(super) fn connect(file: &Path) -> Result<Connection, StorageError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(32);
        guard(&connection)?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| storage_error(&error))
}

/// A file that others may have written harms nobody who reads it.
pub(super) fn guard(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    for (name, value) in [("cell_size_check", 1), ("mmap_size", 0), ("cache_size", -2048), ("temp_store", 2)] {
        connection.pragma_update(None, name, value)?;
    }
    Ok(())
}

/// Whether the file is empty. A file of others, or of a later format, is refused before anything is written.
pub(super) fn check_format(connection: &Connection) -> Result<bool, StorageError> {
    let read = || {
        let application: u32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let format: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((application, format, tables))
    };
    match read().map_err(|error| storage_error(&error))? {
        (0, 0, 0) => Ok(true),
        (APPLICATION_ID, FORMAT, _) => Ok(false),
        (APPLICATION_ID, found, _) => Err(StorageError::Format { found, known: FORMAT }),
        _ => Err(StorageError::Damaged("the file is not one of this store")),
    }
}

fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE kv(k BLOB PRIMARY KEY, rev INTEGER NOT NULL, v BLOB NOT NULL) STRICT, WITHOUT ROWID;
         -- by time slot first, so that forgetting the oldest touches few pages
         CREATE TABLE commits(slot INTEGER NOT NULL, id BLOB NOT NULL, rev INTEGER NOT NULL, PRIMARY KEY(slot, id))
           STRICT, WITHOUT ROWID;
         CREATE TABLE claims(k BLOB PRIMARY KEY, until INTEGER NOT NULL, token INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE head(only INTEGER PRIMARY KEY CHECK (only = 1), rev INTEGER NOT NULL) STRICT;
         INSERT INTO head VALUES(1, 0);
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {FORMAT};
         COMMIT;"
    ))
}

/// The newest revision.
pub(super) fn revision(connection: &Connection) -> Result<Revision, StorageError> {
    head(connection).map_err(|error| storage_error(&error))
}

pub(super) fn head(connection: &Connection) -> rusqlite::Result<Revision> {
    connection.prepare_cached("SELECT rev FROM head")?.query_row([], |row| row.get(0))
}

pub(super) fn limit_pages(connection: &Connection, pages_max: Option<u32>) -> Result<(), StorageError> {
    let Some(pages) = pages_max else { return Ok(()) };
    let set = connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
    set.map_err(|error| storage_error(&error))
}

/// The path that stands in a key column.
pub(super) fn path(key: &[u8]) -> Result<EntryPath, rusqlite::Error> {
    let parsed = std::str::from_utf8(key).ok().and_then(|key| EntryPath::parse(key).ok());
    parsed.ok_or(rusqlite::Error::InvalidQuery)
}

/// What a caller can do about it. The cause goes to the log; it holds no values.
pub(super) fn storage_error(error: &rusqlite::Error) -> StorageError {
    tracing::error!(%error, "the store");
    let Some(code) = error.sqlite_error_code() else {
        // Not of SQLite: a row that has another type or form than the tables allow.
        return StorageError::Damaged("a row is not one that was written");
    };
    if matches!(code, ErrorCode::DiskFull | ErrorCode::ReadOnly) {
        return StorageError::Full;
    }
    if code == ErrorCode::NotADatabase {
        return StorageError::Damaged("the file is not a database");
    }
    let torn = [ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS];
    if code == ErrorCode::DatabaseCorrupt || torn.into_iter().any(|torn| extended(error) == Some(torn)) {
        return StorageError::Damaged("the file does not hold together");
    }
    StorageError::Unavailable
}

/// SQLite's extended result code.
pub(super) fn extended(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

// SQLite's integers are signed.
impl ToSql for Revision {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl FromSql for Revision {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let raw = value.as_i64()?;
        u64::try_from(raw).map(Self).map_err(|_| FromSqlError::OutOfRange(raw))
    }
}
