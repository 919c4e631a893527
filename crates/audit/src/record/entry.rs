//! The canonical form: a record's fields in ascending order, then its checksum.
//!
//! Always: what decodes, encodes to the same bytes again.
//! Never: a field that is skipped because nobody knows it.

use super::personal::{KeyId, PeriodKey, PeriodKeys, TAG_BYTES};
use super::wire::{self, Fields, Value};
use super::{Decision, ENTRY_BYTES_MAX, Item, Malformed, Outcome, Record, StoreState, Subject, json};
use bytes::Bytes;
use envelope::mac;
use serde::Deserialize;
use std::borrow::Cow;

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    time: u64,
    request_id: String,
    operation: String,
    subject: Subject,
    #[serde(default)]
    path: String,
    #[serde(default)]
    from: String,
    decision: Decision,
    #[serde(default)]
    rule: String,
    outcome: Outcome,
    #[serde(default)]
    context_hmac: Option<String>,
    #[serde(default)]
    changes: Vec<(String, String)>,
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    entity: String,
    #[serde(default)]
    certificate: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    latency_micros: Option<u64>,
    #[serde(default)]
    store: Option<StoreState>,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    proof: String,
    #[serde(default)]
    committed: Option<StoreState>,
    #[serde(skip)]
    sealed: Option<Sealed>,
}

/// Personal fields that only the holder of their period's key can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub(super) key_id: KeyId,
    pub(super) counter: u64,
    pub(super) ciphertext: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// Shredded, or never given to us.
    #[error("the period's key is not there")]
    NoKey,
    /// Not sealed under this key, or not beside this public part.
    #[error("the personal fields were rejected")]
    Rejected,
}

/// The entry of a draft ([`Record::encode`]), its personal fields sealed where there is a key. Once an entry: each call seals
/// anew.
pub fn finish(draft: &[u8], personal_key: Option<&PeriodKey>) -> Result<Vec<u8>, Malformed> {
    if json::is_line(draft) {
        return finish(&json::draft(draft)?, personal_key);
    }
    let (length, rest) = draft.split_first_chunk().ok_or(Malformed::Length)?;
    let public = usize::from(u16::from_be_bytes(*length));
    let (public, personal) = rest.split_at_checked(public).ok_or(Malformed::Length)?;
    if public.is_empty() {
        return Err(Malformed::Length);
    }
    let mut entry = Vec::with_capacity(draft.len() + ENTRY_OVERHEAD_USUAL);
    entry.extend_from_slice(public);
    match personal_key.filter(|_| !personal.is_empty()) {
        None => wire::bytes(&mut entry, number::PERSONAL, personal),
        Some(key) => {
            let sealed = key.seal(&mac::sha256(public), personal)?;
            write_sealed(&mut entry, &sealed);
        }
    }
    wire::checksum(&mut entry, number::CRC32);
    if entry.len() > ENTRY_BYTES_MAX { Err(Malformed::Length) } else { Ok(entry) }
}

/// The draft of a change ([`Record::encode`]) with what it was committed at. The same where there is none, or where it has that
/// already.
pub fn committed(draft: &[u8], at: StoreState) -> Bytes {
    let draft =
        if json::is_line(draft) { json::draft(draft).unwrap_or_default() } else { Bytes::copy_from_slice(draft) };
    let told = draft.split_first_chunk().and_then(|(length, rest)| {
        let (public, personal) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let told = Fields(public).any(|field| field.is_ok_and(|(number, _)| number == number::COMMITTED));
        (!public.is_empty() && !told).then_some((public, personal))
    });
    let Some((public, personal)) = told else { return draft };
    let mut out = Vec::with_capacity(draft.len() + COMMITTED_BYTES_MAX);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(public);
    // behind all public fields
    write_state(&mut out, number::COMMITTED, at);
    let Ok(length) = u16::try_from(out.len() - 2) else { return draft };
    if let Some(place) = out.first_chunk_mut() {
        *place = length.to_be_bytes();
    }
    out.extend_from_slice(personal);
    out.into()
}

