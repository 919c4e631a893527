//! `server --config FILE`: TOML into types. Unknown fields are errors; every field tells its unit.

use crate::forward::Forward;
use crate::witnesses::Panel;
use anyhow::{Context as _, Result, bail};
use audit::record::AuditorPublic;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port that clients connect to.
    pub listen: SocketAddr,
    /// Folder of the store and the audit log; made if absent, 0700.
    pub data_dir: PathBuf,
    /// TLS for clients. Without it the listener is plaintext, and then only on loopback.
    pub tls: Option<Tls>,
    pub boundary: Boundary,
    /// Default: a file in the data folder, of this server alone.
    #[serde(default)]
    pub storage: Store,
    #[serde(default)]
    pub audit: Audit,
    #[serde(default)]
    pub limits: Limits,
    /// Clusters in which this server has a service account: as that it asks who logs in there.
    #[serde(default)]
    pub kubernetes: Vec<Kubernetes>,
    /// 0600 file with the root token: read at the first start if it is there, else written then. Remove it after use.
    pub root_token_file: PathBuf,
    /// For development: where there are no recovery shares, one of one is made, and written to this 0600 file. In production
    /// `strongroom operator init` makes several.
    pub recovery_key_file: Option<PathBuf>,
    /// Ends when standard input closes: set by `strongroom dev` for its children.
    #[serde(default)]
    pub end_with_parent: bool,
}

/// A mount of the auth method whose `kubernetes_host` is this very `host`, and that names no reviewer of its own, asks as it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// `https://HOST[:PORT]`: the token is shown to nobody else.
    pub host: String,
    /// Read anew at each login: the kubelet writes another one in time.
    #[serde(default = "default_account_token")]
    pub token_file: PathBuf,
    /// PEM certificates of the API server's authorities; read anew too.
    #[serde(default = "default_account_ca")]
    pub ca_file: PathBuf,
}

fn default_account_token() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

fn default_account_ca() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM chain, the server's certificate first. This, `key` and `client_ca` are read again within seconds after they were
    /// replaced, and at SIGHUP: they count for connections that are made from then on.
    pub certificate: PathBuf,
    /// PEM PKCS#8 key, 0600. It may stand in the same file, behind the chain: then both are exchanged at one moment.
    pub key: PathBuf,
    /// PEM certificates of authorities whose client certificates are accepted as identities.
    pub client_ca: Option<PathBuf>,
    /// Whose client certificates are taken at all.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// Which client certificates may be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Those of `client_ca`: with another one there is no connection.
    #[default]
    Verified,
    /// Any: what is not of `client_ca` stands for nobody, and is judged by auth methods (`cert`, `spiffe`) alone, by
    /// their own authorities.
    Any,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// Unix socket of hsm-sim or hsm-pkcs11.
    pub socket: PathBuf,
    /// 0600 PKCS#8 file with this server's channel key; `strongroom operator boundary enroll` makes it.
    pub identity: PathBuf,
    /// The boundary's pin, `sha256:…`.
    pub pin: String,
}

/// Where the cluster's entries stand.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "engine", rename_all = "lowercase", deny_unknown_fields)]
pub enum Store {
    /// `store.db` in the data folder.
    #[default]
    Sqlite,
    /// A schema of a PostgreSQL database, which several servers share, each with another `audit.node`.
    Postgres {
        /// `postgresql://USER@HOST[:PORT][,HOST…]/DATABASE`, without a password. Of several hosts the one that accepts
        /// writes is used. A folder as host (`?host=/run/postgresql`) is a Unix socket's.
        url: String,
        /// 0600 file with the password. Default: the variable STRONGROOM_POSTGRES_PASSWORD; else none.
        password_file: Option<PathBuf>,
        /// Made if absent; of this cluster alone.
        #[serde(default = "default_schema")]
        schema: String,
        /// PEM certificates of the authorities of the database's certificate, which must name the host. Needed unless all
        /// hosts are this machine.
        ca: Option<PathBuf>,
        /// PEM certificate by which the database knows this server.
        certificate: Option<PathBuf>,
        /// Its PEM key, 0600.
        key: Option<PathBuf>,
        /// Connections that read, 1 to 32; three more write, listen and hold the node's name.
        #[serde(default = "default_readers")]
        readers: usize,
        /// Serve though the database would lose data: for databases that are thrown away after a test.
        #[serde(default)]
        without_fsync: bool,
    },
}

