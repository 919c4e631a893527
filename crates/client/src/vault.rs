//! The vault as an application uses it: logged in, kept so, its secrets read and its leases kept alive.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use client::{Input, Kv, Login, Options, SecretId, Vault};
//!
//! let login = Login::AppRole {
//!     mount: "approle".into(),
//!     role_id: Input::File("/etc/app/role-id".into()),
//!     secret_id: SecretId::Wrapped {
//!         token: Input::File("/run/app/wrapping-token".into()),
//!         creation_path: "auth/approle/role/web/secret-id".into(),
//!     },
//! };
//! let vault = Vault::login(Options::new("https://vault.example:8200"), login).await?;
//! let api_key = vault.kv("secret", "app/api", Kv::Current).await?.field("key")?;
//! let database = vault.credentials("database/creds/app").await?.revoke_on_drop();
//! let user = database.secret().field("username")?;
//! // connect; when this returns, ask for new ones and connect again
//! database.ending().await;
//! # Ok(()) }
//! ```
//!
//! Always: the token is renewed at two thirds of its time, and another one bought before its longest life ends or when it
//! was revoked; the leases of a token that is no longer used say that they end.
//! Always: a token is shown beside the client certificate that it was bought with. Where that was replaced, it is shown beside the
//! other one if it counts there, and another one is bought if not.
//! Always: waiting has bounds here; who wants to wait for ever asks again.
//! Never: a write made twice because its answer was lost, unless its caller allows that.

use crate::lane::Shows;
use crate::lease::Lease;
use crate::login::{LoggedIn, Login, Memory, public};
use crate::secret::{Envelope, Secret};
use crate::stamp::{Followed, LOOKS_EVERY};
use crate::timing::{Due, Spread, Term, back_off};
use crate::{ApiRequest, Client, ClientCertificate, Error, Method, Options, SecretBytes};
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// A vault, and who asks it. Clones are the same.
#[derive(Clone)]
pub struct Vault(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    /// Without a token.
    options: Options,
    login: Login,
    memory: Mutex<Memory>,
    pub(crate) session: watch::Sender<Session>,
}

/// One token's time.
#[derive(Clone)]
pub(crate) struct Session {
    /// Higher with each other token.
    pub(crate) number: u64,
    pub(crate) client: Client,
    token: Option<Arc<SecretBytes>>,
    term: Term,
    trouble: Option<Arc<str>>,
}

/// A login that did not succeed, and may yet.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NoLogin {
    #[source]
    pub error: Error,
    options: Box<Options>,
    login: Login,
    memory: Memory,
}

/// How it stands with the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Higher with each other token; the leases of an older one end.
    pub session: u64,
    /// Nothing where it does not end.
    pub ends: Option<Instant>,
    /// Why there is no other token yet, where one is needed.
    pub trouble: Option<String>,
}

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kv<'a> {
    Current,
    /// `current`, `pending`, `previous`.
    Label(&'a str),
    Version(u32),
}

/// What was read, with or without a lease.
#[derive(Debug)]
pub enum Obtained {
    Plain(Secret),
    Leased(Lease),
}

/// May a request be made again where nobody knows whether it was carried out?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Twice is as good as once.
    Safe,
    Never,
}

impl Vault {
    /// Logs in, and stays so as long as this or a clone of it lives. Within a runtime.
    pub async fn login(options: Options, login: Login) -> Result<Self, NoLogin> {
        let mut memory = Memory::default();
        let session = match first(&options, &login, &mut memory).await {
            Ok(session) => session,
            Err(error) => return Err(NoLogin { error, options: Box::new(options), login, memory }),
        };
        Ok(Self::start(options, login, memory, session))
    }

    fn start(options: Options, login: Login, memory: Memory, session: Session) -> Self {
        let session = watch::Sender::new(session);
        let shared = Arc::new(Shared { options, login, memory: Mutex::new(memory), session });
        tokio::spawn(keep(Arc::downgrade(&shared)));
        Self(shared)
    }

    pub fn standing(&self) -> Standing {
        self.0.session.borrow().standing()
    }

