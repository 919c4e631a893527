//! `issue/:role` and `sign/:role`: leaves.

use super::asked::{Asked, Told, span};
use super::authority::{Authority, commit_of, log};
use super::key::{LeafKind, NewKey, verified};
use super::names::Names;
use super::record;
use super::role::{self, Role};
use super::subject::common_name;
use super::text::colons;
use super::x509::{self, Above, Asks, Draft, extension};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;
use std::time::Duration;
use x509_cert::der::Decode;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};
use x509_cert::request::{CertReq, ExtensionReq};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// A role's name, and an issuer that is named beside it.
type Which<'a> = (&'a str, Option<&'a str>);

async fn role_of(scope: &Scope<'_>, name: &str) -> Result<Role, VaultError> {
    let shown: String = name.chars().take(64).collect();
    role::find(scope, name).await?.ok_or_else(|| VaultError::Invalid(format!("unknown role: {shown}").into()))
}

pub(super) async fn issue(scope: &Scope<'_>, (name, issuer): Which<'_>) -> Result<Reply, VaultError> {
    let role = role_of(scope, name).await?;
    let kind = LeafKind::allowed(&role.key_type, role.key_bits)?;
    let kind = kind.ok_or_else(|| {
        VaultError::Invalid("role key type \"any\" not allowed for issuing certificates, only signing".into())
    })?;
    let mut asked = Asked::of(&scope.call.body)?;
    asked.complete();
    // what is refused costs no key
    role.check_names(&asked.names)?;
    let key = kind.generate().await?;
    let public_key = x509::public_key(&key.public)?;
    leaf(scope, (&role, issuer), asked, public_key, Some(&key)).await
}

pub(super) async fn sign(scope: &Scope<'_>, (name, issuer): Which<'_>) -> Result<Reply, VaultError> {
    let role = role_of(scope, name).await?;
    let body = &scope.call.body;
    let (request, kind) = read_request(body)?;
    match (LeafKind::allowed(&role.key_type, role.key_bits)?, kind) {
        (None, _) => {}
        (Some(LeafKind::Rsa(least)), LeafKind::Rsa(bits)) if bits >= least => {}
        (Some(LeafKind::Ec256), LeafKind::Ec384) => {}
        (Some(wanted), kind) if wanted == kind => {}
        (Some(_), _) => return Err(VaultError::field("csr", "a key of another type or size than the role's")),
    }
    let mut asked = Asked::of(body)?;
    if role.use_csr_common_name {
        asked.names.common_name = common_name(&request.info.subject).unwrap_or_default();
    }
    if role.use_csr_sans {
        let CsrNames { names } = CsrNames::of(&request)?;
        asked.names = Names { common_name: asked.names.common_name, ..names };
    }
    asked.complete();
    role.check_names(&asked.names)?;
    leaf(scope, (&role, issuer), asked, request.info.public_key, None).await
}

async fn leaf(
    scope: &Scope<'_>,
    (role, named): (&Role, Option<&str>),
    asked: Asked,
    public_key: SubjectPublicKeyInfoOwned,
    key: Option<&NewKey>,
) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let (authority, was) = Authority::read_at(&view).await?;
    let issuer = authority.issuer(named.unwrap_or(&role.issuer_ref))?;
    let most = or(role.max_ttl, scope.mount.max_ttl()).min(scope.mount.max_ttl());
    let ends = Timestamp::from_unix_millis(issuer.not_after);
    let times = (asked.ttl, or(role.ttl, scope.mount.default_ttl()), most);
    let span = span(scope, times, role.not_before_duration, Some(ends))?;
    let subject = role.subject.name(&asked.names.common_name)?;
    let above = Above::of(issuer)?;
    // RFC 5280 §4.2.1.6: critical where the subject is empty
    let names = asked.names.extension(subject.is_empty())?;
    let mut extensions = usages(role)?;
    extensions.extend([x509::key_extension(&public_key)?, above.key_extension()?]);
    extensions.extend(authority.urls.extensions()?);
    extensions.extend(names);
    let (serial, text) = x509::new_serial(scope.vault)?;
    let draft = Draft { serial, subject, public_key, validity: span.validity, extensions };
    let certificate = above.certify(&Asks::of(scope)?, draft).await?;
    let issued = record::of(issuer, &certificate, span.not_after.unix_millis());
    let which = record::told(&text, &issued);
    if role.no_store {
        log(scope, &issuer.key_id, &which).await?;
    } else {
        let batch = record::add(&view, Authority::still(&view, scope.batch()?, was)?, &text, &issued)?;
        let batch = crate::gone::still_there(scope.vault, batch, scope.mount)?;
        commit_of(scope, batch, &issuer.key_id, &which).await?;
    }
    let expiration = span.not_after.unix_secs();
    let private_key_type = key.map_or("", |key| key.kind.type_name());
    let mut told = Told { expiration, serial_number: colons(&text), private_key_type, ..Told::default() };
    told.show(asked.form, &certificate, issuer.whole_chain(), key.map(|key| key.private.as_slice()));
    Ok(span.warning.into_iter().fold(Reply::data(&told)?, Reply::warning))
}

