//! What the module remembers over a restart, and the sealed file that it stands in.
//!
//! ```text
//! clear header (56)  magic "SRSIMKEY" | format u16 = 1 | unlock kind u8 | 0 u8 | body length u32
//!                    | passphrase salt 16 | HKDF salt 16 | writes u64                    integers big-endian
//! body               a sealed value of suite 1 under HKDF-SHA-256(unlock key, HKDF salt, "strongroom hsm-sim state v1"),
//!                    kind 3 (a key of its own keeps it apart from every other value), AAD: SHA-256 of the clear header
//! check              SHA-256 of all before it: tells damage from a wrong unlock secret, and protects nothing else
//! ```
//!
//! Always: each write has a fresh salt, N and IV, and `writes` one higher.
//! Never: a parser that guesses; what does not fit exactly is damaged.
//!
//! `writes` lets two copies of one module's file be told apart. Bringing an old copy of the whole folder back is not
//! found here; the server sees the boot epoch fall.

use crate::random::{self, EntropyFault};
use crate::root::RootKeys;
use crate::unlock::UnlockKind;
use envelope::mac::{equal, sha256};
use envelope::sealed::{Header, Kind, SUITE1_OVERHEAD_BYTES, Suite, parse_barrier};
use envelope::suite1::{self, SealingKey};
use envelope::{SecretBytes, kdf};
use hsm_api::TenantId;
use hsm_api::message::ORIGIN_BYTES_MAX;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Most clusters that a module knows.
pub(crate) const CLUSTERS_MAX: usize = 16;
/// Most logs whose last checkpoint a module remembers.
pub(crate) const ORIGINS_MAX: usize = 64;

/// All of the durable state that is not a root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) module_id: [u8; 16],
    pub(crate) boot_epoch: u64,
    /// Rises by one with each write of the file.
    pub(crate) writes: u64,
    pub(crate) backup_made: bool,
    pub(crate) domain: Domain,
}

/// The part that a backup carries too, beside the domain keys themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) id: [u8; 16],
    pub(crate) clusters: Vec<TenantId>,
    pub(crate) checkpoints: BTreeMap<String, Checkpoint>,
}

/// The last checkpoint signed for an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) size: u64,
    pub(crate) root: [u8; 32],
}

/// Why a state file does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateFileFault {
    #[error("the state file is damaged")]
    Damaged,
    #[error("the state file is of a format that this version does not know")]
    Format,
    #[error("the state file was sealed under another unlock secret")]
    WrongUnlock,
    #[error("the state file cannot be read or written")]
    Io,
}

/// The clear header of a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClearHeader {
    pub(crate) unlock_kind: UnlockKind,
    pub(crate) passphrase_salt: [u8; 16],
    hkdf_salt: [u8; 16],
    writes: u64,
    body_len: u32,
}

impl ClearHeader {
    /// Checks the whole file's frame: magic, format, lengths, check.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, StateFileFault> {
        let (covered, check) = file.split_last_chunk::<32>().ok_or(StateFileFault::Damaged)?;
        let header = covered.first_chunk::<CLEAR_BYTES>().ok_or(StateFileFault::Damaged)?;
        if !header.starts_with(MAGIC) || !equal(&sha256(covered), check) {
            return Err(StateFileFault::Damaged);
        }
        let mut r = Cursor(&header[MAGIC.len()..]);
        if r.array().map(u16::from_be_bytes) != Some(FORMAT) {
            return Err(StateFileFault::Format);
        }
        let fields = (|| {
            let unlock_kind = UnlockKind::from_code(r.u8()?)?;
            let reserved = r.u8()?;
            let body_len = u32::from_be_bytes(r.array()?);
            let header = Self {
                unlock_kind,
                body_len,
                passphrase_salt: r.array()?,
                hkdf_salt: r.array()?,
                writes: u64::from_be_bytes(r.array()?),
            };
            let fits = usize::try_from(body_len).ok()? == covered.len() - CLEAR_BYTES;
            (reserved == 0 && fits).then_some(header)
        })();
        fields.ok_or(StateFileFault::Damaged)
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CLEAR_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&[self.unlock_kind as u8, 0]);
        out.extend_from_slice(&self.body_len.to_be_bytes());
        out.extend_from_slice(&self.passphrase_salt);
        out.extend_from_slice(&self.hkdf_salt);
        out.extend_from_slice(&self.writes.to_be_bytes());
        out
    }
}

