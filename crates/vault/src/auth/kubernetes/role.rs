//! Roles: which service accounts get which tokens.

use super::cause;
use super::selector::Selector;
use super::token::Account;
use crate::auth::token_fields::{self, OldNames, TokenFields};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use storage::{EntryPath, Revision};

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) audience: String,
    bound_service_account_names: Vec<String>,
    bound_service_account_namespaces: Vec<String>,
    bound_service_account_namespace_selector: Option<Selector>,
    bound_pod_names: Vec<String>,
    bound_node_names: Vec<String>,
    require_pod: bool,
    pub(super) alias_name_source: AliasSource,
    pub(super) token_ends_with_proof: bool,
    pub(super) token: TokenFields,
}

/// By what an entity is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AliasSource {
    #[default]
    ServiceaccountUid,
    /// Whoever makes an account of that name anew is the same entity.
    ServiceaccountName,
}

#[derive(Serialize)]
struct Shown<'a> {
    audience: &'a str,
    bound_service_account_names: &'a [String],
    bound_service_account_namespaces: &'a [String],
    bound_service_account_namespace_selector: String,
    bound_pod_names: &'a [String],
    bound_node_names: &'a [String],
    require_pod: bool,
    alias_name_source: AliasSource,
    token_ends_with_proof: bool,
    #[serde(flatten)]
    token: &'a TokenFields,
}

/// What is still to be known of an account.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted<'r> {
    Yes,
    /// Where the labels of its namespace are as this asks.
    IfSelected(&'r Selector),
}

pub(super) struct Roles<'v> {
    view: &'v View,
}

impl<'v> Roles<'v> {
    pub(super) fn new(view: &'v View) -> Self {
        Self { view }
    }

    pub(super) fn path(&self, name: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{ROLES}/{}", self.view.hash(b"kubernetes/role", name)?))
    }

    /// As it stands in the store.
    pub(super) async fn load(&self, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
        stored::load(self.view, &self.path(name)?).await
    }

    /// Perhaps from memory.
    pub(super) async fn recall(&self, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
        stored::recall(self.view, &self.path(name)?).await
    }
}

impl Role {
    /// Takes what stands in the body; what does not stays.
    fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        if let Some(audience) = body.string("audience")? {
            self.audience = audience.to_string();
        }
        for (field, into) in [
            ("bound_service_account_names", &mut self.bound_service_account_names),
            ("bound_service_account_namespaces", &mut self.bound_service_account_namespaces),
            ("bound_pod_names", &mut self.bound_pod_names),
            ("bound_node_names", &mut self.bound_node_names),
        ] {
            if let Some(names) = body.list(field)? {
                *into = patterns(field, &names)?;
            }
        }
        if let Some(text) = body.raw("bound_service_account_namespace_selector") {
            // as an object, or as text, as Vault's clients send it
            let text = if text.starts_with('{') {
                text.to_owned()
            } else {
                body.string("bound_service_account_namespace_selector")?.unwrap_or_default().to_string()
            };
            let selector = Some(text.trim()).filter(|text| !text.is_empty());
            self.bound_service_account_namespace_selector = selector.map(Selector::parse).transpose()?;
        }
        if let Some(require) = body.bool("require_pod")? {
            self.require_pod = require;
        }
        if let Some(ends) = body.bool("token_ends_with_proof")? {
            self.token_ends_with_proof = ends;
        }
        if let Some(source) = body.string("alias_name_source")? {
            self.alias_name_source = match source.as_str() {
                "" | "serviceaccount_uid" => AliasSource::ServiceaccountUid,
                "serviceaccount_name" => AliasSource::ServiceaccountName,
                _ => {
                    return Err(VaultError::field(
                        "alias_name_source",
                        "none of serviceaccount_uid, serviceaccount_name",
                    ));
                }
            };
        }
        self.token.update(body, OLD_NAMES)
    }

    /// Refuses a role to which anybody could log in, or nobody.
    fn check(&self) -> Result<(), VaultError> {
        let (names, namespaces) = (&self.bound_service_account_names, &self.bound_service_account_namespaces);
        let plain = self.audience.bytes().all(|byte| byte.is_ascii_graphic());
        if self.audience.is_empty() || self.audience.len() > AUDIENCE_BYTES_MAX || !plain {
            let why =
                "missing, or not 1 to 512 visible ASCII characters: tokens that are meant for others are not taken";
            return Err(VaultError::field("audience", why));
        }
        if names.is_empty() {
            return Err(VaultError::field("bound_service_account_names", "missing"));
        }
        if namespaces.is_empty() && self.bound_service_account_namespace_selector.is_none() {
            let why = "missing, and so is bound_service_account_namespace_selector";
            return Err(VaultError::field("bound_service_account_namespaces", why));
        }
        if is_all(names) && is_all(namespaces) {
            let why = "names and namespaces cannot both be `*`";
            return Err(VaultError::field("bound_service_account_names", why));
        }
        self.token.check()
    }

    /// Whether this role is for `account`. Pure.
    pub(super) fn admits(&self, account: &Account) -> Result<Admitted<'_>, &'static str> {
        let fits = |patterns: &[String], name: &str| patterns.iter().any(|pattern| glob(pattern, name));
        if !fits(&self.bound_service_account_names, &account.name) {
            return Err(cause::NAME_OTHER);
        }
        if account.pod.is_none() && (self.require_pod || !self.bound_pod_names.is_empty()) {
            return Err(cause::POD_NONE);
        }
        let pod = account.pod.as_ref().is_none_or(|pod| fits(&self.bound_pod_names, &pod.name));
        if !self.bound_pod_names.is_empty() && !pod {
            return Err(cause::POD_OTHER);
        }
        let node = account.node.as_ref().is_some_and(|node| fits(&self.bound_node_names, &node.name));
        if !self.bound_node_names.is_empty() && !node {
            return Err(cause::NODE_OTHER);
        }
        match &self.bound_service_account_namespace_selector {
            _ if fits(&self.bound_service_account_namespaces, &account.namespace) => Ok(Admitted::Yes),
            Some(selector) => Ok(Admitted::IfSelected(selector)),
            None => Err(cause::NAMESPACE_OTHER),
        }
    }

    /// By what the mount knows the account's entity.
    pub(super) fn alias(&self, account: &Account) -> String {
        match self.alias_name_source {
            AliasSource::ServiceaccountUid => account.uid.clone(),
            AliasSource::ServiceaccountName => format!("{}/{}", account.namespace, account.name),
        }
    }
}

