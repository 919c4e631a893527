//! Keys that another domain shows under paths of its own, and the versions that it names.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::SecretBytes;
use kms::{
    AtVersion, Decrypt, Encrypt, GenerateMac, KeyMetadata, KeyRef, KeySpec, MacAlgorithm, MessageType, ReEncrypt, Sign,
    SigningAlgorithm, Verify, VerifyMac,
};
use rig::{Rig, context, create, data_key, id, told};
use std::time::Duration;

fn encrypt(key: &KeyMetadata, version: Option<u32>) -> AtVersion<Encrypt> {
    let (plaintext, context) = (SecretBytes::copy_from(b"text"), context(&[]));
    AtVersion { command: Encrypt { key: id(key), plaintext, context }, version }
}

fn mac(key: &KeyMetadata) -> GenerateMac {
    GenerateMac { key: id(key), message: SecretBytes::copy_from(b"m"), algorithm: MacAlgorithm::HmacSha256 }
}

#[tokio::test]
async fn what_was_decided_elsewhere_is_done_on_the_one_key_that_was_named() {
    let rig = Rig::new().await;
    let (key, other) = (rig.key(KeySpec::Aes256).await, rig.key(KeySpec::Aes256).await);
    let stranger = rig.stranger("stranger").await;
    let denied = rig.principal("denied", r#"path "kms/*" { capabilities = ["deny"] }"#).await;
    let blob = rig.encrypt(&id(&other), b"of another key", &[]).await;
    let all = context(&[]);
    for by in [&stranger, &denied] {
        let call = rig.call();
        let through = rig.kms.through(by, &call, "app");
        let made = through.encrypt(key.key_id, encrypt(&key, None)).await.unwrap();
        let opened = Decrypt { ciphertext_blob: made.ciphertext_blob.clone(), context: all.clone(), key: None };
        assert_eq!(through.decrypt(key.key_id, opened.clone()).await.unwrap().plaintext.expose(), b"text");
        let of_other = Decrypt { ciphertext_blob: blob.clone(), ..opened.clone() };
        let to_other = ReEncrypt {
            ciphertext_blob: made.ciphertext_blob.clone(),
            source_context: all.clone(),
            source_key: None,
            destination_key: id(&other),
            destination_context: all.clone(),
        };
        for (what, outcome) in [
            ("another's blob", told(&through.decrypt(key.key_id, of_other.clone()).await)),
            ("the blob of a key not named", told(&through.decrypt(other.key_id, opened.clone()).await)),
            ("another destination", told(&through.re_encrypt(key.key_id, to_other).await)),
            ("another key's command", told(&through.encrypt(key.key_id, encrypt(&other, None)).await)),
            ("directly", told(&rig.kms.decrypt(by, &rig.call(), opened.clone()).await)),
            ("directly", told(&rig.data_key(by, &id(&key)).await)),
        ] {
            assert_eq!(outcome, "PERMISSION_DENIED", "{what}");
        }
        let batch = vec![Ok(opened), Ok(of_other)];
        let batch = through.batch_decrypt(key.key_id, batch).await.unwrap();
        assert_eq!(batch.iter().map(told).collect::<Vec<_>>(), ["OK", "PERMISSION_DENIED"]);
        assert_eq!(told(&through.create_key(create(KeySpec::Aes256)).await), "OK");
        assert_eq!(through.generate_random(8).await.unwrap().len(), 8);
    }
}

#[tokio::test]
async fn its_record_names_the_caller_and_the_rule_that_was_told() {
    let rig = Rig::new().await;
    let key = rig.key(KeySpec::Aes256).await;
    let stranger = rig.stranger("stranger").await;
    let call = rig.call();
    let through = rig.kms.through(&stranger, &call, "app");
    let (made, records) = rig.recorded(through.generate_data_key(key.key_id, data_key(&id(&key)))).await;
    made.unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record["path"], format!("kms/keys/{}/generate-data-key", key.key_id));
    assert_eq!((&record["rule"], &record["decision"]), (&"app".into(), &"allowed".into()));
    assert_eq!(record["subject"]["accessor"], stranger.id().strip_prefix("token/").unwrap());
    assert_eq!(record["request_id"], call.request_id);
}

