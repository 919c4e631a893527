//! Tokens that come to be.

use super::holds_sudo;
use crate::RequestInfo;
use crate::cidr::{self, Cidr};
use crate::error::IdentityError;
use crate::name::{Accessor, DisplayName, PolicyName};
use crate::op::Act;
use crate::policy::Capability;
use crate::principal::{Principal, Proof};
use crate::service::{ATTEMPTS_MAX, Identities};
use crate::store;
use crate::token::lifetime::{self, Asked};
use crate::token::{
    self, ANCESTORS_MAX, Above, CIDRS_MAX, CREATE, CreateToken, CreatedToken, DefaultPolicy, Digest, Excess, NewParent,
    NewToken, Parent, Parentage, SYSTEM_TTL_MAX, Terms, Through, TokenKind, TokenMetadata, TokenRecord, TokenRole,
};
use audit::{Decision, Outcome, Record, Subject};
use envelope::{SecretBytes, Timestamp};
use std::num::NonZeroU32;
use std::sync::Arc;
use storage::{AtLeast, Batch, EntryPath};

/// What a new token gets from whoever makes it, and what must still hold when it is stored.
struct Heritage {
    ancestors: Vec<Digest>,
    parent: Parent,
    role: Option<(crate::RoleName, [u8; 16])>,
    expires: Option<Timestamp>,
    thumbprint: Option<[u8; 32]>,
    bound_cidrs: Arc<[Cidr]>,
    entity: Option<[u8; 16]>,
    /// Where the maker is of a namespace above, on whom it depends there.
    above: Vec<Above>,
    /// The maker's entry: it must not have been touched since.
    stands: Option<(EntryPath, storage::Revision)>,
}

impl Identities {
    /// Makes a child of the caller's token, or a token that ends with the caller's certificate role; or an orphan. Where the
    /// caller is bound to a certificate, or is one, so is what it makes, to the same or to the one that is asked for; where it
    /// is bound to addresses, so is what it makes, orphans too.
    pub async fn create_token(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateToken,
    ) -> Result<CreatedToken, IdentityError> {
        let path = command.through.path();
        let act = self.authorise(by, call, "CreateToken", path.clone(), Capability::Update).await?;
        for _ in 0..ATTEMPTS_MAX {
            match self.make_token(&act, by, call.now, &path, command.clone()).await {
                // the maker was renewed, used or ended in between
                Err(IdentityError::Conflict) => {}
                // nothing was stored, so nothing was told yet
                Ok(created) if created.metadata.kind == TokenKind::Stateless => return act.read(Ok(created)).await,
                outcome => return act.changed(outcome).await,
            }
        }
        act.changed(Err(IdentityError::Conflict)).await
    }

    /// The first token: allows everything, has no end and no parent. The same token again is the same token.
    pub async fn create_root(&self, token: &[u8], call: &RequestInfo) -> Result<TokenMetadata, IdentityError> {
        if !token::is_well_formed(token) || token::is_stateless(token) {
            return Err(IdentityError::InvalidField("token"));
        }
        let digest = self.layout.digest(token)?;
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
        let record = self.root_record(call.now)?;
        let leaf = Record {
            path: CREATE,
            decision: Decision::Allowed,
            ..call.record("CreateRootToken", &Subject::System, Outcome::Done)
        };
        self.commit(self.put_token(batch, &digest, &record, None)?, &leaf).await?;
        Ok(record.metadata(None))
    }

    /// Adds a new root token's entries to `batch`; the caller commits it with a record of its own, by [`Identities::commit`], and
    /// has decided that it may be made: nobody's rights are asked here.
    pub fn prepare_root(&self, batch: Batch, now: Timestamp) -> Result<(Batch, CreatedToken), IdentityError> {
        self.put_new(batch, self.root_record(now)?, None)
    }

    fn root_record(&self, now: Timestamp) -> Result<TokenRecord, IdentityError> {
        Ok(TokenRecord {
            accessor: Accessor::from_random(self.barrier.random()?),
            display_name: DisplayName::parse("root").unwrap_or_default(),
            policies: Arc::new([PolicyName::root()]),
            created: now,
            expires: None,
            use_limited: false,
            thumbprint: None,
            generation: self.generation,
            ancestors: Vec::new(),
            parent: Parent::Orphan,
            role: None,
            terms: Terms::plain(None),
        })
    }

