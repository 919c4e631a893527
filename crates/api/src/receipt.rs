//! Receipts: whoever asks for one in a call of `strongroom.kms.v1` gets what the boundary signed of its record.
//!
//! The call runs on a lane of its own, on which a receipt is ordered of each record; the last one's is waited for, and handed
//! out, when the call has been carried out: nothing is held up meanwhile.
//!
//! Always: with the answer it belongs to, in trailing metadata. No receipt, no result: where the record is durable and the
//! boundary signs nothing, the call goes its way and the caller is told RECEIPT_UNAVAILABLE. A refusal is told all the same.

use crate::gate::OK;
use crate::head::Reply;
use crate::kms_grpc::error::Refusal;
use audit::receipt::Receipt;
use audit::{AuditError, AuditSink, ForReceipt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::BodyExt as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether a receipt is asked for. Only a single 1 asks; anything else would be half understood.
pub(crate) fn is_asked<B>(request: &Request<B>) -> Result<bool, Refusal> {
    let mut values = request.headers().get_all(ASKS).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes() == b"1" => Ok(request.uri().path().starts_with(ANSWERS)),
        (Some(_), _) => Err(Refusal::field("strongroom-receipt")),
    }
}

/// The log, for one call that asks for a receipt.
pub(crate) struct ReceiptLane {
    log: Arc<dyn AuditSink>,
    last: Arc<Mutex<Last>>,
}

/// The last record's receipt, still to come; `None` where there is no record, or it is not known to be durable.
type Last = Option<BoxFuture<'static, Result<Receipt, AuditError>>>;

impl ReceiptLane {
    pub(crate) fn new(log: &Arc<dyn AuditSink>) -> Self {
        Self { log: Arc::clone(log), last: Arc::default() }
    }

    /// The reply with the receipt of what was recorded last.
    pub(crate) async fn attach(&self, reply: Reply, outcome: &str) -> Result<Reply, Refusal> {
        let last = std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(receipt) = last else { return Ok(reply) };
        match receipt.await {
            Ok(receipt) => with(reply, &receipt),
            Err(_) if outcome == OK => Err(Refusal::RECEIPT_UNAVAILABLE),
            Err(_) => Ok(reply),
        }
    }
}

impl std::fmt::Debug for ReceiptLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiptLane").finish_non_exhaustive()
    }
}

impl AuditSink for ReceiptLane {
    /// Whoever appends goes on once the record is durable.
    fn append(&self, record: Bytes) -> BoxFuture<'static, Result<(), AuditError>> {
        // an earlier record's receipt says nothing of this one
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (ForReceipt { durable, receipt }, last) = (self.log.append_for_receipt(record), Arc::clone(&self.last));
        Box::pin(async move {
            durable.await?;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(receipt);
            Ok(())
        })
    }

    fn append_for_receipt(&self, record: Bytes) -> ForReceipt {
        self.log.append_for_receipt(record)
    }
}

fn with(reply: Reply, receipt: &Receipt) -> Result<Reply, Refusal> {
    // PROTOCOL-HTTP2, "Binary headers"; base64 is text, which a value may hold
    let value = HeaderValue::from_maybe_shared(Bytes::from(STANDARD_NO_PAD.encode(receipt.encode())));
    let mut value = value.map_err(|_| Refusal::RECEIPT_UNAVAILABLE)?;
    // nothing of it comes again: it would drive what does out of the connection's table (RFC 7541 §7.1.3)
    value.set_sensitive(true);
    let (mut head, body) = reply.into_parts();
    // PROTOCOL-HTTP2, "Responses": Trailers-Only are headers, with the status among them
    if head.headers.contains_key(STATUS) {
        head.headers.insert(CARRIES, value);
        return Ok(Reply::from_parts(head, body));
    }
    let body = body.map_frame(move |mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            trailers.insert(CARRIES, value.clone());
        }
        frame
    });
    Ok(Reply::from_parts(head, tonic::body::Body::new(body)))
}

/// What asks, with the value 1.
const ASKS: HeaderName = HeaderName::from_static("strongroom-receipt");
/// Who answers: Keys and Crypto.
const ANSWERS: &str = "/strongroom.kms.v1.";
/// Where the receipt stands (`strongroom.audit.v1.Receipt`).
const CARRIES: HeaderName = HeaderName::from_static("strongroom-receipt-bin");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
