//! DescribeKey and ListKeys.

use crate::error::KmsError;
use crate::key::{DeletionFinality, KeyState};
use crate::name::KeyRef;
use crate::op::mac::MacAlgorithm;
use crate::op::{Page, PageRequest};
use crate::service::Kms;
use envelope::Timestamp;
use hsm_api::{KeyId, KeySpec, KeyUsage, Origin, ProtectionLevel, SigningAlgorithm};
use identity::{Principal, RequestInfo};

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
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }

    /// In the order of key ids; 1 to 1000 in a page, 100 by default. Deleted keys are not listed.
    pub async fn list_keys(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<Page<KeyId>, KmsError> {
        let _ = (by, call, page);
        Err(KmsError::Internal("not built yet"))
    }
}
