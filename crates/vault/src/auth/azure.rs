//! Azure: managed identities log in by an access token that their metadata service gives for this server's resource.
//!
//! Always: tenant, issuer and keys are the configuration's; the identity is known by its object id, which no other gets.
//! Always: where it runs is read in the token (`xms_az_rid`, `xms_mirid`), which Microsoft signed. What has no `xms_mirid`
//! is no managed identity: a person, or an application with a secret.
//! Never: subscription, group, machine or scale set as the caller names them beside the token, as Vault's clients do.
//!
//! Managed identities' tokens live up to a day, and the metadata service hands the same one out again and again: how old one
//! may be is the role's `max_age`; a token of ours ends with it.
//!
//! # Divergences
//! - `config` takes `sudo`; `tenant_id` and `resource` are compulsory. No credentials: Azure's APIs are not asked.
//! - No `bound_locations`, `bound_group_ids`, `bound_scale_sets`: name resource ids (`bound_resource_ids`, with `*` at the end).
//! - A user-assigned identity whose token has no `xms_az_rid` is let in by its object id alone.
//! - A token of ours ends with the one that was shown, but where the role says `token_outlives_jwt`.

use super::cloud::{By, Cloud, Login, Who, list, plain, text, unserved};
use super::jose::Source;
use super::token_fields::{OldNames, TokenFields};
use crate::body::Body;
use crate::error::VaultError;
use crate::outside::is_sound_url;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug)]
pub struct Azure;

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    tenant_id: String,
    resource: String,
    environment: Environment,
    /// Empty: the environment's own, for the tenant.
    jwks_url: String,
    jwks_ca_pem: String,
}

/// Which of Microsoft's clouds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Environment {
    #[default]
    #[serde(rename = "AzurePublicCloud")]
    Public,
    #[serde(rename = "AzureUSGovernmentCloud")]
    UsGovernment,
    #[serde(rename = "AzureChinaCloud")]
    China,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Role {
    /// Object ids.
    bound_service_principal_ids: Vec<String>,
    bound_subscription_ids: Vec<String>,
    bound_resource_groups: Vec<String>,
    /// Of the machine, or of the identity; in lower case, as Azure compares them.
    bound_resource_ids: Vec<String>,
    /// Seconds; zero: what is usual.
    max_age: u64,
    token_outlives_jwt: bool,
    #[serde(flatten)]
    token: TokenFields,
}

