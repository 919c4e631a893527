//! No way round: whatever is asked at whichever door leaves one leaf, and where the log takes none nothing is answered.

use crate::public::{get, page};
use crate::rig::{ROOT, Rig, begun, refused_by};
use api::{Operation, STRANGERS_MAX};
use audit::AuditError;
use prost::Message as _;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

async fn reflected(rig: &Rig, asks: Vec<MessageRequest>) -> Vec<MessageResponse> {
    let asks: Vec<_> = asks
        .into_iter()
        .map(|ask| ServerReflectionRequest { host: String::new(), message_request: Some(ask) })
        .collect();
    let mut client = ServerReflectionClient::new(rig.channel.clone());
    let replies = client.server_reflection_info(tokio_stream::iter(asks)).await.unwrap().into_inner();
    replies.map(|reply: Result<ServerReflectionResponse, _>| reply.unwrap().message_response.unwrap()).collect().await
}

/// Every RPC that the server says it has, as its path.
async fn rpcs(rig: &Rig) -> Vec<String> {
    let listed = reflected(rig, vec![MessageRequest::ListServices(String::new())]).await;
    let [MessageResponse::ListServicesResponse(services)] = &listed[..] else { panic!("{listed:?}") };
    let mut paths = Vec::new();
    for service in services.service.iter().map(|service| &service.name) {
        let files = reflected(rig, vec![MessageRequest::FileContainingSymbol(service.clone())]).await;
        let [MessageResponse::FileDescriptorResponse(files)] = &files[..] else { panic!("{service}: {files:?}") };
        for file in &files.file_descriptor_proto {
            let file = prost_types::FileDescriptorProto::decode(&file[..]).unwrap();
            let described =
                file.service.iter().find(|found| format!("{}.{}", file.package(), found.name()) == *service);
            for method in described.iter().flat_map(|service| &service.method) {
                paths.push(format!("/{service}/{}", method.name()));
            }
        }
    }
    paths
}

