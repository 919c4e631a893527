use super::*;
use proptest::prelude::*;

fn capabilities(words: &[&str]) -> Capabilities {
    let mut out = Capabilities::default();
    for word in words {
        match Capability::ALL.into_iter().find(|known| known.as_str() == *word) {
            Some(capability) => out.give(capability),
            None => match Ack::STRICT.into_iter().find(|ack| ack.as_str() == *word) {
                Some(ack) => out.demand(ack),
                None => out.deny(),
            },
        }
    }
    out
}

#[test]
fn both_languages_are_read() {
    type Rules<'a> = &'a [(&'a str, &'a [&'a str])];
    let cases: &[(&str, Rules<'_>)] = &[
        ("", &[]),
        ("# nothing\n// at all /*\n/* really\n * nothing */", &[]),
        (r#"path "a" { capabilities = ["read"] }"#, &[("a", &["read"])]),
        (r#"path "a"{capabilities=["read"]}path "b"{capabilities=[]}"#, &[("a", &["read"]), ("b", &[])]),
        (
            "path \"a/*\" {\r\n  capabilities = [\n    \"create\", # c\n    \"read\",\n  ]\n}\n",
            &[("a/*", &["create", "read"])],
        ),
        (r#"path "/sys/+/x" { capabilities = ["deny", "read"] }"#, &[("sys/+/x", &["deny", "read"])]),
        (
            r#"path "a" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#,
            &[("a", &["create", "read", "update", "patch", "delete", "list", "sudo"])],
        ),
        (r#"path "*" { /*/ not yet */ capabilities = ["list"] }"#, &[("*", &["list"])]),
        (r#"path "q\"\\\/\u0041" { capabilities = ["read"] }"#, &[("q\"\\/A", &["read"])]),
        (
            r#"path "a" { capabilities = ["read"] } path "a" { capabilities = ["list"] }"#,
            &[("a", &["read"]), ("a", &["list"])],
        ),
        (r#"path "a" { capabilities = ["read"] audit_ack = "witness" }"#, &[("a", &["read", "witness"])]),
        ("path \"a\" {\n audit_ack = \"checkpoint\"\n capabilities = []\n}", &[("a", &["checkpoint"])]),
        (r#"{"path": {"a": {"audit_ack": "witness", "capabilities": ["deny"]}}}"#, &[("a", &["deny", "witness"])]),
        (r#"{"path": {"a": {"capabilities": [], "audit_ack": "checkpoint"}}}"#, &[("a", &["checkpoint"])]),
        (r#"path "a" { policy = "read" }"#, &[("a", &["read", "list"])]),
        (r#"path "a" { policy = "write" }"#, &[("a", &["create", "read", "update", "delete", "list"])]),
        (r#"{"path": {"a": {"policy": "sudo"}}}"#, &[("a", &["create", "read", "update", "delete", "list", "sudo"])]),
        (r#"path "a" { policy = "deny" capabilities = ["read"] }"#, &[("a", &["deny", "read"])]),
        ("{}", &[]),
        (r#" { "path" : { } } "#, &[]),
        (
            r#"{"path": {"a/*": {"capabilities": ["read", "list"]}, "b": {"capabilities": []}}}"#,
            &[("a/*", &["read", "list"]), ("b", &[])],
        ),
    ];
    for (text, expected) in cases {
        let policy = Policy::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let rules: Vec<_> = policy.rules().iter().map(|(pattern, found)| (pattern.as_str(), found.clone())).collect();
        let expected: Vec<_> = expected.iter().map(|(path, words)| (*path, capabilities(words))).collect();
        assert_eq!(rules, expected, "{text}");
    }
}

#[test]
fn what_is_malformed_is_named_with_its_line() {
    use PolicyFault::{
        Character, Expected, Parameter, Path, Plus, RepeatedKey, Star, StringCharacter, Template, UnknownAck,
        UnknownCapability, UnknownKey, UnknownShorthand, UnterminatedComment, UnterminatedString, WrappingTtl,
    };
    let rule = |path: &str| format!(r#"path "{path}" {{ capabilities = ["read"] }}"#);
    let limits = |keys: &str| format!(r#"path "a" {{ capabilities = ["read"] {keys} }}"#);
    let unknown_ack = |path: &str, word: &str| UnknownAck { path: path.into(), word: word.into() };
    for (text, line, fault) in [
        ("name = \"x\"".into(), 1, UnknownKey("name".into())),
        ("\n\npaths \"a\" {}".into(), 3, UnknownKey("paths".into())),
        (r#"path "a" { policy = "admin" }"#.into(), 1, UnknownShorthand("admin".into())),
        (r#"path "a" { policy = ["read"] }"#.into(), 1, Expected("\"read\", \"write\", \"sudo\" or \"deny\"")),
        (
            "path \"a\" {\n capabilities = [\"read\"]\n allowed_parameter = {}\n}".into(),
            3,
            UnknownKey("allowed_parameter".into()),
        ),
        (limits(r#"allowed_parameters = { "*" = ["a"] }"#), 1, Parameter("the parameter `*` takes only []")),
        (limits(r#"denied_parameters = { "a" = ["x*y"] }"#), 1, Parameter("`*` stands only at the ends of a value")),
        (limits(r#"denied_parameters = { "a" = [["x"]] }"#), 1, Expected("a string, a number or a boolean")),
        (limits(r#"denied_parameters = { "a" = [null] }"#), 1, Expected("a string, a number or a boolean")),
        (limits(r#"denied_parameters = { "a" = "x" }"#), 1, Expected("`[`")),
        (limits(r#"denied_parameters = { "a" = [], "a" = [] }"#), 1, RepeatedKey),
        (limits(r#"allowed_parameters = {} allowed_parameters = {}"#), 1, RepeatedKey),
        (limits(r#"allowed_parameters = ["a"]"#), 1, Expected("`{`")),
        (limits(r#"required_parameters = { "a" = [] }"#), 1, Expected("`[`")),
        (limits(r#"required_parameters = ["a" "b"]"#), 1, Expected("`,` or `]`")),
        (limits(r#"required_parameters = [1]"#), 1, Expected("a parameter in quotes")),
        (limits(r#"min_wrapping_ttl = "soon""#), 1, WrappingTtl),
        (limits(r#"min_wrapping_ttl = -1"#), 1, WrappingTtl),
        (limits(r#"min_wrapping_ttl = "90s" max_wrapping_ttl = "1m""#), 1, WrappingTtl),
        (r#"{"path": {"a": {"policy": "read", "denied_parameters": {"a": [],}}}}"#.into(), 1, Expected("a parameter")),
        (
            r#"{"path": {"a": {"policy": "read", "denied_parameters": {"a": [] "b": []}}}}"#.into(),
            1,
            Expected("`,` or `}`"),
        ),
        (
            r#"{"path": {"a": {"policy": "read", "denied_parameters": {"a": [1,]}}}}"#.into(),
            1,
            Expected("a string, a number or a boolean"),
        ),
        (r#"path "a" { capabilities = ["read"] capabilities = ["list"] }"#.into(), 1, RepeatedKey),
        (r#"path "a" { capabilities = ["write"] }"#.into(), 1, UnknownCapability("write".into())),
        (r#"path "a" { capabilities = ["Read"] }"#.into(), 1, UnknownCapability("Read".into())),
        (r#"path "a" { capabilities = ["root"] }"#.into(), 1, UnknownCapability("root".into())),
        (r#"path "a" { capabilities = "read" }"#.into(), 1, Expected("`[`")),
        (r#"path "a" { capabilities = [read] }"#.into(), 1, Expected("a capability in quotes")),
        (r#"path "a" { capabilities = ["read" "list"] }"#.into(), 1, Expected("`,` or `]`")),
        (r#"path "a" { capabilities = ["read",,] }"#.into(), 1, Expected("a capability in quotes")),
        (r#"path "a" { capabilities ["read"] }"#.into(), 1, Expected("`=`")),
        (r#"path "a" {}"#.into(), 1, Expected("`capabilities`")),
        (r#"path "a" { audit_ack = "witness" }"#.into(), 1, Expected("`capabilities`")),
        (r#"path "a" { audit_ack = witness capabilities = [] }"#.into(), 1, Expected("\"checkpoint\" or \"witness\"")),
        (r#"path "a" { audit_ack = ["witness"] }"#.into(), 1, Expected("\"checkpoint\" or \"witness\"")),
        (r#"path "a" { audit_ack "witness" }"#.into(), 1, Expected("`=`")),
        (r#"path "a/*" { capabilities = [] audit_ack = "durable" }"#.into(), 1, unknown_ack("a/*", "durable")),
        (r#"path "a" { capabilities = [] audit_ack = "Witness" }"#.into(), 1, unknown_ack("a", "Witness")),
        (r#"path "a" { capabilities = [] audit_ack = "" }"#.into(), 1, unknown_ack("a", "")),
        (r#"path "a" { audit_ack = "witness" audit_ack = "checkpoint" }"#.into(), 1, RepeatedKey),
        (r#"{"path": {"a": {"audit_ack": "none", "capabilities": []}}}"#.into(), 1, unknown_ack("a", "none")),
        (r#"{"path": {"a": {"audit_ack": true}}}"#.into(), 1, Expected("\"checkpoint\" or \"witness\"")),
        (r#"{"path": {"a": {"audit_ack": tru}}}"#.into(), 1, Character('t')),
        (r#"{"path": {"a": {"audit_ack": "witness"}}}"#.into(), 1, Expected("`capabilities`")),
        (r#"{"path": {"a": {"capabilities": [], "capabilities": []}}}"#.into(), 1, RepeatedKey),
        (r#"{"path": {"a": {"capabilities": [],}}}"#.into(), 1, Expected("a key in quotes")),
        (r#"{"path": {"a": {"capabilities": [], "mfa_methods": []}}}"#.into(), 1, UnknownKey("mfa_methods".into())),
        (r#"path "a" { capabilities = ["read"]"#.into(), 1, Expected("`capabilities`")),
        (r#"path "a""#.into(), 1, Expected("`{`")),
        ("path a {}".into(), 1, Expected("a path in quotes")),
        ("path".into(), 1, Expected("a path in quotes")),
        (r#""path" "a" {}"#.into(), 1, Expected("`path`")),
        ("}".into(), 1, Expected("`path`")),
        ("path \"a".into(), 1, UnterminatedString),
        ("path \"a\n\" {}".into(), 1, UnterminatedString),
        ("path \"a\\".into(), 1, StringCharacter),
        (r#"path "a\n" {}"#.into(), 1, StringCharacter),
        (r#"path "\ud800" {}"#.into(), 1, StringCharacter),
        (r#"path "\u00" {}"#.into(), 1, StringCharacter),
        ("path \"a\tb\" {}".into(), 1, StringCharacter),
        ("/* no end".into(), 1, UnterminatedComment),
        ("/*/".into(), 1, UnterminatedComment),
        ("path \"a\" { capabilities = <<EOF".into(), 1, Character('<')),
        ("\u{feff}path".into(), 1, Character('\u{feff}')),
        ("12".into(), 1, Expected("`path`")),
        ("1x".into(), 1, Character('1')),
        (rule(""), 1, Path),
        (rule("/"), 1, Path),
        (rule(&"x".repeat(513)), 1, Path),
        (rule("a/*/b"), 1, Star),
        (rule("**"), 1, Star),
        (rule("a/+*"), 1, Plus),
        (rule("a/b+/c"), 1, Plus),
        (rule("secret/{{identity.entity.id}/*"), 1, Template),
        (rule("secret/}}/*"), 1, Template),
        (rule("secret/{{identity.entity}}/*"), 1, Template),
        (rule("secret/{{entity.id}}/*"), 1, Template),
        (rule("secret/{{identity.entity.metadata.}}/*"), 1, Template),
        (rule("secret/{{identity.entity.aliases.a.age}}/*"), 1, Template),
        (rule("secret/{{identity.entity.aliases..name}}/*"), 1, Template),
        (rule("secret/{{identity.groups.ids.x.id}}/*"), 1, Template),
        (rule("secret/{{identity.groups.names..id}}/*"), 1, Template),
        (rule("secret/{{{{identity.entity.id}}}}/*"), 1, Template),
        (rule("secret/*/{{identity.entity.id}}"), 1, Star),
        (rule("secret/+{{identity.entity.id}}"), 1, Plus),
        (rule("secret/${name}"), 1, Template),
        ("{".into(), 1, Expected("a key in quotes")),
        (r#"{"paths": {}}"#.into(), 1, UnknownKey("paths".into())),
        (r#"{"path": {}, "path": {}}"#.into(), 1, RepeatedKey),
        (r#"{"path": {}, "name": ""}"#.into(), 1, UnknownKey("name".into())),
        (r#"{"path": {}} {}"#.into(), 1, Expected("the end")),
        (r#"{"path": []}"#.into(), 1, Expected("`{`")),
        (r#"{"path": {"a": {}}}"#.into(), 1, Expected("`capabilities`")),
        (r#"{"path": {"a": {"capabilities": ["read",]}}}"#.into(), 1, Expected("a capability in quotes")),
        (r#"{"path": {"a": {"capabilities": ["read"]},}}"#.into(), 1, Expected("a path in quotes")),
        (r#"{"path": {"a": {"capabilities": ["read"]} "b": {}}}"#.into(), 1, Expected("`,` or `}`")),
        ("{\n# no comments in JSON\n}".into(), 2, Character('#')),
        ("{ path : {} }".into(), 1, Character('p')),
    ] {
        let text: String = text;
        assert_eq!(Policy::parse(&text), Err(MalformedPolicy { line, fault }), "{text}");
    }
}

#[test]
fn what_a_request_must_ask_with_is_read_in_both_languages() {
    let hcl = r#"path "a" {
        capabilities = ["update"]
        required_parameters = ["b", "a", "b",]
        allowed_parameters = {
            "a" = ["x*", true, 8]
            b = [],
            "*" = []
        }
        denied_parameters { "c" = ["*y", "1.5"] }
        min_wrapping_ttl = "1m30s"
        max_wrapping_ttl = 7200
    }"#;
    let json = r#"{"path": {"a": {"capabilities": ["update"], "required_parameters": ["a", "b"],
        "allowed_parameters": {"a": ["8", "x*", "true"], "b": [], "*": []}, "denied_parameters": {"c": [1.5, "*y"]},
        "min_wrapping_ttl": 90, "max_wrapping_ttl": "2h"}}}"#;
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<Box<str>>>();
    let expected = Limits {
        required: names(&["a", "b"]),
        allowed: Some([("a".into(), names(&["8", "true", "x*"])), ("b".into(), vec![]), ("*".into(), vec![])].into()),
        denied: Some([("c".into(), names(&["*y", "1.5"]))].into()),
        min_wrapping: Some(std::time::Duration::from_secs(90)),
        max_wrapping: Some(std::time::Duration::from_secs(7200)),
    };
    for text in [hcl, json] {
        let policy = Policy::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(policy.rules()[0].1.limits(), Some(&expected), "{text}");
    }
    for nothing in
        ["allowed_parameters = {}", "required_parameters = []", "min_wrapping_ttl = \"0\" max_wrapping_ttl = 0"]
    {
        let policy = Policy::parse(&format!(r#"path "a" {{ policy = "read" {nothing} }}"#)).unwrap();
        assert_eq!(policy.rules()[0].1.limits(), None, "{nothing}");
    }
}

#[test]
fn templates_are_read_with_their_variables() {
    use ByGroup::{Id, Name};
    let word = |word: &str| -> Box<str> { word.into() };
    for (name, variable) in [
        ("identity.entity.id", Variable::EntityId),
        (" identity.entity.name ", Variable::EntityName),
        ("identity.entity.metadata.a.b c", Variable::EntityMetadata(word("a.b c"))),
        ("identity.entity.aliases.approle_1.id", Variable::AliasId(word("approle_1"))),
        ("identity.entity.aliases.approle_1.name", Variable::AliasName(word("approle_1"))),
        ("identity.entity.aliases.a.custom_metadata.k", Variable::AliasMetadata(word("a"), word("k"))),
        ("identity.groups.ids.0-1.name", Variable::GroupName(word("0-1"))),
        ("identity.groups.names.a.b.id", Variable::GroupId(word("a.b"))),
        ("identity.groups.ids.0-1.metadata.k", Variable::GroupMetadata(Id(word("0-1")), word("k"))),
        ("identity.groups.names.n.metadata.k", Variable::GroupMetadata(Name(word("n")), word("k"))),
    ] {
        let text = format!(r#"path "/a/{{{{{name}}}}}/b-{{{{identity.entity.id}}}}/*" {{ policy = "read" }}"#);
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let [(template, said)] = policy.templates() else { panic!("{text}") };
        assert!(said.gives(Capability::List) && policy.rules().is_empty());
        let filled = template.filled(&|asked| {
            let value = if *asked == variable { "one" } else { "two" };
            (*asked == variable || *asked == Variable::EntityId).then(|| value.into())
        });
        let expected = if variable == Variable::EntityId { "a/one/b-one/*" } else { "a/one/b-two/*" };
        assert_eq!(filled.as_ref().map(Pattern::as_str), Some(expected), "{name}");
    }
}

/// CVE-2020-10660 and its like: what whoever asks may choose is never more than text.
#[test]
fn a_value_that_could_be_more_than_itself_voids_the_rule() {
    let policy = Policy::parse(r#"path "a/{{identity.entity.name}}*" { policy = "read" }"#).unwrap();
    let (template, _) = &policy.templates()[0];
    for (value, filled) in [
        ("x", true),
        ("x.y", true),
        ("a-b_c@d", true),
        ("\u{e4}", true),
        ("", false),
        (".", true),
        ("..", false),
        ("a..b", false),
        ("a/b", false),
        ("/", false),
        ("../b", false),
        ("*", false),
        ("a*", false),
        ("+", false),
        ("a+b", false),
        ("a%2fb", false),
        ("a\\b", false),
        ("a\0", false),
        ("a\n", false),
        (" a", false),
        ("a ", false),
        ("{{identity.entity.id}}", false),
        ("}}", false),
        (&"x".repeat(600), false),
    ] {
        let found = template.filled(&|_| Some(value.to_owned()));
        let expected = filled.then(|| format!("a/{value}*"));
        assert_eq!(found.map(|pattern| pattern.as_str().to_owned()), expected, "{value:?}");
    }
    // a dot segment is no way around either
    let policy = Policy::parse(r#"path "a/{{identity.entity.name}}/b" { policy = "read" }"#).unwrap();
    assert_eq!(policy.templates()[0].0.filled(&|_| Some(".".into())), None);
}

#[test]
fn a_policy_is_bounded() {
    let rules = |count: usize| r#"path "a" { capabilities = [] }"#.repeat(count);
    let padded = |bytes: usize| format!("{}{}", rules(1), " ".repeat(bytes - rules(1).len()));
    for (text, fault) in [
        (padded(POLICY_BYTES_MAX), None),
        (padded(POLICY_BYTES_MAX + 1), Some(PolicyFault::TooLong)),
        (rules(POLICY_RULES_MAX), None),
        (rules(POLICY_RULES_MAX + 1), Some(PolicyFault::TooManyRules)),
        ("[".repeat(POLICY_BYTES_MAX), Some(PolicyFault::Expected("`path`"))),
        ("{".repeat(POLICY_BYTES_MAX), Some(PolicyFault::Expected("a key in quotes"))),
    ] {
        assert_eq!(Policy::parse(&text).err().map(|error| error.fault), fault, "{} bytes", text.len());
    }
}

#[test]
fn a_fault_reads_as_a_sentence() {
    let error = Policy::parse("path \"a\" {\n  capabilities = [\"write\"]\n}").unwrap_err();
    assert_eq!(error.to_string(), "line 2: unknown capability \"write\"");
    let error = Policy::parse("path \"a/+\" {\n  capabilities = []\n  audit_ack = \"now\"\n}").unwrap_err();
    let told = "line 3: path \"a/+\": `audit_ack` is \"checkpoint\" or \"witness\", not \"now\"";
    assert_eq!(error.to_string(), told);
}

/// The words of both languages and some that are of none, in any order.
fn soup() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "path ",
        "\"path\"",
        "\"a/+/b\"",
        "\"/a*\"",
        "\"+\"",
        "\"*\"",
        "\"{{identity.entity.name}}/a*\"",
        "\"\\u0041\"",
        "capabilities",
        "\"capabilities\"",
        "audit_ack",
        "\"audit_ack\"",
        "\"witness\"",
        "policy",
        "allowed_parameters",
        "\"denied_parameters\"",
        "required_parameters",
        "min_wrapping_ttl",
        "12",
        "true",
        "=",
        ":",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"read\"",
        "\"deny\"",
        "\"",
        "\\",
        "# c\n",
        "/*",
        "*/",
        "//",
        "\n",
        "\u{e4}",
        "$",
    ]);
    let rule = Just(r#"path "a/*" { capabilities = ["read"] } "#);
    let json = Just(r#"{"path": {"a": {"capabilities": ["list"]}}}"#);
    prop::collection::vec(prop_oneof![8 => word, 1 => rule, 1 => json], 0..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_text_it_is_read_whole_or_refused_by_name(text in prop_oneof![soup(), any::<String>()]) {
        match Policy::parse(&text) {
            Err(error) => prop_assert!(error.line >= 1 && !error.to_string().is_empty()),
            // what is read stands in the text: no more rules than paths in quotes
            Ok(policy) => {
                let rules = policy.rules().len() + policy.templates().len();
                prop_assert!(rules * 2 <= text.matches('"').count());
            }
        }
    }
}
