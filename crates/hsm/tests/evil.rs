//! A boundary that answers late, wrongly, twice, not at all, or dies in mid-frame: what its client makes of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use envelope::SecretBytes;
use hsm::{Options, SocketBoundary, connect_once};
use hsm_api::frame::{FrameWriter, decode_requests};
use hsm_api::{Boundary, HsmError, ModuleState, ModuleStatus, Reply, Request, Role, ask};
use hsm_channel::{Identity, Pin, Roles, Stream, server_config};
use rig::{len, random};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the boundary does is told by the number of random bytes asked for.
mod script {
    pub(crate) const TWICE: u16 = 901;
    pub(crate) const UNKNOWN_FIRST: u16 = 902;
    pub(crate) const WRONG_KIND: u16 = 903;
    pub(crate) const NEVER: u16 = 904;
    pub(crate) const LATE: u16 = 905;
    pub(crate) const HALF_A_FRAME: u16 = 906;
    pub(crate) const GARBAGE: u16 = 907;
    pub(crate) const EMPTY_FRAME: u16 = 908;
    pub(crate) const ENDLESS_FRAME: u16 = 909;
    pub(crate) const BROKEN_ITEM: u16 = 910;
    pub(crate) const BELOW_TLS: u16 = 911;
    pub(crate) const HANG_UP: u16 = 912;
    pub(crate) const FREEZE: u16 = 913;
}

#[derive(Debug)]
struct Anybody;

impl Roles for Anybody {
    fn role(&self, _pin: &Pin) -> Option<Role> {
        Some(Role::User)
    }
}

struct Evil {
    _dir: tempfile::TempDir,
    options: Options,
}

impl Evil {
    fn start(timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("evil.sock");
        let identity = Identity::generate().unwrap();
        let options = Options::new(socket.clone(), Arc::new(Identity::generate().unwrap()), identity.pin());
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let config = server_config(&identity, Arc::new(Anybody)).unwrap();
            for socket in listener.incoming() {
                let stream = Stream::server(Arc::clone(&config)).unwrap();
                std::thread::spawn(move || Peer { socket: socket.unwrap(), stream, late: Vec::new() }.serve());
            }
        });
        Self { _dir: dir, options: Options { timeout, ..options } }
    }

    async fn connect(&self) -> SocketBoundary {
        let boundary = SocketBoundary::start(self.options.clone()).unwrap();
        boundary.connected().await;
        boundary
    }
}

struct Peer {
    socket: UnixStream,
    stream: Stream,
    late: Vec<u32>,
}

impl Peer {
    fn serve(mut self) {
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(requests) = self.stream.take_frame(|body| decode_requests(body).unwrap()).unwrap() {
                for incoming in requests {
                    if self.answer(incoming.id, &incoming.request.unwrap()).is_none() {
                        return;
                    }
                }
            }
            self.flush();
            match self.socket.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) if self.stream.feed(&buffer[..read]).is_err() => return,
                Ok(_) => {}
            }
        }
    }

    fn flush(&mut self) {
        while self.stream.wants_write() && self.stream.write_tls(&mut self.socket).is_ok() {}
    }

    fn send(&mut self, replies: &[(u32, Reply)]) {
        let mut frame = FrameWriter::default();
        for (id, reply) in replies {
            let again = match reply {
                Reply::Secret(secret) => Reply::Secret(SecretBytes::copy_from(secret.expose())),
                Reply::Status(status) => Reply::Status(status.clone()),
                Reply::Mac(mac) => Reply::Mac(*mac),
                other => panic!("{other:?}"),
            };
            assert!(frame.push_reply(*id, &Ok(again)));
        }
        self.bytes(frame.finish());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.stream.send(bytes).unwrap();
        self.flush();
    }

    fn answer(&mut self, id: u32, request: &Request) -> Option<()> {
        let bytes = match request {
            Request::Status => {
                self.send(&[(id, Reply::Status(Box::new(status())))]);
                return Some(());
            }
            Request::Random { bytes } => *bytes,
            other => panic!("{other:?}"),
        };
        let good = |bytes: u16| Reply::Secret(SecretBytes::init_with(bytes.into(), |_| {}));
        match bytes {
            script::TWICE => self.send(&[(id, good(bytes)), (id, good(1)), (id, Reply::Mac([0; 32]))]),
            script::UNKNOWN_FIRST => self.send(&[(!id, good(1)), (id + 1, good(2)), (id, good(bytes))]),
            script::WRONG_KIND => self.send(&[(id, Reply::Mac([0; 32]))]),
            script::NEVER => {}
            script::LATE => self.late.push(id),
            script::HALF_A_FRAME => {
                self.bytes(&[0, 0, 1, 0, 1, 2, 3]);
                return None;
            }
            script::GARBAGE => self.bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            script::EMPTY_FRAME => self.bytes(&[0; 4]),
            script::ENDLESS_FRAME => self.bytes(&[0xff; 4]),
            script::BROKEN_ITEM => {
                let item = [&id.to_be_bytes()[..], &[0, 0, 0, 0, 2, 0, 200]].concat();
                self.bytes(&[&[0, 0, 0, 11][..], &item].concat());
            }
            script::BELOW_TLS => self.socket.write_all(&[0x17; 64]).unwrap(),
            script::HANG_UP => return None,
            script::FREEZE => std::thread::sleep(Duration::from_secs(600)),
            bytes => {
                let late = std::mem::take(&mut self.late);
                let late = late.into_iter().map(|id| (id, good(script::LATE)));
                self.send(&late.chain([(id, good(bytes))]).collect::<Vec<_>>());
            }
        }
        Some(())
    }
}

