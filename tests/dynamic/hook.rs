//! Secrets that a hook rotates: one that sets passwords in the database, as a client of its own.

use super::stand::Stand;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use tests::until;

const TOKEN: &str = "hooks-bearer-token";

/// What it was told, and how it is made to behave.
struct Hook<'s> {
    stand: &'s Stand,
    token: String,
    told: Mutex<Vec<Value>>,
    /// So many times the next `test` fails.
    fails: AtomicUsize,
    /// At the next `set` the server is killed.
    kills: AtomicBool,
}

impl<'s> Hook<'s> {
    /// With a token that may read and write this secret and nothing else.
    fn new(stand: &'s Stand) -> Self {
        let policy = "path \"secret/data/app/*\" { capabilities = [\"read\", \"update\"] }";
        stand.done("write", "sys/policies/acl/hook", json!({ "policy": policy }));
        let made = stand.done("write", "auth/token/create", json!({"policies": ["hook"]}));
        let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
        let (told, fails, kills) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        Self { stand, token, told, fails, kills }
    }

    fn steps(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().map(|told| format!("{}{}", told["step"].as_str().unwrap(), told["version"])).collect()
    }

    /// Each once, however often it was asked in a row: a hook may be asked a step twice.
    fn steps_once(&self) -> Vec<String> {
        let mut steps = self.steps();
        steps.dedup();
        steps
    }

    fn times(&self, step: &str) -> usize {
        self.steps().iter().filter(|asked| *asked == step).count()
    }

    fn secret(&self, path: &str, label: &str) -> Value {
        let read = self.stand.ask(&self.token, "read", &format!("{path}?label={label}"), Value::Null);
        read.unwrap()["data"]["data"].clone()
    }

