//! What others do to the database, and to this process.

use super::*;
use crate::{Cache, Invalidate, follow};
use std::time::SystemTime;

/// Connections of servers, but not `psql`'s.
const SERVERS: &str = "FROM pg_stat_activity WHERE application_name LIKE 'strongroom %'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_begins_with_a_gap_and_a_standby_that_lost_commits_is_left() {
    let server = Server::start();
    let (one, two) = (
        Postgres::open(&options(&server, "history", "1")).unwrap(),
        Postgres::open(&options(&server, "history", "2")).unwrap(),
    );
    let mut last = Revision(0);
    for number in 1..=5 {
        last = one.commit(batch(number).put(at(&format!("t/{number}")), "1")).await.unwrap();
    }
    let mut told = two.watch(&at("t"), last);
    let cut = format!("SELECT count(pg_terminate_backend(pid)) {SERVERS}");
    server.psql(&cut);
    let heard = tokio::time::timeout(Duration::from_secs(5), told.next()).await.unwrap();
    assert!(matches!(heard, Some(Change::Gap { .. })), "{heard:?}");
    for (number, store) in [(6, &one), (7, &two)] {
        soon(Duration::from_secs(10), async || store.commit(batch(number).put(at("t/a"), "1")).await.ok()).await;
        assert!(tokio::time::timeout(Duration::from_millis(300), store.failed()).await.is_err(), "the same history");
    }
    // what it would be like: the last two commits are lost, others have their revisions, and more came
    server.psql(&format!(
        "BEGIN; LOCK TABLE history.head; LOCK TABLE history.log; {cut};
         DELETE FROM history.log WHERE rev > 5; UPDATE history.head SET rev = 10;
         INSERT INTO history.log (rev, paths) SELECT n, ARRAY[convert_to('t/other' || n, 'UTF8')] FROM generate_series(6, 10) n;
         COMMIT"
    ));
    for store in [&one, &two] {
        tokio::time::timeout(Duration::from_secs(5), store.failed()).await.unwrap();
        assert!(store.get(&[], AtLeast::Latest).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_of_no_use_once_the_database_is_not_heard() {
    let server = Server::start();
    let store: Arc<dyn Storage> = Arc::new(Postgres::open(&options(&server, "kept", "1")).unwrap());
    let cache = Arc::new(Cache::<u8, u8>::new(4));
    let follower = tokio::spawn(follow(Arc::clone(&store), at("t"), vec![Arc::clone(&cache) as Arc<dyn Invalidate>]));
    let keep = async || {
        let (read_at, _) = store.get(&[], AtLeast::Latest).await.ok()?;
        cache.insert(1, Arc::new(1), &[at("t/a")], read_at);
        cache.peek(&1)
    };
    soon(Duration::from_secs(5), keep).await;
    // for longer than it may be used without being heard
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert!(cache.peek(&1).is_some(), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // nobody tells the cache anything any more, as if all that could were stopped
    follower.abort();
    let _aborted = follower.await;
    let began = Instant::now();
    soon(Duration::from_secs(3), async || cache.peek(&1).is_none().then_some(())).await;
    assert!(began.elapsed() < Duration::from_millis(1950), "{:?}", began.elapsed());
    assert_eq!(cache.len(), 1, "it is there, and is not used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_told_to_lose_data_while_it_runs_is_left_at_once() {
    let server = Server::start();
    let store = Postgres::open(&options(&server, "lossy", "1")).unwrap();
    store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    server.psql("ALTER SYSTEM SET fsync = off");
    server.psql("SELECT pg_reload_conf()");
    tokio::time::timeout(Duration::from_secs(5), store.failed()).await.unwrap();
    assert!(store.commit(batch(2).put(at("t/a"), "2")).await.is_err());
    let again = Postgres::open(&options(&server, "lossy", "2")).unwrap_err();
    assert!(matches!(again, StorageError::Damaged(why) if why.contains("fsync")), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_changes_is_cut_though_no_node_runs_for_long() {
    let server = Server::start();
    let remembered = Duration::from_secs(3);
    let (began, mut number) = (Instant::now(), 0);
    let count = || server.psql("SELECT count(*) FROM often.log").parse::<u64>().unwrap();
    loop {
        let store = match Postgres::open(&Options { remembered, ..options(&server, "often", "1") }) {
            Err(StorageError::Held) => continue,
            opened => opened.unwrap(),
        };
        number += 1;
        store.commit(batch(number).put(at("t/a"), "1")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(store);
        if count() < number {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{} rows of {number} commits", count());
    }
    assert!(began.elapsed() > remembered);
    let marks: u64 = server.psql("SELECT count(*) FROM often.marks").parse().unwrap();
    assert!(marks <= 64, "{marks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_wait_for_a_stuck_database_all_hear_of_it_in_time() {
    const COMMITS: u64 = 3000;
    let server = Server::start();
    let store = Postgres::open(&options(&server, "stuck", "1")).unwrap();
    store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    let slowest = std::thread::scope(|scope| {
        let holder = scope.spawn(|| server.psql("BEGIN; LOCK TABLE stuck.head; SELECT pg_sleep(14); COMMIT"));
        std::thread::sleep(Duration::from_millis(300));
        let commits = (0..COMMITS).map(|number| {
            let store = &store;
            async move {
                let began = Instant::now();
                let outcome = store.commit(batch(100 + number).put(at("t/b"), "1")).await;
                assert!(outcome.is_err());
                began.elapsed()
            }
        });
        let slowest = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(join_all(commits)).into_iter().max().unwrap()
        });
        holder.join().unwrap();
        slowest
    });
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    soon(Duration::from_secs(10), async || store.commit(batch(2).put(at("t/a"), "2")).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_name_was_taken_while_it_was_cut_off_ends_at_once() {
    let server = Server::start();
    let options = options(&server, "name", "1");
    let store = Postgres::open(&options).unwrap();
    store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    let key = options.locks().node;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.psql(&format!(
                "SELECT count(pg_terminate_backend(pid)) {SERVERS}; SELECT pg_advisory_lock({key}), pg_sleep(6)"
            ));
        });
        let ended = tokio::time::timeout(Duration::from_secs(5), store.failed());
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ended)).unwrap();
    });
    // its own connections in its way are no reason
    let store = Postgres::open(&options).unwrap();
    server.psql(&format!("SELECT count(pg_terminate_backend(pid)) {SERVERS}"));
    soon(Duration::from_secs(10), async || store.commit(batch(2).put(at("t/a"), "2")).await.ok()).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), store.failed()).await.is_err());
}

#[test]
fn a_clock_that_differs_by_more_than_the_question_takes_is_told() {
    let second = Duration::from_secs(1);
    let now = SystemTime::UNIX_EPOCH + second * 1_000_000;
    for (theirs, told) in [
        (now, None),
        (now + second * 6, None),
        (now + second * 9, Some(second * 7)),
        (now - second * 4, None),
        (now - second * 9, Some(second * 9)),
    ] {
        assert_eq!(connect::clocks_differ((now, now + second * 2), theirs), told);
    }
}
