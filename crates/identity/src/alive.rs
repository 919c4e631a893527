//! Whether a token is alive: it, all on whom it depends, and the cluster generation.
//!
//! Always: an ancestor that ended before its children, and let them go, hides all that is above it.
//! Always: what depends on a token of a namespace above ends with it, also where it lets its own children go.
//! Never: a stateless token whose parent's record is gone, or let its children go.

use crate::acl::Acl;
use crate::entity::EntityId;
use crate::error::{Cause, IdentityError};
use crate::name::PolicyName;
use crate::service::Identities;
use crate::store;
use crate::token::{self, Digest, Parent, TokenKind, TokenRecord};
use envelope::Timestamp;
use std::sync::Arc;
use storage::{AtLeast, Batch, Entry, EntryPath, Revision};

/// A token, all of it alive.
pub(crate) struct Loaded {
    /// As it stands in the store, but that orphans are told as such.
    pub(crate) record: TokenRecord,
    /// Of its entry. A stateless one has none: when it was read.
    pub(crate) revision: Revision,
    /// With the revision of its entry.
    pub(crate) uses: Option<(u32, Revision)>,
    pub(crate) acl: Arc<Acl>,
    /// When the first of its ancestors ends.
    pub(crate) parents_end: Option<Timestamp>,
    /// What it depends on, and when that was read.
    pub(crate) depends_on: Vec<EntryPath>,
    pub(crate) read_at: Revision,
}

impl Identities {
    /// A token that is alive, as are all on whom it depends.
    pub(crate) async fn load_token(&self, digest: &Digest, now: Timestamp) -> Result<Loaded, IdentityError> {
        let own = [self.layout.token(digest)?, self.layout.uses(digest)?];
        let (read_at, found) = self.barrier.get(&own, AtLeast::Latest).await?;
        let mut found = found.into_iter();
        let opened = found.next().flatten().ok_or(gone(Cause::TokenUnknown))?;
        let record = store::decode_token(&opened.value)?;
        self.check_alive(&record, now)?;
        let uses = match (record.use_limited, found.next().flatten()) {
            (true, Some(uses)) => Some((store::decode_uses(&uses.value)?, uses.revision)),
            (true, None) => return Err(gone(Cause::TokenUsedUp)),
            (false, _) => None,
        };
        if uses.is_some_and(|(left, _)| left == 0) {
            return Err(gone(Cause::TokenUsedUp));
        }
        let [own, _] = own;
        let loaded = self.with_ancestors(record, now, read_at, vec![own]).await?;
        Ok(Loaded { revision: opened.revision, uses, ..loaded })
    }

