//! A version's JSON, changed or shown in part. Pure.
//!
//! Always: what is not changed stands as it was written, a number in all its digits.
//! Never: a copy of a value but in what is answered or stored.

use crate::error::VaultError;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

type Members<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Merged<'a> {
    AsItWas(&'a RawValue),
    Object(BTreeMap<String, Self>),
}

/// The structure: null for what is no object, or too deep.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Subkeys {
    Value(()),
    Object(BTreeMap<String, Self>),
}

/// RFC 7396: `patch` on `into`, where there is one.
pub(super) fn merged<'a>(into: Option<&'a RawValue>, patch: &'a RawValue) -> Result<Merged<'a>, VaultError> {
    let Some(patch) = members(patch)? else { return Ok(Merged::AsItWas(patch)) };
    let mut before = into.map(members).transpose()?.flatten().unwrap_or_default();
    let mut after = BTreeMap::new();
    for (name, value) in patch {
        let into = before.remove(&name);
        if value.get() != "null" {
            after.insert(name, merged(into, value)?);
        }
    }
    after.extend(before.into_iter().map(|(name, value)| (name, Merged::AsItWas(value))));
    Ok(Merged::Object(after))
}

pub(super) fn subkeys(of: &RawValue, depth: u32) -> Result<Subkeys, VaultError> {
    let members = if depth == 0 { None } else { members(of)?.filter(|members| !members.is_empty()) };
    let Some(members) = members else { return Ok(Subkeys::Value(())) };
    let below = members.into_iter().map(|(name, value)| Ok((name, subkeys(value, depth - 1)?)));
    below.collect::<Result<_, _>>().map(Subkeys::Object)
}

/// Of an object.
fn members(json: &RawValue) -> Result<Option<Members<'_>>, VaultError> {
    if !json.get().starts_with('{') {
        return Ok(None);
    }
    let read = serde_json::from_str(json.get()).map(Some);
    read.map_err(|_| VaultError::Internal("a version's data cannot be read".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    /// The first is RFC 7396 appendix A, but for what is no object: neither a version nor a patch is anything else.
    #[test]
    fn a_patch_changes_what_it_names_and_leaves_the_rest_as_it_was_written() {
        for (into, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"a":1}"#, r#"{"a":{"b":null,"c":2}}"#, r#"{"a":{"c":2}}"#),
            // numbers in all their digits
            (
                r#"{"a":123456789012345678901234567890,"b":{"c":1.10}}"#,
                r#"{"b":{"d":0.10000000000000000000001}}"#,
                r#"{"a":123456789012345678901234567890,"b":{"c":1.10,"d":0.10000000000000000000001}}"#,
            ),
            (r#"{"\u0061": 1}"#, r#"{"a": { "b" : [ 2 ] } }"#, r#"{"a":{"b":[ 2 ]}}"#),
        ] {
            let text = Text::of(&merged(Some(raw(into)), raw(patch)).unwrap()).unwrap();
            assert_eq!(text.as_str(), expected, "{into} {patch}");
        }
    }

    #[test]
    fn subkeys_are_names_without_values() {
        let json = raw(r#"{"a":"x","b":{"c":1,"d":{"e":[{"f":2}]},"g":{}}}"#);
        for (depth, expected) in [
            (0, "null"),
            (1, r#"{"a":null,"b":null}"#),
            (2, r#"{"a":null,"b":{"c":null,"d":null,"g":null}}"#),
            (u32::MAX, r#"{"a":null,"b":{"c":null,"d":{"e":null},"g":null}}"#),
        ] {
            assert_eq!(Text::of(&subkeys(json, depth).unwrap()).unwrap().as_str(), expected, "{depth}");
        }
    }
}
