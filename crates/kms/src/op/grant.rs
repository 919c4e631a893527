//! CreateGrant, ListGrants, RevokeGrant, RetireGrant.

use crate::error::KmsError;
use crate::grant::{Grant, GrantConstraints, GrantOperation};
use crate::name::{GrantId, GrantName, KeyRef, PrincipalName};
use crate::op::{Page, PageRequest};
use crate::service::Kms;
use envelope::Timestamp;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct CreateGrant {
    pub key: KeyRef,
    pub grantee: PrincipalName,
    pub retiring: Option<PrincipalName>,
    /// 1 to 14, each once.
    pub operations: Vec<GrantOperation>,
    pub constraints: GrantConstraints,
    /// Makes the call repeatable.
    pub name: Option<GrantName>,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct ListGrants {
    pub key: KeyRef,
    pub grant_id: Option<GrantId>,
    pub grantee: Option<PrincipalName>,
    /// 1 to 100 in a page, 50 by default.
    pub page: PageRequest,
}

/// One grant of a key.
#[derive(Debug, Clone)]
pub struct GrantRef {
    pub key: KeyRef,
    pub grant_id: GrantId,
}

impl Kms {
    pub async fn create_grant(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateGrant,
    ) -> Result<GrantId, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    /// The key that `key` resolved to, and its grants.
    pub async fn list_grants(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ListGrants,
    ) -> Result<(KeyId, Page<Grant>), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn revoke_grant(&self, by: &Principal, call: &RequestInfo, command: GrantRef) -> Result<(), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn retire_grant(&self, by: &Principal, call: &RequestInfo, command: GrantRef) -> Result<(), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }
}
