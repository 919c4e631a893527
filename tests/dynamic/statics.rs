//! Users that stay, and whose passwords are rotated.

use super::stand::Stand;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::{Postgres, until};

#[test]
fn passwords_of_users_that_stay_are_rotated_by_one_account_or_two() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "CREATE ROLE svc LOGIN; CREATE ROLE svc_a LOGIN; CREATE ROLE svc_b LOGIN");
    stand.pg.gives("vaultadm", "svc, svc_a, svc_b");
    let one = json!({"db_name": "pg", "username": "svc", "rotation_period": "5s"});
    stand.done("write", "database/static-roles/one", one);
    let first = stand.static_user("one");
    assert!(first.name == "svc" && stand.comes_in(&first));
    until("it is rotated by itself", Duration::from_secs(15), || stand.static_user("one").password != first.password);
    stand.done("write", "database/static-roles/one", json!({"rotation_period": "1h"}));
    let second = stand.static_user("one");
    assert!(stand.comes_in(&second) && !stand.comes_in(&first));
    // a configuration that was deleted and written again is found by its name
    stand.done("delete", "database/config/pg", Value::Null);
    stand.configure("pg");
    stand.done("write", "database/rotate-role/one", Value::Null);
    assert!(stand.comes_in(&stand.static_user("one")));
    let own = json!({"db_name": "pg", "username": "vaultadm", "rotation_period": "1h"});
    let refused = stand.ask(&stand.dev.root_token(), "write", "database/static-roles/own", own);
    assert!(refused.as_ref().is_err_and(|said| said.starts_with("400")), "{refused:?}");
    stand.done("delete", "database/static-roles/one", Value::Null);
    let two = json!({"db_name": "pg", "usernames": ["svc_a", "svc_b"], "rotation_period": "1h", "overlap": "1s"});
    stand.done("write", "database/static-roles/two", two);
    let old = stand.static_user("two");
    let session = stand.pg.session(&old.name, &old.password, "postgres", "SELECT 1");
    // what the first rotation retires was given to nobody
    std::thread::sleep(Duration::from_secs(4));
    stand.done("write", "database/rotate-role/two", Value::Null);
    let new = stand.static_user("two");
    assert_ne!(old.name, new.name);
    std::thread::sleep(Duration::from_secs(4));
    assert!(stand.comes_in(&new) && stand.comes_in(&old), "the old one is in use");
    let refused = stand.ask(&stand.dev.root_token(), "write", "database/rotate-role/two", Value::Null);
    assert!(refused.as_ref().is_err_and(|said| said.contains("are open")), "{refused:?}");
    drop(session);
    // whoever looks is in, too
    let retired = || {
        std::thread::sleep(Duration::from_millis(500));
        !stand.comes_in(&old)
    };
    until("the old one is retired", Duration::from_secs(60), retired);
    assert!(stand.comes_in(&new));
    // an overlap that is longer than the period is kept whole
    stand.pg.sql("postgres", "CREATE ROLE svc_c LOGIN; CREATE ROLE svc_d LOGIN");
    stand.pg.gives("vaultadm", "svc_c, svc_d");
    let long = json!({"db_name": "pg", "usernames": ["svc_c", "svc_d"], "rotation_period": "5s", "overlap": "1h"});
    stand.done("write", "database/static-roles/long", long);
    let given = stand.static_user("long");
    let refused = stand.ask(&stand.dev.root_token(), "write", "database/rotate-role/long", Value::Null);
    assert!(refused.as_ref().is_err_and(|said| said.contains("overlap")), "{refused:?}");
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(stand.static_user("long").password, given.password);
    for (schedule, sound) in [("0 3 * * 6", true), ("0 3 * * sat", false), ("* * * *", false)] {
        let body = json!({"db_name": "pg", "username": "svc", "rotation_schedule": schedule});
        let asked = stand.ask(&stand.dev.root_token(), "write", "database/static-roles/cron", body);
        assert_eq!(asked.is_ok(), sound, "{schedule} {asked:?}");
    }
    let log = stand.pg.log();
    assert!([&first, &second, &old, &new].iter().all(|user| !log.contains(&user.password)));
    stand.askers_are_recorded();
}

