//! `root/generate/internal`: an authority that certifies itself.

use super::asked::{Asked, Told, span};
use super::authority::{Authority, Issuer, KeyKind, commit_of};
use super::config::Urls;
use super::role::SKEW_SECS;
use super::subject::Parts;
use super::text::{Der, colons};
use super::x509::{self, Above, Asks, Draft, extension, through};
use super::{ATTEMPTS_MAX, crl, record};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::uuid::uuid;
use identity::ChangeError;
use kms::{CreateKey, Description, KeyId};
use x509_cert::der::asn1::{Ia5String, OctetString};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, NameConstraints};
use x509_cert::name::Name;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// What is asked for an authority.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) asked: Asked,
    pub(super) subject: Parts,
    pub(super) path_length: Option<u8>,
    pub(super) constraints: Option<NameConstraints>,
}

impl Wanted {
    pub(super) fn of(body: &Body) -> Result<Self, VaultError> {
        let mut subject = Parts::default();
        subject.update(body)?;
        let path_length = match body.int("max_path_length")? {
            None | Some(-1) => None,
            Some(length) => {
                let length = u8::try_from(length).ok().filter(|length| *length <= PATH_LENGTH_MAX);
                Some(length.ok_or_else(|| VaultError::field("max_path_length", "-1, or 0 to 16"))?)
            }
        };
        let mut asked = Asked::of(body)?;
        asked.complete();
        asked.names.check()?;
        Ok(Self { asked, subject, path_length, constraints: constraints(body)? })
    }

    pub(super) fn name(&self) -> Result<Name, VaultError> {
        if self.asked.names.common_name.is_empty() {
            return Err(VaultError::field("common_name", "missing"));
        }
        self.subject.name(&self.asked.names.common_name)
    }

    /// RFC 5280 §4.2.1.3, §4.2.1.9 and §4.2.1.10, of an authority.
    pub(super) fn extensions(
        &self,
        path_length: Option<u8>,
        key: &SubjectPublicKeyInfoOwned,
    ) -> Result<Vec<Extension>, VaultError> {
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let limits = BasicConstraints { ca: true, path_len_constraint: path_length };
        let mut all = vec![extension(true, &usage)?, extension(true, &limits)?, x509::key_extension(key)?];
        if let Some(constraints) = &self.constraints {
            all.push(extension(true, constraints)?);
        }
        all.extend(self.asked.names.extension(false)?);
        Ok(all)
    }
}

/// Below which names an authority may certify, and below which it may not.
fn constraints(body: &Body) -> Result<Option<NameConstraints>, VaultError> {
    let below = |names: &'static str, ranges: &'static str| {
        let mut all = Vec::new();
        for name in body.list(names)?.unwrap_or_default() {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
            let name = Ia5String::new(&name).ok().filter(|_| plain && !name.is_empty() && name.len() <= 253);
            all.push(GeneralName::DnsName(name.ok_or_else(|| VaultError::field(names, "no DNS name"))?));
        }
        for range in body.list(ranges)?.unwrap_or_default() {
            all.push(GeneralName::IpAddress(
                address_range(&range)
                    .ok_or_else(|| VaultError::field(ranges, "no address range such as 10.0.0.0/8"))?,
            ));
        }
        let subtrees = all.into_iter().map(|base| GeneralSubtree { base, minimum: 0, maximum: None });
        let subtrees: Vec<_> = subtrees.collect();
        Ok::<_, VaultError>((!subtrees.is_empty()).then_some(subtrees))
    };
    let [permitted_names, permitted_ranges, excluded_names, excluded_ranges] = CONSTRAINTS;
    let permitted_subtrees = below(permitted_names, permitted_ranges)?;
    let excluded_subtrees = below(excluded_names, excluded_ranges)?;
    let some = permitted_subtrees.is_some() || excluded_subtrees.is_some();
    Ok(some.then_some(NameConstraints { permitted_subtrees, excluded_subtrees }))
}

/// An address and its mask, one after the other.
fn address_range(text: &str) -> Option<OctetString> {
    let (ip, length) = text.split_once('/')?;
    let (ip, length): (std::net::IpAddr, u32) = (ip.parse().ok()?, length.parse().ok()?);
    let bytes = match ip {
        std::net::IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(length)?).unwrap_or(0);
            [(u32::from(ip) & mask).to_be_bytes(), mask.to_be_bytes()].concat()
        }
        std::net::IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(length)?).unwrap_or(0);
            [(u128::from(ip) & mask).to_be_bytes(), mask.to_be_bytes()].concat()
        }
    };
    OctetString::new(bytes).ok()
}

/// Only in the boundary.
pub(super) fn check_made(kind: &str) -> Result<(), VaultError> {
    match kind {
        "internal" => Ok(()),
        "exported" => Err(VaultError::Invalid("exported: an authority's key never leaves the boundary".into())),
        _ => Err(VaultError::Invalid("an authority's key is made inside the boundary: internal".into())),
    }
}

