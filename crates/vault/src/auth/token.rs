//! `auth/token/*`: tokens, as the API shows them. What they are is identity's; its operations authorise and record themselves.
//!
//! # Divergences
//!
//! - A token always has an end, those that root makes of itself too: 768 hours where nothing is asked for.
//! - A token's own text is never chosen by who asks (`id`), and there are no entity aliases.
//! - `accessors` and `roles` are listed a page at a time: 1000 names, and `next_marker` for `?after=`.

pub(super) mod create;
mod lookup;
mod role;

pub(crate) use lookup::entity_id;

use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::SecretBytes;
use identity::{Accessor, IdentityError, PageRequest, Target};
use serde::Serialize;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Tokens;

#[async_trait::async_trait]
impl Backend for Tokens {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("roles/") || path.starts_with("create/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    /// Where sudo is needed, identity demands it; one's own token it refuses by a denial only.
    fn access(&self, call: &Call, path: &str) -> Access {
        match (path, call.verb) {
            ("lookup-self", Verb::Read | Verb::Write) | ("revoke-self", Verb::Write) => Access::Everybodys,
            _ => Access::Policy,
        }
    }

    async fn exists(&self, _scope: &Scope<'_>) -> Result<bool, VaultError> {
        Ok(true)
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        use Verb::{Delete, List, Read, Write};
        let segments = scope.segments();
        match (segments.as_slice(), scope.call.verb) {
            (["create"], Write) => create::create(scope, identity::Through::Create).await,
            (["create-orphan"], Write) => create::create(scope, identity::Through::CreateOrphan).await,
            (["create", role], Write) => create::create(scope, identity::Through::Role(role::parse(role)?)).await,
            (["lookup-self"], Read | Write) => lookup::own(scope).await,
            (["lookup"], Write | Read) => lookup::by_token(scope).await,
            (["lookup-accessor"], Write) => lookup::by_accessor(scope).await,
            (["renew-self"], Write) => create::renew_self(scope).await,
            (["renew"], Write) => create::renew(scope).await,
            (["renew-accessor"], Write) => create::renew_by_accessor(scope).await,
            (["revoke-self" | "revoke" | "revoke-accessor" | "revoke-orphan"], Write) => revoke(scope, &segments).await,
            (["accessors"], List | Read) => accessors(scope).await,
            (["roles"], List) => role::list(scope).await,
            (["roles", name], verb @ (Read | Write | Delete)) => role::one(scope, verb, role::parse(name)?).await,
            (["tidy"], Write) => tidy(scope).await,
            ([first] | ["create" | "roles", first], _) if KNOWN.contains(first) || segments.len() == 2 => {
                Err(VaultError::Unsupported)
            }
            _ => Err(scope.no_route()),
        }
    }
}

async fn revoke(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    let (identities, by, info) = (scope.vault.identities(), scope.by()?, &scope.call.info);
    let (sent, accessor);
    let outcome = match segments {
        ["revoke-self"] => identities.revoke_token(by, info, Target::Own).await,
        ["revoke-accessor"] => {
            accessor = accessor_in(scope)?;
            identities.revoke_token(by, info, Target::Accessor(&accessor)).await
        }
        ["revoke-orphan"] => {
            sent = required_token(scope)?;
            identities.revoke_token_orphan(by, info, Target::Token(sent.expose())).await
        }
        _ => {
            sent = required_token(scope)?;
            identities.revoke_token(by, info, Target::Token(sent.expose())).await
        }
    };
    scope.was_recorded();
    match (outcome, segments) {
        (Ok(()), _) | (Err(IdentityError::TokenNotFound), ["revoke" | "revoke-self"]) => Ok(Reply::empty()),
        (Err(IdentityError::TokenNotFound), ["revoke-accessor"]) => Err(invalid_accessor()),
        (Err(IdentityError::TokenNotFound), _) => Err(VaultError::Invalid("token to revoke not found".into())),
        (Err(IdentityError::TokenStateless), _) => Err(VaultError::Invalid("batch tokens cannot be revoked".into())),
        (Err(error), _) => Err(error.into()),
    }
}

#[derive(Serialize)]
struct Keys<K> {
    keys: Vec<K>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

/// Names of one page, and where the next one begins.
fn names<K: Serialize>(keys: Vec<K>, next_marker: Option<String>) -> Result<Reply, VaultError> {
    if keys.is_empty() && next_marker.is_none() {
        return Err(VaultError::NotFound);
    }
    let more = next_marker.is_some();
    let reply = Reply::data(&Keys { keys, next_marker })?;
    Ok(if more { reply.warning("there are more: ask again with `after`, the marker of this page") } else { reply })
}

fn page(scope: &Scope<'_>) -> Result<PageRequest, VaultError> {
    let limit = scope.call.count("limit", LIST_MAX)?.unwrap_or(LIST_MAX).max(1);
    Ok(PageRequest::parse(limit, scope.call.parameter("after").unwrap_or_default())?)
}

async fn accessors(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::List {
        return Err(VaultError::Unsupported);
    }
    let page = page(scope)?;
    let outcome = scope.vault.identities().list_accessors(scope.by()?, &scope.call.info, &page).await;
    scope.was_recorded();
    let found = outcome?;
    names(found.accessors.iter().map(|accessor| accessor.as_str().to_owned()).collect(), found.next_marker)
}

async fn tidy(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let outcome = scope.vault.identities().tidy_tokens(scope.by()?, &scope.call.info).await;
    scope.was_recorded();
    outcome?;
    started(scope, "Tidied what was over now; what is left is swept up all the time.")
}

/// 202, and a warning.
pub(crate) fn started(scope: &Scope<'_>, told: &'static str) -> Result<Reply, VaultError> {
    let body = Reply { mount_type: scope.mount.kind.type_name(), ..Reply::empty().warning(told) };
    Ok(Reply { bare: Some((202, body.encode(&scope.call.info.request_id)?)), ..Reply::default() })
}

/// The one that is meant, or nothing.
fn token_in(scope: &Scope<'_>) -> Result<Option<SecretBytes>, VaultError> {
    let found = scope.call.body.string("token")?.filter(|token| !token.is_empty());
    Ok(found.map(|token| SecretBytes::copy_from(token.as_bytes())))
}

fn required_token(scope: &Scope<'_>) -> Result<SecretBytes, VaultError> {
    token_in(scope)?.ok_or_else(|| VaultError::field("token", "missing"))
}

pub(crate) fn accessor_in(scope: &Scope<'_>) -> Result<Accessor, VaultError> {
    let text = scope.call.body.required("accessor")?;
    Accessor::parse(&text).map_err(|_| invalid_accessor())
}

pub(crate) fn invalid_accessor() -> VaultError {
    VaultError::Invalid("invalid accessor".into())
}

const LIST_MAX: u32 = 1000;
const KNOWN: [&str; 15] = [
    "create",
    "create-orphan",
    "lookup",
    "lookup-self",
    "lookup-accessor",
    "renew",
    "renew-self",
    "renew-accessor",
    "revoke",
    "revoke-self",
    "revoke-accessor",
    "revoke-orphan",
    "accessors",
    "roles",
    "tidy",
];
