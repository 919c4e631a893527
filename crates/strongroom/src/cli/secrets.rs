//! `strongroom read|write|list|delete`: any path of the vault's API; and wrapped answers.
//!
//! Never: a secret as an argument. A field comes from a file (`KEY=@FILE`), from standard input (`KEY=-`), or with all others
//! as JSON (`-`); what stands in the clear behind `KEY=` is a setting that everybody may read.

use super::connection::Connection;
use super::output::Answer;
use super::{Usage, source};
use anyhow::{Context as _, Result};
use clap::Args;
use client::{ApiRequest, Method, SecretBytes};
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// How an answer is to come.
#[derive(Debug, Args, Default)]
pub struct Wrapping {
    /// Answer with a token that fetches the answer once, within so long (60s, 5m)
    #[arg(long, value_name = "TTL", value_parser = super::values::duration)]
    wrap_ttl: Option<Duration>,
    /// Bind what is made (wrapping token, SecretID, login's token) to a client certificate: SHA-256 of its DER, or `self`
    #[arg(long, value_name = "SHA256")]
    bind_certificate: Option<String>,
}

/// Read a path of the vault's API
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom read sys/mounts
  strongroom read --wrap-ttl 60s secret/data/app/db")]
pub struct Read {
    #[command(flatten)]
    pub connection: Connection,
    /// Below /v1/, as the API names it
    path: String,
    #[command(flatten)]
    wrapping: Wrapping,
}

/// Write to a path of the vault's API
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom write sys/auth/approle type=approle
  strongroom write auth/approle/role/web token_policies=app secret_id_num_uses=1
  strongroom write --wrap-ttl 60s auth/approle/role/web/secret-id
  strongroom write auth/approle/login role_id=5f0c… secret_id=@secret-id
  strongroom write secret/data/app/db - < secret.json")]
pub struct Write {
    #[command(flatten)]
    pub connection: Connection,
    /// Below /v1/, as the API names it
    path: String,
    /// `KEY=VALUE` for settings, `KEY=@FILE` or `KEY=-` for secrets, or `-` alone for JSON on standard input
    fields: Vec<String>,
    #[command(flatten)]
    wrapping: Wrapping,
}

/// List a folder of the vault's API
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub connection: Connection,
    /// Below /v1/, as the API names it
    path: String,
}

/// Delete at a path of the vault's API
#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    pub connection: Connection,
    /// Below /v1/, as the API names it
    path: String,
}

/// Fetch a wrapped answer, once
#[derive(Debug, Args)]
#[command(after_help = "\
Where the token was unwrapped before, or is unknown, somebody else may have it: raise the alarm.

Example:
  strongroom unwrap --token-file wrapping-token --expect-path auth/approle/role/web/secret-id")]
pub struct Unwrap {
    #[command(flatten)]
    pub connection: Connection,
    /// Refuse what was not made at this path: somebody may have unwrapped it and wrapped something else
    #[arg(long, value_name = "PATH")]
    expect_path: Option<String>,
}

impl Read {
    pub async fn run(self) -> Result<Answer> {
        ask(&self.connection, Method::GET, self.path, None, self.wrapping).await
    }
}

impl Write {
    pub async fn run(self) -> Result<Answer> {
        let body = body(&self.fields, Clear::Allowed).await?;
        ask(&self.connection, Method::PUT, self.path, Some(body), self.wrapping).await
    }
}

impl List {
    pub async fn run(self) -> Result<Answer> {
        ask(&self.connection, Method::GET, format!("{}?list=true", self.path), None, Wrapping::default()).await
    }
}

impl Delete {
    pub async fn run(self) -> Result<Answer> {
        ask(&self.connection, Method::DELETE, self.path, None, Wrapping::default()).await
    }
}

impl Unwrap {
    pub async fn run(self) -> Result<Answer> {
        let connection = &self.connection;
        if let Some(expected) = &self.expect_path {
            let looked = call(connection, Method::GET, "sys/wrapping/lookup".into(), None, Wrapping::default()).await?;
            client::check_creation_path(&looked, expected)?;
        }
        ask(connection, Method::PUT, "sys/wrapping/unwrap".into(), None, Wrapping::default()).await
    }
}

/// Whether a field's value may stand among the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    Allowed,
    Refused,
}

