//! OCSP: what a responder tells of a client's certificate, whoever it is, whatever it answers.

use crate::cert::{Authority, ca, mounted, name};
use crate::rig::{Rig, START};
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyPair, SigningKey as _, date_time_ymd};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use vault::Verb::{Read, Write};
use x509_cert::Certificate;
use x509_cert::der::asn1::{BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AccessDescription, AuthorityInfoAccessSyntax};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, OcspResponseStatus,
    ResponderId, ResponseBytes, ResponseData, RevokedInfo, SingleResponse, Version,
};

const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// What is answered, but for what is signed: whole HTTP.
type Answering = Arc<Mutex<Box<dyn Fn(&OcspRequest) -> Vec<u8> + Send>>>;

/// A responder of this machine: answers as it is told to.
async fn responder() -> (String, Answering) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answering: Answering = Arc::new(Mutex::new(Box::new(|_| Vec::new())));
    let answers = Arc::clone(&answering);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
            let request = loop {
                let some = stream.read(&mut buffer).await.unwrap();
                read.extend_from_slice(&buffer[..some]);
                let body = read.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|end| &read[end + 4..]);
                if let Some(Ok(request)) = body.map(OcspRequest::from_der) {
                    break request;
                }
                assert!(some > 0, "no request: {read:?}");
            };
            let answer = answers.lock().unwrap()(&request);
            let _ = stream.write_all(&answer).await;
        }
    });
    (url, answering)
}

fn http(status: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.0 {status}\r\n\r\n").as_bytes(), body].concat()
}

fn at(secs: i64) -> OcspGeneralizedTime {
    let secs = START.unix_secs().checked_add_signed(secs).unwrap();
    OcspGeneralizedTime(GeneralizedTime::from_unix_duration(Duration::from_secs(secs)).unwrap())
}

fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: None }
}

fn data(request: &OcspRequest) -> ResponseData {
    let one = SingleResponse {
        cert_id: request.tbs_request.request_list[0].req_cert.clone(),
        cert_status: CertStatus::good(),
        this_update: at(-60),
        next_update: Some(at(3600)),
        single_extensions: None,
    };
    ResponseData {
        version: Version::V1,
        responder_id: ResponderId::ByKey(OctetString::new(vec![1; 20]).unwrap()),
        produced_at: at(-30),
        responses: vec![one],
        response_extensions: request.tbs_request.request_extensions.clone(),
    }
}

fn signed(data: ResponseData, key: &KeyPair, certs: &[Vec<u8>]) -> BasicOcspResponse {
    let signature = key.sign(&data.to_der().unwrap()).unwrap();
    let certs: Vec<_> = certs.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
    BasicOcspResponse {
        tbs_response_data: data,
        signature_algorithm: algorithm(ECDSA_SHA256),
        signature: BitString::from_bytes(&signature).unwrap(),
        certs: (!certs.is_empty()).then_some(certs),
    }
}

fn successful(basic: &BasicOcspResponse) -> OcspResponse {
    let response = OctetString::new(basic.to_der().unwrap()).unwrap();
    let response_bytes = Some(ResponseBytes { response_type: BASIC, response });
    OcspResponse { response_status: OcspResponseStatus::Successful, response_bytes }
}

fn ok(basic: &BasicOcspResponse) -> Vec<u8> {
    http("200 OK", &successful(basic).to_der().unwrap())
}

/// Whom an authority lets answer, unless that is changed.
fn answerer(by: &Authority, key: &KeyPair, set: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("responder");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    set(&mut params);
    by.certified(&params, key)
}

fn naming(url: &str) -> CustomExtension {
    let named = AuthorityInfoAccessSyntax(vec![AccessDescription {
        access_method: ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1"),
        access_location: GeneralName::UniformResourceIdentifier(Ia5String::new(url).unwrap()),
    }]);
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], named.to_der().unwrap())
}

struct Stand {
    rig: Rig,
    root: Arc<Authority>,
    leaf: Vec<Vec<u8>>,
    answering: Answering,
    url: String,
}

impl Stand {
    async fn new() -> Self {
        let (rig, root, (url, answering)) = (mounted().await, Arc::new(Authority::root("Root")), responder().await);
        let leaf = vec![root.leaf(|params| params.custom_extensions.push(naming(&url)))];
        let role = json!({"certificate": root.pem, "ocsp_enabled": true});
        rig.done(Write, "auth/cert/certs/web", role).await;
        Self { rig, root, leaf, answering, url }
    }

