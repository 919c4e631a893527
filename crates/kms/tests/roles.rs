//! What is kept for a certificate role is kept for that one, not for a later one of its name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use identity::{CertificateMatch, CertificateRole, PeerCertificate, PolicyName, Principal, RoleName, Standing};
use kms::{
    ClientRequestId, CreateGrant, CreateKey, GrantConstraints, GrantId, GrantName, GrantOperation, GrantRef, KeyId,
    KeyRef, KeySpec, ListGrants, PageRequest, PrincipalName,
};
use rig::{Rig, create, id, told};
use std::sync::Arc;
use storage::{AtLeast, Batch, CommitId, EntryPath};

fn named(raw: &str) -> PrincipalName {
    PrincipalName::parse(raw).unwrap()
}

async fn put(rig: &Rig, policy: &str, name: &str) {
    let policies = Arc::new([PolicyName::parse(policy).unwrap()]);
    let matches = CertificateMatch::CommonName(name.to_owned());
    let role = CertificateRole { name: RoleName::parse("ci").unwrap(), matches, policies };
    rig.identities.put_certificate_role(&rig.root, &rig.call(), &role).await.unwrap();
}

async fn delete(rig: &Rig) {
    let name = RoleName::parse("ci").unwrap();
    rig.identities.delete_certificate_role(&rig.root, &rig.call(), &name).await.unwrap();
}

async fn shown(rig: &Rig, name: &str) -> Arc<Principal> {
    let certificate = PeerCertificate {
        thumbprint: [1; 32],
        common_name: Some(name.to_owned()),
        standing: Standing::Verified,
        ..PeerCertificate::default()
    };
    let by = rig.identities.authenticate(None, Some(&certificate), &rig.call()).await.unwrap();
    assert_eq!(by.id().split('@').next(), Some("cert/ci"));
    by
}

/// A named grant to `cert/ci`, which that principal may retire as well.
async fn give(rig: &Rig, key: &KeyRef) -> GrantId {
    let command = CreateGrant {
        key: key.clone(),
        grantee: named("cert/ci"),
        retiring: Some(named("cert/ci")),
        operations: vec![GrantOperation::Decrypt],
        constraints: GrantConstraints::default(),
        name: Some(GrantName::parse("g").unwrap()),
        expires: None,
    };
    rig.kms.create_grant(&rig.root, &rig.call(), command).await.unwrap()
}

async fn granted(rig: &Rig, key: &KeyRef, grantee: Option<&str>) -> Vec<GrantId> {
    let page = PageRequest::default();
    let command = ListGrants { key: key.clone(), grant_id: None, grantee: grantee.map(named), page };
    let (_, listed) = rig.kms.list_grants(&rig.root, &rig.call(), command).await.unwrap();
    listed.items.into_iter().map(|grant| grant.id).collect()
}

async fn made(rig: &Rig, by: &Principal) -> KeyId {
    let client_request_id = Some(ClientRequestId::parse("order-7").unwrap());
    let command = CreateKey { client_request_id, ..create(KeySpec::Aes256) };
    rig.kms.create_key(by, &rig.call(), command).await.unwrap().key_id
}

async fn prepared() -> Rig {
    let rig = Rig::new().await;
    let text = r#"path "kms/keys" { capabilities = ["create"] }"#;
    for name in ["one", "two"] {
        rig.identities.put_policy(&rig.root, &rig.call(), &PolicyName::parse(name).unwrap(), text).await.unwrap();
    }
    rig
}

#[tokio::test]
async fn a_role_that_is_made_again_has_nothing_of_its_namesake() {
    let rig = prepared().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"plaintext", &[]).await;
    put(&rig, "one", "ci").await;
    let first = shown(&rig, "ci").await;
    assert_eq!(told(&rig.decrypt(&first, &blob, &[]).await), "PERMISSION_DENIED");
    let (grant, order) = (give(&rig, &key).await, made(&rig, &first).await);
    assert_eq!(told(&rig.decrypt(&first, &blob, &[]).await), "OK");

    // written again, with other policies and for another certificate, it is the same role
    put(&rig, "two", "ci 2").await;
    let again = shown(&rig, "ci 2").await;
    assert_eq!((again.id(), made(&rig, &again).await), (first.id(), order));
    assert_eq!(told(&rig.decrypt(&again, &blob, &[]).await), "OK");
    assert_eq!(give(&rig, &key).await, grant);

    delete(&rig).await;
    put(&rig, "one", "ci").await;
    let other = shown(&rig, "ci").await;
    assert_ne!(other.id(), first.id());
    assert_eq!(told(&rig.decrypt(&other, &blob, &[]).await), "PERMISSION_DENIED");
    let retire = GrantRef { key: key.clone(), grant_id: grant };
    assert_eq!(told(&rig.kms.retire_grant(&other, &rig.call(), retire).await), "PERMISSION_DENIED");
    assert_ne!(made(&rig, &other).await, order, "nobody else's request");
    let new = give(&rig, &key).await;
    assert_ne!(new, grant, "the same words for another role");
    assert_eq!(told(&rig.decrypt(&other, &blob, &[]).await), "OK");
    let mut both = vec![grant, new];
    both.sort();
    assert_eq!(granted(&rig, &key, Some("cert/ci")).await, both);
    assert_eq!(granted(&rig, &key, Some(first.id())).await, [grant]);
    assert_eq!(granted(&rig, &key, Some("cert/c")).await, []);
}

#[tokio::test]
async fn a_role_that_is_made_after_the_grant_does_not_have_it() {
    let rig = prepared().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"plaintext", &[]).await;
    give(&rig, &key).await;
    put(&rig, "one", "ci").await;
    assert_eq!(told(&rig.decrypt(&*shown(&rig, "ci").await, &blob, &[]).await), "PERMISSION_DENIED");
}

/// As an older version stored it.
#[tokio::test]
async fn a_role_from_before_lineages_keeps_its_grants_until_it_is_deleted() {
    let rig = prepared().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"plaintext", &[]).await;
    put(&rig, "one", "ci").await;
    let path = EntryPath::parse(&format!("{}/identity/roles/ci", hex::encode(rig::TENANT))).unwrap();
    let (_, stored) = rig.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await.unwrap();
    let stored = stored.into_iter().next().flatten().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(stored.value.expose()).unwrap();
    json.as_object_mut().unwrap().remove("lineage").unwrap();
    let sealed = rig.barrier.seal(&path, json.to_string().as_bytes()).unwrap();
    rig.barrier.commit(Batch::new(CommitId([1; 16])).put(path, sealed)).await.unwrap();

    let (grant, old) = (give(&rig, &key).await, shown(&rig, "ci").await);
    assert_eq!(old.id(), "cert/ci");
    put(&rig, "two", "ci").await;
    let old = shown(&rig, "ci").await;
    assert_eq!(told(&rig.decrypt(&old, &blob, &[]).await), "OK");
    assert_eq!(give(&rig, &key).await, grant);
    delete(&rig).await;
    put(&rig, "one", "ci").await;
    assert_eq!(told(&rig.decrypt(&*shown(&rig, "ci").await, &blob, &[]).await), "PERMISSION_DENIED");
}
