//! `strongroom audit` over a log that its writer made: every command, in both formats, and what each says of altered files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use audit::Log;
use audit::record::AuditorPublic;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rig::{ORIGIN, Rig, copy, draft, indexes};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_log_is_valid_up_to_its_checkpoint_and_nobody_knows_how_fresh() {
    let rig = Rig::with_entries(600);
    let said = rig.on_log("verify");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
    for (name, value) in [
        ("valid", "true"),
        ("result", "valid up to 600, freshness unknown"),
        ("origin", ORIGIN),
        ("entries", "600"),
        ("signed", "600"),
        ("not_yet_signed", "0"),
        ("signed_until", "2027-01-15T08:09:59Z"),
    ] {
        assert_eq!(said.field(name), value);
    }
    let said = rig.on_log("verify --output json");
    assert_eq!((said.code, &said.json()["valid"], &said.json()["signed"]), (0, &true.into(), &600.into()));
    // the key itself among the arguments, and the server's folder
    let vkey = fs::read_to_string(rig.work.join("log.vkey")).unwrap();
    let data = rig.log.parent().unwrap().display();
    assert_eq!(rig.run(&format!("verify --data-dir {data} --key {}", vkey.trim())).code, 0);
    // the key that lies beside the log
    let said = rig.run(&format!("verify --data-dir {data}"));
    assert!(said.code == 0 && said.stderr.starts_with("warning: the key is taken from"), "{}", said.stderr);
    // another log's
    let other = audit::note::VerifierKey::ed25519(ORIGIN, [5; 32]).unwrap();
    let said = rig.run(&format!("verify --data-dir {data} --key {other}"));
    assert_eq!((said.code, said.field("valid")), (1, "false".to_owned()));
    assert!(said.field("result").contains("not signed by that key"), "{}", said.stdout);
}

#[test]
fn what_was_altered_is_told_with_its_index() {
    let rig = Rig::with_entries(600);
    let segment = rig.log.join("segment/0000000000");
    let whole = fs::read(&segment).unwrap();
    let length = |at: usize| 2 + usize::from(u16::from_be_bytes([whole[at], whole[at + 1]]));
    let at = (0..300).fold(0, |at, _| at + length(at));
    let end = (0..600).fold(0, |at, _| at + length(at));
    let flipped = {
        let mut bytes = whole.clone();
        bytes[at + 20] ^= 1;
        bytes
    };
    let without = [&whole[..at], &whole[at + length(at)..]].concat();
    let twice = [&whole[..at], &whole[at..at + length(at)], &whole[at..]].concat();
    for (bytes, index, told) in [
        (flipped, 300, "entry 300 is not the one that was signed: it was altered"),
        (without, 300, "entry 300 is missing"),
        (twice, 301, "entry 301 was inserted: it was never signed"),
        (whole[..at].to_vec(), 300, "entry 300 is missing, and 299 behind it"),
        (whole[..end - 1].to_vec(), 599, "entry 599 is missing"),
    ] {
        fs::write(&segment, bytes).unwrap();
        let said = rig.on_log("verify --output json");
        assert_eq!((said.code, &said.json()["valid"], &said.json()["index"]), (1, &false.into(), &index.into()));
        assert_eq!(said.json()["result"], told);
        let said = rig.on_log("verify --save-checkpoint saved");
        assert_eq!((said.code, said.field("index"), said.stderr.as_str()), (1, index.to_string(), ""));
    }
    assert_eq!(rig.names(), ["log.vkey"], "no checkpoint of a log that is not valid");
    fs::write(&segment, &whole).unwrap();
    let tile = rig.log.join("tile/0/001");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[33] ^= 1;
    fs::write(&tile, bytes).unwrap();
    let told = "tile/0/001, hash 1, is not what the entries say; the entries are those that were signed";
    assert_eq!(rig.on_log("verify").field("result"), told);
    fs::remove_file(rig.log.join("checkpoint")).unwrap();
    assert!(rig.on_log("verify").field("result").contains("no checkpoint"));
}

