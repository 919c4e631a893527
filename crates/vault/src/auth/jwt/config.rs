//! A mount's configuration: whose tokens count, and by which keys.
//!
//! Always: written whole; what a write leaves out is as in a new one.
//! Never: the client's secret in an answer.

use super::preset::Preset;
use crate::auth::jose::{Algorithm, Algorithms, KeySet, Source};
use crate::body::Body;
use crate::error::VaultError;
use crate::outside::is_sound_url;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored;
use crate::view::View;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{EntryPath, Revision};
use zeroize::Zeroizing;

/// As stored.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) shown: Shown,
    client_secret: Option<Zeroizing<String>>,
}

/// What an answer tells; the names are the API's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Shown {
    pub(super) oidc_discovery_url: String,
    oidc_discovery_ca_pem: String,
    pub(super) oidc_client_id: String,
    oidc_response_mode: String,
    oidc_response_types: Vec<String>,
    jwks_url: String,
    jwks_ca_pem: String,
    jwt_validation_pubkeys: Vec<String>,
    pub(super) bound_issuer: String,
    /// As they were written; nothing: what is usual.
    jwt_supported_algs: Vec<String>,
    pub(super) default_role: String,
    pub(super) preset: Option<Preset>,
    /// Seconds.
    max_stale: u64,
}

/// For which kind of login an ID token or a job's token is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Job,
    Browser,
}

impl Config {
    fn parse(body: &Body) -> Result<Self, VaultError> {
        let text =
            |name| Ok::<_, VaultError>(body.string(name)?.map(|text| text.trim().to_owned()).unwrap_or_default());
        for (name, usual) in [("oidc_response_mode", "query"), ("oidc_response_types", "code")] {
            let given = body.list(name)?.unwrap_or_default();
            if given.iter().any(|given| given != usual && !given.is_empty()) {
                return Err(VaultError::field(name, format!("only `{usual}` is served")));
            }
        }
        if body.raw("provider_config").is_some_and(|raw| !matches!(raw, "{}" | "\"\"" | "\"{}\""))
            || body.raw("jwks_pairs").is_some_and(|raw| !matches!(raw, "[]" | "\"\"" | "\"[]\""))
            || body.bool("namespace_in_state")? == Some(true)
        {
            return Err(VaultError::Invalid(
                "provider_config, jwks_pairs and namespace_in_state are not served".into(),
            ));
        }
        let preset = body.string("preset")?.filter(|name| !name.is_empty());
        let preset = preset.map(|name| Preset::parse(&name)).transpose()?;
        let mut shown = Shown {
            oidc_discovery_url: text("oidc_discovery_url")?,
            oidc_discovery_ca_pem: text("oidc_discovery_ca_pem")?,
            oidc_client_id: text("oidc_client_id")?,
            oidc_response_mode: String::new(),
            oidc_response_types: Vec::new(),
            jwks_url: text("jwks_url")?,
            jwks_ca_pem: text("jwks_ca_pem")?,
            jwt_validation_pubkeys: pem_list(body)?,
            bound_issuer: text("bound_issuer")?,
            jwt_supported_algs: body.list("jwt_supported_algs")?.unwrap_or_default(),
            default_role: text("default_role")?.to_ascii_lowercase(),
            preset,
            max_stale: body.duration("max_stale")?.map_or(STALE_SECS_USUAL, |stale| stale.as_secs()),
        };
        if let Some(preset) = preset {
            shown.fill(preset);
        }
        let client_secret = body.string("oidc_client_secret")?.filter(|secret| !secret.is_empty());
        let config = Self { shown, client_secret };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), VaultError> {
        let Shown { oidc_discovery_url, jwks_url, jwt_validation_pubkeys, bound_issuer, .. } = &self.shown;
        let ways = [!oidc_discovery_url.is_empty(), !jwks_url.is_empty(), !jwt_validation_pubkeys.is_empty()];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            let why = "exactly one of oidc_discovery_url, jwks_url and jwt_validation_pubkeys must be set";
            return Err(VaultError::Invalid(why.into()));
        }
        for (name, url) in [("oidc_discovery_url", oidc_discovery_url), ("jwks_url", jwks_url)] {
            if !url.is_empty() && !is_sound_url(url) {
                return Err(VaultError::field(name, "no https URL without a user, a query or a fragment"));
            }
        }
        // one key set may serve many issuers
        if !jwks_url.is_empty() && bound_issuer.is_empty() {
            return Err(VaultError::field("bound_issuer", "must be set beside jwks_url"));
        }
        if !oidc_discovery_url.is_empty() && !bound_issuer.is_empty() && bound_issuer != oidc_discovery_url {
            return Err(VaultError::field("bound_issuer", "is oidc_discovery_url where that is set, letter by letter"));
        }
        for (name, ca, url) in [
            ("oidc_discovery_ca_pem", &self.shown.oidc_discovery_ca_pem, oidc_discovery_url),
            ("jwks_ca_pem", &self.shown.jwks_ca_pem, jwks_url),
        ] {
            if !ca.is_empty() && (url.is_empty() || !ca.contains("-----BEGIN CERTIFICATE-----")) {
                return Err(VaultError::field(name, "no certificate in PEM, or beside no URL of its own"));
            }
        }
        if self.client_secret.is_some() && self.shown.oidc_client_id.is_empty() {
            return Err(VaultError::field("oidc_client_id", "must be set beside oidc_client_secret"));
        }
        if !self.shown.oidc_client_id.is_empty() && oidc_discovery_url.is_empty() {
            return Err(VaultError::field("oidc_client_id", "needs oidc_discovery_url"));
        }
        if !jwt_validation_pubkeys.is_empty() {
            KeySet::from_pem(jwt_validation_pubkeys.iter().map(String::as_str))
                .map_err(|error| VaultError::field("jwt_validation_pubkeys", error.0))?;
        }
        let named = &self.shown.jwt_supported_algs;
        if !named.is_empty() && Algorithms::parse(named.iter().map(String::as_str)).is_none() {
            let known = Algorithm::ALL.map(Algorithm::name).join(", ");
            return Err(VaultError::field("jwt_supported_algs", format!("only of {known}")));
        }
        if self.shown.max_stale > STALE_SECS_MAX {
            return Err(VaultError::field("max_stale", "more than seven days"));
        }
        Ok(())
    }

    pub(super) fn source(&self) -> Source {
        let pem = |text: &String| (!text.is_empty()).then(|| text.clone());
        let Shown { oidc_discovery_url, jwks_url, jwt_validation_pubkeys, .. } = &self.shown;
        if !oidc_discovery_url.is_empty() {
            Source::Discovery { issuer: oidc_discovery_url.clone(), ca: pem(&self.shown.oidc_discovery_ca_pem) }
        } else if !jwks_url.is_empty() {
            Source::Url { url: jwks_url.clone(), ca: pem(&self.shown.jwks_ca_pem) }
        } else {
            Source::Static(jwt_validation_pubkeys.clone())
        }
    }

    pub(super) fn ca(&self) -> Option<String> {
        Some(self.shown.oidc_discovery_ca_pem.clone()).filter(|pem| !pem.is_empty())
    }

    /// What `iss` must be; with keys of one's own it need not be anything.
    pub(super) fn issuer(&self) -> Option<&str> {
        let Shown { bound_issuer, oidc_discovery_url, .. } = &self.shown;
        [bound_issuer, oidc_discovery_url].into_iter().map(String::as_str).find(|issuer| !issuer.is_empty())
    }

    pub(super) fn algorithms(&self, of: Use) -> Algorithms {
        let named = Algorithms::parse(self.shown.jwt_supported_algs.iter().map(String::as_str));
        named.unwrap_or_else(|| match of {
            Use::Job => Algorithms::of(&Algorithm::ALL),
            // OpenID Connect Core §3.1.3.7: RS256 where nothing else is agreed
            Use::Browser => Algorithms::of(&[Algorithm::Rs256]),
        })
    }

    pub(super) fn max_stale(&self) -> Duration {
        Duration::from_secs(self.shown.max_stale)
    }

    pub(super) fn client_secret(&self) -> Option<&Zeroizing<String>> {
        self.client_secret.as_ref()
    }
}

