//! Commits: all or nothing, in order, once.

use super::{Case, Court, path};
use crate::batch::{BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX};
use crate::{AtLeast, Batch, CommitError, CommitId, Revision, StorageError, VALUE_BYTES_MAX};
use futures_util::future::join_all;
use std::sync::Arc;

pub(super) async fn judge(court: &Court<'_>) {
    a_batch_is_all_or_nothing(&court.case()).await;
    preconditions_hold_or_name_the_path(&court.case()).await;
    conditions_on_what_is_written_are_of_before(&court.case()).await;
    of_two_writes_to_a_path_the_later_counts(&court.case()).await;
    batches_of_a_group_fail_alone(&court.case()).await;
    revisions_come_in_commit_order(&court.case()).await;
    a_batch_counts_once(&court.case()).await;
    what_is_too_large_is_refused(&court.case()).await;
    what_was_committed_is_there_again(court).await;
}

async fn a_batch_is_all_or_nothing(case: &Case) {
    let before = case.put("t/a", "1").await;
    let batch = case.batch().absent(path("t/a")).put(path("t/b"), "2").delete(path("t/a"));
    assert_eq!(case.store.commit(batch).await, Err(CommitError::Conflict(path("t/a"))));
    assert_eq!((case.value("t/a").await, case.value("t/b").await), (Some("1".into()), None));
    let batch = case.batch().revision_is(path("t/a"), before).put(path("t/b"), "2").delete(path("t/a"));
    let after = case.store.commit(batch).await.unwrap();
    assert!(after > before);
    assert_eq!((case.value("t/a").await, case.value("t/b").await), (None, Some("2".into())));
    assert_eq!(case.entry("t/b").await.unwrap().revision, after);
    assert!(case.store.commit(case.batch()).await.unwrap() > after, "a batch of nothing is one too");
}

async fn preconditions_hold_or_name_the_path(case: &Case) {
    let old = case.put("t/a", "1").await;
    let now = case.put("t/a", "2").await;
    let gone = case.put("t/gone", "1").await;
    case.delete("t/gone").await;
    let later = Revision(now.0 + 1000);
    let (a, b, lost) = (|| path("t/a"), || path("t/b"), || path("t/gone"));
    let new = || case.batch();
    for (batch, differs) in [
        (new().absent(b()), None),
        (new().absent(lost()), None),
        (new().revision_is(a(), now), None),
        (new().absent(b()).revision_is(a(), now), None),
        (new().absent(a()), Some("t/a")),
        (new().revision_is(a(), old), Some("t/a")),
        (new().revision_is(a(), later), Some("t/a")),
        (new().revision_is(b(), now), Some("t/b")),
        (new().revision_is(b(), Revision(0)), Some("t/b")),
        (new().revision_is(lost(), gone), Some("t/gone")),
        (new().revision_is(a(), now).absent(a()), Some("t/a")),
        // the first that differs is named
        (new().absent(b()).revision_is(lost(), gone).absent(a()), Some("t/gone")),
        // conditions are of the state before the batch
        (new().absent(path("t/new")).put(path("t/new"), "1"), None),
    ] {
        let expected = differs.map(|differs| CommitError::Conflict(path(differs)));
        assert_eq!(case.store.commit(batch.clone()).await.err(), expected, "{batch:?}");
    }
}

async fn conditions_on_what_is_written_are_of_before(case: &Case) {
    let a = || path("t/a");
    let writes: [fn(Batch) -> Batch; 4] = [
        |batch| batch.put(path("t/a"), "new"),
        |batch| batch.put(path("t/a"), "old").put(path("t/a"), "new"),
        |batch| batch.delete(path("t/a")).put(path("t/a"), "new"),
        |batch| batch.put(path("t/b"), "1").put(path("t/a"), "new").delete(path("t/b")),
    ];
    let conflict = || Err(CommitError::Conflict(a()));
    for write in writes {
        case.delete("t/a").await;
        let absent = case.batch();
        for wrong in [Revision(1), Revision(u64::MAX)] {
            let wrong = write(Batch::new(absent.id).put(path("t/other"), "1").revision_is(a(), wrong));
            assert_eq!(case.store.commit(wrong).await, conflict());
        }
        assert_eq!((case.value("t/a").await, case.value("t/other").await), (None, None));
        assert_eq!(case.store.committed(absent.id).await, Ok(None));
        // who was refused has left nothing, and may come again
        let absent = write(absent.absent(a()));
        let made = case.store.commit(absent.clone()).await.unwrap();
        assert_eq!(case.store.commit(absent).await, Ok(made));
        assert_eq!(case.store.commit(write(case.batch().absent(a()))).await, conflict());
        let next = case.store.commit(write(case.batch().revision_is(a(), made))).await.unwrap();
        assert_eq!(case.store.commit(write(case.batch().revision_is(a(), made))).await, conflict());
        // its place was taken meanwhile
        let late = write(case.batch().revision_is(a(), next));
        let taken = case.store.commit(Batch::new(late.id)).await;
        assert_eq!(case.store.commit(late).await, taken);
        let stands = case.entry("t/a").await.unwrap();
        assert_eq!((stands.value, stands.revision), ("new".into(), next));
    }
}

