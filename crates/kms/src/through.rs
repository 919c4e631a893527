//! Keys that another domain of this server shows under paths of its own.
//!
//! That domain has decided, by the caller's policies on its own path; here its one operation on its one key is carried out in
//! the caller's name, and recorded as ever: subject and request are the caller's, the path is the key's, the rule is the one
//! that allowed the other path.
//!
//! Always: one handle, one operation, one key. Never: a right that the caller's policies on `kms/…` would add.

use crate::KeyRef;
use crate::act::Right;
use crate::error::KmsError;
use crate::key::KeyRecord;
use crate::op::create_key::CreateKey;
use crate::op::decrypt::{Decrypt, Decrypted};
use crate::op::deletion::{DeletionScheduled, ScheduleKeyDeletion};
use crate::op::describe_key::KeyMetadata;
use crate::op::encrypt::{Encrypt, Encrypted};
use crate::op::generate_data_key::{
    DataKeyWithoutPlaintext, GenerateDataKey, GenerateDataKeyWithoutPlaintext, GeneratedDataKey,
};
use crate::op::mac::{GenerateMac, GeneratedMac, MacVerified, VerifyMac};
use crate::op::re_encrypt::{ReEncrypt, ReEncrypted};
use crate::op::rotate::KeyRotated;
use crate::op::sign::{Sign, Signed, Verified, Verify};
use crate::op::version::AtVersion;
use crate::service::Kms;
use audit::Decision;
use envelope::SecretBytes;
use hsm_api::KeyId;
use identity::{Capability, Principal, RequestInfo};
use std::sync::Arc;

/// All that a handle may do.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) rule: Arc<str>,
    on: On,
}

#[derive(Debug, Clone)]
enum On {
    Path(&'static str, Capability),
    Key(KeyId, &'static [Right<'static>]),
}

impl Errand {
    pub(crate) fn covers(&self, id: &KeyId, right: Right<'_>) -> Decision {
        match &self.on {
            On::Key(key, rights) if key == id && rights.contains(&right) => Decision::Allowed,
            On::Key(..) | On::Path(..) => Decision::Denied,
        }
    }

    pub(crate) fn covers_path(&self, path: &str, capability: Capability) -> Decision {
        match &self.on {
            On::Path(this, can) if *this == path && *can == capability => Decision::Allowed,
            On::Key(..) | On::Path(..) => Decision::Denied,
        }
    }
}

/// Keys, for a domain that has decided on the request already: what it asks for is not decided on again.
///
/// A command's own key must be the one that is named beside it.
#[derive(Debug)]
pub struct Through<'a> {
    kms: &'a Kms,
    by: &'a Principal,
    call: &'a RequestInfo,
    rule: Arc<str>,
}

impl Kms {
    /// For a domain that has decided already: `rule` is what allowed `by` its path there.
    pub fn through<'a>(&'a self, by: &'a Principal, call: &'a RequestInfo, rule: &str) -> Through<'a> {
        Through { kms: self, by, call, rule: rule.into() }
    }

    /// All that is known of a key, perhaps from memory, for a domain that has decided already and records what it tells. A
    /// deleted key is known as such.
    pub async fn known(&self, id: &KeyId) -> Result<Arc<KeyRecord>, KmsError> {
        self.store().key(id).await?.ok_or(KmsError::KeyNotFound)
    }
}

