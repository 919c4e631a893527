//! Forwarding: the audit log, line by line, to a collector of somebody else's. Derived, never the source: the log itself is what
//! is verified, and an index and an origin stand in every line so that a proof can be asked for.
//!
//! Always: behind the log's own files, from a place that is kept in the data folder; at least once.
//! Never: a request that waits for it, or fails with it. More than one batch in memory.

mod address;
mod config;
mod otlp;
mod syslog;

pub use config::{Forward, Kind};

use crate::files;
use anyhow::{Context as _, Result};
use api::Metrics;
use audit::Log;
use audit::read::{LogFolder, LogReader, Place};
use audit::record::Entry;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One line of a batch.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) index: u64,
    /// As `audit export` has it, and the origin.
    pub(crate) json: String,
    pub(crate) entry: Entry,
}

/// How far what was sent is known to have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The receiver has said that it has it.
    Confirmed,
    /// As [`Sent::Confirmed`], but of so many it has said that it will never have them.
    Partly { rejected: u64, why: String },
    /// It was written to a connection that nobody answers on.
    Written,
}

/// A collector.
enum Target {
    Syslog(syslog::Syslog),
    Otlp(otlp::Otlp),
}

/// What follows the log for one collector.
#[derive(Debug, Clone)]
pub struct Forwarder {
    forward: Forward,
    node: String,
    cursor: PathBuf,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Entries that the collector is known to have, or that are gone.
    confirmed: AtomicU64,
    failures: AtomicU64,
    /// Entries that left the log before they were forwarded, or that the collector rejected.
    lost: AtomicU64,
}

impl Forwarder {
    pub fn new(forward: &Forward, (node, data_dir): (&str, &Path), log: &Arc<Log>, metrics: &Metrics) -> Self {
        let counts = Arc::<Counts>::default();
        let name = forward.name.replace('-', "_");
        let (of, log) = (Arc::clone(&counts), Arc::downgrade(log));
        metrics.gauge(
            &format!("audit_forward_{name}_behind"),
            "Entries of the audit log that the collector is not known to have",
            move || {
                let size = log.upgrade().map_or(0, |log| log.size());
                i64::try_from(size.saturating_sub(of.confirmed.load(Ordering::Relaxed))).unwrap_or(i64::MAX)
            },
        );
        let of = Arc::clone(&counts);
        metrics.gauge(
            &format!("audit_forward_{name}_failures"),
            "Attempts to forward that failed since the start",
            move || i64::try_from(of.failures.load(Ordering::Relaxed)).unwrap_or(i64::MAX),
        );
        let of = Arc::clone(&counts);
        metrics.gauge(
            &format!("audit_forward_{name}_lost"),
            "Entries that were archived or pruned before they were forwarded, or that the collector rejected, since the start",
            move || i64::try_from(of.lost.load(Ordering::Relaxed)).unwrap_or(i64::MAX),
        );
        let cursor = data_dir.join(format!("forward-{}", forward.name));
        Self { forward: forward.clone(), node: node.to_owned(), cursor, counts }
    }

    fn lost(&self, entries: u64, why: &str) {
        self.counts.lost.fetch_add(entries, Ordering::Relaxed);
        tracing::error!(
            forward = self.forward.name,
            entries,
            why,
            "the collector will never have entries of the audit log"
        );
    }

