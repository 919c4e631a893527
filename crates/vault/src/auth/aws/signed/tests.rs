use super::*;
use envelope::SecretBytes;
use serde_json::{Value, json};

const RULES: Rules<'static> = Rules { server_id: "vault.example", endpoint_host: None, region: None };
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const NAMES: &str = "content-length;content-type;host;x-amz-date;x-vault-aws-iam-server-id";

fn signature() -> String {
    "0123456789abcdef".repeat(4)
}

fn authorization(scope: &str, names: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={}", signature())
}

/// As Vault's clients send them.
fn headers() -> Value {
    json!({
        "Authorization": [authorization("20261128/us-east-1/sts/aws4_request", NAMES)],
        "Content-Length": ["43"],
        "Content-Type": ["application/x-www-form-urlencoded; charset=utf-8"],
        "Host": ["sts.amazonaws.com"],
        "User-Agent": ["client/1"],
        "X-Amz-Date": ["20261128T131500Z"],
        "X-Vault-AWS-IAM-Server-ID": ["vault.example"],
    })
}

fn vaults_form(url: &str, body: &str, headers: &str) -> Value {
    json!({
        "role": "web",
        "iam_http_request_method": "POST",
        "iam_request_url": STANDARD.encode(url),
        "iam_request_body": STANDARD.encode(body),
        "iam_request_headers": STANDARD.encode(headers),
    })
}

fn own_form() -> Value {
    json!({
        "role": "web",
        "access_key_id": KEY,
        "amz_date": "20261128T131500Z",
        "region": "eu-central-1",
        "nonce": "00ff",
        "signature": signature(),
    })
}

fn parsed(value: &Value, rules: Rules<'_>) -> Result<Signed, String> {
    let body = Body::parse(SecretBytes::copy_from(value.to_string().as_bytes())).unwrap();
    parse(&body, rules).map_err(|error| {
        if let VaultError::InvalidField { field, .. } = error { field.into_owned() } else { error.reason().to_owned() }
    })
}

fn cause(value: &Value) -> String {
    parsed(value, RULES).map_or_else(|cause| cause, |signed| format!("taken: {signed:?}"))
}

#[test]
fn what_goes_out_is_written_here() {
    let signed = parsed(&vaults_form("https://sts.amazonaws.com/", BODY, &headers().to_string()), RULES).unwrap();
    let mut sent: Vec<(&str, &str)> = signed.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    sent.sort_unstable();
    let authorization = authorization("20261128/us-east-1/sts/aws4_request", NAMES);
    assert_eq!(
        sent,
        [
            ("accept", "application/json"),
            ("authorization", authorization.as_str()),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("x-amz-date", "20261128T131500Z"),
            ("x-vault-aws-iam-server-id", "vault.example"),
        ]
    );
    assert_eq!((signed.host.as_str(), signed.partition), ("sts.amazonaws.com", Some("aws")));
    assert_eq!(signed.date, Timestamp::from_unix_millis(1_795_871_700_000));

    let mut own = own_form();
    own["security_token"] = json!("FwoGZXIvYXdzEBY/+=");
    own["certificate"] = json!("AB".repeat(32));
    let signed = parsed(&own, RULES).unwrap();
    assert_eq!(signed.host, "sts.eu-central-1.amazonaws.com");
    let authorization = signed.headers.iter().find(|(name, _)| *name == "authorization").unwrap().1.to_string();
    let names = "content-type;host;x-amz-date;x-amz-security-token;x-strongroom-certificate;x-strongroom-nonce;x-strongroom-server-id";
    assert!(authorization.contains(&format!("SignedHeaders={names},")), "{authorization}");
    let certificate = signed.headers.iter().find(|(name, _)| *name == CERTIFICATE).unwrap().1.to_string();
    assert_eq!(certificate, "ab".repeat(32), "in one spelling, whatever was sent");
}

