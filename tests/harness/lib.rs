//! Real processes for tests: `strongroom dev` with its children, the boundary alone, SoftHSM2 tokens; and clients.
//!
//! Always: a folder of its own for each, and nothing left running.
//! Never: a mock.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

pub mod boundary;
pub mod clients;
pub mod dev;
pub mod kubernetes;
pub mod mariadb;
pub mod nodes;
pub mod postgres;
pub mod redis;
pub mod rollback;
mod servers;
pub mod softhsm;

pub use clients::{Clients, bearer, context, reason};
pub use dev::{Dev, DevOptions};
pub use kubernetes::ApiServer;
pub use mariadb::MariaDb;
pub use nodes::Node;
pub use postgres::Postgres;
pub use redis::Redis;
pub use softhsm::Token;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A program of this build: it stands beside the folder of the test executables.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its own file");
    let folder = this.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: `cargo xtask test` builds it before the tests, and so does `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// The checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the workspace").to_owned()
}

/// Asks until it is so. Panics with `what` when that takes too long.
pub fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// A process, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid(pub u32);

impl Pid {
    fn signal(self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw).expect("a process number");
        // one that is gone already is as good
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// kill -9.
    pub fn kill(self) {
        self.signal(rustix::process::Signal::KILL);
    }

    pub fn terminate(self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn stop(self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn go_on(self) {
        self.signal(rustix::process::Signal::CONT);
    }

    pub fn is_alive(self) -> bool {
        // a zombie has ended
        self.field("State:").is_some_and(|state| !state.starts_with('Z'))
    }

    /// A field of /proc/PID/status.
    pub fn field(self, name: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    }

    pub fn resident_kib(self) -> u64 {
        let field = self.field("VmRSS:").expect("the process lives");
        field.trim_end_matches("kB").trim().parse().expect("kibibytes")
    }

    /// Processor seconds that it has used, with those of its threads. `None` once it is gone.
    pub fn cpu_secs(self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // proc_pid_stat(5): fields 14 and 15, counted after the name, which may hold spaces
        let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
        Some(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Its children that are named so.
    pub fn child(self, name: &str) -> Option<Pid> {
        let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = Pid(entry.ok()?.file_name().to_str()?.parse().ok()?);
            (pid.field("PPid:")? == self.0.to_string() && pid.field("Name:")? == name && pid.is_alive()).then_some(pid)
        });
        children.into_iter().next()
    }
}
