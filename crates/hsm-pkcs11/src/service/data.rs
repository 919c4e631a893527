//! Data keys, encrypt, decrypt, re-encrypt.

use super::{Desk, batch};
use crate::device::Link;
use crate::error::Fault;
use crate::keys::OpenKey;
use crate::seal::{self, IV_BYTES};
use bytes::Bytes;
use envelope::sealed::{Kind, SUITE1_OVERHEAD_BYTES, parse_blob};
use envelope::{Sealed, SecretBytes};
use hsm_api::message::{DATA_KEY_BYTES_MAX, ITEM_BYTES_MAX};
use hsm_api::{DataKey, DataKeyAsk, HsmError, KeyToken, KeyUsage, OpenAsk, Reply, SealAsk};

impl Desk<'_> {
    pub(super) fn generate_data_keys(&self, key: &KeyToken, asks: &[DataKeyAsk]) -> Result<Reply, HsmError> {
        let good = |ask: &DataKeyAsk| (1..=DATA_KEY_BYTES_MAX).contains(&usize::from(ask.bytes));
        let (key, keys, made) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::EncryptDecrypt])?;
            let made = batch(asks)?.iter().filter(|ask| good(ask)).count();
            let mut sealer = self.sealer(link, &key, made)?;
            let mut keys = Vec::with_capacity(asks.len());
            for ask in asks {
                if !good(ask) {
                    keys.push(Err(HsmError::OutOfRange));
                    continue;
                }
                let plaintext = SecretBytes::copy_from(&link.random(usize::from(ask.bytes))?);
                let blob = sealer.seal(link, Kind::CiphertextBlob, 0, &ask.aad_digest, plaintext.expose())?;
                keys.push(Ok(DataKey { plaintext: ask.plaintext.then_some(plaintext), blob }));
            }
            Ok((key, keys, made))
        })?;
        key.count(made as u64);
        Ok(Reply::DataKeys(keys))
    }

    pub(super) fn encrypt(&self, key: &KeyToken, asks: &[SealAsk]) -> Result<Reply, HsmError> {
        let good = |ask: &SealAsk| (1..=ITEM_BYTES_MAX).contains(&ask.plaintext.len());
        let (key, blobs, made) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::EncryptDecrypt])?;
            let made = batch(asks)?.iter().filter(|ask| good(ask)).count();
            let mut sealer = self.sealer(link, &key, made)?;
            let mut blobs = Vec::with_capacity(asks.len());
            for ask in asks {
                blobs.push(if good(ask) {
                    Ok(sealer.seal(link, Kind::CiphertextBlob, 0, &ask.aad_digest, ask.plaintext.expose())?)
                } else {
                    Err(HsmError::OutOfRange)
                });
            }
            Ok((key, blobs, made))
        })?;
        key.count(made as u64);
        Ok(Reply::Blobs(blobs))
    }

    pub(super) fn decrypt(&self, key: &KeyToken, asks: &[OpenAsk]) -> Result<Reply, HsmError> {
        let (key, plaintexts) = self.device.run(|link| {
            let key = self.key(link, key, &[KeyUsage::EncryptDecrypt])?;
            let mut plaintexts = Vec::with_capacity(batch(asks)?.len());
            for ask in asks {
                plaintexts.push(match open_blob(link, &key, &ask.aad_digest, &ask.blob) {
                    Ok(plaintext) => Ok(plaintext),
                    Err(Fault::Answer(error)) => Err(error),
                    Err(fault) => return Err(fault),
                });
            }
            Ok((key, plaintexts))
        })?;
        key.count(plaintexts.iter().filter(|plaintext| plaintext.is_ok()).count() as u64);
        Ok(Reply::Plaintexts(plaintexts))
    }

    /// The plaintext passes through this process, and is wiped: bare tokens have no such service.
    pub(super) fn re_encrypt(
        &self,
        (from, from_aad): (&KeyToken, &[u8; 32]),
        (to, to_aad): (&KeyToken, &[u8; 32]),
        blob: &[u8],
    ) -> Result<Reply, HsmError> {
        let (from, to, blob) = self.device.run(|link| {
            let from = self.key(link, from, &[KeyUsage::EncryptDecrypt])?;
            let to = self.key(link, to, &[KeyUsage::EncryptDecrypt])?;
            let plaintext = open_blob(link, &from, from_aad, blob)?;
            let mut sealer = self.sealer(link, &to, 1)?;
            let blob = sealer.seal(link, Kind::CiphertextBlob, 0, to_aad, plaintext.expose())?;
            Ok((from, to, blob))
        })?;
        from.count(1);
        to.count(1);
        Ok(Reply::Blob(blob))
    }

    /// Whatever seals `n` values under one key: invocations are reserved, IVs drawn, the key found.
    pub(super) fn sealer<'k>(&self, link: &mut Link<'_>, key: &'k OpenKey, n: usize) -> Result<Sealer<'k>, Fault> {
        let source = self.proven.iv.ok_or(HsmError::Unsupported)?;
        let handle = key.resident.locate(link)?.handle;
        if n > 0 {
            self.module.counters.take(link, &key.resident.cka_id, n as u64)?;
        }
        let ivs = if n > 0 { link.random(n * IV_BYTES)?.to_vec() } else { Vec::new() };
        Ok(Sealer { key, source, handle, ivs })
    }
}

/// Invocations of one key, taken one by one.
pub(super) struct Sealer<'k> {
    key: &'k OpenKey,
    source: seal::IvSource,
    handle: cryptoki::object::ObjectHandle,
    ivs: Vec<u8>,
}

impl Sealer<'_> {
    pub(super) fn seal(
        &mut self,
        link: &mut Link<'_>,
        kind: Kind,
        generation: u32,
        aad_digest: &[u8; 32],
        plaintext: &[u8],
    ) -> Result<Bytes, Fault> {
        // each IV is used once
        let at = self.ivs.len().checked_sub(IV_BYTES).ok_or(HsmError::OutOfRange)?;
        let iv: [u8; IV_BYTES] = self.ivs.split_off(at).try_into().map_err(|_| HsmError::OutOfRange)?;
        let header = self.key.header(kind, generation);
        seal::seal(link, self.source, self.handle, iv, header, aad_digest, plaintext)
    }
}

fn open_blob(link: &mut Link<'_>, key: &OpenKey, aad_digest: &[u8; 32], blob: &[u8]) -> Result<SecretBytes, Fault> {
    if blob.len() > ITEM_BYTES_MAX + SUITE1_OVERHEAD_BYTES {
        return Err(HsmError::OutOfRange.into());
    }
    open(link, key, &parse_blob(blob).map_err(|_| HsmError::MalformedBlob)?, aad_digest)
}

/// Opens what this very key version sealed.
pub(super) fn open(
    link: &mut Link<'_>,
    key: &OpenKey,
    sealed: &Sealed<'_>,
    aad_digest: &[u8; 32],
) -> Result<SecretBytes, Fault> {
    let (header, binding) = (&sealed.header, &key.binding);
    let same = header.key_id == *binding.key_id.bytes()
        && header.key_version == binding.version
        && header.domain_id == binding.domain_id;
    if !same {
        return Err(HsmError::IncorrectKey.into());
    }
    let handle = key.resident.locate(link)?.handle;
    seal::open(link, handle, sealed, aad_digest)
}
