//! Key derivation: SP 800-108r1 counter mode (§4.1) and HKDF-SHA-256 (RFC 5869).

use crate::mac::{HmacSha256, keyed};
use crate::secret::SecretKey;
use hkdf::Hkdf;
use hmac::Mac;
use secrecy::zeroize::Zeroizing;
use sha2::Sha256;

/// 512 bits by SP 800-108 counter mode with HMAC-SHA-256, counter and length as 32-bit big-endian.
/// `context` has a fixed length for each label, which keeps the fields apart.
pub fn counter_512(state: &HmacSha256, label: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    let mut out = Zeroizing::new([0; 64]);
    for (i, block) in (1u32..).zip(out.chunks_exact_mut(32)) {
        let mut mac = state.clone();
        mac.update(&i.to_be_bytes());
        mac.update(label);
        mac.update(&[0]);
        context.iter().for_each(|part| mac.update(part));
        mac.update(&512u32.to_be_bytes());
        block.copy_from_slice(&Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))[..]);
    }
    out
}

/// As [`counter_512`], from a key that is used once.
pub fn counter_512_once(key: &SecretKey, label: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    counter_512(&keyed(key), label, context)
}

/// HKDF-SHA-256, extract and expand to one key. `info` names the purpose.
#[expect(clippy::expect_used, reason = "RFC 5869 §2.3 allows 255 blocks, this is one")]
pub fn hkdf_sha256(secret: &[u8], salt: &[u8], info: &[u8]) -> SecretKey {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), secret);
    SecretKey::init_with(|key| hkdf.expand(info, key).expect("32 bytes are within HKDF's limit"))
}
