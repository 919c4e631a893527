//! The fast way and the slow way decide alike, whatever the policies and whoever asks.
//!
//! `STRONGROOM_POLICY_CASES` decisions, 200,000 if not set; `cargo xtask policies` runs ten million.

use super::*;
use crate::policy::Pattern;

/// xorshift64* (Vigna 2014): the same cases every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % n
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Up to `most` of them, joined.
    fn some(&mut self, of: &[&str], most: usize, between: &str) -> String {
        let count = self.below(most + 1);
        (0..count).map(|_| self.pick(of)).collect::<Vec<_>>().join(between)
    }

    /// Short alphabets, so that paths meet patterns.
    fn path(&mut self, segments: &[&str]) -> String {
        let count = self.below(4) + 1;
        (0..count).map(|_| self.pick(segments)).collect::<Vec<_>>().join("/")
    }

    fn pattern(&mut self) -> String {
        loop {
            let path = self.path(&["", "a", "b", "ab", "a", "b", "+"]);
            let star = self.below(2) == 0 && !path.ends_with('+');
            let pattern = if star { format!("{path}*") } else { path };
            if Pattern::parse(&pattern).is_ok() {
                return pattern;
            }
        }
    }

    fn values(&mut self) -> String {
        let mut map = std::collections::BTreeMap::new();
        for _ in 0..self.below(3) + 1 {
            let name = self.pick(&["p", "q", "r", "*"]);
            let values = if name == "*" { String::new() } else { self.some(VALUES, 3, ", ") };
            map.insert(name, values);
        }
        map.iter().map(|(name, values)| format!("\"{name}\" = [{values}] ")).collect()
    }

    fn limits(&mut self) -> String {
        let mut out = String::new();
        if self.below(3) == 0 {
            out += &format!(" required_parameters = [{}]", self.some(&["\"p\"", "\"q\"", "\"r\""], 2, ", "));
        }
        if self.below(2) == 0 {
            out += &format!(" allowed_parameters = {{ {} }}", self.values());
        }
        if self.below(3) == 0 {
            out += &format!(" denied_parameters = {{ {} }}", self.values());
        }
        if self.below(6) == 0 {
            out += self.pick(&[
                " min_wrapping_ttl = 5",
                " min_wrapping_ttl = 2 max_wrapping_ttl = \"6s\"",
                " max_wrapping_ttl = 3",
            ]);
        }
        out
    }

    fn stanza(&mut self) -> String {
        let words =
            ["\"read\"", "\"update\"", "\"list\"", "\"delete\"", "\"sudo\"", "\"update\"", "\"read\"", "\"deny\""];
        let said = self.some(&words, 4, ", ");
        let ack = self.pick(&["", "", "", "audit_ack = \"checkpoint\"", "audit_ack = \"witness\""]);
        let limits = if self.below(2) == 0 { self.limits() } else { String::new() };
        format!("path \"{}\" {{ capabilities = [{said}] {ack} {limits} }}\n", self.pattern())
    }

    fn policies(&mut self) -> Vec<(PolicyName, Policy)> {
        let count = self.below(3) + 1;
        let texts: Vec<String> = (0..count).map(|_| (0..self.below(8)).map(|_| self.stanza()).collect()).collect();
        let named = texts.iter().enumerate();
        named.map(|(i, text)| (PolicyName::parse(&format!("p{i}")).unwrap(), Policy::parse(text).unwrap())).collect()
    }

    fn given(&mut self) -> Given {
        match self.below(8) {
            0 => Given::Other,
            1 | 2 => {
                let texts: Vec<&str> = (0..self.below(3)).map(|_| self.pick(GIVEN)).collect();
                Given::Many(texts.iter().map(|text| envelope::SecretBytes::copy_from(text.as_bytes())).collect())
            }
            _ => Given::text(self.pick(GIVEN)),
        }
    }

    fn asked(&mut self) -> Asked {
        let wrap = self.below(8);
        let mut asked = Asked::new((wrap > 1).then(|| Duration::from_secs(wrap as u64)));
        for _ in 0..self.below(4) {
            let name = self.pick(&["p", "q", "r", "P"]);
            let given = self.given();
            asked.add(name, given);
        }
        asked
    }
}

/// How often each way was taken, so that none is left out.
fn run(seed: u64, cases: usize) -> [usize; 3] {
    let mut random = Random(seed);
    let (mut done, mut seen) = (0, [0; 3]);
    while done < cases {
        let all = random.policies();
        let acl = compiled(&all);
        for _ in 0..64 {
            let path = random.path(&["", "a", "b", "ab"]);
            let capability = Capability::ALL[random.below(Capability::ALL.len())];
            let asked = random.asked();
            let facts = match random.below(8) {
                0 => Facts::Any,
                1 => Facts::Hidden,
                _ => Facts::Asked(&asked),
            };
            let decided = decide_on(&acl, &path, capability, facts);
            let shown = shown(decided);
            let told = || format!("case {done}: {path} {capability:?} {facts:?}\n{all:#?}");
            assert_eq!(shown, decide_slowly(&all, &path, capability, facts), "{}", told());
            assert_eq!(decided.ack, demand_slowly(&all, &path, capability), "{}", told());
            seen["ad-".find(shown.0).unwrap()] += 1;
            done += 1;
        }
    }
    seen
}

#[test]
fn the_fast_way_and_the_slow_way_decide_alike() {
    let cases = std::env::var_os("STRONGROOM_POLICY_CASES").map_or(200_000, |cases| {
        cases.to_str().and_then(|cases| cases.parse().ok()).expect("STRONGROOM_POLICY_CASES is a number")
    });
    let seen = run(0x5eed, cases);
    assert!(seen.iter().all(|count| *count > cases / 50), "{seen:?}");
}

/// Whatever a value is, the rule reaches below it and nowhere else.
#[test]
fn no_value_makes_a_rule_reach_further() {
    let mut random = Random(0x7e39_1a7e);
    let template = policies(&[("t", r#"path "s/{{identity.entity.name}}/*" { policy = "read" }"#)]);
    let letters = ["a", "b", "/", ".", "..", "*", "+", "\0", "%2f", " ", "{{", "}}", "\\", "\u{e4}"];
    let mut reached = 0;
    for _ in 0..20_000 {
        let value = random.some(&letters, 3, "");
        let acl = Acl::compile_for(template.iter().map(|(name, policy)| (name, policy)), &|_| Some(value.clone()));
        let below = if random.below(2) == 0 { value.clone() } else { random.some(&letters, 3, "") };
        let path = format!("s/{below}/{}", random.some(&letters, 2, ""));
        if matches!(decide(&acl, &path, Capability::Read).verdict, Verdict::Allow { .. }) {
            let segment = path.split('/').nth(1);
            assert_eq!(segment, Some(&*value), "{value:?} reaches {path:?}");
            reached += 1;
        }
    }
    assert!(reached > 100, "{reached}");
}

const VALUES: &[&str] = &["\"x\"", "\"y\"", "\"x*\"", "\"*y\"", "\"*z*\"", "1", "true", "\"0\"", "\"\"", "\"*\""];
const GIVEN: &[&str] = &["x", "y", "xy", "zy", "azb", "1", "01", "t", "false", "", "y,x", "q, y", "w"];
