//! Google Cloud: instances of Compute Engine log in by an identity token of their metadata service (`gce`), service accounts
//! by a JWT that they have signed themselves (`iam`).
//!
//! Always: `gce`: the token is Google's own, by its issuer's name and keys, and its `google.compute_engine` counts for that
//! reason alone; a service account is known by its numeric id, which no other gets, whatever it is called.
//! Always: `iam`: the keys are asked for by the address that the role names, never by one that stands in the token.
//!
//! # Divergences
//! - `config` takes `sudo`, and `audience` is compulsory there: tokens are for `AUDIENCE/ROLE`. For Vault's own clients it is
//!   `http://vault` (gce) or `vault` (iam). Credentials of Google's are not kept: Google's APIs are not asked.
//! - No `bound_labels`, no `bound_instance_groups`: no token tells them. Beyond Vault: `bound_instance_ids`.
//! - A token of ours ends with the one that was shown, but where the role says `token_outlives_jwt`.
//! - A `gce` role that names an account by its address keeps the numeric id under which that logs in first: what was deleted and
//!   made again is another. The id stays for as long as the role names the address, however often it is written: to let in what
//!   was made again, write the role with `forget_pins=true`, which forgets all of them. An `iam` role cannot: what an account signs tells no id, and the keys are those of whoever has the
//!   address now. Its entity and its bounds are the address's.
//! - An entity is known by the service account's numeric id (gce) or address (iam), not by the role of this mount.

use super::cloud::{By, Cloud, Login, Who, list, plain, text, unserved};
use super::jose::{Claims, Source};
use super::token_fields::{OldNames, TokenFields};
use crate::body::Body;
use crate::error::VaultError;
use crate::outside::is_sound_url;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub struct Gcp;

/// As stored; the names are the API's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    audience: String,
    issuer: String,
    jwks_url: String,
    /// With a service account's address behind it: that account's keys.
    service_account_jwks_url: String,
    jwks_ca_pem: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            audience: String::new(),
            issuer: "https://accounts.google.com".to_owned(),
            jwks_url: "https://www.googleapis.com/oauth2/v3/certs".to_owned(),
            service_account_jwks_url: "https://www.googleapis.com/service_accounts/v1/jwk/".to_owned(),
            jwks_ca_pem: String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleType {
    #[default]
    Unset,
    Gce,
    Iam,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Role {
    r#type: RoleType,
    /// Addresses, or numeric ids.
    bound_service_accounts: Vec<String>,
    bound_projects: Vec<String>,
    bound_zones: Vec<String>,
    bound_regions: Vec<String>,
    bound_instance_ids: Vec<String>,
    /// Of `gce`, by its address: the numeric id under which an account logged in first.
    pinned_account_ids: BTreeMap<String, String>,
    /// Seconds; zero: what is usual.
    max_jwt_exp: u64,
    token_outlives_jwt: bool,
    #[serde(flatten)]
    token: TokenFields,
}

#[async_trait::async_trait]
impl Cloud for Gcp {
    type Config = Config;
    type Role = Role;
    const TOLD: &'static str = "invalid GCP login";
    const UNCONFIGURED: &'static str = UNCONFIGURED;
    const ROLE_UNKNOWN: &'static str = ROLE_UNKNOWN;
    const UNUSED: &'static [&'static str] =
        &["credentials", "iam_alias", "gce_alias", "iam_metadata", "gce_metadata", "custom_endpoint"];

    fn configure(config: &mut Config, body: &Body) -> Result<(), VaultError> {
        text(body, "audience", &mut config.audience)?;
        text(body, "issuer", &mut config.issuer)?;
        text(body, "jwks_url", &mut config.jwks_url)?;
        text(body, "service_account_jwks_url", &mut config.service_account_jwks_url)?;
        text(body, "jwks_ca_pem", &mut config.jwks_ca_pem)?;
        let audience = &config.audience;
        if !(4..=256).contains(&audience.len())
            || !audience.bytes().all(|byte| byte.is_ascii_graphic())
            || audience.ends_with('/')
        {
            return Err(VaultError::field(
                "audience",
                "4 to 256 visible characters without a slash at the end: this server's name. It is compulsory here",
            ));
        }
        if config.issuer.is_empty() {
            return Err(VaultError::field("issuer", "empty"));
        }
        for (name, url) in
            [("jwks_url", &config.jwks_url), ("service_account_jwks_url", &config.service_account_jwks_url)]
        {
            if !is_sound_url(url) {
                return Err(VaultError::field(name, "no https URL without a user, a query or a fragment"));
            }
        }
        Ok(())
    }

    fn update(role: &mut Role, body: &Body) -> Result<(), VaultError> {
        unserved(body, &["bound_labels", "bound_instance_groups", "bound_instance_group", "allow_gce_inference"])?;
        if let Some(kind) = body.string("type")? {
            let kind = match kind.as_str() {
                "gce" => RoleType::Gce,
                "iam" => RoleType::Iam,
                _ => return Err(VaultError::field("type", "neither gce nor iam")),
            };
            if role.r#type != RoleType::Unset && role.r#type != kind {
                return Err(VaultError::field("type", "a role keeps its type"));
            }
            role.r#type = kind;
        }
        list(body, "bound_service_accounts", &mut role.bound_service_accounts, plain)?;
        let forget = body.bool("forget_pins")?.unwrap_or(false);
        role.pinned_account_ids.retain(|address, _| !forget && role.bound_service_accounts.contains(address));
        list(body, "bound_projects", &mut role.bound_projects, plain)?;
        list(body, "bound_zones", &mut role.bound_zones, plain)?;
        list(body, "bound_regions", &mut role.bound_regions, plain)?;
        list(body, "bound_instance_ids", &mut role.bound_instance_ids, |raw| {
            raw.bytes().all(|byte| byte.is_ascii_digit()).then(|| plain(raw))?
        })?;
        if body.has("max_jwt_exp") {
            role.max_jwt_exp = body.duration("max_jwt_exp")?.map_or(0, |most| most.as_secs());
        }
        role.token_outlives_jwt = body.bool("token_outlives_jwt")?.unwrap_or(role.token_outlives_jwt);
        role.token.update(body, OLD_NAMES)?;
        role.check()
    }

    fn tokens(role: &Role) -> &TokenFields {
        &role.token
    }

    async fn recognise(at: &Login<'_>, config: &Config, role: &Role) -> Result<Who, VaultError> {
        match role.r#type {
            RoleType::Gce => instance(at, config, role).await,
            RoleType::Iam => service_account(at, config, role).await,
            RoleType::Unset => Err(at.refused(ROLE_UNKNOWN)),
        }
    }

    fn pinned(role: &Role, who: &Who) -> Result<Option<Role>, &'static str> {
        let address = who.meta.get("service_account_email").filter(|name| role.bound_service_accounts.contains(name));
        let by_address = role.r#type == RoleType::Gce && !role.bound_service_accounts.contains(&who.alias);
        let Some(address) = address.filter(|_| by_address) else { return Ok(None) };
        match role.pinned_account_ids.get(address) {
            Some(known) if *known == who.alias => Ok(None),
            Some(_) => Err(ACCOUNT_MADE_AGAIN),
            None => {
                let mut role = role.clone();
                role.pinned_account_ids.insert(address.clone(), who.alias.clone());
                Ok(Some(role))
            }
        }
    }
}

