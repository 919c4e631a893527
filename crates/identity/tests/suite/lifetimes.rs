use crate::house::{House, ROOT, START, certificate, child, policies, refusal, token, within_two_seconds};
use envelope::Timestamp;
use identity::token::SYSTEM_TTL_MAX;
use identity::{Accessor, CreateToken, Excess, Identities, IdentityError, Parentage, Principal, Target, Through};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Of the certificate whose thumbprint is all ones.
fn web() -> identity::CertificateRole {
    identity::CertificateRole {
        name: identity::RoleName::parse("web").unwrap(),
        matches: identity::CertificateMatch::Thumbprint([1; 32]),
        policies: policies(&["p"]).into(),
    }
}

fn renewable(names: &[&str], ttl_secs: u64) -> CreateToken {
    CreateToken { renewable: true, excess: Excess::Cap, ..token(names, ttl_secs) }
}

async fn write(house: &House, node: &Identities, root: &Principal, name: &str, text: &str) {
    node.put_policy(root, &house.call(), &policies(&[name])[0], text).await.unwrap();
}

fn accessor(of: &Principal) -> Accessor {
    Accessor::parse(of.id().strip_prefix("token/").unwrap()).unwrap()
}

/// Seconds from the start at which the token ends after it was renewed, or why it was not.
async fn renewed(
    house: &House,
    node: &Identities,
    by: &Principal,
    target: Target<'_>,
    increment: u64,
) -> Result<u64, &'static str> {
    match node.renew_token(by, &house.call(), target, Some(secs(increment))).await {
        Ok(metadata) => Ok((metadata.expires.unwrap().unix_millis() - START) / 1000),
        Err(error) => Err(error.reason()),
    }
}

#[tokio::test]
async fn renewing_moves_the_end_up_to_the_nearest_bound() {
    let house = House::new();
    let (node, root) = house.open().await;
    let explicit = CreateToken { explicit_max_ttl: Some(secs(150)), ..renewable(&["p"], 100) };
    let periodic = CreateToken { period: Some(secs(100)), ..renewable(&["p"], 0) };
    let short = CreateToken { explicit_max_ttl: Some(secs(150)), ..periodic.clone() };
    let system = SYSTEM_TTL_MAX.as_secs();
    for (command, increment, after, expected) in [
        (renewable(&["p"], 100), 0, 40, Ok(140)),
        (renewable(&["p"], 100), 10, 40, Ok(50)),
        (renewable(&["p"], 100), 1000, 99, Ok(1099)),
        (renewable(&["p"], 100), u64::MAX, 40, Ok(system)),
        (explicit.clone(), 0, 40, Ok(140)),
        (explicit.clone(), 0, 60, Ok(150)),
        (explicit, 1000, 99, Ok(150)),
        (periodic.clone(), 0, 40, Ok(140)),
        (periodic, 5000, 40, Ok(140)),
        (short, 0, 99, Ok(150)),
        (renewable(&["p"], 100), 0, 100, Err("TOKEN_NOT_FOUND")),
        (token(&["p"], 100), 0, 40, Err("TOKEN_NOT_RENEWABLE")),
    ] {
        house.clock.set(Timestamp::from_unix_millis(START));
        let (secret, holder) = child(&house, &node, &root, command.clone()).await;
        house.clock.advance(secs(after));
        let target = Target::Accessor(&accessor(&holder));
        let found = renewed(&house, &node, &root, target, increment).await;
        assert_eq!(found, expected, "{command:?} {increment} {after}");
        let Ok(end) = expected else { continue };
        for (at, cause) in [(end - 1, None), (end, Some("TOKEN_EXPIRED"))] {
            house.clock.set(Timestamp::from_unix_millis(START + at * 1000));
            assert_eq!(refusal(&house, &node, secret.expose()).await, cause, "{command:?} at {at}");
        }
    }
}

