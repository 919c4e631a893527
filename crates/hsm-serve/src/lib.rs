//! The listener that both boundary processes share: channels in, requests to the module, replies out.
//!
//! Always: bounded in channels, bytes a peer, time for a handshake and work that waits; a reply goes to the channel
//! that asked, in any order.
//! Never: one peer's slowness or garbage is felt by another; a panic of the module is swallowed.
#![forbid(unsafe_code)]

use hsm_api::{HsmError, ModuleState, Reply, Request, Role};

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
