//! The scrubber: the node's own audit log, verified again and again from its files while the server runs.
//!
//! Always: slow, on a thread of its own that others go before; what is signed alone, so that a round ends.
//! Always: what it finds is told in the server's log, the metrics, health, and the audit log itself. Service goes on.
//! Never: a file written, or a lock held.

use crate::audit_log;
use crate::config::Config;
use anyhow::{Context as _, Result};
use api::{AuditLogState, Health, Metrics};
use audit::Log;
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogReader, VERIFIER_KEY};
use audit::tile::TILE_WIDTH;
use audit::verify::{Fault, Options, Reach, verify_each};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What is scrubbed, and how fast.
#[derive(Debug, Clone)]
pub struct Scrubber {
    dir: PathBuf,
    node: String,
    /// 0: not at all.
    entries_per_sec: u32,
    counts: Arc<Counts>,
}

/// Since the start.
#[derive(Debug, Default)]
struct Counts {
    entries: AtomicU64,
    rounds: AtomicU64,
    faults: AtomicU64,
}

/// How a round ended.
#[derive(Debug)]
enum Round {
    /// So many entries.
    Sound(u64),
    Damaged(Fault),
    /// Nothing is signed yet.
    Early,
    /// The server ends.
    CalledOff,
}

impl Counts {
    fn gauges(self: &Arc<Self>, metrics: &Metrics) {
        let gauge = |name, help, read: fn(&Self) -> &AtomicU64| {
            let counts = Arc::clone(self);
            metrics.gauge(name, help, move || i64::try_from(read(&counts).load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        };
        gauge(
            "audit_scrubbed_entries",
            "Entries of the audit log that were verified again since the start",
            |counts| &counts.entries,
        );
        gauge("audit_scrub_rounds", "Rounds in which the whole audit log was verified since the start", |counts| {
            &counts.rounds
        });
        gauge("audit_scrub_faults", "Rounds that found the audit log damaged since the start", |counts| &counts.faults);
    }
}

/// For ever.
pub async fn scrub(scrubber: Scrubber, log: Arc<Log>, health: Health) {
    if scrubber.entries_per_sec == 0 {
        return std::future::pending().await;
    }
    let sink = log.lane();
    let mut pause = FIRST_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        pause = PAUSE;
        match scrubber.clone().on_a_thread().await {
            Ok(Round::Sound(entries)) => {
                scrubber.counts.rounds.fetch_add(1, Ordering::Relaxed);
                health.audit_log(AuditLogState::Sound);
                tracing::info!(entries, "the audit log was verified, and is sound");
            }
            Ok(Round::Damaged(fault)) => {
                scrubber.counts.rounds.fetch_add(1, Ordering::Relaxed);
                scrubber.counts.faults.fetch_add(1, Ordering::Relaxed);
                health.audit_log(AuditLogState::Damaged);
                let why = format!("{:#}", anyhow::Error::from(fault));
                tracing::error!(why, "the audit log is damaged: keep a copy of it, and run `strongroom audit verify`");
                if let Err(error) = audit_log::tell(&*sink, DAMAGED, &scrubber.node, Some(&why)).await {
                    tracing::warn!(%error, "that the audit log is damaged was not recorded in it");
                }
            }
            Ok(Round::Early) => pause = FIRST_AFTER,
            Ok(Round::CalledOff) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the audit log was not verified; it will be"),
        }
    }
}

impl Scrubber {
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let (dir, node, counts) = (config.audit_dir(), config.node().to_owned(), Arc::<Counts>::default());
        counts.gauges(metrics);
        Self { dir, node, entries_per_sec: config.audit.scrub_entries_per_sec, counts }
    }

    /// One round. It ends early where nobody waits for it any more.
    async fn on_a_thread(self) -> Result<Round> {
        in_background("audit-scrub", move |ended| self.round(ended)).await
    }

    fn round(&self, ended: &mut dyn FnMut() -> bool) -> Result<Round> {
        let key = own_key(&self.dir)?;
        let log = LogReader::over(LogFolder::open(&self.dir)?);
        let rest = Duration::from_secs(u64::from(TILE_WIDTH)) / self.entries_per_sec.max(1);
        let options = Options { patience: PATIENCE, reach: Reach::Signed, rest, ..Options::default() };
        let mut pace = Pace::new(self.entries_per_sec);
        let verified = verify_each(&log, &key, &options, &mut |_, _| {
            self.counts.entries.fetch_add(1, Ordering::Relaxed);
            pace.step(ended)
        });
        Ok(match verified {
            Ok(ControlFlow::Continue(report)) => Round::Sound(report.checkpoint.size),
            Ok(ControlFlow::Break(())) => Round::CalledOff,
            Err(Fault::NoCheckpoint { .. }) => Round::Early,
            Err(fault) if fault.is_io() => return Err(fault.into()),
            Err(fault) => Round::Damaged(fault),
        })
    }
}

/// Works on a thread of its own that others go before. The work hears when nobody waits for it any more.
pub(crate) async fn in_background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // of this thread alone (setpriority(2), "C library/kernel differences"); where it is refused, as others
        let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
        let outcome = work(&mut || reply.is_closed());
        drop(reply.send(outcome));
    })?;
    answer.await.with_context(|| format!("the thread {name} panicked"))?
}

/// So many a second: works for a moment, then sleeps until it is due.
pub(crate) struct Pace {
    per_sec: u32,
    began: Instant,
    done: u64,
    looked: Instant,
}

impl Pace {
    pub(crate) fn new(per_sec: u32) -> Self {
        let now = Instant::now();
        Self { per_sec, began: now, done: 0, looked: now }
    }

    pub(crate) fn step(&mut self, ended: &mut dyn FnMut() -> bool) -> ControlFlow<()> {
        self.done += 1;
        if !self.done.is_multiple_of(u64::from(self.per_sec.div_ceil(STEPS_PER_SEC))) {
            return ControlFlow::Continue(());
        }
        loop {
            if self.looked.elapsed() >= LOOKS_EVERY {
                self.looked = Instant::now();
                if ended() {
                    return ControlFlow::Break(());
                }
            }
            let due = Duration::from_secs_f64(self.done as f64 / f64::from(self.per_sec));
            let left = due.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(left.min(LOOKS_EVERY));
        }
    }
}

/// The log's own: what is looked for is damage, and who has the server's files has this one too.
fn own_key(dir: &Path) -> Result<VerifierKey> {
    let file = dir.join(VERIFIER_KEY);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    VerifierKey::parse(text.trim()).with_context(|| format!("{} holds no verifier key", file.display()))
}

const DAMAGED: &str = "AuditLogDamaged";
/// The start is busy enough.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(3600);
/// How long a writer may take for one entry.
const PATIENCE: Duration = Duration::from_secs(1);
const STEPS_PER_SEC: u32 = 20;
const LOOKS_EVERY: Duration = Duration::from_millis(100);
const LOWEST_PRIORITY: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_entries_a_second_than_allowed_and_none_once_it_is_called_off() {
        let mut pace = Pace::new(1000);
        let began = Instant::now();
        for _ in 0..300 {
            assert!(pace.step(&mut || false).is_continue());
        }
        assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
        let mut slow = Pace::new(1);
        let began = Instant::now();
        assert!(slow.step(&mut || true).is_break());
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    }
}
