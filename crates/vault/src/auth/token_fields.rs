//! What roles and users say of the tokens that their logins make: the `token_…` fields, which all auth methods share.
//!
//! Always: names of policies are folded once, here; `root` is refused when it is written and when a token is made.
//! Never: a token without an end, or with a longer one than its mount allows.
//!
//! # Divergences
//! - `token_max_ttl` (and the mount's, where it is tuned) bounds all renewals as an explicit maximum does, and a token shows
//!   it as such.
//! - A login from outside `token_bound_cidrs` is refused; its token would be good for nothing there.

use super::token::create::auth;
use crate::body::Body;
use crate::error::VaultError;
use crate::gone;
use crate::mount::{Mount, TTL_DEFAULT};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use audit::Subject;
use identity::token::{CIDRS_MAX, POLICIES_MAX, SYSTEM_TTL_MAX};
use identity::{Cidr, CreatedToken, DisplayName, NewParent, NewToken, PolicyName, TokenKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;
use storage::Batch;

/// As stored; the names are the API's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TokenFields {
    pub(crate) token_ttl: u64,
    pub(crate) token_max_ttl: u64,
    pub(crate) token_explicit_max_ttl: u64,
    pub(crate) token_period: u64,
    pub(crate) token_num_uses: u32,
    pub(crate) token_no_default_policy: bool,
    pub(crate) token_policies: Vec<String>,
    pub(crate) token_bound_cidrs: Vec<String>,
    pub(crate) token_type: FieldKind,
}

/// Which kind of token; the defaults give way to what the mount says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FieldKind {
    #[default]
    Default,
    DefaultService,
    DefaultBatch,
    Service,
    Batch,
}

/// What else these fields were called, method by method; the new name counts where both stand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OldNames {
    pub(crate) policies: Option<&'static str>,
    pub(crate) ttl: Option<&'static str>,
    pub(crate) max_ttl: Option<&'static str>,
    pub(crate) period: Option<&'static str>,
    pub(crate) bound_cidrs: Option<&'static str>,
}

/// What a login adds to what is configured.
pub(crate) struct Login<'a> {
    /// Where it is told that the token was made.
    pub(crate) path: String,
    pub(crate) display_name: String,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) cidrs: &'a [String],
    pub(crate) certificate: Option<[u8; 32]>,
}

impl TokenFields {
    /// Takes what stands in the body; what does not stays.
    pub(crate) fn update(&mut self, body: &Body, old: OldNames) -> Result<(), VaultError> {
        let secs = |new, old, field: &mut u64| -> Result<(), VaultError> {
            let name = name_in(body, new, old);
            if body.has(name) {
                *field = body.duration(name)?.map_or(0, |ttl| ttl.as_secs());
            }
            Ok(())
        };
        secs("token_ttl", old.ttl, &mut self.token_ttl)?;
        secs("token_max_ttl", old.max_ttl, &mut self.token_max_ttl)?;
        secs("token_explicit_max_ttl", None, &mut self.token_explicit_max_ttl)?;
        secs("token_period", old.period, &mut self.token_period)?;
        if let Some(uses) = body.count("token_num_uses", NUM_USES_MAX)? {
            self.token_num_uses = uses;
        }
        if let Some(without) = body.bool("token_no_default_policy")? {
            self.token_no_default_policy = without;
        }
        if let Some(names) = policies(body, name_in(body, "token_policies", old.policies))? {
            self.token_policies = names;
        }
        if let Some(ranges) = cidrs(body, name_in(body, "token_bound_cidrs", old.bound_cidrs))? {
            self.token_bound_cidrs = ranges;
        }
        if let Some(kind) = body.string("token_type")? {
            self.token_type = FieldKind::parse(&kind)?;
        }
        self.check()
    }

    /// Whether these fields go together.
    pub(crate) fn check(&self) -> Result<(), VaultError> {
        if self.token_max_ttl > 0 && self.token_ttl > self.token_max_ttl {
            return Err(VaultError::field("token_ttl", "greater than token_max_ttl"));
        }
        let batch = matches!(self.token_type, FieldKind::Batch | FieldKind::DefaultBatch);
        if batch && self.token_num_uses > 0 {
            return Err(VaultError::field("token_type", "batch tokens have no limited uses (token_num_uses)"));
        }
        if batch && self.token_period > 0 {
            return Err(VaultError::field("token_type", "batch tokens have no period (token_period)"));
        }
        Ok(())
    }

