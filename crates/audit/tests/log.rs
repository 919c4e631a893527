//! The log and what can happen to it: the writer killed, no space left, a read-only disk. Each test starts itself again as the
//! process to which it happens.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails")]

use audit::checkpoint::Checkpoint;
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogReader};
use audit::record::{AuditorSecret, Entry};
use audit::verify::{Options, Report, verify};
use audit::{
    AuditError, AuditSink, CheckpointSigner, Log, LogOptions, OpenError, Record, SignError, Standing, Subject,
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use envelope::merkle::{Hash, verify_consistency};
use envelope::{ManualClock, Timestamp};
use futures_util::future::{BoxFuture, FutureExt};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Set where a test runs as the child: the folder to work in.
const FOLDER: &str = "STRONGROOM_TEST_FOLDER";
const ORIGIN: &str = "strongroom.audit/c0ffee/1";

fn as_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn itself(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

/// Remembers the last it signed in a file, before the signature leaves, and signs what extends it.
#[derive(Debug)]
struct Boundary(PathBuf);

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

impl CheckpointSigner for Boundary {
    fn verifier(&self) -> [u8; 32] {
        pair().public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        proof: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let remembered = self.0.clone();
        async move {
            let body = Checkpoint { origin, size, root }.body();
            let last = std::fs::read_to_string(&remembered).ok().filter(|last| *last != body);
            if let Some(last) = last {
                let last = Checkpoint::parse(&last).unwrap();
                verify_consistency(last.size, &last.root, size, &root, &proof).map_err(|_| SignError::Forked)?;
            }
            let new = remembered.with_extension("new");
            // its disk may be the full one
            let kept = std::fs::write(&new, &body).and_then(|()| std::fs::rename(new, remembered));
            kept.map_err(|_| SignError::Unavailable)?;
            Ok(pair().sign(body.as_bytes()).as_ref().try_into().unwrap())
        }
        .boxed()
    }

    fn sign_batch(&self, batch: audit::receipt::Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let signature = pair().sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
        async move { Ok(signature) }.boxed()
    }
}

fn open(folder: &Path, dir: &Path) -> Result<Arc<Log>, OpenError> {
    Log::open(LogOptions {
        dir: dir.to_owned(),
        origin: ORIGIN.into(),
        node: "1".into(),
        signer: Arc::new(Boundary(folder.join("boundary"))),
        clock: Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_796_083_140_000))),
        checkpoint_every: Duration::from_millis(20),
        personal: Some(AuditorSecret::generate().unwrap().public().unwrap()),
        reserve_bytes: 256 << 10,
        remembered: None,
    })
}

fn verified(dir: &Path, options: &Options) -> Report {
    let key = VerifierKey::ed25519(ORIGIN, Boundary(PathBuf::new()).verifier()).unwrap();
    verify(&LogReader::over(LogFolder::open(dir).unwrap()), &key, options, &mut |_| {}).unwrap()
}

fn record(caller: usize, number: usize) -> Bytes {
    // long enough that batches span pages
    let (id, path) = (format!("{caller} {number}"), format!("{number:0200}"));
    let mut record = Record::new(Timestamp::from_unix_millis(7), &id, "Decrypt", &Subject::System);
    record.path = &path;
    record.from = "192.0.2.1:5";
    record.encode()
}

/// Caller and number of every record, and how many tell of a full disk.
fn records(dir: &Path) -> (Vec<(usize, usize)>, usize) {
    let log = LogReader::over(LogFolder::open(dir).unwrap());
    let (mut entries, mut found, mut full) = (log.iter_from(0).unwrap(), Vec::new(), 0);
    while let Some((_, entry)) = entries.read().unwrap() {
        let entry = Entry::decode(entry).unwrap();
        let record = entry.record();
        if record.operation == "AuditLog" {
            assert_eq!(record.node, "1");
            full += 1;
            continue;
        }
        let (caller, number) = record.request_id.split_once(' ').unwrap();
        let (caller, number) = (caller.parse().unwrap(), number.parse().unwrap());
        assert_eq!(record.path, format!("{number:0200}"));
        found.push((caller, number));
    }
    (found, full)
}

