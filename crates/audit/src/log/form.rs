//! What an entry is: how it is made of a draft, and how it is known again on the disk.

use super::recover::{make_folder, sync_folder};
use super::segment::create;
use crate::record::{self, AuditorPublic, Decision, Malformed, Outcome, Period, PeriodKey, Record, Subject};
use envelope::Clock;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Of the log's entries. The log itself looks into none.
pub(super) trait Form: Send + Sync + 'static {
    /// The entry of a draft; `None` where there is none.
    fn finish(&self, draft: &[u8]) -> Option<Vec<u8>>;
    /// Whether these bytes are a whole entry.
    fn is_entry(&self, bytes: &[u8]) -> bool;
    /// The draft that tells that the log could not be written, and why.
    fn hindered(&self, reason: &'static str) -> Vec<u8>;
}

/// Records, their personal fields sealed where there is an auditor.
pub(super) struct Records {
    clock: Arc<dyn Clock>,
    node: String,
    personal: Option<Personal>,
}

/// The key of the period, which changes with the calendar month.
struct Personal {
    auditor: AuditorPublic,
    folder: PathBuf,
    key: RwLock<Arc<PeriodKey>>,
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
        let Some(personal) = &self.personal else { return record::finish(draft, None).ok() };
        let key = personal.key(Period::of(self.clock.now()), None)?;
        match record::finish(draft, Some(&key)) {
            Err(Malformed::KeyUsedUp) => {
                record::finish(draft, Some(&*personal.key(key.period(), Some(key.id()))?)).ok()
            }
            finished => finished.ok(),
        }
    }

    fn is_entry(&self, bytes: &[u8]) -> bool {
        record::is_entry(bytes)
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
        let key = RwLock::new(Arc::new(fresh(&folder, &auditor, period)?));
        Ok(Self { auditor, folder, key })
    }

    /// The key of a period, but not the one that is used up.
    fn key(&self, period: Period, used_up: Option<&[u8; 16]>) -> Option<Arc<PeriodKey>> {
        let serves = |key: &PeriodKey| key.period() == period && used_up != Some(key.id());
        let found = Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner));
        if serves(&found) {
            return Some(found);
        }
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        if !serves(&key) {
            let made = fresh(&self.folder, &self.auditor, period);
            *key = Arc::new(made.inspect_err(|error| tracing::error!(%error, "a new period's key")).ok()?);
        }
        Some(Arc::clone(&key))
    }
}

/// A key, its copy for the auditor made durable before anything is sealed.
fn fresh(folder: &Path, auditor: &AuditorPublic, period: Period) -> io::Result<PeriodKey> {
    let key = PeriodKey::generate(period).map_err(io::Error::other)?;
    let sealed = key.sealed_to(auditor).map_err(io::Error::other)?;
    let mut file = create(&folder.join(format!("{period}.{}", hex::encode(key.id()))))?;
    file.write_all(&sealed.to_bytes())?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(key)
}

/// Where the keys' copies stand, in the log's folder: one a file, named by period and key. Removing a file shreds what its
/// key sealed.
const PERSONAL: &str = "personal";
