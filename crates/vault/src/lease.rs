//! Leases of secrets that are made outside: what was lent, until when, and how it is taken back.
//!
//! ```text
//! Creating ──made──► Active ──due, revoked, its token gone──► Ending ──► AccessEnded ──cleaned up──► (gone)
//!     └───────────────not made in time──────────────────────────┘
//! ```
//!
//! Always: a lease is durable before the user that it guards exists, and stands until nothing is left of that user.
//! Always: what is due is claimed a page at a time from the store, by any node: nothing is loaded at the start.
//! Always: a lease holds all that taking it back needs but how to reach its database, and that stands, hidden, for as long as
//! a lease needs it: a role, a configuration and a mount may be deleted at any time.
//! Never: given up. What fails is tried again for ever, at most five minutes later, and told while it is late.
//!
//! Below the vault's own part `leases` of the store: `r/<key>` the lease; `due/<target>/<when>/<key>` when to look at it;
//! `p/<hash of its path>/<key>` its id; `u/<mount>/<target>/<key>`; `a/<hash of its token's accessor>/<key>`;
//! `e/<entity>/<key>`; `w/<hash of role and identity>` which to hand out again; `late/<target>/<since>/<key>` what failed;
//! `t/<target>` how a database is reached; `cap/<hash of role>` whose leases are counted.

pub(crate) mod breaker;
pub(crate) mod end;
pub(crate) mod mark;
pub(crate) mod store;
pub(crate) mod void;
pub(crate) mod work;

pub use void::end_void;
pub use work::{Late, work};

use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// The user may exist or not.
    Creating,
    Active,
    /// To be taken back; the user may come in still.
    Ending,
    /// Nobody comes in with it. Something of the user is left.
    AccessEnded,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Ending => "ending",
            Self::AccessEnded => "access_ended",
        }
    }
}

/// Why it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    Expired,
    Revoked,
    /// The token that asked is gone.
    Token,
    /// The entity that asked is disabled or gone.
    Entity,
    /// The mount is gone.
    Mount,
    /// An operator has acknowledged since that store and audit log disagree.
    Void,
    /// Nobody said that the user was made.
    Unfinished,
}

/// As stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) id: String,
    /// The mount's id.
    pub(crate) mount: String,
    pub(crate) target: String,
    pub(crate) state: State,
    pub(crate) username: String,
    /// The cluster's when it was lent; 0 of what was lent before leases had one.
    #[serde(default)]
    pub(crate) generation: u64,
    pub(crate) issued: u64,
    pub(crate) expires: u64,
    /// No renewal takes it further.
    pub(crate) expires_max: u64,
    /// What it was given at first.
    pub(crate) ttl_millis: u64,
    #[serde(default)]
    pub(crate) renewed: Option<u64>,
    /// The accessor of the token that asked.
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// Or the client certificate's principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<String>,
    #[serde(default)]
    pub(crate) entity: Option<String>,
    #[serde(default)]
    pub(crate) renew_statements: Vec<String>,
    #[serde(default)]
    pub(crate) revoke_statements: Vec<String>,
    #[serde(default)]
    pub(crate) heir: Option<String>,
    /// When it is looked at next: its entry of the queue says the same.
    pub(crate) due: u64,
    #[serde(default)]
    pub(crate) attempts: u32,
    #[serde(default)]
    pub(crate) last_error: Option<String>,
    /// Since when it should have ended.
    #[serde(default)]
    pub(crate) late_since: Option<u64>,
    #[serde(default)]
    pub(crate) access_ended: Option<u64>,
    #[serde(default)]
    pub(crate) why: Option<Why>,
    /// Where the role hands it out again: what is handed out, and under which entry.
    #[serde(default)]
    pub(crate) password: Option<Zeroizing<String>>,
    #[serde(default)]
    pub(crate) window: Option<String>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}

/// The time, while something that takes long goes on.
#[derive(Debug)]
pub(crate) struct Since {
    now: Timestamp,
    began: tokio::time::Instant,
}

