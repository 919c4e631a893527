//! `revoke`: by serial number, or by the certificate itself.

use super::ATTEMPTS_MAX;
use super::authority::{Authority, Issuer, commit_of};
use super::record::{self, Issued, Revoked};
use super::text::{certificates, serial};
use super::x509::{self, Above, Asks};
use super::{crl, key};
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored::encode;
use crate::view::View;
use envelope::Timestamp;
use identity::ChangeError;
use serde::Serialize;
use storage::Revision;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

#[derive(Serialize)]
struct Told {
    revocation_time: u64,
    revocation_time_rfc3339: String,
    state: &'static str,
}

fn told(at: u64) -> Result<Reply, VaultError> {
    let at = Timestamp::from_unix_millis(at);
    let revocation_time_rfc3339 = rfc3339(at);
    Reply::data(&Told { revocation_time: at.unix_secs(), revocation_time_rfc3339, state: "revoked" })
}

/// What is to be revoked, as it is stored or would be.
struct Found {
    serial: String,
    issued: Issued,
    revision: Option<Revision>,
}

pub(super) async fn revoke(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    for _ in 0..ATTEMPTS_MAX {
        let (authority, was) = Authority::load(&view).await?;
        let Found { serial, mut issued, revision } = find(scope, &view, &authority).await?;
        if issued.revoked_at != 0 {
            return told(issued.revoked_at);
        }
        let issuer = authority.issuer(&issued.issuer).map_err(|_| VaultError::Invalid(NO_ISSUER.into()))?;
        if issuer.certificate == issued.certificate {
            return Err(VaultError::Invalid("adding issuer to its own CRL is not allowed".into()));
        }
        if issued.not_after <= scope.now().unix_millis() {
            return Ok(Reply::empty().warning("certificate has already expired; refusing to add to CRL"));
        }
        issued.revoked_at = scope.now().unix_millis();
        let path = record::path(&view, &serial)?;
        let batch = scope.batch()?;
        let batch = match revision {
            Some(revision) => view.put(batch.revision_is(path.clone(), revision), path, &encode(&issued)?)?,
            None => record::add(&view, batch, &serial, &issued)?,
        };
        // an issuer that is deleted meanwhile signs no list
        let batch = Authority::still(&view, batch, was)?;
        let on_list = record::revoked_path(&view, &issuer.id, &serial)?;
        let batch = view.put(batch, on_list, &encode(&Revoked { at: issued.revoked_at })?)?;
        let asks = Asks::of(scope)?;
        let of = (&authority, issuer);
        let batch = crl::renew((&view, batch), &asks, of, Some(&serial), scope.now()).await?;
        match commit_of(scope, batch, &issuer.key_id, &record::told(&serial, &issued)).await {
            Ok(()) => return told(issued.revoked_at),
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

async fn find(scope: &Scope<'_>, view: &View, authority: &Authority) -> Result<Found, VaultError> {
    let body = &scope.call.body;
    match (body.string("serial_number")?, body.string("certificate")?) {
        (Some(raw), None) => {
            let serial = serial(&raw).ok_or_else(|| VaultError::field("serial_number", "no serial number"))?;
            let found = record::load(view, &serial).await?;
            let (issued, revision) = found
                .ok_or_else(|| VaultError::Invalid(format!("certificate with serial {serial} not found").into()))?;
            Ok(Found { serial, issued, revision: Some(revision) })
        }
        (None, Some(bundle)) => {
            let der = certificates("certificate", &bundle, 1)?.remove(0);
            let wrong = || VaultError::field("certificate", "not one of this mount's");
            let certificate = Certificate::from_der(&der).map_err(|_| wrong())?;
            let serial = hex::encode(certificate.tbs_certificate.serial_number.as_bytes());
            if let Some((issued, revision)) = record::load(view, &serial).await? {
                let same = issued.certificate.0 == der;
                return same.then_some(Found { serial, issued, revision: Some(revision) }).ok_or_else(wrong);
            }
            // of a role that stores none
            let issuer = authority.issuers.iter().find(|issuer| signed(issuer, &certificate)).ok_or_else(wrong)?;
            let not_after = x509::at(certificate.tbs_certificate.validity.not_after).unix_millis();
            Ok(Found { serial, issued: record::of(issuer, &der, not_after), revision: None })
        }
        _ => Err(VaultError::Invalid("one of serial_number and certificate is expected".into())),
    }
}

fn signed(issuer: &Issuer, certificate: &Certificate) -> bool {
    let verified = || {
        let above = issuer.parsed().ok()?.tbs_certificate;
        let kind = key::kind_of(&above.subject_public_key_info)?;
        let spki = above.subject_public_key_info.to_der().ok()?;
        let message = certificate.tbs_certificate.to_der().ok()?;
        let signature = certificate.signature.raw_bytes();
        let signed = key::is_signed(kind, certificate.signature_algorithm.oid, &spki, (&message, signature));
        Some(signed && certificate.tbs_certificate.issuer == Above::of(issuer).ok()?.name)
    };
    verified() == Some(true)
}

const NO_ISSUER: &str = "the issuer of this certificate is gone, and with it its list";
