//! Authorities below others: requests for keys that are made here, their certificates, and certificates for others' requests.

use super::asked::{Told, span};
use super::authority::{Authority, Issuer, Waiting, changed, commit_of};
use super::issue::{CsrNames, read_request};
use super::role::SKEW_SECS;
use super::root::{CONSTRAINTS, Wanted, add, check_made, key_kind, new_key};
use super::text::{Der, REQUEST, base64, certificates, colons, pem};
use super::x509::{self, Above, Asks, Draft};
use super::{asked::Form, key, record, subject};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use serde::Serialize;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::request::{CertReqInfo, ExtensionReq, Version};

pub(super) async fn generate(scope: &Scope<'_>, kind: &str) -> Result<Reply, VaultError> {
    check_made(kind)?;
    let body = &scope.call.body;
    for field in CONSTRAINTS {
        if body.list(field)?.is_some_and(|names| !names.is_empty()) {
            return Err(VaultError::field(field, "not of a request: whoever signs it says so"));
        }
    }
    let (wanted, kind) = (Wanted::of(body)?, key_kind(body)?);
    let name = wanted.name()?;
    let (key, public_key) = new_key(scope, kind).await?;
    let spki = public_key.to_der().map_err(x509::unbuilt)?;
    let mut info = CertReqInfo { version: Version::V1, subject: name, public_key, attributes: Default::default() };
    if let Some(names) = wanted.asked.names.extension(false)? {
        let attribute = ExtensionReq(vec![names]).try_into().map_err(x509::unbuilt)?;
        info.attributes.insert(attribute).map_err(x509::unbuilt)?;
    }
    let request = x509::request(&Asks::of(scope)?, (key, kind), info).await?;
    let waiting = Waiting { key_id: key.to_string(), kind, public_key: Der(spki) };
    changed(scope, |authority| {
        if authority.waiting.len() >= WAITING_MAX {
            return Err(VaultError::Limited(format!("more than {WAITING_MAX} keys wait for certificates").into()));
        }
        authority.waiting.push(waiting.clone());
        Ok(())
    })
    .await?;
    let text = if wanted.asked.form == Form::Der { base64(&request) } else { pem(REQUEST, &request) };
    #[derive(Serialize)]
    struct Requested<'a> {
        csr: &'a str,
        key_id: &'a str,
    }
    Reply::data(&Requested { csr: &text, key_id: &waiting.key_id })
}

