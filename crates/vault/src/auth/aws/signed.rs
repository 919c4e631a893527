//! What a caller signed, and the request that is made of it.
//!
//! Always: the request to the security token service is written here, from constants, the mount's configuration and fields
//! of a strict alphabet. If the caller signed anything else, the service says that the signature does not match.
//! Never: a method, path, body, host or header of a caller's in it (CVE-2020-16250): what Vault's clients send of these is
//! compared with what would be written, and refused where it differs.

use super::endpoint;
use super::refusal::*;
use crate::body::Body;
use crate::error::VaultError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::Timestamp;
use serde::Deserialize as _;
use serde::de::{self, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use time::{Date, Month, PrimitiveDateTime, Time};
use zeroize::Zeroizing;

/// All of the body that is ever sent.
pub(super) const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const BODY_SHA256: &str = "ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843";
const CONTENT_TYPES: [&str; 2] =
    ["application/x-www-form-urlencoded; charset=utf-8", "application/x-www-form-urlencoded"];
const SERVICE: &str = "sts";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// In Vault's form, and in our own.
pub(super) const VAULT_SERVER_ID: &str = "x-vault-aws-iam-server-id";
pub(super) const SERVER_ID: &str = "x-strongroom-server-id";
pub(super) const NONCE: &str = "x-strongroom-nonce";
pub(super) const CERTIFICATE: &str = "x-strongroom-certificate";

/// What the mount says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) server_id: &'a str,
    /// Host of the configured endpoint, where there is one.
    pub(super) endpoint_host: Option<&'a str>,
    /// The only one that counts, where it is configured.
    pub(super) region: Option<&'a str>,
}

/// A signed request, of which nothing but alphabets of its own is the caller's.
pub(super) struct Signed {
    pub(super) form: Form,
    pub(super) host: String,
    /// Of the region; unknown where the mount names a region that is not in the table.
    pub(super) partition: Option<&'static str>,
    pub(super) access_key_id: String,
    pub(super) date: Timestamp,
    pub(super) signature: String,
    /// As it goes out. Without the host.
    pub(super) headers: Vec<(&'static str, Zeroizing<String>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Vaults,
    Own { nonce: String, certificate: Option<[u8; 32]> },
}

/// What of a signature is the signer's to choose.
struct Claims {
    access_key_id: String,
    amz_date: String,
    region: String,
    security_token: Option<Zeroizing<String>>,
    signature: String,
}

pub(super) fn parse(body: &Body, rules: Rules<'_>) -> Result<Signed, VaultError> {
    if body.has("signature") { own(body, rules) } else { vaults(body, rules) }
}

/// Our own form: fields, and no request at all.
fn own(body: &Body, rules: Rules<'_>) -> Result<Signed, VaultError> {
    let text = |name| Ok::<_, VaultError>(body.required(name)?.to_string());
    let claims = Claims {
        access_key_id: text("access_key_id")?,
        amz_date: text("amz_date")?,
        region: text("region")?,
        security_token: body.string("security_token")?.filter(|token| !token.is_empty()),
        signature: text("signature")?,
    };
    let nonce = text("nonce")?;
    if nonce.len() > NONCE_BYTES_MAX || !nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused(NONCE_UNKNOWN));
    }
    let mut signed = vec![
        (NONCE, Zeroizing::new(nonce.clone())),
        (SERVER_ID, Zeroizing::new(rules.server_id.to_owned())),
        ("content-type", Zeroizing::new(CONTENT_TYPES[0].to_owned())),
    ];
    let certificate = match body.string("certificate")? {
        None => None,
        Some(print) => {
            let mut thumbprint = [0; 32];
            hex::decode_to_slice(print.as_bytes(), &mut thumbprint).map_err(|_| refused(MALFORMED))?;
            signed.push((CERTIFICATE, Zeroizing::new(hex::encode(thumbprint))));
            Some(thumbprint)
        }
    };
    let hosts = hosts(rules, &claims.region)?;
    let host = hosts.into_iter().next().ok_or_else(|| refused(REGION_OTHER))?;
    written(rules, Form::Own { nonce, certificate }, host, claims, signed)
}

