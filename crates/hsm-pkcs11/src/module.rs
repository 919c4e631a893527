//! The module: a finite state machine around a token.
//!
//! ```text
//! start ─► login ─┬─ PIN refused ─► Locked        (left by a restart; the PIN is not tried again before)
//!                 └─ probe ─┬─ lacks what is needed, or the domain's record or keys are damaged ─► Error
//!                           ├─ no domain in the token ─► Uninitialised ─ initialise ─► Operational
//!                           └─ domain found, its keys verified, this start counted ────► Operational
//! any state with a login ─ zeroise ─► Uninitialised
//! ```
//!
//! Always: role and state are looked up in `hsm_api::state::allowed` before a request is touched.
//! Never: an answer that depends on a token which has not been shown to work.

use crate::admin;
use crate::counter::Counters;
use crate::der;
use crate::device::Device;
use crate::domain::{DOMAIN, Memory};
use crate::keys::{Domain, GENERATION, Keyring};
use crate::library::{LoadError, lock};
use crate::pin::Pin;
use crate::probe::{self, Proven};
use crate::resident::Resident;
use crate::seal::IvSource;
use crate::service::Desk;
use crate::store::{self, Record, Stored};
use crate::uri::Uri;
use envelope::Timestamp;
use envelope::mac::sha256;
use hsm_api::{HsmError, KeySpec, ModuleState, ModuleStatus, Reply, Request, Role, TenantId};
use hsm_serve::{Lane, Module as _, guard};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// The clock, asked only where a key has a not-after.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a module is started with.
pub struct Options {
    pub uri: Uri,
    pub pin: Pin,
    pub now: Now,
    /// Outcomes of the confinement, for the status.
    pub report: Vec<(String, String)>,
    /// Most sessions at work at once.
    pub sessions_max: usize,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Options")
    }
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the token is not there, or does not answer: {0}")]
    Token(HsmError),
}

/// A boundary in this process, around one token.
pub struct Module {
    device: Device,
    state: RwLock<Arc<State>>,
    /// Held by whoever changes the state.
    turn: Mutex<()>,
    proven: Proven,
    now: Now,
    report: Vec<(String, String)>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("device", &self.device).field("state", &self.state()).finish_non_exhaustive()
    }
}

pub(crate) enum State {
    Uninitialised { module_id: [u8; 16] },
    Locked,
    Operational(Box<Operational>),
    Error { why: &'static str },
}

/// The keys' references, and what is remembered with them.
pub(crate) struct Operational {
    pub(crate) domain: Domain,
    pub(crate) identity: Resident,
    pub(crate) module_id: [u8; 16],
    pub(crate) boot_epoch: u64,
    pub(crate) keyring: Keyring,
    pub(crate) counters: Counters,
    memory: Mutex<(u64, Memory)>,
    /// Held while the record is written, so that nobody who only reads it waits for the token.
    turn: Mutex<()>,
}

impl Module {
    /// Logs in, probes the token and finds the domain in it.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { uri, pin, now, mut report, sessions_max } = options;
        if pin.exposed {
            report.push(("pin_source".to_owned(), "the PIN's file is readable by others".to_owned()));
        }
        let device = Device::open(uri, pin, sessions_max.max(1))?;
        let (proven, state) = match device.run(probe::run) {
            Ok(proven) => {
                let state = start(&device, &proven).map_err(OpenError::Token)?;
                (proven, state)
            }
            Err(_) if device.is_locked() => (Proven::nothing(), State::Locked),
            Err(error) => return Err(OpenError::Token(error)),
        };
        if let State::Error { why } = &state {
            tracing::error!(why, "the module is in the error state");
        }
        let state = RwLock::new(Arc::new(state));
        Ok(Self { device, state, turn: Mutex::default(), proven, now, report })
    }

