//! The barrier's key, as it is rotated.

use crate::rig::{ROOT, Rig, With, everything_stored};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Vault;
use vault::Verb::{Read, Write};

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
