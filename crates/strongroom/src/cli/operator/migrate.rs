//! `operator migrate`: a store moved from one engine to another, offline.
//!
//! Always: all of it or nothing. The target has another name, or is one open transaction, until everything is there.
//! Always: every entry keeps its path, value and revision, and the store its own: the audit log and its anchors go on.
//! Never: a store that a server has open, or a target that holds anything.
//!
//! Claims and ids of commits stay behind: nobody claims, and no commit is under way, while no server runs.

use crate::cli::kms::file::counting_bar;
use crate::cli::output::{Answer, Record};
use crate::config::Config;
use crate::{files, store};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use storage::postgres::Options;
use storage::sqlite::Examined;
use storage::{Entry, EntryPath, Revision, StorageError, postgres, sqlite};

/// Move a store to another engine, or another database; offline, all servers of the cluster stopped
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  systemctl stop strongroom
  strongroom operator migrate --from /etc/strongroom/sqlite.toml --to /etc/strongroom/postgres.toml

Both are configurations of a server: the first as it ran until now, the second as it will. The target must be empty; the source stays
as it is. Interrupted, it leaves nothing behind and can be run again. Move the old store away afterwards, so that no server opens it.")]
pub struct Migrate {
    /// Configuration whose store is read
    #[arg(long, value_name = "CONFIG")]
    from: PathBuf,
    /// Configuration whose store is filled
    #[arg(long, value_name = "CONFIG")]
    to: PathBuf,
}

/// Where a configuration's store stands.
enum Place {
    File(PathBuf),
    /// And a folder of the server's for what is copied on the way.
    Database(Box<Options>, PathBuf),
}

type Row = Result<(EntryPath, Entry), StorageError>;

impl Migrate {
    pub(super) fn run(self) -> Result<Answer> {
        let (from, to) = (place(&self.from)?, place(&self.to)?);
        let scratch = scratch(&to)?;
        // a snapshot in a file, whichever engine it is of: it is counted before the target is touched
        let source = match &from {
            Place::File(file) => file.clone(),
            Place::Database(options, _) => {
                let copy = scratch.join("migration-in-progress.db");
                let _left_by_a_killed_one = std::fs::remove_file(&copy);
                sqlite::remove_partial(&copy);
                named(postgres::copy_out(options, &copy), &self.from)?;
                copy
            }
        };
        let moved = self.fill(&source, &to);
        if matches!(from, Place::Database(..)) {
            std::fs::remove_file(&source).with_context(|| format!("cannot remove {}", source.display()))?;
        }
        let (entries, revision) = moved?;
        Ok(Answer::Record(
            Record::new()
                .with("from", self.from.display().to_string())
                .with("to", self.to.display().to_string())
                .with("entries", entries)
                .with("revision", revision.0),
        ))
    }

    fn fill(&self, source: &Path, to: &Place) -> Result<(u64, Revision)> {
        let examined = named(Examined::open(source), &self.from)?;
        let (expected, revision) = (examined.count()?, examined.revision()?);
        ensure!(expected > 0, "{} names an empty store: there is nothing to move", self.from.display());
        let bar = counting_bar(Some(expected), "entries");
        let written = match to {
            Place::File(file) => {
                let dir = file.parent().context("a store stands in a folder")?;
                piped((examined, expected), &bar, |rows| sqlite::load(dir, revision, rows))
            }
            Place::Database(options, _) => {
                piped((examined, expected), &bar, |rows| postgres::load(options, revision, rows))
            }
        };
        bar.finish_and_clear();
        let written = match written {
            Err(StorageError::TargetExists) => {
                bail!("the store of {} holds entries already: nothing is replaced", self.to.display())
            }
            written => named(written, &self.to)?,
        };
        Ok((written, revision))
    }
}

/// Reads on a thread of its own what `write` takes: so many rows, or an error, upon which it keeps nothing.
fn piped(
    (examined, expected): (Examined, u64),
    bar: &ProgressBar,
    write: impl FnOnce(&mut dyn Iterator<Item = Row>) -> Result<u64, StorageError>,
) -> Result<u64, StorageError> {
    let (rows_to, rows) = mpsc::sync_channel::<Row>(AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let read = examined.rows(&mut |row| {
                let path = std::str::from_utf8(row.path).ok().and_then(|path| EntryPath::parse(path).ok());
                let entry = Entry { value: Bytes::copy_from_slice(row.value), revision: row.revision };
                let path = path.ok_or(StorageError::Damaged("a row is not one that was written"));
                bar.inc(1);
                // whoever wrote has failed, and says why
                let _taken = rows_to.send(path.map(|path| (path, entry)));
            });
            if let Err(error) = read {
                let _taken = rows_to.send(Err(error));
            }
        });
        write(&mut whole(expected, rows.into_iter()))
    })
}

/// The rows, and an error at their end where there are not so many: a reader that broke off is no end.
fn whole(expected: u64, mut rows: impl Iterator<Item = Row>) -> impl Iterator<Item = Row> {
    let (mut count, mut told) = (0, false);
    std::iter::from_fn(move || match rows.next() {
        Some(row) => {
            count += 1;
            Some(row)
        }
        None if count == expected || told => None,
        None => {
            told = true;
            Some(Err(StorageError::Damaged("there are not as many rows as were counted")))
        }
    })
}

fn place(file: &Path) -> Result<Place> {
    let config = Config::load(file)?;
    files::private_folder(&config.data_dir)?;
    Ok(match store::options(&config)? {
        Some(options) => Place::Database(Box::new(options), config.data_dir),
        None => Place::File(config.store_file()),
    })
}

/// A folder of the server's that is filled: nobody else writes there, and what a killed migration left is found by the next.
fn scratch(to: &Place) -> Result<PathBuf> {
    match to {
        Place::File(file) => Ok(file.parent().context("a store stands in a folder")?.to_owned()),
        Place::Database(_, data_dir) => Ok(data_dir.clone()),
    }
}

fn named<T>(outcome: Result<T, StorageError>, config: &Path) -> Result<T> {
    outcome.map_err(|error| {
        if error == StorageError::Held {
            return anyhow::anyhow!("a server has the store of {} open: stop it first", config.display());
        }
        anyhow::Error::new(error).context(format!("the store of {}", config.display()))
    })
}

/// Rows read before they are written.
const AHEAD: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_breaks_off_is_an_error_and_no_end() {
        let row =
            |_| -> Row { Ok((EntryPath::parse("t/a").unwrap(), Entry { value: Bytes::new(), revision: Revision(1) })) };
        for (counted, read) in [(3, 3), (3, 2), (3, 0), (0, 0), (0, 1)] {
            let rows: Vec<_> = whole(counted, (0..read).map(row)).collect();
            assert_eq!(
                rows.iter().filter(|row| row.is_err()).count(),
                usize::from(counted != read),
                "{counted} {read}"
            );
        }
    }
}
