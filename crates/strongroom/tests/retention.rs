//! `strongroom audit` over a log from which old entries were archived or pruned: every command copes, and none says of a row or
//! an entry what it cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use audit::read::{LogFolder, LogSource as _};
use audit::retention::{Before, Fate, Removal, copy, plan, prepare, remove};
use audit::verify::open_checkpoint;
use audit::{Decision, Log, Record, Subject};
use envelope::Timestamp;
use rig::{Rig, indexes};
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

const SEGMENT: u64 = 1 << 16;
const ON: &str = "2027-01-20T00:00:00Z";
const ON_MILLIS: u64 = 1_800_403_200_000;

/// Of two closed segments and 1,000 entries more; the first segment goes to the archive, and both where that is asked for.
struct Removed {
    rig: Rig,
    archive: PathBuf,
    /// The entry that tells of it.
    index: u64,
}

fn removed(fates: &[Fate]) -> Removed {
    let rig = Rig::new();
    let log = rig.open();
    for from in (0..2 * SEGMENT + 1000).step_by(8192) {
        rig.append(&log, from..(from + 8192).min(2 * SEGMENT + 1000));
    }
    let archive = rig.work.join("archive");
    let mut index = 0;
    for fate in fates {
        let removal = prepared(&rig, &log, *fate, &archive);
        index = recorded(&rig, &log, &removal);
        remove(&log, &removal, index).unwrap();
    }
    drop(log);
    Removed { rig, archive, index }
}

fn prepared(rig: &Rig, log: &Log, fate: Fate, archive: &std::path::Path) -> Removal {
    let folder = LogFolder::open(&rig.log).unwrap();
    let signed = open_checkpoint(&folder.checkpoint().unwrap().unwrap(), log.key()).unwrap();
    let segments = plan(&folder, &signed, Before::Entry(u64::MAX), 1).unwrap();
    let mut each = || ControlFlow::Continue(());
    let from = match fate {
        Fate::Pruned => LogFolder::open(&rig.log).unwrap(),
        Fate::Archived => {
            copy(&folder, segments.clone(), archive, &mut each).unwrap();
            LogFolder::open(archive).unwrap()
        }
    };
    prepare(&folder, &signed, segments, (&from, fate), &mut each).unwrap()
}

