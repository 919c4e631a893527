use crate::house::{House, refusal, within_two_seconds};
use identity::token::Meta;
use identity::{
    AliasChange, Capability, EntityChange, EntityId, EntityRef, GroupChange, GroupKind, Identities, IdentityError,
    NewParent, NewToken, PolicyName, Progress, TokenKind, Verdict, decide,
};
use storage::Batch;

/// Commits what is made, with a record of its own.
async fn done<T>(
    house: &House,
    node: &Identities,
    made: Result<(Batch, T), IdentityError>,
) -> Result<T, IdentityError> {
    let (batch, made) = made?;
    let call = house.call();
    if !batch.writes.is_empty() {
        node.commit(batch, &call.record("Test", &audit::Subject::System, audit::Outcome::Done)).await?;
    }
    Ok(made)
}

fn batch(house: &House) -> Batch {
    house.changes().batch().unwrap()
}

/// In as many commits as it takes; how many.
async fn merge_all(
    house: &House,
    node: &Identities,
    (from, to): (&[EntityId], EntityId),
    keep: &[EntityId],
) -> Result<usize, IdentityError> {
    for commits in 1.. {
        let made = node.merge_entities(batch(house), (from, to), keep, house.call().now).await;
        if done(house, node, made).await? == Progress::Done {
            return Ok(commits);
        }
    }
    unreachable!()
}

async fn delete_all(house: &House, node: &Identities, ids: &[EntityId]) -> usize {
    for commits in 1.. {
        let made = node.delete_entities(batch(house), ids, house.call().now).await;
        if done(house, node, made).await.unwrap() == Progress::Done {
            return commits;
        }
    }
    unreachable!()
}

async fn policy(house: &House, node: &Identities, root: &identity::Principal, name: &str) {
    let text = format!(r#"path "{name}" {{ capabilities = ["read"] }}"#);
    node.put_policy(root, &house.call(), &PolicyName::parse(name).unwrap(), &text).await.unwrap();
}

/// As a login does: the entity and the token in one batch.
async fn login(
    house: &House,
    node: &Identities,
    mount: &str,
    name: &str,
    kind: TokenKind,
) -> Result<(Vec<u8>, EntityId), IdentityError> {
    let call = house.call();
    let (batch, entity) = node.entity_for_alias(batch(house), call.now, mount, name).await?;
    let new = NewToken { entity: Some(entity), kind, ..NewToken::new("auth/x/login", NewParent::Orphan) };
    let (batch, created) = node.prepare_token(batch, new, call.now).await?;
    if !batch.writes.is_empty() {
        node.commit(batch, &call.record("Login", &audit::Subject::System, audit::Outcome::Done)).await?;
    }
    Ok((created.token.expose().to_vec(), EntityId(entity)))
}

/// Which of the paths the token may read.
async fn may(house: &House, node: &Identities, token: &[u8], paths: &[&str]) -> String {
    let by = node.authenticate(Some(token), None, &house.call()).await.unwrap();
    let reads = |path: &&&str| matches!(decide(by.acl(), path, Capability::Read).verdict, Verdict::Allow { .. });
    paths.iter().filter(reads).copied().collect::<Vec<_>>().join(",")
}

const PATHS: &[&str] = &["own", "team", "org"];

#[tokio::test]
async fn a_login_finds_its_entity_and_makes_it_the_first_time() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (first, id) = login(&house, &node, "approle_1", "ci", TokenKind::Service).await.unwrap();
    for (mount, name, same) in [("approle_1", "ci", true), ("approle_2", "ci", false), ("approle_1", "CI", false)] {
        let (_, found) = login(&house, &node, mount, name, TokenKind::Service).await.unwrap();
        assert_eq!(found == id, same, "{mount} {name}");
    }
    assert_eq!(house.entries_below("entities").await.len(), 3);
    let entity = node.entity(EntityRef::Alias { mount_accessor: "approle_1", name: "ci" }).await.unwrap();
    assert_eq!((entity.id, entity.aliases.len()), (id, 1));
    // names that users choose stand nowhere as they are
    assert!(
        house.entries_below("entity-index").await.iter().all(|path| !path.contains("ci/") && !path.contains("approle"))
    );
    // its records tell the entity
    let call = house.call();
    node.lookup_token(&node.authenticate(Some(&first), None, &call).await.unwrap(), &call, identity::Target::Own)
        .await
        .unwrap();
    assert_eq!(house.records().last().unwrap()["entity"], id.to_string());
    for name in ["", " ci", "ci ", "c\0i", &"x".repeat(513)] {
        let refused = node.entity_for_alias(batch(&house), house.call().now, "approle_1", name).await.unwrap_err();
        assert_eq!(refused.field(), Some("name"), "{name:?}");
    }
}

