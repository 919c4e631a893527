//! A server in this process: real store, real module, real log, served by hyper on loopback.

use api::{
    BackupPiece, BoundaryState, Health, Metrics, Operator, OperatorError, Peer, PeerCertificate, ServerStatus, Services,
};
use audit::checkpoint::Checkpoint;
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogReader};
use audit::receipt::Batch;
use audit::record::Entry;
use audit::{Acks, AuditError, AuditSink, CheckpointSigner, ForReceipt, Log, LogOptions, SignError, Witnesses};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::{Buf, BufMut, Bytes};
use envelope::merkle::{Hash, leaf_hash};
use envelope::{Clock, ManualClock, SecretKey, Timestamp};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use hsm_api::{Boundary, HsmError, ModuleStatus, Reply, Request, Role, ask};
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Options, Unlock};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Changes, Identities, RequestInfo};
use kms::Kms;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;
use storage::{Memory, Storage};
use tokio::sync::watch;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

pub(crate) const ROOT: &str = "root-token-of-the-tests";
pub(crate) const START: u64 = 1_700_000_000_000;

/// The module, and whether it is in reach.
#[derive(Debug, Clone)]
pub(crate) struct InReach {
    module: Arc<Module>,
    state: Arc<AtomicU8>,
}

impl InReach {
    pub(crate) fn answers(&self) {
        self.state.store(0, Ordering::SeqCst);
    }

    /// Every request is refused at once.
    pub(crate) fn is_away(&self) {
        self.state.store(1, Ordering::SeqCst);
    }

    /// Requests are taken and never answered.
    pub(crate) fn is_silent(&self) {
        self.state.store(2, Ordering::SeqCst);
    }
}

impl Boundary for InReach {
    fn submit(&self, request: Request) -> hsm_api::boundary::Pending<Reply> {
        match self.state.load(Ordering::SeqCst) {
            0 => Box::pin(std::future::ready(self.module.serve(Role::User, request))),
            1 => Box::pin(std::future::ready(Err(HsmError::Unavailable))),
            _ => Box::pin(std::future::pending()),
        }
    }
}

/// The log, and whether it takes records.
#[derive(Debug, Clone)]
pub(crate) struct Willing {
    log: Arc<dyn AuditSink>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Takes,
    /// One record more, then it is away.
    TakesOne,
    Refuses(AuditError),
    Hangs,
}

impl Willing {
    pub(crate) fn takes(&self) {
        self.state.send_replace(State::Takes);
    }

    pub(crate) fn takes_one(&self) {
        self.state.send_replace(State::TakesOne);
    }

    pub(crate) fn refuses(&self, error: AuditError) {
        self.state.send_replace(State::Refuses(error));
    }

    /// Nothing is durable before it takes records again.
    pub(crate) fn hangs(&self) {
        self.state.send_replace(State::Hangs);
    }
}

impl Willing {
    /// The log, as soon as it does not hang.
    fn taking(&self) -> impl Future<Output = Result<Arc<dyn AuditSink>, AuditError>> + use<> {
        let (log, told, mut state) = (Arc::clone(&self.log), self.state.clone(), self.state.subscribe());
        async move {
            let state = *state.wait_for(|state| *state != State::Hangs).await.expect("the rig lives");
            match state {
                State::TakesOne => {
                    told.send_replace(State::Refuses(AuditError::Unavailable));
                    Ok(log)
                }
                State::Takes | State::Hangs => Ok(log),
                State::Refuses(error) => Err(error),
            }
        }
    }
}

impl AuditSink for Willing {
    fn append(&self, record: Bytes) -> BoxFuture<'static, Result<(), AuditError>> {
        let taking = self.taking();
        Box::pin(async move { taking.await?.append(record).await })
    }

    fn append_for_receipt(&self, record: Bytes) -> ForReceipt {
        let (taking, (hand_over, handed_over)) = (self.taking(), tokio::sync::oneshot::channel());
        let durable = Box::pin(async move {
            let ForReceipt { durable, receipt } = taking.await?.append_for_receipt(record);
            let _ = hand_over.send(receipt);
            durable.await
        });
        let receipt = Box::pin(async move { handed_over.await.map_err(|_| AuditError::Unavailable)?.await });
        ForReceipt { durable, receipt }
    }
}

/// Signs whatever it is asked to: a boundary that remembers nothing.
#[derive(Debug)]
pub(crate) struct Signer {
    key: Ed25519KeyPair,
    away: AtomicBool,
}

