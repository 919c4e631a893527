use crate::house::{House, ROOT, START, child, policies, refusal, token, within_two_seconds};
use envelope::{SecretBytes, Timestamp};
use identity::token::{Parent, TTL_MAX};
use identity::{
    Accessor, CreateToken, DefaultPolicy, IdentityError, LEASES_A_BATCH, Principal, RoleName, Target, Through,
    TokenKind, TokenRole,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use storage::Keyring;

#[tokio::test]
async fn the_root_token_is_made_once_and_allows_everything() {
    let house = House::new();
    let (node, root) = house.open().await;
    let again = node.create_root(ROOT, &house.call()).await.unwrap();
    assert_eq!(root.id(), format!("token/{}", again.accessor.as_str()));
    assert_eq!((again.expires, again.uses_left, again.parent.clone()), (None, None, Parent::Orphan));
    assert!(root.is_root());
    assert_eq!(house.entries_below("tokens").await.len(), 1);
    assert_eq!(house.last(9), ["CreateRootToken system auth/token/create allowed  done"]);
    for malformed in [&b"short"[..], b"with a space in between", b""] {
        assert_eq!(node.create_root(malformed, &house.call()).await.unwrap_err().field(), Some("token"));
    }
}

#[tokio::test]
async fn a_token_never_stands_in_store_or_log() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (secret, holder) = child(&house, &node, &root, token(&["p"], 60)).await;
    node.lookup_token(&holder, &house.call(), Target::Own).await.unwrap();
    node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
    let text = std::str::from_utf8(secret.expose()).unwrap();
    for where_ in [house.lines().concat(), house.entries_below("tokens").await.concat(), format!("{holder:?}")] {
        assert!(!where_.contains(text) && !where_.contains("root-token"), "{where_}");
    }
    assert!(house.lines().concat().contains(holder.id().strip_prefix("token/").unwrap()));
}

#[tokio::test]
async fn what_nobody_is_recognised_by_is_told_apart_in_the_log_only() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (short_lived, _) = child(&house, &node, &root, token(&["p"], 1)).await;
    let (revoked, holder) = child(&house, &node, &root, token(&["p"], 60)).await;
    node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
    house.clock.advance(Duration::from_secs(1));
    for (token, cause) in [
        (&b""[..], "TOKEN_MALFORMED"),
        (b"short", "TOKEN_MALFORMED"),
        (b"nobody-ever-made-this", "TOKEN_UNKNOWN"),
        (b"root-token-of-the-test", "TOKEN_UNKNOWN"),
        (b"ROOT-token-of-the-tests", "TOKEN_UNKNOWN"),
        (short_lived.expose(), "TOKEN_EXPIRED"),
        (revoked.expose(), "TOKEN_UNKNOWN"),
    ] {
        assert_eq!(refusal(&house, &node, token).await, Some(cause), "{token:?}");
    }
    let nothing = node.authenticate(None, None, &house.call()).await.unwrap_err();
    assert_eq!((nothing.reason(), nothing.cause()), ("UNAUTHENTICATED", "NO_CREDENTIALS"));
}

