use crate::house::{House, child, policies, refusal, token};
use identity::{
    Cidr, CreateToken, DefaultPolicy, Excess, Identities, IdentityError, PageRequest, PolicyGlob, Principal, RoleName,
    RoleTokenKind, Through, TokenKind, TokenMetadata, TokenRole,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn role(name: &str) -> TokenRole {
    TokenRole::new(RoleName::parse(name).unwrap())
}

/// One who may make tokens through roles, and may nothing else.
async fn open() -> (House, Identities, Arc<Principal>, Arc<Principal>) {
    let house = House::new();
    let (node, root) = house.open().await;
    let through = r#"path "auth/token/create/+" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["ci"])[0], through).await.unwrap();
    let (_, by) = child(&house, &node, &root, token(&["ci"], 10_000)).await;
    (house, node, root, by)
}

fn through(name: &str, asked: &[&str]) -> CreateToken {
    let through = Through::Role(RoleName::parse(name).unwrap());
    CreateToken { through, renewable: true, excess: Excess::Cap, ..token(asked, 600) }
}

async fn made(
    house: &House,
    node: &Identities,
    by: &Principal,
    command: CreateToken,
) -> Result<TokenMetadata, IdentityError> {
    node.create_token(by, &house.call(), command).await.map(|made| made.metadata)
}

#[tokio::test]
async fn through_a_role_a_caller_gives_what_it_does_not_hold_and_nothing_else() {
    let (house, node, root, by) = open().await;
    let globs = |raw: &[&str]| raw.iter().map(|raw| PolicyGlob::parse(raw).unwrap()).collect::<Vec<_>>();
    for role in [
        TokenRole { allowed_policies: policies(&["app", "web"]), ..role("allowed") },
        TokenRole { allowed_policies_glob: globs(&["team-*"]), ..role("glob") },
        TokenRole { disallowed_policies: policies(&["admin"]), ..role("disallowed") },
        TokenRole { disallowed_policies_glob: globs(&["adm*"]), allowed_policies_glob: globs(&["*"]), ..role("both") },
        role("plain"),
    ] {
        node.put_token_role(&root, &house.call(), &role).await.unwrap();
    }
    for (name, asked, outcome) in [
        ("allowed", &["app"][..], Ok(&["app"][..])),
        ("allowed", &[], Ok(&["app", "web"])),
        ("allowed", &["ci"], Err("PERMISSION_DENIED")),
        ("allowed", &["app", "admin"], Err("PERMISSION_DENIED")),
        ("glob", &["team-a"], Ok(&["team-a"])),
        ("glob", &["teal"], Err("PERMISSION_DENIED")),
        ("disallowed", &["anything"], Ok(&["anything"])),
        ("disallowed", &[], Ok(&["ci"])),
        ("disallowed", &["admin"], Err("PERMISSION_DENIED")),
        ("both", &["admin"], Err("PERMISSION_DENIED")),
        ("both", &["app"], Ok(&["app"])),
        ("plain", &["ci"], Ok(&["ci"])),
        ("plain", &["app"], Err("PERMISSION_DENIED")),
        ("disallowed", &["root"], Err("INVALID_FIELD")),
        ("both", &["root"], Err("INVALID_FIELD")),
        ("nowhere", &["ci"], Err("ROLE_NOT_FOUND")),
    ] {
        let found = made(&house, &node, &by, through(name, asked)).await;
        let found = found.as_ref().map(|made| made.policies.to_vec()).map_err(IdentityError::reason);
        assert_eq!(found, outcome.map(policies), "{name} {asked:?}");
        let direct = node.create_token(&by, &house.call(), token(asked, 600)).await.unwrap_err();
        assert_eq!(direct.reason(), "PERMISSION_DENIED", "only through the role");
    }
    let added = CreateToken { default_policy: DefaultPolicy::Added, ..through("allowed", &["app"]) };
    assert_eq!(made(&house, &node, &by, added).await.unwrap().policies.to_vec(), policies(&["app", "default"]));
}

#[tokio::test]
async fn a_role_puts_its_bounds_on_what_is_made_through_it() {
    let (house, node, root, by) = open().await;
    let bound_cidrs = vec![Cidr::parse("192.0.2.0/24").unwrap()];
    let full = TokenRole {
        allowed_policies: policies(&["app"]),
        orphan: true,
        period: Some(secs(50)),
        explicit_max_ttl: Some(secs(500)),
        num_uses: NonZeroU32::new(3),
        bound_cidrs: bound_cidrs.clone(),
        path_suffix: "v2".into(),
        ..role("full")
    };
    let fixed = TokenRole { renewable: false, kind: RoleTokenKind::Stateless, ..role("fixed") };
    let default = TokenRole { kind: RoleTokenKind::DefaultStateless, ..role("default") };
    let once = TokenRole { renewable: false, ..role("once") };
    for role in [&full, &fixed, &default, &once] {
        node.put_token_role(&root, &house.call(), role).await.unwrap();
        assert_eq!(node.read_token_role(&root, &house.call(), &role.name).await.unwrap(), *role);
    }
    assert!(!made(&house, &node, &by, through("once", &[])).await.unwrap().renewable);
    let found = made(&house, &node, &by, through("full", &[])).await.unwrap();
    assert!(found.is_orphan() && found.renewable);
    assert_eq!((found.period, found.explicit_max_ttl, found.uses_left), (Some(secs(50)), Some(secs(500)), Some(3)));
    assert_eq!((&*found.path, found.role), ("auth/token/create/full/v2", Some(full.name)));
    assert_eq!((found.bound_cidrs.to_vec(), found.creation_ttl), (bound_cidrs, Some(secs(50))));
    let fewer =
        CreateToken { num_uses: NonZeroU32::new(2), explicit_max_ttl: Some(secs(40)), ..through("full", &["app"]) };
    let found = made(&house, &node, &by, fewer).await.unwrap();
    assert_eq!(
        (found.uses_left, found.explicit_max_ttl, found.creation_ttl),
        (Some(2), Some(secs(40)), Some(secs(40)))
    );
    let periodic = CreateToken { period: Some(secs(60)), ..through("full", &["app"]) };
    assert_eq!(made(&house, &node, &by, periodic).await.unwrap_err().reason(), "PERMISSION_DENIED");

    for (name, asked, kind) in [
        ("fixed", None, Ok(TokenKind::Stateless)),
        ("fixed", Some(TokenKind::Service), Err(Some("type"))),
        ("default", None, Ok(TokenKind::Stateless)),
        ("default", Some(TokenKind::Service), Ok(TokenKind::Service)),
        ("full", Some(TokenKind::Stateless), Err(Some("num_uses"))),
    ] {
        let command = CreateToken { kind: asked, ..through(name, &[]) };
        let found = made(&house, &node, &by, command).await;
        assert_eq!(found.map(|made| made.kind).map_err(|error| error.field()), kind, "{name} {asked:?}");
    }
    let orphan = node.create_token(&by, &house.call(), through("full", &["app"])).await.unwrap().token;
    node.revoke_token(&by, &house.call(), identity::Target::Own).await.unwrap();
    assert_eq!(refusal(&house, &node, orphan.expose()).await, None);
}

/// No way around [`nobody_gives_what_is_not_theirs`]: who may write roles gives through them what it holds, or holds sudo.
#[tokio::test]
async fn a_role_that_gives_more_than_its_writer_has_takes_sudo() {
    let (house, node, root, _) = open().await;
    let write = r#"path "auth/token/roles/*" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["write"])[0], write).await.unwrap();
    let sudo = write.replace("\"update\"", "\"update\", \"sudo\"");
    node.put_policy(&root, &house.call(), &policies(&["sudo"])[0], &sudo).await.unwrap();
    let (_, plain) = child(&house, &node, &root, token(&["write"], 600)).await;
    let (_, strong) = child(&house, &node, &root, token(&["sudo"], 600)).await;
    let glob = |raw: &str| vec![PolicyGlob::parse(raw).unwrap()];
    for (role, takes_sudo) in [
        (role("r"), false),
        (TokenRole { allowed_policies: policies(&["write"]), ..role("r") }, false),
        (TokenRole { allowed_policies: policies(&["write", "app"]), ..role("r") }, true),
        (TokenRole { allowed_policies_glob: glob("w*"), ..role("r") }, true),
        (TokenRole { disallowed_policies: policies(&["x"]), ..role("r") }, true),
        (TokenRole { disallowed_policies_glob: glob("x"), ..role("r") }, true),
        (TokenRole { orphan: true, ..role("r") }, true),
        (TokenRole { period: Some(secs(1)), ..role("r") }, true),
    ] {
        let by_plain = node.put_token_role(&plain, &house.call(), &role).await;
        assert_eq!(
            by_plain.map_err(|error| error.reason()).err(),
            takes_sudo.then_some("PERMISSION_DENIED"),
            "{role:?}"
        );
        node.put_token_role(&strong, &house.call(), &role).await.unwrap();
    }
    for (role, field) in [
        (TokenRole { allowed_policies: policies(&["root"]), ..role("r") }, "allowed_policies"),
        (TokenRole { path_suffix: "a/b".into(), ..role("r") }, "path_suffix"),
        (TokenRole { path_suffix: "x".repeat(65), ..role("r") }, "path_suffix"),
        (TokenRole { kind: RoleTokenKind::Stateless, period: Some(secs(1)), ..role("r") }, "token_period"),
        (TokenRole { kind: RoleTokenKind::Stateless, num_uses: NonZeroU32::new(1), ..role("r") }, "token_num_uses"),
    ] {
        let refused = node.put_token_role(&root, &house.call(), &role).await.unwrap_err();
        assert_eq!(refused.field(), Some(field));
    }
}

#[tokio::test]
async fn roles_are_listed_and_dropped_and_what_they_made_goes_on() {
    let (house, node, root, by) = open().await;
    for name in ["a", "b", "c"] {
        node.put_token_role(&root, &house.call(), &role(name)).await.unwrap();
    }
    let secret = node.create_token(&by, &house.call(), through("b", &[])).await.unwrap().token;
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let page = PageRequest::parse(2, &marker).unwrap();
        let page = node.list_token_roles(&root, &house.call(), &page).await.unwrap();
        names.extend(page.names.iter().map(ToString::to_string));
        let Some(next) = page.next_marker else { break };
        marker = next;
    }
    assert_eq!(names, ["a", "b", "c"]);
    let b = RoleName::parse("b").unwrap();
    node.delete_token_role(&root, &house.call(), &b).await.unwrap();
    for missing in [
        node.delete_token_role(&root, &house.call(), &b).await.unwrap_err(),
        node.read_token_role(&root, &house.call(), &b).await.unwrap_err(),
        node.create_token(&by, &house.call(), through("b", &[])).await.unwrap_err(),
    ] {
        assert_eq!(missing.reason(), "ROLE_NOT_FOUND");
    }
    assert_eq!(refusal(&house, &node, secret.expose()).await, None);
    let page = PageRequest::parse(0, "").unwrap();
    for refused in [
        node.put_token_role(&by, &house.call(), &role("a")).await.unwrap_err(),
        node.read_token_role(&by, &house.call(), &b).await.map(drop).unwrap_err(),
        node.list_token_roles(&by, &house.call(), &page).await.map(drop).unwrap_err(),
        node.delete_token_role(&by, &house.call(), &b).await.unwrap_err(),
    ] {
        assert_eq!(refused.reason(), "PERMISSION_DENIED");
    }
}