fn default_schema() -> String {
    "strongroom".to_owned()
}

fn default_readers() -> usize {
    4
}

impl Store {
    /// Several servers may stand on it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Sqlite => false,
            Self::Postgres { .. } => true,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Folder of the audit log. Default: `audit` in the data folder; better on another disk. Set here and nowhere else.
    pub dir: Option<PathBuf>,
    /// This server among those of its cluster: 1 to 32 of `a-z 0-9 -`. Its log is called by it.
    pub node: String,
    /// The auditor's public key (`strongroom audit keygen`), 64 hexadecimal digits: personal fields are sealed to it. Without
    /// it they stand in the log in the clear.
    pub auditor_key: Option<String>,
    /// MiB held so that a full disk can still be recorded.
    pub reserve_mib: u64,
    /// Days after which entries leave the log, whole segments of 65,536 alone; 0: never.
    pub retain_days: u32,
    /// Where entries go that leave the log after `retain_days`; without it they are pruned.
    pub archive_dir: Option<PathBuf>,
    /// Collectors that are sent what the log holds, line by line.
    pub forward: Vec<Forward>,
    /// Entries a second that the scrubber verifies again, in a round an hour; 0: none.
    pub scrub_entries_per_sec: u32,
    /// Who is shown each new checkpoint and cosigns it: at most 8.
    pub witness: Vec<Witness>,
    /// How many of them are enough. Default: all.
    pub witness_quorum: Option<usize>,
}

/// A witness of the audit log (c2sp.org/tlog-witness), such as `strongroom audit witness`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// `https://HOST[:PORT][/PATH]`, below which `add-checkpoint` stands. `http://` only on loopback.
    pub url: String,
    /// Its verifier key (C2SP vkey), or both lines of its `witness.vkey`; then both must sign.
    pub key: String,
    /// PEM certificates of the authorities of its certificate. Default: the system's.
    pub ca: Option<PathBuf>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            dir: None,
            node: "1".to_owned(),
            auditor_key: None,
            reserve_mib: 4,
            retain_days: 0,
            archive_dir: None,
            forward: Vec::new(),
            scrub_entries_per_sec: 20_000,
            witness: Vec::new(),
            witness_quorum: None,
        }
    }
}

impl Audit {
    /// To whom personal fields are sealed.
    pub fn personal_to(&self) -> Result<Option<AuditorPublic>> {
        let Some(text) = &self.auditor_key else { return Ok(None) };
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).context("`audit.auditor_key` has 64 hexadecimal digits")?;
        AuditorPublic::from_bytes(key).map(Some).context("`audit.auditor_key` is no public key")
    }

    fn check(&self) -> Result<()> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if !(1..=32).contains(&self.node.len()) || !self.node.bytes().all(legal) {
            bail!("`audit.node` is 1 to 32 of a-z, 0-9 and -");
        }
        if !(1..=1024).contains(&self.reserve_mib) {
            bail!("`audit.reserve_mib` is 1 to 1024");
        }
        if self.archive_dir.as_ref().is_some_and(|dir| self.retain_days == 0 || !dir.is_absolute()) {
            bail!("`audit.archive_dir` is an absolute path, beside `audit.retain_days`");
        }
        let names: BTreeSet<_> = self.forward.iter().map(|forward| &forward.name).collect();
        if names.len() < self.forward.len() || names.len() > FORWARDS_MAX {
            bail!("`audit.forward` are at most {FORWARDS_MAX}, of different names");
        }
        self.forward.iter().try_for_each(Forward::check)?;
        if self.scrub_entries_per_sec > SCRUB_ENTRIES_PER_SEC_MAX {
            bail!("`audit.scrub_entries_per_sec` is 0 to {SCRUB_ENTRIES_PER_SEC_MAX}");
        }
        if self.witness.len() > WITNESSES_MAX {
            bail!("`audit.witness` stands there at most {WITNESSES_MAX} times");
        }
        if self.witness_quorum.is_some_and(|quorum| !(1..=self.witness.len()).contains(&quorum)) {
            bail!("`audit.witness_quorum` is 1 to {}, the number of witnesses", self.witness.len());
        }
        Panel::new(self)?;
        self.personal_to().map(drop)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// Requests at once on one connection.
    pub streams: u32,
    /// Seconds for a TLS handshake, and then for the first bytes.
    pub handshake_secs: u64,
    /// Seconds without a request after which a connection ends; it may be up to twice as long.
    pub idle_secs: u64,
    /// Seconds after which a connection ends though it is in use (up to a tenth sooner): clients connect again, and show
    /// their certificates again. What has begun then may take 35 seconds more; a backup must end by then.
    pub max_age_secs: u64,
    /// Threads that serve; 0: one a core.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, streams: 256, handshake_secs: 10, idle_secs: 300, max_age_secs: 3600, threads: 0 }
    }
}

