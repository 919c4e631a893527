//! Since when a store's changes were heard, and so until when what was read before may be used again.
//!
//! Always: by a clock that goes on while the process is stopped or the machine sleeps.
//! Never: something kept that is used on the word of a timer: who was stopped looks at the clock first.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // both are positive
        let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
        Self(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
    }
}

/// Until when what is kept is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// As long as no change is told.
    Changed,
    At(Moment),
}

impl Until {
    /// What was committed by now is in force everywhere within two seconds: what is under way then has the rest.
    pub fn heard_at(moment: Moment) -> Self {
        Self::At(Moment(moment.0.saturating_add(u64::try_from(CURRENT_FOR.as_millis()).unwrap_or(u64::MAX))))
    }
}

impl Until {
    pub fn is_past(self) -> bool {
        match self {
            Self::Changed => false,
            Self::At(moment) => Moment::now() > moment,
        }
    }
}

/// [`Until`], shared.
#[derive(Debug)]
pub(crate) struct Current(AtomicU64);

impl Current {
    pub(crate) const fn until_changed() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// Told after all changes that were heard of until then.
    pub(crate) fn set(&self, until: Until) {
        let until = match until {
            Until::Changed => u64::MAX,
            Until::At(moment) => moment.0,
        };
        self.0.store(until, Ordering::Release);
    }

    pub(crate) fn is_past(&self) -> bool {
        let until = self.0.load(Ordering::Acquire);
        until != u64::MAX && Moment::now().0 > until
    }
}

const CURRENT_FOR: Duration = Duration::from_millis(1800);
