//! Sealed by hand: every door refuses in its own words, and leaves its record.

use crate::leaves::sent;
use crate::public::get;
use crate::rig::{ROOT, Rig};
use http::StatusCode;

#[tokio::test]
async fn a_sealed_server_refuses_at_every_door_and_records_it() {
    let rig = Rig::start().await;
    let token = format!("x-vault-token: {ROOT}");
    let put = async |path: &str| {
        let head =
            format!("PUT /v1/{path} HTTP/1.1\r\nhost: x\r\n{token}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        sent(&rig, head).await
    };
    let bearer = format!("Bearer {ROOT}");
    let paths = [
        "/strongroom.kms.v1.Crypto/GenerateRandom",
        "/strongroom.kms.v1.Crypto/BatchDecrypt",
        "/strongroom.kms.v1.Keys/ListKeys",
        "/strongroom.identity.v1.Identity/ListPolicies",
        "/strongroom.operator.v1.Operator/Status",
    ];
    assert!(put("sys/seal").await.starts_with("HTTP/1.1 204"));
    for path in paths {
        for headers in [&[("authorization", bearer.as_str())][..], &[]] {
            let before = rig.leaves();
            let answer = rig.raw(path, Vec::new(), headers).await;
            assert!(answer.refusal().starts_with("Unavailable SEALED"), "{path}: {}", answer.refusal());
            assert_eq!(rig.leaves() - before, 1, "{path}");
            let record = rig.record_of(&answer.request_id());
            assert!(record.ends_with("unauthenticated not_reached SEALED"), "{path}: {record}");
        }
    }
    let before = rig.leaves();
    for path in ["secret/data/a", "auth/token/lookup-self", "sys/seal"] {
        let reply = put(path).await;
        assert!(reply.starts_with("HTTP/1.1 503") && reply.ends_with(r#"{"errors":["Vault is sealed"]}"#), "{reply}");
    }
    assert_eq!(rig.leaves() - before, 3);
    // what tells how the server is goes on
    let (status, _, text) = get(&rig, "/metrics").await;
    assert!(status == StatusCode::OK && text.contains("outcome=\"SEALED\""), "{text}");
    let (status, _, text) = get(&rig, "/v1/sys/seal-status").await;
    assert!(status == StatusCode::OK && text.contains("\"sealed\":true"), "{text}");
}
