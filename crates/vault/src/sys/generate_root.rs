//! `sys/generate-root/*`: a new root token, where the last one is lost, by enough shares of the recovery key.
//!
//! Always: who begins gets a one-time password, or brings one; who brings the last share gets the token, encoded by it
//! (XOR, base64 without padding): neither has it without the other.
//! Always: the token is made together with its record, once the shares made the key.
//!
//! # Divergences
//!
//! - `pgp_key` is refused. A wrong share ends the attempt. As in Vault, nobody is recognised here: the root token is what is lost.
//!   So whoever reaches the port can spoil an attempt, by wrong shares or by ending it, and make no use of it: keep others away
//!   meanwhile.
//! - An attempt stands in the memory of one node, for an hour at most.

use crate::call::Verb;
use crate::error::VaultError;
use crate::recovery::{self, Added, Gathering, Recovery};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::sys::status::bare;
use audit::{Decision, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use envelope::SecretBytes;
use identity::ChangeError;
use serde::Serialize;
use zeroize::Zeroizing;

/// Shares for a new root token.
#[derive(Debug)]
pub(crate) struct RootAttempt {
    gathering: Gathering,
    recovery: Recovery,
    otp: SecretBytes,
}

#[derive(Serialize, Default)]
struct Status<'a> {
    nonce: &'a str,
    started: bool,
    progress: usize,
    required: u8,
    complete: bool,
    encoded_token: &'a str,
    encoded_root_token: &'a str,
    pgp_fingerprint: &'a str,
    otp: &'a str,
    otp_length: usize,
}

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    use Verb::{Delete, Read, Write};
    match (segments, scope.call.verb) {
        (["generate-root", "attempt"], Read) => status(scope, None).await,
        (["generate-root", "attempt"], Write) => begin(scope).await,
        (["generate-root", "attempt"], Delete) => {
            *scope.vault.ceremonies().root.lock().await = None;
            Ok(Reply::empty())
        }
        (["generate-root", "update"], Write) => update(scope).await,
        (["generate-root", "attempt" | "update"], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

/// With the one-time password where it is told, once.
async fn status(scope: &Scope<'_>, otp: Option<&str>) -> Result<Reply, VaultError> {
    let mut attempt = scope.vault.ceremonies().root.lock().await;
    if attempt.as_ref().is_some_and(|attempt| attempt.gathering.is_stale(scope.now())) {
        *attempt = None;
    }
    let required = recovery::load(scope.vault).await?.map_or(0, |(recovery, _)| recovery.threshold);
    let status = Status { required, otp_length: OTP_BYTES, otp: otp.unwrap_or_default(), ..Status::default() };
    match attempt.as_ref() {
        None => bare(200, &status),
        Some(RootAttempt { gathering, .. }) => {
            let (nonce, progress) = (gathering.nonce.as_str(), gathering.progress());
            bare(200, &Status { nonce, started: true, progress, ..status })
        }
    }
}

async fn begin(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (vault, body) = (scope.vault, &scope.call.body);
    if body.string("pgp_key")?.is_some_and(|key| !key.is_empty()) {
        return Err(VaultError::field("pgp_key", "not supported: use a one-time password"));
    }
    let given = body.string("otp")?.filter(|otp| !otp.is_empty());
    if given.as_ref().is_some_and(|otp| otp.len() != OTP_BYTES || !otp.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(VaultError::field("otp", format!("not {OTP_BYTES} visible ASCII characters")));
    }
    vault.ceremonies().patience.check(&scope.call.info.from, scope.now())?;
    let (recovery, _) = recovery::load(vault).await?.ok_or_else(no_shares)?;
    let told = match &given {
        Some(_) => None,
        None => Some(password(scope)?),
    };
    let otp = given.as_ref().or(told.as_ref()).map(|otp| SecretBytes::copy_from(otp.as_bytes())).unwrap_or(none());
    let mut attempt = vault.ceremonies().root.lock().await;
    if attempt.as_ref().is_some_and(|attempt| !attempt.gathering.is_stale(scope.now())) {
        return Err(VaultError::Invalid("root generation already in progress".into()));
    }
    *attempt = Some(RootAttempt { gathering: Gathering::new(vault, scope.now())?, recovery, otp });
    drop(attempt);
    status(scope, told.as_ref().map(|otp| otp.as_str())).await
}

fn none() -> SecretBytes {
    SecretBytes::copy_from(b"")
}

fn no_shares() -> VaultError {
    VaultError::Invalid("there are no recovery shares: make them with sys/rekey-recovery-key, as root".into())
}

/// Letters and digits.
fn password(scope: &Scope<'_>) -> Result<Zeroizing<String>, VaultError> {
    let mut otp = Zeroizing::new(String::with_capacity(OTP_BYTES));
    while otp.len() < OTP_BYTES {
        let random = Zeroizing::new(scope.vault.barrier().random::<64>()?);
        // of 256 values the first 248 are each of 62 characters four times
        let fair = random.iter().filter(|byte| **byte < 248).map(|byte| LETTERS[usize::from(*byte % 62)]);
        let room = OTP_BYTES - otp.len();
        otp.extend(fair.take(room).map(char::from));
    }
    Ok(otp)
}

async fn update(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (vault, now) = (scope.vault, scope.now());
    let share = recovery::share(&scope.call.body)?;
    let mut attempt = vault.ceremonies().root.lock().await;
    let under_way = attempt.as_mut().filter(|attempt| !attempt.gathering.is_stale(now));
    let none = || VaultError::Invalid("no root generation in progress".into());
    let RootAttempt { gathering, recovery, .. } = under_way.ok_or_else(none)?;
    gathering.check_nonce(&scope.call.body)?;
    let added = gathering.add(share, recovery, vault.barrier().cluster_id());
    let (progress, required, nonce) = (gathering.progress(), recovery.threshold, gathering.nonce.clone());
    let shown = Status { nonce: &nonce, started: true, progress, required, otp_length: OTP_BYTES, ..Status::default() };
    match added {
        Added::Missing => bare(200, &shown),
        Added::Wrong => {
            *attempt = None;
            vault.ceremonies().patience.was_wrong(&scope.call.info.from, now);
            Err(recovery::wrong())
        }
        Added::Complete => {
            vault.ceremonies().patience.was_right(&scope.call.info.from);
            let Some(RootAttempt { otp, recovery, .. }) = attempt.take() else { return Err(none()) };
            // what the shares were for may have been rekeyed in between, here or elsewhere
            if recovery::load(vault).await?.is_none_or(|(now, _)| now != recovery) {
                return Err(recovery::wrong());
            }
            let encoded = made(scope, &otp).await?;
            bare(200, &Status { complete: true, encoded_token: &encoded, encoded_root_token: &encoded, ..shown })
        }
    }
}

/// Makes the token, and gives it encoded.
async fn made(scope: &Scope<'_>, otp: &SecretBytes) -> Result<Zeroizing<String>, VaultError> {
    let (batch, created) = scope.vault.identities().prepare_root(scope.batch()?, scope.now())?;
    if created.token.len() != otp.len() {
        return Err(VaultError::Internal("a token is as long as its one-time password".into()));
    }
    let record = recovery::by_shares(scope.record(scope.subject(), Decision::Allowed, Outcome::Done));
    match scope.vault.commit(batch, &record).await {
        Ok(_) => scope.was_recorded(),
        Err(ChangeError::Conflict(_)) => return Err(VaultError::Conflict),
        Err(error) => return Err(error.into()),
    }
    tracing::warn!(accessor = created.metadata.accessor.as_str(), "a root token was made by recovery shares");
    let pairs = created.token.expose().iter().zip(otp.expose());
    let mixed = Zeroizing::new(pairs.map(|(token, otp)| token ^ otp).collect::<Vec<u8>>());
    Ok(Zeroizing::new(STANDARD_NO_PAD.encode(&*mixed)))
}

/// As long as a token.
const OTP_BYTES: usize = 46;
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
