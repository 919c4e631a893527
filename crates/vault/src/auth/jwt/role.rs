//! Roles: which of an issuer's tokens log in, and what they get.

use super::bound::{self, Bound, Comparison};
use super::config;
use super::preset::Preset;
use crate::auth::jose::PLAIN_KINDS;
use crate::auth::token_fields::{self, OldNames, TokenFields};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{EntryPath, Revision};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoleType {
    /// People, by the browser.
    #[default]
    Oidc,
    /// Who has a token already.
    Jwt,
}

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) role_type: RoleType,
    pub(super) bound_audiences: Vec<String>,
    pub(super) bound_subject: String,
    pub(super) bound_claims: Bound,
    pub(super) bound_claims_type: Comparison,
    pub(super) claim_mappings: BTreeMap<String, String>,
    pub(super) user_claim: String,
    pub(super) user_claim_json_pointer: bool,
    pub(super) groups_claim: String,
    /// Seconds; below zero: none; zero: what is usual.
    pub(super) expiration_leeway: i64,
    pub(super) not_before_leeway: i64,
    pub(super) clock_skew_leeway: i64,
    pub(super) allowed_redirect_uris: Vec<String>,
    pub(super) oidc_scopes: Vec<String>,
    /// Seconds since the person showed who it is. Zero: whenever.
    pub(super) max_age: u64,
    /// Seconds since the token was issued. Zero: whenever.
    pub(super) max_token_age: u64,
    pub(super) single_use: bool,
    pub(super) token_outlives_jwt: bool,
    /// The header's `typ`. Empty: `JWT` or none.
    pub(super) bound_type: String,
    pub(super) preset: Option<Preset>,
    pub(super) allow_pull_requests: bool,
    #[serde(flatten)]
    pub(super) token: TokenFields,
}

/// Where roles stand in a mount's part of the store.
pub(super) struct Roles<'v> {
    pub(super) view: &'v View,
}

impl<'v> Roles<'v> {
    pub(super) fn new(view: &'v View) -> Self {
        Self { view }
    }

    pub(super) fn path(&self, name: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{ROLES}/{}", self.view.hash(b"jwt/role", name)?))
    }

    /// As it stands in the store.
    pub(super) async fn load(&self, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
        stored::load(self.view, &self.path(name)?).await
    }

    /// Perhaps from memory.
    pub(super) async fn kept(&self, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
        stored::recall(self.view, &self.path(name)?).await
    }
}

impl Role {
    /// How long after its end a token counts still.
    pub(super) fn leeway_after(&self) -> Duration {
        leeway(self.clock_skew_leeway, self.expiration_leeway)
    }

    pub(super) fn leeway_before(&self) -> Duration {
        leeway(self.clock_skew_leeway, self.not_before_leeway)
    }

    pub(super) fn kinds(&self) -> Vec<&str> {
        if self.bound_type.is_empty() { PLAIN_KINDS.to_vec() } else { vec![self.bound_type.as_str()] }
    }