fn or(secs: u64, default: Duration) -> Duration {
    if secs == 0 { default } else { Duration::from_secs(secs) }
}

fn usages(role: &Role) -> Result<Vec<Extension>, VaultError> {
    let mut all = Vec::new();
    if let Some(usage) = role.usage()? {
        all.push(extension(true, &usage)?);
    }
    let extended = role.extended_usage()?;
    if !extended.is_empty() {
        all.push(extension(false, &ExtendedKeyUsage(extended))?);
    }
    if role.basic_constraints_valid_for_non_ca {
        all.push(extension(true, &BasicConstraints { ca: false, path_len_constraint: None })?);
    }
    Ok(all)
}

/// The body's request, whose signature is its key's.
pub(super) fn read_request(body: &Body) -> Result<(CertReq, LeafKind), VaultError> {
    let text = body.required("csr")?;
    let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes());
    let der = der.map_err(|_| VaultError::field("csr", "not a certificate request in PEM"))?;
    verified(&der)
}

/// The names that a request asks for beside its subject; of any other kind there are none.
pub(super) struct CsrNames {
    pub(super) names: Names,
}

impl CsrNames {
    pub(super) fn of(request: &CertReq) -> Result<Self, VaultError> {
        let wrong = |why: &'static str| VaultError::field("csr", why);
        let mut names = Names::default();
        for attribute in request.info.attributes.iter().filter(|attribute| attribute.oid == EXTENSIONS) {
            for value in attribute.values.iter() {
                let asked: ExtensionReq = value.decode_as().map_err(|_| wrong("malformed extensions"))?;
                for extension in asked.0.iter().filter(|extension| extension.extn_id == ALTERNATIVE_NAMES) {
                    let all = SubjectAltName::from_der(extension.extn_value.as_bytes());
                    for name in all.map_err(|_| wrong("malformed names"))?.0 {
                        add(&mut names, &name).ok_or_else(|| wrong("a name of a kind that is not certified here"))?;
                    }
                }
            }
        }
        Ok(Self { names })
    }
}

fn add(names: &mut Names, name: &GeneralName) -> Option<()> {
    match name {
        // an address among DNS names is none
        GeneralName::DnsName(name) if !name.as_str().contains('@') => names.add(name.as_str()),
        GeneralName::Rfc822Name(name) if name.as_str().contains('@') => names.add(name.as_str()),
        GeneralName::UniformResourceIdentifier(uri) => names.add_uri(uri.as_str()),
        GeneralName::IpAddress(bytes) => {
            let ip = match bytes.as_bytes().len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(bytes.as_bytes()).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(bytes.as_bytes()).ok()?),
            };
            names.add_ip(&ip.to_string()).ok()?;
        }
        GeneralName::DnsName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::OtherName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => return None,
    }
    Some(())
}

const EXTENSIONS: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
const ALTERNATIVE_NAMES: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("2.5.29.17");
