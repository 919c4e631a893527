//! Token roles: what may be asked for through them, and what they put on it. Pure.
//!
//! Always: what a role disallows, nobody gets through it.
//! Never: `root`.

use super::{CIDRS_MAX, DefaultPolicy, POLICIES_MAX, TokenKind};
use crate::cidr::Cidr;
use crate::error::IdentityError;
use crate::name::{PolicyName, RoleName};
use std::num::NonZeroU32;
use std::time::Duration;

/// By what a caller may make tokens that it could not make by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRole {
    pub name: RoleName,
    pub allowed_policies: Vec<PolicyName>,
    pub allowed_policies_glob: Vec<PolicyGlob>,
    pub disallowed_policies: Vec<PolicyName>,
    pub disallowed_policies_glob: Vec<PolicyGlob>,
    pub orphan: bool,
    /// What is made is renewable if it is asked for and this holds.
    pub renewable: bool,
    pub no_default_policy: bool,
    pub period: Option<Duration>,
    pub explicit_max_ttl: Option<Duration>,
    pub num_uses: Option<NonZeroU32>,
    pub bound_cidrs: Vec<Cidr>,
    pub kind: RoleTokenKind,
    /// Behind `auth/token/create/ROLE` in the path of what is made.
    pub path_suffix: String,
}

/// What kind of tokens a role makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoleTokenKind {
    /// Whatever is asked for; else this.
    #[default]
    DefaultService,
    DefaultStateless,
    /// This, and nothing else may be asked for.
    Service,
    Stateless,
}

/// A policy's name in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyGlob(Box<str>);

impl PolicyGlob {
    pub fn parse(raw: &str) -> Result<Self, IdentityError> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'*');
        let sound = (1..=crate::name::NAME_BYTES_MAX).contains(&raw.len()) && raw.bytes().all(legal);
        if sound { Ok(Self(raw.into())) } else { Err(IdentityError::InvalidField("policies_glob")) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, name: &PolicyName) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| name.as_str().strip_prefix(first)) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            // the first place is the best one: it leaves most
            let Some((_, behind)) = rest.split_once(piece) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

impl RoleTokenKind {
    /// As Vault writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DefaultService => "default-service",
            Self::DefaultStateless => "default-batch",
            Self::Service => "service",
            Self::Stateless => "batch",
        }
    }

    pub fn parse(raw: &str) -> Result<Self, IdentityError> {
        match raw {
            "" | "default" | "default-service" => Ok(Self::DefaultService),
            "default-batch" => Ok(Self::DefaultStateless),
            "service" => Ok(Self::Service),
            "batch" => Ok(Self::Stateless),
            _ => Err(IdentityError::InvalidField("token_type")),
        }
    }

    /// The kind of what is made where `asked` was asked for.
    pub(crate) fn given(self, asked: Option<TokenKind>) -> Result<TokenKind, IdentityError> {
        let (own, fixed) = match self {
            Self::DefaultService => (TokenKind::Service, false),
            Self::DefaultStateless => (TokenKind::Stateless, false),
            Self::Service => (TokenKind::Service, true),
            Self::Stateless => (TokenKind::Stateless, true),
        };
        match asked {
            Some(asked) if fixed && asked != own => Err(IdentityError::InvalidField("type")),
            Some(asked) => Ok(asked),
            None => Ok(own),
        }
    }
}

impl TokenRole {
    /// One that gives nothing by itself.
    pub fn new(name: RoleName) -> Self {
        Self {
            name,
            allowed_policies: Vec::new(),
            allowed_policies_glob: Vec::new(),
            disallowed_policies: Vec::new(),
            disallowed_policies_glob: Vec::new(),
            orphan: false,
            renewable: true,
            no_default_policy: false,
            period: None,
            explicit_max_ttl: None,
            num_uses: None,
            bound_cidrs: Vec::new(),
            kind: RoleTokenKind::default(),
            path_suffix: String::new(),
        }
    }

    /// Refuses what no role may have.
    pub(crate) fn check(&self) -> Result<(), IdentityError> {
        let wrong = |field| Err(IdentityError::InvalidField(field));
        let sound =
            self.allowed_policies.len() <= POLICIES_MAX && !self.allowed_policies.iter().any(PolicyName::is_root);
        if !sound || self.allowed_policies_glob.len() > POLICIES_MAX {
            return wrong("allowed_policies");
        }
        if self.disallowed_policies.len() > POLICIES_MAX || self.disallowed_policies_glob.len() > POLICIES_MAX {
            return wrong("disallowed_policies");
        }
        if self.bound_cidrs.len() > CIDRS_MAX {
            return wrong("token_bound_cidrs");
        }
        let segment = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if self.path_suffix.len() > SUFFIX_BYTES_MAX || !(self.path_suffix.is_empty() || segment(&self.path_suffix)) {
            return wrong("path_suffix");
        }
        match self.kind {
            RoleTokenKind::Stateless if self.period.is_some() => wrong("token_period"),
            RoleTokenKind::Stateless if self.num_uses.is_some() => wrong("token_num_uses"),
            RoleTokenKind::Stateless if self.explicit_max_ttl.is_some() => wrong("token_explicit_max_ttl"),
            RoleTokenKind::Stateless
            | RoleTokenKind::Service
            | RoleTokenKind::DefaultService
            | RoleTokenKind::DefaultStateless => Ok(()),
        }
    }

    /// Whether it says which policies may be given; a caller's own do not count then.
    pub(crate) fn names_policies(&self) -> bool {
        let globs = !self.allowed_policies_glob.is_empty() || !self.disallowed_policies_glob.is_empty();
        globs || !self.allowed_policies.is_empty() || !self.disallowed_policies.is_empty()
    }

