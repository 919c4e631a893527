//! What leaves the node's audit log: what was kept long enough, and what an operator asks for with `strongroom audit archive`
//! or `prune`.
//!
//! Always: the record of it first, under a signed checkpoint; a few segments at a time, slowly, on a thread that others go
//! before.
//! Never: a reason not to serve. What fails is told, and tried again at the next round.

use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::files;
use crate::scrub::{Pace, in_background};
use anyhow::{Context as _, Result, ensure};
use api::Metrics;
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogSource as _};
use audit::retention::{Before, Fate, Removal, RetentionError, copy, plan, prepare, remove};
use audit::verify::open_checkpoint;
use audit::{Decision, Log, Outcome, Record, Subject};
use envelope::Clock as _;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What an operator asks for, as a file in the data folder: whoever can write there can write the log's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The answer bears it.
    pub id: String,
    /// Where to; pruned where it is nowhere.
    pub to: Option<PathBuf>,
    pub before: AskedBefore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskedBefore {
    Entry(u64),
    /// Unix milliseconds.
    Time(u64),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub id: String,
    pub entries: u64,
    /// The first entry that the log still has.
    pub first: u64,
    /// The entry that tells of the last removal.
    pub index: Option<u64>,
    pub error: Option<String>,
}

/// What is removed, and how it is told.
#[derive(Debug, Clone)]
pub struct Retainer {
    data_dir: PathBuf,
    node: String,
    /// 0: for ever.
    retain_days: u32,
    archive_dir: Option<PathBuf>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    entries: AtomicU64,
    failures: AtomicU64,
}

/// One order: what, where to, and by whom.
#[derive(Debug, Clone)]
struct Order {
    before: Before,
    to: Option<PathBuf>,
    by: String,
}

impl Retainer {
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let counts = Arc::<Counts>::default();
        let gauge = |name, help, read: fn(&Counts) -> &AtomicU64| {
            let counts = Arc::clone(&counts);
            metrics.gauge(name, help, move || i64::try_from(read(&counts).load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        };
        gauge("audit_removed_entries", "Entries that were archived or pruned since the start", |counts| {
            &counts.entries
        });
        gauge("audit_removal_failures", "Rounds in which entries could not be archived or pruned", |counts| {
            &counts.failures
        });
        let config::Audit { retain_days, archive_dir, .. } = config.audit.clone();
        Self { data_dir: config.data_dir.clone(), node: config.node().to_owned(), retain_days, archive_dir, counts }
    }

    /// For ever.
    pub async fn run(self, log: Arc<Log>) {
        let mut scheduled = Instant::now() + FIRST_AFTER;
        loop {
            tokio::time::sleep(LOOKS_EVERY).await;
            match take(&self.data_dir) {
                Ok(None) => {}
                Ok(Some((ask, by))) => self.answer(&log, ask, by).await,
                Err(error) => tracing::error!(error = format!("{error:#}"), "a removal was asked for that is none"),
            }
            if self.retain_days > 0 && Instant::now() >= scheduled {
                scheduled = Instant::now() + ROUND_EVERY;
                let order = self.scheduled(SystemClock.now().unix_millis());
                let (_, outcome) = self.all(&log, &order).await;
                if let Err(error) = outcome {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "old entries were not removed; tried again in an hour"
                    );
                }
            }
        }
    }

    fn scheduled(&self, now: u64) -> Order {
        let kept = u64::from(self.retain_days) * DAY_MILLIS;
        let by = format!("audit.retain_days = {}", self.retain_days);
        Order { before: Before::Time(now.saturating_sub(kept)), to: self.archive_dir.clone(), by }
    }

    async fn answer(&self, log: &Arc<Log>, ask: Ask, by: String) {
        let before = match ask.before {
            AskedBefore::Entry(index) => Before::Entry(index),
            AskedBefore::Time(time) => Before::Time(time),
        };
        let (mut done, outcome) = self.all(log, &Order { before, to: ask.to, by }).await;
        done.id = ask.id;
        done.error = outcome.err().map(|error| format!("{error:#}"));
        match reader(log.dir()).and_then(|log| Ok(log.first()?)) {
            Ok(first) => done.first = first * audit::read::SEGMENT_ENTRIES,
            Err(error) => done.error = done.error.or_else(|| Some(format!("{error:#}"))),
        }
        let text = serde_json::to_vec(&done).unwrap_or_default();
        if let Err(error) = files::write_public(&self.data_dir.join(ANSWER), &text) {
            tracing::error!(error = format!("{error:#}"), "what was removed could not be told to who asked for it");
        }
    }