#[tokio::test]
async fn two_first_logins_at_once_make_one_entity() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (one, _) = node.entity_for_alias(batch(&house), house.call().now, "m", "a").await.unwrap();
    let (two, _) = node.entity_for_alias(batch(&house), house.call().now, "m", "a").await.unwrap();
    done(&house, &node, Ok((one, ()))).await.unwrap();
    assert!(matches!(done(&house, &node, Ok((two, ()))).await, Err(IdentityError::Conflict)));
    assert_eq!(house.entries_below("entities").await.len(), 1);
}

#[tokio::test]
async fn a_name_is_not_forgotten_beside_its_first_login() {
    let house = House::new();
    let (node, _) = house.open().await;
    for known in [false, true] {
        let name = if known { "known" } else { "new" };
        if known {
            login(&house, &node, "m", name, TokenKind::Service).await.unwrap();
        }
        let forget = async || node.forget_alias(batch(&house), "m", name).await.map(|batch| (batch, ()));
        // what must hold is committed beside a write, as a method deletes its credentials
        let with_write = |made: Result<(Batch, ()), IdentityError>| {
            let path = storage::EntryPath::parse("credentials").unwrap();
            made.map(|(batch, ())| (batch.delete(path), ()))
        };
        let forgotten = with_write(forget().await);
        let (_, entity) = login(&house, &node, "m", name, TokenKind::Service).await.unwrap();
        let outcome = done(&house, &node, forgotten).await;
        assert_eq!(matches!(outcome, Err(IdentityError::Conflict)), !known, "{name}: {outcome:?}");
        done(&house, &node, with_write(forget().await)).await.unwrap();
        let (_, another) = login(&house, &node, "m", name, TokenKind::Service).await.unwrap();
        assert_ne!(another, entity, "{name}");
    }
}

