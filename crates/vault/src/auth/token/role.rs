//! `auth/token/roles`. A write changes what it names, and makes the role where there is none.

use super::{names, page};
use crate::body::Body;
use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::token::{CIDRS_MAX, POLICIES_MAX, parse_policies};
use identity::{Cidr, PolicyGlob, PolicyName, RoleName, RoleTokenKind, TokenRole};
use serde::Serialize;
use std::num::NonZeroU32;
use std::time::Duration;

#[derive(Serialize)]
struct Shown<'a> {
    allowed_entity_aliases: [&'a str; 0],
    allowed_policies: Vec<&'a str>,
    allowed_policies_glob: Vec<&'a str>,
    disallowed_policies: Vec<&'a str>,
    disallowed_policies_glob: Vec<&'a str>,
    explicit_max_ttl: u64,
    name: &'a str,
    orphan: bool,
    path_suffix: &'a str,
    period: u64,
    renewable: bool,
    token_bound_cidrs: Vec<String>,
    token_explicit_max_ttl: u64,
    token_no_default_policy: bool,
    token_num_uses: u32,
    token_period: u64,
    token_type: &'static str,
}

/// What a write names; the rest stays.
struct Change {
    allowed: Option<Vec<PolicyName>>,
    allowed_glob: Option<Vec<PolicyGlob>>,
    disallowed: Option<Vec<PolicyName>>,
    disallowed_glob: Option<Vec<PolicyGlob>>,
    orphan: Option<bool>,
    renewable: Option<bool>,
    no_default_policy: Option<bool>,
    period: Option<Option<Duration>>,
    explicit_max_ttl: Option<Option<Duration>>,
    num_uses: Option<Option<NonZeroU32>>,
    bound_cidrs: Option<Vec<Cidr>>,
    kind: Option<RoleTokenKind>,
    path_suffix: Option<String>,
}

pub(super) fn parse(name: &str) -> Result<RoleName, VaultError> {
    RoleName::parse(&name.to_ascii_lowercase()).map_err(|_| VaultError::field("role_name", "no role's name"))
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let page = page(scope)?;
    let outcome = scope.vault.identities().list_token_roles(scope.by()?, &scope.call.info, &page).await;
    scope.was_recorded();
    let found = outcome?;
    names(found.names.iter().map(|name| name.as_str().to_owned()).collect(), found.next_marker)
}

pub(super) async fn one(scope: &Scope<'_>, verb: Verb, name: RoleName) -> Result<Reply, VaultError> {
    let (identities, by, info) = (scope.vault.identities(), scope.by()?, &scope.call.info);
    match verb {
        Verb::Read => {
            let outcome = identities.read_token_role(by, info, &name).await;
            scope.was_recorded();
            Reply::data(&shown(&outcome?))
        }
        Verb::Write => {
            let change = change(&scope.call.body)?;
            let outcome = identities
                .change_token_role(by, info, &name, |role| {
                    change.apply(role);
                    Ok(())
                })
                .await;
            scope.was_recorded();
            Ok(outcome.map(|()| Reply::empty())?)
        }
        Verb::Delete => {
            let outcome = identities.delete_token_role(by, info, &name).await;
            scope.was_recorded();
            match outcome {
                Ok(()) | Err(identity::IdentityError::RoleNotFound) => Ok(Reply::empty()),
                Err(error) => Err(error.into()),
            }
        }
        Verb::List | Verb::Patch => Err(VaultError::Unsupported),
    }
}

fn shown(role: &TokenRole) -> Shown<'_> {
    let secs = |duration: Option<Duration>| duration.unwrap_or_default().as_secs();
    let (max, period) = (secs(role.explicit_max_ttl), secs(role.period));
    Shown {
        allowed_entity_aliases: [],
        allowed_policies: role.allowed_policies.iter().map(PolicyName::as_str).collect(),
        allowed_policies_glob: role.allowed_policies_glob.iter().map(PolicyGlob::as_str).collect(),
        disallowed_policies: role.disallowed_policies.iter().map(PolicyName::as_str).collect(),
        disallowed_policies_glob: role.disallowed_policies_glob.iter().map(PolicyGlob::as_str).collect(),
        explicit_max_ttl: max,
        name: role.name.as_str(),
        orphan: role.orphan,
        path_suffix: &role.path_suffix,
        period,
        renewable: role.renewable,
        token_bound_cidrs: role.bound_cidrs.iter().map(ToString::to_string).collect(),
        token_explicit_max_ttl: max,
        token_no_default_policy: role.no_default_policy,
        token_num_uses: role.num_uses.map_or(0, NonZeroU32::get),
        token_period: period,
        token_type: role.kind.as_str(),
    }
}

