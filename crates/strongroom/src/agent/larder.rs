//! What templates use, as it was read last, with the leases that keep it alive.

use super::render::{Known, Part, Source};
use client::{Error, Lease, Obtained, Secret, Vault};
use futures_util::future::{FutureExt as _, select_all};
use minijinja::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) struct Larder {
    vault: Vault,
    refresh: Duration,
    held: BTreeMap<Source, Held>,
}

struct Held {
    value: Value,
    lease: Option<Lease>,
    /// When it is read again where no lease says so before.
    stale: Option<Instant>,
    /// It is stale, and could not be read: nobody waits for it, and it is tried with whatever comes next.
    put_off: bool,
}

impl Larder {
    pub(super) fn new(vault: Vault, refresh: Duration) -> Self {
        Self { vault, refresh, held: BTreeMap::new() }
    }

    pub(super) fn known(&self) -> Known {
        self.held.iter().map(|(source, held)| (source.clone(), held.value.clone())).collect()
    }

    /// How many leases are kept alive.
    pub(super) fn leases(&self) -> usize {
        self.held.values().filter(|held| held.lease.is_some()).count()
    }

    /// Reads it, in place of what was there. What fails leaves the old one.
    pub(super) async fn fetch(&mut self, source: &Source) -> Result<(), Error> {
        let fetched = self.read(source).await;
        if fetched.is_err()
            && let Some(held) = self.held.get_mut(source)
        {
            held.put_off = true;
        }
        fetched
    }

    async fn read(&mut self, source: &Source) -> Result<(), Error> {
        let (secret, lease) = match self.vault.obtain(&source.path).await? {
            Obtained::Plain(secret) => (Some(secret), None),
            Obtained::Leased(lease) => (None, Some(lease)),
        };
        let read = secret.as_ref().or(lease.as_ref().map(Lease::secret)).ok_or(Error::Answer)?;
        let value = value(read, source.part)?;
        let stale = lease.is_none().then(|| Instant::now() + refresh(read, source, self.refresh));
        self.held.insert(source.clone(), Held { value, lease, stale, put_off: false });
        Ok(())
    }

    /// What is to be read again.
    pub(super) fn stale(&self, now: Instant) -> Vec<Source> {
        let is_stale = |held: &Held| {
            held.lease.as_ref().is_some_and(Lease::is_ending) || held.stale.is_some_and(|stale| stale <= now)
        };
        self.held.iter().filter(|(_, held)| is_stale(held)).map(|(source, _)| source.clone()).collect()
    }

    /// Returns when something is stale that was not put off; never where nothing can be.
    pub(super) async fn until_stale(&self) {
        let waits = self.held.values().filter(|held| !held.put_off).map(|held| match (&held.lease, held.stale) {
            (Some(lease), _) => lease.ending().boxed(),
            (None, Some(stale)) => tokio::time::sleep_until(stale.into()).boxed(),
            (None, None) => std::future::pending().boxed(),
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() { std::future::pending().await } else { select_all(waits).map(drop).await }
    }

    /// What no template uses any more is let go.
    pub(super) fn keep_only(&mut self, used: &BTreeSet<Source>) {
        self.held.retain(|source, _| used.contains(source));
    }
}

/// As templates see it.
fn value(secret: &Secret, part: Part) -> Result<Value, Error> {
    #[derive(serde::Deserialize)]
    struct Version {
        data: Value,
    }
    match part {
        Part::Whole => secret.parse_as(),
        Part::Version => secret.parse_as::<Version>().map(|version| version.data),
    }
}

/// A static role's password tells until when it is good.
fn refresh(secret: &Secret, source: &Source, usual: Duration) -> Duration {
    #[derive(serde::Deserialize)]
    struct Told {
        ttl: Option<u64>,
    }
    let rotated = source.path.contains("/static-creds/");
    let told = rotated.then(|| secret.parse_as::<Told>().ok().and_then(|told| told.ttl)).flatten();
    told.map_or(usual, |ttl| usual.min(Duration::from_secs(ttl + 1)))
}
