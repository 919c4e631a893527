//! Bootstrap: from the one unsealed entry and the boundary to an open barrier (design §4). That *is* auto-unseal.
//!
//! ```text
//! boot      "SRBOOT" | version u8 = 1 | cluster id 16 | domain id 16 | token length u16 | SYSTEM_SEAL key token
//!           | keyring length u32 | barrier keyring, sealed (AAD: cluster, epoch)                  integers big-endian
//! intent    "SRINIT" | version u8 = 1 | cluster id 16          there while a first start is under way, and after a
//!                                                               crash in the middle of one
//! sealed    <cluster>/sentinel, <cluster>/core
//! ```
//!
//! Always: the sentinel opened before anything is served.
//! Never: a store that is initialised again; anything written where the boundary is not the store's own.

mod rotation;

pub use rotation::follow_keyring;

use bytes::Bytes;
use envelope::context::canonical_pairs;
use envelope::{Timestamp, mac, sealed};
use hsm_api::{
    Boundary, HsmError, KeySpec, KeyToken, KeyUsage, ModuleState, ModuleStatus, NewKey, Reply, Request, TenantId, ask,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use storage::{
    AtLeast, Barrier, BarrierError, Batch, CommitError, CommitId, EntryPath, Keyring, Revision, Storage, StorageError,
};

/// Why the store was not opened. Each is fatal but [`BootError::Boundary`] and [`BootError::Storage`] where they are
/// transient.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the boundary is in state {0:?}, not operational: initialise or unlock it first")]
    NotOperational(ModuleState),
    #[error(
        "the store belongs to domain {store}, the boundary holds domain {boundary}: connect the right boundary, or restore its backup"
    )]
    WrongBoundary { store: String, boundary: String },
    #[error("the store holds data and no `boot` entry: it is damaged, restore a backup")]
    BootMissing,
    #[error("the store is empty, but the boundary is bound to cluster {0}: restore that store, or take a new boundary")]
    BoundElsewhere(String),
    #[error("the `boot` entry is malformed or altered")]
    BootAltered,
    #[error("the boundary offers no protection level for its SYSTEM_SEAL key")]
    NoLevel,
    #[error("the store's `{0}` entry is missing or was altered")]
    SystemEntry(&'static str),
    #[error("the boundary failed: {0}")]
    Boundary(#[from] HsmError),
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl BootError {
    /// Trying again may help: the boundary or the store was away.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotOperational(state) => !matches!(state, ModuleState::Error),
            Self::Boundary(error) => error.is_transient(),
            Self::Storage(error) | Self::Barrier(BarrierError::Storage(error)) => {
                matches!(error, StorageError::Unavailable)
            }
            // another node initialises too: look again
            Self::Commit(CommitError::Conflict(_) | CommitError::Unknown) => true,
            Self::Commit(CommitError::Storage(error)) => matches!(error, StorageError::Unavailable),
            Self::WrongBoundary { .. }
            | Self::BootMissing
            | Self::BoundElsewhere(_)
            | Self::BootAltered
            | Self::NoLevel
            | Self::SystemEntry(_)
            | Self::Barrier(_) => false,
        }
    }
}

/// What the cluster knows of itself; sealed at `<cluster>/core`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    format: u32,
    /// 32 hexadecimal digits.
    tenant: String,
    /// Rises when the store is restored; tokens of older generations are void.
    pub generation: u64,
    pub created_millis: u64,
    /// The root token of this generation was made.
    pub root_token_made: bool,
    /// The node that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_token_by: Option<String>,
    /// Since an operator acknowledged that store and audit log disagree: leases of older generations are void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leases_void_below: Option<u64>,
}

/// Who makes the root token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is made.
    Done,
    Ours,
    /// Another node is at it.
    Theirs,
}

/// An opened store.
#[derive(Debug)]
pub struct Cluster {
    pub barrier: Arc<Barrier>,
    pub tenant: TenantId,
    core: Core,
    revision: Revision,
}

