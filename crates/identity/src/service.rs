//! `Identities`: recognises who asks, and holds the seams of every operation.
//!
//! Always: what is served from the cache was alive when read, and goes as soon as its token, an ancestor, its role or one of
//! its policies changes; time, certificate and generation are checked each time.
//! Never: a use-limited token in the cache. Each use is counted in the store before it counts.

use crate::RequestInfo;
use crate::acl::Acl;
use crate::alive::{self, Loaded};
use crate::certificate::{PeerCertificate, Standing};
use crate::change::{ChangeError, Changes};
use crate::cidr;
use crate::entity::Derived;
use crate::error::{Cause, IdentityError};
use crate::name::PolicyName;
use crate::op::DEFAULT_POLICY;
use crate::policy::Policy;
use crate::principal::{Principal, Proof};
use crate::store::{self, AclKey, Caches, Layout, StoredRole};
use crate::token::{self, Digest, TokenRecord};
use crate::turn::Turns;
use audit::{AuditSink, Decision, Outcome, Record};
use envelope::mac;
use futures_util::FutureExt;
use std::sync::Arc;
use storage::{AtLeast, Barrier, Batch, Change, Entry, EntryPath, Invalidate, Revision};

/// What identity stands on.
#[derive(Debug, Clone)]
pub struct Seams {
    pub barrier: Arc<Barrier>,
    pub tenant: [u8; 16],
    /// The cluster's; tokens of another one are void.
    pub generation: u64,
    pub changes: Changes,
    /// One for the whole process.
    pub caches: Arc<Caches>,
}

/// Tokens, policies and certificate roles of one tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identities {
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) generation: u64,
    pub(crate) changes: Changes,
    pub(crate) caches: Arc<Caches>,
    /// Uses of one token are counted one after the other within the process, so that they do not conflict.
    turns: Arc<Turns>,
}

impl Identities {
    pub fn new(seams: Seams) -> Result<Self, IdentityError> {
        Ok(Self {
            layout: Arc::new(Layout::new(Arc::clone(&seams.barrier), &seams.tenant)?),
            barrier: seams.barrier,
            generation: seams.generation,
            changes: seams.changes,
            caches: seams.caches,
            turns: Arc::default(),
        })
    }

    /// The same, recording on another lane of the audit log: one for each core.
    #[must_use]
    pub fn on_lane(&self, sink: Arc<dyn AuditSink>) -> Self {
        Self { changes: self.changes.on_lane(sink), ..self.clone() }
    }

    /// The barrier was closed by hand: nobody is recognised.
    pub fn is_sealed(&self) -> bool {
        self.barrier.is_closed()
    }

    /// Those of a namespace whose part of the store is below `part`, which is below this one's own tenant; `mark` tells its
    /// tokens from others. What they share with these is caches, and turns.
    pub fn in_namespace(&self, part: &EntryPath, mark: &str) -> Result<Self, IdentityError> {
        let layout = Arc::new(Layout::in_namespace(Arc::clone(&self.barrier), part, mark)?);
        Ok(Self { layout, ..self.clone() })
    }

    /// What [`storage::follow`] must watch for the caches.
    pub fn watched(&self) -> EntryPath {
        self.layout.root().clone()
    }

    /// Who asks. A token counts alone, or beside the certificate that it is bound to, and the certificate adds no rights; a
    /// certificate without a token counts by its role, where the listener's authorities vouch for it. One use of a use-limited token is gone, whatever comes of the request.
    pub async fn authenticate(
        &self,
        token: Option<&[u8]>,
        certificate: Option<&PeerCertificate>,
        call: &RequestInfo,
    ) -> Result<Arc<Principal>, IdentityError> {
        let outcome = match (token, certificate) {
            (Some(token), certificate) => self.by_token(token, certificate, call).await,
            (None, Some(certificate)) => match certificate.standing {
                Standing::Verified => self.by_certificate(certificate).await,
                Standing::Shown => Err(IdentityError::Unauthenticated(Cause::CertificateUnknown)),
            },
            (None, None) => Err(IdentityError::Unauthenticated(Cause::NoCredentials)),
        };
        if let Some(entity) = outcome.as_ref().ok().and_then(|by| by.entity.as_ref()) {
            let _ = call.entity.set(Arc::clone(entity));
        }
        if let Err(error) = &outcome {
            tracing::debug!(request_id = call.request_id, from = call.from, cause = error.cause(), %error, "not recognised");
        }
        outcome
    }

