//! Users of a real MariaDB and a real Redis that live as long as their leases: one suite, each answer from both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "figures")]

#[path = "dynamic_others/expiries.rs"]
mod expiries;
#[path = "dynamic_others/stand.rs"]
mod stand;

use serde_json::{Value, json};
use stand::{Server, Stand, User};
use std::time::{Duration, Instant};
use tests::until;

fn both(test: impl Fn(&Stand)) {
    for server in [Server::redis as fn() -> Server, Server::mariadb] {
        test(&Stand::new(server()));
    }
}

#[test]
fn a_user_ends_with_its_lease_and_no_password_is_in_any_log() {
    both(|stand| {
        stand.role("short", json!({"default_ttl": "2s"}));
        let user = stand.user("short");
        let mut session = stand.server.session(&user);
        assert!(stand.logs_in(&user) && session.lives());
        assert_eq!(stand.server.sessions(&user.name), 1);
        let took = stand.gone(&user, 15);
        assert!(!session.lives());
        println!("gone {took:?} after it was there");
        assert_eq!(stand.recorded(&user.lease), ["VaultRead", "LeaseEnd", "LeaseAccessEnded", "LeaseCleanedUp"]);
        let log = stand.server.log();
        assert!(log.contains(&user.name), "what is done is logged");
        assert!(!log.contains(&user.password) && !stand.dev.log().contains(&user.password));
        assert!(!log.contains("admins-first-password") || matches!(stand.server, Server::MariaDb(_)));
        assert_eq!(stand.leases(), 0);
        assert!(stand.server.lets_in("vaultadm", "admins-first-password"));
    });
}

#[test]
fn killed_at_any_step_nothing_is_left_in_the_end() {
    both(|stand| {
        stand.role("r", json!({}));
        let before = stand.server.users();
        for point in ["before-create", "before-commit", "after-create"] {
            stand.fail_at(point);
            let asked = stand.ask(&stand.dev.root_token(), "read", "database/creds/r", Value::Null);
            assert!(asked.is_err() && !stand.fault().exists(), "{point}: {asked:?}");
            stand.recovered();
        }
        let mut users = Vec::new();
        for point in ["before-end", "no-login", "after-end", "before-clean-up", "before-drop", "after-clean-up"] {
            let user = stand.user("r");
            let session = stand.server.session(&user);
            stand.fail_at(point);
            let lease = json!({ "lease_id": user.lease });
            let asked = stand.ask(&stand.dev.root_token(), "write", "sys/leases/revoke", lease);
            assert!(asked.is_err() && !stand.fault().exists(), "{point}: {asked:?}");
            stand.recovered();
            users.push((user, session));
        }
        let nothing_left = || stand.leases() == 0 && stand.server.users() == before;
        let took = until("nothing is left", Duration::from_secs(90), nothing_left);
        for (user, session) in &mut users {
            assert_eq!(stand.server.sessions(&user.name), 0);
            assert!(!stand.server.lets_in(&user.name, &user.password) && !session.lives());
        }
        println!("nine kills: nothing was left {took:?} after the last");
    });
}

#[test]
fn a_lease_is_renewed_and_taken_back_by_its_id_its_prefix_and_its_token() {
    both(|stand| {
        stand.role("a", json!({"default_ttl": "5s", "max_ttl": "20s"}));
        stand.role("b", json!({}));
        let (renewed, not_renewed, by_id) = (stand.user("a"), stand.user("a"), stand.user("b"));
        let answer = stand.done("write", "sys/leases/renew", json!({"lease_id": renewed.lease, "increment": "1h"}));
        let secs = answer["lease_duration"].as_u64().unwrap();
        assert!((10..=20).contains(&secs) && answer["renewable"] == true, "{answer}");
        stand.revoke(&by_id);
        stand.gone(&by_id, 5);
        stand.gone(&not_renewed, 15);
        assert!(stand.logs_in(&renewed));
        let token = stand.token("an'app\\\";-- `");
        let (its, others) = (stand.user_of("b", &token), stand.user("b"));
        assert!(stand.logs_in(&its) && its.name.contains("token-an") && !its.name.contains('\''), "{}", its.name);
        stand.ask(&token, "write", "auth/token/revoke-self", Value::Null).unwrap();
        stand.gone(&its, 10);
        assert!(stand.logs_in(&others));
        stand.done("write", "sys/leases/revoke-prefix/database/creds/b", Value::Null);
        stand.gone(&others, 5);
        stand.gone(&renewed, 25);
    });
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    both(|stand| {
        stand.role("short", json!({"default_ttl": "3s"}));
        let users: Vec<User> = (0..4).map(|_| stand.user("short")).collect();
        stand.server.stop();
        std::thread::sleep(Duration::from_secs(8));
        let queue = stand.done("read", "sys/leases/queue", Value::Null);
        assert!(queue["data"]["late"].as_u64().unwrap() >= 1, "{queue}");
        assert!(stand.refused("short").starts_with("503"));
        stand.server.go_on();
        let took: Vec<Duration> = users.iter().map(|user| stand.gone(user, 60)).collect();
        println!("gone {took:?} after the server was back");
        assert_eq!(stand.leases(), 0);
    });
}

