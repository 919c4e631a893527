//! The agent and `strongroom login` on a real server: what an application that knows nothing of a vault lives through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "agent/stand.rs"]
mod stand;

use serde_json::{Value, json};
use stand::Stand;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;
use tests::{Dev, DevOptions, Postgres, until};

/// Writes down what it hears; ends with 7 when asked to.
const APPLICATION: &str = r#"
[exec]
command = ["sh", "-c", "trap 'echo hup >> DIR/heard' HUP; trap 'exit 7' TERM; echo started $STRONGROOM_TOKEN >> DIR/heard; while :; do sleep 0.05; done"]
on_change = "SIGHUP"
"#;

const PASSWORD: &str = r#"
[[template]]
contents = "{{ kv('secret/app').password }}"
destination = "DIR/password"
"#;

const FORBIDDEN: &str = r#"
[[template]]
contents = "{{ kv('secret/others').password }}"
destination = "DIR/forbidden"
"#;

const TOKEN: &str = "
[[sink]]
file = \"DIR/token\"
";

#[test]
fn an_application_hears_of_other_secrets_whatever_happens_to_token_and_server() {
    let mut stand = Stand::new("1h");
    stand.wrap_secret_id();
    std::fs::write(stand.path(".password.partial-00"), "a killed agent's").unwrap();
    let mut agent = stand.agent(&[PASSWORD, TOKEN, APPLICATION].concat());
    stand.is_said("password", "first-password");
    stand.is_said("heard", "started\n");
    let mode = |name| std::fs::metadata(stand.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("password"), mode("token")), (0o600, 0o600));
    assert!(!stand.path(".password.partial-00").exists(), "what was left half-made is swept");
    stand.until_status("state", &json!("running"));
    // another version
    stand.put("second-password");
    stand.is_said("password", "second-password");
    stand.is_said("heard", "started\nhup\n");
    // the token is taken away: the SecretID that was fetched is used again
    let old = stand.says("token");
    stand.ask(&old, "POST", "auth/token/revoke-self", Value::Null, None).unwrap();
    stand.until_status("logins", &json!(2));
    assert_ne!(stand.says("token"), old);
    stand.put("third-password");
    stand.is_said("password", "third-password");
    // the server goes and comes: what was rendered stands, and it is said
    stand.dev.end();
    stand.until_status("state", &json!("waiting"));
    assert_eq!(stand.says("password"), "third-password");
    assert!(stand.status()["trouble"].as_str().unwrap().contains("cannot reach"), "{}", stand.status());
    stand.dev.start_again().unwrap();
    stand.put("fourth-password");
    stand.is_said("password", "fourth-password");
    stand.until_status("state", &json!("running"));
    stand.is_said("heard", "started\nhup\nhup\nhup\n");
    // the agent's signals are the program's, and its end is the agent's
    agent.pid().terminate();
    assert_eq!(agent.ended().code(), Some(7));
    let (log, command) = (agent.log(), "what was rendered last stands");
    assert!(log.contains(command) && !log.contains("-password"), "{log}");
    assert!(!log.contains(&old) && !log.contains(&stand.says("token")), "{log}");
}

#[test]
fn a_program_is_started_again_where_its_environment_changes_and_its_code_is_the_agents() {
    let stand = Stand::new("1h");
    stand.wrap_secret_id();
    let program = r#"
[exec]
command = ["sh", "-c", "trap 'exit 9' USR1; echo $PASSWORD >> DIR/heard; while :; do sleep 0.05; done"]
on_change = "none"
[exec.environment]
PASSWORD = "{{ kv('secret/app').password }}"
"#;
    let mut agent = stand.agent(program);
    stand.is_said("heard", "first-password\n");
    stand.put("second-password");
    stand.is_said("heard", "first-password\nsecond-password\n");
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", agent.pid().0)).unwrap();
    assert!(!arguments.contains("password") || arguments.contains("agent"), "{arguments}");
    let pid = agent.pid();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid.0).unwrap()).unwrap(),
        rustix::process::Signal::USR1,
    )
    .unwrap();
    assert_eq!(agent.ended().code(), Some(9));
    // it has logged out: the token is gone with what it could read
    assert!(agent.log().contains("logged out"), "{}", agent.log());
    assert!(!agent.log().contains("-password"), "{}", agent.log());
}

