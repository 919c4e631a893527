//! The listener that both boundary processes share: channels in, requests to the module, replies out.
//!
//! One thread waits on epoll, moves all bytes and carries out what takes microseconds; a bounded pool does the rest.
//!
//! Always: bounded in channels, bytes a peer, time for a handshake and work that waits; a reply goes to the channel
//! that asked, in any order; role and state are looked up for each frame.
//! Never: one peer's slowness or garbage is felt by another; a panic of the module is survived.
#![forbid(unsafe_code)]

mod bind;
mod channel;
mod listener;
mod notify;
mod pins;
mod pool;

pub use listener::{Limits, Listener, Stopper};
pub use notify::{Notify, end_with_parent};
pub use pins::{PinArgument, Pins};

use hsm_api::{HsmError, ModuleState, Reply, Request, Role, Service};

/// Where a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Microseconds: on the listener's own thread.
    Inline,
    /// Milliseconds or more: on a bounded pool beside it.
    Pool,
}

/// What answers behind the listener. It is asked from several threads at once.
pub trait Module: Send + Sync + std::fmt::Debug + 'static {
    /// The state that the listener asks [`hsm_api::state::allowed`] with.
    fn state(&self) -> ModuleState;

    /// Where this request belongs; decided before anything is carried out.
    fn lane(&self, request: &Request) -> Lane;

    /// Carries a request out, after asking [`hsm_api::state::allowed`] itself. `Enrol` never comes here: the pins are
    /// the listener's.
    fn serve(&self, role: Role, request: Request) -> Result<Reply, HsmError>;
}

/// The table, and which of its three refusals.
pub fn guard(service: Service, role: Role, state: ModuleState) -> Result<(), HsmError> {
    const STATES: [ModuleState; 4] =
        [ModuleState::Uninitialised, ModuleState::Locked, ModuleState::Operational, ModuleState::Error];
    if hsm_api::state::allowed(service, role, state) {
        Ok(())
    } else if !STATES.iter().any(|state| hsm_api::state::allowed(service, role, *state)) {
        Err(HsmError::RoleForbidden)
    } else if state == ModuleState::Error {
        Err(HsmError::ErrorState)
    } else {
        Err(HsmError::StateForbidden)
    }
}

/// Why a boundary cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the socket's folder must be this user's, and nobody else may write to it")]
    FolderExposed,
    #[error("another process answers on the socket")]
    InUse,
    #[error("something that is no socket stands at the socket's path")]
    NotASocket,
    #[error("the pins file is damaged: line {0}")]
    PinsDamaged(usize),
    #[error("at most {} pins can be known", pins::PINS_MAX)]
    TooManyPins,
    #[error("no pin is known, so nobody could connect: give --pin role=sha256:…")]
    NobodyKnown,
    #[error("the notification socket cannot be used")]
    Notify,
    #[error("the channel cannot be set up")]
    Channel(#[from] hsm_channel::ChannelError),
    #[error("the socket or the state folder cannot be used")]
    Io(#[from] std::io::Error),
}
