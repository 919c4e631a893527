//! What everybody may know of the server: health, seal, leader.
//!
//! The seal opens by itself, through the boundary: who is answered here talks to an unsealed server. One that is sealed has no
//! store to read and answers in other words, before it comes so far.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use crate::uuid::uuid;
use serde::Serialize;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Read {
        return Err(VaultError::Unsupported);
    }
    match segments {
        ["health"] => health(scope),
        ["seal-status"] => seal_status(scope),
        ["init"] => bare(200, &Initialized { initialized: true }),
        ["leader"] => bare(200, &Leader::default()),
        ["ha-status"] => Reply::data(&HaStatus { nodes: [Node { hostname: "", active_node: true }] }),
        _ => Err(scope.no_route()),
    }
}

/// What the seal is.
pub(super) fn seal_status(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    bare(200, &seal(scope))
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

/// `activecode` is the status of an active server, 200 where it is not given; what is unknown is ignored.
fn health(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let code = scope.call.parameter("activecode").and_then(|code| code.parse().ok());
    let status = code.filter(|code| (200..600).contains(code) && !matches!(code, 204 | 205 | 304)).unwrap_or(200);
    bare(
        status,
        &Health {
            initialized: true,
            sealed: false,
            standby: false,
            performance_standby: false,
            replication_performance_mode: "disabled",
            replication_dr_mode: "disabled",
            server_time_utc: scope.now().unix_millis() / 1000,
            version: VERSION,
            cluster_name: "strongroom",
            cluster_id: cluster_id(scope),
        },
    )
}

#[derive(Serialize)]
struct Seal {
    r#type: &'static str,
    initialized: bool,
    sealed: bool,
    t: u32,
    n: u32,
    progress: u32,
    nonce: &'static str,
    version: &'static str,
    build_date: &'static str,
    migration: bool,
    cluster_name: &'static str,
    cluster_id: String,
    recovery_seal: bool,
    storage_type: &'static str,
}

fn seal(scope: &Scope<'_>) -> Seal {
    Seal {
        r#type: "boundary",
        initialized: true,
        sealed: false,
        t: 0,
        n: 0,
        progress: 0,
        nonce: "",
        version: VERSION,
        build_date: "",
        migration: false,
        cluster_name: "strongroom",
        cluster_id: cluster_id(scope),
        recovery_seal: true,
        storage_type: "strongroom",
    }
}

fn cluster_id(scope: &Scope<'_>) -> String {
    uuid(scope.vault.barrier().cluster_id())
}

fn bare(status: u16, body: &impl Serialize) -> Result<Reply, VaultError> {
    let text = Text::of(body).ok_or_else(|| VaultError::Internal("an answer cannot be written".into()))?;
    Ok(Reply { bare: Some((status, text)), ..Reply::default() })
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
