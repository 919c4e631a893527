//! A server and a PostgreSQL, and how both are asked.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tests::{Dev, DevOptions, Postgres, binary, until};

pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) pg: Postgres,
    faults: tempfile::TempDir,
    /// A certificate and its key, shown by whoever asks.
    shown: Option<PathBuf>,
    /// Paths of requests that succeeded, by their ids.
    answered: Mutex<BTreeMap<String, String>>,
}

/// A user, as `creds` gives it.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) lease: String,
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Stand {
    /// With a table that `app_ro` may read, a second database, and an account that is no superuser.
    pub(crate) fn new() -> Self {
        Self::trusting(tempfile::tempdir().unwrap())
    }

    /// Whoever asks shows a certificate of an authority that the server trusts.
    pub(crate) fn with_certificate() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -x509";
        for arguments in [
            format!("{made} -keyout ca.key -out ca.pem -subj /CN=authority"),
            format!(
                "{made} -keyout key.pem -out app.pem -subj /CN=app -CA ca.pem -CAkey ca.key \
                 -addext basicConstraints=critical,CA:FALSE"
            ),
        ] {
            let mut openssl = Command::new("openssl");
            let output = openssl.args(arguments.split(' ')).current_dir(&folder).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let pair = ["app.pem", "key.pem"].map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap());
        std::fs::write(folder.path().join("pair.pem"), pair.concat()).unwrap();
        Self::trusting(folder)
    }

    /// The authority, where the folder holds one.
    fn trusting(faults: tempfile::TempDir) -> Self {
        let pg = Postgres::start();
        pg.sql(
            "postgres",
            "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'; CREATE ROLE app_ro NOLOGIN; \
             CREATE ROLE heir NOLOGIN; CREATE ROLE app_owner NOLOGIN; CREATE TABLE t (a int); INSERT INTO t VALUES (7); \
             GRANT SELECT ON t TO app_ro; GRANT CREATE ON SCHEMA public TO app_ro; GRANT pg_signal_backend TO vaultadm",
        );
        pg.gives("vaultadm", "app_ro");
        pg.sql("postgres", "CREATE DATABASE \"a\"\";drop\"");
        pg.sql("a\";drop", "GRANT CREATE ON SCHEMA public TO app_ro");
        let file = faults.path().join("fault").display().to_string();
        let environment = vec![("STRONGROOM_FAULT_FILE".to_owned(), file)];
        let [authority, pair] = ["ca.pem", "pair.pem"].map(|name| faults.path().join(name));
        let shown = pair.exists().then_some(pair);
        let arguments = match shown {
            Some(_) => vec!["--client-ca".to_owned(), authority.display().to_string()],
            None => Vec::new(),
        };
        let dev = Dev::start(DevOptions { environment, arguments, ..DevOptions::default() });
        let stand = Self { dev, pg, faults, shown, answered: Mutex::default() };
        stand.done("write", "sys/mounts/database", json!({"type": "database"}));
        stand.configure("pg");
        stand
    }

    pub(crate) fn configure(&self, name: &str) {
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": self.pg.url("postgres"),
            "username": "vaultadm",
            "password": "admins-first-password",
            "allowed_roles": "*",
        });
        self.done("write", &format!("database/config/{name}"), config);
    }

    /// A role whose users are members of `app_ro`.
    pub(crate) fn role(&self, name: &str, more: Value) {
        let mut role = json!({"db_name": "pg", "groups": ["app_ro"], "default_ttl": "1h", "max_ttl": "2h"});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.done("write", &format!("database/roles/{name}"), role);
    }

    pub(crate) fn user(&self, role: &str) -> User {
        self.user_of(role, &self.dev.root_token())
    }

    pub(crate) fn user_of(&self, role: &str, token: &str) -> User {
        let answer = self.ask(token, "read", &format!("database/creds/{role}"), Value::Null).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        User {
            lease: text(&answer["lease_id"]),
            name: text(&answer["data"]["username"]),
            password: text(&answer["data"]["password"]),
        }
    }

    pub(crate) fn static_user(&self, role: &str) -> User {
        let data = &self.done("read", &format!("database/static-creds/{role}"), Value::Null)["data"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        User { lease: String::new(), name: text(&data["username"]), password: text(&data["password"]) }
    }

    pub(crate) fn comes_in(&self, user: &User) -> bool {
        self.pg.try_as(&user.name, &user.password, "postgres", "SELECT 1").is_ok()
    }

    /// As root, and it must succeed.
    pub(crate) fn done(&self, what: &str, path: &str, body: Value) -> Value {
        self.ask(&self.dev.root_token(), what, path, body).unwrap_or_else(|said| panic!("{what} {path}: {said}"))
    }

    /// Where the certificate stands that it shows.
    pub(crate) fn pair(&self) -> &str {
        self.shown.as_deref().unwrap().to_str().unwrap()
    }

    /// By HTTP: the whole answer, or what is said instead.
    pub(crate) fn ask(&self, token: &str, what: &str, path: &str, body: Value) -> Result<Value, String> {
        let method = match what {
            "read" => "GET",
            "list" => "LIST",
            "delete" => "DELETE",
            _ => "POST",
        };
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-m",
            "60",
            "-X",
            method,
            "-w",
            "\n%{http_code} %header{x-request-id}",
            "--data-binary",
            "@-",
            "-H",
        ]);
        curl.arg(format!("X-Vault-Token: {token}"));
        if let Some(pair) = &self.shown {
            curl.arg("--cert").arg(pair).arg("--key").arg(pair);
        }
        curl.arg("--cacert").arg(self.dev.ca());
        curl.arg(format!("https://{}/v1/{path}", self.dev.addr()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, told) = said.rsplit_once('\n').unwrap();
        let (status, id) = told.split_once(' ').unwrap();
        if status.starts_with('2') {
            self.answered.lock().unwrap().insert(id.to_owned(), path.to_owned());
            Ok(serde_json::from_str(answer).unwrap_or(Value::Null))
        } else {
            Err(format!("{status} {answer}"))
        }
    }

    /// Each request that succeeded stands in the log, with the token or the certificate that it came with.
    pub(crate) fn askers_are_recorded(&self) {
        let mut answered = std::mem::take(&mut *self.answered.lock().unwrap());
        answered.retain(|_, path| path != "sys/health");
        assert!(answered.len() > 5, "it was asked");
        self.dev.audit_records(|record| {
            if matches!(record.subject, audit::Subject::Token { .. } | audit::Subject::Certificate { .. }) {
                answered.remove(record.request_id);
            }
        });
        assert!(answered.is_empty(), "nobody knows who asked {answered:?}");
    }

    pub(crate) fn metrics(&self) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "20", "--cacert"]).arg(self.dev.ca());
        let output = curl.arg(format!("https://{}/metrics", self.dev.addr())).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A token that may ask for users and look after its leases.
    pub(crate) fn token(&self, display_name: &str) -> String {
        let policy = "path \"database/creds/*\" { capabilities = [\"read\"] }";
        self.done("write", "sys/policies/acl/app", json!({ "policy": policy }));
        let made = self.done("write", "auth/token/create", json!({"policies": ["app"], "display_name": display_name}));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn logs_in(&self, user: &User) -> bool {
        self.pg.try_as(&user.name, &user.password, "postgres", "SELECT a FROM public.t").is_ok()
    }

    /// Roles that the server has made, of any name.
    pub(crate) fn roles(&self) -> Vec<String> {
        let found = "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE 'strongroom lease=%'";
        self.pg.sql("postgres", found).lines().map(str::to_owned).collect()
    }

    pub(crate) fn has_role(&self, user: &User) -> bool {
        self.pg.sql("postgres", &format!("SELECT 1 FROM pg_roles WHERE rolname = '{}'", user.name)) == "1"
    }

    pub(crate) fn sessions(&self, user: &User) -> String {
        self.pg.sql("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{}'", user.name))
    }

    pub(crate) fn leases(&self) -> u64 {
        let counted = self.done("read", "sys/leases/count", Value::Null);
        counted["data"]["counts"]["database/"].as_u64().unwrap_or_default()
    }

    pub(crate) fn lookup(&self, lease: &str) -> Result<Value, String> {
        self.ask(&self.dev.root_token(), "write", "sys/leases/lookup", json!({ "lease_id": lease }))
    }

    /// Nothing is left of it: no lease, no role, no session.
    pub(crate) fn gone(&self, user: &User, within: u64) -> Duration {
        let gone = || self.lookup(&user.lease).is_err() && !self.has_role(user);
        let took = until("nothing is left of the user", Duration::from_secs(within), gone);
        assert_eq!(self.sessions(user), "0");
        assert!(!self.logs_in(user));
        took
    }

    /// The process ends at this point, once.
    pub(crate) fn fail_at(&self, point: &str) {
        std::fs::write(self.fault(), point).unwrap();
    }

    pub(crate) fn fault(&self) -> PathBuf {
        self.faults.path().join("fault")
    }

    /// It serves again.
    pub(crate) fn recovered(&self) {
        let serves = || self.ask(&self.dev.root_token(), "read", "sys/health", Value::Null).is_ok();
        until("the server is back", Duration::from_secs(60), serves);
    }

    /// What `strongroom` prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary("strongroom"));
        command.env("STRONGROOM_ADDR", format!("https://{}", self.dev.addr())).env("STRONGROOM_CACERT", self.dev.ca());
        command.env("STRONGROOM_TOKEN", self.dev.root_token());
        let output = command.args(arguments).output().unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(told(&output.stdout)) } else { Err(told(&output.stderr)) }
    }

    /// The operations that the audit log tells of this path.
    pub(crate) fn recorded(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.dev.audit_records(|record| {
            if record.path == path {
                found.push(record.operation.to_owned());
            }
        });
        found
    }
}
