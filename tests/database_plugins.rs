//! What the engine asks of a kind of database, asked of each kind: one table, each with its result or its refusal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use envelope::Timestamp;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tests::{MariaDb, Postgres, Redis};
use tokio::sync::mpsc;
use vault::engine::database::plugin::{Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, USERS_PAGE, User};

struct Kind {
    plugin: std::sync::Arc<dyn DatabasePlugin>,
    to: Connection,
    /// By which role's texts a user is made.
    statements: Vec<String>,
}

impl Kind {
    fn of(name: &str, url: String, statements: &[&str]) -> Self {
        let plugins = plugins::databases(rustls_roots());
        let to = Connection {
            id: name.to_owned(),
            revision: 1,
            url,
            username: "vaultadm".to_owned(),
            password: "admins-first-password".to_owned().into(),
            tls_ca: None,
            connections_max: 4,
            scram_iterations: None,
            instance: "cd".repeat(16),
        };
        let statements = statements.iter().map(|text| (*text).to_owned()).collect();
        Self { plugin: plugins.plugin(name).expect("a plugin of this name").clone(), to, statements }
    }

    async fn make(&self, name: &str, lease: &str, ask: &Ask) -> Result<(), DatabaseError> {
        let settings = ask.setting.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let groups: Vec<String> = ask.group.map(str::to_owned).into_iter().collect();
        let new = NewUser {
            user: user(name, lease),
            password: PASSWORD,
            until: now().plus(Duration::from_secs(60)),
            statements: if groups.is_empty() { &self.statements } else { &[] },
            groups: &groups,
            connections_max: ask.limit,
            settings: &settings,
        };
        self.plugin.create_user(&self.to, &new, now()).await
    }

    async fn comes_in(&self, name: &str) -> bool {
        self.plugin.verify_login(&self.to, name, PASSWORD).await.is_ok()
    }

    async fn own(&self) -> BTreeMap<String, String> {
        self.pages(&|_| true).await.concat().into_iter().map(|user| (user.name, user.lease)).collect()
    }

    /// Each is looked at before there is room for another: over the connections that there are.
    async fn pages(&self, goes_on: &(dyn Fn(usize) -> bool + Sync)) -> Vec<Vec<OwnUser>> {
        let (sender, mut receiver) = mpsc::channel::<Vec<OwnUser>>(1);
        let look = async {
            let mut pages = Vec::new();
            while let Some(page) = receiver.recv().await {
                let names: Vec<&str> = page.iter().map(|user| user.name.as_str()).collect();
                assert_eq!(self.plugin.strangers(&self.to, &names).await.unwrap(), Vec::<String>::new());
                pages.push(page);
                if !goes_on(pages.len()) {
                    receiver.close();
                }
            }
            pages
        };
        let (listed, pages) = tokio::join!(self.plugin.own_users(&self.to, sender), look);
        listed.unwrap();
        pages
    }

    async fn end(&self, name: &str, lease: &str) -> Result<(), DatabaseError> {
        self.plugin.end_access(&self.to, &user(name, lease)).await?;
        self.plugin.clean_up(&self.to, &user(name, lease)).await
    }
}

#[derive(Default)]
struct Ask {
    group: Option<&'static str>,
    limit: Option<u32>,
    setting: Option<(&'static str, &'static str)>,
}

