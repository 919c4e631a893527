use super::*;
use crate::cidr::Cidr;
use crate::token::{Above, PolicyGlob, RoleTokenKind, TokenKind, TokenRole};
use std::time::Duration;

fn name(raw: &str) -> PolicyName {
    PolicyName::parse(raw).unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::copy_from(text.as_bytes())
}

fn a_token() -> TokenRecord {
    let role = RoleName::parse("web").unwrap();
    TokenRecord {
        accessor: Accessor::parse("000102030405060708090a0b0c0d0e0f").unwrap(),
        display_name: DisplayName::parse("ci").unwrap(),
        policies: Arc::new([name("a"), name("b")]),
        created: Timestamp::from_unix_millis(1000),
        expires: Some(Timestamp::from_unix_millis(2000)),
        use_limited: true,
        thumbprint: Some([1; 32]),
        generation: 7,
        ancestors: vec![Digest([2; 32]), Digest([3; 32])],
        parent: Parent::Token(Accessor::parse("ffffffffffffffffffffffffffffffff").unwrap()),
        role: Some((role, [4; 16])),
        terms: Terms::plain(Some(Duration::from_secs(1))),
    }
}

/// All that terms may hold.
fn on_terms() -> Terms {
    Terms {
        kind: TokenKind::Service,
        renewable: true,
        period: Some(Duration::from_secs(3)),
        explicit_max: Some(Timestamp::from_unix_millis(9000)),
        creation_ttl: Some(Duration::from_millis(1000)),
        renewed: Some(Timestamp::from_unix_millis(1500)),
        path: "auth/token/create/deploy/x".into(),
        meta: [("role".to_owned(), "ci".to_owned())].into(),
        entity: Some([5; 16]),
        bound_cidrs: Arc::new([Cidr::parse("10.0.0.0/8").unwrap(), Cidr::parse("::1").unwrap()]),
        token_role: Some(RoleName::parse("deploy").unwrap()),
        released: true,
        above: Vec::new(),
    }
}

/// Of who was made by a token of a namespace above, which descends from one of the root.
fn of_above() -> Terms {
    let root = |text| storage::EntryPath::parse(text).unwrap();
    let near = Above { root: root("7e/ns/01/identity"), tokens: vec![Digest([6; 32])], role: None };
    let role = Some((RoleName::parse("web").unwrap(), [4; 16]));
    let far = Above { root: root("7e/identity"), tokens: vec![Digest([7; 32]), Digest([8; 32])], role };
    Terms { above: vec![near, far], ..Terms::plain(Some(Duration::from_secs(1))) }
}

/// What version 1 stored is read for ever: these lines never change.
#[test]
fn what_version_1_stored_is_read_for_ever() {
    let orphan = TokenRecord {
        expires: None,
        use_limited: false,
        thumbprint: None,
        ancestors: Vec::new(),
        parent: Parent::Orphan,
        role: None,
        terms: Terms::plain(None),
        ..a_token()
    };
    let of_role =
        TokenRecord { ancestors: Vec::new(), parent: Parent::Role(RoleName::parse("web").unwrap()), ..a_token() };
    for (stored, record) in [
        (include_str!("golden/token_child.json"), a_token()),
        (include_str!("golden/token_orphan.json"), orphan),
        (include_str!("golden/token_of_role.json"), of_role),
    ] {
        let stored = stored.trim_end();
        assert_eq!(decode_token(&secret(stored)).unwrap(), record, "{stored}");
    }
    let stored = include_str!("golden/uses.json").trim_end();
    assert_eq!(decode_uses(&secret(stored)).unwrap(), 3);
    assert_eq!(encode_uses(3).unwrap(), stored.as_bytes());
    for (stored, matches, lineage) in [
        (include_str!("golden/role_thumbprint.json"), CertificateMatch::Thumbprint([1; 32]), None),
        (include_str!("golden/role_common_name.json"), CertificateMatch::CommonName("web 1".into()), None),
        (include_str!("golden/role_san.json"), CertificateMatch::SubjectAlternativeName("spiffe://a/b".into()), None),
        (include_str!("golden/role_lineage.json"), CertificateMatch::CommonName("web 1".into()), Some([5; 16])),
    ] {
        let stored = stored.trim_end();
        let role = StoredRole { matches, policies: Arc::new([name("a")]), incarnation: [4; 16], lineage };
        assert_eq!(decode_role(&secret(stored)).unwrap(), role, "{stored}");
        assert_eq!(encode_role(&role).unwrap(), stored.as_bytes(), "{stored}");
    }
}