async fn of_two_writes_to_a_path_the_later_counts(case: &Case) {
    let batch = case.batch().put(path("t/a"), "1").put(path("t/a"), "2").put(path("t/b"), "1").delete(path("t/b"));
    case.store.commit(batch.delete(path("t/c")).put(path("t/c"), "")).await.unwrap();
    for (at, value) in [("t/a", Some("2")), ("t/b", None), ("t/c", Some(""))] {
        assert_eq!(case.value(at).await.as_deref(), value, "{at}");
    }
    case.delete("t/never").await;
    assert_eq!(case.value("t/never").await, None);
}

async fn batches_of_a_group_fail_alone(case: &Case) {
    const EACH: usize = 64;
    let contested = (0..EACH).map(|i| case.batch().absent(path("t/one")).put(path("t/one"), i.to_string()));
    let peaceful = (0..EACH).map(|i| case.batch().put(path(&format!("t/{i}")), i.to_string()));
    let batches: Vec<Batch> = contested.zip(peaceful).flat_map(|(a, b)| [a, b]).collect();
    let outcomes = join_all(batches.into_iter().map(|batch| case.store.commit(batch))).await;
    let mut winner = None;
    let mut revisions = Vec::new();
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(revision) => {
                revisions.push(revision);
                if i % 2 == 0 {
                    assert_eq!(winner.replace(i / 2), None, "one alone may win");
                }
            }
            Err(error) => {
                assert_eq!((error, i % 2), (CommitError::Conflict(path("t/one")), 0));
            }
        }
    }
    assert_eq!(case.value("t/one").await, Some(winner.unwrap().to_string()));
    for i in 0..EACH {
        assert_eq!(case.value(&format!("t/{i}")).await, Some(i.to_string()));
    }
    let count = revisions.len();
    revisions.sort();
    revisions.dedup();
    assert_eq!((count, revisions.len()), (EACH + 1, EACH + 1), "each commit has a revision of its own");
}

async fn revisions_come_in_commit_order(case: &Case) {
    const TASKS: usize = 8;
    const STEPS: usize = 20;
    case.put("t/counter", "0").await;
    let tasks = (0..TASKS).map(|_| async {
        let mut last = Revision(0);
        for _ in 0..STEPS {
            loop {
                let (read_at, found) = case.store.get(&[path("t/counter")], AtLeast::Latest).await.unwrap();
                let entry = found.into_iter().next().flatten().unwrap();
                assert!(entry.revision <= read_at && read_at >= last, "nobody reads older than it has committed");
                let next = std::str::from_utf8(&entry.value).unwrap().parse::<usize>().unwrap() + 1;
                let batch = case.batch().revision_is(path("t/counter"), entry.revision);
                match case.store.commit(batch.put(path("t/counter"), next.to_string())).await {
                    Ok(revision) => {
                        assert!(revision > read_at);
                        last = revision;
                        break;
                    }
                    Err(error) => assert_eq!(error, CommitError::Conflict(path("t/counter"))),
                }
            }
        }
    });
    join_all(tasks).await;
    assert_eq!(case.value("t/counter").await, Some((TASKS * STEPS).to_string()), "no step was lost");
}

