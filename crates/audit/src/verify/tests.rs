use super::*;
use crate::read::rig::{ORIGIN, SEGMENT, Signer, entries, entry, segments, tiles};
use crate::read::{LogMemory, SEGMENT_ENTRIES};
use crate::receipt::{Batch, Receipt, ReceiptError, SignedBatch};
use aws_lc_rs::signature::KeyPair as _;
use envelope::merkle::Layers;

mod mutations;

impl Signer {
    fn verify(&self, log: LogMemory) -> Result<Report, Fault> {
        self.verify_with(log, vec![])
    }

    fn verify_with(&self, log: LogMemory, elsewhere: Vec<Checkpoint>) -> Result<Report, Fault> {
        let options = Options { elsewhere, ..Options::default() };
        verify(&LogReader::over(log), &self.key, &options, &mut |_| {})
    }
}

#[test]
fn an_untouched_log_is_valid_up_to_its_checkpoint() {
    let signer = Signer::new();
    let entries = entries(700);
    for (there, signed) in [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 1),
        (255, 255),
        (256, 256),
        (257, 257),
        (512, 511),
        (700, 1),
        (700, 600),
        (700, 700),
    ] {
        let report = signer.verify(signer.log(&entries[..there], signed)).unwrap();
        assert_eq!(report.checkpoint, signer.checkpoint(&entries[..signed]));
        assert_eq!(open_checkpoint(&report.note, &signer.key).unwrap(), report.checkpoint);
        assert_eq!((report.entries, report.unsigned()), (there as u64, (there - signed) as u64));
        assert_eq!((report.torn, report.tiles_missing, report.seen_elsewhere), (false, 0, None));
        assert_eq!(report.tiles, tiles(&entries[..signed]).len() as u64);
        assert_eq!(report.signed_until, signed.checked_sub(1).map(|last| 1_000_000 + last as u64));
    }
}

#[test]
fn a_log_of_more_than_a_segment_is_verified_and_told_how_far() {
    let signer = Signer::new();
    let entries = entries(SEGMENT_ENTRIES + 300);
    let log = LogReader::over(signer.log(&entries, entries.len() - 10));
    let mut told = Vec::new();
    let report = verify(&log, &signer.key, &Options::default(), &mut |done| told.push(done)).unwrap();
    assert_eq!((report.entries, report.unsigned()), (SEGMENT_ENTRIES + 300, 10));
    assert_eq!(report.tiles, 257 + 1 + 1 + 1 + 1, "full and partial ones of three levels");
    assert_eq!(told, (1..=16).map(|n| n * 4096).collect::<Vec<_>>());

    let altered = |alter: &dyn Fn(&mut LogMemory)| {
        let mut files = signer.log(&entries, entries.len());
        alter(&mut files);
        signer.verify(files).unwrap_err()
    };
    let fault = altered(&|files| drop(files.segments.remove(&0)));
    assert!(matches!(fault, Fault::Entry { index: 0, .. }), "{fault}");
    let fault = altered(&|files| drop(files.segments.remove(&1)));
    let missing = Change::Missing { entries: 300 };
    assert!(matches!(fault, Fault::Entry { index: SEGMENT_ENTRIES, change } if change == missing), "{fault}");
    // one more in the first segment, behind all others
    let fault = altered(&|files| {
        let mut first = entries[..SEGMENT].to_vec();
        first.push(entry(0));
        let mut bytes = Vec::new();
        for entry in &first {
            bytes.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
            bytes.extend(entry);
        }
        files.segments.insert(0, bytes.into());
    });
    assert_eq!(fault.index(), Some(SEGMENT_ENTRIES), "{fault}");
    // one less there, while the second goes on
    let fault = altered(&|files| {
        let mut first = entries[..SEGMENT].to_vec();
        first.remove(40_000);
        files.segments.insert(0, segments(&first).remove(&0).unwrap());
    });
    assert!(matches!(fault, Fault::Entry { index: 40_000, change: Change::Missing { entries: 1 } }), "{fault}");
}

#[test]
fn without_a_checkpoint_or_under_another_key_nothing_is_valid() {
    let signer = Signer::new();
    let entries = entries(5);
    let mut log = signer.log(&entries, 5);
    let other = VerifierKey::ed25519(ORIGIN, [9; 32]).unwrap();
    let elsewhere = VerifierKey::ed25519("another", signer.pair.public_key().as_ref().try_into().unwrap()).unwrap();
    for key in [other, elsewhere] {
        let fault = verify(&LogReader::over(log.clone()), &key, &Options::default(), &mut |_| {}).unwrap_err();
        assert!(matches!(fault, Fault::Checkpoint(NoteError::Unsigned)), "{fault}");
    }
    log.checkpoint = None;
    assert!(matches!(signer.verify(log), Err(Fault::NoCheckpoint { entries: 5 })));
}