fn recorded(rig: &Rig, log: &Log, removal: &Removal) -> u64 {
    let path = removal.path();
    let operation = removal.fate.operation();
    let record = Record {
        path: &path,
        rule: "operator, uid 0",
        decision: Decision::Allowed,
        ..Record::new(Timestamp::from_unix_millis(ON_MILLIS), "", operation, &Subject::System)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let receipt = runtime.block_on(async { log.lane().append_for_receipt(record.encode()).receipt.await.unwrap() });
    // the checkpoint stands in the folder when these are signed
    rig.append(log, 0..1);
    while fs::read_to_string(rig.log.join("checkpoint"))
        .is_ok_and(|text| text.lines().nth(1).and_then(|size| size.parse().ok()) <= Some(receipt.index()))
    {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    receipt.index()
}

#[test]
fn a_pruned_log_is_valid_says_what_is_gone_and_every_command_copes() {
    let Removed { rig, archive: _, index } = removed(&[Fate::Pruned]);
    let said = rig.on_log("verify --save-checkpoint seen");
    let size = 2 * SEGMENT + 1002;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
    let gone = format!("entries 0 to 65535 were removed, the last of them pruned on {ON} (entry {index} says so)");
    let expected = format!("valid up to {size}, freshness unknown; {gone}; their hashes stand in the tree");
    assert_eq!((said.field("result"), said.field("removed")), (expected, "65536".to_owned()));

    // proofs of what is gone, and of what is not
    for index in [0, 40_000, SEGMENT - 1, SEGMENT, size - 1] {
        assert_eq!(rig.on_log(&format!("prove {index} --out receipt-{index}")).code, 0, "{index}");
        let line = format!("verify --receipt receipt-{index}");
        assert_eq!(rig.on_log(&line).field("receipt_kept"), "true", "{index}");
        assert_eq!(rig.run(&format!("{line} --key log.vkey")).field("valid"), "true", "{index}");
    }
    // what is left is found, and that it is not all is told
    let lines = |line: &str| {
        let said = rig.run(&format!("{line} --dir {}", rig.log.display()));
        assert_eq!(said.code, 0, "{line}: {}", said.stderr);
        let lines: Vec<_> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (indexes(&lines), said.stderr)
    };
    let (found, told) = lines("search --request-id 00000000000000000000000000010001");
    assert_eq!(found, [SEGMENT + 1]);
    assert!(told.contains("entries 0 to 65535 were archived or pruned"), "{told}");
    assert_eq!(lines("search --request-id 00000000000000000000000000000001").0, [0; 0], "it is gone");
    assert_eq!(lines("search --request-id 00000000000000000000000000000000").0, [size - 1], "the one that came again");
    assert_eq!(lines("search --operation AuditEntriesPruned").0, [index]);
    assert_eq!(lines("tail -n 2"), (vec![size - 2, size - 1], String::new()));
    assert_eq!(lines("tail -n 1000000").0.first(), Some(&SEGMENT));
    assert_eq!(lines("export --jsonl -").0.len() as u64, size - SEGMENT);
    let said = rig.on_log("export --tlog out");
    assert_eq!((said.code, said.field("entries")), (0, size.to_string()), "{}", said.stderr);
    for (path, there) in [("tile/0/000", true), ("tile/entries/000", false), ("tile/entries/256", true)] {
        assert_eq!(rig.work.join("out").join(path).exists(), there, "{path}");
    }
    // and the log goes on
    let log = rig.open();
    rig.append(&log, 0..100);
    drop(log);
    let said = rig.on_log("verify --checkpoint seen");
    assert_eq!(said.code, 0, "{}", said.stdout);
}

#[test]
fn an_archive_is_verified_with_its_log_and_a_gap_that_no_record_tells_is_damage() {
    let Removed { rig, archive, index } = removed(&[Fate::Archived, Fate::Pruned]);
    let gone = format!("entries 0 to 131071 were removed, the last of them pruned on {ON} (entry {index} says so)");
    let result = |line: &str| rig.on_log(line).field("result");
    assert!(result("verify").ends_with(&format!("{gone}; their hashes stand in the tree")), "{}", result("verify"));
    let with_archive = "verify --archive archive";
    let told = result(with_archive);
    assert!(
        told.ends_with(&format!("{gone}; of 65536 that are not in the archive the hashes stand in the tree")),
        "{told}"
    );
    let segment = archive.join("segment/0000000000");
    let sound = fs::read(&segment).unwrap();
    let mut touched = sound.clone();
    touched[70] ^= 1;
    fs::write(&segment, &touched).unwrap();
    let said = rig.on_log(with_archive);
    assert_eq!((said.code, said.field("index")), (1, "0".to_owned()), "{}", said.stdout);
    assert_eq!(rig.on_log("verify").code, 0);
    fs::write(&segment, &sound).unwrap();
    // put back, it is an entry as all others
    fs::copy(&segment, rig.log.join("segment/0000000000")).unwrap();
    let said = rig.on_log("verify");
    assert_eq!((said.code, said.field("index")), (1, SEGMENT.to_string()), "a hole: {}", said.stdout);
    fs::remove_file(rig.log.join("segment/0000000000")).unwrap();
    assert_eq!(rig.on_log(with_archive).code, 0);

    // the same files without the record of it
    let whole = Rig::with_entries(0);
    let log = whole.open();
    for from in (0..SEGMENT + 1000).step_by(8192) {
        whole.append(&log, from..(from + 8192).min(SEGMENT + 1000));
    }
    drop(log);
    fs::remove_file(whole.log.join("segment/0000000000")).unwrap();
    let said = whole.on_log("verify");
    assert_eq!((said.code, said.field("index")), (1, "0".to_owned()));
    assert_eq!(said.field("result"), "entry 0 is missing, and 65535 behind it");
    let file = rig.log.join("removed");
    fs::copy(file, whole.log.join("removed")).unwrap();
    assert_eq!(whole.on_log("verify").code, 1, "another log's says nothing");
}

#[test]
fn removing_wants_a_running_server_or_its_next_start() {
    let rig = Rig::new();
    for (line, code, told) in [
        ("prune --data-dir nowhere --before 1", 1, "no server's data folder"),
        ("prune --data-dir data --before soon", 2, "expected an entry's number"),
        ("archive --data-dir data --before 1", 2, "--to"),
        ("prune --data-dir data --before 1", 1, "no server took it, and nothing was removed"),
    ] {
        fs::create_dir_all(rig.work.join("data")).unwrap();
        fs::write(rig.work.join("data/store.db"), "").unwrap();
        let said = rig.run(line);
        assert_eq!(said.code, code, "{line}: {}", said.stderr);
        assert!(said.stderr.contains(told), "{line}: {}", said.stderr);
        assert!(!rig.work.join("data/audit-removal").exists(), "{line}");
    }
    let said = rig.run("prune --data-dir data --before 2027-01-01T00:00:00Z --at-start");
    assert_eq!((said.code, said.field("left_to_next_start")), (0, "true".to_owned()), "{}", said.stderr);
    let asked = fs::read_to_string(rig.work.join("data/audit-removal")).unwrap();
    assert!(asked.contains(r#""before":{"time":1798761600000}"#), "{asked}");
}
