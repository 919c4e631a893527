//! Keys' lives: made, named, rotated, disabled, deleted; and made once by a request that comes twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use envelope::SecretBytes;
use identity::Principal;
use kms::{
    AliasName, ClientRequestId, CreateAlias, CreateKey, DeleteAlias, DeletionFinality, Description, Encrypt, KeyRef,
    KeySpec, KeyState, KeyUsage, ListAliases, PageRequest, ProtectionLevel, ScheduleKeyDeletion, UpdateAlias,
};
use rig::{Rig, START, context, create, data_key, id, told, unknown_id};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn alias(name: &str) -> AliasName {
    AliasName::parse(&format!("alias/{name}")).unwrap()
}

fn schedule(key: &KeyRef, days: u32) -> ScheduleKeyDeletion {
    ScheduleKeyDeletion { key: key.clone(), pending_window_in_days: days }
}

/// What using the key comes to: a data key, and opening `blob`.
async fn uses(rig: &Rig, key: &KeyRef, blob: &bytes::Bytes) -> [String; 2] {
    [told(&rig.data_key(&rig.root, key).await), told(&rig.decrypt(&rig.root, blob, &[]).await)]
}

#[tokio::test]
async fn a_new_key_is_described_as_it_was_asked_for() {
    let rig = Rig::new().await;
    for (spec, usage) in [
        (KeySpec::Aes256, KeyUsage::EncryptDecrypt),
        (KeySpec::Hmac256, KeyUsage::GenerateVerifyMac),
        (KeySpec::EccNistP256, KeyUsage::SignVerify),
        (KeySpec::EccNistEdwards25519, KeyUsage::SignVerify),
    ] {
        let description = Description::parse("for the tests").unwrap();
        let command = CreateKey { usage: Some(usage), description, ..create(spec) };
        let made = rig.kms.create_key(&rig.root, &rig.call(), command).await.unwrap();
        assert_eq!((made.spec, made.usage, made.level), (spec, usage, ProtectionLevel::Boundary));
        assert_eq!((made.state, made.created, made.current_version), (KeyState::Enabled, START, 1));
        assert_eq!((made.versions.len(), made.deletion_finality), (1, None));
        assert_eq!(made.signing_algorithms, spec.signing_algorithms());
        assert_eq!(made.mac_algorithms.len(), usize::from(spec == KeySpec::Hmac256));
        assert_eq!(made.description, "for the tests");
        let described = rig.kms.describe_key(&rig.root, &rig.call(), &id(&made)).await.unwrap();
        assert_eq!(described, made);
    }
    for (command, outcome) in [
        (CreateKey { usage: Some(KeyUsage::SignVerify), ..create(KeySpec::Aes256) }, "INVALID_FIELD key_usage"),
        (CreateKey { usage: Some(KeyUsage::SystemSeal), ..create(KeySpec::Aes256) }, "INVALID_FIELD key_usage"),
        (CreateKey { usage: Some(KeyUsage::Log), ..create(KeySpec::EccNistEdwards25519) }, "INVALID_FIELD key_usage"),
        (
            CreateKey { level: Some(ProtectionLevel::HsmResident), ..create(KeySpec::Aes256) },
            "PROTECTION_LEVEL_UNAVAILABLE",
        ),
    ] {
        assert_eq!(told(&rig.kms.create_key(&rig.root, &rig.call(), command).await), outcome);
    }
}

