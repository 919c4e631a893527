//! `strongroom audit tail` and `strongroom audit search`: entries as JSON lines, each with its index.

use super::Place;
use crate::cli::output::Answer;
use crate::cli::values::date;
use crate::files;
use anyhow::{Context as _, Result};
use audit::read::{Entries, LogFolder, LogReader, PERSONAL, ReadError};
use audit::record::{AuditorSecret, Entry, PeriodKeys, Record, Sealed, SealedPeriodKey};
use audit::{Outcome, Subject};
use clap::Args;
use envelope::SecretKey;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Print the last entries
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit tail --data-dir /var/lib/strongroom -n 100
  strongroom audit tail --data-dir /var/lib/strongroom --follow | jq -c '[.index, .operation, .outcome]'

Nothing is verified: `audit verify` does that.")]
pub struct Tail {
    #[command(flatten)]
    place: Place,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value = "10")]
    lines: u64,
    /// Go on with what is added
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    personal: PersonalKey,
}

/// Print the entries to which all of this applies
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit search --data-dir /var/lib/strongroom --operation Decrypt --outcome failed --from 2027-01-31T12:00:00Z
  strongroom audit search --data-dir /var/lib/strongroom --key-id 0b9f1c2e-8d57-4a38-9f3e-5f0a6f2f7c11

Nothing is verified: `audit verify` does that.")]
pub struct Search {
    #[command(flatten)]
    place: Place,
    /// Not before this time, as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    from: Option<prost_types::Timestamp>,
    /// Before this time
    #[arg(long, value_name = "DATE", value_parser = date)]
    to: Option<prost_types::Timestamp>,
    /// Operation, as Decrypt
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Who asked: accessor, certificate's SHA-256, name, entity, `unauthenticated` or `system`
    #[arg(long, value_name = "WHO")]
    subject: Option<String>,
    /// What the path that was decided on begins with
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Key that was used, in the path or in an item
    #[arg(long, value_name = "KEY")]
    key_id: Option<String>,
    /// Request id
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// `asked`, `done`, `failed`, or the reason of a failure; an item's counts too
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    #[command(flatten)]
    personal: PersonalKey,
}

/// With what sealed names and addresses are opened.
#[derive(Debug, Args)]
pub struct PersonalKey {
    /// File (0600) with the auditor's private key, 64 hexadecimal digits: shows names and addresses that are sealed
    #[arg(long, value_name = "FILE")]
    personal_key: Option<PathBuf>,
}

impl Tail {
    pub fn run(self) -> Result<Answer> {
        let log = self.place.log()?;
        let mut keys = self.personal.read(log.source().dir())?;
        let mut gone = None;
        let mut entries = log.iter_from(log.size()?.saturating_sub(self.lines).max(log.first()?))?;
        loop {
            match next_whole(&mut entries)? {
                Some((index, entry)) => {
                    // a new period has a new key, which is there before it seals
                    let unknown = entry.sealed().map(Sealed::key_id).filter(|id| gone.as_ref() != Some(*id));
                    if let Some(id) = unknown.filter(|id| keys.as_ref().is_some_and(|keys| !keys.has(id))) {
                        keys = self.personal.read(log.source().dir())?;
                        gone = Some(*id);
                    }
                    if !print(&line(index, &entry, keys.as_ref()))? {
                        return Ok(Answer::printed());
                    }
                }
                None if self.follow => std::thread::sleep(FOLLOW_PAUSE),
                None => return Ok(Answer::printed()),
            }
        }
    }
}

impl Search {
    pub fn run(self) -> Result<Answer> {
        let log = self.place.log()?;
        let keys = self.personal.read(log.source().dir())?;
        let mut entries = log.iter_from(first(&log)?)?;
        while let Some((index, mut entry)) = next_whole(&mut entries)? {
            if let Some(keys) = &keys {
                // what does not open is searched as it is
                let _ = entry.open(keys);
            }
            if self.applies(&entry.record()) && !print(&line(index, &entry, keys.as_ref()))? {
                break;
            }
        }
        Ok(Answer::printed())
    }

    fn applies(&self, record: &Record<'_>) -> bool {
        let seconds = i64::try_from(record.time / 1000).unwrap_or(i64::MAX);
        let is = |wanted: &Option<String>, found: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(found);
        self.from.is_none_or(|from| seconds >= from.seconds)
            && self.to.is_none_or(|to| seconds < to.seconds)
            && is(&self.operation, &|wanted| record.operation.eq_ignore_ascii_case(wanted))
            && is(&self.subject, &|wanted| is_subject(record, wanted))
            && is(&self.path, &|wanted| record.path.starts_with(wanted))
            && is(&self.key_id, &|wanted| is_key(record, wanted))
            && is(&self.request_id, &|wanted| record.request_id == wanted)
            && is(&self.outcome, &|wanted| {
                let items = record.items.iter().map(|item| &item.outcome);
                items.chain([&record.outcome]).any(|outcome| is_outcome(outcome, wanted))
            })
    }
}

