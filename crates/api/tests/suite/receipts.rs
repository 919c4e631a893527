//! Who asks for a receipt gets that of its own record, and nobody else any.

use crate::rig::{ROOT, Rig};
use audit::AuditError;
use audit::receipt::Receipt;
use http_body_util::BodyExt as _;
use prost::Message as _;
use proto::kms::{
    BatchEncryptRequest, CreateKeyRequest, CreateKeyResponse, DisableKeyRequest, EnableKeyRequest, EncryptRequest,
    GenerateRandomRequest, ListKeysRequest, ListKeysResponse,
};

/// The reply's status code and the receipt in its trailing metadata, if there is one.
async fn asked(rig: &Rig, path: &str, message: &[u8], asks: &[&str]) -> (String, Option<Receipt>) {
    let root = format!("Bearer {ROOT}");
    let mut headers = vec![("authorization", root.as_str())];
    headers.extend(asks.iter().map(|value| ("strongroom-receipt", *value)));
    let reply = crate::rig::begun(rig.addr, path, message, &headers).await;
    let trailers_only = reply.headers().contains_key("grpc-status");
    let head = reply.headers().clone();
    let body = reply.into_body().collect().await.unwrap();
    let trailers = if trailers_only { head.clone() } else { body.trailers().unwrap().clone() };
    assert!(trailers_only || !head.contains_key("strongroom-receipt-bin"), "it is trailing metadata");
    let metadata = tonic::metadata::MetadataMap::from_headers(trailers.clone());
    let receipt =
        metadata.get_bin("strongroom-receipt-bin").map(|value| Receipt::parse(&value.to_bytes().unwrap()).unwrap());
    (trailers["grpc-status"].to_str().unwrap().to_owned(), receipt)
}

#[tokio::test]
async fn the_receipt_is_that_of_the_record_that_tells_of_the_answer() {
    let rig = Rig::start().await;
    let dice = GenerateRandomRequest { number_of_bytes: 4 }.encode_to_vec();
    let nobodys = EncryptRequest { key_id: "alias/nobodys".into(), plaintext: vec![1].into(), ..Default::default() };
    let batch = BatchEncryptRequest { items: vec![nobodys.clone()] };
    for (path, message, status) in [
        ("/strongroom.kms.v1.Crypto/GenerateRandom", dice.clone(), "0"),
        ("/strongroom.kms.v1.Keys/ListKeys", vec![], "0"),
        // a change: the record that went with it, not its announcement
        ("/strongroom.kms.v1.Keys/CreateKey", CreateKeyRequest::default().encode_to_vec(), "0"),
        ("/strongroom.kms.v1.Crypto/BatchEncrypt", batch.encode_to_vec(), "0"),
        // refused by the domain, and by the codec
        ("/strongroom.kms.v1.Crypto/Encrypt", nobodys.encode_to_vec(), "5"),
        ("/strongroom.kms.v1.Crypto/GenerateDataKey", vec![], "3"),
    ] {
        let (told, receipt) = asked(&rig, path, &message, &["1"]).await;
        assert_eq!(told, status, "{path}");
        let receipt = receipt.unwrap_or_else(|| panic!("{path} has no receipt"));
        let batch = receipt.verify(rig.log_key(), &rig.last_leaf());
        assert!(batch.is_ok_and(|batch| batch.entries().contains(&receipt.index())), "{path}");
        let (told, receipt) = asked(&rig, path, &message, &[]).await;
        assert!(told == status && receipt.is_none(), "{path}: nobody asked");
    }
    // asked, and failed: the second record's
    rig.boundary.is_away();
    let (told, receipt) = asked(&rig, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &["1"]).await;
    assert_eq!((told.as_str(), receipt.map(|receipt| *receipt.leaf())), ("14", Some(rig.last_leaf())));
}

