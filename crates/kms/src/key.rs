//! Keys: what is known of one, and how its state may change. Pure.
//!
//! ```text
//! Enabled ◄─ enable / disable ─► Disabled ◄─ cancel ─ PendingDeletion { at } ─ sweep ─► Deleted { at }
//!    └────────────── schedule ──────┴──────────────────────►┘
//! ```
//!
//! Always: only an enabled key does cryptography. Never: key material in a deleted key.

use crate::name::Description;
use bytes::Bytes;
use envelope::Timestamp;
use hsm_api::{KeyId, KeySpec, KeyToken, KeyUsage, Origin, ProtectionLevel};
use std::time::Duration;

/// Most versions of a key. A token takes about half a kibibyte, so a record stays near 50 KiB: small enough to be read,
/// cached and written whole, and a weekly rotation takes two years to get there.
pub const KEY_VERSIONS_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    Enabled,
    Disabled,
    /// May be destroyed from `at` on.
    PendingDeletion {
        at: Timestamp,
    },
    /// A tombstone: destroyed at `at`.
    Deleted {
        at: Timestamp,
    },
}

/// All that is stored about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub id: KeyId,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub level: ProtectionLevel,
    pub origin: Origin,
    pub description: Description,
    pub created: Timestamp,
    pub state: KeyState,
    /// Versions 1, 2, 3, …; never empty.
    pub versions: Vec<KeyVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersion {
    pub number: u32,
    pub created: Timestamp,
    /// The cluster's generation then; it rises when the store or the log was put back.
    pub generation: u64,
    /// `None` once the key is deleted, or this version and all before it were erased.
    pub material: Option<Material>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    pub token: KeyToken,
    /// SubjectPublicKeyInfo, DER; empty for symmetric keys.
    pub public_key: Bytes,
}

/// When a deleted key can be brought back by nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionFinality {
    /// Tokens were erased from storage; what stays behind of them, in backups or as an object in an HSM's token, is of use
    /// until the backups have run out or the domain key's generation is destroyed.
    WhenBackupsOrDomainGenerationAreGone,
    /// The object in the HSM's token was destroyed. No boundary service does that yet, so nothing says this yet.
    Final,
}

/// Why a key does not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Disabled,
    PendingDeletion,
    Deleted,
    /// The transition starts from another state.
    State,
    Usage,
    TooManyVersions,
}

