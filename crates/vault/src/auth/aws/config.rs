//! The mount's configuration: which server this is to those who log in, and who is asked for them.

use super::endpoint;
use super::signed::{Rules, is_region};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) iam_server_id_header_value: String,
    /// Empty: the service's own, of the region that was signed for.
    pub(super) sts_endpoint: String,
    /// Empty: any that is known.
    pub(super) sts_region: String,
    /// PEM; empty: the authorities that the system trusts.
    pub(super) sts_ca: String,
}

/// By what the mount knows an entity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Alias {
    #[default]
    UniqueId,
    CanonicalArn,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Identity {
    pub(super) iam_alias: Alias,
}

impl Config {
    pub(super) async fn load(view: &View) -> Result<Option<(Self, Revision)>, VaultError> {
        stored::load(view, &Self::path(view)?).await
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        let some = |text: &'_ str| !text.is_empty();
        Rules {
            server_id: &self.iam_server_id_header_value,
            endpoint_host: Some(self.sts_endpoint.as_str()).filter(|url| some(url)).and_then(host),
            region: Some(self.sts_region.as_str()).filter(|region| some(region)),
        }
    }

    pub(super) fn path(view: &View) -> Result<EntryPath, VaultError> {
        view.path(CLIENT)
    }

    /// Where requests go that are signed for this host.
    pub(super) fn url(&self, host: &str) -> String {
        match self.sts_endpoint.as_str() {
            "" => format!("https://{host}/"),
            endpoint => format!("{}/", endpoint.trim_end_matches('/')),
        }
    }

    fn update(&mut self, scope: &Scope<'_>) -> Result<(), VaultError> {
        let body = &scope.call.body;
        for (name, field) in [
            ("iam_server_id_header_value", &mut self.iam_server_id_header_value),
            ("sts_endpoint", &mut self.sts_endpoint),
            ("sts_region", &mut self.sts_region),
            ("sts_ca", &mut self.sts_ca),
        ] {
            if let Some(text) = body.string(name)? {
                *field = text.to_string();
            }
        }
        let id = &self.iam_server_id_header_value;
        let visible = id.bytes().all(|byte| byte.is_ascii_graphic());
        if !(4..=256).contains(&id.len()) || !visible {
            let why = "4 to 256 visible characters, of this server alone (its name): it is compulsory here";
            return Err(VaultError::field("iam_server_id_header_value", why));
        }
        if !self.sts_endpoint.is_empty() && host(&self.sts_endpoint).is_none() {
            let why = "not https://HOST, without a path (http:// to a literal loopback address)";
            return Err(VaultError::field("sts_endpoint", why));
        }
        let known = endpoint::region(&self.sts_region).is_some();
        let named = !self.sts_endpoint.is_empty() && is_region(&self.sts_region);
        if !self.sts_region.is_empty() && !known && !named {
            return Err(VaultError::field("sts_region", "unknown here: name `sts_endpoint` too"));
        }
        if self.sts_ca.len() > CA_BYTES_MAX {
            return Err(VaultError::field("sts_ca", "too long"));
        }
        Ok(())
    }
}

/// The authority of `https://HOST[:PORT]`, or of `http://` to loopback.
fn host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let legal = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
    };
    let here = || {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let sound = (1..=255).contains(&host.len()) && host.bytes().all(legal);
    (sound && (scheme == "https" || (scheme == "http" && here()))).then_some(host)
}

pub(super) async fn read(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (config, _) = Config::load(&scope.view()?).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&config)
}

pub(super) async fn write(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let make = |old: Option<Config>| {
        let mut config = old.unwrap_or_default();
        config.update(scope)?;
        Ok(config)
    };
    stored::change(scope, &view, &Config::path(&view)?, make).await?;
    Ok(ignored(scope))
}

pub(super) async fn delete(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    stored::delete(scope, &view, Config::path(&view)?).await
}

/// What Vault has these for is not done here: AWS is asked nothing but who signed.
fn ignored(scope: &Scope<'_>) -> Reply {
    let unused = ["access_key", "secret_key", "endpoint", "iam_endpoint", "allowed_sts_header_values", "role_arn"];
    let named = unused.into_iter().filter(|name| scope.call.body.has(name));
    named.fold(Reply::empty(), |reply, name| reply.warning(format!("{name}: not needed here, and not kept")))
}

pub(super) async fn identity(view: &View) -> Result<Identity, VaultError> {
    let found = stored::load(view, &view.path(IDENTITY)?).await?;
    Ok(found.map(|(identity, _)| identity).unwrap_or_default())
}

pub(super) async fn read_identity(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    Reply::data(&identity(&scope.view()?).await?)
}

pub(super) async fn write_identity(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let make = |old: Option<Identity>| {
        let mut identity = old.unwrap_or_default();
        if let Some(alias) = scope.call.body.string("iam_alias")? {
            identity.iam_alias = match alias.as_str() {
                "unique_id" => Alias::UniqueId,
                "canonical_arn" => Alias::CanonicalArn,
                _ => return Err(VaultError::field("iam_alias", "neither unique_id nor canonical_arn")),
            };
        }
        Ok(identity)
    };
    stored::change(scope, &view, &view.path(IDENTITY)?, make).await?;
    Ok(Reply::empty())
}

const CLIENT: &str = "c";
const IDENTITY: &str = "ci";
const CA_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_nothing_else() {
        for (url, expected) in [
            ("https://vpce-1.sts.eu-west-1.vpce.amazonaws.com", Some("vpce-1.sts.eu-west-1.vpce.amazonaws.com")),
            ("https://sts.example:8443/", Some("sts.example:8443")),
            ("http://127.0.0.1:5000", Some("127.0.0.1:5000")),
            ("http://[::1]:5000", Some("[::1]:5000")),
            ("http://sts.example", None),
            ("http://127.0.0.1.evil.example", None),
            ("https://sts.example/path", None),
            ("https://user@sts.example", None),
            ("https://sts.example?x", None),
            ("https://", None),
            ("ftp://127.0.0.1", None),
            ("sts.example", None),
        ] {
            assert_eq!(host(url), expected, "{url}");
        }
    }
}
