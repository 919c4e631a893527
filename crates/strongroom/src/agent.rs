//! `strongroom agent`: secrets for programs that know nothing of a vault, in files and in an environment.
//!
//! It logs in, keeps its token and all leases alive, has certificates issued for keys of its own, renders templates, runs a
//! program beside them and tells it of changes.
//!
//! Always: the program starts when all was rendered, hears the agent's signals, and its end is the agent's, with its code.
//! Always: a vault that is away, or refuses, changes nothing of what was rendered.

mod certificate;
mod child;
mod config;
mod larder;
mod output;
mod render;
mod status;
mod work;

pub use config::Config;
pub(crate) use config::{Method, Server};
pub use work::Until;

use anyhow::{Context as _, Result};
use child::{Program, exit_code};
use client::Vault;
use rustix::process::Signal;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::signal::unix::{Signal as Heard, SignalKind, signal};
use tokio::sync::mpsc;
use work::Work;

/// Runs until the program ends, a signal comes, or, where that was asked for, all was rendered.
pub async fn run(mut config: Config, until: Until) -> Result<ExitCode> {
    let work = Work::new(&config)?;
    let mut signals = Signals::listen()?;
    let (sender, changes) = mpsc::channel(1);
    if until == Until::Rendered {
        let _unheard = changes;
        return tokio::select! {
            outcome = work.run(until, mpsc::channel(1).0) => outcome.map(|()| ExitCode::SUCCESS),
            signal = signals.ending() => Ok(ended_by(signal)),
        };
    }
    let (vault, logs_out) = (work.vault(), config.logs_out());
    let program = config.exec.take().map(Program::new).transpose()?;
    let work = tokio::spawn(work.run(until, sender));
    let working = work.abort_handle();
    let outcome = attend(program, changes, work, &mut signals).await;
    // it would log in again, and be lent what nobody ends
    working.abort();
    if logs_out {
        log_out(&vault).await;
    }
    outcome
}

async fn attend(
    mut program: Option<Program>,
    mut changes: mpsc::Receiver<work::Change>,
    mut work: tokio::task::JoinHandle<Result<()>>,
    signals: &mut Signals,
) -> Result<ExitCode> {
    loop {
        let ended = async {
            match &mut program {
                Some(program) => program.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = ended => {
                let status = status?;
                tracing::info!(%status, "the program has ended");
                return Ok(exit_code(status));
            }
            signal = signals.next() => match &program {
                // a terminal's keys reach the program by themselves
                Some(running) if running.is_running() && signals.terminal && KEYS.contains(&signal) => {}
                Some(running) if running.is_running() => running.signal(signal),
                Some(_) | None if ENDING.contains(&signal) => return Ok(ended_by(signal)),
                Some(_) | None => {}
            },
            Some(change) = changes.recv() => {
                let Some(program) = &mut program else { continue };
                if program.is_running() {
                    program.changed(&change.environment, change.environment_is_other).await?;
                } else {
                    program.start(&change.environment)?;
                }
            }
            outcome = &mut work => return outcome.context("the agent broke off")?.map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Nobody uses what was lent any more. A vault that is away does not hold up the end.
async fn log_out(vault: &OnceLock<Vault>) {
    let Some(vault) = vault.get() else { return };
    match tokio::time::timeout(LOG_OUT_MAX, vault.log_out()).await {
        Ok(Ok(())) => tracing::info!("logged out: token and leases end"),
        Ok(Err(error)) => tracing::warn!(%error, "not logged out: token and leases end in their time"),
        Err(_) => tracing::warn!("not logged out: token and leases end in their time"),
    }
}

/// As a shell tells it.
fn ended_by(signal: Signal) -> ExitCode {
    if signal == Signal::TERM {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(u8::try_from(128 + signal.as_raw()).unwrap_or(1))
}

/// What comes to the agent is meant for the program.
struct Signals {
    heard: Vec<(Signal, Heard)>,
    terminal: bool,
}

impl Signals {
    fn listen() -> Result<Self> {
        let kinds = [
            (Signal::HUP, SignalKind::hangup()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::TERM, SignalKind::terminate()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ];
        let heard = kinds.into_iter().map(|(name, kind)| Ok((name, signal(kind)?)));
        Ok(Self { heard: heard.collect::<std::io::Result<_>>()?, terminal: std::io::stdin().is_terminal() })
    }

    async fn next(&mut self) -> Signal {
        let waits = self.heard.iter_mut().map(|(name, heard)| {
            Box::pin(async move {
                heard.recv().await;
                *name
            })
        });
        futures_util::future::select_all(waits).await.0
    }

    async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ENDING.contains(&signal) {
                return signal;
            }
        }
    }
}

const KEYS: [Signal; 2] = [Signal::INT, Signal::QUIT];
const ENDING: [Signal; 3] = [Signal::INT, Signal::QUIT, Signal::TERM];
const LOG_OUT_MAX: Duration = Duration::from_secs(5);
