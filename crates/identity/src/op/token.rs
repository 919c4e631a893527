//! Tokens: made, looked up, revoked.
//!
//! Always: revoking is one durable deletion of one record; who descends from it is dead with it, and swept up later.
//! Never: a child that outlives its parent, may do more, or counts where its parent would not.

use super::{ATTEMPTS_MAX, Act};
use crate::acl::{Verdict, decide};
use crate::error::IdentityError;
use crate::name::{Accessor, DisplayName, PolicyName};
use crate::policy::Capability;
use crate::principal::{Principal, Proof};
use crate::service::Identities;
use crate::store;
use crate::token::{
    self, ANCESTORS_MAX, CreateToken, CreatedToken, Digest, Parent, TTL_DEFAULT, TTL_MAX, TokenMetadata, TokenRecord,
};
use crate::{ChangeError, RequestInfo};
use audit::{Decision, Outcome, Record, Subject};
use envelope::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use storage::{AtLeast, Batch, EntryPath};

/// What a new token gets from whoever makes it, and what must still hold when it is stored.
struct Heritage {
    ancestors: Vec<Digest>,
    parent: Parent,
    role: Option<(crate::RoleName, [u8; 16])>,
    expires: Option<Timestamp>,
    thumbprint: Option<[u8; 32]>,
    /// The maker's entry: it must not have been touched since.
    stands: (EntryPath, storage::Revision),
}

