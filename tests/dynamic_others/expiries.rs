//! `cargo xtask leases`: users of Redis whose time is over as fast as they were lent, a thousand a second, without and with an
//! `aclfile`. Else it is shown that this runs, with fewer.

use super::stand::{Server, Stand};
use client::{ApiRequest, Client, Method};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tests::{Redis, until};

const SECONDS: usize = 8;
/// Longer than it takes to lend them: nothing is lent while they end.
const TTL: Duration = Duration::from_secs(15);
const CONNECTIONS: usize = 8;
/// Of the server, which answers others meanwhile.
const LOOK: Duration = Duration::from_millis(40);
const LATE_MAX: Duration = Duration::from_secs(5);

struct Lent {
    name: String,
    /// Its lease began in between.
    asked: Instant,
    made: Instant,
}

#[test]
fn users_of_redis_end_as_fast_as_they_were_lent() {
    let is_long = asked().is_some();
    let a_second = asked().unwrap_or(40);
    println!("load before: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    for (kind, redis) in [("without an `aclfile`", Redis::forgetful()), ("with an `aclfile`", Redis::remembering())] {
        let stand = Stand::new(Server::Redis(redis));
        stand.role("short", json!({"default_ttl": format!("{}s", TTL.as_secs()), "max_ttl": "1h"}));
        let lent = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let clients = join_all((0..CONNECTIONS).map(|_| stand.dev.client())).await;
            lend(&clients, a_second * SECONDS, a_second).await
        });
        let lasted = lent.iter().map(|one| one.made).max().unwrap().duration_since(lent[0].asked);
        let late = late(&stand, &lent);
        let at = |part: usize| late[(late.len() * part / 100).min(late.len() - 1)];
        println!(
            "{kind}: {} lent at {:.0} a second; gone after their time: p50 {:?}, p99 {:?}, the last {:?}",
            lent.len(),
            lent.len() as f64 / lasted.as_secs_f64(),
            at(50),
            at(99),
            at(100)
        );
        assert!(!is_long || cfg!(debug_assertions) || at(99) < LATE_MAX, "p99 {:?} late", at(99));
        until("no lease is left", Duration::from_secs(30), || stand.leases() == 0);
    }
}

/// One is asked for every so often, however many are under way.
async fn lend(clients: &[Client], count: usize, a_second: usize) -> Vec<Lent> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(a_second).unwrap());
    let mut lent = tokio::task::JoinSet::new();
    for number in 0..count {
        ticks.tick().await;
        let client = clients[number % clients.len()].clone();
        lent.spawn(async move {
            let asked = Instant::now();
            let answer = client.api(ApiRequest::new(Method::GET, "database/creds/short".to_owned())).await.unwrap();
            let answer: Value = serde_json::from_slice(answer.expose()).unwrap();
            Lent { name: answer["data"]["username"].as_str().unwrap().to_owned(), asked, made: Instant::now() }
        });
    }
    let mut lent = lent.join_all().await;
    lent.sort_by_key(|one| one.asked);
    lent
}

/// How long after its time each was seen gone, the latest last; its time is no later than its lease says.
fn late(stand: &Stand, lent: &[Lent]) -> Vec<Duration> {
    let (began, mut late) = (Instant::now(), Vec::new());
    let mut left: HashMap<&str, &Lent> = lent.iter().map(|one| (one.name.as_str(), one)).collect();
    while !left.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(300), "{} of {} are left", left.len(), lent.len());
        let users = stand.server.users();
        let (seen, there) = (Instant::now(), users.iter().map(String::as_str).collect::<HashSet<_>>());
        left.retain(|name, one| {
            let is_left = there.contains(name);
            if !is_left {
                assert!(seen >= one.asked + TTL, "{name} is gone before its time");
                late.push(seen.saturating_duration_since(one.asked + TTL));
            }
            is_left
        });
        std::thread::sleep(LOOK);
    }
    late.sort();
    late
}

/// A second.
#[expect(clippy::disallowed_methods, reason = "a long form says how many users it makes")]
fn asked() -> Option<usize> {
    std::env::var("STRONGROOM_LEASES").ok().and_then(|count| count.parse().ok())
}
