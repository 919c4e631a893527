//! Database: users that live as long as their leases, users that stay and whose passwords are rotated.
//!
//! Always: a lease is durable before the user is made, and stands until nothing is left of it ([`crate::lease`]).
//! Always: who may come in ends first, what is left is cleaned up then; both are states of the lease, and leave a leaf each.
//! Never: a password read back, logged, recorded, or sent where the database could log it.
//!
//! # Divergences
//! - A configuration, a role or the whole mount may be deleted while leases live: a lease holds what its end needs, and how its
//!   database is reached is kept, hidden, until the last one has ended. `force` and irrevocable leases are not needed.
//! - A role may say by `groups`, `connection_limit` and `settings` what its users are, instead of `creation_statements`; both
//!   get an end (`VALID UNTIL`) and a mark (`COMMENT`) in the same transaction. `revocation_statements` run before what is
//!   done anyway. `rollback_statements` are taken and not needed: a user is made all or nothing.
//! - `{{password}}` in statements is what the database stores (SCRAM-SHA-256, a hash in MariaDB), not the password.
//! - Redis is reached by a `connection_url` too (`redis://{{username}}:{{password}}@host:port`, `rediss://` with TLS); its
//!   `creation_statements` are rules of ACLs, each looked at. What a kind of database cannot do, its plugin refuses by name.
//! - A password in `connection_url` is refused: it stands in `password`, and as `{{password}}` in the URL.
//! - A configuration keeps its `plugin_name`. Another `connection_url` or `tls_ca` goes with `password` in the same request: one
//!   that is stored is sent nowhere else.
//! - `scram_iterations` of a configuration of PostgreSQL, 1 to 4096 (the default; 0 takes it back): how often a password is
//!   hashed for its verifier, by the server when it is set and by the client at each login; what is set already stays. Less than
//!   4096 (RFC 7677 §4) is enough for passwords of 190 bits, and counts for those of 32 letters and digits at least; beside a
//!   `password_policy` it is refused. Some clients refuse it, too (Java's driver).
//! - `max_leases`, `reuse_window` and `owned_objects` of a role, `usernames` and `overlap` of a static role, and `reconcile`
//!   are ours. `reconcile` lists 10,000 orphans and lost leases at most; `unlisted` says how many more there are, `complete`
//!   whether all was looked at in the 12 seconds that it has; with `repair=true`, what is left is put right afterwards, and the
//!   log tells.
//!   `rotation_schedule` knows numbers, in UTC.
//! - `username_template` knows `.DisplayName`, `.RoleName`, `random`, `unix_time`, and the pipes `truncate`, `lowercase`,
//!   `uppercase`; of `random`, 10 characters at least must be left when a name is
//!   cut to what the database takes.

mod config;
mod creds;
mod password;
pub mod plugin;
pub(crate) mod reconcile;
mod role;
pub(crate) mod root;
mod shelf;
pub(crate) mod statics;
mod username;