#[test]
fn an_old_copy_is_found_by_a_checkpoint_that_was_kept() {
    let rig = Rig::with_entries(300);
    let said = rig.on_log("verify --save-checkpoint seen");
    assert_eq!((said.code, said.field("saved")), (0, "seen".to_owned()));
    let old: PathBuf = rig.work.join("old");
    copy(&rig.log, &old);
    let log = rig.open();
    rig.append(&log, 300..700);
    drop(log);

    // the log grew: what was seen is part of it, and is replaced by what is seen now
    let again = rig.on_log("verify --save-checkpoint seen");
    assert!(again.code == 1 && again.stderr.contains("exists already"), "{}", again.stderr);
    let said = rig.on_log("verify --checkpoint seen --save-checkpoint seen");
    assert_eq!(said.code, 0, "{}", said.stdout);
    assert_eq!(said.field("result"), "valid up to 700, which holds all of the 300 of a checkpoint from elsewhere");
    // the old copy is in order, by itself
    let of_old = |line: &str| rig.run(&format!("{line} --dir old --key log.vkey"));
    assert_eq!(of_old("verify").field("result"), "valid up to 300, freshness unknown");
    let said = of_old("verify --checkpoint seen --save-checkpoint seen");
    assert_eq!((said.code, said.field("index")), (1, "300".to_owned()));
    assert!(said.field("result").ends_with("it was set back"), "{}", said.stdout);
    assert_eq!(rig.on_log("verify --checkpoint seen").code, 0, "what was seen is kept");
    // a fork: it goes on from the old copy, under the same key
    let fork = Rig { log: old, work: rig.work.clone(), auditor: None, _folder: tempfile::tempdir().unwrap() };
    let log = fork.open();
    fork.append(&log, 1000..1400);
    drop(log);
    assert_eq!(of_old("verify").code, 0);
    let said = of_old("verify --checkpoint seen");
    assert!(said.code == 1 && said.field("result").contains("forked"), "{}", said.stdout);
    // a checkpoint of no use is no verdict on the log
    fs::write(rig.work.join("noise"), "noise").unwrap();
    let said = rig.on_log("verify --checkpoint noise");
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.contains("noise is of no use"), "{}", said.stderr);
}

#[test]
fn a_proof_is_checked_without_the_log_and_accuses_a_log_that_lost_the_entry() {
    let rig = Rig::with_entries(300);
    let said = rig.on_log("prove 123 --out receipt");
    assert_eq!((said.code, said.field("signed"), said.field("out")), (0, "300".into(), "receipt".into()));
    let shown = rig.on_log("prove 123");
    assert_eq!(shown.stdout, fs::read_to_string(rig.work.join("receipt")).unwrap());
    assert!(shown.stdout.starts_with("c2sp.org/tlog-proof@v1\n"));
    assert_eq!(rig.on_log("prove 123 --output json").json()["proof"], shown.stdout);
    let said = rig.on_log("prove 300");
    assert!(said.code == 1 && said.stderr.contains("entry 300 is not signed yet"), "{}", said.stderr);

    let said = rig.run("verify --key log.vkey --receipt receipt");
    assert_eq!((said.code, said.field("valid"), said.field("receipt_index")), (0, "true".into(), "123".into()));
    let said = rig.on_log("verify --receipt receipt");
    assert_eq!((said.code, said.field("receipt_kept")), (0, "true".to_owned()));
    // without the log: a checkpoint of the receipt's size is the same one, or tells that it was forked
    let fork = Rig::new();
    let log = fork.open();
    fork.append(&log, 9000..9300);
    drop(log);
    fs::copy(rig.log.join("checkpoint"), rig.work.join("same")).unwrap();
    fs::copy(fork.log.join("checkpoint"), rig.work.join("fork")).unwrap();
    let line = "verify --key log.vkey --receipt receipt --checkpoint";
    assert_eq!(rig.run(&format!("{line} same")).field("valid"), "true");
    let said = rig.run(&format!("{line} same --checkpoint fork"));
    assert!(said.code == 1 && said.field("result").contains("forked"), "{}", said.stdout);
    // the log goes on, and the receipt stays good
    let log = rig.open();
    rig.append(&log, 300..400);
    drop(log);
    fs::copy(rig.log.join("checkpoint"), rig.work.join("later")).unwrap();
    let said = rig.run(&format!("{line} later"));
    assert!(said.code == 2 && said.stderr.contains("wants the log"), "{}", said.stderr);
    assert_eq!(rig.on_log("verify --receipt receipt").code, 0);
    // another history under the same key
    let other = Rig::with_entries(50);
    let log = other.open();
    other.append(&log, 9000..9400);
    drop(log);
    let said = rig.run(&format!("verify --receipt receipt --key log.vkey --dir {}", other.log.display()));
    assert!(said.code == 1 && said.field("result").contains("forked"), "{}", said.stdout);
    // nobody's receipt
    let altered = shown.stdout.replace("index 123", "index 124");
    fs::write(rig.work.join("altered"), altered).unwrap();
    for line in ["verify --key log.vkey --receipt altered", "verify --key log.vkey --receipt log.vkey"] {
        let said = rig.run(line);
        assert!(said.code == 1 && said.field("result").contains("the receipt proves nothing"), "{}", said.stdout);
    }
    assert_eq!(rig.run("verify --key log.vkey").code, 2, "neither log nor receipt");
}

