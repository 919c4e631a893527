use crate::house::{House, certificate, child, policies, refusal, token, within_two_seconds};
use audit::Subject;
use identity::token::Parent;
use identity::{
    CertificateMatch, CertificateRole, CreateToken, Identities, PageRequest, PeerCertificate, Principal, RoleName,
    Standing,
};

fn role(name: &str, matches: CertificateMatch, names: &[&str]) -> CertificateRole {
    CertificateRole { name: RoleName::parse(name).unwrap(), matches, policies: policies(names).into() }
}

fn thumbprint(byte: u8) -> CertificateMatch {
    CertificateMatch::Thumbprint([byte; 32])
}

fn common_name(name: &str) -> CertificateMatch {
    CertificateMatch::CommonName(name.to_owned())
}

fn san(name: &str) -> CertificateMatch {
    CertificateMatch::SubjectAlternativeName(name.to_owned())
}

async fn put(house: &House, node: &Identities, by: &Principal, role: CertificateRole) -> Result<(), &'static str> {
    node.put_certificate_role(by, &house.call(), &role).await.map_err(|error| error.reason())
}

/// `cert/ROLE`, without the lineage; or why not.
async fn name_of(house: &House, node: &Identities, certificate: &PeerCertificate) -> String {
    match node.authenticate(None, Some(certificate), &house.call()).await {
        Ok(principal) => principal.id().split('@').next().unwrap().to_owned(),
        Err(error) => {
            assert_eq!(error.reason(), "UNAUTHENTICATED");
            error.cause().to_owned()
        }
    }
}

#[tokio::test]
async fn a_certificate_stands_for_the_role_that_knows_it_best() {
    let house = House::new();
    let (node, root) = house.open().await;
    let there = house.node();
    let shown = certificate(1, "web", &["web.example", "spiffe://x/web"]);
    let others = [
        certificate(2, "Web", &[]),
        certificate(2, "web.example", &["web"]),
        certificate(2, "web ", &["web.example.org", "*.example"]),
        PeerCertificate { sans: vec![String::new()], ..certificate(2, "", &[]) },
        // shown, and nobody vouches for it
        PeerCertificate { standing: Standing::Shown, ..shown.clone() },
    ];
    for (role, expected) in [
        (None, "CERTIFICATE_UNKNOWN"),
        (Some(role("by-name", common_name("web"), &["p"])), "cert/by-name"),
        (Some(role("by-uri", san("spiffe://x/web"), &["p"])), "cert/by-uri"),
        (Some(role("by-dns", san("web.example"), &["p"])), "cert/by-dns"),
        (Some(role("by-print", thumbprint(1), &["p"])), "cert/by-print"),
    ] {
        if let Some(role) = role {
            put(&house, &node, &root, role).await.unwrap();
        }
        assert_eq!(name_of(&house, &node, &shown).await, expected);
        within_two_seconds(async || name_of(&house, &there, &shown).await == expected).await;
        for other in &others {
            assert_eq!(name_of(&house, &node, other).await, "CERTIFICATE_UNKNOWN", "{other:?}");
        }
    }
    let by = node.authenticate(None, Some(&shown), &house.call()).await.unwrap();
    assert_eq!(*by.subject(), Subject::Certificate { thumbprint: "01".repeat(32), name: "by-print".into() });
    for (name, expected) in [("by-print", "cert/by-dns"), ("by-dns", "cert/by-uri"), ("by-uri", "cert/by-name")] {
        node.delete_certificate_role(&root, &house.call(), &RoleName::parse(name).unwrap()).await.unwrap();
        assert_eq!(name_of(&house, &node, &shown).await, expected);
        within_two_seconds(async || name_of(&house, &there, &shown).await == expected).await;
    }
}

