//! That an entry is in the log, to be checked without it (c2sp.org/tlog-proof).
//!
//! Always: the leaf's hash goes with it (as the `extra` line), so that a proof that the log contradicts accuses the log.
//! Never: believed because it is well formed: [`Proof::verify`] says by whose signature.

use crate::checkpoint::{Checkpoint, decimal, hash};
use crate::note::{Note, NoteError, VerifierKey};
use crate::tile::{self, Derived, TileError, TileReader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::merkle::{Hash, verify_inclusion};
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("this is not a proof of the log")]
    Malformed,
    #[error("the proof's checkpoint is not to be believed")]
    Checkpoint(#[source] NoteError),
    /// The leaf is not where the proof says, under the root that was signed.
    #[error("the proof does not lead from the leaf to the signed root")]
    Rejected,
}

/// The leaf of an entry, its place and its way to a root that the log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    index: u64,
    leaf: Hash,
    path: Vec<Hash>,
    checkpoint: Note,
}

impl Proof {
    /// For leaf `index`, out of the tiles of the tree of `size` leaves whose signed checkpoint is `checkpoint`.
    pub fn prove(reader: &dyn TileReader, index: u64, size: u64, checkpoint: Note) -> Result<Self, TileError> {
        let reader = Derived(reader);
        let (leaf, path) = (tile::leaf(&reader, index, size)?, tile::inclusion_proof(&reader, index, size)?);
        Ok(Self { index, leaf, path, checkpoint })
    }

    /// "Format". Refuses what has no `extra` line with a hash: it is of somebody else's making.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        Self::read(bytes).ok_or(ProofError::Malformed)
    }

    pub fn encode(&self) -> String {
        let mut out = format!("{HEADER}\nextra {}\nindex {}\n", STANDARD.encode(self.leaf), self.index);
        for hash in &self.path {
            // a String takes what it is given
            let _ = writeln!(out, "{}", STANDARD.encode(hash));
        }
        out + "\n" + &self.checkpoint.encode()
    }

    /// Whether `bytes` are meant to be a proof: they begin as one.
    pub fn is_meant(bytes: &[u8]) -> bool {
        bytes.starts_with(HEADER.as_bytes())
    }

    pub fn index(&self) -> u64 {
        self.index
    }

    /// The hash of the entry, as the log answered it.
    pub fn leaf(&self) -> &Hash {
        &self.leaf
    }

    /// The signed checkpoint; witnesses may have signed it too.
    pub fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }

    /// That the log of `key` signed a tree with `leaf` in its place ("Verifying a tlog proof"). With [`Proof::leaf`]
    /// it says that the proof is the log's; with the hash of an entry, that the proof is that entry's.
    pub fn verify(&self, key: &VerifierKey, leaf: &Hash) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key).map_err(ProofError::Checkpoint)?;
        let included = verify_inclusion(leaf, self.index, checkpoint.size, &checkpoint.root, &self.path);
        match included {
            Ok(()) if *leaf == self.leaf => Ok(checkpoint),
            Ok(()) | Err(_) => Err(ProofError::Rejected),
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        if lines.next()? != HEADER {
            return None;
        }
        let leaf = hash(lines.next()?.strip_prefix("extra ")?)?;
        let index = decimal(lines.next()?.strip_prefix("index ")?)?;
        let path = lines.by_ref().take(PATH_MAX).map(hash).collect::<Option<_>>()?;
        let checkpoint = Note::parse(checkpoint.as_bytes()).ok()?;
        Checkpoint::parse(checkpoint.text()).ok()?;
        lines.next().is_none().then_some(Self { index, leaf, path, checkpoint })
    }
}

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree that 64 bits count is no higher.
const PATH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileId, Tiles};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use envelope::merkle::leaf_hash;

    struct Nothing;

    impl TileReader for Nothing {
        fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
            Err(TileError::Missing(TileId { level, index, width }))
        }
    }

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap()
    }

    fn key() -> VerifierKey {
        VerifierKey::ed25519("example.com/log", pair().public_key().as_ref().try_into().unwrap()).unwrap()
    }

    fn leaf(index: u64) -> Hash {
        leaf_hash(&index.to_be_bytes())
    }

    fn proof(index: u64, size: u64) -> Proof {
        let mut tiles = Tiles::default();
        (0..size).for_each(|index| tiles.push(leaf(index)));
        let checkpoint = Checkpoint { origin: key().name().into(), size, root: tiles.root() };
        let signature = pair().sign(checkpoint.body().as_bytes()).as_ref().try_into().unwrap();
        let note = checkpoint.sign(&key(), signature).unwrap();
        Proof::prove(&tiles.over(&Nothing), index, size, note).unwrap()
    }

    #[test]
    fn a_proof_is_read_as_it_was_written_and_leads_to_the_signed_root() {
        for (index, size) in [(0, 1), (0, 2), (1, 2), (6, 7), (299, 300), (256, 1000)] {
            let proof = proof(index, size);
            let text = proof.encode();
            assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{text}");
            assert!(text.contains(&format!("\nindex {index}\n")));
            let read = Proof::parse(text.as_bytes()).unwrap();
            assert_eq!(read, proof);
            let checkpoint = read.verify(&key(), &leaf(index)).unwrap();
            assert_eq!((checkpoint.size, read.index(), read.leaf()), (size, index, &leaf(index)));
            assert_eq!(read.verify(&key(), &leaf(index + 1)), Err(ProofError::Rejected), "another entry");
        }
    }

    #[test]
    fn every_altered_byte_of_a_proof_is_found() {
        let text = proof(70, 300).encode();
        let mut tried = 0;
        for at in 0..text.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= flip;
                let verified = Proof::parse(&bytes).and_then(|proof| proof.verify(&key(), &leaf(70)));
                assert!(verified.is_err(), "byte {at} with {flip}");
                tried += 1;
            }
        }
        assert!(tried > 1500, "only {tried}");
    }

    #[test]
    fn a_proof_of_another_log_or_under_another_key_accuses_nobody() {
        let other = VerifierKey::ed25519("example.com/log", [1; 32]).unwrap();
        let verified = proof(3, 9).verify(&other, &leaf(3));
        assert_eq!(verified, Err(ProofError::Checkpoint(NoteError::Unsigned)));
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        let good = proof(5, 9).encode();
        let hash_line = format!("{}\n", STANDARD.encode([0; 32]));
        for text in [
            String::new(),
            good.replace("@v1", "@v2"),
            good.replace("index 5", "index 05"),
            good.replace("index 5", "index +5"),
            good.replace("index 5", "index"),
            good.replace("extra ", "Extra "),
            good.replacen(&format!("extra {}\n", STANDARD.encode(leaf(5))), "", 1),
            good.replacen("index 5\n", "index 5\n\n", 1),
            good.replacen("index 5\n", "index 5\nAAAA\n", 1),
            good.replacen("index 5\n", &format!("index 5\n{}", hash_line.repeat(65)), 1),
            good.trim_end().into(),
            good.split_once("\n\n").unwrap().0.into(),
        ] {
            assert_eq!(Proof::parse(text.as_bytes()), Err(ProofError::Malformed), "{text}");
        }
    }
}
