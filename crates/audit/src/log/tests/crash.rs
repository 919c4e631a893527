//! Images of the folder as a crash leaves it: under load, and with its end torn anywhere.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Callers that never stop; each number is acknowledged in its caller's order.
async fn load(lane: Arc<dyn AuditSink>, callers: usize, stop: Arc<AtomicBool>, acknowledged: Arc<Vec<AtomicUsize>>) {
    let callers = (0..callers).map(|caller| {
        let (lane, stop, acknowledged) = (Arc::clone(&lane), Arc::clone(&stop), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let draft = draft(caller * 1_000_000 + number);
                if number % 16 == caller {
                    assert!(lane.append_for_receipt(draft).receipt.await.is_ok());
                } else {
                    assert_eq!(lane.append(draft).await, Ok(()));
                }
                number += 1;
                acknowledged[caller].store(number, Ordering::Release);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_taken_under_load_has_all_that_was_acknowledged_and_goes_on() {
    const CALLERS: usize = 12;
    let rig = Rig { pace: Duration::from_millis(5), ..Rig::of(300) };
    let log = rig.open().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<Vec<AtomicUsize>> = Arc::new((0..CALLERS).map(|_| AtomicUsize::new(0)).collect());
    let load = tokio::spawn(load(log.lane(), CALLERS, Arc::clone(&stop), Arc::clone(&acknowledged)));
    let mut images = Vec::new();
    for image in 0..25_u64 {
        tokio::time::sleep(Duration::from_micros(700 * image)).await;
        let before: Vec<usize> = acknowledged.iter().map(|number| number.load(Ordering::Acquire)).collect();
        images.push((before, rig.image()));
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    drop(log);
    assert_eq!(rig.verified().size, rig.entries().len() as u64);
    for (acknowledged, image) in images {
        let log = image.open().unwrap();
        append(&log, 99_000_000..99_000_010).await;
        assert!(log.lane().append_for_receipt(draft(99_000_010)).receipt.await.is_ok());
        drop(log);
        let found = image.entries();
        assert_eq!(image.verified().size, found.len() as u64);
        assert_eq!(image.boundary.state().forked, 0);
        for (caller, count) in acknowledged.into_iter().enumerate() {
            let (first, behind) = (entry(caller * 1_000_000), entry((caller + 1) * 1_000_000));
            let of_caller = found.iter().filter(|entry| **entry >= first && **entry < behind);
            let of_caller: Vec<_> = of_caller.cloned().collect();
            assert!(of_caller.len() >= count, "{caller}: {} of {count}", of_caller.len());
            let whole = entries(caller * 1_000_000..caller * 1_000_000 + of_caller.len());
            assert!(of_caller == whole, "in order, none twice, none missing");
        }
    }
}

/// The bytes of entries as they stand in a segment.
fn written(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let entries = entries(numbers);
    let with_length = |entry: &Vec<u8>| [&u16::try_from(entry.len()).unwrap().to_be_bytes()[..], entry].concat();
    entries.iter().flat_map(with_length).collect()
}

#[tokio::test]
async fn an_end_that_is_torn_at_any_byte_is_cut_behind_the_last_whole_entry_and_kept_aside() {
    let rig = Rig::of(64);
    let log = rig.open().unwrap();
    append(&log, 0..100).await;
    until("a checkpoint", || log.checkpoint().is_some_and(|signed| signed.0.size == 100)).await;
    let image = rig.image();
    drop(log);
    let whole = std::fs::read(image.segment(1)).unwrap();
    let end = written(64..100).len();
    let last = written(100..104);
    let one = last.len() / 4;
    for cut in 0..=last.len() {
        // zeros that were written ahead, none, or a page that came before one that did not
        for (zeros, behind) in [(0, 0), (5000, 0), (64, 40)] {
            let image = image.image();
            let torn = [&whole[..end], &last[..cut], &vec![0; zeros], &vec![7; behind]].concat();
            std::fs::write(image.segment(1), torn).unwrap();
            let log = image.open().unwrap();
            let kept = 100 + cut / one;
            assert_eq!(log.size(), kept as u64, "{cut} {zeros} {behind}");
            let rest = last[cut / one * one..cut].iter().any(|byte| *byte != 0) || behind > 0;
            let aside = std::fs::read(image.dir.join(format!("cut-{kept}"))).ok();
            assert_eq!(aside.is_some(), rest, "{cut} {zeros} {behind}");
            if let Some(aside) = aside {
                assert!(aside.starts_with(&last[cut / one * one..cut]) || behind == 0, "{cut} {zeros} {behind}");
                assert!(aside.ends_with(&vec![7; behind]) && aside.last() != Some(&0));
            }
            if cut % 7 == 0 {
                append(&log, kept..kept + 3).await;
                drop(log);
                assert_eq!(image.entries(), entries(0..kept + 3));
                assert_eq!((image.verified().size, image.boundary.state().forked), (kept as u64 + 3, 0));
            }
        }
    }
}

#[tokio::test]
async fn a_crash_at_a_segments_end_leaves_a_log_that_goes_on() {
    // the next segment was begun, and nothing of it came; or a part; or half of a file that was written anew
    for (torn, size) in [(Some(vec![]), 64), (Some(vec![0; 4096]), 64), (Some(written(64..65)), 65), (None, 64)] {
        let rig = Rig::of(64);
        let log = rig.open().unwrap();
        append(&log, 0..64).await;
        drop(log);
        std::fs::remove_file(rig.dir.join("closed")).unwrap();
        if let Some(torn) = &torn {
            std::fs::write(rig.segment(1), torn).unwrap();
        }
        std::fs::write(rig.dir.join("segment/0000000000.new"), b"half").unwrap();
        let log = rig.open().unwrap();
        assert_eq!(log.size(), size as u64);
        append(&log, size..80).await;
        drop(log);
        assert_eq!(rig.entries(), entries(0..80));
        assert_eq!(rig.verified().size, 80);
        assert!(!rig.dir.join("segment/0000000000.new").exists());
    }
}

#[tokio::test]
async fn the_last_segment_is_written_anew_unless_the_log_was_closed_in_peace() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::of(64);
    let inode = |number| std::fs::metadata(rig.segment(number)).unwrap().ino();
    let log = rig.open().unwrap();
    append(&log, 0..100).await;
    drop(log);
    let first = (inode(0), inode(1));
    drop(rig.open().unwrap());
    assert_eq!((inode(0), inode(1)), first, "closed in peace");
    std::fs::remove_file(rig.dir.join("closed")).unwrap();
    drop(rig.open().unwrap());
    assert_eq!(inode(0), first.0);
    assert_ne!(inode(1), first.1, "another file, with the same entries");
    assert_eq!(rig.entries(), entries(0..100));
    // `closed` does not outlive the next start
    let log = rig.open().unwrap();
    assert!(!rig.dir.join("closed").exists());
    drop(log);
}
