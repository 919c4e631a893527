//! Logins by the browser: OpenID Connect's code flow with PKCE (RFC 7636, S256), for people.
//!
//! Always: `state` carries what the callback needs, sealed for this mount, for five minutes: nothing is kept for logins that
//! never come back. It, its nonce and its verifier count once: their mark and the token are one commit.
//! Always: who fetches the token is who began, where the client gave a nonce of its own.
//! Never: a code, a verifier, a token or the client's secret in a record or a log.

use super::bound::{self, Taken};
use super::config::{Config, Use};
use super::login::{Way, find, mark, proven};
use super::role::{Role, RoleType, Roles};
use super::{
    ATTEMPTS_MAX, CLIENT_NONCE_OTHER, ISSUER_OTHER, NONCE_OTHER, NOT_CONFIGURED, PARTY_OTHER, PROVIDER_REFUSED,
    REDIRECT_OTHER, STATE_MALFORMED, STATE_OVER, STATE_USED, SUBJECT_OTHER, TOO_OLD, refused,
};
use crate::auth::jose::{self, Claims, Provider, Rules, Verified, verify};
use crate::auth::proven;
use crate::body::Strict;
use crate::error::VaultError;
use crate::outside::{Ask, Method};
use crate::reply::Reply;
use crate::scope::Scope;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use envelope::{Timestamp, mac};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A login that was begun, as its `state` carries it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Begun {
    role: String,
    redirect_uri: String,
    nonce: String,
    verifier: String,
    client_nonce: String,
    /// Unix milliseconds.
    at: u64,
}

/// RFC 6749 §5.1, and OpenID Connect Core §3.1.3.3.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: String,
}

