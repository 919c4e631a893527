//! Databases in which users are leased: what all kinds of them do alike.

mod address;
pub mod mariadb;
pub mod postgres;
pub mod redis;
mod tls;
mod together;

use envelope::Timestamp;
use std::collections::HashSet;
use std::time::Duration;
use vault::engine::database::plugin::DatabaseError;

type Outcome<T> = Result<T, DatabaseError>;

fn refused(why: &str) -> DatabaseError {
    DatabaseError::Refused(why.to_owned())
}

/// Whoever cannot be logged in as, or reached, is away.
fn away(error: DatabaseError) -> DatabaseError {
    match error {
        DatabaseError::Refused(why) | DatabaseError::Unreachable(why) | DatabaseError::Unknown(why) => {
            DatabaseError::Unreachable(why)
        }
    }
}

/// What a server says, as it may stand in a log and in an answer.
fn said(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}

/// Those of the names that are not known.
fn but(names: &[&str], known: &HashSet<String>) -> Vec<String> {
    names.iter().filter(|name| !known.contains(**name)).map(|name| (*name).to_owned()).collect()
}

/// The server's clock, Unix milliseconds, less ours.
fn ahead_millis(its: i64, now: Timestamp) -> i64 {
    its.saturating_sub(i64::try_from(now.unix_millis()).unwrap_or(i64::MAX))
}

async fn within<T>(outcome: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    within_share(1, outcome).await
}

/// What changes something once it is sent: whoever is not answered does not know.
async fn sent<T>(outcome: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    within(outcome).await.map_err(|error| match error {
        DatabaseError::Unreachable(why) => DatabaseError::Unknown(why),
        DatabaseError::Refused(_) | DatabaseError::Unknown(_) => error,
    })
}

/// For so many at once: several together take less than one may, so that each has its time by itself still.
async fn within_share<T>(users: usize, outcome: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let most = if users > 1 { TOGETHER_WITHIN } else { DONE_WITHIN };
    let outcome = tokio::time::timeout(most, outcome).await;
    outcome.unwrap_or_else(|_| Err(DatabaseError::Unreachable(NO_ANSWER.to_owned())))
}

const NO_ANSWER: &str = "no answer in time";
const SAID_MAX: usize = 300;
const DONE_WITHIN: Duration = Duration::from_secs(9);
const TOGETHER_WITHIN: Duration = Duration::from_secs(3);
/// How long after its lease a user can still come in where nobody ends it.
const NET: Duration = Duration::from_secs(30);
const LOOKED_FOR_SESSIONS: u32 = 60;
const SESSIONS_PAUSE: Duration = Duration::from_millis(50);
/// Between a login that was allowed and its session.
const LET_IN_WITHIN: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_one_line_of_bounded_length() {
        for (text, told) in [("a\nb\u{1b}[31m\0", "ab[31m"), ("ä", "ä"), ("", "")] {
            assert_eq!(said(text), told);
        }
        assert_eq!(said(&"ä".repeat(1000)).chars().count(), SAID_MAX);
    }
}