    fn answers(&self, answer: impl Fn(&OcspRequest) -> Vec<u8> + Send + 'static) {
        *self.answering.lock().unwrap() = Box::new(answer);
    }

    /// The status, and what the record says of why.
    async fn enter(&self) -> (u16, String) {
        let login = self.rig.enter(&self.leaf, json!({"name": "web"}));
        let ((status, _), records) = self.rig.recorded(login).await;
        (status, records.last().unwrap()["outcome"]["failed"].as_str().unwrap_or_default().to_owned())
    }

    async fn role(&self, how: Value) {
        self.rig.done(Write, "auth/cert/certs/web", how).await;
    }
}

/// Changes what the responder tells before it signs.
type Change = fn(&mut ResponseData);
/// What it makes of what is signed.
type Alteration = fn(BasicOcspResponse) -> Vec<u8>;

#[tokio::test]
async fn what_its_authority_says_is_good_logs_in_whoever_may_say_so() {
    let stand = Stand::new().await;
    let (root, own) = (&stand.root, Arc::new(KeyPair::generate().unwrap()));
    let issuer = Arc::clone(root);
    stand.answers(move |request| ok(&signed(data(request), issuer.key(), &[])));
    assert_eq!(stand.enter().await, (200, String::new()));
    let changes: [Change; 3] = [
        |data| data.response_extensions = None,
        |data| data.responses[0].next_update = None,
        |data| data.responses[0].cert_id.hash_algorithm.parameters = None,
    ];
    for change in changes {
        let issuer = Arc::clone(root);
        stand.answers(move |request| {
            let mut data = data(request);
            change(&mut data);
            ok(&signed(data, issuer.key(), &[]))
        });
        assert_eq!(stand.enter().await, (200, String::new()));
    }
    // whom the issuer has certified for it
    let certified = answerer(root, &own, |_| {});
    let (key, shown) = (Arc::clone(&own), certified.clone());
    stand.answers(move |request| ok(&signed(data(request), &key, std::slice::from_ref(&shown))));
    assert_eq!(stand.enter().await.0, 200);
    // whom the role names, by its certificate or by its authority's
    let other = Authority::root("Other");
    let theirs = answerer(&other, &own, |_| {});
    let pem = |der: &[u8]| pem_of(der);
    for (named, certs, status) in [
        (String::new(), vec![theirs.clone()], 400),
        (pem(&theirs), vec![], 200),
        (pem(&other.der), vec![theirs.clone()], 200),
        (pem(&other.der), vec![], 400),
        (String::new(), vec![theirs.clone()], 400),
    ] {
        stand.role(json!({"ocsp_ca_certificates": named})).await;
        let key = Arc::clone(&own);
        stand.answers(move |request| ok(&signed(data(request), &key, &certs)));
        assert_eq!(stand.enter().await.0, status);
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn whatever_else_is_answered_lets_nobody_in_and_the_record_says_why() {
    let stand = Stand::new().await;
    let mut tried = 0;
    let changed: [(&str, Change); 17] = [
        ("X509_REVOKED", |data| {
            data.responses[0].cert_status =
                CertStatus::revoked(RevokedInfo { revocation_time: at(-100), revocation_reason: None });
        }),
        ("X509_OCSP_STATUS_UNKNOWN", |data| data.responses[0].cert_status = CertStatus::unknown()),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            data.responses[0].cert_id.serial_number = x509_cert::serial_number::SerialNumber::new(&[8]).unwrap();
        }),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            data.responses[0].cert_id.issuer_key_hash = OctetString::new(vec![0; 20]).unwrap();
        }),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            data.responses[0].cert_id.issuer_name_hash = OctetString::new(vec![0; 20]).unwrap();
        }),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            let other: CertId = data.responses[0].cert_id.clone();
            let oid = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
            data.responses[0].cert_id = CertId { hash_algorithm: algorithm(oid), ..other };
        }),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| data.responses.clear()),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            // good and revoked at once
            let mut again = data.responses[0].clone();
            again.cert_status = CertStatus::revoked(RevokedInfo { revocation_time: at(-1), revocation_reason: None });
            data.responses.push(again);
        }),
        ("X509_OCSP_NOT_CURRENT", |data| data.responses[0].next_update = Some(at(-1))),
        ("X509_OCSP_NOT_CURRENT", |data| data.responses[0].this_update = at(301)),
        ("X509_OCSP_NOT_CURRENT", |data| data.produced_at = at(301)),
        ("X509_OCSP_NOT_CURRENT", |data| {
            data.responses[0].this_update = at(-301);
            data.responses[0].next_update = None;
        }),
        ("X509_OCSP_NONCE_OTHER", |data| {
            let nonce = OctetString::new(OctetString::new(vec![7; 16]).unwrap().to_der().unwrap()).unwrap();
            data.response_extensions = Some(vec![Extension { extn_id: NONCE, critical: false, extn_value: nonce }]);
        }),
        ("X509_OCSP_NONCE_OTHER", |data| {
            let mut both = data.response_extensions.clone().unwrap();
            both.push(Extension { extn_value: OctetString::new(vec![4, 1, 7]).unwrap(), ..both[0].clone() });
            data.response_extensions = Some(both);
        }),
        ("X509_OCSP_UNREADABLE", |data| data.response_extensions = Some(vec![critical()])),
        ("X509_OCSP_UNREADABLE", |data| data.responses[0].single_extensions = Some(vec![critical()])),
        ("X509_OCSP_CERTIFICATE_OTHER", |data| {
            data.responses[0].cert_id.serial_number = x509_cert::serial_number::SerialNumber::new(&[7, 0]).unwrap();
        }),
    ];
    for (cause, change) in changed {
        let issuer = Arc::clone(&stand.root);
        stand.answers(move |request| {
            let mut data = data(request);
            change(&mut data);
            ok(&signed(data, issuer.key(), &[]))
        });
        assert_eq!(stand.enter().await, (400, cause.to_owned()), "{tried}");
        tried += 1;
    }
    let altered: [(u16, &str, Alteration); 15] = [
        (400, "X509_OCSP_SIGNER_OTHER", |mut basic| {
            basic.tbs_response_data.responses[0].this_update = at(-61);
            ok(&basic)
        }),
        (400, "X509_OCSP_SIGNER_OTHER", |mut basic| {
            basic.signature_algorithm = algorithm(ECDSA_SHA384);
            ok(&basic)
        }),
        (400, "X509_OCSP_SIGNER_OTHER", |mut basic| {
            basic.signature_algorithm = algorithm(BASIC);
            ok(&basic)
        }),
        (400, "X509_OCSP_SIGNER_OTHER", |mut basic| {
            basic.signature = BitString::from_bytes(&[]).unwrap();
            ok(&basic)
        }),
        (400, "X509_OCSP_UNREADABLE", |basic| {
            let mut other = successful(&basic);
            other.response_bytes.as_mut().unwrap().response_type = NONCE;
            http("200 OK", &other.to_der().unwrap())
        }),
        (400, "X509_OCSP_UNREADABLE", |basic| {
            let none = OcspResponse { response_bytes: None, ..successful(&basic) };
            http("200 OK", &none.to_der().unwrap())
        }),
        (400, "X509_OCSP_UNREADABLE", |basic| {
            let whole = ok(&basic);
            whole[..whole.len() - 1].to_vec()
        }),
        (400, "X509_OCSP_UNREADABLE", |basic| [ok(&basic), vec![0]].concat()),
        (400, "X509_OCSP_UNREADABLE", |_| http("200 OK", b"")),
        (400, "X509_OCSP_UNREADABLE", |_| http("200 OK", b"<html>good</html>")),
        (400, "X509_OCSP_UNREADABLE", |basic| {
            [b"HTTP/1.0 302 Found\r\nlocation: /\r\n\r\n".to_vec(), basic.to_der().unwrap()].concat()
        }),
        (400, "X509_OCSP_REFUSED", |_| http("404 Not Found", b"")),
        (400, "X509_OCSP_REFUSED", |basic| {
            // a good answer that is said to be none
            let refused = OcspResponse { response_status: OcspResponseStatus::TryLater, ..successful(&basic) };
            http("200 OK", &refused.to_der().unwrap())
        }),
        (400, "X509_OCSP_REFUSED", |_| http("200 OK", &OcspResponse::unauthorized().to_der().unwrap())),
        (503, "UPSTREAM_UNREACHABLE", |_| http("500 Internal Server Error", b"")),
    ];
    for (status, cause, alter) in altered {
        let issuer = Arc::clone(&stand.root);
        stand.answers(move |request| alter(signed(data(request), issuer.key(), &[])));
        assert_eq!(stand.enter().await, (status, cause.to_owned()), "{tried}");
        tried += 1;
    }
    stand.answers(|_| Vec::new());
    assert_eq!(stand.enter().await, (503, "UPSTREAM_UNREACHABLE".to_owned()));
    tried += signers(&stand).await;
    assert_eq!(tried, 38);
}

