//! Forwarding: rsyslog over TLS, TCP and a datagram socket; OTLP into a stand-in that decodes with OpenTelemetry's own messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use api::{Health, Metrics};
use audit::Log;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use rig::{ORIGIN, Rig};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strongroom::forward::{Forward, Forwarder};

/// A forwarder at work, on a thread of its own.
struct Running {
    metrics: Metrics,
    name: String,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(rig: &Rig, log: &Arc<Log>, config: &str) -> Self {
        let forward: Forward = toml::from_str(config).unwrap();
        let metrics = Metrics::new("0", &Health::new());
        let name = forward.name.replace('-', "_");
        let forwarder = Forwarder::new(&forward, ("1", &rig.work), log, &metrics);
        let (end, ended) = tokio::sync::oneshot::channel();
        let log = Arc::clone(log);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = forwarder.run(log) => {}, _ = ended => {} }
            });
        });
        Self { metrics, name, end: Some(end), thread: Some(thread) }
    }

    fn gauge(&self, what: &str) -> u64 {
        let start = format!("strongroom_audit_forward_{}_{what} ", self.name);
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// A real rsyslogd, which writes all that it is sent into a file.
struct Rsyslog {
    folder: tempfile::TempDir,
    port: u16,
    tls: bool,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Rsyslog {
    fn new(tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key =
            |names: &[&str]| rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let (ca_key, server_key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let mut ca = key(&[]).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(ca, ca_key).unwrap();
        let server = key(&["localhost"]).unwrap().signed_by(&server_key, &issuer).unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        fs::write(folder.path().join("server.pem"), server.pem()).unwrap();
        fs::write(folder.path().join("server-key.pem"), server_key.serialize_pem()).unwrap();
        Self { folder, port: free_port(), tls, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let at = |name| self.path(name).display().to_string();
        let driver = if self.tls {
            format!(
                r#"global(DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="{}" DefaultNetstreamDriverCertFile="{}" DefaultNetstreamDriverKeyFile="{}")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")"#,
                at("ca.pem"),
                at("server.pem"),
                at("server-key.pem")
            )
        } else {
            r#"module(load="imtcp")"#.to_owned()
        };
        let text = format!(
            r#"global(workDirectory="{}" maxMessageSize="64k")
{driver}
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{}" useSpecialParser="off" parseHostname="on" ignoreTimestamp="off")
input(type="imtcp" port="{}" address="127.0.0.1")
template(name="out" type="string" string="%syslogfacility%.%syslogseverity% %app-name% %msgid% %timestamp:::date-rfc3339% %msg%\n")
action(type="omfile" file="{}" template="out")
"#,
            self.folder.path().display(),
            at("socket"),
            self.port,
            at("out")
        );
        fs::write(self.path("conf"), text).unwrap();
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command.args(["-n", "-f", &at("conf"), "-i", &at("pid")]);
        let child = command.stdout(Stdio::null()).stderr(fs::File::create(self.path("stderr")).unwrap()).spawn();
        self.child = Some(child.expect("rsyslogd is there: `cargo xtask` installs it"));
        let port = self.port;
        until("rsyslogd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn stop(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What came: what stands before the JSON, and the JSON.
    fn lines(&self) -> Vec<(String, serde_json::Value)> {
        let text = fs::read_to_string(self.path("out")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            let (head, json) = line.split_at(line.find('{').unwrap_or_else(|| panic!("{line}")));
            (head.trim().to_owned(), serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {line}")))
        };
        whole.lines().map(line).collect()
    }

    fn indexes(&self) -> Vec<u64> {
        self.lines().iter().map(|(_, line)| line["index"].as_u64().unwrap()).collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.kill();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// As `audit export` tells them, and the origin.
fn exported(rig: &Rig) -> Vec<serde_json::Value> {
    let said = rig.on_log("export --jsonl -");
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["origin"] = ORIGIN.into();
        line
    };
    said.stdout.lines().map(line).collect()
}

#[test]
fn rsyslog_gets_every_entry_once_and_in_order_over_tls_tcp_and_a_datagram_socket() {
    for kind in ["tls", "tcp", "unix"] {
        let rig = Rig::with_entries(300);
        let log = rig.open();
        let mut rsyslog = Rsyslog::new(kind == "tls");
        rsyslog.start();
        let (port, ca, socket) = (rsyslog.port, rsyslog.path("ca.pem"), rsyslog.path("socket"));
        let to = match kind {
            "tls" => format!("to = \"tls://localhost:{port}\"\nca = \"{}\"", ca.display()),
            "tcp" => format!("to = \"tcp://127.0.0.1:{port}\""),
            _ => format!("to = \"unix://{}\"", socket.display()),
        };
        let running = Running::start(&rig, &log, &format!("name = \"siem-1\"\nkind = \"syslog\"\n{to}"));
        until("the first come", || rsyslog.lines().len() >= 300);
        rig.append(&log, 300..700);
        until("the others come", || rsyslog.lines().len() >= 700);
        until("they are known to have come", || running.gauge("behind") == 0);
        let (heads, lines): (Vec<_>, Vec<_>) = rsyslog.lines().into_iter().unzip();
        assert_eq!(lines, exported(&rig), "{kind}");
        assert_eq!(heads[1], "13.6 strongroom Decrypt 2027-01-15T08:00:01Z", "{kind}");
        assert_eq!(heads[9], "13.4 strongroom Decrypt 2027-01-15T08:00:09Z", "{kind}: it failed");
        assert_eq!((running.gauge("failures"), running.gauge("lost")), (0, 0), "{kind}");
        let cursor = format!("{ORIGIN}\n700\n");
        until("the place is kept", || fs::read_to_string(rig.work.join("forward-siem-1")).is_ok_and(|it| it == cursor));
        // another process goes on there
        drop(running);
        let running = Running::start(&rig, &log, &format!("name = \"siem-1\"\nkind = \"syslog\"\n{to}"));
        rig.append(&log, 700..720);
        until("they come too", || rsyslog.lines().len() >= 720);
        assert_eq!(rsyslog.indexes(), (0..720).collect::<Vec<_>>(), "{kind}");
        drop(running);
    }
}

#[test]
fn a_collector_that_is_away_or_killed_delays_no_entry_and_gets_each_at_least_once() {
    let rig = Rig::with_entries(10);
    let log = rig.open();
    let mut rsyslog = Rsyslog::new(false);
    let config = format!("name = \"siem\"\nkind = \"syslog\"\nto = \"tcp://127.0.0.1:{}\"", rsyslog.port);
    let running = Running::start(&rig, &log, &config);
    until("it is tried", || running.gauge("failures") > 0);
    let began = Instant::now();
    rig.append(&log, 10..1000);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(running.gauge("behind"), 1000);
    rsyslog.start();
    for round in 1..4_u64 {
        until("some come", || rsyslog.lines().len() as u64 >= round * 500);
        // what is written to it now, its kernel takes, and it never reads
        rsyslog.stop();
        rig.append(&log, round * 1000..(round + 1) * 1000);
        std::thread::sleep(Duration::from_secs(2));
        assert!(running.gauge("behind") >= 1000, "nobody knows that they have come");
        rsyslog.kill();
        rsyslog.start();
    }
    until("all come", || rsyslog.indexes().into_iter().collect::<BTreeSet<_>>().len() == 4000);
    until("they are known to have come", || running.gauge("behind") == 0);
    let mut by_index = BTreeMap::new();
    for (_, line) in rsyslog.lines() {
        let index = line["index"].as_u64().unwrap();
        let before = by_index.insert(index, line.clone());
        assert!(before.is_none_or(|before| before == line), "{index}");
    }
    assert_eq!(by_index.into_values().collect::<Vec<_>>(), exported(&rig));
}

#[test]
fn a_collector_under_another_authority_is_sent_nothing() {
    let rig = Rig::with_entries(20);
    let log = rig.open();
    let (mut rsyslog, other) = (Rsyslog::new(true), Rsyslog::new(true));
    rsyslog.start();
    let to = format!("to = \"tls://localhost:{}\"", rsyslog.port);
    let config = |ca: &Path| format!("name = \"siem\"\nkind = \"syslog\"\n{to}\nca = \"{}\"", ca.display());
    let running = Running::start(&rig, &log, &config(&other.path("ca.pem")));
    until("it is tried", || running.gauge("failures") > 1);
    assert_eq!((rsyslog.lines().len(), running.gauge("behind")), (0, 20));
    drop(running);
    let _running = Running::start(&rig, &log, &config(&rsyslog.path("ca.pem")));
    until("under its own it is", || rsyslog.lines().len() == 20);
}

/// Stands in for a collector: takes what OpenTelemetry's own messages can be read from.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    /// What it answers first.
    refusals: Arc<Mutex<Vec<StatusCode>>>,
    /// Of how many records it says with its first success that it rejects them.
    rejects: Arc<Mutex<Option<u32>>>,
}

impl Collector {
    async fn logs(&self, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
        if let Some(refusal) = self.refusals.lock().unwrap().pop() {
            return (refusal, String::new());
        }
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if header("authorization") != Some("Bearer s3cret") {
            return (StatusCode::UNAUTHORIZED, String::new());
        }
        assert_eq!(header("content-type"), Some("application/json"));
        self.requests.lock().unwrap().push(serde_json::from_slice(&body).expect("it is OTLP"));
        let partial = self.rejects.lock().unwrap().take();
        let partial = partial.map(|count| format!(r#""rejectedLogRecords":"{count}","errorMessage":"too old""#));
        (StatusCode::OK, format!(r#"{{"partialSuccess":{{{}}}}}"#, partial.unwrap_or_default()))
    }

    /// On a thread of its own; its port.
    fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let collector = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let logs = move |headers: HeaderMap, body: Bytes| async move { collector.logs(headers, body).await };
                let routes = axum::Router::new().route("/v1/logs", axum::routing::post(logs));
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let service = hyper_util::service::TowerToHyperService::new(routes.clone());
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
                }
            });
        });
        port
    }
}

#[test]
fn a_collector_of_opentelemetry_gets_every_entry_with_its_index_and_refusals_are_tried_again() {
    let rig = Rig::with_entries(1200);
    let log = rig.open();
    let collector = Collector::default();
    *collector.refusals.lock().unwrap() = vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST];
    *collector.rejects.lock().unwrap() = Some(7);
    let port = collector.start();
    let bearer = rig.work.join("bearer");
    fs::write(&bearer, "s3cret\n").unwrap();
    fs::set_permissions(&bearer, fs::Permissions::from_mode(0o600)).unwrap();
    let to = format!("to = \"http://127.0.0.1:{port}/v1/logs\"\nbearer_file = \"{}\"", bearer.display());
    let running = Running::start(&rig, &log, &format!("name = \"otel\"\nkind = \"otlp\"\n{to}"));
    until("all come", || running.gauge("behind") == 0);
    // what it rejects is lost to it, and is not sent again
    assert_eq!((running.gauge("failures"), running.gauge("lost")), (2, 7));

    let requests = collector.requests.lock().unwrap().clone();
    assert!(requests.len() >= 3, "in batches: {}", requests.len());
    let mut lines = Vec::new();
    for resource in requests.into_iter().flat_map(|request| request.resource_logs) {
        let attributes = resource.resource.unwrap().attributes;
        assert!(attributes.iter().any(|it| it.key == "service.name" && text(&it.value) == "strongroom"));
        for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let line: serde_json::Value = serde_json::from_str(&text(&record.body)).unwrap();
            let index = line["index"].as_u64().unwrap();
            assert_eq!(record.time_unix_nano, line["time"].as_u64().unwrap() * 1_000_000);
            assert_eq!(record.severity_number, if index % 10 == 9 { 13 } else { 9 });
            let attribute = record.attributes.iter().find(|it| it.key == "strongroom.audit.index").unwrap();
            let told = attribute.value.as_ref().and_then(|value| value.value.clone());
            assert_eq!(told, Some(Value::IntValue(i64::try_from(index).unwrap())));
            lines.push(line);
        }
    }
    assert_eq!(lines, exported(&rig));
}

fn text(value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}
