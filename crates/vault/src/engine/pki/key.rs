//! Leaves' keys: made here, or somebody's who asks for a certificate of his own.

use crate::error::VaultError;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self as aws, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use std::time::Duration;
use tokio::sync::Semaphore;
use x509_cert::der::asn1::{ObjectIdentifier, Uint};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::request::CertReq;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafKind {
    Ec256,
    Ec384,
    Ed25519,
    Rsa(u32),
}

/// A key pair on its way to who asked for it.
pub(super) struct NewKey {
    pub(super) kind: LeafKind,
    /// PKCS#8.
    pub(super) private: Zeroizing<Vec<u8>>,
    pub(super) public: Vec<u8>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl LeafKind {
    /// What a role's type and bits allow; `None`: any of them, in requests only.
    pub(super) fn allowed(name: &str, bits: u32) -> Result<Option<Self>, VaultError> {
        match (name, bits) {
            ("any", 0) => Ok(None),
            ("ec", 0 | 256) => Ok(Some(Self::Ec256)),
            ("ec", 384) => Ok(Some(Self::Ec384)),
            ("ed25519", _) => Ok(Some(Self::Ed25519)),
            ("rsa", 0) => Ok(Some(Self::Rsa(2048))),
            ("rsa", 2048 | 3072 | 4096) => Ok(Some(Self::Rsa(bits))),
            ("rsa" | "ec" | "any", _) => Err(VaultError::field("key_bits", "256 or 384 of ec, 2048 to 4096 of rsa")),
            _ => Err(VaultError::field("key_type", "rsa, ec, ed25519 or any")),
        }
    }

    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Ec256 | Self::Ec384 => "ec",
            Self::Ed25519 => "ed25519",
            Self::Rsa(_) => "rsa",
        }
    }

    /// On a thread of its own. An RSA key takes a while: a few at once, and who would wait long is told.
    pub(super) async fn generate(self) -> Result<NewKey, VaultError> {
        let busy = || VaultError::Unavailable("BUSY");
        let _place = match self {
            Self::Rsa(_) => {
                let place = tokio::time::timeout(WAITED_FOR, PLACES.acquire()).await.map_err(|_| busy())?;
                Some(place.map_err(|_| busy())?)
            }
            Self::Ec256 | Self::Ec384 | Self::Ed25519 => None,
        };
        let made = tokio::task::spawn_blocking(move || self.make()).await;
        made.ok().and_then(Result::ok).ok_or_else(|| VaultError::Internal("no key was made".into()))
    }

    fn make(self) -> Result<NewKey, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        let (private, public) = match self {
            Self::Ec256 => ec(&aws::ECDSA_P256_SHA256_ASN1_SIGNING, &random)?,
            Self::Ec384 => ec(&aws::ECDSA_P384_SHA384_ASN1_SIGNING, &random)?,
            Self::Ed25519 => {
                let pair = Ed25519KeyPair::generate()?;
                let private: Pkcs8V1Der<'_> = pair.as_der()?;
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
                (Zeroizing::new(private.as_ref().to_vec()), public.as_ref().to_vec())
            }
            Self::Rsa(bits) => {
                let size = match bits {
                    4096 => KeySize::Rsa4096,
                    3072 => KeySize::Rsa3072,
                    _ => KeySize::Rsa2048,
                };
                let pair = aws_lc_rs::rsa::KeyPair::generate(size)?;
                let private: Pkcs8V1Der<'_> = pair.as_der()?;
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
                (Zeroizing::new(private.as_ref().to_vec()), public.as_ref().to_vec())
            }
        };
        Ok(NewKey { kind: self, private, public })
    }
}

type Pair = (Zeroizing<Vec<u8>>, Vec<u8>);

fn ec(curve: &'static EcdsaSigningAlgorithm, random: &SystemRandom) -> Result<Pair, aws_lc_rs::error::Unspecified> {
    let private = EcdsaKeyPair::generate_pkcs8(curve, random)?;
    let pair = EcdsaKeyPair::from_pkcs8(curve, private.as_ref()).map_err(|_| aws_lc_rs::error::Unspecified)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok((Zeroizing::new(private.as_ref().to_vec()), public.as_ref().to_vec()))
}

/// Of a type and size that certificates are made for. `None`: not one of them.
pub(super) fn kind_of(key: &SubjectPublicKeyInfoOwned) -> Option<LeafKind> {
    let curve = || key.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok();
    match key.algorithm.oid {
        EC if curve() == Some(P256) => Some(LeafKind::Ec256),
        EC if curve() == Some(P384) => Some(LeafKind::Ec384),
        ED25519 => Some(LeafKind::Ed25519),
        RSA => {
            let mut read = SliceReader::new(key.subject_public_key.raw_bytes()).ok()?;
            // RFC 8017 appendix A.1.1
            let found = read.sequence(|read| Ok((Uint::decode(read)?, Uint::decode(read)?))).ok()?;
            let modulus = found.0.as_bytes();
            let leading = modulus.first()?.leading_zeros();
            let bits = u32::try_from(modulus.len()).ok()?.checked_mul(8)?.checked_sub(leading)?;
            // a small even or tiny exponent is a key of no use
            let exponent = found.1.as_bytes();
            let sound = exponent.last().is_some_and(|last| last % 2 == 1) && exponent != [1] && exponent.len() <= 8;
            (sound && matches!(bits, 2048 | 3072 | 4096)).then_some(LeafKind::Rsa(bits))
        }
        _ => None,
    }
}

/// A request whose signature is of the key that it names (RFC 2986 §4.2): who asks has the key.
pub(super) fn verified(der: &[u8]) -> Result<(CertReq, LeafKind), VaultError> {
    let malformed = || VaultError::field("csr", "not a certificate request in PEM");
    let request = CertReq::from_der(der).map_err(|_| malformed())?;
    let key = &request.info.public_key;
    let kind = kind_of(key).ok_or_else(|| VaultError::field("csr", "a key of no type that is certified here"))?;
    let message = request.info.to_der().map_err(|_| malformed())?;
    let spki = key.to_der().map_err(|_| malformed())?;
    match is_signed(kind, request.algorithm.oid, &spki, (&message, request.signature.raw_bytes())) {
        true => Ok((request, kind)),
        false => Err(VaultError::field("csr", "its signature is not of its key")),
    }
}

/// By key in DER. A signature by an algorithm that is not of the key's type is none.
pub(super) fn is_signed(
    kind: LeafKind,
    algorithm: ObjectIdentifier,
    public_key: &[u8],
    (message, signature): (&[u8], &[u8]),
) -> bool {
    let scheme: &'static dyn VerificationAlgorithm = match (kind, algorithm) {
        (LeafKind::Ec256, ECDSA_SHA256) => &aws::ECDSA_P256_SHA256_ASN1,
        (LeafKind::Ec256, ECDSA_SHA384) => &aws::ECDSA_P256_SHA384_ASN1,
        (LeafKind::Ec384, ECDSA_SHA256) => &aws::ECDSA_P384_SHA256_ASN1,
        (LeafKind::Ec384, ECDSA_SHA384) => &aws::ECDSA_P384_SHA384_ASN1,
        (LeafKind::Ed25519, ED25519) => &aws::ED25519,
        (LeafKind::Rsa(_), RSA_SHA256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        (LeafKind::Rsa(_), RSA_SHA384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        (LeafKind::Rsa(_), RSA_SHA512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    UnparsedPublicKey::new(scheme, public_key).verify(message, signature).is_ok()
}

static PLACES: Semaphore = Semaphore::const_new(2);
const WAITED_FOR: Duration = Duration::from_secs(5);
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
