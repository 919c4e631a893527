//! Which server, and as whom: arguments, environment, the token's file.

use super::Usage;
use super::output::Format;
use crate::files;
use anyhow::Result;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Subcommand};
use client::{Client, ClientCertificate, Options, SecretBytes};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A command that talks to a server.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Remote<C: Subcommand> {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: C,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub struct Connection {
    /// Address of the server, https://HOST:PORT; default https://127.0.0.1:8200
    #[arg(long, global = true, env = "STRONGROOM_ADDR", value_name = "URL")]
    pub address: Option<String>,
    #[arg(long, global = true, env = "VAULT_ADDR", hide = true)]
    pub vault_addr: Option<String>,
    /// PEM file of the CA that signed the server's certificate; default: the system's
    #[arg(long, global = true, env = "STRONGROOM_CACERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    #[arg(long, global = true, env = "VAULT_CACERT", hide = true)]
    pub vault_cacert: Option<PathBuf>,
    /// PEM file with this client's certificate, where one stands for you or your token is bound to it
    #[arg(long, global = true, env = "STRONGROOM_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// PEM file with the client certificate's key
    #[arg(long, global = true, env = "STRONGROOM_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// File (0600) with the token; otherwise STRONGROOM_TOKEN, then ~/.strongroom-token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// In which namespace the vault is asked, as team/app; without: in the root
    #[arg(long, global = true, env = "STRONGROOM_NAMESPACE", value_name = "PATH")]
    pub namespace: Option<String>,
    #[arg(long, global = true, env = "VAULT_NAMESPACE", hide = true)]
    pub vault_namespace: Option<String>,
    // environment only: `refuse_token_argument` sees to it
    #[arg(long, global = true, env = "STRONGROOM_TOKEN", hide = true, hide_env_values = true)]
    token: Option<Token>,
    #[arg(long, global = true, env = "VAULT_TOKEN", hide = true, hide_env_values = true)]
    vault_token: Option<Token>,
    /// Longest wait for an answer, as 500ms, 30s or 2m
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = super::values::duration)]
    pub timeout: Duration,
    /// How answers are printed
    #[arg(long, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// A token out of the environment.
#[derive(Clone)]
struct Token(Arc<SecretBytes>);

impl FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(Self(Arc::new(SecretBytes::copy_from(raw.trim().as_bytes()))))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Connection {
    /// To the native API, which is the root's: what is meant for a namespace is not done there instead.
    pub async fn connect(&self) -> Result<Client> {
        if !self.namespace().is_empty() {
            return Err(Usage(
                "this command is served in the root alone: in a namespace, use read, write, list, delete, unwrap or kv \
                 (policies stand at sys/policies/acl/NAME, tokens at auth/token/create); or unset STRONGROOM_NAMESPACE \
                 and VAULT_NAMESPACE"
                    .into(),
            )
            .into());
        }
        self.connect_api().await
    }

    /// To the vault's API, in the namespace that was named.
    pub async fn connect_api(&self) -> Result<Client> {
        Ok(Client::connect(self.options()?).await?)
    }

    /// For what needs no token: none is sent.
    pub async fn connect_as_anybody(&self) -> Result<Client> {
        Ok(Client::connect(self.options_with(None)?).await?)
    }

    /// To whom nothing is known yet.
    pub fn options_of_anybody(&self) -> Result<Options> {
        self.options_with(None)
    }

    /// Without the slashes around; of the root nothing.
    fn namespace(&self) -> &str {
        // what was named first counts, the root too
        let named = self.namespace.as_deref().or(self.vault_namespace.as_deref()).unwrap_or_default().trim_matches('/');
        if named == "root" { "" } else { named }
    }

    fn options(&self) -> Result<Options> {
        let options = self.options_with(self.token()?)?;
        if options.token.is_none() && options.certificate.is_none() {
            return Err(Usage(
                "no token: set STRONGROOM_TOKEN, name a file with --token-file, or write it to ~/.strongroom-token (0600)"
                    .into(),
            )
            .into());
        }
        Ok(options)
    }

    fn options_with(&self, token: Option<SecretBytes>) -> Result<Options> {
        let address = self.address.as_ref().or(self.vault_addr.as_ref()).filter(|address| !address.is_empty());
        let certificate = match (&self.client_cert, &self.client_key) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain: chain.clone(), key: key.clone() }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Usage("--client-cert and --client-key go together: name both".into()).into());
            }
        };
        Ok(Options {
            ca: self.ca_cert.as_ref().or(self.vault_cacert.as_ref()).cloned(),
            certificate,
            token,
            namespace: self.namespace().to_owned(),
            timeout: self.timeout,
            ..Options::new(address.map_or("https://127.0.0.1:8200", String::as_str))
        })
    }

    fn token(&self) -> Result<Option<SecretBytes>> {
        if let Some(path) = &self.token_file {
            return files::read_secret(path).map(Some);
        }
        let environment = [&self.token, &self.vault_token].into_iter().flatten().find(|token| !token.0.is_empty());
        if let Some(token) = environment {
            return Ok(Some(SecretBytes::copy_from(token.0.expose())));
        }
        let home = std::env::home_dir().map(|home| home.join(".strongroom-token"));
        home.filter(|path| path.exists()).map(|path| files::read_secret(&path)).transpose()
    }
}

/// Arguments are seen by everybody on the machine (`ps`), so a token is none.
pub(super) fn refuse_token_argument(matches: &ArgMatches, command: &mut clap::Command) -> Result<(), clap::Error> {
    let said =
        |id: &str| matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
    if said("token") || said("vault_token") {
        let message = "the token would be visible to everybody on this machine: put it into a file that only you can read \
                       and name that with --token-file, or set STRONGROOM_TOKEN";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    if said("secret_access_key") || said("session_token") {
        let message =
            "it would be visible to everybody on this machine: set AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    matches.subcommand().map_or(Ok(()), |(_, inner)| refuse_token_argument(inner, command))
}
