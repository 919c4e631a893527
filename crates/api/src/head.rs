//! What a request's head says: its id, how long it may take, what is asked for, and in which protocol.
//!
//! Always: bounded. An id has at most 64 bytes, what was asked for at most 200.
//! Never: a query, a fragment or an authority in what is recorded: there clients put tokens. One in the path is a mark.

use crate::kms_grpc::error::Refusal;
use crate::operation::Operation;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;

pub(crate) type Reply = http::Response<tonic::body::Body>;

/// The asker's protocol, in which the answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Grpc,
    Http,
}

impl Speaks {
    /// gRPC over HTTP/2 (PROTOCOL-HTTP2, "Requests"), or anything else.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let grpc = kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]));
        let grpc = grpc && request.method() == Method::POST && request.version() == Version::HTTP_2;
        if grpc { Self::Grpc } else { Self::Http }
    }

    /// To who does not speak gRPC no refusal looks like a success.
    pub(crate) fn refusal(self, refusal: &Refusal) -> Reply {
        match self {
            Self::Grpc => refusal.status().into_http(),
            Self::Http => page(refusal),
        }
    }
}

fn page(refusal: &Refusal) -> Reply {
    let status = match refusal.code {
        Code::Unimplemented if refusal.reason == Refusal::METHOD_NOT_ALLOWED.reason => StatusCode::METHOD_NOT_ALLOWED,
        Code::Unimplemented | Code::NotFound => StatusCode::NOT_FOUND,
        // PROTOCOL-HTTP2, "Requests": 415, so that no other client takes a gRPC error, which has status 200, for success
        Code::InvalidArgument => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        // RFC 6585 §4
        Code::ResourceExhausted if refusal.reason == Refusal::RATE_LIMITED.reason => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut reply = Reply::new(tonic::body::Body::new(format!("{}\n", refusal.reason)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    reply
}

/// `METHOD /path` as it may be recorded: visible ASCII, everything else as `?`; the end beyond 200 bytes is left out.
pub(crate) fn asked_for(method: &Method, uri: &Uri) -> String {
    // an authority, a query and a fragment are no part of what `path` gives; parameters (RFC 3986 §3.3) are cut off too
    let path = uri.path().split(';').next().unwrap_or_default();
    let path = without_tokens(path);
    let mut text = String::with_capacity(ASKED_BYTES_MAX);
    // writing to a string does not fail
    let _ = write!(text, "{:.METHOD_BYTES_MAX$} ", method.as_str());
    let visible = |byte: u8| if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
    let room = ASKED_BYTES_MAX - text.len();
    text.extend(path.bytes().map(visible).take(room));
    text
}

/// A token is a mark, however it is spelled: what is refused here is recorded before anybody has read it.
fn without_tokens(path: &str) -> Cow<'_, str> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let mut escaped = [*byte];
        rest = match behind.split_first_chunk::<2>() {
            Some((pair, behind)) if *byte == b'%' && hex::decode_to_slice(pair, &mut escaped).is_ok() => behind,
            Some(_) | None => behind,
        };
        decoded.extend(escaped);
    }
    match vault::call::without_tokens(&String::from_utf8_lossy(&decoded)) {
        Cow::Borrowed(_) => Cow::Borrowed(path),
        Cow::Owned(marked) => Cow::Owned(marked),
    }
}

/// From `grpc-timeout`: at most eight digits and a unit. No longer than [`DEADLINE_MAX`].
pub(crate) fn deadline(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(DEADLINE_DEFAULT) };
    let malformed = || Refusal::field("grpc-timeout");
    let (digits, unit) =
        value.to_str().ok().and_then(|text| text.split_at_checked(text.len().checked_sub(1)?)).ok_or_else(malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let amount: u64 = digits.parse().map_err(|_| malformed())?;
    let asked = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return Err(malformed()),
    };
    Ok(asked.min(DEADLINE_MAX))
}

/// Whether the record tells what was asked for in the asker's words: where our own name for it says less.
pub(crate) fn tells_path(operation: Operation, speaks: Speaks) -> bool {
    let is_everybodys =
        matches!(operation, Operation::Health | Operation::Metrics | Operation::Reflection | Operation::Unknown);
    is_everybodys || speaks == Speaks::Http
}

/// Makes request ids: a keyed pseudo-random function of a counter, so that an id tells nothing of how many came before.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    keys: RandomState,
    next: AtomicU64,
}

impl Ids {
    /// The client's `x-request-id` where it is 1 to 64 visible ASCII characters, else a new one of 32 hex digits.
    pub(crate) fn taken_or_made(&self, headers: &HeaderMap) -> String {
        let theirs = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        match theirs {
            Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) => id.to_owned(),
            Some(_) | None => self.made(),
        }
    }

    /// A new one, in the form of a UUID: what the vault's clients look for in an answer.
    pub(crate) fn uuid(&self) -> String {
        let id = self.made();
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| id.get(part).unwrap_or_default());
        parts.join("-")
    }

    fn made(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let halves = [self.keys.hash_one((n, 0u8)).to_be_bytes(), self.keys.hash_one((n, 1u8)).to_be_bytes()];
        hex::encode(halves.as_flattened())
    }
}