/// Two nodes, two caches, one store. What descends from a revoked token is dead with it.
#[tokio::test]
async fn revoking_kills_descendants_at_once_and_elsewhere_within_two_seconds() {
    let house = House::new();
    let (here, root) = house.open().await;
    let there = house.node();
    let (parent_secret, parent) = child(&house, &here, &root, token(&["p"], 600)).await;
    // whoever makes a token needs the right: sudo on the path comes with root only
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    here.put_policy(&root, &house.call(), &policies(&["p"])[0], policy).await.unwrap();
    let parent = here.authenticate(Some(parent_secret.expose()), None, &house.call()).await.unwrap_or(parent);
    let (middle_secret, middle) = child(&house, &here, &parent, token(&[], 300)).await;
    let (leaf_secret, leaf) = child(&house, &here, &middle, token(&[], 300)).await;
    let (sibling_secret, _) = child(&house, &here, &root, token(&["p"], 600)).await;
    assert_eq!(leaf.policies(), policies(&["p"]));
    let all = [&parent_secret, &middle_secret, &leaf_secret, &sibling_secret];
    for node in [&here, &there] {
        for secret in all {
            assert_eq!(refusal(&house, node, secret.expose()).await, None);
        }
    }

    let accessor = Accessor::parse(parent.id().strip_prefix("token/").unwrap()).unwrap();
    here.revoke_token(&root, &house.call(), Target::Accessor(&accessor)).await.unwrap();
    for (secret, cause) in
        [(&parent_secret, "TOKEN_UNKNOWN"), (&middle_secret, "ANCESTOR_GONE"), (&leaf_secret, "ANCESTOR_GONE")]
    {
        assert_eq!(refusal(&house, &here, secret.expose()).await, Some(cause), "at once where it was revoked");
        within_two_seconds(async || refusal(&house, &there, secret.expose()).await == Some(cause)).await;
    }
    assert_eq!(refusal(&house, &here, sibling_secret.expose()).await, None);
    assert_eq!(refusal(&house, &there, sibling_secret.expose()).await, None);
    // a holder from before makes nothing any more
    let refused = here.create_token(&leaf, &house.call(), token(&[], 0)).await.unwrap_err();
    assert_eq!(refused.cause(), "ANCESTOR_GONE");
    let unknown = here.lookup_token(&root, &house.call(), Target::Accessor(&accessor)).await.unwrap_err();
    assert_eq!(unknown.reason(), "TOKEN_NOT_FOUND");

    // revoking swept one token only; the others are swept up when due
    assert_eq!(house.entries_below("tokens").await.len(), 4);
    house.clock.advance(Duration::from_millis(1));
    let now = house.call().now;
    while here.sweep(now).await.unwrap() > 0 {}
    assert_eq!(house.entries_below("tokens").await.len(), 2, "root and the sibling");
    assert_eq!(house.entries_below("children").await.len(), 1);
    assert_eq!(house.entries_below("accessors").await.len(), 2);
    assert_eq!(house.entries_below("due").await.len(), 1);
    assert_eq!(refusal(&house, &here, sibling_secret.expose()).await, None);
}

#[tokio::test]
async fn a_token_is_over_at_its_end_and_not_before() {
    let house = House::new();
    let (node, root) = house.open().await;
    let other = house.node();
    let (secret, holder) = child(&house, &node, &root, token(&["p"], 10)).await;
    assert_eq!(holder.expires(), Some(Timestamp::from_unix_millis(START + 10_000)));
    for (millis, cause) in [(0, None), (9_999, None), (10_000, Some("TOKEN_EXPIRED")), (10_001, Some("TOKEN_EXPIRED"))]
    {
        house.clock.set(Timestamp::from_unix_millis(START + millis));
        for node in [&node, &other] {
            assert_eq!(refusal(&house, node, secret.expose()).await, cause, "after {millis} ms");
        }
    }
}

#[tokio::test]
async fn a_token_lives_no_longer_than_its_parent() {
    let house = House::new();
    let (node, root) = house.open().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], policy).await.unwrap();
    let (_, parent) = child(&house, &node, &root, token(&["p"], 100)).await;
    house.clock.advance(Duration::from_secs(40));
    for (ttl_secs, lives_secs) in [(0, Some(60)), (1, Some(1)), (60, Some(60)), (61, None), (u64::MAX, None)] {
        let made = node.create_token(&parent, &house.call(), token(&[], ttl_secs)).await;
        let expires = made.as_ref().ok().map(|made| made.metadata.expires);
        let expected = lives_secs.map(|secs| Some(house.call().now.plus(Duration::from_secs(secs))));
        assert_eq!(expires, expected, "{ttl_secs}");
        assert_eq!(
            made.err().and_then(|error| error.field()),
            lives_secs.is_none().then_some("ttl_secs"),
            "{ttl_secs}"
        );
    }
    let (_, longest) = child(&house, &node, &root, token(&["p"], TTL_MAX.as_secs())).await;
    assert_eq!(longest.expires(), Some(house.call().now.plus(TTL_MAX)));
    let beyond = node.create_token(&root, &house.call(), token(&["p"], TTL_MAX.as_secs() + 1)).await.unwrap_err();
    assert_eq!(beyond.field(), Some("ttl_secs"));
}

