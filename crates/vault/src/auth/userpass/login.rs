//! Logins, and the failures that are counted.

use super::hash::Hashed;
use super::lockout::Failures;
use super::user::{self, User, Users};
use super::{ATTEMPTS_MAX, NAME_BYTES_MAX};
use crate::auth::explain::Causes;
use crate::auth::proven::{committed, narrowed};
use crate::auth::token_fields::{self, Login, folded, is_from};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use audit::{Decision, Outcome, Record, Subject};
use identity::ChangeError;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};
use tokio::time::Instant;

/// A user and its failures, as they stood at once.
struct Found {
    user: Option<(User, Revision)>,
    failures: Failures,
    failures_at: Option<Revision>,
}

pub(super) async fn login(scope: &Scope<'_>, users: &Users<'_>, raw: &str) -> Result<Reply, VaultError> {
    let password = user::password(scope)?;
    let outcome = match folded(raw, NAME_BYTES_MAX) {
        Some(name) => attempt(scope, users, &name, &password).await,
        None => Err(refused(NAME_MALFORMED)),
    };
    if let Err(error @ VaultError::LoginRefused { .. }) = &outcome {
        // now: a caller who does not wait leaves its record all the same
        if !scope.is_recorded() {
            scope.record_refusal(error).await?;
        }
        let began = Instant::from_std(scope.call.info.began);
        let periods = began.elapsed().as_millis() / REFUSED_EVERY.as_millis() + 1;
        let wait = REFUSED_EVERY.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
        tokio::time::sleep_until(began + wait).await;
    }
    outcome
}

