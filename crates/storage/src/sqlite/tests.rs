use super::*;
use crate::contract::{self, Durability};
use crate::{Barrier, BarrierError, Keyring};
use envelope::ManualClock;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn batch(number: u64) -> Batch {
    Batch::new(CommitId(u128::from(number).to_be_bytes()))
}

async fn value(store: &Sqlite, at: &str) -> Option<Vec<u8>> {
    let (_, entries) = store.get(&[path(at)], AtLeast::Latest).await.unwrap();
    entries.into_iter().next().flatten().map(|entry| entry.value.to_vec())
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    contract::judge(|folder| Arc::new(Sqlite::open(folder).unwrap()), Durability::Durable).await;
}

/// `fdatasync` is not among the options that SQLite tells; it is set beside this one.
#[test]
fn sqlite_is_compiled_as_the_workspace_says() {
    let connection = Connection::open_in_memory().unwrap();
    let mut told = connection.prepare("PRAGMA compile_options").unwrap();
    let told: Vec<String> = told.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(told.iter().any(|option| option == "DEFAULT_MEMSTATUS=0"), "{told:?}; see .cargo/config.toml");
}

#[test]
fn one_store_has_one_owner() {
    let folder = folder();
    let store = Sqlite::open(folder.path()).unwrap();
    assert_eq!(Sqlite::open(folder.path()).unwrap_err(), StorageError::Held);
    assert_eq!(restore(store.file(), folder.path()), Err(StorageError::Held));
    drop(store);
    assert!(Sqlite::open(folder.path()).is_ok());
}

#[test]
fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let dir = folder.path().join("a/b");
    let store = Sqlite::open(&dir).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
    drop(store);
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "closed in peace no log is left: {files:?}");
}