    /// The status that it answers.
    fn step(&self, told: &Value) -> u16 {
        let (step, path) = (told["step"].as_str().unwrap(), told["path"].as_str().unwrap());
        self.told.lock().unwrap().push(told.clone());
        let text = |secret: &Value, field: &str| secret[field].as_str().unwrap().to_owned();
        match step {
            // another account each time: who has the old password comes in meanwhile
            "create" => {
                let mut next = self.secret(path, "current");
                let other = if next["username"] == "svc_a" { "svc_b" } else { "svc_a" };
                (next["username"], next["password"]) = (json!(other), json!(format!("{other}-{}", rand())));
                let body = json!({"data": next, "options": {"label": "pending"}});
                self.stand.ask(&self.token, "write", path, body).unwrap();
            }
            "set" => {
                if self.kills.swap(false, Ordering::SeqCst) {
                    self.stand.dev.server().unwrap().kill();
                    return 500;
                }
                let next = self.secret(path, "pending");
                let alter = format!("ALTER ROLE {} PASSWORD '{}'", text(&next, "username"), text(&next, "password"));
                self.stand.pg.sql("postgres", &alter);
            }
            "test" => {
                if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    return 503;
                }
                let next = self.secret(path, "pending");
                let came =
                    self.stand.pg.try_as(&text(&next, "username"), &text(&next, "password"), "postgres", "SELECT 1");
                return if came.is_ok() { 200 } else { 409 };
            }
            _ => assert_eq!((step, &told["current_version"]), ("finish", &told["version"])),
        }
        204
    }

    fn serve(&self, listener: &TcpListener, ends: &mpsc::Receiver<()>) {
        listener.set_nonblocking(true).unwrap();
        while ends.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            match listener.accept() {
                Ok((stream, _)) => self.answer(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn answer(&self, stream: TcpStream) {
        stream.set_nonblocking(false).unwrap();
        let mut read = BufReader::new(stream);
        let (mut length, mut authorised) = (0, false);
        for line in read.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorised = value == format!("Bearer {TOKEN}"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        read.read_exact(&mut body).unwrap();
        let status = if authorised { self.step(&serde_json::from_slice(&body).unwrap()) } else { 401 };
        // who was killed meanwhile reads nothing
        let _ = write!(read.into_inner(), "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

fn rand() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().replace('-', "")
}

/// Runs `test` beside the hook, of which it is told the address.
fn beside(hook: &Hook<'_>, test: impl FnOnce(&str)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/rotate", listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        let (goes_on, ends) = mpsc::channel();
        let listener = &listener;
        scope.spawn(move || hook.serve(listener, &ends));
        test(&url);
        drop(goes_on);
    });
}

fn state(stand: &Stand, name: &str) -> Value {
    stand.done("read", &format!("secret/rotation/{name}"), Value::Null)["data"].clone()
}

fn is_idle_after(stand: &Stand, name: &str, version: u64) -> bool {
    let state = state(stand, name);
    state["step"] == "create" && state["version"] == version
}

#[test]
fn a_secret_is_rotated_by_its_hook_step_by_step_whatever_fails() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "CREATE ROLE svc LOGIN PASSWORD 'first'");
    stand.pg.gives("vaultadm", "svc");
    stand.done(
        "write",
        "secret/data/app/db",
        json!({"data": {"username": "svc", "password": "first", "note": "stays"}}),
    );
    let hook = Hook::new(&stand);
    let secret = |label: &str| hook.secret("secret/data/app/db", label);
    beside(&hook, |url| {
        let how = json!({"hook_url": url, "hook_token": TOKEN, "fields": ["password"], "rotation_period": "1h", "overlap": "3s"});
        stand.done("write", "secret/rotation/app/db", how);
        assert!(!state(&stand, "app/db").to_string().contains(TOKEN), "nobody is shown the token");
        hook.fails.store(2, Ordering::SeqCst);
        stand.done("write", "secret/rotate/app/db", Value::Null);
        until("a step has failed", Duration::from_secs(30), || {
            state(&stand, "app/db")["last_error"].as_str().unwrap().contains("503")
        });
        assert_eq!(secret("current")["password"], "first", "what was not tested is served to nobody");
        until("it is promoted", Duration::from_secs(60), || state(&stand, "app/db")["step"] == "finish");
        let (now, before) = (secret("current"), secret("previous"));
        assert_eq!(
            (&before["password"], &now["note"], &now["username"]),
            (&json!("first"), &json!("stays"), &json!("svc"))
        );
        assert_eq!(now["password"].as_str().unwrap().len(), 32);
        assert!(stand.pg.try_as("svc", now["password"].as_str().unwrap(), "postgres", "SELECT 1").is_ok());
        // the one before is read again and again: it is not withdrawn
        for _ in 0..6 {
            std::thread::sleep(Duration::from_secs(1));
            secret("previous");
            assert_eq!(hook.times("finish2"), 0);
        }
        let refused = stand.ask(&stand.dev.root_token(), "write", "secret/rotate/app/db", Value::Null);
        assert!(refused.as_ref().is_err_and(|said| said.starts_with("400")), "{refused:?}");
        until("it is finished", Duration::from_secs(60), || is_idle_after(&stand, "app/db", 2));
        assert_eq!(hook.steps_once(), ["set2", "test2", "finish2"]);
        assert!(hook.times("test2") >= 3, "it failed twice: {:?}", hook.steps());
        assert_eq!(hook.told.lock().unwrap().last().unwrap()["previous_version"], 1);
        // the server dies in the middle of the next one
        hook.kills.store(true, Ordering::SeqCst);
        stand.done("write", "secret/rotate/app/db", Value::Null);
        until("it is killed", Duration::from_secs(30), || !hook.kills.load(Ordering::SeqCst));
        stand.recovered();
        let refused = stand.ask(&stand.dev.root_token(), "write", "secret/rotate/app/db", Value::Null);
        assert!(refused.as_ref().is_err_and(|said| said.starts_with("400")), "{refused:?}");
        until("it goes on", Duration::from_secs(120), || is_idle_after(&stand, "app/db", 3));
        assert_eq!(hook.steps_once().get(3..).unwrap(), ["set3", "test3", "finish3"]);
        assert!(hook.times("set3") >= 2, "the first was not answered: {:?}", hook.steps());
        is_overtaken(&stand, &hook);
        stand.done("delete", "secret/rotation/app/db", Value::Null);
        assert!(stand.ask(&stand.dev.root_token(), "read", "secret/rotation/app/db", Value::Null).is_err());
    });
    assert!(stand.recorded("secret/data/app/db").contains(&"VaultRotateSecret".to_owned()));
    stand.askers_are_recorded();
}

/// What somebody else writes or rolls back meanwhile is not rotated away, and what was set is repaired.
fn is_overtaken(stand: &Stand, hook: &Hook<'_>) {
    let secret = |label: &str| hook.secret("secret/data/app/db", label);
    let asked = |step: &str| hook.times(step) > 0;
    // time for a look before it is finished
    stand.done("write", "secret/rotation/app/db", json!({"overlap": "15s"}));
    hook.fails.store(1000, Ordering::SeqCst);
    stand.done("write", "secret/rotate/app/db", Value::Null);
    until("a step has failed", Duration::from_secs(30), || state(stand, "app/db")["attempts"] != 0);
    // what waits for another attempt has it now
    stand.done("write", "secret/rotate/app/db", Value::Null);
    stand.done("write", "secret/data/app/db", json!({"data": {"username": "svc", "password": "by hand"}}));
    until("it is given up", Duration::from_secs(60), || is_idle_after(stand, "app/db", 4));
    assert_eq!(secret("current")["password"], "by hand");
    // the target has what was pending: nobody who is served comes in, until another rotation has repaired it
    assert!(stand.pg.try_as("svc", "by hand", "postgres", "SELECT 1").is_err());
    hook.fails.store(0, Ordering::SeqCst);
    let is_replaced = || state(stand, "app/db")["step"] == "finish" && state(stand, "app/db")["version"] == 6;
    until("it is repaired", Duration::from_secs(60), is_replaced);
    let password = secret("current")["password"].as_str().unwrap().to_owned();
    assert!(stand.pg.try_as("svc", &password, "postgres", "SELECT 1").is_ok());
    // rolled back: the version before is in use, and not withdrawn
    stand.done("write", "secret/promote/app/db", json!({"version": 5}));
    until("it is given up", Duration::from_secs(60), || is_idle_after(stand, "app/db", 6));
    assert!(asked("set6") && !asked("finish4") && !asked("finish6"), "{:?}", hook.steps());
}

#[test]
fn a_client_that_connects_all_the_time_never_fails_while_a_hook_rotates_two_accounts() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "CREATE ROLE svc_a LOGIN PASSWORD 'first'; CREATE ROLE svc_b LOGIN");
    stand.pg.gives("vaultadm", "svc_a, svc_b");
    stand.done("write", "secret/data/app/two", json!({"data": {"username": "svc_a", "password": "first"}}));
    let hook = Hook::new(&stand);
    beside(&hook, |url| {
        let how = json!({"hook_url": url, "hook_token": TOKEN, "rotation_period": "5s", "overlap": "2s"});
        stand.done("write", "secret/rotation/app/two", how);
        let (began, length) = (std::time::Instant::now(), crate::rotating(Duration::from_secs(40)));
        let (mut logins, mut accounts) = (0, std::collections::BTreeSet::new());
        while began.elapsed() < length {
            let secret = hook.secret("secret/data/app/two", "current");
            let (name, password) = (secret["username"].as_str().unwrap(), secret["password"].as_str().unwrap());
            stand.pg.try_as(name, password, "postgres", "SELECT 1").unwrap();
            accounts.insert(password.to_owned());
            logins += 1;
        }
        println!("{logins} logins by {} passwords, none failed", accounts.len());
        let wanted = length.as_secs() / 15;
        assert!(accounts.len() as u64 > wanted, "{} passwords, wanted more than {wanted}", accounts.len());
        stand.done("delete", "secret/rotation/app/two", Value::Null);
    });
}

