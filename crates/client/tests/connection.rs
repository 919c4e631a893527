//! Connections against real TLS listeners: who is trusted, how long is waited, which certificate is shown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use client::{Client, ClientCertificate, Error, Options, SecretBytes};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// An authority that signed a server for localhost and a client, as files.
struct Files {
    _folder: tempfile::TempDir,
    dir: PathBuf,
}

impl Files {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        for name in ["localhost", "client"] {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
            std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        }
        Self { _folder: folder, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn server(&self, alpn: &[&[u8]]) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(
                vec![certificate(&self.path("localhost.pem"))],
                PrivateKeyDer::from_pem_file(self.path("localhost-key.pem")).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Serves one handshake; tells which certificate the client showed, and stays until the end of the test.
async fn listen(acceptor: TlsAcceptor) -> (u16, oneshot::Receiver<Option<CertificateDer<'static>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(stream) = acceptor.accept(stream).await {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
            let _ = tell.send(shown.map(CertificateDer::into_owned));
            std::future::pending::<()>().await;
        }
    });
    (port, told)
}

fn options(port: u16, ca: PathBuf) -> Options {
    Options {
        ca: Some(ca),
        token: Some(SecretBytes::copy_from(b"sr.token")),
        connect_timeout: Duration::from_secs(5),
        ..Options::new(format!("localhost:{port}"))
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_that_was_named_and_no_other() {
    let (files, others) = (Files::make(), Files::make());
    let (port, _) = listen(files.server(&[b"h2"])).await;
    Client::connect(options(port, files.path("ca.pem"))).await.unwrap();
    for (what, address, ca) in
        [("another authority", "localhost", others.path("ca.pem")), ("another name", "127.0.0.1", files.path("ca.pem"))]
    {
        let (port, _) = listen(files.server(&[b"h2"])).await;
        let options = Options { address: format!("{address}:{port}"), ..options(port, ca) };
        let error = Client::connect(options).await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{what}: {error:?}");
        assert!(error.advice().contains("STRONGROOM_CACERT"));
    }
}

#[tokio::test]
async fn a_peer_without_http_2_is_not_ours() {
    let files = Files::make();
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let (port, _) = listen(files.server(alpn)).await;
        let error = Client::connect(options(port, files.path("ca.pem"))).await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_was_named() {
    let files = Files::make();
    let named = ClientCertificate { chain: files.path("client.pem"), key: files.path("client-key.pem") };
    for (given, shown) in [(Some(named), Some(certificate(&files.path("client.pem")))), (None, None)] {
        let (port, told) = listen(files.server(&[b"h2"])).await;
        let options = Options { certificate: given, ..options(port, files.path("ca.pem")) };
        let _client = Client::connect(options).await.unwrap();
        assert_eq!(told.await.unwrap(), shown);
    }
}

/// Serves handshakes; tells which certificate was shown in each, and keeps the connections until it is told to close them.
async fn listen_on(acceptor: TlsAcceptor) -> (u16, mpsc::Receiver<CertificateDer<'static>>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel(8);
    let close = Arc::new(Notify::new());
    let closing = Arc::clone(&close);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                () = closing.notified() => {
                    open.clear();
                    continue;
                }
            };
            let stream = acceptor.accept(stream).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
            tell.send(shown).await.unwrap();
            open.push(stream);
        }
    });
    (port, told, close)
}

#[tokio::test]
async fn a_client_shows_what_replaces_its_certificate_on_another_connection_and_never_what_is_half_written() {
    let files = Files::make();
    let [first, second] = ["client", "localhost"].map(|name| {
        let read = |name: String| std::fs::read_to_string(files.path(&name)).unwrap();
        (read(format!("{name}.pem")), read(format!("{name}-key.pem")), certificate(&files.path(&format!("{name}.pem"))))
    });
    let own = files.path("own.pem");
    let put = |texts: &[&String]| {
        let whole: String = texts.iter().map(|text| text.as_str()).collect();
        std::fs::write(files.path("new"), whole).unwrap();
        std::fs::rename(files.path("new"), &own).unwrap();
    };
    put(&[&first.0, &first.1]);
    let (port, mut told, close) = listen_on(files.server(&[b"h2"])).await;
    let shown = Some(ClientCertificate { chain: own.clone(), key: own.clone() });
    let options = Options { certificate: shown, ..options(port, files.path("ca.pem")) };
    let client = Client::connect(options).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), first.2);
    // nobody answers: what counts is the connection that it is asked on
    let asked = async |until: &mut mpsc::Receiver<CertificateDer<'static>>, within: Duration| {
        let asking = async {
            loop {
                let mut operator = client.operator();
                let call = operator.status(proto::operator::StatusRequest {});
                let _unanswered = tokio::time::timeout(Duration::from_millis(100), call).await;
            }
        };
        tokio::select! {
            shown = until.recv() => shown,
            () = asking => None,
            () = tokio::time::sleep(within) => None,
        }
    };
    put(&[&second.0, &first.1]);
    assert_eq!(asked(&mut told, client::LOOKS_EVERY * 2).await, None, "the connection stands");
    put(&[&second.0, &second.1]);
    assert_eq!(asked(&mut told, Duration::from_secs(20)).await, Some(second.2));
    // closed by the other end: no look is waited for
    put(&[&first.0, &first.1]);
    close.notify_one();
    assert_eq!(asked(&mut told, Duration::from_secs(20)).await, Some(first.2));
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_unreachable() {
    let files = Files::make();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for port in [silent.local_addr().unwrap().port(), free] {
        let options = Options { connect_timeout: Duration::from_millis(300), ..options(port, files.path("ca.pem")) };
        let error = Client::connect(options).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn files_that_are_not_pem_are_named() {
    let files = Files::make();
    std::fs::write(files.path("text"), "no certificate").unwrap();
    let key = |chain: &str, key: &str| Some(ClientCertificate { chain: files.path(chain), key: files.path(key) });
    for (named, ca, certificate) in [
        ("text", "text", None),
        ("nowhere", "nowhere", None),
        ("text", "ca.pem", key("text", "client-key.pem")),
        ("client.pem", "ca.pem", key("client.pem", "client.pem")),
    ] {
        let options = Options { certificate, ..options(1, files.path(ca)) };
        match Client::connect(options).await {
            Err(Error::Pem { path, .. }) => assert_eq!(path, files.path(named)),
            outcome => panic!("{named}: {outcome:?}"),
        }
    }
    let mixed = Options { certificate: key("client.pem", "localhost-key.pem"), ..options(1, files.path("ca.pem")) };
    assert!(matches!(Client::connect(mixed).await, Err(Error::Tls(_))));
}
