//! Who is not let in, and what the log tells of it; the caller is told the same of all.

use crate::stand::{AUDIENCE, opened, shared};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

fn joined(header: &Value, payload: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(payload))
}

/// Signed by somebody else.
fn foreign(header: &Value, payload: &Value) -> String {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let signed = joined(header, payload, "");
    let signature = key.sign(&random, signed.trim_end_matches('.').as_bytes()).unwrap();
    format!("{signed}{}", URL_SAFE_NO_PAD.encode(signature))
}

fn with(value: &Value, pointer: &str, set: impl Into<Value>) -> Value {
    let mut value = value.clone();
    let (at, name) = pointer.rsplit_once('/').unwrap();
    value.pointer_mut(at).unwrap()[name] = set.into();
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn whoever_is_not_the_roles_account_is_refused_and_hears_nothing_of_why() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    for namespace in ["refused", "refused-evil", "evil-refused"] {
        api.namespace(namespace, json!({}));
        api.account(namespace, "web");
    }
    for account in ["web-evil", "evil-web", "we", "web.x", "default-web"] {
        api.account("refused", account);
    }
    stand.role(&mount, "web", ("refused", "web"), json!({}));
    stand.role(&mount, "elsewhere", ("refused", "web"), json!({"token_bound_cidrs": "10.0.0.0/8"}));
    let token = |namespace: &str, account: &str| api.token(namespace, account, Some(AUDIENCE), None);
    let good = token("refused", "web");
    let (header, payload) = opened(&good);
    let now = payload["iat"].as_u64().unwrap();
    let signed = |header: &Value, payload: &Value| stand.signed(header, payload);
    // what the others differ from is let in
    stand.login(&mount, "web", &signed(&header, &payload)).token();
    let (body, signature) = good.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[10] ^= 1;
    let public = std::fs::read(api.path("sa.pub")).unwrap();
    let hs256 = joined(&with(&header, "/alg", "HS256"), &payload, "");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), hs256.trim_end_matches('.').as_bytes());
    let twice = URL_SAFE_NO_PAD.encode(header.to_string().replacen('{', "{\"alg\":\"none\",", 1));
    let rest = good.split_once('.').unwrap().1;
    let legacy = json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:refused:web",
        "kubernetes.io/serviceaccount/namespace": "refused", "kubernetes.io/serviceaccount/service-account.name": "web",
    });
    let sub = "system:serviceaccount:refused:web";
    let as_web = |payload: &Value| with(&with(payload, "/sub", sub), "/kubernetes.io/serviceaccount/name", "web");
    let (_, evil) = opened(&token("refused", "web-evil"));
    let cases = [
        ("another audience", api.token("refused", "web", Some("other.test"), None), "AUDIENCE_OTHER"),
        (
            "an audience that looks alike",
            api.token("refused", "web", Some("strongroom.test.evil"), None),
            "AUDIENCE_OTHER",
        ),
        ("an audience in capitals", api.token("refused", "web", Some("STRONGROOM.TEST"), None), "AUDIENCE_OTHER"),
        ("the API server's own audience", api.token("refused", "web", None, None), "AUDIENCE_OTHER"),
        ("no audience", signed(&header, &without(&payload, "aud")), "TOKEN_MALFORMED"),
        ("a namespace that begins alike", token("refused-evil", "web"), "NAMESPACE_OTHER"),
        ("a namespace that ends alike", token("evil-refused", "web"), "NAMESPACE_OTHER"),
        ("a name that begins alike", token("refused", "web-evil"), "NAME_OTHER"),
        ("a name that ends alike", token("refused", "evil-web"), "NAME_OTHER"),
        ("a name that is begun", token("refused", "we"), "NAME_OTHER"),
        ("a name with a dot", token("refused", "web.x"), "NAME_OTHER"),
        ("a bit of the signature", format!("{body}.{}", URL_SAFE_NO_PAD.encode(&bytes)), "NOT_AUTHENTICATED"),
        ("no signature", format!("{body}."), "TOKEN_MALFORMED"),
        ("another's claims under this signature", joined(&header, &as_web(&evil), signature), "NOT_AUTHENTICATED"),
        ("another signer of the same kid", foreign(&header, &payload), "NOT_AUTHENTICATED"),
        ("another signer without kid", foreign(&without(&header, "kid"), &payload), "NOT_AUTHENTICATED"),
        ("a kid that is a path", foreign(&with(&header, "/kid", "../../../dev/null"), &payload), "NOT_AUTHENTICATED"),
        ("a kid that is a query", foreign(&with(&header, "/kid", "x'union/**/select'"), &payload), "NOT_AUTHENTICATED"),
        ("a kid of two lines", signed(&with(&header, "/kid", "a\nb"), &payload), "TOKEN_MALFORMED"),
        ("another issuer", signed(&header, &with(&payload, "/iss", "https://evil.test")), "NOT_AUTHENTICATED"),
        ("it has ended", signed(&header, &with(&payload, "/exp", now - 1)), "TOKEN_EXPIRED"),
        ("it has no end", signed(&header, &without(&payload, "exp")), "TOKEN_MALFORMED"),
        ("its end is a text", signed(&header, &with(&payload, "/exp", "9999999999")), "TOKEN_MALFORMED"),
        ("it begins later", signed(&header, &with(&payload, "/nbf", now + 300)), "TOKEN_NOT_YET"),
        (
            "an account of another uid",
            signed(
                &header,
                &with(&payload, "/kubernetes.io/serviceaccount/uid", "0c33e3a5-0000-4000-8000-000000000000"),
            ),
            "NOT_AUTHENTICATED",
        ),
        (
            "the subject is another's",
            signed(&header, &with(&payload, "/sub", "system:serviceaccount:refused:x")),
            "TOKEN_MALFORMED",
        ),
        ("alg none", joined(&with(&header, "/alg", "none"), &payload, ""), "ALGORITHM_OTHER"),
        ("alg nOnE, and a signature", joined(&with(&header, "/alg", "nOnE"), &payload, signature), "ALGORITHM_OTHER"),
        ("an HMAC under the public key", format!("{hs256}{}", URL_SAFE_NO_PAD.encode(tag)), "ALGORITHM_OTHER"),
        ("another algorithm of the same key", signed(&with(&header, "/alg", "ES384"), &payload), "NOT_AUTHENTICATED"),
        (
            "an algorithm of another kind of key",
            joined(&with(&header, "/alg", "RS256"), &payload, signature),
            "NOT_AUTHENTICATED",
        ),
        ("a key of its own", foreign(&with(&header, "/jwk", json!({"kty": "EC"})), &payload), "TOKEN_HEADER"),
        ("an address of keys", foreign(&with(&header, "/jku", "https://evil.test/keys"), &payload), "TOKEN_HEADER"),
        ("a certificate of its own", foreign(&with(&header, "/x5c", json!(["MIIB"])), &payload), "TOKEN_HEADER"),
        (
            "an address of certificates",
            foreign(&with(&header, "/x5u", "https://evil.test/c"), &payload),
            "TOKEN_HEADER",
        ),
        ("something critical", signed(&with(&header, "/crit", json!(["b64"])), &payload), "TOKEN_HEADER"),
        ("two algorithms", format!("{twice}.{rest}"), "TOKEN_MALFORMED"),
        ("a token of a Secret", signed(&header, &legacy), "TOKEN_MALFORMED"),
        ("no token at all", "service account".into(), "TOKEN_MALFORMED"),
        ("a token in JSON", json!({"payload": "e30", "signature": ""}).to_string(), "TOKEN_MALFORMED"),
        ("white space in it", good.replacen('.', ".\n", 1), "TOKEN_MALFORMED"),
    ];
    assert!(cases.len() >= 40);
    let mut told = None;
    for (what, jwt, cause) in cases {
        let login = stand.login(&mount, "web", &jwt);
        // alg none without a signature is refused for the one or the other
        assert_eq!((login.status, login.cause()), (400, format!("KUBERNETES_{cause}").as_str()), "{what}: {login:?}");
        let before = told.get_or_insert_with(|| login.body["errors"].clone());
        assert_eq!(login.body["errors"], *before, "{what}");
    }
    // what is right, and comes by another way
    for (role, cause) in [("other", "KUBERNETES_ROLE_UNKNOWN"), ("elsewhere", "LOGIN_ADDRESS_OTHER")] {
        let login = stand.login(&mount, role, &good);
        assert_eq!((login.status, login.cause(), Some(&login.body["errors"])), (400, cause, told.as_ref()), "{role}");
    }
    for (body, field) in [
        (json!({"role": "web", "jwt": "x".repeat(9000)}), "jwt"),
        (json!({"role": "web"}), "jwt"),
        (json!({"jwt": good}), "role"),
        (json!({"role": "../web", "jwt": good}), "role"),
        (json!({"role": "web", "jwt": [good]}), "jwt"),
    ] {
        let login = stand.login_with(&mount, body);
        assert_eq!((login.status, login.cause()), (400, "INVALID_FIELD"), "{login:?}");
        assert!(login.body["errors"][0].as_str().unwrap().starts_with(field), "{login:?}");
    }
    let bare = "bare-mount";
    stand.done("POST", &format!("sys/auth/{bare}"), json!({"type": "kubernetes"}));
    assert_eq!(stand.login(bare, "web", &good).cause(), "KUBERNETES_ROLE_UNKNOWN");
    stand.role(bare, "web", ("refused", "web"), json!({}));
    assert_eq!(stand.login(bare, "web", &good).cause(), "KUBERNETES_NOT_CONFIGURED");
    // whose entity is disabled, and whose mount is gone
    let login = stand.login(&mount, "web", &good);
    let entity = format!("identity/entity/id/{}", login.entity());
    stand.done("POST", &entity, json!({"disabled": true}));
    assert_eq!(stand.login(&mount, "web", &good).cause(), "LOGIN_ENTITY_DISABLED");
    stand.done("DELETE", &format!("sys/auth/{bare}"), Value::Null);
    assert_ne!(stand.login(bare, "web", &good).status, 200);
}