#[test]
fn a_token_is_renewed_and_replaced_before_its_longest_life_ends() {
    let stand = Stand::new("3s");
    stand.done("POST", "auth/approle/role/web", json!({"token_ttl": "3s", "token_max_ttl": "8s"}));
    stand.wrap_secret_id();
    let _agent = stand.agent(&[PASSWORD, TOKEN].concat());
    stand.is_said("password", "first-password");
    let first = stand.says("token");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(stand.says("token"), first, "renewed beyond its first 3 s");
    let lives = |token: &str| stand.ask(token, "GET", "auth/token/lookup-self", Value::Null, None).is_ok();
    assert!(lives(&first));
    let took = until("another token", Duration::from_secs(10), || stand.says("token") != first);
    assert!(lives(&first), "the old one still lived {took:?} later");
    assert!(lives(&stand.says("token")));
    assert_eq!(stand.status()["trouble"], Value::Null);
}

#[test]
fn once_renders_everything_and_ends_or_says_what_is_wrong() {
    let stand = Stand::new("1h");
    stand.wrap_secret_id();
    let (status, log) = stand.once(&[PASSWORD, APPLICATION].concat());
    assert_eq!((status.code(), stand.says("password").as_str()), (Some(0), "first-password"), "{log}");
    assert!(!stand.path("heard").exists(), "the program is not run");
    let names: Vec<_> = std::fs::read_dir(stand.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains(".partial-")), "{names:?}");
    // the wrapping token has done its work: an alarm, told as one
    let (status, log) = stand.once(PASSWORD);
    assert!(status.code() == Some(1) && log.contains("wrapping token"), "{log}");
    for (contents, said) in [
        ("{{ kv('secret/other').password }}", "permission denied"),
        ("{{ kv('secret/app').pasword }}", "a field is not there"),
        ("{{ kv('secret/app').password ", "unexpected end"),
    ] {
        stand.wrap_secret_id();
        let template = format!("[[template]]\ncontents = \"{contents}\"\ndestination = \"DIR/other\"\n");
        let (status, log) = stand.once(&template);
        assert!(status.code() == Some(1) && log.contains(said) && !log.contains("first-password"), "{contents}: {log}");
        assert!(!stand.path("other").exists());
    }
}

#[test]
fn what_was_wrapped_elsewhere_is_left_unfetched() {
    let stand = Stand::new("1h");
    stand.wrap("sys/wrapping/wrap", json!({"secret_id": "somebody else's"}));
    let (status, log) = stand.once(PASSWORD);
    assert!(status.code() == Some(1) && log.contains("it was wrapped at `sys/wrapping/wrap`"), "{log}");
    let unwrapped = stand.ask(&stand.says("wrapping-token"), "POST", "sys/wrapping/unwrap", Value::Null, None);
    assert!(unwrapped.is_ok(), "it is still there for who looks into it");
}

#[test]
fn an_agent_whose_wrapping_token_was_used_waits_for_another_and_raises_one_alarm() {
    let stand = Stand::new("1h");
    stand.wrap_secret_id();
    stand.ask(&stand.says("wrapping-token"), "POST", "sys/wrapping/unwrap", Value::Null, None).unwrap();
    let _agent = stand.agent(PASSWORD);
    let spent = || stand.status()["trouble"].as_str().is_some_and(|trouble| trouble.contains("another one is needed"));
    until("it says that it needs another", Duration::from_secs(30), spent);
    stand.wrap_secret_id();
    let rendered = || stand.says("password") == "first-password";
    until("it has logged in", Duration::from_secs(60), rendered);
    let mut alarms = 0;
    stand.dev.audit_records(|record| {
        alarms +=
            u32::from(record.path == "sys/wrapping/lookup" && record.decision != audit::record::Decision::Allowed);
    });
    assert!(alarms <= 1, "{alarms}");
}

#[test]
fn a_configuration_that_is_wrong_is_named_by_its_field() {
    let stand = Stand::new("1h");
    for (more, said) in [
        ("[[template]]\ncontents = \"x\"\ndestination = \"DIR/x\"\nmod = \"0600\"\n", "unknown field `mod`"),
        ("[[template]]\ncontents = \"x\"\ndestination = \"DIR/x\"\nmode = \"9\"\n", "template[0].mode"),
        ("[[template]]\ncontents = \"x\"\ndestination = \"DIR/x\"\nowner = \"no-such-user\"\n", "template[0].owner"),
        ("[[template]]\nsource = \"DIR/none\"\ndestination = \"DIR/x\"\n", "template[0].source"),
        ("[exec]\ncommand = []\n", "exec.command"),
        ("[exec]\ncommand = [\"x\"]\non_change = \"SIGFOO\"\n", "exec.on_change"),
    ] {
        let (status, log) = stand.once(more);
        assert!(status.code() == Some(1) && log.contains(said), "{more}: {log}");
    }
}

