//! Users of a real PostgreSQL that live as long as their leases, whatever happens to either side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where it fails, and tells figures"
)]

#[path = "dynamic/figures.rs"]
mod figures;
#[path = "dynamic/hook.rs"]
mod hook;
#[path = "dynamic/stand.rs"]
mod stand;
#[path = "dynamic/statics.rs"]
mod statics;

use serde_json::{Value, json};
use stand::{Stand, User};
use std::time::Duration;
use tests::{Postgres, until};

/// What a user can leave behind: a table, a function that runs as its owner, something in another database; and sessions, one
/// of which has become somebody else, and one of which changes its role and does not end.
fn misuse(stand: &Stand, user: &User) -> Vec<tests::postgres::Session> {
    let made = "CREATE TABLE public.\"x';--\" (a int); CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'";
    let open = |database: &str, text: &str| stand.pg.session(&user.name, &user.password, database, text);
    vec![
        open("postgres", made),
        open("a\";drop", "CREATE SCHEMA IF NOT EXISTS own; SELECT 1"),
        open("a\";drop", "CREATE TABLE public.y (a int)"),
        open("postgres", "SET ROLE app_ro; SELECT a FROM public.t"),
        // keeps its role from being changed
        open("postgres", "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'"),
    ]
}

#[test]
fn a_user_ends_with_its_lease_whatever_it_has_left_behind() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "GRANT CREATE ON DATABASE \"a\"\";drop\" TO app_ro");
    stand.role("short", json!({"default_ttl": "10s"}));
    let user = stand.user("short");
    assert!(stand.logs_in(&user));
    let shown = stand.lookup(&user.lease).unwrap();
    assert_eq!(shown["data"]["state"], "active");
    let mut sessions = misuse(&stand, &user);
    assert_eq!(stand.sessions(&user), "5");
    // whoever does not end that session first waits for it in vain
    let shut_out = format!("BEGIN; SET LOCAL lock_timeout = 100; ALTER ROLE \"{}\" NOLOGIN; ROLLBACK", user.name);
    let refused = stand.pg.try_as("vaultadm", "admins-first-password", "postgres", &shut_out);
    assert!(refused.as_ref().is_err_and(|said| said.contains("lock timeout")), "{refused:?}");
    assert!(sessions.iter_mut().all(tests::postgres::Session::lives));
    stand.gone(&user, 20);
    assert!(sessions.iter_mut().all(|session| !session.lives()));
    let said = stand.recorded(&user.lease);
    assert_eq!(said, ["VaultRead", "LeaseEnd", "LeaseAccessEnded", "LeaseCleanedUp"]);
    let log = stand.pg.log();
    assert!(log.contains("CREATE ROLE") && log.contains("SCRAM-SHA-256$4096:"), "statements are logged");
    assert!(!log.contains(&user.password) && !stand.dev.log().contains(&user.password));
    assert_eq!(stand.pg.sql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'x'';--'"), "0");
    assert_eq!(stand.leases(), 0);
}

/// Twice each in CI, by `cargo xtask kills` a thousand in all.
#[test]
#[expect(clippy::disallowed_methods, reason = "a long form says how many kills it makes")]
fn killed_at_any_step_nothing_is_left_in_the_end() {
    let asked: Option<usize> = std::env::var("STRONGROOM_KILLS").ok().and_then(|kills| kills.parse().ok());
    let rounds = asked.map_or(2, |kills| kills.div_ceil(MAKING.len() + ENDING.len()));
    let stand = Stand::new();
    stand.role("r", json!({"default_ttl": "1h"}));
    // nobody revokes what ends by itself
    stand.role("short", json!({"default_ttl": "2s"}));
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let users = killed(&stand);
        let nothing_left = || stand.leases() == 0 && stand.roles().is_empty();
        longest = longest.max(until("nothing is left", Duration::from_secs(62), nothing_left));
        for (user, mut open) in users {
            assert_eq!(stand.sessions(&user), "0");
            assert!(!stand.logs_in(&user) && open.iter_mut().all(|session| !session.lives()));
        }
        if round % 10 == 9 {
            println!("{} rounds of ten kills", round + 1);
        }
    }
    println!("{} kills: nothing was left {longest:?} after the last of a round", rounds * 10);
}