#[tokio::test]
async fn a_key_that_is_not_enabled_does_nothing_and_can_be_brought_back_until_it_is_deleted() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let (root, kms) = (&rig.root, &rig.kms);
    let uses_ok = ["OK".to_owned(), "OK".to_owned()];
    let state = async || kms.describe_key(root, &rig.call(), &key).await.unwrap().state;

    kms.enable_key(root, &rig.call(), &key).await.unwrap();
    kms.disable_key(root, &rig.call(), &key).await.unwrap();
    kms.disable_key(root, &rig.call(), &key).await.unwrap();
    assert_eq!(uses(&rig, &key, &blob).await, ["KEY_DISABLED"; 2]);
    assert_eq!(told(&kms.rotate_key_on_demand(root, &rig.call(), &key).await), "KEY_DISABLED");
    assert_eq!(told(&kms.cancel_key_deletion(root, &rig.call(), &key).await), "KEY_STATE");
    kms.enable_key(root, &rig.call(), &key).await.unwrap();
    assert_eq!(uses(&rig, &key, &blob).await, uses_ok);

    for (days, outcome) in [(1, false), (6, false), (31, false), (0, true), (7, true), (30, true)] {
        let scheduled = kms.schedule_key_deletion(root, &rig.call(), schedule(&key, days)).await;
        if !outcome {
            assert_eq!(told(&scheduled), "INVALID_FIELD pending_window_in_days", "{days}");
            continue;
        }
        let scheduled = scheduled.unwrap();
        let filled_in = if days == 0 { 30 } else { days };
        assert_eq!(scheduled.pending_window_in_days, filled_in);
        assert_eq!(scheduled.deletion_date, START.plus(DAY * filled_in));
        assert_eq!(state().await, KeyState::PendingDeletion { at: scheduled.deletion_date });
        assert_eq!(uses(&rig, &key, &blob).await, ["KEY_PENDING_DELETION"; 2]);
        for refused in [
            told(&kms.enable_key(root, &rig.call(), &key).await),
            told(&kms.disable_key(root, &rig.call(), &key).await),
            told(&kms.rotate_key_on_demand(root, &rig.call(), &key).await),
            told(&kms.schedule_key_deletion(root, &rig.call(), schedule(&key, 7)).await),
        ] {
            assert_eq!(refused, "KEY_PENDING_DELETION");
        }
        kms.cancel_key_deletion(root, &rig.call(), &key).await.unwrap();
        assert_eq!(state().await, KeyState::Disabled);
        kms.enable_key(root, &rig.call(), &key).await.unwrap();
        assert_eq!(uses(&rig, &key, &blob).await, uses_ok);
    }
}

#[tokio::test]
async fn a_key_is_deleted_when_its_window_has_passed_and_leaves_a_tombstone_without_tokens() {
    let rig = Rig::new().await;
    let metadata = rig.key(KeySpec::Aes256).await;
    let (key, kept) = (id(&metadata), id(&rig.key(KeySpec::Aes256).await));
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let path = storage::EntryPath::parse(&format!("{}/kms/keys/{}", "7e".repeat(16), metadata.key_id)).unwrap();
    let stored = async || {
        let (_, entries) = rig.barrier.get(std::slice::from_ref(&path), storage::AtLeast::Latest).await.unwrap();
        entries.into_iter().flatten().next().unwrap().value.expose().to_vec()
    };
    let holds_a_token = |value: &[u8]| value.windows(4).any(|window| window == b"SR\x01\x02");
    assert!(holds_a_token(&stored().await));

    for due in [&key, &kept] {
        rig.kms.schedule_key_deletion(&rig.root, &rig.call(), schedule(due, 7)).await.unwrap();
    }
    assert_eq!(rig.kms.sweep(START.plus(DAY * 6)).await.unwrap(), 0);
    rig.clock.advance(DAY * 7);
    rig.kms.cancel_key_deletion(&rig.root, &rig.call(), &kept).await.unwrap();
    let (deleted, records) = rig.recorded(rig.kms.sweep(START.plus(DAY * 7))).await;
    assert_eq!(deleted.unwrap(), 1);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["operation"], "DeleteKey");
    assert_eq!(records[0]["subject"]["type"], "system");
    assert_eq!(records[0]["path"], format!("kms/keys/{}", metadata.key_id));
    assert!(records[0]["changes"].as_array().unwrap().len() >= 2, "the key's entry and the queue's");
    assert_eq!(rig.kms.sweep(START.plus(DAY * 7)).await.unwrap(), 0);

    assert!(!holds_a_token(&stored().await));
    assert_eq!(uses(&rig, &key, &blob).await, ["KEY_DELETED"; 2]);
    let described = rig.kms.describe_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert_eq!(described.state, KeyState::Deleted { at: START.plus(DAY * 7) });
    assert_eq!(described.deletion_finality, Some(DeletionFinality::WhenBackupsOrDomainGenerationAreGone));
    for refused in [
        told(&rig.kms.enable_key(&rig.root, &rig.call(), &key).await),
        told(&rig.kms.disable_key(&rig.root, &rig.call(), &key).await),
        told(&rig.kms.cancel_key_deletion(&rig.root, &rig.call(), &key).await),
        told(&rig.kms.schedule_key_deletion(&rig.root, &rig.call(), schedule(&key, 7)).await),
        told(&rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await),
    ] {
        assert_eq!(refused, "KEY_DELETED");
    }
    let listed = rig.kms.list_keys(&rig.root, &rig.call(), &PageRequest::default()).await.unwrap();
    assert_eq!(listed.items.into_iter().map(KeyRef::Id).collect::<Vec<_>>(), [kept]);
}

