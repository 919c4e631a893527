//! `certs/:name`: whose certificates log in, and as what.

use super::NAME_BYTES_MAX;
use super::ocsp::Ocsp;
use crate::auth::token_fields::{self, OldNames, TokenFields, folded};
use crate::auth::x509::leaf::Leaf;
use crate::body::Body;
use crate::error::VaultError;
use crate::glob::is_like;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::BasicConstraints;

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    /// PEM.
    pub(super) certificate: String,
    pub(super) display_name: String,
    pub(super) allowed_names: Vec<String>,
    pub(super) allowed_common_names: Vec<String>,
    pub(super) allowed_dns_sans: Vec<String>,
    pub(super) allowed_email_sans: Vec<String>,
    pub(super) allowed_uri_sans: Vec<String>,
    pub(super) allowed_organizational_units: Vec<String>,
    pub(super) required_extensions: Vec<String>,
    pub(super) crl_required: bool,
    pub(super) ocsp: Ocsp,
    pub(super) token: TokenFields,
}

#[derive(Serialize)]
struct Shown<'a> {
    certificate: &'a str,
    display_name: &'a str,
    allowed_names: &'a [String],
    allowed_common_names: &'a [String],
    allowed_dns_sans: &'a [String],
    allowed_email_sans: &'a [String],
    allowed_uri_sans: &'a [String],
    allowed_organizational_units: &'a [String],
    required_extensions: &'a [String],
    crl_required: bool,
    #[serde(flatten)]
    ocsp: &'a Ocsp,
    #[serde(flatten)]
    token: &'a TokenFields,
}

impl Role {
    fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        for field in REFUSED {
            let told = body.raw(field).map(|raw| raw.trim_matches('"'));
            if told.is_some_and(|told| !matches!(told, "" | "false" | "[]" | "0")) {
                return Err(VaultError::field(field, "not supported"));
            }
        }
        if let Some(bundle) = body.string("certificate")? {
            authorities("certificate", &bundle)?;
            bundle.as_str().clone_into(&mut self.certificate);
        }
        if self.certificate.is_empty() {
            return Err(VaultError::field("certificate", "missing"));
        }
        if let Some(name) = body.string("display_name")? {
            self.display_name = name.chars().filter(char::is_ascii_graphic).take(NAME_BYTES_MAX).collect();
        }
        for (field, list) in [
            ("allowed_names", &mut self.allowed_names),
            ("allowed_common_names", &mut self.allowed_common_names),
            ("allowed_dns_sans", &mut self.allowed_dns_sans),
            ("allowed_email_sans", &mut self.allowed_email_sans),
            ("allowed_uri_sans", &mut self.allowed_uri_sans),
            ("allowed_organizational_units", &mut self.allowed_organizational_units),
            ("required_extensions", &mut self.required_extensions),
        ] {
            let Some(new) = body.list(field)? else { continue };
            if new.len() > LIST_MAX || new.iter().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
                return Err(VaultError::field(
                    field,
                    format!("at most {LIST_MAX} texts of 1 to {TEXT_BYTES_MAX} bytes"),
                ));
            }
            *list = new;
        }
        if self.required_extensions.iter().any(|text| wanted_extension(text).is_none()) {
            return Err(VaultError::field("required_extensions", "`oid:value` or `hex:oid:value` is expected"));
        }
        if let Some(required) = body.bool("crl_required")? {
            self.crl_required = required;
        }
        self.ocsp.update(body)?;
        self.token.update(body, OLD_NAMES)
    }

    /// Why this leaf's names are none of this role's. Its path is another question.
    pub(super) fn refuses(&self, leaf: &Leaf) -> Option<&'static str> {
        let one = |patterns: &[String], names: &[&String]| {
            patterns.is_empty() || names.iter().any(|name| patterns.iter().any(|pattern| is_like(pattern, name)))
        };
        let all: Vec<&String> =
            std::iter::once(&leaf.common_name).chain(&leaf.dns).chain(&leaf.emails).chain(&leaf.uris).collect();
        let common_name = [&leaf.common_name].map(|name| Some(name).filter(|name| !name.is_empty()));
        let common_name: Vec<&String> = common_name.into_iter().flatten().collect();
        [
            (one(&self.allowed_names, &all), NAME_OTHER),
            (one(&self.allowed_common_names, &common_name), COMMON_NAME_OTHER),
            (one(&self.allowed_dns_sans, &leaf.dns.iter().collect::<Vec<_>>()), DNS_OTHER),
            (one(&self.allowed_email_sans, &leaf.emails.iter().collect::<Vec<_>>()), EMAIL_OTHER),
            (one(&self.allowed_uri_sans, &leaf.uris.iter().collect::<Vec<_>>()), URI_OTHER),
            (one(&self.allowed_organizational_units, &leaf.units.iter().collect::<Vec<_>>()), UNIT_OTHER),
            (self.required_extensions.iter().all(|wanted| has_extension(leaf, wanted)), EXTENSION_OTHER),
        ]
        .into_iter()
        .find_map(|(allowed, cause)| (!allowed).then_some(cause))
    }

    /// By which of its names a leaf is known: one that the role has looked at, where it looks at any.
    pub(super) fn known_by<'l>(&self, leaf: &'l Leaf) -> Option<&'l String> {
        let all = || std::iter::once(&leaf.common_name).chain(&leaf.uris).chain(&leaf.dns).chain(&leaf.emails);
        let among = |patterns: &[String], names: &mut dyn Iterator<Item = &'l String>| {
            let is_looked_at = |name: &&String| patterns.iter().any(|pattern| is_like(pattern, name));
            names.filter(|name| !name.is_empty()).find(is_looked_at)
        };
        [
            among(&self.allowed_common_names, &mut std::iter::once(&leaf.common_name)),
            among(&self.allowed_names, &mut all()),
            among(&self.allowed_uri_sans, &mut leaf.uris.iter()),
            among(&self.allowed_dns_sans, &mut leaf.dns.iter()),
            among(&self.allowed_email_sans, &mut leaf.emails.iter()),
        ]
        .into_iter()
        .flatten()
        .next()
        .or_else(|| all().find(|name| !name.is_empty()))
    }

    pub(super) fn authorities(&self) -> Result<Vec<Vec<u8>>, VaultError> {
        authorities("certificate", &self.certificate)
    }
}