#[tokio::test]
async fn a_role_that_is_written_again_leaves_nothing_of_the_former() {
    let house = House::new();
    let (node, root) = house.open().await;
    put(&house, &node, &root, role("web", common_name("old"), &["p"])).await.unwrap();
    put(&house, &node, &root, role("web", common_name("old"), &["q"])).await.unwrap();
    let old = certificate(1, "old", &[]);
    let by = node.authenticate(None, Some(&old), &house.call()).await.unwrap();
    assert_eq!(by.policies(), policies(&["q"]));
    put(&house, &node, &root, role("web", common_name("new"), &["p"])).await.unwrap();
    assert_eq!(name_of(&house, &node, &old).await, "CERTIFICATE_UNKNOWN");
    assert_eq!(name_of(&house, &node, &certificate(2, "new", &[])).await, "cert/web");
    assert_eq!(house.entries_below("matches").await.len(), 1);
    // one match, one role
    assert_eq!(put(&house, &node, &root, role("other", common_name("new"), &["p"])).await, Err("INVALID_FIELD"));
    node.delete_certificate_role(&root, &house.call(), &RoleName::parse("web").unwrap()).await.unwrap();
    assert_eq!(put(&house, &node, &root, role("other", common_name("new"), &["p"])).await, Ok(()));
    let gone = node.delete_certificate_role(&root, &house.call(), &RoleName::parse("web").unwrap()).await;
    assert_eq!(gone.unwrap_err().reason(), "ROLE_NOT_FOUND");
}