async fn a_batch_counts_once(case: &Case) {
    let batch = case.batch().put(path("t/a"), "1");
    assert_eq!(case.store.committed(batch.id).await, Ok(None));
    let revision = case.store.commit(batch.clone()).await.unwrap();
    case.put("t/a", "2").await;
    // preconditions of a batch that is known are not asked again
    let other = Batch::new(batch.id).absent(path("t/a")).put(path("t/a"), "3");
    for again in [batch.clone(), other] {
        assert_eq!(case.store.commit(again).await, Ok(revision));
        assert_eq!(case.store.committed(batch.id).await, Ok(Some(revision)));
        assert_eq!(case.value("t/a").await, Some("2".into()));
    }
    // whoever conflicts has not counted, and may come again
    let refused = case.batch().absent(path("t/a")).put(path("t/b"), "1");
    assert_eq!(case.store.commit(refused.clone()).await, Err(CommitError::Conflict(path("t/a"))));
    assert_eq!(case.store.committed(refused.id).await, Ok(None));
    case.delete("t/a").await;
    let counted = case.store.commit(refused.clone()).await.unwrap();
    assert_eq!(case.store.committed(refused.id).await, Ok(Some(counted)));
    // at the same time
    let batch = case.batch().absent(path("t/c")).put(path("t/c"), "1");
    let outcomes = join_all((0..16).map(|_| case.store.commit(batch.clone()))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0] && outcome.is_ok()), "{outcomes:?}");
}

async fn what_is_too_large_is_refused(case: &Case) {
    let value = |len: usize| vec![7_u8; len];
    let many = |count: usize| (0..count).fold(case.batch(), |batch, i| batch.put(path(&format!("t/many/{i}")), "1"));
    let whole = BATCH_BYTES_MAX / VALUE_BYTES_MAX;
    let full = |over: usize| {
        let batch = case.batch().put(path("t/over"), value(over));
        (0..whole).fold(batch, |batch, i| batch.put(path(&format!("t/full/{i}")), value(VALUE_BYTES_MAX)))
    };
    for (batch, fits) in [
        (case.batch().put(path("t/value"), value(VALUE_BYTES_MAX)), true),
        (case.batch().put(path("t/value/over"), value(VALUE_BYTES_MAX + 1)), false),
        (many(BATCH_OPERATIONS_MAX), true),
        (many(BATCH_OPERATIONS_MAX).absent(path("t/x")), false),
        (full(0), true),
        (full(1), false),
    ] {
        let id = batch.id;
        let outcome = case.store.commit(batch).await;
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
        assert!(fits || outcome == Err(CommitError::Storage(StorageError::TooLarge)));
        assert_eq!(case.store.committed(id).await.unwrap().is_some(), fits);
    }
    assert_eq!(case.entry("t/value").await.unwrap().value.len(), VALUE_BYTES_MAX);
    assert_eq!((case.entry("t/value/over").await, case.entry("t/over").await.unwrap().value.len()), (None, 0));
}

async fn what_was_committed_is_there_again(court: &Court<'_>) {
    let case = court.case();
    let batch = case.batch().put(path("t/a"), "1").put(path("t/b"), "2");
    let revision = case.store.commit(batch.clone()).await.unwrap();
    let last = case.delete("t/b").await;
    let Some(case) = court.reopened(case) else { return };
    assert_eq!(case.head().await, last);
    assert_eq!(case.entry("t/a").await.unwrap().revision, revision);
    assert_eq!((case.value("t/a").await, case.value("t/b").await), (Some("1".into()), None));
    assert_eq!(case.store.committed(batch.id).await, Ok(Some(revision)));
    assert_eq!(case.store.commit(batch).await, Ok(revision), "known across a restart");
    assert_eq!(case.store.committed(CommitId([0xff; 16])).await, Ok(None));
    assert!(case.put("t/b", "3").await > last);
    // what a caller did not wait for is all there or not at all
    let store = Arc::clone(&case.store);
    let unheard = case.batch().put(path("t/c"), "1").put(path("t/d"), "1");
    let waiting = tokio::time::timeout(std::time::Duration::ZERO, store.commit(unheard.clone())).await;
    drop(store);
    let Some(case) = court.reopened(case) else { return };
    let there = [case.value("t/c").await.is_some(), case.value("t/d").await.is_some()];
    let counted = case.store.committed(unheard.id).await.unwrap().is_some();
    assert_eq!(there, [counted; 2]);
    assert!(counted || waiting.is_err());
}
