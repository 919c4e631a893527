//! Aliases: by what name a mount knows an entity, or the members of a group.

use super::{Making, change, id_in, id_of, mounts, pairs_in, text_in};
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use identity::token::Meta;
use identity::{Alias, AliasChange, EntityId, EntityRef};
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) type Mounts = BTreeMap<String, (String, &'static str)>;

#[derive(Serialize)]
pub(super) struct ShownAlias<'a> {
    canonical_id: String,
    creation_time: String,
    custom_metadata: Option<&'a Meta>,
    id: String,
    last_update_time: String,
    local: bool,
    merged_from_canonical_ids: Option<()>,
    metadata: Option<()>,
    mount_accessor: &'a str,
    mount_path: &'a str,
    mount_type: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct Info<'a> {
    canonical_id: String,
    custom_metadata: Option<&'a Meta>,
    local: bool,
    mount_accessor: &'a str,
    mount_path: &'a str,
    mount_type: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct Listed<'a> {
    key_info: BTreeMap<String, Info<'a>>,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Made {
    canonical_id: String,
    id: String,
}

pub(super) fn shown<'a>(alias: &'a Alias, of: EntityId, mounts: &'a Mounts) -> ShownAlias<'a> {
    let time = |millis| rfc3339(Timestamp::from_unix_millis(millis));
    let (mount_path, mount_type) = mount(alias, mounts);
    ShownAlias {
        canonical_id: of.to_string(),
        creation_time: time(alias.created),
        custom_metadata: some(&alias.custom_metadata),
        id: alias.id.to_string(),
        last_update_time: time(alias.updated),
        local: false,
        merged_from_canonical_ids: None,
        metadata: None,
        mount_accessor: &alias.mount_accessor,
        mount_path,
        mount_type,
        name: &alias.name,
    }
}

pub(super) fn some(metadata: &Meta) -> Option<&Meta> {
    (!metadata.is_empty()).then_some(metadata)
}

fn mount<'a>(alias: &Alias, mounts: &'a Mounts) -> (&'a str, &'a str) {
    mounts.get(&alias.mount_accessor).map_or(("", ""), |(path, kind)| (path.as_str(), *kind))
}

pub(super) async fn of_entities(scope: &Scope<'_>, by: &str, id: Option<&str>) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    match (by, id, scope.call.verb) {
        ("", None, Verb::Write) => put(scope, None, Whose::Entities).await,
        ("id", Some(id), Verb::Write) => put(scope, Some(id_of(id)?), Whose::Entities).await,
        ("id", None, Verb::List) => {
            let mut aliases = Vec::new();
            for entity in identities.entities().await? {
                let of = entity.id;
                aliases.extend(entity.aliases.into_iter().map(|alias| (alias, of)));
            }
            list(&aliases, &mounts(scope).await?)
        }
        ("id", Some(id), Verb::Read) => {
            let (alias, of) = identities.entity_alias(id_of(id)?).await?;
            Reply::data(&shown(&alias, of, &mounts(scope).await?))
        }
        ("id", Some(id), Verb::Delete) => {
            let id = id_of(id)?;
            change(scope, |batch| -> Making<'_, ()> {
                Box::pin(async move { Ok((identities.delete_entity_alias(batch, id).await?, ())) })
            })
            .await?;
            Ok(Reply::empty())
        }
        _ => Err(VaultError::Unsupported),
    }
}

pub(super) async fn of_groups(scope: &Scope<'_>, by: &str, id: Option<&str>) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    match (by, id, scope.call.verb) {
        ("", None, Verb::Write) => put(scope, None, Whose::Groups).await,
        ("id", Some(id), Verb::Write) => put(scope, Some(id_of(id)?), Whose::Groups).await,
        ("id", None, Verb::List) => {
            let all = identities.groups().await?;
            let aliases: Vec<_> = all.into_iter().filter_map(|group| Some((group.alias?, group.id))).collect();
            list(&aliases, &mounts(scope).await?)
        }
        ("id", Some(id), Verb::Read) => {
            let group = identities.group(EntityRef::AliasId(id_of(id)?)).await?;
            let alias = group.alias.as_ref().ok_or(VaultError::NotFound)?;
            Reply::data(&shown(alias, group.id, &mounts(scope).await?))
        }
        ("id", Some(id), Verb::Delete) => {
            let id = id_of(id)?;
            change(scope, |batch| -> Making<'_, ()> {
                Box::pin(async move { Ok((identities.delete_group_alias(batch, id).await?, ())) })
            })
            .await?;
            Ok(Reply::empty())
        }
        _ => Err(VaultError::Unsupported),
    }
}

#[derive(Clone, Copy)]
enum Whose {
    Entities,
    Groups,
}

async fn put(scope: &Scope<'_>, id: Option<EntityId>, whose: Whose) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let asked = AliasChange {
        id: id.or(id_in(body, "id")?),
        name: text_in(body, "name")?,
        mount_accessor: text_in(body, "mount_accessor")?,
        of: match id_in(body, "canonical_id")? {
            Some(of) => Some(of),
            None => id_in(body, "entity_id")?,
        },
        custom_metadata: pairs_in(body, "custom_metadata")?,
    };
    if asked.mount_accessor.as_ref().is_some_and(|accessor| accessor.is_empty()) || asked.id.is_none() {
        body.required("name")?;
        body.required("mount_accessor")?;
    }
    if let Some(accessor) = &asked.mount_accessor
        && !mounts(scope).await?.contains_key(accessor)
    {
        return Err(VaultError::field("mount_accessor", "no auth method is mounted with it"));
    }
    let (identities, asked, now) = (scope.vault.identities(), &asked, scope.now());
    let (alias, of) = change(scope, |batch| -> Making<'_, (Alias, EntityId)> {
        Box::pin(async move {
            let asked = asked.clone();
            let (batch, alias, of) = match whose {
                Whose::Entities => identities.put_entity_alias(batch, asked, now).await?,
                Whose::Groups => identities.put_group_alias(batch, asked, now).await?,
            };
            Ok((batch, (alias, of)))
        })
    })
    .await?;
    Reply::data(&Made { canonical_id: of.to_string(), id: alias.id.to_string() })
}

fn list(aliases: &[(Alias, EntityId)], mounts: &Mounts) -> Result<Reply, VaultError> {
    let infos = aliases.iter().map(|(alias, of)| {
        let (mount_path, mount_type) = mount(alias, mounts);
        let info = Info {
            canonical_id: of.to_string(),
            custom_metadata: some(&alias.custom_metadata),
            local: false,
            mount_accessor: &alias.mount_accessor,
            mount_path,
            mount_type,
            name: &alias.name,
        };
        (alias.id.to_string(), info)
    });
    let key_info: BTreeMap<_, _> = infos.collect();
    if key_info.is_empty() {
        return Err(VaultError::NotFound);
    }
    Reply::data(&Listed { keys: key_info.keys().cloned().collect(), key_info })
}
