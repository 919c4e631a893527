//! The vault's HTTP API over the same connection: a path, a verb, a JSON body.
//!
//! Never: a body, of a request or of an answer, in an error or in Debug.

use crate::{Client, Error, Refusal, SecretBytes};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use std::time::Duration;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tower::{Service as _, ServiceExt as _};

/// One request of the HTTP API.
#[derive(Debug)]
pub struct ApiRequest {
    pub method: Method,
    /// Below `/v1/`, percent-encoded where need be; with its query.
    pub path: String,
    /// JSON.
    pub body: Option<SecretBytes>,
    /// The answer is to be wrapped for so long.
    pub wrap_ttl: Option<Duration>,
    /// What the call makes is bound to this certificate: 64 hexadecimal digits, or `self`.
    pub bind_certificate: Option<String>,
}

impl ApiRequest {
    /// Without a body, wrapped and bound in no way.
    pub fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None, wrap_ttl: None, bind_certificate: None }
    }
}

impl Client {
    /// The answer's JSON, empty where there is none; or the refusal as the server told it.
    pub async fn api(&self, request: ApiRequest) -> Result<SecretBytes, Error> {
        let within = self.attach.timeout.unwrap_or(WITHIN_DEFAULT);
        match tokio::time::timeout(within, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(refusal(Code::DeadlineExceeded, "no answer in time".to_owned(), None)),
        }
    }

    async fn exchange(&self, request: ApiRequest) -> Result<SecretBytes, Error> {
        let malformed = || refusal(Code::InvalidArgument, format!("`{}` is no path", request.path), None);
        let mut head = Request::builder().method(request.method.clone()).uri(format!("/v1/{}", request.path));
        if let (Some(token), Some(headers)) = (&self.attach.authorization, head.headers_mut()) {
            // the very bytes that gRPC's calls carry, kept out of HTTP/2's header tables
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", token.clone());
            headers.extend(metadata.into_headers());
        }
        if !self.namespace.is_empty() {
            head = head.header("x-vault-namespace", &*self.namespace);
        }
        if let Some(ttl) = request.wrap_ttl {
            head = head.header("x-vault-wrap-ttl", format!("{}s", ttl.as_secs().max(1)));
        }
        if let Some(certificate) = &request.bind_certificate {
            head = head.header("x-strongroom-bind-certificate", certificate);
        }
        let body = request.body.map_or_else(Bytes::new, crate::give_secret);
        let head = head.header(CONTENT_TYPE, "application/json");
        let built = head.body(tonic::body::Body::new(Full::new(body))).map_err(|_| malformed())?;
        let mut lane = self.lane.clone();
        let ready = lane.ready().await.map_err(unreachable)?;
        let reply = ready.call(built).await.map_err(unreachable)?;
        let (head, body) = reply.into_parts();
        let whole = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let whole =
            whole.map_err(|_| refusal(Code::Unavailable, "the answer broke off, or is too long".to_owned(), None))?;
        let body = crate::take_secret(whole.to_bytes());
        if head.status.is_success() {
            return Ok(body);
        }
        let request_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut error = refusal(code(head.status), told(&body, head.status), request_id);
        if let Error::Refused(refusal) = &mut error {
            let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            refusal.retry_after = seconds.map(Duration::from_secs);
        }
        Err(error)
    }
}

fn unreachable(error: tonic::transport::Error) -> Error {
    Error::from_transport("the server".to_owned(), error)
}

fn refusal(code: Code, message: String, request_id: Option<String>) -> Error {
    let (reason, field, retry_after) = (String::new(), None, None);
    Error::Refused(Box::new(Refusal { code, reason, field, message, retry_after, request_id }))
}

/// `{"errors": [...]}`, joined; the status where it says nothing.
fn told(body: &SecretBytes, status: StatusCode) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let told = serde_json::from_slice::<Errors>(body.expose()).map(|told| told.errors.join("; ")).unwrap_or_default();
    match (told.is_empty(), status) {
        (false, _) => told,
        (true, StatusCode::NOT_FOUND) => "there is nothing".to_owned(),
        (true, status) => status.canonical_reason().unwrap_or("refused").to_owned(),
    }
}

fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        412 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        400..=499 => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

const WITHIN_DEFAULT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 8 << 20;
