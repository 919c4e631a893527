//! TLS to databases: a certificate is verified, with its name, or nobody is spoken to.

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use std::sync::Arc;
use vault::engine::database::plugin::DatabaseError;

/// Believes the authorities of `ca`, which are PEM, or `roots` where there are none.
pub(super) fn client(roots: &Arc<RootCertStore>, ca: Option<&str>) -> Result<Arc<ClientConfig>, DatabaseError> {
    let refused = |why: &str| DatabaseError::Unreachable(why.to_owned());
    let roots = match ca {
        None => Arc::clone(roots),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| refused("`tls_ca` holds no PEM certificates"))?;
                roots.add(certificate).map_err(|_| refused("`tls_ca` holds no authority"))?;
            }
            Arc::new(roots)
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|_| refused("TLS cannot be set up"))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
