//! Every service's answers: what it gives, and what it refuses by which name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use envelope::{SecretBytes, Timestamp};
use hsm_api::{
    DataKeyAsk, HsmError, KeySpec, KeyToken, KeyUsage, MessageToSign, ModuleState, NewKey, OpenAsk, ProtectionLevel,
    Reply, Request, Role, SealAsk, Service, SigningAlgorithm,
};
use p256::ecdsa::signature::Verifier;
use rig::{AAD, Rig, TENANT, ask, new_key};
use rsa::pkcs8::DecodePublicKey;
use sha2::{Digest, Sha256, Sha384, Sha512};

#[test]
fn keys_of_every_kind_are_made_and_named_by_the_boundary() {
    let rig = Rig::operational();
    let mut seen = std::collections::BTreeSet::new();
    for spec in
        [KeySpec::Aes256, KeySpec::Hmac256, KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048]
    {
        let key = rig.key(spec);
        assert!(seen.insert(key.key_id), "{spec:?}");
        assert_eq!(key.public_key.is_empty(), spec.signing_algorithms().is_empty(), "{spec:?}");
        assert_eq!(key.key_id.to_string().as_bytes()[14], b'4', "a UUIDv4");
        let next = NewKey { key_id: Some(key.key_id), version: 2, ..new_key(spec, spec.usage()) };
        assert_eq!(rig.generate(next).unwrap().key_id, key.key_id, "{spec:?}");
    }
}

#[test]
fn a_key_that_makes_no_sense_is_not_made() {
    let rig = Rig::operational();
    let base = new_key(KeySpec::Aes256, KeyUsage::EncryptDecrypt);
    for (new, error) in [
        (NewKey { level: ProtectionLevel::HsmResident, ..base.clone() }, HsmError::Unsupported),
        (NewKey { usage: KeyUsage::SignVerify, ..base.clone() }, HsmError::UsageForbidden),
        (NewKey { spec: KeySpec::EccNistP256, usage: KeyUsage::Log, ..base.clone() }, HsmError::UsageForbidden),
        (NewKey { version: 0, ..base.clone() }, HsmError::OutOfRange),
        (NewKey { not_after: Some(Timestamp::from_unix_millis(1_000)), ..base.clone() }, HsmError::KeyExpired),
    ] {
        assert_eq!(rig.generate(new.clone()).unwrap_err(), error, "{new:?}");
    }
}

#[test]
fn data_keys_have_the_length_asked_for_and_come_back_from_their_blobs() {
    let rig = Rig::operational();
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
    assert_eq!(keys[4].as_ref().unwrap_err(), &HsmError::OutOfRange);
    assert_eq!(keys[5].as_ref().unwrap_err(), &HsmError::OutOfRange);
    assert_ne!(keys[0].as_ref().unwrap().blob, keys[1].as_ref().unwrap().blob);
    for count in [0, 129] {
        assert_eq!(rig.data_keys(&key, vec![ask(32); count]).unwrap_err(), HsmError::OutOfRange, "{count}");
    }
    assert_eq!(rig.data_keys(&key, vec![ask(32); 128]).unwrap().len(), 128);
}

