//! `sys/wrapping/*`.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use crate::wrapping;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["wrapping", "wrap"], Verb::Write) => {
            if scope.call.wrap_ttl.is_none() {
                return Err(VaultError::Invalid("endpoint requires response wrapping to be used".into()));
            }
            // the pipeline wraps what is answered
            Ok(Reply { data: Some(Text::copy_from(scope.call.body.whole())), ..Reply::default() })
        }
        (["wrapping", "lookup"], Verb::Read | Verb::Write) => match scope.call.body.string("accessor")? {
            Some(accessor) => wrapping::lookup_by_accessor(scope, &accessor).await,
            None => wrapping::lookup(scope, &token(scope)?).await,
        },
        // what is shown as it is cannot be wrapped: refused before the token is spent
        (["wrapping", "unwrap"], Verb::Write) if scope.call.wrap_ttl.is_some() => {
            Err(VaultError::field("X-Vault-Wrap-TTL", "rewrap is what gives a new token for the same answer"))
        }
        (["wrapping", "unwrap"], Verb::Write) => wrapping::unwrap(scope, &token(scope)?).await,
        (["wrapping", "rewrap"], Verb::Write) => wrapping::rewrap(scope, &token(scope)?).await,
        (["wrapping", "wrap" | "lookup" | "unwrap" | "rewrap"], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

/// From the body, or else the one that the request was sent with.
fn token(scope: &Scope<'_>) -> Result<zeroize::Zeroizing<Vec<u8>>, VaultError> {
    if let Some(token) = scope.call.body.string("token")?.filter(|token| !token.is_empty()) {
        return Ok(zeroize::Zeroizing::new(token.as_bytes().to_vec()));
    }
    let sent = scope.call.token.as_ref().ok_or_else(|| VaultError::field("token", "missing"))?;
    Ok(zeroize::Zeroizing::new(sent.expose().to_vec()))
}