fn status() -> ModuleStatus {
    ModuleStatus {
        module: "evil".to_owned(),
        version: "0".to_owned(),
        state: ModuleState::Operational,
        module_id: [0; 16],
        boot_epoch: 1,
        domain_id: [0; 16],
        generation: 1,
        clusters: vec![],
        backup_made: true,
        fault_build: false,
        capabilities: hsm_api::Capabilities::default(),
        report: vec![],
        identity_key: [0; 32],
    }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_reply_that_is_doubled_unknown_or_of_another_kind_reaches_nobody_else() {
    let evil = Evil::start(LONG);
    let boundary = evil.connect().await;
    for bytes in [script::TWICE, script::UNKNOWN_FIRST] {
        let (first, second) = (boundary.submit(random(bytes)), boundary.submit(random(5)));
        assert_eq!(len(&first.await), Ok(usize::from(bytes)));
        assert_eq!(len(&second.await), Ok(5));
        for bytes in 1..300 {
            assert_eq!(len(&boundary.submit(random(bytes)).await), Ok(usize::from(bytes)));
        }
    }
    let wrong = ask!(boundary, random(script::WRONG_KIND) => Reply::Secret).await;
    assert_eq!(wrong.err(), Some(HsmError::Protocol));
    assert_eq!(len(&boundary.submit(random(5)).await), Ok(5), "the channel stands");
}

#[tokio::test]
async fn a_late_reply_is_dropped_and_a_missing_one_ends_in_time_while_others_are_served() {
    let timeout = Duration::from_millis(400);
    let evil = Evil::start(timeout);
    let boundary = evil.connect().await;
    let began = Instant::now();
    let lost = [script::NEVER, script::LATE].map(|bytes| tokio::spawn(boundary.submit(random(bytes))));
    // the boundary answers, so nothing but the two is out of time
    while began.elapsed() < timeout * 2 {
        assert_eq!(len(&boundary.submit(random(7)).await), Ok(7));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for lost in lost {
        // the late one was answered by the next request's frame, in time
        match len(&lost.await.unwrap()) {
            Ok(bytes) => assert_eq!(bytes, usize::from(script::LATE)),
            Err(error) => assert_eq!(error, HsmError::TimedOut),
        }
    }
    // now a late one that is late: nobody speaks in between
    let pending = boundary.submit(random(script::LATE));
    let began = Instant::now();
    assert_eq!(len(&pending.await), Err(HsmError::TimedOut));
    assert!(began.elapsed() < timeout + Duration::from_millis(300), "{:?}", began.elapsed());
    for bytes in 1..300 {
        assert_eq!(len(&boundary.submit(random(bytes)).await), Ok(usize::from(bytes)), "not the late one's");
    }
}

#[tokio::test]
async fn garbage_and_a_death_in_mid_frame_close_the_channel_and_the_next_one_works() {
    use script::{BELOW_TLS, BROKEN_ITEM, EMPTY_FRAME, ENDLESS_FRAME, GARBAGE, HALF_A_FRAME, HANG_UP};
    let evil = Evil::start(LONG);
    let boundary = evil.connect().await;
    for bytes in [HALF_A_FRAME, GARBAGE, EMPTY_FRAME, ENDLESS_FRAME, BROKEN_ITEM, BELOW_TLS, HANG_UP] {
        let began = Instant::now();
        let before = boundary.submit(random(script::NEVER));
        let outcome = len(&boundary.submit(random(bytes)).await);
        assert_eq!(outcome, Err(HsmError::Restarted), "{bytes}");
        assert_eq!(len(&before.await), Err(HsmError::Restarted), "{bytes}: what was out with it");
        assert_eq!(len(&boundary.submit(random(1)).await), Err(HsmError::Unavailable), "{bytes}: at once");
        boundary.connected().await;
        assert_eq!(len(&boundary.submit(random(9)).await), Ok(9), "{bytes}");
        assert!(began.elapsed() < Duration::from_secs(10), "{bytes}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_boundary_that_falls_silent_fails_fast_and_is_left() {
    let timeout = Duration::from_millis(400);
    let evil = Evil::start(timeout);
    let boundary = evil.connect().await;
    let began = Instant::now();
    let frozen = boundary.submit(random(script::FREEZE));
    let behind: Vec<_> = (0..500).map(|_| boundary.submit(random(1))).collect();
    assert_eq!(len(&frozen.await), Err(HsmError::TimedOut));
    for pending in behind {
        let error = len(&pending.await).unwrap_err();
        assert!(matches!(error, HsmError::TimedOut | HsmError::Unavailable), "{error:?}");
    }
    assert!(began.elapsed() < timeout + Duration::from_millis(300), "{:?}", began.elapsed());
    boundary.connected().await;
    assert_eq!(len(&boundary.submit(random(9)).await), Ok(9), "another connection of a boundary that lives");
}

#[tokio::test]
async fn nobody_home_is_told_at_once_and_found_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, nobody) = (dir.path().join("hsm.sock"), Identity::generate().unwrap());
    let options = Options::new(socket.clone(), Arc::new(Identity::generate().unwrap()), nobody.pin());
    let boundary = SocketBoundary::start(options).unwrap();
    let began = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(len(&boundary.submit(random(1)).await), Err(HsmError::Unavailable));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!boundary.is_connected());
    let missing = connect_once(&socket, &Identity::generate().unwrap(), &nobody.pin()).await;
    assert_eq!(missing.unwrap_err(), HsmError::Unavailable);
    drop(UnixListener::bind(&socket).unwrap());
    let dead = connect_once(&socket, &Identity::generate().unwrap(), &nobody.pin()).await;
    assert_eq!(dead.unwrap_err(), HsmError::Unavailable);
}

#[tokio::test]
async fn an_officers_channel_is_as_careful() {
    let evil = Evil::start(LONG);
    let open = async |options: &Options| connect_once(&options.socket, &options.identity, &options.boundary).await;
    let stranger = Identity::generate().unwrap();
    let wrong_pin = Options { boundary: stranger.pin(), ..evil.options.clone() };
    assert_eq!(open(&wrong_pin).await.unwrap_err(), HsmError::Protocol);
    for (bytes, error) in [
        (script::HALF_A_FRAME, HsmError::Restarted),
        (script::HANG_UP, HsmError::Restarted),
        (script::GARBAGE, HsmError::Protocol),
        (script::BROKEN_ITEM, HsmError::Protocol),
        (script::BELOW_TLS, HsmError::Protocol),
    ] {
        let channel = open(&evil.options).await.unwrap();
        assert_eq!(len(&channel.ask(random(3)).await), Ok(3));
        assert_eq!(len(&channel.ask(random(bytes)).await), Err(error), "{bytes}");
        assert_eq!(len(&channel.ask(random(3)).await), Err(HsmError::Unavailable), "{bytes}: it stays broken");
    }
    let channel = open(&evil.options).await.unwrap();
    for bytes in [script::UNKNOWN_FIRST, script::TWICE, 3] {
        assert_eq!(len(&channel.ask(random(bytes)).await), Ok(usize::from(bytes)));
    }
}

#[test]
fn nobody_waits_for_ever_when_the_runtime_ends() {
    let evil = Evil::start(LONG);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (boundary, pending) = runtime.block_on(async {
        let boundary = evil.connect().await;
        let pending = boundary.submit(random(script::NEVER));
        assert_eq!(len(&boundary.submit(random(3)).await), Ok(3));
        (boundary, pending)
    });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(len(&other.block_on(pending)), Err(HsmError::Unavailable));
    assert_eq!(len(&other.block_on(boundary.submit(random(3)))), Err(HsmError::Unavailable));
    let _: PathBuf = evil.options.socket;
}
