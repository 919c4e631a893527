//! What callers may rely on: durable, in order, bounded, answered; and what hinders for a while or for good.

use super::*;
use crate::log::segment::Segments;

#[tokio::test]
async fn what_was_acknowledged_is_there_at_once_and_after_opening_again() {
    let rig = Rig::new();
    for round in 0..3 {
        let log = rig.open().unwrap();
        assert_eq!(log.size(), round * 10);
        let lane = log.lane();
        let first = usize::try_from(round * 10).unwrap();
        for number in first..first + 10 {
            assert_eq!(lane.append(draft(number)).await, Ok(()));
            assert_eq!(rig.entries(), entries(0..=number));
        }
        drop(log);
        let length: usize = entries(0..first + 10).iter().map(|entry| entry.len() + 2).sum();
        let found = std::fs::metadata(rig.segment(0)).unwrap().len();
        assert_eq!(found, length as u64, "closed in peace it ends with its last entry");
        assert!(rig.dir.join("closed").exists());
        assert_eq!(rig.verified().size, (round + 1) * 10, "and with a checkpoint over all");
        assert_eq!(lane.append(draft(0)).await, Err(AuditError::Unavailable), "the log is closed");
    }
}

#[tokio::test]
async fn an_entry_is_handed_over_when_append_is_called_not_when_it_is_polled() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let lane = log.lane();
    drop((0..100).map(|number| lane.append(draft(number))).collect::<Vec<_>>());
    drop(lane);
    drop(log);
    assert_eq!(rig.entries(), entries(0..100));
}

#[tokio::test]
async fn entries_stand_in_the_order_in_which_they_were_handed_over_whatever_the_lane() {
    let rig = Rig::of(1000);
    let log = rig.open().unwrap();
    let lanes = [log.lane(), log.lane(), log.lane()];
    let waiting: Vec<_> = (0..3000).map(|number| lanes[number % 3].append(draft(number))).collect();
    // answered whoever asks first
    for answer in waiting.into_iter().rev() {
        assert_eq!(answer.await, Ok(()));
    }
    assert_eq!(rig.entries(), entries(0..3000));
    drop(log);
    assert_eq!(rig.verified().size, 3000);
}

#[test]
fn many_callers_on_many_runtimes_share_syncs() {
    const RUNTIMES: usize = 4;
    const CALLERS: usize = 64;
    const RECORDS: usize = 50;
    let rig = Rig::new();
    let log = rig.open().unwrap();
    std::thread::scope(|threads| {
        for runtime in 0..RUNTIMES {
            let log = &log;
            threads.spawn(move || {
                let local = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                local.block_on(async {
                    let lane = log.lane();
                    let callers = (0..CALLERS).map(|caller| {
                        let lane = Arc::clone(&lane);
                        tokio::spawn(async move {
                            for record in 0..RECORDS {
                                let number = (runtime * CALLERS + caller) * RECORDS + record;
                                assert_eq!(lane.append(draft(number)).await, Ok(()));
                            }
                        })
                    });
                    for caller in callers.collect::<Vec<_>>() {
                        caller.await.unwrap();
                    }
                });
            });
        }
    });
    let records = RUNTIMES * CALLERS * RECORDS;
    let mut found = rig.entries();
    found.sort();
    assert!(found == entries(0..records));
    let syncs = usize::try_from(log.syncs()).unwrap();
    assert!(syncs >= RECORDS && syncs * 8 <= records, "{syncs} syncs for {records} records");
    drop(log);
    assert_eq!(rig.verified().size, records as u64);
}

#[tokio::test]
async fn a_batch_that_crosses_segments_costs_a_sync_a_segment_and_the_next_start_goes_on() {
    for (first, second) in [(40, 40), (16, 16), (15, 1), (32, 33), (0, 16), (1, 47)] {
        let rig = Rig::of(16);
        let log = rig.open().unwrap();
        append(&log, 0..first).await;
        drop(log);
        // all of it waits before there is a writer
        let (queue, place) = (Arc::new(Queue::default()), rig.place());
        let lane = lane::Lane::start(Arc::clone(&queue), Arc::new(TestForm), rig.signer());
        let waiting: Vec<_> = (first..first + second).map(|number| lane.append(draft(number))).collect();
        let found = found(&place).unwrap();
        let (syncs, before) = (found.segments.syncs(), found.segments.size());
        let mut writer = writer_over(found.segments, &queue, &rig);
        let thread = std::thread::spawn(move || writer.run());
        for answer in waiting {
            assert_eq!(answer.await, Ok(()));
        }
        queue.close();
        assert_eq!(thread.join().unwrap(), Some(before + second as u64));
        let crossed = (first + second).div_ceil(16) - (first / 16);
        assert_eq!(syncs.load(Ordering::Relaxed), crossed as u64, "{first} and {second}");
        drop(found.lock);
        for number in 0..(first + second).div_ceil(16) {
            let bytes = std::fs::read(rig.segment(number as u64)).unwrap();
            let held = 16.min(first + second - number * 16);
            assert_eq!(bytes.len(), held * (entry(0).len() + 2), "segment {number} of {first} and {second}");
        }
        let log = rig.open().unwrap();
        append(&log, first + second..first + second + 20).await;
        drop(log);
        assert_eq!(rig.entries(), entries(0..first + second + 20));
        assert_eq!(rig.verified().size, (first + second + 20) as u64);
    }
}

