//! The recovery key: officers who bring enough of its shares together unseal a server that was sealed by hand, make a new root
//! token, or a new recovery key.
//!
//! It is made once, split by Shamir's scheme, and shown once. The store keeps its keyed hash, by which it is recognised. It
//! opens nothing by itself: the boundary does, or the barrier that is open.
//!
//! Of each share its keyed hash stands there too, so that what is none is refused by itself.
//!
//! Always: compared in constant time. What is no share of the key changes nothing of an attempt, whoever brings it: strangers
//! cannot spoil what officers do. (Nobody is made to wait: of 256 random bits nothing is guessed, and officers may come from
//! a stranger's address.)
//! Always: what officers do leaves its record before it has an effect, and has its place in the log whatever strangers send.
//! Always: an attempt stands in the memory of the node that was asked, for an hour at most: all shares go to one node.
//! Never: a share, or the key, in the store, the log, an error, or longer in memory than the attempt.

use crate::error::VaultError;
use crate::service::Vault;
use crate::uuid::uuid;
use crate::view::View;
use audit::{Decision, Outcome, Record};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use envelope::{SecretBytes, SecretKey, Timestamp, mac, shamir};
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{AtLeast, Barrier, BarrierError, EntryPath, Revision};
use zeroize::Zeroizing;

/// What the store knows of the recovery key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recovery {
    version: u8,
    pub(crate) shares: u8,
    pub(crate) threshold: u8,
    /// HMAC-SHA-256 under the key itself, of the cluster's id: who reads it learns nothing of 256 random bits.
    verifier: String,
    /// The same of each share, under 256 random bits of its own. Of older keys nothing: their shares are tried together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    of_shares: Vec<String>,
    /// Unix milliseconds.
    made: u64,
}

/// How many shares there are to be, and how many of them are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) shares: u8,
    pub(crate) threshold: u8,
}

impl Split {
    /// More than one share, of which one is enough, would be copies of the key.
    pub(crate) fn new(shares: u32, threshold: u32) -> Result<Self, VaultError> {
        let fits = |count: u32| u8::try_from(count).ok().filter(|count| *count > 0);
        let shares = fits(shares).ok_or_else(|| VaultError::field("secret_shares", "1 to 255"))?;
        let threshold = fits(threshold).filter(|threshold| *threshold <= shares);
        let threshold = threshold.ok_or_else(|| VaultError::field("secret_threshold", "1 to `secret_shares`"))?;
        if shares > 1 && threshold == 1 {
            return Err(VaultError::field("secret_threshold", "more than 1 where there are several shares"));
        }
        Ok(Self { shares, threshold })
    }
}

impl Recovery {
    /// A new key: how it is recognised, and its shares, which stand nowhere else.
    pub(crate) fn make(vault: &Vault, split: Split, now: Timestamp) -> Result<(Self, Vec<SecretBytes>), VaultError> {
        let random = Zeroizing::new(vault.barrier().random::<32>()?);
        let key = SecretKey::init_with(|key| key.copy_from_slice(&*random));
        let fill = |room: &mut [u8]| -> Result<(), BarrierError> {
            for room in room.chunks_mut(32) {
                let random = Zeroizing::new(vault.barrier().random::<32>()?);
                room.iter_mut().zip(random.iter()).for_each(|(to, from)| *to = *from);
            }
            Ok(())
        };
        let Split { shares, threshold } = split;
        let split = shamir::split(key.expose(), threshold, shares, fill);
        let split = split.map_err(|error| VaultError::Internal(error.to_string().into()))?;
        let cluster = vault.barrier().cluster_id();
        let verifier = hex::encode(verifier(&key, cluster));
        let of_shares = split.iter().filter_map(|share| share_verifier(share, cluster)).map(hex::encode).collect();
        Ok((Self { version: VERSION, shares, threshold, verifier, of_shares, made: now.unix_millis() }, split))
    }

    /// Whether this is the key.
    pub(crate) fn is(&self, key: &SecretKey, cluster: &[u8; 16]) -> bool {
        let mut known = [0; 32];
        hex::decode_to_slice(&self.verifier, &mut known).is_ok() && mac::equal(&known, &verifier(key, cluster))
    }

    /// Whether this is one of its shares, as far as that is known.
    fn has(&self, share: &SecretBytes, cluster: &[u8; 16]) -> bool {
        let Some(shown) = share_verifier(share, cluster) else { return false };
        let is_shown = |known: &String| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(known, &mut bytes).is_ok() & mac::equal(&bytes, &shown)
        };
        self.of_shares.is_empty() || self.of_shares.iter().fold(false, |found, known| found | is_shown(known))
    }

    /// Whether this is one of its shares: who brings it is no stranger, though nobody is recognised.
    pub(crate) fn knows(&self, share: &SecretBytes, cluster: &[u8; 16]) -> bool {
        !self.of_shares.is_empty() && self.has(share, cluster)
    }

    fn decode(text: &[u8]) -> Result<Self, VaultError> {
        let found = serde_json::from_slice(text).ok().filter(|found: &Self| found.version == VERSION);
        found.ok_or_else(|| VaultError::Internal("the stored recovery key's hash cannot be read".into()))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| VaultError::Internal("the recovery key's hash".into()))
    }
}

