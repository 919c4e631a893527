//! One token: login, sessions, and what to do when it fails.
//!
//! ```text
//! data error ─────────► the caller's answer; the session stays
//! session, handle,
//! login lost ─────────► new session, object found again, login again; once
//! ambiguous error ────► canary: good ─► once more, then Unavailable;  bad ─► breaker opens
//! breaker open ───────► Unavailable; one attempt at a time: new login, then C_Finalize and C_Initialize
//! ```
//!
//! Always: one login a token, through the keeper session; a job holds one session from beginning to end.
//! Never: a PIN that was refused is tried again; the last try that a token allows is used up by a machine.

use crate::error::Fault;
use crate::health::{Admit, Breaker, Canary};
use crate::library::{Library, LoadError, Loaded, Seat, lock, next_number};
use crate::pin::Pin;
use crate::uri::Uri;
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use hsm_api::HsmError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// A token and our login to it.
pub(crate) struct Device {
    library: Arc<Library>,
    number: u64,
    uri: Uri,
    pin: Mutex<AuthPin>,
    pin_refused: AtomicBool,
    /// Object handles are good within one epoch.
    epoch: AtomicU64,
    sessions_max: usize,
    breaker: Breaker,
    pub(crate) canary: Canary,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// A job's session.
pub(crate) struct Link<'a> {
    device: &'a Device,
    context: &'a Pkcs11,
    seat: Seat,
    epoch: u64,
}

impl Device {
    pub(crate) fn open(uri: Uri, pin: Pin, sessions_max: usize) -> Result<Self, LoadError> {
        Ok(Self {
            library: Library::open(uri.module_path())?,
            number: next_number(),
            uri,
            pin: Mutex::new(pin.secret),
            pin_refused: AtomicBool::new(false),
            epoch: AtomicU64::new(next_number()),
            sessions_max,
            breaker: Breaker::default(),
            canary: Canary::default(),
        })
    }

    /// The PIN was refused, now or earlier.
    pub(crate) fn is_locked(&self) -> bool {
        self.pin_refused.load(Ordering::Relaxed)
    }

    /// Calls are let through.
    pub(crate) fn is_up(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Carries out `job` on one session; it may be begun a second time. What it made durable before it failed stays.
    pub(crate) fn run<T>(&self, mut job: impl FnMut(&mut Link<'_>) -> Result<T, Fault>) -> Result<T, HsmError> {
        match self.breaker.admit() {
            Admit::Go => {}
            Admit::Refuse => return Err(HsmError::Unavailable),
            Admit::Attempt(attempt) => {
                if !attempt.end(self.recover()) {
                    return Err(self.unavailable());
                }
            }
        }
        let mut fault = match self.once(&mut job) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        if self.prepare_retry(fault) {
            fault = match self.once(&mut job) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
        }
        Err(self.verdict(fault))
    }

    /// Whether a second try makes sense, and all that it needs.
    fn prepare_retry(&self, fault: Fault) -> bool {
        match fault {
            Fault::Session => true,
            Fault::Handle => {
                self.epoch.store(next_number(), Ordering::Release);
                true
            }
            Fault::Login => {
                self.library.read().unseat(self.number);
                true
            }
            // SoftHSM2 before 2.6.2 answers so where two sessions search and create at once (softhsm/SoftHSMv2 #573)
            Fault::Ambiguous => self.once(&mut |link| link.prove_alive_now()).is_ok(),
            Fault::Answer(_) | Fault::Data | Fault::Pin | Fault::Dead => false,
        }
    }

    /// The answer to a job that failed for good.
    fn verdict(&self, fault: Fault) -> HsmError {
        match fault {
            Fault::Answer(error) => error,
            // whoever sends data of callers looks at this himself; here it is the module that lacks something
            Fault::Data => HsmError::Unsupported,
            Fault::Pin => HsmError::StateForbidden,
            Fault::Ambiguous => {
                if self.once(&mut |link| link.prove_alive()).is_err() {
                    self.trip();
                }
                HsmError::Unavailable
            }
            Fault::Session | Fault::Handle | Fault::Login | Fault::Dead => {
                self.trip();
                HsmError::Unavailable
            }
        }
    }

    fn trip(&self) {
        self.canary.forget();
        self.breaker.open();
    }

    fn unavailable(&self) -> HsmError {
        if self.is_locked() { HsmError::StateForbidden } else { HsmError::Unavailable }
    }

    /// The ladder: a new login; then the whole module anew.
    fn recover(&self) -> bool {
        self.library.read().unseat(self.number);
        self.canary.forget();
        if self.once(&mut |link| link.prove_alive_now()).is_ok() {
            return true;
        }
        if self.is_locked() || self.library.restart().is_err() {
            return false;
        }
        self.once(&mut |link| link.prove_alive_now()).is_ok()
    }

    fn once<T>(&self, job: &mut impl FnMut(&mut Link<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let loaded = self.library.read();
        if !loaded.is_seated(self.number) {
            self.connect(&loaded)?;
        }
        let seat = loaded.take(self.number, self.sessions_max)?;
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut link = Link { device: self, context: &loaded.context, seat, epoch };
        let outcome = job(&mut link);
        let Link { seat, .. } = link;
        loaded.give_back(self.number, seat);
        outcome
    }

    /// Finds the token, opens the keeper and logs in, once.
    fn connect(&self, loaded: &Loaded) -> Result<(), Fault> {
        let pin = lock(&self.pin);
        if loaded.is_seated(self.number) {
            return Ok(());
        }
        if self.is_locked() {
            return Err(Fault::Pin);
        }
        let (slot, token) = self.find(&loaded.context)?;
        if token.user_pin_locked() || token.user_pin_final_try() {
            tracing::error!("the token's PIN is locked or has one try left: log in by hand first");
            self.pin_refused.store(true, Ordering::Relaxed);
            return Err(Fault::Pin);
        }
        let keeper = loaded.context.open_rw_session(slot).map_err(|error| log(&error))?;
        match keeper.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                let fault = log(&error);
                if fault == Fault::Pin {
                    tracing::error!("the token refused the PIN: it is not tried again before a restart");
                    self.pin_refused.store(true, Ordering::Relaxed);
                }
                return Err(fault);
            }
        }
        loaded.seat(self.number, slot, keeper);
        self.epoch.store(next_number(), Ordering::Release);
        Ok(())
    }

    /// The one slot whose token is the URI's; slot numbers change, labels and serials do not.
    fn find(&self, context: &Pkcs11) -> Result<(Slot, TokenInfo), Fault> {
        let slots = context.get_slots_with_token().map_err(|error| log(&error))?;
        let same = |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|asked| asked == is);
        let mut found = None;
        for slot in slots {
            let Ok(token) = context.get_token_info(slot) else { continue };
            let ours = token.token_initialized()
                && same(&self.uri.token, token.label())
                && same(&self.uri.serial, token.serial_number())
                && same(&self.uri.manufacturer, token.manufacturer_id())
                && same(&self.uri.model, token.model());
            if ours && found.replace((slot, token)).is_some() {
                tracing::error!(uri = ?self.uri, "the URI fits several tokens: add its serial");
                return Err(Fault::Dead);
            }
        }
        found.ok_or_else(|| {
            tracing::warn!(uri = ?self.uri, "no such token");
            Fault::Dead
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.library.read().unseat(self.number);
    }
}

impl Link<'_> {
    /// A second session for a moment: what fails there does not close this one, whose session objects live on.
    pub(crate) fn beside(&self) -> Link<'_> {
        Link { device: self.device, context: self.context, seat: self.seat.beside(), epoch: self.epoch }
    }

