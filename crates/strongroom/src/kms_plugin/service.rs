//! Status, Encrypt, Decrypt.

use super::Config;
use bytes::Bytes;
use client::{Client, Error, Repeat, SecretBytes, Vault, give_secret, take_secret};
use envelope::mac;
use proto::kms;
use proto::kubernetes_kms::key_management_service_server::KeyManagementService;
use proto::kubernetes_kms::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

/// One key, for one cluster.
pub(super) struct Plugin {
    key: String,
    older_keys: Vec<String>,
    context: BTreeMap<String, String>,
    vault: Arc<OnceLock<Vault>>,
    /// When something was encrypted and decrypted last.
    proven: Mutex<Option<Instant>>,
    /// The latest version that was seen; zero: none yet.
    version: AtomicU32,
}

/// What the server encrypted.
struct Sealed {
    version: u32,
    blob: Bytes,
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let healthz = match in_time(self.prove()).await {
            Ok(()) => "ok".to_owned(),
            Err(status) => {
                tracing::warn!(code = ?status.code(), why = status.message(), "not well");
                status.message().to_owned()
            }
        };
        match self.version.load(Ordering::Acquire) {
            // without a key_id there is no answer
            0 => Err(Status::unavailable(healthz)),
            version => {
                let (version, key_id) = (VERSION.to_owned(), self.key_id(version));
                Ok(Response::new(StatusResponse { version, healthz, key_id }))
            }
        }
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let EncryptRequest { plaintext, uid } = request.into_inner();
        let plaintext = take_secret(plaintext);
        if plaintext.is_empty() || plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(Status::invalid_argument(format!("plaintext: 1 to {PLAINTEXT_BYTES_MAX} bytes")));
        }
        let Sealed { version, blob } = in_time(self.sealed(&plaintext, &uid)).await?;
        let (key_id, annotations) = (self.key_id(version), BTreeMap::new());
        Ok(Response::new(EncryptResponse { ciphertext: blob, key_id, annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let DecryptRequest { ciphertext, uid, key_id, annotations: _ } = request.into_inner();
        let other = || Status::invalid_argument("key_id: none that this plugin has told");
        let (key, version) = key_id.split_once('/').ok_or_else(other)?;
        let version: u32 = version.parse().map_err(|_| other())?;
        // it stands in etcd: who writes there does not choose by which key the vault is asked
        if key != self.key && self.older_keys.iter().all(|older| older != key) {
            return Err(Status::invalid_argument("key_id: neither this plugin's key nor one of its older_keys"));
        }
        let plaintext = in_time(self.opened((key, version), &ciphertext, &uid)).await?;
        Ok(Response::new(DecryptResponse { plaintext: give_secret(plaintext) }))
    }
}

impl Plugin {
    pub(super) fn new(config: &Config, vault: Arc<OnceLock<Vault>>) -> Self {
        let context = [("purpose", "kubernetes-kms-v2"), ("cluster", &config.cluster)];
        Self {
            key: config.key_id.clone(),
            older_keys: config.older_keys.clone(),
            context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            vault,
            proven: Mutex::new(None),
            version: AtomicU32::new(0),
        }
    }

    fn key_id(&self, version: u32) -> String {
        format!("{}/{version}", self.key)
    }

    fn vault(&self) -> Result<&Vault, Status> {
        self.vault.get().ok_or_else(|| Status::unavailable("not logged in to the vault yet"))
    }

    /// Encrypts something and decrypts it, unless that was done just now. One at a time.
    async fn prove(&self) -> Result<(), Status> {
        let mut proven = self.proven.lock().await;
        if proven.is_some_and(|at| at.elapsed() < PROVEN_FOR) {
            return Ok(());
        }
        *proven = None;
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| Status::internal("the system gave no random bytes"))?;
        let seed = SecretBytes::copy_from(&random);
        let Sealed { version, blob } = self.sealed(&seed, "").await?;
        let opened = self.opened((&self.key, version), &blob, "").await?;
        if !mac::equal(opened.expose(), seed.expose()) {
            return Err(Status::data_loss("what was encrypted came back as something else"));
        }
        *proven = Some(Instant::now());
        Ok(())
    }

    async fn sealed(&self, plaintext: &SecretBytes, uid: &str) -> Result<Sealed, Status> {
        let vault = self.vault()?;
        for pause in PAUSES.into_iter().map(Some).chain([None]) {
            let reply =
                vault.native(Repeat::Safe, |client| self.encrypted(client, plaintext, uid)).await.map_err(told)?;
            if reply.key_id != self.key {
                return Err(Status::internal("another key has encrypted"));
            }
            if !(1..CIPHERTEXT_BYTES_END).contains(&reply.ciphertext_blob.len()) {
                return Err(Status::internal("the ciphertext is longer than an API server takes"));
            }
            let version = reply.key_version;
            if version >= self.version.fetch_max(version, Ordering::AcqRel) {
                return Ok(Sealed { version, blob: reply.ciphertext_blob });
            }
            // a node that has not heard of the rotation yet: it will, within two seconds
            let Some(pause) = pause else { break };
            tokio::time::sleep(pause).await;
        }
        Err(Status::unavailable("a server that has not heard of the key's rotation yet has answered"))
    }

    async fn encrypted(
        &self,
        client: Client,
        plaintext: &SecretBytes,
        uid: &str,
    ) -> Result<kms::EncryptResponse, Error> {
        let message = kms::EncryptRequest {
            key_id: self.key.clone(),
            plaintext: give_secret(SecretBytes::copy_from(plaintext.expose())),
            encryption_context: self.context.clone(),
        };
        Ok(client.crypto().encrypt(named(message, uid)).await?.into_inner())
    }

    async fn opened(&self, (key, version): (&str, u32), blob: &Bytes, uid: &str) -> Result<SecretBytes, Status> {
        let call = |client: Client| async move {
            let message = kms::DecryptRequest {
                ciphertext_blob: blob.clone(),
                encryption_context: self.context.clone(),
                key_id: key.to_owned(),
            };
            Ok(client.crypto().decrypt(named(message, uid)).await?.into_inner())
        };
        let reply = self.vault()?.native(Repeat::Safe, call).await.map_err(told)?;
        let plaintext = take_secret(reply.plaintext);
        if (reply.key_id.as_str(), reply.key_version) != (key, version) {
            return Err(Status::invalid_argument("key_id: the ciphertext is of another key or version"));
        }
        Ok(plaintext)
    }
}