#[tokio::test]
async fn what_was_carried_out_and_has_no_receipt_is_told_as_that() {
    let rig = Rig::start().await;
    let dice = GenerateRandomRequest { number_of_bytes: 4 }.encode_to_vec();
    let nobodys = EncryptRequest { key_id: "alias/nobodys".into(), plaintext: vec![1].into(), ..Default::default() };
    let nobodys = nobodys.encode_to_vec();
    let (make, root) = (CreateKeyRequest::default().encode_to_vec(), format!("Bearer {ROOT}"));
    let headers = [("authorization", root.as_str()), ("strongroom-receipt", "1")];
    let before = rig.leaves();
    rig.signer.is_away(true);
    let (random, made, (refused, none)) = tokio::join!(
        crate::rig::refused_by(rig.addr, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &headers),
        crate::rig::refused_by(rig.addr, "/strongroom.kms.v1.Keys/CreateKey", &make, &headers),
        asked(&rig, "/strongroom.kms.v1.Crypto/Encrypt", &nobodys, &["1"]),
    );
    for answer in [random, made] {
        assert_eq!(answer.refusal(), "Unavailable RECEIPT_UNAVAILABLE");
        let status = answer.result.unwrap_err();
        assert!(status.message().contains("carried out and recorded"), "{status:?}");
    }
    assert!(refused == "5" && none.is_none(), "a refusal is told as it is: {refused}");
    let list = "/strongroom.kms.v1.Keys/ListKeys";
    let keys: ListKeysResponse = rig.root(list, &ListKeysRequest::default()).await.decoded();
    assert_eq!(keys.keys.len(), 1, "the key was made");
    let outcomes: Vec<_> = rig.records()[before..].iter().map(|record| record["outcome"].clone()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_object()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.len(), 5, "announced and made, random, refused, listed: {outcomes:?}");
    // a change is not held up by one whose leaf is in the log, and does not tell it again
    assert!(rig.root("/strongroom.kms.v1.Keys/CreateKey", &CreateKeyRequest::default()).await.result.is_ok());
    assert_eq!(rig.leaves() - before, 7);
    rig.signer.is_away(false);
    let (told, receipt) = asked(&rig, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &["1"]).await;
    assert!(told == "0" && receipt.is_some());
}

#[tokio::test]
async fn a_change_does_not_wait_for_the_receipt_of_another_one_of_its_path() {
    let rig = Rig::start().await;
    let made: CreateKeyResponse =
        rig.root("/strongroom.kms.v1.Keys/CreateKey", &CreateKeyRequest::default()).await.decoded();
    let key_id = made.key_metadata.unwrap().key_id;
    rig.signer.is_away(true);
    let disable = DisableKeyRequest { key_id: key_id.clone() }.encode_to_vec();
    let waits = asked(&rig, "/strongroom.kms.v1.Keys/DisableKey", &disable, &["1"]);
    let began = std::time::Instant::now();
    let others = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let enabled = rig.root("/strongroom.kms.v1.Keys/EnableKey", &EnableKeyRequest { key_id }).await;
        (enabled.result.is_ok(), began.elapsed())
    };
    let ((told, receipt), (enabled, took)) = tokio::join!(waits, others);
    assert!(enabled && took < std::time::Duration::from_secs(2), "{took:?}");
    assert!(told == "14" && receipt.is_none() && began.elapsed() > std::time::Duration::from_secs(4));
    let told: Vec<_> = rig.records().iter().rev().take(2).map(|record| record["operation"].clone()).collect();
    assert_eq!(told, ["EnableKey", "DisableKey"], "in the order of their commits");
}

#[tokio::test]
async fn the_receipt_of_what_was_asked_is_not_told_as_that_of_what_came_of_it() {
    let rig = Rig::start().await;
    let dice = GenerateRandomRequest { number_of_bytes: 4 }.encode_to_vec();
    rig.boundary.is_away();
    rig.audit.takes_one();
    let before = rig.leaves();
    let (told, receipt) = asked(&rig, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &["1"]).await;
    assert!(told == "14" && receipt.is_none(), "{told}");
    assert_eq!(rig.leaves() - before, 1);
}

#[tokio::test]
async fn what_asks_otherwise_is_refused_and_other_services_give_none() {
    let rig = Rig::start().await;
    let dice = GenerateRandomRequest { number_of_bytes: 4 }.encode_to_vec();
    for values in [&[""][..], &["0"], &["true"], &["11"], &["1", "0"], &["0", "1"], &["1", "1"]] {
        let before = rig.leaves();
        let (told, receipt) = asked(&rig, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, values).await;
        assert!(told == "3" && receipt.is_none(), "{values:?}");
        assert_eq!(rig.leaves() - before, 1);
    }
    for path in ["/strongroom.identity.v1.Identity/LookupToken", "/strongroom.operator.v1.Operator/Status"] {
        let (told, receipt) = asked(&rig, path, &[], &["1"]).await;
        assert!(told == "0" && receipt.is_none(), "{path}");
    }
    rig.audit.refuses(AuditError::Unavailable);
    let (told, receipt) = asked(&rig, "/strongroom.kms.v1.Crypto/GenerateRandom", &dice, &["1"]).await;
    assert!(told == "14" && receipt.is_none());
}
