//! Keys: made, read, rotated, deleted.

use super::super::tree::Tree;
use super::key::{KeyEntry, LIST, Named, Type, check_name, find, load, path, put, through};
use super::{ATTEMPTS_MAX, auto, config, never_leaves, wire};
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use audit::{Item, Outcome};
use envelope::Timestamp;
use identity::ChangeError;
use kms::{CreateKey, Description, KeyId, KeyRecord, KmsError, key::KeyVersion};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Serialize)]
struct Shown<'a> {
    allow_plaintext_backup: bool,
    auto_rotate_period: u64,
    deletion_allowed: bool,
    derived: bool,
    exportable: bool,
    imported_key: bool,
    keys: BTreeMap<u32, ShownVersion>,
    latest_version: u32,
    min_available_version: u32,
    min_decryption_version: u32,
    min_encryption_version: u32,
    name: &'a str,
    supports_decryption: bool,
    supports_derivation: bool,
    supports_encryption: bool,
    supports_signing: bool,
    #[serde(rename = "type")]
    kind: Type,
    /// Of the key domain.
    kms_key_id: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownVersion {
    /// When it was made, unix seconds.
    Symmetric(u64),
    Pair {
        certificate_chain: &'static str,
        creation_time: String,
        name: &'static str,
        public_key: String,
    },
}

#[derive(Serialize)]
struct Exported<'a> {
    keys: BTreeMap<u32, String>,
    name: &'a str,
    #[serde(rename = "type")]
    kind: Type,
}

pub(super) async fn create(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let kind = config::check_new(&scope.call.body)?;
    if find(&scope.view()?, name).await?.is_some() {
        return Ok(Reply::empty().warning(format!("key {name} already existed")));
    }
    let derived = scope.call.body.bool("derived")?.unwrap_or(false);
    if derived && !kind.encrypts() {
        let why = format!("key derivation is not supported by keys of type {}", kind.name());
        return Err(VaultError::field("derived", why));
    }
    make(scope, name, derived).await?;
    Ok(Reply::empty())
}

/// A new key and its name: the key's own record, then the name's, which tells the key's id. Whoever comes second takes what
/// is there by then.
pub(super) async fn make(scope: &Scope<'_>, name: &str, derived: bool) -> Result<KeyEntry, VaultError> {
    check_name(name)?;
    let kind = config::check_new(&scope.call.body)?;
    let period = config::period(&scope.call.body)?.unwrap_or(0);
    let description = Description::parse(&format!("transit {}{name}", scope.mount_path));
    let command = CreateKey {
        spec: kind.spec(),
        usage: None,
        level: None,
        description: description.map_err(|_| VaultError::field("name", "too long"))?,
        client_request_id: None,
    };
    let made = through(scope)?.create_key(command).await;
    scope.was_recorded();
    let id = made.map_err(wire::told)?.key_id;
    let entry = KeyEntry {
        key_id: id.to_string(),
        kind,
        derived,
        min_decryption_version: 1,
        min_encryption_version: 0,
        min_available_version: 0,
        deletion_allowed: false,
        auto_rotate_secs: period,
        due: if period == 0 { 0 } else { scope.now().plus(Duration::from_secs(period)).unix_millis() },
    };
    let view = scope.view()?;
    let (tree, path) = (Tree::new(&view, LIST), path(&view, name)?);
    for _ in 0..ATTEMPTS_MAX {
        let batch = tree.add(scope.batch()?.absent(path.clone()), name).await?;
        let batch = auto::queue(scope, put(&view, batch, path.clone(), &entry)?, name, &entry)?;
        match commit(scope, batch, &id).await {
            Ok(()) => return Ok(entry),
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some((theirs, _)) = load(&view, &path).await? {
            // nobody ever knew this one
            through(scope)?.schedule_deletion(id, WINDOW_DAYS).await.map_err(wire::told)?;
            return Ok(theirs);
        }
    }
    Err(VaultError::Conflict)
}

/// With a record that names the key.
pub(super) async fn commit(scope: &Scope<'_>, batch: storage::Batch, id: &KeyId) -> Result<(), ChangeError> {
    let item = Item { index: 0, key_id: Some(id.to_string()), outcome: Outcome::Done, context_hmac: None };
    scope.commit_with(batch, &[item]).await.map(|_| ())
}

pub(super) async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let entry = find(&scope.view()?, name).await?.ok_or(VaultError::NotFound)?;
    let record = scope.vault.kms().known(&entry.id()?).await.map_err(wire::told)?;
    let versions = available(&entry, &record).map(|version| Ok((version.number, shown(entry.kind, version)?)));
    let encrypts = entry.kind.encrypts();
    Reply::data(&Shown {
        allow_plaintext_backup: false,
        auto_rotate_period: entry.auto_rotate_secs,
        deletion_allowed: entry.deletion_allowed,
        derived: entry.derived,
        exportable: false,
        imported_key: false,
        keys: versions.collect::<Result<_, VaultError>>()?,
        latest_version: latest(&record),
        min_available_version: entry.min_available_version,
        min_decryption_version: entry.min_decryption_version,
        min_encryption_version: entry.min_encryption_version,
        name,
        supports_decryption: encrypts,
        supports_derivation: encrypts,
        supports_encryption: encrypts,
        supports_signing: entry.kind.signs(),
        kind: entry.kind,
        kms_key_id: &entry.key_id,
    })
}

