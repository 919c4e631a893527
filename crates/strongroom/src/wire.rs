//! Where adapters meet domains, and nowhere else.
//!
//! Always: a core has its own channel to the boundary, its own lane of the audit log, and its own routes; caches, counters
//! and the outbox are one for all.

use crate::audit_log::Signer;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::forward::Forwarder;
use crate::operator::LocalOperator;
use crate::retention::Retainer;
use crate::scrub::Scrubber;
use crate::witnesses::Panel;
use anyhow::{Context as _, Result};
use api::{BoundaryState, Health, Metrics, Services};
use audit::{Acks, Log, Standing, Witnesses};
use envelope::{Clock as _, SecretBytes};
use futures_util::future::select_all;
use hsm::SocketBoundary;
use hsm_api::{Boundary, HsmError, Reply, Request, TenantId};
use identity::{Changes, Identities, RequestInfo};
use kms::Kms;
use kms::boot::Cluster;
use kms::log_key::LogKey;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use storage::{Barrier, EntryPath, Invalidate, Storage};
use vault::Vault;

/// What all cores share.
#[derive(Debug, Clone)]
pub struct Wired {
    barrier: Arc<Barrier>,
    tenant: TenantId,
    log: Arc<Log>,
    log_key: LogKey,
    acks: Arc<Acks>,
    witnesses: Panel,
    node: String,
    generation: u64,
    leases_void_below: u64,
    /// How often an idle node notes where a store stands that others write too.
    idle_anchors: Duration,
    changes: Changes,
    identities: Identities,
    identity_caches: Arc<identity::Caches>,
    kms_caches: Arc<kms::Caches>,
    vault_caches: Arc<vault::Caches>,
    databases: vault::Databases,
    outside: Arc<dyn vault::outside::Outside>,
    boundary: hsm::Options,
    /// Of the main runtime: for workers, status and health.
    watched_boundary: Arc<SocketBoundary>,
    operator: Arc<LocalOperator>,
    metrics: Metrics,
    health: Health,
    strangers: api::Strangers,
    scrubber: Scrubber,
    retainer: Retainer,
    forwarders: Vec<Forwarder>,
}