const MAKING: [&str; 3] = ["before-create", "before-commit", "after-create"];
const ENDING: [&str; 7] =
    ["before-end", "no-login", "after-end", "before-clean-up", "between-databases", "before-drop", "after-clean-up"];

/// At each step once; who ended meanwhile, and its sessions.
fn killed(stand: &Stand) -> Vec<(User, [tests::postgres::Session; 2])> {
    // while it is made: nobody was answered
    for point in MAKING {
        stand.fail_at(point);
        let asked = stand.ask(&stand.dev.root_token(), "read", "database/creds/short", Value::Null);
        assert!(asked.is_err() && !stand.fault().exists(), "{point}: {asked:?}");
        stand.recovered();
    }
    // while it is taken back
    let ended = ENDING.map(|point| {
        let user = stand.user("r");
        let made = format!("CREATE TABLE public.\"{}\" ()", user.name);
        let open = [
            stand.pg.session(&user.name, &user.password, "a\";drop", &made),
            stand.pg.session(&user.name, &user.password, "postgres", "SET ROLE app_ro"),
        ];
        stand.fail_at(point);
        let lease = json!({ "lease_id": user.lease });
        let asked = stand.ask(&stand.dev.root_token(), "write", "sys/leases/revoke", lease);
        assert!(asked.is_err() && !stand.fault().exists(), "{point}: {asked:?}");
        stand.recovered();
        (user, open)
    });
    ended.into()
}

#[test]
fn a_lease_is_renewed_and_taken_back_by_its_id_its_prefix_and_its_token() {
    let stand = Stand::new();
    stand.role("a", json!({"default_ttl": "6s", "max_ttl": "20s"}));
    stand.role("b", json!({}));
    let (renewed, not_renewed) = (stand.user("a"), stand.user("a"));
    let by_id = stand.user("b");
    let answer = stand.done("write", "sys/leases/renew", json!({"lease_id": renewed.lease, "increment": "1h"}));
    let secs = answer["lease_duration"].as_u64().unwrap();
    assert!((10..=20).contains(&secs) && answer["renewable"] == true, "{answer}");
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": by_id.lease }));
    stand.gone(&by_id, 5);
    stand.gone(&not_renewed, 15);
    assert!(stand.logs_in(&renewed));
    let token = stand.token("an'app\";--");
    let (its, others) = (stand.user_of("b", &token), stand.user("b"));
    assert!(stand.logs_in(&its) && its.name.contains("token-an") && !its.name.contains('\''), "{}", its.name);
    let list = stand.done("list", "sys/leases/lookup/database/creds/b", Value::Null);
    assert_eq!(list["data"]["keys"].as_array().unwrap().len(), 2);
    stand.ask(&token, "write", "auth/token/revoke-self", Value::Null).unwrap();
    stand.gone(&its, 10);
    assert!(stand.logs_in(&others));
    let more: Vec<User> = (0..3).map(|_| stand.user("b")).collect();
    stand.done("write", "sys/leases/revoke-prefix/database/creds/b", Value::Null);
    for user in more.iter().chain([&others]) {
        stand.gone(user, 5);
    }
    stand.gone(&renewed, 20);
    // a child's end, and an end in its time
    let parent = stand.token("parent");
    let short = json!({"policies": ["app"], "ttl": "3s"});
    let made = stand.done("write", "auth/token/create", short);
    let expiring = stand.user_of("b", made["auth"]["client_token"].as_str().unwrap());
    stand.done("write", "sys/policies/acl/app", json!({"policy": "path \"database/creds/*\" { capabilities = [\"read\"] }\npath \"auth/token/create\" { capabilities = [\"update\"] }"}));
    let child = stand.ask(&parent, "write", "auth/token/create", json!({})).unwrap();
    let childs = stand.user_of("b", child["auth"]["client_token"].as_str().unwrap());
    stand.done("write", "auth/token/revoke", json!({ "token": parent }));
    stand.gone(&childs, 10);
    stand.gone(&expiring, 10);
    stand.askers_are_recorded();
}

