//! Requests that are out, by id. Ids rise by one, so that a late, doubled or invented reply finds nobody.

use crate::queue::Answer;
use hsm_api::{HsmError, Reply};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Most requests out at once.
pub(crate) const OUT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    /// Id of the first place.
    base: u32,
    places: VecDeque<Option<(Answer, Instant)>>,
    waiting: usize,
}

impl Outstanding {
    pub(crate) fn next_id(&self) -> u32 {
        // OUT_MAX bounds the places
        self.base.wrapping_add(u32::try_from(self.places.len()).unwrap_or(u32::MAX))
    }

    /// The place of [`Self::next_id`].
    pub(crate) fn push(&mut self, answer: Answer, deadline: Instant) {
        self.places.push_back(Some((answer, deadline)));
        self.waiting += 1;
    }

    pub(crate) fn has_room(&self) -> bool {
        self.places.len() < OUT_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// A reply to nobody is dropped.
    pub(crate) fn complete(&mut self, id: u32, reply: Result<Reply, HsmError>) {
        let at = id.wrapping_sub(self.base) as usize;
        let Some((answer, _)) = self.places.get_mut(at).and_then(Option::take) else {
            tracing::debug!(id, "a reply that nobody waits for was dropped");
            return;
        };
        self.waiting -= 1;
        let _gone = answer.send(reply);
        self.trim();
    }

    /// Answers who has waited too long. How many they were.
    pub(crate) fn sweep(&mut self, now: Instant) -> usize {
        let mut late = 0;
        for place in &mut self.places {
            if place.as_ref().is_some_and(|(_, deadline)| *deadline <= now)
                && let Some((answer, _)) = place.take()
            {
                let _gone = answer.send(Err(HsmError::TimedOut));
                late += 1;
            }
        }
        self.waiting -= late;
        self.trim();
        late
    }

    /// The channel died: each of them may have been carried out.
    pub(crate) fn fail_all(&mut self) {
        for (answer, _) in self.places.drain(..).flatten() {
            let _gone = answer.send(Err(HsmError::Restarted));
        }
        self.waiting = 0;
    }

    fn trim(&mut self) {
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.base = self.base.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[test]
    fn late_doubled_and_invented_replies_find_nobody() {
        let mut out = Outstanding::default();
        let now = Instant::now();
        let mut waiting = Vec::new();
        for n in 0..3u64 {
            let (answer, reply) = oneshot::channel();
            assert_eq!(u64::from(out.next_id()), n);
            out.push(answer, now + Duration::from_secs(n));
            waiting.push(reply);
        }
        out.complete(7, Ok(Reply::Done));
        out.complete(1, Ok(Reply::Done));
        out.complete(1, Ok(Reply::Generation(2)));
        assert_eq!(out.sweep(now), 1);
        out.complete(0, Ok(Reply::Done));
        assert!(matches!(waiting[0].try_recv(), Ok(Err(HsmError::TimedOut))));
        assert!(matches!(waiting[1].try_recv(), Ok(Ok(Reply::Done))));
        assert!(!out.is_empty());
        out.fail_all();
        assert!(matches!(waiting[2].try_recv(), Ok(Err(HsmError::Restarted))));
        assert!(out.is_empty());
    }

    #[test]
    fn ids_go_on_over_the_end() {
        let mut out = Outstanding { base: u32::MAX, ..Outstanding::default() };
        let (first, mut a) = oneshot::channel();
        let (second, mut b) = oneshot::channel();
        out.push(first, Instant::now());
        assert_eq!(out.next_id(), 0);
        out.push(second, Instant::now());
        out.complete(0, Ok(Reply::Generation(1)));
        out.complete(u32::MAX, Ok(Reply::Done));
        assert!(matches!(a.try_recv(), Ok(Ok(Reply::Done))));
        assert!(matches!(b.try_recv(), Ok(Ok(Reply::Generation(1)))));
        assert_eq!(out.next_id(), 1);
    }
}
