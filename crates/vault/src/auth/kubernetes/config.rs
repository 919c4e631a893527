//! Which cluster, and by whom it is asked.
//!
//! Never: the reviewer's token in an answer.

use crate::auth::jose::KeySet;
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};
use zeroize::Zeroizing;

/// As stored; the names are the API's.
#[derive(Serialize, Deserialize)]
pub(super) struct Config {
    /// Without a slash at its end.
    pub(super) kubernetes_host: String,
    /// PEM. Empty: the server's own account's.
    pub(super) kubernetes_ca_cert: String,
    /// Empty: the server's own account.
    pub(super) token_reviewer_jwt: Zeroizing<String>,
    /// The server's own account is not to be used.
    pub(super) disable_local_ca_jwt: bool,
    pub(super) verification: Verification,
    /// What tokens say of themselves.
    pub(super) issuer: String,
    disable_iss_validation: bool,
    /// By which tokens are signed: beside the review, or, where nobody is asked, in place of what the API server shows.
    pub(super) pem_keys: Vec<String>,
}

/// Who says whose a token is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verification {
    /// The API server, each time.
    #[default]
    Review,
    /// The cluster's keys.
    Local,
}

#[derive(Serialize)]
struct Shown<'a> {
    kubernetes_host: &'a str,
    kubernetes_ca_cert: &'a str,
    token_reviewer_jwt_set: bool,
    disable_local_ca_jwt: bool,
    verification: Verification,
    pem_keys: &'a [String],
    issuer: &'a str,
    disable_iss_validation: bool,
}

pub(super) async fn load(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    stored::load(view, &path(view)?).await
}

/// Perhaps from memory.
pub(super) async fn recall(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    stored::recall(view, &path(view)?).await
}

pub(super) fn path(view: &View) -> Result<EntryPath, VaultError> {
    view.path("config")
}

pub(super) async fn read(view: &View) -> Result<Reply, VaultError> {
    let (config, _) = load(view).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        kubernetes_host: &config.kubernetes_host,
        kubernetes_ca_cert: &config.kubernetes_ca_cert,
        token_reviewer_jwt_set: !config.token_reviewer_jwt.is_empty(),
        disable_local_ca_jwt: config.disable_local_ca_jwt,
        verification: config.verification,
        pem_keys: &config.pem_keys,
        issuer: &config.issuer,
        disable_iss_validation: !config.binds_issuer(),
    })
}

/// Anew, as a whole: what is not named is not set.
pub(super) async fn write(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let config = Config::of(scope).await?;
    stored::change(scope, view, &path(view)?, |_: Option<Config>| Ok(&config)).await?;
    Ok(Reply::empty())
}

impl Config {
    async fn of(scope: &Scope<'_>) -> Result<Self, VaultError> {
        let body = &scope.call.body;
        let config = Self {
            verification: Verification::of(body)?,
            issuer: body.string("issuer")?.unwrap_or_default().to_string(),
            disable_iss_validation: body.bool("disable_iss_validation")?.unwrap_or(true),
            pem_keys: body.list("pem_keys")?.unwrap_or_default(),
            kubernetes_host: host(&body.required("kubernetes_host")?)?,
            kubernetes_ca_cert: authorities(&body.string("kubernetes_ca_cert")?.unwrap_or_default())?,
            token_reviewer_jwt: reviewer(body.string("token_reviewer_jwt")?.unwrap_or_default())?,
            disable_local_ca_jwt: body.bool("disable_local_ca_jwt")?.unwrap_or_default(),
        };
        config.check_issuer()?;
        let local = config.verification == Verification::Local;
        let asks_nobody = local && !config.pem_keys.is_empty();
        let missing = (!local && config.token_reviewer_jwt.is_empty(), !asks_nobody && config.lacks_authorities());
        if missing != (false, false) {
            let account = match config.disable_local_ca_jwt {
                true => None,
                false => scope.vault.outside().account(&config.kubernetes_host).await?,
            };
            let Some(account) = account else {
                let field = if missing.0 { "token_reviewer_jwt" } else { "kubernetes_ca_cert" };
                return Err(VaultError::field(field, "missing: this server has no account of its own at this host"));
            };
            if missing.1 && account.ca.is_none() {
                return Err(VaultError::field("kubernetes_ca_cert", "missing"));
            }
        }
        Ok(config)
    }

