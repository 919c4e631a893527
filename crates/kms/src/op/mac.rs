//! GenerateMac, VerifyMac.

use crate::act::{Act, Right};
use crate::error::KmsError;
use crate::name::KeyRef;
use crate::op::version::{AtVersion, no_version};
use crate::service::Kms;
use crate::{BLOB_BYTES_MAX, PLAINTEXT_BYTES_MAX};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::{HsmError, KeyId, KeyUsage, Reply, Request};
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacAlgorithm {
    HmacSha256,
}

#[derive(Debug)]
pub struct GenerateMac {
    pub key: KeyRef,
    pub message: SecretBytes,
    pub algorithm: MacAlgorithm,
}

#[derive(Debug, Clone)]
pub struct GeneratedMac {
    pub key_id: KeyId,
    pub key_version: u32,
    pub mac: [u8; 32],
    pub algorithm: MacAlgorithm,
}

#[derive(Debug)]
pub struct VerifyMac {
    pub key: KeyRef,
    pub message: SecretBytes,
    pub algorithm: MacAlgorithm,
    pub mac: Bytes,
}

#[derive(Debug, Clone)]
pub struct MacVerified {
    pub key_id: KeyId,
    pub mac_valid: bool,
    pub algorithm: MacAlgorithm,
}

impl Kms {
    pub async fn generate_mac(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: GenerateMac,
    ) -> Result<GeneratedMac, KmsError> {
        self.generate_mac_at(by, call, AtVersion { command, version: None }).await
    }

    pub(crate) async fn generate_mac_at(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: AtVersion<GenerateMac>,
    ) -> Result<GeneratedMac, KmsError> {
        let AtVersion { command: GenerateMac { key, message, algorithm }, version } = command;
        let act = Act::new("GenerateMac", by, call);
        let (key_id, key_version, mac) = self.mac(act, (&key, version), Right::GENERATE_MAC, message, Ok(())).await?;
        Ok(GeneratedMac { key_id, key_version, mac, algorithm })
    }

    /// Compared in constant time; the code is made inside the boundary.
    pub async fn verify_mac(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: VerifyMac,
    ) -> Result<MacVerified, KmsError> {
        self.verify_mac_at(by, call, AtVersion { command, version: None }).await
    }

    pub(crate) async fn verify_mac_at(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: AtVersion<VerifyMac>,
    ) -> Result<MacVerified, KmsError> {
        let AtVersion { command: VerifyMac { key, message, algorithm, mac: given }, version } = command;
        let sound =
            if (1..=BLOB_BYTES_MAX).contains(&given.len()) { Ok(()) } else { Err(KmsError::InvalidField("mac")) };
        let act = Act::new("VerifyMac", by, call);
        let (key_id, _, mac) = self.mac(act, (&key, version), Right::VERIFY_MAC, message, sound).await?;
        Ok(MacVerified { key_id, mac_valid: envelope::mac::equal(&mac, &given), algorithm })
    }

    async fn mac(
        &self,
        mut act: Act<'_>,
        (key, version): (&KeyRef, Option<u32>),
        right: Right<'_>,
        message: SecretBytes,
        sound: Result<(), KmsError>,
    ) -> Result<(KeyId, u32, [u8; 32]), KmsError> {
        let admitted = async {
            if !(1..=PLAINTEXT_BYTES_MAX).contains(&message.len()) {
                return Err(KmsError::InvalidField("message"));
            }
            sound?;
            let key = self.admit(&mut act, key, right, KeyUsage::GenerateVerifyMac, None).await?;
            let (version, material) = key.at(version).ok_or(no_version(version))?;
            Ok((key.id, version, material.token.clone()))
        };
        match admitted.await {
            Ok((key_id, version, key)) => {
                let take = |reply| {
                    if let Reply::Mac(mac) = reply { Ok((key_id, version, mac)) } else { Err(HsmError::Protocol) }
                };
                self.ask(&act, Request::Mac { key, message }, take).await
            }
            Err(error) => self.refuse(&act, error).await,
        }
    }
}