#[tokio::test]
async fn versions_are_named_rotated_and_erased() {
    let rig = Rig::new().await;
    let (aes, hmac, ecc) =
        (rig.key(KeySpec::Aes256).await, rig.key(KeySpec::Hmac256).await, rig.key(KeySpec::EccNistP256).await);
    let call = rig.call();
    let through = rig.kms.through(&rig.root, &call, "root");
    let old = through.encrypt(aes.key_id, encrypt(&aes, None)).await.unwrap();
    for key in [&aes, &hmac, &ecc] {
        assert_eq!(through.rotate(key.key_id).await.unwrap().key_version, 2);
    }
    for key in [&hmac, &ecc] {
        // whoever names no version would lose what the old one made
        assert_eq!(told(&rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &id(key)).await), "INVALID_KEY_USAGE");
    }
    for (version, made) in [(None, Ok(2)), (Some(1), Ok(1)), (Some(2), Ok(2)), (Some(0), Err(())), (Some(3), Err(()))] {
        let found = through.encrypt(aes.key_id, encrypt(&aes, version)).await;
        assert_eq!(found.as_ref().map(|made| made.key_version).map_err(|_| ()), made, "{version:?}");
        assert!(made.is_ok() || told(&found) == "INVALID_FIELD key_version");
        let code = through.generate_mac(hmac.key_id, AtVersion { command: mac(&hmac), version }).await;
        assert_eq!(code.as_ref().map(|made| made.key_version).map_err(|_| ()), made, "{version:?}");
        let Ok(code) = code else { continue };
        for (at, valid) in [(1, made == Ok(1)), (2, made == Ok(2))] {
            let GenerateMac { key, message, algorithm } = mac(&hmac);
            let command = VerifyMac { key, message, algorithm, mac: Bytes::copy_from_slice(&code.mac) };
            let verified = through.verify_mac(hmac.key_id, AtVersion { command, version: Some(at) }).await.unwrap();
            assert_eq!(verified.mac_valid, valid, "{version:?} {at}");
        }
        let (message, message_type) = (Bytes::from_static(b"m"), MessageType::Raw);
        let (key, algorithm) = (id(&ecc), SigningAlgorithm::EcdsaSha256);
        let command = Sign { key: key.clone(), message: message.clone(), message_type, algorithm };
        let signature = through.sign(ecc.key_id, AtVersion { command, version }).await.unwrap().signature;
        for (at, valid) in [(Some(1), made == Ok(1)), (Some(2), made == Ok(2)), (None, made == Ok(2))] {
            let (key, message, signature) = (key.clone(), message.clone(), signature.clone());
            let command = Verify { key, message, message_type, signature, algorithm };
            let verified = through.verify(ecc.key_id, AtVersion { command, version: at }).await.unwrap();
            assert_eq!(verified.signature_valid, valid, "{version:?} {at:?}");
        }
    }
    assert_eq!(told(&through.erase_versions(aes.key_id, 3).await), "KEY_STATE");
    for recorded in [1, 1] {
        let (erased, records) = rig.recorded(through.erase_versions(aes.key_id, 2)).await;
        assert_eq!((told(&erased), records.len()), ("OK".to_owned(), recorded));
        assert_eq!(records[0]["operation"], "EraseKeyVersions");
    }
    assert_eq!(told(&rig.decrypt(&rig.root, &old.ciphertext_blob, &[]).await), "INVALID_CIPHERTEXT");
    let new = rig.encrypt(&id(&aes), b"new", &[]).await;
    assert_eq!(rig.decrypt(&rig.root, &new, &[]).await.unwrap(), b"new");
    assert!(rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &KeyRef::Id(aes.key_id)).await.is_ok());
    assert_eq!(rig.kms.known(&aes.key_id).await.unwrap().versions.len(), 3);
}

#[tokio::test]
async fn a_key_rotates_by_its_age_once() {
    let rig = Rig::new().await;
    let key = rig.key(KeySpec::Hmac256).await;
    let made = key.created;
    for (made_before, versions) in [(made, 1), (made.plus(Duration::from_millis(1)), 2)] {
        for _ in 0..2 {
            rig.clock.advance(Duration::from_secs(1));
            let now = rig.call().now;
            let last = rig.kms.rotate_when_due(&key.key_id, made_before, now).await.unwrap();
            let known = rig.kms.known(&key.key_id).await.unwrap();
            assert_eq!((known.versions.len(), known.versions.last().unwrap().created), (versions, last));
        }
    }
}

#[tokio::test]
async fn a_rotation_by_age_that_was_asked_for_tells_how_it_ended() {
    let rig = Rig::new().await;
    let key = rig.key(KeySpec::Hmac256).await;
    for (here, outcomes) in [(false, ["asked", "BOUNDARY_UNAVAILABLE"]), (true, ["asked", "done"])] {
        if here {
            rig.start_module();
        } else {
            rig.stop_module();
        }
        let (now, made_before) = (rig.call().now, key.created.plus(Duration::from_millis(1)));
        let (rotated, records) = rig.recorded(rig.kms.rotate_when_due(&key.key_id, made_before, now)).await;
        assert_eq!(rotated.is_ok(), here);
        let told: Vec<_> = records.iter().map(|record| (&record["operation"], record["outcome"].to_string())).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        for ((operation, outcome), expected) in told.iter().zip(outcomes) {
            assert!(*operation == "RotateKeyWhenDue" && outcome.contains(expected), "{told:?}");
        }
    }
}
