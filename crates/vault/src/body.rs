//! What stands in a request's body: a JSON object, read once, its fields taken out by name and type.
//!
//! Always: an object without duplicate keys, of bounded depth, at every level.
//! Always: lenient where Vault's clients are (a number in a string, a list in commas, seconds or `1h`), strict elsewhere;
//! unknown fields are ignored.
//! Never: a copy of a secret that is not wiped.

use crate::duration;
use crate::error::VaultError;
use envelope::SecretBytes;
use serde::Deserializer as _;
use serde::de::{self, Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest body.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most fields of the outermost object.
pub const FIELDS_MAX: usize = 256;

pub struct Body {
    text: SecretBytes,
    fields: Vec<(Box<str>, Range<usize>)>,
}

impl Body {
    pub fn empty() -> Self {
        Self { text: SecretBytes::copy_from(b""), fields: Vec::new() }
    }

    /// An empty text has no fields, nor has `null`, which some clients send instead.
    pub fn parse(text: SecretBytes) -> Result<Self, VaultError> {
        if text.len() > BODY_BYTES_MAX {
            return Err(VaultError::TooLarge);
        }
        if matches!(text.expose().trim_ascii(), b"" | b"null") {
            return Ok(Self::empty());
        }
        let start = text.expose().as_ptr() as usize;
        let mut fields = Vec::new();
        let mut read = serde_json::Deserializer::from_slice(text.expose());
        let found = read.deserialize_map(Outermost).and_then(|found| read.end().map(|()| found));
        for (name, raw) in found.map_err(|error| malformed(&error))? {
            if serde_json::from_str::<Strict>(raw.get()).is_err() {
                return Err(VaultError::field(name, "no JSON of unique keys and bounded depth and numbers"));
            }
            let at = raw.get().as_ptr() as usize - start;
            fields.push((name.into(), at..at + raw.get().len()));
        }
        Ok(Self { text, fields })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| &**name)
    }

    /// The whole object, as it came.
    pub fn whole(&self) -> &str {
        let text = std::str::from_utf8(self.text.expose()).unwrap_or_default().trim();
        if text.is_empty() { "{}" } else { text }
    }

    /// A field's JSON as it came; nothing where it is absent or null.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let (_, at) = self.fields.iter().find(|(field, _)| &**field == name)?;
        let raw = self.text.expose().get(at.clone()).and_then(|raw| std::str::from_utf8(raw).ok())?;
        (raw != "null").then_some(raw)
    }

    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// A field's JSON where it is an object.
    pub fn object(&self, name: &'static str) -> Result<Option<&str>, VaultError> {
        match self.raw(name) {
            Some(raw) if raw.starts_with('{') => Ok(Some(raw)),
            Some(_) => Err(VaultError::field(name, "not an object")),
            None => Ok(None),
        }
    }

    /// An object's fields, as a body of their own.
    pub fn inner(&self, name: &'static str) -> Result<Option<Self>, VaultError> {
        self.object(name)?.map(|raw| Self::parse(SecretBytes::copy_from(raw.as_bytes()))).transpose()
    }

    /// A list's elements, each an object, as bodies of their own.
    pub fn objects(&self, name: &'static str, most: usize) -> Result<Option<Vec<Self>>, VaultError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let items: Vec<&RawValue> =
            serde_json::from_str(raw).map_err(|_| VaultError::field(name, "not a list of objects"))?;
        if items.len() > most {
            return Err(VaultError::field(name, format!("more than {most} items")));
        }
        let bodies = items.into_iter().map(|item| match item.get().starts_with('{') {
            true => Self::parse(SecretBytes::copy_from(item.get().as_bytes())),
            false => Err(VaultError::field(name, "not a list of objects")),
        });
        bodies.collect::<Result<_, _>>().map(Some)
    }

    /// A string; a number or a boolean as its text.
    pub fn string(&self, name: &'static str) -> Result<Option<Zeroizing<String>>, VaultError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let wrong = || VaultError::field(name, "not a string");
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(|text| Some(Zeroizing::new(text))).map_err(|_| wrong()),
            Some(b'{' | b'[') | None => Err(wrong()),
            Some(_) => Ok(Some(Zeroizing::new(raw.to_owned()))),
        }
    }

    /// A string that must be there, and not be empty.
    pub fn required(&self, name: &'static str) -> Result<Zeroizing<String>, VaultError> {
        self.string(name)?.filter(|text| !text.is_empty()).ok_or_else(|| VaultError::field(name, "missing"))
    }

    /// A whole number, in digits or in a string of digits.
    pub fn int(&self, name: &'static str) -> Result<Option<i64>, VaultError> {
        let Some(text) = self.string(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| VaultError::field(name, "not a whole number, or out of range"))
    }

    /// A whole number from 0 to `most`.
    pub fn count(&self, name: &'static str, most: u32) -> Result<Option<u32>, VaultError> {
        let Some(number) = self.int(name)? else { return Ok(None) };
        let number = u32::try_from(number).ok().filter(|number| *number <= most);
        number.map(Some).ok_or_else(|| VaultError::field(name, format!("not a whole number from 0 to {most}")))
    }

    pub fn bool(&self, name: &'static str) -> Result<Option<bool>, VaultError> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        match text.as_str() {
            "true" | "True" | "TRUE" | "1" | "t" => Ok(Some(true)),
            "false" | "False" | "FALSE" | "0" | "f" => Ok(Some(false)),
            _ => Err(VaultError::field(name, "neither true nor false")),
        }
    }

    /// Seconds, or Go's notation (`1h30m`), or days (`7d`). Zero is nothing.
    pub fn duration(&self, name: &'static str) -> Result<Option<Duration>, VaultError> {
        match self.string(name)? {
            None => Ok(None),
            Some(text) => duration::parse(&text).map_err(|why| VaultError::field(name, why)),
        }
    }

    /// A list of strings, or one string with commas between.
    pub fn list(&self, name: &'static str) -> Result<Option<Vec<String>>, VaultError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        if raw.starts_with('[') {
            let list = serde_json::from_str(raw).map_err(|_| VaultError::field(name, "not a list of strings"))?;
            return Ok(Some(list));
        }
        let text = self.string(name)?.unwrap_or_default();
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(Some(parts.map(str::to_owned).collect()))
    }

    /// An object of strings, or the same as JSON in a string.
    pub fn map(&self, name: &'static str) -> Result<Option<BTreeMap<String, String>>, VaultError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let wrong = || VaultError::field(name, "not an object of strings");
        let text;
        let raw = if raw.starts_with('"') {
            text = self.string(name)?.unwrap_or_default();
            text.as_str()
        } else {
            raw
        };
        if raw.trim().is_empty() {
            return Ok(Some(BTreeMap::new()));
        }
        serde_json::from_str::<Strict>(raw).map_err(|_| wrong())?;
        serde_json::from_str(raw).map(Some).map_err(|_| wrong())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("fields", &self.names().count()).finish_non_exhaustive()
    }
}

fn malformed(error: &serde_json::Error) -> VaultError {
    let (line, column) = (error.line(), error.column());
    let what = if error.is_data() { "no JSON object, or a key stands twice" } else { "malformed JSON" };
    VaultError::Invalid(format!("request body: {what} (line {line}, column {column})").into())
}

/// The fields of an object, each as it came.
struct Outermost;

impl<'de> Visitor<'de> for Outermost {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Self::Value = Vec::new();
        while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
            if fields.len() >= FIELDS_MAX || fields.iter().any(|(field, _)| *field == name) {
                return Err(de::Error::custom("a key stands twice, or there are too many"));
            }
            fields.push((name, raw));
        }
        Ok(fields)
    }
}

/// Any JSON whose objects have no key twice. serde_json bounds its depth (128) and its numbers.
pub(crate) struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
        while list.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key) {
                return Err(de::Error::custom("a key stands twice"));
            }
            map.next_value::<Strict>()?;
        }
        Ok(Strict)
    }
}

#[cfg(test)]
mod tests;
