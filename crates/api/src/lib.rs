//! The front doors: what is spoken with the outside.
//!
//! A face decodes, authenticates, calls, encodes. The same files in each: `mod` the handlers, `codec` messages to commands
//! and results to messages, `auth` who asks, `error` what a failure looks like from outside; each `mod.rs` ends with what
//! differs from the API that it imitates.
//!
//! | path | what | who may |
//! |---|---|---|
//! | `strongroom.kms.v1.{Keys,Crypto}` | [`kms_grpc`] | principals |
//! | `strongroom.identity.v1.Identity` | [`identity_grpc`] | principals |
//! | `strongroom.operator.v1.Operator` | [`operator_grpc`] | principals with `sudo` |
//! | `/v1/…` | [`vault_http`] | tokens; logins, unwrapping and the seal's state everybody |
//! | `grpc.health.v1.Health`, `GET /health` | [`health`] | everybody |
//! | `grpc.reflection.v1` and `v1alpha` | the `.proto` files | everybody |
//! | `GET /metrics` | [`metrics`] | everybody |
//!
//! Namespaces are the vault's alone: all else is of the root, and a namespace's token is nobody's there.
//!
//! Every request that is answered leaves one record, durable before the reply's first byte leaves (and signed or witnessed,
//! where the caller's policies say so); of a stream, when it opens. Two leave more: what the boundary was asked for and then failed, and a change after its announcement. What never
//! becomes a request is not recorded, because there is nothing to serve: TLS handshakes, HTTP/2 protocol errors, and what
//! hyper refuses by itself while it reads a head (HTTP/1.1 that cannot be parsed, a head that is too long).
//! A server that was sealed by hand refuses all with SEALED but health, metrics, reflection and the vault's own paths of the seal;
//! each refusal is recorded.
//! Nor is what strangers ask beyond their bounds: it is refused, and one record tells of many.
//!
//! Always: bounds before reading. A unary request is at most 1 MiB; a batch request at most 2 MiB, in which 128 items fit
//! whatever they hold (the largest, of Decrypt, is a blob of 6144 bytes, a context of 8192 and a key name of 256, in all
//! below 15 KiB). A request that names no deadline ends after 10 s, any after 30 s. Nothing is compressed: sizes would tell
//! of secrets.
//! Never: a decision; a socket; a reply without a record.
#![forbid(unsafe_code)]

mod gate;
mod head;
pub mod health;
pub mod identity_grpc;
pub mod kms_grpc;
pub mod metrics;
mod operation;
pub mod operator_grpc;
pub mod peer;
mod public;
mod receipt;
mod strangers;
pub mod vault_http;

pub use health::{AuditLogState, BoundaryState, Health, StoreReach};
pub use metrics::Metrics;
pub use operation::Operation;
pub use operator_grpc::{BackupPiece, Operator, OperatorError, ServerStatus};
pub use peer::{Peer, PeerCertificate};
pub use strangers::{STRANGERS_BURST, STRANGERS_MAX, STRANGERS_PER_SEC, Strangers};

use audit::{Acks, AuditSink};
use axum::body::Body;
use envelope::Clock;
use futures_util::future::BoxFuture;
use gate::{Gate, Post};
use head::Ids;
use http::{Method, Request};
use identity::Identities;
use kms::Kms;
use proto::identity::identity_server::IdentityServer;
use proto::kms::crypto_server::CryptoServer;
use proto::kms::keys_server::KeysServer;
use proto::operator::operator_server::OperatorServer;
use public::Public;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;
use vault::Vault;

/// What the faces stand on. One a core: `kms`, `identities`, `vault` and `audit` are that core's own; the rest is shared.
#[derive(Debug, Clone)]
pub struct Services {
    pub kms: Kms,
    pub identities: Identities,
    pub vault: Vault,
    pub operator: Arc<dyn Operator>,
    pub metrics: Metrics,
    pub health: Health,
    pub clock: Arc<dyn Clock>,
    pub audit: Arc<dyn AuditSink>,
    /// What vouches for records beyond their being durable.
    pub acks: Arc<Acks>,
    pub strangers: Strangers,
}

/// All that one core serves. What is called most is found first, without a router's boxes around it.
#[derive(Clone)]
pub struct Front(Arc<Parts>);

