//! What keys do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::SecretBytes;
use kms::{
    BLOB_BYTES_MAX, DataKeyBytes, Decrypt, Encrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext, KeyRef, KeySpec,
    PLAINTEXT_BYTES_MAX, ReEncrypt,
};
use rig::{Rig, context, data_key, id, told, unknown_id};

#[tokio::test]
async fn a_data_key_opens_again_under_its_context_and_no_other() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let pairs = [("app", "db"), ("row", "7")];
    for (bytes, len) in
        [(DataKeyBytes::AES_256, 32), (DataKeyBytes::AES_128, 16), (DataKeyBytes::parse(1024).unwrap(), 1024)]
    {
        let command = GenerateDataKey { key: key.clone(), length: bytes, context: context(&pairs) };
        let made = rig.kms.generate_data_key(&rig.root, &rig.call(), command).await.unwrap();
        assert_eq!((made.plaintext.len(), made.key_version), (len, 1));
        assert_eq!(KeyRef::Id(made.key_id), key);
        let blob = made.ciphertext_blob;
        assert_eq!(rig.decrypt(&rig.root, &blob, &pairs).await.unwrap(), made.plaintext.expose());
        for other in [&[][..], &pairs[..1], &[("app", "db"), ("row", "8")]] {
            assert_eq!(told(&rig.decrypt(&rig.root, &blob, other).await), "INVALID_CIPHERTEXT", "{other:?}");
        }
        let command = GenerateDataKeyWithoutPlaintext { key: key.clone(), length: bytes, context: context(&pairs) };
        let sealed = rig.kms.generate_data_key_without_plaintext(&rig.root, &rig.call(), command).await.unwrap();
        assert_eq!(rig.decrypt(&rig.root, &sealed.ciphertext_blob, &pairs).await.unwrap().len(), len);
    }
    for (bytes, outcome) in [
        (0, "INVALID_FIELD number_of_bytes"),
        (1, "OK"),
        (1024, "OK"),
        (1025, "INVALID_FIELD number_of_bytes"),
        (65_537, "INVALID_FIELD number_of_bytes"),
    ] {
        assert_eq!(told(&DataKeyBytes::parse(bytes)), outcome, "{bytes}");
    }
}

#[tokio::test]
async fn lengths_hold_at_their_ends() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    for (len, outcome) in [
        (0, "INVALID_FIELD plaintext"),
        (1, "OK"),
        (PLAINTEXT_BYTES_MAX, "OK"),
        (PLAINTEXT_BYTES_MAX + 1, "INVALID_FIELD plaintext"),
    ] {
        let plaintext = SecretBytes::from_vec(vec![7; len]);
        let command = Encrypt { key: key.clone(), plaintext, context: context(&[]) };
        let made = rig.kms.encrypt(&rig.root, &rig.call(), command).await;
        assert_eq!(told(&made), outcome, "{len}");
        if let Ok(made) = made {
            assert_eq!(rig.decrypt(&rig.root, &made.ciphertext_blob, &[]).await.unwrap(), vec![7; len]);
        }
    }
    for (len, outcome) in [
        (0, "INVALID_FIELD ciphertext_blob"),
        (1, "INVALID_CIPHERTEXT"),
        (BLOB_BYTES_MAX, "INVALID_CIPHERTEXT"),
        (BLOB_BYTES_MAX + 1, "INVALID_FIELD ciphertext_blob"),
    ] {
        let blob = Bytes::from(vec![b'S'; len]);
        assert_eq!(told(&rig.decrypt(&rig.root, &blob, &[]).await), outcome, "{len}");
    }
    for (len, outcome) in [
        (0, "INVALID_FIELD number_of_bytes"),
        (1, "OK"),
        (1024, "OK"),
        (1025, "INVALID_FIELD number_of_bytes"),
        (u32::MAX, "INVALID_FIELD number_of_bytes"),
    ] {
        let made = rig.kms.generate_random(&rig.root, &rig.call(), len).await;
        assert_eq!(told(&made), outcome, "{len}");
        assert!(made.is_err() || made.is_ok_and(|bytes| bytes.len() == len as usize));
    }
}