/// Two runtimes with callers that never stop and tell each acknowledgement; one of each wants receipts.
fn write_for_ever(folder: &Path, first: usize) {
    let log = open(folder, &folder.join("audit")).unwrap();
    std::thread::scope(|threads| {
        for runtime in 0..2 {
            let log = &log;
            threads.spawn(move || {
                let local = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                local.block_on(async {
                    let lane = log.lane();
                    let callers: Vec<_> = (0..16)
                        .map(|caller| tokio::spawn(write_and_tell(Arc::clone(&lane), runtime * 16 + caller, first)))
                        .collect();
                    for caller in callers {
                        caller.await.unwrap();
                    }
                });
            });
        }
    });
}

async fn write_and_tell(lane: Arc<dyn AuditSink>, caller: usize, first: usize) {
    for number in first.. {
        if caller.is_multiple_of(16) {
            drop(lane.append_for_receipt(record(caller, number)).receipt.await.unwrap());
        } else {
            lane.append(record(caller, number)).await.unwrap();
        }
        println!("ack {caller} {number}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment_and_the_tree_goes_on() {
    let test = "what_was_acknowledged_survives_kill_9_at_any_moment_and_the_tree_goes_on";
    if let Some(folder) = as_child() {
        let first = std::fs::read_to_string(folder.join("first")).unwrap().parse().unwrap();
        write_for_ever(&folder, first);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let mut acknowledged: BTreeMap<(usize, usize), ()> = BTreeMap::new();
    let mut seen = Options::default();
    for round in 0..12_usize {
        std::fs::write(folder.path().join("first"), (round * 1_000_000).to_string()).unwrap();
        let mut child = itself(test, folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let acks = BufReader::new(child.stdout.take().unwrap());
        let mut after = 1 + round * 97;
        for ack in acks.lines() {
            let ack = ack.unwrap();
            let Some((_, ack)) = ack.split_once("ack ") else { continue };
            let (caller, number) = ack.split_once(' ').unwrap();
            acknowledged.insert((caller.parse().unwrap(), number.parse().unwrap()), ());
            after = after.saturating_sub(1);
            if after == 0 {
                // not at an acknowledgement, but somewhere after it; what the child has told until then is read to the end
                std::thread::sleep(Duration::from_micros(u64::try_from(round).unwrap() * 1313));
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(!dir.join("closed").exists());
        let log = open(folder.path(), &dir).unwrap();
        let mut standings = log.standings();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let agreed = async { *standings.wait_for(|standing| *standing != Standing::Unknown).await.unwrap() };
        assert_eq!(runtime.block_on(agreed), Standing::Agreed, "round {round}");
        drop(log);
        let report = verified(&dir, &seen);
        assert_eq!((report.unsigned(), report.torn, report.tiles_missing), (0, false, 0), "round {round}");
        seen.elsewhere.push(report.checkpoint);
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let mut missing = acknowledged.clone();
        for (caller, number) in records(&dir).0 {
            missing.remove(&(caller, number));
            let before = last.insert(caller, number);
            assert!(before.is_none_or(|before| before < number), "in order, and none twice");
        }
        assert!(missing.is_empty(), "round {round}: {missing:?} of {}", acknowledged.len());
    }
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
}

/// Where the child's disk is small, and how it gets room again.
#[derive(Debug, Clone, Copy)]
enum Small {
    /// A tmpfs of its own; room comes from removing `filler`.
    Mount,
    /// A limit of its files' size, which it may raise.
    Limit,
}

#[test]
fn a_full_disk_refuses_is_recorded_and_the_log_recovers_in_place() {
    let test = "a_full_disk_refuses_is_recorded_and_the_log_recovers_in_place";
    if let Some(folder) = as_child() {
        let mounted = folder.join("mounted").exists();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fill_and_free(&folder, if mounted { Small::Mount } else { Small::Limit }));
        println!("\nchild is done");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=32m none \"$0\" && touch \"$0/mounted\" && exec \"$@\"";
    let limit = "trap '' XFSZ && ulimit -S -f 8192 && exec \"$@\"";
    let unshare = ["--mount", "--map-root-user", "sh", "-c"];
    let may_mount =
        Command::new("unshare").args(unshare).args(["mount -t tmpfs none \"$0\""]).arg(folder.path()).status();
    let mut modes = vec![(limit, false)];
    if may_mount.is_ok_and(|status| status.success()) {
        modes.push((mount, true));
    }
    for (script, mounted) in modes {
        let child = itself(test, folder.path());
        let mut command = if mounted { Command::new("unshare") } else { Command::new("sh") };
        let shell: &[&str] = if mounted { &unshare } else { &["-c"] };
        command.args(shell).arg(script).arg(folder.path()).arg(child.get_program()).args(child.get_args());
        let output = command.env(FOLDER, folder.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("child is done"), "mounted: {mounted}\n{told}\n{errors}");
    }
}

async fn fill_and_free(folder: &Path, small: Small) {
    let (dir, filler) = (folder.join("audit"), folder.join("filler"));
    let segment = dir.join("segment/0000000000");
    let log = open(folder, &dir).unwrap();
    let lane = log.lane();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for round in 0..8_u64 {
        shrink(small, &filler, &segment);
        let mut refused = 0;
        while refused < 200 {
            let answers: Vec<_> = (0..64).map(|caller| (caller, lane.append(record(caller, number)))).collect();
            for (caller, answer) in answers {
                match answer.await {
                    Ok(()) => acknowledged.push((caller, number)),
                    Err(error) => {
                        assert_eq!(error, AuditError::Unavailable);
                        refused += 1;
                    }
                }
            }
            number += 1;
            assert!(number < 10_000, "round {round}: it never became full");
        }
        widen(small, &filler);
        for caller in 0..10 {
            lane.append(record(caller, number)).await.unwrap();
            acknowledged.push((caller, number));
        }
        number += 1;
    }
    let receipt = lane.append_for_receipt(record(0, number)).receipt.await.unwrap();
    acknowledged.push((0, number));
    assert_eq!(receipt.index() + 1, log.size());
    let mut checkpoints = log.checkpoints();
    let covers =
        |signed: &Option<audit::log::Signed>| signed.as_ref().is_some_and(|signed| signed.0.size == log.size());
    tokio::time::timeout(Duration::from_secs(20), checkpoints.wait_for(covers)).await.unwrap().unwrap();
    drop(log);
    let report = verified(&dir, &Options::default());
    assert_eq!((report.unsigned(), report.tiles_missing), (0, 0), "the tree goes on too");
    let (found, full) = records(&dir);
    assert_eq!(found, acknowledged, "what was refused for want of room is not there");
    let expected = if matches!(small, Small::Mount) { 8 } else { 0 };
    assert_eq!(full, expected, "a disk that is full is told once a time, a limit never");
    if matches!(small, Small::Mount) {
        on_a_read_only_disk(folder, &dir).await;
    }
    // the next mode begins anew
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_file(folder.join("boundary")).unwrap();
}

fn shrink(small: Small, filler: &Path, segment: &Path) {
    match small {
        Small::Mount => {
            // all but a little: what is left is less than the zeros that are written ahead
            let zeros = vec![0; 4096];
            let mut file = std::fs::File::create(filler).unwrap();
            while file.write_all(&zeros).is_ok() {}
            let full = file.metadata().unwrap().len();
            file.set_len(full.saturating_sub(100 << 10)).unwrap();
        }
        Small::Limit => set_limit(std::fs::metadata(segment).unwrap().len() + (50 << 10)),
    }
}

fn widen(small: Small, filler: &Path) {
    match small {
        Small::Mount => std::fs::remove_file(filler).unwrap(),
        Small::Limit => set_limit(64 << 20),
    }
}

fn set_limit(bytes: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum }).unwrap();
}

async fn on_a_read_only_disk(folder: &Path, dir: &Path) {
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", how]).arg(folder).status().unwrap();
        assert!(status.success());
    };
    let before = records(dir);
    remount("remount,ro");
    let refused = open(folder, dir);
    assert!(
        matches!(&refused, Err(OpenError::Io(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem),
        "{refused:?}"
    );
    remount("remount,rw");
    let log = open(folder, dir).unwrap();
    log.lane().append(record(0, 0)).await.unwrap();
    drop(log);
    let (found, full) = records(dir);
    assert_eq!((found.split_last().unwrap(), full), ((&(0, 0), &before.0[..]), before.1));
}
