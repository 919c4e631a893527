//! Every service's answers over SoftHSM2: what it gives, and what it refuses by which name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass};
use envelope::{SecretBytes, Timestamp, merkle};
use hsm_api::{
    DataKeyAsk, HsmError, KeySpec, KeyToken, KeyUsage, MessageToSign, ModuleState, NewKey, OpenAsk, ProtectionLevel,
    Reply, Request, Role, Service, SigningAlgorithm,
};
use hsm_serve::Module as _;
use rig::{AAD, Rig, TENANT, ask, beside, cka_id, isolated, new_key};
use std::path::Path;
use std::process::Command;

#[test]
fn the_status_tells_what_was_proven_and_what_a_bare_token_lacks() {
    isolated("the_status_tells_what_was_proven_and_what_a_bare_token_lacks", |tokens| {
        let rig = tokens.open();
        let blank = rig.status();
        assert_eq!((blank.state, blank.domain_id), (ModuleState::Uninitialised, [0; 16]));
        let backup = rig.initialise().unwrap();
        assert!(backup.package.is_empty() && backup.shares.is_empty(), "the token's own backup applies");
        let status = rig.status();
        assert_eq!((status.state, status.generation, status.boot_epoch), (ModuleState::Operational, 1, 1));
        assert_eq!(status.module, "hsm-pkcs11");
        assert!(status.backup_made && !status.fault_build && status.module_id == blank.module_id);
        assert!(rig.told("backup").unwrap().contains("vendor"));
        assert_eq!(status.capabilities.levels, [ProtectionLevel::HsmResident]);
        assert_eq!(status.capabilities.specs, KeySpec::ALL);
        assert_eq!(status.capabilities.algorithms, SigningAlgorithm::ALL);
        assert!(status.capabilities.remembers_checkpoints);
        let key = rig.key(KeySpec::Aes256).token;
        for (role, request) in [
            (Role::Officer, Request::Backup { threshold: 1, shares: 1 }),
            (Role::Officer, Request::RotateDomain),
            (Role::User, Request::Rewrap { key }),
        ] {
            assert!(!status.capabilities.services.contains(&request.service()), "{request:?}");
            assert_eq!(rig.module.serve(role, request).unwrap_err(), HsmError::Unsupported);
        }
        assert!(!status.capabilities.services.contains(&Service::Restore));
        assert_eq!(rig.initialise().unwrap_err(), HsmError::StateForbidden);
    });
}

#[test]
fn a_key_that_makes_no_sense_is_not_made() {
    isolated("a_key_that_makes_no_sense_is_not_made", |tokens| {
        let rig = tokens.operational();
        let base = new_key(KeySpec::Aes256, KeyUsage::EncryptDecrypt);
        for (new, error) in [
            (NewKey { level: ProtectionLevel::Boundary, ..base.clone() }, HsmError::Unsupported),
            (NewKey { usage: KeyUsage::SignVerify, ..base.clone() }, HsmError::UsageForbidden),
            (NewKey { spec: KeySpec::EccNistP256, usage: KeyUsage::Log, ..base.clone() }, HsmError::UsageForbidden),
            (NewKey { version: 0, ..base.clone() }, HsmError::OutOfRange),
            (NewKey { not_after: Some(Timestamp::from_unix_millis(1_000)), ..base.clone() }, HsmError::KeyExpired),
        ] {
            assert_eq!(rig.generate(new.clone()).unwrap_err(), error, "{new:?}");
        }
    });
}

