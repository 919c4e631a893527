//! API servers that are away, slow, or lie: nobody is let in, nobody waits long, and nothing piles up.

use crate::stand::{AUDIENCE, Stand, shared};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tests::until;

/// A login within so long, whatever the API server does: its five seconds, and what is around them where forty log in at once.
const DEADLINE: Duration = Duration::from_secs(15);

/// What answers in an API server's place.
struct Liar {
    port: u16,
    asked: Arc<AtomicU32>,
}

impl Liar {
    fn start(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, answer) = (Arc::new(AtomicU32::new(0)), Arc::new(answer));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, counted, answer) = (stream.unwrap(), Arc::clone(&counted), Arc::clone(&answer));
                std::thread::spawn(move || {
                    if read_request(&mut stream).is_some() {
                        counted.fetch_add(1, Ordering::Relaxed);
                        answer(&mut stream);
                    }
                });
            }
        });
        Self { port, asked }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = told.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn http(status: u16, media_type: &str, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: {media_type}\r\nconnection: close\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn jwt() -> String {
    let payload = json!({
        "aud": [AUDIENCE], "exp": 9_999_999_999_u64, "iss": "i", "sub": "system:serviceaccount:prod:web",
        "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "web", "uid": "u-1"}},
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(json!({"alg": "RS256"})), part(payload))
}

fn review() -> Value {
    let user = json!({
        "username": "system:serviceaccount:prod:web", "uid": "u-1",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:prod"],
    });
    let status = json!({"authenticated": true, "audiences": [AUDIENCE], "user": user});
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
}

fn changed(pointer: &str, set: Value) -> String {
    let mut review = review();
    let (at, name) = pointer.rsplit_once('/').unwrap();
    review.pointer_mut(at).unwrap()[name] = set;
    review.to_string()
}

fn mount_of(stand: &Stand, url: &str) -> String {
    let mount = stand.mount();
    stand.configure(&mount, json!({"kubernetes_host": url, "token_reviewer_jwt": "reviewer"}));
    stand.role(&mount, "web", ("prod", "web"), json!({}));
    mount
}

#[test]
fn an_api_server_that_lies_lets_nobody_in() {
    const NOT: &str = "KUBERNETES_NOT_AUTHENTICATED";
    const MALFORMED: &str = "KUBERNETES_REVIEW_MALFORMED";
    const OTHER: &str = "KUBERNETES_REVIEW_OTHER_ACCOUNT";
    const AWAY: &str = "UPSTREAM_UNREACHABLE";
    let stand = shared();
    let json = "application/json";
    let whole = review().to_string();
    let lies = [
        ("201 and no word of it", http(201, json, &changed("/status", json!({}))), NOT),
        ("201 and an error", http(201, json, &changed("/status", json!({"error": "invalid bearer token"}))), NOT),
        ("authenticated, and an error", http(201, json, &changed("/status/error", json!("x"))), NOT),
        ("authenticated, false", http(201, json, &changed("/status/authenticated", json!(false))), NOT),
        ("authenticated, in text", http(201, json, &changed("/status/authenticated", json!("true"))), MALFORMED),
        ("no audiences", http(201, json, &changed("/status/audiences", json!([]))), "KUBERNETES_REVIEW_AUDIENCE_OTHER"),
        (
            "its own audience",
            http(201, json, &changed("/status/audiences", json!(["https://kubernetes.default.svc"]))),
            "KUBERNETES_REVIEW_AUDIENCE_OTHER",
        ),
        (
            "another account",
            http(201, json, &changed("/status/user/username", json!("system:serviceaccount:prod:admin"))),
            OTHER,
        ),
        ("another uid", http(201, json, &changed("/status/user/uid", json!("u-2"))), OTHER),
        (
            "somebody who is no account",
            http(201, json, &changed("/status/user/username", json!("system:admin"))),
            OTHER,
        ),
        ("no groups", http(201, json, &changed("/status/user/groups", json!([]))), OTHER),
        ("a Status", http(201, json, &changed("/kind", json!("Status"))), MALFORMED),
        ("two answers in one", http(201, json, &whole.replacen("\"kind\"", "\"kind\":\"x\",\"kind\"", 1)), MALFORMED),
        ("no JSON", http(201, json, "ok"), MALFORMED),
        ("nothing", http(201, json, ""), MALFORMED),
        ("a page", http(201, "text/html", &whole), MALFORMED),
        ("202", http(202, json, &whole), MALFORMED),
        ("204", b"HTTP/1.1 204 x\r\n\r\n".to_vec(), MALFORMED),
        (
            "a redirect to itself",
            format!(
                "HTTP/1.1 307 x\r\nlocation: /other\r\ncontent-length: {}\r\ncontent-type: {json}\r\n\r\n{whole}",
                whole.len()
            )
            .into_bytes(),
            MALFORMED,
        ),
        ("401", http(401, json, &whole), "KUBERNETES_REVIEWER_REFUSED"),
        ("403", http(403, json, &whole), "KUBERNETES_REVIEWER_REFUSED"),
        ("404", http(404, json, &whole), MALFORMED),
        ("500", http(500, json, &whole), MALFORMED),
        ("too much", http(201, json, &format!("{whole}{}", " ".repeat(1 << 20))), AWAY),
        ("too much of a head", format!("HTTP/1.1 201 x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(), AWAY),
        ("half of it", http(201, json, &whole)[..200].to_vec(), AWAY),
        ("another protocol", b"SSH-2.0-x\r\n".to_vec(), AWAY),
        ("a closed door", Vec::new(), AWAY),
    ];
    // what they differ from is let in
    let honest = Liar::start(|stream| {
        stream.write_all(&http(201, "application/json; charset=x", &review().to_string())).unwrap()
    });
    let login = stand.login(&mount_of(&stand, &honest.url()), "web", &jwt());
    assert_eq!((login.status, honest.asked.load(Ordering::Relaxed)), (200, 1), "{login:?}");
    for (what, answer, cause) in lies {
        let liar = Liar::start(move |stream| drop(stream.write_all(&answer)));
        let mount = mount_of(&stand, &liar.url());
        let login = stand.login(&mount, "web", &jwt());
        assert_eq!(login.cause(), cause, "{what}: {login:?}");
        let told_to_wait = cause == MALFORMED || cause == AWAY || cause == "KUBERNETES_REVIEWER_REFUSED";
        assert_eq!(login.status, if told_to_wait { 503 } else { 400 }, "{what}");
        assert_eq!(liar.asked.load(Ordering::Relaxed), 1, "{what}: nobody is followed or asked again");
    }
}

#[test]
fn an_api_server_that_is_slow_keeps_nobody_longer_than_the_deadline_and_is_asked_by_few() {
    let stand = shared();
    let whole = http(201, "application/json", &review().to_string());
    let drips = move |stream: &mut TcpStream| {
        for byte in &whole {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let silent = |_: &mut TcpStream| std::thread::sleep(Duration::from_secs(60));
    for liar in [Liar::start(drips), Liar::start(silent)] {
        let mount = mount_of(&stand, &liar.url());
        let began = Instant::now();
        let (body, path) = (json!({"role": "web", "jwt": jwt()}), format!("auth/{mount}/login"));
        let logins: Vec<_> = std::thread::scope(|scope| {
            let (stand, body, path) = (&stand, &body, &path);
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(move || stand.ask(None, "POST", path, body).0)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        assert!(logins.iter().all(|status| *status == 503), "{logins:?}");
        let asked = liar.asked.load(Ordering::Relaxed);
        let login = stand.login(&mount, "web", &jwt());
        assert_eq!(login.cause(), "UPSTREAM_NOT_ASKED", "{login:?}");
        assert_eq!(liar.asked.load(Ordering::Relaxed), asked);
    }
}

/// One request on a connection that is kept; how long it took.
fn timed(stream: &mut BufReader<TcpStream>, request: &[u8]) -> (u16, Duration) {
    let began = Instant::now();
    stream.get_mut().write_all(request).unwrap();
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status).unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = told.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).unwrap();
    let took = began.elapsed();
    (status.split(' ').nth(1).unwrap().parse().unwrap(), took)
}

#[test]
fn while_the_api_server_is_down_refusals_cost_next_to_nothing_and_it_is_found_again() {
    let mut stand = Stand::new();
    let mount = stand.mount();
    stand.api.namespace("prod", json!({}));
    stand.api.account("prod", "web");
    stand.role(&mount, "web", ("prod", "web"), json!({}));
    let jwt = stand.api.token("prod", "web", Some(AUDIENCE), None);
    stand.login(&mount, "web", &jwt).token();
    stand.api.end();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(stand.login(&mount, "web", &jwt).cause(), "UPSTREAM_UNREACHABLE");
    }
    assert!(began.elapsed() < DEADLINE);
    // each that is asked and fails doubles the pause
    let refused_at_once = || stand.login(&mount, "web", &jwt).cause() == "UPSTREAM_NOT_ASKED";
    until("it is asked no more", Duration::from_secs(20), refused_at_once);
    // beside refusals that nobody else is needed for, on this machine and of this build
    let unknown = refusals(&stand, &mount, &json!({"role": "nobodys", "jwt": jwt}), 400);
    let spent = refusals(&stand, &mount, &json!({"role": "web", "jwt": jwt}), 503);
    assert!(spent < unknown * 3, "{spent:?}, and {unknown:?} where the role is unknown");
    stand.api.start_again();
    let began = Instant::now();
    while stand.login(&mount, "web", &jwt).status != 200 {
        assert!(began.elapsed() < Duration::from_secs(25), "it is not found again");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A thousand logins that are refused with this status: what the server's process used for each.
fn refusals(stand: &Stand, mount: &str, body: &Value, refused: u16) -> Duration {
    let body = body.to_string();
    let head = format!("POST /v1/auth/{mount}/login HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let request = [head.as_bytes(), body.as_bytes()].concat();
    let mut stream = BufReader::new(TcpStream::connect(stand.node.addr()).unwrap());
    let (before, mut times) = (cpu(stand), Vec::new());
    for _ in 0..1000 {
        let (status, took) = timed(&mut stream, &request);
        assert_eq!(status, refused);
        times.push(took);
    }
    let spent = cpu(stand).saturating_sub(before) / 1000;
    times.sort_unstable();
    let [median, worst] = [times[times.len() / 2], times[times.len() - 1]];
    println!("refused with {refused}, of 1000: {spent:?} of CPU each, median {median:?}, longest {worst:?}");
    spent
}

/// What the server's process has used, in steps of 10 ms.
fn cpu(stand: &Stand) -> Duration {
    Duration::from_secs_f64(stand.node.pid().cpu_secs().unwrap())
}
