//! Logins by client certificates, which each role judges by its own authorities.

use crate::jwt::issuer;
use crate::rig::{Rig, START, With};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};

/// An authority, and whatever it certifies.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = (ca(name, |_| {}), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn leaf(&self, set: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let params = client(set);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn certified(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    fn list(&self, serials: &[u64], next_update: (i32, u8, u8)) -> String {
        self.list_of(serials, (2023, 11, 1), next_update)
    }

    fn list_of(&self, serials: &[u64], this_update: (i32, u8, u8), next_update: (i32, u8, u8)) -> String {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2023, 11, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(this_update.0, this_update.1, this_update.2),
            next_update: date_time_ymd(next_update.0, next_update.1, next_update.2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

pub(crate) fn ca(common_name: &str, set: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set(&mut params);
    params
}

fn client(set: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("web");
    params.serial_number = Some(SerialNumber::from(7));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = date_time_ymd(2023, 12, 24);
    params.subject_alt_names = vec![
        SanType::DnsName("web.example.com".try_into().unwrap()),
        SanType::URI("spiffe://example.com/web".try_into().unwrap()),
        SanType::Rfc822Name("web@example.com".try_into().unwrap()),
    ];
    set(&mut params);
    params
}

pub(crate) async fn mounted() -> Rig {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/cert", json!({"type": "cert"})).await;
    rig
}

impl Rig {
    pub(crate) async fn enter(&self, chain: &[Vec<u8>], body: Value) -> (u16, Value) {
        self.ask(Write, "auth/cert/login", body, With { chain: Some(chain), ..With::default() }).await
    }
}

#[tokio::test]
async fn a_login_is_its_certificates_and_so_is_its_token() {
    let rig = mounted().await;
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let middle = root.below(ca("Middle", |_| {}));
    let role = json!({"certificate": root.pem, "allowed_common_names": "w*", "token_ttl": "1h", "token_policies": "p"});
    rig.done(Write, "auth/cert/certs/Web", role).await;
    let direct = vec![root.leaf(|_| {})];
    let through = vec![middle.leaf(|_| {}), middle.der.clone()];
    for chain in [&direct, &through] {
        for body in [json!({}), json!({"name": "web"})] {
            let ((status, answer), records) = rig.recorded(rig.enter(chain, body)).await;
            assert_eq!(status, 200, "{answer}");
            let auth = &answer["auth"];
            assert_eq!((&auth["policies"], &auth["lease_duration"]), (&json!(["default", "p"]), &json!(3600)));
            assert_eq!(auth["metadata"]["cert_name"], "web");
            assert_eq!(auth["metadata"]["common_name"], "web");
            let thumbprint = hex::encode(envelope::mac::sha256(&chain[0]));
            let proof = records.last().unwrap()["proof"].as_str().unwrap();
            assert!(proof.contains(&thumbprint) && proof.contains("serial:07"), "{proof}");
            // whatever is asked with it, the certificate stands beside it
            let token = auth["client_token"].as_str().unwrap();
            let with = |chain| With { token: Some(token), chain, ..With::default() };
            let stranger = [root.leaf(|_| {})];
            for path in ["auth/token/lookup-self", "auth/token/renew-self"] {
                for (chain, status) in [(None, 403), (Some(&stranger[..]), 403), (Some(&chain[..]), 200)] {
                    assert_eq!(rig.ask(Write, path, json!({}), with(chain)).await.0, status, "{path}");
                }
            }
            let (_, looked) = rig.ask(Read, "auth/token/lookup-self", Value::Null, with(Some(&chain[..]))).await;
            assert_eq!(looked["data"]["bound_certificate"], thumbprint);
        }
    }
    // it ends with the certificate, though the role would give more
    let short = vec![root.leaf(|params| params.not_after = date_time_ymd(2023, 11, 15))];
    rig.done(Write, "auth/cert/certs/web", json!({"token_ttl": "100h", "certificate": root.pem})).await;
    let (_, answer) = rig.enter(&short, json!({})).await;
    let left = date_time_ymd(2023, 11, 15).unix_timestamp() - i64::try_from(START.unix_secs()).unwrap();
    assert_eq!(answer["auth"]["lease_duration"], left, "{answer}");
    // what a role says is told as it was said; by no other name
    let read = rig.done(Read, "auth/cert/certs/WEB", Value::Null).await;
    assert_eq!((&read["certificate"], &read["token_ttl"]), (&json!(root.pem), &json!(360_000)));
    assert_eq!(rig.done(List, "auth/cert/certs", Value::Null).await["keys"], json!(["web"]));
    rig.done(Write, "auth/cert/certs/other", json!({"certificate": other.pem})).await;
    let (_, answer) = rig.enter(&[other.leaf(|_| {})], json!({})).await;
    assert_eq!(answer["auth"]["metadata"]["cert_name"], "other");
    rig.done(Delete, "auth/cert/certs/web", Value::Null).await;
    assert_eq!(rig.enter(&direct, json!({})).await.0, 400);
}

#[tokio::test]
async fn what_no_rule_lets_in_is_refused_and_the_record_says_why() {
    let rig = mounted().await;
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let namesake = Authority::root("Root");
    let middle = root.below(ca("Middle", |_| {}));
    let shallow = root.below(ca("Shallow", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    let deep = shallow.below(ca("Deep", |_| {}));
    let narrow = root.below(ca("Narrow", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("elsewhere.test".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    }));
    let servers = root.below(ca("Servers", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }));
    let mute = root.below(ca("Mute", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]));
    let fake = root.below(client(|params| params.distinguished_name = name("No authority")));
    let good = root.leaf(|_| {});
    let role = |more: Value| {
        let mut role = json!({"certificate": root.pem, "token_bound_cidrs": "192.0.2.0/24"});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    for (name, more) in [
        ("plain", json!({})),
        ("cn", json!({"allowed_common_names": ["web1", "api-*"]})),
        ("dns", json!({"allowed_dns_sans": "*.example.org"})),
        ("mail", json!({"allowed_email_sans": "web@example.org"})),
        ("uri", json!({"allowed_uri_sans": "spiffe://example.com/db"})),
        ("unit", json!({"allowed_organizational_units": "ops"})),
        ("any", json!({"allowed_names": "nobody"})),
        ("extension", json!({"required_extensions": "2.5.29.99:x"})),
        ("required", json!({"crl_required": true})),
    ] {
        rig.done(Write, &format!("auth/cert/certs/{name}"), role(more)).await;
    }
    let forged = {
        let mut der = good.clone();
        let at = der.len() - 5;
        der[at] ^= 1;
        der
    };
    let twice = root.leaf(|params| {
        let mut extra = CustomExtension::from_oid_content(&[2, 5, 29, 14], vec![4, 1, 0]);
        extra.set_criticality(false);
        params.custom_extensions = vec![extra.clone(), extra];
    });
    let critical = root.leaf(|params| {
        let mut extra = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extra.set_criticality(true);
        params.custom_extensions = vec![extra];
    });
    let cases = [
        ("plain", vec![], "X509_NOT_SHOWN"),
        ("plain", vec![b"no certificate".to_vec()], "X509_MALFORMED"),
        ("none", vec![good.clone()], "CERT_ROLE_UNKNOWN"),
        ("../plain", vec![good.clone()], "CERT_ROLE_UNKNOWN"),
        ("plain", vec![other.leaf(|_| {})], "X509_ISSUER_UNKNOWN"),
        ("plain", vec![other.leaf(|_| {}), other.der.clone()], "X509_ISSUER_UNKNOWN"),
        ("plain", vec![namesake.leaf(|_| {})], "X509_SIGNATURE_WRONG"),
        ("plain", vec![forged], "X509_SIGNATURE_WRONG"),
        ("plain", vec![middle.leaf(|_| {})], "X509_ISSUER_UNKNOWN"),
        ("plain", vec![root.der.clone()], "X509_IS_AUTHORITY"),
        ("plain", vec![middle.der.clone()], "X509_IS_AUTHORITY"),
        ("plain", vec![root.leaf(|params| params.not_after = date_time_ymd(2023, 11, 14))], "X509_EXPIRED"),
        ("plain", vec![root.leaf(|params| params.not_before = date_time_ymd(2023, 11, 15))], "X509_NOT_YET_VALID"),
        (
            "plain",
            vec![root.leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])],
            "X509_USAGE_OTHER",
        ),
        ("plain", vec![root.leaf(|params| params.extended_key_usages = vec![])], "X509_USAGE_OTHER"),
        (
            "plain",
            vec![root.leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment])],
            "X509_USAGE_OTHER",
        ),
        (
            "plain",
            vec![root.leaf(|params| {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
            })],
            "X509_USAGE_OTHER",
        ),
        ("plain", vec![servers.leaf(|_| {}), servers.der.clone()], "X509_USAGE_OTHER"),
        ("plain", vec![deep.leaf(|_| {}), deep.der.clone(), shallow.der.clone()], "X509_PATH_TOO_LONG"),
        ("plain", vec![narrow.leaf(|_| {}), narrow.der.clone()], "X509_NAME_CONSTRAINT"),
        ("plain", vec![mute.leaf(|_| {}), mute.der.clone()], "X509_ISSUER_NO_AUTHORITY"),
        ("plain", vec![fake.leaf(|_| {}), fake.der.clone()], "X509_ISSUER_NO_AUTHORITY"),
        ("plain", std::iter::once(&good).chain([&middle.der; 7]).cloned().collect(), "X509_PATH_TOO_LONG"),
        ("plain", vec![twice], "X509_NAMED_TWICE"),
        ("plain", vec![critical], "X509_CRITICAL_UNKNOWN"),
        ("cn", vec![good.clone()], "CERT_COMMON_NAME_OTHER"),
        ("cn", vec![root.leaf(|params| params.distinguished_name = name("web1\u{430}"))], "CERT_COMMON_NAME_OTHER"),
        ("cn", vec![root.leaf(|params| params.distinguished_name = name("xapi-1"))], "CERT_COMMON_NAME_OTHER"),
        (
            "cn",
            vec![root.leaf(|params| params.distinguished_name = DistinguishedName::new())],
            "CERT_COMMON_NAME_OTHER",
        ),
        ("dns", vec![good.clone()], "CERT_DNS_NAME_OTHER"),
        ("mail", vec![good.clone()], "CERT_EMAIL_OTHER"),
        ("uri", vec![good.clone()], "CERT_URI_OTHER"),
        ("unit", vec![good.clone()], "CERT_UNIT_OTHER"),
        ("any", vec![good.clone()], "CERT_NAME_OTHER"),
        ("extension", vec![good.clone()], "CERT_EXTENSION_OTHER"),
        ("required", vec![good.clone()], "X509_STATUS_UNKNOWN"),
        ("", vec![other.leaf(|_| {})], "CERT_NO_ROLE_MATCHES"),
    ];
    for (role, chain, cause) in cases {
        let with = With { chain: (!chain.is_empty()).then_some(&chain[..]), ..With::default() };
        let asked = rig.ask(Write, "auth/cert/login", json!({"name": role}), with);
        let ((status, answer), records) = rig.recorded(asked).await;
        let told = "invalid certificate or no client certificate supplied";
        assert_eq!((status, &answer["errors"][0]), (400, &json!(told)), "{role} {cause}");
        assert_eq!(records.last().unwrap()["outcome"], json!({"failed": cause}), "{role}");
        let known = vault::auth::cert::CAUSES.iter().chain(vault::auth::x509::CAUSES);
        assert!(known.into_iter().any(|(known, _)| *known == cause), "{cause} is not explained");
    }
    assert_eq!(rig.enter(std::slice::from_ref(&good), json!({"name": "plain"})).await.0, 200);
    // from elsewhere, and for another certificate than its own
    let chain = [good];
    let elsewhere = With { chain: Some(&chain), from: Some("203.0.113.7:1"), ..With::default() };
    let (status, _) = rig.ask(Write, "auth/cert/login", json!({"name": "plain"}), elsewhere).await;
    assert_eq!(status, 400);
    let other = With { chain: Some(&chain), bind: Some(9), ..With::default() };
    let (status, answer) = rig.ask(Write, "auth/cert/login", json!({"name": "plain"}), other).await;
    assert!(status == 400 && answer.to_string().contains("another certificate"), "{answer}");
}

