//! Requests as they should not be: a typed answer, a record, and nothing changed.

use crate::rig::{ROOT, Rig, raw, refused_by};
use bytes::Bytes;
use prost::Message;
use proto::identity::{
    CertificateRole, CreateTokenRequest, CreateTokenResponse, DeletePolicyRequest, ListPoliciesRequest,
    LookupTokenRequest, PutCertificateRoleRequest, PutPolicyRequest, RenewTokenRequest, RevokeTokenRequest,
    certificate_role::Match,
};
use proto::kms::*;
use proto::operator::StatusRequest;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CRYPTO: &str = "/strongroom.kms.v1.Crypto/";
const KEYS: &str = "/strongroom.kms.v1.Keys/";
const IDENTITY: &str = "/strongroom.identity.v1.Identity/";
const NOBODYS: &str = "00000000-0000-4000-8000-000000000000";

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn key(rig: &Rig, spec: KeySpec) -> String {
    let request = CreateKeyRequest { key_spec: spec.into(), ..Default::default() };
    let made: CreateKeyResponse = rig.root(&format!("{KEYS}CreateKey"), &request).await.decoded();
    made.key_metadata.unwrap().key_id
}

type Row = (&'static str, String, Vec<u8>, &'static str);

fn row(face: &str, method: &'static str, message: impl Message, expected: &'static str) -> Row {
    (method, format!("{face}{method}"), message.encode_to_vec(), expected)
}

async fn judge(rig: &Rig, rows: Vec<Row>) {
    for (n, (method, path, message, expected)) in rows.into_iter().enumerate() {
        let answer = rig.raw(&path, message, &[("authorization", &bearer(ROOT))]).await;
        assert_eq!(answer.refusal(), expected, "row {n}: {method}");
        let record = rig.record_of(&answer.request_id());
        let reason = expected.split(' ').nth(1).unwrap();
        assert!(record.starts_with(&format!("{method} token ")) && record.ends_with(reason), "row {n}: {record}");
    }
}