    /// Whether what it gives is no more than these policies: it names no others, and frees from no bound.
    pub(crate) fn gives_only(&self, own: &[PolicyName]) -> bool {
        let only_own = self.allowed_policies.iter().all(|policy| own.contains(policy));
        let names = !self.names_policies() || !self.allowed_policies.is_empty();
        only_own && names && self.allowed_policies_glob.is_empty() && !self.orphan && self.period.is_none()
    }

    /// The policies of what is made where these are asked for, by whoever has `own`. As Vault does where a role names policies.
    pub(crate) fn given(
        &self,
        asked: &[PolicyName],
        own: &[PolicyName],
        default: DefaultPolicy,
    ) -> Result<Vec<PolicyName>, IdentityError> {
        let added = PolicyName::default_policy();
        let add = matches!(default, DefaultPolicy::Added) && !self.no_default_policy && !self.disallows(&added);
        let allowing = !self.allowed_policies.is_empty() || !self.allowed_policies_glob.is_empty();
        let mut given = match (asked, allowing) {
            ([], true) => self.allowed_policies.clone(),
            ([], false) => own.to_vec(),
            (asked, _) => asked.to_vec(),
        };
        let refused = |policy: &PolicyName| allowing && !self.allows(policy) && !(add && *policy == added);
        if given.iter().any(|policy| refused(policy) || self.disallows(policy)) {
            return Err(IdentityError::PermissionDenied);
        }
        if add {
            given.push(added);
        }
        Ok(given)
    }

    fn allows(&self, policy: &PolicyName) -> bool {
        self.allowed_policies.contains(policy) || self.allowed_policies_glob.iter().any(|glob| glob.matches(policy))
    }

    fn disallows(&self, policy: &PolicyName) -> bool {
        let by_glob = || self.disallowed_policies_glob.iter().any(|glob| glob.matches(policy));
        self.disallowed_policies.contains(policy) || by_glob()
    }
}

const SUFFIX_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(raw: &[&str]) -> Vec<PolicyName> {
        raw.iter().map(|name| PolicyName::parse(name).unwrap()).collect()
    }

    fn globs(raw: &[&str]) -> Vec<PolicyGlob> {
        raw.iter().map(|glob| PolicyGlob::parse(glob).unwrap()).collect()
    }

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        for (glob, name, matches) in [
            ("*", "a", true),
            ("a*", "a", true),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("ab*ba", "aba", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*a*a*", "a", false),
            ("**", "x", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(PolicyGlob::parse(glob).unwrap().matches(&names(&[name])[0]), matches, "{glob} {name}");
        }
        for malformed in ["", "A*", "a b", "a/*", &"*".repeat(65)] {
            assert!(PolicyGlob::parse(malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn a_role_gives_what_it_allows_and_never_what_it_disallows() {
        let own = &["own"][..];
        for (allowed, allowed_glob, disallowed, disallowed_glob, asked, default, given) in [
            (&["a", "b"][..], &[][..], &[][..], &[][..], &["a"][..], false, Some(&["a"][..])),
            (&["a", "b"], &[], &[], &[], &[], false, Some(&["a", "b"])),
            (&["a", "b"], &[], &[], &[], &[], true, Some(&["a", "b", "default"])),
            (&["a", "b"], &[], &[], &[], &["a", "c"], true, None),
            (&["a", "b"], &[], &[], &[], &["own"], false, None),
            (&["a"], &[], &[], &[], &["default"], false, None),
            (&["a"], &["t-*"], &[], &[], &["t-1", "a"], false, Some(&["t-1", "a"])),
            (&[], &["t-*"], &[], &[], &["x"], false, None),
            (&[], &[], &["x"], &[], &["any"], true, Some(&["any", "default"])),
            (&[], &[], &["x"], &[], &["x"], true, None),
            (&[], &[], &["x"], &[], &[], false, Some(&["own"])),
            (&[], &[], &["own"], &[], &[], false, None),
            (&[], &[], &[], &["adm*"], &["admin"], false, None),
            (&["a"], &[], &["a"], &[], &["a"], false, None),
            (&["a"], &[], &["default"], &[], &["a"], true, Some(&["a"])),
            (&["a"], &[], &[], &["def*"], &["a"], true, Some(&["a"])),
        ] {
            let role = TokenRole {
                allowed_policies: names(allowed),
                allowed_policies_glob: globs(allowed_glob),
                disallowed_policies: names(disallowed),
                disallowed_policies_glob: globs(disallowed_glob),
                ..TokenRole::new(RoleName::parse("r").unwrap())
            };
            let default = if default { DefaultPolicy::Added } else { DefaultPolicy::AsGiven };
            let found = role.given(&names(asked), &names(own), default).ok();
            assert_eq!(found, given.map(names), "{role:?} {asked:?}");
            assert!(role.names_policies());
        }
    }

    #[test]
    fn a_role_of_one_kind_makes_no_other() {
        use RoleTokenKind as Role;
        use TokenKind::{Service, Stateless};
        for (role, asked, given) in [
            (Role::DefaultService, None, Some(Service)),
            (Role::DefaultService, Some(Stateless), Some(Stateless)),
            (Role::DefaultStateless, None, Some(Stateless)),
            (Role::DefaultStateless, Some(Service), Some(Service)),
            (Role::Service, Some(Stateless), None),
            (Role::Service, Some(Service), Some(Service)),
            (Role::Stateless, None, Some(Stateless)),
            (Role::Stateless, Some(Service), None),
        ] {
            assert_eq!(role.given(asked).ok(), given, "{role:?} {asked:?}");
            assert_eq!(Role::parse(role.as_str()).unwrap(), role);
        }
    }
}
