//! `agent --config FILE`: TOML into types. Unknown fields are errors; what is wrong is named by its field.
//!
//! Never: a secret in it. It names the files that hold them.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use client::{ClientCertificate, Input, Login, Options, SecretId};
use rustix::process::Signal;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub login: Method,
    /// Files that get the token at each login.
    #[serde(default)]
    pub sink: Vec<Sink>,
    /// Files that are rendered.
    #[serde(default)]
    pub template: Vec<Template>,
    /// Certificates that are issued by the vault for keys that are made here, and kept fresh.
    #[serde(default)]
    pub certificate: Vec<Certificate>,
    /// What is run beside them, and ends the agent with its own end.
    pub exec: Option<Exec>,
    /// How often secrets without a lease are looked at again. Default: 300.
    #[serde(default = "default_refresh_secs")]
    pub refresh_secs: u64,
    /// JSON about how it stands, 0644; nothing of it is secret.
    pub status_file: Option<PathBuf>,
    /// End token and leases with the agent: for where nobody else uses what was rendered. Default: with `exec` alone.
    pub log_out: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// `https://HOST:PORT`, or `http://…` on this machine.
    pub address: String,
    /// PEM file of the authorities of the server's certificate. Default: the system's.
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub namespace: String,
    /// PEM files of this client's certificate and its key; they may be one. What replaces them is taken within seconds, and the
    /// agent logs in again where its token counts beside the old one alone.
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    #[serde(default = "default_timeout_secs")]
    pub timeout_secs: u64,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    Approle {
        #[serde(default = "approle")]
        mount: String,
        /// One of the two.
        role_id: Option<String>,
        role_id_file: Option<PathBuf>,
        /// 0600.
        secret_id_file: PathBuf,
        /// The file holds a wrapping token, which was made at this path and nowhere else.
        wrapped_at: Option<String>,
    },
    Userpass {
        #[serde(default = "userpass")]
        mount: String,
        user: String,
        /// 0600.
        password_file: PathBuf,
    },
    Jwt {
        #[serde(default = "jwt")]
        mount: String,
        role: String,
        jwt_file: PathBuf,
    },
    Kubernetes {
        #[serde(default = "kubernetes")]
        mount: String,
        role: String,
        #[serde(default = "service_account")]
        jwt_file: PathBuf,
    },
    /// By `server.client_certificate`, at a mount of type `cert`.
    Cert {
        #[serde(default = "cert")]
        mount: String,
        #[serde(default)]
        role: String,
    },
    /// By an X.509-SVID, which is `server.client_certificate`, or by a JWT-SVID in a file.
    Spiffe {
        #[serde(default = "spiffe")]
        mount: String,
        role: String,
        jwt_file: Option<PathBuf>,
    },
    Aws {
        #[serde(default = "aws")]
        mount: String,
        role: String,
        /// The mount's `iam_server_id_header_value`.
        server_id: String,
        /// Default: the instance's own.
        region: Option<String>,
        /// The host of the mount's `sts_endpoint`, where it has one.
        sts_host: Option<String>,
        #[serde(default)]
        credentials: AwsCredentials,
        /// Where the instance's metadata is, or the URL that a container was told.
        url: Option<String>,
        /// What is shown there, in a container.
        authorization_file: Option<PathBuf>,
    },
    Gcp {
        #[serde(default = "gcp")]
        mount: String,
        role: String,
        /// The mount's `audience`; a slash and the role are added.
        audience: String,
        #[serde(default = "google_metadata")]
        url: String,
    },
    Azure {
        #[serde(default = "azure")]
        mount: String,
        role: String,
        /// The mount's `resource`.
        resource: String,
        client_id: Option<String>,
        #[serde(default = "azure_metadata")]
        url: String,
    },
    /// By `server.client_certificate`, for which a role stands.
    Certificate,
    /// A token that somebody else made, 0600.
    TokenFile { file: PathBuf },
}

/// Where AWS credentials come from. None of them stands in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AwsCredentials {
    /// An EC2 instance's role.
    #[default]
    Instance,
    /// An ECS task's, or an EKS pod's.
    Container,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// 0600.
    pub file: PathBuf,
    /// The file gets a token that fetches the token once, within so long.
    pub wrap_ttl_secs: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// One of the two: a file, or the text itself.
    pub source: Option<PathBuf>,
    pub contents: Option<String>,
    pub destination: PathBuf,
    /// Octal digits. Default: 0600.
    #[serde(default = "private")]
    pub mode: String,
    /// `USER`, `USER:GROUP`, names or numbers. Default: the agent's own.
    pub owner: Option<String>,
}

