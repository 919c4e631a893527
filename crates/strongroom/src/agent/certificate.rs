//! Certificates of the vault's own authorities, for keys that are made here.
//!
//! Always: a new key for each; what stands in the files stays until another pair is whole, and is replaced when half of its life
//! is over.
//! Never: a private key elsewhere than in its file.

use super::config;
use super::output::{Output, Owner, Prepared};
use super::status::CertificateStatus;
use super::work::Fault;
use crate::clock::SystemClock;
use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::timing::{Spread, back_off, half_of};
use client::{Repeat, SecretBytes, Vault};
use envelope::{Clock as _, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SanType, SigningKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// One section, and what stands in its files.
pub(super) struct Certificate {
    /// `certificate[0]`.
    name: String,
    of: config::Certificate,
    chain: Output,
    /// Where it is another file than the chain's.
    key: Option<Output>,
    ca: Option<Output>,
    held: Option<Held>,
    failures: u32,
    /// When another one is asked for.
    due: Timestamp,
    trouble: Option<String>,
    /// It has expired, and that was told.
    over: bool,
}

/// What was written last.
struct Held {
    serial: String,
    ends: Timestamp,
}

/// What the vault answers.
#[derive(Deserialize)]
struct Issued {
    certificate: String,
    #[serde(default)]
    ca_chain: Vec<String>,
    #[serde(default)]
    issuing_ca: String,
    serial_number: String,
}

impl Issued {
    /// Those above it, nearest first.
    fn above(&self) -> Vec<&str> {
        let nearest = Some(self.issuing_ca.as_str()).filter(|pem| self.ca_chain.is_empty() && !pem.is_empty());
        self.ca_chain.iter().map(String::as_str).chain(nearest).collect()
    }
}

impl Certificate {
    pub(super) fn new(name: String, of: &config::Certificate) -> Result<Self> {
        let owner = of.owner.as_deref().map(Owner::parse).transpose();
        let owner = owner.with_context(|| format!("{name}.owner"))?.unwrap_or_default();
        let public = of.public_mode().with_context(|| format!("{name}.mode"))?;
        let key = of.key_apart().map(|path| Output::new(path, PRIVATE, owner));
        let chain = Output::new(&of.certificate, if key.is_some() { public } else { PRIVATE }, owner);
        let ca = of.ca.as_deref().map(|path| Output::new(path, public, owner));
        for output in [Some(&chain), key.as_ref(), ca.as_ref()].into_iter().flatten() {
            output.sweep();
        }
        let due = Timestamp::from_unix_millis(0);
        Ok(Self { name, of: of.clone(), chain, key, ca, held: None, failures: 0, due, trouble: None, over: false })
    }

    /// When there is something to do, or to tell.
    pub(super) fn wakes(&self) -> Timestamp {
        self.held.as_ref().filter(|_| !self.over).map_or(self.due, |held| self.due.min(after(held.ends)))
    }

    /// The files hold one of this agent's.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Why there is no other one yet, where one is due.
    pub(super) fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }

    pub(super) fn status(&self) -> CertificateStatus {
        CertificateStatus {
            file: self.of.certificate.display().to_string(),
            serial: self.held.as_ref().map(|held| held.serial.clone()),
            ends: self.held.as_ref().map(|held| held.ends.unix_millis()),
            expired: self.over,
        }
    }

    /// Has another one issued where that is due; tells whether the files were replaced.
    pub(super) async fn attend(&mut self, vault: &Vault) -> Result<bool, Fault> {
        let now = SystemClock.now();
        self.tell_end(now);
        if now < self.due {
            return Ok(false);
        }
        let outcome = self.replace(vault).await;
        let now = SystemClock.now();
        let file = self.of.certificate.display();
        match outcome {
            Ok(held) => {
                tracing::info!(%file, serial = held.serial, "a certificate was issued and written");
                self.due = renewal(now, held.ends, Spread::random());
                (self.failures, self.trouble, self.over, self.held) = (0, None, false, Some(held));
                Ok(true)
            }
            Err(fault) => {
                self.failures = self.failures.saturating_add(1);
                let left = self.held.as_ref().map_or(Duration::ZERO, |held| held.ends.since(now));
                let wait = again(self.failures, fault.retry_after(), left, Spread::random());
                self.due = now.plus(wait);
                let secs = wait.as_secs_f32();
                tracing::warn!(%file, %fault, retry_in_secs = secs, "no other certificate: what stands stays");
                let fault = Fault::In { section: self.name.clone(), fault: Box::new(fault) };
                self.trouble = Some(fault.to_string());
                Err(fault)
            }
        }
    }

    fn tell_end(&mut self, now: Timestamp) {
        let ends = self.held.as_ref().map(|held| held.ends);
        if !self.over && ends.is_some_and(|ends| now >= after(ends)) {
            self.over = true;
            tracing::error!(file = %self.of.certificate.display(), "the certificate has expired, and there is no other one yet");
        }
    }

    async fn replace(&self, vault: &Vault) -> Result<Held, Fault> {
        let key = NewKey::generate().map_err(Fault::Own)?;
        let body = self.request(&key).map_err(Fault::Own)?;
        let path = format!("{}/sign/{}", self.of.mount.trim_matches('/'), self.of.role);
        let answer = vault.write(&path, &body, Repeat::Never).await?;
        let issued: Issued = answer.parse_as()?;
        self.keep(&issued, &key).map_err(Fault::Own)
    }

    fn request(&self, key: &NewKey) -> Result<SecretBytes> {
        let csr = names(&self.of)?.serialize_request(key).context("no request can be made")?.pem()?;
        // beside the request: whether its names count is the role's to say
        let mut body = json!({
            "csr": csr,
            "common_name": self.of.common_name,
            "alt_names": self.of.alt_names,
            "ip_sans": self.of.ip_sans,
            "uri_sans": self.of.uri_sans,
        });
        if let Some(ttl) = self.of.ttl_secs {
            body["ttl"] = format!("{ttl}s").into();
        }
        Ok(SecretBytes::from_vec(body.to_string().into_bytes()))
    }

    /// All files are written beside their names before the first of them is exchanged.
    fn keep(&self, issued: &Issued, key: &NewKey) -> Result<Held> {
        let ends = ends(&issued.certificate, key)?;
        ensure!(after(ends) > SystemClock.now(), "what was issued is over by this machine's clock: compare the clocks");
        let above = issued.above();
        // whoever believes one that has signed itself has it
        let between = above.iter().copied().filter(|pem| !signs_itself(pem));
        let chain = joined(std::iter::once(issued.certificate.as_str()).chain(between));
        let (above, private) = (joined(above.iter().copied()), key.pem()?);
        let ca = self.ca.as_ref().map(|ca| ca.prepare(&above)).transpose()?.flatten();
        let (key, chain) = match &self.key {
            Some(key) => (key.prepare(&private)?, self.chain.prepare(&chain)?),
            None => (None, self.chain.prepare(&both(&chain, &private))?),
        };
        let files = [ca, key, chain];
        files.iter().flatten().try_for_each(Prepared::sync)?;
        files.into_iter().flatten().try_for_each(Prepared::finish)?;
        Ok(Held { serial: issued.serial_number.clone(), ends })
    }
}

