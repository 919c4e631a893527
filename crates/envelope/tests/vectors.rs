//! Project Wycheproof's vectors for every primitive that the product uses, in the crates that it uses.
//!
//! Always: the number that ran is printed and asserted, so that an empty set fails; a result that the vectors call
//! acceptable is decided here by name, not waved through.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use ed25519_dalek::VerifyingKey as Ed25519Key;
use envelope::{SecretKey, kdf, mac};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use p256::ecdsa::signature::Verifier;
use p256::pkcs8::DecodePublicKey;
use rsa::{PublicKey, pkcs1v15, pss};
use sha2::digest::{Digest, FixedOutputReset, const_oid::AssociatedOid};
use sha2::{Sha256, Sha384, Sha512};
use wycheproof::{HashFunction, Mgf, TestResult};

/// How many vectors ran, by what they ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ran {
    valid: usize,
    invalid: usize,
    acceptable: usize,
}

impl Ran {
    /// Counts a vector and judges what the primitive made of it. Whether an acceptable one passes is `policy`.
    fn judge(&mut self, name: &str, id: usize, result: TestResult, passed: bool, policy: bool) {
        let (count, expected) = match result {
            TestResult::Valid => (&mut self.valid, true),
            TestResult::Invalid => (&mut self.invalid, false),
            TestResult::Acceptable => (&mut self.acceptable, policy),
        };
        *count += 1;
        assert_eq!(passed, expected, "{name}: vector {id} is {result:?}");
    }

    #[expect(clippy::print_stdout, reason = "the number that ran is part of the test's report")]
    fn assert(&self, name: &str, valid: usize, invalid: usize, acceptable: usize) {
        let total = self.valid + self.invalid + self.acceptable;
        println!("Wycheproof {name}: {total} vectors ran ({self:?})");
        assert_eq!(self, &Self { valid, invalid, acceptable }, "{name}");
    }
}

#[test]
fn aes_256_gcm_agrees() {
    use wycheproof::aead::{TestName, TestSet};
    let mut ran = Ran::default();
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        // what the sealed format uses and nothing else (SP 800-38D §8.2: 96-bit IVs)
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
            let nonce = <[u8; 12]>::try_from(&test.nonce[..]).unwrap();
            let tag = <[u8; 16]>::try_from(&test.tag[..]).unwrap();
            let mut opened = test.ct.to_vec();
            let buffer = opened.as_mut_slice().into();
            let opens = cipher.decrypt_inout_detached(&nonce.into(), &test.aad, buffer, &tag.into()).is_ok();
            let mut sealed = test.pt.to_vec();
            let buffer = sealed.as_mut_slice().into();
            let made = cipher.encrypt_inout_detached(&nonce.into(), &test.aad, buffer).unwrap();
            let seals = sealed == test.ct[..] && made[..] == tag;
            assert!(opens == seals && (!opens || opened == test.pt[..]), "AES-256-GCM: vector {}", test.tc_id);
            ran.judge("AES-256-GCM", test.tc_id, test.result, opens, false);
        }
    }
    ran.assert("AES-256-GCM", 39, 27, 0);
}

#[test]
fn hmac_sha_256_agrees() {
    use wycheproof::mac::{TestName, TestSet};
    let (mut ran, mut ours) = (Ran::default(), 0);
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let mut hmac = Hmac::<Sha256>::new_from_slice(&test.key).unwrap();
            hmac.update(&test.msg);
            let whole = hmac.finalize().into_bytes();
            let passed = mac::equal(&whole[..group.tag_size / 8], &test.tag);
            ran.judge("HMAC-SHA-256", test.tc_id, test.result, passed, false);
            if let Some(key) = SecretKey::from_slice(&test.key) {
                let (head, tail) = test.msg.split_at(test.msg.len() / 2);
                assert_eq!(mac::hmac_sha256(&key, &[head, tail])[..], whole[..], "vector {}", test.tc_id);
                ours += 1;
            }
        }
    }
    ran.assert("HMAC-SHA-256", 66, 108, 0);
    assert_eq!(ours, 162, "vectors with keys of 256 bits");
}

