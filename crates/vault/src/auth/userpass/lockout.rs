//! When a user is locked. Pure.

use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Wrong passwords of one user, and until when it is locked. Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Failures {
    at: Vec<u64>,
    locked_until: u64,
}

impl Failures {
    pub(super) fn is_locked(&self, now: Timestamp) -> bool {
        now.unix_millis() < self.locked_until
    }

    /// With one more, where it is not locked.
    pub(super) fn and_one(mut self, now: Timestamp) -> Self {
        let recent = |at: &u64| now.since(Timestamp::from_unix_millis(*at)) < WITHIN;
        self.at.retain(recent);
        self.at.push(now.unix_millis());
        if self.at.len() < FAILURES_MAX {
            return self;
        }
        Self { at: Vec::new(), locked_until: now.plus(LOCKED_FOR).unix_millis() }
    }
}

const FAILURES_MAX: usize = 5;
const WITHIN: Duration = Duration::from_secs(15 * 60);
const LOCKED_FOR: Duration = Duration::from_secs(15 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_within_15_minutes_locks_for_15() {
        let at = |secs: u64| Timestamp::from_unix_millis(1_700_000_000_000 + secs * 1000);
        for (failures, now, locked) in [
            (&[0, 0, 0, 0][..], 0, false),
            (&[0, 0, 0, 0, 0], 0, true),
            (&[0, 1, 2, 3, 899], 899, true),
            (&[0, 1, 2, 3, 900], 900, false),
            (&[0, 1, 2, 3, 900, 900], 900, true),
            (&[0, 0, 0, 0, 0], 899, true),
            (&[0, 0, 0, 0, 0], 900, false),
            (&[0, 0, 0, 0, 0, 900, 900, 900, 900], 900, false),
        ] {
            let end = failures.iter().fold(Failures::default(), |failures, secs| failures.and_one(at(*secs)));
            assert_eq!(end.is_locked(at(now)), locked, "{failures:?} {now}");
        }
    }
}
