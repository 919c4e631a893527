//! The body of `add-checkpoint` (c2sp.org/tlog-witness).

use crate::checkpoint::{decimal, hash};
use crate::note::Note;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::merkle::Hash;
use std::fmt::Write;

/// A checkpoint, and that it extends the tree of `old` leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    pub old: u64,
    pub proof: Vec<Hash>,
    pub checkpoint: Note,
}

impl AddCheckpoint {
    /// An old size line, up to 63 proof lines, an empty line, a checkpoint.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old = decimal(lines.next()?.strip_prefix("old ")?)?;
        let proof: Vec<Hash> = lines.take(PROOF_MAX + 1).map(hash).collect::<Option<_>>()?;
        let checkpoint = Note::parse(checkpoint.as_bytes()).ok()?;
        (proof.len() <= PROOF_MAX).then_some(Self { old, proof, checkpoint })
    }

    pub fn encode(&self) -> String {
        let mut out = format!("old {}\n", self.old);
        for hash in &self.proof {
            // a String takes what it is given
            let _ = writeln!(out, "{}", STANDARD.encode(hash));
        }
        out + "\n" + &self.checkpoint.encode()
    }
}

/// "The client MUST NOT send more than 63 consistency proof lines."
const PROOF_MAX: usize = 63;
