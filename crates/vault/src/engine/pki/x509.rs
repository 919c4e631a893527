//! Certificates and lists of what is revoked, built to be signed elsewhere: RFC 5280.

use super::authority::{Issuer, KeyKind};
use super::text::SERIAL_BYTES;
use crate::error::VaultError;
use crate::scope::Scope;
use crate::service::Vault;
use bytes::Bytes;
use envelope::Timestamp;
use kms::{AtVersion, KeyId, KeyRef, MessageType, Sign, SigningAlgorithm, Through};
use std::time::Duration;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{DateTime, Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, CrlNumber, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

/// What is certified.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) serial: SerialNumber,
    pub(super) subject: Name,
    pub(super) public_key: SubjectPublicKeyInfoOwned,
    pub(super) validity: Validity,
    pub(super) extensions: Vec<Extension>,
}

/// Whose name stands in what is signed, and by which key.
#[derive(Debug)]
pub(super) struct Above {
    pub(super) name: Name,
    pub(super) key_identifier: OctetString,
    pub(super) key: KeyId,
    pub(super) kind: KeyKind,
}

/// In whose name the boundary is asked.
#[derive(Debug)]
pub(super) enum Asks<'a> {
    Caller(Through<'a>),
    Worker(&'a Vault, Timestamp),
}

impl<'a> Asks<'a> {
    pub(super) fn of(scope: &'a Scope<'a>) -> Result<Self, VaultError> {
        Ok(Self::Caller(through(scope)?))
    }

    async fn sign(&self, key: KeyId, kind: KeyKind, message: &[u8]) -> Result<BitString, VaultError> {
        let digest = Bytes::copy_from_slice(&envelope::mac::sha256(message));
        let algorithm = match kind {
            KeyKind::Ec256 => SigningAlgorithm::EcdsaSha256,
            KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => SigningAlgorithm::RsassaPkcs1V15Sha256,
        };
        let signature = match self {
            Self::Caller(through) => {
                let message_type = MessageType::Digest;
                let command = Sign { key: KeyRef::Id(key), message: digest, message_type, algorithm };
                through.sign(key, AtVersion { command, version: Some(FIRST) }).await?.signature
            }
            Self::Worker(vault, now) => {
                vault.kms().sign_by_itself("SignCertificateRevocationList", &key, (digest, algorithm), *now).await?
            }
        };
        BitString::from_bytes(&signature).map_err(unbuilt)
    }
}

pub(super) fn through<'s>(scope: &'s Scope<'s>) -> Result<Through<'s>, VaultError> {
    Ok(scope.vault.kms().through(scope.by()?, &scope.call.info, &scope.rule))
}

impl Above {
    pub(super) fn of(issuer: &Issuer) -> Result<Self, VaultError> {
        let certificate = issuer.parsed()?;
        let found = certificate.tbs_certificate.get::<SubjectKeyIdentifier>().ok().flatten();
        let key_identifier = match found {
            Some((_, SubjectKeyIdentifier(id))) => id,
            None => key_identifier(&certificate.tbs_certificate.subject_public_key_info)?,
        };
        Ok(Self { name: certificate.tbs_certificate.subject, key_identifier, key: issuer.key()?, kind: issuer.kind })
    }

    pub(super) fn key_extension(&self) -> Result<Extension, VaultError> {
        let key_identifier = Some(self.key_identifier.clone());
        extension(false, &AuthorityKeyIdentifier { key_identifier, ..AuthorityKeyIdentifier::default() })
    }

    /// DER, signed.
    pub(super) async fn certify(&self, asks: &Asks<'_>, draft: Draft) -> Result<Vec<u8>, VaultError> {
        let signature = algorithm(self.kind);
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: draft.serial,
            signature: signature.clone(),
            issuer: self.name.clone(),
            validity: draft.validity,
            subject: draft.subject,
            subject_public_key_info: draft.public_key,
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(draft.extensions),
        };
        let message = tbs_certificate.to_der().map_err(unbuilt)?;
        let signed = asks.sign(self.key, self.kind, &message).await?;
        let certificate = Certificate { tbs_certificate, signature_algorithm: signature, signature: signed };
        certificate.to_der().map_err(unbuilt)
    }

    /// DER of a list, signed.
    pub(super) async fn list(
        &self,
        asks: &Asks<'_>,
        (number, this_update, next_update): (u64, Timestamp, Timestamp),
        revoked: Vec<RevokedCert>,
    ) -> Result<Vec<u8>, VaultError> {
        let number = x509_cert::der::asn1::Uint::new(&number.to_be_bytes()).map_err(unbuilt)?;
        let signature = algorithm(self.kind);
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: signature.clone(),
            issuer: self.name.clone(),
            this_update: time(this_update)?,
            next_update: Some(time(next_update)?),
            // RFC 5280 §5.1.2.6: nothing revoked is no list, not an empty one
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: Some(vec![self.key_extension()?, extension(false, &CrlNumber(number))?]),
        };
        let message = tbs_cert_list.to_der().map_err(unbuilt)?;
        let signed = asks.sign(self.key, self.kind, &message).await?;
        let list = CertificateList { tbs_cert_list, signature_algorithm: signature, signature: signed };
        list.to_der().map_err(unbuilt)
    }
}

