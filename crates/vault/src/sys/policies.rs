//! Policies, as the API shows them, and what a token may do. What they are is identity's; its operations authorise and record
//! themselves.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::{Acl, Capability, Facts, PageRequest, PolicyName, Verdict, decide_on};
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    let (old, name) = match segments {
        ["policies", "acl"] => (false, None),
        ["policies", "acl", name] => (false, Some(parse(name)?)),
        ["policy"] => (true, None),
        ["policy", name] => (true, Some(parse(name)?)),
        _ => return Err(scope.no_route()),
    };
    let (identities, by, info) = (scope.vault.identities(), scope.by()?, &scope.call.info);
    match (scope.call.verb, name) {
        (Verb::List, None) => list(scope, old).await,
        (Verb::Read, None) if old => list(scope, old).await,
        (Verb::Read, Some(name)) => {
            let outcome = identities.get_policy(by, info, &name).await;
            scope.was_recorded();
            let policy = outcome?;
            #[derive(Serialize)]
            struct Shown<'a> {
                name: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                policy: Option<&'a str>,
                #[serde(skip_serializing_if = "Option::is_none")]
                rules: Option<&'a str>,
            }
            let text = policy.text.as_str();
            let (policy, rules) = if old { (None, Some(text)) } else { (Some(text), None) };
            let reply = Reply::data(&Shown { name: name.as_str(), policy, rules })?;
            Ok(if old { reply.repeated() } else { reply })
        }
        (Verb::Write, Some(name)) => {
            let field = if old && scope.call.body.has("rules") { "rules" } else { "policy" };
            let text = scope.call.body.required(field)?;
            let outcome = identities.put_policy(by, info, &name, &text).await;
            scope.was_recorded();
            Ok(outcome.map(|()| Reply::empty())?)
        }
        (Verb::Delete, Some(name)) => {
            let outcome = identities.delete_policy(by, info, &name).await;
            scope.was_recorded();
            match outcome {
                Err(identity::IdentityError::PolicyNotFound) | Ok(()) => Ok(Reply::empty()),
                Err(error) => Err(error.into()),
            }
        }
        _ => Err(VaultError::Unsupported),
    }
}

fn parse(name: &str) -> Result<PolicyName, VaultError> {
    PolicyName::parse(&name.to_ascii_lowercase()).map_err(|_| VaultError::field("name", "no policy's name"))
}

async fn list(scope: &Scope<'_>, old: bool) -> Result<Reply, VaultError> {
    let limit = scope.call.count("limit", 1000)?.unwrap_or(1000).max(1);
    let page = PageRequest::parse(limit, scope.call.parameter("after").unwrap_or_default())?;
    let outcome = scope.vault.identities().list_policies(scope.by()?, &scope.call.info, &page).await;
    scope.was_recorded();
    let page = outcome?;
    let names: Vec<String> = page.names.iter().map(|name| name.as_str().to_owned()).collect();
    let reply = if old {
        Reply::data(&BTreeMap::from([("keys", &names), ("policies", &names)]))?.repeated()
    } else {
        Reply::data(&BTreeMap::from([("keys", &names)]))?
    };
    Ok(if page.next_marker.is_some() { reply.warning("more names follow: ask with `after`") } else { reply })
}

pub(super) fn of(acl: &Acl, path: &str) -> Vec<&'static str> {
    let path = path.trim_start_matches('/');
    if acl.is_root() {
        return vec!["root"];
    }
    let mut given = Vec::new();
    for capability in Capability::ALL {
        match decide_on(acl, path, capability, Facts::Any).verdict {
            Verdict::Allow { .. } => given.push(capability.as_str()),
            Verdict::Deny { .. } => return vec!["deny"],
            Verdict::Nothing => {}
        }
    }
    if given.is_empty() {
        given.push("deny");
    }
    given.sort_unstable();
    given
}