#[async_trait::async_trait]
impl Cloud for Azure {
    type Config = Config;
    type Role = Role;
    const TOLD: &'static str = "invalid Azure login";
    const UNCONFIGURED: &'static str = UNCONFIGURED;
    const ROLE_UNKNOWN: &'static str = ROLE_UNKNOWN;
    const UNUSED: &'static [&'static str] =
        &["client_id", "client_secret", "identity_token_audience", "root_password_ttl"];

    fn configure(config: &mut Config, body: &Body) -> Result<(), VaultError> {
        text(body, "tenant_id", &mut config.tenant_id)?;
        text(body, "resource", &mut config.resource)?;
        text(body, "jwks_url", &mut config.jwks_url)?;
        text(body, "jwks_ca_pem", &mut config.jwks_ca_pem)?;
        if let Some(name) = body.string("environment")?.filter(|name| !name.is_empty()) {
            config.environment = match name.as_str() {
                "AzurePublicCloud" => Environment::Public,
                "AzureUSGovernmentCloud" => Environment::UsGovernment,
                "AzureChinaCloud" => Environment::China,
                _ => return Err(VaultError::field("environment", "none of Azure's clouds that are known here")),
            };
        }
        config.tenant_id = guid(&config.tenant_id).ok_or_else(|| VaultError::field("tenant_id", "no GUID"))?;
        let resource = &config.resource;
        if !(4..=256).contains(&resource.len()) || !resource.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(VaultError::field(
                "resource",
                "4 to 256 visible characters: what stands for this server at Azure",
            ));
        }
        if !config.jwks_url.is_empty() && !is_sound_url(&config.jwks_url) {
            return Err(VaultError::field("jwks_url", "no https URL without a user, a query or a fragment"));
        }
        Ok(())
    }

    fn update(role: &mut Role, body: &Body) -> Result<(), VaultError> {
        unserved(body, &["bound_locations", "bound_group_ids", "bound_scale_sets"])?;
        list(body, "bound_service_principal_ids", &mut role.bound_service_principal_ids, guid)?;
        list(body, "bound_subscription_ids", &mut role.bound_subscription_ids, guid)?;
        list(body, "bound_resource_groups", &mut role.bound_resource_groups, |raw| {
            Some(plain(raw)?.to_ascii_lowercase())
        })?;
        list(body, "bound_resource_ids", &mut role.bound_resource_ids, resource_pattern)?;
        if body.has("max_age") {
            role.max_age = body.duration("max_age")?.map_or(0, |most| most.as_secs());
        }
        role.token_outlives_jwt = body.bool("token_outlives_jwt")?.unwrap_or(role.token_outlives_jwt);
        role.token.update(body, OLD_NAMES)?;
        let Role { bound_service_principal_ids, bound_subscription_ids, bound_resource_ids, .. } = role;
        if bound_service_principal_ids.is_empty() && bound_subscription_ids.is_empty() && bound_resource_ids.is_empty()
        {
            let why = "it, bound_subscription_ids or bound_resource_ids must name somebody";
            return Err(VaultError::field("bound_service_principal_ids", why));
        }
        Ok(())
    }

    fn tokens(role: &Role) -> &TokenFields {
        &role.token
    }

    async fn recognise(at: &Login<'_>, config: &Config, role: &Role) -> Result<Who, VaultError> {
        let ca = Some(config.jwks_ca_pem.clone()).filter(|ca| !ca.is_empty());
        let source = Source::Url { url: config.jwks_url(), ca };
        let age = if role.max_age == 0 { AGE_USUAL } else { Duration::from_secs(role.max_age) };
        let by = By { source: &source, age_max: Some(age), too_old: TOO_OLD };
        let verified = at.verified(&by, (&config.resource, AUDIENCE_OTHER)).await?;
        let claims = &verified.claims;
        let tenant = claims.text("tid").unwrap_or_default().to_ascii_lowercase();
        if tenant != config.tenant_id {
            return Err(at.refused(TENANT_OTHER));
        }
        if !claims.issuer().is_some_and(|issuer| config.issuers().iter().any(|known| known == issuer)) {
            return Err(at.refused(ISSUER_OTHER));
        }
        let Some(object) = claims.text("oid").and_then(guid) else { return Err(at.refused(OBJECT_OTHER)) };
        let identity =
            claims.text("xms_mirid").and_then(Resource::parse).ok_or_else(|| at.refused(IDENTITY_MISSING))?;
        if claims.text("idtyp").is_some_and(|kind| kind != "app") {
            return Err(at.refused(IDENTITY_MISSING));
        }
        // where it runs; where that is not told apart, a machine's own identity is the machine
        let runs = match claims.find("xms_az_rid") {
            None => Some(identity.clone()).filter(Resource::is_place),
            Some(rid) => Some(rid.as_str().and_then(Resource::parse).ok_or_else(|| at.refused(RESOURCE_OTHER))?),
        };
        role.admit(&object, &identity, runs.as_ref()).map_err(|cause| at.refused(cause))?;
        let place = |part: fn(&Resource) -> &str| runs.as_ref().map_or("", part);
        let rid = place(|runs| &runs.id);
        let meta = [
            ("object_id", object.as_str()),
            ("tenant_id", tenant.as_str()),
            ("subscription_id", place(|runs| &runs.subscription)),
            ("resource_group_name", place(|runs| &runs.group)),
            ("resource_id", rid),
            ("identity_id", identity.id.as_str()),
        ];
        let kid = verified.key_id.as_deref().unwrap_or_default();
        Ok(Who {
            alias: object.clone(),
            display_name: object.clone(),
            meta: meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            proof: format!("azure tid={tenant} oid={object} rid={rid} kid={kid}"),
            ends: (!role.token_outlives_jwt).then_some(verified.expires),
        })
    }
}

impl Config {
    fn login_host(&self) -> &'static str {
        match self.environment {
            Environment::Public => "login.microsoftonline.com",
            Environment::UsGovernment => "login.microsoftonline.us",
            Environment::China => "login.chinacloudapi.cn",
        }
    }

    fn jwks_url(&self) -> String {
        match self.jwks_url.as_str() {
            "" => format!("https://{}/{}/discovery/keys", self.login_host(), self.tenant_id),
            url => url.to_owned(),
        }
    }

    /// Of tokens of version 1 and 2.
    fn issuers(&self) -> [String; 2] {
        let sts = match self.environment {
            Environment::Public | Environment::UsGovernment => "sts.windows.net",
            Environment::China => "sts.chinacloudapi.cn",
        };
        let tenant = &self.tenant_id;
        [format!("https://{sts}/{tenant}/"), format!("https://{}/{tenant}/v2.0", self.login_host())]
    }
}

