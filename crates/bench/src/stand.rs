//! A server of the product, ready to be driven: key, policy, a token that is not root's, and the calls that are measured.

use crate::load::{Call, framed, once, page};
use crate::rig::{Server, sibling};
use crate::softhsm::Token;
use crate::windows::BATCH;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use prost::Message;
use proto::{identity, kms};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// What is asked of one server.
#[derive(Debug)]
pub(crate) struct Stand {
    /// Name and call.
    pub(crate) calls: Vec<(&'static str, Call)>,
    /// GenerateDataKey, each with its receipt.
    pub(crate) for_receipt: Call,
    pub(crate) batch: Call,
    /// Of the vault's API.
    pub(crate) vault: Vec<(&'static str, Call)>,
}

/// `strongroom dev` on the folder, on hsm-sim or on a token.
pub(crate) fn start(data: &Path, token: Option<&Token>) -> Result<Server> {
    let mut command = Command::new(sibling("strongroom")?);
    command.arg("dev").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data).env("STRONGROOM_LOG", "warn");
    if let Some(token) = token {
        command.arg("--hsm").arg(&token.uri).env("SOFTHSM2_CONF", &token.config);
    }
    Server::start(&mut command)
}

impl Stand {
    pub(crate) fn prepare(addr: SocketAddr, data: &Path, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Self::prepare_on(addr, data, tls))
    }

    async fn prepare_on(addr: SocketAddr, data: &Path, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let path = data.join("root-token");
        let root = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let root: Arc<str> = format!("Bearer {}", root.trim()).into();
        let ask = |path: &'static str, message: Bytes| {
            let call = Call::grpc(path, Some(Arc::clone(&root)), message);
            async move { once(addr, &call, tls).await }
        };
        let reply = ask("/strongroom.kms.v1.Keys/CreateKey", framed(&kms::CreateKeyRequest::default())).await?;
        let key = kms::CreateKeyResponse::decode(reply)?.key_metadata.context("a key without metadata")?.key_id;
        let policy = identity::PutPolicyRequest { name: "bench".into(), policy: POLICY.into() };
        ask("/strongroom.identity.v1.Identity/PutPolicy", framed(&policy)).await?;
        let token = identity::CreateTokenRequest { policies: vec!["bench".into()], ..Default::default() };
        let reply = ask("/strongroom.identity.v1.Identity/CreateToken", framed(&token)).await?;
        let token: Arc<str> = format!("Bearer {}", identity::CreateTokenResponse::decode(reply)?.token).into();

        let call = |path, message| Call::grpc(path, Some(Arc::clone(&token)), message);
        let encrypt = kms::EncryptRequest {
            key_id: key.clone(),
            plaintext: Bytes::from_static(&[7; 32]),
            encryption_context: context(),
        };
        let encrypt = call("/strongroom.kms.v1.Crypto/Encrypt", framed(&encrypt));
        let blob = kms::EncryptResponse::decode(once(addr, &encrypt, tls).await?)?.ciphertext_blob;
        let decrypt =
            kms::DecryptRequest { ciphertext_blob: blob, encryption_context: context(), key_id: String::new() };
        let data_key = kms::GenerateDataKeyRequest {
            key_id: key,
            key_spec: kms::DataKeySpec::Aes256.into(),
            number_of_bytes: None,
            encryption_context: context(),
        };
        let batch = kms::BatchGenerateDataKeyRequest { items: vec![data_key.clone(); BATCH as usize] };
        Ok(Self {
            calls: vec![
                ("GenerateDataKey", call("/strongroom.kms.v1.Crypto/GenerateDataKey", framed(&data_key))),
                ("Encrypt 32 B", encrypt),
                ("Decrypt", call("/strongroom.kms.v1.Crypto/Decrypt", framed(&decrypt))),
            ],
            for_receipt: Call { receipt: true, ..call("/strongroom.kms.v1.Crypto/GenerateDataKey", framed(&data_key)) },
            batch: call("/strongroom.kms.v1.Crypto/BatchGenerateDataKey", framed(&batch)),
            vault: vault(addr, tls, &root, &token).await?,
        })
    }
}

