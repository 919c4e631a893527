//! Entities and their aliases: what a change of them writes. Who may do it, and its record, is the façade's.

mod end;

pub use end::Progress;

use crate::entity::{
    ALIASES_MAX, Alias, AliasChange, Entity, EntityChange, EntityId, EntityRef, Work, checked_meta, checked_name,
    checked_policies,
};
use crate::error::{Cause, IdentityError};
use crate::service::Identities;
use crate::store::Person;
use crate::token::random_bytes;
use envelope::Timestamp;
use std::sync::Arc;
use storage::{AtLeast, Batch, PAGE_ENTRIES_MAX};

impl Identities {
    /// The entity that an auth method's mount knows by `alias_name`: for logins, which hand its id to the new token
    /// (`NewToken::entity`). Where there is none it is made, by what is added to `batch`; where there is one, `batch` is told
    /// that it must still be so. On a conflict ask again with a new batch.
    pub async fn entity_for_alias(
        &self,
        batch: Batch,
        now: Timestamp,
        mount_accessor: &str,
        alias_name: &str,
    ) -> Result<(Batch, [u8; 16]), IdentityError> {
        self.entity_in_groups(batch, now, (mount_accessor, alias_name), None).await
    }

    /// The same, of an auth method that tells in which groups its people are: the entity is then in the external groups whose
    /// aliases at that mount are these, and in none other of that mount's.
    pub async fn entity_in_groups(
        &self,
        batch: Batch,
        now: Timestamp,
        (mount_accessor, alias_name): (&str, &str),
        groups: Option<&[String]>,
    ) -> Result<(Batch, [u8; 16]), IdentityError> {
        let name = checked_name(alias_name, "name")?;
        let known = if groups.is_none() { self.person(mount_accessor, &name).await? } else { None };
        // what memory says of a refusal is looked at once more
        if let Some(person) = known.filter(|person| !person.disabled) {
            return Ok((batch.revision_is(self.layout.entity(person.id)?, person.revision), person.id.0));
        }
        let mut work = Work::new(self);
        let id = match work.entity_id(EntityRef::Alias { mount_accessor, name: &name }).await {
            Ok(id) if work.entity(id).await?.disabled => {
                return Err(IdentityError::Unauthenticated(Cause::EntityDisabled));
            }
            // the index was read before the record, and may lead elsewhere by now
            Ok(id) if !work.entity(id).await?.aliases.iter().any(|alias| alias.is(mount_accessor, &name)) => {
                return Err(IdentityError::Conflict);
            }
            Ok(id) => id,
            Err(IdentityError::EntityNotFound) => {
                let id = EntityId(random_bytes()?);
                let mut entity = Entity::new(id, default_name(id), now);
                entity.aliases.push(Alias {
                    id: EntityId(random_bytes()?),
                    mount_accessor: mount_accessor.to_owned(),
                    name,
                    custom_metadata: crate::token::Meta::new(),
                    created: now.unix_millis(),
                    updated: now.unix_millis(),
                });
                work.new_entity(entity);
                id
            }
            Err(error) => return Err(error),
        };
        if let Some(names) = groups {
            super::group::set_external(&mut work, id, mount_accessor, names).await?;
        }
        Ok((work.add_to(batch)?, id.0))
    }

    /// Whom an alias is of, perhaps from memory. What is outdated lets nobody in: the record's revision is a condition of what is
    /// made of it. Nothing of aliases that are unknown, and of entities that were merged.
    async fn person(&self, mount_accessor: &str, name: &str) -> Result<Option<Person>, IdentityError> {
        let index = self.layout.entity_alias(mount_accessor, name)?;
        if let Some(known) = self.caches.people.peek(&index) {
            return Ok(Some(*known));
        }
        let (read_at, found) = self.barrier.get(std::slice::from_ref(&index), AtLeast::Latest).await?;
        let found = found.into_iter().flatten().next();
        let Some(id) = found.and_then(|found| found.value.expose().try_into().ok().map(EntityId)) else {
            return Ok(None);
        };
        let path = self.layout.entity(id)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let Some(found) = found.into_iter().flatten().next() else { return Ok(None) };
        let entity: Entity = crate::entity::decode(found.value.expose())?;
        // the index was read before it, and may lead elsewhere by now
        if entity.merged_into.is_some() || !entity.aliases.iter().any(|alias| alias.is(mount_accessor, name)) {
            return Ok(None);
        }
        let person = Person { id, disabled: entity.disabled, revision: found.revision };
        self.caches.people.insert(index.clone(), Arc::new(person), &[index, path], read_at);
        Ok(Some(person))
    }

