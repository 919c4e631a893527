//! Requests and replies: closed enums, one variant a service, and their form on the wire.
//!
//! Always: every count and length is checked before it is believed. Decoding is total and rejects trailing bytes.

use crate::key::{KeyId, KeySpec, KeyToken, KeyUsage, NewKey, ProtectionLevel, SigningAlgorithm};
use crate::state::{ModuleState, Role, Service};
use crate::wire::{Reader, Writer};
use crate::{HsmError, TenantId};
use bytes::Bytes;
use envelope::{SecretBytes, Timestamp};

/// Most items in one batch request.
pub const BATCH_ITEMS_MAX: usize = 128;
/// Longest plaintext or message of one item, bytes.
pub const ITEM_BYTES_MAX: usize = 32 * 1024;
/// Longest data key, bytes.
pub const DATA_KEY_BYTES_MAX: usize = 1024;
/// Most random bytes in one request.
pub const RANDOM_BYTES_MAX: usize = 1024;
/// Most hashes in a consistency proof: two for each level of a 63-level tree.
pub const PROOF_HASHES_MAX: usize = 126;
/// Longest origin of a log, bytes.
pub const ORIGIN_BYTES_MAX: usize = 255;

/// One data key asked for. `aad_digest` is the SHA-256 of the canonical encryption context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyAsk {
    pub aad_digest: [u8; 32],
    pub bytes: u16,
    pub plaintext: bool,
}

#[derive(Debug)]
pub struct SealAsk {
    pub aad_digest: [u8; 32],
    pub plaintext: SecretBytes,
}

#[derive(Debug, Clone)]
pub struct OpenAsk {
    pub aad_digest: [u8; 32],
    pub blob: Bytes,
}

/// What is signed: the message, or the digest that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageToSign {
    Raw(Bytes),
    Digest(Bytes),
}

#[derive(Debug)]
pub enum Request {
    Status,
    GenerateKey(NewKey),
    GenerateDataKeys {
        key: KeyToken,
        asks: Vec<DataKeyAsk>,
    },
    Encrypt {
        key: KeyToken,
        asks: Vec<SealAsk>,
    },
    Decrypt {
        key: KeyToken,
        asks: Vec<OpenAsk>,
    },
    /// The plaintext never leaves the boundary.
    ReEncrypt {
        from: KeyToken,
        to: KeyToken,
        from_aad_digest: [u8; 32],
        to_aad_digest: [u8; 32],
        blob: Bytes,
    },
    Sign {
        key: KeyToken,
        algorithm: SigningAlgorithm,
        message: MessageToSign,
    },
    PublicKey {
        key: KeyToken,
    },
    /// HMAC-SHA-256.
    Mac {
        key: KeyToken,
        message: SecretBytes,
    },
    Random {
        bytes: u16,
    },
    /// Seals the barrier keyring: kind 3, `epoch` as generation.
    SystemSeal {
        key: KeyToken,
        epoch: u32,
        aad_digest: [u8; 32],
        plaintext: SecretBytes,
    },
    SystemOpen {
        key: KeyToken,
        aad_digest: [u8; 32],
        sealed: Bytes,
    },
    /// `proof` leads from the last checkpoint that this module signed for `origin` (RFC 6962 §2.1.2).
    SignCheckpoint {
        key: KeyToken,
        origin: String,
        size: u64,
        root: [u8; 32],
        proof: Vec<[u8; 32]>,
    },
    /// Entries of the log of `origin` that were made durable together, the first of them number `first`, under the root of a
    /// tree of their own. Needs no proof: it says nothing of what stands before them.
    SignBatch {
        key: KeyToken,
        origin: String,
        first: u64,
        count: u32,
        root: [u8; 32],
    },
    /// Uses of keys since the module started, in key id order, signed by the module.
    Counters {
        after: Option<KeyId>,
        limit: u16,
        challenge: [u8; 32],
    },
    /// The same key under the domain key's current generation.
    Rewrap {
        key: KeyToken,
    },
    Initialise {
        threshold: u8,
        shares: u8,
    },
    /// `pin` is the SHA-256 of the peer's SubjectPublicKeyInfo.
    Enrol {
        role: Role,
        pin: [u8; 32],
    },
    Backup {
        threshold: u8,
        shares: u8,
    },
    Restore {
        package: Bytes,
        shares: Vec<SecretBytes>,
    },
    RotateDomain,
    Zeroise,
}

