//! The barrier's key, as it is rotated.

use crate::rig::{ROOT, Rig, With, everything_stored};
use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use audit::verify::store::{Comparison, Kind, Told};
use serde_json::{Value, json};
use std::time::Duration;
use storage::{AtLeast, Batch, CommitId, EntryPath};
use vault::Vault;
use vault::Verb::{Read, Write};
use vault::reseal::{Resealer, Turn};

/// Under which keys of the barrier what stands in the store is sealed: the last bytes of its header.
async fn epochs(rig: &Rig) -> Vec<(String, u32)> {
    let epoch = |value: &[u8]| u32::from_be_bytes(value[44..48].try_into().unwrap());
    let vaults = |(path, value): (String, Vec<u8>)| path.contains("/vault/m/").then(|| (path, epoch(&value)));
    everything_stored(rig).await.into_iter().filter_map(vaults).collect()
}

fn at<'a>(token: &'a str, node: &'a Vault) -> With<'a> {
    With { token: Some(token), node: Some(node), ..With::default() }
}

#[tokio::test]
async fn what_is_sealed_under_a_new_key_is_read_by_all_and_what_stood_before_too() {
    let rig = Rig::new().await;
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["default"]})).await.1;
    let minor = made["auth"]["client_token"].as_str().unwrap();
    rig.done(Write, "secret/data/old", json!({"data": {"a": "b"}})).await;
    let before = rig.another_node();
    rig.clock.advance(Duration::from_secs(60));
    for (path, term) in [("sys/rotate", 2), ("sys/rotate/keyring", 3)] {
        assert_eq!(rig.ask(Write, path, Value::Null, at(minor, &rig.vault)).await.0, 403);
        let (answer, records) = rig.recorded(rig.root(Write, path, Value::Null)).await;
        assert_eq!((answer.0, records.len()), (200, 1), "{answer:?}");
        assert!(answer.1["warnings"][0].as_str().unwrap().contains("tokens end"), "{answer:?}");
        let keys = rig.done(Read, "sys/key-status", Value::Null).await;
        assert_eq!(keys, json!({"term": term, "install_time": "2023-11-14T22:14:20Z", "encryptions": null}));
    }
    // one that starts now seals under the new key at once
    let after = rig.another_node();
    let old = epochs(&rig).await;
    assert!(old.iter().all(|(_, epoch)| *epoch == 1), "{old:?}");
    let written = rig.ask(Write, "secret/data/new", json!({"data": {"a": "c"}}), at(ROOT, &after)).await;
    assert_eq!(written.0, 200);
    let new = epochs(&rig).await.into_iter().filter(|row| !old.contains(row)).collect::<Vec<_>>();
    assert!(!new.is_empty() && new.iter().all(|(_, epoch)| *epoch == 3), "{new:?}");
    let read = async |node: &Vault, path: &str| {
        rig.ask(Read, path, Value::Null, at(ROOT, node)).await.1["data"]["data"]["a"].clone()
    };
    // one that has not heard of it yet waits until it does
    let hears = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        before.barrier().install(rig.vault.barrier().keyring().unwrap()).unwrap();
    };
    assert_eq!(tokio::join!(read(&before, "secret/data/new"), hears).0, "c");
    for node in [&rig.vault, &before, &after] {
        assert_eq!(
            (read(node, "secret/data/old").await, read(node, "secret/data/new").await),
            (json!("b"), json!("c"))
        );
    }
}

#[tokio::test]
async fn the_barrier_gets_four_new_keys_a_day() {
    let rig = Rig::new().await;
    let other = rig.another_node();
    let hour = Duration::from_secs(3600);
    // what one node has done counts on the other
    let mut nodes = [&rig.vault, &other].into_iter().cycle();
    for (wait, status) in [(0, 200), (1, 200), (0, 200), (2, 200), (0, 429), (20, 429), (1, 200), (0, 429), (1, 200)] {
        rig.clock.advance(hour * wait);
        let (done, body) = rig.ask(Write, "sys/rotate", Value::Null, at(ROOT, nodes.next().unwrap())).await;
        assert_eq!(done, status, "{body}");
    }
}

/// Turns until nothing is to do.
async fn walked(resealer: &mut Resealer, rig: &Rig) -> usize {
    let mut resealed = 0;
    for _ in 0..100 {
        match resealer.turn(rig.clock_now()).await.unwrap() {
            Turn::Page(count) => resealed += count,
            Turn::Again => {}
            Turn::Idle => return resealed,
        }
    }
    panic!("it does not end");
}

