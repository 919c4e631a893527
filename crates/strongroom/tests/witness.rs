//! `strongroom audit witness` as a process: what it cosigns over HTTP, and that a kill makes it forget nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use audit::checkpoint::Checkpoint;
use audit::note::{Note, VerifierKey};
use audit::tile::{TileError, TileId, TileReader, Tiles, consistency_proof};
use audit::witness::{AddCheckpoint, cosignatures};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use envelope::merkle::{Hash, leaf_hash};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
const ORIGIN: &str = "strongroom.audit/00112233445566778899aabbccddeeff/1";

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[6; 32]).unwrap()
}

fn log_key() -> VerifierKey {
    VerifierKey::ed25519(ORIGIN, pair().public_key().as_ref().try_into().unwrap()).unwrap()
}

struct Nothing;

impl TileReader for Nothing {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        Err(TileError::Missing(TileId { level, index, width }))
    }
}

/// The log extends its tree of `old` leaves; two histories differ from leaf 100 on.
fn request(history: u8, old: u64, size: u64) -> AddCheckpoint {
    let mut tiles = Tiles::default();
    (0..size).for_each(|i| {
        tiles.push(leaf_hash(&[i.to_be_bytes().as_slice(), &[if i < 100 { 0 } else { history }]].concat()))
    });
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: tiles.root() };
    let signature = pair().sign(checkpoint.body().as_bytes()).as_ref().try_into().unwrap();
    let proof = consistency_proof(&tiles.over(&Nothing), old, size).unwrap();
    AddCheckpoint { old, proof, checkpoint: checkpoint.sign(&log_key(), signature).unwrap() }
}

struct Witness {
    child: Child,
    addr: SocketAddr,
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(STRONGROOM);
    command.args(["audit", "witness", "--name", "auditor.example/w1", "--dir"]).arg(dir).args(more);
    command
}

impl Witness {
    fn start(dir: &Path) -> Self {
        let mut command = command(dir, &["--listen", "127.0.0.1:0", "--log", &log_key().to_string()]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        Self { child, addr }
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // a server that has refused may close before it has read everything
        let _ = stream.write_all(body);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8(reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn add(&self, request: &AddCheckpoint) -> (u16, String) {
        self.ask("POST", "/add-checkpoint", request.encode().as_bytes())
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys(dir: &Path) -> Vec<VerifierKey> {
    let text = std::fs::read_to_string(dir.join("witness.vkey")).unwrap();
    text.lines().map(|line| VerifierKey::parse(line).unwrap()).collect()
}

fn refused(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_witness_cosigns_and_a_kill_makes_it_forget_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("witness");
    let mut seen = 0;
    for size in [90, 100, 140, 300] {
        let witness = Witness::start(&dir);
        let sent = request(0, seen, size);
        if seen > 100 {
            assert_eq!(witness.add(&request(1, seen, size)).0, 422, "a fork");
            assert_eq!(witness.add(&request(1, 100, size)), (409, format!("{seen}\n")));
        }
        let (status, body) = witness.add(&sent);
        assert_eq!(status, 200, "{body}");
        let lines = cosignatures(&sent.checkpoint, &body, &keys(&dir)).unwrap();
        assert_eq!(lines.len(), 2, "Ed25519 and ML-DSA-44");
        let path = format!("/{}/checkpoint", hex::encode(envelope::mac::sha256(ORIGIN.as_bytes())));
        let (status, newest) = witness.ask("GET", &path, b"");
        let newest = Note::parse(newest.as_bytes()).unwrap();
        assert_eq!((status, newest.text()), (200, sent.checkpoint.text()));
        assert!(keys(&dir).iter().all(|key| newest.cosigned_at(key).unwrap() > 1_700_000_000), "the time is now");
        seen = size;
        witness.kill();
    }
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("witness.key"), mode("witness.vkey")), (0o600, 0o644));
}

#[test]
fn requests_are_bounded_and_strange_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::start(folder.path());
    assert_eq!(witness.ask("POST", "/add-checkpoint", &vec![b'a'; (64 << 10) + 1]).0, 413);
    assert_eq!(witness.ask("POST", "/add-checkpoint", b"\xff").0, 400);
    assert_eq!(witness.ask("GET", "/", b"").0, 404);
    assert_eq!(witness.ask("DELETE", "/add-checkpoint", b"").0, 405);
    // before a body that nobody looks at, which never ends
    for (method, path, status) in [("DELETE", "/add-checkpoint", 405), ("POST", "/else", 404)] {
        let mut stream = TcpStream::connect(witness.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: w\r\ncontent-length: 99\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{line}");
    }
    assert_eq!(witness.add(&request(0, 0, 3)).0, 200, "and it goes on");
}

#[test]
fn a_folder_is_one_witness_and_never_another() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, log) = (folder.path(), log_key().to_string());
    let local = ["--listen", "127.0.0.1:0", "--log", &log];
    let witness = Witness::start(dir);
    assert_eq!(witness.add(&request(0, 0, 9)).0, 200);
    let said = refused(command(dir, &local).output().unwrap());
    assert!(said.contains("another witness has the folder"), "{said}");
    witness.kill();
    std::fs::rename(dir.join("witness.key"), dir.join("aside")).unwrap();
    let said = refused(command(dir, &local).output().unwrap());
    assert!(said.contains("witness.key is gone"), "{said}");
    assert!(!dir.join("witness.key").exists());
    std::fs::rename(dir.join("aside"), dir.join("witness.key")).unwrap();
    std::fs::rename(dir.join("log"), dir.join("aside")).unwrap();
    let said = refused(command(dir, &local).output().unwrap());
    assert!(said.contains("what this witness has seen"), "{said}");
    assert!(!dir.join("log").exists());
    std::fs::rename(dir.join("aside"), dir.join("log")).unwrap();
    let open = command(dir, &["--listen", "0.0.0.0:0", "--log", &log]).output().unwrap();
    assert!(open.status.code() == Some(2) && refused(open).contains("loopback"));
    let said = refused(command(dir, &["--listen", "127.0.0.1:0", "--log", "no such file"]).output().unwrap());
    assert!(said.contains("no such file"), "{said}");
    assert_eq!(Witness::start(dir).add(&request(0, 9, 10)).0, 200);
}

#[test]
fn sigterm_ends_it_with_success() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::start(folder.path());
    let pid = rustix::process::Pid::from_child(&witness.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(witness.child.wait().unwrap().success());
}
