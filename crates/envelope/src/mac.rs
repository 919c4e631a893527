//! HMAC-SHA-256 (FIPS 198-1) and comparison in constant time.

use crate::secret::SecretKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub type HmacSha256 = Hmac<Sha256>;

/// HMAC-SHA-256 over the concatenation of `parts`. Callers keep parts apart by fixed lengths or length prefixes.
pub fn hmac_sha256(key: &SecretKey, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// The keyed state, for callers that use one key many times.
#[expect(clippy::expect_used, reason = "RFC 2104 §2: HMAC takes keys of any length")]
pub fn keyed(key: &SecretKey) -> HmacSha256 {
    HmacSha256::new_from_slice(key.expose()).expect("HMAC takes keys of any length")
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Constant-time for inputs of one length; lengths are public.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