#[test]
fn a_headers_value_may_be_a_text_or_a_list_of_one_and_its_object_needs_no_base64() {
    let mut plain = headers();
    for (_, value) in plain.as_object_mut().unwrap() {
        *value = value[0].clone();
    }
    let mut object = vaults_form("https://sts.amazonaws.com", BODY, "{}");
    object["iam_request_headers"] = plain.clone();
    let text = vaults_form("https://sts.amazonaws.com/", BODY, &plain.to_string());
    assert!(parsed(&object, RULES).is_ok() && parsed(&text, RULES).is_ok());
}

#[test]
fn a_host_that_the_clients_transport_writes_is_the_urls() {
    let mut all = headers();
    all.as_object_mut().unwrap().remove("Host");
    let signed = parsed(&vaults_form("https://sts.amazonaws.com/", BODY, &all.to_string()), RULES).unwrap();
    assert_eq!(signed.host, "sts.amazonaws.com");
    for url in ["https://sts.evil.example/", "https://sts.eu-west-1.amazonaws.com/"] {
        assert_eq!(cause(&vaults_form(url, BODY, &all.to_string())), HOST_OTHER, "{url}");
    }
}

#[test]
fn a_request_that_we_would_not_write_is_refused() {
    let url = "https://sts.amazonaws.com/";
    for (method, url, body, expected) in [
        ("GET", url, BODY, METHOD_OTHER),
        ("post", url, BODY, METHOD_OTHER),
        ("POST", "https://sts.amazonaws.com/?Action=AssumeRole", BODY, URL_OTHER),
        ("POST", "https://sts.amazonaws.com/x", BODY, URL_OTHER),
        ("POST", "https://sts.amazonaws.com//", BODY, URL_OTHER),
        ("POST", "https://sts.amazonaws.com:8443/", BODY, URL_OTHER),
        ("POST", "https://evil.example@sts.amazonaws.com/", BODY, URL_OTHER),
        ("POST", "https://sts.amazonaws.com@evil.example/", BODY, URL_OTHER),
        ("POST", "https://sts.amazonaws.com.evil.example/", BODY, URL_OTHER),
        ("POST", "https://sts.eu-west-1.amazonaws.com/", BODY, URL_OTHER),
        ("POST", "gopher://sts.amazonaws.com/", BODY, URL_OTHER),
        ("POST", "sts.amazonaws.com", BODY, URL_OTHER),
        ("POST", url, "Action=AssumeRole&Version=2011-06-15", BODY_OTHER),
        ("POST", url, "Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole", BODY_OTHER),
        ("POST", url, "Action=GetCallerIdentity&Version=2011-06-15&x=", BODY_OTHER),
        ("POST", url, " Action=GetCallerIdentity&Version=2011-06-15", BODY_OTHER),
        ("POST", url, "", "iam_request_body"),
    ] {
        let mut form = vaults_form(url, body, &headers().to_string());
        form["iam_http_request_method"] = json!(method);
        assert_eq!(cause(&form), expected, "{method} {url} {body}");
    }
}

