//! Data keys, encrypt, decrypt, re-encrypt.

use super::{Desk, batch};
use crate::keys::{Material, OpenKey};
use crate::module::Stop;
use crate::random;
use bytes::Bytes;
use envelope::sealed::{Header, Kind, SUITE1_OVERHEAD_BYTES, Suite, parse_blob};
use envelope::suite1::{self, SealingKey};
use envelope::{Sealed, SecretBytes};
use hsm_api::message::{DATA_KEY_BYTES_MAX, ITEM_BYTES_MAX};
use hsm_api::{DataKey, DataKeyAsk, HsmError, KeyToken, KeyUsage, OpenAsk, Reply, SealAsk};

impl Desk<'_> {
    pub(super) fn generate_data_keys(&self, key: &KeyToken, asks: &[DataKeyAsk]) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::EncryptDecrypt])?;
        let mut keys = Vec::with_capacity(batch(asks)?.len());
        let mut made = 0;
        for ask in asks {
            let len = usize::from(ask.bytes);
            if !(1..=DATA_KEY_BYTES_MAX).contains(&len) {
                keys.push(Err(HsmError::OutOfRange));
                continue;
            }
            let mut outcome = Ok(());
            let plaintext = SecretBytes::init_with(len, |bytes| outcome = random::fill(bytes));
            outcome?;
            let blob = seal_blob(&key, &ask.aad_digest, plaintext.expose())?;
            keys.push(Ok(DataKey { plaintext: ask.plaintext.then_some(plaintext), blob }));
            made += 1;
        }
        key.count(made);
        Ok(Reply::DataKeys(keys))
    }

    pub(super) fn encrypt(&self, key: &KeyToken, asks: &[SealAsk]) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::EncryptDecrypt])?;
        let mut blobs = Vec::with_capacity(batch(asks)?.len());
        let mut made = 0;
        for ask in asks {
            if !(1..=ITEM_BYTES_MAX).contains(&ask.plaintext.len()) {
                blobs.push(Err(HsmError::OutOfRange));
                continue;
            }
            blobs.push(Ok(seal_blob(&key, &ask.aad_digest, ask.plaintext.expose())?));
            made += 1;
        }
        key.count(made);
        Ok(Reply::Blobs(blobs))
    }

    pub(super) fn decrypt(&self, key: &KeyToken, asks: &[OpenAsk]) -> Result<Reply, Stop> {
        let key = self.key(key, &[KeyUsage::EncryptDecrypt])?;
        let mut made = 0;
        let open = |ask: &OpenAsk| {
            let opened = open_blob(&key, &ask.aad_digest, &ask.blob);
            made += u64::from(opened.is_ok());
            opened
        };
        let plaintexts = batch(asks)?.iter().map(open).collect();
        key.count(made);
        Ok(Reply::Plaintexts(plaintexts))
    }

    /// The plaintext lives between two calls of this function, and is wiped.
    pub(super) fn re_encrypt(
        &self,
        (from, from_aad): (&KeyToken, &[u8; 32]),
        (to, to_aad): (&KeyToken, &[u8; 32]),
        blob: &[u8],
    ) -> Result<Reply, Stop> {
        let from = self.key(from, &[KeyUsage::EncryptDecrypt])?;
        let to = self.key(to, &[KeyUsage::EncryptDecrypt])?;
        let plaintext = open_blob(&from, from_aad, blob)?;
        let blob = seal_blob(&to, to_aad, plaintext.expose())?;
        from.count(1);
        to.count(1);
        Ok(Reply::Blob(blob))
    }
}

fn seal_blob(key: &OpenKey, aad_digest: &[u8; 32], plaintext: &[u8]) -> Result<Bytes, Stop> {
    seal(key, Kind::CiphertextBlob, 0, aad_digest, plaintext)
}

/// Seals under an AES-256 key with fresh N and IV.
pub(super) fn seal(
    key: &OpenKey,
    kind: Kind,
    generation: u32,
    aad_digest: &[u8; 32],
    plaintext: &[u8],
) -> Result<Bytes, Stop> {
    let header = Header {
        kind,
        suite: Suite::KdfCommitGcm,
        key_id: *key.binding.key_id.bytes(),
        key_version: key.binding.version,
        domain_id: key.binding.domain_id,
        generation,
    };
    let fresh: [u8; 28] = random::array()?;
    let (n, iv) = fresh.split_at(16);
    let (n, iv) = (n.first_chunk().ok_or(HsmError::OutOfRange)?, iv.first_chunk().ok_or(HsmError::OutOfRange)?);
    Ok(suite1::seal(sealing_key(key)?, &header, n, iv, aad_digest, plaintext).into())
}

fn open_blob(key: &OpenKey, aad_digest: &[u8; 32], blob: &[u8]) -> Result<SecretBytes, HsmError> {
    if blob.len() > ITEM_BYTES_MAX + SUITE1_OVERHEAD_BYTES {
        return Err(HsmError::OutOfRange);
    }
    open(key, &parse_blob(blob).map_err(|_| HsmError::MalformedBlob)?, aad_digest)
}

/// Opens what this very key version sealed.
pub(super) fn open(key: &OpenKey, sealed: &Sealed<'_>, aad_digest: &[u8; 32]) -> Result<SecretBytes, HsmError> {
    let (header, binding) = (&sealed.header, &key.binding);
    let same = header.key_id == *binding.key_id.bytes()
        && header.key_version == binding.version
        && header.domain_id == binding.domain_id;
    if !same {
        return Err(HsmError::IncorrectKey);
    }
    suite1::open(sealing_key(key)?, sealed, aad_digest).map_err(|_| HsmError::Rejected)
}

fn sealing_key(key: &OpenKey) -> Result<&SealingKey, HsmError> {
    match &key.material {
        Material::Sealing(key) => Ok(key),
        Material::Mac(_) | Material::P256(_) | Material::Ed25519(_) | Material::Rsa(_) => Err(HsmError::UsageForbidden),
    }
}