#[test]
fn a_server_that_hangs_keeps_no_other_waiting() {
    let stand = Stand::new(Server::redis());
    let hanging = Server::mariadb();
    stand.done("write", "database/config/hanging", hanging.config());
    for (role, kind, ttl) in [("short", &stand.server, "2s"), ("hang", &hanging, "5s")] {
        let mut body = json!({"db_name": if role == "hang" { "hanging" } else { "db" }, "default_ttl": ttl});
        body.as_object_mut().unwrap().extend(kind.role().as_object().unwrap().clone());
        stand.done("write", &format!("database/roles/{role}"), body);
    }
    let lived = || {
        let made = Instant::now();
        stand.gone(&stand.user("short"), 20);
        made.elapsed()
    };
    let usual = (0..3).map(|_| lived()).max().unwrap();
    let users: Vec<User> = (0..6).map(|_| stand.user("hang")).collect();
    hanging.maria().hang();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(25) {
        slowest = slowest.max(lived());
    }
    println!(
        "gone {slowest:?} at most after it was made for two seconds, beside a server that hangs; {usual:?} before"
    );
    assert!(slowest < usual * 3, "{slowest:?}, and {usual:?} before");
    hanging.maria().answer_again();
    for user in &users {
        until("those of the other are gone", Duration::from_secs(60), || stand.lookup(&user.lease).is_err());
        assert!(!hanging.has(&user.name));
    }
}

#[test]
fn passwords_of_users_that_stay_and_of_our_own_account_are_rotated() {
    both(|stand| {
        stand.server.add("svc", "somebodys-first-password");
        let one = json!({"db_name": "db", "username": "svc", "rotation_period": "5s"});
        stand.done("write", "database/static-roles/one", one);
        let lets_in = |user: &User| stand.server.lets_in(&user.name, &user.password);
        let first = stand.static_user("one");
        assert!(lets_in(&first) && !stand.server.lets_in("svc", "somebodys-first-password"));
        let rotated = || stand.static_user("one").password != first.password;
        until("it is rotated by itself", Duration::from_secs(15), rotated);
        let second = stand.static_user("one");
        assert!(lets_in(&second) && !lets_in(&first));
        stand.done("delete", "database/static-roles/one", Value::Null);
        stand.role("r", json!({}));
        let is_first = || stand.server.lets_in("vaultadm", "admins-first-password");
        assert!(is_first());
        stand.done("write", "database/rotate-root/db", Value::Null);
        assert!(!is_first());
        stand.user("r");
        stand.fail_at("after-set-password");
        let asked = stand.ask(&stand.dev.root_token(), "write", "database/rotate-root/db", Value::Null);
        assert!(asked.is_err() && !stand.fault().exists(), "{asked:?}");
        stand.recovered();
        let user = stand.user("r");
        stand.done("write", "database/rotate-root/db", Value::Null);
        stand.revoke(&user);
        stand.gone(&user, 5);
        let log = stand.server.log();
        assert!([&first, &second].iter().all(|user| !log.contains(&user.password)));
    });
}

