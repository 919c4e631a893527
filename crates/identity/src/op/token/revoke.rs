//! Tokens that end before their time.

use super::{REVOKE, Target, holds_sudo};
use crate::error::IdentityError;
use crate::op::ATTEMPTS_MAX;
use crate::policy::Capability;
use crate::principal::Principal;
use crate::service::Identities;
use crate::store;
use crate::token::{Digest, TokenRecord};
use crate::{ChangeError, RequestInfo};
use envelope::Timestamp;
use std::time::Duration;
use storage::{AtLeast, Batch};

/// What becomes of a token's children.
#[derive(Clone, Copy)]
pub(super) enum Children {
    End,
    GoOn,
}

impl Identities {
    /// Ends a token and all that descend from it: the caller's own, or another one.
    pub async fn revoke_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        target: Target<'_>,
    ) -> Result<(), IdentityError> {
        let act = self.authorise_on(by, call, "RevokeToken", REVOKE, target).await?;
        let outcome = self.end(&act, by, target, Children::End, call.now).await;
        act.changed(outcome).await
    }

    /// Ends a token alone; its children become orphans. It takes sudo. Stateless children end all the same: they are alive by
    /// their parent only.
    pub async fn revoke_token_orphan(
        &self,
        by: &Principal,
        call: &RequestInfo,
        target: Target<'_>,
    ) -> Result<(), IdentityError> {
        let act = self.authorise(by, call, "RevokeTokenOrphan", REVOKE_ORPHAN.to_owned(), Capability::Update).await?;
        if !holds_sudo(by, REVOKE_ORPHAN) {
            return act.deny("").await;
        }
        let outcome = self.end(&act, by, target, Children::GoOn, call.now).await;
        act.changed(outcome).await
    }

    async fn end(
        &self,
        act: &super::Act<'_>,
        by: &Principal,
        target: Target<'_>,
        children: Children,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        let digest = self.stored(by, target).await?;
        let _turn = self.turn(&digest).await;
        for _ in 0..ATTEMPTS_MAX {
            let batch = self.revocation(self.changes.batch()?, &digest, children, now).await?;
            match act.commit(batch).await {
                Err(ChangeError::Conflict(_)) => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(IdentityError::Conflict)
    }

    pub(super) async fn revocation(
        &self,
        batch: Batch,
        digest: &Digest,
        children: Children,
        now: Timestamp,
    ) -> Result<Batch, IdentityError> {
        let path = self.layout.token(digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
        let mut record = store::decode_token(&opened.value)?;
        if record.terms.released {
            return Err(IdentityError::TokenNotFound);
        }
        let batch = self.drop_token(batch.revision_is(path.clone(), opened.revision), digest, &record, now).await?;
        match children {
            // Its children are swept up from there. They are dead already.
            Children::End => self.put_due(batch, now, digest),
            // Of two writes to one path the later counts: what is left of it tells its children that they are orphans.
            Children::GoOn => {
                // who is dead already, by itself or by an ancestor, has nobody left to let go
                let batch = self.while_alive(batch, &record, now).await.map_err(super::dead_is_not_found)?;
                record.terms.released = true;
                let sealed = self.barrier.seal(&path, &store::encode_token(&record)?)?;
                self.put_due(batch.put(path, sealed), now.plus(LOOKED_AT_EVERY), digest)
            }
        }
    }

    /// All entries of a token itself; who lent it something is told.
    pub(crate) async fn drop_token(
        &self,
        batch: Batch,
        digest: &Digest,
        record: &TokenRecord,
        now: Timestamp,
    ) -> Result<Batch, IdentityError> {
        let mut batch = self.tell_lenders(batch, digest, &record.accessor, now).await?;
        batch = batch.delete(self.layout.token(digest)?).delete(self.layout.accessor(&record.accessor)?);
        if record.use_limited {
            batch = batch.delete(self.layout.uses(digest)?);
        }
        if let Some(expires) = record.expires {
            batch = batch.delete(self.layout.due(expires, digest)?);
        }
        if let Some(parent) = record.ancestors.first() {
            batch = batch.delete(self.layout.child(parent, digest)?);
        }
        Ok(batch)
    }
}

const REVOKE_ORPHAN: &str = "auth/token/revoke-orphan";
/// How often it is looked whether a token that let its children go has any left.
pub(crate) const LOOKED_AT_EVERY: Duration = Duration::from_secs(3600);
