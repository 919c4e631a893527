//! Logins.

use super::config::{self, Config, Verification};
use super::role::{Admitted, Role, Roles};
use super::selector::Selector;
use super::token::{Account, Claims, TOKEN_BYTES_MAX};
use super::{ATTEMPTS_MAX, cause, local, review};
use crate::auth::proven::{self, Proven};
use crate::body::Strict;
use crate::error::VaultError;
use crate::outside::{Ask, Method, Told};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::Revision;
use zeroize::Zeroizing;

/// Who asks the API server, and by whom it is believed.
struct Reviewer {
    token: Zeroizing<String>,
    ca: Option<String>,
}

/// How configuration and role are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    PerhapsFromMemory,
    /// From the second look on: what memory holds was not what the store does.
    FromTheStore,
}

pub(super) async fn login(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let name = super::role_name(&body.required("role")?)?;
    let jwt = body.required("jwt")?;
    if jwt.len() > TOKEN_BYTES_MAX {
        return Err(VaultError::field("jwt", format!("more than {TOKEN_BYTES_MAX} bytes")));
    }
    let claims = Claims::read(jwt.trim()).map_err(refused)?;
    let roles = Roles::new(view);
    // within one login the API server is asked once, unless it is another one by now
    let mut vouched: Option<(Revision, Account)> = None;
    let mut way = Way::PerhapsFromMemory;
    for _ in 0..ATTEMPTS_MAX {
        let (role, config) = match way {
            Way::PerhapsFromMemory => (roles.recall(&name).await?, config::recall(view).await?),
            Way::FromTheStore => (roles.load(&name).await?, config::load(view).await?),
        };
        let (role, role_revision) = role.ok_or(refused(cause::ROLE_UNKNOWN))?;
        let (config, config_revision) = config.ok_or(refused(cause::NOT_CONFIGURED))?;
        // what can be seen to be wrong asks nobody
        claims.check(&role.audience, scope.now()).map_err(refused)?;
        role.admits(&claims.account).map_err(refused)?;
        let kept = vouched.take().filter(|(revision, _)| *revision == config_revision);
        let account = match kept {
            Some((_, account)) => account,
            None => vouched_for(scope, &config, jwt.trim(), (&claims, &role)).await?,
        };
        if let Admitted::IfSelected(selector) = role.admits(&account).map_err(refused)? {
            selected(scope, &config, selector, &account.namespace).await?;
        }
        let batch = scope.batch()?.revision_is(roles.path(&name)?, role_revision);
        let batch = batch.revision_is(config::path(view)?, config_revision);
        if let Some(reply) =
            proven::let_in(scope, batch, proven((&role, config.verification), &claims, &account)).await?
        {
            return Ok(reply);
        }
        vouched = Some((config_revision, account));
        way = Way::FromTheStore;
    }
    Err(VaultError::Conflict)
}

/// By the keys of the cluster where those are known here, and by the API server unless they are enough.
async fn vouched_for(
    scope: &Scope<'_>,
    config: &Config,
    jwt: &str,
    (claims, role): (&Claims, &Role),
) -> Result<Account, VaultError> {
    if config.binds_issuer() && claims.issuer != config.issuer {
        return Err(refused(cause::ISSUER_OTHER));
    }
    if config.verification == Verification::Local || !config.pem_keys.is_empty() {
        local::verify(scope, config, jwt).await?;
    }
    match config.verification {
        Verification::Review => reviewed(scope, config, jwt, (claims, role)).await,
        Verification::Local => Ok(claims.account.clone()),
    }
}

/// Asks the API server. It vouches, or there is no login.
async fn reviewed(
    scope: &Scope<'_>,
    config: &Config,
    jwt: &str,
    (claims, role): (&Claims, &Role),
) -> Result<Account, VaultError> {
    let body = review::asked(jwt, &role.audience);
    let told = ask(scope, config, (Method::Post, "/apis/authentication.k8s.io/v1/tokenreviews"), body).await?;
    match told.status {
        200 | 201 if told.media_type == JSON => {}
        _ => return Err(VaultError::Unavailable(cause::REVIEW_MALFORMED)),
    }
    review::judged(&told.body, claims, &role.audience).map_err(|cause| match cause {
        // that is no word about the token
        cause::REVIEW_MALFORMED => VaultError::Unavailable(cause),
        cause => refused(cause),
    })
}