/// Each answer, and of a refusal a word that it names.
async fn answers(kind: &Kind) -> Vec<(&'static str, Result<(), String>)> {
    let (plugin, to) = (&kind.plugin, &kind.to);
    let told = |outcome: Result<(), DatabaseError>| match outcome {
        Ok(()) => Ok(()),
        Err(DatabaseError::Refused(why)) => Err(format!("refused: {why}")),
        Err(other) => Err(other.to_string()),
    };
    let mut said = Vec::new();
    let probed = plugin.probe(to, now()).await.unwrap();
    assert!(!probed.version.is_empty() && probed.ahead_millis.abs() < 5000, "{probed:?}");
    said.push(("make", told(kind.make("v-one", LEASE, &Ask::default()).await)));
    said.push(("make where another has the name", told(kind.make("v-one", OTHER, &Ask::default()).await)));
    assert!(kind.comes_in("v-one").await && !kind.comes_in("v-none").await);
    assert_eq!(kind.own().await, BTreeMap::from([("v-one".to_owned(), LEASE.to_owned())]));
    said.push(("by group", told(kind.make("v-two", LEASE, &Ask { group: Some("app_ro"), ..Ask::default() }).await)));
    said.push(("with a limit", told(kind.make("v-three", LEASE, &Ask { limit: Some(2), ..Ask::default() }).await)));
    let setting = Ask { setting: Some(("work_mem", "1MB")), ..Ask::default() };
    said.push(("with a setting of PostgreSQL's", told(kind.make("v-four", LEASE, &setting).await)));
    let until = now().plus(Duration::from_secs(90));
    said.push(("renew", told(plugin.renew_user(to, &user("v-one", LEASE), until, now()).await)));
    said.push(("renew nobody", told(plugin.renew_user(to, &user("v-none", LEASE), until, now()).await)));
    said.push(("end by another lease", told(kind.end("v-one", OTHER).await)));
    assert!(kind.comes_in("v-one").await, "it is the other lease's");
    said.push(("end nobody", told(kind.end("v-none", LEASE).await)));
    for _ in 0..2 {
        said.push(("end", told(plugin.end_access(to, &user("v-one", LEASE)).await)));
        // in this order: who is refused is there for a moment
        assert_eq!(plugin.sessions(to, "v-one").await.unwrap(), 0);
        assert!(!kind.comes_in("v-one").await);
    }
    for _ in 0..2 {
        said.push(("clean up", told(plugin.clean_up(to, &user("v-one", LEASE)).await)));
    }
    for name in ["v-two", "v-three", "v-four"] {
        kind.end(name, LEASE).await.unwrap();
    }
    assert_eq!(kind.own().await, BTreeMap::new());
    said.push(("set a password", told(plugin.set_password(to, "svc", PASSWORD, &[]).await)));
    assert!(kind.comes_in("svc").await);
    said.push(("set nobody's", told(plugin.set_password(to, "v-none", PASSWORD, &[]).await)));
    said
}

/// At the same moment: one has a name that another has, one is another lease's.
async fn at_once(kind: &Kind) {
    kind.make("v-taken", OTHER, &Ask::default()).await.unwrap();
    let names: Vec<String> = (0..30).map(|number| format!("v-{number:02}")).chain(["v-taken".to_owned()]).collect();
    let ask = Ask::default();
    let made = join_all(names.iter().map(|name| kind.make(name, LEASE, &ask))).await;
    for (name, made) in names.iter().zip(made) {
        let is_refused = matches!(made, Err(DatabaseError::Refused(_)));
        assert!(if name == "v-taken" { is_refused } else { made.is_ok() }, "{}: {name}: {made:?}", kind.to.id);
    }
    assert_eq!(kind.own().await.len(), names.len());
    assert!(kind.comes_in("v-07").await && kind.comes_in("v-29").await);
    let ended = join_all(names.iter().map(|name| kind.end(name, LEASE))).await;
    assert!(ended.iter().all(Result::is_ok), "{}: {ended:?}", kind.to.id);
    assert_eq!(kind.own().await, BTreeMap::from([("v-taken".to_owned(), OTHER.to_owned())]));
    assert!(kind.comes_in("v-taken").await, "it is the other lease's");
    kind.end("v-taken", OTHER).await.unwrap();
}