    pub(crate) fn kind(&self, mount: &Mount) -> TokenKind {
        // what the mount says outright counts, then the role, then the mount's default
        match (mount.tune.token_type.as_str(), self.token_type) {
            ("service", _) => TokenKind::Service,
            ("batch", _) => TokenKind::Stateless,
            (_, FieldKind::Service | FieldKind::DefaultService) => TokenKind::Service,
            (_, FieldKind::Batch | FieldKind::DefaultBatch) => TokenKind::Stateless,
            ("default-batch", FieldKind::Default) => TokenKind::Stateless,
            (_, FieldKind::Default) => TokenKind::Service,
        }
    }

    /// The token of a login at `mount`.
    pub(crate) fn token(&self, mount: &Mount, login: Login<'_>) -> Result<NewToken<'static>, VaultError> {
        let kind = self.kind(mount);
        let period = secs(self.token_period).map(|period| period.min(mount.max_ttl()));
        let explicit = secs(self.token_explicit_max_ttl);
        // a period goes on for ever, but for what says outright that it does not
        let most =
            if period.is_some() { explicit } else { [explicit, self.longest(mount)].into_iter().flatten().min() };
        let ttl = secs(self.token_ttl).unwrap_or_else(|| mount.default_ttl());
        let (ttl, explicit_max_ttl) = match kind {
            TokenKind::Service => (ttl, most),
            TokenKind::Stateless => (most.map_or(ttl, |most| ttl.min(most)), None),
        };
        let mut policies = self.token_policies.clone();
        if !self.token_no_default_policy {
            policies.push(DEFAULT_POLICY.to_owned());
        }
        let parsed = policies.iter().map(|name| PolicyName::parse(name)).collect::<Result<Vec<_>, _>>();
        let display: String = login.display_name.chars().filter(char::is_ascii_graphic).take(DISPLAY_MAX).collect();
        Ok(NewToken {
            policies: parsed.map_err(|_| VaultError::Internal("a stored policy's name".into()))?,
            display_name: DisplayName::parse(&display).unwrap_or_default(),
            ttl: Some(ttl.min(SYSTEM_TTL_MAX)),
            explicit_max_ttl,
            period,
            num_uses: NonZeroU32::new(self.token_num_uses),
            renewable: kind == TokenKind::Service,
            kind,
            meta: login.meta,
            bound_cidrs: parse_ranges(login.cidrs)?,
            certificate_thumbprint: login.certificate,
            ..NewToken::new(login.path, NewParent::Orphan)
        })
    }

    /// How long a token lives that is not renewed.
    pub(crate) fn first_life(&self, mount: &Mount) -> Duration {
        let period = secs(self.token_period).map(|period| period.min(mount.max_ttl()));
        let usual = period.or(secs(self.token_ttl)).unwrap_or_else(|| mount.default_ttl());
        let most = [secs(self.token_explicit_max_ttl), self.longest(mount)].into_iter().flatten().min();
        most.map_or(usual, |most| usual.min(most)).min(SYSTEM_TTL_MAX)
    }

    /// How far renewals go. Nothing: as far as the system lets them.
    fn longest(&self, mount: &Mount) -> Option<Duration> {
        let own = secs(self.token_max_ttl).unwrap_or(TTL_DEFAULT).min(mount.max_ttl());
        (own < SYSTEM_TTL_MAX).then_some(own)
    }
}

impl FieldKind {
    fn parse(raw: &str) -> Result<Self, VaultError> {
        match raw {
            "" | "default" => Ok(Self::Default),
            "default-service" => Ok(Self::DefaultService),
            "default-batch" => Ok(Self::DefaultBatch),
            "service" => Ok(Self::Service),
            "batch" => Ok(Self::Batch),
            _ => {
                Err(VaultError::field("token_type", "none of default, service, batch, default-service, default-batch"))
            }
        }
    }
}

/// Adds the token of a login to `batch`, where the mount still stands, and the entity that the mount knows by `alias`: it is made where there is none.
pub(crate) async fn prepare(
    scope: &Scope<'_>,
    batch: Batch,
    new: NewToken<'_>,
    alias: &str,
) -> Result<(Batch, CreatedToken), VaultError> {
    prepare_in(scope, batch, new, alias, None).await
}

/// The same, of a method that tells in which groups its people are, where it does.
pub(crate) async fn prepare_in(
    scope: &Scope<'_>,
    batch: Batch,
    new: NewToken<'_>,
    alias: &str,
    groups: Option<&[String]>,
) -> Result<(Batch, CreatedToken), VaultError> {
    let identities = scope.vault.identities();
    let batch = gone::still_there(scope.vault, batch, scope.mount)?;
    let known_by = (scope.mount.accessor.as_str(), alias);
    let (batch, entity) = identities.entity_in_groups(batch, scope.now(), known_by, groups).await?;
    let new = NewToken { entity: Some(entity), ..new };
    Ok(identities.prepare_token(batch, new, scope.now()).await?)
}

/// Others were in between: the login is tried again, but where it was the mount that went.
pub(crate) async fn again(scope: &Scope<'_>) -> Result<Option<Reply>, VaultError> {
    scope.vault.identities().look_again();
    if gone::is_gone(scope.vault, scope.mount).await? { Err(VaultError::PermissionDenied) } else { Ok(None) }
}

/// Credentials of this name are gone: who gets the name next is another entity.
pub(crate) async fn forget(scope: &Scope<'_>, batch: Batch, alias: &str) -> Result<Batch, VaultError> {
    Ok(scope.vault.identities().forget_alias(batch, &scope.mount.accessor, alias).await?)
}

/// Of whoever's entity is disabled, the method's own refusal: credentials that are right tell nothing by another.
pub(crate) fn let_in_or<T>(prepared: Result<T, VaultError>, refusal: VaultError) -> Result<T, VaultError> {
    match prepared {
        Err(VaultError::Unauthenticated(_)) => Err(refusal),
        prepared => prepared,
    }
}

/// A login's answer.
pub(crate) fn answer(scope: &Scope<'_>, created: CreatedToken) -> Reply {
    Reply::auth(auth(&created.metadata, created.token, scope))
}

/// Who a login lets in: by whom its change and its record are.
pub(crate) fn subject(created: &CreatedToken) -> Subject {
    let CreatedToken { token: _, metadata } = created;
    Subject::Token { accessor: metadata.accessor.as_str().to_owned(), name: metadata.display_name.as_str().to_owned() }
}

/// Whether the request comes from one of these; from all where there are none.
pub(crate) fn is_from(scope: &Scope<'_>, ranges: &[String]) -> Result<bool, VaultError> {
    Ok(identity::cidr::allows(&parse_ranges(ranges)?, &scope.call.info.from))
}

/// Whether each of `inner` lies in one of `outer`. None is all.
pub(crate) fn lie_within(inner: &[String], outer: &[String]) -> Result<bool, VaultError> {
    let (inner, outer) = (parse_ranges(inner)?, parse_ranges(outer)?);
    let inside = |range: &Cidr| outer.iter().any(|outer| outer.covers(range));
    Ok(outer.is_empty() || (!inner.is_empty() && inner.iter().all(inside)))
}

fn parse_ranges(ranges: &[String]) -> Result<Vec<Cidr>, VaultError> {
    let parsed = ranges.iter().map(|range| Cidr::parse(range)).collect::<Result<_, _>>();
    parsed.map_err(|_| VaultError::Internal("a stored address range".into()))
}

/// Address ranges of a field, each in its one spelling.
pub(crate) fn cidrs(body: &Body, field: &'static str) -> Result<Option<Vec<String>>, VaultError> {
    let Some(list) = body.list(field)? else { return Ok(None) };
    if list.len() > CIDRS_MAX {
        return Err(VaultError::field(field, format!("more than {CIDRS_MAX} address ranges")));
    }
    let parsed = list.iter().map(|raw| Cidr::parse(raw.trim()).map(|range| range.to_string())).collect();
    let parsed: Result<Vec<_>, _> = parsed;
    parsed
        .map(Some)
        .map_err(|_| VaultError::field(field, "no address ranges like 10.0.0.0/8, with nothing behind the prefix"))
}

/// Names of policies, trimmed and folded, each once.
fn policies(body: &Body, field: &'static str) -> Result<Option<Vec<String>>, VaultError> {
    let Some(list) = body.list(field)? else { return Ok(None) };
    let mut names = Vec::new();
    for raw in list.iter().map(|raw| raw.trim().to_ascii_lowercase()).filter(|raw| !raw.is_empty()) {
        let name = PolicyName::parse(&raw).map_err(|_| VaultError::field(field, "no name of a policy"))?;
        if name.is_root() {
            return Err(VaultError::field(field, "`root` is nobody's to give"));
        }
        names.push(raw);
    }
    names.sort_unstable();
    names.dedup();
    // `default` may come beside them
    if names.len() >= POLICIES_MAX {
        return Err(VaultError::field(field, format!("more than {} policies", POLICIES_MAX - 1)));
    }
    Ok(Some(names))
}

/// Names below a prefix, as `after` and `limit` ask.
pub(crate) async fn list(
    scope: &Scope<'_>,
    view: &View,
    prefix: &str,
    name: impl Fn(&[u8]) -> Result<Option<String>, VaultError>,
) -> Result<Reply, VaultError> {
    let (names, more) = view.names(&view.path(prefix)?, LISTED_MAX, name).await?;
    let limit =
        scope.call.count("limit", u32::MAX)?.filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
    let after = scope.call.parameter("after").unwrap_or_default();
    let names: Vec<String> = names.into_iter().filter(|name| name.as_str() > after).take(limit).collect();
    let reply = Reply::keys(&names)?;
    Ok(if more { reply.warning("there are more than can be told: names are missing") } else { reply })
}

/// A name that users choose, in its one spelling: lower case, 1 to `most` of `[a-z0-9._-]`.
pub(crate) fn folded(raw: &str, most: usize) -> Option<String> {
    let name = raw.to_ascii_lowercase();
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    ((1..=most).contains(&name.len()) && name.bytes().all(legal)).then_some(name)
}

pub(crate) fn name_in(body: &Body, new: &'static str, old: Option<&'static str>) -> &'static str {
    match old {
        Some(old) if !body.has(new) && body.has(old) => old,
        Some(_) | None => new,
    }
}

