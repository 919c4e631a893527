//! One token against one issuer's keys. Pure: the time is an argument, and nothing is fetched.

use super::algorithm::{Algorithm, Algorithms};
use super::claims::{Claims, NoDate};
use super::issuer::{ISSUER_BUSY, ISSUER_LIES};
use super::key::{ID_BYTES_MAX, KeySet};
use crate::body::Strict;
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use envelope::Timestamp;
use serde_json::{Map, Value};
use std::time::Duration;

/// What is pinned, and how far clocks may be apart.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'r> {
    pub algorithms: &'r Algorithms,
    pub now: Timestamp,
    /// How long after its end a token still counts.
    pub leeway_after: Duration,
    /// How long before its beginning it counts already.
    pub leeway_before: Duration,
    /// What the header's `typ` may be, in lower case and without `application/`; `""` is a header without one.
    pub kinds: &'r [&'r str],
}

/// A token that is its issuer's, and of now.
#[derive(Debug)]
pub struct Verified {
    pub claims: Claims,
    pub key_id: Option<String>,
    pub algorithm: Algorithm,
    /// Its end, without any leeway.
    pub expires: Timestamp,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    /// It brings a key, or asks for what is not understood here.
    HeaderForbidden,
    AlgorithmOther,
    KindOther,
    /// No key that is known: they may have been changed.
    KeyUnknown,
    SignatureWrong,
    ClaimsMalformed,
    EndMissing,
    Expired,
    NotYet,
    IssuedInFuture,
}

impl Refusal {
    /// For the record.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Malformed => "JWT_MALFORMED",
            Self::HeaderForbidden => "JWT_HEADER_FORBIDDEN",
            Self::AlgorithmOther => "JWT_ALGORITHM_OTHER",
            Self::KindOther => "JWT_TYPE_OTHER",
            Self::KeyUnknown => "JWT_KEY_UNKNOWN",
            Self::SignatureWrong => "JWT_SIGNATURE_WRONG",
            Self::ClaimsMalformed => "JWT_CLAIMS_MALFORMED",
            Self::EndMissing => "JWT_EXP_MISSING",
            Self::Expired => "JWT_EXPIRED",
            Self::NotYet => "JWT_NOT_YET_VALID",
            Self::IssuedInFuture => "JWT_ISSUED_IN_FUTURE",
        }
    }
}

/// What each means for who operates the server.
pub const CAUSES: &[(&str, &str)] = &[
    ("JWT_MALFORMED", "what was sent is no signed JWT in compact form, or is too long: look at what the client sends"),
    (
        "JWT_HEADER_FORBIDDEN",
        "the token's header brings a key or the address of one (jwk, jku, x5u, x5c), or names an extension (crit): such tokens never count",
    ),
    (
        "JWT_ALGORITHM_OTHER",
        "the token is signed by an algorithm that the configuration does not list, or by none: compare its alg with jwt_supported_algs",
    ),
    (
        "JWT_TYPE_OTHER",
        "the token's typ is another one than is asked for: an access token (at+jwt) where an ID token is due, or the other way round",
    ),
    (
        "JWT_KEY_UNKNOWN",
        "no key of the issuer has the token's kid and fits its algorithm: the issuer has dropped it, or the token is another issuer's",
    ),
    ("JWT_SIGNATURE_WRONG", "the signature is not by the key that the token names: it was altered or made up"),
    ("JWT_CLAIMS_MALFORMED", "the payload is no JSON object of members that stand once, or a date in it is none"),
    ("JWT_EXP_MISSING", "the token has no end (exp): tokens without one never count"),
    ("JWT_EXPIRED", "the token's end (exp) has passed: the client must fetch another, or the clocks are apart"),
    ("JWT_NOT_YET_VALID", "the token's beginning (nbf) is to come: the clocks are apart"),
    ("JWT_ISSUED_IN_FUTURE", "the token says that it was issued (iat) in time to come: the clocks are apart"),
    (
        ISSUER_LIES,
        "the issuer answers, but not with its keys: another name in its discovery document, a redirect, HTML; the server's log says what",
    ),
    (ISSUER_BUSY, "the issuer's keys are not known, and more logins wait for them than may: it is slow or away"),
];

