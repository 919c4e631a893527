//! Nonces, and what was let in once.
//!
//! Always: a nonce is one of this mount's, made less than a minute ago; nothing is stored for it until it logs in.
//! Always: what has logged in is marked, in the commit that makes its token, until it would be refused for its age.

use super::refusal::*;
use crate::Done;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use audit::{Decision, Record, Subject};
use envelope::{Timestamp, mac};
use identity::ChangeError;
use serde::Serialize;
use std::time::Duration;
use storage::{Batch, EntryPath};

#[derive(Serialize)]
struct Made {
    nonce: String,
    ttl: u64,
}

pub(super) fn make(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let random = scope.vault.barrier().random::<16>()?;
    let ends = scope.now().plus(LIVES_FOR).unix_millis().to_be_bytes();
    let tag = tag(scope, &ends, &random)?;
    let nonce = [hex::encode(ends), hex::encode(random), hex::encode(tag)].concat();
    Reply::data(&Made { nonce, ttl: LIVES_FOR.as_secs() })
}

/// Until when it counts.
pub(super) fn check(scope: &Scope<'_>, nonce: &str) -> Result<Timestamp, VaultError> {
    let unknown = || refused(NONCE_UNKNOWN);
    let mut bytes = [0; 8 + 16 + TAG_BYTES];
    hex::decode_to_slice(nonce, &mut bytes).map_err(|_| unknown())?;
    let (ends, rest) = bytes.split_first_chunk::<8>().ok_or_else(unknown)?;
    let (random, told) = rest.split_first_chunk::<16>().ok_or_else(unknown)?;
    if !mac::equal(&tag(scope, ends, random)?, told) {
        return Err(unknown());
    }
    let ends = Timestamp::from_unix_millis(u64::from_be_bytes(*ends));
    if ends < scope.now() { Err(unknown()) } else { Ok(ends) }
}

fn tag(scope: &Scope<'_>, ends: &[u8; 8], random: &[u8; 16]) -> Result<[u8; TAG_BYTES], VaultError> {
    let whole = scope.vault.barrier().keyed_hash(b"aws/nonce", &[scope.mount.id.as_bytes(), ends, random].concat())?;
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&whole[..TAG_BYTES]);
    Ok(tag)
}

/// Where the mark of a login stands, that is refused for its age after `ends`.
pub(super) fn mark(view: &View, what: &str, ends: Timestamp) -> Result<EntryPath, VaultError> {
    view.path(&format!("{MARKS}/{:016x}/{}", ends.unix_millis(), view.hash(b"aws/login", what)?))
}

/// At every mount, a page. For a worker: how much was swept up.
pub(crate) async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let table = vault.table().await?;
    let mut done = Done::default();
    for (at, mount) in table.mounts.iter().filter(|(_, mount)| mount.kind == Kind::Aws) {
        done.add(at, sweep_mount(vault, &vault.view(&mount.id)?, now).await);
    }
    done.told()
}

async fn sweep_mount(vault: &Vault, view: &View, now: Timestamp) -> Result<usize, VaultError> {
    let page = view.scan(&view.path(MARKS)?, None, SWEPT_AT_ONCE).await?;
    let is_over = |path: &EntryPath| {
        let at = path.segments().skip_while(|segment| *segment != MARKS).nth(1);
        at.and_then(|at| u64::from_str_radix(at, 16).ok()).is_some_and(|at| at < now.unix_millis())
    };
    let due: Vec<EntryPath> = page.entries.into_iter().map(|(path, _)| path).take_while(is_over).collect();
    if due.is_empty() {
        return Ok(0);
    }
    let swept = due.len();
    let batch = due.into_iter().fold(vault.changes().batch()?, Batch::delete);
    let record =
        Record { decision: Decision::Allowed, ..Record::new(now, "worker", "VaultSweepAwsLogins", &Subject::System) };
    match vault.commit(batch, &record).await {
        // another node sweeps too
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(swept),
        Err(error) => Err(error.into()),
    }
}

const LIVES_FOR: Duration = Duration::from_secs(60);
const TAG_BYTES: usize = 16;
const MARKS: &str = "n";
const SWEPT_AT_ONCE: u32 = 100;
