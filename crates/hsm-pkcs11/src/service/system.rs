//! The system's own services: the barrier keyring, audit checkpoints, counters of uses.

use super::{Desk, data};
use crate::domain::{Checkpoint, ORIGINS_MAX};
use crate::error::Fault;
use crate::module::Change;
use crate::sign;
use cryptoki::mechanism::Mechanism;
use envelope::SecretBytes;
use envelope::mac::sha256;
use envelope::merkle::verify_consistency;
use envelope::sealed::{Kind, SUITE1_OVERHEAD_BYTES, parse_system};
use hsm_api::message::{ITEM_BYTES_MAX, PROOF_HASHES_MAX};
use hsm_api::{CounterPage, HsmError, KeyId, KeySpec, KeyToken, KeyUsage, Reply, SigningAlgorithm, checkpoint};

impl Desk<'_> {
    pub(super) fn system_seal(
        &self,
        key: &KeyToken,
        epoch: u32,
        aad_digest: &[u8; 32],
        plaintext: &SecretBytes,
    ) -> Result<Reply, HsmError> {
        let (key, sealed) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::SystemSeal])?;
            if !(1..=ITEM_BYTES_MAX).contains(&plaintext.len()) {
                return Err(HsmError::OutOfRange.into());
            }
            let mut sealer = self.sealer(link, &key, 1)?;
            let sealed = sealer.seal(link, Kind::BarrierValue, epoch, aad_digest, plaintext.expose())?;
            Ok((key, sealed))
        })?;
        key.count(1);
        Ok(Reply::Blob(sealed))
    }

    /// A cluster that came here with a restored token is bound when its keyring first opens.
    pub(super) fn system_open(&self, key: &KeyToken, aad_digest: &[u8; 32], sealed: &[u8]) -> Result<Reply, HsmError> {
        let (key, plaintext) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::SystemSeal])?;
            if sealed.len() > ITEM_BYTES_MAX + SUITE1_OVERHEAD_BYTES {
                return Err(HsmError::OutOfRange.into());
            }
            let sealed = parse_system(sealed).map_err(|_| HsmError::MalformedBlob)?;
            let plaintext = data::open(link, &key, &sealed, aad_digest)?;
            Ok((key, plaintext))
        })?;
        if !self.module.has_cluster(&key.binding.tenant) {
            self.bind_cluster(key.binding.tenant)?;
        }
        key.count(1);
        Ok(Reply::Secret(plaintext))
    }

    /// Signs what extends the last checkpoint signed for `origin`, and remembers it before the signature leaves.
    pub(super) fn sign_checkpoint(
        &self,
        token: &KeyToken,
        origin: &str,
        size: u64,
        root: [u8; 32],
        proof: &[[u8; 32]],
    ) -> Result<Reply, HsmError> {
        let key = self.device.run(|link| self.key(link, token, &[KeyUsage::Log]))?;
        if !checkpoint::is_origin(origin) || proof.len() > PROOF_HASHES_MAX {
            return Err(HsmError::OutOfRange);
        }
        let body = checkpoint::note_body(origin, size, &root);
        self.module.commit(self.device, |memory| {
            let checkpoints = &mut memory.checkpoints;
            let next = Checkpoint { size, root };
            match checkpoints.get(origin) {
                Some(last) if *last == next => return Ok(Change::None),
                Some(last) if !extends(last, &next, proof) => return Err(HsmError::CheckpointForked),
                None if checkpoints.len() == ORIGINS_MAX => return Err(HsmError::OutOfRange),
                Some(_) | None => {}
            }
            checkpoints.insert(origin.to_owned(), next);
            Ok(Change::Made)
        })?;
        let signature = self.device.run(|link| {
            let handle = key.resident.locate(link)?.handle;
            sign::sign(link, SigningAlgorithm::Ed25519Sha512, handle, &body)
        })?;
        key.count(1);
        Ok(Reply::Signature(signature))
    }

    /// Signs that the entries of a batch are the log's; whoever holds a receipt finds out whether the log kept them.
    pub(super) fn sign_batch(
        &self,
        token: &KeyToken,
        origin: &str,
        first: u64,
        count: u32,
        root: &[u8; 32],
    ) -> Result<Reply, HsmError> {
        let (key, signature) = self.device.run(|link| {
            let key = self.key(link, token, &[KeyUsage::Log])?;
            if !checkpoint::is_batch(origin, first, count) {
                return Err(HsmError::OutOfRange.into());
            }
            let handle = key.resident.locate(link)?.handle;
            let body = checkpoint::batch_body(origin, first, count, root);
            let signature = sign::sign(link, SigningAlgorithm::Ed25519Sha512, handle, &body)?;
            Ok((key, signature))
        })?;
        key.count(1);
        Ok(Reply::Signature(signature))
    }

    pub(super) fn counters(&self, after: Option<KeyId>, limit: u16, challenge: &[u8; 32]) -> Result<Reply, HsmError> {
        if !(1..=COUNTERS_MAX).contains(&limit) {
            return Err(HsmError::OutOfRange);
        }
        let module = self.module;
        let (uses, more) = module.keyring.uses(after, usize::from(limit));
        let mut page = CounterPage { boot_epoch: module.boot_epoch, uses, more, signature: [0; 64] };
        let signed = page.signed_bytes(&module.module_id, challenge);
        page.signature = self.device.run(|link| {
            let handle = module.identity.locate(link)?.handle;
            let (mechanism, input) = match module.identity.spec {
                KeySpec::EccNistP256 => (Mechanism::Ecdsa, sha256(&signed).to_vec()),
                KeySpec::EccNistEdwards25519
                | KeySpec::Aes256
                | KeySpec::Hmac256
                | KeySpec::Rsa2048
                | KeySpec::Rsa3072
                | KeySpec::Rsa4096 => (crate::resident::eddsa(), signed.clone()),
            };
            link.sign(&mechanism, handle, &input)?.try_into().map_err(|_| Fault::Dead)
        })?;
        Ok(Reply::Counters(page))
    }
}

/// RFC 6962 §2.1.2; an empty log is extended by every other.
fn extends(last: &Checkpoint, next: &Checkpoint, proof: &[[u8; 32]]) -> bool {
    verify_consistency(last.size, &last.root, next.size, &next.root, proof).is_ok()
}

/// Most counters in a page: it fits a frame.
const COUNTERS_MAX: u16 = 2048;
