//! What is kept of a secret beside its data: read, written, deleted with everything; which version is served.

use super::data::{begin, shed};
use super::last_read::{self, millis, noted_at};
use super::meta::{Config, Meta, VERSIONS_MAX};
use super::{ATTEMPTS_MAX, CONFIG, Secret, config};
use crate::body::Body;
use crate::clock::rfc3339;
use crate::duration;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use envelope::Timestamp;
use identity::ChangeError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Replace,
    Merge,
}

#[derive(Serialize)]
struct Shown<'a> {
    cas_required: bool,
    created_time: String,
    current_version: u32,
    custom_metadata: Option<&'a BTreeMap<String, String>>,
    delete_version_after: String,
    max_versions: u32,
    oldest_version: u32,
    updated_time: String,
    pending_version: Option<u32>,
    previous_version: Option<u32>,
    versions: BTreeMap<String, ShownVersion>,
}

#[derive(Serialize)]
struct ShownVersion {
    created_time: String,
    deletion_time: String,
    destroyed: bool,
    labels: Vec<&'static str>,
    last_read_time: String,
}

pub(super) async fn read(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let meta = secret.meta().await?.ok_or(VaultError::NotFound)?;
    let reads = last_reads(scope, secret, &meta).await?;
    let mut versions = BTreeMap::new();
    for ((number, version), read) in meta.versions.iter().zip(reads) {
        let shown = ShownVersion {
            created_time: rfc3339(Timestamp::from_unix_millis(version.created)),
            deletion_time: version.deletion_time(),
            destroyed: version.destroyed,
            labels: meta.labels(*number),
            last_read_time: if read == 0 { String::new() } else { rfc3339(Timestamp::from_unix_millis(read)) },
        };
        versions.insert(number.to_string(), shown);
    }
    Reply::data(&Shown {
        cas_required: meta.cas_required,
        created_time: rfc3339(Timestamp::from_unix_millis(meta.created)),
        current_version: meta.current(),
        custom_metadata: (!meta.custom.is_empty()).then_some(&meta.custom),
        delete_version_after: duration::show(Duration::from_secs(meta.delete_version_after_secs)),
        max_versions: meta.max_versions,
        oldest_version: meta.versions.keys().next().copied().filter(|oldest| *oldest > 1).unwrap_or(0),
        updated_time: rfc3339(Timestamp::from_unix_millis(meta.updated)),
        pending_version: meta.pending(),
        previous_version: meta.previous,
        versions,
    })
}

/// When each version was read last, in the versions' order; zero: never.
async fn last_reads(scope: &Scope<'_>, secret: &Secret<'_>, meta: &Meta) -> Result<Vec<u64>, VaultError> {
    let data = meta.versions.keys().map(|number| secret.data_path(*number)).collect::<Result<Vec<_>, _>>()?;
    let notes = secret.view.load_all(&data.iter().map(noted_at).collect::<Result<Vec<_>, _>>()?).await?;
    let read = data.iter().zip(notes).zip(meta.versions.values()).map(|((path, note), version)| {
        let noted = note.map_or(0, |note| millis(note.value.expose()));
        let read = noted.max(scope.vault.last_reads().of(path));
        // of another version, which stood there before everything was deleted
        if read < version.created { 0 } else { read }
    });
    Ok(read.collect())
}

