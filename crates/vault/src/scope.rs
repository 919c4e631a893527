//! What a backend works with: one request, at one mount, by one principal.
//!
//! Always: each request leaves at least one record, before its answer leaves: with its change, or by itself.

use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::mount::Mount;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Item, Outcome, Record, Subject};
use envelope::Timestamp;
use identity::{ChangeError, Principal};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::{Batch, Revision};

#[derive(Debug)]
pub struct Scope<'a> {
    pub vault: &'a Vault,
    pub call: &'a Call,
    pub mount_path: &'a str,
    pub mount: &'a Mount,
    /// Below the mount.
    pub path: &'a str,
    pub(crate) by: Option<&'a Arc<Principal>>,
    /// What allowed it.
    pub(crate) rule: String,
    /// It was allowed to create, and not to change what is there.
    pub(crate) only_new: bool,
    told: Cow<'a, str>,
    recorded: AtomicBool,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(
        vault: &'a Vault,
        call: &'a Call,
        (mount_path, mount, path): (&'a str, &'a Mount, &'a str),
        by: Option<&'a Arc<Principal>>,
        rule: String,
    ) -> Self {
        let told = call.path.told();
        Self { vault, call, mount_path, mount, path, by, rule, only_new: false, told, recorded: AtomicBool::new(false) }
    }

    pub fn now(&self) -> Timestamp {
        self.call.info.now
    }

    /// Who asks. Only what is public is asked by nobody.
    pub fn by(&self) -> Result<&'a Arc<Principal>, VaultError> {
        self.by.ok_or(VaultError::PermissionDenied)
    }

    /// The path's segments below the mount.
    pub fn segments(&self) -> Vec<&'a str> {
        self.path.trim_end_matches('/').split('/').filter(|segment| !segment.is_empty()).collect()
    }

    /// Nothing is served at this path.
    pub fn no_route(&self) -> VaultError {
        VaultError::NoRoute(self.told.clone().into_owned())
    }

    /// The mount's own part of the store.
    pub fn view(&self) -> Result<View, VaultError> {
        self.vault.view(&self.mount.id)
    }

    pub fn batch(&self) -> Result<Batch, VaultError> {
        Ok(self.vault.changes().batch()?)
    }

    /// For writers that find something there: it may have come after it was decided that this creates.
    pub fn may_change(&self) -> Result<(), VaultError> {
        if self.only_new { Err(VaultError::PermissionDenied) } else { Ok(()) }
    }

    /// Records that it was refused, now: what follows may be given up by its caller.
    pub async fn record_refusal(&self, error: &VaultError) -> Result<(), VaultError> {
        let outcome = Outcome::Failed(error.reason().into());
        self.vault.log(&self.record(self.subject(), Decision::Allowed, outcome)).await?;
        self.was_recorded();
        Ok(())
    }

    /// Records, now, what is then done by who showed a share of the recovery key, or an attempt's nonce.
    pub(crate) async fn record_officers(&self) -> Result<(), VaultError> {
        let record = self.record(self.subject(), Decision::Allowed, Outcome::Done);
        self.vault.changes().log(&crate::recovery::by_shares(record)).await?;
        self.was_recorded();
        Ok(())
    }

    /// Commits a change together with this request's record.
    pub async fn commit(&self, batch: Batch) -> Result<Revision, ChangeError> {
        self.commit_with(batch, &[]).await
    }

    /// As [`Self::commit`], with a record that names what else it is about: keys of the key domain.
    pub async fn commit_with(&self, batch: Batch, items: &[Item]) -> Result<Revision, ChangeError> {
        let record = Record { items, ..self.record(self.subject(), Decision::Allowed, Outcome::Done) };
        let revision = self.vault.commit(batch, &record).await?;
        self.recorded.store(true, Ordering::Relaxed);
        Ok(revision)
    }

    /// Another domain has recorded what it did for this request, or why not.
    pub fn was_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn subject(&self) -> &Subject {
        self.by.map_or(&Subject::Unauthenticated, |by| by.subject())
    }

    pub(crate) fn record<'r>(&'r self, subject: &'r Subject, decision: Decision, outcome: Outcome) -> Record<'r> {
        record(self.call, &self.told, subject, decision, &self.rule, outcome)
    }
}

/// Of a request of this API: its verb is the operation, the path is told as it was asked for.
pub(crate) fn record<'r>(
    call: &'r Call,
    told: &'r str,
    subject: &'r Subject,
    decision: Decision,
    rule: &'r str,
    outcome: Outcome,
) -> Record<'r> {
    Record { path: told, rule, decision, ..call.info.record(operation(call.verb), subject, outcome) }
}

/// As records and metrics name it.
pub fn operation(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "VaultRead",
        Verb::List => "VaultList",
        Verb::Write => "VaultWrite",
        Verb::Patch => "VaultPatch",
        Verb::Delete => "VaultDelete",
    }
}
