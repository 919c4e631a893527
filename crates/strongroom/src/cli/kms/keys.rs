//! Keys and aliases.

use super::{KeyArgument, PageArguments, list};
use crate::cli::connection::Connection;
use crate::cli::output::{Answer, Record};
use crate::cli::values;
use anyhow::Result;
use clap::Args;
use client::Error;
use proto::kms;

/// Make a key; the answer names its id
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms create-key --description invoices
  strongroom kms create-key --key-spec ECC_NIST_P256 --output json")]
pub struct CreateKey {
    /// Kind of key
    #[arg(long, value_name = "SPEC", default_value = "SYMMETRIC_DEFAULT", ignore_case = true, value_parser = values::key_spec())]
    key_spec: kms::KeySpec,
    /// What it may do; default: what its kind is for
    #[arg(long, value_name = "USAGE", ignore_case = true, value_parser = values::key_usage())]
    key_usage: Option<kms::KeyUsage>,
    /// Where the key material lives; default: the first level that the boundary offers
    #[arg(long, value_name = "LEVEL", ignore_case = true, value_parser = values::protection_level())]
    protection_level: Option<kms::ProtectionLevel>,
    /// For people; no place for secrets
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Makes the call repeatable for 24 hours: the same id answers with the same key
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    client_request_id: String,
}

/// List key ids
#[derive(Debug, Args)]
pub struct ListKeys {
    #[command(flatten)]
    page: PageArguments,
}

/// Start the window after which a key is destroyed
#[derive(Debug, Args)]
#[command(after_help = "\
Until the window ends the key refuses every use and `kms cancel-key-deletion` calls it back. `kms describe-key` tells when the
deletion is final: backups of storage may still hold the wrapped key.")]
pub struct ScheduleKeyDeletion {
    #[command(flatten)]
    key: KeyArgument,
    /// Length of the window in days, 7 to 30
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pending_window_in_days: u32,
}

/// Give a key a name
#[derive(Debug, Args)]
pub struct AliasAndKey {
    #[command(flatten)]
    alias: Alias,
    /// Id of the key
    #[arg(long, value_name = "KEY_ID")]
    target_key_id: String,
}

/// An alias's name.
#[derive(Debug, Args)]
pub struct Alias {
    /// alias/NAME
    #[arg(long, value_name = "ALIAS")]
    alias_name: String,
}

/// List aliases
#[derive(Debug, Args)]
pub struct ListAliases {
    /// Only those of this key
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    key_id: String,
    #[command(flatten)]
    page: PageArguments,
}

impl CreateKey {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = kms::CreateKeyRequest {
            key_spec: self.key_spec.into(),
            key_usage: self.key_usage.unwrap_or_default().into(),
            protection_level: self.protection_level.unwrap_or_default().into(),
            description: self.description,
            client_request_id: self.client_request_id,
        };
        let reply = connection.connect().await?.keys().create_key(request).await.map_err(Error::from)?.into_inner();
        Ok(Answer::Record(metadata(reply.key_metadata.unwrap_or_default())))
    }
}

pub async fn describe(key: KeyArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::DescribeKeyRequest { key_id: key.key_id };
    let reply = connection.connect().await?.keys().describe_key(request).await.map_err(Error::from)?.into_inner();
    Ok(Answer::Record(metadata(reply.key_metadata.unwrap_or_default())))
}

