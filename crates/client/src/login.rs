//! How an application comes by its token. Kubernetes and JWT are one method: a signed text, and a role.
//!
//! Always: what is read from a file is read anew at each login, so that who writes it may change it.
//! Always: a SecretID comes out of its wrapping only where that was made at the path that is expected; a wrapping token that
//! was refused or spent here is not shown to the server again, where it would raise the alarm once more.
//! Never: a password, SecretID or signed text in an error or in Debug.

use crate::cloud::{Aws, Metadata};
use crate::secret::{Auth, Envelope, Secret};
use crate::timing::Term;
use crate::vault::check_creation_path;
use crate::{ApiRequest, Client, Error, Method, SecretBytes};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How to log in. Mounts are named without `auth/`.
#[derive(Debug)]
pub enum Login {
    Userpass {
        mount: String,
        user: String,
        password: Input,
    },
    AppRole {
        mount: String,
        role_id: Input,
        secret_id: SecretId,
    },
    /// A signed text of somebody else's: a Kubernetes service account's, a CI job's.
    Jwt {
        mount: String,
        role: String,
        jwt: Input,
    },
    /// By the connection's client certificate, at a mount of type `cert`: the token counts only beside it.
    Cert {
        mount: String,
        /// Empty: whichever takes it.
        role: String,
    },
    /// By an X.509-SVID, which is the connection's client certificate, or a JWT-SVID.
    Spiffe {
        mount: String,
        role: String,
        jwt: Option<Input>,
    },
    /// A signature that tells AWS who this is; AWS is asked by the server.
    Aws {
        mount: String,
        role: String,
        aws: Aws,
    },
    /// A token of Google's or Microsoft's metadata service.
    Metadata {
        mount: String,
        role: String,
        service: Metadata,
    },
    /// By the connection's client certificate, for which a role stands: there is no token, and nothing ends.
    Certificate,
    /// A token that somebody else made.
    Token(Input),
}

/// Where the SecretID comes from.
#[derive(Debug)]
pub enum SecretId {
    Plain(Input),
    /// The input is a wrapping token, made at this path: `auth/approle/role/web/secret-id`.
    Wrapped {
        token: Input,
        creation_path: String,
    },
}

/// A secret, or where it stands.
#[derive(Debug)]
pub enum Input {
    Given(SecretBytes),
    /// Only its owner may read it.
    File(PathBuf),
    /// Its mode is for its maker to choose: what Kubernetes mounts.
    AnyFile(PathBuf),
}

/// A token, and until when.
pub(crate) struct LoggedIn {
    /// None: by the certificate.
    pub(crate) token: Option<SecretBytes>,
    pub(crate) term: Term,
}

/// What one login leaves for the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// SHA-256 of the wrapping token that was shown last.
    shown: Option<[u8; 32]>,
    secret_id: Option<Remembered>,
}

/// A SecretID that may be used again.
struct Remembered {
    secret_id: SecretBytes,
    /// None: without bound.
    uses_left: Option<u64>,
    until: Option<Instant>,
}

impl Input {
    /// Without white space at its end.
    pub fn read(&self) -> Result<SecretBytes, Error> {
        let (path, private) = match self {
            Self::Given(secret) => return Ok(SecretBytes::copy_from(secret.expose())),
            Self::File(path) => (path, true),
            Self::AnyFile(path) => (path, false),
        };
        let failed = |reason: String| Error::Input { path: path.clone(), reason };
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let mode = file.metadata().map_err(|error| failed(error.to_string()))?.mode();
        if private && mode & 0o077 != 0 {
            return Err(failed("others may read it: chmod 600".to_owned()));
        }
        // never moved: what it leaves behind is not wiped
        let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_BYTES_MAX));
        file.take(INPUT_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        let text = bytes.trim_ascii_end();
        if text.is_empty() {
            return Err(failed("it is empty".to_owned()));
        }
        Ok(SecretBytes::copy_from(text))
    }
}