    /// Takes what stands in the body; what does not stays.
    fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        if let Some(kind) = body.string("role_type")?.filter(|kind| !kind.is_empty()) {
            self.role_type = match kind.as_str() {
                "jwt" => RoleType::Jwt,
                "oidc" => RoleType::Oidc,
                _ => return Err(VaultError::field("role_type", "neither jwt nor oidc")),
            };
        }
        if let Some(how) = body.string("bound_claims_type")?.filter(|how| !how.is_empty()) {
            self.bound_claims_type = match how.as_str() {
                "string" => Comparison::String,
                "glob" => Comparison::Glob,
                _ => return Err(VaultError::field("bound_claims_type", "neither string nor glob")),
            };
        }
        if let Some(bound) = bound::parse(body, "bound_claims")? {
            self.bound_claims = bound;
        }
        if let Some(mappings) = body.map("claim_mappings")? {
            bound::check_mappings(&mappings)?;
            self.claim_mappings = mappings;
        }
        for (name, field) in [
            ("bound_subject", &mut self.bound_subject),
            ("user_claim", &mut self.user_claim),
            ("groups_claim", &mut self.groups_claim),
            ("bound_type", &mut self.bound_type),
        ] {
            if let Some(text) = body.string(name)? {
                text.as_str().clone_into(field);
            }
        }
        self.bound_type = self.bound_type.to_ascii_lowercase().trim_start_matches("application/").to_owned();
        for (name, field) in [
            ("bound_audiences", &mut self.bound_audiences),
            ("allowed_redirect_uris", &mut self.allowed_redirect_uris),
            ("oidc_scopes", &mut self.oidc_scopes),
        ] {
            if let Some(list) = body.list(name)? {
                *field = list;
            }
        }
        for (name, field) in [
            ("user_claim_json_pointer", &mut self.user_claim_json_pointer),
            ("single_use", &mut self.single_use),
            ("token_outlives_jwt", &mut self.token_outlives_jwt),
            ("allow_pull_requests", &mut self.allow_pull_requests),
        ] {
            if let Some(yes) = body.bool(name)? {
                *field = yes;
            }
        }
        for (name, field) in [("max_age", &mut self.max_age), ("max_token_age", &mut self.max_token_age)] {
            if body.has(name) {
                *field = body.duration(name)?.map_or(0, |age| age.as_secs());
            }
        }
        self.update_leeways(body)?;
        self.token.update(body, OLD_NAMES)
    }

    fn update_leeways(&mut self, body: &Body) -> Result<(), VaultError> {
        for (name, field) in [
            ("expiration_leeway", &mut self.expiration_leeway),
            ("not_before_leeway", &mut self.not_before_leeway),
            ("clock_skew_leeway", &mut self.clock_skew_leeway),
        ] {
            let Some(text) = body.string(name)? else { continue };
            let negative = text.starts_with('-').then_some(-1);
            let secs = match negative {
                Some(none) => none,
                None => body.duration(name)?.map_or(0, |leeway| i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX)),
            };
            if secs > LEEWAY_SECS_MAX {
                return Err(VaultError::field(name, "more than five minutes"));
            }
            *field = secs;
        }
        Ok(())
    }

    /// Refuses a role to which more may log in than its writer can mean.
    fn check(&self) -> Result<(), VaultError> {
        let missing = |name: &'static str, why: &'static str| Err(VaultError::field(name, why));
        if self.user_claim.is_empty() {
            return missing("user_claim", "missing");
        }
        if self.user_claim.starts_with('/') && !self.user_claim_json_pointer {
            return missing("user_claim_json_pointer", "must be true where user_claim is a JSON pointer");
        }
        if [&self.bound_audiences, &self.oidc_scopes, &self.allowed_redirect_uris]
            .into_iter()
            .any(|list| list.len() > LISTED_MAX || list.iter().any(String::is_empty))
        {
            return Err(VaultError::Invalid("a list with more than 100 items, or with an empty one".into()));
        }
        match self.role_type {
            RoleType::Jwt => {
                if self.bound_audiences.is_empty() {
                    return missing("bound_audiences", "a role of type jwt must bind an audience");
                }
                // who the issuer is says nothing of who logs in
                let binds =
                    self.bound_claims.keys().any(|name| !matches!(name.as_str(), "iss" | "/iss" | "aud" | "/aud"));
                if self.bound_subject.is_empty() && !binds {
                    return missing(
                        "bound_claims",
                        "a role of type jwt must bind a subject, or a claim beside iss and aud",
                    );
                }
            }
            RoleType::Oidc => {
                if self.allowed_redirect_uris.is_empty() {
                    return missing(
                        "allowed_redirect_uris",
                        "a role of type oidc must allow one (role_type=jwt is for tokens)",
                    );
                }
                if self.single_use {
                    return missing("single_use", "a browser's login counts once as it is");
                }
            }
        }
        if let Some(preset) = self.preset {
            preset.check(self)?;
        }
        self.token.check()
    }
}

fn leeway(skew: i64, own: i64) -> Duration {
    let skew = if skew == 0 { SKEW_SECS_USUAL } else { skew.max(0) };
    Duration::from_secs(u64::try_from(skew.max(own)).unwrap_or(0))
}

