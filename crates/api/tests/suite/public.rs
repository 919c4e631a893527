//! What everybody may ask: health, metrics, reflection; and what is nowhere.

use crate::rig::{ROOT, Rig};
use api::BoundaryState;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::kms::{EncryptRequest, GenerateRandomRequest};
use std::io::{Read, Write};
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Over HTTP/1.1, as a scraper does.
pub(crate) async fn get(rig: &Rig, path: &str) -> (StatusCode, String, String) {
    page(rig, "GET", path).await
}

pub(crate) async fn page(rig: &Rig, method: &str, path: &str) -> (StatusCode, String, String) {
    let (addr, request) = (rig.addr, format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    let reply = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    });
    let reply = reply.await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

/// Name, what happens, then page's code and text, overall status, Crypto's.
type Step = (&'static str, fn(&api::Health), u16, &'static str, ServingStatus, ServingStatus);

#[tokio::test]
async fn health_follows_the_server_and_its_boundary() {
    let rig = Rig::start().await;
    let mut client = HealthClient::new(rig.channel.clone());
    let (yes, no) = (ServingStatus::Serving, ServingStatus::NotServing);
    let steps: [Step; 4] = [
        ("serving", |_| (), 200, "{\"status\":\"serving\",\"boundary\":\"available\"}", yes, yes),
        (
            "away",
            |health| health.boundary(BoundaryState::Away),
            200,
            "{\"status\":\"serving\",\"boundary\":\"away\"}",
            yes,
            no,
        ),
        (
            "back",
            |health| health.boundary(BoundaryState::Available),
            200,
            "{\"status\":\"serving\",\"boundary\":\"available\"}",
            yes,
            yes,
        ),
        ("stopping", api::Health::stop, 503, "{\"status\":\"stopping\",\"boundary\":\"available\"}", no, no),
    ];
    let watched = client.watch(HealthCheckRequest { service: "strongroom.kms.v1.Crypto".into() }).await.unwrap();
    let heard = tokio::spawn(watched.into_inner().map(|reply| reply.unwrap().status()).collect::<Vec<_>>());
    for (what, step, code, page, overall, crypto) in steps {
        step(&rig.health);
        let (status, head, body) = get(&rig, "/health").await;
        assert_eq!((status.as_u16(), body.trim()), (code, page), "{what}");
        assert!(head.contains("content-type: application/json"), "{head}");
        for (service, expected) in
            [("", overall), ("strongroom.kms.v1.Keys", overall), ("strongroom.kms.v1.Crypto", crypto)]
        {
            let reply = client.check(HealthCheckRequest { service: service.into() }).await.unwrap();
            assert_eq!(reply.into_inner().status(), expected, "{what} {service}");
        }
    }
    assert_eq!(heard.await.unwrap(), [yes, no, yes, no], "and the stream has ended");
    let unknown = client.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn metrics_count_and_tell_no_secret() {
    let rig = Rig::start().await;
    let dice = "/strongroom.kms.v1.Crypto/GenerateRandom";
    for _ in 0..3 {
        rig.root(dice, &GenerateRandomRequest { number_of_bytes: 4 }).await.result.unwrap();
    }
    rig.root(dice, &GenerateRandomRequest { number_of_bytes: 0 }).await.result.unwrap_err();
    let plaintext = Bytes::from_static(b"plaintext-of-the-tests");
    let request = EncryptRequest { key_id: "alias/name-of-the-tests".into(), plaintext, ..Default::default() };
    rig.root("/strongroom.kms.v1.Crypto/Encrypt", &request).await.result.unwrap_err();
    rig.raw(dice, vec![], &[("authorization", "Bearer wrong-token-of-some-length")]).await.result.unwrap_err();
    rig.boundary.is_away();
    rig.root(dice, &GenerateRandomRequest { number_of_bytes: 4 }).await.result.unwrap_err();
    rig.metrics.gauge("cache_entries_of_keys", "Keys in the cache", || 12);
    let (status, head, text) = get(&rig, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    for line in [
        "strongroom_build_info{version=\"0.0.1\"} 1",
        "strongroom_requests_total{operation=\"GenerateRandom\",outcome=\"OK\"} 3",
        "strongroom_requests_total{operation=\"GenerateRandom\",outcome=\"INVALID_FIELD\"} 1",
        "strongroom_requests_total{operation=\"GenerateRandom\",outcome=\"UNAUTHENTICATED\"} 1",
        "strongroom_requests_total{operation=\"GenerateRandom\",outcome=\"BOUNDARY_UNAVAILABLE\"} 1",
        "strongroom_requests_total{operation=\"Encrypt\",outcome=\"ALIAS_NOT_FOUND\"} 1",
        "strongroom_dependency_failures_total{dependency=\"boundary\"} 1",
        "strongroom_request_duration_seconds_count{operation=\"GenerateRandom\"} 6",
        "strongroom_cache_entries_of_keys 12",
        "strongroom_serving 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for secret in [ROOT, "plaintext-of-the-tests", "name-of-the-tests", "wrong-token", "127.0.0.1"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn reflection_tells_every_service_in_both_versions() {
    let rig = Rig::start().await;
    let expected = [
        "grpc.health.v1.Health",
        "strongroom.identity.v1.Identity",
        "strongroom.kms.v1.Crypto",
        "strongroom.kms.v1.Keys",
        "strongroom.operator.v1.Operator",
    ];
    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let ask = |message_request| tonic_reflection::pb::$version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message_request),
            };
            let asks = vec![
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("strongroom.kms.v1.Crypto".into())),
            ];
            let mut client = ServerReflectionClient::new(rig.channel.clone());
            let replies = client.server_reflection_info(tokio_stream::iter(asks)).await.unwrap().into_inner();
            let replies: Vec<_> = replies.map(|reply| reply.unwrap().message_response.unwrap()).collect().await;
            let [MessageResponse::ListServicesResponse(list), MessageResponse::FileDescriptorResponse(file)] =
                &replies[..]
            else {
                panic!("{replies:?}")
            };
            assert!(!file.file_descriptor_proto.is_empty());
            let mut names: Vec<_> = list.service.iter().map(|service| service.name.clone()).collect();
            names.sort();
            names
        }};
    }
    for names in [services!(v1), services!(v1alpha)] {
        for service in expected {
            assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
        }
    }
}

