//! `kms-plugin --config FILE`: TOML into types. Unknown fields are errors.
//!
//! Never: a secret in it. It names the files that hold them.

use crate::agent::{Method, Server};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the API server finds it.
    pub socket: PathBuf,
    /// The key's id. No alias: that may be pointed elsewhere and back, and what it names is told to the API server.
    pub key_id: String,
    /// Ids of keys that were the key before: what they encrypted is decrypted, and nothing is encrypted under them.
    #[serde(default)]
    pub older_keys: Vec<String>,
    /// Bound to everything that is encrypted.
    pub cluster: String,
    /// Uids that may connect, beside root's and this process's own.
    #[serde(default)]
    pub peers: Vec<u32>,
    pub server: Server,
    pub login: Method,
}

impl Config {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.login.login()?;
        config.server.options()?;
        ensure!(config.socket.is_absolute(), "socket: not an absolute path");
        ensure!(is_key(&config.key_id), "key_id: not the id of a key, as `strongroom kms list-keys` tells it");
        ensure!(config.older_keys.iter().all(|key| is_key(key)), "older_keys: one is not the id of a key");
        ensure!(config.older_keys.len() <= 16, "older_keys: more than 16");
        let plain = config.cluster.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!((1..=128).contains(&config.cluster.len()) && plain, "cluster: not 1 to 128 visible ASCII characters");
        ensure!(config.peers.len() <= 16, "peers: more than 16");
        Ok(config)
    }
}

fn is_key(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        socket = "/run/strongroom/kms.sock"
        key_id = "00112233-4455-6677-8899-aabbccddeeff"
        cluster = "prod-eu-1"
        peers = [0]
        [server]
        address = "https://vault.example:8200"
        [login]
        method = "token-file"
        file = "/etc/strongroom/token"
    "#;

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        assert_eq!(Config::parse(WHOLE).unwrap().peers, [0]);
        for (from, to, said) in [
            ("\"/run/strongroom/kms.sock\"", "\"kms.sock\"", "socket"),
            ("\"00112233-4455-6677-8899-aabbccddeeff\"", "\"alias/kubernetes\"", "key_id"),
            ("\"00112233-4455-6677-8899-aabbccddeeff\"", "\"\"", "key_id"),
            ("cluster = ", "older_keys = [\"alias/old\"]\ncluster = ", "older_keys"),
            ("\"prod-eu-1\"", "\"\"", "cluster"),
            ("\"prod-eu-1\"", "\"a b\"", "cluster"),
            ("peers = [0]", "peers = [-1]", "peers"),
            ("cluster = ", "clusters = ", "clusters"),
            ("method = \"token-file\"", "method = \"magic\"", "magic"),
        ] {
            assert!(WHOLE.contains(from), "{from}");
            let error = Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{to}: {error:#}");
        }
    }
}
