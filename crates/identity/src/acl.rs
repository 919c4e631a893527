//! What a principal's policies say about a path, together. Pure.
//!
//! As Vault documents: a path written out decides first; else, of all patterns that match, the most specific alone decides:
//! the one whose first wildcard stands latest; then one that does not end in `*`; then fewest `+`; then the longest; then the
//! greatest by bytes. What several policies say on one pattern is united, and a `deny` among it wins. Listing `a/b` asks
//! for `a/b/`, and where that is not written out, for `a/b`.
//!
//! What a rule demands of a request beside the capability ([`Limits`](crate::policy::Limits)) binds whoever may do something on
//! its pattern, whichever policy gives it; a request that does not keep within is denied. Parameters are looked at where a
//! request reads, creates, updates or patches.
//!
//! What must vouch for the record (`audit_ack`) is the strictest of every rule whose pattern matches, whichever decides: no
//! rule, and no policy more, ever makes it less. For a list both of its paths count.

use crate::asked::Facts;
use crate::name::PolicyName;
use crate::policy::{Capabilities, Capability, Limits, Pattern, Policy, Variable};
use audit::Ack;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// What comes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided<'a> {
    pub verdict: Verdict<'a>,
    /// What the answer waits for, whatever the verdict.
    pub ack: Ack,
}

/// What the rules say. A rule is named by the policy that it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    Allow {
        rule: &'a str,
    },
    /// By a rule that denies, or that demands what the request does not ask with.
    Deny {
        rule: &'a str,
    },
    /// No rule matches, or the one that decides does not speak of the capability.
    Nothing,
}

/// Policies made ready for deciding.
#[derive(Debug, Default)]
pub struct Acl {
    root: Option<PolicyName>,
    exact: HashMap<Box<str>, Rule>,
    /// By what stands before the first wildcard; of one key the most specific first.
    wild: HashMap<Box<str>, Vec<(Shape, Rule)>>,
    /// Lengths of the keys of `wild`, longest first.
    lengths: Vec<usize>,
    /// A rule wants more than a durable record.
    strict: bool,
    /// A rule demands something of requests.
    limited: bool,
    /// It may be another one for each entity.
    templated: bool,
    /// All that it says is what another says of paths below a prefix.
    over: Option<(Box<str>, Arc<Acl>)>,
}

/// What is said on one pattern: for each capability, and for denial, the first policy that says so.
#[derive(Debug, Default)]
struct Rule {
    given: [Option<PolicyName>; Capability::ALL.len()],
    denied: Option<PolicyName>,
    ack: Ack,
    /// With the first policy that limits.
    limits: Option<Box<(PolicyName, Limits)>>,
}

/// What a pattern's rules come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub pattern: String,
    /// Without wildcards.
    pub exact: bool,
    pub given: Vec<Capability>,
    pub denied: bool,
}

impl Said {
    /// What it says of what is below `above` (`a/b/`), by the paths there.
    fn below(self, above: &str) -> Option<Self> {
        let mut rest = self.pattern.as_str();
        for segment in above.split_terminator('/') {
            let Some((first, behind)) = rest.split_once('/') else {
                rest = rest.strip_suffix('*').filter(|begins| segment.starts_with(begins)).map(|_| "*")?;
                break;
            };
            rest = Some(behind).filter(|_| first == "+" || first == segment)?;
        }
        let exact = !rest.ends_with('*') && !rest.split('/').any(|segment| segment == "+");
        (!rest.is_empty()).then(|| Self { pattern: rest.to_owned(), exact, ..self.clone() })
    }
}

/// A pattern from its first wildcard on.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    /// Segments from the one of the first wildcard on; the first one is what follows the key.
    segments: Box<[Box<str>]>,
    /// The last segment is the beginning of one, and anything may follow.
    open: bool,
    text: Box<str>,
}

impl Rule {
    fn said(&self, pattern: String, exact: bool) -> Said {
        let all = Capability::ALL.into_iter().zip(&self.given);
        let given = all.filter(|(_, policy)| policy.is_some()).map(|(capability, _)| capability).collect();
        Said { pattern, exact, given, denied: self.denied.is_some() }
    }
}

/// Patterns with wildcards, by what stands before the first one.
type Wild = HashMap<Box<str>, HashMap<Box<str>, Rule>>;