pub(super) async fn auth_url(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let named = body.string("role")?.unwrap_or_default();
    let redirect_uri = body.required("redirect_uri")?;
    let client_nonce = body.string("client_nonce")?.unwrap_or_default();
    if client_nonce.len() > CLIENT_NONCE_BYTES_MAX || redirect_uri.len() > URI_BYTES_MAX {
        return Err(VaultError::field("client_nonce", "longer than 128 bytes, or redirect_uri than 512"));
    }
    let found = find(roles, &named, RoleType::Oidc, Way::PerhapsFromMemory).await?;
    if !found.role.allowed_redirect_uris.iter().any(|allowed| is_allowed(allowed, &redirect_uri)) {
        return Err(refused(REDIRECT_OTHER));
    }
    let client_id = client_id(&found.config)?;
    let provider = provider(scope, &found.config).await?;
    let random = |bytes: [u8; 32]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let begun = Begun {
        role: found.role.name.clone(),
        redirect_uri: redirect_uri.to_string(),
        nonce: random(scope.vault.barrier().random()?),
        verifier: random(scope.vault.barrier().random()?),
        client_nonce: client_nonce.to_string(),
        at: scope.now().unix_millis(),
    };
    let mut scopes = vec!["openid"];
    scopes.extend(found.role.oidc_scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(mac::sha256(begun.verifier.as_bytes()));
    let max_age = found.role.max_age.to_string();
    let state = begun.seal(scope, roles)?;
    let mut asked = vec![
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect_uri.as_str()),
        ("state", state.as_str()),
        ("nonce", begun.nonce.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let scopes = scopes.join(" ");
    asked.push(("scope", &scopes));
    if found.role.max_age > 0 {
        asked.push(("max_age", &max_age));
    }
    let endpoint = &provider.authorization_endpoint;
    let joint = if endpoint.contains('?') { '&' } else { '?' };
    Reply::data(&BTreeMap::from([("auth_url", format!("{endpoint}{joint}{}", *form(&asked)))]))
}

pub(super) async fn callback(scope: &Scope<'_>, roles: &Roles<'_>) -> Result<Reply, VaultError> {
    let parameter = |name| scope.call.parameter(name).unwrap_or_default();
    let begun = Begun::open(scope, roles, parameter("state"))?;
    let ends = Timestamp::from_unix_millis(begun.at).plus(STATE_LIVES);
    if scope.now() >= ends {
        return Err(refused(STATE_OVER));
    }
    if !mac::equal(begun.client_nonce.as_bytes(), parameter("client_nonce").as_bytes()) {
        return Err(refused(CLIENT_NONCE_OTHER));
    }
    if !parameter("error").is_empty() || parameter("code").is_empty() {
        tracing::warn!(mount = scope.mount_path, error = plain(parameter("error")), "a provider refused a login");
        return Err(refused(PROVIDER_REFUSED));
    }
    // a code is spent once, and what memory holds may be over by then
    let found = find(roles, &begun.role, RoleType::Oidc, Way::FromTheStore).await?;
    let provider = provider(scope, &found.config).await?;
    // RFC 9207 §2.4
    if ![provider.issuer.as_str(), ""].contains(&parameter("iss")) {
        return Err(refused(ISSUER_OTHER));
    }
    // a login that has succeeded spends no second code
    mark(scope, roles, scope.batch()?, &begun.nonce, ends, STATE_USED).await?;
    let tokens = exchange(scope, &found.config, &provider, &begun).await?;
    let verified = look_at(scope, (&found.config, &found.role), &tokens.id_token, &begun).await?;
    let verified = with_userinfo(scope, (&found.config, &found.role), &provider, &tokens, verified).await?;
    let audiences = audiences(&found.config, &found.role)?;
    bound::check(&found.role, &verified.claims, &audiences, scope.now()).map_err(refused)?;
    let judged_by = found.still_so(scope, roles)?.preconditions;
    for _ in 0..ATTEMPTS_MAX {
        let taken: Taken = bound::take(&found.role, &verified.claims).map_err(refused)?;
        let batch = found.still_so(scope, roles)?;
        let batch = mark(scope, roles, batch, &begun.nonce, ends, STATE_USED).await?;
        let (groups, ends) = (taken.groups.clone(), None);
        let proven = proven(&found, &verified, taken, ends);
        if let Some(reply) = proven::let_in_of(scope, batch, proven, groups.as_deref()).await? {
            return Ok(reply);
        }
        // by another configuration or role nothing was judged, and the code is spent: log in again
        let found = find(roles, &begun.role, RoleType::Oidc, Way::FromTheStore).await?;
        if found.still_so(scope, roles)?.preconditions != judged_by {
            return Err(VaultError::Conflict);
        }
    }
    Err(VaultError::Conflict)
}

fn client_id(config: &Config) -> Result<&str, VaultError> {
    Some(config.shown.oidc_client_id.as_str()).filter(|id| !id.is_empty()).ok_or(refused(NOT_CONFIGURED))
}

async fn provider(scope: &Scope<'_>, config: &Config) -> Result<Provider, VaultError> {
    let key_sets = scope.vault.key_sets();
    let issuer = key_sets.of(scope.vault, &config.source(), None, config.max_stale(), scope.now()).await?;
    let provider = issuer.provider.clone().ok_or(refused(NOT_CONFIGURED))?;
    if provider.authorization_endpoint.is_empty() || provider.token_endpoint.is_empty() {
        return Err(refused(NOT_CONFIGURED));
    }
    Ok(provider)
}

/// The role's; the client itself is always among whom the token is for.
fn audiences(config: &Config, role: &Role) -> Result<Vec<String>, VaultError> {
    let own = vec![client_id(config)?.to_owned()];
    Ok(if role.bound_audiences.is_empty() { own } else { role.bound_audiences.clone() })
}

/// The code for tokens: RFC 6749 §4.1.3, RFC 7636 §4.5.
async fn exchange(
    scope: &Scope<'_>,
    config: &Config,
    provider: &Provider,
    begun: &Begun,
) -> Result<Tokens, VaultError> {
    let client_id = client_id(config)?;
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("code", scope.call.parameter("code").unwrap_or_default()),
        ("redirect_uri", begun.redirect_uri.as_str()),
        ("code_verifier", begun.verifier.as_str()),
    ];
    let text = |text: &str| Zeroizing::new(text.to_owned());
    let mut headers =
        vec![("accept", text("application/json")), ("content-type", text("application/x-www-form-urlencoded"))];
    let methods = &provider.token_endpoint_auth_methods_supported;
    let has = |name: &str| methods.iter().any(|method| method == name);
    match config.client_secret() {
        // OpenID Connect Discovery §3: the basic one where nothing is said
        Some(secret) if methods.is_empty() || has("client_secret_basic") || !has("client_secret_post") => {
            // RFC 6749 §2.3.1: both are encoded before they are joined
            let pair = Zeroizing::new(format!("{}:{}", *encoded(client_id), *encoded(secret)));
            headers
                .push(("authorization", Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())))));
        }
        Some(secret) => fields.extend([("client_id", client_id), ("client_secret", secret.as_str())]),
        None => fields.push(("client_id", client_id)),
    }
    let ask = Ask {
        method: Method::Post,
        url: provider.token_endpoint.clone(),
        headers,
        body: Zeroizing::new(form(&fields).as_bytes().to_vec()),
        ca: config.ca(),
        answer_is_signed: false,
        answer_bytes_max: ANSWER_BYTES_MAX,
        within: WITHIN,
    };
    let told = scope.vault.outside().ask(&provider.token_endpoint, ask).await?;
    if told.status != 200 {
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }
        let error = serde_json::from_slice(&told.body).map(|Refused { error }| error).unwrap_or_default();
        tracing::warn!(
            mount = scope.mount_path,
            status = told.status,
            error = plain(&error),
            "a provider refused a code"
        );
        return Err(refused(PROVIDER_REFUSED));
    }
    let sound = serde_json::from_slice::<Strict>(&told.body).is_ok();
    let tokens = if sound { serde_json::from_slice(&told.body).ok() } else { None };
    tokens.ok_or(refused(PROVIDER_REFUSED))
}

