//! What several ask for at the same moment is done at once, as a log commits a group: whoever has a turn does it for all who
//! wait by then.
//!
//! Always: what cannot be done for all is done for each: nobody fails for another's sake, nor because another went away.
//! Never: done again, where it is not known whether it was done.

use super::{NO_ANSWER, Outcome};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use vault::engine::database::plugin::{Connection, DatabaseError};

/// What can be done for several at once.
#[async_trait::async_trait]
pub(super) trait Step: Send + Sync + 'static {
    type Item: Clone + Send + Sync + 'static;
    type Answer: Send + 'static;

    /// Whether each is tried by itself where nobody was reached: not where all share the one connection.
    const ALONE_IF_AWAY: bool = true;

    /// Bounded in time. An answer for each, in their order; an error: nothing was done for any, or it may be done again.
    async fn all(&self, to: &Connection, items: &[Self::Item]) -> Outcome<Vec<Outcome<Self::Answer>>>;
}

pub(super) struct Together<S: Step> {
    step: Arc<S>,
    /// At a time, of one place.
    turns: usize,
    /// By the configuration that is asked of, with its revision: nobody is served with another's settings.
    places: Mutex<HashMap<(String, u64), Place<S>>>,
    seats: AtomicU64,
}

struct Place<S: Step> {
    waiting: Vec<Waiting<S>>,
    turns: Arc<Semaphore>,
}

struct Waiting<S: Step> {
    seat: u64,
    item: S::Item,
    /// `None`: by itself.
    tell: oneshot::Sender<Option<Outcome<S::Answer>>>,
}

impl<S: Step> Together<S> {
    /// One group after the other.
    pub(super) fn new(step: S) -> Self {
        Self::side_by_side(step, 1)
    }

    /// So many groups at a time, over as many connections.
    pub(super) fn side_by_side(step: S, turns: usize) -> Self {
        Self { step: Arc::new(step), turns, places: Mutex::default(), seats: AtomicU64::new(0) }
    }

