//! Is it the data or the device? A canary under a known key, and a breaker.
//!
//! Always: single flight; a canary that sang is believed for one second, so that garbage costs at most one canary a
//! second; whatever else shows that the device died, makes it forgotten.
//! Never: a breaker that opens because of what a caller sent.

use crate::device::Link;
use crate::error::Fault;
use crate::library::lock;
use crate::resident::Resident;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// An HMAC under the domain's key whose value is known. Random bytes and session state prove nothing: modules answer
/// those while their keys are gone.
#[derive(Debug, Default)]
pub(crate) struct Canary(Mutex<Cage>);

#[derive(Debug, Default)]
struct Cage {
    key: Option<Arc<Resident>>,
    sang: Option<Instant>,
}

impl Canary {
    pub(crate) fn keep(&self, key: Arc<Resident>) {
        *lock(&self.0) = Cage { key: Some(key), sang: None };
    }

    pub(crate) fn release(&self) {
        *lock(&self.0) = Cage::default();
    }

    pub(crate) fn forget(&self) {
        lock(&self.0).sang = None;
    }

    /// The canary sang within the last second, or sings now.
    pub(crate) fn prove(&self, link: &mut Link<'_>) -> Result<(), Fault> {
        let cage = lock(&self.0);
        if cage.sang.is_some_and(|at| at.elapsed() < BELIEVED) {
            return Ok(());
        }
        Self::listen(cage, link)
    }

    /// The canary sings now: for questions that no caller can ask with made-up bytes.
    pub(crate) fn prove_now(&self, link: &mut Link<'_>) -> Result<(), Fault> {
        Self::listen(lock(&self.0), link)
    }

    fn listen(mut cage: MutexGuard<'_, Cage>, link: &mut Link<'_>) -> Result<(), Fault> {
        cage.sang = None;
        let alive = match &cage.key {
            Some(key) => key.check(link).unwrap_or(false),
            // before a domain exists nothing is served that could be confused
            None => link.find(&[]).is_ok(),
        };
        if !alive {
            tracing::error!("the canary is silent: the token does not work");
            return Err(Fault::Dead);
        }
        cage.sang = Some(Instant::now());
        Ok(())
    }
}

/// Lets calls through, or one attempt to recover at a time.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Option<Open>>);

#[derive(Debug, Clone, Copy)]
struct Open {
    next: Instant,
    wait: Duration,
    attempt: bool,
}

pub(crate) enum Admit<'a> {
    Go,
    Refuse,
    Attempt(Attempt<'a>),
}

/// The right to try to recover.
pub(crate) struct Attempt<'a>(&'a Breaker);

impl Breaker {
    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_none()
    }

    pub(crate) fn open(&self) {
        let mut state = self.state();
        if state.is_none() {
            tracing::error!("the breaker is open: the token is unavailable");
            *state = Some(Open { next: Instant::now() + FIRST_WAIT, wait: FIRST_WAIT, attempt: false });
        }
    }

    pub(crate) fn admit(&self) -> Admit<'_> {
        match &mut *self.state() {
            None => Admit::Go,
            Some(open) if !open.attempt && Instant::now() >= open.next => {
                open.attempt = true;
                Admit::Attempt(Attempt(self))
            }
            Some(_) => Admit::Refuse,
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        lock(&self.0)
    }
}

impl Attempt<'_> {
    /// Closes the breaker, or waits twice as long; gives `recovered` back.
    pub(crate) fn end(self, recovered: bool) -> bool {
        let mut state = self.0.state();
        *state = match *state {
            Some(open) if !recovered => {
                let wait = (open.wait * 2).min(LAST_WAIT);
                Some(Open { next: Instant::now() + wait, wait, attempt: false })
            }
            Some(_) | None => {
                tracing::info!("the breaker is closed: the token is back");
                None
            }
        };
        recovered
    }
}

const BELIEVED: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_breaker_lets_one_attempt_through_at_a_time() {
        let breaker = Breaker::default();
        assert!(matches!(breaker.admit(), Admit::Go));
        breaker.open();
        assert!(matches!(breaker.admit(), Admit::Refuse), "not before the first wait is over");
        std::thread::sleep(FIRST_WAIT);
        let Admit::Attempt(attempt) = breaker.admit() else { panic!("one may try") };
        assert!(matches!(breaker.admit(), Admit::Refuse), "and nobody else");
        assert!(!attempt.end(false) && !breaker.is_closed());
        std::thread::sleep(FIRST_WAIT * 2);
        let Admit::Attempt(attempt) = breaker.admit() else { panic!("one may try again") };
        assert!(attempt.end(true) && breaker.is_closed());
    }
}
