//! Two servers on one PostgreSQL database and one boundary: all are active, none leads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "how long a revocation takes is part of the result")]

use proto::identity::{CreateTokenRequest, PutPolicyRequest, RevokeTokenRequest};
use proto::kms::{
    CreateKeyRequest, DecryptRequest, DescribeKeyRequest, DisableKeyRequest, GenerateDataKeyRequest,
    GenerateDataKeyResponse, RotateKeyOnDemandRequest,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::boundary::{Kind, Stand};
use tests::postgres::Server;
use tests::{Clients, Node, bearer, binary};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

struct Scene {
    runtime: Runtime,
    database: Server,
    stand: Stand,
    one: Node,
    two: Node,
    root: String,
}

fn storage(database: &Server) -> String {
    format!(
        "[storage]\nengine = \"postgres\"\nurl = \"{}\"\npassword_file = \"{}\"\n",
        database.url(),
        database.password_file().display()
    )
}

impl Scene {
    /// Both are started in one moment on an empty database.
    fn new() -> Self {
        let (database, stand) = (Server::start(), Stand::operational(Kind::Sim));
        let storage = storage(&database);
        let (mut one, mut two) = (Node::prepare("a", &stand, &storage), Node::prepare("b", &stand, &storage));
        one.spawn();
        two.spawn();
        one.wait_ready().unwrap_or_else(|log| panic!("a:\n{log}"));
        two.wait_ready().unwrap_or_else(|log| panic!("b:\n{log}"));
        let tokens: Vec<String> = [&one, &two].into_iter().filter_map(Node::root_token).collect();
        assert_eq!(tokens.len(), 1, "one of them made the root token");
        let root = tokens.into_iter().next().unwrap();
        Self { runtime: Runtime::new().unwrap(), database, stand, one, two, root }
    }

    fn clients(&self) -> (Clients, Clients) {
        let _inside = self.runtime.enter();
        (self.one.clients(), self.two.clients())
    }
}

fn within<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = bearer(token, message);
    request.set_timeout(Duration::from_secs(12));
    request
}

async fn create_key(clients: &mut Clients, token: &str) -> Result<String, Status> {
    let made = clients.keys.create_key(within(token, CreateKeyRequest::default())).await?;
    Ok(made.into_inner().key_metadata.unwrap().key_id)
}

async fn data_key(clients: &mut Clients, token: &str, key: &str) -> Result<GenerateDataKeyResponse, Status> {
    let message = GenerateDataKeyRequest { key_id: key.into(), number_of_bytes: Some(32), ..Default::default() };
    Ok(clients.crypto.generate_data_key(within(token, message)).await?.into_inner())
}

async fn opens(clients: &mut Clients, token: &str, made: &GenerateDataKeyResponse) -> Result<(), Status> {
    let message = DecryptRequest { ciphertext_blob: made.ciphertext_blob.clone(), ..Default::default() };
    let opened = clients.crypto.decrypt(within(token, message)).await?.into_inner();
    assert_eq!(opened.plaintext, made.plaintext);
    Ok(())
}

async fn token(clients: &mut Clients, root: &str, policy: &str) -> (String, String) {
    let message = CreateTokenRequest { policies: vec![policy.into()], ..Default::default() };
    let made = clients.identity.create_token(within(root, message)).await.unwrap().into_inner();
    (made.token, made.metadata.unwrap().accessor)
}

async fn policy(clients: &mut Clients, root: &str, text: &str) {
    let message = PutPolicyRequest { name: "users".into(), policy: text.into() };
    clients.identity.put_policy(within(root, message)).await.unwrap();
}