#[tokio::test]
async fn every_rpc_leaves_one_leaf_whatever_is_sent_by_whomever() {
    let rig = Rig::start().await;
    let mut paths = rpcs(&rig).await;
    let beside = [Operation::Health, Operation::Metrics, Operation::Reflection, Operation::Unknown];
    let others = |operation: &&Operation| !beside.contains(operation) && !Operation::VERBS.contains(operation);
    for operation in Operation::ALL.iter().filter(others) {
        let method = format!("/{}", operation.name());
        assert!(paths.iter().any(|path| path.ends_with(&method)), "reflection does not tell of {method}");
    }
    // each version of reflection tells of itself alone
    paths.push("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo".into());
    // what ends the token that asks comes last
    paths.sort_by_key(|path| path.ends_with("/RevokeToken"));
    let root = format!("Bearer {ROOT}");
    let root = [("authorization", root.as_str())];
    let wrong = [("authorization", "Bearer wrong-token-of-some-length")];
    for path in &paths {
        for (what, message, headers) in [
            ("garbage", &[0xff; 9][..], &root[..]),
            ("garbage from nobody", &[0xff; 9], &[]),
            ("no token", &[], &[]),
            ("a wrong token", &[], &wrong),
            ("a malformed deadline", &[], &[root[0], ("grpc-timeout", "soon")]),
            ("an encoding", &[], &[root[0], ("grpc-encoding", "gzip")]),
            ("an empty message", &[], &root),
        ] {
            let before = rig.leaves();
            let reply = begun(rig.addr, path, message, headers).await;
            // what makes a key is announced before the boundary is asked, and told again with its change
            let expected = if path.ends_with("/CreateKey") && what == "an empty message" { 2 } else { 1 };
            assert_eq!(rig.leaves() - before, expected, "{path}: {what}");
            let id = reply.headers()["x-request-id"].to_str().unwrap();
            let record = &rig.records()[before];
            assert_eq!(record["request_id"], id, "{path}: {what}");
            if record["subject"]["type"] == "unauthenticated" {
                let decision = if record["outcome"] == "done" { "allowed" } else { "not_reached" };
                assert_eq!(record["decision"], decision, "{path}: {what}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_leaves_its_leaf_when_it_opens_and_no_other() {
    let rig = Rig::start().await;
    let before = rig.leaves();
    let mut watching = tonic_health::pb::health_client::HealthClient::new(rig.channel.clone())
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rig.leaves() - before, 1);
    assert!(watching.next().await.unwrap().is_ok());
    rig.health.stop();
    while let Some(told) = watching.next().await {
        told.unwrap();
    }
    assert_eq!(rig.leaves() - before, 1);
    let asks = vec![MessageRequest::ListServices(String::new()); 5];
    assert_eq!(reflected(&rig, asks).await.len(), 5);
    assert_eq!(rig.leaves() - before, 2);
}

/// What an HTTP/1.1 client of any kind may send, and the status line that it gets.
pub(crate) async fn sent(rig: &Rig, request: String) -> String {
    let addr = rig.addr;
    let reply = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    });
    reply.await.unwrap()
}

/// Paths of the vault's API: of every subtree, and none.
const VAULT: [&str; 34] = [
    "sys/health",
    "sys/seal-status",
    "sys/leader",
    "sys/ha-status",
    "sys/init",
    "sys/mounts",
    "sys/mounts/none",
    "sys/mounts/none/tune",
    "sys/auth",
    "sys/auth/none",
    "sys/internal/ui/mounts",
    "sys/internal/ui/mounts/secret/a",
    "sys/remount",
    "sys/policies/acl",
    "sys/policies/acl/none",
    "sys/policy",
    "sys/policy/none",
    "sys/capabilities-self",
    "sys/wrapping/wrap",
    "sys/wrapping/lookup",
    "sys/wrapping/unwrap",
    "sys/wrapping/rewrap",
    "sys/nothing",
    "secret/config",
    "secret/data/none",
    "secret/metadata/none",
    "secret/subkeys/none",
    "secret/delete/none",
    "secret/undelete/none",
    "secret/destroy/none",
    "secret/promote/none",
    "cubbyhole/none",
    "nowhere/a/b",
    "%2e%2e/sys/mounts",
];

/// More of them, which strangers are not asked about: their records are bounded.
const VAULT_OF_ROOT: [&str; 57] = [
    "sys/unseal",
    "sys/key-status",
    "sys/rotate",
    "sys/step-down",
    "sys/rekey/init",
    "sys/generate-root/attempt",
    "sys/generate-root/update",
    "sys/rekey-recovery-key/init",
    "sys/rekey-recovery-key/verify",
    "sys/metrics",
    "sys/locked-users",
    "sys/locked-users/none/unlock/none",
    "sys/internal/ui/resultant-acl",
    "sys/capabilities",
    "sys/capabilities-accessor",
    "sys/leases",
    "sys/leases/lookup",
    "sys/leases/lookup/auth",
    "sys/leases/renew",
    "sys/leases/revoke",
    "sys/leases/revoke-prefix/none",
    "sys/leases/revoke-force/none",
    "sys/leases/count",
    "sys/leases/tidy",
    "sys/tools/random",
    "sys/tools/random/seal/8",
    "sys/tools/random/all/8",
    "sys/tools/hash/sha2-256",
    "sys/audit",
    "sys/audit/none",
    "sys/audit-hash/strongroom",
    "sys/quotas/config",
    "sys/quotas/rate-limit",
    "sys/quotas/rate-limit/none",
    "sys/namespaces",
    "sys/namespaces/none",
    "sys/policies/password",
    "sys/policies/password/none",
    "sys/policies/password/none/generate",
    "sys/internal/specs/openapi",
    "auth/token/create",
    "auth/token/create/none",
    "auth/token/create-orphan",
    "auth/token/lookup",
    "auth/token/lookup-self",
    "auth/token/lookup-accessor",
    "auth/token/renew",
    "auth/token/renew-self",
    "auth/token/renew-accessor",
    "auth/token/revoke",
    "auth/token/revoke-accessor",
    "auth/token/revoke-orphan",
    "auth/token/accessors",
    "auth/token/roles",
    "auth/token/roles/none",
    "auth/token/tidy",
    "auth/token/nothing",
];

#[tokio::test]
async fn every_path_of_the_vault_leaves_one_leaf_by_every_method_whatever_is_sent_by_whomever() {
    let root = format!("x-vault-token: {ROOT}\r\n");
    let asked = one_leaf_each(&VAULT, &["", "x-vault-token: wrong-token-of-some-length\r\n", &root]).await;
    assert_eq!(asked, 2142);
}

#[tokio::test]
async fn what_is_done_with_tokens_and_the_system_leaves_one_leaf_too() {
    let asked = one_leaf_each(&VAULT_OF_ROOT, &[&format!("x-vault-token: {ROOT}\r\n")]).await;
    assert_eq!(asked, 1197);
}

#[tokio::test]
async fn what_is_asked_in_a_namespace_leaves_one_leaf_too() {
    let root = format!("x-vault-token: {ROOT}\r\nx-vault-namespace: here\r\n");
    let nobody = "x-vault-namespace: here\r\n";
    let nowhere = format!("x-vault-token: {ROOT}\r\nx-vault-namespace: here/none\r\n");
    let twice = format!("{root}x-vault-namespace: here\r\n");
    let asked = one_leaf_each(&VAULT, &[&root]).await + one_leaf_each(&VAULT_OF_ROOT, &[&root]).await;
    assert_eq!(asked, 1911);
    let few = ["sys/mounts", "secret/data/x", "auth/token/lookup-self", "here/sys/mounts"];
    assert_eq!(one_leaf_each(&few, &[nobody, &nowhere, &twice]).await, 252);
}

/// How many requests that were.
async fn one_leaf_each(paths: &[&str], tokens: &[&str]) -> usize {
    let rig = Rig::start().await;
    let made = format!(
        "POST /v1/sys/namespaces/here HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-vault-token: {ROOT}\r\n\r\n"
    );
    assert!(sent(&rig, made).await.starts_with("HTTP/1.1 200"));
    let bodies = ["", "{\"a\":1,\"a\":1}", "{\"path\":7,\"versions\":\"x\",\"type\":[],\"data\":0}"];
    let (before, mut replies) = (rig.leaves(), Vec::new());
    for path in paths {
        for method in ["GET", "HEAD", "LIST", "POST", "PATCH", "DELETE", "SCAN"] {
            for token in tokens {
                for body in bodies {
                    let head = format!("host: x\r\nconnection: close\r\n{token}content-length: {}\r\n", body.len());
                    let reply = sent(&rig, format!("{method} /v1/{path} HTTP/1.1\r\n{head}\r\n{body}")).await;
                    assert!(!reply.starts_with("HTTP/1.1 5"), "{method} {path} {token}{body}: {reply}");
                    replies.push((format!("{method} {path} {token}{body}: {reply}"), reply));
                }
            }
        }
    }
    let records = rig.records();
    assert_eq!(records.len() - before, replies.len());
    for (record, (case, reply)) in records[before..].iter().zip(&replies) {
        assert!(reply.contains(record["request_id"].as_str().unwrap()), "{case} {record}");
    }
    replies.len()
}

#[tokio::test]
async fn a_token_in_the_path_of_what_cannot_be_read_is_told_as_a_mark() {
    let rig = Rig::start().await;
    // by one byte, so that all of it is read
    let large = "x".repeat((64 << 10) + 1);
    for (path, body, told) in [
        ("auth/token/lookup/sr.secret-of-the-tests", "{", "POST /v1/auth/token/lookup/(token)"),
        ("auth/token/lookup/sr.secret-of-the-tests", large.as_str(), "POST /v1/auth/token/lookup/(token)"),
        ("auth//srb.secret-of-the-tests", "", "POST /v1/auth//(token)"),
        ("auth%2f%73%72w%2esecret-of-the-tests", "", "POST /v1/auth/(token)"),
        ("auth/%zz/sr.secret-of-the-tests", "", "POST /v1/auth/%zz/(token)"),
    ] {
        let before = rig.leaves();
        let head = format!("host: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let reply = sent(&rig, format!("POST /v1/{path} HTTP/1.1\r\n{head}\r\n{body}")).await;
        assert!(reply.starts_with("HTTP/1.1 4"), "{path}: {reply}");
        let records = rig.records().split_off(before);
        assert_eq!((records.len(), records[0]["path"].as_str()), (1, Some(told)), "{path}");
        assert!(!records[0].to_string().contains("secret-of-the-tests"), "{}", records[0]);
    }
}

#[tokio::test]
async fn every_page_and_every_path_leaves_one_leaf_by_every_method() {
    let rig = Rig::start().await;
    let long = format!("/{}", "long".repeat(1000));
    let paths = [
        "/health",
        "/health?token=secret-of-the-tests",
        "/health/",
        "/health;secret-of-the-tests",
        "/HEALTH",
        "/metrics",
        "/metrics?secret-of-the-tests",
        "/",
        "//",
        "/../../etc/passwd",
        "/%00%0a%2e",
        "/nowhere?secret-of-the-tests",
        "http://user:secret-of-the-tests@x/nowhere?a",
        "/strongroom.kms.v1.Crypto/Encrypt",
        "/strongroom.kms.v1.Crypto/",
        "/strongroom.kms.v1.Crypto/Explode",
        "/strongroom.operator.v1.Operator/Backup",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Explode",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        &long,
    ];
    for path in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW", "G"] {
            for kind in ["text/plain", "application/grpc"] {
                let before = rig.leaves();
                let head = format!("host: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: 3\r\n");
                let reply = sent(&rig, format!("{method} {path} HTTP/1.1\r\n{head}\r\nabc")).await;
                let case = format!("{method} {path} {kind}: {reply}");
                let page = path.split('?').next().unwrap();
                let fine = matches!(page, "/health" | "/metrics") && matches!(method, "GET" | "HEAD");
                assert_eq!(reply.starts_with("HTTP/1.1 200 "), fine, "{case}");
                assert_eq!(rig.leaves() - before, 1, "{case}");
                let record = &rig.records()[before];
                assert!(reply.contains(record["request_id"].as_str().unwrap()), "{case}");
                let told = record["path"].as_str().unwrap();
                assert!(told.starts_with(&format!("{method} /")) && told.len() <= 200, "{told}");
                assert_eq!(record["outcome"] == "done", fine, "{case}");
                assert_eq!(record["decision"], if fine { "allowed" } else { "not_reached" }, "{case}");
                assert!(!record.to_string().contains("secret-of-the-tests"), "{record}");
            }
        }
    }
    for request in
        ["OPTIONS * HTTP/1.1\r\n", "CONNECT secret-of-the-tests:443 HTTP/1.1\r\n", "GET /nowhere HTTP/1.0\r\n"]
    {
        let before = rig.leaves();
        let reply = sent(&rig, format!("{request}host: x\r\nconnection: close\r\n\r\n")).await;
        assert!(reply.contains(" 404 "), "{request}: {reply}");
        assert_eq!(rig.leaves() - before, 1, "{request}");
        assert!(!rig.records()[before].to_string().contains("secret-of-the-tests"), "{request}");
    }
    for path in ["/nowhere.v1.Service/Method", "/health", "/", &long] {
        let before = rig.leaves();
        let reply = begun(rig.addr, path, b"", &[]).await;
        assert_eq!(
            tonic::Status::from_header_map(reply.headers()).unwrap().code(),
            tonic::Code::Unimplemented,
            "{path}"
        );
        assert_eq!(rig.leaves() - before, 1, "{path}");
    }
}

