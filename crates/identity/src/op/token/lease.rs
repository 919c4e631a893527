//! Tokens as leases: by the path at which they were made, and a keyed hash of their accessor.
//!
//! Always: who asks, and whether they may, is the caller's to decide and to record: nothing here does.
//! Always: bounded by a page; what was ended is not met again, so that whoever goes on until nothing is left ends all.

use super::revoke::Children;
use crate::error::IdentityError;
use crate::name::Accessor;
use crate::service::Identities;
use crate::store;
use crate::token::{Digest, TokenMetadata, TokenRecord};
use envelope::Timestamp;
use std::sync::Arc;
use storage::{AtLeast, Batch, EntryPath};

/// A token that has an end of its own and has not come to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Where it was made.
    pub path: Arc<str>,
    /// 64 hex digits.
    pub key: String,
}

/// In the order of their keys, which means nothing. A page may be empty and others follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasePage {
    pub leases: Vec<Lease>,
    /// More follow: ask with this marker.
    pub next_marker: Option<String>,
}

impl Identities {
    /// The key of a token's lease: a keyed hash of its accessor.
    pub fn lease_key(&self, accessor: &Accessor) -> Result<String, IdentityError> {
        Ok(self.layout.accessor(accessor)?.segments().last().unwrap_or_default().to_owned())
    }

    /// The leases of tokens that were made at `prefix` or below it (it ends in a slash, or is empty), of one page of all tokens.
    pub async fn leases(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<LeasePage, IdentityError> {
        let after = after.map(|key| self.lease_entry(key)).transpose()?;
        let found = self.barrier.scan(&self.layout.accessors()?, after.as_ref(), limit, AtLeast::Latest).await?;
        let tokens = found.entries.iter().map(|(_, opened)| self.layout.token(&store::decode_digest(&opened.value)?));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        let (_, records) = self.barrier.get(&tokens, AtLeast::Latest).await?;
        let mut leases = Vec::new();
        for ((entry, _), opened) in found.entries.iter().zip(&records) {
            let Some(opened) = opened else { continue };
            let record = store::decode_token(&opened.value)?;
            let path = Arc::clone(&record.terms.path);
            if format!("{path}/").starts_with(prefix)
                && record.expires.is_some()
                && self.check_alive(&record, now).is_ok()
            {
                leases.push(Lease { path, key: key_in(entry) });
            }
        }
        let next_marker = found.entries.last().filter(|_| found.more).map(|(path, _)| key_in(path));
        Ok(LeasePage { leases, next_marker })
    }

    /// The token of a lease, alive or waiting to be swept up.
    pub async fn leased(&self, lease: &Lease) -> Result<TokenMetadata, IdentityError> {
        let (_, record) = self.leased_record(lease).await?;
        Ok(record.metadata(None))
    }

    /// Adds the ends of tokens, and of all that descend from them, to `batch`: for [`Identities::commit`], or whoever drops what
    /// caches know of it. At most [`LEASES_A_BATCH`]; a lease that is over already is passed over. How many there are.
    pub async fn prepare_ends(
        &self,
        mut batch: Batch,
        leases: &[Lease],
        now: Timestamp,
    ) -> Result<(Batch, usize), IdentityError> {
        let mut count = 0;
        for lease in leases.iter().take(LEASES_A_BATCH) {
            let digest = match self.leased_record(lease).await {
                Ok((digest, _)) => digest,
                Err(IdentityError::TokenNotFound) => continue,
                Err(error) => return Err(error),
            };
            batch = match self.revocation(batch.clone(), &digest, Children::End, now).await {
                Ok(batch) => batch,
                Err(IdentityError::TokenNotFound) => continue,
                Err(error) => return Err(error),
            };
            count += 1;
        }
        Ok((batch, count))
    }

    async fn leased_record(&self, lease: &Lease) -> Result<(Digest, TokenRecord), IdentityError> {
        let entry = self.lease_entry(&lease.key)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&entry), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
        let digest = store::decode_digest(&opened.value)?;
        let path = self.layout.token(&digest)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::TokenNotFound)?;
        let record = store::decode_token(&opened.value)?;
        if record.terms.path != lease.path || record.terms.released || record.expires.is_none() {
            return Err(IdentityError::TokenNotFound);
        }
        Ok((digest, record))
    }

    fn lease_entry(&self, key: &str) -> Result<EntryPath, IdentityError> {
        let sound = key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !sound {
            return Err(IdentityError::TokenNotFound);
        }
        self.layout.accessors()?.join(key).map_err(|_| IdentityError::TokenNotFound)
    }
}

fn key_in(path: &EntryPath) -> String {
    path.segments().last().unwrap_or_default().to_owned()
}

/// A batch holds 128 operations: nine for each, and one for the record.
pub const LEASES_A_BATCH: usize = 12;