/// All that stands in the store, but `boot`.
async fn rows(rig: &Rig) -> Vec<(String, Vec<u8>)> {
    let mut stored = everything_stored(rig).await;
    let cluster = EntryPath::parse(&hex(rig.vault.barrier().cluster_id())).unwrap();
    let page = rig.store.scan(&cluster, None, 1000, AtLeast::Latest).await.unwrap();
    stored.extend(page.entries.iter().map(|(path, entry)| (path.as_str().to_owned(), entry.value.to_vec())));
    stored
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn olds(rows: &[(String, Vec<u8>)], term: u32) -> usize {
    let is_old = |value: &[u8]| u32::from_be_bytes(value[44..48].try_into().unwrap()) < term;
    // leaves that are to be taken out of the outbox go by themselves
    rows.iter().filter(|(path, value)| !path.contains("/outbox/") && is_old(value)).count()
}

#[tokio::test]
async fn what_stands_is_sealed_anew_and_the_log_tells_it() {
    let rig = Rig::new().await;
    for n in 0..120 {
        rig.done(Write, &format!("secret/data/{n}"), json!({"data": {"n": n}})).await;
    }
    rig.done(Write, "sys/rotate", Value::Null).await;
    // this node goes on under the old key for a moment, and nothing is walked
    let mut here = Resealer::with(rig.vault.clone(), Duration::ZERO);
    assert_eq!(here.turn(rig.clock_now()).await.unwrap(), Turn::Idle);
    rig.vault.changes().tidy().await.unwrap();
    let (node, before) = (rig.another_node(), rows(&rig).await);
    assert!(olds(&before, 2) > 300, "{}", before.len());

    // one that ends in the middle is gone on with by the next
    let mut first = Resealer::with(node.clone(), Duration::ZERO);
    let Turn::Page(some) = first.turn(rig.clock_now()).await.unwrap() else { panic!() };
    drop(first);
    let left = olds(&rows(&rig).await, 2);
    assert!(some > 0 && left > 0 && left < olds(&before, 2), "{some} {left}");
    let mut second = Resealer::with(rig.another_node(), Duration::ZERO);
    assert!(walked(&mut second, &rig).await >= left);
    let after = rows(&rig).await;
    assert_eq!(olds(&after, 2), 0);
    let sentinel = after.iter().find(|(path, _)| path.ends_with("/sentinel")).unwrap();
    assert!(!before.contains(sentinel), "the cluster's own too");
    // nothing is done twice, by whomever
    for mut again in [second, Resealer::with(rig.another_node(), Duration::ZERO)] {
        assert_eq!(walked(&mut again, &rig).await, 0);
        assert_eq!(rows(&rig).await.len(), after.len());
    }
    for n in 0..120 {
        assert_eq!(rig.done(Read, &format!("secret/data/{n}"), Value::Null).await["data"], json!({"n": n}));
    }
    // the last leaf of each row tells what stands there
    let mut told = std::collections::BTreeMap::new();
    let records = rig.records();
    for change in records.iter().filter_map(|record| record["changes"].as_array()).flatten() {
        told.insert(change[0].as_str().unwrap(), change[1].as_str().unwrap());
    }
    for (path, value) in everything_stored(&rig).await {
        let hash = rig.vault.barrier().keyed_hash(identity::change::PATH_LABEL, path.as_bytes()).unwrap();
        assert_eq!(told.get(hex(&hash).as_str()), Some(&hex(&envelope::mac::sha256(&value)).as_str()), "{path}");
    }
    let ones = records.iter().filter(|record| record["operation"] == "Reseal");
    assert!(ones.clone().count() >= 2 && ones.clone().all(|record| record["subject"]["type"] == "system"));
    assert_eq!(records.iter().filter(|record| record["operation"] == "ResealDone").count(), 1);
}

#[tokio::test]
async fn a_walk_counts_once_no_request_of_before_can_be_under_way() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/rotate", Value::Null).await;
    let node = rig.another_node();
    let mut early = Resealer::with(node.clone(), Duration::from_secs(3600));
    let mut ends = 0;
    while ends < 3 {
        match early.turn(rig.clock_now()).await.unwrap() {
            Turn::Again => ends += 1,
            Turn::Page(_) => {}
            Turn::Idle => panic!("it is not over"),
        }
    }
    assert_eq!(olds(&rows(&rig).await, 2), 0);
    let status = rig.ask(Read, "sys/key-status", Value::Null, at(ROOT, &node)).await.1;
    let told = &status["data"]["resealing"];
    assert_eq!((&told["term"], &told["done"]), (&json!(2), &json!(false)), "{status}");
    rig.vault.changes().tidy().await.unwrap();
    assert!(told["resealed"].as_u64().unwrap() > 5 && told["looked_at"].as_u64() > told["resealed"].as_u64());
    walked(&mut Resealer::with(node.clone(), Duration::ZERO), &rig).await;
    let status = rig.ask(Read, "sys/key-status", Value::Null, at(ROOT, &node)).await.1;
    assert_eq!(status["data"]["resealing"]["done"], true);
    // what was never rotated is never walked
    let other = Rig::new().await;
    assert_eq!(walked(&mut Resealer::with(other.vault.clone(), Duration::ZERO), &other).await, 0);
    assert!(other.done(Read, "sys/key-status", Value::Null).await.get("resealing").is_none());
}