#[test]
fn what_is_lent_to_an_entity_ends_when_it_is_disabled_deleted_or_was_merged_before() {
    let stand = Stand::new();
    stand.role("b", json!({}));
    stand.done("write", "sys/auth/userpass", json!({"type": "userpass"}));
    stand.done(
        "write",
        "sys/policies/acl/app",
        json!({"policy": "path \"database/creds/*\" { capabilities = [\"read\"] }"}),
    );
    let log_in = |name: &str| {
        let user = json!({"password": "pw-of-somebody", "token_policies": "app"});
        stand.done("write", &format!("auth/userpass/users/{name}"), user);
        let body = json!({"password": "pw-of-somebody"});
        let auth = stand.ask("", "write", &format!("auth/userpass/login/{name}"), body).unwrap()["auth"].clone();
        let text = |field: &str| auth[field].as_str().unwrap().to_owned();
        (text("client_token"), text("entity_id"))
    };
    let all: Vec<_> = ["disabled", "deleted", "merged", "into", "stays"].map(log_in).into_iter().collect();
    let users: Vec<User> = all.iter().map(|(token, _)| stand.user_of("b", token)).collect();
    stand.done("write", &format!("identity/entity/id/{}", all[0].1), json!({"disabled": true}));
    stand.done("delete", &format!("identity/entity/id/{}", all[1].1), Value::Null);
    stand.gone(&users[0], 10);
    stand.gone(&users[1], 10);
    let kept = stand.done("read", &format!("identity/entity/id/{}", all[3].1), Value::Null);
    let kept = &kept["data"]["aliases"][0]["id"];
    let merge =
        json!({"from_entity_ids": [all[2].1], "to_entity_id": all[3].1, "conflicting_alias_ids_to_keep": [kept]});
    stand.done("write", "identity/entity/merge", merge);
    assert!(stand.logs_in(&users[2]) && stand.logs_in(&users[3]));
    stand.done("write", &format!("identity/entity/id/{}", all[3].1), json!({"disabled": true}));
    stand.gone(&users[2], 10);
    stand.gone(&users[3], 10);
    assert!(stand.logs_in(&users[4]), "another entity's goes on");
    let refused = stand.ask(&all[3].0, "read", "database/creds/b", Value::Null);
    assert!(refused.as_ref().is_err_and(|said| said.starts_with("403")), "{refused:?}");
    stand.askers_are_recorded();
}

#[test]
fn a_database_that_is_away_is_waited_for_and_not_stormed() {
    let stand = Stand::new();
    // without a database: it has nothing to tell, and overwrites nothing
    stand.done("write", "sys/namespaces/other", Value::Null);
    stand.role("short", json!({"default_ttl": "3s"}));
    let users: Vec<User> = (0..6).map(|_| stand.user("short")).collect();
    stand.pg.stop();
    std::thread::sleep(Duration::from_secs(16));
    let queue = stand.done("read", "sys/leases/queue", Value::Null);
    assert!(queue["data"]["late"].as_u64().unwrap() >= 1, "{queue}");
    assert!(queue["data"]["oldest_late_seconds"].as_u64().unwrap() >= 8, "{queue}");
    let refused = stand.ask(&stand.dev.root_token(), "read", "database/creds/short", Value::Null);
    assert!(refused.as_ref().is_err_and(|said| said.starts_with("503")), "{refused:?}");
    let is_told = || {
        let told = stand.metrics();
        let is_late = |name: &str| {
            let value = told.lines().find_map(|line| line.strip_prefix(&format!("strongroom_{name} ")));
            value.is_some_and(|value| value.parse::<f64>().unwrap() >= 1.0)
        };
        is_late("leases_overdue") && is_late("oldest_overdue_seconds")
    };
    until("what is late is told", Duration::from_secs(30), is_told);
    let queue = stand.done("read", "sys/leases/queue", Value::Null);
    let leases = queue["data"]["leases"].as_array().unwrap();
    let tried: u64 = leases.iter().map(|lease| lease["attempts"].as_u64().unwrap_or_default()).sum();
    stand.pg.go_on();
    let took: Vec<Duration> = users.iter().map(|user| stand.gone(user, 70)).collect();
    eprintln!("{tried} attempts; taken back {took:?} after the database was there again");
    assert!(tried <= 14, "{tried} attempts in half a minute, for six leases");
    assert_eq!(stand.leases(), 0);
}

