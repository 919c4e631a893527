//! What anybody may read: authorities' certificates, lists of what is revoked, certificates by their serial numbers.

use super::authority::{Authority, Issuer};
use super::crl;
use super::issuer::DEFAULT;
use super::record;
use super::text::{CERTIFICATE, LIST, certificate_pem, colons, pem, serial};
use super::x509::Asks;
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use envelope::Timestamp;
use identity::ChangeError;
use serde::Serialize;

#[derive(Serialize)]
struct Certificate {
    certificate: String,
    revocation_time: u64,
    revocation_time_rfc3339: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca_chain: Vec<String>,
}

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["ca"], Verb::Read) => certificate_of(scope, DEFAULT, "der").await,
        (["ca", "pem"], Verb::Read) => certificate_of(scope, DEFAULT, "pem").await,
        (["ca_chain"], Verb::Read) => Ok(bare(whole_chain(scope).await?.into_bytes(), PEM)),
        (["crl"], Verb::Read) => list_of(scope, DEFAULT, "der").await,
        (["crl", "pem"], Verb::Read) => list_of(scope, DEFAULT, "pem").await,
        (["crl", "rotate"], Verb::Read) => rotate(scope).await,
        (["cert", "ca"], Verb::Read) => {
            let authority = Authority::read(&scope.view()?).await?;
            told(certificate_pem(&authority.issuer(DEFAULT)?.certificate.0))
        }
        (["cert", "ca_chain"], Verb::Read) => told(whole_chain(scope).await?),
        (["cert", "crl"], Verb::Read) => list_of(scope, DEFAULT, "json").await,
        (["cert", number], Verb::Read) => one(scope, number).await,
        (["certs"], Verb::List) => {
            let all = record::serials(&scope.view()?, None).await?;
            Reply::keys(&all.iter().map(|serial| colons(serial)).collect::<Vec<_>>())
        }
        (["certs", "revoked"], Verb::List) => {
            let (view, mut all) = (scope.view()?, Vec::new());
            for issuer in &Authority::read(&view).await?.issuers {
                let revoked = record::serials(&view, Some(&issuer.id)).await?;
                all.extend(revoked.iter().map(|serial| colons(serial)));
            }
            Reply::keys(&all)
        }
        (["cert", ..] | ["certs", ..] | ["crl", ..] | ["ca", ..] | ["ca_chain", ..], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn told(certificate: String) -> Result<Reply, VaultError> {
    Reply::data(&Certificate {
        certificate,
        revocation_time: 0,
        revocation_time_rfc3339: String::new(),
        issuer_id: String::new(),
        ca_chain: Vec::new(),
    })
}

fn bare(body: Vec<u8>, media_type: &'static str) -> Reply {
    let mut text = Text::default();
    text.push(&body);
    Reply { bare: Some((200, text)), media_type, ..Reply::default() }
}

async fn whole_chain(scope: &Scope<'_>) -> Result<String, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    let all = authority.issuer(DEFAULT)?.whole_chain().map(certificate_pem);
    Ok(all.collect::<Vec<_>>().join("\n"))
}

pub(super) async fn certificate_of(scope: &Scope<'_>, reference: &str, form: &str) -> Result<Reply, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    let der = &authority.issuer(reference)?.certificate.0;
    Ok(match form {
        "pem" => bare(pem(CERTIFICATE, der).as_bytes().to_vec(), PEM),
        _ => bare(der.clone(), "application/pkix-cert"),
    })
}

pub(super) async fn list_of(scope: &Scope<'_>, reference: &str, form: &str) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let authority = Authority::read(&view).await?;
    let (list, _) = crl::load(&view, &authority.issuer(reference)?.id).await?.ok_or(VaultError::NotFound)?;
    #[derive(Serialize)]
    struct Crl<'a> {
        crl: &'a str,
        certificate: &'a str,
    }
    let text = pem(LIST, &list.der);
    match form {
        "der" => Ok(bare(list.der, "application/pkix-crl")),
        "pem" => Ok(bare(text.as_bytes().to_vec(), PEM)),
        _ => Reply::data(&Crl { crl: &text, certificate: &text }),
    }
}

async fn one(scope: &Scope<'_>, number: &str) -> Result<Reply, VaultError> {
    let serial = serial(number).ok_or(VaultError::NotFound)?;
    let view = scope.view()?;
    let (issued, _) = record::load(&view, &serial).await?.ok_or(VaultError::NotFound)?;
    let authority = Authority::read(&view).await?;
    let chain = |issuer: &Issuer| issuer.whole_chain().map(certificate_pem).collect();
    let revoked = Timestamp::from_unix_millis(issued.revoked_at);
    Reply::data(&Certificate {
        certificate: certificate_pem(&issued.certificate.0),
        revocation_time: revoked.unix_secs(),
        revocation_time_rfc3339: if issued.revoked_at == 0 { String::new() } else { rfc3339(revoked) },
        ca_chain: authority.issuer(&issued.issuer).map(chain).unwrap_or_default(),
        issuer_id: issued.issuer,
    })
}

/// New lists of all issuers, though nothing was revoked.
async fn rotate(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Rotated {
        success: bool,
    }
    let view = scope.view()?;
    let (authority, _) = Authority::load(&view).await?;
    for issuer in &authority.issuers {
        let asks = Asks::of(scope)?;
        let batch = crl::renew((&view, scope.batch()?), &asks, (&authority, issuer), None, scope.now()).await?;
        match super::authority::commit(scope, batch, &issuer.key_id).await {
            // somebody else has made a newer one
            Ok(()) | Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Reply::data(&Rotated { success: true })
}

const PEM: &str = "application/x-pem-file";
