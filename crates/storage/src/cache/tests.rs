use super::*;
use crate::{Batch, CommitId, Memory};
use proptest::collection::vec;
use proptest::prelude::*;

type TestCache = Cache<u8, u64>;

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn paths(raw: &[&str]) -> Vec<EntryPath> {
    raw.iter().map(|raw| path(raw)).collect()
}

fn changed(revision: u64, at: &[&str]) -> Change {
    Change::Paths { revision: Revision(revision), paths: paths(at).into() }
}

fn gap(revision: u64) -> Change {
    Change::Gap { revision: Revision(revision) }
}

/// A cache that hears of every change after revision 10.
fn cache(capacity: usize) -> TestCache {
    let cache = Cache::new(capacity);
    cache.apply(&gap(10));
    cache
}

fn keep(cache: &TestCache, key: u8, at: &[&str], read_at: u64) -> bool {
    cache.insert(key, Arc::new(read_at), &paths(at), Revision(read_at));
    cache.peek(&key).as_deref() == Some(&read_at)
}

#[test]
fn nothing_is_kept_before_somebody_tells_changes() {
    let cache = Cache::new(4);
    assert!(!keep(&cache, 1, &["t/a"], 100));
    cache.apply(&changed(101, &["t/b"]));
    assert!(!keep(&cache, 1, &["t/a"], 102));
    cache.apply(&gap(103));
    assert!(keep(&cache, 1, &["t/a"], 103));
}

#[test]
fn an_entry_goes_with_what_it_depends_on() {
    for (depends_on, change, stays) in [
        (&["t/a"][..], &["t/a"][..], false),
        (&["t/a"], &["t/a/b/c"], false),
        (&["t/a", "t/b"], &["t/b"], false),
        (&["t"], &["t/x"], false),
        (&["t/a"], &["x", "t/a"], false),
        (&["t/a"], &["t"], true),
        (&["t/a"], &["t/ab"], true),
        (&["t/a"], &["t/a!"], true),
        (&["t/a/b"], &["t/a", "t/a/c"], true),
        (&[], &["t/a"], true),
    ] {
        let cache = cache(4);
        assert!(keep(&cache, 1, depends_on, 10) && keep(&cache, 2, &["other"], 10));
        cache.apply(&changed(11, change));
        assert_eq!(cache.peek(&1).is_some(), stays, "{depends_on:?} {change:?}");
        assert!(cache.peek(&2).is_some());
        // what was read before the change is not taken any more; what was read at it is
        assert_eq!((keep(&cache, 1, depends_on, 10), keep(&cache, 1, depends_on, 11)), (stays, true), "{depends_on:?}");
    }
}

#[test]
fn a_gap_empties_and_bars_what_was_read_before() {
    let cache = cache(4);
    assert!(!keep(&cache, 1, &["t/a"], 9), "before anybody told changes");
    assert!(keep(&cache, 1, &["t/a"], 10));
    cache.apply(&gap(20));
    assert!(cache.is_empty() && !keep(&cache, 1, &["t/a"], 19) && keep(&cache, 1, &["t/a"], 20));
    cache.apply(&gap(u64::MAX));
    assert!(!keep(&cache, 1, &["t/a"], 1_000_000), "the store cannot be watched");
    cache.apply(&gap(30));
    assert!(keep(&cache, 1, &["t/a"], 30), "a history that began anew");
}

#[test]
fn it_is_bounded_and_what_is_used_stays() {
    let cache = cache(8);
    for key in 0..8 {
        assert!(keep(&cache, key, &["t/a"], 10));
    }
    assert!(cache.peek(&3).is_some());
    for key in 100..150 {
        cache.insert(key, Arc::new(1), &paths(&["t/a"]), Revision(10));
        assert_eq!(cache.len(), 8);
        assert!(cache.peek(&3).is_some(), "used between any two evictions");
    }
    for key in 0..=255 {
        for _ in 0..10 {
            cache.insert(key, Arc::new(1), &paths(&["t/a", "t/b"]), Revision(10));
        }
    }
    let inner = cache.inner.read().unwrap();
    assert!(inner.slots.len() == 8 && inner.clock.len() <= 16);
    assert!(inner.dependants.keys.values().map(HashSet::len).sum::<usize>() <= 16, "nothing is left of what went");
    assert_eq!(inner.dependants.depths.iter().sum::<usize>(), inner.dependants.keys.len());
    drop(inner);
    let none = self::cache(0);
    assert!(!keep(&none, 1, &["t/a"], 10));
}

