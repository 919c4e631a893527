//! CreateGrant, ListGrants, RevokeGrant, RetireGrant.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::grant::{self, Ask, Grant, GrantConstraints, GrantOperation, Operations};
use crate::key::KeyState;
use crate::name::{GrantId, GrantName, KeyRef, PrincipalName};
use crate::op::create_key::ATTEMPTS_MAX;
use crate::op::{Page, PageRequest};
use crate::service::Kms;
use crate::store::{Found, codec};
use audit::Decision;
use envelope::Timestamp;
use hsm_api::{KeyId, TenantId};
use identity::{Capability, Decided, Principal, RequestInfo, Verdict};
use std::borrow::Cow;
use storage::Batch;

#[derive(Debug, Clone)]
pub struct CreateGrant {
    pub key: KeyRef,
    pub grantee: PrincipalName,
    pub retiring: Option<PrincipalName>,
    /// 1 to 14, each once.
    pub operations: Vec<GrantOperation>,
    pub constraints: GrantConstraints,
    /// Makes the call repeatable.
    pub name: Option<GrantName>,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct ListGrants {
    pub key: KeyRef,
    pub grant_id: Option<GrantId>,
    pub grantee: Option<PrincipalName>,
    /// 1 to 100 in a page, 50 by default.
    pub page: PageRequest,
}

/// One grant of a key.
#[derive(Debug, Clone)]
pub struct GrantRef {
    pub key: KeyRef,
    pub grant_id: GrantId,
}

impl Kms {
    pub async fn create_grant(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateGrant,
    ) -> Result<GrantId, KmsError> {
        let mut act = Act::new("CreateGrant", by, call);
        let ended = self.give(&mut act, command).await;
        self.finish(&act, ended).await
    }

    /// The key that `key` resolved to, and its grants.
    pub async fn list_grants(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ListGrants,
    ) -> Result<(KeyId, Page<Grant>), KmsError> {
        let mut act = Act::new("ListGrants", by, call);
        let ended = self.list_given(&mut act, &command).await;
        self.finish(&act, ended.map(|page| (page, Told::NotYet))).await
    }

    pub async fn revoke_grant(&self, by: &Principal, call: &RequestInfo, command: GrantRef) -> Result<(), KmsError> {
        let mut act = Act::new("RevokeGrant", by, call);
        let ended = self.revoke(&mut act, &command).await;
        self.finish(&act, ended.map(|told| ((), told))).await
    }

    pub async fn retire_grant(&self, by: &Principal, call: &RequestInfo, command: GrantRef) -> Result<(), KmsError> {
        let mut act = Act::new("RetireGrant", by, call);
        let ended = self.retire(&mut act, &command).await;
        self.finish(&act, ended.map(|told| ((), told))).await
    }

