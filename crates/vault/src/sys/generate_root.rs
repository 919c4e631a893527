//! `sys/generate-root/*`: a new root token, where the last one is lost, by enough shares of the recovery key.
//!
//! Always: who begins gets a one-time password, or brings one; who brings the last share gets the token, encoded by it
//! (XOR, base64 without padding): neither has it without the other.
//! Always: the token is made together with its record, once the shares made the key.
//!
//! Always: several attempts stand side by side. Only who began one is told its nonce, and who is told it brings shares to it, asks
//! for it, or ends it. One that holds a share gives way to nobody else's; of those that hold none, whoever has most gives way.
//!
//! # Divergences
//!
//! - `pgp_key` is refused. As in Vault, nobody is recognised here: the root token is what is lost. So whoever reaches the port may
//!   begin attempts of their own, and do nothing to others': the nonce is told once, not to whoever asks (in Vault, to all), and
//!   to cancel takes it (`?nonce=`, or in the body). What is no share changes nothing.
//! - Where strangers of very many networks begin attempts all the time, bring the first share right after the beginning.
//! - An attempt stands in the memory of one node, for an hour at most.

use crate::call::Verb;
use crate::error::VaultError;
use crate::recovery::{self, Added, Gathering, Recovery};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::sys::passwords::letters_and_digits;
use crate::sys::status::bare;
use audit::{Decision, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use envelope::{SecretBytes, Timestamp};
use identity::ChangeError;
use serde::Serialize;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Shares for a new root token.
#[derive(Debug)]
struct RootAttempt {
    gathering: Gathering,
    recovery: Recovery,
    otp: SecretBytes,
    /// The network that it was begun from.
    from: Option<IpAddr>,
}

/// The oldest first.
#[derive(Debug, Default)]
pub(crate) struct RootAttempts(Vec<RootAttempt>);

impl RootAttempts {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn drop_stale(&mut self, now: Timestamp) {
        self.0.retain(|attempt| !attempt.gathering.is_stale(now));
    }

    fn named(&self, nonce: &str) -> Option<usize> {
        self.0.iter().position(|attempt| attempt.gathering.is_named(nonce))
    }

    /// In place of an older one, where there are too many: without a share, of the network that has most such.
    fn add(&mut self, attempt: RootAttempt) -> Result<(), VaultError> {
        if self.0.len() >= ATTEMPTS_MAX {
            let idle = |attempt: &&RootAttempt| attempt.gathering.progress() == 0;
            let idle_of = |from| self.0.iter().filter(idle).filter(|attempt| attempt.from == from).count();
            let idle = self.0.iter().enumerate().rev().filter(|(_, attempt)| idle(attempt));
            // of several the last one, which is the oldest
            let gives_way = idle.max_by_key(|(_, attempt)| idle_of(attempt.from)).map(|(at, _)| at);
            let at =
                gives_way.ok_or_else(|| VaultError::Limited("too many attempts hold shares: cancel one".into()))?;
            self.0.remove(at);
        }
        self.0.push(attempt);
        Ok(())
    }

    /// Who has begun anew with the same shares has left the former attempt.
    fn drop_within(&mut self, at: usize) {
        let Some(RootAttempt { gathering: kept, .. }) = self.0.get(at) else { return };
        let left = |(i, attempt): (usize, &RootAttempt)| i != at && attempt.gathering.is_within(kept);
        let left: Vec<bool> = self.0.iter().enumerate().map(left).collect();
        let mut left = left.into_iter();
        self.0.retain(|_| !left.next().unwrap_or_default());
    }
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
        (["generate-root", "attempt"], Read) => status(scope).await,
        (["generate-root", "attempt"], Write) => begin(scope).await,
        (["generate-root", "attempt"], Delete) => cancel(scope).await,
        (["generate-root", "update"], Write) => update(scope).await,
        (["generate-root", "attempt" | "update"], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

/// Of the attempt that is named; otherwise whether there is any.
async fn status(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let required = recovery::told(scope.vault).await?.map_or(0, |recovery| recovery.threshold);
    let status = Status { required, otp_length: OTP_BYTES, ..Status::default() };
    let mut attempts = scope.vault.ceremonies().root.lock().await;
    attempts.drop_stale(scope.now());
    let Some(nonce) = scope.call.parameter("nonce").filter(|nonce| !nonce.is_empty()) else {
        return bare(200, &Status { started: !attempts.0.is_empty(), ..status });
    };
    match attempts.named(nonce).and_then(|at| attempts.0.get(at)) {
        None => bare(200, &status),
        Some(RootAttempt { gathering, .. }) => {
            bare(200, &Status { nonce, started: true, progress: gathering.progress(), ..status })
        }
    }
}

async fn cancel(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let nonce = recovery::nonce(scope.call)?;
    let mut attempts = scope.vault.ceremonies().root.lock().await;
    let at = attempts.named(&nonce).ok_or_else(recovery::other_nonce)?;
    scope.record_officers().await?;
    attempts.0.remove(at);
    Ok(Reply::empty())
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
    let (recovery, _) = recovery::load(vault).await?.ok_or_else(no_shares)?;
    let told = match &given {
        Some(_) => None,
        None => Some(letters_and_digits(vault.barrier(), OTP_BYTES)?),
    };
    let otp = given.as_ref().or(told.as_ref()).map(|otp| SecretBytes::copy_from(otp.as_bytes())).unwrap_or(none());
    let (gathering, required) = (Gathering::new(vault, scope.now())?, recovery.threshold);
    let (nonce, from) = (gathering.nonce.clone(), identity::cidr::network(&scope.call.info.from));
    // before it begins, and while nobody waits for it: strangers begin some, too
    vault.log(&scope.record(scope.subject(), Decision::Allowed, Outcome::Done)).await?;
    scope.was_recorded();
    let mut attempts = vault.ceremonies().root.lock().await;
    attempts.drop_stale(scope.now());
    attempts.add(RootAttempt { gathering, recovery, otp, from })?;
    drop(attempts);
    let otp = told.as_ref().map_or("", |otp| otp.as_str());
    bare(200, &Status { nonce: &nonce, started: true, required, otp, otp_length: OTP_BYTES, ..Status::default() })
}

fn none() -> SecretBytes {
    SecretBytes::copy_from(b"")
}

fn no_shares() -> VaultError {
    VaultError::Invalid("there are no recovery shares: make them with sys/rekey-recovery-key, as root".into())
}

async fn update(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (vault, share) = (scope.vault, recovery::share(&scope.call.body)?);
    let mut attempts = vault.ceremonies().root.lock().await;
    attempts.drop_stale(scope.now());
    if attempts.0.is_empty() {
        return Err(VaultError::Invalid("no root generation in progress".into()));
    }
    let nonce = recovery::nonce(scope.call)?;
    let at = attempts.named(&nonce).ok_or_else(recovery::other_nonce)?;
    let RootAttempt { gathering, recovery, .. } = attempts.0.get_mut(at).ok_or_else(recovery::other_nonce)?;
    let cluster = vault.barrier().cluster_id();
    // the last one is told with the token that it makes
    if recovery.knows(&share, cluster) && gathering.lacks(&share, recovery) > 0 {
        scope.record_officers().await?;
    }
    let added = gathering.add(share, recovery, cluster);
    let (progress, required) = (gathering.progress(), recovery.threshold);
    let shown = Status { nonce: &nonce, started: true, progress, required, otp_length: OTP_BYTES, ..Status::default() };
    match added {
        Added::Wrong => Err(recovery::wrong()),
        Added::Missing => {
            attempts.drop_within(at);
            bare(200, &shown)
        }
        Added::Complete => {
            let RootAttempt { otp, recovery, .. } = attempts.0.remove(at);
            drop(attempts);
            let encoded = made(scope, &otp, &recovery).await?;
            bare(200, &Status { complete: true, encoded_token: &encoded, encoded_root_token: &encoded, ..shown })
        }
    }
}

/// Makes the token, and gives it encoded; only while the key is the one that the shares are of.
async fn made(scope: &Scope<'_>, otp: &SecretBytes, of: &Recovery) -> Result<Zeroizing<String>, VaultError> {
    // it may have been rekeyed in between, here or elsewhere
    let revision = match recovery::load(scope.vault).await? {
        Some((now, revision)) if now == *of => revision,
        Some(_) | None => return Err(recovery::wrong()),
    };
    let (_, place) = recovery::place(scope.vault)?;
    let batch = scope.batch()?.revision_is(place, revision);
    let (batch, created) = scope.vault.identities().prepare_root(batch, scope.now())?;
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

/// Side by side.
const ATTEMPTS_MAX: usize = 64;
/// As long as a token.
const OTP_BYTES: usize = 46;