#[test]
fn what_is_no_store_of_this_format_is_refused_and_left_alone() {
    let ours = |pragma: &str| {
        let folder = folder();
        drop(Sqlite::open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
        connection.execute_batch(pragma).unwrap();
        drop(connection);
        std::fs::read(folder.path().join(FILE_NAME)).unwrap()
    };
    let foreign = |statements: &str| {
        let file = folder();
        let connection = Connection::open(file.path().join("db")).unwrap();
        connection.execute_batch(statements).unwrap();
        drop(connection);
        std::fs::read(file.path().join("db")).unwrap()
    };
    let not_ours = StorageError::Damaged("the file is not one of this store");
    for (bytes, error) in [
        (ours("PRAGMA user_version = 2"), StorageError::Format { found: 2, known: 1 }),
        (ours("PRAGMA user_version = 0"), StorageError::Format { found: 0, known: 1 }),
        (ours("PRAGMA application_id = 1"), not_ours.clone()),
        (foreign("CREATE TABLE kv(k, rev, v)"), not_ours.clone()),
        (foreign("PRAGMA user_version = 1; CREATE TABLE a(b)"), not_ours),
        (b"this is text, and quite some of it".repeat(200), StorageError::Damaged("the file is not a database")),
    ] {
        let folder = folder();
        let file = folder.path().join(FILE_NAME);
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(Sqlite::open(folder.path()).unwrap_err(), error);
        assert!(std::fs::read(&file).unwrap() == bytes, "{error:?}");
    }
}

/// A closed store with values sealed for their places.
async fn sealed_store() -> (Vec<u8>, impl Fn(Arc<Sqlite>) -> Barrier) {
    let folder = folder();
    let keyring = Keyring::generate().unwrap().encode();
    let open = move |store: Arc<Sqlite>| Barrier::new(store, [7; 16], Keyring::decode(&keyring).unwrap());
    let barrier = open(Arc::new(Sqlite::open(folder.path()).unwrap()));
    for i in 0..40 {
        let at = path(&format!("t/{i:02}"));
        let value = barrier.seal(&at, plain(i).as_bytes()).unwrap();
        barrier.commit(batch(i).put(at, value)).await.unwrap();
    }
    drop(barrier);
    (std::fs::read(folder.path().join(FILE_NAME)).unwrap(), open)
}

fn plain(number: u64) -> String {
    format!("value of {number}").repeat(20)
}

#[tokio::test]
async fn a_damaged_file_never_gives_a_wrong_value() {
    let (sound, open) = sealed_store().await;
    let damages = (0..400_usize).map(|seed| {
        let digest = envelope::mac::sha256(&seed.to_be_bytes());
        let at = usize::from_be_bytes(digest[..8].try_into().unwrap()) % sound.len();
        let mut bytes = sound.clone();
        match seed % 4 {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
            _ => bytes[at] ^= 1 << (digest[8] % 8),
        }
        bytes
    });
    let (mut unharmed, mut named) = (0, 0);
    for bytes in damages {
        let folder = folder();
        std::fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
        let store = match Sqlite::open(folder.path()) {
            Ok(store) => Arc::new(store),
            Err(error) => {
                assert!(matches!(error, StorageError::Damaged(_) | StorageError::Format { .. }), "{error:?}");
                named += 1;
                continue;
            }
        };
        let barrier = open(store);
        let mut harmed = false;
        match barrier.scan(&path("t"), None, 1000, AtLeast::Latest).await {
            Ok(page) => harmed |= !page.entries.iter().all(|(at, opened)| is_right(at, opened.value.expose())),
            Err(BarrierError::Storage(StorageError::Damaged(_)) | BarrierError::Altered(_)) => named += 1,
            Err(error) => panic!("{error:?}"),
        }
        for i in 0..40 {
            match barrier.get(&[path(&format!("t/{i:02}"))], AtLeast::Latest).await {
                Ok((_, entries)) => {
                    let found = entries.into_iter().next().flatten();
                    harmed |= found.is_some_and(|opened| opened.value.expose() != plain(i).as_bytes());
                }
                Err(BarrierError::Storage(StorageError::Damaged(_)) | BarrierError::Altered(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(!harmed);
        unharmed += 1;
    }
    assert!(unharmed > 0 && named > 100, "{unharmed} {named}");
}

fn is_right(at: &EntryPath, value: &[u8]) -> bool {
    let number = at.as_str().strip_prefix("t/").and_then(|number| number.parse().ok());
    number.is_some_and(|number| value == plain(number).as_bytes())
}

#[tokio::test]
async fn a_full_store_refuses_what_does_not_fit_and_recovers_in_place() {
    let folder = folder();
    let options = Options { pages_max: Some(300), ..Options::default() };
    let store = Sqlite::open_with(folder.path(), options).unwrap();
    let mut number = 0;
    for round in 0..3 {
        let mut kept: Vec<String> = Vec::new();
        loop {
            number += 1;
            let at = [format!("t/{number}/a"), format!("t/{number}/b")];
            let pair = batch(number).put(path(&at[0]), vec![1; 20_000]).put(path(&at[1]), vec![2; 20_000]);
            match store.commit(pair.clone()).await {
                Ok(_) => kept.extend(at),
                Err(error) => {
                    assert_eq!(error, CommitError::Storage(StorageError::Full));
                    assert_eq!(store.committed(pair.id).await, Ok(None));
                    assert!(value(&store, &at[0]).await.is_none() && value(&store, &at[1]).await.is_none());
                    break;
                }
            }
            assert!(number < 1000, "it never became full");
        }
        assert!(kept.len() >= 20, "round {round}: {}", kept.len());
        // a group of which some fit
        let group = (0..20).map(|i| {
            let length = if i % 2 == 0 { 500_000 } else { 10 };
            store.commit(batch(1_000_000 + round * 100 + i).put(path(&format!("u/{i}")), vec![3; length]))
        });
        let outcomes = join_all(group).await;
        assert!(outcomes.iter().any(Result::is_ok), "what fits is not lost with what does not: {outcomes:?}");
        for (i, outcome) in outcomes.into_iter().enumerate() {
            assert!(i % 2 == 1 || outcome == Err(CommitError::Storage(StorageError::Full)), "{i} {outcome:?}");
            let there = value(&store, &format!("u/{i}")).await.is_some();
            assert!(outcome.is_err() || there, "{i}");
        }
        // reading goes on, and taking away makes room
        for at in &kept {
            assert_eq!(value(&store, at).await.unwrap().len(), 20_000);
        }
        for pair in kept.chunks(2) {
            number += 1;
            store.commit(batch(number).delete(path(&pair[0])).delete(path(&pair[1]))).await.unwrap();
        }
    }
    assert!(tokio::time::timeout(Duration::from_millis(10), store.failed()).await.is_err(), "full is not failed");
}

#[tokio::test]
async fn a_store_that_cannot_make_a_commit_durable_has_failed_for_good() {
    let folder = folder();
    let fails = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&fails);
    let store = Sqlite::start(folder.path(), Options::default(), |connection| {
        // stands for a sync that fails: nobody can tell what of the commit is on the disk
        connection.commit_hook(Some(move || asked.load(Ordering::Relaxed)))
    });
    let store = store.unwrap();
    let before = store.commit(batch(1).put(path("t/a"), "1")).await.unwrap();
    let mut changes = store.watch(&path("t"), before);
    fails.store(true, Ordering::Relaxed);
    assert_eq!(store.commit(batch(2).put(path("t/a"), "2")).await, Err(CommitError::Unknown));
    tokio::time::timeout(Duration::from_secs(5), store.failed()).await.unwrap();
    fails.store(false, Ordering::Relaxed);
    let unavailable = CommitError::Storage(StorageError::Unavailable);
    assert_eq!(store.commit(batch(3).put(path("t/a"), "3")).await, Err(unavailable));
    assert_eq!(store.get(&[path("t/a")], AtLeast::Latest).await, Err(StorageError::Unavailable));
    assert_eq!(store.committed(CommitId([0; 16])).await, Err(StorageError::Unavailable));
    assert_eq!(store.claim(&path("t"), 1, Duration::ZERO).await, Err(StorageError::Unavailable));
    assert_eq!(store.backup(&folder.path().join("backup")).await, Err(StorageError::Unavailable));
    let told = futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut changes)).flatten();
    assert_eq!(told, None, "nobody heard of what is not durable");
    drop(store);
    let store = Sqlite::open(folder.path()).unwrap();
    assert_eq!(store.committed(batch(2).id).await, Ok(None), "the next start tells what is");
    assert_eq!(value(&store, "t/a").await.unwrap(), b"1");
}

fn aged(clock: &ManualClock, steady: &ManualClock) -> Options {
    Options { clock: Arc::new(clock.clone()), steady: Arc::new(steady.clone()), ..Options::default() }
}

#[tokio::test]
async fn an_id_is_known_for_an_hour_and_forgotten_in_the_end() {
    let folder = folder();
    let clock = ManualClock::at(envelope::Timestamp::from_unix_millis(1_700_000_000_000));
    let options = || aged(&clock, &clock);
    let mut store = Sqlite::open_with(folder.path(), options()).unwrap();
    let first = store.commit(batch(1).put(path("t/a"), "1")).await.unwrap();
    let mut number = 1;
    for minute in 1..=180 {
        clock.advance(Duration::from_secs(60));
        number += 1;
        store.commit(batch(number)).await.unwrap();
        if minute % 25 == 0 {
            drop(store);
            store = Sqlite::open_with(folder.path(), options()).unwrap();
        }
        let known = store.committed(batch(1).id).await.unwrap();
        assert!(known == Some(first) || (known.is_none() && minute > 60), "minute {minute}: {known:?}");
        assert!(minute < 150 || known.is_none(), "minute {minute}");
        assert_eq!(store.commit(batch(number)).await.unwrap(), Revision(number), "of the same minute");
    }
    // a clock that goes back forgets nothing
    clock.set(envelope::Timestamp::from_unix_millis(1_600_000_000_000));
    store.commit(batch(500)).await.unwrap();
    assert_eq!(store.committed(batch(number).id).await, Ok(Some(Revision(number))));
    assert_eq!(store.commit(batch(500)).await, Ok(Revision(number + 1)));
}

/// However many were committed within the hour: a start reads the table's ends, and who asks for an id a row of each slot.
#[test]
fn ids_are_looked_for_without_reading_all_of_them() {
    let folder = folder();
    let connection = schema::open_or_make(&folder.path().join("store.db")).unwrap();
    let steps = |text: &str, id: Option<i64>| {
        let mut asked = connection.prepare(text).unwrap();
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1).unwrap_or_default()));
        let found = match id {
            Some(id) => asked.query_row([id.to_be_bytes()], read),
            None => asked.query_row([], read),
        };
        let found: (Option<i64>, Option<i64>) = found.unwrap_or_default();
        (found, asked.get_status(rusqlite::StatementStatus::VmStep))
    };
    let mut rows = 0;
    for (slots, count) in [(1, 0_i64), (1, 1), (4, 20_000)] {
        connection.execute_batch("BEGIN").unwrap();
        let mut put = connection.prepare("INSERT INTO commits VALUES(?1, ?2, ?3)").unwrap();
        for row in rows..count {
            put.execute((7 + row % slots, row.to_be_bytes(), row)).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        rows = count;
        let (first, last) = ((count > 0).then_some(0), (count > 0).then_some(count - 1));
        let ends = first.map(|_| (7, 6 + slots));
        for (text, asked, expected) in [
            (ids::ENDS, None, ends.unzip()),
            (ids::FIND, Some(0), (first, None)),
            (ids::FIND, Some(count - 1), (last, None)),
            (ids::FIND, Some(count), (None, None)),
        ] {
            let (found, steps) = steps(text, asked);
            assert_eq!(found, expected, "{count}: {text}");
            assert!(steps < 500, "{count}: {text}: {steps} steps");
        }
    }
}

