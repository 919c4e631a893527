//! What is asked of a new token.

use super::{META_BYTES_MAX, META_PAIRS_MAX, Meta, PATH_BYTES_MAX, POLICIES_MAX, TokenKind, parse_policies};
use crate::cidr::Cidr;
use crate::error::IdentityError;
use crate::name::{DisplayName, PolicyName, RoleName};
use crate::principal::Principal;
use std::num::NonZeroU32;
use std::time::Duration;

/// What a caller asks of a new token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateToken {
    /// Empty: the role's, or the caller's own.
    pub policies: Vec<PolicyName>,
    pub default_policy: DefaultPolicy,
    pub display_name: DisplayName,
    /// `None`: [`super::TTL_DEFAULT`], or what the parent has left where that is less.
    pub ttl: Option<Duration>,
    pub explicit_max_ttl: Option<Duration>,
    /// Without a role it takes sudo.
    pub period: Option<Duration>,
    pub num_uses: Option<NonZeroU32>,
    pub renewable: bool,
    /// `None`: what the role says, else a record in the store.
    pub kind: Option<TokenKind>,
    pub meta: Meta,
    pub bound_cidrs: Vec<Cidr>,
    /// Counts only beside the certificate of this SHA-256.
    pub certificate_thumbprint: Option<[u8; 32]>,
    pub through: Through,
    pub parentage: Parentage,
    pub excess: Excess,
}

/// Where a token is asked for: the path on which the caller needs the right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Through {
    /// `auth/token/create`.
    #[default]
    Create,
    /// `auth/token/create-orphan`; it takes sudo.
    CreateOrphan,
    /// `auth/token/create/ROLE`.
    Role(RoleName),
}

/// Whether a token is to end with its maker. Without an end of this kind it takes sudo, or a role that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parentage {
    #[default]
    Child,
    Orphan,
}

/// Whether the policy `default` is added to those that were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultPolicy {
    #[default]
    AsGiven,
    /// As Vault adds it: where the caller has it, is root, or comes through a role that names policies.
    Added,
}

/// What happens to a time beyond what can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Excess {
    /// Up to [`super::TTL_MAX`].
    #[default]
    Refuse,
    /// Cut to what can be had, at most [`super::SYSTEM_TTL_MAX`].
    Cap,
}

/// A token as a login or a role makes it. Whoever asks is trusted to have decided on all of it but the bounds below.
#[derive(Debug)]
pub struct NewToken<'a> {
    /// Never `root`. Sorted, each once, by [`crate::Identities::prepare_token`].
    pub policies: Vec<PolicyName>,
    pub display_name: DisplayName,
    /// `None`: [`super::TTL_DEFAULT`]. All times are cut to what can be had.
    pub ttl: Option<Duration>,
    pub explicit_max_ttl: Option<Duration>,
    pub period: Option<Duration>,
    pub num_uses: Option<NonZeroU32>,
    pub renewable: bool,
    pub kind: TokenKind,
    pub meta: Meta,
    /// Where it is made: `auth/approle/login`.
    pub path: String,
    pub entity: Option<[u8; 16]>,
    pub bound_cidrs: Vec<Cidr>,
    pub certificate_thumbprint: Option<[u8; 32]>,
    pub role: Option<RoleName>,
    pub parent: NewParent<'a>,
}

/// With whom a new token ends.
#[derive(Debug, Clone, Copy)]
pub enum NewParent<'a> {
    Orphan,
    ChildOf(&'a Principal),
}

impl<'a> NewToken<'a> {
    /// One that may do nothing, made at `path`, kept in the store.
    pub fn new(path: impl Into<String>, parent: NewParent<'a>) -> Self {
        Self {
            policies: Vec::new(),
            display_name: DisplayName::default(),
            ttl: None,
            explicit_max_ttl: None,
            period: None,
            num_uses: None,
            renewable: false,
            kind: TokenKind::Service,
            meta: Meta::new(),
            path: path.into(),
            entity: None,
            bound_cidrs: Vec::new(),
            certificate_thumbprint: None,
            role: None,
            parent,
        }
    }

    /// Refuses what no token may have.
    pub(crate) fn check(&self) -> Result<(), IdentityError> {
        let wrong = |field| Err(IdentityError::InvalidField(field));
        if self.policies.len() > POLICIES_MAX {
            return wrong("policies");
        }
        let long = |text: &String| text.len() > META_BYTES_MAX;
        if self.meta.len() > META_PAIRS_MAX || self.meta.iter().any(|(key, value)| long(key) || long(value)) {
            return wrong("meta");
        }
        let visible = self.path.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=PATH_BYTES_MAX).contains(&self.path.len()) || !visible {
            return wrong("path");
        }
        match self.kind {
            TokenKind::Service => Ok(()),
            TokenKind::Stateless if self.num_uses.is_some() => wrong("num_uses"),
            TokenKind::Stateless if self.period.is_some() => wrong("period"),
            TokenKind::Stateless if self.explicit_max_ttl.is_some() => wrong("explicit_max_ttl"),
            TokenKind::Stateless => Ok(()),
        }
    }
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
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
