//! What is due: keys whose window has passed, client request ids that count no more.
//!
//! Always: a key's tokens and its place in the queue go in one batch, on the condition that nobody cancelled.

use crate::error::KmsError;
use crate::op::create_key::is_kept;
use crate::service::Kms;
use crate::store::{Found, codec, unreadable};
use audit::{Decision, Item, Outcome, Record, Subject};
use envelope::Timestamp;
use hsm_api::KeyId;
use std::sync::PoisonError;
use std::time::Duration;
use storage::{AtLeast, Claim};

impl Kms {
    /// Destroys keys whose deletion is due, a bounded number; how many. Call it again at once where it is not 0, else after
    /// a while. Any number of nodes may do so.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, KmsError> {
        let queue = self.store().due_queue()?;
        let claims = self.inner.seams.barrier.storage().claim(&queue, CLAIMS_MAX, CLAIMED_FOR).await?;
        let (mut deleted, mut failed) = (0, None);
        for claim in claims {
            match self.delete_due(&claim, now).await {
                Ok(done) => deleted += usize::from(done),
                // somebody cancelled, or took over: the queue tells again
                Err(KmsError::Conflict) => {}
                // one damaged row keeps no other key alive
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.forget_requests(now).await?;
        failed.map_or(Ok(deleted), Err)
    }

    async fn delete_due(&self, claim: &Claim, now: Timestamp) -> Result<bool, KmsError> {
        let value = self.inner.seams.barrier.open(&claim.path, &claim.entry.value)?;
        let id = codec::decode_due(value.expose()).ok_or_else(|| unreadable(&claim.path))?;
        // `deletion/<due>/<key id>`, below the queue's own path
        let segment = claim.path.as_str().rsplit('/').nth(1).unwrap_or_default();
        let due = u64::from_str_radix(segment, 16).map_err(|_| unreadable(&claim.path))?;
        let due = Timestamp::from_unix_millis(due);
        if now < due {
            return Ok(false);
        }
        let path = self.store().key_path(&id)?;
        let taken = self.batch()?.revision_is(claim.path.clone(), claim.fence).delete(claim.path.clone());
        let Some(Found { value: key, revision }) = self.store().key_now(&id).await? else {
            return Err(KmsError::DataAltered(format!("{path} is due for deletion and not there")));
        };
        let record_path = format!("kms/keys/{id}");
        let Some(tombstone) = key.delete(due, now) else {
            // cancelled, or scheduled anew for another day
            self.commit_record(taken, &system_record(now, "ForgetKeyDeletion", &record_path)).await?;
            return Ok(false);
        };
        let record = system_record(now, "DeleteKey", &record_path);
        let batch = taken.revision_is(path.clone(), revision).put(path.clone(), self.seal_key(&path, &tombstone)?);
        self.commit_record(batch, &record).await?;
        Ok(true)
    }

    /// Looks at some client request ids, going on where it stopped, and drops those that are too old.
    async fn forget_requests(&self, now: Timestamp) -> Result<(), KmsError> {
        let after = self.inner.swept_to.lock().unwrap_or_else(PoisonError::into_inner).take();
        let prefix = self.store().requests_path()?;
        let barrier = &self.inner.seams.barrier;
        let page = barrier.scan(&prefix, after.as_ref(), REQUESTS_LOOKED_AT, AtLeast::Latest).await?;
        let (mut batch, mut items) = (self.batch()?, Vec::<Item>::new());
        let mut last = None;
        for (path, opened) in page.entries {
            let request = codec::decode_request(opened.value.expose()).ok_or_else(|| unreadable(&path))?;
            if !is_kept(request.created, now) {
                batch = batch.revision_is(path.clone(), opened.revision).delete(path.clone());
                items.push(named(items.len(), &request.key_id));
            }
            last = Some(path);
        }
        if !items.is_empty() {
            let record = Record { items: &items, ..system_record(now, "ForgetClientRequestIds", "") };
            match self.commit_record(batch, &record).await {
                Ok(()) | Err(KmsError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        *self.inner.swept_to.lock().unwrap_or_else(PoisonError::into_inner) = last.filter(|_| page.more);
        Ok(())
    }
}

pub(crate) fn system_record<'a>(now: Timestamp, operation: &'a str, path: &'a str) -> Record<'a> {
    let record = Record::new(now, "", operation, &Subject::System);
    Record { path, decision: Decision::Allowed, outcome: Outcome::Done, ..record }
}

fn named(index: usize, key: &KeyId) -> Item {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    Item { index, key_id: Some(key.to_string()), outcome: Outcome::Done, context_hmac: None }
}

const CLAIMS_MAX: u32 = 50;
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// Each takes a precondition and a write of a batch.
const REQUESTS_LOOKED_AT: u32 = 50;
