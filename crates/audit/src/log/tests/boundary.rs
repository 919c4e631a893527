//! Checkpoints and receipts, and a boundary that is away, slow, silent, or elsewhere.

use super::*;
use crate::receipt::Receipt;
use envelope::{ManualClock, Timestamp};

fn covered(log: &Log) -> Option<u64> {
    log.checkpoint().map(|signed| signed.0.size)
}

async fn agreed(log: &Log) {
    until("the boundary agrees", || log.standing() == Standing::Agreed).await;
}

#[tokio::test]
async fn a_log_without_entries_has_a_checkpoint_and_each_entry_soon_another() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    agreed(&log).await;
    assert_eq!(covered(&log), Some(0));
    for number in 0..5 {
        append(&log, number..number + 1).await;
        let began = Instant::now();
        let mut checkpoints = log.checkpoints();
        let newest = |signed: &Option<Signed>| signed.as_ref().is_some_and(|signed| signed.0.size > number as u64);
        checkpoints.wait_for(newest).await.unwrap();
        // a machine that is busy with more than this test is given time
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let name = rig.dir.join("checkpoint");
        let stands = || std::fs::read_to_string(&name).unwrap().starts_with(&format!("{ORIGIN}\n{}\n", number + 1));
        until("it stands in the folder", stands).await;
        rig.verified();
    }
}

#[tokio::test]
async fn under_load_checkpoints_come_at_their_pace_and_each_extends_the_one_before() {
    let rig = Rig::of(512);
    let log = rig.open().unwrap();
    let lane = log.lane();
    let (began, mut number) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(800) {
        let waiting: Vec<_> = (0..16).map(|more| lane.append(draft(number + more))).collect();
        for answer in waiting {
            assert_eq!(answer.await, Ok(()));
        }
        number += 16;
    }
    let elapsed = began.elapsed();
    let signed = rig.boundary.state().signed;
    // one at the start, one a pace, and one of the first entries at once
    let most = elapsed.as_millis() / rig.pace.as_millis() + 3;
    assert!(signed >= 4 && signed as u128 <= most, "{signed} in {elapsed:?}");
    drop(log);
    assert_eq!(rig.boundary.state().forked, 0);
    assert_eq!(rig.verified().size, number as u64);
    // only the newest checkpoint's partial tile stays
    let partial = |at: usize| rig.dir.join(format!("tile/0/{at:03}.p"));
    let standing: Vec<usize> = (0..=number / 256).filter(|at| partial(*at).exists()).collect();
    assert_eq!(standing, if number % 256 == 0 { vec![] } else { vec![number / 256] });
}

#[tokio::test]
async fn receipts_lead_from_their_entry_to_their_batch_and_many_share_a_signature() {
    let rig = Rig::of(100);
    let log = rig.open().unwrap();
    agreed(&log).await;
    rig.boundary.set(Mode::Slow(Duration::from_millis(30)));
    let lane = log.lane();
    let mut number = 0;
    for count in [1, 300, 7] {
        let (before, syncs) = (rig.boundary.state().batches, log.syncs());
        // whoever wants none is in between
        let waiting: Vec<_> =
            (number..number + count).map(|n| (n, lane.append_for_receipt(draft(2 * n)).receipt)).collect();
        let others: Vec<_> = (number..number + count).map(|n| lane.append(draft(2 * n + 1))).collect();
        let mut receipts = Vec::new();
        for (n, receipt) in waiting {
            receipts.push((n, receipt.await.unwrap()));
        }
        for other in others {
            assert_eq!(other.await, Ok(()));
        }
        let entries = rig.entries();
        for (n, receipt) in receipts {
            let at = usize::try_from(receipt.index()).unwrap();
            assert_eq!(entries[at], entry(2 * n));
            let parsed = Receipt::parse(&receipt.encode()).unwrap();
            let batch = parsed.verify(&rig.key(), &leaf_hash(&entries[at])).unwrap();
            assert!(batch.entries().contains(&receipt.index()));
            assert!(parsed.verify(&rig.key(), &leaf_hash(&entry(2 * n + 1))).is_err());
        }
        let signatures = rig.boundary.state().batches - before;
        let syncs = usize::try_from(log.syncs() - syncs).unwrap();
        assert!((1..=syncs).contains(&signatures) && syncs <= 3 + count / 10, "{signatures} in {syncs} for {count}");
        number += count;
    }
    let signatures = rig.boundary.state().batches;
    append(&log, 2 * number..2 * number + 50).await;
    assert_eq!(rig.boundary.state().batches, signatures, "nobody wanted one");
    assert_eq!(rig.boundary.state().forked, 0);
}