/// By `MOUNT/sign/ROLE` of a `pki` engine. A new key each time, of type `ec`; another certificate when half of its life is over.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    #[serde(default = "pki")]
    pub mount: String,
    pub role: String,
    #[serde(default)]
    pub common_name: String,
    /// DNS names, and e-mail addresses.
    #[serde(default)]
    pub alt_names: Vec<String>,
    #[serde(default)]
    pub ip_sans: Vec<IpAddr>,
    #[serde(default)]
    pub uri_sans: Vec<String>,
    /// Default: the role's.
    pub ttl_secs: Option<u64>,
    /// PEM file of the certificate and of those between it and its root.
    pub certificate: PathBuf,
    /// PEM file of the key, 0600. Default: in `certificate`, behind the chain, which is better: both are exchanged at one moment.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities above it, the nearest first.
    pub ca: Option<PathBuf>,
    /// Octal digits, of files that hold no key. Default: 0644.
    pub mode: Option<String>,
    /// `USER`, `USER:GROUP`, names or numbers. Default: the agent's own.
    pub owner: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments; nothing of it is rendered.
    pub command: Vec<String>,
    /// Variables of its environment, each a template. What they hold, who is the same user can read in /proc.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// What it gets when files change: `restart`, `none`, or a signal's name. Where its environment changes it is restarted.
    #[serde(default = "restart")]
    pub on_change: String,
    /// What asks it to end.
    #[serde(default = "sigterm")]
    pub stop_signal: String,
    /// How long it may take before it is killed.
    #[serde(default = "default_timeout_secs")]
    pub stop_secs: u64,
}

/// What happens to the program when files change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    Restart,
    Signal(Signal),
    Nothing,
}

impl Config {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.login.login()?;
        config.server.options()?;
        ensure!(config.refresh_secs > 0, "refresh_secs: at least 1");
        let shows =
            matches!(config.login, Method::Certificate | Method::Cert { .. } | Method::Spiffe { jwt_file: None, .. });
        ensure!(
            !shows || config.server.client_certificate.is_some(),
            "server.client_certificate: login by certificate needs it"
        );
        if matches!(config.login, Method::Certificate) {
            ensure!(config.sink.is_empty(), "sink: login by certificate makes no token");
        }
        for (index, sink) in config.sink.iter().enumerate() {
            ensure!(sink.wrap_ttl_secs != Some(0), "sink[{index}].wrap_ttl_secs: at least 1");
        }
        for (index, template) in config.template.iter().enumerate() {
            let named = || format!("template[{index}]");
            ensure!(
                template.source.is_some() != template.contents.is_some(),
                "{}: name one of `source` and `contents`",
                named()
            );
            template.mode().with_context(|| format!("{}.mode", named()))?;
            ensure!(template.destination.file_name().is_some(), "{}.destination: it names no file", named());
        }
        ensure!(config.certificate.len() <= CERTIFICATES_MAX, "certificate: more than {CERTIFICATES_MAX}");
        for (index, certificate) in config.certificate.iter().enumerate() {
            certificate.check().map_err(|why| anyhow!("certificate[{index}].{why}"))?;
        }
        config.check_outputs()?;
        if let Some(exec) = &config.exec {
            ensure!(
                exec.command.first().is_some_and(|program| !program.is_empty()),
                "exec.command: it names no program"
            );
            exec.on_change().context("exec.on_change")?;
            signal(&exec.stop_signal).context("exec.stop_signal")?;
            for name in exec.environment.keys() {
                ensure!(
                    !name.is_empty() && !name.contains(['=', '\0']),
                    "exec.environment: `{name}` is no variable's name"
                );
            }
        }
        ensure!(
            !(config.template.is_empty() && config.sink.is_empty() && config.certificate.is_empty())
                || config.exec.is_some(),
            "there is nothing to do: name a `template`, a `certificate`, a `sink` or an `exec`"
        );
        Ok(config)
    }

    /// Each file is of one output: two would take turns.
    fn check_outputs(&self) -> Result<()> {
        let templates = (0..)
            .zip(&self.template)
            .map(|(at, template)| (format!("template[{at}].destination"), &*template.destination));
        let sinks = (0..).zip(&self.sink).map(|(at, sink)| (format!("sink[{at}].file"), &*sink.file));
        let certificates = (0..).zip(&self.certificate).flat_map(|(at, certificate)| {
            let of = [("certificate", Some(&*certificate.certificate)), ("key", certificate.key_apart())];
            let all = of.into_iter().chain([("ca", certificate.ca.as_deref())]);
            all.filter_map(move |(field, file)| file.map(|file| (format!("certificate[{at}].{field}"), file)))
        });
        let status = self.status_file.iter().map(|file| ("status_file".to_owned(), &**file));
        let mut known = HashSet::new();
        for (field, file) in templates.chain(sinks).chain(certificates).chain(status) {
            ensure!(known.insert(file), "{field}: another output has this file");
        }
        Ok(())
    }

    pub fn refresh(&self) -> Duration {
        Duration::from_secs(self.refresh_secs)
    }

    pub fn logs_out(&self) -> bool {
        self.log_out.unwrap_or(self.exec.is_some() && self.sink.is_empty())
    }
}

