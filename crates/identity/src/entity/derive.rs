//! What an entity gives to its tokens.

use super::work::{MERGES_MAX, decode};
use super::{Entity, EntityId, GROUPS_MAX, Group};
use crate::error::{Cause, IdentityError};
use crate::name::PolicyName;
use crate::policy::{ByGroup, Variable};
use crate::service::Identities;
use std::collections::BTreeMap;
use storage::{AtLeast, EntryPath, Revision};

/// An entity with its groups, as they were read.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) entity: Entity,
    /// All that it is in, by itself or by another group.
    pub(crate) groups: BTreeMap<EntityId, Group>,
    pub(crate) depends_on: Vec<EntryPath>,
    pub(crate) read_at: Revision,
}

impl Derived {
    /// The policies of the entity and of its groups, sorted, each once; never `root`.
    pub(crate) fn policies(&self) -> Vec<PolicyName> {
        let own = self.entity.policies.iter();
        let names = own.chain(self.groups.values().flat_map(|group| group.policies.iter()));
        let names = names.filter_map(|name| PolicyName::parse(name).ok()).filter(|name| !name.is_root());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Derived {
    /// What stands for a template's variable. Of groups only those that the entity is in are known.
    pub(crate) fn value(&self, variable: &Variable) -> Option<String> {
        let alias = |accessor: &str| self.entity.aliases.iter().find(|alias| alias.mount_accessor == accessor);
        let by_id = |id: &str| self.groups.get(&EntityId::parse(id)?);
        let by_name = |name: &str| self.groups.values().find(|group| group.name == name);
        match variable {
            Variable::EntityId => Some(self.entity.id.to_string()),
            Variable::EntityName => Some(self.entity.name.clone()),
            Variable::EntityMetadata(key) => self.entity.metadata.get(&**key).cloned(),
            Variable::AliasId(accessor) => alias(accessor).map(|alias| alias.id.to_string()),
            Variable::AliasName(accessor) => alias(accessor).map(|alias| alias.name.clone()),
            Variable::AliasMetadata(accessor, key) => alias(accessor)?.custom_metadata.get(&**key).cloned(),
            Variable::GroupName(id) => by_id(id).map(|group| group.name.clone()),
            Variable::GroupId(name) => by_name(name).map(|group| group.id.to_string()),
            Variable::GroupMetadata(ByGroup::Id(id), key) => by_id(id)?.metadata.get(&**key).cloned(),
            Variable::GroupMetadata(ByGroup::Name(name), key) => by_name(name)?.metadata.get(&**key).cloned(),
        }
    }
}

impl Identities {
    /// Whom a token of the entity `id` belongs to now. Without an entity, or with a disabled one, to nobody.
    pub(crate) async fn derive(&self, mut id: EntityId) -> Result<Derived, IdentityError> {
        let gone = || IdentityError::Unauthenticated(Cause::EntityGone);
        let (mut depends_on, mut read_at) = (Vec::new(), Revision(u64::MAX));
        for _ in 0..MERGES_MAX {
            let path = self.layout.entity(id)?;
            let (revision, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
            read_at = read_at.min(revision);
            depends_on.push(path);
            let found = found.into_iter().flatten().next().ok_or_else(gone)?;
            let entity: Entity = decode(found.value.expose())?;
            if let Some(into) = entity.merged_into {
                id = into;
                continue;
            }
            if entity.disabled {
                return Err(IdentityError::Unauthenticated(Cause::EntityDisabled));
            }
            let mut groups = BTreeMap::new();
            let mut open: Vec<EntityId> = entity.groups.iter().copied().collect();
            while !open.is_empty() {
                let paths = open.iter().map(|id| self.layout.group(*id)).collect::<Result<Vec<_>, _>>()?;
                let (revision, found) = self.barrier.get(&paths, AtLeast::Latest).await?;
                read_at = read_at.min(revision);
                depends_on.extend(paths);
                let mut next = Vec::new();
                for opened in found.into_iter().flatten() {
                    let group: Group = decode(opened.value.expose())?;
                    next.extend(group.parents.iter().copied());
                    groups.insert(group.id, group);
                }
                next.sort_unstable();
                next.dedup();
                next.retain(|id| !groups.contains_key(id));
                open = next;
                if groups.len() + open.len() > GROUPS_MAX {
                    return Err(IdentityError::LimitExceeded);
                }
            }
            return Ok(Derived { entity, groups, depends_on, read_at });
        }
        Err(gone())
    }
}
