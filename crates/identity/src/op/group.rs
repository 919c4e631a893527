//! Groups and their aliases: what a change of them writes. Who may do it, and its record, is the façade's.

use super::entity::{apply, found, new_alias};
use crate::entity::{
    Alias, AliasChange, EntityId, EntityRef, GROUPS_MAX, Group, GroupChange, GroupKind, MEMBERS_MAX, Work,
    checked_meta, checked_name, checked_policies,
};
use crate::error::IdentityError;
use crate::service::Identities;
use crate::token::{Meta, random_bytes};
use envelope::Timestamp;
use std::collections::BTreeSet;
use storage::Batch;

impl Identities {
    pub async fn group(&self, of: EntityRef<'_>) -> Result<Group, IdentityError> {
        let mut work = Work::new(self);
        let id = work.group_id(of).await?;
        work.group(id).await.cloned()
    }

    pub async fn groups(&self) -> Result<Vec<Group>, IdentityError> {
        self.records(self.layout.groups()?).await
    }

    /// Those that have this one as a member, by itself or by another group.
    pub async fn groups_above(&self, direct: &BTreeSet<EntityId>) -> Result<BTreeSet<EntityId>, IdentityError> {
        above(&mut Work::new(self), direct.clone()).await
    }

    /// Makes a group, or changes the one of this id, or else of this name.
    pub async fn put_group(
        &self,
        batch: Batch,
        change: GroupChange,
        now: Timestamp,
    ) -> Result<(Batch, Group), IdentityError> {
        let name = change.name.as_deref().map(|name| checked_name(name, "name")).transpose()?;
        let mut work = Work::new(self);
        let known = match (change.id, &name) {
            (Some(id), _) => Some(work.group_id(EntityRef::Id(id)).await?),
            (None, Some(name)) => found(work.group_id(EntityRef::Name(name)).await)?,
            (None, None) => None,
        };
        if let (Some(known), Some(name)) = (known, &name)
            && found(work.group_id(EntityRef::Name(name)).await)?.is_some_and(|other| other != known)
        {
            return Err(IdentityError::InvalidField("name"));
        }
        let id = match known {
            Some(id) => id,
            None => {
                let id = EntityId(random_bytes()?);
                work.new_group(new_group(id, change.kind.unwrap_or_default(), now));
                id
            }
        };
        let group = work.group(id).await?;
        if change.kind.is_some_and(|kind| kind != group.kind) {
            return Err(IdentityError::InvalidField("type"));
        }
        if let Some(name) = name {
            group.name = name;
        }
        if let Some(metadata) = change.metadata {
            group.metadata = checked_meta(metadata, "metadata")?;
        }
        if let Some(policies) = change.policies {
            group.policies = checked_policies(&policies)?;
        }
        group.updated = now.unix_millis();
        group.modified += 1;
        if let Some(members) = change.member_entities {
            set_entities(&mut work, id, members).await?;
        }
        if let Some(members) = change.member_groups {
            set_groups(&mut work, id, members).await?;
        }
        let group = work.group(id).await?.clone();
        Ok((work.add_to(batch)?, group))
    }

    pub async fn delete_group(&self, batch: Batch, id: EntityId) -> Result<Batch, IdentityError> {
        let mut work = Work::new(self);
        let Some(id) = found(work.group_id(EntityRef::Id(id)).await)? else { return Ok(batch) };
        let parents = work.group(id).await?.parents.clone();
        for parent in parents {
            if let Some(parent) = found(work.group(parent).await)? {
                parent.member_groups.remove(&id);
            }
        }
        // its members, however many, go on naming it: a group that is not there gives nothing, and no other has its id
        work.drop_group(id);
        work.add_to(batch)
    }

    /// Makes an external group's alias, or changes it. With the group that it is of.
    pub async fn put_group_alias(
        &self,
        batch: Batch,
        change: AliasChange,
        now: Timestamp,
    ) -> Result<(Batch, Alias, EntityId), IdentityError> {
        let mut work = Work::new(self);
        let (was_of, mut alias) = match change.id {
            Some(id) => {
                let of = work.group_id(EntityRef::AliasId(id)).await?;
                let alias = work.group(of).await?.alias.clone().ok_or(IdentityError::EntityNotFound)?;
                (Some(of), alias)
            }
            None => (None, new_alias(&change, now)?),
        };
        apply(&mut alias, &change, now)?;
        let of = change.of.or(was_of).ok_or(IdentityError::InvalidField("canonical_id"))?;
        let named = EntityRef::Alias { mount_accessor: &alias.mount_accessor, name: &alias.name };
        let taken = found(work.group_id(named).await)?;
        if taken.is_some_and(|taken| Some(taken) != was_of) {
            return Err(IdentityError::InvalidField("name"));
        }
        if let Some(was_of) = was_of {
            work.group(was_of).await?.alias = None;
        }
        let group = work.group(of).await.map_err(|_| IdentityError::InvalidField("canonical_id"))?;
        if group.kind != GroupKind::External || group.alias.is_some() {
            return Err(IdentityError::InvalidField("canonical_id"));
        }
        group.alias = Some(alias.clone());
        Ok((work.add_to(batch)?, alias, of))
    }

