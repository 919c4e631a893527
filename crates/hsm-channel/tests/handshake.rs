//! Who gets a channel and who does not: both sides in one process, no socket between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use hsm_api::frame::{FRAME_BYTES_MAX, FrameWriter, decode_requests};
use hsm_api::{Request, Role};
use hsm_channel::{ALPN, FEED_BYTES_MAX, Identity, Pin, Roles, Stream, client_config, server_config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_ecdsa_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use std::sync::Arc;

#[derive(Debug)]
struct One(Pin);

impl Roles for One {
    fn role(&self, pin: &Pin) -> Option<Role> {
        self.0.matches(pin).then_some(Role::User)
    }
}

struct Pair {
    user: Identity,
    boundary: Identity,
}

impl Pair {
    fn new() -> Self {
        Self { user: Identity::generate().unwrap(), boundary: Identity::generate().unwrap() }
    }

    fn client(&self) -> Arc<ClientConfig> {
        client_config(&self.user, self.boundary.pin()).unwrap()
    }

    fn server(&self) -> Arc<ServerConfig> {
        server_config(&self.boundary, Arc::new(One(self.user.pin()))).unwrap()
    }
}

/// Carries bytes to and fro until neither side has any, or one of them refuses; alerts are delivered too.
fn pump(client: &mut Stream, server: &mut Stream) -> (Result<(), String>, Result<(), String>) {
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    loop {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        if at_server.is_ok() {
            at_server = server.feed(&up).map_err(|error| format!("{error:?}"));
        }
        while server.wants_write() {
            server.write_tls(&mut down).unwrap();
        }
        if at_client.is_ok() {
            at_client = client.feed(&down).map_err(|error| format!("{error:?}"));
        }
        if up.is_empty() && down.is_empty() {
            return (at_client, at_server);
        }
    }
}

fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Stream, Stream, [Result<(), String>; 2]) {
    let (mut client, mut server) = (Stream::client(client).unwrap(), Stream::server(server).unwrap());
    let (at_client, at_server) = pump(&mut client, &mut server);
    (client, server, [at_client, at_server])
}

#[test]
fn two_that_know_each_other_exchange_frames() {
    let pair = Pair::new();
    let (mut client, mut server, outcomes) = meet(pair.client(), pair.server());
    assert_eq!(outcomes, [Ok(()), Ok(())]);
    assert!(server.peer().unwrap().matches(&pair.user.pin()));
    assert!(client.peer().unwrap().matches(&pair.boundary.pin()));
    for round in 0..5 {
        let mut frame = FrameWriter::default();
        while frame.push_request(round, &Request::Random { bytes: 1 }).unwrap() {}
        client.send(frame.finish()).unwrap();
        assert_eq!(client.unsent(), frame.finish().len());
        assert_eq!(pump(&mut client, &mut server), (Ok(()), Ok(())));
        assert_eq!(client.unsent(), 0);
        let taken = server.take_frame(|body| decode_requests(body).unwrap().len()).unwrap();
        assert_eq!(taken, Some(128));
        assert!(server.take_frame(|_| ()).unwrap().is_none());
    }
}

#[test]
fn the_longest_frame_passes_and_what_nobody_reads_is_bounded() {
    let pair = Pair::new();
    let (mut client, mut server, _) = meet(pair.client(), pair.server());
    let mut frame = u32::try_from(FRAME_BYTES_MAX).unwrap().to_be_bytes().to_vec();
    frame.resize(FRAME_BYTES_MAX + 4, 7);
    let mut all = Vec::new();
    for _ in 0..2 {
        client.send(&frame).unwrap();
        while client.wants_write() {
            client.write_tls(&mut all).unwrap();
        }
    }
    let mut taken = 0;
    for tls in all.chunks(FEED_BYTES_MAX) {
        while server.take_frame(|body| assert_eq!(body, &frame[4..])).unwrap().is_some() {
            taken += 1;
        }
        server.feed(tls).unwrap();
    }
    taken += usize::from(server.take_frame(|_| ()).unwrap().is_some());
    assert_eq!(taken, 2);
    client.send(&frame).unwrap();
    client.send(&frame).unwrap();
    let (_, at_server) = pump_in_chunks(&mut client, &mut server);
    assert!(at_server.is_err(), "two whole frames that nobody took");
    assert!(server.feed(&vec![0; FEED_BYTES_MAX + 1]).is_err());
}

fn pump_in_chunks(client: &mut Stream, server: &mut Stream) -> (usize, Result<(), String>) {
    let mut all = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut all).unwrap();
    }
    for tls in all.chunks(FEED_BYTES_MAX) {
        if let Err(error) = server.feed(tls) {
            return (all.len(), Err(format!("{error:?}")));
        }
    }
    (all.len(), Ok(()))
}

