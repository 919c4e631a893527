//! Paths with places for what is known of whoever asks: `secret/data/{{identity.entity.id}}/*`.
//!
//! Always: a value stands in a path as it is, within one segment. What could be more than itself there (a slash, a wildcard, a
//! dot segment, what cannot be seen) makes the rule void, as does no value at all.

use super::{Pattern, PolicyFault};

/// The path of a rule that is another one for each entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Value(Variable),
}

/// What is to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    EntityId,
    EntityName,
    EntityMetadata(Box<str>),
    /// Of the entity's alias on a mount, by the mount's accessor.
    AliasId(Box<str>),
    AliasName(Box<str>),
    AliasMetadata(Box<str>, Box<str>),
    /// Of a group that the entity is in.
    GroupName(Box<str>),
    GroupId(Box<str>),
    GroupMetadata(ByGroup, Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ByGroup {
    Id(Box<str>),
    Name(Box<str>),
}

impl Template {
    pub(super) fn parse(raw: &str) -> Result<Self, PolicyFault> {
        let raw = raw.strip_prefix('/').unwrap_or(raw);
        let (mut parts, mut rest, mut example) = (Vec::new(), raw, String::new());
        while let Some((text, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").ok_or(PolicyFault::Template)?;
            parts.push(Part::Text(text.into()));
            parts.push(Part::Value(Variable::parse(name.trim()).ok_or(PolicyFault::Template)?));
            example.push_str(text);
            example.push('x');
            rest = tail;
        }
        parts.push(Part::Text(rest.into()));
        example.push_str(rest);
        if raw.len() > super::RULE_PATH_BYTES_MAX {
            return Err(PolicyFault::Path);
        }
        Pattern::parse(&example)?;
        Ok(Self { text: raw.into(), parts })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// With these values; nothing where one is missing, or could be more than itself.
    pub(crate) fn filled(&self, value: &dyn Fn(&Variable) -> Option<String>) -> Option<Pattern> {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Value(variable) => path.push_str(&value(variable).filter(|value| is_literal(value))?),
            }
        }
        let sound = path.split('/').all(|segment| !matches!(segment, "." | ".."));
        Pattern::parse(&path).ok().filter(|_| sound)
    }
}

fn is_literal(value: &str) -> bool {
    !value.is_empty()
        && value.trim() == value
        && !value.contains("..")
        && !value.contains(['/', '\\', '*', '+', '%', '{', '}'])
        && !value.chars().any(char::is_control)
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix("identity.")?;
        match name {
            "entity.id" => return Some(Self::EntityId),
            "entity.name" => return Some(Self::EntityName),
            _ => {}
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        if let Some(key) = name.strip_prefix("entity.metadata.") {
            return some(key).map(Self::EntityMetadata);
        }
        if let Some(alias) = name.strip_prefix("entity.aliases.") {
            // accessors have no dots
            let (accessor, rest) = alias.split_once('.')?;
            let accessor = some(accessor)?;
            return match (rest, rest.strip_prefix("custom_metadata.")) {
                ("id", _) => Some(Self::AliasId(accessor)),
                ("name", _) => Some(Self::AliasName(accessor)),
                (_, Some(key)) => Some(Self::AliasMetadata(accessor, some(key)?)),
                _ => None,
            };
        }
        let (by_id, group) = match (name.strip_prefix("groups.ids."), name.strip_prefix("groups.names.")) {
            (Some(group), _) => (true, group),
            (None, Some(group)) => (false, group),
            (None, None) => return None,
        };
        if let Some((group, key)) = group.split_once(".metadata.") {
            let group = some(group)?;
            let by = if by_id { ByGroup::Id(group) } else { ByGroup::Name(group) };
            return Some(Self::GroupMetadata(by, some(key)?));
        }
        if by_id {
            some(group.strip_suffix(".name")?).map(Self::GroupName)
        } else {
            some(group.strip_suffix(".id")?).map(Self::GroupId)
        }
    }
}
