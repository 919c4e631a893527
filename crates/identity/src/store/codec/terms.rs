//! On what terms a token was made, as it stands in its record. Times and durations in milliseconds.

use super::bytes;
use crate::cidr::Cidr;
use crate::name::RoleName;
use crate::token::{Above, Digest, Meta, Terms, TokenKind};
use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::EntryPath;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    kind: Kind,
    renewable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    explicit_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creation_ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed: Option<u64>,
    path: String,
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    meta: Meta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entity: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bound_cidrs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_role: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    above: Vec<Of>,
}

/// Those of a namespace above.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    root: String,
    tokens: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<super::RoleLink>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Service,
    Stateless,
}

impl From<&Terms> for Stored {
    fn from(terms: &Terms) -> Self {
        Self {
            kind: match terms.kind {
                TokenKind::Service => Kind::Service,
                TokenKind::Stateless => Kind::Stateless,
            },
            renewable: terms.renewable,
            period: terms.period.map(millis),
            explicit_max: terms.explicit_max.map(Timestamp::unix_millis),
            creation_ttl: terms.creation_ttl.map(millis),
            renewed: terms.renewed.map(Timestamp::unix_millis),
            path: terms.path.as_ref().to_owned(),
            meta: terms.meta.clone(),
            entity: terms.entity.map(hex::encode),
            bound_cidrs: terms.bound_cidrs.iter().map(ToString::to_string).collect(),
            token_role: terms.token_role.as_ref().map(ToString::to_string),
            released: terms.released,
            above: terms.above.iter().map(Of::from).collect(),
        }
    }
}

impl Stored {
    pub(super) fn parse(self) -> Option<Terms> {
        let entity = match self.entity {
            Some(entity) => Some(bytes(&entity)?),
            None => None,
        };
        let token_role = match self.token_role {
            Some(name) => Some(RoleName::parse(&name).ok()?),
            None => None,
        };
        Some(Terms {
            kind: match self.kind {
                Kind::Service => TokenKind::Service,
                Kind::Stateless => TokenKind::Stateless,
            },
            renewable: self.renewable,
            period: self.period.map(Duration::from_millis),
            explicit_max: self.explicit_max.map(Timestamp::from_unix_millis),
            creation_ttl: self.creation_ttl.map(Duration::from_millis),
            renewed: self.renewed.map(Timestamp::from_unix_millis),
            path: self.path.into(),
            meta: self.meta,
            entity,
            bound_cidrs: self.bound_cidrs.iter().map(|raw| Cidr::parse(raw).ok()).collect::<Option<_>>()?,
            token_role,
            released: self.released,
            above: self.above.into_iter().map(Of::parse).collect::<Option<_>>()?,
        })
    }
}

impl From<&Above> for Of {
    fn from(above: &Above) -> Self {
        Self {
            root: above.root.as_str().to_owned(),
            tokens: above.tokens.iter().map(|digest| hex::encode(digest.0)).collect(),
            role: above.role.as_ref().map(super::RoleLink::from),
        }
    }
}

impl Of {
    fn parse(self) -> Option<Above> {
        Some(Above {
            root: EntryPath::parse(&self.root).ok()?,
            tokens: self.tokens.iter().map(|digest| bytes(digest).map(Digest)).collect::<Option<_>>()?,
            role: match self.role {
                Some(link) => Some(link.parse()?),
                None => None,
            },
        })
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
