//! Witnesses of a running server's log: real `strongroom audit witness` processes cosign what the server shows them; who
//! demands it waits for them, nobody else does; a log that was set back is found.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::identity::{CreateTokenRequest, PutPolicyRequest};
use proto::kms::GenerateRandomRequest;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tests::{Dev, Pid, bearer, binary, reason, until};
use tonic::{Code, Status};

fn strongroom(arguments: &[&str]) -> Output {
    Command::new(binary("strongroom")).args(arguments).output().unwrap()
}

/// Ends with this value.
struct Witness {
    child: Child,
    dir: PathBuf,
    addr: String,
}

impl Witness {
    /// For the log of `dev`; with its certificate, or without any.
    fn start(dev: &Dev, name: &str, tls: bool) -> Self {
        let dir = dev.folder().join(name);
        let mut command = Command::new(binary("strongroom"));
        command.args(["audit", "witness", "--name", name, "--listen", "127.0.0.1:0", "--dir"]).arg(&dir);
        command.arg("--log").arg(dev.audit_dir().join("log.vkey"));
        if tls {
            let file = |name| dev.data().join("tls").join(name);
            command.arg("--tls-cert").arg(file("server.pem")).arg("--tls-key").arg(file("server-key.pem"));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(line.starts_with("witness"), "{line}");
        Self { child, dir, addr }
    }

    fn keys(&self) -> PathBuf {
        self.dir.join("witness.vkey")
    }

    fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// Its part of a server's configuration: with all of its keys, or the one of so many.
    fn section(&self, ca: Option<&Path>, key: Option<usize>) -> String {
        let keys = std::fs::read_to_string(self.keys()).unwrap();
        let keys = keys.lines().enumerate().filter(|(at, _)| key.is_none_or(|key| key == *at));
        let keys: Vec<&str> = keys.map(|(_, line)| line).collect();
        let port = self.addr.rsplit(':').next().unwrap();
        let mut out = format!("[[audit.witness]]\nkey = \"{}\"\n", keys.join(" "));
        match ca {
            Some(ca) => write!(out, "url = \"https://localhost:{port}\"\nca = {:?}\n", ca.to_str().unwrap()).unwrap(),
            None => writeln!(out, "url = \"http://127.0.0.1:{port}/\"").unwrap(),
        }
        out
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.pid().go_on();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the server started again with this at the end of its configuration.
async fn configure(dev: &Dev, more: &str) {
    let file = dev.data().join("server.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}\n{more}")).unwrap();
    let server = dev.server().unwrap();
    server.terminate();
    until("another server runs", Duration::from_secs(20), || dev.server().is_some_and(|now| now != server));
    let began = Instant::now();
    while random(dev, &dev.root_token(), 5).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not serve: {}", dev.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn random(dev: &Dev, token: &str, secs: u64) -> Result<(), Status> {
    let mut request = bearer(token, GenerateRandomRequest { number_of_bytes: 8 });
    request.set_timeout(Duration::from_secs(secs));
    dev.clients().crypto.generate_random(request).await.map(drop)
}

/// A token whose calls of `kms` demand this.
async fn token(dev: &Dev, name: &str, ack: &str) -> String {
    let policy = format!("path \"kms/*\" {{ capabilities = [\"update\"] {ack} }}");
    let put = PutPolicyRequest { name: name.into(), policy };
    dev.clients().identity.put_policy(bearer(&dev.root_token(), put)).await.unwrap();
    let create = CreateTokenRequest { policies: vec![name.into()], ..Default::default() };
    dev.clients().identity.create_token(bearer(&dev.root_token(), create)).await.unwrap().into_inner().token
}

/// `audit verify` of the log, these witnesses demanded; whether it is valid, and what it printed.
fn verified(dev: &Dev, witnesses: &[&Witness], more: &[&str]) -> (bool, serde_json::Value) {
    let dir = dev.audit_dir();
    let mut arguments = vec!["audit", "verify", "--dir", dir.to_str().unwrap(), "--output", "json"];
    let keys: Vec<String> = witnesses.iter().map(|witness| witness.keys().to_str().unwrap().to_owned()).collect();
    arguments.extend(keys.iter().flat_map(|key| ["--witness", key]));
    let output = strongroom(&[&arguments, more].concat());
    let out = String::from_utf8_lossy(&output.stdout);
    let told =
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), told)
}