    /// For ever.
    pub async fn run(self, log: Arc<Log>) {
        let mut follower = Follower::new(self, log);
        let mut pause = PAUSE_MIN;
        loop {
            match follower.step().await {
                Ok(Step::Sent) => pause = PAUSE_MIN,
                Ok(Step::Idle) => {
                    pause = PAUSE_MIN;
                    tokio::time::sleep(LOOKS_EVERY).await;
                }
                Err(error) => {
                    follower.failed(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

enum Step {
    Sent,
    /// There is nothing to send.
    Idle,
}

struct Follower {
    of: Forwarder,
    log: Arc<Log>,
    target: Option<Target>,
    /// The next entry to send; `None` before the cursor was read.
    next: Option<u64>,
    /// Where it stands in the log, while nothing fails.
    place: Option<Place>,
    /// The first entry that is not known to have come.
    confirmed: u64,
    /// What the cursor's file says.
    kept: u64,
    kept_at: Instant,
    /// Behind which entry was written when, on the connection that is open.
    written: VecDeque<(Instant, u64)>,
    told_at: Option<Instant>,
    failing: bool,
}

impl Follower {
    fn new(of: Forwarder, log: Arc<Log>) -> Self {
        Self {
            of,
            log,
            target: None,
            next: None,
            place: None,
            confirmed: 0,
            kept: 0,
            kept_at: Instant::now(),
            written: VecDeque::new(),
            told_at: None,
            failing: false,
        }
    }

    /// Sends one batch.
    async fn step(&mut self) -> Result<Step> {
        let next = match self.next {
            Some(next) => next,
            None => self.begin()?,
        };
        let target = match &mut self.target {
            Some(target) => target,
            None => self.target.insert(Target::new(&self.of.forward, &self.of.node)?),
        };
        target.stands().await?;
        // the log itself stays with those who close it
        let (dir, origin, size) = (self.log.dir().to_owned(), self.log.key().name().to_owned(), self.log.size());
        let place = self.place.take();
        let read = move || batch(&dir, &origin, next..size, place);
        let Batch { skipped, lines, place } = tokio::task::spawn_blocking(read).await??;
        let end = next + skipped + lines.len() as u64;
        if skipped > 0 {
            self.of.lost(skipped, "they left the audit log before they were forwarded");
        }
        if !lines.is_empty() {
            match target.send(&lines).await? {
                Sent::Confirmed => self.confirmed = end,
                Sent::Partly { rejected, why } => {
                    self.of.lost(rejected, &format!("the collector rejected them: {why}"));
                    self.confirmed = end;
                }
                Sent::Written => {
                    // of too many, two are confirmed together
                    self.written.truncate(WRITTEN_MAX - 1);
                    self.written.push_back((Instant::now(), end));
                }
            }
        } else if self.written.is_empty() {
            self.confirmed = end;
        }
        self.place = place;
        self.next = Some(end);
        self.confirm();
        self.keep()?;
        self.tell(size);
        Ok(if lines.is_empty() { Step::Idle } else { Step::Sent })
    }

    /// From the cursor on, or from the log's beginning.
    fn begin(&mut self) -> Result<u64> {
        let at = match std::fs::read_to_string(&self.of.cursor) {
            Ok(text) => cursor_of(&text, self.log.key().name()).unwrap_or(0),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.of.cursor.display())),
        };
        // a log that is shorter is not the one that was forwarded
        let at = if at > self.log.size() { 0 } else { at };
        (self.next, self.confirmed, self.kept) = (Some(at), at, at);
        self.of.counts.confirmed.store(at, Ordering::Relaxed);
        Ok(at)
    }

    /// What was written so long ago on a connection that still stands has come, as far as anybody can know.
    fn confirm(&mut self) {
        while let Some((_, end)) = self.written.pop_front_if(|(at, _)| at.elapsed() >= CONFIRMED_AFTER) {
            self.confirmed = end;
        }
        self.of.counts.confirmed.store(self.confirmed, Ordering::Relaxed);
    }

    /// Writes the cursor, now and then.
    fn keep(&mut self) -> Result<()> {
        if self.kept == self.confirmed || self.kept_at.elapsed() < KEPT_EVERY {
            return Ok(());
        }
        let text = format!("{}\n{}\n", self.log.key().name(), self.confirmed);
        files::write_public(&self.of.cursor, text.as_bytes())?;
        (self.kept, self.kept_at) = (self.confirmed, Instant::now());
        Ok(())
    }

    /// Goes back to what is known to have come.
    fn failed(&mut self, error: &anyhow::Error) {
        (self.target, self.place) = (None, None);
        self.written.clear();
        self.next = self.next.map(|_| self.confirmed);
        self.of.counts.failures.fetch_add(1, Ordering::Relaxed);
        if self.may_tell() {
            let behind = self.log.size().saturating_sub(self.confirmed);
            let (name, error) = (&self.of.forward.name, format!("{error:#}"));
            tracing::warn!(forward = name, error, behind, "the audit log is not forwarded; tried again and again");
        }
        self.failing = true;
    }

    fn tell(&mut self, size: u64) {
        let behind = size.saturating_sub(self.confirmed);
        let name = &self.of.forward.name;
        if std::mem::take(&mut self.failing) {
            tracing::info!(forward = name, behind, "the audit log is forwarded again");
        } else if behind > BEHIND_TOLD && self.may_tell() {
            tracing::info!(forward = self.of.forward.name, behind, "the audit log is forwarded, behind its end");
        }
    }

    fn may_tell(&mut self) -> bool {
        let may = self.told_at.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if may {
            self.told_at = Some(Instant::now());
        }
        may
    }
}

impl Target {
    fn new(forward: &Forward, node: &str) -> Result<Self> {
        Ok(match forward.kind {
            Kind::Syslog => Self::Syslog(syslog::Syslog::new(forward)?),
            Kind::Otlp => Self::Otlp(otlp::Otlp::new(forward, node)?),
        })
    }

    /// Fails where the connection has ended meanwhile.
    async fn stands(&mut self) -> Result<()> {
        match self {
            Self::Syslog(syslog) => syslog.stands().await,
            Self::Otlp(_) => Ok(()),
        }
    }

    async fn send(&mut self, lines: &[Line]) -> Result<Sent> {
        let sent = async {
            match self {
                Self::Syslog(syslog) => syslog.send(lines).await,
                Self::Otlp(otlp) => otlp.send(lines).await,
            }
        };
        tokio::time::timeout(SEND_WAIT, sent).await.context("the collector did not take them in time")?
    }
}

/// Lines that come next.
struct Batch {
    /// Entries before them that are no longer there.
    skipped: u64,
    lines: Vec<Line>,
    /// Behind the last; `None` where nothing was read.
    place: Option<Place>,
}

/// The next lines of entries `wanted`. `place`: of the first of them, where they were read up to there.
fn batch(dir: &Path, origin: &str, wanted: Range<u64>, place: Option<Place>) -> Result<Batch> {
    let (next, size) = (wanted.start, wanted.end);
    let (mut lines, mut bytes) = (Vec::new(), 0);
    if next >= size {
        return Ok(Batch { skipped: 0, lines, place });
    }
    let log = LogReader::over(LogFolder::open(dir)?);
    let first = log.first()?.clamp(next, size);
    if first == size {
        return Ok(Batch { skipped: first - next, lines, place: None });
    }
    let mut entries = match place.filter(|place| place.index() == first) {
        Some(place) => log.iter_at(place)?,
        // walks the segment up to there
        None => log.iter_from(first)?,
    };
    while lines.len() < BATCH_LINES_MAX && bytes < BATCH_BYTES_MAX && entries.index() < size {
        let Some((index, entry)) = entries.read()? else { break };
        let entry = Entry::decode(entry).with_context(|| format!("entry {index} is malformed"))?;
        let json = line(index, origin, &entry);
        bytes += json.len();
        lines.push(Line { index, json, entry });
    }
    Ok(Batch { skipped: first - next, lines, place: Some(entries.place()) })
}

/// As `audit export` renders it, without personal keys, and with the origin.
fn line(index: u64, origin: &str, entry: &Entry) -> String {
    let exported = crate::cli::audit::read::line(index, entry, None);
    let origin = serde_json::Value::from(origin);
    let rest = exported.trim_end().strip_prefix('{').unwrap_or_default();
    format!("{{\"origin\":{origin},{rest}")
}

fn cursor_of(text: &str, origin: &str) -> Option<u64> {
    let (of, index) = text.split_once('\n')?;
    index.strip_suffix('\n').filter(|_| of == origin)?.parse().ok()
}

const BATCH_LINES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
const LOOKS_EVERY: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const SEND_WAIT: Duration = Duration::from_secs(30);
/// A connection that ended tells of it by then, or the receiver's kernel has what was written.
const CONFIRMED_AFTER: Duration = Duration::from_secs(5);
const WRITTEN_MAX: usize = 1024;
const KEPT_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);
const BEHIND_TOLD: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use audit::record::finish;
    use audit::{Record, Subject};
    use envelope::Timestamp;

    #[test]
    fn a_cursor_of_another_log_or_none_begins_anew() {
        for (text, expected) in [
            ("a/1\n17\n", Some(17)),
            ("a/2\n17\n", None),
            ("a/1\n17", None),
            ("a/1\n\n", None),
            ("", None),
            ("a/1\n-1\n", None),
        ] {
            assert_eq!(cursor_of(text, "a/1"), expected, "{text:?}");
        }
    }

    /// A log's folder with so many equal entries in its third segment, which is its first; the file.
    fn folder(entries: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("segment")).unwrap();
        let record = Record::new(Timestamp::from_unix_millis(5), "", "Start", &Subject::System);
        let entry = finish(&record.encode(), None).unwrap();
        let length = u16::try_from(entry.len()).unwrap().to_be_bytes();
        let path = folder.path().join("segment/0000000002");
        std::fs::write(&path, [&length[..], &entry].concat().repeat(entries)).unwrap();
        (folder, path)
    }

    const FIRST: u64 = 2 * audit::read::SEGMENT_ENTRIES;

    #[test]
    fn what_left_the_log_before_it_was_sent_is_counted_and_passed_over() {
        let (folder, _) = folder(600);
        for (wanted, skipped, lines) in [
            (0..FIRST + 600, FIRST, 512),
            (100..FIRST + 600, FIRST - 100, 512),
            (FIRST..FIRST + 600, 0, 512),
            (FIRST + 590..FIRST + 600, 0, 10),
            // not durable yet
            (FIRST + 590..FIRST + 595, 0, 5),
            (FIRST..FIRST, 0, 0),
            (7..FIRST - 9, FIRST - 16, 0),
        ] {
            let found = batch(folder.path(), "o", wanted.clone(), None).unwrap();
            assert_eq!((found.skipped, found.lines.len()), (skipped, lines), "{wanted:?}");
            let index = wanted.start + skipped;
            let expected = (lines > 0).then(|| format!("{{\"origin\":\"o\",\"index\":{index},\"time\":5,"));
            assert!(expected.is_none_or(|start| found.lines[0].json.starts_with(&start)), "{wanted:?}");
        }
    }

    #[test]
    fn a_batch_begins_where_the_one_before_it_ended_and_walks_nothing_again() {
        let (folder, path) = folder(1200);
        let next = |from: u64, place| batch(folder.path(), "o", from..FIRST + 1200, place).unwrap();
        let first = next(0, None);
        let one = std::fs::metadata(&path).unwrap().len() / 1200;
        // nobody could walk over this
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::File::options().write(true).open(&path).unwrap(),
            &vec![0; usize::try_from(512 * one).unwrap()],
            0,
        )
        .unwrap();
        assert_eq!(next(FIRST + 512, None).lines.len(), 0);
        let second = next(FIRST + 512, first.place);
        let indexes: Vec<_> = second.lines.iter().map(|line| line.index).collect();
        assert_eq!((second.skipped, indexes), (0, (FIRST + 512..FIRST + 1024).collect()));
        // a place that is another entry's leads nowhere
        assert_eq!(next(FIRST + 600, first.place).lines.len(), 0);
        let third = next(FIRST + 1024, second.place);
        assert_eq!(third.lines.len(), 176);
        // at the end it stays
        let end = batch(folder.path(), "o", FIRST + 1200..FIRST + 1200, third.place).unwrap();
        assert_eq!((end.lines.len(), end.place.map(|place| place.index())), (0, Some(FIRST + 1200)));
    }
}