    pub(super) async fn done(&self, to: &Connection, item: S::Item) -> Outcome<S::Answer> {
        let (tell, mut told) = oneshot::channel();
        let seat = self.seats.fetch_add(1, Ordering::Relaxed);
        let place = (to.id.clone(), to.revision);
        let most = usize::try_from(to.connections_max).unwrap_or(1).clamp(1, self.turns);
        let turns = self.sit_down(&place, most, Waiting { seat, item: item.clone(), tell });
        let answer = tokio::select! {
            biased;
            answer = &mut told => answer,
            turn = turns.acquire_owned() => {
                let group = self.take(&place, seat);
                match group.len() {
                    // taken along
                    0 => drop(turn),
                    // others gather meanwhile
                    1 => return holding(turn, self.alone(to, &item)).await,
                    // whoever goes away has it done for the others still
                    _ => drop(holding(turn, tokio::spawn(do_all(Arc::clone(&self.step), to.clone(), group))).await),
                }
                told.await
            }
        };
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => self.alone(to, &item).await,
            Err(_) => Err(unanswered()),
        }
    }

    /// By itself.
    pub(super) async fn alone(&self, to: &Connection, item: &S::Item) -> Outcome<S::Answer> {
        let answers = self.step.all(to, std::slice::from_ref(item)).await?;
        answers.into_iter().next().unwrap_or_else(|| Err(unanswered()))
    }

    pub(super) fn forget(&self, id: &str) {
        self.locked().retain(|(other, _), place| {
            place.waiting.retain(|waiting| !waiting.tell.is_closed());
            other != id || !place.waiting.is_empty()
        });
    }

    fn sit_down(&self, place: &(String, u64), turns: usize, waiting: Waiting<S>) -> Arc<Semaphore> {
        let mut places = self.locked();
        let empty = || Place { waiting: Vec::new(), turns: Arc::new(Semaphore::new(turns)) };
        let place = places.entry(place.clone()).or_insert_with(empty);
        place.waiting.push(waiting);
        Arc::clone(&place.turns)
    }

    /// Those who wait, with this one; nobody where another has taken it along.
    fn take(&self, place: &(String, u64), seat: u64) -> Vec<Waiting<S>> {
        let mut places = self.locked();
        let Some(place) = places.get_mut(place) else { return Vec::new() };
        place.waiting.retain(|waiting| !waiting.tell.is_closed());
        let Some(own) = place.waiting.iter().position(|waiting| waiting.seat == seat) else { return Vec::new() };
        let mut group = vec![place.waiting.swap_remove(own)];
        let others = place.waiting.len().min(TOGETHER_MAX - 1);
        group.extend(place.waiting.drain(..others));
        group
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(String, u64), Place<S>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Step> fmt::Debug for Together<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

async fn do_all<S: Step>(step: Arc<S>, to: Connection, group: Vec<Waiting<S>>) {
    let items: Vec<S::Item> = group.iter().map(|waiting| waiting.item.clone()).collect();
    let answers = step.all(&to, &items).await.unwrap_or_else(|error| {
        tracing::debug!(%error, users = items.len(), "what was asked for together is done one by one");
        items.iter().map(|_| Err(error.clone())).collect()
    });
    for (waiting, answer) in group.into_iter().zip(answers) {
        let is_final = match &answer {
            Ok(_) | Err(DatabaseError::Unknown(_)) => true,
            Err(DatabaseError::Refused(_)) => false,
            // one connection, or what one of them needs, may be away
            Err(DatabaseError::Unreachable(_)) => !S::ALONE_IF_AWAY,
        };
        let answer = is_final.then_some(answer);
        // whoever has gone needs none
        drop(waiting.tell.send(answer));
    }
}

fn unanswered() -> DatabaseError {
    DatabaseError::Unknown(NO_ANSWER.to_owned())
}

/// With the turn, for a while: others do not wait for one that takes long.
async fn holding<T>(turn: Turn, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(TURN, &mut work).await {
        return done;
    }
    drop(turn);
    work.await
}

/// An error is one that does not come: nobody closes the turns.
type Turn = Result<OwnedSemaphorePermit, AcquireError>;

const TOGETHER_MAX: usize = 64;
const TURN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// Odd numbers are refused, 13 spoils it for all; of 15 nothing is known; for 17 it is away.
    #[derive(Debug)]
    struct Halve {
        asked: Mutex<Vec<Vec<u64>>>,
        gate: Semaphore,
    }

    impl Halve {
        fn new(open: usize) -> Self {
            Self { asked: Mutex::default(), gate: Semaphore::new(open) }
        }
    }

    #[async_trait::async_trait]
    impl Step for Halve {
        type Item = u64;
        type Answer = u64;

        async fn all(&self, _to: &Connection, items: &[u64]) -> Outcome<Vec<Outcome<u64>>> {
            self.asked.lock().unwrap().push(items.to_vec());
            tokio::task::yield_now().await;
            self.gate.acquire().await.unwrap().forget();
            if items.contains(&13) {
                return Err(super::super::refused("13"));
            }
            if items.contains(&17) {
                return Err(DatabaseError::Unreachable("away".to_owned()));
            }
            let halve = |number: &u64| match number.is_multiple_of(2) {
                true => Ok(number / 2),
                false if *number == 15 => Err(DatabaseError::Unknown("15".to_owned())),
                false => Err(super::super::refused("odd")),
            };
            Ok(items.iter().map(halve).collect())
        }
    }

    fn to() -> Arc<Connection> {
        Arc::new(Connection {
            id: "a".to_owned(),
            revision: 1,
            url: String::new(),
            username: String::new(),
            password: String::new().into(),
            tls_ca: None,
            connections_max: 1,
            scram_iterations: None,
            instance: String::new(),
        })
    }

    async fn asked(numbers: impl IntoIterator<Item = u64>) -> (Vec<Outcome<u64>>, Vec<Vec<u64>>) {
        let (together, to) = (Together::new(Halve::new(1000)), to());
        let all = numbers.into_iter().map(|number| together.done(&to, number));
        let answers = futures_util::future::join_all(all).await;
        assert!(together.places.lock().unwrap().values().all(|place| place.waiting.is_empty()));
        let asked = together.step.asked.lock().unwrap().clone();
        (answers, asked)
    }

    #[tokio::test]
    async fn all_who_wait_are_served_at_once_and_each_gets_its_own() {
        let (answers, asked) = asked((0..200).map(|number| number * 2)).await;
        assert!(answers.into_iter().eq((0..200).map(Ok)));
        assert!(asked.len() <= 5 && asked.iter().all(|group| group.len() <= TOGETHER_MAX), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn groups_are_done_side_by_side_as_far_as_there_are_turns_and_connections() {
        for (turns, connections_max, at_once) in [(1, 4, 1), (3, 4, 3), (3, 2, 2), (3, 0, 1)] {
            let together = Arc::new(Together::side_by_side(Halve::new(0), turns));
            let to = Arc::new(Connection { connections_max, ..Connection::clone(&to()) });
            let asked = |number: u64| {
                let (together, to) = (Arc::clone(&together), Arc::clone(&to));
                tokio::spawn(async move { together.done(&to, number).await })
            };
            let all: Vec<_> = (0..20).map(|number| asked(number * 2)).collect();
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(together.step.asked.lock().unwrap().len(), at_once);
            together.step.gate.add_permits(100);
            for (number, one) in (0..).zip(all) {
                assert_eq!(one.await.unwrap(), Ok(number));
            }
        }
    }

    #[tokio::test]
    async fn nobody_fails_for_anothers_sake() {
        let refused = |why: &str| Err(super::super::refused(why));
        let (answers, _) = asked([2, 4, 3, 6]).await;
        assert_eq!(answers, [Ok(1), Ok(2), refused("odd"), Ok(3)]);
        let (answers, _) = asked([2, 4, 13, 6]).await;
        assert_eq!(answers, [Ok(1), Ok(2), refused("13"), Ok(3)]);
        let (answers, groups) = asked([2, 4, 15]).await;
        assert_eq!(answers.last(), Some(&Err(DatabaseError::Unknown("15".to_owned()))));
        assert_eq!(groups.iter().flatten().filter(|number| **number == 15).count(), 1, "{groups:?}");
        let (answers, _) = asked([2, 4, 17, 6]).await;
        assert_eq!(answers, [Ok(1), Ok(2), Err(DatabaseError::Unreachable("away".to_owned())), Ok(3)]);
        let (answers, asked) = asked([3]).await;
        assert_eq!((answers, asked.len()), (vec![refused("odd")], 1), "what is refused alone is not asked again");
    }

    /// As over one connection.
    struct Shared(Halve);

    #[async_trait::async_trait]
    impl Step for Shared {
        type Item = u64;
        type Answer = u64;
        const ALONE_IF_AWAY: bool = false;

        async fn all(&self, to: &Connection, items: &[u64]) -> Outcome<Vec<Outcome<u64>>> {
            self.0.all(to, items).await
        }
    }

    #[tokio::test]
    async fn over_one_connection_nobody_tries_again_what_was_away_for_all() {
        let (together, to) = (Together::new(Shared(Halve::new(1000))), to());
        let answers = futures_util::future::join_all([2, 4, 17, 6].map(|number| together.done(&to, number))).await;
        let away = || Err(DatabaseError::Unreachable("away".to_owned()));
        assert_eq!(answers, [Ok(1), away(), away(), away()]);
        assert_eq!(together.step.0.asked.lock().unwrap().len(), 2);
        let answers = futures_util::future::join_all([2, 4, 3, 6].map(|number| together.done(&to, number))).await;
        assert_eq!(answers, [Ok(1), Ok(2), Err(super::super::refused("odd")), Ok(3)]);
    }

    #[tokio::test]
    async fn nobody_is_served_with_the_settings_of_another_revision() {
        let (together, to) = (Together::new(Halve::new(1000)), to());
        let newer = Connection { revision: 2, ..Connection::clone(&to) };
        let all = (0..10).map(|number| together.done(if number % 2 == 0 { &to } else { &newer }, number * 2));
        let answers = futures_util::future::join_all(all).await;
        assert!(answers.into_iter().eq((0..10).map(Ok)));
        let groups = together.step.asked.lock().unwrap().clone();
        assert!(groups.iter().all(|group| group.iter().all(|one| one % 4 == group[0] % 4)), "{groups:?}");
        together.forget("a");
        assert!(together.locked().is_empty());
    }

    #[tokio::test]
    async fn whoever_goes_away_keeps_nobody_waiting() {
        let (together, to) = (Arc::new(Together::new(Halve::new(0))), to());
        let ask = |number: u64| {
            let (together, to) = (Arc::clone(&together), Arc::clone(&to));
            tokio::spawn(async move { together.done(&to, number).await })
        };
        let until = async |is_met: &dyn Fn() -> bool| {
            while !is_met() {
                tokio::task::yield_now().await;
            }
        };
        let first = ask(2);
        until(&|| together.step.asked.lock().unwrap().len() == 1).await;
        let (second, third, fourth) = (ask(4), ask(6), ask(8));
        until(&|| together.locked().values().all(|place| place.waiting.len() == 3)).await;
        // one that waits goes, then one that has it done for the others
        third.abort();
        assert!(third.await.is_err());
        together.step.gate.add_permits(1);
        assert_eq!(first.await.unwrap(), Ok(1));
        until(&|| together.step.asked.lock().unwrap().len() == 2).await;
        second.abort();
        assert!(second.await.is_err());
        together.step.gate.add_permits(10);
        assert_eq!(fourth.await.unwrap(), Ok(4));
    }
}