#[test]
fn keys_are_sensitive_and_never_leave() {
    isolated("keys_are_sensitive_and_never_leave", |tokens| {
        let rig = tokens.operational();
        for spec in
            [KeySpec::Aes256, KeySpec::Hmac256, KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048]
        {
            let key = rig.key(spec);
            let session = beside();
            let class = if key.public_key.is_empty() { ObjectClass::SECRET_KEY } else { ObjectClass::PRIVATE_KEY };
            let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(cka_id(&key.token))]).unwrap();
            let [object] = found[..] else { panic!("{spec:?}: {} objects", found.len()) };
            use Attribute as A;
            use AttributeType as T;
            let ask = [
                (T::Token, A::Token(true)),
                (T::Private, A::Private(true)),
                (T::Sensitive, A::Sensitive(true)),
                (T::AlwaysSensitive, A::AlwaysSensitive(true)),
                (T::Extractable, A::Extractable(false)),
                (T::NeverExtractable, A::NeverExtractable(true)),
                (T::Local, A::Local(true)),
                (T::Derive, A::Derive(false)),
                (T::Unwrap, A::Unwrap(false)),
            ];
            for (attribute, value) in ask {
                assert_eq!(session.get_attributes(object, &[attribute]).unwrap(), [value], "{spec:?}");
            }
            let secret =
                if key.public_key.is_empty() || spec != KeySpec::Rsa2048 { T::Value } else { T::PrivateExponent };
            let told = session.get_attribute_info(object, &[secret]).unwrap();
            assert!(matches!(told[..], [AttributeInfo::Sensitive]), "{spec:?}");
            for change in [A::Extractable(true), A::Sensitive(false)] {
                assert!(session.update_attributes(object, &[change]).is_err(), "{spec:?}");
            }
        }
    });
}

#[test]
fn data_keys_have_the_length_asked_for_and_come_back_from_their_blobs() {
    isolated("data_keys_have_the_length_asked_for_and_come_back_from_their_blobs", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let quiet = DataKeyAsk { plaintext: false, ..ask(32) };
        let keys = rig.data_keys(&key, vec![ask(1), ask(32), ask(1024), quiet, ask(0), ask(1025)]).unwrap();
        for (answer, len) in keys.iter().zip([Some(1), Some(32), Some(1024), None]) {
            let made = answer.as_ref().unwrap();
            assert_eq!(made.plaintext.as_ref().map(SecretBytes::len), len);
            let opened = rig.decrypt(&key, &made.blob, AAD).unwrap();
            assert_eq!(opened.len(), len.unwrap_or(32));
            assert!(made.plaintext.as_ref().is_none_or(|plaintext| plaintext.expose() == opened));
        }
        for refused in &keys[4..] {
            assert_eq!(refused.as_ref().unwrap_err(), &HsmError::OutOfRange);
        }
        for count in [0, 129] {
            assert_eq!(rig.data_keys(&key, vec![ask(32); count]).unwrap_err(), HsmError::OutOfRange, "{count}");
        }
        let many = rig.data_keys(&key, vec![ask(32); 128]).unwrap();
        let blobs: std::collections::BTreeSet<_> =
            many.iter().map(|made| made.as_ref().unwrap().blob.clone()).collect();
        assert_eq!(blobs.len(), 128);
        for (len, good) in [(0, false), (1, true), (32 * 1024, true), (32 * 1024 + 1, false)] {
            match rig.encrypt(&key, &vec![5; len]) {
                Ok(blob) => assert!(good && rig.decrypt(&key, &blob, AAD).unwrap() == vec![5; len], "{len}"),
                Err(error) => assert!(!good && error == HsmError::OutOfRange, "{len}"),
            }
        }
    });
}

