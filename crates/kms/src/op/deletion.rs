//! ScheduleKeyDeletion and CancelKeyDeletion.

use crate::error::KmsError;
use crate::key::KeyState;
use crate::name::KeyRef;
use crate::service::Kms;
use envelope::Timestamp;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct ScheduleKeyDeletion {
    pub key: KeyRef,
    /// 7 to 30; 0 is 30.
    pub pending_window_in_days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletionScheduled {
    pub key_id: KeyId,
    pub deletion_date: Timestamp,
    pub state: KeyState,
    pub pending_window_in_days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletionCancelled {
    pub key_id: KeyId,
}

impl Kms {
    pub async fn schedule_key_deletion(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ScheduleKeyDeletion,
    ) -> Result<DeletionScheduled, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn cancel_key_deletion(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<DeletionCancelled, KmsError> {
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }
}
