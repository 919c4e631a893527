//! Where leases stand, and what stands beside each.

use super::{Lease, Target};
use crate::error::VaultError;
use crate::service::Vault;
use crate::stored::{decode, encode};
use crate::view::View;
use envelope::Timestamp;
use identity::{Entity, EntityId};
use serde::Serialize;
use storage::{AtLeast, Batch, EntryPath, Revision};

#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) view: View,
}

/// One that was read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) lease: Lease,
    pub(crate) revision: Revision,
}

impl Leases {
    pub(crate) fn of(vault: &Vault) -> Result<Self, VaultError> {
        Ok(Self { view: vault.view("leases")? })
    }

    /// By what a lease of this id stands.
    pub(crate) fn key(&self, id: &str) -> Result<String, VaultError> {
        self.view.hash(b"vault/lease", id)
    }

    pub(crate) fn record(&self, key: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("r/{key}"))
    }

    pub(crate) fn queue(&self, target: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("due/{target}"))
    }

    pub(crate) fn due(&self, lease: &Lease, key: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("due/{}/{:016x}/{key}", lease.target, lease.due))
    }

    pub(crate) fn late(&self, lease: &Lease, key: &str) -> Result<Option<EntryPath>, VaultError> {
        let late = lease.late_since.map(|at| self.view.path(&format!("late/{}/{at:016x}/{key}", lease.target)));
        late.transpose()
    }

    pub(crate) fn all(&self) -> Result<EntryPath, VaultError> {
        self.view.path("p")
    }

    /// Of what was asked for at one path.
    pub(crate) fn at_path(&self, path: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("p/{}", self.view.hash(b"vault/lease-path", path)?))
    }

    pub(crate) fn of_target(&self, mount: &str, target: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("u/{mount}/{target}"))
    }

    pub(crate) fn of_token(&self, accessor: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("a/{}", self.view.hash(b"vault/lease-token", accessor)?))
    }

    pub(crate) fn of_entity(&self, entity: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("e/{}", self.view.hash(b"vault/lease-entity", entity)?))
    }

    pub(crate) fn ended_entities(&self) -> Result<EntryPath, VaultError> {
        self.view.path("ee")
    }

    /// So that what is lent to this entity, by whatever id it was known, is taken back.
    pub(crate) fn end_entity(&self, batch: Batch, entity: &Entity, now: Timestamp) -> Result<Batch, VaultError> {
        let ids: Vec<String> = [entity.id].iter().chain(&entity.merged).map(EntityId::to_string).collect();
        let key = self.view.hash(b"vault/lease-entity", &entity.id.to_string())?;
        let path = self.view.path(&format!("ee/{:016x}/{key}", now.unix_millis()))?;
        self.put(batch, path, &ids)
    }

    pub(crate) fn targets(&self) -> Result<EntryPath, VaultError> {
        self.view.path("t")
    }

    pub(crate) fn target(&self, id: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("t/{id}"))
    }

    pub(crate) fn window(&self, window: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("w/{window}"))
    }

    /// The paths that lead to a lease beside its record and its place in the queue, which changes.
    fn beside(&self, lease: &Lease, key: &str) -> Result<Vec<EntryPath>, VaultError> {
        let folders = [
            Some(self.at_path(lease.path())?),
            Some(self.of_target(&lease.mount, &lease.target)?),
            lease.token.as_deref().map(|accessor| self.of_token(accessor)).transpose()?,
            lease.entity.as_deref().map(|entity| self.of_entity(entity)).transpose()?,
        ];
        let below = |folder: EntryPath| folder.join(key).map_err(|_| VaultError::Internal("a lease's path".into()));
        folders.into_iter().flatten().map(below).collect()
    }

    /// With a new lease, and all that leads to it.
    pub(crate) fn add(&self, batch: Batch, lease: &Lease, key: &str) -> Result<Batch, VaultError> {
        let record = self.record(key)?;
        let mut batch = self.put(batch.absent(record.clone()), record, lease)?;
        for path in self.beside(lease, key)? {
            batch = self.view.put(batch, path, lease.id.as_bytes())?;
        }
        if let Some(window) = &lease.window {
            batch = self.view.put(batch, self.window(window)?, key.as_bytes())?;
        }
        self.view.put(batch, self.due(lease, key)?, &[])
    }

    /// With the lease as it is now, looked at when it says.
    pub(crate) fn change(&self, batch: Batch, found: &Found, now: &Lease) -> Result<Batch, VaultError> {
        let record = self.record(&found.key)?;
        let batch = self.put(batch.revision_is(record.clone(), found.revision), record, now)?;
        let (was, is) = (self.due(&found.lease, &found.key)?, self.due(now, &found.key)?);
        let batch = if was == is { batch } else { self.view.put(batch.delete(was), is, &[])? };
        match (self.late(&found.lease, &found.key)?, self.late(now, &found.key)?) {
            (None, Some(late)) => self.view.put(batch, late, &[]),
            (Some(_) | None, _) => Ok(batch),
        }
    }

    /// Without it.
    pub(crate) fn remove(&self, batch: Batch, found: &Found) -> Result<Batch, VaultError> {
        let (lease, key) = (&found.lease, &found.key);
        let record = self.record(key)?;
        let mut batch = batch.revision_is(record.clone(), found.revision).delete(record);
        // where it leads to another one by now, that is made anew instead of given again
        let window = lease.window.as_deref().map(|window| self.window(window)).transpose()?;
        for path in self.beside(lease, key)?.into_iter().chain(self.late(lease, key)?).chain(window) {
            batch = batch.delete(path);
        }
        Ok(batch.delete(self.due(lease, key)?))
    }

    pub(crate) async fn load(&self, key: &str) -> Result<Option<Found>, VaultError> {
        if !is_key(key) {
            return Ok(None);
        }
        let found = self.view.load(&self.record(key)?).await?;
        found.map(|found| self.found(key, found)).transpose()
    }

    fn found(&self, key: &str, found: storage::Opened) -> Result<Found, VaultError> {
        Ok(Found { key: key.to_owned(), lease: decode(found.value.expose())?, revision: found.revision })
    }

    /// The leases to which the entries of a folder lead, one page of them; whether there are more.
    pub(crate) async fn below(
        &self,
        folder: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
    ) -> Result<(Vec<Found>, Option<EntryPath>), VaultError> {
        let page = self.view.scan(folder, after, limit).await?;
        let keys: Vec<String> = page.entries.iter().map(|(path, _)| last(path)).collect();
        let next = page.entries.last().filter(|_| page.more).map(|(path, _)| path.clone());
        Ok((self.load_all(&keys).await?, next))
    }

    /// Those of them that stand.
    pub(crate) async fn load_all(&self, keys: &[String]) -> Result<Vec<Found>, VaultError> {
        let paths = keys.iter().map(|key| self.record(key)).collect::<Result<Vec<_>, _>>()?;
        let found = self.view.load_all(&paths).await?;
        keys.iter().zip(found).filter_map(|(key, found)| Some(self.found(key, found?))).collect()
    }

    /// Whether anything that was lent at a database is left.
    pub(crate) async fn are_at(&self, vault: &Vault, id: &str, target: &Target) -> Result<bool, VaultError> {
        let folder = self.of_target(&target.mount, id)?;
        Ok(!vault.barrier().storage().scan(&folder, None, 1, AtLeast::Latest).await?.entries.is_empty())
    }

    pub(crate) async fn load_target(&self, id: &str) -> Result<Option<(Target, Revision)>, VaultError> {
        let found = self.view.load(&self.target(id)?).await?;
        found.map(|found| Ok((decode(found.value.expose())?, found.revision))).transpose()
    }

    pub(crate) fn put(&self, batch: Batch, path: EntryPath, value: &impl Serialize) -> Result<Batch, VaultError> {
        self.view.put(batch, path, &encode(value)?)
    }
}

/// A key is a hash; what is none stands nowhere.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) fn last(path: &EntryPath) -> String {
    path.segments().last().unwrap_or_default().to_owned()
}