/// The receipt of an entry that is appended now, as its caller gets it.
fn receipt(log: &Log, number: u64) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { log.lane().append_for_receipt(draft(number)).receipt.await.unwrap().encode() })
}

#[test]
fn a_receipt_that_came_with_an_answer_accuses_a_log_that_has_not_kept_it() {
    let rig = Rig::with_entries(300);
    copy(&rig.log, &rig.work.join("old"));
    let log = rig.open();
    let bytes = receipt(&log, 300);
    rig.append(&log, 301..310);
    drop(log);
    let base64 = STANDARD.encode(&bytes);
    // the bytes, and as clients show them
    for (name, content) in [
        ("receipt", bytes.clone()),
        ("padded", format!("{base64}\n").into()),
        ("in-lines", format!("{}\n{}\n", &base64[..76], &base64[76..]).into()),
        ("unpadded", base64.trim_end_matches('=').into()),
    ] {
        fs::write(rig.work.join(name), content).unwrap();
        let said = rig.run(&format!("verify --key log.vkey --receipt {name}"));
        assert_eq!((said.code, said.field("valid"), said.field("receipt_index")), (0, "true".into(), "300".into()));
        assert!(said.field("result").contains("promised") && said.field("batch") == "300 to 300", "{}", said.stdout);
    }
    let said = rig.on_log("verify --receipt receipt");
    assert_eq!((said.code, said.field("receipt_kept"), said.field("receipt_index")), (0, "true".into(), "300".into()));
    // an old copy, and another history: valid but for the receipt
    let said = rig.run("verify --key log.vkey --dir old");
    assert_eq!((said.code, said.field("valid")), (0, "true".to_owned()));
    let said = rig.run("verify --key log.vkey --dir old --receipt receipt");
    let expected =
        "the log has 300 entries, and a receipt was given for entry 300 when there were 301: it was set back";
    assert_eq!((said.code, said.field("result"), said.field("index")), (1, expected.to_owned(), "300".to_owned()));
    let other = Rig::with_entries(300);
    let log = other.open();
    other.append(&log, 9000..9020);
    drop(log);
    let said = rig.run(&format!("verify --receipt receipt --key log.vkey --dir {}", other.log.display()));
    assert!(said.code == 1 && said.field("result").contains("altered, or forked"), "{}", said.stdout);
    // nobody's receipt, and what goes with none
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(rig.work.join("altered"), altered).unwrap();
    fs::write(rig.work.join("cut"), &bytes[..80]).unwrap();
    for line in ["altered", "cut", "altered --dir old"] {
        let said = rig.run(&format!("verify --key log.vkey --receipt {line}"));
        assert!(said.code == 1 && said.field("result").contains("the receipt proves nothing"), "{}", said.stdout);
    }
    fs::copy(rig.log.join("checkpoint"), rig.work.join("seen")).unwrap();
    let said = rig.run("verify --key log.vkey --receipt receipt --checkpoint seen");
    assert!(said.code == 2 && said.stderr.contains("wants the log"), "{}", said.stderr);
}

