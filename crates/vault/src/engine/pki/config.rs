//! `config/urls` and `config/crl`.

use super::authority::{Authority, changed};
use super::x509::{extension, unbuilt};
use crate::body::Body;
use crate::duration;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::crl::dp::DistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{AccessDescription, AuthorityInfoAccessSyntax, CrlDistributionPoints};

/// What certificates say of where more is to be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Urls {
    pub(super) issuing_certificates: Vec<String>,
    pub(super) crl_distribution_points: Vec<String>,
    pub(super) ocsp_servers: Vec<String>,
}

/// How lists of what is revoked are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lists {
    pub(super) expiry_secs: u64,
}

impl Default for Lists {
    fn default() -> Self {
        Self { expiry_secs: 72 * 3600 }
    }
}

#[derive(Serialize)]
struct ShownUrls<'a> {
    #[serde(flatten)]
    urls: &'a Urls,
    enable_templating: bool,
}

#[derive(Serialize)]
struct ShownLists {
    expiry: String,
    disable: bool,
    auto_rebuild: bool,
    auto_rebuild_grace_period: String,
    enable_delta: bool,
    ocsp_disable: bool,
    unified_crl: bool,
}

impl Urls {
    pub(super) fn extensions(&self) -> Result<Vec<Extension>, VaultError> {
        let uri = |url: &String| Ok::<_, VaultError>(GeneralName::UniformResourceIdentifier(text(url)?));
        let mut all = Vec::new();
        let access = |urls: &[String], access_method| {
            let urls = urls.iter().map(|url| Ok(AccessDescription { access_method, access_location: uri(url)? }));
            urls.collect::<Result<Vec<_>, VaultError>>()
        };
        let ways = [access(&self.ocsp_servers, OCSP)?, access(&self.issuing_certificates, ISSUERS)?].concat();
        if !ways.is_empty() {
            all.push(extension(false, &AuthorityInfoAccessSyntax(ways))?);
        }
        if !self.crl_distribution_points.is_empty() {
            let points = self.crl_distribution_points.iter().map(|url| {
                let distribution_point = Some(DistributionPointName::FullName(vec![uri(url)?]));
                Ok(DistributionPoint { distribution_point, reasons: None, crl_issuer: None })
            });
            all.push(extension(false, &CrlDistributionPoints(points.collect::<Result<_, VaultError>>()?))?);
        }
        Ok(all)
    }
}

fn text(url: &str) -> Result<Ia5String, VaultError> {
    Ia5String::new(url).map_err(unbuilt)
}

pub(super) async fn read_urls(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let authority = Authority::read(&scope.view()?).await?;
    Reply::data(&ShownUrls { urls: &authority.urls, enable_templating: false })
}

pub(super) async fn write_urls(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    if body.bool("enable_templating")?.unwrap_or(false) {
        return Err(VaultError::field("enable_templating", "not supported"));
    }
    let urls = changed(scope, |authority| {
        let urls = &mut authority.urls;
        for (field, value) in [
            ("issuing_certificates", &mut urls.issuing_certificates),
            ("crl_distribution_points", &mut urls.crl_distribution_points),
            ("ocsp_servers", &mut urls.ocsp_servers),
        ] {
            if let Some(new) = body.list(field)? {
                *value = checked(field, new)?;
            }
        }
        Ok(urls.clone())
    });
    Reply::data(&ShownUrls { urls: &urls.await?, enable_templating: false })
}

fn checked(field: &'static str, urls: Vec<String>) -> Result<Vec<String>, VaultError> {
    let sound = |url: &String| {
        let rest = ["http://", "https://", "ldap://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        url.len() <= URL_BYTES_MAX
            && rest.is_some_and(|rest| !rest.is_empty())
            && url.bytes().all(|b| b.is_ascii_graphic())
    };
    if urls.len() <= URLS_MAX && urls.iter().all(sound) {
        return Ok(urls);
    }
    Err(VaultError::field(field, format!("at most {URLS_MAX} URLs of http, https or ldap")))
}

fn shown(lists: &Lists) -> Result<Reply, VaultError> {
    Reply::data(&ShownLists {
        expiry: duration::show(Duration::from_secs(lists.expiry_secs)),
        disable: false,
        auto_rebuild: true,
        auto_rebuild_grace_period: duration::show(Duration::from_secs(lists.expiry_secs / 2)),
        enable_delta: false,
        ocsp_disable: true,
        unified_crl: false,
    })
}

pub(super) async fn read_crl(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    shown(&Authority::read(&scope.view()?).await?.lists)
}

pub(super) async fn write_crl(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    check_crl(body)?;
    let lists = changed(scope, |authority| {
        if let Some(expiry) = body.duration("expiry")? {
            if !EXPIRY_SECS.contains(&expiry.as_secs()) {
                return Err(VaultError::field("expiry", "between ten minutes and a year"));
            }
            authority.lists.expiry_secs = expiry.as_secs();
        }
        Ok(authority.lists.clone())
    });
    shown(&lists.await?)
}

fn check_crl(body: &Body) -> Result<(), VaultError> {
    for field in ["disable", "enable_delta", "unified_crl", "cross_cluster_revocation", "unified_crl_on_existing_paths"]
    {
        if body.bool(field)?.unwrap_or(false) {
            return Err(VaultError::field(field, "not supported: one whole list of each authority is always told"));
        }
    }
    if !body.bool("ocsp_disable")?.unwrap_or(true) {
        return Err(VaultError::field("ocsp_disable", "OCSP is not answered here"));
    }
    Ok(())
}

const URLS_MAX: usize = 8;
const URL_BYTES_MAX: usize = 512;
const EXPIRY_SECS: std::ops::RangeInclusive<u64> = 600..=366 * 86_400;
const OCSP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1");
const ISSUERS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.2");