#[test]
fn what_it_remembers_of_changes_is_bounded_and_errs_on_the_safe_side() {
    let cache = cache(4);
    let last = 11 + RECENT_MAX as u64 * 2;
    for revision in 11..=last {
        cache.apply(&changed(revision, &["t/a"]));
    }
    let inner = cache.inner.read().unwrap();
    assert!(inner.recent.paths <= RECENT_MAX && inner.recent.changed.len() <= RECENT_MAX);
    drop(inner);
    // of an entry that never changed, but read when nobody remembers any more
    assert!(!keep(&cache, 1, &["u"], 10) && keep(&cache, 1, &["u"], last));
}

#[derive(Debug, Clone)]
enum Step {
    /// The store: path number changes.
    Write(u8),
    /// The follower hears of so many more changes.
    Hear(u8),
    Gap,
    /// A reader looks at the store now, and keeps what it saw later.
    Read {
        key: u8,
        first: u8,
        second: u8,
    },
    Keep,
    Peek(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Write),
        3 => (1..4_u8).prop_map(Step::Hear),
        1 => Just(Step::Gap),
        4 => (0..6_u8, 0..6_u8, 0..6_u8).prop_map(|(key, first, second)| Step::Read { key, first, second }),
        4 => Just(Step::Keep),
        4 => (0..6_u8).prop_map(Step::Peek),
    ]
}

const PATHS: [&str; 6] = ["t", "t/a", "t/a/b", "t/a!", "t/b", "u"];

/// What a dependency on `path` saw at `revision`: the newest write at or below it.
fn newest(writes: &[(u64, u8)], path_number: u8, up_to: u64) -> u64 {
    let dependency = path(PATHS[usize::from(path_number)]);
    let below = |number: u8| path(PATHS[usize::from(number)]).starts_with(&dependency);
    writes.iter().filter(|(revision, number)| *revision <= up_to && below(*number)).map(|(r, _)| *r).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nobody_sees_what_a_change_that_was_heard_of_made_stale(steps in vec(step(), 0..120)) {
        let cache: Cache<u8, (u64, u8, u8)> = Cache::new(3);
        cache.apply(&gap(0));
        let (mut writes, mut heard): (Vec<(u64, u8)>, u64) = (Vec::new(), 0);
        let mut pending = std::collections::VecDeque::new();
        for step in steps {
            match step {
                Step::Write(number) => writes.push((writes.len() as u64 + 1, number)),
                Step::Hear(count) => {
                    for _ in 0..count {
                        let Some((revision, number)) = writes.get(usize::try_from(heard).unwrap()) else { break };
                        cache.apply(&changed(*revision, &[PATHS[usize::from(*number)]]));
                        heard = *revision;
                    }
                }
                Step::Gap => {
                    heard = writes.len() as u64;
                    cache.apply(&gap(heard));
                }
                Step::Read { key, first, second } => pending.push_back((key, first, second, writes.len() as u64)),
                Step::Keep => {
                    if let Some((key, first, second, read_at)) = pending.pop_front() {
                        let depends_on = [first, second].map(|number| path(PATHS[usize::from(number)]));
                        cache.insert(key, Arc::new((read_at, first, second)), &depends_on, Revision(read_at));
                    }
                }
                Step::Peek(key) => {
                    if let Some(value) = cache.peek(&key) {
                        let (read_at, first, second) = *value;
                        for number in [first, second] {
                            let seen = newest(&writes, number, read_at);
                            let known = newest(&writes, number, heard);
                            prop_assert!(seen >= known, "read at {read_at}, {number} changed at {known}, heard {heard}");
                        }
                    }
                }
            }
            prop_assert!(cache.len() <= 3);
        }
    }

    #[test]
    fn what_was_kept_stays_until_something_that_it_depends_on_changes(numbers in vec(0..6_u8, 1..30)) {
        let cache = cache(4);
        prop_assert!(keep(&cache, 1, &["t/a"], 10));
        let mut touched = false;
        for (i, number) in numbers.into_iter().enumerate() {
            cache.apply(&changed(11 + i as u64, &[PATHS[usize::from(number)]]));
            touched |= matches!(number, 1 | 2);
            prop_assert_eq!(cache.peek(&1).is_none(), touched);
        }
    }
}

