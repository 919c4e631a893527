//! An audit log of made-up files, read and verified.

use audit::checkpoint::Checkpoint;
use audit::note::VerifierKey;
use audit::proof::Proof;
use audit::read::{LogMemory, LogReader};
use audit::record::Entry;
use audit::tile::Tiles;
use audit::verify::{Fault, Options, Report, open_checkpoint, verify};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use envelope::merkle::leaf_hash;
use std::collections::BTreeMap;

/// How many entries are signed (one byte), where one is altered (two), the length of a checkpoint (two) and the checkpoint;
/// then a segment. The checkpoint is anybody's; under one that we sign, the verifier says of every byte whose it is.
pub fn audit_log(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<5>() else { return };
    let [share, at_high, at_low, length_high, length_low] = *head;
    let length = usize::from(u16::from_be_bytes([length_high, length_low])).min(rest.len());
    let (note, segment) = rest.split_at(length);
    let segments = BTreeMap::from([(0, segment.to_vec().into())]);
    let foreign = LogMemory { segments: segments.clone(), checkpoint: Some(note.to_vec()), ..LogMemory::default() };
    let (pair, key) = signer();
    // nobody but us has the key, and we signed no such note
    assert!(checked(&foreign, &key).is_err() || open_checkpoint(note, &key).is_ok());
    if let Ok(proof) = Proof::parse(note) {
        assert_eq!(proof.encode().as_bytes(), note);
    }

    let entries = read(&LogReader::over(foreign));
    let signed = entries.len() * usize::from(share) / 255;
    let log = LogMemory { segments, ..signed_log(&entries[..signed], &pair, &key) };
    let malformed = entries.iter().position(|entry| Entry::decode(entry).is_err());
    match (checked(&log, &key), malformed) {
        (Ok(report), None) => {
            assert_eq!((report.entries, report.checkpoint.size), (entries.len() as u64, signed as u64));
        }
        // the last one may be on its way
        (Ok(report), Some(index)) => {
            assert!(index >= signed && index + 1 == entries.len() && report.torn);
            assert_eq!(report.entries, index as u64);
        }
        (Err(Fault::Malformed { index, signed: was_signed, .. }), Some(expected)) => {
            assert_eq!((index, was_signed), (expected as u64, expected < signed));
        }
        (Err(fault), _) => panic!("{fault}"),
    }
    altered(log, &entries[..signed.min(malformed.unwrap_or(signed))], [at_high, at_low], &key);
}

/// One bit of what was signed is another: the verifier tells in which entry.
fn altered(mut log: LogMemory, entries: &[Vec<u8>], at: [u8; 2], key: &VerifierKey) {
    let bytes: usize = entries.iter().map(|entry| entry.len() + 2).sum();
    if bytes == 0 {
        return;
    }
    let at = usize::from(u16::from_be_bytes(at));
    let (at, bit) = (at % bytes, at % 8);
    let mut segment = log.segments.get(&0).map(|segment| segment.to_vec()).unwrap_or_default();
    segment[at] ^= 1 << bit;
    log.segments.insert(0, segment.into());
    let ends = entries.iter().scan(0, |end, entry| {
        *end += entry.len() + 2;
        Some(*end)
    });
    let index = ends.take_while(|end| *end <= at).count() as u64;
    match checked(&log, key) {
        Err(Fault::Entry { index: found, .. }) => assert_eq!(found, index),
        outcome => panic!("entry {index} was altered: {outcome:?}"),
    }
}

fn checked(log: &LogMemory, key: &VerifierKey) -> Result<Report, Fault> {
    verify(&LogReader::over(log.clone()), key, &Options::default(), &mut |_| {})
}

/// Every entry, and the same by its number.
fn read(log: &LogReader<LogMemory>) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let mut reader = log.iter_from(0).expect("memory is read");
    while let Ok(Some((index, entry))) = reader.read() {
        assert!(index == entries.len() as u64 && !entry.is_empty());
        entries.push(entry.to_vec());
    }
    assert_eq!(log.size().expect("memory is read"), entries.len() as u64);
    for index in [0, entries.len() / 2, entries.len().saturating_sub(1)] {
        let found = log.entry(index as u64).ok().flatten();
        assert_eq!(found.as_ref(), entries.get(index));
    }
    entries
}

fn signer() -> (Ed25519KeyPair, VerifierKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[0xa5; 32]).expect("32 bytes are a seed");
    let public = pair.public_key().as_ref().try_into().expect("32 bytes are a public key");
    let key = VerifierKey::ed25519("fuzz", public).expect("it is a name");
    (pair, key)
}

fn signed_log(entries: &[Vec<u8>], pair: &Ed25519KeyPair, key: &VerifierKey) -> LogMemory {
    let mut tiles = Tiles::default();
    entries.iter().for_each(|entry| tiles.push(leaf_hash(entry)));
    let checkpoint = Checkpoint { origin: key.name().into(), size: tiles.size(), root: tiles.root() };
    let signature = pair.sign(checkpoint.body().as_bytes()).as_ref().try_into().expect("64 bytes are a signature");
    let note = checkpoint.sign(key, signature).expect("it is our key");
    LogMemory {
        segments: BTreeMap::new(),
        checkpoint: Some(note.encode().into_bytes()),
        tiles: tiles.take_full().into_iter().chain(tiles.partials()).collect(),
    }
}
