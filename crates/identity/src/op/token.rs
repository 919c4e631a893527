//! Tokens: made, looked up, renewed, revoked, listed; and the roles by which they are made.
//!
//! Always: revoking is one durable deletion of one record; who descends from it is dead with it, and swept up later.
//! Always: a token's end changes with its place in the queue of what is due, in one batch.
//! Never: a child that outlives its parent, may do more, or counts where its parent would not, but for what a role gives.

mod lease;
mod lent;
mod list;
mod make;
mod revoke;
mod role;
mod void;

pub use lease::{LEASES_A_BATCH, Lease, LeasePage};
pub use lent::EndedToken;
pub use list::{AccessorPage, Tidied};
pub(super) use make::within_own;
pub(crate) use revoke::LOOKED_AT_EVERY;
pub use role::TokenRolePage;

use super::Act;
use crate::ChangeError;
use crate::RequestInfo;
use crate::acl::{Acl, Verdict, decide};
use crate::alive::Loaded;
use crate::error::IdentityError;
use crate::name::Accessor;
use crate::policy::Capability;
use crate::principal::{Principal, Proof};
use crate::service::{ATTEMPTS_MAX, Identities};
use crate::store;
use crate::token::{self, Digest, TokenKind, TokenMetadata, lifetime};
use envelope::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use storage::{AtLeast, Batch};

