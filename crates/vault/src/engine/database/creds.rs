//! `creds/:name`: a user for whoever asks, and the lease that guards it.
//!
//! ```text
//! lease Creating (durable) → user made → lease Active (durable) → answered
//! ```
//!
//! Always: a crash, an error or a caller that goes away in between leaves a lease that is taken back by itself.

use super::config::Loaded;
use super::plugin::{DatabaseError, NewUser, User};
use super::role::Role;
use super::{ATTEMPTS_MAX, config, connection, password, refused, role, username};
use crate::error::VaultError;
use crate::gone;
use crate::lease::store::{Found, Leases};
use crate::lease::{Lease, State};
use crate::reply::{LeaseInfo, Reply};
use crate::scope::Scope;
use crate::service::Vault;
use crate::sys::passwords::letters_and_digits;
use audit::{Decision, Outcome, Record, Subject};
use identity::{ChangeError, Principal, TokenKind};
use serde::Serialize;
use std::time::Duration;
use storage::{AtLeast, Batch, Revision};
use zeroize::Zeroizing;

/// All that a user is made by.
struct Asked<'a> {
    name: &'a str,
    role: Role,
    role_revision: Revision,
    loaded: Loaded,
}

pub(super) async fn issue(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let by = scope.by()?;
    if by.token().is_some_and(|token| token.uses_left == Some(0)) {
        let why = "the token had one use left, with which what it is lent would end: nothing was made";
        return Err(VaultError::Invalid(why.into()));
    }
    // whoever asks for one role at once is counted one after the other; the same asker waits until there is what it is given again
    let mut turn = None;
    for _ in 0..ATTEMPTS_MAX {
        let asked = asked(scope, name).await?;
        // a rotation was cut off: whichever password counts is found out first
        if asked.loaded.target.next_password.is_some() {
            super::root::settle(scope.vault, &asked.loaded.config.target, scope.now()).await?;
        }
        let counted = asked.role.max_leases > 0 || asked.role.reuse_window > 0;
        if counted && turn.is_none() {
            let key = match asked.role.reuse_window {
                0 => format!("{}/{name}", scope.mount.id),
                _ => window(scope, &Leases::of(scope.vault)?, name)?,
            };
            turn = scope.vault.turns().of(key).await;
        }
        if let Some(reply) = again(scope, &asked).await? {
            return Ok(reply);
        }
        let (found, password) = match intend(scope, by, &asked).await {
            Ok(intended) => intended,
            Err(VaultError::Conflict) => continue,
            Err(error) => return Err(error),
        };
        if asked.role.reuse_window == 0 {
            drop(turn.take());
        }
        return make(scope, &asked, found, password).await;
    }
    Err(VaultError::Conflict)
}

async fn asked<'a>(scope: &Scope<'_>, name: &'a str) -> Result<Asked<'a>, VaultError> {
    let found = role::SHELF.find::<Role>(scope, name).await?;
    let (role, role_revision) = found.ok_or_else(|| VaultError::Invalid(format!("unknown role: {name}").into()))?;
    let loaded = config::find(scope, &role.db_name).await?;
    let loaded = loaded.ok_or_else(|| VaultError::Invalid(format!("no configuration `{}`", role.db_name).into()))?;
    if !loaded.config.allows(name) {
        return Err(VaultError::Invalid(format!("\"{name}\" is not an allowed role of `{}`", role.db_name).into()));
    }
    Ok(Asked { name, role, role_revision, loaded })
}

/// Under what the same asker finds the same user again.
fn window(scope: &Scope<'_>, leases: &Leases, name: &str) -> Result<String, VaultError> {
    let by = scope.by()?;
    let who = by.entity().map_or_else(|| by.id().to_owned(), |entity| format!("entity/{entity}"));
    leases.view.hash(b"vault/lease-window", &format!("{}/{name}/{who}", scope.mount.id))
}

