//! Decrypt and its batch. The blob says which key and version it belongs to.

use crate::BLOB_BYTES_MAX;
use crate::act::{Act, Right};
use crate::error::KmsError;
use crate::key::KeyRecord;
use crate::key_use::{ASK_BYTES, Admitted, Cost, KeyUse};
use crate::name::KeyRef;
use crate::service::{Kms, may_see_alias};
use bytes::Bytes;
use envelope::{EncryptionContext, SecretBytes};
use hsm_api::{HsmError, KeyId, KeyToken, KeyUsage, OpenAsk, Reply, Request};
use identity::{Principal, RequestInfo};
use std::sync::Arc;

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
        self.use_key(by, call, command).await
    }

    /// An item that the façade could not read comes as its error, and goes back as it.
    pub async fn batch_decrypt(
        &self,
        by: &Principal,
        call: &RequestInfo,
        items: Vec<Result<Decrypt, KmsError>>,
    ) -> Result<Vec<Result<Decrypted, KmsError>>, KmsError> {
        self.use_keys("BatchDecrypt", (by, call), items).await
    }

    /// The key and version that a blob belongs to, for whom `right` allows that. Authorised on the blob's own key before
    /// anything else is compared, so that a blob is no oracle: to who may not use its key, every blob is forbidden; to
    /// who may, a key or version that is unknown is a blob that does not open.
    pub(crate) async fn admit_blob(
        &self,
        act: &mut Act<'_>,
        blob: &[u8],
        named: Option<&KeyRef>,
        right: Right<'_>,
        context: &EncryptionContext,
    ) -> Result<(Arc<KeyRecord>, u32), KmsError> {
        if !(1..=BLOB_BYTES_MAX).contains(&blob.len()) {
            return Err(KmsError::InvalidField("ciphertext_blob"));
        }
        let header = envelope::sealed::parse_blob(blob).map_err(|_| KmsError::InvalidCiphertext)?.header;
        let id = KeyId::from_bytes(header.key_id);
        self.authorise(act, &id, right, Some(context)).await?;
        match named {
            None => {}
            Some(KeyRef::Id(named)) if *named == id => {}
            Some(KeyRef::Id(_)) => return Err(KmsError::IncorrectKey),
            Some(KeyRef::Alias(name)) => match self.store().alias(name).await? {
                Some(target) if target == id => {}
                // who may not see the alias does not learn whether it exists
                None if may_see_alias(act.by, name) => return Err(KmsError::AliasNotFound),
                Some(_) | None => return Err(KmsError::IncorrectKey),
            },
        }
        let key = self.store().key(&id).await?.ok_or(KmsError::InvalidCiphertext)?;
        key.usable_for(KeyUsage::EncryptDecrypt)?;
        key.version(header.key_version).ok_or(KmsError::InvalidCiphertext)?;
        Ok((key, header.key_version))
    }
}

impl KeyUse for Decrypt {
    type Ask = OpenAsk;
    type Got = SecretBytes;
    type Out = Decrypted;
    const OPERATION: &'static str = "Decrypt";

    async fn admit(self, kms: &Kms, act: &mut Act<'_>) -> Result<Admitted<OpenAsk>, KmsError> {
        let Self { ciphertext_blob: blob, context, key } = self;
        let aad_digest = kms.bind(act, &context)?;
        let (key, version) = kms.admit_blob(act, &blob, key.as_ref(), Right::DECRYPT, &context).await?;
        Ok(Admitted { key, version, ask: OpenAsk { aad_digest, blob } })
    }

    fn cost(ask: &OpenAsk) -> Cost {
        Cost { request: ASK_BYTES + ask.blob.len(), reply: 16 + ask.blob.len() }
    }

    fn request(key: KeyToken, asks: Vec<OpenAsk>) -> Request {
        Request::Decrypt { key, asks }
    }

    fn replies(reply: Reply) -> Option<Vec<Result<SecretBytes, HsmError>>> {
        if let Reply::Plaintexts(plaintexts) = reply { Some(plaintexts) } else { None }
    }

    fn out(key_id: KeyId, key_version: u32, plaintext: SecretBytes) -> Result<Decrypted, HsmError> {
        Ok(Decrypted { key_id, key_version, plaintext })
    }
}
