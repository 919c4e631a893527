//! The store of several servers: a schema of a PostgreSQL database. All servers are active; none leads.
//!
//! A thread of its own talks to the database: one connection that writes, a few that read, one that hears what the other
//! servers commit, one that holds the node's name. They are opened again when they end, and whoever asks meanwhile hears at once that the store is away.
//!
//! Always: every revision is taken under one row's lock, held until the commit is visible: they are in commit order, over all
//! servers. What is queued meanwhile is committed together: one round trip and one sync for up to 256 batches.
//! Always: a question has an answer within seconds, whatever the database does. A commit without one is
//! [`CommitError::Unknown`].
//! Always: a node's name is held by one server; ids of commits are known for 70 minutes of a server's own clock.
//! Never: a standby that is read: a read sees what was acknowledged before it.
//!
//! A pooler between must give each connection a server of its own (PgBouncer: `pool_mode = session`): prepared statements and
//! locks of the session are used.

mod connect;
mod copy;
mod reader;
mod schema;
mod tail;
mod writer;

pub use connect::OptionsError;

use crate::{
    AtLeast, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, Moment, Page, Revision, Storage,
    StorageError,
};
use connect::{Connector, Session};
use envelope::{Clock, SecretBytes, mac};
use futures_util::stream::BoxStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;
use tail::{Locked, Locks, Tail};
use tokio::sync::{mpsc, oneshot, watch};

/// Which database, and as whom.
#[derive(Clone)]
pub struct Options {
    /// `postgresql://USER@HOST[:PORT][,HOST…]/DATABASE`, without a password.
    pub url: String,
    pub password: Option<Arc<SecretBytes>>,
    /// Of this cluster alone; made where it is missing.
    pub schema: String,
    /// This server's name; no other server of the schema has it.
    pub node: String,
    /// PEM, of the database's certificate.
    pub authorities: Option<PathBuf>,
    /// PEM certificate and key by which the database knows this server.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Connections that read.
    pub readers: usize,
    pub durability: Durability,
    /// By this clock work becomes due and claims end; `None`: the database's.
    pub clock: Option<Arc<dyn Clock>>,
    /// How long ids of commits are known.
    pub remembered: Duration,
}

/// What is asked of the database's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fsync and full_page_writes are on.
    Required,
    /// A database that is thrown away after a test.
    Waived,
}

impl Options {
    pub fn new(url: impl Into<String>, schema: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
            schema: schema.into(),
            node: node.into(),
            authorities: None,
            certificate: None,
            readers: 4,
            durability: Durability::Required,
            clock: None,
            remembered: REMEMBERED,
        }
    }

    /// Whether they can be used at all; connects to nothing.
    pub fn check(&self) -> Result<(), OptionsError> {
        Connector::new(self).map(drop)
    }

    fn locks(&self) -> Locks {
        let key = |what: &[u8]| {
            let digest = mac::sha256(what);
            digest.first_chunk::<8>().map_or(0, |first| i64::from_be_bytes(*first))
        };
        let (schema, node) = (self.schema.as_bytes(), self.node.as_bytes());
        Locks {
            making: key(&[b"strongroom making ", schema].concat()),
            schema: key(&[b"strongroom schema ", schema].concat()),
            node: key(&[b"strongroom node ", schema, b" ", node].concat()),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // no URL: whoever puts a password there by mistake finds it in no log
        let (schema, node) = (&self.schema, &self.node);
        f.debug_struct("Options").field("schema", schema).field("node", node).finish_non_exhaustive()
    }
}

/// An open store. Dropping it commits what was accepted and closes its connections.
pub struct Postgres {
    /// `None` once it is being dropped.
    asks: Option<Asks>,
    thread: Option<JoinHandle<()>>,
    tail: Arc<Tail>,
    clock: Option<Arc<dyn Clock>>,
    failed: watch::Receiver<()>,
}

struct Asks {
    write: mpsc::Sender<writer::Ask>,
    read: mpsc::Sender<reader::Ask>,
    backup: mpsc::Sender<BackupAsk>,
}

struct BackupAsk {
    to: PathBuf,
    reply: oneshot::Sender<Result<Revision, StorageError>>,
}

/// What can be told that there is no store now.
trait Refuse {
    fn refuse(self, error: StorageError);
}

