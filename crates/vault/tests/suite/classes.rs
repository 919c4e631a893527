//! Kinds of faults that others had, told by the advisories that first named them.
//!
//! Beside what stands here: a lock that spelling evades (CVE-2025-6004) and hashes that tell who exists (CVE-2025-6011) in
//! `userpass.rs`; lifetimes (CVE-2021-32923) in identity's `lifetimes.rs`; deep and huge bodies (CVE-2023-6337) in `body`.

use crate::rig::{ROOT, Rig, With, minted};
use serde_json::{Value, json};
use std::time::Duration;
use vault::Verb::{Delete, Read, Write};
use vault::{ApiPath, Body};

const NAMES_OF_ROOT: [&str; 10] =
    ["root", " root", "root ", "ROOT", "Root", "\troot", "root\n", "\u{a0}root", "ｒｏｏｔ", "r\u{200b}oot"];

fn by(token: &str) -> With<'_> {
    With { token: Some(token), ..With::default() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// CVE-2025-5999, CVE-2024-9180: `root` by another spelling, or through an entity, a group, a role, a user.
#[tokio::test]
async fn no_spelling_gives_root_through_whatever_has_policies() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/approle", json!({"type": "approle"})).await;
    rig.done(Write, "sys/auth/userpass", json!({"type": "userpass"})).await;
    let accessor = text(&rig.done(Read, "sys/auth/userpass", Value::Null).await["accessor"]);
    let admin = minted(&rig, "admin", r#"path "*" { capabilities = ["create", "read", "update", "delete", "sudo"] }"#);
    let admin = admin.await;
    let write = async |path: &str, body: Value| rig.ask(Write, path, body, by(&admin)).await;
    for (n, name) in NAMES_OF_ROOT.into_iter().enumerate() {
        let mut given = Vec::new();
        for (path, body) in [
            ("auth/token/create", json!({"policies": [name]})),
            ("auth/token/create-orphan", json!({"policies": [name], "type": "batch"})),
        ] {
            given.extend(write(path, body).await.1["auth"]["client_token"].as_str().map(str::to_owned));
        }
        write(&format!("auth/token/roles/r{n}"), json!({"allowed_policies": [name]})).await;
        let through = write(&format!("auth/token/create/r{n}"), json!({"policies": [name]})).await.1;
        given.extend(through["auth"]["client_token"].as_str().map(str::to_owned));
        let role = format!("auth/approle/role/r{n}");
        if write(&role, json!({"token_policies": [name]})).await.0 < 300 {
            let (role_id, made) = (
                rig.done(Read, &format!("{role}/role-id"), Value::Null).await,
                rig.done(Write, &format!("{role}/secret-id"), json!({})).await,
            );
            let body = json!({"role_id": role_id["role_id"], "secret_id": made["secret_id"]});
            given.push(text(&write("auth/approle/login", body).await.1["auth"]["client_token"]));
        }
        let user = format!("u{n}");
        write(&format!("auth/userpass/users/{user}"), json!({"password": "pw", "token_policies": [name]})).await;
        let body = json!({"password": "a long password", "token_policies": ["default"]});
        assert_eq!(write(&format!("auth/userpass/users/{user}"), body).await.0, 204);
        let entity = write("identity/entity", json!({"name": user, "policies": [name]})).await.1;
        let entity = match entity["data"]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => text(&write("identity/entity", json!({ "name": user })).await.1["data"]["id"]),
        };
        let alias = json!({"name": user, "canonical_id": entity, "mount_accessor": accessor});
        assert_eq!(write("identity/entity-alias", alias).await.0, 200);
        write("identity/group", json!({"name": user, "policies": [name], "member_entity_ids": [entity]})).await;
        let login = write(&format!("auth/userpass/login/{user}"), json!({"password": "a long password"})).await.1;
        given.push(text(&login["auth"]["client_token"]));
        for token in given {
            let looked_up = rig.ask(Read, "auth/token/lookup-self", Value::Null, by(&token)).await;
            let shown =
                looked_up.1["data"]["policies"].to_string() + &looked_up.1["data"]["identity_policies"].to_string();
            assert!(!shown.contains("\"root\""), "{name:?} {shown}");
            let (status, _) = rig.ask(Write, "sys/policies/acl/taken", json!({"policy": ""}), by(&token)).await;
            assert_eq!(status, 403, "{name:?} {shown}");
        }
    }
}