fn witnessed(dev: &Dev, witnesses: &[&Witness]) -> u64 {
    let (valid, told) = verified(dev, witnesses, &[]);
    if valid { told["witnessed"].as_u64().unwrap() } else { 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_cosigned_verified_and_waited_for_by_who_demands_it_alone() {
    let dev = Dev::sim();
    let strict = token(&dev, "strict", r#"audit_ack = "witness""#).await;
    let refused = random(&dev, &strict, 5).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "AUDIT_NO_WITNESS".into()));

    let (first, second) = (Witness::start(&dev, "w1.example/a", true), Witness::start(&dev, "w2.example/b", false));
    let ca = dev.ca();
    // one by both keys over TLS, the other by ML-DSA-44 alone
    configure(&dev, &format!("{}{}", first.section(Some(&ca), None), second.section(None, Some(1)))).await;
    let both = [&first, &second];
    until("both cosign", Duration::from_secs(15), || witnessed(&dev, &[&first]) > 0);
    // the second one's Ed25519 key is not configured, so its line is not kept
    let (valid, told) = verified(&dev, &both, &[]);
    assert!(!valid && told["result"].as_str().unwrap().contains("of 2 witnesses 1 cosigned"), "{told}");
    let (valid, told) = verified(&dev, &both, &["--quorum", "1"]);
    assert!(valid && told["witnesses"].as_array().unwrap().len() == 1, "{told}");
    let key = std::fs::read_to_string(second.keys()).unwrap().lines().nth(1).unwrap().to_owned();
    let (valid, told) = verified(&dev, &[&first], &["--witness", &key]);
    assert!(valid && told["witnesses"].as_array().unwrap().len() == 2, "{told}");
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let before = dev_entries(&dev);
        let began = Instant::now();
        random(&dev, &strict, 5).await.unwrap();
        slowest = slowest.max(began.elapsed());
        assert!(witnessed(&dev, &[&first]) > before, "what was answered is cosigned");
    }
    eprintln!("slowest of 20 witnessed calls: {slowest:?}");

    second.pid().stop();
    let began = Instant::now();
    let refused = random(&dev, &strict, 3).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "AUDIT_UNWITNESSED".into()), "{refused:?}");
    assert!(refused.message().contains("recorded, but not yet witnessed"), "{refused:?}");
    assert!((2000..3100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        random(&dev, &dev.root_token(), 5).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "nobody else waits: {slowest:?}");
    until("it is told", Duration::from_secs(10), || dev.log().contains("the witness does not cosign"));
    second.pid().go_on();
    random(&dev, &strict, 15).await.unwrap();
    let (valid, told) = verified(&dev, &[&first], &["--witness", &key]);
    assert!(valid, "{told}");
}

fn dev_entries(dev: &Dev) -> u64 {
    let mut count = 0;
    dev.audit_records(|_| count += 1);
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enough_of_the_witnesses_are_enough() {
    let dev = Dev::sim();
    let strict = token(&dev, "strict", r#"audit_ack = "witness""#).await;
    let (first, second) = (Witness::start(&dev, "w1", false), Witness::start(&dev, "w2", false));
    let quorum = "[audit]\nwitness_quorum = 1\n";
    configure(&dev, &format!("{quorum}{}{}", first.section(None, None), second.section(None, Some(0)))).await;
    first.pid().stop();
    for _ in 0..3 {
        random(&dev, &strict, 8).await.unwrap();
    }
    first.pid().go_on();
    second.pid().stop();
    for _ in 0..3 {
        random(&dev, &strict, 20).await.unwrap();
    }
    until("the other one cosigns too", Duration::from_secs(20), || witnessed(&dev, &[&first]) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_set_back_with_all_that_stands_beside_it_is_refused_by_its_witness_and_told() {
    let mut dev = Dev::sim();
    let strict = token(&dev, "strict", r#"audit_ack = "witness""#).await;
    let signed = token(&dev, "signed", r#"audit_ack = "checkpoint""#).await;
    let witness = Witness::start(&dev, "w1", false);
    let section = witness.section(None, None);
    dev.end();
    // the whole machine's disk, but not the witness's
    let kept = tempfile::tempdir().unwrap();
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    copy(&dev.data(), &kept.path().join("data"));
    dev.start_again().unwrap();
    configure(&dev, &section).await;
    for _ in 0..200 {
        random(&dev, &dev.root_token(), 5).await.unwrap();
    }
    random(&dev, &strict, 10).await.unwrap();
    random(&dev, &signed, 10).await.unwrap();
    dev.end();
    std::fs::remove_dir_all(dev.data()).unwrap();
    copy(&kept.path().join("data"), &dev.data());
    // store, boundary and log agree: nothing but the witness knows
    dev.start_again().unwrap();
    configure(&dev, &section).await;
    until("it is told", Duration::from_secs(20), || dev.log().contains("ALARM"));
    assert!(dev.log().contains("the log was set back"));
    for token in [&strict, &signed] {
        let refused = random(&dev, token, 5).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "AUDIT_LOG_SET_BACK".into()), "{refused:?}");
    }
    random(&dev, &dev.root_token(), 5).await.unwrap();
    // grown beyond what the witness has seen, it is another history
    for _ in 0..300 {
        random(&dev, &dev.root_token(), 5).await.unwrap();
    }
    until("the fork is told", Duration::from_secs(60), || dev.log().contains("another history"));
    let refused = random(&dev, &strict, 5).await.unwrap_err();
    assert_eq!(reason(&refused), "AUDIT_LOG_SET_BACK");
    let (valid, told) = verified(&dev, &[&witness], &[]);
    assert!(!valid, "no witness has cosigned this history: {told}");
}
