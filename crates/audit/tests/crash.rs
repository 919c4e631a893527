//! The log and what can happen to it: the writer killed, no space left, a read-only disk. Each test starts itself again as the
//! process to which it happens.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails")]

use audit::{AuditError, AuditSink, FileSink};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Set where a test runs as the child: the folder to work in.
const FOLDER: &str = "STRONGROOM_TEST_FOLDER";

fn as_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn itself(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

fn line(caller: usize, number: usize) -> Bytes {
    // long enough that batches span pages
    format!("{{\"caller\":{caller},\"number\":{number},\"pad\":\"{:0200}\"}}\n", number).into()
}

fn parse(line: &str) -> (usize, usize) {
    let rest = line.strip_prefix("{\"caller\":").unwrap();
    let (caller, rest) = rest.split_once(",\"number\":").unwrap();
    let (number, pad) = rest.split_once(",\"pad\":\"").unwrap();
    let (caller, number) = (caller.parse().unwrap(), number.parse().unwrap());
    assert_eq!(pad, format!("{number:0200}\"}}"), "a line is whole");
    (caller, number)
}

/// Two runtimes with callers that never stop and tell each acknowledgement.
fn write_for_ever(path: &Path, first: usize) {
    let sink = FileSink::open(path).unwrap();
    std::thread::scope(|threads| {
        for runtime in 0..2 {
            let sink = &sink;
            threads.spawn(move || {
                let local = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                local.block_on(async {
                    let lane = sink.lane();
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
        lane.append(line(caller, number)).await.unwrap();
        println!("ack {caller} {number}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    if let Some(folder) = as_child() {
        let first = std::fs::read_to_string(folder.join("first")).unwrap().parse().unwrap();
        write_for_ever(&folder.join("audit.log"), first);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let mut acknowledged: BTreeMap<(usize, usize), ()> = BTreeMap::new();
    for round in 0..12_usize {
        std::fs::write(folder.path().join("first"), (round * 1_000_000).to_string()).unwrap();
        let mut child = itself("what_was_acknowledged_survives_kill_9_at_any_moment", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
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
                std::thread::sleep(Duration::from_micros(u64::try_from(round).unwrap() * 313));
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        drop(FileSink::open(&path).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let mut missing = acknowledged.clone();
        for line in text.lines() {
            let (caller, number) = parse(line);
            missing.remove(&(caller, number));
            let before = last.insert(caller, number);
            assert!(before.is_none_or(|before| before < number), "in order, and none twice");
        }
        assert!(missing.is_empty(), "round {round}: {missing:?} of {}", acknowledged.len());
    }
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
}

/// Where the child's disk is small, and how it gets room again.
enum Small {
    /// A tmpfs of its own; room comes from removing `filler`.
    Mount,
    /// A limit of its files' size, which it may raise.
    Limit,
}

#[test]
fn a_full_disk_refuses_and_the_log_recovers_in_place() {
    let test = "a_full_disk_refuses_and_the_log_recovers_in_place";
    if let Some(folder) = as_child() {
        let mounted = folder.join("mounted").exists();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fill_and_free(&folder, &if mounted { Small::Mount } else { Small::Limit }));
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

async fn fill_and_free(folder: &Path, small: &Small) {
    let path = folder.join("audit.log");
    let filler = folder.join("filler");
    let sink = FileSink::open(&path).unwrap();
    let lane = sink.lane();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for round in 0..8_u64 {
        shrink(small, &filler, &path);
        let mut refused = 0;
        while refused < 3 {
            let answers: Vec<_> = (0..64).map(|caller| (caller, lane.append(line(caller, number)))).collect();
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
            lane.append(line(caller, number)).await.unwrap();
            acknowledged.push((caller, number));
        }
        number += 1;
    }
    drop(sink);
    holds(&path, &acknowledged);
    if matches!(small, Small::Mount) {
        on_a_read_only_disk(folder, &path).await;
    }
    // the next mode begins anew
    std::fs::remove_file(&path).unwrap();
}

fn holds(path: &Path, acknowledged: &[(usize, usize)]) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let found: Vec<_> = text.lines().map(parse).collect();
    assert_eq!(found, acknowledged, "what was refused for want of room is not there");
}

fn shrink(small: &Small, filler: &Path, path: &Path) {
    match small {
        Small::Mount => {
            // all but a little: what is left is less than the zeros that are written ahead
            let zeros = vec![0; 4096];
            let mut file = std::fs::File::create(filler).unwrap();
            while file.write_all(&zeros).is_ok() {}
            let full = file.metadata().unwrap().len();
            file.set_len(full.saturating_sub(100 << 10)).unwrap();
        }
        Small::Limit => set_limit(std::fs::metadata(path).unwrap().len() + (50 << 10)),
    }
}

fn widen(small: &Small, filler: &Path) {
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

async fn on_a_read_only_disk(folder: &Path, path: &Path) {
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", how]).arg(folder).status().unwrap();
        assert!(status.success());
    };
    let before = std::fs::read(path).unwrap();
    remount("remount,ro");
    let refused = FileSink::open(path);
    assert!(
        matches!(&refused, Err(audit::file::OpenError::Io(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
    );
    remount("remount,rw");
    let sink = FileSink::open(path).unwrap();
    sink.lane().append(line(0, 0)).await.unwrap();
    drop(sink);
    assert!(std::fs::read(path).unwrap() == [&before[..], &line(0, 0)].concat());
}
