//! `strongroom audit verify`.

mod evidence;

use super::cosigned::{Cosigned, Demand};
use super::store::{Opened, Outcome, StoreFile};
use super::{Key, Place, blocking, read_small};
use crate::cli::Usage;
use crate::cli::kms::file::counting_bar;
use crate::cli::new_file::{NewFile, Replace};
use crate::cli::output::{Answer, Record};
use crate::cli::values::date_text;
use anyhow::{Context as _, Result};
use audit::checkpoint::Checkpoint;
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogReader, WithArchive};
use audit::verify::store::Told;
use audit::verify::{Fault, Options, Promise, Removed, Report, open_checkpoint, verify_each};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use evidence::Evidence;
use std::convert::Infallible;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Find out whether the log holds what was signed, and where not
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit verify --data-dir /var/lib/strongroom --key log.vkey --save-checkpoint seen
  strongroom audit verify --data-dir /var/lib/strongroom --key log.vkey --checkpoint seen --save-checkpoint seen
  strongroom audit verify --key log.vkey --receipt receipt --dir audit
  strongroom audit verify --dir audit --key log.vkey --store store.db
  strongroom audit verify --dir audit --key log.vkey --witness w1.vkey --witness w2.vkey --quorum 1

--witness demands that witnesses cosigned a checkpoint, which the log must extend; up to there nobody was shown another log. Their
cosigned checkpoint stands beside the log, so a disk that was set back whole has an old one: `witnessed_at` tells, and a witness itself
knows its newest one (GET /SHA256-OF-ORIGIN/checkpoint), to be named with --checkpoint.

Every entry is read and the Merkle tree made anew; its root must be the one that the log's key signed. A log that somebody set
back to an old copy is valid up to there: only a checkpoint that you kept elsewhere finds it. Exit status: 0 valid, 1 not valid.

Entries that were archived or pruned are told, with the entry that says so; their hashes stand in the tree. With --archive they are
read where they were archived, and verified as all others are.

--receipt takes what a caller got with `strongroom-receipt: 1`, or what `audit prove` wrote. Where the log has not kept what the receipt
says, it is not valid: the receipt and the log together show it to anybody.

--store compares every row of a store with the leaf that told it last, without any key, and finds rows that are replayed (an older
value), revived (a deleted row), missing, unknown (told by no leaf) or copied (one value twice). Memory: some 100 bytes for each
row that there ever was, and as many for each change. A store that several logs tell, of more nodes than one or of one that began
anew, needs all of them: --dir and --key several times, in the same order. What a leaf that waits in the store's outbox may explain is
not judged, and the store does not pass.")]
pub struct Verify {
    #[command(flatten)]
    place: Places,
    /// The log's verifier key, or a file with it; default: `log.vkey` in the log's folder, which proves nothing about who wrote
    /// the log
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
    /// Folder of `audit archive`: its entries are verified too; of several logs, in the order of --dir
    #[arg(long, value_name = "DIR")]
    archive: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreFile,
    /// Checkpoint of this log from elsewhere: saved by an earlier run, or a witness's; may be older or newer
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Write the newest valid checkpoint to this file, to compare with next time; replaces a file that --checkpoint names
    #[arg(long, value_name = "FILE")]
    save_checkpoint: Option<PathBuf>,
    /// Replace any file with --save-checkpoint
    #[arg(long, requires = "save_checkpoint")]
    force: bool,
    /// Receipt that a caller got: check it, and with --dir or --data-dir whether the log kept its entry
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    witnesses: Demand,
}

/// Which logs.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Places {
    /// Folder of the log
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// `data_dir` of the server's configuration, or of `strongroom dev`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A checkpoint that the key signed, and its bytes.
struct Known {
    checkpoint: Checkpoint,
    note: Vec<u8>,
}

/// What is known of a log before it is read.
#[derive(Default)]
struct Before {
    elsewhere: Vec<Checkpoint>,
    promise: Option<Promise>,
    listener: Option<Told>,
}

