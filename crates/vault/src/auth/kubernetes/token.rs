//! A service account's token, as it speaks of itself: read before anybody vouches for it, to refuse what cannot be right
//! without asking, and to hold against it what is vouched for.

use super::cause;
use crate::body::Strict;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envelope::Timestamp;
use serde::Deserialize;
use std::time::Duration;

/// What a token says. Nobody has vouched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) account: Account,
    pub(crate) audiences: Vec<String>,
    pub(crate) issuer: String,
    pub(crate) ends: Timestamp,
    pub(crate) begins: Option<Timestamp>,
    /// `jti`; empty where there is none.
    pub(crate) id: String,
    /// Empty where there is none.
    pub(crate) key_id: String,
}

/// Whom a token is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) pod: Option<Bound>,
    pub(crate) node: Option<Bound>,
}

/// What a token is bound to, or tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Bound {
    pub(crate) name: String,
    /// A node's may be missing: its Pod may have been placed on one that the API server does not know.
    #[serde(default)]
    pub(crate) uid: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    // a key that comes with the token proves nothing; what is critical is not understood
    jwk: Option<serde::de::IgnoredAny>,
    jku: Option<serde::de::IgnoredAny>,
    x5c: Option<serde::de::IgnoredAny>,
    x5u: Option<serde::de::IgnoredAny>,
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: u64,
    nbf: Option<u64>,
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Bound,
    pod: Option<Bound>,
    node: Option<Bound>,
}

impl Claims {
    pub(crate) fn read(token: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else { return Err(cause::MALFORMED) };
        let header: Header = read_part(header)?;
        let foreign = [&header.jwk, &header.jku, &header.x5c, &header.x5u, &header.crit];
        if foreign.into_iter().any(Option::is_some) {
            return Err(cause::HEADER);
        }
        if !ALGORITHMS.contains(&header.alg.as_str()) {
            return Err(cause::ALGORITHM);
        }
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(cause::MALFORMED);
        }
        let Payload { iss, sub, aud, exp, nbf, jti, kubernetes } = read_part(payload)?;
        let Kubernetes { namespace, serviceaccount, pod, node } = kubernetes;
        let account = Account { namespace, name: serviceaccount.name, uid: serviceaccount.uid, pod, node };
        if !account.is_sound() || sub != account.username() {
            return Err(cause::MALFORMED);
        }
        let audiences = match aud {
            Audiences::One(one) => vec![one],
            Audiences::Several(several) => several,
        };
        let (id, key_id) = (jti.unwrap_or_default(), header.kid.unwrap_or_default());
        if [&iss, &id, &key_id].into_iter().any(|text| !is_plain(text, TEXT_BYTES_MAX)) {
            return Err(cause::MALFORMED);
        }
        let at = |secs: u64| Timestamp::from_unix_millis(secs.saturating_mul(1000));
        Ok(Self { account, audiences, issuer: iss, ends: at(exp), begins: nbf.map(at), id, key_id })
    }

    /// What needs nobody's word.
    pub(crate) fn check(&self, audience: &str, now: Timestamp) -> Result<(), &'static str> {
        if self.ends <= now {
            return Err(cause::EXPIRED);
        }
        if self.begins.is_some_and(|begins| begins > now.plus(LEEWAY)) {
            return Err(cause::NOT_YET);
        }
        if !self.audiences.iter().any(|own| own == audience) {
            return Err(cause::AUDIENCE_OTHER);
        }
        Ok(())
    }
}

impl Account {
    /// As the API server calls it.
    pub(crate) fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Names as Kubernetes has them (RFC 1123), so that none holds what separates them.
    pub(crate) fn is_sound(&self) -> bool {
        let label = |name: &str| is_name(name, 63) && !name.contains('.');
        let bound =
            |bound: &Option<Bound>| bound.as_ref().is_none_or(|bound| is_name(&bound.name, 253) && is_uid(&bound.uid));
        let whole = !self.uid.is_empty() && self.pod.as_ref().is_none_or(|pod| !pod.uid.is_empty());
        whole
            && label(&self.namespace)
            && is_name(&self.name, 253)
            && is_uid(&self.uid)
            && bound(&self.pod)
            && bound(&self.node)
    }
}

fn is_name(name: &str, most: usize) -> bool {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=most).contains(&name.len()) && name.bytes().all(legal)
}

