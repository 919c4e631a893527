//! `sys/locked-users`: whom wrong passwords have locked out, and letting them in again before their time.
//!
//! # Divergences
//!
//! - Of the namespace that is asked in, and of none below it. Userpass is what locks. At most 1000 users of a mount are told, of a million that have failed lately.

use crate::auth::userpass;
use crate::call::Verb;
use crate::error::VaultError;
use crate::mount::{Kind, Mount};
use crate::reply::Reply;
use crate::scope::Scope;
use serde::Serialize;

#[derive(Serialize)]
struct Locked<'a> {
    by_namespace: Vec<Namespace<'a>>,
    total: usize,
}

#[derive(Serialize)]
struct Namespace<'a> {
    counts: usize,
    mount_accessors: Vec<OfMount<'a>>,
    namespace_id: &'a str,
    namespace_path: &'a str,
}

#[derive(Serialize)]
struct OfMount<'a> {
    alias_identifiers: Vec<String>,
    counts: usize,
    mount_accessor: &'a str,
}

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["locked-users"], Verb::Read) => list(scope).await,
        (["locked-users", accessor, "unlock", name], Verb::Write) => unlock(scope, accessor, name).await,
        (["locked-users"] | ["locked-users", _, "unlock", _], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let table = scope.vault.table().await?;
    let only = scope.call.parameter("mount_accessor").filter(|accessor| !accessor.is_empty());
    let asked = |mount: &&Mount| mount.kind == Kind::Userpass && only.is_none_or(|only| mount.accessor == only);
    let (mut mount_accessors, mut total, mut whole) = (Vec::new(), 0, true);
    for mount in table.mounts.values().filter(asked) {
        let view = scope.vault.view(&mount.id)?;
        let (names, all) = userpass::locked(&view, NAMES_MAX, scope.now()).await?;
        total += names.len();
        whole &= all;
        if !names.is_empty() {
            let (counts, mount_accessor) = (names.len(), mount.accessor.as_str());
            mount_accessors.push(OfMount { alias_identifiers: names, counts, mount_accessor });
        }
    }
    let namespace_id = scope.vault.space.as_ref().map_or("root", |space| &space.id);
    let own = Namespace { counts: total, mount_accessors, namespace_id, namespace_path: scope.vault.namespace() };
    let reply = Reply::data(&Locked { by_namespace: vec![own], total })?;
    Ok(if whole { reply } else { reply.warning("there are more than can be told at once") })
}

async fn unlock(scope: &Scope<'_>, accessor: &str, name: &str) -> Result<Reply, VaultError> {
    let table = scope.vault.table().await?;
    let mut mounts = table.mounts.values();
    let mount = mounts.find(|mount| mount.kind == Kind::Userpass && mount.accessor == accessor);
    let mount = mount.ok_or_else(|| VaultError::field("mount_accessor", "of no auth method that locks users"))?;
    userpass::unlock(scope, &scope.vault.view(&mount.id)?, name).await?;
    Ok(Reply::empty())
}

const NAMES_MAX: usize = 1000;
