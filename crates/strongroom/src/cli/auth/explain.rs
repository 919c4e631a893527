//! `strongroom auth explain`: why logins were refused, out of the audit log's files. Callers are told one text per method.

use crate::cli::audit::Place;
use crate::cli::audit::read::{PersonalKey, next_whole};
use crate::cli::output::{Answer, Record};
use anyhow::Result;
use audit::Outcome;
use clap::Args;
use prost_types::Timestamp;
use std::collections::VecDeque;

/// Tell why logins were refused; offline, out of the audit log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom auth explain --data-dir /var/lib/strongroom
  strongroom auth explain --data-dir /var/lib/strongroom --request-id 4f0d1c9e2b7a4c3d8e5f60718293a4b5
  strongroom auth explain --data-dir /var/lib/strongroom --mount auth/kubernetes -n 50 --output json

The caller heard one text, whatever the cause. A request's id came back to it as `request_id`.")]
pub struct Explain {
    #[command(flatten)]
    place: Place,
    /// Of this request alone
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// At this auth method alone, as auth/kubernetes
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// How many of the last ones
    #[arg(short = 'n', long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lines: u32,
    /// How many of the log's last entries are looked at
    #[arg(long, value_name = "N", default_value = "2000000")]
    entries: u64,
    #[command(flatten)]
    personal: PersonalKey,
}

impl Explain {
    pub fn run(self) -> Result<Answer> {
        let log = self.place.log()?;
        let keys = self.personal.read(log.source().dir())?;
        let mut entries = log.iter_from(log.size()?.saturating_sub(self.entries).max(log.first()?))?;
        let mut rows = VecDeque::new();
        while let Some((index, mut entry)) = next_whole(&mut entries)? {
            if let Some(keys) = &keys {
                // what does not open is told as it is
                let _ = entry.open(keys);
            }
            let record = entry.record();
            if let Some(cause) = self.cause(&record) {
                rows.push_back(row(index, &record, &cause));
            }
            if rows.len() > self.lines as usize {
                rows.pop_front();
            }
        }
        anyhow::ensure!(
            !rows.is_empty() || self.request_id.is_none(),
            "no login of this request was refused in what was looked at"
        );
        Ok(Answer::List { name: "logins", rows: rows.into(), next_marker: None })
    }

    /// Why it was refused, where it is a login that was.
    fn cause(&self, record: &audit::record::Record<'_>) -> Option<String> {
        let below = |mount: &str| {
            let rest = record.path.strip_prefix(mount.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let wanted = self.request_id.as_deref().is_none_or(|id| record.request_id == id)
            && self.mount.as_deref().is_none_or(below);
        match &record.outcome {
            Outcome::Failed(cause) if wanted && is_login(record) => Some(cause.clone().into_owned()),
            Outcome::Failed(_) | Outcome::Asked | Outcome::Done => None,
        }
    }
}

fn is_login(record: &audit::record::Record<'_>) -> bool {
    let mut segments = record.path.split('/');
    segments.next() == Some("auth") && segments.any(|segment| matches!(segment, "login" | "callback" | "auth_url"))
}

fn row(index: u64, record: &audit::record::Record<'_>, cause: &str) -> Record {
    let meaning = vault::auth::explained(cause).unwrap_or("see the server's log at this time");
    let seconds = i64::try_from(record.time / 1000).unwrap_or(i64::MAX);
    Record::new()
        .with("time", Some(Timestamp { seconds, nanos: 0 }))
        .with("request_id", record.request_id)
        .with("namespace", record.namespace)
        .with("path", record.path)
        .with("from", record.from)
        .with("cause", cause)
        .with("meaning", meaning)
        .with("index", index)
}
