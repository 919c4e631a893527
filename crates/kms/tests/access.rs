//! Who may do what: ACLs, grants, and what is not told to who may not know.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::SecretBytes;
use envelope::time::Clock;
use identity::Principal;
use kms::{
    CreateGrant, Encrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext, GrantConstraints, GrantId, GrantName,
    GrantOperation, GrantRef, KeyRef, KeySpec, Kms, KmsError, ListGrants, PageRequest, PrincipalName, ReEncrypt,
    ScheduleKeyDeletion,
};
use rig::{Rig, context, data_key, id, soon, told, unknown_id};
use std::time::Duration;

fn name_of(principal: &Principal) -> PrincipalName {
    PrincipalName::parse(principal.id()).unwrap()
}

fn grant(key: &KeyRef, to: &Principal, operations: &[GrantOperation]) -> CreateGrant {
    CreateGrant {
        key: key.clone(),
        grantee: name_of(to),
        retiring: None,
        operations: operations.to_vec(),
        constraints: GrantConstraints::default(),
        name: None,
        expires: None,
    }
}

async fn give(rig: &Rig, command: CreateGrant) -> Result<GrantId, KmsError> {
    rig.kms.create_grant(&rig.root, &rig.call(), command).await
}

/// Everything that can be asked of one key by its id.
async fn everything(rig: &Rig, kms: &Kms, by: &Principal, key: &KeyRef) -> Vec<(&'static str, String)> {
    let call = &rig.call();
    let message = || Bytes::from_static(b"m");
    let secret = || SecretBytes::copy_from(b"m");
    let (message_type, algorithm) = (kms::MessageType::Raw, kms::SigningAlgorithm::EcdsaSha256);
    let mac_algorithm = kms::MacAlgorithm::HmacSha256;
    let length = kms::DataKeyBytes::AES_256;
    let grant_ref = || GrantRef { key: key.clone(), grant_id: GrantId::from_bytes([1; 16]) };
    let KeyRef::Id(target) = *key else { panic!("an id") };
    let alias = kms::AliasName::parse("alias/x").unwrap();
    let without = GenerateDataKeyWithoutPlaintext { key: key.clone(), length, context: context(&[]) };
    let encrypt = Encrypt { key: key.clone(), plaintext: secret(), context: context(&[]) };
    let sign = kms::Sign { key: key.clone(), message: message(), message_type, algorithm };
    let verify = kms::Verify { key: key.clone(), message: message(), message_type, signature: message(), algorithm };
    let generate_mac = kms::GenerateMac { key: key.clone(), message: secret(), algorithm: mac_algorithm };
    let verify_mac = kms::VerifyMac { key: key.clone(), message: secret(), algorithm: mac_algorithm, mac: message() };
    let list = ListGrants { key: key.clone(), grant_id: None, grantee: None, page: PageRequest::default() };
    let schedule = ScheduleKeyDeletion { key: key.clone(), pending_window_in_days: 7 };
    vec![
        ("describe", told(&kms.describe_key(by, call, key).await)),
        ("enable", told(&kms.enable_key(by, call, key).await)),
        ("disable", told(&kms.disable_key(by, call, key).await)),
        ("schedule", told(&kms.schedule_key_deletion(by, call, schedule).await)),
        ("cancel", told(&kms.cancel_key_deletion(by, call, key).await)),
        ("rotate", told(&kms.rotate_key_on_demand(by, call, key).await)),
        ("data key", told(&kms.generate_data_key(by, call, data_key(key)).await)),
        ("without plaintext", told(&kms.generate_data_key_without_plaintext(by, call, without).await)),
        ("encrypt", told(&kms.encrypt(by, call, encrypt).await)),
        ("sign", told(&kms.sign(by, call, sign).await)),
        ("verify", told(&kms.verify(by, call, verify).await)),
        ("public key", told(&kms.public_key(by, call, key).await)),
        ("mac", told(&kms.generate_mac(by, call, generate_mac).await)),
        ("verify mac", told(&kms.verify_mac(by, call, verify_mac).await)),
        ("create grant", told(&kms.create_grant(by, call, grant(key, by, &[GrantOperation::Decrypt])).await)),
        ("list grants", told(&kms.list_grants(by, call, list).await)),
        ("revoke", told(&kms.revoke_grant(by, call, grant_ref()).await)),
        ("retire", told(&kms.retire_grant(by, call, grant_ref()).await)),
        ("alias", told(&kms.create_alias(by, call, kms::CreateAlias { alias, target }).await)),
    ]
}

