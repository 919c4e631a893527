//! A client of the native API, and of the vault's: one connection, typed stubs, errors that say what to do next, envelope encryption of
//! streams.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use client::{Client, EncryptionContext, Options, SecretBytes};
//!
//! let options = Options {
//!     ca: Some("/etc/strongroom/ca.pem".into()),
//!     token: Some(SecretBytes::from_vec(std::fs::read("/run/secrets/strongroom-token")?)),
//!     ..Options::new("https://kms.example:8200")
//! };
//! let client = Client::connect(options).await?;
//! let context = EncryptionContext::parse([("tenant", "blue")])?;
//! let key = client.generate_data_key("alias/invoices", &context).await?;
//! // encrypt with key.plaintext, keep key.ciphertext_blob beside the data; the plaintext is wiped when `key` drops
//! # Ok(()) }
//! ```
//!
//! Always: TLS, except to this machine; every call has a deadline; a data key is wiped when it drops.
//! Never: a token in an error, in Debug or in HTTP/2's header tables.
#![forbid(unsafe_code)]

mod address;
mod api;
mod backup;
mod cloud;
mod connect;
mod error;
mod lane;
mod lease;
mod login;
mod options;
mod secret;
mod stamp;
mod stream;
pub mod timing;
mod vault;

pub use api::ApiRequest;
pub use backup::BackupSummary;
pub use cloud::{AWS_CONTAINERS, AWS_METADATA, AZURE_METADATA, Aws, AwsCredentials, GOOGLE_METADATA, Metadata};
pub use connect::authorities;
pub use envelope::stream::FileHeader;
pub use envelope::{EncryptionContext, SecretBytes};
pub use error::{Error, Refusal, Sent};
pub use http::Method;
pub use lane::Lane;
pub use lease::Lease;
pub use login::{Input, Login, SecretId, text_object};
pub use options::{ClientCertificate, Options};
pub use secret::{Granted, Secret};
pub use stamp::{Followed, LOOKS_EVERY};
pub use stream::{Done, StreamError, decrypt_chunks, encrypt_chunks, read_header};
pub use vault::{Kv, NoLogin, Obtained, Repeat, Standing, Vault, check_creation_path};

use bytes::Bytes;
use connect::Route;
use lane::Shows;
use proto::{identity, kms, operator};
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use zeroize::Zeroize as _;

/// The transport of every stub: the connection, with token and deadline put on each request.
pub type Transport = InterceptedService<Lane, Attach>;

/// One connection to a server. Clones share it; it is made anew when it breaks, and another one where the files of the client
/// certificate were replaced.
#[derive(Debug, Clone)]
pub struct Client {
    lane: Lane,
    attach: Attach,
    namespace: Arc<str>,
    /// SHA-256 of the client certificate that was shown first.
    thumbprint: Option<[u8; 32]>,
}

/// A data key: in the clear for use now, sealed to be kept beside the data.
#[derive(Debug)]
pub struct DataKey {
    pub key_id: String,
    pub key_version: u32,
    pub plaintext: SecretBytes,
    pub ciphertext_blob: Bytes,
}

/// A data key that was sealed before, and which key had sealed it.
#[derive(Debug)]
pub struct OpenedDataKey {
    pub key_id: String,
    pub key_version: u32,
    pub plaintext: SecretBytes,
}

