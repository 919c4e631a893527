//! What `audit verify --store` reads: a store's rows, beside what logs tell of them.

use crate::cli::kms::file::counting_bar;
use crate::cli::output::Record;
use anyhow::{Context as _, Result, bail};
use audit::log::ENTRY_BYTES_MAX;
use audit::verify::Report;
use audit::verify::store::{Compared, Comparison, Finding, Told, Waiting, changes_max};
use clap::Args;
use envelope::mac;
use envelope::sealed::SUITE1_OVERHEAD_BYTES;
use std::collections::BTreeMap;
use std::path::PathBuf;
use storage::batch::BATCH_OPERATIONS_MAX;
use storage::sqlite::Examined;
use storage::{Revision, StorageError};

#[derive(Debug, Clone, Args)]
pub struct StoreFile {
    /// Store to compare with the log: `store.db` of a stopped server, or a backup. It is only read
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// The store may be older than the log: compare it with what the log told until then
    #[arg(long, requires = "store")]
    backup: bool,
}

/// A store that is open, and whose rows nobody compared yet.
#[derive(Debug)]
pub struct Opened {
    rows: Examined,
    revision: Revision,
    backup: bool,
}

/// What the comparison gave.
#[derive(Debug)]
pub struct Outcome {
    revision: u64,
    /// The revision that the log told last, where it is a newer one and the store is no backup.
    newer: Option<u64>,
    backup: bool,
    exempt: BTreeMap<&'static str, u64>,
    compared: Compared,
}

impl StoreFile {
    pub fn is_named(&self) -> bool {
        self.store.is_some()
    }

    pub fn open(&self) -> Result<Option<Opened>> {
        let Some(file) = &self.store else { return Ok(None) };
        let opened = Examined::open(file).and_then(|rows| Ok((rows.revision()?, rows)));
        let (revision, rows) = match opened {
            Err(StorageError::Held) => bail!(
                "a server has {} open: stop it, or compare a backup (`strongroom operator backup`, then --backup)",
                file.display()
            ),
            opened => opened.with_context(|| format!("cannot read the store {}", file.display()))?,
        };
        Ok(Some(Opened { rows, revision, backup: self.backup }))
    }
}

impl Opened {
    /// Hears a log's entries.
    pub fn listener(&self) -> Told {
        if self.backup { Told::as_of(self.revision.0) } else { Told::new() }
    }

    /// `logs`: valid ones, with what they told.
    pub fn compare(self, logs: Vec<(Report, Told)>) -> Result<Outcome> {
        let cluster = cluster_of(&logs)?;
        let told = logs.iter().filter_map(|(_, told)| told.newest()).map(|state| state.revision).max();
        let newer = told.filter(|told| *told > self.revision.0 && !self.backup);
        let (mut exempt, mut waiting) = (BTreeMap::new(), Vec::new());
        self.rows.rows(&mut |row| {
            let path = String::from_utf8_lossy(row.path);
            let Some(name) = exempt_as(&path, &cluster) else { return };
            *exempt.entry(name).or_default() += 1;
            if name == OUTBOX {
                waiting.push(Waiting { revision: row.revision.0, changes_max: leaf_changes_max(row.value.len()) });
            }
        })?;
        let mut comparison = Comparison::new(logs.into_iter().map(|(_, told)| told).collect(), waiting);
        let bar = counting_bar(self.rows.count().ok(), "rows");
        self.rows.rows(&mut |row| {
            let path = String::from_utf8_lossy(row.path);
            let (exempt, value) = (exempt_as(&path, &cluster), mac::sha256(row.value));
            // once the barrier's key was rotated the log tells it, as it tells all else
            if exempt.is_none() || exempt == Some(BOOT) && comparison.tells(&value) {
                comparison.row(&path, &value, row.revision.0);
                bar.inc(1);
            }
        })?;
        bar.finish_and_clear();
        let compared = comparison.finish();
        Ok(Outcome { revision: self.revision.0, newer, backup: self.backup, exempt, compared })
    }
}

impl Outcome {
    /// Nothing is excused by a leaf that waits, which who has the store can write and only the server can open, nor by one that
    /// was removed: neither a row that is there, nor one that may have been.
    pub fn is_judged(&self) -> bool {
        self.compared.not_yet_told == 0 && !self.compared.unheard
    }