#[test]
fn what_cannot_be_cleaned_up_is_told_and_nobody_comes_in_meanwhile() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let user = stand.user("r");
    // by another grantor: nobody else may take it back
    stand.pg.sql("postgres", &format!("CREATE TABLE others (a int); GRANT SELECT ON others TO \"{}\"", user.name));
    stand.pg.sql("postgres", "REVOKE pg_signal_backend FROM vaultadm");
    let mut session = stand.pg.session(&user.name, &user.password, "postgres", "SELECT 1");
    let answer = stand.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    let shown = stand.lookup(&user.lease).unwrap()["data"].clone();
    assert_eq!(shown["state"], "access_ended", "{answer} {shown}");
    assert!(shown["last_error"].as_str().unwrap().contains("others"), "{shown}");
    assert!(!stand.logs_in(&user) && !session.lives());
    stand.pg.sql("postgres", "DROP TABLE others");
    stand.gone(&user, 60);
    stand.askers_are_recorded();
}

#[test]
fn roles_configurations_and_mounts_may_go_while_leases_live() {
    let stand = Stand::new();
    stand.role("a", json!({"default_ttl": "8s"}));
    let (by_role, by_config) = (stand.user("a"), stand.user("a"));
    stand.done("delete", "database/roles/a", Value::Null);
    assert!(stand.ask(&stand.dev.root_token(), "read", "database/creds/a", Value::Null).is_err());
    stand.done("delete", "database/config/pg", Value::Null);
    assert!(stand.logs_in(&by_role) && stand.logs_in(&by_config));
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": by_role.lease }));
    stand.gone(&by_role, 5);
    stand.gone(&by_config, 20);
    stand.configure("pg");
    stand.role("b", json!({}));
    let by_mount = stand.user("b");
    stand.done("delete", "sys/mounts/database", Value::Null);
    stand.gone(&by_mount, 15);
    stand.askers_are_recorded();
}

