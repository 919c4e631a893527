//! TLS for clients: files that are exchanged while it serves, client certificates as an option.
//!
//! Always: what replaces the files counts for connections that are made from then on, and where it is not sound, for none.

use anyhow::{Context as _, Result};
use arc_swap::{ArcSwap, Guard};
use client::{Followed, LOOKS_EVERY};
use envelope::Timestamp;
use identity::Standing;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

use crate::config::{ClientCertificates, Tls};

/// The server's certificate and its clients' authorities, exchanged while it serves.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    followed: Mutex<Followed>,
    current: ArcSwap<Accepts>,
}

impl Certificate {
    pub fn load(files: &Tls) -> Result<Arc<Self>> {
        let paths = [&files.certificate, &files.key].into_iter().chain(&files.client_ca);
        let followed = Mutex::new(Followed::new(paths));
        let current = ArcSwap::from_pointee(Accepts::read(files)?);
        Ok(Arc::new(Self { files: files.clone(), followed, current }))
    }

    /// Reads the files again; what was there goes on where they are not sound.
    pub fn reload(&self) -> Result<()> {
        self.current.store(Arc::new(Accepts::read(&self.files)?));
        Ok(())
    }

    /// As [`Self::reload`], at SIGHUP.
    pub fn reload_as_asked(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the certificate was not read again; the old one stays")
            }
        }
    }

    /// Takes what replaces the files, as long as what this gives is held. Within a runtime.
    pub fn followed(self: Arc<Self>) -> JoinSet<()> {
        let mut following = JoinSet::new();
        following.spawn(async move {
            loop {
                tokio::time::sleep(LOOKS_EVERY).await;
                self.look();
            }
        });
        following
    }

    fn look(&self) {
        match self.followed.lock().unwrap_or_else(PoisonError::into_inner).look(|| self.reload()) {
            None => {}
            Some(Ok(())) => tracing::info!("the certificate was replaced, and read again"),
            Some(Err(error)) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the certificate was replaced by what is not sound: the old one stays");
            }
        }
    }

    /// For a connection that is made now.
    pub(crate) fn accepts(&self) -> Guard<Arc<Accepts>> {
        self.current.load()
    }
}

/// How connections are taken, and who vouches for client certificates.
#[derive(Debug, Clone)]
pub(crate) struct Accepts {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) vouches: Vouches,
}

impl Accepts {
    /// TLS 1.3 and 1.2, h2 and HTTP/1.1 by ALPN. No session is resumed that was begun by other files.
    fn read(files: &Tls) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let known = files.client_ca.as_deref().map(|path| verifier(path, &provider)).transpose()?;
        let (builder, vouches) = match (files.client_certificates, known) {
            (ClientCertificates::Any, known) => {
                let shown = Arc::new(AnyShown { algorithms: provider.signature_verification_algorithms });
                (builder.with_client_cert_verifier(shown), Vouches::After(known))
            }
            (ClientCertificates::Verified, Some(known)) => {
                (builder.with_client_cert_verifier(known), Vouches::InHandshake)
            }
            (ClientCertificates::Verified, None) => (builder.with_no_client_auth(), Vouches::InHandshake),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(read(files)?)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config), vouches })
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Vouches {
    /// With what is not verified there is no connection.
    InHandshake,
    /// Any may be shown; this tells which are verified. `None`: nobody vouches for any.
    After(Option<Arc<dyn ClientCertVerifier>>),
}