fn change(body: &Body) -> Result<Change, VaultError> {
    if body.list("allowed_entity_aliases")?.is_some_and(|aliases| !aliases.is_empty()) {
        return Err(VaultError::field("allowed_entity_aliases", "not supported here"));
    }
    Ok(Change {
        allowed: policies(body, "allowed_policies")?,
        allowed_glob: globs(body, "allowed_policies_glob")?,
        disallowed: policies(body, "disallowed_policies")?,
        disallowed_glob: globs(body, "disallowed_policies_glob")?,
        orphan: body.bool("orphan")?,
        renewable: body.bool("renewable")?,
        no_default_policy: body.bool("token_no_default_policy")?,
        period: duration(body, "token_period", "period")?,
        explicit_max_ttl: duration(body, "token_explicit_max_ttl", "explicit_max_ttl")?,
        num_uses: body.count("token_num_uses", u32::MAX)?.map(NonZeroU32::new),
        bound_cidrs: cidrs(body)?,
        kind: match body.string("token_type")? {
            Some(kind) => Some(
                RoleTokenKind::parse(&kind)
                    .map_err(|_| VaultError::field("token_type", "no kind of a role's tokens"))?,
            ),
            None => None,
        },
        path_suffix: body.string("path_suffix")?.map(|suffix| suffix.as_str().to_owned()),
    })
}

/// Names in their one spelling.
pub(super) fn policies(body: &Body, field: &'static str) -> Result<Option<Vec<PolicyName>>, VaultError> {
    let Some(names) = body.list(field)? else { return Ok(None) };
    let names: Vec<_> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let wrong = || VaultError::field(field, format!("not at most {POLICIES_MAX} names of policies"));
    parse_policies(&names).map(Some).map_err(|_| wrong())
}

fn globs(body: &Body, field: &'static str) -> Result<Option<Vec<PolicyGlob>>, VaultError> {
    let Some(globs) = body.list(field)? else { return Ok(None) };
    let wrong = || VaultError::field(field, format!("not at most {POLICIES_MAX} patterns of names of policies"));
    if globs.len() > POLICIES_MAX {
        return Err(wrong());
    }
    globs.iter().map(|glob| PolicyGlob::parse(glob.trim()).map_err(|_| wrong())).collect::<Result<_, _>>().map(Some)
}

/// Zero takes it away.
fn duration(body: &Body, field: &'static str, old: &'static str) -> Result<Option<Option<Duration>>, VaultError> {
    match [field, old].into_iter().find(|field| body.has(field)) {
        Some(field) => Ok(Some(body.duration(field)?)),
        None => Ok(None),
    }
}

fn cidrs(body: &Body) -> Result<Option<Vec<Cidr>>, VaultError> {
    let field = if body.has("token_bound_cidrs") { "token_bound_cidrs" } else { "bound_cidrs" };
    let Some(cidrs) = body.list(field)? else { return Ok(None) };
    let wrong = || VaultError::field(field, format!("not at most {CIDRS_MAX} ranges of addresses"));
    if cidrs.len() > CIDRS_MAX {
        return Err(wrong());
    }
    cidrs.iter().map(|cidr| Cidr::parse(cidr.trim()).map_err(|_| wrong())).collect::<Result<_, _>>().map(Some)
}

impl Change {
    fn apply(&self, role: &mut TokenRole) {
        fn put<T: Clone>(place: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        put(&mut role.allowed_policies, self.allowed.as_ref());
        put(&mut role.allowed_policies_glob, self.allowed_glob.as_ref());
        put(&mut role.disallowed_policies, self.disallowed.as_ref());
        put(&mut role.disallowed_policies_glob, self.disallowed_glob.as_ref());
        put(&mut role.orphan, self.orphan.as_ref());
        put(&mut role.renewable, self.renewable.as_ref());
        put(&mut role.no_default_policy, self.no_default_policy.as_ref());
        put(&mut role.period, self.period.as_ref());
        put(&mut role.explicit_max_ttl, self.explicit_max_ttl.as_ref());
        put(&mut role.num_uses, self.num_uses.as_ref());
        put(&mut role.bound_cidrs, self.bound_cidrs.as_ref());
        put(&mut role.kind, self.kind.as_ref());
        put(&mut role.path_suffix, self.path_suffix.as_ref());
    }
}