#[tokio::test]
async fn what_entity_and_groups_give_counts_for_tokens_at_once_and_no_longer_than_they_say_so() {
    let house = House::new();
    let (node, root) = house.open().await;
    let there = house.node();
    for name in PATHS {
        policy(&house, &node, &root, name).await;
    }
    for kind in [TokenKind::Service, TokenKind::Stateless] {
        let (token, id) = login(&house, &node, "m", kind.as_str(), kind).await.unwrap();
        let group = async |name: &str, policies: &[&str], entities: &[EntityId], groups: &[EntityId]| {
            let change = GroupChange {
                name: Some(format!("{name}-{}", kind.as_str())),
                policies: Some(policies.iter().map(|name| (*name).to_owned()).collect()),
                member_entities: Some(entities.to_vec()),
                member_groups: Some(groups.to_vec()),
                ..GroupChange::default()
            };
            done(&house, &node, node.put_group(batch(&house), change, house.call().now).await).await.unwrap().id
        };
        let entity = async |policies: &[&str]| {
            let policies = Some(policies.iter().map(|name| (*name).to_owned()).collect());
            let change = EntityChange { id: Some(id), policies, ..EntityChange::default() };
            done(&house, &node, node.put_entity(batch(&house), change, house.call().now).await).await.unwrap();
        };
        let check = async |expected: &str| {
            assert_eq!(may(&house, &node, &token, PATHS).await, expected, "at once where it was changed");
            within_two_seconds(async || may(&house, &there, &token, PATHS).await == expected).await;
        };
        check("").await;
        entity(&["own"]).await;
        check("own").await;
        let team = group("team", &["team"], &[id], &[]).await;
        check("own,team").await;
        let org = group("org", &["org"], &[], &[team]).await;
        check("own,team,org").await;
        group("org", &[], &[], &[team]).await;
        check("own,team").await;
        group("org", &["org"], &[], &[]).await;
        check("own,team").await;
        group("org", &["org"], &[], &[team]).await;
        check("own,team,org").await;
        // a group in itself, at any distance
        let change = GroupChange { id: Some(team), member_groups: Some(vec![org]), ..GroupChange::default() };
        let refused = node.put_group(batch(&house), change, house.call().now).await.unwrap_err();
        assert_eq!(refused.field(), Some("member_group_ids"));
        entity(&[]).await;
        check("team,org").await;
        done(&house, &node, node.delete_group(batch(&house), team).await.map(|batch| (batch, ()))).await.unwrap();
        check("").await;
        assert_eq!(node.groups_above(&node.entity(EntityRef::Id(id)).await.unwrap().groups).await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn an_entity_is_in_so_many_groups_and_no_more_count_that_are_gone() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (token, id) = login(&house, &node, "m", "a", TokenKind::Service).await.unwrap();
    let join = async || {
        let change = GroupChange { member_entities: Some(vec![id]), ..GroupChange::default() };
        done(&house, &node, node.put_group(batch(&house), change, house.call().now).await).await.map(|group| group.id)
    };
    let mut last = None;
    for _ in 0..identity::entity::GROUPS_MAX {
        last = Some(join().await.unwrap());
    }
    assert!(matches!(join().await, Err(IdentityError::LimitExceeded)));
    assert_eq!(refusal(&house, &node, &token).await, None);
    done(&house, &node, node.delete_group(batch(&house), last.unwrap()).await.map(|batch| (batch, ()))).await.unwrap();
    join().await.unwrap();
    assert!(matches!(join().await, Err(IdentityError::LimitExceeded)));
    assert_eq!(refusal(&house, &node, &token).await, None);
}

#[tokio::test]
async fn no_way_leads_to_root_by_an_entity_or_a_group() {
    let house = House::new();
    let (node, _) = house.open().await;
    for name in ["root", "Root", " root", "root ", "ROOT", "ro\u{43e}t"] {
        let policies = Some(vec!["p".to_owned(), name.to_owned()]);
        let entity = EntityChange { policies: policies.clone(), ..EntityChange::default() };
        let refused = node.put_entity(batch(&house), entity, house.call().now).await.unwrap_err();
        assert_eq!(refused.field(), Some("policies"), "{name:?}");
        let group = GroupChange { policies, ..GroupChange::default() };
        let refused = node.put_group(batch(&house), group, house.call().now).await.unwrap_err();
        assert_eq!(refused.field(), Some("policies"), "{name:?}");
    }
}

#[tokio::test]
async fn without_its_entity_a_token_is_nobodys() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (token, id) = login(&house, &node, "m", "a", TokenKind::Service).await.unwrap();
    let disable = async |disabled: bool| {
        let change = EntityChange { id: Some(id), disabled: Some(disabled), ..EntityChange::default() };
        done(&house, &node, node.put_entity(batch(&house), change, house.call().now).await).await.unwrap();
    };
    assert_eq!(refusal(&house, &node, &token).await, None);
    disable(true).await;
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_DISABLED"));
    let late = login(&house, &node, "m", "a", TokenKind::Service).await.unwrap_err();
    assert_eq!(late.cause(), "ENTITY_DISABLED");
    disable(false).await;
    assert_eq!(refusal(&house, &node, &token).await, None);
    delete_all(&house, &node, &[id]).await;
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_GONE"));
    assert!(house.entries_below("entity-index").await.is_empty());
    // the same name is another entity from then on
    let (_, another) = login(&house, &node, "m", "a", TokenKind::Service).await.unwrap();
    assert_ne!(another, id);
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_GONE"));
}

#[tokio::test]
async fn what_was_merged_is_the_other_one() {
    let house = House::new();
    let (node, root) = house.open().await;
    policy(&house, &node, &root, "own").await;
    policy(&house, &node, &root, "team").await;
    let (old_token, old) = login(&house, &node, "m1", "a", TokenKind::Service).await.unwrap();
    let (_, new) = login(&house, &node, "m2", "b", TokenKind::Service).await.unwrap();
    let (_, rival) = login(&house, &node, "m2", "c", TokenKind::Service).await.unwrap();
    let team =
        GroupChange { policies: Some(vec!["team".into()]), member_entities: Some(vec![old]), ..GroupChange::default() };
    let team = done(&house, &node, node.put_group(batch(&house), team, house.call().now).await).await.unwrap();
    let own = EntityChange { id: Some(new), policies: Some(vec!["own".into()]), ..EntityChange::default() };
    done(&house, &node, node.put_entity(batch(&house), own, house.call().now).await).await.unwrap();
    let merge =
        async |from: EntityId, to: EntityId, keep: &[EntityId]| merge_all(&house, &node, (&[from], to), keep).await;
    merge(old, new, &[]).await.unwrap();
    assert_eq!(may(&house, &node, &old_token, PATHS).await, "own,team");
    let by = node.authenticate(Some(&old_token), None, &house.call()).await.unwrap();
    assert_eq!(by.entity(), Some(new));
    let entity = node.entity(EntityRef::Id(old)).await.unwrap();
    assert_eq!((entity.id, entity.aliases.len(), entity.merged.clone()), (new, 2, vec![old]));
    assert_eq!(node.group(EntityRef::Id(team.id)).await.unwrap().member_entities, [new].into());
    // one alias a mount: which, must be said
    assert_eq!(merge(rival, new, &[]).await.unwrap_err().field(), Some("from_entity_ids"));
    let kept = node.entity(EntityRef::Id(rival)).await.unwrap().aliases[0].id;
    merge(rival, new, &[kept]).await.unwrap();
    let names: Vec<_> =
        node.entity(EntityRef::Id(new)).await.unwrap().aliases.into_iter().map(|alias| alias.name).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(merge(new, new, &[]).await.unwrap_err().field(), Some("from_entity_ids"));
    assert_eq!(merge(new, EntityId([1; 16]), &[]).await.unwrap_err().field(), Some("to_entity_id"));
    delete_all(&house, &node, &[new]).await;
    assert_eq!(refusal(&house, &node, &old_token).await, Some("ENTITY_GONE"));
    assert!(house.entries_below("entities").await.is_empty());
}

#[tokio::test]
async fn whatever_an_entity_has_it_can_be_merged_and_deleted() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (aliases, groups) = (identity::entity::ALIASES_MAX, identity::entity::GROUPS_MAX);
    let (token, old) = login(&house, &node, "m0", "a", TokenKind::Service).await.unwrap();
    for n in 1..aliases {
        alias(&house, &node, old, &format!("m{n}"), "a").await;
    }
    let mut all = Vec::new();
    for _ in 0..groups {
        all.push(group_of(&house, &node, &[old]).await);
    }
    let new = done(&house, &node, node.put_entity(batch(&house), EntityChange::default(), house.call().now).await);
    let new = new.await.unwrap().id;
    assert!(merge_all(&house, &node, (&[old], new), &[]).await.unwrap() > 1);
    let entity = node.entity(EntityRef::Id(old)).await.unwrap();
    assert_eq!((entity.id, entity.aliases.len(), entity.groups.len()), (new, aliases, groups));
    assert_eq!(entity.merged, [old]);
    for group in &all {
        assert_eq!(node.group(EntityRef::Id(*group)).await.unwrap().member_entities, [new].into());
    }
    assert_eq!(login(&house, &node, "m7", "a", TokenKind::Service).await.unwrap().1, new);
    assert_eq!(refusal(&house, &node, &token).await, None);
    // its tokens are nobody's from the first commit on
    let first = node.delete_entities(batch(&house), &[old], house.call().now).await;
    assert_eq!(done(&house, &node, first).await.unwrap(), Progress::GoesOn);
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_DISABLED"));
    assert!(delete_all(&house, &node, &[old]).await > 1);
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_GONE"));
    for group in &all {
        assert!(node.group(EntityRef::Id(*group)).await.unwrap().member_entities.is_empty());
    }
    assert!(house.entries_below("entities").await.is_empty());
    assert_eq!(house.entries_below("entity-index").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_merge_beyond_the_limits_is_refused_before_it_begins() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (_, to) = login(&house, &node, "m", "to", TokenKind::Service).await.unwrap();
    for n in 2..identity::entity::ALIASES_MAX {
        alias(&house, &node, to, &format!("m{n}"), "to").await;
    }
    for _ in 1..identity::entity::GROUPS_MAX {
        group_of(&house, &node, &[to]).await;
    }
    let (_, one) = login(&house, &node, "one", "a", TokenKind::Service).await.unwrap();
    let (_, two) = login(&house, &node, "two", "a", TokenKind::Service).await.unwrap();
    let (_, rival) = login(&house, &node, "m", "rival", TokenKind::Service).await.unwrap();
    let grouped = done(&house, &node, node.put_entity(batch(&house), EntityChange::default(), house.call().now).await);
    let grouped = grouped.await.unwrap().id;
    let inner = group_of(&house, &node, &[grouped]).await;
    // what is above a group counts, too
    let outer = GroupChange { member_groups: Some(vec![inner]), ..GroupChange::default() };
    done(&house, &node, node.put_group(batch(&house), outer, house.call().now).await).await.unwrap();
    let before = house.records().len();
    for (from, reason) in [
        (&[one, two][..], "LIMIT_EXCEEDED"),
        (&[grouped], "LIMIT_EXCEEDED"),
        (&[one, rival], "INVALID_FIELD"),
        (&[one, to], "INVALID_FIELD"),
    ] {
        let refused = merge_all(&house, &node, (from, to), &[]).await.unwrap_err();
        assert_eq!(refused.reason(), reason, "{from:?}");
    }
    assert_eq!(house.records().len(), before, "nothing was committed");
    merge_all(&house, &node, (&[one], to), &[]).await.unwrap();
}

#[tokio::test]
async fn an_entity_is_one_step_from_whom_it_was_merged_into_and_goes_with_it() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (token, first) = login(&house, &node, "m0", "a", TokenKind::Service).await.unwrap();
    let mut last = first;
    for n in 1..20 {
        let (_, next) = login(&house, &node, &format!("m{n}"), "a", TokenKind::Service).await.unwrap();
        merge_all(&house, &node, (&[last], next), &[]).await.unwrap();
        last = next;
        assert_eq!(refusal(&house, &node, &token).await, None, "{n}");
    }
    assert_eq!(node.entity(EntityRef::Id(first)).await.unwrap().id, last);
    delete_all(&house, &node, &[last]).await;
    assert_eq!(refusal(&house, &node, &token).await, Some("ENTITY_GONE"));
    assert!(house.entries_below("entities").await.is_empty());
}

