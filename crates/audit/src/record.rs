//! What a record says: who, what, from where, decided how, with which outcome.

use bytes::Bytes;
use envelope::Timestamp;
use serde::Serialize;
use std::borrow::Cow;

/// Who asked. A plain name: the log knows neither tokens nor entities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Allowed,
    Denied,
    /// Refused before anything was decided: malformed, unauthenticated.
    NotReached,
}

/// What is known when the record is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Authorised, and the boundary was asked; a failure adds a second record.
    Asked,
    Done,
    /// The error's reason, from a closed list.
    Failed(Cow<'static, str>),
}

/// One item of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    pub outcome: Outcome,
    /// Keyed hash of the item's own encryption context, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_hmac: Option<String>,
}

/// One act. Encoded as one JSON line.
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
        }
    }

    /// One line, newline included.
    pub fn encode(&self) -> Bytes {
        let mut line = Vec::with_capacity(384);
        // writing to memory fails for no value of these types
        if serde_json::to_writer(&mut line, self).is_ok() {
            line.push(b'\n');
        }
        line.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_leaves_out_what_is_not_known() {
        let subject = Subject::Token { accessor: "ac".into(), name: "root".into() };
        let mut record = Record::new(Timestamp::from_unix_millis(7), "r-1", "Decrypt", &subject);
        assert_eq!(
            record.encode(),
            "{\"time\":7,\"request_id\":\"r-1\",\"operation\":\"Decrypt\",\
             \"subject\":{\"type\":\"token\",\"accessor\":\"ac\",\"name\":\"root\"},\
             \"decision\":\"not_reached\",\"outcome\":\"done\"}\n"
        );
        let items = [Item {
            index: 3,
            key_id: None,
            outcome: Outcome::Failed("KEY_DISABLED".into()),
            context_hmac: Some("dd".into()),
        }];
        let changes = [("aa".to_owned(), "bb".to_owned())];
        record.path = "kms/keys/k/decrypt";
        record.from = "192.0.2.1:5";
        record.decision = Decision::Allowed;
        record.rule = "policy/x";
        record.outcome = Outcome::Asked;
        record.context_hmac = Some("cc");
        record.changes = &changes;
        record.items = &items;
        assert_eq!(
            record.encode(),
            "{\"time\":7,\"request_id\":\"r-1\",\"operation\":\"Decrypt\",\
             \"subject\":{\"type\":\"token\",\"accessor\":\"ac\",\"name\":\"root\"},\
             \"path\":\"kms/keys/k/decrypt\",\"from\":\"192.0.2.1:5\",\"decision\":\"allowed\",\"rule\":\"policy/x\",\
             \"outcome\":\"asked\",\"context_hmac\":\"cc\",\"changes\":[[\"aa\",\"bb\"]],\
             \"items\":[{\"index\":3,\"outcome\":{\"failed\":\"KEY_DISABLED\"},\"context_hmac\":\"dd\"}]}\n"
        );
    }

    #[test]
    fn no_text_breaks_out_of_its_line() {
        let subject = Subject::Certificate { thumbprint: "t\n".into(), name: "\"}\n{\"\0\u{2028}\u{7f}".into() };
        let line = Record::new(Timestamp::default(), "a\r\nb", "\u{1b}[2J", &subject).encode();
        let breaks = line.iter().filter(|byte| **byte < b' ').count();
        assert_eq!((breaks, line.last()), (1, Some(&b'\n')));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }
}
