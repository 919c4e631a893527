//! Sweeping: what is left of tokens that are over, and of those that descended from them.
//!
//! Always: a page at a time; what is left stays due.
//! Never: a token that is alive. An entry of the queue is a hint, the record decides.

use crate::change::ChangeError;
use crate::error::IdentityError;
use crate::op::LOOKED_AT_EVERY;
use crate::service::Identities;
use crate::store::{self, digest_in};
use crate::token::Digest;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use std::time::Duration;
use storage::{AtLeast, Batch, Claim};

impl Identities {
    /// Sweeps up a page of tokens that are over. How many entries were due: ask again while there are any.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, IdentityError> {
        let claims = self.barrier.storage().claim(&self.layout.due_queue()?, CLAIMS_MAX, CLAIMED_FOR).await?;
        let mut outcome = Ok(claims.len());
        for claim in &claims {
            // One entry that cannot be read must not keep the others from being swept.
            if let Err(error) = self.sweep_claim(claim, now).await {
                tracing::warn!(path = %claim.path, %error, "was not swept; it stays due");
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn sweep_claim(&self, claim: &Claim, now: Timestamp) -> Result<(), IdentityError> {
        let Some(batch) = self.sweep_one(claim, now).await? else { return Ok(()) };
        let record = Record {
            path: "auth/token/sweep",
            decision: Decision::Allowed,
            ..Record::new(now, "sweep", "SweepToken", &Subject::System)
        };
        match self.commit(batch, &record).await {
            // Whoever came in between did it, or will.
            Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What to delete for one entry of the queue: the token if it is over, and some of its children.
    async fn sweep_one(&self, claim: &Claim, now: Timestamp) -> Result<Option<Batch>, IdentityError> {
        let batch = self.changes.batch()?.revision_is(claim.path.clone(), claim.fence);
        let Some(digest) = digest_in(&claim.path) else { return Ok(Some(batch.delete(claim.path.clone()))) };
        let path = self.layout.token(&digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let mut batch = match found.into_iter().flatten().next() {
            None => batch,
            Some(opened) => {
                let record = store::decode_token(&opened.value)?;
                if record.terms.released {
                    return self.sweep_released(batch.revision_is(path, opened.revision), claim, &digest, now).await;
                }
                if !record.expired(now) {
                    // a hint at another time than its end is nobody's
                    let due = record.expires.map(|end| self.layout.due(end, &digest)).transpose()?;
                    let stale = due.is_none_or(|due| due != claim.path);
                    return Ok(stale.then(|| batch.delete(claim.path.clone())));
                }
                self.drop_token(batch.revision_is(path, opened.revision), &digest, &record, now).await?
            }
        };
        let children = self.layout.children(&digest)?;
        let page = self.barrier.storage().scan(&children, None, CHILDREN_MAX, AtLeast::Latest).await?;
        for (path, _) in &page.entries {
            batch = batch.delete(path.clone());
            if let Some(child) = digest_in(path) {
                batch = self.drop_child(batch, &child, now).await?;
            }
        }
        if page.more {
            // Written anew, it is not hidden by this claim any more.
            let sealed = self.barrier.seal(&claim.path, &[])?;
            return Ok(Some(batch.put(claim.path.clone(), sealed)));
        }
        Ok(Some(batch.delete(claim.path.clone())))
    }

    /// What let its children go stays for as long as it has any.
    async fn sweep_released(
        &self,
        batch: Batch,
        claim: &Claim,
        digest: &Digest,
        now: Timestamp,
    ) -> Result<Option<Batch>, IdentityError> {
        let children = self.layout.children(digest)?;
        let page = self.barrier.storage().scan(&children, None, 1, AtLeast::Latest).await?;
        let batch = batch.delete(claim.path.clone());
        if page.entries.is_empty() {
            return Ok(Some(batch.delete(self.layout.token(digest)?)));
        }
        self.put_due(batch, now.plus(LOOKED_AT_EVERY), digest).map(Some)
    }

    async fn drop_child(&self, batch: Batch, child: &Digest, now: Timestamp) -> Result<Batch, IdentityError> {
        let path = self.layout.token(child)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let Some(opened) = found.into_iter().flatten().next() else { return Ok(batch) };
        let batch = self.drop_token(batch, child, &store::decode_token(&opened.value)?, now).await?;
        self.put_due(batch, now, child)
    }
}

const CLAIMS_MAX: u32 = 64;
const CLAIMED_FOR: Duration = Duration::from_secs(30);
/// A batch holds 128 operations: nine for each child, and a few for the token itself and the leaf.
const CHILDREN_MAX: u32 = 12;
