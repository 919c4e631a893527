//! `issuers`, `issuer/:ref`, `config/issuers`.

use super::ATTEMPTS_MAX;
use super::authority::{Authority, Issuer, changed, commit};
use super::crl;
use super::text::{certificate_pem, colons};
use super::x509::through;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::ChangeError;
use kms::KmsError;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Listed<'a> {
    keys: Vec<&'a str>,
    key_info: BTreeMap<&'a str, Info<'a>>,
}

#[derive(Serialize)]
struct Info<'a> {
    issuer_name: &'a str,
    is_default: bool,
    key_id: &'a str,
    serial_number: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    issuer_id: &'a str,
    issuer_name: &'a str,
    key_id: &'a str,
    certificate: String,
    ca_chain: Vec<String>,
    leaf_not_after_behavior: &'static str,
    usage: &'static str,
    revoked: bool,
}

#[derive(Serialize)]
struct Public<'a> {
    issuer_id: &'a str,
    issuer_name: &'a str,
    certificate: String,
    ca_chain: Vec<String>,
}

#[derive(Serialize)]
struct Settings<'a> {
    default: &'a str,
    default_follows_latest_issuer: bool,
}

fn chain(issuer: &Issuer) -> Vec<String> {
    issuer.whole_chain().map(certificate_pem).collect()
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    if authority.issuers.is_empty() {
        return Err(VaultError::NotFound);
    }
    let info = authority.issuers.iter().map(|issuer| {
        let serial = issuer.parsed()?.tbs_certificate.serial_number;
        let info = Info {
            issuer_name: &issuer.name,
            is_default: issuer.id == authority.default,
            key_id: &issuer.key_id,
            serial_number: colons(&hex::encode(serial.as_bytes())),
        };
        Ok((issuer.id.as_str(), info))
    });
    let key_info = info.collect::<Result<BTreeMap<_, _>, VaultError>>()?;
    Reply::data(&Listed { keys: key_info.keys().copied().collect(), key_info })
}

fn shown(issuer: &Issuer) -> Result<Reply, VaultError> {
    Reply::data(&Shown {
        issuer_id: &issuer.id,
        issuer_name: &issuer.name,
        key_id: &issuer.key_id,
        certificate: certificate_pem(&issuer.certificate.0),
        ca_chain: chain(issuer),
        leaf_not_after_behavior: "err",
        usage: "crl-signing,issuing-certificates,read-only",
        revoked: false,
    })
}

pub(super) async fn read(scope: &Scope<'_>, reference: &str) -> Result<Reply, VaultError> {
    shown(Authority::read(&scope.view()?).await?.issuer(reference)?)
}

/// To anybody.
pub(super) async fn tell(scope: &Scope<'_>, reference: &str) -> Result<Reply, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    let issuer = authority.issuer(reference)?;
    Reply::data(&Public {
        issuer_id: &issuer.id,
        issuer_name: &issuer.name,
        certificate: certificate_pem(&issuer.certificate.0),
        ca_chain: chain(issuer),
    })
}

pub(super) async fn rename(scope: &Scope<'_>, reference: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    match body.string("leaf_not_after_behavior")?.as_ref().map_or("err", |text| text.as_str()) {
        "err" => {}
        _ => return Err(VaultError::field("leaf_not_after_behavior", "err: nothing outlives its issuer")),
    }
    let name = body.string("issuer_name")?;
    let renamed = changed(scope, |authority| {
        let id = authority.issuer(reference)?.id.clone();
        if let Some(name) = name.as_ref().map(|name| name.as_str())
            && authority.issuer(reference)?.name != name
        {
            authority.check_new_name(name)?;
            for issuer in authority.issuers.iter_mut().filter(|issuer| issuer.id == id) {
                name.clone_into(&mut issuer.name);
            }
        }
        Ok(authority.issuer(&id)?.clone())
    });
    shown(&renamed.await?)
}

/// The issuer goes, and its key is scheduled for deletion. To delete what is not there succeeds.
pub(super) async fn delete(scope: &Scope<'_>, reference: &str) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut authority, was) = Authority::load(&view).await?;
        let Ok(issuer) = authority.issuer(reference).cloned() else { return Ok(Reply::empty()) };
        authority.issuers.retain(|other| other.id != issuer.id);
        if authority.default == issuer.id {
            authority.default.clear();
        }
        let scheduled = through(scope)?.schedule_deletion(issuer.key()?, WINDOW_DAYS).await;
        scope.was_recorded();
        match scheduled {
            Ok(_) | Err(KmsError::KeyPendingDeletion | KmsError::KeyDeleted) => {}
            Err(error) => return Err(error.into()),
        }
        let batch = crl::forget(&view, authority.put(&view, scope.batch()?, was)?, &issuer.id)?;
        match commit(scope, batch, &issuer.key_id).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|()| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

pub(super) async fn read_default(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    Reply::data(&Settings { default: &authority.default, default_follows_latest_issuer: false })
}

pub(super) async fn set_default(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    if body.bool("default_follows_latest_issuer")?.unwrap_or(false) {
        return Err(VaultError::field("default_follows_latest_issuer", "not supported: it is set by name"));
    }
    let reference = body.required("default")?;
    let default = changed(scope, |authority| {
        authority.default = authority.issuer(&reference)?.id.clone();
        Ok(authority.default.clone())
    });
    Reply::data(&Settings { default: &default.await?, default_follows_latest_issuer: false })
}

/// As which the default one is named.
pub(super) const DEFAULT: &str = "default";
/// The shortest that the key domain has.
const WINDOW_DAYS: u32 = 7;