/// A key version that the boundary made.
#[derive(Debug, Clone)]
pub struct GeneratedKey {
    pub key_id: KeyId,
    pub token: KeyToken,
    /// SubjectPublicKeyInfo, DER (RFC 5280 §4.1); empty for symmetric keys.
    pub public_key: Bytes,
}

#[derive(Debug)]
pub struct DataKey {
    /// `None` where the caller did not ask for it.
    pub plaintext: Option<SecretBytes>,
    pub blob: Bytes,
}

/// A backup of the domain key: the package is sealed, and opens with `threshold` of the shares.
#[derive(Debug)]
pub struct BackupPackage {
    pub package: Bytes,
    pub shares: Vec<SecretBytes>,
}

/// Uses of keys, `key id 16 ‖ uses u64` each, in order; more follow when `more`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterPage {
    pub boot_epoch: u64,
    pub uses: Vec<(KeyId, u64)>,
    pub more: bool,
    /// Ed25519 by the module's identity key over [`CounterPage::signed_bytes`].
    pub signature: [u8; 64],
}

impl CounterPage {
    /// What the module signs: its id, its boot epoch, the caller's challenge, the page.
    pub fn signed_bytes(&self, module_id: &[u8; 16], challenge: &[u8; 32]) -> Vec<u8> {
        let mut out = b"sr/v1/counters".to_vec();
        out.extend_from_slice(module_id);
        out.extend_from_slice(&self.boot_epoch.to_be_bytes());
        out.extend_from_slice(challenge);
        out.push(u8::from(self.more));
        for (key_id, uses) in &self.uses {
            out.extend_from_slice(key_id.bytes());
            out.extend_from_slice(&uses.to_be_bytes());
        }
        out
    }
}

/// What this module can do, proven by running it at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    pub levels: Vec<ProtectionLevel>,
    pub specs: Vec<KeySpec>,
    pub algorithms: Vec<SigningAlgorithm>,
    /// Services that it offers in some state.
    pub services: Vec<Service>,
    /// It remembers the last checkpoint it signed over a restart.
    pub remembers_checkpoints: bool,
}

/// The module's report of itself. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleStatus {
    /// `hsm-sim` or `hsm-pkcs11`.
    pub module: String,
    pub version: String,
    pub state: ModuleState,
    pub module_id: [u8; 16],
    /// Rises by one at each start.
    pub boot_epoch: u64,
    /// Zero while uninitialised.
    pub domain_id: [u8; 16],
    pub generation: u32,
    /// Clusters whose SYSTEM_SEAL key was made here.
    pub clusters: Vec<TenantId>,
    pub backup_made: bool,
    /// Built with fault injection: never for production.
    pub fault_build: bool,
    pub capabilities: Capabilities,
    /// Confinement and the like: name, outcome.
    pub report: Vec<(String, String)>,
    /// Ed25519 public key that signs counters.
    pub identity_key: [u8; 32],
}

#[derive(Debug)]
pub enum Reply {
    Status(Box<ModuleStatus>),
    Key(GeneratedKey),
    DataKeys(Vec<Result<DataKey, HsmError>>),
    Blobs(Vec<Result<Bytes, HsmError>>),
    Plaintexts(Vec<Result<SecretBytes, HsmError>>),
    /// Of ReEncrypt, SystemSeal.
    Blob(Bytes),
    /// Of SystemOpen, Random.
    Secret(SecretBytes),
    /// Of Sign, SignCheckpoint, SignBatch.
    Signature(Bytes),
    /// SubjectPublicKeyInfo, DER.
    PublicKey(Bytes),
    Mac([u8; 32]),
    Counters(CounterPage),
    Token(KeyToken),
    /// Of Initialise, Backup.
    Backup(BackupPackage),
    /// The domain key's new generation.
    Generation(u32),
    /// Of Enrol, Restore, Zeroise.
    Done,
}

impl Request {
    pub const fn service(&self) -> Service {
        match self {
            Self::Status => Service::Status,
            Self::GenerateKey(_) => Service::GenerateKey,
            Self::GenerateDataKeys { .. } => Service::GenerateDataKeys,
            Self::Encrypt { .. } => Service::Encrypt,
            Self::Decrypt { .. } => Service::Decrypt,
            Self::ReEncrypt { .. } => Service::ReEncrypt,
            Self::Sign { .. } => Service::Sign,
            Self::PublicKey { .. } => Service::PublicKey,
            Self::Mac { .. } => Service::Mac,
            Self::Random { .. } => Service::Random,
            Self::SystemSeal { .. } => Service::SystemSeal,
            Self::SystemOpen { .. } => Service::SystemOpen,
            Self::SignCheckpoint { .. } => Service::SignCheckpoint,
            Self::SignBatch { .. } => Service::SignBatch,
            Self::Counters { .. } => Service::Counters,
            Self::Rewrap { .. } => Service::Rewrap,
            Self::Initialise { .. } => Service::Initialise,
            Self::Enrol { .. } => Service::Enrol,
            Self::Backup { .. } => Service::Backup,
            Self::Restore { .. } => Service::Restore,
            Self::RotateDomain => Service::RotateDomain,
            Self::Zeroise => Service::Zeroise,
        }
    }