impl KeyRecord {
    /// The key may do cryptography of this usage now. Usage first: it never changes, so it is the better answer.
    pub fn usable_for(&self, usage: KeyUsage) -> Result<(), Refusal> {
        if self.usage != usage {
            return Err(Refusal::Usage);
        }
        match self.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(Refusal::Disabled),
            KeyState::PendingDeletion { at: _ } => Err(Refusal::PendingDeletion),
            KeyState::Deleted { at: _ } => Err(Refusal::Deleted),
        }
    }

    /// The version that encrypts, signs and authenticates, and its material; `None` in a deleted key.
    pub fn current(&self) -> Option<(u32, &Material)> {
        let version = self.versions.last()?;
        Some((version.number, version.material.as_ref()?))
    }

    pub fn version(&self, number: u32) -> Option<&Material> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.versions.get(index).filter(|version| version.number == number)?.material.as_ref()
    }

    pub fn finality(&self) -> Option<DeletionFinality> {
        match self.state {
            KeyState::Enabled | KeyState::Disabled => None,
            KeyState::PendingDeletion { .. } | KeyState::Deleted { .. } => {
                Some(DeletionFinality::WhenBackupsOrDomainGenerationAreGone)
            }
        }
    }

    /// The version that was asked for, or else the current one, and its material.
    pub fn at(&self, version: Option<u32>) -> Option<(u32, &Material)> {
        match version {
            None => self.current(),
            Some(number) => Some((number, self.version(number)?)),
        }
    }

    /// Whether this version may seal, though it may not be the current one: a token that counts its invocations knows how
    /// many there were.
    pub fn may_seal(&self, number: u32, generation: u64) -> bool {
        let counted = self.level == ProtectionLevel::HsmResident;
        self.versions.iter().any(|version| version.number == number && !(counted && version.generation < generation))
    }

    /// Without the material of all versions before `number`: nobody gets it back. `None`: it is gone already.
    pub fn erased_before(&self, number: u32) -> Result<Option<Self>, Refusal> {
        if self.versions.last().is_none_or(|current| current.number < number) {
            return Err(Refusal::State);
        }
        let mut erased = self.clone();
        let old = erased.versions.iter_mut().filter(|version| version.number < number && version.material.is_some());
        let gone = old.map(|version| version.material = None).count();
        Ok((gone > 0).then_some(erased))
    }

    /// The number that the next version will have, of a key whose results tell of their versions by themselves.
    pub fn next_version(&self) -> Result<u32, Refusal> {
        self.usable_for(KeyUsage::EncryptDecrypt)?;
        self.next_version_of_any()
    }

    /// As [`Self::next_version`], whatever the key is for: whoever uses it keeps results and versions together.
    pub fn next_version_of_any(&self) -> Result<u32, Refusal> {
        self.usable_for(self.usage)?;
        if self.versions.len() >= KEY_VERSIONS_MAX {
            return Err(Refusal::TooManyVersions);
        }
        u32::try_from(self.versions.len() + 1).map_err(|_| Refusal::TooManyVersions)
    }

    /// With one more version, which encrypts from now on.
    #[must_use]
    pub fn rotated(&self, material: Material, number: u32, now: Timestamp, generation: u64) -> Self {
        let mut rotated = self.clone();
        rotated.versions.push(KeyVersion { number, created: now, generation, material: Some(material) });
        rotated
    }

    /// Whether the current version may seal no more: it is of an earlier generation of the cluster, and a token counts its
    /// invocations (suite 2, in [`ProtectionLevel::HsmResident`]). With what was put back the count may have been.
    pub fn is_outlived(&self, generation: u64) -> bool {
        let counted = match self.level {
            ProtectionLevel::HsmResident => self.usage == KeyUsage::EncryptDecrypt,
            ProtectionLevel::Boundary => false,
        };
        counted && self.versions.last().is_some_and(|version| version.generation < generation)
    }

    /// `None`: it is enabled already.
    pub fn enable(&self) -> Result<Option<Self>, Refusal> {
        match self.state {
            KeyState::Enabled => Ok(None),
            KeyState::Disabled => Ok(Some(self.in_state(KeyState::Enabled))),
            KeyState::PendingDeletion { .. } => Err(Refusal::PendingDeletion),
            KeyState::Deleted { .. } => Err(Refusal::Deleted),
        }
    }

    /// `None`: it is disabled already.
    pub fn disable(&self) -> Result<Option<Self>, Refusal> {
        match self.state {
            KeyState::Enabled => Ok(Some(self.in_state(KeyState::Disabled))),
            KeyState::Disabled => Ok(None),
            KeyState::PendingDeletion { .. } => Err(Refusal::PendingDeletion),
            KeyState::Deleted { .. } => Err(Refusal::Deleted),
        }
    }

    pub fn schedule_deletion(&self, window: Duration, now: Timestamp) -> Result<(Self, Timestamp), Refusal> {
        match self.state {
            KeyState::Enabled | KeyState::Disabled => {
                let at = now.plus(window);
                Ok((self.in_state(KeyState::PendingDeletion { at }), at))
            }
            KeyState::PendingDeletion { .. } => Err(Refusal::PendingDeletion),
            KeyState::Deleted { .. } => Err(Refusal::Deleted),
        }
    }

    /// Disabled, and when the deletion was due.
    pub fn cancel_deletion(&self) -> Result<(Self, Timestamp), Refusal> {
        match self.state {
            KeyState::PendingDeletion { at } => Ok((self.in_state(KeyState::Disabled), at)),
            KeyState::Enabled | KeyState::Disabled => Err(Refusal::State),
            KeyState::Deleted { .. } => Err(Refusal::Deleted),
        }
    }

    /// The tombstone, where the deletion that was due at `due` is still to be done.
    pub fn delete(&self, due: Timestamp, now: Timestamp) -> Option<Self> {
        match self.state {
            KeyState::PendingDeletion { at } if at == due && at <= now => {
                let mut tombstone = self.in_state(KeyState::Deleted { at: now });
                tombstone.versions.iter_mut().for_each(|version| version.material = None);
                Some(tombstone)
            }
            KeyState::PendingDeletion { .. } | KeyState::Enabled | KeyState::Disabled | KeyState::Deleted { .. } => {
                None
            }
        }
    }

    fn in_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_unix_millis(1_000);
    const STATES: [KeyState; 4] =
        [KeyState::Enabled, KeyState::Disabled, KeyState::PendingDeletion { at: AT }, KeyState::Deleted { at: AT }];

    fn key_in(state: KeyState) -> KeyRecord {
        let number = 1;
        KeyRecord {
            id: KeyId::from_random([1; 16]),
            spec: KeySpec::Aes256,
            usage: KeyUsage::EncryptDecrypt,
            level: ProtectionLevel::Boundary,
            origin: Origin::Generated,
            description: Description::default(),
            created: Timestamp::default(),
            state,
            versions: vec![KeyVersion { number, created: Timestamp::default(), generation: 2, material: None }],
        }
    }

    #[test]
    fn a_key_that_is_not_enabled_does_nothing() {
        let refusals = [None, Some(Refusal::Disabled), Some(Refusal::PendingDeletion), Some(Refusal::Deleted)];
        for (state, refusal) in STATES.into_iter().zip(refusals) {
            let key = key_in(state);
            assert_eq!(key.usable_for(KeyUsage::EncryptDecrypt).err(), refusal);
            assert_eq!(key.next_version().err(), refusal);
            assert_eq!(key.usable_for(KeyUsage::SignVerify), Err(Refusal::Usage));
        }
    }

    #[test]
    fn every_transition_starts_where_it_may() {
        use KeyState::{Disabled, Enabled, PendingDeletion};
        let [pending, deleted] = [Refusal::PendingDeletion, Refusal::Deleted];
        let enabled = [Ok(None), Ok(Some(Enabled)), Err(pending), Err(deleted)];
        let disabled = [Ok(Some(Disabled)), Ok(None), Err(pending), Err(deleted)];
        let due = PendingDeletion { at: Timestamp::from_unix_millis(5_000) };
        let scheduled = [Ok(due), Ok(due), Err(pending), Err(deleted)];
        let cancelled = [Err(Refusal::State), Err(Refusal::State), Ok(Disabled), Err(deleted)];
        for (i, state) in STATES.into_iter().enumerate() {
            let key = key_in(state);
            assert_eq!(key.enable().map(|key| key.map(|key| key.state)), enabled[i]);
            assert_eq!(key.disable().map(|key| key.map(|key| key.state)), disabled[i]);
            let window = Duration::from_secs(4);
            assert_eq!(key.schedule_deletion(window, AT).map(|(key, _)| key.state), scheduled[i]);
            assert_eq!(key.cancel_deletion().map(|(key, _)| key.state), cancelled[i]);
        }
    }

    #[test]
    fn of_an_earlier_generation_only_what_a_token_counts_seals_no_more() {
        for (level, usage, generation, outlived) in [
            (ProtectionLevel::HsmResident, KeyUsage::EncryptDecrypt, 1, false),
            (ProtectionLevel::HsmResident, KeyUsage::EncryptDecrypt, 2, false),
            (ProtectionLevel::HsmResident, KeyUsage::EncryptDecrypt, 3, true),
            (ProtectionLevel::HsmResident, KeyUsage::SignVerify, 3, false),
            (ProtectionLevel::HsmResident, KeyUsage::GenerateVerifyMac, 3, false),
            (ProtectionLevel::Boundary, KeyUsage::EncryptDecrypt, 3, false),
        ] {
            let key = KeyRecord { level, usage, ..key_in(KeyState::Enabled) };
            assert_eq!(key.is_outlived(generation), outlived, "{level:?} {usage:?} {generation}");
        }
    }

    #[test]
    fn old_versions_are_erased_and_the_current_one_stays() {
        let material = || {
            let header = envelope::Header {
                kind: envelope::Kind::KeyToken,
                suite: envelope::Suite::KdfCommitGcm,
                key_id: [1; 16],
                key_version: 1,
                domain_id: [0; 16],
                generation: 1,
            };
            let token = [&header.to_bytes()[..], &[0x5a; 16 + 12 + 32 + 8 + 16]].concat();
            Material { token: KeyToken::parse([0; 16], token.into()).unwrap(), public_key: Bytes::new() }
        };
        let mut key = key_in(KeyState::Enabled);
        key.versions[0].material = Some(material());
        for number in [2, 3] {
            key = key.rotated(material(), number, AT, 2);
        }
        for (number, left) in [(0, None), (1, None), (2, Some(2)), (3, Some(1))] {
            let erased = key.erased_before(number).unwrap();
            let of = |key: &KeyRecord| key.versions.iter().filter(|version| version.material.is_some()).count();
            assert_eq!(erased.as_ref().map(of), left, "{number}");
            if let Some(erased) = erased {
                assert_eq!(erased.erased_before(number), Ok(None));
                assert!(erased.at(None).is_some() && erased.at(Some(1)).is_none());
            }
        }
        assert_eq!(key.erased_before(4), Err(Refusal::State));
        for (level, number, generation, may) in [
            (ProtectionLevel::Boundary, 1, 9, true),
            (ProtectionLevel::HsmResident, 1, 2, true),
            (ProtectionLevel::HsmResident, 1, 3, false),
            (ProtectionLevel::Boundary, 4, 2, false),
        ] {
            let key = KeyRecord { level, ..key.clone() };
            assert_eq!(key.may_seal(number, generation), may, "{level:?} {number} {generation}");
        }
    }

    #[test]
    fn only_the_deletion_that_is_due_is_carried_out() {
        let (before, after) = (Timestamp::from_unix_millis(999), Timestamp::from_unix_millis(1_001));
        for (state, due, now, deleted) in [
            (KeyState::PendingDeletion { at: AT }, AT, before, false),
            (KeyState::PendingDeletion { at: AT }, AT, AT, true),
            (KeyState::PendingDeletion { at: AT }, AT, after, true),
            // scheduled anew since
            (KeyState::PendingDeletion { at: AT }, before, after, false),
            (KeyState::Enabled, AT, after, false),
            (KeyState::Disabled, AT, after, false),
            (KeyState::Deleted { at: AT }, AT, after, false),
        ] {
            let tombstone = key_in(state).delete(due, now);
            assert_eq!(tombstone.map(|key| key.state), deleted.then_some(KeyState::Deleted { at: now }), "{state:?}");
        }
    }
}
