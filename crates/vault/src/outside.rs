//! What auth methods ask of other servers: an issuer's keys, reviews of tokens, who signed a request.
//!
//! Always: an ask ends within the time that it names, and what is answered is bounded.
//! Always: a server that was not reached three times in a row is asked by one, now and then; who comes meanwhile is refused
//! at once. Of one server no more is asked at once than [`ASKS_MAX`]; the others wait their time.
//! Never: a redirect that is followed, a proxy, a cookie; HTTP without TLS but to this host, or for answers that are signed.

use crate::error::VaultError;
use crate::service::Vault;
use envelope::mac;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// One request.
pub struct Ask {
    pub method: Method,
    /// `https://`; `http://` to a literal loopback address, or for what is signed.
    pub url: String,
    pub headers: Vec<(&'static str, Zeroizing<String>)>,
    pub body: Zeroizing<Vec<u8>>,
    /// PEM certificates of the authorities that the server is believed by; none: those that the system trusts.
    pub ca: Option<String>,
    /// What is answered vouches for itself, whoever is on the way.
    pub answer_is_signed: bool,
    pub answer_bytes_max: usize,
    pub within: Duration,
}

/// What was answered, whatever the status.
pub struct Told {
    pub status: u16,
    /// Without its parameters, in lower case; empty where none was told.
    pub media_type: String,
    pub body: Zeroizing<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// Nobody was asked: the URL, a header or the authorities are not sound.
    #[error("cannot be asked: {0}")]
    Refused(String),
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It was not reached lately, or too many wait for it.
    #[error("was not reached lately, or too many ask it: not asked")]
    NotAsked,
}

/// Dials out: `plugins` does.
#[async_trait::async_trait]
pub trait Outside: Send + Sync + fmt::Debug {
    async fn ask(&self, ask: Ask) -> Result<Told, OutsideError>;

    /// As whom this server itself asks at `url`, read anew. Nothing where it is not configured for that very URL.
    async fn account(&self, url: &str) -> Result<Option<Account>, OutsideError>;
}

/// What somebody else has made this server: a cluster's service account, say.
pub struct Account {
    pub token: Zeroizing<String>,
    /// PEM certificates of the authorities by which the other one is believed.
    pub ca: Option<String>,
}

/// Nobody: where nothing dials out.
#[derive(Debug)]
pub struct Nobody;

#[async_trait::async_trait]
impl Outside for Nobody {
    async fn ask(&self, _: Ask) -> Result<Told, OutsideError> {
        Err(OutsideError::Refused("this server dials nobody".to_owned()))
    }

    async fn account(&self, _: &str) -> Result<Option<Account>, OutsideError> {
        Ok(None)
    }
}

/// How it goes with each server that is asked. One for the whole process.
#[derive(Debug, Default)]
pub(crate) struct Outsiders {
    servers: Mutex<HashMap<String, Server>>,
}

#[derive(Debug)]
struct Server {
    places: Arc<Semaphore>,
    /// In a row.
    failures: u32,
    shut_until: Instant,
}

/// HTTPS, or HTTP to a literal loopback address; without a user, a query, a fragment.
pub fn is_sound_url(url: &str) -> bool {
    is_sound_endpoint(url) && !url.contains('?')
}

/// Of somebody whose answers are signed: HTTP will do. Without a user or a fragment.
pub(crate) fn is_sound_answerer(url: &str) -> bool {
    is_sound_endpoint(url)
        || url.strip_prefix("http://").is_some_and(|rest| is_sound_endpoint(&format!("https://{rest}")))
}

/// The same, and perhaps with a query.
pub(crate) fn is_sound_endpoint(url: &str) -> bool {
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'"' | b'<' | b'>'));
    if !plain || url.len() > URL_BYTES_MAX {
        return false;
    }
    let host = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
    if let Some(rest) = url.strip_prefix("https://") {
        return !host(rest).is_empty() && !host(rest).contains('@');
    }
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let host = host(rest);
    let port_of = ["127.0.0.1", "[::1]"].into_iter().find_map(|own| host.strip_prefix(own));
    port_of
        .is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()))
}