/// Whether these bytes are an entry that was written to its end: by length and checksum alone.
pub fn is_entry(bytes: &[u8]) -> bool {
    bytes.len() <= ENTRY_BYTES_MAX && wire::checked(bytes, number::CRC32).is_some_and(|body| !body.is_empty())
}

impl Entry {
    /// Refuses what [`finish`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if !(1..=ENTRY_BYTES_MAX).contains(&bytes.len()) {
            return Err(Malformed::Length);
        }
        let body = wire::checked(bytes, number::CRC32).ok_or(Malformed::Checksum)?;
        let mut read = Read::default();
        for field in Fields(body) {
            let (number, value) = field?;
            read.field(number, value)?;
        }
        let entry = read.entry()?;
        if entry.encode() == bytes { Ok(entry) } else { Err(Malformed::NotCanonical) }
    }

    /// The bytes that it was decoded from.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENTRY_BYTES_USUAL);
        write_public(&mut out, &self.record());
        match &self.sealed {
            Some(sealed) => write_sealed(&mut out, sealed),
            None => {
                let mut personal = Vec::new();
                write_personal(&mut personal, &self.record());
                wire::bytes(&mut out, number::PERSONAL, &personal);
            }
        }
        wire::checksum(&mut out, number::CRC32);
        out
    }

    /// What it says. Without [`Self::open`], sealed fields are empty.
    pub fn record(&self) -> Record<'_> {
        Record {
            time: self.time,
            request_id: &self.request_id,
            operation: &self.operation,
            subject: &self.subject,
            path: &self.path,
            from: &self.from,
            decision: self.decision,
            rule: &self.rule,
            outcome: self.outcome.clone(),
            context_hmac: self.context_hmac.as_deref(),
            changes: &self.changes,
            items: &self.items,
            entity: &self.entity,
            certificate: &self.certificate,
            node: &self.node,
            latency_micros: self.latency_micros,
            store: self.store,
            namespace: &self.namespace,
            proof: &self.proof,
            committed: self.committed,
        }
    }

    /// The personal fields, where they are sealed.
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// Fills in the personal fields, where they are sealed. [`Self::encode`] still gives the same bytes.
    pub fn open(&mut self, keys: &PeriodKeys) -> Result<(), NotOpened> {
        let Some(sealed) = &self.sealed else { return Ok(()) };
        let key = keys.find(&sealed.key_id).ok_or(NotOpened::NoKey)?;
        let mut public = Vec::with_capacity(ENTRY_BYTES_USUAL);
        write_public(&mut public, &self.record());
        let opened = key.open(&mac::sha256(&public), sealed).map_err(|_| NotOpened::Rejected)?;
        let mut read = Read::default();
        read.personal(opened.expose()).map_err(|_| NotOpened::Rejected)?;
        match &mut self.subject {
            Subject::Token { name, .. } | Subject::Certificate { name, .. } => *name = read.name,
            Subject::Unauthenticated | Subject::System if read.name.is_empty() => {}
            Subject::Unauthenticated | Subject::System => return Err(NotOpened::Rejected),
        }
        self.from = read.from;
        self.proof = read.proof;
        Ok(())
    }
}

impl Sealed {
    /// Names the key; the period's sealed copy carries the same.
    pub fn key_id(&self) -> &[u8; 16] {
        &self.key_id
    }
}

