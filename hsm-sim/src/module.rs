//! The module: a finite state machine whose states own their data.
//!
//! ```text
//! start ─► self-tests ─┬─ fail ─► Error          (status only; an officer may zeroise)
//!                      └─ pass ─┬─ no state file ───────► Uninitialised ─ initialise, restore ─► Operational
//!                               ├─ state file opens ────────────────────────────────────────► Operational
//!                               ├─ no or wrong unlock secret ─► Locked   (left by a restart, or zeroised)
//!                               └─ damaged state file ────────► Error
//! any state ─ zeroise ─► Uninitialised (Error, where a self-test failed or randomness did)
//! ```
//!
//! Always: role and state are looked up in `hsm_api::state::allowed` before a request is touched.
//! Never: a domain key outside `Operational`; a damaged state file that is taken for a missing one.

use crate::fault;
use crate::jail::SecretPage;
use crate::keys::{Keyring, NotGenerated, NotWrapped};
use crate::keystore::KeyStore;
use crate::random::{self, EntropyFault};
use crate::record::{ClearHeader, Record, StateFileFault};
use crate::root::RootKeys;
use crate::selftest::{self, SelfTestFailed};
use crate::service;
use crate::unlock::{Unlock, UnlockKind};
use envelope::Timestamp;
use hsm_api::{
    Capabilities, HsmError, KeySpec, ModuleState, ModuleStatus, ProtectionLevel, Reply, Request, Role, Service,
    SigningAlgorithm, TenantId,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The clock, asked only where a key has a not-after.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a module is started with, beside its folder and its page.
pub struct Options {
    pub unlock: Option<Unlock>,
    pub now: Now,
    /// Outcomes of the confinement, for the status.
    pub report: Vec<(String, String)>,
    /// Lets a build with fault injection be initialised.
    pub allow_fault_build: bool,
    pub fault: Option<fault::Fault>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Options")
    }
}

/// A boundary in this process.
pub struct Module {
    state: RwLock<State>,
    store: KeyStore,
    now: Now,
    report: Vec<(String, String)>,
    allow_fault_build: bool,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("state", &self.state()).finish()
    }
}

/// What ended the module's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("self-test failed: {0}")]
    SelfTest(&'static str),
    #[error("{0}")]
    StateFile(StateFileFault),
    #[error("the random generator failed")]
    Entropy,
    #[error("a new key pair was not consistent")]
    PairwiseConsistency,
    #[error("a change of state was interrupted")]
    Interrupted,
}

/// How a request ends without a reply: refused, or by the module's own failure, which it does not survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Refuse(HsmError),
    Fail(Fault),
}

pub(crate) enum State {
    Uninitialised(Held),
    Locked { why: &'static str, held: Held },
    Operational(Box<Operational>),
    Error { fault: Fault, held: Option<Held> },
}

/// What a module without a domain key holds.
pub(crate) struct Held {
    pub(crate) root: RootKeys,
    pub(crate) module_id: [u8; 16],
    pub(crate) sealing: Sealing,
}

/// How the state file is sealed: by which kind of unlock secret, stretched with which salt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealing {
    pub(crate) kind: UnlockKind,
    pub(crate) passphrase_salt: [u8; 16],
}

/// The keys, and what is remembered with them.
pub(crate) struct Operational {
    pub(crate) root: RootKeys,
    pub(crate) keyring: Keyring,
    pub(crate) module_id: [u8; 16],
    pub(crate) domain_id: [u8; 16],
    pub(crate) identity_key: [u8; 32],
    pub(crate) boot_epoch: u64,
    sealing: Sealing,
    record: Mutex<Record>,
    /// Held while the state file is written, so that nobody who only reads the record waits for a disk.
    turn: Mutex<()>,
}