/// CVE-2025-5999 and kin: no way to a token that may do more than whoever made it.
#[tokio::test]
async fn nobody_gives_what_is_not_theirs() {
    let house = House::new();
    let (node, root) = house.open().await;
    let create = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    let sudo = r#"path "auth/token/create" { capabilities = ["update", "sudo"] }"#;
    for (name, text) in [("create", create), ("sudo", sudo), ("p", "")] {
        node.put_policy(&root, &house.call(), &policies(&[name])[0], text).await.unwrap();
    }
    let (_, plain) = child(&house, &node, &root, token(&["create", "p"], 600)).await;
    let (_, strong) = child(&house, &node, &root, token(&["sudo"], 600)).await;
    let (_, weak) = child(&house, &node, &root, token(&["p"], 600)).await;
    for (by, asked, outcome) in [
        (&plain, &["p"][..], Ok(&["p"][..])),
        (&plain, &["p", "create"], Ok(&["create", "p"])),
        (&plain, &[], Ok(&["create", "p"])),
        (&plain, &["sudo"], Err("PERMISSION_DENIED")),
        (&plain, &["default"], Err("PERMISSION_DENIED")),
        (&plain, &["p", "nowhere"], Err("PERMISSION_DENIED")),
        (&plain, &["root"], Err("INVALID_FIELD")),
        (&strong, &["p"], Ok(&["p"])),
        (&strong, &["root"], Err("INVALID_FIELD")),
        (&weak, &["p"], Err("PERMISSION_DENIED")),
        (&root, &["nowhere"], Ok(&["nowhere"])),
        (&root, &["root"], Ok(&["root"])),
        (&root, &[], Ok(&["root"])),
    ] {
        let made = node.create_token(by, &house.call(), token(asked, 0)).await;
        let found = made.as_ref().map(|made| made.metadata.policies.to_vec()).map_err(IdentityError::reason);
        assert_eq!(found, outcome.map(policies), "{} asks for {asked:?}", by.id());
    }
    let refused = node.create_token(&plain, &house.call(), token(&["sudo"], 0)).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED");
    assert_eq!(
        house.last(5),
        [
            "CreateToken token auth/token/create denied  {\"failed\":\"PERMISSION_DENIED\"}",
            "CreateToken token auth/token/create allowed root done",
            "CreateToken token auth/token/create allowed root done",
            "CreateToken token auth/token/create allowed root done",
            // the rule that allowed the path did not refuse the policies
            "CreateToken token auth/token/create denied  {\"failed\":\"PERMISSION_DENIED\"}",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_use_a_token_as_often_as_it_may_be_used() {
    for (house, uses) in [(House::new(), 1), (House::new(), 40), (House::on_disk(), 7), (House::on_disk(), 40)] {
        let house = Arc::new(house);
        let (node, root) = house.open().await;
        let other = house.node();
        let command = CreateToken { num_uses: NonZeroU32::new(uses), ..token(&["p"], 600) };
        let made = node.create_token(&root, &house.call(), command).await.unwrap();
        assert_eq!(made.metadata.uses_left, Some(uses));
        let secret = Arc::new(made.token);
        let mut tries = tokio::task::JoinSet::new();
        for i in 0..64 {
            let node = if i % 2 == 0 { node.clone() } else { other.clone() };
            let (house, secret) = (Arc::clone(&house), Arc::clone(&secret));
            tries.spawn(async move {
                let holder = node.authenticate(Some(secret.expose()), None, &house.call()).await;
                match holder {
                    Ok(holder) => {
                        Some(node.lookup_token(&holder, &house.call(), Target::Own).await.unwrap().uses_left.unwrap())
                    }
                    Err(error) => {
                        assert_eq!(error.cause(), "TOKEN_USED_UP");
                        None
                    }
                }
            });
        }
        let mut left: Vec<u32> = tries.join_all().await.into_iter().flatten().collect();
        left.sort_unstable();
        assert_eq!(left, (0..uses).collect::<Vec<_>>(), "each use counts once");
        let counted = house.records().iter().filter(|record| record["operation"] == "UseToken").count();
        assert_eq!(counted, usize::try_from(uses).unwrap());
        let gone =
            node.lookup_token(&root, &house.call(), Target::Accessor(&made.metadata.accessor)).await.unwrap_err();
        assert_eq!(gone.reason(), "TOKEN_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_token_of_counted_uses_makes_no_others_and_may_end_itself() {
    let house = House::new();
    let (node, root) = house.open().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], policy).await.unwrap();
    let command = CreateToken { num_uses: NonZeroU32::new(1), ..token(&["p"], 600) };
    let (_, holder) = child(&house, &node, &root, command).await;
    let refused = node.create_token(&holder, &house.call(), token(&[], 0)).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED");
    node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
    assert!(house.entries_below("uses").await.is_empty());
}

#[tokio::test]
async fn another_generation_voids_every_token() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (secret, _) = child(&house, &node, &root, token(&["p"], 600)).await;
    let next = house.node_of(2, crate::house::TENANT);
    for token in [ROOT, secret.expose()] {
        assert_eq!(refusal(&house, &node, token).await, None);
        assert_eq!(refusal(&house, &next, token).await, Some("OTHER_GENERATION"));
    }
    // the root token of the new generation may be the same
    next.create_root(ROOT, &house.call()).await.unwrap();
    assert_eq!(refusal(&house, &next, ROOT).await, None);
    assert_eq!(refusal(&house, &next, secret.expose()).await, Some("OTHER_GENERATION"));
}

#[tokio::test]
async fn another_tenants_token_is_unknown() {
    let house = House::new();
    let (node, root) = house.open().await;
    let elsewhere = house.node_of(1, [8; 16]);
    elsewhere.create_root(b"the-other-tenants-root", &house.call()).await.unwrap();
    let stranger = elsewhere.authenticate(Some(b"the-other-tenants-root"), None, &house.call()).await.unwrap();
    assert_eq!(refusal(&house, &elsewhere, ROOT).await, Some("TOKEN_UNKNOWN"));
    let accessor = Accessor::parse(root.id().strip_prefix("token/").unwrap()).unwrap();
    for error in [
        elsewhere.lookup_token(&stranger, &house.call(), Target::Accessor(&accessor)).await.map(|_| ()).unwrap_err(),
        elsewhere.revoke_token(&stranger, &house.call(), Target::Accessor(&accessor)).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "TOKEN_NOT_FOUND");
    }
    assert_eq!(refusal(&house, &node, ROOT).await, None);
}

#[tokio::test]
async fn a_chain_has_sixteen_ancestors_at_most() {
    let house = House::new();
    let (node, root) = house.open().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], policy).await.unwrap();
    let mut holder = root;
    for depth in 1..=16 {
        let parent = holder.id().to_owned();
        (_, holder) = child(&house, &node, &holder, token(if depth == 1 { &["p"] } else { &[] }, 600)).await;
        let metadata = node.lookup_token(&holder, &house.call(), Target::Own).await.unwrap();
        assert_eq!(format!("token/{}", metadata.parent.text()), parent, "{depth}");
    }
    let refused = node.create_token(&holder, &house.call(), token(&[], 0)).await.unwrap_err();
    assert_eq!(refused.reason(), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn looking_up_and_revoking_others_takes_a_right_and_oneself_none() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (secret, holder) = child(&house, &node, &root, token(&["nothing"], 600)).await;
    let root_accessor = Accessor::parse(root.id().strip_prefix("token/").unwrap()).unwrap();
    let own = node.lookup_token(&holder, &house.call(), Target::Own).await.unwrap();
    assert_eq!(own.parent, Parent::Token(root_accessor.clone()));
    assert_eq!(node.lookup_token(&root, &house.call(), Target::Accessor(&own.accessor)).await.unwrap(), own);
    for accessor in [&root_accessor, &own.accessor, &Accessor::parse(&"0".repeat(32)).unwrap()] {
        for error in [
            node.lookup_token(&holder, &house.call(), Target::Accessor(accessor)).await.map(|_| ()).unwrap_err(),
            node.revoke_token(&holder, &house.call(), Target::Accessor(accessor)).await.unwrap_err(),
        ] {
            assert_eq!(error.reason(), "PERMISSION_DENIED", "whether it exists or not");
        }
    }
    node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
    assert_eq!(refusal(&house, &node, secret.expose()).await, Some("TOKEN_UNKNOWN"));
    // who was let in before hears that it is over, once it asks for a change
    let again = node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap_err();
    assert_eq!(again.reason(), "TOKEN_NOT_FOUND");
    assert_eq!(
        house.last(4),
        [
            "LookupToken token auth/token/lookup-accessor denied  {\"failed\":\"PERMISSION_DENIED\"}",
            "RevokeToken token auth/token/revoke-accessor denied  {\"failed\":\"PERMISSION_DENIED\"}",
            "RevokeToken token auth/token/revoke-self allowed  done",
            "RevokeToken token auth/token/revoke-self allowed  {\"failed\":\"TOKEN_NOT_FOUND\"}",
        ]
    );
}

