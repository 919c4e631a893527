//! `strongroom operator seal | unseal | init | rekey | generate-root | rotate | key-status`: the barrier's keys, and the officers'
//! shares of the recovery key.
//!
//! Always: a share comes from a file or from standard input; new ones go into new files (0600), a file an officer.
//! Never: a share, or a token, as an argument or on standard output but where it was asked for.

use crate::cli::connection::Connection;
use crate::cli::new_file::{NewFile, Replace};
use crate::cli::new_folder::NewFolder;
use crate::cli::output::{Answer, Record};
use crate::cli::secrets::{self, Wrapping};
use crate::cli::{Usage, source};
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use clap::{Args, Subcommand};
use client::{ApiRequest, Method, SecretBytes};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt as _;
use zeroize::Zeroizing;

/// Unseal a server that was sealed by hand, share by share; no token is needed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom operator unseal --share share-2
  gpg -d share-2.gpg | strongroom operator unseal --share -

Each officer brings a share to the same server; with the last one that is needed it serves again.")]
pub struct Unseal {
    /// File with a share; `-` is standard input. Repeat it for more
    #[arg(long = "share", value_name = "FILE", required = true)]
    shares: Vec<PathBuf>,
    /// Drop the shares that were brought so far; who does shows one, which is not kept
    #[arg(long)]
    reset: bool,
}

/// Make the recovery key and give out its shares, once, as root
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom operator init --recovery-shares 5 --recovery-threshold 3 --out recovery

The server's keys are the boundary's, and were made at its first start. These shares unseal a server that was sealed by hand, and
make a new root token where it is lost. Give each officer a file of the folder, and remove the folder.")]
pub struct Init {
    #[command(flatten)]
    split: Split,
    /// New folder for the shares
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Split {
    /// How many shares there are to be
    #[arg(long, value_name = "N")]
    recovery_shares: u8,
    /// How many of them are enough
    #[arg(long, value_name = "M")]
    recovery_threshold: u8,
}

/// Another recovery key, by shares of the one that there is
#[derive(Debug, Subcommand)]
pub enum Rekey {
    /// Begin; tells the nonce that each officer needs
    Begin {
        #[command(flatten)]
        split: Split,
    },
    /// Bring a share; with the last one that is needed the new shares go into a new folder
    Share {
        /// As `begin` told it
        #[arg(long, value_name = "NONCE")]
        nonce: String,
        /// File with a share; `-` is standard input
        #[arg(long, value_name = "FILE")]
        share: PathBuf,
        /// New folder for the new shares
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// How far the attempt is
    Status,
    /// End the attempt; what was brought to it is dropped
    Cancel,
}

/// A new root token, by shares of the recovery key, where the last one is lost; no token is needed
#[derive(Debug, Subcommand)]
pub enum GenerateRoot {
    /// Begin; tells the nonce that each officer needs
    Begin {
        /// New file (0600) for the one-time password that decodes the token
        #[arg(long, value_name = "FILE")]
        otp_out: PathBuf,
    },
    /// Bring a share; with the last one that is needed the encoded token is told
    Share {
        /// As `begin` told it
        #[arg(long, value_name = "NONCE")]
        nonce: String,
        /// File with a share; `-` is standard input
        #[arg(long, value_name = "FILE")]
        share: PathBuf,
    },
    /// Decode the token, offline, where the one-time password is
    Decode {
        /// As the last share's officer was told it; it is worth nothing without the password
        #[arg(long, value_name = "BASE64")]
        encoded_token: String,
        /// File with the one-time password
        #[arg(long, value_name = "FILE")]
        otp: PathBuf,
        /// New file (0600) for the token
        #[arg(long, value_name = "FILE")]
        token_out: PathBuf,
    },
    /// Tell of one attempt; without its nonce, whether there is any
    Status {
        /// As `begin` told it
        #[arg(long, value_name = "NONCE")]
        nonce: Option<String>,
    },
    /// End an attempt; what was brought to it is dropped
    Cancel {
        /// As `begin` told it
        #[arg(long, value_name = "NONCE")]
        nonce: String,
    },
}

/// What is answered where shares were made.
#[derive(Deserialize)]
struct Made {
    #[serde(default)]
    complete: bool,
    #[serde(default)]
    keys: Vec<Zeroizing<String>>,
    #[serde(default)]
    verification_required: bool,
    #[serde(default)]
    verification_nonce: String,
}

#[derive(Serialize)]
struct Share<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
}

pub async fn seal(connection: &Connection) -> Result<Answer> {
    secrets::ask(connection, Method::PUT, "sys/seal".into(), None, Wrapping::default()).await
}

pub async fn rotate(connection: &Connection) -> Result<Answer> {
    let answer = secrets::call(connection, Method::PUT, "sys/rotate".into(), None, Wrapping::default()).await?;
    if answer.is_empty() { Ok(Answer::Done) } else { Ok(Answer::Json(secrets::parsed(&answer)?["warnings"].take())) }
}

pub async fn key_status(connection: &Connection) -> Result<Answer> {
    secrets::ask(connection, Method::GET, "sys/key-status".into(), None, Wrapping::default()).await
}

impl Unseal {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut told = None;
        for (at, file) in self.shares.iter().enumerate() {
            // the first one shows who may drop what there is
            let body = share(file, None, self.reset && at == 0).await?;
            told = Some(anybody(connection, Method::PUT, "sys/unseal", Some(body)).await?);
        }
        let told = told.ok_or_else(|| Usage("no share was named".to_owned()))?;
        let status = secrets::parsed(&told)?;
        let number = |name: &str| status[name].as_u64().unwrap_or_default();
        Ok(Answer::Record(
            Record::new()
                .with("sealed", status["sealed"] == true)
                .with("progress", number("progress"))
                .with("threshold", number("t"))
                .with("shares", number("n")),
        ))
    }
}