#[tokio::test]
async fn what_is_nowhere_is_said_in_the_askers_protocol() {
    let rig = Rig::start().await;
    let (status, _, body) = get(&rig, "/nowhere").await;
    assert_eq!((status, body.trim()), (StatusCode::NOT_FOUND, "UNIMPLEMENTED"));
    let refusal = rig.raw("/nowhere.v1.Service/Method", vec![], &[]).await.refusal();
    assert_eq!(refusal, "Unimplemented UNIMPLEMENTED");
    for path in ["/strongroom.kms.v1.Crypto/Encrypt", "/grpc.health.v1.Health/Check"] {
        let (status, _, body) = page(&rig, "POST", path).await;
        assert_eq!((status, body.trim()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "NOT_GRPC"), "{path}");
    }
    let (status, head, body) = page(&rig, "PUT", "/health").await;
    assert_eq!((status, body.trim()), (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"));
    assert!(head.contains("allow: get, head"), "{head}");
}

#[tokio::test]
async fn a_reply_to_head_has_no_body() {
    let rig = Rig::start().await;
    for path in ["/health", "/nowhere", "/strongroom.kms.v1.Crypto/Encrypt", "/strongroom.kms.v1.Crypto/BatchEncrypt"] {
        let stream = tokio::net::TcpStream::connect(rig.addr).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::head(format!("http://{}{path}", rig.addr)).body(axum::body::Body::empty());
        let reply = client.send_request(request.unwrap()).await.unwrap();
        let body = reply.into_body().collect().await;
        assert!(body.is_ok_and(|body| body.to_bytes().is_empty()), "{path}");
    }
}
