//! Logins by a token that somebody has already.
//!
//! Always: of a role that is single use a token logs in once: its id and the login are one commit.

use super::bound::{self, Taken};
use super::config::{self, Config, Use};
use super::role::{Role, RoleType, Roles};
use super::{
    ATTEMPTS_MAX, ISSUER_OTHER, NAME_BYTES_MAX, NOT_CONFIGURED, PULL_REQUEST, REPLAYED, ROLE_OUTDATED, ROLE_TYPE_OTHER,
    ROLE_UNKNOWN, refused,
};
use crate::auth::jose::{self, Rules, Verified, verify};
use crate::auth::proven::{self, Proven};
use crate::auth::token_fields::folded;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use storage::{Batch, EntryPath, Revision};

/// What a login is looked at by; it is committed only where this still stands.
pub(super) struct Found {
    pub(super) config: Config,
    config_at: Revision,
    pub(super) role: Role,
    role_at: Revision,
}

/// How configuration and role are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    PerhapsFromMemory,
    /// From the second look on: what memory holds was not what the store does.
    FromTheStore,
}

pub(super) async fn login(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    let named = scope.call.body.string("role")?.unwrap_or_default();
    let token = scope.call.body.required("jwt")?;
    let token = token.trim_ascii();
    let mut way = Way::PerhapsFromMemory;
    for _ in 0..ATTEMPTS_MAX {
        let found = find(roles, &named, RoleType::Jwt, way).await?;
        let verified = look_at(scope, &found, token).await?;
        let taken = bound::take(&found.role, &verified.claims).map_err(refused)?;
        let batch = found.still_so(scope, roles)?;
        let batch = match found.role.single_use {
            true => once(scope, roles, batch, &verified, &found.role).await?,
            false => batch,
        };
        let ends = (!found.role.token_outlives_jwt).then_some(verified.expires);
        let groups = taken.groups.clone();
        let proven = proven(&found, &verified, taken, ends);
        if let Some(reply) = proven::let_in_of(scope, batch, proven, groups.as_deref()).await? {
            return Ok(reply);
        }
        way = Way::FromTheStore;
    }
    Err(VaultError::Conflict)
}

/// The configuration and the role of this name, or the one by default.
pub(super) async fn find(roles: &Roles<'_>, named: &str, wanted: RoleType, way: Way) -> Result<Found, VaultError> {
    let config = match way {
        Way::PerhapsFromMemory => config::kept(roles.view).await?,
        Way::FromTheStore => config::load(roles.view).await?,
    };
    let (config, config_at) = config.ok_or(refused(NOT_CONFIGURED))?;
    let named = if named.is_empty() { config.shown.default_role.as_str() } else { named };
    let name = folded(named, NAME_BYTES_MAX).ok_or(refused(ROLE_UNKNOWN))?;
    let role = match way {
        Way::PerhapsFromMemory => roles.kept(&name).await?,
        Way::FromTheStore => roles.load(&name).await?,
    };
    let (role, role_at) = role.ok_or(refused(ROLE_UNKNOWN))?;
    if role.role_type != wanted {
        return Err(refused(ROLE_TYPE_OTHER));
    }
    if config.shown.preset.is_some_and(|preset| role.preset != Some(preset)) {
        return Err(refused(ROLE_OUTDATED));
    }
    Ok(Found { config, config_at, role, role_at })
}

impl Found {
    /// A batch that is committed only where configuration and role are still these.
    pub(super) fn still_so(&self, scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Batch, VaultError> {
        let batch = scope.batch()?.revision_is(config::path(roles.view)?, self.config_at);
        Ok(batch.revision_is(roles.path(&self.role.name)?, self.role_at))
    }
}

/// A token that counts for this role.
async fn look_at(scope: &Scope<'_>, found: &Found, token: &str) -> Result<Verified, VaultError> {
    let (config, role, now) = (&found.config, &found.role, scope.now());
    let wanted = jose::key_id(token).map_err(|refusal| refused(refusal.cause()))?;
    let key_sets = scope.vault.key_sets();
    let issuer = key_sets.of(scope.vault, &config.source(), wanted.as_deref(), config.max_stale(), now).await?;
    let algorithms = config.algorithms(Use::Job);
    let kinds = role.kinds();
    let rules = Rules {
        algorithms: &algorithms,
        now,
        leeway_after: role.leeway_after(),
        leeway_before: role.leeway_before(),
        kinds: &kinds,
    };
    let verified = verify(token, &issuer.keys, &rules).map_err(|refusal| refused(refusal.cause()))?;
    let claims = &verified.claims;
    if config.issuer().is_some_and(|issuer| claims.issuer() != Some(issuer)) {
        return Err(refused(ISSUER_OTHER));
    }
    bound::check(role, claims, &role.bound_audiences, now).map_err(refused)?;
    if !role.allow_pull_requests && role.preset.is_some_and(|preset| preset.is_pull_request(claims)) {
        return Err(refused(PULL_REQUEST));
    }
    Ok(verified)
}

pub(super) fn proven<'f>(found: &'f Found, verified: &Verified, taken: Taken, ends: Option<Timestamp>) -> Proven<'f> {
    let Taken { alias, meta, groups: _ } = taken;
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let proof = format!(
        "{} iss={} sub={} kid={} jti={}",
        verified.algorithm.name(),
        shown(&text(verified.claims.issuer())),
        shown(&text(verified.claims.subject())),
        shown(&text(verified.key_id.as_deref())),
        shown(&text(verified.claims.text("jti"))),
    );
    Proven {
        display_name: alias.clone(),
        alias,
        meta,
        proof,
        tokens: &found.role.token,
        ends,
        certificate: None,
        told: super::TOLD,
    }
}

/// One word of a record's line.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() || c.is_whitespace() { '_' } else { c };
    text.chars().take(PROOF_CHARS_MAX).map(plain).collect()
}

/// With the mark that a token of this id has logged in, until no such token counts any more.
async fn once(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    batch: Batch,
    verified: &Verified,
    role: &Role,
) -> Result<Batch, VaultError> {
    let claims = &verified.claims;
    let issuer = claims.issuer().unwrap_or_default();
    let id = claims.text("jti").ok_or(refused(super::ID_MISSING))?;
    // the length keeps the two apart
    let named = format!("{}:{issuer}{id}", issuer.len());
    mark(scope, roles, batch, &named, verified.expires.plus(role.leeway_after()), REPLAYED).await
}

/// With a mark of this name that stands until then; refused where it stands already.
pub(super) async fn mark(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    batch: Batch,
    named: &str,
    until: Timestamp,
    cause: &'static str,
) -> Result<Batch, VaultError> {
    let hash = roles.view.hash(b"jwt/used", named)?;
    let path = used_path(roles, &hash)?;
    if roles.view.load(&path).await?.is_some() {
        tracing::warn!(mount = scope.mount_path, from = scope.call.info.from, cause, "a login was tried a second time");
        return Err(refused(cause));
    }
    let due = roles.view.path(&format!("{DUE}/{:016x}/{hash}", until.unix_millis()))?;
    let batch = roles.view.put(batch.absent(path.clone()), path, b"")?;
    roles.view.put(batch, due, b"")
}

pub(super) fn used_path(roles: &Roles<'_>, hash: &str) -> Result<EntryPath, VaultError> {
    roles.view.path(&format!("u/{hash}"))
}

/// Below it: when, and what is to go then.
pub(super) const DUE: &str = "d";
const PROOF_CHARS_MAX: usize = 200;
