//! `sys/mounts`, `sys/auth`, `sys/internal/ui/mounts`, `sys/remount`.

use crate::body::Body;
use crate::call::Verb;
use crate::error::VaultError;
use crate::gone;
use crate::mount::{AUTH, Kind, Mount, Table, parse_path};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use identity::{Capability, ChangeError, Facts, Verdict, decide_on};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["internal", "ui", "mounts"], Verb::Read) => visible(scope).await,
        (["internal", "ui", "mounts", path @ ..], Verb::Read) => preflight(scope, &path.join("/")).await,
        (["remount"], Verb::Write) => remount(scope).await,
        ([side @ ("mounts" | "auth")], Verb::Read) => all(scope, *side == "auth").await,
        ([side @ ("mounts" | "auth"), path @ .., "tune"], verb) if !path.is_empty() => {
            let at = tuned_place(*side == "auth", &path.join("/"))?;
            match verb {
                Verb::Read => show_tune(scope, &at).await,
                Verb::Write => tune(scope, &at).await,
                Verb::List | Verb::Patch | Verb::Delete => Err(VaultError::Unsupported),
            }
        }
        ([side @ ("mounts" | "auth"), path @ ..], verb) if !path.is_empty() => {
            let at = place(*side == "auth", &path.join("/"))?;
            match verb {
                Verb::Read => one(scope, &at).await,
                Verb::Write => enable(scope, *side == "auth", &at).await,
                Verb::Delete => disable(scope, &at).await,
                Verb::List | Verb::Patch => Err(VaultError::Unsupported),
            }
        }
        (["internal" | "remount" | "mounts" | "auth", ..], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn place(auth: bool, raw: &str) -> Result<String, VaultError> {
    let path = parse_path(raw)?;
    if !auth && path.starts_with(AUTH) {
        return Err(VaultError::field("path", "auth methods are administered at sys/auth"));
    }
    Ok(if auth { format!("{AUTH}{path}") } else { path })
}

/// An auth method is tuned at `sys/mounts/auth/` as well: `vault auth tune` asks there.
fn tuned_place(auth: bool, raw: &str) -> Result<String, VaultError> {
    if auth { place(auth, raw) } else { parse_path(raw) }
}

#[derive(Serialize)]
struct Shown<'a> {
    accessor: &'a str,
    config: ShownConfig<'a>,
    description: &'a str,
    external_entropy_access: bool,
    local: bool,
    options: Option<BTreeMap<&'static str, &'static str>>,
    plugin_version: &'static str,
    running_plugin_version: &'static str,
    running_sha256: &'static str,
    seal_wrap: bool,
    r#type: &'static str,
    uuid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownConfig<'a> {
    default_lease_ttl: u64,
    force_no_cache: bool,
    max_lease_ttl: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    listing_visibility: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token_type: &'a str,
}

fn shown(mount: &Mount) -> Shown<'_> {
    let version = match mount.kind {
        Kind::Kv1 => Some("1"),
        Kind::Kv2 => Some("2"),
        Kind::System
        | Kind::Identity
        | Kind::Cubbyhole
        | Kind::Transit
        | Kind::Pki
        | Kind::Database
        | Kind::Token
        | Kind::AppRole
        | Kind::Userpass
        | Kind::Jwt
        | Kind::Oidc
        | Kind::Aws
        | Kind::Gcp
        | Kind::Azure
        | Kind::Cert
        | Kind::Spiffe
        | Kind::Kubernetes => None,
    };
    let token_type = match (mount.kind.is_auth(), mount.tune.token_type.as_str()) {
        (true, "") => "default-service",
        (_, token_type) => token_type,
    };
    Shown {
        accessor: &mount.accessor,
        config: ShownConfig {
            default_lease_ttl: mount.tune.default_lease_secs,
            force_no_cache: false,
            max_lease_ttl: mount.tune.max_lease_secs,
            listing_visibility: &mount.tune.listing_visibility,
            token_type,
        },
        description: &mount.description,
        external_entropy_access: false,
        local: false,
        options: version.map(|version| BTreeMap::from([("version", version)])),
        plugin_version: "",
        running_plugin_version: "",
        running_sha256: "",
        seal_wrap: false,
        r#type: mount.kind.type_name(),
        uuid: &mount.id,
        path: None,
    }
}

async fn all(scope: &Scope<'_>, auth: bool) -> Result<Reply, VaultError> {
    let table = scope.vault.table().await?;
    let found: BTreeMap<&str, Shown<'_>> = if auth {
        table.auth().map(|(path, mount)| (path, shown(mount))).collect()
    } else {
        table.secrets().map(|(path, mount)| (path, shown(mount))).collect()
    };
    Ok(Reply::data(&found)?.repeated())
}

