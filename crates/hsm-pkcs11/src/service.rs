//! Requests to replies, in the operational state; role and state have been checked.
//!
//! Always: a batch is one job on one session; what the reference binds decides (usage, not-after, id, version, domain).
//! Never: one item's refusal that costs another item its result; a use that is counted and gave nothing.

mod data;
mod generate;
mod sign;
mod system;

use crate::device::{Device, Link};
use crate::error::Fault;
use crate::keys::OpenKey;
use crate::module::{Now, Operational};
use crate::probe::Proven;
use envelope::SecretBytes;
use hsm_api::message::{BATCH_ITEMS_MAX, RANDOM_BYTES_MAX};
use hsm_api::{HsmError, KeyToken, KeyUsage, Reply, Request};
use std::sync::Arc;

/// One request's view of the operational module.
pub(crate) struct Desk<'a> {
    pub(crate) module: &'a Operational,
    pub(crate) device: &'a Device,
    pub(crate) proven: &'a Proven,
    pub(crate) now: &'a Now,
}

impl Desk<'_> {
    pub(crate) fn serve(&self, request: Request) -> Result<Reply, HsmError> {
        match request {
            Request::GenerateKey(new) => self.generate_key(&new),
            Request::GenerateDataKeys { key, asks } => self.generate_data_keys(&key, &asks),
            Request::Encrypt { key, asks } => self.encrypt(&key, &asks),
            Request::Decrypt { key, asks } => self.decrypt(&key, &asks),
            Request::ReEncrypt { from, to, from_aad_digest, to_aad_digest, blob } => {
                self.re_encrypt((&from, &from_aad_digest), (&to, &to_aad_digest), &blob)
            }
            Request::Sign { key, algorithm, message } => self.sign(&key, algorithm, &message),
            Request::PublicKey { key } => self.public_key(&key),
            Request::Mac { key, message } => self.mac(&key, &message),
            Request::Random { bytes } => self.random(bytes),
            Request::SystemSeal { key, epoch, aad_digest, plaintext } => {
                self.system_seal(&key, epoch, &aad_digest, &plaintext)
            }
            Request::SystemOpen { key, aad_digest, sealed } => self.system_open(&key, &aad_digest, &sealed),
            Request::SignBatch { key, origin, first, count, root } => {
                self.sign_batch(&key, &origin, first, count, &root)
            }
            Request::SignCheckpoint { key, origin, size, root, proof } => {
                self.sign_checkpoint(&key, &origin, size, root, &proof)
            }
            Request::Counters { after, limit, challenge } => self.counters(after, limit, &challenge),
            // the module carries these out itself, or not at all
            Request::Status
            | Request::Rewrap { .. }
            | Request::Initialise { .. }
            | Request::Enrol { .. }
            | Request::Backup { .. }
            | Request::Restore { .. }
            | Request::RotateDomain
            | Request::Zeroise => Err(HsmError::Unsupported),
        }
    }

    /// The token's key for a service that `usages` cover, unless it has expired.
    fn key(&self, link: &mut Link<'_>, token: &KeyToken, usages: &[KeyUsage]) -> Result<Arc<OpenKey>, Fault> {
        let key = self.module.keyring.open(link, &self.module.domain, token, usages)?;
        match key.binding.not_after {
            Some(not_after) if (self.now)() >= not_after => Err(HsmError::KeyExpired.into()),
            Some(_) | None => Ok(key),
        }
    }

    fn random(&self, bytes: u16) -> Result<Reply, HsmError> {
        let len = usize::from(bytes);
        if !(1..=RANDOM_BYTES_MAX).contains(&len) {
            return Err(HsmError::OutOfRange);
        }
        let bytes = self.device.run(|link| link.random(len))?;
        Ok(Reply::Secret(SecretBytes::copy_from(&bytes)))
    }
}

/// A batch has 1 to [`BATCH_ITEMS_MAX`] items.
fn batch<T>(asks: &[T]) -> Result<&[T], HsmError> {
    if (1..=BATCH_ITEMS_MAX).contains(&asks.len()) { Ok(asks) } else { Err(HsmError::OutOfRange) }
}
