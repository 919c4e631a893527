//! `roles/:name`: what users are made, and for how long.

use super::ATTEMPTS_MAX;
use super::check_name;
use super::config::{Settings, statements};
use super::shelf::Shelf;
use crate::body::Body;
use crate::error::VaultError;
use crate::mount::Mount;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub(super) const SHELF: Shelf = Shelf { data: "r", list: "lr" };

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) db_name: String,
    pub(super) creation_statements: Vec<String>,
    pub(super) revocation_statements: Vec<String>,
    pub(super) renew_statements: Vec<String>,
    pub(super) rollback_statements: Vec<String>,
    /// Seconds; zero is the mount's.
    pub(super) default_ttl: u64,
    pub(super) max_ttl: u64,
    pub(super) groups: Vec<String>,
    pub(super) connection_limit: Option<u32>,
    pub(super) settings: Settings,
    /// Whose is what a user leaves; dropped where nobody is named.
    pub(super) heir: Option<String>,
    /// Most that live at once; zero is without bound.
    pub(super) max_leases: u32,
    /// Seconds for which the same asker is given the same user.
    pub(super) reuse_window: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    db_name: &'a str,
    creation_statements: &'a [String],
    revocation_statements: &'a [String],
    renew_statements: &'a [String],
    rollback_statements: &'a [String],
    default_ttl: u64,
    max_ttl: u64,
    credential_type: &'static str,
    groups: &'a [String],
    connection_limit: Option<u32>,
    settings: &'a Settings,
    owned_objects: &'a str,
    max_leases: u32,
    reuse_window: u64,
}

pub(super) async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let role: Role = SHELF.load(scope, name).await?;
    Reply::data(&Shown {
        db_name: &role.db_name,
        creation_statements: &role.creation_statements,
        revocation_statements: &role.revocation_statements,
        renew_statements: &role.renew_statements,
        rollback_statements: &role.rollback_statements,
        default_ttl: role.default_ttl,
        max_ttl: role.max_ttl,
        credential_type: "password",
        groups: &role.groups,
        connection_limit: role.connection_limit,
        settings: &role.settings,
        owned_objects: role.heir.as_deref().unwrap_or(DROPPED),
        max_leases: role.max_leases,
        reuse_window: role.reuse_window,
    })
}

pub(super) async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    check_name(name)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = SHELF.find::<Role>(scope, name).await?;
        if found.is_some() {
            scope.may_change()?;
        }
        let was = found.as_ref().map(|(_, revision)| *revision);
        let role = changed(&scope.call.body, found.map(|(role, _)| role).unwrap_or_default())?;
        match scope.commit(SHELF.put(scope, scope.batch()?, (name, was), &role).await?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

fn changed(body: &Body, mut role: Role) -> Result<Role, VaultError> {
    if let Some(db_name) = body.string("db_name")? {
        role.db_name = db_name.to_string();
    }
    if role.db_name.is_empty() {
        return Err(VaultError::field("db_name", "missing"));
    }
    if let Some(kind) = body.string("credential_type")?
        && kind.as_str() != "password"
    {
        return Err(VaultError::field("credential_type", "only `password` is served"));
    }
    for (field, list) in [
        ("creation_statements", &mut role.creation_statements),
        ("revocation_statements", &mut role.revocation_statements),
        ("renew_statements", &mut role.renew_statements),
        ("rollback_statements", &mut role.rollback_statements),
    ] {
        if let Some(texts) = statements(body, field)? {
            *list = texts;
        }
    }
    for (field, secs) in [
        ("default_ttl", &mut role.default_ttl),
        ("max_ttl", &mut role.max_ttl),
        ("reuse_window", &mut role.reuse_window),
    ] {
        if body.has(field) {
            *secs = body.duration(field)?.map_or(0, |ttl| ttl.as_secs());
        }
    }
    if role.max_ttl > 0 && role.default_ttl > role.max_ttl {
        return Err(VaultError::field("default_ttl", "longer than `max_ttl`"));
    }
    structure(body, &mut role)?;
    if role.creation_statements.is_empty() && role.groups.is_empty() {
        return Err(VaultError::field("creation_statements", "missing, and no `groups` instead"));
    }
    Ok(role)
}

fn structure(body: &Body, role: &mut Role) -> Result<(), VaultError> {
    if let Some(groups) = body.list("groups")? {
        if groups.len() > GROUPS_MAX || groups.iter().any(|group| group.is_empty() || group.len() > 63) {
            return Err(VaultError::field("groups", "at most 32 names of roles"));
        }
        role.groups = groups;
    }
    if body.has("connection_limit") {
        role.connection_limit = body.count("connection_limit", 10_000)?.filter(|limit| *limit > 0);
    }
    if let Some(settings) = body.map("settings")? {
        let legal = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
        if settings.len() > GROUPS_MAX || settings.keys().any(|name| name.is_empty() || !legal(name)) {
            return Err(VaultError::field("settings", "at most 32, by names of letters, digits, `_` and `.`"));
        }
        role.settings = settings;
    }
    if let Some(heir) = body.string("owned_objects")? {
        role.heir = Some(heir.to_string()).filter(|heir| !heir.is_empty() && heir != DROPPED);
    }
    if let Some(most) = body.count("max_leases", LEASES_MAX)? {
        role.max_leases = most;
    }
    Ok(())
}

impl Role {
    /// How long a lease lives at first, and at most.
    pub(super) fn ttls(&self, mount: &Mount) -> (Duration, Duration) {
        let or = |secs: u64, other: Duration| if secs == 0 { other } else { Duration::from_secs(secs) };
        let most = or(self.max_ttl, mount.max_ttl()).min(mount.max_ttl());
        (or(self.default_ttl, mount.default_ttl()).min(most), most)
    }
}

/// In place of an heir: nobody's.
const DROPPED: &str = "drop";
const GROUPS_MAX: usize = 32;
const LEASES_MAX: u32 = 100_000;