pub(super) async fn list(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, roles.view, ROLES, |text| Ok(Some(stored::decode::<Role>(text)?.name))).await
}

pub(super) async fn read(roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = roles.load(name).await?.ok_or(VaultError::NotFound)?;
    let selector = role.bound_service_account_namespace_selector.as_ref();
    let selector = selector.and_then(|selector| serde_json::to_string(selector).ok());
    Reply::data(&Shown {
        audience: &role.audience,
        bound_service_account_names: &role.bound_service_account_names,
        bound_service_account_namespaces: &role.bound_service_account_namespaces,
        bound_service_account_namespace_selector: selector.unwrap_or_default(),
        bound_pod_names: &role.bound_pod_names,
        bound_node_names: &role.bound_node_names,
        require_pod: role.require_pod,
        alias_name_source: role.alias_name_source,
        token_ends_with_proof: role.token_ends_with_proof,
        token: &role.token,
    })
}

pub(super) async fn write(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let make = |old: Option<Role>| {
        let mut role = old.unwrap_or_else(|| Role { name: name.to_owned(), ..Role::default() });
        role.update(&scope.call.body)?;
        role.check()?;
        Ok(role)
    };
    stored::change(scope, roles.view, &roles.path(name)?, make).await?;
    Ok(Reply::empty())
}

pub(super) async fn delete(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    stored::delete(scope, roles.view, roles.path(name)?).await
}

/// Names in which `*` stands for any characters, as many as there are.
fn patterns(field: &'static str, names: &[String]) -> Result<Vec<String>, VaultError> {
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'*');
    if names.len() > NAMES_MAX || names.iter().any(|name| name.len() > 253 || !name.bytes().all(legal)) {
        let why = "up to 256 names as Kubernetes has them (`a-z`, digits, `-`, `.`), with `*` for any characters";
        return Err(VaultError::field(field, why));
    }
    if names.len() > 1 && is_all(&names) {
        return Err(VaultError::field(field, "`*` beside others"));
    }
    Ok(names)
}

fn is_all(names: &[String]) -> bool {
    names.iter().any(|name| name.bytes().all(|byte| byte == b'*') && !name.is_empty())
}