/// Vault's form: a request in base64, of which each part must be what we would write.
fn vaults(body: &Body, rules: Rules<'_>) -> Result<Signed, VaultError> {
    if body.required("iam_http_request_method")?.as_str() != "POST" {
        return Err(refused(METHOD_OTHER));
    }
    if decoded(body, "iam_request_body", 1024)?.as_str() != BODY {
        return Err(refused(BODY_OTHER));
    }
    let headers = headers(body)?;
    let header = |name: &str| headers.get(name).map(|value| value.as_str());
    let (claims, names) = authorization(&headers)?;
    let url = decoded(body, "iam_request_url", 1024)?;
    let in_url = authority(&url).ok_or_else(|| refused(URL_OTHER))?;
    // clients whose transport writes it do not tell it here
    let host = header("host").unwrap_or(in_url);
    if !hosts(rules, &claims.region)?.iter().any(|ours| ours == host) {
        return Err(refused(HOST_OTHER));
    }
    if in_url != host {
        return Err(refused(URL_OTHER));
    }
    let is_signed = |name: &str| names.iter().any(|signed| signed == name);
    if !is_signed(VAULT_SERVER_ID) {
        let missing = header(VAULT_SERVER_ID).is_none();
        return Err(refused(if missing { SERVER_ID_MISSING } else { SERVER_ID_UNSIGNED }));
    }
    if !is_signed("host") || !is_signed("x-amz-date") {
        return Err(refused(HEADERS_UNSIGNED));
    }
    if header(VAULT_SERVER_ID) != Some(rules.server_id) {
        return Err(refused(SERVER_ID_OTHER));
    }
    let content_type = match header("content-type") {
        None => CONTENT_TYPES[0],
        Some(stated) => {
            CONTENT_TYPES.into_iter().find(|known| *known == stated).ok_or_else(|| refused(HEADERS_OTHER))?
        }
    };
    let mut signed = vec![
        (VAULT_SERVER_ID, Zeroizing::new(rules.server_id.to_owned())),
        ("content-type", Zeroizing::new(content_type.to_owned())),
    ];
    let length = BODY.len().to_string();
    for name in &names {
        match (name.as_str(), header(name)) {
            ("host", _) | ("x-amz-date" | "content-type" | VAULT_SERVER_ID, Some(_)) => {}
            ("x-amz-security-token", Some(_)) => {}
            // the transport writes it
            ("content-length", Some(stated)) if stated == length => {}
            ("x-amz-content-sha256", Some(BODY_SHA256)) => {
                signed.push(("x-amz-content-sha256", Zeroizing::new(BODY_SHA256.to_owned())));
            }
            _ => return Err(refused(HEADERS_OTHER)),
        }
    }
    if claims.security_token.is_some() != names.iter().any(|name| name == "x-amz-security-token") {
        return Err(refused(HEADERS_UNSIGNED));
    }
    written_with(rules, Form::Vaults, host.to_owned(), claims, signed, &names)
}

/// The host of `https://HOST/`, behind which nothing stands: no path, no query, no user.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    (!host.is_empty() && !host.contains(['/', '?', '#', '@', '\\'])).then_some(host)
}