/// When the first certificate in a text ends, which is this key's.
fn ends(certificate: &str, key: &NewKey) -> Result<Timestamp> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("the vault's answer is no certificate")?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| anyhow!("the vault's answer is no certificate"))?;
    ensure!(parsed.public_key().subject_public_key.data == key.der_bytes(), "the vault certified another key");
    let secs = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Timestamp::from_unix_millis(secs.saturating_mul(1000)))
}

/// A certificate counts to the end of its last second (RFC 5280 §4.1.2.5).
fn after(ends: Timestamp) -> Timestamp {
    ends.plus(Duration::from_secs(1))
}

fn signs_itself(pem: &str) -> bool {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    der.is_some_and(|der| X509Certificate::from_der(&der).is_ok_and(|(_, read)| read.subject() == read.issuer()))
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> SecretBytes {
    SecretBytes::from_vec(texts.map(|text| format!("{}\n", text.trim_end())).collect::<String>().into_bytes())
}

fn both(chain: &SecretBytes, key: &SecretBytes) -> SecretBytes {
    SecretBytes::init_with(chain.len() + key.len(), |bytes| {
        let (first, second) = bytes.split_at_mut(chain.len());
        first.copy_from_slice(chain.expose());
        second.copy_from_slice(key.expose());
    })
}

/// At half of what is left of its life, and never at once.
fn renewal(now: Timestamp, ends: Timestamp, spread: Spread) -> Timestamp {
    now.plus(half_of(ends.since(now), spread).max(LEAST))
}

/// Ever more rarely, but several times while what stands still counts.
fn again(failures: u32, asked: Option<Duration>, left: Duration, spread: Spread) -> Duration {
    let wait = back_off(failures, asked, spread);
    if left.is_zero() { wait } else { wait.min((left / 3).max(LEAST)) }
}

/// The names that are asked for, as a request has them (RFC 2986).
fn names(of: &config::Certificate) -> Result<CertificateParams> {
    let text = |text: &str| Ia5String::try_from(text).context("a name is not ASCII");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !of.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, of.common_name.as_str());
    }
    for name in &of.alt_names {
        let kind = if name.contains('@') { SanType::Rfc822Name } else { SanType::DnsName };
        params.subject_alt_names.push(kind(text(name)?));
    }
    params.subject_alt_names.extend(of.ip_sans.iter().map(|ip| SanType::IpAddress(*ip)));
    for uri in &of.uri_sans {
        params.subject_alt_names.push(SanType::URI(text(uri)?));
    }
    Ok(params)
}