#[tokio::test]
async fn sweeping_takes_what_is_over_page_by_page_and_nothing_else() {
    let house = House::new();
    let (node, root) = house.open().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], policy).await.unwrap();
    let (_, parent) = child(&house, &node, &root, token(&["p"], 1000)).await;
    for _ in 0..40 {
        node.create_token(&parent, &house.call(), token(&[], 1000)).await.unwrap();
    }
    for _ in 0..70 {
        node.create_token(&root, &house.call(), token(&["p"], 10)).await.unwrap();
    }
    let counted = CreateToken { num_uses: NonZeroU32::new(2), ..token(&["p"], 10) };
    node.create_token(&root, &house.call(), counted).await.unwrap();
    assert_eq!(node.sweep(house.call().now).await.unwrap(), 0, "nothing is due");
    house.clock.advance(Duration::from_secs(10));
    let mut pages = Vec::new();
    while let due @ 1.. = node.sweep(house.call().now).await.unwrap() {
        pages.push(due);
    }
    assert_eq!(pages, [64, 7]);
    assert_eq!(house.entries_below("tokens").await.len(), 42);
    node.revoke_token(&parent, &house.call(), Target::Own).await.unwrap();
    house.clock.advance(Duration::from_millis(1));
    while node.sweep(house.call().now).await.unwrap() > 0 {
        house.clock.advance(Duration::from_millis(1));
    }
    for (folder, left) in [("tokens", 1), ("accessors", 1), ("children", 0), ("due", 0), ("uses", 0)] {
        assert_eq!(house.entries_below(folder).await.len(), left, "{folder}");
    }
    assert_eq!(refusal(&house, &node, ROOT).await, None);
}

