//! Tokens: 256 random bits, bounded in time and uses, gone with their ancestors.
//!
//! Always: a token's record changes only by renewal, and once where it ends before its children; else it is written once and
//! deleted once. The uses that are left stand beside it.
//! Never: more rights, more time or fewer bounds than whoever made it had, but for what a token role gives.

pub(crate) mod lifetime;
mod request;
mod role;

pub use request::{CreateToken, DefaultPolicy, Excess, NewParent, NewToken, Parentage, Through};
pub use role::{PolicyGlob, RoleTokenKind, TokenRole};

use crate::cidr::Cidr;
use crate::error::IdentityError;
use crate::name::{Accessor, DisplayName, PolicyName, RoleName};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envelope::{SecretBytes, Timestamp};
use getrandom::SysRng;
use rand_core::TryRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// In a token's metadata: it goes on only when its login's proof was looked at again, so by itself alone.
pub const JUDGED: &str = "renewed_when_judged";

/// Most policies of a token or a role.
pub const POLICIES_MAX: usize = 64;
/// Most ancestors of a token.
pub const ANCESTORS_MAX: usize = 16;
/// How long a token lives where its maker says nothing.
pub const TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// How long a token may live where it is asked for by its exact length: a year and a day.
pub const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);
/// How long a token may live by renewals, and where what is asked for is cut to what can be had. Vault's: 32 days.
pub const SYSTEM_TTL_MAX: Duration = Duration::from_secs(768 * 3600);
/// Lengths of a token's text, visible ASCII.
pub const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;
/// Longest text of a stateless token.
pub const STATELESS_BYTES_MAX: usize = 4096;
/// Most pairs of a token's meta, and most bytes of a key or a value.
pub const META_PAIRS_MAX: usize = 64;
pub const META_BYTES_MAX: usize = 512;
/// Most address ranges that a token is bound to.
pub const CIDRS_MAX: usize = 64;
/// Longest path at which tokens are made, bytes.
pub const PATH_BYTES_MAX: usize = 512;

/// What logins and people write beside a token; shown, never decided by.
pub type Meta = BTreeMap<String, String>;

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

/// `token.MARK`: how the tokens of a namespace tell of which they are. A hint of where to look, and nothing else.
pub fn marked(token: &SecretBytes, mark: &str) -> SecretBytes {
    SecretBytes::init_with(token.len() + 1 + mark.len(), |text| {
        let (head, rest) = text.split_at_mut(token.len());
        head.copy_from_slice(token.expose());
        if let Some((dot, tail)) = rest.split_first_mut() {
            *dot = b'.';
            tail.copy_from_slice(mark.as_bytes());
        }
    })
}

/// What stands behind the second dot of a token's text, if there is one.
pub fn mark(token: &[u8]) -> Option<&str> {
    let mut parts = token.splitn(3, |byte| *byte == b'.');
    let kind = parts.next()?;
    parts.next()?;
    let mark = parts.next().filter(|_| matches!(kind, b"sr" | b"srb" | b"srw"))?;
    std::str::from_utf8(mark).ok().filter(|mark| !mark.is_empty())
}

/// Fresh random bytes, of the operating system.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Randomness> {
    let mut out = [0; N];
    SysRng.try_fill_bytes(&mut out).map_err(|_| Randomness)?;
    Ok(out)
}

/// Whether these bytes may be a token at all.
pub fn is_well_formed(token: &[u8]) -> bool {
    let longest = if is_stateless(token) { STATELESS_BYTES_MAX } else { *TOKEN_BYTES.end() };
    (*TOKEN_BYTES.start()..=longest).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic)
}

/// Whether the text says that it is its own record.
pub(crate) fn is_stateless(token: &[u8]) -> bool {
    token.starts_with(STATELESS_PREFIX)
}

/// A stateless token's text around what was sealed.
pub(crate) fn stateless_text(sealed: &[u8]) -> Option<SecretBytes> {
    let encoded = SecretBytes::from_vec(URL_SAFE_NO_PAD.encode(sealed).into_bytes());
    let len = STATELESS_PREFIX.len() + encoded.len();
    (len <= STATELESS_BYTES_MAX).then(|| {
        SecretBytes::init_with(len, |text| {
            let (prefix, rest) = text.split_at_mut(STATELESS_PREFIX.len());
            prefix.copy_from_slice(STATELESS_PREFIX);
            rest.copy_from_slice(encoded.expose());
        })
    })
}

/// What was sealed in a stateless token. There is one text of it.
pub(crate) fn stateless_sealed(token: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.strip_prefix(STATELESS_PREFIX)?).ok()
}

/// The barrier's epoch under which it was sealed: the end of the header (48 bytes, 64 characters).
pub(crate) fn stateless_epoch(token: &[u8]) -> Option<u32> {
    let mut header = [0; 48];
    let text = token.strip_prefix(STATELESS_PREFIX)?.get(..64)?;
    URL_SAFE_NO_PAD.decode_slice(text, &mut header).ok()?;
    header.last_chunk().copied().map(u32::from_be_bytes)
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
    pub kind: TokenKind,
    pub renewable: bool,
    /// It may be renewed by this much for ever.
    pub period: Option<Duration>,
    /// From its creation; no renewal takes it further.
    pub explicit_max_ttl: Option<Duration>,
    /// What it was given at first. `None`: the root token.
    pub creation_ttl: Option<Duration>,
    pub renewed: Option<Timestamp>,
    /// Where it was made: `auth/token/create`, `auth/approle/login`.
    pub path: Arc<str>,
    pub meta: Meta,
    pub entity: Option<[u8; 16]>,
    pub bound_cidrs: Arc<[Cidr]>,
    /// The token role by which it was made.
    pub role: Option<RoleName>,
}

