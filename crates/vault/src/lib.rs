//! The secrets vault: what the API of Vault speaks of, on top of keys, identity, storage and audit.
//!
//! Always: a request is authenticated, routed, decided on, carried out and recorded in that order ([`service`]); a change and
//! its record are durable at once.
//! Always: an engine sees its own mount's part of the store and nothing else.
//! Never: a secret in an error, a record, a log, or a path of the store.
//!
//! Not there yet, and refused by name: locks of namespaces; databases in a namespace; entity aliases chosen at token creation.
//! Stateless tokens of an auth method that is disabled live to their end. As in Vault, who may write users, roles, entities and groups may give any policy but `root`: whoever holds such a right is trusted so far.
#![forbid(unsafe_code)]

pub mod auth;
pub mod backend;
pub mod body;
pub mod call;
mod clock;
mod cron;
pub mod duration;
pub mod engine;
pub mod error;
mod glob;
mod gone;
pub mod lease;
pub mod mount;
pub mod namespace;
pub mod outside;
pub mod quota;
mod recovery;
pub mod reply;
pub mod reseal;
pub mod routes;
pub mod scope;
mod seal;
pub mod service;
mod stored;
mod sys;
pub mod text;
mod uuid;
pub mod view;
pub mod wrapping;

pub use body::Body;
pub use call::{ApiPath, Call, Verb};
pub use engine::database::plugin::Databases;
pub use engine::database::reconcile::compare as compare_databases;
pub use engine::kv2::LastReads;
pub use engine::kv2::rotation::rotate_secrets;
pub use error::VaultError;
pub use namespace::round::{next_namespace, sweep_namespaces};
pub use reply::{Answer, Reply};
pub use service::{Caches, Seams, Vault};
pub use text::Text;

use envelope::{Clock, Timestamp};

/// What goes on without anybody asking: for a worker, every few seconds. How much there was to do.
///
/// Each part has its turn, whatever became of those before it; the first failure is told when nothing else is left to do.
/// What is fetched from others is not among them: see [`wait_on_others`].
pub async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let mut done = Done::default();
    done.add("the root's vault", tend_one(vault, now).await);
    // leases are the root's alone: a namespace without any would tell that nothing is late
    done.add("databases that are gone", lease::work::look_after(vault, now).await);
    done.add("namespaces", namespace::round::tend(vault, now).await);
    done.add("last reads", engine::kv2::last_read::note(vault, now).await);
    done.told()
}

/// In one namespace, or the root.
pub(crate) async fn tend_one(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let mut done = Done::default();
    done.add("wrapped answers", wrapping::sweep(vault, now).await);
    done.add("SecretIDs", auth::approle::sweep(vault, now).await);
    done.add("JWTs that counted once", auth::jwt::sweep(vault, now).await);
    done.add("logins of AWS", auth::aws::sweep(vault, now).await);
    done.add("certificates", engine::pki::tidy::tend(vault, now).await);
    done.add("transit keys", engine::transit::auto::rotate_due(vault, now).await);
    done.add("mounts that are gone", gone::sweep(vault, now).await);
    done.told()
}

/// What others are asked for, in one namespace or the root: rotations' hooks, lists of revoked certificates, trust bundles.
/// For a worker of its own. How much there was to do.
///
/// Always: side by side, so that it takes as long as the slowest of them: ten seconds and one answer more.
pub async fn wait_on_others(vault: &Vault, clock: &dyn Clock) -> Result<usize, VaultError> {
    let (secrets, lists, bundles) = futures_util::future::join3(
        engine::kv2::rotation::rotate_secrets(vault, clock),
        auth::cert::crl::tend(vault, clock.now()),
        auth::spiffe::tend(vault, clock.now()),
    )
    .await;
    let mut done = Done::default();
    done.add("secrets with a rotation hook", secrets);
    done.add("lists of revoked certificates", lists);
    done.add("trust bundles", bundles);
    done.told()
}

/// How much of a worker's turn was done, and what failed first.
#[derive(Debug, Default)]
pub(crate) struct Done {
    count: usize,
    failed: Option<VaultError>,
}

impl Done {
    pub(crate) fn add(&mut self, what: &str, outcome: Result<usize, VaultError>) {
        match outcome {
            Ok(count) => self.count += count,
            Err(error) => {
                tracing::warn!(%error, what, "was not swept; it stays due");
                self.failed.get_or_insert(error);
            }
        }
    }

    pub(crate) fn told(self) -> Result<usize, VaultError> {
        match self.failed {
            Some(error) if self.count == 0 => Err(error),
            Some(_) | None => Ok(self.count),
        }
    }
}
