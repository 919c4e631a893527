//! Issuers that are away, slow, or answer what they should not: nobody is let in that would not be, and nobody waits long.

use crate::now;
use crate::stand::{Party, Stand};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn token(issuer: &Party, key: &str) -> String {
    let claims = json!({"iss": issuer.url, "sub": "s", "aud": "vault", "exp": now() + 300});
    issuer.ask(json!({"op": "sign", "key": key, "claims": claims})).as_str().unwrap().to_owned()
}

fn arranged(stand: &Stand, mount: &str, more: Value) -> (Party, Value) {
    let issuer = stand.party("issuer.mjs");
    for id in ["a", "b"] {
        issuer.ask(json!({"op": "make", "id": id, "alg": "ES256"}));
    }
    issuer.ask(json!({"op": "serve", "ids": ["a"]}));
    stand.done("POST", &format!("sys/auth/{mount}"), json!({"type": "jwt"}));
    let mut config = json!({"oidc_discovery_url": issuer.url, "oidc_discovery_ca_pem": stand.ca()});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (issuer, config)
}

fn role(stand: &Stand, mount: &str) {
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_subject": "s"});
    stand.done("POST", &format!("auth/{mount}/role/r"), role);
}

#[test]
fn an_issuer_that_is_away_or_lies_lets_nobody_in_and_is_told_to_who_configures_it() {
    let stand = Stand::new();
    let root = stand.dev.root_token();
    for (index, (how, told, reason)) in [
        ("away", "not reached", "UPSTREAM_UNREACHABLE"),
        ("slow", "no answer in time", "UPSTREAM_UNREACHABLE"),
        ("drips", "no answer in time", "UPSTREAM_UNREACHABLE"),
        ("huge", "not reached", "UPSTREAM_UNREACHABLE"),
        ("fails", "another status", "JWT_ISSUER_LIES"),
        ("redirects", "redirect", "JWT_ISSUER_LIES"),
        ("html", "no JSON object", "JWT_ISSUER_LIES"),
        ("empty", "another name", "JWT_ISSUER_LIES"),
        ("twice", "no JSON object", "JWT_ISSUER_LIES"),
        ("other-name", "another name", "JWT_ISSUER_LIES"),
        ("plain-keys", "jwks_uri", "JWT_ISSUER_LIES"),
    ]
    .into_iter()
    .enumerate()
    {
        let mount = format!("jwt-{index}");
        let (issuer, config) = arranged(&stand, &mount, json!({}));
        issuer.ask(json!({"op": "behave", "how": how}));
        let began = Instant::now();
        let (status, answer) = stand.ask(&root, "POST", &format!("auth/{mount}/config"), config.clone());
        assert!(began.elapsed() < Duration::from_secs(15), "{how}: {:?}", began.elapsed());
        assert_eq!(status, 400, "{how}: {answer}");
        assert!(answer["errors"][0].as_str().unwrap().contains(told), "{how}: {answer}");
        let mut unseen = config;
        unseen["skip_jwks_validation"] = json!(true);
        stand.done("POST", &format!("auth/{mount}/config"), unseen);
        role(&stand, &mount);
        let began = Instant::now();
        let (status, answer) = stand.login(&mount, "r", &token(&issuer, "a"));
        assert_eq!(status, 503, "{how}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(15), "{how}: {:?}", began.elapsed());
        // the next ones do not wait for it
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(stand.login(&mount, "r", &token(&issuer, "a")).0, 503, "{how}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{how}: {:?}", began.elapsed());
        assert_eq!(stand.recorded(&format!("auth/{mount}/login")), vec![reason; 6], "{how}");
    }
    // and one that another authority than the named one vouches for
    let (issuer, mut config) = arranged(&stand, "jwt-tls", json!({}));
    config["oidc_discovery_ca_pem"] = json!(std::fs::read_to_string(stand.dev.ca()).unwrap());
    let (status, answer) = stand.ask(&root, "POST", "auth/jwt-tls/config", config);
    assert_eq!(status, 400, "{answer} {}", issuer.url);
}

#[test]
fn keys_are_fetched_by_one_now_and_then_and_outlast_an_issuer_that_is_away() {
    let stand = Stand::new();
    let (issuer, config) = arranged(&stand, "jwt", json!({}));
    stand.done("POST", "auth/jwt/config", config);
    role(&stand, "jwt");
    let fetched = || issuer.ask(json!({"op": "asked"}))["keys"].as_u64().unwrap();
    let (before, began) = (fetched(), Instant::now());
    let (known, unknown) = (token(&issuer, "a"), token(&issuer, "b"));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| logs_in(&stand, &known))).collect();
        assert!(all.into_iter().all(|one| one.join().unwrap() == 200));
    });
    assert_eq!(fetched() - before, 1, "one fetches for all");
    // keys that are made up ask nobody: but once in ten seconds
    for _ in 0..5 {
        assert_eq!(logs_in(&stand, &unknown), 400);
    }
    let so_far = fetched() - before;
    assert!(so_far <= 1 + began.elapsed().as_secs() / 10, "{so_far} in {:?}", began.elapsed());
    // rotated: the new key counts as soon as the issuer may be asked again, the old one is gone with it
    issuer.ask(json!({"op": "serve", "ids": ["b"]}));
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(logs_in(&stand, &unknown), 200);
    assert_eq!(fetched() - before, so_far + 1);
    assert_eq!(logs_in(&stand, &known), 400, "a key that was taken out counts no more");
    assert_eq!(stand.recorded("auth/jwt/login").last().unwrap(), "JWT_KEY_UNKNOWN");
    // away: what is known counts on
    issuer.ask(json!({"op": "behave", "how": "slow"}));
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(logs_in(&stand, &unknown), 200);
    let began = Instant::now();
    assert_eq!(logs_in(&stand, &known), 400);
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(logs_in(&stand, &unknown), 200);
}

fn logs_in(stand: &Stand, token: &str) -> u16 {
    stand.login("jwt", "r", token).0
}
