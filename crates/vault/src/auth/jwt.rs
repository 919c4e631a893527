//! JWT and OIDC: who shows a token that an issuer has signed logs in: a CI job, a workload, or a person by the browser. The
//! mount types `jwt` and `oidc` are one method.
//!
//! Always: issuer, keys and algorithms are the mount's configuration ([`config`]), audiences and claims the role's ([`role`]);
//! the token chooses nothing. A role demands an audience, and a subject or a claim beside it.
//! Always: claims are compared with their types: `true` is not `"true"`. A glob's `*` crosses neither `:` nor `/`; `**` does.
//! Always: an issuer that is away lets nobody in whose key is not known from at most `max_stale` ago.
//! Never: told to the caller why a login is refused; the record tells ([`CAUSES`]).
//!
//! # Divergences
//! - `bound_audiences` is compulsory for roles of type `jwt`, as is `bound_subject` or one of `bound_claims`; `bound_issuer`
//!   is compulsory beside `jwks_url`. Tokens without `exp` are refused.
//! - Beyond Vault, in the configuration: `preset` (`github`, `gitlab`, `terraform-cloud`, `aws`), `max_stale`; in roles:
//!   `single_use` (the token's `jti` counts once), `max_token_age` (by `iat`), `token_outlives_jwt` (a role of type `jwt`
//!   else gives tokens that end with the JWT), `bound_type` (the header's `typ`), `allow_pull_requests` (with a preset).
//! - Leeways are at most five minutes. `expiration_leeway` and `not_before_leeway` count instead of `clock_skew_leeway` where
//!   they are longer; `-1` is none.
//! - `provider_config`, `jwks_pairs`, `namespace_in_state`, implicit flows, `form_post` and the device flow are refused.
//! - A browser's login keeps nothing in the store until it succeeds: its `state` is sealed, for five minutes, and counts once.

mod bound;
mod config;
mod login;
mod oidc;
mod preset;
mod role;
mod sweep;

pub(crate) use sweep::sweep;

use super::token_fields::folded;
use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use role::Roles;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Jwt;

#[async_trait::async_trait]
impl Backend for Jwt {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        match (call.verb, path) {
            (Verb::Write, "login" | "oidc/auth_url") | (Verb::Read, "oidc/callback") => Access::Public,
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
            (["login"], Verb::Write) => login::login(scope, &roles).await,
            (["oidc", "auth_url"], Verb::Write) => oidc::auth_url(scope, &roles).await,
            (["oidc", "callback"], Verb::Read) => oidc::callback(scope, &roles).await,
            (["config"], Verb::Read) => config::read(&view).await,
            (["config"], Verb::Write) => config::write(scope, &view).await,
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
            (["login" | "config" | "role"] | ["oidc", "auth_url" | "callback"], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

fn role_name(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("name", "1 to 128 letters, digits, `-`, `_`, `.`"))
}

fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: TOLD, cause }
}

const TOLD: &str = "invalid role or token";
const NOT_CONFIGURED: &str = "JWT_NOT_CONFIGURED";
const ROLE_UNKNOWN: &str = "JWT_ROLE_UNKNOWN";
const ROLE_TYPE_OTHER: &str = "JWT_ROLE_TYPE_OTHER";
const ROLE_OUTDATED: &str = "JWT_ROLE_OUTDATED";
const ISSUER_OTHER: &str = "JWT_ISSUER_OTHER";
const AUDIENCE_OTHER: &str = "JWT_AUDIENCE_OTHER";
const SUBJECT_OTHER: &str = "JWT_SUBJECT_OTHER";
const CLAIM_OTHER: &str = "JWT_CLAIM_OTHER";
const USER_CLAIM_MISSING: &str = "JWT_USER_CLAIM_MISSING";
const GROUPS_MALFORMED: &str = "JWT_GROUPS_MALFORMED";
const MAPPING_MALFORMED: &str = "JWT_CLAIM_MAPPING_MALFORMED";
const TOO_OLD: &str = "JWT_TOO_OLD";
const ID_MISSING: &str = "JWT_JTI_MISSING";
const REPLAYED: &str = "JWT_REPLAYED";
const PULL_REQUEST: &str = "JWT_PULL_REQUEST";
const STATE_MALFORMED: &str = "OIDC_STATE_MALFORMED";
const STATE_OVER: &str = "OIDC_STATE_OVER";
const STATE_USED: &str = "OIDC_STATE_USED";
const NONCE_OTHER: &str = "OIDC_NONCE_OTHER";
const CLIENT_NONCE_OTHER: &str = "OIDC_CLIENT_NONCE_OTHER";
const PROVIDER_REFUSED: &str = "OIDC_PROVIDER_REFUSED";
const REDIRECT_OTHER: &str = "OIDC_REDIRECT_OTHER";
const PARTY_OTHER: &str = "OIDC_AUTHORIZED_PARTY_OTHER";

/// What each cause means for who operates the server, beside those of every token.
pub(crate) const CAUSES: &[(&str, &str)] = &[
    (NOT_CONFIGURED, "the mount has no configuration yet: write auth/MOUNT/config"),
    (ROLE_UNKNOWN, "there is no role of the name that the login gave, and no default_role: look at auth/MOUNT/role"),
    (
        ROLE_TYPE_OTHER,
        "the role is for the browser's login (role_type=oidc), or for tokens (jwt), and the other was tried",
    ),
    (ROLE_OUTDATED, "the role was written before the mount had its preset, and may bind too little: write it again"),
    (ISSUER_OTHER, "the token's iss is not bound_issuer, letter by letter"),
    (
        AUDIENCE_OTHER,
        "none of the role's bound_audiences stands in the token's aud: the client must ask its platform for one",
    ),
    (SUBJECT_OTHER, "the token's sub is not the role's bound_subject"),
    (CLAIM_OTHER, "a claim that the role binds is missing, is another, or is of another type (a number is no text)"),
    (USER_CLAIM_MISSING, "the claim that user_claim names is missing, is no text, or is longer than an alias may be"),
    (GROUPS_MALFORMED, "the claim that groups_claim names is missing, or is neither a text nor a list of texts"),
    (
        MAPPING_MALFORMED,
        "a claim of claim_mappings is no text, number or boolean, or is too long to stand beside a token",
    ),
    (TOO_OLD, "the token was issued (iat) longer ago than max_token_age, or does not say when"),
    (ID_MISSING, "the role is single_use, and the token has no jti"),
    (REPLAYED, "the role is single_use, and a token of this jti has logged in already: somebody may have copied it"),
    (PULL_REQUEST, "the job runs for a pull or merge request, whose author may be anybody: see allow_pull_requests"),
    (STATE_MALFORMED, "the browser came back with a state that this mount has not given out, or that was altered"),
    (STATE_OVER, "the browser came back more than five minutes after its login began"),
    (
        STATE_USED,
        "the login that the browser came back for has succeeded already: somebody may have copied its address",
    ),
    (NONCE_OTHER, "the ID token was made for another login: its nonce is not the one that was asked for"),
    (CLIENT_NONCE_OTHER, "who fetches the token is not who began the login: client_nonce is another"),
    (PROVIDER_REFUSED, "the provider refused the login or the code; the server's log has its answer's `error`"),
    (REDIRECT_OTHER, "the browser is to come back to an address that is none of the role's allowed_redirect_uris"),
    (PARTY_OTHER, "the ID token was issued to another client (azp) than oidc_client_id"),
];

const NAME_BYTES_MAX: usize = 128;
const ATTEMPTS_MAX: usize = 32;
