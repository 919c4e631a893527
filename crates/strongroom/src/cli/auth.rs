//! `strongroom auth`: which client certificate stands for whom, and why logins were refused.

pub mod explain;

use super::audit::blocking;
use super::connection::Connection;
use super::kms::{PageArguments, list};
use super::output::{Answer, Record};
use super::token::{certificate_thumbprint, thumbprint_text};
use super::values;
use anyhow::Result;
use bytes::Bytes;
use clap::{Args, Subcommand};
use client::Error;
use proto::identity::{self, certificate_role::Match};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Certificate roles
    #[command(subcommand)]
    Cert(Cert),
    Explain(explain::Explain),
}

#[derive(Debug, Subcommand)]
pub enum Cert {
    Write(Write),
    List(List),
    /// Drop a role: its certificates stand for nobody
    Delete(Name),
}

/// Say what a client certificate stands for, in place of the role of that name
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom auth cert write billing --policy invoices --certificate billing.pem
  strongroom auth cert write build --policy release --san build.example

The server must trust the certificate's authority: `client_ca` under [tls] in its configuration.")]
pub struct Write {
    /// 1 to 64 of a-z, 0-9, `_`, `.`, `-`; the principal is cert/NAME
    name: String,
    #[command(flatten)]
    by: Recognised,
    /// Policy that the role has; repeat it for more
    #[arg(long = "policy", value_name = "NAME", required = true)]
    policies: Vec<String>,
}

/// How the certificate is recognised.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Recognised {
    /// It is the certificate in this PEM file
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its SHA-256, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = values::thumbprint)]
    thumbprint: Option<Bytes>,
    /// Its subject's common name, exactly
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
    /// One of its subject alternative names (DNS, URI or e-mail), exactly
    #[arg(long, value_name = "NAME")]
    san: Option<String>,
}

/// A role's name.
#[derive(Debug, Args)]
pub struct Name {
    name: String,
}

/// List certificate roles
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    page: PageArguments,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::Explain(command) => blocking(move || command.run()).await,
            Self::Cert(Cert::Write(command)) => command.run(connection).await,
            Self::Cert(Cert::List(command)) => command.run(connection).await,
            Self::Cert(Cert::Delete(Name { name })) => {
                let request = identity::DeleteCertificateRoleRequest { name };
                connection.connect().await?.identity().delete_certificate_role(request).await.map_err(Error::from)?;
                Ok(Answer::Done)
            }
        }
    }
}

impl Recognised {
    fn into_match(self) -> Result<Option<Match>> {
        if let Some(path) = self.certificate {
            return Ok(Some(Match::CertificateThumbprint(certificate_thumbprint(&path)?)));
        }
        let thumbprint = self.thumbprint.map(Match::CertificateThumbprint);
        let name = self.common_name.map(Match::CommonName);
        Ok(thumbprint.or(name).or(self.san.map(Match::SubjectAlternativeName)))
    }
}

impl Write {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let role =
            identity::CertificateRole { name: self.name, policies: self.policies, r#match: self.by.into_match()? };
        let request = identity::PutCertificateRoleRequest { role: Some(role) };
        connection.connect().await?.identity().put_certificate_role(request).await.map_err(Error::from)?;
        Ok(Answer::Done)
    }
}

impl List {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut identity = connection.connect().await?.identity();
        list!(
            &self.page,
            "roles",
            roles,
            |limit, marker| identity.list_certificate_roles(identity::ListCertificateRolesRequest { limit, marker }),
            |role| row(role)
        )
    }
}

fn row(role: identity::CertificateRole) -> Record {
    let (by, value) = match role.r#match {
        Some(Match::CertificateThumbprint(bytes)) => {
            ("certificate_thumbprint", thumbprint_text(&bytes).unwrap_or_default())
        }
        Some(Match::CommonName(name)) => ("common_name", name),
        Some(Match::SubjectAlternativeName(name)) => ("subject_alternative_name", name),
        None => ("unknown", String::new()),
    };
    Record::new().with("name", role.name).with("match", by).with("value", value).with("policies", role.policies)
}
