//! Roles: whom they let in, and what token they give.

use super::NAME_BYTES_MAX;
use super::arn::{Bound, Caller, Class, is_account};
use super::refusal::*;
use crate::auth::token_fields::{self, OldNames, TokenFields};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use storage::{Batch, EntryPath, Revision};

/// As stored. The API's names where it shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Role {
    pub(super) name: String,
    bound_iam_principal_arn: Vec<String>,
    bound_iam_principal_id: Vec<String>,
    bound_account_id: Vec<String>,
    /// Globs with `*` at the end. They narrow; a session's name proves nothing.
    bound_session_names: Vec<String>,
    resolve_aws_unique_ids: bool,
    pub(super) require_nonce: bool,
    pub(super) require_certificate: bool,
    /// By its ARN, the unique id under which a principal logged in first.
    pinned: BTreeMap<String, String>,
    pub(super) token: TokenFields,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            name: String::new(),
            bound_iam_principal_arn: Vec::new(),
            bound_iam_principal_id: Vec::new(),
            bound_account_id: Vec::new(),
            bound_session_names: Vec::new(),
            resolve_aws_unique_ids: true,
            require_nonce: false,
            require_certificate: false,
            pinned: BTreeMap::new(),
            token: TokenFields::default(),
        }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    auth_type: &'static str,
    bound_iam_principal_arn: &'a [String],
    bound_iam_principal_id: &'a [String],
    bound_account_id: &'a [String],
    bound_session_names: &'a [String],
    resolve_aws_unique_ids: bool,
    require_nonce: bool,
    require_certificate: bool,
    pinned_unique_ids: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    token: &'a TokenFields,
}

/// How a role lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    AsKnown,
    /// From now on under this unique id alone.
    Pinned(Box<Role>),
}

impl Role {
    /// All that is configured must hold.
    pub(super) fn admit(&self, caller: &Caller) -> Result<Admission, &'static str> {
        let mut bounds = self.bound_iam_principal_arn.iter().filter_map(|raw| Some((raw, Bound::parse(raw).ok()?)));
        let bound = bounds.find(|(_, bound)| bound.matches(caller)).map(|(raw, _)| raw);
        let by_id = self.bound_iam_principal_id.contains(&caller.unique_id);
        let arn_holds = self.bound_iam_principal_arn.is_empty() || bound.is_some();
        let id_holds = self.bound_iam_principal_id.is_empty() || by_id;
        let account_holds = self.bound_account_id.is_empty() || self.bound_account_id.contains(&caller.account);
        if !(arn_holds && id_holds && account_holds) || (bound.is_none() && !by_id) {
            return Err(PRINCIPAL_UNBOUND);
        }
        let session = caller.session.as_deref().unwrap_or_default();
        let fits = |glob: &String| match glob.strip_suffix('*') {
            Some(prefix) => session.starts_with(prefix),
            None => session == glob,
        };
        if !self.bound_session_names.is_empty() && !self.bound_session_names.iter().any(fits) {
            return Err(SESSION_OTHER);
        }
        // a pattern is for many, whom nobody has named: each of them has an entity of its own unique id
        let pins = self.resolve_aws_unique_ids && !by_id && bound.is_some_and(|raw| !raw.ends_with('*'));
        let arn = caller.canonical_arn();
        match (pins, self.pinned.get(&arn)) {
            (false, _) => Ok(Admission::AsKnown),
            (true, Some(known)) if *known == caller.unique_id => Ok(Admission::AsKnown),
            (true, Some(_)) => Err(UNIQUE_ID_OTHER),
            (true, None) => {
                let mut role = self.clone();
                role.pinned.insert(arn, caller.unique_id.clone());
                Ok(Admission::Pinned(Box::new(role)))
            }
        }
    }

    /// Takes what stands in the body; what does not stays, and so does the unique id of whoever is still named.
    fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        if body.string("auth_type")?.is_some_and(|kind| kind.as_str() != "iam") {
            return Err(VaultError::field(
                "auth_type",
                "only iam: an instance's document is a password that never changes",
            ));
        }
        if body.string("inferred_entity_type")?.is_some_and(|kind| !kind.is_empty()) {
            return Err(VaultError::field(
                "inferred_entity_type",
                "nothing is inferred: a session's name proves nothing",
            ));
        }
        let list = |name, field: &mut Vec<String>, is_sound: fn(&str) -> Result<(), &'static str>| {
            let Some(found) = body.list(name)? else { return Ok::<_, VaultError>(()) };
            if found.len() > BOUNDS_MAX {
                return Err(VaultError::field(name, format!("more than {BOUNDS_MAX}")));
            }
            found.iter().try_for_each(|raw| is_sound(raw)).map_err(|why| VaultError::field(name, why))?;
            *field = found;
            Ok(())
        };
        list("bound_iam_principal_arn", &mut self.bound_iam_principal_arn, |raw| Bound::parse(raw).map(|_| ()))?;
        list("bound_iam_principal_id", &mut self.bound_iam_principal_id, |raw| {
            Class::of_unique_id(raw).map(|_| ()).ok_or("not like AROA… or AIDA…")
        })?;
        list("bound_account_id", &mut self.bound_account_id, |raw| {
            is_account(raw).then_some(()).ok_or("not twelve digits")
        })?;
        list("bound_session_names", &mut self.bound_session_names, |raw| {
            let name = raw.strip_suffix('*').unwrap_or(raw);
            (name.len() <= 64 && !name.contains('*')).then_some(()).ok_or("`*` stands at the end only")
        })?;
        for (name, field) in [
            ("resolve_aws_unique_ids", &mut self.resolve_aws_unique_ids),
            ("require_nonce", &mut self.require_nonce),
            ("require_certificate", &mut self.require_certificate),
        ] {
            *field = body.bool(name)?.unwrap_or(*field);
        }
        if self.bound_iam_principal_arn.is_empty() && self.bound_iam_principal_id.is_empty() {
            return Err(VaultError::field(
                "bound_iam_principal_arn",
                "it, or bound_iam_principal_id, must name somebody",
            ));
        }
        self.keep_pins(body.bool("forget_pins")?.unwrap_or(false));
        self.token.update(body, OLD_NAMES)
    }

    /// Of those whom the list names still, unless whoever was made again under such a name is to be let in.
    fn keep_pins(&mut self, forget: bool) {
        let bounds = self.bound_iam_principal_arn.iter().filter_map(|raw| Bound::parse(raw).ok());
        let named: Vec<Bound<'_>> = bounds.collect();
        self.pinned.retain(|arn, _| !forget && Bound::parse(arn).is_ok_and(|pinned| named.contains(&pinned)));
    }
}

