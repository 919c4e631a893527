//! The JSON rendering, derived from entries.
//!
//! Always: one record is one line, whatever its texts hold.

use super::entry::{Entry, NotOpened};
use super::personal::PeriodKeys;
use super::{Malformed, Record};
use bytes::Bytes;
use serde::Serialize;
use std::borrow::Cow;

impl Entry {
    /// One line, newline included. Personal fields that are sealed are told where `keys` open them; where not, `sealed` says
    /// under which key they are, and whether that key was there and rejected them.
    pub fn to_json(&self, keys: Option<&PeriodKeys>) -> String {
        let mut entry = Cow::Borrowed(self);
        let opened = match keys {
            Some(keys) if self.sealed().is_some() => entry.to_mut().open(keys),
            Some(_) | None => Err(NotOpened::NoKey),
        };
        let sealed = self.sealed().filter(|_| opened.is_err()).map(|sealed| SealedLine {
            key_id: hex::encode(sealed.key_id),
            counter: sealed.counter,
            rejected: opened == Err(NotOpened::Rejected),
        });
        // writing to memory fails for no value of these types
        let mut line = serde_json::to_string(&Line { record: entry.record(), sealed }).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// Whether this is a draft as it was before entries were binary: a line of JSON, which a store's outbox may still hold. A
/// draft has the tag of a field where the line has its third character, and no field has a tag like that.
pub(super) fn is_line(draft: &[u8]) -> bool {
    draft.starts_with(b"{\"t")
}

/// The draft of a line.
pub(super) fn draft(line: &[u8]) -> Result<Bytes, Malformed> {
    let entry: Entry = serde_json::from_slice(line).map_err(|_| Malformed::Field)?;
    Ok(entry.record().encode())
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedLine>,
}

#[derive(Serialize)]
struct SealedLine {
    key_id: String,
    counter: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected: bool,
}