    /// Removes all that the order tells of, a few segments at a time; what was removed, also where it then failed.
    async fn all(&self, log: &Arc<Log>, order: &Order) -> (Done, Result<()>) {
        let mut done = Done::default();
        loop {
            match self.some(log, order).await {
                Ok(Some((removal, index))) => {
                    let entries = removal.end - removal.first;
                    self.counts.entries.fetch_add(entries, Ordering::Relaxed);
                    done.entries += entries;
                    done.index = Some(index);
                    let (first, last, fate) = (removal.first, removal.end - 1, removal.fate.name());
                    tracing::info!(first, last, index, fate, "entries left the audit log");
                }
                Ok(None) => return (done, Ok(())),
                Err(error) => {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                    return (done, Err(error));
                }
            }
        }
    }

    async fn some(&self, log: &Arc<Log>, order: &Order) -> Result<Option<(Removal, u64)>> {
        // the log itself stays with those who close it
        let (dir, key, ordered) = (log.dir().to_owned(), log.key().clone(), order.clone());
        let verified = in_background("audit-retain", move |ended| verified((&dir, &key), &ordered, ended)).await?;
        let Some(removal) = verified else { return Ok(None) };
        let path = removal.path();
        let record = Record {
            node: &self.node,
            path: &path,
            rule: &order.by,
            decision: Decision::Allowed,
            outcome: Outcome::Done,
            ..Record::new(SystemClock.now(), "", removal.fate.operation(), &Subject::System)
        };
        let receipt = log.lane().append_for_receipt(record.encode()).receipt.await;
        let index = receipt.context("the removal has no receipt, and is not done")?.index();
        let mut checkpoints = log.checkpoints();
        let covers = checkpoints.wait_for(|signed| signed.as_ref().is_some_and(|signed| signed.0.size > index));
        let signed = tokio::time::timeout(SIGNED_WAIT, covers).await;
        signed.context("no checkpoint covers the removal, which is not done")?.context("the log was closed")?;
        let began = Instant::now();
        loop {
            let (log, of) = (Arc::clone(log), removal.clone());
            match tokio::task::spawn_blocking(move || remove(&log, &of, index)).await? {
                // the checkpoint stands in the folder a moment after its signature
                Err(RetentionError::Unrecorded) if began.elapsed() < PUBLISHED_WAIT => {
                    tokio::time::sleep(LOOKS_EVERY / 10).await;
                }
                outcome => return Ok(outcome.map(|()| Some((removal, index)))?),
            }
        }
    }
}

/// What can be removed, verified against the signed tree where it will stand.
fn verified(
    (dir, key): (&Path, &VerifierKey),
    order: &Order,
    ended: &mut dyn FnMut() -> bool,
) -> Result<Option<Removal>> {
    let folder = reader(dir)?;
    let Some(note) = folder.checkpoint()? else { return Ok(None) };
    let signed = open_checkpoint(&note, key)?;
    let segments = plan(&folder, &signed, order.before, SEGMENTS_AT_ONCE)?;
    if segments.is_empty() {
        return Ok(None);
    }
    let mut pace = Pace::new(ENTRIES_PER_SEC);
    let archive = match &order.to {
        None => None,
        Some(to) => {
            ensure!(to.is_absolute(), "{} is no absolute path", to.display());
            let mut each = || if ended() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            copy(&folder, segments.clone(), to, &mut each)?;
            Some(LogFolder::open(to)?)
        }
    };
    let from = archive.as_ref().map_or((&folder, Fate::Pruned), |archive| (archive, Fate::Archived));
    Ok(Some(prepare(&folder, &signed, segments, from, &mut || pace.step(ended))?))
}

fn reader(dir: &Path) -> Result<LogFolder> {
    LogFolder::open(dir).with_context(|| format!("cannot read the audit log in {}", dir.display()))
}

