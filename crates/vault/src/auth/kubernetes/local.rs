//! Verification without asking the API server each time: by the cluster's own keys.
//!
//! What is deleted is not seen: such a login's token ends with the one that was shown, always.

use super::config::Config;
use super::{cause, login};
use crate::auth::jose::{self, Algorithm, Algorithms, PLAIN_KINDS, Rules, Source};
use crate::error::VaultError;
use crate::scope::Scope;
use std::time::Duration;

/// Refuses what is not signed by the cluster, and of now.
pub(super) async fn verify(scope: &Scope<'_>, config: &Config, jwt: &str) -> Result<(), VaultError> {
    let refused = |refusal: jose::Refusal| login::refused(refusal.cause());
    let wanted = jose::key_id(jwt).map_err(refused)?;
    let source = source(scope, config).await?;
    let (key_sets, now) = (scope.vault.key_sets(), scope.now());
    let issuer = key_sets.of(scope.vault, &source, wanted.as_deref(), STALE_MAX, now).await?;
    let rules = Rules {
        algorithms: &Algorithms::of(&ALGORITHMS),
        now,
        leeway_after: Duration::ZERO,
        leeway_before: super::token::LEEWAY,
        kinds: PLAIN_KINDS,
    };
    jose::verify(jwt, &issuer.keys, &rules).map_err(refused)?;
    Ok(())
}

/// The keys of the configuration, or those that the API server shows to everybody who may see them.
async fn source(scope: &Scope<'_>, config: &Config) -> Result<Source, VaultError> {
    if !config.pem_keys.is_empty() {
        return Ok(Source::Static(config.pem_keys.clone()));
    }
    let ca = match config.lacks_authorities() && !config.disable_local_ca_jwt {
        true => scope.vault.outside().account(&config.kubernetes_host).await?.and_then(|account| account.ca),
        false => Some(config.kubernetes_ca_cert.clone()).filter(|ca| !ca.is_empty()),
    };
    if ca.is_none() && config.lacks_authorities() {
        return Err(VaultError::Unavailable(cause::REVIEWER_NONE));
    }
    Ok(Source::Url { url: format!("{}/openid/v1/jwks", config.kubernetes_host), ca })
}

/// As [`super::token::Claims::read`] has them by name.
const ALGORITHMS: [Algorithm; 6] =
    [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Es256, Algorithm::Es384, Algorithm::Es512];
/// How long the last keys count while the API server is away: no longer than the longest tokens of most Pods.
const STALE_MAX: Duration = Duration::from_secs(3600);