pub(super) async fn list(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, roles.view, ROLES, |text| Ok(Some(stored::decode::<Role>(text)?.name))).await
}

pub(super) async fn read(roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = roles.load(name).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&role)
}

pub(super) async fn write(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let preset = config::load(roles.view).await?.and_then(|(config, _)| config.shown.preset);
    let make = |old: Option<Role>| {
        let mut role = old.unwrap_or_else(|| new(name, preset));
        role.preset = preset;
        role.update(&scope.call.body)?;
        role.check()?;
        Ok(role)
    };
    stored::change(scope, roles.view, &roles.path(name)?, make).await?;
    Ok(Reply::empty())
}

fn new(name: &str, preset: Option<Preset>) -> Role {
    let name = name.to_owned();
    match preset {
        None => Role { name, ..Role::default() },
        Some(preset) => {
            let user_claim = preset.user_claim().to_owned();
            Role { name, user_claim, role_type: RoleType::Jwt, preset: Some(preset), ..Role::default() }
        }
    }
}

pub(super) async fn delete(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    stored::delete(scope, roles.view, roles.path(name)?).await
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: Some("bound_cidrs"),
};
const ROLES: &str = "r";
const LISTED_MAX: usize = 100;
const LEEWAY_SECS_MAX: i64 = 300;
/// Vault's.
const SKEW_SECS_USUAL: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use envelope::SecretBytes;

    #[test]
    fn a_role_that_lets_in_too_many_is_refused() {
        let whole = r#""role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault""#;
        for (json, sound) in [
            (format!(r#"{{{whole}, "bound_subject": "s"}}"#), true),
            (format!(r#"{{{whole}, "bound_claims": {{"a": "b"}}}}"#), true),
            (format!(r#"{{{whole}, "bound_claims": "{{\"a\": \"b\"}}"}}"#), true),
            (format!("{{{whole}}}"), false),
            (format!(r#"{{{whole}, "bound_claims": {{"iss": "i"}}}}"#), false),
            (format!(r#"{{{whole}, "bound_claims": {{"aud": "vault"}}}}"#), false),
            (r#"{"role_type": "jwt", "user_claim": "sub", "bound_subject": "s"}"#.into(), false),
            (r#"{"role_type": "jwt", "bound_audiences": "v", "bound_subject": "s"}"#.into(), false),
            (r#"{"user_claim": "sub", "bound_audiences": "v", "bound_subject": "s"}"#.into(), false),
            (r#"{"user_claim": "sub", "allowed_redirect_uris": "http://localhost:8250/oidc/callback"}"#.into(), true),
            (
                r#"{"role_type": "jwt", "user_claim": "/a/b", "bound_audiences": "v", "bound_subject": "s"}"#.into(),
                false,
            ),
            (format!(r#"{{{whole}, "bound_subject": "s", "clock_skew_leeway": "6m"}}"#), false),
            (format!(r#"{{{whole}, "bound_subject": "s", "clock_skew_leeway": -1}}"#), true),
            (format!(r#"{{{whole}, "bound_subject": "s", "claim_mappings": {{"a": "role"}}}}"#), false),
            (format!(r#"{{{whole}, "bound_subject": "s", "claim_mappings": {{"a": "x", "b": "x"}}}}"#), false),
            (format!(r#"{{{whole}, "bound_subject": "s", "bound_claims_type": "regex"}}"#), false),
            (format!(r#"{{{whole}, "bound_subject": "s", "token_policies": "root"}}"#), false),
        ] {
            let body = Body::parse(SecretBytes::copy_from(json.as_bytes())).unwrap();
            let mut role = Role::default();
            assert_eq!(role.update(&body).and_then(|()| role.check()).is_ok(), sound, "{json}");
        }
    }

    #[test]
    fn leeways_are_the_longer_of_two() {
        for (skew, own, secs) in [(0, 0, 60), (-1, 0, 0), (0, 150, 150), (0, -1, 60), (10, 0, 10), (-1, 5, 5)] {
            assert_eq!(leeway(skew, own).as_secs(), secs, "{skew} {own}");
        }
    }
}
