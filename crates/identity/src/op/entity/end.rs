//! Entities that end: deleted, or merged into another one.
//!
//! Always: what does not fit into one commit is done by several, each of which leaves all that it touches sound; who asks
//! again goes on where it stopped. What could not be carried through to the last is refused before the first.

use super::found;
use crate::entity::{ALIASES_MAX, Alias, Entity, EntityId, EntityRef, MERGED_MAX, Work};
use crate::error::IdentityError;
use crate::service::Identities;
use envelope::Timestamp;
use storage::Batch;

/// Whether there is more to do once the batch is committed: then ask for the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    GoesOn,
}

/// What of an entity one commit takes along.
struct Parts {
    aliases: Vec<Alias>,
    groups: Vec<EntityId>,
    merged: Vec<EntityId>,
}

impl Identities {
    /// With all their aliases. Their tokens are nobody's from the first commit on.
    pub async fn delete_entities(
        &self,
        batch: Batch,
        ids: &[EntityId],
        now: Timestamp,
    ) -> Result<(Batch, Progress), IdentityError> {
        let (mut work, mut room) = (Work::new(self), DROPPED_AT_ONCE);
        for id in ids {
            // what is gone is gone; what was merged is what it was merged into
            let Some(id) = found(work.entity_id(EntityRef::Id(*id)).await)? else { continue };
            let entity = work.entity(id).await?;
            let parts = entity.split_off(room);
            room = room.saturating_sub(parts.count() + OF_ITSELF);
            let goes_on = !entity.has_no_parts();
            if goes_on {
                entity.disabled = true;
                entity.updated = now.unix_millis();
            } else {
                work.drop_entity(id);
            }
            for group in parts.groups {
                if let Some(group) = found(work.group(group).await)? {
                    group.member_entities.remove(&id);
                }
            }
            for before in parts.merged {
                if found(work.entity(before).await)?.is_some() {
                    work.drop_entity(before);
                }
            }
            if goes_on || room == 0 {
                return Ok((work.add_to(batch)?, Progress::GoesOn));
            }
        }
        Ok((work.add_to(batch)?, Progress::Done))
    }

    /// `from` become `to`: their aliases, groups and tokens are `to`'s. Policies and metadata are not united. Where both have
    /// an alias on one mount, the one in `keep` stays. One of them at a time; what is merged already stays so.
    pub async fn merge_entities(
        &self,
        batch: Batch,
        (from, to): (&[EntityId], EntityId),
        keep: &[EntityId],
        now: Timestamp,
    ) -> Result<(Batch, Progress), IdentityError> {
        let (to, left) = self.check_merge((from, to), keep).await?;
        let Some((&id, others)) = left.split_first() else { return Ok((batch, Progress::Done)) };
        let mut work = Work::new(self);
        let old = work.entity(id).await?;
        let parts = old.split_off(MOVED_AT_ONCE);
        old.updated = now.unix_millis();
        let goes_on = !old.has_no_parts();
        if !goes_on {
            old.name = String::new();
            old.policies = Vec::new();
            if old.merged_into.replace(to).is_some() {
                return Err(IdentityError::Conflict);
            }
        }
        let mut groups = Vec::new();
        for group in parts.groups {
            // one that is gone is no longer named
            let Some(group) = found(work.group(group).await)? else { continue };
            group.member_entities.remove(&id);
            group.member_entities.insert(to);
            groups.push(group.id);
        }
        let mut merged = Vec::new();
        for before in parts.merged {
            // so that none is further than one step from whom it is now
            let Some(before) = found(work.entity(before).await)? else { continue };
            before.merged_into = Some(to);
            merged.push(before.id);
        }
        let new = work.entity(to).await?;
        if new.merged_into.is_some() {
            return Err(IdentityError::Conflict);
        }
        for alias in parts.aliases {
            take_alias(new, alias, keep)?;
        }
        new.groups.extend(groups);
        new.merged.extend(merged);
        if !goes_on {
            new.merged.push(id);
        }
        new.updated = now.unix_millis();
        let progress = if goes_on || !others.is_empty() { Progress::GoesOn } else { Progress::Done };
        Ok((work.add_to(batch)?, progress))
    }

    /// Who is to be merged into whom, and what of it is left to do.
    async fn check_merge(
        &self,
        (from, to): (&[EntityId], EntityId),
        keep: &[EntityId],
    ) -> Result<(EntityId, Vec<EntityId>), IdentityError> {
        if !keep.is_empty() && from.len() > 1 {
            return Err(IdentityError::InvalidField("conflicting_alias_ids_to_keep"));
        }
        let mut work = Work::new(self);
        let into = found(work.entity_id(EntityRef::Id(to)).await)?;
        let into = into.ok_or(IdentityError::InvalidField("to_entity_id"))?;
        let (mut all, mut left) = (work.entity(into).await?.clone(), Vec::new());
        for asked in from {
            let wrong = || IdentityError::InvalidField("from_entity_ids");
            let id = found(work.entity_id(EntityRef::Id(*asked)).await)?.ok_or_else(wrong)?;
            if *asked == to || *asked == into {
                return Err(wrong());
            }
            if id == into || left.contains(&id) {
                continue;
            }
            let old = work.entity(id).await?.clone();
            for alias in old.aliases {
                take_alias(&mut all, alias, keep)?;
            }
            all.groups.extend(old.groups);
            all.merged.extend(old.merged);
            all.merged.push(id);
            left.push(id);
        }
        if all.aliases.len() > ALIASES_MAX || all.merged.len() > MERGED_MAX {
            return Err(IdentityError::LimitExceeded);
        }
        if !left.is_empty() {
            // more than its tokens are given anything by are refused
            self.groups_above(&work.that_are_there(&all.groups).await?).await?;
        }
        Ok((into, left))
    }
}

impl Entity {
    /// So many of its parts at most, which are its no longer.
    fn split_off(&mut self, most: usize) -> Parts {
        let aliases: Vec<_> = self.aliases.drain(..most.min(self.aliases.len())).collect();
        let most = most - aliases.len();
        let groups: Vec<_> = std::iter::from_fn(|| self.groups.pop_first()).take(most).collect();
        let most = most - groups.len();
        let merged = self.merged.drain(..most.min(self.merged.len())).collect();
        Parts { aliases, groups, merged }
    }

    fn has_no_parts(&self) -> bool {
        self.aliases.is_empty() && self.groups.is_empty() && self.merged.is_empty()
    }
}

impl Parts {
    fn count(&self) -> usize {
        self.aliases.len() + self.groups.len() + self.merged.len()
    }
}

/// On a mount where there is one already, the one that is to be kept stays.
fn take_alias(new: &mut Entity, alias: Alias, keep: &[EntityId]) -> Result<(), IdentityError> {
    match new.aliases.iter().position(|held| held.mount_accessor == alias.mount_accessor) {
        None => new.aliases.push(alias),
        Some(at) if keep.contains(&alias.id) => {
            new.aliases.remove(at);
            new.aliases.push(alias);
        }
        Some(at) if new.aliases.get(at).is_some_and(|held| keep.contains(&held.id)) => {}
        Some(_) => return Err(IdentityError::InvalidField("from_entity_ids")),
    }
    Ok(())
}

/// Parts dropped in one commit, two operations each.
const DROPPED_AT_ONCE: usize = 40;
/// An entity itself, as parts: its record, its name, and where it was merged from.
const OF_ITSELF: usize = 2;
/// Parts that change hands in one commit: up to four operations each.
const MOVED_AT_ONCE: usize = 20;
