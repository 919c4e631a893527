//! `roles/:name`: what certificates are issued, and for whom.

use super::ATTEMPTS_MAX;
use super::authority::check_name;
use super::key::LeafKind;
use super::subject::Parts;
use crate::body::Body;
use crate::engine::tree::Tree;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored::{decode, encode};
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use storage::EntryPath;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::{KeyUsage, KeyUsages};

/// As stored, and as told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) issuer_ref: String,
    /// Seconds; zero is the mount's.
    pub(super) ttl: u64,
    pub(super) max_ttl: u64,
    pub(super) allow_localhost: bool,
    pub(super) allowed_domains: Vec<String>,
    pub(super) allow_bare_domains: bool,
    pub(super) allow_subdomains: bool,
    pub(super) allow_glob_domains: bool,
    pub(super) allow_wildcard_certificates: bool,
    pub(super) allow_any_name: bool,
    pub(super) enforce_hostnames: bool,
    pub(super) allow_ip_sans: bool,
    pub(super) allowed_uri_sans: Vec<String>,
    pub(super) server_flag: bool,
    pub(super) client_flag: bool,
    pub(super) code_signing_flag: bool,
    pub(super) email_protection_flag: bool,
    pub(super) key_type: String,
    pub(super) key_bits: u32,
    pub(super) key_usage: Vec<String>,
    pub(super) ext_key_usage: Vec<String>,
    pub(super) ext_key_usage_oids: Vec<String>,
    pub(super) use_csr_common_name: bool,
    pub(super) use_csr_sans: bool,
    #[serde(flatten)]
    pub(super) subject: Parts,
    pub(super) no_store: bool,
    pub(super) require_cn: bool,
    pub(super) basic_constraints_valid_for_non_ca: bool,
    /// Seconds before now from which a certificate counts.
    pub(super) not_before_duration: u64,
    pub(super) generate_lease: bool,
}

impl Default for Role {
    /// Vault's.
    fn default() -> Self {
        let key_usage = ["DigitalSignature", "KeyAgreement", "KeyEncipherment"];
        Self {
            issuer_ref: super::issuer::DEFAULT.to_owned(),
            ttl: 0,
            max_ttl: 0,
            allow_localhost: true,
            allowed_domains: Vec::new(),
            allow_bare_domains: false,
            allow_subdomains: false,
            allow_glob_domains: false,
            allow_wildcard_certificates: true,
            allow_any_name: false,
            enforce_hostnames: true,
            allow_ip_sans: true,
            allowed_uri_sans: Vec::new(),
            server_flag: true,
            client_flag: true,
            code_signing_flag: false,
            email_protection_flag: false,
            key_type: "rsa".to_owned(),
            key_bits: 0,
            key_usage: key_usage.map(str::to_owned).to_vec(),
            ext_key_usage: Vec::new(),
            ext_key_usage_oids: Vec::new(),
            use_csr_common_name: true,
            use_csr_sans: true,
            subject: Parts::default(),
            no_store: false,
            require_cn: true,
            basic_constraints_valid_for_non_ca: false,
            not_before_duration: SKEW_SECS,
            generate_lease: false,
        }
    }
}