struct Parts {
    unary: Gate<CryptoServer<kms_grpc::Face>>,
    batch: Gate<CryptoServer<kms_grpc::Face>>,
    rest: axum::Router,
}

impl Service<Request<tonic::body::Body>> for Front {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    /// Everything behind is always ready.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        // what is no POST is no gRPC
        if request.method() == Method::POST {
            let path = request.uri().path();
            if UNARY_PATHS.contains(&path) {
                return self.0.unary.clone().call(request);
            }
            if BATCH_PATHS.contains(&path) {
                return self.0.batch.clone().call(request);
            }
        }
        let mut rest = self.0.rest.clone();
        Box::pin(async move {
            let is_head = request.method() == Method::HEAD;
            let Ok(reply) = Service::<Request<Body>>::call(&mut rest, request.map(Body::new)).await;
            // RFC 9110 §9.3.2: no content; over HTTP/2 nobody below sees to it
            Ok(reply.map(|body| if is_head { tonic::body::Body::empty() } else { tonic::body::Body::new(body) }))
        })
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

pub fn front(services: Services) -> Front {
    let Services { kms, identities, vault, operator, metrics, health, clock, audit, acks, strangers } = services;
    let (lane, ids) = (metrics.lane(), Ids::default());
    let post = Arc::new(Post { identities: identities.clone(), clock, audit, acks, strangers, lane, ids });
    let kms = Arc::new(kms_grpc::Face { kms });
    let crypto = CryptoServer::from_arc(Arc::clone(&kms));
    let batch = crypto.clone().max_decoding_message_size(BATCH_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX);
    let crypto = crypto.max_decoding_message_size(UNARY_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX);
    let keys = KeysServer::from_arc(kms);
    let keys = keys.max_decoding_message_size(UNARY_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX);
    let identity = IdentityServer::new(identity_grpc::Face { identities });
    let identity = identity.max_decoding_message_size(UNARY_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX);
    let operator = OperatorServer::new(operator_grpc::Face { operator });
    let operator = operator.max_decoding_message_size(UNARY_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX);

    let (unary, batch) = (Gate::new(&post, crypto.clone()), Gate::new(&post, batch));
    let rest = axum::Router::new()
        .route_service("/strongroom.kms.v1.Crypto/{method}", Gate::new(&post, crypto))
        .route_service("/strongroom.kms.v1.Keys/{method}", Gate::new(&post, keys))
        .route_service("/strongroom.identity.v1.Identity/{method}", Gate::new(&post, identity))
        .route_service("/strongroom.operator.v1.Operator/{method}", Gate::new(&post, operator))
        .route_service("/v1/{*path}", vault_http::Face::new(&post, vault))
        .fallback_service(Public::new(&post, health, metrics));
    Front(Arc::new(Parts { unary, batch, rest }))
}

/// Longest unary request.
pub const UNARY_BYTES_MAX: usize = 1 << 20;
/// Longest batch request.
pub const BATCH_BYTES_MAX: usize = 2 << 20;
/// Longest reply: what clients take by default.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// What is called most, of [`UNARY_BYTES_MAX`].
const UNARY_PATHS: [&str; 3] = [
    "/strongroom.kms.v1.Crypto/GenerateDataKey",
    "/strongroom.kms.v1.Crypto/Encrypt",
    "/strongroom.kms.v1.Crypto/Decrypt",
];
/// Every one of [`BATCH_BYTES_MAX`].
const BATCH_PATHS: [&str; 3] = [
    "/strongroom.kms.v1.Crypto/BatchGenerateDataKey",
    "/strongroom.kms.v1.Crypto/BatchEncrypt",
    "/strongroom.kms.v1.Crypto/BatchDecrypt",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_takes_the_door_for_batches_and_nothing_else_does() {
        for operation in Operation::ALL {
            let path = format!("/strongroom.kms.v1.Crypto/{}", operation.name());
            assert_eq!(BATCH_PATHS.contains(&path.as_str()), operation.name().starts_with("Batch"), "{path}");
        }
        for path in UNARY_PATHS.iter().chain(&BATCH_PATHS) {
            assert_ne!(Operation::of(path), Operation::Unknown, "{path}");
        }
        assert!(UNARY_PATHS.iter().all(|path| !BATCH_PATHS.contains(path)));
    }
}