#[test]
fn headers_that_do_more_than_a_login_needs_are_refused() {
    let scope = "20261128/us-east-1/sts/aws4_request";
    let signs = |names: &str| json!([authorization(scope, names)]);
    let is = |scope: &str| json!([authorization(scope, NAMES)]);
    let long = "x".repeat(HEADER_BYTES_MAX + 1);
    for (name, value, expected) in [
        ("Host", json!(["sts.evil.example"]), HOST_OTHER),
        ("Host", json!(["sts.eu-west-1.amazonaws.com"]), HOST_OTHER),
        ("Host", json!(["sts.amazonaws.com", "sts.evil.example"]), HEADERS_OTHER),
        ("Host", json!([]), HEADERS_OTHER),
        ("Host", json!({"a": "b"}), HEADERS_OTHER),
        ("Host", json!(["sts.amazonaws.com\r\nX-Evil: 1"]), HEADERS_OTHER),
        ("host", json!(["sts.amazonaws.com"]), HEADERS_OTHER),
        ("X-Evil\r\nHost", json!(["a"]), HEADERS_OTHER),
        ("X Evil", json!(["a"]), HEADERS_OTHER),
        ("", json!(["a"]), HEADERS_OTHER),
        ("X-Long", json!([long]), HEADERS_OTHER),
        ("X-Number", json!(7), HEADERS_OTHER),
        ("authorization", signs(NAMES), HEADERS_OTHER),
        ("AUTHORIZATION", json!(["Basic eDp5"]), HEADERS_OTHER),
        ("Content-Type", json!(["application/json"]), HEADERS_OTHER),
        ("Content-Length", json!(["44"]), HEADERS_OTHER),
        ("X-Vault-AWS-IAM-Server-ID", json!(["other.example"]), SERVER_ID_OTHER),
        ("X-Vault-AWS-IAM-Server-ID", json!(["Vault.example"]), SERVER_ID_OTHER),
        ("X-Amz-Date", json!(["20261127T131500Z"]), DATE_OTHER),
        ("X-Amz-Date", json!(["20261128T131560Z"]), MALFORMED),
        ("X-Amz-Date", json!(["20261128 131500Z"]), MALFORMED),
        ("X-Amz-Security-Token", json!(["unsigned"]), HEADERS_UNSIGNED),
        ("Authorization", signs("content-type;host;x-amz-date"), SERVER_ID_UNSIGNED),
        ("Authorization", signs("x-amz-date;x-vault-aws-iam-server-id"), HEADERS_UNSIGNED),
        ("Authorization", signs("host;x-vault-aws-iam-server-id"), HEADERS_UNSIGNED),
        ("Authorization", signs("host;user-agent;x-amz-date;x-vault-aws-iam-server-id"), HEADERS_OTHER),
        ("Authorization", signs("host;x-absent;x-amz-date;x-vault-aws-iam-server-id"), HEADERS_OTHER),
        ("Authorization", signs("host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id"), HEADERS_OTHER),
        ("Authorization", signs("x-amz-date;host;x-vault-aws-iam-server-id"), AUTHORIZATION_MALFORMED),
        ("Authorization", signs("host;host;x-amz-date;x-vault-aws-iam-server-id"), AUTHORIZATION_MALFORMED),
        ("Authorization", signs("Host;x-amz-date;x-vault-aws-iam-server-id"), HEADERS_UNSIGNED),
        ("Authorization", signs("host, SignedHeaders=host;x-amz-date"), AUTHORIZATION_MALFORMED),
        ("Authorization", signs(""), SERVER_ID_UNSIGNED),
        ("Authorization", is("20261128/us-east-1/iam/aws4_request"), AUTHORIZATION_MALFORMED),
        ("Authorization", is("20261128/us-east-1/sts/aws4_request/x"), AUTHORIZATION_MALFORMED),
        ("Authorization", is("20261129/us-east-1/sts/aws4_request"), DATE_OTHER),
        ("Authorization", is("20261128/eu-west-1/sts/aws4_request"), HOST_OTHER),
        ("Authorization", is("20261128/us-east-9/sts/aws4_request"), REGION_OTHER),
        ("Authorization", is("20261128/US-EAST-1/sts/aws4_request"), REGION_OTHER),
        (
            "Authorization",
            json!(["AWS4-HMAC-SHA1 Credential=x, SignedHeaders=host, Signature=0"]),
            AUTHORIZATION_MALFORMED,
        ),
        ("Authorization", json!(["Bearer x"]), AUTHORIZATION_MALFORMED),
    ] {
        let mut all = headers();
        all[name] = value.clone();
        let form = vaults_form("https://sts.amazonaws.com/", BODY, &all.to_string());
        assert_eq!(cause(&form), expected, "{name}: {value}");
    }
    let twice = headers().to_string().replacen("{", r#"{"Host":["sts.amazonaws.com"],"#, 1);
    assert_eq!(cause(&vaults_form("https://sts.amazonaws.com/", BODY, &twice)), HEADERS_OTHER);
    for absent in ["Authorization", "X-Amz-Date", "X-Vault-AWS-IAM-Server-ID"] {
        let mut all = headers();
        all.as_object_mut().unwrap().remove(absent);
        let refusal = cause(&vaults_form("https://sts.amazonaws.com/", BODY, &all.to_string()));
        assert!(refusal.starts_with("AWS_"), "{absent}: {refusal}");
    }
}

#[test]
fn fields_of_our_own_form_keep_to_their_alphabets() {
    for (name, value, expected) in [
        ("access_key_id", json!("AKIA/../x"), MALFORMED),
        ("access_key_id", json!("akiaiosfodnn7example"), MALFORMED),
        ("access_key_id", json!("AKIAIOSFODNN7EXAMPLE/x, Credential=Y"), MALFORMED),
        ("access_key_id", json!(""), "access_key_id"),
        ("amz_date", json!("20261128T131500"), MALFORMED),
        ("amz_date", json!("+0261128T131500Z"), MALFORMED),
        ("region", json!("eu-central-1/sts"), REGION_OTHER),
        ("region", json!("evil.example#"), REGION_OTHER),
        ("region", json!("us-east-9"), REGION_OTHER),
        ("security_token", json!("a\r\nHost: evil"), MALFORMED),
        ("security_token", json!("a b"), MALFORMED),
        ("signature", json!("0123456789ABCDEF".repeat(4)), MALFORMED),
        ("signature", json!("00"), MALFORMED),
        ("nonce", json!("zz"), NONCE_UNKNOWN),
        ("nonce", json!("a\nb"), NONCE_UNKNOWN),
        ("nonce", Value::Null, "nonce"),
        ("certificate", json!("00"), MALFORMED),
        ("certificate", json!(""), MALFORMED),
    ] {
        let mut form = own_form();
        form[name] = value.clone();
        assert_eq!(cause(&form), expected, "{name}: {value}");
    }
}

#[test]
fn a_mounts_endpoint_and_region_are_its_own_to_say() {
    let here = Rules { endpoint_host: Some("127.0.0.1:5000"), ..RULES };
    let one = Rules { region: Some("eu-central-1"), ..RULES };
    let new = Rules { endpoint_host: Some("sts.new.example"), region: Some("eu-new-9"), ..RULES };
    for (rules, region, host) in [
        (here, "eu-central-1", Ok("127.0.0.1:5000")),
        (here, "eu-new-9", Err(REGION_OTHER)),
        (one, "eu-central-1", Ok("sts.eu-central-1.amazonaws.com")),
        (one, "eu-west-1", Err(REGION_OTHER)),
        (new, "eu-new-9", Ok("sts.new.example")),
        (new, "eu-west-1", Err(REGION_OTHER)),
    ] {
        let mut form = own_form();
        form["region"] = json!(region);
        let found = parsed(&form, rules).map(|signed| signed.host);
        assert_eq!(found.as_deref().map_err(String::as_str), host, "{region}");
    }
    // what is signed for the service's own hosts is shown to nobody else
    let vpc = "vpce-1.sts.us-east-1.vpce.amazonaws.com";
    for (endpoint, host, taken) in [
        (None, "sts.amazonaws.com", true),
        (Some("sts.evil.example"), "sts.amazonaws.com", false),
        (Some("sts.evil.example"), "sts.us-east-1.amazonaws.com", false),
        (Some("sts.evil.example"), "sts.evil.example", true),
        (Some("x.execute-api.us-east-1.amazonaws.com"), "sts.amazonaws.com", false),
        (Some(vpc), "sts.amazonaws.com", true),
        (Some(vpc), "sts.us-east-1.amazonaws.com", true),
        (Some(vpc), vpc, true),
        (Some("sts.us-east-1.amazonaws.com"), "sts.amazonaws.com", true),
        (Some("sts.eu-west-1.amazonaws.com"), "sts.amazonaws.com", false),
    ] {
        let mut all = headers();
        all["Host"] = json!([host]);
        let form = vaults_form(&format!("https://{host}/"), BODY, &all.to_string());
        let found = parsed(&form, Rules { endpoint_host: endpoint, ..RULES }).map(|signed| signed.host);
        assert_eq!(found, if taken { Ok(host.to_owned()) } else { Err(HOST_OTHER.to_owned()) }, "{endpoint:?} {host}");
    }
}
