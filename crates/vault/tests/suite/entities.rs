//! Entities, aliases and groups, as the API shows them.

use crate::rig::{ROOT, Rig, With};
use serde_json::{Value, json};
use vault::Verb::{Delete, List, Read, Write};

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// An auth method's accessor.
async fn accessor(rig: &Rig, path: &str) -> String {
    rig.done(Write, &format!("sys/auth/{path}"), json!({"type": "approle"})).await;
    let all = rig.done(Read, "sys/auth", Value::Null).await;
    all[format!("{path}/")]["accessor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_entity_is_made_read_changed_listed_and_dropped() {
    let rig = Rig::new().await;
    assert_eq!(rig.root(List, "identity/entity/id", Value::Null).await.0, 404);
    let body = json!({"name": "alice", "metadata": {"team": "a"}, "policies": ["p", "q", "p"]});
    let ((_, made), records) = rig.recorded(rig.root(Write, "identity/entity", body)).await;
    let id = made["data"]["id"].as_str().unwrap().to_owned();
    assert_eq!(made["data"], json!({"id": id, "name": "alice", "aliases": null}));
    assert_eq!(records.len(), 1);
    let whole = json!({
        "aliases": [], "creation_time": "2023-11-14T22:13:20Z", "direct_group_ids": [], "disabled": false, "group_ids": [],
        "id": id, "inherited_group_ids": [], "last_update_time": "2023-11-14T22:13:20Z", "merged_entity_ids": null,
        "metadata": {"team": "a"}, "name": "alice", "policies": ["p", "q"],
    });
    for path in [format!("identity/entity/id/{id}"), "identity/entity/name/alice".to_owned()] {
        assert_eq!(rig.done(Read, &path, Value::Null).await, whole);
    }
    // what is not named stays as it is
    for (path, body, field, value) in [
        (format!("identity/entity/id/{id}"), json!({"metadata": "team=b"}), "metadata", json!({"team": "b"})),
        ("identity/entity/name/alice".into(), json!({"policies": "x,y"}), "policies", json!(["x", "y"])),
        ("identity/entity".into(), json!({"id": id, "disabled": true}), "disabled", json!(true)),
        ("identity/entity".into(), json!({"name": "alice", "disabled": "false"}), "disabled", json!(false)),
        (format!("identity/entity/id/{id}"), json!({"name": "a/b"}), "name", json!("a/b")),
        ("identity/entity/name/a/b".into(), json!({"policies": []}), "policies", Value::Null),
    ] {
        assert_eq!(rig.done(Write, &path, body).await["id"], json!(id), "{path}");
        assert_eq!(rig.done(Read, &format!("identity/entity/id/{id}"), Value::Null).await[field], value, "{path}");
    }
    let bob = rig.done(Write, "identity/entity/name/bob", Value::Null).await["id"].clone();
    let anon = rig.done(Write, "identity/entity", json!({})).await["id"].clone();
    assert_eq!(rig.done(List, "identity/entity/id", Value::Null).await["keys"].as_array().unwrap().len(), 3);
    let names = rig.done(List, "identity/entity/name", Value::Null).await["keys"].clone();
    assert_eq!(
        (&names[0], &names[1], names[2].as_str().unwrap().starts_with("entity_")),
        (&json!("a/b"), &json!("bob"), true)
    );
    for (path, body, status) in [
        ("identity/entity", json!({"policies": ["root"]}), 400),
        ("identity/entity", json!({"policies": [" ROOT"]}), 400),
        ("identity/entity", json!({"name": " x"}), 400),
        ("identity/entity", json!({"id": NOBODY}), 404),
        ("identity/entity", json!({"id": "x"}), 400),
        ("identity/entity", json!({"metadata": ["x"]}), 400),
        ("identity/entity", json!({"id": id, "name": "bob"}), 400),
        ("identity/entity/id/nonsense", json!({}), 404),
        ("identity/entity/other", json!({}), 404),
    ] {
        assert_eq!(rig.root(Write, path, body.clone()).await.0, status, "{path} {body}");
    }
    assert_eq!(rig.root(Delete, "identity/entity/name/bob", Value::Null).await.0, 204);
    assert_eq!(rig.root(Delete, "identity/entity/name/bob", Value::Null).await.0, 204);
    assert_eq!(rig.root(Read, "identity/entity/name/bob", Value::Null).await.0, 404);
    let ids = json!({"entity_ids": [id, bob, anon]});
    assert_eq!(rig.root(Write, "identity/entity/batch-delete", ids).await.0, 204);
    assert_eq!(rig.root(List, "identity/entity/id", Value::Null).await.0, 404);
}

#[tokio::test]
async fn aliases_groups_and_lookups_lead_to_one_another() {
    let rig = Rig::new().await;
    let (one, two) = (accessor(&rig, "one").await, accessor(&rig, "two").await);
    let a = rig.done(Write, "identity/entity/name/a", json!({})).await["id"].clone();
    let b = rig.done(Write, "identity/entity/name/b", json!({})).await["id"].clone();
    let alias = json!({"name": "role", "canonical_id": a, "mount_accessor": one, "custom_metadata": {"k": "v"}});
    let made = rig.done(Write, "identity/entity-alias", alias.clone()).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made, json!({"canonical_id": a, "id": id}));
    let path = format!("identity/entity-alias/id/{id}");
    let read = rig.done(Read, &path, Value::Null).await;
    for (field, value) in [
        ("canonical_id", a.clone()),
        ("custom_metadata", json!({"k": "v"})),
        ("mount_accessor", json!(one)),
        ("mount_path", json!("auth/one/")),
        ("mount_type", json!("approle")),
        ("name", json!("role")),
    ] {
        assert_eq!(read[field], value, "{field}");
    }
    assert_eq!(rig.done(Read, "identity/entity/name/a", Value::Null).await["aliases"][0], read);
    let listed = rig.done(List, "identity/entity-alias/id", Value::Null).await;
    assert_eq!((&listed["keys"], &listed["key_info"][&id]["name"]), (&json!([id]), &json!("role")));
    assert_eq!(rig.done(Write, &path, json!({"canonical_id": b, "mount_accessor": two})).await["canonical_id"], b);
    for (body, status) in [
        (json!({"name": "x", "mount_accessor": "nowhere"}), 400),
        (json!({"name": "x"}), 400),
        (json!({"mount_accessor": one}), 400),
        (json!({"name": "x", "mount_accessor": one, "canonical_id": NOBODY}), 400),
    ] {
        assert_eq!(rig.root(Write, "identity/entity-alias", body.clone()).await.0, status, "{body}");
    }
    let group = json!({"name": "team", "policies": ["p"], "member_entity_ids": [b], "metadata": {"x": "y"}});
    let team = rig.done(Write, "identity/group", group).await["id"].clone();
    let org = rig.done(Write, "identity/group/name/org", json!({"member_group_ids": [team]})).await["id"].clone();
    let read = rig.done(Read, "identity/group/name/team", Value::Null).await;
    let expected = json!({
        "alias": {}, "creation_time": "2023-11-14T22:13:20Z", "id": team, "last_update_time": "2023-11-14T22:13:20Z",
        "member_entity_ids": [b], "member_group_ids": null, "metadata": {"x": "y"}, "modify_index": 1, "name": "team",
        "parent_group_ids": [org], "policies": ["p"], "type": "internal",
    });
    assert_eq!(read, expected);
    let read = rig.done(Read, "identity/entity/name/b", Value::Null).await;
    assert_eq!((&read["direct_group_ids"], &read["inherited_group_ids"]), (&json!([team]), &json!([org])));
    let external = rig.done(Write, "identity/group", json!({"name": "ext", "type": "external"})).await["id"].clone();
    let body = json!({"name": "g", "mount_accessor": one, "canonical_id": external});
    let group_alias = rig.done(Write, "identity/group-alias", body).await["id"].clone();
    let path = format!("identity/group-alias/id/{}", group_alias.as_str().unwrap());
    assert_eq!(rig.done(Read, &path, Value::Null).await["canonical_id"], external);
    for (what, body, found) in [
        ("entity", json!({"id": a}), &a),
        ("entity", json!({"name": "b"}), &b),
        ("entity", json!({"alias_id": id}), &b),
        ("entity", json!({"alias_name": "role", "alias_mount_accessor": two}), &b),
        ("entity", json!({"alias_name": "role", "alias_mount_accessor": one}), &Value::Null),
        ("entity", json!({"id": "nonsense"}), &Value::Null),
        ("group", json!({"name": "team"}), &team),
        ("group", json!({"alias_id": group_alias}), &external),
        ("group", json!({"id": a}), &Value::Null),
    ] {
        let (status, answer) = rig.root(Write, &format!("identity/lookup/{what}"), body.clone()).await;
        assert_eq!((status, &answer["data"]["id"]), (if found.is_null() { 204 } else { 200 }, found), "{body}");
    }
    assert_eq!(rig.root(Write, "identity/lookup/entity", json!({})).await.0, 400);
    let merge = json!({"from_entity_ids": [b], "to_entity_id": a});
    assert_eq!(rig.root(Write, "identity/entity/merge", merge).await.0, 204);
    let merged = rig.done(Read, &format!("identity/entity/id/{}", b.as_str().unwrap()), Value::Null).await;
    assert_eq!(
        (&merged["id"], &merged["merged_entity_ids"], &merged["group_ids"].as_array().unwrap().len()),
        (&a, &json!([b]), &2)
    );
    for path in [path.as_str(), "identity/group/name/team", "identity/group/name/ext", "identity/group/name/org"] {
        assert_eq!(rig.root(Delete, path, Value::Null).await.0, 204);
        assert_eq!(rig.root(Read, path, Value::Null).await.0, 404, "{path}");
    }
    assert_eq!(rig.root(List, "identity/group/id", Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_token_may_what_its_entity_gives_and_its_records_tell_whose_it_is() {
    let rig = Rig::new().await;
    rig.done(Write, "sys/policies/acl/app", json!({"policy": r#"path "secret/data/app" { policy = "write" }"#})).await;
    let info = identity::RequestInfo::new("t".into(), "192.0.2.7:4711".into(), rig.clock_now());
    let identities = rig.vault.identities();
    let batch = rig.vault.changes().batch().unwrap();
    let (batch, entity) =
        identities.entity_for_alias(batch, info.now, &accessor(&rig, "one").await, "ci").await.unwrap();
    let new = identity::NewToken {
        entity: Some(entity),
        ..identity::NewToken::new("auth/one/login", identity::NewParent::Orphan)
    };
    let (batch, made) = identities.prepare_token(batch, new, info.now).await.unwrap();
    identities.commit(batch, &info.record("Login", &audit::Subject::System, audit::Outcome::Done)).await.unwrap();
    let token = String::from_utf8(made.token.expose().to_vec()).unwrap();
    let id = identity::EntityId(entity).to_string();
    let write = async || {
        let with = With { token: Some(&token), ..With::default() };
        rig.recorded(rig.ask(Write, "secret/data/app", json!({"data": {"a": "b"}}), with)).await
    };
    for (policies, status, rule) in [(json!([]), 403, ""), (json!(["app"]), 200, "app"), (json!([]), 403, "")] {
        rig.done(Write, &format!("identity/entity/id/{id}"), json!({"policies": policies})).await;
        let ((found, _), records) = write().await;
        let told = records[0]["rule"].as_str().unwrap_or_default();
        assert_eq!((found, told, &records[0]["entity"]), (status, rule, &json!(id)), "{records:?}");
    }
    rig.done(Write, &format!("identity/entity/id/{id}"), json!({"disabled": true})).await;
    let ((status, _), records) = write().await;
    assert_eq!((status, &records[0]["outcome"]["failed"]), (403, &json!("ENTITY_DISABLED")));
    // nobody gives without the right
    let with = With { token: Some(ROOT), ..With::default() };
    assert_eq!(rig.ask(Read, &format!("identity/entity/id/{id}"), Value::Null, with).await.0, 200);
    rig.done(Write, &format!("identity/entity/id/{id}"), json!({"disabled": false})).await;
    let with = With { token: Some(&token), ..With::default() };
    let own = json!({"policies": ["app"]});
    assert_eq!(rig.ask(Write, &format!("identity/entity/id/{id}"), own, with).await.0, 403);
}

#[tokio::test]
async fn a_group_may_have_more_members_than_one_commit_holds() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(rig.done(Write, &format!("identity/entity/name/e{n}"), json!({})).await["id"].clone());
    }
    for (members, leaves) in [(&ids[..], 3), (&ids[..], 1), (&ids[40..], 1), (&ids[..40], 3), (&ids[..0], 1)] {
        let body = json!({"policies": ["p"], "member_entity_ids": members});
        let ((status, answer), records) = rig.recorded(rig.root(Write, "identity/group/name/all", body)).await;
        assert_eq!((status, records.len()), (200, leaves), "{answer}");
        let mut expected: Vec<_> = members.iter().map(|id| id.as_str().unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(rig.done(Read, "identity/group/name/all", Value::Null).await["member_entity_ids"], json!(expected));
        let last = rig.done(Read, "identity/entity/name/e99", Value::Null).await;
        assert_eq!(last["group_ids"].as_array().unwrap().is_empty(), !members.contains(&ids[99]));
    }
    // with all its members it goes in one
    rig.done(Write, "identity/group/name/all", json!({"member_entity_ids": ids})).await;
    let ((status, _), records) = rig.recorded(rig.root(Delete, "identity/group/name/all", Value::Null)).await;
    assert_eq!((status, records.len()), (204, 1));
    let last = rig.done(Read, "identity/entity/name/e99", Value::Null).await;
    assert_eq!((&last["group_ids"], &last["direct_group_ids"]), (&json!([]), &json!([])));
    let stranger = json!({"member_entity_ids": [NOBODY]});
    assert_eq!(rig.root(Write, "identity/group/name/all", stranger).await.0, 400);
}

#[tokio::test]
async fn whatever_is_sent_is_answered_and_leaves_a_record() {
    let rig = Rig::new().await;
    let id = rig.done(Write, "identity/entity/name/a", json!({})).await["id"].as_str().unwrap().to_owned();
    let fields = [
        "id",
        "name",
        "metadata",
        "policies",
        "disabled",
        "type",
        "member_entity_ids",
        "member_group_ids",
        "canonical_id",
        "mount_accessor",
        "custom_metadata",
        "entity_ids",
        "from_entity_ids",
        "to_entity_id",
        "conflicting_alias_ids_to_keep",
        "alias_id",
        "alias_name",
        "alias_mount_accessor",
    ];
    let long = "x".repeat(5000);
    let values = [
        json!(7),
        json!(true),
        json!(""),
        json!("a\u{0}b"),
        json!(long),
        json!([]),
        json!([[]]),
        json!([id, 7]),
        json!({"a": {"b": 1}}),
        json!({"a": long}),
        json!(id),
        Value::Null,
    ];
    let (before, mut asked, mut refused) = (rig.records().len(), 0, 0);
    for route in vault::routes::of(vault::mount::Kind::Identity) {
        let path = format!("identity/{}", route.path.replace("{id}", &id).replace("{path}", "a b"));
        for field in fields {
            for value in &values {
                let body = json!({ field: value });
                let (status, answer) = rig.root(Write, &path, body.clone()).await;
                assert!(status < 500 && status != 403, "{path} {body}: {status} {answer}");
                asked += 1;
                refused += usize::from(status >= 400);
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    assert!(rig.records().len() >= before + asked);
}
