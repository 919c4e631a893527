//! ScheduleKeyDeletion and CancelKeyDeletion.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::KeyState;
use crate::name::KeyRef;
use crate::service::Kms;
use crate::store::codec;
use envelope::Timestamp;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};
use std::time::Duration;
use storage::Write;

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
        let mut act = Act::new("ScheduleKeyDeletion", by, call);
        let ended = self.schedule(&mut act, &command).await;
        self.finish(&act, ended).await
    }

    pub async fn cancel_key_deletion(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<DeletionCancelled, KmsError> {
        let mut act = Act::new("CancelKeyDeletion", by, call);
        let ended = self.cancel(&mut act, key).await;
        self.finish(&act, ended).await
    }

    async fn schedule(
        &self,
        act: &mut Act<'_>,
        command: &ScheduleKeyDeletion,
    ) -> Result<(DeletionScheduled, Told), KmsError> {
        let days = match command.pending_window_in_days {
            0 => 30,
            days @ 7..=30 => days,
            _ => return Err(KmsError::InvalidField("pending_window_in_days")),
        };
        let window = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        let id = self.resolve(act, &command.key).await?;
        self.authorise(act, &id, Right::SCHEDULE_DELETION, None).await?;
        let now = act.call.now;
        let scheduled = self.change_key(act, &id, |key| {
            let (pending, at) = key.schedule_deletion(window, now)?;
            let due = self.store().due_path(at, &id)?;
            let write = Write::Put(due.clone(), self.seal(&due, &codec::encode_due(&id))?);
            Ok(Some((pending, at, vec![write])))
        });
        let at = scheduled.await?.ok_or(KmsError::Internal("scheduling changes the key"))?;
        let state = KeyState::PendingDeletion { at };
        let scheduled = DeletionScheduled { key_id: id, deletion_date: at, state, pending_window_in_days: days };
        Ok((scheduled, Told::WithItsChange))
    }

    async fn cancel(&self, act: &mut Act<'_>, key: &KeyRef) -> Result<(DeletionCancelled, Told), KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, Right::CANCEL_DELETION, None).await?;
        let cancelled = self.change_key(act, &id, |key| {
            let (disabled, was_due) = key.cancel_deletion()?;
            Ok(Some((disabled, (), vec![Write::Delete(self.store().due_path(was_due, &id)?)])))
        });
        cancelled.await?;
        Ok((DeletionCancelled { key_id: id }, Told::WithItsChange))
    }
}