#[test]
fn garbage_is_rejected_and_never_looks_like_a_dead_device() {
    isolated("garbage_is_rejected_and_never_looks_like_a_dead_device", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let blob = rig.encrypt(&key, b"sixteen byte txt").unwrap();
        for bit in 0..blob.len() * 8 {
            let mut altered = blob.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let error = rig.decrypt(&key, &altered, AAD).unwrap_err();
            let expected = [HsmError::Rejected, HsmError::IncorrectKey, HsmError::MalformedBlob];
            assert!(expected.contains(&error), "bit {bit}: {error}");
        }
        assert_eq!(rig.told("token").as_deref(), Some("available"));
        let other_key = rig.encrypt(&rig.key(KeySpec::Aes256).token, b"text").unwrap();
        let mut altered = blob.to_vec();
        altered[100] ^= 1;
        let open = |blob: &[u8], aad| OpenAsk { aad_digest: aad, blob: Bytes::copy_from_slice(blob) };
        let asks = vec![
            open(&blob, AAD),
            open(&blob, [0; 32]),
            open(&altered, AAD),
            open(&other_key, AAD),
            open(&blob[..60], AAD),
            open(b"", AAD),
            open(&vec![0; 40_000], AAD),
            open(key.bytes(), AAD),
            open(&blob, AAD),
        ];
        let Ok(Reply::Plaintexts(answers)) = rig.user(Request::Decrypt { key, asks }) else { panic!("it is answered") };
        let outcomes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().copied()).collect();
        use HsmError as E;
        let expected = [
            None,
            Some(E::Rejected),
            Some(E::Rejected),
            Some(E::IncorrectKey),
            Some(E::MalformedBlob),
            Some(E::MalformedBlob),
            Some(E::OutOfRange),
            Some(E::MalformedBlob),
            None,
        ];
        assert_eq!(outcomes, expected);
    });
}

#[test]
fn an_altered_or_foreign_reference_is_refused() {
    isolated("an_altered_or_foreign_reference_is_refused", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let blob = rig.encrypt(&key, b"text").unwrap();
        let mut seen = 0;
        for bit in 0..key.bytes().len() * 8 {
            let mut altered = key.bytes().to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            // what does not parse as a token is refused where it is parsed
            let Ok(altered) = KeyToken::parse(TENANT, altered.into()) else { continue };
            assert_eq!(rig.decrypt(&altered, &blob, AAD).unwrap_err(), HsmError::TokenRejected, "bit {bit}");
            seen += 1;
        }
        assert!(seen > 1000, "{seen}");
        let moved = KeyToken::parse([1; 16], key.bytes().clone()).unwrap();
        assert_eq!(rig.decrypt(&moved, &blob, AAD).unwrap_err(), HsmError::TokenRejected, "another tenant");
        assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text");
    });
}

#[test]
fn re_encrypt_moves_a_blob_to_another_key_and_context() {
    isolated("re_encrypt_moves_a_blob_to_another_key_and_context", |tokens| {
        let rig = tokens.operational();
        let (from, to) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::Aes256).token);
        let blob = rig.encrypt(&from, b"moving").unwrap();
        let request = |from: &KeyToken, to: &KeyToken, aad| Request::ReEncrypt {
            from: from.clone(),
            to: to.clone(),
            from_aad_digest: aad,
            to_aad_digest: [9; 32],
            blob: blob.clone(),
        };
        let Ok(Reply::Blob(moved)) = rig.user(request(&from, &to, AAD)) else { panic!("a blob moves") };
        assert_eq!(rig.decrypt(&to, &moved, [9; 32]).unwrap(), b"moving");
        assert_eq!(rig.user(request(&from, &to, [0; 32])).unwrap_err(), HsmError::Rejected);
        assert_eq!(rig.user(request(&to, &from, AAD)).unwrap_err(), HsmError::IncorrectKey);
        let system = rig.system_key().token;
        assert_eq!(rig.user(request(&from, &system, AAD)).unwrap_err(), HsmError::UsageForbidden);
    });
}