async fn attempt(scope: &Scope<'_>, users: &Users<'_>, name: &str, password: &str) -> Result<Reply, VaultError> {
    let mut known: Option<(Option<Revision>, bool)> = None;
    for _ in 0..ATTEMPTS_MAX {
        let found = find(users, name).await?;
        let revision = found.user.as_ref().map(|(_, revision)| *revision);
        let right = match known {
            Some((at, right)) if at == revision => right,
            Some(_) | None => {
                let hashed: Option<&Hashed> = found.user.as_ref().map(|(user, _)| &user.password);
                scope.vault.hashing().is(password, hashed, &scope.call.info.from).await?
            }
        };
        known = Some((revision, right));
        let Some((user, revision)) = &found.user else { return Err(refused(UNKNOWN)) };
        if !is_from(scope, &user.token.token_bound_cidrs)? {
            return Err(refused(ADDRESS_OTHER));
        }
        // while the password was hashed others may have failed: the revisions tell
        if found.failures.is_locked(scope.now()) {
            return Err(warned(scope, user, LOCKED));
        }
        if !right {
            return match count(scope, users, name).await? {
                Counted::Failure => Err(warned(scope, user, WRONG)),
                Counted::Locked => Err(warned(scope, user, LOCKED)),
            };
        }
        if let Some(reply) = let_in(scope, users, (user, *revision), &found).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

async fn find(users: &Users<'_>, name: &str) -> Result<Found, VaultError> {
    let mut found = users.view.load_all(&[users.path(name)?, users.failures_path(name)?]).await?.into_iter();
    let user = found.next().flatten();
    let user = user.map(|user| Ok::<_, VaultError>((User::decode(user.value.expose())?, user.revision))).transpose()?;
    let (failures, failures_at) = match found.next().flatten() {
        None => (Failures::default(), None),
        Some(failures) => {
            let decoded = serde_json::from_slice(failures.value.expose())
                .map_err(|_| VaultError::Internal("stored failures cannot be read".into()))?;
            (decoded, Some(failures.revision))
        }
    };
    Ok(Found { user, failures, failures_at })
}

/// Nothing where others were in between.
async fn let_in(
    scope: &Scope<'_>,
    users: &Users<'_>,
    (user, revision): (&User, Revision),
    found: &Found,
) -> Result<Option<Reply>, VaultError> {
    let name = &user.name;
    let wished = narrowed(scope, &user.token);
    let fields = wished.as_ref().unwrap_or(&user.token);
    let mount = scope.mount_path.trim_start_matches("auth/").trim_end_matches('/').replace('/', "-");
    let login = Login {
        path: format!("{}login/{name}", scope.mount_path),
        display_name: format!("{mount}-{name}"),
        meta: BTreeMap::from([("username".to_owned(), name.clone())]),
        cidrs: &fields.token_bound_cidrs,
        certificate: scope.call.bind,
    };
    let new = fields.token(scope.mount, login)?;
    let batch = scope.batch()?.revision_is(users.path(name)?, revision);
    let failures = users.failures_path(name)?;
    let batch = match found.failures_at {
        Some(_) => as_found(batch, &failures, found).delete(failures),
        None => as_found(batch, &failures, found),
    };
    let prepared = token_fields::prepare(scope, batch, new, name).await;
    // that the password was right is nobody's to hear
    let (batch, created) = token_fields::let_in_or(prepared, refused(ENTITY_DISABLED))?;
    wished?;
    // of a stateless token, too: that nobody failed in between is what is committed
    committed(scope, batch, created, &format!("userpass user:{name}")).await
}

fn as_found(batch: Batch, failures: &EntryPath, found: &Found) -> Batch {
    match found.failures_at {
        Some(revision) => batch.revision_is(failures.clone(), revision),
        None => batch.absent(failures.clone()),
    }
}

enum Counted {
    Failure,
    /// There is nothing more to count.
    Locked,
}

/// One more. What the pipeline records of the request is bounded by its address; this is by the lock.
async fn count(scope: &Scope<'_>, users: &Users<'_>, name: &str) -> Result<Counted, VaultError> {
    let _turn = scope.vault.turns().of(&users.hash(name)?).await;
    let (path, failures) = (users.path(name)?, users.failures_path(name)?);
    for _ in 0..ATTEMPTS_MAX {
        let found = find(users, name).await?;
        // whoever was deleted has no failures
        let Some((_, revision)) = found.user else { return Ok(Counted::Failure) };
        if found.failures.is_locked(scope.now()) {
            return Ok(Counted::Locked);
        }
        let batch = as_found(scope.batch()?.revision_is(path.clone(), revision), &failures, &found);
        let text = serde_json::to_vec(&found.failures.and_one(scope.now()))
            .map_err(|_| VaultError::Internal("failures cannot be written".into()))?;
        let record = Record {
            path: &scope.call.path.told(),
            decision: Decision::Denied,
            ..scope.call.info.record("VaultCountFailedLogin", &Subject::System, Outcome::Failed(WRONG.into()))
        };
        match scope.vault.commit(users.view.put(batch, failures.clone(), &text)?, &record).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Counted::Failure)?),
        }
    }
    Err(VaultError::Conflict)
}

fn warned(scope: &Scope<'_>, user: &User, cause: &'static str) -> VaultError {
    tracing::warn!(user = user.name, mount = scope.mount_path, from = scope.call.info.from, cause, "a login failed");
    refused(cause)
}

fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: "invalid username or password", cause }
}

pub(crate) const CAUSES: Causes = &[
    (NAME_MALFORMED, "no user could have this name"),
    (UNKNOWN, "there is no such user"),
    (WRONG, "the password was wrong; five within 15 minutes lock the user"),
    (ENTITY_DISABLED, "the entity is disabled: see identity/entity"),
    (LOCKED, "five wrong passwords have locked the user for 15 minutes: see sys/locked-users"),
    (ADDRESS_OTHER, "the login came from outside the user's token_bound_cidrs"),
];
const NAME_MALFORMED: &str = "USERPASS_NAME_MALFORMED";
const UNKNOWN: &str = "USERPASS_USER_UNKNOWN";
const WRONG: &str = "USERPASS_PASSWORD_WRONG";
const ENTITY_DISABLED: &str = "USERPASS_ENTITY_DISABLED";
const LOCKED: &str = "USERPASS_LOCKED";
const ADDRESS_OTHER: &str = "USERPASS_ADDRESS_OTHER";
/// Refusals leave at multiples of this. A hash and a commit take less where the cores are not overloaded.
const REFUSED_EVERY: Duration = Duration::from_millis(300);
