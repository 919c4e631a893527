//! Whole copies: a consistent one into this store's own file, and one into an empty database.

use super::connect::{Session, storage_error};
use super::{path, signed, unsigned};
use crate::{Entry, EntryPath, Revision, StorageError, sqlite};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::ToSql;

type Row = Result<(EntryPath, Entry), StorageError>;

/// Into the embedded engine's file: `operator restore` brings it back. Of one snapshot, in the order of the paths.
pub(super) async fn backup(session: Session, to: &Path) -> Result<Revision, StorageError> {
    let (rows_to, mut rows) = mpsc::channel::<Row>(AHEAD);
    let (head_to, head) = std::sync::mpsc::sync_channel(1);
    let to = to.to_owned();
    let file = tokio::task::spawn_blocking(move || {
        let revision = head.recv().map_err(|_| StorageError::Unavailable)?;
        let rows = std::iter::from_fn(|| rows.blocking_recv());
        sqlite::export_rows(&to, revision, rows).map(|_| revision)
    });
    let told = read(session, head_to, &rows_to).await;
    if let Err(error) = told {
        // the file is not whole: whoever writes it hears that, and leaves none
        let _writer_gone = rows_to.send(Err(error)).await;
    }
    drop(rows_to);
    file.await.map_err(|_| StorageError::Unavailable)?
}

async fn read(
    mut session: Session,
    head_to: std::sync::mpsc::SyncSender<Revision>,
    rows_to: &mpsc::Sender<Row>,
) -> Result<(), StorageError> {
    let named = |error: tokio_postgres::Error| storage_error(&error);
    let snapshot = session.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let all = snapshot.start().await.map_err(named)?;
    // as long as it takes; a server that has gone is found by the connection's keepalives
    all.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await
        .map_err(named)?;
    let head = all.query_one("SELECT rev FROM head", &[]).await.map_err(named)?.get(0);
    head_to.send(unsigned(head)).map_err(|_| StorageError::Unavailable)?;
    let rows = all.query_raw("SELECT k, rev, v FROM kv ORDER BY k", std::iter::empty::<i32>()).await.map_err(named)?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(named)? {
        let value = Bytes::copy_from_slice(row.get::<_, &[u8]>(2));
        let entry = Entry { value, revision: unsigned(row.get(1)) };
        let sent = rows_to.send(Ok((path(row.get(0))?, entry))).await;
        sent.map_err(|_| StorageError::Unavailable)?;
    }
    Ok(())
}

/// All rows and the revision, in one transaction; the store must be empty. How many.
pub(super) async fn load(
    session: &mut Session,
    revision: Revision,
    rows: &mut dyn Iterator<Item = Row>,
) -> Result<u64, StorageError> {
    let named = |error: tokio_postgres::Error| storage_error(&error);
    let all = session.client.transaction().await.map_err(named)?;
    all.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await
        .map_err(named)?;
    let empty = "SELECT rev = 0 AND NOT EXISTS (SELECT FROM kv) FROM head FOR UPDATE";
    if !all.query_one(empty, &[]).await.map_err(named)?.get::<_, bool>(0) {
        return Err(StorageError::TargetExists);
    }
    let put = "INSERT INTO kv (k, rev, v) SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[])";
    let put = all.prepare(put).await.map_err(named)?;
    let mut count: u64 = 0;
    loop {
        let (mut keys, mut revisions, mut values, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while keys.len() < ROWS_AT_ONCE
            && bytes < BYTES_AT_ONCE
            && let Some(row) = rows.next()
        {
            let (path, entry) = row?;
            if entry.revision > revision {
                return Err(StorageError::Damaged("an entry is newer than its store"));
            }
            bytes += entry.value.len();
            keys.push(path.as_str().as_bytes().to_vec());
            revisions.push(signed(entry.revision));
            values.push(entry.value.to_vec());
        }
        if keys.is_empty() {
            break;
        }
        let parameters: [&(dyn ToSql + Sync); 3] = [&keys, &revisions, &values];
        count += tokio::time::timeout(LOAD, all.execute(&put, &parameters))
            .await
            .map_err(|_| StorageError::Unavailable)?
            .map_err(named)?;
    }
    // what was changed before is not in the log: who asks for it hears of a gap
    all.execute("UPDATE head SET rev = $1, floor = $1", &[&signed(revision)]).await.map_err(named)?;
    let kept = all.query_one("SELECT count(*), coalesce(max(rev), 0) FROM kv", &[]).await.map_err(named)?;
    let (kept, newest): (i64, i64) = (kept.get(0), kept.get(1));
    if u64::try_from(kept) != Ok(count) || unsigned(newest) > revision {
        return Err(StorageError::Damaged("the database does not hold what was written"));
    }
    all.commit().await.map_err(named)?;
    Ok(count)
}

/// Rows read before they are written.
const AHEAD: usize = 256;
const ROWS_AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 8 << 20;
const LOAD: Duration = Duration::from_secs(60);
