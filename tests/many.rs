//! What a store costs that holds many tokens, secrets and leases, beside one that holds a thousand. `cargo xtask many` runs
//! this in release with a million of each; else it is shown that it runs.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "the numbers are the result")]
#![allow(clippy::disallowed_methods, reason = "a long form says how many it makes")]

use client::{ApiRequest, Client, Method, SecretBytes};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use std::ops::Range;
use std::time::{Duration, Instant};
use tests::{Dev, Redis};

const FEW: usize = 1_000;
/// Who are asked as what they are: a token and a secret of its own each.
const ASKED: usize = 1_000;
const CONNECTIONS: usize = 64;
const IN_FLIGHT: usize = 128;
const KIB_MAX: u64 = 256 * 1024;
/// From here on figures are held to, in release.
const MANY: usize = 1_000_000;

fn many() -> usize {
    let asked = std::env::var("STRONGROOM_MANY").ok().and_then(|many| many.parse().ok());
    asked.unwrap_or(0).max(2 * FEW)
}

struct Stand {
    dev: Dev,
    clients: Vec<Client>,
}

impl Stand {
    async fn new() -> Self {
        let mut stand = Self { dev: Dev::sim(), clients: Vec::new() };
        stand.connect().await;
        stand
    }

    async fn connect(&mut self) {
        self.clients.clear();
        for _ in 0..CONNECTIONS {
            self.clients.push(self.dev.client().await);
        }
    }

    fn client(&self, number: usize) -> &Client {
        &self.clients[number % CONNECTIONS]
    }

    async fn write(&self, path: &str, body: Value) -> Value {
        write(self.client(0), path, body).await
    }

    /// Exec to `ready`, median of three, and what the server holds then.
    async fn started(&mut self) -> (Duration, u64) {
        self.clients.clear();
        let mut times = Vec::new();
        for _ in 0..3 {
            self.dev.start_again().unwrap();
            times.push(self.dev.took);
        }
        times.sort();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let resident = self.resident_kib();
        self.connect().await;
        (times[1], resident)
    }

    fn resident_kib(&self) -> u64 {
        self.dev.server().unwrap().resident_kib()
    }

    /// The server's, so far, in seconds.
    fn cpu(&self) -> f64 {
        self.dev.server().unwrap().cpu_secs().unwrap()
    }
}

async fn write(client: &Client, path: &str, body: Value) -> Value {
    let body = Some(SecretBytes::copy_from(body.to_string().as_bytes()));
    let answer = client.api(ApiRequest { body, ..ApiRequest::new(Method::POST, path.to_owned()) }).await.unwrap();
    if answer.expose().is_empty() { Value::Null } else { serde_json::from_slice(answer.expose()).unwrap() }
}

/// As many at a time as are worth it, told every so often.
async fn each<T, F: Future<Output = T>>(what: &str, numbers: Range<usize>, one: impl Fn(usize) -> F) -> Vec<T> {
    let (began, count) = (Instant::now(), numbers.len());
    let mut all = std::pin::pin!(futures_util::stream::iter(numbers.map(one)).buffered(IN_FLIGHT));
    let mut done = Vec::with_capacity(count);
    while let Some(one) = all.next().await {
        done.push(one);
        if done.len() % 100_000 == 0 {
            println!("{what}: {} of {count} after {:?}", done.len(), began.elapsed());
        }
    }
    done
}

fn secret(number: usize) -> String {
    format!("secret/data/many/{}/{}", number / 1000, number % 1000)
}

/// A secret and a token each; of the tokens, those that are asked for.
async fn grow(stand: &Stand, numbers: Range<usize>, kept: impl Fn(usize) -> bool) -> Vec<(usize, SecretBytes)> {
    let made = each("secrets and tokens", numbers, |number| {
        let (client, keep) = (stand.client(number), kept(number));
        async move {
            let data = json!({"user": number, "password": "32 bytes of what a secret may be"});
            write(client, &secret(number), json!({ "data": data })).await;
            let made = write(client, "auth/token/create", json!({"policies": ["many"], "ttl": "24h"})).await;
            keep.then(|| (number, SecretBytes::copy_from(made["auth"]["client_token"].as_str().unwrap().as_bytes())))
        }
    })
    .await;
    made.into_iter().flatten().collect()
}

