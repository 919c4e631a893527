//! Personal fields: sealed under a key per period, which is itself sealed once to the auditor's public key.
//!
//! Always: a key's sealed copy is durable before the key seals. Without the copy nobody reads the fields, and every leaf
//! still verifies: dropping it is how a period is shredded.
//! Never: two seals under one key and one nonce. A key lives in one process, is never stored but sealed to the auditor, and
//! what the auditor gets back does not seal.

use super::Malformed;
use super::entry::Sealed;
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use envelope::{SecretBytes, SecretKey, Timestamp};
use hpke::aead::{AeadTag, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) type KeyId = [u8; 16];

/// A calendar month, UTC: what one key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    year: u16,
    month: u8,
}

/// Seals the personal fields of one period, in one process.
pub struct PeriodKey {
    id: KeyId,
    period: Period,
    key: SecretKey,
    cipher: Box<Aes256Gcm>,
    /// Of the next seal.
    counter: AtomicU64,
}

/// A period's key, sealed to the auditor. A file holds it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPeriodKey {
    key_id: KeyId,
    period: Period,
    encapsulated: [u8; 32],
    ciphertext: [u8; 32],
    tag: [u8; 16],
}

/// An auditor's X25519 private key. Stays with the auditor.
#[derive(Debug)]
pub struct AuditorSecret(SecretKey);

/// An auditor's X25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditorPublic([u8; 32]);

/// A period's key as the auditor gets it back: it opens, and does not seal.
pub struct ReadingKey {
    id: KeyId,
    period: Period,
    cipher: Box<Aes256Gcm>,
}

/// All that an auditor can read with.
#[derive(Debug, Default)]
pub struct PeriodKeys(BTreeMap<KeyId, ReadingKey>);

/// The key is another one, or the bytes were altered: nobody learns which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed key was rejected")]
pub struct Rejected;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

impl Period {
    pub fn of(at: Timestamp) -> Self {
        let mut days = at.unix_secs() / SECS_PER_DAY;
        let mut year = EPOCH_YEAR;
        while year < u16::MAX && days >= days_of(year) {
            days -= days_of(year);
            year += 1;
        }
        let february = if days_of(year) == 366 { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Self { year, month }
    }
}

/// `2026-11`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

fn days_of(year: u16) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

impl PeriodKey {
    /// A fresh key.
    pub fn generate(period: Period) -> Result<Self, NoRandomness> {
        let mut id = KeyId::default();
        getrandom::fill(&mut id).map_err(|_| NoRandomness)?;
        let key = SecretKey::try_init_with(|bytes| getrandom::fill(bytes).map_err(|_| NoRandomness))?;
        Ok(Self::new(id, period, key))
    }

    fn new(id: KeyId, period: Period, key: SecretKey) -> Self {
        let cipher = cipher(&key);
        Self { id, period, key, cipher, counter: AtomicU64::new(0) }
    }

    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    pub fn period(&self) -> Period {
        self.period
    }

    /// The copy for the auditor. Rejects a public key that gives no secret (RFC 9180 §7.1.4).
    pub fn sealed_to(&self, auditor: &AuditorPublic) -> Result<SealedPeriodKey, Rejected> {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&auditor.0).map_err(|_| Rejected)?;
        let head = head(self.period, &self.id);
        let mut key = SecretBytes::copy_from(self.key.expose());
        let (encapsulated, tag) = hpke::single_shot_seal_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            key.expose_mut().into(),
            &head,
        )
        .map_err(|_| Rejected)?;
        // sealed in place: no secret any more
        let ciphertext = key.expose().try_into().map_err(|_| Rejected)?;
        let (key_id, period) = (self.id, self.period);
        let (encapsulated, tag) = (encapsulated.to_bytes().into(), tag.to_bytes().into());
        Ok(SealedPeriodKey { key_id, period, encapsulated, ciphertext, tag })
    }

    /// Seals under a nonce that this key has not used; bound to the public part by its digest.
    pub(super) fn seal(&self, public_digest: &[u8; 32], personal: &[u8]) -> Result<Sealed, Malformed> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= SEALS_MAX {
            return Err(Malformed::KeyUsedUp);
        }
        let mut ciphertext = Vec::with_capacity(personal.len() + TAG_BYTES);
        ciphertext.extend_from_slice(personal);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(counter).into(), public_digest, ciphertext.as_mut_slice().into())
            .map_err(|_| Malformed::Length)?;
        ciphertext.extend_from_slice(&tag);
        Ok(Sealed { key_id: self.id, counter, ciphertext })
    }
}

impl fmt::Debug for PeriodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeriodKey({})", self.period)
    }
}

impl SealedPeriodKey {
    /// Names the key; every entry that it sealed carries the same.
    pub fn key_id(&self) -> &[u8; 16] {
        &self.key_id
    }

    pub fn period(&self) -> Period {
        self.period
    }

