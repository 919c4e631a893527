//! Kms: holds the seams, and the walk that every operation takes: resolve, authorise, load, ask, record.

use crate::act::{Act, Right, Told};
use crate::error::{Face, KmsError};
use crate::grant::Ask;
use crate::key::KeyRecord;
use crate::name::{AliasName, KeyRef};
use crate::policy::{Access, decide};
use crate::store::{Caches, Store};
use crate::through::Errand;
use audit::{AuditSink, Decision, Outcome};
use envelope::{EncryptionContext, mac};
use hsm_api::{Boundary, HsmError, KeyId, KeyUsage, ModuleStatus, Reply, Request, TenantId, ask};
use identity::{Capability, Changes, Decided, Principal, Verdict};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use storage::{Barrier, Batch, Change, EntryPath, Invalidate, Write};

/// What the key domain is made of.
#[derive(Debug, Clone)]
pub struct Seams {
    pub boundary: Arc<dyn Boundary>,
    pub barrier: Arc<Barrier>,
    pub audit: Arc<dyn AuditSink>,
    pub changes: Changes,
    /// Shared by all cores.
    pub caches: Arc<Caches>,
    pub tenant: TenantId,
    /// The cluster's.
    pub generation: u64,
}

/// The key domain's operations. One a core; clones are cheap.
#[derive(Debug, Clone)]
pub struct Kms {
    pub(crate) inner: Arc<Inner>,
    /// What this handle is for, and nothing else: another domain has decided.
    pub(crate) errand: Option<Errand>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) seams: Seams,
    pub(crate) store: Store,
    /// What the boundary said of itself; forgotten when it may have become another.
    status: Arc<Mutex<Option<Arc<ModuleStatus>>>>,
    /// Where the sweep of old client request ids goes on.
    pub(crate) swept_to: Arc<Mutex<Option<EntryPath>>>,
}

impl Kms {
    pub fn new(seams: Seams) -> Result<Self, KmsError> {
        let store = Store::new(Arc::clone(&seams.barrier), Arc::clone(&seams.caches), seams.tenant)?;
        let (status, swept_to) = (Arc::default(), Arc::default());
        Ok(Self { inner: Arc::new(Inner { seams, store, status, swept_to }), errand: None })
    }

    /// The same keys, with records on another lane of the same log.
    #[must_use]
    pub fn on_lane(&self, lane: &Arc<dyn AuditSink>) -> Self {
        let Inner { seams, store, status, swept_to } = &*self.inner;
        let changes = seams.changes.on_lane(Arc::clone(lane));
        let seams = Seams { audit: Arc::clone(lane), changes, ..seams.clone() };
        let (store, status, swept_to) = (store.clone(), Arc::clone(status), Arc::clone(swept_to));
        Self { inner: Arc::new(Inner { seams, store, status, swept_to }), errand: self.errand.clone() }
    }