impl Signer {
    pub(crate) fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

impl Signer {
    fn signed(&self, body: String) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(SignError::Unavailable)));
        }
        let signature = self.key.sign(body.as_bytes());
        Box::pin(std::future::ready(signature.as_ref().try_into().map_err(|_| SignError::Unavailable)))
    }
}

impl CheckpointSigner for Signer {
    fn verifier(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        _: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.signed(Checkpoint { origin, size, root }.body())
    }

    fn sign_batch(&self, batch: Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.signed(batch.body())
    }
}

fn open_log(dir: PathBuf, clock: &ManualClock, signer: Arc<Signer>) -> Arc<Log> {
    let options = LogOptions::new(dir, "strongroom.audit/tests".into(), "1", signer, Arc::new(clock.clone()));
    Log::open(LogOptions { reserve_bytes: 1 << 16, ..options }).unwrap()
}

/// The server as its operators see it.
#[derive(Debug)]
struct Server {
    boundary: InReach,
    store: Arc<dyn Storage>,
    dir: PathBuf,
}

#[async_trait::async_trait]
impl Operator for Server {
    async fn status(&self) -> Result<ServerStatus, OperatorError> {
        let boundary =
            ask!(self.boundary, Request::Status => Reply::Status).await.ok().map(|status: Box<ModuleStatus>| *status);
        let (cluster_id, tenant_id) = ([1; 16], [2; 16]);
        let started = Timestamp::from_unix_millis(START);
        Ok(ServerStatus { version: "0.0.1".into(), cluster_id, tenant_id, generation: 1, started, boundary })
    }

    async fn backup(&self) -> Result<BoxStream<'static, Result<BackupPiece, OperatorError>>, OperatorError> {
        let file = self.dir.join("backup");
        let revision = self.store.backup(&file).await.map_err(|_| OperatorError::StorageUnavailable)?.0;
        let data = std::fs::read(&file).map_err(|_| OperatorError::Internal)?;
        let end = BackupPiece::End { sha256: envelope::mac::sha256(&data), revision };
        let pieces: Vec<_> =
            data.chunks(64 << 10).map(|piece| BackupPiece::Data(Bytes::copy_from_slice(piece))).collect();
        Ok(stream::iter(pieces.into_iter().chain([end]).map(Ok)).boxed())
    }
}

