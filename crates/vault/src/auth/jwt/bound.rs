//! Whether claims are those that a role binds. Pure.

use super::role::Role;
use super::{
    AUDIENCE_OTHER, CLAIM_OTHER, GROUPS_MALFORMED, ID_MISSING, MAPPING_MALFORMED, SUBJECT_OTHER, TOO_OLD,
    USER_CLAIM_MISSING,
};
use crate::auth::jose::{Claims, Glob};
use crate::body::{Body, Strict};
use crate::error::VaultError;
use envelope::Timestamp;
use identity::token::{META_BYTES_MAX, META_PAIRS_MAX};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::collections::BTreeMap;

/// One value that a claim may have, with its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Bool(bool),
    Number(Number),
    Text(String),
}

/// Values of which one must be there, by the claim's name or pointer.
pub(super) type Bound = BTreeMap<String, Vec<Scalar>>;

/// How texts of a role are compared with a claim's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Comparison {
    #[default]
    String,
    Glob,
}

/// What a login takes out of the claims.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) alias: String,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) groups: Option<Vec<String>>,
}

impl Scalar {
    fn is(&self, value: &Value, how: Comparison) -> bool {
        match (self, value) {
            (Self::Bool(wanted), Value::Bool(found)) => wanted == found,
            (Self::Number(wanted), Value::Number(found)) => wanted == found,
            (Self::Text(wanted), Value::String(found)) => match how {
                Comparison::String => wanted == found,
                Comparison::Glob => Glob::new(wanted).matches(found),
            },
            (Self::Bool(_) | Self::Number(_) | Self::Text(_), _) => false,
        }
    }
}

/// An object of values and lists of values, or the same as JSON in a text.
pub(super) fn parse(body: &Body, field: &'static str) -> Result<Option<Bound>, VaultError> {
    let wrong = |why: &'static str| VaultError::field(field, why);
    let Some(raw) = body.raw(field) else { return Ok(None) };
    let text = if raw.starts_with('"') { body.string(field)?.unwrap_or_default().to_string() } else { raw.to_owned() };
    if text.trim().is_empty() {
        return Ok(Some(Bound::new()));
    }
    serde_json::from_str::<Strict>(&text).map_err(|_| wrong("a member stands twice, or it is no JSON"))?;
    let parsed: BTreeMap<String, Value> = serde_json::from_str(&text).map_err(|_| wrong("not an object"))?;
    if parsed.len() > CLAIMS_MAX {
        return Err(wrong("more claims than are looked at"));
    }
    let mut bound = Bound::new();
    for (name, value) in parsed {
        let values = match value {
            Value::Array(values) => values,
            one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => vec![one],
        };
        let scalars: Option<Vec<_>> = values.into_iter().map(scalar).collect();
        let scalars = scalars.filter(|scalars| (1..=VALUES_MAX).contains(&scalars.len()));
        let scalars = scalars.ok_or_else(|| wrong("1 to 100 texts, numbers or booleans for each claim"))?;
        bound.insert(name, scalars);
    }
    Ok(Some(bound))
}

fn scalar(value: Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(value)),
        Value::Number(value) => Some(Scalar::Number(value)),
        // an empty text binds nothing that anybody means to bind
        Value::String(value) => (!value.is_empty()).then_some(Scalar::Text(value)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether the claims are for this role, by all but issuer and end; what is wrong.
pub(super) fn check(role: &Role, claims: &Claims, audiences: &[String], now: Timestamp) -> Result<(), &'static str> {
    if !claims.is_for(audiences) {
        return Err(AUDIENCE_OTHER);
    }
    if !role.bound_subject.is_empty() && claims.subject() != Some(role.bound_subject.as_str()) {
        return Err(SUBJECT_OTHER);
    }
    if role.max_token_age > 0 {
        let issued = claims.issued().ok().flatten().ok_or(TOO_OLD)?;
        if now.since(issued).as_secs() > role.max_token_age {
            return Err(TOO_OLD);
        }
    }
    if role.single_use && claims.text("jti").is_none() {
        return Err(ID_MISSING);
    }
    let is_bound = |(name, wanted): (&String, &Vec<Scalar>)| {
        let any_of = |found: &Value| wanted.iter().any(|wanted| wanted.is(found, role.bound_claims_type));
        match claims.find(name) {
            Some(Value::Array(items)) => items.iter().any(any_of),
            Some(one) => any_of(one),
            None => false,
        }
    };
    if role.bound_claims.iter().all(is_bound) { Ok(()) } else { Err(CLAIM_OTHER) }
}

