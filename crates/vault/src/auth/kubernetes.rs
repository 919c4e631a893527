//! Kubernetes: a Pod logs in by the token of its service account, which the cluster's API server vouches for (TokenReview).
//!
//! Always: the review names the role's audience, so that a token that is meant for others, the API server's own too, lets
//! nobody in; and what it answers must name that audience again, say `authenticated`, and be of the very account, by
//! namespace, name and uid, that the token speaks of. A status of 201 by itself says nothing.
//! Always: each login is reviewed anew; no verdict is kept. What the API server itself keeps (10 s of success) is what a
//! token outlives its account, or the Pod that it is bound to; one more second for the answers on their way.
//! Always: an API server that is away, slow or lies lets nobody in; it is asked by few, and not at all while it is away.
//! Never: the token, the reviewer's or the login's, in a record, a log line or an error.
//!
//! Who reviews: `token_reviewer_jwt` of the mount; or, where that is empty, the server's own account at that very host, of
//! its configuration file (`[[kubernetes]]`: `host`, `token_file`, `ca_file`), whose files are read anew at each login. A
//! mount never names a file: who may write its configuration would have it sent to any host. That account's token goes where
//! its own `ca_file` is believed, whatever the mount's `kubernetes_ca_cert` says; a namespace's mounts have no part in it.
//!
//! A mount with `verification=local` asks nobody: the token's signature is verified by `pem_keys`, or by the keys at
//! `/openid/v1/jwks` of the API server (which nobody in particular may read where `system:service-account-issuer-discovery` is
//! bound to `system:unauthenticated`), its `iss` is `issuer`. It is blind to deletions, so its tokens end with the one shown.
//!
//! Beyond Vault: `bound_pod_names`, `bound_node_names`, `require_pod` (the token must be bound to a Pod), and metadata
//! `pod_name`, `pod_uid`, `node_name`; `token_ends_with_proof` ends the token with the one that was shown.
//!
//! # Divergences
//! - Writing `config` takes `sudo`: who may write there says who vouches.
//! - A role's `audience` must be set. Tokens without audience or end (those of Secrets) are refused.
//! - The token that logs in is never its own reviewer: with an audience of ours it could not be.
//! - `kubernetes_ca_cert` must be set, or be the server's own account's: the system's authorities are not asked. Where the
//!   server's own account asks, it counts for the keys of `verification=local` alone.
//! - The namespace selector is JSON alone; `use_annotations_as_alias_metadata` is not taken.
//! - Names of roles have at most 128 of `[a-z0-9._-]`. Refusals are 400 with one text; the record tells the cause.

mod cause;
mod config;
mod local;
mod login;
mod review;
mod role;
mod selector;
mod token;

pub(crate) use cause::CAUSES;

use super::token_fields::folded;
use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use role::Roles;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Kubernetes;

#[async_trait::async_trait]
impl Backend for Kubernetes {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        match path {
            "login" if call.verb == Verb::Write => Access::Public,
            "config" if call.verb != Verb::Read => Access::PolicyAndSudo,
            _ => Access::Policy,
        }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        let view = scope.view()?;
        match scope.segments().as_slice() {
            ["config"] => Ok(config::load(&view).await?.is_some()),
            ["role", name] => match folded(name, NAME_BYTES_MAX) {
                Some(name) => Ok(Roles::new(&view).load(&name).await?.is_some()),
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
            (["login"], Verb::Write) => login::login(scope, &view).await,
            (["config"], Verb::Read) => config::read(&view).await,
            (["config"], Verb::Write) => config::write(scope, &view).await,
            (["role"], Verb::List) => role::list(scope, &roles).await,
            (["role", name], Verb::Read) => role::read(&roles, &role_name(name)?).await,
            (["role", name], Verb::Write) => role::write(scope, &roles, &role_name(name)?).await,
            (["role", name], Verb::Delete) => role::delete(scope, &roles, &role_name(name)?).await,
            (["login" | "config" | "role"] | ["role", _], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// For whom `answer` vouches, by name and uid: whom `token` speaks of, and for `audience`; or the cause that is recorded.
/// What every login asks, without asking anybody: pure, and fuzzed.
pub fn vouched(token: &str, audience: &str, answer: &[u8], now: Timestamp) -> Result<(String, String), &'static str> {
    let claims = token::Claims::read(token)?;
    claims.check(audience, now)?;
    let account = review::judged(answer, &claims, audience)?;
    Ok((account.username(), account.uid))
}

fn role_name(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("role", "1 to 128 letters, digits, `-`, `_`, `.`"))
}

const NAME_BYTES_MAX: usize = 128;
const ATTEMPTS_MAX: usize = 32;
