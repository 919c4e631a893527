//! The barrier: a store whose every value is sealed under the place where it lives.
//!
//! A value is sealed by suite 1, kind 3, under the keyring's current epoch. Header: key id 16 zero bytes, key version and
//! generation the epoch, domain id the cluster id. AAD, as canonical pairs: `cluster` (16 bytes), `epoch` (4 bytes,
//! big-endian), `path`, `tenant` (the path's first segment).
//!
//! Always: a value that was altered, moved or transplanted is [`BarrierError::Altered`], naming its path.
//! Always: closed, it holds no key; whatever needs one is [`BarrierError::Closed`], a read of what is not there too.
//! Never: freshness. A whole old row opens; the audit log finds it.

use crate::{AtLeast, Batch, CommitError, Entry, EntryPath, Revision, Storage, StorageError, VALUE_BYTES_MAX};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use envelope::context::canonical_pairs;
use envelope::sealed::{self, SUITE1_OVERHEAD_BYTES, Sealed};
use envelope::suite1::{self, SealingKey};
use envelope::{Header, Kind, SecretBytes, SecretKey, Suite, mac};
use getrandom::SysRng;
use rand_core::TryRng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest plaintext that the barrier seals.
pub const PLAINTEXT_BYTES_MAX: usize = VALUE_BYTES_MAX - SUITE1_OVERHEAD_BYTES;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Not what this cluster sealed for this place: truncated, altered, moved, or of another cluster.
    #[error("the stored value at {0} was altered or moved")]
    Altered(EntryPath),
    #[error("the stored value at {path} is of epoch {epoch}, which the keyring does not hold")]
    UnknownEpoch { path: EntryPath, epoch: u32 },
    #[error("the barrier keyring is malformed")]
    MalformedKeyring,
    #[error("the random generator failed")]
    Randomness,
    /// Its keys were dropped: [`Barrier::close`].
    #[error("the barrier is closed")]
    Closed,
}

/// The keys of the barrier by epoch, and the key of its keyed hashes. Stored sealed by the boundary (SYSTEM_SEAL).
#[derive(Debug)]
pub struct Keyring {
    /// Never empty: the last epoch is the current one.
    epochs: BTreeMap<u32, SecretKey>,
    epoch: u32,
    lookup: SecretKey,
}

impl Keyring {
    /// A new keyring with one epoch, 1.
    pub fn generate() -> Result<Self, BarrierError> {
        Ok(Self { epochs: BTreeMap::from([(1, random_key()?)]), epoch: 1, lookup: random_key()? })
    }

    /// Adds an epoch, which seals from now on. The older ones still open.
    pub fn advance(mut self) -> Result<Self, BarrierError> {
        let next = self.epoch.checked_add(1).filter(|_| self.epochs.len() < EPOCHS_MAX);
        self.epoch = next.ok_or(BarrierError::MalformedKeyring)?;
        self.epochs.insert(self.epoch, random_key()?);
        Ok(self)
    }

    /// The epoch that seals.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// `version u8 = 1 | lookup key 32 | count u32 | count × (epoch u32 | key 32)`, epochs ascending, the last is current.
    pub fn encode(&self) -> SecretBytes {
        let mut out = SecretBytes::init_with(PREFIX_BYTES + self.epochs.len() * EPOCH_BYTES, |_| ());
        let (prefix, rest) = out.expose_mut().split_at_mut(PREFIX_BYTES);
        prefix[0] = VERSION;
        prefix[1..33].copy_from_slice(self.lookup.expose());
        // EPOCHS_MAX bounds the count.
        prefix[33..].copy_from_slice(&u32::try_from(self.epochs.len()).unwrap_or(u32::MAX).to_be_bytes());
        for ((epoch, key), slot) in self.epochs.iter().zip(rest.chunks_exact_mut(EPOCH_BYTES)) {
            slot[..4].copy_from_slice(&epoch.to_be_bytes());
            slot[4..].copy_from_slice(key.expose());
        }
        out
    }

    pub fn decode(encoded: &SecretBytes) -> Result<Self, BarrierError> {
        Self::parse(encoded.expose()).ok_or(BarrierError::MalformedKeyring)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (lookup, rest) = rest.split_at_checked(32)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
        let sound = version == VERSION && (1..=EPOCHS_MAX).contains(&count) && rest.len() == count * EPOCH_BYTES;
        if !sound {
            return None;
        }
        let mut epochs = BTreeMap::new();
        let mut last = 0;
        for slot in rest.chunks_exact(EPOCH_BYTES) {
            let (epoch, key) = slot.split_first_chunk::<4>()?;
            let epoch = u32::from_be_bytes(*epoch);
            if epoch <= last {
                return None;
            }
            last = epoch;
            epochs.insert(epoch, SecretKey::from_slice(key)?);
        }
        Some(Self { epochs, epoch: last, lookup: SecretKey::from_slice(lookup)? })
    }
}

