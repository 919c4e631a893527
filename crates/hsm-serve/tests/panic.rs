//! A module that panics takes its process with it, on both lanes: nobody waits for a reply that cannot come.
//! The program starts itself again as the boundary that dies.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where it fails")]

use hsm_api::frame::FrameWriter;
use hsm_api::{HsmError, ModuleState, Reply, Request, Role};
use hsm_channel::{Identity, Stream, client_config};
use hsm_serve::{Lane, Limits, Listener, Module, PinArgument, Pins};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, dir] = &arguments[..]
        && word == "boundary"
    {
        return boundary(Path::new(dir));
    }
    let sigabrt = 6;
    for (bytes, lane) in [(1, Lane::Inline), (2, Lane::Pool)] {
        let status = death(bytes);
        let died = match lane {
            Lane::Inline => status.code() == Some(101),
            Lane::Pool => status.signal() == Some(sigabrt),
        };
        assert!(died, "{lane:?}: {status}");
    }
}

/// Panics at every request.
#[derive(Debug)]
struct Panics;

impl Module for Panics {
    fn state(&self) -> ModuleState {
        ModuleState::Operational
    }

    fn lane(&self, request: &Request) -> Lane {
        if matches!(request, Request::Random { bytes: 1 }) { Lane::Inline } else { Lane::Pool }
    }

    fn serve(&self, _role: Role, _request: Request) -> Result<Reply, HsmError> {
        panic!("as it was asked to")
    }
}

fn boundary(dir: &Path) {
    let identity = Identity::load_or_generate(&dir.join("boundary.key")).unwrap();
    let user = Identity::load_or_generate(&dir.join("user.key")).unwrap();
    let pins = Pins::open(dir, vec![PinArgument { role: Role::User, pin: user.pin() }]).unwrap();
    let listener = Listener::bind(&dir.join("run").join("hsm.sock"), &identity, pins, Limits::default()).unwrap();
    let ready = || println!("ready");
    listener.serve(Arc::new(Panics), ready).unwrap();
}

/// Starts the boundary, asks it once, and tells how it ended.
fn death(bytes: u16) -> ExitStatus {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("boundary")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let identity = |name| Identity::load(&dir.path().join(name)).unwrap();
    let config = client_config(&identity("user.key"), identity("boundary.key").pin()).unwrap();
    let mut socket = UnixStream::connect(dir.path().join("run").join("hsm.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = Stream::client(config).unwrap();
    let mut frame = FrameWriter::default();
    assert!(frame.push_request(1, &Request::Random { bytes }).unwrap());
    let mut sent = false;
    let mut buffer = [0; 16 * 1024];
    loop {
        if stream.peer().is_some() && !std::mem::replace(&mut sent, true) {
            stream.send(frame.finish()).unwrap();
        }
        while stream.wants_write() {
            stream.write_tls(&mut socket).unwrap();
        }
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => stream.feed(&buffer[..read]).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent && stream.take_frame(|_| ()).unwrap().is_none(), "no reply");
    child.wait().unwrap()
}
