//! RotateKeyOnDemand.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRotated {
    pub key_id: KeyId,
    /// The new version.
    pub key_version: u32,
}

impl Kms {
    pub async fn rotate_key_on_demand(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<KeyRotated, KmsError> {
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }
}