/// An opened value. Wiped on drop.
#[derive(Debug)]
pub struct Opened {
    pub value: SecretBytes,
    pub revision: Revision,
}

#[derive(Debug)]
pub struct OpenedPage {
    pub revision: Revision,
    pub entries: Vec<(EntryPath, Opened)>,
    /// More entries follow the last one.
    pub more: bool,
}

/// [`Storage`] behind encryption.
///
/// Always: an epoch that was added opens at once, and seals [`SETTLED_AFTER`] later, when every other node has heard of it.
/// Always: closed, its keys are wiped as soon as nobody is in the middle of using one.
pub struct Barrier {
    storage: Arc<dyn Storage>,
    cluster_id: [u8; 16],
    /// Read by every core, without a lock. `None`: closed.
    keys: ArcSwapOption<Keys>,
    /// Held by who changes them.
    changing: Mutex<()>,
    closed: watch::Sender<bool>,
}

struct Keys {
    lookup: SecretKey,
    /// Ascending, never empty.
    epochs: Vec<Arc<Epoch>>,
    /// The place of the one that seals until then; the last one seals afterwards.
    settles: Option<(usize, Instant)>,
}

struct Epoch {
    number: u32,
    key: SecretKey,
    sealing: SealingKey,
}

impl Keys {
    fn new(keyring: Keyring) -> Self {
        let epochs = keyring.epochs.into_iter().map(|(number, key)| Arc::new(Epoch::new(number, key))).collect();
        Self { lookup: keyring.lookup, epochs, settles: None }
    }

    fn numbered(&self, number: u32) -> Option<&Epoch> {
        self.epochs.iter().rev().find(|epoch| epoch.number == number).map(|epoch| &**epoch)
    }

    /// The one that seals now.
    fn current(&self) -> Option<&Arc<Epoch>> {
        match self.settles {
            Some((place, at)) if Instant::now() < at => self.epochs.get(place),
            Some(_) | None => self.epochs.last(),
        }
    }

    /// With the epochs of `keyring` that are not known yet; `None` where it brings none. It must hold all that are, and go on
    /// from there.
    fn with(&self, keyring: Keyring) -> Result<Option<Self>, BarrierError> {
        let mut theirs = keyring.epochs.into_iter();
        let mut same = mac::equal(self.lookup.expose(), keyring.lookup.expose());
        for epoch in &self.epochs {
            match theirs.next() {
                Some((number, key)) => same &= number == epoch.number && mac::equal(key.expose(), epoch.key.expose()),
                // an older one
                None => return if same { Ok(None) } else { Err(BarrierError::MalformedKeyring) },
            }
        }
        if !same {
            return Err(BarrierError::MalformedKeyring);
        }
        let mut epochs = self.epochs.clone();
        epochs.extend(theirs.map(|(number, key)| Arc::new(Epoch::new(number, key))));
        if epochs.len() == self.epochs.len() {
            return Ok(None);
        }
        let seals = self.current().map_or(0, |current| current.number);
        let place = epochs.iter().position(|epoch| epoch.number == seals).unwrap_or_default();
        Ok(Some(Self { lookup: keyring.lookup, epochs, settles: Some((place, Instant::now() + SETTLED_AFTER)) }))
    }
}

impl Barrier {
    pub fn new(storage: Arc<dyn Storage>, cluster_id: [u8; 16], keyring: Keyring) -> Self {
        let keys = ArcSwapOption::from_pointee(Keys::new(keyring));
        Self { storage, cluster_id, keys, changing: Mutex::default(), closed: watch::Sender::new(false) }
    }

    /// A copy of all keys: to be advanced, and sealed by the boundary.
    pub fn keyring(&self) -> Result<Keyring, BarrierError> {
        let copy = |key: &SecretKey| SecretKey::from_slice(key.expose()).ok_or(BarrierError::MalformedKeyring);
        let keys = self.keys()?;
        let epochs = keys.epochs.iter().map(|epoch| Ok((epoch.number, copy(&epoch.key)?)));
        let epochs = epochs.collect::<Result<BTreeMap<_, _>, BarrierError>>()?;
        let epoch = keys.epochs.last().map_or(0, |epoch| epoch.number);
        Ok(Keyring { epochs, epoch, lookup: copy(&keys.lookup)? })
    }

