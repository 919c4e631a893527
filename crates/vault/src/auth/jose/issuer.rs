//! Issuers' keys: fetched where the configuration says, kept for a while, and shared by all cores.
//!
//! Always: one fetch of an issuer at a time, and the next no sooner than [`FLOOR`] after it: a token with a made-up `kid`
//! costs the issuer nothing. A key that the issuer has dropped is gone with the next fetch, at most [`FRESH`] later.
//! Always: while the issuer is away or fails, or answers what cannot be read, the last set that was counts on for `max_stale`.
//! Where it answers that there is none, or none that can be used, the last one is over.
//! Never: a key set over HTTP but of this host; a redirect that is followed; an issuer that calls itself by another name.

use super::key::{KeySet, NO_KEYS};
use crate::body::Strict;
use crate::error::VaultError;
use crate::outside::{Ask, Method, OutsideError};
use crate::service::Vault;
use envelope::Timestamp;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// PEM texts: they are what they are.
    Static(Vec<String>),
    /// A JWK set; `ca` is what its server is believed by, in PEM, and the system's authorities where it is none.
    Url { url: String, ca: Option<String> },
    /// OpenID Connect Discovery, of the issuer of exactly this name.
    Discovery { issuer: String, ca: Option<String> },
}

/// What is known of an issuer.
#[derive(Debug)]
pub struct Issuer {
    pub keys: KeySet,
    /// Of discovery.
    pub(crate) provider: Option<Provider>,
}

/// OpenID Connect Discovery §3, as far as it is used.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Provider {
    pub(crate) issuer: String,
    jwks_uri: String,
    pub(crate) authorization_endpoint: String,
    pub(crate) token_endpoint: String,
    pub(crate) userinfo_endpoint: String,
    pub(crate) token_endpoint_auth_methods_supported: Vec<String>,
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    Away(OutsideError),
    /// What it answers is not what it should be.
    Lies(&'static str),
    /// It says itself that there are no keys, not here.
    Keyless(&'static str),
    /// More wait for it than may.
    Busy,
}

impl Trouble {
    /// For who configures it.
    pub fn told(&self) -> String {
        match self {
            Self::Away(error) => error.to_string(),
            Self::Lies(what) | Self::Keyless(what) => (*what).to_owned(),
            Self::Busy => "too many wait for it".to_owned(),
        }
    }
}

/// Nobody is let in; the caller may try again.
impl From<Trouble> for VaultError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away(error) => error.into(),
            Trouble::Lies(what) | Trouble::Keyless(what) => {
                tracing::warn!(what, "an issuer of tokens answers what it should not");
                Self::Unavailable(ISSUER_LIES)
            }
            Trouble::Busy => Self::Unavailable(ISSUER_BUSY),
        }
    }
}

/// What is known of all of them. One for the whole process.
#[derive(Debug, Default)]
pub struct KeySets {
    /// By the namespace, and whom it asks: what one may not ask, and what one was told, is no other's.
    slots: Mutex<HashMap<(String, Source), Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    /// Who fetches.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default, Clone)]
struct State {
    known: Option<(Arc<Issuer>, Timestamp)>,
    /// The last try, and what came of it.
    tried: Option<(Timestamp, Option<Trouble>)>,
}

impl State {
    /// What counts, where no fetch is due before it: one is due where it is not fresh, or the wanted key is not there.
    fn at_hand(&self, wanted: Option<&str>, now: Timestamp) -> Option<Arc<Issuer>> {
        let (issuer, fetched) = self.known.as_ref()?;
        let fresh = now.since(*fetched) < FRESH;
        (fresh && issuer.keys.has(wanted)).then(|| Arc::clone(issuer))
    }

    /// What counts if nothing new can be had.
    fn last_good(&self, max_stale: Duration, now: Timestamp) -> Option<Arc<Issuer>> {
        let (issuer, fetched) = self.known.as_ref()?;
        (now.since(*fetched) < max_stale.max(FRESH)).then(|| Arc::clone(issuer))
    }

    /// The last try is too near for another.
    fn may_try(&self, now: Timestamp) -> bool {
        self.tried.as_ref().is_none_or(|(at, _)| now.since(*at) >= FLOOR)
    }

