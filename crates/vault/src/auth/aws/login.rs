//! Logins.
//!
//! Always: nobody is asked for a login that could not count anyway: role, server id, date, nonce, certificate come first.
//! Always: what has logged in once does not again: its mark and its token are one commit.

use super::arn::{Caller, Unrecognised};
use super::config::{self, Alias, Config};
use super::refusal::*;
use super::role::{self, Admission, Role};
use super::signed::{self, Form, Signed};
use super::{ATTEMPTS_MAX, answer, nonce};
use crate::auth::proven::{self, Proven};
use crate::error::VaultError;
use crate::outside::{Ask, Method, Told};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use envelope::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::EntryPath;
use zeroize::Zeroizing;

pub(super) async fn login(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let name = role::name(&scope.call.body.required("role")?)?;
    let (config, config_revision) = Config::load(&view).await?.ok_or(refused(UNCONFIGURED))?;
    let (role, _) = role::load(&view, &name).await?.ok_or(refused(ROLE_UNKNOWN))?;
    let signed = signed::parse(&scope.call.body, config.rules())?;
    let (mark, certificate) = check(scope, &view, &role, &signed)?;
    if view.load(&mark).await?.is_some() {
        return Err(refused(REPLAYED));
    }
    let caller = asked(scope, &config, &signed).await?;
    let identity = config::identity(&view).await?;
    for _ in 0..ATTEMPTS_MAX {
        let (role, revision) = role::load(&view, &name).await?.ok_or(refused(ROLE_UNKNOWN))?;
        // it may ask for more than when the login came
        check(scope, &view, &role, &signed)?;
        let admission = role.admit(&caller).map_err(refused)?;
        let batch = scope.batch()?.revision_is(role::path(&view, &name)?, revision).absent(mark.clone());
        let batch = batch.revision_is(Config::path(&view)?, config_revision);
        let batch = view.put(batch, mark.clone(), b"")?;
        let batch = match admission {
            Admission::AsKnown => batch,
            Admission::Pinned(role) => role::put(&view, batch, &role)?,
        };
        let alias = match identity.iam_alias {
            Alias::UniqueId => caller.unique_id.clone(),
            Alias::CanonicalArn => caller.canonical_arn(),
        };
        let proven = Proven {
            alias,
            display_name: caller.name.clone(),
            meta: meta(&role, &caller),
            proof: proof(&signed, &caller),
            tokens: &role.token,
            ends: None,
            certificate,
            told: TOLD,
        };
        if let Some(reply) = proven::let_in(scope, batch, proven).await? {
            return Ok(reply);
        }
        if view.load(&mark).await?.is_some() {
            return Err(refused(REPLAYED));
        }
        // whom it asked may vouch for nobody by now
        if Config::load(&view).await?.is_none_or(|(_, revision)| revision != config_revision) {
            return Err(VaultError::Conflict);
        }
    }
    Err(VaultError::Conflict)
}

/// What can be judged here. Where the login's mark stands, and what its token is bound to.
fn check(
    scope: &Scope<'_>,
    view: &View,
    role: &Role,
    signed: &Signed,
) -> Result<(EntryPath, Option<[u8; 32]>), VaultError> {
    let now = scope.now();
    if signed.date.plus(SKEW_MAX) < now || now.plus(SKEW_MAX) < signed.date {
        return Err(refused(DATE_OTHER));
    }
    let (what, ends, bound) = match &signed.form {
        Form::Own { nonce, certificate } => (nonce.to_ascii_lowercase(), nonce::check(scope, nonce)?, *certificate),
        Form::Vaults if role.require_nonce => return Err(refused(NONCE_MISSING)),
        Form::Vaults => (signed.signature.clone(), signed.date.plus(SKEW_MAX), None),
    };
    if role.require_certificate && bound.is_none() {
        return Err(refused(CERTIFICATE_MISSING));
    }
    let shown = scope.call.certificate.as_ref().map(|shown| shown.thumbprint);
    if bound.is_some() && shown != bound {
        return Err(refused(CERTIFICATE_OTHER));
    }
    // a little longer than it could count
    let ends = Timestamp::from_unix_millis(ends.plus(Duration::from_secs(60)).unix_millis());
    Ok((nonce::mark(view, &what, ends)?, bound))
}

/// Whom the service names.
async fn asked(scope: &Scope<'_>, config: &Config, signed: &Signed) -> Result<Caller, VaultError> {
    let url = config.url(&signed.host);
    let mut headers = signed.headers.clone();
    if config.rules().endpoint_host.is_some_and(|host| host != signed.host) {
        headers.push(("host", Zeroizing::new(signed.host.clone())));
    }
    let ask = Ask {
        method: Method::Post,
        url,
        headers,
        body: Zeroizing::new(signed::BODY.as_bytes().to_vec()),
        ca: Some(config.sts_ca.clone()).filter(|ca| !ca.is_empty()),
        answer_is_signed: false,
        answer_bytes_max: answer::ANSWER_BYTES_MAX,
        within: ANSWERED_WITHIN,
    };
    let server = format!("aws {} {}", scope.mount.id, signed.host);
    let Told { status, media_type, body } = scope.vault.outside().ask(&server, ask).await?;
    match status {
        200 => {}
        400 | 401 | 403 => return Err(refused(STS_REFUSED)),
        429 | 500.. => return Err(VaultError::Unavailable("UPSTREAM_UNREACHABLE")),
        // a redirect, for one
        _ => return Err(refused(STS_ANSWER)),
    }
    let told = answer::parse(&media_type, &body).ok_or(refused(STS_ANSWER))?;
    let caller = Caller::recognise(&told).map_err(|why| {
        refused(match why {
            Unrecognised::Root => ROOT,
            Unrecognised::Other => PRINCIPAL_OTHER,
            Unrecognised::Contradiction => ANSWER_CONTRADICTS,
        })
    })?;
    if signed.partition.is_some_and(|partition| partition != caller.partition) {
        return Err(refused(ANSWER_CONTRADICTS));
    }
    Ok(caller)
}

fn meta(role: &Role, caller: &Caller) -> BTreeMap<String, String> {
    let mut meta = BTreeMap::from([
        ("role".to_owned(), role.name.clone()),
        ("auth_type".to_owned(), "iam".to_owned()),
        ("account_id".to_owned(), caller.account.clone()),
        ("canonical_arn".to_owned(), caller.canonical_arn()),
        ("client_arn".to_owned(), caller.arn.clone()),
        ("client_user_id".to_owned(), caller.unique_id.clone()),
    ]);
    if let Some(looks_like) = caller.session_looks_like() {
        meta.insert("session_looks_like".to_owned(), looks_like.to_owned());
    }
    meta
}

fn proof(signed: &Signed, caller: &Caller) -> String {
    let form = match &signed.form {
        Form::Vaults => "vault",
        Form::Own { certificate: None, .. } => "nonce",
        Form::Own { certificate: Some(_), .. } => "nonce,certificate",
    };
    let (arn, user, key, host) = (&caller.arn, &caller.user_id, &signed.access_key_id, &signed.host);
    format!("aws arn={arn} user_id={user} access_key_id={key} told_by={host} form={form}")
}

/// As AWS allows.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