#[test]
fn strays_are_found_and_what_is_lent_and_gone_is_told() {
    both(|stand| {
        stand.role("r", json!({}));
        let user = stand.user("r");
        let instance = stand.server.instance(&user.name);
        let stray = |name: &str, instance: &str| {
            stand.server.add(name, "a-password");
            stand.server.mark(name, instance);
        };
        stray("others", "another");
        stray("stray1", &instance);
        let has = |name: &str| stand.server.has(name);
        let told = || stand.dev.log().contains("does not hold what was lent");
        until("the first look tells strays", Duration::from_secs(25), told);
        stray("stray2", &instance);
        let lost = stand.user("r");
        stand.server.remove(&lost.name);
        let report = stand.done("read", "database/reconcile/db", Value::Null);
        assert_eq!(
            report["data"],
            json!({"orphans": ["stray1", "stray2"], "lost": [lost.lease], "repaired": 0, "unlisted": 0, "complete": true})
        );
        assert!(has("stray1") && has("stray2"));
        let report = stand.done("write", "database/reconcile/db", json!({"repair": true}));
        assert_eq!(report["data"]["repaired"], 3);
        stand.gone(&lost, 10);
        assert!(!has("stray1") && !has("stray2") && has("others") && stand.logs_in(&user));
    });
}

#[test]
fn a_plugin_that_there_is_not_is_refused_by_its_name() {
    let stand = Stand::new(Server::redis());
    let config = json!({"plugin_name": "oracle-database-plugin", "connection_url": "x://h", "allowed_roles": "*"});
    let said = stand.ask(&stand.dev.root_token(), "write", "database/config/x", config).unwrap_err();
    assert!(said.starts_with("400") && said.contains("oracle-database-plugin"), "{said}");
    // each speaks to its own kind alone
    for plugin in ["postgresql-database-plugin", "mysql-database-plugin"] {
        let url = stand.server.red().url().replace("redis://", "mysql://");
        let config = json!({"plugin_name": plugin, "connection_url": url, "username": "u", "password": "p"});
        let said = stand.ask(&stand.dev.root_token(), "write", "database/config/x", config).unwrap_err();
        assert!(said.starts_with("400"), "{said}");
    }
}

#[test]
fn a_user_of_redis_is_no_more_than_its_role_says_by_name() {
    let stand = Stand::new(Server::redis());
    for rules in [
        json!([">mine +@all ~*"]),
        json!(["nopass +@all ~*"]),
        json!(["~* (+@all ~*)"]),
        json!(["~app:* +get reset on nopass"]),
        json!(["~app:* +nosuchcommand"]),
        json!(["[\"+@read\", \">x\"]"]),
        json!(["~strongroom:lease=x:instance=y +get"]),
    ] {
        stand.role("bad", json!({ "creation_statements": rules }));
        assert!(stand.refused("bad").starts_with("400"), "{rules}");
    }
    for (field, value) in [("groups", json!(["g"])), ("settings", json!({"a": "b"})), ("connection_limit", json!(3))] {
        stand.role(&format!("no-{field}"), json!({ (field): value }));
        assert!(stand.refused(&format!("no-{field}")).starts_with("400"), "{field}");
    }
    assert_eq!(stand.server.users().len(), 2, "nobody was made");
    let as_of = |rules: &str| {
        stand.role("broad", json!({ "creation_statements": [rules] }));
        stand.user("broad")
    };
    let broad = as_of("~* &* +@all");
    let ask = |user: &User, command: &[&str]| stand.server.red().try_as(&user.name, &user.password, command);
    assert_eq!(ask(&broad, &["GET", "other:a"]).unwrap(), "8");
    for command in [
        &["ACL", "LIST"][..],
        &["ACL", "SETUSER", "default", "nopass"],
        &["CONFIG", "GET", "requirepass"],
        &["CLIENT", "KILL", "USER", "vaultadm"],
        &["MODULE", "LIST"],
        &["SLOWLOG", "GET"],
        &["MONITOR"],
        &["REPLICAOF", "NO", "ONE"],
        &["EVAL", "return redis.call('ACL', 'LIST')", "0"],
    ] {
        let said = ask(&broad, command).unwrap_err();
        assert!(said.contains("NOPERM") || said.contains("not allowed"), "{command:?}: {said}");
    }
    let named = as_of("~* +@all +config");
    assert!(ask(&named, &["CONFIG", "GET", "port"]).is_ok() && ask(&named, &["ACL", "LIST"]).is_err());
    let own = as_of("~{{username}}:* +set +get");
    assert!(ask(&own, &["SET", &format!("{}:x", own.name), "1"]).is_ok() && ask(&own, &["GET", "app:a"]).is_err());
    // what the mark names is nobody's: nor its own
    let mark = stand.server.red().run(&["ACL", "GETUSER", &own.name]);
    let key = mark.split_once('~').map(|_| mark.lines().find(|line| line.contains("~strongroom:lease=")).unwrap());
    assert!(ask(&own, &["GET", key.unwrap().trim_start_matches('~')]).unwrap_err().contains("NOPERM"));
    for user in [&broad, &named, &own] {
        stand.revoke(user);
        stand.gone(user, 5);
    }
}