impl Through<'_> {
    pub async fn create_key(&self, command: CreateKey) -> Result<KeyMetadata, KmsError> {
        self.for_path("kms/keys", Capability::Create).create_key(self.by, self.call, command).await
    }

    pub async fn generate_random(&self, number_of_bytes: u32) -> Result<SecretBytes, KmsError> {
        self.for_path("kms/random", Capability::Update).generate_random(self.by, self.call, number_of_bytes).await
    }

    pub async fn encrypt(&self, key: KeyId, command: AtVersion<Encrypt>) -> Result<Encrypted, KmsError> {
        self.for_key(key, &[Right::ENCRYPT]).use_key(self.by, self.call, command).await
    }

    pub async fn batch_encrypt(
        &self,
        key: KeyId,
        items: Vec<Result<AtVersion<Encrypt>, KmsError>>,
    ) -> Result<Vec<Result<Encrypted, KmsError>>, KmsError> {
        self.for_key(key, &[Right::ENCRYPT]).use_keys("BatchEncrypt", (self.by, self.call), items).await
    }

    pub async fn decrypt(&self, key: KeyId, command: Decrypt) -> Result<Decrypted, KmsError> {
        self.for_key(key, &[Right::DECRYPT]).decrypt(self.by, self.call, command).await
    }

    pub async fn batch_decrypt(
        &self,
        key: KeyId,
        items: Vec<Result<Decrypt, KmsError>>,
    ) -> Result<Vec<Result<Decrypted, KmsError>>, KmsError> {
        self.for_key(key, &[Right::DECRYPT]).batch_decrypt(self.by, self.call, items).await
    }

    pub async fn generate_data_key(&self, key: KeyId, command: GenerateDataKey) -> Result<GeneratedDataKey, KmsError> {
        self.for_key(key, &[Right::GENERATE_DATA_KEY]).generate_data_key(self.by, self.call, command).await
    }

    pub async fn generate_data_key_without_plaintext(
        &self,
        key: KeyId,
        command: GenerateDataKeyWithoutPlaintext,
    ) -> Result<DataKeyWithoutPlaintext, KmsError> {
        let kms = self.for_key(key, &[Right::GENERATE_DATA_KEY_WITHOUT_PLAINTEXT]);
        kms.generate_data_key_without_plaintext(self.by, self.call, command).await
    }

    /// Under the same key's current version.
    pub async fn re_encrypt(&self, key: KeyId, command: ReEncrypt) -> Result<ReEncrypted, KmsError> {
        self.for_key(key, &[Right::RE_ENCRYPT_FROM, Right::RE_ENCRYPT_TO]).re_encrypt(self.by, self.call, command).await
    }

    pub async fn sign(&self, key: KeyId, command: AtVersion<Sign>) -> Result<Signed, KmsError> {
        self.for_key(key, &[Right::SIGN]).sign_at(self.by, self.call, command).await
    }

    pub async fn verify(&self, key: KeyId, command: AtVersion<Verify>) -> Result<Verified, KmsError> {
        self.for_key(key, &[Right::VERIFY]).verify_at(self.by, self.call, command).await
    }

    pub async fn generate_mac(&self, key: KeyId, command: AtVersion<GenerateMac>) -> Result<GeneratedMac, KmsError> {
        self.for_key(key, &[Right::GENERATE_MAC]).generate_mac_at(self.by, self.call, command).await
    }

    pub async fn verify_mac(&self, key: KeyId, command: AtVersion<VerifyMac>) -> Result<MacVerified, KmsError> {
        self.for_key(key, &[Right::VERIFY_MAC]).verify_mac_at(self.by, self.call, command).await
    }

    /// Of any usage: results of signing and authentication are kept together with their versions by whoever asks.
    pub async fn rotate(&self, key: KeyId) -> Result<KeyRotated, KmsError> {
        let kms = self.for_key(key, &[Right::ROTATE]);
        kms.rotate_where(self.by, self.call, &KeyRef::Id(key), KeyRecord::next_version_of_any).await
    }

    /// Erases all versions before `number`, for good.
    pub async fn erase_versions(&self, key: KeyId, number: u32) -> Result<(), KmsError> {
        self.for_key(key, &[Right::ERASE_VERSIONS]).erase_versions(self.by, self.call, &key, number).await
    }

    pub async fn schedule_deletion(
        &self,
        key: KeyId,
        pending_window_in_days: u32,
    ) -> Result<DeletionScheduled, KmsError> {
        let command = ScheduleKeyDeletion { key: KeyRef::Id(key), pending_window_in_days };
        self.for_key(key, &[Right::SCHEDULE_DELETION]).schedule_key_deletion(self.by, self.call, command).await
    }

    fn for_key(&self, key: KeyId, rights: &'static [Right<'static>]) -> Kms {
        self.handle(On::Key(key, rights))
    }

    fn for_path(&self, path: &'static str, capability: Capability) -> Kms {
        self.handle(On::Path(path, capability))
    }

    fn handle(&self, on: On) -> Kms {
        Kms { inner: Arc::clone(&self.kms.inner), errand: Some(Errand { rule: Arc::clone(&self.rule), on }) }
    }
}