/// The first entry that is there. Tells on standard error that others were.
pub fn first(log: &LogReader<LogFolder>) -> Result<u64> {
    let first = log.first()?;
    if first > 0 {
        super::warn(&format!(
            "entries 0 to {} were archived or pruned, or are missing: `audit verify` tells",
            first - 1
        ));
    }
    Ok(first)
}

fn is_subject(record: &Record<'_>, wanted: &str) -> bool {
    let by_subject = match record.subject {
        Subject::Token { accessor, name } => accessor == wanted || name == wanted,
        Subject::Certificate { thumbprint, name } => thumbprint.eq_ignore_ascii_case(wanted) || name == wanted,
        Subject::Unauthenticated => wanted == "unauthenticated",
        Subject::System => wanted == "system",
    };
    by_subject || record.entity == wanted || record.certificate.eq_ignore_ascii_case(wanted)
}

fn is_key(record: &Record<'_>, wanted: &str) -> bool {
    let items = record.items.iter().filter_map(|item| item.key_id.as_deref());
    record.path.split('/').chain(items).any(|found| found == wanted)
}

fn is_outcome(outcome: &Outcome, wanted: &str) -> bool {
    match outcome {
        Outcome::Asked => wanted.eq_ignore_ascii_case("asked"),
        Outcome::Done => wanted.eq_ignore_ascii_case("done"),
        Outcome::Failed(reason) => wanted.eq_ignore_ascii_case("failed") || wanted.eq_ignore_ascii_case(reason),
    }
}

impl PersonalKey {
    /// The keys of all periods whose sealed copies are still there and open.
    pub fn read(&self, dir: &Path) -> Result<Option<PeriodKeys>> {
        let Some(path) = &self.personal_key else { return Ok(None) };
        let secret = files::read_secret(path)?;
        let key = SecretKey::try_init_with(|key| hex::decode_to_slice(secret.expose(), key));
        let auditor = AuditorSecret::from_key(
            key.map_err(|_| anyhow::anyhow!("{} holds no key: 64 hexadecimal digits are one", path.display()))?,
        );
        let mut keys = PeriodKeys::default();
        let copies = match std::fs::read_dir(dir.join(PERSONAL)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(keys)),
            copies => copies.with_context(|| format!("cannot read the periods' keys in {}", dir.display()))?,
        };
        for copy in copies {
            let copy = match super::read_small(&copy?.path()) {
                // shredded while we looked
                Err(error) if is_gone(&error) => continue,
                copy => copy?,
            };
            // sealed to another auditor
            if let Ok(key) = SealedPeriodKey::parse(&copy).and_then(|copy| auditor.open(&copy)) {
                keys.insert(key);
            }
        }
        Ok(Some(keys))
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The next entry that its writer has finished; `None` at the end, for now.
pub fn next_whole(entries: &mut Entries<'_, LogFolder>) -> Result<Option<(u64, Entry)>> {
    let mut followed = false;
    for _ in 0..ATTEMPTS {
        let place = entries.place();
        let index = match entries.read() {
            Ok(None) | Err(ReadError::Cut { .. }) => return Ok(None),
            Ok(Some((index, bytes))) => match Entry::decode(bytes) {
                Ok(entry) => return Ok(Some((index, entry))),
                Err(_) => index,
            },
            Err(error) => return Err(error).context(NOT_WHOLE),
        };
        // read after it was seen that others follow: no writer is in the middle of it
        anyhow::ensure!(!followed, "entry {index} is malformed: `audit verify` tells more");
        followed = !matches!(entries.read(), Ok(None) | Err(ReadError::Cut { .. }));
        entries.go_to(place).context(NOT_WHOLE)?;
        if !followed {
            std::thread::sleep(WHOLE_PAUSE);
        }
    }
    Ok(None)
}

/// The entry's line, and where it stands.
pub fn line(index: u64, entry: &Entry, keys: Option<&PeriodKeys>) -> String {
    let json = entry.to_json(keys);
    format!("{{\"index\":{index},{}", json.strip_prefix('{').unwrap_or(&json))
}

/// False where nobody reads any more.
fn print(line: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        outcome => Ok(outcome.map(|()| true)?),
    }
}

const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
const WHOLE_PAUSE: Duration = Duration::from_millis(10);
const NOT_WHOLE: &str = "the log is not whole: `audit verify` tells more";
const ATTEMPTS: u32 = 100;
