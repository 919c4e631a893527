//! What is mounted where.
//!
//! Always: a path is served by the mount with the longest matching prefix; a mount's data stands below its own id, so what
//! is mounted anew sees nothing of its predecessor's.

use crate::error::VaultError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most mounts, secrets engines and auth methods together.
pub const MOUNTS_MAX: usize = 512;

/// What answers below a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    System,
    Identity,
    Cubbyhole,
    Kv1,
    Kv2,
    Transit,
    Pki,
    Database,
    Token,
    AppRole,
    Userpass,
    Jwt,
    /// The same, for people.
    Oidc,
    Aws,
    Gcp,
    Azure,
    Cert,
    Spiffe,
    Kubernetes,
}

impl Kind {
    /// As the API names it; both versions of `kv` are told apart by an option.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Identity => "identity",
            Self::Cubbyhole => "cubbyhole",
            Self::Kv1 | Self::Kv2 => "kv",
            Self::Transit => "transit",
            Self::Pki => "pki",
            Self::Database => "database",
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Userpass => "userpass",
            Self::Jwt => "jwt",
            Self::Oidc => "oidc",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Cert => "cert",
            Self::Spiffe => "spiffe",
            Self::Kubernetes => "kubernetes",
        }
    }

    pub fn is_auth(self) -> bool {
        match self {
            Self::Token
            | Self::AppRole
            | Self::Userpass
            | Self::Jwt
            | Self::Oidc
            | Self::Cert
            | Self::Spiffe
            | Self::Kubernetes
            | Self::Aws
            | Self::Gcp
            | Self::Azure => true,
            Self::System
            | Self::Identity
            | Self::Cubbyhole
            | Self::Kv1
            | Self::Kv2
            | Self::Transit
            | Self::Pki
            | Self::Database => false,
        }
    }

    /// Is there from the start, and stays.
    pub fn is_built_in(self) -> bool {
        match self {
            Self::System | Self::Identity | Self::Cubbyhole | Self::Token => true,
            Self::Kv1
            | Self::Kv2
            | Self::Transit
            | Self::Pki
            | Self::Database
            | Self::AppRole
            | Self::Userpass
            | Self::Jwt
            | Self::Oidc
            | Self::Aws
            | Self::Gcp
            | Self::Azure
            | Self::Cert
            | Self::Spiffe
            | Self::Kubernetes => false,
        }
    }

    /// Of a secrets engine's type and its `version` option.
    pub fn secrets(type_name: &str, version: Option<&str>) -> Option<Self> {
        match (type_name, version) {
            ("kv-v2", _) | ("kv", Some("2")) => Some(Self::Kv2),
            ("kv-v1" | "generic", _) | ("kv", None | Some("" | "1")) => Some(Self::Kv1),
            ("transit", _) => Some(Self::Transit),
            ("pki", _) => Some(Self::Pki),
            ("database", _) => Some(Self::Database),
            _ => None,
        }
    }

    /// Of an auth method's type.
    pub fn auth(type_name: &str) -> Option<Self> {
        match type_name {
            "approle" => Some(Self::AppRole),
            "userpass" => Some(Self::Userpass),
            "jwt" => Some(Self::Jwt),
            "oidc" => Some(Self::Oidc),
            "aws" => Some(Self::Aws),
            "gcp" => Some(Self::Gcp),
            "azure" => Some(Self::Azure),
            "cert" => Some(Self::Cert),
            "spiffe" => Some(Self::Spiffe),
            "kubernetes" => Some(Self::Kubernetes),
            _ => None,
        }
    }
}

/// What can be tuned. Zero is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tune {
    pub default_lease_secs: u64,
    pub max_lease_secs: u64,
    pub listing_visibility: String,
    pub token_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: Kind,
    /// 32 hex digits: below it the data stands.
    pub id: String,
    pub accessor: String,
    pub description: String,
    #[serde(default)]
    pub tune: Tune,
    /// Unix milliseconds.
    pub created: u64,
}

impl Mount {
    /// Of what is issued below it without a wish of its own.
    pub fn default_ttl(&self) -> Duration {
        or_default(self.tune.default_lease_secs).min(self.max_ttl())
    }

    pub fn max_ttl(&self) -> Duration {
        or_default(self.tune.max_lease_secs)
    }
}

fn or_default(secs: u64) -> Duration {
    if secs == 0 { TTL_DEFAULT } else { Duration::from_secs(secs) }
}

/// Mounts by path; auth methods below `auth/`. Each path ends in a slash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub mounts: BTreeMap<String, Mount>,
}

