//! Names that are asked for, and whether a role allows them: pure.

use super::role::Role;
use super::x509::{extension, unbuilt};
use crate::error::VaultError;
use crate::glob::is_like;
use std::net::IpAddr;
use x509_cert::der::asn1::Ia5String;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What a certificate is to be for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) common_name: String,
    pub(super) dns: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
}

impl Names {
    /// A DNS name, or an e-mail address where it has an `@`.
    pub(super) fn add(&mut self, name: &str) {
        let list = if name.contains('@') { &mut self.emails } else { &mut self.dns };
        if !list.iter().any(|other| other == name) {
            list.push(name.to_owned());
        }
    }

    pub(super) fn add_uri(&mut self, uri: &str) {
        if !self.uris.iter().any(|other| other == uri) {
            self.uris.push(uri.to_owned());
        }
    }

    pub(super) fn add_ip(&mut self, text: &str) -> Result<(), VaultError> {
        let ip = text.parse().map_err(|_| VaultError::field("ip_sans", "no IP address"))?;
        if !self.ips.contains(&ip) {
            self.ips.push(ip);
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.dns.len() + self.emails.len() + self.uris.len() + self.ips.len()
    }

    /// Of which a certificate can be made at all.
    pub(super) fn check(&self) -> Result<(), VaultError> {
        if self.count() > NAMES_MAX {
            return Err(VaultError::field("alt_names", format!("more than {NAMES_MAX} names")));
        }
        let named = self.dns.iter().chain(&self.emails).chain(&self.uris).chain(std::iter::once(&self.common_name));
        for name in named {
            if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                return Err(VaultError::field("alt_names", "too long, or with what cannot be printed"));
            }
        }
        let texts = self.dns.iter().chain(&self.emails).chain(&self.uris);
        match texts.clone().find(|name| !name.is_ascii() || name.is_empty() || name.contains(' ')) {
            Some(name) => Err(refused("subject alternate name", name)),
            None => Ok(()),
        }
    }

    pub(super) fn extension(&self, critical: bool) -> Result<Option<Extension>, VaultError> {
        if self.count() == 0 {
            return Ok(None);
        }
        let text = |text: &String| Ia5String::new(text).map_err(unbuilt);
        let mut all = Vec::new();
        for name in &self.dns {
            all.push(GeneralName::DnsName(text(name)?));
        }
        for name in &self.emails {
            all.push(GeneralName::Rfc822Name(text(name)?));
        }
        for name in &self.uris {
            all.push(GeneralName::UniformResourceIdentifier(text(name)?));
        }
        all.extend(self.ips.iter().map(|ip| GeneralName::from(*ip)));
        extension(critical, &SubjectAltName(all)).map(Some)
    }
}

impl Role {
    /// Refuses the first name that this role does not allow, by that name.
    pub(super) fn check_names(&self, names: &Names) -> Result<(), VaultError> {
        names.check()?;
        if names.common_name.is_empty() && self.require_cn {
            return Err(VaultError::Invalid(NO_COMMON_NAME.into()));
        }
        if !names.common_name.is_empty() && !self.allows_name(&names.common_name) {
            return Err(refused("common name", &names.common_name));
        }
        if let Some(name) = names.dns.iter().chain(&names.emails).find(|name| !self.allows_name(name)) {
            return Err(refused("subject alternate name", name));
        }
        if !self.allow_ip_sans && !names.ips.is_empty() {
            return Err(VaultError::Invalid("IP Subject Alternative Names are not allowed in this role".into()));
        }
        let allows = |uri: &str| self.allowed_uri_sans.iter().any(|pattern| is_like(pattern, uri));
        match names.uris.iter().find(|uri| !is_uri(uri) || !allows(uri)) {
            Some(_) if self.allowed_uri_sans.is_empty() => {
                Err(VaultError::Invalid("URI Subject Alternative Names are not allowed via this role".into()))
            }
            Some(uri) => Err(refused("URI", uri)),
            None => Ok(()),
        }
    }

