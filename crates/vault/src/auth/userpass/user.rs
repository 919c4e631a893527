//! Users, as they are administered.

use super::ATTEMPTS_MAX;
use super::hash::Hashed;
use crate::auth::token_fields::{self, OldNames, TokenFields};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};
use zeroize::Zeroizing;

/// As stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: Hashed,
    pub(super) token: TokenFields,
}

/// Where users stand in a mount's part of the store.
pub(super) struct Users<'v> {
    pub(super) view: &'v View,
}

impl<'v> Users<'v> {
    pub(super) fn new(view: &'v View) -> Self {
        Self { view }
    }

    pub(super) fn hash(&self, name: &str) -> Result<String, VaultError> {
        self.view.hash(b"userpass/user", name)
    }

    pub(super) fn path(&self, name: &str) -> Result<EntryPath, VaultError> {
        self.hashed_path(&self.hash(name)?)
    }

    pub(super) fn hashed_path(&self, hash: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{USERS}/{hash}"))
    }

    pub(super) fn failures_path(&self, name: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("f/{}", self.hash(name)?))
    }

    pub(super) async fn load(&self, name: &str) -> Result<Option<(User, Revision)>, VaultError> {
        let found = self.view.load(&self.path(name)?).await?;
        found.map(|found| Ok((User::decode(found.value.expose())?, found.revision))).transpose()
    }
}

impl User {
    pub(super) fn decode(text: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(text).map_err(|_| VaultError::Internal("a stored user cannot be read".into()))
    }

    fn encode(&self) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let text = serde_json::to_vec(self).map_err(|_| VaultError::Internal("a user cannot be written".into()))?;
        Ok(Zeroizing::new(text))
    }
}

pub(super) async fn list(scope: &Scope<'_>, users: &Users<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, users.view, USERS, |text| Ok(Some(User::decode(text)?.name))).await
}

pub(super) async fn read(users: &Users<'_>, name: &str) -> Result<Reply, VaultError> {
    let (user, _) = users.load(name).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&user.token)
}

pub(super) async fn write(scope: &Scope<'_>, users: &Users<'_>, name: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    if body.has("password_hash") {
        return Err(VaultError::field("password_hash", "hashes that were made elsewhere are not taken"));
    }
    // what is wrong is seen before a hash is made
    TokenFields::default().update(body, OLD_NAMES)?;
    let password = if body.has("password") { Some(new_password(scope).await?) } else { None };
    let apply = |old: Option<&User>| {
        let kept = old.map(|old| old.password.clone());
        let missing = || VaultError::field("password", "missing");
        let mut token = old.map(|old| old.token.clone()).unwrap_or_default();
        token.update(body, OLD_NAMES)?;
        let password = password.clone().or(kept).ok_or_else(missing)?;
        Ok(User { name: name.to_owned(), password, token })
    };
    change(scope, users, name, apply, password.is_some()).await
}

pub(super) async fn set_password(scope: &Scope<'_>, users: &Users<'_>, name: &str) -> Result<Reply, VaultError> {
    let password = new_password(scope).await?;
    let apply = |old: Option<&User>| {
        let old = old.ok_or(VaultError::NotFound)?;
        Ok(User { password: password.clone(), ..old.clone() })
    };
    change(scope, users, name, apply, true).await
}

pub(super) async fn set_policies(scope: &Scope<'_>, users: &Users<'_>, name: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let apply = |old: Option<&User>| {
        let mut user = old.ok_or(VaultError::NotFound)?.clone();
        let mut token = user.token.clone();
        token.update(body, OLD_NAMES)?;
        user.token.token_policies = token.token_policies;
        Ok(user)
    };
    change(scope, users, name, apply, false).await
}

async fn new_password(scope: &Scope<'_>) -> Result<Hashed, VaultError> {
    let password = password(scope)?;
    let salt = scope.vault.barrier().random::<16>()?;
    scope.vault.hashing().of(&password, salt).await
}

pub(super) fn password(scope: &Scope<'_>) -> Result<Zeroizing<String>, VaultError> {
    let password = scope.call.body.required("password")?;
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(VaultError::field("password", format!("more than {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(password)
}

async fn change(
    scope: &Scope<'_>,
    users: &Users<'_>,
    name: &str,
    apply: impl Fn(Option<&User>) -> Result<User, VaultError>,
    unlocks: bool,
) -> Result<Reply, VaultError> {
    let path = users.path(name)?;
    for _ in 0..ATTEMPTS_MAX {
        let old = users.load(name).await?;
        if old.is_some() {
            scope.may_change()?;
        }
        let user = apply(old.as_ref().map(|(user, _)| user))?;
        let batch = match &old {
            Some((_, revision)) => scope.batch()?.revision_is(path.clone(), *revision),
            None => scope.batch()?.absent(path.clone()),
        };
        let batch = users.view.put(batch, path.clone(), &user.encode()?)?;
        let batch = if unlocks { batch.delete(users.failures_path(name)?) } else { batch };
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

pub(super) async fn delete(scope: &Scope<'_>, users: &Users<'_>, name: &str) -> Result<Reply, VaultError> {
    let path = users.path(name)?;
    for _ in 0..ATTEMPTS_MAX {
        // to delete what is not there succeeds
        let Some((_, revision)) = users.load(name).await? else { return Ok(Reply::empty()) };
        let batch = scope.batch()?.revision_is(path.clone(), revision).delete(path.clone());
        let batch = token_fields::forget(scope, batch.delete(users.failures_path(name)?), name).await?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: None,
    bound_cidrs: Some("bound_cidrs"),
};
const USERS: &str = "u";
const PASSWORD_BYTES_MAX: usize = 1024;
