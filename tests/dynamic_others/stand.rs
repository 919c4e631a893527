//! A Strongroom and a server of users, of either kind, and how both are asked.

use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::mariadb::MariaSession;
use tests::redis::RedisSession;
use tests::{Dev, DevOptions, MariaDb, Redis, until};

pub(crate) enum Server {
    MariaDb(MariaDb),
    Redis(Redis),
}

pub(crate) enum Session {
    MariaDb(MariaSession),
    Redis(RedisSession),
}

pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) server: Server,
    faults: tempfile::TempDir,
}

/// A user, as `creds` gives it.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) lease: String,
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Server {
    /// With something to read that the account may let others read, which is 7.
    pub(crate) fn mariadb() -> Self {
        let mariadb = MariaDb::start();
        mariadb.sql(
            "CREATE SCHEMA app; CREATE TABLE app.t (a int); INSERT INTO app.t VALUES (7); CREATE ROLE app_ro; \
             GRANT SELECT, CREATE VIEW, CREATE ROUTINE, TRIGGER, EVENT, SHOW VIEW ON app.* TO app_ro; \
             CREATE USER vaultadm@'%' IDENTIFIED BY 'admins-first-password'; \
             GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO vaultadm@'%'; GRANT SELECT ON mysql.* TO vaultadm@'%'; \
             GRANT ALL ON strongroom.* TO vaultadm@'%'; GRANT app_ro TO vaultadm@'%' WITH ADMIN OPTION; \
             GRANT ALL ON app.* TO vaultadm@'%' WITH GRANT OPTION",
        );
        Self::MariaDb(mariadb)
    }

    pub(crate) fn redis() -> Self {
        let redis = Redis::start();
        redis.run(&["SET", "app:a", "7"]);
        redis.run(&["SET", "other:a", "8"]);
        Self::Redis(redis)
    }

    pub(crate) fn maria(&self) -> &MariaDb {
        match self {
            Self::MariaDb(mariadb) => mariadb,
            Self::Redis(_) => panic!("this is a Redis"),
        }
    }

    pub(crate) fn red(&self) -> &Redis {
        match self {
            Self::MariaDb(_) => panic!("this is a MariaDB"),
            Self::Redis(redis) => redis,
        }
    }

    pub(crate) fn config(&self) -> Value {
        let (plugin, url) = match self {
            Self::MariaDb(mariadb) => ("mariadb-database-plugin", mariadb.url()),
            Self::Redis(redis) => ("redis-database-plugin", redis.url()),
        };
        json!({"plugin_name": plugin, "connection_url": url, "username": "vaultadm",
               "password": "admins-first-password", "allowed_roles": "*"})
    }

    pub(crate) fn role(&self) -> Value {
        match self {
            Self::MariaDb(_) => json!({"groups": ["app_ro"]}),
            Self::Redis(_) => json!({"creation_statements": ["~app:* +@read +@connection"]}),
        }
    }

    /// What `user` reads with this password.
    pub(crate) fn reads(&self, user: &str, password: &str) -> Result<String, String> {
        match self {
            Self::MariaDb(mariadb) => mariadb.try_as(user, password, "SELECT a FROM app.t"),
            Self::Redis(redis) => redis.try_as(user, password, &["GET", "app:a"]),
        }
    }

    /// Whether it comes in at all.
    pub(crate) fn lets_in(&self, user: &str, password: &str) -> bool {
        match self {
            Self::MariaDb(mariadb) => mariadb.try_as(user, password, "SELECT 1").is_ok(),
            Self::Redis(redis) => redis.try_as(user, password, &["PING"]).is_ok_and(|said| said == "PONG"),
        }
    }

    pub(crate) fn session(&self, user: &User) -> Session {
        match self {
            Self::MariaDb(mariadb) => Session::MariaDb(mariadb.session(&user.name, &user.password, "SELECT 1")),
            Self::Redis(redis) => Session::Redis(redis.session(&user.name, &user.password)),
        }
    }

    pub(crate) fn sessions(&self, user: &str) -> usize {
        match self {
            Self::MariaDb(mariadb) => {
                let text = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{user}'");
                mariadb.sql(&text).parse().unwrap()
            }
            Self::Redis(redis) => redis.run(&["CLIENT", "LIST"]).matches(&format!(" user={user} ")).count(),
        }
    }

    pub(crate) fn users(&self) -> Vec<String> {
        let listed = match self {
            Self::MariaDb(mariadb) => mariadb.sql("SELECT User FROM mysql.global_priv"),
            Self::Redis(redis) => redis.run(&["ACL", "USERS"]),
        };
        listed.lines().map(str::to_owned).collect()
    }

    pub(crate) fn has(&self, user: &str) -> bool {
        self.users().iter().any(|other| other == user)
    }

    /// A user of somebody else's, who can come in.
    pub(crate) fn add(&self, name: &str, password: &str) {
        match self {
            Self::MariaDb(m) => drop(m.sql(&format!("CREATE USER {name}@'%' IDENTIFIED BY '{password}'"))),
            Self::Redis(r) => drop(r.run(&["ACL", "SETUSER", name, "on", &format!(">{password}"), "+ping"])),
        }
    }

    /// Marked as if made for a lease of this cluster.
    pub(crate) fn mark(&self, name: &str, instance: &str) {
        let lease = "ab".repeat(32);
        match self {
            Self::MariaDb(mariadb) => {
                mariadb.sql(&format!("INSERT INTO strongroom.leased VALUES ('{name}', '{lease}', '{instance}')"));
            }
            Self::Redis(redis) => {
                redis.run(&["ACL", "SETUSER", name, &format!("(~strongroom:lease={lease}:instance={instance})")]);
            }
        }
    }

    /// The cluster that made this user.
    pub(crate) fn instance(&self, user: &str) -> String {
        match self {
            Self::MariaDb(m) => m.sql(&format!("SELECT instance FROM strongroom.leased WHERE name = '{user}'")),
            Self::Redis(redis) => {
                let all = redis.run(&["ACL", "GETUSER", user]);
                all.split_once(":instance=").unwrap().1.lines().next().unwrap().to_owned()
            }
        }
    }

    pub(crate) fn remove(&self, user: &str) {
        match self {
            Self::MariaDb(mariadb) => drop(mariadb.sql(&format!("DROP USER '{user}'@'%'"))),
            Self::Redis(redis) => drop(redis.run(&["ACL", "DELUSER", user])),
        }
    }

    pub(crate) fn stop(&self) {
        match self {
            Self::MariaDb(mariadb) => mariadb.stop(),
            Self::Redis(redis) => redis.stop(),
        }
    }

    pub(crate) fn go_on(&self) {
        match self {
            Self::MariaDb(mariadb) => mariadb.go_on(),
            Self::Redis(redis) => redis.go_on(),
        }
    }

    pub(crate) fn log(&self) -> String {
        match self {
            Self::MariaDb(mariadb) => mariadb.log(),
            Self::Redis(redis) => redis.log(),
        }
    }
}

