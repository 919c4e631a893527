//! Sign, Verify, GetPublicKey.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::KeyRecord;
use crate::name::KeyRef;
use crate::op::version::{AtVersion, no_version};
use crate::service::Kms;
use crate::sweep::system_record;
use crate::{BLOB_BYTES_MAX, PLAINTEXT_BYTES_MAX};
use audit::{Outcome, Record};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use bytes::Bytes;
use envelope::Timestamp;
use hsm_api::{HsmError, KeyId, KeySpec, KeyUsage, MessageToSign, Reply, Request, SigningAlgorithm};
use identity::{Principal, RequestInfo};
use std::sync::Arc;

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
        self.sign_at(by, call, AtVersion { command, version: None }).await
    }

    pub(crate) async fn sign_at(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: AtVersion<Sign>,
    ) -> Result<Signed, KmsError> {
        let mut act = Act::new("Sign", by, call);
        let AtVersion { command: Sign { key, message, message_type, algorithm }, version } = command;
        let admitted = self.admit_message(&mut act, &key, Right::SIGN, (&message, message_type, algorithm)).await;
        let admitted = admitted.and_then(|key| {
            let (version, material) = key.at(version).ok_or(no_version(version))?;
            Ok((key.id, version, material.token.clone()))
        });
        match admitted {
            Ok((key_id, key_version, key)) => {
                let message = match message_type {
                    MessageType::Raw => MessageToSign::Raw(message),
                    MessageType::Digest => MessageToSign::Digest(message),
                };
                let take = |reply| {
                    let signature = if let Reply::Signature(signature) = reply { Some(signature) } else { None };
                    signature.ok_or(HsmError::Protocol)
                };
                let signature = self.ask(&act, Request::Sign { key, algorithm, message }, take).await?;
                Ok(Signed { key_id, key_version, signature, algorithm })
            }
            Err(error) => self.refuse(&act, error).await,
        }
    }

    /// For a domain that signs anew by itself what does not last: a digest, by the current version. The record's subject is the
    /// system.
    pub async fn sign_by_itself(
        &self,
        operation: &'static str,
        id: &KeyId,
        (digest, algorithm): (Bytes, SigningAlgorithm),
        now: Timestamp,
    ) -> Result<Bytes, KmsError> {
        let path = format!("kms/keys/{id}{}", Right::SIGN.suffix);
        let record = system_record(now, operation, &path);
        let seams = &self.inner.seams;
        let signed = async {
            let key = self.store().key(id).await?.ok_or(KmsError::KeyNotFound)?;
            key.usable_for(KeyUsage::SignVerify)?;
            if !key.spec.signing_algorithms().contains(&algorithm) {
                return Err(KmsError::UnsupportedAlgorithm);
            }
            if algorithm.digest_bytes() != Some(digest.len()) {
                return Err(KmsError::InvalidField("message"));
            }
            let (_, material) = key.current().ok_or(KmsError::Internal(NO_CURRENT))?;
            let (key, message) = (material.token.clone(), MessageToSign::Digest(digest));
            let pending = seams.boundary.submit(Request::Sign { key, algorithm, message });
            seams.audit.append(Record { outcome: Outcome::Asked, ..record.clone() }.encode()).await?;
            match pending.await {
                Ok(Reply::Signature(signature)) => Ok(signature),
                Ok(_) => Err(self.boundary_error(HsmError::Protocol)),
                Err(error) => Err(self.boundary_error(error)),
            }
        };
        let signed = signed.await;
        if let Err(error) = &signed {
            let failed = Record { outcome: Outcome::Failed(error.reason().into()), ..record };
            seams.audit.append(failed.encode()).await?;
        }
        signed
    }

    /// By the public key alone: the boundary is not asked.
    pub async fn verify(&self, by: &Principal, call: &RequestInfo, command: Verify) -> Result<Verified, KmsError> {
        self.verify_at(by, call, AtVersion { command, version: None }).await
    }

    pub(crate) async fn verify_at(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: AtVersion<Verify>,
    ) -> Result<Verified, KmsError> {
        let mut act = Act::new("Verify", by, call);
        let ended = self.check_signature(&mut act, &command).await.map(|verified| (verified, Told::NotYet));
        self.finish(&act, ended).await
    }

    pub async fn public_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<PublicKey, KmsError> {
        let mut act = Act::new("GetPublicKey", by, call);
        let ended = self.admit(&mut act, key, Right::PUBLIC_KEY, KeyUsage::SignVerify, None).await.and_then(|key| {
            let (key_version, material) = key.current().ok_or(KmsError::Internal(NO_CURRENT))?;
            let public_key = PublicKey {
                key_id: key.id,
                key_version,
                public_key: material.public_key.clone(),
                spec: key.spec,
                usage: key.usage,
                algorithms: key.spec.signing_algorithms(),
            };
            Ok((public_key, Told::NotYet))
        });
        self.finish(&act, ended).await
    }

    async fn check_signature(&self, act: &mut Act<'_>, command: &AtVersion<Verify>) -> Result<Verified, KmsError> {
        let AtVersion { command: Verify { key, message, message_type, signature, algorithm }, version } = command;
        if !(1..=BLOB_BYTES_MAX).contains(&signature.len()) {
            return Err(KmsError::InvalidField("signature"));
        }
        let key = self.admit_message(act, key, Right::VERIFY, (message, *message_type, *algorithm)).await?;
        let (_, material) = key.at(*version).ok_or(no_version(*version))?;
        let signature_valid = is_signature(*algorithm, &material.public_key, (message, *message_type), signature);
        Ok(Verified { key_id: key.id, signature_valid, algorithm: *algorithm })
    }

    async fn admit_message(
        &self,
        act: &mut Act<'_>,
        key: &KeyRef,
        right: Right<'_>,
        (message, message_type, algorithm): (&Bytes, MessageType, SigningAlgorithm),
    ) -> Result<Arc<KeyRecord>, KmsError> {
        let fits = match (message_type, algorithm.digest_bytes()) {
            (MessageType::Raw, _) => (1..=PLAINTEXT_BYTES_MAX).contains(&message.len()),
            (MessageType::Digest, Some(len)) => message.len() == len,
            (MessageType::Digest, None) => return Err(KmsError::InvalidField("message_type")),
        };
        if !fits {
            return Err(KmsError::InvalidField("message"));
        }
        let key = self.admit(act, key, right, KeyUsage::SignVerify, None).await?;
        if key.spec.signing_algorithms().contains(&algorithm) { Ok(key) } else { Err(KmsError::UnsupportedAlgorithm) }
    }
}

