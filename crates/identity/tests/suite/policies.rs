use crate::house::{House, child, policies, token, within_two_seconds};
use identity::{Capability, PageRequest, PolicyName, Verdict, decide};

fn name(raw: &str) -> PolicyName {
    PolicyName::parse(raw).unwrap()
}

const READ_A: &str = r#"path "a" { capabilities = ["read"] }"#;
const READ_B: &str = r#"{"path": {"b": {"capabilities": ["read"]}}}"#;

#[tokio::test]
async fn a_policy_counts_as_soon_as_it_is_written_and_no_longer_than_it_stands() {
    let house = House::new();
    let (node, root) = house.open().await;
    let there = house.node();
    let (secret, _) = child(&house, &node, &root, token(&["p"], 600)).await;
    let may = async |node: &identity::Identities| {
        let holder = node.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
        ["a", "b"]
            .map(|path| matches!(decide(holder.acl(), path, Capability::Read).verdict, Verdict::Allow { rule: "p" }))
    };
    assert_eq!(may(&there).await, [false, false]);
    for (text, expected) in [(Some(READ_A), [true, false]), (Some(READ_B), [false, true]), (None, [false, false])] {
        match text {
            Some(text) => node.put_policy(&root, &house.call(), &name("p"), text).await.unwrap(),
            None => node.delete_policy(&root, &house.call(), &name("p")).await.unwrap(),
        }
        assert_eq!(may(&node).await, expected, "at once where it was written");
        within_two_seconds(async || may(&there).await == expected).await;
        if let Some(text) = text {
            let read = node.get_policy(&root, &house.call(), &name("p")).await.unwrap();
            assert_eq!((read.name, read.text.as_str()), (name("p"), text));
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_said() {
    let house = House::new();
    let (node, root) = house.open().await;
    let long = " ".repeat(65_537);
    for (policy, text, reason, field) in [
        ("root", READ_A, "INVALID_FIELD", "name"),
        ("p", "path", "INVALID_FIELD", "policy"),
        ("p", r#"path "a" { policy = "all" }"#, "INVALID_FIELD", "policy"),
        ("p", &long, "INVALID_FIELD", "policy"),
    ] {
        let error = node.put_policy(&root, &house.call(), &name(policy), text).await.unwrap_err();
        assert_eq!((error.reason(), error.field()), (reason, Some(field)), "{policy}");
    }
    let error = node.put_policy(&root, &house.call(), &name("p"), "\nx = 1").await.unwrap_err();
    assert_eq!(error.to_string(), "the policy is malformed: line 2: unknown key \"x\"");
    for error in [
        node.get_policy(&root, &house.call(), &name("p")).await.map(|_| ()).unwrap_err(),
        node.delete_policy(&root, &house.call(), &name("p")).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "POLICY_NOT_FOUND");
    }
    assert_eq!(node.delete_policy(&root, &house.call(), &name("root")).await.unwrap_err().field(), Some("name"));
}

#[tokio::test]
async fn built_in_policies_are_read_and_listed_and_default_may_be_replaced() {
    let house = House::new();
    let (node, root) = house.open().await;
    for built_in in ["default", "root"] {
        let read = node.get_policy(&root, &house.call(), &name(built_in)).await.unwrap();
        assert!(identity::Policy::parse(&read.text).is_ok_and(|policy| !policy.rules().is_empty()), "{built_in}");
    }
    let built_in = node.get_policy(&root, &house.call(), &name("default")).await.unwrap();
    let (secret, _) = child(&house, &node, &root, token(&["default"], 600)).await;
    node.put_policy(&root, &house.call(), &name("default"), READ_A).await.unwrap();
    let holder = node.authenticate(Some(secret.expose()), None, &house.call()).await.unwrap();
    assert_eq!(decide(holder.acl(), "a", Capability::Read).verdict, Verdict::Allow { rule: "default" });
    node.delete_policy(&root, &house.call(), &name("default")).await.unwrap();
    assert_eq!(node.get_policy(&root, &house.call(), &name("default")).await.unwrap(), built_in);
}

#[tokio::test]
async fn a_list_is_whole_and_in_order_whatever_the_page() {
    let house = House::new();
    let (node, root) = house.open().await;
    let written = ["a", "b-1", "default", "e", "s", "z_9", "zz"];
    for policy in written {
        node.put_policy(&root, &house.call(), &name(policy), READ_A).await.unwrap();
    }
    let mut expected = policies(&written);
    expected.push(name("root"));
    expected.sort();
    for limit in [1, 2, 3, 7, 8, 9, 1000, 0] {
        let mut names = Vec::new();
        let mut marker = String::new();
        loop {
            let page = PageRequest::parse(limit, &marker).unwrap();
            let found = node.list_policies(&root, &house.call(), &page).await.unwrap();
            assert!(found.names.len() <= usize::try_from(if limit == 0 { 100 } else { limit }).unwrap());
            names.extend(found.names);
            match found.next_marker {
                Some(next) => marker = next,
                None => break,
            }
        }
        assert_eq!(names, expected, "pages of {limit}");
    }
    for (limit, marker, reason) in
        [(1001, "", "INVALID_FIELD"), (1, "No Marker", "INVALID_MARKER"), (1, "..", "INVALID_MARKER")]
    {
        assert_eq!(PageRequest::parse(limit, marker).unwrap_err().reason(), reason);
    }
}

#[tokio::test]
async fn each_operation_takes_its_own_right() {
    let house = House::new();
    let (node, root) = house.open().await;
    let texts = [
        ("update", r#"path "sys/policies/acl/mine-*" { capabilities = ["update"] }"#),
        ("read", r#"path "sys/policies/acl/+" { capabilities = ["read"] }"#),
        ("list", r#"path "sys/policies/acl" { capabilities = ["list"] }"#),
        ("delete", r#"path "sys/policies/acl/mine-1" { capabilities = ["delete"] }"#),
        ("deny", r#"path "sys/policies/acl/*" { capabilities = ["deny"] }"#),
    ];
    for (policy, text) in texts {
        node.put_policy(&root, &house.call(), &name(policy), text).await.unwrap();
    }
    let page = PageRequest::parse(0, "").unwrap();
    for (own, allowed) in [
        (&["update"][..], "update mine"),
        (&["read"], "read"),
        (&["list"], "list"),
        (&["delete"], "delete mine"),
        (&["deny"], ""),
        (&["update", "delete"], "delete mine"),
        (&["nothing"], ""),
    ] {
        node.put_policy(&root, &house.call(), &name("mine-1"), READ_A).await.unwrap();
        let (_, holder) = child(&house, &node, &root, token(own, 600)).await;
        let found = [
            ("update", node.put_policy(&holder, &house.call(), &name("other"), READ_A).await.map_err(|e| e.reason())),
            (
                "update mine",
                node.put_policy(&holder, &house.call(), &name("mine-1"), READ_A).await.map_err(|e| e.reason()),
            ),
            (
                "read",
                node.get_policy(&holder, &house.call(), &name("mine-1")).await.map(|_| ()).map_err(|e| e.reason()),
            ),
            ("list", node.list_policies(&holder, &house.call(), &page).await.map(|_| ()).map_err(|e| e.reason())),
            ("delete", node.delete_policy(&holder, &house.call(), &name("other")).await.map_err(|e| e.reason())),
            ("delete mine", node.delete_policy(&holder, &house.call(), &name("mine-1")).await.map_err(|e| e.reason())),
        ];
        for (operation, outcome) in found {
            let expected = if operation == allowed { Ok(()) } else { Err("PERMISSION_DENIED") };
            assert_eq!(outcome, expected, "{own:?}: {operation}");
        }
    }
    assert_eq!(
        house.last(2),
        [
            "DeletePolicy token sys/policies/acl/other denied  {\"failed\":\"PERMISSION_DENIED\"}",
            "DeletePolicy token sys/policies/acl/mine-1 denied  {\"failed\":\"PERMISSION_DENIED\"}",
        ]
    );
}

#[tokio::test]
async fn a_stored_policy_that_was_altered_lets_nobody_in() {
    let house = House::new();
    let (node, root) = house.open().await;
    node.put_policy(&root, &house.call(), &name("p"), READ_A).await.unwrap();
    node.put_policy(&root, &house.call(), &name("q"), READ_B).await.unwrap();
    let made = node.create_token(&root, &house.call(), token(&["p"], 600)).await.unwrap();
    let path =
        |policy: &str| storage::EntryPath::parse(&format!("{}/identity/policies/{policy}", "07".repeat(16))).unwrap();
    let (_, found) = house.store.get(&[path("q")], storage::AtLeast::Latest).await.unwrap();
    let moved = storage::Batch::new(storage::CommitId([9; 16])).put(path("p"), found[0].clone().unwrap().value);
    house.store.commit(moved).await.unwrap();
    let error = node.authenticate(Some(made.token.expose()), None, &house.call()).await.unwrap_err();
    assert_eq!(error.reason(), "DATA_ALTERED");
}
