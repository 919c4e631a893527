//! `strongroom token`: who may come in.

use super::connection::Connection;
use super::new_file::{NewFile, Prepared, Privacy, Replace};
use super::output::{Answer, Record};
use super::{Usage, source, values};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Args, Subcommand};
use client::{Error, SecretBytes};
use proto::identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
    Lookup(Lookup),
    Renew(Renew),
    Revoke(Revoke),
}

/// Make a child of your token; it ends with yours
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom token create --policy invoices --ttl 12h --display-name billing --token-out /run/secrets/billing-token
  TOKEN=$(strongroom token create --policy invoices --token-out -)
  strongroom token create --policy invoices --num-uses 1 --show-token")]
pub struct Create {
    /// Policy that the token has; repeat it for more. Default: those of your token
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// For people; no place for secrets
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// How long it lives; not longer than yours
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::duration)]
    ttl: Duration,
    /// How often it may be used; 0 is without bound
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    num_uses: u32,
    /// It may be renewed, up to 768h from now; not longer than yours
    #[arg(long)]
    renewable: bool,
    /// The token counts only beside this client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Write the token to this new file (0600); `-` writes it, and nothing else, to standard output
    #[arg(long, value_name = "FILE", required_unless_present = "show_token")]
    token_out: Option<PathBuf>,
    /// Print the token with what is public about it
    #[arg(long, conflicts_with = "token_out")]
    show_token: bool,
    /// Replace the file if it is there
    #[arg(long, requires = "token_out")]
    force: bool,
}

/// Tell about your token, or about another one by its accessor
#[derive(Debug, Args)]
pub struct Lookup {
    /// Accessor of the other token
    #[arg(long, value_name = "ACCESSOR", default_value = "", hide_default_value = true)]
    accessor: String,
}

/// Let a renewable token go on
#[derive(Debug, Args)]
pub struct Renew {
    #[command(flatten)]
    which: Which,
    /// How long from now; what it was given when it was made unless said. Less is given where a bound is nearer
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    increment: Option<Duration>,
}

/// End a token and all its descendants
#[derive(Debug, Args)]
pub struct Revoke {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false)]
struct Which {
    /// Accessor of the token
    #[arg(long, value_name = "ACCESSOR", group = "which")]
    accessor: Option<String>,
    /// Your own token
    #[arg(long = "self", group = "which")]
    own: bool,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::Create(command) => command.run(connection).await,
            Self::Lookup(command) => command.run(connection).await,
            Self::Renew(command) => command.run(connection).await,
            Self::Revoke(command) => command.run(connection).await,
        }
    }
}

impl Create {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let to = match self.token_out.as_deref() {
            None => Prepared::Shown,
            Some(path) if source::is_dash(path) => Prepared::Dash,
            Some(path) => Prepared::File(NewFile::create(path, Replace::when(self.force))?, path),
        };
        let certificate_thumbprint = self.certificate.as_deref().map(certificate_thumbprint).transpose()?;
        let ttl_secs = self.ttl.as_secs();
        if ttl_secs == 0 {
            return Err(Usage("--ttl is at least 1s".to_owned()).into());
        }
        let request = identity::CreateTokenRequest {
            policies: self.policies,
            display_name: self.display_name,
            ttl_secs,
            num_uses: self.num_uses,
            certificate_thumbprint: certificate_thumbprint.unwrap_or_default(),
            renewable: self.renewable,
        };
        let mut identity = connection.connect().await?.identity();
        let reply = identity.create_token(request).await.map_err(Error::from)?.into_inner();
        let token = SecretBytes::from_vec(reply.token.into_bytes());
        let record = metadata(reply.metadata.unwrap_or_default());
        match to {
            // a token is text: it stands there as it is used
            Prepared::Shown => {
                let token = String::from_utf8_lossy(token.expose()).into_owned();
                Ok(Answer::Record(Record::new().with("token", token).and(record)))
            }
            Prepared::Dash => {
                let line = [token.expose(), b"\n"].concat();
                Ok(Answer::Line(SecretBytes::from_vec(line)))
            }
            file @ Prepared::File(..) => {
                Ok(Answer::Record(file.record(record, "token_out", &token, Privacy::Secret)?))
            }
        }
    }
}

impl Lookup {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = identity::LookupTokenRequest { accessor: self.accessor };
        let mut identity = connection.connect().await?.identity();
        let reply = identity.lookup_token(request).await.map_err(Error::from)?.into_inner();
        Ok(Answer::Record(metadata(reply.metadata.unwrap_or_default())))
    }
}

impl Which {
    fn accessor(self) -> Result<String> {
        match self.accessor {
            // an empty accessor would mean one's own token: a script's unset variable must not
            Some(accessor) if accessor.is_empty() => {
                Err(Usage("--accessor is empty: for your own token say --self".to_owned()).into())
            }
            accessor => Ok(accessor.unwrap_or_default()),
        }
    }
}

impl Renew {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let increment_secs = self.increment.map_or(0, |increment| increment.as_secs());
        if self.increment.is_some() && increment_secs == 0 {
            return Err(Usage("--increment is at least 1s".to_owned()).into());
        }
        let request = identity::RenewTokenRequest { accessor: self.which.accessor()?, increment_secs };
        let mut identity = connection.connect().await?.identity();
        let reply = identity.renew_token(request).await.map_err(Error::from)?.into_inner();
        Ok(Answer::Record(metadata(reply.metadata.unwrap_or_default())))
    }
}

impl Revoke {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = identity::RevokeTokenRequest { accessor: self.which.accessor()? };
        connection.connect().await?.identity().revoke_token(request).await.map_err(Error::from)?;
        Ok(Answer::Done)
    }
}

fn metadata(token: identity::TokenMetadata) -> Record {
    Record::new()
        .with("accessor", token.accessor)
        .with("display_name", token.display_name)
        .with("policies", token.policies)
        .with("creation_date", token.creation_date)
        .with("expiration_date", token.expiration_date)
        .with_some("uses_left", token.uses_left)
        .with_some("certificate_thumbprint", thumbprint_text(&token.certificate_thumbprint))
        .with("orphan", token.orphan)
        .with("parent_accessor", token.parent_accessor)
        .with("renewable", token.renewable)
}

/// As people compare them; nothing where there is none.
pub(super) fn thumbprint_text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| hex::encode(bytes))
}

/// SHA-256 of the DER of the first certificate in a PEM file.
pub(super) fn certificate_thumbprint(path: &Path) -> Result<Bytes> {
    let der = CertificateDer::from_pem_file(path)
        .map_err(|error| Usage(format!("{} holds no PEM certificate: {error}", path.display())))
        .context("which certificate?")?;
    Ok(Bytes::copy_from_slice(&envelope::mac::sha256(&der)))
}
