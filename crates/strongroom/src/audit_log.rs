//! The node's audit log: under which origin and key it goes on, and whether it and the store agree.
//!
//! Log, store and boundary remember each other: the store a tree that the log has had, the log a revision that the store has
//! had, the boundary the last checkpoint that it signed. Whichever was put back to an old copy is found at the next start.
//!
//! Always: a log that was put back, lost or changed for another begins anew, under another origin and key, beside the old one.
//! Never: service where they disagree and no operator has acknowledged it.

use crate::clock::SystemClock;
use crate::config::Config;
use anyhow::{Context as _, Result, bail, ensure};
use audit::read::{LogFolder, LogReader, VERIFIER_KEY};
use audit::receipt::Batch;
use audit::record::{Entry, StoreState};
use audit::{
    AuditSink, CheckpointSigner, Decision, Log, LogOptions, OpenError, Outcome, Record, SignError, Standing, Subject,
};
use envelope::Clock as _;
use envelope::merkle::Hash;
use futures_util::future::BoxFuture;
use hsm::SocketBoundary;
use hsm_api::{Boundary as _, HsmError, Reply, Request};
use kms::boot::Cluster;
use kms::log_anchor::{self, LogAnchor};
use kms::log_key::LogKey;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Barrier, Revision};

/// Which of them is an old copy, or another one.
#[derive(Debug)]
pub enum Disagreement {
    /// It cannot go on.
    Log(String),
    /// The log goes on.
    Store(String),
}

/// An open log, and the key in the boundary that signs it.
pub type KeyedLog = (Arc<Log>, LogKey);

/// The log and what the store says to it.
#[derive(Debug)]
pub struct Opened {
    /// `None` where it cannot be opened because it is not what it was.
    pub log: Option<KeyedLog>,
    pub disagreement: Option<Disagreement>,
}

impl Disagreement {
    pub fn why(&self) -> &str {
        match self {
            Self::Log(why) | Self::Store(why) => why,
        }
    }
}

/// Opens the node's log, made where it is missing, and compares it with the store.
pub async fn open(config: &Config, cluster: &Cluster, boundary: &Arc<SocketBoundary>) -> Result<Opened> {
    let (revision, anchor) = log_anchor::read(&cluster.barrier, config.node()).await?;
    let remembered = anchor.map(|anchor| (anchor.size, anchor.root));
    let (options, key) = options(config, cluster, boundary).await?;
    let options = LogOptions { remembered, ..options };
    let dir = options.dir.clone();
    let opened = tokio::task::spawn_blocking(move || Log::open(options)).await?;
    let log = match opened {
        Ok(log) => log,
        Err(error @ (OpenError::Damaged { .. } | OpenError::Shorter { .. } | OpenError::Rewritten { .. })) => {
            return Ok(Opened { log: None, disagreement: Some(Disagreement::Log(error.to_string())) });
        }
        Err(error) => return Err(error).with_context(|| format!("the audit log in {}", dir.display())),
    };
    let disagreement = compare(cluster, &log, &dir, revision).await?;
    Ok(Opened { log: Some((log, key)), disagreement })
}

/// After the operator has acknowledged, or restored: every older token is void, every older lease where it was the former, and a
/// log that cannot go on stands aside.
pub async fn settle(
    config: &Config,
    cluster: &mut Cluster,
    (found, acknowledged): (Opened, bool),
    boundary: &Arc<SocketBoundary>,
) -> Result<KeyedLog> {
    let Opened { log, disagreement } = found;
    let Some(disagreement) = disagreement else { return log.context("an audit log that agrees is open") };
    cluster.raise_generation(acknowledged).await?;
    let (log, key) = match (&disagreement, log) {
        (Disagreement::Store(_), Some(log)) => log,
        (Disagreement::Store(_) | Disagreement::Log(_), log) => {
            let dir = config.audit_dir();
            // elsewhere than on this thread, on which the boundary answers
            tokio::task::spawn_blocking(move || {
                drop(log);
                put_aside(&dir)
            })
            .await??;
            log_anchor::remove(&cluster.barrier, config.node()).await?;
            let (options, key) = options(config, cluster, boundary).await?;
            (tokio::task::spawn_blocking(move || Log::open(options)).await?.context("the new audit log")?, key)
        }
    };
    let (revision, _) = log_anchor::read(&cluster.barrier, config.node()).await?;
    let record = Record {
        node: config.node(),
        path: disagreement.why(),
        decision: Decision::Allowed,
        // what the log has known of the store before counts no longer
        store: Some(StoreState { revision: revision.0, generation: cluster.core().generation }),
        ..Record::new(SystemClock.now(), "", ROLLBACK, &Subject::System)
    };
    log.lane().append(record.encode()).await.with_context(|| format!("{ROLLBACK} cannot be recorded"))?;
    Ok((log, key))
}