#[test]
fn nothing_that_is_named_is_executed_and_no_group_is_too_powerful() {
    let stand = Stand::new();
    for (name, body) in [
        ("a%22;drop", json!({"db_name": "pg", "groups": ["app_ro"]})),
        ("a", json!({"db_name": "pg"})),
        ("a", json!({"db_name": "pg", "groups": ["app_ro"], "default_ttl": "2h", "max_ttl": "1h"})),
        ("a", json!({"db_name": "pg", "groups": ["app_ro"], "settings": {"a b": "1"}})),
    ] {
        let refused = stand.ask(&stand.dev.root_token(), "write", &format!("database/roles/{name}"), body);
        assert!(refused.as_ref().is_err_and(|said| said.starts_with("400")), "{name} {refused:?}");
    }
    stand.pg.sql("postgres", "CREATE ROLE strong NOLOGIN CREATEROLE; CREATE ROLE through NOLOGIN IN ROLE strong");
    for group in ["strong", "through", "pg_execute_server_program", "pg_write_all_data", "a\"; DROP TABLE t; --"] {
        stand.role("strong", json!({"groups": [group]}));
        let refused = stand.ask(&stand.dev.root_token(), "read", "database/creds/strong", Value::Null);
        assert!(refused.is_err(), "{group}");
    }
    let nasty =
        json!({"groups": ["app_ro"], "connection_limit": 2, "settings": {"search_path": "x'; DROP TABLE t; --"}});
    stand.role("nasty", nasty);
    let user = stand.user("nasty");
    let shown = stand.pg.try_as(&user.name, &user.password, "postgres", "SHOW search_path").unwrap();
    assert!(shown.contains("DROP TABLE"), "{shown}");
    // texts of Vault's, with everything that they may name
    let vaults = json!({"groups": [], "creation_statements":
        ["CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; GRANT app_ro TO \"{{username}}\";"]});
    stand.role("vaults", vaults);
    let vaults = stand.user("vaults");
    assert!(stand.logs_in(&vaults) && stand.logs_in(&user));
    assert!(!stand.pg.log().contains(&vaults.password));
    for user in [&vaults, &user] {
        stand.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
        stand.gone(user, 5);
    }
    assert_eq!(stand.pg.sql("postgres", "SELECT a FROM t"), "7");
    assert_eq!(stand.leases(), 0);
    let read = stand.done("read", "database/config/pg", Value::Null);
    assert!(!read.to_string().contains("admins-first-password") && !read.to_string().contains(Postgres::PASSWORD));
}

#[test]
fn a_password_of_190_bits_is_hashed_as_often_as_is_asked_for() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    stand.done(
        "write",
        "sys/policies/password/digits",
        json!({"policy": "length = 8\nrule \"charset\" { charset = \"0123456789\" }"}),
    );
    for (config, said) in [
        (json!({"scram_iterations": 4097}), Err("scram_iterations")),
        (json!({"scram_iterations": -1}), Err("scram_iterations")),
        (json!({"scram_iterations": 1, "password_policy": "digits"}), Err("password_policy")),
        (json!({"scram_iterations": 4096, "password_policy": "digits"}), Ok("SCRAM-SHA-256$4096:")),
        (json!({"scram_iterations": 1, "password_policy": ""}), Ok("SCRAM-SHA-256$1:")),
        (json!({"password_policy": "digits"}), Err("password_policy")),
        (json!({"scram_iterations": 0}), Ok("SCRAM-SHA-256$4096:")),
    ] {
        let written = stand.ask(&stand.dev.root_token(), "write", "database/config/pg", config.clone());
        match said {
            Err(named) => assert!(
                written.as_ref().is_err_and(|told| told.starts_with("400") && told.contains(named)),
                "{config} {written:?}"
            ),
            Ok(verifier) => {
                assert!(written.is_ok(), "{config} {written:?}");
                let user = stand.user("r");
                let by_policy = config["password_policy"] == "digits";
                assert_eq!(user.password.len(), if by_policy { 8 } else { 32 }, "{config}");
                let stored = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", user.name);
                assert!(stand.pg.sql("postgres", &stored).starts_with(verifier), "{config} {written:?}");
                assert!(stand.logs_in(&user), "{config}");
            }
        }
    }
}

#[test]
fn what_is_stored_of_a_configuration_is_sent_nowhere_else() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let user = stand.user("r");
    let (url, password) = (stand.pg.url("postgres"), "admins-first-password");
    let moved = format!("{url}&connect_timeout=7");
    for (config, refused, warned) in [
        (json!({"plugin_name": "redis-database-plugin"}), true, false),
        (json!({"connection_url": "postgresql://{{username}}:{{password}}@127.0.0.2/x"}), true, false),
        (json!({ "connection_url": moved }), true, false),
        (json!({"tls_ca": "-----BEGIN"}), true, false),
        (json!({"plugin_name": "postgresql-database-plugin", "connection_url": url}), false, false),
        (json!({"max_open_connections": 3}), false, false),
        (json!({ "connection_url": moved, "password": password }), false, true),
    ] {
        let said = stand.ask(&stand.dev.root_token(), "write", "database/config/pg", config.clone());
        assert_eq!(said.as_ref().is_err_and(|said| said.starts_with("400")), refused, "{config}: {said:?}");
        assert_eq!(said.is_ok_and(|answer| answer["warnings"].is_array()), warned, "{config}");
    }
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    stand.gone(&user, 5);
}