    /// Bytes that the longest reply takes on the wire: the sender keeps it below a frame.
    pub fn reply_bytes_max(&self) -> usize {
        const SEALED: usize = envelope::sealed::SUITE1_OVERHEAD_BYTES + 8;
        match self {
            Self::GenerateDataKeys { asks, .. } => {
                asks.iter().map(|ask| SEALED + 8 + 2 * usize::from(ask.bytes)).sum::<usize>()
            }
            Self::Encrypt { asks, .. } => asks.iter().map(|ask| SEALED + ask.plaintext.len()).sum::<usize>(),
            Self::Decrypt { asks, .. } => asks.iter().map(|ask| 8 + ask.blob.len()).sum::<usize>(),
            Self::SystemSeal { plaintext, .. } => SEALED + plaintext.len(),
            Self::SystemOpen { sealed, .. } => sealed.len(),
            Self::ReEncrypt { blob, .. } => SEALED + blob.len(),
            Self::Counters { limit, .. } => 128 + 24 * usize::from(*limit),
            Self::Status
            | Self::GenerateKey(_)
            | Self::Sign { .. }
            | Self::PublicKey { .. }
            | Self::Mac { .. }
            | Self::Random { .. }
            | Self::SignCheckpoint { .. }
            | Self::SignBatch { .. }
            | Self::Rewrap { .. }
            | Self::Initialise { .. }
            | Self::Enrol { .. }
            | Self::Backup { .. }
            | Self::Restore { .. }
            | Self::RotateDomain
            | Self::Zeroise => 8192,
        }
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        match self {
            Self::Status | Self::RotateDomain | Self::Zeroise => {}
            Self::GenerateKey(new) => encode_new_key(new, w),
            Self::GenerateDataKeys { key, asks } => {
                w.token(key);
                w.list(asks, |w, ask| {
                    w.raw(&ask.aad_digest);
                    w.u16(ask.bytes);
                    w.flag(ask.plaintext);
                });
            }
            Self::Encrypt { key, asks } => {
                w.token(key);
                w.list(asks, |w, ask| {
                    w.raw(&ask.aad_digest);
                    w.bytes(ask.plaintext.expose());
                });
            }
            Self::Decrypt { key, asks } => {
                w.token(key);
                w.list(asks, |w, ask| {
                    w.raw(&ask.aad_digest);
                    w.bytes(&ask.blob);
                });
            }
            Self::ReEncrypt { from, to, from_aad_digest, to_aad_digest, blob } => {
                w.token(from);
                w.token(to);
                w.raw(from_aad_digest);
                w.raw(to_aad_digest);
                w.bytes(blob);
            }
            Self::Sign { key, algorithm, message } => {
                w.token(key);
                w.u8(algorithm.code());
                let (digest, bytes) = match message {
                    MessageToSign::Raw(bytes) => (false, bytes),
                    MessageToSign::Digest(bytes) => (true, bytes),
                };
                w.flag(digest);
                w.bytes(bytes);
            }
            Self::PublicKey { key } | Self::Rewrap { key } => w.token(key),
            Self::Mac { key, message } => {
                w.token(key);
                w.bytes(message.expose());
            }
            Self::Random { bytes } => w.u16(*bytes),
            Self::SystemSeal { .. }
            | Self::SystemOpen { .. }
            | Self::SignCheckpoint { .. }
            | Self::SignBatch { .. }
            | Self::Counters { .. }
            | Self::Initialise { .. }
            | Self::Enrol { .. }
            | Self::Backup { .. }
            | Self::Restore { .. } => self.encode_of_system(w),
        }
    }

