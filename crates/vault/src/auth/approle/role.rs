//! Roles.

use super::{ATTEMPTS_MAX, random_id};
use crate::auth::token_fields::{self, OldNames, TokenFields, cidrs, name_in};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use storage::{Batch, EntryPath, Revision};

/// As stored. The API's names where it shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    /// Of this making of the role, 32 hex digits: below it stand its SecretIDs.
    pub(super) incarnation: String,
    pub(super) role_id: String,
    pub(super) bind_secret_id: bool,
    pub(super) secret_id_bound_cidrs: Vec<String>,
    /// Zero: without bound.
    pub(super) secret_id_num_uses: u32,
    /// Zero: without end.
    pub(super) secret_id_ttl: u64,
    pub(super) local_secret_ids: bool,
    pub(super) token: TokenFields,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            name: String::new(),
            incarnation: String::new(),
            role_id: String::new(),
            bind_secret_id: true,
            secret_id_bound_cidrs: Vec::new(),
            secret_id_num_uses: 0,
            secret_id_ttl: 0,
            local_secret_ids: false,
            token: TokenFields::default(),
        }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    bind_secret_id: bool,
    local_secret_ids: bool,
    secret_id_bound_cidrs: &'a [String],
    secret_id_num_uses: u32,
    secret_id_ttl: u64,
    #[serde(flatten)]
    token: &'a TokenFields,
}

/// Where roles and what is theirs stand in a mount's part of the store.
pub(super) struct Roles<'v> {
    pub(super) view: &'v View,
}

impl<'v> Roles<'v> {
    pub(super) fn new(view: &'v View) -> Self {
        Self { view }
    }

    pub(super) fn path(&self, name: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{ROLES}/{}", self.view.hash(b"approle/role", name)?))
    }

    pub(super) fn index_path(&self, role_id: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("i/{}", self.view.hash(b"approle/role-id", role_id)?))
    }

    /// To be changed: as it stands in the store.
    pub(super) async fn load(&self, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
        let found = self.view.load(&self.path(name)?).await?;
        found.map(|found| Ok((Role::decode(found.value.expose())?, found.revision))).transpose()
    }

    pub(super) async fn expect(&self, name: &str) -> Result<(Role, Revision), VaultError> {
        self.load(name).await?.ok_or(VaultError::NotFound)
    }

    /// With the role as it shall be; `old` is what stands there.
    pub(super) fn put(&self, batch: Batch, role: &Role, old: Option<&(Role, Revision)>) -> Result<Batch, VaultError> {
        let path = self.path(&role.name)?;
        let mut batch = match old {
            Some((_, revision)) => batch.revision_is(path.clone(), *revision),
            None => batch.absent(path.clone()),
        };
        if old.is_none_or(|(old, _)| old.role_id != role.role_id) {
            if let Some((old, _)) = old {
                batch = batch.delete(self.index_path(&old.role_id)?);
            }
            let index = self.index_path(&role.role_id)?;
            batch = self.view.put(batch.absent(index.clone()), index, role.name.as_bytes())?;
        }
        let text = serde_json::to_vec(role).map_err(|_| VaultError::Internal("a role cannot be written".into()))?;
        self.view.put(batch, path, &text)
    }
}

impl Role {
    pub(super) fn decode(text: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(text).map_err(|_| VaultError::Internal("a stored role cannot be read".into()))
    }

    /// Takes what stands in the body.
    fn update(&mut self, scope: &Scope<'_>) -> Result<(), VaultError> {
        let body = &scope.call.body;
        if let Some(role_id) = body.string("role_id")?.filter(|role_id| !role_id.is_empty()) {
            self.role_id = checked_role_id(&role_id)?;
        }
        if let Some(bind) = body.bool("bind_secret_id")? {
            self.bind_secret_id = bind;
        }
        if let Some(ranges) = cidrs(body, name_in(body, "secret_id_bound_cidrs", Some("bound_cidr_list")))? {
            self.secret_id_bound_cidrs = ranges;
        }
        if let Some(uses) = body.count("secret_id_num_uses", NUM_USES_MAX)? {
            self.secret_id_num_uses = uses;
        }
        if body.has("secret_id_ttl") {
            self.secret_id_ttl = body.duration("secret_id_ttl")?.map_or(0, |ttl| ttl.as_secs());
        }
        if let Some(local) = body.bool("local_secret_ids")? {
            self.local_secret_ids = local;
        }
        self.token.update(body, OLD_NAMES)
    }

