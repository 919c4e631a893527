//! Principals, tokens, policies, client certificates: who asks, and what they may do.
//!
//! Always: a token is alive only while it, all its ancestors and the cluster generation are; what a token may do was its
//! maker's to give.
//! Always: every operation leaves a record, the refused ones too, before its answer does.
//! Never: a token in storage, in a record or in a log; it is looked up by its keyed hash.
#![forbid(unsafe_code)]

mod ack;
pub mod acl;
mod alive;
mod asked;
pub mod certificate;
pub mod change;
pub mod cidr;
pub mod entity;
pub mod error;
pub mod name;
mod op;
pub mod policy;
pub mod principal;
mod service;
mod store;
mod sweep;
pub mod token;
mod turn;

pub use ack::AckDemand;
pub use acl::{Acl, Decided, Said, Verdict, decide, decide_on};
pub use asked::{Asked, Facts, Given};
pub use certificate::{CertificateMatch, CertificateRole, PeerCertificate, Standing};
pub use change::{ChangeError, Changes};
pub use cidr::Cidr;
pub use entity::{Alias, AliasChange, Entity, EntityChange, EntityId, EntityRef, Group, GroupChange, GroupKind};
pub use error::{Cause, Face, IdentityError};
pub use name::{Accessor, DisplayName, Malformed, PolicyName, RoleName};
pub use op::{
    AccessorPage, CertificateRolePage, EndedToken, LEASES_A_BATCH, Lease, LeasePage, PageRequest, PolicyPage,
    PolicyText, Progress, Target, Tidied, TokenRolePage, principal_id,
};
pub use policy::{Capability, Limits, MalformedPolicy, Policy, PolicyFault};
pub use principal::Principal;
pub use service::{Identities, Seams};
pub use store::{CacheSizes, Caches};
pub use token::{
    CreateToken, CreatedToken, DefaultPolicy, Excess, NewParent, NewToken, Parentage, PolicyGlob, RoleTokenKind,
    Through, TokenKind, TokenMetadata, TokenRole,
};
pub use turn::Turns;

use audit::{Ack, AckRefusal, Outcome, Record, Subject};
use envelope::Timestamp;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What is known of a request before anything is decided. Made once by the façade, which reads the clock for it.
#[derive(Debug)]
pub struct RequestInfo {
    pub request_id: String,
    /// The peer's address, or empty.
    pub from: String,
    pub now: Timestamp,
    /// `now`, by a clock that is never set.
    pub began: Instant,
    /// The client certificate that was shown: SHA-256 of its DER, hexadecimal.
    pub certificate: Option<Arc<str>>,
    /// What its decisions demand of the audit log, beside what can be had.
    pub ack: AckDemand,
    /// What it asks with, where a façade shows it: rules may bound that.
    pub asked: OnceLock<Asked>,
    /// Whom the subject belongs to, once it is known: an entity, as its records name it.
    pub entity: OnceLock<Arc<str>>,
    /// In which namespace it asks, once that is known: `a/b/`. Unset: in the root.
    pub namespace: OnceLock<Arc<str>>,
}

impl RequestInfo {
    /// Of a request that begins here, without a certificate.
    pub fn new(request_id: String, from: String, now: Timestamp) -> Self {
        let (ack, asked, entity, namespace) = (AckDemand::default(), OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { request_id, from, now, began: Instant::now(), certificate: None, ack, asked, entity, namespace }
    }

    /// What a decision is told of it.
    pub fn facts(&self) -> Facts<'_> {
        self.asked.get().map_or(Facts::Hidden, Facts::Asked)
    }

    /// Its answer waits for `ack` at least; refused where that cannot be had. For whoever asked [`decide`].
    pub fn demand(&self, ack: Ack) -> Result<(), AckRefusal> {
        self.ack.raise(ack)
    }

    /// A record of it: all that is known of every request.
    pub fn record<'a>(&'a self, operation: &'a str, subject: &'a Subject, outcome: Outcome) -> Record<'a> {
        let latency_micros = match &outcome {
            Outcome::Asked => None,
            Outcome::Done | Outcome::Failed(_) => u64::try_from(self.began.elapsed().as_micros()).ok(),
        };
        let certificate = match subject {
            Subject::Token { .. } => self.certificate.as_deref().unwrap_or_default(),
            // the subject itself, or beside nothing that was recognised
            Subject::Certificate { .. } | Subject::Unauthenticated | Subject::System => "",
        };
        let entity = match subject {
            Subject::Token { .. } => self.entity.get().map(|entity| &**entity).unwrap_or_default(),
            Subject::Certificate { .. } | Subject::Unauthenticated | Subject::System => "",
        };
        let from = &self.from;
        let namespace = self.namespace.get().map(|namespace| &**namespace).unwrap_or_default();
        let known = Record::new(self.now, &self.request_id, operation, subject);
        Record { from, outcome, latency_micros, certificate, entity, namespace, ..known }
    }
}