#[tokio::test]
async fn a_followed_cache_hears_of_every_commit_and_forgets_when_the_store_is_gone() {
    let store: Arc<dyn Storage> = Arc::new(Memory::new());
    let cache = Arc::new(TestCache::new(16));
    let follower = tokio::spawn(follow(Arc::clone(&store), path("t"), vec![Arc::clone(&cache) as Arc<dyn Invalidate>]));
    for round in 0..200_u64 {
        let (read_at, _) = store.get(&[], AtLeast::Latest).await.unwrap();
        cache.insert(1, Arc::new(round), &[path("t/a")], read_at);
        let batch = Batch::new(CommitId(u128::from(round).to_be_bytes())).put(path("t/a/b"), "x");
        store.commit(batch).await.unwrap();
        let gone = async {
            while cache.peek(&1).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    }
    // once it follows, what is read now is kept
    let kept = async {
        loop {
            let (read_at, _) = store.get(&[], AtLeast::Latest).await.unwrap();
            cache.insert(2, Arc::new(7), &[path("t/a")], read_at);
            if cache.peek(&2).is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), kept).await.unwrap();
    follower.abort();
}

#[test]
fn changes_that_are_told_in_another_order_never_make_an_old_value_fresh() {
    let cache = cache(4);
    cache.apply(&changed(12, &["t/a"]));
    cache.apply(&changed(11, &["t/a"]));
    assert!(!keep(&cache, 1, &["t/a"], 11), "it may have changed at 12");
    assert!(keep(&cache, 1, &["t/a"], 12));
}

#[test]
fn what_is_forgotten_goes_and_what_is_known_of_changes_stays() {
    let cache = cache(4);
    assert!(keep(&cache, 1, &["t/a"], 11) && keep(&cache, 2, &["t/b"], 11));
    cache.apply(&changed(20, &["t/c"]));
    cache.forget();
    assert!(cache.is_empty() && cache.peek(&1).is_none());
    assert!(!keep(&cache, 3, &["t/c"], 19), "read before a change that was heard of");
    assert!(!keep(&cache, 3, &["t/d"], 9), "read before anything was heard of");
    assert!(keep(&cache, 1, &["t/a"], 11));
    cache.apply(&changed(21, &["t/a"]));
    assert!(cache.peek(&1).is_none(), "what depends on what is known anew");
}

#[test]
fn what_is_kept_is_used_until_it_is_not_current_any_more() {
    let cache = cache(4);
    assert!(keep(&cache, 1, &["t/a"], 11));
    let past = Until::At(Moment::now());
    for (until, used) in
        [(Until::Changed, true), (Until::heard_at(Moment::now()), true), (past, false), (Until::Changed, true)]
    {
        std::thread::sleep(Duration::from_millis(3));
        cache.current(until);
        assert_eq!(cache.peek(&1).is_some(), used, "{until:?}");
    }
}

#[test]
fn a_change_concerns_the_domain_whose_part_it_is_of() {
    for (at, concerned) in [
        (&["t/kms/keys/1"][..], "kms"),
        (&["t/ns/u/kms/keys/1"], "kms"),
        (&["t/vault/m/x", "t/identity/tokens/1"], "vault identity"),
        (&["t/vault/m/x/identity"], "vault"),
        (&["c/outbox/1"], ""),
    ] {
        for domain in ["kms", "identity", "vault"] {
            assert_eq!(changed(11, at).concerns(domain), concerned.contains(domain), "{at:?} {domain}");
        }
    }
    assert!(["kms", "identity"].iter().all(|domain| gap(1).concerns(domain)));
}