#[test]
fn hkdf_sha_256_agrees() {
    use wycheproof::hkdf::{TestName, TestSet};
    let (mut ran, mut ours) = (Ran::default(), 0);
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let mut okm = vec![0; test.size];
            let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
            let passed = expanded.is_ok() && okm == test.okm[..];
            ran.judge("HKDF-SHA-256", test.tc_id, test.result, passed, false);
            if test.size >= 32 && test.result == TestResult::Valid {
                let key = kdf::hkdf_sha256(&test.ikm, &test.salt, &test.info);
                assert_eq!(key.expose()[..], test.okm[..32], "vector {}", test.tc_id);
                ours += 1;
            }
        }
    }
    ran.assert("HKDF-SHA-256", 83, 3, 0);
    assert_eq!(ours, 65, "vectors that give at least one key");
}

#[test]
fn ecdsa_p_256_sha_256_agrees() {
    use p256::ecdsa::{Signature, VerifyingKey};
    use wycheproof::ecdsa::{TestName, TestSet};
    for (name, set, der, counts) in [
        ("ECDSA P-256 SHA-256, DER", TestName::EcdsaSecp256r1Sha256, true, (174, 310, 0)),
        ("ECDSA P-256 SHA-256, P1363", TestName::EcdsaSecp256r1Sha256P1363, false, (173, 89, 0)),
    ] {
        let mut ran = Ran::default();
        for group in TestSet::load(set).unwrap().test_groups {
            assert_eq!(group.hash, HashFunction::Sha2_256);
            let key = VerifyingKey::from_public_key_der(&group.der).unwrap();
            assert_eq!(key, VerifyingKey::from_sec1_bytes(&group.key.key).unwrap());
            for test in group.tests {
                let parsed = if der { Signature::from_der(&test.sig) } else { Signature::from_slice(&test.sig) };
                let passed = parsed.is_ok_and(|signature| key.verify(&test.msg, &signature).is_ok());
                // acceptable ones are BER and the like, which we refuse
                ran.judge(name, test.tc_id, test.result, passed, false);
            }
        }
        ran.assert(name, counts.0, counts.1, counts.2);
    }
}

#[test]
fn ed25519_agrees() {
    use ed25519_dalek::{Signature, Verifier as _};
    use wycheproof::eddsa::{TestName, TestSet};
    let mut ran = Ran::default();
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let key = Ed25519Key::from_public_key_der(&group.der).unwrap();
        assert_eq!(key.as_bytes()[..], group.key.pk[..]);
        for test in group.tests {
            let signature = Signature::from_slice(&test.sig).ok();
            let passed = signature.is_some_and(|signature| key.verify(&test.msg, &signature).is_ok());
            let strict = signature.is_some_and(|signature| key.verify_strict(&test.msg, &signature).is_ok());
            assert_eq!(passed, strict, "vector {}", test.tc_id);
            ran.judge("Ed25519", test.tc_id, test.result, passed, false);
        }
    }
    ran.assert("Ed25519", 88, 63, 0);
}

type Verifies = fn(&PublicKey, &[u8], &[u8]) -> bool;
/// Of valid, invalid and acceptable vectors.
type Counts = (usize, usize, usize);

