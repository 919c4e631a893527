//! `strongroom dev`: everything on embedded defaults, for one developer.

use crate::dev::{self, Ask, Hsm};
use anyhow::{Result, bail};
use envelope::SecretBytes;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run boundary and server on this machine, with everything made on the first run.
///
/// The data directory is made once and reused: the same keys and secrets are there again. Standard output gets one line,
/// `ready ADDR`, when the server serves. Root token and CA stand in the data directory (`root-token`, `tls/ca.pem`).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  strongroom dev
  strongroom dev --data-dir /tmp/sr --listen 127.0.0.1:0
  strongroom dev --hsm 'pkcs11:token=dev?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/tmp/pin'

Then, in another terminal:
  export STRONGROOM_CACERT=DIR/tls/ca.pem STRONGROOM_TOKEN=$(cat DIR/root-token)
  strongroom kms create-key")]
pub struct Arguments {
    /// Address and port that clients connect to; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8200")]
    pub listen: SocketAddr,
    /// Folder that keeps everything
    #[arg(long, value_name = "DIR", default_value = "strongroom-dev")]
    pub data_dir: PathBuf,
    /// Root token of the first run, for scripts on your own machine; made and written to DIR/root-token otherwise
    #[arg(long, value_name = "TOKEN")]
    pub root_token: Option<String>,
    /// `sim`, or a PKCS#11 URI (RFC 7512) with token, module-path and pin-source
    #[arg(long, value_name = "HSM", default_value = "sim")]
    pub hsm: String,
    /// PEM file of the authorities of client certificates: for tokens, SecretIDs and wrapped answers that are bound to one
    #[arg(long, value_name = "FILE", conflicts_with = "no_tls")]
    pub client_ca: Option<PathBuf>,
    /// Takes any client certificate: what is not of --client-ca is judged by the auth methods cert and spiffe alone
    #[arg(long, conflicts_with = "no_tls")]
    pub any_client_certificate: bool,
    /// Plaintext; only on loopback
    #[arg(long)]
    pub no_tls: bool,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    crate::telemetry::start();
    if arguments.no_tls && !arguments.listen.ip().is_loopback() {
        bail!("--no-tls is for loopback only: leave it out, or listen on 127.0.0.1");
    }
    let hsm = match arguments.hsm.as_str() {
        "sim" => Hsm::Sim,
        uri if uri.starts_with("pkcs11:") => Hsm::Pkcs11(uri.to_owned()),
        _ => bail!("--hsm is `sim` or a PKCS#11 URI that begins with `pkcs11:`"),
    };
    let ask = Ask {
        listen: arguments.listen,
        data_dir: arguments.data_dir,
        root_token: arguments.root_token.map(|token| SecretBytes::from_vec(token.into_bytes())),
        hsm,
        tls: !arguments.no_tls,
        client_ca: arguments.client_ca.map(std::path::absolute).transpose()?,
        any_client_certificate: arguments.any_client_certificate,
        log: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dev::run(&ask))
}