/// Rotates it, and asks that once it waits for the account.
fn meanwhile(stand: &Stand, what: &str, body: &Value) -> [Result<Value, String>; 2] {
    let hold = "BEGIN; ALTER ROLE svc CONNECTION LIMIT 9";
    let held = stand.pg.session("postgres", Postgres::PASSWORD, "postgres", hold);
    std::thread::scope(|scope| {
        let ask = |what: &str, path: &str, body: Value| stand.ask(&stand.dev.root_token(), what, path, body);
        let rotating = scope.spawn(move || ask("write", "database/rotate-role/one", json!({})));
        let waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted";
        until("it waits", Duration::from_secs(5), || stand.pg.sql("postgres", waits) == "t");
        let other = scope.spawn(move || ask(what, "database/static-roles/one", body.clone()));
        // a deletion waits, and shows nothing
        let written = || {
            let shown = &stand.done("read", "database/static-roles/one", Value::Null)["data"];
            body.as_object().is_some_and(|body| body.iter().all(|(field, value)| shown[field] == *value))
        };
        until("it is written", Duration::from_secs(5), written);
        drop(held);
        [rotating.join().unwrap(), other.join().unwrap()]
    })
}

#[test]
fn a_rotation_goes_on_where_the_process_has_died() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "CREATE ROLE svc LOGIN");
    stand.pg.gives("vaultadm", "svc");
    let one = json!({"db_name": "pg", "username": "svc", "rotation_period": "1h"});
    stand.done("write", "database/static-roles/one", one);
    let before = stand.static_user("one");
    stand.fail_at("after-set-password");
    let asked = stand.ask(&stand.dev.root_token(), "write", "database/rotate-role/one", json!({}));
    assert!(asked.is_err() && !stand.fault().exists(), "{asked:?}");
    stand.recovered();
    // nobody knows how far it came; it is done by the queue once it is nobody's any more
    let rotated = || stand.static_user("one").password != before.password;
    until("it is rotated", Duration::from_secs(60), rotated);
    assert!(stand.comes_in(&stand.static_user("one")) && !stand.comes_in(&before));
    let mut asked_for = 0;
    stand.dev.audit_records(|record| {
        let by_us = matches!(record.subject, audit::Subject::Token { .. });
        let is_it = record.path == "database/rotate-role/one" && record.outcome == audit::Outcome::Asked;
        asked_for += usize::from(by_us && is_it);
    });
    // once more where the process ended before the log had told of it
    assert!(matches!(asked_for, 1 | 2), "who has asked is recorded before it is done");
    stand.askers_are_recorded();
}