#[tokio::test]
async fn an_unknown_key_and_a_forbidden_one_look_the_same_to_who_may_see_neither() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let unknown = KeyRef::Id(unknown_id());
    let stranger = rig.stranger("stranger").await;
    let ((forbidden, forbidden_log), (none, none_log)) = (
        rig.recorded(everything(&rig, &rig.kms, &stranger, &key)).await,
        rig.recorded(everything(&rig, &rig.kms, &stranger, &unknown)).await,
    );
    assert_eq!(forbidden, none);
    assert!(forbidden.iter().all(|(_, told)| told == "PERMISSION_DENIED"), "{forbidden:?}");
    // each refusal is in the log, as denied
    assert_eq!((forbidden_log.len(), none_log.len()), (forbidden.len(), none.len()));
    assert!(forbidden_log.iter().all(|record| record["decision"] == "denied"), "{forbidden_log:?}");

    // who may see it is told that there is none
    for (what, told) in everything(&rig, &rig.kms, &rig.root, &unknown).await {
        let expected = if what == "retire" { "GRANT_NOT_FOUND" } else { "KEY_NOT_FOUND" };
        assert_eq!(told, expected, "{what}");
    }

    // by name: an unknown one, and one of a key that is not theirs
    let KeyRef::Id(target) = key else { unreachable!() };
    let alias = kms::AliasName::parse("alias/named").unwrap();
    rig.kms.create_alias(&rig.root, &rig.call(), kms::CreateAlias { alias, target }).await.unwrap();
    let seer = rig.principal("seer", r#"path "kms/aliases/*" { capabilities = ["read"] }"#).await;
    let reader = rig.principal("reader", r#"path "kms/keys/+" { capabilities = ["read"] }"#).await;
    for (by, named, none) in [
        (&stranger, "PERMISSION_DENIED", "PERMISSION_DENIED"),
        (&seer, "PERMISSION_DENIED", "ALIAS_NOT_FOUND"),
        (&reader, "PERMISSION_DENIED", "ALIAS_NOT_FOUND"),
        (&rig.root, "OK", "ALIAS_NOT_FOUND"),
    ] {
        for (name, outcome) in [("alias/named", named), ("alias/none", none)] {
            let used = rig.data_key(by, &KeyRef::parse(name).unwrap()).await;
            assert_eq!(told(&used), outcome, "{name} {}", by.id());
        }
    }
}

#[tokio::test]
async fn a_blob_tells_nothing_to_who_may_not_use_its_key() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let KeyRef::Id(key_id) = key else { unreachable!() };
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let mut unknown = blob.to_vec();
    unknown[8..24].copy_from_slice(unknown_id().bytes());
    let mut other_version = blob.to_vec();
    other_version[27] = 9;
    let mut other_domain = blob.to_vec();
    other_domain[28] ^= 1;
    let stranger = rig.stranger("stranger").await;
    let policy = format!(r#"path "kms/keys/{key_id}/decrypt" {{ capabilities = ["update"] }}"#);
    let user = rig.principal("user", &policy).await;
    for (what, blob, to_stranger, to_user, to_root) in [
        ("whole", blob.to_vec(), "PERMISSION_DENIED", "OK", "OK"),
        ("unknown key", unknown, "PERMISSION_DENIED", "PERMISSION_DENIED", "INVALID_CIPHERTEXT"),
        ("unknown version", other_version, "PERMISSION_DENIED", "INVALID_CIPHERTEXT", "INVALID_CIPHERTEXT"),
        ("foreign domain", other_domain, "PERMISSION_DENIED", "INVALID_CIPHERTEXT", "INVALID_CIPHERTEXT"),
    ] {
        for (by, outcome) in [(&stranger, to_stranger), (&user, to_user), (&rig.root, to_root)] {
            let opened = rig.decrypt(by, &Bytes::copy_from_slice(&blob), &[]).await;
            assert_eq!(told(&opened), outcome, "{what} {}", by.id());
        }
    }
    // a disabled key tells its state to its users only
    rig.kms.disable_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert_eq!(told(&rig.decrypt(&user, &blob, &[]).await), "KEY_DISABLED");
    assert_eq!(told(&rig.decrypt(&stranger, &blob, &[]).await), "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_right_is_to_one_operation_and_a_deny_beats_a_grant() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let KeyRef::Id(key_id) = key else { unreachable!() };
    let policy = format!(r#"path "kms/keys/{key_id}/encrypt" {{ capabilities = ["update"] }}"#);
    let user = rig.principal("user", &policy).await;
    for (what, told) in everything(&rig, &rig.kms, &user, &key).await {
        assert_eq!(told == "OK", what == "encrypt", "{what}: {told}");
    }
    let policy = format!(
        "path \"kms/keys/{key_id}/generate-data-key\" {{ capabilities = [\"deny\"] }}
         path \"kms/keys/{key_id}/grants/*\" {{ capabilities = [\"deny\"] }}"
    );
    let barred = rig.principal("barred", &policy).await;
    let operations = [GrantOperation::GenerateDataKey, GrantOperation::Encrypt, GrantOperation::RetireGrant];
    let grant_id = give(&rig, grant(&key, &barred, &operations)).await.unwrap();
    assert_eq!(told(&rig.data_key(&barred, &key).await), "PERMISSION_DENIED");
    let plaintext = SecretBytes::copy_from(b"x");
    let encrypt = Encrypt { key: key.clone(), plaintext, context: context(&[]) };
    assert_eq!(told(&rig.kms.encrypt(&barred, &rig.call(), encrypt).await), "OK");
    let retired = rig.kms.retire_grant(&barred, &rig.call(), GrantRef { key, grant_id }).await;
    assert_eq!(told(&retired), "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_grant_holds_for_its_operations_context_and_time() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let (user, other) = (rig.stranger("user").await, rig.stranger("other").await);
    let made = async |by: &Principal, pairs: &[(&str, &str)]| {
        let command = GenerateDataKey { context: context(pairs), ..data_key(&key) };
        told(&rig.kms.generate_data_key(by, &rig.call(), command).await)
    };
    let app = [("app", "db")];
    assert_eq!(made(&user, &app).await, "PERMISSION_DENIED");
    let expires = Some(rig.clock.now().plus(Duration::from_secs(60)));
    let constraints = GrantConstraints { subset: context(&app), ..GrantConstraints::default() };
    let subset = CreateGrant {
        constraints,
        expires,
        ..grant(&key, &user, &[GrantOperation::GenerateDataKey, GrantOperation::Decrypt])
    };
    let subset_id = give(&rig, subset).await.unwrap();
    for (pairs, outcome) in [
        (&app[..], "OK"),
        (&[("app", "db"), ("row", "1")], "OK"),
        (&[], "PERMISSION_DENIED"),
        (&[("app", "web")], "PERMISSION_DENIED"),
    ] {
        assert_eq!(made(&user, pairs).await, outcome, "{pairs:?}");
        assert_eq!(made(&other, pairs).await, "PERMISSION_DENIED");
    }
    let blob = rig.encrypt(&key, b"text", &app).await;
    assert_eq!(rig.decrypt(&user, &blob, &app).await.unwrap(), b"text");
    let plaintext = SecretBytes::copy_from(b"x");
    let encrypt = Encrypt { key: key.clone(), plaintext, context: context(&app) };
    assert_eq!(told(&rig.kms.encrypt(&user, &rig.call(), encrypt).await), "PERMISSION_DENIED");

    let constraints = GrantConstraints { equals: context(&app), ..GrantConstraints::default() };
    give(&rig, CreateGrant { constraints, ..grant(&key, &other, &[GrantOperation::GenerateDataKey]) }).await.unwrap();
    assert_eq!(made(&other, &app).await, "OK");
    assert_eq!(made(&other, &[("app", "db"), ("row", "1")]).await, "PERMISSION_DENIED");

    let (outcome, records) = rig.recorded(made(&user, &app)).await;
    assert_eq!((outcome.as_str(), &records[0]["rule"]), ("OK", &format!("grant/{subset_id}").into()));
    rig.clock.advance(Duration::from_millis(59_999));
    assert_eq!(made(&user, &app).await, "OK");
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(made(&user, &app).await, "PERMISSION_DENIED", "it has expired");
}

#[tokio::test]
async fn a_grant_that_makes_no_sense_is_refused() {
    let rig = Rig::new().await;
    let symmetric = id(&rig.key(KeySpec::Aes256).await);
    let signing = id(&rig.key(KeySpec::EccNistP256).await);
    let user = rig.stranger("user").await;
    let limited = GrantConstraints { subset: context(&[("a", "b")]), ..GrantConstraints::default() };
    use GrantOperation::{CreateGrant as Create, Decrypt, DescribeKey, RetireGrant, Sign, VerifyMac};
    let now = rig.clock.now();
    for (what, command, outcome) in [
        ("nothing", grant(&symmetric, &user, &[]), "INVALID_FIELD operations"),
        ("twice", grant(&symmetric, &user, &[Decrypt, Decrypt]), "INVALID_FIELD operations"),
        ("another usage", grant(&symmetric, &user, &[Sign]), "INVALID_FIELD operations"),
        ("another usage", grant(&signing, &user, &[Decrypt]), "INVALID_FIELD operations"),
        ("another usage", grant(&signing, &user, &[VerifyMac]), "INVALID_FIELD operations"),
        ("any usage", grant(&signing, &user, &[Sign, DescribeKey, RetireGrant, Create]), "OK"),
        (
            "a context where none is taken",
            CreateGrant { constraints: limited.clone(), ..grant(&symmetric, &user, &[Decrypt, DescribeKey]) },
            "INVALID_FIELD operations",
        ),
        ("constrained", CreateGrant { constraints: limited, ..grant(&symmetric, &user, &[Decrypt]) }, "OK"),
        (
            "over already",
            CreateGrant { expires: Some(now), ..grant(&symmetric, &user, &[Decrypt]) },
            "INVALID_FIELD expiration_date",
        ),
    ] {
        assert_eq!(told(&give(&rig, command).await), outcome, "{what}");
    }
    let schedule = ScheduleKeyDeletion { key: symmetric.clone(), pending_window_in_days: 7 };
    rig.kms.schedule_key_deletion(&rig.root, &rig.call(), schedule).await.unwrap();
    assert_eq!(told(&give(&rig, grant(&symmetric, &user, &[Decrypt])).await), "KEY_PENDING_DELETION");
}

#[tokio::test]
async fn a_named_grant_is_made_once_and_listed_with_the_others() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let (user, other) = (rig.stranger("user").await, rig.stranger("other").await);
    let named = |to: &Principal| CreateGrant {
        name: Some(GrantName::parse("nightly:job").unwrap()),
        ..grant(&key, to, &[GrantOperation::Decrypt])
    };
    let first = give(&rig, named(&user)).await.unwrap();
    assert_eq!(give(&rig, named(&user)).await.unwrap(), first);
    let theirs = give(&rig, named(&other)).await.unwrap();
    assert_ne!(theirs, first, "another body is another grant");
    let unnamed = grant(&key, &user, &[GrantOperation::Encrypt]);
    let pair = [give(&rig, unnamed.clone()).await.unwrap(), give(&rig, unnamed).await.unwrap()];
    assert_ne!(pair[0], pair[1]);

    let list = async |grant_id: Option<GrantId>, grantee: Option<PrincipalName>, limit| {
        let mut command = ListGrants { key: key.clone(), grant_id, grantee, page: PageRequest::default() };
        command.page.limit = limit;
        let mut ids = Vec::new();
        loop {
            let (_, found) = rig.kms.list_grants(&rig.root, &rig.call(), command.clone()).await.unwrap();
            assert!(found.items.iter().all(|grant| grant.issuing.as_str() == rig.root.id()));
            ids.extend(found.items.iter().map(|grant| grant.id));
            match found.next_marker {
                Some(marker) => command.page.marker = marker,
                None => return ids,
            }
        }
    };
    let mut all = vec![first, theirs, pair[0], pair[1]];
    all.sort();
    for limit in [0, 1, 3, 100] {
        assert_eq!(list(None, None, limit).await, all, "{limit}");
    }
    assert_eq!(list(Some(first), None, 0).await, [first]);
    assert_eq!(list(None, Some(name_of(&other)), 1).await, [theirs]);
}

#[tokio::test]
async fn a_grant_ends_by_who_administers_the_key_or_by_who_may_retire_it() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let (user, retirer) = (rig.stranger("user").await, rig.stranger("retirer").await);
    use GrantOperation::{GenerateDataKey as Data, RetireGrant};
    let plain = CreateGrant { retiring: Some(name_of(&retirer)), ..grant(&key, &user, &[Data]) };
    let own = grant(&key, &user, &[Data, RetireGrant]);
    let end = async |revoke: bool, by: &Principal, grant_id| {
        let command = GrantRef { key: key.clone(), grant_id };
        match revoke {
            true => told(&rig.kms.revoke_grant(by, &rig.call(), command).await),
            false => told(&rig.kms.retire_grant(by, &rig.call(), command).await),
        }
    };
    for (what, command, revoke, by, outcome) in [
        ("a grantee revokes", &own, true, &user, "PERMISSION_DENIED"),
        ("a grantee retires without the right", &plain, false, &user, "PERMISSION_DENIED"),
        ("a grantee retires with the right", &own, false, &user, "OK"),
        ("the retiring principal retires", &plain, false, &retirer, "OK"),
        ("another's retiring principal retires", &own, false, &retirer, "PERMISSION_DENIED"),
        ("root retires what is not root's", &own, false, &rig.root, "PERMISSION_DENIED"),
        ("root revokes", &plain, true, &rig.root, "OK"),
    ] {
        let grant_id = give(&rig, command.clone()).await.unwrap();
        assert_eq!(told(&rig.data_key(&user, &key).await), "OK");
        assert_eq!(end(revoke, by, grant_id).await, outcome, "{what}");
        if outcome == "OK" {
            // at once, on this node
            assert_eq!(told(&rig.data_key(&user, &key).await), "PERMISSION_DENIED", "{what}");
            assert_eq!(end(true, &rig.root, grant_id).await, "GRANT_NOT_FOUND");
        } else {
            assert_eq!(end(true, &rig.root, grant_id).await, "OK");
        }
    }
}

#[tokio::test]
async fn who_grants_by_a_grant_gives_no_more_than_it_holds() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let (agent, worker) = (rig.stranger("agent").await, rig.stranger("worker").await);
    use GrantOperation::{CreateGrant as Create, Decrypt, Encrypt, GenerateDataKey as Data};
    let end = rig.clock.now().plus(Duration::from_secs(60));
    let parent = CreateGrant { expires: Some(end), ..grant(&key, &agent, &[Create, Data, Decrypt]) };
    give(&rig, parent).await.unwrap();
    let later = Some(end.plus(Duration::from_millis(1)));
    for (what, operations, expires, outcome) in [
        ("the same", vec![Create, Data, Decrypt], Some(end), "OK"),
        ("less", vec![Data], Some(end), "OK"),
        ("more", vec![Data, Encrypt], Some(end), "PERMISSION_DENIED"),
        ("longer", vec![Data], later, "PERMISSION_DENIED"),
        ("for ever", vec![Data], None, "PERMISSION_DENIED"),
    ] {
        let command = CreateGrant { expires, ..grant(&key, &worker, &operations) };
        let given = rig.kms.create_grant(&agent, &rig.call(), command).await;
        assert_eq!(told(&given), outcome, "{what}");
    }
    assert_eq!(told(&rig.data_key(&worker, &key).await), "OK");
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let re_encrypt = ReEncrypt {
        ciphertext_blob: blob.clone(),
        source_context: context(&[]),
        source_key: None,
        destination_key: key.clone(),
        destination_context: context(&[]),
    };
    assert_eq!(told(&rig.kms.re_encrypt(&worker, &rig.call(), re_encrypt).await), "PERMISSION_DENIED");
    assert_eq!(told(&rig.decrypt(&worker, &blob, &[]).await), "OK");
}

#[tokio::test]
async fn expired_grants_go_when_another_is_made() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let user = rig.stranger("user").await;
    let expires = Some(rig.clock.now().plus(Duration::from_secs(60)));
    for _ in 0..3 {
        give(&rig, CreateGrant { expires, ..grant(&key, &user, &[GrantOperation::Decrypt]) }).await.unwrap();
    }
    rig.clock.advance(Duration::from_secs(60));
    let kept = give(&rig, grant(&key, &user, &[GrantOperation::Decrypt])).await.unwrap();
    let command = ListGrants { key, grant_id: None, grantee: None, page: PageRequest::default() };
    let (_, listed) = rig.kms.list_grants(&rig.root, &rig.call(), command).await.unwrap();
    assert_eq!(listed.items.iter().map(|grant| grant.id).collect::<Vec<_>>(), [kept]);
}

