//! Time as an argument: whoever decides gets `now`, whoever waits gets a `Clock`.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    pub const fn unix_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Saturates: a point in time never wraps into the past.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The only source of `now`, and the only way to wait for a point in time.
#[async_trait::async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    fn now(&self) -> Timestamp;
    async fn sleep_until(&self, at: Timestamp);
}

/// A clock whose hand the test moves. Clones share the hand.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Mutex<Hand>>);

#[derive(Debug, Default)]
struct Hand {
    now: Timestamp,
    sleepers: Vec<(Timestamp, Waker)>,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Hand { now, sleepers: Vec::new() })))
    }

    /// Moves the hand to `to` (backwards too) and wakes who waited for that.
    pub fn set(&self, to: Timestamp) {
        let mut hand = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hand.now = to;
        let (due, waiting) = std::mem::take(&mut hand.sleepers).into_iter().partition(|(at, _)| *at <= to);
        hand.sleepers = waiting;
        drop(hand);
        let due: Vec<(Timestamp, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    pub fn advance(&self, by: Duration) {
        let now = self.now();
        self.set(now.plus(by));
    }
}

#[async_trait::async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    async fn sleep_until(&self, at: Timestamp) {
        std::future::poll_fn(|context| {
            let mut hand = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if hand.now >= at {
                return std::task::Poll::Ready(());
            }
            hand.sleepers.push((at, context.waker().clone()));
            std::task::Poll::Pending
        })
        .await;
    }
}