fn verifier(key: &SecretKey, cluster: &[u8; 16]) -> [u8; 32] {
    mac::hmac_sha256(key, &[b"sr/v1/recovery", cluster])
}

fn share_verifier(share: &SecretBytes, cluster: &[u8; 16]) -> Option<[u8; 32]> {
    let (value, number) = share.expose().split_at_checked(SHARE_BYTES - 1)?;
    Some(mac::hmac_sha256(&SecretKey::from_slice(value)?, &[b"sr/v1/recovery-share", cluster, number]))
}

/// Where it stands.
pub(crate) fn place(vault: &Vault) -> Result<(View, EntryPath), VaultError> {
    let view = vault.view("recovery")?;
    let place = view.path("key")?;
    Ok((view, place))
}

pub(crate) async fn load(vault: &Vault) -> Result<Option<(Recovery, Revision)>, VaultError> {
    let (view, place) = place(vault)?;
    let Some(found) = view.load(&place).await? else { return Ok(None) };
    Ok(Some((Recovery::decode(found.value.expose())?, found.revision)))
}

/// As it was a moment ago at most: for who is told how many shares there are.
pub(crate) async fn told(vault: &Vault) -> Result<Option<Recovery>, VaultError> {
    let (view, place) = place(vault)?;
    let kept = view.read(&place).await?;
    kept.as_ref().as_ref().map(|kept| Recovery::decode(kept.value.expose())).transpose()
}

/// As the store has it now, by keys that the vault's own barrier does not have yet.
pub(crate) async fn load_by(barrier: &Barrier, vault: &Vault) -> Result<Option<Recovery>, VaultError> {
    let (_, place) = place(vault)?;
    let (_, found) = barrier.get(std::slice::from_ref(&place), AtLeast::Latest).await?;
    found.into_iter().flatten().next().map(|found| Recovery::decode(found.value.expose())).transpose()
}

impl Vault {
    /// At the start: a recovery key of one share, where there is none. `keep` puts the share where it will be found, before
    /// the key counts. Whether it does: what was kept is of no key where another node was first.
    pub async fn prepare_recovery<E>(
        &self,
        now: Timestamp,
        keep: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<Result<bool, E>, VaultError> {
        if load(self).await?.is_some() {
            return Ok(Ok(false));
        }
        let (recovery, shares) = Recovery::make(self, Split { shares: 1, threshold: 1 }, now)?;
        let kept = shares.first().map_or(Ok(()), |share| keep(&text(share)));
        if let Err(error) = kept {
            return Ok(Err(error));
        }
        let (view, place) = place(self)?;
        let batch = view.put(self.changes().batch()?.absent(place.clone()), place, &recovery.encode()?)?;
        let leaf = Record {
            path: "sys/rekey-recovery-key/init",
            decision: Decision::Allowed,
            ..Record::new(now, "start", "RecoveryPrepare", &audit::Subject::System)
        };
        match self.commit(batch, &leaf).await {
            Ok(_) => Ok(Ok(true)),
            Err(ChangeError::Conflict(_)) => Ok(Ok(false)),
            Err(error) => Err(error.into()),
        }
    }
}

/// A share as officers keep it.
pub(crate) fn text(share: &SecretBytes) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(share.expose()))
}

pub(crate) fn base64(share: &SecretBytes) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(share.expose()))
}

/// Hexadecimal, or base64.
fn parse(text: &str) -> Option<SecretBytes> {
    let text = text.trim();
    let bytes = hex::decode(text).ok().or_else(|| STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok());
    bytes.map(SecretBytes::from_vec).filter(|share| share.len() == SHARE_BYTES)
}

/// The share that a request brings.
pub(crate) fn share(body: &crate::Body) -> Result<SecretBytes, VaultError> {
    let key = body.string("key")?.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| VaultError::Invalid("'key' must be specified in request body as JSON".into()))?;
    parse(&key).ok_or_else(|| VaultError::Invalid("'key' must be a valid hex or base64 string of a share".into()))
}

/// Shares that come together.
pub(crate) struct Gathering {
    pub(crate) nonce: String,
    shares: Vec<SecretBytes>,
    began: Timestamp,
}

/// What a share made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    Missing,
    Complete,
    /// It is no share of the key, or they do not make it; the attempt stands.
    Wrong,
}

