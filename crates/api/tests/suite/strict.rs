//! What policies demand of the audit log (`audit_ack`) stands before an answer leaves, or the caller is told that it does not.

use crate::rig::{Answer, Rig};
use audit::{Ack, Witnessed, Witnesses};
use prost::Message as _;
use proto::identity::{CreateTokenRequest, CreateTokenResponse, PutPolicyRequest};
use proto::kms::{CreateKeyRequest, GenerateRandomRequest, GetPublicKeyRequest, ListKeysRequest, ListKeysResponse};
use std::time::{Duration, Instant};

const RANDOM: &str = "/strongroom.kms.v1.Crypto/GenerateRandom";
const CREATE: &str = "/strongroom.kms.v1.Keys/CreateKey";
const LOOKUP: &str = "/strongroom.identity.v1.Identity/LookupToken";
const STATUS: &str = "/strongroom.operator.v1.Operator/Status";

/// Its holder may do everything that tests do here, under what `ack` says.
async fn token(rig: &Rig, name: &str, ack: &str) -> String {
    let rule =
        |path: &str, capability: &str| format!("path \"{path}\" {{ capabilities = [\"{capability}\"] {ack} }}\n");
    let policy =
        rule("kms/*", "create\", \"update") + &rule("sys/*", "sudo") + &rule("auth/token/lookup-self", "update");
    let put = PutPolicyRequest { name: name.into(), policy };
    rig.root("/strongroom.identity.v1.Identity/PutPolicy", &put).await.result.unwrap();
    let create = CreateTokenRequest { policies: vec![name.into()], ..Default::default() };
    let made: CreateTokenResponse = rig.root("/strongroom.identity.v1.Identity/CreateToken", &create).await.decoded();
    made.token
}

async fn call(rig: &Rig, token: &str, path: &str, within: &str) -> Answer {
    let message = match path {
        RANDOM => GenerateRandomRequest { number_of_bytes: 4 }.encode_to_vec(),
        CREATE => CreateKeyRequest::default().encode_to_vec(),
        _ => Vec::new(),
    };
    let bearer = format!("Bearer {token}");
    crate::rig::raw(&rig.channel, path, message, &[("authorization", bearer.as_str()), ("grpc-timeout", within)]).await
}

async fn keys(rig: &Rig) -> usize {
    let listed: ListKeysResponse =
        rig.root("/strongroom.kms.v1.Keys/ListKeys", &ListKeysRequest::default()).await.decoded();
    listed.keys.len()
}

#[tokio::test]
async fn a_call_under_checkpoint_is_answered_once_it_is_signed_and_others_do_not_wait() {
    let rig = Rig::start().await;
    let strict = token(&rig, "strict", r#"audit_ack = "checkpoint""#).await;
    let plain = token(&rig, "plain", "").await;
    for path in [RANDOM, CREATE, LOOKUP, STATUS] {
        let before = rig.leaves() as u64;
        assert!(call(&rig, &strict, path, "5S").await.result.is_ok(), "{path}");
        assert!(rig.signed() > before, "{path}: signed before it was answered");
    }
    let keys_before = keys(&rig).await;
    rig.signer.is_away(true);
    for path in [RANDOM, CREATE, LOOKUP, STATUS] {
        let began = Instant::now();
        assert!(call(&rig, &plain, path, "5S").await.result.is_ok(), "{path}");
        assert!(began.elapsed() < Duration::from_secs(1), "{path}: {:?}", began.elapsed());
        let began = Instant::now();
        let refused = call(&rig, &strict, path, "800m").await;
        assert_eq!(refused.refusal(), "Unavailable AUDIT_UNSIGNED", "{path}");
        assert!(refused.result.unwrap_err().message().contains("may have been done"));
        assert!((600..1000).contains(&began.elapsed().as_millis()), "{path}: {:?}", began.elapsed());
    }
    assert_eq!(keys(&rig).await, keys_before + 2, "it was carried out, and recorded");
    // what is refused waits too
    let missing = GetPublicKeyRequest::default().encode_to_vec();
    let bearer = format!("Bearer {strict}");
    let metadata = [("authorization", bearer.as_str()), ("grpc-timeout", "400m")];
    let malformed = crate::rig::raw(&rig.channel, "/strongroom.kms.v1.Crypto/GetPublicKey", missing, &metadata).await;
    assert_eq!(malformed.refusal(), "InvalidArgument INVALID_FIELD key_id", "nothing was decided");
    let denied = crate::rig::raw(&rig.channel, "/strongroom.kms.v1.Keys/ListKeys", vec![], &metadata).await;
    assert_eq!(denied.refusal(), "Unavailable AUDIT_UNSIGNED");
    rig.signer.is_away(false);
    assert!(call(&rig, &strict, RANDOM, "20S").await.result.is_ok());
}

#[tokio::test]
async fn where_no_witness_is_configured_what_demands_one_is_refused_before_anything_is_done() {
    let rig = Rig::start().await;
    let strict = token(&rig, "strict", r#"audit_ack = "witness""#).await;
    let keys_before = keys(&rig).await;
    for path in [RANDOM, CREATE, LOOKUP, STATUS] {
        let before = rig.leaves();
        let refused = call(&rig, &strict, path, "5S").await;
        assert_eq!(refused.refusal(), "FailedPrecondition AUDIT_NO_WITNESS", "{path}");
        assert!(refused.result.as_ref().unwrap_err().message().contains("witness"), "{path}");
        assert_eq!(rig.leaves() - before, 1, "{path}");
        assert!(rig.record_of(&refused.request_id()).ends_with("AUDIT_NO_WITNESS"), "{path}");
    }
    assert_eq!(keys(&rig).await, keys_before);
}

#[tokio::test]
async fn a_call_under_witness_is_answered_once_witnesses_have_seen_it_and_never_on_a_log_that_was_set_back() {
    let rig = Rig::beside(Witnesses::Configured).await;
    let strict = token(&rig, "strict", r#"audit_ack = "witness""#).await;
    let signed = token(&rig, "signed", r#"audit_ack = "checkpoint""#).await;
    for path in [RANDOM, CREATE, LOOKUP, STATUS] {
        assert_eq!(call(&rig, &strict, path, "400m").await.refusal(), "Unavailable AUDIT_UNWITNESSED", "{path}");
        assert!(call(&rig, &signed, path, "5S").await.result.is_ok(), "{path}");
    }
    let mut wanted = rig.acks.wanted();
    let cosigns = async {
        // as if they had signed what is wanted
        wanted.mark_unchanged();
        wanted.changed().await.unwrap();
        let size = *wanted.borrow();
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.acks.witnessed(Witnessed { size, set_back: false });
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(call(&rig, &strict, CREATE, "5S"), cosigns);
    assert!(answer.result.is_ok() && began.elapsed() >= Duration::from_millis(300));

    let keys_before = keys(&rig).await;
    rig.acks.witnessed(Witnessed { size: u64::MAX, set_back: true });
    for token in [&strict, &signed] {
        assert_eq!(call(&rig, token, CREATE, "5S").await.refusal(), "Unavailable AUDIT_LOG_SET_BACK");
    }
    assert_eq!(keys(&rig).await, keys_before, "nothing was done");
    assert_eq!(rig.acks.offer().admits(Ack::Durable), Ok(()), "who demands nothing goes on");
}