impl Config {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Self =
            toml::from_str(&text).with_context(|| format!("{} is not a configuration", path.display()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.tls.is_none() && !self.listen.ip().is_loopback() {
            bail!("`listen` is {}: without [tls] only loopback addresses are allowed", self.listen);
        }
        if self.limits.connections == 0 || self.limits.streams == 0 {
            bail!("`limits.connections` and `limits.streams` are at least 1");
        }
        if self.limits.threads > THREADS_MAX {
            bail!("`limits.threads` is 0 to {THREADS_MAX}");
        }
        let Limits { handshake_secs, idle_secs, max_age_secs, .. } = self.limits;
        for (name, secs) in
            [("handshake_secs", handshake_secs), ("idle_secs", idle_secs), ("max_age_secs", max_age_secs)]
        {
            if !(1..=LIFE_SECS_MAX).contains(&secs) {
                bail!("`limits.{name}` is 1 to {LIFE_SECS_MAX}");
            }
        }
        let hosts: BTreeSet<_> = self.kubernetes.iter().map(|cluster| &cluster.host).collect();
        if hosts.len() < self.kubernetes.len() || hosts.iter().any(|host| !host.starts_with("https://")) {
            bail!("`kubernetes.host` is a URL like https://HOST:PORT, of each cluster once");
        }
        crate::store::check(self)?;
        self.audit.check()?;
        // what leads there by another way is refused when it is written to
        if self.audit.archive_dir.as_deref().is_some_and(|archive| is_same(archive, &self.audit_dir())) {
            bail!("`audit.archive_dir` is the log's own folder: an archive is another one");
        }
        Ok(())
    }

    pub fn audit_dir(&self) -> PathBuf {
        self.audit.dir.clone().unwrap_or_else(|| self.data_dir.join("audit"))
    }

    pub fn node(&self) -> &str {
        &self.audit.node
    }

    pub fn store_file(&self) -> PathBuf {
        self.data_dir.join("store.db")
    }
}

/// One folder, by its name or, where it is there, by whatever link.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

const THREADS_MAX: usize = 1024;
const FORWARDS_MAX: usize = 8;
const WITNESSES_MAX: usize = 8;
const SCRUB_ENTRIES_PER_SEC_MAX: u32 = 1_000_000;
/// A week.
const LIFE_SECS_MAX: u64 = 7 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        listen = "127.0.0.1:8200"
        data_dir = "/d"
        root_token_file = "/d/root-token"
        [boundary]
        socket = "/run/b.sock"
        identity = "/d/id"
        pin = "sha256:00"
    "#;

