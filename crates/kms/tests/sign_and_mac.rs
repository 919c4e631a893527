//! Signatures and message authentication codes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::{SecretBytes, mac};
use kms::{
    GenerateMac, KeyRef, KeySpec, MacAlgorithm, MessageType, PLAINTEXT_BYTES_MAX, Sign, SigningAlgorithm, Verify,
    VerifyMac,
};
use rig::{Rig, id, told};

fn sign(key: &KeyRef, message: &[u8], message_type: MessageType, algorithm: SigningAlgorithm) -> Sign {
    Sign { key: key.clone(), message: Bytes::copy_from_slice(message), message_type, algorithm }
}

fn verify(sign: &Sign, signature: &Bytes) -> Verify {
    let Sign { key, message, message_type, algorithm } = sign.clone();
    Verify { key, message, message_type, signature: signature.clone(), algorithm }
}

#[tokio::test]
async fn what_a_key_signs_it_verifies_and_nothing_else() {
    let rig = Rig::new().await;
    let message = b"a message to sign";
    for spec in [KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048] {
        let (key, twin) = (id(&rig.key(spec).await), id(&rig.key(spec).await));
        for &algorithm in spec.signing_algorithms() {
            let raw = sign(&key, message, MessageType::Raw, algorithm);
            let signed = rig.kms.sign(&rig.root, &rig.call(), raw.clone()).await.unwrap();
            let mut altered = signed.signature.to_vec();
            altered[9] ^= 1;
            let mut by_twin = verify(&raw, &signed.signature);
            by_twin.key = twin.clone();
            for (what, command, valid) in [
                ("itself", verify(&raw, &signed.signature), true),
                ("altered", verify(&raw, &altered.into()), false),
                (
                    "another message",
                    verify(&sign(&key, b"other", MessageType::Raw, algorithm), &signed.signature),
                    false,
                ),
                ("another key", by_twin, false),
                ("no signature", verify(&raw, &Bytes::from_static(b"x")), false),
                ("a long one", verify(&raw, &vec![0x30; 6144].into()), false),
            ] {
                let verified = rig.kms.verify(&rig.root, &rig.call(), command).await.unwrap();
                assert_eq!(verified.signature_valid, valid, "{algorithm:?} {what}");
            }
        }
    }
}

#[tokio::test]
async fn a_digest_stands_for_its_message() {
    let rig = Rig::new().await;
    let message = b"a message";
    let digest = mac::sha256(message);
    for (spec, algorithm) in [
        (KeySpec::EccNistP256, SigningAlgorithm::EcdsaSha256),
        (KeySpec::Rsa2048, SigningAlgorithm::RsassaPssSha256),
        (KeySpec::Rsa2048, SigningAlgorithm::RsassaPkcs1V15Sha256),
    ] {
        let key = id(&rig.key(spec).await);
        let by_digest = sign(&key, &digest, MessageType::Digest, algorithm);
        let by_message = sign(&key, message, MessageType::Raw, algorithm);
        for (signing, verifying) in [(&by_digest, &by_message), (&by_message, &by_digest)] {
            let signature = rig.kms.sign(&rig.root, &rig.call(), signing.clone()).await.unwrap().signature;
            let verified = rig.kms.verify(&rig.root, &rig.call(), verify(verifying, &signature)).await.unwrap();
            assert!(verified.signature_valid, "{algorithm:?}");
        }
        for len in [0, 31, 33, 64] {
            let wrong = sign(&key, &vec![1; len], MessageType::Digest, algorithm);
            assert_eq!(told(&rig.kms.sign(&rig.root, &rig.call(), wrong).await), "INVALID_FIELD message", "{len}");
        }
    }
    let key = id(&rig.key(KeySpec::EccNistEdwards25519).await);
    let wrong = sign(&key, &[1; 64], MessageType::Digest, SigningAlgorithm::Ed25519Sha512);
    assert_eq!(told(&rig.kms.sign(&rig.root, &rig.call(), wrong).await), "INVALID_FIELD message_type");
}

