//! Who was lent something and has ended without anybody's being told: by the loss of a certificate's role.
//!
//! Never: by time, which each node has of its own: whoever is over by it is told when it is swept up. Nor by a higher generation:
//! a copy of the store that is only tried out would take back what the one that lives has lent.

use crate::error::{Cause, IdentityError};
use crate::name::{Accessor, RoleName};
use crate::principal::{Principal, Proof, role_id};
use crate::service::Identities;
use crate::store;
use crate::token::TokenRecord;
use envelope::Timestamp;
use std::collections::HashMap;
use storage::{AtLeast, Batch};

impl Principal {
    /// As whom a client certificate itself asks: what [`Identities::void_certificates`] takes.
    pub fn certificate(&self) -> Option<&str> {
        match self.proof {
            Proof::Certificate { .. } => Some(self.id()),
            Proof::Token { .. } | Proof::Above { .. } => None,
        }
    }
}

impl Identities {
    /// Those tokens that stand in the store, and for nobody.
    pub async fn void_tokens<'a>(&self, accessors: &[&'a str]) -> Result<Vec<&'a str>, IdentityError> {
        let (mut known, mut paths) = (Vec::new(), Vec::new());
        for raw in accessors {
            if let Ok(accessor) = Accessor::parse(raw) {
                known.push(*raw);
                paths.push(self.layout.accessor(&accessor)?);
            }
        }
        let (_, found) = self.barrier.get(&paths, AtLeast::Latest).await?;
        let (mut standing, mut paths) = (Vec::new(), Vec::new());
        for (raw, found) in known.into_iter().zip(found) {
            if let Some(found) = found {
                standing.push(raw);
                paths.push(self.layout.token(&store::decode_digest(&found.value)?)?);
            }
        }
        let (_, records) = self.barrier.get(&paths, AtLeast::Latest).await?;
        // many were made by the same
        let (mut void, mut judged) = (Vec::new(), HashMap::new());
        for (raw, opened) in standing.into_iter().zip(records) {
            let Some(opened) = opened else { continue };
            let record = store::decode_token(&opened.value)?;
            // it is this node that is of an earlier one
            if record.generation > self.generation {
                return Err(IdentityError::Conflict);
            }
            let above = self.above(&record)?;
            let is_cut_off = match judged.get(&above) {
                _ if above.is_empty() => false,
                Some(is_cut_off) => *is_cut_off,
                None => self.is_cut_off(&record).await?,
            };
            if is_cut_off {
                void.push(raw);
            }
            judged.insert(above, is_cut_off);
        }
        Ok(void)
    }

    /// Those certificates' principals whose roles are gone. A role that is written again is the same.
    pub async fn void_certificates<'a>(&self, principals: &[&'a str]) -> Result<Vec<&'a str>, IdentityError> {
        let mut void = Vec::new();
        for raw in principals {
            let name = raw.strip_prefix("cert/").and_then(|raw| raw.split('@').next());
            let Some(name) = name.and_then(|name| RoleName::parse(name).ok()) else { continue };
            let path = self.layout.role(&name)?;
            let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
            let stands = match found.into_iter().flatten().next() {
                Some(found) => role_id(&name, store::decode_role(&found.value)?.lineage) == *raw,
                None => false,
            };
            if !stands {
                void.push(*raw);
            }
        }
        Ok(void)
    }

    /// With the role of a certificate as a condition.
    pub(crate) async fn while_role_stands(
        &self,
        batch: Batch,
        role: &RoleName,
        incarnation: &[u8; 16],
    ) -> Result<Batch, IdentityError> {
        let gone = || IdentityError::Unauthenticated(Cause::CertificateUnknown);
        let path = self.layout.role(role)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let found = found.into_iter().flatten().next().ok_or_else(gone)?;
        if store::decode_role(&found.value)?.incarnation != *incarnation {
            return Err(gone());
        }
        Ok(batch.revision_is(path, found.revision))
    }

    /// Whether an ancestor is gone, or the role that it came from. At a time at which nobody's is over.
    async fn is_cut_off(&self, record: &TokenRecord) -> Result<bool, IdentityError> {
        match self.ancestors_that_stand(record, Timestamp::from_unix_millis(0)).await {
            Ok(_) => Ok(false),
            Err(IdentityError::Unauthenticated(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