pub async fn enable(key: KeyArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::EnableKeyRequest { key_id: key.key_id };
    connection.connect().await?.keys().enable_key(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

pub async fn disable(key: KeyArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::DisableKeyRequest { key_id: key.key_id };
    connection.connect().await?.keys().disable_key(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

pub async fn cancel_deletion(key: KeyArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::CancelKeyDeletionRequest { key_id: key.key_id };
    let mut keys = connection.connect().await?.keys();
    let reply = keys.cancel_key_deletion(request).await.map_err(Error::from)?.into_inner();
    Ok(Answer::Record(Record::new().with("key_id", reply.key_id)))
}

pub async fn rotate(key: KeyArgument, connection: &Connection) -> Result<Answer> {
    let request = kms::RotateKeyOnDemandRequest { key_id: key.key_id };
    let mut keys = connection.connect().await?.keys();
    let reply = keys.rotate_key_on_demand(request).await.map_err(Error::from)?.into_inner();
    Ok(Answer::Record(Record::new().with("key_id", reply.key_id).with("key_version", reply.key_version)))
}

pub async fn create_alias(alias: AliasAndKey, connection: &Connection) -> Result<Answer> {
    let request = kms::CreateAliasRequest { alias_name: alias.alias.alias_name, target_key_id: alias.target_key_id };
    connection.connect().await?.keys().create_alias(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

pub async fn update_alias(alias: AliasAndKey, connection: &Connection) -> Result<Answer> {
    let request = kms::UpdateAliasRequest { alias_name: alias.alias.alias_name, target_key_id: alias.target_key_id };
    connection.connect().await?.keys().update_alias(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

pub async fn delete_alias(alias: Alias, connection: &Connection) -> Result<Answer> {
    let request = kms::DeleteAliasRequest { alias_name: alias.alias_name };
    connection.connect().await?.keys().delete_alias(request).await.map_err(Error::from)?;
    Ok(Answer::Done)
}

impl ListKeys {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut keys = connection.connect().await?.keys();
        list!(
            &self.page,
            "keys",
            keys,
            |limit, marker| keys.list_keys(kms::ListKeysRequest { limit, marker }),
            |entry| Record::new().with("key_id", entry.key_id)
        )
    }
}

impl ScheduleKeyDeletion {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = kms::ScheduleKeyDeletionRequest {
            key_id: self.key.key_id,
            pending_window_in_days: self.pending_window_in_days,
        };
        let mut keys = connection.connect().await?.keys();
        let reply = keys.schedule_key_deletion(request).await.map_err(Error::from)?.into_inner();
        Ok(Answer::Record(
            Record::new()
                .with("key_id", reply.key_id)
                .with("key_state", values::key_state_text(reply.key_state))
                .with("deletion_date", reply.deletion_date)
                .with("pending_window_in_days", reply.pending_window_in_days),
        ))
    }
}

impl ListAliases {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let mut keys = connection.connect().await?.keys();
        list!(
            &self.page,
            "aliases",
            aliases,
            |limit, marker| keys.list_aliases(kms::ListAliasesRequest { key_id: self.key_id.clone(), limit, marker }),
            |entry| Record::new()
                .with("alias_name", entry.alias_name)
                .with("target_key_id", entry.target_key_id)
                .with("creation_date", entry.creation_date)
        )
    }
}

fn metadata(key: kms::KeyMetadata) -> Record {
    let texts = |values: Vec<i32>, text: fn(i32) -> String| values.into_iter().map(text).collect::<Vec<_>>();
    let ends = key.deletion_date.is_some();
    let finality = Some(values::deletion_finality_text(key.deletion_finality)).filter(|_| ends);
    let versions = key.key_versions.into_iter().map(|version| {
        Record::new().with("key_version", version.key_version).with("creation_date", version.creation_date)
    });
    Record::new()
        .with("key_id", key.key_id)
        .with("key_state", values::key_state_text(key.key_state))
        .with("key_spec", values::key_spec_text(key.key_spec))
        .with("key_usage", values::key_usage_text(key.key_usage))
        .with("protection_level", values::protection_level_text(key.protection_level))
        .with("origin", values::origin_text(key.origin))
        .with("description", key.description)
        .with("creation_date", key.creation_date)
        .with_some("deletion_date", key.deletion_date.map(Some))
        .with_some("deletion_finality", finality)
        .with("current_key_version", key.current_key_version)
        .with("key_versions", versions.collect::<Vec<_>>())
        .with("signing_algorithms", texts(key.signing_algorithms, values::signing_algorithm_text))
        .with("mac_algorithms", texts(key.mac_algorithms, values::mac_algorithm_text))
}
