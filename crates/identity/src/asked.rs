//! What a request asks with: its parameters and how long its answer is to be wrapped, as policies may bound them.
//!
//! Never: a value in Debug, or one that is not wiped.

use envelope::SecretBytes;
use std::fmt;
use std::time::Duration;

/// What is known of the request that a decision is about.
#[derive(Debug, Clone, Copy)]
pub enum Facts<'a> {
    /// No request is meant: whether there may be one that is allowed.
    Any,
    /// A request whose parameters nobody shows: a rule that bounds some is not met by it.
    Hidden,
    Asked(&'a Asked),
}

/// What one request asks with.
#[derive(Default)]
pub struct Asked {
    parameters: Vec<(Box<str>, Given)>,
    wrap_ttl: Option<Duration>,
}

/// A parameter's value.
pub enum Given {
    /// A string, or a number or a boolean as its text.
    One(SecretBytes),
    /// A list of such.
    Many(Vec<SecretBytes>),
    /// Anything else: an object, a list of lists, null.
    Other,
}

impl Asked {
    /// `wrap_ttl`: how long the answer is to wait, wrapped.
    pub fn new(wrap_ttl: Option<Duration>) -> Self {
        Self { parameters: Vec::new(), wrap_ttl }
    }

    pub fn add(&mut self, name: &str, given: Given) {
        self.parameters.push((name.into(), given));
    }

    pub(crate) fn wrap_ttl(&self) -> Option<Duration> {
        self.wrap_ttl
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &Given)> {
        self.parameters.iter().map(|(name, given)| (&**name, given))
    }
}

impl Given {
    pub fn text(text: &str) -> Self {
        Self::One(SecretBytes::copy_from(text.as_bytes()))
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.parameters.len();
        f.debug_struct("Asked").field("parameters", &parameters).field("wrap_ttl", &self.wrap_ttl).finish()
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given")
    }
}