/// Each `*` takes as little as lets the next part follow; what stands behind the last one ends the name.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: Some("bound_cidrs"),
};
const ROLES: &str = "r";
const NAMES_MAX: usize = 256;
const AUDIENCE_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::super::token::Bound;
    use super::*;
    use envelope::SecretBytes;

    fn role(json: &str) -> Result<Role, VaultError> {
        let mut role = Role::default();
        role.update(&Body::parse(SecretBytes::copy_from(json.as_bytes()))?)?;
        role.check().map(|()| role)
    }

    fn account(namespace: &str, name: &str, pod: Option<&str>, node: Option<&str>) -> Account {
        let bound = |name: &str| Bound { name: name.into(), uid: "u".into() };
        Account {
            namespace: namespace.into(),
            name: name.into(),
            uid: "u-1".into(),
            pod: pod.map(bound),
            node: node.map(bound),
        }
    }

    #[test]
    fn names_fit_as_a_whole() {
        for (pattern, name, fits) in [
            ("web", "web", true),
            ("web", "web-evil", false),
            ("web", "evil-web", false),
            ("web", "we", false),
            ("web-*", "web-1", true),
            ("web-*", "web", false),
            ("*-web", "a-web", true),
            ("*-web", "a-web-b", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*bc", "abcbc", true),
            ("a*b*b", "ab", false),
            ("ab*ba", "aba", false),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_role_for_anybody_or_for_nobody_is_refused() {
        for (json, field) in [
            (r#"{"bound_service_account_names": "web", "bound_service_account_namespaces": "prod"}"#, "audience"),
            (r#"{"audience": "a b", "bound_service_account_names": "web"}"#, "audience"),
            (r#"{"audience": "vault", "bound_service_account_namespaces": "prod"}"#, "bound_service_account_names"),
            (r#"{"audience": "vault", "bound_service_account_names": "web"}"#, "bound_service_account_namespaces"),
            (
                r#"{"audience": "vault", "bound_service_account_names": "*", "bound_service_account_namespaces": "*"}"#,
                "bound_service_account_names",
            ),
            (
                r#"{"audience": "vault", "bound_service_account_names": "**", "bound_service_account_namespaces": "*"}"#,
                "bound_service_account_names",
            ),
            (r#"{"audience": "vault", "bound_service_account_names": ["*", "web"]}"#, "bound_service_account_names"),
            (r#"{"audience": "vault", "bound_service_account_names": "Web"}"#, "bound_service_account_names"),
            (r#"{"audience": "vault", "bound_pod_names": "a/b"}"#, "bound_pod_names"),
            (r#"{"alias_name_source": "name"}"#, "alias_name_source"),
            (r#"{"bound_service_account_namespace_selector": "env=prod"}"#, "bound_service_account_namespace_selector"),
        ] {
            let error = role(json).unwrap_err();
            assert!(error.to_string().starts_with(field), "{json}: {error}");
        }
    }

    #[test]
    fn an_account_is_admitted_by_everything_that_the_role_binds() {
        let base = r#""audience": "vault", "bound_service_account_names": "web,api-*", "bound_service_account_namespaces": "prod""#;
        let prod = |name| account("prod", name, Some("web-0"), Some("node-1"));
        for (more, account, outcome) in [
            ("", prod("web"), Ok(())),
            ("", prod("api-7"), Ok(())),
            ("", prod("webx"), Err(cause::NAME_OTHER)),
            ("", account("prod-2", "web", None, None), Err(cause::NAMESPACE_OTHER)),
            ("", account("prod", "web", None, None), Ok(())),
            (r#", "require_pod": true"#, account("prod", "web", None, None), Err(cause::POD_NONE)),
            (r#", "require_pod": true"#, prod("web"), Ok(())),
            (r#", "bound_pod_names": "web-*""#, prod("web"), Ok(())),
            (r#", "bound_pod_names": "job-*""#, prod("web"), Err(cause::POD_OTHER)),
            (r#", "bound_pod_names": "web-*""#, account("prod", "web", None, None), Err(cause::POD_NONE)),
            (r#", "bound_node_names": "node-1""#, prod("web"), Ok(())),
            (r#", "bound_node_names": "node-2""#, prod("web"), Err(cause::NODE_OTHER)),
            (r#", "bound_node_names": "node-1""#, account("prod", "web", None, None), Err(cause::NODE_OTHER)),
        ] {
            let role = role(&format!("{{{base}{more}}}")).unwrap();
            let admitted = role.admits(&account).map(|admitted| assert_eq!(admitted, Admitted::Yes));
            assert_eq!(admitted, outcome, "{more} {account:?}");
        }
        let selecting = format!(
            "{{{base}, \"bound_service_account_namespace_selector\": {{\"matchLabels\": {{\"env\": \"prod\"}}}}}}"
        );
        let role = role(&selecting).unwrap();
        assert!(matches!(role.admits(&account("test", "web", None, None)), Ok(Admitted::IfSelected(_))));
        assert_eq!(role.admits(&prod("web")), Ok(Admitted::Yes));
    }
}
