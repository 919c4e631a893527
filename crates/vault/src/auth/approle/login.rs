//! Logins.
//!
//! Always: of any number of logins at once as many succeed as there are uses: a use and its token are one commit, under the
//! revisions of the role and the SecretID that were looked at.
//! Where no use is counted and the token is stateless, nothing is stored: what was looked at may be two seconds old, as any
//! token's revocation on another node is.

use super::ATTEMPTS_MAX;
use super::role::{Role, Roles};
use super::secret_id::{Found, SecretId};
use crate::auth::explain::Causes;
use crate::auth::proven::{committed, logged, narrowed};
use crate::auth::token_fields::{self, Login, is_from, lie_within};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use audit::{Decision, Outcome};
use envelope::mac;
use identity::ChangeError;
use storage::{EntryPath, Revision};

/// How what is looked at is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    PerhapsFromMemory,
    FromTheStore,
}

/// A role that was named by its RoleID.
struct Known {
    role: Role,
    path: EntryPath,
    revision: Revision,
}

pub(super) async fn login(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    let role_id = scope.call.body.required("role_id")?;
    let secret_id = scope.call.body.string("secret_id")?.unwrap_or_default();
    let hash = roles.secret_hash(&secret_id)?;
    let mut way = Way::PerhapsFromMemory;
    let mut turn = None;
    for _ in 0..ATTEMPTS_MAX {
        let known = role(roles, &role_id, way).await?;
        if !known.role.bind_secret_id {
            check_role(scope, &known.role).await?;
            if let Some(reply) = let_in(scope, roles, &known, None).await? {
                return Ok(reply);
            }
        } else {
            let found = secret(roles, &known.role, &hash, way).await?.ok_or(refused(UNKNOWN))?;
            if found.secret_id.limited && turn.is_none() {
                // what is counted is read from the store, one login after the other
                turn = scope.vault.turns().of(&found.hash).await;
                way = Way::FromTheStore;
                continue;
            }
            if let Err(cause) = check(scope, &known.role, &found.secret_id)? {
                return Err(violated(scope, roles, &known.role, &found, cause).await?);
            }
            if let Some(reply) = let_in(scope, roles, &known, Some(found)).await? {
                return Ok(reply);
            }
        }
        way = Way::FromTheStore;
    }
    Err(VaultError::Conflict)
}

async fn role(roles: &Roles<'_>, role_id: &str, way: Way) -> Result<Known, VaultError> {
    let unknown = || refused(ROLE_UNKNOWN);
    let index = roles.index_path(role_id)?;
    let (name, _) =
        read(roles, &index, way, |text| Ok(String::from_utf8_lossy(text).into_owned())).await?.ok_or_else(unknown)?;
    let path = roles.path(&name)?;
    let (role, revision) = read(roles, &path, way, Role::decode).await?.ok_or_else(unknown)?;
    // between the two reads the role may have got another RoleID
    if !mac::equal(role.role_id.as_bytes(), role_id.as_bytes()) {
        return Err(unknown());
    }
    Ok(Known { role, path, revision })
}

async fn secret(roles: &Roles<'_>, role: &Role, hash: &str, way: Way) -> Result<Option<Found>, VaultError> {
    let path = roles.secret_path(&role.incarnation, hash)?;
    let found = read(roles, &path, way, SecretId::decode).await?;
    Ok(found.map(|(secret_id, revision)| Found { secret_id, hash: hash.to_owned(), path, revision }))
}

async fn read<T>(
    roles: &Roles<'_>,
    path: &EntryPath,
    way: Way,
    decode: impl Fn(&[u8]) -> Result<T, VaultError>,
) -> Result<Option<(T, Revision)>, VaultError> {
    match way {
        Way::PerhapsFromMemory => {
            let kept = roles.view.read(path).await?;
            let kept = kept.as_ref().as_ref();
            kept.map(|kept| Ok((decode(kept.value.expose())?, kept.revision))).transpose()
        }
        Way::FromTheStore => {
            let opened = roles.view.load(path).await?;
            opened.map(|opened| Ok((decode(opened.value.expose())?, opened.revision))).transpose()
        }
    }
}

