//! `config`: the trust domain, its bundle, and where that is told.

use super::bundle::Bundle;
use super::id::is_trust_domain;
use crate::Done;
use crate::auth::cert::authorities;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::mount::{Kind, Mount};
use crate::outside::{Ask, Method, OutsideError};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::stored;
use crate::view::View;
use audit::{Decision, Record, Subject};
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{EntryPath, Revision};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// As stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) trust_domain: String,
    /// Where the bundle is told; empty: it is as it was given.
    pub(super) endpoint_url: String,
    pub(super) endpoint_ca: String,
    pub(super) audience: Vec<String>,
    pub(super) bundle: Bundle,
    /// When the bundle was told last, unix milliseconds.
    pub(super) told_at: u64,
    /// When it is asked for again.
    pub(super) due: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    trust_domain: &'a str,
    profile: &'static str,
    endpoint_url: &'a str,
    endpoint_root_ca_truststore_pem: &'a str,
    audience: &'a [String],
    x509_authorities: usize,
    jwt_authorities: bool,
    bundle_sequence: Option<u64>,
    bundle_refresh_hint: Option<u64>,
    bundle_told_at: String,
}

impl Config {
    /// Too long ago for what was told to be believed still. What was given is always.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        !self.endpoint_url.is_empty() && now.since(Timestamp::from_unix_millis(self.told_at)) > BELIEVED
    }

    /// What the same endpoint told before was newer. To go back on purpose, delete the mount, or name another endpoint first.
    fn is_rolled_back(&self, known: &Self) -> bool {
        let is_same = self.endpoint_url == known.endpoint_url && self.trust_domain == known.trust_domain;
        !self.endpoint_url.is_empty() && is_same && self.bundle.is_older_than(&known.bundle)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        !self.endpoint_url.is_empty() && self.due <= now.unix_millis()
    }

    fn with(self, bundle: Bundle, now: Timestamp) -> Self {
        let due = now.plus(bundle.refresh_after()).unix_millis();
        Self { bundle, told_at: now.unix_millis(), due, ..self }
    }
}

pub(super) fn path(view: &View) -> Result<EntryPath, VaultError> {
    view.path("config")
}

pub(super) async fn find(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    stored::load(view, &path(view)?).await
}

pub(super) async fn show(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (config, _) = find(&scope.view()?).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        trust_domain: &config.trust_domain,
        profile: if config.endpoint_url.is_empty() { "static" } else { "https_web_bundle" },
        endpoint_url: &config.endpoint_url,
        endpoint_root_ca_truststore_pem: &config.endpoint_ca,
        audience: &config.audience,
        x509_authorities: config.bundle.authorities().len(),
        jwt_authorities: config.bundle.keys().is_some(),
        bundle_sequence: config.bundle.sequence,
        bundle_refresh_hint: config.bundle.refresh_hint,
        bundle_told_at: rfc3339(Timestamp::from_unix_millis(config.told_at)),
    })
}

/// The whole of it: what is not named is not kept.
pub(super) async fn write(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let config = asked(scope).await?;
    let view = scope.view()?;
    let make = |known: Option<Config>| match known {
        Some(known) if config.is_rolled_back(&known) => Err(VaultError::field(
            "endpoint_url",
            "answered with a bundle that is older than the one that is known: to go back on purpose, name another endpoint first",
        )),
        Some(_) | None => Ok(&config),
    };
    stored::change(scope, &view, &path(&view)?, make).await?;
    Ok(Reply::empty())
}

async fn asked(scope: &Scope<'_>) -> Result<Config, VaultError> {
    let body = &scope.call.body;
    let text = |field| body.string(field).map(|text| text.map(|text| text.to_string()).unwrap_or_default());
    let trust_domain = body.required("trust_domain")?;
    let trust_domain = trust_domain.strip_prefix("spiffe://").unwrap_or(&trust_domain);
    if !is_trust_domain(trust_domain) {
        return Err(VaultError::field("trust_domain", "no trust domain"));
    }
    let audience = body.list("audience")?.unwrap_or_default();
    if audience.len() > AUDIENCES_MAX || audience.iter().any(|one| one.is_empty() || one.len() > TEXT_BYTES_MAX) {
        return Err(VaultError::field("audience", format!("at most {AUDIENCES_MAX} texts")));
    }
    let config = Config { trust_domain: trust_domain.to_owned(), audience, ..Config::default() };
    let (bundle, endpoint_url) = (text("bundle")?, text("endpoint_url")?);
    match (text("profile")?.as_str(), endpoint_url.is_empty()) {
        ("" | "static", true) => Ok(config.with(given(&bundle)?, scope.now())),
        ("" | "https_web_bundle", false) if bundle.is_empty() => {
            let endpoint_ca = text("endpoint_root_ca_truststore_pem")?;
            let config = Config { endpoint_url, endpoint_ca, ..config };
            if body.bool("defer_bundle_fetch")?.unwrap_or(false) {
                return Ok(config);
            }
            let bundle = fetch(scope.vault, &scope.mount.id, &config).await?;
            Ok(config.with(bundle, scope.now()))
        }
        ("https_web_bundle", true) => Err(VaultError::field("endpoint_url", "missing")),
        ("static", false) | (_, false) if !bundle.is_empty() || !endpoint_url.is_empty() => {
            Err(VaultError::field("profile", "static with bundle, or https_web_bundle with endpoint_url"))
        }
        _ => Err(VaultError::field("profile", "static or https_web_bundle")),
    }
}

