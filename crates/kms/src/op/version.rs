//! Commands that name the version they are for: of a key whose results tell their version outside of themselves, or that is
//! not to use its newest one yet.

use crate::act::Act;
use crate::error::KmsError;
use crate::key_use::{Admitted, Cost, KeyUse};
use crate::op::encrypt::Encrypt;
use crate::service::Kms;
use bytes::Bytes;
use hsm_api::{HsmError, KeyId, KeyToken, Reply, Request, SealAsk};

/// `None`: the current one.
#[derive(Debug, Clone)]
pub struct AtVersion<C> {
    pub command: C,
    pub version: Option<u32>,
}

impl KeyUse for AtVersion<Encrypt> {
    type Ask = SealAsk;
    type Got = Bytes;
    type Out = <Encrypt as KeyUse>::Out;
    const OPERATION: &'static str = Encrypt::OPERATION;

    async fn admit(self, kms: &Kms, act: &mut Act<'_>) -> Result<Admitted<SealAsk>, KmsError> {
        let admitted = self.command.admit(kms, act).await?;
        let Some(version) = self.version else { return Ok(admitted) };
        if admitted.key.version(version).is_none() || !admitted.key.may_seal(version, kms.generation()) {
            return Err(no_version(Some(version)));
        }
        Ok(Admitted { version, ..admitted })
    }

    fn cost(ask: &SealAsk) -> Cost {
        Encrypt::cost(ask)
    }

    fn request(key: KeyToken, asks: Vec<SealAsk>) -> Request {
        Encrypt::request(key, asks)
    }

    fn replies(reply: Reply) -> Option<Vec<Result<Bytes, HsmError>>> {
        Encrypt::replies(reply)
    }

    fn out(key_id: KeyId, key_version: u32, got: Bytes) -> Result<Self::Out, HsmError> {
        Encrypt::out(key_id, key_version, got)
    }
}

/// Not there, or erased.
pub(crate) fn no_version(asked: Option<u32>) -> KmsError {
    match asked {
        Some(_) => KmsError::InvalidField("key_version"),
        None => KmsError::Internal("a usable key has a current version"),
    }
}
