//! AWS: boto3 and hvac sign; a stand-in that verifies by botocore's own signer, and moto, answer.

use crate::stand::{Script, Shows, Stand, agent_login, strongroom_login, tell};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::workspace;

const SERVER_ID: &str = "vault.example";
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const TOLD: &str = "invalid AWS login";
/// Access key, secret, session token, account, the ARN's resource, unique id.
type Known = (&'static str, &'static str, Option<&'static str>, &'static str, &'static str, &'static str);
const PRINCIPALS: [Known; 6] = [
    (
        "ASIAWEB0000000000001",
        "web-secret",
        Some("web-session/+="),
        "111122223333",
        "assumed-role/web/i-0123456789abcdef0",
        "AROAEXAMPLE123456789",
    ),
    (
        "ASIAWEB0000000000002",
        "again-secret",
        Some("again"),
        "111122223333",
        "assumed-role/web/i-0123456789abcdef0",
        "AROAAGAIN12345678901",
    ),
    (
        "ASIAOTHER00000000001",
        "other-secret",
        Some("other"),
        "444455556666",
        "assumed-role/web/i-0123456789abcdef0",
        "AROAOTHER12345678901",
    ),
    ("AKIAALICE00000000001", "alice-secret", None, "111122223333", "user/dev/alice", "AIDAEXAMPLE123456789"),
    ("AKIAROOT000000000001", "root-secret", None, "111122223333", "root", ""),
    (
        "ASIALAMBDA0000000001",
        "lambda-secret",
        Some("lambda"),
        "111122223333",
        "assumed-role/resize/web",
        "AROALAMBDA1234567890",
    ),
];

struct Sts {
    _script: Script,
    port: u64,
    hostile: Vec<String>,
}

impl Sts {
    fn start() -> Self {
        let script = Script::start("sts_standin.py", &[]);
        let said = script.line();
        let hostile =
            said["hostile"].as_array().unwrap().iter().map(|mode| mode.as_str().unwrap().to_owned()).collect();
        let sts = Self { _script: script, port: said["port"].as_u64().unwrap(), hostile };
        let mut known = json!({});
        for (key, secret, token, account, resource, id) in PRINCIPALS {
            let service = if resource.starts_with("assumed-role") { "sts" } else { "iam" };
            let arn = format!("arn:aws:{service}::{account}:{resource}");
            let user_id = match (id, resource.rsplit_once("/")) {
                ("", _) => account.to_owned(),
                (id, Some((_, session))) if service == "sts" => format!("{id}:{session}"),
                (id, _) => id.to_owned(),
            };
            known[key] = json!({"secret": secret, "token": token, "account": account, "arn": arn, "user_id": user_id});
        }
        sts.set(json!({"principals": known}));
        sts
    }

    fn set(&self, state: Value) {
        assert_eq!(tell(self.port, "/__set", &state), json!({}));
    }

    /// What came in since the last look.
    fn log(&self) -> Vec<Value> {
        tell(self.port, "/__log", &Value::Null).as_array().unwrap().clone()
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("http://{}", self.host())
    }
}

/// A mount `aws` whose endpoint is the stand-in.
fn stand() -> (Stand, Sts, Script) {
    let (stand, sts) = (Stand::new(), Sts::start());
    configure(&stand, &sts.url());
    (stand, sts, Script::start("signer.py", &[]))
}

fn configure(stand: &Stand, endpoint: &str) {
    stand.done("POST", "sys/auth/aws", json!({"type": "aws"}));
    let config = json!({"iam_server_id_header_value": SERVER_ID, "sts_endpoint": endpoint});
    stand.done("POST", "auth/aws/config/client", config);
    for (role, arn) in [
        ("web", "arn:aws:iam::111122223333:role/web"),
        ("alice", "arn:aws:iam::111122223333:user/dev/alice"),
        ("many", "arn:aws:iam::111122223333:role/*"),
    ] {
        stand.done(
            "POST",
            &format!("auth/aws/role/{role}"),
            json!({"bound_iam_principal_arn": arn, "token_policies": "app"}),
        );
    }
    let only = json!({"bound_iam_principal_arn": "arn:aws:iam::111122223333:role/web", "bound_session_names": "eks-*"});
    stand.done("POST", "auth/aws/role/eks", only);
    let strict = json!({"bound_iam_principal_arn": "arn:aws:iam::111122223333:role/web", "require_nonce": true, "require_certificate": true});
    stand.done("POST", "auth/aws/role/strict", strict);
}