/// Records something that the server itself does.
pub async fn tell(sink: &dyn AuditSink, operation: &str, node: &str, path: Option<&str>) -> Result<()> {
    let record = Record {
        node,
        path: path.unwrap_or_default(),
        decision: Decision::Allowed,
        outcome: Outcome::Done,
        ..Record::new(SystemClock.now(), "", operation, &Subject::System)
    };
    sink.append(record.encode()).await.with_context(|| format!("{operation} cannot be recorded"))
}

/// Keeps store and log in each other's memory, for ever.
pub async fn anchor(barrier: Arc<Barrier>, log: Arc<Log>, node: String, (generation, idle): (u64, Duration)) {
    let sink = log.lane();
    let mut told = Told { idle, ..Told::default() };
    loop {
        tokio::time::sleep(ANCHORS_EVERY).await;
        // sealed by hand, the store takes no anchor; the log goes on
        if barrier.is_closed() {
            continue;
        }
        if let Err(error) = told.again(&barrier, &log, &*sink, (&node, generation)).await {
            tracing::warn!(%error, "store and audit log could not note each other; tried again in a second");
        }
    }
}

/// What each has told the other last.
#[derive(Debug, Default)]
struct Told {
    revision: Option<Revision>,
    size: u64,
    /// Where others write the store too: how long this node waits before it tells again while its own log stays the same.
    idle: Duration,
    at: Option<Instant>,
}

impl Told {
    async fn again(&mut self, barrier: &Barrier, log: &Log, sink: &dyn AuditSink, who: (&str, u64)) -> Result<()> {
        let (node, generation) = who;
        if log.size() == self.size && self.at.is_some_and(|at| at.elapsed() < self.idle) {
            return Ok(());
        }
        let (revision, known) = log_anchor::read(barrier, node).await?;
        if self.revision == Some(revision) && log.size() < self.size + ENTRIES_BETWEEN {
            return Ok(());
        }
        let record = Record {
            node,
            decision: Decision::Allowed,
            store: Some(StoreState { revision: revision.0, generation }),
            ..Record::new(SystemClock.now(), "", STORE_STATE, &Subject::System)
        };
        sink.append(record.encode()).await?;
        self.size = log.size();
        self.at = Some(Instant::now());
        self.revision = Some(revision);
        if let Some(signed) = log.checkpoint()
            && known.is_none_or(|known| known.size < signed.0.size)
        {
            let anchor = LogAnchor { size: signed.0.size, root: signed.0.root };
            self.revision = Some(log_anchor::write(barrier, node, &anchor).await?);
        }
        Ok(())
    }
}

async fn compare(cluster: &Cluster, log: &Arc<Log>, dir: &Path, revision: Revision) -> Result<Option<Disagreement>> {
    let state = StoreState { revision: revision.0, generation: cluster.core().generation };
    let (size, dir) = (log.size(), dir.to_owned());
    let older = tokio::task::spawn_blocking(move || older_store(&dir, size, state)).await??;
    if older.is_some() {
        return Ok(older);
    }
    let mut standings = log.standings();
    let known =
        tokio::time::timeout(STANDING_WAIT, standings.wait_for(|standing| *standing != Standing::Unknown)).await;
    match known {
        Ok(Ok(standing)) if *standing == Standing::Behind => Ok(Some(Disagreement::Log(
            "the boundary has signed checkpoints that are not of this audit log: the log is an old copy or another one, or the \
             boundary was put back"
                .into(),
        ))),
        // a boundary that is away says so later
        Ok(_) | Err(_) => Ok(None),
    }
}

/// What the log on the disk tells of the store, beside the store as it is.
fn older_store(dir: &Path, size: u64, store: StoreState) -> Result<Option<Disagreement>> {
    let told = last_store_state(&LogReader::over(LogFolder::open(dir)?), size)?;
    let Some(told) = told.filter(|told| told.revision > store.revision || told.generation > store.generation) else {
        return Ok(None);
    };
    let why = format!(
        "the audit log knows revision {} of the store in generation {}, the store is at revision {} in generation {}: it is an old copy",
        told.revision, told.generation, store.revision, store.generation
    );
    Ok(Some(Disagreement::Store(why)))
}

/// One stands within the last of [`WINDOWS`] in a log that was kept by this program, mostly within the first; where not, all
/// entries are read.
fn last_store_state(reader: &LogReader<LogFolder>, size: u64) -> Result<Option<StoreState>> {
    let first = reader.first()?;
    let windows = WINDOWS.map(|window| size.saturating_sub(window).max(first));
    for from in windows.into_iter().chain([first]) {
        let mut last = None;
        let mut entries = reader.iter_from(from)?;
        while let Some((_, entry)) = entries.read()? {
            let holds = |word: &str| entry.windows(word.len()).any(|window| window == word.as_bytes());
            let may_be = holds(STORE_STATE) || holds(ROLLBACK);
            if may_be && let Some(state) = Entry::decode(entry).ok().and_then(|entry| entry.record().store) {
                last = Some(state);
            }
        }
        if last.is_some() || from == first {
            return Ok(last);
        }
    }
    Ok(None)
}

