//! Tokens that come to be, and go on.

use super::lookup::entity_id;
use super::{accessor_in, invalid_accessor, role, token_in};
use crate::duration;
use crate::error::VaultError;
use crate::reply::{Auth, Reply};
use crate::scope::Scope;
use envelope::SecretBytes;
use identity::token::META_PAIRS_MAX;
use identity::{
    CreateToken, DefaultPolicy, DisplayName, Excess, IdentityError, Parentage, Target, Through, TokenKind,
    TokenMetadata,
};
use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

pub(super) async fn create(scope: &Scope<'_>, through: Through) -> Result<Reply, VaultError> {
    let (command, warnings) = command(scope, through)?;
    let role = match &command.through {
        Through::Role(role) => Some(role.clone()),
        Through::Create | Through::CreateOrphan => None,
    };
    let outcome = scope.vault.identities().create_token(scope.by()?, &scope.call.info, command).await;
    scope.was_recorded();
    let created = match (outcome, role) {
        (Err(IdentityError::RoleNotFound), Some(role)) => {
            return Err(VaultError::Invalid(format!("unknown role {role}").into()));
        }
        (outcome, _) => outcome?,
    };
    let reply = Reply::auth(auth(&created.metadata, created.token, scope));
    Ok(warnings.into_iter().fold(reply, Reply::warning))
}

fn command(scope: &Scope<'_>, through: Through) -> Result<(CreateToken, Vec<Cow<'static, str>>), VaultError> {
    let body = &scope.call.body;
    for refused in ["id", "entity_alias"] {
        if body.string(refused)?.is_some_and(|text| !text.is_empty()) {
            return Err(VaultError::field(refused, "not supported here"));
        }
    }
    let policies = role::policies(body, "policies")?.unwrap_or_default();
    let meta = body.map("meta")?.or(body.map("metadata")?).unwrap_or_default();
    if meta.len() > META_PAIRS_MAX {
        return Err(VaultError::field("meta", format!("more than {META_PAIRS_MAX} pairs")));
    }
    let kind = body.string("type")?.filter(|kind| !kind.is_empty());
    let kind = kind.map(|kind| TokenKind::parse(&kind)).transpose();
    let no_default = body.bool("no_default_policy")?.unwrap_or(false);
    let (ttl, warnings) = ttl(scope)?;
    let command = CreateToken {
        policies,
        default_policy: if no_default { DefaultPolicy::AsGiven } else { DefaultPolicy::Added },
        display_name: display_name(&body.string("display_name")?.unwrap_or_default()),
        ttl: Some(ttl),
        explicit_max_ttl: body.duration("explicit_max_ttl")?,
        period: body.duration("period")?,
        num_uses: body.count("num_uses", u32::MAX)?.and_then(NonZeroU32::new),
        renewable: body.bool("renewable")?.unwrap_or(true),
        kind: kind.map_err(|_| VaultError::field("type", "neither service nor batch"))?,
        meta,
        bound_cidrs: Vec::new(),
        certificate_thumbprint: scope.call.bind,
        through,
        parentage: if body.bool("no_parent")?.unwrap_or(false) { Parentage::Orphan } else { Parentage::Child },
        excess: Excess::Cap,
    };
    Ok((command, warnings))
}

/// What is asked for, or the mount's default; never beyond what the mount gives.
fn ttl(scope: &Scope<'_>) -> Result<(Duration, Vec<Cow<'static, str>>), VaultError> {
    let body = &scope.call.body;
    let asked = body.duration("ttl")?.or(body.duration("lease")?);
    let most = scope.mount.max_ttl();
    let ttl = asked.unwrap_or_else(|| scope.mount.default_ttl());
    if ttl <= most {
        return Ok((ttl, Vec::new()));
    }
    let told = format!(
        "TTL of {:?} exceeded the effective max_ttl of {:?}; TTL value is capped accordingly",
        duration::show(ttl),
        duration::show(most),
    );
    Ok((most, vec![told.into()]))
}

/// As Vault makes it: `token`, or `token-` and what was asked for, its odd characters dashes.
fn display_name(asked: &str) -> DisplayName {
    let dashed: String = asked.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = if dashed.is_empty() { "token".to_owned() } else { format!("token-{dashed}") };
    let name: String = name.chars().take(identity::name::NAME_BYTES_MAX).collect();
    DisplayName::parse(name.trim_end_matches('-')).unwrap_or_default()
}

/// The answer to a login, to a new token, and to one that goes on.
pub(crate) fn auth(metadata: &TokenMetadata, token: SecretBytes, scope: &Scope<'_>) -> Auth {
    Auth {
        client_token: token,
        accessor: metadata.accessor.as_str().to_owned(),
        policies: metadata.policies.iter().map(|policy| policy.as_str().to_owned()).collect(),
        metadata: metadata.meta.clone(),
        lease_secs: metadata.ttl(scope.now()).unwrap_or_default().as_secs(),
        renewable: metadata.renewable,
        entity_id: entity_id(metadata),
        token_type: metadata.kind.as_str(),
        orphan: metadata.is_orphan(),
        num_uses: metadata.uses_left.unwrap_or_default(),
    }
}

pub(super) async fn renew_self(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    crate::auth::cert::may_go_on(scope).await?;
    let increment = scope.call.body.duration("increment")?;
    let outcome = scope.vault.identities().renew_judged(scope.by()?, &scope.call.info, increment).await;
    went_on(scope, Target::Own, (scope.call.token.as_ref(), increment), outcome)
}

pub(super) async fn renew(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let token = token_in(scope)?.ok_or_else(|| VaultError::field("token", "missing"))?;
    go_on(scope, Target::Token(token.expose()), Some(&token)).await
}

/// It does not tell the token.
pub(super) async fn renew_by_accessor(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let accessor = accessor_in(scope)?;
    go_on(scope, Target::Accessor(&accessor), None).await
}

async fn go_on(scope: &Scope<'_>, target: Target<'_>, token: Option<&SecretBytes>) -> Result<Reply, VaultError> {
    let increment = scope.call.body.duration("increment")?;
    let outcome = scope.vault.identities().renew_token(scope.by()?, &scope.call.info, target, increment).await;
    went_on(scope, target, (token, increment), outcome)
}

fn went_on(
    scope: &Scope<'_>,
    target: Target<'_>,
    (token, increment): (Option<&SecretBytes>, Option<Duration>),
    outcome: Result<TokenMetadata, IdentityError>,
) -> Result<Reply, VaultError> {
    scope.was_recorded();
    let metadata = match outcome {
        Err(IdentityError::TokenNotFound) if matches!(target, Target::Accessor(_)) => return Err(invalid_accessor()),
        Err(IdentityError::TokenNotFound) => return Err(VaultError::Invalid("token not found".into())),
        Err(IdentityError::TokenNotRenewable) => return Err(VaultError::Invalid("lease is not renewable".into())),
        Err(IdentityError::TokenStateless) => {
            return Err(VaultError::Invalid("batch tokens cannot be renewed".into()));
        }
        outcome => outcome?,
    };
    let token = SecretBytes::copy_from(token.map_or(&[][..], SecretBytes::expose));
    let (asked, given) = (increment, metadata.ttl(scope.now()));
    let reply = Reply::auth(auth(&metadata, token, scope));
    match (asked, given) {
        (Some(asked), Some(given)) if given < asked => Ok(reply.warning(format!(
            "TTL of {:?} exceeded the effective max_ttl of {:?}; TTL value is capped accordingly",
            duration::show(asked),
            duration::show(given),
        ))),
        _ => Ok(reply),
    }
}