impl Verify {
    pub async fn run(self) -> Result<Answer> {
        let (dir, others) = self.dirs()?;
        let key = self.key(0, dir.as_deref())?;
        let mut known = self.known(&key)?;
        let receipt = match &self.receipt {
            None => None,
            Some(path) => match Evidence::open(&read_small(path)?, &key) {
                Ok(receipt) => Some(receipt),
                Err(error) => return Ok(not_valid(&error.context("the receipt proves nothing"), None)),
            },
        };
        let Some(dir) = dir else {
            let receipt = receipt.ok_or_else(|| Usage("which log? name --dir or --data-dir".to_owned()))?;
            if self.save_checkpoint.is_some() || self.witnesses.is_made() {
                return Err(
                    Usage("--save-checkpoint and --witness want a log: name --dir or --data-dir".to_owned()).into()
                );
            }
            return receipt.alone(&known);
        };
        let cosigned = match self.cosigned(&dir, &key)? {
            Ok(cosigned) => cosigned,
            Err(why) => return Ok(not_valid(&anyhow::Error::msg(why), None)),
        };
        if let Some(Cosigned { checkpoint, note, .. }) = &cosigned {
            known.push(Known { checkpoint: checkpoint.clone(), note: note.clone() });
        }
        known.extend(receipt.as_ref().and_then(Evidence::known));
        let store = blocking({
            let store = self.store.clone();
            move || store.open()
        })
        .await?;
        let listener = store.as_ref().map(Opened::listener);
        let elsewhere = known.iter().map(|known| known.checkpoint.clone()).collect();
        let promise = receipt.as_ref().and_then(Evidence::promise);
        let before = Before { elsewhere, promise, listener };
        let (report, told) = match self.read(0, dir, key, before).await? {
            Ok(read) => read,
            Err(fault) => return no(fault),
        };
        let outcome = match (store, told) {
            (Some(store), Some(told)) => {
                let mut logs = vec![(report.clone(), told)];
                for (position, dir) in others.into_iter().enumerate() {
                    let key = self.key(position + 1, Some(&dir))?;
                    let before = Before { listener: Some(store.listener()), ..Before::default() };
                    match self.read(position + 1, dir, key, before).await? {
                        Ok((report, told)) => logs.push((report, told.unwrap_or_default())),
                        Err(fault) => return no(fault),
                    }
                }
                Some(blocking(move || store.compare(logs)).await?)
            }
            (Some(_), None) | (None, _) => None,
        };
        self.valid(report, known, (receipt.as_ref(), cosigned.as_ref()), outcome.as_ref())
    }

    /// `None` where no witness is demanded.
    fn cosigned(&self, dir: &Path, key: &VerifierKey) -> Result<Result<Option<Cosigned>, String>> {
        if !self.witnesses.is_made() {
            return Ok(Ok(None));
        }
        Ok(self.witnesses.met(dir, key, &self.checkpoint)?.map(Some))
    }

    /// The log's folder, and those of other logs of the same store.
    fn dirs(&self) -> Result<(Option<PathBuf>, Vec<PathBuf>)> {
        if self.place.dir.len() <= 1 {
            let place = Place { dir: self.place.dir.first().cloned(), data_dir: self.place.data_dir.clone() };
            if self.key.len() > 1 {
                return Err(Usage("more than one --key, and one log".to_owned()).into());
            }
            let dir = place.dir()?;
            if dir.is_none() && self.store.is_named() {
                return Err(Usage("which log? name --dir or --data-dir".to_owned()).into());
            }
            return Ok((dir, Vec::new()));
        }
        if !self.store.is_named() {
            return Err(Usage("more than one --dir is for --store".to_owned()).into());
        }
        let of_one = !self.checkpoint.is_empty() || self.save_checkpoint.is_some() || self.receipt.is_some();
        if of_one || self.witnesses.is_made() {
            return Err(
                Usage("--checkpoint, --save-checkpoint, --receipt and --witness are for one log".to_owned()).into()
            );
        }
        if !self.key.is_empty() && self.key.len() != self.place.dir.len() {
            return Err(Usage("a --key for each --dir, in the same order".to_owned()).into());
        }
        let mut dirs = self.place.dir.iter().cloned();
        Ok((dirs.next(), dirs.collect()))
    }

    fn key(&self, position: usize, dir: Option<&Path>) -> Result<VerifierKey> {
        Key { key: self.key.get(position).cloned() }.read(dir)
    }

    /// The log in `dir`: its report, and what it told whoever listened.
    async fn read(
        &self,
        position: usize,
        dir: PathBuf,
        key: VerifierKey,
        before: Before,
    ) -> Result<Result<(Report, Option<Told>), Fault>> {
        let archive = self.archive.get(position).cloned();
        blocking(move || whole(&open(&dir, archive.as_deref())?, &key, before)).await
    }

    fn known(&self, key: &VerifierKey) -> Result<Vec<Known>> {
        let read = |path: &PathBuf| {
            let note = read_small(path)?;
            let checkpoint = open_checkpoint(&note, key).with_context(|| format!("{} is of no use", path.display()))?;
            Ok(Known { checkpoint, note })
        };
        self.checkpoint.iter().map(read).collect()
    }