#[tokio::test]
async fn a_group_of_too_many_is_refused_before_any_is_looked_for_and_its_members_are_taken_as_they_are() {
    let house = House::new();
    let (node, _) = house.open().await;
    let put = async |members: Vec<EntityId>| {
        let change = GroupChange { name: Some("g".into()), member_entities: Some(members), ..GroupChange::default() };
        done(&house, &node, node.put_group(batch(&house), change, house.call().now).await).await
    };
    let nobody = |n: usize| EntityId((n as u128).to_be_bytes());
    let (_, one) = login(&house, &node, "m", "a", TokenKind::Service).await.unwrap();
    let most = identity::entity::MEMBERS_MAX;
    for (members, reason) in [
        ((1..=most + 1).map(nobody).collect(), Some("LIMIT_EXCEEDED")),
        (vec![nobody(1)], Some("INVALID_FIELD")),
        (vec![one; most + 1], None),
        (vec![one, nobody(1)], Some("INVALID_FIELD")),
    ] {
        let (count, outcome) = (members.len(), put(members).await);
        assert_eq!(outcome.err().map(|error| error.reason()), reason, "{count}");
    }
    assert_eq!(node.group(EntityRef::Name("g")).await.unwrap().member_entities, [one].into());
}

async fn alias(house: &House, node: &Identities, of: EntityId, mount: &str, name: &str) {
    let (name, mount_accessor) = (Some(name.to_owned()), Some(mount.to_owned()));
    let change = AliasChange { name, mount_accessor, of: Some(of), ..AliasChange::default() };
    let made = node.put_entity_alias(batch(house), change, house.call().now).await;
    done(house, node, made.map(|(batch, ..)| (batch, ()))).await.unwrap();
}