impl Role {
    fn check(&self) -> Result<(), VaultError> {
        let of_instances = [&self.bound_projects, &self.bound_zones, &self.bound_regions, &self.bound_instance_ids];
        match self.r#type {
            RoleType::Unset => Err(VaultError::field("type", "missing: gce or iam")),
            RoleType::Gce
                if self.bound_service_accounts.is_empty()
                    && self.bound_projects.is_empty()
                    && self.bound_instance_ids.is_empty() =>
            {
                Err(VaultError::field(
                    "bound_service_accounts",
                    "it, bound_projects or bound_instance_ids must name somebody",
                ))
            }
            RoleType::Iam
                if self.bound_service_accounts.is_empty()
                    || !self.bound_service_accounts.iter().all(|name| name.contains('@')) =>
            {
                Err(VaultError::field("bound_service_accounts", "addresses of service accounts, each by name"))
            }
            RoleType::Iam if of_instances.into_iter().any(|bound| !bound.is_empty()) => Err(VaultError::field(
                "bound_projects",
                "a token that is signed by an account tells of no project, zone or instance",
            )),
            RoleType::Iam if self.max_jwt_exp > JWT_EXP_MAX.as_secs() => {
                Err(VaultError::field("max_jwt_exp", "more than fifteen minutes"))
            }
            RoleType::Gce | RoleType::Iam => Ok(()),
        }
    }
}

