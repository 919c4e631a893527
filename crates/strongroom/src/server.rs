//! `server`: opens the store with the boundary's help, serves, drains.
//!
//! Always: the store's sentinel opened, and every leaf of the outbox in the log, before the first request.
//! Never: service beside a store or a log whose sync failed.

use crate::audit_log::{self, Disagreement, KeyedLog};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::cores::Cores;
use crate::files;
use crate::listen::Listener;
use crate::sealed;
use crate::store;
use crate::tls::Certificate;
use crate::wire::Wired;
use anyhow::{Context as _, Result, bail};
use audit::Log;
use envelope::{Clock as _, SecretBytes};
use futures_util::future::join_all;
use hsm::SocketBoundary;
use hsm_channel::{Identity, Pin};
use kms::boot::{self, BootError, Cluster, Turn};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs until it is told to end: 0 after a drain, 1 after a failure of its own.
pub fn run(config: &Config) -> Result<ExitCode> {
    no_core_dumps()?;
    let cores = Cores::start(config.limits.threads)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(config, &cores));
    cores.stop();
    // a name that is being resolved keeps nobody from ending
    runtime.shutdown_timeout(LEFT_BEHIND);
    outcome
}

async fn serve(config: &Config, cores: &Cores) -> Result<ExitCode> {
    // from here on no signal is lost, whoever waits for it when
    let mut signals = Signals::new()?;
    files::private_folder(&config.data_dir)?;
    let orphaned = parent_gone(config.end_with_parent)?;
    tokio::pin!(orphaned);
    let store::Opened { store: storage, failed: store_failed } = tokio::select! {
        opened = store::open(config) => opened?,
        () = &mut orphaned => return Ok(ExitCode::SUCCESS),
        () = signals.end(None) => return Ok(ExitCode::SUCCESS),
    };
    let options = boundary_options(config)?;
    let boundary = Arc::new(SocketBoundary::start(options.clone())?);
    let mut cluster = tokio::select! {
        cluster = open(Arc::clone(&storage), &boundary) => cluster?,
        // the boundary may have ended with the parent: nobody waits for it for ever
        () = &mut orphaned => return Ok(ExitCode::SUCCESS),
        () = signals.end(None) => return Ok(ExitCode::SUCCESS),
    };
    let restored = config.data_dir.join(RESTORED).exists();
    let (log, log_key) = tokio::select! {
        log = audit_log(config, cores, &mut cluster, (&boundary, restored)) => log?,
        () = &mut orphaned => return Ok(ExitCode::SUCCESS),
        () = signals.end(None) => return Ok(ExitCode::SUCCESS),
    };
    if restored {
        files::remove(&config.data_dir.join(RESTORED))?;
    }
    let wired = Wired::new(&cluster, &storage, (&log, log_key), (options, boundary), config)?;
    let replayed = wired.changes().replay().await.context("cannot replay the outbox")?;
    tracing::info!(replayed, "the audit log holds every change");
    let mut workers = wired.start_workers()?;
    root_token(config, &wired, &mut cluster).await?;
    wired.prepare_vault(config.recovery_key_file.as_deref()).await?;
    let mut rooms = Vec::new();
    for core in cores.handles() {
        let wired = wired.clone();
        rooms.push((core.clone(), core.spawn(async move { wired.front().await })));
    }
    let rooms = join_all(rooms.into_iter().map(async |(core, front)| anyhow::Ok((core, front.await??)))).await;
    let rooms = rooms.into_iter().collect::<Result<Vec<_>>>()?;
    let certificate = config.tls.as_ref().map(Certificate::load).transpose()?;
    let _following = certificate.clone().map(Certificate::followed);
    let listener = Listener::start(config.listen, certificate.clone(), &config.limits, rooms)?;
    wired.health().serve();
    ready(&listener);
    let end = tokio::select! {
        () = signals.end(certificate.as_deref()) => End::Asked,
        () = &mut orphaned => End::Asked,
        () = store_failed => End::Failed("the store failed"),
        () = log.failed() => End::Failed("the audit log failed"),
        () = workers.ended() => End::Failed("a worker ended"),
    };
    wired.health().stop();
    listener.drain(DRAIN).await;
    drop(workers);
    close(config, &wired, &log, &end).await;
    drop(wired);
    // elsewhere than on this thread: the boundary signs the last checkpoint through it
    tokio::task::yield_now().await;
    tokio::task::spawn_blocking(move || drop(log)).await?;
    match end {
        End::Asked => Ok(ExitCode::SUCCESS),
        End::Failed(what) => {
            tracing::error!(what, "ends: what was acknowledged is durable, the next start recovers");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What is recorded last.
async fn close(config: &Config, wired: &Wired, log: &Log, end: &End) {
    if matches!(end, End::Asked)
        && let Err(error) = audit_log::tell(&*log.lane(), "Stop", config.node(), None).await
    {
        tracing::warn!(%error, "the stop was not recorded");
    }
    if let Err(error) = wired.changes().tidy().await {
        tracing::warn!(%error, "the outbox was not tidied; the next start does it");
    }
}

/// Opens the audit log. Where it and the store disagree, waits sealed until an operator has acknowledged that. Whoever has
/// restored the store has acknowledged that it is an older one, and nothing of the log.
async fn audit_log(
    config: &Config,
    cores: &Cores,
    cluster: &mut Cluster,
    (boundary, restored): (&Arc<SocketBoundary>, bool),
) -> Result<KeyedLog> {
    let mut opened = audit_log::open(config, cluster, boundary).await?;
    let mut acknowledged = false;
    match &opened.disagreement {
        Some(Disagreement::Store(_)) | None if restored => {
            let why = "the store was restored from a backup".to_owned();
            opened.disagreement = Some(Disagreement::Store(why));
        }
        Some(disagreement) => {
            sealed::until_acknowledged(config, cores, disagreement.why()).await?;
            // of whoever tries a backup out without its log, the copy that lives has the leases
            acknowledged = !restored;
        }
        None => {}
    }
    let disagreed = opened.disagreement.is_some();
    let (log, key) = audit_log::settle(config, cluster, (opened, acknowledged), boundary).await?;
    // also where the newer copy was brought back instead
    sealed::forget(&config.data_dir)?;
    if disagreed {
        let what = if acknowledged { "every older token and lease is void" } else { "every older token is void" };
        tracing::warn!(generation = cluster.core().generation, "{what}");
    }
    audit_log::tell(&*log.lane(), "Start", config.node(), None).await?;
    Ok((log, key))
}

/// Opens the store, waiting for a boundary that is away.
async fn open(storage: Arc<dyn Storage>, boundary: &SocketBoundary) -> Result<Cluster> {
    let mut pause = Duration::from_millis(50);
    loop {
        match boot::open(Arc::clone(&storage), boundary, SystemClock.now()).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) if error.is_transient() => say_waiting(&error, pause),
            Err(error) => return Err(error).context("cannot open the store"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

fn say_waiting(error: &BootError, pause: Duration) {
    // the first tries are quick and silent: both processes may have been started at one moment
    if pause >= Duration::from_secs(1) {
        tracing::warn!(%error, "waits for the boundary");
    }
}

/// The root token of this generation, in its file: the first one's may stand there before; later ones are always new, so
/// that nobody who can put a file there makes themselves root.
async fn root_token(config: &Config, wired: &Wired, cluster: &mut Cluster) -> Result<()> {
    let began = Instant::now();
    loop {
        match cluster.root_token_turn(config.node(), began.elapsed() > TURN).await? {
            Turn::Done => return Ok(()),
            Turn::Ours => break,
            Turn::Theirs => tokio::time::sleep(TURN / 100).await,
        }
    }
    let file = &config.root_token_file;
    let token: SecretBytes = if file.exists() && cluster.core().generation == 1 {
        files::read_secret(file)?
    } else {
        let token = identity::token::generate()?;
        files::write_secret(file, token.expose())?;
        token
    };
    wired.create_root(&token).await?;
    cluster.root_token_made().await?;
    tracing::info!(file = %file.display(), "the root token was made");
    Ok(())
}

fn boundary_options(config: &Config) -> Result<hsm::Options> {
    let identity = Arc::new(Identity::load(&config.boundary.identity).context("`boundary.identity`")?);
    let pin: Pin = config.boundary.pin.parse().context("`boundary.pin`")?;
    Ok(hsm::Options::new(config.boundary.socket.clone(), identity, pin))
}

enum End {
    Asked,
    Failed(&'static str),
}

/// What we are told from outside. One for the whole life: what comes while nobody waits is heard by who waits next.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int, hup: signal(SignalKind::hangup())? })
    }

    /// Until somebody ends us. SIGHUP reads the certificate again.
    async fn end(&mut self, certificate: Option<&Certificate>) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {
                    if let Some(certificate) = certificate {
                        certificate.reload_as_asked();
                    }
                }
            }
        }
    }
}

/// Resolves when standard input closes, if that was asked for.
fn parent_gone(asked: bool) -> Result<impl Future<Output = ()>> {
    let (gone, wait) = tokio::sync::oneshot::channel::<()>();
    let gone = if asked {
        std::thread::Builder::new().name("parent".into()).spawn(move || {
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = gone.send(());
        })?;
        None
    } else {
        Some(gone)
    };
    Ok(async move {
        let _held = gone;
        let _ = wait.await;
    })
}

#[expect(clippy::print_stdout, reason = "the contract's one line")]
fn ready(listener: &Listener) {
    println!("ready {}", listener.local_addr());
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
}

/// The barrier keyring is in this process: no core dumps, and nobody of our uid reads its memory.
pub(crate) fn no_core_dumps() -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    not_dumpable()
}

/// Of this process alone: a program that it runs is as it would be.
pub(crate) fn not_dumpable() -> Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if !rustix::process::dumpable_behavior().is_ok_and(|now| now == DumpableBehavior::NotDumpable) {
        bail!("the kernel did not switch core dumps off");
    }
    Ok(())
}

/// Written by `operator restore` into the data folder, removed when the generation was raised.
pub const RESTORED: &str = "restored";
/// How long a node waits for another that makes the root token.
const TURN: Duration = Duration::from_secs(10);
/// How long what blocks a thread may take to end, when all else has.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// How long open connections may take to end.
const DRAIN: Duration = Duration::from_secs(10);