#[test]
fn what_an_heir_gets_runs_as_whoever_calls_it() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "GRANT heir TO vaultadm; GRANT CREATE ON SCHEMA public TO heir");
    stand.pg.sql("a\";drop", "GRANT CREATE ON SCHEMA public TO heir");
    stand.role("r", json!({"owned_objects": "heir"}));
    let user = stand.user("r");
    for database in ["postgres", "a\";drop"] {
        let made = "CREATE FUNCTION public.\"f'\"(int, text) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; \
                    CREATE PROCEDURE public.p(INOUT a int) LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN a := 1; END'; \
                    CREATE TABLE public.left_behind (a int)";
        stand.pg.try_as(&user.name, &user.password, database, made).unwrap();
    }
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    stand.gone(&user, 10);
    for database in ["postgres", "a\";drop"] {
        let owned = "SELECT count(*), count(*) FILTER (WHERE prosecdef) FROM pg_proc WHERE proowner = 'heir'::regrole";
        assert_eq!(stand.pg.sql(database, owned), "2|0");
        let tables = "SELECT relname FROM pg_class WHERE relowner = 'heir'::regrole AND relkind = 'r'";
        assert_eq!(stand.pg.sql(database, tables), "left_behind");
    }
}

#[test]
fn so_many_live_at_once_and_the_same_is_given_again() {
    let stand = Stand::new();
    stand.role("few", json!({"max_leases": 2}));
    let users = [stand.user("few"), stand.user("few")];
    let refused = stand.ask(&stand.dev.root_token(), "read", "database/creds/few", Value::Null);
    assert!(refused.as_ref().is_err_and(|said| said.starts_with("429")), "{refused:?}");
    let answer = stand.done("write", "sys/leases/revoke", json!({ "lease_id": users[0].lease }));
    assert_eq!(answer, Value::Null, "it has ended: {}", stand.dev.log());
    stand.user("few");
    stand.role("same", json!({"reuse_window": "1h"}));
    let (token, other) = (stand.token("app"), stand.token("app"));
    let first = stand.user_of("same", &token);
    let (again, others) = (stand.user_of("same", &token), stand.user_of("same", &other));
    assert_eq!((&first.lease, &first.password), (&again.lease, &again.password));
    assert_ne!(first.lease, others.lease);
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": first.lease }));
    assert_ne!(stand.user_of("same", &token).lease, first.lease);
    stand.askers_are_recorded();
}

/// For how long accounts are rotated under a client: some half a minute in CI, an hour by `cargo xtask rotations`.
#[expect(clippy::disallowed_methods, reason = "a long form says how long it takes")]
fn rotating(quick: Duration) -> Duration {
    let asked = std::env::var("STRONGROOM_ROTATION_SECS").ok().and_then(|secs| secs.parse().ok());
    asked.map_or(quick, Duration::from_secs)
}

#[test]
fn the_servers_own_account_is_rotated_whenever_the_process_dies() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let is_first = || stand.pg.try_as("vaultadm", "admins-first-password", "postgres", "SELECT 1").is_ok();
    assert!(is_first());
    stand.done("write", "database/rotate-root/pg", Value::Null);
    assert!(!is_first());
    stand.user("r");
    stand.fail_at("after-set-password");
    let asked = stand.ask(&stand.dev.root_token(), "write", "database/rotate-root/pg", Value::Null);
    assert!(asked.is_err() && !stand.fault().exists(), "{asked:?}");
    stand.recovered();
    let user = stand.user("r");
    stand.done("write", "database/rotate-root/pg", Value::Null);
    stand.done("write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    stand.gone(&user, 5);
    stand.askers_are_recorded();
}

