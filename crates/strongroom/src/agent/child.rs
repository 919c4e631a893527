//! The program that the agent runs: started with its secrets in its environment, told of changes, ended.

use super::config::{Exec, OnChange};
use super::work::Environment;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tokio::process::{Child, Command};

/// The program, running or not yet.
pub(super) struct Program {
    exec: Exec,
    on_change: OnChange,
    child: Option<Child>,
}

impl Program {
    pub(super) fn new(exec: Exec) -> Result<Self> {
        Ok(Self { on_change: exec.on_change()?, exec, child: None })
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    pub(super) fn start(&mut self, environment: &Environment) -> Result<()> {
        let (program, arguments) = self.exec.command.split_first().context("exec.command: it names no program")?;
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        for name in TOKENS {
            command.env_remove(name);
        }
        for (name, value) in environment {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        self.child = Some(command.spawn().with_context(|| format!("cannot run {program}"))?);
        tracing::info!(program, pid = self.pid(), "the program was started");
        Ok(())
    }

    /// Files have changed, and perhaps the environment, which a process gets at its start alone.
    pub(super) async fn changed(&mut self, environment: &Environment, is_other: bool) -> Result<()> {
        match self.on_change {
            OnChange::Signal(signal) if !is_other => {
                tracing::info!(signal = signal.as_raw(), "secrets have changed: the program is told");
                self.signal(signal);
                Ok(())
            }
            OnChange::Nothing if !is_other => Ok(()),
            OnChange::Restart | OnChange::Signal(_) | OnChange::Nothing => {
                tracing::info!("secrets have changed: the program is started again");
                self.stop().await;
                self.start(environment)
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // one that is gone is heard of by its end
            let _ = kill_process(pid, signal);
        }
    }

    /// Asked to end, and killed where it does not.
    pub(super) async fn stop(&mut self) {
        self.signal(self.exec.stop());
        let Some(child) = &mut self.child else { return };
        if tokio::time::timeout(Duration::from_secs(self.exec.stop_secs), child.wait()).await.is_err() {
            tracing::warn!("the program did not end when asked to, and is killed");
            let _ = child.kill().await;
        }
        self.child = None;
    }

    /// Its end; never where it does not run.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    }
}

/// As a shell tells it: the program's own, or 128 and the signal that ended it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The agent's own: the program has no use for them.
const TOKENS: [&str; 2] = ["STRONGROOM_TOKEN", "VAULT_TOKEN"];