fn writer_over(segments: Segments, queue: &Arc<Queue>, rig: &Rig) -> Writer {
    let reserve = Reserve::open(&rig.dir, 0).unwrap();
    let inbox = Arc::new(Inbox::of(segments.size()));
    let (queue, failure) = (Arc::clone(queue), watch::channel(false).0);
    let receipts = Receipts::new(Arc::new(rig.place()), rig.signer(), watch::channel(Standing::Agreed).1);
    Writer::new((segments, reserve), Arc::new(TestForm), (queue, inbox), receipts, Arc::default(), failure)
}

#[tokio::test]
async fn a_file_where_the_next_segment_belongs_refuses_until_it_is_gone() {
    let rig = Rig::of(16);
    let log = rig.open().unwrap();
    std::fs::write(rig.segment(1), b"another").unwrap();
    let lane = log.lane();
    let waiting: Vec<_> = (0..20).map(|number| lane.append(draft(number))).collect();
    let mut accepted = Vec::new();
    for (number, answer) in waiting.into_iter().enumerate() {
        match answer.await {
            Ok(()) => accepted.push(number),
            Err(error) => assert_eq!(error, AuditError::Unavailable),
        }
    }
    assert_eq!(accepted, (0..16).collect::<Vec<_>>(), "what found room is durable");
    assert_eq!(lane.append(draft(20)).await, Err(AuditError::Unavailable));
    assert_eq!(std::fs::read(rig.segment(1)).unwrap(), b"another");
    std::fs::remove_file(rig.segment(1)).unwrap();
    append(&log, 16..40).await;
    drop(log);
    assert_eq!(rig.entries(), entries(0..40));
}

#[tokio::test]
async fn one_log_has_one_writer() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    assert!(matches!(rig.open(), Err(OpenError::Held)));
    let options = LogOptions {
        dir: rig.dir.clone(),
        origin: ORIGIN.into(),
        node: "1".into(),
        signer: Arc::clone(&rig.boundary) as _,
        clock: Arc::new(envelope::ManualClock::default()),
        checkpoint_every: Duration::from_millis(100),
        personal: Some(crate::record::AuditorSecret::generate().unwrap().public().unwrap()),
        reserve_bytes: 0,
        remembered: None,
    };
    assert!(matches!(Log::open(options.clone()), Err(OpenError::Held)));
    assert!(!rig.dir.join("personal").exists(), "who may not write leaves nothing");
    drop(log);
    assert!(Log::open(options).is_ok());
}

#[tokio::test]
async fn a_segment_or_folder_that_was_moved_away_refuses_until_it_is_back() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let lane = log.lane();
    assert_eq!(lane.append(draft(0)).await, Ok(()));
    let aside = rig.dir.with_file_name("aside");
    let mut next = 1;
    for moved in [rig.segment(0), rig.dir.join("segment"), rig.dir.clone()] {
        for replaced in [false, true] {
            std::fs::rename(&moved, &aside).unwrap();
            if replaced && moved.extension().is_none() && aside.is_file() {
                std::fs::write(&moved, b"another").unwrap();
            } else if replaced {
                // with a copy of all: the same names, other files
                copy_tree(&aside, &moved);
            }
            for number in [100, 101] {
                let answer = lane.append(draft(number)).await;
                assert_eq!(answer, Err(AuditError::Unavailable), "{} replaced: {replaced}", moved.display());
            }
            if replaced && aside.is_dir() {
                std::fs::remove_dir_all(&moved).unwrap();
            }
            std::fs::rename(&aside, &moved).unwrap();
            assert_eq!(lane.append(draft(next)).await, Ok(()), "{} replaced: {replaced}", moved.display());
            next += 1;
        }
    }
    assert_eq!(rig.entries(), entries(0..next));
    until("the tree goes on", || log.checkpoint().is_some_and(|signed| signed.0.size == next as u64)).await;
    std::fs::remove_file(rig.segment(0)).unwrap();
    assert_eq!(lane.append(draft(next)).await, Err(AuditError::Unavailable));
    drop(log);
    assert!(!rig.segment(0).exists(), "what was removed is not made again behind anybody's back");
    assert!(matches!(rig.open(), Err(OpenError::Shorter { size: 0, covered: 7 })), "nor at the next start");
}