#[test]
fn a_sealed_server_keeps_no_session_of_its_own_account() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let user = stand.user("r");
    let own = || stand.pg.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'vaultadm'");
    assert_ne!(own(), "0");
    stand.done("write", "sys/seal", Value::Null);
    until("none is open", Duration::from_secs(5), || own() == "0");
    assert!(stand.logs_in(&user), "what is lent stays lent");
}

#[test]
fn strays_are_found_and_what_is_lent_and_gone_is_told() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let user = stand.user("r");
    let described = format!("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{}'", user.name);
    let mark = stand.pg.sql("postgres", &described);
    let instance = mark.rsplit_once(' ').unwrap().1.to_owned();
    let stray = |name: &str, instance: &str| {
        let mark = format!("strongroom lease={} {instance}", "ab".repeat(32));
        stand.pg.sql("postgres", &format!("CREATE ROLE {name} LOGIN; COMMENT ON ROLE {name} IS '{mark}'"));
        stand.pg.gives("vaultadm", name);
    };
    stray("others", "instance=another");
    stray("stray1", &instance);
    let has = |name: &str| stand.roles().iter().any(|role| role == name);
    let told = || stand.dev.log().contains("does not hold what was lent");
    until("the first look tells strays", Duration::from_secs(25), told);
    stray("stray2", &instance);
    let lost = stand.user("r");
    stand.pg.sql("postgres", &format!("DROP ROLE \"{}\"", lost.name));
    let report = stand.done("read", "database/reconcile/pg", Value::Null);
    assert_eq!(
        report["data"],
        json!({"orphans": ["stray1", "stray2"], "lost": [lost.lease], "repaired": 0, "unlisted": 0, "complete": true})
    );
    assert!(has("stray1") && has("stray2"));
    let report = stand.done("write", "database/reconcile/pg", json!({"repair": true}));
    assert_eq!(report["data"]["repaired"], 3);
    stand.gone(&lost, 10);
    assert!(!has("stray1") && !has("stray2") && has("others") && stand.logs_in(&user));
    stand.askers_are_recorded();
}

#[test]
fn what_was_lent_ends_with_a_token_that_is_used_up_or_whose_role_is_gone() {
    let mut stand = Stand::with_certificate();
    stand.role("r", json!({}));
    let policy = "path \"database/creds/*\" { capabilities = [\"read\"] }\npath \"auth/token/*\" { capabilities = [\"read\", \"update\"] }";
    stand.done("write", "sys/policies/acl/app", json!({ "policy": policy }));
    let token = |made: &Value| made["auth"]["client_token"].as_str().unwrap().to_owned();
    let counted = token(&stand.done("write", "auth/token/create", json!({"policies": ["app"], "num_uses": 3})));
    let user = stand.user_of("r", &counted);
    stand.ask(&counted, "read", "auth/token/lookup-self", Value::Null).unwrap();
    assert!(stand.logs_in(&user));
    // the last one is lent nothing: it would end at once
    let said = stand.ask(&counted, "read", "database/creds/r", Value::Null).unwrap_err();
    assert!(said.starts_with("400") && said.contains("one use left"), "{said}");
    stand.gone(&user, 10);
    // what no commit of the token's tells is found when what is lent is looked through, as has just been, and will be right after the start
    std::thread::sleep(Duration::from_secs(12));
    stand.cli(&["auth", "cert", "write", "web", "--policy", "app", "--certificate", stand.pair()]).unwrap();
    let made = stand.ask("", "write", "auth/token/create", json!({"policies": ["app"]})).unwrap();
    let (its, own, others) = (stand.user_of("r", &token(&made)), stand.user_of("r", ""), stand.user("r"));
    stand.cli(&["auth", "cert", "delete", "web"]).unwrap();
    let said = stand.ask(&token(&made), "read", "database/creds/r", Value::Null).unwrap_err();
    assert!(said.starts_with("403"), "{said}");
    assert!(stand.logs_in(&its) && stand.logs_in(&own));
    // who looks changes nothing, nor does who puts right what the database holds
    let clean = json!({"orphans": [], "lost": [], "repaired": 0, "unlisted": 0, "complete": true});
    for (what, body) in [("read", Value::Null), ("write", json!({"repair": true}))] {
        assert_eq!(stand.done(what, "database/reconcile/pg", body)["data"], clean);
    }
    for user in [&its, &own] {
        let found = stand.done("write", "sys/leases/lookup", json!({"lease_id": user.lease}));
        assert_eq!(found["data"]["state"], "active");
    }
    stand.dev.start_again().unwrap();
    for user in [&its, &own] {
        stand.gone(user, 25);
    }
    assert!(stand.logs_in(&others));
    stand.askers_are_recorded();
}

