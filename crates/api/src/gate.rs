//! What every RPC passes: request id, deadline, authentication; and on the way back its counters.
//!
//! Always: a request that is refused here, or by the decoder behind, is in the audit log before its reply leaves.
//! Always: the id that the reply carries is the record's.
//! Never: a body read for a caller who was not recognised.

use crate::kms_grpc::auth;
use crate::kms_grpc::error::Refusal;
use crate::metrics::Lane;
use crate::operation::Operation;
use crate::peer::Peer;
use audit::{AuditError, AuditSink, Decision, Outcome, Record, Subject};
use envelope::Clock;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use identity::{Identities, Principal, RequestInfo};
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service;

type Reply = http::Response<tonic::body::Body>;

/// What the gate needs; one a core.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) identities: Identities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) lane: Lane,
    pub(crate) ids: Ids,
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate<S> {
    post: Arc<Post>,
    inner: S,
}

/// A request that has passed. Handlers take it out of the extensions.
#[derive(Debug)]
pub(crate) struct Ticket {
    by: Arc<Principal>,
    call: Arc<RequestInfo>,
    operation: Operation,
    audit: Arc<dyn AuditSink>,
    /// How it went; unset until a handler was reached and has decided.
    outcome: OnceLock<&'static str>,
}

impl<S> Gate<S> {
    pub(crate) fn new(post: &Arc<Post>, inner: S) -> Self {
        Self { post: Arc::clone(post), inner }
    }
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // the clone is not the one that was polled ready; tonic's servers always are
        let (post, inner) = (Arc::clone(&self.post), self.inner.clone());
        Box::pin(async move { Ok(post.pass(request, inner).await) })
    }
}

impl Post {
    async fn pass<S, B>(&self, mut request: Request<B>, inner: S) -> Reply
    where
        S: Service<Request<B>, Response = Reply, Error = Infallible> + Send,
        S::Future: Send,
        B: Send,
    {
        let began = Instant::now();
        let operation = Operation::of(request.uri().path());
        let peer = request.extensions_mut().remove::<Arc<Peer>>();
        let call = Arc::new(RequestInfo {
            request_id: self.ids.taken_or_made(request.headers()),
            from: peer.as_ref().map(|peer| peer.addr.clone()).unwrap_or_default(),
            now: self.clock.now(),
        });
        let recognised = OnceLock::new();
        let id = HeaderValue::from_str(&call.request_id);
        let (within, malformed) = match deadline(request.headers()) {
            Ok(within) => (within, None),
            Err(refusal) => (DEADLINE_DEFAULT, Some(refusal)),
        };
        let served = async {
            match malformed.or_else(|| not_grpc(&request)) {
                Some(refusal) => Err(self.refused(&call, operation, None, refusal).await),
                None => self.served(request, inner, peer, (&call, operation), &recognised).await,
            }
        };
        let (mut reply, outcome) = match tokio::time::timeout_at(began + within, served).await {
            Ok(Ok((reply, outcome))) => (reply, outcome),
            Ok(Err(refusal)) => (refusal.status().into_http(), refusal.reason),
            Err(_) => {
                let refusal = self.too_late(&call, operation, recognised.get()).await;
                (refusal.status().into_http(), refusal.reason)
            }
        };
        match outcome {
            OK => self.lane.succeeded(operation, began.elapsed()),
            reason => self.lane.failed(operation, reason, began.elapsed()),
        }
        if let Ok(mut id) = id {
            // unlike any other: it shall not push what repeats out of HPACK's table (RFC 7541 §7.1.3)
            id.set_sensitive(true);
            reply.headers_mut().insert(REQUEST_ID, id);
        }
        reply
    }

