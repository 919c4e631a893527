//! Every method, asked as it should be.

use crate::rig::{ROOT, Rig, START};
use api::Operation;
use bytes::Bytes;
use proto::identity::certificate_role::Match;
use proto::identity::identity_client::IdentityClient;
use proto::identity::*;
use proto::kms::crypto_client::CryptoClient;
use proto::kms::keys_client::KeysClient;
use proto::kms::*;
use proto::operator::operator_client::OperatorClient;
use proto::operator::{BackupRequest, ModuleState, StatusRequest};
use std::collections::BTreeMap;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Served = InterceptedService<Channel, Bearer>;

struct Clients {
    keys: KeysClient<Served>,
    crypto: CryptoClient<Served>,
    identity: IdentityClient<Served>,
    operator: OperatorClient<Served>,
}

fn clients(channel: &Channel, token: &str) -> Clients {
    let bearer = Bearer(format!("Bearer {token}").parse().unwrap());
    Clients {
        keys: KeysClient::with_interceptor(channel.clone(), bearer.clone()),
        crypto: CryptoClient::with_interceptor(channel.clone(), bearer.clone()),
        identity: IdentityClient::with_interceptor(channel.clone(), bearer.clone()),
        operator: OperatorClient::with_interceptor(channel.clone(), bearer),
    }
}

fn context() -> BTreeMap<String, String> {
    BTreeMap::from([("file".to_owned(), "a".to_owned())])
}

async fn key(clients: &mut Clients, spec: KeySpec) -> KeyMetadata {
    let request = CreateKeyRequest { key_spec: spec.into(), description: "d".into(), ..Default::default() };
    clients.keys.create_key(request).await.unwrap().into_inner().key_metadata.unwrap()
}

#[tokio::test]
async fn every_method_answers() {
    let rig = Rig::start().await;
    let mut clients = clients(&rig.channel, ROOT);
    let aes = key(&mut clients, KeySpec::SymmetricDefault).await;
    lives_of_keys(&mut clients, &aes).await;
    names_and_grants(&mut clients, &aes).await;
    encryption(&mut clients, &aes.key_id).await;
    batches(&mut clients, &aes.key_id).await;
    signatures_and_codes(&mut clients).await;
    tokens_and_policies(&mut clients).await;
    server(&mut clients).await;
    everybodys(&rig).await;
    let text = rig.metrics.render();
    let ours = |operation: &&Operation| **operation != Operation::Unknown && !Operation::VERBS.contains(operation);
    for operation in Operation::ALL.iter().filter(ours) {
        let line = format!("strongroom_requests_total{{operation=\"{}\",outcome=\"OK\"}}", operation.name());
        assert!(text.contains(&line), "{} did not answer", operation.name());
    }
}

async fn lives_of_keys(clients: &mut Clients, aes: &KeyMetadata) {
    let keys = &mut clients.keys;
    let key_id = aes.key_id.clone();
    assert_eq!(
        (aes.key_state(), aes.key_spec(), aes.key_usage()),
        (KeyState::Enabled, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt)
    );
    assert_eq!((aes.protection_level(), aes.origin()), (ProtectionLevel::Boundary, Origin::Generated));
    assert_eq!((aes.description.as_str(), aes.current_key_version, aes.key_versions.len()), ("d", 1, 1));
    assert_eq!(aes.creation_date.unwrap().seconds, i64::try_from(START / 1000).unwrap());
    let described = keys.describe_key(DescribeKeyRequest { key_id: key_id.clone() }).await.unwrap().into_inner();
    assert_eq!(described.key_metadata.as_ref(), Some(aes));
    let listed = keys.list_keys(ListKeysRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.keys, listed.truncated), (vec![KeyListEntry { key_id: key_id.clone() }], false));
    keys.disable_key(DisableKeyRequest { key_id: key_id.clone() }).await.unwrap();
    let request = ScheduleKeyDeletionRequest { key_id: key_id.clone(), pending_window_in_days: 7 };
    let scheduled = keys.schedule_key_deletion(request).await.unwrap().into_inner();
    assert_eq!((scheduled.key_state(), scheduled.pending_window_in_days), (KeyState::PendingDeletion, 7));
    let due = i64::try_from(START / 1000).unwrap() + 7 * 86_400;
    assert_eq!(scheduled.deletion_date.unwrap().seconds, due);
    let described = keys.describe_key(DescribeKeyRequest { key_id: key_id.clone() }).await.unwrap().into_inner();
    let described = described.key_metadata.unwrap();
    assert_eq!(described.deletion_date.unwrap().seconds, due);
    assert_eq!(described.deletion_finality(), DeletionFinality::WhenBackupsOrDomainGenerationAreGone);
    let cancelled = keys.cancel_key_deletion(CancelKeyDeletionRequest { key_id: key_id.clone() }).await.unwrap();
    assert_eq!(cancelled.into_inner().key_id, key_id);
    keys.enable_key(EnableKeyRequest { key_id: key_id.clone() }).await.unwrap();
    let rotated = keys.rotate_key_on_demand(RotateKeyOnDemandRequest { key_id: key_id.clone() }).await.unwrap();
    assert_eq!(rotated.into_inner(), RotateKeyOnDemandResponse { key_id, key_version: 2 });
}