impl Vault {
    pub(crate) fn outside(&self) -> Asking<'_> {
        let (port, outsiders) = (&*self.seams.outside, self.seams.caches.outsiders());
        Asking { port, outsiders, is_roots: self.space.is_none() }
    }

    pub(crate) fn may_ask(&self, url: &str) -> bool {
        self.outside().may_ask(url)
    }
}

#[derive(Debug)]
pub(crate) struct Asking<'a> {
    port: &'a dyn Outside,
    outsiders: &'a Outsiders,
    /// Asked for the root. What else listens on this host is no namespace's to ask.
    is_roots: bool,
}

impl Asking<'_> {
    /// In a namespace, https:// alone.
    fn may_ask(&self, url: &str) -> bool {
        self.is_roots || url.starts_with("https://")
    }

    /// The root's mounts alone ask as this server.
    pub(crate) async fn account(&self, url: &str) -> Result<Option<Account>, OutsideError> {
        if self.is_roots { self.port.account(url).await } else { Ok(None) }
    }

    /// `server` is what failures are counted by: a host, or a mount's id and one; and with it by whom it is believed: who
    /// configures authorities that do not fit keeps nobody else from a server.
    pub(crate) async fn ask(&self, server: &str, ask: Ask) -> Result<Told, OutsideError> {
        let believed = ask.ca.as_ref().map(|ca| hex::encode(mac::sha256(ca.as_bytes())));
        let server = &*believed.map_or(Cow::Borrowed(server), |ca| Cow::Owned(format!("{server} {ca}")));
        if !self.may_ask(&ask.url) {
            return Err(OutsideError::Refused("in a namespace, https:// alone".to_owned()));
        }
        let until = Instant::now() + ask.within;
        let (places, probes) = self.outsiders.enter(server)?;
        let Ok(Ok(_place)) = timeout_at(until, places.acquire()).await else { return Err(OutsideError::NotAsked) };
        // while this one waited, others may have found that it is away
        if !probes {
            self.outsiders.enter(server)?;
        }
        let within = until.saturating_duration_since(Instant::now());
        let told = timeout_at(until, self.port.ask(Ask { within, ..ask })).await;
        let told = told.unwrap_or_else(|_| Err(OutsideError::Unreachable("no answer in time".to_owned())));
        match &told {
            Ok(told) if told.status < 500 => self.outsiders.reached(server),
            Ok(_) | Err(OutsideError::Unreachable(_)) => self.outsiders.failed(server),
            Err(OutsideError::Refused(_) | OutsideError::NotAsked) => {}
        }
        told
    }
}

impl Outsiders {
    /// Where to wait for a place, and whether this is the one who looks whether it is there again.
    fn enter(&self, server: &str) -> Result<(Arc<Semaphore>, bool), OutsideError> {
        let (mut servers, now) = (self.locked(), Instant::now());
        if servers.len() >= SERVERS_MAX && !servers.contains_key(server) {
            servers.clear();
        }
        let known = servers.entry(server.to_owned()).or_insert_with(|| Server {
            places: Arc::new(Semaphore::new(ASKS_MAX)),
            failures: 0,
            shut_until: now,
        });
        let probes = known.failures >= FAILURES_MAX;
        if probes && now < known.shut_until {
            return Err(OutsideError::NotAsked);
        }
        if probes {
            known.shut_until = now + pause(known.failures);
        }
        Ok((Arc::clone(&known.places), probes))
    }

    fn reached(&self, server: &str) {
        if let Some(known) = self.locked().get_mut(server) {
            known.failures = 0;
        }
    }