/// CVE-2025-6014: what may be used once is used again by another spelling.
#[tokio::test]
async fn what_is_good_once_is_good_once_however_it_is_spelled() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/auth/approle", json!({"type": "approle"})).await;
    rig.done(Write, "auth/approle/role/web", json!({"secret_id_num_uses": 1})).await;
    let role_id = text(&rig.done(Read, "auth/approle/role/web/role-id", Value::Null).await["role_id"]);
    let secret_id = text(&rig.done(Write, "auth/approle/role/web/secret-id", json!({})).await["secret_id"]);
    rig.done(Write, "secret/data/w", json!({"data": {"inside": 1}})).await;
    let wrap = With { wrap_secs: Some(60), ..by(ROOT) };
    let wrapped = text(&rig.ask(Read, "secret/data/w", Value::Null, wrap).await.1["wrap_info"]["token"]);
    let logs_in = async |secret_id: &str| {
        let body = json!({"role_id": role_id, "secret_id": secret_id});
        rig.ask(Write, "auth/approle/login", body, With::default()).await.0 == 200
    };
    let unwraps = async |token: &str, in_body: bool| {
        let (body, with) = if in_body { (json!({ "token": token }), With::default()) } else { (json!({}), by(token)) };
        rig.ask(Write, "sys/wrapping/unwrap", body, with).await.0 == 200
    };
    let marks = ["", " ", "\t", "\n", "\r\n", "\u{a0}", "\u{200b}", "\u{feff}", "=", ".", "/", "%20"];
    for spent in [false, true] {
        let mut variants = 0;
        for before in marks {
            for after in marks {
                for case in [str::to_owned, str::to_uppercase, str::to_lowercase] {
                    let spelled = |exact: &str| format!("{before}{}{after}", case(exact));
                    let (other_id, other) = (spelled(&secret_id), spelled(&wrapped));
                    if other_id != secret_id {
                        assert!(!logs_in(&other_id).await, "{before:?} {after:?}");
                        variants += 1;
                    }
                    if other != wrapped {
                        assert!(!unwraps(&other, true).await && !unwraps(&other, false).await, "{before:?} {after:?}");
                        variants += 2;
                    }
                }
            }
        }
        assert!(variants > 1000, "{variants}");
        // nothing above has spent it; and nothing but itself is it
        let (logged_in, unwrapped) = (logs_in(&secret_id).await, unwraps(&wrapped, true).await);
        assert_eq!((logged_in, unwrapped), (!spent, !spent));
    }
}