    /// Adds a token's entries to `batch`, with what must hold when it is committed; the caller commits it with a record of its
    /// own, by [`Identities::commit`], and begins anew where the parent was renewed in between: a conflict tells. Of a stateless token nothing is added but what must hold: there may be nothing to commit.
    /// Times are cut to what can be had.
    ///
    /// The caller is trusted to have decided that the token may be made and what it may do. Here it is only seen to that it
    /// has not `root`, and as a child neither outlives its parent nor sheds its bounds.
    pub async fn prepare_token(
        &self,
        batch: Batch,
        new: NewToken<'_>,
        now: Timestamp,
    ) -> Result<(Batch, CreatedToken), IdentityError> {
        if new.policies.iter().any(PolicyName::is_root) {
            return Err(IdentityError::InvalidField("policies"));
        }
        let heritage = match new.parent {
            NewParent::Orphan => Heritage::none(),
            NewParent::ChildOf(by) => self.heritage(by, now).await?,
        };
        self.prepare(batch, new, heritage, now, Excess::Cap)
    }

    /// Who calls has decided on `root`, and on what is inherited.
    fn prepare(
        &self,
        batch: Batch,
        mut new: NewToken<'_>,
        heritage: Heritage,
        now: Timestamp,
        excess: Excess,
    ) -> Result<(Batch, CreatedToken), IdentityError> {
        new.policies.sort_unstable();
        new.policies.dedup();
        new.check()?;
        let above: usize = heritage.above.iter().map(|above| above.tokens.len()).sum();
        if heritage.ancestors.len() + above > ANCESTORS_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        let bound_cidrs = cidr::narrowed(&new.bound_cidrs, &heritage.bound_cidrs, CIDRS_MAX)?;
        let asked = Asked { ttl: new.ttl, explicit_max: new.explicit_max_ttl, period: new.period };
        let life = lifetime::begin(now, asked, heritage.expires, excess)?;
        // One that cannot be taken back lives no longer than one that can is renewed.
        if new.kind == TokenKind::Stateless && life.expires.since(now) > SYSTEM_TTL_MAX {
            return Err(IdentityError::InvalidField("ttl_secs"));
        }
        let terms = Terms {
            kind: new.kind,
            renewable: new.renewable && new.kind == TokenKind::Service,
            period: life.period,
            explicit_max: life.explicit_max,
            creation_ttl: Some(life.expires.since(now)),
            renewed: None,
            path: new.path.into(),
            meta: new.meta,
            entity: new.entity.or(heritage.entity),
            bound_cidrs: bound_cidrs.into(),
            token_role: new.role,
            released: false,
            above: heritage.above,
        };
        let record = TokenRecord {
            accessor: Accessor::from_random(self.barrier.random()?),
            display_name: new.display_name,
            policies: new.policies.into(),
            created: now,
            expires: Some(life.expires),
            use_limited: new.num_uses.is_some(),
            thumbprint: new.certificate_thumbprint.or(heritage.thumbprint),
            generation: self.generation,
            ancestors: heritage.ancestors,
            parent: heritage.parent,
            role: heritage.role,
            terms,
        };
        let batch = match heritage.stands {
            Some((maker, revision)) => batch.revision_is(maker, revision),
            None => batch,
        };
        self.put_new(batch, record, new.num_uses.map(NonZeroU32::get))
    }

    fn put_new(
        &self,
        batch: Batch,
        mut record: TokenRecord,
        uses: Option<u32>,
    ) -> Result<(Batch, CreatedToken), IdentityError> {
        match record.terms.kind {
            TokenKind::Service => {
                let token = self.layout.marked(token::generate()?)?;
                let digest = self.layout.digest(token.expose())?;
                let batch = batch.absent(self.layout.token(&digest)?);
                let batch = self.put_token(batch, &digest, &record, uses)?;
                Ok((batch, CreatedToken { token, metadata: record.metadata(uses) }))
            }
            TokenKind::Stateless => {
                if !record.ancestors.is_empty() {
                    // what is above the parent is read from the parent's record
                    record.ancestors.truncate(1);
                    record.role = None;
                    record.terms.above.clear();
                }
                let encoded = SecretBytes::from_vec(store::encode_token(&record)?);
                let sealed = self.barrier.seal(&self.layout.stateless()?, encoded.expose())?;
                let token = self.layout.marked(token::stateless_text(&sealed).ok_or(IdentityError::LimitExceeded)?)?;
                Ok((batch, CreatedToken { token, metadata: record.metadata(None) }))
            }
        }
    }

