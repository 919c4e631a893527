//! The engine's clock: by it work becomes due and claims end.

use envelope::{Clock, Timestamp};
use std::time::{Duration, SystemTime};

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
