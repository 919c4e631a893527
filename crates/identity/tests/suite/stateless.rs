use crate::house::{House, certificate, child, policies, refusal, token, within_two_seconds};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::token::{Meta, SYSTEM_TTL_MAX, TTL_MAX};
use identity::{
    Cidr, CreateToken, CreatedToken, Excess, Identities, IdentityError, NewParent, NewToken, Principal, RequestInfo,
    Target, Through, TokenKind,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn stateless(names: &[&str], ttl_secs: u64) -> CreateToken {
    CreateToken { kind: Some(TokenKind::Stateless), ..token(names, ttl_secs) }
}

fn from(house: &House, address: &str) -> RequestInfo {
    RequestInfo { from: address.to_owned(), ..house.call() }
}

async fn open_with_rights() -> (House, Identities, Arc<Principal>) {
    let house = House::new();
    let (node, root) = house.open().await;
    let create = r#"path "auth/token/create" { capabilities = ["update"] }
path "auth/token/renew-self" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], create).await.unwrap();
    (house, node, root)
}

#[tokio::test]
async fn a_stateless_token_is_its_own_record_and_nothing_is_stored_of_it() {
    let (house, node, root) = open_with_rights().await;
    let other = house.node();
    let (_, parent) = child(&house, &node, &root, token(&["p"], 1000)).await;
    let folders = ["tokens", "accessors", "children", "due", "uses", "stateless"];
    let mut before = Vec::new();
    for folder in folders {
        before.push(house.entries_below(folder).await);
    }
    let (secret, holder) = child(&house, &node, &parent, stateless(&[], 500)).await;
    for (folder, before) in folders.into_iter().zip(before) {
        assert_eq!(house.entries_below(folder).await, before, "{folder}");
    }
    assert_eq!(house.last(1), ["CreateToken token auth/token/create allowed p done"]);
    let text = std::str::from_utf8(secret.expose()).unwrap();
    assert!(text.starts_with("srb.") && text.len() < 1400, "{}", text.len());
    assert!(!house.lines().concat().contains(text));
    let again = async || node.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
    within_two_seconds(async || Arc::ptr_eq(&again().await, &again().await)).await;
    let found = node.lookup_token(&root, &house.call(), Target::Token(secret.expose())).await.unwrap();
    assert_eq!(found, holder.token().unwrap());
    assert_eq!((found.kind, found.ttl(house.call().now)), (TokenKind::Stateless, Some(secs(500))));
    assert_eq!(found.policies.to_vec(), policies(&["p"]));
    for node in [&node, &other] {
        for (after, cause) in [(499, None), (500, Some("TOKEN_EXPIRED"))] {
            house.clock.set(envelope::Timestamp::from_unix_millis(crate::house::START + after * 1000));
            assert_eq!(refusal(&house, node, secret.expose()).await, cause, "{after}");
        }
    }
}

#[tokio::test]
async fn a_stateless_token_dies_with_its_parent_and_with_all_above_it() {
    let (house, node, root) = open_with_rights().await;
    let other = house.node();
    for above in [0, 1] {
        let (grand_secret, grand) = child(&house, &node, &root, token(&["p"], 1000)).await;
        let (parent_secret, parent) = child(&house, &node, &grand, token(&[], 1000)).await;
        let (secret, _) = child(&house, &node, &parent, stateless(&[], 500)).await;
        for node in [&node, &other] {
            assert_eq!(refusal(&house, node, secret.expose()).await, None);
        }
        let ends = if above == 0 { &parent_secret } else { &grand_secret };
        node.revoke_token(&root, &house.call(), Target::Token(ends.expose())).await.unwrap();
        let cause = Some("ANCESTOR_GONE");
        assert_eq!(refusal(&house, &node, secret.expose()).await, cause, "at once where it was revoked");
        within_two_seconds(async || refusal(&house, &other, secret.expose()).await == cause).await;
        assert_eq!(refusal(&house, &house.node(), secret.expose()).await, cause, "and where nothing is cached");
    }
}