/// OpenSSL's opinion of a signature.
fn openssl_accepts(folder: &Path, spki: &[u8], algorithm: SigningAlgorithm, message: &[u8], signature: &[u8]) -> bool {
    use SigningAlgorithm as A;
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (key, message) = (file("key.der", spki), file("message", message));
    let signature = file("signature", signature);
    let (digest, pss): (Option<&str>, bool) = match algorithm {
        A::EcdsaSha256 | A::RsassaPkcs1V15Sha256 => (Some("sha256"), false),
        A::RsassaPkcs1V15Sha384 => (Some("sha384"), false),
        A::RsassaPkcs1V15Sha512 => (Some("sha512"), false),
        A::RsassaPssSha256 => (Some("sha256"), true),
        A::RsassaPssSha384 => (Some("sha384"), true),
        A::RsassaPssSha512 => (Some("sha512"), true),
        A::Ed25519Sha512 => (None, false),
    };
    let mut command = Command::new("openssl");
    match digest {
        Some(digest) => {
            command.args(["dgst", &format!("-{digest}"), "-keyform", "DER", "-verify"]).arg(&key);
            if pss {
                command.args(["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]);
            }
            command.arg("-signature").arg(&signature).arg(&message);
        }
        None => {
            command.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey"]).arg(&key);
            command.arg("-sigfile").arg(&signature).arg("-in").arg(&message);
        }
    }
    command.output().unwrap().status.success()
}

#[test]
fn openssl_verifies_every_scheme_with_the_exported_public_key() {
    isolated("openssl_verifies_every_scheme_with_the_exported_public_key", |tokens| {
        let rig = tokens.operational();
        let mut verified = 0;
        for spec in [KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048, KeySpec::Rsa3072] {
            let key = rig.key(spec);
            let Ok(Reply::PublicKey(again)) = rig.user(Request::PublicKey { key: key.token.clone() }) else {
                panic!("{spec:?} has one")
            };
            assert_eq!(again, key.public_key);
            for algorithm in spec.signing_algorithms() {
                for message in [&b"a message"[..], &[7; 4096]] {
                    let message_to_sign = MessageToSign::Raw(Bytes::copy_from_slice(message));
                    let ask = Request::Sign { key: key.token.clone(), algorithm: *algorithm, message: message_to_sign };
                    let Ok(Reply::Signature(signature)) = rig.user(ask) else { panic!("{algorithm:?}") };
                    let accepts = |message: &[u8]| {
                        openssl_accepts(&tokens.folder, &key.public_key, *algorithm, message, &signature)
                    };
                    assert!(accepts(message) && !accepts(b"another message"), "{algorithm:?}");
                    verified += 1;
                }
            }
        }
        assert_eq!(verified, 28);
    });
}

#[test]
fn what_a_scheme_cannot_sign_is_refused() {
    isolated("what_a_scheme_cannot_sign_is_refused", |tokens| {
        let rig = tokens.operational();
        let (p256, ed25519) = (rig.key(KeySpec::EccNistP256).token, rig.key(KeySpec::EccNistEdwards25519).token);
        let raw = |len| MessageToSign::Raw(vec![0; len].into());
        let digest = |len| MessageToSign::Digest(vec![0; len].into());
        let (ecdsa, eddsa) = (SigningAlgorithm::EcdsaSha256, SigningAlgorithm::Ed25519Sha512);
        for (key, algorithm, message, error) in [
            (&p256, ecdsa, raw(0), HsmError::OutOfRange),
            (&p256, ecdsa, raw(4097), HsmError::OutOfRange),
            (&p256, ecdsa, digest(31), HsmError::OutOfRange),
            (&ed25519, eddsa, digest(64), HsmError::Unsupported),
            (&ed25519, eddsa, raw(4097), HsmError::OutOfRange),
            (&ed25519, ecdsa, raw(1), HsmError::UsageForbidden),
            (&p256, SigningAlgorithm::RsassaPssSha256, digest(32), HsmError::UsageForbidden),
        ] {
            let ask = Request::Sign { key: key.clone(), algorithm, message: message.clone() };
            assert_eq!(rig.user(ask).unwrap_err(), error, "{algorithm:?} {message:?}");
        }
    });
}

#[test]
fn no_usage_stands_in_for_another() {
    isolated("no_usage_stands_in_for_another", |tokens| {
        let rig = tokens.operational();
        let keys = [
            (KeyUsage::EncryptDecrypt, rig.key(KeySpec::Aes256).token),
            (KeyUsage::SignVerify, rig.key(KeySpec::EccNistEdwards25519).token),
            (KeyUsage::GenerateVerifyMac, rig.key(KeySpec::Hmac256).token),
            (KeyUsage::Log, rig.log_key().token),
            (KeyUsage::SystemSeal, rig.system_key().token),
        ];
        let secret = || SecretBytes::copy_from(b"text");
        type Make = fn(KeyToken, SecretBytes) -> Request;
        let services: [(Make, &[KeyUsage]); 8] = [
            (|key, _| Request::GenerateDataKeys { key, asks: vec![ask(32)] }, &[KeyUsage::EncryptDecrypt]),
            (
                |key, _| Request::Decrypt { key, asks: vec![OpenAsk { aad_digest: AAD, blob: Bytes::new() }] },
                &[KeyUsage::EncryptDecrypt],
            ),
            (
                |key, _| Request::Sign {
                    key,
                    algorithm: SigningAlgorithm::Ed25519Sha512,
                    message: MessageToSign::Raw(Bytes::from_static(b"m")),
                },
                &[KeyUsage::SignVerify],
            ),
            (|key, _| Request::PublicKey { key }, &[KeyUsage::SignVerify, KeyUsage::Log]),
            (|key, message| Request::Mac { key, message }, &[KeyUsage::GenerateVerifyMac]),
            (
                |key, plaintext| Request::SystemSeal { key, epoch: 1, aad_digest: AAD, plaintext },
                &[KeyUsage::SystemSeal],
            ),
            (
                |key, _| Request::SignCheckpoint { key, origin: "o".into(), size: 1, root: [0; 32], proof: vec![] },
                &[KeyUsage::Log],
            ),
            (
                |key, _| Request::SignBatch { key, origin: "o".into(), first: 1, count: 2, root: [0; 32] },
                &[KeyUsage::Log],
            ),
        ];
        let mut refused = 0;
        for (make, usages) in services {
            for (usage, key) in &keys {
                let outcome = rig.user(make(key.clone(), secret()));
                let forbidden = matches!(outcome, Err(HsmError::UsageForbidden));
                assert_eq!(forbidden, !usages.contains(usage), "{usage:?} {outcome:?}");
                refused += usize::from(forbidden);
            }
        }
        assert_eq!(refused, 31);
    });
}

#[test]
fn an_expired_key_does_nothing_but_show_its_public_half() {
    isolated("an_expired_key_does_nothing_but_show_its_public_half", |tokens| {
        let rig = tokens.operational();
        let not_after = Some(Timestamp::from_unix_millis(2_000));
        let make = |spec: KeySpec| rig.generate(NewKey { not_after, ..new_key(spec, spec.usage()) }).unwrap().token;
        let (aes, ed25519, hmac) = (make(KeySpec::Aes256), make(KeySpec::EccNistEdwards25519), make(KeySpec::Hmac256));
        let blob = rig.encrypt(&aes, b"text").unwrap();
        rig.clock.set(Timestamp::from_unix_millis(1_999));
        assert!(rig.decrypt(&aes, &blob, AAD).is_ok() && rig.mac(&hmac, b"m").is_ok());
        rig.clock.set(Timestamp::from_unix_millis(2_000));
        assert_eq!(rig.decrypt(&aes, &blob, AAD).unwrap_err(), HsmError::KeyExpired);
        assert_eq!(rig.data_keys(&aes, vec![ask(32)]).unwrap_err(), HsmError::KeyExpired);
        assert_eq!(rig.mac(&hmac, b"m").unwrap_err(), HsmError::KeyExpired);
        assert!(rig.user(Request::PublicKey { key: ed25519 }).is_ok());
    });
}

#[test]
fn macs_and_random_bytes_keep_their_limits() {
    isolated("macs_and_random_bytes_keep_their_limits", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Hmac256).token;
        assert_eq!(rig.mac(&key, b"five5"), rig.mac(&key, b"five5"));
        assert_ne!(rig.mac(&key, b"five5"), rig.mac(&key, b"sixsix"));
        for (len, good) in [(0, false), (1, true), (32 * 1024, true), (32 * 1024 + 1, false)] {
            assert_eq!(rig.mac(&key, &vec![1; len]).err(), (!good).then_some(HsmError::OutOfRange), "{len}");
        }
        for (bytes, good) in [(0, false), (1, true), (1024, true), (1025, false)] {
            match rig.user(Request::Random { bytes }) {
                Ok(Reply::Secret(secret)) => assert!(good && secret.len() == usize::from(bytes)),
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(!good && error == HsmError::OutOfRange),
            }
        }
    });
}