#[tokio::test]
async fn two_nodes_over_one_store_see_each_others_changes() {
    let rig = Rig::new().await;
    let other = rig.another_kms();
    let user = rig.stranger("user").await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let there =
        async |by: &Principal, key: &KeyRef| told(&other.generate_data_key(by, &rig.call(), data_key(key)).await);
    // in its caches from now on
    assert_eq!(there(&rig.root, &key).await, "OK");
    assert_eq!(there(&user, &key).await, "PERMISSION_DENIED");
    let named = KeyRef::parse("alias/n").unwrap();

    rig.kms.disable_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert!(soon(async || there(&rig.root, &key).await == "KEY_DISABLED").await);
    rig.kms.enable_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert!(soon(async || there(&rig.root, &key).await == "OK").await);
    let grant_id = give(&rig, grant(&key, &user, &[GrantOperation::GenerateDataKey])).await.unwrap();
    assert!(soon(async || there(&user, &key).await == "OK").await);
    rig.kms.revoke_grant(&rig.root, &rig.call(), GrantRef { key: key.clone(), grant_id }).await.unwrap();
    assert!(soon(async || there(&user, &key).await == "PERMISSION_DENIED").await);
    rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await.unwrap();
    assert!(
        soon(async || {
            let made = other.generate_data_key(&rig.root, &rig.call(), data_key(&key)).await;
            made.unwrap().key_version == 2
        })
        .await
    );
    let target = rig.key(KeySpec::Aes256).await.key_id;
    let alias = kms::AliasName::parse("alias/n").unwrap();
    let KeyRef::Id(first) = key else { unreachable!() };
    rig.kms
        .create_alias(&rig.root, &rig.call(), kms::CreateAlias { alias: alias.clone(), target: first })
        .await
        .unwrap();
    let names =
        async || other.generate_data_key(&rig.root, &rig.call(), data_key(&named)).await.map(|made| made.key_id);
    assert!(soon(async || names().await.is_ok_and(|id| id == first)).await);
    rig.kms.update_alias(&rig.root, &rig.call(), kms::UpdateAlias { alias, target }).await.unwrap();
    assert!(soon(async || names().await.is_ok_and(|id| id == target)).await);
}