pub(super) fn write_public(out: &mut Vec<u8>, record: &Record<'_>) {
    wire::uint(out, number::TIME, record.time);
    wire::hexadecimal(out, number::REQUEST_ID, record.request_id);
    wire::bytes(out, number::OPERATION, record.operation.as_bytes());
    let kind = match record.subject {
        Subject::Token { .. } => SUBJECT_TOKEN,
        Subject::Certificate { .. } => SUBJECT_CERTIFICATE,
        Subject::Unauthenticated => SUBJECT_UNAUTHENTICATED,
        Subject::System => SUBJECT_SYSTEM,
    };
    wire::uint(out, number::SUBJECT, kind);
    match record.subject {
        Subject::Token { accessor, name: _ } => wire::hexadecimal(out, number::ACCESSOR, accessor),
        Subject::Certificate { thumbprint, name: _ } => wire::hexadecimal(out, number::THUMBPRINT, thumbprint),
        Subject::Unauthenticated | Subject::System => {}
    }
    wire::bytes(out, number::PATH, record.path.as_bytes());
    let decision = match record.decision {
        Decision::Allowed => DECISION_ALLOWED,
        Decision::Denied => DECISION_DENIED,
        Decision::NotReached => DECISION_NOT_REACHED,
    };
    wire::uint(out, number::DECISION, decision);
    wire::bytes(out, number::RULE, record.rule.as_bytes());
    write_outcome(out, number::OUTCOME, &record.outcome);
    if let Some(context_hmac) = record.context_hmac {
        wire::present_hexadecimal(out, number::CONTEXT_HMAC, context_hmac);
    }
    for (path, value) in record.changes {
        wire::message(out, number::CHANGES, |out| {
            wire::hexadecimal(out, number::CHANGE_PATH, path);
            wire::hexadecimal(out, number::CHANGE_VALUE, value);
        });
    }
    for item in record.items {
        wire::message(out, number::ITEMS, |out| {
            wire::uint(out, number::ITEM_INDEX, item.index.into());
            if let Some(key_id) = &item.key_id {
                wire::present_uuid(out, number::ITEM_KEY_ID, key_id);
            }
            write_outcome(out, number::ITEM_OUTCOME, &item.outcome);
            if let Some(context_hmac) = &item.context_hmac {
                wire::present_hexadecimal(out, number::ITEM_CONTEXT_HMAC, context_hmac);
            }
        });
    }
    wire::hexadecimal(out, number::ENTITY, record.entity);
    wire::hexadecimal(out, number::CERTIFICATE, record.certificate);
    wire::bytes(out, number::NODE, record.node.as_bytes());
    if let Some(latency) = record.latency_micros {
        wire::present_uint(out, number::LATENCY_MICROS, latency);
    }
    if let Some(store) = record.store {
        write_state(out, number::STORE, store);
    }
    wire::bytes(out, number::NAMESPACE, record.namespace.as_bytes());
    if let Some(committed) = record.committed {
        write_state(out, number::COMMITTED, committed);
    }
}

fn write_state(out: &mut Vec<u8>, field: u32, state: StoreState) {
    wire::message(out, field, |out| {
        wire::uint(out, number::STORE_REVISION, state.revision);
        wire::uint(out, number::STORE_GENERATION, state.generation);
    });
}

/// Under `field`, and the reason under the next one.
fn write_outcome(out: &mut Vec<u8>, field: u32, outcome: &Outcome) {
    match outcome {
        Outcome::Asked => wire::uint(out, field, OUTCOME_ASKED),
        Outcome::Done => wire::uint(out, field, OUTCOME_DONE),
        Outcome::Failed(reason) => {
            wire::uint(out, field, OUTCOME_FAILED);
            wire::bytes(out, field + 1, reason.as_bytes());
        }
    }
}

pub(super) fn write_personal(out: &mut Vec<u8>, record: &Record<'_>) {
    match record.subject {
        Subject::Token { accessor: _, name } | Subject::Certificate { thumbprint: _, name } => {
            wire::bytes(out, number::PERSONAL_NAME, name.as_bytes());
        }
        Subject::Unauthenticated | Subject::System => {}
    }
    wire::bytes(out, number::PERSONAL_FROM, record.from.as_bytes());
    wire::bytes(out, number::PERSONAL_PROOF, record.proof.as_bytes());
}

fn write_sealed(out: &mut Vec<u8>, sealed: &Sealed) {
    wire::message(out, number::SEALED, |out| {
        wire::bytes(out, number::SEALED_KEY_ID, &sealed.key_id);
        wire::uint(out, number::SEALED_COUNTER, sealed.counter);
        wire::bytes(out, number::SEALED_CIPHERTEXT, &sealed.ciphertext);
    });
}