    async fn make_token(
        &self,
        act: &Act<'_>,
        by: &Principal,
        now: Timestamp,
        path: &str,
        command: CreateToken,
    ) -> Result<CreatedToken, IdentityError> {
        let role = match &command.through {
            Through::Create | Through::CreateOrphan => None,
            Through::Role(name) => Some(self.stored_token_role(name).await?),
        };
        let sudo = holds_sudo(by, path);
        let orphan = orphan(&command, role.as_ref(), sudo)?;
        let excess = command.excess;
        let policies = policies(by, &command, role.as_ref(), sudo)?;
        if self.layout.is_of_namespace() && policies.iter().any(PolicyName::is_root) {
            return Err(IdentityError::InvalidField("policies"));
        }
        // An orphan, too, is made by whoever is alive, and sheds no bound.
        let mut heritage = self.heritage(by, now).await?;
        let parent = if orphan { NewParent::Orphan } else { NewParent::ChildOf(by) };
        let new = asked(command, role, policies, parent)?;
        if orphan {
            let Heritage { thumbprint, bound_cidrs, stands, .. } = heritage;
            heritage = Heritage { thumbprint, bound_cidrs, stands, ..Heritage::none() };
        }
        let (batch, created) = self.prepare(self.changes.batch()?, new, heritage, now, excess)?;
        if created.metadata.kind == TokenKind::Service {
            act.commit(batch).await?;
        }
        Ok(created)
    }

