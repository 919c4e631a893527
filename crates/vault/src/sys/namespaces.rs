//! `sys/namespaces`: made, told, changed, dropped; each right below the one that is asked in.
//!
//! # Divergences
//!
//! - A namespace is dropped only when none stands below it. It serves nothing from that moment on; what it stored is dropped by
//!   and by, and its name may be given anew meanwhile. So none is ever `tainted`.
//! - Locking (`api-lock`) is refused by name; none is ever `locked`. Nor are there seals of its own.

use crate::body::Body;
use crate::call::Verb;
use crate::error::VaultError;
use crate::gone;
use crate::mount::Table;
use crate::namespace::{DEPTH_MAX, Entry, FIRST_MOUNTS, NAMESPACES_MAX, PATH_BYTES_MAX, Tree, parse_name};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use identity::ChangeError;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::Batch;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["namespaces", "api-lock", ..], _) => Err(VaultError::Invalid("namespaces are not locked here".into())),
        (["namespaces"], Verb::List) => list(scope).await,
        (["namespaces"], _) => Err(VaultError::Unsupported),
        (["namespaces", name], Verb::Read) => read(scope, parse_name(name)?).await,
        (["namespaces", name], Verb::Write) => write(scope, parse_name(name)?, given(&scope.call.body)?).await,
        (["namespaces", name], Verb::Patch) => patch(scope, parse_name(name)?).await,
        (["namespaces", name], Verb::Delete) => delete(scope, parse_name(name)?).await,
        (["namespaces", _], Verb::List) => Err(VaultError::Unsupported),
        (["namespaces", rest @ ..], _) => parse_name(&rest.join("/")).and(Err(VaultError::Unsupported)),
        _ => Err(scope.no_route()),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    path: String,
    uuid: String,
    custom_metadata: &'a BTreeMap<String, String>,
    tainted: bool,
    locked: bool,
}

fn shown<'a>(path: String, entry: &'a Entry) -> Result<Shown<'a>, VaultError> {
    let (uuid, custom_metadata) = (uuid(&entry.tenant()?), &entry.custom_metadata);
    Ok(Shown { id: &entry.id, path, uuid, custom_metadata, tainted: false, locked: false })
}

fn path_of(scope: &Scope<'_>, name: &str) -> String {
    format!("{}{name}/", scope.vault.namespace())
}

/// Those right below; with `scan`, all below.
async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Listed<'a> {
        keys: Vec<&'a str>,
        key_info: BTreeMap<&'a str, Shown<'a>>,
    }
    let scans = scope.call.parameter("scan") == Some("true");
    let (tree, _, _) = scope.vault.load_tree().await?;
    let above = scope.vault.namespace();
    let found = tree.below(above).filter(|(path, _)| scans || path.matches('/').count() == 1);
    let mut listed = Listed { keys: Vec::new(), key_info: BTreeMap::new() };
    for (path, entry) in found {
        listed.keys.push(path);
        listed.key_info.insert(path, shown(format!("{above}{path}"), entry)?);
    }
    if listed.keys.is_empty() { Err(VaultError::NotFound) } else { Reply::data(&listed) }
}

async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let (tree, _, _) = scope.vault.load_tree().await?;
    let path = path_of(scope, name);
    let entry = tree.get(&path).ok_or(VaultError::NotFound)?;
    Reply::data(&shown(path, entry)?)
}

/// What is given as metadata, if anything is.
fn given(body: &Body) -> Result<Option<BTreeMap<String, String>>, VaultError> {
    let metadata = body.map("custom_metadata")?;
    if let Some(metadata) = &metadata {
        check(metadata)?;
    }
    Ok(metadata)
}

fn check(metadata: &BTreeMap<String, String>) -> Result<(), VaultError> {
    let fits =
        |(key, value): (&String, &String)| (1..=KEY_BYTES_MAX).contains(&key.len()) && value.len() <= VALUE_BYTES_MAX;
    if metadata.len() > PAIRS_MAX || !metadata.iter().all(fits) {
        let told = format!(
            "more than {PAIRS_MAX} pairs, or a key beyond {KEY_BYTES_MAX} or a value beyond {VALUE_BYTES_MAX} bytes"
        );
        return Err(VaultError::field("custom_metadata", told));
    }
    Ok(())
}

async fn write(scope: &Scope<'_>, name: &str, metadata: Option<BTreeMap<String, String>>) -> Result<Reply, VaultError> {
    let path = path_of(scope, name);
    for _ in 0..ATTEMPTS_MAX {
        let (mut tree, revision, _) = scope.vault.load_tree().await?;
        let batch = scope.vault.while_tree(scope.batch()?, revision)?;
        let batch = if let Some(entry) = tree.get_mut(&path) {
            entry.custom_metadata = metadata.clone().unwrap_or_else(|| entry.custom_metadata.clone());
            batch
        } else {
            make(scope, batch, &mut tree, (name, &path), metadata.clone().unwrap_or_default()).await?
        };
        match scope.commit(scope.vault.put_tree(batch, &tree)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let entry = tree.get(&path).ok_or_else(crate::namespace::unreadable)?;
                return Reply::data(&shown(path.clone(), entry)?);
            }
        }
    }
    Err(VaultError::Conflict)
}

