//! Logins by SVIDs, of one trust domain a mount.

use crate::cert::{Authority, ca, name};
use crate::rig::{Rig, With};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, date_time_ymd};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{List, Read, Write};

const NOW: i64 = 1_700_000_000;

/// A key for JWT-SVIDs.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": id, "x": text(x), "y": text(y)})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn svid(&self, more: Value) -> String {
        let mut claims = json!({"sub": "spiffe://example.org/ns/a/sa/web", "aud": ["vault"], "exp": NOW + 300});
        let claims_map = claims.as_object_mut().unwrap();
        claims_map.extend(more.as_object().unwrap().clone());
        claims_map.retain(|_, value| !value.is_null());
        self.sign(&json!({"alg": "ES256", "kid": "one"}), &claims)
    }
}

fn svid(uris: &[&str], set: impl FnOnce(&mut CertificateParams)) -> impl FnOnce(&mut CertificateParams) {
    let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    move |params| {
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        set(params);
    }
}

const WEB: &str = "spiffe://example.org/ns/a/sa/web";

struct Stand {
    rig: Rig,
    root: Authority,
    signer: Signer,
}

async fn mounted() -> Stand {
    let (rig, root, signer) = (Rig::new().await, Authority::root("SPIRE"), Signer::new());
    rig.done(Write, "sys/auth/spiffe", json!({"type": "spiffe"})).await;
    let x509 = json!({"use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(&root.der)]});
    let bundle = json!({"keys": [x509, signer.jwk("one")], "spiffe_sequence": 3, "spiffe_refresh_hint": 60});
    let config = json!({"trust_domain": "example.org", "bundle": bundle.to_string(), "audience": "vault"});
    rig.done(Write, "auth/spiffe/config", config).await;
    let role = json!({"workload_id_patterns": "/ns/*/sa/web", "token_policies": "p"});
    rig.done(Write, "auth/spiffe/role/web", role).await;
    Stand { rig, root, signer }
}

impl Stand {
    async fn enter(&self, chain: &[Vec<u8>], body: Value) -> (u16, Value) {
        let with = With { chain: (!chain.is_empty()).then_some(chain), ..With::default() };
        self.rig.ask(Write, "auth/spiffe/login", body, with).await
    }
}

#[tokio::test]
async fn a_workload_logs_in_by_either_svid_and_is_one_entity() {
    let stand = mounted().await;
    let middle = stand.root.below(ca("Middle", |_| {}));
    let leaf = || svid(&[WEB], |_| {});
    let direct = vec![stand.root.leaf(leaf())];
    let through = [middle.leaf(leaf()), middle.der.clone()];
    let mut entities = Vec::new();
    for (chain, jwt) in [(&direct[..], None), (&through[..], None), (&[], Some(stand.signer.svid(json!({}))))] {
        let body = json!({"role": "web", "jwt": jwt});
        let ((status, answer), records) = stand.rig.recorded(stand.enter(chain, body)).await;
        assert_eq!(status, 200, "{answer}");
        let auth = &answer["auth"];
        assert_eq!((&auth["metadata"]["spiffe_id"], &auth["policies"]), (&json!(WEB), &json!(["default", "p"])));
        entities.push(auth["entity_id"].as_str().unwrap().to_owned());
        let proof = records.last().unwrap()["proof"].as_str().unwrap().to_owned();
        assert!(proof.contains(WEB) && proof.contains(if jwt.is_some() { "kid:one" } else { "sha256:" }), "{proof}");
        let token = auth["client_token"].as_str().unwrap();
        let alone = With { token: Some(token), ..With::default() };
        let status = stand.rig.ask(Read, "auth/token/lookup-self", Value::Null, alone).await.0;
        // what is bound to a certificate is good for nothing alone
        assert_eq!(status, if jwt.is_some() { 200 } else { 403 });
        if jwt.is_some() {
            assert!(auth["lease_duration"].as_u64().unwrap() <= 300, "{answer}");
        }
    }
    entities.dedup();
    assert_eq!(entities.len(), 1);
    let config = stand.rig.done(Read, "auth/spiffe/config", Value::Null).await;
    assert_eq!((&config["bundle_sequence"], &config["x509_authorities"]), (&json!(3), &json!(1)));
    assert_eq!(stand.rig.done(List, "auth/spiffe/role", Value::Null).await["keys"], json!(["web"]));
    // PEM is a bundle without keys for JWT-SVIDs
    let config = json!({"trust_domain": "spiffe://example.org", "bundle": stand.root.pem});
    stand.rig.done(Write, "auth/spiffe/config", config).await;
    assert_eq!(stand.enter(&direct, json!({"role": "web"})).await.0, 200);
    let jwt = stand.signer.svid(json!({}));
    assert_eq!(stand.enter(&[], json!({"role": "web", "jwt": jwt})).await.0, 400);
}

#[tokio::test]
async fn the_bundle_that_is_due_for_longest_is_fetched_first_and_what_tends_the_rest_waits_for_none() {
    let rig = Rig::new().await;
    let bundle = json!({"keys": [Signer::new().jwk("one")], "spiffe_refresh_hint": 60}).to_string();
    let (url, served) = crate::jwt::issuer().await;
    served.lock().unwrap().0 = ["/a", "/b", "/c"].map(|path| (path, bundle.clone())).into();
    for mount in ["b", "a", "c"] {
        rig.done(Write, &format!("sys/auth/{mount}"), json!({"type": "spiffe"})).await;
        let config = json!({"trust_domain": "example.org", "endpoint_url": format!("{url}/{mount}")});
        rig.done(Write, &format!("auth/{mount}/config"), config).await;
        rig.clock.advance(Duration::from_secs(20));
    }
    rig.clock.advance(Duration::from_secs(80));
    let asked = || std::mem::take(&mut served.lock().unwrap().1).join(" ");
    assert_eq!(asked(), "/b /a /c", "when they were configured");
    vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
    assert_eq!(asked(), "");
    let (done, records) = rig.recorded(vault::wait_on_others(&rig.vault, &rig.clock)).await;
    assert_eq!((done.unwrap(), asked()), (3, "/b /a /c".to_owned()));
    assert!(records.iter().all(|record| record["operation"] == "VaultFetchTrustBundle"), "{records:?}");
    // each is due again for itself, from then on
    for (secs, due) in [(0, 0), (50, 0), (20, 3)] {
        rig.clock.advance(Duration::from_secs(secs));
        let done = vault::wait_on_others(&rig.vault, &rig.clock).await.unwrap();
        assert_eq!(done, due, "{secs}");
    }
}

#[tokio::test]
async fn who_configures_again_is_not_given_an_older_bundle_by_the_same_endpoint() {
    let rig = Rig::new().await;
    let (url, served) = crate::jwt::issuer().await;
    let told = |sequence: Value| json!({"keys": [Signer::new().jwk("one")], "spiffe_sequence": sequence}).to_string();
    rig.done(Write, "sys/auth/spiffe", json!({"type": "spiffe"})).await;
    let configured = async |path: &'static str, sequence: Value| {
        served.lock().unwrap().0.insert(path, told(sequence));
        let config = json!({"trust_domain": "example.org", "endpoint_url": format!("{url}{path}")});
        rig.root(Write, "auth/spiffe/config", config).await
    };
    for (path, sequence, status) in [
        ("/a", json!(3), 204),
        ("/a", json!(2), 400),
        ("/a", Value::Null, 400),
        ("/a", json!(3), 204),
        ("/a", json!(4), 204),
        ("/b", json!(1), 204),
    ] {
        let (answered, answer) = configured(path, sequence.clone()).await;
        assert_eq!(answered, status, "{path} {sequence}: {answer}");
        let refused = answer.to_string().contains("endpoint_url: answered with a bundle that is older");
        assert_eq!(refused, status == 400, "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_svid_of_the_trust_domain_is_refused_and_the_record_says_why() {
    let stand = mounted().await;
    let (root, other) = (&stand.root, Authority::root("SPIRE"));
    let leaf = |uris: &[&str]| vec![root.leaf(svid(uris, |_| {}))];
    let with = |set: fn(&mut CertificateParams)| vec![root.leaf(svid(&[WEB], set))];
    let cases = [
        ("web", vec![], "X509_NOT_SHOWN"),
        ("other", leaf(&[WEB]), "SPIFFE_ROLE_UNKNOWN"),
        ("", leaf(&[WEB]), "SPIFFE_ROLE_UNKNOWN"),
        ("web", leaf(&[]), "SPIFFE_URI_COUNT"),
        ("web", leaf(&[WEB, "spiffe://example.org/ns/b/sa/web"]), "SPIFFE_URI_COUNT"),
        ("web", leaf(&[WEB, "https://example.org/"]), "SPIFFE_URI_COUNT"),
        ("web", leaf(&["https://example.org/ns/a/sa/web"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://example.org"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://example.org/ns/a/sa/web/"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://example.org/ns/x/../a/sa/web"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://Example.org/ns/a/sa/web"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://example.org:443/ns/a/sa/web"]), "SPIFFE_ID_MALFORMED"),
        ("web", leaf(&["spiffe://example.com/ns/a/sa/web"]), "SPIFFE_TRUST_DOMAIN_OTHER"),
        ("web", leaf(&["spiffe://example.org.evil.test/ns/a/sa/web"]), "SPIFFE_TRUST_DOMAIN_OTHER"),
        ("web", leaf(&["spiffe://example.org/ns/a/sa/db"]), "SPIFFE_ID_OTHER"),
        ("web", leaf(&["spiffe://example.org/ns/a/b/sa/web"]), "SPIFFE_ID_OTHER"),
        ("web", leaf(&["spiffe://example.org/x/ns/a/sa/web"]), "SPIFFE_ID_OTHER"),
        ("web", vec![other.leaf(svid(&[WEB], |_| {}))], "X509_SIGNATURE_WRONG"),
        ("web", vec![Authority::root("Else").leaf(svid(&[WEB], |_| {}))], "X509_ISSUER_UNKNOWN"),
        ("web", with(|params| params.not_after = date_time_ymd(2023, 11, 14)), "X509_EXPIRED"),
        ("web", with(|params| params.not_before = date_time_ymd(2023, 11, 15)), "X509_NOT_YET_VALID"),
        ("web", with(|params| params.key_usages = vec![]), "X509_USAGE_OTHER"),
        ("web", with(|params| params.key_usages.push(KeyUsagePurpose::CrlSign)), "X509_USAGE_OTHER"),
        (
            "web",
            with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "X509_USAGE_OTHER",
        ),
        ("web", vec![root.below(ca("x", |params| params.distinguished_name = name("x"))).der], "X509_IS_AUTHORITY"),
    ];
    for (role, chain, cause) in cases {
        let ((status, answer), records) = stand.rig.recorded(stand.enter(&chain, json!({"role": role}))).await;
        assert_eq!(records.last().unwrap()["outcome"], json!({"failed": cause}), "{role} {answer}");
        let told = "no SVID of this trust domain that the role lets in";
        assert_eq!((status, &answer["errors"][0]), (400, &json!(told)), "{cause}");
        assert!(vault::auth::explained(cause).is_some(), "{cause} is not explained");
    }
}

#[tokio::test]
async fn what_is_no_jwt_svid_is_refused_and_the_record_says_why() {
    let stand = mounted().await;
    let (signer, stranger) = (&stand.signer, Signer::new());
    let claims = json!({"sub": WEB, "aud": "vault", "exp": NOW + 300});
    let none = {
        let text = signer.sign(&json!({"alg": "none"}), &claims);
        format!("{}.", text.rsplit_once('.').unwrap().0)
    };
    for (jwt, cause) in [
        ("x".to_owned(), "JWT_MALFORMED"),
        (none, "JWT_ALGORITHM_OTHER"),
        (signer.sign(&json!({"alg": "HS256", "kid": "one"}), &claims), "JWT_ALGORITHM_OTHER"),
        (signer.sign(&json!({"alg": "ES256", "kid": "two"}), &claims), "JWT_KEY_UNKNOWN"),
        (
            signer.sign(&json!({"alg": "ES256", "kid": "one", "jwk": signer.jwk("one")}), &claims),
            "JWT_HEADER_FORBIDDEN",
        ),
        (signer.sign(&json!({"alg": "ES256", "kid": "one", "typ": "at+jwt"}), &claims), "JWT_TYPE_OTHER"),
        (stranger.svid(json!({})), "JWT_SIGNATURE_WRONG"),
        (signer.svid(json!({"exp": NOW - 11})), "JWT_EXPIRED"),
        (signer.svid(json!({"exp": null})), "JWT_EXP_MISSING"),
        (signer.svid(json!({"nbf": NOW + 60})), "JWT_NOT_YET_VALID"),
        (signer.svid(json!({"aud": ["other"]})), "SPIFFE_AUDIENCE_OTHER"),
        (signer.svid(json!({"aud": "vault2"})), "SPIFFE_AUDIENCE_OTHER"),
        (signer.svid(json!({"aud": []})), "SPIFFE_AUDIENCE_OTHER"),
        (signer.svid(json!({"sub": "web"})), "SPIFFE_ID_MALFORMED"),
        (signer.svid(json!({"sub": null})), "SPIFFE_ID_MALFORMED"),
        (signer.svid(json!({"sub": "spiffe://example.com/ns/a/sa/web"})), "SPIFFE_TRUST_DOMAIN_OTHER"),
        (signer.svid(json!({"sub": "spiffe://example.org/ns/a/sa/db"})), "SPIFFE_ID_OTHER"),
    ] {
        let body = json!({"role": "web", "jwt": jwt});
        let ((status, _), records) = stand.rig.recorded(stand.enter(&[], body)).await;
        assert_eq!((status, &records.last().unwrap()["outcome"]), (400, &json!({"failed": cause})), "{jwt}");
        assert!(vault::auth::explained(cause).is_some(), "{cause} is not explained");
    }
    assert_eq!(stand.enter(&[], json!({"role": "web", "jwt": signer.svid(json!({}))})).await.0, 200);
}

#[tokio::test]
async fn what_a_configuration_or_a_role_may_not_be_is_refused_by_name() {
    let stand = mounted().await;
    let pem = &stand.root.pem;
    for (path, body, told) in [
        ("config", json!({"bundle": pem}), "trust_domain: missing"),
        ("config", json!({"trust_domain": "Example.org", "bundle": pem}), "trust_domain: no trust domain"),
        ("config", json!({"trust_domain": "a/b", "bundle": pem}), "trust_domain"),
        ("config", json!({"trust_domain": "a", "bundle": "x"}), "bundle: 1 to 16"),
        ("config", json!({"trust_domain": "a", "bundle": "{\"keys\": []}"}), "bundle: nobody would log in"),
        (
            "config",
            json!({"trust_domain": "a", "bundle": "{\"keys\": [{\"use\": \"x509-svid\"}]}"}),
            "bundle: an x509-svid",
        ),
        ("config", json!({"trust_domain": "a", "profile": "https_spiffe_bundle", "bundle": pem}), "profile"),
        ("config", json!({"trust_domain": "a", "profile": "https_web_bundle"}), "endpoint_url: missing"),
        ("config", json!({"trust_domain": "a", "endpoint_url": "https://b", "bundle": pem}), "profile"),
        ("config", json!({"trust_domain": "a", "endpoint_url": "https://b"}), "endpoint_url"),
        ("role/a", json!({}), "workload_id_patterns"),
        ("role/a", json!({"workload_id_patterns": "/a//b"}), "workload_id_patterns"),
        ("role/a", json!({"workload_id_patterns": "spiffe://example.com/a"}), "workload_id_patterns"),
        ("role/a", json!({"workload_id_patterns": "/a", "token_policies": "root"}), "token_policies"),
        ("role/a%20b", json!({"workload_id_patterns": "/a"}), "name"),
    ] {
        let (status, answer) = stand.rig.root(Write, &format!("auth/spiffe/{path}"), body.clone()).await;
        let error = answer["errors"][0].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
    // what is told by an endpoint is believed for a day
    let later = json!({"trust_domain": "example.org", "endpoint_url": "https://b.example", "defer_bundle_fetch": true});
    stand.rig.done(Write, "auth/spiffe/config", later).await;
    let leaf = vec![stand.root.leaf(svid(&[WEB], |_| {}))];
    let ((status, _), records) = stand.rig.recorded(stand.enter(&leaf, json!({"role": "web"}))).await;
    assert_eq!((status, &records.last().unwrap()["outcome"]), (400, &json!({"failed": "SPIFFE_BUNDLE_OLD"})));
}
