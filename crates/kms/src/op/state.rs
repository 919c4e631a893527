//! EnableKey and DisableKey.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::key::{KeyRecord, Refusal};
use crate::name::KeyRef;
use crate::op::create_key::ATTEMPTS_MAX;
use crate::service::Kms;
use crate::store::Found;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};
use storage::Write;

impl Kms {
    pub async fn enable_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<(), KmsError> {
        let mut act = Act::new("EnableKey", by, call);
        let ended = self.switch(&mut act, key, Right::ENABLE, KeyRecord::enable).await;
        self.finish(&act, ended).await
    }

    pub async fn disable_key(&self, by: &Principal, call: &RequestInfo, key: &KeyRef) -> Result<(), KmsError> {
        let mut act = Act::new("DisableKey", by, call);
        let ended = self.switch(&mut act, key, Right::DISABLE, KeyRecord::disable).await;
        self.finish(&act, ended).await
    }

    async fn switch(
        &self,
        act: &mut Act<'_>,
        key: &KeyRef,
        right: Right<'_>,
        to: fn(&KeyRecord) -> Result<Option<KeyRecord>, Refusal>,
    ) -> Result<((), Told), KmsError> {
        let id = self.resolve(act, key).await?;
        self.authorise(act, &id, right, None).await?;
        let changed = self.change_key(act, &id, |key| Ok(to(key)?.map(|key| (key, (), Vec::new())))).await?;
        Ok(((), if changed.is_some() { Told::WithItsChange } else { Told::NotYet }))
    }

    /// Changes a key's record, and what `decide` says beside it. It decides anew where another change came in between;
    /// `None`: nothing is to be changed.
    pub(crate) async fn change_key<T: Send>(
        &self,
        act: &Act<'_>,
        id: &KeyId,
        decide: impl Fn(&KeyRecord) -> Result<Option<(KeyRecord, T, Vec<Write>)>, KmsError> + Send,
    ) -> Result<Option<T>, KmsError> {
        let path = self.store().key_path(id)?;
        for _ in 0..ATTEMPTS_MAX {
            let Found { value, revision } = self.store().key_now(id).await?.ok_or(KmsError::KeyNotFound)?;
            let Some((changed, outcome, writes)) = decide(&value)? else { return Ok(None) };
            let mut batch =
                self.batch()?.revision_is(path.clone(), revision).put(path.clone(), self.seal_key(&path, &changed)?);
            batch.writes.extend(writes);
            match self.commit(act, batch).await {
                Ok(_) => return Ok(Some(outcome)),
                Err(KmsError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KmsError::Conflict)
    }
}