/// As many as are more than a page, among those of others.
#[test]
fn users_are_listed_page_by_page_over_one_connection() {
    let (pg, maria, redis) = (Postgres::start(), MariaDb::start(), Redis::start());
    let (ours, many) = ("cd".repeat(16), 4 * USERS_PAGE + 7);
    pg.sql(
        "postgres",
        &format!(
            "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'; DO $$ BEGIN FOR n IN 1..{many} LOOP \
             EXECUTE format('CREATE ROLE \"v-%s\"', n); EXECUTE format('COMMENT ON ROLE \"v-%s\" IS %L', n, \
             'strongroom lease={LEASE} instance={ours}'); EXECUTE format('CREATE ROLE \"w-%s\"', n); END LOOP; END $$",
        ),
    );
    maria.sql(&format!(
        "CREATE USER vaultadm@'%' IDENTIFIED BY 'admins-first-password'; GRANT SELECT ON mysql.* TO vaultadm@'%'; \
         GRANT ALL ON strongroom.* TO vaultadm@'%'; CREATE SCHEMA strongroom; CREATE TABLE strongroom.leased (name \
         VARCHAR(128) PRIMARY KEY, lease VARCHAR(128) NOT NULL, instance VARCHAR(64) NOT NULL) ENGINE=InnoDB CHARACTER \
         SET utf8mb4 COLLATE utf8mb4_bin; USE strongroom; INSERT INTO leased VALUES ('v-gone', '{LEASE}', '{ours}'); \
         INSERT INTO leased SELECT CONCAT('v-', seq), '{LEASE}', '{ours}' FROM seq_1_to_{many} UNION SELECT \
         CONCAT('w-', seq), '{LEASE}', 'another' FROM seq_1_to_{many}; SET group_concat_max_len = 1000000; SET @users = \
         (SELECT GROUP_CONCAT('''v-', seq, '''@''%'', ''w-', seq, '''@''%''') FROM seq_1_to_{many}); \
         SET @text = CONCAT('CREATE USER ', @users); EXECUTE IMMEDIATE @text",
    ));
    let marked =
        |name: &str, instance: &str| format!("ACL SETUSER {name} (~strongroom:lease={LEASE}:instance={instance})");
    let mut session = redis.session("default", Redis::PASSWORD);
    for n in 1..=many {
        assert_eq!(session.ask(&marked(&format!("v-{n}"), &ours)).as_deref(), Some("+OK"));
        assert_eq!(session.ask(&marked(&format!("w-{n}"), "another")).as_deref(), Some("+OK"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, url) in [
        ("postgresql-database-plugin", pg.url("postgres")),
        ("mariadb-database-plugin", maria.url()),
        ("redis-database-plugin", redis.url()),
    ] {
        let mut kind = Kind::of(name, url, &[]);
        kind.to.connections_max = 1;
        let pages = runtime.block_on(kind.pages(&|_| true));
        assert!(pages.len() > 4 && pages.iter().all(|page| page.len() <= USERS_PAGE), "{name}: {}", pages.len());
        let own: Vec<OwnUser> = pages.concat();
        let names: BTreeSet<&str> = own.iter().map(|user| user.name.as_str()).collect();
        assert_eq!((own.len(), names.len()), (many, many), "{name}");
        assert!(own.iter().all(|user| user.name.starts_with("v-") && user.lease == LEASE));
        // nobody wants more than the first; one is there already
        let pages = runtime.block_on(kind.pages(&|_| false));
        assert!(pages.len() <= 2, "{name}: {}", pages.len());
        let asked = ["v-1", "v-none", "w-7", "V-1", "v-'", ""];
        let strangers = runtime.block_on(kind.plugin.strangers(&kind.to, &asked)).unwrap();
        assert_eq!(strangers, ["v-none", "V-1", "v-'", ""], "{name}");
        assert_eq!(runtime.block_on(kind.plugin.strangers(&kind.to, &[])).unwrap(), Vec::<String>::new());
    }
}

/// Each of them, those who are in as well: before they are cleaned up, and when the server has started again.
#[test]
fn users_of_redis_who_end_at_once_are_out_and_stay_out() {
    let redis = Redis::start();
    let kind = Kind::of("redis-database-plugin", redis.url(), &["~app:* +@read"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let names: Vec<String> = (0..100).map(|number| format!("v-{number:02}")).collect();
    let users: Vec<User<'_>> = names.iter().map(|name| user(name, LEASE)).collect();
    let ask = Ask::default();
    let made = runtime.block_on(join_all(names.iter().map(|name| kind.make(name, LEASE, &ask))));
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let mut sessions: Vec<_> = names.iter().step_by(3).map(|name| redis.session(name, PASSWORD)).collect();
    // somebody's selector gives nothing either
    redis.run(&["ACL", "SETUSER", "v-00", "(+@all ~*)"]);
    runtime.block_on(kind.make("v-stays", OTHER, &ask)).unwrap();
    let mut stays = redis.session("v-stays", PASSWORD);
    let before = redis.run(&["INFO", "commandstats"]);
    let ended = runtime.block_on(join_all(users.iter().map(|user| kind.plugin.end_access(&kind.to, user))));
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    let saves = |stats: &str| {
        let stats = stats.lines().find_map(|line| line.strip_prefix("cmdstat_acl|save:calls="));
        stats.unwrap().split(',').next().unwrap().parse::<usize>().unwrap()
    };
    let saved = saves(&redis.run(&["INFO", "commandstats"])) - saves(&before);
    assert!((1..=10).contains(&saved), "{saved} times for {} users", users.len());
    assert!(sessions.iter_mut().all(|session| !session.lives()) && stays.lives());
    let are_out = || names.iter().all(|name| !runtime.block_on(kind.comes_in(name)));
    assert!(are_out());
    let first = redis.run(&["ACL", "GETUSER", "v-00"]);
    assert!(!first.contains("+@") && !first.contains("~*") && first.matches(LEASE).count() == 1, "{first}");
    assert_eq!(runtime.block_on(kind.own()).len(), names.len() + 1, "they bear their marks");
    let restart = || {
        redis.stop();
        redis.go_on();
    };
    restart();
    assert!(are_out() && runtime.block_on(kind.comes_in("v-stays")));
    let cleaned = runtime.block_on(join_all(users.iter().map(|user| kind.plugin.clean_up(&kind.to, user))));
    assert!(cleaned.iter().all(Result::is_ok), "{cleaned:?}");
    restart();
    assert_eq!(redis.run(&["ACL", "USERS"]).lines().collect::<Vec<_>>(), ["default", "v-stays", "vaultadm"]);
}

/// That is no end: it would be undone when the server starts again. Nobody is in meanwhile.
#[test]
fn users_of_redis_whose_end_cannot_be_saved_are_out_and_are_not_told_as_ended() {
    let redis = Redis::start();
    let kind = Kind::of("redis-database-plugin", redis.url(), &["~app:* +@read"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("v-{number:02}")).collect();
    let ask = Ask::default();
    let made = runtime.block_on(join_all(names.iter().map(|name| kind.make(name, LEASE, &ask))));
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let mut sessions: Vec<_> = names.iter().map(|name| redis.session(name, PASSWORD)).collect();
    redis.keep_from_saving(true);
    let end = || runtime.block_on(join_all(names.iter().map(|name| kind.end(name, LEASE))));
    let ended = end();
    assert!(ended.iter().all(|ended| matches!(ended, Err(DatabaseError::Unknown(_)))), "{ended:?}");
    assert!(sessions.iter_mut().all(|session| !session.lives()));
    redis.keep_from_saving(false);
    let ended = end();
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    redis.stop();
    redis.go_on();
    assert_eq!(redis.run(&["ACL", "USERS"]).lines().collect::<Vec<_>>(), ["default", "vaultadm"]);
}

#[test]
fn a_password_of_redis_that_was_not_saved_is_saved_before_it_counts() {
    let redis = Redis::start();
    let kind = Kind::of("redis-database-plugin", redis.url(), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = || runtime.block_on(kind.plugin.set_password(&kind.to, "svc", PASSWORD, &[]));
    redis.run(&["ACL", "SETUSER", "svc", "on", ">another", "+ping"]);
    redis.run(&["ACL", "SAVE"]);
    let restart = || {
        redis.stop();
        redis.go_on();
    };
    redis.keep_from_saving(true);
    assert!(set().is_err() && runtime.block_on(kind.comes_in("svc")));
    runtime.block_on(kind.plugin.make_durable(&kind.to)).unwrap_err();
    redis.keep_from_saving(false);
    restart();
    assert!(!runtime.block_on(kind.comes_in("svc")), "it was in memory alone");
    redis.keep_from_saving(true);
    set().unwrap_err();
    redis.keep_from_saving(false);
    runtime.block_on(kind.plugin.make_durable(&kind.to)).unwrap();
    restart();
    assert!(runtime.block_on(kind.comes_in("svc")));
}

/// While a role is being committed its lease does not end, for nobody sees the role yet.
#[test]
fn a_role_of_postgresql_that_is_being_committed_is_waited_for() {
    let pg = Postgres::start();
    pg.sql("postgres", "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'");
    let kind = Kind::of("postgresql-database-plugin", pg.url("postgres"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = "BEGIN; CREATE ROLE \"v-slow\" LOGIN";
    let session = pg.session("vaultadm", "admins-first-password", "postgres", made);
    let ended = runtime.block_on(kind.end("v-slow", LEASE));
    assert!(matches!(&ended, Err(DatabaseError::Refused(why)) if why.contains("55P03")), "{ended:?}");
    // it is given up
    drop(session);
    runtime.block_on(kind.end("v-slow", LEASE)).unwrap();
    assert_eq!(pg.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'v-slow'"), "0");
}

/// A server logs each text that fails: of those that make a user by groups, none that the server refuses holds a verifier.
#[test]
fn a_user_that_postgresql_refuses_to_make_leaves_no_verifier_in_its_log() {
    let pg = Postgres::start();
    pg.sql(
        "postgres",
        "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'; CREATE ROLE \"v-taken\"; \
         ALTER ROLE vaultadm SET log_statement = 'none'; ALTER ROLE vaultadm SET log_min_duration_statement = -1",
    );
    let kind = Kind::of("postgresql-database-plugin", pg.url("postgres"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let since = pg.log().len();
    let no_group = Ask { group: Some("nobodys"), ..Ask::default() };
    let no_setting = Ask { setting: Some(("work_mem", "much")), ..Ask::default() };
    for (name, ask, said) in [
        ("v-taken", &Ask::default(), "role \"v-taken\" already exists"),
        ("v-one", &no_group, "role \"nobodys\" does not exist"),
        ("v-one", &no_setting, "invalid value for parameter \"work_mem\""),
    ] {
        let refused = runtime.block_on(kind.make(name, LEASE, ask));
        assert!(matches!(refused, Err(DatabaseError::Refused(_))), "{name}: {refused:?}");
        let log = pg.log().split_off(since);
        assert!(log.contains(said) && log.contains("STATEMENT:  "), "{log}");
        assert!(!log.contains("SCRAM-SHA-256$") && !log.contains(PASSWORD), "{log}");
    }
    // the same server does log what an administrator sends it
    pg.sql("postgres", "CREATE ROLE other PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$aaaa:bbbb'");
    assert!(pg.log().contains("SCRAM-SHA-256$"));
}

#[test]
fn every_kind_answers_every_question_or_names_why_not() {
    let (pg, maria, redis) = (Postgres::start(), MariaDb::start(), Redis::start());
    pg.sql(
        "postgres",
        "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'; CREATE ROLE app_ro NOLOGIN; \
         CREATE ROLE svc LOGIN; GRANT pg_signal_backend TO vaultadm",
    );
    pg.gives("vaultadm", "app_ro, svc");
    maria.sql(
        "CREATE SCHEMA app; CREATE ROLE app_ro; CREATE USER vaultadm@'%' IDENTIFIED BY 'admins-first-password'; \
         GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO vaultadm@'%'; GRANT SELECT ON mysql.* TO vaultadm@'%'; \
         GRANT ALL ON strongroom.* TO vaultadm@'%'; GRANT app_ro TO vaultadm@'%' WITH ADMIN OPTION; CREATE USER svc@'%'",
    );
    redis.run(&["ACL", "SETUSER", "svc", "on", "+ping"]);
    let kinds = [
        Kind::of("postgresql-database-plugin", pg.url("postgres"), &[]),
        Kind::of("mariadb-database-plugin", maria.url(), &[]),
        Kind::of("redis-database-plugin", redis.url(), &["~app:* +@read"]),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let said: Vec<_> = kinds.iter().map(|kind| runtime.block_on(answers(kind))).collect();
    for kind in &kinds {
        runtime.block_on(at_once(kind));
    }
    let done = [None, None, None];
    let table = [
        ("make", done),
        ("make where another has the name", [Some("refused"), Some("refused"), Some("refused")]),
        ("by group", [None, None, Some("no `groups`")]),
        ("with a limit", [None, None, Some("no `connection_limit`")]),
        ("with a setting of PostgreSQL's", [None, Some("no setting `work_mem`"), Some("no `settings`")]),
        ("renew", done),
        ("renew nobody", [Some("refused"), Some("refused"), Some("refused")]),
        ("end by another lease", done),
        ("end nobody", done),
        ("end", done),
        ("end", done),
        ("clean up", done),
        ("clean up", done),
        ("set a password", done),
        ("set nobody's", [Some("refused"), Some("refused"), Some("refused")]),
    ];
    for (at, (question, expected)) in table.iter().enumerate() {
        for ((said, expected), kind) in said.iter().zip(expected).zip(&kinds) {
            let (asked, answer) = said.get(at).unwrap();
            assert_eq!(asked, question);
            let sound = match (answer, expected) {
                (Ok(()), None) => true,
                (Err(why), Some(word)) => why.contains(word),
                (Ok(()), Some(_)) | (Err(_), None) => false,
            };
            assert!(sound, "{}: {question}: {answer:?}, not {expected:?}", kind.to.id);
        }
    }
    // servers that are away are told so, by each in the same way
    drop((pg, maria, redis));
    for kind in &kinds {
        kind.plugin.forget(&kind.to.id);
        let probed = runtime.block_on(kind.plugin.probe(&kind.to, now()));
        assert!(matches!(probed, Err(DatabaseError::Unreachable(_))), "{}: {probed:?}", kind.to.id);
    }
}

fn user<'a>(name: &'a str, lease: &'a str) -> User<'a> {
    User { name, lease, statements: &[], heir: None }
}

#[expect(clippy::disallowed_methods, reason = "the servers' clocks are the machine's")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(u64::try_from(since.as_millis()).unwrap())
}

fn rustls_roots() -> rustls::RootCertStore {
    rustls::RootCertStore::empty()
}

const PASSWORD: &str = "A1b2C3d4E5f6G7h8";
const LEASE: &str = "aa11";
const OTHER: &str = "bb22";