/// Signed over all that is written.
fn written(
    rules: Rules<'_>,
    form: Form,
    host: String,
    claims: Claims,
    signed: Vec<(&'static str, Zeroizing<String>)>,
) -> Result<Signed, VaultError> {
    let mut names: Vec<String> = signed.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend(["host", "x-amz-date"].map(str::to_owned));
    if claims.security_token.is_some() {
        names.push("x-amz-security-token".to_owned());
    }
    names.sort_unstable();
    written_with(rules, form, host, claims, signed, &names)
}

fn written_with(
    rules: Rules<'_>,
    form: Form,
    host: String,
    claims: Claims,
    signed: Vec<(&'static str, Zeroizing<String>)>,
    names: &[String],
) -> Result<Signed, VaultError> {
    let Claims { access_key_id, amz_date, region, security_token, signature } = claims;
    let upper = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9');
    let lower = |byte: u8| matches!(byte, b'a'..=b'f' | b'0'..=b'9');
    let sound = (16..=128).contains(&access_key_id.len())
        && access_key_id.bytes().all(upper)
        && signature.len() == 64
        && signature.bytes().all(lower)
        && security_token.as_ref().is_none_or(|token| is_security_token(token));
    if !sound {
        return Err(refused(MALFORMED));
    }
    let date = parse_date(&amz_date).ok_or_else(|| refused(MALFORMED))?;
    let day = amz_date.get(..8).unwrap_or_default();
    let partition = endpoint::region(&region).map(|region| region.partition);
    if rules.endpoint_host.is_none() && partition.is_none() {
        return Err(refused(REGION_OTHER));
    }
    let authorization = format!(
        "{ALGORITHM} Credential={access_key_id}/{day}/{region}/{SERVICE}/aws4_request, SignedHeaders={}, Signature={signature}",
        names.join(";")
    );
    let mut headers = signed;
    headers.push(("x-amz-date", Zeroizing::new(amz_date)));
    headers.extend(security_token.map(|token| ("x-amz-security-token", token)));
    headers.push(("authorization", Zeroizing::new(authorization)));
    headers.push(("accept", Zeroizing::new("application/json".to_owned())));
    Ok(Signed { form, host, partition, access_key_id, date, signature, headers })
}

/// Which hosts may be signed for this region, the one that is ours to choose first.
fn hosts(rules: Rules<'_>, region: &str) -> Result<Vec<String>, VaultError> {
    if rules.region.is_some_and(|only| only != region) || !is_region(region) {
        return Err(refused(REGION_OTHER));
    }
    match (rules.endpoint_host, endpoint::region(region)) {
        (None, Some(region)) => Ok(region.hosts()),
        (Some(host), Some(region)) if region.is_service(host) => Ok([vec![host.to_owned()], region.hosts()].concat()),
        // who stands elsewhere is shown nothing that would count at the service, and so at another mount
        (Some(host), Some(_)) => Ok(vec![host.to_owned()]),
        (Some(host), None) if rules.region.is_some() => Ok(vec![host.to_owned()]),
        (_, None) => Err(refused(REGION_OTHER)),
    }
}

pub(super) fn is_region(raw: &str) -> bool {
    (4..=32).contains(&raw.len()) && raw.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`, with each once and nothing else.
fn authorization(headers: &Headers) -> Result<(Claims, Vec<String>), VaultError> {
    let malformed = || refused(AUTHORIZATION_MALFORMED);
    let authorization = headers.get("authorization").ok_or_else(malformed)?;
    let rest = authorization.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(malformed)?;
    let parts: Vec<&str> = rest.split(',').map(str::trim).collect();
    let [credential, names, signature] = parts.as_slice() else { return Err(malformed()) };
    let scope = credential.strip_prefix("Credential=").ok_or_else(malformed)?;
    let names = names.strip_prefix("SignedHeaders=").ok_or_else(malformed)?;
    let signature = signature.strip_prefix("Signature=").ok_or_else(malformed)?;
    let scope: Vec<&str> = scope.split('/').collect();
    let [access_key_id, day, region, SERVICE, "aws4_request"] = scope.as_slice() else { return Err(malformed()) };
    let amz_date = headers.get("x-amz-date").ok_or_else(malformed)?.to_string();
    if amz_date.get(..8) != Some(*day) {
        return Err(refused(DATE_OTHER));
    }
    let names: Vec<String> = names.split(';').map(str::to_owned).collect();
    // sorted, each once, as the signature has them
    if !names.windows(2).all(|pair| matches!(pair, [a, b] if a < b)) || names.len() > HEADERS_MAX {
        return Err(malformed());
    }
    let claims = Claims {
        access_key_id: (*access_key_id).to_owned(),
        amz_date,
        region: (*region).to_owned(),
        security_token: headers.get("x-amz-security-token").map(|token| Zeroizing::new(token.to_string())),
        signature: (*signature).to_owned(),
    };
    Ok((claims, names))
}

/// By their names in lower case.
type Headers = BTreeMap<String, Zeroizing<String>>;

/// `iam_request_headers`: an object, or the same in base64; each value a text, or a list of one.
fn headers(body: &Body) -> Result<Headers, VaultError> {
    let text = match body.raw("iam_request_headers") {
        Some(raw) if raw.starts_with('{') => Zeroizing::new(raw.to_owned()),
        Some(_) => decoded(body, "iam_request_headers", HEADERS_BYTES_MAX)?,
        None => return Err(VaultError::field("iam_request_headers", "missing")),
    };
    if text.len() > HEADERS_BYTES_MAX {
        return Err(refused(HEADERS_OTHER));
    }
    let mut read = serde_json::Deserializer::from_str(&text);
    let Listed(headers) = Listed::deserialize(&mut read).map_err(|_| refused(HEADERS_OTHER))?;
    read.end().map_err(|_| refused(HEADERS_OTHER))?;
    Ok(headers)
}

struct Listed(Headers);

impl<'de> de::Deserialize<'de> for Listed {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListedVisitor)
    }
}

struct ListedVisitor;

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Zeroizing<String>),
    Many([Zeroizing<String>; 1]),
}

impl<'de> Visitor<'de> for ListedVisitor {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut headers = Headers::new();
        while let Some((name, value)) = map.next_entry::<String, OneOrMany>()? {
            let (OneOrMany::One(value) | OneOrMany::Many([value])) = value;
            let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            let sound = (1..=64).contains(&name.len())
                && name.bytes().all(token)
                && value.len() <= HEADER_BYTES_MAX
                && value.bytes().all(visible)
                && value.trim() == value.as_str();
            let name = name.to_ascii_lowercase();
            if !sound || headers.len() >= HEADERS_MAX || headers.insert(name, value).is_some() {
                return Err(de::Error::custom("no header, one that stands twice, or too many"));
            }
        }
        Ok(Listed(headers))
    }
}

/// A field of base64, as text.
fn decoded(body: &Body, name: &'static str, most: usize) -> Result<Zeroizing<String>, VaultError> {
    let text = body.required(name)?;
    if text.len() > most.saturating_mul(2) {
        return Err(VaultError::field(name, "too long"));
    }
    let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| VaultError::field(name, "no base64"))?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|_| VaultError::field(name, "no text"))
}

/// `20261128T131500Z`.
fn parse_date(raw: &str) -> Option<Timestamp> {
    let digits = |at: std::ops::Range<usize>| {
        let text = raw.get(at)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?
    };
    let small = |at| u8::try_from(digits(at)?).ok();
    if raw.len() != 16 || raw.get(8..9) != Some("T") || raw.get(15..) != Some("Z") {
        return None;
    }
    let month = Month::try_from(small(4..6)?).ok()?;
    let date = Date::from_calendar_date(i32::from(digits(0..4)?), month, small(6..8)?).ok()?;
    let time = Time::from_hms(small(9..11)?, small(11..13)?, small(13..15)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    Some(Timestamp::from_unix_millis(u64::try_from(seconds).ok()?.checked_mul(1000)?))
}

fn is_security_token(raw: &str) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'.' | b':');
    (1..=HEADER_BYTES_MAX).contains(&raw.len()) && raw.bytes().all(legal)
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("host", &self.host)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

const NONCE_BYTES_MAX: usize = 256;
const HEADERS_MAX: usize = 32;
const HEADERS_BYTES_MAX: usize = 32 << 10;
const HEADER_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests;