/// Object id, whether in hexadecimal, and the value, in which `*` stands for anything where it is text.
fn wanted_extension(text: &str) -> Option<(&str, bool, &str)> {
    let (is_hex, rest) = text.strip_prefix("hex:").map_or((false, text), |rest| (true, rest));
    let (oid, value) = rest.split_once(':')?;
    x509_cert::der::asn1::ObjectIdentifier::new(oid).ok()?;
    Some((oid, is_hex, value))
}

fn has_extension(leaf: &Leaf, wanted: &str) -> bool {
    let Some((oid, is_hex, value)) = wanted_extension(wanted) else { return false };
    leaf.extensions.iter().filter(|(found, _)| found == oid).any(|(_, content)| {
        if is_hex {
            return is_like(&value.to_ascii_lowercase(), &hex::encode(content));
        }
        // as Vault has it: the text within one string of DER
        let text = x509_cert::der::asn1::AnyRef::from_der(content).map(|any| any.value().to_vec());
        text.ok().and_then(|text| String::from_utf8(text).ok()).is_some_and(|text| is_like(value, &text))
    })
}

/// DER of all certificates of a bundle, which are authorities'.
pub(crate) fn authorities(field: &'static str, bundle: &str) -> Result<Vec<Vec<u8>>, VaultError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    let found = found.map_err(|_| VaultError::field(field, "malformed PEM"))?;
    if found.is_empty() || found.len() > AUTHORITIES_MAX {
        return Err(VaultError::field(field, format!("1 to {AUTHORITIES_MAX} certificates in PEM are expected")));
    }
    for der in &found {
        check_authority(field, der)?;
    }
    Ok(found.into_iter().map(|der| der.as_ref().to_vec()).collect())
}