/// OpenID Connect Core §3.1.3.7.
async fn look_at(
    scope: &Scope<'_>,
    (config, role): (&Config, &Role),
    id_token: &str,
    begun: &Begun,
) -> Result<Verified, VaultError> {
    let wanted = jose::key_id(id_token).map_err(|refusal| refused(refusal.cause()))?;
    let key_sets = scope.vault.key_sets();
    let now = scope.now();
    let issuer = key_sets.of(scope.vault, &config.source(), wanted.as_deref(), config.max_stale(), now).await?;
    let (algorithms, kinds) = (config.algorithms(Use::Browser), role.kinds());
    let rules = Rules {
        algorithms: &algorithms,
        now,
        leeway_after: role.leeway_after(),
        leeway_before: role.leeway_before(),
        kinds: &kinds,
    };
    let verified = verify(id_token, &issuer.keys, &rules).map_err(|refusal| refused(refusal.cause()))?;
    let (claims, client_id) = (&verified.claims, client_id(config)?);
    if config.issuer().is_none() || claims.issuer() != config.issuer() {
        return Err(refused(ISSUER_OTHER));
    }
    if !claims.is_for(&[client_id.to_owned()]) {
        return Err(refused(super::AUDIENCE_OTHER));
    }
    let party = claims.find("azp").map(|party| party.as_str() == Some(client_id));
    if party == Some(false) || (party.is_none() && claims.audiences().len() > 1) {
        return Err(refused(PARTY_OTHER));
    }
    if !claims.text("nonce").is_some_and(|nonce| mac::equal(nonce.as_bytes(), begun.nonce.as_bytes())) {
        return Err(refused(NONCE_OTHER));
    }
    if role.max_age > 0 {
        let shown = claims.date("auth_time").ok().flatten().ok_or(refused(TOO_OLD))?;
        if now.since(shown) > Duration::from_secs(role.max_age).saturating_add(role.leeway_after()) {
            return Err(refused(TOO_OLD));
        }
    }
    Ok(verified)
}

/// With what the provider tells beside the ID token, where the role names a claim that is not in that (§5.3).
async fn with_userinfo(
    scope: &Scope<'_>,
    (config, role): (&Config, &Role),
    provider: &Provider,
    tokens: &Tokens,
    verified: Verified,
) -> Result<Verified, VaultError> {
    let names =
        role.bound_claims.keys().chain(role.claim_mappings.keys()).chain([&role.user_claim, &role.groups_claim]);
    let is_whole = names.filter(|name| !name.is_empty()).all(|name| verified.claims.find(name).is_some());
    if is_whole || provider.userinfo_endpoint.is_empty() || tokens.access_token.is_empty() {
        return Ok(verified);
    }
    let bearer = Zeroizing::new(format!("Bearer {}", tokens.access_token));
    let ask = Ask {
        method: Method::Get,
        url: provider.userinfo_endpoint.clone(),
        headers: vec![("accept", Zeroizing::new("application/json".to_owned())), ("authorization", bearer)],
        body: Zeroizing::default(),
        ca: config.ca(),
        answer_is_signed: false,
        answer_bytes_max: ANSWER_BYTES_MAX,
        within: WITHIN,
    };
    let told = scope.vault.outside().ask(&provider.userinfo_endpoint, ask).await?;
    let info = Some(&told).filter(|told| told.status == 200).and_then(|told| Claims::parse(&told.body));
    let info = info.ok_or(refused(PROVIDER_REFUSED))?;
    // §5.3.2: else it is another person's
    if verified.claims.subject().is_none() || info.subject() != verified.claims.subject() {
        return Err(refused(SUBJECT_OTHER));
    }
    Ok(Verified { claims: verified.claims.filled_from(info), ..verified })
}