impl Init {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let folder = NewFolder::create(&self.out)?;
        let status = asked(connection, Method::GET, REKEY_INIT, None).await?;
        let required = secrets::parsed(&status)?["required"].as_u64().unwrap_or_default();
        ensure!(required == 0, "there are recovery shares, {required} of them make others: strongroom operator rekey");
        let answer = asked(connection, Method::PUT, REKEY_INIT, Some(self.split.body()?)).await?;
        written(connection, &answer, folder, &self.out).await
    }
}

impl Split {
    fn body(&self) -> Result<SecretBytes> {
        let (shares, threshold) = (self.recovery_shares, self.recovery_threshold);
        // what did not reach its files shall not count
        text(&json!({"secret_shares": shares, "secret_threshold": threshold, "require_verification": true}))
    }
}

impl Rekey {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let ask = async |method, path, body| secrets::ask(connection, method, path, body, Wrapping::default()).await;
        match self {
            Self::Begin { split } => ask(Method::PUT, REKEY_INIT.into(), Some(split.body()?)).await,
            Self::Status => ask(Method::GET, REKEY_INIT.into(), None).await,
            Self::Cancel => ask(Method::DELETE, REKEY_INIT.into(), None).await,
            Self::Share { nonce, share: file, out } => {
                // the new shares are told once: there is room for them before
                let folder = NewFolder::create(&out)?;
                let body = share(&file, Some(&nonce), false).await?;
                let answer = asked(connection, Method::PUT, "sys/rekey-recovery-key/update", Some(body)).await?;
                written(connection, &answer, folder, &out).await
            }
        }
    }
}

impl GenerateRoot {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::Begin { otp_out } => begin(connection, &otp_out).await,
            Self::Share { nonce, share: file } => {
                let body = share(&file, Some(&nonce), false).await?;
                let answer = anybody(connection, Method::PUT, "sys/generate-root/update", Some(body)).await?;
                attempt(&answer)
            }
            Self::Decode { encoded_token, otp, token_out } => decode(&encoded_token, &otp, &token_out).await,
            Self::Status { nonce } => {
                let path = nonce.map_or(ATTEMPT.to_owned(), |nonce| named(&nonce));
                attempt(&anybody(connection, Method::GET, &path, None).await?)
            }
            Self::Cancel { nonce } => {
                anybody(connection, Method::DELETE, &named(&nonce), None).await?;
                Ok(Answer::Done)
            }
        }
    }
}

fn named(nonce: &str) -> String {
    // a nonce has nothing that means something in a query
    let plain: String = nonce.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("{ATTEMPT}?nonce={plain}")
}

async fn begin(connection: &Connection, otp_out: &Path) -> Result<Answer> {
    #[derive(Deserialize)]
    struct Begun {
        otp: Zeroizing<String>,
    }
    let file = NewFile::create(otp_out, Replace::when(false))?;
    let answer = anybody(connection, Method::PUT, ATTEMPT, None).await?;
    let Begun { otp } = serde_json::from_slice(answer.expose()).context("the server's answer tells no password")?;
    keep(file, otp.as_bytes()).await?;
    attempt(&answer)
}

