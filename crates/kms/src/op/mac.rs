//! GenerateMac, VerifyMac.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::KeyId;
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
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn verify_mac(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: VerifyMac,
    ) -> Result<MacVerified, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }
}
