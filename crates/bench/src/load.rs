//! The load: the same lean client for every server, on frames, so that its own cost hides nothing.

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{HeaderValue, Method, Request, Uri};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

/// How many connections, and how many requests in flight on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) streams: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.connections, self.streams)
    }
}

/// One kind of call: as whom, what, with which message.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) token: Option<Arc<str>>,
    pub(crate) message: Bytes,
    /// Asks for the record's receipt, and gets one.
    pub(crate) receipt: bool,
    /// Of the vault's API, by this method; else a gRPC call.
    pub(crate) api: Option<Method>,
    /// The path goes on with a number below this, another one each time; zero: it does not.
    pub(crate) spread: u64,
}

impl Call {
    /// As a gRPC call.
    pub(crate) fn grpc(path: &'static str, token: Option<Arc<str>>, message: Bytes) -> Self {
        Self { path, token, message, receipt: false, api: None, spread: 0 }
    }

    /// Of the vault's API. The message is JSON, or empty.
    pub(crate) fn api(method: Method, path: &'static str, token: Option<Arc<str>>, message: Bytes) -> Self {
        Self { api: Some(method), ..Self::grpc(path, token, message) }
    }
}

/// What a window saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    pub(crate) fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        self.latency.value_at_quantile(q)
    }
}

type Outcome = Result<(u64, Histogram<u64>)>;
type Window = (Call, Duration);

/// Connections that stay open between windows, idle until a window sends something down them.
pub(crate) struct Load {
    windows: Vec<mpsc::UnboundedSender<Window>>,
    results: std::sync::mpsc::Receiver<Outcome>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("threads", &self.windows.len()).finish()
    }
}

impl Load {
    /// Opens `shape.connections` connections, spread over two client threads.
    pub(crate) fn open(addr: SocketAddr, shape: Shape, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let threads = shape.connections.min(2);
        let (results_to, results) = std::sync::mpsc::channel();
        let (opened_to, opened) = std::sync::mpsc::channel();
        let mut windows = Vec::new();
        for thread in 0..threads {
            let connections = shape.connections / threads + usize::from(thread < shape.connections % threads);
            let (tls, results, opened) = (Arc::clone(tls), results_to.clone(), opened_to.clone());
            let (window_to, window) = mpsc::unbounded_channel();
            windows.push(window_to);
            std::thread::spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(opened.send(Err(error.into()))),
                };
                runtime.block_on(serve_windows(addr, connections, shape.streams, &tls, &opened, window, &results));
            });
        }
        drop(opened_to);
        for _ in 0..threads {
            opened.recv().context("a client thread ended")??;
        }
        Ok(Self { windows, results })
    }

    /// One window: every connection keeps its streams busy with `call` for `length`.
    pub(crate) fn window(&self, call: &Call, length: Duration) -> Result<Seen> {
        let began = Instant::now();
        for window in &self.windows {
            window.send((call.clone(), length)).context("a client thread ended")?;
        }
        let (mut calls, mut latency) = (0, histogram()?);
        for _ in &self.windows {
            let (here, histogram) = self.results.recv().context("a client thread ended")??;
            calls += here;
            latency.add(histogram)?;
        }
        Ok(Seen { calls, elapsed: began.elapsed(), latency })
    }
}

/// A client thread: its runtime goes on between windows, so that idle connections answer pings.
async fn serve_windows(
    addr: SocketAddr,
    connections: usize,
    streams: usize,
    tls: &Arc<rustls::ClientConfig>,
    opened: &std::sync::mpsc::Sender<Result<()>>,
    mut windows: mpsc::UnboundedReceiver<Window>,
    results: &std::sync::mpsc::Sender<Outcome>,
) {
    let mut open = Vec::new();
    for _ in 0..connections {
        match connect(addr, tls).await {
            Ok(sender) => open.push(sender),
            Err(error) => return drop(opened.send(Err(error))),
        }
    }
    let _ = opened.send(Ok(()));
    while let Some((call, length)) = windows.recv().await {
        let _ = results.send(run_window(&call, &open, streams, length).await);
    }
}

/// One call on a connection of its own; gives the reply's message.
pub(crate) async fn once(addr: SocketAddr, call: &Call, tls: &Arc<rustls::ClientConfig>) -> Result<Bytes> {
    exchange(&connect(addr, tls).await?, call).await
}