/// The machine's clock jumps every minute, and in the middle the process ends.
#[tokio::test]
async fn a_clock_that_jumps_neither_forgets_an_id_nor_keeps_it() {
    const START: u64 = 1_700_000_000_000;
    let day = |count: u64| envelope::Timestamp::from_unix_millis(START + count * 86_400_000);
    for jump in [|minute| minute, |minute| 400 - minute, |minute| minute % 2 * 300] {
        let folder = folder();
        let (clock, steady) = (ManualClock::at(day(jump(0))), ManualClock::default());
        let mut store = Sqlite::open_with(folder.path(), aged(&clock, &steady)).unwrap();
        let first = store.commit(batch(1).put(path("t/a"), "1")).await.unwrap();
        for minute in 1..=180 {
            steady.advance(Duration::from_secs(60));
            clock.set(day(jump(minute)));
            if minute == 45 {
                drop(store);
                store = Sqlite::open_with(folder.path(), aged(&clock, &ManualClock::default())).unwrap();
                drop(store);
                store = Sqlite::open_with(folder.path(), aged(&clock, &steady)).unwrap();
            }
            store.commit(batch(minute + 1)).await.unwrap();
            let known = store.committed(batch(1).id).await.unwrap();
            assert!(known == Some(first) || (known.is_none() && minute > 60), "minute {minute}: {known:?}");
            assert!(minute < 155 || known.is_none(), "minute {minute}: kept");
        }
    }
}