impl Postgres {
    /// Opens the store, made where it is missing. Waits for the database for a few seconds at most.
    pub fn open(options: &Options) -> Result<Self, StorageError> {
        let connector = connector(options)?;
        let (write, write_asks) = mpsc::channel(QUEUE_MAX);
        let (read, read_asks) = mpsc::channel(QUEUE_MAX);
        let (backup, backup_asks) = mpsc::channel(1);
        let (opened_to, opened) = std::sync::mpsc::sync_channel(1);
        let (alive, failed) = watch::channel(());
        let queues = Queues { write: write_asks, read: read_asks, backup: backup_asks };
        let (locks, clock, options) = (options.locks(), options.clock.clone(), options.clone());
        let run = move || {
            // dropped with the thread, however it ends
            let _alive = alive;
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "the store's thread");
                    return drop(opened_to.send(Err(StorageError::Unavailable)));
                }
            };
            runtime.block_on(async {
                match first(&connector, &options, locks).await {
                    Ok((sessions, (head, asked))) => {
                        let tail = Arc::new(Tail::new(head, asked));
                        if opened_to.send(Ok(Arc::clone(&tail))).is_ok() {
                            queues.serve(&connector, &options, (locks, tail), sessions).await;
                        }
                    }
                    Err(error) => drop(opened_to.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new().name("store-postgres".into()).spawn(run);
        let thread = thread.map_err(|error| {
            tracing::error!(%error, "the store's thread");
            StorageError::Unavailable
        })?;
        let tail = opened.recv().map_err(|_| StorageError::Unavailable)??;
        let asks = Some(Asks { write, read, backup });
        Ok(Self { asks, thread: Some(thread), tail, clock, failed })
    }

    /// Resolves when the store's thread has ended for a defect of its own: end the process.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut failed = self.failed.clone();
        async move { while failed.changed().await.is_ok() {} }
    }

    fn asks(&self) -> Result<&Asks, StorageError> {
        self.asks.as_ref().ok_or(StorageError::Unavailable)
    }

    async fn read<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> reader::Ask,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        asked(&self.asks()?.read, ask(reply)).await?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }
}