    pub async fn delete_group_alias(&self, batch: Batch, id: EntityId) -> Result<Batch, IdentityError> {
        let mut work = Work::new(self);
        if let Some(of) = found(work.group_id(EntityRef::AliasId(id)).await)? {
            work.group(of).await?.alias = None;
        }
        work.add_to(batch)
    }
}

async fn set_entities(work: &mut Work<'_>, id: EntityId, members: Vec<EntityId>) -> Result<(), IdentityError> {
    let wrong = || IdentityError::InvalidField("member_entity_ids");
    if work.group(id).await?.kind == GroupKind::External && !members.is_empty() {
        return Err(wrong());
    }
    let asked: BTreeSet<EntityId> = members.into_iter().collect();
    if asked.len() > MEMBERS_MAX {
        return Err(IdentityError::LimitExceeded);
    }
    let before = work.group(id).await?.member_entities.clone();
    // who is in it already is somebody; what was merged is what it was merged into
    let mut wanted: BTreeSet<EntityId> = asked.intersection(&before).copied().collect();
    for new in asked.difference(&before) {
        wanted.insert(found(work.entity_id(EntityRef::Id(*new)).await)?.ok_or_else(wrong)?);
    }
    work.group(id).await?.member_entities = wanted.clone();
    for gone in before.difference(&wanted) {
        if let Some(entity) = found(work.entity(*gone).await)? {
            entity.groups.remove(&id);
        }
    }
    for new in wanted.difference(&before) {
        let groups = &mut work.entity(*new).await?.groups;
        groups.insert(id);
        if groups.len() > GROUPS_MAX {
            let all = groups.clone();
            let mut there = work.that_are_there(&all).await?;
            there.insert(id);
            if there.len() > GROUPS_MAX {
                return Err(IdentityError::LimitExceeded);
            }
            work.entity(*new).await?.groups = there;
        }
    }
    work.forget_untouched();
    Ok(())
}

/// The entity's external groups of this mount become those of these aliases. Names that no group has are nothing.
pub(super) async fn set_external(
    work: &mut Work<'_>,
    entity: EntityId,
    mount_accessor: &str,
    names: &[String],
) -> Result<(), IdentityError> {
    let wanted = work.groups_by_alias(mount_accessor, names).await?;
    let before = work.entity(entity).await?.groups.clone();
    let mut after = before.clone();
    for id in before.difference(&wanted) {
        let Some(group) = found(work.group(*id).await)? else { continue };
        let is_of_mount = group.alias.as_ref().is_some_and(|alias| alias.mount_accessor == mount_accessor);
        if group.kind == GroupKind::External && is_of_mount {
            group.member_entities.remove(&entity);
            after.remove(id);
        }
    }
    for id in &wanted {
        let group = work.group(*id).await?;
        group.member_entities.insert(entity);
        if group.member_entities.len() > MEMBERS_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        after.insert(*id);
    }
    if after.len() > GROUPS_MAX {
        after = work.that_are_there(&after).await?;
    }
    if after.len() > GROUPS_MAX {
        return Err(IdentityError::LimitExceeded);
    }
    work.entity(entity).await?.groups = after;
    Ok(())
}

async fn set_groups(work: &mut Work<'_>, id: EntityId, members: Vec<EntityId>) -> Result<(), IdentityError> {
    let wrong = || IdentityError::InvalidField("member_group_ids");
    let wanted: BTreeSet<EntityId> = members.into_iter().collect();
    let parents = work.group(id).await?.parents.clone();
    let mut not_below = above(work, parents).await?;
    not_below.insert(id);
    // a group is never in itself
    if !wanted.is_disjoint(&not_below) {
        return Err(wrong());
    }
    if wanted.len() > MEMBERS_MAX || work.group(id).await?.kind == GroupKind::External && !wanted.is_empty() {
        return Err(wrong());
    }
    let before = std::mem::replace(&mut work.group(id).await?.member_groups, wanted.clone());
    for gone in before.difference(&wanted) {
        if let Some(group) = found(work.group(*gone).await)? {
            group.parents.remove(&id);
        }
    }
    for new in wanted.difference(&before) {
        work.group(*new).await.map_err(|_| wrong())?.parents.insert(id);
    }
    Ok(())
}

/// These and all above them; each that was looked at stays so until the change is made.
async fn above(work: &mut Work<'_>, direct: BTreeSet<EntityId>) -> Result<BTreeSet<EntityId>, IdentityError> {
    let (mut seen, mut open) = (BTreeSet::new(), Vec::from_iter(direct));
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if seen.len() > GROUPS_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        match found(work.group(id).await)? {
            Some(group) => open.extend(group.parents.iter().copied()),
            None => {
                seen.remove(&id);
            }
        }
    }
    Ok(seen)
}

fn new_group(id: EntityId, kind: GroupKind, now: Timestamp) -> Group {
    Group {
        id,
        name: format!("group_{}", id.segment()),
        kind,
        metadata: Meta::new(),
        policies: Vec::new(),
        member_entities: BTreeSet::new(),
        member_groups: BTreeSet::new(),
        parents: BTreeSet::new(),
        alias: None,
        created: now.unix_millis(),
        updated: now.unix_millis(),
        modified: 0,
    }
}
