//! Where keys, aliases and grants are stored, and what is kept of them in memory.
//!
//! Below `<tenant>/kms`: `keys/<key id>`, `aliases/<keyed hash of the name>`, `grants/<key id>/<grant id>`,
//! `requests/<keyed hash of principal and client request id>`, `deletion/<16 hex digits of due time>/<key id>`; the same
//! below a namespace's part, `<tenant>/ns/<its own tenant>/kms`.
//!
//! Always: a change made here is forgotten by the caches before its caller is answered; one made elsewhere, when the watch
//! tells. Never: a value that depends on more than it is dropped for.

pub(crate) mod codec;

use crate::error::KmsError;
use crate::grant::Grant;
use crate::key::KeyRecord;
use crate::name::{AliasName, ClientRequestId, GrantId};
use crate::op::alias::AliasEntry;
use crate::op::{Page, PageRequest};
use codec::RequestRecord;
use envelope::Timestamp;
use hsm_api::{KeyId, TenantId};
use identity::Turns;
use std::collections::HashMap;
use std::sync::Arc;
use storage::{AtLeast, Barrier, Cache, Change, EntryPath, Invalidate, Revision};

/// What is kept in memory, bounded, and what one of a node does at a time. One for all cores; tell it of changes with
/// [`storage::follow`].
#[derive(Debug)]
pub struct Caches {
    /// Of each tenant: another one's id finds nothing.
    pub(crate) keys: Cache<(TenantId, KeyId), KeyRecord>,
    /// Of the root's; namespaces' are read anew.
    pub(crate) aliases: Cache<AliasName, KeyId>,
    pub(crate) grants: Cache<(TenantId, KeyId), Grants>,
    /// By key id: of who makes a new version of a key that is outlived or due.
    pub(crate) renewing: Turns,
}

/// How many entries each cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSizes {
    pub keys: usize,
    pub aliases: usize,
    /// Keys whose grants are kept.
    pub grants: usize,
}

impl Caches {
    /// At most `keys` keys, as many aliases, and as many keys' grants.
    pub fn new(keys: usize) -> Self {
        Self { keys: Cache::new(keys), aliases: Cache::new(keys), grants: Cache::new(keys), renewing: Turns::default() }
    }

    pub fn sizes(&self) -> CacheSizes {
        CacheSizes { keys: self.keys.len(), aliases: self.aliases.len(), grants: self.grants.len() }
    }
}

impl Invalidate for Caches {
    fn apply(&self, change: &Change) {
        // nothing that is kept depends on anything else
        if !change.concerns(DOMAIN) {
            return;
        }
        self.keys.apply(change);
        self.aliases.apply(change);
        self.grants.apply(change);
    }

    fn forget(&self) {
        self.keys.forget();
        self.aliases.forget();
        self.grants.forget();
    }

    fn current(&self, until: storage::Until) {
        self.keys.current(until);
        self.aliases.current(until);
        self.grants.current(until);
    }
}

/// A key's grants by grantee.
#[derive(Debug, Default)]
pub(crate) struct Grants(HashMap<Box<str>, Vec<Grant>>);

impl Grants {
    pub(crate) fn of(&self, grantee: &str) -> &[Grant] {
        self.0.get(grantee).map_or(&[], Vec::as_slice)
    }
}

/// An entry as it was read, for a precondition.
#[derive(Debug)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    barrier: Arc<Barrier>,
    caches: Arc<Caches>,
    tenant: TenantId,
    root: EntryPath,
    is_of_namespace: bool,
}

type PathResult = Result<EntryPath, KmsError>;

impl Store {
    pub(crate) fn new(barrier: Arc<Barrier>, caches: Arc<Caches>, tenant: TenantId) -> Result<Self, KmsError> {
        let root = EntryPath::parse(&format!("{}/{DOMAIN}", hex::encode(tenant)))
            .map_err(|_| KmsError::Internal("a tenant is a segment"))?;
        Ok(Self { barrier, caches, tenant, root, is_of_namespace: false })
    }

    /// The same, of a namespace whose part of the store is below `part`.
    pub(crate) fn in_namespace(&self, part: &EntryPath, tenant: TenantId) -> Result<Self, KmsError> {
        let root = part.join(DOMAIN).map_err(|_| KmsError::Internal("a namespace is two segments"))?;
        Ok(Self { tenant, root, is_of_namespace: true, ..self.clone() })
    }

    pub(crate) fn root(&self) -> &EntryPath {
        &self.root
    }