/// Whether `signature` is one of `public_key`'s over the message. Whatever is malformed is not valid.
fn is_signature(
    algorithm: SigningAlgorithm,
    public_key: &[u8],
    (message, message_type): (&[u8], MessageType),
    signature: &[u8],
) -> bool {
    let (scheme, hash): (&'static dyn VerificationAlgorithm, _) = match algorithm {
        SigningAlgorithm::RsassaPssSha256 => (&aws::RSA_PSS_2048_8192_SHA256, &digest::SHA256),
        SigningAlgorithm::RsassaPssSha384 => (&aws::RSA_PSS_2048_8192_SHA384, &digest::SHA384),
        SigningAlgorithm::RsassaPssSha512 => (&aws::RSA_PSS_2048_8192_SHA512, &digest::SHA512),
        SigningAlgorithm::RsassaPkcs1V15Sha256 => (&aws::RSA_PKCS1_2048_8192_SHA256, &digest::SHA256),
        SigningAlgorithm::RsassaPkcs1V15Sha384 => (&aws::RSA_PKCS1_2048_8192_SHA384, &digest::SHA384),
        SigningAlgorithm::RsassaPkcs1V15Sha512 => (&aws::RSA_PKCS1_2048_8192_SHA512, &digest::SHA512),
        SigningAlgorithm::EcdsaSha256 => (&aws::ECDSA_P256_SHA256_ASN1, &digest::SHA256),
        SigningAlgorithm::Ed25519Sha512 => (&aws::ED25519, &digest::SHA512),
    };
    let public_key = UnparsedPublicKey::new(scheme, public_key);
    match message_type {
        MessageType::Raw => public_key.verify(message, signature).is_ok(),
        MessageType::Digest => Digest::import_less_safe(message, hash)
            .is_ok_and(|digest| public_key.verify_digest(&digest, signature).is_ok()),
    }
}

const NO_CURRENT: &str = "a usable key has a current version";
