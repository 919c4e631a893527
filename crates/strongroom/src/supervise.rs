//! `dev`'s children: started, watched, started again when they die, ended when the parent is gone.
//!
//! Always: a child reads its end from a pipe that only the parent holds open.
//! Never: data through the parent.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

/// How to start one child. It prints a line that begins with `ready` when it serves.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// tracing's filter for the child; `None`: as this process.
    pub log: Option<&'static str>,
}

#[derive(Debug)]
pub struct Running {
    plan: Plan,
    child: Child,
    /// Closes with us, and the child ends.
    life: Option<ChildStdin>,
    /// What followed `ready` on the child's line.
    pub ready: String,
}

impl Plan {
    #[must_use]
    pub fn arguments<'a>(mut self, more: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(more.into_iter().map(str::to_owned));
        self
    }

    #[must_use]
    pub fn logging(self, log: Option<&'static str>) -> Self {
        Self { log, ..self }
    }

    /// Starts the child and waits until it serves.
    pub async fn start(&self) -> Result<Running> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.log.map(|log| ("STRONGROOM_LOG", log)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        let life = child.stdin.take();
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = match tokio::time::timeout(START, lines.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with("ready") => line.trim_start_matches("ready").trim().to_owned(),
            Ok(_) => {
                let status = tokio::time::timeout(Duration::from_secs(2), child.wait()).await;
                bail!("{} did not start ({}): its messages stand above", self.name, outcome(status));
            }
            Err(_) => bail!("{} was not ready within {} s", self.name, START.as_secs()),
        };
        // whatever else it prints goes nowhere
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Running { plan: self.clone(), child, life, ready })
    }

    /// Tries with growing pauses, a bounded number of times.
    async fn start_again(&self, first_pause: Duration) -> Result<Running> {
        let mut pause = first_pause;
        let mut attempt = 1;
        loop {
            tokio::time::sleep(pause).await;
            match self.start().await {
                Err(error) if attempt < ATTEMPTS => {
                    tracing::error!(child = self.name, %error, attempt, "it did not start")
                }
                ended => return ended,
            }
            attempt += 1;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Running {
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Keeps the child running: returns only when it cannot be started again.
    pub async fn keep(&mut self) -> anyhow::Error {
        loop {
            let began = Instant::now();
            let status = self.child.wait().await;
            tracing::warn!(child = self.plan.name, ?status, "a child died and is started again");
            // one that lived a while starts anew at once
            let first_pause = if began.elapsed() > LIVED { PAUSE_MIN } else { PAUSE_MIN * 5 };
            match self.plan.start_again(first_pause).await {
                Ok(running) => *self = running,
                Err(error) => return error,
            }
        }
    }

    /// Lets the child end by itself; one that takes too long is killed.
    pub async fn end(mut self, within: Duration) {
        self.life = None;
        if tokio::time::timeout(within, self.child.wait()).await.is_err() {
            tracing::warn!(child = self.plan.name, "did not end in time and is killed");
            let _ = self.child.kill().await;
        }
    }
}

fn outcome(status: Result<std::io::Result<std::process::ExitStatus>, tokio::time::error::Elapsed>) -> String {
    match status {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(_)) | Err(_) => "still running".to_owned(),
    }
}

const START: Duration = Duration::from_secs(30);
/// A child that lived this long did not die of its start.
const LIVED: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 10;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