/// A request for a certificate of a key in the boundary (RFC 2986), signed.
pub(super) async fn request(
    asks: &Asks<'_>,
    (key, kind): (KeyId, KeyKind),
    info: x509_cert::request::CertReqInfo,
) -> Result<Vec<u8>, VaultError> {
    let message = info.to_der().map_err(unbuilt)?;
    let signature = asks.sign(key, kind, &message).await?;
    x509_cert::request::CertReq { info, algorithm: algorithm(kind), signature }.to_der().map_err(unbuilt)
}

fn algorithm(kind: KeyKind) -> AlgorithmIdentifierOwned {
    match kind {
        // RFC 5758 §3.2: parameters are absent
        KeyKind::Ec256 => AlgorithmIdentifierOwned { oid: ECDSA_SHA256, parameters: None },
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
            AlgorithmIdentifierOwned { oid: RSA_SHA256, parameters: Some(Any::null()) }
        }
    }
}

pub(super) fn extension<T: Encode + AssociatedOid>(critical: bool, value: &T) -> Result<Extension, VaultError> {
    let extn_value = OctetString::new(value.to_der().map_err(unbuilt)?).map_err(unbuilt)?;
    Ok(Extension { extn_id: T::OID, critical, extn_value })
}

/// RFC 7093 §2 (1): the leftmost 160 bits of SHA-256 of the key.
pub(super) fn key_identifier(public_key: &SubjectPublicKeyInfoOwned) -> Result<OctetString, VaultError> {
    let hash = envelope::mac::sha256(public_key.subject_public_key.raw_bytes());
    OctetString::new(hash.get(..20).unwrap_or(&hash)).map_err(unbuilt)
}

pub(super) fn key_extension(public_key: &SubjectPublicKeyInfoOwned) -> Result<Extension, VaultError> {
    extension(false, &SubjectKeyIdentifier(key_identifier(public_key)?))
}

pub(super) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfoOwned, VaultError> {
    SubjectPublicKeyInfoOwned::from_der(der).map_err(unbuilt)
}

/// Random, positive, of 20 bytes.
pub(super) fn new_serial(vault: &Vault) -> Result<(SerialNumber, String), VaultError> {
    let mut bytes = vault.barrier().random::<SERIAL_BYTES>()?;
    bytes[0] &= 0x7f;
    bytes[0] = bytes[0].max(1);
    Ok((SerialNumber::new(&bytes).map_err(unbuilt)?, hex::encode(bytes)))
}

/// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime after; whole seconds.
pub(super) fn time(at: Timestamp) -> Result<Time, VaultError> {
    let at = DateTime::from_unix_duration(Duration::from_secs(at.unix_secs())).map_err(unbuilt)?;
    Ok(match UtcTime::from_date_time(at) {
        Ok(time) => Time::UtcTime(time),
        Err(_) => Time::GeneralTime(GeneralizedTime::from_date_time(at)),
    })
}

pub(super) fn at(time: Time) -> Timestamp {
    Timestamp::from_unix_millis(u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn unbuilt(error: impl std::fmt::Display) -> VaultError {
    VaultError::Internal(format!("a certificate cannot be written: {error}").into())
}

/// An authority's key has one version: its certificate is of that one.
const FIRST: u32 = 1;
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
