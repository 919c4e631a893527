//! What answers below a mount: a secrets engine, an auth method, or the system itself.
//!
//! All three speak the same request and answer, and most of an auth method is its administration: one trait for all.

use crate::call::Call;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::{auth, engine, sys};
use std::borrow::Cow;

/// What must be shown before a backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: logins, unwrapping, the seal's state.
    Public,
    /// A token, whatever its policies say: what is bound to the token itself.
    Everybodys,
    /// A token whose policies allow it.
    Policy,
    /// The same, and `sudo` beside the verb's own capability.
    PolicyAndSudo,
}

#[async_trait::async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// The one spelling of a path below the mount: what is decided on is what is served, however it was written.
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str>;

    /// Who may ask this at all.
    fn access(&self, call: &Call, path: &str) -> Access;

    /// Whether a write updates what is there; else it creates, which is another capability.
    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError>;

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError>;
}

/// With this segment in lower case: a name that is compared so.
pub(crate) fn lowered(path: &str, at: usize) -> Cow<'_, str> {
    let is_folded = |(i, segment): (usize, &str)| i == at && segment.bytes().any(|byte| byte.is_ascii_uppercase());
    if !path.split('/').enumerate().any(is_folded) {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/').enumerate().map(|(i, segment)| match i == at {
        true => segment.to_ascii_lowercase(),
        false => segment.to_owned(),
    });
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

pub(crate) fn of(kind: Kind) -> &'static dyn Backend {
    match kind {
        Kind::System => &sys::System,
        Kind::Cubbyhole => &engine::cubbyhole::Cubbyhole,
        Kind::Kv1 => &engine::kv1::Kv1,
        Kind::Kv2 => &engine::kv2::Kv2,
        Kind::Token => &auth::token::Tokens,
        Kind::AppRole => &auth::approle::AppRole,
        Kind::Userpass => &auth::userpass::Userpass,
        Kind::Jwt | Kind::Oidc => &auth::jwt::Jwt,
        Kind::Aws => &auth::aws::Aws,
        Kind::Gcp => &auth::gcp::Gcp,
        Kind::Azure => &auth::azure::Azure,
        Kind::Cert => &auth::cert::Cert,
        Kind::Spiffe => &auth::spiffe::Spiffe,
        Kind::Kubernetes => &auth::kubernetes::Kubernetes,
        Kind::Transit => &engine::transit::Transit,
        Kind::Pki => &engine::pki::Pki,
        Kind::Database => &engine::database::Database,
        Kind::Identity => &engine::identity::Identity,
    }
}
