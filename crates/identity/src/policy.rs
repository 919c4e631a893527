//! Policies in Vault's language, HCL or JSON: paths and the capabilities on them.
//!
//! ```text
//! path "kms/keys/+/decrypt" { capabilities = ["update"] }        {"path": {"kms/*": {"capabilities": ["read", "list"]}}}
//! path "kms/keys/+/sign" { capabilities = ["update"] audit_ack = "witness" }
//! ```
//!
//! Beside them what a request must ask with ([`Limits`]): `allowed_parameters`, `denied_parameters` (values by parameter, `[]`
//! for any, `*` at a value's ends), `required_parameters`, `min_wrapping_ttl`, `max_wrapping_ttl`. `policy = "read"` and its
//! like are older words for capabilities.
//!
//! `audit_ack` is ours: a request on such a path is answered only once a signed checkpoint of the audit log (`checkpoint`), or
//! one that witnesses cosigned (`witness`), covers its record. It holds whichever rule decides, and can only be raised.
//!
//! A path ends in `*` to match all that begins so; a segment `+` matches any one segment. Stricter than Vault, on purpose:
//! what it would take literally or ignore (`*` elsewhere, `+` inside a segment, unknown keys and templates) is refused by name.
//!
//! `{{identity.entity.id}}` and its like stand for what is known of whoever asks ([`Template`]). A rule that lacks a value gives
//! nothing; where it denies, its whole policy gives nothing.
//!
//! Always: a policy is read whole or not at all.
//! Never: recursion; the grammar has a fixed depth.

mod lexer;
mod limits;
mod parser;
mod template;

pub use limits::{Limits, Values};
pub use template::Template;
pub(crate) use template::{ByGroup, Variable};

use audit::Ack;
use std::fmt;

/// Longest text of a policy, bytes.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
/// Most path blocks of a policy.
pub const POLICY_RULES_MAX: usize = 1024;
/// Longest path in a policy, bytes.
pub const RULE_PATH_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    Create,
    Read,
    Update,
    Patch,
    Delete,
    List,
    Sudo,
}

impl Capability {
    pub const ALL: [Self; 7] =
        [Self::Create, Self::Read, Self::Update, Self::Patch, Self::Delete, Self::List, Self::Sudo];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Sudo => "sudo",
        }
    }
}

/// What a rule says on its path: capabilities that it gives, or a denial of them all; what must vouch for the record; and
/// what it demands of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    given: u8,
    deny: bool,
    ack: Ack,
    limits: Option<Box<Limits>>,
}

impl Capabilities {
    pub fn gives(&self, capability: Capability) -> bool {
        self.given & (1 << capability as u8) != 0
    }

    pub fn denies(&self) -> bool {
        self.deny
    }

    pub fn give(&mut self, capability: Capability) {
        self.given |= 1 << capability as u8;
    }

    pub fn deny(&mut self) {
        self.deny = true;
    }

    /// What requests on the path wait for.
    pub fn ack(&self) -> Ack {
        self.ack
    }

    pub fn demand(&mut self, ack: Ack) {
        self.ack = ack;
    }

    /// What a request must ask with.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_deref()
    }

    /// Of a policy that gives nothing: what it denies and demands stands.
    pub(crate) fn without_gifts(&self) -> Self {
        Self { given: 0, ..self.clone() }
    }

    pub(crate) fn limit(&mut self, limits: Limits) {
        self.limits = (!limits.bound_nothing()).then(|| Box::new(limits));
    }
}

/// The path of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    pub fn parse(raw: &str) -> Result<Self, PolicyFault> {
        // As in Vault, a leading slash is the API's, not the path's.
        let raw = raw.strip_prefix('/').unwrap_or(raw);
        let body = raw.strip_suffix('*').unwrap_or(raw);
        if raw.is_empty() || raw.len() > RULE_PATH_BYTES_MAX || raw.chars().any(char::is_control) {
            return Err(PolicyFault::Path);
        }
        if body.contains('*') {
            return Err(PolicyFault::Star);
        }
        // `+*` too: the star would end a segment that is any segment already.
        if raw.split('/').any(|segment| segment.contains('+') && segment != "+") {
            return Err(PolicyFault::Plus);
        }
        if raw.contains("{{") || raw.contains("}}") {
            return Err(PolicyFault::Template);
        }
        Ok(Self(raw.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for one path only.
    pub fn is_exact(&self) -> bool {
        self.wildcard_at() == self.0.len()
    }

    /// Where the first `+` or the `*` stands, or the end.
    pub fn wildcard_at(&self) -> usize {
        self.0.find(['+', '*']).unwrap_or(self.0.len())
    }
}

/// A parsed policy: its rules, in the order of the text, and those whose paths are templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<(Pattern, Capabilities)>,
    templates: Vec<(Template, Capabilities)>,
}