#[tokio::test]
async fn a_log_that_fails_for_good_says_so_and_accepts_nothing_more() {
    let rig = Rig::new();
    let place = rig.place();
    let mut found = found(&place).unwrap();
    // a handle that may not write: an error that no passing cause has
    let (path, folder) = (rig.segment(0), rig.dir.join("segment"));
    found.segments = Segments::over(File::open(&path).unwrap(), path, folder, rig.entries_max, (0, 0)).unwrap();
    let signer = Arc::clone(&rig.boundary);
    let log = Log::go_on(place, signer, 0, found).unwrap();
    let (lane, failed) = (log.lane(), log.failed());
    let waiting: Vec<_> = (0..10).map(|number| lane.append(draft(number))).collect();
    let receipt = lane.append_for_receipt(draft(10)).receipt;
    for answer in waiting {
        assert_eq!(answer.await, Err(AuditError::Unavailable));
    }
    assert_eq!(receipt.await.err(), Some(AuditError::Unavailable));
    tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert_eq!(lane.append(draft(11)).await, Err(AuditError::Unavailable));
    drop(log);
    assert_eq!(rig.entries(), entries(0..0));
    assert!(!rig.dir.join("closed").exists());

    let sound = rig.open().unwrap();
    let failed = sound.failed();
    drop(sound);
    assert!(tokio::time::timeout(Duration::from_millis(20), failed).await.is_err(), "closed in peace");
}

#[tokio::test]
async fn what_waits_is_bounded_in_number_and_bytes() {
    let long = Bytes::from(vec![b'x'; ENTRY_BYTES_MAX - 4]);
    for (record, fits) in [(draft(1), QUEUE_RECORDS_MAX), (long, QUEUE_BYTES_MAX / ENTRY_BYTES_MAX)] {
        let rig = Rig::new();
        // no writer yet: all of it waits
        let (queue, place) = (Arc::new(Queue::default()), rig.place());
        let lane = lane::Lane::start(Arc::clone(&queue), Arc::new(TestForm), rig.signer());
        let waiting: Vec<_> = (0..fits).map(|_| lane.append(record.clone())).collect();
        assert_eq!(lane.append(record.clone()).await, Err(AuditError::Busy));
        let mut writer = writer_over(found(&place).unwrap().segments, &queue, &rig);
        let thread = std::thread::spawn(move || writer.run());
        for answer in waiting {
            assert_eq!(answer.await, Ok(()));
        }
        assert_eq!(lane.append(record.clone()).await, Ok(()), "there is room again");
        queue.close();
        assert_eq!(thread.join().unwrap(), Some(fits as u64 + 1));
        assert_eq!(rig.entries().len(), fits + 1);
    }
}

#[tokio::test]
async fn only_a_draft_that_makes_an_entry_is_accepted() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let lane = log.lane();
    let long = vec![b'x'; ENTRY_BYTES_MAX - 3];
    for refused in [&b""[..], &long] {
        assert_eq!(lane.append(Bytes::copy_from_slice(refused)).await, Err(AuditError::Unavailable));
    }
    assert_eq!(lane.append(Bytes::copy_from_slice(&long[1..])).await, Ok(()));
    assert_eq!(rig.entries(), [TestForm.finish(&long[1..]).unwrap()]);
}

#[tokio::test]
async fn whoever_waits_is_answered_though_the_lane_is_gone() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let lane = log.lane();
    let waiting: Vec<_> = (0..100).map(|number| lane.append(draft(number))).collect();
    let receipts: Vec<_> = (0..100).map(|number| lane.append_for_receipt(draft(number)).receipt).collect();
    drop(lane);
    for answer in waiting {
        assert_eq!(answer.await, Ok(()));
    }
    for receipt in receipts {
        assert!(receipt.await.is_ok());
    }
}

