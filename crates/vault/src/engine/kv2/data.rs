//! The data of versions: read, written, patched, deleted, destroyed.

use super::meta::{Config, Meta, Version};
use super::{ATTEMPTS_MAX, Secret, config, merge};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use identity::ChangeError;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use storage::{Batch, Revision};

/// What becomes of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Deleted,
    Undeleted,
    Destroyed,
}

#[derive(Serialize)]
struct Shown<'a, M: Serialize> {
    data: Option<&'a RawValue>,
    metadata: M,
}

/// The version that is asked for: by number, by label, or the current one.
fn asked(scope: &Scope<'_>, meta: &Meta) -> Result<u32, VaultError> {
    let number = scope.call.count("version", u32::MAX)?.filter(|number| *number > 0);
    match (number, scope.call.parameter("label")) {
        (Some(_), Some(_)) => Err(VaultError::field("label", "beside `version`")),
        (Some(number), None) => Ok(number),
        (None, Some(label)) => meta.labelled(label)?.ok_or(VaultError::NotFound),
        (None, None) => Ok(meta.current()),
    }
}

pub(super) async fn read(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let meta = secret.meta().await?.ok_or(VaultError::NotFound)?;
    let number = asked(scope, &meta)?;
    let version = *meta.versions.get(&number).ok_or(VaultError::NotFound)?;
    let metadata = meta.shown(number, version);
    if !version.is_readable(scope.now()) {
        let gone = Text::of(&Shown { data: None, metadata });
        return Err(gone.map_or(VaultError::NotFound, VaultError::Gone));
    }
    let path = secret.data_path(number)?;
    let found = secret.view.read(&path).await?;
    // a change on its way: metadata was read before it, data after
    let found = found.as_ref().as_ref().ok_or(VaultError::Conflict)?;
    let data = json(found.value.expose())?;
    scope.vault.last_reads().tell(&path, scope.now());
    Reply::data(&Shown { data: Some(data), metadata })
}

pub(super) async fn write(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let data = scope.call.body.object("data")?;
    let data = data.ok_or_else(|| VaultError::field("data", "missing: `{\"data\": {…}}` is written"))?;
    let wish = Wish::of(scope)?;
    put(scope, secret, &wish, |_| Ok(Some(Text::copy_from(data)))).await
}

/// RFC 7396 on the current version.
pub(super) async fn patch(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let patch = scope.call.body.object("data")?;
    let patch = patch.ok_or_else(|| VaultError::field("data", "missing: `{\"data\": {…}}` is merged in"))?;
    let patch: &RawValue = serde_json::from_str(patch).map_err(|_| VaultError::field("data", "no JSON object"))?;
    let wish = Wish::of(scope)?;
    put(scope, secret, &wish, |current| {
        let Some(current) = current else { return Ok(None) };
        let text = Text::of(&merge::merged(Some(json(current)?), patch)?);
        text.map(Some).ok_or_else(|| VaultError::Internal("JSON".into()))
    })
    .await
}

/// A version's data, as it is stored.
fn json(stored: &[u8]) -> Result<&RawValue, VaultError> {
    serde_json::from_slice(stored).map_err(|_| VaultError::Internal("a version's data cannot be read".into()))
}

/// What a write asks for beside its data.
struct Wish {
    cas: Option<u32>,
    staged: bool,
}

impl Wish {
    fn of(scope: &Scope<'_>) -> Result<Self, VaultError> {
        let Some(options) = scope.call.body.inner("options")? else { return Ok(Self { cas: None, staged: false }) };
        let staged = match options.string("label")?.as_deref().map(String::as_str) {
            None | Some("" | "current") => false,
            Some("pending") => true,
            Some(_) => return Err(VaultError::field("options.label", "neither current nor pending")),
        };
        let cas = options.count("cas", u32::MAX);
        Ok(Self { cas: cas.map_err(|_| VaultError::field("options.cas", "not a version's number"))?, staged })
    }

    fn check(&self, required: bool, latest: u32) -> Result<(), VaultError> {
        match self.cas {
            Some(cas) if cas == latest => Ok(()),
            Some(_) => Err(VaultError::Invalid("check-and-set parameter did not match the current version".into())),
            None if required => Err(VaultError::Invalid("check-and-set parameter required for this call".into())),
            None => Ok(()),
        }
    }
}

/// Adds a version of what `make` makes of the current data; nothing is not found.
///
/// First on what is known already: whether it was asked whether the secret is there has just read it. What is outdated
/// neither commits nor refuses anybody.
async fn put(
    scope: &Scope<'_>,
    secret: &Secret<'_>,
    wish: &Wish,
    make: impl Fn(Option<&[u8]>) -> Result<Option<Text>, VaultError> + Send + Sync,
) -> Result<Reply, VaultError> {
    let config = config(secret.view).await?;
    for attempt in 0..ATTEMPTS_MAX {
        let found = if attempt == 0 { secret.known().await? } else { secret.load().await? };
        let Prepared { batch, meta, encoded, number } = match prepare(scope, secret, wish, &config, found, &make).await
        {
            Err(_) if attempt == 0 => continue,
            prepared => prepared?,
        };
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(revision) => {
                secret.view.keep(secret.meta_path.clone(), &encoded, revision);
                let version = meta.versions.get(&number).copied().unwrap_or_default();
                return Reply::data(&meta.shown(number, version));
            }
        }
    }
    Err(VaultError::Conflict)
}

/// What adds a version.
struct Prepared {
    batch: Batch,
    meta: Meta,
    /// As it is stored.
    encoded: Vec<u8>,
    number: u32,
}