async fn instance(at: &Login<'_>, config: &Config, role: &Role) -> Result<Who, VaultError> {
    let source = Source::Url { url: config.jwks_url.clone(), ca: ca(config) };
    let by = By { source: &source, age_max: Some(GCE_AGE_MAX), too_old: TOO_OLD };
    let audience = format!("{}/{}", config.audience, at.role);
    let verified = at.verified(&by, (&audience, AUDIENCE_OTHER)).await?;
    let claims = &verified.claims;
    if claims.issuer() != Some(&config.issuer) {
        return Err(at.refused(ISSUER_OTHER));
    }
    let Some(id) = claims.subject().filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())) else {
        return Err(at.refused(SUBJECT_OTHER));
    };
    let told = |name: &str| claims.text(&format!("/google/compute_engine/{name}"));
    let (Some(project), Some(zone), Some(instance)) = (told("project_id"), told("zone"), told("instance_id")) else {
        return Err(at.refused(INSTANCE_MISSING));
    };
    let email = claims.text("email").filter(|_| claims.find("email_verified") == Some(&serde_json::Value::Bool(true)));
    let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
    let has = |bound: &[String], value: &str| bound.is_empty() || bound.iter().any(|bound| bound == value);
    let account =
        has(&role.bound_service_accounts, id) || email.is_some_and(|email| has(&role.bound_service_accounts, email));
    for (holds, cause) in [
        (account, SERVICE_ACCOUNT_OTHER),
        (has(&role.bound_projects, project), PROJECT_OTHER),
        (has(&role.bound_zones, zone), ZONE_OTHER),
        (has(&role.bound_regions, region), ZONE_OTHER),
        (has(&role.bound_instance_ids, instance), INSTANCE_OTHER),
    ] {
        if !holds {
            return Err(at.refused(cause));
        }
    }
    let meta = [
        ("service_account_id", id),
        ("service_account_email", email.unwrap_or_default()),
        ("project_id", project),
        ("zone", zone),
        ("instance_id", instance),
        ("instance_name", told("instance_name").unwrap_or_default()),
    ];
    Ok(Who {
        alias: id.to_owned(),
        display_name: email.unwrap_or(id).to_owned(),
        meta: owned(&meta),
        proof: format!("gcp gce sub={id} project={project} instance={instance} kid={}", key(&verified.key_id)),
        ends: (!role.token_outlives_jwt).then_some(verified.expires),
    })
}

async fn service_account(at: &Login<'_>, config: &Config, role: &Role) -> Result<Who, VaultError> {
    // which of those that the role names: nothing more is taken from what is not verified yet
    let said = unverified_subject(at.token);
    let known = role.bound_service_accounts.iter().find(|bound| Some(bound.as_str()) == said.as_deref());
    let email = known.ok_or_else(|| at.refused(SERVICE_ACCOUNT_OTHER))?;
    let url = format!("{}/{email}", config.service_account_jwks_url.trim_end_matches('/'));
    let source = Source::Url { url, ca: ca(config) };
    let by = By { source: &source, age_max: None, too_old: TOO_OLD };
    let audience = format!("{}/{}", config.audience, at.role);
    let verified = at.verified(&by, (&audience, AUDIENCE_OTHER)).await?;
    let most = if role.max_jwt_exp == 0 { JWT_EXP_MAX } else { Duration::from_secs(role.max_jwt_exp) };
    if verified.expires > at.scope.now().plus(most) {
        return Err(at.refused(TOO_LONG));
    }
    if verified.claims.subject() != Some(email) || verified.claims.issuer().is_some_and(|issuer| issuer != email) {
        return Err(at.refused(SUBJECT_OTHER));
    }
    Ok(Who {
        alias: email.clone(),
        display_name: email.clone(),
        meta: owned(&[("service_account_email", email)]),
        proof: format!("gcp iam sub={email} kid={}", key(&verified.key_id)),
        ends: (!role.token_outlives_jwt).then_some(verified.expires),
    })
}

fn unverified_subject(token: &str) -> Option<String> {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Claims::parse(&payload)?.subject().map(str::to_owned)
}

fn ca(config: &Config) -> Option<String> {
    Some(config.jwks_ca_pem.clone()).filter(|ca| !ca.is_empty())
}

fn key(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or_default()
}

fn owned(meta: &[(&str, &str)]) -> BTreeMap<String, String> {
    meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: None,
};
const GCE_AGE_MAX: Duration = Duration::from_secs(3600);
/// Google lets accounts sign for longer.
const JWT_EXP_MAX: Duration = Duration::from_secs(15 * 60);

