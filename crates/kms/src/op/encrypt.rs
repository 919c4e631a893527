//! Encrypt and its batch.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug)]
pub struct Encrypt {
    pub key: KeyRef,
    pub plaintext: SecretBytes,
    pub context: EncryptionContext,
}

#[derive(Debug, Clone)]
pub struct Encrypted {
    pub key_id: KeyId,
    pub key_version: u32,
    pub ciphertext_blob: Bytes,
}

impl Kms {
    pub async fn encrypt(&self, by: &Principal, call: &RequestInfo, command: Encrypt) -> Result<Encrypted, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_encrypt(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<Encrypt, KmsError>>,
    ) -> Result<Vec<Result<Encrypted, KmsError>>, KmsError> {
        let _ = (by, call, items);
        Err(KmsError::Internal("not built yet"))
    }
}