impl Client {
    /// Connects, so that what is wrong with the address or the certificates shows now.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        Self::connect_as(&options, options.token.as_ref(), Shows::Newest).await
    }

    /// As the holder of `token`, whatever the options say.
    pub(crate) async fn connect_as(
        options: &Options,
        token: Option<&SecretBytes>,
        shows: Shows,
    ) -> Result<Self, Error> {
        let attach = Attach { authorization: options::authorization(token)?, timeout: Some(options.timeout) };
        let (lane, thumbprint) = Lane::open(Route::of(options)?, shows).await?;
        Ok(Self { lane, attach, namespace: options.namespace.as_str().into(), thumbprint })
    }

    /// Whether the files hold another certificate than was shown first; an error where they are not sound.
    pub(crate) fn shows_other_than(&self, now: &ClientCertificate) -> Result<bool, Error> {
        let now = now.thumbprint()?;
        Ok(self.thumbprint.is_some_and(|shown| shown != now))
    }

    /// The same connection, as the holder of another token, or of none.
    pub fn with_token(&self, token: Option<&SecretBytes>) -> Result<Self, Error> {
        let attach = Attach { authorization: options::authorization(token)?, timeout: self.attach.timeout };
        Ok(Self { attach, ..self.clone() })
    }

    /// Keys, aliases and grants.
    pub fn keys(&self) -> kms::keys_client::KeysClient<Transport> {
        kms::keys_client::KeysClient::with_interceptor(self.lane.clone(), self.attach.clone())
    }

    /// What keys do.
    pub fn crypto(&self) -> kms::crypto_client::CryptoClient<Transport> {
        kms::crypto_client::CryptoClient::with_interceptor(self.lane.clone(), self.attach.clone())
    }

    /// Tokens, policies, certificate roles.
    pub fn identity(&self) -> identity::identity_client::IdentityClient<Transport> {
        identity::identity_client::IdentityClient::with_interceptor(self.lane.clone(), self.attach.clone())
    }

    /// Status and backup.
    pub fn operator(&self) -> operator::operator_client::OperatorClient<Transport> {
        operator::operator_client::OperatorClient::with_interceptor(self.lane.clone(), self.attach.clone())
    }

    /// As [`Self::operator`], without a deadline for the whole call: for streams.
    fn unhurried_operator(&self) -> operator::operator_client::OperatorClient<Transport> {
        let attach = Attach { timeout: None, ..self.attach.clone() };
        operator::operator_client::OperatorClient::with_interceptor(self.lane.clone(), attach)
    }

    /// A new AES-256 data key under `key_id` (id or `alias/NAME`), bound to `context`.
    pub async fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, Error> {
        let request = kms::GenerateDataKeyRequest {
            key_id: key_id.to_owned(),
            key_spec: kms::DataKeySpec::Aes256.into(),
            number_of_bytes: None,
            encryption_context: context.pairs().clone(),
        };
        let reply = self.crypto().generate_data_key(request).await?.into_inner();
        Ok(DataKey {
            key_id: reply.key_id,
            key_version: reply.key_version,
            plaintext: take_secret(reply.plaintext),
            ciphertext_blob: reply.ciphertext_blob,
        })
    }

    /// Opens a data key's ciphertext blob. Where `key_id` is given, a blob of another key is refused.
    pub async fn decrypt_data_key(
        &self,
        ciphertext_blob: &[u8],
        context: &EncryptionContext,
        key_id: Option<&str>,
    ) -> Result<OpenedDataKey, Error> {
        let request = kms::DecryptRequest {
            ciphertext_blob: Bytes::copy_from_slice(ciphertext_blob),
            encryption_context: context.pairs().clone(),
            key_id: key_id.unwrap_or_default().to_owned(),
        };
        let reply = self.crypto().decrypt(request).await?.into_inner();
        let plaintext = take_secret(reply.plaintext);
        Ok(OpenedDataKey { key_id: reply.key_id, key_version: reply.key_version, plaintext })
    }
}

/// Takes a secret out of a decoded message and wipes what it was decoded into, where nobody else holds that.
pub fn take_secret(bytes: Bytes) -> SecretBytes {
    let secret = SecretBytes::copy_from(&bytes);
    if let Ok(mut decoded) = bytes.try_into_mut() {
        decoded.zeroize();
    }
    secret
}

/// As the wire takes a secret: wiped when its last holder drops it.
pub fn give_secret(secret: SecretBytes) -> Bytes {
    struct Holder(SecretBytes);
    impl AsRef<[u8]> for Holder {
        fn as_ref(&self) -> &[u8] {
            self.0.expose()
        }
    }
    Bytes::from_owner(Holder(secret))
}

/// Puts the token and the deadline on each request.
#[derive(Clone)]
pub struct Attach {
    authorization: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Interceptor for Attach {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(timeout) = self.timeout.filter(|_| !request.metadata().contains_key("grpc-timeout")) {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

impl std::fmt::Debug for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attach").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_attached_as_sensitive_and_never_printed() {
        let options = Options { token: Some(SecretBytes::copy_from(b"sr.secret")), ..Options::new("127.0.0.1:1") };
        let mut attach = Attach {
            authorization: options::authorization(options.token.as_ref()).unwrap(),
            timeout: Some(options.timeout),
        };
        let request = attach.call(tonic::Request::new(())).unwrap();
        let value = request.metadata().get("authorization").unwrap();
        assert_eq!((value.as_bytes(), value.is_sensitive()), (&b"Bearer sr.secret"[..], true));
        assert!(request.metadata().contains_key("grpc-timeout"));
        for printed in [format!("{options:?}"), format!("{attach:?}"), format!("{:?}", request.metadata())] {
            assert!(!printed.contains("secret"), "{printed}");
        }
    }

    #[test]
    fn a_deadline_of_the_callers_own_stands() {
        let mut attach = Attach { authorization: None, timeout: Some(Duration::from_secs(30)) };
        let mut request = tonic::Request::new(());
        request.set_timeout(Duration::from_millis(5));
        let own = request.metadata().get("grpc-timeout").unwrap().clone();
        let request = attach.call(request).unwrap();
        assert_eq!(request.metadata().get("grpc-timeout"), Some(&own));
        assert!(!request.metadata().contains_key("authorization"));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused() {
        for token in [&b""[..], b"line\nbreak", b"nul\0", "ü".as_bytes(), b"a b"] {
            let options = Options { token: Some(SecretBytes::copy_from(token)), ..Options::new("127.0.0.1:1") };
            assert!(matches!(options::authorization(options.token.as_ref()), Err(Error::Token)), "{token:?}");
        }
    }
}