#[test]
fn the_barrier_keyring_opens_only_in_its_own_place() {
    isolated("the_barrier_keyring_opens_only_in_its_own_place", |tokens| {
        let rig = tokens.operational();
        let (key, other) = (rig.system_key().token, rig.system_key().token);
        assert_eq!(rig.status().clusters, [TENANT]);
        let plaintext = SecretBytes::from_vec(vec![8; 100]);
        let seal = Request::SystemSeal { key: key.clone(), epoch: 3, aad_digest: AAD, plaintext };
        let Ok(Reply::Blob(sealed)) = rig.user(seal) else { panic!("the keyring is sealed") };
        assert_eq!(envelope::sealed::parse_system(&sealed).unwrap().header.generation, 3);
        let open = |key: &KeyToken, aad_digest, sealed: &[u8]| {
            let sealed = Bytes::copy_from_slice(sealed);
            match rig.user(Request::SystemOpen { key: key.clone(), aad_digest, sealed })? {
                Reply::Secret(secret) => Ok(secret.expose().to_vec()),
                other => panic!("{other:?}"),
            }
        };
        let mut altered = sealed.to_vec();
        altered[47] ^= 1;
        let blob = rig.encrypt(&rig.key(KeySpec::Aes256).token, b"text").unwrap();
        assert_eq!(open(&key, AAD, &sealed), Ok(vec![8; 100]));
        for (key, aad, sealed, error) in [
            (&key, [0; 32], &sealed[..], HsmError::Rejected),
            (&key, AAD, &altered, HsmError::Rejected),
            (&other, AAD, &sealed, HsmError::IncorrectKey),
            (&key, AAD, &blob, HsmError::MalformedBlob),
            (&key, AAD, &sealed[..50], HsmError::MalformedBlob),
            (&key, AAD, &[0; 40_000], HsmError::OutOfRange),
        ] {
            assert_eq!(open(key, aad, sealed), Err(error));
        }
    });
}