#[test]
fn entries_are_found_by_who_what_when_and_how_it_ended() {
    let rig = Rig::with_entries(100);
    assert_eq!(indexes(&rig.read_only("tail")), (90..100).collect::<Vec<_>>());
    assert_eq!(indexes(&rig.read_only("tail -n 2 --output json")), [98, 99]);
    assert_eq!(rig.read_only("tail -n 1000").len(), 100);
    let first = &rig.read_only("tail -n 100")[0];
    assert_eq!((&first["operation"], &first["from"]), (&"Decrypt".into(), &"192.0.2.7:99".into()));

    let every = |step: usize, from: u64| (from..100).step_by(step).collect::<Vec<u64>>();
    for (line, expected) in [
        ("--outcome failed", [vec![7], every(10, 9)].concat()),
        ("--outcome invalid_ciphertext", every(10, 9)),
        ("--outcome KEY_DISABLED", vec![7]),
        ("--operation batchdecrypt", vec![7]),
        ("--subject user-1", every(3, 1)),
        ("--subject 00000000000000000000000000000002", every(3, 2)),
        ("--subject system", vec![]),
        ("--path kms/keys/00000000-0000-4000-8000-000000000003", every(5, 3)),
        ("--key-id 00000000-0000-4000-8000-000000000004", every(5, 4)),
        ("--key-id 11111111-0000-4000-8000-000000000000", vec![7]),
        ("--request-id 00000000000000000000000000000010", vec![16]),
        ("--from 2027-01-15T08:01:35Z", every(1, 95)),
        ("--from 2027-01-15T08:00:10Z --to 2027-01-15T08:00:12Z", vec![10, 11]),
        ("--subject user-0 --key-id 00000000-0000-4000-8000-000000000000 --outcome done", every(15, 0)),
    ] {
        assert_eq!(indexes(&rig.read_only(&format!("search {line}"))), expected, "{line}");
    }
    let said = rig.run("search --dir nowhere");
    assert!(said.code == 1 && said.stderr.contains("holds no audit log"), "{}", said.stderr);
    assert_eq!(rig.run("tail").code, 2, "which log?");
}

#[test]
fn names_and_addresses_are_shown_to_the_auditor_until_they_are_shredded() {
    let mut rig = Rig::new();
    let made = rig.run("keygen --out auditor.key --output json");
    let public: [u8; 32] = hex::decode(made.json()["public_key"].as_str().unwrap()).unwrap().try_into().unwrap();
    assert_eq!(rig.run("keygen --out auditor.key").code, 1, "a key is not replaced");
    rig.auditor = Some(AuditorPublic::from_bytes(public).unwrap());
    rig.append(&rig.open(), 0..20);

    assert!(rig.read_only("search --subject user-1").is_empty());
    let sealed = &rig.read_only("tail -n 1")[0];
    assert!(sealed["from"].is_null() && sealed["sealed"].is_object(), "{sealed}");
    let opened = rig.read_only("search --subject user-1 --personal-key auditor.key");
    assert_eq!((opened.len(), &opened[0]["from"]), (7, &"192.0.2.7:99".into()));
    let said = rig.on_log("export --personal-key auditor.key --jsonl -");
    assert_eq!(said.stdout.matches("192.0.2.7").count(), 20);
    for name in fs::read_dir(rig.log.join("personal")).unwrap() {
        fs::remove_file(name.unwrap().path()).unwrap();
    }
    assert!(rig.read_only("search --subject user-1 --personal-key auditor.key").is_empty());
    assert_eq!(rig.on_log("verify").code, 0, "a shredded log still verifies");
}