impl Server {
    pub fn options(&self) -> Result<Options> {
        let certificate = match (&self.client_certificate, &self.client_key) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain: chain.clone(), key: key.clone() }),
            (None, None) => None,
            (Some(_), None) => bail!("server.client_key: it goes with client_certificate"),
            (None, Some(_)) => bail!("server.client_certificate: it goes with client_key"),
        };
        ensure!(self.timeout_secs > 0, "server.timeout_secs: at least 1");
        Ok(Options {
            ca: self.ca.clone(),
            certificate,
            namespace: self.namespace.trim_matches('/').to_owned(),
            timeout: Duration::from_secs(self.timeout_secs),
            ..Options::new(&self.address)
        })
    }
}

impl Method {
    pub fn login(&self) -> Result<Login> {
        let named = |mount: &str| mount.trim_matches('/').to_owned();
        Ok(match self {
            Self::Approle { mount, role_id, role_id_file, secret_id_file, wrapped_at } => {
                let role_id = match (role_id, role_id_file) {
                    (Some(role_id), None) => Input::Given(client::SecretBytes::copy_from(role_id.as_bytes())),
                    (None, Some(file)) => Input::AnyFile(file.clone()),
                    (Some(_), Some(_)) | (None, None) => bail!("login.role_id: name one of it and `role_id_file`"),
                };
                let input = Input::File(secret_id_file.clone());
                let secret_id = match wrapped_at {
                    None => SecretId::Plain(input),
                    Some(path) => SecretId::Wrapped { token: input, creation_path: path.clone() },
                };
                Login::AppRole { mount: named(mount), role_id, secret_id }
            }
            Self::Userpass { mount, user, password_file } => Login::Userpass {
                mount: named(mount),
                user: user.clone(),
                password: Input::File(password_file.clone()),
            },
            Self::Jwt { mount, role, jwt_file } | Self::Kubernetes { mount, role, jwt_file } => {
                Login::Jwt { mount: named(mount), role: role.clone(), jwt: Input::AnyFile(jwt_file.clone()) }
            }
            Self::Cert { mount, role } => Login::Cert { mount: named(mount), role: role.clone() },
            Self::Spiffe { mount, role, jwt_file } => {
                let jwt = jwt_file.clone().map(Input::AnyFile);
                Login::Spiffe { mount: named(mount), role: role.clone(), jwt }
            }
            Self::Aws { mount, role, server_id, region, sts_host, credentials, url, authorization_file } => {
                let credentials = match (credentials, url) {
                    (AwsCredentials::Instance, url) => {
                        ensure!(authorization_file.is_none(), "login.authorization_file: an instance shows nothing");
                        let endpoint = url.as_deref().unwrap_or(client::AWS_METADATA).to_owned();
                        client::AwsCredentials::Instance { endpoint }
                    }
                    (AwsCredentials::Container, None) => {
                        bail!("login.url: a container is told where its credentials are")
                    }
                    (AwsCredentials::Container, Some(url)) => client::AwsCredentials::Container {
                        url: url.clone(),
                        authorization: authorization_file.clone().map(Input::AnyFile),
                    },
                };
                let (region, server_id, sts_host) = (region.clone(), server_id.clone(), sts_host.clone());
                let aws = client::Aws { credentials, region, server_id, sts_host };
                Login::Aws { mount: named(mount), role: role.clone(), aws }
            }
            Self::Gcp { mount, role, audience, url } => {
                let service =
                    client::Metadata::Google { audience: format!("{audience}/{role}"), endpoint: url.clone() };
                Login::Metadata { mount: named(mount), role: role.clone(), service }
            }
            Self::Azure { mount, role, resource, client_id, url } => {
                let (resource, client_id, endpoint) = (resource.clone(), client_id.clone(), url.clone());
                let service = client::Metadata::Azure { resource, client_id, endpoint };
                Login::Metadata { mount: named(mount), role: role.clone(), service }
            }
            Self::Certificate => Login::Certificate,
            Self::TokenFile { file } => Login::Token(Input::File(file.clone())),
        })
    }
}