/// A page by GET.
pub(crate) async fn page(addr: SocketAddr, path: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Bytes> {
    let mut request = Request::new(());
    *request.uri_mut() = Uri::builder().scheme("https").authority("localhost").path_and_query(path).build()?;
    let mut sender = connect(addr, tls).await?.ready().await?;
    let response = sender.send_request(request, true)?.0.await?;
    if !response.status().is_success() {
        bail!("{path} answered {}", response.status());
    }
    read(response.into_body()).await.map(|(message, _)| message)
}

async fn connect(addr: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn run_window(
    call: &Call,
    open: &[SendRequest<Bytes>],
    streams: usize,
    length: Duration,
) -> Result<(u64, Histogram<u64>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for sender in open {
        for _ in 0..streams {
            let (call, sender, stop) = (call.clone(), sender.clone(), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let mut latency = histogram()?;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    exchange(&sender, &call).await?;
                    latency.saturating_record(u64::try_from(began.elapsed().as_micros())?);
                }
                anyhow::Ok(latency)
            }));
        }
    }
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = histogram()?;
    for task in tasks {
        all.add(task.await??)?;
    }
    Ok((all.len(), all))
}

async fn exchange(sender: &SendRequest<Bytes>, call: &Call) -> Result<Bytes> {
    if let Some(method) = &call.api {
        return exchange_api(sender, call, method).await;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::builder().scheme("https").authority("localhost").path_and_query(call.path).build()?;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    if let Some(token) = &call.token {
        headers.insert("authorization", HeaderValue::from_str(token)?);
    }
    if call.receipt {
        headers.insert("strongroom-receipt", HeaderValue::from_static("1"));
    }
    let mut sender = sender.clone().ready().await?;
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(call.message.clone(), true)?;
    let response = response.await?;
    if let Some(status) = response.headers().get("grpc-status") {
        bail!("{} answered status {status:?}: {:?}", call.path, response.headers().get("grpc-message"));
    }
    let (message, mut reply) = read(response.into_body()).await?;
    let trailers = reply.trailers().await?.context("a reply without trailers")?;
    if call.receipt && !trailers.contains_key("strongroom-receipt-bin") {
        bail!("{} answered without a receipt", call.path);
    }
    match trailers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") if message.len() >= 5 => Ok(message.slice(5..)),
        status => bail!("{} answered status {:?}: {:?}", call.path, status, trailers.get("grpc-message")),
    }
}

async fn exchange_api(sender: &SendRequest<Bytes>, call: &Call, method: &Method) -> Result<Bytes> {
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    let uri = Uri::builder().scheme("https").authority("localhost");
    *request.uri_mut() = match call.spread {
        0 => uri.path_and_query(call.path),
        spread => uri.path_and_query(format!("{}{}", call.path, NEXT.fetch_add(1, Ordering::Relaxed) % spread)),
    }
    .build()?;
    if let Some(token) = &call.token {
        request.headers_mut().insert("authorization", HeaderValue::from_str(token)?);
    }
    let mut sender = sender.clone().ready().await?;
    let response = if call.message.is_empty() {
        sender.send_request(request, true)?.0
    } else {
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(call.message.clone(), true)?;
        response
    };
    let response = response.await?;
    let status = response.status();
    let (message, _) = read(response.into_body()).await?;
    if status.is_success() {
        return Ok(message);
    }
    bail!("{} answered {status}: {}", call.path, String::from_utf8_lossy(&message))
}

/// So that no two calls write the same name at once.
static NEXT: AtomicU64 = AtomicU64::new(0);

async fn read(mut reply: h2::RecvStream) -> Result<(Bytes, h2::RecvStream)> {
    let mut message = Bytes::new();
    while let Some(data) = reply.data().await {
        let data = data?;
        let _ = reply.flow_control().release_capacity(data.len());
        message = if message.is_empty() { data } else { [message, data].concat().into() };
    }
    Ok((message, reply))
}

/// A gRPC frame around a message.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    out.put(message.encode_to_vec().as_slice());
    out.freeze()
}

fn histogram() -> Result<Histogram<u64>> {
    // 1 µs to 60 s, three digits
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}