    /// Keys of a namespace whose part of the store is below `part`: of a tenant of its own, with which nothing is shared but the
    /// boundary, and caches.
    pub fn in_namespace(&self, part: &EntryPath, tenant: TenantId) -> Result<Self, KmsError> {
        let Inner { seams, store, status, swept_to: _ } = &*self.inner;
        let store = store.in_namespace(part, tenant)?;
        let inner = Inner {
            seams: Seams { tenant, ..seams.clone() },
            store,
            status: Arc::clone(status),
            swept_to: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner), errand: None })
    }

    /// What [`storage::follow`] watches for the caches.
    pub fn watched(&self) -> EntryPath {
        self.store().root().clone()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.inner.seams.tenant
    }

    pub(crate) fn generation(&self) -> u64 {
        self.inner.seams.generation
    }

    /// The key that `key` names. An unknown alias is told only to who may see aliases or keys.
    pub(crate) async fn resolve(&self, act: &mut Act<'_>, key: &KeyRef) -> Result<KeyId, KmsError> {
        match key {
            KeyRef::Id(id) => Ok(*id),
            KeyRef::Alias(name) => match self.store().alias(name).await? {
                Some(target) => Ok(target),
                None => Err(unknown_alias(act, name)),
            },
        }
    }

    /// Nothing of the key itself is read before this has allowed: unknown and forbidden take one way.
    pub(crate) async fn authorise(
        &self,
        act: &mut Act<'_>,
        id: &KeyId,
        right: Right<'_>,
        context: Option<&EncryptionContext>,
    ) -> Result<(), KmsError> {
        act.on_key(id, right.suffix);
        if let Some(errand) = &self.errand {
            return settle(act, errand.covers(id, right), Cow::Owned(errand.rule.to_string()));
        }
        let by = act.by;
        let Decided { verdict, ack } = identity::decide(by.acl(), &act.path, right.capability);
        let demanded = act.call.demand(ack);
        let grants = match (verdict, right.grant) {
            (Verdict::Nothing, Some(_)) => Some(self.store().grants(id).await?),
            (Verdict::Nothing | Verdict::Allow { .. } | Verdict::Deny { .. }, _) => None,
        };
        let ask = right.grant.map(|operation| Ask { principal: by.id(), operation, context, now: act.call.now });
        let own = grants.as_ref().map_or(&[][..], |grants| grants.of(by.id()));
        let (decision, rule) = match decide(verdict, own, ask.as_ref()) {
            Access::ByPolicy { rule } => (Decision::Allowed, Cow::Borrowed(rule)),
            Access::ByGrant(grant) => (Decision::Allowed, Cow::Owned(format!("grant/{}", grant.id))),
            Access::DeniedByPolicy { rule } => (Decision::Denied, Cow::Borrowed(rule)),
            Access::DeniedByNone => (Decision::Denied, Cow::Borrowed("")),
        };
        settle(act, decision, rule)?;
        Ok(demanded?)
    }

    /// Resolves, authorises, and loads a key that is usable for `usage` now.
    pub(crate) async fn admit(
        &self,
        act: &mut Act<'_>,
        key: &KeyRef,
        right: Right<'_>,
        usage: KeyUsage,
        context: Option<&EncryptionContext>,
    ) -> Result<Arc<KeyRecord>, KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, right, context).await?;
        let key = self.store().key(&id).await?.ok_or(KmsError::KeyNotFound)?;
        key.usable_for(usage)?;
        Ok(key)
    }

    /// As [`Self::admit`], a key that is about to seal.
    pub(crate) async fn admit_to_seal(
        &self,
        act: &mut Act<'_>,
        key: &KeyRef,
        right: Right<'_>,
        context: &EncryptionContext,
    ) -> Result<Arc<KeyRecord>, KmsError> {
        let key = self.admit(act, key, right, KeyUsage::EncryptDecrypt, Some(context)).await?;
        self.renewed(key, act.call.now).await
    }

    /// What was changed by others than this: what is kept of it goes at once.
    pub fn heard(&self, change: &storage::Change) {
        self.inner.seams.caches.apply(change);
    }

    /// Drops what is kept in memory.
    pub fn forget(&self) {
        self.inner.seams.caches.forget();
    }

    /// The digest that binds `context`, made once; notes its keyed hash for the record.
    pub(crate) fn bind(&self, act: &mut Act<'_>, context: &EncryptionContext) -> Result<[u8; 32], KmsError> {
        act.context = None;
        if context.is_empty() {
            return Ok(*EMPTY_CONTEXT_DIGEST);
        }
        let digest = context.digest();
        let hash = self.inner.seams.barrier.keyed_hash(b"kms/context", &digest)?;
        let mut text = [0; 64];
        act.context = hex::encode_to_slice(hash, &mut text).is_ok().then_some(text);
        Ok(digest)
    }

    /// Hands request and record over at once, and awaits both. What cannot be recorded is not told.
    pub(crate) async fn ask<T>(
        &self,
        act: &Act<'_>,
        request: Request,
        take: impl FnOnce(Reply) -> Result<T, HsmError>,
    ) -> Result<T, KmsError> {
        let pending = self.inner.seams.boundary.submit(request);
        let logged = self.inner.seams.audit.append(act.record(Outcome::Asked).encode());
        // one after the other: both are out already, the log is mostly the later, and so the task is woken once
        logged.await?;
        match pending.await.and_then(take) {
            Ok(taken) => Ok(taken),
            Err(error) => self.refuse(act, self.boundary_error(error)).await,
        }
    }

    /// Records that the act failed; then the error may be told.
    pub(crate) async fn refuse<T>(&self, act: &Act<'_>, error: KmsError) -> Result<T, KmsError> {
        match error.face() {
            Face::Internal => tracing::error!(request_id = act.call.request_id, %error, "refused"),
            Face::Unavailable => tracing::warn!(request_id = act.call.request_id, %error, "refused"),
            Face::PermissionDenied
            | Face::InvalidArgument
            | Face::NotFound
            | Face::AlreadyExists
            | Face::FailedPrecondition
            | Face::ResourceExhausted
            | Face::Aborted => {}
        }
        self.inner.seams.audit.append(act.failure(&error)).await?;
        Err(error)
    }

    /// Records how an act without a boundary call ended, unless its change has told that already.
    pub(crate) async fn finish<T>(&self, act: &Act<'_>, ended: Result<(T, Told), KmsError>) -> Result<T, KmsError> {
        match ended {
            Ok((value, Told::WithItsChange)) => Ok(value),
            Ok((value, Told::NotYet)) => {
                self.inner.seams.audit.append(act.record(Outcome::Done).encode()).await?;
                Ok(value)
            }
            Err(error) => self.refuse(act, error).await,
        }
    }

    /// Commits a change with the act's record, and lets the caches of this node forget what changed.
    pub(crate) async fn commit(&self, act: &Act<'_>, batch: Batch) -> Result<Told, KmsError> {
        self.commit_record(batch, &act.record(Outcome::Done)).await?;
        Ok(Told::WithItsChange)
    }

    pub(crate) async fn commit_record(&self, batch: Batch, record: &audit::Record<'_>) -> Result<(), KmsError> {
        let paths = batch.writes.iter().map(Write::path).cloned().collect();
        let revision = self.inner.seams.changes.commit(batch, record).await?;
        self.inner.seams.caches.apply(&Change::Paths { revision, paths });
        Ok(())
    }

    pub(crate) fn batch(&self) -> Result<Batch, KmsError> {
        Ok(self.inner.seams.changes.batch()?)
    }

    pub(crate) fn seal(&self, path: &EntryPath, value: &[u8]) -> Result<bytes::Bytes, KmsError> {
        Ok(self.inner.seams.barrier.seal(path, value)?)
    }

    /// What the boundary says of itself: as last heard, or asked anew.
    pub(crate) async fn status(&self) -> Result<Arc<ModuleStatus>, KmsError> {
        let known = self.inner.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(status) = known {
            return Ok(status);
        }
        let boundary = &self.inner.seams.boundary;
        let status =
            ask!(boundary, Request::Status => Reply::Status).await.map_err(|error| self.boundary_error(error))?;
        let status = Arc::new(*status);
        *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&status));
        Ok(status)
    }

    pub(crate) fn boundary_error(&self, error: HsmError) -> KmsError {
        let error = KmsError::of_boundary(error);
        // whatever answers next may be another module, or this one with other capabilities
        if matches!(error, KmsError::BoundaryUnavailable(_) | KmsError::UnsupportedByBoundary) {
            *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        error
    }
}

