//! Tokens: 256 random bits, bounded in time and uses, gone with their ancestors.
//!
//! Always: a token's record never changes; it is written once and deleted once. The uses that are left stand beside it.
//! Never: more rights, more time or fewer bounds than whoever made it had.

use crate::error::IdentityError;
use crate::name::{Accessor, DisplayName, PolicyName, RoleName};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envelope::{SecretBytes, Timestamp};
use getrandom::SysRng;
use rand_core::TryRng;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Most policies of a token or a role.
pub const POLICIES_MAX: usize = 64;
/// Most ancestors of a token.
pub const ANCESTORS_MAX: usize = 16;
/// How long a token lives where its maker says nothing.
pub const TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// How long a token may live: a year and a day.
pub const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Lengths of a token's text, visible ASCII.
pub const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// The operating system's generator gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random generator failed")]
pub struct Randomness;

/// A new token: `sr.` and 43 characters of base64url.
pub fn generate() -> Result<SecretBytes, Randomness> {
    let mut random = SecretBytes::init_with(RANDOM_BYTES, |_| ());
    SysRng.try_fill_bytes(random.expose_mut()).map_err(|_| Randomness)?;
    let mut outcome = Ok(0);
    let text = SecretBytes::init_with(PREFIX.len() + RANDOM_BYTES.div_ceil(3) * 4 - 1, |text| {
        let (prefix, rest) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX);
        outcome = URL_SAFE_NO_PAD.encode_slice(random.expose(), rest);
    });
    match outcome {
        Ok(len) if PREFIX.len() + len == text.len() => Ok(text),
        Ok(_) | Err(_) => Err(Randomness),
    }
}

/// Fresh random bytes, of the operating system.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Randomness> {
    let mut out = [0; N];
    SysRng.try_fill_bytes(&mut out).map_err(|_| Randomness)?;
    Ok(out)
}

/// Whether these bytes may be a token at all.
pub fn is_well_formed(token: &[u8]) -> bool {
    TOKEN_BYTES.contains(&token.len()) && token.iter().all(u8::is_ascii_graphic)
}

/// What a caller asks of a new token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateToken {
    /// Empty: the caller's own.
    pub policies: Vec<PolicyName>,
    pub display_name: DisplayName,
    /// `None`: [`TTL_DEFAULT`], or what the parent has left where that is less.
    pub ttl: Option<Duration>,
    pub num_uses: Option<NonZeroU32>,
    /// Counts only beside the certificate of this SHA-256.
    pub certificate_thumbprint: Option<[u8; 32]>,
}

impl CreateToken {
    /// From what stands in a request: zeros and empty fields mean "not given".
    pub fn parse(
        policies: &[String],
        display_name: &str,
        ttl_secs: u64,
        num_uses: u32,
        certificate_thumbprint: &[u8],
    ) -> Result<Self, IdentityError> {
        let certificate_thumbprint = match certificate_thumbprint {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| IdentityError::InvalidField("certificate_thumbprint"))?),
        };
        Ok(Self {
            policies: parse_policies(policies)?,
            display_name: DisplayName::parse(display_name).map_err(|_| IdentityError::InvalidField("display_name"))?,
            ttl: (ttl_secs > 0).then(|| Duration::from_secs(ttl_secs)),
            num_uses: NonZeroU32::new(num_uses),
            certificate_thumbprint,
        })
    }
}

/// At most [`POLICIES_MAX`] names, sorted, each once.
pub fn parse_policies(raw: &[String]) -> Result<Vec<PolicyName>, IdentityError> {
    let malformed = || IdentityError::InvalidField("policies");
    if raw.len() > POLICIES_MAX {
        return Err(malformed());
    }
    let mut names =
        raw.iter().map(|name| PolicyName::parse(name).map_err(|_| malformed())).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// A new token. Its text is here and nowhere else.
#[derive(Debug)]
pub struct CreatedToken {
    pub token: SecretBytes,
    pub metadata: TokenMetadata,
}

/// All that is public about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMetadata {
    pub accessor: Accessor,
    pub display_name: DisplayName,
    pub policies: Arc<[PolicyName]>,
    pub created: Timestamp,
    /// `None`: the root token.
    pub expires: Option<Timestamp>,
    /// `None`: without bound.
    pub uses_left: Option<u32>,
    pub certificate_thumbprint: Option<[u8; 32]>,
    /// With whom it ends.
    pub parent: Parent,
}