#[test]
fn what_was_lent_before_a_rollback_that_an_operator_acknowledged_is_taken_back_after_the_start() {
    let mut stand = Stand::with_certificate();
    stand.role("r", json!({"reuse_window": "1h"}));
    stand.token("writes the policy");
    stand.cli(&["auth", "cert", "write", "web", "--policy", "app", "--certificate", stand.pair()]).unwrap();
    // of a token, and of a certificate, which no generation voids
    let before = [stand.user("r"), stand.user_of("r", "")];
    assert_eq!(stand.user_of("r", "").name, before[1].name);
    stand.dev.start_again().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    assert!(before.iter().all(|user| stand.logs_in(user)), "a start alone takes nothing back");
    stand.dev.roll_back();
    // what is void is not given again, and what is new is not void
    let after = [stand.user("r"), stand.user_of("r", "")];
    for user in &before {
        stand.gone(user, 25);
    }
    stand.dev.start_again().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    assert!(after.iter().all(|user| stand.logs_in(user)));
    assert!(stand.recorded("operator/acknowledge").iter().any(|operation| operation == "LeaseEnd"));
}

#[test]
fn a_backup_that_is_tried_out_ends_no_users_whether_its_log_is_at_hand_or_not() {
    for log_is_lost in [false, true] {
        let mut stand = Stand::with_certificate();
        stand.role("r", json!({}));
        stand.token("writes the policy");
        stand.cli(&["auth", "cert", "write", "web", "--policy", "app", "--certificate", stand.pair()]).unwrap();
        let users = [stand.user("r"), stand.user_of("r", "")];
        stand.dev.restore(log_is_lost);
        // longer than until what is void is looked for
        std::thread::sleep(Duration::from_secs(14));
        for user in &users {
            assert!(stand.logs_in(user), "{log_is_lost}");
            assert_eq!(stand.lookup(&user.lease).unwrap()["data"]["state"], "active", "{log_is_lost}");
        }
    }
}

#[test]
fn the_command_line_looks_after_leases() {
    let stand = Stand::new();
    stand.role("r", json!({}));
    let user = stand.user("r");
    assert!(stand.cli(&["lease", "lookup", &user.lease]).unwrap().contains("active"));
    assert!(stand.cli(&["lease", "renew", &user.lease, "--increment", "90m"]).unwrap().contains("5400"));
    assert!(stand.cli(&["lease", "count"]).unwrap().contains("database/"));
    assert!(stand.cli(&["lease", "queue"]).unwrap().contains("late"));
    stand.cli(&["lease", "revoke", &user.lease]).unwrap();
    stand.gone(&user, 5);
    let users = [stand.user("r"), stand.user("r")];
    stand.cli(&["lease", "revoke", "--prefix", "database"]).unwrap();
    for user in &users {
        stand.gone(user, 5);
    }
    assert!(stand.cli(&["lease", "lookup", &user.lease]).is_err());
}
