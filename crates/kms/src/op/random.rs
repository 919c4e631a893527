//! GenerateRandom.

use crate::error::KmsError;
use crate::service::Kms;
use envelope::SecretBytes;
use identity::{Principal, RequestInfo};

impl Kms {
    /// 1 to 1024 bytes.
    pub async fn generate_random(
        &self,
        by: &Principal,
        call: &RequestInfo,
        number_of_bytes: u32,
    ) -> Result<SecretBytes, KmsError> {
        let _ = (by, call, number_of_bytes);
        Err(KmsError::Internal("not built yet"))
    }
}
