//! JWT logins over time: keys that outlast their issuer, marks that are swept, tokens that end with their proof.

use crate::rig::{Rig, START, TENANT, With, everything_stored};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{Change, Invalidate as _, Revision};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use vault::Verb::{Read, Write};
use vault::outside::{Account, Ask, Method, Outside, OutsideError, Told};
use zeroize::Zeroizing;

/// Plain HTTP to servers of this machine; the product's own client, with TLS, is asked by the tests of whole processes.
#[derive(Debug)]
pub(crate) struct Loopback;

#[async_trait::async_trait]
impl Outside for Loopback {
    async fn ask(&self, ask: Ask) -> Result<Told, OutsideError> {
        let away = |error: std::io::Error| OutsideError::Unreachable(error.to_string());
        let rest = ask.url.strip_prefix("http://").ok_or_else(|| OutsideError::Refused("no http".into()))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut stream = TcpStream::connect(host).await.map_err(away)?;
        let method = if ask.method == Method::Get { "GET" } else { "POST" };
        let head = format!("{method} /{path} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", ask.body.len());
        stream.write_all(head.as_bytes()).await.map_err(away)?;
        stream.write_all(&ask.body).await.map_err(away)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(away)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.ok_or_else(|| OutsideError::Unreachable("no answer".into()))?;
        let head = std::str::from_utf8(&answer[..end]).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Told { status, media_type: String::new(), body: Zeroizing::new(answer[end + 4..].to_vec()) })
    }

    async fn account(&self, _: &str) -> Result<Option<Account>, OutsideError> {
        Ok(None)
    }
}

/// Hears of nobody who is not known.
#[derive(Debug)]
struct Deaf;

#[async_trait::async_trait]
impl vault::service::Strangers for Deaf {
    async fn append(&self, _: &audit::Record<'_>) -> Result<(), vault::VaultError> {
        Ok(())
    }
}

impl vault::service::Telemetry for Deaf {
    fn render(&self) -> String {
        String::new()
    }
}

/// A node over the rig's store whose vault never hears of what others change: what it has read once, its memory holds.
pub(crate) fn deaf_node(rig: &Rig) -> vault::Vault {
    let (caches, identity_caches) = (Arc::new(vault::Caches::new(1000)), Arc::new(identity::Caches::new(100)));
    // all is as it was told from the first change on, and no other follows
    caches.apply(&Change::Gap { revision: Revision(0) });
    identity_caches.apply(&Change::Gap { revision: Revision(0) });
    let identities = identity::Identities::new(identity::Seams {
        barrier: Arc::clone(rig.vault.barrier()),
        tenant: TENANT,
        generation: 1,
        changes: rig.vault.changes().clone(),
        caches: Arc::clone(&identity_caches),
    });
    vault::Vault::new(vault::Seams {
        generation: 1,
        leases_void_below: 0,
        barrier: Arc::clone(rig.vault.barrier()),
        tenant: TENANT,
        identities: identities.unwrap(),
        identity_caches,
        kms: rig.vault.kms().clone(),
        changes: rig.vault.changes().clone(),
        strangers: Arc::new(Deaf),
        telemetry: Arc::new(Deaf),
        databases: vault::Databases::default(),
        outside: Arc::new(Loopback),
        caches,
    })
    .unwrap()
}

/// What is served at which path, and which paths were asked for. Where nothing is served, it hangs up.
type Served = Arc<Mutex<(HashMap<&'static str, String>, Vec<String>)>>;

/// A server of this machine.
pub(crate) async fn issuer() -> (String, Served) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served: Served = Arc::default();
    let answers = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = {
                let mut answers = answers.lock().unwrap();
                let body = answers.0.get(path.as_str()).cloned();
                answers.1.push(path);
                body
            };
            if let Some(body) = body {
                let whole = if body.starts_with("HTTP/") { body } else { format!("HTTP/1.0 200 OK\r\n\r\n{body}") };
                let _ = stream.write_all(whole.as_bytes()).await;
            }
        }
    });
    (url, served)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