#[test]
fn a_checkpoint_is_signed_only_if_it_extends_the_last_one() {
    isolated("a_checkpoint_is_signed_only_if_it_extends_the_last_one", |tokens| {
        let key;
        let leaves: Vec<_> = (0u8..9).map(|n| merkle::leaf_hash(&[n])).collect();
        let sign = |rig: &Rig, key: &KeyToken, origin: &str, size: usize, proof: Vec<[u8; 32]>| {
            let root = merkle::root(&leaves[..size]);
            let ask =
                Request::SignCheckpoint { key: key.clone(), origin: origin.into(), size: size as u64, root, proof };
            rig.user(ask).map(|reply| match reply {
                Reply::Signature(signature) => signature,
                other => panic!("{other:?}"),
            })
        };
        {
            let rig = tokens.operational();
            let made = rig.log_key();
            key = made.token;
            let signature = sign(&rig, &key, "log", 4, vec![]).unwrap();
            let body = hsm_api::checkpoint::note_body("log", 4, &merkle::root(&leaves[..4]));
            let ed25519 = SigningAlgorithm::Ed25519Sha512;
            assert!(openssl_accepts(&tokens.folder, &made.public_key, ed25519, &body, &signature));
            assert!(sign(&rig, &key, "log", 4, vec![]).is_ok(), "the same again");
            assert_eq!(sign(&rig, &key, "log", 3, vec![]).unwrap_err(), HsmError::CheckpointForked);
            assert_eq!(sign(&rig, &key, "log", 6, vec![]).unwrap_err(), HsmError::CheckpointForked);
            assert!(sign(&rig, &key, "other", 2, vec![]).is_ok(), "another log");
            for origin in ["", "two\nlines"] {
                assert_eq!(sign(&rig, &key, origin, 2, vec![]).unwrap_err(), HsmError::OutOfRange, "{origin}");
            }
        }
        // a new start remembers
        let rig = tokens.open();
        assert_eq!(sign(&rig, &key, "log", 3, vec![]).unwrap_err(), HsmError::CheckpointForked);
        let proof = merkle::consistency_proof(&leaves, 4);
        assert!(sign(&rig, &key, "log", 9, proof).is_ok());
    });
}