    pub(crate) fn key_path(&self, id: &KeyId) -> PathResult {
        self.below(&format!("keys/{id}"))
    }

    pub(crate) fn alias_path(&self, name: &AliasName) -> PathResult {
        let hash = self.barrier.keyed_hash(b"kms/alias", name.as_str().as_bytes())?;
        self.below(&format!("aliases/{}", hex::encode(hash)))
    }

    pub(crate) fn grants_path(&self, key: &KeyId) -> PathResult {
        self.below(&format!("grants/{key}"))
    }

    pub(crate) fn grant_path(&self, key: &KeyId, grant: &GrantId) -> PathResult {
        self.below(&format!("grants/{key}/{grant}"))
    }

    pub(crate) fn request_path(&self, principal: &str, request: &ClientRequestId) -> PathResult {
        // the second is of visible ASCII, so the line break keeps the two apart
        let named = format!("{principal}\n{}", request.as_str());
        let hash = self.barrier.keyed_hash(b"kms/request", named.as_bytes())?;
        self.below(&format!("requests/{}", hex::encode(hash)))
    }

    pub(crate) fn requests_path(&self) -> PathResult {
        self.below("requests")
    }

    pub(crate) fn due_queue(&self) -> PathResult {
        self.below("deletion")
    }

    pub(crate) fn due_path(&self, at: Timestamp, key: &KeyId) -> PathResult {
        self.below(&format!("deletion/{:016x}/{key}", at.unix_millis()))
    }

    pub(crate) fn keys_path(&self) -> PathResult {
        self.below("keys")
    }

    pub(crate) fn aliases_path(&self) -> PathResult {
        self.below("aliases")
    }

    fn below(&self, rest: &str) -> PathResult {
        self.root.join(rest).map_err(|_| KmsError::Internal("ids, hashes and times are segments"))
    }

    /// From memory, or as the store has it now.
    pub(crate) async fn key(&self, id: &KeyId) -> Result<Option<Arc<KeyRecord>>, KmsError> {
        if let Some(key) = self.caches.keys.peek(&(self.tenant, *id)) {
            return Ok(Some(key));
        }
        let path = self.key_path(id)?;
        let (read_at, found) = self.read(&path, |bytes| codec::decode_key(&self.tenant, bytes)).await?;
        let Some(Found { value, revision: _ }) = found else { return Ok(None) };
        let key = Arc::new(value);
        self.caches.keys.insert((self.tenant, *id), Arc::clone(&key), &[path], read_at);
        Ok(Some(key))
    }

    /// As the store has it now, to be changed.
    pub(crate) async fn key_now(&self, id: &KeyId) -> Result<Option<Found<KeyRecord>>, KmsError> {
        Ok(self.read(&self.key_path(id)?, |bytes| codec::decode_key(&self.tenant, bytes)).await?.1)
    }

    pub(crate) async fn alias(&self, name: &AliasName) -> Result<Option<KeyId>, KmsError> {
        if !self.is_of_namespace
            && let Some(target) = self.caches.aliases.peek(name)
        {
            return Ok(Some(*target));
        }
        let path = self.alias_path(name)?;
        let (read_at, found) = self.read(&path, codec::decode_alias).await?;
        let Some(Found { value, revision: _ }) = found else { return Ok(None) };
        if !self.is_of_namespace {
            self.caches.aliases.insert(name.clone(), Arc::new(value.target), &[path], read_at);
        }
        Ok(Some(value.target))
    }

    pub(crate) async fn alias_now(&self, name: &AliasName) -> Result<Option<Found<AliasEntry>>, KmsError> {
        Ok(self.read(&self.alias_path(name)?, codec::decode_alias).await?.1)
    }

    pub(crate) async fn grant_now(&self, key: &KeyId, id: &GrantId) -> Result<Option<Found<Grant>>, KmsError> {
        Ok(self.read(&self.grant_path(key, id)?, codec::decode_grant).await?.1)
    }

    pub(crate) async fn request_now(&self, path: &EntryPath) -> Result<Option<Found<RequestRecord>>, KmsError> {
        Ok(self.read(path, codec::decode_request).await?.1)
    }

    /// A key's grants. Those of an unknown key are none, and are found like any other's.
    pub(crate) async fn grants(&self, key: &KeyId) -> Result<Arc<Grants>, KmsError> {
        if let Some(grants) = self.caches.grants.peek(&(self.tenant, *key)) {
            return Ok(grants);
        }
        let mut grants = Grants::default();
        let (read_at, all, bytes) = self.all_grants(key).await?;
        for grant in all {
            grants.0.entry(grant.grantee.as_str().into()).or_default().push(grant);
        }
        let grants = Arc::new(grants);
        // Many and long grants are read anew each time: memory stays bounded.
        if bytes <= CACHED_GRANT_BYTES_MAX {
            self.caches.grants.insert((self.tenant, *key), Arc::clone(&grants), &[self.grants_path(key)?], read_at);
        }
        Ok(grants)
    }