#[tokio::test]
async fn what_is_revoked_or_not_known_to_be_sound_stays_out() {
    let rig = mounted().await;
    let root = Authority::root("Root");
    let middle = root.below(ca("Middle", |params| params.serial_number = Some(SerialNumber::from(99))));
    let namesake = Authority::root("Root");
    rig.done(Write, "auth/cert/certs/web", json!({"certificate": root.pem})).await;
    let direct = vec![root.leaf(|_| {})];
    let through = vec![middle.leaf(|_| {}), middle.der.clone()];
    let soon = (2023, 11, 16);
    let steps = [
        ("nothing is known", None, 0, None, None::<&str>),
        ("nobody is revoked", Some(root.list(&[8], soon)), 0, None, None),
        ("the leaf is", Some(root.list(&[7], soon)), 0, Some("X509_REVOKED"), None),
        ("the authority between is", Some(root.list(&[99], soon)), 0, None, Some("X509_REVOKED")),
        (
            "another of that name has signed",
            Some(namesake.list(&[], soon)),
            0,
            Some("X509_LIST_UNREADABLE"),
            Some("X509_LIST_UNREADABLE"),
        ),
        ("it is too old", Some(root.list(&[], soon)), 72, Some("X509_LIST_OLD"), Some("X509_LIST_OLD")),
        ("the next one", Some(root.list(&[], (2023, 12, 1))), 0, None, None),
    ];
    for (what, list, hours, own, above) in steps {
        if let Some(list) = list {
            rig.done(Write, "auth/cert/crls/root", json!({"crl": list})).await;
        }
        rig.clock.advance(Duration::from_secs(hours * 3600));
        for (chain, cause) in [(&direct, own), (&through, above)] {
            let ((status, _), records) = rig.recorded(rig.enter(chain, json!({}))).await;
            assert_eq!(status, if cause.is_some() { 400 } else { 200 }, "{what}");
            let failed = records.last().unwrap()["outcome"]["failed"].as_str();
            assert_eq!(failed, cause, "{what}");
        }
    }
    // a token goes on as long as its certificate would log in
    let (_, answer) = rig.enter(&direct, json!({})).await;
    let token = answer["auth"]["client_token"].as_str().unwrap();
    let renew = || With { token: Some(token), chain: Some(&direct), ..With::default() };
    for (list, status) in [(root.list(&[8], (2023, 12, 1)), 200), (root.list(&[7], (2023, 12, 1)), 400)] {
        rig.done(Write, "auth/cert/crls/root", json!({"crl": list})).await;
        assert_eq!(rig.ask(Write, "auth/token/renew-self", json!({}), renew()).await.0, status);
        assert_eq!(rig.ask(Read, "auth/token/lookup-self", Value::Null, renew()).await.0, 200);
    }
    rig.done(Write, "auth/cert/crls/root", json!({"crl": root.list(&[], (2023, 12, 1))})).await;
    // where a role requires lists, each authority on the path needs one
    rig.done(Write, "auth/cert/certs/web", json!({"crl_required": true})).await;
    assert_eq!(rig.enter(&direct, json!({})).await.0, 200);
    assert_eq!(rig.enter(&through, json!({})).await.0, 400);
    rig.done(Write, "auth/cert/crls/middle", json!({"crl": middle.list(&[], (2023, 12, 1))})).await;
    assert_eq!(rig.enter(&through, json!({})).await.0, 200);
    let read = rig.done(Read, "auth/cert/crls/root", Value::Null).await;
    assert_eq!(read["serials"], json!({}));
    assert_eq!(rig.done(List, "auth/cert/crls", Value::Null).await["keys"], json!(["middle", "root"]));
    rig.done(Delete, "auth/cert/crls/middle", Value::Null).await;
    assert_eq!(rig.enter(&through, json!({})).await.0, 400);
}

