//! What operators of Vault do by hand, and here the boundary or the command line does: sealing, unsealing, shares, rotation.
//!
//! # Divergences
//!
//! - The seal opens by itself, through the boundary: unsealing answers what the seal is, and nothing else happens.
//! - Sealing, stepping down, rekeying, a new root token and rotating the barrier's key are refused by name.

use super::status;
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use serde::Serialize;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    use Verb::{Delete, Read, Write};
    match (segments, scope.call.verb) {
        (["init"], Write) => Err(VaultError::Invalid("Vault is already initialized".into())),
        (["unseal"], Write) => status::seal_status(scope),
        (["seal"], Write) => refused("sealing is not offered here: stop the servers, or lock the boundary"),
        (["step-down"], Write) => refused("there is no leader that could step down: every node serves"),
        (["rekey" | "rekey-recovery-key", ..], Read | Write | Delete) => {
            refused("there are no shares of the seal here: the boundary holds its key, and its officers rekey it there")
        }
        (["generate-root" | "generate-recovery-token", ..], Read | Write | Delete) => {
            refused("a new root token is made on the command line, beside the boundary's officers")
        }
        (["rotate"] | ["rotate", "keyring"], Write) => refused(
            "rotating the barrier's key is not offered yet; keys of `transit` and `kms` are rotated by themselves",
        ),
        (["rotate", "config"], Read | Write) => refused("rotating the barrier's key is not offered yet"),
        (["key-status"], Read) => key_status(scope).await,
        (["unseal" | "seal" | "step-down" | "rotate" | "key-status"] | ["rotate", "keyring" | "config"], _) => {
            Err(VaultError::Unsupported)
        }
        _ => Err(VaultError::NoRoute(scope.call.path.as_str().to_owned())),
    }
}

fn refused(why: &'static str) -> Result<Reply, VaultError> {
    Err(VaultError::Invalid(why.into()))
}

/// The barrier's key: its term, and since when. It is as old as the first mounts, for as long as it cannot be rotated.
async fn key_status(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Status {
        term: u32,
        install_time: String,
        encryptions: Option<u64>,
    }
    let table = scope.vault.table().await?;
    let oldest = table.mounts.values().map(|mount| mount.created).min().unwrap_or_default();
    let install_time = rfc3339(Timestamp::from_unix_millis(oldest));
    let status = Status { term: scope.vault.barrier().epoch(), install_time, encryptions: None };
    Ok(Reply::data(&status)?.repeated())
}