    /// The system's own services and administration.
    fn encode_of_system(&self, w: &mut Writer<'_>) {
        match self {
            Self::SystemSeal { key, epoch, aad_digest, plaintext } => {
                w.token(key);
                w.u32(*epoch);
                w.raw(aad_digest);
                w.bytes(plaintext.expose());
            }
            Self::SystemOpen { key, aad_digest, sealed } => {
                w.token(key);
                w.raw(aad_digest);
                w.bytes(sealed);
            }
            Self::SignCheckpoint { key, origin, size, root, proof } => {
                w.token(key);
                w.bytes(origin.as_bytes());
                w.u64(*size);
                w.raw(root);
                w.list(proof, |w, hash| w.raw(hash));
            }
            Self::SignBatch { key, origin, first, count, root } => {
                w.token(key);
                w.bytes(origin.as_bytes());
                w.u64(*first);
                w.u32(*count);
                w.raw(root);
            }
            Self::Counters { after, limit, challenge } => {
                w.flag(after.is_some());
                w.raw(after.unwrap_or(KeyId::from_bytes([0; 16])).bytes());
                w.u16(*limit);
                w.raw(challenge);
            }
            Self::Initialise { threshold, shares } | Self::Backup { threshold, shares } => {
                w.u8(*threshold);
                w.u8(*shares);
            }
            Self::Enrol { role, pin } => {
                w.u8(*role as u8);
                w.raw(pin);
            }
            Self::Restore { package, shares } => {
                w.bytes(package);
                w.list(shares, |w, share| w.bytes(share.expose()));
            }
            Self::Status
            | Self::GenerateKey(_)
            | Self::GenerateDataKeys { .. }
            | Self::Encrypt { .. }
            | Self::Decrypt { .. }
            | Self::ReEncrypt { .. }
            | Self::Sign { .. }
            | Self::PublicKey { .. }
            | Self::Mac { .. }
            | Self::Random { .. }
            | Self::Rewrap { .. }
            | Self::RotateDomain
            | Self::Zeroise => {}
        }
    }

    pub(crate) fn decode(service: Service, r: &mut Reader<'_>) -> Option<Self> {
        Some(match service {
            Service::Status => Self::Status,
            Service::RotateDomain => Self::RotateDomain,
            Service::Zeroise => Self::Zeroise,
            Service::GenerateKey => Self::GenerateKey(decode_new_key(r)?),
            Service::GenerateDataKeys => Self::GenerateDataKeys {
                key: r.token()?,
                asks: r.list(BATCH_ITEMS_MAX, |r| {
                    Some(DataKeyAsk { aad_digest: r.array()?, bytes: r.u16()?, plaintext: r.flag()? })
                })?,
            },
            Service::Encrypt => Self::Encrypt {
                key: r.token()?,
                asks: r.list(BATCH_ITEMS_MAX, |r| Some(SealAsk { aad_digest: r.array()?, plaintext: r.secret()? }))?,
            },
            Service::Decrypt => Self::Decrypt {
                key: r.token()?,
                asks: r.list(BATCH_ITEMS_MAX, |r| Some(OpenAsk { aad_digest: r.array()?, blob: r.shared()? }))?,
            },
            Service::ReEncrypt => Self::ReEncrypt {
                from: r.token()?,
                to: r.token()?,
                from_aad_digest: r.array()?,
                to_aad_digest: r.array()?,
                blob: r.shared()?,
            },
            Service::Sign => Self::Sign {
                key: r.token()?,
                algorithm: SigningAlgorithm::from_code(r.u8()?)?,
                message: if r.flag()? { MessageToSign::Digest(r.shared()?) } else { MessageToSign::Raw(r.shared()?) },
            },
            Service::PublicKey => Self::PublicKey { key: r.token()? },
            Service::Rewrap => Self::Rewrap { key: r.token()? },
            Service::Mac => Self::Mac { key: r.token()?, message: r.secret()? },
            Service::Random => Self::Random { bytes: r.u16()? },
            Service::SystemSeal => {
                Self::SystemSeal { key: r.token()?, epoch: r.u32()?, aad_digest: r.array()?, plaintext: r.secret()? }
            }
            Service::SystemOpen => Self::SystemOpen { key: r.token()?, aad_digest: r.array()?, sealed: r.shared()? },
            Service::SignCheckpoint => Self::SignCheckpoint {
                key: r.token()?,
                origin: r.text(ORIGIN_BYTES_MAX)?,
                size: r.u64()?,
                root: r.array()?,
                proof: r.list(PROOF_HASHES_MAX, Reader::array)?,
            },
            Service::SignBatch => Self::SignBatch {
                key: r.token()?,
                origin: r.text(ORIGIN_BYTES_MAX)?,
                first: r.u64()?,
                count: r.u32()?,
                root: r.array()?,
            },
            Service::Counters => {
                let (some, after) = (r.flag()?, KeyId::from_bytes(r.array()?));
                Self::Counters { after: some.then_some(after), limit: r.u16()?, challenge: r.array()? }
            }
            Service::Initialise => Self::Initialise { threshold: r.u8()?, shares: r.u8()? },
            Service::Backup => Self::Backup { threshold: r.u8()?, shares: r.u8()? },
            Service::Enrol => Self::Enrol { role: decode_role(r.u8()?)?, pin: r.array()? },
            Service::Restore => Self::Restore { package: r.shared()?, shares: r.list(255, Reader::secret)? },
        })
    }
}

