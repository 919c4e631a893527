//! Strangers: who was not recognised shares the log with principals, and shall not fill it.
//!
//! Always: their records take a bounded part of the log's queue; beyond it the answer is BUSY, without waiting. What watches
//! the server (health, metrics) has a part of its own, so that it hears of a server that others flood.
//! Always: an address has so many records a second; beyond it the answer is RATE_LIMITED, and one record now and then tells
//! how many were. Others' probes do not suffer from it.
//! Always: a record keeps its place until the log has answered, though its asker has gone.

use crate::gate::unrecorded;
use crate::kms_grpc::error::Refusal;
use crate::operation::Operation;
use audit::{AuditSink, Decision, Outcome, Record, Subject};
use envelope::Clock;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use vault::VaultError;

/// The places of their records on the way to the log. Clones share them; one for all cores, as the log is.
#[derive(Debug, Clone, Default)]
pub struct Strangers {
    watching: Arc<Part>,
    others: Arc<Part>,
}

/// Of those who watch, or of all others.
#[derive(Debug)]
struct Part {
    places: Arc<Semaphore>,
    budgets: Mutex<Budgets>,
    /// Requests that nobody was told of yet.
    refused: AtomicU64,
}

/// What each address may still have recorded.
#[derive(Debug, Default)]
struct Budgets {
    of: HashMap<IpAddr, Budget>,
    /// Of those without an address, and of more addresses than are told apart.
    rest: Option<Budget>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Thousandths of a record.
    left: u64,
    at: Instant,
}

impl Default for Part {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(STRANGERS_MAX));
        Self { places, budgets: Mutex::default(), refused: AtomicU64::default() }
    }
}

impl Strangers {
    /// Their part of `audit`, for the vault.
    pub fn of_vault(&self, audit: &Arc<dyn AuditSink>) -> Arc<dyn vault::service::Strangers> {
        Arc::new(OfVault { strangers: self.clone(), audit: Arc::clone(audit) })
    }

    /// Answers when the record is durable.
    pub(crate) async fn append(
        &self,
        audit: &dyn AuditSink,
        operation: Operation,
        record: &Record<'_>,
    ) -> Result<(), Refusal> {
        let watches = matches!(operation, Operation::Health | Operation::Metrics);
        let part = if watches { &self.watching } else { &self.others };
        if !part.budgets.lock().unwrap_or_else(PoisonError::into_inner).take(record.from, Instant::now()) {
            part.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::RATE_LIMITED);
        }
        let place = Arc::clone(&part.places).try_acquire_owned().map_err(|_| Refusal::BUSY)?;
        let appended = audit.append(record.encode());
        // a task of its own: who asks and leaves at once would give up the place, and leave the record
        let recorded = tokio::spawn(async move {
            let _place = place;
            appended.await
        });
        recorded.await.map_err(|_| Refusal::AUDIT_UNAVAILABLE)?.map_err(unrecorded)
    }

    /// Records now and then how many were refused and left no record. For ever.
    pub async fn tell(self, audit: Arc<dyn AuditSink>, clock: Arc<dyn Clock>, node: String) {
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            let parts = [&self.watching, &self.others];
            let [watching, others] = parts.map(|part| part.refused.swap(0, Ordering::Relaxed));
            if watching == 0 && others == 0 {
                continue;
            }
            let path = format!("strangers/watching/{watching}/others/{others}");
            let record = Record {
                node: &node,
                path: &path,
                decision: Decision::Denied,
                outcome: Outcome::Failed(Refusal::RATE_LIMITED.reason.into()),
                ..Record::new(clock.now(), "", REFUSED, &Subject::System)
            };
            tracing::warn!(watching, others, "more unauthenticated requests than an address may have recorded");
            if audit.append(record.encode()).await.is_err() {
                self.watching.refused.fetch_add(watching, Ordering::Relaxed);
                self.others.refused.fetch_add(others, Ordering::Relaxed);
            }
        }
    }
}

