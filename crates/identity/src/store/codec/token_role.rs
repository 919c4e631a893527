//! A token role, as it stands under its name. Durations in milliseconds.

use super::terms::millis;
use super::{VERSION, encode, unreadable};
use crate::cidr::Cidr;
use crate::error::IdentityError;
use crate::name::{PolicyName, RoleName};
use crate::token::{PolicyGlob, RoleTokenKind, TokenRole};
use envelope::SecretBytes;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u8,
    allowed_policies: Vec<String>,
    allowed_policies_glob: Vec<String>,
    disallowed_policies: Vec<String>,
    disallowed_policies_glob: Vec<String>,
    orphan: bool,
    renewable: bool,
    no_default_policy: bool,
    period: Option<u64>,
    explicit_max_ttl: Option<u64>,
    num_uses: Option<NonZeroU32>,
    bound_cidrs: Vec<String>,
    kind: String,
    path_suffix: String,
}

pub(crate) fn encode_token_role(role: &TokenRole) -> Result<Vec<u8>, IdentityError> {
    let names = |names: &[PolicyName]| names.iter().map(ToString::to_string).collect();
    let globs = |globs: &[PolicyGlob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect();
    encode(&Stored {
        version: VERSION,
        allowed_policies: names(&role.allowed_policies),
        allowed_policies_glob: globs(&role.allowed_policies_glob),
        disallowed_policies: names(&role.disallowed_policies),
        disallowed_policies_glob: globs(&role.disallowed_policies_glob),
        orphan: role.orphan,
        renewable: role.renewable,
        no_default_policy: role.no_default_policy,
        period: role.period.map(millis),
        explicit_max_ttl: role.explicit_max_ttl.map(millis),
        num_uses: role.num_uses,
        bound_cidrs: role.bound_cidrs.iter().map(ToString::to_string).collect(),
        kind: role.kind.as_str().to_owned(),
        path_suffix: role.path_suffix.clone(),
    })
}

pub(crate) fn decode_token_role(name: &RoleName, stored: &SecretBytes) -> Result<TokenRole, IdentityError> {
    let unreadable = || unreadable("token role");
    let stored: Stored = serde_json::from_slice(stored.expose()).map_err(|_| unreadable())?;
    from_stored(name, stored).ok_or_else(unreadable)
}

fn from_stored(name: &RoleName, stored: Stored) -> Option<TokenRole> {
    let names = |raw: &[String]| raw.iter().map(|name| PolicyName::parse(name).ok()).collect::<Option<Vec<_>>>();
    let globs = |raw: &[String]| raw.iter().map(|glob| PolicyGlob::parse(glob).ok()).collect::<Option<Vec<_>>>();
    (stored.version == VERSION).then_some(())?;
    Some(TokenRole {
        name: name.clone(),
        allowed_policies: names(&stored.allowed_policies)?,
        allowed_policies_glob: globs(&stored.allowed_policies_glob)?,
        disallowed_policies: names(&stored.disallowed_policies)?,
        disallowed_policies_glob: globs(&stored.disallowed_policies_glob)?,
        orphan: stored.orphan,
        renewable: stored.renewable,
        no_default_policy: stored.no_default_policy,
        period: stored.period.map(Duration::from_millis),
        explicit_max_ttl: stored.explicit_max_ttl.map(Duration::from_millis),
        num_uses: stored.num_uses,
        bound_cidrs: stored.bound_cidrs.iter().map(|raw| Cidr::parse(raw).ok()).collect::<Option<_>>()?,
        kind: RoleTokenKind::parse(&stored.kind).ok()?,
        path_suffix: stored.path_suffix,
    })
}
