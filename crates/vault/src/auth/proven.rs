//! The end of every login: a token, with its entity and a record of what proved it, in one commit.
//!
//! Always: what a login asks for itself is narrower than what the role gives, or it is refused by its name.

use super::token::entity_id;
use super::token_fields::{self, Login, TokenFields, is_from, lie_within};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use audit::{Decision, Outcome, Record};
use envelope::Timestamp;
use identity::{ChangeError, CreatedToken, NewToken, PolicyName, TokenKind};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;
use storage::{AtLeast, Batch};

/// Who somebody has turned out to be.
pub(crate) struct Proven<'a> {
    /// By what the mount knows the entity: what nobody else can get (a uid, a unique id), not a name that can be given again.
    pub(crate) alias: String,
    pub(crate) display_name: String,
    pub(crate) meta: BTreeMap<String, String>,
    /// For the record: what proved it. No credential.
    pub(crate) proof: String,
    /// The role's.
    pub(crate) tokens: &'a TokenFields,
    /// The token ends with the proof.
    pub(crate) ends: Option<Timestamp>,
    /// Bound whatever the caller wishes; else what the caller wishes counts.
    pub(crate) certificate: Option<[u8; 32]>,
    /// The method's one refusal.
    pub(crate) told: &'static str,
}

/// Nothing where others were in between: look again.
pub(crate) async fn let_in(scope: &Scope<'_>, batch: Batch, proven: Proven<'_>) -> Result<Option<Reply>, VaultError> {
    let_in_of(scope, batch, proven, None).await
}

/// The same, of a method that tells in which groups its people are, where it does.
pub(crate) async fn let_in_of(
    scope: &Scope<'_>,
    batch: Batch,
    proven: Proven<'_>,
    groups: Option<&[String]>,
) -> Result<Option<Reply>, VaultError> {
    let refused = |cause| VaultError::LoginRefused { told: proven.told, cause };
    let fields = narrowed(scope, proven.tokens)?;
    if !is_from(scope, &proven.tokens.token_bound_cidrs)? {
        return Err(refused(ADDRESS_OTHER));
    }
    let certificate = match (proven.certificate, scope.call.bind) {
        (Some(bound), Some(wish)) if bound != wish => {
            let why = "another certificate than the one that logs in";
            return Err(VaultError::field("X-Strongroom-Bind-Certificate", why));
        }
        (bound, wish) => bound.or(wish),
    };
    let login = Login {
        path: format!("{}login", scope.mount_path),
        display_name: display_name(scope, &proven.display_name),
        meta: proven.meta,
        cidrs: &fields.token_bound_cidrs,
        certificate,
    };
    let mut new = fields.token(scope.mount, login)?;
    if let Some(ends) = proven.ends {
        let left = ends.since(scope.now());
        if left.is_zero() {
            return Err(refused(OVER));
        }
        new = ending(new, left);
    }
    let prepared = token_fields::prepare_in(scope, batch, new, &proven.alias, groups).await;
    let (batch, created) = token_fields::let_in_or(prepared, refused(ENTITY_DISABLED))?;
    if !batch.writes.is_empty() {
        return committed(scope, batch, created, &proven.proof).await;
    }
    logged(scope, &batch, created, &proven.proof).await
}

/// A login's token, with what proved it, in one commit. Nothing where others were in between: look again.
pub(crate) async fn committed(
    scope: &Scope<'_>,
    batch: Batch,
    created: CreatedToken,
    proof: &str,
) -> Result<Option<Reply>, VaultError> {
    let (subject, entity) = (token_fields::subject(&created), entity_id(&created.metadata));
    let record = Record { proof, entity: &entity, ..scope.record(&subject, Decision::Allowed, Outcome::Done) };
    if let Err(error) = scope.vault.commit(batch, &record).await {
        return if let ChangeError::Conflict(_) = error { token_fields::again(scope).await } else { Err(error.into()) };
    }
    scope.was_recorded();
    Ok(Some(token_fields::answer(scope, created)))
}

/// The same where nothing is stored: what the batch demands is looked at all the same.
pub(crate) async fn logged(
    scope: &Scope<'_>,
    batch: &Batch,
    created: CreatedToken,
    proof: &str,
) -> Result<Option<Reply>, VaultError> {
    if !still_so(scope, batch).await? {
        return token_fields::again(scope).await;
    }
    let (subject, entity) = (token_fields::subject(&created), entity_id(&created.metadata));
    let record = Record { proof, entity: &entity, ..scope.record(&subject, Decision::Allowed, Outcome::Done) };
    scope.vault.changes().log(&record).await?;
    scope.was_recorded();
    Ok(Some(token_fields::answer(scope, created)))
}