/// A store of an older version numbers its slots by the machine's clock, and that was once far ahead.
#[tokio::test]
async fn ids_of_a_future_that_was_none_are_forgotten_in_the_end() {
    let folder = folder();
    let now = envelope::Timestamp::from_unix_millis(1_700_000_000_000);
    let (clock, steady) = (ManualClock::at(now), ManualClock::default());
    let store = Sqlite::open_with(folder.path(), aged(&clock, &steady)).unwrap();
    store.commit(batch(1)).await.unwrap();
    drop(store);
    let ahead = "DELETE FROM commits WHERE id = x''; UPDATE commits SET slot = slot + 1000000";
    rusqlite::Connection::open(folder.path().join("store.db")).unwrap().execute_batch(ahead).unwrap();
    // no process lives as long as a slot
    for start in 1..=12 {
        let store = Sqlite::open_with(folder.path(), aged(&clock, &ManualClock::default())).unwrap();
        store.commit(batch(100 + start)).await.unwrap();
        let known = store.committed(batch(1).id).await.unwrap();
        // at every second start a slot begins, at the ninth the fifth
        assert_eq!(known.is_some(), start < 9, "start {start}");
        clock.advance(Duration::from_secs(20 * 60));
    }
}

#[tokio::test]
async fn what_is_accepted_is_committed_though_the_store_is_dropped() {
    let folder = folder();
    let store = Sqlite::open(folder.path()).unwrap();
    let mut waiting: Vec<_> = (0..100).map(|i| store.commit(batch(i).put(path(&format!("t/{i}")), "1"))).collect();
    for commit in &mut waiting {
        // handed over with the first poll
        drop(futures_util::FutureExt::now_or_never(commit));
    }
    drop(waiting);
    drop(store);
    let store = Sqlite::open(folder.path()).unwrap();
    let page = store.scan(&path("t"), None, 1000, AtLeast::Latest).await.unwrap();
    assert_eq!(page.entries.len(), 100);
}