/// Zero is nothing.
pub(crate) fn secs(secs: u64) -> Option<Duration> {
    (secs > 0).then(|| Duration::from_secs(secs))
}

const DEFAULT_POLICY: &str = "default";
const DISPLAY_MAX: usize = identity::name::NAME_BYTES_MAX;
const LISTED_MAX: usize = 100_000;
const NUM_USES_MAX: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Kind, Tune};
    use envelope::SecretBytes;

    fn body(json: &str) -> Body {
        Body::parse(SecretBytes::copy_from(json.as_bytes())).unwrap()
    }

    fn mount(token_type: &str, max_lease_secs: u64) -> Mount {
        let tune = Tune { token_type: token_type.to_owned(), max_lease_secs, ..Tune::default() };
        let (id, accessor, description) = ("0".repeat(32), String::new(), String::new());
        Mount { kind: Kind::AppRole, id, accessor, description, tune, created: 0 }
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        for (json, field) in [
            (r#"{"token_ttl": "1w"}"#, "token_ttl"),
            (r#"{"token_ttl": 60, "token_max_ttl": 59}"#, "token_ttl"),
            (r#"{"token_max_ttl": -1}"#, "token_max_ttl"),
            (r#"{"token_policies": ["a b"]}"#, "token_policies"),
            (r#"{"token_policies": " ROOT"}"#, "token_policies"),
            (r#"{"token_policies": {"a": 1}}"#, "token_policies"),
            (r#"{"token_bound_cidrs": "10.1.2.3/8"}"#, "token_bound_cidrs"),
            (r#"{"token_bound_cidrs": ["fd00::/129"]}"#, "token_bound_cidrs"),
            (r#"{"token_num_uses": -1}"#, "token_num_uses"),
            (r#"{"token_period": "x"}"#, "token_period"),
            (r#"{"token_no_default_policy": "perhaps"}"#, "token_no_default_policy"),
            (r#"{"token_type": "recovery"}"#, "token_type"),
            (r#"{"token_type": "batch", "token_num_uses": 1}"#, "token_type"),
            (r#"{"token_type": "default-batch", "token_period": 1}"#, "token_type"),
        ] {
            let refused = TokenFields::default().update(&body(json), OldNames::default()).unwrap_err();
            assert!(matches!(&refused, VaultError::InvalidField { field: found, .. } if found == field), "{json}");
        }
        let mut fields = TokenFields::default();
        let json =
            r#"{"token_policies": "B, a,b", "policies": "c", "token_ttl": "1h", "token_bound_cidrs": "10.0.0.0/8"}"#;
        let old = OldNames { policies: Some("policies"), ..OldNames::default() };
        fields.update(&body(json), old).unwrap();
        assert_eq!((fields.token_policies.join(" ").as_str(), fields.token_ttl), ("a b", 3600));
        fields.update(&body(r#"{"policies": ["c"], "token_ttl": 0}"#), old).unwrap();
        assert_eq!((fields.token_policies.join(" ").as_str(), fields.token_ttl), ("c", 0));
        assert_eq!(fields.token_bound_cidrs, ["10.0.0.0/8"]);
    }

    #[test]
    fn a_tokens_life_is_the_roles_within_the_mounts() {
        let hour = 3600;
        for (json, tuned, ttl, most) in [
            ("{}", 0, SYSTEM_TTL_MAX.as_secs(), None),
            (r#"{"token_ttl": 60}"#, 0, 60, None),
            (r#"{"token_ttl": 60, "token_max_ttl": 90}"#, 0, 60, Some(90)),
            (r#"{"token_max_ttl": "100d"}"#, hour, hour, Some(hour)),
            (r#"{"token_ttl": 60, "token_max_ttl": 90, "token_explicit_max_ttl": 70}"#, 0, 60, Some(70)),
            (r#"{"token_ttl": 60, "token_max_ttl": 90, "token_period": 10}"#, 0, 60, None),
        ] {
            let mut fields = TokenFields::default();
            fields.update(&body(json), OldNames::default()).unwrap();
            let (cidrs, meta) = (&[], BTreeMap::new());
            let login = Login { path: "p".into(), display_name: "a b".into(), meta, cidrs, certificate: None };
            let token = fields.token(&mount("", tuned), login).unwrap();
            assert_eq!(token.ttl.map(|ttl| ttl.as_secs()), Some(ttl), "{json}");
            assert_eq!(token.explicit_max_ttl.map(|ttl| ttl.as_secs()), most, "{json}");
            assert_eq!((token.display_name.as_str(), token.policies.len()), ("ab", 1));
        }
    }

    #[test]
    fn a_tokens_first_life_is_the_shortest_of_what_bounds_it() {
        let hour = 3600;
        for (json, tuned, first) in [
            (r#"{"token_ttl": 60}"#, 0, 60),
            (r#"{"token_ttl": 60, "token_explicit_max_ttl": 10}"#, 0, 10),
            (r#"{"token_explicit_max_ttl": 10}"#, 0, 10),
            (r#"{"token_ttl": 60, "token_period": 20}"#, 0, 20),
            (r#"{"token_max_ttl": 50}"#, 0, 50),
            ("{}", hour, hour),
            (r#"{"token_ttl": "2h"}"#, hour, hour),
            (r#"{"token_period": "2h"}"#, hour, hour),
        ] {
            let mut fields = TokenFields::default();
            fields.update(&body(json), OldNames::default()).unwrap();
            assert_eq!(fields.first_life(&mount("", tuned)).as_secs(), first, "{json} {tuned}");
        }
    }

    #[test]
    fn a_mount_may_decide_on_the_kind_of_its_tokens() {
        for (tuned, field, kind) in [
            ("", "", TokenKind::Service),
            ("", "batch", TokenKind::Stateless),
            ("service", "batch", TokenKind::Service),
            ("batch", "service", TokenKind::Stateless),
            ("default-batch", "", TokenKind::Stateless),
            ("default-batch", "service", TokenKind::Service),
            ("default-service", "default-batch", TokenKind::Stateless),
        ] {
            let fields = TokenFields { token_type: FieldKind::parse(field).unwrap(), ..TokenFields::default() };
            assert_eq!(fields.kind(&mount(tuned, 0)), kind, "{tuned} {field}");
        }
    }

    #[test]
    fn ranges_lie_within_others_or_not() {
        let list = |raw: &[&str]| raw.iter().map(|raw| (*raw).to_owned()).collect::<Vec<_>>();
        for (inner, outer, inside) in [
            (list(&[]), list(&[]), true),
            (list(&["10.0.0.0/8"]), list(&[]), true),
            (list(&["10.1.0.0/16"]), list(&["10.0.0.0/8"]), true),
            (list(&["10.0.0.0/8"]), list(&["10.1.0.0/16"]), false),
            (list(&["10.1.0.0/16", "192.0.2.7"]), list(&["10.0.0.0/8"]), false),
            (list(&[]), list(&["10.0.0.0/8"]), false),
            (list(&["::1"]), list(&["0.0.0.0/0"]), false),
        ] {
            assert_eq!(lie_within(&inner, &outer).unwrap(), inside, "{inner:?} {outer:?}");
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        for (raw, name) in [
            ("Alice", Some("alice")),
            ("a.b-c_9", Some("a.b-c_9")),
            ("", None),
            (" alice", None),
            ("alice ", None),
            ("ali ce", None),
            ("alicé", None),
            ("\u{212a}im", None),
            ("abcdefghi", None),
        ] {
            assert_eq!(folded(raw, 8).as_deref(), name, "{raw:?}");
        }
    }
}
