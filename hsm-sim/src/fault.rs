//! Fault injection for tests: a build with the feature `fault` says so in its status, and refuses to be initialised
//! unless it was allowed by name.
//!
//! Never: a fault in a build without the feature.

/// Whether this build can inject faults.
pub const BUILD: bool = cfg!(feature = "fault");

/// A fault that is asked for at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The named known-answer test sees a flipped bit.
    SelfTest(String),
    /// A thread panics.
    Panic,
    /// The confined process asks for a system call that is not on its list.
    SystemCall,
}

/// Not a fault, or a build that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not self-test:NAME, panic or system-call, or this build injects no faults")]
pub struct MalformedFault;

impl std::str::FromStr for Fault {
    type Err = MalformedFault;

    fn from_str(raw: &str) -> Result<Self, MalformedFault> {
        match raw.split_once(':') {
            Some(("self-test", name)) if BUILD => Ok(Self::SelfTest(name.to_owned())),
            None if BUILD && raw == "panic" => Ok(Self::Panic),
            None if BUILD && raw == "system-call" => Ok(Self::SystemCall),
            _ => Err(MalformedFault),
        }
    }
}