impl Login {
    /// Logs in over a connection that carries no token.
    pub(crate) async fn run(&self, stranger: &Client, memory: &mut Memory) -> Result<LoggedIn, Error> {
        match self {
            Self::Certificate => Ok(LoggedIn { token: None, term: Term::new(Instant::now(), Duration::ZERO, false) }),
            Self::Token(input) => looked_up(stranger, input.read()?).await,
            Self::Userpass { mount, user, password } => {
                let fields = [("password", password.read()?)];
                bought(stranger, format!("auth/{mount}/login/{}", crate::vault::encode(user)), &fields).await
            }
            Self::Jwt { mount, role, jwt } => {
                let fields = [("role", SecretBytes::copy_from(role.as_bytes())), ("jwt", jwt.read()?)];
                bought(stranger, format!("auth/{mount}/login"), &fields).await
            }
            Self::Cert { mount, role } => {
                let fields = [("name", SecretBytes::copy_from(role.as_bytes()))];
                bought(stranger, format!("auth/{mount}/login"), &fields).await
            }
            Self::Spiffe { mount, role, jwt } => {
                let mut fields = vec![("role", SecretBytes::copy_from(role.as_bytes()))];
                if let Some(jwt) = jwt {
                    fields.push(("jwt", jwt.read()?));
                }
                bought(stranger, format!("auth/{mount}/login"), &fields).await
            }
            Self::Aws { mount, role, aws } => {
                let nonce = nonce(stranger, mount).await?;
                let mut fields = aws.fields(&nonce, stranger).await?;
                fields.push(("role", SecretBytes::copy_from(role.as_bytes())));
                bought(stranger, format!("auth/{mount}/login"), &fields).await
            }
            Self::Metadata { mount, role, service } => {
                let fields = [("role", SecretBytes::copy_from(role.as_bytes())), ("jwt", service.jwt().await?)];
                bought(stranger, format!("auth/{mount}/login"), &fields).await
            }
            Self::AppRole { mount, role_id, secret_id } => {
                let secret_id = match secret_id {
                    SecretId::Plain(input) => input.read()?,
                    SecretId::Wrapped { token, creation_path } => memory.fetch(stranger, token, creation_path).await?,
                };
                let fields = [("role_id", role_id.read()?), ("secret_id", secret_id)];
                let outcome = bought(stranger, format!("auth/{mount}/login"), &fields).await;
                if outcome.as_ref().is_err_and(|error| !error.is_transient()) {
                    memory.secret_id = None;
                }
                outcome
            }
        }
    }

    /// By the connection's certificate: there is no token, or it counts beside that certificate alone.
    pub(crate) fn is_by_certificate(&self) -> bool {
        match self {
            Self::Cert { .. } | Self::Spiffe { jwt: None, .. } | Self::Certificate => true,
            Self::Userpass { .. }
            | Self::AppRole { .. }
            | Self::Jwt { .. }
            | Self::Spiffe { jwt: Some(_), .. }
            | Self::Aws { .. }
            | Self::Metadata { .. }
            | Self::Token(_) => false,
        }
    }

    /// The token is ours to end.
    pub fn owns_token(&self) -> bool {
        match self {
            Self::Userpass { .. }
            | Self::AppRole { .. }
            | Self::Jwt { .. }
            | Self::Cert { .. }
            | Self::Spiffe { .. }
            | Self::Aws { .. }
            | Self::Metadata { .. } => true,
            Self::Certificate | Self::Token(_) => false,
        }
    }
}

/// What a login in the server's own form signs, once.
async fn nonce(stranger: &Client, mount: &str) -> Result<String, Error> {
    #[derive(serde::Deserialize)]
    struct Made {
        nonce: String,
    }
    let answer = stranger.api(ApiRequest::new(Method::PUT, format!("auth/{mount}/nonce"))).await?;
    let Made { nonce } = Secret::parse(&answer)?.parse_as()?;
    Ok(nonce)
}

