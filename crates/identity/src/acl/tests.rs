mod random;

use super::*;
use crate::asked::{Asked, Given};
use std::time::Duration;

/// Deciding, slowly and obviously: every rule that matches, sorted by Vault's sentences.
fn decide_slowly(
    policies: &[(PolicyName, Policy)],
    path: &str,
    capability: Capability,
    facts: Facts<'_>,
) -> (char, String) {
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
    let Some((giver, _)) = said().find(|(_, capabilities)| capabilities.gives(capability)) else {
        return ('-', String::new());
    };
    let limits: Vec<_> = said().filter_map(|(name, said)| Some((name, said.limits()?))).collect();
    match limits.first() {
        Some((limiter, _)) if !keeps_within(&limits, capability, facts) => ('d', limiter.to_string()),
        Some(_) | None => ('a', giver.to_string()),
    }
}

/// The documentation's sentences one after the other, over all stanzas of the pattern.
fn keeps_within(limits: &[(&PolicyName, &Limits)], capability: Capability, facts: Facts<'_>) -> bool {
    let asked = match facts {
        Facts::Any => return true,
        Facts::Hidden => return false,
        Facts::Asked(asked) => asked,
    };
    let lowest = |of: fn(&Limits) -> Option<Duration>| limits.iter().filter_map(|(_, limits)| of(limits)).min();
    let (min, max) = (lowest(|limits| limits.min_wrapping), lowest(|limits| limits.max_wrapping));
    if (min.is_some() || max.is_some()) && asked.wrap_ttl().is_none() {
        return false;
    }
    let ttl = asked.wrap_ttl().unwrap_or_default();
    if min.is_some_and(|min| ttl < min) || max.is_some_and(|max| ttl > max) {
        return false;
    }
    if matches!(capability, Capability::Delete | Capability::List | Capability::Sudo) {
        return true;
    }
    for (_, limits) in limits {
        for required in &limits.required {
            if !asked.parameters().any(|(name, _)| name == &**required) {
                return false;
            }
        }
    }
    let some_allowed = limits.iter().any(|(_, limits)| limits.allowed.is_some());
    for (name, given) in asked.parameters() {
        for (parameter, values) in limits.iter().flat_map(|(_, limits)| limits.denied.iter().flatten()) {
            let spoken_of = &**parameter == "*" || parameter.to_lowercase() == name.to_lowercase();
            if spoken_of && (values.is_empty() || values.iter().any(|value| hits_slowly(value, given))) {
                return false;
            }
        }
        if !some_allowed {
            continue;
        }
        let by_name = |key: &str| -> Vec<&Vec<Box<str>>> {
            limits.iter().filter_map(|(_, limits)| limits.allowed.as_ref()?.get(key)).collect()
        };
        let (own, all) = (by_name(name), by_name("*"));
        let any_value = own.iter().any(|values| values.is_empty()) || (own.is_empty() && !all.is_empty());
        let listed: Vec<&str> = own.iter().flat_map(|values| values.iter()).map(|value| &**value).collect();
        if !any_value && !within_slowly(&listed, given) {
            return false;
        }
    }
    true
}

fn texts(given: &Given) -> Option<Vec<String>> {
    let text = |text: &envelope::SecretBytes| String::from_utf8(text.expose().to_vec()).unwrap();
    match given {
        Given::One(one) => Some(vec![text(one)]),
        Given::Many(many) => Some(many.iter().map(text).collect()),
        Given::Other => None,
    }
}

fn within_slowly(listed: &[&str], given: &Given) -> bool {
    let Some(texts) = texts(given) else { return false };
    !texts.is_empty() && texts.iter().all(|text| listed.iter().any(|value| globs_slowly(value, text)))
}

fn hits_slowly(value: &str, given: &Given) -> bool {
    let Some(texts) = texts(given) else { return true };
    let words = |text: &String| {
        [text.clone()].into_iter().chain(text.split(',').map(|part| part.trim().to_owned())).collect::<Vec<_>>()
    };
    texts.iter().flat_map(words).any(|word| {
        let truth = |word: &str| {
            ["f|false|0", "t|true|1"].iter().position(|row| row.split('|').any(|one| one == word.to_lowercase()))
        };
        let number = |word: &str| word.parse::<f64>().ok();
        globs_slowly(value, &word)
            || (truth(value).is_some() && truth(value) == truth(&word))
            || (number(value).is_some() && number(value) == number(&word))
    })
}