/// What was read so far.
#[derive(Default)]
struct Read {
    time: u64,
    request_id: String,
    operation: String,
    subject: u64,
    accessor: String,
    thumbprint: String,
    name: String,
    path: String,
    from: String,
    decision: u64,
    rule: String,
    outcome: ReadOutcome,
    context_hmac: Option<String>,
    changes: Vec<(String, String)>,
    items: Vec<Item>,
    entity: String,
    certificate: String,
    node: String,
    latency_micros: Option<u64>,
    store: Option<StoreState>,
    namespace: String,
    proof: String,
    committed: Option<StoreState>,
    sealed: Option<Sealed>,
}

#[derive(Default)]
struct ReadOutcome {
    kind: u64,
    reason: String,
}

impl Read {
    fn field(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            number::TIME => self.time = value.uint()?,
            number::REQUEST_ID => self.request_id = value.hexadecimal()?,
            number::REQUEST_ID_TEXT => self.request_id = value.text()?,
            number::OPERATION => self.operation = value.text()?,
            number::SUBJECT => self.subject = value.uint()?,
            number::ACCESSOR => self.accessor = value.hexadecimal()?,
            number::ACCESSOR_TEXT => self.accessor = value.text()?,
            number::THUMBPRINT => self.thumbprint = value.hexadecimal()?,
            number::THUMBPRINT_TEXT => self.thumbprint = value.text()?,
            number::PATH => self.path = value.text()?,
            number::DECISION => self.decision = value.uint()?,
            number::RULE => self.rule = value.text()?,
            number::OUTCOME => self.outcome.kind = value.uint()?,
            number::REASON => self.outcome.reason = value.text()?,
            number::CONTEXT_HMAC => self.context_hmac = Some(value.hexadecimal()?),
            number::CONTEXT_HMAC_TEXT => self.context_hmac = Some(value.text()?),
            number::CHANGES => self.changes.push(change(value.bytes()?)?),
            number::ITEMS => self.items.push(item(value.bytes()?)?),
            number::ENTITY => self.entity = value.hexadecimal()?,
            number::ENTITY_TEXT => self.entity = value.text()?,
            number::CERTIFICATE => self.certificate = value.hexadecimal()?,
            number::CERTIFICATE_TEXT => self.certificate = value.text()?,
            number::NODE => self.node = value.text()?,
            number::LATENCY_MICROS => self.latency_micros = Some(value.uint()?),
            number::STORE => self.store = Some(store(value.bytes()?)?),
            number::NAMESPACE => self.namespace = value.text()?,
            number::COMMITTED => self.committed = Some(store(value.bytes()?)?),
            number::PERSONAL => self.personal(value.bytes()?)?,
            number::SEALED => self.sealed = Some(sealed(value.bytes()?)?),
            _ => return Err(Malformed::Field),
        }
        Ok(())
    }

    fn personal(&mut self, message: &[u8]) -> Result<(), Malformed> {
        for field in Fields(message) {
            match field? {
                (number::PERSONAL_NAME, value) => self.name = value.text()?,
                (number::PERSONAL_FROM, value) => self.from = value.text()?,
                (number::PERSONAL_PROOF, value) => self.proof = value.text()?,
                _ => return Err(Malformed::Field),
            }
        }
        Ok(())
    }

    fn entry(self) -> Result<Entry, Malformed> {
        Ok(Entry {
            time: self.time,
            request_id: self.request_id,
            operation: self.operation,
            subject: match self.subject {
                SUBJECT_TOKEN => Subject::Token { accessor: self.accessor, name: self.name },
                SUBJECT_CERTIFICATE => Subject::Certificate { thumbprint: self.thumbprint, name: self.name },
                SUBJECT_UNAUTHENTICATED => Subject::Unauthenticated,
                SUBJECT_SYSTEM => Subject::System,
                _ => return Err(Malformed::Field),
            },
            path: self.path,
            from: self.from,
            decision: match self.decision {
                DECISION_ALLOWED => Decision::Allowed,
                DECISION_DENIED => Decision::Denied,
                DECISION_NOT_REACHED => Decision::NotReached,
                _ => return Err(Malformed::Field),
            },
            rule: self.rule,
            outcome: self.outcome.outcome()?,
            context_hmac: self.context_hmac,
            changes: self.changes,
            items: self.items,
            entity: self.entity,
            certificate: self.certificate,
            node: self.node,
            latency_micros: self.latency_micros,
            store: self.store,
            namespace: self.namespace,
            proof: self.proof,
            committed: self.committed,
            sealed: self.sealed,
        })
    }
}