impl Shown {
    /// What the preset knows and the body does not say.
    fn fill(&mut self, preset: Preset) {
        let elsewhere = !self.jwks_url.is_empty() || !self.jwt_validation_pubkeys.is_empty();
        if let Some(issuer) = preset.issuer() {
            if self.oidc_discovery_url.is_empty() && !elsewhere {
                issuer.clone_into(&mut self.oidc_discovery_url);
            }
            if self.bound_issuer.is_empty() && elsewhere {
                issuer.clone_into(&mut self.bound_issuer);
            }
        }
        if self.jwt_supported_algs.is_empty() {
            self.jwt_supported_algs = preset.algorithms().iter().map(|name| (*name).to_owned()).collect();
        }
    }
}

/// PEM texts: a list, or one text with several behind each other.
fn pem_list(body: &Body) -> Result<Vec<String>, VaultError> {
    let name = "jwt_validation_pubkeys";
    let given = match body.raw(name) {
        None => return Ok(Vec::new()),
        Some(raw) if raw.starts_with('[') => body.list(name)?.unwrap_or_default(),
        Some(_) => vec![body.string(name)?.unwrap_or_default().to_string()],
    };
    let all = given.join("\n");
    // what stands before the first is no key; commas may stand between
    let texts = all.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{}\n", rest.trim().trim_end_matches(',')));
    let texts: Vec<_> = texts.collect();
    match (all.trim().is_empty(), texts.len()) {
        (true, _) => Ok(Vec::new()),
        (false, 1..=KEYS_MAX) => Ok(texts),
        (false, _) => Err(VaultError::field(name, "1 to 16 public keys or certificates in PEM")),
    }
}