/// Whether what the login was looked at by still stands, where nothing is written that would tell.
async fn still_so(scope: &Scope<'_>, batch: &Batch) -> Result<bool, VaultError> {
    let paths: Vec<_> = batch.preconditions.iter().map(|demanded| demanded.path().clone()).collect();
    let (_, found) = scope.vault.barrier().storage().get(&paths, AtLeast::Latest).await?;
    let revisions = found.into_iter().map(|entry| entry.map(|entry| entry.revision));
    Ok(batch.preconditions.iter().zip(revisions).all(|(demanded, revision)| demanded.holds(revision)))
}

fn display_name(scope: &Scope<'_>, name: &str) -> String {
    let mount = scope.mount_path.trim_start_matches("auth/").trim_end_matches('/').replace('/', "-");
    format!("{mount}-{name}")
}

/// It does not outlive the proof, however often it is renewed.
fn ending(new: NewToken<'static>, left: Duration) -> NewToken<'static> {
    let most = new.explicit_max_ttl.map_or(left, |most| most.min(left));
    NewToken {
        ttl: Some(new.ttl.map_or(left, |ttl| ttl.min(left))),
        // what is not stored is not renewed
        explicit_max_ttl: (new.kind == TokenKind::Service).then_some(most),
        period: None,
        ..new
    }
}

/// What the role gives, and of that what the caller asks for: a shorter life, fewer uses, addresses, policies. What an
/// entity and its groups give comes beside, as with every token.
pub(crate) fn narrowed(scope: &Scope<'_>, role: &TokenFields) -> Result<TokenFields, VaultError> {
    let body = &scope.call.body;
    let wider = |field: &'static str| Err(VaultError::field(field, "wider than what the role gives"));
    let mut fields = role.clone();
    // none is no wish, here as in all of these fields
    if let Some(ttl) = body.duration("token_ttl")?.filter(|ttl| !ttl.is_zero()) {
        if ttl > role.first_life(scope.mount) {
            return wider("token_ttl");
        }
        if ttl.as_secs() == 0 {
            return Err(VaultError::field("token_ttl", "less than a second"));
        }
        (fields.token_ttl, fields.token_explicit_max_ttl, fields.token_period) = (ttl.as_secs(), ttl.as_secs(), 0);
    }
    if let Some(uses) = body.count("token_num_uses", u32::MAX)?.and_then(NonZeroU32::new) {
        if role.token_num_uses > 0 && uses.get() > role.token_num_uses {
            return wider("token_num_uses");
        }
        fields.token_num_uses = uses.get();
    }
    if let Some(ranges) = token_fields::cidrs(body, "token_bound_cidrs")?.filter(|ranges| !ranges.is_empty()) {
        if !lie_within(&ranges, &role.token_bound_cidrs)? {
            return wider("token_bound_cidrs");
        }
        fields.token_bound_cidrs = ranges;
    }
    if let Some(names) = body.list("token_policies")? {
        let given = |name: &String| role.token_policies.contains(name);
        let names: Vec<String> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        if names.iter().any(|name| PolicyName::parse(name).is_err()) || !names.iter().all(given) {
            return wider("token_policies");
        }
        (fields.token_policies, fields.token_no_default_policy) = (names, true);
    }
    fields.check()?;
    Ok(fields)
}

/// What every method's refusals may say beside its own.
pub(crate) const CAUSES: &[(&str, &str)] = &[
    (ADDRESS_OTHER, "the login came from outside the role's token_bound_cidrs"),
    (OVER, "what was shown as a proof had ended when its token was to be made"),
    (ENTITY_DISABLED, "the entity is disabled: see identity/entity"),
    (
        "UPSTREAM_MISCONFIGURED",
        "whoever is asked who logs in cannot be asked as it is configured: URL, authorities; the server's log says more",
    ),
    (
        "UPSTREAM_UNREACHABLE",
        "whoever is asked who logs in did not answer in time, or could not be believed; the server's log says more",
    ),
    ("UPSTREAM_NOT_ASKED", "whoever is asked who logs in was not reached lately: it is asked again in some seconds"),
];
const ADDRESS_OTHER: &str = "LOGIN_ADDRESS_OTHER";
const OVER: &str = "LOGIN_PROOF_OVER";
const ENTITY_DISABLED: &str = "LOGIN_ENTITY_DISABLED";