#[test]
fn a_login_keeps_its_token_where_all_commands_find_it() {
    let stand = Stand::new("1h");
    stand.done("POST", "sys/auth/userpass", json!({"type": "userpass"}));
    stand.done("POST", "auth/userpass/users/alice", json!({"password": "in-wonderland", "token_policies": "app"}));
    let (code, told, error) = stand.cli(&["login", "userpass", "alice", "--password-file", "-"], "in-wonderland\n");
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains(".strongroom-token"), "{told}");
    let kept = stand.path(".strongroom-token");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, secret, error) = stand.cli(&["kv", "get", "secret/app", "--field", "password"], "");
    assert_eq!(secret, "first-password\n", "{error}");
    // printed, and not kept
    stand.wrap_secret_id();
    std::fs::remove_file(&kept).unwrap();
    let (role_id, wrapped) = (stand.path("role-id"), stand.path("wrapping-token"));
    let files = [role_id.to_str().unwrap(), wrapped.to_str().unwrap()];
    let expected = "auth/approle/role/web/secret-id";
    let approle = ["login", "--print", "approle", "--role-id-file", files[0], "--secret-id-file", files[1]];
    let (code, token, error) = stand.cli(&[&approle[..], &["--expect-path", expected]].concat(), "");
    assert_eq!(code, Some(0), "{error}");
    assert!(stand.ask(token.trim(), "GET", "secret/data/app", Value::Null, None).is_ok() && !kept.exists());
    // refused, and without a terminal there is nobody to ask
    for (arguments, input, code, said) in [
        (&["login", "userpass", "alice", "--password-file", "-"][..], "in-utopia", 1, "invalid username or password"),
        (&["login", "userpass", "alice"], "in-wonderland", 2, "no terminal"),
        (&["login", "token", "--file", "-"], "sr.no-such-token", 1, "denied"),
    ] {
        let (found, told, error) = stand.cli(arguments, input);
        assert!(
            found == Some(code) && error.contains(said) && !error.contains("in-utopia"),
            "{found:?} {told} {error}"
        );
        assert!(!kept.exists());
    }
}

const USER: &str = r#"
[[template]]
contents = "{% set user = database('database/app') %}{{ user.username }} {{ user.password }}"
destination = "DIR/user"
"#;

/// `database/creds/app`, of a PostgreSQL of its own.
fn database(stand: &Stand, default_ttl: &str, max_ttl: &str) -> Postgres {
    let pg = Postgres::start();
    pg.sql("postgres", "CREATE ROLE vaultadm LOGIN CREATEROLE PASSWORD 'admins-first-password'; CREATE ROLE app_ro NOLOGIN; GRANT pg_signal_backend TO vaultadm");
    pg.sql("postgres", "GRANT app_ro TO vaultadm WITH ADMIN OPTION");
    stand.done("POST", "sys/mounts/database", json!({"type": "database"}));
    let config = json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": pg.url("postgres"),
        "username": "vaultadm",
        "password": "admins-first-password",
        "allowed_roles": "*",
    });
    stand.done("POST", "database/config/pg", config);
    let role = json!({"db_name": "pg", "groups": ["app_ro"], "default_ttl": default_ttl, "max_ttl": max_ttl});
    stand.done("POST", "database/roles/app", role);
    pg
}

fn user(stand: &Stand) -> (String, String) {
    let said = stand.says("user");
    let (name, password) = said.split_once(' ').expect("a name and a password");
    (name.to_owned(), password.to_owned())
}

