//! Entities.

use super::alias::{ShownAlias, shown, some};
use super::{Making, change, id_in, id_of, ids_in, mounts, pairs_in, text_in};
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::lease::store::Leases;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use identity::token::Meta;
use identity::{Entity, EntityChange, EntityId, EntityRef, IdentityError, Progress};
use serde::Serialize;
use storage::Batch;

#[derive(Serialize)]
struct Shown<'a> {
    aliases: Vec<ShownAlias<'a>>,
    creation_time: String,
    direct_group_ids: Vec<String>,
    disabled: bool,
    group_ids: Vec<String>,
    id: String,
    inherited_group_ids: Vec<String>,
    last_update_time: String,
    merged_entity_ids: Option<Vec<String>>,
    metadata: Option<&'a Meta>,
    name: &'a str,
    policies: Option<&'a [String]>,
}

#[derive(Serialize)]
struct Made {
    aliases: Option<()>,
    id: String,
    name: String,
}

pub(super) async fn handle(scope: &Scope<'_>, by: &str, name: Option<&str>) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    match (by, name, scope.call.verb) {
        ("", None, Verb::Write) => {
            put(scope, EntityChange { id: id_in(&scope.call.body, "id")?, ..asked(scope)? }).await
        }
        ("id", Some(id), Verb::Write) => put(scope, EntityChange { id: Some(id_of(id)?), ..asked(scope)? }).await,
        ("name", Some(name), Verb::Write) => {
            put(scope, EntityChange { name: Some(name.to_owned()), ..asked(scope)? }).await
        }
        ("id", Some(id), Verb::Read) => show(scope, EntityRef::Id(id_of(id)?)).await,
        ("name", Some(name), Verb::Read) => show(scope, EntityRef::Name(name)).await,
        ("id", Some(id), Verb::Delete) => delete(scope, &[id_of(id)?]).await,
        ("name", Some(name), Verb::Delete) => match identities.entity(EntityRef::Name(name)).await {
            Ok(entity) => delete(scope, &[entity.id]).await,
            Err(IdentityError::EntityNotFound) => Ok(Reply::empty()),
            Err(error) => Err(error.into()),
        },
        ("id", None, Verb::List) => {
            let all = identities.entities().await?;
            Reply::keys(&all.iter().map(|entity| entity.id.to_string()).collect::<Vec<_>>())
        }
        ("name", None, Verb::List) => {
            let mut names: Vec<_> = identities.entities().await?.into_iter().map(|entity| entity.name).collect();
            names.sort_unstable();
            Reply::keys(&names)
        }
        ("batch-delete", None, Verb::Write) => {
            let ids = ids_in(&scope.call.body, "entity_ids")?.filter(|ids| !ids.is_empty());
            delete(scope, &ids.ok_or_else(|| VaultError::field("entity_ids", "missing"))?).await
        }
        ("merge", None, Verb::Write) => merge(scope).await,
        ("" | "id" | "name" | "batch-delete" | "merge", ..) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn asked(scope: &Scope<'_>) -> Result<EntityChange, VaultError> {
    let body = &scope.call.body;
    Ok(EntityChange {
        id: None,
        name: text_in(body, "name")?,
        metadata: pairs_in(body, "metadata")?,
        policies: body.list("policies")?,
        disabled: body.bool("disabled")?,
    })
}

async fn put(scope: &Scope<'_>, asked: EntityChange) -> Result<Reply, VaultError> {
    let (identities, asked, now) = (scope.vault.identities(), &asked, scope.now());
    let entity = change(scope, |batch| -> Making<'_, Entity> {
        Box::pin(async move {
            let (batch, entity) = identities.put_entity(batch, asked.clone(), now).await?;
            Ok((if entity.disabled { end_leases(scope, batch, &entity)? } else { batch }, entity))
        })
    })
    .await?;
    Reply::data(&Made { aliases: None, id: entity.id.to_string(), name: entity.name })
}

/// A few at a time.
async fn delete(scope: &Scope<'_>, ids: &[EntityId]) -> Result<Reply, VaultError> {
    let (identities, now) = (scope.vault.identities(), scope.now());
    for ids in ids.chunks(DELETED_AT_ONCE) {
        let delete = |batch| -> Making<'_, Progress> {
            Box::pin(async move {
                let (mut batch, progress) = identities.delete_entities(batch, ids, now).await?;
                for id in ids {
                    match identities.entity(EntityRef::Id(*id)).await {
                        // a disabled one has been told of; while it is dropped in parts it is that, too
                        Ok(entity) if entity.disabled => {}
                        Ok(entity) => batch = end_leases(scope, batch, &entity)?,
                        Err(IdentityError::EntityNotFound) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok((batch, progress))
            })
        };
        while change(scope, delete).await? == Progress::GoesOn {}
    }
    Ok(Reply::empty())
}

/// What was lent to it is taken back. Databases stand in the root alone.
fn end_leases(scope: &Scope<'_>, batch: Batch, entity: &Entity) -> Result<Batch, IdentityError> {
    if !scope.vault.namespace().is_empty() {
        return Ok(batch);
    }
    let ended = Leases::of(scope.vault).and_then(|leases| leases.end_entity(batch, entity, scope.now()));
    ended.map_err(|_| IdentityError::Internal("what is lent to an entity"))
}

async fn merge(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let missing = |field| VaultError::field(field, "missing");
    let to = id_in(body, "to_entity_id")?.ok_or_else(|| missing("to_entity_id"))?;
    let from = ids_in(body, "from_entity_ids")?.filter(|ids| !ids.is_empty());
    let from = from.ok_or_else(|| missing("from_entity_ids"))?;
    let keep = ids_in(body, "conflicting_alias_ids_to_keep")?.unwrap_or_default();
    let (identities, from, keep, now) = (scope.vault.identities(), &from, &keep, scope.now());
    let merge = |batch| -> Making<'_, Progress> {
        Box::pin(async move {
            let (mut batch, progress) = identities.merge_entities(batch, (from, to), keep, now).await?;
            // who becomes somebody that is disabled is disabled
            if identities.entity(EntityRef::Id(to)).await?.disabled {
                for id in from {
                    batch = end_leases(scope, batch, &identities.entity(EntityRef::Id(*id)).await?)?;
                }
            }
            Ok((batch, progress))
        })
    };
    while change(scope, merge).await? == Progress::GoesOn {}
    Ok(Reply::empty())
}

pub(super) async fn show(scope: &Scope<'_>, of: EntityRef<'_>) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    let entity = identities.entity(of).await?;
    let all = identities.groups_above(&entity.groups).await?;
    let texts = |ids: Vec<&EntityId>| ids.into_iter().map(EntityId::to_string).collect::<Vec<_>>();
    let mounts = mounts(scope).await?;
    let time = |millis| rfc3339(Timestamp::from_unix_millis(millis));
    Reply::data(&Shown {
        aliases: entity.aliases.iter().map(|alias| shown(alias, entity.id, &mounts)).collect(),
        creation_time: time(entity.created),
        direct_group_ids: texts(all.intersection(&entity.groups).collect()),
        disabled: entity.disabled,
        group_ids: texts(all.iter().collect()),
        id: entity.id.to_string(),
        inherited_group_ids: texts(all.difference(&entity.groups).collect()),
        last_update_time: time(entity.updated),
        merged_entity_ids: (!entity.merged.is_empty()).then(|| texts(entity.merged.iter().collect())),
        metadata: some(&entity.metadata),
        name: &entity.name,
        policies: (!entity.policies.is_empty()).then_some(&entity.policies),
    })
}

const DELETED_AT_ONCE: usize = 4;
