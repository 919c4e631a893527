//! Hashes of passwords: Argon2id, 19 MiB, two passes, one lane (OWASP's second choice; RFC 9106 names the parameters). What
//! stands beside a hash is what it was made with, so that these may be raised.
//!
//! Always: as many at once as there are cores, four at most, on threads that serve nothing else; few wait, the others are told
//! to come back.

use crate::error::VaultError;
use argon2::{Algorithm, Argon2, Params, Version};
use envelope::mac;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// A hash, and how to make it again. Stands sealed in the store.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hashed {
    salt: [u8; 16],
    hash: [u8; 32],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Where passwords are hashed. One for the process.
#[derive(Debug)]
pub(crate) struct Hashing {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    done: Arc<AtomicU64>,
}

impl Default for Hashing {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            admitted: Arc::new(Semaphore::new(ADMITTED_MAX)),
            running: Arc::new(Semaphore::new(cores.min(RUNNING_MAX))),
            done: Arc::default(),
        }
    }
}

impl Hashing {
    /// How many hashes were made.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Of a new password.
    pub(super) async fn of(&self, password: &str, salt: [u8; 16]) -> Result<Hashed, VaultError> {
        let wanted = Hashed { salt, hash: [0; 32], memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let hash = self.run(password, wanted.clone()).await?;
        Ok(Hashed { hash: *hash, ..wanted })
    }

    /// Whether it is the password. Without a hash to compare with the work is the same, and it is not.
    pub(super) async fn is(&self, password: &str, hashed: Option<&Hashed>) -> Result<bool, VaultError> {
        let nobodys = Hashed { salt: [0; 16], hash: [0; 32], memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let hash = self.run(password, hashed.unwrap_or(&nobodys).clone()).await?;
        let equal = mac::equal(&*hash, &hashed.unwrap_or(&nobodys).hash);
        Ok(equal && hashed.is_some())
    }

    async fn run(&self, password: &str, with: Hashed) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let busy = || VaultError::Limited("too many passwords are being checked, retry later".into());
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        let (done, password) = (Arc::clone(&self.done), Zeroizing::new(password.to_owned()));
        // the permits go along: a caller who has gone frees no room
        let work = tokio::task::spawn_blocking(move || {
            let _permits = (admitted, running);
            done.fetch_add(1, Ordering::Relaxed);
            hash(&password, &with)
        });
        work.await.map_err(|_| VaultError::Internal("a password's hash was not finished".into()))?
    }
}

fn hash(password: &str, with: &Hashed) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let unmade = || VaultError::Internal("Argon2id refused its parameters".into());
    let params = Params::new(with.memory_kib, with.passes, with.lanes, Some(32)).map_err(|_| unmade())?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut out = Zeroizing::new([0; 32]);
    argon2.hash_password_into(password.as_bytes(), &with.salt, &mut *out).map_err(|_| unmade())?;
    Ok(out)
}

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const RUNNING_MAX: usize = 4;
const ADMITTED_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_and_each_question_costs_one() {
        let hashing = Hashing::default();
        let (one, other) = (hashing.of("right", [1; 16]).await.unwrap(), hashing.of("right", [2; 16]).await.unwrap());
        assert_ne!(one.hash, other.hash);
        for (password, hashed, expected) in [
            ("right", Some(&one), true),
            ("right", Some(&other), true),
            ("Right", Some(&one), false),
            ("", Some(&one), false),
            ("right", None, false),
        ] {
            let before = hashing.done();
            assert_eq!(hashing.is(password, hashed).await.unwrap(), expected, "{password}");
            assert_eq!(hashing.done(), before + 1);
        }
        assert_eq!((hashing.admitted.available_permits(), hashing.running.available_permits() > 0), (128, true));
    }
}