/// P-256. Wiped with this.
struct NewKey(EcdsaKeyPair);

impl NewKey {
    fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        Ok(Self(pair.map_err(|_| anyhow!("no key can be made"))?))
    }

    /// PKCS#8 (RFC 5958) in PEM.
    fn pem(&self) -> Result<SecretBytes> {
        let der = self.0.to_pkcs8v1().map_err(|_| anyhow!("the key cannot be written"))?;
        let text = Zeroizing::new(STANDARD.encode(der.as_ref()));
        // never moved: what it leaves behind is not wiped
        let mut pem = Vec::with_capacity(text.len() + text.len() / 64 + 64);
        pem.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.extend_from_slice(line);
            pem.push(b'\n');
        }
        pem.extend_from_slice(b"-----END PRIVATE KEY-----\n");
        Ok(SecretBytes::from_vec(pem))
    }
}

impl PublicKeyData for NewKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for NewKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signed.as_ref().to_vec())
    }
}

/// Of what holds a key.
const PRIVATE: u32 = 0o600;
const LEAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa, Issuer};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    const MIDDLE: Spread = Spread(128);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn it_is_renewed_at_half_of_its_life_and_a_failure_is_tried_again_while_it_counts() {
        let now = Timestamp::from_unix_millis(1_800_000_000_000);
        for (life, least, most) in [(3600, 1800, 1810), (20, 10, 11), (1, 1, 1), (0, 1, 1)] {
            let waited = renewal(now, now.plus(secs(life)), MIDDLE).since(now).as_secs();
            assert!((least..=most).contains(&waited), "{life}: {waited}");
        }
        // one that has ended by this machine's clock
        assert_eq!(renewal(now, Timestamp::from_unix_millis(0), MIDDLE), now.plus(LEAST));
        for (failures, asked, left, expected) in [
            (1, None, 1000, 250),
            (9, None, 1000, 60_000),
            (9, None, 30, 10_000),
            (9, None, 2, 1000),
            (9, None, 0, 60_000),
            (1, Some(secs(7)), 1000, 7000),
        ] {
            let waited = again(failures, asked, secs(left), MIDDLE).as_millis();
            assert!(waited.abs_diff(expected) <= expected / 50, "{failures} {left}: {waited}");
        }
    }

    fn section(dir: &Path, files: &str) -> config::Certificate {
        let files = files.replace("DIR", &dir.display().to_string());
        let text = format!(
            "role = \"web\"\ncommon_name = \"a.example\"\nalt_names = [\"b.example\", \"me@c.example\"]\nip_sans = [\"::1\"]\n{files}"
        );
        toml::from_str(&text).unwrap()
    }

    /// As the vault answers: a root above one between above the leaf.
    fn issue(key: &NewKey, of: &config::Certificate) -> Issued {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let keys = [rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap()];
        let (first, second) = (authority("root"), authority("sub"));
        let root = first.self_signed(&keys[0]).unwrap();
        let sub = second.signed_by(&keys[1], &Issuer::from_params(&first, &keys[0])).unwrap();
        let leaf = names(of).unwrap().signed_by(key, &Issuer::from_params(&second, &keys[1])).unwrap();
        let ca_chain = vec![sub.pem(), root.pem()];
        Issued { certificate: leaf.pem(), ca_chain, issuing_ca: sub.pem(), serial_number: "01:02".to_owned() }
    }

    #[test]
    fn a_pair_is_written_to_one_file_or_two_and_one_of_another_key_to_none() {
        for files in [
            "certificate = \"DIR/both\"",
            "certificate = \"DIR/both\"\nkey = \"DIR/both\"",
            "certificate = \"DIR/chain\"\nkey = \"DIR/key\"\nca = \"DIR/ca\"\nmode = \"0640\"",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let of = section(dir.path(), files);
            let (certificate, key) =
                (Certificate::new("certificate[0]".into(), &of).unwrap(), NewKey::generate().unwrap());
            let issued = issue(&key, &of);
            let stranger = NewKey::generate().unwrap();
            assert!(certificate.keep(&issued, &stranger).err().unwrap().to_string().contains("another key"));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            assert_eq!(certificate.keep(&issued, &key).ok().unwrap().serial, "01:02");
            let read =
                |path: &Path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect::<Vec<_>>();
            // without the root, and with its own key
            let (chain, key_file) = (of.certificate.clone(), of.key.clone().unwrap_or(of.certificate.clone()));
            assert_eq!(read(&chain).len(), 2);
            let private = rustls_pki_types::PrivateKeyDer::from_pem_file(&key_file).unwrap();
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            rustls::sign::CertifiedKey::from_der(read(&chain), private, &provider).unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&key_file), 0o600);
            if let Some(ca) = &of.ca {
                assert_eq!((read(ca).len(), mode(ca), mode(&chain)), (2, 0o640, 0o640));
            }
        }
    }

    #[test]
    fn a_request_has_the_names_in_itself_and_beside_it_and_never_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let of = section(dir.path(), "certificate = \"DIR/both\"\nttl_secs = 90");
        let (certificate, key) = (Certificate::new("certificate[0]".into(), &of).unwrap(), NewKey::generate().unwrap());
        let body: serde_json::Value = serde_json::from_slice(certificate.request(&key).unwrap().expose()).unwrap();
        assert_eq!((&body["common_name"], &body["ttl"]), (&json!("a.example"), &json!("90s")));
        assert_eq!((&body["alt_names"], &body["ip_sans"]), (&json!(["b.example", "me@c.example"]), &json!(["::1"])));
        let csr = body["csr"].as_str().unwrap();
        assert!(csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{csr}");
        let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
        let (_, read) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
        assert_eq!(read.certification_request_info.subject.to_string(), "CN=a.example");
        assert_eq!(read.certification_request_info.subject_pki.subject_public_key.data, key.der_bytes());
        let pem = key.pem().unwrap();
        let secret = std::str::from_utf8(pem.expose()).unwrap().lines().nth(1).unwrap().to_owned();
        assert!(!body.to_string().contains(&secret));
    }
}
