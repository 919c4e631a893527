//! Watches: at least once what changed, or that something was lost.

use super::{Case, Court, path};
use crate::{Change, EntryPath, Revision};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) async fn judge(court: &Court<'_>) {
    changes_are_told_in_order_below_the_prefix(&court.case()).await;
    whoever_comes_late_hears_what_was_or_of_a_gap(&court.case()).await;
    a_slow_watcher_hears_all_or_of_a_gap(&court.case()).await;
    a_claim_is_a_change(&court.case()).await;
    a_watch_ends_with_its_store(court).await;
}

async fn next(changes: &mut BoxStream<'static, Change>) -> Option<Change> {
    tokio::time::timeout(Duration::from_secs(10), changes.next()).await.unwrap()
}

/// Until a change at or after `until` was told: the paths, or `None` for a gap.
async fn heard(changes: &mut BoxStream<'static, Change>, until: Revision) -> Option<BTreeSet<EntryPath>> {
    let mut all = BTreeSet::new();
    let mut last = Revision(0);
    loop {
        match next(changes).await.unwrap() {
            Change::Gap { revision } => {
                assert!(revision >= last);
                return None;
            }
            Change::Paths { revision, paths } => {
                assert!(revision >= last && !paths.is_empty());
                last = revision;
                all.extend(paths.iter().cloned());
                if revision >= until {
                    return Some(all);
                }
            }
        }
    }
}

async fn changes_are_told_in_order_below_the_prefix(case: &Case) {
    let from = case.put("t/before", "1").await;
    let mut below = case.store.watch(&path("t/a"), from);
    let mut everything = case.store.watch(&path("t"), from);
    for at in ["t/a", "t/a!", "t/ab/c", "t/a/b", "u", "t/a/b/c"] {
        case.put(at, "1").await;
    }
    let last = case.delete("t/a/b").await;
    let expected: BTreeSet<_> = ["t/a", "t/a/b", "t/a/b/c"].map(path).into();
    assert_eq!(heard(&mut below, last).await, Some(expected));
    let expected: BTreeSet<_> = ["t/a", "t/a!", "t/ab/c", "t/a/b", "t/a/b/c"].map(path).into();
    assert_eq!(heard(&mut everything, last).await, Some(expected));
    // nothing more is told before something happens, and a refused batch is nothing
    let refused = case.batch().absent(path("t/a")).put(path("t/a/x"), "1");
    assert!(case.store.commit(refused).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(30), below.next()).await.is_err());
    let revision = case.put("t/a/b", "2").await;
    assert_eq!(next(&mut below).await, Some(Change::Paths { revision, paths: [path("t/a/b")].into() }));
}

async fn whoever_comes_late_hears_what_was_or_of_a_gap(case: &Case) {
    let mut revisions = vec![Revision(0)];
    for i in 0..5 {
        revisions.push(case.put(&format!("t/{i}"), "1").await);
    }
    let last = revisions[5];
    for (i, from) in revisions.iter().enumerate().take(5) {
        let told = heard(&mut case.store.watch(&path("t"), *from), last).await;
        let expected: BTreeSet<_> = (i..5).map(|i| path(&format!("t/{i}"))).collect();
        assert!(told.is_none_or(|told| told == expected), "{from:?}");
    }
    // of a history that this store does not have: perhaps of one that was restored
    let mut ahead = case.store.watch(&path("t"), Revision(last.0 + 5));
    assert!(matches!(next(&mut ahead).await, Some(Change::Gap { .. })));
    let revision = case.put("t/a", "1").await;
    assert_eq!(next(&mut ahead).await, Some(Change::Paths { revision, paths: [path("t/a")].into() }));
}

async fn a_slow_watcher_hears_all_or_of_a_gap(case: &Case) {
    const COMMITS: usize = 6000;
    let mut slow = case.store.watch(&path("t"), Revision(0));
    let batches = (0..COMMITS).map(|i| case.batch().put(path(&format!("t/{i}")), "1"));
    let commits = batches.map(|batch| case.store.commit(batch)).collect::<Vec<_>>();
    let revisions = join_all(commits).await;
    let last = revisions.into_iter().map(|revision| revision.unwrap()).max().unwrap();
    if let Some(told) = heard(&mut slow, last).await {
        assert_eq!(told.len(), COMMITS);
    }
    // and after the gap it hears again
    let after = case.put("t/after", "1").await;
    let told = heard(&mut slow, after).await;
    assert!(told.is_some_and(|told| told.contains(&path("t/after"))));
}

async fn a_claim_is_a_change(case: &Case) {
    let at = format!("t/queue/{:016x}/a", 1);
    let from = case.put(&at, "1").await;
    let mut changes = case.store.watch(&path("t"), from);
    let claims = case.store.claim(&path("t/queue"), 1, Duration::from_secs(60)).await.unwrap();
    let told = heard(&mut changes, claims[0].fence).await;
    assert_eq!(told, Some(BTreeSet::from([path(&at)])), "its revision is another one now");
}

async fn a_watch_ends_with_its_store(court: &Court<'_>) {
    let case = court.case();
    let from = case.put("t/a", "1").await;
    let mut changes = case.store.watch(&path("t"), from);
    let again = court.reopened(case);
    assert_eq!(next(&mut changes).await, None);
    let Some(case) = again else { return };
    let mut changes = case.store.watch(&path("t"), Revision(0));
    let last = case.put("t/b", "1").await;
    let expected: BTreeSet<_> = ["t/a", "t/b"].map(path).into();
    let told = heard(&mut changes, last).await;
    assert!(told.is_none_or(|told| told == expected), "what was before the restart is told, or that it is lost");
}
