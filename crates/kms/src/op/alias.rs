//! CreateAlias, UpdateAlias, DeleteAlias, ListAliases.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::{KeyRecord, KeyState};
use crate::name::{AliasName, KeyRef};
use crate::op::{Page, PageRequest};
use crate::service::{Kms, unknown_alias};
use crate::store::{Found, codec};
use audit::Outcome;
use bytes::Bytes;
use envelope::Timestamp;
use hsm_api::{KeyId, TenantId};
use identity::{Capability, Principal, RequestInfo};
use storage::EntryPath;

#[derive(Debug, Clone)]
pub struct CreateAlias {
    pub alias: AliasName,
    pub target: KeyId,
}

#[derive(Debug, Clone)]
pub struct UpdateAlias {
    pub alias: AliasName,
    pub target: KeyId,
}

#[derive(Debug, Clone)]
pub struct DeleteAlias {
    pub alias: AliasName,
}

#[derive(Debug, Clone, Default)]
pub struct ListAliases {
    /// Only names of this key.
    pub key: Option<KeyRef>,
    /// 1 to 100 in a page, 50 by default.
    pub page: PageRequest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasEntry {
    pub name: AliasName,
    pub target: KeyId,
    pub created: Timestamp,
}

impl Kms {
    pub async fn create_alias(&self, by: &Principal, call: &RequestInfo, command: CreateAlias) -> Result<(), KmsError> {
        let mut act = Act::new("CreateAlias", by, call);
        let ended = self.create_name(&mut act, &command).await;
        self.finish(&act, ended.map(|told| ((), told))).await
    }

    pub async fn update_alias(&self, by: &Principal, call: &RequestInfo, command: UpdateAlias) -> Result<(), KmsError> {
        let mut act = Act::new("UpdateAlias", by, call);
        let ended = self.retarget(&mut act, &command).await;
        self.finish(&act, ended.map(|told| ((), told))).await
    }

    pub async fn delete_alias(&self, by: &Principal, call: &RequestInfo, command: DeleteAlias) -> Result<(), KmsError> {
        let mut act = Act::new("DeleteAlias", by, call);
        let ended = self.drop_name(&mut act, &command).await;
        self.finish(&act, ended.map(|told| ((), told))).await
    }

    pub async fn list_aliases(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ListAliases,
    ) -> Result<Page<AliasEntry>, KmsError> {
        let mut act = Act::new("ListAliases", by, call);
        let ended = self.list_names(&mut act, &command).await;
        self.finish(&act, ended.map(|page| (page, Told::NotYet))).await
    }

    async fn create_name(&self, act: &mut Act<'_>, command: &CreateAlias) -> Result<Told, KmsError> {
        let CreateAlias { alias, target } = command;
        if alias.is_reserved() {
            return Err(KmsError::InvalidField("alias_name"));
        }
        self.authorise_alias(act, alias, Capability::Create)?;
        let key = self.target(act, target).await?;
        let entry = AliasEntry { name: alias.clone(), target: *target, created: act.call.now };
        let (path, value) = self.sealed_alias(&entry)?;
        let batch = self.batch()?.revision_is(self.store().key_path(target)?, key.revision);
        let batch = batch.absent(path.clone()).put(path.clone(), value);
        on_alias(act, alias, &[target]);
        match self.commit(act, batch).await {
            Err(KmsError::Conflict) if self.store().alias_now(alias).await?.is_some() => Err(KmsError::AliasExists),
            told => told,
        }
    }

    async fn retarget(&self, act: &mut Act<'_>, command: &UpdateAlias) -> Result<Told, KmsError> {
        let UpdateAlias { alias, target } = command;
        if alias.is_reserved() {
            return Err(KmsError::InvalidField("alias_name"));
        }
        self.authorise_alias(act, alias, Capability::Update)?;
        let found = self.store().alias_now(alias).await?.ok_or_else(|| unknown_alias(act, alias))?;
        let present = found.value.target;
        self.authorise(act, &present, Right::ALIAS, None).await?;
        let key = self.target(act, target).await?;
        let old = self.store().key(&present).await?;
        let same = old.is_some_and(|old| (old.spec, old.usage) == (key.value.spec, key.value.usage));
        if !same {
            return Err(KmsError::InvalidField("target_key_id"));
        }
        let (path, value) = self.sealed_alias(&AliasEntry { target: *target, ..found.value })?;
        let batch = self.batch()?.revision_is(self.store().key_path(target)?, key.revision);
        let batch = batch.revision_is(path.clone(), found.revision).put(path, value);
        on_alias(act, alias, &[&present, target]);
        self.commit(act, batch).await
    }

    async fn drop_name(&self, act: &mut Act<'_>, command: &DeleteAlias) -> Result<Told, KmsError> {
        let alias = &command.alias;
        self.authorise_alias(act, alias, Capability::Delete)?;
        let found = self.store().alias_now(alias).await?.ok_or_else(|| unknown_alias(act, alias))?;
        self.authorise(act, &found.value.target, Right::ALIAS, None).await?;
        let path = self.store().alias_path(alias)?;
        on_alias(act, alias, &[&found.value.target]);
        self.commit(act, self.batch()?.revision_is(path.clone(), found.revision).delete(path)).await
    }

    async fn list_names(&self, act: &mut Act<'_>, command: &ListAliases) -> Result<Page<AliasEntry>, KmsError> {
        self.authorise_path(act, "kms/aliases", Capability::List)?;
        let target = match &command.key {
            Some(key) => Some(self.resolve(act, key).await?),
            None => None,
        };
        let prefix = self.store().aliases_path()?;
        let is_hash = |marker: &str| marker.len() == 64 && hex::decode(marker).is_ok();
        let paging = self.store().paging(&prefix, &command.page, (50, 100), is_hash)?;
        let pick = |_: &TenantId, bytes: &[u8]| {
            let alias = codec::decode_alias(bytes)?;
            Some(target.is_none_or(|target| alias.target == target).then_some(alias))
        };
        self.store().page(&prefix, &paging, pick).await
    }

    fn authorise_alias(&self, act: &mut Act<'_>, alias: &AliasName, capability: Capability) -> Result<(), KmsError> {
        self.authorise_path(act, &format!("kms/aliases/{}", alias.bare()), capability)
    }

    /// A key that a name may point at: authorised, there, and not on its way out.
    async fn target(&self, act: &mut Act<'_>, id: &KeyId) -> Result<Found<KeyRecord>, KmsError> {
        self.authorise(act, id, Right::ALIAS, None).await?;
        let key = self.store().key_now(id).await?.ok_or(KmsError::KeyNotFound)?;
        match key.value.state {
            KeyState::Enabled | KeyState::Disabled => Ok(key),
            KeyState::PendingDeletion { .. } => Err(KmsError::KeyPendingDeletion),
            KeyState::Deleted { .. } => Err(KmsError::KeyDeleted),
        }
    }

    fn sealed_alias(&self, alias: &AliasEntry) -> Result<(EntryPath, Bytes), KmsError> {
        let path = self.store().alias_path(&alias.name)?;
        let value = codec::encode_alias(alias).ok_or(KmsError::Internal("an alias fits its lengths"))?;
        let value = self.seal(&path, &value)?;
        Ok((path, value))
    }
}

/// What the record tells once all is authorised: the alias, and the keys that it points at, before and after.
fn on_alias(act: &mut Act<'_>, alias: &AliasName, keys: &[&KeyId]) {
    act.on_path(&format!("kms/aliases/{}", alias.bare()));
    keys.iter().for_each(|key| act.with_key(key, Outcome::Done));
}