impl Budgets {
    /// Takes one record's worth from whoever is at `from`.
    fn take(&mut self, from: &str, now: Instant) -> bool {
        let full = Budget { left: BURST, at: now };
        let Some(address) = identity::cidr::network(from) else { return self.rest.get_or_insert(full).take(now) };
        if !self.of.contains_key(&address) && self.of.len() >= ADDRESSES_MAX {
            // who has its whole budget again is as good as new
            self.of.retain(|_, budget| !budget.is_full(now));
            if self.of.len() >= ADDRESSES_MAX {
                return self.rest.get_or_insert(full).take(now);
            }
        }
        self.of.entry(address).or_insert(full).take(now)
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        (self.left, self.at) = (self.at(now), now);
        let taken = self.left.checked_sub(RECORD);
        self.left = taken.unwrap_or(self.left);
        taken.is_some()
    }

    fn is_full(&self, now: Instant) -> bool {
        self.at(now) == BURST
    }

    fn at(&self, now: Instant) -> u64 {
        let gained = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.left.saturating_add(gained.saturating_mul(STRANGERS_PER_SEC)).min(BURST)
    }
}

/// Strangers' part of a log, as the vault knows it.
#[derive(Debug)]
struct OfVault {
    strangers: Strangers,
    audit: Arc<dyn AuditSink>,
}

#[async_trait::async_trait]
impl vault::service::Strangers for OfVault {
    async fn append(&self, record: &Record<'_>) -> Result<(), VaultError> {
        let watches = vault::quota::EXEMPT.contains(&record.path);
        let operation = if watches { Operation::Health } else { Operation::VaultRead };
        let appended = self.strangers.append(&*self.audit, operation, record);
        appended.await.map_err(|refusal| VaultError::Unavailable(refusal.reason))
    }
}

/// Most records of strangers on their way, of those who watch and of all others each: a sixteenth of what waits in the log.
pub const STRANGERS_MAX: usize = 1 << 10;
/// Records a second of one address that was not recognised, of each part.
pub const STRANGERS_PER_SEC: u64 = 100;
/// So many at once after silence: what may be on its way is among them.
pub const STRANGERS_BURST: u64 = 2 * STRANGERS_MAX as u64;
/// Of a budget, in thousandths.
const RECORD: u64 = 1000;
const BURST: u64 = STRANGERS_BURST * RECORD;
/// Addresses that are told apart.
const ADDRESSES_MAX: usize = 4096;
const REFUSED: &str = "StrangersRefused";
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_burst_and_then_so_many_a_second_and_no_other_suffers() {
        let (mut budgets, began) = (Budgets::default(), Instant::now());
        let mut taken = |from: &str, after: u64| {
            let now = began + Duration::from_millis(after);
            std::iter::repeat_with(|| budgets.take(from, now)).take(9999).filter(|taken| *taken).count() as u64
        };
        for from in ["192.0.2.1:5", "192.0.2.2:5", "[2001:db8::1]:9", ""] {
            assert_eq!(taken(from, 0), STRANGERS_BURST, "{from}");
        }
        // another port, or another address of one machine's network, is the same
        for from in ["192.0.2.1:6", "[::ffff:192.0.2.1]:7", "[2001:db8::2]:1", "unix"] {
            assert_eq!(taken(from, 0), 0, "{from}");
        }
        assert_eq!(taken("[2001:db8:0:1::2]:1", 0), STRANGERS_BURST);
        assert_eq!(taken("192.0.2.1:5", 9), 0);
        assert_eq!(taken("192.0.2.1:5", 10), 1);
        assert_eq!(taken("192.0.2.1:5", 1010), STRANGERS_PER_SEC);
        assert_eq!(taken("192.0.2.1:5", 10_000_000), STRANGERS_BURST);
    }

    #[test]
    fn more_addresses_than_are_told_apart_share_what_is_left_and_memory_stays_bounded() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        for n in 0..ADDRESSES_MAX + 3000 {
            budgets.take(&format!("10.{}.{}.{}:1", n >> 16, (n >> 8) & 255, n & 255), now);
        }
        assert_eq!(budgets.of.len(), ADDRESSES_MAX);
        assert!(!budgets.take("10.9.9.9:1", now), "they have shared a burst");
        assert!(budgets.take("10.0.0.1:1", now), "who was first has its own");
        // a second later all have their whole budget again, and make room
        assert!(budgets.take("10.9.9.9:1", now + Duration::from_secs(1)));
        assert_eq!(budgets.of.len(), 1);
    }
}