/// CVE-2021-41802, CVE-2021-32923: who logs in under one name is one entity, and takes nobody else's rights along.
#[tokio::test]
async fn one_name_at_one_method_is_one_entity_and_merging_gives_nobody_more_than_the_target_has() {
    let rig = Rig::new().await;
    for method in ["userpass", "people"] {
        rig.done(Write, &format!("sys/auth/{method}"), json!({"type": "userpass"})).await;
        rig.done(Write, &format!("auth/{method}/users/ann"), json!({"password": "a long password"})).await;
    }
    let accessor =
        async |method: &str| text(&rig.done(Read, &format!("sys/auth/{method}"), Value::Null).await["accessor"]);
    let (here, there) = (accessor("userpass").await, accessor("people").await);
    let entity = async |name: &str, policy: &str| {
        text(&rig.done(Write, "identity/entity", json!({"name": name, "policies": [policy]})).await["id"])
    };
    let (strong, weak, third) =
        (entity("strong", "strong").await, entity("weak", "weak").await, entity("third", "third").await);
    let alias = async |name: &str, mount: &str, entity: &str| {
        let body = json!({"name": name, "mount_accessor": mount, "canonical_id": entity});
        rig.root(Write, "identity/entity-alias", body).await.0
    };
    assert_eq!((alias("ann", &here, &strong).await, alias("ann", &there, &weak).await), (200, 200));
    for policy in ["strong", "weak"] {
        let rule = format!(r#"path "secret/data/{policy}" {{ capabilities = ["read"] }}"#);
        rig.done(Write, &format!("sys/policies/acl/{policy}"), json!({ "policy": rule })).await;
        rig.done(Write, &format!("secret/data/{policy}"), json!({"data": {}})).await;
    }
    // whose a login's token is, and what it may
    let logs_in = async |method: &str| {
        let path = format!("auth/{method}/login/ann");
        let body = rig.ask(Write, &path, json!({"password": "a long password"}), With::default()).await.1;
        let token = text(&body["auth"]["client_token"]);
        let may =
            async |name: &str| rig.ask(Read, &format!("secret/data/{name}"), Value::Null, by(&token)).await.0 == 200;
        (text(&body["auth"]["entity_id"]), may("strong").await, may("weak").await)
    };
    assert_eq!(logs_in("userpass").await, (strong.clone(), true, false));
    assert_eq!(logs_in("people").await, (weak.clone(), false, true));
    // the same name again, however spelled, is one entity's: with its rights, and nobody else's
    for spelled in ["ann", "Ann", "ANN", "ann "] {
        alias(spelled, &here, &third).await;
        let found = logs_in("userpass").await;
        assert!([(strong.clone(), true, false), (third.clone(), false, false)].contains(&found), "{spelled} {found:?}");
        assert_eq!(alias("ann", &here, &strong).await, 200, "and back");
        assert_eq!(logs_in("userpass").await, (strong.clone(), true, false));
    }
    let merge = json!({"from_entity_ids": [strong], "to_entity_id": weak});
    let nobody = minted(&rig, "nobody", r#"path "identity/entity/id/*" { capabilities = ["read", "update"] }"#).await;
    assert_eq!(rig.ask(Write, "identity/entity/merge", merge.clone(), by(&nobody)).await.0, 403);
    let (status, body) = rig.root(Write, "identity/entity/merge", merge.clone()).await;
    assert!(status < 300, "{body}");
    for method in ["userpass", "people"] {
        assert_eq!(logs_in(method).await, (weak.clone(), false, true), "{method}");
    }
}

/// CVE-2021-32923, CVE-2020-25816: what ends is not carried over its end by whoever renews it in the last second.
#[tokio::test]
async fn no_token_outlives_its_end_whatever_it_is_renewed_by() {
    for (at, renews) in [(59, true), (60, false), (61, false)] {
        let rig = Rig::new().await;
        let body = json!({"ttl": "60s", "explicit_max_ttl": "90s", "policies": ["default"]});
        let token = text(&rig.root(Write, "auth/token/create", body).await.1["auth"]["client_token"]);
        rig.clock.advance(Duration::from_secs(at));
        for increment in [json!(3600), json!("9223372036s"), json!(u64::MAX), json!("-1s"), json!("99999999999999999h")]
        {
            rig.ask(Write, "auth/token/renew-self", json!({ "increment": increment }), by(&token)).await;
        }
        let alive = async || rig.ask(Read, "auth/token/lookup-self", Value::Null, by(&token)).await.0 == 200;
        assert_eq!(alive().await, renews, "at {at} s");
        for (until, lives) in [(89, renews), (90, false), (91, false)] {
            rig.clock.set(crate::rig::START.plus(Duration::from_secs(until)));
            assert_eq!(alive().await, lives, "renewed at {at} s, looked at {until} s");
        }
    }
}

/// CVE-2023-24999: an id or an accessor of others is worth nothing, and looks like one that never was.
#[tokio::test]
async fn what_belongs_to_others_looks_like_what_never_was() {
    let rig = Rig::new().await;
    for method in ["approle", "other"] {
        rig.done(Write, &format!("sys/auth/{method}"), json!({"type": "approle"})).await;
    }
    let mut made = Vec::new();
    for role in ["auth/approle/role/mine", "auth/approle/role/theirs", "auth/other/role/mine"] {
        rig.done(Write, role, json!({"token_policies": "default"})).await;
        made.push(rig.done(Write, &format!("{role}/secret-id"), json!({})).await);
    }
    let policy = r#"path "auth/approle/role/mine/*" { capabilities = ["create", "read", "update", "delete"] }
                    path "cubbyhole/*" { capabilities = ["create", "read", "update"] }"#;
    let (me, they) = (minted(&rig, "me", policy).await, minted(&rig, "they", policy).await);
    rig.ask(Write, "cubbyhole/a", json!({"their": "own"}), by(&they)).await;
    let never = json!({"secret_id": "00000000-0000-4000-8000-000000000000", "secret_id_accessor": "00000000-0000-4000-8000-000000000000"});
    for theirs in &made[1..] {
        for (path, field) in [
            ("auth/approle/role/mine/secret-id/lookup", "secret_id"),
            ("auth/approle/role/mine/secret-id/destroy", "secret_id"),
            ("auth/approle/role/mine/secret-id-accessor/lookup", "secret_id_accessor"),
            ("auth/approle/role/mine/secret-id-accessor/destroy", "secret_id_accessor"),
        ] {
            let of_others = rig.ask(Write, path, json!({ field: theirs[field] }), by(&me)).await;
            let of_nobody = rig.ask(Write, path, json!({ field: never[field] }), by(&me)).await;
            assert_eq!(
                (of_others.0, of_others.1["errors"].clone()),
                (of_nobody.0, of_nobody.1["errors"].clone()),
                "{path}"
            );
        }
    }
    for (path, theirs) in [("cubbyhole/a", "cubbyhole/never"), ("auth/approle/role/theirs", "auth/approle/role/never")]
    {
        let (of_others, of_nobody) =
            (rig.ask(Read, path, Value::Null, by(&me)).await, rig.ask(Read, theirs, Value::Null, by(&me)).await);
        assert_eq!(
            (of_others.0, of_others.1["errors"].clone()),
            (of_nobody.0, of_nobody.1["errors"].clone()),
            "{path}"
        );
    }
    // all that belongs to them is there still
    for (role, theirs) in [("auth/approle/role/theirs", &made[1]), ("auth/other/role/mine", &made[2])] {
        let looked_up = json!({"secret_id": theirs["secret_id"]});
        assert_eq!(rig.root(Write, &format!("{role}/secret-id/lookup"), looked_up).await.0, 200);
    }
    assert_eq!(rig.ask(Read, "cubbyhole/a", Value::Null, by(&they)).await.1["data"]["their"], "own");
}

/// CVE-2026-5807: what strangers reach is this, and nothing is held up by them.
#[tokio::test]
async fn strangers_reach_what_is_listed_here_and_nothing_else() {
    let rig = Rig::new().await;
    for method in ["approle", "userpass"] {
        rig.done(Write, &format!("sys/auth/{method}"), json!({"type": method})).await;
    }
    let document: Value = serde_json::from_str(&rig.text(Read, "sys/internal/specs/openapi", "").await).unwrap();
    let mut reached = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path: String = path.trim_start_matches('/').replace(['{', '}'], "");
        for (method, verb) in [("get", Read), ("post", Write), ("delete", Delete)] {
            if item.get(method).is_some() && ApiPath::parse(&path).is_ok() {
                let (status, _) = rig.ask(verb, &path, json!({}), With::default()).await;
                if status != 403 {
                    reached.push(format!("{method} {path}"));
                }
            }
        }
    }
    reached.sort();
    assert_eq!(reached, PUBLIC, "each is read by whoever reviews what strangers can do");
    let deep = format!("{}{}", "{\"a\":".repeat(40), "1");
    assert!(Body::parse(envelope::SecretBytes::copy_from(deep.as_bytes())).is_err());
}

/// CVE-2022-41316: what was taken back is so for whoever comes up next, from the store alone.
#[tokio::test]
async fn what_was_taken_back_stays_so_at_the_next_start() {
    let rig = Rig::new().await;
    for method in ["approle", "userpass"] {
        rig.done(Write, &format!("sys/auth/{method}"), json!({"type": method})).await;
    }
    rig.done(Write, "auth/userpass/users/ann", json!({"password": "a long password"})).await;
    rig.done(Write, "auth/approle/role/web", json!({})).await;
    let role_id = rig.done(Read, "auth/approle/role/web/role-id", Value::Null).await["role_id"].clone();
    let made = rig.done(Write, "auth/approle/role/web/secret-id", json!({})).await;
    let body = json!({"role_id": role_id, "secret_id": made["secret_id"]});
    let token = minted(&rig, "reads", r#"path "secret/*" { capabilities = ["read"] }"#).await;
    let bystander = minted(&rig, "reads", r#"path "secret/*" { capabilities = ["read"] }"#).await;
    rig.done(Write, "secret/data/a", json!({"data": {}})).await;
    let asks = [
        (Read, "secret/data/a", Value::Null, Some(token.as_str())),
        (Write, "auth/userpass/login/ann", json!({"password": "a long password"}), None),
        (Write, "auth/approle/login", body, None),
        (Read, "secret/data/a", Value::Null, Some(bystander.as_str())),
    ];
    let answers = async || {
        let node = rig.another_node();
        let mut answers = Vec::new();
        for (verb, path, body, token) in &asks {
            let with = With { token: *token, node: Some(&node), ..With::default() };
            answers.push(rig.ask(*verb, path, body.clone(), with).await.0 == 200);
        }
        answers
    };
    assert_eq!(answers().await, [true; 4]);
    for (verb, path, body, still) in [
        (Write, "auth/token/revoke", json!({ "token": token }), [false, true, true, true]),
        (Delete, "auth/userpass/users/ann", Value::Null, [false, false, true, true]),
        (
            Write,
            "auth/approle/role/web/secret-id/destroy",
            json!({"secret_id": made["secret_id"]}),
            [false, false, false, true],
        ),
        (Delete, "sys/policies/acl/reads", Value::Null, [false; 4]),
    ] {
        rig.done(verb, path, body).await;
        assert_eq!(answers().await, still, "{path}");
    }
}

const PUBLIC: [&str; 16] = [
    "delete sys/generate-root/attempt",
    "get sys/generate-root/attempt",
    "get sys/health",
    "get sys/init",
    "get sys/leader",
    "get sys/seal-status",
    "get sys/wrapping/lookup",
    "post auth/approle/login",
    "post auth/userpass/login/username",
    "post sys/generate-root/attempt",
    "post sys/generate-root/update",
    "post sys/init",
    "post sys/unseal",
    "post sys/wrapping/lookup",
    "post sys/wrapping/rewrap",
    "post sys/wrapping/unwrap",
];