    /// Others were in between a login and what it was made of: the next look is at the store.
    pub fn look_again(&self) {
        self.caches.people.forget();
    }

    pub async fn entity(&self, of: EntityRef<'_>) -> Result<Entity, IdentityError> {
        let mut work = Work::new(self);
        let id = work.entity_id(of).await?;
        work.entity(id).await.cloned()
    }

    /// All of them, but those that were merged into others.
    pub async fn entities(&self) -> Result<Vec<Entity>, IdentityError> {
        let all: Vec<Entity> = self.records(self.layout.entities()?).await?;
        Ok(all.into_iter().filter(|entity| entity.merged_into.is_none()).collect())
    }

    pub(super) async fn records<T: serde::de::DeserializeOwned>(
        &self,
        folder: storage::EntryPath,
    ) -> Result<Vec<T>, IdentityError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.barrier.scan(&folder, after.as_ref(), PAGE_ENTRIES_MAX, AtLeast::Latest).await?;
            for (path, opened) in page.entries {
                all.push(crate::entity::decode(opened.value.expose())?);
                after = Some(path);
            }
            if !page.more {
                return Ok(all);
            }
            if all.len() >= LISTED_MAX {
                return Err(IdentityError::LimitExceeded);
            }
        }
    }

    /// Makes an entity, or changes the one of this id, or else of this name.
    pub async fn put_entity(
        &self,
        batch: Batch,
        change: EntityChange,
        now: Timestamp,
    ) -> Result<(Batch, Entity), IdentityError> {
        let name = change.name.as_deref().map(|name| checked_name(name, "name")).transpose()?;
        let mut work = Work::new(self);
        let known = match (change.id, &name) {
            (Some(id), _) => Some(work.entity_id(EntityRef::Id(id)).await?),
            (None, Some(name)) => found(work.entity_id(EntityRef::Name(name)).await)?,
            (None, None) => None,
        };
        if let (Some(known), Some(name)) = (known, &name)
            && found(work.entity_id(EntityRef::Name(name)).await)?.is_some_and(|other| other != known)
        {
            return Err(IdentityError::InvalidField("name"));
        }
        let id = match known {
            Some(id) => id,
            None => {
                let id = EntityId(random_bytes()?);
                work.new_entity(Entity::new(id, default_name(id), now));
                id
            }
        };
        let entity = work.entity(id).await?;
        if let Some(name) = name {
            entity.name = name;
        }
        if let Some(metadata) = change.metadata {
            entity.metadata = checked_meta(metadata, "metadata")?;
        }
        if let Some(policies) = change.policies {
            entity.policies = checked_policies(&policies)?;
        }
        entity.disabled = change.disabled.unwrap_or(entity.disabled);
        entity.updated = now.unix_millis();
        let entity = entity.clone();
        Ok((work.add_to(batch)?, entity))
    }

    /// Makes an alias, or changes the one of this id, or else of this name on this mount. With the entity that it is of.
    pub async fn put_entity_alias(
        &self,
        batch: Batch,
        change: AliasChange,
        now: Timestamp,
    ) -> Result<(Batch, Alias, EntityId), IdentityError> {
        let mut work = Work::new(self);
        let known = match &change {
            AliasChange { id: Some(id), .. } => {
                let of = work.entity_id(EntityRef::AliasId(*id)).await?;
                let aliases = &work.entity(of).await?.aliases;
                aliases.iter().find(|alias| alias.id == *id).cloned().map(|alias| (of, alias))
            }
            AliasChange { name: Some(name), mount_accessor: Some(accessor), .. } => {
                let of = found(work.entity_id(EntityRef::Alias { mount_accessor: accessor, name }).await)?;
                match of {
                    None => None,
                    Some(of) => {
                        let aliases = &work.entity(of).await?.aliases;
                        let alias =
                            aliases.iter().find(|alias| alias.mount_accessor == *accessor && alias.name == *name);
                        alias.cloned().map(|alias| (of, alias))
                    }
                }
            }
            AliasChange { .. } => None,
        };
        let (was_of, mut alias) = match known {
            Some((of, alias)) => (Some(of), alias),
            None => (None, new_alias(&change, now)?),
        };
        apply(&mut alias, &change, now)?;
        let of = match (change.of, was_of) {
            (Some(of), _) => {
                work.entity_id(EntityRef::Id(of)).await.map_err(|_| IdentityError::InvalidField("canonical_id"))?
            }
            (None, Some(of)) => of,
            (None, None) => {
                let id = EntityId(random_bytes()?);
                work.new_entity(Entity::new(id, default_name(id), now));
                id
            }
        };
        let taken =
            found(work.entity_id(EntityRef::Alias { mount_accessor: &alias.mount_accessor, name: &alias.name }).await)?;
        if let Some(was_of) = was_of {
            work.entity(was_of).await?.aliases.retain(|held| held.id != alias.id);
        }
        if taken.is_some_and(|taken| Some(taken) != was_of) {
            return Err(IdentityError::InvalidField("name"));
        }
        let entity = work.entity(of).await?;
        if entity.aliases.iter().any(|held| held.mount_accessor == alias.mount_accessor) {
            return Err(IdentityError::InvalidField("mount_accessor"));
        }
        if entity.aliases.len() >= ALIASES_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        entity.aliases.push(alias.clone());
        Ok((work.add_to(batch)?, alias, of))
    }

    /// With the entity that it is of.
    pub async fn entity_alias(&self, id: EntityId) -> Result<(Alias, EntityId), IdentityError> {
        let entity = self.entity(EntityRef::AliasId(id)).await?;
        let of = entity.id;
        let alias = entity.aliases.into_iter().find(|alias| alias.id == id);
        alias.map(|alias| (alias, of)).ok_or(IdentityError::EntityNotFound)
    }

    /// The mount knows nobody by `alias_name` any more: for methods whose credentials of that name are gone, so that who gets
    /// the name next is somebody else. Where nobody is known by it, that must still be so: a first login may be under way.
    pub async fn forget_alias(
        &self,
        batch: Batch,
        mount_accessor: &str,
        alias_name: &str,
    ) -> Result<Batch, IdentityError> {
        let mut work = Work::new(self);
        let name = checked_name(alias_name, "name")?;
        let Some(of) = found(work.entity_id(EntityRef::Alias { mount_accessor, name: &name }).await)? else {
            return Ok(batch.absent(self.layout.entity_alias(mount_accessor, &name)?));
        };
        let entity = work.entity(of).await?;
        entity.aliases.retain(|alias| alias.mount_accessor != mount_accessor || alias.name != name);
        work.add_to(batch)
    }

    pub async fn delete_entity_alias(&self, batch: Batch, id: EntityId) -> Result<Batch, IdentityError> {
        let mut work = Work::new(self);
        if let Some(of) = found(work.entity_id(EntityRef::AliasId(id)).await)? {
            work.entity(of).await?.aliases.retain(|alias| alias.id != id);
        }
        work.add_to(batch)
    }
}

