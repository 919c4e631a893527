//! The boundary's process: confinement, self-tests, then service.
//!
//! Always: confined before the state file is opened; a panic ends the process.
//! Never: a secret among arguments, environment or log lines.
#![deny(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use hsm_channel::Identity;
use hsm_serve::{Limits, Listener, Notify, PinArgument, Pins};
use hsm_sim::fault::Fault;
use hsm_sim::jail::{Confinement, Measure};
use hsm_sim::{KeyStore, Module, Now, Options, UnlockSource};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Parser)]
#[command(version, about = "Strongroom's software boundary for master keys")]
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
    /// Confines itself, runs the self-tests, opens the state and serves; prints `ready` once it does
    Serve(Box<Serve>),
    /// Confines itself, runs the self-tests, opens the state, prints what it found, and stays until stdin closes
    Check(Start),
}

#[derive(Args)]
struct Start {
    /// The state folder (0700, made where it is missing)
    #[arg(long)]
    dir: PathBuf,
    /// file:PATH, fd:N or passphrase-file:PATH
    #[arg(long)]
    unlock: Option<UnlockSource>,
    /// Goes on without this measure where the kernel lacks it: core, dumpable, mlock, memfd_secret, no_new_privs,
    /// landlock, seccomp
    #[arg(long, value_name = "NAME")]
    allow_missing: Vec<Measure>,
    /// Lets a build with fault injection be initialised
    #[arg(long)]
    allow_fault_build: bool,
    /// self-test:NAME, panic or system-call; only in builds with fault injection
    #[arg(long, hide = true)]
    fault: Option<Fault>,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    start: Start,
    /// The Unix socket, in a folder that only this user can write to (0700, made where it is missing)
    #[arg(long)]
    socket: PathBuf,
    /// A peer's key and its role: user=sha256:…, officer=sha256:…, auditor=sha256:…
    #[arg(long, value_name = "ROLE=PIN")]
    pin: Vec<PinArgument>,
    /// Another user of this machine that may connect; this user always may
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// Threads for RSA and for what writes the state file
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pool_threads: u8,
    /// Ends when standard input closes
    #[arg(long)]
    end_with_parent: bool,
    /// The service manager's socket (sd_notify)
    #[arg(long, hide = true, env = "NOTIFY_SOCKET")]
    notify_socket: Option<PathBuf>,
}

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
        Command::Check(start) => check(start),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything before the first request. `bind` opens what cannot be opened any more once the process is confined.
fn start<T>(
    start: Start,
    folders: &[PathBuf],
    bind: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
) -> Result<(T, Module), Box<dyn std::error::Error>> {
    let Start { dir, unlock, allow_missing, allow_fault_build, fault } = start;
    let mut confinement = Confinement::new(allow_missing);
    let page = confinement.protect_memory()?;
    let unlock = unlock.map(|source| source.read()).transpose()?;
    let store = KeyStore::open(&dir)?;
    let bound = bind()?;
    let reachable: Vec<_> = folders.iter().chain([&dir]).map(PathBuf::as_path).collect();
    let report = confinement.confine(&reachable)?;
    inject(fault.as_ref());
    let options = Options { unlock, now: now(), report, allow_fault_build, fault };
    Ok((bound, Module::open(store, page, options)))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn identity(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    println!("{}", Identity::load_or_generate(&dir.join(IDENTITY_NAME))?.pin());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the line that the parent waits for")]
fn serve(arguments: Serve) -> Result<(), Box<dyn std::error::Error>> {
    let Serve { start: begin, socket, pin, allow_uid, pool_threads, end_with_parent, notify_socket } = arguments;
    let dir = begin.dir.clone();
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.to_owned();
    let bind = || {
        let identity = Identity::load_or_generate(&dir.join(IDENTITY_NAME))?;
        let mut limits = Limits { pool_threads: pool_threads.into(), ..Limits::default() };
        limits.uids.extend(allow_uid);
        let notify = Notify::connect(notify_socket.as_deref())?;
        Ok((Listener::bind(&socket, &identity, Pins::open(&dir, pin)?, limits)?, notify))
    };
    let ((listener, notify), module) = start(begin, &[folder], bind)?;
    tracing::info!(state = ?module.state(), "serving");
    if end_with_parent {
        hsm_serve::end_with_parent(listener.stopper())?;
    }
    listener.serve(Arc::new(module), || {
        println!("ready");
        notify.ready();
    })?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn check(arguments: Start) -> Result<(), Box<dyn std::error::Error>> {
    let ((), module) = start(arguments, &[], || Ok(()))?;
    println!("state {:?}", module.state());
    for (name, outcome) in module.report() {
        println!("{name} {outcome}");
    }
    let outside = std::fs::File::open("/proc/self/status").is_err();
    println!("outside_files {}", if outside { "refused" } else { "reachable" });
    println!("done");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Faults of the process itself; the module's own are injected there.
#[expect(clippy::panic, reason = "the panic is the fault that was asked for")]
fn inject(fault: Option<&Fault>) {
    match fault.filter(|_| hsm_sim::fault::BUILD) {
        Some(Fault::Panic) => {
            let thread = std::thread::spawn(|| panic!("injected"));
            let _never = thread.join();
        }
        Some(Fault::SystemCall) => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        Some(Fault::SelfTest(_)) | None => {}
    }
}

/// The channel's own key, in the state folder.
const IDENTITY_NAME: &str = "identity.key";

/// The one place that reads the machine's clock.
#[expect(clippy::disallowed_methods, reason = "here the clock is made")]
fn now() -> Now {
    Arc::new(|| {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        envelope::Timestamp::from_unix_millis(0).plus(since_epoch)
    })
}
