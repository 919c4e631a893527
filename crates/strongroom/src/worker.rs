//! Ticks: what is due is asked of the domains, which hold all the logic.

use crate::clock::SystemClock;
use api::health::Serving;
use api::{Health, StoreReach};
use envelope::Clock as _;
use hsm_api::Boundary;
use identity::Changes;
use kms::boot::BootError;
use kms::{Kms, KmsError};
use std::sync::Arc;
use std::time::Duration;
use storage::{Barrier, BarrierError, Moment, Until};
use tokio::sync::watch;
use vault::reseal::{Resealer, Turn};

/// Once a second: tokens and keys whose time has come, in the root and in some namespaces, and leaves that can leave the outbox.
pub async fn sweep(vault: vault::Vault, changes: Changes) {
    loop {
        tokio::time::sleep(TICK).await;
        if vault.is_sealed() {
            continue;
        }
        // a page at a time, at most this many in a row, so that nothing else waits
        for _ in 0..PAGES_MAX {
            let now = SystemClock.now();
            let tokens = told("expired tokens", vault.identities().sweep(now).await);
            let keys = told("keys to be destroyed", vault.kms().sweep(now).await);
            let namespaces = told("namespaces", vault::sweep_namespaces(&vault, now).await);
            if tokens + keys + namespaces == 0 {
                break;
            }
        }
        if let Err(error) = changes.tidy().await {
            tracing::warn!(%error, "the outbox was not tidied; it will be");
        }
    }
}

/// Keys whose current version may seal no more since the cluster's generation was raised, a page at a time, until all are
/// rotated. What a crash or a failure left is found again by the next walk.
pub async fn renew(vault: vault::Vault) {
    let (mut renewed, mut pause) = (0, TICK);
    loop {
        match renew_all(&vault).await {
            Ok(done) => {
                renewed += done;
                break;
            }
            Err(error) => tracing::warn!(%error, "keys of an earlier generation were not rotated; they will be"),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RENEW_PAUSE_MAX);
    }
    if renewed > 0 {
        tracing::info!(renewed, "keys of an earlier generation were rotated");
    }
    // no worker ends
    std::future::pending().await
}

async fn renew_all(vault: &vault::Vault) -> Result<usize, KmsError> {
    let mut renewed = renew_in(vault.kms()).await?;
    let mut last = String::new();
    loop {
        match vault::next_namespace(vault, &last).await {
            Ok(Some(namespace)) => {
                renewed += renew_in(namespace.kms()).await?;
                namespace.namespace().clone_into(&mut last);
            }
            Ok(None) => return Ok(renewed),
            Err(error) => {
                tracing::warn!(%error, "namespaces cannot be read");
                return Err(KmsError::Conflict);
            }
        }
        // many namespaces are in nobody's way either
        tokio::time::sleep(BETWEEN_NAMESPACES).await;
    }
}

async fn renew_in(kms: &Kms) -> Result<usize, KmsError> {
    let (mut marker, mut renewed, mut failed) = (String::new(), 0, None);
    loop {
        let page = kms.renew_page(marker, SystemClock.now()).await?;
        renewed += page.done;
        failed = failed.or(page.failed);
        match page.next_marker {
            Some(next) => marker = next,
            None => return failed.map_or(Ok(renewed), Err),
        }
        // a walk over many keys is in nobody's way
        tokio::task::yield_now().await;
    }
}

/// What goes on in the vault, and beside it what waits for others.
pub async fn tend(vault: vault::Vault) {
    let void = end_void_leases(vault.clone());
    tokio::join!(tend_all(vault.clone()), wait_on_others(vault.clone()), void, compare_databases(vault));
}

/// What was lent to whoever is void by now; many leases take minutes.
async fn end_void_leases(vault: vault::Vault) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        if !vault.is_sealed() {
            told("leases of who is void", vault::lease::end_void(&vault, SystemClock.now()).await);
        }
    }
}

/// Databases whose turn has come; one of many users takes minutes.
async fn compare_databases(vault: vault::Vault) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        if !vault.is_sealed()
            && let Err(error) = vault::compare_databases(&vault, SystemClock.now()).await
        {
            tracing::warn!(%error, "databases were not compared with what is lent; they will be");
        }
    }
}

/// Every ten seconds: officers' attempts and wrapped answers whose time is over, and when secrets were read last.
async fn tend_all(vault: vault::Vault) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        vault.drop_stale_attempts(SystemClock.now());
        if vault.is_sealed() {
            continue;
        }
        for _ in 0..PAGES_MAX {
            if told("the vault", vault::tend(&vault, SystemClock.now()).await) == 0 {
                break;
            }
        }
    }
}

/// Every two seconds, without a pause while there is more: hooks, lists and bundles that others are to be asked for, of the
/// root and some namespaces, side by side. They wait for the slowest of these others, and nothing else does.
async fn wait_on_others(vault: vault::Vault) {
    let (mut last, mut done) = (String::new(), 0);
    loop {
        // the first time, too: a new vault's mounts are made meanwhile
        if done == 0 {
            tokio::time::sleep(ASK_OTHERS_EVERY).await;
        }
        done = 0;
        if !vault.is_sealed() {
            let mut all = vec![vault.clone()];
            for _ in 0..WAITING_AT_ONCE {
                match vault::next_namespace(&vault, &last).await {
                    Ok(Some(namespace)) => {
                        namespace.namespace().clone_into(&mut last);
                        all.push(namespace);
                    }
                    Ok(None) => {
                        last.clear();
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "namespaces cannot be read; what they ask of others stays due");
                        break;
                    }
                }
            }
            let waiting = all.iter().map(|vault| vault::wait_on_others(vault, &SystemClock));
            let outcomes = futures_util::future::join_all(waiting).await;
            done = outcomes.into_iter().map(|outcome| told("what others are asked for", outcome)).sum();
        }
    }
}

