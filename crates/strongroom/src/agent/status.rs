//! How it stands, as JSON in a file. Nothing of it is secret.

use crate::clock::SystemClock;
use envelope::Clock as _;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Nothing was rendered yet.
    Starting,
    Running,
    /// The last state stands; what is wrong is told.
    Waiting,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Status {
    pub(super) state: State,
    /// Logins so far.
    pub(super) logins: u64,
    pub(super) leases: usize,
    /// How often something was rendered that was not so before.
    pub(super) renders: u64,
    pub(super) trouble: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<CertificateStatus>,
}

/// One that the agent keeps fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CertificateStatus {
    pub(super) file: String,
    /// Of what was written last; nothing before anything was.
    pub(super) serial: Option<String>,
    /// Unix milliseconds.
    pub(super) ends: Option<u64>,
    pub(super) expired: bool,
}

pub(super) struct StatusFile {
    path: Option<PathBuf>,
    last: Option<Status>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// When it came to stand so; Unix milliseconds.
    since: u64,
}

impl StatusFile {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, last: None }
    }

    /// Written where it is other than before.
    pub(super) fn tell(&mut self, status: Status) {
        if self.last.as_ref() == Some(&status) {
            return;
        }
        if let Some(path) = &self.path {
            let line = Line { status: &status, since: SystemClock.now().unix_millis() };
            let written = serde_json::to_vec(&line).map_err(anyhow::Error::from).and_then(|mut line| {
                line.push(b'\n');
                crate::files::write_public(path, &line)
            });
            if let Err(error) = written {
                tracing::warn!(%error, "the status file was not written");
            }
        }
        self.last = Some(status);
    }
}
