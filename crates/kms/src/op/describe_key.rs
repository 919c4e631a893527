//! DescribeKey and ListKeys.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::{DeletionFinality, KeyRecord, KeyState};
use crate::name::KeyRef;
use crate::op::mac::MacAlgorithm;
use crate::op::{Page, PageRequest};
use crate::service::Kms;
use crate::store::codec;
use envelope::Timestamp;
use hsm_api::{KeyId, KeySpec, KeyUsage, Origin, ProtectionLevel, SigningAlgorithm};
use identity::{Capability, Principal, RequestInfo};

/// All that is public about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMetadata {
    pub key_id: KeyId,
    /// Holds the deletion date, where there is one.
    pub state: KeyState,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub level: ProtectionLevel,
    pub origin: Origin,
    pub description: String,
    pub created: Timestamp,
    pub current_version: u32,
    /// The oldest first.
    pub versions: Vec<KeyVersionMetadata>,
    pub signing_algorithms: &'static [SigningAlgorithm],
    pub mac_algorithms: &'static [MacAlgorithm],
    pub deletion_finality: Option<DeletionFinality>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyVersionMetadata {
    pub number: u32,
    pub created: Timestamp,
}

impl Kms {
    pub async fn describe_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<KeyMetadata, KmsError> {
        let mut act = Act::new("DescribeKey", by, call);
        let ended = self.describe(&mut act, key).await;
        self.finish(&act, ended).await
    }

    /// In the order of key ids; 1 to 1000 in a page, 100 by default. Deleted keys are not listed.
    pub async fn list_keys(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<Page<KeyId>, KmsError> {
        let mut act = Act::new("ListKeys", by, call);
        let ended = self.list_ids(&mut act, page).await;
        self.finish(&act, ended).await
    }

    async fn describe(&self, act: &mut Act<'_>, key: &KeyRef) -> Result<(KeyMetadata, Told), KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, Right::DESCRIBE, None).await?;
        let key = self.store().key(&id).await?.ok_or(KmsError::KeyNotFound)?;
        Ok((KeyMetadata::of(&key), Told::NotYet))
    }

    async fn list_ids(&self, act: &mut Act<'_>, page: &PageRequest) -> Result<(Page<KeyId>, Told), KmsError> {
        self.authorise_path(act, "kms/keys", Capability::List)?;
        let prefix = self.store().keys_path()?;
        let paging = self.store().paging(&prefix, page, (100, 1000), |marker| KeyId::parse(marker).is_ok())?;
        let page = self.store().page(&prefix, &paging, |tenant, bytes| {
            let key = codec::decode_key(tenant, bytes)?;
            Some((!matches!(key.state, KeyState::Deleted { .. })).then_some(key.id))
        });
        Ok((page.await?, Told::NotYet))
    }
}

impl KeyMetadata {
    pub(crate) fn of(key: &KeyRecord) -> Self {
        let versions = key.versions.iter();
        Self {
            key_id: key.id,
            state: key.state,
            spec: key.spec,
            usage: key.usage,
            level: key.level,
            origin: key.origin,
            description: key.description.as_str().to_owned(),
            created: key.created,
            current_version: key.versions.last().map_or(0, |version| version.number),
            versions: versions.map(|v| KeyVersionMetadata { number: v.number, created: v.created }).collect(),
            signing_algorithms: key.spec.signing_algorithms(),
            mac_algorithms: match key.usage {
                KeyUsage::GenerateVerifyMac => &[MacAlgorithm::HmacSha256],
                KeyUsage::EncryptDecrypt | KeyUsage::SignVerify | KeyUsage::Log | KeyUsage::SystemSeal => &[],
            },
            deletion_finality: key.finality(),
        }
    }
}