    /// Refuses a role to which anybody could log in.
    pub(super) fn check(&self) -> Result<(), VaultError> {
        let bound = !self.secret_id_bound_cidrs.is_empty() || !self.token.token_bound_cidrs.is_empty();
        if !self.bind_secret_id && !bound {
            return Err(VaultError::field("bind_secret_id", "at least one constraint should be enabled on the role"));
        }
        self.token.check()
    }
}

pub(super) async fn list(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, roles.view, ROLES, |text| Ok(Some(Role::decode(text)?.name))).await
}

pub(super) async fn read(roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = roles.expect(name).await?;
    Reply::data(&Shown {
        bind_secret_id: role.bind_secret_id,
        local_secret_ids: role.local_secret_ids,
        secret_id_bound_cidrs: &role.secret_id_bound_cidrs,
        secret_id_num_uses: role.secret_id_num_uses,
        secret_id_ttl: role.secret_id_ttl,
        token: &role.token,
    })
}

pub(super) async fn write(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let old = roles.load(name).await?;
        if old.is_some() {
            scope.may_change()?;
        }
        let mut role = match &old {
            Some((role, _)) => role.clone(),
            None => Role {
                name: name.to_owned(),
                incarnation: hex::encode(scope.vault.barrier().random::<16>()?),
                role_id: random_id(scope)?.to_string(),
                ..Role::default()
            },
        };
        role.update(scope)?;
        role.check()?;
        if let Some(reply) = replace(scope, roles, old, role).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

/// Nothing where others were in between.
pub(super) async fn replace(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    old: Option<(Role, Revision)>,
    role: Role,
) -> Result<Option<Reply>, VaultError> {
    let index = roles.index_path(&role.role_id)?;
    let moved = old.as_ref().is_none_or(|(old, _)| old.role_id != role.role_id);
    if moved && roles.view.load(&index).await?.is_some() {
        return Err(VaultError::field("role_id", "in use by another role"));
    }
    let batch = match old.as_ref().filter(|_| moved) {
        Some((old, _)) => token_fields::forget(scope, scope.batch()?, &old.role_id).await?,
        None => scope.batch()?,
    };
    match scope.commit(roles.put(batch, &role, old.as_ref())?).await {
        Err(ChangeError::Conflict(_)) => Ok(None),
        outcome => Ok(outcome.map(|_| Some(Reply::empty()))?),
    }
}

pub(super) async fn delete(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        // to delete what is not there succeeds
        let Some((role, revision)) = roles.load(name).await? else { return Ok(Reply::empty()) };
        let path = roles.path(name)?;
        let batch = scope.batch()?.revision_is(path.clone(), revision).delete(path);
        let batch = batch.delete(roles.index_path(&role.role_id)?);
        let batch = token_fields::forget(scope, batch, &role.role_id).await?;
        // nobody finds them any more; they are swept up from there
        let batch = roles.view.put(batch, roles.gone_path(&role.incarnation)?, b"")?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

pub(super) async fn read_role_id(roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = roles.expect(name).await?;
    Reply::data(&BTreeMap::from([("role_id", role.role_id)]))
}

pub(super) async fn write_role_id(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let role_id = checked_role_id(&scope.call.body.required("role_id")?)?;
    for _ in 0..ATTEMPTS_MAX {
        let (old, revision) = roles.expect(name).await?;
        let role = Role { role_id: role_id.clone(), ..old.clone() };
        if let Some(reply) = replace(scope, roles, Some((old, revision)), role).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

fn checked_role_id(role_id: &str) -> Result<String, VaultError> {
    // it names the role's entity, too
    let plain = role_id.trim() == role_id && !role_id.chars().any(char::is_control);
    if role_id.len() > ROLE_ID_BYTES_MAX || !plain {
        let why = format!("more than {ROLE_ID_BYTES_MAX} bytes, white space around it, or controls");
        return Err(VaultError::field("role_id", why));
    }
    Ok(role_id.to_owned())
}

pub(super) const OLD_NAMES: OldNames =
    OldNames { policies: Some("policies"), period: Some("period"), ttl: None, max_ttl: None, bound_cidrs: None };
const ROLES: &str = "r";
pub(super) const NUM_USES_MAX: u32 = 1_000_000_000;
const ROLE_ID_BYTES_MAX: usize = 512;