#[tokio::test]
async fn a_role_that_may_not_be_is_refused() {
    let house = House::new();
    let (node, root) = house.open().await;
    let text = r#"path "auth/cert/certs/*" { capabilities = ["update", "list"] }
                  path "auth/cert/certs/sudo-*" { capabilities = ["update", "sudo"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["certs"])[0], text).await.unwrap();
    let (_, keeper) = child(&house, &node, &root, token(&["certs", "p"], 600)).await;
    let (_, stranger) = child(&house, &node, &root, token(&["p"], 600)).await;
    let many: Vec<String> = (0..65).map(|i| format!("p{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (by, role, outcome) in [
        (&root, role("a", thumbprint(1), &[]), Err("INVALID_FIELD")),
        (&root, role("a", thumbprint(1), &many), Err("INVALID_FIELD")),
        (&root, role("a", thumbprint(1), &many[..64]), Ok(())),
        (&root, role("a", thumbprint(1), &["root"]), Err("INVALID_FIELD")),
        (&root, role("b", common_name(""), &["p"]), Err("INVALID_FIELD")),
        (&root, role("b", san(&"x".repeat(257)), &["p"]), Err("INVALID_FIELD")),
        (&root, role("b", san(&"x".repeat(256)), &["p"]), Ok(())),
        (&keeper, role("c", common_name("c"), &["p", "certs"]), Ok(())),
        (&keeper, role("c", common_name("c"), &["p", "more"]), Err("PERMISSION_DENIED")),
        (&keeper, role("sudo-c", common_name("d"), &["p", "more"]), Ok(())),
        (&keeper, role("sudo-c", common_name("d"), &["root"]), Err("INVALID_FIELD")),
        (&stranger, role("e", common_name("e"), &["p"]), Err("PERMISSION_DENIED")),
    ] {
        let shown = format!("{role:?}");
        assert_eq!(put(&house, &node, by, role).await, outcome, "{shown}");
    }
    let all = PageRequest::parse(0, "").unwrap();
    assert_eq!(
        node.list_certificate_roles(&stranger, &house.call(), &all).await.unwrap_err().reason(),
        "PERMISSION_DENIED"
    );
    let mut names = Vec::new();
    let mut page = PageRequest::parse(2, "").unwrap();
    loop {
        let found = node.list_certificate_roles(&keeper, &house.call(), &page).await.unwrap();
        names.extend(found.roles.iter().map(|role| role.name.to_string()));
        let Some(marker) = found.next_marker else { break };
        page = PageRequest::parse(2, &marker).unwrap();
    }
    assert_eq!(names, ["a", "b", "c", "sudo-c"]);
}

#[tokio::test]
async fn a_bound_token_counts_beside_its_certificate_only() {
    let house = House::new();
    let (node, root) = house.open().await;
    let mine = certificate(1, "mine", &[]);
    let other = certificate(2, "other", &[]);
    put(&house, &node, &root, role("strong", common_name("other"), &["strong"])).await.unwrap();
    let bound = CreateToken { certificate_thumbprint: Some([1; 32]), ..token(&["p"], 600) };
    let counted = CreateToken { num_uses: std::num::NonZeroU32::new(2), ..bound.clone() };
    let bound = node.create_token(&root, &house.call(), bound).await.unwrap();
    let counted = node.create_token(&root, &house.call(), counted).await.unwrap();
    let free = node.create_token(&root, &house.call(), token(&["p"], 600)).await.unwrap();
    for round in ["from the store", "from the cache"] {
        for (token, shown, cause) in [
            (&bound, None, Some("CERTIFICATE_MISSING")),
            (&bound, Some(&other), Some("CERTIFICATE_OTHER")),
            (&bound, Some(&mine), None),
            (&counted, None, Some("CERTIFICATE_MISSING")),
            (&counted, Some(&other), Some("CERTIFICATE_OTHER")),
            (&counted, Some(&mine), None),
            (&free, None, None),
            (&free, Some(&other), None),
        ] {
            let outcome = node.authenticate(Some(token.token.expose()), shown, &house.call()).await;
            // the token's rights, never the certificate's
            if let Ok(principal) = &outcome {
                assert_eq!(principal.policies(), policies(&["p"]));
            }
            assert_eq!(outcome.err().map(|error| error.cause()), cause, "{round}: {shown:?}");
        }
    }
    // a token that does not count is not made good by a certificate that would
    let wrong = node.authenticate(Some(b"nobody-ever-made-this"), Some(&other), &house.call()).await.unwrap_err();
    assert_eq!(wrong.cause(), "TOKEN_UNKNOWN");
}

#[tokio::test]
async fn what_a_certificate_makes_is_bound_and_ends_with_its_role() {
    let house = House::new();
    let (node, root) = house.open().await;
    let text = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    node.put_policy(&root, &house.call(), &policies(&["p"])[0], text).await.unwrap();
    let shown = certificate(1, "web", &[]);
    for end in ["deleted", "written again"] {
        put(&house, &node, &root, role("web", common_name("web"), &["p"])).await.unwrap();
        let by = node.authenticate(None, Some(&shown), &house.call()).await.unwrap();
        assert_eq!(
            node.lookup_token(&by, &house.call(), identity::Target::Own).await.unwrap_err().reason(),
            "TOKEN_NOT_FOUND"
        );
        let made = node.create_token(&by, &house.call(), token(&[], 600)).await.unwrap();
        assert_eq!(made.metadata.parent, Parent::Role(RoleName::parse("web").unwrap()));
        assert_eq!(made.metadata.certificate_thumbprint, Some([1; 32]));
        let other = CreateToken { certificate_thumbprint: Some([3; 32]), ..token(&[], 600) };
        let other = node.create_token(&by, &house.call(), other).await.unwrap();
        assert_eq!(other.metadata.certificate_thumbprint, Some([3; 32]));
        let holder = node.authenticate(Some(made.token.expose()), Some(&shown), &house.call()).await.unwrap();
        let grandchild = node.create_token(&holder, &house.call(), token(&[], 60)).await.unwrap();
        assert_eq!(grandchild.metadata.certificate_thumbprint, Some([1; 32]));
        assert_eq!(refusal(&house, &node, made.token.expose()).await, Some("CERTIFICATE_MISSING"));
        let name = RoleName::parse("web").unwrap();
        if end == "deleted" {
            node.delete_certificate_role(&root, &house.call(), &name).await.unwrap();
        } else {
            put(&house, &node, &root, role("web", common_name("web"), &["p"])).await.unwrap();
        }
        for token in [&made.token, &grandchild.token] {
            let gone = node.authenticate(Some(token.expose()), Some(&shown), &house.call()).await.unwrap_err();
            assert_eq!(gone.cause(), "ANCESTOR_GONE", "{end}");
        }
        let refused = node.create_token(&by, &house.call(), token(&[], 600)).await.unwrap_err();
        assert_eq!(refused.reason(), "PERMISSION_DENIED", "{end}");
    }
}
