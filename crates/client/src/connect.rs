//! The connection: TCP, TLS by rustls with h2 by ALPN, then tonic's channel on top.

use crate::address::Address;
use crate::{ClientCertificate, Error, Options};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

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

/// How a server is reached, and what is believed and shown there.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    address: Address,
    ca: Option<PathBuf>,
    pub(crate) certificate: Option<ClientCertificate>,
    within: Duration,
}

/// What a connection is made with, as files were read.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// Nothing: without TLS, on this machine.
    tls: Option<Arc<ClientConfig>>,
    /// SHA-256 of the client's own certificate.
    pub(crate) thumbprint: Option<[u8; 32]>,
}

impl Route {
    pub(crate) fn of(options: &Options) -> Result<Self, Error> {
        let (address, certificate) = (Address::parse(&options.address)?, options.certificate.clone());
        Ok(Self { address, ca: options.ca.clone(), certificate, within: options.connect_timeout })
    }

    /// Reads the files as they are now. Nothing is remembered between two of these: a session that was begun beside one
    /// certificate is not resumed beside another.
    pub(crate) fn shown(&self) -> Result<Shown, Error> {
        if !self.address.tls {
            return Ok(Shown { tls: None, thumbprint: None });
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(authorities(self.ca.as_deref())?);
        let (mut config, thumbprint) = match &self.certificate {
            None => (builder.with_no_client_auth(), None),
            Some(certificate) => {
                let Pair { certified, thumbprint } = certificate.read()?;
                let shown = Arc::new(SingleCertAndKey::from(certified));
                (builder.with_client_cert_resolver(shown), Some(thumbprint))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Shown { tls: Some(Arc::new(config)), thumbprint })
    }

    /// Connects now. Each connection is made with what `shown` gives then.
    pub(crate) async fn connect(&self, shown: impl FnMut() -> Shown + Send + 'static) -> Result<Channel, Error> {
        let channel = self.endpoint()?.connect_with_connector(self.connector(shown)).await;
        channel.map_err(|error| Error::from_transport(self.address.origin(), error))
    }

    /// Connects when something is asked.
    pub(crate) fn connect_lazily(&self, shown: impl FnMut() -> Shown + Send + 'static) -> Result<Channel, Error> {
        Ok(self.endpoint()?.connect_with_connector_lazy(self.connector(shown)))
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let malformed = || Error::Address { address: self.address.origin() };
        // the connector does TLS itself, so tonic is told of a plain endpoint and of the true origin
        let origin: Uri = self.address.origin().parse().map_err(|_| malformed())?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address.authority()))
            .map_err(|_| malformed())?
            .origin(origin)
            .user_agent(concat!("strongroom-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| malformed())?;
        Ok(endpoint.keep_alive_timeout(KEEP_ALIVE).http2_keep_alive_interval(KEEP_ALIVE))
    }

    fn connector(
        &self,
        mut shown: impl FnMut() -> Shown + Send + 'static,
    ) -> impl Service<Uri, Response = TokioIo<Box<dyn Io>>, Error = Failure, Future: Send + Unpin> + Send + 'static
    {
        let (target, within) = (self.address.clone(), self.within);
        tower::service_fn(move |_: Uri| {
            let (target, tls) = (target.clone(), shown().tls.map(TlsConnector::from));
            Box::pin(async move {
                let stream = tokio::time::timeout(within, open(&target, tls)).await;
                stream.unwrap_or(Err(Failure::TimedOut(within))).map(TokioIo::new)
            })
        })
    }
}

/// A chain and its key, which belong together.
struct Pair {
    certified: CertifiedKey,
    /// SHA-256 of the first certificate.
    thumbprint: [u8; 32],
}

impl ClientCertificate {
    /// By what the pair that the files hold now is known.
    pub(crate) fn thumbprint(&self) -> Result<[u8; 32], Error> {
        Ok(self.read()?.thumbprint)
    }

    fn read(&self) -> Result<Pair, Error> {
        match self.read_once() {
            // one file that holds both may be exchanged between two reads
            Err(Error::Tls(_)) => self.read_once(),
            outcome => outcome,
        }
    }

    fn read_once(&self) -> Result<Pair, Error> {
        let chain = certificates(&self.chain)?;
        let failed = |source| Error::Pem { path: self.key.clone(), what: "a private key", source };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(failed)?;
        let thumbprint = chain.first().map(Sha256::digest).unwrap_or_default().into();
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(Error::Tls)?;
        Ok(Pair { certified, thumbprint })
    }
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