impl Wired {
    /// Inside the main runtime.
    pub fn new(
        cluster: &Cluster,
        storage: &Arc<dyn Storage>,
        (log, log_key): (&Arc<Log>, LogKey),
        (options, watched_boundary): (hsm::Options, Arc<SocketBoundary>),
        config: &Config,
    ) -> Result<Self> {
        let (barrier, tenant) = (Arc::clone(&cluster.barrier), cluster.tenant);
        let changes = Changes::new(Arc::clone(&barrier), log.lane(), cluster.core().generation);
        let identity_caches = Arc::new(identity::Caches::new(PRINCIPALS_MAX));
        let identities = Identities::new(identity::Seams {
            barrier: Arc::clone(&barrier),
            tenant,
            generation: cluster.core().generation,
            changes: changes.clone(),
            caches: Arc::clone(&identity_caches),
        })?;
        let health = Health::new();
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), &health);
        let kms_caches = Arc::new(kms::Caches::new(KEYS_MAX));
        cache_gauges(&metrics, &identity_caches, &kms_caches);
        let vault_caches = Arc::new(vault::Caches::new(VALUES_MAX));
        vault_gauges(&metrics, &vault_caches);
        log_gauges(&metrics, log);
        let closed = barrier.closed();
        metrics.gauge("sealed", "1 while the server is sealed by hand", move || i64::from(*closed.borrow()));
        let witnesses = Panel::new(&config.audit)?;
        let acks = Arc::new(log.acks(witnesses.are_there()));
        witnesses.gauges(&metrics, &acks);
        let scrubber = Scrubber::new(config, &metrics);
        let retainer = Retainer::new(config, &metrics);
        let place = (config.node(), config.data_dir.as_path());
        let forwards = config.audit.forward.iter();
        let forwarders = forwards.map(|forward| Forwarder::new(forward, place, log, &metrics)).collect();
        let operator =
            LocalOperator::new(cluster, storage, Arc::clone(&watched_boundary), &config.data_dir, SystemClock.now());
        Ok(Self {
            barrier,
            tenant,
            log: Arc::clone(log),
            log_key,
            acks,
            witnesses,
            node: config.node().to_owned(),
            generation: cluster.core().generation,
            leases_void_below: cluster.core().leases_void_below(),
            idle_anchors: if config.storage.is_shared() { SHARED_IDLE_ANCHORS } else { Duration::ZERO },
            changes,
            identities,
            identity_caches,
            kms_caches,
            vault_caches,
            databases: databases(),
            outside: outside(config),
            boundary: options,
            watched_boundary,
            operator: Arc::new(operator),
            metrics,
            health,
            strangers: api::Strangers::default(),
            scrubber,
            retainer,
            forwarders,
        })
    }

    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Makes the root token, if it is not there.
    pub async fn create_root(&self, token: &SecretBytes) -> Result<()> {
        let call = RequestInfo::new("start".to_owned(), String::new(), SystemClock.now());
        self.identities.create_root(token.expose(), &call).await.context("cannot make the root token")?;
        Ok(())
    }

    /// Inside a core's runtime: all that this core serves, its channel to the boundary being open; where the boundary is
    /// away, it serves all the same after a moment.
    pub async fn front(&self) -> Result<api::Front> {
        let boundary = Arc::new(SocketBoundary::start(self.boundary.clone())?);
        let _away = tokio::time::timeout(CONNECT, boundary.connected()).await;
        let lane = self.log.lane_signed_by(Signer::new(&boundary, self.log_key.clone()));
        let kms = self.kms(boundary, &lane)?;
        Ok(api::front(Services {
            vault: self.vault(&kms, &lane)?,
            kms,
            identities: self.identities.on_lane(Arc::clone(&lane)),
            operator: Arc::clone(&self.operator) as _,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            clock: Arc::new(SystemClock),
            audit: lane,
            acks: Arc::clone(&self.acks),
            strangers: self.strangers.clone(),
        }))
    }

    fn kms(&self, boundary: Arc<dyn Boundary>, lane: &Arc<dyn audit::AuditSink>) -> Result<Kms> {
        Ok(Kms::new(kms::Seams {
            boundary,
            barrier: Arc::clone(&self.barrier),
            audit: Arc::clone(lane),
            changes: self.changes.on_lane(Arc::clone(lane)),
            caches: Arc::clone(&self.kms_caches),
            tenant: self.tenant,
            generation: self.generation,
        })?)
    }

    fn vault(&self, kms: &Kms, lane: &Arc<dyn audit::AuditSink>) -> Result<Vault> {
        Ok(Vault::new(vault::Seams {
            barrier: Arc::clone(&self.barrier),
            tenant: self.tenant,
            generation: self.generation,
            leases_void_below: self.leases_void_below,
            identities: self.identities.on_lane(Arc::clone(lane)),
            identity_caches: Arc::clone(&self.identity_caches),
            kms: kms.clone(),
            changes: self.changes.on_lane(Arc::clone(lane)),
            strangers: self.strangers.of_vault(lane),
            telemetry: Arc::new(self.metrics.clone()),
            databases: self.databases.clone(),
            outside: Arc::clone(&self.outside),
            caches: Arc::clone(&self.vault_caches),
        })?)
    }

    /// Makes the first mounts, if there are none; and where a file is named for it, a recovery key of one share, likewise: the
    /// share is in the file first.
    pub async fn prepare_vault(&self, recovery_key_file: Option<&Path>) -> Result<()> {
        let lane = self.log.lane();
        let kms = self.kms(Arc::clone(&self.watched_boundary) as _, &lane)?;
        let vault = self.vault(&kms, &lane)?;
        vault.prepare(SystemClock.now()).await.context("cannot make the first mounts")?;
        let Some(file) = recovery_key_file else { return Ok(()) };
        let kept = Cell::new(false);
        let keep = |share: &str| {
            kept.set(true);
            crate::files::write_secret(file, share.as_bytes())
        };
        if vault.prepare_recovery(SystemClock.now(), keep).await.context("cannot make the recovery key")?? {
            tracing::info!(file = %file.display(), "the recovery key was made");
        } else if kept.get() {
            // of a key that never came to be: another node's is the one
            std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }

    /// Inside the main runtime: what goes on without anybody asking. Aborted by dropping.
    pub fn start_workers(&self) -> Result<Workers> {
        let tenant = EntryPath::parse(&hex::encode(self.tenant)).context("the tenant's path")?;
        let caches: Vec<Arc<dyn Invalidate>> = vec![
            Arc::clone(&self.identity_caches) as _,
            Arc::clone(&self.kms_caches) as _,
            Arc::clone(&self.vault_caches) as _,
        ];
        let store = Arc::clone(self.barrier.storage()) as Arc<dyn Storage>;
        let follow = tokio::spawn(storage::follow(store, tenant, caches));
        let kms = self.kms(Arc::clone(&self.watched_boundary) as _, &self.log.lane())?;
        let vault = self.vault(&kms, &self.log.lane())?;
        let renew = tokio::spawn(crate::worker::renew(vault.clone()));
        let tend = tokio::spawn(crate::worker::tend(vault.clone()));
        let leases = tokio::spawn(crate::worker::leases(vault.clone()));
        let sweep = tokio::spawn(crate::worker::sweep(vault.clone(), self.changes.clone()));
        let watch = tokio::spawn(watch_boundary(Arc::clone(&self.watched_boundary), self.health.clone()));
        let (barrier, log) = (Arc::clone(&self.barrier), Arc::clone(&self.log));
        let anchor = tokio::spawn(crate::audit_log::anchor(
            barrier,
            log,
            self.node.clone(),
            (self.generation, self.idle_anchors),
        ));
        let stands = tokio::spawn(still_agrees(Arc::clone(&self.log)));
        let reseal = tokio::spawn(crate::worker::reseal(vault.clone(), self.health.clone()));
        let seal = tokio::spawn(crate::worker::follow_seal(vault, self.health.clone()));
        let scrub =
            tokio::spawn(crate::scrub::scrub(self.scrubber.clone(), Arc::clone(&self.log), self.health.clone()));
        let retain = tokio::spawn(self.retainer.clone().run(Arc::clone(&self.log)));
        let mut workers = vec![follow, renew, tend, leases, sweep, watch, anchor, stands, scrub, retain, seal, reseal];
        let (barrier, boundary) = (Arc::clone(&self.barrier), Arc::clone(&self.watched_boundary) as Arc<dyn Boundary>);
        workers.push(tokio::spawn(crate::worker::follow_keyring(Arc::clone(&barrier), boundary)));
        workers.push(tokio::spawn(crate::worker::same_generation(barrier, self.generation)));
        if let Some(hearing) = self.barrier.storage().hearing() {
            workers.push(tokio::spawn(crate::worker::adopt(self.changes.clone())));
            workers.push(tokio::spawn(crate::worker::watch_store(hearing, self.health.clone())));
        }
        let (strangers, clock) = (self.strangers.clone(), Arc::new(SystemClock));
        workers.push(tokio::spawn(strangers.tell(self.log.lane(), clock, self.node.clone())));
        let forwards = self.forwarders.iter().cloned();
        workers.extend(forwards.map(|forwarder| tokio::spawn(forwarder.run(Arc::clone(&self.log)))));
        if self.acks.witnesses() == Witnesses::Configured {
            let panel = self.witnesses.clone();
            workers.push(tokio::spawn(panel.submit(Arc::clone(&self.log), Arc::clone(&self.acks))));
        }
        Ok(Workers(workers))
    }
}

