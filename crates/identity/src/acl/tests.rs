use super::*;
use crate::policy::Pattern;
use proptest::prelude::*;

/// Deciding, slowly and obviously: every rule that matches, sorted by Vault's sentences.
fn decide_slowly(policies: &[(PolicyName, Policy)], path: &str, capability: Capability) -> (char, String) {
    let asked = asked_for(path, capability);
    let written: Vec<&str> =
        policies.iter().flat_map(|(_, policy)| policy.rules()).map(|(pattern, _)| pattern.as_str()).collect();
    let exact = asked.iter().find(|path| written.contains(&path.as_str()) && !path.contains(['+', '*']));
    let deciding: &str = match exact {
        Some(path) => path,
        None => {
            let mut matching: Vec<&str> = written
                .into_iter()
                .filter(|pattern| pattern.contains(['+', '*']) && matches_slowly(pattern, &asked[0]))
                .collect();
            matching.sort_by(|a, b| {
                let first = |p: &str| p.find(['+', '*']).unwrap();
                let pluses = |p: &str| p.split('/').filter(|segment| *segment == "+").count();
                first(a)
                    .cmp(&first(b))
                    .then(b.ends_with('*').cmp(&a.ends_with('*')))
                    .then(pluses(b).cmp(&pluses(a)))
                    .then(a.len().cmp(&b.len()))
                    .then(a.cmp(b))
            });
            match matching.last() {
                Some(pattern) => pattern,
                None => return ('-', String::new()),
            }
        }
    };
    let said = || {
        policies.iter().flat_map(|(name, policy)| {
            let rules = policy.rules().iter().filter(|(pattern, _)| pattern.as_str() == deciding);
            rules.map(move |(_, capabilities)| (name, capabilities))
        })
    };
    if let Some((name, _)) = said().find(|(_, capabilities)| capabilities.denies()) {
        return ('d', name.to_string());
    }
    match said().find(|(_, capabilities)| capabilities.gives(capability)) {
        Some((name, _)) => ('a', name.to_string()),
        None => ('-', String::new()),
    }
}

/// The paths that a question is about.
fn asked_for(path: &str, capability: Capability) -> Vec<String> {
    if capability == Capability::List {
        let bare = path.strip_suffix('/').unwrap_or(path);
        vec![format!("{bare}/"), bare.to_owned()]
    } else {
        vec![path.to_owned()]
    }
}

/// The strictest of all that matches, as the sentence says.
fn demand_slowly(policies: &[(PolicyName, Policy)], path: &str, capability: Capability) -> Ack {
    let asked = asked_for(path, capability);
    let rules = policies.iter().flat_map(|(_, policy)| policy.rules());
    let matching = rules.filter(|(pattern, _)| asked.iter().any(|path| matches_slowly(pattern.as_str(), path)));
    matching.map(|(_, said)| said.ack()).max().unwrap_or(Ack::Durable)
}

/// By backtracking over the text: `*` at the end is anything, `+` is anything but a slash.
fn matches_slowly(pattern: &str, path: &str) -> bool {
    match pattern.chars().next() {
        None => path.is_empty(),
        Some('*') => true,
        Some('+') => {
            let end = path.find('/').unwrap_or(path.len());
            matches_slowly(&pattern[1..], &path[end..])
        }
        Some(c) => path.starts_with(c) && matches_slowly(&pattern[c.len_utf8()..], &path[c.len_utf8()..]),
    }
}

fn shown(decided: Decided<'_>) -> (char, String) {
    match decided.verdict {
        Verdict::Allow { rule } => ('a', rule.to_owned()),
        Verdict::Deny { rule } => ('d', rule.to_owned()),
        Verdict::Nothing => ('-', String::new()),
    }
}

fn policies(texts: &[(&str, &str)]) -> Vec<(PolicyName, Policy)> {
    texts.iter().map(|(name, text)| (PolicyName::parse(name).unwrap(), Policy::parse(text).unwrap())).collect()
}

fn compiled(policies: &[(PolicyName, Policy)]) -> Acl {
    Acl::compile(policies.iter().map(|(name, policy)| (name, policy)))
}