    /// Why the store does not pass, in a word or two.
    pub fn wrong(&self) -> Option<String> {
        let unjudged = (self.compared.not_yet_told > 0).then(|| {
            let then = if self.backup { "take another backup" } else { "start it, stop it in peace, and verify again" };
            format!(
                "{} rows are not judged: outbox leaves excuse them, which only the server can open; {then}",
                self.compared.not_yet_told
            )
        });
        let removed = self.compared.unheard.then(|| {
            format!(
                "{} rows are not judged, nor whether there were more: entries were removed that may have told them; name the \
                 archive with --archive",
                self.compared.removed
            )
        });
        let wrong: Vec<String> = self.differs().into_iter().chain(unjudged).chain(removed).collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    fn differs(&self) -> Option<String> {
        let Compared { found, rows, .. } = &self.compared;
        match (self.newer, found) {
            (None, 0) => None,
            (None, found) => Some(format!("the store is not what the log tells: {found} findings among {rows} rows")),
            (Some(told), found) => Some(format!(
                "the store is an old copy: it is at revision {}, the log tells {told}; {found} findings among {rows} rows; \
                 a backup is compared with --backup",
                self.revision
            )),
        }
    }

    pub fn record(&self) -> Record {
        let some = |count: u64| Some(count).filter(|count| *count > 0);
        let exempt: BTreeMap<String, String> =
            self.exempt.iter().map(|(name, count)| ((*name).to_owned(), count.to_string())).collect();
        let findings: Vec<Record> = self.compared.findings.iter().map(finding).collect();
        let left_out = self.compared.found.saturating_sub(findings.len() as u64);
        Record::new()
            .with("revision", self.revision)
            .with_some("revision_told", self.newer)
            .with("rows", self.compared.rows)
            .with("exempt", exempt)
            .with_some("not_yet_told", some(self.compared.not_yet_told))
            .with_some("of_removed_entries", some(self.compared.removed))
            .with_some("of_before_rollback", some(self.compared.before_rollback))
            .with("found", self.compared.found)
            .with_some("findings", Some(findings).filter(|findings| !findings.is_empty()))
            .with_some("findings_left_out", some(left_out))
    }
}

fn finding(finding: &Finding) -> Record {
    Record::new()
        .with("kind", finding.kind.name())
        .with_some("path", finding.path.clone())
        .with_some("index", finding.told)
        .with_some("last_index", finding.last.filter(|last| Some(*last) != finding.told))
}

/// The one of all logs, by their origins (`strongroom.audit/<cluster>/<node>`).
fn cluster_of(logs: &[(Report, Told)]) -> Result<String> {
    let of = |report: &Report| report.checkpoint.origin.split('/').nth(1).unwrap_or_default().to_owned();
    let mut clusters = logs.iter().map(|(report, _)| of(report));
    let first = clusters.next().context("no log was named")?;
    match clusters.find(|other| *other != first) {
        Some(other) => bail!("the logs are of different clusters: {first} and {other}"),
        None => Ok(first),
    }
}

/// How many changes the leaf tells that is sealed in so many bytes: none where it is too long for one.
fn leaf_changes_max(sealed_bytes: usize) -> u64 {
    let leaf_bytes = sealed_bytes.saturating_sub(SUITE1_OVERHEAD_BYTES);
    // its own row is one of the batch's
    if leaf_bytes > ENTRY_BYTES_MAX { 0 } else { changes_max(leaf_bytes).min(BATCH_OPERATIONS_MAX as u64 - 1) }
}

/// The name under which a row is counted that no leaf tells: what the cluster keeps of itself.
fn exempt_as(path: &str, cluster: &str) -> Option<&'static str> {
    if path == BOOT {
        return Some(BOOT);
    }
    let own = path.strip_prefix(cluster)?.strip_prefix('/')?;
    match own.split_once('/') {
        None => ["core", "sentinel"].into_iter().find(|name| *name == own),
        Some((folder, _)) => ["anchors", "logs", OUTBOX].into_iter().find(|name| *name == folder),
    }
}

const BOOT: &str = "boot";
const OUTBOX: &str = "outbox";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_excuses_no_more_than_the_largest_leaf() {
        let of = |leaf_bytes: usize| leaf_changes_max(leaf_bytes + SUITE1_OVERHEAD_BYTES);
        assert_eq!([of(44), of(45), of(ENTRY_BYTES_MAX), of(ENTRY_BYTES_MAX + 1)], [0, 1, 127, 0]);
        assert_eq!([leaf_changes_max(0), leaf_changes_max(1 << 20)], [0, 0]);
    }

    #[test]
    fn only_what_the_cluster_keeps_of_itself_is_exempt() {
        for (path, expected) in [
            ("boot", Some("boot")),
            ("boot-intent", None),
            ("c0/core", Some("core")),
            ("c0/sentinel", Some("sentinel")),
            ("c0/outbox/1", Some("outbox")),
            ("c0/logs/1", Some("logs")),
            ("c0/anchors/1", Some("anchors")),
            ("c0/core/x", None),
            ("c0/outbox", None),
            ("c0/else", None),
            ("c0", None),
            ("c1/core", None),
            ("c00/core", None),
            ("t/kms/keys/a", None),
        ] {
            assert_eq!(exempt_as(path, "c0"), expected, "{path}");
        }
    }
}