    async fn served<S, B>(
        &self,
        mut request: Request<B>,
        mut inner: S,
        peer: Option<Arc<Peer>>,
        (call, operation): (&Arc<RequestInfo>, Operation),
        recognised: &OnceLock<Arc<Principal>>,
    ) -> Result<(Reply, &'static str), Refusal>
    where
        S: Service<Request<B>, Response = Reply, Error = Infallible> + Send,
        S::Future: Send,
        B: Send,
    {
        let certificate = peer.as_ref().and_then(|peer| peer.certificate.as_deref());
        let by = match self.identities.authenticate(auth::token(request.headers()), certificate, call).await {
            Ok(by) => by,
            Err(error) => {
                let cause = error.cause();
                let refusal = Refusal::from(error);
                return Err(self
                    .record(call, operation, &Subject::Unauthenticated, cause)
                    .await
                    .err()
                    .unwrap_or(refusal));
            }
        };
        request.headers_mut().remove(AUTHORIZATION);
        let _ = recognised.set(Arc::clone(&by));
        let ticket = Arc::new(Ticket {
            by,
            call: Arc::clone(call),
            operation,
            audit: Arc::clone(&self.audit),
            outcome: OnceLock::new(),
        });
        request.extensions_mut().insert(Arc::clone(&ticket));
        let Ok(reply) = inner.call(request).await;
        match ticket.outcome.get() {
            Some(outcome) => Ok((reply, outcome)),
            None => {
                let refusal = before_the_handler(Status::from_header_map(reply.headers()).as_ref());
                Err(self.refused(&ticket.call, operation, Some(ticket.by.subject()), refusal).await)
            }
        }
    }

    /// The deadline has passed. That is recorded too, within a bound of its own: it may be the log that hangs.
    async fn too_late(&self, call: &RequestInfo, operation: Operation, by: Option<&Arc<Principal>>) -> Refusal {
        let recorded = self.refused(call, operation, by.map(|by| by.subject()), Refusal::DEADLINE);
        tokio::time::timeout(RECORD_TIME_MAX, recorded).await.unwrap_or(Refusal::AUDIT_UNAVAILABLE)
    }

    /// Records the refusal, then gives it back; or what stood in the record's way.
    async fn refused(
        &self,
        call: &RequestInfo,
        operation: Operation,
        by: Option<&Subject>,
        refusal: Refusal,
    ) -> Refusal {
        let by = by.unwrap_or(&Subject::Unauthenticated);
        self.record(call, operation, by, refusal.reason).await.err().unwrap_or(refusal)
    }

    async fn record(
        &self,
        call: &RequestInfo,
        operation: Operation,
        by: &Subject,
        reason: &'static str,
    ) -> Result<(), Refusal> {
        let record = Record {
            from: &call.from,
            outcome: Outcome::Failed(reason.into()),
            ..Record::new(call.now, &call.request_id, operation.name(), by)
        };
        append(&*self.audit, &record).await
    }
}

impl Ticket {
    pub(crate) fn by(&self) -> &Principal {
        &self.by
    }

    pub(crate) fn call(&self) -> &RequestInfo {
        &self.call
    }

    /// The handler's answer. Domains have recorded it already.
    pub(crate) fn answer<R, P, E: Into<Refusal> + std::fmt::Debug>(
        &self,
        outcome: Result<R, E>,
        encode: impl FnOnce(R) -> P,
    ) -> Result<tonic::Response<P>, Status> {
        match outcome {
            Ok(result) => {
                let _ = self.outcome.set(OK);
                Ok(tonic::Response::new(encode(result)))
            }
            Err(error) => {
                tracing::debug!(
                    request_id = self.call.request_id,
                    operation = self.operation.name(),
                    ?error,
                    "refused"
                );
                Err(self.refuse(&error.into()))
            }
        }
    }

    /// What the codec made of a message; where it is malformed, that is recorded first.
    pub(crate) async fn parsed<C, E: Into<Refusal>>(&self, command: Result<C, E>) -> Result<C, Status> {
        match command {
            Ok(command) => Ok(command),
            Err(malformed) => {
                let refusal = malformed.into();
                let outcome = Outcome::Failed(refusal.reason.into());
                let recorded = self.record("", Decision::NotReached, "", outcome).await;
                Err(self.refuse(&recorded.err().unwrap_or(refusal)))
            }
        }
    }

    /// A record of this request, durable when this answers.
    pub(crate) async fn record(
        &self,
        path: &str,
        decision: Decision,
        rule: &str,
        outcome: Outcome,
    ) -> Result<(), Refusal> {
        let record = Record {
            path,
            decision,
            rule,
            outcome,
            from: &self.call.from,
            ..Record::new(self.call.now, &self.call.request_id, self.operation.name(), self.by.subject())
        };
        append(&*self.audit, &record).await
    }

