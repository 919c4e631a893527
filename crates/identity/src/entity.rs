//! Entities: who stands behind tokens, by which names the auth methods know them (aliases), and the groups they are in.
//!
//! Always: a token of an entity may what the entity's policies and those of its groups give, beside its own; without the
//! entity, or while it is disabled, the token is nobody's.
//! Always: an alias is of one entity, and an entity has one alias a mount.
//! Never: `root` by way of an entity or a group; a group that is in itself.

mod derive;
mod work;

pub(crate) use derive::Derived;
pub(crate) use work::{Work, decode};

use crate::error::IdentityError;
use crate::name::PolicyName;
use crate::token::{META_BYTES_MAX, META_PAIRS_MAX, Meta, POLICIES_MAX};
use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Longest name of an entity, a group or an alias, bytes.
pub const ENTITY_NAME_BYTES_MAX: usize = 512;
/// Most aliases of an entity: each on another mount.
pub const ALIASES_MAX: usize = 64;
/// Most groups that an entity is in, by itself and by other groups.
pub const GROUPS_MAX: usize = 256;
/// Most entities that became one.
pub const MERGED_MAX: usize = 256;
/// Most members of one group.
pub const MEMBERS_MAX: usize = 4096;

/// Of an entity, an alias or a group; shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EntityId(pub [u8; 16]);

impl EntityId {
    /// Hexadecimal, with its dashes or without.
    pub fn parse(raw: &str) -> Option<Self> {
        let dashed = raw.len() == 36 && [8, 13, 18, 23].into_iter().all(|at| raw.as_bytes().get(at) == Some(&b'-'));
        let digits = if dashed { raw.replace('-', "") } else { raw.to_owned() };
        let mut id = [0; 16];
        hex::decode_to_slice(digits.to_ascii_lowercase(), &mut id).ok()?;
        Some(Self(id))
    }

    pub(crate) fn segment(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<EntityId> for String {
    fn from(id: EntityId) -> Self {
        id.segment()
    }
}

impl TryFrom<String> for EntityId {
    type Error = &'static str;

    fn try_from(raw: String) -> Result<Self, Self::Error> {
        Self::parse(&raw).ok_or("not an id")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub id: EntityId,
    /// Empty where it was merged into another one.
    pub name: String,
    #[serde(default)]
    pub metadata: Meta,
    #[serde(default)]
    pub policies: Vec<String>,
    #[serde(default)]
    pub disabled: bool,
    #[serde(default)]
    pub aliases: Vec<Alias>,
    /// Those that it is a member of itself.
    #[serde(default)]
    pub groups: BTreeSet<EntityId>,
    /// Those that became this one.
    #[serde(default)]
    pub merged: Vec<EntityId>,
    /// It is that one now.
    #[serde(default)]
    pub merged_into: Option<EntityId>,
    /// Unix milliseconds.
    pub created: u64,
    pub updated: u64,
}

/// By what name a mount knows an entity, or the members of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub id: EntityId,
    pub mount_accessor: String,
    pub name: String,
    #[serde(default)]
    pub custom_metadata: Meta,
    pub created: u64,
    pub updated: u64,
}

impl Alias {
    pub(crate) fn is(&self, mount_accessor: &str, name: &str) -> bool {
        self.mount_accessor == mount_accessor && self.name == name
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: EntityId,
    pub name: String,
    #[serde(default)]
    pub kind: GroupKind,
    #[serde(default)]
    pub metadata: Meta,
    #[serde(default)]
    pub policies: Vec<String>,
    #[serde(default)]
    pub member_entities: BTreeSet<EntityId>,
    #[serde(default)]
    pub member_groups: BTreeSet<EntityId>,
    /// Groups that it is a member of.
    #[serde(default)]
    pub parents: BTreeSet<EntityId>,
    #[serde(default)]
    pub alias: Option<Alias>,
    pub created: u64,
    pub updated: u64,
    /// How often it was written.
    pub modified: u64,
}

/// Who says who is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    #[default]
    Internal,
    /// An auth method, by the group's alias.
    External,
}

impl GroupKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// Which entity is meant.
#[derive(Debug, Clone, Copy)]
pub enum EntityRef<'a> {
    Id(EntityId),
    Name(&'a str),
    AliasId(EntityId),
    Alias { mount_accessor: &'a str, name: &'a str },
}

/// What is asked of an entity or a group; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct EntityChange {
    pub id: Option<EntityId>,
    pub name: Option<String>,
    pub metadata: Option<Meta>,
    pub policies: Option<Vec<String>>,
    pub disabled: Option<bool>,
}

#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    pub id: Option<EntityId>,
    pub name: Option<String>,
    pub kind: Option<GroupKind>,
    pub metadata: Option<Meta>,
    pub policies: Option<Vec<String>>,
    pub member_entities: Option<Vec<EntityId>>,
    pub member_groups: Option<Vec<EntityId>>,
}

#[derive(Debug, Clone, Default)]
pub struct AliasChange {
    pub id: Option<EntityId>,
    pub name: Option<String>,
    pub mount_accessor: Option<String>,
    /// The entity or the group that it is of.
    pub of: Option<EntityId>,
    pub custom_metadata: Option<Meta>,
}

impl Entity {
    pub(crate) fn new(id: EntityId, name: String, now: Timestamp) -> Self {
        let now = now.unix_millis();
        Self {
            id,
            name,
            metadata: Meta::new(),
            policies: Vec::new(),
            disabled: false,
            aliases: Vec::new(),
            groups: BTreeSet::new(),
            merged: Vec::new(),
            merged_into: None,
            created: now,
            updated: now,
        }
    }
}

/// One spelling of a name: no white space around it, and nothing that cannot be seen in it.
pub(crate) fn checked_name(raw: &str, field: &'static str) -> Result<String, IdentityError> {
    let sound =
        (1..=ENTITY_NAME_BYTES_MAX).contains(&raw.len()) && raw.trim() == raw && !raw.chars().any(char::is_control);
    if sound { Ok(raw.to_owned()) } else { Err(IdentityError::InvalidField(field)) }
}

/// Names of policies, sorted, each once; never `root`.
pub(crate) fn checked_policies(raw: &[String]) -> Result<Vec<String>, IdentityError> {
    let names = crate::token::parse_policies(raw)?;
    if names.len() > POLICIES_MAX || names.iter().any(PolicyName::is_root) {
        return Err(IdentityError::InvalidField("policies"));
    }
    Ok(names.iter().map(|name| name.as_str().to_owned()).collect())
}

pub(crate) fn checked_meta(meta: Meta, field: &'static str) -> Result<Meta, IdentityError> {
    let sound = |text: &String| text.len() <= META_BYTES_MAX;
    if meta.len() <= META_PAIRS_MAX && meta.iter().all(|(key, value)| sound(key) && sound(value)) {
        Ok(meta)
    } else {
        Err(IdentityError::InvalidField(field))
    }
}
