//! CreateAlias, UpdateAlias, DeleteAlias, ListAliases.

use crate::error::KmsError;
use crate::name::{AliasName, KeyRef};
use crate::op::{Page, PageRequest};
use crate::service::Kms;
use envelope::Timestamp;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone)]
pub struct CreateAlias {
    pub alias: AliasName,
    pub target: KeyId,
}

#[derive(Debug, Clone)]
pub struct UpdateAlias {
    pub alias: AliasName,
    pub target: KeyId,
}

#[derive(Debug, Clone)]
pub struct DeleteAlias {
    pub alias: AliasName,
}

#[derive(Debug, Clone, Default)]
pub struct ListAliases {
    /// Only names of this key.
    pub key: Option<KeyRef>,
    /// 1 to 100 in a page, 50 by default.
    pub page: PageRequest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasEntry {
    pub name: AliasName,
    pub target: KeyId,
    pub created: Timestamp,
}

impl Kms {
    pub async fn create_alias(&self, by: &Principal, call: &RequestInfo, command: CreateAlias) -> Result<(), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn update_alias(&self, by: &Principal, call: &RequestInfo, command: UpdateAlias) -> Result<(), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn delete_alias(&self, by: &Principal, call: &RequestInfo, command: DeleteAlias) -> Result<(), KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn list_aliases(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: ListAliases,
    ) -> Result<Page<AliasEntry>, KmsError> {
        let _ = (by, call, command);
        Err(KmsError::Internal("not built yet"))
    }
}