impl Role {
    fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        for (field, may_be) in REFUSED {
            let told = body.raw(field).map(|raw| raw.trim_matches('"'));
            if told.is_some_and(|told| !matches!(told, "" | "false" | "[]" | "0") && told != may_be) {
                return Err(VaultError::field(field, "not supported"));
            }
        }
        for (field, value) in self.flags() {
            if let Some(new) = body.bool(field)? {
                *value = new;
            }
        }
        for (field, value) in self.lists() {
            let Some(new) = body.list(field)? else { continue };
            if new.len() > LIST_MAX || new.iter().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
                return Err(VaultError::field(
                    field,
                    format!("at most {LIST_MAX} texts of 1 to {TEXT_BYTES_MAX} bytes"),
                ));
            }
            *value = new;
        }
        for (field, value) in [("ttl", &mut self.ttl), ("max_ttl", &mut self.max_ttl)] {
            if body.has(field) {
                *value = body.duration(field)?.map_or(0, |duration| duration.as_secs());
            }
        }
        if body.has("not_before_duration") {
            self.not_before_duration = body.duration("not_before_duration")?.map_or(0, |duration| duration.as_secs());
        }
        for (field, value) in [("key_type", &mut self.key_type), ("issuer_ref", &mut self.issuer_ref)] {
            if let Some(new) = body.string(field)? {
                new.as_str().clone_into(value);
            }
        }
        if let Some(bits) = body.count("key_bits", 8192)? {
            self.key_bits = bits;
        }
        self.subject.update(body)?;
        self.check()
    }

    fn flags(&mut self) -> [(&'static str, &mut bool); 18] {
        [
            ("allow_localhost", &mut self.allow_localhost),
            ("allow_bare_domains", &mut self.allow_bare_domains),
            ("allow_subdomains", &mut self.allow_subdomains),
            ("allow_glob_domains", &mut self.allow_glob_domains),
            ("allow_wildcard_certificates", &mut self.allow_wildcard_certificates),
            ("allow_any_name", &mut self.allow_any_name),
            ("enforce_hostnames", &mut self.enforce_hostnames),
            ("allow_ip_sans", &mut self.allow_ip_sans),
            ("server_flag", &mut self.server_flag),
            ("client_flag", &mut self.client_flag),
            ("code_signing_flag", &mut self.code_signing_flag),
            ("email_protection_flag", &mut self.email_protection_flag),
            ("use_csr_common_name", &mut self.use_csr_common_name),
            ("use_csr_sans", &mut self.use_csr_sans),
            ("no_store", &mut self.no_store),
            ("require_cn", &mut self.require_cn),
            ("basic_constraints_valid_for_non_ca", &mut self.basic_constraints_valid_for_non_ca),
            ("generate_lease", &mut self.generate_lease),
        ]
    }

    fn lists(&mut self) -> [(&'static str, &mut Vec<String>); 5] {
        [
            ("allowed_domains", &mut self.allowed_domains),
            ("allowed_uri_sans", &mut self.allowed_uri_sans),
            ("key_usage", &mut self.key_usage),
            ("ext_key_usage", &mut self.ext_key_usage),
            ("ext_key_usage_oids", &mut self.ext_key_usage_oids),
        ]
    }

    fn check(&self) -> Result<(), VaultError> {
        if self.generate_lease {
            return Err(VaultError::field("generate_lease", "certificates are revoked by their serial numbers here"));
        }
        if self.max_ttl > 0 && self.ttl > self.max_ttl {
            return Err(VaultError::Invalid("\"ttl\" value must be less than \"max_ttl\" value".into()));
        }
        if self.not_before_duration > SKEW_SECS_MAX {
            return Err(VaultError::field("not_before_duration", format!("more than {SKEW_SECS_MAX} s")));
        }
        // a place where any name would come in
        if self.allowed_domains.iter().any(|domain| domain.trim_matches(['*', '.']).is_empty()) {
            return Err(VaultError::field("allowed_domains", "a name of stars and dots only: see allow_any_name"));
        }
        if self.allowed_domains.iter().chain(&self.allowed_uri_sans).any(|text| text.contains("{{")) {
            return Err(VaultError::field("allowed_domains", "templates are not supported"));
        }
        LeafKind::allowed(&self.key_type, self.key_bits)?;
        self.usage()?;
        self.extended_usage().map(|_| ())
    }

    /// RFC 5280 §4.2.1.3. `None`: nothing is said of it. A leaf signs neither certificates nor lists.
    pub(super) fn usage(&self) -> Result<Option<KeyUsage>, VaultError> {
        let mut usage = KeyUsage(Default::default());
        for name in &self.key_usage {
            let name = name.strip_prefix("KeyUsage").unwrap_or(name);
            usage.0 |= match name.to_ascii_lowercase().as_str() {
                "digitalsignature" => KeyUsages::DigitalSignature,
                "contentcommitment" | "nonrepudiation" => KeyUsages::NonRepudiation,
                "keyencipherment" => KeyUsages::KeyEncipherment,
                "dataencipherment" => KeyUsages::DataEncipherment,
                "keyagreement" => KeyUsages::KeyAgreement,
                "encipheronly" => KeyUsages::EncipherOnly,
                "decipheronly" => KeyUsages::DecipherOnly,
                _ => return Err(VaultError::field("key_usage", "unknown, or an authority's")),
            };
        }
        Ok((!usage.0.is_empty()).then_some(usage))
    }

    pub(super) fn extended_usage(&self) -> Result<Vec<ObjectIdentifier>, VaultError> {
        let flagged = [
            (self.server_flag, SERVER_AUTH),
            (self.client_flag, CLIENT_AUTH),
            (self.code_signing_flag, CODE_SIGNING),
            (self.email_protection_flag, EMAIL_PROTECTION),
        ];
        let mut all: Vec<_> = flagged.into_iter().filter(|(set, _)| *set).map(|(_, oid)| oid).collect();
        for name in &self.ext_key_usage {
            let name = name.strip_prefix("ExtKeyUsage").unwrap_or(name);
            all.push(match name.to_ascii_lowercase().as_str() {
                "serverauth" => SERVER_AUTH,
                "clientauth" => CLIENT_AUTH,
                "codesigning" => CODE_SIGNING,
                "emailprotection" => EMAIL_PROTECTION,
                "timestamping" => TIME_STAMPING,
                // `any` would be all of them, OCSP's an authority's
                _ => return Err(VaultError::field("ext_key_usage", "unknown, or not for leaves")),
            });
        }
        for text in &self.ext_key_usage_oids {
            let oid = ObjectIdentifier::new(text).ok().filter(|oid| !matches!(*oid, ANY | OCSP_SIGNING));
            all.push(oid.ok_or_else(|| VaultError::field("ext_key_usage_oids", "no object id, or not for leaves"))?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

fn path(scope: &Scope<'_>, name: &str) -> Result<EntryPath, VaultError> {
    check_name("name", name)?;
    Tree::new(&scope.view()?, LIST).data(DATA, name)
}

pub(super) async fn exists(scope: &Scope<'_>, name: &str) -> Result<bool, VaultError> {
    Ok(scope.view()?.load(&path(scope, name)?).await?.is_some())
}

/// Perhaps from memory.
pub(super) async fn find(scope: &Scope<'_>, name: &str) -> Result<Option<Role>, VaultError> {
    let found = scope.view()?.read(&path(scope, name)?).await?;
    found.as_ref().as_ref().map(|found| decode(found.value.expose())).transpose()
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    crate::engine::kv1::list(scope, &Tree::new(&scope.view()?, LIST), "").await
}

pub(super) async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    Reply::data(&find(scope, name).await?.ok_or(VaultError::NotFound)?)
}

pub(super) async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let (view, path) = (scope.view()?, path(scope, name)?);
    for _ in 0..ATTEMPTS_MAX {
        let batch = scope.batch()?;
        let (mut role, batch) = match view.load(&path).await? {
            Some(found) => {
                scope.may_change()?;
                // as Vault has it: what is not named is what it is at first
                (Role::default(), batch.revision_is(path.clone(), found.revision))
            }
            None => (Role::default(), Tree::new(&view, LIST).add(batch.absent(path.clone()), name).await?),
        };
        role.update(&scope.call.body)?;
        match scope.commit(view.put(batch, path.clone(), &encode(&role)?)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => {
                outcome?;
                return Reply::data(&role);
            }
        }
    }
    Err(VaultError::Conflict)
}

pub(super) async fn delete(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let (view, path) = (scope.view()?, path(scope, name)?);
    // to delete what is not there succeeds
    if view.load(&path).await?.is_some() {
        scope.commit(Tree::new(&view, LIST).remove(scope.batch()?, name)?.delete(path)).await?;
    }
    Ok(Reply::empty())
}

/// Fields that mean nothing here, and the value that they may have beside none.
const REFUSED: [(&str, &str); 12] = [
    ("allowed_domains_template", ""),
    ("allowed_uri_sans_template", ""),
    ("allowed_other_sans", ""),
    ("allowed_serial_numbers", ""),
    ("allowed_user_ids", ""),
    ("policy_identifiers", ""),
    ("signature_bits", "256"),
    ("use_pss", ""),
    ("not_after", ""),
    ("not_before_bound", "permit"),
    ("serial_number_source", "json-csr"),
    ("cn_validations", "[\"email\",\"hostname\"]"),
];
const LIST: &str = "lr";
const DATA: &str = "r";
const LIST_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 512;
pub(super) const SKEW_SECS: u64 = 30;
const SKEW_SECS_MAX: u64 = 3600;
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const EMAIL_PROTECTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
const ANY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
