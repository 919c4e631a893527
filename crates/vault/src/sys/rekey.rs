//! `sys/rekey-recovery-key/*`: another recovery key, by enough shares of the one that there is; and the first one, by root.
//!
//! Always: the shares are shown once, by whom the last share of the old key came from (of the first key: to root).
//! Always: with `require_verification`, the new key counts once enough of its shares were shown again; until then the old one.
//! Always: the new key's hash is committed together with the record, and only in place of what was read.
//! Never: a first key where there is one already, or by anybody but root.
//!
//! # Divergences
//!
//! - Who asks has `sudo` on the path (in Vault, anybody): whoever can reach the port could spoil the attempts of officers.
//! - `pgp_keys` and `backup` are refused. What is no share changes nothing of an attempt.
//! - `sys/rekey/*` is of the seal's own key, which the boundary holds: refused by name.

use crate::call::Verb;
use crate::error::VaultError;
use crate::recovery::{self, Added, Gathering, Recovery, Split};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::sys::status::bare;
use envelope::{SecretBytes, Timestamp};
use serde::Serialize;
use zeroize::Zeroizing;

/// Shares of the old key, for a new one; then perhaps shares of the new one.
#[derive(Debug)]
pub(crate) struct RekeyAttempt {
    gathering: Gathering,
    split: Split,
    verification: bool,
    /// `None`: the new one is the first.
    old: Option<Recovery>,
    /// Waits until its shares were shown.
    new: Option<Recovery>,
    /// Made, and perhaps counting already: whoever tries again is shown these shares.
    made: Option<(Recovery, Vec<SecretBytes>)>,
}

#[derive(Serialize, Default)]
struct Status<'a> {
    nonce: &'a str,
    started: bool,
    t: u8,
    n: u8,
    progress: usize,
    required: u8,
    pgp_fingerprints: Option<()>,
    backup: bool,
    verification_required: bool,
    verification_nonce: &'a str,
}

#[derive(Serialize)]
struct Done<'a> {
    nonce: &'a str,
    complete: bool,
    keys: Vec<&'a str>,
    keys_base64: Vec<&'a str>,
    pgp_fingerprints: Option<()>,
    backup: bool,
    verification_required: bool,
    verification_nonce: &'a str,
}

#[derive(Serialize)]
struct Verifying<'a> {
    nonce: &'a str,
    started: bool,
    t: u8,
    n: u8,
    progress: usize,
    complete: bool,
}

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    use Verb::{Delete, Read, Write};
    let below = segments.get(1..).unwrap_or_default();
    match (below, scope.call.verb) {
        (["init"], Read) => status(scope).await,
        (["init"], Write) => begin(scope).await,
        (["init"], Delete) => {
            *scope.vault.ceremonies().rekey.lock().await = None;
            Ok(Reply::empty())
        }
        (["update"], Write) => update(scope).await,
        (["verify"], Read) => verification(scope).await,
        (["verify"], Write) => verify(scope).await,
        (["verify"], Delete) => restart_verification(scope).await,
        (["init" | "update" | "verify"], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

impl RekeyAttempt {
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        self.gathering.is_stale(now)
    }

    fn status(&self) -> Status<'_> {
        let (nonce, progress) = (self.gathering.nonce.as_str(), self.gathering.progress());
        let shown = Status {
            started: true,
            t: self.split.threshold,
            n: self.split.shares,
            required: self.old.as_ref().map_or(0, |old| old.threshold),
            verification_required: self.verification,
            ..Status::default()
        };
        match &self.new {
            None => Status { nonce, progress, ..shown },
            Some(_) => Status { verification_nonce: nonce, progress: usize::from(shown.required), ..shown },
        }
    }

    fn verifying(&self, complete: bool) -> Verifying<'_> {
        Verifying {
            nonce: &self.gathering.nonce,
            started: true,
            t: self.split.threshold,
            n: self.split.shares,
            progress: self.gathering.progress(),
            complete,
        }
    }
}

