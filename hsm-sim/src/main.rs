//! The boundary's process: confinement, self-tests, then service.
//!
//! Always: confined before the state file is opened; a panic ends the process.
//! Never: a secret among arguments, environment or log lines.
#![deny(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use hsm_sim::fault::Fault;
use hsm_sim::jail::{Confinement, Measure};
use hsm_sim::{KeyStore, Module, Now, Options, UnlockSource};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Parser)]
#[command(version, about = "Strongroom's software boundary for master keys")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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

fn main() -> ExitCode {
    // fail closed: no thread goes on beside one that panicked; where is told, what is not, for it may hold data
    std::panic::set_hook(Box::new(|panic| {
        if let Some(at) = panic.location() {
            tracing::error!(%at, "panicked");
        }
        std::process::abort();
    }));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let outcome = match Cli::parse().command {
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

/// The one place that reads the machine's clock.
#[expect(clippy::disallowed_methods, reason = "here the clock is made")]
fn now() -> Now {
    Arc::new(|| {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        envelope::Timestamp::from_unix_millis(0).plus(since_epoch)
    })
}