async fn decode(encoded: &str, otp: &Path, token_out: &Path) -> Result<Answer> {
    let file = NewFile::create(token_out, Replace::when(false))?;
    let otp = source::read_secret(otp, TOKEN_BYTES_MAX, "it is none").await?;
    let otp = otp.expose().trim_ascii_end();
    let mixed = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| Usage("no base64".to_owned()))?;
    ensure!(mixed.len() == otp.len(), "the token and the password are not of one attempt: they differ in length");
    let token = SecretBytes::init_with(otp.len(), |token| {
        token.iter_mut().zip(mixed.iter().zip(otp)).for_each(|(token, (mixed, otp))| *token = mixed ^ otp);
    });
    ensure!(token.expose().iter().all(u8::is_ascii_graphic), "the token and the password are not of one attempt");
    keep(file, token.expose()).await?;
    Ok(Answer::Record(Record::new().with("token_out", token_out.display().to_string())))
}

async fn keep(file: NewFile, secret: &[u8]) -> Result<()> {
    let mut writer = file.writer()?;
    writer.write_all(secret).await?;
    writer.flush().await?;
    drop(writer);
    file.finish(0o600)
}

/// What may be shown of an attempt.
fn attempt(answer: &SecretBytes) -> Result<Answer> {
    let status = secrets::parsed(answer)?;
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| status[name].as_u64().unwrap_or_default();
    Ok(Answer::Record(
        Record::new()
            .with("nonce", text("nonce"))
            .with("started", status["started"] == true)
            .with("progress", number("progress"))
            .with("required", number("required"))
            .with("complete", status["complete"] == true)
            .with_some("encoded_token", Some(text("encoded_token")).filter(|token| !token.is_empty())),
    ))
}

/// The shares into the folder, once they are there; then some of them are shown again, so that they count.
async fn written(connection: &Connection, answer: &SecretBytes, folder: NewFolder, out: &Path) -> Result<Answer> {
    let made: Made = serde_json::from_slice(answer.expose()).context("the server's answer is not JSON")?;
    if !made.complete {
        return Ok(Answer::Json(secrets::parsed(answer)?));
    }
    let writer = folder.writer();
    for (number, share) in (1..).zip(&made.keys) {
        writer.write(&format!("share-{number}"), share.as_bytes())?;
    }
    folder.finish()?;
    let mut counts = !made.verification_required;
    for share in made.keys.iter().take_while(|_| made.verification_required) {
        let body = text(&Share { key: share, nonce: Some(&made.verification_nonce), reset: false })?;
        let told = asked(connection, Method::PUT, "sys/rekey-recovery-key/verify", Some(body)).await;
        let told = told.map_err(|error| {
            let refused = error.downcast_ref::<client::Error>().is_some_and(|error| !error.is_transient());
            error.context(if refused {
                format!("the shares in {} do not count", out.display())
            } else {
                format!("it is not known whether the shares in {} count: keep them, and the old ones", out.display())
            })
        })?;
        counts = secrets::parsed(&told)?["complete"] == true;
        if counts {
            break;
        }
    }
    ensure!(counts, "the server did not take the shares in {}: they do not count", out.display());
    Ok(Answer::Record(
        Record::new().with("out", out.display().to_string()).with("shares", u64::try_from(made.keys.len())?),
    ))
}

/// A share's request.
async fn share(file: &Path, nonce: Option<&str>, reset: bool) -> Result<SecretBytes> {
    let share = source::read_secret(file, SHARE_BYTES_MAX, "it is no share").await?;
    let key = std::str::from_utf8(share.expose()).map_err(|_| Usage(format!("{} is no share", file.display())))?;
    text(&Share { key: key.trim(), nonce, reset })
}

/// JSON in memory that is wiped and does not grow.
fn text(value: &impl Serialize) -> Result<SecretBytes> {
    let mut bytes = Vec::with_capacity(2 * SHARE_BYTES_MAX);
    serde_json::to_writer(&mut bytes, value)?;
    Ok(SecretBytes::from_vec(bytes))
}

async fn asked(connection: &Connection, method: Method, path: &str, body: Option<SecretBytes>) -> Result<SecretBytes> {
    secrets::call(connection, method, path.to_owned(), body, Wrapping::default()).await
}

/// As nobody.
async fn anybody(
    connection: &Connection,
    method: Method,
    path: &str,
    body: Option<SecretBytes>,
) -> Result<SecretBytes> {
    let client = connection.connect_as_anybody().await?;
    let path = path.to_owned();
    Ok(client.api(ApiRequest { method, path, body, wrap_ttl: None, bind_certificate: None }).await?)
}

const REKEY_INIT: &str = "sys/rekey-recovery-key/init";
const ATTEMPT: &str = "sys/generate-root/attempt";
const SHARE_BYTES_MAX: usize = 512;
const TOKEN_BYTES_MAX: usize = 512;