impl Reply {
    /// Variant number on the wire. 0 is kept for an error.
    fn code(&self) -> u8 {
        match self {
            Self::Status(_) => 1,
            Self::Key(_) => 2,
            Self::DataKeys(_) => 3,
            Self::Blobs(_) => 4,
            Self::Plaintexts(_) => 5,
            Self::Blob(_) => 6,
            Self::Secret(_) => 7,
            Self::Signature(_) => 8,
            Self::PublicKey(_) => 9,
            Self::Mac(_) => 10,
            Self::Counters(_) => 11,
            Self::Token(_) => 12,
            Self::Backup(_) => 13,
            Self::Generation(_) => 14,
            Self::Done => 15,
        }
    }

    pub(crate) fn encode_result(result: &Result<Self, HsmError>, w: &mut Writer<'_>) {
        match result {
            Err(error) => {
                w.u8(0);
                w.u8(error.code());
            }
            Ok(reply) => {
                w.u8(reply.code());
                reply.encode(w);
            }
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        match self {
            Self::Status(status) => encode_status(status, w),
            Self::Key(key) => {
                w.raw(key.key_id.bytes());
                w.token(&key.token);
                w.bytes(&key.public_key);
            }
            Self::DataKeys(keys) => w.list(keys, |w, key| {
                w.result(key, |w, key| {
                    w.flag(key.plaintext.is_some());
                    w.bytes(key.plaintext.as_ref().map_or(&[], SecretBytes::expose));
                    w.bytes(&key.blob);
                });
            }),
            Self::Blobs(blobs) => w.list(blobs, |w, blob| w.result(blob, |w, blob| w.bytes(blob))),
            Self::Plaintexts(plaintexts) => {
                w.list(plaintexts, |w, plaintext| w.result(plaintext, |w, plaintext| w.bytes(plaintext.expose())));
            }
            Self::Blob(bytes) | Self::Signature(bytes) | Self::PublicKey(bytes) => w.bytes(bytes),
            Self::Secret(secret) => w.bytes(secret.expose()),
            Self::Mac(mac) => w.raw(mac),
            Self::Counters(page) => {
                w.u64(page.boot_epoch);
                w.flag(page.more);
                w.raw(&page.signature);
                w.list(&page.uses, |w, (key_id, uses)| {
                    w.raw(key_id.bytes());
                    w.u64(*uses);
                });
            }
            Self::Token(token) => w.token(token),
            Self::Backup(backup) => {
                w.bytes(&backup.package);
                w.list(&backup.shares, |w, share| w.bytes(share.expose()));
            }
            Self::Generation(generation) => w.u32(*generation),
            Self::Done => {}
        }
    }

    pub(crate) fn decode_result(r: &mut Reader<'_>) -> Option<Result<Self, HsmError>> {
        Some(Ok(match r.u8()? {
            0 => return HsmError::from_code(r.u8()?).map(Err),
            1 => Self::Status(Box::new(decode_status(r)?)),
            2 => Self::Key(GeneratedKey {
                key_id: KeyId::from_bytes(r.array()?),
                token: r.token()?,
                public_key: r.shared()?,
            }),
            3 => Self::DataKeys(r.list(BATCH_ITEMS_MAX, |r| {
                r.result(|r| {
                    let (some, plaintext) = (r.flag()?, r.secret()?);
                    Some(DataKey { plaintext: some.then_some(plaintext), blob: r.shared()? })
                })
            })?),
            4 => Self::Blobs(r.list(BATCH_ITEMS_MAX, |r| r.result(Reader::shared))?),
            5 => Self::Plaintexts(r.list(BATCH_ITEMS_MAX, |r| r.result(Reader::secret))?),
            6 => Self::Blob(r.shared()?),
            7 => Self::Secret(r.secret()?),
            8 => Self::Signature(r.shared()?),
            9 => Self::PublicKey(r.shared()?),
            10 => Self::Mac(r.array()?),
            11 => {
                let (boot_epoch, more, signature) = (r.u64()?, r.flag()?, r.array()?);
                let uses = r.list(usize::from(u16::MAX), |r| Some((KeyId::from_bytes(r.array()?), r.u64()?)))?;
                Self::Counters(CounterPage { boot_epoch, uses, more, signature })
            }
            12 => Self::Token(r.token()?),
            13 => Self::Backup(BackupPackage { package: r.shared()?, shares: r.list(255, Reader::secret)? }),
            14 => Self::Generation(r.u32()?),
            15 => Self::Done,
            _ => return None,
        }))
    }
}

fn encode_new_key(new: &NewKey, w: &mut Writer<'_>) {
    w.flag(new.key_id.is_some());
    w.raw(new.key_id.unwrap_or(KeyId::from_bytes([0; 16])).bytes());
    w.u32(new.version);
    w.raw(&new.tenant);
    w.u8(new.spec.code());
    w.u8(new.usage.code());
    w.u8(new.level.code());
    w.u64(new.not_after.map_or(u64::MAX, Timestamp::unix_millis));
}

fn decode_new_key(r: &mut Reader<'_>) -> Option<NewKey> {
    let (some, key_id) = (r.flag()?, KeyId::from_bytes(r.array()?));
    Some(NewKey {
        key_id: some.then_some(key_id),
        version: r.u32()?,
        tenant: r.array()?,
        spec: KeySpec::from_code(r.u8()?)?,
        usage: KeyUsage::from_code(r.u8()?)?,
        level: ProtectionLevel::from_code(r.u8()?)?,
        not_after: Some(r.u64()?).filter(|millis| *millis != u64::MAX).map(Timestamp::from_unix_millis),
    })
}

fn encode_status(status: &ModuleStatus, w: &mut Writer<'_>) {
    w.bytes(status.module.as_bytes());
    w.bytes(status.version.as_bytes());
    w.u8(status.state as u8);
    w.raw(&status.module_id);
    w.u64(status.boot_epoch);
    w.raw(&status.domain_id);
    w.u32(status.generation);
    w.list(&status.clusters, |w, cluster| w.raw(cluster));
    w.flag(status.backup_made);
    w.flag(status.fault_build);
    let Capabilities { levels, specs, algorithms, services, remembers_checkpoints } = &status.capabilities;
    w.list(levels, |w, level| w.u8(level.code()));
    w.list(specs, |w, spec| w.u8(spec.code()));
    w.list(algorithms, |w, algorithm| w.u8(algorithm.code()));
    w.list(services, |w, service| w.u8(service.code()));
    w.flag(*remembers_checkpoints);
    w.list(&status.report, |w, (name, outcome)| {
        w.bytes(name.as_bytes());
        w.bytes(outcome.as_bytes());
    });
    w.raw(&status.identity_key);
}

fn decode_status(r: &mut Reader<'_>) -> Option<ModuleStatus> {
    Some(ModuleStatus {
        module: r.text(64)?,
        version: r.text(64)?,
        state: match r.u8()? {
            1 => ModuleState::Uninitialised,
            2 => ModuleState::Locked,
            3 => ModuleState::Operational,
            4 => ModuleState::Error,
            _ => return None,
        },
        module_id: r.array()?,
        boot_epoch: r.u64()?,
        domain_id: r.array()?,
        generation: r.u32()?,
        clusters: r.list(64, Reader::array)?,
        backup_made: r.flag()?,
        fault_build: r.flag()?,
        capabilities: Capabilities {
            levels: r.list(8, |r| ProtectionLevel::from_code(r.u8()?))?,
            specs: r.list(64, |r| KeySpec::from_code(r.u8()?))?,
            algorithms: r.list(64, |r| SigningAlgorithm::from_code(r.u8()?))?,
            // a later boundary has some that nobody knows here
            services: r.list(64, |r| Some(Service::from_code(r.u8()?)))?.into_iter().flatten().collect(),
            remembers_checkpoints: r.flag()?,
        },
        report: r.list(64, |r| Some((r.text(64)?, r.text(512)?)))?,
        identity_key: r.array()?,
    })
}

fn decode_role(code: u8) -> Option<Role> {
    match code {
        1 => Some(Role::User),
        2 => Some(Role::Officer),
        3 => Some(Role::Auditor),
        _ => None,
    }
}
