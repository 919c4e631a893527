//! Erasing of old versions: what was made under them is lost, and the rest of the key goes on.

use crate::act::{Act, Right, Told};
use crate::error::KmsError;
use crate::service::Kms;
use hsm_api::KeyId;
use identity::{Principal, RequestInfo};

impl Kms {
    /// Erases the tokens of all versions before `number`. As with a deleted key, what stays behind in backups of the store is
    /// of use until these are gone.
    pub(crate) async fn erase_versions(
        &self,
        by: &Principal,
        call: &RequestInfo,
        id: &KeyId,
        number: u32,
    ) -> Result<(), KmsError> {
        let mut act = Act::new("EraseKeyVersions", by, call);
        let ended = self.erase(&mut act, id, number).await;
        self.finish(&act, ended).await
    }

    async fn erase(&self, act: &mut Act<'_>, id: &KeyId, number: u32) -> Result<((), Told), KmsError> {
        self.authorise(act, id, Right::ERASE_VERSIONS, None).await?;
        let erased = self.change_key(act, id, |key| {
            key.usable_for(key.usage)?;
            Ok(key.erased_before(number)?.map(|key| (key, (), Vec::new())))
        });
        Ok(((), if erased.await?.is_some() { Told::WithItsChange } else { Told::NotYet }))
    }
}