#[test]
fn a_hook_is_asked_only_where_somebody_who_may_says_so() {
    let stand = Stand::new();
    stand.done("write", "secret/data/app/x", json!({"data": {"a": "b"}}));
    let good = json!({"hook_url": "https://hook.example/", "rotation_period": "1h"});
    for (name, change, field) in [
        ("app/x", json!({"hook_url": "http://hook.example/"}), "hook_url"),
        ("app/x", json!({"hook_url": "ftp://127.0.0.1/"}), "hook_url"),
        ("app/x", json!({"hook_url": "http://127.0.0.1.evil.example/"}), "hook_url"),
        ("app/x", json!({"hook_url": "https://127.0.0.1@evil.example/"}), "hook_url"),
        ("app/x", json!({"hook_url": ""}), "hook_url"),
        ("app/x", json!({"rotation_period": "4s"}), "rotation_period"),
        ("app/x", json!({"rotation_period": 0}), "rotation_period"),
        ("app/x", json!({"rotation_schedule": "* * *"}), "rotation"),
        ("app/x", json!({"fields": [""]}), "fields"),
        ("app/x", json!({"fields": vec!["a"; 17]}), "fields"),
        ("app/x", json!({"hook_token": "a b"}), "hook_token"),
        ("app/none", json!({}), "404"),
    ] {
        let mut how = good.clone();
        how.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = stand.ask(&stand.dev.root_token(), "write", &format!("secret/rotation/{name}"), how);
        assert!(refused.as_ref().is_err_and(|said| said.contains(field)), "{change}: {refused:?}");
    }
    let policy = "path \"secret/rotation/*\" { capabilities = [\"create\", \"update\", \"read\"] }";
    stand.done("write", "sys/policies/acl/almost", json!({ "policy": policy }));
    let made = stand.done("write", "auth/token/create", json!({"policies": ["almost"]}));
    let token = made["auth"]["client_token"].as_str().unwrap();
    let refused = stand.ask(token, "write", "secret/rotation/app/x", good.clone());
    assert!(refused.as_ref().is_err_and(|said| said.starts_with("403")), "{refused:?}");
    stand.done("write", "secret/rotation/app/x", good);
    // what goes takes its rotation along
    stand.done("delete", "secret/metadata/app/x", Value::Null);
    stand.done("write", "secret/data/app/x", json!({"data": {"a": "c"}}));
    assert!(stand.ask(&stand.dev.root_token(), "read", "secret/rotation/app/x", Value::Null).is_err());
    stand.askers_are_recorded();
}
