//! GenerateRandom.

use crate::RANDOM_BYTES_MAX;
use crate::act::Act;
use crate::error::KmsError;
use crate::service::Kms;
use envelope::SecretBytes;
use hsm_api::{HsmError, Reply, Request};
use identity::{Capability, Principal, RequestInfo};

impl Kms {
    /// 1 to 1024 bytes.
    pub async fn generate_random(
        &self,
        by: &Principal,
        call: &RequestInfo,
        number_of_bytes: u32,
    ) -> Result<SecretBytes, KmsError> {
        let mut act = Act::new("GenerateRandom", by, call);
        let bytes = match self.admit_random(&mut act, number_of_bytes) {
            Ok(bytes) => bytes,
            Err(error) => return self.refuse(&act, error).await,
        };
        let take = |reply| {
            let secret = if let Reply::Secret(secret) = reply { Some(secret) } else { None };
            secret.filter(|secret| secret.len() == usize::from(bytes)).ok_or(HsmError::Protocol)
        };
        self.ask(&act, Request::Random { bytes }, take).await
    }

    fn admit_random(&self, act: &mut Act<'_>, number_of_bytes: u32) -> Result<u16, KmsError> {
        let bytes = u16::try_from(number_of_bytes).ok().filter(|_| (1..=RANDOM_BYTES_MAX).contains(&number_of_bytes));
        let bytes = bytes.ok_or(KmsError::InvalidField("number_of_bytes"))?;
        self.authorise_path(act, "kms/random", Capability::Update)?;
        Ok(bytes)
    }
}
