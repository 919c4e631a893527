//! EnableKey and DisableKey.

use crate::error::KmsError;
use crate::name::KeyRef;
use crate::service::Kms;
use identity::{Principal, RequestInfo};

impl Kms {
    pub async fn enable_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<(), KmsError> {
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }

    pub async fn disable_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<(), KmsError> {
        let _ = (by, call, key);
        Err(KmsError::Internal("not built yet"))
    }
}