/// What the same asker was given a moment ago, where the role gives it again: to the token that it was lent to.
async fn again(scope: &Scope<'_>, asked: &Asked<'_>) -> Result<Option<Reply>, VaultError> {
    if asked.role.reuse_window == 0 {
        return Ok(None);
    }
    let leases = Leases::of(scope.vault)?;
    let path = leases.window(&window(scope, &leases, asked.name)?)?;
    let Some(entry) = leases.view.load(&path).await? else { return Ok(None) };
    let key = String::from_utf8_lossy(entry.value.expose()).into_owned();
    let Some(found) = leases.load(&key).await? else { return Ok(None) };
    let lease = &found.lease;
    let young = !scope.vault.is_void(lease.generation)
        && scope.now().unix_millis() < lease.issued.saturating_add(asked.role.reuse_window * 1000);
    let same = lease.token == token_of(scope.by()?) && lease.target == asked.loaded.config.target;
    match &lease.password {
        Some(password) if young && same && lease.state == State::Active && !lease.ttl(scope.now()).is_zero() => {
            answer(scope, lease, password).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

/// With which token what it is lent ends.
fn token_of(by: &Principal) -> Option<String> {
    let token = by.token()?;
    match (token.kind, token.parent) {
        (TokenKind::Service, _) => Some(token.accessor.as_str().to_owned()),
        (TokenKind::Stateless, identity::token::Parent::Token(parent)) => Some(parent.as_str().to_owned()),
        (TokenKind::Stateless, _) => None,
    }
}

/// The lease is durable, and its leaf says what is to be made.
async fn intend(
    scope: &Scope<'_>,
    by: &Principal,
    asked: &Asked<'_>,
) -> Result<(Found, Zeroizing<String>), VaultError> {
    let (leases, now) = (Leases::of(scope.vault)?, scope.now());
    // the lease counts from when it was asked for: who has waited long might be making it when it is taken back
    if scope.call.info.began.elapsed() > WAITED_MAX {
        return Err(VaultError::Unavailable("DATABASE_UNAVAILABLE"));
    }
    let Asked { name, role, loaded, .. } = asked;
    let mut batch = gone::still_there(scope.vault, scope.batch()?, scope.mount)?
        .revision_is(role::SHELF.path(scope, name)?, asked.role_revision)
        .revision_is(leases.target(&loaded.config.target)?, loaded.target_revision);
    let path = format!("{}creds/{name}", scope.mount_path);
    if role.max_leases > 0 {
        batch = counted(scope.vault, batch, &path, role.max_leases).await?;
    }
    let (batch, accessor) = scope.vault.identities().prepare_lending(batch, by, now).await?;
    let password = password::make(scope.vault, &loaded.config.password_policy).await?;
    let (ttl, most) = role.ttls(scope.mount);
    // a stateless token's end is heard by nobody: nothing lives longer
    let left = by.token().filter(|token| token.kind == TokenKind::Stateless).and_then(|token| token.ttl(now));
    let (ttl, most) = left.map_or((ttl, most), |left| (ttl.min(left), most.min(left)));
    let windowed = role.reuse_window > 0;
    let lease = Lease {
        id: format!("{path}/{}", *letters_and_digits(scope.vault.barrier(), ID_LENGTH)?),
        mount: scope.mount.id.clone(),
        target: loaded.config.target.clone(),
        state: State::Creating,
        username: user_name(scope, by, asked)?,
        generation: scope.vault.generation(),
        issued: now.unix_millis(),
        expires: now.plus(ttl).unix_millis(),
        expires_max: now.plus(most).unix_millis(),
        ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        renewed: None,
        token: accessor.map(|accessor| accessor.as_str().to_owned()),
        certificate: by.certificate().map(str::to_owned),
        entity: by.entity().map(|entity| entity.to_string()),
        renew_statements: role.renew_statements.clone(),
        revoke_statements: role.revocation_statements.clone(),
        heir: role.heir.clone(),
        due: now.plus(crate::lease::CREATED_WITHIN).unix_millis(),
        attempts: 0,
        last_error: None,
        late_since: None,
        access_ended: None,
        why: None,
        password: windowed.then(|| password.clone()),
        window: if windowed { Some(window(scope, &leases, name)?) } else { None },
    };
    let key = leases.key(&lease.id)?;
    let batch = leases.add(batch, &lease, &key)?;
    // who asked is found by the lease that later leaves name
    let record = scope.record(scope.subject(), Decision::Allowed, Outcome::Asked);
    let record = Record { path: &lease.id, ..record };
    let revision = scope.vault.commit(batch, &record).await?;
    Ok((Found { key, lease, revision }, password))
}

fn user_name(scope: &Scope<'_>, by: &Principal, asked: &Asked<'_>) -> Result<String, VaultError> {
    let display_name = match by.subject() {
        Subject::Token { name, .. } | Subject::Certificate { name, .. } => name.as_str(),
        Subject::Unauthenticated | Subject::System => "",
    };
    let parts = username::Parts { display_name, role: asked.name, unix_secs: scope.now().unix_secs() };
    let plugin = scope.vault.databases().plugin(&asked.loaded.target.plugin);
    let most = plugin.map_or(username::BYTES_MAX, |plugin| plugin.name_bytes_max());
    username::make(&asked.loaded.config.username_template, &parts, most, scope.vault.barrier())
}

/// Where fewer live than may: under a condition that only one of those who count at once meets.
async fn counted(vault: &Vault, batch: Batch, path: &str, most: u32) -> Result<Batch, VaultError> {
    let leases = Leases::of(vault)?;
    let cap = leases.view.path(&format!("cap/{}", leases.view.hash(b"vault/lease-path", path)?))?;
    let stands = leases.view.load(&cap).await?;
    let (folder, mut after, mut live) = (leases.at_path(path)?, None, 0u32);
    loop {
        let store = vault.barrier().storage();
        let page = store.scan(&folder, after.as_ref(), storage::PAGE_ENTRIES_MAX, AtLeast::Latest).await?;
        live = live.saturating_add(u32::try_from(page.entries.len()).unwrap_or(u32::MAX));
        if live >= most {
            return Err(VaultError::Limited(format!("{live} leases of this role live, and no more may").into()));
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more {
            break;
        }
    }
    let batch = match stands {
        Some(found) => batch.revision_is(cap.clone(), found.revision),
        None => batch.absent(cap.clone()),
    };
    leases.view.put(batch, cap, &[])
}

async fn make(
    scope: &Scope<'_>,
    asked: &Asked<'_>,
    found: Found,
    password: Zeroizing<String>,
) -> Result<Reply, VaultError> {
    let role = &asked.role;
    // the commit took its time: whoever makes it now might be making it when it is taken back
    if scope.call.info.began.elapsed() > BEGUN_MAX {
        return not_made(scope, &found, &DatabaseError::Unreachable("not begun in time".to_owned())).await;
    }
    let outcome = async {
        let (plugin, to) = connection(scope.vault, &found.lease.target, &asked.loaded.target)?;
        let user = NewUser {
            user: User { name: &found.lease.username, lease: &found.key, statements: &[], heir: None },
            password: &password,
            until: found.lease.expires(),
            statements: &role.creation_statements,
            groups: &role.groups,
            connections_max: role.connection_limit,
            settings: &role.settings,
        };
        let made = tokio::time::timeout(MADE_WITHIN, plugin.create_user(&to, &user, scope.now())).await;
        made.unwrap_or_else(|_| Err(DatabaseError::Unknown("not made in time".to_owned())))
    };
    if let Err(error) = outcome.await {
        if matches!(error, DatabaseError::Unreachable(_)) {
            scope.vault.breakers().unreachable(&found.lease.target, scope.now());
        }
        return not_made(scope, &found, &error).await;
    }
    scope.vault.breakers().reached(&found.lease.target);
    let mut lease = found.lease.clone();
    lease.state = State::Active;
    lease.due = lease.expires;
    let batch = Leases::of(scope.vault)?.change(scope.batch()?, &found, &lease)?;
    match scope.commit(batch).await {
        Ok(_) => answer(scope, &lease, &password),
        // it was to end meanwhile: its token is gone
        Err(ChangeError::Conflict(_)) => Err(VaultError::PermissionDenied),
        Err(error) => Err(error.into()),
    }
}

/// What was not made needs no lease; what may have been is taken back by the queue.
async fn not_made(scope: &Scope<'_>, found: &Found, error: &DatabaseError) -> Result<Reply, VaultError> {
    let told = refused(error, false);
    if !matches!(error, DatabaseError::Unknown(_)) {
        let batch = Leases::of(scope.vault)?.remove(scope.batch()?, found)?;
        let record = scope.record(scope.subject(), Decision::Allowed, Outcome::Failed(told.reason().into()));
        match scope.vault.commit(batch, &record).await {
            Ok(_) => scope.was_recorded(),
            Err(error) => tracing::warn!(%error, "a lease of nothing stands; it is taken back"),
        }
    }
    Err(told)
}

fn answer(scope: &Scope<'_>, lease: &Lease, password: &str) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        username: &'a str,
        password: &'a str,
    }
    let secs = lease.ttl(scope.now()).as_secs();
    let reply = Reply::data(&Shown { username: &lease.username, password })?;
    Ok(Reply { lease: Some(LeaseInfo { id: lease.id.clone(), secs, renewable: true }), ..reply })
}

const ID_LENGTH: usize = 24;
/// After so long it is not intended any more, and not begun.
const WAITED_MAX: Duration = Duration::from_secs(4);
const BEGUN_MAX: Duration = Duration::from_secs(8);
/// A plugin that does not stop when nobody waits any more, because it makes others, too, ends within the same time again.
/// All together well before the queue takes it for unfinished.
const MADE_WITHIN: Duration = Duration::from_secs(8);
