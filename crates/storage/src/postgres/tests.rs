use super::*;
use crate::contract::{self, Durability as Kept};
use crate::model;
use envelope::ManualClock;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use proptest::test_runner::{Config, TestRunner};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use test_postgres::Server;

mod hostile;
mod tls;

fn options(server: &Server, schema: &str, node: &str) -> Options {
    let password = Some(Arc::new(SecretBytes::copy_from(server.password().as_bytes())));
    Options { password, ..Options::new(server.url(), schema, node) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    let server = Server::start();
    let make = |folder: &Path| -> Arc<dyn Storage> {
        let digest = mac::sha256(folder.as_os_str().as_encoded_bytes());
        let schema = format!("s{}", u64::from_be_bytes(*digest.first_chunk().unwrap()));
        let opened = (0..100).find_map(|_| match Postgres::open(&options(&server, &schema, "1")) {
            // the former one's session may take a moment to end
            Err(StorageError::Held) => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
            opened => Some(opened.unwrap()),
        });
        Arc::new(opened.unwrap())
    };
    contract::judge(make, Kept::Durable).await;
}

fn at(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn batch(number: u64) -> Batch {
    Batch::new(CommitId(u128::from(number).to_be_bytes()))
}

async fn value(store: &Postgres, raw: &str) -> Option<Vec<u8>> {
    let (_, entries) = store.get(&[at(raw)], AtLeast::Latest).await.unwrap();
    entries.into_iter().next().flatten().map(|entry| entry.value.to_vec())
}

async fn soon<T>(within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < within, "not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn postgres_does_what_the_model_does() {
    let server = Server::start();
    let number = AtomicU64::new(0);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(CASES) });
    let data = proptest::collection::vec(proptest::num::u8::ANY, 0..800);
    let compared = runner.run(&data, |data| {
        let clock = ManualClock::default();
        let schema = format!("m{}", number.fetch_add(1, Ordering::Relaxed));
        let options = Options { clock: Some(Arc::new(clock.clone())), readers: 1, ..options(&server, &schema, "1") };
        let store = Postgres::open(&options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(model::compare(&store, &clock, &model::operations(&data)));
        Ok(())
    });
    compared.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_one_store() {
    let server = Server::start();
    let open = |node: &str| Postgres::open(&options(&server, "both", node));
    let (one, two) = (open("1").unwrap(), open("2").unwrap());
    assert_eq!(open("2").unwrap_err(), StorageError::Held, "a node's name is one server's");
    let mut told = two.watch(&at("t"), Revision(0));
    // each goes by what it reads: no step of the other's is lost
    let steps = |store: Arc<Postgres>, ids: u64| async move {
        let mut last = Revision(0);
        for step in 0..40 {
            let mut attempt = 0;
            last = soon(Duration::from_secs(20), async || {
                attempt += 1;
                let (read_at, found) = store.get(&[at("t/counter")], AtLeast::Latest).await.unwrap();
                assert!(read_at >= last, "nobody reads older than it has committed");
                let found = found.into_iter().next().flatten();
                let count = found.as_ref().map_or(0, |entry| entry.value[0]);
                let new = batch(ids + step * 1000 + attempt);
                let new = match &found {
                    Some(entry) => new.revision_is(at("t/counter"), entry.revision),
                    None => new.absent(at("t/counter")),
                };
                match store.commit(new.put(at("t/counter"), vec![count + 1])).await {
                    Ok(revision) => {
                        assert!(revision > read_at);
                        Some(revision)
                    }
                    Err(error) => {
                        assert_eq!(error, CommitError::Conflict(at("t/counter")));
                        None
                    }
                }
            })
            .await;
        }
    };
    let (one, two) = (Arc::new(one), Arc::new(two));
    tokio::join!(steps(Arc::clone(&one), 1_000_000), steps(Arc::clone(&two), 2_000_000));
    assert_eq!(value(&one, "t/counter").await, Some(vec![80]));
    // every revision is told, in order, and once
    for expected in 1..=80 {
        let change = tokio::time::timeout(Duration::from_secs(5), told.next()).await.unwrap();
        let expected = Change::Paths { revision: Revision(expected), paths: [at("t/counter")].into() };
        assert_eq!(change, Some(expected));
    }
    // one batch, sent by both under one id, counts once
    let same = batch(1).put(at("t/same"), "1");
    let (first, second) = tokio::join!(one.commit(same.clone()), two.commit(same));
    assert!(first.is_ok() && first == second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_to_one_claimant_of_several_nodes() {
    const ENTRIES: usize = 60;
    let server = Server::start();
    let open = |node: &str| Postgres::open(&options(&server, "claims", node)).unwrap();
    let nodes = [open("1"), open("2"), open("3")];
    for number in 0..ENTRIES {
        let put = batch(number as u64).put(at(&format!("t/q/{number:016x}/a")), "1");
        nodes[0].commit(put).await.unwrap();
    }
    let queue = at("t/q");
    let claimants = nodes.iter().map(|node| async {
        let mut mine = Vec::new();
        loop {
            let claims = node.claim(&queue, 7, Duration::from_secs(3600)).await.unwrap();
            if claims.is_empty() {
                return mine;
            }
            mine.extend(claims.into_iter().map(|claim| claim.path));
        }
    });
    let claims: Vec<EntryPath> = join_all(claimants).await.into_iter().flatten().collect();
    let different: std::collections::BTreeSet<_> = claims.iter().collect();
    assert_eq!((claims.len(), different.len()), (ENTRIES, ENTRIES));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_told_at_once_and_served_again() {
    let mut server = Server::start();
    let store = Postgres::open(&options(&server, "away", "1")).unwrap();
    let revision = store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    let mut told = store.watch(&at("t"), revision);
    for number in 2..4 {
        server.stop();
        let began = Instant::now();
        soon(Duration::from_secs(5), async || store.get(&[], AtLeast::Latest).await.is_err().then_some(())).await;
        assert!(store.commit(batch(100 + number).put(at("t/b"), "1")).await.is_err());
        // whoever keeps what it read hears that it may not
        let lost = tokio::time::timeout(Duration::from_secs(4), told.next()).await.unwrap();
        assert_eq!(lost, Some(Change::Gap { revision: Revision(u64::MAX) }));
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        server.start_again();
        let again = soon(Duration::from_secs(10), async || {
            store.commit(batch(number).put(at("t/a"), number.to_string())).await.ok()
        })
        .await;
        let read = async || store.get(&[at("t/a")], AtLeast::Latest).await.ok();
        let (_, found) = soon(Duration::from_secs(5), read).await;
        assert_eq!(found[0].as_ref().unwrap().value, number.to_string());
        let heard = tokio::time::timeout(Duration::from_secs(5), told.next()).await.unwrap();
        assert!(matches!(heard, Some(Change::Gap { revision }) if revision <= again), "{heard:?}");
        soon(Duration::from_secs(5), async || told.next().now_or_never().is_none().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_database_that_answers_nothing_and_no_outcome_is_guessed() {
    let server = Server::start();
    let store = Arc::new(Postgres::open(&options(&server, "paused", "1")).unwrap());
    store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    server.pause();
    let began = Instant::now();
    let unknown = batch(2).put(at("t/b"), "1");
    let asked = [at("t/a")];
    let (read, written) = tokio::join!(store.get(&asked, AtLeast::Latest), store.commit(unknown.clone()));
    assert_eq!(read, Err(StorageError::Unavailable));
    assert_eq!(written, Err(CommitError::Unknown));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    server.go_on();
    // its fate is decided by a batch of nothing under its id, and then it stays so
    let decided = soon(Duration::from_secs(10), async || store.commit(Batch::new(unknown.id)).await.ok()).await;
    let there = [at("t/b")];
    let read = async || store.get(&there, AtLeast::Revision(decided)).await.ok();
    let (_, found) = soon(Duration::from_secs(10), read).await;
    let came = found[0].as_ref().map(|entry| entry.revision);
    assert!(came.is_none_or(|came| came == decided));
    assert_eq!(store.committed(unknown.id).await, Ok(Some(decided)));
    assert_eq!(store.commit(unknown).await, Ok(decided));
    assert_eq!(value(&store, "t/b").await.is_some(), came.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_of_the_database() {
    let mut server = Server::start();
    let store = Arc::new(Postgres::open(&options(&server, "crash", "1")).unwrap());
    let writers = (0..8).map(|task: u64| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let pair = batch(task * 1_000_000 + number).put(at(&format!("t/{task}/l/{number}")), "1");
                let pair = pair.put(at(&format!("t/{task}/r/{number}")), "1");
                match store.commit(pair).await {
                    Ok(_) => acknowledged.push(number),
                    Err(_) => break,
                }
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.crash();
    let acknowledged = join_all(writers).await;
    server.start_again();
    let mut count = 0;
    for (task, numbers) in acknowledged.into_iter().enumerate() {
        for number in numbers.unwrap() {
            let pair = ["l", "r"].map(|side| at(&format!("t/{task}/{side}/{number}")));
            let read = async || store.get(&pair, AtLeast::Latest).await.ok();
            let (_, found) = soon(Duration::from_secs(10), read).await;
            assert!(found.iter().all(Option::is_some), "{pair:?} is lost");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_forgotten_in_the_end_and_whoever_comes_from_before_hears_of_a_gap() {
    let server = Server::start();
    let remembered = Duration::from_secs(2);
    let store = Postgres::open(&Options { remembered, ..options(&server, "old", "1") }).unwrap();
    let first = batch(1).put(at("t/a"), "1");
    store.commit(first.clone()).await.unwrap();
    let began = Instant::now();
    let mut number = 1;
    soon(Duration::from_secs(10), async || {
        number += 1;
        store.commit(batch(number)).await.unwrap();
        store.committed(first.id).await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(began.elapsed() > remembered);
    let rows: u64 = server.psql("SELECT count(*) FROM old.log").parse().unwrap();
    assert!(rows < number, "{rows} of {number}");
    assert_eq!(value(&store, "t/a").await, Some(b"1".to_vec()), "the entry stays");
    // a node that was stopped for longer than the log reaches back
    let late = Postgres::open(&options(&server, "old", "2")).unwrap();
    let heard = late.watch(&at("t"), Revision(1)).next().await;
    assert!(matches!(heard, Some(Change::Gap { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_would_lose_data_and_a_foreign_schema_are_refused() {
    let server = Server::with_settings(&["fsync=off"]);
    let sound = options(&server, "s", "1");
    let lossy = Postgres::open(&sound).unwrap_err();
    assert!(matches!(lossy, StorageError::Damaged(why) if why.contains("fsync")), "{lossy:?}");
    let waived = Options { durability: Durability::Waived, ..sound.clone() };
    drop(Postgres::open(&waived).unwrap());
    server.psql("ALTER TABLE s.log SET UNLOGGED");
    let unlogged = Postgres::open(&waived).unwrap_err();
    assert!(matches!(unlogged, StorageError::Damaged(why) if why.contains("unlogged")), "{unlogged:?}");
    server.psql("ALTER TABLE s.log SET LOGGED; UPDATE s.head SET format = 2");
    assert_eq!(Postgres::open(&waived).unwrap_err(), StorageError::Format { found: 2, known: 1 });
    server.psql("CREATE SCHEMA foreign_one; CREATE TABLE foreign_one.kv (k int)");
    let foreign = Options { schema: "foreign_one".into(), ..waived.clone() };
    let not_ours = StorageError::Damaged("the schema is not one of this store");
    assert_eq!(Postgres::open(&foreign).unwrap_err(), not_ours);
    let wrong = Options { password: Some(Arc::new(SecretBytes::copy_from(b"wrong"))), ..waived };
    assert_eq!(Postgres::open(&wrong).unwrap_err(), StorageError::Unavailable);
    assert!(!format!("{wrong:?}").contains("wrong"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the rate is told beside what is judged")]
async fn what_is_asked_at_once_is_committed_at_once() {
    const COMMITS: u64 = 4096;
    let server = Server::start();
    let store = Postgres::open(&options(&server, "groups", "1")).unwrap();
    store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
    let transactions = || server.psql("SELECT pg_current_xact_id()").parse::<u64>().unwrap();
    let (before, began) = (transactions(), Instant::now());
    let tasks = (0..64).map(|task: u64| {
        let store = &store;
        async move {
            for number in 0..COMMITS / 64 {
                let value = vec![7; 200];
                let put = batch(1000 + task * 1000 + number).put(at(&format!("t/{task}/{number}")), value);
                store.commit(put).await.unwrap();
            }
        }
    });
    join_all(tasks).await;
    let (took, groups) = (began.elapsed(), transactions() - before);
    println!("{COMMITS} commits of 64 tasks in {groups} transactions, {took:?}");
    assert!(groups < COMMITS / 8, "{groups}");
}

#[test]
fn options_that_are_unsafe_or_incomplete_are_refused() {
    for (url, schema, error) in [
        ("postgresql://u@/d?host=/run", "s", None),
        ("postgresql://u@127.0.0.1,[::1]:5433/d", "s", None),
        ("postgresql://u:secret@127.0.0.1/d", "s", Some(OptionsError::PasswordInUrl)),
        ("postgresql://127.0.0.1/d", "s", Some(OptionsError::Incomplete)),
        ("postgresql://u@127.0.0.1", "s", Some(OptionsError::Incomplete)),
        ("postgresql://u@db.example/d", "s", Some(OptionsError::NoAuthorities)),
        ("postgresql://u@127.0.0.1,db.example/d", "s", Some(OptionsError::NoAuthorities)),
        ("postgresql://u@localhost/d?hostaddr=127.0.0.1", "s", None),
        ("postgresql://u@localhost/d?hostaddr=192.0.2.1", "s", Some(OptionsError::NoAuthorities)),
        ("postgresql://u@127.0.0.1/d?password=secret", "s", Some(OptionsError::PasswordInUrl)),
        ("postgresql://u@127.0.0.1/d", "pg_strongroom", Some(OptionsError::Schema)),
        ("mysql://u@127.0.0.1/d", "s", Some(OptionsError::Url)),
        ("postgresql://u@127.0.0.1/d", "", Some(OptionsError::Schema)),
        ("postgresql://u@127.0.0.1/d", "S", Some(OptionsError::Schema)),
        ("postgresql://u@127.0.0.1/d", "s\"; DROP", Some(OptionsError::Schema)),
    ] {
        let options = Options::new(url, schema, "1");
        assert_eq!(options.check().err(), error, "{url}");
        assert!(!format!("{options:?} {error:?}").contains("secret"), "{options:?}");
    }
}

const CASES: u32 = 48;