impl Kms {
    /// What the ACL says of a path that is no key's.
    pub(crate) fn authorise_path(&self, act: &mut Act<'_>, path: &str, capability: Capability) -> Result<(), KmsError> {
        match &self.errand {
            None => authorise_path(act, path, capability),
            Some(errand) => {
                act.on_path(path);
                settle(act, errand.covers_path(path, capability), Cow::Owned(errand.rule.to_string()))
            }
        }
    }
}

fn authorise_path(act: &mut Act<'_>, path: &str, capability: Capability) -> Result<(), KmsError> {
    act.on_path(path);
    let Decided { verdict, ack } = identity::decide(act.by.acl(), path, capability);
    let demanded = act.call.demand(ack);
    match verdict {
        Verdict::Allow { rule } => settle(act, Decision::Allowed, Cow::Borrowed(rule)),
        Verdict::Deny { rule } => settle(act, Decision::Denied, Cow::Borrowed(rule)),
        Verdict::Nothing => settle(act, Decision::Denied, Cow::Borrowed("")),
    }?;
    Ok(demanded?)
}

fn settle<'a>(act: &mut Act<'a>, decision: Decision, rule: Cow<'a, str>) -> Result<(), KmsError> {
    act.rule = rule;
    act.decision = decision;
    if decision == Decision::Allowed { Ok(()) } else { Err(KmsError::PermissionDenied) }
}

/// Told as unknown only to who may see it.
pub(crate) fn unknown_alias(act: &mut Act<'_>, name: &AliasName) -> KmsError {
    act.on_path(&format!("kms/aliases/{}", name.bare()));
    if may_see_alias(act.by, name) {
        return KmsError::AliasNotFound;
    }
    act.decision = Decision::Denied;
    KmsError::PermissionDenied
}

/// Who may read the alias, or any key.
pub(crate) fn may_see_alias(by: &Principal, name: &AliasName) -> bool {
    let reads =
        |path: &str| matches!(identity::decide(by.acl(), path, Capability::Read).verdict, Verdict::Allow { .. });
    reads(&format!("kms/aliases/{}", name.bare())) || reads("kms/keys/+")
}

/// SHA-256 of the empty context's canonical form, four zero bytes.
static EMPTY_CONTEXT_DIGEST: std::sync::LazyLock<[u8; 32]> = std::sync::LazyLock::new(|| mac::sha256(&[0; 4]));