#[tokio::test]
async fn a_log_that_refuses_is_a_server_that_refuses() {
    let rig = Rig::start().await;
    let paths = rpcs(&rig).await;
    let root = format!("Bearer {ROOT}");
    for (error, expected) in
        [(AuditError::Unavailable, "Unavailable AUDIT_UNAVAILABLE"), (AuditError::Busy, "ResourceExhausted BUSY")]
    {
        rig.audit.refuses(error);
        let before = rig.leaves();
        for path in &paths {
            for message in [&[][..], &[0xff; 9]] {
                for headers in [&[("authorization", root.as_str())][..], &[]] {
                    let reply = begun(rig.addr, path, message, headers).await;
                    let status = tonic::Status::from_header_map(reply.headers());
                    let status = status.unwrap_or_else(|| panic!("{path} is answered"));
                    assert_ne!(status.code(), tonic::Code::Ok, "{path}");
                    let answer = refused_by(rig.addr, path, message, headers).await;
                    let refusal = answer.result.unwrap_err();
                    let details = tonic_types::StatusExt::get_error_details(&refusal);
                    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
                    assert_eq!(format!("{:?} {reason}", refusal.code()), expected, "{path} {message:?} {headers:?}");
                }
            }
        }
        for path in ["/health", "/metrics", "/nowhere", "/strongroom.kms.v1.Crypto/Encrypt"] {
            for method in ["GET", "POST", "PUT", "BREW"] {
                let (status, _, body) = page(&rig, method, path).await;
                let reason = expected.split(' ').next_back().unwrap();
                assert_eq!((status.as_u16(), body.trim()), (503, reason), "{method} {path}");
            }
        }
        assert_eq!(rig.leaves(), before);
    }
    rig.audit.takes();
    assert_eq!(get(&rig, "/health").await.0.as_u16(), 200);
}

