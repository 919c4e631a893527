//! `strongroom policy`: what tokens and certificate roles may do, in Vault's policy language.

use super::connection::Connection;
use super::kms::{PageArguments, list};
use super::output::{Answer, Record};
use super::source;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use client::Error;
use proto::identity;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Command {
    Write(Write),
    /// Print a policy as it was written
    Read(Name),
    List(List),
    /// Drop a policy; tokens that name it lose what it allowed
    Delete(Name),
}

/// Write a policy, in place of the one of that name
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom policy write invoices - <<'END'
  path \"kms/keys/5f0c…/generate-data-key\" { capabilities = [\"update\"] }
  path \"kms/keys/5f0c…/decrypt\"           { capabilities = [\"update\"] }
  END")]
pub struct Write {
    /// 1 to 64 of a-z, 0-9, `_`, `.`, `-`
    name: String,
    /// File with the policy, HCL or JSON; `-` is standard input
    file: PathBuf,
}

/// A policy's name.
#[derive(Debug, Args)]
pub struct Name {
    name: String,
}

/// List the names of policies
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    page: PageArguments,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::Write(command) => command.run(connection).await,
            Self::Read(Name { name }) => read(name, connection).await,
            Self::List(command) => command.run(connection).await,
            Self::Delete(Name { name }) => {
                let request = identity::DeletePolicyRequest { name };
                connection.connect().await?.identity().delete_policy(request).await.map_err(Error::from)?;
                Ok(Answer::Done)
            }
        }
    }
}

impl Write {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let text = source::read_secret(&self.file, POLICY_BYTES_MAX, "split the policy in two").await?;
        let policy = String::from_utf8(text.expose().to_vec());
        let policy = policy.with_context(|| format!("{} is not UTF-8 text", self.file.display()))?;
        let request = identity::PutPolicyRequest { name: self.name, policy };
        connection.connect().await?.identity().put_policy(request).await.map_err(Error::from)?;
        Ok(Answer::Done)
    }
}

async fn read(name: String, connection: &Connection) -> Result<Answer> {
    let mut identity = connection.connect().await?.identity();
    let reply = identity.get_policy(identity::GetPolicyRequest { name }).await.map_err(Error::from)?.into_inner();
    let record = Record::new().with("name", reply.name).with("policy", reply.policy.clone());
    let text = if reply.policy.ends_with('\n') { reply.policy } else { reply.policy + "\n" };
    Ok(Answer::Text { text, record })
}

impl List {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut identity = connection.connect().await?.identity();
        list!(
            &self.page,
            "policies",
            names,
            |limit, marker| identity.list_policies(identity::ListPoliciesRequest { limit, marker }),
            |name| Record::new().with("name", name)
        )
    }
}

/// Longest policy that the API takes.
const POLICY_BYTES_MAX: usize = 64 * 1024;