impl TokenMetadata {
    /// How long it has left; `None`: the root token.
    pub fn ttl(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|expires| expires.since(now))
    }

    pub fn is_orphan(&self) -> bool {
        matches!(self.parent, Parent::Orphan)
    }
}

/// How a token is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenKind {
    /// A record in the store.
    #[default]
    Service,
    /// Its own record, sealed: nothing is stored, so it is neither renewed nor revoked by itself (Vault: batch).
    Stateless,
}

impl TokenKind {
    /// As Vault writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Stateless => "batch",
        }
    }

    pub fn parse(raw: &str) -> Result<Self, IdentityError> {
        match raw {
            "service" => Ok(Self::Service),
            "batch" => Ok(Self::Stateless),
            _ => Err(IdentityError::InvalidField("type")),
        }
    }
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

/// What is stored of a token, or sealed in it.
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
    /// The parent first. In a stateless token the parent alone.
    pub(crate) ancestors: Vec<Digest>,
    pub(crate) parent: Parent,
    /// The certificate role by which it, or its eldest ancestor, was made; another incarnation is another role.
    pub(crate) role: Option<(RoleName, [u8; 16])>,
    pub(crate) terms: Terms,
}

/// On what terms a token was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) kind: TokenKind,
    pub(crate) renewable: bool,
    pub(crate) period: Option<Duration>,
    pub(crate) explicit_max: Option<Timestamp>,
    pub(crate) creation_ttl: Option<Duration>,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) path: Arc<str>,
    pub(crate) meta: Meta,
    pub(crate) entity: Option<[u8; 16]>,
    pub(crate) bound_cidrs: Arc<[Cidr]>,
    pub(crate) token_role: Option<RoleName>,
    /// It has ended, but its children go on: they became orphans.
    pub(crate) released: bool,
    /// On whom it depends in namespaces above, the nearest first.
    pub(crate) above: Vec<Above>,
}

/// Those of one namespace on whom a token below it depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Above {
    /// Where that namespace's identity stands in the store.
    pub(crate) root: storage::EntryPath,
    /// The nearest first.
    pub(crate) tokens: Vec<Digest>,
    /// By which the eldest of them was made, or the token itself.
    pub(crate) role: Option<(RoleName, [u8; 16])>,
}

impl Terms {
    /// Those of tokens from before there were terms, and of the root token.
    pub(crate) fn plain(creation_ttl: Option<Duration>) -> Self {
        Self {
            kind: TokenKind::Service,
            renewable: false,
            period: None,
            explicit_max: None,
            creation_ttl,
            renewed: None,
            path: CREATE.into(),
            meta: Meta::new(),
            entity: None,
            bound_cidrs: Arc::default(),
            token_role: None,
            released: false,
            above: Vec::new(),
        }
    }
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
            kind: self.terms.kind,
            renewable: self.terms.renewable,
            period: self.terms.period,
            explicit_max_ttl: self.terms.explicit_max.map(|end| end.since(self.created)),
            creation_ttl: self.terms.creation_ttl,
            renewed: self.terms.renewed,
            path: Arc::clone(&self.terms.path),
            meta: self.terms.meta.clone(),
            entity: self.terms.entity,
            bound_cidrs: Arc::clone(&self.terms.bound_cidrs),
            role: self.terms.token_role.clone(),
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

/// Where tokens are made by asking for them.
pub(crate) const CREATE: &str = "auth/token/create";
const PREFIX: &[u8] = b"sr.";
/// What the text of a stateless token begins with.
pub(crate) const STATELESS_PREFIX: &[u8] = b"srb.";
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
    fn a_mark_stands_behind_the_second_dot() {
        for (token, found) in [
            ("sr.abc.x1y2z3", Some("x1y2z3")),
            ("srb.abc.x1y2z3", Some("x1y2z3")),
            ("srw.abc.x1", Some("x1")),
            ("sr.abc.x.y", Some("x.y")),
            ("sr.abc", None),
            ("sr.abc.", None),
            ("sr", None),
            ("", None),
            ("my.own.token", None),
            ("root-token-of-mine", None),
        ] {
            assert_eq!(mark(token.as_bytes()), found, "{token}");
        }
        assert_eq!(marked(&SecretBytes::copy_from(b"sr.abc"), "x1").expose(), b"sr.abc.x1");
    }

    #[test]
    fn a_token_is_16_to_512_visible_ascii_characters_and_a_stateless_one_up_to_4096() {
        for (token, sound) in [
            (vec![b'a'; 15], false),
            (vec![b'a'; 16], true),
            (vec![b'~'; 512], true),
            (vec![b'a'; 513], false),
            ([b"srb.", &[b'a'; 4092][..]].concat(), true),
            ([b"srb.", &[b'a'; 4093][..]].concat(), false),
            (b"0123456789 abcdef".to_vec(), false),
            (b"0123456789\0abcdef".to_vec(), false),
            ("0123456789\u{e4}abcdef".as_bytes().to_vec(), false),
        ] {
            assert_eq!(is_well_formed(&token), sound, "{token:?}");
        }
    }
}