impl Since {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { now, began: tokio::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now.plus(self.began.elapsed())
    }
}

/// How a database is reached: what a configuration says, kept here for as long as a lease needs it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The mount's id.
    pub(crate) mount: String,
    /// The configuration's name.
    pub(crate) name: String,
    pub(crate) plugin: String,
    pub(crate) url: String,
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
    /// To be ours, and perhaps ours already.
    #[serde(default)]
    pub(crate) next_password: Option<Zeroizing<String>>,
    #[serde(default)]
    pub(crate) tls_ca: Option<String>,
    pub(crate) connections_max: u32,
    /// Of verifiers of passwords, where they are not 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scram_iterations: Option<u32>,
    /// Its configuration was deleted: nothing new is made there.
    #[serde(default)]
    pub(crate) retired: bool,
    /// Its mount is gone, and all that was lent there is marked to end.
    #[serde(default)]
    pub(crate) ended: bool,
    /// Counts its settings: what is open under older ones is closed.
    #[serde(default)]
    pub(crate) version: u64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn expires(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.expires)
    }

    pub(crate) fn ttl(&self, now: Timestamp) -> Duration {
        match self.state {
            State::Active | State::Creating => self.expires().since(now),
            State::Ending | State::AccessEnded => Duration::ZERO,
        }
    }

    /// Without what follows the last slash: what was asked for.
    pub(crate) fn path(&self) -> &str {
        self.id.rsplit_once('/').map_or("", |(path, _)| path)
    }

    /// When it ends once it is renewed.
    pub(crate) fn renewed_until(&self, increment: Option<Duration>, now: Timestamp) -> Timestamp {
        let step = increment.unwrap_or(Duration::from_millis(self.ttl_millis));
        now.plus(step).min(Timestamp::from_unix_millis(self.expires_max))
    }

    /// It is to be taken back now. One that is being made is left alone until nobody can be making it any more.
    pub(crate) fn end(&mut self, why: Why, now: Timestamp) {
        let due = match self.state {
            State::Creating => Timestamp::from_unix_millis(self.issued).plus(CREATED_WITHIN).max(now),
            State::Active | State::Ending | State::AccessEnded => now,
        };
        self.due = due.unix_millis();
        self.why.get_or_insert(why);
        // whoever comes to activate it finds that it is not to be
        if matches!(self.state, State::Active | State::Creating) {
            self.state = State::Ending;
        }
    }

    /// It did not end, and is tried again.
    pub(crate) fn failed(&mut self, error: &str, now: Timestamp, jitter: u8) {
        self.attempts = self.attempts.saturating_add(1);
        let mut told = error.to_owned();
        told.truncate((0..=ERROR_BYTES_MAX.min(told.len())).rev().find(|at| told.is_char_boundary(*at)).unwrap_or(0));
        self.last_error = Some(told);
        self.late_since.get_or_insert(self.due);
        self.due = now.plus(back_off(self.attempts, jitter)).unix_millis();
    }
}

/// Twice as long each time, from one second to five minutes; less up to a half of it by `jitter`.
pub(crate) fn back_off(attempts: u32, jitter: u8) -> Duration {
    let full = BACK_OFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(BACK_OFF_MAX);
    full - full.mul_f64(f64::from(jitter) / 512.0)
}

pub(crate) type Counts = BTreeMap<String, u64>;

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(300);
const ERROR_BYTES_MAX: usize = 512;
/// Whoever makes a user gives up before, by any clock that is five seconds off.
pub(crate) const CREATED_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_within_five_minutes_for_ever() {
        for (attempts, most) in [(1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (1000, 300), (u32::MAX, 300)] {
            assert_eq!(back_off(attempts, 0), Duration::from_secs(most), "{attempts}");
            assert!(back_off(attempts, u8::MAX) > Duration::from_millis(most * 500), "{attempts}");
        }
    }
}