#[test]
fn the_most_specific_path_decides() {
    use Capability::{List, Read, Sudo, Update};
    let all = policies(&[
        (
            "keys",
            r#"path "kms/*" { capabilities = ["read"] }
               path "kms/keys/+/decrypt" { capabilities = ["update"] }
               path "kms/keys/+/*" { capabilities = ["list"] }
               path "kms/keys/k1/decrypt" { capabilities = ["deny"] }
               path "kms/keys/k2/*" { capabilities = [] }
               path "kms/keys/k3/decrypt" { capabilities = ["read"] }"#,
        ),
        (
            "more",
            r#"path "kms/keys/k3/decrypt" { capabilities = ["update", "sudo"] }
               path "kms/keys/+/encrypt" { capabilities = ["update"] }
               path "kms/keys/" { capabilities = ["list"] }
               path "kms/keys" { capabilities = ["deny"] }
               path "sys/status" { capabilities = ["list"] }"#,
        ),
        ("never", r#"path "kms/keys/+/encrypt" { capabilities = ["deny"] }"#),
    ]);
    let acl = compiled(&all);
    for (path, capability, expected) in [
        ("kms", Read, ('-', "")),
        ("kms/", Read, ('a', "keys")),
        ("kms/random", Read, ('a', "keys")),
        ("kms/random", Update, ('-', "")),
        // a segment is one segment
        ("kms/keys/a/decrypt", Update, ('a', "keys")),
        ("kms/keys/a/b/decrypt", Update, ('-', "")),
        ("kms/keys//decrypt", Update, ('a', "keys")),
        // what is written out wins, and a longer prefix
        ("kms/keys/k1/decrypt", Update, ('d', "keys")),
        ("kms/keys/k2/decrypt", Update, ('-', "")),
        ("kms/keys/k3/decrypt", Update, ('a', "more")),
        ("kms/keys/k3/decrypt", Read, ('a', "keys")),
        ("kms/keys/k3/decrypt", Sudo, ('a', "more")),
        // not the union with less specific ones
        ("kms/keys/a/decrypt", Read, ('-', "")),
        ("kms/keys/a/sign", Read, ('-', "")),
        ("kms/keys/a/sign", List, ('a', "keys")),
        // a denial of any policy on the path
        ("kms/keys/a/encrypt", Update, ('d', "never")),
        // lists ask with a slash first
        ("kms/keys", List, ('a', "more")),
        ("kms/keys/", List, ('a', "more")),
        ("kms/keys", Read, ('d', "more")),
        ("sys/status", List, ('a', "more")),
        ("sys/status", Read, ('-', "")),
        ("", Read, ('-', "")),
        ("KMS/random", Read, ('-', "")),
    ] {
        assert_eq!(shown(decide(&acl, path, capability)), (expected.0, expected.1.to_owned()), "{path} {capability:?}");
        assert_eq!(decide_slowly(&all, path, capability), (expected.0, expected.1.to_owned()), "slow: {path}");
    }
}

#[test]
fn what_must_vouch_for_the_record_is_the_strictest_of_all_that_matches() {
    use Capability::{List, Read, Update};
    let all = policies(&[
        (
            "a",
            r#"path "kms/*" { capabilities = ["read"] audit_ack = "checkpoint" }
               path "kms/keys/+/sign" { capabilities = ["update"] audit_ack = "witness" }
               path "kms/keys/k1/sign" { capabilities = ["update"] }
               path "kms/keys/k1/encrypt" { capabilities = ["update"] audit_ack = "checkpoint" }
               path "sys/" { capabilities = [] audit_ack = "witness" }
               path "sys/status" { audit_ack = "checkpoint" capabilities = ["deny"] }"#,
        ),
        (
            "b",
            r#"{"path": {"kms/keys/k1/encrypt": {"audit_ack": "witness", "capabilities": []}, "x": {"capabilities": ["read"]}}}"#,
        ),
    ]);
    for (names, path, capability, ack) in [
        // the one that decides says nothing, a wider one does
        ("a", "kms/keys/k1/sign", Update, Ack::Witness),
        ("a", "kms/keys/k2/sign", Update, Ack::Witness),
        // whatever the capability, and whatever the verdict
        ("a", "kms/keys/k2/sign", Read, Ack::Witness),
        ("a", "kms/random", Update, Ack::Checkpoint),
        ("a", "sys/status", Update, Ack::Checkpoint),
        // of all policies
        ("a", "kms/keys/k1/encrypt", Update, Ack::Checkpoint),
        ("ab", "kms/keys/k1/encrypt", Update, Ack::Witness),
        ("ab", "x", Read, Ack::Durable),
        ("b", "kms/random", Read, Ack::Durable),
        // a list asks for both of its paths
        ("a", "sys", List, Ack::Witness),
        ("a", "sys/", List, Ack::Witness),
        ("a", "sys", Read, Ack::Durable),
        ("a", "kms/keys", List, Ack::Checkpoint),
    ] {
        let held: Vec<_> = all.iter().filter(|(name, _)| names.contains(name.as_str())).cloned().collect();
        assert_eq!(decide(&compiled(&held), path, capability).ack, ack, "{names} {path} {capability:?}");
        assert_eq!(demand_slowly(&held, path, capability), ack, "slow: {names} {path} {capability:?}");
    }
}

/// Of developer.hashicorp.com/vault/docs/concepts/policies, "Priority matching".
#[test]
fn vaults_own_examples_of_priority_hold() {
    for (patterns, path, winner) in [
        (["secret/*", "secret/a/*"], "secret/a/b", "secret/a/*"),
        (["secret/+/a", "secret/*"], "secret/x/a", "secret/+/a"),
        (["secret/+/+/foo/*", "secret/+/bar/foo/*"], "secret/x/bar/foo/y", "secret/+/bar/foo/*"),
        (["a/+/c", "a/+/+"], "a/b/c", "a/+/c"),
        (["+/b", "a/*"], "a/b", "a/*"),
        (["a/+/cc/*", "a/+/c*"], "a/b/cc/d", "a/+/cc/*"),
    ] {
        for order in [[0, 1], [1, 0]] {
            let texts: Vec<(String, String)> = order
                .iter()
                .map(|i| (format!("p{i}"), format!(r#"path "{}" {{ capabilities = ["read"] }}"#, patterns[*i])))
                .collect();
            let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            let all = policies(&texts);
            let expected = format!("p{}", patterns.iter().position(|pattern| *pattern == winner).unwrap());
            assert_eq!(shown(decide(&compiled(&all), path, Capability::Read)), ('a', expected), "{patterns:?}");
        }
    }
}

#[test]
fn root_may_do_everything_and_nobody_nothing() {
    for capability in Capability::ALL {
        let ack = Ack::Durable;
        let verdict = Verdict::Allow { rule: "root" };
        assert_eq!(decide(&Acl::root(), "any/path", capability), Decided { verdict, ack });
        assert_eq!(decide(&Acl::default(), "any/path", capability), Decided { verdict: Verdict::Nothing, ack });
    }
}

/// Short alphabets, so that paths meet patterns.
fn pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => "[ab]{0,2}", 1 => Just("+".to_owned())];
    (prop::collection::vec(segment, 1..4), any::<bool>()).prop_map(|(segments, star)| {
        let text = segments.join("/");
        let star = star && !text.ends_with('+');
        if star { format!("{text}*") } else { text }
    })
}

fn rule() -> impl Strategy<Value = String> {
    let words = prop::collection::vec(prop::sample::select(vec!["read", "update", "list", "sudo", "deny"]), 0..3);
    let ack = prop::sample::select(vec!["", "", "", "audit_ack = \"checkpoint\"", "audit_ack = \"witness\""]);
    (pattern(), words, ack).prop_filter("a path", |(pattern, _, _)| Pattern::parse(pattern).is_ok()).prop_map(
        |(pattern, words, ack)| {
            let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("path \"{pattern}\" {{ capabilities = [{}] {ack} }}\n", words.join(", "))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_way_and_the_slow_way_decide_alike(
        texts in prop::collection::vec(prop::collection::vec(rule(), 0..8), 1..4),
        paths in prop::collection::vec("[ab]{0,2}(/[ab]{0,2}){0,3}", 8),
    ) {
        let named = texts.iter().enumerate();
        let all: Vec<_> = named
            .map(|(i, rules)| (PolicyName::parse(&format!("p{i}")).unwrap(), Policy::parse(&rules.concat()).unwrap()))
            .collect();
        let acl = compiled(&all);
        for path in &paths {
            for capability in Capability::ALL {
                let decided = decide(&acl, path, capability);
                prop_assert_eq!(shown(decided), decide_slowly(&all, path, capability), "{} {:?}", path, capability);
                prop_assert_eq!(decided.ack, demand_slowly(&all, path, capability), "{} {:?}", path, capability);
            }
        }
    }
}