async fn status(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let mut attempt = scope.vault.ceremonies().rekey.lock().await;
    if attempt.as_ref().is_some_and(|attempt| attempt.gathering.is_stale(scope.now())) {
        *attempt = None;
    }
    match attempt.as_ref() {
        Some(attempt) => bare(200, &attempt.status()),
        None => {
            let required = recovery::load(scope.vault).await?.map_or(0, |(recovery, _)| recovery.threshold);
            bare(200, &Status { required, ..Status::default() })
        }
    }
}

async fn begin(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (vault, body, now) = (scope.vault, &scope.call.body, scope.now());
    if body.list("pgp_keys")?.is_some_and(|keys| !keys.is_empty()) || body.bool("backup")? == Some(true) {
        return Err(VaultError::field("pgp_keys", "not supported: each officer takes a share as it is shown"));
    }
    let count = |name| Ok::<_, VaultError>(body.count(name, 255)?.unwrap_or(0));
    let split = Split::new(count("secret_shares")?, count("secret_threshold")?)?;
    let verification = body.bool("require_verification")?.unwrap_or(false);
    let mut attempt = vault.ceremonies().rekey.lock().await;
    let by_root = scope.by()?.is_root();
    if let Some(first) = attempt.as_mut().filter(|attempt| !attempt.gathering.is_stale(now)) {
        if first.old.is_none() && first.made.is_some() && by_root {
            return counts(scope, &mut attempt).await;
        }
        return Err(VaultError::Invalid("rekey already in progress".into()));
    }
    let gathering = Gathering::new(vault, now)?;
    let old = recovery::load(vault).await?.map(|(old, _)| old);
    if old.is_some() {
        let attempt = attempt.insert(RekeyAttempt { gathering, split, verification, old, new: None, made: None });
        return bare(200, &attempt.status());
    }
    // there is no key yet: root makes it, at once
    if !by_root {
        return Err(VaultError::PermissionDenied);
    }
    let (new, shares) = Recovery::make(vault, split, now)?;
    if verification {
        let nonce = gathering.nonce.clone();
        *attempt = Some(RekeyAttempt { gathering, split, verification, old, new: Some(new), made: None });
        return shown("", &shares, Some(&nonce));
    }
    *attempt = Some(RekeyAttempt { gathering, split, verification, old, new: None, made: Some((new, shares)) });
    counts(scope, &mut attempt).await
}

/// What was made counts from now on, and its shares are shown. Where that is not known, it stays made.
async fn counts(scope: &Scope<'_>, under_way: &mut Option<RekeyAttempt>) -> Result<Reply, VaultError> {
    let attempt = under_way.as_ref().ok_or_else(none)?;
    let (new, shares) = attempt.made.as_ref().ok_or_else(none)?;
    install(scope, new, attempt.old.as_ref()).await?;
    let nonce = if attempt.old.is_some() { attempt.gathering.nonce.as_str() } else { "" };
    let reply = shown(nonce, shares, None)?;
    *under_way = None;
    Ok(reply)
}

/// In place of the key that the shares are of, together with the record. It may have been sealed anew meanwhile, not made anew.
async fn install(scope: &Scope<'_>, new: &Recovery, old: Option<&Recovery>) -> Result<(), VaultError> {
    let (view, place) = recovery::place(scope.vault)?;
    let found = recovery::load(scope.vault).await?;
    // by an attempt before, of which that was not known
    if found.as_ref().is_some_and(|(found, _)| found == new) {
        return Ok(());
    }
    if found.as_ref().map(|(found, _)| found) != old {
        return Err(VaultError::Conflict);
    }
    let batch = match found {
        Some((_, revision)) => scope.batch()?.revision_is(place.clone(), revision),
        None => scope.batch()?.absent(place.clone()),
    };
    scope.commit(view.put(batch, place, &new.encode()?)?).await?;
    Ok(())
}

