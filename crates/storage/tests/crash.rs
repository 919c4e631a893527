//! The embedded store and a process that is killed: each test starts itself again as the process that dies.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use storage::{AtLeast, Batch, CommitId, EntryPath, Revision, Sqlite, Storage, StorageError};

/// Set where a test runs as the child: the folder to work in.
const FOLDER: &str = "STRONGROOM_TEST_FOLDER";
const TASKS: u64 = 8;

fn as_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn itself(test: &str, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn id(task: u64, number: u64) -> CommitId {
    CommitId((u128::from(task) << 64 | u128::from(number)).to_be_bytes())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Both halves of a pair; long, so that the log is checkpointed again and again.
fn half(number: u64) -> Vec<u8> {
    let mut value = number.to_string().into_bytes();
    value.resize(6000, b' ');
    value
}

async fn read(store: &dyn Storage, at: &str) -> Option<u64> {
    let (_, entries) = store.get(&[path(at)], AtLeast::Latest).await.unwrap();
    let entry = entries.into_iter().next().flatten()?;
    assert_eq!(entry.value.len(), 6000);
    Some(std::str::from_utf8(&entry.value).unwrap().trim().parse().unwrap())
}

async fn write_for_ever(store: Arc<Sqlite>, task: u64) {
    let first = read(&*store, &format!("t/{task}/left")).await.map_or(0, |last| last + 1);
    for number in first.. {
        let batch = Batch::new(id(task, number))
            .absent(path(&format!("t/{task}/log/{number:08}")))
            .put(path(&format!("t/{task}/left")), half(number))
            .put(path(&format!("t/{task}/log/{number:08}")), "")
            .put(path(&format!("t/{task}/right")), half(number));
        let revision = store.commit(batch).await.unwrap();
        println!("ack {task} {number} {}", revision.0);
    }
}

/// What the child told until it was killed: the last acknowledged number of each task, with its revision.
fn acknowledged(child: &mut Child, kill_after: usize, pause: Duration, all: &mut BTreeMap<(u64, u64), Revision>) {
    let mut left = kill_after;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let numbers: Vec<u64> = ack.split(' ').map(|number| number.parse().unwrap()).collect();
        all.insert((numbers[0], numbers[1]), Revision(numbers[2]));
        left = left.saturating_sub(1);
        if left == 0 {
            std::thread::sleep(pause);
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_the_rest_is_all_or_nothing() {
    if let Some(folder) = as_child() {
        let store = Arc::new(Sqlite::open(&folder).unwrap());
        runtime().block_on(async {
            let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(write_for_ever(Arc::clone(&store), task))).collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acks = BTreeMap::new();
    for round in 0..12_u64 {
        let mut child = itself("what_was_acknowledged_survives_kill_9_and_the_rest_is_all_or_nothing", folder.path());
        let kill_after = usize::try_from(1 + round * 150).unwrap();
        acknowledged(&mut child, kill_after, Duration::from_micros(round * 377), &mut acks);
        let begun = std::time::Instant::now();
        let store = Sqlite::open(folder.path()).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "recovers in {:?}", begun.elapsed());
        runtime().block_on(verify(&store, &acks));
    }
    assert!(acks.len() > 2000, "{}", acks.len());
}

async fn verify(store: &Sqlite, acks: &BTreeMap<(u64, u64), Revision>) {
    for ((task, number), revision) in acks {
        assert_eq!(store.committed(id(*task, *number)).await, Ok(Some(*revision)), "{task} {number}");
    }
    for task in 0..TASKS {
        let (left, right) =
            (read(store, &format!("t/{task}/left")).await, read(store, &format!("t/{task}/right")).await);
        assert_eq!(left, right, "a batch is all or nothing");
        let last_acknowledged = acks.range((task, 0)..=(task, u64::MAX)).next_back().map(|((_, number), _)| *number);
        assert!(left >= last_acknowledged, "{left:?} {last_acknowledged:?}");
        let mut logged = 0;
        let mut after = None;
        loop {
            let prefix = path(&format!("t/{task}/log"));
            let page = store.scan(&prefix, after.as_ref(), 1000, AtLeast::Latest).await.unwrap();
            logged += page.entries.len() as u64;
            after = page.entries.last().map(|(path, _)| path.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(logged, left.map_or(0, |left| left + 1));
        assert_eq!(after, left.map(|left| path(&format!("t/{task}/log/{left:08}"))));
        let next = left.map_or(0, |left| left + 1);
        assert_eq!(store.committed(id(task, next)).await, Ok(None));
    }
}

#[test]
fn a_second_process_is_refused_until_the_first_is_gone() {
    if let Some(folder) = as_child() {
        let store = Sqlite::open(&folder).unwrap();
        println!("\nholds it");
        // until the parent kills it
        std::io::stdin().lines().for_each(drop);
        drop(store);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = itself("a_second_process_is_refused_until_the_first_is_gone", folder.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holds it"));
    assert_eq!(Sqlite::open(folder.path()).unwrap_err(), StorageError::Held);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Sqlite::open(folder.path()).is_ok());
}