#[test]
fn an_entry_that_its_writer_has_not_finished_is_told_and_no_fault() {
    let signer = Signer::new();
    let entries = entries(20);
    let torn = |bytes: Vec<u8>| {
        let mut log = signer.log(&entries, 15);
        log.segments.insert(0, bytes.into());
        signer.verify(log)
    };
    let whole: Vec<u8> = segments(&entries)[&0].to_vec();
    let end = whole.len() - 64;
    for lost in 1..entries[19].len() {
        // cut off, and zeros where the rest would be
        for zeros in [0, lost, lost + 1, lost + 100] {
            let mut bytes = whole[..end - lost].to_vec();
            bytes.extend(vec![0; zeros]);
            let report = torn(bytes).unwrap();
            assert_eq!((report.entries, report.unsigned(), report.torn), (19, 4, true), "{lost} {zeros}");
        }
    }
    // what is altered behind the checkpoint, and not at the end, is no writer's doing
    let mut bytes = whole;
    let at = entries[..17].iter().map(|entry| entry.len() + 2).sum::<usize>() + 10;
    bytes[at] ^= 1;
    let fault = torn(bytes).unwrap_err();
    assert!(matches!(fault, Fault::Malformed { index: 17, signed: false, .. }), "{fault}");
}

#[test]
fn a_checkpoint_from_elsewhere_finds_what_the_logs_own_cannot() {
    let signer = Signer::new();
    let history = entries(600);
    let mut other = history.clone();
    other[300] = entry(9999);
    let of = |entries: &[Vec<u8>], size: usize| signer.checkpoint(&entries[..size]);
    // older, the same, newer where the entries are there
    for size in [0, 1, 256, 300, 500, 550, 599, 600] {
        let report = signer.verify_with(signer.log(&history, 550), vec![of(&history, size)]).unwrap();
        assert_eq!(report.seen_elsewhere, Some(size as u64));
    }
    let all = [1, 300, 600].map(|size| of(&history, size)).to_vec();
    assert_eq!(signer.verify_with(signer.log(&history, 550), all).unwrap().seen_elsewhere, Some(600));
    // an old copy
    for (there, signed, seen) in [(300, 300, 301), (300, 250, 600), (0, 0, 1)] {
        let fault = signer.verify_with(signer.log(&history[..there], signed), vec![of(&history, seen)]).unwrap_err();
        let (entries, seen) = (there as u64, seen as u64);
        assert!(matches!(fault, Fault::SetBack { entries: e, seen: s } if (e, s) == (entries, seen)), "{fault}");
        assert_eq!(fault.index(), Some(entries));
    }
    // another history under the same key: its own checkpoint is in order
    signer.verify(signer.log(&other, 600)).unwrap();
    for size in [301, 400, 600] {
        let known = vec![of(&history, 200), of(&history, size)];
        let fault = signer.verify_with(signer.log(&other, 500), known).unwrap_err();
        assert!(matches!(fault, Fault::Forked { size: s, good: 200 } if s == size as u64), "{fault}");
    }
    signer.verify_with(signer.log(&other, 600), vec![of(&history, 300)]).unwrap();
    // not of this log's key at all
    let stranger = VerifierKey::ed25519(ORIGIN, [9; 32]).unwrap();
    let note = signer.sign(&of(&history, 600));
    assert!(open_checkpoint(&note, &signer.key).is_ok());
    assert!(matches!(open_checkpoint(&note, &stranger), Err(Fault::Checkpoint(NoteError::Unsigned))));
}

/// The receipt of entry `index`, which became durable with those of `batch`.
fn receipt(signer: &Signer, entries: &[Vec<u8>], batch: std::ops::Range<usize>, index: usize) -> Receipt {
    let (first, count) = (batch.start as u64, u32::try_from(batch.len()).unwrap());
    let tree = Layers::over(entries[batch.clone()].iter().map(|entry| leaf_hash(entry)).collect());
    let signed = Batch { origin: ORIGIN.into(), first, count, root: tree.root() };
    let signature = signer.pair.sign(signed.body().as_bytes()).as_ref().try_into().unwrap();
    SignedBatch::of(&signed, &tree, &signer.key, signature).receipt(index - batch.start).unwrap()
}