#[test]
fn an_export_is_whole_new_and_what_others_read() {
    let rig = Rig::with_entries(600);
    let lines = rig.on_log("export --jsonl -");
    assert_eq!((lines.code, lines.stdout.lines().count(), lines.stderr.as_str()), (0, 600, ""));
    let said = rig.on_log("export --jsonl all.jsonl");
    assert_eq!((said.code, said.field("entries")), (0, "600".to_owned()));
    assert_eq!(fs::read_to_string(rig.work.join("all.jsonl")).unwrap(), lines.stdout);
    assert_eq!(rig.on_log("export --jsonl all.jsonl").code, 1);
    assert_eq!(rig.on_log("export --jsonl all.jsonl --force").code, 0);

    let said = rig.on_log("export --tlog out --output json");
    assert_eq!((said.code, &said.json()["entries"]), (0, &600.into()), "{}", said.stderr);
    let out = rig.work.join("out");
    for path in ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88", "tile/0/002.p/88", "tile/1/000.p/2"] {
        assert!(out.join(path).is_file(), "{path}");
    }
    for path in ["checkpoint", "tile/0/000", "tile/0/001"] {
        assert_eq!(fs::read(out.join(path)).unwrap(), fs::read(rig.log.join(path)).unwrap(), "{path}");
    }
    // the bundles together are the segment
    let bundles =
        ["000", "001", "002.p/88"].map(|name| fs::read(out.join("tile/entries").join(name)).unwrap()).concat();
    assert!(fs::read(rig.log.join("segment/0000000000")).unwrap().starts_with(&bundles));
    let said = rig.on_log("export --tlog out");
    assert!(said.code == 1 && said.stderr.contains("nothing is replaced"), "{}", said.stderr);
    // nothing of a log that is not what was signed
    let segment = rig.log.join("segment/0000000000");
    fs::write(&segment, &fs::read(&segment).unwrap()[..bundles.len() - 1]).unwrap();
    let said = rig.on_log("export --tlog second");
    assert!(said.code == 1 && said.stderr.contains("audit verify"), "{}", said.stderr);
    assert_eq!(rig.names(), ["all.jsonl", "log.vkey", "out"]);
}

#[test]
fn a_log_is_verified_and_followed_beside_its_writer() {
    let rig = Rig::with_entries(10);
    let log = rig.open();
    let child = rig.command(&format!("tail -n 1 --follow --dir {}", rig.log.display())).stdout(Stdio::piped()).spawn();
    let mut follower = Follower(child.unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let mut next = 9;
    let mut follow_to = |end: u64| {
        while next < end {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(line["index"], next);
            next += 1;
        }
    };
    follow_to(10);
    let until = Instant::now() + Duration::from_secs(3);
    let mut round = 10;
    while Instant::now() < until {
        rig.append(&log, round..round + 200);
        round += 200;
        let said = rig.on_log("verify --output json");
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
        assert!(said.json()["signed"].as_u64() >= Some(round), "{}", said.stdout);
        let proof = rig.on_log(&format!("prove {}", round - 1));
        assert_eq!(proof.code, 0, "{}", proof.stderr);
        follow_to(round);
    }
    assert!(round > 400, "only {round} entries");
    // while it writes, without a pause
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..30).for_each(|n| rig.append(&log, round + n * 100..round + (n + 1) * 100)));
        let mut runs = 0;
        while !writer.is_finished() || runs == 0 {
            let said = rig.on_log("verify");
            assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
            runs += 1;
        }
    });
}

/// Ends with the test.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
