//! Signatures, public keys, MACs.

use super::Desk;
use crate::error::Fault;
use crate::sign;
use cryptoki::mechanism::Mechanism;
use envelope::SecretBytes;
use hsm_api::message::ITEM_BYTES_MAX;
use hsm_api::{HsmError, KeyToken, KeyUsage, MessageToSign, Reply, SigningAlgorithm};

impl Desk<'_> {
    pub(super) fn sign(
        &self,
        key: &KeyToken,
        algorithm: SigningAlgorithm,
        message: &MessageToSign,
    ) -> Result<Reply, HsmError> {
        let (key, signature) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::SignVerify])?;
            if !key.binding.spec.signing_algorithms().contains(&algorithm) {
                return Err(HsmError::UsageForbidden.into());
            }
            let input = sign::to_be_signed(algorithm, message)?;
            if !self.proven.algorithms.contains(&algorithm) {
                return Err(HsmError::Unsupported.into());
            }
            let handle = key.resident.locate(link)?.handle;
            let signature = sign::sign(link, algorithm, handle, &input)?;
            Ok((key, signature))
        })?;
        key.count(1);
        Ok(Reply::Signature(signature))
    }

    /// Of any key that has one: it is no use of the key, so it outlives its not-after.
    pub(super) fn public_key(&self, token: &KeyToken) -> Result<Reply, HsmError> {
        let usages = [KeyUsage::SignVerify, KeyUsage::Log];
        let spki = self.device.run(|link| {
            let key = self.module.keyring.open(link, &self.module.domain, token, &usages)?;
            Ok(key.resident.locate(link)?.spki)
        })?;
        if spki.is_empty() { Err(HsmError::UsageForbidden) } else { Ok(Reply::PublicKey(spki)) }
    }

    pub(super) fn mac(&self, key: &KeyToken, message: &SecretBytes) -> Result<Reply, HsmError> {
        let (key, mac) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::GenerateVerifyMac])?;
            if !(1..=ITEM_BYTES_MAX).contains(&message.len()) {
                return Err(HsmError::OutOfRange.into());
            }
            let handle = key.resident.locate(link)?.handle;
            let mac = link.sign(&Mechanism::Sha256Hmac, handle, message.expose())?;
            Ok((key, <[u8; 32]>::try_from(mac).map_err(|_| Fault::Dead)?))
        })?;
        key.count(1);
        Ok(Reply::Mac(mac))
    }
}
