//! What stands in storage: JSON with a version in front. Unknown fields and versions are errors, never ignored.
//!
//! Tokens are at version 2, which has terms; version 1, which had none, is read and no longer written.

mod terms;
mod token_role;

pub(crate) use token_role::{decode_token_role, encode_token_role};

use crate::certificate::CertificateMatch;
use crate::error::IdentityError;
use crate::name::{Accessor, DisplayName, PolicyName, RoleName};
use crate::token::{Digest, Parent, Terms, TokenRecord};
use envelope::{SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A certificate role with what tells it from a later one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRole {
    pub(crate) matches: CertificateMatch,
    pub(crate) policies: Arc<[PolicyName]>,
    pub(crate) incarnation: [u8; 16],
    /// The same for as long as the name is taken, whatever is written under it. Roles from before there was one have none.
    pub(crate) lineage: Option<[u8; 16]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    version: u8,
    accessor: String,
    display_name: String,
    policies: Vec<String>,
    created: u64,
    expires: Option<u64>,
    use_limited: bool,
    thumbprint: Option<String>,
    generation: u64,
    ancestors: Vec<String>,
    parent_accessor: Option<String>,
    role: Option<RoleLink>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<terms::Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleLink {
    name: String,
    incarnation: String,
}

impl From<&(RoleName, [u8; 16])> for RoleLink {
    fn from((name, id): &(RoleName, [u8; 16])) -> Self {
        Self { name: name.as_str().to_owned(), incarnation: hex::encode(id) }
    }
}

impl RoleLink {
    fn parse(self) -> Option<(RoleName, [u8; 16])> {
        Some((RoleName::parse(&self.name).ok()?, bytes(&self.incarnation)?))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Uses {
    version: u8,
    left: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    version: u8,
    matches: Matches,
    policies: Vec<String>,
    incarnation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lineage: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Matches {
    Thumbprint(String),
    CommonName(String),
    SubjectAlternativeName(String),
}

pub(crate) fn encode_token(record: &TokenRecord) -> Result<Vec<u8>, IdentityError> {
    let parent_accessor = match &record.parent {
        Parent::Token(accessor) => Some(accessor.as_str().to_owned()),
        Parent::Orphan | Parent::Role(_) => None,
    };
    encode(&Token {
        version: TOKEN_VERSION,
        accessor: record.accessor.as_str().to_owned(),
        display_name: record.display_name.as_str().to_owned(),
        policies: names(&record.policies),
        created: record.created.unix_millis(),
        expires: record.expires.map(Timestamp::unix_millis),
        use_limited: record.use_limited,
        thumbprint: record.thumbprint.map(hex::encode),
        generation: record.generation,
        ancestors: record.ancestors.iter().map(|digest| hex::encode(digest.0)).collect(),
        parent_accessor,
        role: record.role.as_ref().map(RoleLink::from),
        terms: Some(terms::Stored::from(&record.terms)),
    })
}

pub(crate) fn decode_token(stored: &SecretBytes) -> Result<TokenRecord, IdentityError> {
    let token: Token = serde_json::from_slice(stored.expose()).map_err(|_| unreadable("token"))?;
    from_token(token).ok_or_else(|| unreadable("token"))
}

fn from_token(token: Token) -> Option<TokenRecord> {
    let role = match token.role {
        Some(link) => Some(link.parse()?),
        None => None,
    };
    let thumbprint = match token.thumbprint {
        Some(thumbprint) => Some(bytes(&thumbprint)?),
        None => None,
    };
    let created = Timestamp::from_unix_millis(token.created);
    let expires = token.expires.map(Timestamp::from_unix_millis);
    let terms = match (token.version, token.terms) {
        (VERSION, None) => Terms::plain(expires.map(|expires| expires.since(created))),
        (TOKEN_VERSION, Some(terms)) => terms.parse()?,
        _ => return None,
    };
    // by which it was made, here or in the namespace above
    let by_role = role.as_ref().or(terms.above.first().and_then(|above| above.role.as_ref()));
    let parent = match (token.parent_accessor, by_role) {
        (Some(accessor), _) => Parent::Token(Accessor::parse(&accessor).ok()?),
        (None, Some((role, _))) => Parent::Role(role.clone()),
        (None, None) => Parent::Orphan,
    };
    Some(TokenRecord {
        accessor: Accessor::parse(&token.accessor).ok()?,
        display_name: DisplayName::parse(&token.display_name).ok()?,
        policies: parse_names(&token.policies)?,
        created,
        expires,
        use_limited: token.use_limited,
        thumbprint,
        generation: token.generation,
        ancestors: token.ancestors.iter().map(|digest| bytes(digest).map(Digest)).collect::<Option<_>>()?,
        parent,
        role,
        terms,
    })
}

pub(crate) fn encode_uses(left: u32) -> Result<Vec<u8>, IdentityError> {
    encode(&Uses { version: VERSION, left })
}

pub(crate) fn decode_uses(stored: &SecretBytes) -> Result<u32, IdentityError> {
    let uses: Uses = serde_json::from_slice(stored.expose()).map_err(|_| unreadable("use count"))?;
    if uses.version == VERSION { Ok(uses.left) } else { Err(unreadable("use count")) }
}

pub(crate) fn encode_role(role: &StoredRole) -> Result<Vec<u8>, IdentityError> {
    encode(&Role {
        version: VERSION,
        matches: match &role.matches {
            CertificateMatch::Thumbprint(thumbprint) => Matches::Thumbprint(hex::encode(thumbprint)),
            CertificateMatch::CommonName(name) => Matches::CommonName(name.clone()),
            CertificateMatch::SubjectAlternativeName(name) => Matches::SubjectAlternativeName(name.clone()),
        },
        policies: names(&role.policies),
        incarnation: hex::encode(role.incarnation),
        lineage: role.lineage.map(hex::encode),
    })
}

pub(crate) fn decode_role(stored: &SecretBytes) -> Result<StoredRole, IdentityError> {
    let role: Role = serde_json::from_slice(stored.expose()).map_err(|_| unreadable("certificate role"))?;
    from_role(role).ok_or_else(|| unreadable("certificate role"))
}

fn from_role(role: Role) -> Option<StoredRole> {
    let matches = match role.matches {
        Matches::Thumbprint(thumbprint) => CertificateMatch::Thumbprint(bytes(&thumbprint)?),
        Matches::CommonName(name) => CertificateMatch::CommonName(name),
        Matches::SubjectAlternativeName(name) => CertificateMatch::SubjectAlternativeName(name),
    };
    let lineage = match role.lineage {
        Some(lineage) => Some(bytes(&lineage)?),
        None => None,
    };
    (role.version == VERSION).then_some(StoredRole {
        matches,
        policies: parse_names(&role.policies)?,
        incarnation: bytes(&role.incarnation)?,
        lineage,
    })
}

/// Of an accessor's entry: the token that it names.
pub(crate) fn decode_digest(stored: &SecretBytes) -> Result<Digest, IdentityError> {
    stored.expose().try_into().map(Digest).map_err(|_| unreadable("accessor"))
}

/// Of a match's entry: the role that it leads to.
pub(crate) fn decode_name(stored: &SecretBytes) -> Result<RoleName, IdentityError> {
    let name = std::str::from_utf8(stored.expose()).ok().and_then(|name| RoleName::parse(name).ok());
    name.ok_or_else(|| unreadable("certificate match"))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, IdentityError> {
    serde_json::to_vec(value).map_err(|_| IdentityError::Internal("records are writable as JSON"))
}

fn names(policies: &[PolicyName]) -> Vec<String> {
    policies.iter().map(|name| name.as_str().to_owned()).collect()
}

fn parse_names(raw: &[String]) -> Option<Arc<[PolicyName]>> {
    raw.iter().map(|name| PolicyName::parse(name).ok()).collect()
}

fn bytes<const N: usize>(hexadecimal: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    hex::decode_to_slice(hexadecimal, &mut out).ok()?;
    Some(out)
}

fn unreadable(what: &str) -> IdentityError {
    IdentityError::Altered(format!("a stored {what} cannot be read"))
}

const VERSION: u8 = 1;
const TOKEN_VERSION: u8 = 2;

#[cfg(test)]
mod tests;