    /// Adds the epochs of `keyring` that are not known yet. It must hold all that are, and go on from there; one that is older
    /// than what is known is passed over. A closed barrier stays closed.
    pub fn install(&self, keyring: Keyring) -> Result<(), BarrierError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(known) = self.keys() else { return Ok(()) };
        if let Some(keys) = known.with(keyring)? {
            self.keys.store(Some(Arc::new(keys)));
        }
        Ok(())
    }

    /// Drops all keys: nothing opens or is sealed any more, until [`Self::reopen`].
    pub fn close(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.store(None);
        self.closed.send_replace(true);
    }

    /// Takes keys again, where it is closed: those of the store, which the boundary opened anew.
    pub fn reopen(&self, keyring: Keyring) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            self.keys.store(Some(Arc::new(Keys::new(keyring))));
            self.closed.send_replace(false);
        }
    }

    pub fn is_closed(&self) -> bool {
        self.keys.load().is_none()
    }

    /// Whether it is closed, as it changes.
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    fn keys(&self) -> Result<Arc<Keys>, BarrierError> {
        self.keys.load_full().ok_or(BarrierError::Closed)
    }

    /// What lies below: for the unsealed `boot` entry, watches, claims and backups.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub fn cluster_id(&self) -> &[u8; 16] {
        &self.cluster_id
    }

    /// The last epoch: it seals, or will in a moment. 0 where the barrier is closed.
    pub fn epoch(&self) -> u32 {
        let keys = self.keys.load();
        keys.as_ref().and_then(|keys| keys.epochs.last()).map_or(0, |epoch| epoch.number)
    }

    /// The epoch that seals now, and how many are known before it; `None` where the barrier is closed.
    pub fn sealing(&self) -> Option<(u32, usize)> {
        let keys = self.keys.load();
        let keys = keys.as_ref()?;
        let current = keys.current()?.number;
        Some((current, keys.epochs.iter().filter(|epoch| epoch.number < current).count()))
    }

    /// Whether a value of this epoch may vouch for itself, with no entry of the store beside it: only of the one that seals,
    /// or will in a moment. Who stole a keyring makes no more of them once it has been rotated.
    pub fn vouches(&self, epoch: u32) -> bool {
        let keys = self.keys.load();
        keys.as_ref().and_then(|keys| keys.current()).is_some_and(|current| epoch >= current.number)
    }

    fn is_open(&self) -> Result<(), BarrierError> {
        if self.is_closed() { Err(BarrierError::Closed) } else { Ok(()) }
    }

    /// One value that does not open fails the whole read.
    pub async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Opened>>), BarrierError> {
        let (revision, entries) = self.storage.get(paths, at).await?;
        self.is_open()?;
        let open = || {
            let opened = paths.iter().zip(&entries).map(|(path, entry)| {
                let open =
                    |entry: &Entry| Ok(Opened { value: self.open(path, &entry.value)?, revision: entry.revision });
                entry.as_ref().map(open).transpose()
            });
            opened.collect::<Result<_, BarrierError>>()
        };
        Ok((revision, self.opened(open).await?))
    }

    /// Opens, once more when an epoch was heard of that was not known.
    async fn opened<T>(&self, open: impl Fn() -> Result<T, BarrierError>) -> Result<T, BarrierError> {
        let mut outcome = open();
        for _ in 0..HEARD_WITHIN {
            if !matches!(outcome, Err(BarrierError::UnknownEpoch { .. })) {
                break;
            }
            tokio::time::sleep(LISTENS_EVERY).await;
            outcome = open();
        }
        outcome
    }

    /// See [`Storage::scan`]. One value that does not open fails the whole page.
    pub async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<OpenedPage, BarrierError> {
        let page = self.storage.scan(prefix, after, limit, at).await?;
        self.is_open()?;
        let open = || {
            let opened = page.entries.iter().map(|(path, entry)| {
                let value = self.open(path, &entry.value)?;
                Ok((path.clone(), Opened { value, revision: entry.revision }))
            });
            opened.collect::<Result<_, BarrierError>>()
        };
        let entries = self.opened(open).await?;
        Ok(OpenedPage { revision: page.revision, entries, more: page.more })
    }

    /// The value as it may be put at `path`, and only there.
    pub fn seal(&self, path: &EntryPath, value: &[u8]) -> Result<Bytes, BarrierError> {
        if value.len() > PLAINTEXT_BYTES_MAX {
            return Err(StorageError::TooLarge.into());
        }
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(BarrierError::Closed)?;
        let current = keys.current().ok_or(BarrierError::MalformedKeyring)?;
        let (epoch, key) = (current.number, &current.sealing);
        let random = self.random::<28>()?;
        let (n, iv) = random.split_first_chunk::<16>().ok_or(BarrierError::Randomness)?;
        let iv = iv.first_chunk::<12>().ok_or(BarrierError::Randomness)?;
        Ok(suite1::seal(key, &self.header(epoch), n, iv, &self.aad_digest(path, epoch), value).into())
    }

    /// Under which epoch a stored value is sealed; `None` where it is no value of the barrier's. It is not opened.
    pub fn epoch_of(&self, value: &[u8]) -> Option<u32> {
        sealed::parse_barrier(value).ok().map(|sealed| sealed.header.generation)
    }

    /// Opens what [`Self::seal`] made for `path`.
    pub fn open(&self, path: &EntryPath, value: &[u8]) -> Result<SecretBytes, BarrierError> {
        let altered = || BarrierError::Altered(path.clone());
        let sealed: Sealed<'_> = sealed::parse_barrier(value).map_err(|_| altered())?;
        let epoch = sealed.header.generation;
        if sealed.header != self.header(epoch) {
            return Err(altered());
        }
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(BarrierError::Closed)?;
        let key = keys.numbered(epoch).ok_or_else(|| BarrierError::UnknownEpoch { path: path.clone(), epoch })?;
        suite1::open(&key.sealing, &sealed, &self.aad_digest(path, epoch)).map_err(|_| altered())
    }

    /// As [`Storage::commit`]; an unknown outcome is resolved by the batch's id, a few times.
    pub async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        if self.is_closed() {
            return Err(StorageError::Unavailable.into());
        }
        let mut outcome = self.storage.commit(batch.clone()).await;
        for pause in PAUSES {
            if outcome != Err(CommitError::Unknown) {
                break;
            }
            tokio::time::sleep(pause).await;
            outcome = match self.storage.committed(batch.id).await {
                Ok(Some(revision)) => Ok(revision),
                // Not durable when asked. The store knows the id once it is: the batch cannot count twice.
                Ok(None) => self.storage.commit(batch.clone()).await,
                Err(_) => Err(CommitError::Unknown),
            };
        }
        outcome
    }

    /// HMAC-SHA-256 under the keyring's lookup key: what stands in storage for a name that users choose.
    pub fn keyed_hash(&self, label: &[u8], value: &[u8]) -> Result<[u8; 32], BarrierError> {
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(BarrierError::Closed)?;
        Ok(mac::hmac_sha256(&keys.lookup, &[&(label.len() as u64).to_be_bytes(), label, value]))
    }

    /// Fresh random bytes, of the operating system.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], BarrierError> {
        let mut out = [0; N];
        SysRng.try_fill_bytes(&mut out).map_err(|_| BarrierError::Randomness)?;
        Ok(out)
    }

    fn header(&self, epoch: u32) -> Header {
        Header {
            kind: Kind::BarrierValue,
            suite: Suite::KdfCommitGcm,
            key_id: [0; 16],
            key_version: epoch,
            domain_id: self.cluster_id,
            generation: epoch,
        }
    }

    fn aad_digest(&self, path: &EntryPath, epoch: u32) -> [u8; 32] {
        let tenant = path.segments().next().unwrap_or_default();
        let pairs: [(&[u8], &[u8]); 4] = [
            (b"cluster", &self.cluster_id),
            (b"epoch", &epoch.to_be_bytes()),
            (b"path", path.as_str().as_bytes()),
            (b"tenant", tenant.as_bytes()),
        ];
        mac::sha256(&canonical_pairs(pairs.into_iter()))
    }
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Barrier")
            .field("epoch", &self.epoch())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Epoch {
    fn new(number: u32, key: SecretKey) -> Self {
        Self { number, sealing: SealingKey::new(&key), key }
    }
}

fn random_key() -> Result<SecretKey, BarrierError> {
    SecretKey::try_init_with(|key| SysRng.try_fill_bytes(key).map_err(|_| BarrierError::Randomness))
}

const VERSION: u8 = 1;
const PREFIX_BYTES: usize = 1 + 32 + 4;
const EPOCH_BYTES: usize = 4 + 32;
/// Other nodes hear of a change within two seconds.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How often an epoch that is not known yet is waited for, and for how long each time: three seconds.
const HEARD_WITHIN: usize = 60;
const LISTENS_EVERY: Duration = Duration::from_millis(50);
/// Keeps the keyring far below what the boundary seals at once.
const EPOCHS_MAX: usize = 256;
const PAUSES: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];

#[cfg(test)]
mod tests;