impl Module {
    /// Runs the self-tests and opens the state file. Whatever goes wrong is a state of the module.
    pub fn open(store: KeyStore, page: SecretPage, options: Options) -> Self {
        let Options { unlock, now, report, allow_fault_build, fault } = options;
        let corrupt = match &fault {
            Some(fault::Fault::SelfTest(name)) if fault::BUILD => Some(name.as_str()),
            Some(fault::Fault::SelfTest(_) | fault::Fault::Panic | fault::Fault::SystemCall) | None => None,
        };
        let root = RootKeys::new(page);
        let state = match selftest::run(corrupt) {
            Err(SelfTestFailed(name)) => State::Error { fault: Fault::SelfTest(name), held: None },
            Ok(()) => start(&store, root, unlock),
        };
        if let State::Error { fault, .. } = &state {
            tracing::error!(%fault, "the module is in the error state");
        }
        Self { state: RwLock::new(state), store, now, report, allow_fault_build }
    }

    pub fn state(&self) -> ModuleState {
        self.read().kind()
    }

    /// Outcomes of the confinement, as the status tells them.
    pub fn report(&self) -> &[(String, String)] {
        &self.report
    }

    /// Carries out one request for a channel of `role`.
    pub fn serve(&self, role: Role, request: Request) -> Result<Reply, HsmError> {
        self.try_serve(role, request).map_err(|stop| match stop {
            Stop::Refuse(error) => error,
            Stop::Fail(fault) => {
                self.fail(fault);
                HsmError::ErrorState
            }
        })
    }

    fn try_serve(&self, role: Role, request: Request) -> Result<Reply, Stop> {
        hsm_serve::guard(request.service(), role, self.state())?;
        match request {
            Request::Status => Ok(Reply::Status(Box::new(self.status()))),
            // the listener keeps the pins and carries this out itself
            Request::Enrol { .. } => Err(HsmError::Unsupported.into()),
            Request::Initialise { .. } | Request::Restore { .. } if fault::BUILD && !self.allow_fault_build => {
                Err(HsmError::Unsupported.into())
            }
            Request::Initialise { threshold, shares } => {
                service::admin::initialise(&mut self.write(), &self.store, threshold, shares)
            }
            Request::Restore { package, shares } => {
                service::admin::restore(&mut self.write(), &self.store, &package, &shares)
            }
            Request::RotateDomain => service::admin::rotate_domain(&mut self.write(), &self.store),
            Request::Zeroise => service::admin::zeroise(&mut self.write(), &self.store),
            Request::GenerateKey(new) => {
                let made = service::generate::make(&new, (self.now)())?;
                service::generate::keep(self.read().operational()?, &self.store, &new, made)
            }
            request @ (Request::GenerateDataKeys { .. }
            | Request::Encrypt { .. }
            | Request::Decrypt { .. }
            | Request::ReEncrypt { .. }
            | Request::Sign { .. }
            | Request::PublicKey { .. }
            | Request::Mac { .. }
            | Request::Random { .. }
            | Request::SystemSeal { .. }
            | Request::SystemOpen { .. }
            | Request::SignCheckpoint { .. }
            | Request::SignBatch { .. }
            | Request::Counters { .. }
            | Request::Rewrap { .. }
            | Request::Backup { .. }) => {
                let state = self.read();
                service::Desk { module: state.operational()?, store: &self.store, now: &self.now }.serve(request)
            }
        }
    }

    fn status(&self) -> ModuleStatus {
        let state = self.read();
        let mut status = ModuleStatus {
            module: "hsm-sim".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.kind(),
            module_id: [0; 16],
            boot_epoch: 0,
            domain_id: [0; 16],
            generation: 0,
            clusters: Vec::new(),
            backup_made: false,
            fault_build: fault::BUILD,
            capabilities: Capabilities {
                levels: vec![ProtectionLevel::Boundary],
                specs: KeySpec::ALL.to_vec(),
                algorithms: SigningAlgorithm::ALL.to_vec(),
                services: Service::ALL.to_vec(),
                remembers_checkpoints: true,
            },
            report: self.report.clone(),
            identity_key: [0; 32],
        };
        match &*state {
            State::Uninitialised(held) => {
                status.module_id = held.module_id;
                status.boot_epoch = FIRST_BOOT_EPOCH;
                status.identity_key = held.root.identity().verifying_key().to_bytes();
            }
            State::Locked { why, held: _ } => status.report.push(("unlock".to_owned(), (*why).to_owned())),
            State::Operational(module) => {
                let record = module.record();
                status.module_id = module.module_id;
                status.boot_epoch = module.boot_epoch;
                status.domain_id = module.domain_id;
                status.generation = module.root.generation();
                status.clusters.clone_from(&record.domain.clusters);
                status.backup_made = record.backup_made;
                status.identity_key = module.identity_key;
            }
            State::Error { fault, held: _ } => status.report.push(("fault".to_owned(), fault.to_string())),
        }
        status
    }