#[test]
fn a_users_end_outlives_a_restart_of_redis() {
    let stand = Stand::new(Server::redis());
    stand.role("r", json!({}));
    let (kept, ended) = (stand.user("r"), stand.user("r"));
    stand.revoke(&ended);
    stand.gone(&ended, 5);
    stand.server.stop();
    stand.server.go_on();
    assert!(stand.logs_in(&kept) && !stand.server.has(&ended.name));
    stand.revoke(&kept);
    stand.gone(&kept, 10);
}

#[test]
fn a_thousand_users_of_redis_that_are_due_at_once_are_all_gone() {
    let stand = Stand::new(Server::redis());
    stand.role("many", json!({"default_ttl": "1h"}));
    let began = Instant::now();
    let count = 1000;
    let users: Vec<User> = std::thread::scope(|scope| {
        let made: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..count / 8).map(|_| stand.user("many")).collect::<Vec<_>>())).collect();
        made.into_iter().flat_map(|made| made.join().unwrap()).collect()
    });
    let made = began.elapsed();
    assert_eq!(users.len(), count);
    assert!(users.iter().step_by(100).all(|user| stand.logs_in(user)));
    let due = Instant::now();
    // when each was seen gone
    let mut gone: Vec<Duration> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| stand.done("write", "sys/leases/revoke-prefix/database/creds/many", Value::Null));
        until("all are gone", Duration::from_secs(120), || {
            let left = stand.server.users().len().saturating_sub(2);
            gone.resize(count.saturating_sub(left).max(gone.len()), due.elapsed());
            left == 0
        });
    });
    let at = |part: usize| gone.get((count * part / 100).min(count - 1)).unwrap();
    println!(
        "{count} made in {made:?}; gone after they were due: p50 {:?}, p99 {:?}, all {:?}",
        at(50),
        at(99),
        at(100)
    );
    assert_eq!(gone.len(), count);
    until("all leases have ended", Duration::from_secs(120), || stand.leases() == 0);
}