/// Under the API server's own name for the request, where it has one: both logs tell of the same.
fn named<T>(message: T, uid: &str) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(Ok(name)) = (1..=64).contains(&uid.len()).then(|| uid.parse()) {
        request.metadata_mut().insert("x-request-id", name);
    }
    request
}

/// The API server waits three seconds.
async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let outcome = tokio::time::timeout(WITHIN, call).await;
    outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("the vault did not answer in time")))
}

/// Without addresses and advice: the API server shows it to whoever asks for its health.
fn told(error: Error) -> Status {
    tracing::warn!(%error, "the vault");
    match error.refusal() {
        Some(refusal) => Status::new(refusal.code, format!("the vault refused: {}", refusal.reason_or_code())),
        None if error.is_transient() => Status::unavailable("the vault is not reached"),
        None => Status::new(Code::FailedPrecondition, "the vault cannot be asked; the plugin's log says more"),
    }
}

const VERSION: &str = "v2";
/// Seeds have 32.
const PLAINTEXT_BYTES_MAX: usize = 512;
const CIPHERTEXT_BYTES_END: usize = 1024;
const PROVEN_FOR: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_millis(2500);
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1200)];

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_vault_is_asked_for_the_plugins_own_keys_alone() {
        let [own, older, strange] = ["1", "2", "3"].map(|digit| format!("{}-{digit}", "0".repeat(34)));
        let config = format!(
            r#"
            socket = "/run/strongroom/kms.sock"
            key_id = "{own}"
            older_keys = ["{older}"]
            cluster = "prod"
            [server]
            address = "https://vault.example:8200"
            [login]
            method = "token-file"
            file = "/etc/strongroom/token"
            "#
        );
        // who is asked is not logged in
        let plugin = Plugin::new(&Config::parse(&config).unwrap(), Arc::default());
        for (key_id, code) in [
            (format!("{own}/1"), Code::Unavailable),
            (format!("{older}/7"), Code::Unavailable),
            (format!("{strange}/1"), Code::InvalidArgument),
            (format!("{own}/{older}/1"), Code::InvalidArgument),
            (format!("{own}0/1"), Code::InvalidArgument),
            ("/1".to_owned(), Code::InvalidArgument),
        ] {
            let request = DecryptRequest { ciphertext: vec![1].into(), key_id: key_id.clone(), ..Default::default() };
            let refused = plugin.decrypt(Request::new(request)).await.unwrap_err();
            assert_eq!(refused.code(), code, "{key_id}: {refused:?}");
        }
    }
}