#[tokio::test]
async fn one_record_that_was_altered_keeps_no_other_from_being_swept() {
    let house = House::new();
    let (node, root) = house.open().await;
    for _ in 0..3 {
        node.create_token(&root, &house.call(), token(&["p"], 10)).await.unwrap();
    }
    let due = house.entries_below("due").await;
    let altered = storage::EntryPath::parse(&due[0]).unwrap();
    let digest = altered.segments().last().unwrap();
    let altered = storage::EntryPath::parse(&format!("{}/identity/tokens/{digest}", "07".repeat(16))).unwrap();
    let batch = storage::Batch::new(storage::CommitId([9; 16])).put(altered.clone(), &b"anything"[..]);
    house.store.commit(batch).await.unwrap();
    house.clock.advance(Duration::from_secs(10));
    assert_eq!(node.sweep(house.call().now).await.unwrap_err().reason(), "DATA_ALTERED");
    assert_eq!(house.entries_below("due").await.len(), 1);
    assert_eq!(house.entries_below("tokens").await.len(), 2, "root and what was altered");
}

/// Each start is another process on the same folder: what was revoked stays so, what is counted stays counted.
#[test]
fn what_was_made_and_revoked_is_so_after_a_restart() {
    let keyring = Keyring::generate().unwrap();
    let again = || Keyring::decode(&keyring.encode()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let clock = envelope::ManualClock::at(Timestamp::from_unix_millis(START));
    let on_disk = |house: Option<House>| match house {
        None => House::open_disk(clock.clone(), tempfile::tempdir_in(dir.path()).unwrap(), again()),
        Some(house) => house.restart(again()),
    };
    let run = |work: std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    };
    let mut secrets = Vec::new();
    let mut house = on_disk(None);
    run(Box::pin(async {
        let (node, root) = house.open().await;
        let counted = CreateToken { num_uses: NonZeroU32::new(2), ..token(&["p"], 600) };
        let (gone, holder) = child(&house, &node, &root, token(&["p"], 600)).await;
        node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
        let (counted, _) = child(&house, &node, &root, counted).await;
        let (kept, _) = child(&house, &node, &root, token(&["p"], 600)).await;
        secrets.extend([gone, counted, kept]);
    }));
    for causes in [["TOKEN_UNKNOWN", "", ""], ["TOKEN_UNKNOWN", "TOKEN_USED_UP", ""]] {
        house = on_disk(Some(house));
        run(Box::pin(async {
            house.changes().replay().await.unwrap();
            let node = house.node();
            for (secret, cause) in secrets.iter().zip(causes) {
                assert_eq!(refusal(&house, &node, secret.expose()).await.unwrap_or_default(), cause);
            }
            assert_eq!(refusal(&house, &node, ROOT).await, None);
        }));
    }
}