/// Opens the store with the boundary's help; initialises it where it is empty.
pub async fn open(storage: Arc<dyn Storage>, boundary: &dyn Boundary, now: Timestamp) -> Result<Cluster, BootError> {
    let status = ask!(boundary, Request::Status => Reply::Status).await?;
    if status.state != ModuleState::Operational {
        return Err(BootError::NotOperational(status.state));
    }
    let (revision, entries) = storage.get(&[path("boot")?, path("boot-intent")?], AtLeast::Latest).await?;
    let [boot, intent] = <[_; 2]>::try_from(entries).map_err(|_| StorageError::Damaged("get"))?;
    match (boot, intent) {
        (Some(boot), _) => reopen(storage, boundary, &status, &boot.value).await,
        (None, Some(intent)) => {
            let cluster = parse_intent(&intent.value).ok_or(BootError::BootAltered)?;
            unbound(&status, Some(&cluster))?;
            initialise(storage, boundary, &status, (cluster, intent.revision), now).await
        }
        (None, None) if revision != Revision(0) => Err(BootError::BootMissing),
        (None, None) => {
            unbound(&status, None)?;
            let cluster = random(boundary).await?;
            let intent = Batch::new(CommitId(random(boundary).await?))
                .absent(path("boot-intent")?)
                .put(path("boot-intent")?, [INTENT_MAGIC, &cluster].concat());
            let revision = storage.commit(intent).await?;
            initialise(storage, boundary, &status, (cluster, revision), now).await
        }
    }
}

impl Core {
    /// Leases of generations below it are void.
    pub fn leases_void_below(&self) -> u64 {
        self.leases_void_below.unwrap_or(0)
    }
}

