//! `strongroom audit export`.

use super::read::{PersonalKey, first, line, next_whole};
use super::{Key, Place, blocking};
use crate::cli::Usage;
use crate::cli::kms::file::counting_bar;
use crate::cli::new_file::{NewFile, Replace};
use crate::cli::new_folder::NewFolder;
use crate::cli::output::{Answer, Record};
use crate::cli::source::is_dash;
use anyhow::{Context as _, Result};
use audit::export::tlog;
use audit::read::{LogFolder, LogReader};
use clap::Args;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Copy the log out, as JSON lines or for other tools that read C2SP logs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit export --data-dir /var/lib/strongroom --jsonl audit.jsonl
  strongroom audit export --data-dir /var/lib/strongroom --jsonl - | jq .operation
  strongroom audit export --data-dir /var/lib/strongroom --key log.vkey --tlog export

--tlog writes what was signed, in the layout of C2SP tlog-tiles: checkpoint, tile/... and tile/entries/.... JSON lines are
everything, also what is not signed yet; they prove nothing. Of entries that were archived or pruned, --tlog writes the hashes.")]
pub struct Export {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    target: Target,
    /// Replace the file of --jsonl if it is there
    #[arg(long, requires = "jsonl", conflicts_with = "tlog")]
    force: bool,
    #[command(flatten)]
    personal: PersonalKey,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// New file of JSON lines; `-` writes them to standard output
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// New folder in the layout of C2SP tlog-tiles
    #[arg(long, value_name = "DIR")]
    tlog: Option<PathBuf>,
}

impl Export {
    pub async fn run(self) -> Result<Answer> {
        let log = self.place.log()?;
        match (&self.target.jsonl, &self.target.tlog) {
            (Some(path), _) if is_dash(path) => {
                blocking(move || self.lines(&log, std::io::stdout())).await?;
                Ok(Answer::printed())
            }
            (Some(path), _) => {
                let path = path.clone();
                let file = NewFile::create(&path, Replace::when(self.force))?;
                let out = file.std_writer()?;
                let entries = blocking(move || self.lines(&log, out)).await?;
                file.finish(0o600)?;
                Ok(Answer::Record(told(&path, entries)))
            }
            (None, Some(path)) => {
                let path = path.clone();
                let key = self.key.read(Some(log.source().dir()))?;
                let folder = NewFolder::create(&path)?;
                let writer = folder.writer();
                first(&log)?;
                let exported = blocking(move || {
                    let bar = counting_bar(log.size().ok(), "entries");
                    let mut write = |path: &str, bytes: &[u8]| writer.write(path, bytes);
                    let exported = tlog(&log, &key, &mut write, &mut |done| bar.set_position(done));
                    bar.finish_and_clear();
                    Ok(exported?)
                });
                let checkpoint = exported.await?;
                folder.finish()?;
                Ok(Answer::Record(told(&path, checkpoint.size)))
            }
            (None, None) => Err(Usage("where to? name --jsonl or --tlog".to_owned()).into()),
        }
    }

    fn lines(&self, log: &LogReader<LogFolder>, out: impl Write) -> Result<u64> {
        let keys = self.personal.read(log.source().dir())?;
        let mut out = BufWriter::new(out);
        let bar = counting_bar(log.size().ok(), "entries");
        let mut entries = log.iter_from(first(log)?)?;
        let mut count = 0;
        while let Some((index, entry)) = next_whole(&mut entries)? {
            match out.write_all(line(index, &entry, keys.as_ref()).as_bytes()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(count),
                outcome => outcome.context("the lines were not written")?,
            }
            count += 1;
            bar.set_position(count);
        }
        match out.flush() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(error).context("the lines were not written");
            }
            Ok(()) | Err(_) => {}
        }
        bar.finish_and_clear();
        Ok(count)
    }
}

fn told(path: &Path, entries: u64) -> Record {
    Record::new().with("out", path.display().to_string()).with("entries", entries)
}
