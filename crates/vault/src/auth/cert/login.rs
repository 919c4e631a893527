//! Logins.

use super::role::{self, Found};
use super::{ATTEMPTS_MAX, crl};
use crate::auth::proven::{Proven, let_in};
use crate::auth::x509::leaf::Leaf;
use crate::auth::x509::list::Known;
use crate::auth::x509::{self, By, check};
use crate::error::VaultError;
use crate::mount::Kind;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use identity::PeerCertificate;
use identity::token::JUDGED;
use std::collections::BTreeMap;

pub(super) async fn login(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let shown = scope.call.certificate.as_deref().filter(|shown| !shown.chain.is_empty());
    let shown = shown.ok_or_else(|| refused(x509::NOT_SHOWN))?;
    let own = shown.chain.first().ok_or_else(|| refused(x509::NOT_SHOWN))?;
    let leaf = Leaf::read(own).map_err(refused)?;
    if !leaf.for_clients {
        return Err(refused(x509::USAGE));
    }
    let named = scope.call.body.string("name")?.filter(|name| !name.is_empty());
    for _ in 0..ATTEMPTS_MAX {
        let roles = match &named {
            Some(name) => role::find(&view, name).await?.into_iter().collect(),
            None => role::all(&view).await?.ok_or_else(|| refused(NO_NAME))?,
        };
        let found = chosen(scope, &view, &roles, shown, &leaf).await?;
        if let Some(reply) = enter(scope, found, shown, &leaf).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

/// The first role, by name, whose authorities have certified this, and whose names these are.
async fn chosen<'r>(
    scope: &Scope<'_>,
    view: &View,
    roles: &'r [Found],
    shown: &PeerCertificate,
    leaf: &Leaf,
) -> Result<&'r Found, VaultError> {
    let mut lists = None;
    let mut broken = refused(ROLE_UNKNOWN);
    for found in roles {
        // what costs nothing first
        if let Some(why) = found.0.refuses(leaf) {
            broken = refused(why);
            continue;
        }
        let authorities = found.0.authorities()?;
        // lists are read for who has a path, and once
        let path = By { authorities: &authorities, lists: &[], lists_required: false };
        let certified = |by: &By<'_>| {
            let path = check(&shown.chain, by, scope.now())?;
            path.certifies_common_name(leaf).map(|()| path.link)
        };
        let mut link = match certified(&path) {
            Ok(link) => link,
            Err(why) => {
                broken = refused(why);
                continue;
            }
        };
        if lists.is_none() {
            let read: Result<Vec<_>, _> = crl::all(view).await?.into_iter().map(Known::read).collect();
            // one that cannot be read might be the one that tells
            lists = Some(read.map_err(refused)?);
        }
        let lists = lists.as_deref().unwrap_or_default();
        let by = By { lists, lists_required: found.0.crl_required, ..path };
        if !lists.is_empty() || by.lists_required {
            match certified(&by) {
                Ok(now) => link = now,
                Err(why) => {
                    broken = refused(why);
                    continue;
                }
            }
        }
        // what others are asked for comes last
        match found.0.ocsp.check(scope, &link).await {
            Ok(()) => return Ok(found),
            Err(error) => broken = error,
        }
    }
    let is_refused = matches!(broken, VaultError::LoginRefused { .. });
    Err(if is_refused && roles.len() > 1 { refused(NO_ROLE) } else { broken })
}

async fn enter(
    scope: &Scope<'_>,
    (role, path, revision): &Found,
    shown: &PeerCertificate,
    leaf: &Leaf,
) -> Result<Option<Reply>, VaultError> {
    let thumbprint = hex::encode(shown.thumbprint);
    let name = role.known_by(leaf).unwrap_or(&thumbprint);
    let display = if role.display_name.is_empty() { name } else { &role.display_name };
    let told = [
        ("cert_name", &role.name),
        ("common_name", &leaf.common_name),
        ("serial_number", &leaf.serial),
        ("subject_key_id", &leaf.key_id),
        ("authority_key_id", &leaf.authority_key_id),
    ];
    let mut meta: BTreeMap<String, String> = told.map(|(name, value)| (name.to_owned(), value.clone())).into();
    meta.insert(JUDGED.to_owned(), "true".to_owned());
    let proven = Proven {
        alias: alias(&role.name, name),
        display_name: display.clone(),
        meta,
        proof: format!("certificate sha256:{thumbprint} serial:{} role:{}", leaf.serial, role.name),
        tokens: &role.token,
        ends: Some(leaf.not_after),
        certificate: Some(shown.thumbprint),
        told: REFUSED,
    };
    let_in(scope, scope.batch()?.revision_is(path.clone(), *revision), proven).await
}

/// What a login was let in by must hold when its token asks to go on: the role is there, and takes the certificate that is
/// shown beside the token; nobody has revoked it since. Tokens of other logins are none of this.
pub(crate) async fn may_go_on(scope: &Scope<'_>) -> Result<(), VaultError> {
    let Some(token) = scope.by()?.token() else { return Ok(()) };
    let table = scope.vault.table().await?;
    let mount = table.route(&token.path).map(|(_, mount, _)| mount).filter(|mount| mount.kind == Kind::Cert);
    let Some(mount) = mount else {
        // a mount that is gone judges nobody
        return if token.meta.contains_key(JUDGED) { Err(refused(ROLE_UNKNOWN)) } else { Ok(()) };
    };
    let view = scope.vault.view(&mount.id)?;
    let shown = scope.call.certificate.as_deref().ok_or_else(|| refused(x509::NOT_SHOWN))?;
    let leaf = Leaf::read(shown.chain.first().ok_or_else(|| refused(x509::NOT_SHOWN))?).map_err(refused)?;
    let named = token.meta.get("cert_name").map(String::as_str).unwrap_or_default();
    let found = role::find(&view, named).await?.ok_or_else(|| refused(ROLE_UNKNOWN))?;
    chosen(scope, &view, std::slice::from_ref(&found), shown, &leaf).await.map(|_| ())
}

/// A name that no alias can have stands there as its hash.
fn alias(role: &str, name: &str) -> String {
    let sound = name.len() <= ALIAS_BYTES_MAX && name.trim() == name && !name.chars().any(char::is_control);
    if sound {
        format!("{role}/{name}")
    } else {
        format!("{role}/sha256:{}", hex::encode(envelope::mac::sha256(name.as_bytes())))
    }
}

pub(super) fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: REFUSED, cause }
}

/// As Vault has it.
const REFUSED: &str = "invalid certificate or no client certificate supplied";
pub(super) const ROLE_UNKNOWN: &str = "CERT_ROLE_UNKNOWN";
pub(super) const NO_ROLE: &str = "CERT_NO_ROLE_MATCHES";
pub(super) const NO_NAME: &str = "CERT_NO_NAME_OF_A_ROLE";
const ALIAS_BYTES_MAX: usize = 160;