#[tokio::test]
async fn what_a_stateless_token_cannot_do_is_refused_by_name() {
    let (house, node, root) = open_with_rights().await;
    let (secret, holder) = child(&house, &node, &root, stateless(&["p"], 500)).await;
    let own = (Target::Own, Target::Token(secret.expose()));
    for (by, target) in [(&holder, own.0), (&root, own.1)] {
        let renewed = node.renew_token(by, &house.call(), target, None).await.unwrap_err();
        let ended = node.revoke_token(by, &house.call(), target).await.unwrap_err();
        assert_eq!((renewed.reason(), ended.reason()), ("TOKEN_STATELESS", "TOKEN_STATELESS"), "{target:?}");
    }
    let ended = node.revoke_token_orphan(&root, &house.call(), own.1).await.unwrap_err();
    assert_eq!(ended.reason(), "TOKEN_STATELESS");
    let metadata = holder.token().unwrap();
    let by_accessor = Target::Accessor(&metadata.accessor);
    let unknown = node.lookup_token(&root, &house.call(), by_accessor).await.unwrap_err();
    assert_eq!(unknown.reason(), "TOKEN_NOT_FOUND", "its accessor is for the log only");
    for kind in [TokenKind::Service, TokenKind::Stateless] {
        let command = CreateToken { kind: Some(kind), ..token(&[], 100) };
        let refused = node.create_token(&holder, &house.call(), command).await.unwrap_err();
        assert_eq!(refused.reason(), "PERMISSION_DENIED", "it has no children");
    }
    for (command, field) in [
        (CreateToken { num_uses: NonZeroU32::new(1), ..stateless(&["p"], 1) }, "num_uses"),
        (CreateToken { period: Some(secs(1)), ..stateless(&["p"], 1) }, "period"),
        (CreateToken { explicit_max_ttl: Some(secs(1)), ..stateless(&["p"], 1) }, "explicit_max_ttl"),
        (stateless(&["root"], 1), "policies"),
        (stateless(&[], 1), "policies"),
        (stateless(&["p"], SYSTEM_TTL_MAX.as_secs() + 1), "ttl_secs"),
        (stateless(&["p"], TTL_MAX.as_secs() + 1), "ttl_secs"),
    ] {
        let refused = node.create_token(&root, &house.call(), command).await.unwrap_err();
        assert_eq!(refused.field(), Some(field));
    }
    let meta: Meta = (0..64).map(|i| (format!("{i:064}"), "x".repeat(64))).collect();
    let refused = node.create_token(&root, &house.call(), CreateToken { meta, ..stateless(&["p"], 1) }).await;
    assert_eq!(refused.unwrap_err().reason(), "LIMIT_EXCEEDED", "more than its text can hold");
    let refused = node.create_root(b"srb.a-root-token-of-that-kind", &house.call()).await.unwrap_err();
    assert_eq!(refused.field(), Some("token"));
}

