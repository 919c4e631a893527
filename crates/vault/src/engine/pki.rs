//! PKI: authorities whose keys live in the boundary, and the certificates that they issue.
//!
//! An authority's key is one of the key domain: made there for it, asked there to sign what is built here ([`x509`]), never
//! here. A leaf's key is made here for `issue/:role`, told once, and wiped.
//!
//! Always: a certificate is stored, and its place among what runs out, in the one commit that records it; a revocation
//! together with the list that tells it, which the boundary has signed by then.
//! Always: a certificate ends with its authority's at the latest, and has a random serial number of 159 bits.
//! Never: a name that the role, as it stood when it was read, does not allow.
//!
//! # Divergences
//! - Authorities have keys of type `ec` (256 bits) or `rsa`. Ed25519 signs whole messages of 4096 bytes here, and a list of
//!   what is revoked outgrows that. Nothing is exported or imported: `internal` only; `DELETE root` and `keys` are not served.
//! - Signatures are of SHA-256. Key identifiers are those of RFC 7093 §2 (1). Private keys are told as PKCS#8 in PEM or DER.
//! - Wildcards stand for one whole label on the left. Names beside DNS, e-mail, URI and IP, user ids, policies, templates, ACME,
//!   OCSP, delta lists and `sign-verbatim` are refused by name.
//! - `tidy` is done when it answers; what is over is swept by itself, too, three days after its end.
//! - At most 16 authorities a mount, and 20,000 certificates that are revoked and not over.

mod asked;
mod authority;
mod config;
mod crl;
mod intermediate;
mod issue;
mod issuer;
mod key;
mod names;
mod record;
mod revoke;
mod role;
mod root;
mod show;
mod subject;
mod text;
pub(crate) mod tidy;
mod x509;

use crate::backend::{Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Pki;

#[async_trait::async_trait]
impl Backend for Pki {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    /// What is public in certificates is anybody's to read: who verifies one needs the lists and those above it.
    fn access(&self, call: &Call, path: &str) -> Access {
        let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match (call.verb, segments.as_slice()) {
            (Verb::Read, ["ca" | "crl"] | ["ca" | "crl", "pem"] | ["ca_chain"] | ["cert", _]) => Access::Public,
            (Verb::Read, ["issuer", _, "json" | "pem" | "der" | "crl"] | ["issuer", _, "crl", "pem" | "der"]) => {
                Access::Public
            }
            (Verb::Read | Verb::List | Verb::Write | Verb::Patch | Verb::Delete, _) => Access::Policy,
        }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments()[..] {
            ["roles", name] => role::exists(scope, name).await,
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match (&segments[..], scope.call.verb) {
            (["ca" | "ca_chain" | "crl" | "cert", ..] | ["certs", ..], _) => show::handle(scope, &segments).await,
            (["issuer", reference, rest @ ..], _) => one_issuer(scope, reference, rest).await,
            (["issuers"], Verb::List) => issuer::list(scope).await,
            (["root", "generate", kind], Verb::Write) => root::generate(scope, kind).await,
            (["root", "sign-intermediate"], Verb::Write) => intermediate::sign(scope, issuer::DEFAULT).await,
            (["intermediate", "generate", kind], Verb::Write) => intermediate::generate(scope, kind).await,
            (["intermediate", "set-signed"], Verb::Write) => intermediate::set_signed(scope).await,
            (["config", "issuers"], Verb::Read) => issuer::read_default(scope).await,
            (["config", "issuers"], Verb::Write) => issuer::set_default(scope).await,
            (["config", "urls"], Verb::Read) => config::read_urls(scope).await,
            (["config", "urls"], Verb::Write) => config::write_urls(scope).await,
            (["config", "crl"], Verb::Read) => config::read_crl(scope).await,
            (["config", "crl"], Verb::Write) => config::write_crl(scope).await,
            (["roles"], Verb::List) => role::list(scope).await,
            (["roles", name], Verb::Read) => role::read(scope, name).await,
            (["roles", name], Verb::Write) => role::write(scope, name).await,
            (["roles", name], Verb::Delete) => role::delete(scope, name).await,
            (["issue", role], Verb::Write) => issue::issue(scope, (role, None)).await,
            (["sign", role], Verb::Write) => issue::sign(scope, (role, None)).await,
            (["revoke"], Verb::Write) => revoke::revoke(scope).await,
            (["tidy"], Verb::Write) => tidy::tidy(scope).await,
            (["sign-verbatim", ..], _) => Err(verbatim()),
            ([first, ..], _) if SERVED.contains(first) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

async fn one_issuer(scope: &Scope<'_>, reference: &str, rest: &[&str]) -> Result<Reply, VaultError> {
    match (rest, scope.call.verb) {
        ([], Verb::Read) => issuer::read(scope, reference).await,
        ([], Verb::Write) => issuer::rename(scope, reference).await,
        ([], Verb::Delete) => issuer::delete(scope, reference).await,
        (["json"], Verb::Read) => issuer::tell(scope, reference).await,
        ([form @ ("pem" | "der")], Verb::Read) => show::certificate_of(scope, reference, form).await,
        (["crl"], Verb::Read) => show::list_of(scope, reference, "json").await,
        (["crl", form @ ("pem" | "der")], Verb::Read) => show::list_of(scope, reference, form).await,
        (["issue", role], Verb::Write) => issue::issue(scope, (role, Some(reference))).await,
        (["sign", role], Verb::Write) => issue::sign(scope, (role, Some(reference))).await,
        (["sign-intermediate"], Verb::Write) => intermediate::sign(scope, reference).await,
        (["sign-verbatim", ..], _) => Err(verbatim()),
        _ => Err(VaultError::Unsupported),
    }
}

fn verbatim() -> VaultError {
    VaultError::Invalid("sign-verbatim: what no role allows is not certified here".into())
}

const SERVED: [&str; 10] =
    ["issuers", "root", "intermediate", "config", "roles", "issue", "sign", "revoke", "tidy", "crl"];
const ATTEMPTS_MAX: usize = 16;
