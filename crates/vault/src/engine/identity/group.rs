//! Groups.

use super::alias::{ShownAlias, shown, some};
use super::{Making, change, id_in, id_of, ids_in, mounts, pairs_in, text_in};
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use identity::token::Meta;
use identity::{EntityId, EntityRef, Group, GroupChange, GroupKind, IdentityError};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Shown<'a> {
    alias: AliasOrNone<'a>,
    creation_time: String,
    id: String,
    last_update_time: String,
    member_entity_ids: Vec<String>,
    member_group_ids: Option<Vec<String>>,
    metadata: Option<&'a Meta>,
    modify_index: u64,
    name: &'a str,
    parent_group_ids: Option<Vec<String>>,
    policies: Option<&'a [String]>,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AliasOrNone<'a> {
    Alias(ShownAlias<'a>),
    None {},
}

#[derive(Serialize)]
struct Made {
    id: String,
    name: String,
}

pub(super) async fn handle(scope: &Scope<'_>, by: &str, name: Option<&str>) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    match (by, name, scope.call.verb) {
        ("", None, Verb::Write) => {
            put(scope, GroupChange { id: id_in(&scope.call.body, "id")?, ..asked(scope)? }).await
        }
        ("id", Some(id), Verb::Write) => put(scope, GroupChange { id: Some(id_of(id)?), ..asked(scope)? }).await,
        ("name", Some(name), Verb::Write) => {
            put(scope, GroupChange { name: Some(name.to_owned()), ..asked(scope)? }).await
        }
        ("id", Some(id), Verb::Read) => show(scope, EntityRef::Id(id_of(id)?)).await,
        ("name", Some(name), Verb::Read) => show(scope, EntityRef::Name(name)).await,
        ("id", Some(id), Verb::Delete) => delete(scope, id_of(id)?).await,
        ("name", Some(name), Verb::Delete) => match identities.group(EntityRef::Name(name)).await {
            Ok(group) => delete(scope, group.id).await,
            Err(IdentityError::EntityNotFound) => Ok(Reply::empty()),
            Err(error) => Err(error.into()),
        },
        ("id", None, Verb::List) => {
            let all = identities.groups().await?;
            Reply::keys(&all.iter().map(|group| group.id.to_string()).collect::<Vec<_>>())
        }
        ("name", None, Verb::List) => {
            let mut names: Vec<_> = identities.groups().await?.into_iter().map(|group| group.name).collect();
            names.sort_unstable();
            Reply::keys(&names)
        }
        ("" | "id" | "name", ..) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn asked(scope: &Scope<'_>) -> Result<GroupChange, VaultError> {
    let body = &scope.call.body;
    let kind = match body.string("type")?.as_ref().map(|kind| kind.as_str()) {
        None | Some("") => None,
        Some("internal") => Some(GroupKind::Internal),
        Some("external") => Some(GroupKind::External),
        Some(_) => return Err(VaultError::field("type", "neither `internal` nor `external`")),
    };
    Ok(GroupChange {
        id: None,
        name: text_in(body, "name")?,
        kind,
        metadata: pairs_in(body, "metadata")?,
        policies: body.list("policies")?,
        member_entities: ids_in(body, "member_entity_ids")?,
        member_groups: ids_in(body, "member_group_ids")?,
    })
}

async fn put(scope: &Scope<'_>, mut asked: GroupChange) -> Result<Reply, VaultError> {
    let before = match (asked.id, &asked.name) {
        (Some(id), _) => members(scope, EntityRef::Id(id)).await?,
        (None, Some(name)) => members(scope, EntityRef::Name(name)).await?,
        (None, None) => BTreeSet::new(),
    };
    let wanted: Option<BTreeSet<EntityId>> = asked.member_entities.take().map(|wanted| wanted.into_iter().collect());
    let mut steps = wanted.map(|wanted| steps(&before, &wanted)).unwrap_or_default().into_iter();
    asked.member_entities = steps.next();
    let group = commit(scope, &asked).await?;
    for step in steps {
        let change = GroupChange { id: Some(group.id), member_entities: Some(step), ..GroupChange::default() };
        commit(scope, &change).await?;
    }
    Reply::data(&Made { id: group.id.to_string(), name: group.name })
}

async fn commit(scope: &Scope<'_>, asked: &GroupChange) -> Result<Group, VaultError> {
    let (identities, now) = (scope.vault.identities(), scope.now());
    change(scope, |batch| -> Making<'_, Group> {
        Box::pin(async move { identities.put_group(batch, asked.clone(), now).await })
    })
    .await
}

/// Of a group that may not be there yet.
async fn members(scope: &Scope<'_>, of: EntityRef<'_>) -> Result<BTreeSet<EntityId>, VaultError> {
    match scope.vault.identities().group(of).await {
        Ok(group) => Ok(group.member_entities),
        Err(IdentityError::EntityNotFound) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// The members after each commit: who goes goes first, and so many change at once as one commit holds.
fn steps(before: &BTreeSet<EntityId>, wanted: &BTreeSet<EntityId>) -> Vec<Vec<EntityId>> {
    let gone = before.difference(wanted).map(|id| (*id, false));
    let changes: Vec<_> = gone.chain(wanted.difference(before).map(|id| (*id, true))).collect();
    let mut members = before.clone();
    let mut steps = Vec::new();
    for some in changes.chunks(CHANGED_AT_ONCE) {
        for (id, comes) in some {
            if *comes {
                members.insert(*id);
            } else {
                members.remove(id);
            }
        }
        steps.push(members.iter().copied().collect());
    }
    if steps.is_empty() {
        steps.push(members.into_iter().collect());
    }
    steps
}

async fn delete(scope: &Scope<'_>, id: EntityId) -> Result<Reply, VaultError> {
    let identities = scope.vault.identities();
    change(scope, |batch| -> Making<'_, ()> {
        Box::pin(async move { Ok((identities.delete_group(batch, id).await?, ())) })
    })
    .await?;
    Ok(Reply::empty())
}

pub(super) async fn show(scope: &Scope<'_>, of: EntityRef<'_>) -> Result<Reply, VaultError> {
    let group = scope.vault.identities().group(of).await?;
    let texts = |ids: &BTreeSet<EntityId>| ids.iter().map(EntityId::to_string).collect::<Vec<_>>();
    let some_of = |ids: &BTreeSet<EntityId>| (!ids.is_empty()).then(|| texts(ids));
    let mounts = mounts(scope).await?;
    let time = |millis| rfc3339(Timestamp::from_unix_millis(millis));
    Reply::data(&Shown {
        alias: match &group.alias {
            Some(alias) => AliasOrNone::Alias(shown(alias, group.id, &mounts)),
            None => AliasOrNone::None {},
        },
        creation_time: time(group.created),
        id: group.id.to_string(),
        last_update_time: time(group.updated),
        member_entity_ids: texts(&group.member_entities),
        member_group_ids: some_of(&group.member_groups),
        metadata: some(&group.metadata),
        modify_index: group.modified,
        name: &group.name,
        parent_group_ids: some_of(&group.parents),
        policies: (!group.policies.is_empty()).then_some(&group.policies),
        r#type: group.kind.as_str(),
    })
}

/// A commit holds two operations for each.
const CHANGED_AT_ONCE: usize = 40;
