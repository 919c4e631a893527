//! Which cluster, and by whom it is asked.
//!
//! Never: the reviewer's token in an answer.

use super::ATTEMPTS_MAX;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use identity::ChangeError;
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
}

#[derive(Serialize)]
struct Shown<'a> {
    kubernetes_host: &'a str,
    kubernetes_ca_cert: &'a str,
    token_reviewer_jwt_set: bool,
    disable_local_ca_jwt: bool,
    // as older clients expect them
    pem_keys: [&'a str; 0],
    issuer: &'a str,
    disable_iss_validation: bool,
}

pub(super) async fn load(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    let found = view.load(&path(view)?).await?;
    found.map(|found| Ok((Config::decode(found.value.expose())?, found.revision))).transpose()
}

/// Perhaps from memory.
pub(super) async fn recall(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    let kept = view.read(&path(view)?).await?;
    kept.as_ref().as_ref().map(|kept| Ok((Config::decode(kept.value.expose())?, kept.revision))).transpose()
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
        pem_keys: [],
        issuer: "",
        disable_iss_validation: true,
    })
}

/// Anew, as a whole: what is not named is not set.
pub(super) async fn write(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let config = Config::of(scope).await?;
    let text =
        serde_json::to_vec(&config).map_err(|_| VaultError::Internal("a configuration cannot be written".into()))?;
    let (text, path) = (Zeroizing::new(text), path(view)?);
    for _ in 0..ATTEMPTS_MAX {
        let batch = match load(view).await? {
            Some((_, revision)) => {
                scope.may_change()?;
                scope.batch()?.revision_is(path.clone(), revision)
            }
            None => scope.batch()?.absent(path.clone()),
        };
        match scope.commit(view.put(batch, path.clone(), &text)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

impl Config {
    fn decode(text: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(text).map_err(|_| VaultError::Internal("a stored configuration cannot be read".into()))
    }

    async fn of(scope: &Scope<'_>) -> Result<Self, VaultError> {
        let body = &scope.call.body;
        for field in ["pem_keys", "issuer"] {
            if body.list(field)?.is_some_and(|list| !list.is_empty()) {
                return Err(VaultError::field(field, "not taken: the API server is asked"));
            }
        }
        let config = Self {
            kubernetes_host: host(&body.required("kubernetes_host")?)?,
            kubernetes_ca_cert: authorities(&body.string("kubernetes_ca_cert")?.unwrap_or_default())?,
            token_reviewer_jwt: reviewer(body.string("token_reviewer_jwt")?.unwrap_or_default())?,
            disable_local_ca_jwt: body.bool("disable_local_ca_jwt")?.unwrap_or_default(),
        };
        let missing = (config.token_reviewer_jwt.is_empty(), config.lacks_authorities());
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

    /// It is asked over TLS, and nobody is named whom to believe.
    pub(super) fn lacks_authorities(&self) -> bool {
        self.kubernetes_ca_cert.is_empty() && self.kubernetes_host.starts_with("https://")
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