#[tokio::test]
async fn every_operation_refuses_a_disabled_key() {
    let rig = Rig::new().await;
    let mac = id(&rig.key(KeySpec::Hmac256).await);
    let signing = id(&rig.key(KeySpec::EccNistP256).await);
    for key in [&mac, &signing] {
        rig.kms.disable_key(&rig.root, &rig.call(), key).await.unwrap();
    }
    let (message, algorithm) = (bytes::Bytes::from_static(b"m"), kms::SigningAlgorithm::EcdsaSha256);
    let message_type = kms::MessageType::Raw;
    let sign = kms::Sign { key: signing.clone(), message: message.clone(), message_type, algorithm };
    let signature = message.clone();
    let verify = kms::Verify { key: signing.clone(), message: message.clone(), message_type, signature, algorithm };
    let generate_mac = kms::GenerateMac {
        key: mac.clone(),
        message: SecretBytes::copy_from(b"m"),
        algorithm: kms::MacAlgorithm::HmacSha256,
    };
    let verify_mac = kms::VerifyMac {
        key: mac.clone(),
        message: SecretBytes::copy_from(b"m"),
        algorithm: kms::MacAlgorithm::HmacSha256,
        mac: message,
    };
    for refused in [
        told(&rig.kms.sign(&rig.root, &rig.call(), sign).await),
        told(&rig.kms.verify(&rig.root, &rig.call(), verify).await),
        told(&rig.kms.public_key(&rig.root, &rig.call(), &signing).await),
        told(&rig.kms.generate_mac(&rig.root, &rig.call(), generate_mac).await),
        told(&rig.kms.verify_mac(&rig.root, &rig.call(), verify_mac).await),
    ] {
        assert_eq!(refused, "KEY_DISABLED");
    }
}

#[tokio::test]
async fn a_request_that_comes_twice_makes_one_key() {
    let rig = Rig::new().await;
    let policy = r#"path "kms/keys" { capabilities = ["create"] }"#;
    let other = rig.principal("other", policy).await;
    let request = |spec, description: &str| CreateKey {
        description: Description::parse(description).unwrap(),
        client_request_id: Some(ClientRequestId::parse("order-7").unwrap()),
        ..create(spec)
    };
    let make = async |by: &Principal, command| rig.kms.create_key(by, &rig.call(), command).await;
    let first = make(&rig.root, request(KeySpec::Aes256, "a")).await.unwrap();
    let asked = rig.requests();
    assert_eq!(make(&rig.root, request(KeySpec::Aes256, "a")).await.unwrap(), first);
    assert_eq!(rig.requests(), asked, "the boundary makes no second key");
    for changed in [request(KeySpec::Aes256, "b"), request(KeySpec::Hmac256, "a")] {
        assert_eq!(told(&make(&rig.root, changed).await), "REQUEST_ID_REUSED");
    }
    let theirs = make(&other, request(KeySpec::Aes256, "a")).await.unwrap();
    assert_ne!(theirs.key_id, first.key_id, "an id counts for one principal");

    rig.clock.advance(DAY - Duration::from_millis(1));
    assert_eq!(make(&rig.root, request(KeySpec::Aes256, "a")).await.unwrap().key_id, first.key_id);
    rig.clock.advance(Duration::from_millis(1));
    let later = make(&rig.root, request(KeySpec::Aes256, "b")).await.unwrap();
    assert_ne!(later.key_id, first.key_id, "after 24 h the id is free");
    // the sweep drops what counts no more, and nothing else
    rig.kms.sweep(START.plus(DAY)).await.unwrap();
    let prefix = storage::EntryPath::parse(&format!("{}/kms/requests", "7e".repeat(16))).unwrap();
    let left = rig.barrier.scan(&prefix, None, 10, storage::AtLeast::Latest).await.unwrap();
    assert_eq!(left.entries.len(), 1);
    assert_eq!(make(&rig.root, request(KeySpec::Aes256, "b")).await.unwrap().key_id, later.key_id);
}

