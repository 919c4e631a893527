//! Plaintexts that the boundary does not take: longer than its limit, or empty.
//!
//! ```text
//! "SL" | u8 = 1 | blob length u16 | blob: a data key, sealed by the boundary | the plaintext under it, suite 1
//! ```
//!
//! The data key is made here for one plaintext and wiped; to re-wrap is to re-encrypt the blob alone, and the rest stays.
//!
//! Always: the blob's context says that it is of this form, so that it never opens as a plaintext of its own.

use super::wire;
use crate::error::VaultError;
use crate::service::Vault;
use envelope::suite1::{self, SealingKey};
use envelope::{EncryptionContext, Header, Kind, SecretBytes, SecretKey, Suite, sealed};
use kms::KeyId;

/// A plaintext under its data key; the key is still to be sealed.
pub(super) struct Sealed {
    pub(super) data_key: SecretBytes,
    pub(super) body: Vec<u8>,
}

/// A ciphertext in either form, as it came.
pub(super) struct Parts {
    pub(super) blob: Vec<u8>,
    /// Empty: the blob is all.
    pub(super) body: Vec<u8>,
}

pub(super) fn is_large(plaintext: &SecretBytes) -> bool {
    !(1..=kms::PLAINTEXT_BYTES_MAX).contains(&plaintext.len())
}

pub(super) fn seal(
    vault: &Vault,
    id: KeyId,
    context: &EncryptionContext,
    plaintext: &SecretBytes,
) -> Result<Sealed, VaultError> {
    let random = zeroize::Zeroizing::new(vault.barrier().random::<KEY_BYTES>()?);
    let data_key = SecretBytes::copy_from(&*random);
    let (n, iv) = (vault.barrier().random::<16>()?, vault.barrier().random::<12>()?);
    let key = sealing_key(&data_key)?;
    let body = suite1::seal(&key, &header(id), &n, &iv, &context.digest(), plaintext.expose());
    Ok(Sealed { data_key, body })
}

/// Whatever is wrong looks the same.
pub(super) fn open(
    id: KeyId,
    context: &EncryptionContext,
    data_key: &SecretBytes,
    body: &[u8],
) -> Result<SecretBytes, VaultError> {
    let parsed = sealed::parse_blob(body).map_err(|_| wire::rejected())?;
    if parsed.header != header(id) {
        return Err(wire::rejected());
    }
    suite1::open(&sealing_key(data_key)?, &parsed, &context.digest()).map_err(|_| wire::rejected())
}

/// `None`: the blob is too long for its length.
pub(super) fn join(blob: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    if body.is_empty() {
        return Some(blob.to_vec());
    }
    let len = u16::try_from(blob.len()).ok()?.to_be_bytes();
    Some([MAGIC, &len, blob, body].concat())
}

pub(super) fn split(bytes: Vec<u8>) -> Option<Parts> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return Some(Parts { blob: bytes, body: Vec::new() }) };
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (blob, body) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    (!body.is_empty()).then(|| Parts { blob: blob.to_vec(), body: body.to_vec() })
}

fn sealing_key(data_key: &SecretBytes) -> Result<SealingKey, VaultError> {
    SecretKey::from_slice(data_key.expose()).map(|key| SealingKey::new(&key)).ok_or_else(wire::rejected)
}

/// The version is the blob's to tell, and changes when it is re-wrapped.
fn header(id: KeyId) -> Header {
    Header {
        kind: Kind::CiphertextBlob,
        suite: Suite::KdfCommitGcm,
        key_id: *id.bytes(),
        key_version: 0,
        domain_id: [0; 16],
        generation: 0,
    }
}

const MAGIC: &[u8] = b"SL\x01";
const KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_as_they_were_written() {
        for (blob, body) in [(&b"SR blob"[..], &b""[..]), (b"SR blob", b"b"), (b"", b"b")] {
            let parts = split(join(blob, body).unwrap()).unwrap();
            assert_eq!((&parts.blob[..], &parts.body[..]), (blob, body));
        }
        assert!(join(&vec![0; 1 << 16], b"b").is_none());
        for malformed in [&b"SL\x01"[..], b"SL\x01\x00", b"SL\x01\x00\x00", b"SL\x01\x00\x01a", b"SL\x01\xff\xffab"] {
            assert!(super::split(Vec::from(malformed)).is_none(), "{malformed:?}");
        }
    }
}
