//! GenerateDataKey, its form without plaintext, and its batch.

use crate::act::{Act, Right};
use crate::error::KmsError;
use crate::key_use::{ASK_BYTES, Admitted, Cost, KeyUse, SEALED_BYTES};
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::message::DATA_KEY_BYTES_MAX;
use hsm_api::{DataKey, DataKeyAsk, HsmError, KeyId, KeyToken, Reply, Request};
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
        self.use_key(by, call, command).await
    }

    pub async fn generate_data_key_without_plaintext(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: GenerateDataKeyWithoutPlaintext,
    ) -> Result<DataKeyWithoutPlaintext, KmsError> {
        self.use_key(by, call, command).await
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_generate_data_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<GenerateDataKey, KmsError>>,
    ) -> Result<Vec<Result<GeneratedDataKey, KmsError>>, KmsError> {
        self.use_keys("BatchGenerateDataKey", (by, call), items).await
    }
}

impl KeyUse for GenerateDataKey {
    type Ask = DataKeyAsk;
    type Got = DataKey;
    type Out = GeneratedDataKey;
    const OPERATION: &'static str = "GenerateDataKey";

    async fn admit(self, kms: &Kms, act: &mut Act<'_>) -> Result<Admitted<DataKeyAsk>, KmsError> {
        let Self { key, length, context } = self;
        let aad_digest = kms.bind(act, &context)?;
        let key = kms.admit_to_seal(act, &key, Right::GENERATE_DATA_KEY, &context).await?;
        Admitted::current(key, DataKeyAsk { aad_digest, bytes: length.0, plaintext: true })
    }

    fn cost(ask: &DataKeyAsk) -> Cost {
        cost(ask)
    }

    fn request(key: KeyToken, asks: Vec<DataKeyAsk>) -> Request {
        Request::GenerateDataKeys { key, asks }
    }

    fn replies(reply: Reply) -> Option<Vec<Result<DataKey, HsmError>>> {
        data_keys(reply)
    }

    fn out(key_id: KeyId, key_version: u32, got: DataKey) -> Result<GeneratedDataKey, HsmError> {
        let plaintext = got.plaintext.ok_or(HsmError::Protocol)?;
        Ok(GeneratedDataKey { key_id, key_version, plaintext, ciphertext_blob: got.blob })
    }
}

impl KeyUse for GenerateDataKeyWithoutPlaintext {
    type Ask = DataKeyAsk;
    type Got = DataKey;
    type Out = DataKeyWithoutPlaintext;
    const OPERATION: &'static str = "GenerateDataKeyWithoutPlaintext";

    async fn admit(self, kms: &Kms, act: &mut Act<'_>) -> Result<Admitted<DataKeyAsk>, KmsError> {
        let Self { key, length, context } = self;
        let aad_digest = kms.bind(act, &context)?;
        let right = Right::GENERATE_DATA_KEY_WITHOUT_PLAINTEXT;
        let key = kms.admit_to_seal(act, &key, right, &context).await?;
        Admitted::current(key, DataKeyAsk { aad_digest, bytes: length.0, plaintext: false })
    }

    fn cost(ask: &DataKeyAsk) -> Cost {
        cost(ask)
    }

    fn request(key: KeyToken, asks: Vec<DataKeyAsk>) -> Request {
        Request::GenerateDataKeys { key, asks }
    }

    fn replies(reply: Reply) -> Option<Vec<Result<DataKey, HsmError>>> {
        data_keys(reply)
    }

    fn out(key_id: KeyId, key_version: u32, got: DataKey) -> Result<DataKeyWithoutPlaintext, HsmError> {
        Ok(DataKeyWithoutPlaintext { key_id, key_version, ciphertext_blob: got.blob })
    }
}

fn cost(ask: &DataKeyAsk) -> Cost {
    Cost { request: ASK_BYTES, reply: SEALED_BYTES + 2 * usize::from(ask.bytes) }
}

fn data_keys(reply: Reply) -> Option<Vec<Result<DataKey, HsmError>>> {
    if let Reply::DataKeys(keys) = reply { Some(keys) } else { None }
}
