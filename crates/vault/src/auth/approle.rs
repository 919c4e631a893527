//! AppRole: a machine logs in by what its role is called (RoleID) and a secret that was made for it (SecretID).
//!
//! Always: expiry, addresses and certificate are looked at before a use is spent; the use and the token it buys are one commit.
//! Always: a SecretID that is spent leaves a mark until its end, so that a second attempt is told from one that never was: in
//! the record, in the count of violations and in a warning. The caller hears the same of all.
//! Never: a SecretID in the store but as a keyed hash below its role's incarnation; by its accessor it is found within that
//! role of that mount only.
//!
//! Beyond Vault: a SecretID made with `X-Strongroom-Bind-Certificate` or `bind_certificate` logs in beside that client
//! certificate only, and so does the token it buys. Lookups tell `bound_certificate`, `violations`, `last_violation_time`;
//! with `include_spent` those of spent ones too.
//!
//! # Divergences
//! - Names of roles have at most 128 of `[a-z0-9._-]`. RoleIDs, SecretIDs and accessors that are made here have 128 random
//!   bits in five groups, without the marks of a UUID.
//! - A chosen SecretID of less than 128 bits is refused, judged by its alphabet, its length and its repetitions.
//! - Beside `role_name` a token's metadata tells `secret_id_accessor`: who shares a role's entity is told apart by it.
//! - A role that is deleted takes its SecretIDs with it at once. Tokens that were bought before go on to their end.

mod fields;
mod login;
mod role;
mod secret_id;
mod sweep;

pub(crate) use login::CAUSES;
pub(crate) use sweep::sweep;

use super::token_fields::folded;
use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use role::Roles;
use std::borrow::Cow;
use zeroize::Zeroizing;

#[derive(Debug)]
pub struct AppRole;

#[async_trait::async_trait]
impl Backend for AppRole {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        if call.verb == Verb::Write && path == "login" { Access::Public } else { Access::Policy }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments().as_slice() {
            ["role", name] => match folded(name, NAME_BYTES_MAX) {
                Some(name) => Ok(Roles::new(&scope.view()?).load(&name).await?.is_some()),
                None => Ok(false),
            },
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let view = scope.view()?;
        let roles = Roles::new(&view);
        let segments = scope.segments();
        match (segments.as_slice(), scope.call.verb) {
            (["login"], Verb::Write) => login::login(scope, &roles).await,
            (["role"], Verb::List) => role::list(scope, &roles).await,
            (["role", name], verb) => {
                let name = role_name(name)?;
                match verb {
                    Verb::Read => role::read(&roles, &name).await,
                    Verb::Write => role::write(scope, &roles, &name).await,
                    Verb::Delete => role::delete(scope, &roles, &name).await,
                    Verb::List | Verb::Patch => Err(VaultError::Unsupported),
                }
            }
            (["role", name, below @ ..], verb) => of_role(scope, &roles, &role_name(name)?, below, verb).await,
            (["tidy", "secret-id"], Verb::Write) => sweep::tidy(scope).await,
            (["login" | "role"] | ["tidy", "secret-id"], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

async fn of_role(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    name: &str,
    below: &[&str],
    verb: Verb,
) -> Result<Reply, VaultError> {
    match (below, verb) {
        (["role-id"], Verb::Read) => role::read_role_id(roles, name).await,
        (["role-id"], Verb::Write) => role::write_role_id(scope, roles, name).await,
        (["secret-id"], Verb::List) => secret_id::list(scope, roles, name).await,
        (["secret-id"], Verb::Write) => secret_id::generate(scope, roles, name).await,
        (["custom-secret-id"], Verb::Write) => secret_id::add_chosen(scope, roles, name).await,
        (["secret-id", "lookup"], Verb::Write) => secret_id::lookup(scope, roles, name).await,
        (["secret-id", "destroy"], Verb::Write | Verb::Delete) => secret_id::destroy(scope, roles, name).await,
        (["secret-id-accessor", "lookup"], Verb::Write) => secret_id::lookup_by_accessor(scope, roles, name).await,
        (["secret-id-accessor", "destroy"], Verb::Write | Verb::Delete) => {
            secret_id::destroy_by_accessor(scope, roles, name).await
        }
        (["role-id" | "secret-id" | "custom-secret-id"], _) => Err(VaultError::Unsupported),
        (["secret-id" | "secret-id-accessor", "lookup" | "destroy"], _) => Err(VaultError::Unsupported),
        ([field], verb) => fields::handle(scope, roles, name, field, verb).await,
        _ => Err(scope.no_route()),
    }
}

fn role_name(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("role_name", "1 to 128 letters, digits, `-`, `_`, `.`"))
}

/// 128 random bits, in the groups that clients know.
fn random_id(scope: &Scope<'_>) -> Result<Zeroizing<String>, VaultError> {
    let random = Zeroizing::new(scope.vault.barrier().random()?);
    Ok(Zeroizing::new(uuid(&random)))
}

const NAME_BYTES_MAX: usize = 128;
const ATTEMPTS_MAX: usize = 32;