/// A key of the key domain for an authority of this mount, made in the caller's name.
pub(super) async fn new_key(
    scope: &Scope<'_>,
    kind: KeyKind,
) -> Result<(KeyId, SubjectPublicKeyInfoOwned), VaultError> {
    let description = Description::parse(&format!("pki {}", scope.mount_path));
    let command = CreateKey {
        spec: kind.spec(),
        usage: None,
        level: None,
        description: description.map_err(|_| VaultError::field("path", "too long"))?,
        client_request_id: None,
    };
    let made = through(scope)?.create_key(command).await;
    scope.was_recorded();
    let id = made?.key_id;
    let known = scope.vault.kms().known(&id).await?;
    let material = known.current().map(|(_, material)| material.public_key.clone());
    let material = material.ok_or_else(|| VaultError::Internal("a new key has a version".into()))?;
    Ok((id, x509::public_key(&material)?))
}

pub(super) fn key_kind(body: &Body) -> Result<KeyKind, VaultError> {
    let name = body.string("key_type")?;
    KeyKind::parse(name.as_ref().map_or("rsa", |name| name.as_str()), body.count("key_bits", 8192)?.unwrap_or(0))
}

pub(super) async fn generate(scope: &Scope<'_>, kind: &str) -> Result<Reply, VaultError> {
    check_made(kind)?;
    let body = &scope.call.body;
    let (wanted, kind) = (Wanted::of(body)?, key_kind(body)?);
    let name = wanted.name()?;
    let most = scope.mount.max_ttl();
    let span = span(scope, (wanted.asked.ttl, most, most), SKEW_SECS, None)?;
    let issuer_name = body.string("issuer_name")?.unwrap_or_default();
    let view = scope.view()?;
    Authority::read(&view).await?.check_new_name(&issuer_name)?;
    let (key, public_key) = new_key(scope, kind).await?;
    let key_identifier = x509::key_identifier(&public_key)?;
    let above = Above { name: name.clone(), key_identifier, key, kind };
    let mut extensions = wanted.extensions(wanted.path_length, &public_key)?;
    extensions.push(above.key_extension()?);
    let (serial, text) = x509::new_serial(scope.vault)?;
    let draft = Draft { serial, subject: name, public_key, validity: span.validity, extensions };
    let certificate = above.certify(&Asks::of(scope)?, draft).await?;
    let issuer = Issuer {
        id: uuid(&scope.vault.barrier().random::<16>()?),
        name: issuer_name.to_string(),
        key_id: key.to_string(),
        kind,
        certificate: Der(certificate.clone()),
        chain: Vec::new(),
        not_after: span.not_after.unix_millis(),
    };
    let urls = add(scope, issuer.clone(), Some(&text)).await?;
    let mut told = Told {
        expiration: span.not_after.unix_secs(),
        serial_number: colons(&text),
        issuer_id: issuer.id,
        issuer_name: issuer.name,
        key_id: issuer.key_id,
        ..Told::default()
    };
    told.show(wanted.asked.form, &certificate, std::iter::once(certificate.as_slice()), None);
    told.ca_chain = Vec::new();
    let reply = Reply::data(&told)?;
    let reply = if urls == Urls::default() { reply.warning(NO_URLS) } else { reply };
    Ok(span.warning.into_iter().fold(reply, Reply::warning))
}

/// Adds an issuer with an empty list of what it has revoked; a root's own certificate, under its serial number, too.
pub(super) async fn add(scope: &Scope<'_>, issuer: Issuer, serial: Option<&str>) -> Result<Urls, VaultError> {
    let view = scope.view()?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut authority, was) = Authority::load(&view).await?;
        authority.waiting.retain(|waiting| waiting.key_id != issuer.key_id);
        authority.add(issuer.clone())?;
        let batch = authority.put(&view, scope.batch()?, was)?;
        let (batch, told) = match serial {
            Some(serial) => {
                let issued = record::of(&issuer, &issuer.certificate.0, issuer.not_after);
                (record::add(&view, batch, serial, &issued)?, record::told(serial, &issued))
            }
            None => (batch, String::new()),
        };
        let asks = Asks::of(scope)?;
        let batch = crl::renew((&view, batch), &asks, (&authority, &issuer), None, scope.now()).await?;
        match commit_of(scope, batch, &issuer.key_id, &told).await {
            Ok(()) => return Ok(authority.urls),
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::Conflict)
}

/// Of names, and of ranges of addresses.
pub(super) const CONSTRAINTS: [&str; 4] =
    ["permitted_dns_domains", "permitted_ip_ranges", "excluded_dns_domains", "excluded_ip_ranges"];
const PATH_LENGTH_MAX: u8 = 16;
const NO_URLS: &str = "This mount hasn't configured any authority information access (AIA) fields; this may make it harder for systems to find missing certificates in the chain or to validate revocation status of certificates.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_range_is_an_address_and_its_mask() {
        for (text, bytes) in [
            ("10.1.2.3/8", Some("0a000000ff000000")),
            ("0.0.0.0/0", Some("0000000000000000")),
            ("1.2.3.4/32", Some("01020304ffffffff")),
            ("1.2.3.4/33", None),
            ("1.2.3.4", None),
            ("x/8", None),
        ] {
            let found = address_range(text).map(|range| hex::encode(range.as_bytes()));
            assert_eq!(found.as_deref(), bytes, "{text}");
        }
        assert_eq!(address_range("fe80::/10").map(|range| range.as_bytes().len()), Some(32));
    }
}
