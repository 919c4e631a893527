//! Who asks: `authorization: Bearer TOKEN`, the connection's client certificate, or both.
//!
//! Never: a request whose token is malformed counted by its certificate. What was shown is what is judged.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The bearer token, as it was sent. Empty, which no token is, where the header is there and holds none, or stands twice.
pub(crate) fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    let bearer = match (value.split_at_checked(SCHEME.len()), values.next()) {
        // RFC 9110 §11.1: schemes are case-insensitive
        (Some((scheme, token)), None) if scheme.eq_ignore_ascii_case(SCHEME) => Some(token.trim_ascii_start()),
        _ => None,
    };
    Some(bearer.unwrap_or_default())
}

const SCHEME: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_one_well_formed_header_holds_a_token() {
        for (values, expected) in [
            (&[][..], None),
            (&["Bearer abc"][..], Some(&b"abc"[..])),
            (&["bearer  abc"], Some(b"abc")),
            (&["Bearer "], Some(b"")),
            (&["Bearer"], Some(b"")),
            (&["Basic abc"], Some(b"")),
            (&["abc"], Some(b"")),
            (&["Bearer abc", "Bearer abc"], Some(b"")),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(token(&headers), expected, "{values:?}");
        }
    }
}