#[tokio::test]
async fn one_byte_makes_another_text_nobodys() {
    let (house, node, root) = open_with_rights().await;
    let (secret, _) = child(&house, &node, &root, stateless(&["p"], 500)).await;
    let sealed = URL_SAFE_NO_PAD.decode(&secret.expose()[4..]).unwrap();
    let text = |sealed: &[u8]| format!("srb.{}", URL_SAFE_NO_PAD.encode(sealed)).into_bytes();
    assert_eq!(text(&sealed), secret.expose());
    let mut altered: Vec<Vec<u8>> = (0..sealed.len())
        .map(|at| {
            let mut sealed = sealed.clone();
            sealed[at] ^= 1;
            text(&sealed)
        })
        .collect();
    altered.push(text(&sealed[..sealed.len() - 1]));
    altered.push(text(&[&sealed[..], b"x"].concat()));
    altered.push([secret.expose(), b"="].concat());
    altered.push([b"sr.", &secret.expose()[4..]].concat());
    for altered in altered {
        assert!(matches!(
            refusal(&house, &node, &altered).await,
            Some("TOKEN_UNKNOWN" | "TOKEN_MALFORMED" | "OLD_EPOCH")
        ));
    }
    // what was sealed for another place is no token
    for folder in ["tokens", "policies"] {
        let path = house.entries_below(folder).await.remove(0);
        let path = storage::EntryPath::parse(&path).unwrap();
        let (_, found) = house.store.get(&[path], storage::AtLeast::Latest).await.unwrap();
        let stored = text(&found[0].as_ref().unwrap().value);
        assert_eq!(refusal(&house, &node, &stored).await, Some("TOKEN_UNKNOWN"), "{folder}");
    }
    // nor is another kind's record that was sealed for this one
    let at = |folder: &str| storage::EntryPath::parse(&format!("{}/identity/{folder}", "07".repeat(16))).unwrap();
    let record = house.barrier.open(&at("stateless"), &sealed).unwrap();
    let as_service = String::from_utf8(record.expose().to_vec()).unwrap().replace("\"stateless\"", "\"service\"");
    for (record, cause) in [(record.expose(), None), (as_service.as_bytes(), Some("TOKEN_UNKNOWN"))] {
        let sealed = house.barrier.seal(&at("stateless"), record).unwrap();
        assert_eq!(refusal(&house, &node, &text(&sealed)).await, cause);
    }
    let generation = house.node_of(2, crate::house::TENANT);
    assert_eq!(refusal(&house, &generation, secret.expose()).await, Some("OTHER_GENERATION"));
    let tenant = house.node_of(1, [8; 16]);
    assert_eq!(refusal(&house, &tenant, secret.expose()).await, Some("TOKEN_UNKNOWN"));
}

#[tokio::test]
async fn what_a_stateless_token_may_do_follows_its_policies_at_once() {
    let (house, node, root) = open_with_rights().await;
    let other = house.node();
    let (secret, holder) = child(&house, &node, &root, stateless(&["q"], 500)).await;
    let may = async |node: &Identities| {
        let holder = node.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
        node.get_policy(&holder, &house.call(), &policies(&["p"])[0]).await.is_ok()
    };
    assert!(!may(&node).await && !may(&other).await && !holder.is_root());
    let read = r#"path "sys/policies/acl/p" { capabilities = ["read"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["q"])[0], read).await.unwrap();
    assert!(may(&node).await);
    within_two_seconds(async || may(&other).await).await;
}