#[tokio::test]
async fn the_same_request_at_once_makes_one_key() {
    let rig = Rig::new().await;
    let command =
        CreateKey { client_request_id: Some(ClientRequestId::parse("once").unwrap()), ..create(KeySpec::Aes256) };
    let calls: Vec<_> = (0..8).map(|_| rig.call()).collect();
    let made =
        futures_util::future::join_all(calls.iter().map(|call| rig.kms.create_key(&rig.root, call, command.clone())))
            .await;
    let made: Vec<_> = made.into_iter().map(|made| made.unwrap().key_id).collect();
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    let listed = rig.kms.list_keys(&rig.root, &rig.call(), &PageRequest::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test]
async fn keys_are_listed_in_order_a_page_at_a_time() {
    let rig = Rig::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(rig.key(KeySpec::Aes256).await.key_id);
    }
    made.sort();
    let (mut listed, mut page) = (Vec::new(), PageRequest { limit: 2, marker: String::new() });
    loop {
        let found = rig.kms.list_keys(&rig.root, &rig.call(), &page).await.unwrap();
        assert!(found.items.len() <= 2);
        listed.extend(found.items);
        match found.next_marker {
            Some(marker) => page.marker = marker,
            None => break,
        }
    }
    assert_eq!(listed, made);
    for (limit, marker, outcome) in [
        (1000, "", "OK"),
        (1001, "", "INVALID_FIELD limit"),
        (1, "x", "INVALID_MARKER marker"),
        (1, "../../boot", "INVALID_MARKER marker"),
    ] {
        let page = PageRequest { limit, marker: marker.to_owned() };
        assert_eq!(told(&rig.kms.list_keys(&rig.root, &rig.call(), &page).await), outcome, "{limit} {marker}");
    }
}