fn octal(text: &str) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.with_context(|| format!("`{text}` is not up to 777 in octal digits"))
}

impl Certificate {
    /// The field, and what is wrong with it.
    fn check(&self) -> Result<(), String> {
        let is_path = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_name = |text: &String| (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        let all_ascii = |names: &[String]| names.iter().all(|name| is_name(name) && name.is_ascii());
        let named = !self.common_name.is_empty() || !self.alt_names.is_empty() || !self.uri_sans.is_empty();
        let apart = self.key_apart().is_some();
        for (sound, why) in [
            (is_path(self.mount.trim_matches('/')), "mount: it names no mount"),
            (is_path(&self.role) && !self.role.contains('/'), "role: it names no role"),
            (
                named || !self.ip_sans.is_empty(),
                "common_name: a certificate has a name: this one, or one of the others",
            ),
            (self.common_name.is_empty() || is_name(&self.common_name), "common_name: too long, or not printable"),
            (all_ascii(&self.alt_names), "alt_names: one is empty, too long or not ASCII"),
            (all_ascii(&self.uri_sans), "uri_sans: one is empty, too long or not ASCII"),
            (self.alt_names.len() + self.ip_sans.len() + self.uri_sans.len() <= NAMES_MAX, "alt_names: too many names"),
            (self.ttl_secs != Some(0), "ttl_secs: at least 1"),
            (self.certificate.file_name().is_some(), "certificate: it names no file"),
            (self.key.as_ref().is_none_or(|key| key.file_name().is_some()), "key: it names no file"),
            (self.ca.as_ref().is_none_or(|ca| ca.file_name().is_some()), "ca: it names no file"),
            (
                self.mode.is_none() || apart || self.ca.is_some(),
                "mode: what holds the key is 0600; `key` may be another file",
            ),
        ] {
            if !sound {
                return Err(why.to_owned());
            }
        }
        self.public_mode().map(drop).map_err(|error| format!("mode: {error}"))
    }

    /// Of files that hold no key.
    pub fn public_mode(&self) -> Result<u32> {
        self.mode.as_deref().map_or(Ok(0o644), octal)
    }

    /// The key's file, where it is one of its own.
    pub fn key_apart(&self) -> Option<&Path> {
        self.key.as_deref().filter(|key| *key != self.certificate)
    }
}

impl Template {
    pub fn mode(&self) -> Result<u32> {
        octal(&self.mode)
    }

    pub fn text(&self) -> Result<String> {
        match (&self.source, &self.contents) {
            (Some(path), _) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())),
            (None, contents) => Ok(contents.clone().unwrap_or_default()),
        }
    }
}

impl Exec {
    pub fn on_change(&self) -> Result<OnChange> {
        Ok(match self.on_change.as_str() {
            "restart" => OnChange::Restart,
            "none" => OnChange::Nothing,
            name => OnChange::Signal(signal(name)?),
        })
    }

    pub fn stop(&self) -> Signal {
        signal(&self.stop_signal).unwrap_or(Signal::TERM)
    }
}

fn signal(name: &str) -> Result<Signal> {
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    let found = SIGNALS.iter().find(|(known, _)| *known == bare).map(|(_, signal)| *signal);
    found.with_context(|| format!("`{name}` is none of SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH"))
}

fn approle() -> String {
    "approle".to_owned()
}