    fn trouble(&self) -> Trouble {
        let trouble = self.tried.as_ref().and_then(|(_, trouble)| trouble.clone());
        trouble.unwrap_or(Trouble::Away(OutsideError::NotAsked))
    }
}

impl KeySets {
    /// The issuer's keys; fetched where they are not fresh, or where the key that is wanted is not among them.
    pub(crate) async fn of(
        &self,
        vault: &Vault,
        source: &Source,
        wanted: Option<&str>,
        max_stale: Duration,
        now: Timestamp,
    ) -> Result<Arc<Issuer>, Trouble> {
        let slot = self.slot(vault.namespace(), source);
        let state = slot.state();
        if let Some(issuer) = state.at_hand(wanted, now) {
            return Ok(issuer);
        }
        let last_good = state.last_good(max_stale, now);
        if !state.may_try(now) {
            return last_good.ok_or_else(|| state.trouble());
        }
        let _turn = match (slot.turn.try_lock(), last_good) {
            (Ok(turn), _) => turn,
            // somebody fetches: nobody waits who needs not
            (Err(_), Some(issuer)) if issuer.keys.has(wanted) => return Ok(issuer),
            (Err(_), _) => slot.wait().await?,
        };
        // who had the turn before may have done it
        let state = slot.state();
        if let Some(issuer) = state.at_hand(wanted, now) {
            return Ok(issuer);
        }
        if state.may_try(now) {
            let fetched = fetch(vault, source).await;
            if let Err(trouble) = &fetched {
                tracing::warn!(issuer = source.name(), trouble = trouble.told(), "an issuer's keys were not had");
            }
            // nobody was asked: it was no try
            if let Err(trouble @ Trouble::Away(OutsideError::Refused(_))) = fetched {
                return state.last_good(max_stale, now).ok_or(trouble);
            }
            slot.tried(fetched, now);
        }
        let state = slot.state();
        state.last_good(max_stale, now).ok_or_else(|| state.trouble())
    }

    /// Whether there are keys, now; nothing is kept.
    pub(crate) async fn look(&self, vault: &Vault, source: &Source) -> Result<(), Trouble> {
        fetch(vault, source).await.map(|_| ())
    }

    fn slot(&self, namespace: &str, source: &Source) -> Arc<Slot> {
        let key = (namespace.to_owned(), source.clone());
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        if slots.len() >= ISSUERS_MAX
            && let Some(any) = slots.keys().next().cloned()
        {
            slots.remove(&any);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl Slot {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tried(&self, fetched: Result<Issuer, Trouble>, now: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(issuer) => {
                state.known = Some((Arc::new(issuer), now));
                state.tried = Some((now, None));
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Keyless(_)) {
                    state.known = None;
                }
                state.tried = Some((now, Some(trouble)));
            }
        }
    }

    async fn wait(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Trouble> {
        struct Leaves<'s>(&'s AtomicUsize);
        impl Drop for Leaves<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _leaves = Leaves(&self.waiting);
        if before >= WAITING_MAX {
            return Err(Trouble::Busy);
        }
        tokio::time::timeout(WITHIN * 2, self.turn.lock()).await.map_err(|_| Trouble::Busy)
    }
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Static(_) => "static",
            Self::Url { url, .. } => url,
            Self::Discovery { issuer, .. } => issuer,
        }
    }
}

async fn fetch(vault: &Vault, source: &Source) -> Result<Issuer, Trouble> {
    match source {
        Source::Static(texts) => {
            let keys = KeySet::from_pem(texts.iter().map(String::as_str)).map_err(|error| Trouble::Lies(error.0))?;
            Ok(Issuer { keys, provider: None })
        }
        Source::Url { url, ca } => {
            let keys = key_set(&get(vault, url, ca.as_ref()).await?)?;
            Ok(Issuer { keys, provider: None })
        }
        Source::Discovery { issuer, ca } => {
            // §4: what ends the path goes before the rest is added
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let provider = Provider::parse(&get(vault, &url, ca.as_ref()).await?, issuer).map_err(Trouble::Lies)?;
            let told = get(vault, &provider.jwks_uri, ca.as_ref()).await.map_err(|trouble| match trouble {
                // of who was asked already: this was a try
                Trouble::Away(OutsideError::Refused(_)) => Trouble::Lies("jwks_uri is where nobody may be asked"),
                Trouble::Away(_) | Trouble::Lies(_) | Trouble::Keyless(_) | Trouble::Busy => trouble,
            });
            Ok(Issuer { keys: key_set(&told?)?, provider: Some(provider) })
        }
    }
}

