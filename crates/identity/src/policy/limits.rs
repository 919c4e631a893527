//! What a rule demands of a request beside its capability: parameters and the wrapping of the answer.
//!
//! As Vault documents: what is required must be there; what is denied, with this value or with any, must not; where some are
//! allowed, all else is not, but where `*` is. Of wrapping times the lowest bounds count where several stanzas speak of one
//! path ("the lowest value specified for each is the value that will result").
//!
//! Where it leaves room, the stricter way: an allowed value is one to the letter, a denied one whatever is read like it (`t`
//! for `true`, `01` for `1`, one of several between commas, a name in other case); each element of a list counts; what is
//! no scalar is never one of some allowed values, and always one of some denied; `max_wrapping_ttl` alone demands wrapping.

use crate::asked::{Asked, Given};
use std::collections::BTreeMap;
use std::time::Duration;

/// Values by parameter; no values: any.
pub type Values = BTreeMap<Box<str>, Vec<Box<str>>>;

/// Nothing in it bounds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub required: Vec<Box<str>>,
    pub allowed: Option<Values>,
    pub denied: Option<Values>,
    pub min_wrapping: Option<Duration>,
    pub max_wrapping: Option<Duration>,
}

impl Limits {
    pub(crate) fn bound_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Both hold: what is required, allowed and denied is united, and of times the lowest stands. An `allowed_parameters`
    /// beside none stands as it is.
    pub(crate) fn add(&mut self, other: &Self) {
        self.required.extend(other.required.iter().cloned());
        self.required.sort_unstable();
        self.required.dedup();
        unite(&mut self.allowed, other.allowed.as_ref());
        unite(&mut self.denied, other.denied.as_ref());
        let lowest = |a: Option<Duration>, b: Option<Duration>| [a, b].into_iter().flatten().min();
        self.min_wrapping = lowest(self.min_wrapping, other.min_wrapping);
        self.max_wrapping = lowest(self.max_wrapping, other.max_wrapping);
    }

    /// Whether a request keeps within; `has_parameters`: it is one whose parameters are looked at.
    pub(crate) fn are_met(&self, asked: &Asked, has_parameters: bool) -> bool {
        self.wrapping_is_met(asked.wrap_ttl()) && (!has_parameters || self.parameters_are_met(asked))
    }

    fn wrapping_is_met(&self, asked: Option<Duration>) -> bool {
        match (self.min_wrapping, self.max_wrapping) {
            (None, None) => true,
            (min, max) => {
                asked.is_some_and(|asked| min.is_none_or(|min| asked >= min) && max.is_none_or(|max| asked <= max))
            }
        }
    }

    fn parameters_are_met(&self, asked: &Asked) -> bool {
        let is_there = |name: &str| asked.parameters().any(|(found, _)| found == name);
        self.required.iter().all(|name| is_there(name))
            && asked.parameters().all(|(name, given)| !self.denies(name, given) && self.allows(name, given))
    }

    fn denies(&self, name: &str, given: &Given) -> bool {
        let Some(denied) = &self.denied else { return false };
        denied.contains_key(ALL)
            || denied.iter().any(|(parameter, values)| {
                parameter.eq_ignore_ascii_case(name) && (values.is_empty() || is_one_denied(values, given))
            })
    }

    fn allows(&self, name: &str, given: &Given) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        match allowed.get(name) {
            Some(values) => values.is_empty() || are_allowed(values, given),
            None => allowed.contains_key(ALL),
        }
    }
}

/// Where either says any value, any it is.
fn unite(into: &mut Option<Values>, other: Option<&Values>) {
    let Some(other) = other else { return };
    let into = into.get_or_insert_default();
    for (name, values) in other {
        match into.get_mut(name) {
            None => {
                into.insert(name.clone(), values.clone());
            }
            Some(held) if held.is_empty() || values.is_empty() => held.clear(),
            Some(held) => {
                held.extend(values.iter().cloned());
                held.sort_unstable();
                held.dedup();
            }
        }
    }
}

fn are_allowed(values: &[Box<str>], given: &Given) -> bool {
    let is_allowed = |text: &[u8]| values.iter().any(|value| matches(value.as_bytes(), text));
    match given {
        Given::One(text) => is_allowed(text.expose()),
        // what a list of nothing means, nobody knows
        Given::Many(texts) => !texts.is_empty() && texts.iter().all(|text| is_allowed(text.expose())),
        Given::Other => false,
    }
}

fn is_one_denied(values: &[Box<str>], given: &Given) -> bool {
    let is_denied = |text: &[u8]| {
        let parts = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        values.iter().any(|value| is_alike(value, text) || parts.clone().any(|part| is_alike(value, part)))
    };
    match given {
        Given::One(text) => is_denied(text.expose()),
        Given::Many(texts) => texts.iter().any(|text| is_denied(text.expose())),
        Given::Other => true,
    }
}

/// Whether some handler reads `text` as it would `value`.
fn is_alike(value: &str, text: &[u8]) -> bool {
    if matches(value.as_bytes(), text) {
        return true;
    }
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let alike_numbers = matches!((value.parse::<f64>(), text.parse::<f64>()), (Ok(a), Ok(b)) if a == b);
    alike_numbers || matches!((boolean(value), boolean(text)), (Some(a), Some(b)) if a == b)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// A `*` at either end stands for anything.
fn matches(value: &[u8], text: &[u8]) -> bool {
    let (value, open_front) = value.strip_prefix(b"*").map_or((value, false), |rest| (rest, true));
    let (value, open_back) = value.strip_suffix(b"*").map_or((value, false), |rest| (rest, true));
    match (open_front, open_back) {
        (false, false) => text == value,
        (false, true) => text.starts_with(value),
        (true, false) => text.ends_with(value),
        (true, true) => value.is_empty() || text.windows(value.len()).any(|window| window == value),
    }
}

/// Stands for every parameter.
pub(crate) const ALL: &str = "*";
