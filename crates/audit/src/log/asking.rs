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
    recorded: Option<Asked>,
    /// At most one a pace, unless somebody waits.
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
    /// With what `signing` tells, the size of the newest checkpoint, and that of the tree.
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
            recorded,
            pace,
            asked_at: None,
            not_before: now,
            backoff: BACKOFF_MIN,
            hurried: false,
            hopeless: false,
        }
    }

    /// What to ask now. `wanted`: somebody waits for the newest.
    pub(super) fn next(&mut self, now: Instant, size: u64, wanted: bool) -> Option<Next> {
        if now < self.not_before {
            return None;
        }
        let paced = self.asked_at.is_none_or(|at| now >= at + self.pace);
        if self.goal.is_none() && size > self.signed && (wanted || paced) {
            self.goal = Some(Goal { size, root: empty_root(), from: vec![self.signed], at: 0 });
        }
        let goal = self.goal.as_ref()?;
        Some(Next { from: goal.from.get(goal.at).copied().unwrap_or(0), size: goal.size })
    }

    /// When there is something to ask in a tree of `size`, though nobody waits.
    pub(super) fn due(&self, size: u64) -> Option<Instant> {
        let paced = self.asked_at.map(|at| at + self.pace).filter(|_| self.goal.is_none());
        (self.goal.is_some() || size > self.signed).then(|| paced.map_or(self.not_before, |at| at.max(self.not_before)))
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
