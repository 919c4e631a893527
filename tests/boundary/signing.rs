//! Signatures of every algorithm, verified by another library from the exported public key; MACs.

use crate::suite::{Gives, Need, Refuses, Suite};
use aws_lc_rs::{digest, signature};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::message::ITEM_BYTES_MAX;
use hsm_api::{HsmError, KeySpec, KeyToken, MessageToSign, Reply, Request, SigningAlgorithm};

const MESSAGE: &[u8] = b"a message that is signed";

/// How aws-lc knows the scheme. Its PSS takes salts of the digest's length and no other.
fn verifier(algorithm: SigningAlgorithm) -> &'static dyn signature::VerificationAlgorithm {
    match algorithm {
        SigningAlgorithm::RsassaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        SigningAlgorithm::RsassaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        SigningAlgorithm::RsassaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        SigningAlgorithm::RsassaPkcs1V15Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        SigningAlgorithm::RsassaPkcs1V15Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        SigningAlgorithm::RsassaPkcs1V15Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        SigningAlgorithm::EcdsaSha256 => &signature::ECDSA_P256_SHA256_ASN1,
        SigningAlgorithm::Ed25519Sha512 => &signature::ED25519,
    }
}

/// Whether `signature` over `message` is the key's. `public_key` is a SubjectPublicKeyInfo.
pub(crate) fn verifies(algorithm: SigningAlgorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(verifier(algorithm), public_key).verify(message, signature).is_ok()
}

fn hashed(algorithm: SigningAlgorithm, message: &[u8]) -> Option<Bytes> {
    let hash = match algorithm.digest_bytes()? {
        32 => &digest::SHA256,
        48 => &digest::SHA384,
        _ => &digest::SHA512,
    };
    Some(Bytes::copy_from_slice(digest::digest(hash, message).as_ref()))
}

fn sign(key: &KeyToken, algorithm: SigningAlgorithm, message: MessageToSign) -> Request {
    Request::Sign { key: key.clone(), algorithm, message }
}

fn raw(len: usize) -> MessageToSign {
    MessageToSign::Raw(vec![3; len].into())
}

fn digest_of(len: usize) -> MessageToSign {
    MessageToSign::Digest(vec![3; len].into())
}

pub(crate) fn signatures(suite: &mut Suite) {
    let signing = KeySpec::ALL.iter().copied().filter(|spec| !spec.signing_algorithms().is_empty());
    for spec in signing.filter(|spec| suite.offers(Need::Spec(*spec))).collect::<Vec<_>>() {
        let key = suite.key(spec);
        let request = Request::PublicKey { key: key.token.clone() };
        let Some(Reply::PublicKey(public_key)) = suite.row(format!("{spec:?}"), &[], request, Gives) else { panic!() };
        assert_eq!(public_key, key.public_key);
        for algorithm in SigningAlgorithm::ALL.iter().copied() {
            let needs = [Need::Algorithm(algorithm)];
            let fits = spec.signing_algorithms().contains(&algorithm);
            let needs = if fits { &needs[..] } else { &[] };
            let what = format!("{spec:?} {algorithm:?}");
            let answer = if fits { Gives } else { Refuses(HsmError::UsageForbidden) };
            let message = MessageToSign::Raw(MESSAGE.into());
            let whole = suite.row(format!("{what} raw"), needs, sign(&key.token, algorithm, message), answer);
            let digest = hashed(algorithm, MESSAGE);
            let answer = if fits && digest.is_none() { Refuses(HsmError::Unsupported) } else { answer };
            let message = MessageToSign::Digest(digest.unwrap_or_else(|| vec![3; 64].into()));
            let hashed = suite.row(format!("{what} digest"), needs, sign(&key.token, algorithm, message), answer);
            for reply in [whole, hashed].into_iter().flatten() {
                let Reply::Signature(signature) = reply else { panic!("{reply:?}") };
                assert!(verifies(algorithm, &public_key, MESSAGE, &signature), "{:?}: {what}", suite.stand.kind);
                assert!(!verifies(algorithm, &public_key, b"another message", &signature), "{what}");
            }
        }
    }
}

pub(crate) fn refusals(suite: &mut Suite) {
    let (p256, ed25519) = (suite.key(KeySpec::EccNistP256).token, suite.key(KeySpec::EccNistEdwards25519).token);
    let rsa = suite.key(KeySpec::Rsa2048).token;
    let out = Refuses(HsmError::OutOfRange);
    let (ecdsa, eddsa, pss) =
        (SigningAlgorithm::EcdsaSha256, SigningAlgorithm::Ed25519Sha512, SigningAlgorithm::RsassaPssSha384);
    for (key, algorithm, message, answer) in [
        (&p256, ecdsa, raw(0), out),
        (&p256, ecdsa, raw(1), Gives),
        (&p256, ecdsa, raw(4096), Gives),
        (&p256, ecdsa, raw(4097), out),
        (&p256, ecdsa, digest_of(0), out),
        (&p256, ecdsa, digest_of(31), out),
        (&p256, ecdsa, digest_of(33), out),
        (&rsa, pss, digest_of(32), out),
        (&rsa, pss, digest_of(48), Gives),
        (&rsa, pss, digest_of(64), out),
        (&rsa, pss, raw(0), out),
        (&rsa, pss, raw(4096), Gives),
        (&rsa, pss, raw(4097), out),
        (&ed25519, eddsa, raw(0), out),
        (&ed25519, eddsa, raw(4096), Gives),
        (&ed25519, eddsa, raw(4097), out),
    ] {
        let what = format!("{algorithm:?} {message:?}");
        suite.row(what, &[Need::Algorithm(algorithm)], sign(key, algorithm, message), answer);
    }
    for spec in [KeySpec::Aes256, KeySpec::Hmac256] {
        let request = Request::PublicKey { key: suite.key(spec).token };
        suite.row("a symmetric key's", &[], request, Refuses(HsmError::UsageForbidden));
    }
}

pub(crate) fn macs(suite: &mut Suite) {
    let (key, other) = (suite.key(KeySpec::Hmac256).token, suite.key(KeySpec::Hmac256).token);
    let request =
        |key: &KeyToken, len: usize| Request::Mac { key: key.clone(), message: SecretBytes::from_vec(vec![1; len]) };
    let out = Refuses(HsmError::OutOfRange);
    let mut codes = Vec::new();
    for (what, key, len, answer) in [
        ("nothing", &key, 0, out),
        ("a byte", &key, 1, Gives),
        ("the most", &key, ITEM_BYTES_MAX, Gives),
        ("one more", &key, ITEM_BYTES_MAX + 1, out),
        ("a byte again", &key, 1, Gives),
        ("a byte, another key", &other, 1, Gives),
    ] {
        let reply = suite.row(what, &[], request(key, len), answer);
        codes.extend(reply.map(|reply| if let Reply::Mac(code) = reply { code } else { panic!("{reply:?}") }));
    }
    assert!(codes[0] == codes[2] && codes[0] != codes[1] && codes[0] != codes[3]);
}
