//! What a role says of OCSP responders, and asking them.
//!
//! Always: each login asks anew; where nobody answers, nobody logs in.

use super::login::refused;
use crate::auth::x509::ocsp::{Link, NO_SERVER, REFUSES, Terms, UNREADABLE};
use crate::body::Body;
use crate::error::VaultError;
use crate::outside::{Ask, Method, OutsideError, is_sound_answerer};
use crate::scope::Scope;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use webpki::EndEntityCert;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

/// As stored and shown; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ocsp {
    #[serde(rename = "ocsp_enabled")]
    enabled: bool,
    /// PEM of responders, or of authorities of theirs, that count beside the issuer.
    #[serde(rename = "ocsp_ca_certificates")]
    ca_certificates: String,
    /// Asked instead of those that the certificate names.
    #[serde(rename = "ocsp_servers_override")]
    servers_override: Vec<String>,
    #[serde(rename = "ocsp_query_all_servers")]
    query_all_servers: bool,
    /// Seconds; none: for as long as the answer says itself.
    #[serde(rename = "ocsp_this_update_max_age")]
    this_update_max_age: u64,
}

impl Ocsp {
    pub(super) fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        if let Some(enabled) = body.bool("ocsp_enabled")? {
            self.enabled = enabled;
        }
        if let Some(pem) = body.string("ocsp_ca_certificates")? {
            responders(&pem)?;
            pem.as_str().clone_into(&mut self.ca_certificates);
        }
        if let Some(servers) = body.list("ocsp_servers_override")? {
            if servers.len() > SERVERS_MAX || !servers.iter().all(|url| is_sound_answerer(url)) {
                let why = format!("at most {SERVERS_MAX} URLs, https:// or http://");
                return Err(VaultError::field("ocsp_servers_override", why));
            }
            self.servers_override = servers;
        }
        if let Some(all) = body.bool("ocsp_query_all_servers")? {
            self.query_all_servers = all;
        }
        if let Some(age) = body.duration("ocsp_this_update_max_age")? {
            self.this_update_max_age = age.as_secs();
        }
        Ok(())
    }

    /// Nothing, where it is told to be good. A responder that cannot be asked leaves it to the next one.
    pub(super) async fn check(&self, scope: &Scope<'_>, link: &Link) -> Result<(), VaultError> {
        if !self.enabled {
            return Ok(());
        }
        let servers = match self.servers_override.is_empty() {
            true => link.servers().map_err(refused)?,
            false => self.servers_override.clone(),
        };
        let can_be_asked = |url: &String| is_sound_answerer(url) && scope.vault.may_ask(url);
        let servers: Vec<_> = servers.into_iter().filter(can_be_asked).take(SERVERS_MAX).collect();
        let responders = responders(&self.ca_certificates)?;
        let terms = Terms { responders: &responders, age_max: Duration::from_secs(self.this_update_max_age) };
        let mut outcome = Err(refused(NO_SERVER));
        for url in servers {
            outcome = told(scope, link, url, terms).await;
            // all must agree, or the first that tells is believed
            let is_enough = match self.query_all_servers {
                true => outcome.is_err(),
                false => !matches!(outcome, Err(VaultError::Unavailable(_))),
            };
            if is_enough {
                break;
            }
        }
        outcome
    }
}

async fn told(scope: &Scope<'_>, link: &Link, url: String, terms: Terms<'_>) -> Result<(), VaultError> {
    let question = link.question(scope.vault.barrier().random()?).map_err(refused)?;
    let server = format!("{}/{url}", scope.mount.id);
    let header = |name, value: &str| (name, Zeroizing::new(value.to_owned()));
    let ask = Ask {
        method: Method::Post,
        url,
        headers: vec![
            header("content-type", "application/ocsp-request"),
            header("accept", "application/ocsp-response"),
        ],
        body: Zeroizing::new(question.der().to_vec()),
        ca: None,
        answer_is_signed: true,
        answer_bytes_max: ANSWER_BYTES_MAX,
        within: ANSWERED_WITHIN,
    };
    let told = scope.vault.outside().ask(&server, ask).await.inspect_err(|error| {
        if let OutsideError::Refused(why) = error {
            tracing::warn!(why, server, "an OCSP responder cannot be asked");
        }
    })?;
    match told.status {
        200 => link.judge(&question, &told.body, terms, scope.now()).map_err(refused),
        500.. => Err(VaultError::from(OutsideError::Unreachable(format!("OCSP: answered {}", told.status)))),
        400..500 => Err(refused(REFUSES)),
        _ => Err(refused(UNREADABLE)),
    }
}

/// DER of all certificates of a bundle.
fn responders(pem: &str) -> Result<Vec<Vec<u8>>, VaultError> {
    let wrong = |why: String| VaultError::field("ocsp_ca_certificates", why);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| wrong("malformed PEM".to_owned()))?;
    let is_read = |der: &CertificateDer<'_>| Certificate::from_der(der).is_ok() && EndEntityCert::try_from(der).is_ok();
    let is_said = found.is_empty() == pem.trim().is_empty();
    if !is_said || found.len() > RESPONDERS_MAX || !found.iter().all(is_read) {
        return Err(wrong(format!("at most {RESPONDERS_MAX} certificates in PEM are expected")));
    }
    Ok(found.into_iter().map(|der| der.as_ref().to_vec()).collect())
}

const SERVERS_MAX: usize = 4;
const RESPONDERS_MAX: usize = 8;
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
