//! One owner a module path a process: loading, initialising, finalising, and every session of it.
//!
//! Always: C_Initialize and C_Finalize are called here only (module state is per process); no session is left when the
//! module is finalised, so that no late close hits a newer session of the same number.
//! Never: fork after C_Initialize.

use crate::error::Fault;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use hsm_api::HsmError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

static LIBRARIES: Mutex<BTreeMap<PathBuf, Weak<Library>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A loaded and initialised module. Whoever works with a session holds [`Self::read`].
#[derive(Debug)]
pub(crate) struct Library {
    path: PathBuf,
    loaded: RwLock<Loaded>,
}

/// The module while it is initialised.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) context: Pkcs11,
    seats: Mutex<BTreeMap<u64, Seats>>,
}

/// One device's sessions. The keeper is never worked with: while it is open, the login stands.
#[derive(Debug)]
struct Seats {
    generation: u64,
    slot: Slot,
    idle: Vec<Session>,
    out: usize,
    _keeper: Session,
}

/// A place in the pool: a session where one was idle, and the right to open one where not.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) session: Option<Session>,
    pub(crate) slot: Slot,
    generation: u64,
}

impl Seat {
    /// In the same slot, without a session; never given back.
    pub(crate) fn beside(&self) -> Self {
        Self { session: None, slot: self.slot, generation: self.generation }
    }
}

/// Why a module could not be used at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the PKCS#11 module cannot be loaded: {0}")]
    Load(#[source] Error),
    #[error("the PKCS#11 module cannot be initialised: {0}")]
    Initialise(#[source] Error),
}

pub(crate) fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Library {
    /// The one owner of this path in this process.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, LoadError> {
        let give_up = Instant::now() + Duration::from_secs(2);
        loop {
            let mut libraries = lock(&LIBRARIES);
            if let Some(library) = libraries.get(path).and_then(Weak::upgrade) {
                return Ok(library);
            }
            let context = Pkcs11::new(path).map_err(LoadError::Load)?;
            match context.initialize(arguments()) {
                Ok(()) => {
                    let loaded = RwLock::new(Loaded { context, seats: Mutex::default() });
                    let library = Arc::new(Self { path: path.to_owned(), loaded });
                    libraries.insert(path.to_owned(), Arc::downgrade(&library));
                    return Ok(library);
                }
                // its last owner is about to finalise it
                Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) if Instant::now() < give_up => {
                    drop(libraries);
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(LoadError::Initialise(error)),
            }
        }
    }

    /// Keeps the module initialised while it is held.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// C_Finalize and C_Initialize: the last rung of the ladder. Ends every session of every slot.
    pub(crate) fn restart(&self) -> Result<(), Fault> {
        let give_up = Instant::now() + RESTART_WAIT;
        let loaded = loop {
            match self.loaded.try_write() {
                Ok(loaded) => break loaded,
                Err(std::sync::TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) if Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // a call hangs inside the module: only ending the process helps
                Err(std::sync::TryLockError::WouldBlock) => return Err(Fault::Dead),
            }
        };
        tracing::warn!(module = %self.path.display(), "finalising and initialising the module");
        lock(&loaded.seats).clear();
        if let Err(error) = loaded.context.clone().finalize() {
            tracing::warn!(%error, "C_Finalize failed");
        }
        loaded.context.initialize(arguments()).map_err(|error| {
            tracing::error!(%error, "C_Initialize failed");
            Fault::Dead
        })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        lock(&loaded.seats).clear();
        if let Err(error) = loaded.context.clone().finalize() {
            tracing::warn!(%error, "C_Finalize failed");
        }
    }
}

impl Loaded {
    /// Seats a device that has just logged in through `keeper`.
    pub(crate) fn seat(&self, device: u64, slot: Slot, keeper: Session) {
        let seats = Seats { generation: next_number(), slot, idle: Vec::new(), out: 0, _keeper: keeper };
        lock(&self.seats).insert(device, seats);
    }

    pub(crate) fn is_seated(&self, device: u64) -> bool {
        lock(&self.seats).contains_key(&device)
    }

    /// Closes a device's sessions; those that are at work are closed when they come back.
    pub(crate) fn unseat(&self, device: u64) {
        let seats = lock(&self.seats).remove(&device);
        drop(seats);
    }

    /// A place for one job, or `Busy`.
    pub(crate) fn take(&self, device: u64, sessions_max: usize) -> Result<Seat, Fault> {
        let mut all = lock(&self.seats);
        let seats = all.get_mut(&device).ok_or(Fault::Login)?;
        if seats.out >= sessions_max {
            return Err(Fault::Answer(HsmError::Busy));
        }
        seats.out += 1;
        Ok(Seat { session: seats.idle.pop(), slot: seats.slot, generation: seats.generation })
    }

    pub(crate) fn give_back(&self, device: u64, seat: Seat) {
        let mut all = lock(&self.seats);
        if let Some(seats) = all.get_mut(&device).filter(|seats| seats.generation == seat.generation) {
            seats.out -= 1;
            seats.idle.extend(seat.session);
        }
    }
}

fn arguments() -> CInitializeArgs {
    CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)
}

/// How long a restart waits for calls that are inside the module.
const RESTART_WAIT: Duration = Duration::from_secs(2);