/// Whether the labels of the namespace are as the role asks.
async fn selected(scope: &Scope<'_>, config: &Config, selector: &Selector, namespace: &str) -> Result<(), VaultError> {
    #[derive(Deserialize)]
    struct Namespace {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }
    // its name holds nothing that a path could mistake
    let path = format!("/api/v1/namespaces/{namespace}");
    let told = ask(scope, config, (Method::Get, &path), Zeroizing::default()).await?;
    let malformed = || VaultError::Unavailable(cause::REVIEW_MALFORMED);
    match told.status {
        200 if told.media_type == JSON => {}
        404 => return Err(refused(cause::NAMESPACE_GONE)),
        _ => return Err(malformed()),
    }
    serde_json::from_slice::<Strict>(&told.body).map_err(|_| malformed())?;
    let found: Namespace = serde_json::from_slice(&told.body).map_err(|_| malformed())?;
    if found.kind != "Namespace" || found.metadata.name != namespace {
        return Err(malformed());
    }
    if selector.selects(&found.metadata.labels) { Ok(()) } else { Err(refused(cause::NAMESPACE_OTHER)) }
}

async fn ask(
    scope: &Scope<'_>,
    config: &Config,
    (method, path): (Method, &str),
    body: Zeroizing<Vec<u8>>,
) -> Result<Told, VaultError> {
    let outside = scope.vault.outside();
    let server = format!("kubernetes {} {}", scope.mount.id, config.kubernetes_host);
    let Reviewer { token, ca } = reviewer(scope, config).await?;
    let bearer = Zeroizing::new(format!("Bearer {}", *token));
    let json = || Zeroizing::new(JSON.to_owned());
    let ask = Ask {
        method,
        url: format!("{}{path}", config.kubernetes_host),
        headers: vec![("authorization", bearer), ("content-type", json()), ("accept", json())],
        body,
        ca,
        answer_is_signed: false,
        answer_bytes_max: ANSWER_BYTES_MAX,
        within: WITHIN,
    };
    let told = outside.ask(&server, ask).await?;
    match told.status {
        401 | 403 => Err(VaultError::Unavailable(cause::REVIEWER_REFUSED)),
        _ => Ok(told),
    }
}

async fn reviewer(scope: &Scope<'_>, config: &Config) -> Result<Reviewer, VaultError> {
    let own = Some(&config.kubernetes_ca_cert).filter(|ca| !ca.is_empty()).cloned();
    let needs_account = config.token_reviewer_jwt.is_empty() || config.lacks_authorities();
    let account = match needs_account && !config.disable_local_ca_jwt {
        true => scope.vault.outside().account(&config.kubernetes_host).await?,
        false => None,
    };
    let (token, ca) = match account {
        None => (config.token_reviewer_jwt.clone(), own),
        // the server's token is for whom the server's configuration believes; a mount's authorities would let others have it
        Some(account) if config.token_reviewer_jwt.is_empty() => (account.token, account.ca),
        Some(account) => (config.token_reviewer_jwt.clone(), own.or(account.ca)),
    };
    // over TLS somebody must be named whom to believe
    let believed = ca.is_some() || !config.kubernetes_host.starts_with("https://");
    if token.is_empty() || !believed {
        return Err(VaultError::Unavailable(cause::REVIEWER_NONE));
    }
    Ok(Reviewer { token, ca })
}

fn proven<'r>((role, by): (&'r Role, Verification), claims: &Claims, account: &Account) -> Proven<'r> {
    let mut meta = BTreeMap::from([
        ("role".to_owned(), role.name.clone()),
        ("service_account_name".to_owned(), account.name.clone()),
        ("service_account_namespace".to_owned(), account.namespace.clone()),
        ("service_account_uid".to_owned(), account.uid.clone()),
        ("service_account_secret_name".to_owned(), String::new()),
    ]);
    let by_what = match by {
        Verification::Review => "TokenReview",
        Verification::Local => "signature",
    };
    let mut proof = format!("{by_what} {} uid={} iss={}", account.username(), account.uid, claims.issuer);
    for (what, text) in [("kid", &claims.key_id), ("jti", &claims.id)] {
        if !text.is_empty() {
            proof.push_str(&format!(" {what}={text}"));
        }
    }
    for (what, bound) in [("pod", &account.pod), ("node", &account.node)] {
        let Some(bound) = bound else { continue };
        proof.push_str(&format!(" {what}={}/{}", bound.name, bound.uid));
        meta.insert(format!("{what}_name"), bound.name.clone());
        if what == "pod" {
            meta.insert("pod_uid".to_owned(), bound.uid.clone());
        }
    }
    Proven {
        alias: role.alias(account),
        display_name: format!("{}-{}", account.namespace, account.name),
        meta,
        proof,
        tokens: &role.token,
        ends: (role.token_ends_with_proof || by == Verification::Local).then_some(claims.ends),
        certificate: None,
        told: TOLD,
    }
}

pub(super) fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: TOLD, cause }
}

/// Whatever it was.
const TOLD: &str = "no login by this role and service account token";
const JSON: &str = "application/json";
/// What is asked takes a few milliseconds.
const WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 10;