impl Record {
    /// The file that holds this record and `root`'s keys.
    pub(crate) fn seal(
        &self,
        root: &RootKeys,
        unlock_key: &[u8],
        unlock_kind: UnlockKind,
        passphrase_salt: [u8; 16],
    ) -> Result<Vec<u8>, EntropyFault> {
        let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX));
        body.extend_from_slice(&self.module_id);
        body.extend_from_slice(root.identity_seed());
        body.extend_from_slice(&self.boot_epoch.to_be_bytes());
        body.extend_from_slice(&self.writes.to_be_bytes());
        body.push(u8::from(self.backup_made));
        self.domain.encode(root, &mut body);
        let body_len = u32::try_from(body.len() + SUITE1_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let hkdf_salt = random::array()?;
        let clear = ClearHeader { unlock_kind, passphrase_salt, hkdf_salt, writes: self.writes, body_len }.to_bytes();
        let key = SealingKey::new(&kdf::hkdf_sha256(unlock_key, &hkdf_salt, STATE_INFO));
        let (n, iv) = (random::array()?, random::array()?);
        let mut out = clear;
        let sealed = suite1::seal(&key, &BODY_HEADER, &n, &iv, &sha256(&out), &body);
        out.extend_from_slice(&sealed);
        let check = sha256(&out);
        out.extend_from_slice(&check);
        Ok(out)
    }

    /// Reads a file back; the keys go into `root`.
    pub(crate) fn open(file: &[u8], unlock_key: &[u8], root: &mut RootKeys) -> Result<Self, StateFileFault> {
        let header = ClearHeader::parse(file)?;
        let (clear, rest) = file.split_at(CLEAR_BYTES);
        let sealed = parse_barrier(&rest[..rest.len() - 32]).map_err(|_| StateFileFault::Damaged)?;
        if sealed.header != BODY_HEADER {
            return Err(StateFileFault::Damaged);
        }
        let key = SealingKey::new(&kdf::hkdf_sha256(unlock_key, &header.hkdf_salt, STATE_INFO));
        let body = suite1::open(&key, &sealed, &sha256(clear)).map_err(|_| StateFileFault::WrongUnlock)?;
        let record = Self::decode(&body, root).filter(|record| record.writes == header.writes);
        record.ok_or_else(|| {
            root.zeroise();
            StateFileFault::Damaged
        })
    }

    fn decode(body: &SecretBytes, root: &mut RootKeys) -> Option<Self> {
        let mut r = Cursor(body.expose());
        let module_id = r.array()?;
        root.set_identity_seed(r.take(32)?.first_chunk()?);
        let record = Self {
            module_id,
            boot_epoch: u64::from_be_bytes(r.array()?),
            writes: u64::from_be_bytes(r.array()?),
            backup_made: r.flag()?,
            domain: Domain::decode(&mut r, root)?,
        };
        r.0.is_empty().then_some(record)
    }
}

impl Domain {
    pub(crate) fn new(id: [u8; 16]) -> Self {
        Self { id, clusters: Vec::new(), checkpoints: BTreeMap::new() }
    }

    /// The domain with its keys: as it stands in the state file and in a backup.
    pub(crate) fn encode(&self, root: &RootKeys, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id);
        let keys = root.domain_keys();
        out.push(count(keys.len()));
        keys.for_each(|key| out.extend_from_slice(key));
        out.push(count(self.clusters.len()));
        self.clusters.iter().for_each(|cluster| out.extend_from_slice(cluster));
        out.push(count(self.checkpoints.len()));
        for (origin, checkpoint) in &self.checkpoints {
            out.push(count(origin.len()));
            out.extend_from_slice(origin.as_bytes());
            out.extend_from_slice(&checkpoint.size.to_be_bytes());
            out.extend_from_slice(&checkpoint.root);
        }
    }

    /// Reads what [`Self::encode`] wrote; the keys go into `root`, which holds none before.
    pub(crate) fn decode(r: &mut Cursor<'_>, root: &mut RootKeys) -> Option<Self> {
        let mut domain = Self::new(r.array()?);
        for _ in 0..r.u8().filter(|count| *count > 0)? {
            root.push_domain_key(r.take(32)?.first_chunk()?).then_some(())?;
        }
        for _ in 0..r.u8().filter(|count| usize::from(*count) <= CLUSTERS_MAX)? {
            domain.clusters.push(r.array()?);
        }
        for _ in 0..r.u8().filter(|count| usize::from(*count) <= ORIGINS_MAX)? {
            let len = usize::from(r.u8()?);
            let origin = std::str::from_utf8(r.take(len)?).ok()?.to_owned();
            let checkpoint = Checkpoint { size: u64::from_be_bytes(r.array()?), root: r.array()? };
            domain.checkpoints.insert(origin, checkpoint).is_none().then_some(())?;
        }
        Some(domain)
    }
}