impl Role {
    /// All that is bound must hold; of a place that is not told, nothing that is bound to places does.
    fn admit(&self, object: &str, identity: &Resource, runs: Option<&Resource>) -> Result<(), &'static str> {
        let places = [&self.bound_subscription_ids, &self.bound_resource_groups, &self.bound_resource_ids];
        let Some(runs) = runs else {
            let known = self.bound_service_principal_ids.iter().any(|bound| bound == object);
            return match (known, places.into_iter().all(Vec::is_empty)) {
                (true, true) => Ok(()),
                (false, true) => Err(OBJECT_OTHER),
                (_, false) => Err(PLACE_MISSING),
            };
        };
        let has = |bound: &[String], value: &str| bound.is_empty() || bound.iter().any(|bound| bound == value);
        let fits = |pattern: &String, id: &str| match pattern.strip_suffix('*') {
            Some(prefix) => id.starts_with(prefix),
            None => id == pattern,
        };
        let resource = self.bound_resource_ids.is_empty()
            || self.bound_resource_ids.iter().any(|pattern| fits(pattern, &runs.id) || fits(pattern, &identity.id));
        for (holds, cause) in [
            (has(&self.bound_service_principal_ids, object), OBJECT_OTHER),
            (has(&self.bound_subscription_ids, &runs.subscription), SUBSCRIPTION_OTHER),
            (has(&self.bound_resource_groups, &runs.group), GROUP_OTHER),
            (resource, RESOURCE_OTHER),
        ] {
            if !holds {
                return Err(cause);
            }
        }
        Ok(())
    }
}

/// `/subscriptions/GUID/resourcegroups/NAME/providers/…`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    id: String,
    subscription: String,
    group: String,
}

impl Resource {
    fn parse(raw: &str) -> Option<Self> {
        let id = raw.to_ascii_lowercase();
        if !is_resource_id(&id) {
            return None;
        }
        let segments: Vec<&str> = id.split('/').collect();
        let ["", "subscriptions", subscription, "resourcegroups", group, "providers", _, _, ..] = segments.as_slice()
        else {
            return None;
        };
        let (subscription, group) = (guid(subscription)?, (*group).to_owned());
        Some(Self { id, subscription, group })
    }

    /// Something runs there. An identity that is made by itself runs nowhere: it is lent to machines, of any group.
    fn is_place(&self) -> bool {
        !self.id.contains("/providers/microsoft.managedidentity/userassignedidentities/")
    }
}

fn is_resource_id(id: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'(' | b')');
    id.len() <= 1024
        && id.bytes().all(legal)
        && id.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
}

/// A whole id, or the beginning of one at least down to its group, with `*` behind a slash.
fn resource_pattern(raw: &str) -> Option<String> {
    let pattern = raw.to_ascii_lowercase();
    match pattern.strip_suffix("/*") {
        None => Resource::parse(&pattern).map(|found| found.id),
        Some(prefix) => {
            let segments: Vec<&str> = prefix.split('/').collect();
            let sound = matches!(segments.as_slice(), ["", "subscriptions", _, "resourcegroups", _, ..]);
            (sound && is_resource_id(prefix)).then_some(pattern)
        }
    }
}

/// In lower case.
fn guid(raw: &str) -> Option<String> {
    let lengths: Vec<usize> = raw.split('-').map(str::len).collect();
    let digits = raw.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (lengths == [8, 4, 4, 4, 12] && digits).then(|| raw.to_ascii_lowercase())
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: None,
};
/// The metadata service hands one token out for as long.
const AGE_USUAL: Duration = Duration::from_secs(24 * 3600);

