//! The boundary's process around a PKCS#11 module: confinement, login, probe, then service.
//!
//! Always: a panic ends the process; a PIN that was refused leaves the process running and locked, so that no supervisor
//! restarts it into the next try.
//! Never: a PIN among arguments or log lines.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use hsm_channel::Identity;
use hsm_pkcs11::{Module, Now, Options, PinSource, Uri, confine};
use hsm_serve::{Limits, Listener, Notify, PinArgument, Pins, end_with_parent};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Parser)]
#[command(version, about = "Strongroom's boundary around a PKCS#11 module")]
struct Cli {
    /// What is logged to standard error: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log: tracing::Level,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the channel's key where it is missing, and prints its pin
    Identity {
        /// The state folder (0700, made where it is missing)
        #[arg(long)]
        dir: PathBuf,
    },
    /// Logs in to the token, probes it, and serves; prints `ready`
    Serve(Box<Serve>),
}

#[derive(Args)]
struct Serve {
    /// The state folder: the channel's key, and the pins of peers
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen; its folder must be this user's
    #[arg(long)]
    socket: PathBuf,
    /// user=sha256:…, officer=… or auditor=…; the pin of a peer's channel key
    #[arg(long, value_name = "ROLE=PIN")]
    pin: Vec<PinArgument>,
    /// Another user of this machine that may connect; this user always may
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// The token (RFC 7512): `pkcs11:token=LABEL;serial=…?module-path=/path/to/module.so&pin-source=file:/path`
    #[arg(long)]
    uri: Uri,
    /// Name of the environment variable that holds the token's PIN, in place of pin-source
    #[arg(long, value_name = "NAME", conflicts_with = "pin_fd")]
    pin_env: Option<String>,
    /// Open descriptor from which the token's PIN is read, in place of pin-source
    #[arg(long, value_name = "N")]
    pin_fd: Option<u32>,
    /// Most sessions at work in the token at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=128))]
    sessions: u8,
    /// Ends when standard input closes
    #[arg(long)]
    end_with_parent: bool,
    /// systemd's notification socket
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<PathBuf>,
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    // fail closed: no thread goes on beside one that panicked; where is told, what is not, for it may hold data
    std::panic::set_hook(Box::new(|panic| {
        if let Some(at) = panic.location() {
            tracing::error!(%at, "panicked");
        }
        std::process::abort();
    }));
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_max_level(cli.log).with_writer(std::io::stderr).with_ansi(false).init();
    let outcome = match cli.command {
        Command::Identity { dir } => identity(&dir),
        Command::Serve(arguments) => serve(*arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn identity(dir: &Path) -> Outcome {
    println!("{}", own_identity(dir)?.pin());
    Ok(())
}

fn own_identity(dir: &Path) -> Result<Identity, Box<dyn std::error::Error>> {
    if !dir.exists() {
        std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    }
    Ok(Identity::load_or_generate(&dir.join("identity.key"))?)
}

#[expect(clippy::print_stdout, reason = "the line that the parent waits for")]
fn serve(arguments: Serve) -> Outcome {
    let report = confine::confine();
    let Serve { dir, socket, pin, allow_uid, uri, pin_env, pin_fd, sessions, end_with_parent: end, notify_socket } =
        arguments;
    let source = match (pin_env, pin_fd, uri.pin_source()) {
        (Some(name), _, _) => PinSource::Environment(name),
        (None, Some(number), _) => PinSource::Descriptor(number),
        (None, None, Some(path)) => PinSource::File(path.to_owned()),
        (None, None, None) => return Err("no PIN: give pin-source in the URI, --pin-env or --pin-fd".into()),
    };
    let identity = own_identity(&dir)?;
    let notify = Notify::connect(notify_socket.as_deref())?;
    // every request but status waits for the token, so the pool's queue is the whole queue
    let mut limits =
        Limits { pool_threads: sessions.into(), pool_queue: 4096, pool_queue_channel: 2048, ..Limits::default() };
    limits.uids.extend(allow_uid);
    let listener = Listener::bind(&socket, &identity, Pins::open(&dir, pin)?, limits)?;
    let options = Options { uri, pin: source.read()?, now: now(), report, sessions_max: usize::from(sessions) };
    let module = Arc::new(Module::open(options)?);
    if end {
        end_with_parent(listener.stopper())?;
    }
    let outcome = listener.serve(Arc::clone(&module) as _, || {
        println!("ready");
        notify.ready();
    });
    finalise(module);
    Ok(outcome?)
}

/// The vendor's module is finalised here, with no call in it any more, and not by a thread of the pool while this one ends
/// the process. A call that hangs is not waited for.
fn finalise(mut module: Arc<Module>) {
    for _ in 0..FINALISE_TRIES {
        match Arc::try_unwrap(module) {
            Ok(module) => return drop(module),
            Err(shared) => module = shared,
        }
        std::thread::sleep(FINALISE_PAUSE);
    }
    tracing::warn!("a call to the token goes on: it is not finalised");
}

const FINALISE_TRIES: u32 = 400;
const FINALISE_PAUSE: Duration = Duration::from_millis(5);

/// The one place that reads the machine's clock.
#[expect(clippy::disallowed_methods, reason = "here the clock is made")]
fn now() -> Now {
    Arc::new(|| {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        envelope::Timestamp::from_unix_millis(0).plus(since_epoch)
    })
}
