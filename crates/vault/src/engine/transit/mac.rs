//! HMACs under keys of type `hmac`.

use super::batch::{Items, Refused, each};
use super::key::Named;
use super::wire;
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use kms::{AtVersion, GenerateMac, KeyRef, MacAlgorithm, VerifyMac};
use serde::Serialize;

#[derive(Serialize)]
struct Hmac {
    hmac: String,
}

pub(super) async fn generate(scope: &Scope<'_>, name: &str, hash: Option<&&str>) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = Named::of(scope, name, "encryption key not found").await?;
    check(&named, hash)?;
    let kms = named.kms()?;
    let asks = items.bodies(scope).into_iter().map(|item| to_authenticate(&named, item));
    let (outcomes, recorded) = each(asks.collect(), async |command| {
        let made = kms.generate_mac(named.id, command).await.map_err(wire::told)?;
        Ok(Hmac { hmac: wire::tagged(made.key_version, &made.mac) })
    })
    .await;
    items.answer(scope, outcomes, recorded).await
}

/// Of the right type, and by the one algorithm.
pub(super) fn check(named: &Named<'_>, hash: Option<&&str>) -> Result<(), VaultError> {
    let kind = named.entry.kind;
    if kind.encrypts() || kind.signs() {
        let why = format!("keys of type {} make no HMACs here: create one of type hmac", kind.name());
        return Err(VaultError::Invalid(why.into()));
    }
    let body = &named.scope.call.body;
    let (new, old) = (body.string("hash_algorithm")?, body.string("algorithm")?);
    let asked = hash.copied().or(new.as_ref().or(old.as_ref()).map(|text| text.as_str())).unwrap_or("sha2-256");
    match asked {
        "sha2-256" | "" => Ok(()),
        other => Err(VaultError::field("algorithm", format!("unsupported hash algorithm \"{}\"", wire::shown(other)))),
    }
}

pub(super) fn to_verify(named: &Named<'_>, item: &Body) -> Result<AtVersion<VerifyMac>, Refused> {
    let text = item.required("hmac")?;
    let (version, mac) =
        wire::untag_bytes(&text).ok_or_else(|| VaultError::field("hmac", "not of the form vault:vN:… in base64"))?;
    named.entry.check_old(version)?;
    let message = wire::required(item, "input")?;
    let command =
        VerifyMac { key: KeyRef::Id(named.id), message, algorithm: MacAlgorithm::HmacSha256, mac: mac.into() };
    Ok(AtVersion { command, version: Some(version) })
}

fn to_authenticate(named: &Named<'_>, item: &Body) -> Result<AtVersion<GenerateMac>, Refused> {
    let version = named.entry.asked_version(item)?;
    let message = wire::required(item, "input")?;
    let command = GenerateMac { key: KeyRef::Id(named.id), message, algorithm: MacAlgorithm::HmacSha256 };
    Ok(AtVersion { command, version })
}
