//! What every RPC passes: request id, deadline, authentication; and on the way back its counters.
//!
//! Always: a request that is refused here, or by the decoder behind, is in the audit log before its reply leaves.
//! Always: the id that the reply carries is the record's.
//! Always: what the decisions demand of the log (`audit_ack`) stands before the reply leaves, whatever it says.
//! Never: a body read for a caller who was not recognised.

use crate::head::{DEADLINE_DEFAULT, Ids, Reply, Speaks, asked_for, deadline, stamp, tells_path};
use crate::kms_grpc::auth;
use crate::kms_grpc::error::Refusal;
use crate::metrics::Lane;
use crate::operation::Operation;
use crate::peer::{Peer, PeerCertificate};
use crate::receipt::{self, ReceiptLane};
use crate::strangers::Strangers;
use audit::{Ack, Acks, AuditError, AuditSink, Decision, Outcome, Record, Subject};
use envelope::Clock;
use futures_util::future::BoxFuture;
use http::Request;
use http::header::AUTHORIZATION;
use identity::{AckDemand, Identities, Principal, RequestInfo};
use kms::Kms;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service;

/// What the gate needs; one a core.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) identities: Identities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) strangers: Strangers,
    pub(crate) lane: Lane,
    pub(crate) ids: Ids,
}

/// What is known of a request before it is known who asks.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) call: Arc<RequestInfo>,
    pub(crate) operation: Operation,
    pub(crate) speaks: Speaks,
    /// What was asked for in the asker's words, or empty where the operation says it all.
    pub(crate) asked_for: String,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Within {
    pub(crate) began: Instant,
    pub(crate) time: Duration,
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
    /// What is asked of keys is recorded on `audit` too, which gives a receipt.
    for_receipt: bool,
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
        let peer = request.extensions_mut().remove::<Arc<Peer>>();
        let head = self.head(&request, peer.as_deref(), began);
        let recognised = OnceLock::new();
        let (time, fit) = within(&request, head.speaks);
        let within = Within { began, time };
        let served = async {
            match fit.and_then(|()| receipt::is_asked(&request)) {
                Ok(for_receipt) => {
                    let lane = for_receipt.then(|| Arc::new(ReceiptLane::new(&self.audit)));
                    self.served(request, inner, (peer, lane), (&head, within), &recognised).await
                }
                Err(refusal) => Err(self.refused(&head, None, refusal).await),
            }
        };
        let (mut reply, outcome) = match tokio::time::timeout_at(began + time, served).await {
            Ok(Ok((reply, outcome))) => (reply, outcome),
            Ok(Err(refusal)) => (head.speaks.refusal(&refusal), refusal.reason),
            Err(_) => {
                let refusal = self.too_late(&head, recognised.get()).await;
                (head.speaks.refusal(&refusal), refusal.reason)
            }
        };
        self.count(head.operation, outcome, began);
        stamp(&mut reply, &head.call.request_id);
        reply
    }

    /// `peer` is out of the request's extensions already.
    pub(crate) fn head<B>(&self, request: &Request<B>, peer: Option<&Peer>, began: Instant) -> Head {
        let (operation, speaks) = (Operation::of(request.uri().path()), Speaks::of(request));
        let call = self.info(self.ids.taken_or_made(request.headers()), peer, began);
        let asked_for =
            if tells_path(operation, speaks) { asked_for(request.method(), request.uri()) } else { String::new() };
        Head { call: Arc::new(call), operation, speaks, asked_for }
    }

    pub(crate) fn info(&self, request_id: String, peer: Option<&Peer>, began: Instant) -> RequestInfo {
        RequestInfo {
            request_id,
            from: peer.map(|peer| peer.addr.clone()).unwrap_or_default(),
            now: self.clock.now(),
            began: began.into_std(),
            certificate: peer.and_then(|peer| peer.certificate.as_ref()).map(PeerCertificate::hexadecimal),
            ack: AckDemand::beside(self.acks.offer()),
            asked: OnceLock::new(),
            entity: OnceLock::new(),
            namespace: OnceLock::new(),
        }
    }

    pub(crate) fn count(&self, operation: Operation, outcome: &'static str, began: Instant) {
        match outcome {
            OK => self.lane.succeeded(operation, began.elapsed()),
            reason => self.lane.failed(operation, reason, began.elapsed()),
        }
    }

    async fn served<S, B>(
        &self,
        mut request: Request<B>,
        mut inner: S,
        (peer, lane): (Option<Arc<Peer>>, Option<Arc<ReceiptLane>>),
        (head, within): (&Head, Within),
        recognised: &OnceLock<Arc<Principal>>,
    ) -> Result<(Reply, &'static str), Refusal>
    where
        S: Service<Request<B>, Response = Reply, Error = Infallible> + Send,
        S::Future: Send,
        B: Send,
    {
        if self.identities.is_sealed() {
            return Err(self.refused(head, None, Refusal::SEALED).await);
        }
        let certificate = peer.as_ref().and_then(|peer| peer.certificate.as_deref());
        let by = match self.identities.authenticate(auth::token(request.headers()), certificate, &head.call).await {
            Ok(by) => by,
            Err(error) => {
                let cause = error.cause();
                let refusal = Refusal::from(error);
                return Err(self.record(head, &Subject::Unauthenticated, cause).await.err().unwrap_or(refusal));
            }
        };
        request.headers_mut().remove(AUTHORIZATION);
        let _ = recognised.set(Arc::clone(&by));
        let ticket = Arc::new(Ticket {
            by,
            call: Arc::clone(&head.call),
            operation: head.operation,
            audit: lane.as_ref().map_or_else(|| Arc::clone(&self.audit), |lane| Arc::clone(lane) as _),
            for_receipt: lane.is_some(),
            outcome: OnceLock::new(),
        });
        request.extensions_mut().insert(Arc::clone(&ticket));
        let Ok(reply) = inner.call(request).await;
        match ticket.outcome.get() {
            Some(outcome) => {
                self.acknowledged(&head.call, within).await?;
                let reply = if let Some(lane) = lane { lane.attach(reply, outcome).await? } else { reply };
                Ok((reply, outcome))
            }
            None => {
                let refusal = before_the_handler(Status::from_header_map(reply.headers()).as_ref());
                Err(self.refused(head, Some(ticket.by.subject()), refusal).await)
            }
        }
    }

    /// Waits for what the decisions demanded. All records of the request are durable.
    pub(crate) async fn acknowledged(&self, call: &RequestInfo, within: Within) -> Result<(), Refusal> {
        let ack = call.ack.demanded();
        if ack == Ack::Durable {
            return Ok(());
        }
        // while there is time left to say that it did not come
        let until = within.began + within.time - (within.time / 8).min(ANSWER_TIME_MAX);
        match tokio::time::timeout_at(until, self.acks.wait(ack)).await {
            Ok(stands) => Ok(stands?),
            Err(_) => Err(Refusal::not_acknowledged(ack)),
        }
    }

    /// The deadline has passed. That is recorded too, within a bound of its own: it may be the log that hangs.
    async fn too_late(&self, head: &Head, by: Option<&Arc<Principal>>) -> Refusal {
        let recorded = self.refused(head, by.map(|by| by.subject()), Refusal::DEADLINE);
        tokio::time::timeout(RECORD_TIME_MAX, recorded).await.unwrap_or(Refusal::AUDIT_UNAVAILABLE)
    }

    /// Records the refusal, then gives it back; or what stood in the record's way.
    async fn refused(&self, head: &Head, by: Option<&Subject>, refusal: Refusal) -> Refusal {
        let by = by.unwrap_or(&Subject::Unauthenticated);
        self.record(head, by, refusal.reason).await.err().unwrap_or(refusal)
    }

    async fn record(&self, head: &Head, by: &Subject, reason: &'static str) -> Result<(), Refusal> {
        let Head { call, operation, asked_for, .. } = head;
        let record = Record { path: asked_for, ..call.record(operation.name(), by, Outcome::Failed(reason.into())) };
        match by {
            Subject::Unauthenticated => self.strangers.append(&*self.audit, *operation, &record).await,
            Subject::Token { .. } | Subject::Certificate { .. } | Subject::System => {
                append(&*self.audit, &record).await
            }
        }
    }
}