fn pkcs_1_v_1_5_verifies<D>(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool
where
    D: Digest + AssociatedOid,
{
    let key = pkcs1v15::VerifyingKey::<D>::new(key.clone());
    pkcs1v15::Signature::try_from(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

/// With a salt as long as the hash, as AWS KMS and FIPS 186-5 §5.4 have it.
fn pss_verifies<D>(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool
where
    D: Digest + FixedOutputReset,
{
    let key = pss::VerifyingKey::<D>::new(key.clone());
    pss::Signature::try_from(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

#[test]
fn rsa_pkcs_1_v_1_5_agrees() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let sets: [(TestName, HashFunction, Verifies, Counts); 9] = [
        (TestName::Rsa2048Sha256, HashFunction::Sha2_256, pkcs_1_v_1_5_verifies::<Sha256>, (9, 249, 1)),
        (TestName::Rsa2048Sha384, HashFunction::Sha2_384, pkcs_1_v_1_5_verifies::<Sha384>, (7, 250, 1)),
        (TestName::Rsa2048Sha512, HashFunction::Sha2_512, pkcs_1_v_1_5_verifies::<Sha512>, (8, 250, 1)),
        (TestName::Rsa3072Sha256, HashFunction::Sha2_256, pkcs_1_v_1_5_verifies::<Sha256>, (8, 250, 1)),
        (TestName::Rsa3072Sha384, HashFunction::Sha2_384, pkcs_1_v_1_5_verifies::<Sha384>, (7, 251, 1)),
        (TestName::Rsa3072Sha512, HashFunction::Sha2_512, pkcs_1_v_1_5_verifies::<Sha512>, (8, 251, 1)),
        (TestName::Rsa4096Sha256, HashFunction::Sha2_256, pkcs_1_v_1_5_verifies::<Sha256>, (7, 250, 1)),
        (TestName::Rsa4096Sha384, HashFunction::Sha2_384, pkcs_1_v_1_5_verifies::<Sha384>, (7, 251, 1)),
        (TestName::Rsa4096Sha512, HashFunction::Sha2_512, pkcs_1_v_1_5_verifies::<Sha512>, (7, 251, 1)),
    ];
    for (set, hash, verifies, (valid, invalid, acceptable)) in sets {
        let (name, mut ran) = (format!("RSA PKCS#1 v1.5 {set:?}"), Ran::default());
        for group in TestSet::load(set).unwrap().test_groups {
            assert_eq!(group.hash, hash, "{name}");
            let key = PublicKey::from_public_key_der(&group.der).unwrap();
            for test in group.tests {
                // acceptable is a DigestInfo without its NULL (RFC 8017 §9.2, note 1), which we refuse
                ran.judge(&name, test.tc_id, test.result, verifies(&key, &test.msg, &test.sig), false);
            }
        }
        ran.assert(&name, valid, invalid, acceptable);
    }
}

/// The published sets have no RSA-2048 with SHA-512 and no RSA-3072 with SHA-384 or SHA-512 under such a salt.
#[test]
fn rsa_pss_agrees() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let sets: [(TestName, HashFunction, usize, Verifies, Counts); 6] = [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, HashFunction::Sha2_256, 32, pss_verifies::<Sha256>, (63, 45, 0)),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, HashFunction::Sha2_384, 48, pss_verifies::<Sha384>, (95, 46, 0)),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, HashFunction::Sha2_256, 32, pss_verifies::<Sha256>, (63, 45, 0)),
        (TestName::RsaPss4096Sha256Mgf1SaltLen32, HashFunction::Sha2_256, 32, pss_verifies::<Sha256>, (63, 45, 0)),
        (TestName::RsaPss4096Sha384Mgf1SaltLen48, HashFunction::Sha2_384, 48, pss_verifies::<Sha384>, (95, 46, 0)),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, HashFunction::Sha2_512, 64, pss_verifies::<Sha512>, (132, 47, 0)),
    ];
    for (set, hash, salt_size, verifies, (valid, invalid, acceptable)) in sets {
        let (name, mut ran) = (format!("RSA PSS {set:?}"), Ran::default());
        for group in TestSet::load(set).unwrap().test_groups {
            let parameters = (group.hash, group.mgf, group.mgf_hash, group.salt_size);
            assert_eq!(parameters, (hash, Mgf::Mgf1, Some(hash), salt_size), "{name}");
            let key = PublicKey::from_public_key_der(&group.der).unwrap();
            for test in group.tests {
                ran.judge(&name, test.tc_id, test.result, verifies(&key, &test.msg, &test.sig), false);
            }
        }
        ran.assert(&name, valid, invalid, acceptable);
    }
}
