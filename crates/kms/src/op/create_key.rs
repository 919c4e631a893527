//! CreateKey, repeatable by (principal, client request id) for 24 hours.

use crate::error::KmsError;
use crate::name::{ClientRequestId, Description};
use crate::op::describe_key::KeyMetadata;
use crate::service::Kms;
use hsm_api::{KeySpec, KeyUsage, ProtectionLevel};
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct CreateKey {
    pub spec: KeySpec,
    /// `None`: the spec's own.
    pub usage: Option<KeyUsage>,
    /// `None`: the first level that the boundary offers.
    pub level: Option<ProtectionLevel>,
    pub description: Description,
    pub client_request_id: Option<ClientRequestId>,
}

impl Kms {
    pub async fn create_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateKey,
    ) -> Result<KeyMetadata, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }
}