    /// Handles that were found in another epoch are stale.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// One call on the job's session. A session that gave anything but a clean answer is closed, and the next call
    /// opens a new one: an abandoned operation leaves a session stuck for ever.
    pub(crate) fn call<T>(&mut self, call: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Fault> {
        let session = match self.seat.session.take() {
            Some(session) => session,
            None => self.context.open_rw_session(self.seat.slot).map_err(|error| log(&error))?,
        };
        match call(&session) {
            Ok(done) => {
                self.seat.session = Some(session);
                Ok(done)
            }
            Err(error) => {
                let fault = log(&error);
                self.seat.session = Some(session).filter(|_| fault.is_clean());
                Err(fault)
            }
        }
    }

    /// Objects that match, at most [`FOUND_MAX`].
    pub(crate) fn find(&mut self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Fault> {
        self.call(|session| session.iter_objects(template)?.take(FOUND_MAX).collect())
    }

    pub(crate) fn attributes(&mut self, object: ObjectHandle, ask: &[AttributeType]) -> Result<Vec<Attribute>, Fault> {
        self.call(|session| session.get_attributes(object, ask))
    }

    pub(crate) fn destroy(&mut self, object: ObjectHandle) -> Result<(), Fault> {
        self.call(|session| session.destroy_object(object))
    }

    pub(crate) fn sign(
        &mut self,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        input: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        self.call(|session| session.sign(mechanism, key, input))
    }

    /// From the token's generator.
    pub(crate) fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        self.call(|session| session.generate_random_slice(&mut bytes))?;
        Ok(bytes)
    }

    pub(crate) fn random_array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.call(|session| session.generate_random_slice(&mut bytes))?;
        Ok(bytes)
    }

    /// Longest RSA keys that the token says it makes.
    pub(crate) fn rsa_bits_max(&mut self) -> Result<usize, Fault> {
        let asked = self.context.get_mechanism_info(self.seat.slot, MechanismType::RSA_PKCS_KEY_PAIR_GEN);
        asked.map(|info| info.max_key_size()).map_err(|error| log(&error))
    }

    /// Tells garbage from a dead device. `Ok`: the token works, so an ambiguous error was about the data.
    pub(crate) fn prove_alive(&mut self) -> Result<(), Fault> {
        let device = self.device;
        device.canary.prove(self)
    }

    /// As [`Self::prove_alive`], at this moment: something that should be there is not.
    pub(crate) fn prove_alive_now(&mut self) -> Result<(), Fault> {
        let device = self.device;
        device.canary.prove_now(self)
    }
}

fn log(error: &Error) -> Fault {
    let fault = Fault::from(error);
    tracing::debug!(%error, ?fault, "the module answered");
    fault
}

/// Most objects of one search.
const FOUND_MAX: usize = 64;