#[test]
fn a_receipt_finds_what_no_checkpoint_was_signed_for() {
    let signer = Signer::new();
    let history = entries(600);
    let judged = |log: LogMemory, receipt: &Receipt| {
        let promises = vec![Promise::of(receipt, &signer.key).unwrap()];
        verify(&LogReader::over(log), &signer.key, &Options { promises, ..Options::default() }, &mut |_| {})
    };
    // signed, not yet signed, across both, of one entry, and of the whole log
    for (batch, index) in [(10..50, 33), (560..600, 599), (540..560, 555), (7..8, 7), (0..600, 0)] {
        let receipt = receipt(&signer, &history, batch.clone(), index);
        judged(signer.log(&history, 550), &receipt).unwrap();
        // set back behind it, and amid its batch
        for there in [0, batch.start, batch.end - 1] {
            let fault = judged(signer.log(&history[..there], there / 2), &receipt).unwrap_err();
            let is_expected = matches!(&fault, Fault::Lost { entries, index: i, seen }
                if (*entries, *i, *seen) == (there as u64, index as u64, batch.end as u64));
            assert!(is_expected, "{fault}");
            assert_eq!(fault.index(), Some(there as u64));
        }
        // another history, whose own checkpoint is in order
        let mut other = history.clone();
        other[index] = entry(9999);
        let fault = judged(signer.log(&other, 600), &receipt).unwrap_err();
        assert!(matches!(fault, Fault::Broken { index: i } if i == index as u64), "{fault}");
        // the entry is there; one beside it is not
        for beside in [batch.start, batch.end - 1].into_iter().filter(|beside| *beside != index) {
            let mut other = history.clone();
            other[beside] = entry(9999);
            let fault = judged(signer.log(&other, 600), &receipt).unwrap_err();
            let expected = (batch.start as u64, batch.end as u64 - 1);
            assert!(matches!(fault, Fault::BrokenAmong { first, last } if (first, last) == expected), "{fault}");
        }
        // of what stands elsewhere it says nothing
        for elsewhere in [batch.start.wrapping_sub(1), batch.end].into_iter().filter(|at| *at < 600) {
            let mut other = history.clone();
            other[elsewhere] = entry(9999);
            judged(signer.log(&other, 600), &receipt).unwrap();
        }
    }
    let stranger = VerifierKey::ed25519(ORIGIN, [9; 32]).unwrap();
    let nobodys = Promise::of(&receipt(&signer, &history, 1..3, 2), &stranger);
    assert_eq!(nobodys, Err(ReceiptError::Foreign));
}

#[test]
fn tiles_that_are_missing_are_counted_and_no_fault() {
    let signer = Signer::new();
    let entries = entries(600);
    let mut log = signer.log(&entries, 600);
    for id in log.tiles.keys().copied().collect::<Vec<_>>() {
        log.tiles.remove(&id);
    }
    let report = signer.verify(log).unwrap();
    assert_eq!((report.tiles, report.tiles_missing), (0, 4));
}

#[test]
fn a_partial_tile_of_an_earlier_checkpoint_is_compared_too() {
    let signer = Signer::new();
    let entries = entries(600);
    let mut log = signer.log(&entries, 600);
    let old = |signed: usize| tiles(&entries[..signed]).into_iter().filter(|(id, _)| id.width < 256);
    log.tiles.extend(old(300).chain(old(550)));
    assert_eq!(signer.verify(log.clone()).unwrap().tiles, 4 + 3);
    for id in [TileId { level: 0, index: 1, width: 44 }, TileId { level: 0, index: 2, width: 38 }] {
        let mut log = log.clone();
        log.tiles.get_mut(&id).unwrap()[20][3] ^= 4;
        let fault = signer.verify(log).unwrap_err();
        assert!(matches!(fault, Fault::Tile { tile, position: 20 } if tile == id), "{fault}");
    }
}

/// Who rewrites entries has to rewrite tiles too, and cannot sign the root.
#[test]
fn tiles_that_were_rewritten_with_the_entries_tell_as_much_as_is_left_of_them() {
    let signer = Signer::new();
    let honest = entries(3000);
    let mut forged = honest.clone();
    forged[1000] = entry(9999);
    let rewritten = |levels: &[u8]| {
        let mut log = signer.log(&honest, 3000);
        log.segments = segments(&forged);
        log.tiles.extend(tiles(&forged).into_iter().filter(|(id, _)| levels.contains(&id.level)));
        log
    };
    let fault = signer.verify(rewritten(&[])).unwrap_err();
    assert!(matches!(fault, Fault::Entry { index: 1000, change: Change::Altered }), "{fault}");
    // level 1 still leads to the root
    let fault = signer.verify(rewritten(&[0])).unwrap_err();
    assert!(matches!(fault, Fault::Among { first: 768, last: 1023 }), "{fault}");
    assert_eq!(fault.index(), Some(768));
    let fault = signer.verify(rewritten(&[0, 1])).unwrap_err();
    assert!(matches!(fault, Fault::Root { signed: 3000, good: 0, tile: None }), "{fault}");
    let known = vec![signer.checkpoint(&honest[..900])];
    let fault = signer.verify_with(rewritten(&[0, 1]), known).unwrap_err();
    assert!(matches!(fault, Fault::Root { signed: 3000, good: 900, tile: None }), "{fault}");
    // neither leads there, and they differ
    let mut log = rewritten(&[]);
    log.tiles.get_mut(&TileId { level: 0, index: 8, width: 256 }).unwrap()[0][0] ^= 1;
    log.tiles.get_mut(&TileId { level: 1, index: 0, width: 11 }).unwrap()[0][0] ^= 1;
    let fault = signer.verify(log).unwrap_err();
    let first = TileId { level: 0, index: 3, width: 256 };
    assert!(matches!(fault, Fault::Root { tile: Some(tile), .. } if tile == first), "{fault}");
}

#[test]
fn an_entry_that_was_signed_although_it_is_none_is_told() {
    let signer = Signer::new();
    let mut entries = entries(300);
    let last = entries[280].len() - 1;
    entries[280][last] ^= 1;
    let fault = signer.verify(signer.log(&entries, 300)).unwrap_err();
    let expected = Malformed::Checksum;
    assert!(matches!(fault, Fault::Malformed { index: 280, signed: true, cause } if cause == expected), "{fault}");
}