    fn failed(&self, server: &str) {
        if let Some(known) = self.locked().get_mut(server) {
            known.failures = known.failures.saturating_add(1);
            known.shut_until = Instant::now() + pause(known.failures);
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(FAILURES_MAX).min(8)).min(PAUSE_MAX)
}

/// Nobody is let in whose proof could not be looked at; the caller may try again.
impl From<OutsideError> for VaultError {
    fn from(error: OutsideError) -> Self {
        tracing::warn!(%error, "whoever could tell who logs in");
        Self::Unavailable(match error {
            OutsideError::Refused(_) => "UPSTREAM_MISCONFIGURED",
            OutsideError::Unreachable(_) => "UPSTREAM_UNREACHABLE",
            OutsideError::NotAsked => "UPSTREAM_NOT_ASKED",
        })
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("method", &self.method).field("url", &self.url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Of one server, at once.
pub const ASKS_MAX: usize = 64;
const URL_BYTES_MAX: usize = 1024;
const FAILURES_MAX: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Mounts of all namespaces, and some.
const SERVERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with what stands here, and counts.
    #[derive(Debug, Default)]
    struct Told500(Mutex<(u16, u32)>);

    #[async_trait::async_trait]
    impl Outside for Told500 {
        async fn ask(&self, _: Ask) -> Result<Told, OutsideError> {
            let status = {
                let mut state = self.0.lock().unwrap();
                state.1 += 1;
                state.0
            };
            match status {
                0 => Err(OutsideError::Unreachable("away".into())),
                1 => std::future::pending().await,
                status => Ok(Told { status, media_type: String::new(), body: Zeroizing::default() }),
            }
        }

        async fn account(&self, _: &str) -> Result<Option<Account>, OutsideError> {
            Ok(Some(Account { token: Zeroizing::default(), ca: None }))
        }
    }

    fn ask() -> Ask {
        Ask {
            method: Method::Get,
            url: String::new(),
            headers: Vec::new(),
            body: Zeroizing::default(),
            ca: None,
            answer_is_signed: false,
            answer_bytes_max: 1,
            within: Duration::from_secs(2),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_away_is_asked_by_one_now_and_then() {
        let (port, outsiders) = (Told500::default(), Outsiders::default());
        let asking = Asking { port: &port, outsiders: &outsiders, is_roots: true };
        for (after, status, asked) in [
            (0, 0, true),
            (0, 500, true),
            (0, 1, true),
            (499, 0, false),
            (1, 0, true),
            (0, 0, false),
            (999, 0, false),
            (1, 404, true),
            (0, 0, true),
            (0, 0, true),
            (0, 0, true),
            (0, 200, false),
        ] {
            tokio::time::advance(Duration::from_millis(after)).await;
            let before = {
                let mut state = port.0.lock().unwrap();
                state.0 = status;
                state.1
            };
            let told = asking.ask("a", ask()).await;
            assert_eq!(port.0.lock().unwrap().1 - before == 1, asked, "{after} {status}");
            assert_eq!(matches!(told, Err(OutsideError::NotAsked)), !asked, "{after} {status}");
        }
        port.0.lock().unwrap().0 = 200;
        assert_eq!(asking.ask("b", ask()).await.unwrap().status, 200);
        assert!(asking.account("https://a").await.unwrap().is_some());
        let of_namespace = Asking { is_roots: false, ..asking };
        assert!(of_namespace.account("https://a").await.unwrap().is_none(), "nobody's but the root's");
        for (url, asked) in [("http://127.0.0.1/", false), ("HTTPS://a/", false), ("", false), ("https://a/", true)] {
            let told = of_namespace.ask("b", Ask { url: url.to_owned(), ..ask() }).await;
            assert_eq!(told.is_ok(), asked, "{url}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_ask_at_once_and_nobody_waits_longer_than_it_said() {
        let (port, outsiders) = (Told500::default(), Outsiders::default());
        port.0.lock().unwrap().0 = 1;
        let asking = Asking { port: &port, outsiders: &outsiders, is_roots: true };
        let began = Instant::now();
        let all = futures_util::future::join_all((0..ASKS_MAX + 40).map(|_| asking.ask("a", ask()))).await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert!(all.iter().all(Result::is_err));
        assert!((port.0.lock().unwrap().1 as usize) <= ASKS_MAX);
    }
}