#[tokio::test]
async fn root_makes_root_and_nobody_else_does_whatever_they_hold() {
    let house = House::new();
    let (node, root) = house.open().await;
    let sudo = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["all"])[0], sudo).await.unwrap();
    node.put_token_role(&root, &house.call(), &TokenRole::new(RoleName::parse("r").unwrap())).await.unwrap();
    let (_, mighty) = child(&house, &node, &root, token(&["all"], 600)).await;
    let role = || Through::Role(RoleName::parse("r").unwrap());
    for (by, names, through, kind, outcome) in [
        (&root, &[][..], Through::Create, None, Ok(&["root"][..])),
        (&root, &["root", "all"], Through::Create, None, Ok(&["root"])),
        (&root, &["root"], Through::CreateOrphan, None, Ok(&["root"])),
        (&root, &["all"], Through::Create, None, Ok(&["all", "default"])),
        (&root, &[], Through::Create, Some(TokenKind::Stateless), Err("INVALID_FIELD")),
        (&root, &["root"], role(), None, Err("INVALID_FIELD")),
        (&root, &[], role(), None, Err("INVALID_FIELD")),
        (&mighty, &["root"], Through::Create, None, Err("INVALID_FIELD")),
        (&mighty, &["root"], Through::CreateOrphan, None, Err("INVALID_FIELD")),
        (&mighty, &[], Through::Create, None, Ok(&["all"])),
    ] {
        let default_policy = DefaultPolicy::Added;
        let command = CreateToken { through: through.clone(), kind, default_policy, ..token(names, 600) };
        let made = node.create_token(by, &house.call(), command).await;
        let found = made.as_ref().map(|made| made.metadata.policies.to_vec()).map_err(IdentityError::reason);
        assert_eq!(found, outcome.map(policies), "{names:?} {through:?} {kind:?}");
    }
    // it is root, has an end, and ends with its maker
    let (secret, heir) = child(&house, &node, &root, token(&[], 600)).await;
    assert!(heir.is_root() && heir.expires().is_some());
    let (below, _) = child(&house, &node, &heir, token(&[], 60)).await;
    node.revoke_token(&heir, &house.call(), Target::Own).await.unwrap();
    for token in [&secret, &below] {
        assert!(refusal(&house, &node, token.expose()).await.is_some());
    }
}

#[tokio::test]
async fn tokens_are_found_and_ended_by_where_they_were_made_a_page_at_a_time() {
    let house = House::new();
    let (node, root) = house.open().await;
    node.put_token_role(&root, &house.call(), &TokenRole::new(RoleName::parse("ci").unwrap())).await.unwrap();
    let through = Through::Role(RoleName::parse("ci").unwrap());
    let mut ci = Vec::new();
    for _ in 0..40 {
        ci.push(child(&house, &node, &root, CreateToken { through: through.clone(), ..token(&["p"], 600) }).await.0);
    }
    let (other, _) = child(&house, &node, &root, token(&["p"], 600)).await;
    let count = async |prefix: &str| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = node.leases(prefix, after.as_deref(), 7, house.call().now).await.unwrap();
            assert!(page.leases.len() <= 7);
            found.extend(page.leases);
            after = page.next_marker;
            if after.is_none() {
                return found;
            }
        }
    };
    for (prefix, expected) in [
        ("", 41),
        ("auth/token/", 41),
        ("auth/token/create/", 41),
        ("auth/token/create/ci/", 40),
        ("auth/token/create/c", 40),
        ("auth/approle/", 0),
    ] {
        assert_eq!(count(prefix).await.len(), expected, "{prefix}");
    }
    let leases = count("auth/token/create/ci/").await;
    let mut ended = 0;
    for some in leases.chunks(LEASES_A_BATCH) {
        let batch = house.changes().batch().unwrap();
        let (batch, count) = node.prepare_ends(batch, some, house.call().now).await.unwrap();
        let call = house.call();
        node.commit(batch, &call.record("EndLeases", root.subject(), audit::Outcome::Done)).await.unwrap();
        ended += count;
    }
    assert_eq!((ended, count("auth/token/create/ci/").await.len()), (40, 0));
    assert_eq!(node.prepare_ends(house.changes().batch().unwrap(), &leases, house.call().now).await.unwrap().1, 0);
    for token in &ci {
        assert_eq!(refusal(&house, &node, token.expose()).await, Some("TOKEN_UNKNOWN"));
    }
    assert_eq!(refusal(&house, &node, other.expose()).await, None);
}