#[tokio::test]
async fn an_altered_blob_is_rejected_wherever_it_was_altered() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"text", &[]).await;
    for at in 0..blob.len() {
        let mut altered = blob.to_vec();
        altered[at] ^= 1;
        // root may use every key, so that an altered key id is not told from other alterations
        assert_eq!(told(&rig.decrypt(&rig.root, &altered.into(), &[]).await), "INVALID_CIPHERTEXT", "byte {at}");
    }
    let longer = Bytes::from([&blob[..], b"x"].concat());
    assert_eq!(told(&rig.decrypt(&rig.root, &longer, &[]).await), "INVALID_CIPHERTEXT");
    assert_eq!(told(&rig.decrypt(&rig.root, &blob.slice(..blob.len() - 1), &[]).await), "INVALID_CIPHERTEXT");
}

#[tokio::test]
async fn a_named_key_must_be_the_blobs_and_says_so_only_to_who_may_use_the_blobs_key() {
    let rig = Rig::new().await;
    let (key, other) = (id(&rig.key(KeySpec::Aes256).await), id(&rig.key(KeySpec::Aes256).await));
    let KeyRef::Id(key_id) = key else { unreachable!() };
    let KeyRef::Id(other_id) = other else { unreachable!() };
    for (name, target) in [("alias/own", key_id), ("alias/other", other_id)] {
        let command = kms::CreateAlias { alias: kms::AliasName::parse(name).unwrap(), target };
        rig.kms.create_alias(&rig.root, &rig.call(), command).await.unwrap();
    }
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let policy = format!(r#"path "kms/keys/{key_id}/decrypt" {{ capabilities = ["update"] }}"#);
    let user = rig.principal("user", &policy).await;
    let stranger = rig.stranger("stranger").await;
    for (named, by_user, by_root) in [
        (key_id.to_string(), "OK", "OK"),
        (other_id.to_string(), "INCORRECT_KEY", "INCORRECT_KEY"),
        (unknown_id().to_string(), "INCORRECT_KEY", "INCORRECT_KEY"),
        ("alias/own".into(), "OK", "OK"),
        ("alias/other".into(), "INCORRECT_KEY", "INCORRECT_KEY"),
        // who may not see aliases cannot tell an unknown one from another key's
        ("alias/none".into(), "INCORRECT_KEY", "ALIAS_NOT_FOUND"),
    ] {
        let command =
            Decrypt { ciphertext_blob: blob.clone(), context: context(&[]), key: Some(KeyRef::parse(&named).unwrap()) };
        for (by, outcome) in [(&user, by_user), (&rig.root, by_root), (&stranger, "PERMISSION_DENIED")] {
            let opened = rig.kms.decrypt(by, &rig.call(), command.clone()).await;
            assert_eq!(told(&opened), outcome, "{named} {}", by.id());
        }
    }
}

#[tokio::test]
async fn re_encrypting_moves_between_keys_versions_and_contexts() {
    let rig = Rig::new().await;
    let (a, b) = (id(&rig.key(KeySpec::Aes256).await), id(&rig.key(KeySpec::Aes256).await));
    let KeyRef::Id(a_id) = a else { unreachable!() };
    let KeyRef::Id(b_id) = b else { unreachable!() };
    let blob = rig.encrypt(&a, b"moved", &[("v", "1")]).await;
    rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &b).await.unwrap();
    let command = |to: &KeyRef, source: Option<KeyRef>, pairs: &[(&str, &str)]| ReEncrypt {
        ciphertext_blob: blob.clone(),
        source_context: context(pairs),
        source_key: source,
        destination_key: to.clone(),
        destination_context: context(&[("v", "2")]),
    };
    let moved = rig.kms.re_encrypt(&rig.root, &rig.call(), command(&b, Some(a.clone()), &[("v", "1")])).await.unwrap();
    assert_eq!((moved.source_key_id, moved.key_id, moved.key_version), (a_id, b_id, 2));
    assert_eq!(rig.decrypt(&rig.root, &moved.ciphertext_blob, &[("v", "2")]).await.unwrap(), b"moved");
    let mac = id(&rig.key(KeySpec::Hmac256).await);
    for (command, outcome) in [
        (command(&b, Some(b.clone()), &[("v", "1")]), "INCORRECT_KEY"),
        (command(&b, None, &[("v", "3")]), "INVALID_CIPHERTEXT"),
        (command(&mac, None, &[("v", "1")]), "INVALID_KEY_USAGE"),
        (command(&KeyRef::Id(unknown_id()), None, &[("v", "1")]), "KEY_NOT_FOUND"),
    ] {
        assert_eq!(told(&rig.kms.re_encrypt(&rig.root, &rig.call(), command).await), outcome);
    }
    // each end needs its own right
    let from = format!(r#"path "kms/keys/{a_id}/re-encrypt-from" {{ capabilities = ["update"] }}"#);
    let to = format!(r#"path "kms/keys/{b_id}/re-encrypt-to" {{ capabilities = ["update"] }}"#);
    for (name, policy, outcome) in [
        ("from", from.clone(), "PERMISSION_DENIED"),
        ("to", to.clone(), "PERMISSION_DENIED"),
        ("both", format!("{from}\n{to}"), "OK"),
    ] {
        let by = rig.principal(name, &policy).await;
        let outcome_is = rig.kms.re_encrypt(&by, &rig.call(), command(&b, None, &[("v", "1")])).await;
        assert_eq!(told(&outcome_is), outcome, "{name}");
    }
}

#[tokio::test]
async fn every_operation_refuses_a_key_of_another_usage() {
    let rig = Rig::new().await;
    let symmetric = id(&rig.key(KeySpec::Aes256).await);
    let mac = id(&rig.key(KeySpec::Hmac256).await);
    let signing = id(&rig.key(KeySpec::EccNistP256).await);
    for wrong in [&mac, &signing] {
        assert_eq!(told(&rig.data_key(&rig.root, wrong).await), "INVALID_KEY_USAGE");
        let rotated = rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), wrong).await;
        assert_eq!(told(&rotated), "INVALID_KEY_USAGE");
        let command = Encrypt { key: wrong.clone(), plaintext: SecretBytes::copy_from(b"x"), context: context(&[]) };
        assert_eq!(told(&rig.kms.encrypt(&rig.root, &rig.call(), command).await), "INVALID_KEY_USAGE");
    }
    for wrong in [&symmetric, &signing] {
        let command = kms::GenerateMac {
            key: wrong.clone(),
            message: SecretBytes::copy_from(b"x"),
            algorithm: kms::MacAlgorithm::HmacSha256,
        };
        assert_eq!(told(&rig.kms.generate_mac(&rig.root, &rig.call(), command).await), "INVALID_KEY_USAGE");
    }
    for wrong in [&symmetric, &mac] {
        assert_eq!(told(&rig.kms.public_key(&rig.root, &rig.call(), wrong).await), "INVALID_KEY_USAGE");
    }
}

#[tokio::test]
async fn old_versions_decrypt_after_rotation_and_the_new_one_encrypts() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let mut blobs = vec![rig.encrypt(&key, b"version 1", &[]).await];
    for version in 2..=4 {
        let rotated = rig.kms.rotate_key_on_demand(&rig.root, &rig.call(), &key).await.unwrap();
        assert_eq!(rotated.key_version, version);
        let made = rig.kms.generate_data_key(&rig.root, &rig.call(), data_key(&key)).await.unwrap();
        assert_eq!(made.key_version, version, "the new version is in force when the reply is there");
        blobs.push(rig.encrypt(&key, format!("version {version}").as_bytes(), &[]).await);
    }
    for (blob, version) in blobs.iter().zip(1..) {
        let command = Decrypt { ciphertext_blob: blob.clone(), context: context(&[]), key: None };
        let opened = rig.kms.decrypt(&rig.root, &rig.call(), command).await.unwrap();
        assert_eq!(opened.plaintext.expose(), format!("version {version}").as_bytes());
        assert_eq!(opened.key_version, version);
    }
}