#[test]
fn whoever_is_not_pinned_or_does_not_speak_the_protocol_gets_no_channel() {
    let pair = Pair::new();
    let (stranger, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let client_alpn = |alpn: Vec<Vec<u8>>| {
        let mut config = (*pair.client()).clone();
        config.alpn_protocols = alpn;
        Arc::new(config)
    };
    let server_alpn = |alpn: Vec<Vec<u8>>| {
        let mut config = (*pair.server()).clone();
        config.alpn_protocols = alpn;
        Arc::new(config)
    };
    let wrong = vec![b"strongroom-hsm/2".to_vec()];
    let refused = "ApplicationVerificationFailure";
    for (name, client, server, by_client, error) in [
        ("an unknown client", client_config(&stranger, pair.boundary.pin()).unwrap(), pair.server(), false, refused),
        ("another boundary", client_config(&pair.user, other.pin()).unwrap(), pair.server(), true, refused),
        ("the client's own key", client_config(&pair.user, pair.user.pin()).unwrap(), pair.server(), true, refused),
        ("a client without a key", keyless(None), pair.server(), false, "IncorrectCertificateTypeExtension"),
        ("a client that shows none", keyless(Some(Arc::new(Nothing))), pair.server(), false, "NoCertificatesPresented"),
        ("a client of another protocol", client_alpn(wrong.clone()), pair.server(), false, "NoApplicationProtocol"),
        ("a client of no protocol", client_alpn(vec![]), pair.server(), false, "Protocol"),
        ("a boundary of another protocol", pair.client(), server_alpn(wrong), false, "NoApplicationProtocol"),
        ("a boundary of no protocol", pair.client(), server_alpn(vec![]), true, "Protocol"),
        ("a client of TLS 1.2", tls12_client(), pair.server(), false, "Tls12NotOfferedOrEnabled"),
        ("a boundary of TLS 1.2", pair.client(), tls12_server(), false, "Tls12"),
    ] {
        let (client, server, [at_client, at_server]) = meet(client, server);
        let (who, outcome) = if by_client { (&client, at_client) } else { (&server, at_server) };
        let told = outcome.expect_err(name);
        assert!(told.contains(error), "{name}: {told}");
        assert!(who.peer().is_none(), "{name}");
    }
}

#[test]
fn a_pinned_key_that_the_peer_does_not_hold_is_of_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    let thief = Identity::load_or_generate(&path).unwrap();
    let key = || {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::fs::read(&path).unwrap()));
        any_ecdsa_type(&der).unwrap()
    };
    let pair = Pair::new();
    let forged = |of: Vec<u8>| Arc::new(CertifiedKey::new(vec![CertificateDer::from(of)], key()));
    let mut client = (*pair.client()).clone();
    client.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged(shown(&pair.user))));
    let (_, server, [_, at_server]) = meet(Arc::new(client), pair.server());
    assert!(at_server.unwrap_err().contains("BadSignature"));
    assert!(server.peer().is_none());

    let mut server = (*pair.server()).clone();
    server.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(forged(shown(&pair.boundary))));
    let (client, _, [at_client, _]) = meet(pair.client(), Arc::new(server));
    assert!(at_client.unwrap_err().contains("BadSignature"));
    assert!(client.peer().is_none());
    assert!(!thief.pin().matches(&pair.user.pin()));
}

#[test]
fn any_bytes_before_and_inside_the_handshake_are_refused() {
    let pair = Pair::new();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 4096], &[22, 3, 1, 0xff, 0xff, 0, 0, 0, 0]] {
        let mut server = Stream::server(pair.server()).unwrap();
        let outcome = server.feed(garbage);
        assert!(outcome.is_err() && server.peer().is_none(), "{garbage:?}");
    }
    // one byte of the client's first flight altered, at each place
    let mut client = Stream::client(pair.client()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for at in 0..hello.len() {
        let mut server = Stream::server(pair.server()).unwrap();
        let mut altered = hello.clone();
        altered[at] ^= 0x41;
        let _refused_or_unfinished = server.feed(&altered);
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        assert!(server.peer().is_none(), "{at}");
    }
    let (mut client, mut server, _) = meet(pair.client(), pair.server());
    client.send(&[0, 0, 0, 1, 9]).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    let last = record.len() - 1;
    record[last] ^= 1;
    assert!(server.feed(&record).is_err(), "a record that was altered on its way");
}

#[test]
fn nothing_is_resumed_and_nothing_comes_early() {
    let pair = Pair::new();
    let client = pair.client();
    assert!(!client.enable_early_data);
    let server = pair.server();
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    for _ in 0..3 {
        let user = rustls::ClientConnection::new(Arc::clone(&client), ServerName::try_from("boundary").unwrap());
        let mut user = user.unwrap();
        let mut boundary = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        for _ in 0..8 {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            user.write_tls(&mut up).unwrap();
            boundary.read_tls(&mut &up[..]).unwrap();
            boundary.process_new_packets().unwrap();
            while boundary.wants_write() {
                boundary.write_tls(&mut down).unwrap();
            }
            user.read_tls(&mut &down[..]).unwrap();
            user.process_new_packets().unwrap();
        }
        assert_eq!(user.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(user.tls13_tickets_received(), 0);
        assert_eq!(boundary.alpn_protocol(), Some(ALPN));
    }
}

/// The SubjectPublicKeyInfo that an identity shows, as its peer sees it.
fn shown(identity: &Identity) -> Vec<u8> {
    let other = Identity::generate().unwrap();
    let config = client_config(identity, other.pin()).unwrap();
    let key = config.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    key.cert[0].to_vec()
}

fn keyless(resolver: Option<Arc<dyn ResolvesClientCert>>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match resolver {
        None => config.with_no_client_auth(),
        Some(resolver) => config.with_client_cert_resolver(resolver),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

fn tls12_client() -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

fn tls12_server() -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nothing));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