async fn group_of(house: &House, node: &Identities, members: &[EntityId]) -> EntityId {
    let change = GroupChange { member_entities: Some(members.to_vec()), ..GroupChange::default() };
    done(house, node, node.put_group(batch(house), change, house.call().now).await).await.unwrap().id
}

#[tokio::test]
async fn an_alias_is_of_one_entity_and_a_name_of_one() {
    let house = House::new();
    let (node, _) = house.open().await;
    let (_, a) = login(&house, &node, "m1", "a", TokenKind::Service).await.unwrap();
    let (_, b) = login(&house, &node, "m2", "b", TokenKind::Service).await.unwrap();
    let put = async |change: AliasChange| {
        done(
            &house,
            &node,
            node.put_entity_alias(batch(&house), change, house.call().now)
                .await
                .map(|(batch, alias, of)| (batch, (alias.id, of))),
        )
        .await
    };
    let new = |name: &str, mount: &str, of: EntityId| AliasChange {
        name: Some(name.into()),
        mount_accessor: Some(mount.into()),
        of: Some(of),
        ..AliasChange::default()
    };
    let (id, of) = put(new("b", "m1", b)).await.unwrap();
    assert_eq!(of, b);
    for (change, field) in [
        // the entity has another one there
        (new("c", "m1", a), "mount_accessor"),
        (new("c", "m1", EntityId([1; 16])), "canonical_id"),
        (AliasChange { id: Some(id), name: Some("a".into()), ..AliasChange::default() }, "name"),
        (AliasChange { name: Some("x".into()), ..AliasChange::default() }, "mount_accessor"),
    ] {
        assert_eq!(put(change.clone()).await.unwrap_err().field(), Some(field), "{change:?}");
    }
    // the same name on the same mount is the same alias
    assert_eq!(put(AliasChange { custom_metadata: Some(Meta::new()), ..new("b", "m1", b) }).await.unwrap().0, id);
    assert_eq!(
        put(AliasChange { id: Some(id), name: Some("c".into()), ..AliasChange::default() }).await.unwrap(),
        (id, b)
    );
    assert_eq!(login(&house, &node, "m1", "c", TokenKind::Service).await.unwrap().1, b);
    let name =
        |id: EntityId, name: &str| EntityChange { id: Some(id), name: Some(name.into()), ..EntityChange::default() };
    done(&house, &node, node.put_entity(batch(&house), name(a, "alice"), house.call().now).await).await.unwrap();
    let refused = node.put_entity(batch(&house), name(b, "alice"), house.call().now).await.unwrap_err();
    assert_eq!(refused.field(), Some("name"));
    done(&house, &node, node.delete_entity_alias(batch(&house), id).await.map(|batch| (batch, ()))).await.unwrap();
    assert!(matches!(node.entity_alias(id).await, Err(IdentityError::EntityNotFound)));
    // a group's alias is an external group's
    let group = async |kind: GroupKind| {
        let change = GroupChange { kind: Some(kind), ..GroupChange::default() };
        done(&house, &node, node.put_group(batch(&house), change, house.call().now).await).await.unwrap().id
    };
    for (kind, field) in [(GroupKind::Internal, Some("canonical_id")), (GroupKind::External, None)] {
        let made = node.put_group_alias(batch(&house), new("g", "m1", group(kind).await), house.call().now).await;
        assert_eq!(made.err().and_then(|error| error.field()), field, "{kind:?}");
    }
}