#[tokio::test]
async fn messages_signatures_and_algorithms_have_their_limits() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::EccNistP256).await);
    let algorithm = SigningAlgorithm::EcdsaSha256;
    for (len, outcome) in [
        (0, "INVALID_FIELD message"),
        (1, "OK"),
        (PLAINTEXT_BYTES_MAX, "OK"),
        (PLAINTEXT_BYTES_MAX + 1, "INVALID_FIELD message"),
    ] {
        let command = sign(&key, &vec![1; len], MessageType::Raw, algorithm);
        assert_eq!(told(&rig.kms.sign(&rig.root, &rig.call(), command).await), outcome, "{len}");
    }
    let raw = sign(&key, b"m", MessageType::Raw, algorithm);
    for (len, outcome) in [(0, "INVALID_FIELD signature"), (1, "OK"), (6144, "OK"), (6145, "INVALID_FIELD signature")] {
        let command = verify(&raw, &vec![1; len].into());
        assert_eq!(told(&rig.kms.verify(&rig.root, &rig.call(), command).await), outcome, "{len}");
    }
    for algorithm in [SigningAlgorithm::Ed25519Sha512, SigningAlgorithm::RsassaPssSha256] {
        let command = sign(&key, b"m", MessageType::Raw, algorithm);
        let signed = rig.kms.sign(&rig.root, &rig.call(), command.clone()).await;
        assert_eq!(told(&signed), "UNSUPPORTED_ALGORITHM");
        let verified = rig.kms.verify(&rig.root, &rig.call(), verify(&command, &Bytes::from_static(b"s"))).await;
        assert_eq!(told(&verified), "UNSUPPORTED_ALGORITHM");
    }
}

#[tokio::test]
async fn a_public_key_is_given_out_as_the_boundary_made_it() {
    let rig = Rig::new().await;
    for (spec, len) in [(KeySpec::EccNistP256, 91), (KeySpec::EccNistEdwards25519, 44)] {
        let key = id(&rig.key(spec).await);
        let public = rig.kms.public_key(&rig.root, &rig.call(), &key).await.unwrap();
        // RFC 5280 §4.1: SubjectPublicKeyInfo is a SEQUENCE of the algorithm and the key
        assert_eq!((public.public_key[0], public.public_key.len()), (0x30, len));
        assert_eq!((public.spec, public.algorithms), (spec, spec.signing_algorithms()));
    }
}

#[tokio::test]
async fn a_code_is_its_keys_and_messages_alone() {
    let rig = Rig::new().await;
    let (key, other) = (id(&rig.key(KeySpec::Hmac256).await), id(&rig.key(KeySpec::Hmac256).await));
    let algorithm = MacAlgorithm::HmacSha256;
    let message = |bytes: &[u8]| SecretBytes::copy_from(bytes);
    let command = GenerateMac { key: key.clone(), message: message(b"message"), algorithm };
    let code = rig.kms.generate_mac(&rig.root, &rig.call(), command).await.unwrap().mac;
    let mut altered = code;
    altered[31] ^= 1;
    for (what, key, text, given, outcome) in [
        ("itself", &key, &b"message"[..], &code[..], Some(true)),
        ("altered", &key, b"message", &altered, Some(false)),
        ("another message", &key, b"massage", &code, Some(false)),
        ("another key", &other, b"message", &code, Some(false)),
        ("shorter", &key, b"message", &code[..31], Some(false)),
        ("longer", &key, b"message", &[&code[..], b"x"].concat(), Some(false)),
        ("nothing", &key, b"message", &[], None),
        ("too long", &key, b"message", &[1; 6145], None),
    ] {
        let mac = Bytes::copy_from_slice(given);
        let command = VerifyMac { key: key.clone(), message: message(text), algorithm, mac };
        let verified = rig.kms.verify_mac(&rig.root, &rig.call(), command).await;
        match outcome {
            Some(valid) => assert_eq!(verified.unwrap().mac_valid, valid, "{what}"),
            None => assert_eq!(told(&verified), "INVALID_FIELD mac", "{what}"),
        }
    }
    for (len, outcome) in [(0, "INVALID_FIELD message"), (1, "OK"), (4096, "OK"), (4097, "INVALID_FIELD message")] {
        let command = GenerateMac { key: key.clone(), message: message(&vec![1; len]), algorithm };
        assert_eq!(told(&rig.kms.generate_mac(&rig.root, &rig.call(), command).await), outcome, "{len}");
    }
}