async fn options(config: &Config, cluster: &Cluster, boundary: &Arc<SocketBoundary>) -> Result<(LogOptions, LogKey)> {
    let dir = config.audit_dir();
    let base = cluster.log_origin(config.node());
    let incarnation = match written_origin(&dir)? {
        Some(origin) => match origin.strip_prefix(&base) {
            Some(rest) if rest.is_empty() || rest.starts_with("/g") => rest.to_owned(),
            Some(_) | None => bail!("{} holds the log {origin}, this node's is {base}", dir.display()),
        },
        None if cluster.core().generation == 1 => String::new(),
        // a log that begins after others, which the boundary may know by their origins
        None => format!("/g{}", cluster.core().generation),
    };
    let name = format!("{}{}", config.node(), incarnation.replace('/', "-"));
    let key = cluster.log_key(&name, &**boundary).await.context("the audit log's key")?;
    let signer = Signer::new(boundary, key.clone());
    let options = LogOptions {
        personal: config.audit.personal_to()?,
        reserve_bytes: config.audit.reserve_mib << 20,
        ..LogOptions::new(dir, base + &incarnation, config.node(), signer, Arc::new(SystemClock))
    };
    Ok((options, key))
}

fn written_origin(dir: &Path) -> Result<Option<String>> {
    let file = dir.join(VERIFIER_KEY);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    // c2sp.org/signed-note, "Verifier keys": name+hash+key
    let name = text.trim().split('+').next().unwrap_or_default();
    ensure!(!name.is_empty(), "{} holds no verifier key", file.display());
    Ok(Some(name.to_owned()))
}

/// Into a folder within the log's own, which may be a disk of its own. What says whose log it is goes last: until then
/// this log is the one that is found.
fn put_aside(dir: &Path) -> Result<()> {
    let aside = dir.join(format!("{ASIDE}{}", SystemClock.now().unix_millis()));
    crate::files::private_folder(&aside)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| !name.to_string_lossy().starts_with(ASIDE));
    names.sort_by_key(|name| name == VERIFIER_KEY);
    for name in names {
        std::fs::rename(dir.join(&name), aside.join(&name)).with_context(|| format!("cannot move {name:?} aside"))?;
        std::fs::File::open(dir)?.sync_all()?;
    }
    tracing::warn!(aside = %aside.display(), "the audit log that cannot go on stands aside; keep it for the auditor");
    Ok(())
}

/// The boundary, as the log knows it.
#[derive(Debug)]
pub struct Signer {
    boundary: Arc<SocketBoundary>,
    key: LogKey,
}

impl CheckpointSigner for Signer {
    fn verifier(&self) -> [u8; 32] {
        self.key.public_key
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        proof: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.asked(Request::SignCheckpoint { key: self.key.token.clone(), origin, size, root, proof })
    }

    fn sign_batch(&self, batch: Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let Batch { origin, first, count, root } = batch;
        self.asked(Request::SignBatch { key: self.key.token.clone(), origin, first, count, root })
    }
}

impl Signer {
    /// Asks by `boundary`; quickest in the runtime that it was started on.
    pub fn new(boundary: &Arc<SocketBoundary>, key: LogKey) -> Arc<Self> {
        Arc::new(Self { boundary: Arc::clone(boundary), key })
    }

    fn asked(&self, ask: Request) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let pending = self.boundary.submit(ask);
        Box::pin(async move {
            match pending.await {
                Ok(Reply::Signature(signature)) => signature.as_ref().try_into().map_err(|_| SignError::Unavailable),
                Err(HsmError::CheckpointForked) => Err(SignError::Forked),
                Ok(_) => Err(SignError::Unavailable),
                Err(HsmError::Protocol | HsmError::OutOfRange | HsmError::UsageForbidden | HsmError::Unsupported) => {
                    Err(SignError::Refused)
                }
                Err(error) => {
                    tracing::debug!(%error, "the boundary signed nothing of the audit log");
                    Err(SignError::Unavailable)
                }
            }
        })
    }
}

const ANCHORS_EVERY: Duration = Duration::from_secs(1);
/// How long the start waits to hear from the boundary how the log stands.
const STANDING_WAIT: Duration = Duration::from_secs(2);
/// Before the time at which a log was put aside, in milliseconds.
const ASIDE: &str = "aside-";
const ROLLBACK: &str = "RollbackAcknowledged";
const STORE_STATE: &str = "StoreState";
/// The store's state is told once in so many entries, though it stays the same.
const ENTRIES_BETWEEN: u64 = 1 << 15;
const WINDOWS: [u64; 3] = [1 << 12, 1 << 15, 1 << 18];
