//! Messages of `strongroom.kms.v1` ↔ commands and results of `kms`.
//!
//! Always: exhaustive, both ways: a value that either side gains must be placed here before it compiles.
//! Never: a default for something that was there and is not understood.

pub(crate) mod crypto;
pub(crate) mod keys;
pub(crate) mod secret;

use envelope::{EncryptionContext, Timestamp};
use kms::{KeyRef, KeySpec, KeyUsage, KmsError, ProtectionLevel, SigningAlgorithm};
use proto::kms as pb;
use std::collections::BTreeMap;

/// A key id or an alias, which must be there.
pub(crate) fn key(raw: &str, field: &'static str) -> Result<KeyRef, KmsError> {
    KeyRef::parse(raw).map_err(|_| KmsError::InvalidField(field))
}

/// Empty: not given.
fn key_if_given(raw: &str, field: &'static str) -> Result<Option<KeyRef>, KmsError> {
    given(raw).map(|raw| key(raw, field)).transpose()
}

fn given(raw: &str) -> Option<&str> {
    (!raw.is_empty()).then_some(raw)
}

fn context(pairs: BTreeMap<String, String>, field: &'static str) -> Result<EncryptionContext, KmsError> {
    EncryptionContext::parse(pairs).map_err(|_| KmsError::InvalidField(field))
}

pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.unix_millis();
    // both fit: a u64 of milliseconds has fewer than 2^54 seconds, and a remainder below a thousand
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

/// From 1970 to the end of 9999, which is where protobuf's timestamps end; parts of a millisecond are cut off.
fn timestamp_from(raw: prost_types::Timestamp, field: &'static str) -> Result<Timestamp, KmsError> {
    let seconds = u64::try_from(raw.seconds).ok().filter(|seconds| *seconds <= SECONDS_MAX);
    let nanos = u64::try_from(raw.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Timestamp::from_unix_millis(seconds * 1000 + nanos / 1_000_000)),
        _ => Err(KmsError::InvalidField(field)),
    }
}

/// A value that is known; [`None`] where the field is not set.
fn known<E: TryFrom<i32>>(raw: i32, field: &'static str) -> Result<E, KmsError> {
    E::try_from(raw).map_err(|_| KmsError::InvalidField(field))
}

fn key_spec(spec: KeySpec) -> pb::KeySpec {
    match spec {
        KeySpec::Aes256 => pb::KeySpec::SymmetricDefault,
        KeySpec::Hmac256 => pb::KeySpec::Hmac256,
        KeySpec::EccNistP256 => pb::KeySpec::EccNistP256,
        KeySpec::EccNistEdwards25519 => pb::KeySpec::EccNistEdwards25519,
        KeySpec::Rsa2048 => pb::KeySpec::Rsa2048,
        KeySpec::Rsa3072 => pb::KeySpec::Rsa3072,
        KeySpec::Rsa4096 => pb::KeySpec::Rsa4096,
    }
}

/// Not set: `None`.
fn key_spec_from(raw: i32) -> Result<Option<KeySpec>, KmsError> {
    Ok(match known(raw, "key_spec")? {
        pb::KeySpec::Unspecified => None,
        pb::KeySpec::SymmetricDefault => Some(KeySpec::Aes256),
        pb::KeySpec::Hmac256 => Some(KeySpec::Hmac256),
        pb::KeySpec::EccNistP256 => Some(KeySpec::EccNistP256),
        pb::KeySpec::EccNistEdwards25519 => Some(KeySpec::EccNistEdwards25519),
        pb::KeySpec::Rsa2048 => Some(KeySpec::Rsa2048),
        pb::KeySpec::Rsa3072 => Some(KeySpec::Rsa3072),
        pb::KeySpec::Rsa4096 => Some(KeySpec::Rsa4096),
    })
}

/// The system's own usages have no name outside.
fn key_usage(usage: KeyUsage) -> pb::KeyUsage {
    match usage {
        KeyUsage::EncryptDecrypt => pb::KeyUsage::EncryptDecrypt,
        KeyUsage::SignVerify => pb::KeyUsage::SignVerify,
        KeyUsage::GenerateVerifyMac => pb::KeyUsage::GenerateVerifyMac,
        KeyUsage::Log | KeyUsage::SystemSeal => pb::KeyUsage::Unspecified,
    }
}

/// Not set: `None`.
fn key_usage_from(raw: i32) -> Result<Option<KeyUsage>, KmsError> {
    Ok(match known(raw, "key_usage")? {
        pb::KeyUsage::Unspecified => None,
        pb::KeyUsage::EncryptDecrypt => Some(KeyUsage::EncryptDecrypt),
        pb::KeyUsage::SignVerify => Some(KeyUsage::SignVerify),
        pb::KeyUsage::GenerateVerifyMac => Some(KeyUsage::GenerateVerifyMac),
    })
}

fn level(level: ProtectionLevel) -> pb::ProtectionLevel {
    match level {
        ProtectionLevel::Boundary => pb::ProtectionLevel::Boundary,
        ProtectionLevel::HsmResident => pb::ProtectionLevel::HsmResident,
    }
}

