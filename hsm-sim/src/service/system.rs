//! The system's own services: the barrier keyring, audit checkpoints, counters of uses.

use super::generate::bind_cluster;
use super::{Desk, data};
use crate::keys::Material;
use crate::module::{Change, Stop};
use crate::record::{Checkpoint, ORIGINS_MAX};
use bytes::Bytes;
use ed25519_dalek::Signer;
use envelope::SecretBytes;
use envelope::merkle::verify_consistency;
use envelope::sealed::{Kind, SUITE1_OVERHEAD_BYTES, parse_system};
use hsm_api::message::{ITEM_BYTES_MAX, PROOF_HASHES_MAX};
use hsm_api::{CounterPage, HsmError, KeyId, KeyToken, KeyUsage, Reply, checkpoint};

impl Desk<'_> {
    pub(super) fn system_seal(
        &self,
        key: &KeyToken,
        epoch: u32,
        aad_digest: &[u8; 32],
        plaintext: &SecretBytes,
    ) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::SystemSeal])?;
        if !(1..=ITEM_BYTES_MAX).contains(&plaintext.len()) {
            return Err(HsmError::OutOfRange.into());
        }
        let sealed = data::seal(&key, Kind::BarrierValue, epoch, aad_digest, plaintext.expose())?;
        key.count(1);
        Ok(Reply::Blob(sealed))
    }

    /// A cluster that came here with a restored backup is bound when its keyring first opens.
    pub(super) fn system_open(&self, key: &KeyToken, aad_digest: &[u8; 32], sealed: &[u8]) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::SystemSeal])?;
        if sealed.len() > ITEM_BYTES_MAX + SUITE1_OVERHEAD_BYTES {
            return Err(HsmError::OutOfRange.into());
        }
        let sealed = parse_system(sealed).map_err(|_| HsmError::MalformedBlob)?;
        let plaintext = data::open(&key, &sealed, aad_digest)?;
        if !self.module.has_cluster(&key.binding.tenant) {
            bind_cluster(self.module, self.store, key.binding.tenant)?;
        }
        key.count(1);
        Ok(Reply::Secret(plaintext))
    }

    /// Signs what extends the last checkpoint signed for `origin`, and remembers it before the signature leaves.
    pub(super) fn sign_checkpoint(
        &self,
        key: &KeyToken,
        origin: String,
        size: u64,
        root: [u8; 32],
        proof: &[[u8; 32]],
    ) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::Log])?;
        if !checkpoint::is_origin(&origin) || proof.len() > PROOF_HASHES_MAX {
            return Err(HsmError::OutOfRange.into());
        }
        let Material::Ed25519(signer) = &key.material else { return Err(HsmError::UsageForbidden.into()) };
        let body = checkpoint::note_body(&origin, size, &root);
        self.module.commit(self.store, |record| {
            let checkpoints = &mut record.domain.checkpoints;
            let next = Checkpoint { size, root };
            match checkpoints.get(&origin) {
                Some(last) if *last == next => return Ok(Change::None),
                Some(last) if !extends(last, &next, proof) => return Err(HsmError::CheckpointForked),
                None if checkpoints.len() == ORIGINS_MAX => return Err(HsmError::OutOfRange),
                Some(_) | None => {}
            }
            checkpoints.insert(origin, next);
            Ok(Change::Made)
        })?;
        key.count(1);
        Ok(Reply::Signature(Bytes::copy_from_slice(&signer.sign(&body).to_bytes())))
    }

    /// Signs that the entries of a batch are the log's; whoever holds a receipt finds out whether the log kept them.
    pub(super) fn sign_batch(
        &self,
        key: &KeyToken,
        origin: &str,
        first: u64,
        count: u32,
        root: &[u8; 32],
    ) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::Log])?;
        if !checkpoint::is_batch(origin, first, count) {
            return Err(HsmError::OutOfRange.into());
        }
        let Material::Ed25519(signer) = &key.material else { return Err(HsmError::UsageForbidden.into()) };
        let signature = signer.sign(&checkpoint::batch_body(origin, first, count, root)).to_bytes();
        key.count(1);
        Ok(Reply::Signature(Bytes::copy_from_slice(&signature)))
    }

    pub(super) fn counters(&self, after: Option<KeyId>, limit: u16, challenge: &[u8; 32]) -> Result<Reply, Stop> {
        if !(1..=COUNTERS_MAX).contains(&limit) {
            return Err(HsmError::OutOfRange.into());
        }
        let module = self.module;
        let (uses, more) = module.keyring.uses(after, usize::from(limit));
        let mut page = CounterPage { boot_epoch: module.boot_epoch, uses, more, signature: [0; 64] };
        page.signature = module.root.identity().sign(&page.signed_bytes(&module.module_id, challenge)).to_bytes();
        Ok(Reply::Counters(page))
    }
}

/// RFC 6962 §2.1.2; an empty log is extended by every other.
fn extends(last: &Checkpoint, next: &Checkpoint, proof: &[[u8; 32]]) -> bool {
    verify_consistency(last.size, &last.root, next.size, &next.root, proof).is_ok()
}

/// Most counters in a page: it fits a frame.
const COUNTERS_MAX: u16 = 2048;