#[tokio::test]
async fn what_a_role_or_a_list_may_not_be_is_refused_by_name() {
    let rig = mounted().await;
    let root = Authority::root("Root");
    let leaf = root.below(client(|_| {})).pem;
    for (path, body, told) in [
        ("certs/a", json!({}), "certificate: missing"),
        ("certs/a", json!({"certificate": "x"}), "certificate: 1 to 16"),
        ("certs/a", json!({"certificate": leaf}), "certificate: one of them is no authority's"),
        ("certs/a", json!({"certificate": root.pem, "ocsp_fail_open": true}), "ocsp_fail_open: not supported"),
        ("certs/a", json!({"certificate": root.pem, "required_extensions": "x"}), "required_extensions"),
        ("certs/a", json!({"certificate": root.pem, "token_policies": "root"}), "token_policies"),
        ("certs/a", json!({"certificate": root.pem, "allowed_names": ["a".repeat(600)]}), "allowed_names"),
        ("certs/a%20b", json!({"certificate": root.pem}), "name"),
        ("config", json!({"disable_binding": true}), "disable_binding: a token counts only beside"),
        ("crls/a", json!({}), "crl: either a list or a url"),
        ("crls/a", json!({"crl": "x"}), "crl: no list"),
        ("crls/a", json!({"crl": root.pem}), "crl: no list"),
        ("crls/a", json!({"url": "https://crl.example/x", "crl": "y"}), "crl: either"),
    ] {
        let (status, answer) = rig.root(Write, &format!("auth/cert/{path}"), body.clone()).await;
        let error = answer["errors"][0].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
    // nobody dials out in this rig
    let (status, _) = rig.root(Write, "auth/cert/crls/a", json!({"url": "https://crl.example/x"})).await;
    assert_eq!(status, 400);
    assert_eq!(rig.done(Read, "auth/cert/config", Value::Null).await["disable_binding"], false);
}

#[tokio::test]
async fn what_an_authoritys_own_certificate_says_binds_what_stands_below_it() {
    let rig = mounted().await;
    let root = Authority::root("Root");
    let below = |name: &str, set: &dyn Fn(&mut CertificateParams)| root.below(ca(name, |params| set(params)));
    let shallow = below("Shallow", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let over = below("Over", &|params| params.not_after = date_time_ymd(2023, 11, 14));
    let early = below("Early", &|params| params.not_before = date_time_ymd(2023, 11, 15));
    let servers = below("Servers", &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let mute = below("Mute", &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let narrow = below("Narrow", &|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("example.com".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let addresses = below("Addresses", &|params| {
        let net = rcgen::CidrSubnet::from_v4_prefix([10, 0, 0, 0], 8);
        let permitted_subtrees = vec![GeneralSubtree::IpAddress(net)];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let deep = shallow.below(ca("Deep", |_| {}));
    let called = |authority: &Authority, common_name: &str| {
        authority.leaf(|params| {
            params.distinguished_name = name(common_name);
            params.subject_alt_names = vec![SanType::DnsName("web.example.com".try_into().unwrap())];
        })
    };
    // a common name that stands among names that are not compared
    let aside = |authority: &Authority| {
        authority.leaf(|params| {
            params.distinguished_name = name("admin.elsewhere.test");
            params.subject_alt_names = vec![
                SanType::DnsName("web.example.com".try_into().unwrap()),
                SanType::URI("admin.elsewhere.test".try_into().unwrap()),
            ];
        })
    };
    for (role, authority, chain, cause) in [
        ("shallow", &shallow, vec![shallow.leaf(|_| {})], None),
        ("shallow", &shallow, vec![deep.leaf(|_| {}), deep.der.clone()], Some("X509_PATH_TOO_LONG")),
        ("over", &over, vec![over.leaf(|_| {})], Some("X509_EXPIRED")),
        ("early", &early, vec![early.leaf(|_| {})], Some("X509_NOT_YET_VALID")),
        ("servers", &servers, vec![servers.leaf(|_| {})], Some("X509_USAGE_OTHER")),
        ("mute", &mute, vec![mute.leaf(|_| {})], Some("X509_ISSUER_NO_AUTHORITY")),
        // constraints are compared with alternative names; a common name is not let past them
        ("narrow", &narrow, vec![called(&narrow, "web.example.com")], None),
        ("narrow", &narrow, vec![called(&narrow, "admin.elsewhere.test")], Some("X509_NAME_CONSTRAINT")),
        ("narrow", &narrow, vec![aside(&narrow)], Some("X509_NAME_CONSTRAINT")),
        ("addresses", &addresses, vec![called(&addresses, "Anybody")], None),
        ("root", &root, vec![called(&narrow, "web.example.com"), narrow.der.clone()], None),
        ("root", &root, vec![called(&narrow, "admin"), narrow.der.clone()], Some("X509_NAME_CONSTRAINT")),
        ("root", &root, vec![called(&root, "admin")], None),
    ] {
        rig.done(Write, &format!("auth/cert/certs/{role}"), json!({"certificate": authority.pem})).await;
        let ((status, answer), records) = rig.recorded(rig.enter(&chain, json!({"name": role}))).await;
        assert_eq!(status, if cause.is_some() { 400 } else { 200 }, "{role} {cause:?} {answer}");
        assert_eq!(records.last().unwrap()["outcome"]["failed"].as_str(), cause, "{role}");
    }
    // an entity is known by the name that its role has looked at
    rig.done(Write, "auth/cert/certs/dns", json!({"certificate": root.pem, "allowed_dns_sans": "*.example.com"})).await;
    let mut entities = Vec::new();
    for (common_name, dns) in [("one", "web.example.com"), ("two", "web.example.com"), ("one", "db.example.com")] {
        let leaf = root.leaf(|params| {
            params.distinguished_name = name(common_name);
            params.subject_alt_names = vec![SanType::DnsName(dns.try_into().unwrap())];
        });
        let (_, answer) = rig.enter(&[leaf], json!({"name": "dns"})).await;
        entities.push(answer["auth"]["entity_id"].clone());
    }
    assert!(entities[0] == entities[1] && entities[0] != entities[2], "{entities:?}");
}

#[tokio::test]
async fn no_other_door_renews_and_no_other_list_hides_what_is_revoked() {
    let rig = mounted().await;
    let root = Authority::root("Root");
    rig.done(Write, "auth/cert/certs/web", json!({"certificate": root.pem})).await;
    let chain = vec![root.leaf(|_| {})];
    let (_, answer) = rig.enter(&chain, json!({})).await;
    let auth = &answer["auth"];
    for (path, body) in [
        ("auth/token/renew", json!({"token": auth["client_token"]})),
        ("auth/token/renew-accessor", json!({"accessor": auth["accessor"]})),
    ] {
        let (status, answer) = rig.root(Write, path, body).await;
        assert!(status == 400 && answer.to_string().contains("not renewable"), "{path} {answer}");
    }
    let token = auth["client_token"].as_str().unwrap();
    let renew = || With { token: Some(token), chain: Some(&chain), ..With::default() };
    assert_eq!(rig.ask(Write, "auth/token/renew-self", json!({}), renew()).await.0, 200);
    // whatever they are called, in whichever order they stand, whichever is the newer one
    for (names, days) in [(["a", "b"], [1, 2]), (["b", "a"], [1, 2]), (["c", "d"], [2, 1]), (["d", "c"], [2, 1])] {
        for ((name, serials), day) in names.iter().zip([&[7][..], &[]]).zip(days) {
            let list = root.list_of(serials, (2023, 11, day), (2023, 12, 1));
            rig.done(Write, &format!("auth/cert/crls/{name}"), json!({"crl": list})).await;
        }
        assert_eq!(rig.enter(&chain, json!({})).await.0, 400, "{names:?}");
        assert_eq!(rig.ask(Write, "auth/token/renew-self", json!({}), renew()).await.0, 400);
        for name in names {
            rig.done(Delete, &format!("auth/cert/crls/{name}"), Value::Null).await;
        }
    }
    assert_eq!(rig.enter(&chain, json!({})).await.0, 200);
}

#[tokio::test]
async fn an_authority_that_has_changed_its_key_has_a_list_of_each() {
    let rig = mounted().await;
    let (old, new) = (Authority::root("Root"), Authority::root("Root"));
    rig.done(Write, "auth/cert/certs/web", json!({"certificate": format!("{}{}", old.pem, new.pem)})).await;
    let serial = |authority: &Authority, serial: u64| {
        vec![authority.leaf(|params| {
            params.serial_number = Some(SerialNumber::from(serial));
            params.use_authority_key_identifier_extension = true;
        })]
    };
    for (name, authority, revoked, day) in [("old", &old, 8, 1), ("new", &new, 9, 2)] {
        let list = authority.list_of(&[revoked], (2023, 11, day), (2023, 12, 1));
        rig.done(Write, &format!("auth/cert/crls/{name}"), json!({"crl": list})).await;
    }
    rig.done(Write, "auth/cert/certs/web", json!({"crl_required": true})).await;
    for (authority, number, status) in [(&old, 7, 200), (&new, 7, 200), (&old, 8, 400), (&new, 9, 400)] {
        assert_eq!(rig.enter(&serial(authority, number), json!({})).await.0, status, "{number}");
    }
    // what one key's list says tells nothing of the other's
    rig.done(Delete, "auth/cert/crls/new", Value::Null).await;
    assert_eq!(rig.enter(&serial(&new, 7), json!({})).await.0, 400);
    assert_eq!(rig.enter(&serial(&old, 7), json!({})).await.0, 200);
}

#[tokio::test]
async fn a_list_that_is_fetched_is_followed_by_a_newer_one_of_its_authority_and_by_no_other() {
    let rig = mounted().await;
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let (url, served) = issuer().await;
    let serve = |list: String| served.lock().unwrap().0.insert("/crl", list);
    rig.done(Write, "auth/cert/certs/web", json!({"certificate": root.pem})).await;
    let chain = vec![root.leaf(|_| {})];
    let soon = (2023, 12, 20);
    let fetched = json!({"url": format!("{url}/crl")});
    serve(root.list_of(&[7], (2023, 11, 10), soon));
    rig.done(Write, "auth/cert/crls/root", fetched.clone()).await;
    assert_eq!(rig.enter(&chain, json!({})).await.0, 400);
    for (what, list, status) in [
        ("another authority's", other.list_of(&[], (2023, 11, 12), soon), 400),
        ("an older one", root.list_of(&[], (2023, 11, 9), soon), 400),
        ("one of a time to come", root.list_of(&[], (2023, 11, 30), soon), 400),
        ("none", "<html>".to_owned(), 400),
        ("a newer one", root.list_of(&[], (2023, 11, 12), soon), 200),
    ] {
        serve(list);
        rig.clock.advance(Duration::from_secs(2 * 3600));
        let (done, records) = rig.recorded(vault::wait_on_others(&rig.vault, &rig.clock)).await;
        assert_eq!((done.unwrap(), &records[0]["operation"]), (1, &json!("VaultFetchRevocationList")), "{what}");
        assert_eq!(rig.enter(&chain, json!({})).await.0, status, "{what}");
        // it is due again later, whatever was told
        assert_eq!(vault::wait_on_others(&rig.vault, &rig.clock).await.unwrap(), 0, "{what}");
    }
    // nor by who asks for it again; another is one that is deleted first
    serve(root.list_of(&[7], (2023, 11, 9), soon));
    let (status, answer) = rig.root(Write, "auth/cert/crls/root", fetched.clone()).await;
    assert!(status == 400 && answer.to_string().contains("url: an older list"), "{answer}");
    rig.done(Delete, "auth/cert/crls/root", Value::Null).await;
    rig.done(Write, "auth/cert/crls/root", fetched).await;
    assert_eq!(rig.enter(&chain, json!({})).await.0, 400);
}

#[tokio::test]
async fn of_more_roles_than_are_tried_a_login_names_one() {
    let rig = mounted().await;
    let root = Authority::root("Root");
    let chain = vec![root.leaf(|_| {})];
    for number in 0..65 {
        assert_eq!(rig.enter(&chain, json!({})).await.0, if number == 0 { 400 } else { 200 }, "{number}");
        rig.done(Write, &format!("auth/cert/certs/{number}"), json!({"certificate": root.pem})).await;
    }
    let ((status, _), records) = rig.recorded(rig.enter(&chain, json!({}))).await;
    assert_eq!((status, &records.last().unwrap()["outcome"]["failed"]), (400, &json!("CERT_NO_NAME_OF_A_ROLE")));
    assert_eq!(rig.enter(&chain, json!({"name": "64"})).await.0, 200);
}
