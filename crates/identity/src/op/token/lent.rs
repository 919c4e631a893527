//! What is lent to a token ends with it: whoever lends says so beside the token, and hears of its end.
//!
//! Always: the end of a token that was lent something leaves a mark in the commit that drops it, however it ended, or in the one
//! that counts its last use.
//!
//! Not heard, but found by whoever asks ([`Identities::void_tokens`]): that the role of the certificate it came from is gone. Nor
//! that a higher generation voids it: what it was lent ends in its own time, or with all that was lent before, where an operator
//! has acknowledged that store and audit log disagree.

use crate::entity::{EntityId, EntityRef, Work};
use crate::error::{Cause, IdentityError};
use crate::name::Accessor;
use crate::principal::{Principal, Proof};
use crate::service::Identities;
use crate::token::{Digest, Parent, TokenKind};
use envelope::Timestamp;
use std::time::Duration;
use storage::{AtLeast, Batch, Claim};

/// A token that was lent something and has ended.
#[derive(Debug)]
pub struct EndedToken {
    pub accessor: String,
    /// Deleted, under its fence, by whoever has taken back all that was lent.
    pub claim: Claim,
}

impl Identities {
    /// With the life of who asks as a condition, and so that its end is told: the accessor of the token with which ends what
    /// it is lent. A stateless one has no end that anybody hears of: it is its parent's.
    pub async fn prepare_lending(
        &self,
        batch: Batch,
        by: &Principal,
        now: Timestamp,
    ) -> Result<(Batch, Option<Accessor>), IdentityError> {
        let (digest, record) = match &by.proof {
            Proof::Token { digest, record, .. } => (digest, record),
            Proof::Certificate { role, incarnation, .. } => {
                return Ok((self.while_role_stands(batch, role, incarnation).await?, None));
            }
            Proof::Above { .. } => return Ok((batch, None)),
        };
        let (batch, lent) = match (record.terms.kind, &record.parent, record.ancestors.first()) {
            (TokenKind::Service, ..) => {
                let loaded = self.load_token(digest, now).await?;
                let batch = batch.revision_is(self.layout.token(digest)?, loaded.revision);
                (self.while_alive(batch, &loaded.record, now).await?, Some((*digest, record.accessor.clone())))
            }
            (TokenKind::Stateless, Parent::Token(accessor), Some(parent)) => {
                (self.while_alive(batch, record, now).await?, Some((*parent, accessor.clone())))
            }
            (TokenKind::Stateless, ..) => (self.while_alive(batch, record, now).await?, None),
        };
        let batch = match by.entity() {
            Some(entity) => self.while_enabled(batch, entity).await?,
            None => batch,
        };
        let Some((digest, accessor)) = lent else { return Ok((batch, None)) };
        let path = self.layout.lent(&digest)?;
        let (_, found) = self.barrier.storage().get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        // said already: changes of one entry wait for each other. It goes with the token's record, whose revision is a condition
        if found.into_iter().flatten().next().is_some() {
            return Ok((batch, Some(accessor)));
        }
        let sealed = self.barrier.seal(&path, &[])?;
        Ok((batch.put(path, sealed), Some(accessor)))
    }

    /// With the condition that the entity is as it is: there, and not disabled. What is lent to it ends with either.
    async fn while_enabled(&self, batch: Batch, entity: EntityId) -> Result<Batch, IdentityError> {
        // a store that is away says nothing of anybody
        let gone = |error: IdentityError| match matches!(error, IdentityError::EntityNotFound) {
            true => IdentityError::Unauthenticated(Cause::EntityGone),
            false => error,
        };
        let mut work = Work::new(self);
        let id = work.entity_id(EntityRef::Id(entity)).await.map_err(gone)?;
        if work.entity(id).await?.disabled {
            return Err(IdentityError::Unauthenticated(Cause::EntityDisabled));
        }
        work.add_to(batch)
    }

    /// With the last use of a token: who lent it something is told, and who is about to lend finds its record changed.
    pub(crate) async fn used_up(
        &self,
        batch: Batch,
        digest: &Digest,
        accessor: &Accessor,
        now: Timestamp,
    ) -> Result<Batch, IdentityError> {
        let path = self.layout.token(digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let stands = found.into_iter().flatten().next().ok_or(IdentityError::Unauthenticated(Cause::TokenUnknown))?;
        let sealed = self.barrier.seal(&path, stands.value.expose())?;
        let batch = batch.revision_is(path.clone(), stands.revision).put(path, sealed);
        self.tell_lenders(batch, digest, accessor, now).await
    }

    pub(crate) async fn tell_lenders(
        &self,
        batch: Batch,
        digest: &Digest,
        accessor: &Accessor,
        now: Timestamp,
    ) -> Result<Batch, IdentityError> {
        let lent = self.layout.lent(digest)?;
        let (_, found) = self.barrier.storage().get(std::slice::from_ref(&lent), AtLeast::Latest).await?;
        if found.into_iter().flatten().next().is_none() {
            // who lends in between is heard
            return Ok(batch.absent(lent));
        }
        let ended = self.layout.ended(now, digest)?;
        let sealed = self.barrier.seal(&ended, accessor.as_str().as_bytes())?;
        Ok(batch.delete(lent).put(ended, sealed))
    }

    /// Some that have ended, each for this caller for a while.
    pub async fn ended_tokens(&self, limit: u32, for_: Duration) -> Result<Vec<EndedToken>, IdentityError> {
        let claims = self.barrier.storage().claim(&self.layout.ended_queue()?, limit, for_).await?;
        let opened = claims.into_iter().map(|claim| {
            let accessor = self.barrier.open(&claim.path, &claim.entry.value)?;
            Ok(EndedToken { accessor: String::from_utf8_lossy(accessor.expose()).into_owned(), claim })
        });
        opened.collect()
    }
}
