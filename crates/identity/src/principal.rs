//! Who asks, once recognised.

use crate::acl::Acl;
use crate::entity::EntityId;
use crate::name::{PolicyName, RoleName};
use crate::service::Identities;
use crate::token::{Digest, TokenMetadata, TokenRecord};
use audit::Subject;
use envelope::Timestamp;
use std::sync::Arc;

/// A token's holder or a client certificate's, with what the policies say of it. Made by [`crate::Identities`] only.
#[derive(Debug)]
pub struct Principal {
    id: String,
    subject: Subject,
    policies: Arc<[PolicyName]>,
    acl: Arc<Acl>,
    /// As its records name the entity that its token belongs to.
    pub(crate) entity: Option<Arc<str>>,
    pub(crate) proof: Proof,
}

/// By what it was recognised.
#[derive(Debug)]
pub(crate) enum Proof {
    Token {
        digest: Digest,
        record: Box<TokenRecord>,
        uses_left: Option<u32>,
        /// When the first of its ancestors ends.
        parents_end: Option<Timestamp>,
    },
    Certificate {
        role: RoleName,
        incarnation: [u8; 16],
        thumbprint: [u8; 32],
    },
    /// In a namespace above, of which these are.
    Above {
        principal: Arc<Principal>,
        identities: Box<Identities>,
    },
}

impl Principal {
    pub(crate) fn of_token(
        digest: Digest,
        record: TokenRecord,
        uses_left: Option<u32>,
        parents_end: Option<Timestamp>,
        acl: Arc<Acl>,
    ) -> Self {
        let accessor = record.accessor.as_str().to_owned();
        Self {
            id: format!("token/{accessor}"),
            subject: Subject::Token { accessor, name: record.display_name.as_str().to_owned() },
            policies: Arc::clone(&record.policies),
            acl,
            entity: record.terms.entity.map(|id| EntityId(id).to_string().into()),
            proof: Proof::Token { digest, record: Box::new(record), uses_left, parents_end },
        }
    }

    pub(crate) fn of_certificate(
        thumbprint: &[u8; 32],
        role: RoleName,
        (incarnation, lineage): ([u8; 16], Option<[u8; 16]>),
        policies: Arc<[PolicyName]>,
        acl: Arc<Acl>,
    ) -> Self {
        Self {
            id: role_id(&role, lineage),
            subject: Subject::Certificate { thumbprint: hex::encode(thumbprint), name: role.as_str().to_owned() },
            policies,
            acl,
            entity: None,
            proof: Proof::Certificate { role, incarnation, thumbprint: *thumbprint },
        }
    }

    /// The same in a namespace that stands at `path` below its own: its policies say what it may do there, on paths from where
    /// they are; their names say nothing there, and whom it belongs to neither.
    #[must_use]
    pub fn below(self: &Arc<Self>, own: &Identities, path: &str) -> Self {
        Self {
            id: self.id.clone(),
            subject: self.subject.clone(),
            policies: Arc::default(),
            acl: Arc::new(Acl::below(&self.acl, path)),
            entity: self.entity.clone(),
            proof: Proof::Above { principal: Arc::clone(self), identities: Box::new(own.clone()) },
        }
    }

    /// Its token is of a namespace above.
    pub(crate) fn is_from_above(&self) -> bool {
        matches!(self.proof, Proof::Above { .. })
    }

    /// `token/ACCESSOR` or `cert/ROLE@LINEAGE`: nobody else ever bears it, so what is kept for a principal is kept under it.
    /// A role that was deleted and made again is another one.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub fn acl(&self) -> &Acl {
        &self.acl
    }

    pub(crate) fn rules(&self) -> Arc<Acl> {
        Arc::clone(&self.acl)
    }

    pub fn policies(&self) -> &[PolicyName] {
        &self.policies
    }

    /// To whom its token belongs.
    pub fn entity(&self) -> Option<EntityId> {
        match &self.proof {
            Proof::Token { record, .. } => record.terms.entity.map(EntityId),
            Proof::Certificate { .. } | Proof::Above { .. } => None,
        }
    }

    pub fn is_root(&self) -> bool {
        self.acl.is_root()
    }

    /// From then on it is nobody.
    pub fn expires(&self) -> Option<Timestamp> {
        match &self.proof {
            Proof::Token { record, parents_end, .. } => [record.expires, *parents_end].into_iter().flatten().min(),
            Proof::Certificate { .. } => None,
            Proof::Above { principal, .. } => principal.expires(),
        }
    }

    /// All that is public about its token; nothing where a certificate asks, or a token of a namespace above.
    pub fn token(&self) -> Option<TokenMetadata> {
        match &self.proof {
            Proof::Token { record, uses_left, .. } => Some(record.metadata(*uses_left)),
            Proof::Certificate { .. } | Proof::Above { .. } => None,
        }
    }
}

/// No role's name has an `@`.
pub(crate) fn role_id(role: &RoleName, lineage: Option<[u8; 16]>) -> String {
    match lineage {
        Some(lineage) => format!("cert/{role}@{}", hex::encode(lineage)),
        None => format!("cert/{role}"),
    }
}
