//! Who asks: `X-Vault-Token`, or `Authorization: Bearer`; and the connection's client certificate beside it.

use crate::peer::Peer;
use envelope::SecretBytes;
use http::{HeaderMap, HeaderName};
use vault::VaultError;

/// The token, as it was sent. Where its header stands twice, an empty one, which no token is.
pub(super) fn token(headers: &HeaderMap) -> Option<SecretBytes> {
    let mut values = headers.get_all(TOKEN).iter();
    match (values.next(), values.next()) {
        (Some(token), None) => Some(SecretBytes::copy_from(token.as_bytes())),
        (Some(_), Some(_)) => Some(SecretBytes::copy_from(b"")),
        (None, _) => crate::kms_grpc::auth::token(headers).map(SecretBytes::copy_from),
    }
}

/// To which certificate what is made is to be bound.
pub(super) fn bind(headers: &HeaderMap, peer: Option<&Peer>) -> Result<Option<[u8; 32]>, VaultError> {
    let Some(wish) = headers.get(BIND) else { return Ok(None) };
    let refused = |why| VaultError::field("X-Strongroom-Bind-Certificate", why);
    if wish.as_bytes() == b"self" {
        let own = peer.and_then(|peer| peer.certificate.as_ref()).map(|certificate| certificate.thumbprint);
        return own.map(Some).ok_or_else(|| refused("`self`, and no client certificate was shown"));
    }
    let mut thumbprint = [0; 32];
    hex::decode_to_slice(wish.as_bytes(), &mut thumbprint)
        .map_err(|_| refused("neither `self` nor 64 hexadecimal digits"))?;
    Ok(Some(thumbprint))
}

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const BIND: HeaderName = HeaderName::from_static("x-strongroom-bind-certificate");
