//! Hashes of passwords: Argon2id, 19 MiB, two passes, one lane (OWASP's second choice; RFC 9106 names the parameters). What
//! stands beside a hash is what it was made with, so that these may be raised.
//!
//! Always: as many at once as there are cores, four at most, on threads that serve nothing else; few wait, the others are told
//! to come back.

use crate::error::VaultError;
use argon2::{Algorithm, Argon2, Params, Version};
use envelope::mac;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Of new passwords: administrators are not shut out by logins.
    administrators: Arc<Semaphore>,
    /// Logins under way by address; whoever has none shares one.
    shares: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
    running: Arc<Semaphore>,
    done: Arc<AtomicU64>,
}

impl Default for Hashing {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            admitted: Arc::new(Semaphore::new(ADMITTED_MAX)),
            administrators: Arc::new(Semaphore::new(ADMINISTRATORS_MAX)),
            shares: Arc::default(),
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
        let admitted = Arc::clone(&self.administrators).try_acquire_owned().map_err(|_| busy())?;
        let hash = self.run(password, wanted.clone(), admitted).await?;
        Ok(Hashed { hash: *hash, ..wanted })
    }

    /// Whether it is the password. Without a hash to compare with the work is the same, and it is not.
    /// One address has a share of what is admitted at once.
    pub(super) async fn is(&self, password: &str, hashed: Option<&Hashed>, from: &str) -> Result<bool, VaultError> {
        let share = Share::take(&self.shares, from).ok_or_else(busy)?;
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| busy())?;
        let nobodys = Hashed { salt: [0; 16], hash: [0; 32], memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let hash = self.run(password, hashed.unwrap_or(&nobodys).clone(), (share, admitted)).await?;
        let equal = mac::equal(&*hash, &hashed.unwrap_or(&nobodys).hash);
        Ok(equal && hashed.is_some())
    }

    async fn run<A: Send + 'static>(
        &self,
        password: &str,
        with: Hashed,
        admitted: A,
    ) -> Result<Zeroizing<[u8; 32]>, VaultError> {
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

fn busy() -> VaultError {
    VaultError::Limited("too many passwords are being checked, retry later".into())
}

/// One of an address's places, until it drops.
struct Share {
    shares: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
    address: Option<IpAddr>,
}

impl Share {
    fn take(shares: &Arc<Mutex<HashMap<Option<IpAddr>, usize>>>, from: &str) -> Option<Self> {
        let address = identity::cidr::network(from);
        let mut taken = shares.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.entry(address).or_default();
        if *here >= SHARE_MAX {
            return None;
        }
        *here += 1;
        Some(Self { shares: Arc::clone(shares), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = taken.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                taken.remove(&self.address);
            }
        }
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
const ADMINISTRATORS_MAX: usize = 16;
/// Of one address.
const SHARE_MAX: usize = 16;

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
            assert_eq!(hashing.is(password, hashed, "192.0.2.1:1").await.unwrap(), expected, "{password}");
            assert_eq!(hashing.done(), before + 1);
        }
        assert_eq!((hashing.admitted.available_permits(), hashing.running.available_permits() > 0), (128, true));
        // one address takes its share and no more; another has its own
        let shares: Vec<_> = (0..SHARE_MAX).map(|n| Share::take(&hashing.shares, &format!("192.0.2.1:{n}"))).collect();
        assert!(shares.iter().all(Option::is_some) && Share::take(&hashing.shares, "192.0.2.1:99").is_none());
        assert!(Share::take(&hashing.shares, "192.0.2.2:1").is_some());
        drop(shares);
        assert!(hashing.shares.lock().unwrap().is_empty());
    }
}
