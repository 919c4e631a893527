//! OpenTelemetry's OTLP/HTTP with JSON (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"): 64-bit integers are strings,
//! enums are numbers.

use super::address::{Address, tls};
use super::syslog::{WARNING, severity};
use super::{Forward, Line, Sent};
use crate::clock::SystemClock;
use crate::dial::{Http, connect};
use crate::files;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use envelope::{Clock as _, SecretBytes};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

pub(super) struct Otlp {
    host: String,
    port: u16,
    path: String,
    forward: Forward,
    bearer: Option<SecretBytes>,
    node: String,
    connection: Option<Http>,
}

impl Otlp {
    pub(super) fn new(forward: &Forward, node: &str) -> Result<Self> {
        let Address::Tcp { host, port, path: Some(path), .. } = Address::parse(&forward.to)? else {
            bail!("{} is no address of HTTP", forward.to);
        };
        let bearer = forward.bearer_file.as_deref().map(files::read_secret).transpose()?;
        // what is not sound is told at the start
        tls(forward)?;
        Ok(Self { host, port, path, forward: forward.clone(), bearer, node: node.to_owned(), connection: None })
    }

    /// Until the collector has answered that it has them, or will not have some.
    pub(super) async fn send(&mut self, lines: &[Line]) -> Result<Sent> {
        let body = serde_json::to_vec(&self.body(lines))?;
        let request = self.request(body)?;
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => Http::over(connect(&self.host, self.port, tls(&self.forward)?.as_ref()).await?).await?,
        };
        let (status, answer) = connection.ask(request, ANSWER_BYTES_MAX).await?;
        self.connection = Some(connection);
        // whatever is no success is tried again: an audit log does without none of its lines
        ensure!(status == StatusCode::OK, "the collector answers {status}");
        Ok(taken(&answer, lines.len() as u64))
    }

    fn request(&self, body: Vec<u8>) -> Result<Request<Full<Bytes>>> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::HOST, format!("{host}:{}", self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        if let Some(bearer) = &self.bearer {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), bearer.expose()].concat())
                .context("the bearer token is no header's value")?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// An ExportLogsServiceRequest.
    fn body(&self, lines: &[Line]) -> Value {
        let observed = nanos(SystemClock.now().unix_millis());
        let records: Vec<Value> = lines.iter().map(|line| log_record(line, &observed)).collect();
        let attributes = [text("service.name", "strongroom"), text("service.instance.id", &self.node)];
        let scope = json!({"name": "strongroom.audit", "version": env!("CARGO_PKG_VERSION")});
        json!({"resourceLogs": [{
            "resource": {"attributes": attributes},
            "scopeLogs": [{"scope": scope, "logRecords": records}],
        }]})
    }
}

fn log_record(line: &Line, observed: &str) -> Value {
    let record = line.entry.record();
    let (number, name) = if severity(&record) == WARNING { (13, "WARN") } else { (9, "INFO") };
    json!({
        "timeUnixNano": nanos(record.time),
        "observedTimeUnixNano": observed,
        "severityNumber": number,
        "severityText": name,
        "body": {"stringValue": line.json},
        "attributes": [
            {"key": "strongroom.audit.index", "value": {"intValue": line.index.to_string()}},
            text("strongroom.audit.operation", record.operation),
        ],
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn nanos(millis: u64) -> String {
    u128::from(millis).saturating_mul(1_000_000).min(u128::from(u64::MAX)).to_string()
}

/// What an answer of success says of so many lines ("Partial Success": what was rejected must not be tried again).
fn taken(answer: &[u8], lines: u64) -> Sent {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    // a number of 64 bits is a string, and some write a number
    let rejected = &partial["rejectedLogRecords"];
    let rejected = rejected.as_str().and_then(|count| count.parse().ok()).or(rejected.as_u64()).unwrap_or(0);
    if rejected == 0 {
        return Sent::Confirmed;
    }
    let why = partial["errorMessage"].as_str().unwrap_or_default().chars().take(WHY_CHARS_MAX).collect();
    Sent::Partly { rejected: rejected.min(lines), why }
}

const ANSWER_BYTES_MAX: usize = 64 << 10;
const WHY_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_rejects_is_read_from_its_answer_and_is_never_more_than_it_was_sent() {
        let partly = |rejected, why: &str| Sent::Partly { rejected, why: why.to_owned() };
        for (answer, expected) in [
            ("", Sent::Confirmed),
            ("{}", Sent::Confirmed),
            ("no JSON", Sent::Confirmed),
            (r#"{"partialSuccess":{}}"#, Sent::Confirmed),
            (r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"take care"}}"#, Sent::Confirmed),
            (r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#, partly(3, "too old")),
            (r#"{"partialSuccess":{"rejectedLogRecords":3}}"#, partly(3, "")),
            (r#"{"partialSuccess":{"rejectedLogRecords":"18446744073709551615"}}"#, partly(9, "")),
        ] {
            assert_eq!(taken(answer.as_bytes(), 9), expected, "{answer}");
        }
        let long = format!(r#"{{"partialSuccess":{{"rejectedLogRecords":1,"errorMessage":"{}"}}}}"#, "é".repeat(999));
        assert_eq!(taken(long.as_bytes(), 9), partly(1, &"é".repeat(256)));
    }
}
