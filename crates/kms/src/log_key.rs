//! The key that signs the checkpoints of a server node's audit log, and the batches of its receipts: usage LOG, made once, inside
//! the boundary.
//!
//! ```text
//! sealed    <cluster>/logs/<node>     {"token": hex, "public_key": hex}
//! ```
//!
//! Always: one key a node, so that a node's log is known by its key.
//! Never: a key of another usage that signs one of them, or this one anything else (design §2).

use crate::boot::{self, BootError, Cluster, path};
use bytes::Bytes;
use hsm_api::{Boundary, KeySpec, KeyToken, KeyUsage, ModuleStatus, NewKey, Reply, Request, ask};
use serde::{Deserialize, Serialize};
use storage::{AtLeast, Batch, CommitError, CommitId, EntryPath, StorageError};

/// A node's log key.
#[derive(Debug, Clone)]
pub struct LogKey {
    pub token: KeyToken,
    /// Ed25519 (RFC 8032).
    pub public_key: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(with = "hex_bytes")]
    token: Vec<u8>,
    #[serde(with = "hex_bytes")]
    public_key: Vec<u8>,
}

impl Cluster {
    /// The log key of `node`, a path segment; made where there is none.
    pub async fn log_key(&self, node: &str, boundary: &dyn Boundary) -> Result<LogKey, BootError> {
        let at = self.log_path(node)?;
        if let Some(key) = self.stored_log_key(&at).await? {
            return Ok(key);
        }
        let status = ask!(boundary, Request::Status => Reply::Status).await?;
        let key = self.new_log_key(&status, boundary).await?;
        let row = Row { token: key.token.bytes().to_vec(), public_key: key.public_key.to_vec() };
        // writing to memory fails for no value of this type
        let row = serde_json::to_vec(&row).unwrap_or_default();
        let batch = Batch::new(CommitId(self.barrier.random()?))
            .absent(at.clone())
            .put(at.clone(), self.barrier.seal(&at, &row)?);
        match self.barrier.commit(batch).await {
            Ok(_) => Ok(key),
            // another start of this node was faster
            Err(CommitError::Conflict(_)) => self.stored_log_key(&at).await?.ok_or(BootError::SystemEntry("logs")),
            Err(error) => Err(error.into()),
        }
    }

    /// What the log of `node` calls itself in its checkpoints (C2SP tlog-checkpoint, "Origin line").
    pub fn log_origin(&self, node: &str) -> String {
        format!("strongroom.audit/{}/{node}", boot::hex(self.barrier.cluster_id()))
    }

    fn log_path(&self, node: &str) -> Result<EntryPath, StorageError> {
        path(&format!("{}/logs", boot::hex(self.barrier.cluster_id())))?.join(node).map_err(|_| StorageError::TooLarge)
    }

    async fn stored_log_key(&self, at: &EntryPath) -> Result<Option<LogKey>, BootError> {
        let (_, entries) = self.barrier.get(std::slice::from_ref(at), AtLeast::Latest).await?;
        let Some(entry) = entries.into_iter().next().flatten() else { return Ok(None) };
        let key = parse(*self.barrier.cluster_id(), entry.value.expose());
        key.map(Some).ok_or(BootError::SystemEntry("logs"))
    }

    async fn new_log_key(&self, status: &ModuleStatus, boundary: &dyn Boundary) -> Result<LogKey, BootError> {
        let new = NewKey {
            key_id: None,
            version: 1,
            tenant: *self.barrier.cluster_id(),
            spec: KeySpec::EccNistEdwards25519,
            usage: KeyUsage::Log,
            level: *status.capabilities.levels.first().ok_or(BootError::NoLevel)?,
            not_after: None,
        };
        let made = ask!(boundary, Request::GenerateKey(new) => Reply::Key).await?;
        // the boundary's keys of this kind have no other form
        let public_key = made.public_key.strip_prefix(ED25519_SPKI).and_then(|key| key.try_into().ok());
        let public_key = public_key.ok_or(hsm_api::HsmError::Protocol)?;
        Ok(LogKey { token: made.token, public_key })
    }
}

fn parse(cluster: [u8; 16], row: &[u8]) -> Option<LogKey> {
    let row: Row = serde_json::from_slice(row).ok()?;
    let token = KeyToken::parse(cluster, Bytes::from(row.token)).ok()?;
    Some(LogKey { token, public_key: row.public_key.try_into().ok()? })
}

mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// SubjectPublicKeyInfo of an Ed25519 key, before the key (RFC 8410 §4).
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