fn is_uid(uid: &str) -> bool {
    uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_plain(text: &str, most: usize) -> bool {
    text.len() <= most && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// JSON of unique keys; unknown ones are passed over.
fn read_part<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, &'static str> {
    let text = URL_SAFE_NO_PAD.decode(part).map_err(|_| cause::MALFORMED)?;
    serde_json::from_slice::<Strict>(&text).map_err(|_| cause::MALFORMED)?;
    serde_json::from_slice(&text).map_err(|_| cause::MALFORMED)
}

/// What API servers sign with.
const ALGORITHMS: [&str; 6] = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"];
/// What a token's beginning may be ahead: clocks differ. Its end is not moved.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
/// Longest token.
pub(super) const TOKEN_BYTES_MAX: usize = 8 << 10;
const TEXT_BYTES_MAX: usize = 512;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn payload() -> Value {
        json!({
            "aud": ["vault"], "exp": 2000, "iat": 1000, "nbf": 1000, "iss": "https://kubernetes.default.svc", "jti": "j-1",
            "sub": "system:serviceaccount:prod:web",
            "kubernetes.io": {
                "namespace": "prod",
                "serviceaccount": {"name": "web", "uid": "u-1"},
                "pod": {"name": "web-0", "uid": "p-1"},
                "node": {"name": "node-1", "uid": "n-1"},
            },
        })
    }

    pub(crate) fn token(header: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(payload))
    }

    fn with(mut value: Value, pointer: &str, set: Value) -> Value {
        *value.pointer_mut(pointer).unwrap() = set;
        value
    }

    #[test]
    fn a_token_is_read_and_what_cannot_be_right_is_refused() {
        let header = json!({"alg": "RS256", "kid": "k-1"});
        let claims = Claims::read(&token(&header, &payload())).unwrap();
        assert_eq!(claims.account.username(), "system:serviceaccount:prod:web");
        assert_eq!(
            (claims.key_id.as_str(), claims.id.as_str(), claims.account.pod.unwrap().uid.as_str()),
            ("k-1", "j-1", "p-1")
        );
        for (header, refusal) in [
            (json!({"alg": "none"}), cause::ALGORITHM),
            (json!({"alg": "None"}), cause::ALGORITHM),
            (json!({"alg": "HS256"}), cause::ALGORITHM),
            (json!({"alg": "rs256"}), cause::ALGORITHM),
            (json!({"alg": "PS256"}), cause::ALGORITHM),
            (json!({"alg": "EdDSA"}), cause::ALGORITHM),
            (json!({}), cause::MALFORMED),
            (json!({"alg": ["RS256"]}), cause::MALFORMED),
            (json!({"alg": "RS256", "jwk": {"kty": "RSA"}}), cause::HEADER),
            (json!({"alg": "RS256", "jku": "https://evil"}), cause::HEADER),
            (json!({"alg": "RS256", "x5c": ["MII"]}), cause::HEADER),
            (json!({"alg": "RS256", "x5u": "https://evil"}), cause::HEADER),
            (json!({"alg": "RS256", "crit": ["exp"]}), cause::HEADER),
            (json!({"alg": "RS256", "kid": "a\nb"}), cause::MALFORMED),
            (json!({"alg": "RS256", "kid": "k".repeat(600)}), cause::MALFORMED),
        ] {
            assert_eq!(Claims::read(&token(&header, &payload())), Err(refusal), "{header}");
        }
        for (pointer, set) in [
            ("/sub", json!("system:serviceaccount:prod:admin")),
            ("/sub", json!("prod:web")),
            ("/exp", json!(-1)),
            ("/exp", json!("2000")),
            ("/exp", json!(2000.5)),
            ("/aud", json!(null)),
            ("/aud", json!({"0": "vault"})),
            ("/kubernetes.io", json!(null)),
            ("/kubernetes.io/namespace", json!("prod:web")),
            ("/kubernetes.io/namespace", json!("Prod")),
            ("/kubernetes.io/serviceaccount/uid", json!("")),
            ("/kubernetes.io/serviceaccount/name", json!("web/../admin")),
            ("/kubernetes.io/pod/uid", json!("")),
        ] {
            let changed = token(&header, &with(payload(), pointer, set.clone()));
            assert_eq!(Claims::read(&changed), Err(cause::MALFORMED), "{pointer} {set}");
        }
        let (good, twice) = (token(&header, &payload()), URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"RS256"}"#));
        let (head, tail) = good.split_once('.').unwrap();
        for text in [
            String::new(),
            "..".into(),
            good.trim_end_matches("c2ln").into(),
            format!("{good}.x"),
            format!("{good}="),
            format!("{good}\n"),
            format!("{head}=.{tail}"),
            format!("{twice}.{tail}"),
        ] {
            assert_eq!(Claims::read(&text), Err(cause::MALFORMED), "{text}");
        }
    }

    #[test]
    fn time_and_audience_need_nobodys_word() {
        let claims = Claims::read(&token(&json!({"alg": "ES256"}), &payload())).unwrap();
        for (audience, secs, outcome) in [
            ("vault", 1000, Ok(())),
            ("vault", 970, Ok(())),
            ("vault", 969, Err(cause::NOT_YET)),
            ("vault", 1999, Ok(())),
            ("vault", 2000, Err(cause::EXPIRED)),
            ("Vault", 1000, Err(cause::AUDIENCE_OTHER)),
            ("vault-2", 1000, Err(cause::AUDIENCE_OTHER)),
            ("", 1000, Err(cause::AUDIENCE_OTHER)),
        ] {
            let now = Timestamp::from_unix_millis(secs * 1000);
            assert_eq!(claims.check(audience, now), outcome, "{audience} {secs}");
        }
    }
}