async fn one(scope: &Scope<'_>, at: &str) -> Result<Reply, VaultError> {
    let table = scope.vault.table().await?;
    let mount = table.mounts.get(at).ok_or_else(|| nothing_at(at))?;
    Ok(Reply::data(&shown(mount))?.repeated())
}

/// What of the mounts the caller may see in any way.
async fn visible(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (table, by) = (scope.vault.table().await?, scope.by()?);
    let seen = |path: &str| may_see(by, path);
    let secret: BTreeMap<&str, Shown<'_>> =
        table.secrets().filter(|(path, _)| seen(path)).map(|(path, mount)| (path, shown(mount))).collect();
    let auth: BTreeMap<&str, Shown<'_>> = table
        .auth()
        .filter(|(path, _)| seen(&format!("{AUTH}{path}")))
        .map(|(path, mount)| (path, shown(mount)))
        .collect();
    Reply::data(&BTreeMap::from([("auth", auth), ("secret", secret)]))
}

/// What a client asks before it speaks to an engine: which it is, and where it is mounted.
async fn preflight(scope: &Scope<'_>, path: &str) -> Result<Reply, VaultError> {
    let (table, by) = (scope.vault.table().await?, scope.by()?);
    let (at, mount, _) = table.route(path).ok_or(VaultError::PermissionDenied)?;
    if !may_see(by, at) && !may_see(by, path) {
        return Err(VaultError::PermissionDenied);
    }
    Reply::data(&Shown { path: Some(at), ..shown(mount) })
}

/// Some rule says something of what is at or below the path.
pub(super) fn may_see(by: &identity::Principal, path: &str) -> bool {
    by.acl().speaks_of(path)
        || Capability::ALL.into_iter().any(|capability| {
            matches!(decide_on(by.acl(), path, capability, Facts::Any).verdict, Verdict::Allow { .. })
        })
}

async fn enable(scope: &Scope<'_>, auth: bool, at: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let type_name = body.required("type")?;
    let options = body.map("options")?.unwrap_or_default();
    let kind = if auth {
        Kind::auth(&type_name)
    } else {
        Kind::secrets(&type_name, options.get("version").map(String::as_str))
    };
    let kind = kind.ok_or_else(|| VaultError::field("type", format!("`{}` cannot be mounted here", *type_name)))?;
    if kind == Kind::Database && !scope.vault.namespace().is_empty() {
        return Err(VaultError::field(
            "type",
            "`database` is mounted in the root alone: nobody takes back what a namespace lends",
        ));
    }
    let description = description(body)?.unwrap_or_default();
    let mut mount = scope.vault.new_mount(kind, &description, scope.now())?;
    if let Some(config) = body.inner("config")? {
        apply(&mut mount, &config)?;
    }
    change(scope, |table| table.add(at, mount.clone())).await
}

/// From then on nothing of it is served. What it stored is dropped by and by; the tokens that an auth method gave end now, or
/// where they are many, with the same request again.
async fn disable(scope: &Scope<'_>, at: &str) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (mut table, revision, _) = scope.vault.load_table().await?;
        let Some(mount) = table.mounts.remove(at) else {
            // what other methods gave is not meant
            return if table.is_taken(at) { Err(nothing_at(at)) } else { tokens_too(scope, at).await };
        };
        if mount.kind.is_built_in() {
            return Err(VaultError::Invalid(format!("{at} is built in and stays").into()));
        }
        let batch = scope.batch()?.revision_is(scope.vault.mounts_path()?, revision);
        let batch = gone::leave(scope.vault, scope.vault.put_table(batch, &table)?, &mount, scope.now())?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return tokens_too(scope, at).await,
        }
    }
    Err(VaultError::Conflict)
}

async fn tokens_too(scope: &Scope<'_>, at: &str) -> Result<Reply, VaultError> {
    if at.starts_with(AUTH) { super::leases::revoke_below(scope, at).await } else { Ok(Reply::empty()) }
}

/// With all that it holds. As in Vault, tokens that a login at the old place gave end.
async fn remount(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (from, to) = (parse_path(&scope.call.body.required("from")?)?, parse_path(&scope.call.body.required("to")?)?);
    change(scope, |table| {
        let mount = table.mounts.remove(&from).ok_or_else(|| nothing_at(&from))?;
        if mount.kind.is_built_in() || from.starts_with(AUTH) != to.starts_with(AUTH) {
            return Err(VaultError::Invalid(format!("{from} cannot be moved to {to}").into()));
        }
        table.add(&to, mount)
    })
    .await?;
    let reply = Reply::data(&BTreeMap::from([("migration_id", uuid(&scope.vault.barrier().random()?))]))?;
    if !from.starts_with(AUTH) {
        return Ok(reply);
    }
    // nobody would look for them at the method's old place
    let ended = tokens_too(scope, &from).await;
    if let Err(error) = &ended {
        tracing::warn!(%error, from, "tokens of a method that was moved did not all end");
    }
    Ok(reply.warning(match ended {
        Ok(reply) if reply.warnings.is_empty() => format!("tokens that logins at {from} gave have ended"),
        Ok(_) | Err(_) => format!(
            "not all tokens that logins at {from} gave have ended yet: write sys/leases/revoke-prefix/{from} until this is not told"
        ),
    }))
}