pub(super) async fn export_public(scope: &Scope<'_>, name: &str, version: Option<&&str>) -> Result<Reply, VaultError> {
    let entry = find(&scope.view()?, name).await?.ok_or(VaultError::NotFound)?;
    if !entry.kind.signs() {
        return Err(never_leaves());
    }
    let record = scope.vault.kms().known(&entry.id()?).await.map_err(wire::told)?;
    let asked = match version.copied() {
        None => None,
        Some("latest") => Some(latest(&record)),
        Some(text) => Some(text.parse().map_err(|_| VaultError::field("version", "a number, or latest"))?),
    };
    let versions = available(&entry, &record).filter(|version| asked.is_none_or(|asked| asked == version.number));
    let keys: BTreeMap<u32, String> = versions
        .map(|version| Ok((version.number, public_key(entry.kind, version)?)))
        .collect::<Result<_, VaultError>>()?;
    if keys.is_empty() {
        return Err(VaultError::NotFound);
    }
    Reply::data(&Exported { keys, name, kind: entry.kind })
}

pub(super) async fn rotate(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let named = Named::of(scope, name, NO_KEY).await?;
    let rotated = named.kms()?.rotate(named.id).await;
    scope.was_recorded();
    rotated.map_err(wire::told)?;
    Ok(Reply::empty())
}

/// The key is scheduled for deletion, then its name goes: what fails in between is done by the next attempt.
pub(super) async fn delete(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let (tree, path) = (Tree::new(&view, LIST), path(&view, name)?);
    for _ in 0..ATTEMPTS_MAX {
        let found = load(&view, &path).await?;
        let (entry, revision) = found.ok_or(VaultError::Invalid("could not delete key; not found".into()))?;
        if !entry.deletion_allowed {
            return Err(VaultError::Invalid("deletion is not allowed for this key".into()));
        }
        let id = entry.id()?;
        let scheduled = through(scope)?.schedule_deletion(id, WINDOW_DAYS).await;
        scope.was_recorded();
        match scheduled {
            Ok(_) | Err(KmsError::KeyPendingDeletion | KmsError::KeyDeleted) => {}
            Err(error) => return Err(wire::told(error)),
        }
        let batch = scope.batch()?.revision_is(path.clone(), revision).delete(path.clone());
        let batch = auto::unqueue(scope, tree.remove(batch, name)?, &entry)?;
        match commit(scope, batch, &id).await {
            Ok(()) => return Ok(Reply::empty()),
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

pub(super) fn latest(record: &KeyRecord) -> u32 {
    record.versions.last().map_or(0, |version| version.number)
}

/// Versions that may still be used.
fn available<'r>(entry: &KeyEntry, record: &'r KeyRecord) -> impl Iterator<Item = &'r KeyVersion> {
    let first = entry.min_decryption_version.max(entry.min_available_version);
    record.versions.iter().filter(move |version| version.number >= first)
}

fn shown(kind: Type, version: &KeyVersion) -> Result<ShownVersion, VaultError> {
    if !kind.signs() {
        return Ok(ShownVersion::Symmetric(version.created.unix_secs()));
    }
    Ok(ShownVersion::Pair {
        certificate_chain: "",
        creation_time: rfc3339(Timestamp::from_unix_millis(version.created.unix_millis())),
        name: if kind == Type::EcdsaP256 { "P-256" } else { kind.name() },
        public_key: public_key(kind, version)?,
    })
}

/// PEM; of Ed25519 the key's 32 bytes in base64.
fn public_key(kind: Type, version: &KeyVersion) -> Result<String, VaultError> {
    let Some(material) = &version.material else { return Ok(String::new()) };
    let spki = &material.public_key;
    if kind == Type::Ed25519 {
        // RFC 8410 §4: they are the last of a SubjectPublicKeyInfo
        let raw = spki.len().checked_sub(32).and_then(|at| spki.get(at..));
        let raw = raw.ok_or_else(|| VaultError::Internal("a public key is of its type".into()))?;
        return Ok(wire::base64(raw).to_string());
    }
    let text = wire::base64(spki);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    Ok(pem)
}

/// The shortest that the key domain has.
const WINDOW_DAYS: u32 = 7;
pub(super) const NO_KEY: &str = "no existing key of this name could be found";
