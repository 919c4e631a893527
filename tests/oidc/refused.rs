//! Tokens that do not log in, each for its cause; the caller hears the same of all.

use crate::now;
use crate::stand::{Party, Stand};
use serde_json::{Value, json};

/// An issuer with two keys, one of them never told, and a mount that believes its discovery.
fn arranged(stand: &Stand) -> Party {
    let issuer = stand.party("issuer.mjs");
    for (id, alg) in [("a", "ES256"), ("r", "RS256"), ("p", "PS256"), ("e", "EdDSA"), ("x", "ES256")] {
        issuer.ask(json!({"op": "make", "id": id, "alg": alg}));
    }
    issuer.ask(json!({"op": "serve", "ids": ["a", "r", "p", "e"]}));
    stand.done("POST", "sys/auth/jwt", json!({"type": "jwt"}));
    let config = json!({
        "oidc_discovery_url": issuer.url, "oidc_discovery_ca_pem": stand.ca(),
        "jwt_supported_algs": ["ES256", "RS256"], "default_role": "plain",
    });
    stand.done("POST", "auth/jwt/config", config);
    let role = |more: Value| {
        let mut role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": "ci",
            "bound_claims": {"project": "web", "protected": true, "level": 3},
        });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    for (name, more) in [
        ("plain", json!({})),
        ("once", json!({"single_use": true})),
        ("young", json!({"max_token_age": "60s"})),
        ("glob", json!({"bound_claims_type": "glob", "bound_claims": {"sub": "repo:acme/*:ref:refs/heads/*"}})),
        ("named", json!({"bound_subject": "repo:acme/web:ref:refs/heads/main"})),
        ("grouped", json!({"groups_claim": "groups"})),
        ("access", json!({"bound_type": "at+jwt"})),
        ("near", json!({"token_bound_cidrs": "192.0.2.0/24"})),
    ] {
        stand.done("POST", &format!("auth/jwt/role/{name}"), role(more));
    }
    stand.done(
        "POST",
        "auth/jwt/role/person",
        json!({
            "role_type": "oidc", "user_claim": "sub", "allowed_redirect_uris": "http://localhost:8250/oidc/callback",
        }),
    );
    issuer
}

