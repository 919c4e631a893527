//! `strongroom audit archive` and `strongroom audit prune`: asked of the running server, which records it first.

use crate::cli::output::{Answer, Record};
use crate::cli::values::date;
use crate::retention::{self, Ask, AskedBefore, Done};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Move old entries out of the log into a folder, provably
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit archive --data-dir /var/lib/strongroom --before 2027-01-01T00:00:00Z --to /archive/strongroom
  strongroom audit verify --data-dir /var/lib/strongroom --key log.vkey --archive /archive/strongroom

Whole segments of 65,536 entries alone, that are closed and under a signed checkpoint. The running server copies them, verifies the
copy against the signed tree, records what it does in the log, waits for the boundary's signature, and only then removes them.
Their hashes stay: every proof goes on holding. Keys of personal fields are not copied: removing a month's key from the log's folder
shreds them in the archive too.")]
pub struct Archive {
    #[command(flatten)]
    asked: Asked,
    /// Folder, on the server's machine, that the server may write to; of one log alone
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Remove old entries from the log for good, provably
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom audit prune --data-dir /var/lib/strongroom --before 1000000

As `audit archive`, without a copy: what the entries said is gone, and their hashes stay in the tree.")]
pub struct Prune {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct Asked {
    /// `data_dir` of the server's configuration, or of `strongroom dev`
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Entries before this one, or from before this time, as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "ENTRY|DATE", value_parser = before)]
    before: AskedBefore,
    /// Where no server runs, leave it to the next start
    #[arg(long)]
    at_start: bool,
}

impl Archive {
    pub fn run(self) -> Result<Answer> {
        let to = std::path::absolute(&self.to).with_context(|| format!("{} is no path", self.to.display()))?;
        self.asked.run(Some(to))
    }
}

impl Prune {
    pub fn run(self) -> Result<Answer> {
        self.asked.run(None)
    }
}

impl Asked {
    fn run(self, to: Option<PathBuf>) -> Result<Answer> {
        let data_dir = server_folder(&self.data_dir)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let ask = Ask { id: hex::encode(id), to, before: self.before };
        retention::ask(&data_dir, &ask)?;
        let began = Instant::now();
        while !retention::is_taken(&data_dir) {
            if began.elapsed() > TAKEN_WAIT {
                if self.at_start {
                    return Ok(Answer::Record(Record::new().with("left_to_next_start", true)));
                }
                if retention::withdraw(&data_dir) {
                    bail!(
                        "no server took it, and nothing was removed: the record of a removal wants the boundary's signature. Start \
                         the server, or leave it to its next start with --at-start"
                    );
                }
            }
            std::thread::sleep(PAUSE);
        }
        let done = loop {
            match retention::answer(&data_dir, &ask.id) {
                Some(done) => break done,
                None => std::thread::sleep(PAUSE),
            }
        };
        told(done)
    }
}

fn told(done: Done) -> Result<Answer> {
    let Done { id: _, entries, first, index, error } = done;
    let record = Record::new().with("entries", entries).with("first", first).with_some("recorded", index);
    match error {
        None => Ok(Answer::Record(record)),
        Some(error) if entries == 0 => bail!("{error}"),
        Some(error) => Ok(Answer::No(record.with("failed", error))),
    }
}

fn server_folder(data_dir: &Path) -> Result<PathBuf> {
    let below = [data_dir.to_owned(), data_dir.join("server")];
    let found = below.into_iter().find(|dir| dir.join("store.db").exists());
    let found = found.with_context(|| format!("{} is no server's data folder", data_dir.display()))?;
    ensure!(found.is_dir(), "{} is no folder", found.display());
    Ok(found)
}

fn before(raw: &str) -> Result<AskedBefore, String> {
    if let Ok(index) = raw.parse() {
        return Ok(AskedBefore::Entry(index));
    }
    let at = date(raw).map_err(|_| "expected an entry's number, or a date such as 2027-01-31T12:00:00Z".to_owned())?;
    let seconds = u64::try_from(at.seconds).map_err(|_| "expected a date after 1970".to_owned())?;
    Ok(AskedBefore::Time(seconds.saturating_mul(1000)))
}

/// The server looks once a second; one that is starting, or doing what was asked before, needs longer.
const TAKEN_WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
