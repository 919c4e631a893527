//! The recovery key: officers who bring enough of its shares together unseal a server that was sealed by hand, make a new root
//! token, or a new recovery key.
//!
//! It is made once, split by Shamir's scheme, and shown once. The store keeps its keyed hash, by which it is recognised. It
//! opens nothing by itself: the boundary does, or the barrier that is open.
//!
//! Always: a key is compared in constant time, and one that is wrong ends the attempt; from that address the next one waits,
//! longer each time.
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
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::{BarrierError, EntryPath, Revision};
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
        let verifier = hex::encode(verifier(&key, vault.barrier().cluster_id()));
        Ok((Self { version: VERSION, shares, threshold, verifier, made: now.unix_millis() }, split))
    }

    /// Whether this is the key.
    pub(crate) fn is(&self, key: &SecretKey, cluster: &[u8; 16]) -> bool {
        let mut known = [0; 32];
        hex::decode_to_slice(&self.verifier, &mut known).is_ok() && mac::equal(&known, &verifier(key, cluster))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| VaultError::Internal("the recovery key's hash".into()))
    }
}

fn verifier(key: &SecretKey, cluster: &[u8; 16]) -> [u8; 32] {
    mac::hmac_sha256(key, &[b"sr/v1/recovery", cluster])
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
    let recovery: Recovery = serde_json::from_slice(found.value.expose())
        .ok()
        .filter(|found: &Recovery| found.version == VERSION)
        .ok_or_else(|| VaultError::Internal("the stored recovery key's hash cannot be read".into()))?;
    Ok(Some((recovery, found.revision)))
}

impl Vault {
    /// At the start: a recovery key of one share, where there is none. `keep` puts the share where it will be found, before
    /// the key counts.
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
        self.commit(batch, &leaf).await?;
        Ok(Ok(true))
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
    /// They do not make the key: another attempt begins without any.
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

    /// The same share again changes nothing.
    pub(crate) fn add(&mut self, share: SecretBytes, of: &Recovery, cluster: &[u8; 16]) -> Added {
        if !self.shares.iter().any(|known| mac::equal(known.expose(), share.expose())) {
            self.shares.push(share);
        }
        if self.shares.len() < usize::from(of.threshold) {
            return Added::Missing;
        }
        let key = shamir::combine(&self.shares).ok().and_then(|key| SecretKey::from_slice(key.expose()));
        if key.is_some_and(|key| of.is(&key, cluster)) { Added::Complete } else { Added::Wrong }
    }

    /// Without the last one: what it would have completed could not be done.
    pub(crate) fn take_back(&mut self) {
        self.shares.pop();
    }

    pub(crate) fn check_nonce(&self, body: &crate::Body) -> Result<(), VaultError> {
        let given = body.string("nonce")?;
        if given.is_some_and(|given| *given == self.nonce) {
            return Ok(());
        }
        Err(VaultError::Invalid(
            format!("incorrect nonce supplied; nonce for this operation is \"{}\"", self.nonce).into(),
        ))
    }
}

impl std::fmt::Debug for Gathering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gathering").field("nonce", &self.nonce).field("progress", &self.shares.len()).finish()
    }
}

/// After wrong shares: how long nothing is tried, by address. Who guesses is slowed down, and nobody else with them.
#[derive(Debug, Default)]
pub(crate) struct Patience(Mutex<HashMap<String, Waits>>);

#[derive(Debug, Default)]
struct Waits {
    wrong: u32,
    until: u64,
}

impl Patience {
    pub(crate) fn check(&self, from: &str, now: Timestamp) -> Result<(), VaultError> {
        if self.waits().get(host(from)).is_some_and(|waits| now.unix_millis() < waits.until) {
            return Err(VaultError::Limited("the last shares were wrong: wait a moment, and begin anew".into()));
        }
        Ok(())
    }

    /// A second, two, four, at most a minute.
    pub(crate) fn was_wrong(&self, from: &str, now: Timestamp) {
        let mut all = self.waits();
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, waits| now.unix_millis() < waits.until);
        }
        // of so many at once, some are slowed down by the bound on strangers' records alone
        if all.len() >= ADDRESSES_MAX {
            return;
        }
        let waits = all.entry(host(from).to_owned()).or_default();
        let wait = Duration::from_secs(1 << waits.wrong.min(6)).min(WAIT_MAX);
        waits.wrong = waits.wrong.saturating_add(1);
        waits.until = now.plus(wait).unix_millis();
    }

    pub(crate) fn was_right(&self, from: &str) {
        self.waits().remove(host(from));
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<String, Waits>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address without its port.
fn host(from: &str) -> &str {
    from.rsplit_once(':').map_or(from, |(host, _)| host)
}

/// What is under way on this node: one of each kind.
#[derive(Debug, Default)]
pub(crate) struct Ceremonies {
    /// Set while the server is sealed by hand.
    pub(crate) sealed: tokio::sync::Mutex<Option<crate::seal::Sealed>>,
    pub(crate) root: tokio::sync::Mutex<Option<crate::sys::RootAttempt>>,
    pub(crate) rekey: tokio::sync::Mutex<Option<crate::sys::RekeyAttempt>>,
    pub(crate) patience: Patience,
}

/// What a share that was wrong is answered by; the attempt is over.
pub(crate) fn wrong() -> VaultError {
    VaultError::Invalid("the shares do not make the recovery key; the attempt is over, begin anew".into())
}

/// By what an act of officers was allowed, in the log.
pub(crate) const RULE: &str = "recovery-shares";
const VERSION: u8 = 1;
/// The key, and the number of the share.
const SHARE_BYTES: usize = 33;
const ATTEMPT_MAX: Duration = Duration::from_secs(3600);
const ADDRESSES_MAX: usize = 1024;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// As every record of a request is made, allowed by shares.
pub(crate) fn by_shares(record: Record<'_>) -> Record<'_> {
    Record { rule: RULE, decision: Decision::Allowed, outcome: Outcome::Done, ..record }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_millis(secs * 1000)
    }

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

    #[test]
    fn who_was_wrong_waits_longer_each_time_and_a_minute_at_most() {
        let patience = Patience::default();
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(patience.check("a:1", at(now)).is_ok());
            patience.was_wrong("a:1", at(now));
            assert!(patience.check("a:2", at(now + wait - 1)).is_err(), "{wait}");
            assert!(patience.check("b:1", at(now + wait - 1)).is_ok(), "others do not");
            now += wait;
        }
        patience.was_wrong("a:1", at(now));
        patience.was_right("a:2");
        assert!(patience.check("a:1", at(now)).is_ok());
        patience.was_wrong("a:1", at(now));
        assert!(patience.check("a:1", at(now + 1)).is_ok());
        for n in 0..2 * ADDRESSES_MAX {
            patience.was_wrong(&format!("{n}:1"), at(now));
        }
        assert_eq!(patience.waits().len(), ADDRESSES_MAX);
    }
}