    /// A key's grants as the store has them now, from when on that is known, and how long they are together.
    pub(crate) async fn all_grants(&self, key: &KeyId) -> Result<(Revision, Vec<Grant>, usize), KmsError> {
        let prefix = self.grants_path(key)?;
        let (mut grants, mut bytes, mut after, mut read_at) = (Vec::new(), 0, None, None);
        loop {
            let page = self.barrier.scan(&prefix, after.as_ref(), SCAN_ENTRIES, AtLeast::Latest).await?;
            let read_at = *read_at.get_or_insert(page.revision);
            for (path, opened) in &page.entries {
                bytes += opened.value.len();
                grants.push(codec::decode_grant(opened.value.expose()).ok_or_else(|| unreadable(path))?);
            }
            match page.entries.into_iter().next_back() {
                Some((last, _)) if page.more => after = Some(last),
                Some(_) | None => return Ok((read_at, grants, bytes)),
            }
        }
    }

    async fn read<T>(
        &self,
        path: &EntryPath,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<(Revision, Option<Found<T>>), KmsError> {
        let (read_at, entries) = self.barrier.get(std::slice::from_ref(path), AtLeast::Latest).await?;
        let Some(opened) = entries.into_iter().flatten().next() else { return Ok((read_at, None)) };
        let value = decode(opened.value.expose()).ok_or_else(|| unreadable(path))?;
        Ok((read_at, Some(Found { value, revision: opened.revision })))
    }

    /// A page of what `pick` picks below `prefix`. A page may be short, and even empty, with more to follow.
    pub(crate) async fn page<T>(
        &self,
        prefix: &EntryPath,
        ask: &Paging,
        pick: impl Fn(&TenantId, &[u8]) -> Option<Option<T>>,
    ) -> Result<Page<T>, KmsError> {
        let (mut items, mut after) = (Vec::new(), ask.after.clone());
        for _ in 0..SCANS_MAX {
            let page = self.barrier.scan(prefix, after.as_ref(), ask.limit, AtLeast::Latest).await?;
            let last_path = page.entries.last().map(|(path, _)| path.clone());
            for (path, opened) in page.entries {
                let picked = pick(&self.tenant, opened.value.expose()).ok_or_else(|| unreadable(&path))?;
                items.extend(picked);
                if items.len() >= ask.limit as usize {
                    let more = page.more || last_path.as_ref() != Some(&path);
                    return Ok(Page { items, next_marker: more.then(|| marker_of(&path)) });
                }
            }
            if !page.more {
                return Ok(Page { items, next_marker: None });
            }
            after = last_path;
        }
        let next_marker = after.as_ref().map(marker_of);
        Ok(Page { items, next_marker })
    }

    pub(crate) fn paging(
        &self,
        prefix: &EntryPath,
        ask: &PageRequest,
        (usual, most): (u32, u32),
        is_marker: impl Fn(&str) -> bool,
    ) -> Result<Paging, KmsError> {
        let limit = match ask.limit {
            0 => usual,
            limit if limit <= most => limit,
            _ => return Err(KmsError::InvalidField("limit")),
        };
        let after = match ask.marker.as_str() {
            "" => None,
            marker if is_marker(marker) => Some(prefix.join(marker).map_err(|_| KmsError::InvalidMarker)?),
            _ => return Err(KmsError::InvalidMarker),
        };
        Ok(Paging { limit, after })
    }
}

/// A page asked for, checked.
#[derive(Debug)]
pub(crate) struct Paging {
    limit: u32,
    after: Option<EntryPath>,
}

fn marker_of(path: &EntryPath) -> String {
    path.segments().last().unwrap_or_default().to_owned()
}

pub(crate) fn unreadable(path: &EntryPath) -> KmsError {
    KmsError::DataAltered(format!("the stored value at {path} cannot be read"))
}

/// The segment below which all of it stands.
const DOMAIN: &str = "kms";
/// Entries in one look at the store.
const SCAN_ENTRIES: u32 = 500;
/// Looks at the store for one page of a listing.
const SCANS_MAX: usize = 8;
const CACHED_GRANT_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests;