fn key_set(text: &[u8]) -> Result<KeySet, Trouble> {
    KeySet::from_jwks(text)
        .map_err(|error| if error == NO_KEYS { Trouble::Keyless(error.0) } else { Trouble::Lies(error.0) })
}

async fn get(vault: &Vault, url: &str, ca: Option<&String>) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let ask = Ask {
        method: Method::Get,
        url: url.to_owned(),
        headers: vec![("accept", Zeroizing::new(ACCEPTED.to_owned()))],
        body: Zeroizing::default(),
        ca: ca.cloned(),
        answer_bytes_max: ANSWER_BYTES_MAX,
        within: WITHIN,
    };
    let told = vault.outside().ask(url, ask).await.map_err(Trouble::Away)?;
    match told.status {
        200 => Ok(told.body),
        // it is no word of the issuer's
        429 | 500.. => Err(Trouble::Lies("another status than 200")),
        300..=399 => Err(Trouble::Keyless("a redirect, which is not followed")),
        _ => Err(Trouble::Keyless("another status than 200")),
    }
}

impl Provider {
    fn parse(text: &[u8], issuer: &str) -> Result<Self, &'static str> {
        serde_json::from_slice::<Strict>(text).map_err(|_| "no JSON object of members that stand once")?;
        let provider: Self = serde_json::from_slice(text).map_err(|_| "no discovery document")?;
        // §4.3: exactly; else one issuer speaks for another
        if provider.issuer != issuer {
            return Err("the issuer calls itself by another name than the one that is configured");
        }
        if !is_sound_url(&provider.jwks_uri) {
            return Err("jwks_uri is no https URL");
        }
        let Self { authorization_endpoint, token_endpoint, userinfo_endpoint, .. } = &provider;
        let endpoints = [authorization_endpoint, token_endpoint, userinfo_endpoint];
        if endpoints.into_iter().any(|url| !url.is_empty() && !is_sound_endpoint(url)) {
            return Err("an endpoint that is no https URL");
        }
        Ok(provider)
    }
}

/// HTTPS, or HTTP to a literal loopback address; without a user, a query, a fragment.
pub fn is_sound_url(url: &str) -> bool {
    is_sound_endpoint(url) && !url.contains('?')
}

/// The same, and perhaps with a query.
fn is_sound_endpoint(url: &str) -> bool {
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

pub(super) const ISSUER_LIES: &str = "JWT_ISSUER_LIES";
pub(super) const ISSUER_BUSY: &str = "JWT_ISSUER_BUSY";

/// How old keys may be that are used without another look.
pub(crate) const FRESH: Duration = Duration::from_secs(300);
/// Between two fetches.
pub(crate) const FLOOR: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(5);
/// RFC 7517 §8.5.1: API servers of Kubernetes answer 406 to who names the first alone.
const ACCEPTED: &str = "application/json, application/jwk-set+json";
const ANSWER_BYTES_MAX: usize = 256 << 10;
const URL_BYTES_MAX: usize = 1024;
/// Issuers that are known at once, of all mounts.
const ISSUERS_MAX: usize = 1024;
/// Logins that wait for one issuer's keys.
const WAITING_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_own_and_a_new_one_costs_one_other_its_place() {
        let (sets, source) = (KeySets::default(), Source::Static(Vec::new()));
        let slot = sets.slot("", &source);
        for (namespace, same) in [("", true), ("a/", false), ("a/b/", false)] {
            assert_eq!(Arc::ptr_eq(&slot, &sets.slot(namespace, &source)), same, "{namespace}");
        }
        for at in 0..=ISSUERS_MAX {
            sets.slot(&format!("{at}/"), &source);
        }
        assert_eq!(sets.slots.lock().unwrap().len(), ISSUERS_MAX);
    }
}