impl Session {
    pub(crate) fn lives(&mut self) -> bool {
        match self {
            Self::MariaDb(session) => session.lives(),
            Self::Redis(session) => session.lives(),
        }
    }
}

impl Stand {
    pub(crate) fn new(server: Server) -> Self {
        let faults = tempfile::tempdir().unwrap();
        let file = faults.path().join("fault").display().to_string();
        let environment = vec![("STRONGROOM_FAULT_FILE".to_owned(), file)];
        let dev = Dev::start(DevOptions { environment, ..DevOptions::default() });
        let stand = Self { dev, server, faults };
        stand.done("write", "sys/mounts/database", json!({"type": "database"}));
        stand.done("write", "database/config/db", stand.server.config());
        stand
    }

    pub(crate) fn role(&self, name: &str, more: Value) {
        let mut role = json!({"db_name": "db", "default_ttl": "1h", "max_ttl": "2h"});
        for part in [self.server.role(), more] {
            role.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        self.done("write", &format!("database/roles/{name}"), role);
    }

    pub(crate) fn user(&self, role: &str) -> User {
        self.user_of(role, &self.dev.root_token())
    }

    pub(crate) fn user_of(&self, role: &str, token: &str) -> User {
        let answer = self.ask(token, "read", &format!("database/creds/{role}"), Value::Null).unwrap();
        User {
            lease: text(&answer["lease_id"]),
            name: text(&answer["data"]["username"]),
            password: text(&answer["data"]["password"]),
        }
    }

    pub(crate) fn static_user(&self, role: &str) -> User {
        let data = &self.done("read", &format!("database/static-creds/{role}"), Value::Null)["data"];
        User { lease: String::new(), name: text(&data["username"]), password: text(&data["password"]) }
    }

    /// What no role makes.
    pub(crate) fn refused(&self, role: &str) -> String {
        self.ask(&self.dev.root_token(), "read", &format!("database/creds/{role}"), Value::Null).unwrap_err()
    }

    /// As root, and it must succeed.
    pub(crate) fn done(&self, what: &str, path: &str, body: Value) -> Value {
        self.ask(&self.dev.root_token(), what, path, body).unwrap_or_else(|said| panic!("{what} {path}: {said}"))
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
        curl.args(["-s", "-m", "60", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-", "-H"]);
        curl.arg(format!("X-Vault-Token: {token}")).arg("--cacert").arg(self.dev.ca());
        curl.arg(format!("https://{}/v1/{path}", self.dev.addr()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        if status.starts_with('2') {
            Ok(serde_json::from_str(answer).unwrap_or(Value::Null))
        } else {
            Err(format!("{status} {answer}"))
        }
    }

    /// A token that may ask for users.
    pub(crate) fn token(&self, display_name: &str) -> String {
        let policy = "path \"database/creds/*\" { capabilities = [\"read\"] }";
        self.done("write", "sys/policies/acl/app", json!({ "policy": policy }));
        let made = self.done("write", "auth/token/create", json!({"policies": ["app"], "display_name": display_name}));
        text(&made["auth"]["client_token"])
    }

    pub(crate) fn logs_in(&self, user: &User) -> bool {
        self.server.reads(&user.name, &user.password).is_ok_and(|read| read == "7")
    }

    pub(crate) fn leases(&self) -> u64 {
        let counted = self.done("read", "sys/leases/count", Value::Null);
        counted["data"]["counts"]["database/"].as_u64().unwrap_or_default()
    }

    pub(crate) fn lookup(&self, lease: &str) -> Result<Value, String> {
        self.ask(&self.dev.root_token(), "write", "sys/leases/lookup", json!({ "lease_id": lease }))
    }

    pub(crate) fn revoke(&self, user: &User) {
        self.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    }

    /// Nothing is left of it: no lease, no user, no session.
    pub(crate) fn gone(&self, user: &User, within: u64) -> Duration {
        let gone = || self.lookup(&user.lease).is_err() && !self.server.has(&user.name);
        let took = until("nothing is left of the user", Duration::from_secs(within), gone);
        assert_eq!(self.server.sessions(&user.name), 0);
        assert!(!self.server.lets_in(&user.name, &user.password));
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

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