    /// Returns when it stands otherwise than it did.
    pub async fn changed(&self, than: &Standing) -> Standing {
        let mut watch = self.0.session.subscribe();
        loop {
            let now = watch.borrow_and_update().standing();
            if now != *than || watch.changed().await.is_err() {
                return now;
            }
        }
    }

    /// Shows the client certificate that the files hold now, without waiting until it is seen that they were replaced.
    pub async fn show_newest(&self) -> Result<(), Error> {
        let session = self.0.session.borrow().clone();
        if self.0.is_outdated(&session) { self.0.move_on(&session).await } else { Ok(()) }
    }

    /// The token, for who hands it on. None where a client certificate stands for it.
    pub fn token(&self) -> Option<SecretBytes> {
        self.0.session.borrow().token.as_ref().map(|token| SecretBytes::copy_from(token.expose()))
    }

    /// Paths stand below `/v1/`, percent-encoded where need be.
    pub async fn read(&self, path: &str) -> Result<Secret, Error> {
        Secret::parse(&self.call(Method::GET, path, None, Repeat::Safe).await?)
    }

    /// `body` is JSON.
    pub async fn write(&self, path: &str, body: &SecretBytes, repeat: Repeat) -> Result<Secret, Error> {
        Secret::parse(&self.call(Method::PUT, path, Some(body), repeat).await?)
    }