/// Mounts, a secret, a key and two roles; then what is asked of them.
async fn vault(
    addr: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
    root: &Arc<str>,
    token: &Arc<str>,
) -> Result<Vec<(&'static str, Call)>> {
    let json = |value: &serde_json::Value| Bytes::from(value.to_string());
    let write = async |path: &'static str, body: serde_json::Value| -> Result<serde_json::Value> {
        let answer = once(addr, &Call::api(Method::POST, path, Some(Arc::clone(root)), json(&body)), tls).await?;
        Ok(if answer.is_empty() { json!(null) } else { serde_json::from_slice(&answer)? })
    };
    let secret = json!({"data": {"user": "bench", "password": "32 bytes of what a secret may be"}});
    write("/v1/secret/data/bench", secret.clone()).await?;
    write("/v1/sys/mounts/transit", json!({"type": "transit"})).await?;
    write("/v1/transit/keys/bench", json!({})).await?;
    write("/v1/sys/auth/approle", json!({"type": "approle"})).await?;
    let mut logins = Vec::new();
    for (role, made, role_id, secret_id, kind) in [
        (
            "AppRole login, stateless token",
            "/v1/auth/approle/role/a",
            "/v1/auth/approle/role/a/role-id",
            "/v1/auth/approle/role/a/secret-id",
            "batch",
        ),
        (
            "AppRole login, stored token",
            "/v1/auth/approle/role/b",
            "/v1/auth/approle/role/b/role-id",
            "/v1/auth/approle/role/b/secret-id",
            "service",
        ),
    ] {
        write(made, json!({"token_policies": "bench", "token_type": kind, "token_ttl": "10m"})).await?;
        let read = Call::api(Method::GET, role_id, Some(Arc::clone(root)), Bytes::new());
        let answer: serde_json::Value = serde_json::from_slice(&once(addr, &read, tls).await?)?;
        let secret = write(secret_id, json!({})).await?;
        let body = json!({"role_id": answer["data"]["role_id"], "secret_id": secret["data"]["secret_id"]});
        logins.push((role, Call::api(Method::POST, "/v1/auth/approle/login", None, json(&body))));
    }
    let signed = crate::jwt::signed()?;
    write("/v1/sys/auth/jwt", json!({"type": "jwt"})).await?;
    write("/v1/auth/jwt/config", json!({"jwt_validation_pubkeys": signed.key, "bound_issuer": "bench"})).await?;
    for (what, path, role, kind) in
        [(JWT_STATELESS, "/v1/auth/jwt/role/a", "a", "batch"), (JWT_STORED, "/v1/auth/jwt/role/b", "b", "service")]
    {
        let made = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_claims_type": "glob",
            "bound_claims": {"sub": "repo:acme/*:ref:refs/heads/*"}, "token_policies": "bench", "token_type": kind, "token_ttl": "10m",
        });
        write(path, made).await?;
        let body = json!({"role": role, "jwt": signed.token});
        logins.push((what, Call::api(Method::POST, "/v1/auth/jwt/login", None, json(&body))));
    }
    let api = |method, path, body: Bytes| Call::api(method, path, Some(Arc::clone(token)), body);
    let mut calls = vec![
        ("KV v2 read", api(Method::GET, "/v1/secret/data/bench", Bytes::new())),
        ("KV v2 write", Call { spread: 4096, ..api(Method::POST, "/v1/secret/data/bench-", json(&secret)) }),
        ("token lookup-self", api(Method::GET, "/v1/auth/token/lookup-self", Bytes::new())),
        ("transit datakey", api(Method::POST, "/v1/transit/datakey/plaintext/bench", json(&json!({})))),
    ];
    calls.extend(logins);
    Ok(calls)
}

pub(crate) const JWT_STATELESS: &str = "JWT login (ES256), stateless token";
pub(crate) const JWT_STORED: &str = "JWT login (ES256), stored token";

/// Syncs of the audit log since the server started; `None` where its metrics do not tell.
pub(crate) fn syncs(addr: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> Result<Option<u64>> {
    metric(addr, SYNCS, tls)
}

fn metric(addr: SocketAddr, name: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Option<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(page(addr, "/metrics", tls))?;
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    Ok(String::from_utf8_lossy(&text).lines().find_map(value))
}

/// Takes the tree from the server's log: a file where its tiles belong holds it up, for good, at the first full one, while
/// entries are written and synced as ever. What is left is a plain sink of the same bytes, by the same writer; no product has such a switch.
pub(crate) fn stop_tree(data: &Path) -> Result<()> {
    let tiles = data.join("server/audit/tile");
    if tiles.exists() {
        std::fs::rename(&tiles, tiles.with_extension("aside"))?;
    }
    std::fs::write(&tiles, b"").with_context(|| format!("cannot stand in for {}", tiles.display()))
}

/// How many entries of the server's log a checkpoint covers.
pub(crate) fn signed(addr: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> Result<u64> {
    metric(addr, SIGNED, tls)?.context("the metrics do not tell")
}

/// A CA and a certificate for localhost, for the servers of the empty RPC. Gives the CA's file.
pub(crate) fn make_ca(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let (ca_key, key) = (rcgen::KeyPair::generate()?, rcgen::KeyPair::generate()?);
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "strongroom bench");
    let certificate = ca.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    std::fs::write(folder.join("ca.pem"), certificate.pem())?;
    std::fs::write(folder.join("server.pem"), leaf.pem())?;
    std::fs::write(folder.join("server-key.pem"), key.serialize_pem())?;
    Ok(folder.join("ca.pem"))
}

fn context() -> BTreeMap<String, String> {
    BTreeMap::from([("purpose".to_owned(), "bench".to_owned())])
}

const SYNCS: &str = "strongroom_audit_syncs ";
/// Entries of a full tile.
pub(crate) const TILE_ENTRIES: u64 = 256;
const SIGNED: &str = "strongroom_audit_signed_entries ";

const POLICY: &str = r#"
path "kms/keys/+/generate-data-key" { capabilities = ["update"] }
path "kms/keys/+/encrypt" { capabilities = ["update"] }
path "kms/keys/+/decrypt" { capabilities = ["update"] }
path "secret/data/*" { capabilities = ["create", "read", "update"] }
path "transit/datakey/plaintext/bench" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
"#;