/// Callers, and the queue of what is due by itself.
#[test]
fn whoever_rotates_at_once_is_told_of_the_database_and_never_of_the_others() {
    let stand = Stand::new();
    stand.pg.sql("postgres", "CREATE ROLE svc LOGIN; CREATE ROLE svc_a LOGIN; CREATE ROLE svc_b LOGIN");
    stand.pg.gives("vaultadm", "svc, svc_a, svc_b");
    let ask = |path: &str| stand.ask(&stand.dev.root_token(), "write", path, json!({}));
    let all_ask = |path: &'static str, times: usize| -> Vec<Result<Value, String>> {
        let many = || (0..times).map(|_| ask(path)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(many)).collect();
            asking.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
        })
    };
    let one = json!({"db_name": "pg", "username": "svc", "rotation_period": "5s"});
    stand.done("write", "database/static-roles/one", one);
    let before = stand.static_user("one");
    for answer in all_ask("database/rotate-role/one", 25) {
        answer.unwrap();
    }
    // what else is asked while a rotation waits for somebody who holds the account
    stand.done("write", "database/static-roles/one", json!({"rotation_period": "1h"}));
    stand.configure("pg2");
    for (what, body) in [("write", json!({"overlap": 7})), ("write", json!({"db_name": "pg2"})), ("delete", json!({}))]
    {
        let mut told = meanwhile(&stand, what, &body);
        for _ in 0..5 {
            // ours waits for three seconds, and is tried again
            if !told.iter().any(|told| told.as_ref().is_err_and(|said| said.contains("lock timeout"))) {
                break;
            }
            std::thread::sleep(Duration::from_secs(3));
            let one = json!({"db_name": "pg", "username": "svc", "rotation_period": "1h"});
            stand.done("write", "database/static-roles/one", one);
            told = meanwhile(&stand, what, &body);
        }
        assert!(told.iter().all(Result::is_ok), "{what} {body}: {told:?}");
        if what == "write" {
            let shown = &stand.done("read", "database/static-roles/one", Value::Null)["data"];
            let (field, value) = body.as_object().unwrap().iter().next().unwrap();
            assert_eq!(shown[field], *value, "what is written meanwhile stays: {shown}");
            assert!(stand.comes_in(&stand.static_user("one")));
        }
    }
    let mut given_up = 0;
    stand.dev.audit_records(|record| {
        let is_conflict = record.outcome == audit::Outcome::Failed("CONFLICT".into());
        given_up += usize::from(record.operation == "DatabaseRotate" && is_conflict);
    });
    assert!(given_up > 0, "what was set in one database is not given as another's");
    let one = json!({"db_name": "pg", "username": "svc", "rotation_period": "1h"});
    stand.done("write", "database/static-roles/one", one);
    let after = stand.static_user("one");
    assert!(stand.comes_in(&after) && !stand.comes_in(&before));
    // the one before is in use, and the queue and all who ask try to retire it
    let two = json!({"db_name": "pg", "usernames": ["svc_a", "svc_b"], "rotation_period": "1h"});
    stand.done("write", "database/static-roles/two", two);
    let old = stand.static_user("two");
    let _in_use = stand.pg.session(&old.name, &old.password, "postgres", "SELECT 1");
    until("it is rotated", Duration::from_secs(20), || ask("database/rotate-role/two").is_ok());
    for answer in all_ask("database/rotate-role/two", 3) {
        assert!(answer.as_ref().is_err_and(|said| said.contains("are open")), "{answer:?}");
    }
    assert!(stand.comes_in(&old) && stand.comes_in(&stand.static_user("two")));
    // deleted while it is rotated
    stand.done("write", "database/static-roles/one", json!({"rotation_period": "5s"}));
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| all_ask("database/rotate-role/one", 5));
        std::thread::sleep(Duration::from_millis(100));
        let deleted = || stand.ask(&stand.dev.root_token(), "delete", "database/static-roles/one", Value::Null).is_ok();
        until("it is deleted", Duration::from_secs(30), deleted);
        asking.join().unwrap()
    });
    assert!(asked.iter().all(|answer| answer.as_ref().err().is_none_or(|said| said.starts_with("404"))), "{asked:?}");
    stand.askers_are_recorded();
}

/// Ten rotations in CI.
#[test]
fn a_client_that_connects_all_the_time_never_fails_while_two_accounts_are_rotated_in_turn() {
    let stand = Stand::new();
    let turns = (crate::rotating(Duration::from_secs(27)).as_millis() / BETWEEN_ROTATIONS.as_millis()).max(1);
    stand.pg.sql("postgres", "CREATE ROLE svc_e LOGIN; CREATE ROLE svc_f LOGIN");
    stand.pg.gives("vaultadm", "svc_e, svc_f");
    // by its period it is rotated every five seconds at most; whoever asks rotates it as soon as the overlap is over
    let two = json!({"db_name": "pg", "usernames": ["svc_e", "svc_f"], "rotation_period": "1h", "overlap": "2s"});
    stand.done("write", "database/static-roles/two", two);
    let rotated = || stand.ask(&stand.dev.root_token(), "write", "database/rotate-role/two", Value::Null).is_ok();
    let (mut logins, mut given) = (0, std::collections::BTreeSet::new());
    let took = std::thread::scope(|scope| {
        let rotations = scope.spawn(|| {
            let began = Instant::now();
            for _ in 0..turns {
                std::thread::sleep(BETWEEN_ROTATIONS);
                // not while a session of the one before is open
                until("it is rotated", Duration::from_secs(20), rotated);
            }
            began.elapsed()
        });
        let mut is_over = false;
        while !is_over {
            // once more after the last
            is_over = rotations.is_finished();
            let user = stand.static_user("two");
            let said = stand.pg.try_as(&user.name, &user.password, "postgres", "SELECT 1");
            said.unwrap_or_else(|said| panic!("{} after {logins} logins: {said}", user.name));
            given.insert(user.password);
            logins += 1;
        }
        rotations.join().unwrap()
    });
    println!("{turns} rotations in {took:?}: {logins} logins by {} passwords, none failed", given.len());
    assert!(given.len() as u128 > turns, "the first, and one more each turn: {}", given.len());
}

/// Longer than the overlap.
const BETWEEN_ROTATIONS: Duration = Duration::from_millis(2700);
