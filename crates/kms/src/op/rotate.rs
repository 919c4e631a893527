//! RotateKeyOnDemand, and the rotation of what an earlier generation of the cluster has left.
//!
//! Never: a seal under a version whose count of invocations may have been put back with a store, a log or a token.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::{KeyRecord, KeyState, Refusal};
use crate::name::KeyRef;
use crate::op::PageRequest;
use crate::op::create_key::ATTEMPTS_MAX;
use crate::service::Kms;
use crate::store::{Found, codec};
use crate::sweep::system_record;
use audit::{Outcome, Record};
use envelope::Timestamp;
use hsm_api::{KeyId, NewKey, ProtectionLevel};
use identity::{Principal, RequestInfo};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRotated {
    pub key_id: KeyId,
    /// The new version.
    pub key_version: u32,
}

/// A page of keys, of which those that were outlived are rotated.
#[derive(Debug, Default)]
pub struct RenewedPage {
    /// Where the next page begins; `None` on the last.
    pub next_marker: Option<String>,
    pub done: usize,
    /// Why the last that failed did.
    pub failed: Option<KmsError>,
}

impl Kms {
    pub async fn rotate_key_on_demand(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<KeyRotated, KmsError> {
        self.rotate_where(by, call, key, KeyRecord::next_version).await
    }

    pub(crate) async fn rotate_where(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
        next: fn(&KeyRecord) -> Result<u32, Refusal>,
    ) -> Result<KeyRotated, KmsError> {
        let mut act = Act::new("RotateKeyOnDemand", by, call);
        let ended = self.rotate(&mut act, key, next).await;
        self.finish(&act, ended).await
    }

    async fn rotate(
        &self,
        act: &mut Act<'_>,
        key: &KeyRef,
        next: fn(&KeyRecord) -> Result<u32, Refusal>,
    ) -> Result<(KeyRotated, Told), KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, Right::ROTATE, None).await?;
        let path = self.store().key_path(&id)?;
        for _ in 0..ATTEMPTS_MAX {
            let Found { value: key, revision } = self.store().key_now(&id).await?.ok_or(KmsError::KeyNotFound)?;
            let version = next(&key)?;
            let asked = act.record(Outcome::Asked).encode();
            let (_, material) = self.generate(asked, self.successor(&key, version)).await?;
            let rotated = key.rotated(material, version, act.call.now, self.generation());
            let value = self.seal_key(&path, &rotated)?;
            let batch = self.batch()?.revision_is(path.clone(), revision).put(path.clone(), value);
            match self.commit(act, batch).await {
                Ok(told) => return Ok((KeyRotated { key_id: id, key_version: version }, told)),
                // another rotation took the number; the version just made is known to nobody
                Err(KmsError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KmsError::Conflict)
    }

    fn successor(&self, key: &KeyRecord, version: u32) -> NewKey {
        NewKey {
            key_id: Some(key.id),
            version,
            tenant: self.tenant(),
            spec: key.spec,
            usage: key.usage,
            level: key.level,
            not_after: None,
        }
    }

    /// The key with a current version that may seal: a new one, where the old one is outlived.
    pub(crate) async fn renewed(&self, key: Arc<KeyRecord>, now: Timestamp) -> Result<Arc<KeyRecord>, KmsError> {
        if key.is_outlived(self.generation()) { self.renew(&key.id, now).await } else { Ok(key) }
    }

    async fn renew(&self, id: &KeyId, now: Timestamp) -> Result<Arc<KeyRecord>, KmsError> {
        self.rotate_by_itself("RotateOutlivedKey", id, now, |key| key.is_outlived(self.generation())).await
    }

    /// For a domain that rotates its keys by their age: a new version, where the current one was made before `made_before`.
    /// When the current one was made. The record's subject is the system.
    pub async fn rotate_when_due(
        &self,
        id: &KeyId,
        made_before: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, KmsError> {
        let is_due = |key: &KeyRecord| key.versions.last().is_some_and(|version| version.created < made_before);
        let key = self.rotate_by_itself("RotateKeyWhenDue", id, now, is_due).await?;
        Ok(key.versions.last().map_or(key.created, |version| version.created))
    }

    /// One at a time of a key on this node, so that many callers make one version.
    async fn rotate_by_itself(
        &self,
        operation: &'static str,
        id: &KeyId,
        now: Timestamp,
        is_due: impl Fn(&KeyRecord) -> bool + Send,
    ) -> Result<Arc<KeyRecord>, KmsError> {
        let _turn = self.inner.seams.caches.renewing.of(id.bytes()).await;
        let record_path = format!("kms/keys/{id}");
        for _ in 0..ATTEMPTS_MAX {
            let found = self.store().key_now(id).await?.ok_or(KmsError::KeyNotFound)?;
            if !is_due(&found.value) {
                return Ok(Arc::new(found.value));
            }
            let version = found.value.next_version_of_any()?;
            let done = system_record(now, operation, &record_path);
            match self.rotate_now(found, version, now, &done).await {
                Ok(rotated) => return Ok(Arc::new(rotated)),
                Err(error) => {
                    let failed = Record { outcome: Outcome::Failed(error.reason().into()), ..done };
                    self.inner.seams.audit.append(failed.encode()).await?;
                    // another node was faster
                    if !matches!(error, KmsError::Conflict) {
                        return Err(error);
                    }
                }
            }
        }
        Err(KmsError::Conflict)
    }

    async fn rotate_now(
        &self,
        Found { value: key, revision }: Found<KeyRecord>,
        version: u32,
        now: Timestamp,
        done: &Record<'_>,
    ) -> Result<KeyRecord, KmsError> {
        let path = self.store().key_path(&key.id)?;
        let asked = Record { outcome: Outcome::Asked, ..done.clone() };
        let (_, material) = self.generate(asked.encode(), self.successor(&key, version)).await?;
        let rotated = key.rotated(material, version, now, self.generation());
        let value = self.seal_key(&path, &rotated)?;
        let batch = self.batch()?.revision_is(path.clone(), revision).put(path, value);
        self.commit_record(batch, done).await?;
        Ok(rotated)
    }

    /// Rotates what is outlived on a page of the keys, the one behind `marker`. A key that is not enabled, or has no room for
    /// a version, is rotated, or refused, when it is to seal.
    pub async fn renew_page(&self, marker: String, now: Timestamp) -> Result<RenewedPage, KmsError> {
        let mut renewed = RenewedPage::default();
        if self.generation() <= 1 || !self.status().await?.capabilities.levels.contains(&ProtectionLevel::HsmResident) {
            return Ok(renewed);
        }
        let prefix = self.store().keys_path()?;
        let (ask, limits) = (PageRequest { limit: 0, marker }, (RENEWED_AT_ONCE, RENEWED_AT_ONCE));
        let ask = self.store().paging(&prefix, &ask, limits, |marker| KeyId::parse(marker).is_ok())?;
        let page = self.store().page(&prefix, &ask, |tenant, bytes| {
            // who uses a key that cannot be read is told; the others are rotated
            let key = codec::decode_key(tenant, bytes).filter(|key| key.state == KeyState::Enabled);
            Some(key.filter(|key| key.is_outlived(self.generation())).map(|key| key.id))
        });
        let page = page.await?;
        renewed.next_marker = page.next_marker;
        for id in page.items {
            match self.renew(&id, now).await {
                Ok(_) => renewed.done += 1,
                Err(KmsError::LimitExceeded | KmsError::KeyDisabled | KmsError::KeyPendingDeletion) => {
                    tracing::warn!(key = %id, "of an earlier generation, and not rotated: it decrypts, and seals no more");
                }
                Err(error) => renewed.failed = Some(error),
            }
        }
        Ok(renewed)
    }
}

const RENEWED_AT_ONCE: u32 = 100;