impl ReadOutcome {
    fn outcome(self) -> Result<Outcome, Malformed> {
        match self.kind {
            OUTCOME_ASKED => Ok(Outcome::Asked),
            OUTCOME_DONE => Ok(Outcome::Done),
            OUTCOME_FAILED => Ok(Outcome::Failed(Cow::Owned(self.reason))),
            _ => Err(Malformed::Field),
        }
    }
}

fn change(message: &[u8]) -> Result<(String, String), Malformed> {
    let mut change = (String::new(), String::new());
    for field in Fields(message) {
        match field? {
            (number::CHANGE_PATH, value) => change.0 = value.hexadecimal()?,
            (number::CHANGE_PATH_TEXT, value) => change.0 = value.text()?,
            (number::CHANGE_VALUE, value) => change.1 = value.hexadecimal()?,
            (number::CHANGE_VALUE_TEXT, value) => change.1 = value.text()?,
            _ => return Err(Malformed::Field),
        }
    }
    Ok(change)
}

fn item(message: &[u8]) -> Result<Item, Malformed> {
    let (mut index, mut key_id, mut outcome, mut context_hmac) = (0, None, ReadOutcome::default(), None);
    for field in Fields(message) {
        match field? {
            (number::ITEM_INDEX, value) => index = u32::try_from(value.uint()?).map_err(|_| Malformed::Field)?,
            (number::ITEM_KEY_ID, value) => key_id = Some(value.uuid()?),
            (number::ITEM_KEY_ID_TEXT, value) => key_id = Some(value.text()?),
            (number::ITEM_OUTCOME, value) => outcome.kind = value.uint()?,
            (number::ITEM_REASON, value) => outcome.reason = value.text()?,
            (number::ITEM_CONTEXT_HMAC, value) => context_hmac = Some(value.hexadecimal()?),
            (number::ITEM_CONTEXT_HMAC_TEXT, value) => context_hmac = Some(value.text()?),
            _ => return Err(Malformed::Field),
        }
    }
    Ok(Item { index, key_id, outcome: outcome.outcome()?, context_hmac })
}

fn store(message: &[u8]) -> Result<StoreState, Malformed> {
    let mut store = StoreState { revision: 0, generation: 0 };
    for field in Fields(message) {
        match field? {
            (number::STORE_REVISION, value) => store.revision = value.uint()?,
            (number::STORE_GENERATION, value) => store.generation = value.uint()?,
            _ => return Err(Malformed::Field),
        }
    }
    Ok(store)
}

fn sealed(message: &[u8]) -> Result<Sealed, Malformed> {
    let mut sealed = Sealed { key_id: [0; 16], counter: 0, ciphertext: Vec::new() };
    for field in Fields(message) {
        match field? {
            (number::SEALED_KEY_ID, value) => {
                sealed.key_id = value.bytes()?.try_into().map_err(|_| Malformed::Field)?;
            }
            (number::SEALED_COUNTER, value) => sealed.counter = value.uint()?,
            (number::SEALED_CIPHERTEXT, value) => sealed.ciphertext = value.bytes()?.to_vec(),
            _ => return Err(Malformed::Field),
        }
    }
    // nothing is not sealed
    if sealed.ciphertext.len() > TAG_BYTES { Ok(sealed) } else { Err(Malformed::Field) }
}