    async fn by_token(
        &self,
        token: &[u8],
        certificate: Option<&PeerCertificate>,
        call: &RequestInfo,
    ) -> Result<Arc<Principal>, IdentityError> {
        if !token::is_well_formed(token) {
            return Err(IdentityError::Unauthenticated(Cause::TokenMalformed));
        }
        // before the cache: a rotation ends what is known already, too
        if token::is_stateless(token) && token::stateless_epoch(token).is_some_and(|epoch| !self.barrier.vouches(epoch))
        {
            return Err(IdentityError::Unauthenticated(Cause::OldEpoch));
        }
        let digest = self.layout.digest(token)?;
        if let Some(principal) = self.caches.tokens.peek(&digest) {
            if let Proof::Token { record, parents_end, .. } = &principal.proof {
                self.check_alive(record, call.now)?;
                alive::check_parents_end(*parents_end, call.now)?;
                check_bound(record, certificate, call)?;
            }
            return Ok(principal);
        }
        // What is rare does not make what is frequent larger.
        if token::is_stateless(token) {
            return Box::pin(self.by_sealed_token(token, digest, certificate, call)).await;
        }
        Box::pin(self.by_stored_token(digest, certificate, call)).await
    }

    async fn by_stored_token(
        &self,
        digest: Digest,
        certificate: Option<&PeerCertificate>,
        call: &RequestInfo,
    ) -> Result<Arc<Principal>, IdentityError> {
        let loaded = self.load_token(&digest, call.now).await?;
        check_bound(&loaded.record, certificate, call)?;
        if loaded.record.use_limited {
            return self.use_up(digest, loaded, certificate, call).await;
        }
        Ok(self.remember(digest, loaded))
    }

    async fn by_sealed_token(
        &self,
        token: &[u8],
        digest: Digest,
        certificate: Option<&PeerCertificate>,
        call: &RequestInfo,
    ) -> Result<Arc<Principal>, IdentityError> {
        let loaded = self.open_stateless(token, call.now).await?;
        check_bound(&loaded.record, certificate, call)?;
        Ok(self.remember(digest, loaded))
    }

    fn remember(&self, digest: Digest, loaded: Loaded) -> Arc<Principal> {
        let Loaded { record, parents_end, acl, depends_on, read_at, .. } = loaded;
        let principal = Arc::new(Principal::of_token(digest, record, None, parents_end, acl));
        self.caches.tokens.insert(digest, Arc::clone(&principal), &depends_on, read_at);
        principal
    }

