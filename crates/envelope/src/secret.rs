//! Secrets in memory: born in place, wiped on drop, printed as nothing.
//!
//! Never: `Clone`, `Serialize`, `PartialEq`. Comparing goes through `mac::equal`. `expose` is the one door.

use secrecy::{ExposeSecret, SecretBox};
use zeroize::{Zeroize, Zeroizing};

/// A 256-bit symmetric key.
pub struct SecretKey(SecretBox<[u8; 32]>);

impl SecretKey {
    /// Fills the key where it will live, so that no copy stays on the stack.
    pub fn init_with(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        Self(SecretBox::init_with_mut(fill))
    }

    /// Like [`Self::init_with`], for sources that can fail.
    pub fn try_init_with<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut outcome = Ok(());
        let key = Self(SecretBox::init_with_mut(|bytes| outcome = fill(bytes)));
        outcome.map(|()| key)
    }

    /// `None` unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 32).then(|| Self::init_with(|key| key.copy_from_slice(bytes)))
    }

    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey")
    }
}

/// Secret bytes of any length: data keys, plaintexts, tokens, shares.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over `bytes`, which are wiped when this drops. The vector never grows again, so no copy is left behind.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::from_vec(bytes.to_vec())
    }

    /// `len` bytes, filled where they will live.
    pub fn init_with(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = Zeroizing::new(vec![0; len]);
        fill(&mut bytes);
        Self(bytes)
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shortens to `len`, wiping what is cut off.
    pub fn truncate(&mut self, len: usize) {
        if len < self.0.len() {
            self.0[len..].zeroize();
            self.0.truncate(len);
        }
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_as_nothing() {
        let key = SecretKey::init_with(|bytes| bytes.fill(0x41));
        assert_eq!(format!("{key:?} {:?}", SecretBytes::copy_from(b"AAAA")), "SecretKey SecretBytes");
    }

    #[test]
    fn a_key_has_exactly_32_bytes() {
        for (len, some) in [(0, false), (31, false), (32, true), (33, false)] {
            assert_eq!(SecretKey::from_slice(&vec![1; len]).is_some(), some, "{len}");
        }
    }
}