#[test]
fn whoever_waits_is_answered_though_the_lanes_runtime_has_ended() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime();
    let lane = ended.block_on(async { log.lane() });
    let before = lane.append(draft(0));
    drop(ended);
    let (before, after) = runtime().block_on(async { (before.await, lane.append(draft(1)).await) });
    // durable or not, nobody is left who could say so
    assert!(matches!(before, Ok(()) | Err(AuditError::Unavailable)));
    assert_eq!(after, Err(AuditError::Unavailable));
}

#[tokio::test]
async fn a_writer_that_panics_is_a_log_that_has_failed_for_good() {
    let rig = Rig::new();
    let place = rig.place();
    let queue = Arc::new(Queue::default());
    let lane = lane::Lane::start(Arc::clone(&queue), Arc::new(TestForm), rig.signer());
    let writer = writer_over(found(&place).unwrap().segments, &queue, &rig);
    let waits = lane.append(draft(1));
    let panics = move || {
        let _writer = writer;
        panic!("a defect of ours");
    };
    std::thread::spawn(panics).join().unwrap_err();
    // nobody waits for a thread that is gone
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), waits).await, Ok(Err(AuditError::Unavailable)));
    assert_eq!(lane.append(draft(2)).await, Err(AuditError::Unavailable));
}

#[tokio::test]
async fn a_tree_that_panics_is_a_log_that_has_failed_for_good() {
    let rig = Rig::new();
    rig.boundary.set(Mode::Panics);
    let log = rig.open().unwrap();
    let lane = log.lane();
    let receipt = lane.append_for_receipt(draft(0)).receipt;
    tokio::time::timeout(Duration::from_secs(5), log.failed()).await.unwrap();
    assert!(receipt.await.is_err());
    until("the writer has ended", || lane.append(draft(1)).now_or_never() == Some(Err(AuditError::Unavailable))).await;
    drop(log);
    assert!(!rig.dir.join("closed").exists());
}

/// A form that a disk which lies has left without a key.
struct Keyless;

impl Form for Keyless {
    fn finish(&self, draft: &[u8]) -> Option<Vec<u8>> {
        TestForm.finish(draft)
    }

    fn is_entry(&self, bytes: &[u8]) -> bool {
        TestForm.is_entry(bytes)
    }

    fn removed(&self, _entry: &[u8]) -> Option<u64> {
        None
    }

    fn hindered(&self, reason: &'static str) -> Vec<u8> {
        TestForm.hindered(reason)
    }

    fn renew(&self) -> Result<(), segment::Hindrance> {
        Err(segment::Hindrance::Final)
    }
}

#[tokio::test]
async fn the_writer_renews_what_entries_need_and_a_sync_that_fails_there_ends_the_log() {
    let rig = Rig::new();
    let place = Place { form: Arc::new(Keyless), ..rig.place() };
    let found = found(&place).unwrap();
    let log = Log::go_on(place, Arc::clone(&rig.boundary) as Arc<dyn CheckpointSigner>, 64 << 10, found).unwrap();
    let lane = log.lane();
    assert_eq!(lane.append(draft(0)).await, Ok(()), "the entry itself is durable");
    tokio::time::timeout(Duration::from_secs(20), log.failed()).await.unwrap();
    assert_eq!(lane.append(draft(1)).await, Err(AuditError::Unavailable));
}

#[tokio::test]
async fn whoever_asks_witnesses_gets_proofs_of_every_signed_size_and_keeps_what_they_cosign() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    let lane = log.lane();
    let mut signed = vec![(0, envelope::merkle::empty_root())];
    for number in 0..7 {
        futures_util::future::join_all((0..40).map(|at| lane.append(draft(number * 40 + at)))).await;
        until("it is signed", || log.checkpoint().is_some_and(|signed| signed.0.size == log.size())).await;
        let newest = log.checkpoint().unwrap();
        for (old, root) in &signed {
            let proof = log.consistency(*old, newest.0.size).await.unwrap();
            envelope::merkle::verify_consistency(*old, root, newest.0.size, &newest.0.root, &proof).unwrap();
        }
        signed.push((newest.0.size, newest.0.root));
        log.keep_witnessed(&newest.1).unwrap();
        assert_eq!(std::fs::read_to_string(rig.dir.join(crate::log::WITNESSED)).unwrap(), newest.1.encode());
    }
    assert_eq!(log.consistency(1, log.size() + 1).await, None);
    assert_eq!(log.consistency(3, 2).await, None);
    drop(lane);
    drop(log);
    // the folder is a log's as before
    drop(rig.open().unwrap());
}