impl Acl {
    /// `policies` in the order in which their names are to be told. Templates have no values.
    pub fn compile<'p>(policies: impl IntoIterator<Item = (&'p PolicyName, &'p Policy)>) -> Self {
        Self::compile_for(policies, &|_| None)
    }

    /// With these values for templates.
    pub(crate) fn compile_for<'p>(
        policies: impl IntoIterator<Item = (&'p PolicyName, &'p Policy)>,
        value: &dyn Fn(&Variable) -> Option<String>,
    ) -> Self {
        let mut acl = Self::default();
        let mut wild: Wild = HashMap::new();
        for (name, policy) in policies {
            let filled = policy.templates().iter().map(|(template, said)| (template.filled(value), said));
            let filled: Vec<_> = filled.collect();
            acl.templated |= !filled.is_empty();
            // whom it would keep away from where, nobody can tell
            let is_void = filled.iter().any(|(pattern, said)| pattern.is_none() && said.denies());
            let plain = policy.rules().iter().map(|(pattern, said)| (pattern, said));
            let filled = filled.iter().filter_map(|(pattern, said)| Some((pattern.as_ref()?, *said)));
            for (pattern, said) in plain.chain(filled) {
                if is_void {
                    acl.add(&mut wild, name, pattern, &said.without_gifts());
                } else {
                    acl.add(&mut wild, name, pattern, said);
                }
            }
        }
        for (key, rules) in wild {
            let mut shapes: Vec<_> = rules.into_iter().map(|(text, rule)| (Shape::new(text), rule)).collect();
            shapes.sort_unstable_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
            acl.lengths.push(key.len());
            acl.wild.insert(key, shapes);
        }
        acl.lengths.sort_unstable_by_key(|length| Reverse(*length));
        acl.lengths.dedup();
        acl
    }

    fn add(&mut self, wild: &mut Wild, name: &PolicyName, pattern: &Pattern, said: &Capabilities) {
        let rule = if pattern.is_exact() {
            self.exact.entry(pattern.as_str().into()).or_default()
        } else {
            let (key, rest) = pattern.as_str().split_at(pattern.wildcard_at());
            wild.entry(key.into()).or_default().entry(rest.into()).or_default()
        };
        rule.add(name, said);
        self.strict |= said.ack() > Ack::Durable;
        self.limited |= said.limits().is_some();
    }

    /// Allows everything.
    pub fn root() -> Self {
        Self { root: Some(PolicyName::root()), ..Self::default() }
    }

    /// What `acl` says of what is below `prefix`, by the paths there.
    pub(crate) fn below(acl: &Arc<Self>, prefix: &str) -> Self {
        let (strict, limited) = (acl.strict, acl.limited);
        Self {
            root: acl.root.clone(),
            over: Some((prefix.into(), Arc::clone(acl))),
            strict,
            limited,
            ..Self::default()
        }
    }

    pub fn is_root(&self) -> bool {
        self.root.is_some()
    }

    /// All rules, one a pattern, as they add up; of root, none. Below, what they say there, by the paths there; of two that say
    /// something on one pattern there, the longer one is last.
    pub fn said(&self) -> Vec<Said> {
        if let Some((above, acl)) = &self.over {
            let mut all = acl.said();
            all.sort_by_key(|said| said.pattern.len());
            return all.into_iter().filter_map(|said| said.below(above)).collect();
        }
        let exact = self.exact.iter().map(|(path, rule)| rule.said(path.to_string(), true));
        let wild = self.wild.iter().flat_map(|(key, rules)| {
            rules.iter().map(move |(shape, rule)| rule.said(format!("{key}{}", shape.text), false))
        });
        exact.chain(wild).collect()
    }

    pub(crate) fn is_templated(&self) -> bool {
        self.templated
    }

    /// Whether it may matter what a request asks with.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Whether some rule may give something at or below `prefix`: a mount shows itself to who may see something in it.
    pub fn speaks_of(&self, prefix: &str) -> bool {
        if let Some((above, acl)) = &self.over {
            return acl.speaks_of(&format!("{above}{prefix}"));
        }
        let gives = |rule: &Rule| rule.denied.is_none() && rule.given.iter().any(Option::is_some);
        let overlaps = |key: &str| key.starts_with(prefix) || prefix.starts_with(key);
        self.is_root()
            || self.exact.iter().any(|(path, rule)| path.starts_with(prefix) && gives(rule))
            || self.wild.iter().any(|(key, rules)| overlaps(key) && rules.iter().any(|(_, rule)| gives(rule)))
    }

    fn most_specific(&self, path: &str) -> Option<&Rule> {
        self.matching(path).next()
    }

    /// The patterns with wildcards that match, the most specific first.
    fn matching(&self, path: &str) -> impl Iterator<Item = &Rule> {
        let keys = self.lengths.iter().filter_map(|length| {
            let (key, rest) = path.split_at_checked(*length)?;
            Some((self.wild.get(key)?, rest))
        });
        keys.flat_map(|(shapes, rest)| shapes.iter().filter(move |(shape, _)| shape.matches(rest)))
            .map(|(_, rule)| rule)
    }

    /// Over all rules that match.
    fn strictest(&self, path: &str) -> Ack {
        self.exact.get(path).into_iter().chain(self.matching(path)).map(|rule| rule.ack).max().unwrap_or_default()
    }
}

