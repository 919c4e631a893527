//! `strongroom audit witness`: a witness of C2SP's tlog-witness, for whoever audits from elsewhere.
//!
//! Always: its keys and what it has seen stand in its own folder, whose loss is the loss of its memory: keep it apart from the
//! logs it watches, and never restore it from an older copy.
//! Never: a request believed for whom it came from. Only a log's signature counts.

use crate::cli::Usage;
use crate::cli::new_file::{NewFile, Replace};
use crate::clock::SystemClock;
use crate::config::{Limits, Tls};
use crate::files;
use crate::listen::Listener;
use crate::server::no_core_dumps;
use crate::tls::Certificate;
use anyhow::{Context as _, Result, bail};
use audit::note::{KeyKind, VerifierKey};
use audit::witness::{ADD_CHECKPOINT, Cosigner, Witness};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use clap::Args;
use envelope::{Clock as _, SecretBytes, SecretKey};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, StatusCode};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// Watch logs from elsewhere: cosign what extends what was seen before. Ends with 0 after SIGTERM
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit witness --name witness.example/w1 --dir /var/lib/witness --listen 127.0.0.1:8300 --log \"$(cat log.vkey)\"

Two lines of verifier keys stand in DIR/witness.vkey: give them to those who are to believe this witness. POST
/add-checkpoint takes a log's checkpoints; GET /SHA256-OF-ORIGIN/checkpoint gives a log's newest one.")]
pub struct Arguments {
    /// Name of the witness in its signatures; it never changes
    #[arg(long)]
    name: String,
    /// Folder of its keys and of what it has seen; made at the first start
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address; without TLS a loopback one
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Verifier key of a log to watch, or a file with it
    #[arg(long = "log", value_name = "VKEY|FILE", required = true)]
    logs: Vec<String>,
    /// PEM chain of the server's certificate; read again when it was replaced, and at SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM PKCS#8 key of the certificate, 0600; it may stand in the same file, behind the chain
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    crate::telemetry::start();
    no_core_dumps()?;
    let logs = arguments.logs.iter().map(|said| log_key(said)).collect::<Result<Vec<_>>>()?;
    if arguments.tls_cert.is_none() && !arguments.listen.ip().is_loopback() {
        return Err(Usage("without --tls-cert only loopback addresses are allowed".to_owned()).into());
    }
    let cosigner = cosigner(&arguments.dir, &arguments.name)?;
    let keys = cosigner.keys();
    let context = || format!("cannot watch from {}", arguments.dir.display());
    let witness = Arc::new(Witness::open(&arguments.dir, cosigner, logs).with_context(context)?);
    let vkeys: String = keys.iter().map(|key| format!("{key}\n")).collect();
    files::write_public(&arguments.dir.join(VERIFIER_KEYS), vkeys.as_bytes())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(serve(arguments, witness, runtime.handle()))
}

async fn serve(arguments: &Arguments, witness: Arc<Witness>, runtime: &Handle) -> Result<ExitCode> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    let certificate = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            let files = Tls { certificate, key, client_ca: None, client_certificates: Default::default() };
            Some(Certificate::load(&files)?)
        }
        (None, _) | (_, None) => None,
    };
    let _following = certificate.clone().map(Certificate::followed);
    let front = axum::Router::new().fallback(answer).with_state(witness);
    let limits = Limits { connections: CONNECTIONS_MAX, streams: STREAMS_MAX, ..Limits::default() };
    let listener = Listener::start(arguments.listen, certificate.clone(), &limits, vec![(runtime.clone(), front)])?;
    writeln!(std::io::stdout(), "witness {} on {}", arguments.name, listener.local_addr())?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => {
                if let Some(certificate) = &certificate {
                    certificate.reload_as_asked();
                }
            }
        }
    }
    listener.drain(DRAIN).await;
    Ok(ExitCode::SUCCESS)
}

async fn answer(State(witness): State<Arc<Witness>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    // what nobody looks at is not read
    let body = if has_body(&head) { body } else { Body::empty() };
    let body = match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let judged = tokio::task::spawn_blocking(move || {
        let now = SystemClock.now().unix_secs();
        witness.answer(head.method.as_str(), head.uri.path(), &body, now)
    });
    let Ok(answer) = judged.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, answer.content_type)], Body::from(answer.body)).into_response()
}

fn has_body(head: &Parts) -> bool {
    head.method == Method::POST && head.uri.path() == ADD_CHECKPOINT
}

fn log_key(said: &str) -> Result<VerifierKey> {
    let key = match VerifierKey::parse(said) {
        Ok(key) => Some(key),
        Err(_) => VerifierKey::parse(super::read_text(Path::new(said))?.trim()).ok(),
    };
    let key = key.filter(|key| key.kind() == KeyKind::Ed25519);
    key.with_context(|| format!("{said} is, or holds, no log's verifier key (NAME+HASH+KEY)"))
}

/// The keys in the folder; new ones in a new folder only, for a witness with other keys is another witness, and one without
/// its memory would cosign a fork.
fn cosigner(dir: &Path, name: &str) -> Result<Cosigner> {
    let (path, memory) = (dir.join(SEEDS), dir.join(MEMORY));
    if path.exists() {
        if !memory.exists() {
            bail!(
                "{} is gone, and with it what this witness has seen: its keys are of no use any more. Make a new witness, with \
                 another name, in another folder",
                memory.display()
            );
        }
    } else {
        // before the key: where both are made, none is lost
        files::private_folder(&memory)?;
        if std::fs::read_dir(&memory)?.next().is_some() {
            bail!("{} is gone, and {} is another witness's without it", path.display(), dir.display());
        }
        // one that another process makes meanwhile stays
        let file = NewFile::create(&path, Replace::Never)?;
        let mut seeds = SecretBytes::from_vec(vec![0; 64]);
        getrandom::fill(seeds.expose_mut()).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let mut text = SecretBytes::from_vec(vec![0; 128]);
        hex::encode_to_slice(seeds.expose(), text.expose_mut())?;
        file.std_writer()?.write_all(text.expose()).with_context(|| format!("cannot write {}", path.display()))?;
        file.finish(0o600)?;
    }
    let text = files::read_secret(&path)?;
    let mut seeds = SecretBytes::from_vec(vec![0; 64]);
    let malformed = || format!("{} holds no witness's keys", path.display());
    hex::decode_to_slice(text.expose(), seeds.expose_mut()).with_context(malformed)?;
    let (first, second) = seeds.expose().split_at(32);
    let (Some(ed25519), Some(ml_dsa)) = (SecretKey::from_slice(first), SecretKey::from_slice(second)) else {
        bail!(malformed())
    };
    Ok(Cosigner::new(name, &ed25519, &ml_dsa)?)
}

const SEEDS: &str = "witness.key";
/// What it has seen of each log ([`Witness`]).
const MEMORY: &str = "log";
const VERIFIER_KEYS: &str = "witness.vkey";
const THREADS: usize = 4;
/// 63 lines of a proof, and a checkpoint with the 16 signatures that a note may always have (c2sp.org/signed-note), each of
/// ML-DSA-44's length.
const BODY_BYTES_MAX: usize = 64 << 10;
const CONNECTIONS_MAX: u32 = 64;
const STREAMS_MAX: u32 = 8;
const BODY_WITHIN: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(10);
