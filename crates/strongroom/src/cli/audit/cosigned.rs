//! What witnesses say of a log: `--witness` and `--quorum` of `strongroom audit verify`.

use super::{read_small, read_text};
use crate::cli::Usage;
use crate::cli::output::{Record, Value};
use anyhow::{Context as _, Result};
use audit::checkpoint::Checkpoint;
use audit::log::WITNESSED;
use audit::note::{KeyKind, Note, VerifierKey};
use audit::witness::submitting::cosigned_at;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Demand {
    /// Verifier key of a witness, or its `witness.vkey`, whose keys must all have signed: demand that it cosigned the log's
    /// `checkpoint.witnessed`, or a --checkpoint
    #[arg(long = "witness", value_name = "VKEY|FILE")]
    witnesses: Vec<String>,
    /// So many of the witnesses are enough; default: all
    #[arg(long, value_name = "N", requires = "witnesses")]
    quorum: Option<usize>,
}

/// What enough witnesses cosigned.
#[derive(Debug)]
pub struct Cosigned {
    pub checkpoint: Checkpoint,
    pub note: Vec<u8>,
    names: Vec<String>,
    /// The latest time that one of them asserts, seconds since 1970.
    at: u64,
}

impl Demand {
    pub fn is_made(&self) -> bool {
        !self.witnesses.is_empty()
    }

    /// The newest among the log's own and these that enough cosigned; or why there is none. Each is one that the log signed.
    pub fn met(&self, dir: &Path, key: &VerifierKey, others: &[PathBuf]) -> Result<Result<Cosigned, String>> {
        let witnesses = self.witnesses.iter().map(|said| keys(said)).collect::<Result<Vec<_>>>()?;
        let mut names: Vec<_> = witnesses.iter().filter_map(|keys| keys.first()).map(VerifierKey::name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Usage("a witness is named twice".to_owned()).into());
        }
        let quorum = self.quorum.unwrap_or(witnesses.len());
        if !(1..=witnesses.len()).contains(&quorum) {
            return Err(Usage(format!("--quorum is 1 to {}, the number of witnesses", witnesses.len())).into());
        }
        let (own, mut best, mut most) = (dir.join(WITNESSED), None::<Cosigned>, 0);
        for path in std::iter::once(&own).chain(others).filter(|path| path.exists()) {
            let Some(found) = cosigned(read_small(path)?, key, &witnesses) else { continue };
            most = most.max(found.names.len());
            let newer = best.as_ref().is_none_or(|best| best.checkpoint.size < found.checkpoint.size);
            if found.names.len() >= quorum && newer {
                best = Some(found);
            }
        }
        Ok(best.ok_or_else(|| {
            format!(
                "of {} witnesses {most} cosigned a checkpoint of this log, and {quorum} are demanded",
                witnesses.len()
            )
        }))
    }
}

impl Cosigned {
    pub fn told(&self, record: Record, time: impl FnOnce(u64) -> String) -> Record {
        let names = self.names.iter().map(|name| Value::Text(name.clone())).collect();
        let record = record.with("witnessed", self.checkpoint.size).with("witnesses", Value::List(names));
        record.with("witnessed_at", time(self.at))
    }
}

/// `None` where it is nothing that the log signed.
fn cosigned(bytes: Vec<u8>, key: &VerifierKey, witnesses: &[Vec<VerifierKey>]) -> Option<Cosigned> {
    let note = Note::parse(&bytes).ok()?;
    let checkpoint = Checkpoint::open(&note, key).ok()?;
    let (mut names, mut latest) = (Vec::new(), 0);
    for witness in witnesses {
        if let (Some(at), Some(first)) = (cosigned_at(&note, witness), witness.first()) {
            names.push(first.name().to_owned());
            latest = latest.max(at);
        }
    }
    Some(Cosigned { checkpoint, note: bytes, names, at: latest })
}

/// The keys of one witness.
fn keys(said: &str) -> Result<Vec<VerifierKey>> {
    let text = if VerifierKey::parse(said).is_ok() { said.to_owned() } else { read_text(Path::new(said))? };
    let keys = text.split_whitespace().map(VerifierKey::parse).collect::<Result<Vec<_>, _>>().ok();
    let of_one = |keys: &Vec<VerifierKey>| {
        let cosigns = |key: &VerifierKey| key.kind() != KeyKind::Ed25519;
        keys.first().is_some_and(|first| keys.iter().all(|key| key.name() == first.name() && cosigns(key)))
    };
    keys.filter(of_one).with_context(|| format!("{said} is, or holds, no verifier keys of one witness"))
}