impl Identities {
    /// Makes a child of the caller's token, or a token that ends with the caller's certificate role. Where the caller is bound
    /// to a certificate, or is one, so is the child, to the same or to the one that is asked for.
    pub async fn create_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateToken,
    ) -> Result<CreatedToken, IdentityError> {
        let act = self.authorise(by, call, "CreateToken", CREATE.to_owned(), Capability::Update).await?;
        let outcome = self.make_token(&act, by, call.now, command).await;
        act.changed(outcome).await
    }

    /// The first token: allows everything, has no end and no parent. The same token again is the same token.
    pub async fn create_root(&self, token: &[u8], call: &RequestInfo) -> Result<TokenMetadata, IdentityError> {
        if !token::is_well_formed(token) {
            return Err(IdentityError::InvalidField("token"));
        }
        let digest = self.layout.digest(token);
        let path = self.layout.token(&digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let mut batch = self.changes.batch()?;
        batch = match found.into_iter().flatten().next() {
            None => batch.absent(path),
            Some(opened) => {
                let record = store::decode_token(&opened.value)?;
                if self.check_alive(&record, call.now).is_ok() && record.policies.iter().any(PolicyName::is_root) {
                    return Ok(record.metadata(None));
                }
                batch.revision_is(path, opened.revision)
            }
        };
        let record = TokenRecord {
            accessor: Accessor::from_random(self.barrier.random()?),
            display_name: DisplayName::parse("root").unwrap_or_default(),
            policies: Arc::new([PolicyName::root()]),
            created: call.now,
            expires: None,
            use_limited: false,
            thumbprint: None,
            generation: self.generation,
            ancestors: Vec::new(),
            parent: Parent::Orphan,
            role: None,
        };
        let leaf = Record {
            path: CREATE,
            decision: Decision::Allowed,
            ..call.record("CreateRootToken", &Subject::System, Outcome::Done)
        };
        self.commit(self.put_token(batch, &digest, &record, None)?, &leaf).await?;
        Ok(record.metadata(None))
    }

    /// Tells about the caller's own token, or about another one that is alive.
    pub async fn lookup_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        accessor: Option<&Accessor>,
    ) -> Result<TokenMetadata, IdentityError> {
        let Some(accessor) = accessor else {
            let act = self.act(by, call, "LookupToken", format!("{LOOKUP}-self"));
            let own = match &by.proof {
                Proof::Token { record, uses_left, .. } => Ok(record.metadata(*uses_left)),
                Proof::Certificate { .. } => Err(IdentityError::TokenNotFound),
            };
            return act.read(own).await;
        };
        let act = self.authorise(by, call, "LookupToken", LOOKUP.to_owned(), Capability::Update).await?;
        let outcome = async {
            let digest = self.named_by(accessor).await?;
            match self.load_token(&digest, call.now).await {
                Ok(loaded) => Ok(loaded.record.metadata(loaded.uses.map(|(left, _)| left))),
                Err(IdentityError::Unauthenticated(_)) => Err(IdentityError::TokenNotFound),
                Err(error) => Err(error),
            }
        };
        act.read(outcome.await).await
    }

    /// Ends a token and all that descend from it: the caller's own, or another one.
    pub async fn revoke_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        accessor: Option<&Accessor>,
    ) -> Result<(), IdentityError> {
        let (act, digest) = match accessor {
            None => {
                let own = match &by.proof {
                    Proof::Token { digest, .. } => Ok(*digest),
                    Proof::Certificate { .. } => Err(IdentityError::TokenNotFound),
                };
                (self.act(by, call, "RevokeToken", format!("{REVOKE}-self")), own)
            }
            Some(accessor) => {
                let act = self.authorise(by, call, "RevokeToken", REVOKE.to_owned(), Capability::Update).await?;
                let named = self.named_by(accessor).await;
                (act, named)
            }
        };
        let outcome = async {
            let digest = digest?;
            for _ in 0..ATTEMPTS_MAX {
                match act.commit(self.revocation(&digest, call.now).await?).await {
                    Err(ChangeError::Conflict(_)) => {}
                    outcome => return Ok(outcome?),
                }
            }
            Err(IdentityError::Conflict)
        };
        act.changed(outcome.await).await
    }

    async fn make_token(
        &self,
        act: &Act<'_>,
        by: &Principal,
        now: Timestamp,
        command: CreateToken,
    ) -> Result<CreatedToken, IdentityError> {
        let policies: Arc<[PolicyName]> =
            if command.policies.is_empty() { by.policies().into() } else { command.policies.into() };
        if policies.len() > token::POLICIES_MAX || policies.iter().any(PolicyName::is_root) {
            return Err(IdentityError::InvalidField("policies"));
        }
        if !within_own(by, &policies, CREATE) {
            return Err(IdentityError::PermissionDenied);
        }
        let heritage = self.heritage(by, now).await?;
        if heritage.ancestors.len() > ANCESTORS_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        let record = TokenRecord {
            accessor: Accessor::from_random(self.barrier.random()?),
            display_name: command.display_name,
            policies,
            created: now,
            expires: Some(expiry(now, command.ttl, heritage.expires)?),
            use_limited: command.num_uses.is_some(),
            thumbprint: command.certificate_thumbprint.or(heritage.thumbprint),
            generation: self.generation,
            ancestors: heritage.ancestors,
            parent: heritage.parent,
            role: heritage.role,
        };
        let token = token::generate()?;
        let digest = self.layout.digest(token.expose());
        let (maker, revision) = heritage.stands;
        let batch = self.changes.batch()?.revision_is(maker, revision).absent(self.layout.token(&digest)?);
        let uses = command.num_uses.map(std::num::NonZeroU32::get);
        act.commit(self.put_token(batch, &digest, &record, uses)?).await?;
        Ok(CreatedToken { token, metadata: record.metadata(uses) })
    }

    /// Reads the maker anew: what the cache knows may be over by now.
    async fn heritage(&self, by: &Principal, now: Timestamp) -> Result<Heritage, IdentityError> {
        match &by.proof {
            // Its child would be used without bound.
            Proof::Token { record, .. } if record.use_limited => Err(IdentityError::PermissionDenied),
            Proof::Token { digest, .. } => {
                let loaded = self.load_token(digest, now).await?;
                let record = loaded.record;
                Ok(Heritage {
                    ancestors: std::iter::once(*digest).chain(record.ancestors).collect(),
                    parent: Parent::Token(record.accessor),
                    role: record.role,
                    expires: record.expires,
                    thumbprint: record.thumbprint,
                    stands: (self.layout.token(digest)?, loaded.revision),
                })
            }
            Proof::Certificate { role, incarnation, thumbprint } => {
                let path = self.layout.role(role)?;
                let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
                let opened = found.into_iter().flatten().next().ok_or(IdentityError::PermissionDenied)?;
                if store::decode_role(&opened.value)?.incarnation != *incarnation {
                    return Err(IdentityError::PermissionDenied);
                }
                Ok(Heritage {
                    ancestors: Vec::new(),
                    parent: Parent::Role(role.clone()),
                    role: Some((role.clone(), *incarnation)),
                    expires: None,
                    thumbprint: Some(*thumbprint),
                    stands: (path, opened.revision),
                })
            }
        }
    }

    fn put_token(
        &self,
        mut batch: Batch,
        digest: &Digest,
        record: &TokenRecord,
        uses: Option<u32>,
    ) -> Result<Batch, IdentityError> {
        let mut put = |path: EntryPath, value: &[u8]| {
            let sealed = self.barrier.seal(&path, value)?;
            batch.writes.push(storage::Write::Put(path, sealed));
            Ok::<_, IdentityError>(())
        };
        put(self.layout.token(digest)?, &store::encode_token(record)?)?;
        put(self.layout.accessor(&record.accessor)?, &digest.0)?;
        if let Some(uses) = uses {
            put(self.layout.uses(digest)?, &store::encode_uses(uses)?)?;
        }
        if let Some(expires) = record.expires {
            put(self.layout.due(expires, digest)?, &[])?;
        }
        if let Some(parent) = record.ancestors.first() {
            put(self.layout.child(parent, digest)?, &[])?;
        }
        Ok(batch)
    }

    async fn revocation(&self, digest: &Digest, now: Timestamp) -> Result<Batch, IdentityError> {
        let path = self.layout.token(digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
        let record = store::decode_token(&opened.value)?;
        let batch = self.changes.batch()?.revision_is(path, opened.revision);
        let batch = self.drop_token(batch, digest, &record)?;
        // Its children are swept up from there. They are dead already.
        let due = self.layout.due(now, digest)?;
        let sealed = self.barrier.seal(&due, &[])?;
        Ok(batch.put(due, sealed))
    }

    /// All entries of a token itself.
    pub(crate) fn drop_token(
        &self,
        mut batch: Batch,
        digest: &Digest,
        record: &TokenRecord,
    ) -> Result<Batch, IdentityError> {
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

    async fn named_by(&self, accessor: &Accessor) -> Result<Digest, IdentityError> {
        let path = self.layout.accessor(accessor)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
        store::decode_digest(&opened.value)
    }
}

/// Whether the caller may give these policies: they are its own, or it is root or holds sudo on the path.
pub(super) fn within_own(by: &Principal, policies: &[PolicyName], path: &str) -> bool {
    let sudo = || matches!(decide(by.acl(), path, Capability::Sudo), Verdict::Allow { .. });
    policies.iter().all(|policy| by.policies().contains(policy)) || by.is_root() || sudo()
}

/// When a new token ends. Pure.
fn expiry(now: Timestamp, asked: Option<Duration>, parent: Option<Timestamp>) -> Result<Timestamp, IdentityError> {
    let left = parent.map_or(TTL_MAX, |end| end.since(now)).min(TTL_MAX);
    match asked {
        None => Ok(now.plus(TTL_DEFAULT.min(left))),
        Some(ttl) if ttl <= left => Ok(now.plus(ttl)),
        Some(_) => Err(IdentityError::InvalidField("ttl_secs")),
    }
}

const CREATE: &str = "auth/token/create";
const LOOKUP: &str = "auth/token/lookup";
const REVOKE: &str = "auth/token/revoke";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_no_later_than_its_parent() {
        let at = Timestamp::from_unix_millis;
        let secs = Duration::from_secs;
        let now = at(1_000_000);
        for (asked, parent, expected) in [
            (None, None, Some(at(4_600_000))),
            (None, Some(at(2_000_000)), Some(at(2_000_000))),
            (Some(secs(1000)), Some(at(2_000_000)), Some(at(2_000_000))),
            (Some(secs(1001)), Some(at(2_000_000)), None),
            (Some(secs(1)), Some(now), None),
            (Some(TTL_MAX), None, Some(now.plus(TTL_MAX))),
            (Some(TTL_MAX + secs(1)), None, None),
            (Some(secs(u64::MAX)), None, None),
            (Some(secs(u64::MAX)), Some(at(u64::MAX)), None),
        ] {
            assert_eq!(expiry(now, asked, parent).ok(), expected, "{asked:?} {parent:?}");
        }
    }
}