/// Not set: `None`.
fn level_from(raw: i32) -> Result<Option<ProtectionLevel>, KmsError> {
    Ok(match known(raw, "protection_level")? {
        pb::ProtectionLevel::Unspecified => None,
        pb::ProtectionLevel::Boundary => Some(ProtectionLevel::Boundary),
        pb::ProtectionLevel::HsmResident => Some(ProtectionLevel::HsmResident),
    })
}

fn signing_algorithm(algorithm: SigningAlgorithm) -> pb::SigningAlgorithmSpec {
    use pb::SigningAlgorithmSpec as Spec;
    match algorithm {
        SigningAlgorithm::RsassaPssSha256 => Spec::RsassaPssSha256,
        SigningAlgorithm::RsassaPssSha384 => Spec::RsassaPssSha384,
        SigningAlgorithm::RsassaPssSha512 => Spec::RsassaPssSha512,
        SigningAlgorithm::RsassaPkcs1V15Sha256 => Spec::RsassaPkcs1V15Sha256,
        SigningAlgorithm::RsassaPkcs1V15Sha384 => Spec::RsassaPkcs1V15Sha384,
        SigningAlgorithm::RsassaPkcs1V15Sha512 => Spec::RsassaPkcs1V15Sha512,
        SigningAlgorithm::EcdsaSha256 => Spec::EcdsaSha256,
        SigningAlgorithm::Ed25519Sha512 => Spec::Ed25519Sha512,
    }
}

fn signing_algorithm_from(raw: i32) -> Result<SigningAlgorithm, KmsError> {
    use pb::SigningAlgorithmSpec as Spec;
    match known(raw, "signing_algorithm")? {
        Spec::Unspecified => Err(KmsError::InvalidField("signing_algorithm")),
        Spec::RsassaPssSha256 => Ok(SigningAlgorithm::RsassaPssSha256),
        Spec::RsassaPssSha384 => Ok(SigningAlgorithm::RsassaPssSha384),
        Spec::RsassaPssSha512 => Ok(SigningAlgorithm::RsassaPssSha512),
        Spec::RsassaPkcs1V15Sha256 => Ok(SigningAlgorithm::RsassaPkcs1V15Sha256),
        Spec::RsassaPkcs1V15Sha384 => Ok(SigningAlgorithm::RsassaPkcs1V15Sha384),
        Spec::RsassaPkcs1V15Sha512 => Ok(SigningAlgorithm::RsassaPkcs1V15Sha512),
        Spec::EcdsaSha256 => Ok(SigningAlgorithm::EcdsaSha256),
        Spec::Ed25519Sha512 => Ok(SigningAlgorithm::Ed25519Sha512),
    }
}

/// 9999-12-31T23:59:59Z.
const SECONDS_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        for spec in KeySpec::ALL {
            assert_eq!(key_spec_from(key_spec(*spec).into()), Ok(Some(*spec)));
            assert_eq!(key_spec(*spec).as_str_name(), format!("KEY_SPEC_{}", spec.name()));
        }
        for usage in [KeyUsage::EncryptDecrypt, KeyUsage::SignVerify, KeyUsage::GenerateVerifyMac] {
            assert_eq!(key_usage_from(key_usage(usage).into()), Ok(Some(usage)));
        }
        for one in ProtectionLevel::ALL {
            assert_eq!(level_from(level(*one).into()), Ok(Some(*one)));
        }
        for algorithm in SigningAlgorithm::ALL {
            assert_eq!(signing_algorithm_from(signing_algorithm(*algorithm).into()), Ok(*algorithm));
        }
        for usage in [KeyUsage::Log, KeyUsage::SystemSeal] {
            assert_eq!(key_usage(usage), pb::KeyUsage::Unspecified);
        }
    }

    #[test]
    fn values_that_nobody_knows_are_refused_by_name() {
        for raw in [-1, 99, i32::MAX] {
            assert_eq!(key_spec_from(raw), Err(KmsError::InvalidField("key_spec")));
            assert_eq!(key_usage_from(raw), Err(KmsError::InvalidField("key_usage")));
            assert_eq!(level_from(raw), Err(KmsError::InvalidField("protection_level")));
            assert_eq!(signing_algorithm_from(raw), Err(KmsError::InvalidField("signing_algorithm")));
        }
        assert_eq!(signing_algorithm_from(0), Err(KmsError::InvalidField("signing_algorithm")));
    }

    #[test]
    fn timestamps_have_bounds() {
        let at = |seconds, nanos| timestamp_from(prost_types::Timestamp { seconds, nanos }, "t").ok();
        let millis = |millis| Some(Timestamp::from_unix_millis(millis));
        for (seconds, nanos, expected) in [
            (0, 0, millis(0)),
            (1, 999_999_999, millis(1999)),
            (253_402_300_799, 0, millis(253_402_300_799_000)),
            (253_402_300_800, 0, None),
            (-1, 0, None),
            (0, -1, None),
            (0, 1_000_000_000, None),
            (i64::MAX, i32::MAX, None),
        ] {
            assert_eq!(at(seconds, nanos), expected, "{seconds} {nanos}");
        }
        for millis in [0, 1, 999, 1_700_000_000_123] {
            let at = Timestamp::from_unix_millis(millis);
            assert_eq!(timestamp_from(timestamp(at), "t"), Ok(at));
        }
    }
}
