//! A request's head and body, and the call that they make.

use super::auth;
use crate::peer::Peer;
use axum::body::Body;
use bytes::Buf as _;
use envelope::SecretBytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, Method, Request};
use http_body_util::BodyExt as _;
use identity::{PeerCertificate, RequestInfo, Standing};
use std::sync::Arc;
use std::time::Duration;
use vault::body::BODY_BYTES_MAX;
use vault::call::Parameter;
use vault::{ApiPath, Call, VaultError, Verb};

/// All that the head says.
pub(super) struct Parts {
    verb: Verb,
    namespace: Box<str>,
    path: ApiPath,
    parameters: Vec<Parameter>,
    token: Option<SecretBytes>,
    certificate: Option<Arc<PeerCertificate>>,
    wrap_ttl: Option<Duration>,
    bind: Option<[u8; 32]>,
}

impl Parts {
    pub(super) fn parse(head: &Head, peer: Option<&Peer>) -> Result<Self, VaultError> {
        let mut parameters = parameters(head.uri.query().unwrap_or_default())?;
        let raw = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
        let verb = if scans(head, raw) {
            parameters.push(("scan".into(), "true".into()));
            Verb::List
        } else {
            verb_of(&head.method, head.uri.query()).ok_or(VaultError::Unsupported)?
        };
        let wrap_ttl = match head.headers.get(WRAP_TTL) {
            None => None,
            Some(value) => {
                let refused = |why| VaultError::field("X-Vault-Wrap-TTL", why);
                let text = value.to_str().map_err(|_| refused("not a duration"))?;
                let ttl = vault::duration::parse(text.trim()).map_err(refused)?;
                if ttl.is_some_and(|ttl| ttl > vault::wrapping::WRAP_TTL_MAX) {
                    return Err(refused("more than 32 days"));
                }
                ttl
            }
        };
        Ok(Self {
            verb,
            namespace: namespace(&head.headers)?,
            path: ApiPath::parse(raw)?,
            parameters,
            token: auth::token(&head.headers),
            certificate: peer.and_then(|peer| peer.certificate.as_deref().map(|shown| Arc::new(shown.clone()))),
            wrap_ttl,
            bind: auth::bind(&head.headers, peer)?,
        })
    }

    pub(super) fn body_bytes_max(&self) -> usize {
        let path = self.path.as_str();
        // whatever is shown beside it: a login is everybody's to ask for
        let logs_in = (path.starts_with("auth/") || path.contains("/auth/"))
            && (path.ends_with("/login") || path.contains("/login/"));
        let vouched = |shown: &Arc<PeerCertificate>| shown.standing == Standing::Verified;
        let known = !logs_in && (self.token.is_some() || self.certificate.as_ref().is_some_and(vouched));
        if known { BODY_BYTES_MAX } else { STRANGERS_BODY_BYTES_MAX }
    }

    pub(super) fn call(self, body: SecretBytes, info: Arc<RequestInfo>) -> Result<Call, VaultError> {
        // what a read or a list brings along is ignored, as by Vault
        let body = match self.verb {
            Verb::Read | Verb::List => vault::Body::empty(),
            Verb::Write | Verb::Patch | Verb::Delete => vault::Body::parse(body)?,
        };
        let Self { verb, namespace, path, parameters, token, certificate, wrap_ttl, bind } = self;
        Ok(Call { verb, namespace, path, parameters, body, token, certificate, wrap_ttl, bind, info })
    }
}

/// What the method and `list=true` ask for; nothing where the method is none of ours.
pub(super) fn verb<B>(request: &Request<B>) -> Option<Verb> {
    verb_of(request.method(), request.uri().query())
}

fn verb_of(method: &Method, query: Option<&str>) -> Option<Verb> {
    let lists = || query.is_some_and(|query| query.split('&').any(|pair| pair == "list=true"));
    match method.as_str() {
        "GET" if lists() => Some(Verb::List),
        "GET" | "HEAD" => Some(Verb::Read),
        "LIST" => Some(Verb::List),
        "POST" | "PUT" => Some(Verb::Write),
        "PATCH" => Some(Verb::Patch),
        "DELETE" => Some(Verb::Delete),
        _ => None,
    }
}