    /// Counts one use: the count goes down in the store, under the revision that was read, or it is read anew.
    async fn use_up(
        &self,
        digest: Digest,
        loaded: Loaded,
        certificate: Option<&PeerCertificate>,
        call: &RequestInfo,
    ) -> Result<Arc<Principal>, IdentityError> {
        // who has to wait has read what is counted down meanwhile
        let (_turn, mut loaded) = match self.turn(&digest).now_or_never() {
            Some(turn) => (turn, Some(loaded)),
            None => (self.turn(&digest).await, None),
        };
        for _ in 0..ATTEMPTS_MAX {
            let loaded = match loaded.take() {
                Some(loaded) => loaded,
                None => self.load_token(&digest, call.now).await?,
            };
            check_bound(&loaded.record, certificate, call)?;
            let (left, revision) = loaded.uses.ok_or(IdentityError::Unauthenticated(Cause::TokenUsedUp))?;
            let left = left.checked_sub(1).ok_or(IdentityError::Unauthenticated(Cause::TokenUsedUp))?;
            let uses = self.layout.uses(&digest)?;
            let sealed = self.barrier.seal(&uses, &store::encode_uses(left)?)?;
            let batch = self.changes.batch()?.revision_is(uses.clone(), revision).put(uses, sealed);
            let batch = batch.revision_is(self.layout.token(&digest)?, loaded.revision);
            let batch = match left {
                0 => self.used_up(batch, &digest, &loaded.record.accessor, call.now).await?,
                _ => batch,
            };
            let principal = Principal::of_token(digest, loaded.record, Some(left), loaded.parents_end, loaded.acl);
            let record = Record {
                path: "auth/token/use",
                decision: Decision::Allowed,
                ..call.record("UseToken", principal.subject(), Outcome::Done)
            };
            match self.commit(batch, &record).await {
                Ok(_) => return Ok(Arc::new(principal)),
                Err(ChangeError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IdentityError::Conflict)
    }

    /// Whoever changes one token again and again does so one after the other within the process.
    pub(crate) async fn turn(&self, digest: &Digest) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.turns.of(digest.0).await
    }

    async fn by_certificate(&self, certificate: &PeerCertificate) -> Result<Arc<Principal>, IdentityError> {
        // roles for certificates are the root's
        if self.layout.is_of_namespace() {
            return Err(IdentityError::Unauthenticated(Cause::CertificateUnknown));
        }
        if let Some(principal) = self.caches.certificates.peek(&certificate.thumbprint) {
            return Ok(principal);
        }
        Box::pin(self.by_stored_role(certificate)).await
    }

    async fn by_stored_role(&self, certificate: &PeerCertificate) -> Result<Arc<Principal>, IdentityError> {
        let unknown = || IdentityError::Unauthenticated(Cause::CertificateUnknown);
        let mut depends_on = self.layout.matched_any(certificate)?;
        let (read_at, found) = self.barrier.get(&depends_on, AtLeast::Latest).await?;
        let matched = found.into_iter().flatten().next().ok_or_else(unknown)?;
        let name = store::decode_name(&matched.value)?;
        let path = self.layout.role(&name)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let stored = found.into_iter().flatten().next().ok_or_else(unknown)?;
        let StoredRole { matches, policies, incarnation, lineage } = store::decode_role(&stored.value)?;
        // Between the two reads the role may have come to stand for another certificate.
        if !depends_on.contains(&self.layout.matched(&matches)?) {
            return Err(unknown());
        }
        let paths = policies.iter().map(|name| self.layout.policy(name)).collect::<Result<Vec<_>, _>>()?;
        let (revision, entries) = self.barrier.storage().get(&paths, AtLeast::Latest).await?;
        let acl = self.acl(&policies, &entries, revision, None)?;
        depends_on.push(path);
        depends_on.extend(paths);
        let thumbprint = certificate.thumbprint;
        let principal = Arc::new(Principal::of_certificate(&thumbprint, name, (incarnation, lineage), policies, acl));
        self.caches.certificates.insert(thumbprint, Arc::clone(&principal), &depends_on, read_at);
        Ok(principal)
    }

    /// The rules of these policies, whose entries were read at `revision`, for whom `of` tells. What is not there gives nothing.
    pub(crate) fn acl(
        &self,
        names: &[PolicyName],
        entries: &[Option<Entry>],
        revision: Revision,
        of: Option<&Derived>,
    ) -> Result<Arc<Acl>, IdentityError> {
        if names.iter().any(PolicyName::is_root) {
            return Ok(Arc::new(Acl::root()));
        }
        let revisions = entries.iter().map(|entry| entry.as_ref().map(|entry| entry.revision));
        let key: AclKey = (self.layout.root().clone(), names.iter().cloned().zip(revisions).collect());
        // a templated one is kept as it is for whoever has no entity
        if let Some(acl) = self.caches.acls.peek(&key).filter(|acl| of.is_none() || !acl.is_templated()) {
            return Ok(acl);
        }
        let mut policies = Vec::with_capacity(names.len());
        for (name, entry) in names.iter().zip(entries) {
            if let Some(policy) = self.policy_at(name, entry.as_ref(), revision)? {
                policies.push((name, policy));
            }
        }
        let named = policies.iter().map(|(name, policy)| (*name, &**policy));
        let acl = Arc::new(Acl::compile_for(named, &|variable| of?.value(variable)));
        if of.is_none() || !acl.is_templated() {
            self.caches.acls.insert(key, Arc::clone(&acl), &[], revision);
        }
        Ok(acl)
    }

    /// What the entry says; without one, `default` says what it says at first, and no other anything.
    fn policy_at(
        &self,
        name: &PolicyName,
        entry: Option<&Entry>,
        read_at: Revision,
    ) -> Result<Option<Arc<Policy>>, IdentityError> {
        let key = (self.layout.root().clone(), name.clone(), entry.map(|entry| entry.revision));
        if let Some(policy) = self.caches.policies.peek(&key) {
            return Ok(Some(policy));
        }
        let policy = match entry {
            Some(entry) => {
                let text = self.barrier.open(&self.layout.policy(name)?, &entry.value)?;
                let text = std::str::from_utf8(text.expose()).ok().and_then(|text| Policy::parse(text).ok());
                text.ok_or_else(|| IdentityError::Altered(format!("the stored policy {name} cannot be read")))?
            }
            None if name.as_str() == "default" => Policy::parse(DEFAULT_POLICY)?,
            None => return Ok(None),
        };
        let policy = Arc::new(policy);
        self.caches.policies.insert(key, Arc::clone(&policy), &[], read_at);
        Ok(Some(policy))
    }

    /// Commits, and drops what the change outdates before the caller hears of it. For whoever adds to a batch of ours, too.
    pub async fn commit(&self, batch: Batch, record: &Record<'_>) -> Result<Revision, ChangeError> {
        let paths = batch.writes.iter().map(|write| write.path().clone()).collect();
        let revision = self.changes.commit(batch, record).await?;
        self.caches.apply(&Change::Paths { revision, paths });
        Ok(revision)
    }
}

/// A bound token counts only beside its certificate, and only from its addresses.
fn check_bound(
    record: &TokenRecord,
    certificate: Option<&PeerCertificate>,
    call: &RequestInfo,
) -> Result<(), IdentityError> {
    if !cidr::allows(&record.terms.bound_cidrs, &call.from) {
        return Err(IdentityError::Unauthenticated(Cause::AddressOther));
    }
    match (&record.thumbprint, certificate) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(IdentityError::Unauthenticated(Cause::CertificateMissing)),
        (Some(bound), Some(shown)) if mac::equal(bound, &shown.thumbprint) => Ok(()),
        (Some(_), Some(_)) => Err(IdentityError::Unauthenticated(Cause::CertificateOther)),
    }
}

/// How often a count is read anew when other nodes count at the same time.
pub(crate) const ATTEMPTS_MAX: usize = 32;
