//! Userpass: people log in by name and password.
//!
//! Always: a name is folded once ([`super::token_fields::folded`]), so that whom a login names and whose failures are counted
//! is one and the same, however it is spelled.
//! Always: a login costs one hash, whether there is such a user or not, and a refusal leaves at a multiple of 300 ms
//! after its request came: what it was refused for cannot be told by how long it took.
//! Always: after five wrong passwords within 15 minutes the user is locked for 15; the right password then hears the same.
//! Failures stand in the store under revisions: nodes share them, and a login that raced with the fifth does not succeed.
//! Never: a password in the store: Argon2id of it, with a salt of its own ([`hash`]).
//!
//! # Divergences
//! - Names have at most 64 of `[a-z0-9._-]`, passwords 1 to 1024 bytes; `password_hash` is refused.
//! - Lockout cannot be tuned yet. It ends with its time, by `sys/locked-users`, or when somebody who may sets the password.

mod hash;
mod locked;
mod lockout;
mod login;
mod user;

pub(crate) use hash::Hashing;
pub(crate) use locked::{locked, unlock};
pub(crate) use login::CAUSES;

use super::token_fields::folded;
use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;
use user::Users;

#[derive(Debug)]
pub struct Userpass;

#[async_trait::async_trait]
impl Backend for Userpass {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("users/") || path.starts_with("login/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        let name = path.strip_prefix("login/").unwrap_or_default();
        let logs_in = call.verb == Verb::Write && !name.is_empty() && !name.contains('/');
        if logs_in { Access::Public } else { Access::Policy }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments().as_slice() {
            ["users", name] => match folded(name, NAME_BYTES_MAX) {
                Some(name) => Ok(Users::new(&scope.view()?).load(&name).await?.is_some()),
                None => Ok(false),
            },
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let view = scope.view()?;
        let users = Users::new(&view);
        let segments = scope.segments();
        match (segments.as_slice(), scope.call.verb) {
            (["login", name], Verb::Write) => login::login(scope, &users, name).await,
            (["users"], Verb::List) => user::list(scope, &users).await,
            (["users", name], Verb::Read) => user::read(&users, &user_name(name)?).await,
            (["users", name], Verb::Write) => user::write(scope, &users, &user_name(name)?).await,
            (["users", name], Verb::Delete) => user::delete(scope, &users, &user_name(name)?).await,
            (["users", name, "password"], Verb::Write) => user::set_password(scope, &users, &user_name(name)?).await,
            (["users", name, "policies"], Verb::Write) => user::set_policies(scope, &users, &user_name(name)?).await,
            (["users"] | ["login" | "users", _] | ["users", _, "password" | "policies"], _) => {
                Err(VaultError::Unsupported)
            }
            _ => Err(scope.no_route()),
        }
    }
}

fn user_name(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("username", "1 to 64 letters, digits, `-`, `_`, `.`"))
}

const NAME_BYTES_MAX: usize = 64;
const ATTEMPTS_MAX: usize = 32;
