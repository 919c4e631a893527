//! A witness: cosigns checkpoints that extend what it cosigned before (c2sp.org/tlog-witness).
//!
//! Always: a log's newest checkpoint is on disk before its cosignature leaves ("add-checkpoint").
//! Never: two checkpoints of one log cosigned of which none extends the other; not across a crash either.

mod cosigner;
mod folder;
mod request;
pub mod submitting;
#[cfg(test)]
mod tests;

pub use cosigner::Cosigner;
pub use folder::OpenError;
pub use request::AddCheckpoint;

use crate::checkpoint::Checkpoint;
use crate::note::{Note, NoteError, Signature, VerifierKey};
use envelope::merkle::{Hash, empty_root, verify_consistency};
use folder::WitnessFolder;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The path that takes checkpoints; no other has a body.
pub const ADD_CHECKPOINT: &str = "/add-checkpoint";

/// Why there is no cosignature. Each is a status of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is not an add-checkpoint request")]
    Malformed,
    #[error("no trusted key of the log signed the checkpoint")]
    Untrusted,
    #[error("the log is not one of this witness")]
    UnknownLog,
    #[error("the newest cosigned checkpoint has size {size}")]
    Conflict { size: u64 },
    #[error("the checkpoint does not extend the newest cosigned one")]
    Inconsistent,
    /// What would be cosigned could not be made durable, or there is no clock.
    #[error("the witness cannot record what it would cosign")]
    Failed,
}

impl Refusal {
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Untrusted => 403,
            Self::UnknownLog => 404,
            Self::Conflict { size: _ } => 409,
            Self::Inconsistent => 422,
            Self::Failed => 500,
        }
    }
}

/// A response of the HTTP interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

/// The logs that are watched, and how far each was seen.
#[derive(Debug)]
pub struct Witness {
    cosigner: Cosigner,
    folder: WitnessFolder,
    /// By origin.
    logs: BTreeMap<String, Log>,
}

#[derive(Debug)]
struct Log {
    keys: Vec<VerifierKey>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone)]
enum Seen {
    /// Nothing was ever cosigned.
    Nothing,
    Newest {
        checkpoint: Checkpoint,
        note: Note,
    },
    /// What stands on disk is not known until a restart reads it.
    Failed,
}

impl Witness {
    /// A witness whose state stands in `dir`, for the logs of these keys; a key's name is its log's origin.
    pub fn open(dir: &Path, cosigner: Cosigner, keys: Vec<VerifierKey>) -> Result<Self, OpenError> {
        let mut by_origin: BTreeMap<String, Vec<VerifierKey>> = BTreeMap::new();
        for key in keys {
            by_origin.entry(key.name().to_owned()).or_default().push(key);
        }
        let folder = WitnessFolder::open(dir)?;
        let open = |(origin, keys): (String, Vec<VerifierKey>)| {
            let seen = match folder.read(&origin)? {
                None => Seen::Nothing,
                Some(bytes) => {
                    recorded(&bytes, &origin, &cosigner).ok_or(OpenError::Damaged { origin: origin.clone() })?
                }
            };
            Ok((origin, Log { keys, seen: Mutex::new(seen) }))
        };
        let logs = by_origin.into_iter().map(open).collect::<Result<_, OpenError>>()?;
        Ok(Self { cosigner, folder, logs })
    }

    pub fn keys(&self) -> [VerifierKey; 2] {
        self.cosigner.keys()
    }

    /// The HTTP interface below both prefixes, which are one here. Blocks for the disk. `now` is in seconds since 1970.
    pub fn answer(&self, method: &str, path: &str, body: &[u8], now: u64) -> Answer {
        let text = |status, body: String| Answer { status, content_type: "text/plain; charset=utf-8", body };
        match (method, path) {
            ("POST", ADD_CHECKPOINT) => match self.add_checkpoint(body, now) {
                Ok(lines) => text(200, lines.iter().map(Signature::to_string).collect()),
                // "The response body MUST consist of the tree size of the latest cosigned checkpoint"
                Err(refusal @ Refusal::Conflict { size }) => {
                    Answer { status: refusal.status(), content_type: "text/x.tlog.size", body: format!("{size}\n") }
                }
                Err(refusal) => text(refusal.status(), format!("{refusal}\n")),
            },
            ("GET", path) => match self.newest(path) {
                Some(checkpoint) => text(200, checkpoint),
                None => text(404, "no such checkpoint\n".into()),
            },
            (_, ADD_CHECKPOINT) => text(405, "POST only\n".into()),
            _ => text(404, "no such resource\n".into()),
        }
    }