#[tokio::test]
async fn a_periodic_token_lives_for_ever_and_another_no_longer_than_768_hours() {
    let house = House::new();
    let (node, root) = house.open().await;
    let day = 86_400;
    let periodic = CreateToken { period: Some(secs(day)), ..renewable(&["p"], 0) };
    let (periodic, by_period) = child(&house, &node, &root, periodic).await;
    let (bounded, by_bound) = child(&house, &node, &root, renewable(&["p"], day)).await;
    for hours in (12..800).step_by(12) {
        house.clock.set(Timestamp::from_unix_millis(START + hours * 3_600_000));
        let end = renewed(&house, &node, &root, Target::Accessor(&accessor(&by_period)), 0).await;
        assert_eq!(end, Ok(hours * 3600 + day), "{hours}");
        let end = renewed(&house, &node, &root, Target::Token(bounded.expose()), 0).await;
        let expected = if hours < 768 { Ok((hours * 3600 + day).min(768 * 3600)) } else { Err("TOKEN_NOT_FOUND") };
        assert_eq!(end, expected, "{hours}");
        while node.sweep(house.call().now).await.unwrap() > 0 {}
    }
    assert_eq!(refusal(&house, &node, periodic.expose()).await, None);
    assert_eq!(refusal(&house, &node, bounded.expose()).await, Some("TOKEN_UNKNOWN"), "swept up");
    assert_eq!(by_bound.expires(), Some(Timestamp::from_unix_millis(START + day * 1000)), "what was known before");
    assert_eq!(house.entries_below("due").await.len(), 1);
}

#[tokio::test]
async fn the_root_token_is_not_renewed_and_the_record_says_so() {
    let house = House::new();
    let (node, root) = house.open().await;
    let before = node.lookup_token(&root, &house.call(), Target::Own).await.unwrap();
    let after = node.renew_token(&root, &house.call(), Target::Own, Some(secs(5))).await.unwrap();
    assert_eq!((after.expires, after.ttl(house.call().now), &after), (None, None, &before));
    assert_eq!(house.last(1), ["RenewToken token auth/token/renew-self allowed root done"]);
    let written = house.records().iter().filter(|record| record["changes"].is_array()).count();
    assert_eq!(written, 1, "nothing but the root token was stored");
}