#[tokio::test]
async fn a_store_of_a_hundred_thousand_entries_opens_at_once_and_its_log_stays_small() {
    let folder = folder();
    let store = Sqlite::open(folder.path()).unwrap();
    let batches = (0..1000_u64).map(|number| {
        (0..100).fold(batch(number), |batch, i| batch.put(path(&format!("t/{number:04}/{i:02}")), vec![7; 900]))
    });
    for outcome in join_all(batches.map(|batch| store.commit(batch))).await {
        outcome.unwrap();
    }
    // some 110 MiB by now; once it is in the file, the log begins anew and is cut
    let log = || std::fs::metadata(folder.path().join("store.db-wal")).unwrap().len();
    for number in 1000..3000 {
        store.commit(batch(number).put(path("t/last"), number.to_string())).await.unwrap();
        if number > 1050 && log() <= 64 << 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(log() <= 64 << 20, "{}", log());
    drop(store);
    let begun = Instant::now();
    let store = Sqlite::open(folder.path()).unwrap();
    assert_eq!(value(&store, "t/0999/99").await.unwrap(), [7; 900]);
    let page = store.scan(&path("t/0500"), None, 1000, AtLeast::Latest).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (100, false));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_not_restored() {
    let folder = folder();
    let store = Sqlite::open(&folder.path().join("store")).unwrap();
    for number in 0..50 {
        store.commit(batch(number).put(path(&format!("t/{number}")), vec![9; 3000])).await.unwrap();
    }
    let file = folder.path().join("backup");
    let revision = store.backup(&file).await.unwrap();
    let sound = std::fs::read(&file).unwrap();
    let mut root_lost = sound.clone();
    root_lost[4096..8192].fill(0xff);
    let damaged: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("cut", sound[..sound.len() / 2].to_vec()),
        ("cut within a page", sound[..sound.len() - 100].to_vec()),
        ("a page lost", root_lost),
        ("text", b"no database at all".repeat(500)),
    ];
    for (name, bytes) in damaged {
        let from = folder.path().join(name);
        std::fs::write(&from, bytes).unwrap();
        let target = folder.path().join(format!("restored {name}"));
        let outcome = restore(&from, &target);
        assert!(matches!(outcome, Err(StorageError::Damaged(_))), "{name}: {outcome:?}");
        let left: Vec<_> = std::fs::read_dir(&target).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK_NAME], "{name}");
        assert_eq!(restore(&file, &target), Ok(revision), "{name}: the sound one still may");
    }
    assert!(restore(&folder.path().join("missing"), &folder.path().join("nowhere")).is_err());
}

#[tokio::test]
async fn a_restore_beside_a_foreign_log_is_refused() {
    let folder = folder();
    let store = Sqlite::open(&folder.path().join("store")).unwrap();
    let file = folder.path().join("backup");
    store.backup(&file).await.unwrap();
    for stale in ["store.db-wal", "store.db-shm"] {
        let target = folder.path().join(stale);
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join(stale), b"of another store").unwrap();
        assert_eq!(restore(&file, &target), Err(StorageError::TargetExists));
    }
}

#[tokio::test]
async fn what_a_killed_copy_left_hinders_no_later_one() {
    let folder = folder();
    let store = Sqlite::open(&folder.path().join("a")).unwrap();
    let revision = store.commit(batch(1).put(path("t/a"), "value")).await.unwrap();
    let (copy, restored) = (folder.path().join("copy"), folder.path().join("b"));
    std::fs::create_dir(&restored).unwrap();
    for left in ["copy.partial", "copy.partial-journal", "b/store.db.partial", "b/store.db.partial-wal"] {
        std::fs::write(folder.path().join(left), "half").unwrap();
    }
    // another process may be at it: only who knows better removes it
    assert_eq!(store.backup(&copy).await, Err(StorageError::TargetExists));
    remove_partial(&copy);
    assert_eq!(store.backup(&copy).await, Ok(revision));
    assert_eq!(restore(&copy, &restored), Ok(revision));
    assert_eq!(value(&Sqlite::open(&restored).unwrap(), "t/a").await, Some(b"value".to_vec()));
}

#[tokio::test]
async fn a_writer_that_panics_is_a_store_that_has_failed_for_good() {
    #[derive(Debug)]
    struct Broken;
    #[async_trait::async_trait]
    impl Clock for Broken {
        fn now(&self) -> envelope::Timestamp {
            assert_ne!(std::thread::current().name(), Some("store-writer"), "a defect of ours");
            envelope::Timestamp::default()
        }

        async fn sleep_until(&self, _: envelope::Timestamp) {}
    }
    let folder = folder();
    let store = Sqlite::open_with(folder.path(), Options { clock: Arc::new(Broken), ..Options::default() }).unwrap();
    assert!(store.commit(batch(1).put(path("t/a"), "value")).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), store.failed()).await.unwrap();
    assert_eq!(store.commit(batch(2)).await, Err(StorageError::Unavailable.into()));
}