    pub fn to_bytes(&self) -> [u8; SEALED_PERIOD_KEY_BYTES] {
        let mut out = [0; SEALED_PERIOD_KEY_BYTES];
        let head = head(self.period, &self.key_id);
        let parts = [&head[..], &self.encapsulated, &self.ciphertext, &self.tag];
        out.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Rejected> {
        let mut rest = bytes;
        let parsed = (|| {
            taken::<4>(&mut rest).filter(|magic| magic == MAGIC)?;
            taken::<1>(&mut rest).filter(|version| *version == [VERSION])?;
            let (year, [month]) = (u16::from_be_bytes(taken(&mut rest)?), taken(&mut rest)?);
            Some(Self {
                period: Period { year, month },
                key_id: taken(&mut rest)?,
                encapsulated: taken(&mut rest)?,
                ciphertext: taken(&mut rest)?,
                tag: taken(&mut rest)?,
            })
        })();
        parsed.filter(|key| rest.is_empty() && (1..=12).contains(&key.period.month)).ok_or(Rejected)
    }
}

fn taken<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

/// Magic, version, period and key id: what the sealed key is bound to.
fn head(period: Period, key_id: &KeyId) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let year = period.year.to_be_bytes();
    let parts = [&MAGIC[..], &[VERSION], &year, &[period.month], key_id];
    head.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    head
}

impl AuditorSecret {
    pub fn generate() -> Result<Self, NoRandomness> {
        SecretKey::try_init_with(|bytes| getrandom::fill(bytes).map_err(|_| NoRandomness)).map(Self)
    }

    /// Any 32 bytes are a key (RFC 7748 §5).
    pub fn from_key(key: SecretKey) -> Self {
        Self(key)
    }

    /// For the auditor's key file, and nothing else.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    pub fn public(&self) -> Result<AuditorPublic, Rejected> {
        let public = X25519HkdfSha256::sk_to_pk(&self.private()?);
        let mut bytes = [0; 32];
        public.write_exact(&mut bytes);
        Ok(AuditorPublic(bytes))
    }

    /// The period's key, for reading.
    pub fn open(&self, sealed: &SealedPeriodKey) -> Result<ReadingKey, Rejected> {
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.encapsulated).map_err(|_| Rejected)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(&sealed.tag).map_err(|_| Rejected)?;
        let private = self.private()?;
        let key = SecretKey::try_init_with(|key| {
            key.copy_from_slice(&sealed.ciphertext);
            hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &private,
                &encapsulated,
                INFO,
                (&mut key[..]).into(),
                &head(sealed.period, &sealed.key_id),
                &tag,
            )
            .map_err(|_| Rejected)
        })?;
        Ok(ReadingKey { id: sealed.key_id, period: sealed.period, cipher: cipher(&key) })
    }

    fn private(&self) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey, Rejected> {
        Deserializable::from_bytes(self.0.expose()).map_err(|_| Rejected)
    }
}

impl AuditorPublic {
    /// Refuses points that give no secret (RFC 7748 §6.1), by sealing a key to them.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, Rejected> {
        let public = Self(bytes);
        let trial = PeriodKey::new([0; 16], Period { year: EPOCH_YEAR, month: 1 }, SecretKey::init_with(|_| {}));
        trial.sealed_to(&public).map(|_| public)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ReadingKey {
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    pub fn period(&self) -> Period {
        self.period
    }

    pub(super) fn open(&self, public_digest: &[u8; 32], sealed: &Sealed) -> Result<SecretBytes, Rejected> {
        let (ciphertext, tag) = sealed.ciphertext.split_last_chunk::<TAG_BYTES>().ok_or(Rejected)?;
        let mut personal = SecretBytes::copy_from(ciphertext);
        let nonce = nonce(sealed.counter).into();
        self.cipher
            .decrypt_inout_detached(&nonce, public_digest, personal.expose_mut().into(), tag.into())
            .map_err(|_| Rejected)?;
        Ok(personal)
    }
}

impl fmt::Debug for ReadingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadingKey({})", self.period)
    }
}

impl PeriodKeys {
    pub fn insert(&mut self, key: ReadingKey) {
        self.0.insert(key.id, key);
    }

    pub fn has(&self, id: &[u8; 16]) -> bool {
        self.0.contains_key(id)
    }

    pub(super) fn find(&self, id: &KeyId) -> Option<&ReadingKey> {
        self.0.get(id)
    }
}

fn cipher(key: &SecretKey) -> Box<Aes256Gcm> {
    Box::new(Aes256Gcm::new(key.expose().into()))
}

/// SP 800-38D §8.2.1: the fixed field is empty, because a key seals in one process only.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// A month does not reach it: that were a hundred million a second.
const SEALS_MAX: u64 = 1 << 48;
pub(super) const TAG_BYTES: usize = 16;

const MAGIC: &[u8; 4] = b"SRAK";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 24;
/// Of a [`SealedPeriodKey`]: magic 4, version 1, year 2, month 1, key id 16, encapsulated key 32, sealed key 32, tag 16.
const SEALED_PERIOD_KEY_BYTES: usize = 104;
const INFO: &[u8] = b"strongroom/audit/period-key/v1";

const SECS_PER_DAY: u64 = 86_400;
const EPOCH_YEAR: u16 = 1970;

#[cfg(test)]
mod tests;
