//! `cargo xtask leases`: users by the server beside a bare loop of the same statements over as many connections, in turns on
//! one PostgreSQL. Else it is shown that this runs.

use super::stand::Stand;
use client::{ApiRequest, Client, Method, Options, SecretBytes};
use envelope::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vault::engine::database::plugin::{Connection, DatabasePlugin, NewUser, User};

const CONNECTIONS: u32 = 4;
const ASKERS: usize = 16;

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the servers' clocks are the machine's")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(u64::try_from(since.as_millis()).unwrap())
}

/// So many a second: made, and their access ended and they cleaned up.
#[derive(Debug, Clone, Copy)]
struct Rates {
    made: f64,
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

async fn bare(plugin: &Arc<dyn DatabasePlugin>, to: &Arc<Connection>, count: usize, round: usize) -> Rates {
    let named = move |number: usize| (format!("v-bare-{round}-{number:06}"), format!("{round:04x}{number:08x}"));
    let both = || (Arc::clone(plugin), Arc::clone(to));
    let made = spread(count, |number| {
        let ((plugin, to), (name, lease)) = (both(), named(number));
        async move {
            let new = NewUser {
                user: User { name: &name, lease: &lease, statements: &[], heir: None },
                password: "A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7h8",
                until: now().plus(Duration::from_secs(3600)),
                statements: &[],
                groups: &["app_ro".to_owned()],
                connections_max: None,
                settings: &BTreeMap::new(),
            };
            plugin.create_user(&to, &new, now()).await.unwrap();
        }
    })
    .await;
    let ended = spread(count, |number| {
        let ((plugin, to), (name, lease)) = (both(), named(number));
        async move {
            let user = User { name: &name, lease: &lease, statements: &[], heir: None };
            plugin.end_access(&to, &user).await.unwrap();
            plugin.clean_up(&to, &user).await.unwrap();
        }
    })
    .await;
    Rates { made, ended }
}

async fn ours(stand: &Stand, client: &Client, count: usize) -> Rates {
    let made = spread(count, |_| {
        let (client, path) = (client.clone(), "database/creds/figures".to_owned());
        async move { drop(client.api(ApiRequest::new(Method::GET, path)).await.unwrap()) }
    })
    .await;
    let began = Instant::now();
    let below = "sys/leases/revoke-prefix/database/creds/figures".to_owned();
    let revoke = ApiRequest { body: Some(SecretBytes::copy_from(b"{}")), ..ApiRequest::new(Method::POST, below) };
    // where there are more than one request waits for, the queue goes on
    let _ = client.api(revoke).await;
    while !stand.roles().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Rates { made, ended: count as f64 / began.elapsed().as_secs_f64() }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a long form says how many users it makes")]
fn how_fast_users_are_made_and_ended_beside_a_bare_loop() {
    let asked: Option<usize> = std::env::var("STRONGROOM_LEASES").ok().and_then(|count| count.parse().ok());
    let (count, rounds) = asked.map_or((20, 1), |count| (count, 3));
    let stand = Stand::new();
    stand.role("figures", json!({}));
    stand.done("write", "database/config/pg", json!({ "max_open_connections": CONNECTIONS }));
    let plugin =
        Arc::clone(plugins::databases(rustls::RootCertStore::empty()).plugin("postgresql-database-plugin").unwrap());
    let to = Arc::new(Connection {
        id: "bare".to_owned(),
        revision: 1,
        url: stand.pg.url("postgres"),
        username: "vaultadm".to_owned(),
        password: "admins-first-password".to_owned().into(),
        tls_ca: None,
        connections_max: CONNECTIONS,
        instance: "cd".repeat(16),
    });
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
        for round in 0..rounds {
            let bare = bare(&plugin, &to, count, round).await;
            let ours = ours(&stand, &client, count).await;
            println!(
                "round {round}, {count} users: made {:.0}/s, bare {:.0}/s, {:.2}; ended {:.0}/s, bare {:.0}/s, {:.2}",
                ours.made,
                bare.made,
                ours.made / bare.made,
                ours.ended,
                bare.ended,
                ours.ended / bare.ended
            );
        }
    });
    assert_eq!(
        stand.done("read", "sys/leases/count", Value::Null)["data"]["counts"]["database/"].as_u64().unwrap_or(0),
        0
    );
}
