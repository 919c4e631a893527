//! AWS: users and roles log in by a signed request that tells AWS who they are, and that they sign without sending it.
//!
//! Vault's form (`iam_http_request_method`, `iam_request_url`, `iam_request_body`, `iam_request_headers`) is taken, and one
//! of our own: `role`, `access_key_id`, `amz_date`, `region`, `security_token`, `signature`, `nonce`, `certificate`; signed
//! is a POST of `Action=GetCallerIdentity&Version=2011-06-15` to `/` of the region's host with the headers `content-type`
//! (`application/x-www-form-urlencoded; charset=utf-8`), `host`, `x-amz-date`, `x-amz-security-token` where there is one,
//! `x-strongroom-server-id`, `x-strongroom-nonce` (of `POST nonce`), and `x-strongroom-certificate`, the SHA-256 in
//! hexadecimal of the connection's client certificate, to which the token is then bound.
//!
//! Always: the request that AWS is asked is written by this server; what it is asked, and where, is no caller's to say.
//! Always: the server's id is in the signature; a login counts once.
//! Always: a principal is known by account, partition, kind, name and unique id. What was deleted and made again is another.
//! Never: AWS credentials of this server's: nothing else is asked.
//!
//! # Divergences
//! - `iam_server_id_header_value` is compulsory; `config/…` takes `sudo`: who may write there says who vouches.
//! - Credentials of AWS in `config/client` are not kept. `bound_iam_principal_arn` has `*` at the end of a name only. The unique
//!   id is not asked of IAM: it is pinned at the first login, or named in `bound_iam_principal_id`. A pin stays for as long as
//!   the role names its ARN, however often it is written: to let in what was made again, write the role with
//!   `forget_pins=true`, which forgets all of its pins.
//! - `role` is compulsory at a login. No `auth_type=ec2`, nothing inferred, no role tags, no cross-account STS roles.
//! - An entity is known by the unique id (`iam_alias`: `unique_id`, or `canonical_arn`), not by the role of this mount.
//! - With an `sts_endpoint` that is not the service's own (its hosts, and `*.sts.REGION.vpce.SUFFIX`) what is signed for the
//!   service's hosts is refused: clients sign for the endpoint's host, as Vault's own cannot.
//! - Headers that are signed beyond those that a login needs are refused, not looked up in an allow-list.

mod answer;
mod arn;
mod config;
mod endpoint;
mod login;
mod nonce;
mod refusal;
mod role;
mod signed;

pub(crate) use nonce::sweep;
pub use refusal::CAUSES;

use super::token_fields::folded;
use crate::backend::{Access, Backend, lowered};
use crate::body::Body;
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;
use zeroize::Zeroizing;

#[derive(Debug)]
pub struct Aws;

#[async_trait::async_trait]
impl Backend for Aws {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        match path {
            "login" | "nonce" if call.verb == Verb::Write => Access::Public,
            _ if path.starts_with("config/") => Access::PolicyAndSudo,
            _ => Access::Policy,
        }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        let view = scope.view()?;
        match scope.segments().as_slice() {
            ["role", name] => match folded(name, NAME_BYTES_MAX) {
                Some(name) => Ok(role::load(&view, &name).await?.is_some()),
                None => Ok(false),
            },
            ["config", "client"] => Ok(config::Config::load(&view).await?.is_some()),
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let view = scope.view()?;
        match (scope.segments().as_slice(), scope.call.verb) {
            (["login"], Verb::Write) => login::login(scope).await,
            (["nonce"], Verb::Write) => nonce::make(scope),
            (["config", "client"], Verb::Read) => config::read(scope).await,
            (["config", "client"], Verb::Write) => config::write(scope).await,
            (["config", "client"], Verb::Delete) => config::delete(scope).await,
            (["config", "identity"], Verb::Read) => config::read_identity(scope).await,
            (["config", "identity"], Verb::Write) => config::write_identity(scope).await,
            (["role" | "roles"], Verb::List) => role::list(scope, &view).await,
            (["role", name], Verb::Read) => role::read(&view, &role::name(name)?).await,
            (["role", name], Verb::Write) => role::write(scope, &view, &role::name(name)?).await,
            (["role", name], Verb::Delete) => role::delete(scope, &view, &role::name(name)?).await,
            (["login" | "nonce" | "role" | "roles"] | ["config", "client" | "identity"] | ["role", _], _) => {
                Err(VaultError::Unsupported)
            }
            _ => Err(scope.no_route()),
        }
    }
}

/// As they go out.
pub type Headers = Vec<(&'static str, Zeroizing<String>)>;

/// What would go out for a login of this body, and to which host: for who looks whether anything of a caller's is in it.
pub fn written(body: &Body, server_id: &str) -> Option<(String, Headers)> {
    let rules = signed::Rules { server_id, endpoint_host: None, region: None };
    signed::parse(body, rules).ok().map(|signed| (signed.host, signed.headers))
}

/// The user or role that an answer of AWS names, where it is exactly one.
pub fn named(media_type: &str, answer: &[u8]) -> Option<String> {
    Some(arn::Caller::recognise(&answer::parse(media_type, answer)?).ok()?.canonical_arn())
}

const NAME_BYTES_MAX: usize = 128;
const ATTEMPTS_MAX: usize = 32;
