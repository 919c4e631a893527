//! Readers: each ask is one snapshot.

use super::{QUEUE_MAX, schema, spawn};
use crate::{AtLeast, CommitId, Entry, EntryPath, PAGE_BYTES_MAX, Page, Revision, StorageError};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

pub(super) enum Ask {
    Get { paths: Vec<EntryPath>, at: AtLeast, reply: Reply<(Revision, Vec<Option<Entry>>)> },
    Scan { prefix: EntryPath, after: Option<EntryPath>, limit: usize, at: AtLeast, reply: Reply<Page> },
    Committed { id: CommitId, reply: Reply<Option<Revision>> },
}

/// Threads that answer from one queue, until its sender is dropped.
pub(super) fn start(
    file: &Path,
    readers: usize,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<mpsc::Sender<Ask>, StorageError> {
    let (send, asks) = mpsc::channel(QUEUE_MAX);
    let asks = Arc::new(Mutex::new(asks));
    for number in 0..readers {
        let connection = schema::open_reader(file)?;
        schema::leave_log(&connection)?;
        let asks = Arc::clone(&asks);
        threads.push(spawn(&format!("store-reader-{number}"), move || run(&connection, &asks))?);
    }
    Ok(send)
}

fn run(connection: &Connection, asks: &Mutex<mpsc::Receiver<Ask>>) {
    let next = || asks.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(ask) = next() {
        // A caller that has gone needs no answer.
        match ask {
            Ask::Get { paths, at, reply } => {
                drop(reply.send(snapshot(connection, at, |at| get(connection, &paths, at))))
            }
            Ask::Scan { prefix, after, limit, at, reply } => {
                let page = |revision| scan(connection, &prefix, after.as_ref(), limit, revision);
                drop(reply.send(snapshot(connection, at, page)));
            }
            Ask::Committed { id, reply } => {
                drop(reply.send(snapshot(connection, AtLeast::Latest, |_| committed(connection, id))));
            }
        }
    }
}

/// Reads within one transaction, which sees one revision of the store.
fn snapshot<T>(
    connection: &Connection,
    at: AtLeast,
    read: impl FnOnce(Revision) -> rusqlite::Result<T>,
) -> Result<T, StorageError> {
    let within = || {
        connection.prepare_cached("BEGIN")?.execute([])?;
        let revision = schema::head(connection)?;
        let reached = match at {
            AtLeast::Latest => true,
            AtLeast::Revision(wanted) => wanted <= revision,
        };
        if reached { read(revision).map(Some) } else { Ok(None) }
    };
    let outcome = within();
    let ended = match connection.is_autocommit() {
        true => Ok(0),
        false => connection.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([])),
    };
    let read = outcome.and_then(|read| ended.map(|_| read));
    read.map_err(|error| schema::storage_error(&error))?.ok_or(StorageError::Unavailable)
}

fn get(
    connection: &Connection,
    paths: &[EntryPath],
    revision: Revision,
) -> rusqlite::Result<(Revision, Vec<Option<Entry>>)> {
    let mut one = connection.prepare_cached("SELECT rev, v FROM kv WHERE k = ?1")?;
    let entries = paths.iter().map(|path| {
        let read = |row: &rusqlite::Row<'_>| entry(row, 0);
        one.query_row([path.as_str().as_bytes()], read).optional()
    });
    Ok((revision, entries.collect::<Result<_, _>>()?))
}

fn scan(
    connection: &Connection,
    prefix: &EntryPath,
    after: Option<&EntryPath>,
    limit: usize,
    revision: Revision,
) -> rusqlite::Result<Page> {
    let mut page = Page { revision, entries: Vec::new(), more: false };
    let mut bytes = 0;
    if after.is_none_or(|after| after < prefix)
        && let (_, found) = get(connection, std::slice::from_ref(prefix), revision)?
        && let Some(entry) = found.into_iter().next().flatten()
    {
        bytes += entry.value.len();
        page.entries.push((prefix.clone(), entry));
    }
    // '0' follows '/': below the prefix is what stands between. Siblings such as `prefix!` stand before.
    let (first, end) = (format!("{prefix}/"), format!("{prefix}0"));
    let start = after.map_or(first.as_str(), |after| first.as_str().max(after.as_str()));
    let mut rows = connection.prepare_cached("SELECT rev, v, k FROM kv WHERE k > ?1 AND k < ?2 ORDER BY k")?;
    let mut rows = rows.query([start.as_bytes(), end.as_bytes()])?;
    while let Some(row) = rows.next()? {
        if page.entries.len() == limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let entry = entry(row, 0)?;
        bytes += entry.value.len();
        page.entries.push((schema::path(row.get_ref(2)?.as_blob()?)?, entry));
    }
    Ok(page)
}

fn entry(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Entry> {
    let value = Bytes::copy_from_slice(row.get_ref(column + 1)?.as_blob()?);
    Ok(Entry { value, revision: row.get(column)? })
}

fn committed(connection: &Connection, id: CommitId) -> rusqlite::Result<Option<Revision>> {
    let mut found = connection.prepare_cached(super::ids::FIND)?;
    found.query_row([&id.0], |row| row.get(0)).optional()
}