#[tokio::test]
async fn no_byte_of_a_reply_leaves_before_its_record_is_durable() {
    let rig = Rig::start().await;
    let root = format!("Bearer {ROOT}");
    let dice = proto::kms::GenerateRandomRequest { number_of_bytes: 1 }.encode_to_vec();
    rig.audit.hangs();
    let before = rig.leaves();
    let headers = [("authorization", root.as_str())];
    let health = get(&rig, "/health");
    let check = begun(rig.addr, "/grpc.health.v1.Health/Check", b"", &[]);
    let random = begun(rig.addr, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &headers);
    let nowhere = begun(rig.addr, "/nowhere", b"", &[]);
    tokio::pin!(health, check, random, nowhere);
    tokio::select! {
        reply = &mut health => panic!("{reply:?}"),
        reply = &mut check => panic!("{reply:?}"),
        reply = &mut random => panic!("{reply:?}"),
        reply = &mut nowhere => panic!("{reply:?}"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    assert_eq!(rig.leaves(), before);
    rig.audit.takes();
    let ((status, ..), check, random, _) = tokio::join!(health, check, random, nowhere);
    assert_eq!((status.as_u16(), check.status().as_u16(), random.status().as_u16()), (200, 200, 200));
    assert_eq!(rig.leaves() - before, 4);
    // one that stays silent is told as away, in time
    rig.audit.hangs();
    let answer = refused_by(rig.addr, "/grpc.health.v1.Health/Check", b"", &[("grpc-timeout", "100m")]).await;
    assert_eq!(answer.refusal(), "Unavailable AUDIT_UNAVAILABLE");
}

#[tokio::test]
async fn strangers_do_not_fill_the_log() {
    let rig = Rig::start().await;
    let asks = |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).version(http::Version::HTTP_2);
        let request = request.header("content-type", "application/grpc").body(tonic::body::Body::empty()).unwrap();
        tower::Service::call(&mut rig.routes.clone(), request)
    };
    let dice = "/strongroom.kms.v1.Crypto/GenerateRandom";
    let before = rig.leaves();
    rig.audit.hangs();
    // half of them ask for what is nowhere, half without a token
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..STRANGERS_MAX {
        waiting.spawn(asks("POST", if n % 2 == 0 { "/nowhere" } else { dice }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(waiting.try_join_next().is_none(), "there is room for all of them");
    waiting.spawn(asks("POST", "/nowhere"));
    let busy = waiting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(tonic::Status::from_header_map(busy.headers()).unwrap().code(), tonic::Code::ResourceExhausted);
    // whoever leaves leaves a record
    waiting.shutdown().await;
    for (method, path) in [("GET", "/nowhere"), ("GET", dice)] {
        let reply = tokio::time::timeout(Duration::from_secs(1), asks(method, path)).await;
        assert_eq!(reply.unwrap().unwrap().status().as_u16(), 503, "{method} {path}");
    }
    let root = format!("Bearer {ROOT}");
    let headers = [("authorization", root.as_str())];
    let message = proto::kms::GenerateRandomRequest { number_of_bytes: 1 }.encode_to_vec();
    let (health, metrics) = (asks("GET", "/health"), asks("GET", "/metrics"));
    let vault_health = asks("GET", "/v1/sys/health");
    let random = begun(rig.addr, dice, &message, &headers);
    let takes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.audit.takes();
    };
    let (health, metrics, vault, random, ()) = tokio::join!(health, metrics, vault_health, random, takes);
    for status in [health, metrics, vault].map(|reply| reply.unwrap().status()).into_iter().chain([random.status()]) {
        assert_eq!(status.as_u16(), 200);
    }
    assert_eq!(asks("GET", "/nowhere").await.unwrap().status().as_u16(), 404, "there is room again");
    assert_eq!(rig.leaves() - before, STRANGERS_MAX + 5);
}

#[tokio::test]
async fn an_address_that_asks_too_much_is_refused_and_one_record_tells_of_many() {
    let rig = Rig::start().await;
    let before = rig.leaves();
    let burst = usize::try_from(api::STRANGERS_BURST).unwrap();
    let asks = |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).version(http::Version::HTTP_2);
        let request = request.header("content-type", "application/grpc").body(tonic::body::Body::empty()).unwrap();
        tower::Service::call(&mut rig.routes.clone(), request)
    };
    let began = tokio::time::Instant::now();
    let (mut found, mut refused) = (0, 0);
    // at once, so that a slow machine asks faster than an address may
    while refused == 0 {
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..STRANGERS_MAX {
            asked.spawn(asks("GET", "/nowhere"));
        }
        for reply in asked.join_all().await {
            match reply.unwrap().status().as_u16() {
                404 => found += 1,
                429 => refused += 1,
                other => panic!("{other}"),
            }
        }
    }
    let gained = usize::try_from(began.elapsed().as_millis() * u128::from(api::STRANGERS_PER_SEC) / 1000).unwrap();
    assert!((burst..=burst + gained + 1).contains(&found), "{found} with {gained}");
    let nowhere = asks("POST", "/nowhere").await.unwrap();
    let told = tonic::Status::from_header_map(nowhere.headers()).unwrap();
    refused += usize::from(told.code() == tonic::Code::ResourceExhausted);
    // who watches, and who is recognised, are served
    for path in ["/health"].into_iter().chain(["/v1/sys/health"; 50]) {
        assert_eq!(asks("GET", path).await.unwrap().status().as_u16(), 200, "{path}");
    }
    let root = format!("Bearer {ROOT}");
    let message = proto::kms::GenerateRandomRequest { number_of_bytes: 1 }.encode_to_vec();
    let dice = "/strongroom.kms.v1.Crypto/GenerateRandom";
    let random = begun(rig.addr, dice, &message, &[("authorization", root.as_str())]).await;
    assert_eq!(random.status().as_u16(), 200);
    assert_eq!(rig.leaves() - before, found + usize::from(told.code() != tonic::Code::ResourceExhausted) + 52);

    let telling = rig.strangers.clone().tell(Arc::new(rig.audit.clone()), Arc::new(rig.clock.clone()), "1".into());
    let telling = tokio::spawn(telling);
    let told = async {
        loop {
            let record = rig.records().into_iter().find(|record| record["operation"] == "StrangersRefused");
            match record {
                Some(record) => break record,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    assert_eq!(told["path"], format!("strangers/watching/0/others/{refused}"));
    telling.abort();
}
