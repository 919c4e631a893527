//! Logins.

use super::config::{self, Config};
use super::id::{Pattern, SpiffeId};
use super::{ATTEMPTS_MAX, role};
use crate::auth::jose::{self, Algorithm, Algorithms, Rules};
use crate::auth::proven::{Proven, let_in};
use crate::auth::x509::leaf::Leaf;
use crate::auth::x509::{self, By, check};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// A SPIFFE ID, and what has shown it.
struct Shown {
    id: SpiffeId,
    proof: String,
    ends: Timestamp,
    certificate: Option<[u8; 32]>,
}

pub(super) async fn login(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let (view, body) = (scope.view()?, &scope.call.body);
    let (named, jwt) = (body.string("role")?.unwrap_or_default(), body.string("jwt")?.filter(|jwt| !jwt.is_empty()));
    for _ in 0..ATTEMPTS_MAX {
        let (config, config_at) = config::find(&view).await?.ok_or_else(|| refused(NOT_CONFIGURED))?;
        let (role, role_path, role_at) = role::find(&view, &named).await?.ok_or_else(|| refused(ROLE_UNKNOWN))?;
        if config.is_old(scope.now()) {
            return Err(refused(BUNDLE_OLD));
        }
        let shown = match &jwt {
            Some(jwt) => by_jwt(scope, &config, jwt),
            None => by_certificate(scope, &config),
        };
        let shown = shown.map_err(refused)?;
        let matches = |pattern: &String| {
            Pattern::parse(pattern, &config.trust_domain).is_some_and(|pattern| pattern.matches(&shown.id))
        };
        if !role.workload_id_patterns.iter().any(matches) {
            return Err(refused(ID_OTHER));
        }
        let id = shown.id.as_str().to_owned();
        let display = if role.display_name.is_empty() { shown.id.path() } else { &role.display_name };
        let proven = Proven {
            alias: id.clone(),
            display_name: display.trim_start_matches('/').replace('/', "-"),
            meta: BTreeMap::from([("spiffe_id".to_owned(), id), ("role".to_owned(), role.name.clone())]),
            proof: format!("{} role:{}", shown.proof, role.name),
            tokens: &role.token,
            ends: Some(shown.ends),
            certificate: shown.certificate,
            told: REFUSED,
        };
        let batch = scope.batch()?.revision_is(role_path, role_at).revision_is(config::path(&view)?, config_at);
        if let Some(reply) = let_in(scope, batch, proven).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

/// X509-SVID §5.
fn by_certificate(scope: &Scope<'_>, config: &Config) -> Result<Shown, &'static str> {
    let certificate = scope.call.certificate.as_deref().ok_or(x509::NOT_SHOWN)?;
    let leaf = Leaf::read(certificate.chain.first().ok_or(x509::NOT_SHOWN)?)?;
    let [uri] = leaf.uris.as_slice() else { return Err(URI_COUNT) };
    let id = known(config, uri)?;
    // §4.3: digitalSignature must be said
    if !leaf.signs {
        return Err(x509::USAGE);
    }
    let authorities = config.bundle.authorities();
    check(&certificate.chain, &By { authorities: &authorities, lists: &[], lists_required: false }, scope.now())?;
    let thumbprint = hex::encode(certificate.thumbprint);
    let proof = format!("x509-svid {} sha256:{thumbprint} serial:{}", id.as_str(), leaf.serial);
    Ok(Shown { id, proof, ends: leaf.not_after, certificate: Some(certificate.thumbprint) })
}

/// JWT-SVID §4.
fn by_jwt(scope: &Scope<'_>, config: &Config, jwt: &str) -> Result<Shown, &'static str> {
    let keys = config.bundle.keys().ok_or(KEYS_MISSING)?;
    let algorithms = Algorithms::of(ALGORITHMS);
    let rules = Rules {
        algorithms: &algorithms,
        now: scope.now(),
        leeway_after: LEEWAY,
        leeway_before: LEEWAY,
        kinds: &["", "jwt", "jose"],
    };
    let verified = jose::verify(jwt, &keys, &rules).map_err(jose::Refusal::cause)?;
    if config.audience.is_empty() || !verified.claims.is_for(&config.audience) {
        return Err(AUDIENCE_OTHER);
    }
    let id = known(config, verified.claims.subject().ok_or(ID_MALFORMED)?)?;
    let key = verified.key_id.unwrap_or_default();
    let jti = verified.claims.text("jti").unwrap_or_default();
    let proof = format!("jwt-svid {} kid:{key} jti:{jti}", id.as_str());
    Ok(Shown { id, proof, ends: verified.expires, certificate: None })
}

/// Of this trust domain, and of a workload: a trust domain's own ID has no path.
fn known(config: &Config, text: &str) -> Result<SpiffeId, &'static str> {
    let id = SpiffeId::parse(text).filter(|id| !id.path().is_empty()).ok_or(ID_MALFORMED)?;
    if id.trust_domain() == config.trust_domain { Ok(id) } else { Err(TRUST_DOMAIN_OTHER) }
}

fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: REFUSED, cause }
}

const REFUSED: &str = "no SVID of this trust domain that the role lets in";
pub(super) const NOT_CONFIGURED: &str = "SPIFFE_NOT_CONFIGURED";
pub(super) const ROLE_UNKNOWN: &str = "SPIFFE_ROLE_UNKNOWN";
pub(super) const BUNDLE_OLD: &str = "SPIFFE_BUNDLE_OLD";
pub(super) const URI_COUNT: &str = "SPIFFE_URI_COUNT";
pub(super) const ID_MALFORMED: &str = "SPIFFE_ID_MALFORMED";
pub(super) const TRUST_DOMAIN_OTHER: &str = "SPIFFE_TRUST_DOMAIN_OTHER";
pub(super) const ID_OTHER: &str = "SPIFFE_ID_OTHER";
pub(super) const AUDIENCE_OTHER: &str = "SPIFFE_AUDIENCE_OTHER";
pub(super) const KEYS_MISSING: &str = "SPIFFE_JWT_KEYS_MISSING";
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(10);
/// JWT-SVID §2.1: no HMAC, and nothing unsigned.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];
