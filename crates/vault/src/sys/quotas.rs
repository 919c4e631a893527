//! `sys/quotas/*`: rate limits, as rules.
//!
//! # Divergences
//!
//! - A rule counts each address on each node by itself; counting leases or roles is not offered.
//! - Refused requests leave no record and their answers no headers; the paths that are never limited cannot be changed.

use crate::call::Verb;
use crate::error::VaultError;
use crate::quota::{self, EXEMPT, RULES_MAX, Rule, Rules};
use crate::reply::Reply;
use crate::scope::Scope;
use identity::{ChangeError, PolicyName};
use serde::Serialize;
use std::time::Duration;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["quotas", "rate-limit"], Verb::List) => {
            let (rules, ..) = quota::load(scope.vault).await?;
            Reply::keys(&rules.0.keys().collect::<Vec<_>>())
        }
        (["quotas", "rate-limit", name], Verb::Read) => read(scope, name).await,
        (["quotas", "rate-limit", name], Verb::Write) => write(scope, name).await,
        (["quotas", "rate-limit", name], Verb::Delete) => {
            change(scope, |rules| {
                rules.0.remove(*name);
                Ok(())
            })
            .await
        }
        (["quotas", "config"], Verb::Read) => config(),
        (["quotas", "config"], Verb::Write) => Err(VaultError::Invalid("nothing of quotas can be configured".into())),
        (["quotas", "lease-count", ..], _) => Err(VaultError::Invalid("lease counts are not limited here".into())),
        (["quotas", "rate-limit" | "config"] | ["quotas", "rate-limit", _], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    block_interval: u64,
    inheritable: bool,
    interval: u64,
    name: &'a str,
    path: &'a str,
    rate: f64,
    role: &'static str,
    r#type: &'static str,
}

async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let (rules, ..) = quota::load(scope.vault).await?;
    let rule = rules.0.get(name).ok_or(VaultError::NotFound)?;
    let milli = u32::try_from(rule.rate_milli).unwrap_or(u32::MAX);
    Reply::data(&Shown {
        block_interval: rule.block_secs,
        inheritable: rule.path.is_empty(),
        interval: rule.interval_secs,
        name,
        path: &rule.path,
        rate: f64::from(milli) / 1000.,
        role: "",
        r#type: "rate-limit",
    })
}

/// What is not named stays.
async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    PolicyName::parse(name).map_err(|_| VaultError::field("name", "1 to 64 of a-z, 0-9, `_`, `.`, `-`"))?;
    if body.string("role")?.is_some_and(|role| !role.is_empty()) {
        return Err(VaultError::field("role", "not supported here"));
    }
    let path = body.string("path")?.map(|path| path.trim_start_matches('/').to_owned());
    if path.as_ref().is_some_and(|path| path.len() > PATH_BYTES_MAX) {
        return Err(VaultError::field("path", "too long"));
    }
    let rate = body.string("rate")?.map(|rate| rate_milli(&rate)).transpose()?;
    let interval = secs(body.duration("interval")?, "interval")?;
    let block = if body.has("block_interval") {
        Some(secs(body.duration("block_interval")?, "block_interval")?.unwrap_or(0))
    } else {
        None
    };
    change(scope, |rules| {
        if !rules.0.contains_key(name) && rules.0.len() >= RULES_MAX {
            return Err(VaultError::Limited(format!("more than {RULES_MAX} rules").into()));
        }
        let rule = rules.0.entry(name.to_owned()).or_insert_with(|| Rule { interval_secs: 1, ..Rule::default() });
        if let Some(path) = &path {
            rule.path.clone_from(path);
        }
        rule.rate_milli = rate.unwrap_or(rule.rate_milli);
        rule.interval_secs = interval.unwrap_or(rule.interval_secs);
        rule.block_secs = block.unwrap_or(rule.block_secs);
        let rule = rule.clone();
        if rule.rate_milli == 0 {
            return Err(VaultError::field("rate", "missing"));
        }
        if rule.interval_secs * 1000 > INTERVAL_SECS_MAX * rule.rate_milli {
            return Err(VaultError::field("rate", "less than one request an hour"));
        }
        if rules.0.iter().any(|(other, found)| other != name && found.path == rule.path) {
            return Err(VaultError::field("path", "another rule has the same path"));
        }
        Ok(())
    })
    .await
}

/// From a thousandth of a request to a million.
fn rate_milli(text: &str) -> Result<u64, VaultError> {
    let wrong = || VaultError::field("rate", "not a number from 0.001 to 1000000");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.len() <= 7 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let thousandths = format!("{part:0<3}");
    let part: u64 = thousandths.get(..3).unwrap_or_default().parse().map_err(|_| wrong())?;
    let milli = whole.parse::<u64>().map_err(|_| wrong())? * 1000 + part;
    if (1..=RATE_MILLI_MAX).contains(&milli) { Ok(milli) } else { Err(wrong()) }
}

fn secs(duration: Option<Duration>, field: &'static str) -> Result<Option<u64>, VaultError> {
    let secs = duration.map(|duration| duration.as_secs());
    if secs.is_some_and(|secs| !(1..=INTERVAL_SECS_MAX).contains(&secs)) {
        return Err(VaultError::field(field, "not from a second to an hour"));
    }
    Ok(secs)
}

async fn change(scope: &Scope<'_>, change: impl Fn(&mut Rules) -> Result<(), VaultError>) -> Result<Reply, VaultError> {
    let view = quota::view(scope.vault)?;
    let place = quota::place(&view)?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut rules, revision, _) = quota::load(scope.vault).await?;
        change(&mut rules)?;
        let batch = match revision {
            Some(revision) => scope.batch()?.revision_is(place.clone(), revision),
            None => scope.batch()?.absent(place.clone()),
        };
        let text = serde_json::to_vec(&rules).map_err(|_| VaultError::Internal("the rate limits".into()))?;
        match scope.commit(view.put(batch, place.clone(), &text)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Reply::empty()),
        }
    }
    Err(VaultError::Conflict)
}

fn config() -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Config {
        enable_rate_limit_audit_logging: bool,
        enable_rate_limit_response_headers: bool,
        rate_limit_exempt_paths: [&'static str; 3],
    }
    Reply::data(&Config {
        enable_rate_limit_audit_logging: false,
        enable_rate_limit_response_headers: false,
        rate_limit_exempt_paths: EXEMPT,
    })
}

const PATH_BYTES_MAX: usize = 512;
const RATE_MILLI_MAX: u64 = 1_000_000_000;
/// So that a rule on everything shuts nobody out for long.
const INTERVAL_SECS_MAX: u64 = 3600;
const ATTEMPTS_MAX: usize = 16;
