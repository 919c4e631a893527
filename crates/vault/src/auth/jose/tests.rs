use super::*;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use envelope::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use x509_parser::prelude::FromDer as _;

const NOW: u64 = 1_800_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn rules(algorithms: &Algorithms) -> Rules<'_> {
    let leeway = Duration::from_secs(60);
    let now = Timestamp::from_unix_millis(NOW * 1000);
    Rules { algorithms, now, leeway_after: leeway, leeway_before: leeway, kinds: PLAIN_KINDS }
}

fn es256() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn jwk(key: &EcdsaKeyPair, id: &str) -> Value {
    let point = key.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "kid": id, "x": b64(&point[1..33]), "y": b64(&point[33..])})
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn signed(key: &EcdsaKeyPair, header: &str, payload: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", b64(signature))
}

/// RFC 7515 A.2 and A.3: of another hand than ours.
#[test]
fn the_published_examples_verify_and_altered_ones_do_not() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (algorithm, key, token) in [
        (
            Algorithm::Rs256,
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            format!(
                "eyJhbGciOiJSUzI1NiJ9.{payload}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
            ),
        ),
        (
            Algorithm::Es256,
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            format!(
                "eyJhbGciOiJFUzI1NiJ9.{payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
            ),
        ),
    ] {
        let (keys, algorithms) = (set(&[key]), Algorithms::of(&[algorithm]));
        let then = Rules { now: Timestamp::from_unix_millis(1_300_819_379_000), ..rules(&algorithms) };
        let verified = verify(&token, &keys, &then).unwrap();
        assert_eq!((verified.claims.issuer(), verified.algorithm), (Some("joe"), algorithm));
        assert_eq!(verify(&token, &keys, &rules(&algorithms)).unwrap_err(), Refusal::Expired);
        let altered = token.replace("eyJpc3MiOiJqb2U", "eyJpc3MiOiJqb2V");
        assert_eq!(verify(&altered, &keys, &then).unwrap_err(), Refusal::SignatureWrong);
        // the last letter has bits that count for nothing: no second text is the same token
        let mut other = token.clone();
        let last = other.pop().unwrap();
        other.push(char::from(last as u8 + 1));
        assert_eq!(verify(&other, &keys, &then).unwrap_err(), Refusal::Malformed);
    }
}

