//! `strongroom kv`: versioned secrets.

use super::connection::Connection;
use super::output::Answer;
use super::secrets::{Clear, Wrapping, ask, body, call, parsed};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use client::{Method, SecretBytes};
use serde_json::{Value, json};
use std::io::Write as _;

#[derive(Debug, Subcommand)]
pub enum Command {
    Put(Put),
    Get(Get),
    /// Merge fields into the current version, as a new one
    Patch(Put),
    /// List the names in a folder
    List(Name),
    /// Delete the current version, or some; `undelete` brings them back
    Delete(Versions),
    /// Bring deleted versions back
    Undelete(Versions),
    /// Take the data of versions away for good
    Destroy(Versions),
    Promote(Promote),
    /// Show versions, labels, and when each was read last
    Metadata(Name),
    /// Delete a name with all its versions, for good
    Purge(Name),
}

/// A secret's name: MOUNT/PATH, where the mount's path has one segment unless --mount says otherwise.
#[derive(Debug, Args)]
pub struct Name {
    name: String,
    /// Path of the mount
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
}

/// Write a new version of a secret
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kv put secret/app/db - <<< '{\"user\": \"app\", \"password\": \"…\"}'
  strongroom kv put secret/app/db password=@new-password --label pending     # nobody gets it yet who does not ask
  strongroom kv promote secret/app/db                                        # now everybody does; the old one stays `previous`")]
pub struct Put {
    #[command(flatten)]
    name: Name,
    /// `KEY=@FILE`, `KEY=-`, or `-` alone for JSON on standard input
    #[arg(required = true)]
    fields: Vec<String>,
    /// Only where this is the newest version; 0: only where there is none
    #[arg(long, value_name = "VERSION")]
    cas: Option<u32>,
    /// `current`, or `pending`: not served until it is promoted
    #[arg(long, default_value = "current")]
    label: String,
}

/// Read a secret
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    name: Name,
    /// A version's number
    #[arg(long)]
    version: Option<u32>,
    /// `current`, `pending` or `previous`
    #[arg(long, conflicts_with = "version")]
    label: Option<String>,
    /// Print this field alone, and nothing around it
    #[arg(long, value_name = "KEY")]
    field: Option<String>,
}

/// Some versions of a secret.
#[derive(Debug, Args)]
pub struct Versions {
    #[command(flatten)]
    name: Name,
    /// Numbers with commas between; without: the current one
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    versions: Vec<u32>,
}

/// Serve the pending version, or another one, from now on
#[derive(Debug, Args)]
pub struct Promote {
    #[command(flatten)]
    name: Name,
    /// A version's number: also back to an older one
    #[arg(long)]
    version: Option<u32>,
}

impl Name {
    fn path(&self, kind: &str) -> Result<String> {
        let name = self.name.trim_matches('/');
        let (mount, rest) = match &self.mount {
            Some(mount) => (mount.trim_matches('/'), name),
            None => name.split_once('/').unwrap_or((name, "")),
        };
        let encoded = rest.split('/').map(encode).collect::<Vec<_>>().join("/");
        Ok(format!("{mount}/{kind}/{encoded}"))
    }
}

/// What RFC 3986 §2.3 does not leave as it is, percent-encoded.
fn encode(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let plain = Wrapping::default;
        match self {
            Self::Put(command) => command.run(connection, Method::PUT).await,
            Self::Patch(command) => command.run(connection, Method::PATCH).await,
            Self::Get(command) => command.run(connection).await,
            Self::List(name) => {
                let path = format!("{}?list=true", name.path("metadata")?);
                ask(connection, Method::GET, path, None, plain()).await
            }
            Self::Metadata(name) => ask(connection, Method::GET, name.path("metadata")?, None, plain()).await,
            Self::Purge(name) => ask(connection, Method::DELETE, name.path("metadata")?, None, plain()).await,
            Self::Delete(command) if command.versions.is_empty() => {
                ask(connection, Method::DELETE, command.name.path("data")?, None, plain()).await
            }
            Self::Delete(command) => command.run(connection, "delete").await,
            Self::Undelete(command) => command.run(connection, "undelete").await,
            Self::Destroy(command) => command.run(connection, "destroy").await,
            Self::Promote(Promote { name, version }) => {
                let body = json(&json!({ "version": version.unwrap_or(0) }))?;
                ask(connection, Method::PUT, name.path("promote")?, Some(body), plain()).await
            }
        }
    }
}

impl Put {
    async fn run(self, connection: &Connection, method: Method) -> Result<Answer> {
        let data = body(&self.fields, Clear::Refused).await?;
        let mut options = json!({ "label": self.label });
        if let Some(cas) = self.cas {
            options["cas"] = json!(cas);
        }
        // the data as it came: no second copy in a tree
        let mut whole = Vec::with_capacity(data.len() + 128);
        write!(whole, "{{\"options\":{options},\"data\":")?;
        whole.extend_from_slice(data.expose());
        whole.push(b'}');
        let body = SecretBytes::from_vec(whole);
        ask(connection, method, self.name.path("data")?, Some(body), Wrapping::default()).await
    }
}

impl Get {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let query = match (self.version, &self.label) {
            (Some(version), _) => format!("?version={version}"),
            (None, Some(label)) => format!("?label={}", encode(label)),
            (None, None) => String::new(),
        };
        let path = self.name.path("data")? + &query;
        let answer = call(connection, Method::GET, path, None, Wrapping::default()).await?;
        let mut envelope = parsed(&answer)?;
        let data = envelope.get_mut("data").map(Value::take).unwrap_or_default();
        let Some(key) = self.field else { return Ok(Answer::Json(data)) };
        let found = data.get("data").and_then(|data| data.get(&key));
        let found = found.with_context(|| format!("the secret has no field `{key}`"))?;
        let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        Ok(Answer::Line(SecretBytes::from_vec((text + "\n").into_bytes())))
    }
}

impl Versions {
    async fn run(self, connection: &Connection, kind: &str) -> Result<Answer> {
        if self.versions.is_empty() {
            return Err(super::Usage("name the versions: --versions 1,2".to_owned()).into());
        }
        let body = json(&json!({ "versions": self.versions }))?;
        ask(connection, Method::PUT, self.name.path(kind)?, Some(body), Wrapping::default()).await
    }
}

fn json(value: &Value) -> Result<SecretBytes> {
    Ok(SecretBytes::from_vec(serde_json::to_vec(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_mount_and_a_path() {
        let name = |name: &str, mount: Option<&str>| Name { name: name.into(), mount: mount.map(str::to_owned) };
        for (given, mount, path) in [
            ("secret/app/db", None, "secret/data/app/db"),
            ("/secret/a b/ä/", None, "secret/data/a%20b/%C3%A4"),
            ("app/db", Some("team/kv/"), "team/kv/data/app/db"),
            ("secret", None, "secret/data/"),
        ] {
            assert_eq!(name(given, mount).path("data").unwrap(), path);
        }
    }
}