#[test]
fn uses_are_counted_signed_and_paged() {
    isolated("uses_are_counted_signed_and_paged", |tokens| {
        let rig = tokens.operational();
        let aes = rig.key(KeySpec::Aes256);
        let mac = rig.key(KeySpec::Hmac256);
        let _unused = rig.key(KeySpec::Aes256);
        rig.data_keys(&aes.token, vec![ask(32), ask(32), ask(0)]).unwrap();
        let blob = rig.encrypt(&aes.token, b"text").unwrap();
        assert!(rig.decrypt(&aes.token, &blob, [0; 32]).is_err(), "what gives nothing is no use");
        rig.mac(&mac.token, b"m").unwrap();
        let mut expected = [(aes.key_id, 3), (mac.key_id, 1)];
        expected.sort();
        let page = |after, limit| match rig.officer(Request::Counters { after, limit, challenge: [4; 32] }) {
            Ok(Reply::Counters(page)) => page,
            other => panic!("{other:?}"),
        };
        let (first, second) = (page(None, 1), page(Some(expected[0].0), 1));
        assert_eq!((first.uses[..].to_vec(), first.more), (expected[..1].to_vec(), true));
        assert_eq!((second.uses[..].to_vec(), second.more), (expected[1..].to_vec(), false));
        let status = rig.status();
        let spki = [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], &status.identity_key].concat();
        for (challenge, good) in [([4; 32], true), ([5; 32], false)] {
            let signed = first.signed_bytes(&status.module_id, &challenge);
            let ed25519 = SigningAlgorithm::Ed25519Sha512;
            assert_eq!(openssl_accepts(&tokens.folder, &spki, ed25519, &signed, &first.signature), good);
        }
        for limit in [0, 2049] {
            let ask = Request::Counters { after: None, limit, challenge: [4; 32] };
            assert_eq!(rig.user(ask).unwrap_err(), HsmError::OutOfRange, "{limit}");
        }
    });
}

#[test]
fn zeroise_destroys_every_object_of_ours_and_no_other() {
    isolated("zeroise_destroys_every_object_of_ours_and_no_other", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let blob = rig.encrypt(&key, b"text").unwrap();
        drop((rig.key(KeySpec::EccNistP256), rig.key(KeySpec::Hmac256)));
        let session = beside();
        let foreign =
            [Attribute::Class(ObjectClass::DATA), Attribute::Token(true), Attribute::Label(b"theirs".to_vec())];
        session.create_object(&foreign).unwrap();
        assert!(matches!(rig.officer(Request::Zeroise), Ok(Reply::Done)));
        let left = session.find_objects(&[Attribute::Token(true)]).unwrap();
        assert_eq!(left.len(), 1, "only theirs");
        assert_eq!(rig.status().state, ModuleState::Uninitialised);
        assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::StateForbidden);
        rig.initialise().unwrap();
        assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::TokenRejected);
    });
}
