//! What is known of platforms whose jobs log in: their issuers, the ids that names cannot take over, and the jobs that
//! anybody may start.

use super::bound::Scalar;
use super::role::Role;
use crate::auth::jose::Claims;
use crate::error::VaultError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Preset {
    Github,
    Gitlab,
    TerraformCloud,
    /// Tokens of AWS's own issuers, one an account (outbound identity federation).
    Aws,
}

impl Preset {
    pub(super) fn parse(raw: &str) -> Result<Self, VaultError> {
        match raw {
            "github" => Ok(Self::Github),
            "gitlab" => Ok(Self::Gitlab),
            "terraform-cloud" => Ok(Self::TerraformCloud),
            "aws" => Ok(Self::Aws),
            _ => Err(VaultError::field("preset", "none of github, gitlab, terraform-cloud, aws")),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::TerraformCloud => "terraform-cloud",
            Self::Aws => "aws",
        }
    }

    /// The issuer, where all have the same one; who runs a server of their own names it.
    pub(super) fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Github => Some("https://token.actions.githubusercontent.com"),
            Self::Gitlab => Some("https://gitlab.com"),
            Self::TerraformCloud => Some("https://app.terraform.io"),
            Self::Aws => None,
        }
    }

    pub(super) fn algorithms(self) -> &'static [&'static str] {
        match self {
            Self::Github | Self::Gitlab | Self::TerraformCloud => &["RS256"],
            Self::Aws => &["RS256", "ES384"],
        }
    }

    /// The claim by which the mount knows who logs in.
    pub(super) fn user_claim(self) -> &'static str {
        match self {
            Self::Github => "repository_id",
            Self::Gitlab => "project_id",
            Self::TerraformCloud => "terraform_workspace_id",
            // the role's ARN, with its path and its account
            Self::Aws => "sub",
        }
    }

    /// Of these a role binds one, word for word: ids that nobody else can get.
    fn ids(self) -> &'static [&'static str] {
        match self {
            Self::Github => &["repository_id", "repository_owner_id"],
            Self::Gitlab => &["project_id", "namespace_id"],
            Self::TerraformCloud => &["terraform_workspace_id", "terraform_project_id", "terraform_organization_id"],
            Self::Aws => &["/https:~1~1sts.amazonaws.com~1/aws_account", "/https:~1~1sts.amazonaws.com~1/org_id"],
        }
    }

    /// What a role must bind beside it: who may plan may not therefore apply.
    fn also(self) -> Option<&'static str> {
        match self {
            Self::TerraformCloud => Some("terraform_run_phase"),
            Self::Github | Self::Gitlab | Self::Aws => None,
        }
    }

    /// Refuses a role that a name that was given up, or a look-alike, would fit.
    pub(super) fn check(self, role: &Role) -> Result<(), VaultError> {
        let exact = |name: &str| {
            let values = role.bound_claims.get(name);
            let plain = |value: &Scalar| matches!(value, Scalar::Text(text) if !text.contains('*'));
            values.is_some_and(|values| values.iter().all(plain))
        };
        if !self.ids().iter().any(|name| exact(name)) {
            let why =
                format!("the preset {} asks for one of {}, as texts without globs", self.name(), self.ids().join(", "));
            return Err(VaultError::field("bound_claims", why));
        }
        match self.also() {
            Some(name) if !exact(name) => {
                Err(VaultError::field("bound_claims", format!("the preset {} asks for {name}", self.name())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The job runs for a request to merge, whose author may be anybody.
    pub(super) fn is_pull_request(self, claims: &Claims) -> bool {
        let text = |name: &str| claims.find(name).and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::Github => {
                text("event_name").starts_with("pull_request")
                    || text("ref").starts_with("refs/pull/")
                    || text("sub").split(':').any(|part| part == "pull_request")
            }
            Self::Gitlab => {
                matches!(text("pipeline_source"), "merge_request_event" | "external_pull_request_event")
                    || text("ref_path").starts_with("refs/merge-requests/")
                    || text("sub").contains("ref_type:merge_request")
            }
            Self::TerraformCloud | Self::Aws => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_role_binds_an_id_that_nobody_else_can_get() {
        let text = |text: &str| vec![Scalar::Text(text.to_owned())];
        for (preset, claims, sound) in [
            (Preset::Github, vec![("repository_id", text("74"))], true),
            (Preset::Github, vec![("repository_owner_id", text("65"))], true),
            (Preset::Github, vec![("repository", text("acme/web"))], false),
            (Preset::Github, vec![("repository_id", text("7*"))], false),
            (Preset::Github, vec![("repository_id", vec![Scalar::Number(74.into())])], false),
            (Preset::Gitlab, vec![("project_id", text("22"))], true),
            (Preset::Gitlab, vec![("project_path", text("g/p"))], false),
            (Preset::TerraformCloud, vec![("terraform_workspace_id", text("ws-1"))], false),
            (
                Preset::TerraformCloud,
                vec![("terraform_workspace_id", text("ws-1")), ("terraform_run_phase", text("plan"))],
                true,
            ),
            (Preset::Aws, vec![("/https:~1~1sts.amazonaws.com~1/aws_account", text("123456789012"))], true),
            (Preset::Aws, vec![("sub", text("arn:aws:iam::123456789012:role/a"))], false),
        ] {
            let bound_claims: BTreeMap<_, _> =
                claims.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
            assert_eq!(preset.check(&Role { bound_claims, ..Role::default() }).is_ok(), sound, "{preset:?} {claims:?}");
        }
    }

    #[test]
    fn jobs_of_requests_to_merge_are_told_from_others() {
        for (preset, claims, is) in [
            (
                Preset::Github,
                r#"{"sub": "repo:a/b:pull_request", "event_name": "pull_request", "ref": "refs/pull/1/merge"}"#,
                true,
            ),
            (
                Preset::Github,
                r#"{"sub": "repo:a/b:environment:x", "event_name": "pull_request_target", "ref": "refs/heads/main"}"#,
                true,
            ),
            (Preset::Github, r#"{"sub": "repo:a/b:pull_request"}"#, true),
            (
                Preset::Github,
                r#"{"sub": "repo:a/pull_request:ref:refs/heads/main", "event_name": "push", "ref": "refs/heads/main"}"#,
                false,
            ),
            (
                Preset::Gitlab,
                r#"{"sub": "project_path:g/p:ref_type:branch:ref:f", "pipeline_source": "merge_request_event"}"#,
                true,
            ),
            (
                Preset::Gitlab,
                r#"{"sub": "project_path:g/p:ref_type:branch:ref:main", "pipeline_source": "push"}"#,
                false,
            ),
            (Preset::TerraformCloud, r#"{"sub": "organization:a:project:b:workspace:c:run_phase:plan"}"#, false),
        ] {
            assert_eq!(preset.is_pull_request(&Claims::parse(claims.as_bytes()).unwrap()), is, "{claims}");
        }
    }
}
