//! A breaker for each database: one that cannot be reached is asked by one lease, not by all.
//!
//! Always: of this process alone, and in memory; nothing is decided by it but when to ask, and what to put right then, which is
//! forgotten where the process ends first.

use envelope::Timestamp;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Breakers {
    breakers: Mutex<HashMap<String, Breaker>>,
    /// When each was last looked at.
    looked: Mutex<HashMap<(Look, String), Timestamp>>,
    /// What is to be put right by whoever looks next.
    ordered: Mutex<HashSet<String>>,
}

/// At what, now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Look {
    /// Whether those are there to whom its users were lent.
    Holders,
    /// Which users it has.
    Users,
}

#[derive(Debug, Clone, Copy)]
struct Breaker {
    failures: u32,
    open_until: Timestamp,
    /// Somebody is asking.
    probed: bool,
}

/// How much may be asked of a database now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// One, to see whether it is there again.
    Probe,
    Shut,
}

impl Breakers {
    /// Whoever gets [`Gate::Probe`] is the one who asks: others wait.
    pub(crate) fn gate(&self, target: &str, now: Timestamp) -> Gate {
        let mut breakers = self.locked();
        match breakers.get_mut(target) {
            None => Gate::Open,
            Some(breaker) if now >= breaker.open_until => {
                breaker.open_until = now.plus(PROBED_WITHIN);
                breaker.probed = true;
                Gate::Probe
            }
            Some(_) => Gate::Shut,
        }
    }

    pub(crate) fn is_shut(&self, target: &str, now: Timestamp) -> bool {
        // who probes has opened it for itself alone
        self.locked().get(target).is_some_and(|breaker| now < breaker.open_until && !breaker.probed)
    }

    /// It was not reached the last time.
    pub(crate) fn fails(&self, target: &str) -> bool {
        self.locked().contains_key(target)
    }

    /// Now and then, and first right after the start.
    pub(crate) fn is_time_to(&self, look: Look, target: &str, now: Timestamp) -> bool {
        let (key, mut looked) = ((look, target.to_owned()), self.looked());
        let is_time = looked.get(&key).is_none_or(|at| now >= at.plus(LOOKED_EVERY));
        if is_time {
            looked.insert(key, now);
        }
        is_time
    }

    /// It is time now.
    pub(crate) fn again(&self, look: Look, target: &str) {
        self.looked().remove(&(look, target.to_owned()));
    }

    /// Looked at as soon as may be, and put right.
    pub(crate) fn order(&self, target: &str) {
        self.ordered().insert(target.to_owned());
        self.again(Look::Users, target);
    }

    pub(crate) fn take_order(&self, target: &str) -> bool {
        self.ordered().remove(target)
    }

    pub(crate) fn reached(&self, target: &str) {
        self.locked().remove(target);
    }

    /// Whoever was to ask has not: another may.
    pub(crate) fn not_asked(&self, target: &str, now: Timestamp) {
        if let Some(breaker) = self.locked().get_mut(target).filter(|breaker| breaker.probed) {
            (breaker.open_until, breaker.probed) = (now, false);
        }
    }

    pub(crate) fn unreachable(&self, target: &str, now: Timestamp) {
        let mut breakers = self.locked();
        let breaker =
            breakers.entry(target.to_owned()).or_insert(Breaker { failures: 0, open_until: now, probed: false });
        breaker.failures = breaker.failures.saturating_add(1);
        let pause = PAUSE_MIN.saturating_mul(1 << breaker.failures.saturating_sub(1).min(8)).min(PAUSE_MAX);
        breaker.open_until = now.plus(pause);
        breaker.probed = false;
    }

    /// It is not asked any more.
    pub(crate) fn forget(&self, target: &str) {
        self.locked().remove(target);
        self.looked().retain(|(_, other), _| other != target);
        self.ordered().remove(target);
    }

    fn ordered(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked(&self) -> MutexGuard<'_, HashMap<(Look, String), Timestamp>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Breaker>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LOOKED_EVERY: Duration = Duration::from_secs(600);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A probe that never comes back keeps nobody from the next one.
const PROBED_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_now_and_then_and_at_once_where_that_is_ordered() {
        let (breakers, at) = (Breakers::default(), |secs: u64| Timestamp::from_unix_millis(1000 * secs));
        let is_time = |look, secs| breakers.is_time_to(look, "a", at(secs));
        assert!(is_time(Look::Users, 0) && is_time(Look::Holders, 1) && breakers.is_time_to(Look::Users, "b", at(1)));
        assert!(!is_time(Look::Users, 599) && is_time(Look::Users, 600) && !is_time(Look::Users, 601));
        assert!(!is_time(Look::Holders, 600) && is_time(Look::Holders, 601));
        breakers.again(Look::Holders, "a");
        assert!(is_time(Look::Holders, 602) && !is_time(Look::Users, 602) && !breakers.take_order("a"));
        breakers.order("a");
        assert!(is_time(Look::Users, 603) && !is_time(Look::Holders, 603) && !breakers.take_order("b"));
        assert!(breakers.take_order("a") && !breakers.take_order("a"));
        breakers.order("a");
        breakers.forget("a");
        assert!(is_time(Look::Users, 604) && is_time(Look::Holders, 604) && !breakers.take_order("a"));
        assert!(!breakers.is_time_to(Look::Users, "b", at(604 - 4)));
    }

    #[test]
    fn what_is_away_is_asked_once_in_a_while_and_then_by_all() {
        let breakers = Breakers::default();
        let at = |millis| Timestamp::from_unix_millis(millis);
        assert_eq!(breakers.gate("a", at(0)), Gate::Open);
        breakers.unreachable("a", at(0));
        for (millis, gate) in [(499, Gate::Shut), (500, Gate::Probe), (500, Gate::Shut), (30_501, Gate::Probe)] {
            assert_eq!(breakers.gate("a", at(millis)), gate, "{millis}");
        }
        for _ in 0..40 {
            breakers.unreachable("a", at(0));
        }
        assert_eq!(breakers.gate("a", at(14_999)), Gate::Shut);
        assert_eq!(breakers.gate("a", at(15_000)), Gate::Probe);
        // who was to ask could not
        breakers.not_asked("a", at(15_001));
        assert_eq!(breakers.gate("a", at(15_001)), Gate::Probe);
        breakers.not_asked("b", at(0));
        assert_eq!(breakers.gate("b", at(0)), Gate::Open);
        breakers.reached("a");
        assert_eq!(breakers.gate("a", at(0)), Gate::Open);
    }
}
