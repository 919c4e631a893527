//! `config/:name`: how a database is reached, and who may have users there.

use super::shelf::Shelf;
use super::{ATTEMPTS_MAX, check_name, connection, refused, username};
use crate::body::Body;
use crate::error::VaultError;
use crate::gone;
use crate::lease::Target;
use crate::lease::store::Leases;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use storage::Revision;
use zeroize::Zeroizing;

pub(super) const SHELF: Shelf = Shelf { data: "c", list: "lc" };

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) target: String,
    pub(super) allowed_roles: Vec<String>,
    pub(super) verify_connection: bool,
    pub(super) password_policy: String,
    pub(super) username_template: String,
    pub(super) root_rotation_statements: Vec<String>,
}

impl Config {
    pub(super) fn allows(&self, role: &str) -> bool {
        self.allowed_roles.iter().any(|allowed| match allowed.split_once('*') {
            // globs as Vault has them: at either end
            Some(("", rest)) if rest.ends_with('*') => role.contains(rest.trim_end_matches('*')),
            Some(("", end)) => role.ends_with(end),
            Some((start, "")) => role.starts_with(start),
            Some(_) | None => allowed == role,
        })
    }
}

/// A configuration, and how its database is reached.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) revision: Revision,
    pub(super) target: Target,
    pub(super) target_revision: Revision,
}

pub(super) async fn find(scope: &Scope<'_>, name: &str) -> Result<Option<Loaded>, VaultError> {
    let Some((config, revision)) = SHELF.find::<Config>(scope, name).await? else { return Ok(None) };
    let target = Leases::of(scope.vault)?.load_target(&config.target).await?;
    let (target, target_revision) = target.ok_or_else(|| VaultError::Internal("a database's target".into()))?;
    Ok(Some(Loaded { config, revision, target, target_revision }))
}

pub(super) async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        plugin_name: &'a str,
        plugin_version: &'static str,
        allowed_roles: &'a [String],
        connection_details: Details<'a>,
        password_policy: &'a str,
        root_credentials_rotate_statements: &'a [String],
        verify_connection: bool,
    }
    #[derive(Serialize)]
    struct Details<'a> {
        connection_url: &'a str,
        username: &'a str,
        max_open_connections: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        scram_iterations: Option<u32>,
        #[serde(skip_serializing_if = "str::is_empty")]
        username_template: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_ca: Option<&'a str>,
    }
    let Loaded { config, target, .. } = find(scope, name).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        plugin_name: &target.plugin,
        plugin_version: "",
        allowed_roles: &config.allowed_roles,
        connection_details: Details {
            connection_url: &target.url,
            username: &target.username,
            max_open_connections: target.connections_max,
            scram_iterations: target.scram_iterations,
            username_template: &config.username_template,
            tls_ca: target.tls_ca.as_deref(),
        },
        password_policy: &config.password_policy,
        root_credentials_rotate_statements: &config.root_rotation_statements,
        verify_connection: config.verify_connection,
    })
}

pub(super) async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    check_name(name)?;
    let leases = Leases::of(scope.vault)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = find(scope, name).await?;
        if found.is_some() {
            scope.may_change()?;
        }
        let (config, target) = changed(scope, name, found.as_ref())?;
        if config.verify_connection {
            let (plugin, to) = connection(scope.vault, &config.target, &target).map_err(|e| refused(&e, true))?;
            let probed = plugin.probe(&to, scope.now()).await.map_err(|error| refused(&error, true))?;
            if probed.ahead_millis.unsigned_abs() > CLOCKS_APART_MILLIS {
                tracing::warn!(
                    name,
                    ahead_millis = probed.ahead_millis,
                    "a database's clock is not ours; ends are told by its own"
                );
            }
        }
        let batch = gone::still_there(scope.vault, scope.batch()?, scope.mount)?;
        let path = leases.target(&config.target)?;
        let batch = match &found {
            Some(found) => batch.revision_is(path.clone(), found.target_revision),
            None => batch.absent(path.clone()),
        };
        let batch = leases.put(batch, path, &target)?;
        let was = found.as_ref().map(|found| found.revision);
        let moves = found.as_ref().is_some_and(|found| found.target.url != target.url)
            && leases.are_at(scope.vault, &config.target, &target).await?;
        match scope.commit(SHELF.put(scope, batch, (name, was), &config).await?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) if moves => return Ok(Reply::empty().warning(MOVED)),
            Ok(_) => return Ok(Reply::empty()),
        }
    }
    Err(VaultError::Conflict)
}

