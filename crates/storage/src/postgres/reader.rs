//! Readers: each ask is one statement, so one snapshot; several are under way on one connection.

use super::connect::{Connector, Session, ends_session, storage_error};
use crate::{AtLeast, CommitId, Entry, EntryPath, PAGE_BYTES_MAX, Page, Revision, StorageError};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::Statement;

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

pub(super) enum Ask {
    Get { paths: Vec<EntryPath>, at: AtLeast, reply: Reply<(Revision, Vec<Option<Entry>>)> },
    Scan { prefix: EntryPath, after: Option<EntryPath>, limit: usize, at: AtLeast, reply: Reply<Page> },
    Committed { id: CommitId, reply: Reply<Option<Revision>> },
}

impl super::Refuse for Ask {
    fn refuse(self, error: StorageError) {
        match self {
            Self::Get { reply, .. } => drop(reply.send(Err(error))),
            Self::Scan { reply, .. } => drop(reply.send(Err(error))),
            Self::Committed { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What all readers share.
#[derive(Clone)]
pub(super) struct Readers {
    pub(super) connector: Connector,
    pub(super) asks: Arc<Mutex<mpsc::Receiver<Ask>>>,
    /// How many have a connection.
    pub(super) connected: Arc<AtomicUsize>,
}

struct Statements {
    get: Statement,
    scan: Statement,
    committed: Statement,
}

/// Whether the connection is still of use.
type Sound = bool;

impl Readers {
    /// Until nobody can ask any more.
    pub(super) async fn run(self) {
        loop {
            let opened = match self.connector.connect().await {
                Ok(session) => Statements::prepare(session).await,
                Err(error) => Err(error),
            };
            let more = match opened {
                Ok((session, statements)) => {
                    self.connected.fetch_add(1, Ordering::Relaxed);
                    let more = self.serve(&session, &statements).await;
                    self.connected.fetch_sub(1, Ordering::Relaxed);
                    more
                }
                // others serve, or nobody can
                Err(_) if self.connected.load(Ordering::Relaxed) > 0 => {
                    tokio::time::sleep(super::AWAY).await;
                    (!self.asks.lock().await.is_closed()).then_some(())
                }
                Err(_) => super::refuse_for(&mut *self.asks.lock().await, super::AWAY).await,
            };
            if more.is_none() {
                return;
            }
        }
    }

    async fn serve(&self, session: &Session, statements: &Statements) -> Option<()> {
        let mut under_way = FuturesUnordered::new();
        let mut open = true;
        while open || !under_way.is_empty() {
            let next = async {
                let mut asks = self.asks.lock().await;
                asks.recv().await
            };
            tokio::select! {
                // those that are under way on a broken connection are lost with it; they were reads
                done = under_way.next(), if !under_way.is_empty() => {
                    let sound: Option<Sound> = done;
                    if sound == Some(false) {
                        return Some(());
                    }
                }
                () = session.ended(), if under_way.is_empty() => return Some(()),
                ask = next, if open && under_way.len() < DEPTH => match ask {
                    Some(ask) => under_way.push(statements.answer(session, ask)),
                    None => open = false,
                },
            }
        }
        None
    }
}

impl Statements {
    async fn prepare(session: Session) -> Result<(Session, Self), StorageError> {
        let prepare = async {
            let (get, scan, committed) =
                (session.client.prepare(GET), session.client.prepare(SCAN), session.client.prepare(COMMITTED));
            Ok(Self { get: get.await?, scan: scan.await?, committed: committed.await? })
        };
        match tokio::time::timeout(super::ANSWER, prepare).await {
            Ok(Ok(statements)) => Ok((session, statements)),
            Ok(Err(error)) => Err(storage_error(&error)),
            Err(_) => Err(StorageError::Unavailable),
        }
    }

    async fn answer(&self, session: &Session, ask: Ask) -> Sound {
        match ask {
            Ask::Get { paths, at, reply } => told(reply, bounded(self.get(session, &paths, at)).await),
            Ask::Scan { prefix, after, limit, at, reply } => {
                told(reply, bounded(self.scan(session, &prefix, after.as_ref(), limit, at)).await)
            }
            Ask::Committed { id, reply } => told(reply, bounded(self.committed(session, id)).await),
        }
    }

    async fn get(
        &self,
        session: &Session,
        paths: &[EntryPath],
        at: AtLeast,
    ) -> Result<(Revision, Vec<Option<Entry>>), Failed> {
        let keys: Vec<&[u8]> = paths.iter().map(|path| path.as_str().as_bytes()).collect();
        let rows = session.client.query(&self.get, &[&keys]).await?;
        let revision = head(&rows, at)?;
        let mut entries = vec![None; paths.len()];
        for row in &rows {
            let Some(place) = row.get::<_, Option<i64>>(1) else { continue };
            let place = usize::try_from(place - 1).ok().and_then(|place| entries.get_mut(place));
            *place.ok_or(StorageError::Damaged("get"))? = Some(entry(row, 2));
        }
        Ok((revision, entries))
    }

    async fn scan(
        &self,
        session: &Session,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: usize,
        at: AtLeast,
    ) -> Result<Page, Failed> {
        // '0' follows '/': below the prefix is what stands between. Siblings such as `prefix!` stand before.
        let (first, end) = (format!("{prefix}/"), format!("{prefix}0"));
        let start = after.map_or(first.as_str(), |after| first.as_str().max(after.as_str())).as_bytes();
        let own = after.is_none_or(|after| after < prefix).then(|| prefix.as_str().as_bytes());
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let bytes_max = i64::try_from(PAGE_BYTES_MAX).unwrap_or(i64::MAX);
        let rows = session.client.query(&self.scan, &[&own, &start, &end.as_bytes(), &most, &bytes_max]).await?;
        let revision = head(&rows, at)?;
        let mut page = Page { revision, entries: Vec::new(), more: false };
        for row in &rows {
            let Some(key) = row.get::<_, Option<&[u8]>>(1) else { continue };
            if page.entries.len() == limit {
                page.more = true;
                break;
            }
            page.entries.push((super::path(key)?, entry(row, 2)));
            let found: i64 = row.get(4);
            page.more = usize::try_from(found).is_ok_and(|found| found > rows.len());
        }
        Ok(page)
    }

    async fn committed(&self, session: &Session, id: CommitId) -> Result<Option<Revision>, Failed> {
        let rows = session.client.query(&self.committed, &[&id.0.as_slice()]).await?;
        Ok(rows.first().map(|row| super::unsigned(row.get(0))))
    }
}

/// Why a read failed.
enum Failed {
    Database(tokio_postgres::Error),
    Named(StorageError),
    Late,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        Self::Named(error)
    }
}

async fn bounded<T>(read: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::time::timeout(super::READ, read).await.unwrap_or(Err(Failed::Late))
}

/// A caller that has gone needs no answer.
fn told<T>(reply: Reply<T>, outcome: Result<T, Failed>) -> Sound {
    let (outcome, sound) = match outcome {
        Ok(answer) => (Ok(answer), true),
        Err(Failed::Named(error)) => (Err(error), true),
        Err(Failed::Database(error)) => (Err(storage_error(&error)), !ends_session(&error)),
        Err(Failed::Late) => {
            tracing::error!("the database does not answer a read");
            (Err(StorageError::Unavailable), false)
        }
    };
    drop(reply.send(outcome));
    sound
}

/// The snapshot's revision, if it is as fresh as was asked.
fn head(rows: &[tokio_postgres::Row], at: AtLeast) -> Result<Revision, StorageError> {
    let revision = super::unsigned(rows.first().ok_or(StorageError::Damaged("head"))?.get(0));
    match at {
        AtLeast::Revision(wanted) if wanted > revision => Err(StorageError::Unavailable),
        AtLeast::Latest | AtLeast::Revision(_) => Ok(revision),
    }
}

fn entry(row: &tokio_postgres::Row, column: usize) -> Entry {
    let value = Bytes::copy_from_slice(row.get::<_, &[u8]>(column + 1));
    Entry { value, revision: super::unsigned(row.get(column)) }
}

/// Under way on one connection.
const DEPTH: usize = 16;
const GET: &str = "SELECT h.rev, f.n, f.rev, f.v FROM head h LEFT JOIN LATERAL
     (SELECT a.n, e.rev, e.v FROM unnest($1::bytea[]) WITH ORDINALITY a(k, n) JOIN kv e ON e.k = a.k) f ON true";
/// One row more than fits tells that more follows; so do rows that were left out because the page's bytes are spent.
const SCAN: &str = "SELECT h.rev, p.k, p.rev, p.v, p.found FROM head h LEFT JOIN LATERAL
     (SELECT * FROM
       (SELECT b.*, count(*) OVER () AS found,
           sum(octet_length(b.v)) OVER (ORDER BY b.k ROWS UNBOUNDED PRECEDING) - octet_length(b.v) AS before
         FROM (SELECT o.k, o.rev, o.v FROM
             (SELECT e.k, e.rev, e.v FROM kv e WHERE e.k = $1::bytea
               UNION ALL
              (SELECT e.k, e.rev, e.v FROM kv e WHERE e.k > $2::bytea AND e.k < $3::bytea ORDER BY e.k LIMIT $4)) o
           ORDER BY o.k LIMIT $4) b) c
       WHERE c.before < $5 ORDER BY c.k) p ON true ORDER BY p.k";
const COMMITTED: &str = "SELECT rev FROM log WHERE id = $1";
