//! JWT and OIDC logins against issuers that others wrote: tokens signed by `jose`, the certified provider `oidc-provider`,
//! and people at a real browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "oidc/people.rs"]
mod people;
#[path = "oidc/refused.rs"]
mod refused;
#[path = "oidc/stand.rs"]
mod stand;
#[path = "oidc/upstream.rs"]
mod upstream;

use serde_json::{Value, json};
use stand::Stand;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "tokens are of today")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token by which a CI job logs in at the provider's own token endpoint (client_credentials).
fn job_token(stand: &Stand, url: &str, audience: &str) -> String {
    let form = format!("grant_type=client_credentials&scope=jobs&resource={audience}");
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "-m", "30", "-u", "ci:secret-of-ci", "-d", &form, "--cacert"]).arg(stand.path("ca.pem"));
    let output = curl.arg(format!("{url}/token")).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn a_job_logs_in_by_its_platforms_token_and_reaches_its_secret() {
    let stand = Stand::new();
    let provider = stand.party("provider.mjs");
    stand.done("POST", "sys/auth/jwt", json!({"type": "jwt"}));
    let config = json!({
        "oidc_discovery_url": provider.url, "oidc_discovery_ca_pem": stand.ca(), "jwt_supported_algs": "RS256",
    });
    stand.done("POST", "auth/jwt/config", config);
    let role = json!({
        "role_type": "jwt", "user_claim": "repository_id", "bound_audiences": "https://vault.example",
        "bound_claims": {"repository_id": "4711", "ref": "refs/heads/main", "protected": true},
        "claim_mappings": {"environment": "environment"}, "bound_type": "at+jwt", "token_policies": "ci",
    });
    stand.done("POST", "auth/jwt/role/build", role);
    let token = job_token(&stand, &provider.url, "https://vault.example");
    let (status, answer) = stand.login("jwt", "build", &token);
    assert_eq!(status, 200, "{answer}");
    let auth = &answer["auth"];
    assert_eq!(auth["metadata"], json!({"role": "build", "environment": "production"}));
    // no longer than the job's own token
    let secs = auth["lease_duration"].as_u64().unwrap();
    assert!((500..=600).contains(&secs), "{secs}");
    let own = auth["client_token"].as_str().unwrap();
    let (status, secret) = stand.ask(own, "GET", "secret/data/app", Value::Null);
    assert_eq!((status, &secret["data"]["data"]["password"]), (200, &json!("the-secret")));
    let told = stand.recorded("auth/jwt/login").join("\n");
    assert!(told.starts_with(&format!("done RS256 iss={} sub=ci kid=key-", provider.url)), "{told}");
    // rotated: the new key counts at once, the old one as long as the issuer has it
    provider.ask(json!({"op": "rotate"}));
    let new = job_token(&stand, &provider.url, "https://vault.example");
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert_eq!(stand.login("jwt", "build", &new).0, 200);
    assert_eq!(stand.login("jwt", "build", &token).0, 200);
    // somebody else's audience
    let elsewhere = job_token(&stand, &provider.url, "https://other.example");
    assert_eq!(stand.login("jwt", "build", &elsewhere).0, 400);
    assert_eq!(stand.recorded("auth/jwt/login").last().unwrap(), "JWT_AUDIENCE_OTHER");
}

#[test]
fn command_line_and_agent_log_in_by_a_file_that_somebody_else_writes() {
    let stand = Stand::new();
    let issuer = stand.party("issuer.mjs");
    issuer.ask(json!({"op": "make", "id": "a", "alg": "ES256"}));
    let pem = issuer.ask(json!({"op": "pem", "id": "a"}));
    stand.done("POST", "sys/auth/jwt", json!({"type": "jwt"}));
    stand.done("POST", "auth/jwt/config", json!({"jwt_validation_pubkeys": pem}));
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_subject": "app", "token_policies": "ci",
    });
    stand.done("POST", "auth/jwt/role/app", role);
    let claims = json!({"sub": "app", "aud": "vault", "exp": now() + 300, "iat": now()});
    let token = issuer.ask(json!({"op": "sign", "key": "a", "claims": claims}));
    let file = stand.path("token.jwt");
    std::fs::write(&file, format!("{}\n", token.as_str().unwrap())).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.display().to_string();
    let arguments = ["login", "jwt", "--role", "app", "--jwt-file", &file];
    let output = stand.command(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = stand.command(&["read", "secret/data/app"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("the-secret"), "{output:?}");
    // the agent: the same file, a template
    let config = format!(
        "log_out = true\n[server]\naddress = \"https://{}\"\nca = \"{}\"\n[login]\nmethod = \"jwt\"\nrole = \"app\"\njwt_file = \"{file}\"\n\
         [[template]]\ncontents = \"{{{{ kv('secret/app').password }}}}\"\ndestination = \"{}\"\n",
        stand.dev.addr(),
        stand.dev.ca().display(),
        stand.path("password").display(),
    );
    std::fs::write(stand.path("agent.toml"), config).unwrap();
    let path = stand.path("agent.toml").display().to_string();
    let output = stand.command(&["agent", "--config", &path, "--once"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(stand.path("password")).unwrap(), "the-secret");
    // and what is no token is refused in one sentence
    std::fs::write(stand.path("token.jwt"), "no.token.at-all").unwrap();
    let output = stand.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("invalid role or token"), "{output:?}");
}

#[test]
fn what_users_of_vault_have_written_goes_on() {
    let stand = Stand::new();
    let issuer = stand.party("issuer.mjs");
    issuer.ask(json!({"op": "make", "id": "a", "alg": "PS256"}));
    let pem = issuer.ask(json!({"op": "pem", "id": "a"}));
    let claims = json!({
        "iss": "https://issuer.example", "sub": "app", "aud": ["vault"], "exp": now() + 300, "project": "api", "protected": true,
    });
    let token = issuer.ask(json!({"op": "sign", "key": "a", "claims": claims}));
    for (name, text) in [("key.pem", pem), ("app.jwt", token)] {
        std::fs::write(stand.path(name), text.as_str().unwrap()).unwrap();
    }
    let python = tests::workspace().join("target/python/bin/python");
    assert!(python.exists(), "{} is not there: `cargo xtask test` makes it", python.display());
    let mut hvac = std::process::Command::new(python);
    hvac.arg(tests::workspace().join("tests/oidc/stock.py")).arg(format!("https://{}", stand.dev.addr()));
    hvac.arg(stand.dev.ca())
        .arg(stand.dev.data().join("root-token"))
        .arg(stand.path("key.pem"))
        .arg(stand.path("app.jwt"));
    let output = hvac.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("hvac and JWT: 8 checks done"), "{said}");
}
