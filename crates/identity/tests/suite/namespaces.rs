//! What is known of who asks in one namespace is nothing in another one, from memory neither.

use crate::house::{House, TENANT, certificate, policies, refusal, token};
use envelope::SecretBytes;
use identity::{CertificateMatch, CertificateRole, CreateToken, Identities, Principal, RoleName, TokenKind};
use std::sync::Arc;
use storage::EntryPath;

fn namespace(node: &Identities, number: u8, mark: &str) -> Identities {
    let (root, own) = (hex::encode(TENANT), hex::encode([number; 16]));
    node.in_namespace(&EntryPath::parse(&format!("{root}/ns/{own}")).unwrap(), mark).unwrap()
}

/// Made by the root's token, as that of a namespace above: with sudo everywhere, so that it may give any policy.
async fn made(
    house: &House,
    (root, node): (&Arc<Principal>, &Identities),
    at: &Identities,
    kind: TokenKind,
) -> SecretBytes {
    let by = root.below(node, "a/");
    let command = CreateToken { kind: Some(kind), ..token(&["x"], 60) };
    at.create_token(&by, &house.call(), command).await.unwrap().token
}

#[tokio::test]
async fn a_token_is_known_where_it_was_made_and_nowhere_else_whatever_its_text_says() {
    let house = House::new();
    let (node, root) = house.open().await;
    let (one, two) = (namespace(&node, 1, "one111"), namespace(&node, 2, "two222"));
    // of another namespace, with the same mark
    let twin = namespace(&node, 3, "one111");
    for kind in [TokenKind::Service, TokenKind::Stateless] {
        let own = made(&house, (&root, &node), &one, kind).await;
        let text = std::str::from_utf8(own.expose()).unwrap().to_owned();
        let plain = text.strip_suffix(".one111").unwrap().to_owned();
        let other = format!("{plain}.two222");
        // twice: the second time from memory
        for _ in 0..2 {
            assert_eq!(refusal(&house, &one, text.as_bytes()).await, None);
            for (at, spelled) in [
                (&node, &text),
                (&node, &plain),
                (&two, &text),
                (&two, &other),
                (&two, &plain),
                (&twin, &text),
                (&one, &plain),
                (&one, &other),
            ] {
                assert_eq!(refusal(&house, at, spelled.as_bytes()).await, Some("TOKEN_UNKNOWN"), "{kind:?} {spelled}");
            }
        }
    }
    // nor is the root's in a namespace
    assert_eq!(refusal(&house, &one, crate::house::ROOT).await, Some("TOKEN_UNKNOWN"));
}

#[tokio::test]
async fn certificate_roles_are_the_roots() {
    let house = House::new();
    let (node, root) = house.open().await;
    let role = CertificateRole {
        name: RoleName::parse("web").unwrap(),
        matches: CertificateMatch::Thumbprint([1; 32]),
        policies: policies(&["x"]).into(),
    };
    node.put_certificate_role(&root, &house.call(), &role).await.unwrap();
    let shown = certificate(1, "web", &[]);
    let known = node.authenticate(None, Some(&shown), &house.call()).await.unwrap();
    let one = namespace(&node, 1, "one111");
    let error = one.authenticate(None, Some(&shown), &house.call()).await.unwrap_err();
    assert_eq!(error.cause(), "CERTIFICATE_UNKNOWN");
    // what it makes there by rights of the root's ends with the role
    node.put_policy(&root, &house.call(), &policies(&["x"])[0], r#"path "a/*" { capabilities = ["update", "sudo"] }"#)
        .await
        .unwrap();
    let by = node.authenticate(None, Some(&shown), &house.call()).await.unwrap().below(&node, "a/");
    let made = one.create_token(&by, &house.call(), token(&["y"], 60)).await.unwrap();
    assert_eq!(made.metadata.certificate_thumbprint, Some([1; 32]));
    assert_eq!(made.metadata.parent.text(), "cert/web");
    one.authenticate(Some(made.token.expose()), Some(&shown), &house.call()).await.unwrap();
    node.delete_certificate_role(&root, &house.call(), &role.name).await.unwrap();
    let error = one.authenticate(Some(made.token.expose()), Some(&shown), &house.call()).await.unwrap_err();
    assert_eq!(error.cause(), "ANCESTOR_GONE");
    drop(known);
}