fn globs_slowly(value: &str, text: &str) -> bool {
    match value.chars().next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|at| text.is_char_boundary(at) && globs_slowly(&value[1..], &text[at..])),
        Some(c) => text.starts_with(c) && globs_slowly(&value[c.len_utf8()..], &text[c.len_utf8()..]),
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
        assert_eq!(
            decide_slowly(&all, path, capability, Facts::Hidden),
            (expected.0, expected.1.to_owned()),
            "slow: {path}"
        );
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

#[test]
fn below_a_prefix_all_is_said_of_the_path_from_above() {
    use Capability::{List, Read, Sudo, Update};
    let text = r#"
        path "b/kv/x" { capabilities = ["read"] audit_ack = "checkpoint" }
        path "b/kv/+/y" { capabilities = ["update"] }
        path "kv/z" { capabilities = ["read"] }
        path "b/kv/" { capabilities = ["list"] }
        path "b/sys/+" { capabilities = ["read", "sudo"] }
        path "b/kv/no*" { capabilities = ["deny"] }
    "#;
    let above = Arc::new(compiled(&policies(&[("p", text)])));
    let below = Acl::below(&above, "b/");
    for (path, capability, expected) in [
        ("kv/x", Read, 'a'),
        ("kv/x", Update, '-'),
        ("kv/z", Read, '-'),
        ("b/kv/x", Read, '-'),
        ("kv/a/y", Update, 'a'),
        ("kv", List, 'a'),
        ("kv/", List, 'a'),
        ("sys/mounts", Sudo, 'a'),
        ("a/sys/mounts", Read, '-'),
        ("kv/nothing", Read, 'd'),
    ] {
        let decided = decide(&below, path, capability);
        assert_eq!(shown(decided).0, expected, "{path}");
        assert_eq!(decided, decide(&above, &format!("b/{path}"), capability));
    }
    assert_eq!(decide(&below, "kv/x", Read).ack, Ack::Checkpoint);
    for (prefix, speaks) in [("kv/", true), ("secret/", false), ("sys/", true), ("b/", false)] {
        assert_eq!(below.speaks_of(prefix), speaks, "{prefix}");
    }
    let root = Acl::below(&Arc::new(Acl::root()), "b/");
    assert!(root.is_root() && root.speaks_of("x") && !below.is_root());
}