/// Each cause, and what it means to an operator. Those of the token itself begin with `JWT_`.
pub const CAUSES: &[(&str, &str)] = &[
    (UNCONFIGURED, "The mount has no configuration: write `audience`, this server's name, to its config."),
    (ROLE_UNKNOWN, "There is no such role at this mount."),
    (
        AUDIENCE_OTHER,
        "The token is not for the mount's `audience`, a slash and the role, and for nothing else: it was made for another server or role.",
    ),
    (ISSUER_OTHER, "The token's issuer is not the mount's `issuer`: it is no token of Google's metadata service."),
    (SUBJECT_OTHER, "The token's subject is not the account by whose keys it was verified, or no numeric id."),
    (TOO_OLD, "The token has no `iat`, or is older than an hour."),
    (
        TOO_LONG,
        "The token lives longer than the role's `max_jwt_exp`, fifteen minutes at most: sign one for a shorter time.",
    ),
    (INSTANCE_MISSING, "The token tells of no instance: ask the metadata service with format=full."),
    (
        ACCOUNT_MADE_AGAIN,
        "A service account of this address logged in before under another numeric id: it was deleted and made again. If that is as it should be, write the role with `forget_pins=true`.",
    ),
    (SERVICE_ACCOUNT_OTHER, "The role is not bound to this service account."),
    (PROJECT_OTHER, "The instance is in none of the role's `bound_projects`."),
    (ZONE_OTHER, "The instance is in none of the role's `bound_zones` or `bound_regions`."),
    (
        INSTANCE_OTHER,
        "The instance is none of the role's `bound_instance_ids`: it may have been made again under its name.",
    ),
];
const UNCONFIGURED: &str = "GCP_UNCONFIGURED";
const ROLE_UNKNOWN: &str = "GCP_ROLE_UNKNOWN";
const AUDIENCE_OTHER: &str = "GCP_AUDIENCE_OTHER";
const ISSUER_OTHER: &str = "GCP_ISSUER_OTHER";
const SUBJECT_OTHER: &str = "GCP_SUBJECT_OTHER";
const TOO_OLD: &str = "GCP_TOO_OLD";
const TOO_LONG: &str = "GCP_TOO_LONG";
const INSTANCE_MISSING: &str = "GCP_INSTANCE_MISSING";
const ACCOUNT_MADE_AGAIN: &str = "GCP_SERVICE_ACCOUNT_MADE_AGAIN";
const SERVICE_ACCOUNT_OTHER: &str = "GCP_SERVICE_ACCOUNT_OTHER";
const PROJECT_OTHER: &str = "GCP_PROJECT_OTHER";
const ZONE_OTHER: &str = "GCP_ZONE_OTHER";
const INSTANCE_OTHER: &str = "GCP_INSTANCE_OTHER";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_made_again_under_its_address_is_another_one() {
        const ADDRESS: &str = "web@project-1.iam.gserviceaccount.com";
        let who = |id: &str, address: &str| Who {
            alias: id.to_owned(),
            display_name: String::new(),
            meta: owned(&[("service_account_email", address)]),
            proof: String::new(),
            ends: None,
        };
        let role = |r#type, bound: &[&str]| Role {
            r#type,
            bound_service_accounts: bound.iter().map(|name| (*name).to_owned()).collect(),
            ..Role::default()
        };
        let by_address = role(RoleType::Gce, &[ADDRESS, "other@project-1"]);
        let pinned = Gcp::pinned(&by_address, &who("1", ADDRESS)).unwrap().expect("the first is kept");
        for (id, address, known) in [
            ("1", ADDRESS, Ok(false)),
            ("2", ADDRESS, Err(ACCOUNT_MADE_AGAIN)),
            ("2", "other@project-1", Ok(true)),
            ("2", "", Ok(false)),
        ] {
            assert_eq!(Gcp::pinned(&pinned, &who(id, address)).map(|role| role.is_some()), known, "{id} {address}");
        }
        // by its id, by no account at all, by its own signature
        for role in [role(RoleType::Gce, &[ADDRESS, "2"]), role(RoleType::Gce, &[]), role(RoleType::Iam, &[ADDRESS])] {
            assert!(Gcp::pinned(&role, &who("2", ADDRESS)).unwrap().is_none(), "{role:?}");
        }
        // written again it keeps whom it names still, unless it is told to forget
        for (body, stays) in [
            (serde_json::json!({"bound_service_accounts": [ADDRESS, "other@project-1"]}), true),
            (serde_json::json!({"token_ttl": 60, "forget_pins": false}), true),
            (serde_json::json!({"bound_service_accounts": ["new@project-1", ADDRESS]}), true),
            (serde_json::json!({"bound_service_accounts": "other@project-1"}), false),
            (serde_json::json!({"bound_service_accounts": [ADDRESS], "forget_pins": true}), false),
            (serde_json::json!({"forget_pins": true}), false),
        ] {
            let (mut role, text) = (pinned.clone(), envelope::SecretBytes::copy_from(body.to_string().as_bytes()));
            Gcp::update(&mut role, &Body::parse(text).unwrap()).unwrap();
            assert_eq!(!role.pinned_account_ids.is_empty(), stays, "{body}");
        }
    }
}
