//! Sealed by hand: the keys of the barrier, and what was opened with them, are dropped from this process's memory.
//!
//! What it protects from: whoever gets at this process's memory or front door later finds neither the barrier's keys nor an
//! opened value, token or policy, and nothing is decided or decrypted. It is the first thing to do where an intruder is
//! suspected, before anybody knows more.
//!
//! What it does not protect from: who was in the process before has the keyring already. Whoever holds the process's channel
//! key, or its process, can ask the boundary to open the keyring again, as a restart does: to shut that door too, stop the
//! boundary, or take the server's pin away from it. Other nodes serve on: each is sealed by itself.
//!
//! As in Vault, nobody is recognised while it is sealed. What is no share of the recovery key changes nothing, and what was brought
//! is dropped (`reset`) only by who brings a share beside it: strangers cannot spoil what officers do. A restart needs no shares.
//! It is the root's: in a namespace all is SEALED.
//!
//! Always: asked is the boundary again, when enough recovery shares came together; or at the next start, which unseals by
//! itself. What a request is in the middle of when it is sealed ends with SEALED, a change perhaps with STORAGE_UNAVAILABLE, or
//! with the values that it had opened.
//! Never: anything but the seal's state served in between, at any door.

use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::recovery::{self, Added, Gathering, Recovery};
use crate::reply::Reply;
use crate::scope::{Scope, record};
use crate::service::Vault;
use crate::sys::status;
use audit::{Decision, Outcome, Record, Subject};
use envelope::Timestamp;
use kms::boot::BootError;
use std::sync::Arc;
use storage::{Barrier, Invalidate as _};

/// What is known while it is sealed.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// `None`: only a restart unseals.
    pub(crate) recovery: Option<Recovery>,
    pub(crate) gathering: Option<Gathering>,
}

impl Vault {
    /// Sealed by hand: nothing opens.
    pub fn is_sealed(&self) -> bool {
        self.barrier().is_closed()
    }

    /// Drops what is kept in memory, which holds opened values, and connections that are let in elsewhere: what a request that was
    /// under way has kept since, too.
    pub fn forget(&self) {
        self.databases().forget_all();
        self.kms().forget();
        self.seams.identity_caches.forget();
        self.seams.caches.forget();
    }

    /// Attempts whose time is over go, with the shares that they hold, though nobody asks for them any more. For a worker, sealed
    /// or not. What is just being used is looked at the next time.
    pub fn drop_stale_attempts(&self, now: Timestamp) {
        let ceremonies = self.ceremonies();
        if let Ok(mut attempts) = ceremonies.root.try_lock() {
            attempts.drop_stale(now);
        }
        if let Ok(mut attempt) = ceremonies.rekey.try_lock() {
            attempt.take_if(|attempt| attempt.is_stale(now));
        }
        if let Ok(mut sealed) = ceremonies.sealed.try_lock()
            && let Some(sealed) = sealed.as_mut()
        {
            sealed.gathering.take_if(|gathering| gathering.is_stale(now));
        }
    }

    async fn close(&self, recovery: Option<Recovery>) {
        let ceremonies = self.ceremonies();
        // who unseals, or is asked what the seal is, finds it whole or not at all
        let mut sealed = ceremonies.sealed.lock().await;
        *sealed = Some(Sealed { recovery, gathering: None });
        self.barrier().close();
        drop(sealed);
        self.forget();
        ceremonies.root.lock().await.clear();
        *ceremonies.rekey.lock().await = None;
    }
}

/// Seals this node. It is recorded first: nothing can be looked up afterwards.
pub(crate) async fn seal(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let recovery = recovery::load(scope.vault).await?.map(|(recovery, _)| recovery);
    scope.vault.log(&scope.record(scope.subject(), Decision::Allowed, Outcome::Done)).await?;
    scope.was_recorded();
    if recovery.is_none() {
        tracing::warn!("sealed, and there are no recovery shares: only a restart unseals");
    }
    scope.vault.close(recovery).await;
    tracing::warn!("sealed by hand");
    Ok(Reply::empty())
}

/// What is answered while it is sealed: nobody is recognised, and nothing is read.
pub(crate) async fn serve(vault: &Vault, call: &Call) -> Result<Reply, VaultError> {
    if !call.namespace.is_empty() {
        let _ = call.info.namespace.set(call.namespace.as_ref().into());
    }
    let mut recorded = false;
    let outcome = answer(vault, call, &mut recorded).await;
    let (decision, told) = match &outcome {
        _ if recorded => return outcome,
        Ok(_) => (Decision::Allowed, Outcome::Done),
        Err(error) if error.is_unrecorded() => return outcome,
        Err(VaultError::Sealed) => (Decision::NotReached, Outcome::Failed("SEALED".into())),
        Err(error) => (Decision::Allowed, Outcome::Failed(error.reason().into())),
    };
    vault.log(&record(call, &call.path.told(), &Subject::Unauthenticated, decision, "", told)).await?;
    outcome
}

