//! The master-key backend: everything done with a key in the clear.

use crate::{HsmError, Reply, Request};
use futures_util::future::BoxFuture;

/// A request that is out. It was handed over when the method returned, not when this is first polled.
pub type Pending<T> = BoxFuture<'static, Result<T, HsmError>>;

/// A boundary as its callers see it.
///
/// Always: batch first; requests of one moment share frames.
/// Never: a backing key in plaintext on the caller's side.
pub trait Boundary: Send + Sync + std::fmt::Debug {
    /// Hands `request` over at once and answers with the matching reply variant (`Request::service` tells which).
    fn submit(&self, request: Request) -> Pending<Reply>;
}

/// Typed faces of [`Boundary::submit`], one a service: `ask!(boundary, request => Reply::Variant)`.
/// A reply of another kind is the peer's fault.
#[macro_export]
macro_rules! ask {
    ($boundary:expr, $request:expr => $variant:path) => {{
        let pending = $boundary.submit($request);
        async move {
            match pending.await? {
                $variant(reply) => Ok(reply),
                _ => Err($crate::HsmError::Protocol),
            }
        }
    }};
}
