//! Requests to replies, in the operational state; role and state have been checked.
//!
//! Always: what the token binds decides (usage, not-after, id, version, domain), and the limits of
//! `hsm_api::message` hold. Never: one item's refusal that costs another item its result.

pub(crate) mod admin;
pub(crate) mod data;
pub(crate) mod generate;
mod sign;
mod system;

use crate::keys::OpenKey;
use crate::keystore::KeyStore;
use crate::module::{Now, Operational, Stop};
use crate::random;
use envelope::SecretBytes;
use hsm_api::message::{BATCH_ITEMS_MAX, RANDOM_BYTES_MAX};
use hsm_api::{HsmError, KeyToken, KeyUsage, Reply, Request};
use std::sync::Arc;

/// One request's view of the operational module.
pub(crate) struct Desk<'a> {
    pub(crate) module: &'a Operational,
    pub(crate) store: &'a KeyStore,
    pub(crate) now: &'a Now,
}

impl Desk<'_> {
    pub(crate) fn serve(&self, request: Request) -> Result<Reply, Stop> {
        match request {
            Request::GenerateDataKeys { key, asks } => self.generate_data_keys(&key, &asks),
            Request::Encrypt { key, asks } => self.encrypt(&key, &asks),
            Request::Decrypt { key, asks } => self.decrypt(&key, &asks),
            Request::ReEncrypt { from, to, from_aad_digest, to_aad_digest, blob } => {
                self.re_encrypt((&from, &from_aad_digest), (&to, &to_aad_digest), &blob)
            }
            Request::Sign { key, algorithm, message } => self.sign(&key, algorithm, &message),
            Request::PublicKey { key } => self.public_key(&key),
            Request::Mac { key, message } => self.mac(&key, &message),
            Request::Random { bytes } => random_bytes(bytes),
            Request::SystemSeal { key, epoch, aad_digest, plaintext } => {
                self.system_seal(&key, epoch, &aad_digest, &plaintext)
            }
            Request::SystemOpen { key, aad_digest, sealed } => self.system_open(&key, &aad_digest, &sealed),
            Request::SignBatch { key, origin, first, count, root } => {
                self.sign_batch(&key, &origin, first, count, &root)
            }
            Request::SignCheckpoint { key, origin, size, root, proof } => {
                self.sign_checkpoint(&key, origin, size, root, &proof)
            }
            Request::Counters { after, limit, challenge } => self.counters(after, limit, &challenge),
            Request::Rewrap { key } => self.rewrap(&key),
            Request::Backup { threshold, shares } => self.backup(threshold, shares),
            // the module carries these out itself
            Request::Status
            | Request::GenerateKey(_)
            | Request::Initialise { .. }
            | Request::Enrol { .. }
            | Request::Restore { .. }
            | Request::RotateDomain
            | Request::Zeroise => Err(HsmError::Unsupported.into()),
        }
    }

    /// The token's key for a service that `usages` cover, unless it has expired.
    fn key(&self, token: &KeyToken, usages: &[KeyUsage]) -> Result<Arc<OpenKey>, HsmError> {
        let key = self.module.keyring.open(&self.module.root, &self.module.domain_id, token, usages)?;
        match key.binding.not_after {
            Some(not_after) if (self.now)() >= not_after => Err(HsmError::KeyExpired),
            Some(_) | None => Ok(key),
        }
    }
}

/// A batch has 1 to [`BATCH_ITEMS_MAX`] items.
fn batch<T>(asks: &[T]) -> Result<&[T], HsmError> {
    if (1..=BATCH_ITEMS_MAX).contains(&asks.len()) { Ok(asks) } else { Err(HsmError::OutOfRange) }
}

fn random_bytes(bytes: u16) -> Result<Reply, Stop> {
    let len = usize::from(bytes);
    if !(1..=RANDOM_BYTES_MAX).contains(&len) {
        return Err(HsmError::OutOfRange.into());
    }
    let mut outcome = Ok(());
    let secret = SecretBytes::init_with(len, |bytes| outcome = random::fill(bytes));
    outcome?;
    Ok(Reply::Secret(secret))
}
