//! What somebody holds of one entry: the receipt that came with an answer, or the proof that was made later.

use super::{Known, Usage, no};
use crate::cli::output::{Answer, Record};
use anyhow::Result;
use audit::checkpoint::Checkpoint;
use audit::note::VerifierKey;
use audit::proof::Proof;
use audit::receipt::Receipt;
use audit::verify::{Fault, Promise};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// What the log's key signed of an entry.
pub(super) enum Evidence {
    /// Its batch, while it was made durable.
    Promised(Promise),
    /// A tree that has it.
    Proven { proof: Proof, checkpoint: Checkpoint },
}

impl Evidence {
    pub(super) fn open(bytes: &[u8], key: &VerifierKey) -> Result<Self> {
        if Proof::is_meant(bytes) {
            let proof = Proof::parse(bytes)?;
            let checkpoint = proof.verify(key, proof.leaf())?;
            return Ok(Self::Proven { proof, checkpoint });
        }
        // as it stands in the metadata: of some clients the bytes, of others their base64, padded or not, in lines or not
        let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let decoded = PERMISSIVE.decode(text).ok();
        let receipt = Receipt::parse(decoded.as_deref().unwrap_or(bytes))?;
        Ok(Self::Promised(Promise::of(&receipt, key)?))
    }

    /// The entry's number.
    pub(super) fn index(&self) -> u64 {
        match self {
            Self::Promised(promise) => promise.index(),
            Self::Proven { proof, .. } => proof.index(),
        }
    }

    /// The checkpoint that goes with it: a log that extends it has the entry.
    pub(super) fn known(&self) -> Option<Known> {
        match self {
            Self::Promised(_) => None,
            Self::Proven { proof, checkpoint } => {
                Some(Known { checkpoint: checkpoint.clone(), note: proof.checkpoint().encode().into_bytes() })
            }
        }
    }

    pub(super) fn promise(&self) -> Option<Promise> {
        match self {
            Self::Promised(promise) => Some(promise.clone()),
            Self::Proven { .. } => None,
        }
    }

    /// Without the log. A checkpoint from elsewhere can be told from a proof's where they are of one size.
    pub(super) fn alone(&self, known: &[Known]) -> Result<Answer> {
        match self {
            Self::Promised(promise) => promised(promise, known),
            Self::Proven { proof, checkpoint } => proven(proof, checkpoint, known),
        }
    }
}

fn promised(promise: &Promise, known: &[Known]) -> Result<Answer> {
    if !known.is_empty() {
        return Err(Usage("--checkpoint with such a receipt wants the log: name --dir or --data-dir".to_owned()).into());
    }
    let (batch, entries) = (promise.batch(), promise.batch().entries());
    let record = Record::new()
        .with("valid", true)
        .with("result", "the log promised this entry; --dir or --data-dir tells whether it kept it")
        .with("origin", batch.origin.clone())
        .with("receipt_index", promise.index())
        .with("leaf", STANDARD.encode(promise.leaf()))
        .with("batch", format!("{} to {}", entries.start, entries.end - 1))
        .with("root", STANDARD.encode(batch.root));
    Ok(Answer::Record(record))
}

fn proven(proof: &Proof, checkpoint: &Checkpoint, known: &[Known]) -> Result<Answer> {
    let same_size = |known: &&Known| known.checkpoint.size == checkpoint.size;
    if let Some(forked) = known.iter().filter(same_size).find(|known| known.checkpoint.root != checkpoint.root) {
        return no(Fault::Forked { size: forked.checkpoint.size, good: 0 });
    }
    if !known.iter().all(|known| same_size(&known)) {
        return Err(Usage("--checkpoint of another size wants the log: name --dir or --data-dir".to_owned()).into());
    }
    let record = Record::new()
        .with("valid", true)
        .with("result", "the log signed a tree with this entry; --dir or --data-dir tells whether it kept it")
        .with("origin", checkpoint.origin.clone())
        .with("receipt_index", proof.index())
        .with("leaf", STANDARD.encode(proof.leaf()))
        .with("signed", checkpoint.size)
        .with("root", STANDARD.encode(checkpoint.root));
    Ok(Answer::Record(record))
}

const PERMISSIVE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