pub(crate) fn check_authority(field: &'static str, der: &[u8]) -> Result<(), VaultError> {
    let read = || {
        let limits = Certificate::from_der(der).ok()?.tbs_certificate.get::<BasicConstraints>().ok()??.1;
        webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).ok()?;
        Some(limits.ca)
    };
    if read() == Some(true) {
        return Ok(());
    }
    Err(VaultError::field(field, "one of them is no authority's certificate"))
}

fn name_of(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("name", "1 to 64 letters, digits, `-`, `_`, `.`"))
}

fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ROLES}/{}", view.hash(b"cert/role", name)?))
}

/// A role as it stands in the store, where it stands, and its revision.
pub(super) type Found = (Role, EntryPath, Revision);

pub(super) async fn find(view: &View, raw: &str) -> Result<Option<Found>, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(None) };
    let path = path(view, &name)?;
    let found = stored::load(view, &path).await?;
    Ok(found.map(|(role, revision)| (role, path, revision)))
}

/// All of them, by their names. Nothing where there are more than are looked at for one login.
pub(super) async fn all(view: &View) -> Result<Option<Vec<Found>>, VaultError> {
    let (entries, more) = view.entries(&view.path(ROLES)?, ROLES_TRIED_MAX).await?;
    if more {
        return Ok(None);
    }
    let read =
        entries.into_iter().map(|(path, found)| Ok((stored::decode(found.value.expose())?, path, found.revision)));
    let mut roles = read.collect::<Result<Vec<Found>, VaultError>>()?;
    roles.sort_by(|(one, ..), (other, ..)| one.name.cmp(&other.name));
    Ok(Some(roles))
}

pub(super) async fn exists(scope: &Scope<'_>, raw: &str) -> Result<bool, VaultError> {
    Ok(find(&scope.view()?, raw).await?.is_some())
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, &scope.view()?, ROLES, |text| Ok(Some(stored::decode::<Role>(text)?.name))).await
}

pub(super) async fn read(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (role, ..) = find(&scope.view()?, raw).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        certificate: &role.certificate,
        display_name: &role.display_name,
        allowed_names: &role.allowed_names,
        allowed_common_names: &role.allowed_common_names,
        allowed_dns_sans: &role.allowed_dns_sans,
        allowed_email_sans: &role.allowed_email_sans,
        allowed_uri_sans: &role.allowed_uri_sans,
        allowed_organizational_units: &role.allowed_organizational_units,
        required_extensions: &role.required_extensions,
        crl_required: role.crl_required,
        ocsp: &role.ocsp,
        token: &role.token,
    })
}

pub(super) async fn write(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (view, name) = (scope.view()?, name_of(raw)?);
    let make = |old: Option<Role>| {
        let mut role = old.unwrap_or_else(|| Role { name: name.clone(), ..Role::default() });
        role.update(&scope.call.body)?;
        Ok(role)
    };
    stored::change(scope, &view, &path(&view, &name)?, make).await?;
    Ok(Reply::empty())
}

/// To delete what is not there succeeds.
pub(super) async fn delete(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(Reply::empty()) };
    let view = scope.view()?;
    stored::delete(scope, &view, path(&view, &name)?).await
}

pub(super) const NAME_OTHER: &str = "CERT_NAME_OTHER";
pub(super) const COMMON_NAME_OTHER: &str = "CERT_COMMON_NAME_OTHER";
pub(super) const DNS_OTHER: &str = "CERT_DNS_NAME_OTHER";
pub(super) const EMAIL_OTHER: &str = "CERT_EMAIL_OTHER";
pub(super) const URI_OTHER: &str = "CERT_URI_OTHER";
pub(super) const UNIT_OTHER: &str = "CERT_UNIT_OTHER";
pub(super) const EXTENSION_OTHER: &str = "CERT_EXTENSION_OTHER";
const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: Some("bound_cidrs"),
};
const REFUSED: [&str; 3] = ["allowed_metadata_extensions", "ocsp_fail_open", "ocsp_max_retries"];
const ROLES: &str = "r";
/// Of a login that names no role.
const ROLES_TRIED_MAX: usize = 64;
const AUTHORITIES_MAX: usize = 16;
const LIST_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 512;