impl Ticket {
    pub(crate) fn by(&self) -> &Principal {
        &self.by
    }

    pub(crate) fn call(&self) -> &RequestInfo {
        &self.call
    }

    /// The key domain, its records on this request's lane.
    pub(crate) fn on_lane<'a>(&self, kms: &'a Kms) -> Cow<'a, Kms> {
        if self.for_receipt { Cow::Owned(kms.on_lane(&self.audit)) } else { Cow::Borrowed(kms) }
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
        let record =
            Record { path, decision, rule, ..self.call.record(self.operation.name(), self.by.subject(), outcome) };
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

/// How long the request may take; or why it is refused at once.
fn within<B>(request: &Request<B>, speaks: Speaks) -> (Duration, Result<(), Refusal>) {
    match (speaks, deadline(request.headers())) {
        (Speaks::Http, _) => (DEADLINE_DEFAULT, Err(Refusal::NOT_GRPC)),
        (Speaks::Grpc, Ok(within)) => (within, Ok(())),
        (Speaks::Grpc, Err(malformed)) => (DEADLINE_DEFAULT, Err(malformed)),
    }
}

async fn append(audit: &dyn AuditSink, record: &Record<'_>) -> Result<(), Refusal> {
    audit.append(record.encode()).await.map_err(unrecorded)
}

pub(crate) fn unrecorded(error: AuditError) -> Refusal {
    match error {
        AuditError::Unavailable => Refusal::AUDIT_UNAVAILABLE,
        AuditError::Busy => Refusal::BUSY,
        AuditError::Unsigned => Refusal::RECEIPT_UNAVAILABLE,
    }
}

/// What tonic refuses by itself, in our words.
pub(crate) fn before_the_handler(status: Option<&Status>) -> Refusal {
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

/// How long a record may take whose request has had its time.
pub(crate) const RECORD_TIME_MAX: Duration = Duration::from_secs(1);
/// Of a request's time, what is left for its answer once what it waited for has not come.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// The outcome of what went well.
pub(crate) const OK: &str = "OK";