/// What is not there is nothing.
pub(super) fn found<T>(outcome: Result<T, IdentityError>) -> Result<Option<T>, IdentityError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(IdentityError::EntityNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn new_alias(change: &AliasChange, now: Timestamp) -> Result<Alias, IdentityError> {
    Ok(Alias {
        id: EntityId(random_bytes()?),
        mount_accessor: change.mount_accessor.clone().ok_or(IdentityError::InvalidField("mount_accessor"))?,
        name: change.name.clone().ok_or(IdentityError::InvalidField("name"))?,
        custom_metadata: crate::token::Meta::new(),
        created: now.unix_millis(),
        updated: now.unix_millis(),
    })
}

pub(super) fn apply(alias: &mut Alias, change: &AliasChange, now: Timestamp) -> Result<(), IdentityError> {
    if let Some(name) = &change.name {
        alias.name = checked_name(name, "name")?;
    }
    if let Some(accessor) = &change.mount_accessor {
        alias.mount_accessor = checked_name(accessor, "mount_accessor")?;
    }
    if let Some(metadata) = &change.custom_metadata {
        alias.custom_metadata = checked_meta(metadata.clone(), "custom_metadata")?;
    }
    alias.updated = now.unix_millis();
    Ok(())
}

fn default_name(id: EntityId) -> String {
    format!("entity_{}", id.segment().get(..8).unwrap_or_default()) + id.segment().get(8..16).unwrap_or_default()
}

/// Most entities or groups that are listed at once.
const LISTED_MAX: usize = 100_000;