/// Adds a new one, with its first mounts, where no mount is in its way.
async fn make(
    scope: &Scope<'_>,
    batch: Batch,
    tree: &mut Tree,
    (name, path): (&str, &str),
    custom_metadata: BTreeMap<String, String>,
) -> Result<Batch, VaultError> {
    let above = scope.vault.namespace();
    // it may have been dropped since it was asked in
    if !above.is_empty() && tree.get(above).is_none() {
        return Err(VaultError::NoNamespace);
    }
    if path.matches('/').count() > DEPTH_MAX || path.len() > PATH_BYTES_MAX {
        return Err(VaultError::Limited(
            format!("deeper than {DEPTH_MAX}, or more than {PATH_BYTES_MAX} bytes").into(),
        ));
    }
    if tree.len() >= NAMESPACES_MAX {
        return Err(VaultError::Limited(format!("more than {NAMESPACES_MAX} namespaces").into()));
    }
    let (mounts, revision, _) = scope.vault.load_table().await?;
    if mounts.is_taken(&format!("{name}/")) {
        return Err(VaultError::Invalid(format!("path is already in use by a mount at {name}/").into()));
    }
    let batch = batch.revision_is(scope.vault.mounts_path()?, revision);
    let tenant = hex::encode(scope.vault.barrier().random::<16>()?);
    let entry = Entry { tenant, id: new_id(scope, tree)?, created: scope.now().unix_millis(), custom_metadata };
    let vault = scope.vault.within(&Arc::from(path), &entry)?;
    let mut table = Table::default();
    for (at, kind, description) in FIRST_MOUNTS {
        table.add(at, vault.new_mount(kind, description, scope.now())?)?;
    }
    tree.add(path.to_owned(), entry);
    vault.put_first_mounts(batch, &table)
}

/// Six characters that no other has.
fn new_id(scope: &Scope<'_>, tree: &Tree) -> Result<String, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let random = scope.vault.barrier().random::<6>()?;
        let id: String = random.iter().filter_map(|byte| char::from_digit(u32::from(*byte) % 36, 36)).collect();
        if tree.marked(&id).is_none() {
            return Ok(id);
        }
    }
    Err(VaultError::Conflict)
}

/// RFC 7396: what is null goes.
async fn patch(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let raw = scope.call.body.object("custom_metadata")?.unwrap_or("{}");
    let changes: BTreeMap<String, Option<Box<RawValue>>> = serde_json::from_str(raw).map_err(|_| not_strings())?;
    let mut named = BTreeMap::new();
    for (key, value) in changes {
        let value: Option<String> = match value {
            Some(value) => serde_json::from_str(value.get()).map_err(|_| not_strings())?,
            None => None,
        };
        named.insert(key, value);
    }
    let path = path_of(scope, name);
    for _ in 0..ATTEMPTS_MAX {
        let (mut tree, revision, _) = scope.vault.load_tree().await?;
        let entry = tree.get_mut(&path).ok_or(VaultError::NotFound)?;
        for (key, value) in &named {
            match value {
                Some(value) => drop(entry.custom_metadata.insert(key.clone(), value.clone())),
                None => drop(entry.custom_metadata.remove(key)),
            }
        }
        check(&entry.custom_metadata)?;
        let reply = Reply::data(&shown(path.clone(), entry)?)?;
        let batch = scope.vault.while_tree(scope.batch()?, revision)?;
        match scope.commit(scope.vault.put_tree(batch, &tree)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(reply),
        }
    }
    Err(VaultError::Conflict)
}

fn not_strings() -> VaultError {
    VaultError::field("custom_metadata", "not an object of strings")
}

/// From then on nothing of it is served.
async fn delete(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let path = path_of(scope, name);
    for _ in 0..ATTEMPTS_MAX {
        let (mut tree, revision, _) = scope.vault.load_tree().await?;
        if tree.below(&path).next().is_some() {
            return Err(VaultError::Invalid(format!("cannot delete {path}: there are namespaces below it").into()));
        }
        let Some(entry) = tree.remove(&path) else {
            return Ok(Reply::empty().warning("requested namespace does not exist"));
        };
        let batch = scope.vault.while_tree(scope.batch()?, revision)?;
        let batch = gone::leave_namespace(scope.vault, batch, &entry.tenant, scope.now())?;
        match scope.commit(scope.vault.put_tree(batch, &tree)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Reply::data(&BTreeMap::from([("status", "in-progress")])),
        }
    }
    Err(VaultError::Conflict)
}

const PAIRS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 512;
const ATTEMPTS_MAX: usize = 16;
