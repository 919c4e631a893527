//! `cargo xtask leases`: users by the server beside a bare loop of the same statements over as many connections, in turns on
//! one PostgreSQL; and a thousand of them that end while it goes away. Else it is shown that this runs, with fewer.

use super::stand::Stand;
use audit::Outcome;
use client::{ApiRequest, Client, Method, SecretBytes};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::until;
use tokio_postgres::NoTls;

const CONNECTIONS: u32 = 4;
const ASKERS: usize = 16;
/// Leases of one database that are attended to at one moment, by the request that ends them and by the queue's worker.
const UNDER_WAY_MAX: usize = 2 * 192;

/// So many a second: made; their access ended; that and cleaned up.
#[derive(Debug, Clone, Copy)]
struct Rates {
    made: f64,
    access_ended: f64,
    ended: f64,
}

async fn spread<F: Future<Output = ()> + Send + 'static>(count: usize, one: impl Fn(usize) -> F) -> f64 {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        if tasks.len() >= ASKERS {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(one(number));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// Each connection one user after the other: what changes something, without what is looked up before, and without the pause
/// in which a login that was just allowed becomes a session.
async fn bare(connections: &[Arc<tokio_postgres::Client>], count: usize, round: usize) -> Rates {
    let make = |name: &str| {
        let verifier = postgres_protocol::password::scram_sha_256(b"A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7h8");
        vec![
            format!(
                "BEGIN; CREATE ROLE \"{name}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                 PASSWORD '{verifier}'; GRANT app_ro TO \"{name}\"; ALTER ROLE \"{name}\" VALID UNTIL '2100-01-01'; \
                 COMMENT ON ROLE \"{name}\" IS 'bare'"
            ),
            "COMMIT".to_owned(),
        ]
    };
    let end_access = |name: &str| {
        vec![
            format!("ALTER ROLE \"{name}\" NOLOGIN PASSWORD NULL CONNECTION LIMIT 0 VALID UNTIL '-infinity'"),
            format!("GRANT \"{name}\" TO CURRENT_USER"),
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"),
        ]
    };
    let clean_up = |name: &str| vec![format!("DROP OWNED BY \"{name}\""), format!("DROP ROLE \"{name}\"")];
    let made = looped(connections, count, round, make).await;
    let began = Instant::now();
    let access_ended = looped(connections, count, round, end_access).await;
    looped(connections, count, round, clean_up).await;
    Rates { made, access_ended, ended: count as f64 / began.elapsed().as_secs_f64() }
}