    #[test]
    fn a_collector_is_named_once_and_reached_by_tls_unless_it_is_on_this_machine() {
        let parse = |text: &str| toml::from_str::<Config>(text).map_err(drop).and_then(|c| c.check().map_err(drop));
        let sound = [
            "name = \"a\"\nkind = \"syslog\"\nto = \"unix:///dev/log\"",
            "name = \"b\"\nkind = \"syslog\"\nto = \"tls://siem:6514\"\nca = \"/ca\"\ncertificate = \"/c\"\nkey = \"/k\"",
            "name = \"c\"\nkind = \"otlp\"\nto = \"http://127.0.0.1:4318/v1/logs\"\nbearer_file = \"/t\"",
        ];
        let all = |parts: &[&str]| parts.iter().map(|part| format!("[[audit.forward]]\n{part}\n")).collect::<String>();
        assert!(parse(&format!("{SOUND}{}", all(&sound))).is_ok());
        assert!(parse(&format!("{SOUND}{}", all(&[sound[0], sound[0]]))).is_err());
        for (which, from, to) in [
            (0, "syslog", "otlp"),
            (0, "\"a\"", "\"A\""),
            (1, "ca = \"/ca\"", ""),
            (1, "key = \"/k\"", ""),
            (1, "tls://", "tcp://"),
            (2, "otlp", "syslog"),
            (2, "127.0.0.1", "192.0.2.1"),
            (2, "bearer_file", "ca"),
        ] {
            let other = sound[which].replace(from, to);
            assert!(parse(&format!("{SOUND}{}", all(&[&other]))).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_unknown_or_unsafe_is_refused() {
        let parse = |text: &str| toml::from_str::<Config>(text).map_err(drop).and_then(|c| c.check().map_err(drop));
        assert!(parse(SOUND).is_ok());
        for engine in ["\"sqlite\"", "\"postgres\"\nurl = \"postgresql://u@127.0.0.1/d\"\nschema = \"a_1\""] {
            assert!(parse(&format!("{SOUND}\n[storage]\nengine = {engine}")).is_ok(), "{engine}");
        }
        for (from, to) in [
            ("listen = \"127.0.0.1:8200\"", "listen = \"0.0.0.0:8200\""),
            ("data_dir", "datadir"),
            ("[boundary]", "[boundry]"),
            ("pin = ", "pins = "),
            ("[boundary]", "[audit]\nnode = \"a/b\"\n[boundary]"),
            ("[boundary]", "[audit]\nauditor_key = \"00\"\n[boundary]"),
            ("[boundary]", "[audit]\nreserve_mib = 0\n[boundary]"),
            ("[boundary]", "[audit]\nscrub_entries_per_sec = 1000001\n[boundary]"),
            ("[boundary]", "[audit]\narchive_dir = \"/a\"\n[boundary]"),
            ("[boundary]", "[audit]\nretain_days = 1\narchive_dir = \"a\"\n[boundary]"),
            ("[boundary]", "[audit]\nretain_days = 1\narchive_dir = \"/d/audit/\"\n[boundary]"),
            ("[boundary]", "[audit]\nretain_days = 1\ndir = \"/a\"\narchive_dir = \"/a\"\n[boundary]"),
            ("[boundary]", "[audit]\nwitness_quorum = 1\n[boundary]"),
            ("[boundary]", "[[audit.witness]]\nurl = \"https://w\"\nkey = \"w\"\n[boundary]"),
            ("[boundary]", "[[audit.witness]]\nurl = \"https://w\"\n[boundary]"),
            ("[boundary]", "[storage]\nengine = \"redb\"\n[boundary]"),
            ("[boundary]", "[storage]\nengine = \"postgres\"\n[boundary]"),
            ("[boundary]", "[storage]\nengine = \"postgres\"\nurl = \"postgresql://u:p@127.0.0.1/d\"\n[boundary]"),
            ("[boundary]", "[storage]\nengine = \"postgres\"\nurl = \"postgresql://u@192.0.2.1/d\"\n[boundary]"),
            (
                "[boundary]",
                "[storage]\nengine = \"postgres\"\nurl = \"postgresql://u@[::1]/d\"\nreaders = 0\n[boundary]",
            ),
            (
                "[boundary]",
                "[storage]\nengine = \"postgres\"\nurl = \"postgresql://u@[::1]/d\"\nreader = 1\n[boundary]",
            ),
            ("[boundary]", "[limits]\nhandshake_secs = 0\n[boundary]"),
            ("[boundary]", "[[kubernetes]]\nhost = \"http://k\"\n[boundary]"),
            ("[boundary]", "[[kubernetes]]\nhost = \"https://k\"\n[[kubernetes]]\nhost = \"https://k\"\n[boundary]"),
            ("[boundary]", "[limits]\nthreads = 1025\n[boundary]"),
            ("[boundary]", "[limits]\nidle_secs = 0\n[boundary]"),
            ("[boundary]", "[limits]\nmax_age_secs = 604801\n[boundary]"),
        ] {
            assert!(parse(&SOUND.replace(from, to)).is_err(), "{to}");
        }
    }
}