impl Vouches {
    /// Of a chain whose holder has the first one's key.
    pub(crate) fn standing(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Standing {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
        match (self, chain.split_first()) {
            (Self::InHandshake, _) => Standing::Verified,
            (Self::After(Some(known)), Some((own, above))) => {
                let verified = known.verify_client_cert(own, above, now).is_ok();
                if verified { Standing::Verified } else { Standing::Shown }
            }
            (Self::After(_), _) => Standing::Shown,
        }
    }
}

/// Takes any certificate whose key the other end has, and says nothing of who that is: [`Vouches`] does.
#[derive(Debug)]
struct AnyShown {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyShown {
    /// None, so that clients do not keep back what is of no authority that they are told of.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, own, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, own, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verifier(authorities: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    Ok(verifier.allow_unauthenticated().build()?)
}

fn read(files: &Tls) -> Result<CertifiedKey> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{} holds no PEM private key", files.key.display()))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).with_context(|| {
        format!("{} and {} do not belong together", files.certificate.display(), files.key.display())
    })?;
    Ok(pair)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    read().with_context(|| format!("{} holds no PEM certificates", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    fn authority() -> (Issuer<'static, KeyPair>, String) {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    }

    /// The certificate that a client who believes `ca` is shown, where there comes to be a connection.
    fn shown(certificate: &Certificate, ca: &str) -> Option<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(&certificate.accepts().config)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut flight.as_slice()).unwrap();
            server.process_new_packets().ok()?;
            let mut flight = Vec::new();
            server.write_tls(&mut flight).unwrap();
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets().ok()?;
        }
        client.peer_certificates().and_then(|chain| chain.first().cloned()).map(CertificateDer::into_owned)
    }

    #[test]
    fn what_replaces_the_files_is_shown_and_what_is_broken_or_half_written_is_not() {
        let (issuer, ca) = authority();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |name: &str, text: &str| {
            std::fs::write(path("new"), text).unwrap();
            std::fs::rename(path("new"), path(name)).unwrap();
        };
        let pairs = [0, 1, 2].map(|_| {
            let key = KeyPair::generate().unwrap();
            let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
            (own.pem(), key.serialize_pem(), own.der().clone())
        });
        // one file may hold both
        put("both", &[pairs[0].0.as_str(), pairs[0].1.as_str()].concat());
        put("key", "");
        let files = |key: &str| Tls {
            certificate: path("both"),
            key: path(key),
            client_ca: None,
            client_certificates: ClientCertificates::Verified,
        };
        assert!(Certificate::load(&files("key")).is_err());
        let certificate = Certificate::load(&files("both")).unwrap();
        let now = || shown(&certificate, &ca).unwrap();
        assert_eq!(now(), pairs[0].2);
        for (text, expected) in [
            (pairs[1].0.clone() + &pairs[0].1, 0),
            (pairs[1].0.clone(), 0),
            (pairs[1].0.clone() + &pairs[1].1, 1),
            (String::new(), 1),
            (pairs[2].0.clone() + &pairs[2].1, 2),
        ] {
            put("both", &text);
            certificate.look();
            assert_eq!(now(), pairs[expected].2, "{text}");
        }
        assert!(shown(&certificate, &authority().1).is_none(), "another authority's");
    }

    #[test]
    fn other_authorities_of_clients_are_taken_while_it_serves() {
        let ((own, own_pem), (_, other_pem)) = (authority(), authority());
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &own).unwrap();
        std::fs::write(path("both"), leaf.pem() + &key.serialize_pem()).unwrap();
        std::fs::write(path("ca"), &other_pem).unwrap();
        let (certificate, key) = (path("both"), path("both"));
        let client_certificates = ClientCertificates::Any;
        let files = Tls { certificate, key, client_ca: Some(path("ca")), client_certificates };
        let certificate = Certificate::load(&files).unwrap();
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        for (text, expected) in [
            (&other_pem, Standing::Shown),
            (&own_pem, Standing::Verified),
            (&String::new(), Standing::Verified),
            (&other_pem, Standing::Shown),
        ] {
            std::fs::write(path("new"), text).unwrap();
            std::fs::rename(path("new"), path("ca")).unwrap();
            certificate.look();
            assert_eq!(certificate.accepts().vouches.standing(&[leaf.der().clone()], now), expected, "{text}");
        }
    }

    #[test]
    fn a_certificate_stands_for_somebody_only_by_the_listeners_own_authorities() {
        let ((own, pem), (other, _)) = (authority(), authority());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        let known = verifier(&file, &Arc::new(aws_lc_rs::default_provider())).unwrap();
        let leaf = |by: &Issuer<'_, KeyPair>, end: i32| {
            let mut params = CertificateParams::default();
            params.not_after = date_time_ymd(end, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
        };
        let (after, nobody) = (Vouches::After(Some(known)), Vouches::After(None));
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        for (vouches, chain, standing) in [
            (&after, vec![leaf(&own, 2030)], Standing::Verified),
            (&after, vec![leaf(&own, 2020)], Standing::Shown),
            (&after, vec![leaf(&other, 2030)], Standing::Shown),
            (&after, vec![leaf(&other, 2030), leaf(&own, 2030)], Standing::Shown),
            (&after, vec![], Standing::Shown),
            (&nobody, vec![leaf(&own, 2030)], Standing::Shown),
            (&Vouches::InHandshake, vec![leaf(&own, 2030)], Standing::Verified),
        ] {
            assert_eq!(vouches.standing(&chain, now), standing);
        }
    }
}
