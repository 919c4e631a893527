//! RotateKeyOnDemand.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::name::KeyRef;
use crate::op::create_key::ATTEMPTS_MAX;
use crate::service::Kms;
use crate::store::Found;
use hsm_api::{KeyId, NewKey};
use identity::{Principal, RequestInfo};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRotated {
    pub key_id: KeyId,
    /// The new version.
    pub key_version: u32,
}

impl Kms {
    pub async fn rotate_key_on_demand(
        &self,
        by: &Principal,
        call: &RequestInfo,
        key: &KeyRef,
    ) -> Result<KeyRotated, KmsError> {
        let mut act = Act::new("RotateKeyOnDemand", by, call);
        let ended = self.rotate(&mut act, key).await;
        self.finish(&act, ended).await
    }

    async fn rotate(&self, act: &mut Act<'_>, key: &KeyRef) -> Result<(KeyRotated, Told), KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, Right::ROTATE, None).await?;
        let path = self.store().key_path(&id)?;
        for _ in 0..ATTEMPTS_MAX {
            let Found { value: key, revision } = self.store().key_now(&id).await?.ok_or(KmsError::KeyNotFound)?;
            let version = key.next_version()?;
            let new = NewKey {
                key_id: Some(id),
                version,
                tenant: self.tenant(),
                spec: key.spec,
                usage: key.usage,
                level: key.level,
                not_after: None,
            };
            let (_, material) = self.generate(act, new).await?;
            let rotated = key.rotated(material, version, act.call.now);
            let value = self.seal_key(&path, &rotated)?;
            let batch = self.batch()?.revision_is(path.clone(), revision).put(path.clone(), value);
            match self.commit(act, batch).await {
                Ok(told) => return Ok((KeyRotated { key_id: id, key_version: version }, told)),
                // another rotation took the number; the version just made is known to nobody
                Err(KmsError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KmsError::Conflict)
    }
}
