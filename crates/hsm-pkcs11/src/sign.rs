//! Signatures: the digest is made here, the token signs it.
//!
//! Many tokens have no mechanism that hashes and signs (SoftHSM has no ECDSA_SHA256), so none is relied upon.

use crate::der;
use crate::device::Link;
use crate::error::Fault;
use crate::resident::eddsa;
use bytes::Bytes;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use hsm_api::{HsmError, MessageToSign, SigningAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The digest that the scheme signs, or for Ed25519 the message itself.
pub(crate) fn to_be_signed(algorithm: SigningAlgorithm, message: &MessageToSign) -> Result<Vec<u8>, HsmError> {
    match (message, algorithm.digest_bytes()) {
        (MessageToSign::Raw(message), _) if !(1..=RAW_BYTES_MAX).contains(&message.len()) => Err(HsmError::OutOfRange),
        (MessageToSign::Raw(message), None) => Ok(message.to_vec()),
        (MessageToSign::Raw(message), Some(32)) => Ok(Sha256::digest(message).to_vec()),
        (MessageToSign::Raw(message), Some(48)) => Ok(Sha384::digest(message).to_vec()),
        (MessageToSign::Raw(message), Some(_)) => Ok(Sha512::digest(message).to_vec()),
        (MessageToSign::Digest(_), None) => Err(HsmError::Unsupported),
        (MessageToSign::Digest(digest), Some(len)) if digest.len() == len => Ok(digest.to_vec()),
        (MessageToSign::Digest(_), Some(_)) => Err(HsmError::OutOfRange),
    }
}

/// Signs a digest (for Ed25519: the message).
pub(crate) fn sign(
    link: &mut Link<'_>,
    algorithm: SigningAlgorithm,
    key: ObjectHandle,
    input: &[u8],
) -> Result<Bytes, Fault> {
    let (mechanism, input) = prepared(algorithm, input)?;
    let signature = link.sign(&mechanism, key, &input)?;
    let signature = match algorithm {
        SigningAlgorithm::EcdsaSha256 => der::ecdsa(&signature),
        SigningAlgorithm::Ed25519Sha512 => Some(signature).filter(|signature| signature.len() == 64),
        SigningAlgorithm::RsassaPssSha256
        | SigningAlgorithm::RsassaPssSha384
        | SigningAlgorithm::RsassaPssSha512
        | SigningAlgorithm::RsassaPkcs1V15Sha256
        | SigningAlgorithm::RsassaPkcs1V15Sha384
        | SigningAlgorithm::RsassaPkcs1V15Sha512 => Some(signature).filter(|signature| signature.len() >= 256),
    };
    Ok(signature.ok_or(Fault::Dead)?.into())
}

/// Asks the token itself; only the probe does. ECDSA is proven by the key's consistency already.
pub(crate) fn verifies(
    link: &mut Link<'_>,
    algorithm: SigningAlgorithm,
    public: ObjectHandle,
    input: &[u8],
    signature: &[u8],
) -> Result<bool, Fault> {
    if algorithm == SigningAlgorithm::EcdsaSha256 {
        return Ok(true);
    }
    let (mechanism, input) = prepared(algorithm, input)?;
    link.call(|session| session.verify(&mechanism, public, &input, signature)).map(|()| true)
}

/// Mechanism and input as the token wants them.
fn prepared(algorithm: SigningAlgorithm, input: &[u8]) -> Result<(Mechanism<'static>, Vec<u8>), Fault> {
    Ok(match algorithm {
        SigningAlgorithm::EcdsaSha256 => (Mechanism::Ecdsa, input.to_vec()),
        SigningAlgorithm::Ed25519Sha512 => (eddsa(), input.to_vec()),
        SigningAlgorithm::RsassaPssSha256 => (pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32), input.to_vec()),
        SigningAlgorithm::RsassaPssSha384 => (pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48), input.to_vec()),
        SigningAlgorithm::RsassaPssSha512 => (pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64), input.to_vec()),
        SigningAlgorithm::RsassaPkcs1V15Sha256
        | SigningAlgorithm::RsassaPkcs1V15Sha384
        | SigningAlgorithm::RsassaPkcs1V15Sha512 => {
            (Mechanism::RsaPkcs, der::digest_info(input).ok_or(HsmError::OutOfRange)?)
        }
    })
}

/// Salt as long as the digest (FIPS 186-5 §5.4.g allows no more).
fn pss(hash_alg: MechanismType, mgf: PkcsMgfType, salt_bytes: u64) -> Mechanism<'static> {
    Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len: salt_bytes.into() })
}

/// Longest message that is hashed here, as AWS KMS has it; longer ones come as digests.
const RAW_BYTES_MAX: usize = 4096;