    fn allows_name(&self, raw: &str) -> bool {
        let name = raw.to_ascii_lowercase();
        let (whole, is_email) = match name.split_once('@') {
            Some((user, host)) if is_mailbox(user) && !host.contains('@') => (host, true),
            Some(_) => return false,
            None => (name.as_str(), false),
        };
        let (host, is_wildcard) = match whole.strip_prefix("*.") {
            Some(_) if is_email || !self.allow_wildcard_certificates => return false,
            Some(rest) => (rest, true),
            None => (whole, false),
        };
        // a star elsewhere, or a name of it alone, is none
        let sound = if self.enforce_hostnames || is_wildcard || is_email { is_host(host) } else { !host.contains('*') };
        if !sound {
            return false;
        }
        if self.allow_any_name {
            return true;
        }
        let is_local = matches!(host, "localhost" | "localdomain");
        if self.allow_localhost && is_local && !is_wildcard {
            return true;
        }
        self.allowed_domains.iter().any(|domain| {
            let domain = domain.to_ascii_lowercase();
            // a pattern is of hosts, unless it says otherwise
            let matched = if domain.contains('@') { &name } else { whole };
            let is_below = host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
            (self.allow_bare_domains && !is_wildcard && (host == domain || name == domain))
                || (self.allow_subdomains && (is_below || (is_wildcard && host == domain)))
                || (self.allow_glob_domains && domain.contains('*') && is_like(&domain, matched))
        })
    }
}

/// Labels of letters, digits and hyphens (RFC 1123 §2.1), 253 bytes in all. Of digits alone it would be an address.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_mailbox(user: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    (1..=64).contains(&user.len()) && user.bytes().all(legal)
}

/// With a scheme, and nothing that could be read in two ways.
fn is_uri(uri: &str) -> bool {
    let scheme = uri.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && scheme.bytes().all(legal)
        && uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}*".contains(&byte))
        && !uri.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn refused(what: &str, name: &str) -> VaultError {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    VaultError::Invalid(format!("{what} {shown} not allowed by this role").into())
}

const NO_COMMON_NAME: &str = "the common_name field is required, or must be provided in a CSR with \"use_csr_common_name\" set to true, unless \"require_cn\" is set to false";
const NAMES_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 512;
const SHOWN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn role(set: impl FnOnce(&mut Role)) -> Role {
        let mut role = Role { allow_localhost: false, ..Role::default() };
        role.allowed_domains = vec!["example.com".into()];
        set(&mut role);
        role
    }

    #[test]
    fn a_role_allows_what_it_says_and_no_look_alike() {
        let sub = role(|role| role.allow_subdomains = true);
        let bare = role(|role| role.allow_bare_domains = true);
        let glob = role(|role| {
            role.allow_glob_domains = true;
            role.allowed_domains = vec!["api-*.example.com".into()];
        });
        let mail = role(|role| {
            role.allow_glob_domains = true;
            role.allowed_domains = vec!["*@example.com".into()];
        });
        let any = role(|role| role.allow_any_name = true);
        let tame = role(|role| (role.allow_subdomains, role.allow_wildcard_certificates) = (true, false));
        let local = role(|role| role.allow_localhost = true);
        for (role, name, allowed) in [
            (&sub, "a.example.com", true),
            (&sub, "A.EXAMPLE.com", true),
            (&sub, "a.b.example.com", true),
            (&sub, "*.example.com", true),
            (&sub, "*.a.example.com", true),
            (&sub, "u@a.example.com", true),
            (&sub, "example.com", false),
            (&sub, "aexample.com", false),
            (&sub, "a.example.com.evil.test", false),
            (&sub, "a.example.com.", false),
            (&sub, "a..example.com", false),
            (&sub, ".example.com", false),
            (&sub, "-a.example.com", false),
            (&sub, "a_b.example.com", false),
            (&sub, "a*.example.com", false),
            (&sub, "*.*.example.com", false),
            (&sub, "a.*.example.com", false),
            (&sub, "*@a.example.com", true),
            (&sub, "u@v@a.example.com", false),
            (&sub, "u v@a.example.com", false),
            (&sub, "@a.example.com", false),
            (&sub, "u@*.example.com", false),
            (&sub, "a\u{430}.example.com", false),
            (&sub, "localhost", false),
            (&tame, "*.example.com", false),
            (&tame, "b.example.com", true),
            (&bare, "example.com", true),
            (&bare, "u@example.com", true),
            (&bare, "*.example.com", false),
            (&bare, "a.example.com", false),
            (&glob, "api-1.example.com", true),
            (&glob, "web-1.example.com", false),
            (&glob, "api-1.example.com.evil.test", false),
            (&glob, "u@api-1.example.com", true),
            (&glob, "api-1@ceo.example.com", false),
            (&glob, "*.api-1.example.com", false),
            (&mail, "u@example.com", true),
            (&mail, "u@a.example.com", false),
            (&mail, "example.com", false),
            (&any, "anything.test", true),
            (&any, "*", false),
            (&any, "10.0.0.1", false),
            (&local, "localhost", true),
            (&local, "*.localhost", false),
        ] {
            assert_eq!(role.allows_name(name), allowed, "{name}");
        }
    }
}