#[tokio::test]
async fn a_token_counts_from_its_addresses_only_and_so_does_what_it_makes() {
    let (house, node, root) = open_with_rights().await;
    let ranges = |raw: &[&str]| raw.iter().map(|raw| Cidr::parse(raw).unwrap()).collect::<Vec<_>>();
    let other = house.node();
    for kind in [TokenKind::Service, TokenKind::Stateless] {
        let bound_cidrs = ranges(&["10.0.0.0/8", "2001:db8::/32"]);
        let command = CreateToken { kind: Some(kind), bound_cidrs, ..token(&["p"], 600) };
        let secret = node.create_token(&root, &house.call(), command).await.unwrap().token;
        // twice: from the store and from the cache
        for _ in 0..2 {
            for (address, cause) in [
                ("12.1.2.3:5", Some("ADDRESS_OTHER")),
                ("10.1.2.3:5", None),
                ("[2001:db8::1]:5", None),
                ("[::ffff:10.1.2.3]:5", None),
                ("11.1.2.3:5", Some("ADDRESS_OTHER")),
                ("", Some("ADDRESS_OTHER")),
            ] {
                for node in [&node, &other] {
                    let found = node.authenticate(Some(secret.expose()), None, &from(&house, address)).await;
                    assert_eq!(found.err().map(|error| error.cause()), cause, "{kind:?} {address}");
                }
            }
        }
    }
    // a use from elsewhere is no use
    let counted =
        CreateToken { num_uses: NonZeroU32::new(2), bound_cidrs: ranges(&["10.0.0.0/8"]), ..token(&["p"], 600) };
    let secret = node.create_token(&root, &house.call(), counted).await.unwrap().token;
    assert_eq!(refusal(&house, &node, secret.expose()).await, Some("ADDRESS_OTHER"));
    let found = node.authenticate(Some(secret.expose()), None, &from(&house, "10.0.0.1:1")).await.unwrap();
    assert_eq!(found.token().unwrap().uses_left, Some(1));

    let sudo = r#"path "auth/token/create-orphan" { capabilities = ["update", "sudo"] }
path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], sudo).await.unwrap();
    let bound = CreateToken { bound_cidrs: ranges(&["192.0.2.0/24"]), ..token(&["p"], 600) };
    let (_, maker) = child(&house, &node, &root, bound).await;
    for through in [Through::Create, Through::CreateOrphan] {
        for (asked, given) in [
            (&[][..], Some(&["192.0.2.0/24"][..])),
            (&["192.0.2.7"], Some(&["192.0.2.7"])),
            (&["0.0.0.0/0"], Some(&["192.0.2.0/24"])),
            (&["10.0.0.0/8"], None),
        ] {
            let command = CreateToken { bound_cidrs: ranges(asked), through: through.clone(), ..token(&["p"], 60) };
            let made = node.create_token(&maker, &house.call(), command).await;
            let found = made.as_ref().ok().map(|made| made.metadata.bound_cidrs.to_vec());
            assert_eq!(found, given.map(ranges), "{through:?} {asked:?}");
            assert_eq!(made.err().and_then(|error| error.field()), given.is_none().then_some("bound_cidrs"));
        }
    }
}

async fn login(house: &House, node: &Identities, new: NewToken<'_>) -> Result<CreatedToken, IdentityError> {
    let path = storage::EntryPath::parse(&format!("{}/elsewhere", "07".repeat(16))).unwrap();
    let call = house.call();
    let sealed = house.barrier.seal(&path, b"used once")?;
    let batch = house.changes().batch()?.put(path, sealed);
    let (batch, created) = node.prepare_token(batch, new, call.now).await?;
    let record = call.record("Login", &audit::Subject::System, audit::Outcome::Done);
    node.commit(batch, &record).await?;
    Ok(created)
}

#[tokio::test]
async fn a_login_makes_its_token_in_its_own_batch_with_one_record() {
    let (house, node, root) = open_with_rights().await;
    let call = house.call();
    let batch = house.changes().batch().unwrap();
    let (batch, entity) = node.entity_for_alias(batch, call.now, "approle_1", "ci").await.unwrap();
    node.commit(batch, &call.record("Login", &audit::Subject::System, audit::Outcome::Done)).await.unwrap();
    for kind in [TokenKind::Service, TokenKind::Stateless] {
        let told = house.lines().len();
        let meta: Meta = [("role".to_owned(), "ci".to_owned())].into();
        let new = NewToken {
            policies: policies(&["q", "default", "q"]),
            ttl: Some(secs(600)),
            renewable: true,
            kind,
            meta: meta.clone(),
            entity: Some(entity),
            certificate_thumbprint: Some([3; 32]),
            ..NewToken::new("auth/approle/login", NewParent::Orphan)
        };
        let made = login(&house, &node, new).await.unwrap();
        assert_eq!(house.lines().len(), told + 1, "{kind:?}");
        let shown = certificate(3, "ci", &[]);
        let holder = node.authenticate(Some(made.token.expose()), Some(&shown), &house.call()).await.unwrap();
        assert_eq!(refusal(&house, &node, made.token.expose()).await, Some("CERTIFICATE_MISSING"));
        let found = holder.token().unwrap();
        assert_eq!(found, made.metadata);
        assert_eq!(found.policies.to_vec(), policies(&["default", "q"]));
        assert_eq!((&*found.path, &found.meta, found.entity), ("auth/approle/login", &meta, Some(entity)));
        assert_eq!((found.renewable, found.is_orphan()), (kind == TokenKind::Service, true));
        assert_eq!(found.creation_ttl, Some(secs(600)));
    }
    let (_, parent) = child(&house, &node, &root, token(&["p"], 100)).await;
    let made =
        login(&house, &node, NewToken { ttl: Some(secs(600)), ..NewToken::new("a", NewParent::ChildOf(&parent)) });
    let made = made.await.unwrap();
    assert_eq!(made.metadata.ttl(house.call().now), Some(secs(100)), "cut to what its parent has");
    node.revoke_token(&parent, &house.call(), Target::Own).await.unwrap();
    assert_eq!(refusal(&house, &node, made.token.expose()).await, Some("ANCESTOR_GONE"));
    let late = login(&house, &node, NewToken::new("a", NewParent::ChildOf(&parent))).await.unwrap_err();
    assert_eq!(late.cause(), "TOKEN_UNKNOWN");
}

