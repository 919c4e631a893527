//! What a token says, once it is known to be its issuer's.

use crate::body::Strict;
use envelope::Timestamp;
use serde_json::{Map, Value};

/// The members of a token's payload. Each stands there once, at every level.
#[derive(Debug)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Nothing where it is no JSON object of members that stand there once.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Strict>(text).ok()?;
        serde_json::from_slice(text).ok().map(Self)
    }

    /// By its name, or, where that begins with a slash, by its JSON pointer (RFC 6901).
    pub fn find(&self, name: &str) -> Option<&Value> {
        let Some(path) = name.strip_prefix('/') else { return self.0.get(name) };
        let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
        let first = self.0.get(&steps.next()?)?;
        steps.try_fold(first, |at, step| match at {
            Value::Object(members) => members.get(&step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }

    /// A text that is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.find(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    pub fn subject(&self) -> Option<&str> {
        self.text("sub")
    }

    /// Whom it is for: one text or a list of texts (RFC 7519 §4.1.3); nothing where it is anything else.
    pub fn audiences(&self) -> Vec<&str> {
        match self.0.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().map(Value::as_str).collect::<Option<_>>().unwrap_or_default(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
        }
    }

    /// One of these is among whom it is for, letter by letter.
    pub fn is_for(&self, any_of: &[String]) -> bool {
        let audiences = self.audiences();
        any_of.iter().any(|wanted| audiences.contains(&wanted.as_str()))
    }

    /// With what another says beside it; what stands here stays.
    #[must_use]
    pub(crate) fn filled_from(mut self, other: Self) -> Self {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    pub fn expires(&self) -> Result<Option<Timestamp>, NoDate> {
        self.date("exp")
    }

    pub fn not_before(&self) -> Result<Option<Timestamp>, NoDate> {
        self.date("nbf")
    }

    pub fn issued(&self) -> Result<Option<Timestamp>, NoDate> {
        self.date("iat")
    }

    /// RFC 7519 §2: seconds, perhaps with a fraction.
    pub fn date(&self, name: &str) -> Result<Option<Timestamp>, NoDate> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let Value::Number(number) = value else { return Err(NoDate) };
        let secs = match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its bounds stand before it")]
            (None, Some(part)) if (0.0..=DATE_SECS_MAX as f64).contains(&part) => part as u64,
            (None, _) => return Err(NoDate),
        };
        if secs > DATE_SECS_MAX {
            return Err(NoDate);
        }
        Ok(Some(Timestamp::from_unix_millis(secs * 1000)))
    }
}

/// Where a date should be is something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoDate;

/// A text in which `*` is any part that has neither `:` nor `/` in it, and `**` any part at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob<'g>(&'g str);

impl<'g> Glob<'g> {
    pub fn new(pattern: &'g str) -> Self {
        Self(pattern)
    }

    /// Bounded by the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        // which lengths of the text's beginning the pattern's beginning matches
        let mut reached = vec![false; text.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        let mut rest = pattern;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            let mut next = vec![false; reached.len()];
            if byte != b'*' {
                for (at, (next, was)) in next.iter_mut().skip(1).zip(&reached).enumerate() {
                    *next = *was && text.get(at) == Some(&byte);
                }
            } else {
                let crosses = rest.first() == Some(&b'*');
                rest = if crosses { rest.get(1..).unwrap_or_default() } else { rest };
                let mut open = false;
                for (at, (next, was)) in next.iter_mut().zip(&reached).enumerate() {
                    let stops = at > 0 && !crosses && matches!(text.get(at - 1), Some(b':' | b'/'));
                    open = (open && !stops) || *was;
                    *next = open;
                }
            }
            reached = next;
        }
        reached.last() == Some(&true)
    }
}

/// The year 9999.
const DATE_SECS_MAX: u64 = 253_402_300_799;