#[tokio::test]
async fn rotations_at_once_each_make_a_version_or_say_that_they_did_not() {
    let rig = Rig::new().await;
    let other = rig.another_kms();
    let key = id(&rig.key(KeySpec::Aes256).await);
    let calls: Vec<_> = (0..6).map(|_| rig.call()).collect();
    let rotations = calls.iter().enumerate().map(|(i, call)| {
        let kms = if i % 2 == 0 { &rig.kms } else { &other };
        kms.rotate_key_on_demand(&rig.root, call, &key)
    });
    let outcomes = futures_util::future::join_all(rotations).await;
    let mut made: Vec<_> = outcomes.iter().flatten().map(|rotated| rotated.key_version).collect();
    made.sort();
    let refused = outcomes.iter().filter(|outcome| told(*outcome) == "CONFLICT").count();
    assert_eq!(made.len() + refused, calls.len(), "{outcomes:?}");
    let versions = u32::try_from(made.len()).unwrap() + 1;
    assert!(!made.is_empty());
    assert_eq!(made, (2..=versions).collect::<Vec<_>>(), "no version is given twice");
    let described = other.describe_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert!(described.current_version <= versions);
    let described = rig.another_kms().describe_key(&rig.root, &rig.call(), &key).await.unwrap();
    assert_eq!(described.current_version, versions);
}

#[tokio::test]
async fn a_key_has_a_bounded_number_of_versions() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let first = rig.encrypt(&key, b"first", &[]).await;
    for _ in 1..kms::KEY_VERSIONS_MAX {
        rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await.unwrap();
    }
    assert_eq!(told(&rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await), "LIMIT_EXCEEDED");
    assert_eq!(rig.decrypt(&rig.root, &first, &[]).await.unwrap(), b"first");
}