#[tokio::test]
async fn what_no_login_may_make_is_refused_by_its_field() {
    let (house, node, _root) = open_with_rights().await;
    let many = |pairs: usize| (0..pairs).map(|i| (i.to_string(), String::new())).collect::<Meta>();
    let plain = || NewToken::new("auth/x/login", NewParent::Orphan);
    let names: Vec<String> = (0..65).map(|i| format!("p{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cidrs = (0..65_u8).map(|i| Cidr::parse(&format!("10.0.0.{i}")).unwrap()).collect();
    for (new, field) in [
        (NewToken { policies: policies(&["root"]), ..plain() }, Some("policies")),
        (NewToken { policies: policies(&names), ..plain() }, Some("policies")),
        (NewToken { policies: policies(&names[1..]), ..plain() }, None),
        (NewToken { meta: many(65), ..plain() }, Some("meta")),
        (NewToken { meta: many(64), ..plain() }, None),
        (NewToken { meta: [("a".to_owned(), "x".repeat(512))].into(), ..plain() }, None),
        (NewToken { meta: [("a".to_owned(), "x".repeat(513))].into(), ..plain() }, Some("meta")),
        (NewToken { meta: [("x".repeat(513), String::new())].into(), ..plain() }, Some("meta")),
        (NewToken { bound_cidrs: cidrs, ..plain() }, Some("bound_cidrs")),
        (NewToken { path: String::new(), ..plain() }, Some("path")),
        (NewToken { path: "a b".to_owned(), ..plain() }, Some("path")),
        (NewToken { path: "a".repeat(513), ..plain() }, Some("path")),
    ] {
        let shown = format!("{new:?}");
        let made = login(&house, &node, new).await;
        assert_eq!(made.err().and_then(|error| error.field()), field, "{shown}");
    }
    let cut = login(&house, &node, NewToken { ttl: Some(TTL_MAX), ..plain() }).await.unwrap();
    assert_eq!(cut.metadata.creation_ttl, Some(SYSTEM_TTL_MAX));
    assert_eq!(CreateToken::default().excess, Excess::Refuse);
}

/// Records that were stored before tokens had terms.
#[tokio::test]
async fn a_token_from_before_there_were_terms_lives_on() {
    let (house, node, root) = open_with_rights().await;
    let (secret, holder) = child(&house, &node, &root, token(&["p"], 600)).await;
    let own = storage::EntryPath::parse(
        house.entries_below("due").await[0]
            .replacen("/due/", "/tokens/", 1)
            .replace(&format!("{:016x}/", holder.expires().unwrap().unix_millis()), "")
            .as_str(),
    )
    .unwrap();
    let (_, found) = house.barrier.get(std::slice::from_ref(&own), storage::AtLeast::Latest).await.unwrap();
    let stored = found[0].as_ref().unwrap().value.expose().to_vec();
    let mut old: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    old["version"] = 1.into();
    assert!(old.as_object_mut().unwrap().remove("terms").is_some());
    let sealed = house.barrier.seal(&own, &serde_json::to_vec(&old).unwrap()).unwrap();
    house.store.commit(storage::Batch::new(storage::CommitId([9; 16])).put(own, sealed)).await.unwrap();
    within_two_seconds(async || node.authenticate(Some(secret.expose()), None, &house.call()).await.is_ok()).await;
    let node = house.node();
    let found = node.lookup_token(&root, &house.call(), Target::Token(secret.expose())).await.unwrap();
    assert_eq!((found.kind, found.renewable, found.creation_ttl), (TokenKind::Service, false, Some(secs(600))));
    assert_eq!(&*found.path, "auth/token/create");
    let refused = node.renew_token(&root, &house.call(), Target::Token(secret.expose()), None).await.unwrap_err();
    assert_eq!(refused.reason(), "TOKEN_NOT_RENEWABLE");
    let (younger, _) = child(&house, &node, &holder, token(&[], 60)).await;
    node.revoke_token(&root, &house.call(), Target::Token(secret.expose())).await.unwrap();
    assert_eq!(refusal(&house, &node, younger.expose()).await, Some("ANCESTOR_GONE"));
}

#[tokio::test]
async fn a_rotation_of_the_barrier_ends_stateless_tokens_known_ones_too_and_no_others() {
    let (house, node, root) = open_with_rights().await;
    let made = node.create_token(&root, &house.call(), stateless(&["p"], 600)).await.unwrap();
    let stored = node.create_token(&root, &house.call(), token(&["p"], 600)).await.unwrap();
    for secret in [&made.token, &stored.token] {
        assert_eq!(refusal(&house, &node, secret.expose()).await, None);
    }
    house.barrier.install(house.barrier.keyring().unwrap().advance().unwrap()).unwrap();
    // the new epoch seals when every node has heard of it
    let mut waited = 0;
    while refusal(&house, &node, made.token.expose()).await.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += 1;
        assert!(waited < 100, "it goes on");
    }
    assert_eq!(refusal(&house, &node, made.token.expose()).await, Some("OLD_EPOCH"));
    assert_eq!(refusal(&house, &node, stored.token.expose()).await, None);
    let anew = node.create_token(&root, &house.call(), stateless(&["p"], 600)).await.unwrap();
    assert_eq!(refusal(&house, &node, anew.token.expose()).await, None);
}

/// Its parent's record stands for other children's sake: nobody would hear of the end of what was lent.
#[tokio::test]
async fn a_stateless_token_whose_parent_let_its_children_go_is_lent_nothing() {
    let (house, node, root) = open_with_rights().await;
    let (grandparent, old) = child(&house, &node, &root, token(&["p"], 4000)).await;
    let (parent, holder) = child(&house, &node, &old, token(&["p"], 1000)).await;
    let _keeps_the_record = child(&house, &node, &holder, token(&[], 500)).await;
    let (_, lent) = child(&house, &node, &holder, stateless(&[], 500)).await;
    let (changes, own) = (house.changes(), holder.token().unwrap().accessor);
    let lend = async || node.prepare_lending(changes.batch().unwrap(), &lent, house.call().now).await;
    assert_eq!(lend().await.unwrap().1, Some(own.clone()));
    // higher up it changes nothing
    node.revoke_token_orphan(&root, &house.call(), Target::Token(grandparent.expose())).await.unwrap();
    assert_eq!(lend().await.unwrap().1, Some(own));
    node.revoke_token_orphan(&root, &house.call(), Target::Token(parent.expose())).await.unwrap();
    assert_eq!(lend().await.unwrap_err().cause(), "ANCESTOR_GONE");
}
