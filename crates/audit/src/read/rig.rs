//! Logs for tests, as their writer leaves them, signed by a real key.

use super::LogMemory;
use crate::checkpoint::Checkpoint;
use crate::note::VerifierKey;
use crate::record::{Decision, Outcome, Record, Subject, finish};
use crate::tile::{TileId, Tiles};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::Bytes;
use envelope::Timestamp;
use envelope::merkle::{Hash, leaf_hash};
use std::collections::BTreeMap;

/// Entries of a segment, to cut slices by.
pub(crate) const SEGMENT: usize = 1 << 16;
pub(crate) const ORIGIN: &str = "strongroom.audit/00112233445566778899aabbccddeeff/1";

/// Who signs, and the public half.
pub(crate) struct Signer {
    pub(crate) pair: Ed25519KeyPair,
    pub(crate) key: VerifierKey,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = pair.public_key().as_ref().try_into().unwrap();
        Self { pair, key: VerifierKey::ed25519(ORIGIN, public).unwrap() }
    }

    pub(crate) fn checkpoint(&self, leaves: &[Vec<u8>]) -> Checkpoint {
        let mut tiles = Tiles::default();
        leaves.iter().for_each(|leaf| tiles.push(leaf_hash(leaf)));
        Checkpoint { origin: ORIGIN.into(), size: tiles.size(), root: tiles.root() }
    }

    pub(crate) fn sign(&self, checkpoint: &Checkpoint) -> Vec<u8> {
        let signature = self.pair.sign(checkpoint.body().as_bytes()).as_ref().try_into().unwrap();
        checkpoint.sign(&self.key, signature).unwrap().encode().into_bytes()
    }

    /// A log as its writer leaves it: so many signed, the rest not yet.
    pub(crate) fn log(&self, entries: &[Vec<u8>], signed: usize) -> LogMemory {
        let signed = &entries[..signed];
        LogMemory {
            segments: segments(entries),
            checkpoint: Some(self.sign(&self.checkpoint(signed))),
            tiles: tiles(signed),
        }
    }
}

pub(crate) fn entry(number: u64) -> Vec<u8> {
    let subject = Subject::Token { accessor: format!("{:032x}", number % 7), name: "root".into() };
    let (request_id, path) = (format!("{number:032x}"), format!("kms/keys/{:x}/decrypt", number % 13));
    let mut record = Record::new(Timestamp::from_unix_millis(1_000_000 + number), &request_id, "Decrypt", &subject);
    record.path = if number.is_multiple_of(3) { "" } else { &path };
    record.from = "192.0.2.1:5";
    record.decision = Decision::Allowed;
    record.outcome =
        if number.is_multiple_of(5) { Outcome::Failed("INVALID_CIPHERTEXT".into()) } else { Outcome::Done };
    finish(&record.encode(), None).unwrap()
}

pub(crate) fn entries(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(entry).collect()
}

pub(crate) fn segments(entries: &[Vec<u8>]) -> BTreeMap<u64, Bytes> {
    let mut out = BTreeMap::from([(0, Bytes::from_static(&[0; 64]))]);
    for (number, chunk) in (0..).zip(entries.chunks(SEGMENT)) {
        let mut bytes = Vec::new();
        for entry in chunk {
            bytes.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
            bytes.extend(entry);
        }
        bytes.extend([0; 64]);
        out.insert(number, bytes.into());
    }
    out
}

pub(crate) fn tiles(leaves: &[Vec<u8>]) -> BTreeMap<TileId, Vec<Hash>> {
    let mut tiles = Tiles::default();
    leaves.iter().for_each(|leaf| tiles.push(leaf_hash(leaf)));
    let full = tiles.take_full();
    full.into_iter().chain(tiles.partials()).collect()
}
