//! People, at a real browser and the certified provider's own pages.

use crate::stand::{Party, Stand, browse};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Output};

fn arranged(stand: &Stand, client: &str, secret: Option<&str>) -> Party {
    let provider = stand.party("provider.mjs");
    stand.done("POST", "sys/auth/oidc", json!({"type": "oidc"}));
    let config = json!({
        "oidc_discovery_url": provider.url, "oidc_discovery_ca_pem": stand.ca(), "oidc_client_id": client,
        "oidc_client_secret": secret, "default_role": "people",
    });
    stand.done("POST", "auth/oidc/config", config);
    let role = json!({
        "user_claim": "sub", "allowed_redirect_uris": "http://127.0.0.1/oidc/callback", "oidc_scopes": "profile,email",
        "groups_claim": "groups", "claim_mappings": {"email": "email"}, "bound_claims": {"groups": ["developers"]},
        "token_policies": "ci", "token_ttl": "10m",
    });
    stand.done("POST", "auth/oidc/role/people", role);
    provider
}

/// `strongroom login oidc`. Ends with this value.
struct Login(Option<Child>);

impl Login {
    fn ended(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A login, and the address that it prints.
fn begun(stand: &Stand) -> (Login, String) {
    let arguments = ["login", "--print", "oidc", "--port", "0", "--callback-host", "127.0.0.1", "--no-browser"];
    let mut child = stand.command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let login = Login(Some(child));
    let mut said = String::new();
    while !said.contains("https://") || !said.ends_with("\n\n") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let address = said.lines().find(|line| line.trim().starts_with("https://")).unwrap().trim().to_owned();
    std::thread::spawn(move || lines.read_to_string(&mut String::new()));
    (login, address)
}

#[test]
fn a_person_logs_in_at_the_providers_page_in_a_real_browser() {
    for (client, secret) in [("people", None), ("confidential", Some("a secret: with + and %"))] {
        let stand = Stand::new();
        let provider = arranged(&stand, client, secret);
        let (login, address) = begun(&stand);
        assert!(
            address.starts_with(&format!("{}/auth?response_type=code&client_id={client}&", provider.url)),
            "{address}"
        );
        for part in ["code_challenge_method=S256", "nonce=", "state=", "scope=openid%20profile%20email"] {
            assert!(address.contains(part), "{part}: {address}");
        }
        let ended = browse(&address, "alice", "agree");
        assert_eq!(ended["says"], "You are logged in. This page can be closed.");
        let output = login.ended();
        assert!(output.status.success());
        let token = String::from_utf8(output.stdout).unwrap();
        let (status, secret) = stand.ask(token.trim(), "GET", "secret/data/app", Value::Null);
        assert_eq!((status, &secret["data"]["data"]["password"]), (200, &json!("the-secret")));
        let own = stand.ask(token.trim(), "GET", "auth/token/lookup-self", Value::Null).1;
        // the address is told by the provider's userinfo, not by its ID token
        assert_eq!(own["data"]["meta"], json!({"role": "people", "email": "alice@people.example"}));
        assert_eq!(own["data"]["display_name"], "oidc-alice");
        let told = stand.recorded("auth/oidc/oidc/callback").join("\n");
        assert!(told.starts_with("done RS256 iss=https://127.0.0.1:"), "{told}");
        let log = stand.dev.log();
        assert!(!log.contains("code=") && !log.contains(token.trim()) && !log.contains("a secret: with"), "{log}");
        let shown = stand.done("GET", "auth/oidc/config", Value::Null);
        assert!(!shown.to_string().contains("with + and"), "{shown}");
    }
}

#[test]
fn a_person_who_may_not_or_does_not_want_to_is_not_logged_in() {
    let stand = Stand::new();
    let _provider = arranged(&stand, "people", None);
    for (name, wish, cause) in [("mallory", "agree", "JWT_CLAIM_OTHER"), ("alice", "refuse", "OIDC_PROVIDER_REFUSED")] {
        let (login, address) = begun(&stand);
        let ended = browse(&address, name, wish);
        assert_eq!(ended["says"], "The login was refused. The command line tells more.", "{name}");
        assert_eq!(login.ended().status.code(), Some(1));
        assert_eq!(stand.recorded("auth/oidc/oidc/callback").last().unwrap(), cause);
    }
}

/// By plain HTTP, as somebody who caught an address in between would.
#[test]
fn an_address_that_was_caught_altered_or_made_up_logs_nobody_in() {
    let stand = Stand::new();
    let provider = arranged(&stand, "people", None);
    stand.done(
        "POST",
        "auth/oidc/role/other",
        json!({
            "user_claim": "sub", "allowed_redirect_uris": "http://127.0.0.1/oidc/callback",
        }),
    );
    let redirect = "http://127.0.0.1:9/oidc/callback";
    let begin = |body: Value| stand.ask("", "POST", "auth/oidc/oidc/auth_url", body);
    let told = |answer: &(u16, Value)| {
        assert_eq!(answer, &(400, json!({"errors": ["invalid role or token"]})));
    };
    for (body, cause) in [
        (json!({"role": "nobodys", "redirect_uri": redirect}), "JWT_ROLE_UNKNOWN"),
        (json!({"role": "people", "redirect_uri": "https://evil.example/oidc/callback"}), "OIDC_REDIRECT_OTHER"),
        (
            json!({"role": "people", "redirect_uri": "http://127.0.0.1:9@evil.example/oidc/callback"}),
            "OIDC_REDIRECT_OTHER",
        ),
        (json!({"role": "people", "redirect_uri": "http://127.0.0.1:9/other"}), "OIDC_REDIRECT_OTHER"),
    ] {
        told(&begin(body.clone()));
        assert_eq!(stand.recorded("auth/oidc/oidc/auth_url").last().unwrap(), cause, "{body}");
    }
    let data = stand.dev.data().join("server").display().to_string();
    let explained = stand.command(&["auth", "explain", "--data-dir", &data, "--mount", "auth/oidc"]).output().unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("OIDC_REDIRECT_OTHER") && explained.contains("none of the role's"), "{explained}");
    let (status, answer) = begin(json!({"role": "people", "redirect_uri": redirect, "client_nonce": "mine"}));
    assert_eq!(status, 200, "{answer}");
    let address = answer["data"]["auth_url"].as_str().unwrap();
    let state = address.split("state=").nth(1).unwrap().split('&').next().unwrap();
    let mut altered = state.to_owned();
    let middle = altered.len() / 2;
    let other = if altered.as_bytes()[middle] == b'A' { "B" } else { "A" };
    altered.replace_range(middle..=middle, other);
    let issuer = provider.url.replace(':', "%3A").replace('/', "%2F");
    for (query, cause) in [
        (String::new(), "OIDC_STATE_MALFORMED"),
        ("state=made-up&code=a&client_nonce=mine".to_owned(), "OIDC_STATE_MALFORMED"),
        (format!("state={altered}&code=a&client_nonce=mine"), "OIDC_STATE_MALFORMED"),
        (format!("state={state}&code=a&client_nonce=others"), "OIDC_CLIENT_NONCE_OTHER"),
        (format!("state={state}&code=a"), "OIDC_CLIENT_NONCE_OTHER"),
        (format!("state={state}&client_nonce=mine"), "OIDC_PROVIDER_REFUSED"),
        (format!("state={state}&error=access_denied&client_nonce=mine"), "OIDC_PROVIDER_REFUSED"),
        (format!("state={state}&code=a&iss=https%3A%2F%2Fother.example&client_nonce=mine"), "JWT_ISSUER_OTHER"),
        (format!("state={state}&code=made-up&iss={issuer}&client_nonce=mine"), "OIDC_PROVIDER_REFUSED"),
    ] {
        told(&stand.ask("", "GET", &format!("auth/oidc/oidc/callback?{query}"), Value::Null));
        assert_eq!(stand.recorded("auth/oidc/oidc/callback").last().unwrap(), cause, "{query}");
    }
    // another mount's state is none of this one's
    stand.done("POST", "sys/auth/second", json!({"type": "oidc"}));
    let config =
        json!({"oidc_discovery_url": provider.url, "oidc_discovery_ca_pem": stand.ca(), "oidc_client_id": "people"});
    stand.done("POST", "auth/second/config", config);
    told(&stand.ask(
        "",
        "GET",
        &format!("auth/second/oidc/callback?state={state}&code=a&client_nonce=mine"),
        Value::Null,
    ));
    assert_eq!(stand.recorded("auth/second/oidc/callback"), ["OIDC_STATE_MALFORMED"]);
}