    /// Ends service: keys are wiped, only status and zeroise are left.
    fn fail(&self, fault: Fault) {
        tracing::error!(%fault, "the module is in the error state");
        *self.write() = State::Error { fault, held: None };
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state that the folder and the unlock secret lead to.
fn start(store: &KeyStore, mut root: RootKeys, unlock: Option<Unlock>) -> State {
    let stop = |fault| State::Error { fault, held: None };
    let file = match store.read() {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(%error, "the state file cannot be read");
            return stop(Fault::StateFile(StateFileFault::Io));
        }
    };
    let Some(file) = file else {
        return blank(root, unlock.as_ref()).unwrap_or_else(|EntropyFault| stop(Fault::Entropy));
    };
    let clear = match ClearHeader::parse(&file) {
        Ok(clear) => clear,
        // the unlock key is kept: an officer may zeroise and restore a backup
        Err(fault) => return damaged(root, unlock.as_ref(), fault),
    };
    let sealing = Sealing { kind: clear.unlock_kind, passphrase_salt: clear.passphrase_salt };
    let locked = |root, why| State::Locked { why, held: Held { root, module_id: [0; 16], sealing } };
    let Some(unlock) = unlock else { return locked(root, "no unlock secret was given") };
    if unlock.kind() != clear.unlock_kind {
        return locked(root, "the unlock secret is of another kind than the state file's");
    }
    let Ok(key) = unlock.key(&clear.passphrase_salt) else { return locked(root, "the passphrase could not be used") };
    root.set_unlock_key(&key);
    match Record::open(&file, key.expose(), &mut root) {
        Ok(record) => boot(store, root, record, sealing),
        Err(StateFileFault::WrongUnlock) => locked(root, "the unlock secret is not the state file's"),
        Err(fault @ (StateFileFault::Damaged | StateFileFault::Format | StateFileFault::Io)) => {
            State::Error { fault: Fault::StateFile(fault), held: Some(Held { root, module_id: [0; 16], sealing }) }
        }
    }
}

/// A folder without a state: identity and unlock key are held, nothing is written.
fn blank(mut root: RootKeys, unlock: Option<&Unlock>) -> Result<State, EntropyFault> {
    root.generate_identity()?;
    let sealing = hold_unlock_key(&mut root, unlock)?;
    Ok(State::Uninitialised(Held { root, module_id: random::array()?, sealing }))
}

fn damaged(mut root: RootKeys, unlock: Option<&Unlock>, fault: StateFileFault) -> State {
    let held = hold_unlock_key(&mut root, unlock).ok().map(|sealing| Held { root, module_id: [0; 16], sealing });
    State::Error { fault: Fault::StateFile(fault), held }
}

/// A passphrase that cannot be stretched counts as none.
fn hold_unlock_key(root: &mut RootKeys, unlock: Option<&Unlock>) -> Result<Sealing, EntropyFault> {
    let kind = unlock.map_or(UnlockKind::Secret, Unlock::kind);
    let passphrase_salt = match kind {
        UnlockKind::Secret => [0; 16],
        UnlockKind::Passphrase => random::array()?,
    };
    if let Some(key) = unlock.and_then(|unlock| unlock.key(&passphrase_salt).ok()) {
        root.set_unlock_key(&key);
    }
    Ok(Sealing { kind, passphrase_salt })
}

/// Counts the start, durably, and serves.
fn boot(store: &KeyStore, root: RootKeys, mut record: Record, sealing: Sealing) -> State {
    record.boot_epoch += 1;
    record.writes += 1;
    match write(store, &root, &record, sealing) {
        Ok(()) => State::Operational(Box::new(Operational::new(root, record, sealing))),
        Err(Stop::Fail(fault)) => State::Error { fault, held: None },
        Err(Stop::Refuse(_)) => State::Error { fault: Fault::StateFile(StateFileFault::Io), held: None },
    }
}

/// Makes `record` the state file.
pub(crate) fn write(store: &KeyStore, root: &RootKeys, record: &Record, sealing: Sealing) -> Result<(), Stop> {
    let unlock_key = root.unlock_key().ok_or(HsmError::StateForbidden)?;
    let file = record.seal(root, unlock_key, sealing.kind, sealing.passphrase_salt)?;
    store.replace(&file).map_err(|error| {
        tracing::error!(%error, "the state file could not be written");
        Stop::Refuse(HsmError::StateNotDurable)
    })
}

impl State {
    pub(crate) fn kind(&self) -> ModuleState {
        match self {
            Self::Uninitialised(_) => ModuleState::Uninitialised,
            Self::Locked { .. } => ModuleState::Locked,
            Self::Operational(_) => ModuleState::Operational,
            Self::Error { .. } => ModuleState::Error,
        }
    }

