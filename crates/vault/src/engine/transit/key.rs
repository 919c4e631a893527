//! What a name stands for: a key of the key domain, and how it may be used here.

use super::super::tree::Tree;
use super::wire;
use crate::body::Body;
use crate::error::VaultError;
use crate::scope::Scope;
use crate::view::View;
use envelope::EncryptionContext;
use kms::{KeyId, KeySpec, KeyUsage, Through};
use serde::{Deserialize, Serialize};
use storage::{Batch, EntryPath, Revision};

/// As the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Type {
    #[serde(rename = "aes256-gcm96")]
    Aes256,
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    #[serde(rename = "ed25519")]
    Ed25519,
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    #[serde(rename = "hmac")]
    Hmac,
}

impl Type {
    const ALL: [Self; 7] =
        [Self::Aes256, Self::EcdsaP256, Self::Ed25519, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::Hmac];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "aes256-gcm96",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::Hmac => "hmac",
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self, VaultError> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| VaultError::field("type", format!("unsupported key type \"{}\"", wire::shown(name))))
    }

    pub(super) fn spec(self) -> KeySpec {
        match self {
            Self::Aes256 => KeySpec::Aes256,
            Self::EcdsaP256 => KeySpec::EccNistP256,
            Self::Ed25519 => KeySpec::EccNistEdwards25519,
            Self::Rsa2048 => KeySpec::Rsa2048,
            Self::Rsa3072 => KeySpec::Rsa3072,
            Self::Rsa4096 => KeySpec::Rsa4096,
            Self::Hmac => KeySpec::Hmac256,
        }
    }

    pub(super) fn encrypts(self) -> bool {
        self.spec().usage() == KeyUsage::EncryptDecrypt
    }

    pub(super) fn signs(self) -> bool {
        self.spec().usage() == KeyUsage::SignVerify
    }
}

/// Stored by the name's keyed hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyEntry {
    pub(super) key_id: String,
    pub(super) kind: Type,
    #[serde(default)]
    pub(super) derived: bool,
    pub(super) min_decryption_version: u32,
    /// 0: the newest only, where none is asked for.
    #[serde(default)]
    pub(super) min_encryption_version: u32,
    #[serde(default)]
    pub(super) min_available_version: u32,
    #[serde(default)]
    pub(super) deletion_allowed: bool,
    #[serde(default)]
    pub(super) auto_rotate_secs: u64,
    /// Where it stands in the queue of rotations, unix milliseconds; 0: nowhere.
    #[serde(default)]
    pub(super) due: u64,
}

impl KeyEntry {
    pub(super) fn id(&self) -> Result<KeyId, VaultError> {
        KeyId::parse(&self.key_id).map_err(|_| unreadable())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(bytes).map_err(|_| unreadable())
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| unreadable())
    }

    /// What was made under this version is still to be read.
    pub(super) fn check_old(&self, version: u32) -> Result<(), VaultError> {
        if version >= self.min_decryption_version.max(self.min_available_version) {
            return Ok(());
        }
        Err(VaultError::Invalid("ciphertext or signature version is disallowed by policy (too old)".into()))
    }

    /// The version that a request asks for by `key_version`; `None`: the newest.
    pub(super) fn asked_version(&self, body: &Body) -> Result<Option<u32>, VaultError> {
        match body.count("key_version", u32::MAX)? {
            None | Some(0) => Ok(None),
            Some(version)
                if version < self.min_encryption_version.max(self.min_decryption_version)
                    || version < self.min_available_version =>
            {
                Err(VaultError::field("key_version", "disallowed by policy (too old)"))
            }
            version => Ok(version),
        }
    }

    /// What a ciphertext is bound to beside its key: digests, so that neither has a longest length.
    pub(super) fn context(&self, body: &Body, large: bool) -> Result<EncryptionContext, VaultError> {
        let context = wire::bytes(body, "context")?.filter(|bytes| !bytes.is_empty());
        let data = wire::bytes(body, "associated_data")?.filter(|bytes| !bytes.is_empty());
        if self.derived && context.is_none() {
            return Err(VaultError::field("context", "missing: the key is derived"));
        }
        let digest = |bytes: envelope::SecretBytes| hex::encode(envelope::mac::sha256(bytes.expose()));
        let pairs = [
            ("transit.associated_data_sha256", data.map(digest)),
            ("transit.context_sha256", context.map(digest)),
            ("transit.form", large.then(|| "large".to_owned())),
        ];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        EncryptionContext::parse(pairs).map_err(|_| VaultError::Internal("two digests fit a context".into()))
    }
}

/// A name on its way through a request.
pub(super) struct Named<'s> {
    pub(super) scope: &'s Scope<'s>,
    pub(super) entry: KeyEntry,
    pub(super) id: KeyId,
}

impl<'s> Named<'s> {
    /// The key that `name` stands for, perhaps from memory; `missing` is told where there is none.
    pub(super) async fn of(scope: &'s Scope<'s>, name: &str, missing: &'static str) -> Result<Self, VaultError> {
        let entry = find(&scope.view()?, name).await?;
        Self::with(scope, entry.ok_or(VaultError::Invalid(missing.into()))?)
    }

    pub(super) fn with(scope: &'s Scope<'s>, entry: KeyEntry) -> Result<Self, VaultError> {
        let id = entry.id()?;
        Ok(Self { scope, entry, id })
    }

    pub(super) fn kms(&self) -> Result<Through<'s>, VaultError> {
        through(self.scope)
    }

    pub(super) fn must(&self, can: bool, what: &str) -> Result<(), VaultError> {
        if can {
            return Ok(());
        }
        Err(VaultError::Invalid(format!("{what} is not supported by keys of type {}", self.entry.kind.name()).into()))
    }
}

pub(super) fn through<'s>(scope: &'s Scope<'s>) -> Result<Through<'s>, VaultError> {
    Ok(scope.vault.kms().through(scope.by()?, &scope.call.info, &scope.rule))
}

/// A name is one segment of letters, digits, `_`, `-` and `.`, and begins and ends with one of the first three.
pub(super) fn check_name(name: &str) -> Result<(), VaultError> {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = name.as_bytes();
    let sound = bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || matches!(byte, b'-' | b'.'));
    if sound {
        return Ok(());
    }
    Err(VaultError::field("name", "1 to 64 letters, digits, `_`, with `-` and `.` between"))
}

pub(super) fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    check_name(name)?;
    Tree::new(view, LIST).data(DATA, name)
}

/// Perhaps from memory.
pub(super) async fn find(view: &View, name: &str) -> Result<Option<KeyEntry>, VaultError> {
    let found = view.read(&path(view, name)?).await?;
    found.as_ref().as_ref().map(|found| KeyEntry::decode(found.value.expose())).transpose()
}

/// To be changed: as it stands in the store.
pub(super) async fn load(view: &View, path: &EntryPath) -> Result<Option<(KeyEntry, Revision)>, VaultError> {
    let found = view.load(path).await?;
    found.map(|found| Ok((KeyEntry::decode(found.value.expose())?, found.revision))).transpose()
}

pub(super) fn put(view: &View, batch: Batch, path: EntryPath, entry: &KeyEntry) -> Result<Batch, VaultError> {
    view.put(batch, path, &entry.encode()?)
}

fn unreadable() -> VaultError {
    VaultError::Internal("a stored transit key cannot be read".into())
}

pub(super) const LIST: &str = "l";
pub(super) const DATA: &str = "k";
const NAME_BYTES_MAX: usize = 64;
