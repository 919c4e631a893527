//! What of a key can be set: which versions may be used, how often it is rotated, whether it may be deleted.

use super::admin::{self, NO_KEY};
use super::key::{KeyEntry, Type, load, path, put, through};
use super::{ATTEMPTS_MAX, auto, wire};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use identity::ChangeError;
use kms::{KeyId, KeyRecord};
use std::time::Duration;

/// What a new key is to be. What keys here never are is refused by name.
pub(super) fn check_new(body: &Body) -> Result<Type, VaultError> {
    check_refused(body)?;
    let kind = body.string("type")?.filter(|text| !text.is_empty());
    let kind = kind.map_or(Ok(Type::Aes256), |text| Type::parse(&text))?;
    if body.bool("convergent_encryption")? == Some(true) {
        return Err(VaultError::field("convergent_encryption", "not supported: equal plaintexts would be told"));
    }
    match body.count("key_size", u32::MAX)? {
        None | Some(0) => {}
        Some(32) if kind == Type::Hmac => {}
        Some(_) => return Err(VaultError::field("key_size", "0, or 32 for keys of type hmac")),
    }
    period(body)?;
    Ok(kind)
}

/// `auto_rotate_period` in seconds.
pub(super) fn period(body: &Body) -> Result<Option<u64>, VaultError> {
    if !body.has("auto_rotate_period") {
        return Ok(None);
    }
    match body.duration("auto_rotate_period")? {
        None => Ok(Some(0)),
        Some(period) if period >= PERIOD_MIN => Ok(Some(period.as_secs())),
        Some(_) => Err(VaultError::field("auto_rotate_period", "0, or at least an hour")),
    }
}

pub(super) async fn configure(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    check_refused(&scope.call.body)?;
    let period = period(&scope.call.body)?;
    let (reply, _) = change(scope, name, |entry, record| {
        set_versions(&scope.call.body, entry, admin::latest(record))?;
        if let Some(allowed) = scope.call.body.bool("deletion_allowed")? {
            entry.deletion_allowed = allowed;
        }
        if let Some(period) = period {
            entry.auto_rotate_secs = period;
            let made = record.versions.last().map_or(Timestamp::default(), |version| version.created);
            entry.due = if period == 0 { 0 } else { made.plus(Duration::from_secs(period)).unix_millis() };
        }
        Ok(())
    })
    .await?;
    Ok(reply)
}

/// Erases versions that nothing may use any more, for good. First they are said to be gone; asked again, they are erased
/// again, where that failed.
pub(super) async fn trim(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let asked = match body.count(MIN_AVAILABLE, u32::MAX)? {
        None => body.count("min_version", u32::MAX)?,
        asked => asked,
    };
    let first = asked.filter(|first| *first > 0).ok_or_else(|| VaultError::field(MIN_AVAILABLE, "missing"))?;
    let (_, id) = change(scope, name, |entry, _| {
        let why = if first < entry.min_available_version {
            "cannot be lowered: what was trimmed is gone"
        } else if entry.min_encryption_version == 0 {
            "min_encryption_version must be set before"
        } else if first > entry.min_encryption_version || first > entry.min_decryption_version {
            "above min_encryption_version or min_decryption_version"
        } else {
            entry.min_available_version = first;
            return Ok(());
        };
        Err(VaultError::field(MIN_AVAILABLE, why))
    })
    .await?;
    let erased = through(scope)?.erase_versions(id, first).await;
    scope.was_recorded();
    erased.map_err(wire::told)?;
    Ok(Reply::empty())
}

async fn change(
    scope: &Scope<'_>,
    name: &str,
    set: impl Fn(&mut KeyEntry, &KeyRecord) -> Result<(), VaultError> + Send,
) -> Result<(Reply, KeyId), VaultError> {
    let view = scope.view()?;
    let path = path(&view, name)?;
    for _ in 0..ATTEMPTS_MAX {
        let (old, revision) = load(&view, &path).await?.ok_or(VaultError::Invalid(NO_KEY.into()))?;
        let id = old.id()?;
        let record = scope.vault.kms().known(&id).await.map_err(wire::told)?;
        let mut entry = old.clone();
        set(&mut entry, &record)?;
        if entry == old {
            return Ok((Reply::empty(), id));
        }
        let batch = auto::unqueue(scope, scope.batch()?.revision_is(path.clone(), revision), &old)?;
        let batch = auto::queue(scope, put(&view, batch, path.clone(), &entry)?, name, &entry)?;
        match admin::commit(scope, batch, &id).await {
            Ok(()) => return Ok((Reply::empty(), id)),
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

fn set_versions(body: &Body, entry: &mut KeyEntry, latest: u32) -> Result<(), VaultError> {
    if let Some(version) = body.count(MIN_DECRYPTION, u32::MAX)? {
        let version = version.max(1);
        if version > latest || version < entry.min_available_version {
            return Err(VaultError::field(MIN_DECRYPTION, format!("not from the first version left to {latest}")));
        }
        entry.min_decryption_version = version;
    }
    if let Some(version) = body.count(MIN_ENCRYPTION, u32::MAX)? {
        if version > latest {
            return Err(VaultError::field(MIN_ENCRYPTION, format!("above the newest version, {latest}")));
        }
        entry.min_encryption_version = version;
    }
    let (decryption, encryption) = (entry.min_decryption_version, entry.min_encryption_version);
    if encryption != 0 && encryption < decryption.max(entry.min_available_version) {
        return Err(VaultError::field(MIN_ENCRYPTION, "0, or at least min_decryption_version"));
    }
    Ok(())
}

fn check_refused(body: &Body) -> Result<(), VaultError> {
    for field in ["exportable", "allow_plaintext_backup"] {
        if body.bool(field)? == Some(true) {
            return Err(VaultError::field(field, "not supported: keys never leave the boundary"));
        }
    }
    Ok(())
}

const MIN_AVAILABLE: &str = "min_available_version";
const MIN_DECRYPTION: &str = "min_decryption_version";
const MIN_ENCRYPTION: &str = "min_encryption_version";
const PERIOD_MIN: Duration = Duration::from_secs(3600);