    /// A token whose record is sealed in its text. What does not open is nobody's.
    pub(crate) async fn open_stateless(&self, token: &[u8], now: Timestamp) -> Result<Loaded, IdentityError> {
        let unknown = || gone(Cause::TokenUnknown);
        let sealed = self.layout.unmarked(token).and_then(token::stateless_sealed).ok_or_else(unknown)?;
        let opened = self.barrier.open(&self.layout.stateless()?, &sealed).map_err(|_| unknown())?;
        let mut record = store::decode_token(&opened)?;
        // no root was ever sealed so
        if record.terms.kind != TokenKind::Stateless || record.policies.iter().any(PolicyName::is_root) {
            return Err(unknown());
        }
        self.check_alive(&record, now)?;
        let mut read_at = Revision(u64::MAX);
        if let Some(parent) = record.ancestors.first() {
            let path = self.layout.token(parent)?;
            let (revision, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
            let parent = found.into_iter().flatten().next().ok_or(gone(Cause::AncestorGone))?;
            let parent = store::decode_token(&parent.value)?;
            if parent.terms.released {
                return Err(gone(Cause::AncestorGone));
            }
            record.ancestors.extend(parent.ancestors);
            record.role = parent.role;
            record.terms.above = parent.terms.above;
            read_at = revision;
        }
        self.with_ancestors(record, now, read_at, Vec::new()).await
    }

    async fn with_ancestors(
        &self,
        mut record: TokenRecord,
        now: Timestamp,
        read_at: Revision,
        own: Vec<EntryPath>,
    ) -> Result<Loaded, IdentityError> {
        let (mut paths, kinds) = self.above(&record)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let upto = paths.len();
        let derived = match record.terms.entity {
            Some(id) => Some(self.derive(EntityId(id)).await?),
            None => None,
        };
        let mut names = record.policies.to_vec();
        if let Some(derived) = &derived {
            record.terms.entity = Some(derived.entity.id.0);
            names.extend(derived.policies());
            names.sort_unstable();
            names.dedup();
            if names.len() > POLICIES_TOGETHER_MAX {
                return Err(IdentityError::LimitExceeded);
            }
        }
        paths.extend(names.iter().map(|name| self.layout.policy(name)).collect::<Result<Vec<_>, _>>()?);
        let (revision, entries) = self.barrier.storage().get(&paths, AtLeast::Latest).await?;
        let (above, policies) = entries.split_at(upto);
        let parents_end = self.check_ancestors(&mut record, paths.iter().zip(&kinds).zip(above), now)?;
        let acl = self.acl(&names, policies, revision, derived.as_ref())?;
        paths.extend(own);
        let mut read_at = read_at.min(revision);
        if let Some(derived) = derived {
            read_at = read_at.min(derived.read_at);
            paths.extend(derived.depends_on);
        }
        Ok(Loaded { record, revision: read_at, uses: None, acl, parents_end, depends_on: paths, read_at })
    }

    /// With what the token's life depends on as a condition, where it is alive; who is behind it does not matter.
    pub(crate) async fn while_alive(
        &self,
        batch: Batch,
        record: &TokenRecord,
        now: Timestamp,
    ) -> Result<Batch, IdentityError> {
        self.check_alive(record, now)?;
        let stand = self.ancestors_that_stand(record, now).await?;
        Ok(stand.into_iter().fold(batch, |batch, (path, revision)| batch.revision_is(path, revision)))
    }

    /// All on whom a token depends, where none of them is gone or over.
    pub(crate) async fn ancestors_that_stand(
        &self,
        record: &TokenRecord,
        now: Timestamp,
    ) -> Result<Vec<(EntryPath, Revision)>, IdentityError> {
        let (paths, kinds) = self.above(record)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let (_, entries) = self.barrier.storage().get(&paths, AtLeast::Latest).await?;
        self.check_ancestors(&mut record.clone(), paths.iter().zip(&kinds).zip(&entries), now)?;
        Ok(paths.into_iter().zip(entries).filter_map(|(path, entry)| Some((path, entry?.revision))).collect())
    }

    /// The records of a token's ancestors, and behind them its role's; then the same of namespaces above.
    pub(crate) fn above(&self, record: &TokenRecord) -> Result<Vec<(EntryPath, Kind)>, IdentityError> {
        let below = |root: &EntryPath, rest: String| {
            root.join(&rest).map_err(|_| IdentityError::Internal("names and hashes are segments"))
        };
        let mut paths = Vec::new();
        for ancestor in &record.ancestors {
            paths.push((self.layout.token(ancestor)?, Kind::Token));
        }
        if let Some((role, incarnation)) = &record.role {
            paths.push((self.layout.role(role)?, Kind::Role(*incarnation)));
        }
        for above in &record.terms.above {
            for token in &above.tokens {
                paths.push((below(&above.root, format!("tokens/{}", hex::encode(token.0)))?, Kind::TokenAbove));
            }
            if let Some((role, incarnation)) = &above.role {
                paths.push((below(&above.root, format!("roles/{role}"))?, Kind::Role(*incarnation)));
            }
        }
        Ok(paths)
    }

    /// Every ancestor's record stands and is not over, and the role's in the same incarnation. When the first of them ends.
    fn check_ancestors<'e>(
        &self,
        record: &mut TokenRecord,
        above: impl Iterator<Item = ((&'e EntryPath, &'e Kind), &'e Option<Entry>)>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, IdentityError> {
        let gone = || gone(Cause::AncestorGone);
        let mut end: Option<Timestamp> = None;
        for (i, ((path, kind), entry)) in above.enumerate() {
            let value = self.barrier.open(path, &entry.as_ref().ok_or_else(gone)?.value)?;
            if let Kind::Role(incarnation) = kind {
                if store::decode_role(&value)?.incarnation != *incarnation {
                    return Err(gone());
                }
                continue;
            }
            let ancestor = store::decode_token(&value)?;
            if ancestor.terms.released {
                // up there nobody knows of this one, whose own record would not outlast it: it ends with it; so does a child
                // that has no record
                if *kind == Kind::TokenAbove || (i == 0 && record.terms.kind == TokenKind::Stateless) {
                    return Err(gone());
                }
                // What it let go does not depend on what is above it.
                record.role = None;
                if i == 0 {
                    record.parent = Parent::Orphan;
                }
                break;
            }
            end = [end, ancestor.expires].into_iter().flatten().min();
        }
        check_parents_end(end, now)?;
        Ok(end)
    }

    /// What depends on the token alone, and on the time.
    pub(crate) fn check_alive(&self, record: &TokenRecord, now: Timestamp) -> Result<(), IdentityError> {
        if record.generation != self.generation {
            return Err(gone(Cause::OtherGeneration));
        }
        if record.terms.released {
            return Err(gone(Cause::TokenUnknown));
        }
        if record.expired(now) {
            return Err(gone(Cause::TokenExpired));
        }
        Ok(())
    }
}

/// What stands at a path on which a token's life depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Token,
    /// Of a namespace above.
    TokenAbove,
    /// In this incarnation.
    Role([u8; 16]),
}

/// Most policies of a token together with those of its entity and its groups.
pub(crate) const POLICIES_TOGETHER_MAX: usize = 512;

/// A token is over when one of its ancestors is, though it may not have been swept up yet.
pub(crate) fn check_parents_end(end: Option<Timestamp>, now: Timestamp) -> Result<(), IdentityError> {
    if end.is_some_and(|end| now >= end) { Err(gone(Cause::AncestorGone)) } else { Ok(()) }
}

fn gone(cause: Cause) -> IdentityError {
    IdentityError::Unauthenticated(cause)
}