/// As in `record.proto`. An identifier's text form has the number after that of its bytes, a reason that after its outcome.
mod number {
    pub(super) const TIME: u32 = 1;
    pub(super) const REQUEST_ID: u32 = 2;
    pub(super) const REQUEST_ID_TEXT: u32 = 3;
    pub(super) const OPERATION: u32 = 4;
    pub(super) const SUBJECT: u32 = 5;
    pub(super) const ACCESSOR: u32 = 6;
    pub(super) const ACCESSOR_TEXT: u32 = 7;
    pub(super) const THUMBPRINT: u32 = 8;
    pub(super) const THUMBPRINT_TEXT: u32 = 9;
    pub(super) const PATH: u32 = 10;
    pub(super) const DECISION: u32 = 11;
    pub(super) const RULE: u32 = 12;
    pub(super) const OUTCOME: u32 = 13;
    pub(super) const REASON: u32 = 14;
    pub(super) const CONTEXT_HMAC: u32 = 15;
    pub(super) const CONTEXT_HMAC_TEXT: u32 = 16;
    pub(super) const CHANGES: u32 = 17;
    pub(super) const ITEMS: u32 = 18;
    pub(super) const ENTITY: u32 = 19;
    pub(super) const ENTITY_TEXT: u32 = 20;
    pub(super) const CERTIFICATE: u32 = 21;
    pub(super) const CERTIFICATE_TEXT: u32 = 22;
    pub(super) const NODE: u32 = 23;
    pub(super) const LATENCY_MICROS: u32 = 24;
    pub(super) const STORE: u32 = 25;
    pub(super) const NAMESPACE: u32 = 26;
    pub(super) const COMMITTED: u32 = 27;
    pub(super) const PERSONAL: u32 = 90;
    pub(super) const SEALED: u32 = 91;
    /// Behind all that may yet come.
    pub(super) const CRC32: u32 = 100;

    pub(super) const CHANGE_PATH: u32 = 1;
    pub(super) const CHANGE_PATH_TEXT: u32 = 2;
    pub(super) const CHANGE_VALUE: u32 = 3;
    pub(super) const CHANGE_VALUE_TEXT: u32 = 4;

    pub(super) const ITEM_INDEX: u32 = 1;
    pub(super) const ITEM_KEY_ID: u32 = 2;
    pub(super) const ITEM_KEY_ID_TEXT: u32 = 3;
    pub(super) const ITEM_OUTCOME: u32 = 4;
    pub(super) const ITEM_REASON: u32 = 5;
    pub(super) const ITEM_CONTEXT_HMAC: u32 = 6;
    pub(super) const ITEM_CONTEXT_HMAC_TEXT: u32 = 7;

    pub(super) const STORE_REVISION: u32 = 1;
    pub(super) const STORE_GENERATION: u32 = 2;

    pub(super) const PERSONAL_NAME: u32 = 1;
    pub(super) const PERSONAL_FROM: u32 = 2;
    pub(super) const PERSONAL_PROOF: u32 = 3;

    pub(super) const SEALED_KEY_ID: u32 = 1;
    pub(super) const SEALED_COUNTER: u32 = 2;
    pub(super) const SEALED_CIPHERTEXT: u32 = 3;
}

// Zero is no subject, decision or outcome: each is always told.
const SUBJECT_TOKEN: u64 = 1;
const SUBJECT_CERTIFICATE: u64 = 2;
const SUBJECT_UNAUTHENTICATED: u64 = 3;
const SUBJECT_SYSTEM: u64 = 4;
const DECISION_ALLOWED: u64 = 1;
const DECISION_DENIED: u64 = 2;
const DECISION_NOT_REACHED: u64 = 3;
const OUTCOME_ASKED: u64 = 1;
const OUTCOME_DONE: u64 = 2;
const OUTCOME_FAILED: u64 = 3;

const COMMITTED_BYTES_MAX: usize = 25;
const ENTRY_BYTES_USUAL: usize = 320;
/// Heads of the personal part, the sealed form's key id, counter and tag, and the checksum.
const ENTRY_OVERHEAD_USUAL: usize = 72;
