//! ReEncrypt: to another key, version or context; the plaintext stays inside the boundary.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::EncryptionContext;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct ReEncrypt {
    pub ciphertext_blob: Bytes,
    pub source_context: EncryptionContext,
    /// Where set, a blob of another key is refused.
    pub source_key: Option<KeyRef>,
    pub destination_key: KeyRef,
    pub destination_context: EncryptionContext,
}

#[derive(Debug, Clone)]
pub struct ReEncrypted {
    pub ciphertext_blob: Bytes,
    pub source_key_id: KeyId,
    pub key_id: KeyId,
    pub key_version: u32,
}

impl Kms {
    pub async fn re_encrypt(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ReEncrypt,
    ) -> Result<ReEncrypted, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }
}
