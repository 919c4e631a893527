//! A role's fields, each by itself: read, written, set back.

use super::ATTEMPTS_MAX;
use super::role::{self, NUM_USES_MAX, Role, Roles};
use crate::auth::token_fields::{TokenFields, cidrs, name_in};
use crate::body::Body;
use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use serde_json::{Value, json};

pub(super) async fn handle(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    name: &str,
    field: &str,
    verb: Verb,
) -> Result<Reply, VaultError> {
    let field = Field::parse(field).ok_or_else(|| scope.no_route())?;
    match verb {
        Verb::Read => Reply::data(&field.shown(&roles.expect(name).await?.0)),
        Verb::Write => change(scope, roles, name, |role| field.write(role, &scope.call.body)).await,
        Verb::Delete => {
            let set_back = |role: &mut Role| {
                field.set_back(role);
                Ok(())
            };
            change(scope, roles, name, set_back).await
        }
        Verb::List | Verb::Patch => Err(VaultError::Unsupported),
    }
}

async fn change(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    name: &str,
    apply: impl Fn(&mut Role) -> Result<(), VaultError>,
) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (old, revision) = roles.expect(name).await?;
        let mut role = old.clone();
        apply(&mut role)?;
        role.check()?;
        if let Some(reply) = role::replace(scope, roles, Some((old, revision)), role).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Policies,
    SecretIdNumUses,
    SecretIdTtl,
    SecretIdBoundCidrs,
    BindSecretId,
    LocalSecretIds,
    TokenTtl,
    TokenMaxTtl,
    TokenNumUses,
    TokenBoundCidrs,
    Period,
}

impl Field {
    fn parse(segment: &str) -> Option<Self> {
        Some(match segment {
            "policies" => Self::Policies,
            "secret-id-num-uses" => Self::SecretIdNumUses,
            "secret-id-ttl" => Self::SecretIdTtl,
            "secret-id-bound-cidrs" | "bound-cidr-list" => Self::SecretIdBoundCidrs,
            "bind-secret-id" => Self::BindSecretId,
            "local-secret-ids" => Self::LocalSecretIds,
            "token-ttl" => Self::TokenTtl,
            "token-max-ttl" => Self::TokenMaxTtl,
            "token-num-uses" => Self::TokenNumUses,
            "token-bound-cidrs" => Self::TokenBoundCidrs,
            "period" => Self::Period,
            _ => return None,
        })
    }

    fn shown(self, role: &Role) -> Value {
        let token = &role.token;
        match self {
            Self::Policies => json!({"token_policies": token.token_policies}),
            Self::SecretIdNumUses => json!({"secret_id_num_uses": role.secret_id_num_uses}),
            Self::SecretIdTtl => json!({"secret_id_ttl": role.secret_id_ttl}),
            Self::SecretIdBoundCidrs => json!({"secret_id_bound_cidrs": role.secret_id_bound_cidrs}),
            Self::BindSecretId => json!({"bind_secret_id": role.bind_secret_id}),
            Self::LocalSecretIds => json!({"local_secret_ids": role.local_secret_ids}),
            Self::TokenTtl => json!({"token_ttl": token.token_ttl}),
            Self::TokenMaxTtl => json!({"token_max_ttl": token.token_max_ttl}),
            Self::TokenNumUses => json!({"token_num_uses": token.token_num_uses}),
            Self::TokenBoundCidrs => json!({"token_bound_cidrs": token.token_bound_cidrs}),
            Self::Period => json!({"token_period": token.token_period}),
        }
    }

    /// The field in the body; what else stands there changes nothing.
    fn write(self, role: &mut Role, body: &Body) -> Result<(), VaultError> {
        let missing = |name| VaultError::field(name, "missing");
        match self {
            Self::SecretIdNumUses => {
                let name = "secret_id_num_uses";
                role.secret_id_num_uses = body.count(name, NUM_USES_MAX)?.ok_or_else(|| missing(name))?;
            }
            Self::SecretIdTtl => {
                let name = required(body, "secret_id_ttl", None)?;
                role.secret_id_ttl = body.duration(name)?.map_or(0, |ttl| ttl.as_secs());
            }
            Self::SecretIdBoundCidrs => {
                let name = required(body, "secret_id_bound_cidrs", Some("bound_cidr_list"))?;
                role.secret_id_bound_cidrs = cidrs(body, name)?.unwrap_or_default();
            }
            Self::BindSecretId => {
                let name = "bind_secret_id";
                role.bind_secret_id = body.bool(name)?.ok_or_else(|| missing(name))?;
            }
            Self::LocalSecretIds => {
                let name = "local_secret_ids";
                role.local_secret_ids = body.bool(name)?.ok_or_else(|| missing(name))?;
            }
            Self::Policies
            | Self::TokenTtl
            | Self::TokenMaxTtl
            | Self::TokenNumUses
            | Self::TokenBoundCidrs
            | Self::Period => {
                let (new, old) = self.token_name();
                required(body, new, old)?;
                let mut written = role.token.clone();
                written.update(body, role::OLD_NAMES)?;
                self.take(role, &written);
            }
        }
        Ok(())
    }

    /// As the body calls it.
    fn token_name(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Policies => ("token_policies", Some("policies")),
            Self::TokenTtl => ("token_ttl", None),
            Self::TokenMaxTtl => ("token_max_ttl", None),
            Self::TokenNumUses => ("token_num_uses", None),
            Self::TokenBoundCidrs => ("token_bound_cidrs", None),
            Self::Period => ("token_period", Some("period")),
            Self::SecretIdNumUses
            | Self::SecretIdTtl
            | Self::SecretIdBoundCidrs
            | Self::BindSecretId
            | Self::LocalSecretIds => ("", None),
        }
    }

    /// This field of the token's, and no other.
    fn take(self, role: &mut Role, from: &TokenFields) {
        let token = &mut role.token;
        match self {
            Self::Policies => token.token_policies.clone_from(&from.token_policies),
            Self::TokenTtl => token.token_ttl = from.token_ttl,
            Self::TokenMaxTtl => token.token_max_ttl = from.token_max_ttl,
            Self::TokenNumUses => token.token_num_uses = from.token_num_uses,
            Self::TokenBoundCidrs => token.token_bound_cidrs.clone_from(&from.token_bound_cidrs),
            Self::Period => token.token_period = from.token_period,
            Self::SecretIdNumUses
            | Self::SecretIdTtl
            | Self::SecretIdBoundCidrs
            | Self::BindSecretId
            | Self::LocalSecretIds => {}
        }
    }

    /// To what a new role has.
    fn set_back(self, role: &mut Role) {
        let new = Role::default();
        match self {
            Self::SecretIdNumUses => role.secret_id_num_uses = new.secret_id_num_uses,
            Self::SecretIdTtl => role.secret_id_ttl = new.secret_id_ttl,
            Self::SecretIdBoundCidrs => role.secret_id_bound_cidrs = new.secret_id_bound_cidrs,
            Self::BindSecretId => role.bind_secret_id = new.bind_secret_id,
            Self::LocalSecretIds => role.local_secret_ids = new.local_secret_ids,
            Self::Policies
            | Self::TokenTtl
            | Self::TokenMaxTtl
            | Self::TokenNumUses
            | Self::TokenBoundCidrs
            | Self::Period => self.take(role, &new.token),
        }
    }
}

fn required(body: &Body, new: &'static str, old: Option<&'static str>) -> Result<&'static str, VaultError> {
    let name = name_in(body, new, old);
    if body.has(name) { Ok(name) } else { Err(VaultError::field(name, "missing")) }
}