fn critical() -> Extension {
    let extn_id = ObjectIdentifier::new_unwrap("1.2.3.4");
    Extension { extn_id, critical: true, extn_value: OctetString::new(vec![5, 0]).unwrap() }
}

/// Who is certified, and may not answer all the same.
async fn signers(stand: &Stand) -> usize {
    let (root, key) = (&stand.root, Arc::new(KeyPair::generate().unwrap()));
    let other = Authority::root("Root");
    let middle = root.below(ca("Middle", |_| {}));
    let shown = [
        answerer(root, &key, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        answerer(root, &key, |params| params.extended_key_usages.clear()),
        answerer(root, &key, |params| params.not_after = date_time_ymd(2023, 11, 1)),
        answerer(root, &key, |params| params.not_before = date_time_ymd(2023, 12, 1)),
        answerer(&other, &key, |_| {}),
        // whom another than the issuer has certified, though the issuer stands above
        answerer(&middle, &key, |_| {}),
    ];
    let count = shown.len();
    for (at, certificate) in shown.into_iter().enumerate() {
        let (key, certs) = (Arc::clone(&key), [certificate, middle.der.clone()]);
        stand.answers(move |request| ok(&signed(data(request), &key, &certs)));
        assert_eq!(stand.enter().await, (400, "X509_OCSP_SIGNER_OTHER".to_owned()), "signer {at}");
    }
    count
}

#[tokio::test]
async fn servers_are_asked_as_the_role_says_and_what_it_may_not_say_is_refused_by_name() {
    let stand = Stand::new().await;
    let (away, good) = (responder().await, responder().await);
    let issuer = Arc::clone(&stand.root);
    *good.1.lock().unwrap() = Box::new(move |request| ok(&signed(data(request), issuer.key(), &[])));
    let issuer = Arc::clone(&stand.root);
    stand.answers(move |request| {
        let mut data = data(request);
        data.responses[0].cert_status = CertStatus::unknown();
        ok(&signed(data, issuer.key(), &[]))
    });
    let (away, good, doubts) = (away.0, good.0, &stand.url);
    for (servers, all, status, cause) in [
        (json!([]), false, 400, "X509_OCSP_STATUS_UNKNOWN"),
        (json!([good]), false, 200, ""),
        (json!([away, good]), false, 200, ""),
        (json!([away, good]), true, 503, "UPSTREAM_UNREACHABLE"),
        (json!([good, doubts]), false, 200, ""),
        (json!([good, doubts]), true, 400, "X509_OCSP_STATUS_UNKNOWN"),
        (json!([doubts, good]), false, 400, "X509_OCSP_STATUS_UNKNOWN"),
        (json!([good, good]), true, 200, ""),
    ] {
        let how = json!({"ocsp_servers_override": servers, "ocsp_query_all_servers": all});
        stand.role(how.clone()).await;
        assert_eq!(stand.enter().await, (status, cause.to_owned()), "{how}");
    }
    // as old as the role takes it
    for (age, status) in [("59s", 400), ("61s", 200), ("0", 200)] {
        stand.role(json!({"ocsp_servers_override": [good], "ocsp_this_update_max_age": age})).await;
        assert_eq!(stand.enter().await.0, status, "{age}");
    }
    let read = stand.rig.done(Read, "auth/cert/certs/web", Value::Null).await;
    assert_eq!((&read["ocsp_enabled"], &read["ocsp_servers_override"]), (&json!(true), &json!([good])));
    // a certificate that names nobody
    stand.role(json!({"ocsp_servers_override": []})).await;
    for leaf in [stand.root.leaf(|_| {}), stand.root.leaf(|params| params.custom_extensions.push(naming("ldap://x/")))]
    {
        let ((status, _), records) = stand.rig.recorded(stand.rig.enter(&[leaf], json!({"name": "web"}))).await;
        assert_eq!((status, &records.last().unwrap()["outcome"]["failed"]), (400, &json!("X509_OCSP_SERVER_NONE")));
    }
    for (field, wrong) in [
        ("ocsp_servers_override", json!(["ldap://a/"])),
        ("ocsp_servers_override", json!(["http://a@b/"])),
        ("ocsp_servers_override", json!(vec!["https://a/"; 5])),
        ("ocsp_ca_certificates", json!("no PEM")),
        ("ocsp_ca_certificates", json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("ocsp_fail_open", json!(true)),
        ("ocsp_max_retries", json!(4)),
        ("ocsp_this_update_max_age", json!("soon")),
    ] {
        let (status, answer) = stand.rig.root(Write, "auth/cert/certs/web", json!({ field: wrong })).await;
        assert!(status == 400 && answer.to_string().contains(field), "{field}: {answer}");
    }
}

#[tokio::test]
async fn a_token_goes_on_only_while_its_certificate_is_told_to_be_good() {
    let stand = Stand::new().await;
    let issuer = Arc::clone(&stand.root);
    stand.answers(move |request| ok(&signed(data(request), issuer.key(), &[])));
    let (_, answer) = stand.rig.enter(&stand.leaf, json!({})).await;
    let token = answer["auth"]["client_token"].as_str().unwrap();
    let renewed = async || {
        let with = crate::rig::With { token: Some(token), chain: Some(&stand.leaf), ..crate::rig::With::default() };
        stand.rig.ask(Write, "auth/token/renew-self", json!({}), with).await.0
    };
    assert_eq!(renewed().await, 200);
    let issuer = Arc::clone(&stand.root);
    stand.answers(move |request| {
        let mut data = data(request);
        data.responses[0].cert_status =
            CertStatus::revoked(RevokedInfo { revocation_time: at(-1), revocation_reason: None });
        ok(&signed(data, issuer.key(), &[]))
    });
    assert_eq!(renewed().await, 400);
}

/// OpenSSL's own responder, of this moment.
#[tokio::test]
async fn openssls_responder_says_who_is_revoked() {
    let stand = Stand::new().await;
    #[expect(clippy::disallowed_methods, reason = "another's clock")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    stand.rig.clock.advance(now - Duration::from_secs(START.unix_secs()));
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("root.pem", &stand.root.pem);
    write("root.key", &stand.root.key().serialize_pem());
    // of which 7 is known to be good, 8 to be revoked, 9 is not known
    write(
        "index.txt",
        "V\t491231235959Z\t\t07\tunknown\t/CN=web\nR\t491231235959Z\t260101000000Z\t08\tunknown\t/CN=web\n",
    );
    let arguments = "ocsp -index index.txt -rsigner root.pem -rkey root.key -CA root.pem -nmin 5 -ignore_err -port 0";
    let mut openssl = tokio::process::Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // it would wait for ever for whoever connects and says nothing
    let mut said = BufReader::new(openssl.stdout.take().unwrap()).lines();
    let port = loop {
        let line = said.next_line().await.unwrap().unwrap();
        if let Some(rest) = line.strip_prefix("ACCEPT ") {
            let address = rest.split(' ').next().unwrap();
            break address.rsplit_once(':').unwrap().1.to_owned();
        }
    };
    stand.role(json!({"ocsp_servers_override": [format!("http://127.0.0.1:{port}")]})).await;
    for (serial, status, cause) in [(7, 200, ""), (8, 400, "X509_REVOKED"), (9, 400, "X509_OCSP_STATUS_UNKNOWN")] {
        let leaf = [stand.root.leaf(|params| {
            params.serial_number = Some(rcgen::SerialNumber::from(serial));
            params.not_after = date_time_ymd(2049, 12, 31);
        })];
        let login = stand.rig.enter(&leaf, json!({"name": "web"}));
        let ((answered, answer), records) = stand.rig.recorded(login).await;
        let why = records.last().unwrap()["outcome"]["failed"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answered, why.as_str()), (status, cause), "{serial}: {answer}");
    }
}
