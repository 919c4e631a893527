//! Rate limits: how many requests an address may send at and below a path.
//!
//! Always: of all rules that match, the one with the longest path decides alone; each address has a measure of its own, on
//! each node, in memory.
//! Always: bounded: of more addresses than are told apart, all others share one measure.
//! Never: a record of what is refused here: the log is what is spared.

use crate::call::Call;
use crate::error::VaultError;
use crate::service::Vault;
use crate::view::View;
use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::{AtLeast, Cache, Change, EntryPath, Revision};

/// Most rules.
pub(crate) const RULES_MAX: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rule {
    /// Empty: everything. `auth/approle/`: what is at it and below; `auth/app*`: what begins so.
    pub(crate) path: String,
    /// Thousandths of a request, in each interval.
    pub(crate) rate_milli: u64,
    pub(crate) interval_secs: u64,
    /// For so long nothing passes once it was too much.
    pub(crate) block_secs: u64,
}

/// By name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Rules(pub(crate) BTreeMap<String, Rule>);

/// What is known of rules, and what each address has left.
pub(crate) struct Quotas {
    /// By the tenant.
    rules: Cache<[u8; 16], Rules>,
    measures: Mutex<Measures>,
}

/// By rule and address; nothing for all addresses that are not told apart.
#[derive(Debug, Default)]
struct Measures {
    of: HashMap<(String, Option<IpAddr>), Measure>,
    /// When those that were idle were dropped last.
    swept: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Measure {
    /// Thousandths of a request, times the interval's milliseconds.
    left: u128,
    at: Timestamp,
    blocked_until: Option<Timestamp>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { rules: Cache::new(RULES_KEPT_MAX), measures: Mutex::default() }
    }
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quotas").finish_non_exhaustive()
    }
}

impl Quotas {
    pub(crate) fn apply(&self, change: &Change) {
        self.rules.apply(change);
    }

    pub(crate) fn forget(&self) {
        self.rules.forget();
    }

    pub(crate) fn current(&self, until: storage::Until) {
        self.rules.current(until);
    }

    /// Refuses what is too much: by the rules of the root, on the whole path, and by those of the namespace that is asked in.
    pub(crate) async fn admit(&self, vault: &Vault, call: &Call) -> Result<(), VaultError> {
        let path = call.path.as_str();
        if vault.namespace().is_empty() {
            return self.admit_by(vault, path, call).await;
        }
        let whole = format!("{}{path}", vault.namespace());
        self.admit_by(vault.top(), &whole, call).await?;
        self.admit_by(vault, path, call).await
    }

    async fn admit_by(&self, vault: &Vault, path: &str, call: &Call) -> Result<(), VaultError> {
        let rules = match self.rules.peek(&vault.seams.tenant) {
            Some(rules) => rules,
            None => self.read(vault).await?,
        };
        if rules.0.is_empty() || EXEMPT.contains(&path) {
            return Ok(());
        }
        let Some((name, rule)) = rules.matching(path) else { return Ok(()) };
        // no rule's name has a slash
        let name: &str = if vault.namespace().is_empty() { name } else { &format!("{}{name}", vault.namespace()) };
        let mut measures = self.measures.lock().unwrap_or_else(PoisonError::into_inner);
        if measures.take((name, rule), identity::cidr::network(&call.info.from), call.info.now) {
            Ok(())
        } else {
            Err(VaultError::Unavailable("RATE_LIMITED"))
        }
    }

    async fn read(&self, vault: &Vault) -> Result<Arc<Rules>, VaultError> {
        let (rules, _, read_at) = load(vault).await?;
        let rules = Arc::new(rules);
        self.rules.insert(vault.seams.tenant, Arc::clone(&rules), &[place(&view(vault)?)?], read_at);
        Ok(rules)
    }
}

