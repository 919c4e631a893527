//! Answers, as a table for people or as JSON for programs; trouble, with what to do next.
//!
//! Always: field names are the API's; bytes are base64; dates RFC 3339. In tables, control characters are escaped: names and
//! descriptions come from others and must not steer a terminal.
//! Never: a secret in `Debug`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::SecretBytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::fmt::Write as _;
use std::io::Write as _;
use zeroize::{Zeroize as _, Zeroizing};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// What a command answers.
#[derive(Debug)]
pub enum Answer {
    /// Nothing to tell: it was done.
    Done,
    /// One thing, a line a field.
    Record(Record),
    /// Many of a kind, a line each; JSON names them `name`, with the next marker where the list was not read to its end.
    List { name: &'static str, rows: Vec<Record>, next_marker: Option<String> },
    /// A text that stands for itself; JSON gives the record.
    Text { text: String, record: Record },
    /// These bytes and nothing around them; on a terminal, base64.
    Raw(SecretBytes),
    /// This line and nothing around it.
    Line(SecretBytes),
    /// As [`Self::Record`], and the answer is no: exit 1.
    No(Record),
    /// What the vault answered, as it is; in a table a line for each value, named by where it stands.
    Json(serde_json::Value),
}

/// Fields in the order in which they are told.
#[derive(Debug, Default)]
pub struct Record(Vec<(&'static str, Value)>);

#[derive(Debug)]
pub enum Value {
    Absent,
    Text(String),
    Number(u64),
    Bool(bool),
    Bytes(Vec<u8>),
    Secret(SecretBytes),
    List(Vec<Value>),
    Record(Record),
    Pairs(Vec<(String, String)>),
}

impl Answer {
    /// Nothing more: it stands on standard output already.
    pub fn printed() -> Self {
        Self::Line(SecretBytes::copy_from(b""))
    }

    pub fn is_no(&self) -> bool {
        matches!(self, Self::No(_))
    }
}

impl Record {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// The fields of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// A field that is left out where there is nothing to tell.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

macro_rules! values {
    ($($type:ty, $value:ident => $make:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $make
            }
        })*
    };
}

values! {
    String, text => Self::Text(text);
    &str, text => Self::Text(text.to_owned());
    u64, number => Self::Number(number);
    u32, number => Self::Number(number.into());
    bool, yes => Self::Bool(yes);
    bytes::Bytes, bytes => Self::Bytes(bytes.to_vec());
    SecretBytes, secret => Self::Secret(secret);
    Record, record => Self::Record(record);
    Vec<String>, texts => Self::List(texts.into_iter().map(Self::Text).collect());
    Vec<Record>, records => Self::List(records.into_iter().map(Self::Record).collect());
    std::collections::BTreeMap<String, String>, pairs => Self::Pairs(pairs.into_iter().collect());
    Option<prost_types::Timestamp>, at => at.map_or(Self::Absent, |at| Self::Text(super::values::date_text(&at)));
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Bool(yes) => serializer.serialize_bool(*yes),
            Self::Bytes(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            Self::Secret(secret) => serializer.serialize_str(&Zeroizing::new(STANDARD.encode(secret.expose()))),
            Self::List(values) => serializer.collect_seq(values),
            Self::Record(record) => record.serialize(serializer),
            Self::Pairs(pairs) => serializer.collect_map(pairs.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// Prints an answer. A reader that went away is no failure of ours.
pub fn print(answer: &Answer, format: Format, terminal: bool) -> anyhow::Result<()> {
    let bytes = match answer {
        Answer::Line(bytes) => SecretBytes::copy_from(bytes.expose()),
        Answer::Raw(bytes) if !terminal => SecretBytes::copy_from(bytes.expose()),
        Answer::Raw(bytes) => SecretBytes::from_vec((STANDARD.encode(bytes.expose()) + "\n").into_bytes()),
        Answer::Done
        | Answer::Record(_)
        | Answer::List { .. }
        | Answer::Text { .. }
        | Answer::No(_)
        | Answer::Json(_) => SecretBytes::from_vec(render(answer, format)?.into_bytes()),
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes.expose()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What [`print`] prints.
pub fn render(answer: &Answer, format: Format) -> anyhow::Result<String> {
    let empty = Record::new();
    Ok(match (format, answer) {
        (Format::Json, Answer::Record(record) | Answer::No(record) | Answer::Text { record, .. }) => json(record)?,
        (Format::Json, Answer::Done) => json(&empty)?,
        (Format::Json, Answer::List { name, rows, next_marker }) => {
            #[derive(serde::Serialize)]
            struct Page<'a> {
                #[serde(flatten)]
                rows: std::collections::BTreeMap<&'a str, &'a Vec<Record>>,
                #[serde(skip_serializing_if = "Option::is_none")]
                next_marker: &'a Option<String>,
            }
            json(&Page { rows: [(*name, rows)].into(), next_marker })?
        }
        (Format::Table, Answer::Record(record) | Answer::No(record)) => lines(record),
        (Format::Table, Answer::Text { text, .. }) => shown(text, true),
        (Format::Table, Answer::List { rows, next_marker, .. }) => table(rows, next_marker.as_deref()),
        (Format::Json, Answer::Json(value)) => json(value)?,
        (Format::Table, Answer::Json(value)) => leaves(value),
        (Format::Table, Answer::Done) | (_, Answer::Raw(_) | Answer::Line(_)) => String::new(),
    })
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    // room enough that growing leaves few copies of a secret behind
    let mut out = Vec::with_capacity(16 * 1024);
    serde_json::to_writer_pretty(&mut out, value)?;
    out.push(b'\n');
    Ok(String::from_utf8(out)?)
}

/// `name  value`, a line each; what stands within is named `outer.inner`.
fn lines(record: &Record) -> String {
    let mut flat = Vec::new();
    flatten("", record, &mut flat);
    let width = flat.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::with_capacity(16 * 1024);
    for (name, mut value) in flat {
        let _ = writeln!(out, "{name:width$}  {value}");
        value.zeroize();
    }
    out
}

fn flatten(prefix: &str, record: &Record, out: &mut Vec<(String, String)>) {
    for (name, value) in &record.0 {
        let name = format!("{prefix}{name}");
        match value {
            Value::Record(inner) => flatten(&format!("{name}."), inner, out),
            Value::Pairs(pairs) if !pairs.is_empty() => {
                out.extend(
                    pairs.iter().map(|(key, value)| (format!("{name}.{}", shown(key, false)), shown(value, false))),
                );
            }
            Value::List(values) if values.iter().any(|value| matches!(value, Value::Record(_))) => {
                out.extend((0..).zip(values).map(|(number, value): (u64, _)| (format!("{name}.{number}"), row(value))));
            }
            Value::Absent
            | Value::Text(_)
            | Value::Number(_)
            | Value::Bool(_)
            | Value::Bytes(_)
            | Value::Secret(_)
            | Value::List(_)
            | Value::Pairs(_) => out.push((name, cell(value))),
        }
    }
}

/// `outer.inner  value`, a line each; of a list of plain values, one line.
fn leaves(value: &serde_json::Value) -> String {
    let mut flat = Vec::new();
    flatten_json(String::new(), value, &mut flat);
    let width = flat.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = String::with_capacity(16 * 1024);
    for (name, mut value) in flat {
        let _ = writeln!(out, "{name:width$}  {value}");
        value.zeroize();
    }
    out
}

fn flatten_json(name: String, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
    use serde_json::Value as Json;
    let below =
        |part: &str| if name.is_empty() { shown(part, false) } else { format!("{name}.{}", shown(part, false)) };
    let plain = |value: &Json| match value {
        Json::Null => "-".to_owned(),
        Json::String(text) if text.is_empty() => "-".to_owned(),
        Json::String(text) => shown(text, false),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => value.to_string(),
    };
    match value {
        Json::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| flatten_json(below(key), value, out));
        }
        Json::Array(list) if list.iter().any(|value| value.is_object() || value.is_array()) => {
            list.iter().enumerate().for_each(|(n, value)| flatten_json(below(&n.to_string()), value, out));
        }
        Json::Array(list) if !list.is_empty() => {
            out.push((name, list.iter().map(plain).collect::<Vec<_>>().join(", ")));
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
            out.push((name, plain(value)));
        }
    }
}

/// One of many in a record, on one line, with its names.
fn row(value: &Value) -> String {
    match value {
        Value::Record(record) => {
            let named = record.0.iter().map(|(name, value)| format!("{name}={}", cell(value)));
            named.collect::<Vec<_>>().join(" ")
        }
        Value::Absent
        | Value::Text(_)
        | Value::Number(_)
        | Value::Bool(_)
        | Value::Bytes(_)
        | Value::Secret(_)
        | Value::List(_)
        | Value::Pairs(_) => cell(value),
    }
}

/// A heading of names, then a line a row. The columns are the first row's.
fn table(rows: &[Record], next_marker: Option<&str>) -> String {
    let mut out = String::new();
    if let Some(first) = rows.first() {
        let heading: Vec<String> = first.0.iter().map(|(name, _)| (*name).to_owned()).collect();
        let body = rows.iter().map(|row| row.0.iter().map(|(_, value)| cell(value)).collect());
        let all: Vec<Vec<String>> = std::iter::once(heading).chain(body).collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..first.0.len()).map(width).collect();
        for row in &all {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            out += cells.collect::<Vec<_>>().join("  ").trim_end();
            out.push('\n');
        }
    } else {
        out += "(none)\n";
    }
    if let Some(marker) = next_marker {
        let _ = writeln!(out, "\nmore: --marker {}", shown(marker, false));
    }
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Absent => "-".to_owned(),
        Value::Text(text) if text.is_empty() => "-".to_owned(),
        Value::Text(text) => shown(text, false),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Bytes(bytes) if bytes.is_empty() => "-".to_owned(),
        Value::Bytes(bytes) => STANDARD.encode(bytes),
        Value::Secret(secret) => STANDARD.encode(secret.expose()),
        Value::List(values) if values.is_empty() => "-".to_owned(),
        Value::List(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Record(record) => record.0.iter().map(|(_, value)| cell(value)).collect::<Vec<_>>().join(" "),
        Value::Pairs(pairs) if pairs.is_empty() => "-".to_owned(),
        Value::Pairs(pairs) => pairs
            .iter()
            .map(|(key, value)| format!("{}={}", shown(key, false), shown(value, false)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Text of others, without what steers a terminal: control characters and those that turn the direction of writing.
fn shown(text: &str, lines_too: bool) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' | '\t' if lines_too => out.push(c),
            _ if c.is_control() || turns => out.extend(c.escape_default()),
            _ => out.push(c),
        }
        out
    })
}

/// Tells what went wrong, and what to do next.
pub fn complain(error: &anyhow::Error, format: Format) {
    let _ = std::io::stderr().write_all(complaint(error, format).as_bytes());
}

fn complaint(error: &anyhow::Error, format: Format) -> String {
    let failed = error.downcast_ref::<client::Error>();
    let advice = failed.map_or("", client::Error::advice);
    let refusal = failed.and_then(client::Error::refusal);
    let message = error.chain().map(ToString::to_string).fold(String::new(), |so_far, next| match so_far.as_str() {
        "" => next,
        // a cause whose text its effect already tells is not told twice
        _ if so_far.contains(&next) => so_far,
        _ => format!("{so_far}: {next}"),
    });
    if format == Format::Json {
        let mut told = Record::new().with_some("code", refusal.map(|refusal| refusal.code_name()));
        told =
            told.with_some("reason", refusal.map(|refusal| refusal.reason.clone()).filter(|reason| !reason.is_empty()));
        told = told.with_some("field", refusal.and_then(|refusal| refusal.field.clone()));
        told = told.with("message", message).with_some("advice", Some(advice).filter(|advice| !advice.is_empty()));
        told = told.with_some("request_id", refusal.and_then(|refusal| refusal.request_id.clone()));
        return json(&Record::new().with("error", told)).unwrap_or_default();
    }
    let mut out = format!("error: {}\n", shown(&message, true));
    if let Some(refusal) = refusal {
        let field = refusal.field.as_ref().map(|field| format!(", field {field}")).unwrap_or_default();
        let request = refusal.request_id.as_ref().map(|id| format!(", request {id}")).unwrap_or_default();
        let _ =
            writeln!(out, "       ({}{})", shown(refusal.reason_or_code(), false), shown(&(field + &request), false));
    }
    if !advice.is_empty() {
        let _ = writeln!(out, "hint:  {advice}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record::new()
            .with("key_id", "k-1")
            .with("key_version", 2u32)
            .with("description", "a\u{1b}[31mb\u{202e}")
            .with("plaintext", SecretBytes::copy_from(b"abc"))
            .with("empty", Vec::<String>::new())
            .with("report", std::collections::BTreeMap::from([("seccomp".to_owned(), "on".to_owned())]))
            .with("inner", Record::new().with("state", "OK").with("at", None::<prost_types::Timestamp>))
            .with("found", vec![Record::new().with("kind", "x").with("path", "a\n"), Record::new().with("kind", "y")])
    }

    #[test]
    fn a_record_is_a_line_a_field_or_json() {
        let table = render(&Answer::Record(record()), Format::Table).unwrap();
        let expected = "key_id          k-1\nkey_version     2\ndescription     a\\u{1b}[31mb\\u{202e}\nplaintext       YWJj\n\
                        empty           -\nreport.seccomp  on\ninner.state     OK\ninner.at        -\n\
                        found.0         kind=x path=a\\n\nfound.1         kind=y\n";
        assert_eq!(table, expected);
        let json: serde_json::Value =
            serde_json::from_str(&render(&Answer::Record(record()), Format::Json).unwrap()).unwrap();
        let expected = serde_json::json!({
            "key_id": "k-1", "key_version": 2, "description": "a\u{1b}[31mb\u{202e}", "plaintext": "YWJj", "empty": [],
            "report": {"seccomp": "on"}, "inner": {"state": "OK", "at": null},
            "found": [{"kind": "x", "path": "a\n"}, {"kind": "y"}],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_list_has_a_heading_and_tells_of_more() {
        let list = |next_marker: Option<&str>| Answer::List {
            name: "keys",
            rows: vec![
                Record::new().with("key_id", "a").with("n", 1u32),
                Record::new().with("key_id", "long-b").with("n", 2u32),
            ],
            next_marker: next_marker.map(str::to_owned),
        };
        assert_eq!(render(&list(None), Format::Table).unwrap(), "key_id  n\na       1\nlong-b  2\n");
        assert_eq!(
            render(&list(Some("m")), Format::Table).unwrap(),
            "key_id  n\na       1\nlong-b  2\n\nmore: --marker m\n"
        );
        let none = Answer::List { name: "keys", rows: vec![], next_marker: None };
        assert_eq!(render(&none, Format::Table).unwrap(), "(none)\n");
        let json = |answer| serde_json::from_str::<serde_json::Value>(&render(&answer, Format::Json).unwrap()).unwrap();
        let rows = serde_json::json!([{"key_id": "a", "n": 1}, {"key_id": "long-b", "n": 2}]);
        assert_eq!(json(list(Some("m"))), serde_json::json!({"keys": rows, "next_marker": "m"}));
        assert_eq!(json(none), serde_json::json!({"keys": []}));
    }

    #[test]
    fn secrets_do_not_debug_print() {
        let printed = format!("{:?}", Answer::Record(record()));
        assert!(!printed.contains("YWJj") && !printed.contains("97, 98, 99"), "{printed}");
    }

    #[test]
    fn a_refusal_is_told_with_reason_and_advice() {
        let status = || {
            let mut details = tonic_types::ErrorDetails::new();
            details.set_error_info("KEY_DISABLED", "strongroom", std::collections::HashMap::new());
            <tonic::Status as tonic_types::StatusExt>::with_error_details(
                tonic::Code::FailedPrecondition,
                "key k-1 is disabled",
                details,
            )
        };
        let error = || anyhow::Error::from(client::Error::from(status()));
        assert_eq!(
            complaint(&error(), Format::Table),
            "error: key k-1 is disabled\n       (KEY_DISABLED)\nhint:  `kms enable-key` makes it usable\n"
        );
        let json: serde_json::Value = serde_json::from_str(&complaint(&error(), Format::Json)).unwrap();
        let expected = serde_json::json!({"error": {
            "code": "FAILED_PRECONDITION", "reason": "KEY_DISABLED", "message": "key k-1 is disabled",
            "advice": "`kms enable-key` makes it usable",
        }});
        assert_eq!(json, expected);
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = anyhow::Error::from(cause).context("cannot write f: disk on fire");
        assert_eq!(complaint(&error, Format::Table), "error: cannot write f: disk on fire\n");
    }
}
