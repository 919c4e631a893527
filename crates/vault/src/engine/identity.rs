//! `identity/*`: entities, groups, and the names that auth methods know them by. What they are is identity's; here is how they
//! look.
//!
//! # Divergences
//! - What does not go into one commit takes several, each with a record: more than 40 members that change, and more than four
//!   entities of a `batch-delete`. A crash between leaves the first part done; who asks again gets the rest.
//! - Names have one spelling: nothing is folded or trimmed, and what has white space around it is refused.
//! - Merging unites neither policies nor metadata; there are no MFA secrets, OIDC providers or personas.

mod alias;
mod group;
mod person;

use crate::backend::{Access, Backend};
use crate::body::Body;
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::mount::AUTH;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::token::Meta;
use identity::{ChangeError, EntityId, EntityRef, IdentityError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::Pin;
use storage::Batch;
use zeroize::Zeroizing;

#[derive(Debug)]
pub struct Identity;

#[async_trait::async_trait]
impl Backend for Identity {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, _call: &Call, _path: &str) -> Access {
        Access::Policy
    }

    /// As Vault has it, all that is written here is an update.
    async fn exists(&self, _scope: &Scope<'_>) -> Result<bool, VaultError> {
        Ok(true)
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let path = scope.path.trim_end_matches('/');
        let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
        let (by, name) = rest.split_once('/').map_or((rest, None), |(by, name)| (by, Some(name)));
        match (kind, by, name) {
            ("entity", ..) => person::handle(scope, by, name).await,
            ("group", ..) => group::handle(scope, by, name).await,
            ("entity-alias", "" | "id", id) => alias::of_entities(scope, by, id).await,
            ("group-alias", "" | "id", id) => alias::of_groups(scope, by, id).await,
            ("lookup", "entity" | "group", None) if scope.call.verb == Verb::Write => lookup(scope, by).await,
            ("lookup", "entity" | "group", None) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// By `id`, `name`, `alias_id`, or `alias_name` and `alias_mount_accessor`. What is not there is an empty answer.
async fn lookup(scope: &Scope<'_>, what: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let text = |name: &'static str| Ok::<_, VaultError>(body.string(name)?.filter(|text| !text.is_empty()));
    let (id, name, alias_id) = (text("id")?, text("name")?, text("alias_id")?);
    let (alias_name, accessor) = (text("alias_name")?, text("alias_mount_accessor")?);
    let of = match (&id, &name, &alias_id, &alias_name, &accessor) {
        (Some(id), ..) => EntityId::parse(id).map(EntityRef::Id),
        (_, Some(name), ..) => Some(EntityRef::Name(name)),
        (_, _, Some(id), ..) => EntityId::parse(id).map(EntityRef::AliasId),
        (.., Some(name), Some(mount_accessor)) => Some(EntityRef::Alias { mount_accessor, name }),
        _ => {
            return Err(VaultError::field(
                "id",
                "give `id`, `name`, `alias_id`, or an alias's name and mount accessor",
            ));
        }
    };
    let Some(of) = of else { return Ok(Reply::empty()) };
    let shown = if what == "entity" { person::show(scope, of).await } else { group::show(scope, of).await };
    match shown {
        Err(VaultError::NotFound) => Ok(Reply::empty()),
        shown => shown,
    }
}

/// A batch that is being made.
type Making<'a, T> = Pin<Box<dyn Future<Output = Result<(Batch, T), IdentityError>> + Send + 'a>>;

/// Commits what `make` makes, anew where others came in between.
async fn change<'a, T>(
    scope: &'a Scope<'_>,
    make: impl Fn(Batch) -> Making<'a, T> + Send + Sync,
) -> Result<T, VaultError>
where
    T: Send,
{
    for _ in 0..ATTEMPTS_MAX {
        let (batch, made) = make(scope.batch()?).await?;
        if batch.writes.is_empty() {
            return Ok(made);
        }
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(made),
        }
    }
    Err(VaultError::Conflict)
}

/// A field that holds an id, where there is one.
fn id_in(body: &Body, field: &'static str) -> Result<Option<EntityId>, VaultError> {
    let Some(text) = body.string(field)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    EntityId::parse(&text).map(Some).ok_or_else(|| VaultError::field(field, "not an id"))
}

fn ids_in(body: &Body, field: &'static str) -> Result<Option<Vec<EntityId>>, VaultError> {
    let Some(list) = body.list(field)? else { return Ok(None) };
    if list.len() > IDS_MAX {
        return Err(VaultError::field(field, format!("more than {IDS_MAX} ids")));
    }
    let ids = list.iter().map(|id| EntityId::parse(id).ok_or_else(|| VaultError::field(field, "not an id")));
    ids.collect::<Result<_, _>>().map(Some)
}

fn text_in(body: &Body, field: &'static str) -> Result<Option<String>, VaultError> {
    Ok(body.string(field)?.filter(|text| !text.is_empty()).map(|text| Zeroizing::clone(&text).to_string()))
}

/// An object of strings, or `key=value`, one or a list of them.
fn pairs_in(body: &Body, field: &'static str) -> Result<Option<Meta>, VaultError> {
    let Some(raw) = body.raw(field) else { return Ok(None) };
    if raw.starts_with('{') || raw.starts_with("\"{") || raw == "\"\"" {
        return body.map(field);
    }
    let pairs = body.list(field)?.unwrap_or_default();
    let split = |pair: &String| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let pairs = pairs.iter().map(split).collect::<Option<Meta>>();
    pairs.map(Some).ok_or_else(|| VaultError::field(field, "neither an object of strings nor `key=value`"))
}

/// In the path.
fn id_of(raw: &str) -> Result<EntityId, VaultError> {
    EntityId::parse(raw).ok_or(VaultError::NotFound)
}

/// Paths and types of auth methods' mounts, by their accessors.
async fn mounts(scope: &Scope<'_>) -> Result<BTreeMap<String, (String, &'static str)>, VaultError> {
    let table = scope.vault.table().await?;
    let shown =
        table.auth().map(|(path, mount)| (mount.accessor.clone(), (format!("{AUTH}{path}"), mount.kind.type_name())));
    Ok(shown.collect())
}

const ATTEMPTS_MAX: usize = 16;
/// Most ids in one field.
const IDS_MAX: usize = 4096;
