//! What everybody may know of the server: health, seal, leader.
//!
//! One that came up sealed, as store and audit log disagree, answers in other words, before it comes so far.

use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::recovery::{self, Gathering, Recovery};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::text::Text;
use crate::uuid::uuid;
use serde::Serialize;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Read {
        return Err(VaultError::Unsupported);
    }
    match segments {
        ["health"] => health(scope.vault, scope.call),
        ["seal-status"] => seal_status(scope.vault).await,
        ["init"] => initialized(),
        ["leader"] => bare(200, &Leader::default()),
        ["ha-status"] => Reply::data(&HaStatus { nodes: [Node { hostname: "", active_node: true }] }),
        _ => Err(scope.no_route()),
    }
}

/// What the seal is: `t` and `n` are those of the recovery key.
pub(crate) async fn seal_status(vault: &Vault) -> Result<Reply, VaultError> {
    if !vault.is_sealed() {
        let recovery = recovery::told(vault).await?;
        return bare(200, &seal(vault, recovery.as_ref(), None));
    }
    let sealed = vault.ceremonies().sealed.lock().await;
    let (recovery, gathering) =
        sealed.as_ref().map_or((None, None), |sealed| (sealed.recovery.as_ref(), sealed.gathering.as_ref()));
    bare(200, &seal(vault, recovery, gathering))
}

pub(crate) fn initialized() -> Result<Reply, VaultError> {
    bare(200, &Initialized { initialized: true })
}

pub(crate) fn already_initialized() -> VaultError {
    VaultError::Invalid("Vault is already initialized".into())
}

#[derive(Serialize)]
struct Initialized {
    initialized: bool,
}

/// Every node is active; there is no leader to be told.
#[derive(Serialize, Default)]
struct Leader {
    ha_enabled: bool,
    is_self: bool,
    leader_address: &'static str,
    leader_cluster_address: &'static str,
    performance_standby: bool,
    performance_standby_last_remote_wal: u64,
}

#[derive(Serialize)]
struct HaStatus {
    nodes: [Node; 1],
}

#[derive(Serialize)]
struct Node {
    hostname: &'static str,
    active_node: bool,
}

#[derive(Serialize)]
struct Health {
    initialized: bool,
    sealed: bool,
    standby: bool,
    performance_standby: bool,
    replication_performance_mode: &'static str,
    replication_dr_mode: &'static str,
    server_time_utc: u64,
    version: &'static str,
    cluster_name: &'static str,
    cluster_id: String,
}

/// `activecode` is the status of an active server, `sealedcode` of one that is sealed; 200 and 503 where they are not given, and
/// what is unknown is ignored.
pub(crate) fn health(vault: &Vault, call: &Call) -> Result<Reply, VaultError> {
    let sealed = vault.is_sealed();
    let (name, usual) = if sealed { ("sealedcode", 503) } else { ("activecode", 200) };
    let code = call.parameter(name).and_then(|code| code.parse().ok());
    let status = code.filter(|code| (200..600).contains(code) && !matches!(code, 204 | 205 | 304)).unwrap_or(usual);
    bare(
        status,
        &Health {
            initialized: true,
            sealed,
            standby: false,
            performance_standby: false,
            replication_performance_mode: "disabled",
            replication_dr_mode: "disabled",
            server_time_utc: call.info.now.unix_millis() / 1000,
            version: VERSION,
            cluster_name: "strongroom",
            cluster_id: cluster_id(vault),
        },
    )
}

#[derive(Serialize)]
struct Seal {
    r#type: &'static str,
    initialized: bool,
    sealed: bool,
    t: u8,
    n: u8,
    progress: usize,
    nonce: String,
    version: &'static str,
    build_date: &'static str,
    migration: bool,
    cluster_name: &'static str,
    cluster_id: String,
    recovery_seal: bool,
    storage_type: &'static str,
}

fn seal(vault: &Vault, recovery: Option<&Recovery>, gathering: Option<&Gathering>) -> Seal {
    Seal {
        r#type: "boundary",
        initialized: true,
        sealed: vault.is_sealed(),
        t: recovery.map_or(0, |recovery| recovery.threshold),
        n: recovery.map_or(0, |recovery| recovery.shares),
        progress: gathering.map_or(0, Gathering::progress),
        nonce: gathering.map(|gathering| gathering.nonce.clone()).unwrap_or_default(),
        version: VERSION,
        build_date: "",
        migration: false,
        cluster_name: "strongroom",
        cluster_id: cluster_id(vault),
        recovery_seal: true,
        storage_type: "strongroom",
    }
}

fn cluster_id(vault: &Vault) -> String {
    uuid(vault.barrier().cluster_id())
}

pub(super) fn bare(status: u16, body: &impl Serialize) -> Result<Reply, VaultError> {
    let text = Text::of(body).ok_or_else(|| VaultError::Internal("an answer cannot be written".into()))?;
    Ok(Reply { bare: Some((status, text)), ..Reply::default() })
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