pub(crate) struct Rig {
    pub(crate) boundary: InReach,
    pub(crate) audit: Willing,
    pub(crate) strangers: api::Strangers,
    pub(crate) signer: Arc<Signer>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) clock: ManualClock,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) addr: SocketAddr,
    pub(crate) channel: Channel,
    log: PathBuf,
    pub(crate) routes: api::Front,
    file: Arc<Log>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::beside(Witnesses::None).await
    }

    pub(crate) async fn beside(witnesses: Witnesses) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::from_unix_millis(START));
        let boundary = InReach { module: Arc::new(module(&dir, &clock)), state: Arc::default() };
        let store: Arc<dyn Storage> = Arc::new(Memory::with_clock(Arc::new(clock.clone())));
        let cluster = kms::boot::open(Arc::clone(&store), &boundary, clock.now()).await.unwrap();
        let log = dir.path().join("audit");
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let signer = Arc::new(Signer { key, away: AtomicBool::new(false) });
        let file = open_log(log.clone(), &clock, Arc::clone(&signer));
        let willing = Willing { log: file.lane(), state: watch::Sender::new(State::Takes) };
        let audit: Arc<dyn AuditSink> = Arc::new(willing.clone());
        let changes = Changes::new(Arc::clone(&cluster.barrier), Arc::clone(&audit), 1);
        let (names, keys) = (Arc::new(identity::Caches::new(100)), Arc::new(kms::Caches::new(100)));
        let identities = Identities::new(identity::Seams {
            barrier: Arc::clone(&cluster.barrier),
            tenant: cluster.tenant,
            generation: 1,
            changes: changes.clone(),
            caches: Arc::clone(&names),
        });
        let identities = identities.unwrap();
        let kms = Kms::new(kms::Seams {
            boundary: Arc::new(boundary.clone()),
            barrier: Arc::clone(&cluster.barrier),
            audit: Arc::clone(&audit),
            changes: changes.clone(),
            caches: Arc::clone(&keys),
            tenant: cluster.tenant,
            generation: 1,
        });
        let kms = kms.unwrap();
        tokio::spawn(storage::follow(Arc::clone(&store), identities.watched(), vec![Arc::clone(&names) as _]));
        tokio::spawn(storage::follow(Arc::clone(&store), kms.watched(), vec![keys]));
        let call = RequestInfo::new("start".into(), String::new(), clock.now());
        identities.create_root(ROOT.as_bytes(), &call).await.unwrap();
        let health = Health::new();
        let metrics = Metrics::new("0.0.1", &health);
        let (strangers, vault_caches) = (api::Strangers::default(), Arc::new(vault::Caches::new(100)));
        let vault = vault::Vault::new(vault::Seams {
            generation: 1,
            leases_void_below: 0,
            barrier: Arc::clone(&cluster.barrier),
            tenant: cluster.tenant,
            identities: identities.clone(),
            identity_caches: Arc::clone(&names),
            kms: kms.clone(),
            changes,
            strangers: strangers.of_vault(&audit),
            telemetry: Arc::new(metrics.clone()),
            databases: vault::Databases::default(),
            outside: Arc::new(vault::outside::Nobody),
            caches: Arc::clone(&vault_caches),
        });
        let vault = vault.unwrap();
        vault.prepare(clock.now()).await.unwrap();
        let all = storage::EntryPath::parse(&hex::encode(cluster.tenant)).unwrap();
        tokio::spawn(storage::follow(Arc::clone(&store), all, vec![vault_caches]));
        let acks = Arc::new(file.acks(witnesses));
        health.serve();
        health.boundary(BoundaryState::Available);
        let operator = Arc::new(Server { boundary: boundary.clone(), store, dir: dir.path().to_owned() });
        let services = Services {
            kms,
            identities,
            vault,
            operator,
            metrics: metrics.clone(),
            health: health.clone(),
            clock: Arc::new(clock.clone()),
            audit,
            acks: Arc::clone(&acks),
            strangers: strangers.clone(),
        };
        let routes = api::front(services);
        let addr = listen(routes.clone(), None).await;
        let channel = connect(addr).await;
        Self {
            boundary,
            audit: willing,
            strangers,
            signer,
            acks,
            clock,
            health,
            metrics,
            addr,
            channel,
            log,
            routes,
            file,
            _dir: dir,
        }
    }

    /// Another door, at which everybody shows this certificate.
    pub(crate) async fn channel_with(&self, certificate: PeerCertificate) -> Channel {
        connect(listen(self.routes.clone(), Some(certificate)).await).await
    }

    /// The log's entries, but what it tells of itself: hash of the leaf, and the record.
    fn entries(&self) -> Vec<(Hash, serde_json::Value)> {
        let log = LogReader::over(LogFolder::open(&self.log).unwrap());
        let (mut entries, mut out) = (log.iter_from(0).unwrap(), Vec::new());
        while let Some((_, entry)) = entries.read().unwrap() {
            let record = Entry::decode(entry).unwrap().to_json(None);
            out.push((leaf_hash(entry), serde_json::from_str::<serde_json::Value>(&record).unwrap()));
        }
        out.retain(|(_, record)| record["operation"] != "AuditLog");
        for (_, record) in out.iter().filter(|(_, record)| record["operation"] != "StrangersRefused") {
            // what is under way has taken no time yet, and a change's record is part of it
            let ended = record["outcome"] != "asked" && record.get("changes").is_none();
            assert_eq!(record.get("latency_micros").is_some(), ended, "{record}");
        }
        out
    }

    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        self.entries().into_iter().map(|(_, record)| record).collect()
    }

    /// Of the record that was written last.
    pub(crate) fn last_leaf(&self) -> Hash {
        self.entries().pop().unwrap().0
    }

    pub(crate) fn log_key(&self) -> &VerifierKey {
        self.file.key()
    }

    /// How many leaves the newest checkpoint covers.
    pub(crate) fn signed(&self) -> u64 {
        self.file.checkpoint().map_or(0, |signed| signed.0.size)
    }

    /// How many leaves the log has.
    pub(crate) fn leaves(&self) -> usize {
        self.records().len()
    }

    /// `operation subject's type decision outcome` of the record of this request.
    pub(crate) fn record_of(&self, request_id: &str) -> String {
        let records = self.records();
        let found: Vec<_> = records.iter().filter(|record| record["request_id"] == request_id).collect();
        assert_eq!(found.len(), 1, "{request_id}: {found:?}");
        let outcome = &found[0]["outcome"];
        let outcome = outcome.as_str().or_else(|| outcome["failed"].as_str()).unwrap().to_owned();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let (subject, decision) = (text(&found[0]["subject"]["type"]), text(&found[0]["decision"]));
        format!("{} {subject} {decision} {outcome}", text(&found[0]["operation"]))
    }

    /// One RPC on bytes.
    pub(crate) async fn raw(&self, path: &str, message: Vec<u8>, metadata: &[(&'static str, &str)]) -> Answer {
        raw(&self.channel, path, message, metadata).await
    }

    /// One RPC as root.
    pub(crate) async fn root(&self, path: &str, message: &impl prost::Message) -> Answer {
        self.raw(path, message.encode_to_vec(), &[("authorization", &format!("Bearer {ROOT}"))]).await
    }
}

fn module(dir: &tempfile::TempDir, clock: &ManualClock) -> Module {
    let folder = dir.path().join("hsm");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let clock = clock.clone();
    let options = Options {
        unlock: Some(Unlock::Secret(SecretKey::init_with(|key| key.fill(7)))),
        now: Arc::new(move || clock.now()),
        report: vec![("seccomp".into(), "on".into())],
        allow_fault_build: true,
        fault: None,
    };
    let module = Module::open(KeyStore::open(&folder).unwrap(), SecretPage::ordinary().unwrap(), options);
    module.serve(Role::Officer, Request::Initialise { threshold: 1, shares: 1 }).unwrap();
    module
}

async fn listen(routes: api::Front, certificate: Option<PeerCertificate>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let peer = Arc::new(Peer { addr: peer.to_string(), certificate: certificate.clone() });
            let routes = routes.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(Arc::clone(&peer));
                    tower::Service::call(&mut routes.clone(), request.map(tonic::body::Body::new))
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

async fn connect(addr: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// What a caller sees.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) result: Result<Bytes, tonic::Status>,
    pub(crate) metadata: MetadataMap,
}

impl Answer {
    pub(crate) fn decoded<M: prost::Message + Default>(self) -> M {
        M::decode(self.result.unwrap()).unwrap()
    }

    /// `CODE REASON field`.
    pub(crate) fn refusal(&self) -> String {
        let status = self.result.as_ref().unwrap_err();
        shown(status)
    }

    pub(crate) fn request_id(&self) -> String {
        self.metadata.get("x-request-id").unwrap().to_str().unwrap().to_owned()
    }
}

pub(crate) fn shown(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
    let field = info.and_then(|info| info.metadata.get("field").cloned()).unwrap_or_default();
    assert!(info.is_none_or(|info| info.domain == "strongroom"));
    assert_eq!(details.bad_request().map(|bad| bad.field_violations[0].field.clone()).unwrap_or_default(), field);
    let final_ones = ["SEALED", "RECEIPT_UNAVAILABLE", "AUDIT_UNSIGNED", "AUDIT_UNWITNESSED", "AUDIT_LOG_SET_BACK"];
    let helps = status.code() == tonic::Code::Unavailable && !final_ones.contains(&reason.as_str());
    assert_eq!(details.retry_info().is_some(), helps, "{status:?}");
    format!("{:?} {reason} {field}", status.code()).trim_end().to_owned()
}

pub(crate) async fn raw(channel: &Channel, path: &str, message: Vec<u8>, metadata: &[(&'static str, &str)]) -> Answer {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(Bytes::from(message));
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    let reply = tokio::time::timeout(Duration::from_secs(60), grpc.unary(request, path.parse().unwrap(), Raw)).await;
    match reply.expect("every request is answered") {
        Ok(reply) => Answer { metadata: reply.metadata().clone(), result: Ok(reply.into_inner()) },
        Err(status) => Answer { metadata: status.metadata().clone(), result: Err(status) },
    }
}

/// The head of one RPC's reply and the body to come, asked without tonic's client, which gives up by itself when
/// `grpc-timeout` has passed, and reads what is a stream to its end.
pub(crate) async fn begun(
    addr: SocketAddr,
    path: &str,
    message: &[u8],
    headers: &[(&str, &str)],
) -> http::Response<hyper::body::Incoming> {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let framed = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    let mut request = http::Request::post(format!("http://{addr}{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(axum::body::Body::from(framed)).unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(60), client.send_request(request)).await;
    reply.expect("every request is answered").unwrap()
}

/// The refusal of one RPC.
pub(crate) async fn refused_by(addr: SocketAddr, path: &str, message: &[u8], headers: &[(&str, &str)]) -> Answer {
    let reply = begun(addr, path, message, headers).await;
    let status = tonic::Status::from_header_map(reply.headers()).expect("a refusal has no body");
    Answer { result: Err(status), metadata: MetadataMap::from_headers(reply.headers().clone()) }
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
