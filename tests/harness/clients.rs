//! gRPC clients that trust the development CA.

use proto::identity::identity_client::IdentityClient;
use proto::kms::crypto_client::CryptoClient;
use proto::kms::keys_client::KeysClient;
use proto::operator::operator_client::OperatorClient;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_types::StatusExt as _;

/// One connection, every service.
#[derive(Debug, Clone)]
pub struct Clients {
    pub keys: KeysClient<Channel>,
    pub crypto: CryptoClient<Channel>,
    pub identity: IdentityClient<Channel>,
    pub operator: OperatorClient<Channel>,
}

impl Clients {
    /// Connects at the first call, and again whenever the connection breaks. Inside a runtime.
    pub fn connect(addr: SocketAddr, ca: &Path) -> Self {
        let ca = Certificate::from_pem(std::fs::read(ca).unwrap());
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap();
        Self::over(&endpoint)
    }

    /// Without TLS.
    pub fn plain(addr: SocketAddr) -> Self {
        Self::over(&Endpoint::from_shared(format!("http://{addr}")).unwrap())
    }

    fn over(endpoint: &Endpoint) -> Self {
        let channel = endpoint.clone().connect_timeout(Duration::from_secs(5)).connect_lazy();
        Self {
            keys: KeysClient::new(channel.clone()),
            crypto: CryptoClient::new(channel.clone()),
            identity: IdentityClient::new(channel.clone()),
            operator: OperatorClient::new(channel),
        }
    }
}

/// The message as the token's holder sends it.
pub fn bearer<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().expect("a token is visible ASCII"));
    request
}

/// An encryption context of one pair.
pub fn context(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// The ErrorInfo's reason.
pub fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
