//! Wrapped answers.

use crate::rig::{ROOT, Rig, With, minted};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use vault::Verb::{Read, Write};

const ROUNDS: usize = 20;

fn root() -> With<'static> {
    With { token: Some(ROOT), ..With::default() }
}

async fn wrapped(rig: &Rig, with: With<'_>) -> (String, String) {
    rig.done(Write, "secret/data/w", json!({"data": {"pw": "inside"}})).await;
    let with = With { wrap_secs: Some(60), ..with };
    let (status, body) = rig.ask(Read, "secret/data/w", Value::Null, with).await;
    assert_eq!((status, &body["data"], &body["auth"]), (200, &Value::Null, &Value::Null));
    let info = &body["wrap_info"];
    assert_eq!((&info["ttl"], &info["creation_path"]), (&json!(60), &json!("secret/data/w")));
    (info["token"].as_str().unwrap().to_owned(), info["accessor"].as_str().unwrap().to_owned())
}

async fn unwrap(rig: &Rig, token: &str, with: With<'_>) -> (u16, Value) {
    rig.ask(Write, "sys/wrapping/unwrap", Value::Null, With { token: Some(token), ..with }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_parallel_unwraps_one_gets_the_answer() {
    let rig = Arc::new(Rig::new().await);
    for _ in 0..ROUNDS {
        let (token, accessor) = wrapped(&rig, root()).await;
        let attempts: Vec<_> = (0..64)
            .map(|_| {
                let (rig, token) = (Arc::clone(&rig), token.clone());
                tokio::spawn(async move { unwrap(&rig, &token, With::default()).await })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            let (status, body) = attempt.await.unwrap();
            match status {
                200 => {
                    won += 1;
                    assert_eq!(body["data"]["data"]["pw"], "inside");
                }
                _ => assert_eq!((status, &body), (400, &refusal()), "{body}"),
            }
        }
        assert_eq!(won, 1);
        let told = rig.done(Write, "sys/wrapping/lookup", json!({"accessor": accessor})).await;
        assert_eq!((&told["for_creator"]["unwrapped"], &told["for_creator"]["violations"]), (&json!(true), &json!(63)));
    }
}

fn refusal() -> Value {
    json!({"errors": ["wrapping token is not valid or does not exist"]})
}

#[tokio::test]
async fn a_lookup_tells_and_does_not_spend() {
    let rig = Rig::new().await;
    let (token, accessor) = wrapped(&rig, root()).await;
    for verb in [Read, Write] {
        let with = With { token: Some(&token), ..With::default() };
        let (status, body) = rig.ask(verb, "sys/wrapping/lookup", Value::Null, with).await;
        assert_eq!((status, &body["data"]["creation_path"]), (200, &json!("secret/data/w")));
        assert!(body["data"].get("for_creator").is_none());
    }
    let in_body = rig.root(Write, "sys/wrapping/lookup", json!({"token": token})).await;
    assert_eq!(in_body.0, 200);
    // rewrapped it has another token and the same path
    let (status, body) = rig.ask(Write, "sys/wrapping/rewrap", json!({"token": token}), root()).await;
    assert_eq!((status, &body["wrap_info"]["creation_path"]), (200, &json!("secret/data/w")));
    let next = body["wrap_info"]["token"].as_str().unwrap();
    assert_eq!(unwrap(&rig, &token, With::default()).await, (400, refusal()));
    assert_eq!(unwrap(&rig, next, With::default()).await.0, 200);
    // what became of it only its maker hears, and root; the right to ask is not enough
    let policy = r#"path "secret/data/w" { capabilities = ["read"] }
                    path "sys/wrapping/*" { capabilities = ["read", "create", "update"] }"#;
    let (maker, other) = (minted(&rig, "wraps", policy).await, minted(&rig, "wraps", policy).await);
    let by = |token| With { token: Some(token), ..With::default() };
    let (_, its) = wrapped(&rig, by(&maker)).await;
    for (who, accessor, status) in [
        (ROOT, &accessor, 200),
        (&maker, &its, 200),
        (ROOT, &its, 200),
        (&other, &its, 403),
        (&maker, &accessor, 403),
        ("another-token-of-some-length", &its, 403),
    ] {
        let (found, body) = rig.ask(Write, "sys/wrapping/lookup", json!({ "accessor": accessor }), by(who)).await;
        assert_eq!((found, body["data"]["for_creator"].is_object()), (status, status == 200), "{who} {body}");
    }
}

#[tokio::test]
async fn an_answer_that_is_fetched_is_not_put_away_again_and_the_attempt_spends_nothing() {
    let rig = Rig::new().await;
    let (token, accessor) = wrapped(&rig, root()).await;
    let again = With { wrap_secs: Some(60), ..With::default() };
    let (outcome, told) = rig.recorded(unwrap(&rig, &token, again)).await;
    assert_eq!((outcome.0, told.len(), &told[0]["outcome"]["failed"]), (400, 1, &json!("INVALID_FIELD")));
    assert!(!outcome.1.to_string().contains("inside"), "{}", outcome.1);
    let shown = rig.done(Write, "sys/wrapping/lookup", json!({"accessor": accessor})).await;
    assert_eq!((&shown["for_creator"]["unwrapped"], &shown["for_creator"]["violations"]), (&json!(false), &json!(0)));
    assert_eq!(unwrap(&rig, &token, With::default()).await.0, 200);
}

#[tokio::test]
async fn misuse_is_refused_in_one_face_and_recorded_apart() {
    let rig = Rig::new().await;
    let (spent, _) = wrapped(&rig, root()).await;
    assert_eq!(unwrap(&rig, &spent, With::default()).await.0, 200);
    let (old, _) = wrapped(&rig, root()).await;
    rig.clock.advance(Duration::from_secs(59));
    let (fresh, _) = wrapped(&rig, root()).await;
    rig.clock.advance(Duration::from_secs(1));
    for (what, token, cause) in [
        ("again", spent.as_str(), "WRAPPING_TOKEN_REPLAYED"),
        ("forged", "srw.forged-forged-forged", "WRAPPING_TOKEN_UNKNOWN"),
        ("late", &old, "WRAPPING_TOKEN_EXPIRED"),
        ("an ordinary token", ROOT, "WRAPPING_TOKEN_UNKNOWN"),
    ] {
        let (outcome, told) = rig.recorded(unwrap(&rig, token, With::default())).await;
        assert_eq!(outcome, (400, refusal()), "{what}");
        assert_eq!((told.len(), &told[0]["outcome"]["failed"]), (1, &json!(cause)), "{what}");
    }
    assert_eq!(unwrap(&rig, &fresh, With::default()).await.0, 200);
}

#[tokio::test]
async fn a_bound_answer_is_fetched_beside_its_certificate_only_and_no_attempt_spends_it() {
    let rig = Rig::new().await;
    let (token, accessor) = wrapped(&rig, With { bind: Some(7), ..root() }).await;
    for certificate in [None, Some(8)] {
        let with = With { certificate, ..With::default() };
        let (outcome, told) = rig.recorded(unwrap(&rig, &token, with)).await;
        assert_eq!(outcome, (400, refusal()));
        assert_eq!(told.last().unwrap()["outcome"]["failed"], "WRAPPING_CERTIFICATE_OTHER");
    }
    let told = rig.done(Write, "sys/wrapping/lookup", json!({"accessor": accessor})).await;
    assert_eq!((&told["for_creator"]["unwrapped"], &told["for_creator"]["violations"]), (&json!(false), &json!(2)));
    let with = With { certificate: Some(7), ..With::default() };
    assert_eq!(unwrap(&rig, &token, with).await.0, 200);
}

#[tokio::test]
async fn arbitrary_data_is_wrapped_and_what_is_over_is_swept() {
    let rig = Rig::new().await;
    let with = With { wrap_secs: Some(5), ..root() };
    let (status, body) = rig.ask(Write, "sys/wrapping/wrap", json!({"k": "v"}), with).await;
    assert_eq!((status, &body["wrap_info"]["creation_path"]), (200, &json!("sys/wrapping/wrap")));
    assert_eq!(rig.root(Write, "sys/wrapping/wrap", json!({"k": "v"})).await.0, 400);
    let token = body["wrap_info"]["token"].as_str().unwrap().to_owned();
    assert_eq!(unwrap(&rig, &token, With::default()).await.1["data"], json!({"k": "v"}));
    assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap(), 0);
    rig.clock.advance(Duration::from_secs(6));
    assert_eq!(vault::tend(&rig.vault, rig.clock_now()).await.unwrap(), 1);
    let (_, told) = rig.recorded(unwrap(&rig, &token, With::default())).await;
    assert_eq!(told[0]["outcome"]["failed"], "WRAPPING_TOKEN_UNKNOWN");
}