#[derive(Serialize)]
struct Imported<'a> {
    imported_issuers: [&'a str; 1],
    imported_keys: [&'a str; 0],
    mapping: std::collections::BTreeMap<&'a str, &'a str>,
}

/// The certificate of a key that waits for one, and those above it, which must have signed one another.
pub(super) async fn set_signed(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let bundle = scope.call.body.required("certificate")?;
    let mut bundle = certificates("certificate", &bundle, CHAIN_MAX)?;
    let parsed = bundle.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>();
    let parsed = parsed.map_err(|_| VaultError::field("certificate", "not a certificate"))?;
    let first = parsed.first().ok_or_else(|| VaultError::field("certificate", "missing"))?;
    let spki = first.tbs_certificate.subject_public_key_info.to_der().map_err(x509::unbuilt)?;
    let authority = Authority::load(&scope.view()?).await?.0;
    let waiting = authority.waiting.iter().find(|waiting| waiting.public_key.0 == spki);
    let waiting = waiting.ok_or_else(|| VaultError::field("certificate", "of no key that waits here"))?;
    check_authority(first)?;
    let not_after = x509::at(first.tbs_certificate.validity.not_after);
    if not_after <= scope.now() {
        return Err(VaultError::field("certificate", "it is over"));
    }
    for pair in parsed.windows(2) {
        if let [below, above] = pair {
            check_authority(above)?;
            check_signed(below, above)?;
        }
    }
    let issuer = Issuer {
        id: uuid(&scope.vault.barrier().random::<16>()?),
        name: scope.call.body.string("issuer_name")?.map(|name| name.to_string()).unwrap_or_default(),
        key_id: waiting.key_id.clone(),
        kind: waiting.kind,
        certificate: Der(bundle.remove(0)),
        chain: bundle.into_iter().map(Der).collect(),
        not_after: not_after.unix_millis(),
    };
    add(scope, issuer.clone(), None).await?;
    let mapping = [(issuer.id.as_str(), issuer.key_id.as_str())].into();
    Reply::data(&Imported { imported_issuers: [&issuer.id], imported_keys: [], mapping })
}

fn check_authority(certificate: &Certificate) -> Result<(), VaultError> {
    let limits = certificate.tbs_certificate.get::<BasicConstraints>().ok().flatten();
    let usage = certificate.tbs_certificate.get::<KeyUsage>().ok().flatten();
    let signs = usage.is_none_or(|(_, usage)| usage.key_cert_sign() && usage.crl_sign());
    if limits.is_some_and(|(_, limits)| limits.ca) && signs {
        return Ok(());
    }
    Err(VaultError::field("certificate", "not an authority's: it may not sign certificates and lists"))
}

fn check_signed(below: &Certificate, above: &Certificate) -> Result<(), VaultError> {
    let public_key = &above.tbs_certificate.subject_public_key_info;
    let signed = || {
        let kind = key::kind_of(public_key)?;
        let (message, spki) = (below.tbs_certificate.to_der().ok()?, public_key.to_der().ok()?);
        let signature = below.signature.raw_bytes();
        Some(key::is_signed(kind, below.signature_algorithm.oid, &spki, (&message, signature)))
    };
    if below.tbs_certificate.issuer == above.tbs_certificate.subject && signed() == Some(true) {
        return Ok(());
    }
    Err(VaultError::field("certificate", "a chain of which each is signed by the next is expected"))
}

/// `root/sign-intermediate`: certifies another authority's request.
pub(super) async fn sign(scope: &Scope<'_>, reference: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let (request, _) = read_request(body)?;
    let mut wanted = Wanted::of(body)?;
    let subject = if body.bool("use_csr_values")?.unwrap_or(false) {
        wanted.asked.names = CsrNames::of(&request)?.names;
        wanted.asked.names.common_name = subject::common_name(&request.info.subject).unwrap_or_default();
        wanted.asked.names.check()?;
        request.info.subject.clone()
    } else {
        wanted.name()?
    };
    let view = scope.view()?;
    let (authority, was) = Authority::read_at(&view).await?;
    let issuer = authority.issuer(reference)?;
    let certificate = issuer.parsed()?;
    let limits = certificate.tbs_certificate.get::<BasicConstraints>().ok().flatten();
    let path_length = match limits.and_then(|(_, limits)| limits.path_len_constraint) {
        Some(0) => return Err(VaultError::Invalid("the issuer's path length allows no authority below it".into())),
        Some(above) if wanted.path_length.is_some_and(|length| length >= above) => {
            return Err(VaultError::field("max_path_length", "as long as the issuer's, or longer"));
        }
        Some(above) => Some(wanted.path_length.unwrap_or(above - 1)),
        None => wanted.path_length,
    };
    let ends = envelope::Timestamp::from_unix_millis(issuer.not_after);
    let times = (wanted.asked.ttl, scope.mount.default_ttl(), scope.mount.max_ttl());
    let span = span(scope, times, SKEW_SECS, Some(ends))?;
    let above = Above::of(issuer)?;
    let public_key = request.info.public_key;
    let mut extensions = wanted.extensions(path_length, &public_key)?;
    extensions.push(above.key_extension()?);
    extensions.extend(authority.urls.extensions()?);
    let (serial, text) = x509::new_serial(scope.vault)?;
    let draft = Draft { serial, subject, public_key, validity: span.validity, extensions };
    let certificate = above.certify(&Asks::of(scope)?, draft).await?;
    let issued = record::of(issuer, &certificate, span.not_after.unix_millis());
    let batch = Authority::still(&view, scope.batch()?, was)?;
    let batch = record::add(&view, batch, &text, &issued)?;
    commit_of(scope, batch, &issuer.key_id, &record::told(&text, &issued)).await?;
    let expiration = span.not_after.unix_secs();
    let mut told = Told { expiration, serial_number: colons(&text), ..Told::default() };
    told.show(wanted.asked.form, &certificate, issuer.whole_chain(), None);
    // as Vault has it: the chain of what was signed, itself first
    told.ca_chain.insert(0, told.certificate.to_string());
    Ok(span.warning.into_iter().fold(Reply::data(&told)?, Reply::warning))
}

const CHAIN_MAX: usize = 8;
const WAITING_MAX: usize = 16;