/// What `acl` says of `capability` on `path`, of a request whose parameters are not shown: what limits them is not met.
pub fn decide<'a>(acl: &'a Acl, path: &str, capability: Capability) -> Decided<'a> {
    decide_on(acl, path, capability, Facts::Hidden)
}

/// What `acl` says of `capability` on `path`, where this is known of the request.
pub fn decide_on<'a>(acl: &'a Acl, path: &str, capability: Capability, facts: Facts<'_>) -> Decided<'a> {
    if let Some((above, acl)) = &acl.over {
        return decide_on(acl, &format!("{above}{path}"), capability, facts);
    }
    let ack = if acl.strict { demanded(acl, path, capability) } else { Ack::Durable };
    Decided { verdict: verdict(acl, path, capability, facts), ack }
}

fn demanded(acl: &Acl, path: &str, capability: Capability) -> Ack {
    let Capability::List = capability else { return acl.strictest(path) };
    let path = path.strip_suffix('/').unwrap_or(path);
    acl.strictest(path).max(acl.strictest(&format!("{path}/")))
}

fn verdict<'a>(acl: &'a Acl, path: &str, capability: Capability, facts: Facts<'_>) -> Verdict<'a> {
    if let Some(root) = &acl.root {
        return Verdict::Allow { rule: root.as_str() };
    }
    let rule = match capability {
        Capability::List => {
            let path = path.strip_suffix('/').unwrap_or(path);
            let folder = format!("{path}/");
            let exact = acl.exact.get(folder.as_str()).or_else(|| acl.exact.get(path));
            exact.or_else(|| acl.most_specific(&folder))
        }
        Capability::Create
        | Capability::Read
        | Capability::Update
        | Capability::Patch
        | Capability::Delete
        | Capability::Sudo => acl.exact.get(path).or_else(|| acl.most_specific(path)),
    };
    rule.map_or(Verdict::Nothing, |rule| rule.verdict(capability, facts))
}

impl Rule {
    fn add(&mut self, name: &PolicyName, capabilities: &Capabilities) {
        for capability in Capability::ALL.into_iter().filter(|capability| capabilities.gives(*capability)) {
            self.given[capability as usize].get_or_insert_with(|| name.clone());
        }
        if capabilities.denies() {
            self.denied.get_or_insert_with(|| name.clone());
        }
        self.ack = self.ack.max(capabilities.ack());
        if let Some(limits) = capabilities.limits() {
            self.limits.get_or_insert_with(|| Box::new((name.clone(), Limits::default()))).1.add(limits);
        }
    }

    fn verdict(&self, capability: Capability, facts: Facts<'_>) -> Verdict<'_> {
        match (&self.denied, &self.given[capability as usize], &self.limits) {
            (Some(policy), ..) => Verdict::Deny { rule: policy.as_str() },
            (None, Some(_), Some(limits)) if !is_met(&limits.1, capability, facts) => {
                Verdict::Deny { rule: limits.0.as_str() }
            }
            (None, Some(policy), _) => Verdict::Allow { rule: policy.as_str() },
            (None, None, _) => Verdict::Nothing,
        }
    }
}

fn is_met(limits: &Limits, capability: Capability, facts: Facts<'_>) -> bool {
    let has_parameters = match capability {
        Capability::Create | Capability::Read | Capability::Update | Capability::Patch => true,
        Capability::Delete | Capability::List | Capability::Sudo => false,
    };
    match facts {
        Facts::Any => true,
        Facts::Hidden => false,
        Facts::Asked(asked) => limits.are_met(asked, has_parameters),
    }
}

impl Shape {
    fn new(text: Box<str>) -> Self {
        let body = text.strip_suffix('*').unwrap_or(&text);
        Self { segments: body.split('/').map(Into::into).collect(), open: body.len() < text.len(), text }
    }

    /// The least is the most specific.
    fn rank(&self) -> (bool, usize, Reverse<usize>, Reverse<&str>) {
        let pluses = self.segments.iter().filter(|segment| &***segment == "+").count();
        (self.open, pluses, Reverse(self.text.len()), Reverse(&self.text))
    }

    fn matches(&self, rest: &str) -> bool {
        let mut found = rest.split('/');
        for (i, segment) in self.segments.iter().enumerate() {
            let Some(here) = found.next() else { return false };
            // never a `+`: `+*` is no pattern
            if self.open && i + 1 == self.segments.len() {
                return here.starts_with(&**segment);
            }
            if &**segment != "+" && here != &**segment {
                return false;
            }
        }
        found.next().is_none()
    }
}

#[cfg(test)]
mod tests;
