//! How long a connection lives: until nothing was asked for a while, it is old, or its client certificate's time is over.
//!
//! Always: what has begun may end, within a grace; then the connection is cut.
//! Never: a clock read for a request, but where a client certificate's time may end.

use api::Peer;
use envelope::{Clock, Timestamp};
use hyper::body::{Body, Frame, SizeHint};
use identity::Standing;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    open: AtomicUsize,
}

/// A request until its reply's last byte was taken, or nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Open(Arc<Requests>);

impl Requests {
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }

    /// Whether anything was asked yet.
    pub(super) fn any(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Until no request was open for `idle`, and at most twice as long: so no request has to set a timer.
    pub(super) async fn idle(&self, idle: Duration) {
        let mut seen = None;
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            let quiet = (self.open.load(Ordering::Acquire) == 0).then_some(begun);
            if quiet.is_some() && quiet == seen {
                return;
            }
            seen = quiet;
            tokio::time::sleep(idle).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A reply's body that keeps its request open.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    body: B,
    _open: Open,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, open: Open) -> Self {
        Self { body, _open: open }
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Who is at the other end, for as long as that holds.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    shown: Arc<Peer>,
    /// Where a certificate was shown: until when it counts, and who is there without it.
    until: Option<(Timestamp, Arc<Peer>)>,
}

impl Caller {
    pub(super) fn nobody(addr: String) -> Self {
        Self { shown: Arc::new(Peer { addr, certificate: None }), until: None }
    }

    /// The caller's own certificate first in `chain`. It counts until the first of them ends (RFC 5280 §6.1.3); where nobody
    /// vouches for it, while its own time is.
    pub(super) fn certified(addr: String, chain: &[impl AsRef<[u8]>], standing: Standing, now: Timestamp) -> Self {
        let nobody = Self::nobody(addr.clone());
        if standing == Standing::Shown && !chain.first().is_some_and(|own| is_of(own.as_ref(), now)) {
            return nobody;
        }
        let counted = if standing == Standing::Shown { chain.get(..1).unwrap_or_default() } else { chain };
        let certificate = api::PeerCertificate::from_chain(chain, standing);
        let until = counted.iter().map(|der| not_after(der.as_ref())).min().unwrap_or_default();
        Self { shown: Arc::new(Peer { addr, certificate }), until: Some((until, nobody.shown)) }
    }

    /// Asked for each request.
    pub(super) fn now(&self, clock: &dyn Clock) -> &Arc<Peer> {
        match &self.until {
            Some((until, nobody)) if clock.now() > *until => nobody,
            Some(_) | None => &self.shown,
        }
    }

    /// Until the certificate counts no more.
    pub(super) async fn ended(&self, clock: &dyn Clock) {
        match &self.until {
            Some((until, _)) => clock.sleep_until(until.plus(Duration::from_millis(1))).await,
            None => std::future::pending().await,
        }
    }
}

/// Whether a certificate's time is now.
fn is_of(der: &[u8], now: Timestamp) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return false };
    let from = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0);
    (from.saturating_mul(1000)..=not_after(der).unix_millis()).contains(&now.unix_millis())
}

/// The end of the last second in which a certificate is valid (RFC 5280 §4.1.2.5); long ago where that cannot be read.
fn not_after(der: &[u8]) -> Timestamp {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return Timestamp::default() };
    let secs = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Timestamp::from_unix_millis(secs.saturating_mul(1000).saturating_add(999))
}