/// Of the documentation's "Parameter constraints" and "Required response wrapping TTLs", example by example.
#[test]
fn a_request_keeps_within_what_its_rule_demands_or_is_denied() {
    use Capability::{Create, Delete, List, Read, Update};
    let one = Given::text;
    let many = |texts: &[&str]| {
        Given::Many(texts.iter().map(|text| envelope::SecretBytes::copy_from(text.as_bytes())).collect())
    };
    type Parameters = Vec<(&'static str, Given)>;
    let cases: Vec<(&str, Capability, Parameters, u64, char)> = vec![
        (r#"required_parameters = ["name", "id"]"#, Create, vec![("name", one("x")), ("id", one(""))], 0, 'a'),
        (r#"required_parameters = ["name", "id"]"#, Create, vec![("name", one("x"))], 0, 'd'),
        (r#"required_parameters = ["name"]"#, Create, vec![("Name", one("x"))], 0, 'd'),
        (r#"required_parameters = ["name"]"#, Read, vec![], 0, 'd'),
        (r#"required_parameters = ["name"]"#, Delete, vec![], 0, 'a'),
        (r#"required_parameters = ["name"]"#, List, vec![("after", one("x"))], 0, 'a'),
        (r#"allowed_parameters = { "password" = [] }"#, Update, vec![("password", one("any"))], 0, 'a'),
        (r#"allowed_parameters = { "password" = [] }"#, Update, vec![("password", Given::Other)], 0, 'a'),
        (r#"allowed_parameters = { "password" = [] }"#, Update, vec![("token_ttl", one("1"))], 0, 'd'),
        (r#"allowed_parameters = { "password" = [] }"#, Update, vec![("Password", one("1"))], 0, 'd'),
        (r#"allowed_parameters = { "password" = [] }"#, Update, vec![], 0, 'a'),
        (r#"allowed_parameters = { "p" = ["8h", "5d"] }"#, Update, vec![("p", one("5d"))], 0, 'a'),
        (r#"allowed_parameters = { "p" = ["8h", "5d"] }"#, Update, vec![("p", one("6d"))], 0, 'd'),
        (r#"allowed_parameters = { "p" = ["8h", "5d"] }"#, Update, vec![("p", many(&["5d", "8h"]))], 0, 'a'),
        (r#"allowed_parameters = { "p" = ["8h", "5d"] }"#, Update, vec![("p", many(&["5d", "9h"]))], 0, 'd'),
        (r#"allowed_parameters = { "p" = ["8h", "5d"] }"#, Update, vec![("p", many(&[]))], 0, 'd'),
        (r#"allowed_parameters = { "p" = ["8h", "*"] }"#, Update, vec![("p", Given::Other)], 0, 'd'),
        (r#"allowed_parameters = { "p" = [true] }"#, Update, vec![("p", one("t"))], 0, 'd'),
        (
            r#"allowed_parameters = { "bar" = ["zip"] "*" = [] }"#,
            Create,
            vec![("bar", one("zip")), ("q", one("x"))],
            0,
            'a',
        ),
        (r#"allowed_parameters = { "bar" = ["zip"] "*" = [] }"#, Create, vec![("bar", one("no"))], 0, 'd'),
        (r#"allowed_parameters = { "bar" = ["foo-*"] }"#, Create, vec![("bar", one("foo-x"))], 0, 'a'),
        (r#"allowed_parameters = { "bar" = ["foo-*"] }"#, Create, vec![("bar", one("afoo-x"))], 0, 'd'),
        (
            r#"allowed_parameters = { "bar" = ["*-foo", "*mid*"] }"#,
            Create,
            vec![("bar", many(&["x-foo", "amidb"]))],
            0,
            'a',
        ),
        (r#"denied_parameters = { "policies" = [] }"#, Update, vec![("policies", one("x"))], 0, 'd'),
        (r#"denied_parameters = { "policies" = [] }"#, Update, vec![("POLICIES", one("x"))], 0, 'd'),
        (r#"denied_parameters = { "policies" = [] }"#, Update, vec![("other", one("x"))], 0, 'a'),
        (r#"denied_parameters = { "p" = ["admin"] }"#, Update, vec![("p", one("dev"))], 0, 'a'),
        (r#"denied_parameters = { "p" = ["admin"] }"#, Update, vec![("p", one("admin"))], 0, 'd'),
        (r#"denied_parameters = { "p" = ["admin"] }"#, Update, vec![("p", one("dev, admin"))], 0, 'd'),
        (r#"denied_parameters = { "p" = ["admin"] }"#, Update, vec![("p", many(&["dev", "admin"]))], 0, 'd'),
        (r#"denied_parameters = { "p" = ["admin"] }"#, Update, vec![("p", Given::Other)], 0, 'd'),
        (r#"denied_parameters = { "no_store" = [false] }"#, Create, vec![("no_store", one("0"))], 0, 'd'),
        (r#"denied_parameters = { "n" = [1] }"#, Create, vec![("n", one("01"))], 0, 'd'),
        (r#"denied_parameters = { "*" = [] }"#, Update, vec![("x", one("y"))], 0, 'd'),
        (r#"denied_parameters = { "*" = [] }"#, Update, vec![], 0, 'a'),
        (
            r#"denied_parameters = { "p" = ["b"] } allowed_parameters = { "p" = ["a", "b"] }"#,
            Update,
            vec![("p", one("b"))],
            0,
            'd',
        ),
        (r#"min_wrapping_ttl = "1s" max_wrapping_ttl = "90s""#, Update, vec![], 0, 'd'),
        (r#"min_wrapping_ttl = "1s" max_wrapping_ttl = "90s""#, Update, vec![], 90, 'a'),
        (r#"min_wrapping_ttl = "1s" max_wrapping_ttl = "90s""#, List, vec![], 91, 'd'),
        (r#"max_wrapping_ttl = "90s""#, Update, vec![], 0, 'd'),
    ];
    for (limits, capability, parameters, wrap, expected) in cases {
        let all = "create\", \"read\", \"update\", \"delete\", \"list";
        let all = policies(&[("p", &format!("path \"a\" {{ capabilities = [\"{all}\"] {limits} }}"))]);
        let mut asked = Asked::new((wrap > 0).then(|| Duration::from_secs(wrap)));
        let names: Vec<_> = parameters.iter().map(|(name, _)| *name).collect();
        parameters.into_iter().for_each(|(name, given)| asked.add(name, given));
        let facts = Facts::Asked(&asked);
        let told = format!("{limits} {capability:?} {names:?} {wrap}");
        assert_eq!(shown(decide_on(&compiled(&all), "a", capability, facts)), (expected, "p".to_owned()), "{told}");
        assert_eq!(decide_slowly(&all, "a", capability, facts), (expected, "p".to_owned()), "slow: {told}");
        // who shows nothing is not allowed, and who only wants to know is told what may be
        assert_eq!(shown(decide(&compiled(&all), "a", capability)).0, 'd', "{told}");
        assert_eq!(shown(decide_on(&compiled(&all), "a", capability, Facts::Any)).0, 'a', "{told}");
    }
}

#[test]
fn what_several_policies_demand_on_one_pattern_is_united() {
    let all = policies(&[
        ("plain", r#"path "a" { capabilities = ["update"] }"#),
        (
            "one",
            r#"path "a" { capabilities = [] allowed_parameters = { "x" = ["1"] "y" = ["1"] } min_wrapping_ttl = 60 max_wrapping_ttl = 90 }"#,
        ),
        (
            "two",
            r#"path "a" { capabilities = [] allowed_parameters = { "x" = ["2"] "y" = [] } denied_parameters = { "z" = [] } required_parameters = ["x"] min_wrapping_ttl = 30 }"#,
        ),
        ("deny", r#"path "a" { capabilities = ["deny"] }"#),
    ]);
    let ask = |policies: usize, parameters: &[(&str, &str)], wrap: u64| {
        let mut asked = Asked::new(Some(Duration::from_secs(wrap)));
        parameters.iter().for_each(|(name, value)| asked.add(name, Given::text(value)));
        shown(decide_on(&compiled(&all[..policies]), "a", Capability::Update, Facts::Asked(&asked)))
    };
    let says = |verdict: char, rule: &str| (verdict, rule.to_owned());
    assert_eq!(ask(1, &[("q", "1")], 1), says('a', "plain"));
    assert_eq!(ask(2, &[("q", "1")], 60), says('d', "one"));
    assert_eq!(ask(2, &[("x", "1"), ("y", "1")], 60), says('a', "plain"));
    assert_eq!(ask(2, &[("x", "1")], 59), says('d', "one"));
    // the lowest of each
    assert_eq!(ask(3, &[("x", "2"), ("y", "any")], 30), says('a', "plain"));
    assert_eq!(ask(3, &[("x", "3")], 30), says('d', "one"));
    assert_eq!(ask(3, &[("y", "1")], 30), says('d', "one"));
    assert_eq!(ask(3, &[("x", "1"), ("z", "1")], 30), says('d', "one"));
    assert_eq!(ask(4, &[("x", "1")], 30), says('d', "deny"));
}

#[test]
fn a_rule_without_a_value_gives_nothing_and_one_that_denies_voids_its_policy() {
    let mine = "secret/{{identity.entity.name}}/*";
    let all = policies(&[
        ("own", &format!(r#"path "{mine}" {{ policy = "read" }} path "plain" {{ policy = "read" }}"#)),
        ("guard", r#"path "guarded/*" { policy = "read" } path "guarded/{{identity.entity.id}}" { policy = "deny" }"#),
        ("else", r#"path "guarded/else" { policy = "read" }"#),
    ]);
    let decided = |name: Option<&str>, id: Option<&str>, path: &str| {
        let value = |variable: &Variable| {
            let known = if *variable == Variable::EntityName { name } else { id };
            known.map(str::to_owned)
        };
        let acl = Acl::compile_for(all.iter().map(|(name, policy)| (name, policy)), &value);
        shown(decide(&acl, path, Capability::Read)).0
    };
    for (name, id, path, verdict) in [
        (Some("bob"), Some("7"), "secret/bob/x", 'a'),
        (Some("bob"), Some("7"), "secret/bo/x", '-'),
        (Some("bob"), Some("7"), "secret/alice/x", '-'),
        (Some("bob"), Some("7"), "secret/{{identity.entity.name}}/x", '-'),
        (None, Some("7"), "secret//x", '-'),
        (None, Some("7"), "secret/{{identity.entity.name}}/x", '-'),
        (None, Some("7"), "plain", 'a'),
        (Some("*"), Some("7"), "secret/alice/x", '-'),
        (Some("+"), Some("7"), "secret/alice/x", '-'),
        (Some("bob"), Some("7"), "guarded/7", 'd'),
        (Some("bob"), Some("7"), "guarded/8", 'a'),
        (Some("bob"), None, "guarded/8", '-'),
        (Some("bob"), None, "guarded/7", '-'),
        // what another policy gives is not concerned
        (Some("bob"), None, "guarded/else", 'a'),
        (Some("bob"), Some("*"), "guarded/8", '-'),
    ] {
        assert_eq!(decided(name, id, path), verdict, "{name:?} {id:?} {path}");
    }
}