pub(super) async fn configure(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let (body, path) = (&scope.call.body, view.path(CONFIG)?);
    for _ in 0..ATTEMPTS_MAX {
        let (mut config, batch) = match view.load(&path).await? {
            Some(found) => {
                (Config::decode(found.value.expose())?, scope.batch()?.revision_is(path.clone(), found.revision))
            }
            None => (Config::default(), scope.batch()?.absent(path.clone())),
        };
        if let Some(max) = max_versions(body)? {
            config.max_versions = max;
        }
        if let Some(required) = body.bool("cas_required")? {
            config.cas_required = required;
        }
        if body.has("delete_version_after") {
            config.delete_version_after_secs = delete_after(body)?;
        }
        let text = serde_json::to_vec(&config).map_err(|_| VaultError::Internal("a configuration".into()))?;
        match scope.commit(view.put(batch, path.clone(), &text)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

fn max_versions(body: &Body) -> Result<Option<u32>, VaultError> {
    body.count("max_versions", VERSIONS_MAX)
}

fn delete_after(body: &Body) -> Result<u64, VaultError> {
    Ok(body.duration("delete_version_after")?.map_or(0, |after| after.as_secs()))
}

pub(super) async fn write(scope: &Scope<'_>, secret: &Secret<'_>, way: Way) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let config = config(secret.view).await?;
    for _ in 0..ATTEMPTS_MAX {
        let found = secret.load().await?;
        if found.is_none() && way == Way::Merge {
            return Err(VaultError::NotFound);
        }
        let (batch, mut meta) = begin(scope, secret, found).await?;
        if let Some(max) = max_versions(body)? {
            meta.max_versions = max;
        }
        if let Some(required) = body.bool("cas_required")? {
            meta.cas_required = required;
        }
        if body.has("delete_version_after") {
            meta.delete_version_after_secs = delete_after(body)?;
        }
        custom(&mut meta, body, way)?;
        meta.updated = scope.now().unix_millis();
        let batch = shed(secret, batch, &mut meta, &config)?;
        let batch = secret.view.put(batch, secret.meta_path.clone(), &meta.encode()?)?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// Vault's bounds: 64 keys of 128 bytes, values of 512. In a merge null takes a key out.
fn custom(meta: &mut Meta, body: &Body, way: Way) -> Result<(), VaultError> {
    let wrong = |why: &'static str| VaultError::field("custom_metadata", why);
    let Some(raw) = body.object("custom_metadata")? else { return Ok(()) };
    let told: BTreeMap<String, Option<String>> =
        serde_json::from_str(raw).map_err(|_| wrong("not an object of strings"))?;
    if way == Way::Replace {
        meta.custom.clear();
    }
    for (key, value) in told {
        match value {
            Some(value) => {
                if key.is_empty() || key.len() > 128 || value.len() > 512 {
                    return Err(wrong("a key has 1 to 128 bytes, a value at most 512"));
                }
                meta.custom.insert(key, value);
            }
            None => {
                meta.custom.remove(&key);
            }
        }
    }
    if meta.custom.len() > 64 { Err(wrong("more than 64 keys")) } else { Ok(()) }
}

/// All of it goes: every version, and the name. With very many versions and notes, in several commits.
pub(super) async fn delete(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some((mut meta, revision)) = secret.load().await? else { return Ok(Reply::empty()) };
        let before = meta.versions.clone();
        let numbers: Vec<u32> = before.keys().copied().collect();
        let (now, later) = numbers.split_at(numbers.len().min(DELETED_AT_ONCE));
        let mut batch = scope.batch()?.revision_is(secret.meta_path.clone(), revision);
        for number in now {
            let path = secret.data_path(*number)?;
            batch = batch.delete(noted_at(&path)?).delete(path);
            meta.versions.remove(number);
        }
        // of versions that went before
        let (notes, more) = last_read::notes(scope.vault, &secret.root).await?;
        let outlived: Vec<_> = notes.into_iter().filter(|note| note.outlives(&before)).collect();
        let free = 2 * (DELETED_AT_ONCE - now.len());
        let over = later.is_empty() && outlived.len() <= free && !more;
        batch = outlived.into_iter().take(free).fold(batch, |batch, note| batch.delete(note.path));
        let batch = if over {
            let batch = secret.forget_rotation(batch.delete(secret.meta_path.clone()))?;
            secret.tree().remove(batch, secret.name)?
        } else {
            secret.view.put(batch, secret.meta_path.clone(), &meta.encode()?)?
        };
        match scope.commit(batch).await {
            Ok(_) if over => {
                secret.tree().prune(scope, secret.name).await;
                return Ok(Reply::empty());
            }
            Ok(_) | Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

/// `version`, or the pending one, is served from now on; the one before is kept as `previous`.
pub(super) async fn promote(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let asked = scope.call.body.count("version", u32::MAX)?.filter(|number| *number > 0);
    for _ in 0..ATTEMPTS_MAX {
        let (mut meta, revision) = secret.load().await?.ok_or(VaultError::NotFound)?;
        let number = asked.or(meta.pending()).ok_or_else(|| VaultError::Invalid("no version is pending".into()))?;
        let version = meta.versions.get(&number).copied().ok_or(VaultError::NotFound)?;
        if !version.is_readable(scope.now()) {
            return Err(VaultError::field("version", "deleted or destroyed"));
        }
        meta.promote(number, scope.now());
        let batch = scope.batch()?.revision_is(secret.meta_path.clone(), revision);
        match scope.commit(secret.view.put(batch, secret.meta_path.clone(), &meta.encode()?)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Reply::data(&BTreeMap::from([
                    ("current_version", Some(meta.current())),
                    ("previous_version", meta.previous),
                    ("pending_version", meta.pending()),
                ]));
            }
        }
    }
    Err(VaultError::Conflict)
}

/// Two deletions each, beside the rest of a commit.
const DELETED_AT_ONCE: usize = 50;