    /// Reads the maker anew: what the cache knows may be over by now.
    async fn heritage(&self, by: &Principal, now: Timestamp) -> Result<Heritage, IdentityError> {
        match &by.proof {
            // Its child would be used without bound, or could not be found when it ends.
            Proof::Token { record, .. } if record.use_limited || record.terms.kind == TokenKind::Stateless => {
                Err(IdentityError::PermissionDenied)
            }
            Proof::Token { digest, .. } => {
                let loaded = self.load_token(digest, now).await?;
                let record = loaded.record;
                let path = self.layout.token(digest)?;
                Ok(Heritage {
                    ancestors: std::iter::once(*digest).chain(record.ancestors).collect(),
                    parent: Parent::Token(record.accessor),
                    role: record.role,
                    expires: [record.expires, loaded.parents_end].into_iter().flatten().min(),
                    thumbprint: record.thumbprint,
                    bound_cidrs: record.terms.bound_cidrs,
                    entity: record.terms.entity,
                    above: record.terms.above,
                    stands: Some((path, loaded.revision)),
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
                    parent: Parent::Role(role.clone()),
                    role: Some((role.clone(), *incarnation)),
                    thumbprint: Some(*thumbprint),
                    stands: Some((path, opened.revision)),
                    ..Heritage::none()
                })
            }
            // It ends with its maker, wherever that stands.
            Proof::Above { principal, identities } => {
                let there = Box::pin(identities.heritage(principal, now)).await?;
                let nearest =
                    Above { root: identities.layout.root().clone(), tokens: there.ancestors, role: there.role };
                let above = std::iter::once(nearest).chain(there.above).collect();
                Ok(Heritage { ancestors: Vec::new(), role: None, entity: None, above, ..there })
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
}

impl Heritage {
    fn none() -> Self {
        Self {
            ancestors: Vec::new(),
            parent: Parent::Orphan,
            role: None,
            expires: None,
            thumbprint: None,
            bound_cidrs: Arc::default(),
            entity: None,
            above: Vec::new(),
            stands: None,
        }
    }
}

impl Through {
    fn path(&self) -> String {
        match self {
            Self::Create => CREATE.to_owned(),
            Self::CreateOrphan => "auth/token/create-orphan".to_owned(),
            Self::Role(role) => format!("{CREATE}/{role}"),
        }
    }
}

/// Whether it is to have no parent, which takes sudo or a role; and what else takes sudo.
fn orphan(command: &CreateToken, role: Option<&TokenRole>, sudo: bool) -> Result<bool, IdentityError> {
    let asked = command.through == Through::CreateOrphan || command.parentage == Parentage::Orphan;
    let by_role = role.is_some_and(|role| role.orphan);
    if (asked && !by_role || command.period.is_some()) && !sudo {
        return Err(IdentityError::PermissionDenied);
    }
    Ok(asked || by_role)
}

/// The policies of what is asked for, which are the caller's to give: its own, all where it holds sudo, or the role's.
fn policies(
    by: &Principal,
    command: &CreateToken,
    role: Option<&TokenRole>,
    sudo: bool,
) -> Result<Vec<PolicyName>, IdentityError> {
    let mut policies = match role.filter(|role| role.names_policies()) {
        Some(role) => role.given(&command.policies, by.policies(), command.default_policy)?,
        // the names of its own policies are others' here
        None if command.policies.is_empty() && by.is_from_above() => vec![PolicyName::default_policy()],
        None if command.policies.is_empty() => by.policies().to_vec(),
        None => command.policies.clone(),
    };
    if policies.iter().any(PolicyName::is_root) {
        // as Vault does: who is root makes root, and nobody else, by no role
        let by_root = by.is_root() && role.is_none() && command.kind.unwrap_or_default() == TokenKind::Service;
        return if by_root { Ok(vec![PolicyName::root()]) } else { Err(IdentityError::InvalidField("policies")) };
    }
    if policies.len() > token::POLICIES_MAX {
        return Err(IdentityError::InvalidField("policies"));
    }
    if role.is_some_and(TokenRole::names_policies) {
        return Ok(policies);
    }
    let default = PolicyName::default_policy();
    let own = |policy: &PolicyName| by.policies().contains(policy) || by.is_from_above() && *policy == default;
    if !sudo && !policies.iter().all(own) {
        return Err(IdentityError::PermissionDenied);
    }
    let without = command.policies.is_empty() || role.is_some_and(|role| role.no_default_policy);
    if command.default_policy == DefaultPolicy::Added && !without && (sudo || own(&default)) {
        policies.push(default);
    }
    Ok(policies)
}

/// What is asked for, with what the role puts on it.
fn asked<'p>(
    command: CreateToken,
    role: Option<TokenRole>,
    policies: Vec<PolicyName>,
    parent: NewParent<'p>,
) -> Result<NewToken<'p>, IdentityError> {
    let new = NewToken {
        policies,
        path: command.through.path(),
        display_name: command.display_name,
        ttl: command.ttl,
        explicit_max_ttl: command.explicit_max_ttl,
        period: command.period,
        num_uses: command.num_uses,
        renewable: command.renewable,
        kind: command.kind.unwrap_or_default(),
        meta: command.meta,
        entity: None,
        bound_cidrs: command.bound_cidrs,
        certificate_thumbprint: command.certificate_thumbprint,
        role: None,
        parent,
    };
    let Some(role) = role else { return Ok(new) };
    let mut path = format!("{CREATE}/{}", role.name);
    if !role.path_suffix.is_empty() {
        path = format!("{path}/{}", role.path_suffix);
    }
    Ok(NewToken {
        explicit_max_ttl: [new.explicit_max_ttl, role.explicit_max_ttl].into_iter().flatten().min(),
        period: role.period.or(new.period),
        num_uses: [new.num_uses, role.num_uses].into_iter().flatten().min(),
        renewable: new.renewable && role.renewable,
        kind: role.kind.given(command.kind)?,
        path,
        bound_cidrs: cidr::narrowed(&new.bound_cidrs, &role.bound_cidrs, CIDRS_MAX)?,
        role: Some(role.name),
        ..new
    })
}

/// Whether the caller may give these policies: they are its own, or it is root or holds sudo on the path.
pub(in crate::op) fn within_own(by: &Principal, policies: &[PolicyName], path: &str) -> bool {
    policies.iter().all(|policy| by.policies().contains(policy)) || holds_sudo(by, path)
}