/// With whom a token ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    Orphan,
    Token(Accessor),
    /// Made by a client certificate: it ends with that role.
    Role(RoleName),
}

impl Parent {
    /// The parent's accessor, `cert/ROLE`, or nothing.
    pub fn text(&self) -> String {
        match self {
            Self::Orphan => String::new(),
            Self::Token(accessor) => accessor.as_str().to_owned(),
            Self::Role(role) => format!("cert/{role}"),
        }
    }
}

/// The keyed hash by which a token is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

/// What is stored of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    pub(crate) accessor: Accessor,
    pub(crate) display_name: DisplayName,
    pub(crate) policies: Arc<[PolicyName]>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    /// The uses that are left stand beside the record.
    pub(crate) use_limited: bool,
    pub(crate) thumbprint: Option<[u8; 32]>,
    pub(crate) generation: u64,
    /// The parent first.
    pub(crate) ancestors: Vec<Digest>,
    pub(crate) parent: Parent,
    /// The certificate role by which it, or its eldest ancestor, was made; another incarnation is another role.
    pub(crate) role: Option<(RoleName, [u8; 16])>,
}

impl TokenRecord {
    pub(crate) fn metadata(&self, uses_left: Option<u32>) -> TokenMetadata {
        TokenMetadata {
            accessor: self.accessor.clone(),
            display_name: self.display_name.clone(),
            policies: Arc::clone(&self.policies),
            created: self.created,
            expires: self.expires,
            uses_left,
            certificate_thumbprint: self.thumbprint,
            parent: self.parent.clone(),
        }
    }

    /// At its end it is over.
    pub(crate) fn expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

impl From<Randomness> for IdentityError {
    fn from(_: Randomness) -> Self {
        Self::Internal("the random generator failed")
    }
}

const PREFIX: &[u8] = b"sr.";
const RANDOM_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_32_random_bytes_in_base64url() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one.expose(), two.expose());
        let text = std::str::from_utf8(one.expose()).unwrap();
        let random = URL_SAFE_NO_PAD.decode(text.strip_prefix("sr.").unwrap()).unwrap();
        assert_eq!((text.len(), random.len()), (46, 32));
        assert!(is_well_formed(one.expose()));
        assert_ne!(random_bytes::<16>().unwrap(), [0; 16]);
    }

    #[test]
    fn a_token_is_16_to_512_visible_ascii_characters() {
        for (token, sound) in [
            (vec![b'a'; 15], false),
            (vec![b'a'; 16], true),
            (vec![b'~'; 512], true),
            (vec![b'a'; 513], false),
            (b"0123456789 abcdef".to_vec(), false),
            (b"0123456789\0abcdef".to_vec(), false),
            ("0123456789\u{e4}abcdef".as_bytes().to_vec(), false),
        ] {
            assert_eq!(is_well_formed(&token), sound, "{token:?}");
        }
    }

    #[test]
    fn a_request_for_a_token_names_the_field_that_is_wrong() {
        let many: Vec<String> = (0..65).map(|i| format!("p{i}")).collect();
        let name = |name: &str| vec![name.to_owned()];
        let long = "x".repeat(65);
        for (policies, display_name, thumbprint, field) in [
            (many, "", &[][..], "policies"),
            (name("Root"), "", &[][..], "policies"),
            (name(""), "", &[][..], "policies"),
            (name("a"), "a b", &[][..], "display_name"),
            (name("a"), &long, &[][..], "display_name"),
            (name("a"), "a", &[1; 31][..], "certificate_thumbprint"),
            (name("a"), "a", &[1; 33][..], "certificate_thumbprint"),
        ] {
            let refused = CreateToken::parse(&policies, display_name, 0, 0, thumbprint).unwrap_err();
            assert_eq!(refused.field(), Some(field), "{policies:?}");
        }
        let parsed = CreateToken::parse(&["b".into(), "a".into(), "b".into()], "n", 0, 0, &[]).unwrap();
        assert_eq!(parsed.policies, [PolicyName::parse("a").unwrap(), PolicyName::parse("b").unwrap()]);
        assert_eq!((parsed.ttl, parsed.num_uses, parsed.certificate_thumbprint), (None, None, None));
    }
}