#[test]
fn what_version_2_stored_is_read_for_ever() {
    let stateless = Terms { kind: TokenKind::Stateless, ..Terms::plain(Some(Duration::from_secs(1))) };
    for (stored, terms) in [
        (include_str!("golden/token_on_terms.json"), on_terms()),
        (include_str!("golden/token_stateless.json"), stateless),
        (include_str!("golden/token_of_above.json"), of_above()),
    ] {
        let (stored, record) = (stored.trim_end(), TokenRecord { terms, ..a_token() });
        assert_eq!(decode_token(&secret(stored)).unwrap(), record, "{stored}");
        assert_eq!(std::str::from_utf8(&encode_token(&record).unwrap()).unwrap(), stored);
    }
    let deploy = RoleName::parse("deploy").unwrap();
    let role = TokenRole {
        allowed_policies: vec![name("a")],
        allowed_policies_glob: vec![PolicyGlob::parse("t-*").unwrap()],
        disallowed_policies: vec![name("b")],
        disallowed_policies_glob: vec![PolicyGlob::parse("*-x").unwrap()],
        orphan: true,
        period: Some(Duration::from_secs(3)),
        explicit_max_ttl: Some(Duration::from_secs(9)),
        num_uses: std::num::NonZeroU32::new(4),
        bound_cidrs: vec![Cidr::parse("10.0.0.0/8").unwrap()],
        kind: RoleTokenKind::Service,
        path_suffix: "x".into(),
        ..TokenRole::new(deploy.clone())
    };
    let stored = include_str!("golden/token_role.json").trim_end();
    assert_eq!(decode_token_role(&deploy, &secret(stored)).unwrap(), role, "{stored}");
    assert_eq!(std::str::from_utf8(&encode_token_role(&role).unwrap()).unwrap(), stored);
}

#[test]
fn what_is_not_ours_is_altered_data_and_never_half_read() {
    let sound = include_str!("golden/token_child.json").trim_end();
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("\"version\":1", "\"version\":3"),
        ("\"role\":{", "\"terms\":{\"kind\":\"service\",\"renewable\":true,\"path\":\"a\"},\"role\":{"),
        ("\"version\":1", "\"version\":1,\"more\":1"),
        ("\"generation\":7,", ""),
        ("\"generation\":7", "\"generation\":-7"),
        ("\"display_name\":\"ci\"", "\"display_name\":\"c i\""),
        ("\"policies\":[\"a\"", "\"policies\":[\"A\""),
        ("0101010101", "01010101"),
        ("0202020202", "020202020g"),
        ("000102030405060708090a0b0c0d0e0f", "accessor"),
        ("}", ""),
        ("{", "[{"),
    ] {
        let altered = sound.replacen(from, to, 1);
        assert_ne!(altered, sound, "{from}");
        assert!(matches!(decode_token(&secret(&altered)), Err(IdentityError::Altered(_))), "{altered}");
    }
    let sound = include_str!("golden/token_on_terms.json").trim_end();
    for (from, to) in [
        ("\"version\":2", "\"version\":1"),
        ("\"kind\":\"service\"", "\"kind\":\"batch\""),
        ("\"renewable\":true,", ""),
        ("\"renewable\":true", "\"renewable\":true,\"more\":1"),
        ("10.0.0.0/8", "10.0.0.1/8"),
        ("0505", "05"),
        ("\"token_role\":\"deploy\"", "\"token_role\":\"De ploy\""),
    ] {
        let altered = sound.replacen(from, to, 1);
        assert_ne!(altered, sound, "{from}");
        assert!(matches!(decode_token(&secret(&altered)), Err(IdentityError::Altered(_))), "{altered}");
    }
    for altered in
        ["", "{}", "null", r#"{"version":2,"left":1}"#, r#"{"version":1,"left":-1}"#, r#"{"version":1,"left":1}x"#]
    {
        assert!(decode_uses(&secret(altered)).is_err(), "{altered}");
        assert!(decode_role(&secret(altered)).is_err(), "{altered}");
    }
    assert!(decode_digest(&secret("short")).is_err());
    assert!(decode_name(&secret("Not A Name")).is_err());
}
