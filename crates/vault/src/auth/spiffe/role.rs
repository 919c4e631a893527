//! `role/:name`: which workloads, and as what.

use super::id::Pattern;
use super::{NAME_BYTES_MAX, config};
use crate::auth::token_fields::{self, OldNames, TokenFields, folded};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) workload_id_patterns: Vec<String>,
    pub(super) display_name: String,
    pub(super) token: TokenFields,
}

#[derive(Serialize)]
struct Shown<'a> {
    workload_id_patterns: &'a [String],
    display_name: &'a str,
    #[serde(flatten)]
    token: &'a TokenFields,
}

fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ROLES}/{}", view.hash(b"spiffe/role", name)?))
}

pub(super) async fn find(view: &View, raw: &str) -> Result<Option<(Role, EntryPath, Revision)>, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(None) };
    let path = path(view, &name)?;
    let found = stored::load(view, &path).await?;
    Ok(found.map(|(role, revision)| (role, path, revision)))
}

pub(super) async fn exists(scope: &Scope<'_>, raw: &str) -> Result<bool, VaultError> {
    Ok(find(&scope.view()?, raw).await?.is_some())
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, &scope.view()?, ROLES, |text| Ok(Some(stored::decode::<Role>(text)?.name))).await
}

pub(super) async fn read(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (role, ..) = find(&scope.view()?, raw).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        workload_id_patterns: &role.workload_id_patterns,
        display_name: &role.display_name,
        token: &role.token,
    })
}

pub(super) async fn write(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (view, body) = (scope.view()?, &scope.call.body);
    let name = folded(raw, NAME_BYTES_MAX);
    let name = name.ok_or_else(|| VaultError::field("name", "1 to 64 letters, digits, `-`, `_`, `.`"))?;
    let config = config::find(&view).await?;
    let (config, _) =
        config.ok_or_else(|| VaultError::Invalid("the mount has no trust domain yet: see config".into()))?;
    let make = |old: Option<Role>| {
        let mut role = old.unwrap_or_else(|| Role { name: name.clone(), ..Role::default() });
        role.update(body, &config.trust_domain)?;
        Ok(role)
    };
    stored::change(scope, &view, &path(&view, &name)?, make).await?;
    Ok(Reply::empty())
}

impl Role {
    fn update(&mut self, body: &Body, trust_domain: &str) -> Result<(), VaultError> {
        if let Some(patterns) = body.list("workload_id_patterns")? {
            self.workload_id_patterns = patterns;
        }
        let sound = |pattern: &String| Pattern::parse(pattern, trust_domain).is_some();
        let patterns = &self.workload_id_patterns;
        if patterns.is_empty() || patterns.len() > PATTERNS_MAX || !patterns.iter().all(sound) {
            let why = format!("1 to {PATTERNS_MAX} paths like /ns/*/sa/web, or whole ids of this trust domain");
            return Err(VaultError::field("workload_id_patterns", why));
        }
        if let Some(name) = body.string("display_name")? {
            self.display_name = name.chars().filter(char::is_ascii_graphic).take(NAME_BYTES_MAX).collect();
        }
        self.token.update(body, OldNames::default())
    }
}

/// To delete what is not there succeeds.
pub(super) async fn delete(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(Reply::empty()) };
    let view = scope.view()?;
    stored::delete(scope, &view, path(&view, &name)?).await
}

const ROLES: &str = "r";
const PATTERNS_MAX: usize = 64;