fn shown(nonce: &str, shares: &[SecretBytes], verification: Option<&str>) -> Result<Reply, VaultError> {
    let all = |text: fn(&SecretBytes) -> Zeroizing<String>| shares.iter().map(text).collect::<Vec<_>>();
    let (hexadecimal, base64) = (all(recovery::text), all(recovery::base64));
    bare(
        200,
        &Done {
            nonce,
            complete: true,
            keys: hexadecimal.iter().map(|text| text.as_str()).collect(),
            keys_base64: base64.iter().map(|text| text.as_str()).collect(),
            pgp_fingerprints: None,
            backup: false,
            verification_required: verification.is_some(),
            verification_nonce: verification.unwrap_or_default(),
        },
    )
}

fn none() -> VaultError {
    VaultError::Invalid("no rekey in progress".into())
}

fn named(gathering: &Gathering, scope: &Scope<'_>) -> Result<(), VaultError> {
    if gathering.is_named(&recovery::nonce(scope.call)?) { Ok(()) } else { Err(recovery::other_nonce()) }
}

async fn update(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (vault, now) = (scope.vault, scope.now());
    let share = recovery::share(&scope.call.body)?;
    let mut under_way = vault.ceremonies().rekey.lock().await;
    let gathers = |attempt: &&mut RekeyAttempt| attempt.new.is_none() && !attempt.gathering.is_stale(now);
    let attempt = under_way.as_mut().filter(gathers).ok_or_else(none)?;
    named(&attempt.gathering, scope)?;
    let known = attempt.old.clone().ok_or_else(none)?;
    match attempt.gathering.add(share, &known, vault.barrier().cluster_id()) {
        Added::Missing => bare(200, &attempt.status()),
        Added::Wrong => Err(recovery::wrong()),
        Added::Complete => {
            if attempt.made.is_none() {
                let (new, shares) = Recovery::make(vault, attempt.split, now)?;
                if attempt.verification {
                    let nonce = std::mem::replace(&mut attempt.gathering, Gathering::new(vault, now)?).nonce;
                    attempt.new = Some(new);
                    return shown(&nonce, &shares, Some(&attempt.gathering.nonce));
                }
                attempt.made = Some((new, shares));
            }
            // the last share again, where it is not known what came of it
            attempt.gathering.take_back();
            counts(scope, &mut under_way).await
        }
    }
}

async fn verification(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let attempt = scope.vault.ceremonies().rekey.lock().await;
    let attempt = attempt.as_ref().filter(|attempt| attempt.new.is_some()).ok_or_else(none)?;
    bare(200, &attempt.verifying(false))
}

async fn restart_verification(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let mut attempt = scope.vault.ceremonies().rekey.lock().await;
    let attempt = attempt.as_mut().filter(|attempt| attempt.new.is_some()).ok_or_else(none)?;
    attempt.gathering = Gathering::new(scope.vault, scope.now())?;
    bare(200, &attempt.verifying(false))
}

async fn verify(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let vault = scope.vault;
    let share = recovery::share(&scope.call.body)?;
    let mut under_way = vault.ceremonies().rekey.lock().await;
    let attempt = under_way.as_mut().filter(|attempt| !attempt.gathering.is_stale(scope.now())).ok_or_else(none)?;
    let new = attempt.new.clone().ok_or_else(none)?;
    named(&attempt.gathering, scope)?;
    match attempt.gathering.add(share, &new, vault.barrier().cluster_id()) {
        Added::Missing => bare(200, &attempt.verifying(false)),
        // the old key counts as before
        Added::Wrong => Err(recovery::wrong()),
        Added::Complete => {
            let reply = bare(200, &attempt.verifying(true))?;
            let old = attempt.old.take();
            *under_way = None;
            install(scope, &new, old.as_ref()).await?;
            Ok(reply)
        }
    }
}