struct Signer(&'static str, EcdsaKeyPair);

impl Signer {
    fn new(id: &'static str) -> Self {
        Self(id, EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Value {
        let point = self.1.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": self.0, "x": b64(&point[1..33]), "y": b64(&point[33..])})
    }

    fn sign(&self, claims: &Value) -> String {
        let message =
            format!("{}.{}", b64(json!({"alg": "ES256", "kid": self.0}).to_string()), b64(claims.to_string()));
        let signature = self.1.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", b64(signature))
    }
}

fn keys(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

fn now(rig: &Rig) -> u64 {
    rig.clock_now().unix_secs()
}

async fn login(rig: &Rig, role: &str, token: &str) -> (u16, Value) {
    rig.ask(Write, "auth/jwt/login", json!({"role": role, "jwt": token}), With::default()).await
}

/// A mount that believes the keys at `/keys` of a server, and a role.
async fn arranged(rig: &Rig, url: &str, role: Value) {
    rig.done(Write, "sys/auth/jwt", json!({"type": "jwt"})).await;
    let config = json!({"jwks_url": format!("{url}/keys"), "bound_issuer": "i", "max_stale": "1h"});
    rig.done(Write, "auth/jwt/config", config).await;
    let mut whole = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": "v", "bound_subject": "s"});
    whole.as_object_mut().unwrap().extend(role.as_object().unwrap().clone());
    rig.done(Write, "auth/jwt/role/r", whole).await;
}

fn claims(rig: &Rig, secs: u64) -> Value {
    json!({"iss": "i", "sub": "s", "aud": "v", "exp": now(rig) + secs, "jti": "one"})
}

#[tokio::test]
async fn keys_outlast_an_issuer_that_is_away_for_as_long_as_is_configured() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let (a, b) = (Signer::new("a"), Signer::new("b"));
    let serve = |text: Option<String>| {
        let mut served = served.lock().unwrap();
        served.0 = text.map(|text| HashMap::from([("/keys", text)])).unwrap_or_default();
    };
    let asked = || served.lock().unwrap().1.len();
    serve(Some(keys(&[&a, &b])));
    arranged(&rig, &url, json!({})).await;
    let by = |signer: &Signer| signer.sign(&claims(&rig, 60));
    assert_eq!(login(&rig, "r", &by(&a)).await.0, 200);
    let first = asked();
    // dropped at the issuer: gone here with the next look, which comes by itself
    serve(Some(keys(&[&a])));
    assert_eq!(login(&rig, "r", &by(&b)).await.0, 200);
    assert_eq!(asked(), first);
    rig.clock.advance(Duration::from_secs(301));
    assert_eq!(login(&rig, "r", &by(&b)).await.0, 400);
    assert_eq!((login(&rig, "r", &by(&a)).await.0, asked()), (200, first + 1));
    // away: for an hour
    serve(None);
    for (secs, status) in [(301, 200), (3200, 200), (98, 200), (2, 503), (3600, 503)] {
        rig.clock.advance(Duration::from_secs(secs));
        assert_eq!(login(&rig, "r", &by(&a)).await.0, status, "{secs}");
    }
    // no key set is none, as well
    serve(Some("<html>".to_owned()));
    rig.clock.advance(Duration::from_secs(11));
    let (outcome, told) = rig.recorded(login(&rig, "r", &by(&a))).await;
    assert_eq!(outcome.0, 503);
    let cause = told.last().unwrap()["outcome"]["failed"].clone();
    assert!(cause == "JWT_ISSUER_LIES" || cause == "UPSTREAM_NOT_ASKED", "{cause}");
}

#[tokio::test]
async fn what_memory_holds_is_looked_at_once_and_then_the_store() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let a = Signer::new("a");
    served.lock().unwrap().0.insert("/keys", keys(&[&a]));
    arranged(&rig, &url, json!({"token_policies": "old"})).await;
    let node = deaf_node(&rig);
    let enter = async || {
        let body = json!({"role": "r", "jwt": a.sign(&claims(&rig, 60))});
        rig.ask(Write, "auth/jwt/login", body, With { node: Some(&node), ..With::default() }).await
    };
    assert_eq!(enter().await.1["auth"]["policies"], json!(["default", "old"]));
    rig.done(Write, "auth/jwt/role/r", json!({"token_policies": "new"})).await;
    let (status, answer) = enter().await;
    assert_eq!((status, &answer["auth"]["policies"]), (200, &json!(["default", "new"])), "{answer}");
    // who it is, too: whoever is disabled elsewhere is not let in, and whoever is enabled again is not refused
    let entity = format!("identity/entity/id/{}", answer["auth"]["entity_id"].as_str().unwrap());
    for token_type in ["service", "batch"] {
        rig.done(Write, "auth/jwt/role/r", json!({"token_type": token_type})).await;
        for (disabled, status) in [(false, 200), (true, 400), (true, 400), (false, 200)] {
            rig.done(Write, &entity, json!({"disabled": disabled})).await;
            assert_eq!(enter().await.0, status, "{token_type} {disabled}");
        }
    }
    let other = json!({"jwks_url": format!("{url}/keys"), "bound_issuer": "another"});
    rig.done(Write, "auth/jwt/config", other).await;
    assert_eq!(enter().await.0, 400);
}

#[tokio::test]
async fn keys_that_an_issuer_takes_back_are_over_at_once_and_what_cannot_be_read_takes_back_none() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let a = Signer::new("a");
    let serve = |text: Option<String>| {
        let mut served = served.lock().unwrap();
        served.0 = text.map(|text| HashMap::from([("/keys", text)])).unwrap_or_default();
    };
    serve(Some(keys(&[&a])));
    arranged(&rig, &url, json!({})).await;
    let by = |signer: &Signer| signer.sign(&claims(&rig, 60));
    let answered = |status: u16| Some(format!("HTTP/1.0 {status} x\r\n\r\n"));
    let other = json!({"keys": [{"kty": "oct", "kid": "a", "k": "AA"}]}).to_string();
    for (what, then, later) in [
        (None, 200, 200),
        (answered(500), 200, 200),
        (answered(503), 200, 200),
        (answered(429), 200, 200),
        (Some("<html>".to_owned()), 200, 200),
        (Some("{}".to_owned()), 200, 200),
        (answered(404), 503, 503),
        (answered(410), 503, 503),
        (answered(401), 503, 503),
        (answered(302), 503, 503),
        (Some(keys(&[])), 503, 503),
        (Some(other), 503, 503),
    ] {
        serve(Some(keys(&[&a])));
        rig.clock.advance(Duration::from_secs(301));
        assert_eq!(login(&rig, "r", &by(&a)).await.0, 200, "{what:?}");
        serve(what.clone());
        rig.clock.advance(Duration::from_secs(301));
        assert_eq!(login(&rig, "r", &by(&a)).await.0, then, "{what:?}");
        // away by now: what was taken back does not come again
        serve(None);
        rig.clock.advance(Duration::from_secs(11));
        assert_eq!(login(&rig, "r", &by(&a)).await.0, later, "{what:?}");
    }
}

#[tokio::test]
async fn a_token_counts_once_until_it_counts_no_more_and_then_its_mark_is_swept() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let a = Signer::new("a");
    served.lock().unwrap().0.insert("/keys", keys(&[&a]));
    arranged(&rig, &url, json!({"single_use": true, "token_type": "batch"})).await;
    let token = a.sign(&claims(&rig, 60));
    assert_eq!(login(&rig, "r", &token).await.0, 200);
    let marked = everything_stored(&rig).await.len();
    // a second node knows of it
    let node = rig.another_node();
    let body = json!({"role": "r", "jwt": token});
    let (again, told) =
        rig.recorded(rig.ask(Write, "auth/jwt/login", body, With { node: Some(&node), ..With::default() })).await;
    assert_eq!(again, (400, json!({"errors": ["invalid role or token"]})));
    assert_eq!(told.last().unwrap()["outcome"]["failed"], "JWT_REPLAYED");
    for (secs, swept) in [(59, 0), (60, 0), (1, 1), (1, 0)] {
        rig.clock.advance(Duration::from_secs(secs));
        vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
        let left = everything_stored(&rig).await.iter().filter(|(path, _)| path.contains("/u/")).count();
        assert_eq!(left, usize::from(swept == 0 && secs >= 59), "{secs}");
    }
    assert!(everything_stored(&rig).await.len() < marked);
}