    /// The names in a folder; none where there is no such folder.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Names {
            keys: Vec<String>,
        }
        match self.call(Method::GET, &format!("{path}?list=true"), None, Repeat::Safe).await {
            Ok(answer) => Ok(Secret::parse(&answer)?.parse_as::<Names>()?.keys),
            Err(error) if error.is_absent() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        self.call(Method::DELETE, path, None, Repeat::Safe).await.map(drop)
    }

    /// A secret of KV version 2.
    pub async fn kv(&self, mount: &str, path: &str, which: Kv<'_>) -> Result<Secret, Error> {
        self.read(&which.path(mount, path)).await?.member("data")
    }

    /// A new version of a secret of KV version 2, `data` being a JSON object; with `pending` nobody gets it who does not ask.
    pub async fn kv_put(&self, mount: &str, path: &str, data: &SecretBytes, label: &str) -> Result<Secret, Error> {
        let head = format!("{{\"options\":{},\"data\":", json!({ "label": label }));
        let whole = SecretBytes::init_with(head.len() + data.len() + 1, |bytes| {
            let (begin, rest) = bytes.split_at_mut(head.len());
            begin.copy_from_slice(head.as_bytes());
            rest[..data.len()].copy_from_slice(data.expose());
            rest[data.len()] = b'}';
        });
        self.write(&Kv::Current.path(mount, path), &whole, Repeat::Never).await
    }

    /// What was wrapped at `creation_path`, once. A refusal is an alarm: somebody was there before.
    pub async fn unwrap(&self, token: &SecretBytes, creation_path: &str) -> Result<Secret, Error> {
        let own = self.0.session.borrow().client.with_token(Some(token))?;
        let looked = own.api(ApiRequest::new(Method::GET, "sys/wrapping/lookup".to_owned())).await?;
        check_creation_path(&looked, creation_path)?;
        Secret::parse(&own.api(ApiRequest::new(Method::PUT, "sys/wrapping/unwrap".to_owned())).await?)
    }

    /// The token that fetches `body` once, within `ttl`.
    pub async fn wrap(&self, body: &SecretBytes, ttl: Duration) -> Result<SecretBytes, Error> {
        let client = self.0.session.borrow().client.clone();
        let request = ApiRequest {
            body: Some(SecretBytes::copy_from(body.expose())),
            wrap_ttl: Some(ttl),
            ..ApiRequest::new(Method::PUT, "sys/wrapping/wrap".to_owned())
        };
        Envelope::parse(&client.api(request).await?)?.wrapping_token()
    }

    /// Credentials that are made for the asker (`database/creds/ROLE`), kept alive as long as they are held.
    pub async fn credentials(&self, path: &str) -> Result<Lease, Error> {
        match self.obtain(path).await? {
            Obtained::Leased(lease) => Ok(lease),
            Obtained::Plain(_) => Err(Error::NoLease),
        }
    }

    /// What stands at a path, with its lease kept alive where it comes with one.
    pub async fn obtain(&self, path: &str) -> Result<Obtained, Error> {
        let asked = Instant::now();
        let (answer, session) = self.answered(Method::GET, path, None, Repeat::Safe).await?;
        let secret = Secret::parse(&answer)?;
        Ok(Lease::hold(self.clone(), secret, session, asked)
            .map_or_else(|plain| Obtained::Plain(*plain), Obtained::Leased))
    }

    /// Ends the token and what it was lent, where it was bought here.
    pub async fn log_out(&self) -> Result<(), Error> {
        if !self.0.login.owns_token() {
            return Ok(());
        }
        let client = self.0.session.borrow().client.clone();
        client.api(ApiRequest::new(Method::PUT, "auth/token/revoke-self".to_owned())).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&SecretBytes>,
        repeat: Repeat,
    ) -> Result<SecretBytes, Error> {
        self.answered(method, path, body, repeat).await.map(|(answer, _)| answer)
    }

    /// A call of the native API as whom it is logged in; with another token where that one has ended.
    pub async fn native<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.held(repeat, call).await.map(|(answer, _)| answer)
    }

    async fn answered(
        &self,
        method: Method,
        path: &str,
        body: Option<&SecretBytes>,
        repeat: Repeat,
    ) -> Result<(SecretBytes, u64), Error> {
        let call = |client: Client| {
            let body = body.map(|body| SecretBytes::copy_from(body.expose()));
            let request = ApiRequest { body, ..ApiRequest::new(method.clone(), path.trim_matches('/').to_owned()) };
            async move { client.api(request).await }
        };
        self.held(repeat, call).await
    }

    /// With the session whose token was answered: another one may have been bought meanwhile.
    async fn held<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<(T, u64), Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (mut failures, mut logged_in_again, mut moved) = (0, false, false);
        loop {
            let session = self.0.session.borrow().clone();
            let error = match call(session.client.clone()).await {
                Ok(answer) => return Ok((answer, session.number)),
                Err(error) => error,
            };
            let not_done = error.is_forbidden() || error.is_untrusted() || error.may_be_repeated(repeat);
            if !moved && not_done && self.0.is_outdated(&session) {
                moved = true;
                if self.0.move_on(&session).await.is_ok() {
                    continue;
                }
            }
            if error.may_be_repeated(repeat) && failures < RETRIES_MAX {
                failures += 1;
                let wait =
                    back_off(failures, error.refusal().and_then(|refusal| refusal.retry_after), Spread::random());
                tokio::time::sleep(wait).await;
            } else if error.is_forbidden() && !logged_in_again && session.has_ended().await {
                logged_in_again = true;
                self.0.again(session.number).await?;
            } else {
                return Err(error);
            }
        }
    }
}

/// What `sys/wrapping/lookup` answered is of an answer that was wrapped at this path.
pub fn check_creation_path(looked: &SecretBytes, expected: &str) -> Result<(), Error> {
    let found = Secret::parse(looked)?.field("creation_path")?;
    let found = String::from_utf8_lossy(found.as_ref().map_or(&b""[..], SecretBytes::expose)).into_owned();
    if found == expected.trim_matches('/') {
        return Ok(());
    }
    Err(Error::WrappedElsewhere { found, expected: expected.to_owned() })
}

impl NoLogin {
    /// Tries again, remembering which wrapping token was shown.
    pub async fn again(mut self) -> Result<Vault, Self> {
        match first(&self.options, &self.login, &mut self.memory).await {
            Ok(session) => Ok(Vault::start(*self.options, self.login, self.memory, session)),
            Err(error) => Err(Self { error, ..self }),
        }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Vault").field(&self.standing()).finish()
    }
}

impl Kv<'_> {
    /// Where the API has it.
    pub fn path(self, mount: &str, path: &str) -> String {
        let encoded = path.trim_matches('/').split('/').map(encode).collect::<Vec<_>>().join("/");
        let query = match self {
            Self::Current => String::new(),
            Self::Label(label) => format!("?label={}", encode(label)),
            Self::Version(version) => format!("?version={version}"),
        };
        format!("{}/data/{encoded}{query}", mount.trim_matches('/'))
    }
}