#[tokio::test]
async fn a_template_is_filled_with_what_is_known_of_the_entity_and_follows_it() {
    let house = House::new();
    let (node, root) = house.open().await;
    let there = house.node();
    let team = GroupChange { name: Some("team".into()), ..GroupChange::default() };
    let team = done(&house, &node, node.put_group(batch(&house), team, house.call().now).await).await.unwrap().id;
    let text = format!(
        r#"path "id/{{{{identity.entity.id}}}}" {{ policy = "read" }}
           path "name/{{{{identity.entity.name}}}}" {{ policy = "read" }}
           path "meta/{{{{identity.entity.metadata.env}}}}" {{ policy = "read" }}
           path "alias/{{{{identity.entity.aliases.m.name}}}}" {{ policy = "read" }}
           path "group/{{{{identity.groups.ids.{team}.name}}}}" {{ policy = "read" }}
           path "group-id/{{{{identity.groups.names.team.id}}}}" {{ policy = "read" }}
           path "plain" {{ policy = "read" }}"#
    );
    node.put_policy(&root, &house.call(), &PolicyName::parse("t").unwrap(), &text).await.unwrap();
    let (alice, id) = login(&house, &node, "m", "alice-1", TokenKind::Service).await.unwrap();
    let (bob, other) = login(&house, &node, "m", "bob-1", TokenKind::Service).await.unwrap();
    let nobody = node.create_token(&root, &house.call(), crate::house::token(&["t"], 600)).await.unwrap();
    let entity = async |id: EntityId, name: &str, env: Option<&str>| {
        let metadata = env.map(|env| [("env".to_owned(), env.to_owned())].into()).unwrap_or_default();
        let policies = Some(vec!["t".to_owned()]);
        let name = Some(name.to_owned());
        let change = EntityChange { id: Some(id), name, metadata: Some(metadata), policies, disabled: None };
        done(&house, &node, node.put_entity(batch(&house), change, house.call().now).await).await.unwrap();
    };
    let members = async |entities: &[EntityId]| {
        let change = GroupChange { id: Some(team), member_entities: Some(entities.to_vec()), ..GroupChange::default() };
        done(&house, &node, node.put_group(batch(&house), change, house.call().now).await).await.unwrap();
    };
    let (by_id, group_id) = (format!("id/{id}"), format!("group-id/{team}"));
    let paths = [&*by_id, "name/alice", "meta/dev", "meta/prod", "alias/alice-1", "group/team", &group_id, "plain"];
    let check = async |token: &[u8], expected: &[&str]| {
        let expected = expected.join(",");
        assert_eq!(may(&house, &node, token, &paths).await, expected, "at once where it was changed");
        within_two_seconds(async || may(&house, &there, token, &paths).await == expected).await;
    };
    entity(id, "alice", None).await;
    entity(other, "bob", Some("prod")).await;
    check(&alice, &[&by_id, "name/alice", "alias/alice-1", "plain"]).await;
    check(&bob, &["meta/prod", "plain"]).await;
    check(nobody.token.expose(), &["plain"]).await;
    entity(id, "alice", Some("dev")).await;
    members(&[id]).await;
    check(&alice, &[&by_id, "name/alice", "meta/dev", "alias/alice-1", "group/team", &group_id, "plain"]).await;
    check(&bob, &["meta/prod", "plain"]).await;
    // who names themselves like a wildcard is let in nowhere
    for name in ["*", "+", "a/../alice", "alice/*"] {
        entity(other, name, Some(name)).await;
        check(&bob, &["plain"]).await;
    }
    entity(id, "carol", Some("prod")).await;
    members(&[other]).await;
    check(&alice, &[&by_id, "meta/prod", "alias/alice-1", "plain"]).await;
    check(nobody.token.expose(), &["plain"]).await;
}