impl Policy {
    /// HCL, or JSON where the first character that is not white space is `{`.
    pub fn parse(text: &str) -> Result<Self, MalformedPolicy> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(MalformedPolicy { line: 0, fault: PolicyFault::TooLong });
        }
        parser::parse(text)
    }

    pub fn rules(&self) -> &[(Pattern, Capabilities)] {
        &self.rules
    }

    pub fn templates(&self) -> &[(Template, Capabilities)] {
        &self.templates
    }
}

/// What is wrong with a policy, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MalformedPolicy {
    /// From 1; 0 where it is the whole.
    pub line: u32,
    pub fault: PolicyFault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyFault {
    TooLong,
    TooManyRules,
    /// Something else stands here than what is named.
    Expected(&'static str),
    UnterminatedString,
    UnterminatedComment,
    /// An escape that is none, or a character that must be escaped.
    StringCharacter,
    Character(char),
    UnknownKey(String),
    RepeatedKey,
    UnknownCapability(String),
    /// On which path, and what stands there.
    UnknownAck {
        path: String,
        word: String,
    },
    /// On a value of a parameter, or on `*` with values.
    Parameter(&'static str),
    /// A time that is none, or a lowest one above the highest.
    WrappingTtl,
    /// An older word for capabilities that is none.
    UnknownShorthand(String),
    /// Empty, too long, or with control characters.
    Path,
    /// `*` stands elsewhere than at the end.
    Star,
    /// `+` stands inside a segment.
    Plus,
    /// `${…}`, or a `{{…}}` that is none of those that are known.
    Template,
}

impl fmt::Display for MalformedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match &self.fault {
            PolicyFault::TooLong => write!(f, "more than {POLICY_BYTES_MAX} bytes"),
            PolicyFault::TooManyRules => write!(f, "more than {POLICY_RULES_MAX} paths"),
            PolicyFault::Expected(what) => write!(f, "expected {what}"),
            PolicyFault::UnterminatedString => f.write_str("a string does not end in its line"),
            PolicyFault::UnterminatedComment => f.write_str("a comment does not end"),
            PolicyFault::StringCharacter => f.write_str("an escape or a character that a string cannot hold"),
            PolicyFault::Character(found) => write!(f, "unexpected character {found:?}"),
            PolicyFault::UnknownKey(key) => write!(f, "unknown key {key:?}"),
            PolicyFault::RepeatedKey => f.write_str("a key stands twice"),
            PolicyFault::UnknownCapability(word) => write!(f, "unknown capability {word:?}"),
            PolicyFault::UnknownAck { path, word } => {
                write!(f, "path {path:?}: `audit_ack` is \"checkpoint\" or \"witness\", not {word:?}")
            }
            PolicyFault::Parameter(why) => f.write_str(why),
            PolicyFault::WrappingTtl => {
                f.write_str("a wrapping time is seconds or like \"1h30m\", and the lowest is not above the highest")
            }
            PolicyFault::UnknownShorthand(word) => {
                write!(f, "`policy` is \"read\", \"write\", \"sudo\" or \"deny\", not {word:?}")
            }
            PolicyFault::Path => {
                write!(f, "a path is empty, beyond {RULE_PATH_BYTES_MAX} bytes, or has control characters")
            }
            PolicyFault::Star => f.write_str("`*` may only end a path; `+` stands for one segment"),
            PolicyFault::Plus => f.write_str("`+` stands for a whole segment"),
            PolicyFault::Template => {
                f.write_str("a template that is none: `{{identity.entity.id}}` and its like are known")
            }
        }
    }
}

#[cfg(test)]
mod tests;