/// So that those who are lent something with one token at the same moment do not wait for each other.
#[tokio::test]
async fn that_a_token_was_lent_something_is_written_once_and_its_end_is_heard() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (_, holder) = child(&house, &node, &root, token(&["p"], 60)).await;
    let (changes, call) = (house.changes(), house.call());
    let record = call.record("Lend", holder.subject(), audit::Outcome::Done);
    let own = holder.token().unwrap().accessor;
    for written in [1, 0] {
        let (batch, accessor) = node.prepare_lending(changes.batch().unwrap(), &holder, call.now).await.unwrap();
        assert_eq!((batch.writes.len(), accessor.as_ref()), (written, Some(&own)));
        changes.commit(batch, &record).await.unwrap();
    }
    let (late, _) = node.prepare_lending(changes.batch().unwrap(), &holder, call.now).await.unwrap();
    node.revoke_token(&holder, &house.call(), Target::Own).await.unwrap();
    let ended = node.ended_tokens(8, Duration::from_secs(1)).await.unwrap();
    assert_eq!(ended.iter().map(|ended| ended.accessor.as_str()).collect::<Vec<_>>(), [own.as_str()]);
    let refused = changes.commit(late, &record).await;
    assert!(matches!(refused, Err(identity::ChangeError::Conflict(_))), "{refused:?}: nothing is lent to who is gone");
}

#[tokio::test]
async fn whoever_lent_something_to_a_token_hears_of_its_last_use() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (changes, call) = (house.changes(), house.call());
    let counted = CreateToken { num_uses: NonZeroU32::new(4), ..token(&["p"], 600) };
    let (secret, holder) = child(&house, &node, &root, counted.clone()).await;
    let own = holder.token().unwrap().accessor;
    let record = call.record("Lend", holder.subject(), audit::Outcome::Done);
    let lend = async |holder: &Principal| node.prepare_lending(changes.batch().unwrap(), holder, call.now).await;
    let uses =
        async |secret: &SecretBytes| node.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
    let ended = async || {
        let ended = node.ended_tokens(8, Duration::from_secs(1)).await.unwrap();
        ended.iter().map(|ended| ended.accessor.clone()).collect::<Vec<_>>()
    };
    changes.commit(lend(&holder).await.unwrap().0, &record).await.unwrap();
    uses(&secret).await;
    uses(&secret).await;
    let late = lend(&holder).await.unwrap().0;
    assert!(ended().await.is_empty());
    let last = uses(&secret).await;
    assert_eq!(ended().await, [own.as_str()]);
    let refused = changes.commit(late, &record).await;
    assert!(
        matches!(refused, Err(identity::ChangeError::Conflict(_))),
        "{refused:?}: nothing is lent to who is used up"
    );
    assert_eq!(lend(&last).await.unwrap_err().cause(), "TOKEN_USED_UP");
    // one that was lent nothing; and what it is lent as it is used up is heard, or not lent
    let (secret, holder) = child(&house, &node, &root, CreateToken { num_uses: NonZeroU32::new(2), ..counted }).await;
    let late = lend(&holder).await.unwrap().0;
    uses(&secret).await;
    assert!(matches!(changes.commit(late, &record).await, Err(identity::ChangeError::Conflict(_))));
    house.clock.advance(Duration::from_secs(2));
    assert_eq!(ended().await, [own.as_str()], "still due: nobody has taken back what it was lent");
}
