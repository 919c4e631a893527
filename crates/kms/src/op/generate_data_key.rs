//! GenerateDataKey, its form without plaintext, and its batch.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::KeyId;
use hsm_api::message::DATA_KEY_BYTES_MAX;
use identity::{Principal, RequestInfo};

/// Length of a data key: 1 to 1024 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataKeyBytes(u16);

impl DataKeyBytes {
    pub const AES_256: Self = Self(32);
    pub const AES_128: Self = Self(16);

    /// `number_of_bytes`.
    pub fn parse(number_of_bytes: u32) -> Result<Self, KmsError> {
        let len =
            u16::try_from(number_of_bytes).ok().filter(|len| (1..=DATA_KEY_BYTES_MAX).contains(&usize::from(*len)));
        len.map(Self).ok_or(KmsError::InvalidField("number_of_bytes"))
    }
}

#[derive(Debug, Clone)]
pub struct GenerateDataKey {
    pub key: KeyRef,
    pub length: DataKeyBytes,
    pub context: EncryptionContext,
}

#[derive(Debug)]
pub struct GeneratedDataKey {
    pub key_id: KeyId,
    pub key_version: u32,
    pub plaintext: SecretBytes,
    pub ciphertext_blob: Bytes,
}

#[derive(Debug, Clone)]
pub struct GenerateDataKeyWithoutPlaintext {
    pub key: KeyRef,
    pub length: DataKeyBytes,
    pub context: EncryptionContext,
}

#[derive(Debug, Clone)]
pub struct DataKeyWithoutPlaintext {
    pub key_id: KeyId,
    pub key_version: u32,
    pub ciphertext_blob: Bytes,
}

impl Kms {
    pub async fn generate_data_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: GenerateDataKey,
    ) -> Result<GeneratedDataKey, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn generate_data_key_without_plaintext(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: GenerateDataKeyWithoutPlaintext,
    ) -> Result<DataKeyWithoutPlaintext, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_generate_data_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<GenerateDataKey, KmsError>>,
    ) -> Result<Vec<Result<GeneratedDataKey, KmsError>>, KmsError> {
        let _ = (by, call, items);
        Err(KmsError::Internal("not built yet"))
    }
}