/// Tasks of the main runtime.
#[derive(Debug)]
pub struct Workers(Vec<tokio::task::JoinHandle<()>>);

impl Workers {
    /// Resolves when one of them has ended: it panicked, or found that this node must start again.
    pub async fn ended(&mut self) {
        let _which = select_all(self.0.iter_mut()).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn log_gauges(metrics: &Metrics, log: &Arc<Log>) {
    let gauge = |name, help, read: fn(&Log) -> u64| {
        let log = Arc::downgrade(log);
        metrics.gauge(name, help, move || log.upgrade().map_or(0, |log| i64::try_from(read(&log)).unwrap_or(i64::MAX)));
    };
    gauge("audit_syncs", "Syncs of the audit log since the start", Log::syncs);
    gauge("audit_entries", "Entries of the audit log", Log::size);
    gauge("audit_signed_entries", "Entries of the audit log that the newest checkpoint covers", |log| {
        log.checkpoint().map_or(0, |signed| signed.0.size)
    });
}

/// Ends where the boundary, away at the start, says that the log is not what it has signed: the next start is sealed.
async fn still_agrees(log: Arc<Log>) {
    let mut standings = log.standings();
    let behind = standings.wait_for(|standing| *standing == Standing::Behind).await.is_ok();
    if !behind {
        std::future::pending::<()>().await;
    }
    tracing::error!("the audit log is not the one that the boundary has signed");
}

fn outside(config: &Config) -> Arc<dyn vault::outside::Outside> {
    let files = config.kubernetes.iter().map(|cluster| plugins::outside::AccountFiles {
        url: cluster.host.trim_end_matches('/').to_owned(),
        token: cluster.token_file.clone(),
        ca: cluster.ca_file.clone(),
    });
    Arc::new(plugins::outside::Http::new(authorities()).with_accounts(files.collect()))
}

fn databases() -> vault::Databases {
    plugins::databases(authorities())
}

/// Without authorities that the system trusts, whoever is dialled is believed by what is configured alone.
fn authorities() -> rustls::RootCertStore {
    client::authorities(None).unwrap_or_else(|_| rustls::RootCertStore::empty())
}

fn vault_gauges(metrics: &Metrics, caches: &Arc<vault::Caches>) {
    reseal_gauges(metrics, caches);
    lease_gauges(metrics, caches);
}

fn lease_gauges(metrics: &Metrics, vault: &Arc<vault::Caches>) {
    let caches = Arc::clone(vault);
    metrics.gauge("leases_overdue", "Leases that should have ended ten seconds ago", move || caches.late().leases());
    let (caches, help) = (Arc::clone(vault), "For how long the oldest of the overdue leases is");
    metrics.gauge("oldest_overdue_seconds", help, move || caches.late().oldest_secs());
}

/// Name, help, and where it is read.
type Gauge<T> = (&'static str, &'static str, fn(T) -> usize);

fn cache_gauges(metrics: &Metrics, identity: &Arc<identity::Caches>, kms: &Arc<kms::Caches>) {
    let told = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let of_identity: [Gauge<identity::CacheSizes>; 3] = [
        ("cached_tokens", "Tokens kept in memory", |sizes| sizes.tokens),
        ("cached_certificates", "Client certificates kept in memory", |sizes| sizes.certificates),
        ("cached_policy_sets", "Sets of policies kept in memory", |sizes| sizes.acls),
    ];
    for (name, help, size) in of_identity {
        let caches = Arc::clone(identity);
        metrics.gauge(name, help, move || told(size(caches.sizes())));
    }
    let of_kms: [Gauge<kms::CacheSizes>; 3] = [
        ("cached_keys", "Keys kept in memory", |sizes| sizes.keys),
        ("cached_aliases", "Aliases kept in memory", |sizes| sizes.aliases),
        ("cached_grants", "Keys whose grants are kept in memory", |sizes| sizes.grants),
    ];
    for (name, help, size) in of_kms {
        let caches = Arc::clone(kms);
        metrics.gauge(name, help, move || told(size(caches.sizes())));
    }
}

fn reseal_gauges(metrics: &Metrics, caches: &Arc<vault::Caches>) {
    let of = Arc::clone(caches);
    metrics.gauge(
        "resealed_entries",
        "Entries sealed anew under a new key of the barrier since the start",
        move || i64::try_from(of.resealing().resealed()).unwrap_or(i64::MAX),
    );
    let of = Arc::clone(caches);
    metrics.gauge("resealing", "1 while entries may stand under an older key of the barrier", move || {
        i64::from(of.resealing().is_under_way())
    });
}

/// Asks the boundary for its status once a second; a change of its answer is told to who balances load.
async fn watch_boundary(boundary: Arc<SocketBoundary>, health: Health) {
    loop {
        let state = match boundary.submit(Request::Status).await {
            Ok(Reply::Status(status)) if status.state == hsm_api::ModuleState::Operational => BoundaryState::Available,
            Ok(_) => BoundaryState::Away,
            Err(error) => {
                tracing::debug!(%error, "the boundary's status");
                away_or_busy(error)
            }
        };
        health.boundary(state);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn away_or_busy(error: HsmError) -> BoundaryState {
    if error == HsmError::Busy { BoundaryState::Available } else { BoundaryState::Away }
}

/// Each node's note is a change of the store for the others: they would answer each other for ever, once a second.
const SHARED_IDLE_ANCHORS: Duration = Duration::from_secs(60);
/// How long a core waits for its channel before it serves without.
const CONNECT: Duration = Duration::from_secs(2);
/// Principals kept in memory.
const PRINCIPALS_MAX: usize = 4096;
/// Keys kept in memory, with their aliases and grants.
const KEYS_MAX: usize = 4096;
/// Small values of the vault kept in memory.
const VALUES_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_told_at_every_scrape() {
        let metrics = Metrics::new("0", &Health::new());
        let (identity, kms) = (Arc::new(identity::Caches::new(8)), Arc::new(kms::Caches::new(8)));
        cache_gauges(&metrics, &identity, &kms);
        let text = metrics.render();
        for name in ["tokens", "certificates", "policy_sets", "keys", "aliases", "grants"] {
            assert!(text.contains(&format!("\nstrongroom_cached_{name} 0\n")), "{name}: {text}");
        }
    }
}