#[tokio::test]
async fn malformed_keys_requests_name_the_field_and_leave_a_record() {
    let rig = Rig::start().await;
    let aes = key(&rig, KeySpec::SymmetricDefault).await;
    let hmac = key(&rig, KeySpec::Hmac256).await;
    let grant = CreateGrantRequest {
        key_id: aes.clone(),
        grantee_principal: "cert/app".into(),
        operations: vec![GrantOperation::Encrypt.into()],
        ..Default::default()
    };
    let context = |value: String| {
        Some(GrantConstraints {
            encryption_context_subset: BTreeMap::from([("k".to_owned(), value)]),
            ..Default::default()
        })
    };
    let date = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let create = CreateKeyRequest::default;
    let key_id = |raw: &str| DescribeKeyRequest { key_id: raw.into() };
    let field =
        |field: &'static str| -> &'static str { Box::leak(format!("InvalidArgument INVALID_FIELD {field}").into()) };
    let mut rows = vec![];
    for (message, at_fault) in [
        (CreateKeyRequest { key_spec: 99, ..create() }, "key_spec"),
        (CreateKeyRequest { key_spec: -1, ..create() }, "key_spec"),
        (CreateKeyRequest { key_usage: 4, ..create() }, "key_usage"),
        (CreateKeyRequest { key_usage: 2, ..create() }, "key_usage"),
        (CreateKeyRequest { protection_level: 3, ..create() }, "protection_level"),
        (CreateKeyRequest { description: "d".repeat(8193), ..create() }, "description"),
        (CreateKeyRequest { client_request_id: "a b".into(), ..create() }, "client_request_id"),
        (CreateKeyRequest { client_request_id: "x".repeat(65), ..create() }, "client_request_id"),
    ] {
        rows.push(row(KEYS, "CreateKey", message, field(at_fault)));
    }
    for (message, at_fault) in [
        (CreateGrantRequest { grantee_principal: String::new(), ..grant.clone() }, "grantee_principal"),
        (CreateGrantRequest { grantee_principal: "user/x".into(), ..grant.clone() }, "grantee_principal"),
        (CreateGrantRequest { retiring_principal: "x".into(), ..grant.clone() }, "retiring_principal"),
        (CreateGrantRequest { operations: vec![], ..grant.clone() }, "operations"),
        (CreateGrantRequest { operations: vec![0], ..grant.clone() }, "operations"),
        (CreateGrantRequest { operations: vec![15], ..grant.clone() }, "operations"),
        (CreateGrantRequest { operations: vec![2, 2], ..grant.clone() }, "operations"),
        (CreateGrantRequest { operations: vec![2; 10_000], ..grant.clone() }, "operations"),
        (CreateGrantRequest { operations: vec![7], ..grant.clone() }, "operations"),
        (CreateGrantRequest { name: "a b".into(), ..grant.clone() }, "name"),
        (CreateGrantRequest { expiration_date: date(-1, 0), ..grant.clone() }, "expiration_date"),
        (CreateGrantRequest { expiration_date: date(1, -1), ..grant.clone() }, "expiration_date"),
        (CreateGrantRequest { expiration_date: date(i64::MAX, 0), ..grant.clone() }, "expiration_date"),
        (
            CreateGrantRequest { constraints: context("v".repeat(8192)), ..grant.clone() },
            "constraints.encryption_context_subset",
        ),
    ] {
        rows.push(row(KEYS, "CreateGrant", message, field(at_fault)));
    }
    rows.extend([
        row(KEYS, "DescribeKey", key_id(""), field("key_id")),
        row(KEYS, "DescribeKey", key_id(&aes.to_uppercase()), field("key_id")),
        row(KEYS, "DescribeKey", key_id("alias/"), field("key_id")),
        row(KEYS, "DescribeKey", key_id(NOBODYS), "NotFound KEY_NOT_FOUND"),
        row(KEYS, "DescribeKey", key_id("alias/nobodys"), "NotFound ALIAS_NOT_FOUND"),
        row(KEYS, "ListKeys", ListKeysRequest { limit: 1001, ..Default::default() }, field("limit")),
        row(
            KEYS,
            "ListKeys",
            ListKeysRequest { marker: "\u{1}".into(), limit: 0 },
            "InvalidArgument INVALID_MARKER marker",
        ),
        row(KEYS, "ListAliases", ListAliasesRequest { limit: 101, ..Default::default() }, field("limit")),
        row(
            KEYS,
            "ScheduleKeyDeletion",
            ScheduleKeyDeletionRequest { key_id: aes.clone(), pending_window_in_days: 6 },
            field("pending_window_in_days"),
        ),
        row(
            KEYS,
            "CancelKeyDeletion",
            CancelKeyDeletionRequest { key_id: aes.clone() },
            "FailedPrecondition KEY_STATE",
        ),
        row(KEYS, "RotateKeyOnDemand", RotateKeyOnDemandRequest { key_id: hmac }, "InvalidArgument INVALID_KEY_USAGE"),
        row(
            KEYS,
            "CreateAlias",
            CreateAliasRequest { alias_name: "name".into(), target_key_id: aes.clone() },
            field("alias_name"),
        ),
        row(
            KEYS,
            "CreateAlias",
            CreateAliasRequest { alias_name: "alias/a".into(), target_key_id: "alias/b".into() },
            field("target_key_id"),
        ),
        row(KEYS, "DeleteAlias", DeleteAliasRequest { alias_name: "alias/a".into() }, "NotFound ALIAS_NOT_FOUND"),
        row(KEYS, "RevokeGrant", RevokeGrantRequest { key_id: aes.clone(), grant_id: "x".into() }, field("grant_id")),
        row(
            KEYS,
            "RevokeGrant",
            RevokeGrantRequest { key_id: aes, grant_id: "0".repeat(32) },
            "NotFound GRANT_NOT_FOUND",
        ),
    ]);
    judge(&rig, rows).await;
}