    /// A step on the way to the answer; where it refuses, that is the answer.
    pub(crate) fn pass<T>(&self, step: Result<T, Refusal>) -> Result<T, Status> {
        step.map_err(|refusal| self.refuse(&refusal))
    }

    fn refuse(&self, refusal: &Refusal) -> Status {
        if matches!(refusal.code, Code::Internal) {
            tracing::error!(
                request_id = self.call.request_id,
                operation = self.operation.name(),
                reason = refusal.reason
            );
        }
        let _ = self.outcome.set(refusal.reason);
        refusal.status()
    }
}

/// The ticket and the message of a request that came through the gate.
pub(crate) fn enter<M>(request: tonic::Request<M>) -> Result<(Arc<Ticket>, M), Status> {
    let (_, mut extensions, message) = request.into_parts();
    // a handler without a gate before it would be a mistake of the router's
    let ticket = extensions.remove::<Arc<Ticket>>().ok_or_else(|| Refusal::INTERNAL.status())?;
    Ok((ticket, message))
}

async fn append(audit: &dyn AuditSink, record: &Record<'_>) -> Result<(), Refusal> {
    audit.append(record.encode()).await.map_err(|error| match error {
        AuditError::Unavailable => Refusal::AUDIT_UNAVAILABLE,
        AuditError::Busy => Refusal::BUSY,
    })
}

/// What tonic refuses by itself, in our words.
fn before_the_handler(status: Option<&Status>) -> Refusal {
    match status.map_or(Code::Internal, Status::code) {
        // tonic calls every undecodable message INTERNAL; the caller made it
        Code::Internal | Code::InvalidArgument => Refusal::UNDECODABLE,
        Code::OutOfRange | Code::ResourceExhausted => Refusal::TOO_LARGE,
        Code::Unimplemented => Refusal::UNIMPLEMENTED,
        Code::Cancelled | Code::Unknown | Code::Unavailable | Code::DeadlineExceeded | Code::Aborted => {
            Refusal::ABANDONED
        }
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::DataLoss
        | Code::Unauthenticated => Refusal::INTERNAL,
    }
}

/// gRPC over HTTP/2 (PROTOCOL-HTTP2, "Requests").
fn not_grpc<B>(request: &Request<B>) -> Option<Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let grpc = kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]));
    let fine = grpc && request.method() == Method::POST && request.version() == Version::HTTP_2;
    (!fine).then_some(Refusal::NOT_GRPC)
}

/// From `grpc-timeout`: at most eight digits and a unit. No longer than [`DEADLINE_MAX`].
fn deadline(headers: &HeaderMap) -> Result<Duration, Refusal> {
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

/// Makes request ids: a keyed pseudo-random function of a counter, so that an id tells nothing of how many came before.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    keys: RandomState,
    next: AtomicU64,
}

impl Ids {
    /// The client's `x-request-id` where it is 1 to 64 visible ASCII characters, else a new one of 32 hex digits.
    fn taken_or_made(&self, headers: &HeaderMap) -> String {
        let theirs = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        match theirs {
            Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) => id.to_owned(),
            Some(_) | None => self.made(),
        }
    }

    fn made(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let halves = [self.keys.hash_one((n, 0u8)).to_be_bytes(), self.keys.hash_one((n, 1u8)).to_be_bytes()];
        hex::encode(halves.as_flattened())
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// How long the record of a passed deadline may take.
const RECORD_TIME_MAX: Duration = Duration::from_secs(1);
/// The outcome of what went well.
const OK: &str = "OK";

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
    fn only_grpc_over_http2_passes() {
        for (method, version, kind, passes) in [
            (Method::POST, Version::HTTP_2, "application/grpc", true),
            (Method::POST, Version::HTTP_2, "application/grpc+proto", true),
            (Method::POST, Version::HTTP_2, "application/grpc-web", false),
            (Method::POST, Version::HTTP_2, "application/json", false),
            (Method::GET, Version::HTTP_2, "application/grpc", false),
            (Method::POST, Version::HTTP_11, "application/grpc", false),
        ] {
            let request = Request::builder().method(&method).version(version).header(CONTENT_TYPE, kind);
            let request = request.body(tonic::body::Body::empty()).unwrap();
            assert_eq!(not_grpc(&request).is_none(), passes, "{method} {version:?} {kind}");
        }
    }
}
