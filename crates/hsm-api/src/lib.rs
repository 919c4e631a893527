//! The boundary's interface: all that both sides of it import.
//!
//! Services by role (in state OPERATIONAL unless said; `state::allowed` is the table, tested exhaustively):
//!
//! | role | services |
//! |---|---|
//! | User | status (every state), generate key, generate data keys, encrypt, decrypt, re-encrypt, sign, public key, mac, random, system seal, system open, sign checkpoint, counters, rewrap |
//! | Officer | status (every state), initialise and restore (UNINITIALISED), enrol, backup, rotate domain, zeroise (every state), counters |
//! | Auditor | status (every state), counters, public key |
//!
//! Always: a request and its longest possible reply fit one frame.
//! Never: IO here; a key in the clear on the caller's side.
#![forbid(unsafe_code)]

pub mod boundary;
pub mod checkpoint;
pub mod error;
pub mod frame;
pub mod key;
pub mod message;
pub mod state;
mod wire;

pub use boundary::{Boundary, Pending};
pub use error::HsmError;
pub use key::{
    Export, KeyBinding, KeyId, KeySpec, KeyToken, KeyUsage, NewKey, Origin, ProtectionLevel, SigningAlgorithm, TenantId,
};
pub use message::{
    BackupPackage, Capabilities, CounterPage, DataKey, DataKeyAsk, GeneratedKey, MessageToSign, ModuleStatus, OpenAsk,
    Reply, Request, SealAsk,
};
pub use state::{ModuleState, Role, Service};