    fn try_serve(&self, role: Role, request: Request) -> Result<Reply, HsmError> {
        guard(request.service(), role, self.state())?;
        match request {
            Request::Status => Ok(Reply::Status(Box::new(self.status()))),
            Request::Initialise { threshold, shares } => {
                let _turn = lock(&self.turn);
                let State::Uninitialised { module_id } = *self.read() else { return Err(HsmError::StateForbidden) };
                let module = admin::initialise(&self.device, &self.proven, module_id, threshold, shares)?;
                self.enter(State::Operational(Box::new(module)));
                Ok(admin::no_backup())
            }
            Request::Zeroise => {
                let _turn = lock(&self.turn);
                // nothing that is out may use a key of before
                let module_id = admin::zeroise(&self.device, || self.enter(State::Error { why: "zeroising" }))?;
                self.enter(State::Uninitialised { module_id });
                Ok(Reply::Done)
            }
            // pins are the listener's; the domain key is a token's own, and so is its backup
            Request::Enrol { .. }
            | Request::Restore { .. }
            | Request::Backup { .. }
            | Request::RotateDomain
            | Request::Rewrap { .. } => Err(HsmError::Unsupported),
            request @ (Request::GenerateKey(_)
            | Request::GenerateDataKeys { .. }
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
            | Request::Counters { .. }) => {
                let state = self.read();
                let module = state.operational()?;
                Desk { module, device: &self.device, proven: &self.proven, now: &self.now }.serve(request)
            }
        }
    }

    fn status(&self) -> ModuleStatus {
        let state = self.read();
        let mut status = ModuleStatus {
            module: "hsm-pkcs11".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state(),
            module_id: [0; 16],
            boot_epoch: 0,
            domain_id: [0; 16],
            generation: 0,
            clusters: Vec::new(),
            backup_made: false,
            fault_build: false,
            capabilities: self.proven.capabilities(),
            report: self.report.clone(),
            identity_key: [0; 32],
        };
        let mut report = |name: &str, outcome: String| status.report.push((name.to_owned(), outcome));
        report("token", if self.device.is_up() { "available" } else { "unavailable" }.to_owned());
        if self.device.is_locked() {
            report("unlock", "the PIN was refused, and is not tried again before a restart".to_owned());
        }
        match &*state {
            State::Uninitialised { module_id } => status.module_id = *module_id,
            State::Locked => {}
            State::Operational(module) => {
                let memory = module.memory();
                report("backup", "of the token itself, by its vendor's means: this process cannot make one".to_owned());
                let source = self.proven.iv.map_or("nobody", IvSource::told);
                report("initialisation_vectors", format!("made by {source}"));
                let advised = module.counters.advised();
                if advised > 0 {
                    report("rotate", format!("{advised} keys are past 2^30 invocations: rotate them"));
                }
                status.module_id = module.module_id;
                status.boot_epoch = module.boot_epoch;
                status.domain_id = module.domain.id;
                status.generation = GENERATION;
                status.clusters.clone_from(&memory.clusters);
                status.backup_made = true;
                match der::ed25519_of(&memory.identity_spki) {
                    Some(key) => status.identity_key = key,
                    None => {
                        let spki: String = memory.identity_spki.iter().map(|byte| format!("{byte:02x}")).collect();
                        let text = format!("ECDSA P-256 over SHA-256, r then s; SubjectPublicKeyInfo {spki}");
                        status.report.push(("identity".to_owned(), text));
                        status.identity_key = sha256(&memory.identity_spki);
                    }
                }
            }
            State::Error { why } => report("fault", (*why).to_owned()),
        }
        status
    }

    fn enter(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    /// The state as it is now; a request that is at work keeps the one that it began in.
    fn read(&self) -> Arc<State> {
        let state: RwLockReadGuard<'_, _> = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state)
    }
}

impl hsm_serve::Module for Module {
    fn state(&self) -> ModuleState {
        // a PIN that was changed while we were logged in
        if self.device.is_locked() { ModuleState::Locked } else { self.read().kind() }
    }

    /// Whatever enters the token goes to the pool: its calls block and cannot be cancelled.
    fn lane(&self, request: &Request) -> Lane {
        match request {
            Request::Status => Lane::Inline,
            Request::GenerateKey(_)
            | Request::GenerateDataKeys { .. }
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
            | Request::Initialise { .. }
            | Request::Enrol { .. }
            | Request::Backup { .. }
            | Request::Restore { .. }
            | Request::RotateDomain
            | Request::Zeroise => Lane::Pool,
        }
    }

