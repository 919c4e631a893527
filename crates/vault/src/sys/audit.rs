//! `sys/audit`, `sys/audit-hash`: the one log that there is, and what stands in it for what may not.
//!
//! # Divergences
//!
//! - There is one log, always on, and where it is sent on to is set in the server's configuration alone: whoever took over
//!   this API shall not turn the log off.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["audit"], Verb::Read) => list(),
        (["audit", _, ..], Verb::Write | Verb::Delete) => Err(VaultError::Invalid(
            "the audit log is always on; where it is sent on to is set in the server's configuration".into(),
        )),
        (["audit-hash", path], Verb::Write) => hash(scope, path),
        (["audit" | "audit-hash", ..], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn list() -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown {
        r#type: &'static str,
        description: &'static str,
        local: bool,
        options: BTreeMap<&'static str, &'static str>,
        path: &'static str,
    }
    let log = Shown {
        r#type: "log",
        description: "hash-chained audit log, durable before any answer",
        local: false,
        options: BTreeMap::from([("format", "json"), ("tree", "rfc6962"), ("hash", "hmac-sha256")]),
        path: LOG,
    };
    Ok(Reply::data(&BTreeMap::from([(LOG, log)]))?.repeated())
}

/// As records tell an entry of the store that was changed.
fn hash(scope: &Scope<'_>, path: &str) -> Result<Reply, VaultError> {
    if format!("{path}/") != LOG {
        return Err(VaultError::field("path", format!("there is one log: {LOG}")));
    }
    let input = scope.call.body.string("input")?.ok_or_else(|| VaultError::field("input", "missing"))?;
    let hash = hex::encode(scope.vault.barrier().keyed_hash(identity::change::PATH_LABEL, input.as_bytes())?);
    Ok(Reply::data(&BTreeMap::from([("hash", format!("hmac-sha256:{hash}"))]))?.repeated())
}

const LOG: &str = "strongroom/";
