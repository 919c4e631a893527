//! Known-answer tests, run before the first service: each algorithm against a value that somebody else computed.
//!
//! Always: all pass, or the module is in the error state.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use ed25519_dalek::Signer;
use envelope::mac::{hmac_sha256, sha256};
use envelope::sealed::{Header, Kind, Suite, parse_blob};
use envelope::suite1::{self, SealingKey};
use envelope::{SecretKey, kdf};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use rsa::pkcs8::DecodePublicKey;
use rsa::{Pkcs1v15Sign, Pss, PublicKey as RsaPublicKey};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The name of the first test that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SelfTestFailed(pub(crate) &'static str);

/// Runs all tests. `corrupt` names one whose input gets a flipped bit: fault injection.
pub(crate) fn run(corrupt: Option<&str>) -> Result<(), SelfTestFailed> {
    for (name, passes) in TESTS {
        if !passes(u8::from(corrupt == Some(name))) {
            return Err(SelfTestFailed(name));
        }
    }
    Ok(())
}

/// Takes a byte that is mixed into the input: 0 passes, anything else must fail.
type KnownAnswer = fn(flip: u8) -> bool;

const TESTS: &[(&str, KnownAnswer)] = &[
    ("SHA-2", sha2),
    ("HMAC-SHA-256", hmac),
    ("KDF in counter mode", kdf_counter),
    ("HKDF-SHA-256", hkdf),
    ("AES-256-GCM", aes_256_gcm),
    ("suite 1", suite_1),
    ("ECDSA P-256", ecdsa_p256),
    ("Ed25519", ed25519),
    ("RSA PKCS#1 v1.5", rsa_pkcs1v15),
    ("RSA PSS", rsa_pss),
];

/// FIPS 180-4: SHA-256, SHA-384 and SHA-512 of "abc".
fn sha2(flip: u8) -> bool {
    let message = [b'a' ^ flip, b'b', b'c'];
    sha256(&message) == hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        && Sha384::digest(message)[..]
            == hex::<48>(
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            )
        && Sha512::digest(message)[..]
            == hex::<64>(
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            )
}

/// RFC 4231 §4.3; the key is padded with zeros as HMAC itself would.
fn hmac(flip: u8) -> bool {
    let key = SecretKey::init_with(|key| {
        key[..4].copy_from_slice(b"Jefe");
        key[0] ^= flip;
    });
    hmac_sha256(&key, &[b"what do ya want ", b"for nothing?"])
        == hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
}

/// SP 800-108r1 §4.1 with the key 00…1f, label "sr/v1/blob" and the context 00…5f; computed with another implementation.
fn kdf_counter(flip: u8) -> bool {
    let context: [u8; 96] = counting(0);
    *kdf::counter_512_once(&counting_key(flip), b"sr/v1/blob", &[&context]) == hex::<64>(KDF_COUNTER)
}

/// RFC 5869 §A.1, first 32 bytes: the output's length does not enter them.
fn hkdf(flip: u8) -> bool {
    let info: [u8; 10] = counting(0xf0);
    let key = kdf::hkdf_sha256(&[0x0b ^ flip; 22], &counting::<13>(0), &info);
    *key.expose() == hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16; sealed and opened.
fn aes_256_gcm(flip: u8) -> bool {
    let key = hex::<32>("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    let mut text = hex::<60>(GCM_PLAINTEXT);
    text[0] ^= flip;
    let aad = hex::<20>("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let iv = hex::<12>("cafebabefacedbaddecaf888");
    let Ok(cipher) = Aes256Gcm::new_from_slice(&key) else { return false };
    let Ok(tag) = cipher.encrypt_inout_detached((&iv).into(), &aad, text[..].as_mut().into()) else { return false };
    let sealed = text == hex::<60>(GCM_CIPHERTEXT) && tag[..] == hex::<16>("76fc6ece0f4e1768cddf8853bb2d551b");
    let opened = cipher.decrypt_inout_detached((&iv).into(), &aad, text[..].as_mut().into(), &tag).is_ok();
    sealed && opened && text == hex::<60>(GCM_PLAINTEXT)
}

/// A blob with fixed N and IV; computed with another implementation. An altered commitment is refused.
fn suite_1(flip: u8) -> bool {
    let key = SealingKey::new(&counting_key(flip));
    let (kind, suite) = (Kind::CiphertextBlob, Suite::KdfCommitGcm);
    let header = Header { kind, suite, key_id: [0x11; 16], key_version: 2, domain_id: [0x22; 16], generation: 0 };
    let aad = sha256(&[0; 4]);
    let mut blob = suite1::seal(&key, &header, &[0x33; 16], &[0x44; 12], &aad, b"known answer");
    let opens = |blob: &[u8]| parse_blob(blob).is_ok_and(|sealed| suite1::open(&key, &sealed, &aad).is_ok());
    let good = blob == hex::<136>(SUITE_1) && opens(&blob);
    blob[76] ^= 1;
    good && !opens(&blob)
}

/// RFC 6979 §A.2.5, SHA-256 of "sample": signed, verified, and refused for another digest.
fn ecdsa_p256(flip: u8) -> bool {
    let scalar = hex::<32>("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
    let Ok(key) = p256::ecdsa::SigningKey::from_slice(&scalar) else { return false };
    let mut digest = sha256(b"sample");
    digest[0] ^= flip;
    let Ok(signature): Result<p256::ecdsa::Signature, _> = key.sign_prehash(&digest) else { return false };
    signature.to_bytes()[..] == hex::<64>(ECDSA_SIGNATURE)
        && key.verifying_key().verify_prehash(&digest, &signature).is_ok()
        && key.verifying_key().verify_prehash(&[0; 32], &signature).is_err()
}

/// RFC 8032 §7.1, test 2.
fn ed25519(flip: u8) -> bool {
    let seed = hex::<32>("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    let message = [0x72 ^ flip];
    let signature = key.sign(&message);
    signature.to_bytes() == hex::<64>(ED25519_SIGNATURE)
        && key.verifying_key().verify_strict(&message, &signature).is_ok()
        && key.verifying_key().verify_strict(b"another", &signature).is_err()
}

/// A signature that another implementation made.
fn rsa_pkcs1v15(flip: u8) -> bool {
    let Ok(key) = RsaPublicKey::from_public_key_der(RSA_PUBLIC_KEY) else { return false };
    key.verify(Pkcs1v15Sign::new::<Sha256>(), &rsa_digest(flip), RSA_PKCS1V15_SIGNATURE).is_ok()
        && key.verify(Pkcs1v15Sign::new::<Sha256>(), &[0; 32], RSA_PKCS1V15_SIGNATURE).is_err()
}

/// As above, salt as long as the digest.
fn rsa_pss(flip: u8) -> bool {
    let Ok(key) = RsaPublicKey::from_public_key_der(RSA_PUBLIC_KEY) else { return false };
    key.verify(Pss::<Sha256>::new_with_salt(32), &rsa_digest(flip), RSA_PSS_SIGNATURE).is_ok()
        && key.verify(Pss::<Sha256>::new_with_salt(32), &[0; 32], RSA_PSS_SIGNATURE).is_err()
}

fn rsa_digest(flip: u8) -> [u8; 32] {
    let mut digest = sha256(b"known answer");
    digest[0] ^= flip;
    digest
}

fn counting_key(flip: u8) -> SecretKey {
    SecretKey::init_with(|key| {
        *key = counting(0);
        key[0] ^= flip;
    })
}

/// `from`, `from + 1`, …
fn counting<const N: usize>(from: u8) -> [u8; N] {
    let mut next = from;
    [(); N].map(|()| {
        let byte = next;
        next = next.wrapping_add(1);
        byte
    })
}

/// Vectors as their sources print them; a wrong digit gives a value that matches nothing.
fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    out
}

const GCM_PLAINTEXT: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
const GCM_CIPHERTEXT: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
const ECDSA_SIGNATURE: &str = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";
const ED25519_SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
const KDF_COUNTER: &str = "ea9e427d52b5b7a5af84a10eeb9f8d7b289c81b9755ed95517da5f981bde8b98163c921c20cd0acacf2a4cfb51d91771dd7718147d820c8ee49268293c809a22";
const SUITE_1: &str = "53520101000100001111111111111111111111111111111100000002222222222222222222222222222222220000000033333333333333333333333333333333444444444444444444444444f4b68fe0ef313babaf467b674a57c0e1ee362e6783dd9038877eeeacaf96d05e8438c301fe594a40188a9563e8cc73de1519ce6561463cd271274abc";
const RSA_PUBLIC_KEY: &[u8] = include_bytes!("selftest/rsa2048-public.der");
const RSA_PKCS1V15_SIGNATURE: &[u8] = include_bytes!("selftest/rsa2048-pkcs1v15-sha256.sig");
const RSA_PSS_SIGNATURE: &[u8] = include_bytes!("selftest/rsa2048-pss-sha256.sig");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_passes_and_fails_for_one_flipped_bit() {
        assert_eq!(run(None), Ok(()));
        assert_eq!(TESTS.len(), 10);
        for (name, _) in TESTS {
            assert_eq!(run(Some(name)), Err(SelfTestFailed(name)));
        }
    }
}