/// Microseconds of the server's CPU for each read, by these tokens, of the secret of each.
async fn cost(stand: &Stand, asked: &[(usize, SecretBytes)], times: usize) -> f64 {
    let before = stand.cpu();
    let clients: Vec<(usize, Client)> =
        asked.iter().map(|(number, token)| (*number, stand.client(*number).with_token(Some(token)).unwrap())).collect();
    each("reads", 0..times, |turn| {
        let (number, client) = &clients[turn % clients.len()];
        async move {
            let answer = client.api(ApiRequest::new(Method::GET, secret(*number))).await.unwrap();
            let answer: Value = serde_json::from_slice(answer.expose()).unwrap();
            assert_eq!(answer["data"]["data"]["user"], *number);
        }
    })
    .await;
    (stand.cpu() - before) * 1e6 / times as f64
}

async fn filled(numbers: Range<usize>, kept: impl Fn(usize) -> bool) -> (Stand, Vec<(usize, SecretBytes)>) {
    let (count, mut stand) = (numbers.len(), Stand::new().await);
    let policy = "path \"secret/data/many/*\" { capabilities = [\"read\"] }";
    stand.write("sys/policies/acl/many", json!({ "policy": policy })).await;
    let tokens = grow(&stand, numbers, kept).await;
    let (ready, resident) = stand.started().await;
    println!("{count} each: ready after {ready:?}, {resident} KiB");
    if count >= MANY && !cfg!(debug_assertions) {
        assert!(ready < Duration::from_secs(1) && resident < KIB_MAX);
    }
    (stand, tokens)
}

#[tokio::test]
async fn a_million_tokens_and_secrets_cost_what_a_thousand_cost() {
    let many = many();
    let (small, few) = filled(0..FEW, |_| true).await;
    let (large, all_over) = filled(0..many, |number| number < FEW || number % (many / ASKED) == 0).await;
    let (same, spread) = all_over.split_at(FEW);
    let reads = if many >= MANY { 30_000 } else { 1_000 };
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    // in turns, so that what the machine does to one it does to all; the first round warms up
    for round in 0..4 {
        for (costs, (stand, asked)) in costs.iter_mut().zip([(&small, &few[..]), (&large, same), (&large, spread)]) {
            let cost = cost(stand, asked, reads).await;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    costs.iter_mut().for_each(|costs| costs.sort_by(f64::total_cmp));
    let ([few, same, elsewhere], resident) = (costs.map(|costs| costs[1]), large.resident_kib());
    println!(
        "a read takes {few:.1} us of {FEW}; of {many} {same:.1} for the same thousand ({:.2}) and {elsewhere:.1} for a \
         thousand all over the store ({:.2}); {resident} KiB in the end",
        same / few,
        elsewhere / few
    );
    if many >= MANY && !cfg!(debug_assertions) {
        assert!(resident < KIB_MAX && same / few < 1.2 && elsewhere / few < 1.2);
    }
}

#[tokio::test]
async fn a_million_leases_are_not_loaded_at_the_start() {
    let (many, mut stand, redis) = (many(), Stand::new().await, Redis::forgetful());
    stand.write("sys/mounts/database", json!({"type": "database"})).await;
    let config = json!({"plugin_name": "redis-database-plugin", "connection_url": redis.url(), "username": "vaultadm",
                        "password": "admins-first-password", "allowed_roles": "*", "max_open_connections": 16});
    stand.write("database/config/db", config).await;
    let role =
        json!({"db_name": "db", "default_ttl": "24h", "max_ttl": "24h", "creation_statements": ["~app:* +@read"]});
    stand.write("database/roles/many", role).await;
    // so many that what the store keeps of its pages, whatever stands on them, is full
    let fewer = many / 10;
    lend(&stand, 0..fewer).await;
    let (ready, resident) = stand.started().await;
    println!("{fewer} leases: ready after {ready:?}, {resident} KiB");
    lend(&stand, fewer..many).await;
    let (ready, more) = stand.started().await;
    println!("{many} leases: ready after {ready:?}, {more} KiB");
    if many >= MANY {
        assert!(cfg!(debug_assertions) || ready < Duration::from_secs(1), "{ready:?}");
        assert!(more < resident + 4096, "{resident} KiB before");
    } else {
        let counted = stand.clients[0].api(ApiRequest::new(Method::GET, "sys/leases/count".to_owned())).await.unwrap();
        let counted: Value = serde_json::from_slice(counted.expose()).unwrap();
        assert_eq!(counted["data"]["counts"]["database/"], many, "{counted}");
    }
}

async fn lend(stand: &Stand, numbers: Range<usize>) {
    each("leases", numbers, |number| {
        let client = stand.client(number);
        async move { drop(client.api(ApiRequest::new(Method::GET, "database/creds/many".to_owned())).await.unwrap()) }
    })
    .await;
}