pub(super) fn path(view: &View) -> Result<EntryPath, VaultError> {
    view.path("config")
}

pub(super) async fn load(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    stored::load(view, &path(view)?).await
}

/// Perhaps from memory.
pub(super) async fn kept(view: &View) -> Result<Option<(Config, Revision)>, VaultError> {
    stored::recall(view, &path(view)?).await
}

pub(super) async fn read(view: &View) -> Result<Reply, VaultError> {
    let (config, _) = load(view).await?.ok_or(VaultError::NotFound)?;
    Reply::data(&config.shown)
}

pub(super) async fn write(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let config = Config::parse(&scope.call.body)?;
    // seen now, and not by the first who logs in
    if scope.call.body.bool("skip_jwks_validation")? != Some(true) {
        let key_sets = scope.vault.key_sets();
        key_sets.look(scope.vault, &config.source()).await.map_err(|trouble| {
            let field = if config.shown.jwks_url.is_empty() { "oidc_discovery_url" } else { "jwks_url" };
            VaultError::field(field, trouble.told())
        })?;
    }
    stored::change(scope, view, &path(view)?, |_: Option<Config>| Ok(&config)).await?;
    Ok(Reply::empty())
}

const BEGIN: &str = "-----BEGIN ";
const KEYS_MAX: usize = 16;
/// How old a key set may be that counts while its issuer is away.
const STALE_SECS_USUAL: u64 = 3600;
const STALE_SECS_MAX: u64 = 7 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use envelope::SecretBytes;

    fn parsed(json: &str) -> Result<Config, VaultError> {
        Config::parse(&Body::parse(SecretBytes::copy_from(json.as_bytes())).unwrap())
    }

    #[test]
    fn a_configuration_names_one_way_to_its_keys_and_no_weak_one() {
        let key = "-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\\n-----END PUBLIC KEY-----";
        for (json, sound) in [
            (r#"{"oidc_discovery_url": "https://issuer.example"}"#.to_owned(), true),
            (r#"{"oidc_discovery_url": "https://issuer.example/a/"}"#.to_owned(), true),
            (r#"{"oidc_discovery_url": "http://issuer.example"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "http://127.0.0.1:8080"}"#.to_owned(), true),
            (r#"{"oidc_discovery_url": "http://127.0.0.1.evil.example"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "https://a@issuer.example"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "https://issuer.example?a=b"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "https://issuer.example#a"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "file:///etc/passwd"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "https://i.example", "bound_issuer": "https://i.example/"}"#.to_owned(), false),
            (r#"{"oidc_discovery_url": "https://i.example", "jwks_url": "https://i.example/k"}"#.to_owned(), false),
            (r#"{"jwks_url": "https://i.example/k"}"#.to_owned(), false),
            (r#"{"jwks_url": "https://i.example/k", "bound_issuer": "i"}"#.to_owned(), true),
            (r#"{"jwks_url": "https://i.example/k", "bound_issuer": "i", "jwks_ca_pem": "x"}"#.to_owned(), false),
            ("{}".to_owned(), false),
            (r#"{"preset": "github"}"#.to_owned(), true),
            (r#"{"preset": "aws"}"#.to_owned(), false),
            (r#"{"preset": "aws", "oidc_discovery_url": "https://x.tokens.sts.global.api.aws"}"#.to_owned(), true),
            (r#"{"preset": "bitbucket"}"#.to_owned(), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}"}}"#), true),
            (format!(r#"{{"jwt_validation_pubkeys": ["{key}", "{key}"]}}"#), true),
            (r#"{"jwt_validation_pubkeys": "no key"}"#.to_owned(), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "jwt_supported_algs": ["HS256"]}}"#), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "jwt_supported_algs": "none"}}"#), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "jwt_supported_algs": "EdDSA"}}"#), true),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "oidc_client_id": "c"}}"#), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "max_stale": "8d"}}"#), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "provider_config": {{"provider": "azure"}}}}"#), false),
            (format!(r#"{{"jwt_validation_pubkeys": "{key}", "oidc_response_mode": "form_post"}}"#), false),
        ] {
            assert_eq!(parsed(&json).is_ok(), sound, "{json}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let json =
            r#"{"oidc_discovery_url": "https://i.example", "oidc_client_id": "c", "oidc_client_secret": "hush"}"#;
        let config = parsed(json).unwrap();
        assert!(!serde_json::to_string(&config.shown).unwrap().contains("hush"));
        let stored: Config = stored::decode(&stored::encode(&config).unwrap()).unwrap();
        assert_eq!(stored.client_secret().map(|secret| secret.as_str()), Some("hush"));
        let github = parsed(r#"{"preset": "github"}"#).unwrap();
        assert_eq!(github.issuer(), Some("https://token.actions.githubusercontent.com"));
        assert!(!github.algorithms(Use::Job).has(Algorithm::Es256));
    }
}
