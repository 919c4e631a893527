//! What the boundary is asked to sign, and from where the proof starts. Pure: no clock, no file, no boundary.
//!
//! One size is asked for until it is answered, so that the boundary's last is either that or the one before it, whatever
//! answers were lost. A boundary that was asked twice for the same signs it twice.

use super::signing::Asked;
use envelope::merkle::{Hash, empty_root};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Asking {
    /// The last that the boundary is known to have signed.
    signed: u64,
    /// What it is asked for now. At start there always is something: the answer tells where the boundary stands.
    goal: Option<Goal>,
    /// What this process has made durable.
    recorded: Option<Asked>,
    /// At most one a pace, unless the log is being closed.
    pace: Duration,
    asked_at: Option<Instant>,
    not_before: Instant,
    backoff: Duration,
    hurried: bool,
    /// Nothing more is to be hoped for, unless the boundary surprises us.
    hopeless: bool,
}

#[derive(Debug)]
struct Goal {
    size: u64,
    root: Hash,
    /// Where the boundary may stand.
    from: Vec<u64>,
    at: usize,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) from: u64,
    pub(super) size: u64,
}

impl Asking {
    /// With what `signing` tells, which is written anew before the first question, the size of the newest checkpoint, and that of the tree.
    pub(super) fn at_start(
        recorded: Option<Asked>,
        checkpoint: Option<u64>,
        size: u64,
        pace: Duration,
        now: Instant,
    ) -> Self {
        let known = checkpoint.unwrap_or(0);
        let goal = recorded.map_or(size, |asked| asked.next.max(known));
        let mut from: Vec<u64> =
            recorded.map(|asked| asked.signed).into_iter().chain([known]).filter(|from| *from <= goal).collect();
        from.dedup();
        let signed = from.first().copied().unwrap_or(0);
        Self {
            signed,
            goal: Some(Goal { size: goal, root: empty_root(), from, at: 0 }),
            // what was read may be in memory alone: a sync of it may have failed
            recorded: None,
            pace,
            asked_at: None,
            not_before: now,
            backoff: BACKOFF_MIN,
            hurried: false,
            hopeless: false,
        }
    }

    /// What to ask now, of a tree of `size`.
    pub(super) fn next(&mut self, now: Instant, size: u64, at_once: bool) -> Option<Next> {
        if self.due(size, at_once).is_none_or(|due| now < due) {
            return None;
        }
        if self.goal.is_none() {
            self.goal = Some(Goal { size, root: empty_root(), from: vec![self.signed], at: 0 });
        }
        let goal = self.goal.as_ref()?;
        Some(Next { from: goal.from.get(goal.at).copied().unwrap_or(0), size: goal.size })
    }

    /// When there is something to ask.
    pub(super) fn due(&self, size: u64, at_once: bool) -> Option<Instant> {
        let gap = if at_once { Duration::ZERO } else { self.pace };
        match (&self.goal, self.asked_at) {
            (None, _) if size <= self.signed => None,
            (None, Some(asked_at)) => Some(self.not_before.max(asked_at + gap)),
            (Some(_), _) | (None, None) => Some(self.not_before),
        }
    }

    /// What must be durable before the question is asked; `None` where it is.
    pub(super) fn unrecorded(&self, tiles: u64) -> Option<Asked> {
        let next = self.goal.as_ref().map_or(self.signed, |goal| goal.size);
        let known = self.recorded.is_some_and(|recorded| (recorded.signed, recorded.next) == (self.signed, next));
        (!known).then_some(Asked { signed: self.signed, next, tiles })
    }

    pub(super) fn recorded(&mut self, asked: Asked) {
        self.recorded = Some(asked);
    }

    /// The question is out, about this root.
    pub(super) fn asked(&mut self, root: Hash, now: Instant) {
        self.asked_at = Some(now);
        if let Some(goal) = &mut self.goal {
            goal.root = root;
        }
    }

    /// Size and root that were asked about.
    pub(super) fn in_question(&self) -> (u64, Hash) {
        self.goal.as_ref().map_or((self.signed, empty_root()), |goal| (goal.size, goal.root))
    }

    pub(super) fn signed(&mut self) {
        if let Some(goal) = self.goal.take() {
            self.signed = goal.size;
        }
        (self.backoff, self.hopeless) = (BACKOFF_MIN, false);
    }

    /// Nobody knows whether it was signed.
    pub(super) fn unavailable(&mut self, now: Instant) {
        self.not_before = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.hopeless |= self.hurried;
    }

    /// The boundary stands elsewhere. `true` where it stands nowhere that this log knows.
    pub(super) fn forked(&mut self, now: Instant) -> bool {
        if let Some(goal) = &mut self.goal
            && goal.at + 1 < goal.from.len()
        {
            goal.at += 1;
            return false;
        }
        if let Some(goal) = &mut self.goal {
            goal.at = 0;
        }
        self.hopeless = true;
        self.not_before = now + BACKOFF_MAX;
        true
    }

    /// The log is being closed: a boundary that was away is tried once more, and then no more.
    pub(super) fn hurry(&mut self, now: Instant) {
        (self.not_before, self.hurried) = (now, true);
    }