async fn names_and_grants(clients: &mut Clients, aes: &KeyMetadata) {
    let other = key(clients, KeySpec::SymmetricDefault).await.key_id;
    let keys = &mut clients.keys;
    let (alias_name, key_id) = ("alias/app/one".to_owned(), aes.key_id.clone());
    let request = CreateAliasRequest { alias_name: alias_name.clone(), target_key_id: other };
    keys.create_alias(request).await.unwrap();
    let request = UpdateAliasRequest { alias_name: alias_name.clone(), target_key_id: key_id.clone() };
    keys.update_alias(request).await.unwrap();
    let aliases = keys.list_aliases(ListAliasesRequest { key_id: key_id.clone(), ..Default::default() }).await.unwrap();
    let aliases = aliases.into_inner().aliases;
    assert_eq!((aliases[0].alias_name.as_str(), &aliases[0].target_key_id), ("alias/app/one", &key_id));
    let request = CreateGrantRequest {
        key_id: alias_name.clone(),
        grantee_principal: "cert/app".into(),
        retiring_principal: "token/00000000000000000000000000000001".into(),
        operations: vec![GrantOperation::Encrypt.into(), GrantOperation::Decrypt.into()],
        constraints: Some(GrantConstraints { encryption_context_subset: context(), ..Default::default() }),
        name: "app".into(),
        expiration_date: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 5_000_000 }),
    };
    let grant_id = keys.create_grant(request.clone()).await.unwrap().into_inner().grant_id;
    let request_of_list =
        ListGrantsRequest { key_id: key_id.clone(), grant_id: grant_id.clone(), ..Default::default() };
    let grants = keys.list_grants(request_of_list).await.unwrap().into_inner().grants;
    let [grant] = &grants[..] else { panic!("{grants:?}") };
    assert_eq!((&grant.key_id, &grant.grant_id, grant.name.as_str()), (&key_id, &grant_id, "app"));
    assert_eq!(grant.grantee_principal, request.grantee_principal);
    assert_eq!(grant.retiring_principal, request.retiring_principal);
    assert!(grant.issuing_principal.starts_with("token/"));
    assert_eq!((&grant.constraints, grant.expiration_date), (&request.constraints, request.expiration_date));
    assert_eq!(grant.operations, [1, 2]);
    keys.revoke_grant(RevokeGrantRequest { key_id: key_id.clone(), grant_id }).await.unwrap();
    // the root token may retire what it names itself to retire
    let retiring_principal = grant.issuing_principal.clone();
    let request = CreateGrantRequest { retiring_principal, name: String::new(), ..request };
    let grant_id = keys.create_grant(request).await.unwrap().into_inner().grant_id;
    keys.retire_grant(RetireGrantRequest { key_id, grant_id }).await.unwrap();
    keys.delete_alias(DeleteAliasRequest { alias_name }).await.unwrap();
}

