//! Signatures, public keys, MACs.

use super::Desk;
use crate::keys::Material;
use crate::module::{Fault, Stop};
use bytes::Bytes;
use ed25519_dalek::Signer;
use envelope::SecretBytes;
use getrandom::SysRng;
use hmac::Mac;
use hsm_api::message::ITEM_BYTES_MAX;
use hsm_api::{HsmError, KeyToken, KeyUsage, MessageToSign, Reply, SigningAlgorithm};
use p256::ecdsa::signature::hazmat::RandomizedPrehashSigner;
use rsa::traits::SignatureScheme;
use rsa::{Pkcs1v15Sign, PrivateKey as RsaPrivateKey, Pss};
use sha2::{Digest, Sha256, Sha384, Sha512};

impl Desk<'_> {
    pub(super) fn sign(
        &self,
        key: &KeyToken,
        algorithm: SigningAlgorithm,
        message: &MessageToSign,
    ) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::SignVerify])?;
        if !key.binding.spec.signing_algorithms().contains(&algorithm) {
            return Err(HsmError::UsageForbidden.into());
        }
        let input = to_be_signed(algorithm, message)?;
        let signature = match &key.material {
            Material::P256(key) => {
                // hedged: RFC 6979 §3.6, so that a fault in one computation tells nothing of the key
                let signature: p256::ecdsa::DerSignature =
                    key.sign_prehash_with_rng(&mut SysRng, &input).map_err(|_| Stop::Fail(Fault::Entropy))?;
                Bytes::copy_from_slice(signature.as_bytes())
            }
            Material::Ed25519(key) => Bytes::copy_from_slice(&key.sign(&input).to_bytes()),
            Material::Rsa(key) => sign_rsa(key, algorithm, &input)?,
            Material::Sealing(_) | Material::Mac(_) => return Err(HsmError::UsageForbidden.into()),
        };
        key.count(1);
        Ok(Reply::Signature(signature))
    }

    /// Of any key that has one: it is no use of the key, so it outlives its not-after.
    pub(super) fn public_key(&self, token: &KeyToken) -> Result<Reply, Stop> {
        let module = self.module;
        let usages = [KeyUsage::SignVerify, KeyUsage::Log];
        let key = module.keyring.open(&module.root, &module.domain_id, token, &usages)?;
        let public_key = key.material.public_key().ok_or(HsmError::UsageForbidden)?;
        Ok(Reply::PublicKey(public_key.into()))
    }

    pub(super) fn mac(&self, key: &KeyToken, message: &SecretBytes) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::GenerateVerifyMac])?;
        if !(1..=ITEM_BYTES_MAX).contains(&message.len()) {
            return Err(HsmError::OutOfRange.into());
        }
        let Material::Mac(keyed) = &key.material else { return Err(HsmError::UsageForbidden.into()) };
        let mut mac = keyed.clone();
        mac.update(message.expose());
        key.count(1);
        Ok(Reply::Mac(mac.finalize().into_bytes().into()))
    }
}

/// The digest that the scheme signs, or for Ed25519 the message itself.
fn to_be_signed(algorithm: SigningAlgorithm, message: &MessageToSign) -> Result<Vec<u8>, HsmError> {
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

fn sign_rsa(key: &RsaPrivateKey, algorithm: SigningAlgorithm, digest: &[u8]) -> Result<Bytes, Stop> {
    // salt as long as the digest (FIPS 186-5 §5.4.g allows no more)
    match algorithm {
        SigningAlgorithm::RsassaPssSha256 => blinded(key, Pss::<Sha256>::new_with_salt(32), digest),
        SigningAlgorithm::RsassaPssSha384 => blinded(key, Pss::<Sha384>::new_with_salt(48), digest),
        SigningAlgorithm::RsassaPssSha512 => blinded(key, Pss::<Sha512>::new_with_salt(64), digest),
        SigningAlgorithm::RsassaPkcs1V15Sha256 => blinded(key, Pkcs1v15Sign::new::<Sha256>(), digest),
        SigningAlgorithm::RsassaPkcs1V15Sha384 => blinded(key, Pkcs1v15Sign::new::<Sha384>(), digest),
        SigningAlgorithm::RsassaPkcs1V15Sha512 => blinded(key, Pkcs1v15Sign::new::<Sha512>(), digest),
        SigningAlgorithm::EcdsaSha256 | SigningAlgorithm::Ed25519Sha512 => Err(HsmError::UsageForbidden.into()),
    }
}

/// With base blinding: timing tells nothing of the key.
fn blinded(key: &RsaPrivateKey, scheme: impl SignatureScheme, digest: &[u8]) -> Result<Bytes, Stop> {
    key.sign_with_rng(&mut SysRng, scheme, digest).map(Bytes::from).map_err(|_| Stop::Fail(Fault::Entropy))
}

/// Longest message that is hashed inside, as AWS KMS has it; longer ones come as digests.
const RAW_BYTES_MAX: usize = 4096;
