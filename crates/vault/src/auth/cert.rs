//! Certificates: clients log in by the certificate of their connection, judged by each role's own authorities.
//!
//! The listener takes any client certificate for this (`[tls] client_certificates = "any"`); what stands here alone decides
//! what one is good for. That its holder has its key, the handshake has shown.
//!
//! Always: the whole path to an authority of the role ([`super::x509`]), a leaf that is for clients and for signatures, and
//! what the role says of its names. An authority's list of what it has revoked counts once it is given here, and refuses all
//! that it should know of when it is too old.
//! Always: the token counts only beside the certificate that logged in, and ends with it. Where it asks to go on
//! (`renew-self`), the role must still take the certificate, and nobody may have revoked it.
//! Never: an authority of the system's, or of the listener's.
//!
//! # Divergences
//! - A role's `certificate` is one or more authorities; a client's own is refused there.
//! - Extended key usage for clients must be named in the certificate.
//! - An entity's alias is `role/common name` (the first alternative name where there is none): two authorities that certify
//!   one name do not make one entity of it.
//! - `disable_binding` and `allowed_metadata_extensions` are refused by name. `crl_required` is ours: of each authority on
//!   the path there must be a list. Lists by URL are fetched by https.
//! - OCSP (`ocsp_enabled`) is about the client's certificate, as Vault has it; each login and renewal asks anew. It fails
//!   closed: `ocsp_fail_open` and `ocsp_max_retries` are refused by name. Of several servers the next is asked where one cannot
//!   be. What is answered is signed: `http://` will do, but in a namespace.

mod config;
pub(crate) mod crl;
mod login;
mod ocsp;
mod role;

pub(crate) use login::may_go_on;
pub(crate) use role::{authorities, check_authority};

use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Cert;

#[async_trait::async_trait]
impl Backend for Cert {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("certs/") || path.starts_with("crls/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        let logs_in = call.verb == Verb::Write && path == "login";
        if logs_in { Access::Public } else { Access::Policy }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments()[..] {
            ["certs", name] => role::exists(scope, name).await,
            ["crls", name] => crl::exists(scope, name).await,
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match (&segments[..], scope.call.verb) {
            (["login"], Verb::Write) => login::login(scope).await,
            (["certs"], Verb::List) => role::list(scope).await,
            (["certs", name], Verb::Read) => role::read(scope, name).await,
            (["certs", name], Verb::Write) => role::write(scope, name).await,
            (["certs", name], Verb::Delete) => role::delete(scope, name).await,
            (["crls"], Verb::List) => crl::list(scope).await,
            (["crls", name], Verb::Read) => crl::show(scope, name).await,
            (["crls", name], Verb::Write) => crl::write(scope, name).await,
            (["crls", name], Verb::Delete) => crl::delete(scope, name).await,
            (["config"], Verb::Read) => config::show(),
            (["config"], Verb::Write) => config::write(scope),
            (["login" | "certs" | "crls" | "config"] | ["certs" | "crls", _], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// What each refusal means, beside those of [`super::x509::CAUSES`].
pub const CAUSES: &[(&str, &str)] = &[
    (login::ROLE_UNKNOWN, "no role of this name, or no role at all"),
    (login::NO_ROLE, "of several roles none takes this certificate: name one in the login to hear what it breaks"),
    (login::NO_NAME, "the login names no role, and there are more than are tried (64): name one"),
    (role::NAME_OTHER, "no name of the certificate is one of the role's allowed_names"),
    (role::COMMON_NAME_OTHER, "the common name is none of the role's allowed_common_names"),
    (role::DNS_OTHER, "no DNS name of the certificate is one of the role's allowed_dns_sans"),
    (role::EMAIL_OTHER, "no e-mail address of the certificate is one of the role's allowed_email_sans"),
    (role::URI_OTHER, "no URI of the certificate is one of the role's allowed_uri_sans"),
    (role::UNIT_OTHER, "no unit of the certificate is one of the role's allowed_organizational_units"),
    (role::EXTENSION_OTHER, "the certificate lacks one of the role's required_extensions"),
];
const ATTEMPTS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
