//! Who was lent something and has ended without anybody's being told: by the loss of a certificate's role, or by a higher
//! generation.
//!
//! Never: by time, which each node has of its own: whoever is over by it is told when it is swept up.

use crate::error::IdentityError;
use crate::name::{Accessor, RoleName};
use crate::principal::{Principal, Proof};
use crate::service::Identities;
use crate::store;
use crate::token::{TokenKind, TokenRecord};
use envelope::Timestamp;
use storage::{AtLeast, EntryPath};

/// Whether tokens of an earlier generation count as void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    GoOn,
    Void,
}

impl Principal {
    /// By which role of certificates asks who has no record of its own, in which incarnation: as [`Identities::void_roles`]
    /// takes it.
    pub fn certificate_role(&self) -> Option<String> {
        let (role, incarnation) = match &self.proof {
            Proof::Certificate { role, incarnation, .. } => (role, incarnation),
            Proof::Token { record, .. } if record.terms.kind == TokenKind::Stateless && record.ancestors.is_empty() => {
                record.role.as_ref().map(|(role, incarnation)| (role, incarnation))?
            }
            Proof::Token { .. } | Proof::Above { .. } => return None,
        };
        Some(format!("{role}/{}", hex::encode(incarnation)))
    }
}

impl Identities {
    /// Those tokens that stand in the store, and for nobody.
    pub async fn void_tokens<'a>(&self, accessors: &[&'a str], older: Older) -> Result<Vec<&'a str>, IdentityError> {
        let mut known = Vec::new();
        for raw in accessors {
            if let Ok(accessor) = Accessor::parse(raw) {
                known.push((*raw, self.layout.accessor(&accessor)?));
            }
        }
        let (known, paths): (Vec<&str>, Vec<EntryPath>) = known.into_iter().unzip();
        let (_, found) = self.barrier.get(&paths, AtLeast::Latest).await?;
        let (mut standing, mut paths) = (Vec::new(), Vec::new());
        for (raw, found) in known.into_iter().zip(found) {
            if let Some(found) = found {
                standing.push(raw);
                paths.push(self.layout.token(&store::decode_digest(&found.value)?)?);
            }
        }
        let (_, records) = self.barrier.get(&paths, AtLeast::Latest).await?;
        let mut void = Vec::new();
        for (raw, opened) in standing.into_iter().zip(records) {
            let Some(opened) = opened else { continue };
            let record = store::decode_token(&opened.value)?;
            // it is this node that is of an earlier one
            if record.generation > self.generation {
                return Err(IdentityError::Conflict);
            }
            let is_older = older == Older::Void && record.generation < self.generation;
            if is_older || self.is_cut_off(&record).await? {
                void.push(raw);
            }
        }
        Ok(void)
    }

    /// Those roles, each with its incarnation, that are gone.
    pub async fn void_roles<'a>(&self, roles: &[&'a str]) -> Result<Vec<&'a str>, IdentityError> {
        let mut void = Vec::new();
        for raw in roles {
            let Some((name, incarnation)) = raw.split_once('/') else { continue };
            let Ok(name) = RoleName::parse(name) else { continue };
            let path = self.layout.role(&name)?;
            let (_, found) = self.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
            let stands = match found.into_iter().flatten().next() {
                Some(found) => hex::encode(store::decode_role(&found.value)?.incarnation) == incarnation,
                None => false,
            };
            if !stands {
                void.push(*raw);
            }
        }
        Ok(void)
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