#[tokio::test]
async fn an_alias_names_one_key_until_it_is_pointed_elsewhere() {
    let rig = Rig::new().await;
    let (a, b) = (rig.key(KeySpec::Aes256).await.key_id, rig.key(KeySpec::Aes256).await.key_id);
    let mac = rig.key(KeySpec::Hmac256).await.key_id;
    let create = async |name, target| {
        rig.kms.create_alias(&rig.root, &rig.call(), CreateAlias { alias: alias(name), target }).await
    };
    let update = async |name, target| {
        rig.kms.update_alias(&rig.root, &rig.call(), UpdateAlias { alias: alias(name), target }).await
    };
    let delete = async |name| rig.kms.delete_alias(&rig.root, &rig.call(), DeleteAlias { alias: alias(name) }).await;
    let named = KeyRef::parse("alias/app/db").unwrap();
    let used = async || rig.data_key(&rig.root, &named).await.map(|made| made.key_id);

    assert_eq!(told(&used().await), "ALIAS_NOT_FOUND");
    create("app/db", a).await.unwrap();
    assert_eq!(used().await.unwrap(), a);
    update("app/db", b).await.unwrap();
    assert_eq!(used().await.unwrap(), b, "the name points elsewhere when the reply is there");
    for (outcome, expected) in [
        (told(&create("app/db", a).await), "ALIAS_EXISTS"),
        (told(&create("strongroom/x", a).await), "INVALID_FIELD alias_name"),
        (told(&create("new", unknown_id()).await), "KEY_NOT_FOUND"),
        (told(&update("app/db", mac).await), "INVALID_FIELD target_key_id"),
        (told(&update("app/db", unknown_id()).await), "KEY_NOT_FOUND"),
        (told(&update("none", a).await), "ALIAS_NOT_FOUND"),
        (told(&delete("none").await), "ALIAS_NOT_FOUND"),
    ] {
        assert_eq!(outcome, expected);
    }
    create("b", b).await.unwrap();
    create("m", mac).await.unwrap();
    let list = async |key: Option<KeyRef>| {
        let command = ListAliases { key, page: PageRequest::default() };
        let page = rig.kms.list_aliases(&rig.root, &rig.call(), command).await.unwrap();
        let mut names: Vec<_> = page.items.iter().map(|entry| entry.name.as_str().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(list(None).await, ["alias/app/db", "alias/b", "alias/m"]);
    assert_eq!(list(Some(KeyRef::Id(b))).await, ["alias/app/db", "alias/b"]);
    assert_eq!(list(Some(named.clone())).await, ["alias/app/db", "alias/b"]);
    delete("app/db").await.unwrap();
    assert_eq!(told(&used().await), "ALIAS_NOT_FOUND");
    assert_eq!(list(None).await, ["alias/b", "alias/m"]);
    rig.kms.schedule_key_deletion(&rig.root, &rig.call(), schedule(&KeyRef::Id(b), 7)).await.unwrap();
    assert_eq!(told(&create("late", b).await), "KEY_PENDING_DELETION");
}

#[tokio::test]
async fn pointing_a_name_elsewhere_needs_rights_on_the_name_and_on_both_keys() {
    let rig = Rig::new().await;
    let (a, b) = (rig.key(KeySpec::Aes256).await.key_id, rig.key(KeySpec::Aes256).await.key_id);
    rig.kms.create_alias(&rig.root, &rig.call(), CreateAlias { alias: alias("n"), target: a }).await.unwrap();
    let rule = |path: String| format!("path \"{path}\" {{ capabilities = [\"create\", \"update\", \"delete\"] }}\n");
    let name = rule("kms/aliases/n".into());
    let (on_a, on_b) = (rule(format!("kms/keys/{a}/alias")), rule(format!("kms/keys/{b}/alias")));
    for (number, policy, updates, deletes) in [
        (0, format!("{name}{on_a}"), "PERMISSION_DENIED", "OK"),
        (1, format!("{name}{on_b}"), "PERMISSION_DENIED", "PERMISSION_DENIED"),
        (2, format!("{on_a}{on_b}"), "PERMISSION_DENIED", "PERMISSION_DENIED"),
        (3, format!("{name}{on_a}{on_b}"), "OK", "OK"),
    ] {
        let by = rig.principal(&format!("p{number}"), &policy).await;
        let update = UpdateAlias { alias: alias("n"), target: b };
        assert_eq!(told(&rig.kms.update_alias(&by, &rig.call(), update).await), updates, "{policy}");
        if updates == "OK" {
            let back = UpdateAlias { alias: alias("n"), target: a };
            rig.kms.update_alias(&by, &rig.call(), back).await.unwrap();
        }
        let deleted = rig.kms.delete_alias(&by, &rig.call(), DeleteAlias { alias: alias("n") }).await;
        assert_eq!(told(&deleted), deletes, "{policy}");
        if deletes == "OK" {
            let again = CreateAlias { alias: alias("n"), target: a };
            rig.kms.create_alias(&rig.root, &rig.call(), again).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_boundary_that_is_away_is_told_as_such_and_used_again_when_it_is_back() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    rig.stop_module();
    let made = rig.data_key(&rig.root, &key).await;
    assert_eq!(told(&made), "BOUNDARY_UNAVAILABLE");
    assert!(made.unwrap_err().retry_after().is_some());
    assert_eq!(
        told(&rig.kms.create_key(&rig.root, &rig.call(), create(KeySpec::Aes256)).await),
        "BOUNDARY_UNAVAILABLE"
    );
    assert_eq!(told(&rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await), "BOUNDARY_UNAVAILABLE");
    rig.start_module();
    rig.kms.generate_data_key(&rig.root, &rig.call(), data_key(&key)).await.unwrap();
    rig.key(KeySpec::Aes256).await;
    let command = Encrypt { key, plaintext: SecretBytes::copy_from(b"x"), context: context(&[]) };
    rig.kms.encrypt(&rig.root, &rig.call(), command).await.unwrap();
}
