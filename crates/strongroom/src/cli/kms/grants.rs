//! Grants: what a principal may do with one key, beside its policies.

use super::{KeyArgument, PageArguments, list};
use crate::cli::connection::Connection;
use crate::cli::output::{Answer, Record};
use crate::cli::values;
use crate::clock::SystemClock;
use anyhow::Result;
use clap::Args;
use client::Error;
use envelope::Clock as _;
use proto::kms;
use std::time::Duration;

/// Allow a principal operations on one key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms create-grant --key-id alias/invoices --grantee-principal cert/billing --operations DECRYPT,ENCRYPT
  strongroom kms create-grant --key-id alias/invoices --grantee-principal token/ACCESSOR --operations DECRYPT \\
      --context-subset tenant=blue --expires-in 12h")]
pub struct CreateGrant {
    #[command(flatten)]
    key: KeyArgument,
    /// Who is allowed: token/ACCESSOR or cert/ROLE
    #[arg(long, value_name = "PRINCIPAL")]
    grantee_principal: String,
    /// Who may retire the grant
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    retiring_principal: String,
    /// What is allowed; several with commas
    #[arg(long, value_name = "OPERATION", required = true, value_delimiter = ',', ignore_case = true, value_parser = values::grant_operation())]
    operations: Vec<kms::GrantOperation>,
    /// Only for calls whose context holds this pair, and maybe more; repeat it for more pairs
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    context_subset: Vec<(String, String)>,
    /// Only for calls whose context is exactly these pairs
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    context_equals: Vec<(String, String)>,
    /// Makes the call repeatable: the same name and request answer with the same grant
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// When the grant ends, as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "DATE", value_parser = values::date)]
    expiration_date: Option<prost_types::Timestamp>,
    /// When the grant ends, counted from now
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "expiration_date")]
    expires_in: Option<Duration>,
}

/// List a key's grants
#[derive(Debug, Args)]
pub struct ListGrants {
    #[command(flatten)]
    key: KeyArgument,
    /// Only this grant
    #[arg(long, value_name = "GRANT", default_value = "", hide_default_value = true)]
    grant_id: String,
    /// Only grants of this principal
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    grantee_principal: String,
    #[command(flatten)]
    page: PageArguments,
}

/// Which grant.
#[derive(Debug, Args)]
pub struct GrantArgument {
    #[command(flatten)]
    key: KeyArgument,
    /// The grant's id
    #[arg(long, value_name = "GRANT")]
    grant_id: String,
}

impl CreateGrant {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let (subset, equals) = (values::context(&self.context_subset)?, values::context(&self.context_equals)?);
        let constraints = (!subset.is_empty() || !equals.is_empty()).then(|| kms::GrantConstraints {
            encryption_context_subset: subset.pairs().clone(),
            encryption_context_equals: equals.pairs().clone(),
        });
        let request = kms::CreateGrantRequest {
            key_id: self.key.key_id,
            grantee_principal: self.grantee_principal,
            retiring_principal: self.retiring_principal,
            operations: self.operations.into_iter().map(i32::from).collect(),
            constraints,
            name: self.name,
            expiration_date: self.expiration_date.or(self.expires_in.map(from_now)),
        };
        let reply = connection.connect().await?.keys().create_grant(request).await.map_err(Error::from)?.into_inner();
        Ok(Answer::Record(Record::new().with("grant_id", reply.grant_id)))
    }
}

fn from_now(after: Duration) -> prost_types::Timestamp {
    let at = SystemClock.now().plus(after).unix_secs();
    prost_types::Timestamp { seconds: i64::try_from(at).unwrap_or(i64::MAX), nanos: 0 }
}

impl ListGrants {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut keys = connection.connect().await?.keys();
        list!(
            &self.page,
            "grants",
            grants,
            |limit, marker| keys.list_grants(kms::ListGrantsRequest {
                key_id: self.key.key_id.clone(),
                grant_id: self.grant_id.clone(),
                grantee_principal: self.grantee_principal.clone(),
                limit,
                marker,
            }),
            |grant| row(grant)
        )
    }
}

fn row(grant: kms::GrantListEntry) -> Record {
    let constraints = grant.constraints.unwrap_or_default();
    let operations = grant.operations.into_iter().map(values::grant_operation_text);
    Record::new()
        .with("grant_id", grant.grant_id)
        .with("key_id", grant.key_id)
        .with("name", grant.name)
        .with("grantee_principal", grant.grantee_principal)
        .with("retiring_principal", grant.retiring_principal)
        .with("issuing_principal", grant.issuing_principal)
        .with("operations", operations.collect::<Vec<_>>())
        .with("encryption_context_subset", constraints.encryption_context_subset)
        .with("encryption_context_equals", constraints.encryption_context_equals)
        .with("creation_date", grant.creation_date)
        .with("expiration_date", grant.expiration_date)
}

pub async fn revoke(grant: GrantArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::RevokeGrantRequest { key_id: grant.key.key_id, grant_id: grant.grant_id };
    connection.connect().await?.keys().revoke_grant(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

pub async fn retire(grant: GrantArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::RetireGrantRequest { key_id: grant.key.key_id, grant_id: grant.grant_id };
    connection.connect().await?.keys().retire_grant(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}
