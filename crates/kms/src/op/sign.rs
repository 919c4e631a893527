//! Sign, Verify, GetPublicKey.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use hsm_api::{KeyId, KeySpec, KeyUsage, SigningAlgorithm};
use identity::{Principal, RequestInfo};

/// What `message` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MessageType {
    #[default]
    Raw,
    Digest,
}

#[derive(Debug, Clone)]
pub struct Sign {
    pub key: KeyRef,
    pub message: Bytes,
    pub message_type: MessageType,
    pub algorithm: SigningAlgorithm,
}

#[derive(Debug, Clone)]
pub struct Signed {
    pub key_id: KeyId,
    pub key_version: u32,
    pub signature: Bytes,
    pub algorithm: SigningAlgorithm,
}

#[derive(Debug, Clone)]
pub struct Verify {
    pub key: KeyRef,
    pub message: Bytes,
    pub message_type: MessageType,
    pub signature: Bytes,
    pub algorithm: SigningAlgorithm,
}

#[derive(Debug, Clone)]
pub struct Verified {
    pub key_id: KeyId,
    pub signature_valid: bool,
    pub algorithm: SigningAlgorithm,
}

#[derive(Debug, Clone)]
pub struct PublicKey {
    pub key_id: KeyId,
    pub key_version: u32,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Bytes,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub algorithms: &'static [SigningAlgorithm],
}

impl Kms {
    pub async fn sign(&self, by: &Principal, call: &RequestInfo, command: Sign) -> Result<Signed, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn verify(&self, by: &Principal, call: &RequestInfo, command: Verify) -> Result<Verified, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn public_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<PublicKey, KmsError> {
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }
}
