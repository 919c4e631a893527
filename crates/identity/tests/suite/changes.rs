use crate::house::{House, ROOT};
use audit::{AuditError, AuditSink, ForReceipt, Record, Subject};
use bytes::Bytes;
use envelope::mac;
use futures_util::future::{BoxFuture, join_all};
use identity::{ChangeError, Changes};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{
    AtLeast, Barrier, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, Keyring, Page, Revision, Storage,
    StorageError, outbox,
};

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn record<'a>(house: &House, request_id: &'a str) -> Record<'a> {
    Record::new(house.call().now, request_id, "Test", &Subject::System)
}

fn put(house: &House, changes: &Changes, at: &str) -> Batch {
    let at = path(at);
    let sealed = house.barrier.seal(&at, b"value").unwrap();
    changes.batch().unwrap().put(at, sealed)
}

async fn pending(house: &House) -> usize {
    outbox::pending(&house.barrier).await.unwrap().len()
}

fn requests(house: &House) -> Vec<String> {
    house.records().iter().map(|record| record["request_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_change_is_in_the_log_when_it_is_answered_with_the_hashes_of_what_was_written() {
    let house = House::new();
    let changes = house.changes();
    let batch = put(&house, &changes, "t/a").delete(path("t/b"));
    changes.commit(batch, &record(&house, "one")).await.unwrap();
    let (_, found) = house.store.get(&[path("t/a")], AtLeast::Latest).await.unwrap();
    let hash = |raw: &str| hex::encode(house.barrier.keyed_hash(b"audit/path", raw.as_bytes()).unwrap());
    let value = hex::encode(mac::sha256(&found[0].as_ref().unwrap().value));
    let told = serde_json::json!([[hash("t/a"), value], [hash("t/b"), "deleted"]]);
    assert_eq!(house.records()[0]["changes"], told);
    assert_eq!(pending(&house).await, 1, "taken out with a later change");
    changes.commit(put(&house, &changes, "t/b"), &record(&house, "two")).await.unwrap();
    assert_eq!(pending(&house).await, 1);
    changes.tidy().await.unwrap();
    assert_eq!((pending(&house).await, requests(&house)), (0, vec!["one".into(), "two".into()]));
    assert_eq!(changes.replay().await.unwrap(), 0);
}

#[tokio::test]
async fn what_does_not_come_to_be_is_not_told() {
    let house = House::new();
    let changes = house.changes();
    let batch = put(&house, &changes, "t/a").revision_is(path("t/a"), storage::Revision(7));
    let refused = changes.commit(batch, &record(&house, "one")).await;
    assert_eq!(refused, Err(ChangeError::Conflict(path("t/a"))));
    assert_eq!((pending(&house).await, house.lines().len()), (0, 0));
}

/// The log is moved away, so that the process can commit but not tell; then the process is gone.
#[tokio::test]
async fn a_crash_between_commit_and_log_loses_no_leaf() {
    let house = House::new();
    let away = house.log.with_extension("away");
    let before = house.changes();
    std::fs::rename(&house.log, &away).unwrap();
    let failed = before.commit(put(&house, &before, "t/a"), &record(&house, "one")).await.unwrap_err();
    assert_eq!(failed.reason(), "AUDIT_UNAVAILABLE");
    let (_, found) = house.store.get(&[path("t/a")], AtLeast::Latest).await.unwrap();
    assert!(found[0].is_some(), "the change stands");
    drop(before);
    std::fs::rename(&away, &house.log).unwrap();
    assert_eq!((pending(&house).await, house.lines().len()), (1, 0));

    let after = house.changes();
    assert_eq!(after.replay().await.unwrap(), 1);
    assert_eq!((pending(&house).await, requests(&house)), (0, vec!["one".into()]));
    for _ in 0..2 {
        assert_eq!(after.replay().await.unwrap(), 0, "once is enough");
    }
    assert_eq!(house.lines().len(), 1);
}

/// Everything on it asks for a receipt.
#[derive(Debug)]
struct ForReceipts(Arc<dyn AuditSink>);

impl AuditSink for ForReceipts {
    fn append(&self, record: Bytes) -> BoxFuture<'static, Result<(), AuditError>> {
        let appended = self.0.append_for_receipt(record);
        Box::pin(async move { appended.receipt.await.map(drop) })
    }

    fn append_for_receipt(&self, record: Bytes) -> ForReceipt {
        self.0.append_for_receipt(record)
    }
}

#[tokio::test]
async fn a_leaf_without_a_receipt_is_logged_and_not_told_again() {
    // the house's boundary is away
    let house = House::new();
    let unsigned = ForReceipts(house.sink());
    assert_eq!(unsigned.append(record(&house, "zero").encode()).await, Err(AuditError::Unsigned));
    let changes = house.changes().on_lane(Arc::new(unsigned));
    changes.commit(put(&house, &changes, "t/a"), &record(&house, "one")).await.unwrap();
    assert_eq!(pending(&house).await, 1);
    changes.tidy().await.unwrap();
    assert_eq!((pending(&house).await, changes.replay().await), (0, Ok(0)));
    // nor does one that a former process left behind come twice
    let leaf = record(&house, "left behind").encode();
    let (batch, _) = outbox::attach(&house.barrier, Batch::new(storage::CommitId([7; 16])), &leaf).unwrap();
    house.barrier.commit(batch).await.unwrap();
    assert_eq!((changes.replay().await, pending(&house).await), (Ok(1), 0));
    assert_eq!(requests(&house), ["zero", "one", "left behind"]);
}

#[tokio::test]
async fn a_replay_that_cannot_log_takes_nothing_out() {
    let house = House::new();
    for i in 0..150_u8 {
        let batch = Batch::new(storage::CommitId([i; 16]));
        let leaf = record(&house, "left behind").encode();
        let (batch, _) = outbox::attach(&house.barrier, batch, &leaf).unwrap();
        house.barrier.commit(batch).await.unwrap();
    }
    let away = house.log.with_extension("away");
    std::fs::rename(&house.log, &away).unwrap();
    let changes = house.changes();
    assert_eq!(changes.replay().await.unwrap_err().reason(), "AUDIT_UNAVAILABLE");
    assert_eq!(pending(&house).await, 150);
    std::fs::rename(&away, &house.log).unwrap();
    let settled = house.lines().len();
    assert_eq!(changes.replay().await.unwrap(), 150);
    assert_eq!((pending(&house).await, house.lines().len() - settled), (0, 150));
}

#[tokio::test]
async fn while_a_leaf_is_owed_nothing_is_changed_and_it_is_told_first() {
    let house = House::new();
    let away = house.log.with_extension("away");
    let changes = house.changes();
    std::fs::rename(&house.log, &away).unwrap();
    for (request, at) in [("one", "t/a"), ("two", "t/b"), ("three", "t/c")] {
        let failed = changes.commit(put(&house, &changes, at), &record(&house, request)).await.unwrap_err();
        assert_eq!(failed.reason(), "AUDIT_UNAVAILABLE", "{at}");
    }
    let paths = ["t/a", "t/b", "t/c"].map(path);
    let (_, found) = house.store.get(&paths, AtLeast::Latest).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    std::fs::rename(&away, &house.log).unwrap();
    changes.commit(put(&house, &changes, "t/d"), &record(&house, "four")).await.unwrap();
    assert_eq!(requests(&house), ["one", "four"]);
    changes.tidy().await.unwrap();
    assert_eq!(pending(&house).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_one_path_are_told_in_the_order_of_their_commits() {
    let house = House::new();
    let here = house.changes();
    let there = here.on_lane(house.sink());
    let made = join_all((0..200).map(|number| {
        let changes = if number % 2 == 0 { here.clone() } else { there.clone() };
        let batch = put(&house, &changes, "t/a");
        let Some(storage::Write::Put(_, value)) = batch.writes.first() else { panic!("it puts") };
        let hash = hex::encode(mac::sha256(value));
        let call = house.call();
        tokio::spawn(async move {
            let record = Record::new(call.now, &call.request_id, "Test", &Subject::System);
            (hash, changes.commit(batch, &record).await.unwrap())
        })
    }))
    .await;
    let revisions: std::collections::HashMap<String, Revision> = made.into_iter().map(Result::unwrap).collect();
    let told = house.records();
    let told: Vec<Revision> = told.iter().map(|record| revisions[record["changes"][0][1].as_str().unwrap()]).collect();
    assert!(told.len() == 200 && told.is_sorted(), "{told:?}");
}

#[tokio::test]
async fn leaves_that_were_left_behind_are_told_in_the_order_of_their_commits() {
    let house = House::new();
    let mut expected = Vec::new();
    // more than are taken out at once, under ids in no order
    for number in 0..250 {
        let changes = house.changes();
        expected.push(format!("left-{number}"));
        let leaf = record(&house, &expected[number]).encode();
        let (batch, _) = outbox::attach(&house.barrier, put(&house, &changes, "t/a"), &leaf).unwrap();
        house.barrier.commit(batch).await.unwrap();
    }
    assert_eq!(house.changes().replay().await.unwrap(), 250);
    assert_eq!((requests(&house), pending(&house).await), (expected, 0));
}

#[tokio::test]
async fn who_waits_for_a_path_and_goes_leaves_nothing_behind() {
    let house = House::new();
    let changes = house.changes();
    for round in 0..3 {
        let (a, b) = (record(&house, "a"), record(&house, "b"));
        let mut first = Box::pin(changes.commit(put(&house, &changes, "t/a").delete(path("t/b")), &a));
        let mut waits = Box::pin(changes.commit(put(&house, &changes, "t/b"), &b));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut waits).is_pending());
        drop(waits);
        first.await.unwrap();
        changes.commit(put(&house, &changes, "t/b"), &b).await.unwrap();
        assert_eq!(requests(&house).len(), 2 * (round + 1), "the one that waited was not made");
    }
    assert!(format!("{changes:?}").contains("turns: Mutex { data: {}"), "{changes:?}");
}

#[tokio::test]
async fn a_change_whose_caller_has_gone_is_told_all_the_same() {
    let house = House::new();
    let changes = house.changes();
    for number in 0..20 {
        let task = {
            let (changes, batch, call) = (changes.clone(), put(&house, &changes, &format!("t/{number}")), house.call());
            tokio::spawn(async move {
                let record = Record::new(call.now, &call.request_id, "Test", &Subject::System);
                changes.commit(batch, &record).await
            })
        };
        tokio::task::yield_now().await;
        task.abort();
        drop(task.await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    changes.tidy().await.unwrap();
    let (revision, _) = house.store.get(&[], AtLeast::Latest).await.unwrap();
    assert!(revision.0 >= 20 && house.lines().len() == 20, "{revision:?} {}", house.lines().len());
    assert_eq!(pending(&house).await, 0);
}

#[tokio::test]
async fn concurrent_changes_share_their_syncs_and_the_outbox_stays_short() {
    let house = House::new();
    let changes = house.changes();
    for round in 0..4 {
        let requests: Vec<String> = (0..64).map(|i| format!("{round}-{i}")).collect();
        let records: Vec<_> = requests.iter().map(|request| record(&house, request)).collect();
        let all = records
            .iter()
            .map(|record| changes.commit(put(&house, &changes, &format!("t/{}", record.request_id)), record));
        assert!(join_all(all).await.into_iter().all(|outcome| outcome.is_ok()));
    }
    assert_eq!(house.lines().len(), 256);
    assert!(house.file.syncs() < 64, "{} syncs for 256 changes", house.file.syncs());
    assert!(pending(&house).await <= 2 * 64, "{} rows", pending(&house).await);
    changes.tidy().await.unwrap();
    assert_eq!(pending(&house).await, 0);
}

#[tokio::test]
async fn without_a_log_nothing_is_done_and_nothing_is_told_to_the_caller() {
    let house = House::new();
    let (node, root) = house.open().await;
    std::fs::rename(&house.log, house.log.with_extension("away")).unwrap();
    let lookup = node.lookup_token(&root, &house.call(), identity::Target::Own).await.unwrap_err();
    let policy = identity::PolicyName::parse("p").unwrap();
    let read = node.get_policy(&root, &house.call(), &policy).await.unwrap_err();
    let change = node.put_policy(&root, &house.call(), &policy, "").await.unwrap_err();
    for error in [lookup, change] {
        assert_eq!(error.reason(), "AUDIT_UNAVAILABLE");
    }
    assert_eq!(read.reason(), "AUDIT_UNAVAILABLE", "not even that there is none");
    // who is known comes in: what is done then is recorded or refused
    assert!(node.authenticate(Some(ROOT), None, &house.call()).await.is_ok());
}

/// A store beyond a network. Cut off, it answers no commit; the first of each id is on its way until it is delivered.
#[derive(Debug)]
struct Far {
    store: Arc<dyn Storage>,
    cut_off: AtomicBool,
    under_way: Mutex<Vec<Batch>>,
}

impl Far {
    async fn deliver(&self) {
        let batches = std::mem::take(&mut *self.under_way.lock().unwrap());
        assert!(!batches.is_empty());
        for batch in batches {
            self.store.commit(batch).await.unwrap();
        }
    }
}

#[async_trait::async_trait]
impl Storage for Far {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError> {
        self.store.get(paths, at).await
    }

    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError> {
        self.store.scan(prefix, after, limit, at).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        if !self.cut_off.load(Ordering::Relaxed) {
            return self.store.commit(batch).await;
        }
        let mut under_way = self.under_way.lock().unwrap();
        if !under_way.iter().any(|known| known.id == batch.id) {
            under_way.push(batch);
        }
        Err(CommitError::Unknown)
    }

    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        if self.cut_off.load(Ordering::Relaxed) {
            return Err(StorageError::Unavailable);
        }
        self.store.committed(id).await
    }

    fn watch(&self, prefix: &EntryPath, from: Revision) -> futures_util::stream::BoxStream<'static, Change> {
        self.store.watch(prefix, from)
    }

    fn hearing(&self) -> Option<tokio::sync::watch::Receiver<storage::Moment>> {
        self.store.hearing()
    }

    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError> {
        self.store.claim(queue, limit, for_).await
    }

    async fn backup(&self, to: &Path) -> Result<Revision, StorageError> {
        self.store.backup(to).await
    }
}

fn far() -> (House, Arc<Far>, Changes) {
    let mut house = House::new();
    let (cut_off, under_way) = (AtomicBool::new(true), Mutex::default());
    let far = Arc::new(Far { store: Arc::clone(&house.store), cut_off, under_way });
    let store: Arc<dyn Storage> = Arc::clone(&far) as _;
    house.barrier = Arc::new(Barrier::new(store, [1; 16], Keyring::generate().unwrap()));
    let changes = house.changes();
    (house, far, changes)
}

async fn stands(house: &House, at: &str) -> bool {
    house.store.get(&[path(at)], AtLeast::Latest).await.unwrap().1[0].is_some()
}

#[tokio::test]
async fn a_change_that_may_still_come_is_made_and_told_or_neither() {
    for arrives_first in [true, false] {
        let (house, far, changes) = far();
        let unknown = changes.commit(put(&house, &changes, "t/a"), &record(&house, "one")).await;
        assert_eq!(unknown, Err(ChangeError::Unknown));
        // as long as that cannot be known, nothing else is changed
        let second = changes.commit(put(&house, &changes, "t/b"), &record(&house, "two")).await;
        assert_eq!((second, far.under_way.lock().unwrap().len()), (Err(ChangeError::Unknown), 1));
        if arrives_first {
            far.deliver().await;
        }
        far.cut_off.store(false, Ordering::Relaxed);
        changes.commit(put(&house, &changes, "t/c"), &record(&house, "three")).await.unwrap();
        if !arrives_first {
            far.deliver().await;
        }
        let told: &[&str] = if arrives_first { &["one", "three"] } else { &["three"] };
        assert_eq!(requests(&house), told, "in the order of their commits");
        let found = [stands(&house, "t/a").await, stands(&house, "t/b").await, stands(&house, "t/c").await];
        assert_eq!(found, [arrives_first, false, true]);
        changes.tidy().await.unwrap();
        assert_eq!((pending(&house).await, requests(&house).len()), (0, told.len()));
    }
}

#[tokio::test]
async fn changes_at_one_moment_all_wait_for_what_is_owed() {
    let (house, far, changes) = far();
    let unknown = changes.commit(put(&house, &changes, "t/a"), &record(&house, "one")).await;
    assert_eq!(unknown, Err(ChangeError::Unknown));
    far.deliver().await;
    let away = house.log.with_extension("away");
    std::fs::rename(&house.log, &away).unwrap();
    far.cut_off.store(false, Ordering::Relaxed);
    let names: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let records: Vec<_> = names.iter().map(|name| record(&house, name)).collect();
    let all = records.iter().map(|record| {
        let batch = put(&house, &changes, &format!("t/more/{}", record.request_id));
        changes.commit(batch, record)
    });
    for outcome in join_all(all).await {
        assert_eq!(outcome.unwrap_err().reason(), "AUDIT_UNAVAILABLE");
    }
    for name in &names {
        assert!(
            !stands(&house, &format!("t/more/{name}")).await,
            "{name} was changed while one before it was not told"
        );
    }
    std::fs::rename(&away, &house.log).unwrap();
    changes.tidy().await.unwrap();
    assert_eq!((pending(&house).await, requests(&house)), (0, vec!["one".to_owned()]));
}

#[tokio::test]
async fn what_a_node_left_behind_is_logged_by_another_and_what_is_under_way_is_left_alone() {
    let house = House::new();
    let (gone, other) = (house.changes(), Changes::new(Arc::clone(&house.barrier), house.sink(), 3));
    let call = house.call();
    let record = Record { request_id: &call.request_id, ..Record::new(call.now, "", "Test", &Subject::System) };
    // the other node's own, which is taken out with its next change
    other.commit(put(&house, &other, "t/own"), &record).await.unwrap();
    // as of a node that was killed between its commit and its log
    let leaf = Record { request_id: "left-behind", ..record.clone() }.encode();
    let (left, _) = outbox::attach(&house.barrier, put(&house, &gone, "t/left"), &leaf).unwrap();
    let revision = house.barrier.commit(left).await.unwrap();
    assert_eq!(other.adopt().await, Ok(0), "it may be under way");
    assert_eq!(other.adopt().await, Ok(1));
    assert_eq!((other.adopt().await, pending(&house).await), (Ok(0), 1));
    let records = house.records();
    let told = records.iter().find(|record| record["request_id"] == "left-behind").unwrap();
    assert_eq!(told["committed"], serde_json::json!({ "revision": revision.0, "generation": 3 }));
}
