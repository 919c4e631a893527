//! The operations: authorise, apply, record. One file a kind of thing.

mod entity;
mod group;
mod policy;
mod role;
mod token;

pub use entity::Progress;
pub(crate) use policy::DEFAULT_POLICY;
pub use policy::{PolicyPage, PolicyText};
pub use role::{CertificateRolePage, principal_id};
pub(crate) use token::LOOKED_AT_EVERY;
pub use token::{AccessorPage, EndedToken, LEASES_A_BATCH, Lease, LeasePage, Target, Tidied, TokenRolePage};

use crate::acl::{Decided, Verdict, decide, decide_on};
use crate::error::IdentityError;
use crate::policy::Capability;
use crate::principal::Principal;
use crate::service::Identities;
use crate::{ChangeError, RequestInfo};
use audit::{Decision, Outcome, Record, Subject};
use storage::{Batch, PAGE_ENTRIES_MAX};

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    pub(crate) limit: u32,
    /// The last name of the page before.
    pub(crate) after: Option<String>,
}

impl PageRequest {
    /// `limit` 1 to 1000, or 0 for 100; `marker` as a page gave it, or empty.
    pub fn parse(limit: u32, marker: &str) -> Result<Self, IdentityError> {
        let limit = match limit {
            0 => PAGE_DEFAULT,
            1..=PAGE_ENTRIES_MAX => limit,
            _ => return Err(IdentityError::InvalidField("limit")),
        };
        let after = if marker.is_empty() {
            None
        } else {
            Some(crate::PolicyName::parse(marker).map_err(|_| IdentityError::InvalidMarker)?.as_str().to_owned())
        };
        Ok(Self { limit, after })
    }
}

/// What is being done, by whom, and what decided on it.
pub(crate) struct Act<'a> {
    identities: &'a Identities,
    call: &'a RequestInfo,
    operation: &'static str,
    subject: &'a Subject,
    path: String,
    rule: String,
}

impl Identities {
    /// Asks the caller's rules; a refusal is recorded here.
    pub(crate) async fn authorise<'a>(
        &'a self,
        by: &'a Principal,
        call: &'a RequestInfo,
        operation: &'static str,
        path: String,
        capability: Capability,
    ) -> Result<Act<'a>, IdentityError> {
        let Decided { verdict, ack } = decide_on(by.acl(), &path, capability, call.facts());
        let demanded = call.demand(ack);
        let mut act = self.act(by, call, operation, path.clone());
        match verdict {
            Verdict::Allow { rule } => {
                act.rule = rule.to_owned();
                match demanded {
                    Ok(()) => Ok(act),
                    Err(refusal) => act.failed(refusal.into()).await,
                }
            }
            Verdict::Deny { rule } => act.deny(rule).await,
            Verdict::Nothing => act.deny("").await,
        }
    }

    /// Something that everybody may do to themselves; their rules say no more than what must vouch for the record.
    pub(crate) async fn on_oneself<'a>(
        &'a self,
        by: &'a Principal,
        call: &'a RequestInfo,
        operation: &'static str,
        path: String,
    ) -> Result<Act<'a>, IdentityError> {
        let demanded = call.demand(decide(by.acl(), &path, Capability::Update).ack);
        let act = self.act(by, call, operation, path);
        match demanded {
            Ok(()) => Ok(act),
            Err(refusal) => act.failed(refusal.into()).await,
        }
    }

    fn act<'a>(&'a self, by: &'a Principal, call: &'a RequestInfo, operation: &'static str, path: String) -> Act<'a> {
        Act { identities: self, call, operation, subject: by.subject(), path, rule: String::new() }
    }
}

impl Act<'_> {
    fn record(&self, decision: Decision, outcome: Outcome) -> Record<'_> {
        Record {
            path: &self.path,
            rule: &self.rule,
            decision,
            ..self.call.record(self.operation, self.subject, outcome)
        }
    }

    /// Records a refusal, and refuses.
    async fn deny<T>(&self, rule: &str) -> Result<T, IdentityError> {
        let refusal = IdentityError::PermissionDenied;
        let outcome = Outcome::Failed(refusal.reason().into());
        let record = Record { rule, ..self.record(Decision::Denied, outcome) };
        self.identities.changes.log(&record).await?;
        Err(refusal)
    }

    /// Commits a change with its record.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), ChangeError> {
        let record = self.record(Decision::Allowed, Outcome::Done);
        self.identities.commit(batch, &record).await.map(|_| ())
    }

    /// Records what came of something that was allowed and changed nothing.
    pub(crate) async fn read<T>(&self, outcome: Result<T, IdentityError>) -> Result<T, IdentityError> {
        match outcome {
            Ok(value) => {
                self.identities.changes.log(&self.record(Decision::Allowed, Outcome::Done)).await?;
                Ok(value)
            }
            Err(error) => self.failed(error).await,
        }
    }

    /// Records what came of a change. One that was made is recorded already.
    pub(crate) async fn changed<T>(&self, outcome: Result<T, IdentityError>) -> Result<T, IdentityError> {
        match outcome {
            Ok(value) => Ok(value),
            // The rule that allowed the path is not what refused.
            Err(IdentityError::PermissionDenied) => self.deny("").await,
            Err(error) => self.failed(error).await,
        }
    }

    async fn failed<T>(&self, error: IdentityError) -> Result<T, IdentityError> {
        tracing::info!(request_id = self.call.request_id, operation = self.operation, %error, "failed");
        // The log that could not be written tells it when it can be: the leaf of a change waits in the outbox.
        if !matches!(error, IdentityError::Audit(_)) {
            let outcome = Outcome::Failed(error.reason().into());
            self.identities.changes.log(&self.record(Decision::Allowed, outcome)).await?;
        }
        Err(error)
    }
}

const PAGE_DEFAULT: u32 = 100;
/// How often something is read and decided anew when others change it at the same time.
pub(crate) const ATTEMPTS_MAX: usize = 8;