/// Which token is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The caller's own.
    Own,
    Accessor(&'a Accessor),
    /// The token itself, as it stood in the request.
    Token(&'a [u8]),
}

impl<'a> From<Option<&'a Accessor>> for Target<'a> {
    fn from(accessor: Option<&'a Accessor>) -> Self {
        accessor.map_or(Self::Own, Self::Accessor)
    }
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("Own"),
            Self::Accessor(accessor) => f.debug_tuple("Accessor").field(accessor).finish(),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// Where the record of the token that is meant is.
enum Named<'a> {
    Stored(Digest),
    Sealed(&'a [u8]),
    /// The caller's own, which is stateless.
    Own,
}

impl Identities {
    /// Tells about the caller's own token, or about another one that is alive.
    pub async fn lookup_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        target: Target<'_>,
    ) -> Result<TokenMetadata, IdentityError> {
        let act = self.authorise_on(by, call, "LookupToken", LOOKUP, target).await?;
        let outcome = async {
            if target == Target::Own {
                return by.token().ok_or(IdentityError::TokenNotFound);
            }
            let loaded = match self.named(by, target).await? {
                Named::Stored(digest) => self.load_token(&digest, call.now).await,
                Named::Sealed(token) => self.open_stateless(token, call.now).await,
                Named::Own => return by.token().ok_or(IdentityError::TokenNotFound),
            };
            let loaded = loaded.map_err(dead_is_not_found)?;
            Ok(loaded.record.metadata(loaded.uses.map(|(left, _)| left)))
        };
        act.read(outcome.await).await
    }

    /// What the rules of a token that is alive say. Who asks, and whether they may, is the caller's to decide and to record.
    pub async fn rules_of(
        &self,
        target: Target<'_>,
        by: &Principal,
        now: Timestamp,
    ) -> Result<Arc<Acl>, IdentityError> {
        let loaded = match self.named(by, target).await? {
            Named::Stored(digest) => self.load_token(&digest, now).await,
            Named::Sealed(token) => self.open_stateless(token, now).await,
            Named::Own => return Ok(by.rules()),
        };
        Ok(loaded.map_err(dead_is_not_found)?.acl)
    }

    /// Lets a token go on: for `increment`, or for what it was given at first; a periodic one for its period, for ever. Never
    /// beyond its explicit maximum, its ancestors, or (but for periodic ones) 768 hours from its creation. It tells the new
    /// end. The root token has none, and stays as it is.
    pub async fn renew_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        target: Target<'_>,
        increment: Option<Duration>,
    ) -> Result<TokenMetadata, IdentityError> {
        self.renew_as(by, call, target, (increment, Judged::ByNobody)).await
    }

    /// The caller's own, whose login's proof was looked at again: the only way for tokens that are marked so
    /// ([`crate::token::JUDGED`]).
    pub async fn renew_judged(
        &self,
        by: &Principal,
        call: &RequestInfo,
        increment: Option<Duration>,
    ) -> Result<TokenMetadata, IdentityError> {
        self.renew_as(by, call, Target::Own, (increment, Judged::ByItsMethod)).await
    }

    async fn renew_as(
        &self,
        by: &Principal,
        call: &RequestInfo,
        target: Target<'_>,
        (increment, judged): (Option<Duration>, Judged),
    ) -> Result<TokenMetadata, IdentityError> {
        let act = self.authorise_on(by, call, "RenewToken", RENEW, target).await?;
        let increment = increment.filter(|increment| !increment.is_zero());
        match self.renew(&act, by, target, (increment, judged), call.now).await {
            Ok((metadata, Renewed::Committed)) => Ok(metadata),
            Ok((metadata, Renewed::AsItWas)) => act.read(Ok(metadata)).await,
            Err(error) => act.changed(Err(error)).await,
        }
    }

    async fn renew(
        &self,
        act: &Act<'_>,
        by: &Principal,
        target: Target<'_>,
        (increment, judged): (Option<Duration>, Judged),
        now: Timestamp,
    ) -> Result<(TokenMetadata, Renewed), IdentityError> {
        let digest = self.stored(by, target).await?;
        let _turn = self.turn(&digest).await;
        for _ in 0..ATTEMPTS_MAX {
            let loaded = self.load_token(&digest, now).await.map_err(dead_is_not_found)?;
            let uses = loaded.uses.map(|(left, _)| left);
            let Some(expires) = loaded.record.expires else {
                return Ok((loaded.record.metadata(uses), Renewed::AsItWas));
            };
            let only_judged = loaded.record.terms.meta.contains_key(crate::token::JUDGED);
            if !loaded.record.terms.renewable || (only_judged && judged == Judged::ByNobody) {
                return Err(IdentityError::TokenNotRenewable);
            }
            let Loaded { mut record, revision, parents_end, .. } = loaded;
            let end = lifetime::renewed(&record.terms, record.created, increment, parents_end, now);
            record.expires = end;
            record.terms.renewed = Some(now);
            let path = self.layout.token(&digest)?;
            let sealed = self.barrier.seal(&path, &store::encode_token(&record)?)?;
            let mut batch = self.changes.batch()?.revision_is(path.clone(), revision).put(path, sealed);
            if let Some(end) = end.filter(|end| *end != expires) {
                batch = self.put_due(batch.delete(self.layout.due(expires, &digest)?), end, &digest)?;
            }
            match act.commit(batch).await {
                Err(ChangeError::Conflict(_)) => {}
                outcome => {
                    outcome?;
                    return Ok((record.metadata(uses), Renewed::Committed));
                }
            }
        }
        Err(IdentityError::Conflict)
    }

    /// Asks the caller's rules about `base` for the token that is meant: on `…-self`, `…-accessor`, or `base` alone. Looking
    /// at oneself and ending oneself is refused by a denial only.
    async fn authorise_on<'a>(
        &'a self,
        by: &'a Principal,
        call: &'a RequestInfo,
        operation: &'static str,
        base: &str,
        target: Target<'_>,
    ) -> Result<Act<'a>, IdentityError> {
        match target {
            Target::Own => {
                let path = format!("{base}-self");
                let capability = if base == LOOKUP { Capability::Read } else { Capability::Update };
                let nothing = matches!(decide(by.acl(), &path, capability).verdict, Verdict::Nothing);
                if nothing && base != RENEW {
                    return self.on_oneself(by, call, operation, path).await;
                }
                self.authorise(by, call, operation, path, capability).await
            }
            Target::Accessor(_) => {
                self.authorise(by, call, operation, format!("{base}-accessor"), Capability::Update).await
            }
            Target::Token(_) => self.authorise(by, call, operation, base.to_owned(), Capability::Update).await,
        }
    }

    async fn named<'t>(&self, by: &Principal, target: Target<'t>) -> Result<Named<'t>, IdentityError> {
        match target {
            Target::Own => match &by.proof {
                Proof::Token { record, .. } if record.terms.kind == TokenKind::Stateless => Ok(Named::Own),
                Proof::Token { digest, .. } => Ok(Named::Stored(*digest)),
                // its own is not to be found here
                Proof::Certificate { .. } | Proof::Above { .. } => Err(IdentityError::TokenNotFound),
            },
            Target::Accessor(accessor) => {
                let path = self.layout.accessor(accessor)?;
                let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
                let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
                Ok(Named::Stored(store::decode_digest(&opened.value)?))
            }
            Target::Token(token) if !token::is_well_formed(token) => Err(IdentityError::TokenNotFound),
            Target::Token(token) if token::is_stateless(token) => Ok(Named::Sealed(token)),
            Target::Token(token) => Ok(Named::Stored(self.layout.digest(token)?)),
        }
    }

    /// The token that is meant, which must have a record of its own.
    async fn stored(&self, by: &Principal, target: Target<'_>) -> Result<Digest, IdentityError> {
        match self.named(by, target).await? {
            Named::Stored(digest) => Ok(digest),
            Named::Sealed(_) | Named::Own => Err(IdentityError::TokenStateless),
        }
    }

    pub(crate) fn put_due(&self, batch: Batch, at: Timestamp, digest: &Digest) -> Result<Batch, IdentityError> {
        let due = self.layout.due(at, digest)?;
        let sealed = self.barrier.seal(&due, &[])?;
        Ok(batch.put(due, sealed))
    }
}

/// Whether what let a token's holder in was looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    ByItsMethod,
    ByNobody,
}

enum Renewed {
    Committed,
    AsItWas,
}

/// Why a token that was asked about is dead is not told.
fn dead_is_not_found(error: IdentityError) -> IdentityError {
    if matches!(error, IdentityError::Unauthenticated(_)) { IdentityError::TokenNotFound } else { error }
}

/// Whether the caller is root or holds sudo on the path, on which the request was decided already.
fn holds_sudo(by: &Principal, path: &str) -> bool {
    by.is_root()
        || matches!(
            crate::decide_on(by.acl(), path, Capability::Sudo, crate::Facts::Any).verdict,
            Verdict::Allow { .. }
        )
}

const LOOKUP: &str = "auth/token/lookup";
const RENEW: &str = "auth/token/renew";
const REVOKE: &str = "auth/token/revoke";