async fn encryption(clients: &mut Clients, key_id: &str) {
    let crypto = &mut clients.crypto;
    let request = GenerateDataKeyRequest {
        key_id: key_id.into(),
        key_spec: DataKeySpec::Aes256.into(),
        number_of_bytes: None,
        encryption_context: context(),
    };
    let made = crypto.generate_data_key(request).await.unwrap().into_inner();
    assert_eq!((made.key_id.as_str(), made.key_version, made.plaintext.len()), (key_id, 2, 32));
    let opens = |ciphertext_blob: &Bytes, encryption_context| DecryptRequest {
        ciphertext_blob: ciphertext_blob.clone(),
        encryption_context,
        key_id: String::new(),
    };
    let opened = crypto.decrypt(opens(&made.ciphertext_blob, context())).await.unwrap().into_inner();
    assert_eq!((opened.key_id.as_str(), opened.key_version, &opened.plaintext), (key_id, 2, &made.plaintext));
    let request = GenerateDataKeyWithoutPlaintextRequest {
        key_id: key_id.into(),
        number_of_bytes: Some(64),
        ..Default::default()
    };
    let hidden = crypto.generate_data_key_without_plaintext(request).await.unwrap().into_inner();
    let opened = crypto.decrypt(opens(&hidden.ciphertext_blob, BTreeMap::new())).await.unwrap().into_inner();
    assert_eq!((opened.plaintext.len(), hidden.key_version), (64, 2));
    let request = EncryptRequest {
        key_id: key_id.into(),
        plaintext: Bytes::from_static(b"attack at dawn"),
        encryption_context: context(),
    };
    let sealed = crypto.encrypt(request).await.unwrap().into_inner();
    let request = ReEncryptRequest {
        ciphertext_blob: sealed.ciphertext_blob,
        source_encryption_context: context(),
        source_key_id: key_id.into(),
        destination_key_id: key_id.into(),
        ..Default::default()
    };
    let moved = crypto.re_encrypt(request).await.unwrap().into_inner();
    assert_eq!((moved.source_key_id.as_str(), moved.key_id.as_str(), moved.key_version), (key_id, key_id, 2));
    let opened = crypto.decrypt(opens(&moved.ciphertext_blob, BTreeMap::new())).await.unwrap().into_inner();
    assert_eq!(&opened.plaintext[..], b"attack at dawn");
    let random = crypto.generate_random(GenerateRandomRequest { number_of_bytes: 33 }).await.unwrap().into_inner();
    assert!(random.plaintext.len() == 33 && random.plaintext.iter().any(|byte| *byte != 0));
}

async fn batches(clients: &mut Clients, key_id: &str) {
    let crypto = &mut clients.crypto;
    // the largest that there are: 128 plaintexts of 4096 bytes, each with 8 KiB of context
    let pairs = BTreeMap::from([("k".to_owned(), "v".repeat(8192 - 4 - 8 - 1))]);
    let item = |n: u8| EncryptRequest {
        key_id: key_id.into(),
        plaintext: vec![n; 4096].into(),
        encryption_context: pairs.clone(),
    };
    let mut items: Vec<_> = (0..127).map(item).collect();
    items.push(EncryptRequest { key_id: "nonsense".into(), ..item(127) });
    let sealed = crypto.batch_encrypt(BatchEncryptRequest { items }).await.unwrap().into_inner();
    let mut blobs = Vec::new();
    for (n, result) in sealed.results.into_iter().enumerate() {
        match result.outcome.unwrap() {
            batch_encrypt_response::result::Outcome::Response(sealed) => blobs.push(sealed.ciphertext_blob),
            batch_encrypt_response::result::Outcome::Error(error) => {
                let seen = (n, error.code, error.reason.as_str(), error.field.as_str());
                assert_eq!(seen, (127, 3, "INVALID_FIELD", "key_id"));
            }
        }
    }
    assert_eq!(blobs.len(), 127);
    let item = |blob: Bytes| DecryptRequest {
        ciphertext_blob: blob,
        encryption_context: pairs.clone(),
        key_id: key_id.into(),
    };
    let items = blobs.into_iter().map(item).collect();
    let opened = crypto.batch_decrypt(BatchDecryptRequest { items }).await.unwrap().into_inner();
    for (n, result) in opened.results.into_iter().enumerate() {
        let Some(batch_decrypt_response::result::Outcome::Response(opened)) = result.outcome else { panic!("{n}") };
        assert_eq!(opened.plaintext, vec![u8::try_from(n).unwrap(); 4096]);
    }
    let item =
        |bytes| GenerateDataKeyRequest { key_id: key_id.into(), number_of_bytes: Some(bytes), ..Default::default() };
    let items = vec![item(16), item(0), item(1024)];
    let made = crypto.batch_generate_data_key(BatchGenerateDataKeyRequest { items }).await.unwrap().into_inner();
    let lengths = made.results.into_iter().map(|result| match result.outcome.unwrap() {
        batch_generate_data_key_response::result::Outcome::Response(made) => made.plaintext.len().to_string(),
        batch_generate_data_key_response::result::Outcome::Error(error) => error.field,
    });
    assert_eq!(lengths.collect::<Vec<_>>(), ["16", "number_of_bytes", "1024"]);
}