/// Gives the reply its request's id.
pub(crate) fn stamp(reply: &mut Reply, request_id: &str) {
    if let Ok(mut id) = HeaderValue::from_str(request_id) {
        // unlike any other: it shall not push what repeats out of HPACK's table (RFC 7541 §7.1.3)
        id.set_sensitive(true);
        reply.headers_mut().insert(REQUEST_ID, id);
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// Longest record of what was asked for.
const ASKED_BYTES_MAX: usize = 200;
/// Of which the method; the longest registered one (RFC 9110 §16.1) has 17.
const METHOD_BYTES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_and_bounded() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            (None, Some(DEADLINE_DEFAULT)),
            (Some("100m"), Some(ms(100))),
            (Some("2S"), Some(ms(2000))),
            (Some("1M"), Some(DEADLINE_MAX)),
            (Some("99999999H"), Some(DEADLINE_MAX)),
            (Some("5000u"), Some(ms(5))),
            (Some("0n"), Some(ms(0))),
            (Some("123456789n"), None),
            (Some("S"), None),
            (Some(""), None),
            (Some("1s"), None),
            (Some("-1S"), None),
            (Some("+1S"), None),
            (Some("1 S"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(TIMEOUT, HeaderValue::from_static(text));
            }
            assert_eq!(deadline(&headers).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_request_id_is_taken_where_it_is_fit_and_made_where_not() {
        let ids = Ids::default();
        let long = "x".repeat(64);
        let mut seen = std::collections::BTreeSet::new();
        for (theirs, taken) in [
            ("abc-1", true),
            (long.as_str(), true),
            (&"x".repeat(65), false),
            ("", false),
            ("a b", false),
            ("é", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(theirs.as_bytes()).unwrap());
            let id = ids.taken_or_made(&headers);
            assert_eq!(id == theirs, taken, "{theirs:?}");
            assert!(taken || (id.len() == 32 && seen.insert(id)), "{theirs:?}");
        }
        assert!((0..1000).all(|_| seen.insert(ids.taken_or_made(&HeaderMap::new()))));
    }

    #[test]
    fn only_grpc_over_http2_is_grpc() {
        for (method, version, kind, grpc) in [
            (Method::POST, Version::HTTP_2, "application/grpc", true),
            (Method::POST, Version::HTTP_2, "application/grpc+proto", true),
            (Method::POST, Version::HTTP_2, "application/grpc-web", false),
            (Method::POST, Version::HTTP_2, "application/json", false),
            (Method::GET, Version::HTTP_2, "application/grpc", false),
            (Method::POST, Version::HTTP_11, "application/grpc", false),
        ] {
            let request = Request::builder().method(&method).version(version).header(CONTENT_TYPE, kind);
            let request = request.body(()).unwrap();
            assert_eq!(Speaks::of(&request) == Speaks::Grpc, grpc, "{method} {version:?} {kind}");
        }
    }

    #[test]
    fn what_was_asked_for_is_told_bounded_and_without_secrets() {
        let long = format!("/{}", "p".repeat(300));
        let method = "M".repeat(30);
        for (method, uri, expected) in [
            ("GET", "/health", "GET /health".to_owned()),
            ("GET", "/health?token=secret", "GET /health".into()),
            ("GET", "/a;token=secret/b?c", "GET /a".into()),
            ("PUT", "http://user:secret@host/path?secret", "PUT /path".into()),
            ("OPTIONS", "*", "OPTIONS *".into()),
            ("CONNECT", "secret:443", "CONNECT ".into()),
            ("GET", "/%00%1b[2J\"", "GET /%00%1b[2J\"".into()),
            ("GET", "/\u{e4}\u{2028}", "GET /?????".into()),
            ("GET", "/v1/a/sr.secret/b", "GET /v1/a/(token)/b".into()),
            ("GET", "/v1//srb.secret", "GET /v1//(token)".into()),
            ("GET", "/v1/a%2fs%72%2Esecret", "GET /v1/a/(token)".into()),
            ("GET", "/v1/%2/%zz/%73rw.secret%", "GET /v1/%2/%zz/(token)".into()),
            ("GET", &long, format!("GET {}", &long[..196])),
            (&method, "/x", format!("{} /x", &method[..20])),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let told = asked_for(request.method(), request.uri());
            assert_eq!(told, expected, "{method} {uri}");
            assert!(told.len() <= 200);
        }
    }

    #[test]
    fn no_refusal_looks_like_a_success() {
        for (refusal, status) in [
            (Refusal::AUDIT_UNAVAILABLE, 503),
            (Refusal::BUSY, 503),
            (Refusal::RATE_LIMITED, 429),
            (Refusal::DEADLINE, 503),
            (Refusal::NOT_GRPC, 415),
            (Refusal::UNIMPLEMENTED, 404),
            (Refusal::METHOD_NOT_ALLOWED, 405),
            (Refusal::INTERNAL, 500),
        ] {
            let plain = Speaks::Http.refusal(&refusal);
            assert_eq!(plain.status().as_u16(), status, "{refusal:?}");
            assert_eq!(plain.headers().contains_key(ALLOW), status == 405);
            let grpc = Speaks::Grpc.refusal(&refusal);
            let told = tonic::Status::from_header_map(grpc.headers()).unwrap();
            assert_eq!((grpc.status(), told.code()), (StatusCode::OK, refusal.code));
        }
    }
}
