//! The store that the configuration names: which engine, opened when it can be.

use crate::config::{Config, Store};
use crate::files;
use anyhow::{Context as _, Result, bail};
use envelope::SecretBytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use storage::postgres::{Durability, Options};
use storage::{Postgres, Sqlite, Storage, StorageError};

/// An open store.
pub struct Opened {
    pub store: Arc<dyn Storage>,
    /// Resolves once it has failed for good: end the process.
    pub failed: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Opens the store, waiting for a database that is away, and a while for a former process of this node.
pub async fn open(config: &Config) -> Result<Opened> {
    let Some(options) = options(config)? else {
        let store = Sqlite::open(&config.data_dir).context("cannot open the store")?;
        let failed = Box::pin(store.failed());
        return Ok(Opened { store: Arc::new(store), failed });
    };
    let (mut pause, mut held) = (Duration::from_millis(50), 0);
    loop {
        let options = options.clone();
        match tokio::task::spawn_blocking(move || Postgres::open(&options)).await? {
            Ok(store) => {
                let failed = Box::pin(store.failed());
                return Ok(Opened { store: Arc::new(store), failed });
            }
            Err(StorageError::Unavailable) => tracing::warn!("waits for the database"),
            Err(StorageError::Held) if held < HELD_MAX => held += 1,
            Err(StorageError::Held) => bail!(
                "another server of the cluster is called {} too, or the store is being migrated: give each its `audit.node`",
                config.node()
            ),
            Err(error) => return Err(error).context("cannot open the store"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Of a shared store; `None` for the embedded one.
pub fn options(config: &Config) -> Result<Option<Options>> {
    let Store::Postgres { url, password_file, schema, ca, certificate, key, readers, without_fsync } = &config.storage
    else {
        return Ok(None);
    };
    let password = match password_file {
        Some(file) => Some(files::read_secret(file).context("`storage.password_file`")?),
        None => password_of_environment(),
    };
    Ok(Some(Options {
        password: password.map(Arc::new),
        authorities: ca.clone(),
        certificate: certificate.clone().zip(key.clone()),
        readers: *readers,
        durability: if *without_fsync { Durability::Waived } else { Durability::Required },
        ..Options::new(url, schema, config.node())
    }))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a secret that a service manager hands over: it stands in no configuration"
)]
fn password_of_environment() -> Option<SecretBytes> {
    std::env::var(PASSWORD_VARIABLE).ok().map(|text| SecretBytes::from_vec(text.into_bytes()))
}

/// What can be said without a connection, and without reading a file but the authorities.
pub fn check(config: &Config) -> Result<()> {
    let Store::Postgres { url, schema, ca, certificate, key, readers, .. } = &config.storage else { return Ok(()) };
    if !(1..=READERS_MAX).contains(readers) {
        bail!("`storage.readers` is 1 to {READERS_MAX}");
    }
    if certificate.is_some() != key.is_some() {
        bail!("`storage.certificate` and `storage.key` go together");
    }
    let certificate = certificate.clone().zip(key.clone());
    let options = Options { authorities: ca.clone(), certificate, ..Options::new(url, schema, config.node()) };
    options.check().context("`storage`")
}

const PASSWORD_VARIABLE: &str = "STRONGROOM_POSTGRES_PASSWORD";
const READERS_MAX: usize = 32;
/// Tries, about a second each at the end: a session of a process that was killed ends by then.
const HELD_MAX: u32 = 10;