    async fn give(&self, act: &mut Act<'_>, command: CreateGrant) -> Result<(GrantId, Told), KmsError> {
        let id = self.resolve(act, &command.key).await?;
        self.authorise(act, &id, Right::CREATE_GRANT, None).await?;
        let mut grant = drafted(act.by, act.call.now, command)?;
        grant.grantee = self.now_named(grant.grantee).await?;
        grant.retiring = match grant.retiring {
            Some(retiring) => Some(self.now_named(retiring).await?),
            None => None,
        };
        let path = self.store().key_path(&id)?;
        for _ in 0..ATTEMPTS_MAX {
            let key = self.store().key_now(&id).await?.ok_or(KmsError::KeyNotFound)?;
            match key.value.state {
                KeyState::Enabled | KeyState::Disabled => {}
                KeyState::PendingDeletion { .. } => return Err(KmsError::KeyPendingDeletion),
                KeyState::Deleted { .. } => return Err(KmsError::KeyDeleted),
            }
            grant::check(grant.operations, &grant.constraints, key.value.usage).map_err(KmsError::InvalidField)?;
            let (_, present, _) = self.store().all_grants(&id).await?;
            if act.rule.starts_with("grant/") && !may_delegate(&present, act, &grant) {
                act.decision = Decision::Denied;
                return Err(KmsError::PermissionDenied);
            }
            grant.id = self.grant_id(&id, &grant)?;
            act.on_key(&id, &format!("/grants/{}", grant.id));
            if present.iter().any(|present| present.id == grant.id) {
                return Ok((grant.id, Told::NotYet));
            }
            let batch = self.batch()?.revision_is(path.clone(), key.revision);
            match self.commit(act, self.with_grant(batch, &id, &grant, &present)?).await {
                Ok(told) => return Ok((grant.id, told)),
                Err(KmsError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KmsError::Conflict)
    }

    /// Whom the name means: what is given to a role is not given to a later one of its name.
    async fn now_named(&self, name: PrincipalName) -> Result<PrincipalName, KmsError> {
        let id = identity::principal_id(&self.inner.seams.barrier, &self.tenant(), name.as_str()).await?;
        PrincipalName::parse(&id).map_err(|_| KmsError::Internal("a principal's id is a principal's name"))
    }

    /// Makes room by dropping some that have expired. Calls at one moment can go beyond the limit, each by one.
    fn with_grant(&self, batch: Batch, key: &KeyId, grant: &Grant, present: &[Grant]) -> Result<Batch, KmsError> {
        let mut batch = batch;
        for gone in room(present, grant.created)? {
            batch = batch.delete(self.store().grant_path(key, &gone.id)?);
        }
        let path = self.store().grant_path(key, &grant.id)?;
        let value = codec::encode_grant(grant).ok_or(KmsError::Internal("a grant fits its lengths"))?;
        let value = self.seal(&path, &value)?;
        Ok(batch.absent(path.clone()).put(path, value))
    }

    /// A named grant's id follows from all that it says, so that saying it again names the same grant.
    fn grant_id(&self, key: &KeyId, grant: &Grant) -> Result<GrantId, KmsError> {
        let barrier = &self.inner.seams.barrier;
        if grant.name.is_none() {
            return Ok(GrantId::from_bytes(barrier.random()?));
        }
        let body = codec::grant_body(grant).ok_or(KmsError::Internal("a grant fits its lengths"))?;
        let hash = barrier.keyed_hash(b"kms/grant", &[&key.bytes()[..], &body].concat())?;
        let id = hash.first_chunk().ok_or(KmsError::Internal("a hash has 32 bytes"))?;
        Ok(GrantId::from_bytes(*id))
    }

    async fn list_given(&self, act: &mut Act<'_>, command: &ListGrants) -> Result<(KeyId, Page<Grant>), KmsError> {
        let id = self.resolve(act, &command.key).await?;
        self.authorise(act, &id, Right::LIST_GRANTS, None).await?;
        self.store().key(&id).await?.ok_or(KmsError::KeyNotFound)?;
        let prefix = self.store().grants_path(&id)?;
        let paging = self.store().paging(&prefix, &command.page, (50, 100), |marker| GrantId::parse(marker).is_ok())?;
        let pick = |_: &TenantId, bytes: &[u8]| {
            let grant = codec::decode_grant(bytes)?;
            let wanted = command.grant_id.is_none_or(|id| id == grant.id)
                && command.grantee.as_ref().is_none_or(|grantee| grantee.names(&grant.grantee));
            Some(wanted.then_some(grant))
        };
        Ok((id, self.store().page(&prefix, &paging, pick).await?))
    }

    async fn revoke(&self, act: &mut Act<'_>, command: &GrantRef) -> Result<Told, KmsError> {
        let id = self.resolve(act, &command.key).await?;
        let suffix = format!("/grants/{}", command.grant_id);
        let right = Right { suffix: &suffix, capability: Capability::Delete, grant: None };
        self.authorise(act, &id, right, None).await?;
        self.store().key(&id).await?.ok_or(KmsError::KeyNotFound)?;
        let found = self.store().grant_now(&id, &command.grant_id).await?.ok_or(KmsError::GrantNotFound)?;
        self.end(act, &id, &found).await
    }

    /// Needs no ACL, but a deny refuses here too. An unknown grant is told only to who may list the key's grants.
    async fn retire(&self, act: &mut Act<'_>, command: &GrantRef) -> Result<Told, KmsError> {
        let id = self.resolve(act, &command.key).await?;
        act.on_key(&id, &format!("/grants/{}", command.grant_id));
        act.decision = Decision::Denied;
        let Decided { verdict, ack } = identity::decide(act.by.acl(), &act.path, Capability::Delete);
        let demanded = act.call.demand(ack);
        if let Verdict::Deny { rule } = verdict {
            act.rule = Cow::Borrowed(rule);
            return Err(KmsError::PermissionDenied);
        }
        let Some(found) = self.store().grant_now(&id, &command.grant_id).await? else {
            let listing = format!("kms/keys/{id}{}", Right::LIST_GRANTS.suffix);
            return match identity::decide(act.by.acl(), &listing, Right::LIST_GRANTS.capability).verdict {
                Verdict::Allow { .. } => Err(KmsError::GrantNotFound),
                Verdict::Deny { .. } | Verdict::Nothing => Err(KmsError::PermissionDenied),
            };
        };
        if !found.value.may_be_retired_by(act.by.id(), act.call.now) {
            return Err(KmsError::PermissionDenied);
        }
        act.decision = Decision::Allowed;
        act.rule = Cow::Owned(format!("grant/{}", found.value.id));
        demanded?;
        self.end(act, &id, &found).await
    }

    async fn end(&self, act: &Act<'_>, key: &KeyId, grant: &Found<Grant>) -> Result<Told, KmsError> {
        let path = self.store().grant_path(key, &grant.value.id)?;
        self.commit(act, self.batch()?.revision_is(path.clone(), grant.revision).delete(path)).await
    }
}

/// The grant as it was asked for, its id still to be given.
fn drafted(by: &Principal, now: Timestamp, command: CreateGrant) -> Result<Grant, KmsError> {
    let CreateGrant { key: _, grantee, retiring, operations, constraints, name, expires } = command;
    let operations = Operations::of(operations).filter(|operations| !operations.is_empty());
    if expires.is_some_and(|expires| expires <= now) {
        return Err(KmsError::InvalidField("expiration_date"));
    }
    Ok(Grant {
        id: GrantId::from_bytes([0; 16]),
        name,
        grantee,
        retiring,
        issuing: PrincipalName::parse(by.id())
            .map_err(|_| KmsError::Internal("a principal's id is a principal's name"))?,
        operations: operations.ok_or(KmsError::InvalidField("operations"))?,
        constraints,
        created: now,
        expires,
    })
}

/// Which of a key's grants go to make room for one more.
fn room(present: &[Grant], now: Timestamp) -> Result<impl Iterator<Item = &Grant>, KmsError> {
    if present.iter().filter(|present| present.is_live(now)).count() >= GRANTS_PER_KEY_MAX {
        return Err(KmsError::LimitExceeded);
    }
    Ok(present.iter().filter(move |present| !present.is_live(now)).take(EXPIRED_DROPPED_MAX))
}

/// Whose right to grant is a grant gives no more than that grant holds.
fn may_delegate(present: &[Grant], act: &Act<'_>, child: &Grant) -> bool {
    let operation = GrantOperation::CreateGrant;
    let ask = Ask { principal: act.by.id(), operation, context: None, now: act.call.now };
    present.iter().any(|own| own.allows(&ask) && own.covers(child))
}

/// Most live grants of a key: they are read together.
pub const GRANTS_PER_KEY_MAX: usize = 500;
const EXPIRED_DROPPED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_bounded_number_of_live_grants_and_expired_ones_make_room() {
        let name = PrincipalName::parse("cert/a").unwrap();
        let grant = |expires: Option<u64>| Grant {
            id: GrantId::from_bytes([1; 16]),
            name: None,
            grantee: name.clone(),
            retiring: None,
            issuing: name.clone(),
            operations: Operations::of([GrantOperation::Decrypt]).unwrap(),
            constraints: GrantConstraints::default(),
            created: Timestamp::default(),
            expires: expires.map(Timestamp::from_unix_millis),
        };
        let now = Timestamp::from_unix_millis(10);
        for (live, expired, dropped) in [
            (0, 0, Some(0)),
            (GRANTS_PER_KEY_MAX - 1, 3, Some(3)),
            (GRANTS_PER_KEY_MAX - 1, 40, Some(EXPIRED_DROPPED_MAX)),
            (GRANTS_PER_KEY_MAX, 0, None),
            (GRANTS_PER_KEY_MAX, 3, None),
        ] {
            let mut present = vec![grant(None); live];
            present.extend(vec![grant(Some(10)); expired]);
            let room = room(&present, now).map(Iterator::count);
            assert_eq!(room.ok(), dropped, "{live} live, {expired} expired");
        }
    }
}