#[tokio::test]
async fn who_writes_while_a_walk_goes_by_loses_nothing() {
    let rig = Rig::new().await;
    for n in 0..60 {
        rig.done(Write, &format!("secret/data/{n}"), json!({"data": {"round": 0}})).await;
    }
    rig.done(Write, "sys/rotate", Value::Null).await;
    rig.vault.changes().tidy().await.unwrap();
    let node = rig.another_node();
    let mut resealer = Resealer::with(node.clone(), Duration::ZERO);
    let writes = async {
        for round in 1..=3 {
            for n in 0..60 {
                let body = json!({"data": {"round": round}});
                let written = rig.ask(Write, &format!("secret/data/{n}"), body, at(ROOT, &node)).await;
                assert_eq!(written.0, 200, "{}", written.1);
            }
        }
    };
    tokio::join!(writes, walked(&mut resealer, &rig));
    walked(&mut Resealer::with(rig.another_node(), Duration::ZERO), &rig).await;
    assert_eq!(olds(&rows(&rig).await, 2), 0);
    for n in 0..60 {
        let read = rig.done(Read, &format!("secret/data/{n}"), Value::Null).await;
        assert_eq!((&read["data"], &read["metadata"]["version"]), (&json!({"round": 3}), &json!(4)));
    }
}

/// Values of the tenant's, as they are stored.
async fn values(rig: &Rig) -> std::collections::BTreeMap<String, Vec<u8>> {
    everything_stored(rig).await.into_iter().collect()
}

/// Behind the server's back.
async fn put(rig: &Rig, path: &str, value: Vec<u8>, id: u8) {
    let batch = Batch::new(CommitId([id; 16])).put(EntryPath::parse(path).unwrap(), value);
    rig.store.commit(batch).await.unwrap();
}

/// What a verifier finds in the store beside the log.
async fn found(rig: &Rig) -> Vec<(Kind, String)> {
    let log = LogReader::over(LogFolder::open(&rig.log_path()).unwrap());
    let (mut entries, mut told) = (log.iter_from(0).unwrap(), Told::new());
    while let Some((index, entry)) = entries.read().unwrap() {
        let entry = Entry::decode(entry).unwrap();
        told.entry(index, &entry.record());
    }
    let mut comparison = Comparison::new(vec![told], []);
    let boot = EntryPath::parse("boot").unwrap();
    let (_, boots) = rig.store.get(std::slice::from_ref(&boot), AtLeast::Latest).await.unwrap();
    let boots = boots.into_iter().flatten().map(|entry| ("boot".to_owned(), entry.value.to_vec()));
    for (path, value) in values(rig).await.into_iter().chain(boots) {
        comparison.row(&path, &envelope::mac::sha256(&value), 1);
    }
    let findings = comparison.finish().findings.into_iter();
    findings.map(|finding| (finding.kind, finding.path.unwrap_or_default())).collect()
}