#[test]
fn encrypt_and_decrypt_keep_their_limits_item_by_item() {
    let rig = Rig::operational();
    let key = rig.key(KeySpec::Aes256).token;
    for (len, good) in [(0, false), (1, true), (32 * 1024, true), (32 * 1024 + 1, false)] {
        let plaintext = vec![5; len];
        match rig.encrypt(&key, &plaintext) {
            Ok(blob) => assert!(good && rig.decrypt(&key, &blob, AAD).unwrap() == plaintext, "{len}"),
            Err(error) => assert!(!good && error == HsmError::OutOfRange, "{len}"),
        }
    }
    let blob = rig.encrypt(&key, b"text").unwrap();
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
    let Ok(Reply::Plaintexts(answers)) = rig.user(Request::Decrypt { key, asks }) else {
        panic!("a batch is answered")
    };
    let outcomes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().copied()).collect();
    let expected = [
        None,
        Some(HsmError::Rejected),
        Some(HsmError::Rejected),
        Some(HsmError::IncorrectKey),
        Some(HsmError::MalformedBlob),
        Some(HsmError::MalformedBlob),
        Some(HsmError::OutOfRange),
        Some(HsmError::MalformedBlob),
        None,
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn every_flipped_bit_of_a_blob_or_token_is_refused() {
    let rig = Rig::operational();
    let key = rig.key(KeySpec::Aes256).token;
    let blob = rig.encrypt(&key, b"sixteen byte txt").unwrap();
    for bit in 0..blob.len() * 8 {
        let mut altered = blob.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let error = rig.decrypt(&key, &altered, AAD).unwrap_err();
        let expected = [HsmError::Rejected, HsmError::IncorrectKey, HsmError::MalformedBlob];
        assert!(expected.contains(&error), "bit {bit}: {error}");
    }
    for bit in 0..key.bytes().len() * 8 {
        let mut altered = key.bytes().to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        // what does not parse as a token is refused where it is parsed
        let Ok(altered) = KeyToken::parse(TENANT, altered.into()) else { continue };
        assert_eq!(rig.decrypt(&altered, &blob, AAD).unwrap_err(), HsmError::TokenRejected, "bit {bit}");
    }
    let moved = KeyToken::parse([1; 16], key.bytes().clone()).unwrap();
    assert_eq!(rig.decrypt(&moved, &blob, AAD).unwrap_err(), HsmError::TokenRejected, "another tenant");
    let foreign = Rig::operational().key(KeySpec::Aes256).token;
    assert_eq!(rig.decrypt(&foreign, &blob, AAD).unwrap_err(), HsmError::TokenRejected, "another domain");
}

#[test]
fn re_encrypt_moves_a_blob_to_another_key_and_context() {
    let rig = Rig::operational();
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
}

#[test]
fn no_usage_stands_in_for_another() {
    let rig = Rig::operational();
    let keys = [
        (KeyUsage::EncryptDecrypt, rig.key(KeySpec::Aes256).token),
        (KeyUsage::SignVerify, rig.key(KeySpec::EccNistEdwards25519).token),
        (KeyUsage::GenerateVerifyMac, rig.key(KeySpec::Hmac256).token),
        (KeyUsage::Log, rig.log_key().token),
        (KeyUsage::SystemSeal, rig.system_key().token),
    ];
    let secret = || SecretBytes::copy_from(b"text");
    type Make = fn(KeyToken, SecretBytes) -> Request;
    let services: [(Make, &[KeyUsage]); 11] = [
        (|key, _| Request::GenerateDataKeys { key, asks: vec![ask(32)] }, &[KeyUsage::EncryptDecrypt]),
        (
            |key, plaintext| Request::Encrypt { key, asks: vec![SealAsk { aad_digest: AAD, plaintext }] },
            &[KeyUsage::EncryptDecrypt],
        ),
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
        (|key, plaintext| Request::SystemSeal { key, epoch: 1, aad_digest: AAD, plaintext }, &[KeyUsage::SystemSeal]),
        (|key, _| Request::SystemOpen { key, aad_digest: AAD, sealed: Bytes::new() }, &[KeyUsage::SystemSeal]),
        (
            |key, _| Request::SignCheckpoint { key, origin: "o".into(), size: 1, root: [0; 32], proof: vec![] },
            &[KeyUsage::Log],
        ),
        (|key, _| Request::SignBatch { key, origin: "o".into(), first: 1, count: 2, root: [0; 32] }, &[KeyUsage::Log]),
        (
            |key, _| Request::ReEncrypt {
                from: key.clone(),
                to: key,
                from_aad_digest: AAD,
                to_aad_digest: AAD,
                blob: Bytes::new(),
            },
            &[KeyUsage::EncryptDecrypt],
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
    assert_eq!(refused, 43);
}

#[test]
fn an_expired_key_does_nothing_but_show_its_public_half() {
    let rig = Rig::operational();
    let not_after = Some(Timestamp::from_unix_millis(2_000));
    let make = |spec: KeySpec| rig.generate(NewKey { not_after, ..new_key(spec, spec.usage()) }).unwrap().token;
    let (aes, ed25519, hmac) = (make(KeySpec::Aes256), make(KeySpec::EccNistEdwards25519), make(KeySpec::Hmac256));
    let blob = rig.encrypt(&aes, b"text").unwrap();
    rig.clock.set(Timestamp::from_unix_millis(1_999));
    assert!(rig.decrypt(&aes, &blob, AAD).is_ok());
    rig.clock.set(Timestamp::from_unix_millis(2_000));
    assert_eq!(rig.decrypt(&aes, &blob, AAD).unwrap_err(), HsmError::KeyExpired);
    assert_eq!(rig.data_keys(&aes, vec![ask(32)]).unwrap_err(), HsmError::KeyExpired);
    let mac = Request::Mac { key: hmac, message: SecretBytes::copy_from(b"m") };
    assert_eq!(rig.user(mac).unwrap_err(), HsmError::KeyExpired);
    assert!(rig.user(Request::PublicKey { key: ed25519.clone() }).is_ok());
    let (algorithm, message) = (SigningAlgorithm::Ed25519Sha512, MessageToSign::Raw(Bytes::from_static(b"m")));
    assert_eq!(rig.user(Request::Sign { key: ed25519, algorithm, message }).unwrap_err(), HsmError::KeyExpired);
}

fn sign(rig: &Rig, key: &KeyToken, algorithm: SigningAlgorithm, message: MessageToSign) -> Result<Vec<u8>, HsmError> {
    match rig.user(Request::Sign { key: key.clone(), algorithm, message })? {
        Reply::Signature(signature) => Ok(signature.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn signatures_verify_under_the_exported_public_key() {
    let rig = Rig::operational();
    let message = b"a message".as_slice();
    let raw = || MessageToSign::Raw(Bytes::copy_from_slice(message));

    let key = rig.key(KeySpec::EccNistP256);
    let public = p256::ecdsa::VerifyingKey::from_public_key_der(&key.public_key).unwrap();
    let digest = MessageToSign::Digest(Bytes::copy_from_slice(&Sha256::digest(message)));
    for form in [raw(), digest] {
        let signature = sign(&rig, &key.token, SigningAlgorithm::EcdsaSha256, form).unwrap();
        public.verify(message, &p256::ecdsa::DerSignature::from_bytes(&signature).unwrap()).unwrap();
    }

    let key = rig.key(KeySpec::EccNistEdwards25519);
    let public = VerifyingKey::from_public_key_der(&key.public_key).unwrap();
    let signature = sign(&rig, &key.token, SigningAlgorithm::Ed25519Sha512, raw()).unwrap();
    public.verify_strict(message, &Signature::from_slice(&signature).unwrap()).unwrap();

    let key = rig.key(KeySpec::Rsa2048);
    let public = rsa::PublicKey::from_public_key_der(&key.public_key).unwrap();
    let (d256, d384, d512) = (Sha256::digest(message), Sha384::digest(message), Sha512::digest(message));
    use SigningAlgorithm as A;
    for algorithm in KeySpec::Rsa2048.signing_algorithms() {
        let signature = sign(&rig, &key.token, *algorithm, raw()).unwrap();
        let verified = match algorithm {
            A::RsassaPssSha256 => public.verify(rsa::Pss::<Sha256>::new(), &d256, &signature),
            A::RsassaPssSha384 => public.verify(rsa::Pss::<Sha384>::new(), &d384, &signature),
            A::RsassaPssSha512 => public.verify(rsa::Pss::<Sha512>::new(), &d512, &signature),
            A::RsassaPkcs1V15Sha256 => public.verify(rsa::Pkcs1v15Sign::new::<Sha256>(), &d256, &signature),
            A::RsassaPkcs1V15Sha384 => public.verify(rsa::Pkcs1v15Sign::new::<Sha384>(), &d384, &signature),
            A::RsassaPkcs1V15Sha512 => public.verify(rsa::Pkcs1v15Sign::new::<Sha512>(), &d512, &signature),
            A::EcdsaSha256 | A::Ed25519Sha512 => panic!("no RSA scheme"),
        };
        verified.unwrap();
    }
    let Ok(Reply::PublicKey(again)) = rig.user(Request::PublicKey { key: key.token }) else { panic!("it has one") };
    assert_eq!(again, key.public_key);
}

#[test]
fn what_a_scheme_cannot_sign_is_refused() {
    let rig = Rig::operational();
    let (p256, ed25519) = (rig.key(KeySpec::EccNistP256).token, rig.key(KeySpec::EccNistEdwards25519).token);
    let raw = |len| MessageToSign::Raw(vec![0; len].into());
    let digest = |len| MessageToSign::Digest(vec![0; len].into());
    let (ecdsa, eddsa) = (SigningAlgorithm::EcdsaSha256, SigningAlgorithm::Ed25519Sha512);
    for (key, algorithm, message, error) in [
        (&p256, ecdsa, raw(0), HsmError::OutOfRange),
        (&p256, ecdsa, raw(4097), HsmError::OutOfRange),
        (&p256, ecdsa, digest(31), HsmError::OutOfRange),
        (&p256, ecdsa, digest(48), HsmError::OutOfRange),
        (&ed25519, eddsa, digest(64), HsmError::Unsupported),
        (&ed25519, eddsa, raw(4097), HsmError::OutOfRange),
        (&ed25519, ecdsa, raw(1), HsmError::UsageForbidden),
        (&p256, SigningAlgorithm::RsassaPssSha256, digest(32), HsmError::UsageForbidden),
    ] {
        assert_eq!(sign(&rig, key, algorithm, message.clone()).unwrap_err(), error, "{algorithm:?} {message:?}");
    }
    assert!(sign(&rig, &p256, ecdsa, raw(4096)).is_ok() && sign(&rig, &ed25519, eddsa, raw(4096)).is_ok());
}

#[test]
fn a_mac_is_the_same_for_the_same_key_and_message() {
    let rig = Rig::operational();
    let key = rig.key(KeySpec::Hmac256).token;
    let mac =
        |len: usize| match rig.user(Request::Mac { key: key.clone(), message: SecretBytes::from_vec(vec![1; len]) }) {
            Ok(Reply::Mac(mac)) => Ok(mac),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
    assert_eq!(mac(5), mac(5));
    assert_ne!(mac(5), mac(6));
    for (len, good) in [(0, false), (1, true), (32 * 1024, true), (32 * 1024 + 1, false)] {
        assert_eq!(mac(len).err(), (!good).then_some(HsmError::OutOfRange), "{len}");
    }
}

#[test]
fn random_bytes_come_in_the_length_asked_for() {
    let rig = Rig::operational();
    for (bytes, good) in [(0, false), (1, true), (1024, true), (1025, false)] {
        match rig.user(Request::Random { bytes }) {
            Ok(Reply::Secret(secret)) => assert!(good && secret.len() == usize::from(bytes)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(!good && error == HsmError::OutOfRange),
        }
    }
}

#[test]
fn the_barrier_keyring_opens_only_in_its_own_place() {
    let rig = Rig::operational();
    let (key, other) = (rig.system_key().token, rig.system_key().token);
    let seal = |len: usize| Request::SystemSeal {
        key: key.clone(),
        epoch: 3,
        aad_digest: AAD,
        plaintext: SecretBytes::from_vec(vec![8; len]),
    };
    let Ok(Reply::Blob(sealed)) = rig.user(seal(100)) else { panic!("the keyring is sealed") };
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
    for len in [0, 32 * 1024 + 1] {
        assert_eq!(rig.user(seal(len)).unwrap_err(), HsmError::OutOfRange, "{len}");
    }
}

#[test]
fn uses_are_counted_signed_and_paged() {
    let rig = Rig::operational();
    let aes = rig.key(KeySpec::Aes256);
    let mac = rig.key(KeySpec::Hmac256);
    let _unused = rig.key(KeySpec::Aes256);
    rig.data_keys(&aes.token, vec![ask(32), ask(32), ask(0)]).unwrap();
    let blob = rig.encrypt(&aes.token, b"text").unwrap();
    assert!(rig.decrypt(&aes.token, &blob, [0; 32]).is_err(), "what gives nothing is no use");
    rig.user(Request::Mac { key: mac.token, message: SecretBytes::copy_from(b"m") }).unwrap();
    let mut expected = vec![(aes.key_id, 3), (mac.key_id, 1)];
    expected.sort();
    assert_eq!(rig.uses(), expected);

    let status = rig.status();
    let page = |after, limit| match rig.officer(Request::Counters { after, limit, challenge: [4; 32] }) {
        Ok(Reply::Counters(page)) => page,
        other => panic!("{other:?}"),
    };
    let (first, second) = (page(None, 1), page(Some(expected[0].0), 1));
    assert_eq!((first.uses[..].to_vec(), first.more), (expected[..1].to_vec(), true));
    assert_eq!((second.uses[..].to_vec(), second.more), (expected[1..].to_vec(), false));
    let identity = VerifyingKey::from_bytes(&status.identity_key).unwrap();
    let check = |page: &hsm_api::CounterPage, challenge| {
        let signed = page.signed_bytes(&status.module_id, &challenge);
        identity.verify_strict(&signed, &Signature::from_bytes(&page.signature)).is_ok()
    };
    assert!(check(&first, [4; 32]) && !check(&first, [5; 32]));
    for limit in [0, 2049] {
        let ask = Request::Counters { after: None, limit, challenge: [4; 32] };
        assert_eq!(rig.user(ask).unwrap_err(), HsmError::OutOfRange, "{limit}");
    }
}

/// A request of every service, as small as it gets.
fn request_of(service: Service, key: &KeyToken) -> Request {
    let key = key.clone();
    match service {
        Service::Status => Request::Status,
        Service::GenerateKey => Request::GenerateKey(new_key(KeySpec::Aes256, KeyUsage::EncryptDecrypt)),
        Service::GenerateDataKeys => Request::GenerateDataKeys { key, asks: vec![] },
        Service::Encrypt => Request::Encrypt { key, asks: vec![] },
        Service::Decrypt => Request::Decrypt { key, asks: vec![] },
        Service::ReEncrypt => Request::ReEncrypt {
            from: key.clone(),
            to: key,
            from_aad_digest: AAD,
            to_aad_digest: AAD,
            blob: Bytes::new(),
        },
        Service::Sign => {
            Request::Sign { key, algorithm: SigningAlgorithm::EcdsaSha256, message: MessageToSign::Raw(Bytes::new()) }
        }
        Service::PublicKey => Request::PublicKey { key },
        Service::Mac => Request::Mac { key, message: SecretBytes::from_vec(vec![]) },
        Service::Random => Request::Random { bytes: 1 },
        Service::SystemSeal => {
            Request::SystemSeal { key, epoch: 0, aad_digest: AAD, plaintext: SecretBytes::from_vec(vec![]) }
        }
        Service::SystemOpen => Request::SystemOpen { key, aad_digest: AAD, sealed: Bytes::new() },
        Service::SignCheckpoint => {
            Request::SignCheckpoint { key, origin: String::new(), size: 0, root: [0; 32], proof: vec![] }
        }
        Service::SignBatch => Request::SignBatch { key, origin: String::new(), first: 0, count: 0, root: [0; 32] },
        Service::Counters => Request::Counters { after: None, limit: 1, challenge: [0; 32] },
        Service::Rewrap => Request::Rewrap { key },
        Service::Initialise => Request::Initialise { threshold: 0, shares: 0 },
        Service::Enrol => Request::Enrol { role: Role::User, pin: [0; 32] },
        Service::Backup => Request::Backup { threshold: 0, shares: 0 },
        Service::Restore => Request::Restore { package: Bytes::new(), shares: vec![] },
        Service::RotateDomain => Request::RotateDomain,
        Service::Zeroise => Request::Zeroise,
    }
}

#[test]
fn the_table_of_roles_and_states_is_enforced_for_every_service() {
    let key = Rig::operational().key(KeySpec::Aes256).token;
    let mut checked = 0;
    for state in [ModuleState::Uninitialised, ModuleState::Locked, ModuleState::Operational, ModuleState::Error] {
        for role in [Role::User, Role::Officer, Role::Auditor] {
            let mut rig = Rig::blank();
            match state {
                ModuleState::Uninitialised => {}
                ModuleState::Operational => drop(rig.initialise(1, 1).unwrap()),
                ModuleState::Locked => {
                    rig.initialise(1, 1).unwrap();
                    rig.start_with(None);
                }
                ModuleState::Error => {
                    std::fs::write(rig.state_file(), b"junk").unwrap();
                    use std::os::unix::fs::PermissionsExt;
                    std::fs::set_permissions(rig.state_file(), std::fs::Permissions::from_mode(0o600)).unwrap();
                    rig.start();
                }
            }
            assert_eq!(rig.module().state(), state);
            // Zeroise is last: it changes the state
            for service in Service::ALL {
                let outcome = rig.module().serve(role, request_of(*service, &key));
                let refusals = [HsmError::RoleForbidden, HsmError::StateForbidden, HsmError::ErrorState];
                let refused = outcome.as_ref().err().is_some_and(|error| refusals.contains(error));
                let allowed = hsm_api::state::allowed(*service, role, state);
                assert_eq!(refused, !allowed, "{service:?} {role:?} {state:?}: {outcome:?}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 264);
}