pub(super) fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ROLES}/{}", view.hash(b"aws/role", name)?))
}

/// As it stands in the store.
pub(super) async fn load(view: &View, name: &str) -> Result<Option<(Role, Revision)>, VaultError> {
    stored::load(view, &path(view, name)?).await
}

pub(super) fn put(view: &View, batch: Batch, role: &Role) -> Result<Batch, VaultError> {
    view.put(batch, path(view, &role.name)?, &stored::encode(role)?)
}

pub(super) fn name(raw: &str) -> Result<String, VaultError> {
    token_fields::folded(raw, NAME_BYTES_MAX)
        .ok_or_else(|| VaultError::field("role", "1 to 128 letters, digits, `-`, `_`, `.`"))
}

pub(super) async fn list(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    token_fields::list(scope, view, ROLES, |text| Ok(Some(stored::decode::<Role>(text)?.name))).await
}

pub(super) async fn read(view: &View, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = load(view, name).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&Shown {
        auth_type: "iam",
        bound_iam_principal_arn: &role.bound_iam_principal_arn,
        bound_iam_principal_id: &role.bound_iam_principal_id,
        bound_account_id: &role.bound_account_id,
        bound_session_names: &role.bound_session_names,
        resolve_aws_unique_ids: role.resolve_aws_unique_ids,
        require_nonce: role.require_nonce,
        require_certificate: role.require_certificate,
        pinned_unique_ids: &role.pinned,
        token: &role.token,
    })
}

pub(super) async fn write(scope: &Scope<'_>, view: &View, name: &str) -> Result<Reply, VaultError> {
    let make = |old: Option<Role>| {
        let mut role = old.unwrap_or_else(|| Role { name: name.to_owned(), ..Role::default() });
        role.update(&scope.call.body)?;
        Ok(role)
    };
    stored::change(scope, view, &path(view, name)?, make).await?;
    Ok(Reply::empty())
}

pub(super) async fn delete(scope: &Scope<'_>, view: &View, name: &str) -> Result<Reply, VaultError> {
    stored::delete(scope, view, path(view, name)?).await
}

const OLD_NAMES: OldNames = OldNames {
    policies: Some("policies"),
    ttl: Some("ttl"),
    max_ttl: Some("max_ttl"),
    period: Some("period"),
    bound_cidrs: None,
};
const ROLES: &str = "r";
const BOUNDS_MAX: usize = 128;

#[cfg(test)]
mod tests;
