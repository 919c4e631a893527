//! The HTTP API of Vault, `/v1/…`, for the clients that people have.
//!
//! Always: what is malformed is 400 with `{"errors": […]}` that names what is wrong, and leaves its record like all else.
//! Never: a body read beyond its bound, or for longer than the request may take.
//!
//! # Divergences
//!
//! * Bodies have at most 1 MiB, those of requests without a token 64 KiB; a request may take 30 s.
//! * A path with an empty segment, `.`, `..`, `%2f`, a control or a look-alike of a slash or a dot is refused, not cleaned.
//! * A JSON object in which a key stands twice is refused.
//! * That a namespace is not there is told to who may do something in the one above it alone; to others it is forbidden.
//! * Forwarding headers are ignored: every node is active.
//! * `X-Strongroom-Bind-Certificate` (64 hexadecimal digits, or `self` for the connection's own) binds what a call makes, a
//!   wrapping token, a SecretID or a login's token, to a client certificate.

mod auth;
mod codec;
mod error;

use crate::gate::{Post, RECORD_TIME_MAX, Within};
use crate::head::{DEADLINE_MAX, Reply, asked_for, stamp};
use crate::operation::Operation;
use crate::peer::Peer;
use audit::{Outcome, Record, Subject};
use axum::body::Body;
use codec::Parts;
use futures_util::future::BoxFuture;
use http::Request;
use identity::RequestInfo;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tower::Service;
use vault::{Answer, Vault, VaultError};

#[derive(Debug, Clone)]
pub(crate) struct Face {
    post: Arc<Post>,
    vault: Vault,
}

impl Face {
    pub(crate) fn new(post: &Arc<Post>, vault: Vault) -> Self {
        Self { post: Arc::clone(post), vault }
    }

    async fn answer(&self, mut request: Request<Body>) -> Reply {
        let began = Instant::now();
        let peer = request.extensions_mut().remove::<Arc<Peer>>();
        let info = Arc::new(self.post.info(self.post.ids.uuid(), peer.as_deref(), began));
        let operation = codec::verb(&request).map_or(Operation::Unknown, Operation::of_verb);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let asked = || asked_for(&method, &uri);
        let within = Within { began, time: DEADLINE_MAX };
        let served = tokio::time::timeout_at(began + within.time, self.serve(request, peer, &info, within));
        let answer = match served.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(malformed)) => self.refused(operation, &info, &asked(), malformed).await,
            Err(_) => self.refused(operation, &info, &asked(), VaultError::Unavailable("DEADLINE_EXCEEDED")).await,
        };
        self.post.count(operation, answer.outcome, began);
        let mut reply = error::reply(answer);
        stamp(&mut reply, &info.request_id);
        reply
    }

    /// What cannot be read is refused here; all else is the vault's to answer, once what its decisions demand of the log stands.
    async fn serve(
        &self,
        request: Request<Body>,
        peer: Option<Arc<Peer>>,
        info: &Arc<RequestInfo>,
        within: Within,
    ) -> Result<Answer, VaultError> {
        let (head, body) = request.into_parts();
        let parts = Parts::parse(&head, peer.as_deref())?;
        let body = codec::read(body, parts.body_bytes_max()).await?;
        let answer = self.vault.handle(parts.call(body, Arc::clone(info))?).await;
        match self.post.acknowledged(info, within).await {
            Ok(()) => Ok(answer),
            Err(refusal) => Ok(Answer::refused(VaultError::Unavailable(refusal.reason), &info.request_id)),
        }
    }

    /// Records the refusal; or tells what stood in the record's way.
    async fn refused(&self, operation: Operation, info: &RequestInfo, asked: &str, error: VaultError) -> Answer {
        let outcome = Outcome::Failed(error.reason().into());
        let record = Record { path: asked, ..info.record(operation.name(), &Subject::Unauthenticated, outcome) };
        let recorded = self.post.strangers.append(&*self.post.audit, operation, &record);
        match tokio::time::timeout(RECORD_TIME_MAX, recorded).await {
            Ok(Ok(())) => Answer::refused(error, &info.request_id),
            Ok(Err(refusal)) => Answer::refused(VaultError::Unavailable(refusal.reason), &info.request_id),
            Err(_) => Answer::refused(VaultError::Unavailable("AUDIT_UNAVAILABLE"), &info.request_id),
        }
    }
}

impl Service<Request<Body>> for Face {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}
