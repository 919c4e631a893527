//! CreateKey, repeatable by (principal, client request id) for 24 hours.

use crate::act::{Act, Told};
use crate::error::KmsError;
use crate::key::{KeyRecord, KeyState, KeyVersion, Material};
use crate::name::{ClientRequestId, Description};
use crate::op::describe_key::KeyMetadata;
use crate::service::Kms;
use crate::store::codec::{self, RequestRecord};
use audit::Outcome;
use bytes::Bytes;
use envelope::{Timestamp, sealed};
use hsm_api::{HsmError, KeyId, KeySpec, KeyUsage, NewKey, Origin, ProtectionLevel, Reply, Request, ask};
use identity::{Capability, Principal, RequestInfo};
use std::time::Duration;
use storage::{Batch, EntryPath};

#[derive(Debug, Clone)]
pub struct CreateKey {
    pub spec: KeySpec,
    /// `None`: the spec's own.
    pub usage: Option<KeyUsage>,
    /// `None`: the first level that the boundary offers.
    pub level: Option<ProtectionLevel>,
    pub description: Description,
    pub client_request_id: Option<ClientRequestId>,
}

impl Kms {
    pub async fn create_key(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: CreateKey,
    ) -> Result<KeyMetadata, KmsError> {
        let mut act = Act::new("CreateKey", by, call);
        let ended = self.create(&mut act, &command).await;
        self.finish(&act, ended).await
    }

    async fn create(&self, act: &mut Act<'_>, command: &CreateKey) -> Result<(KeyMetadata, Told), KmsError> {
        self.authorise_path(act, "kms/keys", Capability::Create)?;
        let usage = command.usage.unwrap_or(command.spec.usage());
        if usage != command.spec.usage() {
            return Err(KmsError::InvalidField("key_usage"));
        }
        let request = command.digest();
        let slot = match &command.client_request_id {
            Some(id) => Some(self.store().request_path(act.by.id(), id)?),
            None => None,
        };
        let mut made = None;
        for _ in 0..ATTEMPTS_MAX {
            let known = match &slot {
                Some(path) => self.store().request_now(path).await?,
                None => None,
            };
            if let Some(known) = known.as_ref().filter(|known| is_kept(known.value.created, act.call.now)) {
                return self.repeated(act, &known.value, &request).await;
            }
            let key = match made.take() {
                Some(key) => key,
                None => self.make(act, command, usage).await?,
            };
            let mut batch = self.with_new_key(self.batch()?, &key)?;
            if let Some(path) = &slot {
                let record = RequestRecord { request, key_id: key.id, created: act.call.now };
                batch = match known {
                    Some(known) => batch.revision_is(path.clone(), known.revision),
                    None => batch.absent(path.clone()),
                };
                batch = batch.put(path.clone(), self.seal(path, &codec::encode_request(&record))?);
            }
            act.items.clear();
            act.with_key(&key.id, Outcome::Done);
            match self.commit(act, batch).await {
                Ok(told) => return Ok((KeyMetadata::of(&key), told)),
                // the same request came in twice at once: the other one made the key
                Err(KmsError::Conflict) => made = Some(key),
                Err(error) => return Err(error),
            }
        }
        Err(KmsError::Conflict)
    }

    /// The answer that the first call got, the key as it is now.
    async fn repeated(
        &self,
        act: &mut Act<'_>,
        known: &RequestRecord,
        request: &[u8; 32],
    ) -> Result<(KeyMetadata, Told), KmsError> {
        if known.request != *request {
            return Err(KmsError::RequestIdReused);
        }
        act.items.clear();
        act.with_key(&known.key_id, Outcome::Done);
        let key = self.store().key(&known.key_id).await?;
        let key = key.ok_or_else(|| KmsError::DataAltered("the key of a client request id is gone".to_owned()))?;
        Ok((KeyMetadata::of(&key), Told::NotYet))
    }

    async fn make(&self, act: &Act<'_>, command: &CreateKey, usage: KeyUsage) -> Result<KeyRecord, KmsError> {
        let now = act.call.now;
        let status = self.status().await?;
        let offered = &status.capabilities;
        let level = command.level.or(offered.levels.first().copied());
        let level = level.filter(|level| offered.levels.contains(level)).ok_or(KmsError::ProtectionLevelUnavailable)?;
        if !offered.specs.contains(&command.spec) {
            return Err(KmsError::UnsupportedByBoundary);
        }
        let new = NewKey {
            key_id: None,
            version: 1,
            tenant: self.tenant(),
            spec: command.spec,
            usage,
            level,
            not_after: None,
        };
        let (id, material) = self.generate(act.record(Outcome::Asked).encode(), new).await?;
        Ok(KeyRecord {
            id,
            spec: command.spec,
            usage,
            level,
            origin: Origin::Generated,
            description: command.description.clone(),
            created: now,
            state: KeyState::Enabled,
            versions: vec![KeyVersion {
                number: 1,
                created: now,
                generation: self.generation(),
                material: Some(material),
            }],
        })
    }

    fn with_new_key(&self, batch: Batch, key: &KeyRecord) -> Result<Batch, KmsError> {
        let path = self.store().key_path(&key.id)?;
        let value = self.seal_key(&path, key)?;
        Ok(batch.absent(path.clone()).put(path, value))
    }

    pub(crate) fn seal_key(&self, path: &EntryPath, key: &KeyRecord) -> Result<Bytes, KmsError> {
        self.seal(path, &codec::encode_key(key).ok_or(KmsError::Internal("a key's record fits its lengths"))?)
    }

    /// Has the boundary make a key version, and checks that its token is the one asked for. That it was asked, in the record
    /// `asked`, is in the log before it is: what the boundary makes may stay in a token, whatever becomes of the caller.
    pub(crate) async fn generate(&self, asked: Bytes, new: NewKey) -> Result<(KeyId, Material), KmsError> {
        self.inner.seams.audit.append(asked).await?;
        let (expected, version) = (new.key_id, new.version);
        let boundary = &self.inner.seams.boundary;
        let made = ask!(boundary, Request::GenerateKey(new) => Reply::Key).await;
        let made = made.and_then(|made| {
            let header = sealed::parse_token(made.token.bytes()).map_err(|_| HsmError::Protocol)?.header;
            let sound = header.key_id == *made.key_id.bytes()
                && header.key_version == version
                && expected.is_none_or(|expected| expected == made.key_id)
                && *made.token.tenant() == self.tenant();
            if sound { Ok(made) } else { Err(HsmError::Protocol) }
        });
        let made = made.map_err(|error| self.boundary_error(error))?;
        Ok((made.key_id, Material { token: made.token, public_key: made.public_key }))
    }
}

impl CreateKey {
    /// What makes a repeated request the same: all of it but the id under which it is repeated.
    fn digest(&self) -> [u8; 32] {
        let (usage, level) = (self.usage.map_or(0, KeyUsage::code), self.level.map_or(0, ProtectionLevel::code));
        envelope::mac::sha256(&[&[self.spec.code(), usage, level][..], self.description.as_str().as_bytes()].concat())
    }
}

/// Whether a client request id still counts.
pub(crate) fn is_kept(created: Timestamp, now: Timestamp) -> bool {
    now < created.plus(REQUESTS_KEPT_FOR)
}

const REQUESTS_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a change is tried again where others changed the same thing.
pub(crate) const ATTEMPTS_MAX: usize = 4;
