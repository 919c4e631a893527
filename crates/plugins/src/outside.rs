//! Requests to whoever vouches for logins: issuers, API servers, token services.
//!
//! Always: HTTP/1.1 over TLS that is verified, with the name; plain HTTP to a literal loopback address, or for answers that are
//! signed. One request, one answer, bounded in time and in bytes; connections are kept, by whom they believe.
//! Never: a redirect that is followed, a proxy, a cookie, a URL with a user in it.

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use vault::outside::{Account, Ask, Method, Outside, OutsideError, Told};
use zeroize::Zeroizing;

type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One for the whole process.
pub struct Http {
    roots: Arc<RootCertStore>,
    /// By the authorities that they believe.
    connections: Mutex<HashMap<Option<String>, Connections>>,
    accounts: Vec<AccountFiles>,
}

/// What another has made this server, and keeps in files: read anew each time.
#[derive(Debug, Clone)]
pub struct AccountFiles {
    /// To whom, and to nobody else, it is shown.
    pub url: String,
    pub token: PathBuf,
    /// PEM certificates by which that one is believed.
    pub ca: PathBuf,
}

impl Http {
    /// Where an ask names no authorities, these are believed.
    pub fn new(roots: RootCertStore) -> Self {
        Self { roots: Arc::new(roots), connections: Mutex::default(), accounts: Vec::new() }
    }

    #[must_use]
    pub fn with_accounts(self, accounts: Vec<AccountFiles>) -> Self {
        Self { accounts, ..self }
    }

    fn connections(&self, ca: Option<&String>) -> Result<Connections, OutsideError> {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&ca.cloned()) {
            return Ok(known.clone());
        }
        // authorities change now and then; those of old are of no use
        if all.len() >= TRUSTS_MAX {
            all.clear();
        }
        let made = made(match ca {
            None => Arc::clone(&self.roots),
            Some(pem) => Arc::new(authorities(pem)?),
        })?;
        all.insert(ca.cloned(), made.clone());
        Ok(made)
    }
}

fn made(roots: Arc<RootCertStore>) -> Result<Connections, OutsideError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.map_err(|_| refused("TLS cannot be set up"))?.with_root_certificates(roots).with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECTED_WITHIN));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    let mut client = Client::builder(TokioExecutor::new());
    client.pool_timer(TokioTimer::new()).pool_idle_timeout(KEPT_FOR).pool_max_idle_per_host(KEPT_MAX);
    Ok(client.build(connector))
}

fn authorities(pem: &str) -> Result<RootCertStore, OutsideError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| refused("the authorities are no PEM certificates"))?;
        roots.add(certificate).map_err(|_| refused("the authorities hold what is none"))?;
    }
    if roots.is_empty() { Err(refused("no authority is named")) } else { Ok(roots) }
}

#[async_trait::async_trait]
impl Outside for Http {
    async fn ask(&self, ask: Ask) -> Result<Told, OutsideError> {
        let within = ask.within;
        let told = tokio::time::timeout(within, self.answered(ask)).await;
        told.unwrap_or_else(|_| Err(OutsideError::Unreachable("no answer in time".to_owned())))
    }

    async fn account(&self, url: &str) -> Result<Option<Account>, OutsideError> {
        let Some(files) = self.accounts.iter().find(|files| files.url == url) else { return Ok(None) };
        let token = read(&files.token).await?;
        let ca = read(&files.ca).await?;
        Ok(Some(Account { token: Zeroizing::new(token.trim().to_owned()), ca: Some(ca.to_string()) }))
    }
}

/// A small file's text.
async fn read(path: &Path) -> Result<Zeroizing<String>, OutsideError> {
    let failed = |why: String| OutsideError::Refused(format!("{}: {why}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
    let mut bounded = file.take(FILE_BYTES_MAX as u64);
    bounded.read_to_string(&mut text).await.map_err(|error| failed(error.to_string()))?;
    if text.trim().is_empty() { Err(failed("it is empty".to_owned())) } else { Ok(text) }
}

impl Http {
    async fn answered(&self, ask: Ask) -> Result<Told, OutsideError> {
        let connections = self.connections(ask.ca.as_ref())?;
        let answer = connections.request(request(&ask)?).await.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let media_type = media_type(answer.headers().get(header::CONTENT_TYPE));
        let body = Limited::new(answer.into_body(), ask.answer_bytes_max).collect().await;
        let body = body.map_err(|error| OutsideError::Unreachable(format!("the answer: {}", last_cause(&*error))))?;
        Ok(Told { status, media_type, body: Zeroizing::new(body.to_bytes().to_vec()) })
    }
}

fn request(ask: &Ask) -> Result<Request<Full<Bytes>>, OutsideError> {
    let uri: Uri = ask.url.parse().map_err(|_| refused("no URL"))?;
    let host = uri.host().ok_or_else(|| refused("a URL without a host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(refused("a URL with a user in it"));
    }
    let here = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if here || ask.answer_is_signed => {}
        Some(_) | None => return Err(refused("no https:// URL")),
    }
    let method = match ask.method {
        Method::Get => http::Method::GET,
        Method::Post => http::Method::POST,
    };
    let mut request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, "strongroom");
    for (name, value) in &ask.headers {
        let mut value = HeaderValue::from_str(value).map_err(|_| refused("a header that is none"))?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(&ask.body))).map_err(|_| refused("no request"))
}

fn media_type(value: Option<&HeaderValue>) -> String {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn refused(why: &str) -> OutsideError {
    OutsideError::Refused(why.to_owned())
}

fn unreachable(error: &hyper_util::client::legacy::Error) -> OutsideError {
    OutsideError::Unreachable(last_cause(error))
}

/// What went wrong at the bottom, which says most; no error of these layers holds what was sent.
fn last_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

const CONNECTED_WITHIN: Duration = Duration::from_secs(3);
const KEPT_FOR: Duration = Duration::from_secs(30);
const KEPT_MAX: usize = 16;
const FILE_BYTES_MAX: usize = 64 << 10;
const TRUSTS_MAX: usize = 256;