/// A renewed parent that ends earlier than before takes its children with it, swept up or not.
#[tokio::test]
async fn a_child_outlives_no_ancestor_however_they_are_renewed() {
    let house = House::new();
    let (node, root) = house.open().await;
    let other = house.node();
    write(&house, &node, &root, "p", r#"path "auth/token/create" { capabilities = ["update"] }"#).await;
    let (_, parent) = child(&house, &node, &root, renewable(&["p"], 1000)).await;
    let (secret, holder) = child(&house, &node, &parent, renewable(&[], 1000)).await;
    let (leaf, _) = child(&house, &node, &holder, renewable(&[], 1000)).await;
    for node in [&node, &other] {
        assert_eq!(refusal(&house, node, leaf.expose()).await, None);
    }
    let end = renewed(&house, &node, &root, Target::Accessor(&accessor(&parent)), 50).await;
    assert_eq!(end, Ok(50));
    let youngest = node.create_token(&holder, &house.call(), renewable(&[], 1000)).await.unwrap().metadata;
    assert_eq!(youngest.ttl(house.call().now), Some(secs(50)), "no further than its grandparent");
    let end = renewed(&house, &node, &root, Target::Token(secret.expose()), 500).await;
    assert_eq!(end, Ok(50), "no further than its parent");
    within_two_seconds(async || {
        let found = other.authenticate(Some(leaf.expose()), None, &house.call()).await.unwrap();
        found.expires() == Some(Timestamp::from_unix_millis(START + 50_000))
    })
    .await;
    house.clock.advance(secs(50));
    for node in [&node, &other] {
        assert_eq!(refusal(&house, node, leaf.expose()).await, Some("ANCESTOR_GONE"), "in the cache or not");
    }
}

#[tokio::test]
async fn another_node_hears_of_a_renewal_within_two_seconds() {
    let house = House::new();
    let (here, root) = house.open().await;
    let there = house.node();
    let (secret, _) = child(&house, &here, &root, renewable(&["p"], 100)).await;
    assert_eq!(refusal(&house, &there, secret.expose()).await, None);
    assert_eq!(renewed(&house, &here, &root, Target::Token(secret.expose()), 5000).await, Ok(5000));
    let end = Some(Timestamp::from_unix_millis(START + 5_000_000));
    let holder = here.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
    assert_eq!(holder.expires(), end, "at once where it was renewed");
    within_two_seconds(async || {
        there.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap().expires() == end
    })
    .await;
    house.clock.advance(secs(101));
    for node in [&here, &there] {
        assert_eq!(refusal(&house, node, secret.expose()).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_renew_at_once_and_one_entry_is_due() {
    for house in [House::new(), House::on_disk()] {
        let house = Arc::new(house);
        let (node, root) = house.open().await;
        let other = house.node();
        let (secret, holder) = child(&house, &node, &root, renewable(&["p"], 1000)).await;
        let accessor = accessor(&holder);
        let mut tries = tokio::task::JoinSet::new();
        for i in 0..64_u64 {
            let node = if i % 2 == 0 { node.clone() } else { other.clone() };
            let (house, root, accessor) = (Arc::clone(&house), Arc::clone(&root), accessor.clone());
            tries.spawn(
                async move { renewed(&house, &node, &root, Target::Accessor(&accessor), 1000 + i).await.unwrap() },
            );
        }
        let mut ends = tries.join_all().await;
        ends.sort_unstable();
        assert_eq!(ends, (1000..1064).collect::<Vec<_>>(), "each was told its own");
        let found = node.lookup_token(&root, &house.call(), Target::Accessor(&accessor)).await.unwrap();
        let due = house.entries_below("due").await;
        let digest = due[0].rsplit('/').next().unwrap();
        let end = format!("{}/identity/due/{:016x}/{digest}", "07".repeat(16), found.expires.unwrap().unix_millis());
        assert_eq!(due, [end], "the one that the record tells");
        let renewals = house.records().iter().filter(|record| record["operation"] == "RenewToken").count();
        assert_eq!(renewals, 64);
        house.clock.advance(secs(1064));
        node.sweep(house.call().now).await.unwrap();
        assert_eq!(refusal(&house, &node, secret.expose()).await, Some("TOKEN_UNKNOWN"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_renewed_makes_children_meanwhile_and_ends_when_it_is_told() {
    // its commits take a while
    let house = Arc::new(House::on_disk());
    let (node, root) = house.open().await;
    write(&house, &node, &root, "p", r#"path "auth/token/create" { capabilities = ["update"] }"#).await;
    let (secret, holder) = child(&house, &node, &root, renewable(&["p"], 1000)).await;
    let target = Arc::new(accessor(&holder));
    let mut work = tokio::task::JoinSet::new();
    for i in 0..64 {
        let (node, house, target) = (node.clone(), Arc::clone(&house), Arc::clone(&target));
        let (root, holder) = (Arc::clone(&root), Arc::clone(&holder));
        work.spawn(async move {
            match i {
                0..32 => renewed(&house, &node, &root, Target::Accessor(&target), 2000).await.map(drop),
                _ => node.create_token(&holder, &house.call(), token(&[], 10)).await.map(drop).map_err(|e| e.reason()),
            }
        });
    }
    assert_eq!(work.join_all().await, vec![Ok(()); 64]);
    let mut work = tokio::task::JoinSet::new();
    for i in 0..32 {
        let (node, house, target, root) = (node.clone(), Arc::clone(&house), Arc::clone(&target), Arc::clone(&root));
        work.spawn(async move {
            let target = Target::Accessor(&target);
            match i {
                16 => node.revoke_token(&root, &house.call(), target).await.map_err(|error| error.reason()),
                _ => match renewed(&house, &node, &root, target, 2000).await {
                    Ok(_) | Err("TOKEN_NOT_FOUND") => Ok(()),
                    Err(other) => Err(other),
                },
            }
        });
    }
    assert_eq!(work.join_all().await, vec![Ok(()); 32]);
    assert_eq!(refusal(&house, &node, secret.expose()).await, Some("TOKEN_UNKNOWN"));
}

#[tokio::test]
async fn each_way_to_a_token_has_its_own_path() {
    let house = House::new();
    let (node, root) = house.open().await;
    for path in ["lookup", "lookup-accessor", "renew", "renew-accessor", "revoke", "revoke-accessor"] {
        let text = format!(r#"path "auth/token/{path}" {{ capabilities = ["update"] }}"#);
        write(&house, &node, &root, path, &text).await;
    }
    write(&house, &node, &root, "no-self", r#"path "auth/token/*" { capabilities = ["deny"] }"#).await;
    let (secret, other) = child(&house, &node, &root, renewable(&["p"], 1000)).await;
    let other = accessor(&other);
    let (by_accessor, by_secret) = (Target::Accessor(&other), Target::Token(secret.expose()));
    for (policy, allowed) in [
        ("lookup", &["lookup"][..]),
        ("lookup-accessor", &["lookup-accessor"]),
        ("renew", &["renew"]),
        ("renew-accessor", &["renew-accessor"]),
        ("p", &[]),
        ("default", &["renew-self"]),
        ("no-self", &[]),
    ] {
        let (_, by) = child(&house, &node, &root, renewable(&[policy], 1000)).await;
        for (operation, target, path) in [
            ("LookupToken", by_secret, "lookup"),
            ("LookupToken", by_accessor, "lookup-accessor"),
            ("LookupToken", Target::Own, "lookup-self"),
            ("RenewToken", by_secret, "renew"),
            ("RenewToken", by_accessor, "renew-accessor"),
            ("RenewToken", Target::Own, "renew-self"),
        ] {
            let outcome = match operation {
                "LookupToken" => node.lookup_token(&by, &house.call(), target).await,
                _ => node.renew_token(&by, &house.call(), target, None).await,
            };
            // everybody may look at oneself, unless that is denied
            let expected = allowed.contains(&path) || (path == "lookup-self" && policy != "no-self");
            assert_eq!(outcome.is_ok(), expected, "{policy} {path}");
            let told = house.last(1).concat();
            assert!(told.starts_with(&format!("{operation} token auth/token/{path} ")), "{told}");
        }
    }
    for (policy, target, allowed) in [
        ("revoke", by_accessor, false),
        ("revoke-accessor", by_secret, false),
        ("no-self", Target::Own, false),
        ("p", Target::Own, true),
        ("revoke", by_secret, true),
        ("revoke", by_secret, false),
    ] {
        let (_, by) = child(&house, &node, &root, token(&[policy], 1000)).await;
        assert_eq!(node.revoke_token(&by, &house.call(), target).await.is_ok(), allowed, "{policy} {target:?}");
    }
    assert_eq!(refusal(&house, &node, secret.expose()).await, Some("TOKEN_UNKNOWN"));
}

#[tokio::test]
async fn a_token_in_a_request_stands_in_no_record() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (secret, _) = child(&house, &node, &root, renewable(&["p"], 1000)).await;
    let target = Target::Token(secret.expose());
    node.lookup_token(&root, &house.call(), target).await.unwrap();
    node.renew_token(&root, &house.call(), target, None).await.unwrap();
    node.revoke_token(&root, &house.call(), target).await.unwrap();
    for unknown in [target, Target::Token(b"short"), Target::Token(b"srb.not-one-of-ours")] {
        let error = node.lookup_token(&root, &house.call(), unknown).await.unwrap_err();
        assert_eq!(error.reason(), "TOKEN_NOT_FOUND");
    }
    let text = std::str::from_utf8(secret.expose()).unwrap();
    assert!(!house.lines().concat().contains(text) && !format!("{target:?}").contains(text));
}

#[tokio::test]
async fn orphans_and_periods_take_sudo() {
    let house = House::new();
    let (node, root) = house.open().await;
    let both = r#"path "auth/token/create" { capabilities = ["update"] }
path "auth/token/create-orphan" { capabilities = ["update"] }"#;
    write(&house, &node, &root, "plain", both).await;
    write(&house, &node, &root, "sudo", &both.replace("\"update\"", "\"update\", \"sudo\"")).await;
    let (_, plain) = child(&house, &node, &root, token(&["plain"], 600)).await;
    let (_, sudo) = child(&house, &node, &root, token(&["sudo"], 600)).await;
    let orphan = CreateToken { through: Through::CreateOrphan, ..renewable(&[], 1000) };
    let no_parent = CreateToken { parentage: Parentage::Orphan, ..renewable(&[], 1000) };
    let periodic = CreateToken { period: Some(secs(10)), ..renewable(&[], 0) };
    for (command, lives) in [(orphan, 1000), (no_parent, 1000), (periodic, 10)] {
        let refused = node.create_token(&plain, &house.call(), command.clone()).await.unwrap_err();
        assert_eq!(refused.reason(), "PERMISSION_DENIED", "{command:?}");
        let made = node.create_token(&sudo, &house.call(), command.clone()).await.unwrap().metadata;
        assert_eq!(made.is_orphan(), command.period.is_none(), "{command:?}");
        assert_eq!(made.ttl(house.call().now), Some(secs(lives)), "{command:?}");
    }
    let counted = CreateToken { num_uses: NonZeroU32::new(5), ..token(&["sudo"], 600) };
    let (_, counted) = child(&house, &node, &root, counted).await;
    let orphan = CreateToken { through: Through::CreateOrphan, ..token(&[], 100) };
    let refused = node.create_token(&counted, &house.call(), orphan).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED", "it would be used without bound");
}

/// Root → top → middle → (leaf → below, sibling). `middle` ends alone, then `top` with all that is still its own.
#[tokio::test]
async fn children_that_were_let_go_live_on_as_orphans() {
    let house = House::new();
    let (node, root) = house.open().await;
    let other = house.node();
    let rights = r#"path "auth/token/create" { capabilities = ["update"] }
path "auth/token/revoke-orphan" { capabilities = ["update"] }"#;
    write(&house, &node, &root, "p", rights).await;
    let (_, top) = child(&house, &node, &root, renewable(&["p"], 4000)).await;
    let (middle, middle_holder) = child(&house, &node, &top, renewable(&[], 1000)).await;
    let (leaf, leaf_holder) = child(&house, &node, &middle_holder, renewable(&[], 1000)).await;
    let (below, _) = child(&house, &node, &leaf_holder, renewable(&[], 1000)).await;
    let stateless = CreateToken { kind: Some(identity::TokenKind::Stateless), ..token(&[], 1000) };
    let (stateless, _) = child(&house, &node, &middle_holder, stateless).await;
    for secret in [&leaf, &below, &stateless] {
        assert_eq!(refusal(&house, &other, secret.expose()).await, None);
    }
    let target = Target::Token(middle.expose());
    let refused = node.revoke_token_orphan(&top, &house.call(), target).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED", "it takes sudo");
    node.revoke_token_orphan(&root, &house.call(), target).await.unwrap();
    let again = node.revoke_token_orphan(&root, &house.call(), target).await.unwrap_err();
    let ended = node.revoke_token(&root, &house.call(), target).await.unwrap_err();
    assert_eq!((again.reason(), ended.reason()), ("TOKEN_NOT_FOUND", "TOKEN_NOT_FOUND"));
    for (secret, cause) in [
        (&middle, Some("TOKEN_UNKNOWN")),
        (&leaf, None),
        (&below, None),
        // it is alive by its parent only
        (&stateless, Some("ANCESTOR_GONE")),
    ] {
        assert_eq!(refusal(&house, &node, secret.expose()).await, cause);
        within_two_seconds(async || refusal(&house, &other, secret.expose()).await == cause).await;
    }
    let found = node.lookup_token(&root, &house.call(), Target::Token(leaf.expose())).await.unwrap();
    assert!(found.is_orphan());

    // what is above it ends, and is swept up with its children
    node.revoke_token(&root, &house.call(), Target::Accessor(&accessor(&top))).await.unwrap();
    house.clock.advance(secs(900));
    while node.sweep(house.call().now).await.unwrap() > 0 {}
    for secret in [&leaf, &below] {
        assert_eq!(refusal(&house, &node, secret.expose()).await, None);
    }
    // and renewing is not bound by it any more
    let renewed_to = renewed(&house, &node, &root, Target::Token(leaf.expose()), 9000).await;
    assert_eq!(renewed_to, Ok(9900));
    assert_eq!(renewed(&house, &node, &root, Target::Token(below.expose()), 9000).await, Ok(9900));
    for _ in 0..3 {
        house.clock.advance(secs(2000));
        while node.sweep(house.call().now).await.unwrap() > 0 {}
        assert_eq!(refusal(&house, &node, below.expose()).await, None);
    }
    node.revoke_token(&root, &house.call(), Target::Token(leaf.expose())).await.unwrap();
    assert_eq!(refusal(&house, &node, below.expose()).await, Some("ANCESTOR_GONE"));
    for _ in 0..3 {
        house.clock.advance(secs(2000));
        while node.sweep(house.call().now).await.unwrap() > 0 {}
    }
    for (folder, left) in [("tokens", 1), ("accessors", 1), ("children", 0), ("due", 0)] {
        assert_eq!(house.entries_below(folder).await.len(), left, "{folder}");
    }
}

#[tokio::test]
async fn who_is_dead_lets_nobody_go() {
    for (case, let_go, causes) in [
        // root → first → second → third, and what is asked for of the second
        ("first is revoked", Err("TOKEN_NOT_FOUND"), Some("ANCESTOR_GONE")),
        ("first is over", Err("TOKEN_NOT_FOUND"), Some("TOKEN_EXPIRED")),
        ("second is over", Err("TOKEN_NOT_FOUND"), Some("TOKEN_EXPIRED")),
        ("first is revoked later", Ok(()), None),
        ("second is let go twice", Ok(()), None),
    ] {
        let house = House::new();
        let (node, root) = house.open().await;
        write(&house, &node, &root, "p", r#"path "auth/token/create" { capabilities = ["update"] }"#).await;
        let lives = |name: &str| if case == format!("{name} is over") { 10 } else { 1000 };
        let (first, holder) = child(&house, &node, &root, renewable(&["p"], lives("first"))).await;
        let (second, holder) = child(&house, &node, &holder, renewable(&["p"], lives("second"))).await;
        let (third, _) = child(&house, &node, &holder, renewable(&["p"], 1000)).await;
        let revoke = async || node.revoke_token(&root, &house.call(), Target::Token(first.expose())).await.unwrap();
        let let_second_go = async || {
            let target = Target::Token(second.expose());
            node.revoke_token_orphan(&root, &house.call(), target).await.map_err(|error| error.reason())
        };
        match case {
            "first is revoked" => revoke().await,
            "first is revoked later" | "second is let go twice" => {}
            _ => house.clock.advance(secs(10)),
        }
        assert_eq!(let_second_go().await, let_go, "{case}");
        assert_eq!(refusal(&house, &node, third.expose()).await, causes, "{case}");
        match case {
            "second is let go twice" => assert_eq!(let_second_go().await, Err("TOKEN_NOT_FOUND")),
            _ if let_go.is_ok() => revoke().await,
            _ => {}
        }
        while node.sweep(house.call().now).await.unwrap() > 0 {}
        assert_eq!(refusal(&house, &node, third.expose()).await.is_some(), causes.is_some(), "{case}, swept");
    }
}

#[tokio::test]
async fn a_root_token_that_is_made_anew_is_not_looked_at_again() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (secret, _) = child(&house, &node, &root, token(&["p"], 100_000)).await;
    node.revoke_token_orphan(&root, &house.call(), Target::Own).await.unwrap();
    assert_eq!(refusal(&house, &node, ROOT).await, Some("TOKEN_UNKNOWN"));
    node.create_root(ROOT, &house.call()).await.unwrap();
    assert_eq!(house.entries_below("due").await.len(), 2);
    house.clock.advance(secs(3600));
    while node.sweep(house.call().now).await.unwrap() > 0 {}
    assert_eq!(house.entries_below("due").await.len(), 1, "the child's end");
    for alive in [ROOT, secret.expose()] {
        assert_eq!(refusal(&house, &node, alive).await, None);
    }
}

#[tokio::test]
async fn an_orphan_does_not_depend_on_the_certificate_role_of_those_before_it() {
    let house = House::new();
    let (node, root) = house.open().await;
    write(&house, &node, &root, "p", r#"path "auth/token/create" { capabilities = ["update"] }"#).await;
    let role = web();
    node.put_certificate_role(&root, &house.call(), &role).await.unwrap();
    let shown = certificate(1, "web", &[]);
    let by = node.authenticate(None, Some(&shown), &house.call()).await.unwrap();
    let parent = node.create_token(&by, &house.call(), token(&[], 600)).await.unwrap().token;
    let holder = node.authenticate(Some(parent.expose()), Some(&shown), &house.call()).await.unwrap();
    let secret = node.create_token(&holder, &house.call(), renewable(&[], 600)).await.unwrap().token;
    let alive = async || node.authenticate(Some(secret.expose()), Some(&shown), &house.call()).await.is_ok();
    node.revoke_token_orphan(&root, &house.call(), Target::Token(parent.expose())).await.unwrap();
    assert!(alive().await);
    // neither as it was stored, nor as it is stored once it was renewed
    node.delete_certificate_role(&root, &house.call(), &role.name).await.unwrap();
    assert!(alive().await);
    let found = node.renew_token(&root, &house.call(), Target::Token(secret.expose()), None).await.unwrap();
    assert!(found.is_orphan() && alive().await);
    let found = node.lookup_token(&root, &house.call(), Target::Token(secret.expose())).await.unwrap();
    assert!(found.is_orphan());
}

#[tokio::test]
async fn tokens_and_roles_that_are_void_are_known_and_none_is_by_this_nodes_clock_or_generation() {
    let house = House::new();
    let (node, root) = house.open().await;
    write(&house, &node, &root, "p", r#"path "auth/token/create" { capabilities = ["update"] }"#).await;
    let role = web();
    node.put_certificate_role(&root, &house.call(), &role).await.unwrap();
    let by = node.authenticate(None, Some(&certificate(1, "web", &[])), &house.call()).await.unwrap();
    let make = async |by: &Principal, command| {
        let made = node.create_token(by, &house.call(), command).await.unwrap();
        (made.token, made.metadata.accessor.as_str().to_owned())
    };
    let (parent, parents) = make(&root, token(&["p"], 900)).await;
    let holder = node.authenticate(Some(parent.expose()), None, &house.call()).await.unwrap();
    let [(_, child), (_, of_role), (_, short), (_, long)] = [
        make(&holder, token(&[], 900)).await,
        make(&by, token(&[], 900)).await,
        make(&root, token(&["p"], 1)).await,
        make(&root, token(&["p"], 900)).await,
    ];
    let all = [&*parents, &*child, &*of_role, &*short, &*long, "00112233445566778899aabbccddeeff", "nobodys", ""];
    let void = async |node: &Identities| node.void_tokens(&all).await.unwrap();
    let none: [&str; 0] = [];
    assert_eq!(void(&node).await, none);
    // whoever is over by time is told when it is swept up, and whoever is gone was
    house.clock.advance(secs(1));
    assert_eq!(void(&node).await, none);
    node.revoke_token(&root, &house.call(), Target::Token(parent.expose())).await.unwrap();
    assert_eq!(void(&node).await, [&*child]);
    let own = by.certificate().unwrap();
    assert_eq!((holder.certificate(), root.certificate()), (None, None));
    let lend = async || node.prepare_lending(house.changes().batch().unwrap(), &by, house.call().now).await;
    let late = lend().await.unwrap().0;
    let others = format!("cert/web@{}", "00".repeat(16));
    let principals = [own, others.as_str(), "cert/none", "cert/", "token/x", ""];
    // written again, a role is the same; what was made by it before is not
    node.put_certificate_role(&root, &house.call(), &role).await.unwrap();
    assert_eq!(node.void_certificates(&principals).await.unwrap(), [&others, "cert/none"]);
    assert_eq!(void(&node).await, [&*child, &*of_role]);
    assert_eq!(lend().await.unwrap_err().cause(), "CERTIFICATE_UNKNOWN", "it is known by the former still");
    let record = house.call();
    let refused = house.changes().commit(late, &record.record("Lend", by.subject(), audit::Outcome::Done)).await;
    assert!(matches!(refused, Err(identity::ChangeError::Conflict(_))), "{refused:?}");
    // made anew after its deletion, it is another
    node.delete_certificate_role(&root, &house.call(), &role.name).await.unwrap();
    assert_eq!(node.void_certificates(&principals).await.unwrap(), [own, &others, "cert/none"]);
    node.put_certificate_role(&root, &house.call(), &role).await.unwrap();
    assert_eq!(node.void_certificates(&principals).await.unwrap(), [own, &others, "cert/none"]);
    // a node of a higher generation voids no more; one of a lower knows nothing of what it sees
    assert_eq!(void(&house.node_of(2, crate::house::TENANT)).await, [&*child, &*of_role]);
    let lower = house.node_of(0, crate::house::TENANT);
    assert!(matches!(lower.void_tokens(&all).await, Err(IdentityError::Conflict)));
}

#[tokio::test]
async fn accessors_are_listed_page_by_page_by_whoever_holds_sudo() {
    let house = House::new();
    let (node, root) = house.open().await;
    let list = r#"path "auth/token/accessors/" { capabilities = ["list"] }"#;
    write(&house, &node, &root, "list", list).await;
    write(&house, &node, &root, "sudo", &list.replace("\"list\"]", "\"list\", \"sudo\"]")).await;
    let (_, plain) = child(&house, &node, &root, token(&["list"], 600)).await;
    let (_, sudo) = child(&house, &node, &root, token(&["sudo"], 600)).await;
    let (_, over) = child(&house, &node, &root, token(&["p"], 1)).await;
    house.clock.advance(secs(1));
    let all = identity::PageRequest::parse(0, "").unwrap();
    let refused = node.list_accessors(&plain, &house.call(), &all).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED");
    let mut found = Vec::new();
    let mut marker = String::new();
    loop {
        let page = identity::PageRequest::parse(1, &marker).unwrap();
        let page = node.list_accessors(&sudo, &house.call(), &page).await.unwrap();
        found.extend(page.accessors.iter().map(|accessor| accessor.as_str().to_owned()));
        let Some(next) = page.next_marker else { break };
        marker = next;
    }
    let mut expected = [&root, &plain, &sudo].map(|holder| accessor(holder).as_str().to_owned());
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "and not {}", over.id());
    assert_eq!(node.tidy_tokens(&root, &house.call()).await.unwrap().due, 1);
    assert_eq!(node.tidy_tokens(&root, &house.call()).await.unwrap().due, 0);
    let refused = node.tidy_tokens(&plain, &house.call()).await.unwrap_err();
    assert!(matches!(refused, IdentityError::PermissionDenied));
}
