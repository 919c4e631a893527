//! What is told of a token.

use super::{accessor_in, token_in};
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use envelope::{SecretBytes, Timestamp};
use identity::token::Meta;
use identity::{IdentityError, Target, TokenMetadata};
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Shown<'a> {
    accessor: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bound_cidrs: Vec<String>,
    /// SHA-256 of the only certificate beside which it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_certificate: Option<String>,
    creation_time: u64,
    creation_ttl: u64,
    display_name: &'a str,
    entity_id: String,
    expire_time: Option<String>,
    explicit_max_ttl: u64,
    /// The token itself, told to who showed it; else nothing.
    id: &'a str,
    issue_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_renewal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_renewal_time: Option<u64>,
    meta: Option<&'a Meta>,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace_path: &'a str,
    num_uses: u32,
    orphan: bool,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    policies: Vec<&'a str>,
    renewable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    ttl: u64,
    r#type: &'static str,
}

pub(super) async fn own(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let outcome = scope.vault.identities().lookup_token(scope.by()?, &scope.call.info, Target::Own).await;
    scope.was_recorded();
    reply(outcome, scope.call.token.as_ref(), scope)
}

/// The caller's own where none is named.
pub(super) async fn by_token(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let named = token_in(scope)?;
    let token = named.as_ref().or(scope.call.token.as_ref()).ok_or_else(|| VaultError::field("token", "missing"))?;
    let target = Target::Token(token.expose());
    let outcome = scope.vault.identities().lookup_token(scope.by()?, &scope.call.info, target).await;
    scope.was_recorded();
    reply(outcome, Some(token), scope)
}

pub(super) async fn by_accessor(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let accessor = accessor_in(scope)?;
    let target = Target::Accessor(&accessor);
    let outcome = scope.vault.identities().lookup_token(scope.by()?, &scope.call.info, target).await;
    scope.was_recorded();
    reply(outcome, None, scope)
}

fn reply(
    outcome: Result<TokenMetadata, IdentityError>,
    token: Option<&SecretBytes>,
    scope: &Scope<'_>,
) -> Result<Reply, VaultError> {
    let metadata = match outcome {
        // what is no token may not be asked about
        Err(IdentityError::TokenNotFound) => return Err(VaultError::PermissionDenied),
        outcome => outcome?,
    };
    let id = token.map_or("", |token| std::str::from_utf8(token.expose()).unwrap_or_default());
    Reply::data(&shown(&metadata, id, (scope.now(), scope.vault.namespace())))
}

fn shown<'a>(token: &'a TokenMetadata, id: &'a str, (now, namespace_path): (Timestamp, &'a str)) -> Shown<'a> {
    let secs = |duration: Option<Duration>| duration.unwrap_or_default().as_secs();
    let first = token.expires.is_none() && token.is_orphan();
    Shown {
        accessor: token.accessor.as_str(),
        bound_cidrs: token.bound_cidrs.iter().map(ToString::to_string).collect(),
        bound_certificate: token.certificate_thumbprint.map(hex::encode),
        creation_time: token.created.unix_millis() / 1000,
        creation_ttl: secs(token.creation_ttl),
        display_name: token.display_name.as_str(),
        entity_id: entity_id(token),
        expire_time: token.expires.map(rfc3339),
        explicit_max_ttl: secs(token.explicit_max_ttl),
        id,
        issue_time: rfc3339(token.created),
        last_renewal: token.renewed.map(rfc3339),
        last_renewal_time: token.renewed.map(|at| at.unix_millis() / 1000),
        meta: (!token.meta.is_empty()).then_some(&token.meta),
        namespace_path,
        num_uses: token.uses_left.unwrap_or_default(),
        orphan: token.is_orphan(),
        path: if first { "auth/token/root" } else { &token.path },
        period: token.period.map(|period| period.as_secs()),
        policies: token.policies.iter().map(|policy| policy.as_str()).collect(),
        renewable: token.renewable,
        role: token.role.as_ref().map(|role| role.as_str()),
        ttl: secs(token.ttl(now)),
        r#type: token.kind.as_str(),
    }
}

/// As a UUID; nothing where there is no entity.
pub(crate) fn entity_id(token: &TokenMetadata) -> String {
    token.entity.as_ref().map(uuid).unwrap_or_default()
}