#[derive(Serialize)]
struct Tuned<'a> {
    default_lease_ttl: u64,
    max_lease_ttl: u64,
    description: &'a str,
    force_no_cache: bool,
    options: Option<BTreeMap<&'static str, &'static str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    listing_visibility: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token_type: &'a str,
}

async fn show_tune(scope: &Scope<'_>, at: &str) -> Result<Reply, VaultError> {
    let table = scope.vault.table().await?;
    let mount = table.mounts.get(at).ok_or_else(|| nothing_at(at))?;
    let shown = shown(mount);
    let tuned = Tuned {
        default_lease_ttl: mount.default_ttl().as_secs(),
        max_lease_ttl: mount.max_ttl().as_secs(),
        description: &mount.description,
        force_no_cache: false,
        options: shown.options,
        listing_visibility: &mount.tune.listing_visibility,
        token_type: shown.config.token_type,
    };
    Ok(Reply::data(&tuned)?.repeated())
}

async fn tune(scope: &Scope<'_>, at: &str) -> Result<Reply, VaultError> {
    change(scope, |table| {
        let mount = table.mounts.get_mut(at).ok_or_else(|| nothing_at(at))?;
        apply(mount, &scope.call.body)
    })
    .await
}

fn apply(mount: &mut Mount, config: &Body) -> Result<(), VaultError> {
    if let Some(version) = config.map("options")?.as_ref().and_then(|options| options.get("version")) {
        mount.kind = match (mount.kind, version.as_str()) {
            (Kind::Kv1, "1") => Kind::Kv1,
            (Kind::Kv2, "2") => Kind::Kv2,
            _ => return Err(VaultError::field("options", "a mount keeps its version")),
        };
    }
    if config.has("default_lease_ttl") {
        mount.tune.default_lease_secs = config.duration("default_lease_ttl")?.map_or(0, |ttl| ttl.as_secs());
    }
    if config.has("max_lease_ttl") {
        mount.tune.max_lease_secs = config.duration("max_lease_ttl")?.map_or(0, |ttl| ttl.as_secs());
    }
    if Duration::from_secs(mount.tune.default_lease_secs) > mount.max_ttl() {
        return Err(VaultError::field("default_lease_ttl", "longer than `max_lease_ttl`"));
    }
    if let Some(description) = description(config)? {
        mount.description = description;
    }
    if let Some(visibility) = config.string("listing_visibility")? {
        if !matches!(visibility.as_str(), "" | "hidden" | "unauth") {
            return Err(VaultError::field("listing_visibility", "neither hidden nor unauth"));
        }
        mount.tune.listing_visibility = visibility.to_string();
    }
    if let Some(token_type) = config.string("token_type")? {
        if !matches!(token_type.as_str(), "" | "default-service" | "default-batch" | "service" | "batch") {
            return Err(VaultError::field("token_type", "no type of tokens"));
        }
        mount.tune.token_type = token_type.to_string();
    }
    Ok(())
}

fn description(body: &Body) -> Result<Option<String>, VaultError> {
    match body.string("description")? {
        Some(text) if text.len() > DESCRIPTION_BYTES_MAX => {
            Err(VaultError::field("description", format!("more than {DESCRIPTION_BYTES_MAX} bytes")))
        }
        text => Ok(text.map(|text| text.to_string())),
    }
}

/// Changes the table; decided anew where others change it too.
async fn change(
    scope: &Scope<'_>,
    apply: impl Fn(&mut Table) -> Result<(), VaultError> + Send + Sync,
) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (mut table, revision, _) = scope.vault.load_table().await?;
        let before = table.clone();
        apply(&mut table)?;
        if table == before {
            return Ok(Reply::empty());
        }
        let mut batch = scope.batch()?.revision_is(scope.vault.mounts_path()?, revision);
        let mut new = table.mounts.keys().cloned().collect::<Vec<_>>();
        new.retain(|at| !before.mounts.contains_key(at));
        if !new.is_empty() {
            batch = scope.vault.without_namespaces_at(batch, &new).await?;
        }
        match scope.commit(scope.vault.put_table(batch, &table)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

fn nothing_at(at: &str) -> VaultError {
    VaultError::Invalid(format!("no mount at {at}").into())
}

const ATTEMPTS_MAX: usize = 16;
const DESCRIPTION_BYTES_MAX: usize = 1024;
