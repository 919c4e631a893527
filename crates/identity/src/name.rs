//! Names that callers give: parsed once, at the edge.

use std::fmt;
use std::sync::Arc;

/// Longest name of a policy or a role, and longest display name.
pub const NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name of its kind")]
pub struct Malformed;

/// Declares a name of 1 to 64 of `[a-z0-9_.-]`. There is one spelling of a name: nothing is folded or trimmed.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(raw: &str) -> Result<Self, Malformed> {
                let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
                // A segment of a storage path is never `.` or `..`.
                let sound = (1..=NAME_BYTES_MAX).contains(&raw.len()) && raw.bytes().all(legal) && raw != "." && raw != "..";
                if sound { Ok(Self(raw.into())) } else { Err(Malformed) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A policy's name. `root` and `default` are built in.
    PolicyName
}

name! {
    /// A certificate role's name.
    RoleName
}

impl PolicyName {
    /// Allows everything. Never written; given to the root token, and by it to tokens of its own.
    pub fn root() -> Self {
        Self("root".into())
    }

    /// What is added to tokens that are made as Vault makes them.
    pub(crate) fn default_policy() -> Self {
        Self("default".into())
    }

    /// Whether it is the built-in policy that allows everything.
    pub fn is_root(&self) -> bool {
        &*self.0 == "root"
    }
}

/// Names a token without being it: 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Accessor(Box<str>);

impl Accessor {
    pub fn parse(raw: &str) -> Result<Self, Malformed> {
        let sound = raw.len() == 32 && raw.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if sound { Ok(Self(raw.into())) } else { Err(Malformed) }
    }

    pub(crate) fn from_random(random: [u8; 16]) -> Self {
        Self(hex::encode(random).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What people call a token: at most 64 visible ASCII characters, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DisplayName(Box<str>);

impl DisplayName {
    pub fn parse(raw: &str) -> Result<Self, Malformed> {
        let sound = raw.len() <= NAME_BYTES_MAX && raw.bytes().all(|byte| byte.is_ascii_graphic());
        if sound { Ok(Self(raw.into())) } else { Err(Malformed) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_spelling_of_a_name() {
        let long = "a".repeat(64);
        for (raw, legal) in [
            ("a", true),
            ("team-1_x.y", true),
            (long.as_str(), true),
            (&"a".repeat(65), false),
            ("", false),
            (".", false),
            ("..", false),
            ("Root", false),
            (" root", false),
            ("root ", false),
            ("ro\u{43e}t", false),
            ("a/b", false),
            ("a\0", false),
        ] {
            assert_eq!(PolicyName::parse(raw).is_ok(), legal, "{raw:?}");
            assert_eq!(RoleName::parse(raw).is_ok(), legal, "{raw:?}");
        }
    }

    #[test]
    fn accessors_and_display_names_have_bounds() {
        for (raw, legal) in [
            ("0123456789abcdef0123456789abcdef", true),
            ("0123456789ABCDEF0123456789ABCDEF", false),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(Accessor::parse(raw).is_ok(), legal, "{raw:?}");
        }
        for (raw, legal) in
            [("", true), ("ci/build#7", true), ("a b", false), ("\u{7f}", false), (&"x".repeat(65), false)]
        {
            assert_eq!(DisplayName::parse(raw).is_ok(), legal, "{raw:?}");
        }
    }
}