async fn prepare(
    scope: &Scope<'_>,
    secret: &Secret<'_>,
    wish: &Wish,
    config: &Config,
    found: Option<(Meta, Revision)>,
    make: &(impl Fn(Option<&[u8]>) -> Result<Option<Text>, VaultError> + Send + Sync),
) -> Result<Prepared, VaultError> {
    let current = match &found {
        Some((meta, _)) if scope.call.verb == crate::call::Verb::Patch => current_data(scope, secret, meta).await?,
        Some(_) | None => None,
    };
    let data = make(current.as_ref().map(|current| current.value.expose()))?.ok_or(VaultError::NotFound)?;
    let (batch, mut meta) = begin(scope, secret, found).await?;
    wish.check(config.cas_required || meta.cas_required, meta.latest)?;
    let number = meta.add(config, scope.now(), wish.staged)?;
    let batch = secret.view.put(batch, secret.data_path(number)?, data.as_bytes())?;
    let batch = shed(secret, batch, &mut meta, config)?;
    let encoded = meta.encode()?;
    let batch = secret.view.put(batch, secret.meta_path.clone(), &encoded)?;
    Ok(Prepared { batch, meta, encoded, number })
}

async fn current_data(
    scope: &Scope<'_>,
    secret: &Secret<'_>,
    meta: &Meta,
) -> Result<Option<storage::Opened>, VaultError> {
    let number = meta.current();
    match meta.versions.get(&number).filter(|version| version.is_readable(scope.now())) {
        Some(_) => secret.view.load(&secret.data_path(number)?).await,
        None => Ok(None),
    }
}

/// A batch that changes what was found, or makes the secret.
pub(super) async fn begin(
    scope: &Scope<'_>,
    secret: &Secret<'_>,
    found: Option<(Meta, Revision)>,
) -> Result<(Batch, Meta), VaultError> {
    let batch = scope.batch()?;
    match found {
        Some((meta, revision)) => {
            scope.may_change()?;
            Ok((batch.revision_is(secret.meta_path.clone(), revision), meta))
        }
        None => {
            let batch = secret.tree().add(batch.absent(secret.meta_path.clone()), secret.name).await?;
            Ok((batch, Meta::new(scope.now())))
        }
    }
}

pub(super) fn shed(
    secret: &Secret<'_>,
    mut batch: Batch,
    meta: &mut Meta,
    config: &Config,
) -> Result<Batch, VaultError> {
    for gone in meta.shed(meta.kept_versions(config)) {
        batch = batch.delete(secret.data_path(gone)?);
    }
    Ok(batch)
}

/// The current version is deleted, and can come back. To delete what is not there succeeds.
pub(super) async fn delete_latest(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    change(scope, secret, Fate::Deleted, None).await
}

pub(super) async fn change_versions(scope: &Scope<'_>, secret: &Secret<'_>, fate: Fate) -> Result<Reply, VaultError> {
    let wrong = || VaultError::field("versions", "1 to 100 numbers of versions");
    let numbers: Vec<u32> = match scope.call.body.raw("versions") {
        Some(raw) if raw.starts_with('[') => numbers(raw).ok_or_else(wrong)?,
        Some(_) => {
            let list = scope.call.body.list("versions")?.unwrap_or_default();
            list.iter().map(|text| text.parse().ok()).collect::<Option<_>>().ok_or_else(wrong)?
        }
        None => return Err(wrong()),
    };
    if numbers.is_empty() || numbers.len() > super::meta::VERSIONS_MAX as usize {
        return Err(wrong());
    }
    change(scope, secret, fate, Some(&numbers)).await
}

/// Numbers, or numbers in strings.
fn numbers(raw: &str) -> Option<Vec<u32>> {
    let found: Vec<Value> = serde_json::from_str(raw).ok()?;
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    found.iter().map(number).collect()
}

async fn change(
    scope: &Scope<'_>,
    secret: &Secret<'_>,
    fate: Fate,
    numbers: Option<&[u32]>,
) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some((mut meta, revision)) = secret.load().await? else { return Ok(Reply::empty()) };
        let current = [meta.current()];
        let mut batch = scope.batch()?.revision_is(secret.meta_path.clone(), revision);
        for number in numbers.unwrap_or(&current) {
            let Some(version) = meta.versions.get_mut(number) else { continue };
            apply(version, fate, scope.now());
            if version.destroyed {
                batch = batch.delete(secret.data_path(*number)?);
            }
        }
        meta.updated = scope.now().unix_millis();
        let batch = secret.view.put(batch, secret.meta_path.clone(), &meta.encode()?)?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

fn apply(version: &mut Version, fate: Fate, now: envelope::Timestamp) {
    match fate {
        Fate::Deleted if version.is_readable(now) => version.deleted = now.unix_millis(),
        Fate::Undeleted if !version.destroyed => version.deleted = 0,
        Fate::Destroyed => version.destroyed = true,
        Fate::Deleted | Fate::Undeleted => {}
    }
}

/// The structure of a version, without its values.
pub(super) async fn subkeys(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    let depth = scope.call.count("depth", 128)?.filter(|depth| *depth > 0).unwrap_or(u32::MAX);
    let meta = secret.meta().await?.ok_or(VaultError::NotFound)?;
    let number = asked(scope, &meta)?;
    let version = *meta.versions.get(&number).ok_or(VaultError::NotFound)?;
    if !version.is_readable(scope.now()) {
        return Err(VaultError::NotFound);
    }
    let found = secret.view.read(&secret.data_path(number)?).await?;
    let found = found.as_ref().as_ref().ok_or(VaultError::Conflict)?;
    #[derive(Serialize)]
    struct Shown<M: Serialize> {
        subkeys: merge::Subkeys,
        metadata: M,
    }
    let subkeys = merge::subkeys(json(found.value.expose())?, depth)?;
    Reply::data(&Shown { subkeys, metadata: meta.shown(number, version) })
}