async fn bought(stranger: &Client, path: String, fields: &[(&str, SecretBytes)]) -> Result<LoggedIn, Error> {
    let now = Instant::now();
    let answer = stranger.api(ApiRequest { body: Some(body(fields)?), ..ApiRequest::new(Method::PUT, path) }).await?;
    let Auth { client_token, lease_duration, renewable } = Envelope::parse(&answer)?.auth()?;
    let token = SecretBytes::copy_from(client_token.as_bytes());
    Ok(LoggedIn { token: Some(token), term: Term::new(now, Duration::from_secs(lease_duration), renewable) })
}

/// A token of somebody else's: does it live, and until when?
async fn looked_up(stranger: &Client, token: SecretBytes) -> Result<LoggedIn, Error> {
    #[derive(serde::Deserialize)]
    struct Looked {
        ttl: u64,
        #[serde(default)]
        renewable: bool,
        expire_time: Option<serde::de::IgnoredAny>,
    }
    let now = Instant::now();
    let own = stranger.with_token(Some(&token))?;
    let answer = own.api(ApiRequest::new(Method::GET, "auth/token/lookup-self".to_owned())).await?;
    let Looked { ttl, renewable, expire_time } = Secret::parse(&answer)?.parse_as()?;
    // seconds are cut off: in its last one it has none left, and is none that never ends
    let least = if expire_time.is_some() { Duration::from_millis(1) } else { Duration::ZERO };
    Ok(LoggedIn { token: Some(token), term: Term::new(now, Duration::from_secs(ttl).max(least), renewable) })
}

impl Memory {
    /// A SecretID that is remembered, or out of a wrapping token that was not shown before.
    async fn fetch(&mut self, stranger: &Client, input: &Input, creation_path: &str) -> Result<SecretBytes, Error> {
        let token = input.read();
        let print = token.as_ref().ok().map(|token| <[u8; 32]>::from(Sha256::digest(token.expose())));
        if print.is_none() || print == self.shown {
            if let Some(secret_id) = self.use_remembered(Instant::now()) {
                return Ok(secret_id);
            }
            // either there is no file, or the one that is there has done its work
            return token.and(Err(Error::Spent));
        }
        let own = stranger.with_token(Some(&token?))?;
        let answer = own.api(ApiRequest::new(Method::GET, "sys/wrapping/lookup".to_owned())).await;
        let looked = self.judged(answer, print)?;
        if let Err(error) = check_creation_path(&looked, creation_path) {
            if matches!(error, Error::WrappedElsewhere { .. }) {
                self.shown = print;
            }
            return Err(error);
        }
        let answer = own.api(ApiRequest::new(Method::PUT, "sys/wrapping/unwrap".to_owned())).await;
        let unwrapped = self.judged(answer, print)?;
        self.shown = print;
        self.remember(&Secret::parse(&unwrapped)?)
    }

    /// A refusal that is final is not asked for twice.
    fn judged(&mut self, answer: Result<SecretBytes, Error>, print: Option<[u8; 32]>) -> Result<SecretBytes, Error> {
        if answer.as_ref().is_err_and(|error| !error.is_transient()) {
            self.shown = print;
        }
        answer
    }

    fn remember(&mut self, unwrapped: &Secret) -> Result<SecretBytes, Error> {
        #[derive(serde::Deserialize)]
        struct Made {
            secret_id: Zeroizing<String>,
            #[serde(default)]
            secret_id_ttl: u64,
            #[serde(default)]
            secret_id_num_uses: u64,
        }
        let made: Made = unwrapped.parse_as()?;
        let (uses, ttl) = (made.secret_id_num_uses, made.secret_id_ttl);
        // one use is the one that comes now
        self.secret_id = (uses != 1).then(|| Remembered {
            secret_id: SecretBytes::copy_from(made.secret_id.as_bytes()),
            uses_left: (uses > 1).then(|| uses - 1),
            until: (ttl > 0).then(|| Instant::now() + Duration::from_secs(ttl)),
        });
        Ok(SecretBytes::copy_from(made.secret_id.as_bytes()))
    }