/// Of a role that asks for no SecretID.
async fn check_role(scope: &Scope<'_>, role: &Role) -> Result<(), VaultError> {
    let bound = !role.secret_id_bound_cidrs.is_empty() || !role.token.token_bound_cidrs.is_empty();
    let inside = is_from(scope, &role.secret_id_bound_cidrs)? && is_from(scope, &role.token.token_bound_cidrs)?;
    if bound && inside { Ok(()) } else { Err(refused(ADDRESS_OTHER)) }
}

/// Why it does not log in. The role may have been narrowed since the SecretID was made.
fn check(scope: &Scope<'_>, role: &Role, secret_id: &SecretId) -> Result<Result<(), &'static str>, VaultError> {
    let within =
        |inner: &[String], outer: &[String]| Ok::<_, VaultError>(inner.is_empty() || lie_within(inner, outer)?);
    if secret_id.is_over(scope.now()) {
        return Ok(Err(EXPIRED));
    }
    if secret_id.spent.is_some() {
        return Ok(Err(REPLAYED));
    }
    let inside = is_from(scope, &role.secret_id_bound_cidrs)?
        && is_from(scope, &secret_id.cidrs)?
        && is_from(scope, &role.token.token_bound_cidrs)?
        && is_from(scope, &secret_id.token_cidrs)?
        && within(&secret_id.cidrs, &role.secret_id_bound_cidrs)?
        && within(&secret_id.token_cidrs, &role.token.token_bound_cidrs)?;
    if !inside {
        return Ok(Err(ADDRESS_OTHER));
    }
    if let Some(bound) = &secret_id.certificate {
        let shown = scope.call.certificate.as_ref().map(|shown| hex::encode(shown.thumbprint));
        if !shown.is_some_and(|shown| mac::equal(bound.as_bytes(), shown.as_bytes())) {
            return Ok(Err(CERTIFICATE_OTHER));
        }
    }
    Ok(Ok(()))
}

/// Takes the use and gives the token. Nothing where others were in between.
async fn let_in(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    known: &Known,
    found: Option<Found>,
) -> Result<Option<Reply>, VaultError> {
    let now = scope.now();
    let Known { role, path, revision } = known;
    let secret_id = found.as_ref().map(|found| &found.secret_id);
    let mut meta = secret_id.map(|secret_id| secret_id.metadata.clone()).unwrap_or_default();
    meta.insert("role_name".to_owned(), role.name.clone());
    if let Some(secret_id) = secret_id {
        meta.insert("secret_id_accessor".to_owned(), secret_id.accessor.clone());
    }
    let proof = proof(role, secret_id);
    let mut given = role.token.clone();
    if let Some(ranges) = secret_id.map(|secret_id| &secret_id.token_cidrs).filter(|ranges| !ranges.is_empty()) {
        given.token_bound_cidrs.clone_from(ranges);
    }
    let fields = narrowed(scope, &given)?;
    let login = Login {
        path: format!("{}login", scope.mount_path),
        display_name: scope.mount_path.trim_start_matches("auth/").trim_end_matches('/').replace('/', "-"),
        meta,
        cidrs: &fields.token_bound_cidrs,
        certificate: bound_to(scope, secret_id)?,
    };
    let new = fields.token(scope.mount, login)?;
    let mut batch = scope.batch()?.revision_is(path.clone(), *revision);
    if let Some(Found { mut secret_id, hash, path, revision }) = found {
        batch = batch.revision_is(path.clone(), revision);
        if secret_id.limited {
            if let Some(due) = secret_id.spend(now) {
                let due = roles.due_path(due.unix_millis(), &role.incarnation, &hash)?;
                batch = roles.view.put(batch, due, b"")?;
            }
            batch = roles.view.put(batch, path, &secret_id.encode()?)?;
        }
    }
    let prepared = token_fields::prepare(scope, batch, new, &role.role_id).await;
    let (batch, created) = token_fields::let_in_or(prepared, refused(ENTITY_DISABLED))?;
    if batch.writes.is_empty() {
        return logged(scope, &batch, created, &proof).await;
    }
    committed(scope, batch, created, &proof).await
}

/// Which SecretID it was the token's own metadata tells, to whom may ask.
fn proof(role: &Role, secret_id: Option<&SecretId>) -> String {
    let by = if secret_id.is_some() { "secret_id" } else { "addresses" };
    format!("approle role:{} by:{by}", role.name)
}

/// The certificate beside which the token is to count.
fn bound_to(scope: &Scope<'_>, secret_id: Option<&SecretId>) -> Result<Option<[u8; 32]>, VaultError> {
    let Some(bound) = secret_id.and_then(|secret_id| secret_id.certificate.as_deref()) else {
        return Ok(scope.call.bind);
    };
    let mut thumbprint = [0; 32];
    let unreadable = || VaultError::Internal("a stored SecretID's certificate cannot be read".into());
    hex::decode_to_slice(bound, &mut thumbprint).map_err(|_| unreadable())?;
    if scope.call.bind.is_some_and(|wish| wish != thumbprint) {
        return Err(VaultError::field("X-Strongroom-Bind-Certificate", "the SecretID is bound to another certificate"));
    }
    Ok(Some(thumbprint))
}

/// Warns, and counts what is worth it; what the caller is told.
async fn violated(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    role: &Role,
    found: &Found,
    cause: &'static str,
) -> Result<VaultError, VaultError> {
    tracing::warn!(
        accessor = found.secret_id.accessor,
        role = role.name,
        from = scope.call.info.from,
        cause,
        "a SecretID was used by who may not use it, or not any more"
    );
    if cause != EXPIRED {
        count_violation(scope, roles, role, &found.hash, cause).await?;
    }
    Ok(refused(cause))
}

/// With a record of its own, which is this request's.
async fn count_violation(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    role: &Role,
    hash: &str,
    cause: &'static str,
) -> Result<(), VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(found) = roles.load_secret_id(role, hash.to_owned()).await? else { return Ok(()) };
        let Found { mut secret_id, path, revision, .. } = found;
        if secret_id.violations >= VIOLATIONS_MAX {
            return Ok(());
        }
        secret_id.violations += 1;
        secret_id.last_violation = Some(scope.now().unix_millis());
        let batch = scope.batch()?.revision_is(path.clone(), revision);
        let batch = roles.view.put(batch, path, &secret_id.encode()?)?;
        let record = scope.record(scope.subject(), Decision::Denied, Outcome::Failed(cause.into()));
        match scope.vault.commit(batch, &record).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                scope.was_recorded();
                return Ok(());
            }
        }
    }
    Ok(())
}

fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: "invalid role or secret ID", cause }
}

pub(crate) const CAUSES: Causes = &[
    (ROLE_UNKNOWN, "no role has this RoleID; it may have got another one"),
    (UNKNOWN, "the role has no such SecretID: never made, destroyed, swept, or meant for another role"),
    (REPLAYED, "all uses of the SecretID are spent: somebody has used it before; if its holder has not, it was stolen"),
    (EXPIRED, "the SecretID's time was over"),
    (ADDRESS_OTHER, "the login came from outside the ranges of the role, or of the SecretID"),
    (
        CERTIFICATE_OTHER,
        "the SecretID is bound to a client certificate, and another or none was shown: it may be stolen",
    ),
    (ENTITY_DISABLED, "the entity is disabled: see identity/entity"),
];
const ROLE_UNKNOWN: &str = "APPROLE_ROLE_ID_UNKNOWN";
const UNKNOWN: &str = "APPROLE_SECRET_ID_UNKNOWN";
const REPLAYED: &str = "APPROLE_SECRET_ID_REPLAYED";
const EXPIRED: &str = "APPROLE_SECRET_ID_EXPIRED";
const ADDRESS_OTHER: &str = "APPROLE_ADDRESS_OTHER";
const CERTIFICATE_OTHER: &str = "APPROLE_CERTIFICATE_OTHER";
const ENTITY_DISABLED: &str = "APPROLE_ENTITY_DISABLED";
const VIOLATIONS_MAX: u32 = 1000;
