//! What everybody may ask (health, metrics, reflection) and what is nowhere: served without a token, recorded all the same.
//!
//! Always: one record a request, durable before the reply's first byte leaves; of a stream, when it opens. Without it the
//! answer is AUDIT_UNAVAILABLE, BUSY where the log is at capacity, `GET /health`'s too: who cannot record does not serve. Of one
//! address that asks too much it is RATE_LIMITED, and one record tells of many.
//! Never: who asks. A token that was sent along is not looked at.

use crate::gate::{Head, OK, Post, RECORD_TIME_MAX, before_the_handler};
use crate::head::{DEADLINE_DEFAULT, Reply, Speaks, deadline, stamp};
use crate::health::Health;
use crate::kms_grpc::error::Refusal;
use crate::metrics::Metrics;
use crate::operation::Operation;
use crate::peer::Peer;
use audit::{Decision, Outcome, Record, Subject};
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, StatusCode, header};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

/// All that is behind no gate.
#[derive(Debug, Clone)]
pub(crate) struct Public {
    post: Arc<Post>,
    pages: axum::Router,
}

impl Public {
    pub(crate) fn new(post: &Arc<Post>, health: Health, metrics: Metrics) -> Self {
        let watched = HealthServer::new(health.clone()).max_decoding_message_size(PUBLIC_BYTES_MAX);
        let pages = axum::Router::new()
            .route_service("/grpc.health.v1.Health/{method}", watched)
            .route(HEALTH_PATH, get(async move || page(health.page(), JSON)))
            .route("/metrics", get(async move || page((StatusCode::OK, metrics.render()), OPEN_METRICS)))
            .merge(reflection())
            .fallback(async || StatusCode::NOT_FOUND);
        Self { post: Arc::clone(post), pages }
    }
}

impl Service<Request<Body>> for Public {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { post, pages } = self.clone();
        Box::pin(async move { Ok(post.show(request, pages).await) })
    }
}

impl Post {
    async fn show(&self, mut request: Request<Body>, pages: axum::Router) -> Reply {
        let began = Instant::now();
        let peer = request.extensions_mut().remove::<Arc<Peer>>();
        let head = self.head(&request, peer.as_deref(), began);
        let (within, served) = match deadline(request.headers()) {
            Err(malformed) if head.speaks == Speaks::Grpc => (DEADLINE_DEFAULT, Err(malformed)),
            within => {
                let within = within.unwrap_or(DEADLINE_DEFAULT);
                let served = tokio::time::timeout_at(began + within, shown(request, &head, pages)).await;
                (within, served.unwrap_or(Err(Refusal::DEADLINE)))
            }
        };
        let outcome = served.as_ref().map_or_else(|refusal| refusal.reason, |_| OK);
        let left = within.saturating_sub(began.elapsed()).max(RECORD_TIME_MAX);
        let recorded = self.record_public(&head, outcome, left).await;
        let (mut reply, outcome) = match recorded.and(served) {
            Ok(reply) => (reply, OK),
            Err(refusal) => (head.speaks.refusal(&refusal), refusal.reason),
        };
        self.count(head.operation, outcome, began);
        stamp(&mut reply, &head.call.request_id);
        reply
    }

    async fn record_public(&self, head: &Head, outcome: &'static str, within: Duration) -> Result<(), Refusal> {
        let Head { call, operation, asked_for, speaks: _ } = head;
        let (decision, outcome) = match outcome {
            OK => (Decision::Allowed, Outcome::Done),
            reason => (Decision::NotReached, Outcome::Failed(reason.into())),
        };
        let record =
            Record { path: asked_for, decision, ..call.record(operation.name(), &Subject::Unauthenticated, outcome) };
        let recorded = tokio::time::timeout(within, self.strangers.append(&*self.audit, *operation, &record)).await;
        recorded.unwrap_or(Err(Refusal::AUDIT_UNAVAILABLE))
    }
}

/// The reply of what is asked for. Refusals come in our words, whoever made them.
async fn shown(request: Request<Body>, head: &Head, mut pages: axum::Router) -> Result<Reply, Refusal> {
    let is_rpc = head.operation == Operation::Reflection
        || (head.operation == Operation::Health && request.uri().path() != HEALTH_PATH);
    if is_rpc && head.speaks == Speaks::Http {
        return Err(Refusal::NOT_GRPC);
    }
    let Ok(reply) = pages.call(request).await;
    match (reply.status(), Status::from_header_map(reply.headers())) {
        (StatusCode::NOT_FOUND, _) => Err(Refusal::UNIMPLEMENTED),
        (StatusCode::METHOD_NOT_ALLOWED, _) => Err(Refusal::METHOD_NOT_ALLOWED),
        (_, None) => Ok(reply.map(tonic::body::Body::new)),
        (_, Some(status)) if status.code() == Code::Ok => Ok(reply.map(tonic::body::Body::new)),
        (_, Some(status)) if status.code() == Code::NotFound => Err(Refusal::SERVICE_UNKNOWN),
        (_, Some(status)) => Err(before_the_handler(Some(&status))),
    }
}

/// Made once for all cores: it holds every descriptor, decoded.
fn reflection() -> axum::Router {
    static MADE: OnceLock<axum::Router> = OnceLock::new();
    let make = || {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let router = axum::Router::new();
        // both fail only on descriptors that do not decode, which proto's tests rule out; without them we serve all the same
        match (builder().build_v1(), builder().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => router
                .route_service(
                    "/grpc.reflection.v1.ServerReflection/{method}",
                    v1.max_decoding_message_size(PUBLIC_BYTES_MAX),
                )
                .route_service(
                    "/grpc.reflection.v1alpha.ServerReflection/{method}",
                    v1alpha.max_decoding_message_size(PUBLIC_BYTES_MAX),
                ),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "reflection is not served");
                router
            }
        }
    };
    MADE.get_or_init(make).clone()
}

fn page((status, text): (StatusCode, String), kind: HeaderValue) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], text)
        .into_response()
}

const HEALTH_PATH: &str = "/health";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// Longest request of those who need not say who they are.
const PUBLIC_BYTES_MAX: usize = 16 << 10;