#[tokio::test]
async fn malformed_crypto_requests_name_the_field_and_leave_a_record() {
    let rig = Rig::start().await;
    let aes = key(&rig, KeySpec::SymmetricDefault).await;
    let p256 = key(&rig, KeySpec::EccNistP256).await;
    let hmac = key(&rig, KeySpec::Hmac256).await;
    let data_key = GenerateDataKeyRequest { key_id: aes.clone(), key_spec: 1, ..Default::default() };
    let bytes = |number: u32| GenerateDataKeyRequest { key_spec: 0, number_of_bytes: Some(number), ..data_key.clone() };
    let context = |key: &str, len: usize| BTreeMap::from([(key.to_owned(), "v".repeat(len))]);
    let encrypt =
        |len: usize| EncryptRequest { key_id: aes.clone(), plaintext: vec![1; len].into(), ..Default::default() };
    let decrypt = |blob: Vec<u8>| DecryptRequest { ciphertext_blob: blob.into(), ..Default::default() };
    let sign = |algorithm: i32, kind: i32, len: usize| SignRequest {
        key_id: p256.clone(),
        message: vec![1; len].into(),
        message_type: kind,
        signing_algorithm: algorithm,
    };
    let mac = |algorithm: i32, len: usize| GenerateMacRequest {
        key_id: hmac.clone(),
        message: vec![1; len].into(),
        mac_algorithm: algorithm,
    };
    let random = |number_of_bytes| GenerateRandomRequest { number_of_bytes };
    let wrong = "InvalidArgument INVALID_CIPHERTEXT";
    judge(
        &rig,
        vec![
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { key_spec: 0, ..data_key.clone() },
                "InvalidArgument INVALID_FIELD key_spec",
            ),
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { key_spec: 3, ..data_key.clone() },
                "InvalidArgument INVALID_FIELD key_spec",
            ),
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { number_of_bytes: Some(32), ..data_key.clone() },
                "InvalidArgument INVALID_FIELD number_of_bytes",
            ),
            row(CRYPTO, "GenerateDataKey", bytes(0), "InvalidArgument INVALID_FIELD number_of_bytes"),
            row(CRYPTO, "GenerateDataKey", bytes(1025), "InvalidArgument INVALID_FIELD number_of_bytes"),
            row(CRYPTO, "GenerateDataKey", bytes(u32::MAX), "InvalidArgument INVALID_FIELD number_of_bytes"),
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { encryption_context: context("", 1), ..data_key.clone() },
                "InvalidArgument INVALID_FIELD encryption_context",
            ),
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { encryption_context: context("k", 8180), ..data_key.clone() },
                "InvalidArgument INVALID_FIELD encryption_context",
            ),
            row(
                CRYPTO,
                "GenerateDataKey",
                GenerateDataKeyRequest { key_id: p256.clone(), ..data_key.clone() },
                "InvalidArgument INVALID_KEY_USAGE",
            ),
            row(
                CRYPTO,
                "GenerateDataKeyWithoutPlaintext",
                GenerateDataKeyWithoutPlaintextRequest { key_id: aes.clone(), ..Default::default() },
                "InvalidArgument INVALID_FIELD key_spec",
            ),
            row(CRYPTO, "Encrypt", encrypt(0), "InvalidArgument INVALID_FIELD plaintext"),
            row(CRYPTO, "Encrypt", encrypt(4097), "InvalidArgument INVALID_FIELD plaintext"),
            row(CRYPTO, "Encrypt", EncryptRequest { key_id: NOBODYS.into(), ..encrypt(1) }, "NotFound KEY_NOT_FOUND"),
            row(CRYPTO, "Decrypt", decrypt(vec![]), "InvalidArgument INVALID_FIELD ciphertext_blob"),
            row(CRYPTO, "Decrypt", decrypt(vec![1; 6145]), "InvalidArgument INVALID_FIELD ciphertext_blob"),
            row(CRYPTO, "Decrypt", decrypt(vec![1; 100]), wrong),
            row(
                CRYPTO,
                "Decrypt",
                DecryptRequest { key_id: "x".into(), ..decrypt(vec![1; 100]) },
                "InvalidArgument INVALID_FIELD key_id",
            ),
            row(
                CRYPTO,
                "ReEncrypt",
                ReEncryptRequest { ciphertext_blob: vec![1; 100].into(), ..Default::default() },
                "InvalidArgument INVALID_FIELD destination_key_id",
            ),
            row(CRYPTO, "Sign", sign(0, 1, 1), "InvalidArgument INVALID_FIELD signing_algorithm"),
            row(CRYPTO, "Sign", sign(99, 1, 1), "InvalidArgument INVALID_FIELD signing_algorithm"),
            row(CRYPTO, "Sign", sign(7, 3, 1), "InvalidArgument INVALID_FIELD message_type"),
            row(CRYPTO, "Sign", sign(7, 1, 0), "InvalidArgument INVALID_FIELD message"),
            row(CRYPTO, "Sign", sign(7, 1, 4097), "InvalidArgument INVALID_FIELD message"),
            row(CRYPTO, "Sign", sign(7, 2, 31), "InvalidArgument INVALID_FIELD message"),
            row(CRYPTO, "Sign", sign(1, 1, 1), "InvalidArgument UNSUPPORTED_ALGORITHM"),
            row(
                CRYPTO,
                "GetPublicKey",
                GetPublicKeyRequest { key_id: aes.clone() },
                "InvalidArgument INVALID_KEY_USAGE",
            ),
            row(CRYPTO, "GenerateMac", mac(0, 1), "InvalidArgument INVALID_FIELD mac_algorithm"),
            row(CRYPTO, "GenerateMac", mac(2, 1), "InvalidArgument INVALID_FIELD mac_algorithm"),
            row(CRYPTO, "GenerateMac", mac(1, 0), "InvalidArgument INVALID_FIELD message"),
            row(CRYPTO, "GenerateRandom", random(0), "InvalidArgument INVALID_FIELD number_of_bytes"),
            row(CRYPTO, "GenerateRandom", random(1025), "InvalidArgument INVALID_FIELD number_of_bytes"),
            row(CRYPTO, "BatchEncrypt", BatchEncryptRequest { items: vec![] }, "InvalidArgument INVALID_FIELD items"),
            row(
                CRYPTO,
                "BatchEncrypt",
                BatchEncryptRequest { items: vec![encrypt(1); 129] },
                "InvalidArgument INVALID_FIELD items",
            ),
            row(CRYPTO, "BatchDecrypt", BatchDecryptRequest { items: vec![] }, "InvalidArgument INVALID_FIELD items"),
            row(
                CRYPTO,
                "BatchGenerateDataKey",
                BatchGenerateDataKeyRequest { items: vec![data_key; 129] },
                "InvalidArgument INVALID_FIELD items",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn malformed_identity_requests_name_the_field_and_leave_a_record() {
    let rig = Rig::start().await;
    let token = CreateTokenRequest::default;
    let policy = |name: &str, text: &str| PutPolicyRequest { name: name.into(), policy: text.into() };
    let role = CertificateRole {
        name: "app".into(),
        r#match: Some(Match::CommonName("app".into())),
        policies: vec!["default".into()],
    };
    let put = |role: CertificateRole| PutCertificateRoleRequest { role: Some(role) };
    let list = |limit, marker: &str| ListPoliciesRequest { limit, marker: marker.into() };
    let accessor = "0".repeat(32);
    judge(
        &rig,
        vec![
            row(
                IDENTITY,
                "CreateToken",
                CreateTokenRequest { policies: vec!["A".into()], ..token() },
                "InvalidArgument INVALID_FIELD policies",
            ),
            row(
                IDENTITY,
                "CreateToken",
                CreateTokenRequest { policies: vec!["a".into(); 65], ..token() },
                "InvalidArgument INVALID_FIELD policies",
            ),
            row(
                IDENTITY,
                "CreateToken",
                CreateTokenRequest { display_name: "a b".into(), ..token() },
                "InvalidArgument INVALID_FIELD display_name",
            ),
            row(
                IDENTITY,
                "CreateToken",
                CreateTokenRequest { certificate_thumbprint: Bytes::from_static(b"x"), ..token() },
                "InvalidArgument INVALID_FIELD certificate_thumbprint",
            ),
            row(
                IDENTITY,
                "LookupToken",
                LookupTokenRequest { accessor: "x".into() },
                "InvalidArgument INVALID_FIELD accessor",
            ),
            row(IDENTITY, "LookupToken", LookupTokenRequest { accessor: accessor.clone() }, "NotFound TOKEN_NOT_FOUND"),
            row(
                IDENTITY,
                "RenewToken",
                RenewTokenRequest { accessor: accessor.clone(), increment_secs: 0 },
                "NotFound TOKEN_NOT_FOUND",
            ),
            row(IDENTITY, "RevokeToken", RevokeTokenRequest { accessor }, "NotFound TOKEN_NOT_FOUND"),
            row(IDENTITY, "PutPolicy", policy("", "{}"), "InvalidArgument INVALID_FIELD name"),
            row(IDENTITY, "PutPolicy", policy("root", "{}"), "InvalidArgument INVALID_FIELD name"),
            row(IDENTITY, "PutPolicy", policy("a", "path {"), "InvalidArgument INVALID_FIELD policy"),
            row(
                IDENTITY,
                "DeletePolicy",
                DeletePolicyRequest { name: "../a".into() },
                "InvalidArgument INVALID_FIELD name",
            ),
            row(IDENTITY, "ListPolicies", list(1001, ""), "InvalidArgument INVALID_FIELD limit"),
            row(IDENTITY, "ListPolicies", list(0, "a/b"), "InvalidArgument INVALID_MARKER marker"),
            row(
                IDENTITY,
                "PutCertificateRole",
                PutCertificateRoleRequest { role: None },
                "InvalidArgument INVALID_FIELD role",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { r#match: None, ..role.clone() }),
                "InvalidArgument INVALID_FIELD role.match",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { name: "A".into(), ..role.clone() }),
                "InvalidArgument INVALID_FIELD role.name",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { policies: vec![], ..role.clone() }),
                "InvalidArgument INVALID_FIELD role.policies",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { policies: vec!["root".into()], ..role.clone() }),
                "InvalidArgument INVALID_FIELD role.policies",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { r#match: Some(Match::CommonName(String::new())), ..role.clone() }),
                "InvalidArgument INVALID_FIELD role.common_name",
            ),
            row(
                IDENTITY,
                "PutCertificateRole",
                put(CertificateRole { r#match: Some(Match::CertificateThumbprint(Bytes::new())), ..role }),
                "InvalidArgument INVALID_FIELD role.certificate_thumbprint",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn nobody_and_a_stranger_look_the_same_to_whom_they_ask() {
    let rig = Rig::start().await;
    let request =
        CreateTokenRequest { ttl_secs: 60, num_uses: 0, policies: vec!["default".into()], ..Default::default() };
    let make = async |request: CreateTokenRequest| -> String {
        let made: CreateTokenResponse = rig.root(&format!("{IDENTITY}CreateToken"), &request).await.decoded();
        made.token
    };
    let (expired, used_up, revoked) = (
        make(request.clone()).await,
        make(CreateTokenRequest { ttl_secs: 3600, num_uses: 1, ..request.clone() }).await,
        make(CreateTokenRequest { ttl_secs: 3600, ..request.clone() }).await,
    );
    let own = format!("{IDENTITY}LookupToken");
    rig.raw(&own, vec![], &[("authorization", &bearer(&used_up))]).await.result.unwrap();
    let end = format!("{IDENTITY}RevokeToken");
    rig.raw(&end, vec![], &[("authorization", &bearer(&revoked))]).await.result.unwrap();
    rig.clock.advance(Duration::from_secs(61));
    let (expired, used_up, revoked) = (bearer(&expired), bearer(&used_up), bearer(&revoked));
    let mut faces = Vec::new();
    for (what, authorization, cause) in [
        ("missing", &[][..], "NO_CREDENTIALS"),
        ("unknown", &["Bearer wrong-token-of-some-length"], "TOKEN_UNKNOWN"),
        ("malformed", &["Bearer x"], "TOKEN_MALFORMED"),
        ("another scheme", &["Basic cm9vdDpyb290cm9vdHJvb3Q="], "TOKEN_MALFORMED"),
        ("two", &["Bearer root-token-of-the-tests", "Bearer root-token-of-the-tests"], "TOKEN_MALFORMED"),
        ("expired", &[expired.as_str()], "TOKEN_EXPIRED"),
        ("used up", &[used_up.as_str()], "TOKEN_USED_UP"),
        ("revoked", &[revoked.as_str()], "TOKEN_UNKNOWN"),
    ] {
        for path in [
            format!("{CRYPTO}Decrypt"),
            format!("{KEYS}ListKeys"),
            own.clone(),
            "/strongroom.operator.v1.Operator/Status".into(),
        ] {
            let metadata: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
            // what the body holds does not matter: it is not read
            let answer = rig.raw(&path, vec![0xff; 9], &metadata).await;
            let status = answer.result.as_ref().unwrap_err();
            faces.push((status.code(), status.message().to_owned(), status.details().to_vec()));
            let record = rig.record_of(&answer.request_id());
            let operation = path.rsplit('/').next().unwrap();
            assert_eq!(record, format!("{operation} unauthenticated not_reached {cause}"), "{what}");
        }
    }
    assert_eq!(faces[0], (tonic::Code::Unauthenticated, "unauthenticated".into(), vec![]));
    assert!(faces.iter().all(|face| *face == faces[0]), "{faces:?}");
}

#[tokio::test]
async fn the_forbidden_and_the_unknown_look_the_same_to_who_may_see_neither() {
    let rig = Rig::start().await;
    let aes = key(&rig, KeySpec::SymmetricDefault).await;
    let request = CreateTokenRequest { policies: vec!["default".into()], ..Default::default() };
    let made: CreateTokenResponse = rig.root(&format!("{IDENTITY}CreateToken"), &request).await.decoded();
    let describe = |key_id: &str| DescribeKeyRequest { key_id: key_id.into() }.encode_to_vec();
    for (method, path, message) in [
        ("DescribeKey", format!("{KEYS}DescribeKey"), describe(&aes)),
        ("DescribeKey", format!("{KEYS}DescribeKey"), describe(NOBODYS)),
        ("DescribeKey", format!("{KEYS}DescribeKey"), describe("alias/nobodys")),
        ("Status", "/strongroom.operator.v1.Operator/Status".into(), StatusRequest {}.encode_to_vec()),
        ("CreateKey", format!("{KEYS}CreateKey"), vec![]),
    ] {
        let answer = rig.raw(&path, message, &[("authorization", &bearer(&made.token))]).await;
        let status = answer.result.as_ref().unwrap_err();
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (tonic::Code::PermissionDenied, "permission denied", &[][..])
        );
        assert_eq!(rig.record_of(&answer.request_id()), format!("{method} token denied PERMISSION_DENIED"));
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_recorded_and_counted() {
    let rig = Rig::start().await;
    let auth = bearer(ROOT);
    let auth = ("authorization", auth.as_str());
    let dice = format!("{CRYPTO}GenerateRandom");
    let large = EncryptRequest { key_id: "alias/a".into(), plaintext: vec![0; 10 << 20].into(), ..Default::default() };
    let context = BTreeMap::from([("k".to_owned(), "v".repeat(10 << 20))]);
    let endless =
        DecryptRequest { ciphertext_blob: vec![1; 100].into(), encryption_context: context, ..Default::default() };
    let below = EncryptRequest { plaintext: vec![0; (1 << 20) - 100].into(), ..large.clone() };
    let batch =
        BatchEncryptRequest { items: vec![EncryptRequest { plaintext: vec![0; 3 << 20].into(), ..large.clone() }] };
    for (what, path, message, metadata, expected, operation) in [
        ("no protobuf", dice.clone(), vec![0xff; 9], vec![auth], "InvalidArgument MALFORMED_MESSAGE", "GenerateRandom"),
        (
            "a wrong wire type",
            dice.clone(),
            vec![0x0a, 0x01, 0x00],
            vec![auth],
            "InvalidArgument MALFORMED_MESSAGE",
            "GenerateRandom",
        ),
        ("cut", dice.clone(), vec![0x08], vec![auth], "InvalidArgument MALFORMED_MESSAGE", "GenerateRandom"),
        (
            "no UTF-8",
            format!("{KEYS}DescribeKey"),
            vec![0x0a, 0x01, 0xff],
            vec![auth],
            "InvalidArgument MALFORMED_MESSAGE",
            "DescribeKey",
        ),
        (
            "10 MiB of plaintext",
            format!("{CRYPTO}Encrypt"),
            large.encode_to_vec(),
            vec![auth],
            "ResourceExhausted MESSAGE_TOO_LARGE",
            "Encrypt",
        ),
        (
            "10 MiB of context",
            format!("{CRYPTO}Decrypt"),
            endless.encode_to_vec(),
            vec![auth],
            "ResourceExhausted MESSAGE_TOO_LARGE",
            "Decrypt",
        ),
        (
            "3 MiB of batch",
            format!("{CRYPTO}BatchEncrypt"),
            batch.encode_to_vec(),
            vec![auth],
            "ResourceExhausted MESSAGE_TOO_LARGE",
            "BatchEncrypt",
        ),
        (
            "below 1 MiB",
            format!("{CRYPTO}Encrypt"),
            below.encode_to_vec(),
            vec![auth],
            "InvalidArgument INVALID_FIELD plaintext",
            "Encrypt",
        ),
        ("no such method", format!("{CRYPTO}Explode"), vec![], vec![auth], "Unimplemented UNIMPLEMENTED", "Unknown"),
        (
            "compressed",
            dice.clone(),
            vec![],
            vec![auth, ("grpc-encoding", "gzip")],
            "Unimplemented UNIMPLEMENTED",
            "GenerateRandom",
        ),
        (
            "a malformed deadline",
            dice.clone(),
            vec![],
            vec![auth, ("grpc-timeout", "soon")],
            "InvalidArgument INVALID_FIELD grpc-timeout",
            "GenerateRandom",
        ),
    ] {
        let answer = rig.raw(&path, message, &metadata).await;
        assert_eq!(answer.refusal(), expected, "{what}");
        let record = rig.record_of(&answer.request_id());
        assert!(
            record.starts_with(operation) && record.ends_with(expected.split(' ').nth(1).unwrap()),
            "{what}: {record}"
        );
        let reason = expected.split(' ').nth(1).unwrap();
        let line = format!("strongroom_requests_total{{operation=\"{operation}\",outcome=\"{reason}\"}}");
        assert!(rig.metrics.render().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn unknown_fields_change_nothing() {
    let rig = Rig::start().await;
    let aes = key(&rig, KeySpec::SymmetricDefault).await;
    let request = EncryptRequest { key_id: aes, plaintext: Bytes::from_static(b"text"), ..Default::default() };
    let plain = request.encode_to_vec();
    // field 1000: a varint, and a length-delimited one
    let varint = [&[0xc0, 0x3e, 0x07][..], &plain].concat();
    let nested = [&plain[..], &[0xc2, 0x3e, 0x02, 0xff, 0xff]].concat();
    for message in [plain, varint, nested] {
        let answer = rig.raw(&format!("{CRYPTO}Encrypt"), message, &[("authorization", &bearer(ROOT))]).await;
        let sealed: EncryptResponse = answer.decoded();
        let request = DecryptRequest { ciphertext_blob: sealed.ciphertext_blob, ..Default::default() };
        let opened: DecryptResponse = rig.root(&format!("{CRYPTO}Decrypt"), &request).await.decoded();
        assert_eq!(&opened.plaintext[..], b"text");
    }
}

#[tokio::test]
async fn deadlines_are_kept_and_a_boundary_that_is_away_is_told() {
    let rig = Rig::start().await;
    let dice = format!("{CRYPTO}GenerateRandom");
    let message = GenerateRandomRequest { number_of_bytes: 1 }.encode_to_vec();
    let auth = bearer(ROOT);
    let auth = ("authorization", auth.as_str());
    rig.boundary.is_away();
    assert_eq!(rig.raw(&dice, message.clone(), &[auth]).await.refusal(), "Unavailable BOUNDARY_UNAVAILABLE");
    rig.boundary.is_silent();
    let began = Instant::now();
    let answer = refused_by(rig.addr, &dice, &message, &[auth, ("grpc-timeout", "200m")]).await;
    assert_eq!(answer.refusal(), "DeadlineExceeded DEADLINE_EXCEEDED");
    assert_eq!(answer.request_id().len(), 32);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    let answer = refused_by(rig.addr, &dice, &message, &[auth, ("grpc-timeout", "0n")]).await;
    assert_eq!(answer.refusal(), "DeadlineExceeded DEADLINE_EXCEEDED");
    rig.boundary.answers();
    rig.raw(&dice, message, &[auth, ("grpc-timeout", "5S")]).await.result.unwrap();
}

#[tokio::test]
async fn the_clients_request_id_comes_back_and_stands_in_the_record() {
    let rig = Rig::start().await;
    let dice = format!("{CRYPTO}GenerateRandom");
    let message = GenerateRandomRequest { number_of_bytes: 1 }.encode_to_vec();
    let auth = bearer(ROOT);
    for (theirs, taken) in [(Some("build/7#42"), true), (Some("two words"), false), (None, false)] {
        let mut metadata = vec![("authorization", auth.as_str())];
        metadata.extend(theirs.map(|id| ("x-request-id", id)));
        let answer = raw(&rig.channel, &dice, message.clone(), &metadata).await;
        let id = answer.request_id();
        assert_eq!(theirs == Some(id.as_str()), taken, "{theirs:?} {id}");
        assert!(taken || id.len() == 32);
        assert_eq!(rig.record_of(&id), "GenerateRandom token allowed asked");
    }
}