/// Who it is, and what is told of it.
pub(super) fn take(role: &Role, claims: &Claims) -> Result<Taken, &'static str> {
    let user = if role.user_claim_json_pointer || !role.user_claim.starts_with('/') { &role.user_claim } else { "" };
    let alias = claims.text(user).filter(|alias| alias.len() <= ALIAS_BYTES_MAX).ok_or(USER_CLAIM_MISSING)?;
    let mut meta = BTreeMap::from([("role".to_owned(), role.name.clone())]);
    for (name, key) in &role.claim_mappings {
        let text = match claims.find(name) {
            None => continue,
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => return Err(MAPPING_MALFORMED),
        };
        if text.len() > META_BYTES_MAX {
            return Err(MAPPING_MALFORMED);
        }
        meta.insert(key.clone(), text);
    }
    let groups = match role.groups_claim.as_str() {
        "" => None,
        name => Some(groups(claims.find(name)).ok_or(GROUPS_MALFORMED)?),
    };
    Ok(Taken { alias: alias.to_owned(), meta, groups })
}

fn groups(value: Option<&Value>) -> Option<Vec<String>> {
    let groups: Vec<String> = match value? {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    (groups.len() <= GROUPS_MAX).then_some(groups)
}

/// Keys of a token's metadata by claims: none that is the method's own, none twice.
pub(super) fn check_mappings(mappings: &BTreeMap<String, String>) -> Result<(), VaultError> {
    let wrong = |why: &'static str| VaultError::field("claim_mappings", why);
    if mappings.len() >= META_PAIRS_MAX {
        return Err(wrong("more than 63 claims"));
    }
    let mut keys: Vec<&String> = mappings.values().collect();
    keys.sort_unstable();
    if keys.iter().any(|key| key.is_empty() || key.len() > META_BYTES_MAX || *key == "role") {
        return Err(wrong("a key that is empty, too long, or `role`"));
    }
    if keys.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(wrong("two claims under one key"));
    }
    Ok(())
}