impl Measures {
    fn take(&mut self, (name, rule): (&str, &Rule), from: Option<IpAddr>, now: Timestamp) -> bool {
        let mut key = (name.to_owned(), from);
        // who makes rules in a namespace takes no measure away from those of the root
        let most = if name.contains('/') { MEASURES_MAX / 2 } else { MEASURES_MAX };
        if !self.of.contains_key(&key) && self.of.len() >= most {
            self.sweep(now);
            if self.of.len() >= most {
                key.1 = None;
            }
        }
        self.of.entry(key).or_insert_with(|| rule.full(now)).take(rule, now)
    }

    /// All are looked at, while others wait: not for each request of a flood.
    fn sweep(&mut self, now: Timestamp) {
        if self.swept.is_some_and(|swept| now >= swept && now.since(swept) < SWEPT_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.of.retain(|_, measure| now.since(measure.at) < IDLE);
    }
}

impl Rules {
    fn matching(&self, path: &str) -> Option<(&str, &Rule)> {
        let found = self.0.iter().filter(|(_, rule)| rule.matches(path));
        found.max_by_key(|(_, rule)| rule.path.len()).map(|(name, rule)| (name.as_str(), rule))
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None if self.path.is_empty() => true,
            None => {
                let at = self.path.trim_end_matches('/');
                path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    fn interval_millis(&self) -> u128 {
        u128::from(self.interval_secs.max(1)) * 1000
    }

    fn full(&self, now: Timestamp) -> Measure {
        Measure { left: self.capacity(), at: now, blocked_until: None }
    }

    /// At least one request.
    fn capacity(&self) -> u128 {
        u128::from(self.rate_milli.max(1000)) * self.interval_millis()
    }
}

impl Measure {
    fn take(&mut self, rule: &Rule, now: Timestamp) -> bool {
        if self.blocked_until.is_some_and(|until| now < until) {
            return false;
        }
        let passed = now.since(self.at).as_millis();
        self.left = self.left.saturating_add(passed * u128::from(rule.rate_milli)).min(rule.capacity());
        self.at = now;
        match self.left.checked_sub(1000 * rule.interval_millis()) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                let block = Duration::from_secs(rule.block_secs);
                self.blocked_until = (!block.is_zero()).then(|| now.plus(block));
                false
            }
        }
    }
}

pub(crate) fn view(vault: &Vault) -> Result<View, VaultError> {
    vault.view("quotas")
}

pub(crate) fn place(view: &View) -> Result<EntryPath, VaultError> {
    view.path("rate-limits")
}

/// With the revision of their entry, if there is one, and of the read.
pub(crate) async fn load(vault: &Vault) -> Result<(Rules, Option<Revision>, Revision), VaultError> {
    let place = place(&view(vault)?)?;
    let (read_at, found) = vault.barrier().get(std::slice::from_ref(&place), AtLeast::Latest).await?;
    let Some(opened) = found.into_iter().flatten().next() else { return Ok((Rules::default(), None, read_at)) };
    let rules = serde_json::from_slice(opened.value.expose())
        .map_err(|_| VaultError::Internal("the rate limits cannot be read".into()))?;
    Ok((rules, Some(opened.revision), read_at))
}

/// What must answer a server that is flooded.
pub const EXEMPT: [&str; 3] = ["sys/health", "sys/seal-status", "sys/unseal"];
/// Tenants whose rules are kept in memory.
const RULES_KEPT_MAX: usize = 256;
const MEASURES_MAX: usize = 10_000;
/// Whoever sent nothing for so long is forgotten when there are too many.
const IDLE: Duration = Duration::from_secs(60);
const SWEPT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, rate_milli: u64, interval_secs: u64, block_secs: u64) -> Rule {
        Rule { path: path.into(), rate_milli, interval_secs, block_secs }
    }

    #[test]
    fn the_longest_path_decides() {
        let paths = ["", "auth/approle/", "auth/approle/login", "secret/data/a*", "kv"];
        let rules = paths.iter().map(|path| ((*path).to_owned(), rule(path, 1000, 1, 0))).collect();
        let rules = Rules(rules);
        for (path, name) in [
            ("sys/mounts", ""),
            ("auth/approle/role/x", "auth/approle/"),
            ("auth/approle", "auth/approle/"),
            ("auth/approle/login", "auth/approle/login"),
            ("auth/approle/login/x", "auth/approle/login"),
            ("auth/approle/logins", "auth/approle/"),
            ("auth/approles", ""),
            ("secret/data/abc/d", "secret/data/a*"),
            ("secret/data/b", ""),
            ("kv/a", "kv"),
            ("kv2", ""),
        ] {
            assert_eq!(rules.matching(path).map(|(name, _)| name), Some(name), "{path}");
        }
        assert!(Rules::default().matching("a").is_none());
    }

    #[test]
    fn a_measure_fills_again_up_to_its_rate_and_blocks_where_it_shall() {
        let at = |millis: u64| Timestamp::from_unix_millis(1_000_000 + millis);
        for (rule, asked) in [
            (
                rule("", 2000, 1, 0),
                &[
                    (0, true),
                    (0, true),
                    (0, false),
                    (499, false),
                    (998, true),
                    (9000, true),
                    (9000, true),
                    (9000, false),
                ][..],
            ),
            // one request each two seconds
            (rule("", 500, 1, 0), &[(0, true), (0, false), (1999, false), (4000, true), (4001, false)]),
            (
                rule("", 3000, 60, 0),
                &[(0, true), (0, true), (0, true), (10_000, false), (20_000, true), (20_001, false)],
            ),
            (rule("", 1000, 1, 10), &[(0, true), (1, false), (5000, false), (10_000, false), (10_001, true)]),
            // a clock that was set back
            (rule("", 1000, 1, 0), &[(5000, true), (0, false), (999, false), (1000, true)]),
        ] {
            let mut measure = rule.full(at(0));
            for (millis, passes) in asked {
                assert_eq!(measure.take(&rule, at(*millis)), *passes, "{rule:?} {millis}");
            }
        }
    }

    #[test]
    fn rules_of_namespaces_leave_measures_to_those_of_the_root() {
        let (at, rule) = (Timestamp::from_unix_millis(1_000_000), rule("", 1000, 1, 0));
        let mut measures = Measures::default();
        for (name, passed) in [("a/rule", 5001), ("rule", 4999 + 1)] {
            let asked = (0..6000_u32).map(|n| Some(IpAddr::from(n.to_be_bytes())));
            assert_eq!(asked.filter(|from| measures.take((name, &rule), *from, at)).count(), passed, "{name}");
        }
    }

    #[test]
    fn of_more_addresses_than_are_told_apart_memory_is_bounded_and_looked_through_once_a_second() {
        let at = |millis: u64| Timestamp::from_unix_millis(1_000_000 + millis);
        let rule = rule("", 1000, 1, 0);
        let mut measures = Measures::default();
        let mut next = 0;
        let mut ask = |many: u32, millis: u64| {
            let asked = (next..next + many).map(|n| Some(IpAddr::from(n.to_be_bytes())));
            next += many;
            let passed = asked.filter(|from| measures.take(("", &rule), *from, at(millis))).count();
            (passed, measures.of.len())
        };
        for (many, millis, passed, kept) in [
            (10_000, 0, 10_000, 10_000),
            // looked through now, and all were here a moment ago: who is new shares one measure
            (3, 59_500, 1, 10_001),
            // all but that one are idle by now, which nobody sees before a second is over
            (1, 60_499, 0, 10_001),
            (2, 60_500, 2, 3),
            // a clock that was set back
            (9_997, 60_500, 9_997, 10_000),
            (1, 0, 0, 10_000),
        ] {
            assert_eq!(ask(many, millis), (passed, kept), "{millis}");
        }
        // who is known asks again without anybody else being looked at
        assert!(measures.take(("", &rule), Some(IpAddr::from(10_004_u32.to_be_bytes())), at(61_500)));
        assert_eq!(measures.swept, Some(at(0)));
    }
}
