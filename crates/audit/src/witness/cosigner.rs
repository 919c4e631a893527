//! A witness's keys (c2sp.org/tlog-cosignature).

use crate::note::{KeyKind, Signature, VerifierKey, checkpoint_message, note_message};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, ML_DSA_44_SIGNING, PqdsaKeyPair};
use envelope::secret::SecretKey;
use std::fmt;

/// The seeds are no keys of these algorithms, or the name is none of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a witness needs a key name and two seeds of 32 bytes")]
pub struct MalformedCosigner;

/// Signs for one witness, with Ed25519 and with ML-DSA-44: "Ed25519 signed message" does not name the witness, so that
/// its key must be used under no other name.
pub struct Cosigner {
    ed25519: (Ed25519KeyPair, VerifierKey),
    ml_dsa: (PqdsaKeyPair, VerifierKey),
}

impl Cosigner {
    /// From the seeds of both keys (RFC 8032 §5.1.5, FIPS 204 §5.1).
    pub fn new(name: &str, ed25519: &SecretKey, ml_dsa: &SecretKey) -> Result<Self, MalformedCosigner> {
        let ed25519 = Ed25519KeyPair::from_seed_unchecked(ed25519.expose()).map_err(|_| MalformedCosigner)?;
        let ml_dsa = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, ml_dsa.expose()).map_err(|_| MalformedCosigner)?;
        let key = |kind, public: &[u8]| VerifierKey::new(name, kind, public.to_vec()).map_err(|_| MalformedCosigner);
        // "ML-DSA-44 signed message": the name is at most 255 bytes
        if name.len() > usize::from(u8::MAX) {
            return Err(MalformedCosigner);
        }
        let ed25519_key = key(KeyKind::CosignatureEd25519, ed25519.public_key().as_ref())?;
        let ml_dsa_key = key(KeyKind::CosignatureMlDsa44, ml_dsa.public_key().as_ref())?;
        Ok(Self { ed25519: (ed25519, ed25519_key), ml_dsa: (ml_dsa, ml_dsa_key) })
    }

    pub fn keys(&self) -> [VerifierKey; 2] {
        [self.ed25519.1.clone(), self.ml_dsa.1.clone()]
    }

    /// Both lines over a checkpoint's text. `None` where that is none that can be cosigned, or the time is none.
    pub(super) fn cosign(&self, text: &str, time: u64) -> Option<[Signature; 2]> {
        // "Format": it MUST NOT exceed 2^63 - 1; tlog-witness: it MUST NOT be zero
        if time == 0 || i64::try_from(time).is_err() {
            return None;
        }
        let (pair, key) = &self.ed25519;
        let first = key.line(timed(time, pair.try_sign(&note_message(time, text)).ok()?.as_ref()));
        let (pair, key) = &self.ml_dsa;
        let mut signature = vec![0; ML_DSA_44_SIGNING.signature_len()];
        let len = pair.sign(&checkpoint_message(key.name(), time, text)?, &mut signature).ok()?;
        Some([first, key.line(timed(time, signature.get(..len)?))])
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cosigner").field("name", &self.ed25519.1.name()).finish_non_exhaustive()
    }
}

/// "Format": `timestamped_signature`.
fn timed(time: u64, signature: &[u8]) -> Vec<u8> {
    [time.to_be_bytes().as_slice(), signature].concat()
}