const CLAIMS_MAX: usize = 64;
const VALUES_MAX: usize = 100;
const GROUPS_MAX: usize = 200;
const ALIAS_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use envelope::SecretBytes;

    fn role(bound: &str, how: &str) -> Role {
        let body = format!(r#"{{"b": {bound}}}"#);
        let bound_claims = parse(&Body::parse(SecretBytes::copy_from(body.as_bytes())).unwrap(), "b").unwrap().unwrap();
        let bound_claims_type = if how == "glob" { Comparison::Glob } else { Comparison::String };
        Role { bound_claims, bound_claims_type, user_claim: "sub".into(), ..Role::default() }
    }

    #[test]
    fn claims_are_compared_with_their_types() {
        let audiences = ["vault".to_owned()];
        for (bound, how, claims, allowed) in [
            (r#"{"a": "x"}"#, "", r#""a": "x""#, true),
            (r#"{"a": ["y", "x"]}"#, "", r#""a": "x""#, true),
            (r#"{"a": "x"}"#, "", r#""a": ["y", "x"]"#, true),
            (r#"{"a": "x"}"#, "", r#""b": "x""#, false),
            (r#"{"a": "x"}"#, "", r#""a": null"#, false),
            (r#"{"a": "x", "b": "y"}"#, "", r#""a": "x""#, false),
            (r#"{"a": true}"#, "", r#""a": true"#, true),
            (r#"{"a": true}"#, "", r#""a": "true""#, false),
            (r#"{"a": "true"}"#, "", r#""a": true"#, false),
            (r#"{"a": 1}"#, "", r#""a": 1"#, true),
            (r#"{"a": 1}"#, "", r#""a": "1""#, false),
            (r#"{"a": 1}"#, "", r#""a": true"#, false),
            (r#"{"a": "1"}"#, "", r#""a": 1"#, false),
            (r#"{"a": "x"}"#, "", r#""a": {"x": 1}"#, false),
            (r#"{"a": "x"}"#, "", r#""a": [["x"]]"#, false),
            (r#"{"/a/b": 7}"#, "", r#""a": {"b": 7}"#, true),
            (r#"{"a": "x*"}"#, "", r#""a": "xy""#, false),
            (r#"{"a": "x*"}"#, "glob", r#""a": "xy""#, true),
            (r#"{"a": "x*"}"#, "glob", r#""a": "x:y""#, false),
            (r#"{"a": "x*"}"#, "glob", r#""a": ["x/y"]"#, false),
            (r#"{"a": "*"}"#, "glob", r#""a": 1"#, false),
            (r#"{"a": "x"}"#, "", r#""a": "X""#, false),
            (r#"{"a": "x"}"#, "", "\"a\": \"\u{445}\"", false),
            (r#"{"a": "x"}"#, "", r#""a": "x ""#, false),
        ] {
            let claims = Claims::parse(format!(r#"{{"aud": "vault", {claims}}}"#).as_bytes()).unwrap();
            let told = check(&role(bound, how), &claims, &audiences, Timestamp::from_unix_millis(0));
            assert_eq!(told.is_ok(), allowed, "{bound} {claims:?}");
        }
    }

    #[test]
    fn what_binds_nothing_is_refused() {
        for bound in [
            r#"{"a": ""}"#,
            r#"{"a": []}"#,
            r#"{"a": null}"#,
            r#"{"a": {}}"#,
            r#"{"a": [["x"]]}"#,
            "[]",
            "1",
            r#"{"a": 1, "a": 2}"#,
            r#""x""#,
        ] {
            let body = Body::parse(SecretBytes::copy_from(format!(r#"{{"b": {bound}}}"#).as_bytes()));
            assert!(body.is_err() || parse(&body.unwrap(), "b").is_err(), "{bound}");
        }
    }

    #[test]
    fn what_is_taken_out_of_the_claims_is_text() {
        let claims = Claims::parse(
            br#"{"sub": "s", "n": 7, "t": true, "l": ["g", "h"], "o": {}, "i": [1], "/x": "y", "e": ""}"#,
        )
        .unwrap();
        let mapped = |claim: &str| BTreeMap::from([(claim.to_owned(), "key".to_owned())]);
        for (user, mapping, groups, told) in [
            ("sub", "n", "", Ok(("s", Some("7"), None))),
            ("sub", "t", "l", Ok(("s", Some("true"), Some(2)))),
            ("sub", "missing", "sub", Ok(("s", None, Some(1)))),
            ("sub", "l", "", Err(MAPPING_MALFORMED)),
            ("sub", "o", "", Err(MAPPING_MALFORMED)),
            ("sub", "n", "i", Err(GROUPS_MALFORMED)),
            ("sub", "n", "missing", Err(GROUPS_MALFORMED)),
            ("sub", "n", "o", Err(GROUPS_MALFORMED)),
            ("n", "n", "", Err(USER_CLAIM_MISSING)),
            ("e", "n", "", Err(USER_CLAIM_MISSING)),
            ("/l/0", "n", "", Err(USER_CLAIM_MISSING)),
        ] {
            let role = Role {
                user_claim: user.into(),
                claim_mappings: mapped(mapping),
                groups_claim: groups.into(),
                ..Role::default()
            };
            let taken = take(&role, &claims);
            let taken = taken.as_ref().map(|taken| {
                (taken.alias.as_str(), taken.meta.get("key").map(String::as_str), taken.groups.as_ref().map(Vec::len))
            });
            assert_eq!(taken.map_err(|cause| *cause), told, "{user} {mapping} {groups}");
        }
    }
}