impl Table {
    /// The mount's path, the mount, and what of `path` stands below it.
    pub fn route<'t, 'p>(&'t self, path: &'p str) -> Option<(&'t str, &'t Mount, &'p str)> {
        let mut ends = path.rmatch_indices('/').map(|(at, _)| at + 1);
        let found = ends.find_map(|end| {
            let (prefix, rest) = path.split_at_checked(end)?;
            self.mounts.get_key_value(prefix).map(|(prefix, mount)| (prefix.as_str(), mount, rest))
        });
        // `LIST secret` means the mount's root
        found.or_else(|| {
            let (prefix, mount) = self.mounts.get_key_value(&format!("{path}/"))?;
            Some((prefix.as_str(), mount, ""))
        })
    }

    pub fn secrets(&self) -> impl Iterator<Item = (&str, &Mount)> {
        self.mounts.iter().filter(|(_, mount)| !mount.kind.is_auth()).map(|(path, mount)| (path.as_str(), mount))
    }

    /// By their paths below `auth/`.
    pub fn auth(&self) -> impl Iterator<Item = (&str, &Mount)> {
        self.mounts.iter().filter(|(_, mount)| mount.kind.is_auth()).map(|(path, mount)| {
            let below = path.strip_prefix(AUTH).unwrap_or(path);
            (below, mount)
        })
    }

    /// A mount stands there, above it, or below it.
    pub fn is_taken(&self, path: &str) -> bool {
        self.mounts.keys().any(|other| other.starts_with(path) || path.starts_with(other.as_str()))
    }

    /// Adds a mount. No two paths may cover each other.
    pub fn add(&mut self, path: &str, mount: Mount) -> Result<(), VaultError> {
        // the key domain decides on these paths
        if path.starts_with(RESERVED) {
            return Err(VaultError::Invalid(format!("{RESERVED} is reserved").into()));
        }
        if self.is_taken(path) {
            return Err(VaultError::Invalid(format!("path is already in use at {path}").into()));
        }
        if self.mounts.len() >= MOUNTS_MAX {
            return Err(VaultError::Limited(format!("more than {MOUNTS_MAX} mounts").into()));
        }
        self.mounts.insert(path.to_owned(), mount);
        Ok(())
    }
}

/// A mount's path as it stands in a request, with the slash at its end.
pub fn parse_path(raw: &str) -> Result<String, VaultError> {
    let path = raw.trim_matches('/');
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let segments = path.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if path.is_empty() || path.len() > PATH_BYTES_MAX || !segments || !path.bytes().all(legal) {
        return Err(VaultError::field("path", "1 to 128 letters, digits, `-`, `_`, `.`, with slashes between"));
    }
    Ok(format!("{path}/"))
}

const RESERVED: &str = "kms/";
/// Where auth methods stand.
pub const AUTH: &str = "auth/";
/// 32 days: Vault's.
pub const TTL_DEFAULT: Duration = Duration::from_secs(768 * 3600);
const PATH_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: Kind) -> Mount {
        Mount {
            kind,
            id: "0".repeat(32),
            accessor: String::new(),
            description: String::new(),
            tune: Tune::default(),
            created: 0,
        }
    }

    #[test]
    fn the_longest_prefix_serves_and_none_covers_another() {
        let mut table = Table::default();
        for (path, kind, added) in [
            ("secret/", Kind::Kv2, true),
            ("team/a/", Kind::Kv1, true),
            ("team/b/", Kind::Kv2, true),
            ("auth/approle/", Kind::AppRole, true),
            ("secret/", Kind::Kv1, false),
            ("secret/below/", Kind::Kv1, false),
            ("team/", Kind::Kv1, false),
            ("teams/", Kind::Kv1, true),
            ("kms/", Kind::Kv1, false),
            ("kms/keys/", Kind::Kv1, false),
        ] {
            assert_eq!(table.add(path, mount(kind)).is_ok(), added, "{path}");
        }
        for (path, expected) in [
            ("secret/data/a", Some(("secret/", "data/a"))),
            ("secret/", Some(("secret/", ""))),
            ("secret", Some(("secret/", ""))),
            ("team/b/metadata/x/", Some(("team/b/", "metadata/x/"))),
            ("team/c/x", None),
            ("team", None),
            ("auth/approle/login", Some(("auth/approle/", "login"))),
            ("auth/other/login", None),
            ("secretx/data", None),
        ] {
            assert_eq!(table.route(path).map(|(at, _, below)| (at, below)), expected, "{path}");
        }
        assert_eq!(table.auth().map(|(path, _)| path).collect::<Vec<_>>(), ["approle/"]);
        assert_eq!(table.secrets().count(), 4);
    }

    #[test]
    fn a_mounts_path_is_plain() {
        for (raw, path) in [
            ("kv", Some("kv/")),
            ("/team/a/", Some("team/a/")),
            ("", None),
            ("/", None),
            ("a//b", None),
            ("a/../b", None),
            ("a b", None),
            ("ä", None),
            (&"a".repeat(129), None),
        ] {
            assert_eq!(parse_path(raw).ok().as_deref(), path, "{raw}");
        }
    }
}