#[tokio::test]
async fn a_jobs_token_ends_with_the_proof_unless_the_role_says_otherwise() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let a = Signer::new("a");
    served.lock().unwrap().0.insert("/keys", keys(&[&a]));
    arranged(&rig, &url, json!({"token_ttl": "1h", "token_policies": "p"})).await;
    let token = a.sign(&claims(&rig, 100));
    let (_, answer) = login(&rig, "r", &token).await;
    assert_eq!(answer["auth"]["lease_duration"], 100);
    let own = answer["auth"]["client_token"].as_str().unwrap().to_owned();
    rig.clock.advance(Duration::from_secs(60));
    let with = || With { token: Some(&own), ..With::default() };
    let (_, renewed) = rig.ask(Write, "auth/token/renew-self", json!({"increment": "1h"}), with()).await;
    assert!(renewed["auth"]["lease_duration"].as_u64().unwrap() <= 40, "{renewed}");
    rig.clock.advance(Duration::from_secs(41));
    assert_eq!(rig.ask(Read, "auth/token/lookup-self", Value::Null, with()).await.0, 403);
    rig.done(Write, "auth/jwt/role/r", json!({"token_outlives_jwt": true})).await;
    let token = a.sign(&claims(&rig, 100));
    let (_, answer) = login(&rig, "r", &token).await;
    assert_eq!(answer["auth"]["lease_duration"], 3600);
    // what a login asks for is no wider than the role
    for (asked, status, secs) in [
        (json!({"token_ttl": "2h"}), 400, Value::Null),
        (json!({"token_policies": ["q"]}), 400, Value::Null),
        (json!({"token_ttl": "1m"}), 200, json!(60)),
    ] {
        let mut body = json!({"role": "r", "jwt": token});
        body.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        let (answered, answer) = rig.ask(Write, "auth/jwt/login", body, With::default()).await;
        assert_eq!((answered, &answer["auth"]["lease_duration"]), (status, &secs), "{asked}");
    }
}

