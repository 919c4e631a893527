//! The connection: TCP, TLS by rustls with h2 by ALPN, then tonic's channel on top.

use crate::address::Address;
use crate::{ClientCertificate, Error, Options};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why no connection came about. Found again in the chain of what tonic makes of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Tcp(#[source] std::io::Error),
    #[error("the name resolves to no address on this machine")]
    NotLoopback,
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Tls(#[source] std::io::Error),
    #[error("the peer does not speak HTTP/2")]
    NotHttp2,
}

pub(crate) async fn channel(options: &Options) -> Result<Channel, Error> {
    let address = Address::parse(&options.address)?;
    let malformed = |_| Error::Address { address: options.address.clone() };
    let tls = if address.tls { Some(TlsConnector::from(tls_config(options)?)) } else { None };
    // the connector does TLS itself, so tonic is told of a plain endpoint and of the true origin
    let origin: Uri = address.origin().parse().map_err(|_| Error::Address { address: options.address.clone() })?;
    let endpoint = Endpoint::from_shared(format!("http://{}", address.authority()))
        .map_err(malformed)?
        .origin(origin)
        .user_agent(concat!("strongroom-client/", env!("CARGO_PKG_VERSION")))
        .map_err(malformed)?
        .keep_alive_timeout(KEEP_ALIVE)
        .http2_keep_alive_interval(KEEP_ALIVE);
    let within = options.connect_timeout;
    let target = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, tls) = (target.clone(), tls.clone());
        async move {
            let stream = tokio::time::timeout(within, open(&target, tls)).await;
            stream.unwrap_or(Err(Failure::TimedOut(within))).map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| Error::from_transport(address.origin(), error))
}

async fn open(address: &Address, tls: Option<TlsConnector>) -> Result<Box<dyn Io>, Failure> {
    let Some(tls) = tls else { return Ok(Box::new(open_loopback(address).await?)) };
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(Failure::Tcp)?;
    stream.set_nodelay(true).map_err(Failure::Tcp)?;
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| Failure::Tls(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    let stream = tls.connect(name, stream).await.map_err(Failure::Tls)?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(Box::new(stream)),
        _ => Err(Failure::NotHttp2),
    }
}

/// In plaintext only to addresses that are loopback, whatever a resolver says of `localhost`.
async fn open_loopback(address: &Address) -> Result<TcpStream, Failure> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(Failure::Tcp)?;
    let mut last = Failure::NotLoopback;
    for address in found.filter(|address| address.ip().is_loopback()) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(Failure::Tcp)?;
                return Ok(stream);
            }
            Err(error) => last = Failure::Tcp(error),
        }
    }
    Err(last)
}

fn tls_config(options: &Options) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_root_certificates(authorities(options.ca.as_deref())?);
    let mut config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|source| Error::Pem {
                path: key.clone(),
                what: "a private key",
                source,
            })?;
            builder.with_client_auth_cert(certificates(chain)?, private).map_err(Error::Tls)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Those of the file, or else those that the system trusts.
pub fn authorities(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(Error::Tls)?;
            }
        }
        None => {
            let bundle = BUNDLES.iter().map(Path::new).find(|path| path.exists()).ok_or(Error::NoAuthorities)?;
            roots.add_parsable_certificates(certificates(bundle)?);
        }
    }
    if roots.is_empty() { Err(Error::NoAuthorities) } else { Ok(roots) }
}

/// Of the client's own certificate.
pub(crate) fn thumbprint(options: &Options) -> Result<Option<[u8; 32]>, Error> {
    let Some(ClientCertificate { chain, .. }) = &options.certificate else { return Ok(None) };
    Ok(certificates(chain)?.first().map(|own| Sha256::digest(own).into()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source| Error::Pem { path: path.to_owned(), what: "certificates", source };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if read.is_empty() { Err(failed(rustls_pki_types::pem::Error::NoItemsFound)) } else { Ok(read) }
}

/// Where systems keep the authorities that they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// A server that answers no ping within this is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