/// PEM of authorities, or a SPIFFE bundle.
fn given(text: &str) -> Result<Bundle, VaultError> {
    let bundle = match text.trim_start().starts_with('{') {
        true => Bundle::parse(text.as_bytes()).map_err(|why| VaultError::field("bundle", why))?,
        false => Bundle::of(&authorities("bundle", text)?),
    };
    if bundle.is_empty() {
        return Err(VaultError::field("bundle", "nobody would log in"));
    }
    Ok(bundle)
}

async fn fetch(vault: &Vault, mount: &str, config: &Config) -> Result<Bundle, VaultError> {
    let ask = Ask {
        method: Method::Get,
        url: config.endpoint_url.clone(),
        headers: Vec::new(),
        body: Zeroizing::default(),
        ca: Some(config.endpoint_ca.clone()).filter(|ca| !ca.is_empty()),
        answer_is_signed: false,
        answer_bytes_max: BUNDLE_BYTES_MAX,
        within: WITHIN,
    };
    let told = vault.outside().ask(&format!("{mount}/bundle"), ask).await;
    let told = told.map_err(|error| match error {
        OutsideError::Refused(why) => VaultError::field("endpoint_url", why),
        OutsideError::Unreachable(_) | OutsideError::NotAsked => VaultError::from(error),
    })?;
    if told.status != 200 {
        return Err(VaultError::field("endpoint_url", format!("answered {}", told.status)));
    }
    Bundle::parse(&told.body).map_err(|why| VaultError::field("endpoint_url", format!("answered with {why}")))
}

/// Asks for the bundles that are due, of all mounts, for as long as a turn is; first for those that have been so for longest.
/// How much there was to do.
///
/// Always: when one is due again counts from the end of its fetch: one that hangs comes behind those that a turn leaves out.
pub(crate) async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let (table, begun) = (vault.table().await?, Instant::now());
    let mut due = Vec::new();
    for (_, mount) in table.auth().filter(|(_, mount)| mount.kind == Kind::Spiffe) {
        let found = find(&vault.view(&mount.id)?).await?;
        due.extend(found.filter(|(config, _)| config.is_due(now)).map(|(config, _)| (config.due, mount)));
    }
    due.sort_by_key(|(due, _)| *due);
    let mut done = Done::default();
    for (_, mount) in due {
        if begun.elapsed() >= TURN {
            tracing::warn!("trust bundles that are due wait for the next turn: some endpoints are slow");
            break;
        }
        done.add("a trust bundle", look_again(vault, mount, now.plus(begun.elapsed())).await);
    }
    done.told()
}

/// At what a mount's endpoint tells, where that is still due.
async fn look_again(vault: &Vault, mount: &Mount, now: Timestamp) -> Result<usize, VaultError> {
    let (view, begun) = (vault.view(&mount.id)?, Instant::now());
    let Some((config, revision)) = find(&view).await?.filter(|(config, _)| config.is_due(now)) else { return Ok(0) };
    let fetched = fetch(vault, &mount.id, &config).await;
    // the fetch took its time
    let now = now.plus(begun.elapsed());
    let later = now.plus(AGAIN).unix_millis();
    let next = match fetched {
        Ok(bundle) if bundle.is_older_than(&config.bundle) => {
            tracing::warn!(url = config.endpoint_url, "a bundle that is older than the one that is known");
            Config { due: later, ..config }
        }
        Ok(bundle) => config.with(bundle, now),
        Err(error) => {
            tracing::warn!(%error, url = config.endpoint_url, "a bundle was not told");
            Config { due: later, ..config }
        }
    };
    let (path, batch) = (path(&view)?, crate::gone::still_there(vault, vault.changes().batch()?, mount)?);
    let batch = view.put(batch.revision_is(path.clone(), revision), path, &stored::encode(&next)?)?;
    let record =
        Record { decision: Decision::Allowed, ..Record::new(now, "worker", "VaultFetchTrustBundle", &Subject::System) };
    match vault.commit(batch, &record).await {
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

const AUDIENCES_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 256;
const BUNDLE_BYTES_MAX: usize = 512 << 10;
const WITHIN: Duration = Duration::from_secs(10);
/// Fetches of one turn begin within it.
const TURN: Duration = Duration::from_secs(10);
/// After one that was not told.
const AGAIN: Duration = Duration::from_secs(60);
/// How long one that was told is believed while no newer one is.
const BELIEVED: Duration = Duration::from_secs(86_400);
