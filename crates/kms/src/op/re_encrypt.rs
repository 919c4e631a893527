//! ReEncrypt: to another key, version or context; the plaintext stays inside the boundary.

use crate::act::{Act, Right};
use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use audit::Outcome;
use bytes::Bytes;
use envelope::EncryptionContext;
use hsm_api::{HsmError, KeyId, Reply, Request};
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
        let mut act = Act::new("ReEncrypt", by, call);
        match self.admit_both(&mut act, command).await {
            Ok((request, [source_key_id, key_id], key_version)) => {
                let take = |reply| if let Reply::Blob(blob) = reply { Ok(blob) } else { Err(HsmError::Protocol) };
                let ciphertext_blob = self.ask(&act, request, take).await?;
                Ok(ReEncrypted { ciphertext_blob, source_key_id, key_id, key_version })
            }
            Err(error) => self.refuse(&act, error).await,
        }
    }

    /// The record's path and context are the source's; its items name both keys, each with its context. Where the
    /// destination is refused, path and context are what it was refused for, and the source stands in the items, failed.
    async fn admit_both(&self, act: &mut Act<'_>, command: ReEncrypt) -> Result<(Request, [KeyId; 2], u32), KmsError> {
        let ReEncrypt { ciphertext_blob: blob, source_context, source_key, destination_key, destination_context } =
            command;
        let from_aad_digest = self.bind(act, &source_context)?;
        let (source, version) =
            self.admit_blob(act, &blob, source_key.as_ref(), Right::RE_ENCRYPT_FROM, &source_context).await?;
        let (from_path, from_rule, from_context) = (act.path.clone(), act.rule.clone(), act.context);
        act.with_key(&source.id, Outcome::Asked);
        let to_aad_digest = self.bind(act, &destination_context)?;
        let destination = self.admit_to_seal(act, &destination_key, Right::RE_ENCRYPT_TO, &destination_context).await?;
        act.with_key(&destination.id, Outcome::Asked);
        (act.path, act.context) = (from_path, from_context);
        if from_rule != act.rule {
            act.rule = format!("{from_rule}, {}", act.rule).into();
        }
        let from = source.version(version).ok_or(KmsError::InvalidCiphertext)?.token.clone();
        let (to_version, to) = destination.current().ok_or(KmsError::Internal("a usable key has a current version"))?;
        let request = Request::ReEncrypt { from, to: to.token.clone(), from_aad_digest, to_aad_digest, blob };
        Ok((request, [source.id, destination.id], to_version))
    }
}