async fn answer(vault: &Vault, call: &Call, recorded: &mut bool) -> Result<Reply, VaultError> {
    if !call.namespace.is_empty() {
        return Err(VaultError::Sealed);
    }
    match (call.path.as_str().trim_end_matches('/'), call.verb) {
        ("sys/health", Verb::Read) => status::health(vault, call),
        ("sys/seal-status", Verb::Read) => status::seal_status(vault).await,
        ("sys/init", Verb::Read) => status::initialized(),
        ("sys/init", Verb::Write) => Err(status::already_initialized()),
        ("sys/unseal", Verb::Write) => unseal(vault, call, recorded).await,
        _ => Err(VaultError::Sealed),
    }
}

/// One share more. Of an unsealed server: what the seal is.
pub(crate) async fn unseal(vault: &Vault, call: &Call, recorded: &mut bool) -> Result<Reply, VaultError> {
    let mut sealed = vault.ceremonies().sealed.lock().await;
    if let Some(sealed) = sealed.as_mut().filter(|_| vault.is_sealed()) {
        add(vault, call, sealed, recorded).await?;
    }
    if !vault.is_sealed() {
        *sealed = None;
    }
    drop(sealed);
    status::seal_status(vault).await
}

async fn add(vault: &Vault, call: &Call, sealed: &mut Sealed, recorded: &mut bool) -> Result<(), VaultError> {
    let recovery = sealed.recovery.clone().ok_or_else(none)?;
    let resets = call.body.bool("reset")? == Some(true);
    if resets && !call.body.has("key") {
        return Err(VaultError::field("key", "missing: who drops what was brought shows a share"));
    }
    let (share, cluster) = (recovery::share(&call.body)?, vault.barrier().cluster_id());
    if recovery.knows(&share, cluster) {
        let told = call.path.told();
        let record = record(call, &told, &Subject::Unauthenticated, Decision::Allowed, "", Outcome::Done);
        vault.changes().log(&recovery::by_shares(record)).await?;
        *recorded = true;
    }
    if sealed.gathering.as_ref().is_none_or(|gathering| gathering.is_stale(call.info.now)) {
        sealed.gathering = Some(Gathering::new(vault, call.info.now)?);
    }
    let Some(gathering) = sealed.gathering.as_mut() else { return Err(none()) };
    match gathering.add(share, &recovery, cluster) {
        Added::Wrong => {
            // an attempt begins with a share
            sealed.gathering.take_if(|gathering| gathering.progress() == 0);
            return Err(recovery::wrong());
        }
        Added::Missing | Added::Complete if resets => sealed.gathering = None,
        Added::Missing => {}
        Added::Complete => {
            // where it cannot be opened now, whatever becomes of who asked, one share more is enough
            gathering.take_back();
            let opened = open(vault, call, &recovery).await;
            // beside the record of the share
            *recorded &= opened.is_ok();
            let opened = opened?;
            sealed.gathering = None;
            if let Opened::OfAnother(now) = opened {
                sealed.recovery = now;
                *recorded = false;
                return Err(recovery::wrong());
            }
        }
    }
    Ok(())
}

fn none() -> VaultError {
    VaultError::Invalid("there are no recovery shares: start the server again, which unseals it".into())
}

enum Opened {
    Unsealed,
    /// The shares are of a key that counts no more: on another node, or as this one was being sealed, it was made anew.
    OfAnother(Option<Recovery>),
}

/// The boundary opens the keyring anew. That it did is in the log before anything is served.
async fn open(vault: &Vault, call: &Call, by: &Recovery) -> Result<Opened, VaultError> {
    let keyring = vault.kms().open_keyring().await.map_err(not_opened)?;
    let opened = Barrier::new(Arc::clone(vault.barrier().storage()), *vault.barrier().cluster_id(), keyring);
    let counts = recovery::load_by(&opened, vault).await?;
    if counts.as_ref() != Some(by) {
        return Ok(Opened::OfAnother(counts));
    }
    let leaf = Record {
        path: "sys/unseal",
        from: &call.info.from,
        ..recovery::by_shares(Record::new(call.info.now, &call.info.request_id, "Unseal", &Subject::System))
    };
    vault.changes().log(&leaf).await?;
    vault.forget();
    vault.barrier().reopen(opened.keyring()?);
    tracing::warn!("unsealed by recovery shares");
    Ok(Opened::Unsealed)
}

fn not_opened(error: BootError) -> VaultError {
    tracing::warn!(%error, "the keyring was not opened");
    match error {
        BootError::Boundary(_) => VaultError::Unavailable("BOUNDARY_UNAVAILABLE"),
        BootError::Storage(_) => VaultError::Unavailable("STORAGE_UNAVAILABLE"),
        BootError::NotOperational(_)
        | BootError::WrongBoundary { .. }
        | BootError::BootMissing
        | BootError::BoundElsewhere(_)
        | BootError::BootAltered
        | BootError::NoLevel
        | BootError::SystemEntry(_)
        | BootError::Barrier(_)
        | BootError::Commit(_) => VaultError::Internal(error.to_string().into()),
    }
}