/// What is told changes; what is not stays.
fn changed(scope: &Scope<'_>, name: &str, found: Option<&Loaded>) -> Result<(Config, Target), VaultError> {
    let body = &scope.call.body;
    let (mut config, mut target) = match found {
        Some(found) => (found.config.clone(), found.target.clone()),
        None => first(scope, name)?,
    };
    if let Some(plugin) = body.string("plugin_name")? {
        if scope.vault.databases().plugin(&plugin).is_none() {
            return Err(VaultError::field("plugin_name", format!("no plugin `{}`", *plugin)));
        }
        // users that live there are taken back by the kind that has made them
        if found.is_some() && !is_same_kind(&target.plugin, &plugin) {
            return Err(VaultError::field("plugin_name", "stays as it is: make another configuration"));
        }
        target.plugin = plugin.to_string();
    }
    if let Some(roles) = body.list("allowed_roles")? {
        config.allowed_roles = roles;
    }
    for (field, setting) in
        [("password_policy", &mut config.password_policy), ("username_template", &mut config.username_template)]
    {
        if let Some(text) = body.string(field)? {
            *setting = text.to_string();
        }
    }
    let plugin = scope.vault.databases().plugin(&target.plugin);
    username::check(&config.username_template, plugin.map_or(username::BYTES_MAX, |plugin| plugin.name_bytes_max()))?;
    if let Some(verify) = body.bool("verify_connection")? {
        config.verify_connection = verify;
    }
    config.root_rotation_statements =
        statements(body, "root_rotation_statements")?.unwrap_or(config.root_rotation_statements);
    target_changed(body, &mut target)?;
    if target.plugin.is_empty() || target.url.is_empty() {
        return Err(VaultError::field(
            if target.plugin.is_empty() { "plugin_name" } else { "connection_url" },
            "missing",
        ));
    }
    check_iterations(&config, &target)?;
    // what is stored is shown to no server but the one that it was given for
    if let Some(found) = found
        && is_elsewhere(&found.target, &target)
        && body.string("password")?.is_none()
    {
        let why = "missing: it goes with another `connection_url` or `tls_ca`, whatever it was before";
        return Err(VaultError::field("password", why));
    }
    Ok((config, target))
}

fn is_same_kind(was: &str, is: &str) -> bool {
    let both = |name: &str| matches!(name, "mysql-database-plugin" | "mariadb-database-plugin");
    was == is || (both(was) && both(is))
}

fn is_elsewhere(was: &Target, is: &Target) -> bool {
    let has_password = !was.password.is_empty() || was.next_password.is_some();
    has_password && (was.url != is.url || was.tls_ca != is.tls_ca)
}

fn first(scope: &Scope<'_>, name: &str) -> Result<(Config, Target), VaultError> {
    let id = hex::encode(scope.vault.barrier().random::<16>()?);
    let config = Config { target: id, verify_connection: true, ..Config::default() };
    let target = Target {
        mount: scope.mount.id.clone(),
        name: name.to_owned(),
        plugin: String::new(),
        url: String::new(),
        username: String::new(),
        password: Zeroizing::default(),
        next_password: None,
        tls_ca: None,
        connections_max: CONNECTIONS_DEFAULT,
        scram_iterations: None,
        retired: false,
        ended: false,
        version: 0,
    };
    Ok((config, target))
}

fn target_changed(body: &Body, target: &mut Target) -> Result<(), VaultError> {
    if let Some(url) = body.string("connection_url")? {
        check_url(&url)?;
        target.url = url.to_string();
    }
    if let Some(username) = body.string("username")? {
        target.username = username.to_string();
    }
    if let Some(password) = body.string("password")? {
        target.password = password;
        target.next_password = None;
    }
    if let Some(ca) = body.string("tls_ca")? {
        target.tls_ca = Some(ca.to_string()).filter(|ca| !ca.is_empty());
    }
    if let Some(most) = body.count("max_open_connections", CONNECTIONS_MAX)? {
        target.connections_max = if most == 0 { CONNECTIONS_DEFAULT } else { most };
    }
    if let Some(iterations) = body.count("scram_iterations", SCRAM_ITERATIONS)? {
        if target.plugin != POSTGRESQL {
            return Err(VaultError::field("scram_iterations", "of PostgreSQL alone"));
        }
        target.scram_iterations = Some(iterations).filter(|iterations| !matches!(*iterations, 0 | SCRAM_ITERATIONS));
    }
    target.version += 1;
    Ok(())
}

