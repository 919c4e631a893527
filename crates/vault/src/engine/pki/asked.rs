//! What a request asks for: names, how long, and in which form it is told.

use super::names::Names;
use super::text::{CERTIFICATE, PRIVATE_KEY, base64, certificate_pem, expose, pem};
use super::x509::{at, time};
use crate::body::Body;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::scope::Scope;
use envelope::Timestamp;
use serde::Serialize;
use std::time::Duration;
use x509_cert::time::Validity;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Pem,
    Der,
    /// The key, the certificate, and those above it, in one text.
    Bundle,
}

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) names: Names,
    pub(super) ttl: Option<Duration>,
    pub(super) form: Form,
    pub(super) exclude_common_name: bool,
}

impl Asked {
    pub(super) fn of(body: &Body) -> Result<Self, VaultError> {
        for field in REFUSED {
            let told = body.raw(field).map(|raw| raw.trim_matches('"'));
            if told.is_some_and(|told| !matches!(told, "" | "false" | "[]" | "0" | "256")) {
                return Err(VaultError::field(field, "not supported"));
            }
        }
        let form = match body.string("format")?.as_ref().map_or("", |text| text.as_str()) {
            "" | "pem" => Form::Pem,
            "der" => Form::Der,
            "pem_bundle" => Form::Bundle,
            _ => return Err(VaultError::field("format", "pem, der or pem_bundle")),
        };
        match body.string("private_key_format")?.as_ref().map_or("", |text| text.as_str()) {
            "" | "der" | "pem" | "pkcs8" => {}
            _ => return Err(VaultError::field("private_key_format", "der, pem or pkcs8")),
        }
        let mut names = Names::default();
        if let Some(name) = body.string("common_name")? {
            name.trim().clone_into(&mut names.common_name);
        }
        for name in body.list("alt_names")?.unwrap_or_default() {
            names.add(&name);
        }
        for uri in body.list("uri_sans")?.unwrap_or_default() {
            names.add_uri(&uri);
        }
        for ip in body.list("ip_sans")?.unwrap_or_default() {
            names.add_ip(&ip)?;
        }
        let exclude_common_name = body.bool("exclude_cn_from_sans")?.unwrap_or(false);
        Ok(Self { names, ttl: body.duration("ttl")?, form, exclude_common_name })
    }

    /// The common name stands among the others, too: what verifies certificates looks only there (RFC 9525 §2).
    pub(super) fn complete(&mut self) {
        let name = self.names.common_name.clone();
        if !name.is_empty() && !self.exclude_common_name && !name.contains(' ') && name.is_ascii() {
            self.names.add(&name);
        }
    }
}

/// From when to when.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) validity: Validity,
    pub(super) not_after: Timestamp,
    pub(super) warning: Option<String>,
}

/// As long as it is asked, or as `default` says; at most `most`; never beyond its issuer's end.
pub(super) fn span(
    scope: &Scope<'_>,
    (asked, default, most): (Option<Duration>, Duration, Duration),
    skew_secs: u64,
    ends: Option<Timestamp>,
) -> Result<Span, VaultError> {
    let wanted = asked.unwrap_or(default);
    let ttl = wanted.min(most);
    let warning = (asked.is_some() && wanted > most).then(|| {
        let (wanted, most) = (wanted.as_secs(), most.as_secs());
        format!("TTL \"{wanted}s\" is longer than permitted maxTTL \"{most}s\", so maxTTL is being used")
    });
    let now = scope.now();
    let not_after = at(time(now.plus(ttl))?);
    if let Some(ends) = ends.filter(|ends| not_after > *ends) {
        let (not_after, ends) = (rfc3339(not_after), rfc3339(ends));
        let why = format!(
            "cannot satisfy request, as TTL would result in notAfter of {not_after} that is beyond the expiration of the CA certificate at {ends}"
        );
        return Err(VaultError::Invalid(why.into()));
    }
    let from = Timestamp::from_unix_millis(now.unix_millis().saturating_sub(skew_secs.saturating_mul(1000)));
    let validity = Validity { not_before: time(from)?, not_after: time(not_after)? };
    Ok(Span { validity, not_after, warning })
}

/// What `issue` and its kin answer.
#[derive(Serialize, Default)]
pub(super) struct Told {
    /// With its key, in a bundle.
    #[serde(serialize_with = "expose", skip_serializing_if = "is_empty")]
    pub(super) certificate: Zeroizing<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) csr: String,
    pub(super) expiration: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) issuing_ca: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ca_chain: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) serial_number: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) issuer_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) issuer_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) key_id: String,
    #[serde(serialize_with = "expose", skip_serializing_if = "is_empty")]
    pub(super) private_key: Zeroizing<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) private_key_type: &'static str,
}

fn is_empty(text: &Zeroizing<String>) -> bool {
    text.is_empty()
}

impl Told {
    /// The certificate and those above it, nearest first; the key, where it was made for this.
    pub(super) fn show<'c>(
        &mut self,
        form: Form,
        certificate: &'c [u8],
        above: impl Iterator<Item = &'c [u8]> + Clone,
        private: Option<&[u8]>,
    ) {
        let text = |der: &[u8]| if form == Form::Der { base64(der).to_string() } else { certificate_pem(der) };
        self.issuing_ca = above.clone().next().map(text).unwrap_or_default();
        self.ca_chain = above.clone().map(text).collect();
        self.certificate = Zeroizing::new(text(certificate));
        if let Some(private) = private {
            self.private_key = if form == Form::Der { base64(private) } else { pem(PRIVATE_KEY, private) };
        }
        if form == Form::Bundle {
            let key = private.map(|private| pem(PRIVATE_KEY, private));
            let rest = std::iter::once(certificate).chain(above).map(|der| pem(CERTIFICATE, der));
            let parts: Vec<_> = key.into_iter().chain(rest).collect();
            // a text that grew would leave its key behind
            let bytes = parts.iter().map(|part| part.len() + 1).sum();
            let mut all = Zeroizing::new(String::with_capacity(bytes));
            for part in &parts {
                if !all.is_empty() {
                    all.push('\n');
                }
                all.push_str(part);
            }
            self.certificate = all;
        }
    }
}

const REFUSED: [&str; 11] = [
    "other_sans",
    "user_ids",
    "not_after",
    "not_before",
    "serial_number",
    "signature_bits",
    "use_pss",
    "permitted_email_addresses",
    "excluded_email_addresses",
    "permitted_uri_domains",
    "excluded_uri_domains",
];