/// What a good token says, with what is changed; null takes away.
fn claims(issuer: &Party, changed: Value) -> Value {
    let mut claims = json!({
        "iss": issuer.url, "sub": "repo:acme/web:ref:refs/heads/main", "aud": "vault", "exp": now() + 300, "iat": now(),
        "project": "web", "protected": true, "level": 3,
    });
    for (name, value) in changed.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn signed(issuer: &Party, key: &str, changed: Value) -> String {
    let command = json!({"op": "sign", "key": key, "claims": claims(issuer, changed)});
    issuer.ask(command).as_str().unwrap().to_owned()
}

/// Header and payload byte for byte.
fn raw(issuer: &Party, by: &str, header: &str, payload: &str) -> String {
    let command = json!({"op": "raw", "key": "a", "header": header, "payload": payload, "by": by});
    issuer.ask(command).as_str().unwrap().to_owned()
}

#[test]
fn a_token_that_is_not_what_the_role_asks_for_is_refused_and_its_cause_is_on_record() {
    let stand = Stand::new();
    let issuer = arranged(&stand);
    let good = claims(&issuer, json!({})).to_string();
    let with = |changed: Value| signed(&issuer, "a", changed);
    let jwk = issuer.ask(json!({"op": "jwk", "id": "x"}));
    let headed = |header: &str| raw(&issuer, "", header, &good);
    let other = "https://127.0.0.1:1/keys";
    let twice = good.replacen('{', r#"{"sub": "admin", "#, 1);
    let refused = [
        ("plain", raw(&issuer, "nobody", r#"{"alg": "none"}"#, &good), "JWT_ALGORITHM_OTHER"),
        ("plain", raw(&issuer, "nobody", r#"{"alg": "ES256", "kid": "a"}"#, &good), "JWT_SIGNATURE_WRONG"),
        ("plain", raw(&issuer, "public", r#"{"alg": "HS256", "kid": "a"}"#, &good), "JWT_ALGORITHM_OTHER"),
        ("plain", headed(r#"{"alg": "RS256", "kid": "a"}"#), "JWT_KEY_UNKNOWN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "r"}"#), "JWT_KEY_UNKNOWN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "../../keys/a"}"#), "JWT_KEY_UNKNOWN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "' OR 1=1 --"}"#), "JWT_KEY_UNKNOWN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": ["a"]}"#), "JWT_MALFORMED"),
        ("plain", headed(r#"{"alg": "ES256", "alg": "none", "kid": "a"}"#), "JWT_MALFORMED"),
        ("plain", headed(&format!(r#"{{"alg": "ES256", "kid": "a", "jku": "{other}"}}"#)), "JWT_HEADER_FORBIDDEN"),
        ("plain", headed(&format!(r#"{{"alg": "ES256", "kid": "a", "x5u": "{other}"}}"#)), "JWT_HEADER_FORBIDDEN"),
        ("plain", headed(&format!(r#"{{"alg": "ES256", "jwk": {jwk}}}"#)), "JWT_HEADER_FORBIDDEN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "a", "crit": ["b64"], "b64": false}"#), "JWT_HEADER_FORBIDDEN"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "a", "typ": "at+jwt"}"#), "JWT_TYPE_OTHER"),
        ("plain", headed(r#"{"alg": "ES256", "kid": "a", "typ": "logout+jwt"}"#), "JWT_TYPE_OTHER"),
        ("plain", signed(&issuer, "x", json!({})), "JWT_KEY_UNKNOWN"),
        ("plain", signed(&issuer, "p", json!({})), "JWT_ALGORITHM_OTHER"),
        ("plain", signed(&issuer, "e", json!({})), "JWT_ALGORITHM_OTHER"),
        ("plain", raw(&issuer, "", r#"{"alg": "ES256", "kid": "a"}"#, &twice), "JWT_CLAIMS_MALFORMED"),
        ("plain", raw(&issuer, "", r#"{"alg": "ES256", "kid": "a"}"#, "no JSON"), "JWT_CLAIMS_MALFORMED"),
        ("plain", "a.b.c".to_owned(), "JWT_MALFORMED"),
        ("plain", format!("{}.more", with(json!({}))), "JWT_MALFORMED"),
        ("plain", with(json!({"exp": null})), "JWT_EXP_MISSING"),
        ("plain", with(json!({"exp": now() - 61})), "JWT_EXPIRED"),
        ("plain", with(json!({"nbf": now() + 120})), "JWT_NOT_YET_VALID"),
        ("plain", with(json!({"iat": now() + 120})), "JWT_ISSUED_IN_FUTURE"),
        ("plain", with(json!({"iss": "https://other.example"})), "JWT_ISSUER_OTHER"),
        ("plain", with(json!({"iss": format!("{}/", issuer.url)})), "JWT_ISSUER_OTHER"),
        ("plain", with(json!({"iss": null})), "JWT_ISSUER_OTHER"),
        ("plain", with(json!({"aud": null})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"aud": "vaults"})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"aud": "VAULT"})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"aud": "vault other"})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"aud": ["other"]})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"aud": []})), "JWT_AUDIENCE_OTHER"),
        ("plain", with(json!({"project": "wеb"})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"project": "web "})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"project": null})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"protected": "true"})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"protected": 1})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"level": "3"})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"level": 4})), "JWT_CLAIM_OTHER"),
        ("plain", with(json!({"sub": null})), "JWT_USER_CLAIM_MISSING"),
        ("plain", with(json!({"sub": 7})), "JWT_USER_CLAIM_MISSING"),
        ("plain", with(json!({"sub": ["a"]})), "JWT_USER_CLAIM_MISSING"),
        ("named", with(json!({"sub": "repo:acme/web:ref:refs/heads/Main"})), "JWT_SUBJECT_OTHER"),
        ("glob", with(json!({"sub": "repo:acme/web:pull_request"})), "JWT_CLAIM_OTHER"),
        ("glob", with(json!({"sub": "repo:acme/x:y:ref:refs/heads/main"})), "JWT_CLAIM_OTHER"),
        ("glob", with(json!({"sub": "repo:acme/web:ref:refs/heads/a/b"})), "JWT_CLAIM_OTHER"),
        ("glob", with(json!({"sub": "repo:acme-evil/web:ref:refs/heads/main"})), "JWT_CLAIM_OTHER"),
        ("young", with(json!({"iat": now() - 90})), "JWT_TOO_OLD"),
        ("young", with(json!({"iat": null})), "JWT_TOO_OLD"),
        ("once", with(json!({})), "JWT_JTI_MISSING"),
        ("grouped", with(json!({})), "JWT_GROUPS_MALFORMED"),
        ("grouped", with(json!({"groups": [1]})), "JWT_GROUPS_MALFORMED"),
        ("near", with(json!({})), "LOGIN_ADDRESS_OTHER"),
        ("access", with(json!({})), "JWT_TYPE_OTHER"),
        ("unknown", with(json!({})), "JWT_ROLE_UNKNOWN"),
        ("../plain", with(json!({})), "JWT_ROLE_UNKNOWN"),
        ("person", with(json!({})), "JWT_ROLE_TYPE_OTHER"),
    ];
    for (role, token, cause) in &refused {
        let answer = stand.login("jwt", role, token);
        assert_eq!(answer, (400, json!({"errors": ["invalid role or token"]})), "{role} {cause} {token}");
    }
    let causes: Vec<_> = refused.iter().map(|(_, _, cause)| (*cause).to_owned()).collect();
    assert_eq!(stand.recorded("auth/jwt/login"), causes);
    assert!(refused.len() >= 20);
    let allowed = [
        ("plain", with(json!({}))),
        ("", with(json!({}))),
        ("PLAIN", with(json!({"aud": ["other", "vault"]}))),
        ("plain", signed(&issuer, "r", json!({}))),
        ("plain", headed(r#"{"alg": "ES256"}"#)),
        ("plain", headed(r#"{"typ": "JWT", "alg": "ES256", "kid": "a"}"#)),
        ("plain", with(json!({"exp": now() - 20, "iat": now() - 300}))),
        ("glob", with(json!({}))),
        ("young", with(json!({}))),
        ("named", with(json!({}))),
        ("grouped", with(json!({"groups": ["a", "b"]}))),
        ("access", headed(r#"{"alg": "ES256", "kid": "a", "typ": "AT+JWT"}"#)),
        ("access", headed(r#"{"alg": "ES256", "kid": "a", "typ": "application/at+jwt"}"#)),
    ];
    for (role, token) in &allowed {
        let (status, answer) = stand.login("jwt", role, token);
        let ended = token == &allowed[6].1;
        assert_eq!(status, if ended { 400 } else { 200 }, "{role} {answer} {token}");
    }
    // within the leeway it is still a token; but one that has ended buys none that lives
    assert!(stand.recorded("auth/jwt/login").iter().any(|told| told == "LOGIN_PROOF_OVER"));
}

#[test]
fn a_token_of_a_role_that_is_single_use_logs_in_once_whoever_tries() {
    let stand = Stand::new();
    let issuer = arranged(&stand);
    let token = signed(&issuer, "a", json!({"jti": "one"}));
    let tries: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..12).map(|_| scope.spawn(|| stand_login(&stand, &token))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(tries.iter().filter(|status| **status == 200).count(), 1, "{tries:?}");
    let causes = stand.recorded("auth/jwt/login");
    assert_eq!(causes.iter().filter(|cause| *cause == "JWT_REPLAYED").count(), 11, "{causes:?}");
    // the same id, signed anew, is the same id
    let again = signed(&issuer, "a", json!({"jti": "one", "exp": now() + 600}));
    assert_eq!(stand.login("jwt", "once", &again).0, 400);
    assert_eq!(stand.login("jwt", "once", &signed(&issuer, "a", json!({"jti": "two"}))).0, 200);
}

// `Stand` is shared by threads only for what needs no shared state of its own
fn stand_login(stand: &Stand, token: &str) -> u16 {
    stand.login("jwt", "once", token).0
}

#[test]
fn groups_of_a_token_are_external_groups_as_long_as_it_says_so() {
    let stand = Stand::new();
    let issuer = arranged(&stand);
    let accessor = stand.done("GET", "sys/auth/jwt", Value::Null)["data"]["accessor"].clone();
    stand.done("POST", "identity/group", json!({"name": "builders", "type": "external", "policies": "ci"}));
    let id = stand.done("GET", "identity/group/name/builders", Value::Null)["data"]["id"].clone();
    stand.done("POST", "identity/group-alias", json!({"name": "b", "mount_accessor": accessor, "canonical_id": id}));
    stand.done("POST", "auth/jwt/role/grouped", json!({"token_policies": ""}));
    for (groups, reads) in [(json!(["b"]), 200), (json!(["x"]), 403), (json!(["x", "b"]), 200), (json!([]), 403)] {
        let token = signed(&issuer, "a", json!({ "groups": groups }));
        let (status, answer) = stand.login("jwt", "grouped", &token);
        assert_eq!(status, 200, "{answer}");
        let own = answer["auth"]["client_token"].as_str().unwrap();
        assert_eq!(stand.ask(own, "GET", "secret/data/app", Value::Null).0, reads, "{groups}");
    }
}

#[test]
fn a_preset_asks_for_ids_and_refuses_requests_to_merge() {
    let stand = Stand::new();
    let issuer = arranged(&stand);
    stand.done("POST", "sys/auth/github", json!({"type": "jwt"}));
    let config = json!({
        "preset": "github", "oidc_discovery_url": issuer.url, "oidc_discovery_ca_pem": stand.ca(),
    });
    stand.done("POST", "auth/github/config", config);
    let role = |claims: Value| json!({"bound_audiences": "vault", "bound_claims": claims, "token_policies": "ci"});
    let root = stand.dev.root_token();
    let by_name = stand.ask(&root, "POST", "auth/github/role/web", role(json!({"repository": "acme/web"})));
    assert_eq!(by_name.0, 400, "{by_name:?}");
    assert!(by_name.1["errors"][0].as_str().unwrap().contains("repository_id"), "{by_name:?}");
    stand.done("POST", "auth/github/role/web", role(json!({"repository_id": "4711", "ref_protected": "true"})));
    let job = |changed: Value| {
        let mut claims = json!({
            "repository_id": "4711", "repository": "acme/web", "repository_owner_id": "65", "ref_protected": "true",
            "event_name": "push", "ref": "refs/heads/main",
        });
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        signed(&issuer, "r", claims)
    };
    for (changed, cause) in [
        (json!({}), None),
        // deleted and made again by somebody else: the same name, another id
        (json!({"repository_id": "9999"}), Some("JWT_CLAIM_OTHER")),
        (json!({"repository_id": 4711}), Some("JWT_CLAIM_OTHER")),
        (json!({"sub": "repo:acme/web:pull_request", "event_name": "pull_request"}), Some("JWT_PULL_REQUEST")),
        (json!({"ref": "refs/pull/7/merge"}), Some("JWT_PULL_REQUEST")),
    ] {
        let (status, answer) = stand.login("github", "web", &job(changed.clone()));
        assert_eq!(status, if cause.is_none() { 200 } else { 400 }, "{changed} {answer}");
        if let Some(cause) = cause {
            assert_eq!(stand.recorded("auth/github/login").last().unwrap(), cause, "{changed}");
        } else {
            assert_eq!(answer["auth"]["metadata"]["role"], "web");
        }
    }
    // a role that was there before the preset may bind names alone
    stand.done("POST", "auth/jwt/role/old", json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_claims": {"repository": "acme/web"},
    }));
    assert_eq!(stand.login("jwt", "old", &job(json!({}))).0, 200);
    let config = json!({
        "preset": "github", "oidc_discovery_url": issuer.url, "oidc_discovery_ca_pem": stand.ca(),
    });
    stand.done("POST", "auth/jwt/config", config);
    assert_eq!(stand.login("jwt", "old", &job(json!({}))).0, 400);
    assert_eq!(stand.recorded("auth/jwt/login").last().unwrap(), "JWT_ROLE_OUTDATED");
    // ES256 is none of GitHub's
    assert_eq!(stand.login("github", "web", &signed(&issuer, "a", json!({"repository_id": "4711"}))).0, 400);
}
