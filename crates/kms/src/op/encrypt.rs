//! Encrypt and its batch.

use crate::PLAINTEXT_BYTES_MAX;
use crate::act::{Act, Right};
use crate::error::KmsError;
use crate::key_use::{ASK_BYTES, Admitted, Cost, KeyUse, SEALED_BYTES};
use crate::name::KeyRef;
use crate::service::Kms;
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::{HsmError, KeyId, KeyToken, Reply, Request, SealAsk};
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
        self.use_key(by, call, command).await
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_encrypt(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<Encrypt, KmsError>>,
    ) -> Result<Vec<Result<Encrypted, KmsError>>, KmsError> {
        self.use_keys("BatchEncrypt", (by, call), items).await
    }
}

impl KeyUse for Encrypt {
    type Ask = SealAsk;
    type Got = Bytes;
    type Out = Encrypted;
    const OPERATION: &'static str = "Encrypt";

    async fn admit(self, kms: &Kms, act: &mut Act<'_>) -> Result<Admitted<SealAsk>, KmsError> {
        let Self { key, plaintext, context } = self;
        if !(1..=PLAINTEXT_BYTES_MAX).contains(&plaintext.len()) {
            return Err(KmsError::InvalidField("plaintext"));
        }
        let aad_digest = kms.bind(act, &context)?;
        let key = kms.admit_to_seal(act, &key, Right::ENCRYPT, &context).await?;
        Admitted::current(key, SealAsk { aad_digest, plaintext })
    }

    fn cost(ask: &SealAsk) -> Cost {
        Cost { request: ASK_BYTES + ask.plaintext.len(), reply: SEALED_BYTES + ask.plaintext.len() }
    }

    fn request(key: KeyToken, asks: Vec<SealAsk>) -> Request {
        Request::Encrypt { key, asks }
    }

    fn replies(reply: Reply) -> Option<Vec<Result<Bytes, HsmError>>> {
        if let Reply::Blobs(blobs) = reply { Some(blobs) } else { None }
    }

    fn out(key_id: KeyId, key_version: u32, ciphertext_blob: Bytes) -> Result<Encrypted, HsmError> {
        Ok(Encrypted { key_id, key_version, ciphertext_blob })
    }
}
