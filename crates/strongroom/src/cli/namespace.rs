//! `strongroom namespace`: vaults within the vault. In one of them, `--namespace` puts `read`, `write`, `list`, `delete`, `unwrap`
//! and `kv`.

use super::Usage;
use super::connection::Connection;
use super::output::Answer;
use super::secrets::{Wrapping, ask};
use anyhow::Result;
use clap::{Args, Subcommand};
use client::{Method, SecretBytes};
use serde_json::{Map, Value, json};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Create(Create),
    /// Tell of a namespace
    Read(Path),
    /// Drop a namespace in which no other stands, and all that it holds
    Delete(Path),
}

/// List the namespaces right below
#[derive(Debug, Args)]
pub struct List {
    /// All below, at any depth
    #[arg(long)]
    recursive: bool,
}

/// Make a namespace, or give one new metadata
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom namespace create team
  strongroom namespace create team/app --custom-metadata owner=ann
  strongroom write --namespace team/app sys/mounts/secret type=kv-v2")]
pub struct Create {
    #[command(flatten)]
    path: Path,
    /// `KEY=VALUE`, once each
    #[arg(long, value_name = "KEY=VALUE")]
    custom_metadata: Vec<String>,
}

/// Where a namespace stands.
#[derive(Debug, Args)]
pub struct Path {
    /// Below the one that is asked in: a name, or a path as team/app
    #[arg(value_name = "PATH")]
    path: String,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::List(List { recursive }) => {
                let query = if recursive { "?scan=true" } else { "?list=true" };
                ask(connection, Method::GET, format!("sys/namespaces{query}"), None, Wrapping::default()).await
            }
            Self::Create(command) => command.run(connection).await,
            Self::Read(path) => ask(connection, Method::GET, path.api()?, None, Wrapping::default()).await,
            Self::Delete(path) => ask(connection, Method::DELETE, path.api()?, None, Wrapping::default()).await,
        }
    }
}

impl Create {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut metadata = Map::new();
        for pair in &self.custom_metadata {
            let (key, value) = pair
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| Usage(format!("--custom-metadata `{pair}` is not KEY=VALUE")))?;
            if metadata.insert(key.to_owned(), Value::String(value.to_owned())).is_some() {
                return Err(Usage(format!("`{key}` stands twice")).into());
            }
        }
        let body = if metadata.is_empty() { json!({}) } else { json!({ "custom_metadata": metadata }) };
        let body = SecretBytes::from_vec(serde_json::to_vec(&body)?);
        ask(connection, Method::PUT, self.path.api()?, Some(body), Wrapping::default()).await
    }
}

impl Path {
    /// `team/sys/namespaces/app` for `team/app`.
    fn api(&self) -> Result<String> {
        let path = self.path.trim_matches('/');
        let plain = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if !path.split('/').all(plain) {
            return Err(Usage(format!("`{path}` is no path of a namespace: letters, digits, `-`, `_`, `.`")).into());
        }
        Ok(match path.rsplit_once('/') {
            Some((above, name)) => format!("{above}/sys/namespaces/{name}"),
            None => format!("sys/namespaces/{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_asked_for_in_the_namespace_above_it() {
        for (path, api) in [
            ("a", Some("sys/namespaces/a")),
            ("/a/b/", Some("a/sys/namespaces/b")),
            ("a/b/c", Some("a/b/sys/namespaces/c")),
            ("", None),
            ("a//b", None),
            ("a?x", None),
        ] {
            assert_eq!(Path { path: path.into() }.api().ok().as_deref(), api, "{path}");
        }
    }
}
