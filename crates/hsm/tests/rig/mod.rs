//! A listener in this process with a real module behind it, and a client that sends whatever it likes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(dead_code, reason = "each test file takes what it needs")]

use envelope::{SecretKey, Timestamp};
use hsm::{Options, SocketBoundary};
use hsm_api::frame::{FrameWriter, decode_replies};
use hsm_api::{HsmError, Reply, Request, Role};
use hsm_channel::{Identity, Pin, Stream, client_config};
use hsm_serve::{Limits, Listener, PinArgument, Pins, Stopper};
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Unlock};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) boundary: Pin,
    pub(crate) user: Arc<Identity>,
    pub(crate) officer: Arc<Identity>,
    pub(crate) auditor: Arc<Identity>,
    pub(crate) module: Arc<Module>,
    identity: Arc<Identity>,
    given: Vec<PinArgument>,
    limits: Limits,
    serving: Option<(Stopper, JoinHandle<()>)>,
}

impl House {
    /// An operational module behind a listener.
    pub(crate) fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let options = hsm_sim::Options {
            unlock: Some(Unlock::Secret(SecretKey::init_with(|key| key.fill(7)))),
            now: Arc::new(|| Timestamp::from_unix_millis(1_000)),
            report: vec![],
            allow_fault_build: true,
            fault: None,
        };
        let page = SecretPage::ordinary().unwrap();
        let module = Arc::new(Module::open(KeyStore::open(dir.path()).unwrap(), page, options));
        module.serve(Role::Officer, Request::Initialise { threshold: 1, shares: 1 }).unwrap();
        let identity = Identity::generate().unwrap();
        let [user, officer, auditor] = [(); 3].map(|()| Arc::new(Identity::generate().unwrap()));
        let given = [(Role::User, &user), (Role::Officer, &officer), (Role::Auditor, &auditor)];
        let given = given.map(|(role, identity)| PinArgument { role, pin: identity.pin() }).to_vec();
        let socket = dir.path().join("run").join("hsm.sock");
        let (boundary, identity) = (identity.pin(), Arc::new(identity));
        let house =
            |serving| Self { dir, socket, boundary, user, officer, auditor, module, identity, given, limits, serving };
        let mut house = house(None);
        house.serve();
        house
    }

    fn serve(&mut self) {
        let pins = Pins::open(self.dir.path(), self.given.clone()).unwrap();
        let listener = Listener::bind(&self.socket, &self.identity, pins, self.limits.clone()).unwrap();
        let stopper = listener.stopper();
        let (ready, is_ready) = mpsc::channel();
        let behind: Arc<dyn hsm_serve::Module> = Arc::clone(&self.module) as _;
        let serve = move || listener.serve(behind, || ready.send(()).unwrap()).unwrap();
        self.serving = Some((stopper, std::thread::spawn(serve)));
        is_ready.recv().unwrap();
    }

    /// Another listener in front of the same module.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.serve();
    }

    fn stop(&mut self) {
        let (stopper, thread) = self.serving.take().unwrap();
        stopper.stop();
        let outcome = thread.join();
        assert!(outcome.is_ok() || std::thread::panicking(), "the listener panicked");
    }

    pub(crate) fn options(&self, timeout: Duration) -> Options {
        let options = Options::new(self.socket.clone(), Arc::clone(&self.user), self.boundary);
        Options { timeout, ..options }
    }

    pub(crate) async fn connect(&self) -> SocketBoundary {
        let boundary = SocketBoundary::start(self.options(Duration::from_secs(20))).unwrap();
        boundary.connected().await;
        boundary
    }

    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(&self.socket, &self.user, self.boundary).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A reply and the id that it came under.
pub(crate) type Came = (u32, Result<Reply, HsmError>);

/// A client that is bound to nothing but TLS.
pub(crate) struct Raw {
    pub(crate) socket: UnixStream,
    pub(crate) stream: Stream,
}

impl Raw {
    /// The handshake; `None` where the boundary refuses it.
    pub(crate) fn connect(socket: &std::path::Path, identity: &Identity, boundary: Pin) -> Option<Self> {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let stream = Stream::client(client_config(identity, boundary).unwrap()).unwrap();
        let mut raw = Self { socket, stream };
        while raw.stream.peer().is_none() {
            raw.flush();
            raw.read().ok()?;
        }
        raw.flush();
        Some(raw)
    }

    pub(crate) fn flush(&mut self) {
        while self.stream.wants_write() {
            if self.stream.write_tls(&mut self.socket).is_err() {
                return;
            }
        }
    }

    /// Sends bytes as they are, inside TLS.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.send(bytes).unwrap();
        self.flush();
    }

    pub(crate) fn send_requests(&mut self, requests: &[(u32, Request)]) {
        let mut frame = FrameWriter::default();
        for (id, request) in requests {
            assert!(frame.push_request(*id, request).unwrap());
        }
        self.send(frame.finish());
    }

    fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("closed".to_owned()),
            Ok(read) => self.stream.feed(&buffer[..read]).map_err(|error| format!("{error:?}")),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// The next frame's replies; `Err` once the boundary has closed the channel.
    pub(crate) fn replies(&mut self) -> Result<Vec<Came>, String> {
        loop {
            let mut replies = Vec::new();
            let taken = self.stream.take_frame(|body| decode_replies(body, |id, reply| replies.push((id, reply))));
            match taken.unwrap() {
                Some(decoded) => {
                    decoded.unwrap();
                    return Ok(replies);
                }
                None => self.read()?,
            }
        }
    }

    /// The boundary has closed the channel, without a further frame.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.replies() {
            Ok(replies) => panic!("{replies:?}"),
            Err(why) => !why.contains("WouldBlock"),
        }
    }
}

/// What a plain peer can write before it is shut out.
pub(crate) fn write_plain(socket: &std::path::Path, bytes: &[u8]) {
    let mut socket = UnixStream::connect(socket).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _it_may_be_closed_by_now = socket.write_all(bytes);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(answer.len() < 16, "an alert at most: {answer:?}");
}

pub(crate) fn random(bytes: u16) -> Request {
    Request::Random { bytes }
}

/// How many random bytes came.
pub(crate) fn len(reply: &Result<Reply, HsmError>) -> Result<usize, HsmError> {
    match reply {
        Ok(Reply::Secret(secret)) => Ok(secret.len()),
        Ok(_) => panic!("a reply of another kind"),
        Err(error) => Err(*error),
    }
}