/// Each cause, and what it means to an operator. Those of the token itself begin with `JWT_`.
pub const CAUSES: &[(&str, &str)] = &[
    (UNCONFIGURED, "The mount has no configuration: write `tenant_id` and `resource` to its config."),
    (ROLE_UNKNOWN, "There is no such role at this mount."),
    (
        AUDIENCE_OTHER,
        "The token is not for the mount's `resource`, and for nothing else: the client asked for another one.",
    ),
    (ISSUER_OTHER, "The token's issuer is not the tenant's, at the mount's environment."),
    (TENANT_OTHER, "The token is another tenant's."),
    (TOO_OLD, "The token has no `iat`, or is older than the role's `max_age`."),
    (
        OBJECT_OTHER,
        "The identity is none of the role's `bound_service_principal_ids`: another one, or deleted and made again.",
    ),
    (IDENTITY_MISSING, "The token is no managed identity's: it has no `xms_mirid`, or is a person's."),
    (SUBSCRIPTION_OTHER, "What runs is in none of the role's `bound_subscription_ids`."),
    (GROUP_OTHER, "What runs is in none of the role's `bound_resource_groups`."),
    (
        PLACE_MISSING,
        "The token is a user-assigned identity's and does not tell where it runs (no `xms_az_rid`): bind `bound_service_principal_ids` alone.",
    ),
    (RESOURCE_OTHER, "Neither machine nor identity is one of the role's `bound_resource_ids`."),
];
const UNCONFIGURED: &str = "AZURE_UNCONFIGURED";
const ROLE_UNKNOWN: &str = "AZURE_ROLE_UNKNOWN";
const AUDIENCE_OTHER: &str = "AZURE_AUDIENCE_OTHER";
const ISSUER_OTHER: &str = "AZURE_ISSUER_OTHER";
const TENANT_OTHER: &str = "AZURE_TENANT_OTHER";
const TOO_OLD: &str = "AZURE_TOO_OLD";
const OBJECT_OTHER: &str = "AZURE_OBJECT_OTHER";
const IDENTITY_MISSING: &str = "AZURE_IDENTITY_MISSING";
const SUBSCRIPTION_OTHER: &str = "AZURE_SUBSCRIPTION_OTHER";
const PLACE_MISSING: &str = "AZURE_PLACE_MISSING";
const GROUP_OTHER: &str = "AZURE_GROUP_OTHER";
const RESOURCE_OTHER: &str = "AZURE_RESOURCE_OTHER";

#[cfg(test)]
mod tests {
    use super::*;

    const SUB: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn an_identity_that_does_not_tell_where_it_runs_is_known_by_its_object_id_alone() {
        const OBJECT: &str = "cccccccc-0000-1111-2222-dddddddddddd";
        let of = |what: &str| {
            Resource::parse(&format!("/subscriptions/{SUB}/resourceGroups/Prod/providers/Microsoft.{what}")).unwrap()
        };
        let machine = of("Compute/virtualMachines/web");
        let lent = of("ManagedIdentity/userAssignedIdentities/web");
        assert!(machine.is_place() && !lent.is_place());
        let role = |objects: &[&str], subscriptions: &[&str], groups: &[&str], resources: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            Role {
                bound_service_principal_ids: owned(objects),
                bound_subscription_ids: owned(subscriptions),
                bound_resource_groups: owned(groups),
                bound_resource_ids: owned(resources),
                ..Role::default()
            }
        };
        let prod = format!("/subscriptions/{SUB}/resourcegroups/prod/*");
        for (role, nowhere) in [
            (role(&[OBJECT], &[], &[], &[]), Ok(())),
            (role(&[OBJECT], &[SUB], &[], &[]), Err(PLACE_MISSING)),
            (role(&[OBJECT], &[], &["prod"], &[]), Err(PLACE_MISSING)),
            (role(&[], &[SUB], &[], &[]), Err(PLACE_MISSING)),
            (role(&[], &[], &[], &[&prod]), Err(PLACE_MISSING)),
            (role(&[], &[], &[], &[&lent.id]), Err(PLACE_MISSING)),
        ] {
            assert_eq!(role.admit(OBJECT, &lent, Some(&machine)), Ok(()), "{role:?}");
            assert_eq!(role.admit(OBJECT, &lent, None), nowhere, "{role:?}");
        }
        assert_eq!(role(&[SUB], &[], &[], &[]).admit(OBJECT, &lent, None), Err(OBJECT_OTHER));
    }

    #[test]
    fn a_resource_is_read_whole_or_not_at_all() {
        let vm = format!("/subscriptions/{SUB}/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/web");
        let read = Resource::parse(&vm).unwrap();
        assert_eq!((read.subscription.as_str(), read.group.as_str()), (SUB, "prod"));
        for raw in [
            "",
            "/",
            "web",
            &vm[1..],
            &vm.replace("Prod", ".."),
            &vm.replace("Prod", ""),
            &vm.replace("/providers/Microsoft.Compute/virtualMachines/web", ""),
            &vm.replace(SUB, "x"),
            &vm.replace("web", "w b"),
            &format!("/x{vm}"),
        ] {
            assert_eq!(Resource::parse(raw), None, "{raw}");
        }
        for (pattern, sound) in [
            (vm.clone(), true),
            (format!("/subscriptions/{SUB}/resourceGroups/prod/*"), true),
            (format!("/subscriptions/{SUB}/*"), false),
            ("*".to_owned(), false),
            (format!("{vm}*"), false),
        ] {
            assert_eq!(resource_pattern(&pattern).is_some(), sound, "{pattern}");
        }
    }
}