/// After the barrier got a new key: seals anew what stands under older ones, a page at a time, slowly.
pub async fn reseal(vault: vault::Vault, health: Health) {
    let mut resealer = Resealer::new(vault);
    loop {
        let serving = health.state().serving == Serving::Serving;
        let turn = if serving { resealer.turn(SystemClock.now()).await } else { Ok(Turn::Idle) };
        let pause = match turn {
            Ok(Turn::Page(resealed)) => PAGE_PAUSE + RESEALED_PAUSE * u32::try_from(resealed).unwrap_or(u32::MAX),
            Ok(Turn::Idle | Turn::Again) => TICK,
            Err(error) => {
                tracing::warn!(%error, "what stands under an older key of the barrier was not sealed anew; it will be");
                RESEAL_FAILED_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Tells health of the seal; while the server is sealed by hand, drops again what requests that were under way have kept.
pub async fn follow_seal(vault: vault::Vault, health: Health) {
    let mut closed = vault.barrier().closed();
    loop {
        health.sealed(*closed.borrow_and_update());
        if vault.is_sealed() {
            vault.forget();
            let _changed = tokio::time::timeout(TICK, closed.changed()).await;
        } else {
            let _changed = closed.changed().await;
        }
    }
}

/// Of a store that other nodes write too: leaves that one of them has left behind.
pub async fn adopt(changes: Changes) {
    loop {
        tokio::time::sleep(ADOPT_EVERY).await;
        match changes.adopt().await {
            Ok(0) => {}
            Ok(leaves) => tracing::info!(leaves, "what another node left behind is in the audit log"),
            Err(error) => tracing::debug!(%error, "leaves of others were not looked for; they will be"),
        }
    }
}

/// Tells health whether the store is heard.
pub async fn watch_store(hearing: watch::Receiver<Moment>, health: Health) {
    loop {
        let is_away = Until::heard_at(*hearing.borrow()).is_past();
        health.store(if is_away { StoreReach::Away } else { StoreReach::Heard });
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends where another node has raised the cluster's generation: what this one knows of tokens is void, it starts again. So it
/// does where the cluster's record is none that this version reads, for then nobody could tell.
pub async fn same_generation(barrier: Arc<Barrier>, generation: u64) {
    let mut unread = 0;
    loop {
        tokio::time::sleep(TICK).await;
        match kms::boot::generation(&barrier).await {
            Ok(now) if now != generation => {
                tracing::error!(generation, now, "another node has raised the generation");
                return;
            }
            Ok(_) => unread = 0,
            Err(error @ (BootError::SystemEntry(_) | BootError::Barrier(BarrierError::Altered(_)))) => {
                if unread == UNREAD_MAX {
                    tracing::error!(generation, %error, "this version cannot read the cluster's record");
                    return;
                }
                unread += 1;
                tracing::warn!(generation, %error, "the cluster's record is none that is known; it is looked at again");
            }
            // what passes by itself, or by an officer: the boundary is away, or the vault is sealed
            Err(error) => {
                unread = 0;
                tracing::debug!(%error, "the cluster's generation");
            }
        }
    }
}

/// Several times a second: what was lent and is due is taken back; without a pause while there is more.
pub async fn leases(vault: vault::Vault) {
    loop {
        if vault.is_sealed() || told("leases", vault::lease::work(&vault, SystemClock.now()).await) == 0 {
            tokio::time::sleep(LEASES_EVERY).await;
        }
    }
}

/// Hears of new keys of the barrier, which other nodes made.
pub async fn follow_keyring(barrier: Arc<Barrier>, boundary: Arc<dyn Boundary>) {
    loop {
        if let Err(error) = kms::boot::follow_keyring(&barrier, &*boundary).await {
            tracing::warn!(%error, "the barrier's keyring cannot be read; it is tried again");
        }
        tokio::time::sleep(TICK).await;
    }
}

fn told<E: std::fmt::Display>(what: &str, outcome: Result<usize, E>) -> usize {
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%error, what, "was not swept; it stays due");
        0
    })
}

const BETWEEN_NAMESPACES: Duration = Duration::from_millis(20);
/// As long as a leaf waits that somebody still logs, several times over.
const ADOPT_EVERY: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_secs(1);
/// So many looks in a row.
const UNREAD_MAX: u32 = 3;
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(60);
const LEASES_EVERY: Duration = Duration::from_millis(500);
const TEND_EVERY: Duration = Duration::from_secs(10);
const ASK_OTHERS_EVERY: Duration = Duration::from_secs(2);
/// Namespaces.
const WAITING_AT_ONCE: usize = 16;
const PAGES_MAX: usize = 10;
/// Of 200 entries that are looked at.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// A thousand a second.
const RESEALED_PAUSE: Duration = Duration::from_millis(1);
const RESEAL_FAILED_PAUSE: Duration = Duration::from_secs(10);