    pub(crate) fn operational(&self) -> Result<&Operational, HsmError> {
        match self {
            Self::Operational(module) => Ok(module),
            Self::Uninitialised(_) | Self::Locked { .. } => Err(HsmError::StateForbidden),
            Self::Error { .. } => Err(HsmError::ErrorState),
        }
    }

    /// Takes the state's data out; what is left behind serves nothing.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Error { fault: Fault::Interrupted, held: None })
    }
}

impl Operational {
    pub(crate) fn new(root: RootKeys, record: Record, sealing: Sealing) -> Self {
        Self {
            keyring: Keyring::new(),
            module_id: record.module_id,
            domain_id: record.domain.id,
            identity_key: root.identity().verifying_key().to_bytes(),
            boot_epoch: record.boot_epoch,
            root,
            sealing,
            record: Mutex::new(record),
            turn: Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record durably, one change at a time; it counts when this returns. `Ok(None)`: nothing to change.
    pub(crate) fn commit(
        &self,
        store: &KeyStore,
        change: impl FnOnce(&mut Record) -> Result<Change, HsmError>,
    ) -> Result<(), Stop> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.record().clone();
        match change(&mut next)? {
            Change::None => Ok(()),
            Change::Made => {
                next.writes += 1;
                write(store, &self.root, &next, self.sealing)?;
                *self.record() = next;
                Ok(())
            }
        }
    }

    /// The next generation of the domain key, durable. An older backup does not hold it.
    pub(crate) fn rotate(&mut self, store: &KeyStore) -> Result<u32, Stop> {
        if !self.root.generate_domain_key()? {
            return Err(HsmError::OutOfRange.into());
        }
        let outcome = self.commit(store, |record| {
            record.backup_made = false;
            Ok(Change::Made)
        });
        if outcome.is_err() {
            self.root.pop_domain_key();
        }
        outcome.map(|()| self.root.generation())
    }

    pub(crate) fn into_held(self) -> Held {
        Held { root: self.root, module_id: self.module_id, sealing: self.sealing }
    }

    pub(crate) fn has_cluster(&self, cluster: &TenantId) -> bool {
        self.record().domain.clusters.contains(cluster)
    }
}

/// Whether a change of the record came to anything.
pub(crate) enum Change {
    None,
    Made,
}

impl From<HsmError> for Stop {
    fn from(error: HsmError) -> Self {
        Self::Refuse(error)
    }
}

impl From<EntropyFault> for Stop {
    fn from(_: EntropyFault) -> Self {
        Self::Fail(Fault::Entropy)
    }
}

impl From<NotGenerated> for Stop {
    fn from(why: NotGenerated) -> Self {
        match why {
            NotGenerated::Entropy => Self::Fail(Fault::Entropy),
            NotGenerated::Inconsistent => Self::Fail(Fault::PairwiseConsistency),
        }
    }
}

impl From<NotWrapped> for Stop {
    fn from(_: NotWrapped) -> Self {
        Self::Fail(Fault::Entropy)
    }
}

/// Of a module whose state file is not there yet.
pub(crate) const FIRST_BOOT_EPOCH: u64 = 1;