/// The three parts of a token, as far as they can be looked at before its keys are known.
pub(super) struct Parts<'t> {
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: Option<String>,
    kind: Option<String>,
}

/// A token that is signed by one of `keys`, by an algorithm that is pinned, and of now. Whose it is and whom it is for is the
/// caller's to look at: [`Claims::issuer`], [`Claims::is_for`].
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>) -> Result<Verified, Refusal> {
    let parts = Parts::parse(token)?;
    if !rules.algorithms.has(parts.algorithm) {
        return Err(Refusal::AlgorithmOther);
    }
    let kind = parts.kind.as_deref().unwrap_or_default();
    if !rules.kinds.contains(&kind.strip_prefix("application/").unwrap_or(kind)) {
        return Err(Refusal::KindOther);
    }
    let message = parts.signed.as_bytes();
    let mut tried = false;
    let mut is_by = |key: &ParsedPublicKey| {
        tried = true;
        key.verify_sig(message, &parts.signature).is_ok()
    };
    if !keys.find(parts.key_id.as_deref(), parts.algorithm).any(&mut is_by) {
        return Err(if tried { Refusal::SignatureWrong } else { Refusal::KeyUnknown });
    }
    let payload = decoded(parts.payload)?;
    let claims = Claims::parse(&payload).ok_or(Refusal::ClaimsMalformed)?;
    let expires = check_dates(&claims, rules)?;
    Ok(Verified { claims, key_id: parts.key_id, algorithm: parts.algorithm, expires })
}

/// The id of the key that a token says it is signed by: to look for that key, and for nothing else.
pub fn key_id(token: &str) -> Result<Option<String>, Refusal> {
    Ok(Parts::parse(token)?.key_id)
}

fn check_dates(claims: &Claims, rules: &Rules<'_>) -> Result<Timestamp, Refusal> {
    let read = |date: Result<Option<Timestamp>, NoDate>| date.map_err(|NoDate| Refusal::ClaimsMalformed);
    let expires = read(claims.expires())?.ok_or(Refusal::EndMissing)?;
    let (begins, issued) = (read(claims.not_before())?, read(claims.issued())?);
    // RFC 7519 §4.1.4: on or after which
    if rules.now >= expires.plus(rules.leeway_after) {
        return Err(Refusal::Expired);
    }
    let soon = rules.now.plus(rules.leeway_before);
    if begins.is_some_and(|begins| begins > soon) {
        return Err(Refusal::NotYet);
    }
    if issued.is_some_and(|issued| issued > soon) {
        return Err(Refusal::IssuedInFuture);
    }
    Ok(expires)
}

impl<'t> Parts<'t> {
    fn parse(token: &'t str) -> Result<Self, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        if payload.contains('.') {
            return Err(Refusal::Malformed);
        }
        let header = decoded(header)?;
        serde_json::from_slice::<Strict>(&header).map_err(|_| Refusal::Malformed)?;
        let header: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| Refusal::Malformed)?;
        if FORBIDDEN.iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::HeaderForbidden);
        }
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= ID_BYTES_MAX => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::Malformed),
        };
        let algorithm = text("alg")?.ok_or(Refusal::Malformed)?;
        Ok(Self {
            signed,
            payload,
            signature: decoded(signature)?,
            algorithm: Algorithm::parse(&algorithm).ok_or(Refusal::AlgorithmOther)?,
            key_id: text("kid")?,
            kind: text("typ")?.map(|kind| kind.to_ascii_lowercase()),
        })
    }
}

/// RFC 7515 §2: without padding, white space, or bits that count for nothing.
fn decoded(part: &str) -> Result<Vec<u8>, Refusal> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

/// Of most issuers' tokens. An access token (`at+jwt`) or a logout token is none.
pub const PLAIN_KINDS: &[&str] = &["", "jwt"];
/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// RFC 7515 §4.1, RFC 7516 §4.1, RFC 7797 §3.
const FORBIDDEN: [&str; 8] = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip"];
