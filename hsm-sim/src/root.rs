//! Root keys: the one page that holds what everything else hangs from.
//!
//! ```text
//! slot 0        seed of the module's identity (Ed25519)
//! slot 1        unlock key: the state file is sealed under a key derived from it
//! slots 2..128  domain keys, generation 1 first
//! ```
//!
//! Always: root keys stand in this page and nowhere else for longer than one service takes.

use crate::jail::{PAGE_BYTES, SecretPage};
use crate::random::{self, EntropyFault};
use ed25519_dalek::SigningKey;
use envelope::SecretKey;
use envelope::suite1::SealingKey;
use zeroize::Zeroize;

pub(crate) struct RootKeys {
    page: SecretPage,
    generations: usize,
    has_unlock_key: bool,
}

/// Most generations of a domain key that the page holds.
pub(crate) const GENERATIONS_MAX: usize = PAGE_BYTES / KEY_BYTES - FIRST_DOMAIN_SLOT;

impl RootKeys {
    pub(crate) fn new(page: SecretPage) -> Self {
        Self { page, generations: 0, has_unlock_key: false }
    }

    pub(crate) fn set_unlock_key(&mut self, key: &SecretKey) {
        self.slot_mut(UNLOCK_SLOT).copy_from_slice(key.expose());
        self.has_unlock_key = true;
    }

    pub(crate) fn unlock_key(&self) -> Option<&[u8]> {
        self.has_unlock_key.then(|| self.slot(UNLOCK_SLOT))
    }

    pub(crate) fn generate_identity(&mut self) -> Result<(), EntropyFault> {
        random::fill(self.slot_mut(IDENTITY_SLOT))
    }

    pub(crate) fn set_identity_seed(&mut self, seed: &[u8; 32]) {
        self.slot_mut(IDENTITY_SLOT).copy_from_slice(seed);
    }

    pub(crate) fn identity_seed(&self) -> &[u8] {
        self.slot(IDENTITY_SLOT)
    }

    /// The module's identity; wiped when it drops.
    pub(crate) fn identity(&self) -> SigningKey {
        let mut seed = [0; KEY_BYTES];
        seed.copy_from_slice(self.slot(IDENTITY_SLOT));
        let key = SigningKey::from_bytes(&seed);
        seed.zeroize();
        key
    }

    /// The newest generation of the domain key; 0 where there is none.
    pub(crate) fn generation(&self) -> u32 {
        u32::try_from(self.generations).unwrap_or(u32::MAX)
    }

    /// Makes the next generation of the domain key. `Ok(false)`: the page is full.
    pub(crate) fn generate_domain_key(&mut self) -> Result<bool, EntropyFault> {
        if self.generations == GENERATIONS_MAX {
            return Ok(false);
        }
        random::fill(self.slot_mut(FIRST_DOMAIN_SLOT + self.generations))?;
        self.generations += 1;
        Ok(true)
    }

    /// Adds a generation that was read back. `false`: the page is full.
    pub(crate) fn push_domain_key(&mut self, key: &[u8; 32]) -> bool {
        if self.generations == GENERATIONS_MAX {
            return false;
        }
        self.slot_mut(FIRST_DOMAIN_SLOT + self.generations).copy_from_slice(key);
        self.generations += 1;
        true
    }

    /// Takes the newest generation back, where it could not be made durable.
    pub(crate) fn pop_domain_key(&mut self) {
        if self.generations > 0 {
            self.generations -= 1;
            self.slot_mut(FIRST_DOMAIN_SLOT + self.generations).zeroize();
        }
    }

    pub(crate) fn clear_domain_keys(&mut self) {
        while self.generations > 0 {
            self.pop_domain_key();
        }
    }

    pub(crate) fn domain_keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.generations).map(|i| self.slot(FIRST_DOMAIN_SLOT + i))
    }

    /// The domain key of `generation`, keyed for one use.
    pub(crate) fn domain_key(&self, generation: u32) -> Option<SealingKey> {
        let i = usize::try_from(generation).ok()?.checked_sub(1).filter(|i| *i < self.generations)?;
        SecretKey::from_slice(self.slot(FIRST_DOMAIN_SLOT + i)).map(|key| SealingKey::new(&key))
    }

    /// Wipes everything but the unlock key, with which a state file may be made again.
    pub(crate) fn zeroise(&mut self) {
        self.clear_domain_keys();
        self.slot_mut(IDENTITY_SLOT).zeroize();
    }

    fn slot(&self, i: usize) -> &[u8] {
        &self.page.bytes()[i * KEY_BYTES..][..KEY_BYTES]
    }

    fn slot_mut(&mut self, i: usize) -> &mut [u8] {
        &mut self.page.bytes_mut()[i * KEY_BYTES..][..KEY_BYTES]
    }
}

impl std::fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKeys")
    }
}

const KEY_BYTES: usize = 32;
const IDENTITY_SLOT: usize = 0;
const UNLOCK_SLOT: usize = 1;
const FIRST_DOMAIN_SLOT: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroising_leaves_no_key_but_the_unlock_key() {
        let mut root = RootKeys::new(SecretPage::ordinary().unwrap());
        root.set_unlock_key(&SecretKey::init_with(|key| key.fill(9)));
        root.generate_identity().unwrap();
        for _ in 0..3 {
            assert!(root.generate_domain_key().unwrap());
        }
        root.zeroise();
        let expected: Vec<u8> = (0..PAGE_BYTES).map(|i| if (32..64).contains(&i) { 9 } else { 0 }).collect();
        assert_eq!(root.page.bytes(), expected);
        assert!(root.domain_key(1).is_none());
    }

    #[test]
    fn a_full_page_takes_no_further_generation() {
        let mut root = RootKeys::new(SecretPage::ordinary().unwrap());
        for _ in 0..GENERATIONS_MAX {
            assert!(root.push_domain_key(&[1; 32]));
        }
        assert!(!root.push_domain_key(&[1; 32]));
        assert_eq!(root.generate_domain_key(), Ok(false));
        assert!(root.domain_key(126).is_some() && root.domain_key(127).is_none() && root.domain_key(0).is_none());
    }
}
