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
//! As in Vault, nobody is recognised while it is sealed: whoever reaches the port can spoil the officers' attempt by wrong shares,
//! and make no use of it. A restart needs no shares.
//!
//! Always: asked is the boundary again, when enough recovery shares came together; or at the next start, which unseals by
//! itself. What a request is in the middle of when it is sealed ends with SEALED, or with the values that it had opened.
//! Never: anything but the seal's state served in between, at any door.

use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::recovery::{self, Added, Gathering, Recovery};
use crate::reply::Reply;
use crate::scope::{Scope, record};
use crate::service::Vault;
use crate::sys::status;
use audit::{Decision, Outcome, Record, Subject};
use kms::boot::BootError;
use storage::Invalidate as _;

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

    /// Drops what is kept in memory, which holds opened values: what a request that was under way has kept since, too.
    pub fn forget(&self) {
        self.kms().forget();
        self.seams.identity_caches.forget();
        self.seams.caches.forget();
    }

    async fn close(&self, recovery: Option<Recovery>) {
        let ceremonies = self.ceremonies();
        *ceremonies.sealed.lock().await = Some(Sealed { recovery, gathering: None });
        self.barrier().close();
        self.forget();
        *ceremonies.root.lock().await = None;
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
    let outcome = answer(vault, call).await;
    let told = call.path.told();
    let (decision, outcome_told) = match &outcome {
        Ok(_) => (Decision::Allowed, Outcome::Done),
        Err(error) if error.is_unrecorded() => return outcome,
        Err(VaultError::Sealed) => (Decision::NotReached, Outcome::Failed("SEALED".into())),
        Err(error) => (Decision::Allowed, Outcome::Failed(error.reason().into())),
    };
    vault.log(&record(call, &told, &Subject::Unauthenticated, decision, "", outcome_told)).await?;
    outcome
}

async fn answer(vault: &Vault, call: &Call) -> Result<Reply, VaultError> {
    match (call.path.as_str().trim_end_matches('/'), call.verb) {
        ("sys/health", Verb::Read) => status::health(vault, call),
        ("sys/seal-status", Verb::Read) => status::seal_status(vault).await,
        ("sys/init", Verb::Read) => status::initialized(),
        ("sys/init", Verb::Write) => Err(status::already_initialized()),
        ("sys/unseal", Verb::Write) => unseal(vault, call).await,
        _ => Err(VaultError::Sealed),
    }
}

/// One share more. Of an unsealed server: what the seal is.
pub(crate) async fn unseal(vault: &Vault, call: &Call) -> Result<Reply, VaultError> {
    let now = call.info.now;
    let mut sealed = vault.ceremonies().sealed.lock().await;
    if let Some(sealed) = sealed.as_mut().filter(|_| vault.is_sealed()) {
        if call.body.bool("reset")? == Some(true) {
            sealed.gathering = None;
        } else {
            let recovery = sealed.recovery.clone().ok_or_else(none)?;
            let share = recovery::share(&call.body)?;
            vault.ceremonies().patience.check(&call.info.from, now)?;
            let stale = |gathering: &Gathering| gathering.is_stale(now);
            if sealed.gathering.as_ref().is_none_or(stale) {
                sealed.gathering = Some(Gathering::new(vault, now)?);
            }
            let gathering = sealed.gathering.as_mut();
            match gathering.map(|gathering| gathering.add(share, &recovery, vault.barrier().cluster_id())) {
                Some(Added::Missing) => {}
                Some(Added::Complete) => {
                    vault.ceremonies().patience.was_right(&call.info.from);
                    if let Err(error) = open(vault, call).await {
                        // once it can be opened, one share more is enough
                        if let Some(gathering) = sealed.gathering.as_mut() {
                            gathering.take_back();
                        }
                        return Err(error);
                    }
                    sealed.gathering = None;
                }
                Some(Added::Wrong) | None => {
                    vault.ceremonies().patience.was_wrong(&call.info.from, now);
                    sealed.gathering = None;
                    return Err(recovery::wrong());
                }
            }
        }
    }
    if !vault.is_sealed() {
        *sealed = None;
    }
    drop(sealed);
    status::seal_status(vault).await
}

fn none() -> VaultError {
    VaultError::Invalid("there are no recovery shares: start the server again, which unseals it".into())
}

/// The boundary opens the keyring anew. That it did is in the log before anything is served.
async fn open(vault: &Vault, call: &Call) -> Result<(), VaultError> {
    let keyring = vault.kms().open_keyring().await.map_err(not_opened)?;
    let leaf = Record {
        path: "sys/unseal",
        from: &call.info.from,
        ..recovery::by_shares(Record::new(call.info.now, &call.info.request_id, "Unseal", &Subject::System))
    };
    vault.changes().log(&leaf).await?;
    vault.forget();
    vault.barrier().reopen(keyring);
    tracing::warn!("unsealed by recovery shares");
    Ok(())
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
