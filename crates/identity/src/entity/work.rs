//! Entities and groups that one change reads and writes together.
//!
//! Always: what was read is still so when the change is committed. The indexes by name and by alias follow from the records,
//! and change with them.

use super::{Alias, Entity, EntityId, EntityRef, Group, GroupKind};
use crate::error::IdentityError;
use crate::service::Identities;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use storage::batch::BATCH_OPERATIONS_MAX;
use storage::{AtLeast, Batch, EntryPath, Revision};

/// A record as it was read, and as it is to be.
struct Held<T> {
    before: Option<(T, Revision)>,
    after: Option<T>,
}

pub(crate) struct Work<'a> {
    identities: &'a Identities,
    entities: BTreeMap<EntityId, Held<Entity>>,
    groups: BTreeMap<EntityId, Held<Group>>,
}

/// What stands below an index: the record's id.
type Index = BTreeMap<EntryPath, EntityId>;

impl<'a> Work<'a> {
    pub(crate) fn new(identities: &'a Identities) -> Self {
        Self { identities, entities: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// Which entity is meant, as it is now: what was merged is what it was merged into.
    pub(crate) async fn entity_id(&mut self, of: EntityRef<'_>) -> Result<EntityId, IdentityError> {
        let layout = &self.identities.layout;
        let found = match of {
            EntityRef::Id(id) => Some(id),
            EntityRef::Name(name) => self.indexed(layout.entity_name(name)?).await?,
            EntityRef::AliasId(id) => self.indexed(layout.entity_alias_id(id)?).await?,
            EntityRef::Alias { mount_accessor, name } => {
                self.indexed(layout.entity_alias(mount_accessor, name)?).await?
            }
        };
        let mut id = found.ok_or(IdentityError::EntityNotFound)?;
        for _ in 0..MERGES_MAX {
            match self.entity(id).await?.merged_into {
                Some(into) => id = into,
                None => return Ok(id),
            }
        }
        Err(IdentityError::EntityNotFound)
    }

    pub(crate) async fn group_id(&mut self, of: EntityRef<'_>) -> Result<EntityId, IdentityError> {
        let layout = &self.identities.layout;
        let found = match of {
            EntityRef::Id(id) => Some(id),
            EntityRef::Name(name) => self.indexed(layout.group_name(name)?).await?,
            EntityRef::AliasId(id) => self.indexed(layout.group_alias_id(id)?).await?,
            EntityRef::Alias { mount_accessor, name } => {
                self.indexed(layout.group_alias(mount_accessor, name)?).await?
            }
        };
        let id = found.ok_or(IdentityError::EntityNotFound)?;
        self.group(id).await?;
        Ok(id)
    }

    /// The groups that have one of these aliases at a mount.
    pub(crate) async fn groups_by_alias(
        &mut self,
        mount_accessor: &str,
        names: &[String],
    ) -> Result<BTreeSet<EntityId>, IdentityError> {
        let layout = &self.identities.layout;
        let paths = names.iter().map(|name| layout.group_alias(mount_accessor, name)).collect::<Result<Vec<_>, _>>()?;
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (_, found) = self.identities.barrier.get(&paths, AtLeast::Latest).await?;
        let mut ids = BTreeSet::new();
        for found in found.into_iter().flatten() {
            let id = found.value.expose().try_into().map(EntityId);
            let id = id.map_err(|_| IdentityError::Altered("a stored index of entities cannot be read".into()))?;
            match self.group(id).await {
                Ok(group) if group.kind == GroupKind::External => {
                    ids.insert(id);
                }
                Ok(_) | Err(IdentityError::EntityNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ids)
    }

    async fn indexed(&self, path: EntryPath) -> Result<Option<EntityId>, IdentityError> {
        let (_, found) = self.identities.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let Some(found) = found.into_iter().flatten().next() else { return Ok(None) };
        let id = found.value.expose().try_into().map(EntityId);
        id.map(Some).map_err(|_| IdentityError::Altered("a stored index of entities cannot be read".into()))
    }

    pub(crate) async fn entity(&mut self, id: EntityId) -> Result<&mut Entity, IdentityError> {
        if !self.entities.contains_key(&id) {
            let before = load(self.identities, &self.identities.layout.entity(id)?).await?;
            let after = before.as_ref().map(|(entity, _): &(Entity, _)| entity.clone());
            self.entities.insert(id, Held { before, after });
        }
        let held = self.entities.get_mut(&id).and_then(|held| held.after.as_mut());
        held.ok_or(IdentityError::EntityNotFound)
    }

    pub(crate) async fn group(&mut self, id: EntityId) -> Result<&mut Group, IdentityError> {
        if !self.groups.contains_key(&id) {
            let before = load(self.identities, &self.identities.layout.group(id)?).await?;
            let after = before.as_ref().map(|(group, _): &(Group, _)| group.clone());
            self.groups.insert(id, Held { before, after });
        }
        let held = self.groups.get_mut(&id).and_then(|held| held.after.as_mut());
        held.ok_or(IdentityError::EntityNotFound)
    }

    /// Those groups that were not deleted. None comes back, so that it is no condition.
    pub(crate) async fn that_are_there(&self, of: &BTreeSet<EntityId>) -> Result<BTreeSet<EntityId>, IdentityError> {
        let paths = of.iter().map(|id| self.identities.layout.group(*id)).collect::<Result<Vec<_>, _>>()?;
        let (_, found) = self.identities.barrier.storage().get(&paths, AtLeast::Latest).await?;
        Ok(of.iter().zip(found).filter_map(|(id, found)| found.map(|_| *id)).collect())
    }

    /// What was only read, and says nothing that this change relies on, is no condition of it.
    pub(crate) fn forget_untouched(&mut self) {
        self.entities.retain(|_, held| {
            let (before, after) = (held.before.as_ref().map(|(before, _)| before), held.after.as_ref());
            before != after
        });
    }

    pub(crate) fn new_entity(&mut self, entity: Entity) {
        self.entities.insert(entity.id, Held { before: None, after: Some(entity) });
    }

    pub(crate) fn new_group(&mut self, group: Group) {
        self.groups.insert(group.id, Held { before: None, after: Some(group) });
    }

    pub(crate) fn drop_entity(&mut self, id: EntityId) {
        if let Some(held) = self.entities.get_mut(&id) {
            held.after = None;
        }
    }

    pub(crate) fn drop_group(&mut self, id: EntityId) {
        if let Some(held) = self.groups.get_mut(&id) {
            held.after = None;
        }
    }

    /// Adds all of it to `batch`, with what must still be so. What was only read is a condition, too.
    pub(crate) fn add_to(self, mut batch: Batch) -> Result<Batch, IdentityError> {
        let (mut before, mut after) = (Index::new(), Index::new());
        for held in self.entities.values() {
            if let Some((entity, _)) = &held.before {
                self.index_entity(entity, &mut before)?;
            }
            if let Some(entity) = &held.after {
                self.index_entity(entity, &mut after)?;
            }
        }
        for held in self.groups.values() {
            if let Some((group, _)) = &held.before {
                self.index_group(group, &mut before)?;
            }
            if let Some(group) = &held.after {
                self.index_group(group, &mut after)?;
            }
        }
        for (id, held) in &self.entities {
            batch = self.add_record(batch, self.identities.layout.entity(*id)?, held)?;
        }
        for (id, held) in &self.groups {
            batch = self.add_record(batch, self.identities.layout.group(*id)?, held)?;
        }
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            batch = batch.delete(path.clone());
        }
        for (path, id) in &after {
            match before.get(path) {
                Some(was) if was == id => continue,
                Some(_) => {}
                None => batch = batch.absent(path.clone()),
            }
            batch = batch.put(path.clone(), self.identities.barrier.seal(path, &id.0)?);
        }
        // the leaf, and what a login adds
        if batch.preconditions.len() + batch.writes.len() > BATCH_OPERATIONS_MAX - OTHERS_OPERATIONS {
            return Err(IdentityError::LimitExceeded);
        }
        Ok(batch)
    }

    fn add_record<T: Serialize + PartialEq>(
        &self,
        batch: Batch,
        path: EntryPath,
        held: &Held<T>,
    ) -> Result<Batch, IdentityError> {
        let batch = match &held.before {
            Some((_, revision)) => batch.revision_is(path.clone(), *revision),
            None if held.after.is_some() => batch.absent(path.clone()),
            None => return Ok(batch),
        };
        match (&held.before, &held.after) {
            (Some((before, _)), Some(after)) if before == after => Ok(batch),
            (_, Some(after)) => {
                let text = serde_json::to_vec(after).map_err(|_| IdentityError::Internal("records are JSON"))?;
                let sealed = self.identities.barrier.seal(&path, &text)?;
                Ok(batch.put(path, sealed))
            }
            (_, None) => Ok(batch.delete(path)),
        }
    }

    fn index_entity(&self, entity: &Entity, index: &mut Index) -> Result<(), IdentityError> {
        let layout = &self.identities.layout;
        if !entity.name.is_empty() {
            claim(index, layout.entity_name(&entity.name)?, entity.id, "name")?;
        }
        for Alias { id, mount_accessor, name, .. } in &entity.aliases {
            claim(index, layout.entity_alias(mount_accessor, name)?, entity.id, "mount_accessor")?;
            claim(index, layout.entity_alias_id(*id)?, entity.id, "id")?;
        }
        Ok(())
    }

    fn index_group(&self, group: &Group, index: &mut Index) -> Result<(), IdentityError> {
        let layout = &self.identities.layout;
        claim(index, layout.group_name(&group.name)?, group.id, "name")?;
        if let Some(Alias { id, mount_accessor, name, .. }) = &group.alias {
            claim(index, layout.group_alias(mount_accessor, name)?, group.id, "mount_accessor")?;
            claim(index, layout.group_alias_id(*id)?, group.id, "id")?;
        }
        Ok(())
    }
}

/// Nobody else in the same change may stand there.
fn claim(index: &mut Index, path: EntryPath, id: EntityId, field: &'static str) -> Result<(), IdentityError> {
    match index.insert(path, id) {
        None => Ok(()),
        Some(_) => Err(IdentityError::InvalidField(field)),
    }
}

async fn load<T: DeserializeOwned>(
    identities: &Identities,
    path: &EntryPath,
) -> Result<Option<(T, Revision)>, IdentityError> {
    let (_, found) = identities.barrier.get(std::slice::from_ref(path), AtLeast::Latest).await?;
    let Some(found) = found.into_iter().flatten().next() else { return Ok(None) };
    Ok(Some((decode(found.value.expose())?, found.revision)))
}

pub(crate) fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T, IdentityError> {
    serde_json::from_slice(stored).map_err(|_| IdentityError::Altered("a stored entity or group cannot be read".into()))
}

/// How many steps an entity is away at most from the one that it was merged into. A merge leaves one.
pub(super) const MERGES_MAX: usize = 16;
/// Of a batch, what is left for the leaf and for what a login adds.
const OTHERS_OPERATIONS: usize = 24;
