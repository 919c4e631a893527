//! Suite 1: a key per message, a commitment, AES-256-GCM.
//!
//! Always: the commitment is compared, in constant time, before GCM is opened.
//! Never: one error for a wrong commitment and another for a wrong tag.

use crate::kdf;
use crate::mac::{self, HmacSha256};
use crate::sealed::{Body, HEADER_BYTES, Header, SUITE1_OVERHEAD_BYTES, Sealed};
use crate::secret::{SecretBytes, SecretKey};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};

/// The value does not belong to this key, this place or this context, or was altered: nobody learns which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed value was rejected")]
pub struct Rejected;

/// A key that seals: its HMAC state, keyed once. As secret as the key.
pub struct SealingKey(HmacSha256);

impl SealingKey {
    pub fn new(key: &SecretKey) -> Self {
        Self(mac::keyed(key))
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

/// Seals `plaintext` under `header`. `n` and `iv` are fresh random bytes of whoever seals; `aad_digest` is the
/// SHA-256 of the canonical AAD.
#[expect(clippy::expect_used, reason = "a plaintext in memory is below GCM's limit of 64 GiB")]
pub fn seal(
    key: &SealingKey,
    header: &Header,
    n: &[u8; 16],
    iv: &[u8; 12],
    aad_digest: &[u8; 32],
    plaintext: &[u8],
) -> Vec<u8> {
    let header_bytes = header.to_bytes();
    let derived = derive(key, header, n, &header_bytes, aad_digest);
    let (gcm_key, commitment) = derived.split_at(32);
    let mut out = Vec::with_capacity(SUITE1_OVERHEAD_BYTES + plaintext.len());
    for part in [&header_bytes[..], n, iv, commitment, plaintext] {
        out.extend_from_slice(part);
    }
    let start = out.len() - plaintext.len();
    let aad = gcm_aad(&header_bytes, n, commitment, aad_digest);
    let tag = cipher(gcm_key)
        .encrypt_inout_detached(iv.into(), &aad, (&mut out[start..]).into())
        .expect("a plaintext in memory is below GCM's limit");
    out.extend_from_slice(&tag);
    out
}

/// Opens a parsed value of suite 1. Another suite is rejected like a wrong key.
pub fn open(key: &SealingKey, sealed: &Sealed<'_>, aad_digest: &[u8; 32]) -> Result<SecretBytes, Rejected> {
    let Body::Suite1 { n, iv, commitment, ciphertext, tag } = sealed.body else { return Err(Rejected) };
    let derived = derive(key, &sealed.header, n, sealed.header_bytes, aad_digest);
    let (gcm_key, expected) = derived.split_at(32);
    if !mac::equal(expected, commitment) {
        return Err(Rejected);
    }
    let aad = gcm_aad(sealed.header_bytes, n, commitment, aad_digest);
    let mut plaintext = SecretBytes::copy_from(ciphertext);
    cipher(gcm_key)
        .decrypt_inout_detached(iv.into(), &aad, plaintext.expose_mut().into(), tag.into())
        .map_err(|_| Rejected)?;
    Ok(plaintext)
}

fn derive(
    key: &SealingKey,
    header: &Header,
    n: &[u8; 16],
    header_bytes: &[u8; HEADER_BYTES],
    aad_digest: &[u8; 32],
) -> zeroize::Zeroizing<[u8; 64]> {
    kdf::counter_512(&key.0, header.kind.label(), &[n, header_bytes, aad_digest])
}

fn gcm_aad(header: &[u8; HEADER_BYTES], n: &[u8; 16], commitment: &[u8], aad_digest: &[u8; 32]) -> [u8; 128] {
    let mut aad = [0; 128];
    aad[..48].copy_from_slice(header);
    aad[48..64].copy_from_slice(n);
    aad[64..96].copy_from_slice(commitment);
    aad[96..].copy_from_slice(aad_digest);
    aad
}

#[expect(clippy::expect_used, reason = "the derived key has 32 bytes")]
fn cipher(key: &[u8]) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(key).expect("the derived key has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::{Kind, Suite, parse_blob};

    fn header() -> Header {
        Header {
            kind: Kind::CiphertextBlob,
            suite: Suite::KdfCommitGcm,
            key_id: [1; 16],
            key_version: 2,
            domain_id: [3; 16],
            generation: 0,
        }
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
        let key = SealingKey::new(&SecretKey::init_with(|key| key.fill(7)));
        let blob = seal(&key, &header(), &[4; 16], &[5; 12], &[6; 32], b"plaintext");
        assert_eq!(open(&key, &parse_blob(&blob).unwrap(), &[6; 32]).unwrap().expose(), b"plaintext");
        assert!(open(&key, &parse_blob(&blob).unwrap(), &[9; 32]).is_err());
        for bit in 0..blob.len() * 8 {
            let mut altered = blob.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let opened = parse_blob(&altered).ok().and_then(|sealed| open(&key, &sealed, &[6; 32]).ok());
            assert!(opened.is_none(), "bit {bit}");
        }
    }
}
