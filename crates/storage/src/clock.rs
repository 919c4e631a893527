//! The engine's clocks: by the machine's work becomes due and claims end, by the steady one ids grow old.

use envelope::{Clock, Timestamp};
use std::time::{Duration, Instant, SystemTime};

/// The machine's clock.
#[derive(Debug)]
pub(crate) struct MachineClock;

#[async_trait::async_trait]
impl Clock for MachineClock {
    #[expect(clippy::disallowed_methods, reason = "claims go by the engine's clock, and this is the engine")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::default().plus(since)
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.since(self.now())).await;
    }
}

/// Counts from its making on, and nobody sets it.
#[derive(Debug)]
pub(crate) struct SteadyClock(Instant);

impl SteadyClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

#[async_trait::async_trait]
impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        Timestamp::default().plus(self.0.elapsed())
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.since(self.now())).await;
    }
}