impl Gathering {
    pub(crate) fn new(vault: &Vault, now: Timestamp) -> Result<Self, VaultError> {
        Ok(Self { nonce: uuid(&vault.barrier().random()?), shares: Vec::new(), began: now })
    }

    pub(crate) fn progress(&self) -> usize {
        self.shares.len()
    }

    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        now.since(self.began) >= ATTEMPT_MAX
    }

    /// The same share again changes nothing, and what is no share neither.
    pub(crate) fn add(&mut self, share: SecretBytes, of: &Recovery, cluster: &[u8; 16]) -> Added {
        if !of.has(&share, cluster) {
            return Added::Wrong;
        }
        if !self.holds(&share) {
            self.shares.push(share);
        }
        if self.shares.len() < usize::from(of.threshold) {
            return Added::Missing;
        }
        let key = shamir::combine(&self.shares).ok().and_then(|key| SecretKey::from_slice(key.expose()));
        if key.is_some_and(|key| of.is(&key, cluster)) {
            return Added::Complete;
        }
        // of an older key: nobody knows which of them is none
        self.shares.clear();
        Added::Wrong
    }

    fn holds(&self, share: &SecretBytes) -> bool {
        self.shares.iter().any(|known| mac::equal(known.expose(), share.expose()))
    }

    /// How many shares are missing once it has this one.
    pub(crate) fn lacks(&self, share: &SecretBytes, of: &Recovery) -> usize {
        usize::from(of.threshold).saturating_sub(self.shares.len() + usize::from(!self.holds(share)))
    }

    /// Whether another one has all shares that this one has, and this one some.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(|share| other.holds(share))
    }

    /// Without the last one: what it would have completed could not be done.
    pub(crate) fn take_back(&mut self) {
        self.shares.pop();
    }

    /// Whether this is what was told when it began. Who knows it may bring shares to it, and end it.
    pub(crate) fn is_named(&self, nonce: &str) -> bool {
        mac::equal(nonce.as_bytes(), self.nonce.as_bytes())
    }
}

/// The nonce that a request brings, in its body or beside its path.
pub(crate) fn nonce(call: &crate::Call) -> Result<Zeroizing<String>, VaultError> {
    let given = call.body.string("nonce")?;
    let given = given.or_else(|| call.parameter("nonce").map(|nonce| Zeroizing::new(nonce.to_owned())));
    given
        .filter(|nonce| !nonce.is_empty())
        .ok_or_else(|| VaultError::field("nonce", "missing: it was told when the attempt began"))
}

pub(crate) fn other_nonce() -> VaultError {
    VaultError::Invalid("incorrect nonce supplied".into())
}

impl std::fmt::Debug for Gathering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gathering").field("progress", &self.shares.len()).finish_non_exhaustive()
    }
}

/// What is under way on this node.
#[derive(Debug, Default)]
pub(crate) struct Ceremonies {
    /// Set while the server is sealed by hand.
    pub(crate) sealed: tokio::sync::Mutex<Option<crate::seal::Sealed>>,
    pub(crate) root: tokio::sync::Mutex<crate::sys::RootAttempts>,
    pub(crate) rekey: tokio::sync::Mutex<Option<crate::sys::RekeyAttempt>>,
}

/// What a share that was wrong is answered by.
pub(crate) fn wrong() -> VaultError {
    VaultError::Invalid("this is no share of the recovery key; the attempt stands as it was".into())
}

/// By what an act of officers was allowed, in the log.
pub(crate) const RULE: &str = "recovery-shares";
const VERSION: u8 = 1;
/// The key, and the number of the share.
const SHARE_BYTES: usize = 33;
const ATTEMPT_MAX: Duration = Duration::from_secs(3600);

/// As every record of a request is made, allowed by shares.
pub(crate) fn by_shares(record: Record<'_>) -> Record<'_> {
    Record { rule: RULE, decision: Decision::Allowed, outcome: Outcome::Done, ..record }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_has_no_copies_of_the_key() {
        for (shares, threshold, sound) in [
            (1, 1, true),
            (2, 2, true),
            (5, 3, true),
            (255, 255, true),
            (0, 0, false),
            (1, 0, false),
            (2, 1, false),
            (2, 3, false),
            (256, 3, false),
            (u32::MAX, u32::MAX, false),
        ] {
            assert_eq!(Split::new(shares, threshold).is_ok(), sound, "{threshold} of {shares}");
        }
    }

    #[test]
    fn a_share_is_33_bytes_in_hexadecimal_or_base64() {
        let share = SecretBytes::from_vec((0..33).collect());
        for text in [text(&share).as_str(), base64(&share).as_str(), &format!(" {}\n", *text(&share))] {
            assert_eq!(parse(text).unwrap().expose(), share.expose(), "{text}");
        }
        for text in ["", "00", "zz", &"00".repeat(32), &"00".repeat(34), &"=".repeat(44)] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