#[test]
fn a_database_user_is_renewed_and_replaced_and_what_the_file_says_always_logs_in() {
    let stand = Stand::new("1h");
    let pg = database(&stand, "4s", "12s");
    stand.wrap_secret_id();
    // what may never be read keeps nothing else waiting
    let mut agent = stand.agent(&[USER, FORBIDDEN, TOKEN].concat());
    until("there is a user", Duration::from_secs(30), || stand.says("user").contains(' '));
    let logs_in = || {
        let (name, password) = user(&stand);
        pg.try_as(&name, &password, "postgres", "SELECT 1").map(|_| name)
    };
    let (began, mut seen) = (std::time::Instant::now(), Vec::new());
    while seen.len() < 3 {
        let name = logs_in().unwrap_or_else(|said| panic!("{:?} of {seen:?}: {said}", began.elapsed()));
        if seen.last().is_none_or(|(last, _)| *last != name) {
            seen.push((name, began.elapsed()));
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{seen:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let lived = seen[1].1;
    assert!(lived > Duration::from_secs(5) && lived < Duration::from_secs(12), "renewed, then replaced: {seen:?}");
    // the token is taken away, and with it the user: there is another
    stand.done(
        "POST",
        "database/roles/app",
        json!({"db_name": "pg", "groups": ["app_ro"], "default_ttl": "1h", "max_ttl": "2h"}),
    );
    let (last, token) = (user(&stand).0, stand.says("token"));
    stand.ask(&token, "POST", "auth/token/revoke-self", Value::Null, None).unwrap();
    until("another user", Duration::from_secs(30), || user(&stand).0 != last);
    logs_in().unwrap();
    // its end is theirs
    agent.pid().terminate();
    assert_eq!(agent.ended().code(), Some(0));
    let left = "SELECT count(*) FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE 'strongroom lease=%'";
    until("nothing is left", Duration::from_secs(30), || pg.sql("postgres", left) == "0");
    assert!(!agent.log().contains(&user(&stand).1), "a password in the log");
}

#[test]
fn a_demo_shows_a_newcomer_how_a_database_user_is_lent() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = std::process::Command::new(tests::binary("strongroom"));
    let output = demo.args(["demo", "postgres", "--dir"]).arg(dir.path().join("demo")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for said in
        ["Ada owes 7", "the session was closed", "refused: ", "in the database: 0", "LeaseAccessEnded", "valid up to"]
    {
        assert!(told.contains(said), "{said}: {told}");
    }
}

/// A certificate of an application, and its authority.
fn certificates(dir: &std::path::Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                  -addext basicConstraints=critical,CA:TRUE -keyout ca-key.pem -out client-ca.pem && \
                  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=app -keyout app-key.pem -out app.csr && \
                  printf 'basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n' > ext && \
                  openssl x509 -req -in app.csr -CA client-ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out app.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn an_agent_logs_in_by_every_method_that_there_is() {
    let keys = tempfile::tempdir().unwrap();
    certificates(keys.path());
    let authority = vec!["--client-ca".to_owned(), keys.path().join("client-ca.pem").display().to_string()];
    let stand = Stand::on(Dev::start(DevOptions { arguments: authority, ..DevOptions::default() }), "1h");
    stand.done("POST", "sys/auth/userpass", json!({"type": "userpass"}));
    stand.done("POST", "auth/userpass/users/app", json!({"password": "its-own", "token_policies": "app"}));
    stand.put_file("password-of-app", "its-own\n");
    let made = stand.done("POST", "auth/token/create", json!({"policies": ["app"], "ttl": "1h"}));
    stand.put_file("given-token", made["auth"]["client_token"].as_str().unwrap());
    let secret_id = stand.done("POST", "auth/approle/role/web/secret-id", json!({}));
    stand.put_file("secret-id", secret_id["data"]["secret_id"].as_str().unwrap());
    stand.put_file("root-token", &stand.dev.root_token());
    let (root, pem) = (stand.path("root-token"), keys.path().join("app.pem"));
    let role = ["auth", "cert", "write", "app", "--policy", "app", "--certificate", pem.to_str().unwrap()];
    let (code, _, error) = stand.cli(&[&role[..], &["--token-file", root.to_str().unwrap()]].concat(), "");
    assert_eq!(code, Some(0), "{error}");
    let certificate = format!(
        "client_certificate = \"{}\"\nclient_key = \"{}\"\n[login]\nmethod = \"certificate\"",
        pem.display(),
        keys.path().join("app-key.pem").display()
    );
    for (login, ok) in [
        ("[login]\nmethod = \"userpass\"\nuser = \"app\"\npassword_file = \"DIR/password-of-app\"", true),
        ("[login]\nmethod = \"approle\"\nrole_id_file = \"DIR/role-id\"\nsecret_id_file = \"DIR/secret-id\"", true),
        ("[login]\nmethod = \"token-file\"\nfile = \"DIR/given-token\"", true),
        (&certificate, true),
        ("[login]\nmethod = \"userpass\"\nuser = \"other\"\npassword_file = \"DIR/password-of-app\"", false),
    ] {
        let _ = std::fs::remove_file(stand.path("password"));
        let (status, log) = stand.once_with(&stand.config_with(login, PASSWORD));
        assert_eq!((status.success(), stand.says("password") == "first-password"), (ok, ok), "{login}: {log}");
        assert!(!log.contains("its-own"), "{log}");
    }
    // a wrapped sink: whoever fetches the token fetches it once
    let wrapped = "[login]\nmethod = \"token-file\"\nfile = \"DIR/given-token\"\n[[sink]]\nfile = \"DIR/token\"\nwrap_ttl_secs = 60";
    assert!(stand.once_with(&stand.config_with(wrapped, "")).0.success());
    let fetch = || stand.ask(&stand.says("token"), "POST", "sys/wrapping/unwrap", Value::Null, None);
    assert_eq!(fetch().unwrap()["data"]["token"], stand.says("given-token"));
    assert!(fetch().is_err());
}

#[test]
fn a_rust_application_reads_writes_and_borrows_and_gives_back_what_it_drops() {
    use client::{Input, Kv, Login, Options, SecretBytes, SecretId, Vault};
    let stand = Stand::new("1h");
    let pg = database(&stand, "1h", "2h");
    let policy = "path \"secret/*\" { capabilities = [\"create\", \"update\", \"read\", \"list\", \"delete\"] }\n\
                  path \"database/creds/*\" { capabilities = [\"read\"] }\n\
                  path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
    stand.done("POST", "sys/policies/acl/app", json!({ "policy": policy }));
    stand.wrap_secret_id();
    let secret_id = SecretId::Wrapped {
        token: Input::File(stand.path("wrapping-token")),
        creation_path: "auth/approle/role/web/secret-id".into(),
    };
    let login = Login::AppRole { mount: "approle".into(), role_id: Input::AnyFile(stand.path("role-id")), secret_id };
    let options = Options { ca: Some(stand.dev.ca()), ..Options::new(format!("https://{}", stand.dev.addr())) };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let exists = |name: &str| pg.sql("postgres", &format!("SELECT 1 FROM pg_roles WHERE rolname = '{name}'")) == "1";
    runtime.block_on(async {
        let vault = Vault::login(options, login).await.unwrap();
        let text = |secret: Option<SecretBytes>| String::from_utf8(secret.unwrap().expose().to_vec()).unwrap();
        vault.kv_put("secret", "app", &SecretBytes::copy_from(br#"{"password":"next"}"#), "pending").await.unwrap();
        for (which, password) in
            [(Kv::Current, "first-password"), (Kv::Label("pending"), "next"), (Kv::Version(2), "next")]
        {
            let secret = vault.kv("secret", "app", which).await.unwrap();
            assert_eq!(text(secret.field("password").unwrap()), password, "{which:?}");
            assert!(!format!("{secret:?} {vault:?}").contains(password));
        }
        assert_eq!(vault.list("secret/metadata").await.unwrap(), ["app"]);
        assert!(vault.list("secret/metadata/none").await.unwrap().is_empty());
        let refused = vault.read("sys/policies/acl/app").await.unwrap_err();
        assert!(refused.refusal().is_some(), "{refused}");
        let wrapped = vault.wrap(&SecretBytes::copy_from(b"{\"a\":\"b\"}"), Duration::from_secs(60)).await.unwrap();
        assert!(
            vault.unwrap(&wrapped, "secret/elsewhere").await.unwrap_err().to_string().contains("sys/wrapping/wrap")
        );
        assert_eq!(text(vault.unwrap(&wrapped, "sys/wrapping/wrap").await.unwrap().field("a").unwrap()), "b");
        // dropped with a wish, dropped without one, given back
        let dropped = vault.credentials("database/creds/app").await.unwrap().revoke_on_drop();
        let [left, given] =
            [vault.credentials("database/creds/app").await, vault.credentials("database/creds/app").await];
        let names = [&dropped, left.as_ref().unwrap(), given.as_ref().unwrap()]
            .map(|lease| text(lease.secret().field("username").unwrap()));
        assert!(names.iter().all(|name| exists(name)));
        drop((dropped, left));
        given.unwrap().revoke().await.unwrap();
        for _ in 0..200 {
            if !exists(&names[0]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!([0, 1, 2].map(|index| exists(&names[index])), [false, true, false]);
        vault.delete("secret/metadata/app").await.unwrap();
        // the token goes, and its leases with it: the next call logs in again
        let token = vault.token().unwrap();
        stand.ask(&text(Some(token)), "POST", "auth/token/revoke-self", Value::Null, None).unwrap();
        assert!(vault.list("secret/metadata").await.unwrap().is_empty());
        assert_eq!(vault.standing().session, 2);
        vault.log_out().await.unwrap();
    });
}
