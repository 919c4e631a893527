//! Claims: what is due, for one claimant, for a while.

use super::{Case, Court, path};
use crate::clock::MachineClock;
use crate::{Claim, CommitError, PAGE_ENTRIES_MAX, Precondition, StorageError};
use envelope::Clock;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) async fn judge(court: &Court<'_>) {
    only_what_is_due_is_claimed_the_oldest_first(&court.case()).await;
    work_goes_to_one_claimant(&court.case()).await;
    a_claim_ends_after_a_while_and_its_fence_with_it(&court.case()).await;
    a_write_ends_a_claim(&court.case()).await;
    claims_survive(court).await;
}

const LONG: Duration = Duration::from_secs(3600);

fn now_millis() -> u64 {
    MachineClock.now().unix_millis()
}

fn names(claims: &[Claim]) -> Vec<String> {
    claims.iter().map(|claim| claim.path.as_str().to_owned()).collect()
}

async fn only_what_is_due_is_claimed_the_oldest_first(case: &Case) {
    let future = now_millis() + 3_600_000;
    let due: Vec<String> = [(0, "/z"), (1, "/b"), (1, "/b!/c"), (1, "/c/d"), (2, ""), (future - 7_200_000, "/x")]
        .map(|(at, rest)| format!("t/q/{at:016x}{rest}"))
        .into();
    let never = [
        format!("t/q/{future:016x}/a"),
        format!("t/q/{:016x}/a", u64::MAX),
        format!("t/q/{:016X}/a", 0xab),
        format!("t/q/{:015x}/a", 1),
        format!("t/q/{:017x}/a", 1),
        "t/q".into(),
        "t/q/a".into(),
        format!("t/q!/{:016x}/a", 1),
        format!("t/qq/{:016x}/a", 1),
        format!("t/r/{:016x}/a", 1),
        format!("t/q/+{:015x}/a", 1),
    ];
    for at in due.iter().rev().chain(&never) {
        case.put(at, at).await;
    }
    for limit in [0, PAGE_ENTRIES_MAX + 1] {
        assert_eq!(case.store.claim(&path("t/q"), limit, LONG).await, Err(StorageError::TooLarge));
    }
    let mut claimed = Vec::new();
    for expected in [2, 2, 2, 0] {
        let claims = case.store.claim(&path("t/q"), 2, LONG).await.unwrap();
        assert_eq!(claims.len(), expected);
        for claim in &claims {
            assert_eq!(claim.entry.value, claim.path.as_str());
            assert_eq!(claim.entry.revision, claim.fence);
            assert_eq!(case.entry(claim.path.as_str()).await.as_ref(), Some(&claim.entry));
        }
        claimed.extend(names(&claims));
    }
    assert_eq!(claimed, due);
}

async fn work_goes_to_one_claimant(case: &Case) {
    const ENTRIES: usize = 100;
    for i in 0..ENTRIES {
        case.put(&format!("t/q/{i:016x}/a"), "1").await;
    }
    let queue = path("t/q");
    let claimants = (0..8).map(|_| async {
        let mut mine = Vec::new();
        loop {
            let claims = case.store.claim(&queue, 7, LONG).await.unwrap();
            if claims.is_empty() {
                return mine;
            }
            mine.extend(claims);
        }
    });
    let claims: Vec<Claim> = join_all(claimants).await.into_iter().flatten().collect();
    let paths: BTreeSet<_> = claims.iter().map(|claim| claim.path.clone()).collect();
    assert_eq!((claims.len(), paths.len()), (ENTRIES, ENTRIES));
}

fn done(case: &Case, claim: &Claim) -> crate::Batch {
    let mut batch = case.batch().delete(claim.path.clone());
    batch.preconditions.push(Precondition::RevisionIs(claim.path.clone(), claim.fence));
    batch
}

async fn a_claim_ends_after_a_while_and_its_fence_with_it(case: &Case) {
    let at = format!("t/q/{:016x}/a", 1);
    let put = case.put(&at, "1").await;
    let claim = |for_| async move { case.store.claim(&path("t/q"), 10, for_).await.unwrap() };
    let first = claim(Duration::from_millis(80)).await.remove(0);
    assert!(first.fence > put);
    assert_eq!(claim(LONG).await, []);
    let deadline = now_millis() + 10_000;
    let second = loop {
        if let Some(second) = claim(LONG).await.pop() {
            break second;
        }
        assert!(now_millis() < deadline, "the claim never ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(second.fence > first.fence);
    let late = case.store.commit(done(case, &first)).await;
    assert_eq!(late, Err(CommitError::Conflict(path(&at))), "whoever was too slow changes nothing");
    assert!(case.store.commit(done(case, &second)).await.is_ok());
    assert_eq!(case.value(&at).await, None);
}

async fn a_write_ends_a_claim(case: &Case) {
    let at = format!("t/q/{:016x}/a", 1);
    case.put(&at, "1").await;
    let first = case.store.claim(&path("t/q"), 10, LONG).await.unwrap().remove(0);
    let written = case.put(&at, "2").await;
    assert!(written > first.fence);
    let second = case.store.claim(&path("t/q"), 10, LONG).await.unwrap().remove(0);
    assert_eq!((&second.entry.value[..], second.fence > written), (&b"2"[..], true));
    // put off: deleted here, put there, in one batch
    let later = format!("t/q/{:016x}/a", 2);
    case.store.commit(done(case, &second).put(path(&later), "3")).await.unwrap();
    assert_eq!(names(&case.store.claim(&path("t/q"), 10, LONG).await.unwrap()), [later]);
    // deleted and put again it is work anew
    case.delete(&format!("t/q/{:016x}/a", 2)).await;
    case.put(&at, "4").await;
    assert_eq!(names(&case.store.claim(&path("t/q"), 10, LONG).await.unwrap()), [at]);
}

async fn claims_survive(court: &Court<'_>) {
    let case = court.case();
    for i in 1..=2 {
        case.put(&format!("t/q/{i:016x}/a"), "1").await;
    }
    let claim = case.store.claim(&path("t/q"), 1, LONG).await.unwrap().remove(0);
    let Some(case) = court.reopened(case) else { return };
    let others = case.store.claim(&path("t/q"), 10, LONG).await.unwrap();
    assert_eq!(names(&others), [format!("t/q/{:016x}/a", 2)]);
    assert!(case.store.commit(done(&case, &claim)).await.is_ok(), "its fence still holds");
}