fn userpass() -> String {
    "userpass".to_owned()
}

fn jwt() -> String {
    "jwt".to_owned()
}

fn cert() -> String {
    "cert".to_owned()
}

fn spiffe() -> String {
    "spiffe".to_owned()
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

fn aws() -> String {
    "aws".to_owned()
}

fn gcp() -> String {
    "gcp".to_owned()
}

fn azure() -> String {
    "azure".to_owned()
}

fn google_metadata() -> String {
    client::GOOGLE_METADATA.to_owned()
}

fn azure_metadata() -> String {
    client::AZURE_METADATA.to_owned()
}

fn service_account() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

fn pki() -> String {
    "pki".to_owned()
}

fn private() -> String {
    "0600".to_owned()
}

fn restart() -> String {
    "restart".to_owned()
}

fn sigterm() -> String {
    "SIGTERM".to_owned()
}

const fn default_refresh_secs() -> u64 {
    300
}

const fn default_timeout_secs() -> u64 {
    30
}

const CERTIFICATES_MAX: usize = 16;
const NAMES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 253;

const SIGNALS: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        refresh_secs = 60
        status_file = "/run/app/status.json"
        [server]
        address = "https://vault.example:8200"
        [login]
        method = "approle"
        role_id_file = "/etc/app/role-id"
        secret_id_file = "/run/app/wrapping-token"
        wrapped_at = "auth/approle/role/web/secret-id"
        [[sink]]
        file = "/run/app/token"
        [[template]]
        contents = "{{ kv('secret/app').password }}"
        destination = "/run/app/password"
        mode = "0640"
        owner = "app:app"
        [[certificate]]
        role = "web"
        common_name = "web.example"
        ip_sans = ["127.0.0.1", "::1"]
        ttl_secs = 3600
        certificate = "/run/app/tls.pem"
        [[certificate]]
        mount = "/pki/internal/"
        role = "client"
        uri_sans = ["spiffe://example/app"]
        certificate = "/run/app/client.pem"
        key = "/run/app/client-key.pem"
        ca = "/run/app/ca.pem"
        mode = "0640"
        owner = "app"
        [exec]
        command = ["/usr/bin/app", "--config", "/run/app/config"]
        on_change = "SIGHUP"
        [exec.environment]
        DATABASE_URL = "{{ database('database/app').username }}"
    "#;

    #[test]
    fn a_configuration_is_read_whole() {
        let config = Config::parse(WHOLE).unwrap();
        assert_eq!(config.template[0].mode().unwrap(), 0o640);
        assert_eq!(config.exec.as_ref().unwrap().on_change().unwrap(), OnChange::Signal(Signal::HUP));
        assert!(!config.logs_out(), "somebody else has the token");
        let [one, two] = &config.certificate[..] else { panic!("two certificates") };
        assert_eq!((one.key_apart(), two.key_apart()), (None, Some(Path::new("/run/app/client-key.pem"))));
        assert_eq!((one.public_mode().unwrap(), two.public_mode().unwrap()), (0o644, 0o640));
        assert!(matches!(config.login.login().unwrap(), Login::AppRole { secret_id: SecretId::Wrapped { .. }, .. }));
    }

    #[test]
    fn a_clouds_identity_is_a_login() {
        let parsed = |login: &str| {
            let text = format!("[server]\naddress = \"a:1\"\n[login]\n{login}\n[[sink]]\nfile = \"/t\"\n");
            Config::parse(&text).and_then(|config| config.login.login())
        };
        for (login, sound) in [
            ("method = \"aws\"\nrole = \"web\"\nserver_id = \"vault\"", true),
            ("method = \"aws\"\nrole = \"web\"", false),
            ("method = \"aws\"\nrole = \"web\"\nserver_id = \"v\"\ncredentials = \"container\"", false),
            (
                "method = \"aws\"\nrole = \"web\"\nserver_id = \"v\"\ncredentials = \"container\"\nurl = \"http://169.254.170.23/v1/credentials\"\nauthorization_file = \"/t\"",
                true,
            ),
            ("method = \"aws\"\nrole = \"web\"\nserver_id = \"v\"\nauthorization_file = \"/t\"", false),
            ("method = \"aws\"\nrole = \"web\"\nserver_id = \"v\"\nsecret_access_key = \"x\"", false),
            ("method = \"gcp\"\nrole = \"web\"\naudience = \"https://v\"", true),
            ("method = \"gcp\"\nrole = \"web\"", false),
            ("method = \"azure\"\nrole = \"web\"\nresource = \"https://v\"", true),
            ("method = \"azure\"\nrole = \"web\"", false),
        ] {
            assert_eq!(parsed(login).is_ok(), sound, "{login}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        for (from, to, said) in [
            ("refresh_secs = 60", "refresh_secs = 0", "refresh_secs"),
            ("refresh_secs = 60", "refresh_seconds = 60", "refresh_seconds"),
            ("address = ", "adress = ", "adress"),
            ("method = \"approle\"", "method = \"magic\"", "magic"),
            ("role_id_file = ", "role_id_fil = ", "role_id_fil"),
            ("role_id_file = \"/etc/app/role-id\"", "", "login.role_id"),
            ("secret_id_file = \"/run/app/wrapping-token\"", "", "secret_id_file"),
            ("mode = \"0640\"", "mode = \"rw\"", "template[0].mode"),
            ("mode = \"0640\"", "mode = \"4755\"", "template[0].mode"),
            ("contents = ", "source = \"/x\"\ncontents = ", "template[0]: name one of"),
            ("destination = \"/run/app/password\"", "destination = \"/\"", "template[0].destination"),
            ("destination = \"/run/app/password\"", "destination = \"/run/app/token\"", "sink[0].file"),
            ("file = \"/run/app/token\"", "file = \"/run/app/status.json\"", "status_file"),
            ("on_change = \"SIGHUP\"", "on_change = \"SIGKILL\"", "exec.on_change"),
            ("on_change = \"SIGHUP\"", "stop_signal = \"HANGUP\"", "exec.stop_signal"),
            ("[\"/usr/bin/app\", \"--config\", \"/run/app/config\"]", "[]", "exec.command"),
            ("DATABASE_URL = ", "\"A=B\" = ", "exec.environment"),
            ("role = \"web\"", "rolle = \"web\"", "rolle"),
            ("role = \"web\"", "", "role"),
            ("role = \"web\"", "role = \"a/b\"", "certificate[0].role"),
            ("mount = \"/pki/internal/\"", "mount = \"/\"", "certificate[1].mount"),
            ("uri_sans = [\"spiffe://example/app\"]", "", "certificate[1].common_name"),
            ("uri_sans = [\"spiffe://example/app\"]", "uri_sans = [\"spiffe://ä\"]", "certificate[1].uri_sans"),
            ("ip_sans = [\"127.0.0.1\", \"::1\"]", "ip_sans = [\"localhost\"]", "ip_sans"),
            ("ip_sans = [\"127.0.0.1\", \"::1\"]", "alt_names = [\"\"]", "certificate[0].alt_names"),
            ("ttl_secs = 3600", "ttl_secs = 0", "certificate[0].ttl_secs"),
            ("ttl_secs = 3600", "ttl = \"1h\"", "unknown field `ttl`"),
            ("ttl_secs = 3600", "mode = \"0640\"", "certificate[0].mode"),
            ("certificate = \"/run/app/tls.pem\"", "", "certificate"),
            ("certificate = \"/run/app/tls.pem\"", "certificate = \"/\"", "certificate[0].certificate"),
            ("certificate = \"/run/app/tls.pem\"", "certificate = \"/run/app/password\"", "certificate[0].certificate"),
            ("key = \"/run/app/client-key.pem\"", "key = \"/run/app/ca.pem\"", "certificate[1].ca"),
            ("mode = \"0640\"\n        owner = \"app\"", "mode = \"rw\"", "certificate[1].mode"),
            ("[login]", "client_key = \"/k\"\n[login]", "server.client_certificate"),
            ("file = \"/run/app/token\"", "file = \"/run/app/token\"\nwrap_ttl_secs = 0", "sink[0].wrap_ttl_secs"),
        ] {
            assert!(WHOLE.contains(from), "{from}");
            let error = Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{to}: {error:#}");
        }
        let bare = "[server]\naddress = \"a:1\"\n[login]\nmethod = \"token-file\"\nfile = \"/t\"\n";
        assert!(Config::parse(bare).unwrap_err().to_string().contains("nothing to do"));
    }
}