#[tokio::test]
async fn an_old_row_that_was_put_back_is_found_though_it_was_sealed_anew() {
    let rig = Rig::new().await;
    rig.done(Write, "secret/data/changed", json!({"data": {"a": "old"}})).await;
    rig.done(Write, "secret/data/gone", json!({"data": {"a": "old"}})).await;
    let old = values(&rig).await;
    rig.done(Write, "secret/data/changed", json!({"data": {"a": "new"}})).await;
    rig.done(vault::Verb::Delete, "secret/metadata/gone", Value::Null).await;
    let new = values(&rig).await;
    rig.done(Write, "sys/rotate", Value::Null).await;
    let was_changed = |path: &&String| new.get(*path).is_some_and(|value| *value != old[*path]);
    let changed = old.keys().find(was_changed).unwrap().clone();
    let gone = old.keys().find(|path| !new.contains_key(*path)).unwrap().clone();
    assert_eq!(found(&rig).await, []);
    put(&rig, &changed, old[&changed].clone(), 1).await;
    put(&rig, &gone, old[&gone].clone(), 2).await;
    let mut expected = vec![(Kind::Replayed, changed.clone()), (Kind::Revived, gone.clone())];
    expected.sort_unstable();
    let mut told = found(&rig).await;
    told.sort_unstable();
    assert_eq!(told, expected);
    rig.vault.changes().tidy().await.unwrap();
    walked(&mut Resealer::with(rig.another_node(), Duration::ZERO), &rig).await;
    let mut told = found(&rig).await;
    told.sort_unstable();
    let mut expected = vec![(Kind::Resealed, changed), (Kind::Resealed, gone)];
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_value_that_does_not_open_keeps_no_other_waiting() {
    let rig = Rig::new().await;
    for n in 0..60 {
        rig.done(Write, &format!("secret/data/{n}"), json!({"data": {"n": n}})).await;
    }
    rig.done(Write, "sys/rotate", Value::Null).await;
    rig.vault.changes().tidy().await.unwrap();
    let stored = values(&rig).await;
    let (path, value) = stored.iter().filter(|(path, _)| path.contains("/vault/m/")).nth(20).unwrap();
    let mut altered = value.clone();
    *altered.last_mut().unwrap() ^= 1;
    put(&rig, path, altered, 3).await;
    let node = rig.another_node();
    walked(&mut Resealer::with(node.clone(), Duration::ZERO), &rig).await;
    assert_eq!(olds(&rows(&rig).await, 2), 1);
    let status = rig.ask(Read, "sys/key-status", Value::Null, at(ROOT, &node)).await.1;
    let told = &status["data"]["resealing"];
    assert_eq!((&told["done"], &told["unreadable"]), (&json!(true), &json!(1)), "{status}");
}

#[tokio::test]
async fn a_rekey_that_is_under_way_goes_on_while_its_key_is_sealed_anew() {
    let rig = Rig::new().await;
    let init = "sys/rekey-recovery-key/init";
    let (_, first) = rig.root(Write, init, json!({"secret_shares": 1, "secret_threshold": 1})).await;
    let (_, begun) =
        rig.root(Write, init, json!({"secret_shares": 1, "secret_threshold": 1, "require_verification": true})).await;
    let body = json!({"key": first["keys"][0], "nonce": begun["nonce"]});
    let (_, shown) = rig.root(Write, "sys/rekey-recovery-key/update", body).await;
    rig.done(Write, "sys/rotate", Value::Null).await;
    rig.vault.changes().tidy().await.unwrap();
    assert!(walked(&mut Resealer::with(rig.another_node(), Duration::ZERO), &rig).await > 0);
    let body = json!({"key": shown["keys"][0], "nonce": shown["verification_nonce"]});
    let (status, told) = rig.root(Write, "sys/rekey-recovery-key/verify", body).await;
    assert_eq!((status, &told["complete"]), (200, &json!(true)), "{told}");
}

#[tokio::test]
async fn policies_of_two_namespaces_that_were_sealed_anew_together_decide_each_in_its_own() {
    let rig = Rig::new().await;
    let mut tokens = Vec::new();
    for (namespace, rule) in [("a", "secret/data/x"), ("b", "nowhere")] {
        rig.done(Write, &format!("sys/namespaces/{namespace}"), Value::Null).await;
        let root = || With { token: Some(ROOT), namespace, ..With::default() };
        let policy = format!(r#"path "{rule}" {{ capabilities = ["read"] }}"#);
        let only = json!({"policies": ["same"], "no_default_policy": true, "no_parent": true});
        let mut told = Value::Null;
        for (path, body) in [
            ("sys/mounts/secret", json!({"type": "kv-v2"})),
            ("secret/data/x", json!({"data": {}})),
            ("sys/policies/acl/same", json!({ "policy": policy })),
            ("auth/token/create", only),
        ] {
            let (status, body) = rig.ask(Write, path, body, root()).await;
            assert!(status < 300, "{path} {body}");
            told = body;
        }
        tokens.push((namespace, told["auth"]["client_token"].as_str().unwrap().to_owned()));
    }
    rig.done(Write, "sys/rotate", Value::Null).await;
    rig.vault.changes().tidy().await.unwrap();
    assert!(walked(&mut Resealer::with(rig.another_node(), Duration::ZERO), &rig).await > 0);
    let mut revisions = Vec::new();
    for (path, _) in everything_stored(&rig).await.iter().filter(|(path, _)| path.ends_with("/identity/policies/same"))
    {
        let (_, found) = rig.store.get(&[EntryPath::parse(path).unwrap()], AtLeast::Latest).await.unwrap();
        revisions.push(found[0].as_ref().unwrap().revision);
    }
    assert!(revisions.len() == 2 && revisions[0] == revisions[1], "one commit wrote both: {revisions:?}");
    // whichever is known first
    for order in [[0, 1], [1, 0]] {
        let node = rig.another_node();
        // until it hears of changes it keeps nothing
        tokio::time::sleep(Duration::from_millis(100)).await;
        for at in order {
            let (namespace, token) = &tokens[at];
            let with = With { namespace, ..self::at(token, &node) };
            let (status, _) = rig.ask(Read, "secret/data/x", Value::Null, with).await;
            assert_eq!(status, if *namespace == "a" { 200 } else { 403 }, "{namespace}");
        }
    }
}