/// Reads fields; `None` where they are cut short.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Lists here hold at most 126, 16 and 64 items, origins 255 bytes.
fn count(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

const MAGIC: &[u8; 8] = b"SRSIMKEY";
const FORMAT: u16 = 1;
const CLEAR_BYTES: usize = 56;
const STATE_INFO: &[u8] = b"strongroom hsm-sim state v1";
/// Capacity that the body never outgrows, so that no copy of it is left behind in memory.
pub(crate) const BODY_BYTES_MAX: usize = 128 + 128 * 32 + CLUSTERS_MAX * 16 + ORIGINS_MAX * (1 + ORIGIN_BYTES_MAX + 40);
const BODY_HEADER: Header = Header {
    kind: Kind::BarrierValue,
    suite: Suite::KdfCommitGcm,
    key_id: *b"hsm-sim state v1",
    key_version: 1,
    domain_id: [0; 16],
    generation: 0,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::SecretPage;

    fn root() -> RootKeys {
        RootKeys::new(SecretPage::ordinary().unwrap())
    }

    fn filled() -> (Record, RootKeys) {
        let mut root = root();
        root.generate_identity().unwrap();
        root.generate_domain_key().unwrap();
        root.generate_domain_key().unwrap();
        let checkpoints = [("log.example/a".to_owned(), Checkpoint { size: 7, root: [8; 32] })].into();
        let domain = Domain { id: [3; 16], clusters: vec![[4; 16], [5; 16]], checkpoints };
        (Record { module_id: [1; 16], boot_epoch: 2, writes: 9, backup_made: true, domain }, root)
    }

    #[test]
    fn what_was_sealed_opens_again_with_its_keys() {
        let (record, keys) = filled();
        let file = record.seal(&keys, &[7; 32], UnlockKind::Secret, [0; 16]).unwrap();
        let mut read = root();
        assert_eq!(Record::open(&file, &[7; 32], &mut read), Ok(record));
        assert!(read.domain_keys().eq(keys.domain_keys()) && read.identity_seed() == keys.identity_seed());
    }

    #[test]
    fn the_fullest_record_stays_within_its_capacity() {
        let (mut record, mut keys) = filled();
        while keys.generate_domain_key().unwrap() {}
        record.domain.clusters = vec![[1; 16]; CLUSTERS_MAX];
        record.domain.checkpoints =
            (0..ORIGINS_MAX).map(|i| (format!("{i:0>255}"), Checkpoint { size: 1, root: [1; 32] })).collect();
        let file = record.seal(&keys, &[7; 32], UnlockKind::Secret, [0; 16]).unwrap();
        assert!(file.len() < CLEAR_BYTES + 32 + SUITE1_OVERHEAD_BYTES + BODY_BYTES_MAX, "{}", file.len());
        assert_eq!(Record::open(&file, &[7; 32], &mut root()), Ok(record));
    }

    #[test]
    fn damage_and_a_wrong_unlock_secret_have_names_of_their_own() {
        let (record, keys) = filled();
        let file = record.seal(&keys, &[7; 32], UnlockKind::Secret, [0; 16]).unwrap();
        assert_eq!(Record::open(&file, &[8; 32], &mut root()), Err(StateFileFault::WrongUnlock));
        for len in 0..file.len() {
            assert_eq!(Record::open(&file[..len], &[7; 32], &mut root()), Err(StateFileFault::Damaged), "{len}");
        }
        for byte in 0..file.len() {
            let mut altered = file.clone();
            altered[byte] ^= 1;
            assert_eq!(Record::open(&altered, &[7; 32], &mut root()), Err(StateFileFault::Damaged), "{byte}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert_eq!(Record::open(&longer, &[7; 32], &mut root()), Err(StateFileFault::Damaged));
    }

    #[test]
    fn who_repairs_the_check_still_cannot_alter_a_byte() {
        let (record, keys) = filled();
        let file = record.seal(&keys, &[7; 32], UnlockKind::Secret, [0; 16]).unwrap();
        for byte in 0..file.len() - 32 {
            let mut altered = file[..file.len() - 32].to_vec();
            altered[byte] ^= 1;
            let check = sha256(&altered);
            altered.extend_from_slice(&check);
            let mut keys = root();
            assert!(Record::open(&altered, &[7; 32], &mut keys).is_err(), "{byte}");
            assert_eq!(keys.generation(), 0, "{byte}");
        }
    }
}