impl Begun {
    fn seal(&self, scope: &Scope<'_>, roles: &Roles<'_>) -> Result<String, VaultError> {
        let text = serde_json::to_vec(self).map_err(|_| VaultError::Internal("a state cannot be written".into()))?;
        let text = Zeroizing::new(text);
        let sealed = scope.vault.barrier().seal(&roles.view.path(STATE)?, &text)?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What this mount gave out, and nothing else.
    fn open(scope: &Scope<'_>, roles: &Roles<'_>, state: &str) -> Result<Self, VaultError> {
        let malformed = || refused(STATE_MALFORMED);
        if state.is_empty() || state.len() > STATE_BYTES_MAX {
            return Err(malformed());
        }
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(state).map_err(|_| malformed())?;
        let text = match scope.vault.barrier().open(&roles.view.path(STATE)?, &sealed) {
            Ok(text) => text,
            Err(storage::BarrierError::Closed) => return Err(VaultError::Sealed),
            Err(_) => return Err(malformed()),
        };
        serde_json::from_slice(text.expose()).map_err(|_| malformed())
    }
}

/// Word for word; on a literal loopback address at any port, which a program may not be able to choose (RFC 8252 §7.3).
fn is_allowed(allowed: &str, asked: &str) -> bool {
    fn without_port(uri: &str) -> Option<(&str, &str)> {
        let own = ["http://127.0.0.1", "http://[::1]"].into_iter().find(|own| uri.starts_with(own))?;
        let (host, rest) = uri.split_at_checked(own.len())?;
        let rest = match rest.strip_prefix(':') {
            None => rest,
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                rest.split_at_checked(end).filter(|(port, _)| port.parse::<u16>().is_ok())?.1
            }
        };
        (rest.is_empty() || rest.starts_with('/')).then_some((host, rest))
    }
    allowed == asked || without_port(allowed).is_some_and(|allowed| without_port(asked) == Some(allowed))
}

/// `application/x-www-form-urlencoded`, in memory that is wiped.
fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    let bytes = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut out = Zeroizing::new(String::with_capacity(bytes));
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(&encoded(value));
    }
    out
}

fn encoded(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

/// What a log may hold of somebody else's text.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).take(64).collect()
}

const STATE: &str = "state";
const STATE_LIVES: Duration = Duration::from_secs(300);
const STATE_BYTES_MAX: usize = 4096;
const CLIENT_NONCE_BYTES_MAX: usize = 128;
const URI_BYTES_MAX: usize = 512;
const ANSWER_BYTES_MAX: usize = 64 << 10;
const WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_comes_back_to_where_it_may_and_nowhere_else() {
        for (allowed, asked, may) in [
            ("http://localhost:8250/oidc/callback", "http://localhost:8250/oidc/callback", true),
            ("http://localhost:8250/oidc/callback", "http://localhost:8251/oidc/callback", false),
            ("http://127.0.0.1/oidc/callback", "http://127.0.0.1:40123/oidc/callback", true),
            ("http://127.0.0.1:1/oidc/callback", "http://127.0.0.1:2/oidc/callback", true),
            ("http://[::1]/oidc/callback", "http://[::1]:2/oidc/callback", true),
            ("http://127.0.0.1/oidc/callback", "http://127.0.0.1:2/other", false),
            ("http://127.0.0.1/oidc/callback", "http://127.0.0.1.evil.example/oidc/callback", false),
            ("http://127.0.0.1/oidc/callback", "http://127.0.0.1:2@evil.example/oidc/callback", false),
            ("http://127.0.0.1/oidc/callback", "http://127.0.0.1:99999/oidc/callback", false),
            ("http://127.0.0.1/oidc/callback", "https://127.0.0.1/oidc/callback", false),
            ("https://a.example/c", "https://a.example/c/", false),
            ("https://a.example/c", "https://a.example/c?x", false),
        ] {
            assert_eq!(is_allowed(allowed, asked), may, "{allowed} {asked}");
        }
        assert_eq!(*form(&[("a", "b c&d"), ("e", "ü/~")]), "a=b%20c%26d&e=%C3%BC%2F~");
    }
}
