//! What methods by a cloud's tokens share: an instance asks its metadata service who it is, and shows the answer.
//!
//! Always: issuer and keys are what the mount's configuration says, which takes `sudo`; a token says nothing about them
//! (CVE-2020-16251: keys were chosen by what an unverified token said of itself). A token is for this server: its audience is
//! compared letter by letter. Google's names the role too; Azure's names the resource, and is good for any role of the mount.
//! Never: what a caller says beside its token counts for anything.

use super::jose::{self, Algorithm, Algorithms, PLAIN_KINDS, Rules, Source, Verified, verify};
use super::proven::{self, Proven};
use super::token_fields::{self, TokenFields, folded};
use crate::backend::{Access, Backend, lowered};
use crate::body::Body;
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use envelope::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;
use storage::EntryPath;

/// One cloud's method.
#[async_trait::async_trait]
pub(crate) trait Cloud: Debug + Send + Sync + 'static {
    type Config: Serialize + DeserializeOwned + Default + Clone + Send + Sync;
    type Role: Serialize + DeserializeOwned + Default + Clone + Send + Sync;
    /// The one text of refusals.
    const TOLD: &'static str;
    const UNCONFIGURED: &'static str;
    const ROLE_UNKNOWN: &'static str;
    /// Fields of Vault's that are not needed here.
    const UNUSED: &'static [&'static str];

    /// Takes what stands in the body, and looks at the whole.
    fn configure(config: &mut Self::Config, body: &Body) -> Result<(), VaultError>;
    fn update(role: &mut Self::Role, body: &Body) -> Result<(), VaultError>;
    fn tokens(role: &Self::Role) -> &TokenFields;
    /// Who has shown this token, where the role lets them in.
    async fn recognise(at: &Login<'_>, config: &Self::Config, role: &Self::Role) -> Result<Who, VaultError>;

    /// The role as it is from now on, where it keeps who came first under a name that can be given again; or why they are
    /// another one.
    fn pinned(_role: &Self::Role, _who: &Who) -> Result<Option<Self::Role>, &'static str> {
        Ok(None)
    }
}

/// A login, as a method looks at it.
pub(crate) struct Login<'a> {
    pub(crate) scope: &'a Scope<'a>,
    /// The role's name.
    pub(crate) role: &'a str,
    pub(crate) token: &'a str,
    told: &'static str,
}

/// Who somebody has turned out to be.
pub(crate) struct Who {
    pub(crate) alias: String,
    pub(crate) display_name: String,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) proof: String,
    /// The token ends with the proof.
    pub(crate) ends: Option<Timestamp>,
}

/// By which keys, and how old a token may be.
pub(crate) struct By<'a> {
    pub(crate) source: &'a Source,
    /// Of its `iat`, which must be there.
    pub(crate) age_max: Option<Duration>,
    pub(crate) too_old: &'static str,
}

impl Login<'_> {
    pub(crate) fn refused(&self, cause: &'static str) -> VaultError {
        VaultError::LoginRefused { told: self.told, cause }
    }

    /// The token's claims, where it is signed by one of these keys, for this audience, and of now.
    pub(crate) async fn verified(&self, by: &By<'_>, audience: (&str, &'static str)) -> Result<Verified, VaultError> {
        let (vault, now) = (self.scope.vault, self.scope.now());
        let wanted = jose::key_id(self.token).map_err(|refusal| self.refused(refusal.cause()))?;
        let issuer = vault.key_sets().of(vault, by.source, wanted.as_deref(), STALE_MAX, now).await?;
        let algorithms = Algorithms::of(&[Algorithm::Rs256]);
        let rules = Rules {
            algorithms: &algorithms,
            now,
            leeway_after: Duration::ZERO,
            leeway_before: LEEWAY,
            kinds: PLAIN_KINDS,
        };
        let verified = verify(self.token, &issuer.keys, &rules).map_err(|refusal| self.refused(refusal.cause()))?;
        // one, and exactly this: what is for others too could be shown here by them
        if verified.claims.audiences() != [audience.0] {
            return Err(self.refused(audience.1));
        }
        if let Some(most) = by.age_max {
            let issued = verified.claims.issued().ok().flatten().ok_or_else(|| self.refused(by.too_old))?;
            if issued.plus(most) < now {
                return Err(self.refused(by.too_old));
            }
        }
        Ok(verified)
    }
}

