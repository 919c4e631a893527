//! OpenTelemetry's OTLP/HTTP with JSON (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"): 64-bit integers are strings,
//! enums are numbers.

use super::dial::{Address, Stream, connect, tls};
use super::syslog::{WARNING, severity};
use super::{Forward, Line};
use crate::clock::SystemClock;
use crate::files;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use envelope::{Clock as _, SecretBytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) struct Otlp {
    host: String,
    port: u16,
    path: String,
    tls: Option<Arc<ClientConfig>>,
    bearer: Option<SecretBytes>,
    node: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Otlp {
    pub(super) fn new(forward: &Forward, node: &str) -> Result<Self> {
        let Address::Tcp { host, port, path: Some(path), .. } = Address::parse(&forward.to)? else {
            bail!("{} is no address of HTTP", forward.to);
        };
        let bearer = forward.bearer_file.as_deref().map(files::read_secret).transpose()?;
        Ok(Self { host, port, path, tls: tls(forward)?, bearer, node: node.to_owned(), sender: None })
    }

    /// Until the collector has answered that it has them.
    pub(super) async fn send(&mut self, lines: &[Line]) -> Result<()> {
        let body = serde_json::to_vec(&self.body(lines))?;
        let request = self.request(body)?;
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await?;
        taken(sender.send_request(request).await?).await?;
        self.sender = Some(sender);
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream: Box<dyn Stream> = connect(&self.host, self.port, self.tls.as_ref()).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // ends with the sender, or with the collector's side
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a collector");
            }
        });
        Ok(sender)
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

/// Whatever is no success is tried again: an audit log does without none of its lines.
async fn taken(response: Response<Incoming>) -> Result<()> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the collector's answer cannot be read: {error}"))?.to_bytes();
    ensure!(status == StatusCode::OK, "the collector answers {status}");
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    // a number of 64 bits is a string, and some write a number
    let rejected = &partial["rejectedLogRecords"];
    let rejected = rejected.as_str().and_then(|count| count.parse().ok()).or(rejected.as_u64()).unwrap_or(0);
    if rejected > 0 {
        // "Partial Success": it must not be tried again
        tracing::error!(rejected, why = %partial["errorMessage"], "a collector took not all entries of the audit log");
    }
    Ok(())
}

const ANSWER_BYTES_MAX: usize = 64 << 10;
