//! What an entry is: how it is made of a draft, and how it is known again on the disk.

use super::recover::make_folder;
use super::segment::{Hindrance, create, synced};
use crate::record::{self, AuditorPublic, Decision, Outcome, Period, PeriodKey, Record, Subject};
use crate::retention::Removal;
use envelope::Clock;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Of the log's entries. The log itself looks into none.
pub(super) trait Form: Send + Sync + 'static {
    /// The entry of a draft; `None` where there is none.
    fn finish(&self, draft: &[u8]) -> Option<Vec<u8>>;
    /// Whether these bytes are a whole entry.
    fn is_entry(&self, bytes: &[u8]) -> bool;
    /// Before which entry this one tells that all were removed; `None` where it tells of no removal.
    fn removed(&self, entry: &[u8]) -> Option<u64>;
    /// The draft that tells that the log could not be written, and why.
    fn hindered(&self, reason: &'static str) -> Vec<u8>;
    /// From the writer, which may wait for the disk: what [`Form::finish`] needs from now on. What may pass is told and tried
    /// again when this is called again; until then what there was serves.
    fn renew(&self) -> Result<(), Hindrance>;
}

/// Records, their personal fields sealed where there is an auditor.
pub(super) struct Records {
    clock: Arc<dyn Clock>,
    node: String,
    personal: Option<Personal>,
}

/// The key of the period. The writer changes it with the calendar month: what is accepted before it has seals under the old
/// one, and nobody who appends waits for a disk.
struct Personal {
    auditor: AuditorPublic,
    folder: PathBuf,
    key: RwLock<Arc<PeriodKey>>,
    /// After a key that could not be made, not before.
    renew_at: Mutex<Instant>,
}

impl Records {
    /// Over a log's folder.
    pub(super) fn new(
        dir: &Path,
        clock: Arc<dyn Clock>,
        node: String,
        auditor: Option<AuditorPublic>,
    ) -> io::Result<Self> {
        let period = Period::of(clock.now());
        let personal = auditor.map(|auditor| Personal::new(dir.join(PERSONAL), auditor, period)).transpose()?;
        Ok(Self { clock, node, personal })
    }
}

impl Form for Records {
    fn finish(&self, draft: &[u8]) -> Option<Vec<u8>> {
        let key = self.personal.as_ref().map(Personal::key);
        record::finish(draft, key.as_deref()).ok()
    }

    fn renew(&self) -> Result<(), Hindrance> {
        let Some(personal) = &self.personal else { return Ok(()) };
        personal.renew(Period::of(self.clock.now()), Instant::now())
    }

    fn is_entry(&self, bytes: &[u8]) -> bool {
        record::is_entry(bytes)
    }

    fn removed(&self, entry: &[u8]) -> Option<u64> {
        Removal::of_entry(entry).map(|removal| removal.end)
    }

    fn hindered(&self, reason: &'static str) -> Vec<u8> {
        let mut record = Record::new(self.clock.now(), "", "AuditLog", &Subject::System);
        record.decision = Decision::Allowed;
        record.outcome = Outcome::Failed(reason.into());
        record.node = &self.node;
        record.encode().into()
    }
}

impl Personal {
    fn new(folder: PathBuf, auditor: AuditorPublic, period: Period) -> io::Result<Self> {
        make_folder(&folder)?;
        let (key, copy) = fresh(&folder, &auditor, period)?;
        copy.sync()?;
        Ok(Self { auditor, folder, key: RwLock::new(Arc::new(key)), renew_at: Mutex::new(Instant::now()) })
    }

    fn key(&self) -> Arc<PeriodKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn renew(&self, period: Period, now: Instant) -> Result<(), Hindrance> {
        let mut renew_at = self.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        if self.key().period() == period || now < *renew_at {
            return Ok(());
        }
        let (key, copy) = match fresh(&self.folder, &self.auditor, period) {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, %period, "there is no key for a new month: the old one seals personal fields");
                *renew_at = now + RENEW_EVERY;
                return Ok(());
            }
        };
        synced(copy.sync())?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        Ok(())
    }
}

/// A key's copy for the auditor, which must be durable before the key seals.
struct Copied {
    file: File,
    folder: File,
}

impl Copied {
    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        self.folder.sync_all()
    }
}

fn fresh(path: &Path, auditor: &AuditorPublic, period: Period) -> io::Result<(PeriodKey, Copied)> {
    let key = PeriodKey::generate(period).map_err(io::Error::other)?;
    let sealed = key.sealed_to(auditor).map_err(io::Error::other)?;
    let folder = File::open(path)?;
    let path = path.join(format!("{period}.{}", hex::encode(key.id())));
    let mut file = create(&path)?;
    if let Err(error) = file.write_all(&sealed.to_bytes()) {
        // of a key that seals nothing; where it stays, it opens nothing
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok((key, Copied { file, folder }))
}

/// Where the keys' copies stand, in the log's folder: one a file, named by period and key. Removing a file shreds what its
/// key sealed.
const PERSONAL: &str = "personal";
const RENEW_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AuditorSecret, Entry};
    use envelope::{ManualClock, Timestamp};

    #[test]
    fn the_key_changes_with_the_month_when_the_writer_says_so_and_serves_on_where_none_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (november, december) = (Timestamp::from_unix_millis(1_793_491_200_000), 1_796_083_200_000);
        let clock = ManualClock::at(november);
        let auditor = AuditorSecret::generate().unwrap().public().unwrap();
        let form = Records::new(dir.path(), Arc::new(clock.clone()), "1".into(), Some(auditor)).unwrap();
        let copies = || {
            let names = fs::read_dir(dir.path().join(PERSONAL)).unwrap().map(|found| found.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()[..7].to_owned()).collect();
            names.sort();
            names
        };
        let mut record = Record::new(november, "", "Read", &Subject::System);
        record.from = "192.0.2.1";
        let draft = record.encode();
        let seals = || Entry::decode(&form.finish(&draft).unwrap()).unwrap();
        let period = || form.personal.as_ref().unwrap().key().period().to_string();
        seals();
        form.renew().unwrap();
        assert_eq!((copies(), period()), (vec!["2026-11".to_owned()], "2026-11".into()));

        clock.set(Timestamp::from_unix_millis(december));
        let away = dir.path().join("away");
        fs::rename(dir.path().join(PERSONAL), &away).unwrap();
        form.renew().unwrap();
        seals();
        fs::rename(&away, dir.path().join(PERSONAL)).unwrap();
        // no copy is made by who appends
        seals();
        assert_eq!((copies(), period()), (vec!["2026-11".to_owned()], "2026-11".into()));
        let personal = form.personal.as_ref().unwrap();
        for _ in 0..3 {
            personal.renew(Period::of(clock.now()), Instant::now() + RENEW_EVERY).unwrap();
            seals();
        }
        assert_eq!((copies(), period()), (vec!["2026-11".to_owned(), "2026-12".into()], "2026-12".into()));
    }
}
