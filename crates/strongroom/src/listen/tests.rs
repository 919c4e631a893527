//! Connections as peers make them, byte for byte.

use super::*;
use crate::config::Tls;
use crate::cores::Cores;
use crate::tls::Certificate;
use api::Peer;
use envelope::{ManualClock, Timestamp};
use futures_util::StreamExt as _;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

const LIMITS: Limits =
    Limits { connections: 3, streams: 8, handshake_secs: 1, idle_secs: 60, max_age_secs: 60, threads: 1 };

fn start(cores: &Cores) -> Listener {
    async fn panics() {
        panic!("a defect of a handler");
    }
    let routes = || {
        axum::Router::new()
            .route("/", axum::routing::get(|| async { "ok" }))
            .route("/defect", axum::routing::get(panics))
    };
    let rooms = cores.handles().iter().map(|core| (core.clone(), routes())).collect();
    Listener::start("127.0.0.1:0".parse().unwrap(), None, &LIMITS, rooms).unwrap()
}

/// What the listener answers on a connection of its own; empty where it cuts it.
fn ask(listener: &Listener, path: &str) -> String {
    let mut stream = TcpStream::connect(listener.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn whoever_connects_and_says_nothing_does_not_keep_others_out() {
    let cores = Cores::start(1).unwrap();
    let listener = start(&cores);
    // nothing, the beginning of HTTP/2's preface, the beginning of a request
    let _silent: Vec<_> = ["", "PRI * HT", "GET / HTTP/1.1\r\nho"]
        .map(|begun| {
            let mut stream = TcpStream::connect(listener.local_addr()).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .into();
    let began = Instant::now();
    while !ask(&listener, "/").ends_with("ok") {
        assert!(began.elapsed() < Duration::from_secs(4), "the silent ones are still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    cores.stop();
}

#[test]
fn a_request_that_is_shorter_than_a_preface_has_its_time() {
    async fn late() -> &'static str {
        tokio::time::sleep(Duration::from_secs(LIMITS.handshake_secs * 2)).await;
        "ok"
    }
    let cores = Cores::start(1).unwrap();
    let routes = axum::Router::new().route("/", axum::routing::get(late));
    let rooms = cores.handles().iter().map(|core| (core.clone(), routes.clone())).collect();
    let listener = Listener::start("127.0.0.1:0".parse().unwrap(), None, &LIMITS, rooms).unwrap();
    let mut stream = connect(&listener);
    let request = b"GET / HTTP/1.0\r\n\r\n";
    assert!(request.len() < PREFACE_BYTES);
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok"), "{answer:?}");
    cores.stop();
}

#[test]
fn a_handler_that_panics_costs_its_connection_and_no_more() {
    let cores = Cores::start(1).unwrap();
    let listener = start(&cores);
    for _ in 0..5 {
        assert_eq!(ask(&listener, "/defect"), "");
    }
    assert!(ask(&listener, "/").ends_with("ok"), "each panic has kept its place");
    cores.stop();
}

/// A peer that speaks HTTP/2 (RFC 9113) in frames of its own.
struct H2<S> {
    stream: S,
    next: u32,
    /// `GOAWAY` was read.
    told_to_go: bool,
    acknowledges: bool,
}

impl<S: Read + Write> H2<S> {
    fn new(mut stream: S) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        Self { stream, next: 1, told_to_go: false, acknowledges: true }
    }

    /// GET, from HPACK's static table (RFC 7541 appendix A) but for the path. The stream's number.
    fn ask(&mut self, path: &str) -> u32 {
        let stream = self.next;
        self.next += 2;
        let length = u8::try_from(path.len()).unwrap();
        let block = [&[0x82, 0x86, 0x04, length][..], path.as_bytes(), &[0x41, 1, b'x']].concat();
        let head = [&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5][..], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[head, block].concat()).unwrap();
        stream
    }

    /// Type, flags, stream and payload of the next frame; none where the connection has ended.
    fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        self.told_to_go |= kind == 7;
        let unanswered = matches!((kind, flags), (4 | 6, 0)) && self.acknowledges;
        if unanswered {
            let answer = if kind == 6 { payload.clone() } else { Vec::new() };
            let head = [0, 0, u8::try_from(answer.len()).unwrap(), kind, 1, 0, 0, 0, 0];
            // the other end may have gone
            let _ = self.stream.write_all(&[&head[..], &answer].concat());
        }
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// What is answered on a stream; none where it is never answered to its end.
    fn answer(&mut self, asked: u32) -> Option<String> {
        let mut answer = String::new();
        loop {
            let (kind, flags, stream, payload) = self.frame()?;
            if kind == 0 && stream == asked {
                answer.push_str(std::str::from_utf8(&payload).unwrap());
            }
            if kind <= 1 && stream == asked && flags & 1 == 1 {
                return Some(answer);
            }
        }
    }

    fn get(&mut self, path: &str) -> Option<String> {
        let asked = self.ask(path);
        self.answer(asked)
    }

    /// Until the other end has closed; whether it said GOAWAY before.
    fn closed(&mut self) -> bool {
        while self.frame().is_some() {}
        self.told_to_go
    }
}

async fn who(request: Request<axum::body::Body>) -> String {
    let peer = request.extensions().get::<Arc<Peer>>().unwrap();
    peer.certificate.as_ref().map_or("nobody".to_owned(), |shown| shown.common_name.clone().unwrap())
}

/// Answers in pieces, one every 300 ms.
async fn slow(axum::extract::Path(pieces): axum::extract::Path<u32>) -> axum::body::Body {
    let pieces = futures_util::stream::iter(0..pieces).then(async |piece| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, Infallible>(piece.to_string())
    });
    axum::body::Body::from_stream(pieces.boxed())
}

struct Life<'a> {
    idle_secs: u64,
    max_age_secs: u64,
    grace: Duration,
    clock: &'a ManualClock,
    tls: Option<&'a Path>,
}

fn live(cores: &Cores, life: &Life<'_>) -> Listener {
    let limits = Limits { idle_secs: life.idle_secs, max_age_secs: life.max_age_secs, connections: 100, ..LIMITS };
    let tls = life.tls.map(|folder| {
        let [certificate, key, client_ca] = ["server.pem", "server-key.pem", "ca.pem"].map(|name| folder.join(name));
        Certificate::load(&Tls {
            certificate,
            key,
            client_ca: Some(client_ca),
            client_certificates: Default::default(),
        })
        .unwrap()
    });
    let routes =
        axum::Router::new().route("/", axum::routing::get(who)).route("/slow/{pieces}", axum::routing::get(slow));
    let rooms = cores.handles().iter().map(|core| (core.clone(), routes.clone())).collect();
    let clock: Arc<dyn Clock> = Arc::new(life.clock.clone());
    Listener::start_with("127.0.0.1:0".parse().unwrap(), tls, (&limits, life.grace, clock), rooms).unwrap()
}

fn connect(listener: &Listener) -> TcpStream {
    let stream = TcpStream::connect(listener.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn a_connection_on_which_nothing_is_asked_ends_and_one_in_use_does_not() {
    let cores = Cores::start(1).unwrap();
    let clock = ManualClock::default();
    let grace = Duration::from_millis(100);
    let listener = live(&cores, &Life { idle_secs: 1, max_age_secs: 60, grace, clock: &clock, tls: None });
    let began = Instant::now();
    let (mut idle, mut used, mut streams) =
        (H2::new(connect(&listener)), H2::new(connect(&listener)), H2::new(connect(&listener)));
    let streamed = streams.ask("/slow/12");
    while began.elapsed() < Duration::from_millis(3500) {
        assert_eq!(used.get("/").as_deref(), Some("nobody"));
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(streams.answer(streamed).as_deref(), Some("01234567891011"), "a reply is longer than the limit");
    assert!(idle.closed(), "told before it was closed");
    assert!(used.closed() && streams.closed(), "once nothing is asked, they end too");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cores.stop();
}

#[test]
fn an_old_connection_ends_though_it_is_in_use_and_what_has_begun_is_answered() {
    let cores = Cores::start(1).unwrap();
    let clock = ManualClock::default();
    let grace = Duration::from_millis(1500);
    let listener = live(&cores, &Life { idle_secs: 60, max_age_secs: 2, grace, clock: &clock, tls: None });
    let began = Instant::now();
    let (mut used, mut endless) = (H2::new(connect(&listener)), H2::new(connect(&listener)));
    let never_ends = endless.ask("/slow/1000");
    let mut answered = 0;
    while !used.told_to_go {
        assert_eq!(used.get("/slow/2").as_deref(), Some("01"), "after {answered}");
        answered += 1;
        assert!(began.elapsed() < Duration::from_secs(4), "it goes on and on");
    }
    assert!(answered >= 2);
    assert!(used.closed());
    assert_eq!(endless.answer(never_ends), None, "cut");
    assert!(endless.told_to_go);
    assert!((3..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(H2::new(connect(&listener)).get("/").as_deref(), Some("nobody"), "others are taken");
    cores.stop();
}

/// CA, server and a client called `web`.
fn certificates(folder: &Path) -> rustls::ClientConfig {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&key).unwrap();
    let issuer = Issuer::new(ca, key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    for (name, pem) in
        [("ca.pem", root.pem()), ("server.pem", server.pem()), ("server-key.pem", server_key.serialize_pem())]
    {
        std::fs::write(folder.join(name), pem).unwrap();
    }
    let client_key = KeyPair::generate().unwrap();
    let mut client = CertificateParams::default();
    client.distinguished_name = rcgen::DistinguishedName::new();
    client.distinguished_name.push(DnType::CommonName, "web");
    client.not_after = rcgen::date_time_ymd(2999, 12, 31);
    let client = client.signed_by(&client_key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[test]
fn a_certificate_that_has_ended_since_the_handshake_stands_for_nobody_and_its_connection_ends() {
    // 2999-12-31T00:00:00Z, RFC 5280 §4.1.2.5: valid to the end of that second
    const NOT_AFTER: u64 = 32_503_593_600_000;
    let folder = tempfile::tempdir().unwrap();
    let config = Arc::new(certificates(folder.path()));
    let cores = Cores::start(1).unwrap();
    let clock = ManualClock::at(Timestamp::from_unix_millis(NOT_AFTER - 1000));
    let grace = Duration::from_secs(10);
    let life = Life { idle_secs: 60, max_age_secs: 60, grace, clock: &clock, tls: Some(folder.path()) };
    let listener = live(&cores, &life);
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let client = rustls::ClientConnection::new(config, name).unwrap();
    let mut peer = H2::new(rustls::StreamOwned::new(client, connect(&listener)));
    for at in [NOT_AFTER - 1000, NOT_AFTER, NOT_AFTER + 999] {
        clock.set(Timestamp::from_unix_millis(at));
        assert_eq!(peer.get("/").as_deref(), Some("web"), "{at}");
    }
    assert!(!peer.told_to_go);
    // until it answers the ping that comes with GOAWAY, it may not have heard of it
    peer.acknowledges = false;
    clock.set(Timestamp::from_unix_millis(NOT_AFTER + 1000));
    while !peer.told_to_go {
        peer.frame().unwrap();
    }
    assert_eq!(peer.get("/").as_deref(), Some("nobody"));
    assert!(peer.closed());
    cores.stop();
}