#[async_trait::async_trait]
impl<C: Cloud> Backend for C {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if path.starts_with("role/") { lowered(path, 1) } else { Cow::Borrowed(path) }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        match path {
            "login" if call.verb == Verb::Write => Access::Public,
            "config" => Access::PolicyAndSudo,
            _ => Access::Policy,
        }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        let view = scope.view()?;
        match scope.segments().as_slice() {
            ["role", name] => match folded(name, NAME_BYTES_MAX) {
                Some(name) => Ok(stored::load::<Named<C::Role>>(&view, &role_path(&view, &name)?).await?.is_some()),
                None => Ok(false),
            },
            ["config"] => Ok(stored::load::<C::Config>(&view, &view.path(CONFIG)?).await?.is_some()),
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let view = scope.view()?;
        match (scope.segments().as_slice(), scope.call.verb) {
            (["login"], Verb::Write) => login::<C>(scope, &view).await,
            (["config"], Verb::Read) => {
                let (config, _) =
                    stored::load::<C::Config>(&view, &view.path(CONFIG)?).await?.ok_or(VaultError::NotFound)?;
                Reply::data(&config)
            }
            (["config"], Verb::Write) => {
                let path = view.path(CONFIG)?;
                let make = |old: Option<C::Config>| {
                    let mut config = old.unwrap_or_default();
                    C::configure(&mut config, &scope.call.body)?;
                    Ok(config)
                };
                stored::change(scope, &view, &path, make).await?;
                let named = C::UNUSED.iter().filter(|name| scope.call.body.has(name));
                Ok(named.fold(Reply::empty(), |reply, name| reply.warning(format!("{name}: not needed, and not kept"))))
            }
            (["config"], Verb::Delete) => stored::delete(scope, &view, view.path(CONFIG)?).await,
            (["role" | "roles"], Verb::List) => {
                let name = |text: &[u8]| Ok(Some(stored::decode::<Named<C::Role>>(text)?.name));
                token_fields::list(scope, &view, ROLES, name).await
            }
            (["role", name], Verb::Read) => {
                let found = stored::load::<Named<C::Role>>(&view, &role_path(&view, &role_name(name)?)?).await?;
                Reply::data(&found.ok_or(VaultError::NotFound)?.0.role)
            }
            (["role", name], Verb::Write) => {
                let name = role_name(name)?;
                let path = role_path(&view, &name)?;
                let make = |old: Option<Named<C::Role>>| {
                    let mut named = old.unwrap_or_else(|| Named { name: name.clone(), role: C::Role::default() });
                    C::update(&mut named.role, &scope.call.body)?;
                    Ok(named)
                };
                stored::change(scope, &view, &path, make).await?;
                Ok(Reply::empty())
            }
            (["role", name], Verb::Delete) => stored::delete(scope, &view, role_path(&view, &role_name(name)?)?).await,
            (["login" | "config" | "role" | "roles"] | ["role", _], _) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// As it is stored.
#[derive(Default, Clone, Serialize, serde::Deserialize)]
struct Named<R> {
    name: String,
    role: R,
}

async fn login<C: Cloud>(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let refused = |cause| VaultError::LoginRefused { told: C::TOLD, cause };
    let name = folded(&scope.call.body.required("role")?, NAME_BYTES_MAX).ok_or(refused(C::ROLE_UNKNOWN))?;
    let token = scope.call.body.required("jwt")?;
    for _ in 0..ATTEMPTS_MAX {
        let at = (view.path(CONFIG)?, role_path(view, &name)?);
        let (config, config_at) = stored::load::<C::Config>(view, &at.0).await?.ok_or(refused(C::UNCONFIGURED))?;
        let found = stored::load::<Named<C::Role>>(view, &at.1).await?;
        let (Named { role, .. }, role_at) = found.ok_or(refused(C::ROLE_UNKNOWN))?;
        let login = Login { scope, role: &name, token: token.trim_ascii(), told: C::TOLD };
        let who = C::recognise(&login, &config, &role).await?;
        let pinned = C::pinned(&role, &who).map_err(refused)?;
        let Who { alias, display_name, mut meta, proof, ends } = who;
        meta.insert("role".to_owned(), name.clone());
        let proven = Proven {
            alias,
            display_name,
            meta,
            proof,
            tokens: C::tokens(&role),
            ends,
            certificate: None,
            told: C::TOLD,
        };
        let batch = scope.batch()?.revision_is(at.0, config_at).revision_is(at.1.clone(), role_at);
        let batch = match pinned {
            None => batch,
            Some(role) => view.put(batch, at.1, &stored::encode(&Named { name: name.clone(), role })?)?,
        };
        if let Some(reply) = proven::let_in(scope, batch, proven).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

fn role_name(raw: &str) -> Result<String, VaultError> {
    folded(raw, NAME_BYTES_MAX).ok_or_else(|| VaultError::field("role", "1 to 128 letters, digits, `-`, `_`, `.`"))
}

fn role_path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ROLES}/{}", view.hash(b"cloud/role", name)?))
}

/// A list of the body's into a field of bounded length, each item as `sound` makes it.
pub(crate) fn list(
    body: &Body,
    name: &'static str,
    field: &mut Vec<String>,
    sound: impl Fn(&str) -> Option<String>,
) -> Result<(), VaultError> {
    let Some(found) = body.list(name)? else { return Ok(()) };
    if found.len() > BOUNDS_MAX {
        return Err(VaultError::field(name, format!("more than {BOUNDS_MAX}")));
    }
    let made: Option<Vec<_>> = found.iter().map(|raw| sound(raw.trim())).collect();
    *field = made.ok_or_else(|| VaultError::field(name, "one of them is malformed"))?;
    Ok(())
}

/// A text of the body's into a field.
pub(crate) fn text(body: &Body, name: &'static str, field: &mut String) -> Result<(), VaultError> {
    if let Some(text) = body.string(name)? {
        *field = text.trim().to_owned();
    }
    Ok(())
}

/// Fields of Vault's that would narrow a role, if they were served here: to drop them would widen it.
pub(crate) fn unserved(body: &Body, names: &'static [&'static str]) -> Result<(), VaultError> {
    let given = |name: &&&str| body.raw(name).is_some_and(|raw| !matches!(raw, "[]" | "\"\"" | "{}" | "false"));
    match names.iter().find(given) {
        Some(name) => Err(VaultError::field(*name, "not served: no token tells it")),
        None => Ok(()),
    }
}

/// 1 to 256 of `[A-Za-z0-9._:@-]`.
pub(crate) fn plain(raw: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'-');
    ((1..=256).contains(&raw.len()) && raw.bytes().all(legal)).then(|| raw.to_owned())
}

const CONFIG: &str = "c";
const ROLES: &str = "r";
const NAME_BYTES_MAX: usize = 128;
const ATTEMPTS_MAX: usize = 32;
const BOUNDS_MAX: usize = 128;
/// How long keys count on that cannot be fetched.
const STALE_MAX: Duration = Duration::from_secs(3600);
const LEEWAY: Duration = Duration::from_secs(60);