/// What somebody asked for, and who; it is asked for no more.
fn take(data_dir: &Path) -> Result<Option<(Ask, String)>> {
    let path = data_dir.join(REQUEST);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let by = format!("operator, uid {}", file.metadata()?.uid());
    let mut text = Vec::new();
    file.take(ASK_BYTES_MAX).read_to_end(&mut text)?;
    files::remove(&path)?;
    let ask = serde_json::from_slice(&text).with_context(|| format!("{} is malformed", path.display()))?;
    Ok(Some((ask, by)))
}

/// Asks the server of this data folder.
pub fn ask(data_dir: &Path, ask: &Ask) -> Result<()> {
    let path = data_dir.join(REQUEST);
    ensure!(!path.exists(), "another removal is asked for already: {} waits for the server", path.display());
    files::write_public(&path, &serde_json::to_vec(ask)?)
}

/// Takes back what no server has taken. Tells whether it was still there.
pub fn withdraw(data_dir: &Path) -> bool {
    files::remove(&data_dir.join(REQUEST)).is_ok()
}

/// Whether a server has taken what was asked.
pub fn is_taken(data_dir: &Path) -> bool {
    !data_dir.join(REQUEST).exists()
}

/// What came of it; `None` until it is known.
pub fn answer(data_dir: &Path, id: &str) -> Option<Done> {
    let text = std::fs::read(data_dir.join(ANSWER)).ok()?;
    serde_json::from_slice::<Done>(&text).ok().filter(|done| done.id == id)
}

/// In the data folder.
const REQUEST: &str = "audit-removal";
const ANSWER: &str = "audit-removal-done";
const ASK_BYTES_MAX: u64 = 16 << 10;
const LOOKS_EVERY: Duration = Duration::from_secs(1);
const FIRST_AFTER: Duration = Duration::from_secs(60);
const ROUND_EVERY: Duration = Duration::from_secs(3600);
/// Longer than the log waits to ask a boundary that was away again.
const SIGNED_WAIT: Duration = Duration::from_secs(15);
const PUBLISHED_WAIT: Duration = Duration::from_secs(5);
const DAY_MILLIS: u64 = 24 * 3600 * 1000;
/// A million entries, some hundreds of MiB.
const SEGMENTS_AT_ONCE: u64 = 16;
const ENTRIES_PER_SEC: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_taken_once_and_what_is_malformed_never() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Ask { id: "1".into(), to: Some("/a".into()), before: AskedBefore::Entry(7) };
        assert!(take(folder.path()).unwrap().is_none() && is_taken(folder.path()) && !withdraw(folder.path()));
        ask(folder.path(), &wanted).unwrap();
        assert!(ask(folder.path(), &wanted).is_err(), "one at a time");
        let (taken, by) = take(folder.path()).unwrap().unwrap();
        assert_eq!((taken, by), (wanted, format!("operator, uid {}", rustix::process::geteuid().as_raw())));
        assert!(take(folder.path()).unwrap().is_none() && is_taken(folder.path()));
        for text in
            ["", "{}", r#"{"id":"1","to":null,"before":{"entry":1},"more":1}"#, r#"{"id":"1","to":null,"before":{}}"#]
        {
            std::fs::write(folder.path().join(REQUEST), text).unwrap();
            assert!(take(folder.path()).is_err(), "{text}");
            assert!(is_taken(folder.path()), "{text}");
        }
    }

    #[test]
    fn what_is_older_than_the_days_that_are_kept_is_removed() {
        let retainer = |retain_days, archive_dir: Option<&str>| Retainer {
            data_dir: "/d".into(),
            node: "1".into(),
            retain_days,
            archive_dir: archive_dir.map(Into::into),
            counts: Arc::default(),
        };
        let now = 1_800_000_000_000;
        let order = retainer(30, Some("/a")).scheduled(now);
        assert_eq!((order.before, order.to), (Before::Time(now - 30 * 86_400_000), Some("/a".into())));
        assert_eq!(order.by, "audit.retain_days = 30");
        assert_eq!(retainer(u32::MAX, None).scheduled(now).before, Before::Time(0));
    }
}