    fn valid(
        &self,
        report: Report,
        known: Vec<Known>,
        (receipt, cosigned): (Option<&Evidence>, Option<&Cosigned>),
        store: Option<&Outcome>,
    ) -> Result<Answer> {
        let up_to = report.checkpoint.size.max(report.seen_elsewhere.unwrap_or(0));
        let result = match report.seen_elsewhere {
            None => format!("valid up to {up_to}, freshness unknown"),
            Some(seen) => format!("valid up to {up_to}, which holds all of the {seen} of a checkpoint from elsewhere"),
        };
        let result = match &report.removed {
            None => result,
            Some(removed) => format!("{result}; {}", gone(removed)),
        };
        let wrong = store.and_then(Outcome::wrong);
        let mut record = Record::new()
            .with("valid", wrong.is_none())
            .with_some("judged", store.filter(|store| !store.is_judged()).map(|_| false))
            .with("result", wrong.as_ref().map_or(result.clone(), |wrong| format!("{wrong}; the log is {result}")))
            .with("origin", report.checkpoint.origin.clone())
            .with("entries", report.entries)
            .with("signed", report.checkpoint.size)
            .with("not_yet_signed", report.unsigned())
            .with_some("removed", report.removed.as_ref().map(|removed| removed.entries))
            .with_some("torn", report.torn.then_some(true))
            .with_some("signed_until", report.signed_until.map(millis_text))
            .with("root", STANDARD.encode(report.checkpoint.root))
            .with("tiles", report.tiles)
            .with_some("tiles_missing", Some(report.tiles_missing).filter(|missing| *missing > 0));
        if let Some(cosigned) = cosigned {
            record = cosigned.told(record, |at| millis_text(at.saturating_mul(1000)));
        }
        if let Some(receipt) = receipt {
            record = record.with("receipt_index", receipt.index()).with("receipt_kept", true);
        }
        if let Some(path) = &self.save_checkpoint {
            let own = Known { checkpoint: report.checkpoint, note: report.note };
            // the log's own where it is as new as any
            let newest = known
                .into_iter()
                .fold(own, |newest, known| if known.checkpoint.size > newest.checkpoint.size { known } else { newest });
            let file = NewFile::create(path, Replace::when(self.force || self.checkpoint.contains(path)))?;
            file.std_writer()?.write_all(&newest.note).with_context(|| format!("cannot write {}", path.display()))?;
            file.finish(0o644)?;
            record = record.with("saved", path.display().to_string());
        }
        record = record.with_some("store", store.map(Outcome::record));
        Ok(if wrong.is_none() { Answer::Record(record) } else { Answer::No(record) })
    }
}

fn open(dir: &Path, archive: Option<&Path>) -> Result<LogReader<WithArchive>> {
    let folder = |dir: &Path, what: &str| {
        LogFolder::open(dir).with_context(|| format!("cannot open the {what} in {}", dir.display()))
    };
    let archive = archive.map(|dir| folder(dir, "archive")).transpose()?;
    Ok(LogReader::over(WithArchive::new(folder(dir, "audit log")?, archive)))
}

/// The log itself, and what a receipt says of it.
fn whole(
    log: &LogReader<WithArchive>,
    key: &VerifierKey,
    before: Before,
) -> Result<Result<(Report, Option<Told>), Fault>> {
    let Before { elsewhere, promise, mut listener } = before;
    let bar = counting_bar(log.size().ok(), "entries");
    let promises = promise.into_iter().collect();
    let options = Options { elsewhere, promises, patience: PATIENCE, ..Options::default() };
    let verified = verify_each(log, key, &options, &mut |index, entry| {
        if let Some(told) = &mut listener {
            told.entry(index, &entry.record());
        }
        if index.is_multiple_of(PROGRESS_EVERY) {
            bar.set_position(index);
        }
        ControlFlow::<Infallible>::Continue(())
    });
    bar.finish_and_clear();
    let report = match verified {
        Ok(ControlFlow::Continue(report)) => report,
        Err(fault) => return Ok(Err(fault)),
    };
    if let (Some(told), Some(_)) = (&mut listener, report.removed.as_ref().filter(|removed| removed.unread > 0)) {
        told.removed();
    }
    Ok(Ok((report, listener)))
}

/// What became of entries that are gone.
fn gone(removed: &Removed) -> String {
    let Removed { entries, unread, index, time, removal } = removed;
    let (last, fate, date) = (entries - 1, removal.fate.name(), millis_text(*time));
    let told = format!("entries 0 to {last} were removed, the last of them {fate} on {date} (entry {index} says so)");
    match unread {
        0 => format!("{told}, and all of them were read in the archive"),
        unread if unread == entries => format!("{told}; their hashes stand in the tree"),
        unread => format!("{told}; of {unread} that are not in the archive the hashes stand in the tree"),
    }
}

fn no(fault: Fault) -> Result<Answer> {
    if fault.is_io() {
        return Err(fault.into());
    }
    let index = fault.index();
    Ok(not_valid(&fault.into(), index))
}

fn not_valid(why: &anyhow::Error, index: Option<u64>) -> Answer {
    let causes: Vec<String> = why.chain().map(ToString::to_string).collect();
    let record = Record::new().with("valid", false).with("result", causes.join(": "));
    Answer::No(record.with_some("index", index))
}

fn millis_text(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    // no date is that late
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    date_text(&prost_types::Timestamp { seconds: seconds.min(SECONDS_MAX), nanos })
}

/// 9999-12-31T23:59:59Z: RFC 3339 has no later year.
const SECONDS_MAX: i64 = 253_402_300_799;
const PROGRESS_EVERY: u64 = 1 << 12;
/// How long a writer may take for one entry.
const PATIENCE: Duration = Duration::from_secs(1);