use crate::backend::{Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::lease::Target;
use crate::lease::store::{Found, Leases};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use envelope::Timestamp;
use plugin::{Connection, DatabaseError, DatabasePlugin, User};
use reconcile::Repair;
use std::borrow::Cow;
use std::sync::Arc;

#[derive(Debug)]
pub struct Database;

#[async_trait::async_trait]
impl Backend for Database {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, _call: &Call, _path: &str) -> Access {
        Access::Policy
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments()[..] {
            ["config", name] => config::SHELF.has(scope, name).await,
            ["roles", name] => role::SHELF.has(scope, name).await,
            ["static-roles", name] => statics::SHELF.has(scope, name).await,
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match (&segments[..], scope.call.verb) {
            (["config"], Verb::List) => config::SHELF.list(scope).await,
            (["config", name], Verb::Read) => config::read(scope, name).await,
            (["config", name], Verb::Write) => config::write(scope, name).await,
            (["config", name], Verb::Delete) => config::delete(scope, name).await,
            (["reset", name], Verb::Write) => config::reset(scope, name).await,
            (["roles"], Verb::List) => role::SHELF.list(scope).await,
            (["roles", name], Verb::Read) => role::read(scope, name).await,
            (["roles", name], Verb::Write) => role::write(scope, name).await,
            (["roles", name], Verb::Delete) => role::SHELF.delete(scope, name).await,
            (["creds", name], Verb::Read) => creds::issue(scope, name).await,
            (["rotate-root", name], Verb::Write) => root::rotate(scope, name).await,
            (["reconcile", name], Verb::Read) => reconcile::report(scope, name, Repair::No).await,
            (["reconcile", name], Verb::Write) => {
                let repair = scope.call.body.bool("repair")?.unwrap_or_default();
                reconcile::report(scope, name, if repair { Repair::Yes } else { Repair::No }).await
            }
            (["static-roles"], Verb::List) => statics::SHELF.list(scope).await,
            (["static-roles", name], Verb::Read) => statics::read(scope, name).await,
            (["static-roles", name], Verb::Write) => statics::write(scope, name).await,
            (["static-roles", name], Verb::Delete) => statics::delete(scope, name).await,
            (["static-creds", name], Verb::Read) => statics::creds(scope, name).await,
            (["rotate-role", name], Verb::Write) => statics::rotate_now(scope, name).await,
            ([first, ..], _) if SERVED.contains(first) && segments.len() < 3 => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// How a target is reached, by what.
pub(crate) fn connection(
    vault: &Vault,
    id: &str,
    target: &Target,
) -> Result<(Arc<dyn DatabasePlugin>, Connection), DatabaseError> {
    let plugin = vault.databases().plugin(&target.plugin);
    let plugin = plugin.ok_or_else(|| DatabaseError::Refused(format!("no plugin `{}`", target.plugin)))?;
    let to = Connection {
        id: id.to_owned(),
        revision: target.version,
        url: target.url.clone(),
        username: target.username.clone(),
        password: target.password.clone(),
        tls_ca: target.tls_ca.clone(),
        connections_max: target.connections_max,
        scram_iterations: target.scram_iterations,
        instance: hex::encode(vault.barrier().cluster_id()),
    };
    Ok((Arc::clone(plugin), to))
}

/// The same, as it is stored.
async fn reached(vault: &Vault, id: &str) -> Result<(Arc<dyn DatabasePlugin>, Connection), DatabaseError> {
    let target = Leases::of(vault).map_err(not_told)?.load_target(id).await.map_err(not_told)?;
    let (target, _) = target.ok_or_else(|| DatabaseError::Refused("how it is reached is not known".to_owned()))?;
    connection(vault, id, &target)
}

/// What the store does not tell now is asked again, as a database that is away.
fn not_told(error: VaultError) -> DatabaseError {
    DatabaseError::Unreachable(error.to_string())
}

fn user<'a>(found: &'a Found, statements: &'a [String]) -> User<'a> {
    let lease = &found.lease;
    User { name: &lease.username, lease: &found.key, statements, heir: lease.heir.as_deref() }
}

/// The first half of a lease's end.
pub(crate) async fn end_access(vault: &Vault, found: &Found) -> Result<(), DatabaseError> {
    let (plugin, to) = reached(vault, &found.lease.target).await?;
    plugin.end_access(&to, &user(found, &found.lease.revoke_statements)).await
}

/// The second half.
pub(crate) async fn clean_up(vault: &Vault, found: &Found) -> Result<(), DatabaseError> {
    let (plugin, to) = reached(vault, &found.lease.target).await?;
    plugin.clean_up(&to, &user(found, &found.lease.revoke_statements)).await
}

/// A lease goes on: in the database.
pub(crate) async fn renew(vault: &Vault, found: &Found, until: Timestamp, now: Timestamp) -> Result<(), VaultError> {
    let outcome = async {
        let (plugin, to) = reached(vault, &found.lease.target).await?;
        plugin.renew_user(&to, &user(found, &found.lease.renew_statements), until, now).await
    };
    outcome.await.map_err(|error| refused(&error, false))
}

/// As a caller is told of it. In its own words only where that is meant for whoever sets it up.
fn refused(error: &DatabaseError, in_detail: bool) -> VaultError {
    tracing::warn!(%error, "a database");
    match error {
        DatabaseError::Unreachable(why) if in_detail => {
            VaultError::Invalid(format!("the database cannot be reached: {why}").into())
        }
        DatabaseError::Refused(why) if in_detail => VaultError::Invalid(format!("the database refuses: {why}").into()),
        DatabaseError::Refused(_) => {
            VaultError::Invalid("the database refuses this; the server's log tells more".into())
        }
        DatabaseError::Unreachable(_) | DatabaseError::Unknown(_) => VaultError::Unavailable("DATABASE_UNAVAILABLE"),
    }
}

/// What it was called: 1 to 128 letters, digits, `_`, and within `-` and `.`.
fn check_name(name: &str) -> Result<(), VaultError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let legal = name.bytes().all(|byte| word(byte) || matches!(byte, b'-' | b'.'));
    let ends = name.bytes().next().is_some_and(word) && name.bytes().next_back().is_some_and(word);
    if legal && ends && name.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(VaultError::field("name", "1 to 128 letters, digits, `_`, and within `-` and `.`"))
    }
}

const NAME_BYTES_MAX: usize = 128;
const SERVED: [&str; 9] =
    ["config", "reset", "roles", "creds", "rotate-root", "reconcile", "static-roles", "static-creds", "rotate-role"];
const ATTEMPTS_MAX: usize = 16;
