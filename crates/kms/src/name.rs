//! What callers name: keys, aliases, grants, principals, requests. Parsed once, at the edge.

use hsm_api::KeyId;
use std::fmt;

/// Not a name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name of its kind")]
pub struct MalformedName;

/// How a request names a key: a UUID in lower case with hyphens, or `alias/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    Id(KeyId),
    Alias(AliasName),
}

impl KeyRef {
    pub fn parse(raw: &str) -> Result<Self, MalformedName> {
        if raw.starts_with(ALIAS_PREFIX) {
            return AliasName::parse(raw).map(Self::Alias);
        }
        KeyId::parse(raw).map(Self::Id).map_err(|_| MalformedName)
    }
}

/// `alias/` and 1 to 250 of `[a-zA-Z0-9/_-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasName(Box<str>);

impl AliasName {
    pub fn parse(raw: &str) -> Result<Self, MalformedName> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
        let name = raw.strip_prefix(ALIAS_PREFIX).ok_or(MalformedName)?;
        let sound = (1..=ALIAS_BYTES_MAX).contains(&name.len()) && name.bytes().all(legal);
        if sound { Ok(Self(raw.into())) } else { Err(MalformedName) }
    }

    /// With `alias/` in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without `alias/`: what follows `kms/aliases/` in policies.
    pub fn bare(&self) -> &str {
        self.0.strip_prefix(ALIAS_PREFIX).unwrap_or(&self.0)
    }

    /// `alias/strongroom/…` is kept for the system.
    pub fn is_reserved(&self) -> bool {
        self.bare().starts_with("strongroom/")
    }
}

impl fmt::Debug for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 16 bytes, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId([u8; 16]);

impl GrantId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Lower case only: one grant, one spelling.
    pub fn parse(raw: &str) -> Result<Self, MalformedName> {
        let plain = raw.len() == 32 && raw.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = u128::from_str_radix(raw, 16).map_err(|_| MalformedName)?.to_be_bytes();
        if plain { Ok(Self(bytes)) } else { Err(MalformedName) }
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Declares a text with a rule.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $bytes_max:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            pub fn parse(raw: &str) -> Result<Self, MalformedName> {
                let legal: fn(&str) -> bool = $legal;
                if raw.len() <= $bytes_max && legal(raw) { Ok(Self(raw.into())) } else { Err(MalformedName) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// Who a grant is for: `token/ACCESSOR`, or `cert/ROLE@LINEAGE` of the role as it is now (`cert/ROLE` where it has no
    /// lineage), at most 256 bytes.
    PrincipalName, 256, |raw| {
        let name = raw.strip_prefix("token/").or_else(|| raw.strip_prefix("cert/"));
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'))
    }
}

impl PrincipalName {
    /// Whether this name, as people give it, means the principal: `cert/ROLE` means every role that ever bore it.
    pub fn names(&self, principal: &Self) -> bool {
        let rest = principal.0.strip_prefix(&*self.0);
        rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('@') && self.0.starts_with("cert/")))
    }
}

text! {
    /// 1 to 256 of `[a-zA-Z0-9:/_-]`.
    GrantName, 256, |raw| {
        !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'-'))
    }
}

text! {
    /// 1 to 64 visible ASCII characters.
    ClientRequestId, 64, |raw| !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_graphic())
}

text! {
    /// A key's description, at most 8192 bytes. No place for secrets.
    Description, 8192, |_| true
}

impl Default for Description {
    fn default() -> Self {
        Self("".into())
    }
}

const ALIAS_PREFIX: &str = "alias/";
const ALIAS_BYTES_MAX: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling_and_its_limits() {
        let id = "0f4e7a52-7d2b-4c0e-9f5a-3c1f0d2b8a61";
        for (raw, legal) in [
            (id, true),
            ("alias/a", true),
            ("alias/team/app_1-x", true),
            (&format!("alias/{}", "a".repeat(250)), true),
            (&format!("alias/{}", "a".repeat(251)), false),
            ("alias/", false),
            ("alias/a b", false),
            ("alias/\u{e4}", false),
            ("Alias/a", false),
            ("", false),
            (&id.to_uppercase(), false),
            (&id.replace('-', ""), false),
        ] {
            assert_eq!(KeyRef::parse(raw).is_ok(), legal, "{raw:?}");
        }
        for (raw, legal) in [
            ("token/0123456789abcdef0123456789abcdef", true),
            ("cert/ci", true),
            ("cert/", false),
            ("token", false),
            ("user/x", false),
            ("cert/a/b", false),
            (&format!("cert/{}", "a".repeat(251)), true),
            (&format!("cert/{}", "a".repeat(252)), false),
        ] {
            assert_eq!(PrincipalName::parse(raw).is_ok(), legal, "{raw:?}");
        }
        for (name, principal, meant) in [
            ("cert/ci", "cert/ci", true),
            ("cert/ci", "cert/ci@00ff", true),
            ("cert/ci@00ff", "cert/ci@00ff", true),
            ("cert/ci@00ff", "cert/ci", false),
            ("cert/ci@00ff", "cert/ci@00fe", false),
            ("cert/c", "cert/ci@00ff", false),
            ("token/ci", "token/ci@00ff", false),
            ("token/ci", "cert/ci", false),
        ] {
            let [parsed, of] = [name, principal].map(|raw| PrincipalName::parse(raw).unwrap());
            assert_eq!(parsed.names(&of), meant, "{name} {principal}");
        }
        for (raw, legal) in [
            ("0123456789abcdef0123456789abcdef", true),
            ("0123456789ABCDEF0123456789ABCDEF", false),
            ("+1", false),
            ("", false),
        ] {
            assert_eq!(GrantId::parse(raw).is_ok(), legal, "{raw:?}");
        }
        let id = GrantId::from_bytes([7; 16]);
        assert_eq!(GrantId::parse(&id.to_string()), Ok(id));
        for (raw, legal) in
            [("a", true), ("", false), (&"a".repeat(64), true), (&"a".repeat(65), false), ("a b", false)]
        {
            assert_eq!(ClientRequestId::parse(raw).is_ok(), legal, "{raw:?}");
        }
        assert!(Description::parse(&"a".repeat(8192)).is_ok());
        assert!(Description::parse(&"a".repeat(8193)).is_err());
        assert!(AliasName::parse("alias/strongroom/x").is_ok_and(|name| name.is_reserved()));
    }
}
