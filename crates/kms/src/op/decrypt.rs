//! Decrypt and its batch. The blob says which key and version it belongs to.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct Decrypt {
    pub ciphertext_blob: Bytes,
    pub context: EncryptionContext,
    /// Where set, a blob of another key is refused.
    pub key: Option<KeyRef>,
}

#[derive(Debug)]
pub struct Decrypted {
    pub key_id: KeyId,
    pub key_version: u32,
    pub plaintext: SecretBytes,
}

impl Kms {
    pub async fn decrypt(&self, by: &Principal, call: &RequestInfo, command: Decrypt) -> Result<Decrypted, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_decrypt(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<Decrypt, KmsError>>,
    ) -> Result<Vec<Result<Decrypted, KmsError>>, KmsError> {
        let _ = (by, call, items);
        Err(KmsError::Internal("not built yet"))
    }
}