    fn check_issuer(&self) -> Result<(), VaultError> {
        let plain = self.issuer.len() <= HOST_BYTES_MAX && self.issuer.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain {
            return Err(VaultError::field("issuer", "more than 512 characters, or others than visible ASCII"));
        }
        if self.binds_issuer() && self.issuer.is_empty() {
            return Err(VaultError::field("issuer", "missing: what tokens name in iss"));
        }
        self.check_keys()
    }

    fn check_keys(&self) -> Result<(), VaultError> {
        if self.pem_keys.len() > PEM_KEYS_MAX {
            return Err(VaultError::field("pem_keys", format!("more than {PEM_KEYS_MAX} keys")));
        }
        let read = KeySet::from_pem(self.pem_keys.iter().map(String::as_str));
        if !self.pem_keys.is_empty() && read.is_err() {
            return Err(VaultError::field("pem_keys", "no public keys or certificates in PEM, each by itself"));
        }
        Ok(())
    }

    /// What is verified locally is of this issuer, always; else where that was asked for.
    pub(super) fn binds_issuer(&self) -> bool {
        self.verification == Verification::Local || !self.disable_iss_validation
    }

    /// It is asked over TLS, and nobody is named whom to believe.
    pub(super) fn lacks_authorities(&self) -> bool {
        self.kubernetes_ca_cert.is_empty() && self.kubernetes_host.starts_with("https://")
    }
}

impl Verification {
    fn of(body: &Body) -> Result<Self, VaultError> {
        match body.string("verification")?.unwrap_or_default().as_str() {
            "" | "review" => Ok(Self::Review),
            "local" => Ok(Self::Local),
            _ => Err(VaultError::field("verification", "none of review, local")),
        }
    }
}

/// `https://HOST[:PORT][/PATH]`; `http://` is for literal loopback addresses, which whoever dials sees to.
fn host(raw: &str) -> Result<String, VaultError> {
    let host = raw.trim_end_matches('/');
    let bare = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or_default();
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']' | b'/' | b'_');
    if bare.is_empty() || host.len() > HOST_BYTES_MAX || !bare.bytes().all(legal) || bare.contains("..") {
        return Err(VaultError::field("kubernetes_host", "no URL like https://HOST:PORT"));
    }
    let here = ["127.", "[::1]"].iter().any(|here| bare.starts_with(here));
    if host.starts_with("http://") && !here {
        return Err(VaultError::field("kubernetes_host", "http:// is for this host alone: write https://"));
    }
    Ok(host.to_owned())
}

fn authorities(pem: &str) -> Result<String, VaultError> {
    let pem = pem.trim();
    if pem.len() > CA_BYTES_MAX || (!pem.is_empty() && !pem.starts_with("-----BEGIN CERTIFICATE-----")) {
        return Err(VaultError::field("kubernetes_ca_cert", "no certificates in PEM, of 64 KiB at most"));
    }
    Ok(pem.to_owned())
}

fn reviewer(jwt: Zeroizing<String>) -> Result<Zeroizing<String>, VaultError> {
    let jwt = Zeroizing::new(jwt.trim().to_owned());
    if jwt.len() > super::token::TOKEN_BYTES_MAX || !jwt.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(VaultError::field("token_reviewer_jwt", "no token: visible ASCII of 8 KiB at most"));
    }
    Ok(jwt)
}

const PEM_KEYS_MAX: usize = 16;
const HOST_BYTES_MAX: usize = 512;
const CA_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_plain_url() {
        for (raw, parsed) in [
            ("https://kubernetes.default.svc", Some("https://kubernetes.default.svc")),
            ("https://10.0.0.1:6443/", Some("https://10.0.0.1:6443")),
            ("https://[fd00::1]:6443", Some("https://[fd00::1]:6443")),
            ("https://rancher.example/k8s/clusters/c-1", Some("https://rancher.example/k8s/clusters/c-1")),
            ("http://127.0.0.1:8001", Some("http://127.0.0.1:8001")),
            ("http://[::1]:8001", Some("http://[::1]:8001")),
            ("http://kubernetes.default.svc", None),
            ("http://10.0.0.1", None),
            ("kubernetes.default.svc", None),
            ("ftp://kubernetes", None),
            ("https://", None),
            ("https://a@b", None),
            ("https://a?b", None),
            ("https://a#b", None),
            ("https://a b", None),
            ("https://a/../b", None),
            ("https://a\r\nHost: b", None),
            ("https://a%2f", None),
        ] {
            assert_eq!(host(raw).ok().as_deref(), parsed, "{raw}");
        }
    }
}