#[test]
fn a_token_that_deceives_is_refused() {
    let (key, other) = (es256(), es256());
    let keys = set(&[jwk(&key, "a"), jwk(&other, "b")]);
    let algorithms = Algorithms::of(&[Algorithm::Es256, Algorithm::Rs256]);
    let good = format!(r#"{{"iss": "i", "exp": {}}}"#, NOW + 60);
    let embedded = format!(r#"{{"alg": "ES256", "jwk": {}}}"#, jwk(&other, "a"));
    let dated = |claims: &str| format!(r#"{{"exp": {}, {claims}}}"#, NOW + 60);
    for (header, payload, refusal) in [
        (r#"{"alg": "ES256", "kid": "a"}"#, good.clone(), None),
        (r#"{"alg": "ES256", "kid": "a", "typ": "JWT"}"#, good.clone(), None),
        (r#"{"alg": "ES256", "typ": "application/jwt"}"#, good.clone(), None),
        (r#"{"alg": "none", "kid": "a"}"#, good.clone(), Some(Refusal::AlgorithmOther)),
        (r#"{"alg": "HS256", "kid": "a"}"#, good.clone(), Some(Refusal::AlgorithmOther)),
        (r#"{"alg": "es256", "kid": "a"}"#, good.clone(), Some(Refusal::AlgorithmOther)),
        (r#"{"alg": "ES384", "kid": "a"}"#, good.clone(), Some(Refusal::AlgorithmOther)),
        (r#"{"alg": "RS256", "kid": "a"}"#, good.clone(), Some(Refusal::KeyUnknown)),
        (r#"{"alg": "ES256", "kid": "b"}"#, good.clone(), Some(Refusal::SignatureWrong)),
        (r#"{"alg": "ES256", "kid": "c"}"#, good.clone(), Some(Refusal::KeyUnknown)),
        (r#"{"alg": "ES256", "kid": "../a"}"#, good.clone(), Some(Refusal::KeyUnknown)),
        (r#"{"alg": "ES256", "kid": ["a"]}"#, good.clone(), Some(Refusal::Malformed)),
        (r#"{"alg": "ES256", "kid": null}"#, good.clone(), Some(Refusal::Malformed)),
        (r#"{"alg": "ES256", "alg": "none"}"#, good.clone(), Some(Refusal::Malformed)),
        (r#"{"kid": "a"}"#, good.clone(), Some(Refusal::Malformed)),
        (r#"["ES256"]"#, good.clone(), Some(Refusal::Malformed)),
        (r#"{"alg": "ES256", "typ": "at+jwt"}"#, good.clone(), Some(Refusal::KindOther)),
        (r#"{"alg": "ES256", "jku": "https://a"}"#, good.clone(), Some(Refusal::HeaderForbidden)),
        (r#"{"alg": "ES256", "x5u": "https://a"}"#, good.clone(), Some(Refusal::HeaderForbidden)),
        (r#"{"alg": "ES256", "x5c": []}"#, good.clone(), Some(Refusal::HeaderForbidden)),
        (r#"{"alg": "ES256", "crit": ["exp"]}"#, good.clone(), Some(Refusal::HeaderForbidden)),
        (r#"{"alg": "ES256", "b64": false}"#, good.clone(), Some(Refusal::HeaderForbidden)),
        (&embedded, good.clone(), Some(Refusal::HeaderForbidden)),
        (r#"{"alg": "ES256"}"#, r#"{"iss": "i"}"#.into(), Some(Refusal::EndMissing)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": "1900000000"}"#.into(), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": -1}"#.into(), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": 1e300}"#.into(), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": null}"#.into(), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": 1799999940}"#.into(), Some(Refusal::Expired)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": 1799999940.9}"#.into(), Some(Refusal::Expired)),
        (r#"{"alg": "ES256"}"#, r#"{"exp": 1799999941}"#.into(), None),
        (r#"{"alg": "ES256"}"#, dated(r#""nbf": 1800000061"#), Some(Refusal::NotYet)),
        (r#"{"alg": "ES256"}"#, dated(r#""nbf": 1800000060"#), None),
        (r#"{"alg": "ES256"}"#, dated(r#""iat": 1800000061"#), Some(Refusal::IssuedInFuture)),
        (r#"{"alg": "ES256"}"#, dated(r#""iss": "i", "iss": "j""#), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, dated(r#""a": {"b": 1, "b": 2}"#), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, "[1]".into(), Some(Refusal::ClaimsMalformed)),
        (r#"{"alg": "ES256"}"#, "".into(), Some(Refusal::ClaimsMalformed)),
    ] {
        let told = verify(&signed(&key, header, &payload), &keys, &rules(&algorithms));
        assert_eq!(told.err(), refusal, "{header} {payload}");
    }
    let token = signed(&key, r#"{"alg": "ES256"}"#, &good);
    let (unsigned, long) = (format!("{}.", token.rsplit_once('.').unwrap().0), "a".repeat(TOKEN_BYTES_MAX + 1));
    for (text, refusal) in [
        (unsigned.as_str(), Refusal::SignatureWrong),
        ("", Refusal::Malformed),
        ("a.b", Refusal::Malformed),
        (&format!("{token}.a"), Refusal::Malformed),
        (&format!("{token}="), Refusal::Malformed),
        (&format!(" {token}"), Refusal::Malformed),
        (&format!("{token}\n"), Refusal::Malformed),
        (&long, Refusal::Malformed),
    ] {
        assert_eq!(verify(text, &keys, &rules(&algorithms)).unwrap_err(), refusal, "{text}");
    }
}

#[test]
fn a_key_counts_for_what_it_is_for_alone() {
    let key = es256();
    let with = |name: &str, value: Value| {
        let mut jwk = jwk(&key, "a");
        jwk[name] = value;
        json!({ "keys": [jwk] }).to_string()
    };
    for (text, usable) in [
        (with("use", json!("sig")), true),
        (with("use", json!("enc")), false),
        (with("key_ops", json!(["verify"])), true),
        (with("key_ops", json!(["encrypt"])), false),
        (with("alg", json!("ES256")), true),
        (with("alg", json!("ES384")), false),
        (with("alg", json!("HS256")), false),
        (with("crv", json!("P-384")), false),
        (with("kty", json!("oct")), false),
        (with("x", json!(b64([1; 32]))), false),
        (with("x", json!(b64([1; 33]))), false),
        (json!({"keys": [{"kty": "oct", "k": "AAAA"}]}).to_string(), false),
        (json!({"keys": [{"kty": "RSA", "n": b64([255; 128]), "e": "AQAB"}]}).to_string(), false),
        (json!({"keys": [{"kty": "RSA", "n": b64([255; 256]), "e": "AQAB"}]}).to_string(), true),
        (json!({"keys": [{"kty": "RSA", "n": b64([255; 256]), "e": "AQ"}]}).to_string(), false),
        (json!({"keys": [{"kty": "RSA", "n": b64([255; 256]), "e": "Ag"}]}).to_string(), false),
        (json!({"keys": [{"kty": "OKP", "crv": "X25519", "x": b64([9; 32])}]}).to_string(), false),
        (json!({"keys": []}).to_string(), false),
        (json!({"keys": vec![jwk(&key, "a"); 65]}).to_string(), false),
        (r#"{"keys": [], "keys": []}"#.to_owned(), false),
        ("<html>".to_owned(), false),
        ("[]".to_owned(), false),
    ] {
        assert_eq!(KeySet::from_jwks(text.as_bytes()).is_ok(), usable, "{text}");
    }
    assert!(KeySet::from_jwks_for(with("use", json!("jwt-svid")).as_bytes(), "jwt-svid").is_ok());
    // by which padding an RSA key signs is pinned where the key says it
    let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
    let x509_parser::public_key::PublicKey::RSA(public) = info.parsed().unwrap() else { panic!("an RSA key") };
    let (n, e) = (b64(&public.modulus[1..]), b64(public.exponent));
    let message = format!("{}.{}", b64(r#"{"alg": "PS256"}"#), b64(json!({"exp": NOW + 1}).to_string()));
    let mut signature = vec![0; 256];
    rsa.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    let token = format!("{message}.{}", b64(signature));
    let algorithms = Algorithms::of(&Algorithm::ALL);
    for (pinned, refusal) in [(None, None), (Some("PS256"), None), (Some("RS256"), Some(Refusal::KeyUnknown))] {
        let mut jwk = json!({"kty": "RSA", "n": n, "e": e});
        if let Some(pinned) = pinned {
            jwk["alg"] = json!(pinned);
        }
        assert_eq!(verify(&token, &set(&[jwk]), &rules(&algorithms)).err(), refusal, "{pinned:?}");
    }
}

#[test]
fn keys_come_in_pem_too() {
    let key = Ed25519KeyPair::generate().unwrap();
    let der = [&hex::decode("302a300506032b6570032100").unwrap(), key.public_key().as_ref()].concat();
    let pem = |label: &str, der: &[u8]| {
        let text = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let message = format!("{}.{}", b64(r#"{"alg": "EdDSA", "kid": "any"}"#), b64(json!({"exp": NOW + 1}).to_string()));
    let token = format!("{message}.{}", b64(key.sign(message.as_bytes())));
    let keys = KeySet::from_pem([pem("PUBLIC KEY", &der).as_str()]).unwrap();
    let algorithms = Algorithms::of(&[Algorithm::EdDsa]);
    assert_eq!(verify(&token, &keys, &rules(&algorithms)).unwrap().key_id.as_deref(), Some("any"));
    for text in ["", "x", &pem("PUBLIC KEY", &der[1..]), &pem("PRIVATE KEY", &der), &pem("CERTIFICATE", &der)] {
        assert!(KeySet::from_pem([text]).is_err(), "{text}");
    }
}

#[test]
fn claims_are_found_by_name_or_pointer_and_audiences_are_texts() {
    let claims = Claims::parse(br#"{"a": {"b/c": [1, {"d": "e"}]}, "/x": 1, "aud": "one"}"#).unwrap();
    for (name, found) in [
        ("/a/b~1c/1/d", Some(json!("e"))),
        ("/a/b~1c/0", Some(json!(1))),
        ("/a/b~1c/2", None),
        ("/a/b", None),
        ("a.b", None),
        ("/aud", Some(json!("one"))),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(claims.find(name), found.as_ref(), "{name}");
    }
    for (aud, is_for) in [
        (r#""vault""#, true),
        (r#"["other", "vault"]"#, true),
        (r#"["Vault"]"#, false),
        (r#""vault,other""#, false),
        (r#"["vault", 1]"#, false),
        (r#"[["vault"]]"#, false),
        (r#"{"vault": true}"#, false),
        ("[]", false),
        ("null", false),
    ] {
        let claims = Claims::parse(format!(r#"{{"aud": {aud}}}"#).as_bytes()).unwrap();
        assert_eq!(claims.is_for(&["vault".to_owned()]), is_for, "{aud}");
    }
}

#[test]
fn a_glob_crosses_no_colon_and_no_slash_unless_it_says_so() {
    for (pattern, text, matches) in [
        ("repo:acme/web:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/main", true),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/main", true),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:environment:x:ref:refs/heads/main", false),
        ("repo:acme/*", "repo:acme/web:pull_request", false),
        ("repo:acme/*", "repo:acme/a/b", false),
        ("repo:acme/**", "repo:acme/web:ref:refs/heads/main", true),
        ("repo:*/web:**", "repo:acme/web:ref:x", true),
        ("repo:*/web:**", "repo:evil/x:y/web:ref:x", false),
        ("*", "", true),
        ("*", "a", true),
        ("*", "a:b", false),
        ("**", "a:b/c", true),
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "axxbyy", false),
        ("a", "ab", false),
        ("ab", "a", false),
        ("", "", true),
        ("", "a", false),
        ("v*", "vü", true),
        ("***", "a:b", true),
    ] {
        assert_eq!(Glob::new(pattern).matches(text), matches, "{pattern} {text}");
    }
}