#[tokio::test]
async fn a_boundary_that_is_away_delays_checkpoints_and_no_entry() {
    for mode in [Mode::Away, Mode::LosesAnswers, Mode::Lies] {
        let mut rig = Rig::new();
        rig.receipt_wait = Duration::from_millis(150);
        let log = rig.open().unwrap();
        agreed(&log).await;
        append(&log, 0..10).await;
        until("a first checkpoint", || covered(&log) == Some(10)).await;
        rig.boundary.set(mode);
        let lane = log.lane();
        let receipt = lane.append_for_receipt(draft(10)).receipt;
        append(&log, 11..300).await;
        assert_eq!(receipt.await.err(), Some(AuditError::Unsigned), "{mode:?}: nobody waits for ever");
        assert!(rig.entries().contains(&entry(10)), "{mode:?}: and it is durable");
        append(&log, 300..400).await;
        assert_eq!((log.size(), covered(&log), log.standing()), (400, Some(10), Standing::Agreed), "{mode:?}");
        rig.boundary.set(Mode::Answers);
        let mut checkpoints = log.checkpoints();
        let newest = |signed: &Option<Signed>| signed.as_ref().is_some_and(|signed| signed.0.size == 400);
        tokio::time::timeout(Duration::from_secs(10), checkpoints.wait_for(newest)).await.unwrap().unwrap();
        assert!(lane.append_for_receipt(draft(400)).receipt.await.is_ok());
        drop(log);
        assert_eq!((rig.verified().size, rig.boundary.state().forked), (401, 0), "{mode:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_closed_unsigned_says_that_the_entry_is_durable() {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    agreed(&log).await;
    rig.boundary.set(Mode::Away);
    let receipt = log.lane().append_for_receipt(draft(0)).receipt;
    drop(log);
    assert_eq!(receipt.await.err(), Some(AuditError::Unsigned));
    assert_eq!(rig.entries(), entries(0..1));
}

#[tokio::test]
async fn a_boundary_that_signed_before_a_crash_what_the_log_never_heard_agrees_at_the_next_start() {
    for mode in [Mode::Away, Mode::LosesAnswers, Mode::Silent, Mode::Lies] {
        let rig = Rig::of(64);
        let log = rig.open().unwrap();
        agreed(&log).await;
        append(&log, 0..100).await;
        until("a checkpoint", || covered(&log) == Some(100)).await;
        let signed = rig.boundary.state().signed;
        rig.boundary.set(mode);
        append(&log, 100..150).await;
        if matches!(mode, Mode::LosesAnswers | Mode::Lies) {
            until("the boundary signs", || rig.boundary.state().signed > signed).await;
        }
        append(&log, 150..200).await;
        let crashed = rig.image();
        assert!(!crashed.dir.join("closed").exists());
        crashed.boundary.set(Mode::Answers);
        let again = crashed.open().unwrap();
        agreed(&again).await;
        until("all is covered", || covered(&again) == Some(200)).await;
        drop(again);
        assert_eq!((crashed.verified().size, crashed.boundary.state().forked), (200, 0), "{mode:?}");
        rig.boundary.set(Mode::Answers);
    }
}

#[tokio::test]
async fn a_checkpoint_or_question_that_is_lost_is_found_again_from_the_other() {
    for lost in ["checkpoint", "signing"] {
        for left in [None, Some(&b""[..]), Some(&[0; 8192][..]), Some(b"no note")] {
            let rig = Rig::of(64);
            let log = rig.open().unwrap();
            append(&log, 0..100).await;
            drop(log);
            std::fs::remove_file(rig.dir.join(lost)).unwrap();
            if let Some(left) = left {
                std::fs::write(rig.dir.join(lost), left).unwrap();
            }
            let log = rig.open().unwrap();
            append(&log, 100..120).await;
            until("all is covered", || covered(&log) == Some(120)).await;
            drop(log);
            assert_eq!((rig.verified().size, rig.boundary.state().forked), (120, 0), "{lost} {left:?}");
        }
    }
}

#[tokio::test]
async fn a_log_that_is_older_than_what_was_signed_says_so_and_goes_on_recording() {
    let rig = Rig::of(64);
    let log = rig.open().unwrap();
    append(&log, 0..100).await;
    until("a checkpoint", || rig.published() == Some(100)).await;
    let mut old = rig.image();
    append(&log, 100..130).await;
    until("another", || covered(&log) == Some(130)).await;
    drop(log);

    // the old copy of the folder, before the boundary as it is now
    old.boundary = rig.boundary.copy();
    let log = old.open().unwrap();
    let mut standings = log.standings();
    standings.wait_for(|standing| *standing != Standing::Unknown).await.unwrap();
    assert_eq!(log.standing(), Standing::Behind);
    append(&log, 200..250).await;
    let began = Instant::now();
    drop(log);
    assert!(began.elapsed() < Duration::from_millis(900), "nothing is hoped for: {:?}", began.elapsed());
    assert_eq!((old.verified().size, old.boundary.last()), (100, 130));
    let log = old.open().unwrap();
    assert_eq!(log.size(), 150);
    until("it is still behind", || log.standing() == Standing::Behind).await;
    drop(log);

    // nothing at all, where there was a log
    let mut nothing = Rig::of(64);
    nothing.boundary = rig.boundary.copy();
    let log = nothing.open().unwrap();
    until("it is behind", || log.standing() == Standing::Behind).await;
}

#[tokio::test]
async fn a_log_that_is_closed_waits_a_second_for_its_last_checkpoint_and_no_longer() {
    for mode in [Mode::Slow(Duration::from_millis(200)), Mode::Silent, Mode::Away] {
        let rig = Rig::new();
        let log = rig.open().unwrap();
        agreed(&log).await;
        rig.boundary.set(mode);
        append(&log, 0..10).await;
        let lane = log.lane();
        let receipt = lane.append_for_receipt(draft(10)).receipt;
        let began = Instant::now();
        drop(log);
        assert!(began.elapsed() < Duration::from_millis(1900), "{mode:?}: {:?}", began.elapsed());
        assert!(rig.dir.join("closed").exists(), "{mode:?}");
        let answers = matches!(mode, Mode::Slow(_));
        assert_eq!(rig.verified().size, if answers { 11 } else { 0 }, "{mode:?}");
        assert_eq!(receipt.await.is_ok(), answers, "{mode:?}");
        rig.boundary.set(Mode::Answers);
        let log = rig.open().unwrap();
        until("all is covered", || covered(&log) == Some(11)).await;
    }
}

#[tokio::test]
async fn the_records_of_an_auditors_log_are_sealed_under_a_months_key_whose_copy_stands_in_the_folder() {
    use crate::record::{AuditorSecret, Entry, PeriodKeys, Record, SealedPeriodKey, Subject};
    let rig = Rig::new();
    let auditor = AuditorSecret::generate().unwrap();
    // 30 November 2026, a minute before midnight
    let clock = ManualClock::at(Timestamp::from_unix_millis(1_796_083_140_000));
    let options = LogOptions {
        dir: rig.dir.clone(),
        origin: ORIGIN.into(),
        node: "1".into(),
        signer: Arc::clone(&rig.boundary) as _,
        clock: Arc::new(clock.clone()),
        checkpoint_every: Duration::from_millis(100),
        personal: Some(auditor.public().unwrap()),
        reserve_bytes: 64 << 10,
        remembered: None,
    };
    let subject = Subject::Token { accessor: "accessor".into(), name: "mallory".into() };
    let mut record = Record::new(clock.now(), "r-1", "Decrypt", &subject);
    record.from = "192.0.2.1:5";
    let mut months = Vec::new();
    for (count, month) in [(1, "2026-11"), (2, "2026-11"), (3, "2026-12")] {
        let log = Log::open(options.clone()).unwrap();
        if count == 2 {
            assert_eq!(log.lane().append(record.encode()).await, Ok(()));
            // and while it is open, the next one
            clock.advance(Duration::from_secs(60));
        }
        assert!(log.lane().append_for_receipt(record.encode()).receipt.await.is_ok());
        drop(log);
        months.extend((count == 2).then_some("2026-12"));
        months.push(month);
        months.sort();
        let entries = rig.entries();
        assert_eq!(entries.len(), months.len(), "a key each");
        assert!(entries.iter().all(|entry| !entry.windows(7).any(|window| window == b"mallory")));
        let copies = std::fs::read_dir(rig.dir.join("personal")).unwrap();
        let mut copies: Vec<PathBuf> = copies.map(|copy| copy.unwrap().path()).collect();
        copies.sort();
        let mut keys = PeriodKeys::default();
        for (copy, month) in copies.iter().zip(&months) {
            let sealed = SealedPeriodKey::parse(&std::fs::read(copy).unwrap()).unwrap();
            assert_eq!((sealed.period().to_string().as_str(), copies.len()), (*month, months.len()));
            keys.insert(auditor.open(&sealed).unwrap());
        }
        for entry in entries {
            let json = Entry::decode(&entry).unwrap().to_json(Some(&keys));
            assert!(json.contains("mallory") && json.contains("192.0.2.1:5"), "{json}");
        }
    }
    rig.verified();
}