fn secrets(key: &str) -> (&'static str, Option<&'static str>) {
    let (_, secret, token, ..) = PRINCIPALS.into_iter().find(|(known, ..)| *known == key).unwrap();
    (secret, token)
}

/// The request that boto3 would send.
fn boto3(signer: &Script, sts: &Sts, key: &str) -> Value {
    let (secret, token) = secrets(key);
    signer.ask(&json!({"op": "boto3", "key": key, "secret": secret, "token": token, "region": "us-east-1",
                       "endpoint": sts.url(), "server_id": SERVER_ID}))
}

/// Vault's form of a request.
fn form(role: &str, request: &Value) -> Value {
    let base64 = |text: &str| STANDARD.encode(text);
    json!({
        "role": role,
        "iam_http_request_method": request["method"],
        "iam_request_url": base64(request["url"].as_str().unwrap()),
        "iam_request_body": base64(request["body"].as_str().unwrap()),
        "iam_request_headers": base64(&request["headers"].to_string()),
    })
}

/// Asks botocore to sign; `change` says what is otherwise than a login's.
fn signed(signer: &Script, sts: &Sts, key: &str, change: &Value) -> Value {
    let (secret, token) = secrets(key);
    let mut ask = json!({
        "op": "sign", "key": key, "secret": secret, "token": token, "region": "us-east-1", "url": format!("{}/", sts.url()),
        "body": BODY,
        "headers": {"Host": sts.host(), "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
                    "X-Vault-AWS-IAM-Server-ID": SERVER_ID},
    });
    merge(&mut ask, change);
    signer.ask(&ask)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                if value.is_null() && name != "token" {
                    into.remove(name);
                } else {
                    merge(into.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// The fields of our own form, signed by botocore as the documentation says.
fn own(signer: &Script, host: &str, key: &str, nonce: &str, certificate: Option<&str>, server_id: &str) -> Value {
    let (secret, token) = secrets(key);
    let mut headers = json!({"Host": host, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
                             "X-Strongroom-Server-Id": server_id, "X-Strongroom-Nonce": nonce});
    if let Some(certificate) = certificate {
        headers["X-Strongroom-Certificate"] = json!(certificate);
    }
    let request = signer
        .ask(&json!({"op": "sign", "key": key, "secret": secret, "token": token, "region": "eu-central-1",
                                     "url": format!("http://{host}/"), "body": BODY, "headers": headers}));
    let authorization = request["headers"]["Authorization"].as_str().unwrap();
    let mut fields = json!({"role": "web", "access_key_id": key, "amz_date": request["headers"]["X-Amz-Date"],
                            "region": "eu-central-1", "nonce": nonce,
                            "signature": authorization.rsplit_once("Signature=").unwrap().1});
    if let Some(token) = token {
        fields["security_token"] = json!(token);
    }
    if let Some(certificate) = certificate {
        fields["certificate"] = json!(certificate);
    }
    fields
}

fn nonce(stand: &Stand) -> String {
    let (status, answer) = stand.ask("POST", "auth/aws/nonce", &Value::Null, Shows::default());
    assert_eq!(status, 200, "{answer}");
    answer["data"]["nonce"].as_str().unwrap().to_owned()
}

fn thumbprint(stand: &Stand, name: &str) -> String {
    let pem = stand.path(&format!("{name}.pem"));
    let command = format!("openssl x509 -in {} -outform DER | sha256sum | cut -d' ' -f1", pem.display());
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Refused with the one text, and this cause in the record.
fn refused(stand: &Stand, what: &str, answered: (u16, Value), cause: &str) {
    assert_eq!(answered, (400, json!({"errors": [TOLD]})), "{what}");
    let causes = stand.causes();
    assert!(causes.contains_key(cause), "{what}: {cause} is not among {causes:?}");
}

#[test]
fn boto3_and_hvac_log_in_and_the_record_tells_by_what() {
    let (stand, sts, signer) = stand();
    for (role, key, name, arn) in [
        ("web", PRINCIPALS[0].0, "aws-web", "arn:aws:iam::111122223333:role/web"),
        ("alice", PRINCIPALS[3].0, "aws-alice", "arn:aws:iam::111122223333:user/alice"),
        ("many", PRINCIPALS[5].0, "aws-resize", "arn:aws:iam::111122223333:role/resize"),
    ] {
        for mode in ["honest", "xml"] {
            sts.set(json!({"mode": mode}));
            // at another second it is another signature
            let request = signed(&signer, &sts, key, &json!({"shift": if mode == "xml" { -60 } else { -30 }}));
            let (status, answer) = stand.login("aws", &form(role, &request));
            assert_eq!(status, 200, "{role}: {answer}");
            let auth = &answer["auth"];
            assert_eq!(auth["metadata"]["canonical_arn"], arn);
            assert_eq!(auth["policies"], json!(["app", "default"]));
            let token = auth["client_token"].as_str().unwrap();
            let (_, looked) = stand.ask(
                "GET",
                "auth/token/lookup-self",
                &Value::Null,
                Shows { token: Some(token), ..Shows::default() },
            );
            assert_eq!(looked["data"]["display_name"], name);
        }
    }
    sts.set(json!({"mode": "honest"}));
    let (status, answer) = stand.login("aws", &form("many", &boto3(&signer, &sts, PRINCIPALS[0].0)));
    assert_eq!(
        (status, &answer["auth"]["metadata"]["session_looks_like"]),
        (200, &json!("ec2-instance")),
        "{:?}",
        stand.causes()
    );
    let proof = stand.last_proof();
    assert!(
        proof.contains("user_id=AROAEXAMPLE123456789:i-0123456789abcdef0") && proof.contains("form=vault"),
        "{proof}"
    );
    // what went out is what we write, whatever came in
    for sent in sts.log() {
        assert_eq!((&sent["method"], &sent["path"], &sent["body"]), (&json!("POST"), &json!("/"), &json!(BODY)));
        let names: BTreeSet<String> =
            sent["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap().to_lowercase()).collect();
        let allowed = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "x-amz-date",
            "x-amz-security-token",
            "x-vault-aws-iam-server-id",
        ];
        assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{names:?}");
    }
    by_hvac(&stand, &sts);
}

/// hvac signs for the service's own host, which the stand-in is not: refused there, and let in once it names the stand-in's.
fn by_hvac(stand: &Stand, sts: &Sts) {
    let python = |more: &str| {
        let script = format!(
            "import hvac, hvac.aws_utils as u\n{more}c = hvac.Client(url='{}', verify='{}')\nr = c.auth.aws.iam_login('{}', '{}', \
             session_token='{}', header_value='{SERVER_ID}', role='web')\nassert r['auth']['client_token'] == c.token and \
             c.is_authenticated()\nprint('hvac: done')",
            stand.url(),
            stand.dev.ca().display(),
            PRINCIPALS[0].0,
            PRINCIPALS[0].1,
            PRINCIPALS[0].2.unwrap(),
        );
        Command::new(workspace().join("target/python/bin/python")).args(["-c", &script]).output().unwrap()
    };
    let output = python("");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(TOLD), "{said}");
    assert!(stand.causes().contains_key("AWS_HOST_OTHER"), "{:?}", stand.causes());
    assert!(sts.log().is_empty(), "what counts at the service itself is not shown to who stands elsewhere");
    let here = format!(
        "made = u.generate_sigv4_auth_request\ndef here(**named):\n    r = made(**named)\n    r.url = '{}/'\n    \
         r.headers['Host'] = '{}'\n    return r\nu.generate_sigv4_auth_request = here\n",
        sts.url(),
        sts.host()
    );
    let output = python(&here);
    assert!(output.stdout.starts_with(b"hvac: done"), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sts.log().len(), 1);
}

#[test]
fn a_login_that_is_not_exactly_one_is_refused() {
    let (stand, sts, signer) = stand();
    let web = PRINCIPALS[0].0;
    let good = || signed(&signer, &sts, web, &json!({}));
    let (status, answer) = stand.login("aws", &form("web", &good()));
    assert_eq!(status, 200, "{answer}");
    let elsewhere = json!({"url": "http://sts.evil.example/", "headers": {"Host": "sts.evil.example"}});
    let services = json!({"url": "https://sts.amazonaws.com/", "headers": {"Host": "sts.amazonaws.com"}});
    let in_url = json!({"url": format!("{}/?Action=AssumeRole", sts.url())});
    for (what, role, key, change, cause) in [
        ("a wrong secret", "web", web, json!({"secret": "other"}), "AWS_STS_REFUSED"),
        ("an unknown key", "web", web, json!({"key": "ASIANOBODY0000000001"}), "AWS_STS_REFUSED"),
        ("another session token", "web", web, json!({"token": "other"}), "AWS_STS_REFUSED"),
        ("no session token", "web", web, json!({"token": null}), "AWS_STS_REFUSED"),
        (
            "another server's id",
            "web",
            web,
            json!({"headers": {"X-Vault-AWS-IAM-Server-ID": "other.example"}}),
            "AWS_SERVER_ID_OTHER",
        ),
        ("no server id", "web", web, json!({"headers": {"X-Vault-AWS-IAM-Server-ID": null}}), "AWS_SERVER_ID_MISSING"),
        ("another action", "web", web, json!({"body": "Action=AssumeRole&Version=2011-06-15"}), "AWS_BODY_OTHER"),
        ("two actions", "web", web, json!({"body": format!("{BODY}&Action=AssumeRole")}), "AWS_BODY_OTHER"),
        ("another host", "web", web, elsewhere, "AWS_HOST_OTHER"),
        ("what would count at the service itself", "web", web, services, "AWS_HOST_OTHER"),
        ("a query", "web", web, in_url, "AWS_URL_OTHER"),
        ("a GET", "web", web, json!({"method": "GET"}), "AWS_METHOD_OTHER"),
        ("a header that is signed beside", "web", web, json!({"headers": {"X-Amz-Target": "x"}}), "AWS_HEADERS_OTHER"),
        (
            "another content type",
            "web",
            web,
            json!({"headers": {"Content-Type": "application/json"}}),
            "AWS_HEADERS_OTHER",
        ),
        ("another service", "web", web, json!({"service": "iam"}), "AWS_AUTHORIZATION_MALFORMED"),
        ("an unknown region", "web", web, json!({"region": "us-east-9"}), "AWS_REGION_OTHER"),
        ("a region that the service does not take", "web", web, json!({"region": "ap-south-1"}), "AWS_STS_REFUSED"),
        ("a date long past", "web", web, json!({"shift": -960}), "AWS_DATE_OTHER"),
        ("a date to come", "web", web, json!({"shift": 960}), "AWS_DATE_OTHER"),
        ("another account's role of the same name", "web", PRINCIPALS[2].0, json!({}), "AWS_PRINCIPAL_UNBOUND"),
        ("a user as a role", "web", PRINCIPALS[3].0, json!({}), "AWS_PRINCIPAL_UNBOUND"),
        ("a role as a user", "alice", web, json!({"shift": 2}), "AWS_PRINCIPAL_UNBOUND"),
        ("a session called as a role", "web", PRINCIPALS[5].0, json!({}), "AWS_PRINCIPAL_UNBOUND"),
        ("a role that was made again", "web", PRINCIPALS[1].0, json!({}), "AWS_UNIQUE_ID_OTHER"),
        ("an account's root", "many", PRINCIPALS[4].0, json!({}), "AWS_ROOT"),
        ("a session that the role does not take", "eks", web, json!({"shift": 3}), "AWS_SESSION_OTHER"),
        ("a role that is not there", "nobody", web, json!({"shift": 4}), "AWS_ROLE_UNKNOWN"),
        ("a form without a nonce", "strict", web, json!({"shift": 5}), "AWS_NONCE_MISSING"),
    ] {
        let request = signed(&signer, &sts, key, &change);
        refused(&stand, what, stand.login("aws", &form(role, &request)), cause);
    }
    smuggled(&stand, &good, &signer, &sts);
    // none of these was asked of anybody but where it says so
    let asked = sts.log();
    assert!(
        asked.iter().all(|sent| sent["method"] == "POST" && sent["path"] == "/" && sent["body"] == BODY),
        "{asked:?}"
    );
}

/// What only somebody in between, or a liar, would send: the signature is right, and something stands around it.
fn smuggled(stand: &Stand, good: &dyn Fn() -> Value, signer: &Script, sts: &Sts) {
    let list = |request: &mut Value, name: &str, value: Value| request["headers"][name] = value;
    for (what, change, cause) in [
        ("a server id that is not signed", "unsigned", "AWS_SERVER_ID_UNSIGNED"),
        ("two hosts in a list", "hosts", "AWS_HEADERS_OTHER"),
        ("Authorization twice", "authorization", "AWS_HEADERS_OTHER"),
        ("a line break in a value", "line", "AWS_HEADERS_OTHER"),
        ("a line break in a name", "name", "AWS_HEADERS_OTHER"),
        ("SignedHeaders twice", "names", "AWS_AUTHORIZATION_MALFORMED"),
        ("the service's host, put in after", "swapped", "AWS_HOST_OTHER"),
        ("a date that was changed after", "date", "AWS_STS_REFUSED"),
        ("a URL with another path", "path", "AWS_URL_OTHER"),
        ("the very same once more", "replay", "AWS_REPLAYED"),
    ] {
        let mut request = good();
        let authorization = request["headers"]["Authorization"].as_str().unwrap().to_owned();
        match change {
            "unsigned" => {
                request =
                    signed(signer, sts, PRINCIPALS[0].0, &json!({"headers": {"X-Vault-AWS-IAM-Server-ID": null}}));
                list(&mut request, "X-Vault-AWS-IAM-Server-ID", json!(SERVER_ID));
            }
            "hosts" => list(&mut request, "Host", json!([sts.host(), "sts.evil.example"])),
            "authorization" => list(&mut request, "authorization", json!(authorization)),
            "line" => list(&mut request, "Host", json!(format!("{}\r\nX-Amz-Target: x", sts.host()))),
            "name" => list(&mut request, "X-A: b\r\nHost", json!("x")),
            "names" => {
                let twice = authorization.replacen("SignedHeaders=", "SignedHeaders=host, SignedHeaders=", 1);
                list(&mut request, "Authorization", json!(twice));
            }
            "swapped" => {
                list(&mut request, "Host", json!("sts.amazonaws.com"));
                request["url"] = json!("https://sts.amazonaws.com/");
            }
            "date" => {
                let date = request["headers"]["X-Amz-Date"].as_str().unwrap();
                let other = format!("{}{}Z", &date[..14], if date.as_bytes()[14] == b'0' { 1 } else { 0 });
                list(&mut request, "X-Amz-Date", json!(other));
            }
            "path" => request["url"] = json!(format!("{}/latest/", sts.url())),
            _ => {
                request = signed(signer, sts, PRINCIPALS[0].0, &json!({"shift": 30}));
                assert_eq!(stand.login("aws", &form("web", &request)).0, 200);
            }
        }
        refused(stand, what, stand.login("aws", &form("web", &request)), cause);
    }
}

#[test]
fn our_own_form_counts_once_within_a_minute_beside_its_certificate_alone() {
    let (stand, sts, signer) = stand();
    let (web, host) = (PRINCIPALS[0].0, sts.host());
    let app = thumbprint(&stand, "app");
    let by = |certificate| Shows { certificate, ..Shows::default() };
    let post = |body: &Value, certificate| stand.ask("POST", "auth/aws/login", body, by(certificate));
    // without a certificate
    let login = own(&signer, &host, web, &nonce(&stand), None, SERVER_ID);
    assert_eq!(post(&login, None).0, 200);
    refused(&stand, "a replay", post(&login, None), "AWS_REPLAYED");
    // with one: the token is good beside it, and nowhere else
    let mut login = own(&signer, &host, web, &nonce(&stand), Some(&app), SERVER_ID);
    login["role"] = json!("strict");
    let (status, answer) = post(&login, Some("app"));
    assert_eq!(status, 200, "{answer}");
    let token = answer["auth"]["client_token"].as_str().unwrap();
    for (certificate, expected) in [(Some("app"), 200), (Some("thief"), 403), (None, 403)] {
        let shows = Shows { token: Some(token), certificate };
        assert_eq!(stand.ask("GET", "auth/token/lookup-self", &Value::Null, shows).0, expected, "{certificate:?}");
    }
    assert!(stand.last_proof().contains("form=nonce,certificate"), "{}", stand.last_proof());
    let fresh = |certificate: Option<&str>| own(&signer, &host, web, &nonce(&stand), certificate, SERVER_ID);
    let change = |mut login: Value, name: &str, value: Value| {
        login[name] = value;
        login
    };
    refused(&stand, "a thief's connection", post(&fresh(Some(&app)), Some("thief")), "AWS_CERTIFICATE_OTHER");
    refused(&stand, "no certificate", post(&fresh(Some(&app)), None), "AWS_CERTIFICATE_OTHER");
    let thiefs = change(fresh(Some(&app)), "certificate", json!(thumbprint(&stand, "thief")));
    refused(&stand, "another thumbprint than was signed", post(&thiefs, Some("thief")), "AWS_STS_REFUSED");
    let mut without = fresh(Some(&app));
    without.as_object_mut().unwrap().remove("certificate");
    refused(&stand, "the thumbprint left out", post(&without, Some("thief")), "AWS_STS_REFUSED");
    let strict = change(fresh(None), "role", json!("strict"));
    refused(&stand, "none where one is asked for", post(&strict, Some("app")), "AWS_CERTIFICATE_MISSING");
    let other = own(&signer, &host, web, &nonce(&stand), None, "other.example");
    refused(&stand, "signed for another server", post(&other, None), "AWS_STS_REFUSED");
    let made_up = own(&signer, &host, web, &"ab".repeat(40), None, SERVER_ID);
    refused(&stand, "a nonce that was made up", post(&made_up, None), "AWS_NONCE_UNKNOWN");
    let swapped = change(fresh(None), "nonce", json!(nonce(&stand)));
    refused(&stand, "another nonce than was signed", post(&swapped, None), "AWS_STS_REFUSED");
    stand.done("POST", "sys/auth/aws2", json!({"type": "aws"}));
    let (_, foreign) = stand.ask("POST", "auth/aws2/nonce", &Value::Null, Shows::default());
    let foreign = own(&signer, &host, web, foreign["data"]["nonce"].as_str().unwrap(), None, SERVER_ID);
    refused(&stand, "another mount's nonce", post(&foreign, None), "AWS_NONCE_UNKNOWN");
    refused(&stand, "a mount without an id", stand.login("aws2", &fresh(None)), "AWS_UNCONFIGURED");
    let evil = change(fresh(None), "region", json!("eu-central-1.evil.example"));
    refused(&stand, "a region that is none", post(&evil, None), "AWS_REGION_OTHER");
    let lines = change(fresh(None), "security_token", json!("x\r\nHost: evil"));
    refused(&stand, "a token that is none", post(&lines, None), "AWS_MALFORMED");
}

#[test]
fn of_many_at_once_with_one_nonce_one_is_let_in() {
    let (stand, sts, signer) = stand();
    let login = own(&signer, &sts.host(), PRINCIPALS[0].0, &nonce(&stand), None, SERVER_ID);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|_| scope.spawn(|| stand.login("aws", &login).0)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[test]
fn whatever_answers_in_awss_place_nobody_gets_in_by_it() {
    let (stand, sts, signer) = stand();
    assert!(sts.hostile.len() >= 20, "{:?}", sts.hostile);
    for (at, mode) in sts.hostile.iter().enumerate() {
        sts.set(json!({"mode": mode}));
        // a mount of its own, so that no breaker answers for it
        let mount = format!("of-{}", mode.replace('_', "-"));
        stand.done("POST", &format!("sys/auth/{mount}"), json!({"type": "aws"}));
        let config = json!({"iam_server_id_header_value": SERVER_ID, "sts_endpoint": sts.url()});
        stand.done("POST", &format!("auth/{mount}/config/client"), config);
        let many = json!({"bound_iam_principal_arn": ["arn:aws:iam::111122223333:role/*", "arn:aws:iam::444455556666:role/*"]});
        stand.done("POST", &format!("auth/{mount}/role/web"), many);
        let request = signed(&signer, &sts, PRINCIPALS[0].0, &json!({"shift": at}));
        let began = Instant::now();
        let (status, answer) = stand.login(&mount, &form("web", &request));
        assert!(matches!(status, 400 | 503), "{mode}: {status} {answer}");
        assert!(began.elapsed() < Duration::from_secs(15), "{mode}: {:?}", began.elapsed());
        assert!(answer["auth"].is_null());
        // it was the lie, and nothing else
        sts.set(json!({"mode": "honest"}));
        let honest = signed(&signer, &sts, PRINCIPALS[0].0, &json!({"shift": -100 - i64::try_from(at).unwrap()}));
        let (status, answer) = stand.login(&mount, &form("web", &honest));
        assert_eq!(status, 200, "{mode}: {answer}");
    }
    assert!(sts.log().iter().all(|sent| sent["path"] == "/"), "no redirect was followed");
    // gone: refused at once after some attempts, and let in soon after it is there again
    stand.done("POST", "auth/aws/config/client", json!({"sts_endpoint": "http://127.0.0.1:9"}));
    let gone = |at: usize| {
        let url = json!({"url": "http://127.0.0.1:9/", "headers": {"Host": "127.0.0.1:9"}, "shift": 100 + at});
        stand.login("aws", &form("web", &signed(&signer, &sts, PRINCIPALS[0].0, &url)))
    };
    let refused_at_once = (0..20).any(|at| {
        assert_eq!(gone(at).0, 503);
        stand.causes().contains_key("UPSTREAM_NOT_ASKED")
    });
    assert!(refused_at_once, "{:?}", stand.causes());
}

#[test]
fn moto_with_authentication_on_says_who_it_is() {
    let moto = Script::start("moto_server.py", &[]);
    let said = moto.line();
    let stand = Stand::new();
    let endpoint = said["endpoint"].as_str().unwrap();
    stand.done("POST", "sys/auth/aws", json!({"type": "aws"}));
    let config = json!({"iam_server_id_header_value": SERVER_ID, "sts_endpoint": endpoint});
    stand.done("POST", "auth/aws/config/client", config);
    stand.done("POST", "auth/aws/role/bob", json!({"bound_iam_principal_arn": said["arn"]}));
    let signer = Script::start("signer.py", &[]);
    let (key, secret) = (&said["key"], &said["secret"]);
    for (secret, at, status) in [(secret.clone(), 0, 200), (json!("wrong"), 1, 400)] {
        let host = endpoint.trim_start_matches("http://");
        let request = signer.ask(&json!({"op": "sign", "key": key, "secret": secret, "region": "us-east-1", "url": format!("{endpoint}/"),
            "body": BODY, "shift": at, "headers": {"Host": host, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "X-Vault-AWS-IAM-Server-ID": SERVER_ID}}));
        let answered = stand.login("aws", &form("bob", &request));
        assert_eq!(answered.0, status, "{answered:?}");
    }
}

#[test]
fn the_table_of_regions_is_awss_own() {
    let script = "import botocore.loaders as l; d = l.Loader().load_data('partitions'); \
                  print(*(r for p in d['partitions'] if p['id'] in ('aws', 'aws-cn', 'aws-us-gov', 'aws-eusc') for r in p['regions'] \
                  if not r.endswith('-global')))";
    let output = Command::new(workspace().join("target/python/bin/python")).args(["-c", script]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let theirs: BTreeSet<&str> = told.split_whitespace().collect();
    let table = std::fs::read_to_string(workspace().join("crates/vault/src/auth/aws/endpoint.rs")).unwrap();
    let table = table.split("GLOBAL").next().unwrap();
    let is_region = |text: &&str| text.matches('-').count() >= 2 && text.ends_with(|c: char| c.is_ascii_digit());
    let ours: BTreeSet<&str> = table.split('"').filter(is_region).collect();
    assert_eq!(ours, theirs);
    assert!(ours.len() > 35);
}

#[test]
fn who_may_not_say_who_vouches_does_not() {
    let (stand, ..) = stand();
    let policy = "path \"auth/aws/*\" { capabilities = [\"create\", \"read\", \"update\", \"delete\", \"list\"] }";
    stand.done("POST", "sys/policies/acl/operator", json!({"policy": policy}));
    let made = stand.done("POST", "auth/token/create", json!({"policies": ["operator"]}));
    let token = made["auth"]["client_token"].as_str();
    let shows = Shows { token, ..Shows::default() };
    let (status, _) =
        stand.ask("POST", "auth/aws/config/client", &json!({"sts_endpoint": "https://evil.example"}), shows);
    assert_eq!(status, 403, "it takes sudo");
    let role = json!({"bound_iam_principal_arn": "arn:aws:iam::111122223333:role/x"});
    assert_eq!(stand.ask("POST", "auth/aws/role/x", &role, shows).0, 204);
    for (field, value) in [
        ("bound_iam_principal_arn", json!("*")),
        ("bound_iam_principal_arn", json!([])),
        ("bound_iam_principal_id", json!("x")),
        ("auth_type", json!("ec2")),
        ("inferred_entity_type", json!("ec2_instance")),
        ("bound_account_id", json!("1")),
    ] {
        let (status, answer) = stand.ask("POST", "auth/aws/role/x", &json!({field: value}), shows);
        assert_eq!(status, 400, "{field}: {answer}");
    }
}

#[test]
fn our_own_client_signs_by_environment_container_and_instance() {
    let (stand, sts, _signer) = stand();
    let metadata = Script::start("metadata_standin.py", &[]);
    let port = metadata.line()["port"].as_u64().unwrap();
    let (key, secret, token, ..) = PRINCIPALS[0];
    let credentials = json!({"key": key, "secret": secret, "token": token, "region": "us-east-1", "role": "web"});
    tell(port, "/__set", &json!({"aws": credentials}));
    let host = sts.host();
    let base = ["aws", "--role", "web", "--server-id", SERVER_ID, "--sts-host", &host];
    let region = ("AWS_REGION", "us-east-1");
    let (instance, container) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{port}/v1/credentials"));
    std::fs::write(stand.path("pod-token"), "pod-identity-token\n").unwrap();
    let pod = stand.path("pod-token").display().to_string();
    for (what, environment) in [
        (
            "environment",
            vec![
                ("AWS_ACCESS_KEY_ID", key),
                ("AWS_SECRET_ACCESS_KEY", secret),
                ("AWS_SESSION_TOKEN", token.unwrap()),
                region,
            ],
        ),
        (
            "container",
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*container),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*pod),
                region,
            ],
        ),
        ("instance", vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*instance)]),
    ] {
        let printed = strongroom_login(&stand, &base, &environment).unwrap_or_else(|said| panic!("{what}: {said}"));
        let shows = Shows { token: Some(&printed), ..Shows::default() };
        assert_eq!(stand.ask("GET", "auth/token/lookup-self", &Value::Null, shows).0, 200, "{what}");
        assert!(stand.last_proof().ends_with("form=nonce"), "{what}");
    }
    // beside a client certificate the token is bound to it, without a word said
    let (chain, own_key) =
        (stand.path("app.pem").display().to_string(), stand.path("app-key.pem").display().to_string());
    let with = [&base[..], &["--client-cert", &chain, "--client-key", &own_key]].concat();
    let printed = strongroom_login(&stand, &with, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance)]).unwrap();
    for (certificate, expected) in [(Some("app"), 200), (None, 403)] {
        let shows = Shows { token: Some(&printed), certificate };
        assert_eq!(stand.ask("GET", "auth/token/lookup-self", &Value::Null, shows).0, expected);
    }
    let login = format!(
        "method = \"aws\"\nrole = \"web\"\nserver_id = \"{SERVER_ID}\"\nsts_host = \"{host}\"\nurl = \"{instance}\""
    );
    agent_login(&stand, &login);
    // the stand-in gives nothing without IMDSv2's token, and our client never asked without one
    let log = tell(port, "/__log", &Value::Null);
    let without = |entry: &&Value| {
        entry["path"].as_str().is_some_and(|path| path.starts_with("/latest/meta-data")) && entry["status"] != 200
    };
    assert_eq!(log.as_array().unwrap().iter().filter(without).count(), 0, "{log}");
    let said = strongroom_login(&stand, &[&base[..], &["--metadata", "http://10.0.0.1"]].concat(), &[]).unwrap_err();
    assert!(said.contains("address of this machine or its link"), "{said}");
    let said = strongroom_login(&stand, &[&base[..], &["--secret-access-key", "x"]].concat(), &[region]).unwrap_err();
    assert!(said.contains("visible to everybody"), "{said}");
    // botocore's own fetcher finds the same credentials there
    let fetcher = Script::start("signer.py", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance)]);
    assert_eq!(fetcher.ask(&json!({"op": "fetched"})), json!({"key": key, "secret": secret, "token": token}));
}