/// In which namespace it asks. Where the header stands twice, nobody can tell.
fn namespace(headers: &HeaderMap) -> Result<Box<str>, VaultError> {
    let mut values = headers.get_all(NAMESPACE).iter();
    let refused = || VaultError::field("X-Vault-Namespace", "no path of a namespace, or more than one");
    match (values.next(), values.next()) {
        (None, _) => Ok("".into()),
        (Some(value), None) => vault::namespace::parse_named(value.to_str().map_err(|_| refused())?),
        (Some(_), Some(_)) => Err(refused()),
    }
}

/// OpenBao's way to ask for all namespaces below: the method SCAN, or `scan=true`.
fn scans(head: &Head, path: &str) -> bool {
    let is_of_namespaces = path.trim_end_matches('/').ends_with("sys/namespaces");
    let by_query = || head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "scan=true"));
    is_of_namespaces && (head.method.as_str() == "SCAN" || matches!(head.method.as_str(), "GET" | "LIST") && by_query())
}

/// `a=b&c=d`, percent-encoded; the first of a name counts.
fn parameters(query: &str) -> Result<Vec<Parameter>, VaultError> {
    let refused = || VaultError::field("query", "malformed, or more than 32 parameters");
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let parsed = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    });
    let parameters = parsed.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
    if parameters.len() > PARAMETERS_MAX { Err(refused()) } else { Ok(parameters) }
}

fn decode(text: &str) -> Option<Box<str>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut decoded = [0];
                hex::decode_to_slice([rest.next()?, rest.next()?], &mut decoded).ok()?;
                decoded[0]
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Into::into)
}

/// The whole body, in memory that is wiped.
pub(super) async fn read(mut body: Body, most: usize) -> Result<SecretBytes, VaultError> {
    let mut pieces = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| VaultError::Invalid("the body ended before it was whole".into()))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.remaining();
        if length > most {
            return Err(VaultError::TooLarge);
        }
        pieces.push(data);
    }
    Ok(SecretBytes::init_with(length, |mut room| {
        for piece in pieces {
            if let Some((here, rest)) = std::mem::take(&mut room).split_at_mut_checked(piece.len()) {
                here.copy_from_slice(&piece);
                room = rest;
            }
        }
    }))
}

const PREFIX: &str = "/v1/";
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const WRAP_TTL: HeaderName = HeaderName::from_static("x-vault-wrap-ttl");
const STRANGERS_BODY_BYTES_MAX: usize = 64 << 10;
const PARAMETERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_become_verbs() {
        for (method, query, verb) in [
            ("GET", None, Some(Verb::Read)),
            ("GET", Some("list=true"), Some(Verb::List)),
            ("GET", Some("a=1&list=true"), Some(Verb::List)),
            ("GET", Some("list=false"), Some(Verb::Read)),
            ("HEAD", None, Some(Verb::Read)),
            ("LIST", None, Some(Verb::List)),
            ("POST", Some("list=true"), Some(Verb::Write)),
            ("PUT", None, Some(Verb::Write)),
            ("PATCH", None, Some(Verb::Patch)),
            ("DELETE", None, Some(Verb::Delete)),
            ("SCAN", None, None),
            ("TRACE", None, None),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(verb_of(&method, query), verb, "{method} {query:?}");
        }
    }

    #[test]
    fn parameters_are_decoded_once() {
        let read = |query| {
            parameters(query).ok().map(|found| {
                found.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(";")
            })
        };
        for (query, expected) in [
            ("", Some("")),
            ("version=2", Some("version=2")),
            ("a=%2F%20+b&c", Some("a=/  b;c=")),
            ("a=%252f", Some("a=%2f")),
            ("a=%", None),
            ("a=%ff", None),
        ] {
            assert_eq!(read(query).as_deref(), expected, "{query}");
        }
        assert!(parameters(&"a=1&".repeat(33)).is_err());
    }
}