#[async_trait::async_trait]
impl Storage for Postgres {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError> {
        crate::check_paths(paths)?;
        let paths = paths.to_vec();
        self.read(|reply| reader::Ask::Get { paths, at, reply }).await
    }

    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError> {
        let limit = crate::check_limit(limit)?;
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.read(|reply| reader::Ask::Scan { prefix, after, limit, at, reply }).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        batch.check()?;
        let (reply, answer) = oneshot::channel();
        asked(&self.asks()?.write, writer::Ask::Commit { batch, reply }).await?;
        answer.await.map_err(|_| CommitError::Unknown)?
    }

    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        self.read(|reply| reader::Ask::Committed { id, reply }).await
    }

    fn watch(&self, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        self.tail.feed().watch(prefix, from)
    }

    fn hearing(&self) -> Option<watch::Receiver<Moment>> {
        Some(self.tail.hearing())
    }

    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError> {
        let limit = crate::check_limit(limit)?;
        let now = self.clock.as_ref().map(|clock| clock.now().unix_millis());
        let (reply, answer) = oneshot::channel();
        let ask = writer::ClaimAsk { queue: queue.clone(), limit, for_, now, reply };
        asked(&self.asks()?.write, writer::Ask::Claim(ask)).await?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }

    async fn backup(&self, to: &Path) -> Result<Revision, StorageError> {
        let (reply, answer) = oneshot::channel();
        let ask = BackupAsk { to: to.to_owned(), reply };
        self.asks()?.backup.send(ask).await.map_err(|_| StorageError::Unavailable)?;
        answer.await.map_err(|_| StorageError::Unavailable)?
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The channels close, and the thread finishes what it has: bounded by the time that an answer may take.
        self.asks = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

struct Queues {
    write: mpsc::Receiver<writer::Ask>,
    read: mpsc::Receiver<reader::Ask>,
    backup: mpsc::Receiver<BackupAsk>,
}

struct Sessions {
    writer: Session,
    tail: Session,
    locks: Session,
}

impl Queues {
    /// Until nobody can ask any more.
    async fn serve(self, connector: &Connector, options: &Options, tail: (Locks, Arc<Tail>), sessions: Sessions) {
        let (locks, tail) = tail;
        let writer = writer::Writer { connector: connector.clone(), asks: self.write, tail: Arc::clone(&tail) };
        let old = tail::Old::new(&options.node, options.remembered);
        let follow = tokio::spawn(tail::follow(tail, connector.clone(), sessions.tail, old));
        let hold = tokio::spawn(tail::hold(connector.clone(), locks, sessions.locks));
        let readers = reader::Readers {
            connector: connector.clone(),
            asks: Arc::new(tokio::sync::Mutex::new(self.read)),
            connected: Arc::new(AtomicUsize::new(0)),
        };
        let mut tasks = vec![tokio::spawn(writer.run(sessions.writer))];
        tasks.extend((0..options.readers.max(1)).map(|_| tokio::spawn(readers.clone().run())));
        tasks.push(tokio::spawn(back_up(connector.clone(), self.backup)));
        let ended = async {
            for task in tasks {
                if task.await.is_err() {
                    tracing::error!("a task of the store panicked");
                }
            }
        };
        // without its name, or beside a database that loses data, it may not go on: whoever asks hears that the store is gone,
        // and the process should end
        tokio::select! {
            () = ended => {}
            _ = hold => {}
            _ = follow => {}
        }
    }
}

/// One at a time, each on a connection of its own.
async fn back_up(connector: Connector, mut asks: mpsc::Receiver<BackupAsk>) {
    while let Some(BackupAsk { to, reply }) = asks.recv().await {
        let made = match connector.connect().await {
            Ok(session) => copy::backup(session, &to).await,
            Err(error) => Err(error),
        };
        drop(reply.send(made));
    }
}

fn connector(options: &Options) -> Result<Connector, StorageError> {
    Connector::new(options).map_err(|error| {
        tracing::error!(%error, "the store's options");
        StorageError::Unavailable
    })
}

/// The schema, the node's locks, and where the store stands.
async fn first(
    connector: &Connector,
    options: &Options,
    locks: Locks,
) -> Result<(Sessions, (Revision, Moment)), StorageError> {
    let mut writer = connector.connect().await?;
    schema::make(&mut writer, &options.schema, locks.making).await?;
    let Locked::Ours(locked) = tail::locked(connector, locks).await? else { return Err(StorageError::Held) };
    let tail = connector.connect().await?;
    let asked = Moment::now();
    let head = tail.client.query_one("SELECT rev FROM head", &[]).await;
    let head = head.map_err(|error| connect::storage_error(&error))?.get(0);
    Ok((Sessions { writer, tail, locks: locked }, (unsigned(head), asked)))
}

/// Fills an empty store, which no server uses, in one transaction: all of it, or nothing. How many entries.
pub fn load(
    options: &Options,
    revision: Revision,
    rows: &mut dyn Iterator<Item = Result<(EntryPath, Entry), StorageError>>,
) -> Result<u64, StorageError> {
    alone(options, async |session| copy::load(session, revision, rows).await)
}

/// Copies a store that no server uses into a new file of the embedded engine's.
pub fn copy_out(options: &Options, to: &Path) -> Result<Revision, StorageError> {
    alone(options, async |session| {
        let copying = connector(options)?.connect().await?;
        let revision = copy::backup(copying, to).await?;
        // held until here: nobody came in between
        session.client.batch_execute("SELECT 1").await.map_err(|error| connect::storage_error(&error))?;
        Ok(revision)
    })
}

/// With the schema's lock, so that no server uses it or begins to.
fn alone<T>(
    options: &Options,
    run: impl AsyncFnOnce(&mut Session) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let (connector, locks) = (connector(options)?, options.locks());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| StorageError::Unavailable)?;
    runtime.block_on(async {
        let mut session = connector.connect().await?;
        schema::make(&mut session, &options.schema, locks.making).await?;
        let took = session.client.query_one("SELECT pg_try_advisory_lock($1)", &[&locks.schema]).await;
        if !took.map_err(|error| connect::storage_error(&error))?.get::<_, bool>(0) {
            return Err(StorageError::Held);
        }
        run(&mut session).await
    })
}

/// Where the queue is full for too long, nothing was asked.
async fn asked<A>(queue: &mpsc::Sender<A>, ask: A) -> Result<(), StorageError> {
    queue.send_timeout(ask, ANSWER).await.map_err(|_| StorageError::Unavailable)
}

/// Refuses what is asked for a while; `None` once nobody can ask any more.
async fn refuse_for<A: Refuse>(asks: &mut mpsc::Receiver<A>, a_while: Duration) -> Option<()> {
    let end = tokio::time::sleep(a_while);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return Some(()),
            ask = asks.recv() => ask?.refuse(StorageError::Unavailable),
        }
    }
}

// PostgreSQL's integers are signed.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

/// The path that stands in a key column.
fn path(key: &[u8]) -> Result<EntryPath, StorageError> {
    let parsed = std::str::from_utf8(key).ok().and_then(|key| EntryPath::parse(key).ok());
    parsed.ok_or(StorageError::Damaged("a row is not one that was written"))
}

/// Asks that wait; whoever comes after them waits to ask.
const QUEUE_MAX: usize = 1024;
/// For the answer to one commit, when it has been asked for; longer than the database's own limit for a statement.
const ANSWER: Duration = Duration::from_secs(4);
/// For the answer to a read.
const READ: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const AWAY: Duration = Duration::from_millis(200);
const REMEMBERED: Duration = Duration::from_secs(70 * 60);

#[cfg(test)]
mod tests;
