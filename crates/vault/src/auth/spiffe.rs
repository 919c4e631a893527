//! SPIFFE: workloads log in by what their trust domain has given them, an X.509-SVID or a JWT-SVID.
//!
//! A mount is for one trust domain. Its bundle is what the configuration says, or what the domain's bundle endpoint tells
//! (SPIFFE Federation §5.1, `https_web`), fetched again as the bundle asks, by a worker.
//!
//! Always: an X.509-SVID has one URI, its SPIFFE ID; its path leads to an authority of the bundle ([`super::x509`]); the token
//! counts only beside it. A JWT-SVID is signed by a key of the bundle for this, and is for an audience of the mount.
//! Always: an ID is of this mount's trust domain, byte by byte, and of a pattern of the role, segment by segment.
//! Never: a bundle that is older than the one that is known; after a day without a newer look at it, anybody let in.
//!
//! # Divergences
//! - The paths and fields are those of Vault Enterprise's method, as far as they are public: `profile` is `static` or
//!   `https_web_bundle`; `https_spiffe_bundle` is refused by name.
//! - In `workload_id_patterns` a `*` stands for anything within one segment, and `+` for one whole segment; nothing stands
//!   for several.

mod bundle;
mod config;
mod id;
mod login;
mod role;

pub use bundle::Bundle;
pub(crate) use config::tend;
pub use id::{Pattern, SpiffeId};

use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Spiffe;

#[async_trait::async_trait]
impl Backend for Spiffe {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        let logs_in = call.verb == Verb::Write && path == "login";
        if logs_in { Access::Public } else { Access::Policy }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments()[..] {
            ["role", name] => role::exists(scope, name).await,
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match (&segments[..], scope.call.verb) {
            (["login"], Verb::Write) => login::login(scope).await,
            (["config"], Verb::Read) => config::show(scope).await,
            (["config"], Verb::Write) => config::write(scope).await,
            (["role"], Verb::List) => role::list(scope).await,
            (["role", name], Verb::Read) => role::read(scope, name).await,
            (["role", name], Verb::Write) => role::write(scope, name).await,
            (["role", name], Verb::Delete) => role::delete(scope, name).await,
            (["login" | "config" | "role"] | ["role", _], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// What each refusal means, beside those of [`super::x509::CAUSES`] and [`super::jose::CAUSES`].
pub const CAUSES: &[(&str, &str)] = &[
    (login::NOT_CONFIGURED, "the mount has no configuration yet: trust domain and bundle"),
    (login::ROLE_UNKNOWN, "no role of this name; a login must name one"),
    (login::BUNDLE_OLD, "the bundle endpoint has not told the bundle for a day: see the server's log, and its URL"),
    (login::URI_COUNT, "an X.509-SVID has exactly one URI among its names"),
    (login::ID_MALFORMED, "what stands where a SPIFFE ID is expected is none, or has no path"),
    (login::TRUST_DOMAIN_OTHER, "the SPIFFE ID is of another trust domain than the mount's"),
    (login::ID_OTHER, "the SPIFFE ID is of no pattern of the role's workload_id_patterns"),
    (login::AUDIENCE_OTHER, "the JWT-SVID is for none of the mount's audiences, or the mount has none"),
    (login::KEYS_MISSING, "the bundle has no keys for JWT-SVIDs"),
];
const ATTEMPTS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
