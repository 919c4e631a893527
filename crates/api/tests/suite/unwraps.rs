//! One wrapped answer, fetched by many at once over HTTP.

use crate::rig::{ROOT, Rig};
use axum::body::Body;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::net::SocketAddr;

async fn connect(addr: SocketAddr) -> SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (client, connection) = connected.unwrap();
    tokio::spawn(connection);
    client
}

/// The status and the body.
async fn asked(client: &SendRequest<Body>, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
    let mut request = http::Request::post(format!("http://localhost/v1/{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let reply = client.clone().send_request(request).await.unwrap();
    let status = reply.status().as_u16();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_times_one_of_64_unwraps_on_8_connections_gets_the_answer() {
    let rig = Rig::start().await;
    let clients = join_all((0..8).map(|_| connect(rig.addr))).await;
    let (mut beaten, mut turned_away) = (0, 0);
    for round in 0..ROUNDS {
        let wrap = [("x-vault-token", ROOT), ("x-vault-wrap-ttl", "60s")];
        let (status, wrapped) = asked(&clients[0], "sys/wrapping/wrap", &wrap, json!({ "inside": round })).await;
        assert_eq!(status, 200, "{wrapped}");
        let token = wrapped["wrap_info"]["token"].as_str().unwrap();
        let headers = [("x-vault-token", token)];
        let attempts =
            clients.iter().cycle().take(64).map(|to| asked(to, "sys/wrapping/unwrap", &headers, Value::Null));
        let answers = join_all(attempts).await;
        let won = answers.iter().filter(|(status, body)| *status == 200 && body["data"]["inside"] == round).count();
        assert_eq!(won, 1, "round {round}");
        for (status, body) in answers.iter().filter(|(status, _)| *status != 200) {
            // of refusals an address has so many recorded in a second, and no more are answered otherwise
            match status {
                400 => beaten += 1,
                429 | 503 => turned_away += 1,
                _ => panic!("{status} {body}"),
            }
            assert!(!body.to_string().contains("inside"), "{body}");
        }
    }
    assert_eq!(beaten + turned_away, ROUNDS * 63);
    assert!(beaten > 0);
}

const ROUNDS: u32 = 1000;