/// Until the call is answered so.
async fn until<T>(
    what: &str,
    most: Duration,
    mut call: impl AsyncFnMut() -> Result<T, Status>,
    code: Code,
) -> Duration {
    let began = Instant::now();
    loop {
        let now = call().await.map_or_else(|status| status.code(), |_| Code::Ok);
        if now == code {
            return began.elapsed();
        }
        assert!(began.elapsed() < most, "{what}: {now:?} after {most:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const USERS: &str = r#"path "kms/*" { capabilities = ["create", "read", "update", "list"] }"#;
const NOTHING: &str = r#"path "kms/none" { capabilities = ["read"] }"#;
/// What is in force on every node, or that node serves no more.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn what_one_node_does_is_so_on_the_other_within_two_seconds() {
    let scene = Scene::new();
    let ((mut one, mut two), root) = (scene.clients(), scene.root.as_str());
    scene.runtime.block_on(async {
        // a key made here is used there, and back
        let key = create_key(&mut one, root).await.unwrap();
        let made = data_key(&mut two, root, &key).await.unwrap();
        opens(&mut one, root, &made).await.unwrap();
        policy(&mut one, root, USERS).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let (user, accessor) = token(&mut one, root, "users").await;
            // it stands in the other's memory
            for _ in 0..3 {
                data_key(&mut two, &user, &key).await.unwrap();
            }
            one.identity.revoke_token(within(root, RevokeTokenRequest { accessor })).await.unwrap();
            let call = async || data_key(&mut two, &user, &key).await;
            slowest = slowest.max(until("revoked", REVOKED_WITHIN, call, Code::Unauthenticated).await);
        }
        println!("a revoked token was refused by the other node after {slowest:?} at most, of 20");
        // a policy
        let (user, _) = token(&mut two, root, "users").await;
        data_key(&mut two, &user, &key).await.unwrap();
        policy(&mut one, root, NOTHING).await;
        let refused = async || data_key(&mut two, &user, &key).await;
        until("the policy", REVOKED_WITHIN, refused, Code::PermissionDenied).await;
        policy(&mut two, root, USERS).await;
        until("the policy back", REVOKED_WITHIN, async || data_key(&mut one, &user, &key).await, Code::Ok).await;
        // a rotation
        let rotated = one.keys.rotate_key_on_demand(within(root, RotateKeyOnDemandRequest { key_id: key.clone() }));
        let version = rotated.await.unwrap().into_inner().key_version;
        let began = Instant::now();
        while data_key(&mut two, root, &key).await.unwrap().key_version != version {
            assert!(began.elapsed() < REVOKED_WITHIN);
        }
        opens(&mut two, root, &made).await.unwrap();
    });
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let mut scene = Scene::new();
    let mut third = Node::prepare("b", &scene.stand, &storage(&scene.database));
    third.spawn();
    let log = third.wait_ready().unwrap_err();
    assert!(log.contains("called b too"), "{log}");
    assert!(scene.two.is_running());
    // killed, it has its name back at once
    scene.two.kill();
    scene.two.start_again();
}

#[test]
fn a_killed_node_loses_nothing_that_it_acknowledged_and_the_other_serves_on() {
    let mut scene = Scene::new();
    let ((one, mut two), root) = (scene.clients(), scene.root.clone());
    let key = scene.runtime.block_on(create_key(&mut two, &root)).unwrap();
    let load = |clients: &Clients| {
        let clients = clients.clone();
        let (root, key, runtime) = (root.clone(), key.clone(), scene.runtime.handle().clone());
        (0..4).map(move |_| {
            let (mut clients, root, key) = (clients.clone(), root.clone(), key.clone());
            runtime.spawn(async move {
                let (mut keys, mut made, began) = (Vec::new(), Vec::new(), Instant::now());
                while began.elapsed() < Duration::from_secs(3) {
                    match create_key(&mut clients, &root).await {
                        Ok(key) => keys.push(key),
                        Err(_) => break,
                    }
                    match data_key(&mut clients, &root, &key).await {
                        Ok(data_key) => made.push(data_key),
                        Err(_) => break,
                    }
                }
                (keys, made, began.elapsed())
            })
        })
    };
    let killed: Vec<_> = load(&one).collect();
    let other: Vec<_> = load(&two).collect();
    std::thread::sleep(Duration::from_millis(1000));
    scene.one.kill();
    scene.runtime.block_on(async {
        let mut count = 0;
        for (load, whole) in
            killed.into_iter().map(|load| (load, false)).chain(other.into_iter().map(|load| (load, true)))
        {
            let (keys, made, took) = load.await.unwrap();
            assert!(!whole || took >= Duration::from_secs(3), "the other served on: {took:?}");
            for key in &keys {
                let message = DescribeKeyRequest { key_id: key.clone() };
                two.keys.describe_key(within(&root, message)).await.unwrap();
            }
            for made in &made {
                opens(&mut two, &root, made).await.unwrap();
            }
            count += keys.len();
        }
        assert!(count > 8, "{count}");
    });
    scene.one.start_again();
    let (mut one, _) = scene.clients();
    scene.runtime.block_on(data_key(&mut one, &root, &key)).unwrap();
}

#[test]
fn a_database_that_restarts_or_hangs_is_told_in_time_and_needs_no_restart_of_a_node() {
    let mut scene = Scene::new();
    let ((mut one, mut two), root) = (scene.clients(), scene.root.clone());
    let key = scene.runtime.block_on(create_key(&mut one, &root)).unwrap();
    scene.runtime.block_on(data_key(&mut two, &root, &key)).unwrap();
    let both = async |one: &mut Clients, two: &mut Clients, code: Code, most: Duration| {
        for clients in [one, two] {
            let call = async || data_key(clients, &root, &key).await;
            until("the database", most, call, code).await;
        }
    };
    scene.database.stop();
    scene.runtime.block_on(async {
        // also what stood in memory
        both(&mut one, &mut two, Code::Unavailable, Duration::from_secs(3)).await;
        let began = Instant::now();
        let refused = create_key(&mut one, &root).await.unwrap_err();
        assert_eq!((refused.code(), began.elapsed() < Duration::from_secs(3)), (Code::Unavailable, true));
    });
    scene.database.start_again();
    scene.runtime.block_on(both(&mut one, &mut two, Code::Ok, Duration::from_secs(10)));
    // who writes has a connection of its own
    let writes = async |clients: &mut Clients| {
        until("the database", Duration::from_secs(10), async || create_key(clients, &root).await, Code::Ok).await;
    };
    scene.runtime.block_on(writes(&mut one));

    scene.database.pause();
    let slowest = scene.runtime.block_on(async {
        let (began, mut slowest) = (Instant::now(), Duration::ZERO);
        while began.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            let made = create_key(&mut one, &root).await;
            assert!(made.is_err());
            let _while_it_is_heard = data_key(&mut two, &root, &key).await;
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    });
    scene.database.go_on();
    println!("while the database hung, the slowest pair of calls ended after {slowest:?}");
    assert!(slowest < Duration::from_secs(12), "{slowest:?}");
    scene.runtime.block_on(both(&mut one, &mut two, Code::Ok, Duration::from_secs(10)));
    scene.runtime.block_on(writes(&mut two));
    assert!(scene.one.is_running() && scene.two.is_running());
}

#[test]
fn a_node_that_was_stopped_serves_nothing_that_was_revoked_meanwhile() {
    let scene = Scene::new();
    let ((mut one, mut two), root) = (scene.clients(), scene.root.as_str());
    scene.runtime.block_on(async {
        let key = create_key(&mut one, root).await.unwrap();
        policy(&mut one, root, USERS).await;
        for round in 0..4 {
            let (user, accessor) = token(&mut one, root, "users").await;
            for _ in 0..3 {
                data_key(&mut two, &user, &key).await.unwrap();
            }
            scene.two.pid().stop();
            one.identity.revoke_token(within(root, RevokeTokenRequest { accessor })).await.unwrap();
            tokio::time::sleep(REVOKED_WITHIN).await;
            // they are there before it has heard anything
            let asked: Vec<_> = (0..16)
                .map(|_| {
                    let (mut two, user, key) = (two.clone(), user.clone(), key.clone());
                    tokio::spawn(async move { data_key(&mut two, &user, &key).await.map(drop) })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(100)).await;
            scene.two.pid().go_on();
            for asked in asked {
                let refused = asked.await.unwrap().expect_err("revoked two seconds ago");
                assert_eq!(refused.code(), Code::Unauthenticated, "round {round}: {refused:?}");
            }
        }
    });
}

fn backup(node: &Node, root: &str, to: &Path) {
    let mut command = Command::new(binary("strongroom"));
    command.args(["operator", "backup", "--out"]).arg(to).env("STRONGROOM_TOKEN", root);
    let output = command.env("STRONGROOM_ADDR", format!("http://{}", node.addr())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Exit status and answer of `audit verify --store`.
fn verify(logs: &[&Node], store: &Path) -> (i32, serde_json::Value) {
    let mut command = Command::new(binary("strongroom"));
    command.args(["audit", "verify", "--output", "json", "--backup", "--store"]).arg(store);
    for node in logs {
        command.arg("--dir").arg(node.data().join("audit"));
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{err}")))
}

#[test]
fn the_logs_of_all_nodes_together_tell_every_row_and_an_older_value_is_found() {
    let mut scene = Scene::new();
    let ((mut one, mut two), root) = (scene.clients(), scene.root.clone());
    let root = root.as_str();
    let key = scene.runtime.block_on(async {
        // rows that both change, one after the other
        let key = create_key(&mut one, root).await.unwrap();
        for _ in 0..3 {
            policy(&mut two, root, USERS).await;
            policy(&mut one, root, NOTHING).await;
            let (_, accessor) = token(&mut one, root, "users").await;
            two.identity.revoke_token(within(root, RevokeTokenRequest { accessor })).await.unwrap();
        }
        key
    });
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    backup(&scene.one, root, &file("earlier"));
    scene.runtime.block_on(async {
        policy(&mut two, root, USERS).await;
        two.keys.disable_key(within(root, DisableKeyRequest { key_id: key.clone() })).await.unwrap();
    });
    // what it leaves behind is taken out at its next start, or by the other node's
    scene.one.kill();
    scene.two.stop();
    scene.two.start_again();
    scene.one.start_again();
    std::thread::sleep(Duration::from_secs(3));
    backup(&scene.two, root, &file("now"));
    let (code, told) = verify(&[&scene.one, &scene.two], &file("now"));
    assert_eq!((code, &told["valid"]), (0, &true.into()), "{told:#}");
    // each tells but a part
    assert_eq!(verify(&[&scene.one], &file("now")).0, 1);
    // what the first node told last of the policy, though the second has changed it since
    let tampered = rusqlite::Connection::open(file("now")).unwrap();
    tampered.execute("ATTACH ?1 AS earlier", [file("earlier").to_str().unwrap()]).unwrap();
    let replayed = tampered.execute(
        "UPDATE kv SET v = (SELECT e.v FROM earlier.kv e WHERE e.k = kv.k)
           WHERE CAST(k AS TEXT) LIKE '%/identity/polic%' AND v <> (SELECT e.v FROM earlier.kv e WHERE e.k = kv.k)",
        [],
    );
    assert_eq!(replayed, Ok(1));
    drop(tampered);
    let (code, told) = verify(&[&scene.one, &scene.two], &file("now"));
    assert_eq!((code, &told["store"]["findings"][0]["kind"]), (1, &"replayed".into()), "{told:#}");
}

#[test]
fn nodes_on_two_boundaries_of_one_domain_key_serve_one_store() {
    let (database, first, second) = (Server::start(), Stand::blank(Kind::Sim), Stand::blank(Kind::Sim));
    second.restore(first.initialise());
    let storage = storage(&database);
    let mut one = Node::start("a", &first, &storage);
    let mut two = Node::start("b", &second, &storage);
    let (root, runtime) = (one.root_token().unwrap(), Runtime::new().unwrap());
    assert_eq!(two.root_token(), None, "it was made");
    let clients = |one: &Node, two: &Node| {
        let _inside = runtime.enter();
        (one.clients(), two.clients())
    };
    let use_both = |one: &Node, two: &Node| {
        let (mut one, mut two) = clients(one, two);
        runtime.block_on(async {
            for _ in 0..2 {
                let key = create_key(&mut one, &root).await.unwrap();
                let made = data_key(&mut two, &root, &key).await.unwrap();
                opens(&mut one, &root, &made).await.unwrap();
                let rotate = RotateKeyOnDemandRequest { key_id: key.clone() };
                two.keys.rotate_key_on_demand(within(&root, rotate)).await.unwrap();
                let began = Instant::now();
                while data_key(&mut one, &root, &key).await.unwrap().key_version == made.key_version {
                    assert!(began.elapsed() < REVOKED_WITHIN);
                }
                opens(&mut two, &root, &made).await.unwrap();
                std::mem::swap(&mut one, &mut two);
            }
        });
    };
    use_both(&one, &two);
    one.stop();
    two.kill();
    one.start_again();
    two.start_again();
    use_both(&one, &two);
    // each boundary has signed for its own node's log alone
    for (node, stand) in [(&one, &first), (&two, &second)] {
        assert_eq!(stand.status().clusters.len(), 1, "{}", node.log());
    }
}

/// `cargo xtask nodes`: one server on the database beside two, windows alternated; what idle ones ask of it. Else it is shown
/// that this runs.
#[test]
#[expect(clippy::disallowed_methods, reason = "a long form says how long its windows are")]
fn how_much_two_nodes_serve_beside_one_and_what_they_cost_while_idle() {
    // of each node that is asked: who adds a node adds callers, and batches stay what they were
    const TASKS: usize = 32;
    let secs: Option<u64> = std::env::var("STRONGROOM_WINDOW_SECS").ok().and_then(|secs| secs.parse().ok());
    let length = secs.map_or(Duration::from_millis(200), Duration::from_secs);
    let scene = Scene::new();
    let ((mut one, two), root) = (scene.clients(), scene.root.clone());
    let key = scene.runtime.block_on(create_key(&mut one, &root)).unwrap();
    let window = |clients: Vec<Clients>| {
        let before = [scene.one.pid(), scene.two.pid(), scene.stand.pid()].map(|pid| pid.cpu_secs().unwrap());
        let began = Instant::now();
        let calls: u64 = scene.runtime.block_on(async {
            let tasks = (0..TASKS * clients.len()).map(|task| {
                let (mut clients, root, key) = (clients[task % clients.len()].clone(), root.clone(), key.clone());
                tokio::spawn(async move {
                    let (mut calls, began) = (0, Instant::now());
                    while began.elapsed() < length {
                        data_key(&mut clients, &root, &key).await.unwrap();
                        calls += 1;
                    }
                    calls
                })
            });
            let mut calls = 0;
            for task in tasks.collect::<Vec<_>>() {
                calls += task.await.unwrap();
            }
            calls
        });
        let rate = calls as f64 / began.elapsed().as_secs_f64();
        let after = [scene.one.pid(), scene.two.pid(), scene.stand.pid()].map(|pid| pid.cpu_secs().unwrap());
        let used: Vec<f64> =
            before.iter().zip(after).map(|(before, after)| (after - before) * 1e6 / calls as f64).collect();
        (rate, used[0] + used[1], used[2])
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load before: {}", load.trim());
    for round in 0..secs.map_or(1, |_| 3) {
        for (nodes, clients) in [(1, vec![one.clone()]), (2, vec![one.clone(), two.clone()])] {
            let (rate, servers, boundary) = window(clients);
            println!(
                "round {round}, {nodes} of 2 nodes asked: {rate:.0}/s, {servers:.0} us CPU a request in servers, {boundary:.0} in the boundary"
            );
        }
    }
    let transactions = || {
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        scene.database.psql(count).parse::<u64>().unwrap()
    };
    std::thread::sleep(length);
    let (before, cpu) = (transactions(), scene.one.pid().cpu_secs().unwrap() + scene.two.pid().cpu_secs().unwrap());
    let idle = length * 5;
    std::thread::sleep(idle);
    let (asked, used) =
        (transactions() - before, scene.one.pid().cpu_secs().unwrap() + scene.two.pid().cpu_secs().unwrap() - cpu);
    println!(
        "two idle nodes: {:.0} transactions/s in all, {:.1} % of a core in all",
        asked as f64 / idle.as_secs_f64(),
        used * 100.0 / idle.as_secs_f64()
    );
}
