//! The two servers of the empty RPC: bare tonic as everybody builds it, and our own listener, TLS and cores.

use crate::empty::Empty;
use anyhow::Result;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use strongroom::config::{Limits, Tls};
use strongroom::cores::Cores;
use strongroom::listen::Listener;
use strongroom::tls::Certificate;
use tokio::runtime::Handle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// tonic's own server with its TLS on tokio's default multi-threaded runtime.
pub(crate) fn bare(listen: SocketAddr, tls: &Path) -> Result<()> {
    let identity =
        Identity::from_pem(std::fs::read(tls.join("server.pem"))?, std::fs::read(tls.join("server-key.pem"))?);
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?.add_service(Empty);
        // what `serve` does, with the port told
        let incoming = TcpIncoming::bind(listen)?.with_nodelay(Some(true));
        ready(incoming.local_addr()?);
        Ok(server.serve_with_incoming(incoming).await?)
    })
}

/// The product's listener with the empty RPC behind it.
pub(crate) fn own(listen: SocketAddr, tls: &Path) -> Result<()> {
    let files = Tls {
        certificate: tls.join("server.pem"),
        key: tls.join("server-key.pem"),
        client_ca: None::<PathBuf>,
        client_certificates: Default::default(),
    };
    let cores = Cores::start(0)?;
    let certificate = Certificate::load(&files)?;
    let room = |core: &Handle| (core.clone(), tonic::service::Routes::new(Empty).into_axum_router());
    let rooms = cores.handles().iter().map(room).collect();
    let listener = Listener::start(listen, Some(certificate), &Limits::default(), rooms)?;
    ready(listener.local_addr());
    loop {
        std::thread::park();
    }
}

#[expect(clippy::print_stdout, reason = "the rig waits for this line")]
fn ready(listen: SocketAddr) {
    println!("ready {listen}");
}
