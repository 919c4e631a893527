//! What operators do by hand: sealing and unsealing ([`crate::seal`]), rotation.
//!
//! # Divergences
//!
//! - A server that starts is unsealed by the boundary, whether it was sealed by hand or not; one that is sealed by hand is
//!   unsealed by shares of the recovery key, too. Each node is sealed by itself.
//! - Stepping down is refused, and `sys/rekey`: the boundary holds the seal's key, and its officers rekey it there.
//! - A new key of the barrier seals what is written from five seconds later on, when every node has heard of it; uses of it
//!   are not counted, as each value has a key of its own. What stands is sealed anew under it in the background: how far that
//!   has come stands beside what Vault tells, in `resealing`.
//! - That ends all stateless (batch) tokens: one that was sealed under an older key is refused.
//! - The barrier holds 256 keys for ever, and gets four new ones a day at most: enough to rotate again once an intruder
//!   is out, and for 64 days of a client that goes on and on.

use super::status;
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::reseal::Told;
use crate::scope::Scope;
use crate::seal;
use crate::view::View;
use envelope::Timestamp;
use identity::ChangeError;
use kms::boot::BootError;
use serde::{Deserialize, Serialize};
use std::iter;
use std::time::Duration;
use storage::BarrierError;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    use Verb::{Delete, Read, Write};
    match (segments, scope.call.verb) {
        (["init"], Write) => Err(status::already_initialized()),
        // it may have been sealed in this very moment
        (["unseal"], Write) => {
            let mut recorded = false;
            let outcome = seal::unseal(scope.vault, scope.call, &mut recorded).await;
            if recorded {
                scope.was_recorded();
            }
            outcome
        }
        (["seal"], Write) => seal::seal(scope).await,
        (["step-down"], Write) => refused("there is no leader that could step down: every node serves"),
        (["rekey", ..], Read | Write | Delete) => {
            refused("the boundary holds the seal's key: of the recovery key's shares it is sys/rekey-recovery-key")
        }
        (["generate-recovery-token", ..], Read | Write | Delete) => {
            refused("there are no recovery tokens: shares make a root token, at sys/generate-root")
        }
        (["rotate"] | ["rotate", "keyring"], Write) => rotate(scope).await,
        (["rotate", "config"], Read | Write) => refused("the barrier's key is rotated where it is asked for alone"),
        (["key-status"], Read) => key_status(scope).await,
        (["unseal" | "seal" | "step-down" | "rotate" | "key-status"] | ["rotate", "keyring" | "config"], _) => {
            Err(VaultError::Unsupported)
        }
        _ => Err(scope.no_route()),
    }
}

fn refused(why: &'static str) -> Result<Reply, VaultError> {
    Err(VaultError::Invalid(why.into()))
}

/// When the barrier's key of a term came to be.
#[derive(Serialize, Deserialize)]
struct Installed {
    term: u32,
    at: u64,
    /// When those before it did, the newest first.
    #[serde(default)]
    earlier: Vec<u64>,
}

/// When the last keys came to be, the newest first; refused where they are too many of late.
fn earlier(newest: Option<&Installed>, now: Timestamp) -> Result<Vec<u64>, VaultError> {
    let times = newest.iter().flat_map(|newest| iter::once(newest.at).chain(newest.earlier.iter().copied()));
    let times: Vec<u64> = times.take(ROTATIONS_MAX).collect();
    let is_late = |at: &u64| now.since(Timestamp::from_unix_millis(*at)) < ROTATIONS_WITHIN;
    if times.get(ROTATIONS_MAX - 1).is_some_and(is_late) {
        return Err(VaultError::Limited("the barrier got four new keys within a day: it takes no more yet".into()));
    }
    Ok(times)
}

/// A new key of the barrier, which seals what is written from a few seconds later on; what stands is sealed anew under it, in
/// the background.
async fn rotate(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = view(scope)?;
    let place = view.path(INSTALLED)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = view.load(&place).await?;
        let newest = found.as_ref().and_then(|found| serde_json::from_slice(found.value.expose()).ok());
        let earlier = earlier(newest.as_ref(), scope.now())?;
        let batch = match &found {
            Some(found) => scope.batch()?.revision_is(place.clone(), found.revision),
            None => scope.batch()?.absent(place.clone()),
        };
        let (batch, keyring) = scope.vault.kms().prepare_rotation(batch).await.map_err(not_rotated)?;
        let installed = Installed { term: keyring.epoch(), at: scope.now().unix_millis(), earlier };
        let text = serde_json::to_vec(&installed).map_err(|_| VaultError::Internal("the key's age".into()))?;
        match scope.commit(view.put(batch, place.clone(), &text)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                scope.vault.barrier().install(keyring)?;
                return Ok(Reply::empty().warning(ENDS_TOKENS));
            }
        }
    }
    Err(VaultError::Conflict)
}

fn not_rotated(error: BootError) -> VaultError {
    if error.is_transient() {
        return VaultError::Unavailable("BOUNDARY_UNAVAILABLE");
    }
    if let BootError::Barrier(BarrierError::MalformedKeyring) = error {
        return VaultError::Limited("the barrier holds 256 keys, as many as it can".into());
    }
    VaultError::Internal(error.to_string().into())
}

/// The barrier's key: its term, and since when. The first one is as old as the first mounts.
async fn key_status(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Status {
        term: u32,
        install_time: String,
        encryptions: Option<u64>,
        /// How far sealing anew under this key has come.
        #[serde(skip_serializing_if = "Option::is_none")]
        resealing: Option<Told>,
    }
    let term = scope.vault.barrier().epoch();
    let view = view(scope)?;
    let found = view.load(&view.path(INSTALLED)?).await?;
    let installed: Option<Installed> = found.and_then(|found| serde_json::from_slice(found.value.expose()).ok());
    let at = match installed.filter(|installed| installed.term == term) {
        Some(installed) => installed.at,
        None => {
            let table = scope.vault.table().await?;
            table.mounts.values().map(|mount| mount.created).min().unwrap_or_default()
        }
    };
    let resealing = scope.vault.seams.caches.resealing().told();
    let install_time = rfc3339(Timestamp::from_unix_millis(at));
    Ok(Reply::data(&Status { term, install_time, encryptions: None, resealing })?.repeated())
}

fn view(scope: &Scope<'_>) -> Result<View, VaultError> {
    scope.vault.view("keyring")
}

const INSTALLED: &str = "installed";
const ATTEMPTS_MAX: usize = 8;
const ENDS_TOKENS: &str = "stateless (batch) tokens end with the old key within seconds: who holds one logs in again";
/// Of the barrier's key, within [`ROTATIONS_WITHIN`].
const ROTATIONS_MAX: usize = 4;
const ROTATIONS_WITHIN: Duration = Duration::from_secs(86_400);