    /// "add-checkpoint": this witness's lines for the checkpoint, when they may leave.
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Result<[Signature; 2], Refusal> {
        let request = AddCheckpoint::parse(body).ok_or(Refusal::Malformed)?;
        let checkpoint = Checkpoint::parse(request.checkpoint.text()).map_err(|_| Refusal::Malformed)?;
        let log = self.logs.get(&checkpoint.origin).ok_or(Refusal::UnknownLog)?;
        let trusted = trusted_lines(&request.checkpoint, &log.keys)?;
        // held until the record is durable: another request must not be judged by what this one replaces ("add-checkpoint")
        let mut seen = log.seen.lock().unwrap_or_else(PoisonError::into_inner);
        decide(seen.head()?, &request, &checkpoint)?;
        let lines = self.cosigner.cosign(request.checkpoint.text(), now).ok_or(Refusal::Failed)?;
        let note = Note::new(request.checkpoint.text().into(), [trusted, lines.to_vec()].concat());
        let note = note.map_err(|_| Refusal::Malformed)?;
        let failed = |error: std::io::Error| {
            tracing::error!(%error, origin = checkpoint.origin, "a witness's state cannot be written");
            Refusal::Failed
        };
        let staged = self.folder.stage(&checkpoint.origin, note.encode().as_bytes()).map_err(failed)?;
        // from here on, what a crash leaves is known only when this has gone well
        *seen = Seen::Failed;
        staged.commit().map_err(failed)?;
        *seen = Seen::Newest { checkpoint, note };
        Ok(lines)
    }

    /// "Monitor Retrieval Mechanism": `/<origin hash>/checkpoint`.
    fn newest(&self, path: &str) -> Option<String> {
        let hash = path.strip_prefix('/')?.strip_suffix("/checkpoint")?;
        let (_, log) = self.logs.iter().find(|(origin, _)| folder::origin_hash(origin) == hash)?;
        match &*log.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            Seen::Newest { checkpoint: _, note } => Some(note.encode()),
            Seen::Nothing | Seen::Failed => None,
        }
    }
}

impl Seen {
    /// Size and root that the next checkpoint has to extend.
    fn head(&self) -> Result<(u64, Hash), Refusal> {
        match self {
            Self::Nothing => Ok((0, empty_root())),
            Self::Newest { checkpoint, note: _ } => Ok((checkpoint.size, checkpoint.root)),
            Self::Failed => Err(Refusal::Failed),
        }
    }
}

/// Whether a checkpoint that the log signed may be cosigned, in the specification's order. Pure.
fn decide((size, root): (u64, Hash), request: &AddCheckpoint, checkpoint: &Checkpoint) -> Result<(), Refusal> {
    if request.old > checkpoint.size {
        return Err(Refusal::Malformed);
    }
    if request.old != size {
        return Err(Refusal::Conflict { size });
    }
    // covers an empty tree's root, an empty proof from size 0, and equal roots at equal sizes
    let extends = verify_consistency(size, &root, checkpoint.size, &checkpoint.root, &request.proof);
    extends.map_err(|_| Refusal::Inconsistent)
}

/// The lines of the log's trusted keys: at least one, and each verified.
fn trusted_lines(note: &Note, keys: &[VerifierKey]) -> Result<Vec<Signature>, Refusal> {
    for key in keys {
        match note.verify(key) {
            Ok(()) | Err(NoteError::Unsigned) => {}
            Err(NoteError::Rejected | NoteError::Malformed) => return Err(Refusal::Untrusted),
        }
    }
    let of_ours = |line: &&Signature| keys.iter().any(|key| line.is_of(key));
    let lines: Vec<Signature> = note.signatures().iter().filter(of_ours).cloned().collect();
    if lines.is_empty() { Err(Refusal::Untrusted) } else { Ok(lines) }
}

/// What stands on disk, if this witness itself wrote it.
fn recorded(bytes: &[u8], origin: &str, cosigner: &Cosigner) -> Option<Seen> {
    let note = Note::parse(bytes).ok()?;
    for key in cosigner.keys() {
        note.verify(&key).ok()?;
    }
    let checkpoint = Checkpoint::parse(note.text()).ok()?;
    (checkpoint.origin == origin).then_some(Seen::Newest { checkpoint, note })
}

/// The log's side: the lines of known witnesses in a response to `add-checkpoint`, each verified over `checkpoint`.
/// Lines of others are ignored; a line of a known one that does not verify spoils the response.
pub fn cosignatures(checkpoint: &Note, response: &str, witnesses: &[VerifierKey]) -> Result<Vec<Signature>, NoteError> {
    // "the client MAY concatenate it to the checkpoint"
    let note = Note::parse(format!("{}{response}", checkpoint.encode()).as_bytes())?;
    let of_witness = |line: &Signature| witnesses.iter().find(|key| line.is_of(key));
    let mut found = Vec::new();
    for line in note.signatures().iter().skip(checkpoint.signatures().len()) {
        if let Some(key) = of_witness(line) {
            Note::new(checkpoint.text().into(), vec![line.clone()])?.cosigned_at(key)?;
            found.push(line.clone());
        }
    }
    Ok(found)
}