async fn signatures_and_codes(clients: &mut Clients) {
    let signing = key(clients, KeySpec::EccNistP256).await;
    assert_eq!(signing.signing_algorithms, [i32::from(SigningAlgorithmSpec::EcdsaSha256)]);
    let hmac = key(clients, KeySpec::Hmac256).await;
    assert_eq!(hmac.mac_algorithms, [i32::from(MacAlgorithmSpec::HmacSha256)]);
    let crypto = &mut clients.crypto;
    let request = SignRequest {
        key_id: signing.key_id.clone(),
        message: Bytes::from_static(b"m"),
        message_type: MessageType::Raw.into(),
        signing_algorithm: SigningAlgorithmSpec::EcdsaSha256.into(),
    };
    let signed = crypto.sign(request.clone()).await.unwrap().into_inner();
    assert_eq!((signed.key_version, signed.signing_algorithm()), (1, SigningAlgorithmSpec::EcdsaSha256));
    for (message, valid) in [(&b"m"[..], true), (b"n", false)] {
        let request = VerifyRequest {
            key_id: request.key_id.clone(),
            message: Bytes::from_static(message),
            message_type: 0,
            signature: signed.signature.clone(),
            signing_algorithm: request.signing_algorithm,
        };
        assert_eq!(crypto.verify(request).await.unwrap().into_inner().signature_valid, valid);
    }
    let public =
        crypto.get_public_key(GetPublicKeyRequest { key_id: signing.key_id.clone() }).await.unwrap().into_inner();
    assert_eq!(
        (public.key_spec(), public.key_usage(), public.public_key.len()),
        (KeySpec::EccNistP256, KeyUsage::SignVerify, 91)
    );
    let mac_algorithm = MacAlgorithmSpec::HmacSha256.into();
    let request = GenerateMacRequest { key_id: hmac.key_id.clone(), message: Bytes::from_static(b"m"), mac_algorithm };
    let code = crypto.generate_mac(request).await.unwrap().into_inner().mac;
    for (message, mac, valid) in [(&b"m"[..], &code[..], true), (b"n", &code, false), (b"m", &code[..31], false)] {
        let request = VerifyMacRequest {
            key_id: hmac.key_id.clone(),
            message: Bytes::from_static(message),
            mac_algorithm,
            mac: Bytes::copy_from_slice(mac),
        };
        assert_eq!(crypto.verify_mac(request).await.unwrap().into_inner().mac_valid, valid);
    }
}

async fn tokens_and_policies(clients: &mut Clients) {
    let identity = &mut clients.identity;
    let policy = "path \"kms/random\" { capabilities = [\"update\"] }".to_owned();
    identity.put_policy(PutPolicyRequest { name: "dice".into(), policy: policy.clone() }).await.unwrap();
    let found = identity.get_policy(GetPolicyRequest { name: "dice".into() }).await.unwrap().into_inner();
    assert_eq!(found, GetPolicyResponse { name: "dice".into(), policy });
    let listed = identity.list_policies(ListPoliciesRequest::default()).await.unwrap().into_inner();
    assert!(listed.names.contains(&"dice".to_owned()), "{listed:?}");
    let request = CreateTokenRequest {
        policies: vec!["dice".into()],
        display_name: "player".into(),
        ttl_secs: 60,
        num_uses: 5,
        certificate_thumbprint: Bytes::new(),
        renewable: true,
    };
    let created = identity.create_token(request).await.unwrap().into_inner();
    let metadata = created.metadata.unwrap();
    assert_eq!((metadata.policies.join(","), metadata.display_name.as_str()), ("dice".to_owned(), "player"));
    assert_eq!((metadata.uses_left, metadata.orphan, metadata.parent_accessor.len()), (Some(5), false, 32));
    assert_eq!(metadata.expiration_date.unwrap().seconds, i64::try_from(START / 1000).unwrap() + 60);
    assert!(created.token.len() >= 32 && !metadata.accessor.is_empty());
    let request = LookupTokenRequest { accessor: metadata.accessor.clone() };
    let found = identity.lookup_token(request).await.unwrap().into_inner().metadata.unwrap();
    assert_eq!(found.accessor, metadata.accessor);
    let request = RenewTokenRequest { accessor: metadata.accessor.clone(), increment_secs: 600 };
    let renewed = identity.renew_token(request).await.unwrap().into_inner().metadata.unwrap();
    assert_eq!(renewed.expiration_date.unwrap().seconds, i64::try_from(START / 1000).unwrap() + 600);
    assert!(renewed.renewable && metadata.renewable);
    let own = identity.lookup_token(LookupTokenRequest::default()).await.unwrap().into_inner().metadata.unwrap();
    assert!(own.orphan && own.expiration_date.is_none() && own.uses_left.is_none());
    identity.revoke_token(RevokeTokenRequest { accessor: metadata.accessor }).await.unwrap();
    identity.delete_policy(DeletePolicyRequest { name: "dice".into() }).await.unwrap();
    for matched in [
        Match::CertificateThumbprint(Bytes::from_static(&[3; 32])),
        Match::CommonName("app".into()),
        Match::SubjectAlternativeName("app.example".into()),
    ] {
        let role = CertificateRole { name: "app".into(), r#match: Some(matched), policies: vec!["default".into()] };
        identity.put_certificate_role(PutCertificateRoleRequest { role: Some(role.clone()) }).await.unwrap();
        let listed = identity.list_certificate_roles(ListCertificateRolesRequest::default()).await.unwrap();
        assert_eq!(listed.into_inner().roles, [role]);
    }
    identity.delete_certificate_role(DeleteCertificateRoleRequest { name: "app".into() }).await.unwrap();
}

async fn server(clients: &mut Clients) {
    let status = clients.operator.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.version.as_str(), status.cluster_id.len(), status.generation), ("0.0.1", 32, 1));
    let boundary = status.boundary.unwrap();
    assert_eq!((boundary.state(), boundary.module.as_str()), (ModuleState::Operational, "hsm-sim"));
    assert!(boundary.key_specs.contains(&"SYMMETRIC_DEFAULT".to_owned()), "{boundary:?}");
    assert_eq!(boundary.protection_levels, ["BOUNDARY"]);
    assert_eq!(boundary.report.get("seccomp").map(String::as_str), Some("on"));
    let mut chunks = clients.operator.backup(BackupRequest {}).await.unwrap().into_inner();
    let (mut data, mut last) = (Vec::new(), None);
    while let Some(chunk) = chunks.message().await.unwrap() {
        data.extend_from_slice(&chunk.data);
        last = Some(chunk);
    }
    let last = last.unwrap();
    assert_eq!(last.sha256, &envelope::mac::sha256(&data)[..]);
    assert!(last.revision > 0 && last.data.is_empty() && data.starts_with(b"SQLite format 3"));
}

