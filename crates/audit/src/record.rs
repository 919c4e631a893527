//! What a record says: who, what, from where, decided how, with which outcome.
//!
//! Always: one record has one encoding, and JSON is derived from it. Its schema, for those who read logs without us, is
//! `proto/strongroom/audit/v1/record.proto`.
//! Never: a secret value. Where one matters, its keyed hash stands.

mod entry;
mod json;
mod personal;
pub(crate) mod wire;

pub use entry::{Entry, NotOpened, Sealed, committed, finish, is_entry};
pub use personal::{
    AuditorPublic, AuditorSecret, NoRandomness, Period, PeriodKey, PeriodKeys, ReadingKey, Rejected, SealedPeriodKey,
};

use bytes::Bytes;
use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Who asked. A plain name: the log knows neither tokens nor entities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Subject {
    /// A token, by its accessor.
    Token { accessor: String, name: String },
    /// A client certificate, by SHA-256 of its DER, hexadecimal.
    Certificate { thumbprint: String, name: String },
    /// Nobody was recognised.
    Unauthenticated,
    /// The server itself: replays, expiry, start and stop.
    System,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Allowed,
    Denied,
    /// Refused before anything was decided: malformed, unauthenticated.
    NotReached,
}

/// What is known when the record is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Authorised, and the boundary was asked; a failure adds a second record.
    Asked,
    Done,
    /// The error's reason, from a closed list.
    Failed(Cow<'static, str>),
}

/// One item of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub index: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    pub outcome: Outcome,
    /// Keyed hash of the item's own encryption context, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_hmac: Option<String>,
}

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    pub revision: u64,
    /// The cluster's: rises when a store that went back is taken for good.
    pub generation: u64,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record<'a> {
    /// Unix milliseconds.
    pub time: u64,
    pub request_id: &'a str,
    pub operation: &'a str,
    pub subject: &'a Subject,
    /// The resolved path that was decided on, e.g. `kms/keys/<key id>/decrypt`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    /// Peer address, or empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub from: &'a str,
    pub decision: Decision,
    /// The rule that decided: a policy's or a grant's name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    pub outcome: Outcome,
    /// Keyed hash of the encryption context, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_hmac: Option<&'a str>,
    /// Of a change: keyed hash of the entry's path, and SHA-256 of its new value.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub changes: &'a [(String, String)],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub items: &'a [Item],
    /// Whom the subject belongs to, or empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub entity: &'a str,
    /// A client certificate shown beside what the subject is recognised by: SHA-256 of its DER, hexadecimal; or empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub certificate: &'a str,
    /// The server node, or empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub node: &'a str,
    /// From `time` until the outcome was known; nothing where it was not yet: the boundary was asked, or the record is stored
    /// together with the change that it tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreState>,
    /// The namespace that was asked in, as `a/b/`: the path is one of it. Empty: the root.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: &'a str,
    /// Of a login: what proved who it is (an issuer and its key, a thumbprint, a role's unique id); no credential. Of a
    /// certificate that is made or revoked: which one. Personal.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub proof: &'a str,
    /// Of a change: what the store was at with it. So it is known which of two changes came first, though several nodes'
    /// logs tell them, or one tells them in another order. [`committed`] adds it, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed: Option<StoreState>,
}

/// What is no entry, or no draft of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Empty, or longer than [`ENTRY_BYTES_MAX`].
    #[error("an entry has 1 to {ENTRY_BYTES_MAX} bytes")]
    Length,
    #[error("the checksum is wrong")]
    Checksum,
    /// A field that is unknown, cut off, of another type, not UTF-8, or missing.
    #[error("a field is malformed")]
    Field,
    /// It can be read, and is not what an encoder writes: other order, defaults told, numbers too long.
    #[error("the encoding is not the canonical one")]
    NotCanonical,
    #[error("the period's key has sealed all that it may")]
    KeyUsedUp,
}

impl<'a> Record<'a> {
    pub fn new(now: Timestamp, request_id: &'a str, operation: &'a str, subject: &'a Subject) -> Self {
        Self {
            time: now.unix_millis(),
            request_id,
            operation,
            subject,
            path: "",
            from: "",
            decision: Decision::NotReached,
            rule: "",
            outcome: Outcome::Done,
            context_hmac: None,
            changes: &[],
            items: &[],
            entity: "",
            certificate: "",
            node: "",
            latency_micros: None,
            store: None,
            namespace: "",
            proof: "",
            committed: None,
        }
    }

    /// One line of JSON, newline included: for readers. What a sink takes is [`Record::encode`].
    pub fn json(&self) -> Bytes {
        let mut line = Vec::with_capacity(384);
        // writing to memory fails for no value of these types
        if serde_json::to_writer(&mut line, self).is_ok() {
            line.push(b'\n');
        }
        line.into()
    }

    /// What a sink takes: length of the public part (u16, big-endian), the public part, the personal part. [`finish`] makes
    /// the entry of it. A record that fits no entry has an empty draft, which no sink takes: it is not logged, so what it
    /// tells is not done.
    pub fn encode(&self) -> Bytes {
        let mut draft = Vec::with_capacity(DRAFT_BYTES_USUAL);
        draft.extend_from_slice(&[0; 2]);
        entry::write_public(&mut draft, self);
        let public = u16::try_from(draft.len() - 2).unwrap_or(u16::MAX);
        entry::write_personal(&mut draft, self);
        if draft.len() > DRAFT_BYTES_MAX {
            tracing::error!(
                request_id = self.request_id,
                operation = self.operation,
                "a record is too long to be logged"
            );
            return Bytes::new();
        }
        if let Some(length) = draft.first_chunk_mut() {
            *length = public.to_be_bytes();
        }
        draft.into()
    }
}

/// c2sp.org/tlog-tiles, "Log Entries": a length is a u16.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;
/// Leaves room for what [`finish`] adds.
const DRAFT_BYTES_MAX: usize = ENTRY_BYTES_MAX - 128;
const DRAFT_BYTES_USUAL: usize = 320;

#[cfg(test)]
mod tests;