/// The JSON that the fields make.
pub async fn body(fields: &[String], clear: Clear) -> Result<SecretBytes> {
    if let [dash] = fields
        && dash == "-"
    {
        let text = source::read_secret(Path::new("-"), BODY_BYTES_MAX, "the API takes no more").await?;
        let sound = serde_json::from_slice::<Map<String, Value>>(text.expose()).is_ok();
        return if sound { Ok(text) } else { Err(Usage("standard input holds no JSON object".to_owned()).into()) };
    }
    let mut object = Map::new();
    for field in fields {
        let (key, value) = field.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Usage(format!("`{}` is neither KEY=VALUE nor `-`", field.split('=').next().unwrap_or_default()))
        })?;
        let value = match (value, clear) {
            ("-", _) => text_of(Path::new("-")).await?,
            (value, _) if value.starts_with('@') => text_of(Path::new(&value[1..])).await?,
            (value, Clear::Allowed) => setting(value),
            (_, Clear::Refused) => {
                return Err(Usage(format!(
                    "what stands behind `{key}=` is read by everybody on this machine: use {key}=@FILE, {key}=- or JSON on standard input"
                ))
                .into());
            }
        };
        if object.insert(key.to_owned(), value).is_some() {
            return Err(Usage(format!("`{key}` stands twice")).into());
        }
    }
    Ok(SecretBytes::from_vec(serde_json::to_vec(&object)?))
}

/// A file's text, without the line's end that editors leave.
async fn text_of(path: &Path) -> Result<Value> {
    let text = source::read_secret(path, BODY_BYTES_MAX, "the API takes no more").await?;
    let text = std::str::from_utf8(text.expose()).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    Ok(Value::String(text.strip_suffix('\n').unwrap_or(text).to_owned()))
}

/// JSON where it is a number, a boolean, a list or an object; else a string.
fn setting(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_))) => value,
        Ok(Value::Null | Value::String(_)) | Err(_) => Value::String(text.to_owned()),
    }
}

/// Asks, and answers with what is in the envelope.
pub async fn ask(
    connection: &Connection,
    method: Method,
    path: String,
    body: Option<SecretBytes>,
    wrapping: Wrapping,
) -> Result<Answer> {
    let answer = call(connection, method, path, body, wrapping).await?;
    if answer.is_empty() {
        return Ok(Answer::Done);
    }
    let mut envelope = parsed(&answer)?;
    let lease = lease_of(&envelope);
    for member in ["wrap_info", "auth", "data"] {
        if let Some(found) = envelope.get_mut(member).filter(|found| !found.is_null()) {
            let mut told = found.take();
            if let (Value::Object(fields), Some(lease)) = (&mut told, lease) {
                // what is lent keeps its own fields where they are called so
                for (name, value) in lease {
                    fields.entry(name).or_insert(value);
                }
            }
            return Ok(Answer::Json(told));
        }
    }
    Ok(Answer::Json(lease.map_or(envelope, Value::Object)))
}

/// The lease that an answer comes with: who has what is lent needs its name.
fn lease_of(envelope: &Value) -> Option<Map<String, Value>> {
    let id = envelope.get("lease_id")?.as_str().filter(|id| !id.is_empty())?;
    let mut lease = Map::new();
    lease.insert("lease_id".to_owned(), id.into());
    for name in ["lease_duration", "renewable"] {
        lease.insert(name.to_owned(), envelope.get(name).cloned().unwrap_or_default());
    }
    Some(lease)
}

pub async fn call(
    connection: &Connection,
    method: Method,
    path: String,
    body: Option<SecretBytes>,
    wrapping: Wrapping,
) -> Result<SecretBytes> {
    let Wrapping { wrap_ttl, bind_certificate } = wrapping;
    let path = path.trim_start_matches('/').to_owned();
    Ok(connection.connect_api().await?.api(ApiRequest { method, path, body, wrap_ttl, bind_certificate }).await?)
}

pub fn parsed(answer: &SecretBytes) -> Result<Value> {
    serde_json::from_slice(answer.expose()).context("the server's answer is not JSON")
}

const BODY_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fields_become_a_body_and_secrets_are_no_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        std::fs::write(&file, "from a file\n").unwrap();
        let from_file = format!("pw=@{}", file.display());
        let fields = [from_file.as_str(), "n=7", "yes=true", "text=a=b", "list=[1]", "quoted=\"x\""].map(str::to_owned);
        let made: Value = serde_json::from_slice(body(&fields, Clear::Allowed).await.unwrap().expose()).unwrap();
        let expected = serde_json::json!({
            "pw": "from a file", "n": 7, "yes": true, "text": "a=b", "list": [1], "quoted": "\"x\"",
        });
        assert_eq!(made, expected);
        for (fields, clear, hint) in [
            (vec!["pw=secret"], Clear::Refused, "@FILE"),
            (vec!["pw"], Clear::Allowed, "KEY=VALUE"),
            (vec!["=x"], Clear::Allowed, "KEY=VALUE"),
            (vec!["a=1", "a=2"], Clear::Allowed, "twice"),
        ] {
            let fields: Vec<String> = fields.into_iter().map(str::to_owned).collect();
            let said = body(&fields, clear).await.unwrap_err().to_string();
            assert!(said.contains(hint) && !said.contains("secret"), "{said}");
        }
    }
}