async fn looped(
    connections: &[Arc<tokio_postgres::Client>],
    count: usize,
    round: usize,
    statements: impl Fn(&str) -> Vec<String> + Clone + Send + 'static,
) -> f64 {
    let (began, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for connection in connections {
        let (connection, next, statements) = (Arc::clone(connection), Arc::clone(&next), statements.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                for statement in statements(&format!("bare-{round}-{number:06}")) {
                    connection.batch_execute(&statement).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// How many a second.
async fn make(client: &Client, count: usize) -> f64 {
    spread(count, |_| {
        let (client, path) = (client.clone(), "database/creds/figures".to_owned());
        async move { drop(client.api(ApiRequest::new(Method::GET, path)).await.unwrap()) }
    })
    .await
}

/// Where there are more than one request waits for, the queue goes on.
async fn revoke_all(client: &Client) {
    let below = "sys/leases/revoke-prefix/database/creds/figures".to_owned();
    let revoke = ApiRequest { body: Some(SecretBytes::copy_from(b"{}")), ..ApiRequest::new(Method::POST, below) };
    let _ = client.api(revoke).await;
}

/// Until so many are left.
async fn until_roles(pg: &tokio_postgres::Client, left: i64) {
    let counted = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'v-')";
    let began = Instant::now();
    while pg.query_one(counted, &[]).await.unwrap().get::<_, i64>(0) > left {
        assert!(began.elapsed() < Duration::from_secs(300), "more than {left} roles are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "records tell when by the machine's clock")]
async fn ours(stand: &Stand, pg: &tokio_postgres::Client, client: &Client, count: usize) -> Rates {
    let made = make(client, count).await;
    let (began, began_at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    revoke_all(client).await;
    until_roles(pg, 0).await;
    let ended = count as f64 / began.elapsed().as_secs_f64();
    // as it is recorded: nobody comes in, and nobody is in
    let mut last = 0;
    stand.dev.audit_records(|record| {
        if record.operation == "LeaseAccessEnded" {
            last = last.max(record.time);
        }
    });
    let took = Duration::from_millis(last).saturating_sub(began_at);
    Rates { made, access_ended: count as f64 / took.as_secs_f64(), ended }
}

#[test]
fn how_fast_users_are_made_and_ended_beside_a_bare_loop() {
    let (count, rounds) = asked().map_or((20, 1), |count| (count, 3));
    let stand = Stand::new();
    stand.role("figures", json!({}));
    stand.done("write", "database/config/pg", json!({ "max_open_connections": CONNECTIONS }));
    println!("load before: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    runtime().block_on(async {
        let client = stand.dev.client().await;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Arc::new(connection(&stand).await));
        }
        for round in 0..rounds {
            let bare = bare(&connections, count, round).await;
            let ours = ours(&stand, connections.first().unwrap(), &client, count).await;
            println!("round {round}, {count} users, a second");
            for (what, ours, bare) in [
                ("made", ours.made, bare.made),
                ("access ended", ours.access_ended, bare.access_ended),
                ("that and cleaned up", ours.ended, bare.ended),
            ] {
                println!("  {what}: {ours:.0}, bare {bare:.0}: {:.2}", ours / bare);
            }
        }
        stand.done("write", "database/config/pg", json!({ "scram_iterations": 1 }));
        let hashed_once = ours(&stand, connections.first().unwrap(), &client, count).await;
        println!("made with `scram_iterations` of 1: {:.0} a second", hashed_once.made);
    });
    until("no lease is left", Duration::from_secs(10), || stand.leases() == 0);
}

/// Those that were under way have failed once each, and nobody has tried the others meanwhile.
#[test]
fn leases_that_end_together_end_once_each_though_their_database_goes_away_meanwhile() {
    let count = asked().unwrap_or(600);
    let stand = Stand::new();
    stand.role("figures", json!({}));
    stand.done("write", "database/config/pg", json!({ "max_open_connections": CONNECTIONS }));
    runtime().block_on(async {
        let (client, pg) = (stand.dev.client().await, connection(&stand).await);
        make(&client, count).await;
        let asker = client.clone();
        let revoked = tokio::spawn(async move { revoke_all(&asker).await });
        until_roles(&pg, i64::try_from(count - 1).unwrap()).await;
        stand.pg.crash();
        let _ = revoked.await;
    });
    stand.pg.stop();
    std::thread::sleep(Duration::from_secs(4));
    let left = stand.leases();
    stand.pg.go_on();
    let began = Instant::now();
    until("nothing is left", Duration::from_secs(120), || stand.leases() == 0 && stand.roles().is_empty());
    println!(
        "{left} of {count} leases were left when the database went away, none {:?} after it was back",
        began.elapsed()
    );
    assert!(left > 0, "all had ended before the database went away");
    let (mut ended, mut cleaned, mut failed) = (BTreeMap::new(), BTreeMap::new(), 0);
    stand.dev.audit_records(|record| match record.operation {
        "LeaseAccessEnded" => *ended.entry(record.path.to_owned()).or_insert(0) += 1,
        "LeaseCleanedUp" => *cleaned.entry(record.path.to_owned()).or_insert(0) += 1,
        "LeaseEnd" if matches!(record.outcome, Outcome::Failed(_)) => failed += 1,
        _ => {}
    });
    for (what, times) in [("ended", ended), ("cleaned up", cleaned)] {
        assert_eq!(times.len(), count, "{what}");
        assert!(times.values().all(|times| *times == 1), "{what}: {times:?}");
    }
    assert!(failed <= UNDER_WAY_MAX + 16, "{failed} attempts of {left} leases failed");
}

#[expect(clippy::disallowed_methods, reason = "a long form says how many users it makes")]
fn asked() -> Option<usize> {
    std::env::var("STRONGROOM_LEASES").ok().and_then(|count| count.parse().ok())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn connection(stand: &Stand) -> tokio_postgres::Client {
    let url = stand.pg.url("postgres").replace("{{username}}", "vaultadm");
    let url = url.replace("{{password}}", "admins-first-password");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