/// What makes a password that somebody chose harder to guess is needed there; not where 190 bits of it are random.
fn check_iterations(config: &Config, target: &Target) -> Result<(), VaultError> {
    match target.scram_iterations {
        Some(_) if !config.password_policy.is_empty() => {
            Err(VaultError::field("scram_iterations", "less than 4096 only without a `password_policy`"))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is read back holds no password.
fn check_url(url: &str) -> Result<(), VaultError> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let userinfo = rest.rsplit_once('@').map(|(userinfo, _)| userinfo);
    let in_userinfo = userinfo.and_then(|userinfo| userinfo.split_once(':')).map(|(_, password)| password);
    let lower: String = url.to_ascii_lowercase().split_whitespace().collect();
    let named = lower.match_indices("password=").map(|(at, name)| &lower[at + name.len()..]);
    let mut passwords = in_userinfo.into_iter().chain(named.filter(|rest| !rest.starts_with("{{password}}")));
    if passwords.any(|password| password != "{{password}}") {
        let why = "holds a password: put it into `password`, and `{{password}}` here";
        return Err(VaultError::field("connection_url", why));
    }
    if url.len() > URL_BYTES_MAX {
        return Err(VaultError::field("connection_url", "too long"));
    }
    Ok(())
}

/// Texts as clients send them: a list, or one text, which is one statement or several.
pub(super) fn statements(body: &Body, field: &'static str) -> Result<Option<Vec<String>>, VaultError> {
    let Some(raw) = body.raw(field) else { return Ok(None) };
    let list = if raw.starts_with('[') {
        body.list(field)?.unwrap_or_default()
    } else {
        body.string(field)?.into_iter().map(|text| text.to_string()).collect()
    };
    let list: Vec<String> = list.into_iter().filter(|text| !text.trim().is_empty()).collect();
    if list.len() > STATEMENTS_MAX || list.iter().any(|text| text.len() > STATEMENT_BYTES_MAX) {
        return Err(VaultError::field(field, "too many, or too long"));
    }
    Ok(Some(list))
}

/// Nothing new is made there; what was lives on, and ends in its time.
pub(super) async fn delete(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let leases = Leases::of(scope.vault)?;
    for _ in 0..ATTEMPTS_MAX {
        let Some(Loaded { config, revision, mut target, target_revision }) = find(scope, name).await? else {
            return Ok(Reply::empty());
        };
        target.retired = true;
        let path = leases.target(&config.target)?;
        let batch = scope.batch()?.revision_is(path.clone(), target_revision);
        let batch = leases.put(batch.revision_is(SHELF.path(scope, name)?, revision), path, &target)?;
        match scope.commit(SHELF.remove(scope, batch, name)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// Closes what is open.
pub(super) async fn reset(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let loaded = find(scope, name).await?.ok_or(VaultError::NotFound)?;
    let (plugin, to) = connection(scope.vault, &loaded.config.target, &loaded.target).map_err(|e| refused(&e, true))?;
    plugin.forget(&to.id);
    scope.vault.breakers().reached(&to.id);
    Ok(Reply::empty())
}

pub(super) type Settings = BTreeMap<String, String>;

const MOVED: &str =
    "users live where the old `connection_url` leads: they are taken back only if the new one leads there too";
const CONNECTIONS_DEFAULT: u32 = 4;
const CONNECTIONS_MAX: u32 = 64;
const POSTGRESQL: &str = "postgresql-database-plugin";
/// RFC 7677 §4.
const SCRAM_ITERATIONS: u32 = 4096;
const CLOCKS_APART_MILLIS: u64 = 5000;
const URL_BYTES_MAX: usize = 2048;
const STATEMENTS_MAX: usize = 32;
const STATEMENT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_stands_in_a_url_and_globs_match_as_vaults_do() {
        for (url, sound) in [
            ("postgresql://{{username}}:{{password}}@db:5432/app?sslmode=require", true),
            ("postgresql://db/app", true),
            ("host=db user={{username}} password={{password}} dbname=app", true),
            ("postgresql://admin:secret@db/app", false),
            ("postgresql://admin:{{password}}x@db/app", false),
            ("postgresql://db/app?password=secret", false),
            ("host=db PASSWORD=secret", false),
            ("host=db password = secret", false),
            ("admin:secret@tcp(db:3306)/", false),
            ("{{username}}:{{password}}@tcp(db:3306)/app?tls=false", true),
            ("postgresql://a:se/cret@db/x", false),
            ("redis://:secret@db", false),
            ("rediss://{{username}}:{{password}}@[::1]:7/3", true),
        ] {
            assert_eq!(check_url(url).is_ok(), sound, "{url}");
        }
        let allowing = |roles: &[&str]| Config {
            allowed_roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Config::default()
        };
        for (roles, role, allowed) in [
            (&["*"][..], "a", true),
            (&["app-*"], "app-ro", true),
            (&["app-*"], "other", false),
            (&["*-ro"], "app-ro", true),
            (&["a", "b"], "b", true),
            (&[], "a", false),
        ] {
            assert_eq!(allowing(roles).allows(role), allowed, "{roles:?} {role}");
        }
    }
}
