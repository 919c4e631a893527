//! `cargo xtask leases`: users by the server beside a bare loop of the same statements over as many connections, in turns on
//! one PostgreSQL. Else it is shown that this runs.

use super::stand::Stand;
use client::{ApiRequest, Client, Method, Options, SecretBytes};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_postgres::NoTls;

const CONNECTIONS: u32 = 4;
const ASKERS: usize = 16;

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

#[expect(clippy::disallowed_methods, reason = "records tell when by the machine's clock")]
async fn ours(stand: &Stand, pg: &tokio_postgres::Client, client: &Client, count: usize) -> Rates {
    let made = spread(count, |_| {
        let (client, path) = (client.clone(), "database/creds/figures".to_owned());
        async move { drop(client.api(ApiRequest::new(Method::GET, path)).await.unwrap()) }
    })
    .await;
    let (began, began_at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let below = "sys/leases/revoke-prefix/database/creds/figures".to_owned();
    let revoke = ApiRequest { body: Some(SecretBytes::copy_from(b"{}")), ..ApiRequest::new(Method::POST, below) };
    // where there are more than one request waits for, the queue goes on
    let _ = client.api(revoke).await;
    let left = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'v-')";
    while pg.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
#[expect(clippy::disallowed_methods, reason = "a long form says how many users it makes")]
fn how_fast_users_are_made_and_ended_beside_a_bare_loop() {
    let asked: Option<usize> = std::env::var("STRONGROOM_LEASES").ok().and_then(|count| count.parse().ok());
    let (count, rounds) = asked.map_or((20, 1), |count| (count, 3));
    let stand = Stand::new();
    stand.role("figures", json!({}));
    stand.done("write", "database/config/pg", json!({ "max_open_connections": CONNECTIONS }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    println!("load before: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    runtime.block_on(async {
        let options = Options {
            ca: Some(stand.dev.ca()),
            token: Some(SecretBytes::copy_from(stand.dev.root_token().as_bytes())),
            timeout: Duration::from_secs(120),
            ..Options::new(format!("https://{}", stand.dev.addr()))
        };
        let client = Client::connect(options).await.unwrap();
        let url = stand.pg.url("postgres").replace("{{username}}", "vaultadm");
        let url = url.replace("{{password}}", "admins-first-password");
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            connections.push(Arc::new(client));
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
    });
    assert_eq!(
        stand.done("read", "sys/leases/count", Value::Null)["data"]["counts"]["database/"].as_u64().unwrap_or(0),
        0
    );
}
