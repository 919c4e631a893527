//! What the server tells of itself, as messages of `strongroom.operator.v1`.

use super::{BackupPiece, ServerStatus};
use crate::kms_grpc::codec::timestamp;
use bytes::Bytes;
use hsm_api::{KeySpec, ModuleState, ModuleStatus, ProtectionLevel, SigningAlgorithm};
use proto::operator as pb;

pub(crate) fn status(status: ServerStatus) -> pb::StatusResponse {
    pb::StatusResponse {
        version: status.version,
        cluster_id: hex::encode(status.cluster_id),
        tenant_id: hex::encode(status.tenant_id),
        generation: status.generation,
        start_date: Some(timestamp(status.started)),
        boundary: Some(status.boundary.map(boundary).unwrap_or_default()),
    }
}

fn boundary(status: ModuleStatus) -> pb::BoundaryStatus {
    let state = match status.state {
        ModuleState::Uninitialised => pb::ModuleState::Uninitialised,
        ModuleState::Locked => pb::ModuleState::Locked,
        ModuleState::Operational => pb::ModuleState::Operational,
        ModuleState::Error => pb::ModuleState::Error,
    };
    let capabilities = status.capabilities;
    pb::BoundaryStatus {
        state: state.into(),
        module: status.module,
        version: status.version,
        module_id: hex::encode(status.module_id),
        boot_epoch: status.boot_epoch,
        domain_id: hex::encode(status.domain_id),
        domain_generation: status.generation,
        backup_made: status.backup_made,
        fault_build: status.fault_build,
        key_specs: names(&capabilities.specs, KeySpec::name),
        protection_levels: names(&capabilities.levels, ProtectionLevel::name),
        signing_algorithms: names(&capabilities.algorithms, SigningAlgorithm::name),
        report: status.report.into_iter().collect(),
    }
}

fn names<T: Copy>(values: &[T], name: impl Fn(T) -> &'static str) -> Vec<String> {
    values.iter().map(|value| name(*value).to_owned()).collect()
}

pub(crate) fn chunk(piece: BackupPiece) -> pb::BackupChunk {
    match piece {
        BackupPiece::Data(data) => pb::BackupChunk { data, sha256: Bytes::new(), revision: 0 },
        BackupPiece::End { sha256, revision } => {
            pb::BackupChunk { data: Bytes::new(), sha256: Bytes::copy_from_slice(&sha256), revision }
        }
    }
}