    fn serve(&self, role: Role, request: Request) -> Result<Reply, HsmError> {
        self.try_serve(role, request)
    }
}

/// The state that the token's content leads to.
fn start(device: &Device, proven: &Proven) -> Result<State, HsmError> {
    if let Some(why) = proven.lacks() {
        return Ok(State::Error { why });
    }
    let record = match device.run(|link| store::read(link, DOMAIN))? {
        Stored::Missing => {
            let module_id = device.run(|link| link.random_array())?;
            return Ok(State::Uninitialised { module_id });
        }
        Stored::Damaged => return Ok(State::Error { why: "the domain's record in the token is damaged" }),
        Stored::Whole(record) => record,
    };
    let Some(mut memory) = Memory::decode(&record.body) else {
        return Ok(State::Error { why: "the domain's record is of a format that this version does not know" });
    };
    memory.boot_epoch = memory.boot_epoch.saturating_add(1);
    let module = Operational::new(record, memory);
    // the keys first: a token that lost them is not counted as started
    device.canary.keep(Arc::clone(&module.domain.hmac));
    let found = device.run(|link| {
        link.prove_alive()?;
        module.identity.locate(link).map(drop)
    });
    match found {
        Ok(()) => {}
        Err(HsmError::TokenRejected | HsmError::Unavailable) => {
            // an officer may still zeroise: what is gone cannot vouch for the token
            device.canary.release();
            return Ok(State::Error { why: "the domain's keys are not in the token" });
        }
        Err(error) => return Err(error),
    }
    module.commit(device, |_| Ok(Change::Made))?;
    Ok(State::Operational(Box::new(module)))
}

impl State {
    fn kind(&self) -> ModuleState {
        match self {
            Self::Uninitialised { .. } => ModuleState::Uninitialised,
            Self::Locked => ModuleState::Locked,
            Self::Operational(_) => ModuleState::Operational,
            Self::Error { .. } => ModuleState::Error,
        }
    }

    fn operational(&self) -> Result<&Operational, HsmError> {
        match self {
            Self::Operational(module) => Ok(module),
            Self::Uninitialised { .. } | Self::Locked => Err(HsmError::StateForbidden),
            Self::Error { .. } => Err(HsmError::ErrorState),
        }
    }
}

/// Whether a change of the memory came to anything.
pub(crate) enum Change {
    None,
    Made,
}

impl Operational {
    pub(crate) fn new(record: Record, memory: Memory) -> Self {
        Self {
            domain: Domain { id: memory.domain_id, hmac: Arc::new(memory.hmac.resident()) },
            identity: memory.identity.resident(),
            module_id: memory.module_id,
            boot_epoch: memory.boot_epoch,
            keyring: Keyring::default(),
            counters: Counters::default(),
            memory: Mutex::new((record.sequence, memory)),
            turn: Mutex::default(),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        lock(&self.memory).1.clone()
    }

    pub(crate) fn has_cluster(&self, cluster: &TenantId) -> bool {
        lock(&self.memory).1.clusters.contains(cluster)
    }

    /// Changes the memory durably, one change at a time; it counts when this returns.
    pub(crate) fn commit(
        &self,
        device: &Device,
        change: impl FnOnce(&mut Memory) -> Result<Change, HsmError>,
    ) -> Result<(), HsmError> {
        let _turn = lock(&self.turn);
        let (sequence, mut next) = lock(&self.memory).clone();
        match change(&mut next)? {
            Change::None => Ok(()),
            Change::Made => {
                let body = next.encode();
                let sequence = device.run(|link| store::write(link, DOMAIN, sequence, &body))?;
                *lock(&self.memory) = (sequence, next);
                Ok(())
            }
        }
    }
}

impl Proven {
    /// Of a token that nobody could log in to.
    fn nothing() -> Self {
        Self { iv: None, hmac: false, records: false, specs: Vec::new(), algorithms: Vec::new(), ed25519: Vec::new() }
    }

    /// What signs counters: Ed25519 where the token has it.
    pub(crate) fn identity_spec(&self) -> KeySpec {
        if self.specs.contains(&KeySpec::EccNistEdwards25519) {
            KeySpec::EccNistEdwards25519
        } else {
            KeySpec::EccNistP256
        }
    }
}
