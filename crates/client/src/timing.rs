//! When what ends is renewed, when it is replaced, and how long a failure waits. Pure: the moment and the spread are arguments.

use std::time::{Duration, Instant};

/// A token or a lease, as the server granted it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When it was granted, or renewed last.
    pub given: Instant,
    /// For how long from then; zero where it never ends.
    pub ttl: Duration,
    /// For how long at first. A renewal that gives less has met the longest life there is.
    pub first: Duration,
    pub renewable: bool,
}

/// A random byte, so that many that started together do not ask together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread(pub u8);

/// What to do about a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It does not end.
    Never,
    Renew(Instant),
    /// A renewal would not help: another one is needed before it ends.
    Replace(Instant),
}

impl Spread {
    /// Where the system gives no random byte, none is missed.
    pub fn random() -> Self {
        let mut byte = [128];
        let _ = getrandom::fill(&mut byte);
        Self(byte[0])
    }
}

impl Term {
    /// As granted at first.
    pub fn new(given: Instant, ttl: Duration, renewable: bool) -> Self {
        Self { given, ttl, first: ttl, renewable }
    }

    /// As renewed. What ends is told in whole seconds: none left is no end that never comes.
    #[must_use]
    pub fn renewed(self, given: Instant, ttl: Duration, renewable: bool) -> Self {
        let ttl = if self.ttl.is_zero() { ttl } else { ttl.max(Duration::from_millis(1)) };
        Self { given, ttl, first: self.first, renewable }
    }

    pub fn ends(&self) -> Option<Instant> {
        (!self.ttl.is_zero()).then(|| self.given + self.ttl)
    }

    /// At two thirds of what was granted, a tenth of that earlier or later.
    pub fn due(&self, spread: Spread) -> Due {
        if self.ttl.is_zero() {
            return Due::Never;
        }
        let at = self.given + spread_by_a_tenth(self.ttl * 2 / 3, spread);
        // but for what is lost by counting whole seconds
        let shortened = self.ttl * 10 < self.first * 9;
        if self.renewable && !shortened { Due::Renew(at) } else { Due::Replace(at) }
    }

    /// When a renewal that failed is tried again; nothing where it ends before that could help.
    pub fn again(&self, failures: u32, now: Instant, spread: Spread) -> Option<Instant> {
        let left = self.ends()?.saturating_duration_since(now);
        let wait = back_off(failures, None, spread).min(left / 3);
        (left >= WORTH_TRYING).then(|| now + wait)
    }
}

/// Twice as long with each failure in a row, at most a minute; never shorter than what the server asked for, within five.
pub fn back_off(failures: u32, asked: Option<Duration>, spread: Spread) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let wait = spread_by_a_tenth(doubled, spread);
    asked.map_or(wait, |asked| wait.max(asked.min(ASKED_MAX)))
}

/// When what lives so long is replaced, where it cannot be renewed: at half of it, a tenth of that earlier or later.
pub fn half_of(life: Duration, spread: Spread) -> Duration {
    spread_by_a_tenth(life / 2, spread)
}

fn spread_by_a_tenth(around: Duration, Spread(byte): Spread) -> Duration {
    around * (900 + u32::from(byte) * 200 / 255) / 1000
}

/// After the first failure.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);
const ASKED_MAX: Duration = Duration::from_secs(300);
const WORTH_TRYING: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: Spread = Spread(128);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn it_is_renewed_at_two_thirds_and_replaced_where_that_does_not_help() {
        let now = Instant::now();
        let at = |due: Due| match due {
            Due::Never => None,
            Due::Renew(at) => Some(("renew", at.duration_since(now).as_secs())),
            Due::Replace(at) => Some(("replace", at.duration_since(now).as_secs())),
        };
        for (ttl, first, renewable, expected) in [
            (0, 0, true, None),
            (3600, 3600, true, Some(("renew", 2400))),
            (3600, 3600, false, Some(("replace", 2400))),
            // a second less is counting, and more than a few the longest life's end in sight
            (3599, 3600, true, Some(("renew", 2399))),
            (3000, 3600, true, Some(("replace", 2000))),
            (2, 3, true, Some(("replace", 1))),
            (1, 1, true, Some(("renew", 0))),
        ] {
            let term = Term { given: now, ttl: secs(ttl), first: secs(first), renewable };
            assert_eq!(at(term.due(MIDDLE)), expected, "{ttl} of {first}");
        }
    }

    #[test]
    fn what_has_no_whole_second_left_ends_and_what_never_ended_goes_on() {
        let now = Instant::now();
        let renewed = |ttl| Term::new(now, secs(ttl), true).renewed(now, secs(0), true);
        assert!(matches!(renewed(3).due(MIDDLE), Due::Replace(at) if at <= now + Duration::from_millis(1)));
        assert_eq!(renewed(0).due(MIDDLE), Due::Never);
    }

    #[test]
    fn many_that_started_together_do_not_ask_together_and_none_too_late() {
        let now = Instant::now();
        let term = Term::new(now, secs(300), true);
        let at = |byte| match term.due(Spread(byte)) {
            Due::Renew(at) => at.duration_since(now),
            other @ (Due::Never | Due::Replace(_)) => panic!("{other:?}"),
        };
        assert_eq!((at(0), at(255)), (secs(180), secs(220)));
        let different: std::collections::BTreeSet<_> = (0..=255).map(at).collect();
        assert!(different.len() > 150, "{}", different.len());
    }

    #[test]
    fn a_failed_renewal_is_tried_again_while_there_is_time() {
        let now = Instant::now();
        let term = Term::new(now, secs(60), true);
        let wait = |failures, passed| {
            let now = now + secs(passed);
            term.again(failures, now, MIDDLE).map(|at| at.duration_since(now).as_millis())
        };
        assert_eq!(wait(1, 40), Some(250));
        assert_eq!(wait(5, 40), Some(4000));
        // never so long that the end would come first
        assert_eq!(wait(9, 40), Some(6666));
        assert_eq!(wait(1, 60), None);
        assert_eq!(wait(1, 600), None);
        assert_eq!(Term::new(now, secs(0), true).again(1, now, MIDDLE), None);
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_as_long_as_it_is_asked_to() {
        for (failures, asked, millis) in [
            (0, None, 250),
            (1, None, 250),
            (2, None, 500),
            (6, None, 8000),
            (9, None, 60000),
            (u32::MAX, None, 60000),
            (1, Some(secs(7)), 7000),
            (9, Some(secs(7)), 60000),
            (1, Some(secs(86400)), 300_000),
        ] {
            let waited = back_off(failures, asked, MIDDLE).as_millis();
            assert!(waited.abs_diff(millis) <= millis / 100, "{failures} {asked:?}: {waited}");
        }
    }
}