    fn use_remembered(&mut self, now: Instant) -> Option<SecretBytes> {
        let kept = self.secret_id.as_mut()?;
        if kept.uses_left == Some(0) || kept.until.is_some_and(|until| until <= now) {
            self.secret_id = None;
            return None;
        }
        kept.uses_left = kept.uses_left.map(|left| left - 1);
        Some(SecretBytes::copy_from(kept.secret_id.expose()))
    }
}

/// An object of texts, in memory that is wiped.
fn body(fields: &[(&str, SecretBytes)]) -> Result<SecretBytes, Error> {
    let mut whole = Vec::with_capacity(fields.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum());
    for (index, (name, value)) in fields.iter().enumerate() {
        whole.push(if index == 0 { b'{' } else { b',' });
        let text = std::str::from_utf8(value.expose()).map_err(|_| Error::NotText)?;
        let written = serde_json::to_writer(&mut whole, name);
        whole.push(b':');
        written.and_then(|()| serde_json::to_writer(&mut whole, text)).map_err(|_| Error::NotText)?;
    }
    whole.push(b'}');
    Ok(SecretBytes::from_vec(whole))
}

/// `{"NAME": "TEXT"}`, in memory that is wiped.
pub fn text_object(name: &str, text: &SecretBytes) -> Result<SecretBytes, Error> {
    body(&[(name, SecretBytes::copy_from(text.expose()))])
}

/// What is no secret, as a body.
pub(crate) fn public(value: &Value) -> SecretBytes {
    SecretBytes::from_vec(value.to_string().into_bytes())
}

/// A lease's id and for how long it is wanted.
pub(crate) fn lease_body(id: &str, increment: Duration) -> SecretBytes {
    public(&json!({ "lease_id": id, "increment": increment.as_secs() }))
}

const INPUT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_body_is_json_whatever_the_secret_holds() {
        let fields = [("role_id", SecretBytes::copy_from(b"r")), ("secret_id", SecretBytes::copy_from(b"a\"\n\\\x01"))];
        let made: Value = serde_json::from_slice(body(&fields).unwrap().expose()).unwrap();
        assert_eq!(made, json!({"role_id": "r", "secret_id": "a\"\n\\\u{1}"}));
        assert!(matches!(body(&[("p", SecretBytes::copy_from(b"\xff"))]), Err(Error::NotText)));
    }

    #[test]
    fn a_secrets_file_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret-id");
        std::fs::write(&path, "s3cret\n").unwrap();
        for (mode, any, text) in [(0o600, false, Ok("s3cret")), (0o644, true, Ok("s3cret")), (0o644, false, Err("600"))]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let input = if any { Input::AnyFile(path.clone()) } else { Input::File(path.clone()) };
            match (input.read(), text) {
                (Ok(read), Ok(text)) => assert_eq!(read.expose(), text.as_bytes()),
                (Err(error), Err(hint)) => assert!(error.to_string().contains(hint), "{error}"),
                (read, _) => panic!("{mode:o}: {read:?}"),
            }
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(Input::AnyFile(path).read().unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn a_secret_id_is_remembered_for_as_many_uses_and_as_long_as_it_has() {
        let now = Instant::now();
        for (uses, ttl, again) in [(1, 0, 0), (2, 0, 1), (4, 60, 3), (0, 0, 9)] {
            let answer = json!({"data": {"secret_id": "s", "secret_id_ttl": ttl, "secret_id_num_uses": uses}});
            let mut memory = Memory::default();
            memory.remember(&Secret::parse(&public(&answer)).unwrap()).unwrap();
            let used = (0..9).filter(|_| memory.use_remembered(now).is_some()).count();
            assert_eq!(used, again, "{uses}");
        }
        let mut memory = Memory::default();
        let answer = json!({"data": {"secret_id": "s", "secret_id_ttl": 60, "secret_id_num_uses": 0}});
        memory.remember(&Secret::parse(&public(&answer)).unwrap()).unwrap();
        assert!(memory.use_remembered(now + Duration::from_secs(90)).is_none());
    }
}