/// What RFC 3986 §2.3 does not leave as it is, percent-encoded.
pub(crate) fn encode(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

impl Session {
    fn standing(&self) -> Standing {
        let trouble = self.trouble.as_deref().map(str::to_owned);
        Standing { session: self.number, ends: self.term.ends(), trouble }
    }

    /// Is it the token that is refused, and not what it asked for?
    async fn has_ended(&self) -> bool {
        let asked = self.client.api(ApiRequest::new(Method::GET, "auth/token/lookup-self".to_owned()));
        self.token.is_some() && asked.await.is_err_and(|error| error.is_forbidden())
    }
}

async fn first(options: &Options, login: &Login, memory: &mut Memory) -> Result<Session, Error> {
    let (stranger, found) = attempts(options, login, memory).await?;
    let LoggedIn { token, term } = found;
    let client = stranger.with_token(token.as_ref())?;
    Ok(Session { number: 1, client, token: token.map(Arc::new), term, trouble: None })
}

/// A login as often as it may help within a few seconds. What is transient is the server's, not the login's.
async fn attempts(options: &Options, login: &Login, memory: &mut Memory) -> Result<(Client, LoggedIn), Error> {
    let mut failures = 0;
    loop {
        let outcome = async {
            let stranger = Client::connect_as(options, None, Shows::First).await?;
            let found = login.run(&stranger, memory).await?;
            Ok::<_, Error>((stranger, found))
        };
        match outcome.await {
            Err(error) if error.may_be_repeated(Repeat::Never) && failures < RETRIES_MAX => {
                failures += 1;
                let asked = error.refusal().and_then(|refusal| refusal.retry_after);
                tokio::time::sleep(back_off(failures, asked, Spread::random())).await;
            }
            outcome => return outcome,
        }
    }
}

impl Shared {
    /// Another token than that of session `than`, unless there is one already.
    async fn again(&self, than: u64) -> Result<(), Error> {
        let mut memory = self.memory.lock().await;
        if self.session.borrow().number != than {
            return Ok(());
        }
        let outcome = attempts(&self.options, &self.login, &mut memory).await;
        let outcome = outcome.and_then(|(stranger, found)| Ok((stranger.with_token(found.token.as_ref())?, found)));
        match outcome {
            Ok((client, LoggedIn { token, term })) => self.session.send_modify(|session| {
                let same = match (&session.token, &token) {
                    (Some(old), Some(new)) => envelope::mac::equal(old.expose(), new.expose()),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                let number = if same { session.number } else { session.number + 1 };
                *session = Session { number, client, token: token.map(Arc::new), term, trouble: None };
            }),
            Err(error) => {
                self.session.send_modify(|session| session.trouble = Some(error.to_string().into()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the files hold another sound certificate than the session shows.
    fn is_outdated(&self, session: &Session) -> bool {
        // what is half written is no other one yet
        let certificate = self.options.certificate.as_ref();
        certificate.is_some_and(|certificate| session.client.shows_other_than(certificate).unwrap_or(false))
    }

    /// Shows the certificate that the files hold now, with the token where it counts there, or else with another.
    async fn move_on(&self, session: &Session) -> Result<(), Error> {
        if let Some(token) = session.token.as_ref().filter(|_| !self.login.is_by_certificate()) {
            let client = Client::connect_as(&self.options, Some(token), Shows::First).await?;
            match client.api(ApiRequest::new(Method::GET, "auth/token/lookup-self".to_owned())).await {
                Ok(_) => {
                    self.session.send_if_modified(|current| {
                        let ours = current.number == session.number;
                        if ours {
                            (current.client, current.trouble) = (client, None);
                        }
                        ours
                    });
                    return Ok(());
                }
                Err(error) if !error.is_forbidden() => return Err(error),
                Err(_) => {}
            }
        }
        self.again(session.number).await
    }

    /// What the token's time is after a renewal.
    async fn renew(&self, session: &Session) -> Result<(), Error> {
        let now = Instant::now();
        let body = Some(public(&json!({})));
        let request = ApiRequest { body, ..ApiRequest::new(Method::PUT, "auth/token/renew-self".to_owned()) };
        let answer = session.client.api(request).await?;
        let auth = Envelope::parse(&answer)?.auth()?;
        self.session.send_if_modified(|current| {
            let ours = current.number == session.number;
            if ours {
                current.term = current.term.renewed(now, Duration::from_secs(auth.lease_duration), auth.renewable);
                current.trouble = None;
            }
            ours
        });
        Ok(())
    }
}

/// Renews and replaces the token, and shows what replaces the certificate, until nobody holds the vault any more.
async fn keep(shared: Weak<Shared>) {
    let Some(certificate) = shared.upgrade().map(|shared| shared.options.certificate.clone()) else { return };
    let mut failures = 0;
    loop {
        let Some(mut watch) = shared.upgrade().map(|shared| shared.session.subscribe()) else { return };
        let session = watch.borrow_and_update().clone();
        let at = match session.term.due(Spread::random()) {
            Due::Never => None,
            Due::Renew(at) | Due::Replace(at) => Some(at),
        };
        let waited = async {
            match at {
                None => std::future::pending().await,
                Some(at) => tokio::time::sleep_until(at.into()).await,
            }
        };
        let is_due = tokio::select! {
            () = waited => true,
            () = replaced(certificate.as_ref(), &session, failures) => false,
            changed = watch.changed() => if changed.is_err() { return } else { continue },
        };
        drop(watch);
        let Some(shared) = shared.upgrade() else { return };
        if is_due {
            attend(&shared, &session).await;
        } else {
            failures = if shared.move_on(&session).await.is_ok() { 0 } else { failures.saturating_add(1) };
        }
    }
}

/// Returns when the client's certificate is another one; never where there is none. What the vault did not take before is waited
/// for ever longer.
async fn replaced(certificate: Option<&ClientCertificate>, session: &Session, failures: u32) {
    let Some(certificate) = certificate else { return std::future::pending().await };
    let mut files = Followed::unread([&certificate.chain, &certificate.key]);
    let pause = if failures == 0 { LOOKS_EVERY } else { back_off(failures.saturating_add(3), None, Spread::random()) };
    let mut other = false;
    while !other {
        tokio::time::sleep(pause).await;
        let _read_again_where_unsound = files.look(|| {
            other = session.client.shows_other_than(certificate)?;
            Ok::<_, Error>(())
        });
    }
}

/// Its time has come: renewed, or replaced by another. A failure is tried again, and the vault may go meanwhile.
async fn attend(shared: &Arc<Shared>, session: &Session) {
    let mut failures = 0;
    if matches!(session.term.due(Spread(0)), Due::Renew(_)) {
        loop {
            let again = match shared.renew(session).await {
                Ok(()) => return,
                Err(error) if error.is_transient() => {
                    failures += 1;
                    session.term.again(failures, Instant::now(), Spread::random())
                }
                Err(_) => None,
            };
            let Some(at) = again else { break };
            tokio::time::sleep_until(at.into()).await;
        }
        failures = 0;
    }
    while shared.again(session.number).await.is_err() && Arc::strong_count(shared) > 1 {
        failures += 1;
        tokio::time::sleep(back_off(failures.saturating_mul(2), None, Spread::random())).await;
    }
}

/// Beside the first attempt.
const RETRIES_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_as_the_api_has_it() {
        for (mount, path, which, expected) in [
            ("secret", "app/db", Kv::Current, "secret/data/app/db"),
            ("/team/kv/", "/a b/ä/", Kv::Label("pending"), "team/kv/data/a%20b/%C3%A4?label=pending"),
            ("secret", "a", Kv::Version(3), "secret/data/a?version=3"),
            ("secret", "a?x", Kv::Label("a&b"), "secret/data/a%3Fx?label=a%26b"),
        ] {
            assert_eq!(which.path(mount, path), expected);
        }
    }
}