impl Cluster {
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Who makes the root token of this generation: asked again while another node does. `take` takes that one's place, where
    /// it does not get it done.
    pub async fn root_token_turn(&mut self, node: &str, take: bool) -> Result<Turn, BootError> {
        (self.core, _, self.revision) = read_core(&self.barrier).await?;
        match &self.core.root_token_by {
            _ if self.core.root_token_made => Ok(Turn::Done),
            Some(by) if by == node => Ok(Turn::Ours),
            Some(_) if !take => Ok(Turn::Theirs),
            Some(_) | None => {
                match self.write(Core { root_token_by: Some(node.to_owned()), ..self.core.clone() }).await {
                    Ok(()) => Ok(Turn::Ours),
                    // another node was quicker
                    Err(error) if error.is_transient() => Ok(Turn::Theirs),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Notes that the root token of this generation exists.
    pub async fn root_token_made(&mut self) -> Result<(), BootError> {
        self.write(Core { root_token_made: true, root_token_by: None, ..self.core.clone() }).await
    }

    /// A new generation, after a restore: every older token is void, the root token is made anew. So is every older lease
    /// where an operator has `acknowledged` that store and audit log disagree; a copy that is only tried out leaves them alone.
    pub async fn raise_generation(&mut self, acknowledged: bool) -> Result<(), BootError> {
        let generation = self.core.generation.saturating_add(1);
        let leases_void_below = if acknowledged { Some(generation) } else { self.core.leases_void_below };
        let core = Core { generation, leases_void_below, ..self.core.clone() };
        self.write(Core { root_token_made: false, root_token_by: None, ..core }).await
    }

    async fn write(&mut self, core: Core) -> Result<(), BootError> {
        let at = path(&format!("{}/core", hex(self.barrier.cluster_id())))?;
        let batch = Batch::new(CommitId(self.barrier.random()?))
            .revision_is(at.clone(), self.revision)
            .put(at.clone(), self.barrier.seal(&at, &encode(&core))?);
        self.revision = self.barrier.commit(batch).await?;
        self.core = core;
        Ok(())
    }
}

/// The boundary knows no cluster but `own`: an empty store beside a bound boundary is a lost store.
fn unbound(status: &ModuleStatus, own: Option<&TenantId>) -> Result<(), BootError> {
    match status.clusters.iter().find(|cluster| Some(*cluster) != own) {
        Some(other) => Err(BootError::BoundElsewhere(hex(other))),
        None => Ok(()),
    }
}

async fn initialise(
    storage: Arc<dyn Storage>,
    boundary: &dyn Boundary,
    status: &ModuleStatus,
    (cluster, intent): (TenantId, Revision),
    now: Timestamp,
) -> Result<Cluster, BootError> {
    let level = *status.capabilities.levels.first().ok_or(BootError::NoLevel)?;
    let new = NewKey {
        key_id: None,
        version: 1,
        tenant: cluster,
        spec: KeySpec::Aes256,
        usage: KeyUsage::SystemSeal,
        level,
        not_after: None,
    };
    let token = ask!(boundary, Request::GenerateKey(new) => Reply::Key).await?.token;
    let keyring = Keyring::generate()?;
    let epoch = keyring.epoch();
    let (aad_digest, plaintext) = (aad_digest(&cluster, epoch), keyring.encode());
    let seal = Request::SystemSeal { key: token.clone(), epoch, aad_digest, plaintext };
    let sealed = ask!(boundary, seal => Reply::Blob).await?;
    let boot = Boot { cluster, domain: status.domain_id, token, keyring: sealed };

    let barrier = Arc::new(Barrier::new(storage, cluster, keyring));
    let tenant: TenantId = random(boundary).await?;
    let core = Core {
        format: 1,
        tenant: hex(&tenant),
        generation: 1,
        created_millis: now.unix_millis(),
        root_token_made: false,
        root_token_by: None,
        leases_void_below: None,
    };
    let (sentinel_at, core_at) = system_paths(&cluster)?;
    let batch = Batch::new(CommitId(barrier.random()?))
        .absent(path("boot")?)
        .revision_is(path("boot-intent")?, intent)
        .put(path("boot")?, boot.encode()?)
        .delete(path("boot-intent")?)
        .put(sentinel_at.clone(), barrier.seal(&sentinel_at, SENTINEL)?)
        .put(core_at.clone(), barrier.seal(&core_at, &encode(&core))?);
    let revision = barrier.commit(batch).await?;
    Ok(Cluster { barrier, tenant, core, revision })
}

async fn reopen(
    storage: Arc<dyn Storage>,
    boundary: &dyn Boundary,
    status: &ModuleStatus,
    boot: &[u8],
) -> Result<Cluster, BootError> {
    let boot = Boot::parse(boot).ok_or(BootError::BootAltered)?;
    if boot.domain != status.domain_id {
        return Err(BootError::WrongBoundary { store: hex(&boot.domain), boundary: hex(&status.domain_id) });
    }
    let keyring = opened_keyring(boundary, &boot).await?;
    let barrier = Arc::new(Barrier::new(storage, boot.cluster, keyring));
    let (core, tenant, revision) = read_core(&barrier).await?;
    Ok(Cluster { barrier, tenant, core, revision })
}

/// As it stands now, if the sentinel opens.
async fn read_core(barrier: &Barrier) -> Result<(Core, TenantId, Revision), BootError> {
    let (sentinel_at, core_at) = system_paths(barrier.cluster_id())?;
    let (_, entries) = barrier.get(&[sentinel_at, core_at], AtLeast::Latest).await?;
    let mut entries = entries.into_iter().flatten();
    let (Some(sentinel), Some(opened)) = (entries.next(), entries.next()) else {
        return Err(BootError::SystemEntry("sentinel or core"));
    };
    if sentinel.value.expose() != SENTINEL {
        return Err(BootError::SystemEntry("sentinel"));
    }
    let core: Core = serde_json::from_slice(opened.value.expose()).map_err(|_| BootError::SystemEntry("core"))?;
    let tenant = unhex(&core.tenant).filter(|_| core.format == 1).ok_or(BootError::SystemEntry("core"))?;
    Ok((core, tenant, opened.revision))
}

/// The cluster's generation as it is now: another node may have raised it.
pub async fn generation(barrier: &Barrier) -> Result<u64, BootError> {
    read_core(barrier).await.map(|(core, _, _)| core.generation)
}

/// The barrier's keys, which the boundary alone opens.
async fn opened_keyring(boundary: &dyn Boundary, boot: &Boot) -> Result<Keyring, BootError> {
    let epoch = sealed::parse_system(&boot.keyring).map_err(|_| BootError::BootAltered)?.header.generation;
    let aad_digest = aad_digest(&boot.cluster, epoch);
    let open = Request::SystemOpen { key: boot.token.clone(), aad_digest, sealed: boot.keyring.clone() };
    match ask!(boundary, open => Reply::Secret).await {
        Ok(keyring) => Ok(Keyring::decode(&keyring)?),
        Err(error) if error.is_transient() => Err(error.into()),
        // the domain is the right one: what was sealed by it is not what stands here
        Err(HsmError::Rejected | HsmError::MalformedBlob | HsmError::TokenRejected | HsmError::IncorrectKey) => {
            Err(BootError::BootAltered)
        }
        Err(error) => Err(error.into()),
    }
}

/// The unsealed entry.
#[derive(Debug)]
struct Boot {
    cluster: TenantId,
    domain: [u8; 16],
    token: KeyToken,
    keyring: Bytes,
}

impl Boot {
    fn encode(&self) -> Result<Vec<u8>, BootError> {
        let token = self.token.bytes();
        let lengths = u16::try_from(token.len()).ok().zip(u32::try_from(self.keyring.len()).ok());
        let (token_len, keyring_len) = lengths.ok_or(BootError::BootAltered)?;
        let mut out = BOOT_MAGIC.to_vec();
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&self.domain);
        out.extend_from_slice(&token_len.to_be_bytes());
        out.extend_from_slice(token);
        out.extend_from_slice(&keyring_len.to_be_bytes());
        out.extend_from_slice(&self.keyring);
        Ok(out)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(BOOT_MAGIC)?;
        let (cluster, rest) = rest.split_first_chunk::<16>()?;
        let (domain, rest) = rest.split_first_chunk::<16>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (token, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (len, keyring) = rest.split_first_chunk::<4>()?;
        if u32::from_be_bytes(*len) as usize != keyring.len() {
            return None;
        }
        let token = KeyToken::parse(*cluster, Bytes::copy_from_slice(token)).ok()?;
        Some(Self { cluster: *cluster, domain: *domain, token, keyring: Bytes::copy_from_slice(keyring) })
    }
}

fn parse_intent(bytes: &[u8]) -> Option<TenantId> {
    bytes.strip_prefix(INTENT_MAGIC)?.try_into().ok()
}

fn aad_digest(cluster: &TenantId, epoch: u32) -> [u8; 32] {
    let pairs: [(&[u8], &[u8]); 2] = [(b"cluster", cluster), (b"epoch", &epoch.to_be_bytes())];
    mac::sha256(&canonical_pairs(pairs.into_iter()))
}

async fn random(boundary: &dyn Boundary) -> Result<[u8; 16], BootError> {
    let bytes = ask!(boundary, Request::Random { bytes: 16 } => Reply::Secret).await?;
    Ok(bytes.expose().try_into().map_err(|_| HsmError::Protocol)?)
}

fn system_paths(cluster: &TenantId) -> Result<(EntryPath, EntryPath), StorageError> {
    let cluster = path(&hex(cluster))?;
    let join = |name| cluster.join(name).map_err(|_| StorageError::TooLarge);
    Ok((join("sentinel")?, join("core")?))
}

pub(crate) fn path(raw: &str) -> Result<EntryPath, StorageError> {
    EntryPath::parse(raw).map_err(|_| StorageError::TooLarge)
}

fn encode(core: &Core) -> Vec<u8> {
    // writing to memory fails for no value of this type
    serde_json::to_vec(core).unwrap_or_default()
}

pub(crate) fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let id = u128::from_str_radix(text, 16).ok()?.to_be_bytes();
    (hex(&id) == text).then_some(id)
}

const BOOT_MAGIC: &[u8] = b"SRBOOT\x01";
const INTENT_MAGIC: &[u8] = b"SRINIT\x01";
const SENTINEL: &[u8] = b"strongroom";
