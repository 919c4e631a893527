//! Issuers' keys: fetched where the configuration says, kept for a while, and shared by all cores.
//!
//! Always: one fetch of an issuer at a time, and the next no sooner than [`FLOOR`] after it: a token with a made-up `kid`
//! costs the issuer nothing. A key that the issuer has dropped is gone with the next fetch, at most [`FRESH`] later.
//! Always: while the issuer is away or fails, or answers what cannot be read, the last set that was counts on for `max_stale`.
//! Where it answers that there is none, or none that can be used, the last one is over.
//! Always: a namespace loses what is known of an issuer to another of its own, or, where all places are taken, to one that has
//! fewer than it.
//! Never: a key set over HTTP but of this host; a redirect that is followed; an issuer that calls itself by another name.

use super::key::{KeySet, NO_KEYS};
use crate::body::Strict;
use crate::error::VaultError;
use crate::outside::{Ask, Method, OutsideError, is_sound_endpoint, is_sound_url};
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
    slots: Mutex<HashMap<String, HashMap<Source, Arc<Slot>>>>,
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
        // what is configured is at hand: there is nothing to keep, to fetch anew or to lose
        if let Source::Static(texts) = source {
            return given(texts).map(Arc::new);
        }
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
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(namespace).and_then(|own| own.get(source)) {
            return Arc::clone(slot);
        }
        let is_full = slots.values().map(HashMap::len).sum::<usize>() >= ISSUERS_MAX;
        let own = slots.get(namespace).map_or(0, HashMap::len);
        let most = slots.iter().max_by_key(|(name, theirs)| (theirs.len(), *name == namespace));
        let loser = match most {
            _ if own >= OF_ONE_MAX => Some(namespace.to_owned()),
            Some((name, _)) if is_full => Some(name.clone()),
            Some(_) | None => None,
        };
        if let Some(loser) = loser {
            forget_oldest(&mut slots, &loser);
        }
        Arc::clone(slots.entry(namespace.to_owned()).or_default().entry(source.clone()).or_default())
    }
}

/// What was had longest ago, or never.
fn forget_oldest(slots: &mut HashMap<String, HashMap<Source, Arc<Slot>>>, namespace: &str) {
    let Some(own) = slots.get_mut(namespace) else { return };
    let oldest = own.iter().min_by_key(|(_, slot)| slot.state().known.map(|(_, fetched)| fetched));
    if let Some(oldest) = oldest.map(|(source, _)| source.clone()) {
        own.remove(&oldest);
    }
    if own.is_empty() {
        slots.remove(namespace);
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
        Source::Static(texts) => given(texts),
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

fn given(texts: &[String]) -> Result<Issuer, Trouble> {
    let keys = KeySet::from_pem(texts.iter().map(String::as_str)).map_err(|error| Trouble::Lies(error.0))?;
    Ok(Issuer { keys, provider: None })
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
        answer_is_signed: false,
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
/// Issuers that are known at once, of all mounts.
const ISSUERS_MAX: usize = 1024;
/// Of those, of one namespace's.
const OF_ONE_MAX: usize = 64;
/// Logins that wait for one issuer's keys.
const WAITING_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn url(at: usize) -> Source {
        Source::Url { url: format!("https://{at}.example/"), ca: None }
    }

    fn count(sets: &KeySets, namespace: &str) -> usize {
        sets.slots.lock().unwrap().get(namespace).map_or(0, HashMap::len)
    }

    #[test]
    fn a_namespace_has_its_own() {
        let sets = KeySets::default();
        let slot = sets.slot("", &url(0));
        for (namespace, at, same) in [("", 0, true), ("", 1, false), ("a/", 0, false), ("a/b/", 0, false)] {
            assert_eq!(Arc::ptr_eq(&slot, &sets.slot(namespace, &url(at))), same, "{namespace} {at}");
        }
    }

    #[test]
    fn whoever_asks_many_loses_its_own_and_nobody_elses() {
        let (sets, now) = (KeySets::default(), Timestamp::from_unix_millis(1));
        let kept = sets.slot("a/", &url(0));
        // the root knows one of its own since later than the others: that one stays for longest
        let fresh = sets.slot("", &url(0));
        fresh.state.lock().unwrap().known = Some((Arc::new(given(&[PEM.to_owned()]).unwrap()), now));
        for at in 1..=10 * OF_ONE_MAX {
            sets.slot("", &url(at));
        }
        assert_eq!((count(&sets, ""), count(&sets, "a/")), (OF_ONE_MAX, 1));
        assert!(Arc::ptr_eq(&fresh, &sets.slot("", &url(0))) && Arc::ptr_eq(&kept, &sets.slot("a/", &url(0))));
        // all places taken: who has most makes room, and who comes last is served
        for tenant in 0..ISSUERS_MAX / OF_ONE_MAX {
            (0..OF_ONE_MAX).for_each(|at| drop(sets.slot(&format!("t{tenant}/"), &url(at))));
        }
        let newest = sets.slot("z/", &url(0));
        assert!(Arc::ptr_eq(&newest, &sets.slot("z/", &url(0))) && Arc::ptr_eq(&kept, &sets.slot("a/", &url(0))));
        let all = sets.slots.lock().unwrap().values().map(HashMap::len).sum::<usize>();
        assert_eq!(all, ISSUERS_MAX);
    }

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
}
