//! Authorities whose keys live in the boundary, and what they issue.

use crate::rig::{ROOT, Rig, START, With, everything_stored, minted};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::{CertificateParams, DnType, SanType};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, Pem};
use x509_parser::revocation_list::CertificateRevocationList;

const HOUR: Duration = Duration::from_secs(3600);

/// A root for ten years, and a role for servers below `example.com`.
async fn mounted() -> Rig {
    let rig = Rig::new().await;
    mount(&rig, "pki").await;
    let root = json!({"common_name": "Root", "key_type": "ec", "ttl": "87600h", "issuer_name": "first"});
    rig.done(Write, "pki/root/generate/internal", root).await;
    rig.done(Write, "pki/roles/web", web()).await;
    rig
}

async fn mount(rig: &Rig, at: &str) {
    let config = json!({"max_lease_ttl": "87600h", "default_lease_ttl": "24h"});
    rig.done(Write, &format!("sys/mounts/{at}"), json!({"type": "pki", "config": config})).await;
}

fn web() -> Value {
    json!({"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "ec", "max_ttl": "72h"})
}

fn der(pem: &Value) -> Vec<u8> {
    let text = pem.as_str().unwrap_or_else(|| panic!("{pem} is no PEM"));
    Pem::iter_from_buffer(text.as_bytes()).next().unwrap().unwrap().contents
}

fn parsed(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let found = certificate.subject_alternative_name().unwrap();
    found.map_or(Vec::new(), |found| found.value.general_names.iter().map(ToString::to_string).collect())
}

fn request(set: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    set(&mut params);
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

/// As the audit log names a certificate.
fn which(told: &Value) -> String {
    let until = time::OffsetDateTime::from_unix_timestamp(told["expiration"].as_i64().unwrap()).unwrap();
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let sha256 = hex::encode(envelope::mac::sha256(&der(&told["certificate"])));
    format!("serial={} sha256={sha256} until={until}", told["serial_number"].as_str().unwrap())
}

fn named(name: &str) -> String {
    request(|params| params.distinguished_name.push(DnType::CommonName, name))
}

impl Rig {
    async fn told(&self, verb: vault::Verb, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.root(verb, path, body).await;
        (status, answer["errors"][0].as_str().unwrap_or_default().to_owned())
    }

    async fn issued(&self, body: Value) -> Value {
        self.done(Write, "pki/issue/web", body).await
    }

    /// Serial numbers on the list of the default issuer, and its number.
    async fn listed(&self) -> (Vec<String>, u64) {
        let (status, der) = self.raw("pki/crl").await;
        assert_eq!(status, 200);
        let (rest, list) = CertificateRevocationList::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let ca = self.raw("pki/ca").await.1;
        list.verify_signature(&parsed(&ca).tbs_certificate.subject_pki).unwrap();
        let serials = list.iter_revoked_certificates().map(|one| one.raw_serial_as_string()).collect();
        let number = list.crl_number().unwrap();
        (serials, number.to_u64_digits().first().copied().unwrap_or_default())
    }
}

#[tokio::test]
async fn a_leaf_is_what_its_role_says_and_ends_before_its_authority() {
    let rig = mounted().await;
    let ca = rig.raw("pki/ca").await.1;
    let root = parsed(&ca);
    root.verify_signature(None).unwrap();
    assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());
    let asked =
        json!({"common_name": "a.example.com", "alt_names": "b.example.com", "ip_sans": "192.0.2.1", "ttl": "1h"});
    let (issued, records) = rig.recorded(rig.issued(asked)).await;
    let leaf = der(&issued["certificate"]);
    let leaf = parsed(&leaf);
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(leaf.issuer(), root.subject());
    assert_eq!(leaf.subject().to_string(), "CN=a.example.com");
    assert_eq!(names(&leaf), ["DNSName(b.example.com)", "DNSName(a.example.com)", "IPAddress(c0:00:02:01)"]);
    let now = i64::try_from(START.unix_secs()).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), now - 30);
    assert_eq!(leaf.validity().not_after.timestamp(), now + 3600);
    assert_eq!(issued["expiration"], now + 3600);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any && !leaf.is_ca());
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert_eq!(issued["serial_number"].as_str(), Some(leaf.raw_serial_as_string().as_str()));
    assert_eq!(leaf.raw_serial().len(), 20);
    // the key is the certificate's, and nobody else has it
    let key = der(&issued["private_key"]);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key).unwrap();
    assert_eq!(pair.public_key().as_ref(), leaf.public_key().subject_public_key.data.as_ref());
    let text = issued["private_key"].as_str().unwrap().lines().nth(1).unwrap();
    assert!(!records.iter().any(|record| record.to_string().contains(text)));
    // the key domain's own record, then the certificate's, which names the key of the authority
    let operations: Vec<_> = records.iter().map(|record| record["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["Sign", "VaultWrite"], "{records:?}");
    assert!(records[1]["items"][0]["key_id"].is_string() && records[1]["changes"].as_array().unwrap().len() == 2);
    assert_eq!(records[1]["proof"], which(&issued));
    for (bits, kind, size) in [(0, "rsa", 2048), (384, "ec", 384), (0, "ed25519", 0)] {
        let role = json!({"allow_any_name": true, "key_type": kind, "key_bits": bits});
        rig.done(Write, "pki/roles/any", role).await;
        let issued = rig.done(Write, "pki/issue/any", json!({"common_name": "x.test", "format": "pem_bundle"})).await;
        assert_eq!(issued["private_key_type"], kind);
        let bundle = issued["certificate"].as_str().unwrap();
        let parts: Vec<_> = Pem::iter_from_buffer(bundle.as_bytes()).map(|part| part.unwrap()).collect();
        let labels: Vec<_> = parts.iter().map(|part| part.label.as_str()).collect();
        assert_eq!(labels, ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"], "{kind}");
        let leaf = parts[1].parse_x509().unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert!(size == 0 || leaf.public_key().parsed().unwrap().key_size() >= size, "{kind}");
    }
}

#[tokio::test]
async fn what_a_role_does_not_allow_is_refused_by_name() {
    let rig = mounted().await;
    rig.done(
        Write,
        "pki/roles/uri",
        json!({"allowed_uri_sans": "spiffe://example.com/*", "require_cn": false, "key_type": "ec"}),
    )
    .await;
    rig.done(Write, "pki/roles/any", json!({"allow_any_name": true, "key_type": "any", "allow_ip_sans": false})).await;
    rig.done(Write, "pki/roles/long", json!({"allow_any_name": true, "key_type": "ec", "max_ttl": "87600h"})).await;
    let long = "a".repeat(65);
    for (path, body, told) in [
        ("issue/none", json!({"common_name": "a.example.com"}), "unknown role: none"),
        ("issue/web", json!({}), "the common_name field is required"),
        ("issue/web", json!({"common_name": "example.com"}), "common name example.com not allowed by this role"),
        ("issue/web", json!({"common_name": "a.example.com.evil.test"}), "not allowed by this role"),
        ("issue/web", json!({"common_name": "aexample.com"}), "not allowed by this role"),
        (
            "issue/web",
            json!({"common_name": "a.example.com", "alt_names": "evil.test"}),
            "alternate name evil.test not",
        ),
        (
            "issue/web",
            json!({"common_name": "a.example.com", "alt_names": "a.b@evil.test"}),
            "alternate name a.b@evil.test",
        ),
        ("issue/web", json!({"common_name": "a.example.com", "alt_names": "a\u{0}.example.com"}), "alt_names"),
        ("issue/web", json!({"common_name": "*.*.example.com"}), "not allowed"),
        (
            "issue/web",
            json!({"common_name": "a.example.com", "uri_sans": "spiffe://x/y"}),
            "URI Subject Alternative Names",
        ),
        ("issue/web", json!({"common_name": "a.example.com", "ip_sans": "evil.test"}), "ip_sans: no IP address"),
        (
            "issue/web",
            json!({"common_name": "a.example.com", "other_sans": "1.2.3;UTF8:x"}),
            "other_sans: not supported",
        ),
        ("issue/web", json!({"common_name": "a.example.com", "not_after": "9999-12-31T23:59:59Z"}), "not_after"),
        ("issue/web", json!({"common_name": "a.example.com", "format": "p12"}), "format"),
        ("issue/web", json!({"common_name": format!("{long}.example.com")}), "common name"),
        ("issue/uri", json!({"uri_sans": "spiffe://evil.test/a"}), "URI spiffe://evil.test/a not allowed"),
        ("issue/uri", json!({"uri_sans": "spiffe://example.com/../a"}), "not allowed"),
        ("issue/any", json!({"common_name": "a.test"}), "role key type \"any\" not allowed"),
        ("issue/long", json!({"common_name": "a.test", "ttl": "87601h"}), ""),
        ("issue/long", json!({"common_name": "a.test", "ttl": "87600h"}), ""),
        ("sign/any", json!({"csr": "x"}), "csr: not a certificate request"),
        ("sign/any", json!({}), "csr: missing"),
        (
            "sign/any",
            json!({"csr": request(|params| params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())]) }),
            "the common_name",
        ),
        ("sign/web", json!({"csr": named("evil.test")}), "common name evil.test not allowed"),
        ("sign/web", json!({"csr": named("evil.test"), "common_name": "a.example.com"}), "common name evil.test not"),
        ("sign-verbatim", json!({"csr": named("evil.test")}), "sign-verbatim"),
        ("sign-verbatim/web", json!({"csr": named("evil.test")}), "sign-verbatim"),
        ("issuer/default/sign-verbatim", json!({"csr": named("evil.test")}), "sign-verbatim"),
        ("issuer/none/issue/web", json!({"common_name": "a.example.com"}), "unable to find PKI issuer"),
        ("root/generate/exported", json!({"common_name": "x"}), "never leaves the boundary"),
        ("root/generate/existing", json!({"common_name": "x"}), "made inside the boundary"),
        ("root/generate/internal", json!({}), "common_name: missing"),
        ("root/generate/internal", json!({"common_name": "x", "key_type": "ed25519"}), "key_type"),
        ("root/generate/internal", json!({"common_name": "x", "key_type": "ec", "key_bits": 384}), "key_bits"),
        ("root/generate/internal", json!({"common_name": "x", "issuer_name": "first"}), "issuer_name: taken"),
        ("root/generate/internal", json!({"common_name": "x", "issuer_name": "default"}), "issuer_name: taken"),
        (
            "root/generate/internal",
            json!({"common_name": "x", "permitted_dns_domains": "*.x"}),
            "permitted_dns_domains",
        ),
        ("root/generate/internal", json!({"common_name": "x", "max_path_length": 300}), "max_path_length"),
        ("root/generate/internal", json!({"common_name": "x", "excluded_email_addresses": "x"}), "excluded_email_"),
        (
            "root/generate/internal",
            json!({"common_name": "x", "permitted_uri_domains": ["x"]}),
            "permitted_uri_domains",
        ),
        ("root/sign-intermediate", json!({"csr": named("Sub"), "excluded_uri_domains": "x"}), "excluded_uri_domains"),
        (
            "intermediate/generate/internal",
            json!({"common_name": "x", "permitted_dns_domains": "x"}),
            "permitted_dns_domains: not of a request",
        ),
        (
            "intermediate/generate/internal",
            json!({"common_name": "x", "excluded_ip_ranges": ["10.0.0.0/8"]}),
            "excluded_ip_ranges: not of a request",
        ),
        (
            "intermediate/generate/internal",
            json!({"common_name": "x", "permitted_email_addresses": "x"}),
            "permitted_email_addresses: not supported",
        ),
        ("intermediate/set-signed", json!({"certificate": "x"}), "certificate"),
        ("root/sign-intermediate", json!({"csr": named("Sub"), "ttl": "87601h", "common_name": "Sub"}), ""),
        ("roles/new", json!({"key_usage": "CertSign"}), "key_usage: unknown, or an authority's"),
        ("roles/new", json!({"ext_key_usage": "Any"}), "ext_key_usage"),
        ("roles/new", json!({"ext_key_usage_oids": "2.5.29.37.0"}), "ext_key_usage_oids"),
        ("roles/new", json!({"allowed_domains": "*", "allow_glob_domains": true}), "allowed_domains"),
        ("roles/new", json!({"allowed_domains": "{{identity.entity.name}}.x"}), "templates"),
        ("roles/new", json!({"allowed_domains_template": true}), "allowed_domains_template: not supported"),
        ("roles/new", json!({"key_type": "dsa"}), "key_type"),
        ("roles/new", json!({"key_type": "rsa", "key_bits": 1024}), "key_bits"),
        ("roles/new", json!({"ttl": "2h", "max_ttl": "1h"}), "\"ttl\" value must be less"),
        ("roles/new", json!({"generate_lease": true}), "generate_lease"),
        ("roles/new", json!({"country": "Europe"}), "country"),
        ("roles/a%20b", json!({}), "name"),
        ("config/crl", json!({"disable": true}), "disable: not supported"),
        ("config/crl", json!({"expiry": "1s"}), "expiry"),
        ("config/urls", json!({"crl_distribution_points": "file:///etc/passwd"}), "crl_distribution_points"),
        ("revoke", json!({}), "one of serial_number and certificate"),
        ("revoke", json!({"serial_number": "../../x"}), "serial_number"),
        ("revoke", json!({"serial_number": "aa:bb"}), "certificate with serial aabb not found"),
    ] {
        rig.clock.advance(Duration::from_secs(1));
        let (status, error) = rig.told(Write, &format!("pki/{path}"), body.clone()).await;
        // the clock went on: what would have ended with its authority ends after it
        let told = if told.is_empty() { "beyond the expiration of the CA certificate" } else { told };
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
    assert_eq!(rig.listed().await.0, [""; 0]);
    assert_eq!(rig.done(List, "pki/certs", Value::Null).await["keys"].as_array().unwrap().len(), 1);
    // no authority, no certificate
    mount(&rig, "empty").await;
    rig.done(Write, "empty/roles/web", web()).await;
    let (status, error) = rig.told(Write, "empty/issue/web", json!({"common_name": "a.example.com"})).await;
    assert!(status == 400 && error.contains("no default issuer"), "{error}");
    // a policy's holder does what it says and no more
    let only = minted(&rig, "only", "path \"pki/issue/web\" { capabilities = [\"update\"] }").await;
    let with = || With { token: Some(&only), ..With::default() };
    let body = json!({"common_name": "a.example.com"});
    assert_eq!(rig.ask(Write, "pki/issue/web", body.clone(), with()).await.0, 200);
    for (verb, path) in [(Write, "pki/issue/long"), (Write, "pki/revoke"), (Read, "pki/roles/web"), (List, "pki/certs")]
    {
        assert_eq!(rig.ask(verb, path, body.clone(), with()).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn a_request_is_certified_as_its_role_says_and_never_as_an_authority() {
    let rig = mounted().await;
    let csr = request(|params| {
        params.distinguished_name.push(DnType::CommonName, "a.example.com");
        params.distinguished_name.push(DnType::OrganizationName, "Evil");
        params.subject_alt_names = vec![SanType::DnsName("b.example.com".try_into().unwrap())];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let signed = rig.done(Write, "pki/sign/web", json!({"csr": csr, "ttl": "1h"})).await;
    assert!(signed.get("private_key").is_none());
    let leaf = der(&signed["certificate"]);
    let leaf = parsed(&leaf);
    assert_eq!(leaf.subject().to_string(), "CN=a.example.com");
    assert_eq!(names(&leaf), ["DNSName(b.example.com)", "DNSName(a.example.com)"]);
    assert!(!leaf.is_ca());
    // somebody else's key under another's signature
    let (one, other) = (csr.clone(), named("a.example.com"));
    let (mut forged, stolen) = (der(&json!(one)), der(&json!(other)));
    let tail = forged.len() - 60;
    forged.truncate(tail);
    forged.extend_from_slice(&stolen[stolen.len() - 60..]);
    let text = rcgen_pem("CERTIFICATE REQUEST", &forged);
    let (status, error) = rig.told(Write, "pki/sign/web", json!({"csr": text})).await;
    assert!(status == 400 && error.starts_with("csr: "), "{error}");
}

fn rcgen_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[tokio::test]
async fn an_authority_below_another_is_certified_and_issues() {
    let rig = mounted().await;
    mount(&rig, "sub").await;
    let asked = json!({"common_name": "Sub", "key_type": "ec", "organization": "Example"});
    let made = rig.done(Write, "sub/intermediate/generate/internal", asked).await;
    let csr = made["csr"].as_str().unwrap();
    let body = json!({"csr": csr, "use_csr_values": true, "ttl": "43800h", "max_path_length": 0, "permitted_dns_domains": "example.com"});
    let (signed, records) = rig.recorded(rig.done(Write, "pki/root/sign-intermediate", body)).await;
    assert_eq!(records.last().unwrap()["proof"], which(&signed));
    let bundle = [signed["certificate"].as_str().unwrap(), signed["issuing_ca"].as_str().unwrap()].join("\n");
    // the certificate of no key that waits, or one that is no authority's
    let leaf = rig.issued(json!({"common_name": "a.example.com"})).await;
    for wrong in [&leaf["certificate"], &signed["issuing_ca"]] {
        let (status, error) = rig.told(Write, "sub/intermediate/set-signed", json!({"certificate": wrong})).await;
        assert!(status == 400 && error.contains("no key that waits"), "{error}");
    }
    let upside_down = [signed["certificate"].as_str().unwrap(), signed["certificate"].as_str().unwrap()].join("\n");
    let (_, error) = rig.told(Write, "sub/intermediate/set-signed", json!({"certificate": upside_down})).await;
    assert!(error.contains("each is signed by the next"), "{error}");
    rig.done(Write, "sub/intermediate/set-signed", json!({"certificate": bundle, "issuer_name": "sub"})).await;
    let certificate = der(&signed["certificate"]);
    let sub = parsed(&certificate);
    assert_eq!(sub.subject().to_string(), "O=Example, CN=Sub");
    let ca = rig.raw("pki/ca").await.1;
    sub.verify_signature(Some(parsed(&ca).public_key())).unwrap();
    assert_eq!(sub.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert!(sub.name_constraints().unwrap().unwrap().critical);
    rig.done(Write, "sub/roles/web", web()).await;
    let issued = rig.done(Write, "sub/issue/web", json!({"common_name": "a.example.com"})).await;
    assert_eq!(issued["ca_chain"].as_array().unwrap().len(), 2);
    let leaf = der(&issued["certificate"]);
    parsed(&leaf).verify_signature(Some(sub.public_key())).unwrap();
    let chain = rig.raw("sub/ca_chain").await.1;
    assert_eq!(Pem::iter_from_buffer(&chain).count(), 2);
    // its path length allows none below
    let other = json!({"csr": csr, "common_name": "Sub sub", "ttl": "1h"});
    let (status, error) = rig.told(Write, "sub/root/sign-intermediate", other).await;
    assert!(status == 400 && error.contains("path length"), "{error}");
    // what it issues ends with it
    let (status, error) = rig.told(Write, "sub/issue/web", json!({"common_name": "a.example.com", "ttl": "72h"})).await;
    assert_eq!((status, error.as_str()), (200, ""));
    rig.clock.advance(43_799 * HOUR);
    let (status, error) = rig.told(Write, "sub/issue/web", json!({"common_name": "a.example.com", "ttl": "72h"})).await;
    assert!(status == 400 && error.contains("beyond the expiration"), "{error}");
}

#[tokio::test]
async fn what_is_revoked_is_on_the_list_in_the_commit_that_records_it() {
    let rig = mounted().await;
    assert_eq!(rig.listed().await, (vec![], 1));
    let first = rig.issued(json!({"common_name": "a.example.com"})).await;
    let (serial, path) = (first["serial_number"].as_str().unwrap(), "pki/revoke");
    let (revoked, records) = rig.recorded(rig.done(Write, path, json!({"serial_number": serial}))).await;
    assert_eq!(revoked["revocation_time"], START.unix_secs());
    // its record, its place on the list, and the list
    let changes = records.last().unwrap()["changes"].as_array().unwrap().len();
    assert_eq!((records.len(), changes), (2, 3), "{records:?}");
    assert_eq!(records[1]["proof"], which(&first));
    assert_eq!(rig.listed().await, (vec![serial.to_owned()], 2));
    // once more: as it was
    rig.clock.advance(HOUR);
    assert_eq!(rig.done(Write, path, json!({"serial_number": serial.replace(':', "-")})).await, revoked);
    let read = rig.done(Read, &format!("pki/cert/{serial}"), Value::Null).await;
    assert_eq!(read["revocation_time"], START.unix_secs());
    assert_eq!(rig.done(List, "pki/certs/revoked", Value::Null).await["keys"], json!([serial]));
    // one that is not stored is revoked by itself; nobody else's is
    rig.done(Write, "pki/roles/unstored", json!({"allow_any_name": true, "key_type": "ec", "no_store": true})).await;
    let unstored = rig.done(Write, "pki/issue/unstored", json!({"common_name": "a.test"}));
    let (unstored, records) = rig.recorded(unstored).await;
    assert_eq!((records.len(), &records[1]["proof"]), (2, &json!(which(&unstored))));
    let number = unstored["serial_number"].as_str().unwrap();
    assert_eq!(rig.root(Read, &format!("pki/cert/{number}"), Value::Null).await.0, 404);
    mount(&rig, "other").await;
    rig.done(Write, "other/root/generate/internal", json!({"common_name": "Root", "key_type": "ec"})).await;
    for at in ["other", "pki"] {
        let (status, _) =
            rig.told(Write, &format!("{at}/revoke"), json!({"certificate": unstored["certificate"]})).await;
        assert_eq!(status, if at == "pki" { 200 } else { 400 }, "{at}");
    }
    let (serials, _) = rig.listed().await;
    assert!(serials.len() == 2 && serials.contains(&number.to_owned()), "{serials:?}");
    // not itself, not what is over
    let ca = String::from_utf8(rig.raw("pki/ca/pem").await.1).unwrap();
    let (status, error) = rig.told(Write, path, json!({"certificate": ca})).await;
    assert!(status == 400 && error.contains("its own CRL"), "{error}");
    let short = rig.issued(json!({"common_name": "s.example.com", "ttl": "1m"})).await;
    rig.clock.advance(HOUR);
    let (_, answer) = rig.root(Write, path, json!({"serial_number": short["serial_number"]})).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("already expired"), "{answer}");
    assert_eq!(rig.listed().await.0.len(), 2);
}

#[tokio::test]
async fn of_revocations_at_once_none_is_lost() {
    let rig = mounted().await;
    let mut serials = Vec::new();
    for at in 0..8 {
        let issued = rig.issued(json!({"common_name": format!("h{at}.example.com")})).await;
        serials.push(issued["serial_number"].as_str().unwrap().to_owned());
    }
    let all = serials.iter().map(|serial| rig.root(Write, "pki/revoke", json!({"serial_number": serial})));
    for (status, body) in futures_util::future::join_all(all).await {
        assert_eq!(status, 200, "{body}");
    }
    let (mut listed, number) = rig.listed().await;
    listed.sort_unstable();
    serials.sort_unstable();
    assert_eq!((listed, number), (serials, 9));
}

#[tokio::test]
async fn lists_are_renewed_in_time_and_what_is_over_goes() {
    let rig = mounted().await;
    let issued = rig.issued(json!({"common_name": "a.example.com", "ttl": "24h"})).await;
    rig.done(Write, "pki/revoke", json!({"serial_number": issued["serial_number"]})).await;
    let stored = everything_stored(&rig).await.len();
    // a certificate that is over stays on the list until the next one
    for (hours, number, on_list) in [(0, 2, 1), (35, 2, 1), (1, 3, 1), (36, 4, 1), (24, 4, 1), (12, 5, 0)] {
        rig.clock.advance(hours * HOUR);
        let ((), records) =
            rig.recorded(async { vault::tend(&rig.vault, rig.clock_now()).await.map(|_| ()).unwrap() }).await;
        let (serials, found) = rig.listed().await;
        assert_eq!((found, serials.len()), (number, on_list), "{hours} {records:?}");
        assert!(records.iter().all(|record| record["subject"]["type"] == "system"), "{records:?}");
    }
    assert_eq!(
        rig.root(Read, &format!("pki/cert/{}", issued["serial_number"].as_str().unwrap()), Value::Null).await.0,
        404
    );
    // the certificate, its end, and its place on the list
    assert_eq!(everything_stored(&rig).await.len(), stored - 3);
    // what is asked for goes at once
    let issued = rig.issued(json!({"common_name": "a.example.com", "ttl": "1h"})).await;
    rig.clock.advance(2 * HOUR);
    let (_, answer) = rig.root(Write, "pki/tidy", json!({"safety_buffer": "1s", "tidy_cert_store": true})).await;
    assert!(answer["warnings"][0].as_str().unwrap().starts_with("1 certificates"), "{answer}");
    assert_eq!(
        rig.root(Read, &format!("pki/cert/{}", issued["serial_number"].as_str().unwrap()), Value::Null).await.0,
        404
    );
}

#[tokio::test]
async fn anybody_reads_what_verifiers_need_and_nothing_else() {
    let rig = mounted().await;
    let issued = rig.issued(json!({"common_name": "a.example.com"})).await;
    let one = format!("pki/cert/{}", issued["serial_number"].as_str().unwrap());
    for path in [
        "pki/ca",
        "pki/ca/pem",
        "pki/ca_chain",
        "pki/crl",
        "pki/crl/pem",
        "pki/cert/ca",
        "pki/cert/ca_chain",
        "pki/cert/crl",
        "pki/issuer/first/pem",
        "pki/issuer/default/der",
        "pki/issuer/first/json",
        "pki/issuer/default/crl",
        "pki/issuer/default/crl/pem",
        &one,
    ] {
        let (status, body) = rig.raw(path).await;
        assert!(status == 200 && body.len() > 100, "{path} {status}");
    }
    for path in ["pki/roles/web", "pki/issuer/first", "pki/config/urls", "pki/config/issuers", "pki/crl/rotate"] {
        assert_eq!(rig.raw(path).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn of_several_authorities_one_is_meant_and_each_is_had_by_name() {
    let rig = mounted().await;
    let second = json!({"common_name": "Second", "key_type": "rsa", "issuer_name": "second"});
    let second = rig.done(Write, "pki/root/generate/internal", second).await;
    let urls =
        json!({"issuing_certificates": "http://pki.example/ca", "crl_distribution_points": ["http://pki.example/crl"]});
    rig.done(Write, "pki/config/urls", urls).await;
    let listed = rig.done(List, "pki/issuers", Value::Null).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    let by_name = rig.done(Write, "pki/issuer/second/issue/web", json!({"common_name": "a.example.com"})).await;
    let (leaf, ca) = (der(&by_name["certificate"]), rig.raw("pki/issuer/second/der").await.1);
    let leaf = parsed(&leaf);
    leaf.verify_signature(Some(parsed(&ca).public_key())).unwrap();
    assert!(leaf.extensions().iter().any(|extension| extension.oid.to_string() == "2.5.29.31"));
    rig.done(Write, "pki/config/issuers", json!({"default": "second"})).await;
    assert_eq!(rig.done(Read, "pki/config/issuers", Value::Null).await["default"], second["issuer_id"]);
    assert_eq!(rig.raw("pki/ca").await.1, ca);
    rig.done(Write, "pki/issuer/second", json!({"issuer_name": "renamed"})).await;
    assert_eq!(rig.told(Write, "pki/issuer/renamed", json!({"issuer_name": "first"})).await.0, 400);
    // a role's own
    rig.done(
        Write,
        "pki/roles/web",
        json!({"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "ec", "issuer_ref": "first"}),
    )
    .await;
    let issued = rig.done(Write, "pki/issue/web", json!({"common_name": "a.example.com"})).await;
    assert_eq!(parsed(&der(&issued["certificate"])).issuer().to_string(), "CN=Root");
    // with an authority goes its key
    rig.done(Delete, "pki/issuer/first", Value::Null).await;
    let (status, error) = rig.told(Write, "pki/issue/web", json!({"common_name": "a.example.com"})).await;
    assert!(status == 400 && error.contains("unable to find PKI issuer"), "{error}");
    let (status, error) = rig.told(Write, "pki/revoke", json!({"serial_number": issued["serial_number"]})).await;
    assert!(status == 400 && error.contains("gone"), "{error}");
    assert_eq!(rig.root(Delete, "pki/issuer/first", Value::Null).await.0, 204);
    assert!(
        rig.ask(Read, "pki/issuer/renamed", Value::Null, With { token: Some(ROOT), ..With::default() }).await.0 == 200
    );
}
