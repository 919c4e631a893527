//! TLS for clients: certificate files that can be read again, client certificates as an option.

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use envelope::Timestamp;
use identity::Standing;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ClientCertificates, Tls};

/// The server's certificate, exchanged while it serves.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub fn load(files: &Tls) -> Result<Arc<Self>> {
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Arc::new(Self { files: files.clone(), current }))
    }

    /// Reads the files again; what was there goes on where they are not sound.
    pub fn reload(&self) -> Result<()> {
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// TLS 1.3 and 1.2, h2 and HTTP/1.1 by ALPN.
    pub fn server_config(self: &Arc<Self>) -> Result<Accepts> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let known = self.files.client_ca.as_deref().map(|path| verifier(path, &provider)).transpose()?;
        let (builder, vouches) = match (self.files.client_certificates, known) {
            (ClientCertificates::Any, known) => {
                let shown = Arc::new(AnyShown { algorithms: provider.signature_verification_algorithms });
                (builder.with_client_cert_verifier(shown), Vouches::After(known))
            }
            (ClientCertificates::Verified, Some(known)) => {
                (builder.with_client_cert_verifier(known), Vouches::InHandshake)
            }
            (ClientCertificates::Verified, None) => (builder.with_no_client_auth(), Vouches::InHandshake),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.max_early_data_size = 0;
        Ok(Accepts { config: Arc::new(config), vouches })
    }
}

/// How connections are taken, and who vouches for client certificates.
#[derive(Debug, Clone)]
pub struct Accepts {
    pub config: Arc<ServerConfig>,
    pub(crate) vouches: Vouches,
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

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
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