#[test]
fn nothing_that_a_role_of_mariadb_names_is_executed_and_no_group_is_too_powerful() {
    let stand = Stand::new(Server::mariadb());
    let maria = stand.server.maria();
    // what a session of the server means by its texts is not ours
    maria.sql("SET GLOBAL sql_mode = 'ANSI_QUOTES'");
    maria.sql(
        "CREATE ROLE strong; GRANT CREATE USER ON *.* TO strong; CREATE ROLE through; GRANT strong TO through; \
         CREATE ROLE catalog; GRANT SELECT ON mysql.* TO catalog; CREATE ROLE giving; \
         GRANT SELECT ON app.* TO giving WITH GRANT OPTION; ",
    );
    for role in ["strong", "through", "catalog", "giving"] {
        maria.sql(&format!("GRANT {role} TO vaultadm@'%' WITH ADMIN OPTION"));
    }
    let bad = |more: Value| {
        stand.role("bad", more.clone());
        assert!(stand.refused("bad").starts_with("400"), "{more}");
    };
    for group in ["strong", "through", "catalog", "giving", "a`; DROP TABLE app.t; --", "'; DROP TABLE app.t; --"] {
        bad(json!({"groups": [group]}));
    }
    for settings in [
        json!({"host": "%' IDENTIFIED BY 'x'; DROP TABLE app.t; -- \\"}),
        json!({"host": "\\"}),
        json!({"max_statement_time": "1; DROP TABLE app.t"}),
        json!({"require_ssl": "maybe"}),
        json!({"other": "1"}),
    ] {
        bad(json!({ "settings": settings }));
    }
    // another password than its own is no account of the lease's
    bad(json!({"groups": [], "creation_statements": ["CREATE USER '{{name}}'@'%' IDENTIFIED BY 'known'"]}));
    bad(
        json!({"groups": [], "creation_statements": ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; NONSENSE"]}),
    );
    let vaults = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON app.* TO '{{name}}'@'%';";
    stand.role("vaults", json!({"groups": [], "creation_statements": [vaults]}));
    stand.role("limited", json!({"connection_limit": 1, "settings": {"max_statement_time": "5", "host": "127.0.0.%"}}));
    let (vaults, limited) = (stand.user("vaults"), stand.user("limited"));
    assert!(stand.logs_in(&vaults) && stand.logs_in(&limited));
    let _one = stand.server.session(&limited);
    assert!(!stand.logs_in(&limited), "one at once");
    assert!(!maria.log().contains(&vaults.password));
    for user in [&vaults, &limited] {
        stand.revoke(user);
        stand.gone(user, 5);
    }
    assert_eq!(maria.sql("SELECT a FROM app.t"), "7");
    assert!(stand.server.users().iter().all(|user| !user.starts_with("v-")), "{:?}", stand.server.users());
    assert_eq!(maria.sql("SELECT COUNT(*) FROM strongroom.leased"), "0");
}

#[test]
fn an_account_of_mariadb_that_sees_no_sessions_is_refused() {
    let stand = Stand::new(Server::mariadb());
    stand.role("r", json!({}));
    let user = stand.user("r");
    let mut session = stand.server.session(&user);
    stand.server.maria().sql("REVOKE PROCESS ON *.* FROM vaultadm@'%'");
    let reset = stand.done("write", "database/reset/db", Value::Null);
    let config = json!({"plugin_name": "mariadb-database-plugin"});
    let said = stand.ask(&stand.dev.root_token(), "write", "database/config/db", config).unwrap_err();
    assert!(said.contains("PROCESS"), "{reset} {said}");
    // what cannot be seen is not believed to have ended: the lease stays, and nobody comes in
    let _late = stand.ask(&stand.dev.root_token(), "write", "sys/leases/revoke", json!({ "lease_id": user.lease }));
    until("nobody comes in", Duration::from_secs(10), || !stand.server.lets_in(&user.name, &user.password));
    assert!(stand.lookup(&user.lease).is_ok() && session.lives());
    stand.server.maria().sql("GRANT PROCESS ON *.* TO vaultadm@'%'");
    stand.done("write", "database/reset/db", Value::Null);
    stand.gone(&user, 60);
    assert!(!session.lives());
}

#[test]
fn what_a_user_of_mariadb_has_defined_runs_as_nobody_else() {
    let stand = Stand::new(Server::mariadb());
    let maria = stand.server.maria();
    stand.role("r", json!({}));
    stand.role("kept", json!({"owned_objects": "keep"}));
    let defined = |user: &User| {
        let name = user.name.rsplit('-').next().unwrap().to_owned() + &user.lease[user.lease.len() - 6..];
        let texts = format!(
            "CREATE VIEW app.v{name} AS SELECT a FROM app.t; \
             CREATE PROCEDURE app.p{name}() SQL SECURITY DEFINER SELECT a FROM app.t; \
             CREATE EVENT app.e{name} ON SCHEDULE EVERY 1 HOUR DO SELECT 1"
        );
        maria.try_as(&user.name, &user.password, &texts).unwrap();
        name
    };
    let (dropped, kept) = (stand.user("r"), stand.user("kept"));
    let (gone, stays) = (defined(&dropped), defined(&kept));
    for user in [&dropped, &kept] {
        stand.revoke(user);
        stand.gone(user, 10);
    }
    let count =
        |name: &str| maria.sql(&format!("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'v{name}'"));
    assert_eq!((count(&gone), count(&stays)), ("0".to_owned(), "1".to_owned()));
    for text in [format!("SELECT * FROM app.v{stays}"), format!("CALL app.p{stays}()")] {
        let said = maria.try_as("root", tests::MariaDb::PASSWORD, &text).unwrap_err();
        assert!(said.contains("definer") || said.contains("1449") || said.contains("1356"), "{said}");
    }
}

#[test]
fn where_we_are_dead_an_account_of_mariadb_is_locked_by_an_event() {
    let mut stand = Stand::new(Server::mariadb());
    stand.role("r", json!({"default_ttl": "4s"}));
    let user = stand.user("r");
    stand.dev.end();
    assert!(stand.logs_in(&user));
    let locked = || !stand.server.lets_in(&user.name, &user.password);
    let took = until("the server locks it", Duration::from_secs(60), locked);
    assert!(stand.server.has(&user.name));
    println!("locked {took:?} after we were gone");
    stand.dev.start_again().unwrap();
    stand.gone(&user, 30);
}