    /// Whether the newest checkpoint of a tree of `size` may still come.
    pub(super) fn hopes(&self, size: u64) -> bool {
        !self.hopeless && (self.goal.is_some() || size > self.signed)
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_millis(75);

    fn asked(signed: u64, next: u64) -> Option<Asked> {
        Some(Asked { signed, next, tiles: 0 })
    }

    /// Asks, as the tree does.
    fn ask(asking: &mut Asking, now: Instant, size: u64, at_once: bool) -> Option<Next> {
        let next = asking.next(now, size, at_once)?;
        if let Some(asked) = asking.unrecorded(0) {
            asking.recorded(asked);
        }
        asking.asked([7; 32], now);
        Some(next)
    }

    #[test]
    fn a_start_asks_for_what_was_asked_last_from_wherever_the_boundary_may_stand() {
        let now = Instant::now();
        for (recorded, checkpoint, size, expected) in [
            (None, None, 0, vec![(0, 0)]),
            (None, None, 50, vec![(0, 50)]),
            (None, Some(40), 50, vec![(40, 50)]),
            (asked(30, 40), Some(30), 50, vec![(30, 40)]),
            (asked(30, 40), Some(40), 50, vec![(30, 40), (40, 40)]),
            (asked(30, 40), Some(20), 50, vec![(30, 40), (20, 40)]),
            (asked(30, 40), None, 50, vec![(30, 40), (0, 40)]),
            // an older copy of what was asked
            (asked(30, 40), Some(45), 50, vec![(30, 45), (45, 45)]),
        ] {
            let mut asking = Asking::at_start(recorded, checkpoint, size, PACE, now);
            for (at, (from, to)) in expected.iter().enumerate() {
                assert!(asking.hopes(size));
                let next = ask(&mut asking, now, size, false);
                assert_eq!(next, Some(Next { from: *from, size: *to }), "{recorded:?} {checkpoint:?}");
                assert_eq!(asking.forked(now), at + 1 == expected.len(), "{recorded:?} {checkpoint:?}");
            }
            assert!(!asking.hopes(size) && ask(&mut asking, now, size, true).is_none(), "it stands elsewhere");
            // and may be mended
            let later = now + BACKOFF_MAX;
            let (from, to) = expected[0];
            assert_eq!(ask(&mut asking, later, size, false), Some(Next { from, size: to }));
            asking.signed();
            let more = ask(&mut asking, later, size + 1, true);
            assert_eq!(more, Some(Next { from: to, size: size + 1 }));
        }
    }

    #[test]
    fn one_size_is_asked_for_until_it_is_answered_ever_more_seldom() {
        let mut now = Instant::now();
        let mut asking = Asking::at_start(asked(10, 10), Some(10), 10, PACE, now);
        ask(&mut asking, now, 10, false);
        asking.signed();
        now += PACE;
        let question = Some(Next { from: 10, size: 12 });
        let mut waits = Vec::new();
        for more in 0..12 {
            assert_eq!(ask(&mut asking, now, 12 + more, true), question, "though the tree grows");
            assert_eq!(asking.recorded, asked(10, 12));
            asking.unavailable(now);
            assert_eq!(ask(&mut asking, now, 20, true), None);
            let due = asking.due(20, true).unwrap();
            waits.push(due - now);
            now = due;
        }
        assert!(waits.is_sorted() && waits[0] == BACKOFF_MIN && waits[11] == BACKOFF_MAX, "{waits:?}");
        assert_eq!(ask(&mut asking, now, 30, true), question);
        assert_eq!(asking.in_question(), (12, [7; 32]));
        asking.signed();
        assert_eq!(ask(&mut asking, now, 30, true), Some(Next { from: 12, size: 30 }));
        assert_eq!(asking.recorded, asked(12, 30), "durable before the question");
    }

    #[test]
    fn what_is_new_is_asked_for_once_a_pace() {
        let now = Instant::now();
        let mut asking = Asking::at_start(None, None, 0, PACE, now);
        ask(&mut asking, now, 0, false);
        asking.signed();
        assert_eq!((ask(&mut asking, now, 0, true), asking.due(0, true)), (None, None), "there is nothing new");
        assert_eq!(ask(&mut asking, now, 5, false), None);
        assert_eq!(asking.due(5, false), Some(now + PACE));
        assert_eq!(asking.due(5, true), Some(now));
        assert_eq!(ask(&mut asking, now + PACE, 5, false), Some(Next { from: 0, size: 5 }));
        asking.signed();
        assert_eq!(ask(&mut asking, now + PACE, 6, true), Some(Next { from: 5, size: 6 }), "it is being closed");
    }

    #[test]
    fn what_was_read_at_start_is_written_anew_before_the_first_question_though_it_says_the_same() {
        let now = Instant::now();
        let mut asking = Asking::at_start(asked(4, 9), Some(4), 9, PACE, now);
        assert_eq!(asking.next(now, 9, false), Some(Next { from: 4, size: 9 }));
        assert_eq!(asking.unrecorded(0), asked(4, 9));
        asking.recorded(Asked { signed: 4, next: 9, tiles: 0 });
        assert_eq!(asking.unrecorded(0), None);
    }

    #[test]
    fn a_boundary_that_is_away_is_tried_once_more_at_the_end() {
        let now = Instant::now();
        let mut asking = Asking::at_start(None, None, 3, PACE, now);
        ask(&mut asking, now, 3, false);
        asking.unavailable(now);
        assert_eq!(ask(&mut asking, now, 3, true), None);
        asking.hurry(now);
        assert!(asking.hopes(3));
        assert!(ask(&mut asking, now, 3, true).is_some());
        asking.unavailable(now);
        assert!(!asking.hopes(3));
    }
}