#[tokio::test]
async fn a_browsers_login_is_over_after_five_minutes() {
    let rig = Rig::new().await;
    let (url, served) = issuer().await;
    let a = Signer::new("a");
    let document = json!({
        "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/auth"),
        "token_endpoint": format!("{url}/token"),
    });
    served.lock().unwrap().0.extend([
        ("/keys", keys(&[&a])),
        ("/.well-known/openid-configuration", document.to_string()),
        ("/token", json!({"id_token": "a.b.c"}).to_string()),
    ]);
    rig.done(Write, "sys/auth/oidc", json!({"type": "oidc"})).await;
    let config = json!({"oidc_discovery_url": url, "oidc_client_id": "c", "jwt_supported_algs": "ES256"});
    rig.done(Write, "auth/oidc/config", config).await;
    let role = json!({"user_claim": "sub", "allowed_redirect_uris": "http://127.0.0.1/oidc/callback"});
    rig.done(Write, "auth/oidc/role/r", role).await;
    let stored = everything_stored(&rig).await.len();
    let body = json!({"role": "r", "redirect_uri": "http://127.0.0.1:7/oidc/callback"});
    let (_, begun) = rig.ask(Write, "auth/oidc/oidc/auth_url", body, With::default()).await;
    assert_eq!(everything_stored(&rig).await.len(), stored, "nothing is kept for who does not come back");
    let address = begun["data"]["auth_url"].as_str().unwrap();
    let part = |name: &str| address.split(&format!("{name}=")).nth(1).unwrap().split('&').next().unwrap().to_owned();
    let path = format!("auth/oidc/oidc/callback?state={}&code=x", part("state"));
    let back = || rig.recorded(rig.ask(Read, &path, Value::Null, With::default()));
    // ID tokens that are another login's, another client's, or the very one
    let id_token = |changed: Value| {
        let mut claims = json!({"iss": url, "sub": "s", "aud": "c", "exp": now(&rig) + 60, "nonce": part("&nonce")});
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        served.lock().unwrap().0.insert("/token", json!({"id_token": a.sign(&claims)}).to_string());
    };
    for (changed, cause) in [
        (json!({"nonce": "others"}), "OIDC_NONCE_OTHER"),
        (json!({"nonce": null}), "OIDC_NONCE_OTHER"),
        (json!({"aud": "d"}), "JWT_AUDIENCE_OTHER"),
        (json!({"aud": ["c", "d"]}), "OIDC_AUTHORIZED_PARTY_OTHER"),
        (json!({"azp": "d"}), "OIDC_AUTHORIZED_PARTY_OTHER"),
        (json!({"iss": "https://other.example"}), "JWT_ISSUER_OTHER"),
        (json!({"exp": now(&rig) - 61}), "JWT_EXPIRED"),
    ] {
        id_token(changed.clone());
        let (outcome, told) = back().await;
        assert_eq!(outcome, (400, json!({"errors": ["invalid role or token"]})), "{changed}");
        assert_eq!(told.last().unwrap()["outcome"]["failed"], cause, "{changed}");
    }
    id_token(json!({"aud": ["c", "d"], "azp": "c"}));
    assert_eq!(back().await.0.0, 200);
    let (outcome, told) = back().await;
    assert_eq!((outcome.0, &told.last().unwrap()["outcome"]["failed"]), (400, &json!("OIDC_STATE_USED")));
    rig.clock.advance(Duration::from_secs(300));
    let (outcome, told) = back().await;
    assert_eq!((outcome.0, &told.last().unwrap()["outcome"]["failed"]), (400, &json!("OIDC_STATE_OVER")));
    assert!(rig.clock_now() > START);
}