async fn everybodys(rig: &Rig) {
    for path in ["/health", "/metrics"] {
        assert!(crate::public::get(rig, path).await.0.is_success(), "{path}");
    }
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert!(crate::rig::begun(rig.addr, reflection, b"", &[]).await.status().is_success());
}

#[tokio::test]
async fn a_certificate_stands_for_its_role_and_binds_its_token() {
    let rig = Rig::start().await;
    let shown = |name: &str| {
        let mut params = rcgen::CertificateParams::new(vec!["app.example".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        api::PeerCertificate::from_der(&der).unwrap()
    };
    let mut root = clients(&rig.channel, ROOT);
    let policy = "path \"kms/random\" { capabilities = [\"update\"] }".to_owned();
    root.identity.put_policy(PutPolicyRequest { name: "dice".into(), policy }).await.unwrap();
    let matched = Match::CommonName("app".into());
    let role = CertificateRole { name: "app".into(), r#match: Some(matched), policies: vec!["dice".into()] };
    root.identity.put_certificate_role(PutCertificateRoleRequest { role: Some(role) }).await.unwrap();
    let (app, other) = (shown("app"), shown("other"));
    let (thumbprint, written) = (Bytes::copy_from_slice(&app.thumbprint), hex::encode(app.thumbprint));
    let request =
        CreateTokenRequest { policies: vec!["dice".into()], certificate_thumbprint: thumbprint, ..Default::default() };
    let bound = root.identity.create_token(request).await.unwrap().into_inner().token;
    let (with_app, with_other) = (rig.channel_with(app).await, rig.channel_with(other).await);
    let dice = prost::Message::encode_to_vec(&GenerateRandomRequest { number_of_bytes: 1 });
    let bearer = format!("Bearer {bound}");
    let wrong = "Bearer wrong-token-of-some-length".to_owned();
    for (what, channel, authorization, recognised) in [
        ("the role's certificate", &with_app, None, true),
        ("another certificate", &with_other, None, false),
        ("no certificate", &rig.channel, None, false),
        ("the bound token beside its certificate", &with_app, Some(&bearer), true),
        ("the bound token beside another", &with_other, Some(&bearer), false),
        ("the bound token alone", &rig.channel, Some(&bearer), false),
        ("a wrong token beside a good certificate", &with_app, Some(&wrong), false),
    ] {
        let metadata: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer =
            crate::rig::raw(channel, "/strongroom.kms.v1.Crypto/GenerateRandom", dice.clone(), &metadata).await;
        assert_eq!(answer.result.is_ok(), recognised, "{what}: {answer:?}");
        assert!(recognised || answer.refusal() == "Unauthenticated", "{what}");
        let beside = (what == "the bound token beside its certificate").then_some(written.as_str());
        let record = rig.records().pop().unwrap();
        assert_eq!(record.get("certificate").and_then(|told| told.as_str()), beside, "{what}");
    }
}
